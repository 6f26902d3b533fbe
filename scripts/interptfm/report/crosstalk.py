"""Crosstalk of all sections, read once into frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interptfm import store

SECTION_TABLES = ("edges", "channels", "importance", "decay", "nulls", "cells")


@dataclass(frozen=True)
class Crosstalk:
    """``pairs``, ``contrasts``, ``summary`` of all sections; ``sections``: sample → name → frame;
    ``recovery``: rows and summary of a simulated run, else None."""

    pairs: pd.DataFrame
    contrasts: pd.DataFrame
    summary: dict[str, Any]
    sections: dict[str, dict[str, pd.DataFrame]]
    recovery: tuple[pd.DataFrame, dict[str, Any]] | None


def read(
    together: Mapping[str, str], samples: Sequence[str], tables: Sequence[str], recovery: Sequence[str] = ()
) -> Crosstalk:
    """Read the tables.

    Parameters
    ----------
    together
        Paths of pairs, contrasts and summary, by name.
    samples, tables
        Names; :data:`SECTION_TABLES` of each sample, one sample after the other.
    recovery
        Rows and summary; empty for real data.
    """
    n = len(SECTION_TABLES)
    sections = {
        sample: {
            name: store.read_table(path)
            for name, path in zip(SECTION_TABLES, tables[i * n : (i + 1) * n], strict=True)
        }
        for i, sample in enumerate(samples)
    }
    found = (store.read_table(recovery[0]), store.read_json(recovery[1])) if recovery else None
    return Crosstalk(
        store.read_table(together["pairs"]),
        store.read_table(together["contrasts"]),
        store.read_json(together["summary"]),
        sections,
        found,
    )
