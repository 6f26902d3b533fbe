"""What features do across a section: their activity at each spot, and in each group of cells.

The aggregates of cells are read in blocks of rows, so that memory grows with spots × features and
(block, group) pairs × features, not with cells × features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interptfm import store
from interptfm.atlas import encoding
from interptfm.atlas.tissue import Section
from interptfm.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix, spmatrix

BLOCK_VALUES = 4_000_000
INTERVAL = (0.025, 0.975)


@dataclass
class Activity:
    """Sums over cells of one dictionary's features.

    ``sums`` float32 (pairs × features) of mean activity over a cell's tokens; ``active`` int64 (groups ×
    features) cells with any; ``cells`` (pairs,) cells; ``block`` and ``group`` (pairs,) what a pair is of;
    ``scale`` float32 (sections × features), the largest activity of a spot.
    """

    sums: np.ndarray
    active: np.ndarray
    cells: np.ndarray
    block: np.ndarray
    group: np.ndarray
    scale: np.ndarray

    def profile(self, features: slice, draws: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return mean, lower and upper limit, and share of active cells, each (groups × features).

        ``draws`` (draws × blocks): how often each block was drawn. The interval is that of whole blocks
        resampled; NaN for a group that lies in fewer than 2 blocks, and all NaN for one without cells.
        """
        sums = self.sums[:, features]
        shape = (len(self.active), sums.shape[1])
        mean, low, high = (np.full(shape, np.nan) for _ in range(3))
        n = np.bincount(self.group, weights=self.cells, minlength=shape[0])
        for group in range(shape[0]):
            rows = self.group == group
            if not n[group]:
                continue
            mean[group] = sums[rows].sum(axis=0, dtype=float) / n[group]
            if rows.sum() < 2:
                continue
            weights = draws[:, self.block[rows]].astype(float)
            count = weights @ self.cells[rows]
            kept = count > 0
            values = (weights[kept] @ sums[rows]) / count[kept, None]
            low[group], high[group] = np.quantile(values, INTERVAL, axis=0)
        share = self.active[:, features] / np.maximum(n, 1)[:, None]
        return mean, low, high, np.where(n[:, None] > 0, share, np.nan)


def row_blocks(
    path: str | Path, name: str, first: int, last: int, size: int = BLOCK_VALUES
) -> Iterator[tuple[int, int, csr_matrix]]:
    """Yield (row, end, CSR float32 of rows ``row`` to ``end``) of rows ``first`` to ``last`` of an aggregate.

    A block has at most ``size`` values; a row with more than that comes alone.
    """
    from scipy.sparse import csr_matrix

    with store.open_zarr(path) as group:
        part = group[name]
        indptr, n_features = part["indptr"][:], int(part.attrs["shape"][1])
        start = first
        while start < last:
            stop = max(start + 1, int(np.searchsorted(indptr, indptr[start] + size, side="right")) - 1)
            stop = min(stop, last)
            low, high = int(indptr[start]), int(indptr[stop])
            values = part["data"][low:high], part["indices"][low:high], indptr[start : stop + 1] - low
            yield start, stop, csr_matrix(values, shape=(stop - start, n_features))
            start = stop


def collect(
    path: str | Path, sections: Sequence[Section], groups: Sequence[tuple[str, str]], aggregate: str = "mean"
) -> Iterator[tuple[int, np.ndarray] | Activity]:
    """Yield (section's index, levels uint8 (spots × features)) of each section, then the :class:`Activity`.

    Raises
    ------
    InputError
        If the file has samples or cells that the sections do not.
    """
    from scipy.sparse import csr_matrix

    with store.open_zarr(path) as group:
        names = [str(name) for name in group.attrs["samples"]]
        sample, cell = group["sample"][:], group["cell"][:].astype(np.int64)
        n_features = int(group[aggregate].attrs["shape"][1])
    place = {section.name: i for i, section in enumerate(sections)}
    if set(names) - set(place):
        raise InputError(f"{path}: found samples {names}, expected those of {sorted(place)}")
    of_row = np.array([place[name] for name in names], np.int64)[sample] if len(sample) else sample
    group_place = {group: i for i, group in enumerate(groups)}
    blocks = {
        label: i for i, label in enumerate(dict.fromkeys(b for s in sections for b in s.block.tolist()))
    }
    parts: list[tuple[np.ndarray, ...]] = []
    active = np.zeros((len(groups), n_features), np.int64)
    scale = np.zeros((len(sections), n_features), np.float32)
    for index, section in enumerate(sections):
        rows = np.flatnonzero(of_row == index)
        if len(rows) and cell[rows].max() >= section.n_cells:
            raise InputError(
                f"{path}: found cell {cell[rows].max()} of {section.name!r}, expected less than "
                f"{section.n_cells}"
            )
        if len(rows) and rows[-1] - rows[0] + 1 != len(rows):
            raise InputError(f"{path}: found the cells of {section.name!r} apart, expected them in one run")
        memberships = _memberships(section, group_place, blocks)
        pair = {
            key: i for i, key in enumerate(sorted({k for keys in memberships for k in keys if k[1] >= 0}))
        }
        by_spot = np.zeros((len(section.xy), n_features), np.float32)
        sums = np.zeros((len(pair), n_features), np.float32)
        cells = np.zeros(len(pair), np.int64)
        first, last = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        for start, stop, part in row_blocks(path, aggregate, first, last):
            mine = cell[start:stop]
            ones, position = np.ones(len(mine), np.float32), np.arange(len(mine))
            _add(
                by_spot, csr_matrix((ones, (section.spot[mine], position)), (len(by_spot), len(mine))) @ part
            )
            fired = part.astype(bool).astype(np.int64)
            for keys in memberships:
                chosen = np.flatnonzero([keys[i][1] >= 0 for i in mine.tolist()])
                found = np.array([pair[keys[i]] for i in mine[chosen].tolist()], np.int64)
                of_group = np.array([keys[i][1] for i in mine[chosen].tolist()], np.int64)
                one = np.ones(len(chosen), np.float32)
                _add(sums, csr_matrix((one, (found, chosen)), (len(pair), len(mine))) @ part)
                _add(active, csr_matrix((one, (of_group, chosen)), (len(groups), len(mine))) @ fired)
                cells += np.bincount(found, minlength=len(pair))
        by_spot /= np.maximum(section.per_spot(), 1)[:, None]
        scale[index] = by_spot.max(axis=0)
        keys = np.array(list(pair), np.int64).reshape(-1, 2)
        parts.append((sums, cells, keys[:, 0], keys[:, 1]))
        yield index, encoding.levels(by_spot, scale[index])
    sums, cells, block, group = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    yield Activity(sums, active, cells, block, group, scale)


def _add(table: np.ndarray, matrix: spmatrix) -> None:
    """Add a sparse matrix to a dense table of its shape, in place and without a dense copy."""
    found = matrix.tocoo()
    found.sum_duplicates()
    table[found.row, found.col] += found.data.astype(table.dtype)


def _memberships(
    section: Section, groups: dict[tuple[str, str], int], blocks: dict[str, int]
) -> list[list[tuple[int, int]]]:
    """Return for each kind of group the (block, group) of every cell; group −1 where it has none."""
    block = [blocks[label] for label in section.block.tolist()]
    return [
        [(b, groups.get((kind, name), -1)) for b, name in zip(block, names.tolist(), strict=True)]
        for kind, names in section.groups.items()
    ]
