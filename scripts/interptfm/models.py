"""Models beside one another: alignment of each one's dictionary, against its own null, at every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from interptfm import job, recovery

MEASURES = {
    "F1": ("cell_held_out", "f1", "f1"),
    "held-out-gene AUROC": ("gene_held_out", "auroc", "gene_auroc"),
    "held-out-gene AUROC, chosen by AUROC": ("gene_held_out", "auroc_ranked", "gene_auroc_ranked"),
}
COLUMNS = (
    "arm", "backend", "model_name", "layer", "d_in", "n_features", "measure", "n", "mean", "null_mean",
    "excess", "lo", "hi", "p", "verdict",
)  # fmt: skip


def table(entries: Sequence[Mapping[str, Any]], seed: int) -> pd.DataFrame:
    """Return a row a model, layer and measure.

    Parameters
    ----------
    entries
        By arm and layer: ``arm``, ``backend``, ``layer``, frame ``concepts`` (`concepts.parquet`), mappings
        ``summary`` (`summary.json`) and ``cfg`` (of the dictionary).
    seed
        The configured seed.

    Returns
    -------
    ``mean`` and ``null_mean`` over the terms that are scored, ``excess`` = their difference with its
    bootstrap interval over terms (``lo``, ``hi``), and ``p`` of the mean against permuted membership. Models
    are to be compared by excess: another model has other dimensions and, per token, another null.
    """
    rows = []
    for entry in entries:
        concepts, cfg = entry["concepts"].set_index("term_id"), entry["cfg"]
        known = {key: entry[key] for key in ("arm", "backend", "layer")}
        known["model_name"] = cfg["metadata"].get("model_name", "")
        known |= {"d_in": int(cfg["d_in"]), "n_features": int(cfg["d_sae"])}
        for measure, (evaluation, name, column) in MEASURES.items():
            null = "null_mean" if column == "f1" else f"{column}_null_mean"
            if column not in concepts or null not in concepts:
                continue
            generator = job.generator(seed, "models", entry["arm"], entry["layer"], measure)
            found = recovery.paired_difference(concepts[column], concepts[null], generator)
            row = {**known, "measure": measure, "n": found["n"], "mean": found["mean_left"]}
            row |= {"null_mean": found["mean_right"], "excess": found["difference"]}
            p = entry["summary"]["headline"].get(evaluation, {}).get(name, {}).get("p")
            rows.append(row | {key: found[key] for key in ("lo", "hi", "verdict")} | {"p": p})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"p": float})
