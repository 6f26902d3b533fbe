"use strict";
// Data files call atlasData(key, text); fetch does not work on file://, a script element does.
const Atlas = {meta: JSON.parse(document.getElementById("meta").textContent)};
{
  const waiting = new Map();
  const kept = new Map();
  const MOST = 24;

  async function unpack(text) {
    if (typeof DecompressionStream === "undefined") {
      throw new Error("This browser cannot unpack the data; any Chromium since 80, Firefox since 113 or Safari since 16.4 can.");
    }
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  window.atlasData = (key, text) => {
    const wanted = waiting.get(key);
    if (wanted) unpack(text).then(wanted.resolve, wanted.reject);
  };

  function request(key) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const done = (settle) => (value) => {
        waiting.delete(key);
        script.remove();
        settle(value);
      };
      waiting.set(key, {resolve: done(resolve), reject: done(reject)});
      script.onerror = () => waiting.get(key)?.reject(new Error(`The file data/${key}.js cannot be read; the atlas is incomplete.`));
      script.src = `data/${key}.js`;
      document.head.append(script);
    });
  }

  // Bytes of a data file; the last few stay in memory.
  Atlas.bytes = (key) => {
    const found = kept.get(key) ?? request(key);
    kept.delete(key);
    kept.set(key, found);
    found.catch(() => kept.delete(key));
    if (kept.size > MOST) kept.delete(kept.keys().next().value);
    return found;
  };

  Atlas.json = async (key) => JSON.parse(new TextDecoder().decode(await Atlas.bytes(key)));
}
