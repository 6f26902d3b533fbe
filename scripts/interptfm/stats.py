"""Permutation p-values, false discovery rates and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from interptfm.errors import InputError

INTERVAL = (0.025, 0.975)


def permutation_p(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return one-sided permutation p-values, (1 + k) / (1 + n).

    Parameters
    ----------
    observed
        (...,) statistics, larger = more extreme. NaN gives NaN.
    null
        (n, ...) statistics of the n permutations.

    Source: Phipson and Smyth 2010, *Stat. Appl. Genet. Mol. Biol.* 9:39.
    """
    observed, null = np.asarray(observed, float), np.asarray(null, float)
    exceeding = (null >= observed[None]).sum(axis=0)
    return np.where(np.isnan(observed), np.nan, (1 + exceeding) / (1 + len(null)))


def similar_size_groups(sizes: np.ndarray, permutations: int, max_q: float) -> np.ndarray:
    """Split tests into groups of similar size over which standardised nulls can be pooled.

    As many groups as possible, at most 10, such that a single finding can still reach
    ``q < max_q`` among all tests: p_min = 1 / (1 + permutations · group size) < max_q / tests.
    One group where even that does not suffice.

    Parameters
    ----------
    sizes
        (tests,) what "similar" is measured on.

    Returns
    -------
    (tests,) int group of each test.
    """
    n = len(sizes)
    groups = 10
    while groups > 1 and (n // groups < 10 or (n // groups) * permutations + 1 <= n / max_q):
        groups -= 1
    result = np.empty(n, np.int64)
    for group, members in enumerate(np.array_split(np.argsort(sizes, kind="stable"), groups)):
        result[members] = group
    return result


def pooled_permutation_p(
    observed: np.ndarray, null: np.ndarray, groups: np.ndarray, test: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return p-values from standardised nulls pooled over the members of a group, and their minima.

    Each test is standardised by the mean and the standard deviation of its own null; each null
    value by those of the other permutations of the same test, as the observed one is not part of
    its own null either. A test whose null does not vary is not pooled: it gets its own
    (1 + k) / (1 + n).

    Parameters
    ----------
    observed
        (tests,) statistics, larger = more extreme; NaN (not testable) gives NaN.
    null
        (permutations, tests) statistics of the permutations, at least 3.
    groups
        (tests,) group of each test; members of a group are taken for exchangeable once
        standardised. Tests of a negative group are pooled with none.
    test
        (values,) the test that each of ``observed`` belongs to, where these are not one a test.

    Returns
    -------
    p, p_min
        Of the shape of ``observed``; p_min is 1 / (1 + number of null values that the test was compared
        with).

    Raises
    ------
    InputError
        With fewer than 3 permutations.
    """
    observed, null = np.asarray(observed, float), np.asarray(null, float)
    n = len(null)
    if n < 3:
        raise InputError(f"permutations: found {n}, expected at least 3 for a standardised null")
    mean, deviation = null.mean(axis=0), null.std(axis=0, ddof=1)
    z_null, varies = _standardised_by_the_others(null)
    pooled = varies & (np.asarray(groups) >= 0)
    if test is None:
        test = np.arange(null.shape[1])
        pooled &= ~np.isnan(observed)
    p, p_min = permutation_p(observed, null[:, test]), np.full(len(observed), 1 / (1 + n))
    p_min[np.isnan(observed)] = np.nan
    poolable = pooled[test] & ~np.isnan(observed)
    z = np.divide(observed - mean[test], deviation[test], out=np.zeros(len(observed)), where=poolable)
    for group in np.unique(groups[pooled]):
        pool = np.sort(z_null[:, pooled & (groups == group)], axis=None)
        values = np.flatnonzero(poolable & (groups[test] == group))
        exceeding = len(pool) - np.searchsorted(pool, z[values], side="left")
        p[values] = (1 + exceeding) / (1 + len(pool))
        p_min[values] = 1 / (1 + len(pool))
    return p, p_min


def _standardised_by_the_others(null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the leave-one-out z (n × tests), and which tests have a spread without any one value."""
    n = len(null)
    centred = null - null.mean(axis=0)
    squares = (centred**2).sum(axis=0)
    others_mean = -centred / (n - 1)
    others_squares = squares - centred**2 - (n - 1) * others_mean**2
    # Rounding leaves about 1e-16 of the squares where the other values are all the same.
    varies = (others_squares > 1e-9 * np.maximum(squares, 1e-300)).all(axis=0)
    spread = np.sqrt(np.maximum(others_squares, 0) / (n - 2))
    z = np.divide(centred - others_mean, spread, out=np.zeros_like(null), where=varies[None])
    return z, varies


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Return Benjamini–Hochberg q-values over the p-values that are not NaN; NaN stays NaN."""
    from scipy.stats import false_discovery_control

    p = np.asarray(p, float)
    q = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested], method="bh")
    return q


def q_among(p: np.ndarray, family: np.ndarray) -> np.ndarray:
    """Return Benjamini–Hochberg q of each of ``p`` had it stood at its place in ``family``.

    The smallest m · t / #(family ≤ t) over levels t of at least p, m the family's size: the false discovery
    rate at which the family's procedure would reject p. A member's q is its own; NaN stays NaN.
    """
    family = np.sort(np.asarray(family, float)[~np.isnan(family)])
    p = np.asarray(p, float)
    q = np.full(p.shape, np.nan)
    if not len(family):
        return q
    steps = len(family) * family / np.arange(1, len(family) + 1)
    # The last of equal members has the smallest quotient; what is past the end can only be 1.
    later = np.append(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    tested = ~np.isnan(p)
    below = np.searchsorted(family, p[tested], side="right")
    own = len(family) * p[tested] / np.maximum(below, 1)
    first = np.searchsorted(family, p[tested], side="left")
    q[tested] = np.minimum(np.minimum(own, later[first]), 1)
    return q


def members(group: np.ndarray, n: int) -> list[np.ndarray]:
    """Return the rows of each of ``n`` groups, ascending, from the group (rows,) int of each row.

    One sort, where a comparison with each group costs rows × groups: blocks grow with the cells.
    """
    rows = np.argsort(group, kind="stable")
    return np.split(rows, np.searchsorted(group[rows], np.arange(1, n)))[:n]


def block_bootstrap(
    blocks: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray | float],
    draws: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % percentile interval of a statistic under resampling of whole blocks.

    Parameters
    ----------
    blocks
        (n,) block label of each row.
    statistic
        Takes (n,) integer row weights (how often the row's block was drawn) and returns a number
        or an array.
    draws
        Number of bootstrap samples.

    Returns
    -------
    lo, hi
        Of the shape of the statistic; draws that give NaN are left out.

    Raises
    ------
    InputError
        With fewer than 2 blocks.
    """
    labels, inverse = np.unique(np.asarray(blocks), return_inverse=True)
    if len(labels) < 2:
        raise InputError(f"blocks: found {len(labels)}, expected at least 2 to resample")
    even = np.full(len(labels), 1 / len(labels))
    drawn = generator.multinomial(len(labels), even, size=draws)
    values = np.array([statistic(weights[inverse]) for weights in drawn], float)
    lo, hi = np.nanquantile(values, INTERVAL, axis=0)
    return lo, hi


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, draws: int, generator: np.random.Generator
) -> dict[str, float]:
    """Return the mean of the paired differences a − b with its 95 % bootstrap interval.

    Parameters
    ----------
    a, b
        (n,) values of the same n units; pairs with a NaN are left out.

    Returns
    -------
    ``n``, ``difference``, ``lo``, ``hi`` (percentile interval over resampled pairs).

    Raises
    ------
    InputError
        If the lengths differ or fewer than 2 complete pairs are left.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise InputError(f"paired values: found lengths {len(a)} and {len(b)}, expected the same")
    difference = (a - b)[~np.isnan(a - b)]
    n = len(difference)
    if n < 2:
        raise InputError(f"paired values: found {n} complete pairs, expected at least 2")
    weights = generator.multinomial(n, np.full(n, 1 / n), size=draws)
    lo, hi = np.quantile(weights @ difference / n, INTERVAL)
    return {"n": n, "difference": float(difference.mean()), "lo": float(lo), "hi": float(hi)}
