"""Blocks, splits, guard zone and shards.

The block is the unit of resampling: cells near each other share tissue, depth and segmentation errors.
Hence whole blocks, not cells, go to train, validation and test, and intervals are bootstraps over blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from interptfm.errors import InputError

if TYPE_CHECKING:
    import numpy as np

UNITS = ("tile", "fov", "section", "cell")
PARTS = ("train", "validation", "test")
SPLITS = (*PARTS, "guard")
MIN_TILE_CELLS = 10
MIN_UNITS = 5
SPLIT_TOLERANCE = 0.02
SPLIT_DRAWS = 200
GROUP_CELLS = 100
MIN_GROUPS, MAX_GROUPS = 15, 200


def assign_blocks(
    spatial: np.ndarray | None,
    fov: np.ndarray,
    unit: str = "tile",
    size_um: float = 150.0,
    sample: str = "",
    groups: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
    min_cells: int = MIN_TILE_CELLS,
) -> np.ndarray:
    """Return the block of every cell.

    Parameters
    ----------
    spatial
        Cells × 2, µm; None for cells without coordinates.
    fov
        FOV of every cell.
    unit
        ``tile``: squares of ``size_um`` within a FOV, counted from its lowest x and y; tiles with fewer than
        ``min_cells`` cells (cut by the FOV's edge, or sparse tissue) join a tile beside them.
        ``fov`` or ``section``: the whole of it. ``cell``: each cell by itself, the random split of the
        published notebooks, in which neighbours and their segmentation errors stand on both sides.
    size_um
        Side of a tile in µm.
    sample
        Sample name, the first part of a label.
    groups
        Labels that are the blocks themselves (an obs column such as the replicate); they override ``unit``.
    rng
        Source of random groups: cells without coordinates and ``groups`` have no tiles, so that unit ``tile``
        gives them random groups of about 100 cells (at least 15 groups, at most 200).
    min_cells
        Smallest tile that stays on its own.

    Returns
    -------
    array of str
        ``<sample>:<fov>:<ix>_<iy>``, ``<sample>:<fov>``, ``<sample>``, ``<sample>:<group>``,
        ``<sample>:cell_<i>`` or ``<sample>:random_<k>``.

    Raises
    ------
    InputError
        Unknown unit, or a size that is not positive.
    """
    import numpy as np

    fov = np.asarray(fov)
    if unit not in UNITS:
        raise InputError(f"cells.blocks.unit: found {unit!r}, expected one of {', '.join(UNITS)}")
    if not size_um > 0:
        raise InputError(f"cells.blocks.size_um: found {size_um}, expected a length in µm above 0")
    if groups is not None:
        return np.array([f"{sample}:{g}" for g in groups], dtype=object)
    if unit == "section":
        return np.full(len(fov), sample, dtype=object)
    if unit == "cell":
        return np.array([f"{sample}:cell_{i}" for i in range(len(fov))], dtype=object)
    if unit == "fov":
        return np.array([f"{sample}:{f}" for f in fov], dtype=object)
    if spatial is None:
        if rng is None:
            raise ValueError("random groups need a generator")
        count = min(int(np.clip(len(fov) // GROUP_CELLS, MIN_GROUPS, MAX_GROUPS)), len(fov))
        group = rng.permutation(len(fov)) % count
        return np.array([f"{sample}:random_{g}" for g in group], dtype=object)
    labels = np.empty(len(fov), dtype=object)
    for value in np.unique(fov):
        rows = np.flatnonzero(fov == value)
        tiles = _merged_tiles(np.asarray(spatial)[rows], size_um, min_cells)
        labels[rows] = [f"{sample}:{value}:{x}_{y}" for x, y in tiles]
    return labels


def _merged_tiles(xy: np.ndarray, size_um: float, min_cells: int) -> np.ndarray:
    """Return the tile (ix, iy) of every cell of one FOV after small tiles have joined a neighbour.

    The smallest tile goes first, to the tile that shares an edge with it (else a corner, else the nearest)
    and has the fewest cells, until all have ``min_cells`` or one is left.
    """
    import numpy as np

    tile = np.floor((xy - xy.min(axis=0)) / size_um).astype(np.int64)
    unique, of_cell, count = np.unique(tile, axis=0, return_inverse=True, return_counts=True)
    of_cell = of_cell.ravel()
    # Each merged tile keeps the grid squares it took over, so that adjacency is to any of them.
    squares = {k: unique[k : k + 1] for k in range(len(unique))}
    cells = dict(enumerate(count.tolist()))
    target = np.arange(len(unique))
    while len(cells) > 1:
        small = min(cells, key=lambda k: (cells[k], k))
        if cells[small] >= min_cells:
            break
        options = []
        for other in cells:
            if other != small:
                gap = np.abs(squares[small][:, None, :] - squares[other][None, :, :])
                distance = int((gap**2).sum(axis=2).min())
                options.append((distance, cells[other], other))
        into = min(options)[2]
        cells[into] += cells.pop(small)
        squares[into] = np.concatenate([squares[into], squares.pop(small)])
        target[target == small] = into
    return unique[target[of_cell]]


def _check_shares(shares: Mapping[str, float]) -> None:
    if set(shares) != set(PARTS) or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(
            f"cells.split: found {dict(shares)}, expected positive shares of {', '.join(PARTS)} that sum to 1"
        )


def assign_splits(
    blocks: np.ndarray,
    shares: Mapping[str, float],
    rng: np.random.Generator,
    unit: str = "tile",
    sample: str = "",
) -> np.ndarray:
    """Return ``train``, ``validation`` or ``test`` for every cell, whole blocks together.

    Blocks are shuffled and each goes to the split that lacks the most cells. The first of up to 200 shuffles
    whose splits are all within 2 % of the cells of their target is taken, else the closest one: random, yet
    near the shares with a dozen blocks.

    Parameters
    ----------
    blocks
        Block label of every cell.
    shares
        Share of cells for train, validation and test, adding up to 1.
    rng
        Generator of the shuffles.
    unit, sample
        For the error message; unit ``fov`` needs at least 5 FOVs.

    Raises
    ------
    InputError
        Shares that do not add up to 1, fewer than 3 blocks, or fewer than 5 for unit ``fov``.
    """
    import numpy as np

    _check_shares(shares)
    names, of_cell, count = np.unique(np.asarray(blocks, dtype=str), return_inverse=True, return_counts=True)
    least = MIN_UNITS if unit == "fov" else len(PARTS)
    if len(names) < least:
        raise InputError(
            f"cells.blocks: found {len(names)} blocks of unit {unit} in sample {sample!r}, expected at least "
            f"{least} to make train, validation and test of whole blocks; use "
            f"{'unit tile' if unit == 'fov' else 'a smaller size_um'}"
        )
    target = np.array([shares[p] for p in PARTS]) * count.sum()
    best, best_error = np.empty(0, dtype=int), np.inf
    for _ in range(SPLIT_DRAWS):
        part = np.empty(len(names), dtype=int)
        have = np.zeros(len(PARTS))
        for done, k in enumerate(rng.permutation(len(names))):
            lack = target - have
            # The last blocks are kept for splits that have none.
            if len(names) - done <= (have == 0).sum():
                lack[have > 0] = -np.inf
            part[k] = int(np.argmax(lack))
            have[part[k]] += count[k]
        error = np.abs(have - target).max() / count.sum()
        if error < best_error:
            best, best_error = part, error
        if error <= SPLIT_TOLERANCE:
            break
    return np.array(PARTS, dtype=object)[best[of_cell.ravel()]]


def split_sections(
    samples: Sequence[str], shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, str]:
    """Return the split of every sample where blocks are whole sections.

    Validation and test get their share of the number of sections, at least one each; which ones is random
    over the sorted names, so that every sample's job finds the same answer.

    Raises
    ------
    InputError
        Fewer than 5 samples, or shares that leave no section to train.
    """
    _check_shares(shares)
    names = sorted(set(samples))
    if len(names) < MIN_UNITS:
        raise InputError(
            f"cells.blocks.unit: found section with {len(names)} samples, expected at least {MIN_UNITS}; "
            "use tile or fov"
        )
    validation = max(1, round(shares["validation"] * len(names)))
    test = max(1, round(shares["test"] * len(names)))
    if validation + test >= len(names):
        raise InputError(
            f"cells.split: found shares that leave none of {len(names)} sections to train, expected a larger "
            "train"
        )
    parts = ["validation"] * validation + ["test"] * test + ["train"] * (len(names) - validation - test)
    order = rng.permutation(len(names))
    return {names[k]: part for k, part in zip(order, parts)}


def guard(split: np.ndarray, spatial: np.ndarray, guard_um: float = 15.0, sample: str = "") -> np.ndarray:
    """Return the splits with validation and test cells near another split set to ``guard``.

    A cell of validation or test within ``guard_um`` (inclusive) of a cell of any other split shares its
    transcripts through diffusion and segmentation; it is not scored. Train cells are never guard.

    Parameters
    ----------
    split
        ``train``, ``validation`` or ``test`` a cell.
    spatial
        Cells × 2, µm.
    guard_um
        Width in µm; 0 switches the guard off.

    Raises
    ------
    InputError
        If a split loses all of its cells.
    """
    import numpy as np
    from scipy.spatial import cKDTree

    split = np.asarray(split, dtype=object)
    result = split.copy()
    if guard_um <= 0:
        return result
    for part in PARTS[1:]:
        own = np.flatnonzero(split == part)
        others = np.flatnonzero(split != part)
        if not own.size or not others.size:
            continue
        distance, _ = cKDTree(spatial[others]).query(spatial[own], k=1)
        result[own[distance <= guard_um]] = "guard"
        if not (result == part).any():
            raise InputError(
                f"cells.blocks.guard_um: found no {part} cell of sample {sample!r} farther than "
                f"{guard_um:g} µm from another split, expected a guard that leaves some of {own.size} cells; "
                "use larger blocks"
            )
    return result


def assign_shards(n_cells: int, shards: int, sample: str = "") -> np.ndarray:
    """Return the shard of every cell (int32): contiguous runs of obs whose sizes differ by 1 at most.

    Raises
    ------
    InputError
        Fewer than one shard, or more shards than cells.
    """
    import numpy as np

    if not 1 <= shards <= n_cells:
        raise InputError(
            f"shards: found {shards} for sample {sample!r}, expected 1 to {n_cells} (the number of its cells)"
        )
    return (np.arange(n_cells, dtype=np.int64) * shards // n_cells).astype(np.int32)
