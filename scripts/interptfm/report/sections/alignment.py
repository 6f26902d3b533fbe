"""F1 of concepts against its null and its baselines, by layer, and the terms and features themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from interptfm import stats
from interptfm.report import figures
from interptfm.report.page import Figure, Section, Table
from interptfm.report.run import Run
from interptfm.report.sections.common import COMPARED, HOW, interval, main_first, settings


def alignment(run: Run) -> Section:
    """F1 of terms against its null and baselines, by layer, and the top terms and features."""
    here = {name: entry for name, entry in run.at(run.layer).items() if entry.concepts is not None}
    sae = here["SAE"]
    scores = _long_scores(here)
    observed = pd.DataFrame(
        [{"source": n, "mean_f1": float(e.concepts["f1"].mean())} for n, e in here.items()]
    )
    null = pd.concat([e.null.assign(source=n) for n, e in here.items()], ignore_index=True)
    layers = _layer_frame(run)
    drawn = [
        Figure(
            "f1-distribution",
            "Best F1 of terms against null and baselines",
            figures.f1_distribution("f1-distribution", scores),
            f"Share of terms that reach an F1, layer {run.layer}. Feature and threshold are chosen on "
            "validation blocks and scored on test blocks at that same threshold. The dotted null is each "
            "term's mean over permutations of the genes in the membership (within strata of similar token "
            "count) with the whole selection repeated; only the gap to it is evidence. Raw neurons (both "
            "signs) and the control arms went through the same code; best single gene is the best detector "
            "of one gene.",
            "Curves of the share of terms reaching an F1 for the dictionary, its null and baselines.",
            scores,
        ),
        Figure(
            "observed-against-null",
            "Mean F1 of each source against its own null",
            figures.observed_against_null("observed-against-null", observed, null),
            "Marker: mean best test F1 over terms. Ticks: the same with genes permuted in the membership, "
            "one tick a permutation. More units give a higher null, hence each source has its own.",
            "Dot chart: observed mean F1 by source, with the permutation means of its null as ticks.",
            pd.concat([observed.assign(permutation="observed"), null], ignore_index=True),
        ),
        Figure(
            "f1-by-term",
            "Each term against its null and against one gene",
            figures.f1_against_null("f1-by-term", sae.concepts.dropna(subset="f1")),
            "One point a term, dictionary at the chosen layer; above the diagonal is better than the null "
            "(left) or than the best single gene (right). Filled: q < 0.05, Benjamini–Hochberg over the "
            "terms of this layer, p from permuted membership.",
            "Two scatter plots of each term's F1 against its null mean and its best single-gene F1.",
            sae.concepts,
        ),
        Figure(
            "f1-by-layer",
            "F1 by layer",
            figures.by_layer("f1-by-layer", layers, run.layer),
            f"Mean over terms on test blocks; dotted: mean of the source's own null (genes permuted in the "
            f"membership, the whole selection repeated). The grey band marks "
            f"layer {run.layer}, chosen by the dictionary's validation excess, not by what is shown here.",
            "Line charts of mean F1 and of its excess over the null against layer, by source.",
            layers,
        ),
    ]
    found, scored = int((sae.concepts["q"] < 0.05).sum()), int(sae.concepts["f1"].notna().sum())
    prose = [
        f"At layer {run.layer}, {found} of {scored} scored terms have q < 0.05 against permuted "
        f"membership, and {sae.interpretable['feature'].nunique()} features are interpretable. "
        "A term's F1 is that of its best feature and threshold, both chosen on validation blocks."
    ]
    compared = Table(
        "comparisons",
        f"All terms, layer {run.layer}: paired differences of test F1 and of excess over the null. {HOW}",
        interval(run.comparisons),
        COMPARED,
        rows=60,
    )
    source = settings("concept-source", "Concepts: source, versions, filters and counts", run.query)
    by_layer = Table(
        "layers",
        "By layer: mean best test F1 over terms, mean of the permuted-membership null with the range of its "
        "central 95 %, and excess.",
        layers,
        {"source": "Source", "layer": "Layer", "n": "Terms", "mean_f1": "Mean F1", "null_mean": "Null mean",
         "null_lo": "Null 2.5 %", "null_hi": "Null 97.5 %", "excess": "Excess", "p": "p"},
        rows=80,
    )  # fmt: skip
    return Section(
        "Alignment with concepts",
        prose,
        drawn,
        [compared, by_layer, _terms_table(sae), features_table(run), source],
    )


def _long_scores(here: Mapping[str, Any]) -> pd.DataFrame:
    sae = here["SAE"].concepts
    parts = [sae[["term_id", "f1"]].assign(source="SAE")]
    parts.append(sae[["term_id"]].assign(f1=sae["null_mean"], source="permuted membership"))
    parts.append(sae[["term_id"]].assign(f1=sae["f1_single_gene"], source="best single gene"))
    parts += [e.concepts[["term_id", "f1"]].assign(source=n) for n, e in here.items() if n != "SAE"]
    return pd.concat(parts, ignore_index=True)[["source", "term_id", "f1"]]


def _layer_frame(run: Run) -> pd.DataFrame:
    rows = []
    for entry in run.entries:
        if entry.concepts is None:
            continue
        draws = entry.null["mean_f1"].to_numpy()
        mean = float(entry.concepts["f1"].mean())
        lo, hi = np.quantile(draws, stats.INTERVAL)
        row = {
            "source": run.label(entry),
            "layer": entry.layer,
            "n": int(entry.concepts["f1"].notna().sum()),
            "mean_f1": mean,
            "null_mean": float(draws.mean()),
            "null_lo": float(lo),
            "null_hi": float(hi),
            "excess": mean - float(draws.mean()),
            "p": float(stats.permutation_p(mean, draws)),
        }
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["source", "layer"], key=main_first, ignore_index=True)


def _terms_table(entry: Any) -> Table:
    frame = entry.concepts.assign(excess=entry.concepts["f1"] - entry.concepts["null_mean"])
    frame = frame.sort_values(["excess", "term_id"], ascending=[False, True], ignore_index=True)
    columns = {
        "name": "Term", "term_id": "Id", "n_genes": "Genes", "feature": "Feature", "f1": "Test F1",
        "null_mean": "Null mean", "excess": "Excess", "f1_single_gene": "Best gene F1",
        "single_gene": "Best gene", "q": "q",
    }  # fmt: skip
    caption = "Terms by excess of test F1 over permuted membership, at the chosen layer."
    return Table("top-terms", caption, frame, columns)


def features_table(run: Run, n_genes: int = 8) -> Table:
    """Return interpretable features at the chosen layer with their best term and top genes."""
    entry = run.at(run.layer)["SAE"]
    found = entry.interpretable.sort_values(["f1", "feature"], ascending=[False, True])
    terms = found["term_id"].map(dict(zip(run.terms["term_id"], run.terms["name"], strict=True)))
    more = found.groupby("feature")["term_id"].transform("size") - 1
    frame = found.assign(term=terms, more=more).drop_duplicates("feature", ignore_index=True)
    genes = {}
    if entry.top_tokens is not None and len(entry.top_tokens):
        tokens = entry.top_tokens[entry.top_tokens["feature"].isin(frame["feature"])]
        genes = top_genes(tokens, n_genes)
    frame["genes"] = [genes.get(feature, "") for feature in frame["feature"]]
    columns = {
        "feature": "Feature", "genes": "Genes of its top tokens", "term": "Best term", "f1": "Test F1",
        "lift": "Lift over best gene", "q": "q", "more": "Further terms",
    }  # fmt: skip
    return Table(
        "top-features",
        "Interpretable features by test F1 of their best term. Genes: those of the feature's most active "
        "tokens with the number of such tokens, most frequent first. Lift: F1 of the term "
        "minus that of its best single gene.",
        frame,
        {key: heading for key, heading in columns.items() if key in frame},
        rows=25,
    )


def top_genes(tokens: pd.DataFrame, n_genes: int) -> dict[int, str]:
    """Return feature → its top tokens' genes with their counts, most frequent first."""
    counts = (
        tokens.groupby(["feature", "gene"], observed=True)["activation"].agg(["size", "sum"]).reset_index()
    )
    counts = counts.sort_values(["feature", "size", "sum", "gene"], ascending=[True, False, False, True])
    counts = counts.groupby("feature").head(n_genes)
    text = counts["gene"].astype(str) + " (" + counts["size"].astype(str) + ")"
    return text.groupby(counts["feature"]).agg(", ".join).to_dict()
