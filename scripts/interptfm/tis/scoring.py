"""Scores of units from tasks: hard and soft, with intervals, and the null of shuffled units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import job, stats
from interptfm.tis.tasks import Drawn, Strata

Columns = np.ndarray | sparse.csc_matrix
COLUMNS = (
    "hard",
    "soft",
    "lo",
    "hi",
    "lo_binomial",
    "hi_binomial",
    "n_high",
    "n_low",
    "n_scorable",
    "reason",
)


def differences(vectors: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return D of each task: Δ(query⁺) − Δ(query⁻), Δ(c) = mean sim(c, E⁺) − mean sim(c, E⁻).

    With similarity a dot product, D = (query⁺ − query⁻) · (mean of E⁺ − mean of E⁻).

    Parameters
    ----------
    vectors
        (cells × dims) float32, of a judge.
    high, low
        (tasks × (K + 1)) cells: K references, then the query.

    Returns
    -------
    (tasks,) float64.
    """
    n, size = high.shape
    k = size - 1
    references = np.concatenate([high[:, :k], low[:, :k]], axis=1)
    weights = np.tile(np.repeat(np.array([1 / k, -1 / k], np.float32), k), n)
    indptr = np.arange(0, n * 2 * k + 1, 2 * k)
    gather = sparse.csr_matrix((weights, references.ravel(), indptr), shape=(n, len(vectors)))
    query = vectors[high[:, k]] - vectors[low[:, k]]
    return np.einsum("ij,ij->i", gather @ vectors, query, dtype=np.float64)


def hard_score(d: np.ndarray, legacy: bool = False) -> np.ndarray:
    """Return 1 where D > 0, ½ where D = 0 (0 as published), else 0."""
    return (d > 0).astype(float) if legacy else (np.sign(d) + 1) / 2


def soft_score(d: np.ndarray, alpha: float) -> np.ndarray:
    """Return σ(αD)."""
    from scipy.special import expit

    return expit(alpha * d)


