"""Recovery of planted programs, for simulated tissue."""

from __future__ import annotations

from interptfm.report import figures
from interptfm.report.page import Figure, Section, Table
from interptfm.report.run import Run
from interptfm.report.sections.common import COMPARED, HOW, interval


def recovery(run: Run) -> Section | None:
    """Recovery of planted programs against null, baselines and arms; None for real data."""
    if run.recovery is None:
        return None
    programs, comparisons, summary = run.recovery
    others = [name for name in programs.columns if name in set(summary["tables"][1:])]
    sources = {"permuted membership": "null_mean", "best single gene": "f1_single_gene"}
    sources = {"SAE": "f1", **sources, **{name: name for name in others}}
    main = comparisons[comparisons["left"] == summary["tables"][0]]
    drawn = [
        Figure(
            "recovery-forest",
            "Planted programs against null, baselines and arms",
            figures.forest("recovery-forest", main),
            f"Mean paired difference of test F1 (or of excess over the null) at layer {summary['layer']}, "
            f"which validation chose. Bars: 95 % percentile bootstrap over terms ({summary['n_resamples']} "
            "resamples). An interval right of 0 means that the dictionary is better. Terms that were "
            "not planted share genes with planted ones where they are their parents"
            f"{'; decoys are gene sets drawn at random' * ('decoys' in set(main['scope']))}.",
            "Forest plot of mean differences with intervals for planted programs and other terms.",
            main,
        ),
        Figure(
            "recovery-programs",
            "Each planted program",
            figures.programs("recovery-programs", programs, sources),
            "Test F1 by program, sorted by excess over the null; the bar spans from the null mean to the "
            "dictionary's F1. Feature and threshold are chosen on validation blocks; the null permutes "
            "genes in the membership and repeats the choice.",
            "Dot chart of the F1 of each planted program for the dictionary, its null and baselines.",
            programs,
        ),
    ]
    prose = [
        f"{summary['n_planted']} programs were planted; {summary['n_scored']} have a scored term "
        f"({summary['n_terms_scored']} distinct terms or classes of terms with the same genes)."
    ]
    for record in summary["missing"]:
        prose.append(f"Not evaluated: {record['program']} ({record['status']}).")
    prose += summary.get("held_out_genes", [])
    tables = [
        Table(
            "recovery-comparisons",
            f"All comparisons of the recovery, by scope. {HOW}",
            interval(comparisons),
            {"scope": "Over", **COMPARED},
            rows=80,
            folded=True,
        ),
        Table(
            "recovery-program-table",
            "Planted programs: test F1 of the dictionary, its null mean and the baselines.",
            programs,
            {"name": "Program", "term_id": "Term", "f1": "SAE", "null_mean": "Null mean", "excess": "Excess",
             "q": "q", "f1_single_gene": "Best gene", **{name: name for name in others}},
            rows=60,
        ),
    ]  # fmt: skip
    if run.curve is not None:
        drawn.append(
            Figure(
                "recovery-strength",
                "Recovery by strength of the planted programs",
                figures.strengths("recovery-strength", run.curve),
                "Excess of test F1 over permuted membership against the strength at which the same programs "
                "were planted, the whole chain run anew at each. At strength 0 nothing is planted: an "
                "interval above 0 there would be a fault of the method. Bars: 95 % bootstrap over terms.",
                "Line chart of mean excess with intervals against planted strength.",
                run.curve,
            )
        )
        columns = {
            "strength": "Strength", "scope": "Over", "layer": "Layer", "n": "Terms", "mean_f1": "Mean F1",
            "mean_null": "Mean null", "mean_excess": "Excess", "interval": "95 % interval",
            "verdict": "Verdict", "gene_auroc": "Held-out-gene AUROC", "gene_auroc_excess": "Its excess",
            "gene_auroc_lo": "2.5 %", "gene_auroc_hi": "97.5 %",
        }  # fmt: skip
        shown = {name: heading for name, heading in columns.items() if name in {*run.curve, "interval"}}
        tables.append(Table("recovery-strengths", "Recovery by strength.", interval(run.curve), shown))
    return Section("Recovery of planted programs", prose, drawn, tables)
