"""Steering along concepts: judged by perturbed cells, and towards concepts without any."""

from __future__ import annotations

from interptfm.report import steering_figures
from interptfm.report.page import Figure, Section, Table, number
from interptfm.report.run import Run
from interptfm.report.sections.common import interval
from interptfm.report.steering import Steering

MEASURES = {
    "cosine_control": "Cosine", "cosine_centroids": "Cosine, centred", "pearson_control": "Pearson",
    "pearson_centroids": "Pearson, centred", "centroid_accuracy": "Centroid accuracy", "rank": "Rank",
    "overlap": "Overlap", "e_distance": "E-distance", "mmd": "MMD", "nearer": "Nearer",
    "nearer_unsteered": "… unsteered", "slope": "Slope", "off_target": "Off target",
}  # fmt: skip
TARGET = {
    "target": "Target", "method": "Method", "dose": "Dose", "cosine_control": "Cosine",
    "interval": "95 % interval", "p_cosine_control": "p", "q_cosine_control": "q",
    "centroid_accuracy": "Centroid accuracy", "q_centroid_accuracy": "its q", "overlap": "Overlap",
    "q_overlap": "its q", "worse_cosine_control": "Other genes worse", "slope": "Slope",
}  # fmt: skip
CURVES = (
    "concept, all tokens", "concept, gene's token", "concept, <cls>", "published rule, gene's token",
    "permuted probe, all tokens",
)  # fmt: skip
CONCEPTS = {
    "name": "Term", "n_held_out": "Genes", "effect": "Effect", "interval": "95 % interval", "auroc": "AUROC",
    "effect_permuted": "Permuted probe", "null_mean": "Random", "p": "p", "q": "q",
}  # fmt: skip


def steering(run: Run) -> Section | None:
    """Steering beside its baselines; None where nothing was steered."""
    found = run.steering
    if found is None:
        return None
    prose, figures, tables = [], [], []
    if found.summary is not None:
        prose += _prose(found)
        figures += _figures(found)
        tables += _tables(found)
    prose.append(_towards(found))
    figures.append(
        Figure(
            "steering-concepts",
            f"Cells of {found.concepts_summary['cell_type']} steered towards concepts",
            steering_figures.towards("steering-concepts", found.concepts),
            "Decoded change of genes of the concept that had no say in its direction, less that of other "
            f"genes; {found.concepts_summary['cells']} test cells, intervals over cells. The band holds 95 % "
            "of random directions of the same norm, which p is against (q: Benjamini–Hochberg over terms); "
            "crosses are probes of permuted membership.",
            "Points with intervals for each concept over a band of random directions.",
            found.concepts,
        )
    )
    tables.append(
        Table(
            "steering-towards",
            "Steering towards concepts; p over random directions of the same norm, q over the terms.",
            interval(found.concepts),
            CONCEPTS,
            rows=20,
        )
    )
    return Section("Steering", prose, figures, tables)


def _prose(found: Steering) -> list[str]:
    summary = found.summary or {}
    verdicts = [
        f"{words}: {', '.join(f'{n} {said}' for said, n in counts.items())}"
        for words, counts in summary["verdicts"].items()
    ]
    return [
        f"Control cells of a knock-down screen were steered at layer {summary['layer']} along the concepts "
        f"of each of {summary['with_concepts']} targets (of {summary['targets']}), and the shift of <cls> "
        "compared with the observed one in cells that nothing was fitted on. Every direction, random and "
        "permuted ones too, is added at the same norm; its dose was chosen on the other targets.",
        f"Verdicts for {summary['headline']}, targets: {'; '.join(verdicts)}. "
        f"The least p over {summary['random_directions']} random directions is "
        f"{number(summary['p_min'], 'p')}; {len(summary['not_steered'])} combinations of target and method "
        "could not be steered (no token, or too few cells with one).",
    ]


def _towards(found: Steering) -> str:
    summary = found.concepts_summary
    return (
        f"Towards concepts ({summary['terms']} terms, {summary['cells']} cells of {summary['cell_type']}): "
        f"held-out member genes change {number(summary['mean_effect'])} SD more than others on average "
        f"(AUROC {number(summary['mean_auroc'])}); random directions {number(summary['mean_null'])}; "
        f"permuted probes {number(summary['mean_effect_permuted'])}; {summary['n_significant']} terms at "
        "q < 0.05."
    )


