"""What is tested: concept activities as z-scores, as residuals within type and depth, and their range."""

from __future__ import annotations

import numpy as np

LAGS_UM = np.arange(0.0, 121.0, 10.0)
LEAST_TYPE = 20
LONGEST_PAIRS = 400_000


def standardised(values: np.ndarray) -> np.ndarray:
    """Return z-scores (cells × concepts) float32 over the cells given; 0 where a concept does not vary."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 1e-12).astype(
        np.float32
    )


def residuals(values: np.ndarray, types: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return activities centred within type with log depth regressed out, scaled to unit spread in each type.

    A cell of few counts is noisier, so the spread goes with depth as well: the absolute residual is
    regressed on log depth, too, and divided out (at least a quarter of its mean). Types with fewer than 20
    cells keep no depth slope of their own and are only centred.

    Parameters
    ----------
    values
        (cells × concepts), of one section.
    types, depth
        (cells,) labels and total counts.

    Returns
    -------
    (cells × concepts) float32; 0 where a concept does not vary within a type.
    """
    result = np.zeros(values.shape, np.float32)
    logged = np.log(np.maximum(np.asarray(depth, float), 1))
    for name in np.unique(types):
        cells = np.flatnonzero(types == name)
        x = values[cells].astype(np.float64)
        r = x - x.mean(axis=0)
        d = logged[cells] - logged[cells].mean()
        sloped = len(cells) >= LEAST_TYPE and (d**2).sum() > 1e-9
        if sloped:
            r -= np.outer(d, d @ r / (d @ d))
            size = np.abs(r)
            level = size.mean(axis=0)
            fitted = level + np.outer(d, d @ size / (d @ d))
            r /= np.maximum(np.maximum(fitted, level / 4), 1e-12)
            r -= r.mean(axis=0)
        spread = r.std(axis=0)
        flat = x.std(axis=0) <= 1e-9
        result[cells] = np.where(flat, 0, r / np.where(spread > 1e-12, spread, 1))
    return result


def ranges_um(
    residual: np.ndarray, spatial: np.ndarray, fov: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return how far each concept's residual resembles itself (concepts,) in µm, from 10 to 120.

    The mean product of residuals of two cells by distance, in steps of 10 µm; the range is the first distance
    at which it is below 1/e of its value nearest by, or below three standard errors. At most 400,000 pairs of
    cells are looked at.
    """
    from scipy.spatial import cKDTree

    n_concepts = residual.shape[1]
    found = []
    placed = np.isfinite(spatial).all(axis=1)
    for name in np.unique(fov[placed]):
        cells = np.flatnonzero((fov == name) & placed)
        found.append(cells[cKDTree(spatial[cells]).query_pairs(LAGS_UM[-1], output_type="ndarray")])
    pairs = np.concatenate(found) if found else np.empty((0, 2), int)
    if len(pairs) > LONGEST_PAIRS:
        pairs = pairs[generator.choice(len(pairs), LONGEST_PAIRS, replace=False)]
    distance = np.linalg.norm(spatial[pairs[:, 0]] - spatial[pairs[:, 1]], axis=1)
    lag = np.digitize(distance, LAGS_UM[1:-1])
    moments = np.zeros((len(LAGS_UM) - 1, n_concepts))
    count = np.bincount(lag, minlength=len(moments)).astype(float)
    for k in range(len(moments)):
        mine = pairs[lag == k]
        if len(mine):
            moments[k] = np.einsum("ij,ij->j", residual[mine[:, 0]], residual[mine[:, 1]]) / len(mine)
    filled = np.flatnonzero(count > 0)
    if not len(filled):
        return np.full(n_concepts, LAGS_UM[1])
    moments, count, ends = moments[filled], count[filled], LAGS_UM[1:][filled]
    limit = np.maximum(moments[0] / np.e, 3 / np.sqrt(count)[:, None])
    below = moments < limit
    first = np.where(below.any(axis=0), below.argmax(axis=0), len(ends) - 1)
    return ends[first]
