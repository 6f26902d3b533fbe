"""Figures of the report: each takes frames and returns SVG text.

Colours are Okabe and Ito's (2008), told apart by all common kinds of colour vision; line style or
marker repeats what colour says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm.report import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#6E7781",
)  # fmt: skip
KNOWN = {
    "SAE": (BLUE, "-", "o"),
    "raw neurons": (ORANGE, "--", "s"),
    "best single gene": (GREEN, "-.", "^"),
    "untrained": (VERMILION, (0, (5, 1, 1, 1, 1, 1)), "D"),
    "svd_only": (PURPLE, (0, (3, 1)), "v"),
    "permuted membership": (GREY, ":", "|"),
}
SPARE = ((SKY, "-", "P"), ("#8A6D00", "--", "X"), ("#000000", "-.", "*"))
WIDTH = 7.4
RASTER_ABOVE = 3_000
# Bins of the firing rates that `sae.metrics` counts.
RATE_EDGES = tuple(float(f"{10 ** (power / 4):.3g}") for power in range(-24, 1))
INK, SOFT = "#1b2733", "#4a5866"
# A mark on a heat map: seen on dark and on light.
DOT = {"color": "black", "markeredgecolor": "white", "markeredgewidth": 0.6}


def looks(names: Sequence[str]) -> dict[str, tuple[str, Any, str]]:
    """Return (colour, line style, marker) of each name: fixed for known ones, spare for others."""
    others = [name for name in names if name not in KNOWN]
    spare = {name: SPARE[i % len(SPARE)] for i, name in enumerate(others)}
    return {name: KNOWN.get(name) or spare[name] for name in names}


def short(text: str, most: int = 46) -> str:
    """Return ``text``, cut to ``most`` characters with an ellipsis: a longer label leaves no room to draw."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


