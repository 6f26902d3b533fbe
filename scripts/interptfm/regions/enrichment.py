"""Which cell types a unit marks: effect sizes with blocks as replicates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interptfm import stats
from interptfm.tis.scoring import Columns, column

MAX_PERMUTATIONS = 50_000
COLUMNS = ("unit", "cell_type", "n_cells", "ratio", "auc", "effect", "p", "p_min", "q", "n_blocks")


def permutations_for(n_tests: int) -> int:
    """Return how many permutations let one of ``n_tests`` findings reach q < 0.05 (at most 50,000)."""
    return min(max(2000, 20 * n_tests), MAX_PERMUTATIONS)


def sign_flip_p(
    effects: np.ndarray, weights: np.ndarray, n: int, generator: np.random.Generator, sided: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test weighted means over blocks by flipping the sign of whole blocks.

    If high and low cells of a block are exchangeable as groups, the block's effect is as likely to be
    negative. A block is one replicate however many cells it has, so cells that resemble their neighbours
    are no evidence.

    Parameters
    ----------
    effects, weights
        (blocks × tests); a weight of 0 leaves a block out of a test.
    n
        Permutations.
    sided
        1 tests for effects above 0, 2 for either sign.

    Returns
    -------
    effect, p, p_min
        (tests,) weighted mean; (1 + k) / (1 + n), NaN with fewer than 2 blocks; and the least p that the
        test's number of blocks allows: of b blocks there are 2ᵇ sign patterns.
    """
    total = weights.sum(axis=0)
    share = np.divide(weights, total, out=np.zeros_like(weights, dtype=float), where=total > 0)
    parts = np.where(share > 0, effects, 0.0) * share
    effect = parts.sum(axis=0)
    statistic = np.abs(effect) if sided == 2 else effect
    exceeding = np.zeros(effect.shape, np.int64)
    for start in range(0, n, 1000):
        signs = generator.integers(0, 2, (min(1000, n - start), len(parts))) * 2 - 1
        null = signs @ parts
        exceeding += ((np.abs(null) if sided == 2 else null) >= statistic - 1e-12).sum(axis=0)
    blocks = (share > 0).sum(axis=0)
    testable = blocks >= 2
    p = np.where(testable, (1 + exceeding) / (1 + n), np.nan)
    p_min = np.maximum(1 / (1 + n), np.minimum(1.0, sided * 0.5**blocks))
    return np.where(total > 0, effect, np.nan), p, np.where(testable, p_min, np.nan)


def block_auc(values: np.ndarray, groups: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUC of each group against the rest, for each unit, in the cells given.

    Parameters
    ----------
    values
        (cells × units) activations.
    groups
        (cells,) int group.

    Returns
    -------
    auc, weight
        (groups × units), ½ where a group is absent or everybody; (groups,) n₁·n₀ / (n₁ + n₀), 0 there.
    """
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=0)
    member = (groups[:, None] == np.arange(n_groups)).astype(float)
    inside = member.sum(axis=0)
    outside = len(groups) - inside
    sums = member.T @ ranks - (inside * (inside + 1) / 2)[:, None]
    pairs = (inside * outside)[:, None]
    auc = np.divide(sums, pairs, out=np.full_like(sums, 0.5), where=pairs > 0)
    return auc, inside * outside / max(len(groups), 1)


def enrichment(
    columns: Columns,
    names: Sequence[int],
    types: np.ndarray,
    blocks: np.ndarray,
    keep: np.ndarray,
    quantile: float,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Compare every unit with every cell type.

    Parameters
    ----------
    columns, names
        (cells × units) activations and the units' numbers.
    types, blocks
        (cells,) str.
    keep
        (cells,) bool: the cells to use.
    quantile
        Cells from this quantile of a unit on count as high.

    Returns
    -------
    Frame: unit, cell_type, n_cells; ``ratio`` = share of the type among the high cells / among all;
    ``auc`` of the unit for the type over all cells; ``effect`` = 2 · (mean AUC within blocks − ½), −1 to 1;
    two-sided ``p`` by flipping blocks, ``p_min``, ``q`` over all units and types, ``n_blocks``.
    """
    cells = np.flatnonzero(keep)
    labels, code = np.unique(types[cells], return_inverse=True)
    units = np.column_stack([column(columns, i)[cells] for i in range(columns.shape[1])])
    _, block = np.unique(blocks[cells], return_inverse=True)
    n_blocks, shape = block.max() + 1, (len(labels), units.shape[1])
    effects, weights = np.zeros((n_blocks, *shape)), np.zeros((n_blocks, *shape))
    for i, mine in enumerate(stats.members(block, n_blocks)):
        auc, weight = block_auc(units[mine], code[mine], len(labels))
        effects[i], weights[i] = 2 * auc - 1, weight[:, None]
    overall, _ = block_auc(units, code, len(labels))
    high = units >= np.quantile(units, quantile, axis=0)
    member = (code[:, None] == np.arange(len(labels))).astype(float)
    ratio = (member.T @ high) / high.sum(axis=0) / member.mean(axis=0)[:, None]
    tests = shape[0] * shape[1]
    effect, p, p_min = sign_flip_p(
        effects.reshape(n_blocks, tests),
        weights.reshape(n_blocks, tests),
        permutations_for(tests),
        generator,
        2,
    )
    return pd.DataFrame(
        {
            "unit": np.tile(np.asarray(names), shape[0]),
            "cell_type": np.repeat(labels, shape[1]),
            "n_cells": np.repeat(member.sum(axis=0).astype(int), shape[1]),
            "ratio": ratio.ravel(),
            "auc": overall.ravel(),
            "effect": effect,
            "p": p,
            "p_min": p_min,
            "q": stats.benjamini_hochberg(p),
            "n_blocks": (weights.reshape(n_blocks, tests) > 0).sum(axis=0),
        }
    )


def hypergeometric(
    columns: Columns, names: Sequence[int], types: np.ndarray, keep: np.ndarray
) -> pd.DataFrame:
    """Return enrichment as published (``legacy``): cells above a unit's median, hypergeometric test.

    Every cell counts as a replicate. ``effect`` is log₂ of the ratio (of at least 2⁻¹⁰), so that the columns
    are those of :func:`enrichment`; ``p`` is one-sided.
    """
    from scipy.stats import hypergeom

    cells = np.flatnonzero(keep)
    labels, code = np.unique(types[cells], return_inverse=True)
    sizes = np.bincount(code)
    rows = []
    for i, unit in enumerate(names):
        values = column(columns, i)[cells]
        high = values > np.median(values)
        hits, n_high = np.bincount(code[high], minlength=len(labels)), int(high.sum())
        ratio = hits / max(n_high, 1) / (sizes / len(cells))
        p = hypergeom.sf(hits - 1, len(cells), sizes, n_high)
        effect = np.log2(np.maximum(ratio, 2**-10))
        auc, _ = block_auc(values[:, None], code, len(labels))
        for j, label in enumerate(labels):
            rows.append((unit, label, sizes[j], ratio[j], auc[j, 0], effect[j], p[j], 0.0, 0))
    frame = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "q"])
    frame = frame.sort_values(["cell_type", "unit"], ignore_index=True)
    return frame.assign(q=stats.benjamini_hochberg(frame["p"]))[list(COLUMNS)]
