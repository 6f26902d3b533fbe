"""Figures of the comparison of representations and of the reading of features."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interptfm.report import svg
from interptfm.report.figures import BLUE, GREY, INK, VERMILION, WIDTH, style

SHOWN_PATHS = 12


def representations(name: str, frame: pd.DataFrame) -> str:
    """Draw the mean of each measure with its interval beside its null, one panel a measure.

    ``frame``: representation, evaluation, measure, mean, lo, hi, null_mean, null_lo, null_hi.
    """
    wanted = (("held-out cells", "F1"), ("held-out genes", "F1"), ("held-out genes", "AUROC"))
    sources = list(dict.fromkeys(frame["representation"]))
    place = {source: row for row, source in enumerate(sources)}
    with style() as plt:
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 1.1 + 0.27 * len(sources)), sharey=True)
        for axis, (evaluation, measure) in zip(axes, wanted, strict=True):
            part = frame[(frame["evaluation"] == evaluation) & (frame["measure"] == measure)]
            y = part["representation"].map(place).to_numpy(float)
            for middle, low, high, colour, marker, words in (
                ("null_mean", "null_lo", "null_hi", GREY, "|", "permuted membership"),
                ("mean", "lo", "hi", BLUE, "o", "observed"),
            ):
                spread = np.vstack([part[middle] - part[low], part[high] - part[middle]]).astype(float)
                axis.errorbar(
                    part[middle], y, xerr=np.nan_to_num(np.clip(spread, 0, None)), fmt=marker,
                    color=colour, markersize=5, linewidth=1.4, capsize=2, label=words,
                )  # fmt: skip
            axis.set(title=f"{measure}, {evaluation}", xlabel="mean over terms")
            axis.grid(axis="y", visible=False)
        axes[0].set_yticks(range(len(sources)), sources)
        axes[0].set(ylim=(len(sources) - 0.5, -0.5))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return svg.save(figure, name)


def paths(name: str, path: pd.DataFrame, fits: pd.DataFrame) -> str:
    """Draw cross-validated R² against the number of genes along each feature's L1 path.

    ``path``: feature, n_genes, r2_cross_validated, chosen; ``fits``: feature, n_genes, r2_test. The first
    12 features, one line each; a dot marks the chosen penalty, a diamond the R² of test cells.
    """
    features = list(dict.fromkeys(path["feature"]))[:SHOWN_PATHS]
    with style() as plt:
        figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
        for feature in features:
            part = path[path["feature"] == feature]
            axis.plot(part["n_genes"], part["r2_cross_validated"], color=BLUE, linewidth=1, alpha=0.6)
        shown = path[path["feature"].isin(features) & path["chosen"]]
        axis.plot(shown["n_genes"], shown["r2_cross_validated"], "o", color=INK, label="chosen penalty")
        test = fits[fits["feature"].isin(features)]
        axis.plot(test["n_genes"], test["r2_test"], "D", color=VERMILION, label="the same, test cells")
        axis.set(xlabel="genes in the regression", ylabel="R², cross-validated by block", xscale="symlog")
        ticks = [0, *(n * 10**power for power in range(5) for n in (1, 3))]
        ticks = [tick for tick in ticks if tick <= max(1, path["n_genes"].max())]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.set(ylim=(min(-0.05, float(np.nanmin([*shown["r2_cross_validated"], *test["r2_test"], 0]))), 1))
        axis.legend(loc="lower right")
        return svg.save(figure, name)
