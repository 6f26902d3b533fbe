"""Which (feature, concept) pairs count for the activity of a concept, and with what weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm.errors import InputError

CHOICES = ("listed", "best")


def choose(interpretable: pd.DataFrame, pairs: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return the pairs that count: ``term_id``, ``feature``, ``lift``, sorted by both ids.

    Parameters
    ----------
    interpretable
        ``alignment/*/interpretable.parquet``: the best feature of each interpretable concept.
    pairs
        ``alignment/*/pairs.parquet``: the ten features of a concept that are best on validation, and the
        concept at which each feature is best; scores on test, q among the concepts.
    settings
        ``pairs`` (``best``: rows of ``interpretable``; ``listed``: of ``pairs``), ``max_q``, ``min_lift``,
        and ``min_f1_validation`` (None: no limit).

    A pair counts with q < ``max_q`` (1: any q) and a lift above ``min_lift``; lift is the F1 beyond that of
    the concept's best single gene, and the pair's weight. All of this is about which genes' tokens a feature
    fires on; nothing of it knows where a cell lies.
    """
    if settings["pairs"] not in CHOICES:
        raise InputError(f"activity.pairs: found {settings['pairs']!r}, expected one of {', '.join(CHOICES)}")
    if settings["min_lift"] < 0:
        raise InputError(
            f"activity.min_lift: found {settings['min_lift']}, expected 0 or more: it is a weight"
        )
    found = pairs[pairs["term_id"].notna() & pairs["feature"].notna()]
    found = found.assign(term_id=found["term_id"].astype(str), feature=found["feature"].astype(np.int64))
    if settings["pairs"] == "best":
        mine = interpretable[["term_id", "feature"]].astype({"term_id": str, "feature": np.int64})
        found = found.merge(mine, on=["term_id", "feature"])
    keep = found["lift"] > settings["min_lift"]
    if settings["max_q"] < 1:
        keep &= found["q"] < settings["max_q"]
    if settings["min_f1_validation"] is not None:
        keep &= found["f1_validation"] >= settings["min_f1_validation"]
    found = found.loc[keep, ["term_id", "feature", "lift"]]
    return found.sort_values(["term_id", "feature"], ignore_index=True)


def weights(chosen: pd.DataFrame, terms: Sequence[str], n_features: int) -> sparse.csr_matrix:
    """Return lift as CSR float64 (features × terms), 0 for pairs that do not count.

    Raises
    ------
    InputError
        If a pair names a feature that the dictionary lacks or a term that is not among ``terms``.
    """
    place = {term: i for i, term in enumerate(terms)}
    for term in chosen["term_id"]:
        if term not in place:
            raise InputError(f"pairs: found the term {term!r}, expected one of concepts/terms.parquet")
    feature = chosen["feature"].to_numpy(np.int64)
    if len(feature) and (feature.min() < 0 or feature.max() >= n_features):
        raise InputError(
            f"pairs: found feature {feature.max()}, expected one below {n_features}; "
            "are pairs and cells of one dictionary?"
        )
    column = np.array([place[term] for term in chosen["term_id"]], np.int64)
    return sparse.csr_matrix(
        (chosen["lift"].to_numpy(float), (feature, column)), shape=(n_features, len(place))
    )


def rejection(
    terms: Sequence[str], pairs: pd.DataFrame, chosen: pd.DataFrame, settings: Mapping[str, Any]
) -> list[str]:
    """Return why each term has no feature that counts; empty where it has one."""
    have, listed = set(chosen["term_id"]), pairs.groupby(pairs["term_id"].astype(str))
    best = listed[["q", "lift"]].agg({"q": "min", "lift": "max"})
    reasons = []
    for term in terms:
        if term in have:
            reasons.append("")
        elif term not in best.index:
            reasons.append("no feature fires on its tokens")
        elif settings["max_q"] < 1 and not best.loc[term, "q"] < settings["max_q"]:
            reasons.append(f"no pair with q < {settings['max_q']:g}")
        elif not best.loc[term, "lift"] > settings["min_lift"]:
            reasons.append(f"no pair with a lift above {settings['min_lift']:g}")
        else:
            reasons.append("no pair that passes every limit")
    return reasons
