"""Neighbourhood graphs of cells: builders that report their parameters, weights, and squidpy's format.

Edges join cells of one section only. A cell without a place has no edge; cells at the same place are joined
at distance 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse

from interptfm.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

CONNECTIVITIES, DISTANCES, UNS = "spatial_connectivities", "spatial_distances", "spatial_neighbors"


@dataclass(frozen=True)
class Graph:
    """Undirected weighted edges of ``n`` cells, each once with ``i < j``.

    ``i``, ``j`` (edges,) int32; ``distance`` (edges,) float32 µm; ``weight`` (edges,) float32;
    ``parameters`` say how it was made.
    """

    n: int
    i: np.ndarray
    j: np.ndarray
    distance: np.ndarray
    weight: np.ndarray
    parameters: dict[str, Any]

    def matrix(self) -> sparse.csr_matrix:
        """Return the symmetric weights (n × n) float32."""
        return self._symmetric(self.weight)

    def _symmetric(self, values: np.ndarray) -> sparse.csr_matrix:
        rows, columns = np.concatenate([self.i, self.j]), np.concatenate([self.j, self.i])
        both = (np.concatenate([values, values]), (rows, columns))
        return sparse.csr_matrix(both, shape=(self.n, self.n), dtype=np.float32)

    def within(self, radius_um: float) -> Graph:
        """Return the graph of the edges no longer than ``radius_um``."""
        keep = self.distance <= radius_um
        return Graph(
            self.n, self.i[keep], self.j[keep], self.distance[keep], self.weight[keep],
            {**self.parameters, "longest_um": float(radius_um)},
        )  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Edge weights from distances: ``gaussian`` exp(−d²/2ℓ²), ``exponential`` exp(−d/ℓ), or ``none`` (1).

    ℓ None: the median length of the edges over √2, so that a Gaussian is the published exp(−d²/σ²).
    """

    kind: str = "gaussian"
    length_um: float | None = 20.0

    def __post_init__(self) -> None:
        if self.kind not in ("gaussian", "exponential", "none"):
            raise InputError(
                f"crosstalk.graph.weights: found {self.kind!r}, expected gaussian, exponential or none"
            )
        if self.kind != "none" and self.length_um is not None and not self.length_um > 0:
            raise InputError(f"crosstalk.graph.length_um: found {self.length_um}, expected µm above 0")

    def length(self, distance: np.ndarray) -> float:
        """Return ℓ in µm for edges of these lengths."""
        if self.length_um is not None:
            return self.length_um
        middle = float(np.median(distance)) if len(distance) else 0.0
        return middle / np.sqrt(2) if middle > 0 else 1.0

    def of(self, distance: np.ndarray) -> np.ndarray:
        """Return the weight of each distance (µm), float32."""
        d = np.asarray(distance, float)
        if self.kind == "none" or not len(d):
            return np.ones(len(d), np.float32)
        scaled = d / self.length(d)
        power = -(scaled**2) / 2 if self.kind == "gaussian" else -scaled
        return np.exp(power).astype(np.float32)


class Builder(Protocol):
    """A way to choose edges among the places of one section."""

    def pairs(self, xy: np.ndarray) -> np.ndarray:
        """Return the edges (edges × 2) int among places (n × 2) in µm, each once, in any order."""
        ...


@dataclass(frozen=True)
class Radius:
    """All cells no farther apart than ``radius_um``, by KD-tree."""

    radius_um: float = 50.0

    def pairs(self, xy: np.ndarray) -> np.ndarray:
        from scipy.spatial import cKDTree

        if not self.radius_um > 0:
            raise InputError(f"crosstalk.graph.radius_um: found {self.radius_um}, expected µm above 0")
        return cKDTree(xy).query_pairs(self.radius_um, output_type="ndarray")


@dataclass(frozen=True)
class Nearest:
    """The ``k`` nearest cells; an edge where either (``union``) or each (``mutual``) is among the other's."""

    k: int = 12
    mode: str = "union"

    def pairs(self, xy: np.ndarray) -> np.ndarray:
        from scipy.spatial import cKDTree

        if self.k < 1 or self.mode not in ("union", "mutual"):
            raise InputError(
                f"crosstalk.graph: found k {self.k} and mode {self.mode!r}, "
                f"expected k from 1 and union or mutual"
            )
        n = len(xy)
        k = min(self.k, n - 1)
        if k < 1:
            return np.empty((0, 2), int)
        found = cKDTree(xy).query(xy, k=k + 1)[1]
        own = found == np.arange(n)[:, None]
        # Among cells at one place, a cell need not be its own first neighbour, or among them at all.
        own[~own.any(axis=1), -1] = True
        other = found[~own].reshape(n, k).astype(np.int64)
        here = np.arange(n, dtype=np.int64)[:, None]
        code, count = np.unique(np.minimum(here, other) * n + np.maximum(here, other), return_counts=True)
        unique = np.column_stack(np.divmod(code, n))
        return unique if self.mode == "union" else unique[count == 2]


