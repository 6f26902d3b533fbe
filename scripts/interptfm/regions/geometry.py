"""Tumour cells, distances to them, and geometric regions; sections never mix."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from interptfm.errors import InputError

REGIONS = ("tumour", "interface", "TME")
TUMOUR, INTERFACE, TME = REGIONS


def marker_score(
    logged: sparse.csr_matrix, genes: Sequence[str], markers: Sequence[str]
) -> np.ndarray | None:
    """Return the mean z-score (cells,) of those ``markers`` that the panel has; None where it has none.

    ``logged`` is log-normalised expression (cells × genes).
    """
    from interptfm.tis.judges import standardise

    columns = [i for i, gene in enumerate(genes) if gene in set(markers)]
    if not columns:
        return None
    return standardise(logged[:, columns]).mean(axis=1, dtype=np.float64)


def tumour_cells(
    types: np.ndarray,
    pattern: str,
    logged: sparse.csr_matrix,
    genes: Sequence[str],
    markers: Sequence[str],
    seed: int,
) -> tuple[np.ndarray, str]:
    """Return which cells are tumour, and how that was decided.

    Types that match ``pattern`` (a regular expression, case ignored) decide. Where none does, a mixture
    of two normal distributions is fitted to the markers' mean z-score, and the upper one is tumour.

    Raises
    ------
    InputError
        If neither a type matches nor a marker is in the panel.
    """
    names = np.unique(types)
    matching = [name for name in names if re.search(pattern, str(name), re.IGNORECASE)]
    if matching:
        return np.isin(types, matching), f"cell types {', '.join(matching)}"
    score = marker_score(logged, genes, markers)
    if score is None:
        raise InputError(
            f"regions.tumour: found no cell type that matches {pattern!r} among {', '.join(names)} "
            f"and none of the markers {', '.join(markers)} in the panel, expected either"
        )
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(2, random_state=seed % 2**32, n_init=3).fit(score[:, None])
    upper = mixture.predict(score[:, None]) == mixture.means_.ravel().argmax()
    # The wider component also takes the far low end; tumour lies above the other's mean.
    chosen = upper & (score > mixture.means_.min())
    used = [gene for gene in genes if gene in set(markers)]
    return chosen, f"marker score of {', '.join(used)} (no cell type matches {pattern!r})"


def nearest(spatial: np.ndarray, section: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the distance (cells,) in µm to the nearest target cell of the same section, by KD-tree.

    Targets are at 0. Infinite in a section without targets, NaN where a cell has no place.
    """
    from scipy.spatial import cKDTree

    distance = np.full(len(section), np.nan)
    placed = np.isfinite(spatial).all(axis=1)
    for name in np.unique(section):
        cells = np.flatnonzero((section == name) & placed)
        goals = cells[targets[cells]]
        distance[cells] = cKDTree(spatial[goals]).query(spatial[cells])[0] if len(goals) else np.inf
    return distance


def regions(
    tumour: np.ndarray, distance: np.ndarray, section: np.ndarray, interface_um: float, legacy: bool = False
) -> np.ndarray:
    """Return the geometric region of each cell: tumour, interface or TME; empty where a cell has no place.

    The interface are the other cells within ``interface_um`` of a tumour cell; as published (``legacy``), the
    closest 10 % of a section's other cells.
    """
    region = np.full(len(tumour), TME, dtype=object)
    near = distance <= interface_um
    if legacy:
        near = np.zeros(len(tumour), bool)
        for name in np.unique(section):
            others = np.flatnonzero((section == name) & ~tumour & np.isfinite(distance))
            if len(others):
                near[others] = distance[others] <= np.quantile(distance[others], 0.1)
    region[near] = INTERFACE
    region[tumour] = TUMOUR
    region[np.isnan(distance) & ~tumour] = ""
    return region.astype(str)
