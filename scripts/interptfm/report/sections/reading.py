"""What the interpretable features mean: fewer terms, slim terms, enrichment, entropy, predicting genes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from interptfm.report import alignment_figures
from interptfm.report.page import Figure, Section, Table, number
from interptfm.report.run import Run

LEVEL = 0.05
GENES_SHOWN = 8


def reading(run: Run) -> Section | None:
    """Interpretable features at the chosen layer in the ontology's own terms; None where not read."""
    if run.reading is None:
        return None
    tables, summary = run.reading
    drawn = []
    if len(tables["path"]):
        drawn.append(
            Figure(
                "expression-paths",
                "Genes whose expression predicts a feature",
                alignment_figures.paths("expression-paths", tables["path"], tables["fits"]),
                "One line a feature (the best by F1): a Lasso from a cell's expression to the feature's "
                "mean activity there, along its path from no gene to many; R² is cross-validated over "
                "whole blocks. "
                "A feature that few genes predict says little beyond them.",
                "Lines of cross-validated R² against the number of genes in the regression, by feature.",
                tables["path"],
            )
        )
    found = [_terms(tables["terms"])] if len(tables["terms"]) else []
    found += [_enrichment(tables["enrichment"]), _predictors(tables["predictors"], tables["fits"])]
    found.append(_entropy(tables["entropy"]))
    return Section("Reading of features", _prose(summary), drawn, found)


def _prose(summary: dict[str, Any]) -> list[str]:
    n, terms, agreement = summary["n_features"], summary["terms"], summary["agreement"]
    sentences = [f"{n} interpretable features at layer {summary['layer']} were read."]
    if isinstance(terms, str):
        sentences.append(f"Similarity of terms and roll-up to slim terms: {terms}.")
    else:
        sentences.append(
            f"Their {terms['n_terms']} terms are {terms['n_after_reduction']} once terms of one feature "
            f"with Lin similarity of at least {terms['lin']} count as one."
        )
    if agreement["status"] == "computed":
        sentences.append(
            "Groups of features by the genes they fire on, against the "
            f"{agreement['n_parents']} slim parents of their best terms: adjusted Rand index "
            f"{agreement['ari']:.3f} (labels permuted: "
            f"{agreement['ari_null_mean']:.3f}, p = {number(agreement['ari_p'], 'p')}), normalised mutual "
            f"information {agreement['nmi']:.3f} ({agreement['nmi_null_mean']:.3f}, "
            f"p = {number(agreement['nmi_p'], 'p')})."
        )
    else:
        sentences.append(f"Agreement of groups of features with the graph: {agreement['status']}.")
    sentences.append(
        f"The top genes of {summary['n_features_enriched']} features are enriched in a term (q < {LEVEL}, "
        "hypergeometric against the panel). Median entropy over the reported pairs: these features over "
        f"concepts {_bits(summary['median_entropy_of_features'])}, concepts over features "
        f"{_bits(summary['median_entropy_of_concepts'])}."
    )
    return sentences


def _bits(value: float | None) -> str:
    return "not defined" if value is None or pd.isna(value) else f"{value:.2f} bits"


def _terms(frame: pd.DataFrame) -> Table:
    columns = {
        "feature": "Feature", "name": "Term", "term_id": "Id", "f1": "Test F1", "slim_name": "Slim terms",
        "stands_for": "Stands for",
    }  # fmt: skip
    order = frame.sort_values(["f1", "feature", "rank"], ascending=[False, True, True], ignore_index=True)
    caption = (
        "Terms of interpretable features, similar ones (Lin) joined with the best, and their slim terms."
    )
    return Table("reduced-terms", caption, order, columns)


def _enrichment(frame: pd.DataFrame) -> Table:
    best = frame[frame["q"] < LEVEL].sort_values(["q", "feature", "term_id"])
    best = best.drop_duplicates("feature").reset_index(drop=True)
    columns = {
        "feature": "Feature", "name": "Term", "overlap": "Genes in both", "n_top": "Top genes",
        "n_genes": "Genes of term", "fold": "Fold", "q": "q",
    }  # fmt: skip
    caption = (
        "The most enriched term of each feature: its genes of largest mean activation on training tokens "
        "against the panel; q over all features and terms."
    )
    return Table("enrichment", caption, best, columns, folded=True)


def _predictors(coefficients: pd.DataFrame, fits: pd.DataFrame) -> Table:
    first = coefficients[coefficients["rank"] <= GENES_SHOWN]
    sign = first["coefficient"].map(lambda value: "−" if value < 0 else "")
    genes = (sign + first["gene"].astype(str)).groupby(first["feature"]).agg(", ".join)
    frame = fits.assign(genes=fits["feature"].map(genes).fillna(""))
    columns = {
        "feature": "Feature", "genes": "Strongest genes", "n_genes": "Genes",
        "r2_cross_validated": "R², cross-validated", "r2_test": "R², test cells",
    }  # fmt: skip
    caption = "Genes whose expression in a cell predicts the feature there (Lasso; − lowers it)."
    return Table("predictors", caption, frame, columns, folded=True)


def _entropy(frame: pd.DataFrame) -> Table:
    spread = frame.groupby("of", sort=False)["entropy"].describe(percentiles=[0.25, 0.5, 0.75])
    spread["perplexity"] = frame.groupby("of", sort=False)["perplexity"].median()
    columns = {
        "of": "Entropy of", "count": "Number", "25%": "First quartile", "50%": "Median",
        "75%": "Third quartile", "perplexity": "Median number of partners",
    }  # fmt: skip
    caption = "Entropy (bits) of a feature over concepts and of a concept over features, weighted by F1."
    spread["count"] = spread["count"].astype(int)
    return Table("entropies", caption, spread.reset_index(), columns, folded=True)
