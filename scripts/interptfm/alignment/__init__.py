"""Alignment of features with concepts: best F1 on held-out blocks beside its null and its baseline.

For every concept the (feature, threshold) with the largest F1 on validation is reported on test at
that same threshold (as in InterPLM, Simon & Zou 2024). Beside it stand the best detector of a single
gene, chosen in the same way, and the same selection repeated under permuted membership: with many
features best F1 is high by chance, so only the excess over that null says something.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm import stats
from interptfm.alignment.null import Null, null_distribution, strata_of
from interptfm.alignment.selection import (
    Search,
    Split,
    best_single_gene,
    read_membership,
    reindex,
    true_positives,
)
from interptfm.errors import InputError
from interptfm.features.firing import Firing
from interptfm.features.tokens import SPLITS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Alignment", "align", "read_membership", "reindex", "true_positives"]

PAIRS_A_CONCEPT = 10
SCORES = ("tp", "fp", "fn", "precision", "recall", "f1")

log = logging.getLogger("interptfm.alignment")


@dataclass
class Alignment:
    """The tables of one representation of one layer (columns: README and :func:`align`)."""

    pairs: pd.DataFrame
    concepts: pd.DataFrame
    features: pd.DataFrame
    interpretable: pd.DataFrame
    null: pd.DataFrame
    summary: dict[str, Any]


def align(
    firing: Firing,
    membership: csr_matrix,
    terms: pd.DataFrame,
    genes: list[str],
    *,
    permutations: int,
    strata: int,
    max_q: float,
    min_lift: float,
    generator: np.random.Generator,
) -> Alignment:
    """Align features with concepts.

    Parameters
    ----------
    firing
        Firing counts (splits × genes × features × thresholds).
    membership
        bool CSR (genes × terms); ``genes`` names its rows, ``terms`` (term_id, name) its columns.
    permutations
        Number of permuted memberships, at least 3.
    strata
        Genes are exchanged within this many strata of token count.
    max_q, min_lift
        A concept's best feature is interpretable where q < max_q and lift > min_lift.
    generator
        Draws the permutations.

    Returns
    -------
    ``concepts``: a row a term, its best column with its test scores. A term without positives on
    validation or test is not scored (NaN). ``p`` is (1 + k) / (1 + pooled nulls) from nulls
    standardised per term and pooled over terms of similar gene number, ``p_min`` its smallest
    possible value; ``p_own`` is (1 + k) / (1 + n) from the term's own null alone; ``q`` is
    Benjamini–Hochberg over the scored terms. ``features``: a row a feature, its best term.
    ``pairs``: the 10 best features of every term by validation F1, and every feature's best term.
    ``interpretable``: see ``max_q``; ``stable`` stays missing until seeds are compared. ``null``:
    mean best F1 of each permutation.

    Raises
    ------
    InputError
        On an empty ontology, genes or terms that do not fit, a split without tokens, or no term
        with positives on both splits.
    """
    if permutations < 3:
        raise InputError(f"alignment.permutations: found {permutations}, expected at least 3")
    if len(terms) != membership.shape[1]:
        raise InputError(
            f"terms: found {len(terms)} rows, expected {membership.shape[1]}, one a column of the membership"
        )
    members = reindex(membership, genes, firing.genes)
    for split in ("validation", "test"):
        if not firing.tokens[SPLITS.index(split)].sum():
            raise InputError(f"firing counts: found no {split} token, expected at least one")
    data = _Data(firing, members, terms)
    if not data.scored.any():
        raise InputError("terms: found none with tokens on validation and test, expected at least one")

    f1, threshold = data.search.by_feature(members)
    f1[~data.scored] = 0
    strata_list = strata_of(firing.tokens.sum(axis=0), strata)
    null = null_distribution(data.search, data.test, members, strata_list, permutations, generator)
    concepts = _concepts(data, f1, threshold, null, max_q)
    features = _features(data, f1, threshold, concepts)
    frame = pd.DataFrame(
        {
            "permutation": np.arange(permutations, dtype=np.int32),
            "mean_f1": null.test[:, data.scored].mean(axis=1),
            "mean_f1_validation": null.validation[:, data.scored].mean(axis=1),
        }
    )
    chosen = concepts[(concepts["q"] < max_q) & (concepts["lift"] > min_lift) & concepts["feature"].notna()]
    interpretable = chosen[["feature", "term_id", "f1", "lift", "p", "q"]].astype({"feature": np.int64})
    interpretable = interpretable.sort_values(["feature", "term_id"], ignore_index=True)
    interpretable["stable"] = pd.array([pd.NA] * len(interpretable), "boolean")
    summary = _summary(data, concepts, features, interpretable, frame, len(strata_list), max_q)
    return Alignment(_pairs(data, f1, threshold, concepts), concepts, features, interpretable, frame, summary)


class _Data:
    """Counts and membership of one alignment, with the parts that every table needs."""

    def __init__(self, firing: Firing, members: csr_matrix, terms: pd.DataFrame) -> None:
        self.firing, self.members = firing, members
        self.n_features, self.n_thresholds = firing.counts.shape[2:]
        splits = [Split(*pair) for pair in zip(firing.counts, firing.tokens, strict=True)]
        self.validation, self.test = (splits[SPLITS.index(name)] for name in ("validation", "test"))
        self.fired = np.stack([split.total[:, 0] for split in splits])
        self.search = Search(self.validation)
        self.terms = pd.DataFrame(
            {
                "term_id": terms["term_id"].astype(str).to_numpy(object),
                "name": terms["name"].astype(str).to_numpy(object),
                "n_genes": np.diff(members.indptr).astype(np.int32),
            }
        )
        self.has_validation = members @ self.validation.tokens.astype(float) > 0
        self.has_test = members @ self.test.tokens.astype(float) > 0
        self.scored = self.has_validation & self.has_test

    def table(self, term: np.ndarray, column: np.ndarray) -> pd.DataFrame:
        """Return a row a (term, column) pair: names, feature, threshold, test scores, validation F1."""
        fires = column >= 0
        feature, level = np.divmod(np.where(fires, column, 0), self.n_thresholds)
        frame = self.terms.iloc[term].reset_index(drop=True)
        frame["feature"] = pd.array(feature, "Int64")
        frame.loc[~fires, "feature"] = pd.NA
        frame["threshold"] = np.where(fires, np.array(self.firing.thresholds, float)[level], np.nan)
        frame["split"] = "test"
        scores = self.test.score(self.members, term, column)
        for name in SCORES:
            frame[name] = getattr(scores, name)
        frame["f1_validation"] = self.validation.score(self.members, term, column).f1
        unscored = ~self.scored[term]
        frame.loc[unscored, ["precision", "recall", "f1", "f1_validation"]] = np.nan
        return frame

    def column(self, f1: np.ndarray, threshold: np.ndarray, term: Any, feature: Any) -> np.ndarray:
        """Return the column of (term, feature) at its best threshold, −1 where it never fires rightly."""
        column = feature * self.n_thresholds + threshold[term, feature].astype(np.int64)
        return np.where(f1[term, feature] > 0, column, -1)


def _concepts(data: _Data, f1: np.ndarray, threshold: np.ndarray, null: Null, max_q: float) -> pd.DataFrame:
    term = np.arange(len(data.terms))
    frame = data.table(term, data.column(f1, threshold, term, f1.argmax(axis=1)))
    gene, single = best_single_gene(data.members, data.validation.tokens, data.test.tokens)
    names = np.append(np.array(data.firing.genes, object), None)
    frame["f1_single_gene"] = np.where(data.scored, single, np.nan)
    frame["single_gene"] = names[gene]
    frame["lift"] = frame["f1"] - frame["f1_single_gene"]
    observed, draws = frame["f1"].to_numpy(), null.test
    for name, values in (
        ("null_mean", draws.mean(axis=0)),
        ("null_sd", draws.std(axis=0, ddof=1)),
        ("null_max", draws.max(axis=0)),
    ):
        frame[name] = np.where(data.scored, values, np.nan)
    frame["excess"] = frame["f1"] - frame["null_mean"]
    scored = np.flatnonzero(data.scored)
    sizes = frame["n_genes"].to_numpy()[scored]
    groups = np.full(len(frame), -1)
    groups[scored] = stats.similar_size_groups(sizes, len(draws), max_q)
    frame["p"], frame["p_min"] = stats.pooled_permutation_p(observed, draws, groups)
    frame["q"] = stats.benjamini_hochberg(frame["p"].to_numpy())
    frame["p_own"] = stats.permutation_p(observed, draws)
    frame["p_own_min"] = np.where(data.scored, 1 / (1 + len(draws)), np.nan)
    frame["n_permutations"] = np.int32(len(draws))
    return frame


def _features(data: _Data, f1: np.ndarray, threshold: np.ndarray, concepts: pd.DataFrame) -> pd.DataFrame:
    feature, term = np.arange(data.n_features), f1.argmax(axis=0)
    column = data.column(f1, threshold, term, feature)
    frame = data.table(term, column)
    frame["f1_single_gene"] = concepts["f1_single_gene"].to_numpy()[term]
    frame["lift"] = frame["f1"] - frame["f1_single_gene"]
    frame["feature"] = feature
    nothing = column < 0
    frame.loc[nothing, ["term_id", "name"]] = None
    numbers = ["precision", "recall", "f1", "f1_validation", "f1_single_gene", "lift"]
    frame.loc[nothing, numbers] = np.nan
    for name in ("n_genes", "tp", "fp", "fn"):
        frame[name] = frame[name].astype("Int64").mask(nothing)
    for i, split in enumerate(SPLITS):
        frame[f"fired_{split}"] = data.fired[i]
    return frame[["feature", *(name for name in frame.columns if name != "feature")]]


def _pairs(data: _Data, f1: np.ndarray, threshold: np.ndarray, concepts: pd.DataFrame) -> pd.DataFrame:
    n = min(PAIRS_A_CONCEPT, data.n_features)
    # A stable sort of the whole row is what makes ties go to the first feature.
    top = np.argsort(-f1, axis=1, kind="stable")[:, :n]
    term = np.repeat(np.arange(len(f1)), n)
    rank = np.tile(np.arange(1, n + 1), len(f1))
    best = pd.DataFrame(
        {"term": f1.argmax(axis=0), "feature": np.arange(data.n_features), "of_feature": True}
    )
    pairs = pd.DataFrame({"term": term, "feature": top.reshape(-1), "rank": rank})
    pairs = pairs.merge(best, on=["term", "feature"], how="outer")
    term, feature = pairs["term"].to_numpy(), pairs["feature"].to_numpy()
    keep = f1[term, feature] > 0
    term, feature, pairs = term[keep], feature[keep], pairs[keep]
    frame = data.table(term, data.column(f1, threshold, term, feature))
    frame["f1_single_gene"] = concepts["f1_single_gene"].to_numpy()[term]
    frame["lift"] = frame["f1"] - frame["f1_single_gene"]
    frame["rank"] = pairs["rank"].astype("Int64").to_numpy(dtype=object, na_value=pd.NA)
    frame["rank"] = frame["rank"].astype("Int64")
    frame["best_of_feature"] = pairs["of_feature"].notna().to_numpy()
    return frame.sort_values(["term_id", "rank", "feature"], ignore_index=True)


def _summary(
    data: _Data,
    concepts: pd.DataFrame,
    features: pd.DataFrame,
    interpretable: pd.DataFrame,
    null: pd.DataFrame,
    n_strata: int,
    max_q: float,
) -> dict[str, Any]:
    """Return the headline numbers; means are over the scored terms, of the null over the same."""
    scored = concepts[data.scored]
    mean, mean_validation = float(scored["f1"].mean()), float(scored["f1_validation"].mean())
    draws, draws_validation = null["mean_f1"].to_numpy(), null["mean_f1_validation"].to_numpy()
    lo, hi = np.quantile(draws, stats.INTERVAL)
    fired = features["fired_train"] > 0
    p_min = float(scored["p_min"].max())
    return {
        "n_concepts": len(concepts),
        "n_concepts_scored": len(scored),
        "n_concepts_without_validation_positives": int((~data.has_validation).sum()),
        "n_concepts_without_test_positives": int((~data.has_test).sum()),
        "n_concepts_without_a_feature": int(scored["feature"].isna().sum()),
        "n_features": data.n_features,
        "n_features_never_firing": int((~fired).sum()),
        "n_features_not_firing_on_validation": int((features["fired_validation"] == 0).sum()),
        "n_genes": len(data.firing.genes),
        "n_genes_without_term": int((data.members.getnnz(axis=0) == 0).sum()),
        "thresholds": [float(t) for t in data.firing.thresholds],
        "n_tokens": {name: int(data.firing.tokens[i].sum()) for i, name in enumerate(SPLITS)},
        "n_permutations": len(null),
        "n_strata": n_strata,
        "mean_f1": mean,
        "null_mean": float(draws.mean()),
        "null_sd": float(draws.std(ddof=1)),
        "null_lo": float(lo),
        "null_hi": float(hi),
        "excess": mean - float(draws.mean()),
        "p": float(stats.permutation_p(mean, draws)),
        "p_min": 1 / (1 + len(null)),
        "mean_f1_single_gene": float(scored["f1_single_gene"].mean()),
        "mean_lift": float(scored["lift"].mean()),
        "validation_mean_f1": mean_validation,
        "validation_null_mean": float(draws_validation.mean()),
        "validation_excess": mean_validation - float(draws_validation.mean()),
        "n_concepts_significant": int((scored["q"] < max_q).sum()),
        "concept_p_min": p_min,
        "one_concept_can_be_significant": bool(p_min * len(scored) < max_q),
        "n_concepts_f1_above_half": int((scored["f1"] > 0.5).sum()),
        "n_features_f1_above_half": int(scored.loc[scored["f1"] > 0.5, "feature"].nunique()),
        "n_interpretable_pairs": len(interpretable),
        "n_interpretable_features": int(interpretable["feature"].nunique()),
        "max_q": max_q,
        "p_method": "nulls standardised per term, pooled over terms of similar gene number",
    }
