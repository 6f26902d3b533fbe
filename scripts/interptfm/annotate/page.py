"""The small report on annotated cells: what was shared, what is missing, which concepts are where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm.errors import InputError
from interptfm.report import svg
from interptfm.report.figures import WIDTH, style
from interptfm.report.page import Figure, Section, Table, number, render

if TYPE_CHECKING:
    from anndata import AnnData

TOP = 5
SHOWN = 30
LONGEST = 60
"""Characters of a name in the figure; tables have all of it."""
NO_GROUP = "all cells"


def build(cells: AnnData, name: str) -> str:
    """Return the page on an annotated file: self-contained HTML, all names escaped.

    Raises
    ------
    InputError
        If the file is not one that rule annotate_cells wrote.
    """
    try:
        facts = json.loads(cells.uns["interptfm"])["annotation"]
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{name}: found no record of the annotation in uns, expected annotated cells"
        ) from None
    title = f"Concepts in {name}"
    subtitle = (
        f"Cells annotated with the model and the dictionary {facts['dictionary']} (layer {facts['layer']}) "
        f"of "
        f"{facts['run']}, without any training."
    )
    return render(title, subtitle, [shared(facts), concepts(cells, facts)])


def shared(facts: dict[str, Any]) -> Section:
    """Return what file and run have in common, and what is missing."""
    lacking = facts["missing_genes"]
    prose = [
        "Every concept is scored as in the run's activity: the sum over its features of lift × the feature's "
        "aggregate over the cell's tokens, or the mean z-score of its genes where the run was configured so. "
        "Maxima of features, standard deviations of concepts, means of genes are those of the run's own "
        "cells, not "
        "of these: a value of 1 is one standard deviation among the cells of the run, and it does not "
        "depend on "
        "which other cells are in the file.",
        "Hence a difference from the run's cells may come from depth, panel or chemistry as well as from "
        "biology. "
        f"The median cell here has {number(facts['median_genes'])} genes that the model reads; in the "
        f"run's cells "
        f"the same genes give {number(facts['median_genes_of_run'])}.",
    ]
    if facts["n_cells_without_tokens"]:
        prose.append(
            f"{number(facts['n_cells_without_tokens'])} cells have no count of any gene that the model "
            f"reads; their "
            "activity is 0, and has_tokens says so."
        )
    return Section(
        "Cells and genes",
        prose,
        facts=[
            ("Cells", number(facts["n_cells"])),
            ("Counts taken from", facts["counts"]),
            ("Genes in the file", number(facts["n_genes_of_file"])),
            (
                "Of the run's panel",
                f"{number(facts['n_genes_shared'])} of {number(facts['n_genes_of_panel'])}",
            ),
            ("Read by the model", number(facts["n_genes_read"])),
            ("Concepts scored from", facts["source"]),
        ],
        tables=[
            Table(
                "missing-genes",
                "Genes of the run's panel that the file lacks. Genes of the file outside the panel are not "
                "used.",
                pd.DataFrame({"gene": pd.Series(lacking, dtype=object)}),
                {"gene": "Gene"},
                rows=SHOWN,
                folded=True,
            )
        ],
    )


def group_means(cells: AnnData, column: str | None) -> pd.DataFrame:
    """Return a row a (group, concept): ``group``, ``n_cells``, ``term_id``, ``name``, ``channel``, ``mean``,
    ``rest`` (mean of all other cells; NaN without any), ``difference``, ``n_genes``, ``n_genes_found``.

    Cells without tokens are left out; a missing value of the column is a group of its own.
    """
    has = cells.obs["has_tokens"].to_numpy(bool)
    labels = np.full(cells.n_obs, NO_GROUP, dtype=object)
    if column is not None:
        values = cells.obs[column].astype(object)
        labels = values.where(values.notna(), "(missing)").astype(str).to_numpy()
    matrix, labels = np.asarray(cells.X, np.float64)[has], labels[has]
    total, parts = matrix.sum(axis=0), []
    var = cells.var.reset_index(names="term_id")[["term_id", "name", "channel", "n_genes", "n_genes_found"]]
    for group in sorted(set(labels)):
        here = labels == group
        mean, others = matrix[here].mean(axis=0), int((~here).sum())
        rest = (total - matrix[here].sum(axis=0)) / others if others else np.full(len(mean), np.nan)
        difference = mean - rest if others else mean
        row = {"group": group, "n_cells": int(here.sum()), "mean": mean, "rest": rest}
        parts.append(var.assign(**row, difference=difference))
    return pd.concat(parts, ignore_index=True)


def concepts(cells: AnnData, facts: dict[str, Any]) -> Section:
    """Return the concepts that stand out in each group, and those that most genes are missing of."""
    means = group_means(cells, facts["group"])
    ordered = means.sort_values(["group", "difference"], ascending=[True, False], kind="stable")
    top = ordered.groupby("group", sort=False).head(TOP)
    by = f"the values of {facts['group']}" if facts["group"] else "all cells together"
    names = {
        "group": facts["group"] or "Cells", "n_cells": "Cells", "term_id": "Term", "name": "Name",
        "channel": "Channel", "mean": "Mean activity", "rest": "In other cells", "difference": "Difference",
    }  # fmt: skip
    var = cells.var.reset_index(names="term_id")
    var["share_found"] = var["n_genes_found"] / var["n_genes"]
    lacking = var.sort_values(["share_found", "term_id"])
    chosen = list(dict.fromkeys(top["term_id"]))[:SHOWN]
    return Section(
        "Concepts",
        [
            f"Mean activity by {by}, in standard deviations of the run's cells. The order is that of the "
            f"difference "
            "from all other cells; nothing here is tested, and cells of one section are not independent.",
        ],
        [
            Figure(
                "concept-groups",
                "Concepts by group",
                heat_map(means[means["term_id"].isin(chosen)], chosen),
                f"Mean activity of the {len(chosen)} concepts that stand out most, by {by}. The scale is "
                f"that of "
                "the run's cells; not tested.",
                "Heat map of concepts against groups of cells.",
                means,
            )
        ],
        [
            Table(
                "top-concepts",
                f"The {TOP} concepts of each group that differ most from all other cells.",
                top,
                names,
                rows=TOP * SHOWN,
            ),
            Table(
                "concept-genes",
                "Concepts by the share of their genes that the file has, fewest first.",
                lacking,
                {
                    "term_id": "Term", "name": "Name", "n_genes": "Genes in the run's panel",
                    "n_genes_found": "Of these in the file", "n_features": "Features", "sd": "Unit (the "
                    "run's SD)",
                },
                rows=SHOWN,
            ),
        ],
    )  # fmt: skip


def heat_map(means: pd.DataFrame, order: list[str]) -> str:
    """Draw mean activity of concepts (rows, in ``order``) by group (columns)."""
    wide = means.pivot(index="term_id", columns="group", values="mean").reindex(order)
    names = means.drop_duplicates("term_id").set_index("term_id")["name"].astype(str)
    labels = [n if len(n) <= LONGEST else f"{n[: LONGEST - 1]}…" for n in names.reindex(order)]
    top = max(1.0, float(np.nanmax(np.abs(wide.to_numpy(float)))))
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH, 1.6 + 0.22 * len(order)))
        # Sums over features have no negative values, means of z-scores do.
        signed = float(np.nanmin(wide.to_numpy(float))) < 0
        image = axis.imshow(
            wide,
            cmap="RdBu_r" if signed else "Blues",
            vmin=-top if signed else 0,
            vmax=top,
            aspect="auto",
            interpolation="nearest",
        )
        columns = [str(c) if len(str(c)) <= LONGEST else f"{str(c)[: LONGEST - 1]}…" for c in wide.columns]
        axis.set_xticks(range(len(columns)), columns, rotation=60, ha="right")
        axis.set_yticks(range(len(labels)), labels)
        axis.grid(visible=False)
        figure.colorbar(image, ax=axis, label="mean activity (SD of the run)", fraction=0.03, pad=0.01)
        return svg.save(figure, "concept-groups")
