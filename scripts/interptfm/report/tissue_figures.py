"""Figures of units' scores and of the microenvironments called from them. Clouds of points are rasterised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interptfm.report import svg
from interptfm.report.figures import (
    BLUE,
    DOT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RASTER_ABOVE,
    SKY,
    SOFT,
    VERMILION,
    WIDTH,
    style,
)

REGION_COLOURS = {"tumour": VERMILION, "interface": ORANGE, "TME": BLUE, "not called": "#d5dbe1"}
SCORES = (
    ("tis_hard", "all cells, all genes"),
    ("tis_matched", "within cell type, judge thinned"),
    ("tis_heldout_genes", "genes the model did not see"),
)
TYPE_COLOURS = (
    *(
        BLUE,
        ORANGE,
        GREEN,
        VERMILION,
        PURPLE,
        SKY,
        GREY,
        "#8A6D00",
        "#332288",
        "#117733",
        "#882255",
        "#DDCC77",
    ),
    *("#44AA99", "#AA4499", "#661100", "#6699CC", "#888888", "#000000"),
)


def scores(name: str, table: pd.DataFrame, null: pd.DataFrame) -> str:
    """Draw every unit's score, one row a variant, one panel a judge; grey: the middle 95 % of shuffled units.

    ``table``: variant and the columns of :data:`SCORES`; ``null``: tis_hard.
    """
    variants = list(dict.fromkeys(table["variant"]))
    shown = [(column, title) for column, title in SCORES if table[column].notna().any()]
    rng = np.random.default_rng(0)
    lo, hi = np.quantile(null["tis_hard"], (0.025, 0.975)) if len(null) else (0.5, 0.5)
    with style() as plt:
        figure, axes = plt.subplots(
            1,
            len(shown),
            figsize=(WIDTH, 1.0 + 0.34 * len(variants)),
            sharey=True,
            sharex=True,
            squeeze=False,
        )
        for axis, (column, title) in zip(axes[0], shown, strict=True):
            if column == "tis_hard":
                axis.axvspan(lo, hi, color="#e3e8ed", linewidth=0)
            axis.axvline(0.5, color=SOFT, linewidth=0.9)
            for row, variant in enumerate(variants):
                values = table.loc[table["variant"] == variant, column].dropna().to_numpy()
                if not len(values):
                    continue
                height = row + rng.uniform(-0.26, 0.26, len(values))
                axis.plot(
                    values, height, "o", markersize=2.4, markeredgewidth=0, alpha=0.55,
                    color=BLUE if variant == "units" else GREY, rasterized=len(table) > RASTER_ABOVE,
                )  # fmt: skip
                axis.plot(np.median(values), row, "|", color=INK, markersize=15, markeredgewidth=1.8)
            axis.set(title=title, xlabel="TIS")
            axis.grid(axis="y", visible=False)
        axes[0][0].set_yticks(range(len(variants)), variants)
        axes[0][0].set(ylim=(len(variants) - 0.5, -0.5))
        return svg.save(figure, name)


def enrichment(name: str, units: pd.DataFrame, enriched: pd.DataFrame, max_q: float) -> str:
    """Draw the effect of each unit in each cell type; units sorted by call, a dot where q < ``max_q``."""
    order = {call: i for i, call in enumerate(("tumour", "interface", "TME", ""))}
    placed = units.assign(order=units["call"].fillna("").map(order))
    placed = placed.sort_values(["order", "tis_hard"], ascending=[True, False])
    chosen = placed["unit"].tolist()
    effect = enriched.pivot(index="cell_type", columns="unit", values="effect").reindex(columns=chosen)
    q = enriched.pivot(index="cell_type", columns="unit", values="q").reindex(columns=chosen)
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH, 1.3 + 0.24 * len(effect)))
        image = axis.imshow(
            effect, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest",
        )  # fmt: skip
        row, column = np.nonzero(q.to_numpy(float) < max_q)
        axis.plot(column, row, "o", **DOT, markersize=2.4)
        axis.set_yticks(range(len(effect)), effect.index)
        labels = [f"{unit}" for unit in chosen]
        axis.set_xticks(range(len(chosen)), labels, rotation=90, fontsize=min(7, 330 / max(len(chosen), 1)))
        calls = placed["call"].fillna("").tolist()
        for call in dict.fromkeys(calls):
            start, stop = calls.index(call), len(calls) - calls[::-1].index(call)
            axis.axvline(stop - 0.5, color=INK, linewidth=0.9)
            middle = (start + stop - 1) / 2
            axis.text(middle, -0.75, call or "not called", ha="center", va="bottom", fontsize=8)
        axis.set(xlabel="unit")
        axis.grid(visible=False)
        figure.colorbar(image, ax=axis, label="effect (2 · AUC − 1)", fraction=0.03, pad=0.01)
        return svg.save(figure, name)


def tissue(name: str, cells: pd.DataFrame) -> str:
    """Draw one section's cells by geometric region and by called compartment.

    ``cells``: x_um, y_um, region, compartment (empty: not called).
    """
    placed = cells[cells["x_um"].notna()]
    x, y = placed["x_um"].to_numpy(), placed["y_um"].to_numpy()
    width, height = max(np.ptp(x), 1.0), max(np.ptp(y), 1.0)
    below = width > 1.6 * height
    rows, columns = (2, 1) if below else (1, 2)
    panel = WIDTH / columns
    tall = float(np.clip(panel * height / width, 1.2, 6)) * rows + 0.9
    with style() as plt:
        figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, tall), squeeze=False)
        # Points that together cover a third of the panel (72 points an inch).
        size = float(np.clip(panel**2 * height / width * 72**2 / 3 / max(len(placed), 1), 0.3, 14))
        titles = (("region", "geometric region"), ("compartment", "called from units"))
        for axis, (column, title) in zip(axes.ravel(), titles, strict=True):
            labels = placed[column].replace("", "not called").to_numpy()
            axis.scatter(
                x, y, s=size, c=[REGION_COLOURS[label] for label in labels], linewidths=0, rasterized=True,
            )  # fmt: skip
            axis.set_aspect("equal")
            axis.set(title=title, xlabel="x (µm)", ylabel="y (µm)")
            axis.grid(visible=False)
        for label, colour in REGION_COLOURS.items():
            axes[0][0].plot([], [], "o", color=colour, label=label, markersize=5)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return svg.save(figure, name)


def composition(name: str, frame: pd.DataFrame, kinds: Sequence[str] = ("geometric", "called")) -> str:
    """Draw the share of cell types in each region; ``frame``: kind, region, cell_type, n, share."""
    types = list(dict.fromkeys(frame["cell_type"]))
    colours = {t: TYPE_COLOURS[i % len(TYPE_COLOURS)] for i, t in enumerate(types)}
    rows = [
        (kind, region)
        for kind in kinds
        for region in dict.fromkeys(frame["region"])
        if frame.loc[(frame["kind"] == kind) & (frame["region"] == region), "n"].sum()
    ]
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH, 1.3 + 0.33 * len(rows) + 0.2 * (len(types) // 6)))
        for place, (kind, region) in enumerate(rows):
            part = frame[(frame["kind"] == kind) & (frame["region"] == region)]
            left = 0.0
            for t, share in zip(part["cell_type"], part["share"], strict=True):
                axis.barh(place, share, left=left, color=colours[t], edgecolor="white", linewidth=0.5)
                left += share
        for t in types:
            axis.barh(0, 0, color=colours[t], label=t)
        names = [f"{region}, {kind}" for kind, region in rows]
        counts = [
            int(frame.loc[(frame["kind"] == kind) & (frame["region"] == region), "n"].sum())
            for kind, region in rows
        ]
        labels = [f"{label} ({n:,} cells)".replace(",", "\u202f") for label, n in zip(names, counts)]
        axis.set_yticks(range(len(rows)), labels)
        axis.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1), xlabel="share of cells")
        axis.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=min(len(types), 6))
        return svg.save(figure, name)


def profiles(name: str, frame: pd.DataFrame, interface_um: float) -> str:
    """Draw means by distance to the tumour with 95 % intervals; ``frame``: quantity, from_um, to_um, mean."""
    quantities = list(dict.fromkeys(frame["quantity"]))
    probabilities = [q for q in quantities if q.startswith("p, ")]
    others = [q for q in quantities if q not in probabilities]
    panels = [part for part in (probabilities, others) if part]
    with style() as plt:
        figure, axes = plt.subplots(1, max(len(panels), 1), figsize=(WIDTH, 3.1), squeeze=False)
        for axis, part in zip(axes[0], panels):
            axis.axvspan(0, interface_um, color="#fdf1d8", linewidth=0)
            axis.axvline(0, color=SOFT, linewidth=0.9)
            for i, quantity in enumerate(part):
                rows = frame[frame["quantity"] == quantity]
                middle = (rows["from_um"] + rows["to_um"]) / 2
                colour = REGION_COLOURS.get(quantity.removeprefix("p, "), PURPLE)
                line = ("-", "--", "-.")[i % 3]
                axis.plot(middle, rows["mean"], line, color=colour, marker="o", markersize=3, label=quantity)
                axis.fill_between(middle, rows["lo"], rows["hi"], color=colour, alpha=0.18, linewidth=0)
            axis.set(xlabel="distance to the tumour (µm; negative inside)")
            if len(part) > 1:
                axis.legend()
        axes[0][0].set(ylabel="mean probability", title="Compartments")
        if len(panels) > 1:
            axes[0][1].set(ylabel="mean z", title="Interface score")
        return svg.save(figure, name)
