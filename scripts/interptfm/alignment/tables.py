"""The tables of an alignment: concepts, features and pairs with their scores, and held-out genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm import stats
from interptfm.alignment.genes import METRICS, HeldOutGenes, folds_of, mean_of_defined
from interptfm.alignment.null import Null
from interptfm.alignment.selection import Search, Split, best_single_gene
from interptfm.features.firing import Firing
from interptfm.features.tokens import SPLITS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PAIRS_A_CONCEPT = 10
SCORES = ("tp", "fp", "fn", "precision", "recall", "f1")


class Data:
    """Counts and membership of one alignment, with the parts that every table needs.

    A term is scored with positives on validation and test, and at least ``min_positive_tokens`` over
    all splits.
    """

    def __init__(
        self, firing: Firing, members: csr_matrix, terms: pd.DataFrame, min_positive_tokens: int = 0
    ) -> None:
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
        enough = members @ firing.tokens.sum(axis=0).astype(float) >= min_positive_tokens
        self.scored = self.has_validation & self.has_test & enough

    def hold_out(self, n_folds: int, min_genes: int, generator: np.random.Generator) -> None:
        """Lay out the gene-held-out evaluation over the scored terms with enough genes that have tokens."""
        sums, splits = self.firing.sums, [SPLITS.index(name) for name in ("validation", "test")]
        fold = folds_of(self.firing.tokens.sum(axis=0), n_folds, generator)
        chosen_on, scored_on = (None if sums is None else sums[i] for i in splits)
        self.held_out = HeldOutGenes(self.validation, self.test, fold, chosen_on, scored_on)
        n_genes = self.members @ (fold >= 0).astype(np.float64)
        self.held_out_terms = np.flatnonzero(self.scored & (n_genes >= min_genes))
        self.gene_scores = self.held_out.score(self.members[self.held_out_terms])

    def auroc_and_ap(self, term: np.ndarray, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return AUROC and AP of a given feature's mean activation on test, averaged over gene folds."""
        shape = (len(term), self.held_out.n_folds)
        auroc, ap = np.full(shape, np.nan), np.full(shape, np.nan)
        if self.held_out.ranked is not None:
            members = self.members[term]
            for h, genes in enumerate(self.held_out.ranked):
                auroc[:, h], ap[:, h] = genes.auroc_and_ap(members, feature)
        return mean_of_defined(auroc), mean_of_defined(ap)

    def table(self, term: np.ndarray, column: np.ndarray) -> pd.DataFrame:
        """Return a row a (term, column) pair: names, feature, threshold, test scores, validation F1."""
        fires = column >= 0
        feature, level = np.divmod(np.where(fires, column, 0), self.n_thresholds)
        frame = self.terms.iloc[term].reset_index(drop=True)
        frame["feature"] = pd.array(feature, "Int64")
        frame.loc[~fires, "feature"] = pd.NA
        frame["threshold"] = np.where(fires, self.firing.share(feature, level), np.nan)
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


def term_groups(data: Data, permutations: int, max_q: float) -> np.ndarray:
    """Return the group of each term whose standardised nulls are pooled, −1 for terms that are not scored."""
    groups, scored = np.full(len(data.terms), -1), np.flatnonzero(data.scored)
    sizes = data.terms["n_genes"].to_numpy()[scored]
    groups[scored] = stats.similar_size_groups(sizes, permutations, max_q)
    return groups


def concepts_table(
    data: Data, f1: np.ndarray, threshold: np.ndarray, null: Null, max_q: float
) -> pd.DataFrame:
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
    groups = term_groups(data, len(draws), max_q)
    frame["p"], frame["p_min"] = stats.pooled_permutation_p(observed, draws, groups)
    frame["q"] = stats.benjamini_hochberg(frame["p"].to_numpy())
    frame["p_own"] = stats.permutation_p(observed, draws)
    frame["p_own_min"] = np.where(data.scored, 1 / (1 + len(draws)), np.nan)
    frame["n_permutations"] = np.int32(len(draws))
    return _with_gene_columns(frame, data, null, max_q)