@contextlib.contextmanager
def style() -> Iterator[Any]:
    """Give ``matplotlib.pyplot`` with the report's style, on the canvas that writes SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    settings = {
        "font.family": "DejaVu Sans", "font.size": 8.5, "axes.titlesize": 9.5,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 8,
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": SOFT,
        "axes.labelcolor": INK, "text.color": INK, "xtick.color": SOFT, "ytick.color": SOFT,
        "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.grid": True,
        "grid.color": "#e3e8ed", "grid.linewidth": 0.7, "axes.axisbelow": True,
        "legend.frameon": False, "legend.fontsize": 8, "lines.linewidth": 1.7,
        "text.parse_math": False, "figure.constrained_layout.use": True, "figure.dpi": 150,
        "axes.unicode_minus": True, "svg.image_inline": True,
    }  # fmt: skip
    with mpl.rc_context(settings):
        yield plt


def _whole_ticks(axes: Axes, which: str = "x") -> None:
    from matplotlib.ticker import MaxNLocator

    getattr(axes, f"{which}axis").set_major_locator(MaxNLocator(integer=True))


def curves(name: str, frame: pd.DataFrame, panels: Sequence[Mapping[str, Any]], x: str, x_label: str) -> str:
    """Draw training curves side by side.

    ``panels`` hold ``title``, ``label`` (of the y axis) and ``series``: label → column, or a
    grouping ``by`` column with one ``column``; ``baselines``: up to two label → value drawn level;
    ``from_zero`` starts the y axis at 0.
    """
    with style() as plt:
        from matplotlib.ticker import EngFormatter, MaxNLocator

        figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 2.9), squeeze=False)
        for axis, panel in zip(axes[0], panels, strict=True):
            if "by" in panel:
                groups = list(frame.groupby(panel["by"], sort=True))
                shades = plt.get_cmap("cividis")(np.linspace(0.0, 0.85, len(groups)))
                for shade, (key, part) in zip(shades, groups, strict=True):
                    axis.plot(part[x], part[panel["column"]], color=shade, label=f"{panel['by']} {key}")
            else:
                colours = (BLUE, ORANGE, GREEN, PURPLE)
                styles = ("-", "--", "-.", ":")
                for i, (label, column) in enumerate(panel["series"].items()):
                    marker = "o" if len(frame) < 40 else None
                    axis.plot(
                        frame[x], frame[column], styles[i % 4], color=colours[i % 4],
                        label=label, marker=marker, markersize=3,
                    )  # fmt: skip
            levels = panel.get("baselines", {})
            for (label, value), line in zip(levels.items(), (":", "-."), strict=False):
                axis.axhline(value, color=GREY, linestyle=line, linewidth=1.5, label=label)
            if panel.get("from_zero"):
                axis.set_ylim(bottom=0)
            if frame[x].max() >= 10_000:
                axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
                axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.set(title=panel["title"], xlabel=x_label, ylabel=panel["label"])
            repeated = "by" in panel and axis is not axes[0][0]
            if len(axis.get_legend_handles_labels()[0]) > 1 and not repeated:
                axis.legend()
        return svg.save(figure, name)


def f1_distribution(name: str, scores: pd.DataFrame) -> str:
    """Draw the share of terms that reach an F1 against that F1; ``scores``: source, term_id, f1."""
    sources = list(dict.fromkeys(scores["source"]))
    look = looks(sources)
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH, 3.5))
        for source in sources:
            values = np.sort(scores.loc[scores["source"] == source, "f1"].dropna().to_numpy())
            if not len(values):
                continue
            share = 1 - np.arange(len(values) + 1) / len(values)
            colour, line, _ = look[source]
            axis.step(
                np.r_[0.0, values, 1.0], np.r_[1.0, share], where="pre", color=colour,
                linestyle=line, label=f"{source} (median {np.median(values):.2f})",
                linewidth=2.2 if source == sources[0] else 1.5,
            )  # fmt: skip
        axis.set(
            xlabel="best test F1 of a term", ylabel="share of terms that reach it",
            xlim=(0, 1), ylim=(0, 1.02), title="Best F1 by term",
        )  # fmt: skip
        axis.legend(loc="upper right")
        return svg.save(figure, name)


def observed_against_null(name: str, observed: pd.DataFrame, null: pd.DataFrame) -> str:
    """Draw each source's mean F1 (``observed``: source, mean_f1) with its null's draws (``null``)."""
    sources = list(observed["source"])
    look = looks(sources)
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH, 0.9 + 0.42 * len(sources)))
        for row, (source, value) in enumerate(zip(sources, observed["mean_f1"], strict=True)):
            draws = null.loc[null["source"] == source, "mean_f1"].to_numpy()
            axis.plot(
                draws, np.full(len(draws), row), "|", color=GREY, markersize=11, markeredgewidth=1.1,
                label="one permutation of the membership" if row == 0 else None,
            )  # fmt: skip
            colour, _, marker = look[source]
            axis.plot(value, row, marker, color=colour, markersize=8, zorder=3)
            axis.annotate(
                f"{value:.3f}", (value, row), xytext=(0, 7), textcoords="offset points",
                ha="center", fontsize=7.5, color=INK,
            )  # fmt: skip
        axis.set_yticks(range(len(sources)), sources)
        axis.set(ylim=(len(sources) - 0.4, -0.7), xlabel="mean best test F1 over all terms")
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.08)
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1.0), borderaxespad=0.1)
        return svg.save(figure, name)


def f1_against_null(name: str, concepts: pd.DataFrame, level: float = 0.05) -> str:
    """Draw each term's test F1 against its mean under permuted membership and its best single gene."""
    found = concepts["q"] < level
    with style() as plt:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.6), sharey=True)
        pairs = (("null_mean", "mean F1 under permuted membership"),
                 ("f1_single_gene", "F1 of the best single gene"))  # fmt: skip
        for axis, (column, label) in zip(axes, pairs, strict=True):
            axis.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9)
            for mask, colour, marker, words in (
                (~found, GREY, "o", f"q ≥ {level:g}"),
                (found, BLUE, "D", f"q < {level:g}"),
            ):
                axis.scatter(
                    concepts.loc[mask, column], concepts.loc[mask, "f1"], s=17, marker=marker,
                    facecolors=colour if marker == "D" else "none", edgecolors=colour,
                    linewidths=0.8, alpha=0.85, label=f"{words} ({int(mask.sum())} terms)",
                    rasterized=len(concepts) > RASTER_ABOVE,
                )  # fmt: skip
            axis.set(xlabel=label, xlim=(0, 1), ylim=(0, 1.02))
        axes[0].set(ylabel="test F1 of the dictionary", title="Against its null")
        axes[1].set(title="Against one gene")
        axes[0].legend(loc="lower right")
        return svg.save(figure, name)


