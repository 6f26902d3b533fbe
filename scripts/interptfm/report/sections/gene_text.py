"""Cell types told by descriptions of genes, beside representations that have read no text."""

from __future__ import annotations

import pandas as pd

from interptfm.headline import EVALUATIONS, MEASURES
from interptfm.report import gene_text_figures as drawn
from interptfm.report.gene_text import GeneText
from interptfm.report.page import Figure, Section, Table, number, slug
from interptfm.report.run import Run
from interptfm.report.sections.common import interval, settings

SHOWN = {
    "representation": "Representation", "variant": "Classifier", "cells": "Cells", "measure": "Measure",
    "value": "Value", "interval": "95 % interval", "null_mean": "Shuffled labels", "p": "p", "n": "n",
    "n_blocks": "Blocks",
}  # fmt: skip
WORDS = {key: words for key, (words, _, _) in drawn.VARIANTS.items()}
KEPT = {"all": "all held out", "test": "of test blocks"}
FROM_ONTOLOGY = (
    "The texts here were made from the names of the concepts' own terms: what they share with concepts is "
    "put there by construction and is no finding. On simulated tissue the programs were planted in those "
    "terms, too."
)


def gene_text(run: Run) -> Section | None:
    """Embeddings of gene descriptions; None where there are none."""
    found = run.gene_text
    if found is None:
        return None
    frame = _worded(found.scores)
    split = found.settings["split"]
    prose = [
        "Each gene has a text, a provider turns texts into vectors, and a cell is the mean of its genes' "
        "vectors weighted by expression (weighted) or its list of genes read as a text (sentence); permuted: "
        "the vectors handed to other genes. Cell types are told by nearest neighbours before and after a "
        f"supervised contrastive head, both in {found.summary['folds']} folds of whole units of kind "
        f"{split['by']}; the head and components of expression are fitted to the teaching cells of a fold.",
        "Model and dictionary have seen the expression, though no type, of cells of training blocks; cells "
        "of test blocks are scored apart.",
        *_verdict(found),
    ]
    if found.settings["texts"] == "ontology":
        prose.append(FROM_ONTOLOGY)
    everything = frame[frame["cells"] == KEPT["all"]]
    figures = [
        Figure(
            "gene-text-scores",
            "Cell types by representation",
            drawn.scores("gene-text-scores", found.scores[found.scores["cells"] == "all"]),
            "All held-out cells, 95 % intervals over blocks; grey bars: the same fit to shuffled labels. "
            f"Rare: {', '.join(found.summary['rare'])}.",
            "Dot charts of accuracy, macro-F1 and recall of rare types by representation.",
            everything,
        )
    ]
    if len(found.curve):
        figures.append(
            Figure(
                "gene-text-curve",
                "Few labels",
                drawn.curve("gene-text-curve", found.curve),
                "Macro-F1 on the same held-out cells with few labelled cells a type, mean over draws.",
                "Line charts of macro-F1 against labelled cells a type.",
                found.curve,
            )
        )
    for name, coordinates in found.maps.items():
        figures.append(
            Figure(
                f"gene-text-map-{slug(name)}",
                f"Held-out cells: {name}",
                drawn.maps(f"gene-text-map-{slug(name)}", coordinates),
                "UMAP of the first fold's held-out cells, whose types the head has not seen. Distances "
                "between groups mean little.",
                "Two scatter plots of cells by type, before and after refinement.",
                coordinates,
            )
        )
    return Section("Gene descriptions", prose, figures, _tables(found, frame))


def _worded(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        variant=frame["variant"].map(WORDS),
        cells=frame["cells"].map(KEPT),
        measure=frame["measure"].map(drawn.MEASURES),
    )


def _verdict(found: GeneText) -> list[str]:
    """Say where texts stand against expression alone and against their own permutation, with intervals."""
    sentences = []
    gaps = found.differences[found.differences["cells"] == "all"]
    value = found.scores[found.scores["cells"] == "all"].set_index(["representation", "variant", "measure"])
    for provider in found.providers:
        for variant in ("before", "after"):
            key = (f"{provider}_weighted", variant, "macro_f1")
            if key not in value.index:
                continue
            row = gaps[(gaps["representation"] == key[0]) & (gaps["variant"] == variant)]
            row = row[row["measure"] == "macro_f1"].iloc[0]
            permuted = value.loc[(f"{provider}_permuted", *key[1:]), "value"]
            expression = float(value.loc[("pca", *key[1:]), "value"])
            gap, lo, hi = (number(float(row[column])) for column in ("difference", "lo", "hi"))
            sentences.append(
                f"{provider}, {WORDS[variant]}: macro-F1 {number(float(value.loc[key, 'value']))}, with "
                f"vectors permuted over genes {number(float(permuted))}; components of expression have "
                f"{number(expression)} (difference {gap}, {lo} to {hi})."
            )
    return sentences


