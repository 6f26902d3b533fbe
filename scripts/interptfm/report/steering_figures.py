"""Figures of steering: dose curves, a map of cells, activity of probes, effects on genes, concepts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interptfm.report import svg
from interptfm.report.figures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SOFT, WIDTH, style

LINES = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^"), (PURPLE, ":", "v"), (GREY, "-", "x"))
MAX_GENES = 40


def dose_curves(name: str, doses: pd.DataFrame, effects: pd.DataFrame, methods: Sequence[str]) -> str:
    """Draw medians over targets by dose with quartile bands, and the undosed baselines as lines.

    ``doses``: method, dose, along, cosine_control; ``effects``: method, cosine_control of fixed methods.
    """
    panels = (("along", "shift along the observed one (1 = all of it)"), ("cosine_control", "cosine"))
    with style() as plt:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.5))
        for axis, (column, label) in zip(axes, panels, strict=True):
            for method, (colour, line, marker) in zip(methods, LINES * 3):
                found = doses[doses["method"] == method].groupby("dose")[column]
                low, middle, high = (found.quantile(level) for level in (0.25, 0.5, 0.75))
                axis.plot(middle.index, middle, line, color=colour, marker=marker, markersize=4, label=method)
                axis.fill_between(middle.index, low, high, color=colour, alpha=0.12, linewidth=0)
            axis.axhline(0, color=SOFT, linewidth=0.9)
            axis.set(xlabel="dose", ylabel=label)
        own = ~effects["method"].str.startswith("untrained")
        fixed = effects[effects["dose"].isna() & own].groupby("method", sort=False)["cosine_control"].median()
        for (method, value), line in zip(fixed.dropna().items(), ("--", ":", "-.", (0, (1, 3)))):
            axes[1].axhline(value, color=INK, linestyle=line, linewidth=1, label=str(method))
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return svg.save(figure, name)


def cell_map(name: str, cells: pd.DataFrame) -> str:
    """Draw control, perturbed and steered cells, one panel a target; ``cells``: target, group, x, y."""
    targets = [t for t in dict.fromkeys(cells["target"]) if t]
    control = cells[cells["group"] == "control"]
    looks = {"perturbed": (ORANGE, "o"), "steered": (BLUE, "^")}
    with style() as plt:
        columns = min(len(targets), 2)
        rows = -(-len(targets) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, 3.0 * rows + 0.4), squeeze=False)
        for axis in axes.ravel()[len(targets) :]:
            axis.set_visible(False)
        for axis, target in zip(axes.ravel(), targets):
            axis.scatter(control["x"], control["y"], s=9, color="#C8CDD2", label="control", linewidths=0)
            for group, (colour, marker) in looks.items():
                part = cells[(cells["target"] == target) & (cells["group"] == group)]
                axis.scatter(
                    part["x"], part["y"], s=16, color=colour, marker=marker, label=group, linewidths=0
                )
            axis.set(title=target, xlabel="UMAP 1", ylabel="UMAP 2")
            axis.grid(visible=False)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return svg.save(figure, name)


def activity(name: str, table: pd.DataFrame) -> str:
    """Draw violins of standardised differences by layer, concepts beside random directions.

    ``table``: layer, target, direction, effect.
    """
    layers = sorted(table["layer"].unique())
    looks = (("random", GREY, -0.2, "random directions"), ("concept", BLUE, 0.2, "the target's concepts"))
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH * 0.8, 3.2))
        for kind, colour, offset, words in looks:
            for i, layer in enumerate(layers):
                values = table[(table["layer"] == layer) & (table["direction"] == kind)]["effect"].abs()
                if len(values) > 1:
                    drawn = axis.violinplot([values.to_numpy()], positions=[i + offset], widths=0.36,
                                            showmedians=True, showextrema=False)  # fmt: skip
                    drawn["bodies"][0].set(facecolor=colour, alpha=0.5)
                    drawn["cmedians"].set(color=colour)
            axis.plot([], [], "s", color=colour, label=words)
        axis.set_xticks(range(len(layers)), [str(layer) for layer in layers])
        axis.set(xlabel="layer", ylabel="|perturbed − control| in SD, <cls>", ylim=(0, None))
        axis.legend(loc="best")
        return svg.save(figure, name)


def effects_on_genes(name: str, expression: pd.DataFrame) -> str:
    """Draw observed and decoded changes of the most changed genes, targets below each other.

    ``expression``: target, gene, observed, predicted; each target's changes in its own largest.
    """
    observed = expression.pivot(index="target", columns="gene", values="observed")
    predicted = expression.pivot(index="target", columns="gene", values="predicted")
    strength = observed.abs().max(axis=0).sort_values(ascending=False)
    genes = list(strength.index[:MAX_GENES])
    with style() as plt:
        figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 1.2 + 0.36 * len(observed) + 1.2), sharex=True)
        for axis, (table, words) in zip(axes, ((observed, "observed"), (predicted, "steered, decoded"))):
            own = table.abs().max(axis=1).replace(0, np.nan)
            image = axis.imshow(table[genes].div(own, axis=0), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
            axis.set_yticks(range(len(table)), list(table.index), fontsize=6)
            axis.set(title=words)
            axis.grid(visible=False)
        axes[1].set_xticks(range(len(genes)), genes, rotation=90, fontsize=6)
        figure.colorbar(image, ax=axes, label="change, in the target's largest", fraction=0.03, pad=0.01)
        return svg.save(figure, name)


def towards(name: str, table: pd.DataFrame) -> str:
    """Draw effects on held-out genes; ``table``: effect, lo, hi, null_mean, null_sd, effect_permuted."""
    placed = table.sort_values("effect").reset_index(drop=True)
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH * 0.8, 3.2))
        x = placed.index
        low, high = (placed["null_mean"] + sign * 1.96 * placed["null_sd"] for sign in (-1, 1))
        axis.fill_between(x, low, high, color=GREY, alpha=0.25, linewidth=0, label="random directions, 95 %")
        axis.errorbar(
            x, placed["effect"],
            yerr=[(placed["effect"] - placed["lo"]).clip(0), (placed["hi"] - placed["effect"]).clip(0)],
            fmt="o", color=BLUE, markersize=3.5, linewidth=1, label="towards the concept",
        )  # fmt: skip
        axis.plot(x, placed["effect_permuted"], "x", color=ORANGE, markersize=4, label="permuted probe")
        axis.axhline(0, color=SOFT, linewidth=0.9)
        axis.set(xlabel="concepts, by effect", ylabel="members − others (SD of genes)")
        axis.legend(loc="best")
        return svg.save(figure, name)
