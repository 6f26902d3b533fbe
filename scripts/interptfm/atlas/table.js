"use strict";
// All features as columns; the rows in view are the only ones in the document.
{
  const ROW = 34;
  const SPARE = 6;
  const KEPT = 32;
  const {meta, el} = Atlas;
  const total = meta.spaces.reduce((sum, space) => sum + space.features, 0);
  const starts = [];
  meta.spaces.reduce((sum, space) => (starts.push(sum), sum + space.features), 0);
  const numeric = (Kind = Float64Array) => new Kind(total);
  const columns = {space: numeric(Uint16Array), feature: numeric(Uint32Array)};
  const MEASURES = ["rate", "max", "f1", "lift", "q", "tis", "passed", "type"];
  for (const name of MEASURES) columns[name] = numeric().fill(NaN);
  const terms = new Array(total).fill([]);
  const genes = new Array(total).fill([]);
  const names = [];
  const masks = new Map();
  const ready = numeric(Uint8Array);
  Atlas.columns = columns;

  const termText = meta.terms.map(([id, name]) => `${id} ${name}`.toLowerCase());
  const geneText = meta.genes.map((name) => name.toLowerCase());
  const groupText = meta.groups.map(([, name]) => name.toLowerCase());

  // Sort keys of words are ranks, so that sorting compares numbers only.
  const ranks = (names) => {
    const order = names.map((_, i) => i).sort((a, b) => (names[a] < names[b] ? -1 : names[a] > names[b] ? 1 : 0));
    const rank = new Float64Array(names.length);
    order.forEach((name, place) => (rank[name] = place));
    return rank;
  };
  const termRank = ranks(meta.terms.map(([id, name]) => (name || id).toLowerCase()));
  const geneRank = ranks(geneText);
  const groupRank = ranks(groupText);

  const first = (list, rank) => (row) => (list[row].length ? rank[list[row][0]] : NaN);
  const plain = (name) => (row) => columns[name][row];
  const HEADS = [
    {key: "feature", label: "Feature", width: "7.5rem", value: plain("feature"), cell: (row) => `L${meta.spaces[columns.space[row]].layer} · ${columns.feature[row]}`},
    ...(Atlas.severalDictionaries ? [{key: "dictionary", label: "Dictionary", width: "8rem", value: plain("space"), cell: (row) => meta.spaces[columns.space[row]].dictionary}] : []),
    {key: "layer", label: "Layer", width: "4.5rem", number: true, value: (row) => meta.spaces[columns.space[row]].layer, cell: (row) => String(meta.spaces[columns.space[row]].layer)},
    {key: "rate", label: "Firing", width: "5.5rem", number: true, falls: true, value: plain("rate"), cell: (row) => Atlas.percent(columns.rate[row])},
    {key: "f1", label: "F1", width: "4.5rem", number: true, falls: true, value: plain("f1"), cell: (row) => Atlas.number(columns.f1[row])},
    {key: "lift", label: "Lift", width: "5rem", number: true, falls: true, value: plain("lift"), cell: (row) => Atlas.number(columns.lift[row])},
    {key: "q", label: "q", width: "5.2rem", number: true, value: plain("q"), cell: (row) => Atlas.number(columns.q[row])},
    {key: "tis", label: "TIS", width: "4.5rem", number: true, falls: true, value: plain("tis"), cell: (row) => Atlas.number(columns.tis[row])},
    {key: "terms", label: "Terms", width: "auto", value: first(terms, termRank), cell: (row) => describeTerms(row)},
    {key: "genes", label: "Genes", width: "14rem", value: first(genes, geneRank), cell: (row) => genes[row].map((gene) => meta.genes[gene]).join(", ")},
    {key: "type", label: "Cell type", width: "9rem", value: (row) => (columns.type[row] >= 0 ? groupRank[columns.type[row]] : NaN), cell: (row) => typeName(row)},
  ];

  function typeName(row) {
    const type = columns.type[row];
    return type >= 0 ? meta.groups[type][1] : "–";
  }

  function describeTerms(row) {
    const found = terms[row];
    if (!found.length) return "–";
    const passed = columns.passed[row];
    return `${passed > 0 ? "✓ " : ""}${Atlas.termName(found[0])}${passed > 1 ? ` +${passed - 1}` : ""}`;
  }

  const state = {sort: "f1", falling: true, sorted: new Uint32Array(0), shown: new Uint32Array(0), active: 0, arrived: 0, due: 0};
  const filters = {words: [], space: "", minF1: NaN, maxQ: NaN, passed: false, silent: true};
  const nodes = Object.fromEntries(["rows", "table", "body", "heads", "cols", "status"].map((id) => [id, document.getElementById(id)]));
  const above = el("tr", {"aria-hidden": "true", class: "spacer"}, el("td", {colspan: HEADS.length}));
  const below = el("tr", {"aria-hidden": "true", class: "spacer"}, el("td", {colspan: HEADS.length}));
  // Rows that were made, and those of them that stand in the document.
  const pool = [];
  let drawn = [];

  function take(space, data) {
    const start = starts[space];
    for (let i = 0; i < meta.spaces[space].features; i++) {
      const row = start + i;
      columns.space[row] = space;
      columns.feature[row] = i;
      for (const name of MEASURES) columns[name][row] = data[name][i] ?? NaN;
      terms[row] = data.terms[i];
      genes[row] = data.genes[i];
      ready[row] = 1;
    }
    names[space] = {terms: inverted(data.terms, termText.length), genes: inverted(data.genes, geneText.length)};
    masks.clear();
    state.arrived += 1;
    // The first layer shows at once; the others as they come, but not each with a sort of its own.
    if (state.arrived === 1 || state.arrived === meta.spaces.length) refresh();
    else if (!state.due) state.due = setTimeout(refresh, 150);
  }

  function refresh() {
    clearTimeout(state.due);
    state.due = 0;
    sort();
    filter();
    // When rows came, in ms since the page was asked for; benchmarks read it.
    Atlas.firstRows ??= performance.now();
    Atlas.allRows = performance.now();
  }

  // The rows of each name: those of name k stand in rows from at[k] to at[k + 1].
  function inverted(lists, count) {
    const at = new Uint32Array(count + 1);
    for (const list of lists) for (const name of list) at[name + 1] += 1;
    for (let name = 0; name < count; name++) at[name + 1] += at[name];
    const next = at.slice();
    const rows = new Uint32Array(at[count]);
    lists.forEach((list, row) => {
      for (const name of list) rows[next[name]++] = row;
    });
    return {at, rows};
  }

  function mark({at, rows}, names, mask, start) {
    for (const name of names) for (let i = at[name]; i < at[name + 1]; i++) mask[start + rows[i]] = 1;
  }

  // The rows with a word. The last words stay in memory: a further word, or a letter taken back, searches once.
  function matches(word) {
    const mask = masks.get(word) ?? search(word);
    masks.delete(word);
    masks.set(word, mask);
    if (masks.size > KEPT) masks.delete(masks.keys().next().value);
    return mask;
  }

  // Rows with a word in their terms, genes, cell type, dictionary or number: names are looked through once, and
  // only the rows of those that have the word are touched.
  function search(word) {
    const having = (texts) => texts.map((_, name) => name).filter((name) => texts[name].includes(word));
    const [inTerm, inGene, inGroup] = [having(termText), having(geneText), new Set(having(groupText))];
    const mask = numeric(Uint8Array);
    const isNumber = /^(#\d*|l?\d*\/?\d*)$/.test(word);
    meta.spaces.forEach(({dictionary, layer, features}, space) => {
      const start = starts[space];
      if (!names[space]) return;
      if (dictionary.toLowerCase().includes(word)) mask.fill(1, start, start + features);
      mark(names[space].terms, inTerm, mask, start);
      mark(names[space].genes, inGene, mask, start);
      if (!inGroup.size && !isNumber) return;
      for (let i = 0; i < features; i++) {
        if (inGroup.has(columns.type[start + i])) mask[start + i] = 1;
        else if (isNumber && `l${layer}/${i} #${i}`.includes(word)) mask[start + i] = 1;
      }
    });
    return mask;
  }

  function sort() {
    const {value} = HEADS.find((head) => head.key === state.sort);
    const keys = new Float64Array(total);
    const order = [];
    const missing = [];
    for (let row = 0; row < total; row++) {
      if (!ready[row]) continue;
      keys[row] = value(row);
      (Number.isNaN(keys[row]) ? missing : order).push(row);
    }
    const sign = state.falling ? -1 : 1;
    const found = Uint32Array.from(order).sort((a, b) => sign * (keys[a] - keys[b]) || a - b);
    state.sorted = new Uint32Array(found.length + missing.length);
    state.sorted.set(found);
    state.sorted.set(missing, found.length);
  }

  function filter() {
    const {words, space, minF1, maxQ, passed, silent} = filters;
    const found = words.map(matches);
    const holds = (row) => {
      for (const mask of found) if (!mask[row]) return false;
      return true;
    };
    const shown = new Uint32Array(state.sorted.length);
    let count = 0;
    for (let place = 0; place < shown.length; place++) {
      const row = state.sorted[place];
      if (!holds(row)) continue;
      if (space !== "" && columns.space[row] !== space) continue;
      if (silent && !(columns.max[row] > 0)) continue;
      if (passed && !(columns.passed[row] > 0)) continue;
      if (!Number.isNaN(minF1) && !(columns.f1[row] >= minF1)) continue;
      if (!Number.isNaN(maxQ) && !(columns.q[row] <= maxQ)) continue;
      shown[count++] = row;
    }
    state.shown = shown.subarray(0, count);
    state.active = 0;
    // What is read of the layout comes before what changes it, so that it is made once.
    if (nodes.rows.scrollTop) nodes.rows.scrollTop = 0;
    draw();
    nodes.table.setAttribute("aria-rowcount", count + 1);
    const loading = state.arrived < meta.spaces.length ? ` · ${state.arrived} of ${meta.spaces.length} layers loaded` : "";
    nodes.status.textContent = `${Atlas.number(count)} of ${Atlas.number(total)} features${loading}`;
  }

  function newRow() {
    const link = el("a", {});
    const cells = HEADS.map((head, i) => el(i ? "td" : "th", {class: head.number ? "number" : head.key, scope: i ? null : "row"}));
    cells[0].append(link);
    return {row: el("tr", {}, cells), link, cells};
  }

  function put(node, key, value) {
    if (node[key] !== value) node[key] = value;
  }

  function draw() {
    const height = nodes.rows.clientHeight || 600;
    const wanted = Math.min(state.shown.length, Math.ceil(height / ROW) + 2 * SPARE);
    const from = Math.max(0, Math.min(Math.floor(nodes.rows.scrollTop / ROW) - SPARE, state.shown.length - wanted));
    if (wanted !== drawn.length) {
      while (pool.length < wanted) pool.push(newRow());
      drawn = pool.slice(0, wanted);
      nodes.body.replaceChildren(above, ...drawn.map((item) => item.row), below);
    }
    above.firstChild.style.height = `${from * ROW}px`;
    below.firstChild.style.height = `${(state.shown.length - from - wanted) * ROW}px`;
    drawn.forEach(({row, link, cells}, i) => {
      const place = from + i;
      const index = state.shown[place];
      row.setAttribute("aria-rowindex", place + 2);
      row.dataset.place = place;
      row.classList.toggle("even", place % 2 === 0);
      row.classList.toggle("weak", !(columns.passed[index] > 0));
      link.href = Atlas.address(columns.space[index], columns.feature[index]);
      link.tabIndex = place === state.active ? 0 : -1;
      put(link, "textContent", HEADS[0].cell(index));
      for (let c = 1; c < HEADS.length; c++) {
        const text = HEADS[c].cell(index);
        put(cells[c], "textContent", text);
        if (!HEADS[c].number) put(cells[c], "title", text.length <= 12 ? "" : HEADS[c].key === "terms" ? terms[index].slice(0, 12).map(Atlas.termName).join("; ") : text);
      }
    });
  }

  function move(place) {
    if (!state.shown.length) return;
    state.active = Math.max(0, Math.min(place, state.shown.length - 1));
    const top = state.active * ROW;
    const visible = nodes.rows.clientHeight - 2 * ROW;
    if (top < nodes.rows.scrollTop) nodes.rows.scrollTop = top;
    else if (top > nodes.rows.scrollTop + visible) nodes.rows.scrollTop = top - visible;
    draw();
    drawn.find(({row}) => Number(row.dataset.place) === state.active)?.link.focus({preventScroll: true});
  }

  function onKey(event) {
    const row = event.target.closest?.("tr[data-place]");
    if (!row) return;
    const page = Math.max(1, Math.floor(nodes.rows.clientHeight / ROW) - 2);
    const here = Number(row.dataset.place);
    const steps = {ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + page, PageUp: here - page, Home: 0, End: state.shown.length - 1};
    if (event.key in steps) {
      event.preventDefault();
      move(steps[event.key]);
    }
  }

  function sortBy(head) {
    state.falling = state.sort === head.key ? !state.falling : Boolean(head.falls);
    state.sort = head.key;
    markHeads();
    sort();
    filter();
  }

  function markHeads() {
    for (const cell of nodes.heads.children) {
      const mine = cell.dataset.key === state.sort;
      cell.setAttribute("aria-sort", mine ? (state.falling ? "descending" : "ascending") : "none");
      cell.querySelector(".arrow").textContent = mine ? (state.falling ? "▼" : "▲") : "";
    }
  }

  Atlas.setFilter = (changes) => {
    Object.assign(filters, changes);
    filter();
  };

  Atlas.rowsAsTsv = () =>
    Atlas.tsv(
      ["dictionary", "layer", "feature", "firing_rate", "f1", "lift", "q", "tis", "interpretable_terms", "terms", "genes", "cell_type"],
      Array.from(state.shown, (row) => {
        const space = meta.spaces[columns.space[row]];
        const value = (name) => (Number.isNaN(columns[name][row]) ? "" : columns[name][row]);
        return [space.dictionary, space.layer, columns.feature[row], value("rate"), value("f1"), value("lift"), value("q"), value("tis"), value("passed"),
          terms[row].map((term) => meta.terms[term][0]).join(","), genes[row].map((gene) => meta.genes[gene]).join(","), columns.type[row] >= 0 ? typeName(row) : ""];
      }));

  Atlas.termsOf = describeTerms;
  Atlas.rowOf = (space, feature) => starts[space] + feature;

  Atlas.startTable = () => {
    nodes.cols.append(...HEADS.map((head) => el("col", {style: `width: ${head.width}`})));
    nodes.heads.append(...HEADS.map((head) => el("th", {scope: "col", "data-key": head.key, class: head.number ? "number" : ""},
      el("button", {type: "button", onclick: () => sortBy(head)}, head.label, el("span", {class: "arrow", "aria-hidden": "true"})))));
    markHeads();
    let pending = false;
    const redraw = () => {
      if (pending) return;
      pending = true;
      requestAnimationFrame(() => ((pending = false), draw()));
    };
    nodes.rows.addEventListener("scroll", redraw, {passive: true});
    nodes.body.addEventListener("keydown", onKey);
    nodes.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-place]");
      if (row && !event.target.closest("a") && !String(getSelection())) location.hash = row.querySelector("a").hash;
    });
    addEventListener("resize", redraw);
    return Promise.all(meta.spaces.map((_, space) => Atlas.json(`space_${space}/table`).then((data) => take(space, data))));
  };
  Atlas.redraw = draw;
}