def _figures(found: Steering) -> list[Figure]:
    screen = found.screen
    found_methods = set(screen["doses"]["method"])
    methods = [method for method in CURVES if method in found_methods]
    return [
        Figure(
            "steering-doses",
            "Dose and response, beside baselines",
            steering_figures.dose_curves("steering-doses", screen["doses"], screen["effects"], methods),
            "Medians over targets, bands: quartiles. Left: how much of the observed shift of <cls> is made. "
            "Right: its direction; straight lines are predictions without a dose. Judged on perturbed cells "
            "that nothing was fitted on; the tests against random directions are in the table of methods.",
            "Line charts of the response against the dose for each method.",
            screen["doses"],
        ),
        Figure(
            "steering-map",
            "Control, perturbed and steered cells",
            steering_figures.cell_map("steering-map", screen["map"]),
            "One UMAP of <cls> for the targets with the largest shifts. For the eye only.",
            "Scatter plots of cells, one panel a target.",
            screen["map"],
        ),
        Figure(
            "steering-activity",
            "Do perturbed cells differ along their concepts?",
            steering_figures.activity("steering-activity", screen["activity"]),
            "Standardised difference of <cls> between perturbed and control cells, along the target's "
            "concepts and along random directions, over targets. Concepts that matter lie above random ones.",
            "Violins of differences by layer for concept and random directions.",
            screen["activity"],
        ),
        *(
            [
                Figure(
                    "steering-genes",
                    "Effects on genes",
                    steering_figures.effects_on_genes("steering-genes", screen["expression"]),
                    "The genes that change most over all targets; each row in its own largest change. Above: "
                    "perturbed cells; below: control cells steered. Nothing is tested here.",
                    "Two heat maps of targets by genes, observed and decoded.",
                    screen["expression"],
                )
            ]
            if screen["expression"]["predicted"].notna().any()
            else []
        ),
    ]


def _tables(found: Steering) -> list[Table]:
    effects, genes = found.screen["effects"], found.screen["genes"]
    means = effects.groupby("method", sort=False)[list(MEASURES)].mean()
    counts = effects.groupby("method", sort=False)["target"].nunique()
    overview = means.assign(n=counts).reset_index()
    steered = effects[effects["method"].str.startswith("concept")]
    tables = [
        Table(
            "steering-methods",
            "Means over targets, on judging cells. Rank: 0 perfect, 0.5 random. Nearer: share of cells that "
            "a classifier fitted on other cells calls perturbed. Slope and off target in norms of the "
            "observed shift. Methods with no dose column were not dosed; ceilings know the target.",
            overview,
            {"method": "Method", "n": "Targets", **MEASURES},
            rows=40,
        ),
        Table(
            "steering-verdicts",
            "Verdict for every target.",
            genes,
            {"target": "Target", "n_cells": "Cells", "n_concepts": "Concepts", "measured": "Has a token",
             "verdict": "Verdict"},
            rows=60,
        ),
        Table("steering-targets", "Each target.", interval(steered), TARGET, rows=100, folded=True),
    ]  # fmt: skip
    if len(found.screen["ablation"]):
        ablation = (
            found.screen["ablation"]
            .groupby(["kind", "layer", "position"])[
                ["cosine_control", "centroid_accuracy", "overlap", "best_dose_cosine", "best_dose_accuracy"]
            ]
            .mean()
            .reset_index()
        )
        tables.append(
            Table(
                "steering-ablation",
                "Probe, layer and position; the last two columns take each target's own best dose, an upper "
                "bound and no held-out result.",
                ablation,
                {"kind": "Probe", "layer": "Layer", "position": "Position", "cosine_control": "Cosine",
                 "centroid_accuracy": "Centroid accuracy", "overlap": "Overlap",
                 "best_dose_cosine": "Cosine, best dose", "best_dose_accuracy": "Accuracy, best dose"},
                rows=60,
                folded=True,
            )
        )  # fmt: skip
    if found.recovery is not None:
        regulators, claims = found.recovery
        tables += [
            Table(
                "steering-claims",
                "Planted regulators. Only this reads the truth.",
                claims,
                {"claim": "Claim", "value": "Value", "n": "Of", "wanted": "Wanted", "met": "Met"},
                rows=80,
                folded=True,
            ),
            Table(
                "steering-regulators", "The planted regulators one by one.", regulators, rows=60, folded=True
            ),
        ]
    return tables
