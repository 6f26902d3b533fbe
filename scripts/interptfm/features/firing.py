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
    A feature that never fires on training tokens has no scale and counts nowhere. ``sums`` float32
    (splits × genes × features): codes / maximum summed over tokens, so that ``sums / tokens`` is a
    feature's mean activation on a gene; None where only counts are known. ``shares`` float32
    (features × thresholds): the thresholds as shares of the feature's maximum; None where they are
    the same for all features, namely ``thresholds``.
    """

    counts: np.ndarray
    tokens: np.ndarray
    genes: list[str]
    thresholds: list[float]
    attributes: dict[str, Any] = field(default_factory=dict)
    sums: np.ndarray | None = None
    shares: np.ndarray | None = None

    def share(self, feature: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Return the threshold of (feature, level) pairs as a share of the feature's maximum, float64."""
        if self.shares is None:
            return np.array(self.thresholds, float)[level]
        return self.shares[feature, level].astype(float)


class CodeHistogram:
    """Histogram of each feature's positive codes, from which the quantiles of a threshold grid are read.

    Bins divide (0, maximum] evenly, so a quantile is exact to 1 / ``BINS`` of the maximum.
    """

    BINS = 1000

    def __init__(self, maximum: np.ndarray) -> None:
        self.maximum = np.asarray(maximum, np.float32)
        self._edges = cuts(self.maximum, np.linspace(0, 1, self.BINS, endpoint=False, dtype=np.float32))
        self._table = np.zeros((len(maximum), self.BINS), np.int64)

    def add(self, codes: np.ndarray | csr_matrix) -> None:
        """Count the positive codes of a block, CSR or dense (n × features)."""
        if isinstance(codes, np.ndarray):
            row, feature = np.nonzero(codes > 0)
            value = codes[row, feature]
        else:
            feature, value = codes.indices, codes.data
        live = (value > 0) & (self.maximum[feature] > 0)
        feature, value = feature[live], value[live]
        place = np.ceil(value / self.maximum[feature] * self.BINS).astype(np.int64) - 1
        np.add.at(self._table, (feature, np.clip(place, 0, self.BINS - 1)), 1)

    def shares(self, quantiles: Sequence[float]) -> np.ndarray:
        """Return the quantiles of the positive codes as shares of the maximum, float32 (features × q).

        Quantile 0 is share 0: every positive code exceeds it. A feature without codes has 0 throughout.
        """
        ranks = np.cumsum(self._table, axis=1)
        total = ranks[:, -1:]
        levels = np.asarray(quantiles, float)
        result = np.zeros((len(ranks), len(levels)), np.float32)
        for column, level in enumerate(levels):
            below = (ranks <= level * total).sum(axis=1)
            result[:, column] = np.where(total[:, 0] > 0, below / self.BINS, 0) if level > 0 else 0
        return result


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
    """Counts firing tokens and sums codes, block by block.

    Parameters
    ----------
    n_genes
        Length of the gene panel.
    maximum
        (features,) largest code of each feature over the training tokens.
    thresholds
        Increasing shares of the maximum, in [0, 1).
    shares
        (features × thresholds) shares of the feature's own, never falling along thresholds; they
        replace ``thresholds``, of which then only the number counts.
    """

    def __init__(
        self,
        n_genes: int,
        maximum: np.ndarray,
        thresholds: Sequence[float],
        shares: np.ndarray | None = None,
    ) -> None:
        self.cut = cuts(maximum, thresholds)
        maximum = np.asarray(maximum, np.float32)
        if shares is not None:
            own = np.asarray(shares, np.float32).T * maximum
            self.cut = np.where(maximum > 0, own, np.float32(np.inf))
        self.shape = (len(SPLITS), n_genes, len(maximum), len(thresholds))
        self._scale = np.divide(1, maximum, out=np.zeros(len(maximum)), where=maximum > 0)
        self._sums = np.zeros((len(SPLITS) * n_genes, len(maximum)))
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
            np.add.at(
                self._sums.reshape(-1),
                rows * self.shape[2] + codes.indices,
                codes.data * self._scale[codes.indices],
            )

    def _add_dense(self, row: np.ndarray, codes: np.ndarray) -> None:
        from scipy.sparse import csr_matrix

        # Where half of all codes are positive, adding whole rows beats scattering single codes.
        rows, index = np.unique(row, return_inverse=True)
        ones, ends = np.ones(len(row), np.float32), np.arange(len(row) + 1)
        by_row = csr_matrix((ones, index, ends), shape=(len(row), len(rows))).T.tocsr()
        self._sums[rows] += (by_row @ codes) * self._scale
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

    def sums(self) -> np.ndarray:
        """Return codes / maximum summed over tokens, float32 (splits × genes × features).

        Equal over shards and block sizes up to the rounding of float64 sums.
        """
        return self._sums.reshape(self.shape[:3]).astype(np.float32)


def write_firing(path: str | Path, firing: Firing) -> None:
    """Write counts and tokens (sums and shares where there are any) as one ``.zarr.zip``.

    The rest becomes its attributes.
    """
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
        if firing.sums is not None:
            store.write_array(group, "sums", firing.sums, chunks=(1, *firing.sums.shape[1:]))
        if firing.shares is not None:
            store.write_array(group, "shares", firing.shares)


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
        sums = group["sums"][:] if "sums" in group else None
        shares = group["shares"][:] if "shares" in group else None
    genes, thresholds = attributes.pop("genes"), attributes.pop("thresholds")
    return Firing(counts, tokens, genes, thresholds, attributes, sums, shares)
