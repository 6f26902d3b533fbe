"""How active concepts are in cells, by channel and cell type."""

from __future__ import annotations

from interptfm.report import activity_figures
from interptfm.report.page import Figure, Section, Table, number
from interptfm.report.run import Run
from interptfm.report.sections.common import interval

CONCEPTS = {
    "term_id": "Term", "name": "Name", "channel": "Channel", "ic": "IC", "n_features": "Features",
    "rolled_up": "Rolled up", "reason": "Left out because",
}  # fmt: skip
MEANS = {
    "channel": "Channel", "cell_type": "Cell type", "n_concepts": "Concepts", "n_cells": "Cells",
    "mean": "Mean", "interval": "95 % interval", "mean_genes": "Mean, genes alone",
}  # fmt: skip
CHANNELS = {"channel": "Channel", "by": "By", "terms": "Terms", "concepts": "Concepts with activity"}


def activity(run: Run) -> Section | None:
    """Channels by cell type, the concepts with their features; None where no activity was scored."""
    if run.activity is None:
        return None
    tables, summary = run.activity
    concepts, channels, means = (tables[name] for name in ("concepts", "channels", "means"))
    of_genes = summary["source"] == "genes"
    made = (
        "the mean z-score of its genes"
        if of_genes
        else "the sum over the features that are aligned with it of lift × the feature's aggregate over the "
        f"cell's tokens ({summary['dictionary']}, layer {summary['layer']})"
    )
    prose = [
        f"The activity of a concept in a cell is {made}, in units of its standard deviation over cells. "
        f"{summary['n_concepts']} of {summary['n_terms']} concepts have one"
        + ("." if summary["status"] == "ok" else f": {summary['status']}.")
        + f" {summary['n_pairs']} pairs of concept and feature count; which do is about the genes that a "
        "feature fires on, and knows nothing of places.",
        f"Channels: {number(summary['unclassified_share'])} of the terms are in none, and "
        f"{number(summary['generic_share'])} are too generic to say anything. "
        f"Roll-up over the graph: {summary['rollup']['status']}.",
    ]
    figures = []
    if (means["n_concepts"] > 0).any():
        figures.append(
            Figure(
                "channels",
                "Channels by cell type",
                activity_figures.channel_map(
                    "channels", means, ("genes alone, scaled" if of_genes else "from features", "genes alone")
                ),
                "Mean over the concepts of a channel, z-scored over all cells, in the cells of each type. "
                "Right: the same concepts by the mean z-score of their genes, which needs no model. "
                "Intervals over blocks are in the TSV; nothing is tested here.",
                "Two heat maps of channels against cell types.",
                means,
            )
        )
    used = set(concepts.loc[concepts["used"], "term_id"])
    sizes = channels.assign(used=channels["term_id"].isin(used)).groupby(["channel", "by"], sort=False)
    counts = sizes["used"].agg(terms="size", concepts="sum").reset_index()
    ordered = concepts.sort_values(["used", "n_features", "ic"], ascending=[False, False, False])
    return Section(
        "Concept activity",
        prose,
        figures,
        [
            Table(
                "channel-terms",
                "Terms by channel, and what decided: a root above in the graph, or a pattern in the name.",
                counts.sort_values("terms", ascending=False),
                CHANNELS,
                rows=40,
            ),
            Table(
                "activity-concepts",
                "Concepts, those with most features first.",
                ordered.drop(columns="features"),
                CONCEPTS,
                rows=40,
            ),
            Table(
                "channel-means",
                "Channels by cell type; 95 % intervals over blocks.",
                interval(means),
                MEANS,
                rows=80,
                folded=True,
            ),
        ],
    )
