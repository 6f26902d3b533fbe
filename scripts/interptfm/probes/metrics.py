"""AP, AUROC and precision of many linear scores over many tokens, streamed.

Scores of a probe are counted in bins of equal width, 1/42 of a standard deviation, over ± 6 standard
deviations about the mean of the training tokens (what lies outside goes to the first or last bin). Tokens of
one bin are ties: AUROC counts them half, average precision takes them in one step, Σ (Rₙ − Rₙ₋₁) Pₙ over
bins, and precision takes the share of positives of the bin in which the wanted number of tokens is reached.
Memory is that of the bins, whatever the number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 512
REACH = 6.0  # standard deviations
MAX_GROUPS = 10
CHUNK_TERMS = 64  # a product with all tokens at hand stays in reach of the cache
METRICS = ("ap", "auroc", "precision")


class Histograms:
    """Counts of binned scores, int32 (terms × groups × {negative, positive} × bins).

    Parameters
    ----------
    weight, bias
        Probes, (terms × d), (terms,).
    mean, covariance
        Of the training tokens, (d,), (d × d): they give the bins' place.
    members
        bool (terms × genes).
    n_groups
        Groups of tokens counted apart (of blocks, for intervals).
    bins
        Number of bins.
    """

    def __init__(
        self,
        weight: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        covariance: np.ndarray,
        members: np.ndarray,
        n_groups: int = 1,
        bins: int = BINS,
    ) -> None:
        wide = weight.astype(np.float64)
        centre = wide @ mean + bias
        spread = np.sqrt(np.maximum(((wide @ covariance) * wide).sum(axis=1), 0))
        scale = np.divide(bins / (2 * REACH), spread, out=np.zeros_like(spread), where=spread > 0)
        # score → bin in one product: (x·w + b − centre) · scale + bins / 2
        self._weight = (wide * scale[:, None]).astype(np.float32)
        self._offset = ((bias - centre) * scale + bins / 2).astype(np.float32)
        # What a positive adds to the place of its bin.
        self._steps = members.astype(np.int32) * np.int32(bins)
        self.bins, self.n_groups = bins, n_groups
        self.counts = np.zeros((len(weight), n_groups * 2 * bins), np.int32)

    def add(self, x: np.ndarray, gene: np.ndarray, group: np.ndarray | None = None) -> None:
        """Count tokens: x float32 (n × d), gene (n,), group (n,) or None where there is one."""
        if not len(gene):
            return
        base = np.zeros(len(gene), np.int32) if group is None else (2 * self.bins * group).astype(np.int32)
        x = np.ascontiguousarray(x.T)
        for first in range(0, len(self.counts), CHUNK_TERMS):
            rows = slice(first, first + CHUNK_TERMS)
            place = self._weight[rows] @ x
            place += self._offset[rows, None]
            np.clip(place, 0, self.bins - 1, out=place)
            index = place.astype(np.int32)
            index += base
            for counts, step, row in zip(self.counts[rows], self._steps[rows], index, strict=True):
                row += step[gene]
                np.add(counts, np.bincount(row, minlength=len(counts)), out=counts, casting="unsafe")

    def by_group(self) -> np.ndarray:
        """Return the counts, (terms × groups × 2 × bins)."""
        return self.counts.reshape(len(self.counts), self.n_groups, 2, self.bins)


@dataclass
class Scores:
    """Metrics of each term, float64 (terms,), NaN without both classes; ``n_pos`` int64 (terms,) tokens."""

    ap: np.ndarray
    auroc: np.ndarray
    precision: np.ndarray
    n_pos: np.ndarray


def scores_of(counts: np.ndarray) -> Scores:
    """Return the metrics of binned scores, counts (terms × {negative, positive} × bins), bins rising."""
    falling = counts[:, :, ::-1].astype(np.float64)
    negative, positive = falling[:, 0], falling[:, 1]
    n_neg, n_pos = negative.sum(axis=1), positive.sum(axis=1)
    both = (n_neg > 0) & (n_pos > 0)
    cumulated_positive, cumulated = positive.cumsum(axis=1), (negative + positive).cumsum(axis=1)
    cumulated_negative = cumulated - cumulated_positive
    below = n_neg[:, None] - cumulated_negative + negative / 2
    precision = np.divide(cumulated_positive, cumulated, out=np.zeros_like(cumulated), where=cumulated > 0)

    def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.full(len(part), np.nan), where=both)

    # The bin in which the first n_pos tokens end; of it, the part that is still wanted.
    last = (cumulated < n_pos[:, None]).sum(axis=1).clip(max=counts.shape[2] - 1)
    rows = np.arange(len(counts))
    before = cumulated[rows, last] - negative[rows, last] - positive[rows, last]
    found = cumulated_positive[rows, last] - positive[rows, last]
    rest = precision_in(positive[rows, last], negative[rows, last]) * (n_pos - before)
    return Scores(
        ratio((positive * precision).sum(axis=1), n_pos),
        ratio((positive * below).sum(axis=1), n_pos * n_neg),
        ratio(found + rest, n_pos),
        n_pos.astype(np.int64),
    )


def precision_in(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Return the share of positives; 0 where there are none of either."""
    total = positive + negative
    return np.divide(positive, total, out=np.zeros_like(total), where=total > 0)


def auroc_draws(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the AUROC of each term (draws × terms) when groups count as often as they were drawn.

    AUROC is a sum over pairs of groups (positives of one above negatives of another), so the draws need those
    sums and not the bins.

    Parameters
    ----------
    counts
        (terms × groups × 2 × bins).
    weights
        (draws × groups) how often each group was drawn.
    """
    negative = counts[:, :, 0].astype(np.float64)
    positive = counts[:, :, 1].astype(np.float64)
    below = negative.cumsum(axis=2) - negative / 2
    pairs = positive @ below.transpose(0, 2, 1)  # terms × groups of positives × groups of negatives
    n_pos, n_neg = positive.sum(axis=2), negative.sum(axis=2)
    weights = weights.astype(np.float64)
    above = np.einsum("dg,tgh,dh->dt", weights, pairs, weights, optimize=True)
    total = (weights @ n_pos.T) * (weights @ n_neg.T)
    return np.divide(above, total, out=np.full(above.shape, np.nan), where=total > 0)


def groups_of(labels: np.ndarray, tokens: np.ndarray, most: int = MAX_GROUPS) -> np.ndarray:
    """Return the group of each block, int64 (blocks,): one each, or joined to ``most`` of similar size.

    The largest goes first, each to the group with the fewest tokens.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    group, size = np.zeros(len(labels), np.int64), np.zeros(most)
    for block in np.argsort(-tokens, kind="stable"):
        group[block] = int(np.argmin(size))
        size[group[block]] += tokens[block]
    return group
