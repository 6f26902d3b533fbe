"use strict";
// Histogram, profile and tissue map; colours of the map are those of viridis, from light to dark.
{
  const {svg, el, number} = Atlas;
  const RAMP = ["#dde318", "#b5de2b", "#8ed645", "#6ccd5a", "#4ac16d", "#31b57b", "#22a785", "#1f988b", "#23898e", "#297a8e", "#306a8e", "#39588c", "#424587", "#472d7b", "#440154"];
  const NONE = "#d5dbe1";
  Atlas.ramp = RAMP;

  Atlas.histogram = (counts, largest, label) => {
    const [width, height, left, bottom, top] = [560, 190, 52, 34, 10];
    const most = Math.max(1, ...counts);
    const decades = Math.max(1, Math.ceil(Math.log10(most)));
    const y = (count) => height - bottom - ((height - bottom - top) * Math.log10(1 + count)) / Math.log10(1 + 10 ** decades);
    const step = (width - left - 8) / counts.length;
    const bars = counts.map((count, i) => svg("rect", {x: left + i * step + 0.5, y: y(count), width: step - 1, height: height - bottom - y(count), fill: "#0072b2"},
      svg("title", {}, `${number((i * largest) / counts.length)} to ${number(((i + 1) * largest) / counts.length)}: ${number(count)} tokens`)));
    const ticks = Array.from({length: decades + 1}, (_, i) => 10 ** i).map((count) => [
      svg("line", {x1: left, x2: width - 8, y1: y(count), y2: y(count), class: "grid"}),
      svg("text", {x: left - 6, y: y(count) + 4, "text-anchor": "end"}, number(count))]);
    const below = [0, 0.25, 0.5, 0.75, 1].map((share) => svg("text", {x: left + share * (width - left - 8), y: height - bottom + 15, "text-anchor": share === 1 ? "end" : "middle"}, number(share * largest)));
    return svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label}, ticks, bars, below,
      svg("text", {x: (left + width) / 2, y: height - 4, "text-anchor": "middle"}, "activation of a token"));
  };

  // Horizontal bars with intervals; rows: {name, mean, lo, hi, share, cells, blocks}.
  Atlas.bars = (rows, label) => {
    const [width, left, right, line] = [560, 170, 96, 24];
    const height = rows.length * line + 26;
    const most = Math.max(1e-12, ...rows.map((row) => row.hi ?? row.mean ?? 0));
    const x = (value) => left + ((width - left - right) * value) / most;
    const parts = rows.map((row, i) => {
      const middle = i * line + line / 2;
      const name = row.name.length > 24 ? `${row.name.slice(0, 23)}…` : row.name;
      const found = [svg("text", {x: left - 8, y: middle + 4, "text-anchor": "end"}, name, svg("title", {}, row.name))];
      if (row.mean === null) return [...found, svg("text", {x: left + 4, y: middle + 4}, "no cells")];
      found.push(svg("rect", {x: left, y: middle - 7, width: Math.max(0.5, x(row.mean) - left), height: 14, fill: "#56b4e9"},
        svg("title", {}, `${row.name}: ${number(row.mean)}${Atlas.interval(row.lo, row.hi)}, active in ${Atlas.percent(row.share)} of ${number(row.cells)} cells in ${number(row.blocks)} blocks`)));
      if (row.lo !== null) found.push(svg("path", {d: `M${x(row.lo)} ${middle}H${x(row.hi)}M${x(row.lo)} ${middle - 4}v8M${x(row.hi)} ${middle - 4}v8`, class: "whisker"}));
      found.push(svg("text", {x: width - 4, y: middle + 4, "text-anchor": "end"}, `${Atlas.percent(row.share)}`));
      return found;
    });
    const axis = [0, most].map((value, i) => svg("text", {x: x(value), y: height - 8, "text-anchor": i ? "end" : "start"}, number(value)));
    return svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label}, parts, axis, svg("text", {x: width - 4, y: height - 8, "text-anchor": "end"}, "active"));
  };

  // Level on the scale of all sections; levels of a file are relative to its own section's largest value.
  Atlas.commonLevel = (level, scale, largest) => (level && largest ? Math.max(1, Math.ceil(level * Math.sqrt(scale / largest) - 1e-6)) : 0);
  Atlas.bounds = (level, scale) => [((level - 1) / Atlas.meta.levels) ** 2 * scale, (level / Atlas.meta.levels) ** 2 * scale];

  // Draw a section into a canvas and return a function that finds the spot at a place of it.
  Atlas.drawMap = (canvas, layout, side, levels, scale, largest) => {
    const n = layout.x.length;
    const widest = layout.x.reduce((a, b) => Math.max(a, b), 1);
    const highest = layout.y.reduce((a, b) => Math.max(a, b), 1);
    const room = Math.min(760, canvas.parentElement.clientWidth || 760);
    const margin = 8;
    const factor = Math.min((room - 2 * margin) / widest, (640 - 2 * margin) / highest);
    const [width, height] = [Math.ceil(widest * factor + 2 * margin), Math.ceil(highest * factor + 2 * margin)];
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const size = side ? Math.max(1, (side / layout.step) * factor) : Math.max(2, Math.min(7, 0.8 * Math.sqrt((width * height) / n)));
    const at = (i) => [margin + layout.x[i] * factor, height - margin - layout.y[i] * factor];
    const colour = Array.from(levels, (level) => Atlas.commonLevel(level, scale, largest));
    // The strongest last, so that nothing hides them.
    const order = Uint32Array.from(colour.keys()).sort((a, b) => colour[a] - colour[b]);
    for (const i of order) {
      const [x, y] = at(i);
      context.fillStyle = colour[i] ? RAMP[colour[i] - 1] : NONE;
      if (side) context.fillRect(x - size / 2, y - size / 2, size, size);
      else {
        context.beginPath();
        context.arc(x, y, (colour[i] ? size : 0.7 * size) / 2, 0, 2 * Math.PI);
        context.fill();
      }
    }
    return (px, py) => {
      let best = -1;
      let least = 144;
      for (let i = 0; i < n; i++) {
        const [x, y] = at(i);
        const distance = (x - px) ** 2 + (y - py) ** 2;
        if (distance < least) [best, least] = [i, distance];
      }
      return best;
    };
  };

  Atlas.legend = (largest) => {
    const boxes = RAMP.map((colour, i) => svg("rect", {x: 44 + i * 18, y: 4, width: 18, height: 12, fill: colour}));
    const ticks = [0, 5, 10, 15].map((level) => svg("text", {x: 44 + level * 18, y: 32, "text-anchor": "middle"}, number((level / RAMP.length) ** 2 * largest)));
    return svg("svg", {viewBox: "-8 0 350 38", class: "legend", role: "img", "aria-label": `Colour scale from 0 to ${number(largest)}, light to dark; grey is none`},
      svg("circle", {cx: 12, cy: 10, r: 6, fill: NONE}), svg("text", {x: 12, y: 32, "text-anchor": "middle"}, "none"), boxes, ticks);
  };
}
