"""The rows of the atlas's table, and everything that the page of one feature shows, as plain lists."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interptfm.atlas.activity import Activity
from interptfm.atlas.encoding import number, numbers
from interptfm.atlas.space import PAIR_COLUMNS, TIS_COLUMNS, Space

SHOWN_GENES = 5
SCORES = ("f1", "lo", "hi", "null_mean", "f1_single_gene", "lift", "p", "p_min", "q")
STEERED = (
    "dose", "cosine_control", "lo", "hi", "nearer", "nearer_unsteered", "off_target", "n_cells",
)  # fmt: skip


@dataclass(frozen=True)
class Index:
    """Names that the data files refer to by number: name → position."""

    genes: Mapping[str, int]
    terms: Mapping[str, int]
    sections: Mapping[str, int]
    groups: Sequence[tuple[str, str]]


def columns_of(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the named columns as float64, NaN throughout for one that is not there."""
    return pd.DataFrame(
        {
            name: pd.to_numeric(frame[name], errors="coerce").astype(float) if name in frame else np.nan
            for name in names
        },
        index=frame.index,
    )


def leading(space: Space, names: Sequence[str]) -> pd.DataFrame:
    """Return scores of the first pair of every feature, NaN for features without one."""
    first = space.pairs.drop_duplicates("feature").set_index("feature")
    return columns_of(first, names).reindex(range(space.n_features))


def table(space: Space, activity: Activity, index: Index) -> dict[str, list[Any]]:
    """Return the columns of a space's rows in the table, one value a feature.

    ``rate``, ``max``, ``f1``, ``lift``, ``q`` of its first pair, ``tis``; ``terms`` indices in the order of
    the pairs; ``passed`` how many of them do; ``genes`` indices; ``type`` index of the cell type with the
    largest mean activity, −1 for none.
    """
    best = leading(space, ("f1", "lift", "q"))
    terms: dict[int, list[int]] = {}
    passed = np.zeros(space.n_features, int)
    for feature, term, passes in zip(
        space.pairs["feature"], space.pairs["term_id"], space.pairs["interpretable"], strict=True
    ):
        terms.setdefault(feature, []).append(index.terms[term])
        passed[feature] += bool(passes)
    tis = [None] * space.n_features
    if space.tis is not None:
        tis = numbers(space.tis["tis_hard"].reindex(range(space.n_features)))
    return {
        "rate": numbers(space.rate()),
        "max": numbers(space.maximum),
        "f1": numbers(best["f1"]),
        "lift": numbers(best["lift"]),
        "q": numbers(best["q"]),
        "tis": tis,
        "terms": [terms.get(feature, []) for feature in range(space.n_features)],
        "passed": passed.tolist(),
        "genes": [
            [index.genes[space.genes[gene]] for gene in space.top_genes(feature)[:SHOWN_GENES]]
            for feature in range(space.n_features)
        ],
        "type": _leading_type(activity, index),
    }


def _leading_type(activity: Activity, index: Index) -> list[int]:
    """Return for each feature the group of kind "cell type" with the largest mean activity, −1 for none."""
    types = [i for i, (kind, _) in enumerate(index.groups) if kind == "cell type"]
    mean = np.zeros((len(types), activity.sums.shape[1]))
    for row, group in enumerate(types):
        mine = activity.group == group
        mean[row] = activity.sums[mine].sum(axis=0) / max(1, activity.cells[mine].sum())
    if not len(mean):
        return [-1] * activity.sums.shape[1]
    best = mean.argmax(axis=0)
    return [types[b] if mean[b, i] > 0 else -1 for i, b in enumerate(best)]


def details(
    space: Space, activity: Activity, index: Index, start: int, stop: int, draws: np.ndarray
) -> list[dict[str, Any]]:
    """Return what the pages of features ``start`` to ``stop`` show.

    Each has ``score`` (SCORES of its first pair), ``term`` of it, ``hist`` (counts), ``tokens`` (section,
    cell, gene, value, activation), ``pairs`` (term, interpretable, PAIR_COLUMNS), ``genes`` (gene, mean,
    share), ``groups`` (mean, lo, hi, share of active cells; None for groups without cells), ``near``
    (feature, cosine), ``scale`` a section, ``tis`` (TIS_COLUMNS, reason) and ``steering`` (target, STEERED).
    """
    best = leading(space, SCORES)
    of_term = space.pairs.drop_duplicates("feature").set_index("feature")["term_id"]
    tables = (space.pairs, _pairs), (space.tokens, _tokens), (space.clamped, _clamped)
    pairs, tokens, clamped = (
        _of_features(mine, rows(mine, index), start, stop)
        for frame, rows in tables
        for mine in (_within(frame, start, stop),)
    )
    profile = np.stack(activity.profile(slice(start, stop), draws))
    near = space.neighbours(start, stop)
    found = []
    for feature in range(start, stop):
        term = of_term.get(feature)
        found.append(
            {
                "score": numbers(best.loc[feature]),
                "term": -1 if term is None else index.terms[term],
                "hist": space.histogram[feature].tolist(),
                "tokens": tokens[feature - start],
                "pairs": pairs[feature - start],
                "genes": [
                    [
                        index.genes[space.genes[g]],
                        *numbers((space.gene_mean[g, feature], space.gene_share[g, feature])),
                    ]
                    for g in space.top_genes(feature)
                ],
                "groups": [numbers(row) for row in profile[:, :, feature - start].T],
                "near": [[other, number(cosine)] for other, cosine in near[feature - start]],
                "scale": numbers(activity.scale[:, feature]),
                "tis": _tis(space.tis, feature),
                "steering": clamped[feature - start],
            }
        )  # fmt: skip
    return found


def _of_features(frame: pd.DataFrame, rows: Sequence[list[Any]], start: int, stop: int) -> list[list[Any]]:
    """Return the rows of each feature from ``start`` to ``stop``; the frame is sorted by feature."""
    bounds = np.searchsorted(frame["feature"].to_numpy(), np.arange(start, stop + 1))
    return [list(rows[low:high]) for low, high in itertools.pairwise(bounds)]


def _within(frame: pd.DataFrame, start: int, stop: int) -> pd.DataFrame:
    return frame[(frame["feature"] >= start) & (frame["feature"] < stop)]


def _tokens(frame: pd.DataFrame, index: Index) -> list[list[Any]]:
    columns = (frame[name].tolist() for name in ("sample", "cell", "gene", "value", "activation"))
    return [
        [index.sections[sample], cell, index.genes[gene], number(value), number(activation)]
        for sample, cell, gene, value, activation in zip(*columns, strict=True)
    ]


def _pairs(frame: pd.DataFrame, index: Index) -> list[list[Any]]:
    scores = columns_of(frame, PAIR_COLUMNS).to_numpy().tolist()
    return [
        [index.terms[term], int(passes), *numbers(row)]
        for term, passes, row in zip(frame["term_id"], frame["interpretable"], scores, strict=True)
    ]


def _clamped(frame: pd.DataFrame, index: Index) -> list[list[Any]]:
    rows = columns_of(frame, STEERED).to_numpy().tolist()
    return [[str(target), *numbers(row)] for target, row in zip(frame["target"], rows, strict=True)]


def _tis(frame: pd.DataFrame | None, feature: int) -> list[Any] | None:
    if frame is None or feature not in frame.index:
        return None
    row = frame.loc[feature]
    reason = row["reason"] if isinstance(row["reason"], str) else ""
    return [*numbers(row[name] for name in TIS_COLUMNS), reason]