def by_layer(name: str, frame: pd.DataFrame, chosen: int) -> str:
    """Draw mean F1 and excess over the null by layer; ``frame``: source, layer, mean_f1, null…"""
    sources = list(dict.fromkeys(frame["source"]))
    look = looks(sources)
    with style() as plt:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.3))
        for source in sources:
            part = frame[frame["source"] == source].sort_values("layer")
            colour, line, marker = look[source]
            plot = {"color": colour, "linestyle": line, "marker": marker, "markersize": 5}
            axes[0].plot(part["layer"], part["mean_f1"], label=source, **plot)
            axes[0].plot(part["layer"], part["null_mean"], ":", color=colour, linewidth=1.2)
            axes[1].plot(part["layer"], part["excess"], **plot)
        for axis in axes:
            axis.axvline(chosen, color="#c9d3dc", linewidth=7, zorder=0)
            axis.set(xlabel="layer")
            _whole_ticks(axis)
        axes[0].plot([], [], ":", color=SOFT, linewidth=1.2, label="mean of the source's null")
        axes[1].axhline(0, color=SOFT, linewidth=0.9)
        axes[0].set(title="Mean best test F1", ylabel="mean over terms")
        axes[1].set(title="Excess over the null", ylabel="mean F1 − mean null F1")
        figure.legend(loc="outside lower center", ncols=min(len(sources) + 1, 5))
        return svg.save(figure, name)


def forest(name: str, comparisons: pd.DataFrame) -> str:
    """Draw mean differences with 95 % intervals, one row a comparison, one colour a scope."""
    scopes = list(dict.fromkeys(comparisons["scope"]))
    rows = list(dict.fromkeys(zip(comparisons["comparison"], comparisons["measure"], strict=True)))
    place = {row: index for index, row in enumerate(rows)}
    offset = (
        dict(zip(scopes, np.linspace(-0.22, 0.22, len(scopes)), strict=True))
        if len(scopes) > 1
        else {scopes[0]: 0.0}
    )
    shapes = ((BLUE, "D"), (GREY, "o"), (ORANGE, "s"), (PURPLE, "^"))
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH, 0.9 + 0.36 * len(rows)))
        axis.axvline(0, color=SOFT, linewidth=1)
        for i, scope in enumerate(scopes):
            part = comparisons[(comparisons["scope"] == scope) & comparisons["difference"].notna()]
            y = [place[row] + offset[scope] for row in zip(part["comparison"], part["measure"], strict=True)]
            colour, marker = shapes[i % len(shapes)]
            spread = np.vstack([part["difference"] - part["lo"], part["hi"] - part["difference"]])
            axis.errorbar(
                part["difference"], y, xerr=np.nan_to_num(np.clip(spread, 0, None)), fmt=marker,
                color=colour, markersize=4.5, linewidth=1.5, capsize=2.5, label=scope,
            )  # fmt: skip
        axis.set_yticks(range(len(rows)), [f"{words} ({measure})" for words, measure in rows])
        axis.set(ylim=(len(rows) - 0.4, -0.6), xlabel="mean paired difference over terms, with 95 % interval")
        axis.grid(axis="y", visible=False)
        if len(scopes) > 1:
            axis.legend(loc="lower right", bbox_to_anchor=(1, 1.0), ncols=len(scopes), borderaxespad=0.1)
        return svg.save(figure, name)


def programs(name: str, frame: pd.DataFrame, sources: Mapping[str, str]) -> str:
    """Draw each planted program's F1 beside null and baselines; ``sources``: label → column."""
    look = looks(list(sources))
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH, 1.1 + 0.27 * max(len(frame), 1)))
        y = np.arange(len(frame))
        axis.hlines(y, frame["null_mean"], frame["f1"], color="#b7d3e6", linewidth=3, zorder=1)
        for label, column in sources.items():
            colour, _, marker = look[label]
            main = column == "f1"
            axis.plot(
                frame[column], y, marker, color=colour, markersize=7 if main else 5,
                markeredgewidth=1.8 if marker == "|" else 0.8, label=label, zorder=4 if main else 3,
                markerfacecolor=colour if main or marker == "|" else "white", linestyle="none",
            )  # fmt: skip
        axis.set_yticks(y, [short(text) for text in frame["name"].astype(str)])
        axis.set(ylim=(len(frame) - 0.4, -0.6), xlim=(0, 1.02), xlabel="test F1")
        axis.grid(axis="y", visible=False)
        figure.legend(loc="outside upper center", ncols=min(len(sources), 6))
        return svg.save(figure, name)


