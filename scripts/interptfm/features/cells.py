"""What features do in single cells: aggregates over a cell's tokens, the top tokens, histograms of codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interptfm import store

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

    from interptfm.features.tokens import Block, Sample

AGGREGATES = ("mean", "max", "fraction")
# Candidates for the top tokens wait until there are this many, so that sorting is rare.
PENDING_CODES = 200_000
HISTOGRAM_BINS = 40


@dataclass
class Cells:
    """Aggregates over the tokens of a cell, CSR float32 (cells × features).

    ``mean`` and ``max`` of code / training maximum over the cell's tokens; ``fraction`` of its
    tokens with a positive code. ``sample`` (cells,) str; ``cell`` (cells,) int32 indexes obs of the
    sample's h5ad. Cells of all splits, guard included; cells without tokens are absent.
    """

    mean: csr_matrix
    max: csr_matrix
    fraction: csr_matrix
    sample: np.ndarray
    cell: np.ndarray


class CellAggregator:
    """Collects :class:`Cells` from blocks of whole cells."""

    def __init__(self, maximum: np.ndarray) -> None:
        self.scale = np.divide(1, maximum, out=np.zeros(len(maximum)), where=maximum > 0)
        self._data: dict[str, list[np.ndarray]] = {name: [] for name in AGGREGATES}
        self._indices: list[np.ndarray] = []
        self._row_sizes: list[np.ndarray] = []
        self._sample: list[np.ndarray] = []
        self._cell: list[np.ndarray] = []

    def add(self, block: Block, codes: csr_matrix) -> None:
        """Add all tokens of a block; a cell's tokens must come in one block."""
        n_features = len(self.scale)
        cells, row = np.unique(block.cell, return_inverse=True)
        key = np.repeat(row, np.diff(codes.indptr)) * n_features + codes.indices
        live = self.scale[codes.indices] > 0
        key, code = key[live], (codes.data * self.scale[codes.indices])[live].astype(np.float32)
        size = len(cells) * n_features
        count = np.bincount(key, minlength=size)
        largest = np.zeros(size, np.float32)
        np.maximum.at(largest, key, code)
        kept = np.flatnonzero(count)
        cell, feature = np.divmod(kept, n_features)
        tokens = np.bincount(row)[cell]
        self._data["mean"].append(np.bincount(key, weights=code, minlength=size)[kept] / tokens)
        self._data["max"].append(largest[kept])
        self._data["fraction"].append(count[kept] / tokens)
        self._indices.append(feature.astype(np.int32))
        self._row_sizes.append(np.bincount(cell, minlength=len(cells)))
        self._sample.append(np.full(len(cells), block.sample))
        self._cell.append(cells.astype(np.int32))

    def result(self) -> Cells:
        """Return the aggregates of all cells added, by sample (as added) and cell."""
        from scipy.sparse import csr_matrix

        indices = np.concatenate([np.empty(0, np.int32), *self._indices])
        indptr = np.cumsum(np.concatenate([[0], *self._row_sizes]), dtype=np.int64)
        shape = (len(indptr) - 1, len(self.scale))
        matrices = {
            name: csr_matrix((np.concatenate([[], *parts]).astype(np.float32), indices, indptr), shape=shape)
            for name, parts in self._data.items()
        }
        sample = np.concatenate([np.empty(0, str), *self._sample])
        cell = np.concatenate([np.empty(0, np.int32), *self._cell])
        position = {name: i for i, name in enumerate(dict.fromkeys(sample.tolist()))}
        order = np.lexsort((cell, [position[name] for name in sample.tolist()]))
        if (np.diff(order) != 1).any():
            matrices = {name: matrix[order] for name, matrix in matrices.items()}
        return Cells(**matrices, sample=sample[order], cell=cell[order])


class Histogram:
    """Counts each feature's positive codes in ``HISTOGRAM_BINS`` even bins of (0, training maximum].

    Guard tokens are left out, as they are where firing is counted. Codes above the maximum, which held-out
    tokens may have, are in the last bin.
    """

    def __init__(self, maximum: np.ndarray) -> None:
        self.maximum = np.asarray(maximum, np.float64)  # a code on the edge of a bin stays in it
        self.counts = np.zeros((len(maximum), HISTOGRAM_BINS), np.int64)

    def add(self, block: Block, codes: csr_matrix) -> None:
        """Count all tokens of a block."""
        scored = np.repeat(block.split >= 0, np.diff(codes.indptr))
        kept = scored & (codes.data > 0) & (self.maximum[codes.indices] > 0)
        feature = codes.indices[kept].astype(np.int64)
        place = np.ceil(codes.data[kept] / self.maximum[feature] * HISTOGRAM_BINS).astype(np.int64) - 1
        index = feature * HISTOGRAM_BINS + np.clip(place, 0, HISTOGRAM_BINS - 1)
        self.counts += np.bincount(index, minlength=self.counts.size).reshape(self.counts.shape)


