"""Expected counts of simulated cells: gene means, depth, markers, programs, and the count noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from interptfm.errors import InputError
from interptfm.simulate.design import CELL_TYPES, Program

# Depth and gene means are laid out on the quantiles of a law, so that a seed moves who gets which
# value but not the distribution.
COUNTS_PER_CELL = 200.0
DEPTH_SHAPE = 1.15
DEPTH_FLOOR = 20.0
GENE_LOG_SD = 0.9
DISPERSION = 7.0
BACKGROUND = 0.035
OUTSIDE_SHARE = 0.06
FOV_DEPTH_LOG_SD = 0.08
FOV_GENE_LOG_SD = 0.12
MARKER_LOG_FOLD = 3.5
BORDER_UM = 30.0
CORE_RAMP_UM = (8.0, 24.0)
ACTIVITY_SHIFT = 1.2
ACTIVITY_SD = 0.6
ACTIVITY_TOP = 2.5
LOADING_RANGE = (0.1, 1.6)
FOLLOWERS = 8
FOLLOWER_RANGE = (0.2, 1.2)
BALANCE_ROUNDS = 200
BALANCE_TOLERANCE = 1e-6


def gene_means(n: int, generator: np.random.Generator) -> np.ndarray:
    """Return the mean counts a cell (n,) of the panel: heavy-tailed, in random order.

    The order knows nothing of markers, terms or programs.
    """
    from scipy.stats import norm

    means = np.exp(GENE_LOG_SD * norm.ppf((np.arange(n) + 0.5) / n))
    return generator.permutation(means * (COUNTS_PER_CELL / means.sum()))


def cell_depths(n: int, generator: np.random.Generator) -> np.ndarray:
    """Return the expected total counts (n,) of the cells: long-tailed, in random order.

    A gamma law above a floor, evenly spaced quantiles; the order knows nothing of types.
    """
    from scipy.stats import gamma

    quantile = gamma.ppf((np.arange(n) + 0.5) / n, DEPTH_SHAPE)
    depth = DEPTH_FLOOR + quantile / quantile.mean() * (COUNTS_PER_CELL - DEPTH_FLOOR)
    return generator.permutation(depth)


def marker_effects(cell_type: np.ndarray, genes: Sequence[str], markers: dict[str, str]) -> np.ndarray:
    """Return the log fold (cells × genes) of the marker genes in the type that they mark."""
    marked = np.array([CELL_TYPES.index(markers[gene]) if gene in markers else -1 for gene in genes])
    return MARKER_LOG_FOLD * (cell_type[:, None] == marked[None, :])


def place_weight(place: str, border_um: np.ndarray) -> np.ndarray:
    """Return how far a place rule lets a program run (n,), 0 to 1, by signed border distance."""
    if place == "border":
        return (np.abs(border_um) <= BORDER_UM).astype(float)
    if place == "core":
        start, full = CORE_RAMP_UM
        return np.clip((-border_um - start) / (full - start), 0.0, 1.0)
    if place == "stroma":
        return (border_um > 0).astype(float)
    return np.ones(len(border_um))


def activity(
    program: Program,
    cell_type: np.ndarray,
    border_um: np.ndarray,
    smooth: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return the activity (n,) of a program: 0 in other types and places, else 0 to 2.5.

    Parameters
    ----------
    cell_type, border_um
        As in :class:`interptfm.simulate.tissue.Layout`.
    smooth
        (n,) spatially smooth standard normal values of the cells.

    A standard normal, part smooth and part each cell's own, is shifted and cut at 0: some cells of
    an able type are off, the others vary continuously.
    """
    able = np.isin(np.asarray(CELL_TYPES)[cell_type], program.types)
    own = generator.standard_normal(len(cell_type))
    latent = np.sqrt(program.smooth) * smooth + np.sqrt(1 - program.smooth) * own
    level = np.clip(ACTIVITY_SD * latent + ACTIVITY_SHIFT, 0.0, ACTIVITY_TOP)
    return able * place_weight(program.place, border_um) * level


