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
    import anndata
    import scanpy

    columns = [name for name in cells if name not in ("target", "group")]
    states = anndata.AnnData(cells[columns].to_numpy(np.float32))
    state = seed & 0xFFFFFFFF
    scanpy.pp.neighbors(states, n_neighbors=min(NEIGHBOURS, len(cells) - 1), use_rep="X", random_state=state)
    scanpy.tl.umap(states, random_state=state)
    xy = states.obsm["X_umap"]
    return cells[["target", "group"]].assign(x=xy[:, 0], y=xy[:, 1])