@dataclass(frozen=True)
class Delaunay:
    """Sides of the Delaunay triangulation no longer than ``max_um``."""

    max_um: float = 50.0

    def pairs(self, xy: np.ndarray) -> np.ndarray:
        from scipy import spatial

        if len(xy) < 3:
            return Radius(self.max_um).pairs(xy)
        try:
            mesh = spatial.Delaunay(xy)
        except spatial.QhullError:
            raise InputError(
                f"crosstalk.graph: found {len(xy)} cells on one line, "
                f"expected places that can be triangulated; "
                "use radius or nearest"
            ) from None
        sides = np.concatenate(
            [mesh.simplices[:, [0, 1]], mesh.simplices[:, [1, 2]], mesh.simplices[:, [0, 2]]]
        )
        # What Qhull leaves out stands at the place of a vertex.
        sides = np.concatenate([sides, mesh.coplanar[:, [0, 2]]])
        sides = np.unique(np.sort(sides, axis=1), axis=0)
        length = np.linalg.norm(xy[sides[:, 0]] - xy[sides[:, 1]], axis=1)
        return sides[length <= self.max_um]


def builder(settings: Mapping[str, Any]) -> Builder:
    """Return the builder that ``crosstalk.graph`` names by ``kind``: radius, nearest or delaunay."""
    kind = settings["kind"]
    if kind == "radius":
        return Radius(float(settings["radius_um"]))
    if kind == "nearest":
        return Nearest(int(settings["k"]), str(settings["mode"]))
    if kind == "delaunay":
        return Delaunay(float(settings["radius_um"]))
    raise InputError(f"crosstalk.graph.kind: found {kind!r}, expected radius, nearest or delaunay")


def build(spatial: np.ndarray, section: np.ndarray, chosen: Builder, weights: Weights) -> Graph:
    """Build the graph of each section apart and return them as one.

    Parameters
    ----------
    spatial
        (n × 2) µm; a cell with NaN has no place, hence no edge.
    section
        (n,) labels; no edge joins two of them.
    """
    spatial = np.asarray(spatial, float)
    placed = np.isfinite(spatial).all(axis=1)
    found = [np.empty((0, 2), int)]
    for name in np.unique(section):
        cells = np.flatnonzero((np.asarray(section) == name) & placed)
        if len(cells) > 1:
            found.append(cells[chosen.pairs(spatial[cells])])
    ends = np.sort(np.concatenate(found), axis=1)
    ends = ends[np.lexsort((ends[:, 1], ends[:, 0]))]
    i, j = ends[:, 0], ends[:, 1]
    distance = np.linalg.norm(spatial[i] - spatial[j], axis=1).astype(np.float32)
    parameters = {
        "builder": type(chosen).__name__.lower(), **asdict(chosen), "weights": weights.kind,
        **({} if weights.kind == "none" else {"length_um": weights.length(distance)}),
        "cells": len(spatial), "without_place": int((~placed).sum()), "edges": len(i),
    }  # fmt: skip
    return Graph(
        len(spatial), i.astype(np.int32), j.astype(np.int32), distance, weights.of(distance), parameters
    )


def from_squidpy(adata: AnnData, spatial: np.ndarray, section: np.ndarray) -> Graph:
    """Return the graph in ``obsp["spatial_connectivities"]`` as squidpy leaves it, its values as weights.

    An edge that stands in one direction only counts as one; its weight is the larger of the two. Distances
    are taken anew from ``spatial``.

    Raises
    ------
    InputError
        Without that matrix, with negative or no finite weights, or where an edge joins two sections.
    """
    if CONNECTIVITIES not in adata.obsp:
        raise InputError(f"obsp: found no {CONNECTIVITIES!r}, expected the graph that squidpy writes")
    upper = sparse.csr_matrix(adata.obsp[CONNECTIVITIES])
    upper = sparse.triu(upper.maximum(upper.T), k=1).tocoo()
    if not (np.isfinite(upper.data).all() and (upper.data >= 0).all()):
        raise InputError(
            f"obsp[{CONNECTIVITIES!r}]: found a negative or missing weight, expected weights from 0"
        )
    order = np.lexsort((upper.col, upper.row))
    i, j, weight = upper.row[order], upper.col[order], upper.data[order]
    across = np.flatnonzero(np.asarray(section)[i] != np.asarray(section)[j])
    if len(across):
        raise InputError(
            f"obsp[{CONNECTIVITIES!r}]: found {len(across)} edges between sections, "
            f"expected none; give squidpy "
            "a library_key"
        )
    distance = np.linalg.norm(np.asarray(spatial)[i] - np.asarray(spatial)[j], axis=1)
    parameters = {"builder": "obsp", "cells": adata.n_obs, "edges": len(i)}
    return Graph(
        adata.n_obs, i.astype(np.int32), j.astype(np.int32), distance.astype(np.float32),
        weight.astype(np.float32), parameters,
    )  # fmt: skip


def to_squidpy(adata: AnnData, graph: Graph) -> None:
    """Write the graph into ``adata`` as squidpy does: obsp weights and distances, and ``uns`` that names
    them.
    """
    adata.obsp[CONNECTIVITIES] = graph.matrix()
    adata.obsp[DISTANCES] = graph._symmetric(graph.distance)
    adata.uns[UNS] = {
        "connectivities_key": CONNECTIVITIES, "distances_key": DISTANCES, "params": dict(graph.parameters),
    }  # fmt: skip
