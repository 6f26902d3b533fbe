"""The interface claim: within one cell type, is a unit different near the tumour?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interptfm import stats
from interptfm.regions.enrichment import permutations_for, sign_flip_p
from interptfm.tis import tasks
from interptfm.tis.scoring import Columns, column

COLUMNS = ("unit", "cell_type", "effect", "p", "p_min", "q", "n_near", "n_far", "n_blocks", "reason")


def interface_claims(
    columns: Columns,
    names: Sequence[int],
    types: np.ndarray,
    section: np.ndarray,
    blocks: np.ndarray,
    depth: np.ndarray,
    distance: np.ndarray,
    tumour: np.ndarray,
    keep: np.ndarray,
    *,
    interface_um: float,
    strata: int,
    min_cells: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Test each unit within each type that is not tumour: cells within ``interface_um`` against farther ones.

    Activations become ranks within section × type × depth stratum, so neither type nor depth can tell near
    from far. The effect is the mean over blocks of (mean rank near − mean rank far), ranks from 0 to 1, a
    block weighing n₁·n₀ / (n₁ + n₀); two-sided p by flipping the signs of blocks. A difference between near
    and far that holds in few blocks does not pass, however many cells these have.

    Parameters
    ----------
    columns, names
        (cells × units) activations and the units' numbers.
    depth, distance
        (cells,) total counts; µm to the nearest tumour cell.
    tumour, keep
        (cells,) bool.
    strata, min_cells
        Depth strata within a type and section; least number of near and of far cells of a type to test it.

    Returns
    -------
    Frame with :data:`COLUMNS`; ``q`` over all units and types. Types that are not tested have a reason
    and no unit.
    """
    tested, untested = [], []
    usable = keep & ~tumour & np.isfinite(distance)
    for cell_type in np.unique(types[keep & ~tumour]) if len(names) else ():
        cells = np.flatnonzero(usable & (types == cell_type))
        near = distance[cells] <= interface_um
        n_near, n_far = int(near.sum()), int((~near).sum())
        if min(n_near, n_far) < min_cells:
            reason = f"fewer than {min_cells} cells near or far"
            untested.append({"cell_type": cell_type, "n_near": n_near, "n_far": n_far, "reason": reason})
            continue
        groups = tasks.labels_of(section[cells])
        stratum = tasks.labels_of(groups, tasks.depth_strata(depth[cells], groups, strata))
        ranks = stratum_ranks(
            np.column_stack([column(columns, i)[cells] for i in range(len(names))]), stratum
        )
        effects, weights = block_differences(ranks, near, blocks[cells])
        tested.append((cell_type, effects, weights, n_near, n_far))
    n_tests = len(tested) * len(names)
    frames = []
    for cell_type, effects, weights, n_near, n_far in tested:
        shared = np.broadcast_to(weights[:, None], effects.shape)
        effect, p, p_min = sign_flip_p(effects, shared, permutations_for(n_tests), generator, 2)
        frames.append(
            pd.DataFrame(
                {"unit": np.asarray(names), "cell_type": cell_type, "effect": effect, "p": p, "p_min": p_min,
                 "n_near": n_near, "n_far": n_far, "n_blocks": int((weights > 0).sum()), "reason": ""}
            )
        )  # fmt: skip
    frame = pd.concat([*frames, pd.DataFrame(untested)], ignore_index=True).reindex(columns=list(COLUMNS))
    frame["q"] = stats.benjamini_hochberg(frame["p"].astype(float))
    return frame


def stratum_ranks(values: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Return (rank − ½) / size of each value within its stratum (cells × units), ties sharing their mean."""
    from scipy.stats import rankdata

    ranks = np.empty(values.shape)
    for label in np.unique(stratum):
        cells = np.flatnonzero(stratum == label)
        ranks[cells] = (rankdata(values[cells], axis=0) - 0.5) / len(cells)
    return ranks


def block_differences(
    ranks: np.ndarray, near: np.ndarray, blocks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return per block the mean of near less that of far cells (blocks × units), and its weight (blocks,)."""
    labels, block = np.unique(blocks, return_inverse=True)
    effects, weights = np.zeros((len(labels), ranks.shape[1])), np.zeros(len(labels))
    for i, mine in enumerate(stats.members(block, len(labels))):
        a, b = ranks[mine[near[mine]]], ranks[mine[~near[mine]]]
        if len(a) and len(b):
            effects[i], weights[i] = a.mean(axis=0) - b.mean(axis=0), len(a) * len(b) / (len(a) + len(b))
    return effects, weights
