"""The funnel of the chain of evidence."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interptfm.report import svg
from interptfm.report.figures import BLUE, GREEN, GREY, ORANGE, VERMILION, WIDTH, style

LOOKS = {
    "real": (BLUE, "o", "real"),
    "permuted membership": (GREY, "|", "permuted membership, mean and range"),
    "exchanged terms": (ORANGE, "s", "terms exchanged, mean and range"),
    "untrained": (VERMILION, "D", "untrained"),
    "real, links of untrained": (GREEN, "^", "real, only links that untrained has"),
}
PANELS = {"": "passing all links so far", "alone_": "passing this link alone"}


def funnel(name: str, rows: pd.DataFrame, steps: dict[str, str]) -> str:
    """Draw how many features pass, one row a step, one mark a chain.

    ``rows``: chain, step, features, lo, hi, alone_features, alone_lo, alone_hi (NaN: not counted); ``steps``:
    step → label, from the top. Left what passes all links so far, right each link alone.
    """
    chains = [chain for chain in LOOKS if (rows["chain"] == chain).any()]
    place = {step: i for i, step in enumerate(steps)}
    offsets = np.linspace(-0.28, 0.28, len(chains)) if len(chains) > 1 else np.zeros(1)
    with style() as plt:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 1.3 + 0.52 * len(steps)), sharey=True)
        for axis, (prefix, title) in zip(axes, PANELS.items(), strict=True):
            for chain, offset in zip(chains, offsets, strict=True):
                colour, marker, label = LOOKS[chain]
                mine = rows[(rows["chain"] == chain) & rows["step"].isin(place)]
                mine = mine[mine[f"{prefix}features"].notna()]
                y = mine["step"].map(place).to_numpy(float) + offset
                axis.hlines(y, mine[f"{prefix}lo"], mine[f"{prefix}hi"], color=colour, linewidth=1.4)
                axis.plot(
                    mine[f"{prefix}features"], y, marker, color=colour, markersize=5.5, label=label,
                    markeredgewidth=1.6,
                )  # fmt: skip
                if chain == "real":
                    for x, level in zip(mine[f"{prefix}features"], y, strict=True):
                        axis.annotate(f"{x:.0f}", (x, level), (4, 3), textcoords="offset points", fontsize=7)
            axis.set_xscale("symlog", linthresh=1, linscale=0.5)
            axis.set_xlim(left=-0.12)
            axis.set(title=title, xlabel="features")
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[0].set_yticks(range(len(steps)), list(steps.values()))
        axes[0].set_ylim(len(steps) - 0.5, -0.5)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return svg.save(figure, name)
