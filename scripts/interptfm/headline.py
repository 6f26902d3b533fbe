"""The headline: {held-out cells, held-out genes} × representation, each beside its null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

LABELS = {
    "neurons": "raw neurons",
    "pca": "PCA of activations",
    "nmf": "NMF of activations",
    "random": "random directions",
    "static": "static gene embeddings",
    "expression_pca": "PCA of expression",
    "expression_nmf": "NMF of expression",
}
EVALUATIONS = {"cell_held_out": "held-out cells", "gene_held_out": "held-out genes"}
MEASURES = {
    "f1": "F1",
    "auroc": "AUROC",
    "ap": "average precision",
    "auroc_ranked": "AUROC (feature chosen by AUROC)",
}
VALUES = ("mean", "lo", "hi", "null_mean", "null_lo", "null_hi", "excess", "p")
COLUMNS = ("representation", "arm", "layer", "n_features", "evaluation", "measure", "n", *VALUES)


def label(summary: Mapping[str, Any], dictionary: str) -> str:
    """Return what tables and figures call the representation of an alignment's ``summary.json``."""
    name, arm = summary["representation"], summary["arm"]
    if name == dictionary:
        return "SAE" if arm == "main" else arm
    shown = LABELS.get(name, name)
    return shown if arm == "main" else f"{arm} {shown}"


def table(summaries: Sequence[Mapping[str, Any]], dictionary: str) -> pd.DataFrame:
    """Return a row a representation, layer, evaluation and measure.

    Parameters
    ----------
    summaries
        ``summary.json`` of alignments.
    dictionary
        Name of the dictionary under test, called SAE.

    Returns
    -------
    ``mean`` over terms with ``lo`` and ``hi`` (block bootstrap), the null's mean and central 95 %,
    ``excess`` = mean − null mean, ``p``.
    """
    rows = []
    for summary in summaries:
        same = {"representation": label(summary, dictionary), "arm": summary["arm"]}
        same |= {"layer": int(summary["layer"]), "n_features": int(summary["n_features"])}
        for evaluation, found in summary["headline"].items():
            for measure in MEASURES:
                if measure in found:
                    row = {**same, "evaluation": evaluation, "measure": measure, "n": int(found["n"])}
                    rows.append(row | {name: found[measure].get(name) for name in VALUES})
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame[list(VALUES)] = frame[list(VALUES)].astype(float)
    return frame


def nested(frame: pd.DataFrame, layer: int) -> dict[str, Any]:
    """Return evaluation → representation → measure → values, at one layer."""
    result: dict[str, Any] = {}
    for row in frame[frame["layer"] == layer].to_dict("records"):
        place = result.setdefault(row["evaluation"], {}).setdefault(row["representation"], {})
        place[row["measure"]] = {name: None if pd.isna(row[name]) else row[name] for name in ("n", *VALUES)}
    return result
