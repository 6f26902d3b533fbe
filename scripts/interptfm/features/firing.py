"""Firing counts: how many tokens of each gene and split exceed each threshold of each feature.

A feature fires at threshold t where its code exceeds t times its maximum over the training tokens
(Simon & Zou 2024, InterPLM). Labels depend on a token's gene alone, so these counts hold all that
F1 needs; they are taken once over sparse codes, in memory that does not grow with the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interptfm import store
from interptfm.errors import InputError
from interptfm.features.tokens import SPLITS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

THRESHOLDS = (0.0, 0.15, 0.5, 0.6, 0.8)


@dataclass
class Firing:
    """Firing counts of one representation of one layer.

    ``counts`` int32 (splits × genes × features × thresholds): tokens whose code exceeds the
    threshold; ``tokens`` int64 (splits × genes); ``genes`` names the gene axis, ``thresholds`` the
    last one; splits are train, validation, test. ``attributes``: representation, layer, provenance.
    A feature that never fires on training tokens has no scale and counts nowhere.
    """

    counts: np.ndarray
    tokens: np.ndarray
    genes: list[str]
    thresholds: list[float]
    attributes: dict[str, Any] = field(default_factory=dict)


def cuts(maximum: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Return the code that must be exceeded, float32 (thresholds × features).

    It is +inf for features whose maximum is 0.

    Raises
    ------
    InputError
        If the thresholds are not increasing numbers in [0, 1).
    """
    levels = np.asarray(thresholds, np.float32)
    inside = (levels >= 0) & (levels < 1)
    if not len(levels) or not inside.all() or not (np.diff(levels) > 0).all():
        raise InputError(f"thresholds: found {list(thresholds)}, expected increasing, in [0, 1)")
    maximum = np.asarray(maximum, np.float32)
    return np.where(maximum > 0, levels[:, None] * maximum, np.float32(np.inf))


def scatter(
    table: np.ndarray, row: np.ndarray, feature: np.ndarray, value: np.ndarray, cut: np.ndarray
) -> None:
    """Add codes to a histogram (rows × features × levels) of the highest threshold exceeded.

    ``row``, ``feature``, ``value`` are (n,); ``cut`` (levels × features) increases along levels.
    :func:`cumulate` turns the histogram into firing counts.
    """
    level = np.full(len(value), -1, np.int8)
    for threshold in cut:
        level += value > threshold[feature]
    index = (row.astype(np.intp) * table.shape[1] + feature) * table.shape[2] + level
    if (level < 0).any():
        index = index[level >= 0]
    # A numpy scalar of the table's own dtype keeps ufunc.at on its fast path (30 times faster).
    np.add.at(table.reshape(-1), index, table.dtype.type(1))


def cumulate(table: np.ndarray) -> np.ndarray:
    """Turn a histogram of the highest threshold exceeded into counts above each one, in place."""
    for level in range(table.shape[-1] - 2, -1, -1):
        table[..., level] += table[..., level + 1]
    return table


class FiringCounter:
    """Counts firing tokens block by block.

    Parameters
    ----------
    n_genes
        Length of the gene panel.
    maximum
        (features,) largest code of each feature over the training tokens.
    thresholds
        Increasing shares of the maximum, in [0, 1).
    """

    def __init__(self, n_genes: int, maximum: np.ndarray, thresholds: Sequence[float]) -> None:
        self.cut = cuts(maximum, thresholds)
        self.shape = (len(SPLITS), n_genes, len(maximum), len(thresholds))
        self._tokens = np.zeros(len(SPLITS) * n_genes, np.int64)
        self._table = np.zeros((len(SPLITS) * n_genes, len(maximum), len(thresholds)), np.int32)

    def add(self, gene: np.ndarray, split: np.ndarray, codes: np.ndarray | csr_matrix) -> None:
        """Count a block: ``gene``, ``split`` (n,), ``codes`` (n × features), CSR or dense.

        Tokens of split −1 (guard) are counted nowhere.
        """
        scored = split >= 0
        if not scored.all():
            gene, split, codes = gene[scored], split[scored], codes[scored]
        if not len(gene):
            return
        row = split.astype(np.intp) * self.shape[1] + gene
        self._tokens += np.bincount(row, minlength=len(self._tokens))
        if isinstance(codes, np.ndarray):
            self._add_dense(row, codes)
        else:
            rows = np.repeat(row, np.diff(codes.indptr))
            scatter(self._table, rows, codes.indices, codes.data, self.cut)

    def _add_dense(self, row: np.ndarray, codes: np.ndarray) -> None:
        from scipy.sparse import csr_matrix

        # Where half of all codes are positive, adding whole rows beats scattering single codes.
        rows, index = np.unique(row, return_inverse=True)
        ones, ends = np.ones(len(row), np.float32), np.arange(len(row) + 1)
        by_row = csr_matrix((ones, index, ends), shape=(len(row), len(rows))).T.tocsr()
        for level, threshold in enumerate(self.cut):
            fired = (by_row @ (codes > threshold).astype(np.float32)).astype(np.int32)
            self._table[rows, :, level] += fired
            if level:
                self._table[rows, :, level - 1] -= fired

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return counts int32 (splits × genes × features × thresholds), tokens (splits × genes).

        The counter is used up.
        """
        counts = cumulate(self._table).reshape(self.shape)
        return counts, self._tokens.reshape(self.shape[:2])


def write_firing(path: str | Path, firing: Firing) -> None:
    """Write ``counts`` and ``tokens`` as one ``.zarr.zip``; the rest becomes its attributes."""
    attributes = {
        **firing.attributes,
        "genes": list(firing.genes),
        "thresholds": [float(threshold) for threshold in firing.thresholds],
        "splits": list(SPLITS),
    }
    with store.create_zarr(path, attributes) as group:
        # A chunk a split: readers of one split read one chunk, and entries keep their order.
        store.write_array(group, "counts", firing.counts, chunks=(1, *firing.counts.shape[1:]))
        store.write_array(group, "tokens", firing.tokens)


def read_firing(path: str | Path) -> Firing:
    """Read what :func:`write_firing` wrote.

    Raises
    ------
    InputError
        If the file is missing, damaged or something else.
    """
    with store.open_zarr(path) as group:
        attributes = dict(group.attrs)
        missing = {"genes", "thresholds", "splits"} - set(attributes)
        if missing or attributes["splits"] != list(SPLITS):
            raise InputError(f"{path}: found attributes {sorted(attributes)}, expected firing counts")
        counts, tokens = group["counts"][:], group["tokens"][:]
    genes, thresholds = attributes.pop("genes"), attributes.pop("thresholds")
    return Firing(counts, tokens, genes, thresholds, attributes)
