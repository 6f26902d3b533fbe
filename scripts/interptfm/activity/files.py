"""Activity as AnnData, one file a sample, cell by cell as in ``cells/<sample>.h5ad``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interptfm import store
from interptfm.errors import InputError

OBS = ("sample", "fov", "cell_type", "n_counts", "block")
VAR = ("name", "source", "channel", "ic", "n_features", "rolled_up")
GENES = "genes"


def write_activity(
    path: str | Path,
    cells: str | Path,
    matrix: np.ndarray,
    genes: np.ndarray,
    present: np.ndarray,
    var: pd.DataFrame,
    provenance: Mapping[str, Any],
) -> None:
    """Write ``activity/<sample>.h5ad``.

    X ``matrix`` and layer ``genes`` float32 (cells × concepts); obs_names and order of the cells file, obs
    with the columns of :data:`OBS` and ``has_tokens`` (``present``); obsm ``spatial`` in µm where the cells
    have it; var ``term_id`` with the columns of :data:`VAR`; uns ``interptfm``: JSON of the provenance.

    Raises
    ------
    InputError
        If the cells file has other cells than the matrix has rows.
    """
    from anndata import AnnData

    given = store.read_h5ad(cells)
    if given.n_obs != len(matrix):
        raise InputError(f"{cells}: found {given.n_obs} cells, expected the {len(matrix)} that were scored")
    obs = given.obs[list(OBS)].copy()
    obs["has_tokens"] = np.asarray(present, dtype=bool)
    found = AnnData(
        X=np.asarray(matrix, np.float32),
        obs=obs,
        var=var[list(VAR)].astype({"name": str, "source": str, "channel": str, "n_features": np.int64}),
        layers={GENES: np.asarray(genes, np.float32)},
        uns={"interptfm": json.dumps(dict(provenance), sort_keys=True)},
    )
    if "spatial" in given.obsm:
        found.obsm["spatial"] = np.asarray(given.obsm["spatial"], np.float64)
    store.write_h5ad(path, found)
