"""Tangram in its clusters mode: where on the tissue the groups of a single-cell reference belong.

Source: Biancalani et al. 2021, doi:10.1038/s41592-021-01264-7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm import job, stats
from interptfm.comparators.status import Skipped, package
from interptfm.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

FAMILY = "tangram"
COLUMNS = ("cluster", "level", "group", "n_reference", "n_cells", "share", "lo", "hi", "expected")
GENE_COLUMNS = ("gene", "held_out", "r", "r_depth")
FEWEST = 20


def check_reference(path: str, reference: AnnData, group: str) -> AnnData:
    """Return the reference with counts as CSR float32 and its groups as text.

    Raises
    ------
    InputError
        Without the obs column ``group``, for counts that are negative or not finite, or a gene that stands
        twice.
    """
    from scipy import sparse

    if group not in reference.obs:
        raise InputError(f"{path}: found no obs column {group!r}, expected the groups of the reference")
    if not reference.var_names.is_unique:
        raise InputError(f"{path}: found a gene twice in var_names, expected it once")
    reference.X = sparse.csr_matrix(reference.X, dtype=np.float32)
    if len(reference.X.data) and not (np.isfinite(reference.X.data).all() and reference.X.data.min() >= 0):
        raise InputError(f"{path}: found counts that are negative or not finite, expected raw counts in X")
    kept = reference[reference.obs[group].notna().to_numpy()].copy()
    kept.obs[group] = kept.obs[group].astype(str).astype("category")
    return kept


def run(
    reference: AnnData, group: str, cells: AnnData, settings: Mapping[str, Any], seed: int
) -> tuple[AnnData, pd.DataFrame]:
    """Map the reference's groups on the cells by a part of the shared genes.

    Parameters
    ----------
    reference, group
        Of :func:`check_reference`; its counts are scaled to one depth.
    cells
        Raw counts (cells × genes).
    settings
        ``epochs``, and ``held_out``, the share of shared genes that the map does not see.

    Returns
    -------
    map, genes
        AnnData (groups × cells) of probabilities, rows sum to 1. Per gene: whether it was held out, the
        correlation over cells of predicted and observed counts, and that of observed counts with the cell's
        total.

    Raises
    ------
    Skipped
        If Tangram is not there, or fewer than :data:`FEWEST` genes are shared.
    """
    import scanpy

    tangram = package("tangram-sc", "tangram", FAMILY)
    shared = [gene for gene in cells.var_names if gene in set(reference.var_names)]
    seen = [
        gene for gene in shared
        if reference[:, gene].X.sum() > 0 and cells[:, gene].X.sum() > 0
    ]  # fmt: skip
    if len(seen) < FEWEST:
        raise Skipped(
            f"{len(seen)} genes are counted in both reference and panel, expected at least {FEWEST}"
        )
    reference, cells = reference.copy(), cells.copy()
    scanpy.pp.normalize_total(reference)
    drawn = job.generator(seed, "tangram", "held out genes").permutation(seen)
    held_out = set(drawn[: round(settings["held_out"] * len(seen))])
    training = [gene for gene in seen if gene not in held_out]
    tangram.pp_adatas(reference, cells, genes=training, gene_to_lowercase=False)
    found = tangram.map_cells_to_space(
        reference, cells, mode="clusters", cluster_label=group, device="cpu", num_epochs=settings["epochs"],
        random_state=job.seed(seed, "tangram") % 2**31, verbose=False,
    )  # fmt: skip
    means = np.array(
        [
            np.asarray(reference[reference.obs[group] == name, seen].X.mean(axis=0)).ravel()
            for name in found.obs[group]
        ]
    )
    # Of each cell, what the groups' means predict, mixed by how much of each group lies there.
    predicted = np.asarray(found.X).T @ means
    counts = np.asarray(cells[:, seen].X.todense(), float)
    depth = np.asarray(cells.X.sum(axis=1)).ravel()
    rows = [
        (gene, gene in held_out, _r(predicted[:, i], counts[:, i]), _r(depth, counts[:, i]))
        for i, gene in enumerate(seen)
    ]
    return found, pd.DataFrame(rows, columns=list(GENE_COLUMNS))


def _r(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else np.nan


def shares(
    found: np.ndarray,
    clusters: list[str],
    sizes: Mapping[str, int],
    labels: Mapping[str, np.ndarray],
    blocks: np.ndarray,
    draws: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Return how much of each cluster lies in each cell type and compartment.

    Parameters
    ----------
    found
        (clusters × cells) probabilities.
    sizes
        Cluster → cells of the reference.
    labels
        Level → (cells,) name of the group that a cell is of; empty: none.

    Returns
    -------
    :data:`COLUMNS`: ``share`` of the cluster's mass, with an interval over resampled blocks; ``expected``:
    the share of the cells.
    """
    rows = []
    for level, names in labels.items():
        for name in (name for name in np.unique(names) if name):
            mine = (names == name).astype(float)
            inside = found @ mine / found.sum(axis=1)
            lo, hi = stats.block_bootstrap(
                blocks,
                lambda weights, mine=mine: (found @ (mine * weights)) / np.maximum(found @ weights, 1e-300),
                draws,
                generator,
            )
            rows += [
                (cluster, level, name, sizes[cluster], int(mine.sum()), inside[i], lo[i], hi[i], mine.mean())
                for i, cluster in enumerate(clusters)
            ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def headline(table: pd.DataFrame, genes: pd.DataFrame) -> str:
    """Return correlations of held-out genes and where the clusters lie, in words."""
    held = genes[genes["held_out"].astype(bool)]
    places = table[table["level"] == "compartments"]
    best = places.loc[(places["share"] - places["expected"]).groupby(places["cluster"]).idxmax()]
    where = ", ".join(f"{row.cluster} in {row.group} ({row.share:.2f})" for row in best.itertuples())
    depth = f"a cell's total counts {held['r_depth'].mean():.2f}"
    return f"{len(held)} held-out genes: mean r {held['r'].mean():.2f} ({depth}); {where}"
