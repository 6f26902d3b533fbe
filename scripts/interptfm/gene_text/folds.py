"""Which cells teach and which are classified: folds of whole blocks, sections or donors, with a guard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from interptfm.errors import InputError
from interptfm.tis.units import Cells

UNITS = ("block", "section", "donor")


@dataclass(frozen=True)
class Fold:
    """Positions of the cells that teach, and of those that are classified and scored."""

    train: np.ndarray
    held_out: np.ndarray


def groups_of(cells: Cells, by: str, donors: Mapping[str, str]) -> np.ndarray:
    """Return what each cell is held out with: its block, its section, or its section's donor.

    ``donors``: sample → donor, as the sample sheet has them.
    """
    if by == "block":
        return cells.blocks
    if by == "section":
        return cells.section
    if by == "donor":
        return np.array([donors[sample] for sample in cells.section], str)
    raise InputError(f"gene_text.split.by: found {by!r}, expected one of {', '.join(UNITS)}")


def folds_of(
    cells: Cells, by: str, n: int, donors: Mapping[str, str], guard_um: float, seed: int
) -> list[Fold]:
    """Return the folds; each cell is held out once, but for cells next to a teaching one.

    Parameters
    ----------
    by, n
        Whole units go to one of ``n`` folds, or of as many as there are units; cell types are spread evenly.
    guard_um
        Held-out cells within this distance (µm) of a teaching cell of their section are not scored:
        neighbours share transcripts. Cells without a place are all scored.

    Raises
    ------
    InputError
        With fewer than 2 units.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = groups_of(cells, by, donors)
    count = len(np.unique(groups))
    if count < 2:
        raise InputError(
            f"gene_text.split.by: found {count} {by}, expected at least 2 to hold one out; use block"
        )
    splitter = StratifiedGroupKFold(min(n, count), shuffle=True, random_state=seed % 2**32)
    return [
        Fold(train, _unguarded(cells, train, held_out, guard_um))
        for train, held_out in splitter.split(np.zeros(len(groups)), cells.types, groups)
    ]


def _unguarded(cells: Cells, train: np.ndarray, held_out: np.ndarray, guard_um: float) -> np.ndarray:
    from scipy.spatial import cKDTree

    keep = np.ones(len(held_out), bool)
    section, placed = cells.section, np.isfinite(cells.spatial).all(axis=1)
    for name in np.unique(section[held_out]) if guard_um > 0 else ():
        mine = np.flatnonzero((section[held_out] == name) & placed[held_out])
        others = train[(section[train] == name) & placed[train]]
        if len(mine) and len(others):
            distance, _ = cKDTree(cells.spatial[others]).query(cells.spatial[held_out[mine]])
            keep[mine[distance <= guard_um]] = False
    return held_out[keep]


def labelled(
    train: np.ndarray, types: np.ndarray, per_type: int, generator: np.random.Generator
) -> np.ndarray:
    """Return ``per_type`` random teaching cells of each type, all of a type that has fewer."""
    members = [train[types[train] == t] for t in np.unique(types[train])]
    return np.sort(np.concatenate([generator.permutation(mine)[:per_type] for mine in members]))


def few_labels(
    folds: list[Fold], types: np.ndarray, per_type: int, generator: np.random.Generator
) -> Iterator[Fold]:
    """Yield the folds with few labelled cells in place of all that teach; the same cells are scored."""
    for fold in folds:
        yield Fold(labelled(fold.train, types, per_type, generator), fold.held_out)
