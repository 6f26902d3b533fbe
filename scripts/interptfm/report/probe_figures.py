"""Figures of probes: scores by layer, cosines of directions, features that a concept needs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interptfm.report import svg
from interptfm.report.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RASTER_ABOVE, SOFT, WIDTH, style

KIND_LOOKS = {
    "difference": (BLUE, "o"),
    "ridge": (ORANGE, "s"),
    "logistic": (GREEN, "^"),
    "softmax": (PURPLE, "v"),
}
SPLIT_WORDS = {"genes": "held-out genes", "cells": "held-out cells, all genes known"}


def by_layer(name: str, summary: pd.DataFrame) -> str:
    """Draw mean AUROC by layer, one panel a split; ``summary``: arm, layer, kind, split, real, permuted."""
    shown = summary[summary["metric"] == "auroc"]
    with style() as plt:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.4), sharey=True)
        for axis, (split, words) in zip(axes, SPLIT_WORDS.items(), strict=True):
            for (arm, kind), part in shown[shown["split"] == split].groupby(["arm", "kind"], sort=False):
                colour, marker = KIND_LOOKS[kind]
                ordered, main = part.sort_values("layer"), arm == "main"
                label = kind if main else f"{kind}, {arm}"
                axis.plot(
                    ordered["layer"], ordered["real"], "-" if main else "--", color=colour, marker=marker,
                    markersize=5, markerfacecolor=colour if main else "white", label=label,
                    linewidth=1.7 if main else 1.0,
                )  # fmt: skip
                if main:
                    axis.plot(ordered["layer"], ordered["permuted"], ":", color=colour, linewidth=1.3)
            axis.axhline(0.5, color=SOFT, linewidth=0.9)
            axis.set(xlabel="layer", title=words)
            axis.set_xticks(sorted(shown["layer"].unique()))
        axes[0].set_ylabel("mean AUROC over terms")
        axes[0].plot([], [], ":", color=GREY, linewidth=1.3, label="permuted membership")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return svg.save(figure, name)


def cosines(name: str, table: pd.DataFrame, layer: int) -> str:
    """Draw cosines of pairs of terms against their shared genes, and of one term between layers.

    ``table``: columns of :func:`interptfm.probes.cosines.compare`, of one kind; pairs of ``layer`` are drawn.
    """
    pairs = table[(table["chosen"] == "random") & (table["layer"] == layer)]
    across = table[table["chosen"] == "same term"]
    with style() as plt:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
        looks = (("permuted", GREY, "x", "permuted membership"), ("real", BLUE, "o", "real membership"))
        for label, colour, marker, words in looks:
            part = pairs[pairs["label"] == label]
            axes[0].scatter(
                part["jaccard"], part["cosine"], s=11, marker=marker, color=colour, alpha=0.5, label=words,
                linewidths=0.7, rasterized=len(pairs) > RASTER_ABOVE // 3,
            )  # fmt: skip
        axes[0].axhline(0, color=SOFT, linewidth=0.9)
        axes[0].set(
            xlabel="genes shared by the two terms (Jaccard)", ylabel="cosine of their directions",
            title=f"Within layer {layer}",
        )  # fmt: skip
        axes[0].legend(loc="lower right")
        _across(figure, axes[1], across)
        return svg.save(figure, name)


def _across(figure, axis, across: pd.DataFrame) -> None:
    """Draw the mean cosine of a term's directions between layers: real above the diagonal, permuted below."""
    layers = sorted({*across["layer"], *across["other_layer"]})
    axis.grid(visible=False)
    axis.set(title="One term in two layers")
    if not layers:
        axis.text(0.5, 0.5, "one layer", ha="center", transform=axis.transAxes)
        return
    place = {layer: i for i, layer in enumerate(layers)}
    grid = np.eye(len(layers))
    for (a, b, label), part in across.groupby(["layer", "other_layer", "label"]):
        i, j = place[a], place[b]
        grid[(i, j) if label == "real" else (j, i)] = part["cosine"].mean()
    image = axis.imshow(grid, cmap="cividis", vmin=min(0.0, float(grid.min())), vmax=1)
    if len(layers) <= 6:
        for i, j in np.ndindex(grid.shape):
            axis.text(
                j, i, f"{grid[i, j]:.2f}", ha="center", va="center",
                color="black" if grid[i, j] > 0.6 else "white",
            )  # fmt: skip
    axis.set_xticks(range(len(layers)), layers)
    axis.set_yticks(range(len(layers)), layers)
    axis.set(xlabel="layer (above the diagonal: real)", ylabel="layer (below: permuted)")
    figure.colorbar(image, ax=axis, shrink=0.8, label="mean cosine")


def sparse(name: str, path: pd.DataFrame) -> str:
    """Draw held-out AUROC against the number of features; ``path``: label, n_features, auroc."""
    looks = {"real": (BLUE, "-", "o"), "permuted": (GREY, ":", "x")}
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH * 0.72, 3.0))
        axis.axhline(0.5, color=SOFT, linewidth=0.9)
        for label, (colour, line, marker) in looks.items():
            found = path[path["label"] == label].groupby("n_features")["auroc"]
            low, middle, high = (found.quantile(level) for level in (0.25, 0.5, 0.75))
            axis.plot(middle.index, middle, line, color=colour, marker=marker, label=f"{label} membership")
            axis.fill_between(middle.index, low, high, color=colour, alpha=0.15, linewidth=0)
        sizes = sorted(path["n_features"].unique())
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set(xlabel="dictionary features, at most", ylabel="AUROC, held-out genes", title="Sparse probes")
        axis.legend(loc="best")
        return svg.save(figure, name)
