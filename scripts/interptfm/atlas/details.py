"""The rows of the atlas's table, and everything that the page of one feature shows, as plain lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interptfm.atlas.activity import Activity
from interptfm.atlas.encoding import number, numbers
from interptfm.atlas.space import PAIR_COLUMNS, TIS_COLUMNS, Space

SHOWN_GENES = 5
# Genes and terms of a row that the search looks into.
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


def table(space: Space, activity: Activity, index: Index) -> dict[str, list[Any]]:
    """Return the columns of a space's rows in the table, one value a feature.

    ``rate``, ``max``, ``f1``, ``lift``, ``q``, ``tis``; ``terms`` indices, those that pass first and the best
    first; ``passed`` how many of them do; ``genes`` indices; ``type`` index of the cell type with the largest
    mean activity, −1 for none.
    """
    best = columns_of(space.best, ("f1", "lift", "q"))
    terms: dict[int, list[int]] = {}
    passed = np.zeros(space.n_features, int)
    for feature, term, passes in zip(
        space.pairs["feature"], space.pairs["term_id"], space.pairs["interpretable"], strict=True
    ):
        if term in index.terms:
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

    Each has ``score`` (SCORES of its best pair), ``term`` of it, ``hist`` (counts), ``tokens`` (section, cell,
    gene, value, activation), ``pairs`` (term, interpretable, PAIR_COLUMNS), ``genes`` (gene, mean, share),
    ``groups`` (mean, lo, hi, share of active cells; None for groups without cells), ``near`` (feature,
    cosine), ``scale`` a section, ``tis`` (TIS_COLUMNS, reason) and ``steering`` (target, STEERED).
    """
    best = columns_of(space.best, SCORES)
    pairs, tokens, clamped = (
        dict(iter(frame[frame["feature"].between(start, stop - 1)].groupby("feature")))
        for frame in (space.pairs, space.tokens, space.clamped)
    )
    profile = np.stack(activity.profile(slice(start, stop), draws))
    near = space.neighbours(start, stop)
    found = []
    for feature in range(start, stop):
        term = space.best["term_id"].get(feature)
        found.append(
            {
                "score": numbers(best.loc[feature]),
                "term": index.terms.get(str(term), -1),
                "hist": space.histogram[feature].tolist(),
                "tokens": _tokens(tokens.get(feature), index),
                "pairs": _pairs(pairs.get(feature), index),
                "genes": [
                    [index.genes[space.genes[g]], *numbers((space.gene_mean[g, feature], space.gene_share[g, feature]))]
                    for g in space.top_genes(feature)
                ],
                "groups": [numbers(row) for row in profile[:, :, feature - start].T],
                "near": [[other, number(cosine)] for other, cosine in near[feature - start]],
                "scale": numbers(activity.scale[:, feature]),
                "tis": _tis(space.tis, feature),
                "steering": _steering(clamped.get(feature)),
            }
        )  # fmt: skip
    return found


def _tokens(frame: pd.DataFrame | None, index: Index) -> list[list[Any]]:
    if frame is None:
        return []
    return [
        [index.sections[row.sample], row.cell, index.genes[row.gene], number(row.value), number(row.activation)]
        for row in frame.itertuples()
    ]  # fmt: skip


def _pairs(frame: pd.DataFrame | None, index: Index) -> list[list[Any]]:
    if frame is None:
        return []
    scores = columns_of(frame, PAIR_COLUMNS).to_numpy()
    return [
        [index.terms[term], int(passes), *numbers(row)]
        for term, passes, row in zip(frame["term_id"], frame["interpretable"], scores, strict=True)
        if term in index.terms
    ]


def _tis(frame: pd.DataFrame | None, feature: int) -> list[Any] | None:
    if frame is None or feature not in frame.index:
        return None
    row = frame.loc[feature]
    reason = row["reason"] if isinstance(row["reason"], str) else ""
    return [*numbers(row[name] for name in TIS_COLUMNS), reason]


def _steering(frame: pd.DataFrame | None) -> list[list[Any]]:
    if frame is None:
        return []
    rows = columns_of(frame, STEERED).to_numpy()
    return [[str(target), *numbers(row)] for target, row in zip(frame["target"], rows, strict=True)]
