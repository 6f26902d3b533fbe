"""The feature atlas at full size in a headless Chromium: first paint, filters, sorting, opening a feature.

    .venv/bin/python benchmarks/atlas.py                          # 4,096 features x 12 layers
    .venv/bin/python benchmarks/atlas.py --features 1024 --layers 2 --folder FOLDER

The features are made up (tests/atlas_world.py: 2 terms and 5 tokens each, 2 sections of 4,000 spots). Times
are medians of ``--repeats``. First paint is Chromium's own ``first-contentful-paint``; a filter or a
sort is timed from the event to the end of the frame that shows it. "processor" is what the page's main thread
worked for it (script, layout, paint), which other load on the machine does not stretch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]
# The time from an event to the frame after it, in ms: of the handlers alone, and with layout and paint.
TIMED = """new Promise((done) => {{
  const start = performance.now();
  {action};
  const handled = performance.now() - start;
  requestAnimationFrame(() => {{
    const channel = new MessageChannel();
    channel.port1.onmessage = () => done([handled, performance.now() - start]);
    channel.port2.postMessage(0);
  }});
}})"""
READY = "document.getElementById('status')?.textContent.endsWith('features')"
SEARCHES = ("stimulus 7", "gene12", "t cell", "response gene3 tumour", "no such word", "s", "12", "")


def typed(text: str) -> str:
    return (
        f"document.getElementById('search').value = {text!r}; "
        "document.getElementById('search').dispatchEvent(new Event('input', {bubbles: true}))"
    )


def worked(browser: Any) -> float:
    """Return the processor time of the page's main thread so far, in ms."""
    metrics = browser.send("Performance.getMetrics")["metrics"]
    return 1000 * next(each["value"] for each in metrics if each["name"] == "TaskDuration")


def measure(folder: Path, repeats: int) -> dict[str, float]:
    """Return the times of a page in ms."""
    import chromium

    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(repeats):
        with chromium.Browser() as browser:
            browser.send("Performance.disable")
            browser.send("Performance.enable", timeDomain="threadTicks")
            browser.open((folder / "index.html").as_uri())
            browser.wait(READY, 120)
            paints = "performance.getEntriesByType('paint').map((entry) => [entry.name, entry.startTime])"
            note("first paint", dict(browser.run(paints))["first-contentful-paint"])
            note("first rows", browser.run("Atlas.firstRows"))
            note("all rows", browser.run("Atlas.allRows"))
            for text in SEARCHES:
                before = worked(browser)
                handled, shown = browser.run(TIMED.format(action=typed(text)))
                note("filter, processor", worked(browser) - before)
                note("filter, code", handled)
                note("filter, shown", shown)
                note(f"filter {text!r}", shown)
            for key in ("rate", "f1", "terms", "feature"):
                click = f"document.querySelector('#heads th[data-key={key}] button').click()"
                note("sort, shown", browser.run(TIMED.format(action=click))[1])
            started = time.monotonic()
            browser.run("location.hash = document.querySelector('#body a').hash")
            browser.wait("document.querySelector('canvas')?.dataset.section !== undefined")
            note("open a feature", 1000 * (time.monotonic() - started))
            note("script heap, MB", browser.run("performance.memory.usedJSHeapSize") / 1e6)
            assert not browser.problems, browser.problems
    return {name: round(statistics.median(values), 1) for name, values in found.items()} | {
        "filter, slowest processor": round(max(found["filter, processor"]), 1),
        "filter, slowest": round(max(found["filter, shown"]), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--cells", type=int, default=4000, help="of each of the 2 sections")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to keep the atlas; used again if it is there")
    given = parser.parse_args()
    import atlas_world

    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "world"
        times: dict[str, float] = {}
        if not (folder / "atlas" / "index.html").is_file():
            started = time.process_time()
            atlas_world.write(
                folder, given.features, range(given.layers), (given.cells,) * 2, n_genes=960, n_terms=2885
            )  # fmt: skip
            times["written, s of processor"] = round(time.process_time() - started, 1)
        files = [path for path in (folder / "atlas").rglob("*") if path.is_file()]
        sizes = {"files": len(files), "MB": round(sum(path.stat().st_size for path in files) / 1e6, 1)}
        sizes["largest file, kB"] = round(max(path.stat().st_size for path in files) / 1e3, 1)
        load = {"load of the machine": round(os.getloadavg()[0], 1)}
        report = {"features": given.features * given.layers, **sizes, **times, **load}
        sys.stdout.write(json.dumps(report | measure(folder / "atlas", given.repeats), indent=1) + "\n")


if __name__ == "__main__":
    main()
