"""The headline numbers and what ran."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from interptfm import __version__, stats
from interptfm.headline import LABELS
from interptfm.report.page import Section, Table, number
from interptfm.report.run import Run
from interptfm.report.sections.common import COMPARED, HOW, interval, model_kind, settings

# The overview shows what a reviewer asks for first; all representations have a section of their own.
ELSEWHERE = {label for name, label in LABELS.items() if name not in ("neurons", "expression_nmf")}


def overview(run: Run) -> Section:
    """The headline numbers beside null, baseline and interval, and what ran."""
    sae = run.at(run.layer)["SAE"]
    facts = [
        ("Run", run.name),
        ("Samples", number(len(run.samples))),
        ("Cells", number(_total(run.qc, "cells kept"))),
        ("Terms scored", number(int(sae.concepts["f1"].notna().sum()))),
        ("Dictionary", run.dictionary),
        ("Features", number(sae.summary["n_features"])),
        (f"Layer chosen on validation, of {', '.join(map(str, run.layers))}", str(run.layer)),
    ]
    prose = [
        f"Model: {model_kind(run.model_metrics)}. Input: "
        f"{'simulated tissue' if run.simulated else 'real data'}, samples {', '.join(run.samples)}. "
        f"Concepts: {run.query['source']}. Written by interptfm {__version__}, seed {run.seed}.",
        "Each number below is a mean over terms of the best test F1 of a dictionary feature. Best F1 alone "
        "proves nothing, since the best of many features is high by chance: judge it by the difference from "
        "permuted membership. Measure “excess” is F1 minus the term's own null mean, on both sides, which "
        f"allows for different numbers of units. {HOW}",
    ]
    tables = [
        *_headlines(run),
        settings("configuration", "Configuration of the main arm, as resolved", run.config),
        settings("provenance", "Provenance: versions and digests of the tables read", run.provenance),
    ]
    return Section("Overview", prose, (), [table for table in tables if len(table.frame)], facts)


def _headlines(run: Run) -> list[Table]:
    draws = run.at(run.layer)["SAE"].null["mean_f1"].to_numpy()
    tables = []
    if run.recovery is not None:
        found = run.recovery[1]
        found = found[(found["left"] == "SAE") & (found["scope"] == "planted programs")]
        found = found[~found["right"].isin(ELSEWHERE)]
        caption = (
            f"Headline over planted programs: dictionary (SAE) at layer {run.layer}, test blocks. All "
            "representations: see Recovery of planted programs."
        )
        tables.append(Table("headline-planted", caption, interval(found), COMPARED, rows=60))
    every = run.comparisons[run.comparisons["left"] == "SAE"]
    p = [
        float(stats.permutation_p(value, draws)) if right == "permuted membership" else np.nan
        for right, value in zip(every["right"], every["mean_left"], strict=True)
    ]
    columns = {key: heading for key, heading in COMPARED.items() if key != "verdict"}
    columns |= {"p": "p", "verdict": COMPARED["verdict"]}
    caption = (
        f"Headline over all terms: dictionary (SAE) at layer {run.layer}, test blocks. p: mean F1 against "
        f"{len(draws)} permutations of genes in the membership with the whole selection repeated, "
        f"(1+k)/(1+n), at least {1 / (1 + len(draws)):.2g}."
    )
    return [*tables, Table("headline", caption, interval(every.assign(p=p)), columns, rows=60)]


def _total(qc: Mapping[str, pd.DataFrame], quantity: str) -> int:
    """Return the sum over samples of a quantity that stands once in each QC table."""
    return sum(int(frame.set_index("quantity").at[quantity, "value"]) for frame in qc.values())
