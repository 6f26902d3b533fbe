"""Which units an outside judge can read, and the microenvironments called from the best of them."""

from __future__ import annotations

import pandas as pd

from interptfm.report import tissue_figures
from interptfm.report.microenvironments import Microenvironments, Space
from interptfm.report.page import Figure, Section, Table, number, slug
from interptfm.report.run import Run
from interptfm.report.sections.common import interval

MAPPED_ROWS = 5_000
VARIANTS = {
    "variant": "Units", "n": "n", "n_scored": "Scored", "mean": "Mean", "mean_matched": "Mean, matched",
    "mean_heldout_genes": "Mean, held-out genes", "n_significant": "q < 0.05", "best": "Best",
    "best_tis": "Its score", "null_expected_best": "Best by chance",
    "reliability_by_block": "r, block halves", "reliability_by_seed": "r, seeds",
}  # fmt: skip
UNITS = {
    "unit": "Unit", "tis_hard": "TIS", "interval": "95 % interval", "q": "q", "tis_matched": "Matched",
    "tis_heldout_genes": "Held-out genes", "reliability": "Reliability", "call": "Call", "T": "T", "E": "E",
}  # fmt: skip


def interpretability(run: Run) -> Section | None:
    """TIS of every space of units beside its controls; None where none was scored."""
    found = run.microenvironments
    if found is None:
        return None
    chosen = found.chosen
    settings = run.config["tis"]
    depth = _depth(chosen, "cell type, judge thinned")
    prose = [
        "The transcriptomic interpretability score (TIS) is the share of tasks in which a judge that sees "
        "expression alone tells a cell that drives a unit from one that does not, given "
        f"{settings['references']} examples of each; chance is 0.5. {settings['tasks']} tasks a unit; the "
        f"cells of a task come from one section, and from the {settings['quantile']:.0%} of its cells where "
        "the unit is highest, or lowest.",
        "A high score is not yet a discovery: expression's own principal components are the ceiling, and "
        "random directions and rotations of the same space say whether single units are special.",
    ]
    if depth is not None:
        prose.append(
            f"The total counts of a cell, as a unit, score {number(depth)} within cell type with counts "
            f"thinned to equal depth ({chosen.summary['thinned_to']} counts)."
        )
    held_out = chosen.summary["held_out"]
    if held_out:
        prose.append(
            f"Held-out genes: {held_out['genes_seen']} genes were seen by the model, "
            f"{held_out['genes_of_the_judge']} others judge; units are {held_out['units_are']}."
        )
    figures, tables = [], []
    for space in found.spaces:
        key = slug(space.label)
        figures.append(
            Figure(
                f"tis-{key}",
                f"Interpretability of units: {space.label}",
                tissue_figures.scores(f"tis-{key}", space.table, space.null),
                "One point a unit, a bar at the median. Grey band: the middle 95 % of "
                f"{space.summary['null']['n']} shuffled units, which p is against (q: Benjamini–Hochberg "
                "over the units of a kind). Cells of all blocks; single scores have a "
                f"standard error of up to {0.5 / settings['tasks'] ** 0.5:.3f} from the tasks alone.",
                "Strip charts of the score of each unit by kind of unit, for up to three judges.",
                space.table,
            )
        )
        tables.append(
            Table(
                f"tis-variants-{key}",
                f"Units and controls: {space.label}. Best by chance: the mean of the best of as many "
                f"shuffled units. r: correlation of scores over units. {space.summary['family']}; the least "
                f"p is {number(space.summary['null']['p_min'], 'p')}.",
                pd.DataFrame(space.summary["variants"]),
                VARIANTS,
                folded=space is not chosen,
            )
        )
    tables.append(
        Table(
            "tis-depth",
            f"What matching does about depth: {chosen.label}. The score of two plain quantities and of a "
            "sample of units, under each way of matching; a claim that does not exceed the score of total "
            "counts in the same column may be about depth.",
            pd.DataFrame(chosen.summary["by_matching"]),
            {"matching": "Matching", "unit": "Unit", "tis": "TIS", "n_cells": "Cells"},
            rows=40,
        )
    )
    return Section("Interpretability of units", prose, figures, tables)


def _depth(space: Space, matching: str) -> float | None:
    rows = [row["tis"] for row in space.summary["by_matching"]
            if row["matching"] == matching and row["unit"] == "total counts"]  # fmt: skip
    return rows[0] if rows else None