class TopTokens:
    """Keeps the tokens with the largest codes of each feature, by a running merge.

    Guard tokens are left out. Of equal codes the first in the order of samples, cells and tokens
    stays, so that the result depends on neither shards nor block size.
    """

    COLUMNS = ("feature", "sample", "position", "cell", "gene", "value", "activation")

    def __init__(self, n_features: int, n: int) -> None:
        self.n = n
        self._floor = np.zeros(n_features, np.float32)
        self._kept = self._empty()
        self._pending: list[dict[str, np.ndarray]] = []
        self._waiting = 0
        self._names: list[str] = []
        self._position = 0

    def _empty(self) -> dict[str, np.ndarray]:
        return {name: np.empty(0, np.float64) for name in self.COLUMNS}

    def add(self, block: Block, codes: csr_matrix) -> None:
        """Offer all tokens of a block; blocks must come sample by sample."""
        if block.sample not in self._names:
            self._names.append(block.sample)
        token = np.repeat(np.arange(len(block.cell)), np.diff(codes.indptr))
        chosen = np.flatnonzero((codes.data >= self._floor[codes.indices]) & (block.split[token] >= 0))
        token = token[chosen]
        self._pending.append(
            {
                "feature": codes.indices[chosen],
                "sample": np.full(len(token), self._names.index(block.sample)),
                "position": self._position + token,
                "cell": block.cell[token],
                "gene": block.gene[token],
                "value": block.value[token],
                "activation": codes.data[chosen],
            }
        )
        self._position += len(block.cell)
        self._waiting += len(token)
        if self._waiting > PENDING_CODES:
            self._merge()

    def _merge(self) -> None:
        parts = [self._kept, *self._pending]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in self.COLUMNS}
        ties = joined["position"], joined["cell"], joined["sample"]
        order = np.lexsort((*ties, -joined["activation"], joined["feature"]))
        feature = joined["feature"][order]
        rank = np.arange(len(order)) - np.searchsorted(feature, feature)
        order = order[rank < self.n]
        self._kept = {name: column[order] for name, column in joined.items()}
        last = rank[rank < self.n] == self.n - 1
        full = self._kept["feature"][last].astype(np.intp)
        self._floor[full] = self._kept["activation"][last]
        self._pending, self._waiting = [], 0

    def result(self, samples: dict[str, Sample], genes: list[str]) -> pd.DataFrame:
        """Return the table: feature, rank (1 = largest), sample, cell, gene, value, activation.

        ``cell`` is the name in obs, ``gene`` the symbol, ``value`` the token's expression input,
        ``activation`` the code (not divided by the maximum).
        """
        import pandas as pd

        self._merge()
        kept = {
            name: column if name in ("value", "activation") else column.astype(np.int64)
            for name, column in self._kept.items()
        }
        feature = kept["feature"]
        names = [self._names[i] for i in kept["sample"]]
        cells = [samples[name].cell_names[i] for name, i in zip(names, kept["cell"], strict=True)]
        return pd.DataFrame(
            {
                "feature": feature.astype(np.int32),
                "rank": (np.arange(len(feature)) - np.searchsorted(feature, feature) + 1).astype(np.int32),
                "sample": np.array(names, object),
                "cell": np.array(cells, object),
                "gene": np.array(genes, object)[kept["gene"]],
                "value": kept["value"].astype(np.float32),
                "activation": kept["activation"].astype(np.float32),
            }
        )


def write_cells(path: str | Path, cells: Cells, attributes: dict[str, Any]) -> None:
    """Write aggregates as one ``.zarr.zip``.

    CSR groups ``mean``, ``max`` and ``fraction``; ``sample`` int32 (index into the attribute
    ``samples``) and ``cell`` int32 (index into obs of that sample's h5ad).
    """
    names = list(dict.fromkeys(cells.sample.tolist()))
    code = {name: i for i, name in enumerate(names)}
    with store.create_zarr(path, {**attributes, "samples": names}) as group:
        for name in AGGREGATES:
            store.write_csr(group, name, getattr(cells, name))
        store.write_array(group, "sample", np.array([code[name] for name in cells.sample], np.int32))
        store.write_array(group, "cell", cells.cell)


def read_cells(path: str | Path) -> Cells:
    """Read what :func:`write_cells` wrote."""
    with store.open_zarr(path) as group:
        names = np.array(group.attrs["samples"], str)
        matrices = {name: store.read_csr(group, name) for name in AGGREGATES}
        return Cells(**matrices, sample=names[group["sample"][:]], cell=group["cell"][:])
