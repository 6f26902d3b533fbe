"""F1 of concepts and features from firing counts: the choice on validation, the score on test.

The label of a token (is its gene in the concept?) depends on the gene alone. With fired[gene, feature,
threshold] and tokens[gene], TP = membershipᵀ · fired, FP = Σ fired − TP and FN = membershipᵀ · tokens − TP:
the same integers as from the token × concept and token × feature × threshold matrices, which never exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interptfm.errors import InputError
from interptfm.store.files import damaged

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# A chunk of the counts (genes × columns) and of the products (terms × columns) should stay in cache.
CHUNK_COLUMNS = 640
# Whole numbers up to here are exact in float32.
EXACT_FLOAT32 = 2**24


def read_membership(path: str | Path) -> csr_matrix:
    """Read ``concepts/membership.npz``, bool CSR (genes × terms).

    Raises
    ------
    InputError
        If the file is missing, damaged or no sparse matrix.
    """
    from scipy.sparse import load_npz

    with damaged(path):
        try:
            return load_npz(path).tocsr()
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise InputError(f"{path}: found no sparse matrix ({error}), expected membership.npz") from None


def reindex(membership: csr_matrix, genes: Sequence[str], panel: Sequence[str]) -> csr_matrix:
    """Return the membership by term, float32 CSR (terms × panel genes), matched by symbol.

    ``membership`` is (genes × terms); ``genes`` names its rows. Panel genes without a row belong to
    no term; rows that are not on the panel are dropped.

    Raises
    ------
    InputError
        If there is no term, names and rows differ in number, a gene comes twice, or no panel gene
        is found.
    """
    from scipy.sparse import csr_matrix

    if membership.shape[1] == 0:
        raise InputError("membership: found no term, expected at least one")
    if membership.shape[0] != len(genes):
        raise InputError(f"membership: found {membership.shape[0]} rows, expected {len(genes)}, one a gene")
    for label, names in (("membership genes", genes), ("firing genes", panel)):
        if len(set(names)) != len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise InputError(f"{label}: found {twice!r} twice, expected every gene once")
    position = {gene: i for i, gene in enumerate(panel)}
    target = np.array([position.get(gene, -1) for gene in genes])
    if not (target >= 0).any():
        raise InputError(
            f"membership: found genes such as {', '.join(map(str, genes[:3]))}, expected some of the panel's "
            f"such as {', '.join(panel[:3])}"
        )
    coo = membership.tocoo()
    chosen = (coo.data != 0) & (target[coo.row] >= 0)
    terms, rows = coo.col[chosen], target[coo.row[chosen]]
    shape = (membership.shape[1], len(panel))
    members = csr_matrix((np.ones(len(terms), np.float32), (terms, rows)), shape=shape)
    members.data[:] = 1
    return members


def true_positives(members: csr_matrix, fired: np.ndarray) -> np.ndarray:
    """Return TP, (terms × columns), of ``members`` (terms × genes) and ``fired`` (genes × columns).

    In the dtype of ``fired``, float32 or float64; exact while the sums stay below 2²⁴ or 2⁵³. GO
    membership is about 3 % dense, where the sparse product is several times faster than BLAS.
    """
    return members.astype(fired.dtype, copy=False) @ fired


@dataclass
class Scores:
    """Scores of (term, column) pairs, each (pairs,): counts int64, rates float64.

    ``precision`` is NaN where nothing fires, ``recall`` and ``f1`` where the term has no positive.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


class Split:
    """Firing counts of one split.

    Parameters
    ----------
    fired
        int (genes × features × thresholds). A column is feature · thresholds + threshold.
    tokens
        int (genes,).
    """

    def __init__(self, fired: np.ndarray, tokens: np.ndarray) -> None:
        self.fired, self.tokens = fired, tokens
        self.total = fired.sum(axis=0, dtype=np.int64)

    def score(self, members: csr_matrix, term: np.ndarray, column: np.ndarray) -> Scores:
        """Score pairs of a term, a row of ``members`` (terms × genes), and a column, both (pairs,).

        Column −1 is a detector that never fires.
        """
        flat, total = self.fired.reshape(len(self.fired), -1), self.total.reshape(-1)
        term, column = np.asarray(term, np.int64), np.asarray(column, np.int64)
        chosen = members[term]
        pair = np.repeat(np.arange(len(term)), np.diff(chosen.indptr))
        hits = np.where(column[pair] >= 0, flat[chosen.indices, column[pair]], 0)
        tp = np.bincount(pair, weights=hits, minlength=len(term)).astype(np.int64)
        weights = self.tokens[chosen.indices]
        positives = np.bincount(pair, weights=weights, minlength=len(term)).astype(np.int64)
        fires = np.where(column >= 0, total[column], 0)
        return Scores(
            tp,
            fires - tp,
            positives - tp,
            ratio(tp, fires),
            ratio(tp, positives),
            np.where(positives > 0, ratio(2 * tp, fires + positives), np.nan),
        )


