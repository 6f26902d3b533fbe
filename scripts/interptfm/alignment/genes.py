"""Gene-held-out evaluation: does a feature chosen on some genes of a concept find the others?

A label depends on the gene alone and all genes occur in every split of cells, so a feature that has
merely learnt single genes passes any test on held-out cells. Here genes are split into folds: (feature,
threshold) is chosen on the validation tokens of the genes outside a fold and scored on the test tokens
of the genes inside it. True and false positives and negatives are pooled over folds before F1 (Forman and
Scholz 2010, *SIGKDD Explorations* 12:49); AUROC and average precision are those of the genes' mean
activation, averaged over the folds where both are defined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interptfm.alignment.selection import EXACT_FLOAT32, Split, ratio, true_positives

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CHUNK_COLUMNS = 160
MIN_POSITIVES = 2
METRICS = ("f1", "auroc", "ap", "auroc_ranked")


@dataclass
class GeneScores:
    """Scores of terms on held-out genes, each (terms,) unless said otherwise; NaN = not defined.

    ``tp``, ``fp``, ``fn`` int64 and ``f1``: pooled over folds. ``auroc``, ``ap``: mean over ``n_folds``
    folds with at least 2 held-out positives, of the feature that F1 chose. ``auroc_ranked``: the same
    with the feature chosen by its AUROC over the other folds' genes. ``column`` (terms × folds) int64:
    feature · thresholds + threshold chosen without the fold, −1 where nothing fires rightly;
    ``ranked`` (terms × folds): the feature chosen by AUROC.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    f1: np.ndarray
    auroc: np.ndarray
    ap: np.ndarray
    auroc_ranked: np.ndarray
    n_folds: np.ndarray
    column: np.ndarray
    ranked: np.ndarray


