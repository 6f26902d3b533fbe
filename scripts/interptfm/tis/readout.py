"""Units read out of another model's states, for models whose units do not correspond."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from interptfm.errors import InputError
from interptfm.tis.scoring import Columns

PENALTIES = np.logspace(-3, 3, 13)
"""Ridge penalties tried, relative to the mean eigenvalue of the states' covariance."""


class Readout:
    """Ridge regression from the states of one model to units of another.

    The penalty of each unit is that of the least generalised cross-validation error (Golub, Heath and Wahba
    1979, *Technometrics* 21:215) on the cells of the fit; other cells are to be judged.

    Parameters
    ----------
    states
        (cells × d) states to predict from.
    train
        (cells,) bool: cells to fit on, more than 2.

    Raises
    ------
    InputError
        With fewer cells.
    """

    def __init__(self, states: np.ndarray, train: np.ndarray) -> None:
        self.train = np.flatnonzero(train)
        n = len(self.train)
        if n < 3:
            raise InputError(
                f"held-out genes: found {n} training cells, expected at least 3 to fit a readout"
            )
        mean, deviation = states[self.train].mean(axis=0), states[self.train].std(axis=0)
        self.x = ((states - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
        fit = self.x[self.train]
        values, self.vectors = np.linalg.eigh((fit.T @ fit).astype(np.float64))
        self.values = np.maximum(values, 0)
        self.penalties = PENALTIES * max(self.values.mean(), 1e-12)

    def predict(self, columns: Columns, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predicted units (cells × units, float32) and their correlation with the units on ``test``.

        ``columns`` (cells × units); NaN is taken as 0. The correlation is NaN where a unit is constant.
        """
        y = columns.toarray() if sparse.issparse(columns) else columns
        y = np.nan_to_num(y).astype(np.float32)
        fit = y[self.train]
        centre = fit.mean(axis=0)
        fit = fit - centre
        n = len(fit)
        projected = self.vectors.T @ (self.x[self.train].T @ fit).astype(np.float64)
        total = (fit.astype(np.float64) ** 2).sum(axis=0)
        errors = []
        for penalty in self.penalties:
            kept = self.values / (self.values + penalty)
            # Of the fit U S Vᵀ, (Uᵀy)² = (Vᵀ Xᵀ y)² / s²; directions without spread explain nothing.
            explained = np.divide(
                projected**2,
                self.values[:, None],
                out=np.zeros_like(projected),
                where=self.values[:, None] > 1e-9,
            )
            left = total - ((1 - (1 - kept) ** 2)[:, None] * explained).sum(axis=0)
            errors.append(left / n / (1 - min(kept.sum() / n, 0.999)) ** 2)
        penalty = self.penalties[np.argmin(errors, axis=0)]
        weights = self.vectors @ (projected / (self.values[:, None] + penalty[None, :]))
        predicted = self.x @ weights.astype(np.float32) + centre
        a, b = predicted[test].astype(float), y[test].astype(float)
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
        return predicted, np.divide((a * b).sum(axis=0), size, out=np.full(len(size), np.nan), where=size > 0)
