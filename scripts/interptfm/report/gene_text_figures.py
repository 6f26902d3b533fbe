"""Figures of gene texts: scores of cell types, few labels, and maps of held-out cells."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interptfm.report import svg
from interptfm.report.figures import BLUE, GREEN, GREY, ORANGE, SOFT, WIDTH, style

VARIANTS = {
    "before": ("nearest neighbours", BLUE, "o"),
    "after": ("after contrastive refinement", ORANGE, "D"),
    "logistic": ("logistic regression", GREEN, "^"),
}
MEASURES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "rare_recall": "recall of rare types"}
MOST_TYPES = 20


def scores(name: str, frame: pd.DataFrame) -> str:
    """Draw each measure by representation; ``frame`` as `interptfm.gene_text.comparison.compare` has it."""
    shown = list(dict.fromkeys(frame["representation"]))
    with style() as plt:
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 1.2 + 0.34 * len(shown)), sharey=True)
        for axis, (measure, words) in zip(axes, MEASURES.items(), strict=True):
            part = frame[frame["measure"] == measure]
            for i, (variant, (label, colour, marker)) in enumerate(VARIANTS.items()):
                mine = part[part["variant"] == variant].set_index("representation").reindex(shown)
                y = np.arange(len(shown)) + 0.24 * (i - 1)
                spread = np.vstack([mine["value"] - mine["lo"], mine["hi"] - mine["value"]])
                axis.errorbar(
                    mine["value"], y, xerr=np.nan_to_num(np.clip(spread, 0, None)), fmt=marker, color=colour,
                    markersize=4, linewidth=1.3, capsize=2, label=label,
                )  # fmt: skip
                axis.plot(
                    mine["null_mean"], y, "|", color=GREY, markersize=8, markeredgewidth=1.6,
                    label="shuffled labels" if i == 0 else None,
                )  # fmt: skip
            axis.set(xlim=(0, 1.02), xlabel=words)
            axis.grid(axis="y", visible=False)
        axes[0].set_yticks(range(len(shown)), shown)
        axes[0].set_ylim(len(shown) - 0.4, -0.6)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return svg.save(figure, name)


def curve(name: str, frame: pd.DataFrame, measure: str = "macro_f1") -> str:
    """Draw a measure by labelled cells a type, before and after; ``frame``: its table of curves."""
    shown = list(dict.fromkeys(frame["representation"]))
    shades = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8A6D00", "#000000", GREY)
    with style() as plt:
        from matplotlib.ticker import FuncFormatter, NullLocator

        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.5), sharey=True)
        for axis, variant in zip(axes, ("before", "after"), strict=True):
            for i, representation in enumerate(shown):
                chosen = (frame["representation"] == representation) & (frame["variant"] == variant)
                part = frame[chosen & (frame["measure"] == measure)].sort_values("labels")
                axis.plot(
                    part["labels"], part["value"], "-" if i < len(shades) else "--", marker="os^Dv"[i % 5],
                    markersize=4, color=shades[i % len(shades)], label=representation,
                )  # fmt: skip
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(NullLocator())
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticks(sorted(frame["labels"].unique()))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set(xlabel="labelled cells a type", title=VARIANTS[variant][0].capitalize(), ylim=(0, 1.02))
        axes[0].set_ylabel(MEASURES[measure])
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return svg.save(figure, name)


def maps(name: str, frame: pd.DataFrame) -> str:
    """Draw held-out cells before and after refinement; ``frame``: cell_type, variant, x, y."""
    types = frame["cell_type"].value_counts().index.tolist()
    with style() as plt:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.9))
        shades = plt.get_cmap("tab20")(np.arange(MOST_TYPES))
        markers = "os^Dv"
        for axis, variant in zip(axes, ("before", "after"), strict=True):
            part = frame[frame["variant"] == variant]
            for i, cell_type in enumerate(types):
                mine = part[part["cell_type"] == cell_type]
                known = i < MOST_TYPES
                axis.scatter(
                    mine["x"], mine["y"], s=9, marker=markers[i % 5], linewidths=0,
                    color=shades[i] if known else SOFT, label=cell_type if known else None, rasterized=True,
                )  # fmt: skip
            axis.set(xticks=[], yticks=[], title=VARIANTS[variant][0].capitalize())
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=1.6
        )
        return svg.save(figure, name)
