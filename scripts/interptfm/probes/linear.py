"""Difference in means and ridge regression, exact on all tokens, from sufficient statistics.

Both are fitted with all genes and without the genes of each fold. Ridge's strength is chosen on validation
cells and on genes that the fit has not seen, never on those of the fold that it will be judged on: for the
fit without fold f, fits without f and g are scored on g, for all other g; for the fit with all genes, fits
without g are scored on g. A fit without two folds serves both of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from interptfm.probes.statistics import TRAIN, VALIDATION, Moments


@dataclass
class Fit:
    """Probes for every column of a membership; score = x · weight + bias.

    ``weight`` float32 (terms × d), ``bias`` (terms,); ``fold_weight`` (folds × terms × d) and ``fold_bias``
    (folds × terms) without the genes of each fold. Zeros where a term has no positive or no negative.
    """

    weight: np.ndarray
    bias: np.ndarray
    fold_weight: np.ndarray
    fold_bias: np.ndarray


class Design:
    """Statistics by fold for one membership, of training or validation tokens, float64.

    ``n`` (folds,) tokens; ``s`` (folds × d) Σ x; ``gram`` (folds × d × d) Σ x xᵀ; ``b`` (folds × d × terms)
    Σ x yᵀ; ``y`` (folds × terms) positives. ``members`` is (terms × genes), 0 or 1.
    """

    def __init__(self, moments: Moments, split: int, members: np.ndarray) -> None:
        tokens, sums = moments.tokens[split].astype(float), moments.sums[split]
        folds = [np.flatnonzero(moments.fold == h) for h in range(moments.n_folds)]
        self.n = np.array([tokens[genes].sum() for genes in folds])
        self.s = np.stack([sums[genes].sum(axis=0) for genes in folds])
        self.gram = moments.grams[split]
        self.b = np.stack([sums[genes].T @ members[:, genes].T for genes in folds])
        self.y = np.stack([members[:, genes] @ tokens[genes] for genes in folds])

    def without(self, *folds: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return (n, s, gram, b, y) summed over all folds but these."""
        kept = [h for h in range(len(self.n)) if h not in folds]
        return tuple(part[kept].sum(axis=0) for part in (self.n, self.s, self.gram, self.b, self.y))


def difference_in_means(moments: Moments, members: np.ndarray) -> Fit:
    """Return mean of positive tokens − mean of negative ones, of training cells, for (terms × genes) members.

    The bias puts the score's zero half-way between the two means. Source: the "mass-mean" direction of Marks
    and Tegmark (2023, arXiv:2310.06824).
    """
    design = Design(moments, TRAIN, members.astype(float))

    def fit(*held_out: int) -> tuple[np.ndarray, np.ndarray]:
        n, s, _, b, y = design.without(*held_out)
        defined = (y > 0) & (y < n)
        positive = b / np.where(y > 0, y, 1)
        negative = (s[:, None] - b) / np.where(y < n, n - y, 1)
        weight = np.where(defined, positive - negative, 0)
        return weight.T, -((positive + negative) * weight).sum(axis=0) / 2

    weight, bias = fit()
    folds = [fit(h) for h in range(moments.n_folds)]
    return _as_fit(weight, bias, folds)


