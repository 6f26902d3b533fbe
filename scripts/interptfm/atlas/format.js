"use strict";
{
  const MISSING = "–";
  const WHOLE = new Intl.NumberFormat("en-GB");

  // Three significant digits; p and q below 0.001 in scientific notation.
  Atlas.number = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return MISSING;
    if (Number.isInteger(value)) return WHOLE.format(value).replaceAll(",", "\u202f").replace("-", "\u2212");
    const size = Math.abs(value);
    let text = size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 0.001 ? value.toPrecision(3) : value.toExponential(1);
    if (size < 1 && size >= 0.001) text = value.toFixed(size < 0.01 ? 4 : 3);
    return text.replaceAll("-", "\u2212");
  };

  Atlas.percent = (value) => {
    if (value === null || value === undefined) return MISSING;
    const share = 100 * value;
    return share === 0 ? "0 %" : share < 0.01 ? "< 0.01 %" : `${share < 1 ? share.toFixed(2) : share.toFixed(1)} %`;
  };

  Atlas.interval = (low, high) => (low === null || high === null ? "" : ` [${Atlas.number(low)}, ${Atlas.number(high)}]`);

  // An element with attributes and children; text is only ever set as text.
  Atlas.el = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === false || value === null || value === undefined) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
  };

  const SVG = "http://www.w3.org/2000/svg";
  Atlas.svg = (name, attributes = {}, ...children) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children.flat(Infinity));
    return node;
  };

  const field = (value) => (value === null || value === undefined ? "" : String(value).replace(/[\t\r\n]+/g, " "));

  Atlas.tsv = (header, rows) => [header, ...rows].map((row) => row.map(field).join("\t")).join("\n") + "\n";

  Atlas.download = (name, text) => {
    const url = URL.createObjectURL(new Blob([text], {type: "text/tab-separated-values"}));
    const link = Atlas.el("a", {href: url, download: name.replace(/[^A-Za-z0-9._-]+/g, "_")});
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };

  Atlas.termName = (index) => {
    const [id, name] = Atlas.meta.terms[index];
    return name || id;
  };

  const several = new Set(Atlas.meta.spaces.map((space) => space.dictionary)).size > 1;
  Atlas.severalDictionaries = several;
  Atlas.spaceName = (index) => {
    const space = Atlas.meta.spaces[index];
    return several ? `${space.dictionary}, layer ${space.layer}` : `layer ${space.layer}`;
  };

  Atlas.address = (space, feature) => {
    const {dictionary, layer} = Atlas.meta.spaces[space];
    return `#/${encodeURIComponent(dictionary)}/${layer}/${feature}`;
  };
}