def microenvironments(run: Run) -> Section | None:
    """Compartments, the interface claim and their agreement with what they were not made from."""
    found = run.microenvironments
    if found is None:
        return None
    tables, summary = found.regions, found.summary
    called = summary["n_called"]
    claim = summary["interface"]
    max_q = run.config["regions"]["max_q"]
    prose = [
        f"Of the units of {found.chosen.label}, the {summary['n_units']} with the highest significant TIS "
        f"were compared with cell types: {called['tumour']} are called tumour, {called['TME']} TME and "
        f"{called['interface']} interface; {summary['status']}. Tumour cells: {summary['tumour_by']}. "
        f"Agreement is measured on {summary['agreement_on']}.",
        "Interface claim: within one cell type, is a unit different within "
        f"{summary['interface_um']:g} µm of the tumour? {claim['n_significant']} of {claim['n_tests']} tests "
        f"pass q < {max_q:g} (two-sided, depth strata, signs of whole blocks flipped). Types tested: "
        f"{', '.join(claim['types_tested']) or 'none'}; too few cells: "
        f"{', '.join(claim['types_not_tested']) or 'none'}.",
    ]
    figures = []
    if len(tables["enrichment"]):
        figures.append(
            Figure(
                "unit-types",
                "Units and cell types",
                tissue_figures.enrichment("unit-types", tables["units"], tables["enrichment"], max_q),
                "Effect of each unit for each cell type within blocks, from −1 to 1; a dot where q < "
                f"{max_q:g}: signs of whole blocks flipped, Benjamini–Hochberg over all units and types. "
                "Training and validation blocks.",
                "Heat map of units against cell types.",
                tables["enrichment"],
            )
        )
    for sample, cells in found.cells.groupby("sample", sort=False):
        key = slug(str(sample))
        if cells["x_um"].isna().all():
            continue
        shown = cells[["cell", "x_um", "y_um", "region", "compartment"]]
        if len(shown) > MAPPED_ROWS:
            shown = shown[["region", "compartment"]].value_counts().reset_index()
        figures.append(
            Figure(
                f"tissue-{key}",
                f"Compartments in {sample}",
                tissue_figures.tissue(f"tissue-{key}", cells),
                "Geometric regions use labels and distances (interface: other cells within "
                f"{summary['interface_um']:g} µm of a tumour cell); compartments use units alone. How "
                f"well both agree is measured on {summary['agreement_on']}, in the table of agreement.",
                "Two maps of the section's cells, by region and by called compartment.",
                shown,
            )
        )
    figures.append(
        Figure(
            "composition",
            "Cell types by region",
            tissue_figures.composition("composition", tables["composition"]),
            "Share of cell types in each geometric region and in each called compartment, all cells. "
            "Nothing is tested here.",
            "Stacked bars of cell types by region.",
            tables["composition"],
        )
    )
    if len(tables["profiles"]):
        figures.append(
            Figure(
                "profiles",
                "Compartments by distance to the tumour",
                tissue_figures.profiles("profiles", tables["profiles"], summary["interface_um"]),
                "Means with 95 % block-bootstrap bands; tumour cells at minus their distance to the nearest "
                "other cell. Shaded: the interface. A description: the interface claim is tested in the "
                "table.",
                "Line charts of mean probabilities and of the interface score by distance.",
                tables["profiles"],
            )
        )
    return Section("Microenvironments", prose, figures, [*_tables(found), *_recovery(found)])


def _tables(found: Microenvironments) -> list[Table]:
    tables = found.regions
    judged = (
        f"Agreement of the calls, on {found.summary['agreement_on']}; 95 % intervals over blocks. A "
        "classifier was taught the regions on the other blocks: what it is shown and how well it does tell "
        "whether units, the way of calling, or a cell's own expression sets the limit."
    )
    shared = {"interval": "95 % interval", "n": "Cells", "n_blocks": "Blocks"}
    agreement = {"measure": "Measure", "group": "Of", "value": "Value", **shared}
    rows = tables["agreement"]
    of_calls = rows["measure"].str.contains("^markers of |^stain ")
    seen = "Markers, and stains that no model sees, by called compartment; cells and intervals as above."
    confusion = {"region": "Region", "call": "Called", "n": "Cells", "share": "Share of the region"}
    claim = {
        "unit": "Unit", "cell_type": "Cell type", "effect": "Effect", "p": "p", "q": "q", "p_min": "Least p",
        "n_near": "Near", "n_far": "Far", "n_blocks": "Blocks", "reason": "Not tested",
    }  # fmt: skip
    claims = tables["interface"].sort_values(["q", "p"], kind="stable")
    words = (
        "The interface claim: mean rank near the tumour less that farther away, within type and depth "
        "stratum."
    )
    units = "The units that calls were made from."
    return [
        Table("agreement", judged, interval(rows[~of_calls]), agreement, rows=40),
        Table("by-compartment", seen, interval(rows[of_calls]), agreement, rows=100, folded=True),
        Table("confusion", "Cells by region and call.", tables["confusion"], confusion, folded=True),
        Table("interface", words, claims, claim),
        Table("top-units", units, interval(tables["units"]), UNITS, rows=50, folded=True),
    ]


def _recovery(found: Microenvironments) -> list[Table]:
    if found.recovery is None:
        return []
    programs, claims, _ = found.recovery
    claim = {
        "claim": "Claim",
        "value": "Value",
        "interval": "95 % interval",
        "wanted": "Wanted",
        "met": "Met",
    }
    program = {
        "program": "Program", "place": "Place", "unit": "Unit", "r": "r",
        "r_within_types": "r within its types", "tis_hard": "TIS", "q": "q", "tis_matched": "Matched",
        "tis_heldout_genes": "Held-out genes",
    }  # fmt: skip
    words = (
        "For each planted program the unit that follows it most (chosen on training and validation cells, "
        "r on test cells), and its scores."
    )
    return [
        Table("unit-claims", "What the simulation can check. Only this reads the truth.",
              interval(claims), claim),
        Table("unit-programs", words, programs, program, rows=40),
    ]  # fmt: skip
