"""The headline: held-out cells and held-out genes, every representation at the chosen layer, and by layer."""

from __future__ import annotations

import pandas as pd

from interptfm.headline import EVALUATIONS, MEASURES
from interptfm.report import alignment_figures
from interptfm.report.page import Figure, Section, Table
from interptfm.report.run import Run
from interptfm.report.sections.common import interval


def representations(run: Run) -> Section | None:
    """Every representation through the same code; None where they were not compared."""
    if run.headline is None or run.headline.empty:
        return None
    frame = _worded(run.headline)
    here = frame[frame["layer"] == run.layer].reset_index(drop=True)
    drawn = Figure(
        "representations",
        "Held-out cells and held-out genes, by representation",
        alignment_figures.representations("representations", here),
        f"Mean over terms at layer {run.layer}, with the 95 % block-bootstrap interval; grey: the same under "
        "permuted membership (mean and central 95 %). Held-out cells: feature and threshold chosen on "
        "validation cells, all genes. Held-out genes: chosen on four folds of the genes, scored on the "
        "fifth, so that knowing single genes does not help. PCA and NMF of expression use no model.",
        "Dot charts of F1 on held-out cells, and of F1 and AUROC on held-out genes, by representation.",
        here,
    )
    columns = {
        "representation": "Representation", "evaluation": "Evaluation", "measure": "Measure", "n": "Terms",
        "n_features": "Features", "mean": "Mean", "interval": "95 % interval", "null_mean": "Null mean",
        "excess": "Excess", "p": "p",
    }  # fmt: skip
    chosen = Table(
        "representations-table",
        f"Every representation at layer {run.layer}.",
        interval(here),
        columns,
        rows=80,
    )
    layers = frame[frame["representation"].isin(["SAE", "raw neurons"])]
    by_layer = Table(
        "representations-by-layer",
        "The dictionary and the raw neurons by layer.",
        interval(layers.reset_index(drop=True)),
        {"layer": "Layer", **columns},
        rows=120,
        folded=True,
    )
    return Section("Representations", _prose(here), [drawn], [chosen, by_layer])


def _worded(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        evaluation=frame["evaluation"].map(EVALUATIONS), measure=frame["measure"].map(MEASURES)
    )


def _prose(here: pd.DataFrame) -> list[str]:
    """Say which representation is best on held-out genes, and whether it is the dictionary."""
    sentences = []
    for measure in (MEASURES["f1"], MEASURES["auroc"]):
        part = here[(here["evaluation"] == EVALUATIONS["gene_held_out"]) & (here["measure"] == measure)]
        if part.empty or "SAE" not in set(part["representation"]):
            continue
        best = part.loc[part["mean"].idxmax()]
        sae = part.loc[part["representation"] == "SAE"].iloc[0]
        verdict = "the dictionary" if best["representation"] == "SAE" else best["representation"]
        sentences.append(
            f"On held-out genes, mean {measure} over {int(sae['n'])} terms is highest for {verdict} "
            f"({best['mean']:.3f}); the dictionary has {sae['mean']:.3f}, its null {sae['null_mean']:.3f}."
        )
    return sentences
