"""The atlas as a folder of static files: one page, its scripts, and data in chunks loaded on demand."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd

from interptfm import job
from interptfm.atlas import details, encoding, tissue
from interptfm.atlas.activity import Activity, collect
from interptfm.atlas.space import PAIR_COLUMNS, TIS_COLUMNS, Space
from interptfm.atlas.tissue import Section
from interptfm.features import HISTOGRAM_BINS

log = logging.getLogger("interptfm")
ASSETS = Path(__file__).parent
PAGE = "index.html"
SCRIPTS = ("data.js", "format.js", "plots.js", "table.js", "feature.js", "main.js")
STYLE = "style.css"
# Features a data file: one click loads a few dozen kB.
CHUNK = 64


class Site:
    """Writes the atlas into a folder, space by space, so that one space is in memory at a time.

    Parameters
    ----------
    folder
        An empty folder.
    sections
        The tissue, in the order of the samples.
    terms
        ``concepts/terms.parquet``: ``term_id``, ``name``, ``n_genes``.
    settings
        ``bootstrap``: draws of blocks for intervals of profiles.
    seed
        Of the resampling.
    """

    def __init__(
        self,
        folder: Path,
        sections: Sequence[Section],
        terms: pd.DataFrame,
        settings: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.folder, self.sections, self.settings, self.seed = folder, list(sections), settings, seed
        self.terms = terms
        self.groups = tissue.group_list(self.sections)
        self.genes: dict[str, int] = {}
        self.spaces: list[dict[str, Any]] = []
        for i, section in enumerate(self.sections):
            layout = encoding.text(tissue.layout(section, self.groups))
            self._write(f"section_{i}", layout.encode())

    def _write(self, key: str, data: bytes, runs: bool = False) -> None:
        path = self.folder / "data" / f"{key}.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(encoding.script(key, data, runs))

    def add(self, space: Space, aggregates: str | Path) -> None:
        """Write the data files of one space; ``aggregates`` is its ``cells.zarr.zip``."""
        place = f"space_{len(self.spaces)}"
        for gene in space.genes:
            self.genes.setdefault(gene, len(self.genes))
        index = details.Index(
            self.genes,
            {term: i for i, term in enumerate(self.terms["term_id"].astype(str))},
            {section.name: i for i, section in enumerate(self.sections)},
            self.groups,
        )
        activity = self._maps(place, collect(aggregates, self.sections, self.groups), space.n_features)
        rows = details.table(space, activity, index)
        self._write(f"{place}/table", encoding.text(rows).encode())
        draws = self._draws(space, activity)
        for chunk, start in enumerate(range(0, space.n_features, CHUNK)):
            stop = min(start + CHUNK, space.n_features)
            found = details.details(space, activity, index, start, stop, draws)
            self._write(f"{place}/features_{chunk}", encoding.text(found).encode())
        self.spaces.append(
            {
                "dictionary": space.dictionary,
                "layer": space.layer,
                "features": space.n_features,
                "tokens": space.n_tokens,
                "tis": space.tis is not None,
                "clamped": len(space.clamped) > 0,
            }
        )
        log.info("%s, layer %d: %d features written", space.dictionary, space.layer, space.n_features)

    def _maps(self, place: str, collected: Iterator[Any], n_features: int) -> Activity:
        """Write the maps of each section as they come; return what comes last."""
        for item in collected:
            if isinstance(item, Activity):
                return item
            section, levels = item
            for chunk, start in enumerate(range(0, n_features, CHUNK)):
                # A feature after the other, so that equal neighbours stand together.
                part = np.ascontiguousarray(levels[:, start : start + CHUNK].T)
                self._write(f"{place}/map_{section}_{chunk}", part.tobytes(), runs=True)
        raise AssertionError("collect ends with the activity")

    def _draws(self, space: Space, activity: Activity) -> np.ndarray:
        """Return how often each block is drawn, int (draws × blocks)."""
        n_blocks = int(activity.block.max()) + 1 if len(activity.block) else 1
        generator = job.generator(self.seed, "atlas", space.dictionary, space.layer)
        return generator.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), self.settings["bootstrap"])

    def finish(self, run: str) -> None:
        """Write the page, its scripts and its style sheet."""
        names = self.terms["name"].astype(object).where(self.terms["name"].notna(), "")
        cells = [self._cells_of(kind, name) for kind, name in self.groups]
        meta = {
            "run": run,
            "chunk": CHUNK,
            "levels": encoding.LEVELS,
            "bins": HISTOGRAM_BINS,
            "bootstrap": self.settings["bootstrap"],
            "sections": [tissue.description(section) for section in self.sections],
            "spaces": self.spaces,
            "groups": [
                [kind, name, *counts] for (kind, name), counts in zip(self.groups, cells, strict=True)
            ],
            "genes": list(self.genes),
            "terms": [
                [str(term), str(name), int(n)]
                for term, name, n in zip(self.terms["term_id"], names, self.terms["n_genes"], strict=True)
            ],
            "columns": {
                "score": details.SCORES,
                "pairs": PAIR_COLUMNS,
                "tis": TIS_COLUMNS,
                "steering": details.STEERED,
            },
        }
        page = Template((ASSETS / PAGE).read_text()).substitute(
            title=html.escape(f"Feature atlas of {run}"), meta=encoding.embedded(meta)
        )
        (self.folder / PAGE).write_text(page)
        for name in (*SCRIPTS, STYLE):
            (self.folder / name).write_bytes((ASSETS / name).read_bytes())

    def _cells_of(self, kind: str, name: str) -> tuple[int, int]:
        """Return the cells of a group and the blocks that they lie in."""
        masks = [section.groups.get(kind, np.array([])) == name for section in self.sections]
        blocks = {
            label
            for section, mask in zip(self.sections, masks, strict=True)
            for label in (np.unique(section.block[mask]) if mask.any() else ())
        }
        return int(sum(mask.sum() for mask in masks)), len(blocks)
