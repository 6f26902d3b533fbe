"""Figures of crosstalk. Edges of cells are rasterised."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interptfm.report import svg
from interptfm.report.figures import BLUE, DOT, GREY, INK, ORANGE, SOFT, VERMILION, WIDTH, short, style
from interptfm.report.tissue_figures import TYPE_COLOURS

WITHIN, CROSS = BLUE, VERMILION
DRAWN_EDGES = 20_000


def tissue_edges(name: str, cells: pd.DataFrame, edges: pd.DataFrame, columns: dict[str, str]) -> str:
    """Draw a section's edges by score, within compartments in one colour and across in another.

    ``cells``: x_um, y_um; ``edges``: i, j, cross, placed; ``columns``: column of ``edges`` → title. At most
    20,000 edges a panel, the strongest.
    """
    from matplotlib.collections import LineCollection

    xy = cells[["x_um", "y_um"]].to_numpy()
    placed = np.isfinite(xy).all(axis=1)
    span = np.maximum(np.ptp(xy[placed], axis=0), 1.0)
    below = span[0] > 1.6 * span[1]
    rows, count = (len(columns), 1) if below else (1, len(columns))
    tall = float(np.clip(WIDTH / count * span[1] / span[0], 1.2, 6)) * rows + 0.8
    with style() as plt:
        figure, axes = plt.subplots(rows, count, figsize=(WIDTH, tall), squeeze=False)
        for axis, (column, title) in zip(axes.ravel(), columns.items(), strict=True):
            axis.scatter(*xy[placed].T, s=1.2, color="#d5dbe1", linewidths=0, rasterized=True)
            value = edges[column].to_numpy()
            shown = np.flatnonzero(value > 0)
            shown = shown[np.argsort(value[shown], kind="stable")][-DRAWN_EDGES:]
            ends = np.stack([xy[edges["i"].to_numpy()[shown]], xy[edges["j"].to_numpy()[shown]]], axis=1)
            top = np.quantile(value[shown], 0.98) if len(shown) else 1.0
            strength = np.clip(value[shown] / max(top, 1e-9), 0.08, 1)
            cross = edges["cross"].to_numpy()[shown]
            for colour, mine in ((WITHIN, ~cross), (CROSS, cross)):
                if not mine.any():
                    continue
                lines = LineCollection(
                    list(ends[mine]), colors=colour, alpha=strength[mine], linewidths=0.7, rasterized=True,
                )  # fmt: skip
                axis.add_collection(lines)
            axis.set_aspect("equal")
            axis.set(title=short(title, 80 if below else 52), xlabel="x (µm)", ylabel="y (µm)")
            axis.grid(visible=False)
        axes[0][0].plot([], [], color=WITHIN, label="within a compartment")
        axes[0][0].plot([], [], color=CROSS, label="across compartments")
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return svg.save(figure, name)


def channel_heat(name: str, rows: pd.DataFrame, max_q: float) -> str:
    """Draw log₂ ratios of channels by pair of types or compartments; a dot where q < ``max_q``.

    ``rows``: level, source, target, channel, log2_ratio, q.
    """
    rows = rows.assign(
        pair=[" – ".join(p) for p in zip(rows["source"].astype(str), rows["target"].astype(str))]
    )
    levels = list(dict.fromkeys(rows["level"].astype(str)))
    counts = [rows.loc[rows["level"] == level, "pair"].nunique() for level in levels]
    channels = list(dict.fromkeys(rows["channel"].astype(str)))
    top = float(np.nanquantile(np.abs(rows["log2_ratio"]), 0.98)) if rows["log2_ratio"].notna().any() else 1.0
    with style() as plt:
        figure, axes = plt.subplots(
            len(levels), 1, figsize=(WIDTH, 1.6 + 0.155 * sum(counts) + 0.5 * len(levels)), squeeze=False,
            gridspec_kw={"height_ratios": counts}, sharex=True,
        )  # fmt: skip
        for axis, level in zip(axes[:, 0], levels, strict=True):
            mine = rows[rows["level"] == level].astype({"channel": str})
            ratio = mine.pivot(index="pair", columns="channel", values="log2_ratio").reindex(columns=channels)
            q = mine.pivot(index="pair", columns="channel", values="q").reindex(columns=channels)
            image = axis.imshow(
                ratio.to_numpy(float), cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto",
                interpolation="nearest",
            )  # fmt: skip
            y, x = np.nonzero(q.to_numpy(float) < max_q)
            axis.plot(x, y, "o", **DOT, markersize=3.4)
            axis.set_yticks(range(len(ratio)), ratio.index, fontsize=6.5)
            axis.set_xticks(range(len(channels)), channels, rotation=40, ha="right")
            axis.set(title=level)
            axis.grid(visible=False)
        figure.colorbar(
            image, ax=axes[:, 0].tolist(), label="log₂ ratio to the null", fraction=0.03, pad=0.01
        )
        return svg.save(figure, name)


def network(name: str, rows: pd.DataFrame, max_q: float) -> str:
    """Draw cell types on a circle, joined where channels or concept pairs have q < ``max_q``.

    ``rows``: source, target, q, direction. Width by number of findings; an arrow where all that have a
    direction agree on it.
    """
    types = sorted(set(rows["source"].astype(str)) | set(rows["target"].astype(str)))
    found = rows[rows["q"] < max_q].astype({"source": str, "target": str, "direction": str})
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(types)) / max(len(types), 1)
    place = {t: np.array([np.cos(x), np.sin(x)]) for t, x in zip(types, angle)}
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH * 0.72, WIDTH * 0.62))
        for (source, target), mine in found.groupby(["source", "target"]):
            width = 0.8 + 1.2 * np.log2(1 + len(mine))
            claims = set(mine["direction"]) & {"source to target", "target to source"}
            if source == target:
                axis.plot(
                    *(place[source] * 1.13), "o", markersize=5 + 2 * width, fillstyle="none", color=ORANGE
                )
                continue
            ends = (place[source], place[target])
            if claims == {"target to source"}:
                ends = ends[::-1]
            arrow = "-|>" if len(claims) == 1 else "-"
            axis.annotate(
                "", ends[1] * 0.95, ends[0] * 0.95,
                arrowprops={"arrowstyle": arrow, "color": BLUE if len(claims) == 1 else GREY,
                "linewidth": width},
            )  # fmt: skip
        for t in types:
            x, y = place[t]
            axis.plot(x, y, "o", color=INK, markersize=6)
            axis.annotate(
                t, place[t] * 1.2, ha="left" if x > 0.2 else "right" if x < -0.2 else "center", va="center",
            )  # fmt: skip
        axis.set(xlim=(-1.9, 1.9), ylim=(-1.4, 1.4))
        axis.set_aspect("equal")
        axis.axis("off")
        return svg.save(figure, name)


def dots(name: str, rows: pd.DataFrame, labels: list[str], max_q: float) -> str:
    """Draw the strongest findings: log₂ ratio with its interval, q by the size of the dot.

    ``rows``: log2_ratio, lo, hi, q, in the order shown from the top.
    """
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH, 0.9 + 0.24 * len(rows)))
        y = np.arange(len(rows))
        axis.axvline(0, color=SOFT, linewidth=0.9)
        axis.hlines(y, rows["lo"], rows["hi"], color=GREY, linewidth=1.1)
        size = 3 + 3.2 * -np.log10(np.clip(rows["q"].to_numpy(float), 1e-4, 1))
        for k in range(len(rows)):
            sure = rows["q"].iloc[k] < max_q
            axis.plot(
                rows["log2_ratio"].iloc[k], y[k], "o", markersize=size[k], color=BLUE if sure else "white",
                markeredgecolor=BLUE, markeredgewidth=1.0,
            )  # fmt: skip
        axis.set_yticks(y, [short(label, 90) for label in labels], fontsize=6.5)
        axis.set(ylim=(len(rows) - 0.4, -0.6), xlabel="log₂ ratio to the null, 95 % interval")
        axis.grid(axis="y", visible=False)
        return svg.save(figure, name)


def _two_lines(pair: str) -> str:
    """Return the names of a pair below each other, each short enough for a third of the width."""
    return "\nwith ".join(short(part, 44) for part in pair.split(" | "))


def decay(name: str, frame: pd.DataFrame) -> str:
    """Draw how association falls with distance; ``frame``: quantity, from_um, to_um, mean, lo, hi."""
    quantities = list(dict.fromkeys(frame["quantity"]))
    count = min(3, len(quantities))
    rows = -(-len(quantities) // count)
    with style() as plt:
        figure, axes = plt.subplots(
            rows, count, figsize=(WIDTH, 1.75 * rows + 0.3), squeeze=False, sharex=True
        )
        for k, axis in enumerate(axes.ravel()):
            if k >= len(quantities):
                axis.axis("off")
                continue
            mine = frame[frame["quantity"] == quantities[k]]
            middle = (mine["from_um"] + mine["to_um"]) / 2
            colour = TYPE_COLOURS[k % len(TYPE_COLOURS)]
            axis.axhline(0, color=SOFT, linewidth=0.9)
            axis.fill_between(middle, mine["lo"], mine["hi"], color=colour, alpha=0.18, linewidth=0)
            axis.plot(middle, mine["mean"], color=colour, marker="o", markersize=2.5)
            axis.set_title(_two_lines(quantities[k]), fontsize=6.5)
        for axis in axes[-1]:
            axis.set_xlabel("distance (µm)")
        for axis in axes[:, 0]:
            axis.set_ylabel("mean product")
        return svg.save(figure, name)


def null_histograms(name: str, frame: pd.DataFrame) -> str:
    """Draw the null of the strongest pairs and what was observed; ``frame``: claim, observed, value."""
    claims = list(dict.fromkeys(frame["claim"]))
    count = min(3, len(claims))
    rows = -(-len(claims) // count)
    with style() as plt:
        figure, axes = plt.subplots(rows, count, figsize=(WIDTH, 1.75 * rows + 0.3), squeeze=False)
        for k, axis in enumerate(axes.ravel()):
            if k >= len(claims):
                axis.axis("off")
                continue
            mine = frame[frame["claim"] == claims[k]]
            axis.hist(mine["value"], bins=30, color="#c3ccd5", linewidth=0)
            axis.axvline(mine["observed"].iloc[0], color=VERMILION)
            axis.set_title(_two_lines(claims[k]), fontsize=6.5)
        for axis in axes[-1]:
            axis.set_xlabel("covariance on edges")
        return svg.save(figure, name)