def draw_loadings(
    programs: Sequence[Program],
    genes: Sequence[str],
    markers: Iterable[str],
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return loadings (programs × genes) and which of them are annotated (bool, same shape).

    An ontology is neither exact nor complete: some genes of a term hardly follow the program, and
    each program has :data:`FOLLOWERS` genes that the term does not list, drawn from the panel
    without the markers, with loadings that are lower as a rule.
    """
    column = {gene: i for i, gene in enumerate(genes)}
    barred = {column[gene] for gene in markers}
    loadings = np.zeros((len(programs), len(genes)))
    annotated = np.zeros(loadings.shape, dtype=bool)
    for row, program in enumerate(programs):
        members = [column[gene] for gene in program.genes]
        annotated[row, members] = True
        loadings[row, members] = generator.uniform(*LOADING_RANGE, len(members))
        others = np.setdiff1d(np.arange(len(genes)), [*members, *barred])
        followers = generator.choice(others, min(FOLLOWERS, len(others)), replace=False)
        loadings[row, followers] = generator.uniform(*FOLLOWER_RANGE, len(followers))
    return loadings, annotated


def program_effects(
    activities: np.ndarray, loadings: np.ndarray, effects: np.ndarray, strength: float
) -> np.ndarray:
    """Return the log fold (cells × genes): strength × Σ activity × effect × loading.

    ``activities`` is (cells × programs), ``loadings`` (programs × genes), ``effects`` (programs,).
    """
    return strength * (activities * effects) @ loadings


def fov_effects(
    fov: np.ndarray, n_genes: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a FOV does to depth (n,) as a factor and to genes (n × genes) as a log fold.

    ``fov`` numbers the FOVs of all sections from 0. Neither depends on type or activity.
    """
    n = int(fov.max()) + 1
    depth = np.exp(FOV_DEPTH_LOG_SD * generator.standard_normal(n))
    gene = FOV_GENE_LOG_SD * generator.standard_normal((n, n_genes))
    return (depth / depth.mean())[fov], gene[fov]


def balance(log_fold: np.ndarray, means: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return expected counts with the given log folds, gene means and cell totals.

    Iterative proportional fitting (Deming and Stephan 1940): rows and columns are scaled in turn.
    So a cell's total does not tell its type or its programs, and a gene keeps its mean whatever the
    strength.

    Parameters
    ----------
    log_fold
        (cells × genes) log fold of every effect together.
    means
        (genes,) mean counts a cell.
    depth
        (cells,) expected total counts; rescaled so that its mean is the sum of ``means``.

    Raises
    ------
    InputError
        If the fit does not converge, as at a strength far beyond 2.
    """
    # The largest fold of a gene is taken out first: the fit is unchanged and exp cannot overflow.
    expected = np.exp(log_fold - log_fold.max(axis=0)) * means
    rows = depth * (means.sum() / depth.mean())
    for _ in range(BALANCE_ROUNDS):
        expected *= (means * len(rows) / expected.sum(axis=0))[None, :]
        total = expected.sum(axis=1)
        expected *= (rows / total)[:, None]
        if np.abs(total / rows - 1).max() < BALANCE_TOLERANCE:
            return expected
    raise InputError(
        f"simulate: found log folds up to {log_fold.max():.1f} that no gene means and depths fit in "
        f"{BALANCE_ROUNDS} rounds, expected a lower strength"
    )


def add_background(expected: np.ndarray) -> np.ndarray:
    """Return expected counts of which the share :data:`BACKGROUND` is spread over all genes."""
    total = expected.sum(axis=1, keepdims=True)
    return (1 - BACKGROUND) * expected + BACKGROUND * total / expected.shape[1]


def negative_binomial(expected: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return counts (int32) of the given mean with variance μ + μ²/:data:`DISPERSION`."""
    return generator.poisson(expected * generator.gamma(DISPERSION, 1 / DISPERSION, expected.shape)).astype(
        np.int32
    )


def negative_probes(depth: np.ndarray, n_genes: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """Return counts (cells × n, int32) of probes that bind nothing: the background and no more."""
    rate = BACKGROUND * depth[:, None] / n_genes
    own = generator.gamma(6.0, 1 / 6.0, n)[None, :]
    return generator.poisson(rate * own).astype(np.int32)
