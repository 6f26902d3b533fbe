"""Linear probes by layer, how their directions lie, and how many dictionary features a concept needs."""

from __future__ import annotations

import pandas as pd

from interptfm.report import probe_figures
from interptfm.report.page import Figure, Section, Table, number
from interptfm.report.probing import Probing
from interptfm.report.run import Run
from interptfm.report.sections.common import interval

SUMMARY = {
    "arm": "Arm", "layer": "Layer", "kind": "Probe", "split": "Held out", "metric": "Measure", "n": "Terms",
    "real": "Mean", "permuted": "Permuted", "difference": "Difference", "interval": "95 % interval",
}  # fmt: skip
TERMS = {
    "name": "Term", "kind": "Probe", "auroc": "AUROC", "interval": "95 % interval", "ap": "AP",
    "prevalence": "AP by chance", "precision": "Precision", "n_genes": "Genes",
    "n_features": "Features needed", "auroc_sparse": "AUROC, sparse",
}  # fmt: skip
MEASURES = {"ap": "AP", "auroc": "AUROC", "precision": "precision"}


def probes(run: Run) -> Section | None:
    """Probes of every layer beside permuted membership; None where none were fitted."""
    found = run.probing
    if found is None:
        return None
    layer = run.layer if run.layer in set(found.metrics["layer"]) else int(found.metrics["layer"].max())
    kind = _shown_kind(found)
    mine = found.cosines[found.cosines["kind"] == kind]
    drawn = (mine["chosen"] == "random") & (mine["layer"] == layer)
    shown = mine[drawn | (mine["chosen"] == "same term")]
    figures = [
        Figure(
            "probes-by-layer",
            "Concepts read out linearly, by layer",
            probe_figures.by_layer("probes-by-layer", found.summary),
            "Mean AUROC over terms on tokens of test cells. Left: only genes that the probe never saw. "
            "Right: all genes, where recognising genes is enough; the dotted lines, the same probes for "
            "membership permuted over genes, say how far that alone goes. Intervals over terms are in "
            "the TSV.",
            "Line charts of mean AUROC by layer for each kind of probe, on held-out genes and on cells.",
            found.summary,
        ),
        Figure(
            "probes-cosines",
            f"Directions of {kind} probes",
            probe_figures.cosines("probes-cosines", shown, layer),
            "Left: pairs of terms drawn at random; terms that share genes have similar directions under "
            "permuted membership, too. Right: mean cosine of a term's directions in two layers.",
            "Scatter plot of cosine against shared genes, and a heat map of cosines between layers.",
            shown.reset_index(drop=True),
        ),
        Figure(
            "probes-sparse",
            "Dictionary features that a concept needs",
            probe_figures.sparse("probes-sparse", found.path),
            "Median over terms, band: quartiles. L1 path on the mean activation of features over a gene's "
            "tokens; scored on genes and cells that had no part in it. Grey: membership permuted over genes.",
            "Line chart of AUROC on held-out genes against the number of dictionary features.",
            found.path,
        ),
    ]
    return Section("Probes", _prose(found, layer, kind), figures, _tables(run, found, layer, kind))


def _shown_kind(found: Probing) -> str:
    """Return the kind whose details are shown: ridge where there is one. Not the best one on test."""
    kinds = list(dict.fromkeys(found.metrics["kind"]))
    return "ridge" if "ridge" in kinds else str(kinds[0])


def _prose(found: Probing, layer: int, kind: str) -> list[str]:
    def mean(split: str, arm: str = "main") -> pd.Series | None:
        rows = found.summary[
            (found.summary["arm"] == arm) & (found.summary["layer"] == layer)
            & (found.summary["split"] == split) & (found.summary["metric"] == "auroc")
            & (found.summary["kind"] == kind)
        ]  # fmt: skip
        return rows.iloc[0] if len(rows) else None

    genes, cells = mean("genes"), mean("cells")
    words = [
        "A probe is a direction that tells tokens of a concept's genes from all others. A label depends on "
        "the gene alone: on held-out cells a probe passes by recognising genes, so that only held-out genes "
        "say whether a direction stands for the concept."
    ]
    if genes is not None and cells is not None:
        words.append(
            f"Layer {layer}, {kind}: mean AUROC {number(float(genes['real']))} on held-out genes "
            f"({number(float(genes['permuted']))} for permuted membership), {number(float(cells['real']))} "
            f"on held-out cells ({number(float(cells['permuted']))})."
        )
    for arm in dict.fromkeys(found.summary["arm"]):
        other = mean("genes", arm)
        if arm != "main" and other is not None:
            words.append(
                f"Arm {arm}: {number(float(other['real']))} on held-out genes "
                f"({number(float(other['permuted']))})."
            )
    real = found.sparse[found.sparse["label"] == "real"]
    words.append(
        f"Of {len(real)} terms, half need {number(float(real['n_features'].median()))} dictionary features "
        f"or fewer; mean AUROC on held-out genes {number(float(real['auroc'].mean()))}."
    )
    return words


def _tables(run: Run, found: Probing, layer: int, kind: str) -> list[Table]:
    summary = interval(found.summary.replace({"metric": MEASURES}))
    mine = found.metrics[
        (found.metrics["layer"] == layer) & (found.metrics["kind"] == kind)
        & (found.metrics["split"] == "genes") & (found.metrics["label"] == "real")
    ].dropna(subset="auroc")  # fmt: skip
    names = run.terms.assign(term_id=run.terms["term_id"].astype(str)).set_index("term_id")["name"]
    sparse = found.sparse[found.sparse["label"] == "real"].set_index("term_id")
    terms = interval(
        mine.assign(
            name=mine["term_id"].map(names),
            n_features=mine["term_id"].map(sparse["n_features"]),
            auroc_sparse=mine["term_id"].map(sparse["auroc"]),
        ).sort_values("auroc", ascending=False, kind="stable")
    )
    return [
        Table(
            "probes-summary",
            "Means over terms beside membership permuted over genes; the interval is of the difference, over "
            "terms, for this one permutation.",
            summary,
            SUMMARY,
            rows=60,
            folded=len(summary) > 24,
        ),
        Table(
            "probes-terms",
            f"Terms on held-out genes, layer {layer}, {kind}. Intervals are over blocks of cells; they do "
            "not say what other genes of the term would give.",
            terms,
            TERMS,
            rows=25,
        ),
    ]
