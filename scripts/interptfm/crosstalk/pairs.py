"""Scores of concept pairs by cell types, all at once: dense products of what neighbours send with what cells
have.

With A the senders' activities of type S, B the receivers' of type R and W the edge weights, the sums over the
edges between S and R of w·a·b are Aᵀ W B. Every null replaces rows of B by rows of other cells, so U = W A is
made once, and a permutation costs one gather and one dense product. A column of ones beside A and B gives the
sums of w·a, w·b and w.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse


class PairSums:
    """Edge sums of all concept pairs (a, b), by type of sender and receiver.

    Parameters
    ----------
    weights
        (n × n) symmetric CSR float32.
    types
        (n,) int labels from 0.
    a, b
        (n × A) and (n × B) float32 activities of senders and receivers.
    """

    def __init__(self, weights: sparse.csr_matrix, types: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        self.weights, self.types = weights, np.asarray(types)
        ones = np.ones((len(a), 1), np.float32)
        self.a = np.hstack([a, ones]).astype(np.float32)
        # A last row of zeros is what a cell without a donor takes: index −1.
        self.b = np.vstack([np.hstack([b, ones]), np.zeros((1, b.shape[1] + 1))]).astype(np.float32)

    def receiver(self, target: int, sources: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells of a type (r,) and what the source types send them (r × sources·(A + 1))."""
        cells = np.flatnonzero(self.types == target)
        rows = self.weights[cells]
        sent = [rows[:, mine] @ self.a[mine] for mine in (np.flatnonzero(self.types == s) for s in sources)]
        return cells, np.hstack(sent) if sent else np.zeros((len(cells), 0), np.float32)

    def sums(self, sent: np.ndarray, donors: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the sums (sources × (A + 1) × (columns + 1)) with values of b from ``donors`` (r,)."""
        taken = self.b[donors]
        if len(columns) < self.b.shape[1] - 1:
            taken = taken[:, np.append(columns, self.b.shape[1] - 1)]
        return (sent.T @ taken).reshape(-1, self.a.shape[1], len(columns) + 1)


def edge_counts(weights: sparse.csr_matrix, labels: np.ndarray, n_labels: int) -> np.ndarray:
    """Return the number of edges between labels (n_labels × n_labels), each edge once."""
    n = len(labels)
    one = sparse.csr_matrix((np.ones(n), (np.arange(n), labels)), shape=(n, n_labels))
    counts = (one.T @ (weights > 0).astype(float) @ one).toarray()
    return (counts - np.diag(np.diag(counts) / 2)).round().astype(int)


def _parts(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return sums[..., :-1, :-1], sums[..., :-1, -1:], sums[..., -1:, :-1], sums[..., -1:, -1:]


def covariance(sums: np.ndarray) -> np.ndarray:
    """Return mean(ab) − mean(a)·mean(b) over edges, from sums (…, A + 1, B + 1); NaN without edges.

    That receivers next to S have more of b whatever S does adds nothing: both means are of these edges.
    """
    ab, a, b, w = _parts(sums)
    w = np.where(w > 0, w, np.nan)
    return ab / w - (a / w) * (b / w)


def lift(sums: np.ndarray) -> np.ndarray:
    """Return mean(ab) / (mean(a)·mean(b)) over edges, from sums (…, A + 1, B + 1) of values from 0.

    How often active a meets active b, against what the amounts of both on these edges give; NaN where one of
    the amounts is 0.
    """
    ab, a, b, w = _parts(sums)
    expected = a * b
    return np.divide(ab * w, expected, out=np.full(ab.shape, np.nan, np.float32), where=expected > 1e-12)


def independent(sums: np.ndarray) -> np.ndarray:
    """Return mean(a)·mean(b) over edges, from sums (…, A + 1, B + 1): what amounts alone would give."""
    _, a, b, w = _parts(sums)
    w = np.where(w > 0, w, np.nan)
    return (a / w) * (b / w)


def mean_product(sums: np.ndarray) -> np.ndarray:
    """Return mean(ab) over edges, from sums (…, A + 1, B + 1); NaN without edges."""
    ab, _, _, w = _parts(sums)
    return ab / np.where(w > 0, w, np.nan)
