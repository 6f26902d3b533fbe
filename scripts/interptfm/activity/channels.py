"""Channels: every term's theme and why it has it, from roots of the graph first and from names second."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interptfm import schema
from interptfm.config import load_yaml
from interptfm.errors import InputError

GENERIC, UNCLASSIFIED = "generic", "unclassified"
RELATIONS = ("is_a", "part_of")
_STRINGS = {"type": "array", "items": {"type": "string", "minLength": 1}, "uniqueItems": True}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["generic", "channels"],
    "properties": {
        "generic": {
            "type": "object",
            "additionalProperties": False,
            "required": ["terms", "patterns"],
            "properties": {"terms": _STRINGS, "patterns": _STRINGS},
        },
        "channels": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "roots", "patterns"],
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "roots": _STRINGS,
                    "patterns": _STRINGS,
                },
            },
        },
    },
}


@dataclass(frozen=True)
class Channels:
    """Definitions: names in order, root id → channel, patterns with their channel, and what is generic."""

    names: tuple[str, ...]
    roots: dict[str, str]
    patterns: tuple[tuple[re.Pattern[str], str], ...]
    generic_terms: frozenset[str]
    generic_patterns: tuple[re.Pattern[str], ...]


def read_channels(path: str | Path) -> Channels:
    """Read and check ``resources/channels.yaml``.

    Raises
    ------
    InputError
        For a key that is missing or unknown, a pattern that is no regular expression, a name or root that
        stands twice, or a channel with neither root nor pattern.
    """
    found = load_yaml(path)
    schema.check(found, SCHEMA, str(path))
    roots: dict[str, str] = {}
    names: list[str] = []
    patterns: list[tuple[re.Pattern[str], str]] = []
    for channel in found["channels"]:
        name = channel["name"]
        if name in (*names, GENERIC, UNCLASSIFIED):
            raise InputError(f"{path}: found the channel {name!r} twice or reserved, expected another name")
        if not (channel["roots"] or channel["patterns"]):
            raise InputError(f"{path}: found neither root nor pattern for {name!r}, expected one or more")
        names.append(name)
        for root in channel["roots"]:
            if root in roots or root in found["generic"]["terms"]:
                raise InputError(f"{path}: found the term {root!r} twice, expected it once")
            roots[root] = name
        patterns += [(_compiled(pattern, path), name) for pattern in channel["patterns"]]
    generic = found["generic"]
    return Channels(
        tuple(names),
        roots,
        tuple(patterns),
        frozenset(generic["terms"]),
        tuple(_compiled(pattern, path) for pattern in generic["patterns"]),
    )


def _compiled(pattern: str, path: str | Path) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(
            f"{path}: found the pattern {pattern!r}, expected a regular expression ({error})"
        ) from None


def parents_of(dag: pd.DataFrame, relations: Sequence[str] = RELATIONS) -> dict[str, list[str]]:
    """Return child id → parent ids over the relations, of ``concepts/dag.parquet``."""
    parents: dict[str, list[str]] = {}
    kept = dag[dag["relation"].isin(relations)] if len(dag) else dag
    for child, parent in zip(kept["child"].astype(str), kept["parent"].astype(str), strict=True):
        parents.setdefault(child, []).append(parent)
    return parents


def ancestors(
    start: Sequence[str], parents: Mapping[str, list[str]], limit: int | None = None
) -> dict[str, int]:
    """Return id → fewest steps upwards from any of the ids ``start`` (0 for themselves), breadth first.

    ``limit`` bounds the steps. A cycle does no harm.
    """
    steps = dict.fromkeys(start, 0)
    level, here = list(steps), 0
    while level and (limit is None or here < limit):
        here += 1
        level = list(dict.fromkeys(p for term in level for p in parents.get(term, ()) if p not in steps))
        steps.update(dict.fromkeys(level, here))
    return steps


def classify(terms: pd.DataFrame, dag: pd.DataFrame, channels: Channels) -> pd.DataFrame:
    """Return the channel of every term and why.

    Parameters
    ----------
    terms
        ``term_id``, ``name``, ``source``, and ``members``: ids of the class of terms with the same genes,
        any of which may be a root or have one above it. Generic is judged by the class's own id and name.
    dag
        ``child``, ``parent``, ``relation``; may be empty.

    Returns
    -------
    ``term_id``, ``name``, ``source``, ``channel`` (a name, ``generic`` or ``unclassified``), ``by``
    (``generic``, ``root``, ``pattern`` or ``none``), ``reason`` (root or pattern), ``steps`` (to the root,
    else missing).
    """
    parents = parents_of(dag)
    order = {name: i for i, name in enumerate(channels.names)}
    rows = []
    for term, name, members in zip(terms["term_id"], terms["name"], terms["members"], strict=True):
        rows.append(_one(str(term), str(name), [str(m) for m in members], parents, channels, order))
    found = pd.DataFrame(rows, columns=["channel", "by", "reason", "steps"])
    found["steps"] = found["steps"].astype("Int64")
    return pd.concat([terms[["term_id", "name", "source"]].reset_index(drop=True), found], axis=1)


def _one(
    term: str,
    name: str,
    members: Sequence[str],
    parents: Mapping[str, list[str]],
    channels: Channels,
    order: Mapping[str, int],
) -> tuple[str, str, str, Any]:
    if term in channels.generic_terms:
        return GENERIC, "generic", f"term {term}", None
    for pattern in channels.generic_patterns:
        if pattern.search(name):
            return GENERIC, "generic", f"pattern {pattern.pattern}", None
    above = ancestors([term, *members], parents)
    hits = [(steps, order[channels.roots[one]], one) for one, steps in above.items() if one in channels.roots]
    if hits:
        steps, place, root = min(hits)
        return channels.names[place], "root", f"root {root}", steps
    for pattern, channel in channels.patterns:
        if pattern.search(name):
            return channel, "pattern", f"pattern {pattern.pattern}", None
    return UNCLASSIFIED, "none", "", None