class Ridge:
    """All ridge fits on one set of statistics: min Σ (x·w + b − y)² + α |w|², the intercept b not penalised.

    α = strength · trace(covariance sum) / d, so that a strength means the same for any number and scale of
    tokens. One eigendecomposition serves all strengths and all terms.
    """

    def __init__(self, n: float, s: np.ndarray, gram: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
        centred = gram - np.outer(s, s) / n
        values, self.vectors = np.linalg.eigh(centred)
        self.values = np.maximum(values, 0)
        self.unit = float(self.values.mean()) or 1.0
        self.mean, self.base = s / n, y / n
        self.projected = self.vectors.T @ (b - np.outer(s, self.base))
        self.projected[:, (y <= 0) | (y >= n)] = 0

    def solve(self, strength: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients in the eigenbasis (d × terms) and bias (terms,); a strength for all or each."""
        inside = self.projected / (self.values[:, None] + np.asarray(strength) * self.unit)
        return inside, self.base - (self.vectors.T @ self.mean) @ inside

    def weights(self, strength: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (terms × d) and bias (terms,)."""
        inside, bias = self.solve(strength)
        return (self.vectors @ inside).T, bias

    def r_squared(
        self,
        strengths: Sequence[float],
        n: float,
        s: np.ndarray,
        gram: np.ndarray,
        b: np.ndarray,
        y: np.ndarray,
    ) -> np.ndarray:
        """Return R² (strengths × terms) on other tokens, from their statistics; NaN without positives there.

        1 − Σ (score − y)² / Σ (ȳ − y)² with ȳ the mean label of the tokens fitted on: 0 is what the intercept
        alone achieves.
        """
        v = self.vectors
        quadratic, linear, cross = v.T @ gram @ v, v.T @ s, v.T @ b
        total = y - 2 * self.base * y + n * self.base**2
        result = np.full((len(strengths), len(y)), np.nan)
        for i, strength in enumerate(strengths):
            w, bias = self.solve(strength)
            error = (w * (quadratic @ w - 2 * cross)).sum(axis=0) + 2 * bias * (linear @ w)
            error += n * bias**2 - 2 * bias * y + y
            np.divide(error, total, out=result[i], where=(y > 0) & (total > 0))
        return 1 - result


def ridge(
    moments: Moments, members: np.ndarray, strengths: Sequence[float], groups: np.ndarray
) -> tuple[Fit, dict[int, dict[str, object]]]:
    """Return ridge probes and the strengths that validation chose.

    Parameters
    ----------
    members
        (terms × genes), 0 or 1; several memberships may be stacked.
    strengths
        To choose from: one for all terms of a group, by their mean R².
    groups
        (terms,) which of the memberships a term is of; strengths are chosen in each by itself.

    Returns
    -------
    The fit, and group → ``final`` (strength), ``folds`` (list of strengths) and ``validation`` (mean R² at
    each strength for the fit with all genes).
    """
    members = members.astype(float)
    train, held = Design(moments, TRAIN, members), Design(moments, VALIDATION, members)
    n_folds, labels = moments.n_folds, np.unique(groups)
    # (outer fold or, last, none) × inner fold × strengths × groups
    score = np.full((n_folds + 1, n_folds, len(strengths), len(labels)), np.nan)

    def judge(fitted: Ridge, outer: int, inner: int) -> None:
        one = (held.n[inner], held.s[inner], held.gram[inner], held.b[inner], held.y[inner])
        found = fitted.r_squared(strengths, *one)
        for k, label in enumerate(labels):
            values = found[:, groups == label]
            defined = ~np.isnan(values[0])
            if defined.any():
                score[outer, inner, :, k] = values[:, defined].mean(axis=1)

    singles = [Ridge(*train.without(h)) for h in range(n_folds)]
    for h, fitted in enumerate(singles):
        judge(fitted, n_folds, h)
    for f, g in combinations(range(n_folds), 2):
        fitted = Ridge(*train.without(f, g))
        judge(fitted, f, g)
        judge(fitted, g, f)

    best = np.array(
        [[_best(score[outer, :, :, k]) for k in range(len(labels))] for outer in range(n_folds + 1)]
    )
    of_term = np.searchsorted(labels, groups)
    chosen = np.asarray(strengths, float)[best]
    weight, bias = Ridge(*train.without()).weights(chosen[-1][of_term])
    folds = [fitted.weights(chosen[h][of_term]) for h, fitted in enumerate(singles)]
    said = {
        int(label): {
            "final": float(chosen[-1, k]),
            "folds": chosen[:-1, k].tolist(),
            "validation": _mean(score[-1, :, :, k]).tolist(),
        }
        for k, label in enumerate(labels)
    }
    return _as_fit(weight, bias, folds), said


def _mean(score: np.ndarray) -> np.ndarray:
    """Return the mean over inner folds that have a score, (strengths,); 0 where none has."""
    defined = ~np.isnan(score[:, 0])
    return score[defined].mean(axis=0) if defined.any() else np.zeros(score.shape[1])


def _best(score: np.ndarray) -> int:
    """Return the place of the largest mean; of equal ones the last, the strongest of a rising list."""
    mean = _mean(score)
    return len(mean) - 1 - int(np.argmax(mean[::-1]))


def _as_fit(weight: np.ndarray, bias: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]) -> Fit:
    return Fit(
        weight.astype(np.float32),
        bias.astype(np.float32),
        np.stack([w for w, _ in folds]).astype(np.float32),
        np.stack([b for _, b in folds]).astype(np.float32),
    )


def sigma_of(moments: Moments, unit: np.ndarray) -> np.ndarray:
    """Return the standard deviation over training tokens of projections on rows of unit length, float32."""
    n = moments.tokens[TRAIN].sum()
    mean = moments.sums[TRAIN].sum(axis=0) / n
    covariance = moments.grams[TRAIN].sum(axis=0) / n - np.outer(mean, mean)
    wide = unit.astype(np.float64)
    return np.sqrt(np.maximum(((wide @ covariance) * wide).sum(axis=1), 0)).astype(np.float32)


def token_mean(moments: Moments) -> np.ndarray:
    """Return the mean of the training tokens, float32 (d,)."""
    return (moments.sums[TRAIN].sum(axis=0) / moments.tokens[TRAIN].sum()).astype(np.float32)
