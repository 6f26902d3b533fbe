"""Scores of probes, their cosines and the sparse probes, read once into frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interptfm import store


@dataclass(frozen=True)
class Probing:
    """What the report shows of probes.

    ``summary``: a row an (arm, layer, kind, split, metric); ``metrics``: a row a (layer, kind, split, label,
    term) of the main arm; ``cosines``; ``sparse`` and ``path`` at the chosen layer.
    """

    summary: pd.DataFrame
    metrics: pd.DataFrame
    cosines: pd.DataFrame
    sparse: pd.DataFrame
    path: pd.DataFrame


def read(index: Sequence[Mapping[str, Any]], cosines: str, sparse: Sequence[str]) -> Probing:
    """Read the tables.

    Parameters
    ----------
    index
        One mapping an (arm, layer): ``arm``, ``layer``, and paths under ``summary`` and ``metrics``.
    sparse
        Paths of the sparse probes' terms and of their path.
    """
    summaries = [store.read_table(entry["summary"]).assign(arm=entry["arm"]) for entry in index]
    metrics = [
        store.read_table(entry["metrics"]).assign(layer=entry["layer"])
        for entry in index
        if entry["arm"] == "main"
    ]
    terms, path = sparse
    return Probing(
        pd.concat(summaries, ignore_index=True),
        pd.concat(metrics, ignore_index=True),
        store.read_table(cosines),
        store.read_table(terms),
        store.read_table(path),
    )
