"""Where a cell takes its value from under a null: toroidal shifts within a FOV, and shuffles within
blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RASTER_UM = 3.0


@dataclass(frozen=True)
class _Fov:
    """One FOV's raster on a torus: nearest cell of each type to each point, −1 where none is near enough."""

    cells: np.ndarray
    place: np.ndarray
    lookup: np.ndarray
    shape: tuple[int, int]
    step: np.ndarray


class Torus:
    """Toroidal shifts of all cells within their FOVs.

    Under a shift by s, a cell at x takes the value of the cell nearest to x − s, wrapped at the edges of its
    FOV, of its own type, no farther than ``match_um``; a cell without one takes none. Nearest cells are found
    once, for the points of a raster of about 3 µm.

    Parameters
    ----------
    spatial
        (n × 2) µm; cells with NaN never take a value.
    fov
        (n,) labels, unique over sections.
    groups
        (n,) int labels from 0: values come from cells of the same group (type).
    match_um
        Longest distance from the shifted place to the cell that gives the value.
    """

    def __init__(self, spatial: np.ndarray, fov: np.ndarray, groups: np.ndarray, match_um: float) -> None:
        from scipy.spatial import cKDTree

        self.n, self.fovs = len(spatial), []
        placed = np.isfinite(spatial).all(axis=1)
        for name in np.unique(fov[placed]):
            cells = np.flatnonzero((fov == name) & placed)
            xy = spatial[cells] - spatial[cells].min(axis=0)
            extent = np.maximum(xy.max(axis=0), RASTER_UM)
            shape = np.maximum(np.round(extent / RASTER_UM), 1).astype(int)
            step = extent / shape
            point = np.minimum((xy / step).astype(int), shape - 1)
            centres = np.stack(
                np.meshgrid(*((np.arange(m) + 0.5) * s for m, s in zip(shape, step)), indexing="ij"), axis=-1
            ).reshape(-1, 2)
            mine, group = np.unique(groups[cells], return_inverse=True)
            lookup = np.full((len(mine), len(centres)), -1, np.int32)
            for k in range(len(mine)):
                own = cells[group == k]
                # The torus ends where it begins: a cell on the upper edge lies on the lower one.
                tree = cKDTree(np.mod(xy[group == k], extent), boxsize=extent)
                distance, nearest = tree.query(centres, distance_upper_bound=match_um)
                found = np.isfinite(distance)
                lookup[k, found] = own[nearest[found]]
            place = np.column_stack([group, point])
            self.fovs.append(_Fov(cells, place, lookup, (int(shape[0]), int(shape[1])), step))

    def _allowed(self, fov: _Fov, min_um: float) -> np.ndarray:
        """Return the raster shifts (m × 2) int whose length on the torus is at least ``min_um``."""
        lengths = [np.minimum(np.arange(m), m - np.arange(m)) * s for m, s in zip(fov.shape, fov.step)]
        return np.argwhere(np.hypot(lengths[0][:, None], lengths[1][None, :]) >= min_um)

    def distinct(self, min_um: float, length_um: float) -> float:
        """Return the number of shifts at least ``min_um`` long that lie ``length_um`` apart, over all FOVs.

        FOVs shift independently, so their numbers multiply; a FOV too small for any shift is left out.
        """
        numbers = [len(self._allowed(f, min_um)) * f.step.prod() / length_um**2 for f in self.fovs]
        possible = [number for number in numbers if number >= 1]
        return float(np.prod(possible)) if possible else 0.0

    def draw(self, min_um: float, n: int, generator: np.random.Generator) -> np.ndarray:
        """Return ``n`` shifts of every FOV (n × FOVs × 2) int; −1 where a FOV allows none."""
        shifts = np.full((n, len(self.fovs), 2), -1)
        for k, fov in enumerate(self.fovs):
            allowed = self._allowed(fov, min_um)
            if len(allowed):
                shifts[:, k] = allowed[generator.integers(0, len(allowed), n)]
        return shifts

    def donors(self, shift: np.ndarray) -> np.ndarray:
        """Return the cell that each takes its value from (n,) int32 under one shift (FOVs × 2); −1: none."""
        result = np.full(self.n, -1, np.int32)
        for fov, (dx, dy) in zip(self.fovs, shift, strict=True):
            if dx >= 0:
                x = (fov.place[:, 1] - dx) % fov.shape[0]
                y = (fov.place[:, 2] - dy) % fov.shape[1]
                result[fov.cells] = fov.lookup[fov.place[:, 0], x * fov.shape[1] + y]
        return result


def shuffled(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a permutation (n,) int32 of the cells within each label."""
    order = np.argsort(labels, kind="stable")
    # Sorting by label, then by a random number, deals the cells of a label out among its places.
    dealt = np.lexsort((generator.random(len(labels)), labels))
    result = np.empty(len(labels), np.int32)
    result[order] = dealt
    return result
