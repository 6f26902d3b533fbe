"""Figures of concept activity."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interptfm.report import svg
from interptfm.report.figures import WIDTH, style


def channel_map(name: str, means: pd.DataFrame, titles: tuple[str, str]) -> str:
    """Draw mean activity of channels by cell type: as X holds it, and of the genes alone.

    ``means``: channel, cell_type, n_concepts, mean, mean_genes; channels without a concept are left out.
    """
    shown = means[means["n_concepts"] > 0]
    channels = list(dict.fromkeys(shown["channel"]))
    types = list(dict.fromkeys(shown["cell_type"]))
    parts = [
        shown.pivot(index="channel", columns="cell_type", values=column).reindex(
            index=channels, columns=types
        )
        for column in ("mean", "mean_genes")
    ]
    top = max(1.0, float(np.nanmax(np.abs([part.to_numpy(float) for part in parts]))))
    with style() as plt:
        figure, axes = plt.subplots(
            1, 2, figsize=(WIDTH, 1.6 + 0.3 * len(channels)), sharey=True, squeeze=False
        )
        for axis, part, title in zip(axes[0], parts, titles, strict=True):
            image = axis.imshow(
                part, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto", interpolation="nearest",
            )  # fmt: skip
            axis.set_xticks(range(len(types)), types, rotation=60, ha="right")
            axis.set_yticks(range(len(channels)), channels)
            axis.set_title(title)
            axis.grid(visible=False)
        figure.colorbar(image, ax=axes[0].tolist(), label="mean z-score", fraction=0.03, pad=0.01)
        return svg.save(figure, name)