def strengths(name: str, curve: pd.DataFrame) -> str:
    """Draw the mean excess over the null, with interval, against the planted strength."""
    shapes = {"planted programs": (BLUE, "-", "D"), "not planted": (GREY, "--", "o")}
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH * 0.72, 3.2))
        axis.axhline(0, color=SOFT, linewidth=1)
        for scope, part in curve.groupby("scope", sort=False):
            colour, line, marker = shapes.get(scope, (ORANGE, "-.", "s"))
            spread = np.vstack([part["mean_excess"] - part["lo"], part["hi"] - part["mean_excess"]])
            axis.errorbar(
                part["strength"], part["mean_excess"], yerr=np.nan_to_num(np.clip(spread, 0, None)),
                color=colour, linestyle=line, marker=marker, markersize=5, capsize=3, label=scope,
            )  # fmt: skip
        axis.set(
            xlabel="strength at which programs were planted",
            ylabel="mean test F1 − mean null F1", title="Recovery by strength",
        )  # fmt: skip
        axis.set_xticks(sorted(curve["strength"].unique()))
        axis.legend(loc="best")
        return svg.save(figure, name)


def replaced_layers(name: str, frame: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Draw the model's error by layer; ``labels``: column (how the layer was replaced) → words."""
    shapes = ((BLUE, "-", "o"), (VERMILION, "-", "D"), (ORANGE, "--", "s"), (GREY, ":", "^"))
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH * 0.72, 3.1))
        part = frame.sort_values("layer")
        for (column, label), (colour, line, marker) in zip(labels.items(), shapes, strict=False):
            axis.plot(part["layer"], part[column], linestyle=line, marker=marker, color=colour, label=label)
        _whole_ticks(axis)
        axis.set(xlabel="layer replaced", ylabel="squared error (bins²)", title="Masked expression")
        figure.legend(loc="outside lower center", ncols=len(labels))
        return svg.save(figure, name)


def _plain_log(axis: Axes) -> None:
    """Make the x axis logarithmic, labelled by plain numbers: text in an SVG knows no powers."""
    from matplotlib.ticker import FuncFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def firing_rates(name: str, frame: pd.DataFrame) -> str:
    """Draw features by firing rate; ``frame``: layer, rate (a bin's centre), features."""
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH * 0.72, 2.9))
        groups = list(frame.groupby("layer", sort=True))
        shades = plt.get_cmap("cividis")(np.linspace(0.0, 0.85, len(groups)))
        for shade, (layer, part) in zip(shades, groups, strict=True):
            axis.plot(
                part["rate"], part["features"], drawstyle="steps-mid", color=shade, label=f"layer {layer}"
            )
        axis.axvline(0.1, color=GREY, linestyle=":", linewidth=1.5)
        _plain_log(axis)
        axis.set(xlabel="share of test tokens on which a feature fires", ylabel="features", title="Firing")
        axis.set_ylim(bottom=0)
        if len(groups) > 1:
            axis.legend()
        return svg.save(figure, name)


def frontier(name: str, frame: pd.DataFrame) -> str:
    """Draw FVU against L0, and concept F1 on validation against size, one marker a dictionary.

    ``frame``: dictionary, architecture, l0, fvu, n_features, validation_excess.
    """
    look = looks(list(dict.fromkeys(frame["architecture"])))
    colours = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY)
    with style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.3))
        for i, (architecture, part) in enumerate(frame.groupby("architecture", sort=False)):
            marker = {"marker": look[architecture][2], "color": colours[i % len(colours)], "markersize": 6}
            ordered = part.sort_values("l0")
            left.plot(ordered["l0"], ordered["fvu"], "-", linewidth=1.0, label=architecture, **marker)
            right.plot(part["n_features"], part["validation_excess"], linestyle="none", **marker)
        for axis in (left, right):
            _plain_log(axis)
        left.set(xlabel="L0: active features a token", ylabel="FVU", title="Frontier")
        left.set_ylim(bottom=0)
        right.set(xlabel="features", ylabel="F1 beyond permuted membership", title="Concepts (validation)")
        left.legend()
        return svg.save(figure, name)
