"use strict";
// Address, filters, start. #/ is the list, #/<dictionary>/<layer>/<feature> a feature.
{
  const {meta, el, number} = Atlas;
  const by = (id) => document.getElementById(id);
  let position = 0;

  Atlas.fail = (error) => {
    by("notice").textContent = error.message;
    by("notice").hidden = false;
  };

  function found() {
    const [, dictionary, layer, feature] = location.hash.split("/");
    if (feature === undefined) return null;
    const space = meta.spaces.findIndex((each) => each.dictionary === decodeURIComponent(dictionary) && String(each.layer) === layer);
    const index = Number(feature);
    if (space < 0 || !Number.isInteger(index) || index < 0 || index >= meta.spaces[space].features) {
      throw new Error(`There is no feature at ${location.hash}.`);
    }
    return [space, index];
  }

  async function route() {
    by("notice").hidden = true;
    try {
      const place = found();
      if (place && !by("list").hidden) position = by("rows").scrollTop;
      by("list").hidden = Boolean(place);
      if (place) {
        await Atlas.openFeature(...place);
        scrollTo(0, 0);
      } else {
        Atlas.closeFeature();
        by("rows").scrollTop = position;
        Atlas.redraw();
      }
    } catch (error) {
      by("list").hidden = false;
      Atlas.closeFeature();
      Atlas.fail(error);
    }
  }

  const words = (text) => Array.from(text.toLowerCase().matchAll(/"([^"]+)"|(\S+)/g), ([, phrase, word]) => phrase ?? word);
  const value = (id) => (by(id).value === "" ? NaN : Number(by(id).value));
  const chosen = () => Atlas.setFilter({
    words: words(by("search").value),
    space: by("space").value === "" ? "" : Number(by("space").value),
    minF1: value("min-f1"),
    maxQ: value("max-q"),
    passed: by("passed").checked,
    silent: by("silent").checked,
  });

  const total = meta.spaces.reduce((sum, space) => sum + space.features, 0);
  const cells = meta.sections.reduce((sum, section) => sum + section.cells, 0);
  by("subtitle").textContent = `${number(total)} features of ${meta.spaces.length} ${meta.spaces.length === 1 ? "layer" : "layers"}, in ${number(cells)} cells of ${meta.sections.length} sections.`;
  by("space").append(...meta.spaces.map((_, i) => el("option", {value: i}, Atlas.spaceName(i))));
  by("filters").addEventListener("input", chosen);
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  by("download-list").addEventListener("click", () => Atlas.download(`${meta.run}_features.tsv`, Atlas.rowsAsTsv()));
  addEventListener("hashchange", route);
  Atlas.startTable().then(route).catch(Atlas.fail);
}
