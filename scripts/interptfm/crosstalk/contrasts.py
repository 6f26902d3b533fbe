"""Contrasts written down beforehand: a channel is shared more between two compartments than between two
others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interptfm import schema, stats
from interptfm.config import load_yaml
from interptfm.crosstalk.channels import interval
from interptfm.crosstalk.nulls import LABELS
from interptfm.errors import InputError
from interptfm.regions.geometry import REGIONS

_SIDE = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"enum": list(REGIONS)}}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["contrasts"],
    "properties": {
        "contrasts": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "channel", "above", "below"],
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "channel": {"type": "string", "minLength": 1},
                    "above": _SIDE,
                    "below": _SIDE,
                },
            },
        }
    },
}
COLUMNS = (
    "contrast", "channel", "above", "below", "n_above", "n_below", "difference", "lo", "hi", "p", "p_min",
    "difference_z", "p_labels", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Contrast:
    """``channel`` is claimed to be shared more on edges between the compartments ``above`` than ``below``."""

    name: str
    channel: str
    above: tuple[str, str]
    below: tuple[str, str]


def read_contrasts(path: str | Path, channels: Sequence[str]) -> list[Contrast]:
    """Read the contrasts (YAML, key ``contrasts``: name, channel, above, below).

    Raises
    ------
    InputError
        For another form, a name that stands twice, or a channel that is not defined.
    """
    found = load_yaml(path)
    schema.check(found, SCHEMA, str(path))
    contrasts = [
        Contrast(item["name"], item["channel"], tuple(item["above"]), tuple(item["below"]))
        for item in found["contrasts"]
    ]
    names = [contrast.name for contrast in contrasts]
    for contrast in contrasts:
        if names.count(contrast.name) > 1:
            raise InputError(f"{path}: found the contrast {contrast.name!r} twice, expected it once")
        if contrast.channel not in channels:
            raise InputError(
                f"{path}: found channel {contrast.channel!r} in {contrast.name!r}, expected one of "
                f"{', '.join(channels)}"
            )
    return contrasts


def test_contrasts(
    contrasts: Sequence[Contrast], table: pd.DataFrame, statistics: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Test every contrast, one-sided as it was written down.

    Parameters
    ----------
    table
        Channel tests at the level of compartments, in the order of ``statistics``: source, target and channel
        by name, n_edges, score, log2_ratio, score_z.
    statistics
        ``shift`` and ``labels`` (permutations × groups × channels), ``bootstrap`` (draws × groups ×
        channels).

    Returns
    -------
    Frame of :data:`COLUMNS`. ``difference`` of log2_ratio, above less below; ``p`` under the default null,
    ``p_labels`` of the difference of plain scores (``difference_z``) under shuffled compartments, as
    published. A contrast that cannot be tested has a ``reason``.
    """
    flat = {name: values.reshape(len(values), len(table)) for name, values in statistics.items()}
    place = {
        (*sorted((row.source, row.target)), row.channel): i
        for i, row in enumerate(table.itertuples(index=False))
    }
    rows = []
    for contrast in contrasts:
        row: dict[str, Any] = {"contrast": contrast.name, "channel": contrast.channel, "reason": "",
                               "above": " – ".join(contrast.above),
                               "below": " – ".join(contrast.below)}  # fmt: skip
        rows.append(row)
        ends = [place.get((*sorted(side), contrast.channel)) for side in (contrast.above, contrast.below)]
        if None in ends:
            row["reason"] = "the channel has no concept, or a pair of compartments too few edges"
            continue
        up, down = (table.iloc[i] for i in ends)
        row |= {"n_above": int(up["n_edges"]), "n_below": int(down["n_edges"])}
        row |= {"difference_z": up["score_z"] - down["score_z"]}
        if LABELS in flat:
            null = flat[LABELS][:, ends[0]] - flat[LABELS][:, ends[1]]
            row["p_labels"] = float(stats.permutation_p(row["difference_z"], null))
        with np.errstate(divide="ignore", invalid="ignore"):
            null = np.log2(flat["shift"][:, ends[0]] / flat["shift"][:, ends[1]])
            seen = np.log2(up["score"] / down["score"])
        if not (np.isfinite(null).all() and np.isfinite(seen)):
            row["reason"] = "not testable: fewer than 20 distinct shifts, or nothing is shared"
            continue
        row |= {
            "difference": up["log2_ratio"] - down["log2_ratio"],
            "p": float(stats.permutation_p(seen, null)),
        }
        row["p_min"] = 1 / (1 + len(null))
        drawn = flat["bootstrap"][:, ends[0]] - flat["bootstrap"][:, ends[1]]
        shift = row["difference"] - seen
        row["lo"], row["hi"] = (float(bound) + shift for bound in interval(drawn))
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))
