"""Predicted against observed shifts: measures of one prediction, and of many directions at once.

A shift is a difference of means (d,). Measures against control reward whatever all perturbations have in
common; those against the mean of perturbation centroids do not (Viñas Torné et al. 2025, Systema). Sources:
E-distance Székely and Rizzo 2013 (Peidli et al. 2024 for screens); MMD Gretton et al. 2012; rank as in
PerturBench (Wu et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from interptfm.errors import InputError

TOP_GENES = 20


def cosine(shifts: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Cosine (...,) of shifts (..., d) with one of shape (d,) or of their own; NaN for a shift of 0."""
    size = np.linalg.norm(shifts, axis=-1) * np.linalg.norm(observed, axis=-1)
    dot = (shifts * observed).sum(axis=-1)
    return np.divide(dot, size, out=np.full(np.shape(dot), np.nan), where=size > 0)


def pearson(shifts: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Pearson correlation (...,) over the d entries; NaN for a constant shift."""
    return cosine(
        shifts - shifts.mean(axis=-1, keepdims=True), observed - observed.mean(axis=-1, keepdims=True)
    )


def centroid_accuracy(predicted: np.ndarray, centroids: np.ndarray, target: int) -> np.ndarray:
    """Share (...,) of the other centroids (targets, d) farther from a prediction (..., d) than its own."""
    flat = predicted.reshape(-1, predicted.shape[-1])
    distance = cdist(flat, centroids)
    others = np.delete(distance, target, axis=1)
    own = distance[:, [target]]
    return ((others > own) + 0.5 * (others == own)).mean(axis=1).reshape(predicted.shape[:-1])


def ranks(predicted: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Share (targets,) of the other predictions nearer to a target's centroid than its own: 0 is perfect.

    predicted, centroids: (targets, d). Equal distances count ½, so that equal predictions rank at 0.5.
    """
    distance = cdist(centroids, predicted)
    n = len(distance)
    own = np.diag(distance)[:, None]
    nearer = (distance < own) + 0.5 * (distance == own)
    return (nearer.sum(axis=1) - 0.5) / max(n - 1, 1)


def e_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Energy distance of two samples (n, d), (m, d): 2 E|x − y| − E|x − x'| − E|y − y'|, unbiased."""
    return 2 * cdist(x, y).mean() - _within(cdist(x, x)) - _within(cdist(y, y))


def mmd(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """Squared maximum mean discrepancy under a Gaussian kernel of this bandwidth, unbiased."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2))

    return _within(kernel(x, x)) + _within(kernel(y, y)) - 2 * kernel(x, y).mean()


def median_distance(x: np.ndarray) -> float:
    """Median Euclidean distance of the pairs of a sample (n, d): the usual bandwidth."""
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(x))) or 1.0


def _within(matrix: np.ndarray) -> float:
    n = len(matrix)
    if n < 2:
        raise InputError(f"steering: found {n} cell in a population, expected at least 2")
    return float((matrix.sum() - np.trace(matrix)) / (n * (n - 1)))


def signed_overlap(
    changes: np.ndarray, observed: np.ndarray, top: int = TOP_GENES, masked: int = -1
) -> np.ndarray:
    """Share (...,) of the `top` most changed genes that both have, with the same sign.

    changes (..., genes) predicted, observed (genes,). The target itself (column `masked`) and genes with
    NaN in either take no part. A change of 0 is in no one's top.
    """
    flat = changes.reshape(-1, changes.shape[-1])
    usable = np.isfinite(observed) & np.isfinite(flat).all(axis=0)
    if masked >= 0:
        usable[masked] = False
    flat, observed = flat[:, usable], observed[usable]
    top = min(top, flat.shape[1])
    if top == 0:
        return np.full(changes.shape[:-1], np.nan)
    theirs = np.zeros(len(observed), bool)
    theirs[np.argsort(-np.abs(observed), kind="stable")[:top]] = True
    rank = np.argsort(np.argsort(-np.abs(flat), axis=1, kind="stable"), axis=1, kind="stable")
    shared = (rank < top) & theirs & (np.sign(flat) == np.sign(observed)) & (flat != 0)
    return (shared.sum(axis=1) / top).reshape(changes.shape[:-1])


def off_target(shifts: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Norm (...,) of what a shift has beside the observed direction, in norms of the observed shift."""
    size = np.linalg.norm(observed)
    along = observed / size
    aside = shifts - (shifts @ along)[..., None] * along
    return np.linalg.norm(aside, axis=-1) / size


def slope(shifts: np.ndarray, doses: np.ndarray, observed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Dose–response slopes (draws,): least squares of the projection on the observed direction on the dose.

    shifts (doses, cells, d), weights (draws, cells) how often a cell counts. In norms of the observed
    shift a dose: 1 means that a dose of 1 goes all the way.
    """
    along = observed / np.linalg.norm(observed) ** 2
    response = (shifts @ along) @ weights.T / weights.sum(axis=1)
    centred = doses - doses.mean()
    return centred @ (response - response.mean(axis=0)) / (centred**2).sum()


@dataclass
class Nearer:
    """Classifiers of target against control, fitted on cells that judge nothing, over seeds.

    Linear discriminant analysis with a shrunken covariance (Ledoit and Wolf), balanced classes, each fitted
    on four fifths of the fitting cells.
    """

    weights: np.ndarray
    offsets: np.ndarray

    @classmethod
    def fit(
        cls, target: np.ndarray, control: np.ndarray, seeds: int, generator: np.random.Generator
    ) -> Nearer:
        """target, control: states (n, d), (m, d) of fitting cells; seeds: repeats of 5 folds."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        x = np.concatenate([control, target]).astype(np.float64)
        y = np.repeat([0, 1], [len(control), len(target)])
        weights, offsets = [], []
        for _ in range(seeds):
            fold = np.empty(len(y), int)
            for label in (0, 1):
                rows = np.flatnonzero(y == label)
                fold[generator.permutation(rows)] = np.arange(len(rows)) % 5
            for left_out in range(5):
                kept = fold != left_out
                model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
                model.fit(x[kept], y[kept])
                weights.append(model.coef_[0])
                offsets.append(model.intercept_[0])
        return cls(np.array(weights), np.array(offsets))

    def share(self, states: np.ndarray) -> tuple[float, float]:
        """Mean share of cells (n, d) on the target's side over classifiers, and its standard deviation."""
        inside = (states @ self.weights.T + self.offsets > 0).mean(axis=0)
        return float(inside.mean()), float(inside.std(ddof=1))


def bootstrap_weights(n: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Weights (draws, n) of resampled cells, rows of sum 1."""
    return generator.multinomial(n, np.full(n, 1 / n), size=draws) / n


def choose_doses(errors: np.ndarray, doses: Sequence[float]) -> np.ndarray:
    """Dose (targets,) for each target, the one with the least mean error over all *other* targets.

    errors (targets, doses): distance of prediction and observation on fitting cells, NaN where there is
    no prediction. With no other target the smallest dose in size is taken.
    """
    doses = np.asarray(doses, float)
    if errors.shape[1] != len(doses):
        raise ValueError(f"{errors.shape[1]} columns of errors for {len(doses)} doses")
    chosen = np.full(len(errors), doses[np.argmin(np.abs(doses))])
    for i in range(len(errors)):
        others = np.delete(errors, i, axis=0)
        others = others[np.isfinite(others).all(axis=1)]
        if len(others):
            chosen[i] = doses[int(np.argmin(others.mean(axis=0)))]
    return chosen
