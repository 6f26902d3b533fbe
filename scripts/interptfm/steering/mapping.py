"""A map of control, perturbed and steered cells, for the eye only: nothing is measured on it."""

from __future__ import annotations

import numpy as np
import pandas as pd

NEIGHBOURS = 15


def embed(cells: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return target, group, x, y of cells by a UMAP of their `<cls>` (columns d0, d1, …).

    One map of all cells. The same seed gives the same map on one machine. Source: McInnes, Healy and
    Melville 2018.
    """
    from umap import UMAP

    columns = [name for name in cells if name not in ("target", "group")]
    states = cells[columns].to_numpy(np.float32)
    neighbours = min(NEIGHBOURS, len(states) - 1)
    mapper = UMAP(n_neighbors=neighbours, random_state=seed & 0xFFFFFFFF, n_jobs=1)
    xy = mapper.fit_transform(states)
    return cells[["target", "group"]].assign(x=xy[:, 0], y=xy[:, 1])