def binomial_interval(mean: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; it takes the tasks for independent, which blocks are not."""
    from statsmodels.stats.proportion import proportion_confint

    lo, hi = proportion_confint(mean * n, n, method="wilson")
    return float(lo), float(hi)


@dataclass(frozen=True)
class Null:
    """Scores of shuffled units: ``hard`` (n,), and ``alpha`` = 1 / standard deviation of their D."""

    hard: np.ndarray
    alpha: float

    def p(self, hard: np.ndarray) -> np.ndarray:
        """Return (1 + k) / (1 + n) of each score, larger = more extreme; NaN stays NaN."""
        null = np.sort(self.hard)
        exceeding = len(null) - np.searchsorted(null, np.asarray(hard, float) - 1e-12)
        return np.where(np.isnan(hard), np.nan, (1 + exceeding) / (1 + len(null)))

    @property
    def p_min(self) -> float:
        return 1 / (1 + len(self.hard))

    def expected_maximum(self, n_units: int) -> float:
        """Return the mean of the largest of ``n_units`` scores drawn from the null; NaN without any.

        Exact for draws with replacement: Σ x₍ᵢ₎ · ((i/n)ᵘ − ((i−1)/n)ᵘ) over the sorted null.
        """
        n = len(self.hard)
        if not n or not n_units:
            return float("nan")
        steps = (np.arange(n + 1) / n) ** n_units
        return float(np.sort(self.hard) @ np.diff(steps))


class Scorer:
    """Scores units of the same cells by one judge within one set of strata.

    Parameters
    ----------
    vectors
        (cells × dims) of a judge.
    labels
        (cells,) stratum, below 0 for cells left out.
    blocks
        (cells,) block of each cell.
    references, tasks, quantile
        K, N and the share of cells in a tail.
    legacy
        As published: ties keep the order of the cells, and D = 0 counts as a miss.
    seed, name
        What the draws derive from: the same unit of the same name gives the same tasks.
    bootstrap
        Draws of the block bootstrap; 0 for none.
    threads
        Units are scored in this many threads, which does not change the result.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        labels: np.ndarray,
        blocks: np.ndarray,
        *,
        references: int = 9,
        tasks: int = 400,
        quantile: float = 0.2,
        legacy: bool = False,
        seed: int = 0,
        name: str = "",
        bootstrap: int = 0,
        threads: int = 1,
    ) -> None:
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self.strata = Strata(labels, quantile, references)
        self.legacy = legacy
        self.tasks, self.seed, self.name, self.threads = tasks, seed, name, threads
        names, self.block = np.unique(np.asarray(blocks), return_inverse=True)
        self.weights = None
        if bootstrap and len(names) > 1:
            even = np.full(len(names), 1 / len(names))
            generator = job.generator(seed, "tis", name, "bootstrap")
            self.weights = generator.multinomial(len(names), even, size=bootstrap).astype(np.float64)

    def null(self, n: int) -> Null:
        """Return the scores of ``n`` shuffled units."""

        def shuffled(i: int) -> np.ndarray:
            generator = job.generator(self.seed, "tis", self.name, "null", i)
            order = self.strata.shuffled(generator)
            drawn = self.strata.draw(order, self.tasks, generator)
            return differences(self.vectors, drawn.high, drawn.low)

        if self.strata.why_not() or not n:
            return Null(np.empty(0), float("nan"))
        scores, square, count = np.empty(n), 0.0, 0
        for i, d in enumerate(self._map(shuffled, range(n))):
            scores[i] = hard_score(d, self.legacy).mean()
            square, count = square + float(d @ d), count + len(d)
        # Around 0, the mean that symmetry gives D; without any spread the soft score is ½ throughout.
        return Null(scores, 1 / np.sqrt(square / count) if square > 0 else 0.0)

    def score(self, columns: Columns, names: Sequence[object], alpha: float = float("nan")) -> pd.DataFrame:
        """Score units.

        Parameters
        ----------
        columns
            (cells × units) activations, dense or CSC.
        names
            What each unit's draws derive from.
        alpha
            Slope of the soft score (of :attr:`Null.alpha`).

        Returns
        -------
        One row a unit with :data:`COLUMNS`. ``lo`` and ``hi`` bound the hard score by resampling blocks,
        ``lo_binomial`` and ``hi_binomial`` as a share of independent tasks. Unscored units have a reason.
        """

        def one(i: int) -> tuple:
            generator = job.generator(self.seed, "tis", self.name, names[i])
            order, reason = self.strata.tails(column(columns, i), generator, random_ties=not self.legacy)
            if not order:
                return (*[np.nan] * 6, 0, 0, 0, reason)
            drawn = self.strata.draw(order, self.tasks, generator)
            d = differences(self.vectors, drawn.high, drawn.low)
            hard = hard_score(d, self.legacy)
            mean = float(hard.mean())
            soft = float(soft_score(d, alpha).mean()) if np.isfinite(alpha) else np.nan
            intervals = (*self.interval(hard, drawn), *binomial_interval(mean, len(d)))
            return mean, soft, *intervals, drawn.n_high, drawn.n_low, drawn.n_scorable, ""

        return pd.DataFrame(list(self._map(one, range(columns.shape[1]))), columns=list(COLUMNS))

    def interval(self, hard: np.ndarray, drawn: Drawn) -> tuple[float, float]:
        """Return the 95 % interval of the mean over tasks under resampling of blocks; NaN without.

        A task counts as often as the blocks of both its queries were drawn, multiplied (the pigeonhole
        bootstrap of Owen 2007, *Ann. Appl. Stat.* 1:386). References are held: each is one of K in a mean.
        """
        if self.weights is None:
            return float("nan"), float("nan")
        weights = (
            self.weights[:, self.block[drawn.high[:, -1]]] * self.weights[:, self.block[drawn.low[:, -1]]]
        )
        total = weights.sum(axis=1)
        means = (weights @ hard)[total > 0] / total[total > 0]
        lo, hi = np.quantile(means, stats.INTERVAL)
        return float(lo), float(hi)

    def _map(self, function: Callable, items: range):
        """Yield ``function`` of each item in order; numpy and scipy release the interpreter meanwhile."""
        if self.threads == 1:
            yield from map(function, job.progress(items, f"scoring ({self.name})", len(items)))
            return
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(items), 256):
                yield from pool.map(function, items[start : start + 256])


def column(columns: Columns, i: int) -> np.ndarray:
    """Return one unit's activations as a dense float array (cells,)."""
    if not sparse.issparse(columns):
        return columns[:, i]
    values = np.zeros(columns.shape[0], columns.dtype)
    part = slice(columns.indptr[i], columns.indptr[i + 1])
    values[columns.indices[part]] = columns.data[part]
    return values
