"""TIS and compartments of spaces of cells side by side: a latent of another system, and the run's units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = ("representation", "layer", "dimensions", "measure", "group", "value", "lo", "hi", "n")
MATCHED = "TIS, mean, matched"
MEASURES = {"mean": "TIS, mean", "mean_matched": MATCHED, "best_tis": "TIS, best"}


def unit_scores(summary: Mapping[str, Any]) -> pd.DataFrame:
    """Return the TIS of a space and of its controls from ``tis/*/summary.json``, as :data:`COLUMNS`."""
    rows = []
    for variant in summary["variants"]:
        for key, measure in MEASURES.items():
            if variant[key] is not None:
                rows.append(
                    (summary["units"], summary["layer"], variant["n"], measure, variant["variant"],
                     variant[key], np.nan, np.nan, variant["n_scored"])
                )  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def compartment_scores(name: str, layer: int, agreement: pd.DataFrame) -> pd.DataFrame:
    """Return how well compartments called from a space agree with geometry, from ``agreement.parquet``."""
    mine = agreement[agreement["measure"].isin(["accuracy", "AUROC, one against rest"])]
    return pd.DataFrame(
        {
            "representation": name, "layer": layer, "dimensions": 0,
            "measure": "compartments: " + mine["measure"].astype(str), "group": mine["group"],
            "value": mine["value"], "lo": mine["lo"], "hi": mine["hi"], "n": mine["n"],
        }
    )[list(COLUMNS)]  # fmt: skip


def headline(table: pd.DataFrame, latent: str) -> str:
    """Return the mean TIS of every space's units within cell type and depth, best first, in words.

    ``latent`` is the space that has no layers.
    """
    found = table[(table["measure"] == MATCHED) & (table["group"] == "units")]
    found = found.sort_values("value", ascending=False, kind="stable")
    return "mean TIS of units within cell type and depth: " + ", ".join(
        f"{row.representation}{'' if row.representation == latent else f' layer {row.layer}'} {row.value:.3f}"
        for row in found.itertuples()
    )
