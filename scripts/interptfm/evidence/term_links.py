"""Links of terms, looked up in the tables of other stages: channel edges and steering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interptfm.errors import InputError
from interptfm.evidence import NOT_SUPPORTED, NOT_TESTED, SUPPORTED

CONCEPTS = "concept pair"
EDGE_COLUMNS = ("edge", "level", "log2_ratio", "lo", "hi", "p", "q", "null")
PAIR_COLUMNS = ("level", "source", "target", "channel", "a", "b", "log2_ratio", "lo", "hi", "p", "q", "null")
STEERING_COLUMNS = ("term_id", "effect", "lo", "hi", "p", "q")


def channel_links(
    channels: pd.DataFrame, pairs: pd.DataFrame, levels: Sequence[str], max_q: float
) -> pd.DataFrame:
    """Return each term's best edges: the one of the term itself, and the one of its channel.

    Parameters
    ----------
    channels
        ``activity/channels.parquet``: term_id, channel.
    pairs
        ``crosstalk/pairs.parquet`` with :data:`PAIR_COLUMNS`.
    levels
        Levels that can support the link.
    max_q
        An edge supports the link where q < max_q and its log₂ ratio to the null is above 0.

    Returns
    -------
    Frame indexed by term_id: ``channel``; :data:`EDGE_COLUMNS` of the edge with the smallest q among
    ``levels``; ``own_*`` those of the best edge with the term at one end, ``shared_*`` those of the best edge
    of its channel, whatever ``levels``; ``status``. An edge of a channel is shared by all its terms. A term
    without any edge tested is not tested.

    Raises
    ------
    InputError
        If a table lacks a column, or ``levels`` names one that no table of crosstalk has.
    """
    require(channels, ("term_id", "channel"), "channels")
    require(pairs, PAIR_COLUMNS, "crosstalk pairs")
    words = dict.fromkeys(("level", "source", "target", "channel", "a", "b", "null"), str)
    rows = pairs[list(PAIR_COLUMNS)].astype(words)
    rows = rows[rows["q"].notna()].sort_values(["q", "p"], kind="stable")
    terms = channels[["term_id", "channel"]].astype(str).drop_duplicates("term_id")
    own = rows[rows["level"] == CONCEPTS]
    ends = pd.concat([own.assign(term_id=own[end]) for end in ("a", "b")])
    shared = rows[rows["level"] != CONCEPTS].merge(
        terms.rename(columns={"channel": "of"}), left_on="channel", right_on="of"
    )
    every = pd.concat([ends, shared], ignore_index=True).sort_values(["q", "p"], kind="stable")
    ends_of_pair = every["source"] + " – " + every["target"]
    what = np.where(every["level"] == CONCEPTS, every["a"] + " / " + every["b"], every["channel"])
    every["edge"] = ends_of_pair + ": " + what
    found = terms.set_index("term_id")[["channel"]]
    parts = {
        "": every[every["level"].isin(list(levels))],
        "own_": every[every["level"] == CONCEPTS],
        "shared_": every[every["level"] != CONCEPTS],
    }
    for prefix, part in parts.items():
        best = part.drop_duplicates("term_id").set_index("term_id")[list(EDGE_COLUMNS)]
        found = found.join(best.add_prefix(prefix))
    supported = (found["q"] < max_q) & (found["log2_ratio"] > 0)
    status = pd.Series(np.where(supported, SUPPORTED, NOT_SUPPORTED), found.index)
    return found.assign(status=status.where(found["q"].notna(), NOT_TESTED))


def steering_links(concepts: pd.DataFrame, max_q: float, min_effect: float) -> pd.DataFrame:
    """Return what steering along a term's direction did, indexed by term_id.

    Parameters
    ----------
    concepts
        ``steering/concepts.parquet``: ``effect`` is how far the term's held-out genes rise above all others.
    max_q, min_effect
        The link is supported where q < max_q and the effect is above min_effect.

    Returns
    -------
    ``effect``, ``lo``, ``hi``, ``p``, ``q``, ``status``.

    Raises
    ------
    InputError
        If the table lacks a column.
    """
    require(concepts, STEERING_COLUMNS, "steering concepts")
    found = concepts[list(STEERING_COLUMNS)].astype({"term_id": str}).set_index("term_id")
    supported = (found["q"] < max_q) & (found["effect"] > min_effect)
    status = pd.Series(np.where(supported, SUPPORTED, NOT_SUPPORTED), found.index, dtype=object)
    return found.assign(status=status.where(found["q"].notna(), NOT_TESTED))


def require(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Raise an :class:`InputError` for the first of ``columns`` that ``frame`` lacks."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise InputError(
            f"{name}: found no column {missing[0]!r} among {', '.join(map(str, frame.columns))}, "
            f"expected {', '.join(columns)}"
        )
