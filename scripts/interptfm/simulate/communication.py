"""Contact-induced programs: a receiver's program follows what the senders next to it express."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from interptfm.simulate import tissue
from interptfm.simulate.design import CELL_TYPES, Design, Pair
from interptfm.simulate.expression import ACTIVITY_SHIFT

# Centre to centre: about twice the median distance to the nearest cell.
CONTACT_UM = 20.0
# A sender expresses its program where the activity exceeds the middle of the law of activities.
EXPRESSED = ACTIVITY_SHIFT


def contacts(
    xy: np.ndarray, cell_type: np.ndarray, pair: Pair, sender_activity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the receivers (r,) int of a section and which of them are in contact (r,) bool.

    Parameters
    ----------
    xy
        (n, 2) positions in µm.
    cell_type
        (n,) index into ``CELL_TYPES``.
    sender_activity
        (n,) activity of the pair's program a.

    In contact is a cell of the target type with a cell of the source type whose activity of a is
    above :data:`EXPRESSED` within :data:`CONTACT_UM`.
    """
    from scipy.spatial import cKDTree

    names = np.asarray(CELL_TYPES)[cell_type]
    receivers = np.flatnonzero(names == pair.target_type)
    senders = np.flatnonzero((names == pair.source_type) & (sender_activity > EXPRESSED))
    if not (len(receivers) and len(senders)):
        return receivers, np.zeros(len(receivers), dtype=bool)
    nearest = cKDTree(xy[senders]).query(xy[receivers])[0]
    return receivers, nearest <= CONTACT_UM


def induce(level: np.ndarray, contact: np.ndarray, effect: float) -> np.ndarray:
    """Return the activities ``level`` (r,) dealt out anew, so that cells in contact tend to the upper ones.

    Each cell keeps its normal score among the receivers, those in contact gain ``effect`` standard
    deviations, and the sorted levels go to the cells in the new order. So the receivers of a section
    have the same levels with and without communication: only who has which differs.
    """
    from scipy.stats import norm

    if not contact.any() or contact.all():
        return level.copy()
    score = np.empty(len(level))
    score[np.argsort(level, kind="stable")] = norm.ppf((np.arange(len(level)) + 0.5) / len(level))
    induced = np.empty_like(level)
    induced[np.argsort(score + effect * contact, kind="stable")] = np.sort(level)
    return induced


def communicate(
    design: Design, layouts: Mapping[str, tissue.Layout], activities: np.ndarray
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the activities (cells × programs) with every pair's b induced, and the table of pairs.

    No pair's a is another's b, so the order of the pairs does not matter; sections are independent.
    """
    column = {program.term_id: i for i, program in enumerate(design.programs)}
    induced = activities.copy()
    rows = []
    for pair in design.pairs:
        a, b = column[pair.a_term], column[pair.b_term]
        found, start = [], 0
        for layout in layouts.values():
            section = slice(start, start := start + len(layout.fov))
            receivers, contact = contacts(layout.xy, layout.cell_type, pair, activities[section, a])
            at = section.start + receivers
            induced[at, b] = induce(activities[at, b], contact, pair.effect)
            found.append((at, contact))
        at, contact = (np.concatenate(parts) for parts in zip(*found, strict=True))
        rows.append((len(at), int(contact.sum()), _difference(induced[at, b], contact)))
    return induced, pair_table(design.pairs, rows)


def pair_table(pairs: Sequence[Pair], counts: Sequence[tuple[int, int, float]]) -> pd.DataFrame:
    """Return the truth of the pairs, one row a pair; typed without rows where there is none.

    Columns ``pair``, ``source_type``, ``target_type``, ``a_term``, ``b_term``, ``a_name``,
    ``b_name``, ``effect`` (standard deviations of b that contact adds), ``contact_um``, and from
    ``counts`` ``n_receivers``, ``n_contacts`` and ``difference``: the mean activity of b in receivers
    in contact minus that in the others, missing where one of the two groups is empty.
    """
    texts = ("source_type", "target_type", "a_term", "b_term", "a_name", "b_name")
    table = pd.DataFrame({"pair": pd.Series([pair.name for pair in pairs], dtype=str)})
    for name in texts:
        table[name] = pd.Series([getattr(pair, name) for pair in pairs], dtype=str)
    table["effect"] = np.array([pair.effect for pair in pairs], dtype=float)
    table["contact_um"] = CONTACT_UM
    numbers = np.array(counts, dtype=float).reshape(-1, 3)
    return table.assign(
        n_receivers=numbers[:, 0].astype(np.int64),
        n_contacts=numbers[:, 1].astype(np.int64),
        difference=numbers[:, 2],
    )


def _difference(level: np.ndarray, contact: np.ndarray) -> float:
    if not contact.any() or contact.all():
        return float("nan")
    return float(level[contact].mean() - level[~contact].mean())
