"""A screen: cells of perturbations and controls, and whether a cell may judge or serves fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import store
from interptfm.errors import InputError


@dataclass
class Screen:
    """Cells of a screen: raw counts CSR (cells × genes), genes, names (cells,), target (cells,) str with
    `control` for controls, and judge (cells,) bool: whether the cell may judge (else fits may use it)."""

    counts: sparse.csr_matrix
    genes: list[str]
    names: list[str]
    target: np.ndarray
    control: str
    judge: np.ndarray

    @property
    def targets(self) -> list[str]:
        """Targets in alphabetical order."""
        return sorted(set(self.target.tolist()) - {self.control})

    def cells(self, target: str, judge: bool) -> np.ndarray:
        """Rows (n,) of a target's (or the control's) cells that judge, or those that fits may use.

        Raises InputError for a perturbation that the data does not have.
        """
        if target not in (self.control, *self.targets):
            raise InputError(
                f"steering: found no perturbation {target!r}, expected one of {', '.join(self.targets[:8])} …"
            )
        return np.flatnonzero((self.target == target) & (self.judge == judge))


def write_screen(path: str | Path, screen: Screen) -> None:
    """Write a screen as `.h5ad`: raw counts, obs `target` and `judge`, the control's label in `uns`."""
    import anndata

    obs = pd.DataFrame({"target": pd.Categorical(screen.target), "judge": screen.judge}, index=screen.names)
    var = pd.DataFrame(index=pd.Index(screen.genes, name=None))
    adata = anndata.AnnData(screen.counts, obs, var, uns={"control": screen.control})
    store.write_h5ad(path, adata)


def load_screen(path: str | Path) -> Screen:
    """Read what :func:`write_screen` wrote; InputError for another file."""
    adata = store.read_h5ad(path)
    if not {"target", "judge"} <= set(adata.obs) or "control" not in adata.uns:
        raise InputError(f"{path}: found no screen, expected what rule prepare_screen writes")
    return Screen(
        sparse.csr_matrix(adata.X),
        [str(gene) for gene in adata.var_names],
        [str(name) for name in adata.obs_names],
        adata.obs["target"].astype(str).to_numpy(),
        str(adata.uns["control"]),
        adata.obs["judge"].to_numpy(bool),
    )


def log_expression(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """log1p of counts scaled to the median depth (cells × genes), CSR float32."""
    depth = np.asarray(counts.sum(axis=1)).ravel()
    scale = np.divide(np.median(depth), depth, out=np.zeros(len(depth)), where=depth > 0)
    scaled = sparse.diags(scale) @ counts
    return sparse.csr_matrix(scaled.log1p(), dtype=np.float32)
