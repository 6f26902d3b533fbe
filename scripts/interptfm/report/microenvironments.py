"""Scores of units and what was called from them, read once into frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interptfm import store

SPACE_FILES = 3


@dataclass(frozen=True)
class Space:
    """One space of units at one layer: its table, the scores of shuffled units, its summary."""

    units: str
    layer: int
    table: pd.DataFrame
    null: pd.DataFrame
    summary: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{self.units}, layer {self.layer}"


@dataclass(frozen=True)
class Microenvironments:
    """All spaces, and what was called from one of them.

    ``spaces`` in the order of the configuration; ``regions``: name → frame, and ``summary``; ``cells``: one
    row a cell of all samples; ``recovery``: programs, claims and summary of a simulated run, else None.
    """

    spaces: list[Space]
    regions: dict[str, pd.DataFrame]
    summary: dict[str, Any]
    cells: pd.DataFrame
    recovery: tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]] | None

    @property
    def chosen(self) -> Space:
        """The space that compartments were called from."""
        wanted = (self.summary["units"], self.summary["layer"])
        return next(space for space in self.spaces if (space.units, space.layer) == wanted)


def read(
    scored: Sequence[Sequence[Any]],
    tables: Sequence[str],
    region_names: Sequence[str],
    regions: Sequence[str],
    cells: Sequence[str],
    recovery: Sequence[str] = (),
) -> Microenvironments:
    """Read the tables.

    Parameters
    ----------
    scored
        (units, layer) of each space; ``tables`` holds its units, null and summary, one after the other.
    region_names, regions
        Names of the regions' tables, ``summary`` among them, and their paths.
    cells
        One path a sample.
    recovery
        Programs, claims and summary; empty for real data.
    """
    spaces = []
    for i, (units, layer) in enumerate(scored):
        table, null, summary = tables[SPACE_FILES * i : SPACE_FILES * (i + 1)]
        read = store.read_table(table), store.read_table(null), store.read_json(summary)
        spaces.append(Space(str(units), int(layer), *read))
    paths: Mapping[str, str] = dict(zip(region_names, regions, strict=True))
    found = None
    if recovery:
        programs, claims, summary = recovery
        found = store.read_table(programs), store.read_table(claims), store.read_json(summary)
    return Microenvironments(
        spaces,
        {name: store.read_table(path) for name, path in paths.items() if name != "summary"},
        store.read_json(paths["summary"]),
        pd.concat([store.read_table(path) for path in cells], ignore_index=True),
        found,
    )