def _tables(found: GeneText, frame: pd.DataFrame) -> list[Table]:
    gaps = _worded(found.differences)
    gap = {
        "representation": "Representation", "variant": "Classifier", "cells": "Cells", "measure": "Measure",
        "difference": "Difference", "interval": "95 % interval",
    }  # fmt: skip
    by_type = {
        "representation": "Representation", "cell_type": "Cell type", "n": "Cells", "precision": "Precision",
        "recall": "Recall", "f1": "F1",
    }  # fmt: skip
    records = pd.DataFrame(
        [
            {"provider": name, **{key: each.get(key) for key in ("kind", "n_genes", "n_panel", "dimensions")}}
            for name, each in found.providers.items()
        ]
    )
    headings = {
        "provider": "Provider", "kind": "Kind", "n_genes": "Genes with a vector", "n_panel": "Genes",
        "dimensions": "Dimensions",
    }  # fmt: skip
    tables = [
        Table("gene-text-providers", "Providers of gene vectors.", records, headings),
        Table("gene-text-scores-table", "Scores of all representations; p against shuffled labels.",
              interval(frame), SHOWN, rows=200, folded=True),
        Table("gene-text-differences", f"Differences from {found.summary['reference']}, paired by blocks.",
              interval(gaps), gap, rows=200, folded=True),
        Table("gene-text-types", "By cell type, after contrastive refinement, all held-out cells.",
              found.types, by_type, rows=400, folded=True),
    ]  # fmt: skip
    for provider, terms in found.terms.items():
        tables.append(_terms(provider, terms, found.settings["max_q"]))
    for provider, summary in found.tis.items():
        tables.append(
            Table(
                f"gene-text-tis-{slug(provider)}",
                f"Units of {summary['units']} judged by vectors of {provider} instead of by expression.",
                pd.DataFrame(summary["variants"]),
                {
                    "variant": "Units",
                    "n": "n",
                    "mean": "Mean TIS",
                    "mean_matched": "Mean, matched",
                    "n_significant": "q < 0.05",
                    "best_tis": "Best",
                },
                folded=True,
            )
        )
    aligned = found.alignment.assign(
        evaluation=found.alignment["evaluation"].map(EVALUATIONS),
        measure=found.alignment["measure"].map(MEASURES),
    )
    shown = {
        "representation": "Representation", "layer": "Layer", "evaluation": "Evaluation",
        "measure": "Measure", "mean": "Mean", "interval": "95 % interval", "null_mean": "Null mean", "excess":
        "Excess", "p": "p",
    }  # fmt: skip
    tables.append(
        Table("gene-text-alignment", "Alignment with concepts; gene vectors are called text-<provider>.",
              interval(aligned), shown, rows=200, folded=True)
    )  # fmt: skip
    return [*tables, settings("gene-text-settings", "Settings.", found.settings)]


def _terms(provider: str, terms: pd.DataFrame, max_q: float) -> Table:
    """Return the terms that mark a type by the texts, strongest first, beside the two other routes."""
    counts = {route: int((terms[f"q_{route}"] < max_q).sum()) for route in ("text", "permuted", "expression")}
    top = terms[(terms["q_text"] < max_q) & (terms["effect_text"] > 0)]
    top = top.sort_values(["cell_type", "effect_text"], ascending=[True, False], kind="stable")
    top = top.groupby("cell_type", sort=False).head(5).reset_index(drop=True)
    return Table(
        f"gene-text-terms-{slug(provider)}",
        f"Terms that mark a cell type in the space of {provider}, five a type at most. Of {len(terms)} pairs "
        f"{counts['text']} have q < {max_q:g} by texts, {counts['permuted']} by permuted vectors and "
        f"{counts['expression']} by the mean expression of the term's genes, which needs no text.",
        top,
        {"cell_type": "Cell type", "name": "Term", "n_genes": "Genes", "effect_text": "Effect, texts",
         "q_text": "q", "effect_permuted": "Effect, permuted", "effect_expression": "Effect, expression"},
        rows=120,
        folded=True,
    )  # fmt: skip
