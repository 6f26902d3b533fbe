"use strict";
// The page of one feature.
{
  const {meta, el, number, percent, interval} = Atlas;
  const node = document.getElementById("feature");
  const TITLE = document.title;
  let opened = 0;

  const named = (kind, values) => Object.fromEntries(meta.columns[kind].map((name, i) => [name, values[i]]));

  const style = (head) => (head.number || head.right ? "number" : head.wide ? "wide" : "");

  function dataTable(caption, heads, rows, file) {
    const scroll = el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": caption},
      el("table", {class: "data"},
        el("caption", {}, caption),
        el("thead", {}, el("tr", {}, heads.map((head) => el("th", {scope: "col", class: style(head), title: head.help}, head.label)))),
        el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, i) => el("td", {class: style(heads[i])}, cell instanceof Node ? cell : heads[i].number ? number(cell) : String(cell))))))));
    return [scroll, file ? button(file.label, file.name, file.text) : null];
  }

  const button = (label, name, text) => el("button", {type: "button", class: "download", onclick: () => Atlas.download(name, text())}, label);

  const panel = (title, ...children) => el("section", {class: "panel"}, el("h3", {}, title), ...children);

  const fact = (label, value, note) => el("div", {}, el("dt", {}, label), el("dd", {}, value), note ? el("dd", {class: "note"}, note) : null);

  function facts(space, feature, data) {
    const row = Atlas.rowOf(space, feature);
    const score = named("score", data.score);
    const found = [
      fact("Firing rate", percent(Atlas.columns.rate[row]), `of ${number(meta.spaces[space].tokens)} tokens`),
      fact("Largest activation", number(Atlas.columns.max[row]), "on training tokens"),
    ];
    if (data.term >= 0) {
      found.push(fact("F1, best term", `${number(score.f1)}${interval(score.lo, score.hi)}`, Atlas.termName(data.term)));
      found.push(fact("Null and baseline", number(score.null_mean), `mean F1 of permuted terms; best single gene ${number(score.f1_single_gene)}`));
      found.push(fact("Lift", number(score.lift), `q ${number(score.q)}, least p possible ${number(score.p_min)}`));
    }
    if (data.tis) {
      const tis = named("tis", data.tis);
      const reason = data.tis[meta.columns.tis.length];
      found.push(tis.tis_hard === null
        ? fact("TIS", "–", reason || "not scored")
        : fact("TIS", `${number(tis.tis_hard)}${interval(tis.lo, tis.hi)}`, `q ${number(tis.q)}; 0.5 is chance; ${number(tis.tis_matched)} with cells matched by type and depth`));
    }
    return el("dl", {class: "facts"}, found);
  }

  function tokens(data, name) {
    const rows = data.tokens.map(([section, cell, gene, value, activation], i) => [i + 1, meta.sections[section].name, cell, meta.genes[gene], value, activation]);
    const heads = [{label: "Rank", number: true}, {label: "Section"}, {label: "Cell"}, {label: "Gene"}, {label: "Value", number: true, help: "Expression input of the token"}, {label: "Activation", number: true}];
    return panel("Top tokens", ...dataTable("The tokens with the largest activations, guard cells left out.", heads, rows,
      {label: "Top tokens as TSV", name: `${name}_top_tokens.tsv`, text: () => Atlas.tsv(["rank", "section", "cell", "gene", "value", "activation"], rows)}));
  }

  function pairs(data, name) {
    const columns = meta.columns.pairs;
    const rows = data.pairs.map(([term, passes, ...scores]) => ({term, passes, ...Object.fromEntries(columns.map((column, i) => [column, scores[i]]))}));
    const heads = [{label: "Term", wide: true}, {label: "Id"}, {label: "Genes", number: true}, {label: "Interpretable"}, {label: "F1", number: true}, {label: "95 %", right: true}, {label: "Null", number: true, help: "Mean F1 of permuted terms"},
      {label: "Single gene", number: true, help: "F1 of the best single gene"}, {label: "Lift", number: true}, {label: "q", number: true}, {label: "Precision", number: true}, {label: "Recall", number: true}];
    const cells = rows.map((row) => [Atlas.termName(row.term), meta.terms[row.term][0], meta.terms[row.term][2], row.passes ? "✓ yes" : "no", row.f1, interval(row.lo, row.hi).trim(), row.null_mean, row.f1_single_gene, row.lift, row.q, row.precision, row.recall]);
    const text = () => Atlas.tsv(["term_id", "name", "n_genes", "interpretable", ...columns], rows.map((row) => [meta.terms[row.term][0], meta.terms[row.term][1], meta.terms[row.term][2], row.passes ? "yes" : "no", ...columns.map((column) => row[column])]));
    if (!rows.length) return panel("Concept pairs", el("p", {}, "No term was scored with this feature."));
    const part = panel("Concept pairs", ...dataTable("Terms that this feature is paired with; chosen on validation cells, scored on test cells. Interpretable: the feature is its term's best and the pair passes the run's thresholds.", heads, cells,
      {label: "Pairs as TSV", name: `${name}_pairs.tsv`, text}));
    part.classList.add("whole");
    return part;
  }

  function genes(data, name) {
    const rows = data.genes.map(([gene, mean, share]) => [meta.genes[gene], mean, percent(share)]);
    return panel("Top genes", ...dataTable("Genes of at least 10 tokens with the largest mean activation, in shares of the feature's maximum, and their share of its summed activation.",
      [{label: "Gene"}, {label: "Mean", number: true}, {label: "Share", right: true}], rows,
      {label: "Genes as TSV", name: `${name}_genes.tsv`, text: () => Atlas.tsv(["gene", "mean", "share"], data.genes.map(([gene, ...rest]) => [meta.genes[gene], ...rest]))}));
  }

  function histogram(space, feature, data, name) {
    const largest = Atlas.columns.max[Atlas.rowOf(space, feature)];
    const sum = data.hist.reduce((a, b) => a + b, 0);
    const rest = meta.spaces[space].tokens - sum;
    if (!sum) return panel("Activation histogram", el("p", {}, "This feature never fires on a scored token."));
    const label = `Histogram of ${number(sum)} positive activations from 0 to ${number(largest)}, counts on a logarithmic scale`;
    const edges = (i) => [(i * largest) / meta.bins, ((i + 1) * largest) / meta.bins];
    return panel("Activation histogram", el("figure", {}, Atlas.histogram(data.hist, largest, label),
      el("figcaption", {}, `Tokens by activation, counts on a logarithmic scale; ${number(rest)} tokens with none are not drawn. The last bar also holds tokens above the training maximum.`)),
      button("Histogram as TSV", `${name}_histogram.tsv`, () => Atlas.tsv(["from", "to", "tokens"], data.hist.map((count, i) => [...edges(i).map((edge) => edge.toPrecision(5)), count]))));
  }

  const groupRows = (data, wanted) => meta.groups.map(([kind, group, cells, blocks], i) => {
    const [mean, lo, hi, share] = data.groups[i];
    return {kind, name: group, cells, blocks, mean, lo, hi, share};
  }).filter((row) => wanted === undefined || row.kind === wanted);

  function profiles(data, name) {
    const kinds = [...new Set(meta.groups.map(([kind]) => kind))];
    const figures = kinds.map((kind) => {
      const rows = groupRows(data, kind);
      const label = `Mean activity by ${kind}: ${rows.map((row) => `${row.name} ${number(row.mean)}`).join(", ")}`;
      return el("figure", {}, el("h4", {}, `By ${kind}`), Atlas.bars(rows, label));
    });
    const columns = ["kind", "name", "cells", "blocks", "mean", "lo", "hi", "share"];
    return panel("Cell types and regions", el("div", {class: "columns"}, figures),
      el("p", {class: "caption"}, `Mean activity of a cell's tokens, in shares of the feature's maximum, over all sections; whiskers are 95 % intervals of ${meta.bootstrap} draws of whole blocks. Right: cells with any activity.`),
      button("Profiles as TSV", `${name}_profiles.tsv`, () => Atlas.tsv(columns, groupRows(data).map((row) => columns.map((column) => row[column])))));
  }

  function neighbours(space, data, name) {
    const row = (feature) => Atlas.rowOf(space, feature);
    const best = (feature) => Atlas.termsOf(row(feature));
    const rows = data.near.map(([feature, cosine]) => [el("a", {href: Atlas.address(space, feature)}, `L${meta.spaces[space].layer} · ${feature}`), cosine, percent(Atlas.columns.rate[row(feature)]), best(feature)]);
    return panel("Nearest features", ...dataTable("Features of the same dictionary with the largest cosine between decoder directions; silent ones left out.",
      [{label: "Feature"}, {label: "Cosine", number: true}, {label: "Firing", right: true}, {label: "Best term", wide: true}], rows,
      {label: "Neighbours as TSV", name: `${name}_neighbours.tsv`, text: () => Atlas.tsv(["feature", "cosine", "best_term"], data.near.map(([feature, cosine]) => [feature, cosine, best(feature)]))}));
  }

  function steering(space, data, name) {
    if (!meta.spaces[space].clamped) return panel("Steering", el("p", {}, "No feature of this dictionary and layer was clamped in this run."));
    if (!data.steering.length) return panel("Steering", el("p", {}, "Not computed: steering clamps the best feature of each perturbed gene's terms, and this one is none of them."));
    const columns = meta.columns.steering;
    const heads = [{label: "Perturbed gene"}, ...["Dose", "Cosine", "from", "to", "Called perturbed", "Unsteered", "Off target", "Cells"].map((label) => ({label, number: true}))];
    return panel("Steering", ...dataTable("The feature clamped at all tokens of control cells, against cells in which the gene was really perturbed. Cosine with the real shift, its 95 % interval; called perturbed: share of steered cells that a classifier takes for perturbed ones, beside that of unsteered cells.", heads, data.steering,
      {label: "Steering as TSV", name: `${name}_steering.tsv`, text: () => Atlas.tsv(["target", ...columns], data.steering)}));
  }

  function tissue(space, feature, data, name) {
    const canvas = el("canvas", {role: "img", tabindex: "0"});
    const tip = el("p", {class: "tip", role: "status", "aria-live": "polite"});
    const legend = el("div", {});
    const choice = el("select", {id: "section"}, meta.sections.map((section, i) => el("option", {value: i}, section.name)));
    const largest = Math.max(0, ...data.scale.map((scale) => scale ?? 0));
    let shown = null;
    let turn = 0;

    function describe(i) {
      if (!shown || i < 0) return "";
      const {layout, levels, section} = shown;
      const level = levels[i];
      const activity = level ? `activity ${Atlas.bounds(level, data.scale[section]).map(number).join(" to ")}` : "no activity";
      if (layout.n) return `Square with ${number(layout.n[i])} cells: ${activity}`;
      return `Cell: ${activity}; ${layout.g.map((column) => meta.groups[column[i]]).filter(Boolean).map(([kind, group]) => `${kind} ${group}`).join(", ")}`;
    }

    async function show() {
      const mine = ++turn;
      const section = Number(choice.value);
      const chunk = Math.floor(feature / meta.chunk);
      const [layout, bytes] = await Promise.all([Atlas.json(`section_${section}`), Atlas.bytes(`space_${space}/map_${section}_${chunk}`)]);
      if (mine !== turn) return;
      const {spots, side, cells} = meta.sections[section];
      const start = (feature % meta.chunk) * spots;
      const levels = bytes.subarray(start, start + spots);
      const find = Atlas.drawMap(canvas, layout, side, levels, data.scale[section], largest);
      shown = {layout, levels, section, find};
      const active = levels.reduce((sum, level) => sum + (level > 0), 0);
      const what = side ? `squares of ${number(side)} µm (${number(cells)} cells)` : "cells";
      const sentence = `${meta.sections[section].name}: activity in ${number(active)} of ${number(spots)} ${what}, largest ${number(data.scale[section])}.`;
      canvas.setAttribute("aria-label", `Tissue map of feature ${feature}. ${sentence}`);
      canvas.dataset.section = section;
      tip.textContent = sentence;
      legend.replaceChildren(Atlas.legend(largest));
    }

    const point = (event) => {
      if (!shown) return;
      const box = canvas.getBoundingClientRect();
      const found = describe(shown.find(event.clientX - box.left, event.clientY - box.top));
      if (found) tip.textContent = found;
    };
    canvas.addEventListener("pointermove", point);
    choice.addEventListener("change", () => show().catch(Atlas.fail));

    const text = () => {
      const {layout, levels, section} = shown;
      const place = (axis, k) => Array.from(axis, (value) => (layout.origin[k] + value * layout.step).toFixed(2));
      const [x, y] = [place(layout.x, 0), place(layout.y, 1)];
      return Atlas.tsv(["section", "x_um", "y_um", "cells", "activity_above", "activity_at_most"], x.map((_, i) =>
        [meta.sections[section].name, x[i], y[i], layout.n ? layout.n[i] : 1, ...(levels[i] ? Atlas.bounds(levels[i], data.scale[section]).map((bound) => bound.toPrecision(4)) : [0, 0])]));
    };
    const part = panel("Tissue map", el("p", {}, el("label", {for: "section"}, "Section "), choice), el("div", {class: "map"}, canvas), legend, tip,
      el("p", {class: "caption"}, `Mean activity of each cell's tokens, in shares of the feature's maximum; one colour scale for all sections, in ${meta.levels} steps of its square root.`),
      button("Map as TSV", `${name}_map.tsv`, text));
    return {part, show};
  }

  // Everything but the map, one row a number.
  function everything(space, feature, data) {
    const rows = [];
    const put = (table, row, field, value) => rows.push([table, row, field, value]);
    const all = (table, row, names, values) => names.forEach((field, i) => put(table, row, field, values[i]));
    const index = Atlas.rowOf(space, feature);
    all("feature", feature, ["dictionary", "layer", "firing_rate", "maximum"], [meta.spaces[space].dictionary, meta.spaces[space].layer, Atlas.columns.rate[index], Atlas.columns.max[index]]);
    if (data.term >= 0) put("best_pair", feature, "term_id", meta.terms[data.term][0]);
    all("best_pair", feature, meta.columns.score, data.score);
    if (data.tis) all("tis", feature, [...meta.columns.tis, "reason"], data.tis);
    data.hist.forEach((count, i) => put("histogram", i, "tokens", count));
    data.tokens.forEach(([section, cell, gene, value, activation], i) => all("top_tokens", i + 1, ["section", "cell", "gene", "value", "activation"], [meta.sections[section].name, cell, meta.genes[gene], value, activation]));
    data.pairs.forEach(([term, passes, ...scores]) => all("pairs", meta.terms[term][0], ["name", "interpretable", ...meta.columns.pairs], [meta.terms[term][1], passes, ...scores]));
    data.genes.forEach(([gene, mean, share]) => all("genes", meta.genes[gene], ["mean", "share"], [mean, share]));
    groupRows(data).forEach((row) => all(row.kind, row.name, ["mean", "lo", "hi", "share"], [row.mean, row.lo, row.hi, row.share]));
    data.near.forEach(([other, cosine]) => put("neighbours", other, "cosine", cosine));
    data.steering.forEach(([target, ...values], i) => all("steering", i + 1, ["target", ...meta.columns.steering], [target, ...values]));
    return Atlas.tsv(["table", "row", "field", "value"], rows);
  }

  Atlas.openFeature = async (space, feature) => {
    const mine = ++opened;
    const chunk = Math.floor(feature / meta.chunk);
    const data = (await Atlas.json(`space_${space}/features_${chunk}`))[feature % meta.chunk];
    if (mine !== opened) return;
    const name = `${meta.spaces[space].dictionary}_layer_${meta.spaces[space].layer}_feature_${feature}`;
    const map = tissue(space, feature, data, name);
    const title = `Feature ${feature}, ${Atlas.spaceName(space)}`;
    const steps = [[-1, "← Previous"], [1, "Next →"]].map(([step, label]) => {
      const other = feature + step;
      return other >= 0 && other < meta.spaces[space].features ? el("a", {href: Atlas.address(space, other)}, label) : null;
    });
    node.replaceChildren(
      el("nav", {class: "steps", "aria-label": "Features"}, el("a", {href: "#/"}, "All features"), ...steps),
      el("h2", {id: "feature-title", tabindex: "-1"}, title),
      facts(space, feature, data),
      button("All of this feature as TSV", `${name}.tsv`, () => everything(space, feature, data)),
      el("div", {class: "panels"},
        map.part, histogram(space, feature, data, name), profiles(data, name), pairs(data, name), tokens(data, name), genes(data, name), neighbours(space, data, name), steering(space, data, name)));
    document.title = `${title} · ${TITLE}`;
    node.hidden = false;
    await map.show();
    document.getElementById("feature-title").focus({preventScroll: true});
  };

  Atlas.closeFeature = () => {
    opened += 1;
    node.hidden = true;
    node.replaceChildren();
    document.title = TITLE;
  };
}
