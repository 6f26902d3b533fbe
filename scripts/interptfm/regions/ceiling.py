"""What calls could reach at best: classifiers taught the geometric regions, by what they are shown."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interptfm.regions.geometry import REGIONS

PENALTIES = np.logspace(0, 5, 6)
"""Ridge penalties tried, for standardised columns."""
FOLDS = 4
MAX_FITTED = 20_000
"""Cells that a classifier is fitted on at most, drawn at random: more change nothing that is shown here."""


def classified(
    values: np.ndarray,
    region: np.ndarray,
    blocks: np.ndarray,
    fitted: np.ndarray,
    judged: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return a score of each region (judged cells × ``REGIONS``) by ridge regression on its indicator.

    What calls made from ``values`` could reach in a linear way, were they taught. Columns are standardised
    by the fitted cells; the penalty is that of the least squared error over folds of whole blocks of these.
    Two regions need cells, and there must be as many blocks as folds; else everything is NaN, as is
    a region without cells.

    Parameters
    ----------
    values
        (cells × columns) float, finite.
    region, blocks
        (cells,) str; ``region`` empty where a cell has no place.
    fitted, judged
        (cells,) bool: cells to learn from, and to score.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold

    known = np.flatnonzero(fitted & (region != ""))
    if len(known) > MAX_FITTED:
        known = np.sort(generator.choice(known, MAX_FITTED, replace=False))
    member = (region[known][:, None] == np.array(REGIONS)).astype(float)
    present = member.any(axis=0)
    if present.sum() < 2 or len(np.unique(blocks[known])) < FOLDS:
        return np.full((int(judged.sum()), len(REGIONS)), np.nan)
    mean, spread = values[known].mean(axis=0), values[known].std(axis=0)
    z = (values - mean) / np.where(spread > 0, spread, 1)
    x = z[known]
    errors = np.zeros(len(PENALTIES))
    for train, test in GroupKFold(FOLDS).split(x, member, blocks[known]):
        for i, penalty in enumerate(PENALTIES):
            predicted = Ridge(alpha=penalty).fit(x[train], member[train]).predict(x[test])
            errors[i] += ((predicted - member[test]) ** 2).sum()
    found = Ridge(alpha=PENALTIES[errors.argmin()]).fit(x, member).predict(z[judged])
    return np.where(present, found, np.nan)


def neighbourhood(values: np.ndarray, spatial: np.ndarray, section: np.ndarray, k: int = 15) -> np.ndarray:
    """Return the mean over each cell's ``k`` nearest other cells of its section (cells × columns).

    Cells without a place, or alone in a section, keep their own values.
    """
    from scipy.spatial import cKDTree

    means = np.array(values, float)
    placed = np.isfinite(spatial).all(axis=1)
    for name in pd.unique(section):
        cells = np.flatnonzero((section == name) & placed)
        n = min(k, len(cells) - 1)
        if n < 1:
            continue
        _, found = cKDTree(spatial[cells]).query(spatial[cells], n + 1)
        # Cells at one place may come in any order: a cell is dropped by its number, not by its rank.
        own = found == np.arange(len(cells))[:, None]
        own[~own.any(axis=1), -1] = True
        others = found[~own].reshape(len(cells), n)
        means[cells] = values[cells][others].mean(axis=1)
    return means