def folds_of(tokens: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Return the fold of each gene, int8 (genes,), −1 for genes without tokens.

    Stratified by token frequency: of every ``n`` genes next to each other in frequency each fold
    gets one, at random.
    """
    fold = np.full(len(tokens), -1, np.int8)
    seen = np.flatnonzero(tokens > 0)
    order = seen[np.argsort(tokens[seen], kind="stable")]
    for start in range(0, len(order), n):
        genes = order[start : start + n]
        fold[genes] = generator.permutation(n)[: len(genes)]
    return fold


class RankedGenes:
    """Genes of one fold with test tokens, ranked by each feature's mean activation on test."""

    def __init__(self, genes: np.ndarray, means: np.ndarray) -> None:
        from scipy.stats import rankdata

        self.genes = genes
        self.rank = rankdata(means, axis=0).astype(np.float32)
        # How many genes score at least as much: the denominator of the precision at a gene.
        self.at_least = rankdata(-means, method="max", axis=0).astype(np.int32)

    def auroc_and_ap(self, members: csr_matrix, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return AUROC and average precision of a feature for each row of ``members`` (terms × genes).

        NaN with fewer than 2 positives or no negative. Feature −1 scores all genes the same: AUROC 0.5,
        average precision the share of positives. Ties count half in AUROC; average precision is
        Σ (R_n − R_{n−1}) P_n over the distinct scores.
        """
        chosen = members[:, self.genes].tocsr()
        positives = np.diff(chosen.indptr).astype(np.int64)
        negatives = len(self.genes) - positives
        term = np.repeat(np.arange(len(positives)), positives)
        column = np.maximum(feature, 0)[term]
        gene = chosen.indices
        ranks = np.bincount(term, weights=self.rank[gene, column], minlength=len(positives))
        defined = (positives >= MIN_POSITIVES) & (negatives > 0)
        auroc = np.full(len(positives), np.nan)
        above = ranks - positives * (positives + 1) / 2
        np.divide(above, positives * negatives, out=auroc, where=defined)
        at_least = self.at_least[gene, column]
        order = np.lexsort((at_least, term))
        term, at_least = term[order], at_least[order]
        # Of equal scores all count as found: the position of the last of them in the term.
        last = np.ones(len(term), bool)
        last[:-1] = (np.diff(term) != 0) | (np.diff(at_least) != 0)
        ends = np.flatnonzero(last)
        place = ends[np.searchsorted(ends, np.arange(len(term)))]
        found = place - np.searchsorted(term, term) + 1
        total = np.bincount(term, weights=found / at_least, minlength=len(positives))
        ap = np.full(len(positives), np.nan)
        np.divide(total, positives, out=ap, where=defined)
        level = defined & (feature < 0)
        auroc[level], ap[level] = 0.5, positives[level] / len(self.genes)
        return auroc, ap


class HeldOutGenes:
    """The counts of validation and test, laid out for the choice and the score by gene folds.

    Parameters
    ----------
    validation, test
        Counts (genes × features × thresholds) and tokens to choose and to score on.
    fold
        (genes,) fold of each gene, −1 for none, from :func:`folds_of`.
    validation_sums, test_sums
        (genes × features) sums of activation, or None: then AUROC and AP are NaN.
    """

    def __init__(
        self,
        validation: Split,
        test: Split,
        fold: np.ndarray,
        validation_sums: np.ndarray | None = None,
        test_sums: np.ndarray | None = None,
    ) -> None:
        self.fold, self.n_folds = fold, int(fold.max(initial=-1)) + 1
        self.genes = [np.flatnonzero(fold == h) for h in range(self.n_folds)]
        self.n_thresholds = validation.total.shape[1]
        self.validation_tokens = validation.tokens.astype(np.float64)
        self._lay_out(validation)
        self.test = test
        flat = test.fired.reshape(len(fold), -1)
        self.fires = np.stack([flat[genes].sum(axis=0, dtype=np.int64) for genes in self.genes])
        self.ranked = self.training_ranks = None
        if validation_sums is not None and test_sums is not None:
            self._rank(validation, test, validation_sums, test_sums)

    def _lay_out(self, validation: Split) -> None:
        largest = int(validation.total.max(initial=0)) + int(validation.tokens.sum())
        self.dtype = np.float32 if largest < EXACT_FLOAT32 else np.float64
        live = np.flatnonzero(validation.total.max(axis=1, initial=0) > 0)
        size = max(1, CHUNK_COLUMNS // self.n_thresholds)
        self._chunks = []
        for features in (live[i : i + size] for i in range(0, len(live), size)):
            counts = validation.fired[:, features].reshape(len(self.fold), -1).astype(self.dtype)
            parts = [counts[genes] for genes in self.genes]
            total = np.stack([part.sum(axis=0) for part in parts])
            self._chunks.append((features, parts, total))

    def _rank(self, validation: Split, test: Split, chosen_on: np.ndarray, scored_on: np.ndarray) -> None:
        from scipy.stats import rankdata

        self.ranked, self.training_ranks = [], []
        seen = test.tokens > 0
        for h, genes in enumerate(self.genes):
            genes = genes[seen[genes]]
            self.ranked.append(RankedGenes(genes, scored_on[genes] / test.tokens[genes, None]))
            others = np.flatnonzero((self.fold >= 0) & (self.fold != h) & (validation.tokens > 0))
            means = chosen_on[others] / validation.tokens[others, None]
            self.training_ranks.append((others, rankdata(means, axis=0).astype(np.float32)))

    def choose(self, members: csr_matrix) -> np.ndarray:
        """Return the column of the largest validation F1 without each fold's genes, (terms × folds).

        Of equal values the first feature, then the lowest threshold; −1 where the largest F1 is 0.
        """
        n = members.shape[0]
        members = members.astype(self.dtype, copy=False)
        parts = [members[:, genes].tocsr() for genes in self.genes]
        tokens = [self.validation_tokens[genes].astype(self.dtype) for genes in self.genes]
        positives = np.stack([part @ weight for part, weight in zip(parts, tokens, strict=True)])
        # Without positives TP is 0, so any other denominator gives F1 0 instead of 0 / 0.
        others = np.maximum(positives.sum(axis=0) - positives, 1).astype(self.dtype)
        best = np.zeros((n, self.n_folds), self.dtype)
        column = np.full((n, self.n_folds), -1, np.int64)
        rows = np.arange(n)
        for features, counts, total in self._chunks:
            tp = [true_positives(part, count) for part, count in zip(parts, counts, strict=True)]
            every, fires = sum(tp), total.sum(axis=0)
            for h in range(self.n_folds):
                half = np.subtract(every, tp[h], out=tp[h])
                half /= (fires - total[h])[None, :] + others[h][:, None]
                chosen = half.argmax(axis=1)
                value = half[rows, chosen]
                better = value > best[:, h]
                feature, level = np.divmod(chosen[better], self.n_thresholds)
                column[better, h] = features[feature] * self.n_thresholds + level
                best[better, h] = value[better]
        return column

    def choose_by_rank(self, members: csr_matrix) -> np.ndarray:
        """Return the feature of the largest AUROC over the other folds' genes, (terms × folds)."""
        result = np.zeros((members.shape[0], self.n_folds), np.int64)
        for h, (genes, rank) in enumerate(self.training_ranks):
            # The sum of ranks of a term's genes orders features as their AUROC does.
            result[:, h] = (members[:, genes].astype(np.float32) @ rank).argmax(axis=1)
        return result

    def score(self, members: csr_matrix) -> GeneScores:
        """Choose without each fold and score on it, for every row of ``members`` (terms × genes)."""
        column = self.choose(members)
        counts = self.counts(members, column)
        tp, fires, positives = (part.sum(axis=1) for part in counts)
        n = members.shape[0]
        nothing = np.full((n, self.n_folds), np.nan)
        auroc, ap, by_rank = nothing, nothing.copy(), nothing.copy()
        ranked = np.full((n, self.n_folds), -1, np.int64)
        if self.ranked is not None:
            ranked = self.choose_by_rank(members)
            for h, genes in enumerate(self.ranked):
                feature = np.where(column[:, h] >= 0, column[:, h] // self.n_thresholds, -1)
                auroc[:, h], ap[:, h] = genes.auroc_and_ap(members, feature)
                by_rank[:, h], _ = genes.auroc_and_ap(members, ranked[:, h])
        return GeneScores(
            tp,
            fires - tp,
            positives - tp,
            np.where(positives > 0, ratio(2 * tp, fires + positives), np.nan),
            mean_of_defined(auroc),
            mean_of_defined(ap),
            mean_of_defined(by_rank),
            (~np.isnan(auroc)).sum(axis=1),
            column,
            ranked,
        )

    def counts(self, members: csr_matrix, column: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return TP, tokens that fire, and positives on each fold's test tokens, int64 (terms × folds)."""
        n = members.shape[0]
        tp, fires, positives = (np.zeros((n, self.n_folds), np.int64) for _ in range(3))
        flat = self.test.fired.reshape(len(self.fold), -1)
        term, gene = np.repeat(np.arange(n), np.diff(members.indptr)), members.indices
        fold = self.fold[gene]
        for h in range(self.n_folds):
            here = fold == h
            place, of_term = gene[here], term[here]
            chosen = column[of_term, h]
            hits = np.where(chosen >= 0, flat[place, chosen], 0)
            tp[:, h] = np.bincount(of_term, weights=hits, minlength=n)
            positives[:, h] = np.bincount(of_term, weights=self.test.tokens[place], minlength=n)
            fires[:, h] = np.where(column[:, h] >= 0, self.fires[h, column[:, h]], 0)
        return tp, fires, positives


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row over its entries that are not NaN; NaN where there is none."""
    n = (~np.isnan(values)).sum(axis=1)
    return ratio(np.nansum(values, axis=1), n)
