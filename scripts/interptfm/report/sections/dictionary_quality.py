"""Worth of dictionaries beyond reconstruction error: loss recovered, firing, stability, absorption."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interptfm.report import figures
from interptfm.report.figures import RATE_EDGES
from interptfm.report.page import Figure, Section, Table
from interptfm.report.run import MAIN_ARM, Run

REPLACED = {
    "original": "layer untouched",
    "reconstruction": "reconstruction",
    "mean": "mean ablation",
    "zero": "zero ablation",
}


def dictionary_quality(run: Run) -> Section | None:
    """Loss recovered and firing rates of the main arm's dictionaries; stability, absorption, frontier."""
    parts = [_recovered(run), _rates(run), _absorption(run), _stability(run), _frontier(run)]
    drawn = [item for part in parts for item in part if isinstance(item, Figure)]
    tables = [item for part in parts for item in part if isinstance(item, Table)]
    prose = [item for part in parts for item in part if isinstance(item, str)]
    return Section("Dictionary quality", prose, drawn, tables) if drawn or tables else None


def _recovered(run: Run) -> list[Figure | Table | str]:
    rows = []
    for entry in run.entries:
        found = entry.quality
        if entry.arm != MAIN_ARM or not found or not found.get("error"):
            continue
        row = {"dictionary": entry.representation, "layer": entry.layer, **found["error"]}
        row |= {f"recovered_{name}": value for name, value in found["recovered"].items()}
        rows.append({**row, **{f"fvu_{name}": value for name, value in found["fvu"].items()}})
    if not rows:
        return []
    frame = pd.DataFrame(rows).sort_values(["dictionary", "layer"], ignore_index=True)
    drawn: list[Figure | Table | str] = []
    mine = frame[frame["dictionary"] == run.dictionary]
    if len(mine):
        drawn.append(
            Figure(
                "loss-recovered",
                "What the model predicts from reconstructed layers",
                figures.replaced_layers("loss-recovered", mine, REPLACED),
                "Error of the model's masked-expression prediction on cells of held-out test blocks with one "
                "layer as it is, replaced by the dictionary's reconstruction, by its mean and by zero. Near "
                "the untouched layer a dictionary keeps what the model uses; near the ablations it lost it. "
                "One set of masked cells, no interval.",
                "Line chart by layer of the model's error with four replacements of that layer.",
                mine,
            )
        )
    columns = {
        "dictionary": "Dictionary", "layer": "Layer", "original": "Untouched",
        "reconstruction": "Reconstruction", "mean": "Mean ablation", "zero": "Zero ablation",
        "recovered_mean": "Recovered of mean", "recovered_zero": "Recovered of zero",
        "fvu_visible": "FVU visible", "fvu_masked": "FVU masked",
    }  # fmt: skip
    table = Table(
        "loss-recovered-errors",
        "Squared error (bins²) of masked tokens with the layer replaced, the share of an ablation's damage "
        "that the reconstruction avoids (1: all; empty where the ablation does no harm), and FVU on these "
        "cells. Dictionaries learnt from unmasked cells: states of masked tokens are new to them.",
        frame,
        {key: heading for key, heading in columns.items() if key in frame},
    )
    return [*drawn, table]


def _rates(run: Run) -> list[Figure | Table | str]:
    rows = []
    for entry in run.entries:
        counts = ((entry.metrics or {}).get("test") or {}).get("firing_rates")
        if run.label(entry) == "SAE" and counts:
            for low, high, count in zip(RATE_EDGES[:-1], RATE_EDGES[1:], counts, strict=True):
                rows.append({"layer": entry.layer, "low": low, "high": high, "features": count})
    if not rows:
        return []
    frame = pd.DataFrame(rows)
    frame["rate"] = np.sqrt(frame["low"] * frame["high"])
    return [
        Figure(
            "firing-rates",
            f"Firing rates of the features of {run.dictionary}",
            figures.firing_rates("firing-rates", frame),
            "Features by the share of test tokens on which they fire, one line a layer; features that never "
            "fire there are not in it. Right of the dotted line (10 %) a feature counts as dense. Nothing is "
            "tested here.",
            "Histogram lines of features over firing rate on a logarithmic axis, by layer.",
            frame,
        )
    ]


def _absorption(run: Run) -> list[Figure | Table | str]:
    frame = run.dictionary_tables.get("absorption")
    if frame is None:
        return []
    if not run.dictionary_tables.get("has_graph", True):
        return ["Absorption: not applicable: no graph."]
    if not len(frame):
        return [
            "Absorption: no parent and child term both have an interpretable feature, and different ones."
        ]
    columns = {
        "layer": "Layer", "child_name": "Child", "parent_name": "Parent", "child_fires": "Child fires",
        "silent_rate": "Parent silent there", "silent_rate_elsewhere": "Parent silent elsewhere",
        "excess": "Excess",
    }  # fmt: skip
    return [
        Table(
            "absorption",
            "Absorption: how often the feature of a parent term is silent on test tokens (of the child's "
            "genes) where the child's feature fires, and where it does not. A positive excess is what "
            "absorption looks like; a rare parent feature is silent in both. Description, no test.",
            frame.sort_values("excess", ascending=False, ignore_index=True),
            columns,
        )
    ]


def _stability(run: Run) -> list[Figure | Table | str]:
    rows = run.dictionary_tables.get("stability")
    if rows is None or not len(rows):
        return []
    columns = {
        "dictionary": "Dictionary", "layer": "Layer", "seeds": "Seeds", "stable": "Stable features",
        "decoder_above": "Decoder matches > 0.7", "decoder_mean": "Mean cosine",
        "chance_above": "By chance", "chance_mean": "Chance cosine", "firing_above": "Firing matches > 0.7",
    }  # fmt: skip
    return [
        Table(
            "stability",
            "Stability over seeds: features matched one to one to those of every further seed by decoder "
            "cosine, and by the cosine of their activations on validation tokens. Stable: decoder cosine "
            "above 0.7 in all seeds. By chance: matched to random directions.",
            rows,
            columns,
        )
    ]


def _frontier(run: Run) -> list[Figure | Table | str]:
    frame = run.dictionary_tables.get("frontier")
    if frame is None or not len(frame):
        return []
    layer = int(frame["layer"].value_counts().idxmax())
    shown = frame[frame["layer"] == layer]
    return [
        Figure(
            "frontier",
            f"Dictionaries of the sweep at layer {layer}",
            figures.frontier("frontier", shown),
            "Left: FVU on test blocks against L0, one marker a dictionary, by architecture; down and left is "
            "better. Right: mean best F1 of all terms on validation blocks, less that of membership permuted "
            "over genes, against the number of features: what a size is chosen by. One seed each: small "
            "differences mean nothing.",
            "Two scatters: unexplained variance against active features per token, and concept F1 beyond its "
            "null against the number of features, by architecture.",
            frame,
        )
    ]