def _with_gene_columns(frame: pd.DataFrame, data: Data, null: Null, max_q: float) -> pd.DataFrame:
    """Add the scores on held-out genes, each measure beside its null's mean, its p and its q."""
    terms, scores = data.held_out_terms, data.gene_scores
    for name in ("tp", "fp", "fn"):
        frame[f"gene_{name}"] = pd.array([pd.NA] * len(frame), "Int64")
        frame.loc[terms, f"gene_{name}"] = getattr(scores, name)
    frame["gene_folds"] = np.int32(0)
    frame.loc[terms, "gene_folds"] = scores.n_folds.astype(np.int32)
    groups = stats.similar_size_groups(frame["n_genes"].to_numpy()[terms], len(null.test), max_q)
    for name in METRICS:
        observed, draws = getattr(scores, name), null.genes[name]
        tested = ~np.isnan(observed)
        p = np.full(len(observed), np.nan)
        if tested.any():
            p[tested], _ = stats.pooled_permutation_p(observed[tested], draws[:, tested], groups[tested])
        columns = {"": observed, "_null_mean": np.where(tested, draws.mean(axis=0), np.nan)}
        columns |= {"_excess": observed - columns["_null_mean"], "_p": p}
        columns |= {"_q": stats.benjamini_hochberg(p)}
        for suffix, values in columns.items():
            frame[f"gene_{name}{suffix}"] = np.nan
            frame.loc[terms, f"gene_{name}{suffix}"] = values
    return frame


def _beside_null(
    frame: pd.DataFrame, term: np.ndarray, concepts: pd.DataFrame, null: Null, groups: np.ndarray
) -> pd.DataFrame:
    """Add lift, excess, p and q of pairs against what the best of all features reaches by chance.

    The null is a term's maximum over features, so p holds for any choice among them; q is that of the
    procedure over the terms' best pairs.
    """
    frame["f1_single_gene"] = concepts["f1_single_gene"].to_numpy()[term]
    frame["lift"] = frame["f1"] - frame["f1_single_gene"]
    frame["null_mean"] = concepts["null_mean"].to_numpy()[term]
    frame["excess"] = frame["f1"] - frame["null_mean"]
    observed = frame["f1"].to_numpy()
    frame["p"], frame["p_min"] = stats.pooled_permutation_p(observed, null.test, groups, term)
    frame["q"] = stats.q_among(frame["p"].to_numpy(), concepts["p"].to_numpy())
    return frame


def features_table(
    data: Data, f1: np.ndarray, threshold: np.ndarray, concepts: pd.DataFrame, null: Null, groups: np.ndarray
) -> pd.DataFrame:
    feature, term = np.arange(data.n_features), f1.argmax(axis=0)
    column = data.column(f1, threshold, term, feature)
    frame = _beside_null(data.table(term, column), term, concepts, null, groups)
    frame["feature"] = feature
    nothing = column < 0
    frame.loc[nothing, ["term_id", "name"]] = None
    numbers = ["precision", "recall", "f1", "f1_validation", "f1_single_gene", "lift"]
    frame.loc[nothing, [*numbers, "null_mean", "excess", "p", "p_min", "q"]] = np.nan
    for name in ("n_genes", "tp", "fp", "fn"):
        frame[name] = frame[name].astype("Int64").mask(nothing)
    for i, split in enumerate(SPLITS):
        frame[f"fired_{split}"] = data.fired[i]
    return frame[["feature", *(name for name in frame.columns if name != "feature")]]


def pairs_table(
    data: Data, f1: np.ndarray, threshold: np.ndarray, concepts: pd.DataFrame, null: Null, groups: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return the table, and the term and the column of each of its rows."""
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
    column = data.column(f1, threshold, term, feature)
    frame = _beside_null(data.table(term, column), term, concepts, null, groups)
    frame["gene_auroc"], frame["gene_ap"] = data.auroc_and_ap(term, feature)
    frame["rank"] = pairs["rank"].astype("Int64").to_numpy(dtype=object, na_value=pd.NA)
    frame["rank"] = frame["rank"].astype("Int64")
    frame["best_of_feature"] = pairs["of_feature"].notna().to_numpy()
    order = frame.sort_values(["term_id", "rank", "feature"], kind="stable").index.to_numpy()
    return frame.iloc[order].reset_index(drop=True), term[order], column[order]