class Search:
    """The counts of one split, laid out for the search of the best F1."""

    def __init__(self, split: Split) -> None:
        fired, tokens, total = split.fired, split.tokens, split.total
        self.n_features, self.n_thresholds = total.shape
        self.tokens = tokens.astype(np.float64)
        largest = int(total.max(initial=0)) + int(tokens.sum())
        self.dtype = np.float32 if largest < EXACT_FLOAT32 else np.float64
        # A feature that never fires has F1 0 with everything; leaving it out is exact.
        live = np.flatnonzero(total.max(axis=1, initial=0) > 0)
        size = max(1, CHUNK_COLUMNS // self.n_thresholds)
        self._chunks = []
        for features in (live[i : i + size] for i in range(0, len(live), size)):
            counts = fired[:, features].reshape(len(tokens), -1).astype(self.dtype)
            self._chunks.append((features, counts, total[features].reshape(-1).astype(self.dtype)))

    def best(self, members: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return each term's largest F1 and its column (feature · thresholds + threshold).

        Of equal values the first feature, then the lowest threshold; −1 where the largest F1 is 0.
        """
        best = np.zeros(members.shape[0], self.dtype)
        column = np.full(members.shape[0], -1, np.int64)
        rows = np.arange(members.shape[0])
        members, positives = members.astype(self.dtype, copy=False), self._positives(members)
        for features, counts, total in self._chunks:
            half = self._half_f1(members, positives, counts, total)
            chosen = half.argmax(axis=1)
            value = half[rows, chosen]
            better = value > best
            feature, threshold = np.divmod(chosen[better], self.n_thresholds)
            column[better] = features[feature] * self.n_thresholds + threshold
            best[better] = value[better]
        return 2 * best.astype(np.float64), column

    def by_feature(self, members: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return the largest F1 over thresholds, (terms × features), and the (lowest) threshold of it."""
        f1 = np.zeros((members.shape[0], self.n_features), self.dtype)
        threshold = np.zeros(f1.shape, np.uint8)
        members, positives = members.astype(self.dtype, copy=False), self._positives(members)
        for features, counts, total in self._chunks:
            half = self._half_f1(members, positives, counts, total)
            half = half.reshape(len(half), len(features), self.n_thresholds)
            f1[:, features] = 2 * half.max(axis=2)
            threshold[:, features] = half.argmax(axis=2)
        return f1, threshold

    def _positives(self, members: csr_matrix) -> np.ndarray:
        # Without positives TP is 0, so any other denominator gives F1 0 instead of 0 / 0.
        return np.maximum(members @ self.tokens, 1).astype(self.dtype)[:, None]

    @staticmethod
    def _half_f1(
        members: csr_matrix, positives: np.ndarray, counts: np.ndarray, total: np.ndarray
    ) -> np.ndarray:
        """Return TP / (TP + FP + TP + FN), half of F1: (terms × columns)."""
        half = true_positives(members, counts)
        half /= total[None, :] + positives
        return half


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator as float64, NaN where the denominator is 0."""
    result = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)


def best_single_gene(
    members: csr_matrix, validation_tokens: np.ndarray, test_tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each term's best one-gene detector, chosen on validation, and its F1 on test.

    The detector fires on all tokens of one gene of the term, so TP is that gene's tokens and FP is 0:
    the best is the gene with most tokens (the first of equals). Both (terms,); −1 and NaN for a term
    without a gene, NaN without test positives.
    """
    gene = np.full(members.shape[0], -1, np.int64)
    for term in range(members.shape[0]):
        of_term = np.sort(members.indices[members.indptr[term] : members.indptr[term + 1]])
        if len(of_term):
            gene[term] = of_term[np.argmax(validation_tokens[of_term])]
    tp = np.where(gene >= 0, test_tokens[gene], 0)
    positives = members @ test_tokens.astype(np.float64)
    f1 = np.where(positives > 0, ratio(2.0 * tp, tp + positives), np.nan)
    return gene, f1
