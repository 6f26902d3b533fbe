"""The null: membership with its genes permuted, and the whole selection repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interptfm import job
from interptfm.alignment.genes import METRICS, HeldOutGenes
from interptfm.alignment.selection import Search, Split

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


CHANCE = {"f1": 0.0, "auroc": 0.5, "ap": 0.0, "auroc_ranked": 0.5}


@dataclass
class Null:
    """Best F1 of every term under permuted membership, float64 (permutations × terms).

    ``test``: of the column chosen on validation, scored on test; ``validation``: of the same column
    on validation. A permuted term without test positives counts as 0. ``genes``: measure → its value
    on held-out genes (permutations × terms of the gene-held-out evaluation); a permuted term without a
    fold to be scored on counts as no better than chance (0 for F1 and AP, 0.5 for AUROC).
    """

    test: np.ndarray
    validation: np.ndarray
    genes: dict[str, np.ndarray]


def strata_of(tokens: np.ndarray, n: int) -> list[np.ndarray]:
    """Split the genes that have tokens into strata of similar token count (quantiles of rank).

    At most ``n``, and at least 2 genes in each; a gene without tokens is in none.

    Parameters
    ----------
    tokens
        (genes,) token count of each gene over all splits.

    Returns
    -------
    Gene indices of each stratum, rarest first.
    """
    seen = np.flatnonzero(tokens > 0)
    order = seen[np.argsort(tokens[seen], kind="stable")]
    return np.array_split(order, max(1, min(n, len(order) // 2)))


def permuted(members: csr_matrix, strata: list[np.ndarray], generator: np.random.Generator) -> csr_matrix:
    """Return ``members`` (terms × genes) with genes exchanged at random within strata.

    Terms keep their sizes and overlaps, genes their number of terms within the stratum.
    """
    target = np.arange(members.shape[1])
    for stratum in strata:
        target[stratum] = generator.permutation(stratum)
    return type(members)((members.data, target[members.indices], members.indptr), shape=members.shape)


def null_distribution(
    search: Search,
    test: Split,
    members: csr_matrix,
    strata: list[np.ndarray],
    permutations: int,
    generator: np.random.Generator,
    held_out: HeldOutGenes | None = None,
    held_out_terms: np.ndarray | None = None,
    rechoose: bool = False,
) -> Null:
    """Repeat the selection under permuted membership: best on validation, reported on test.

    Parameters
    ----------
    search, test
        Validation counts to choose on, test counts to score on.
    members
        (terms × genes) CSR.
    strata
        Genes are exchanged within these.
    held_out, held_out_terms
        The gene-held-out evaluation and the terms (indices) that it covers, repeated on the same
        permuted memberships.
    rechoose
        Choose the threshold again on test, as the observed membership's is.
    """
    shape = (permutations, members.shape[0])
    null = Null(np.zeros(shape), np.zeros(shape), {})
    if held_out is not None:
        null.genes = {name: np.zeros((permutations, len(held_out_terms))) for name in METRICS}
    terms = np.arange(members.shape[0])
    for i in job.progress(range(permutations), "permuted membership"):
        shuffled = permuted(members, strata, generator)
        null.validation[i], column = search.best(shuffled)
        if rechoose:
            column = best_threshold(test, shuffled, column)
        null.test[i] = np.nan_to_num(test.score(shuffled, terms, column).f1)
        if held_out is not None:
            scores = held_out.score(shuffled[held_out_terms])
            for name, values in null.genes.items():
                values[i] = np.nan_to_num(getattr(scores, name), nan=CHANCE[name])
    return null


def best_threshold(split: Split, members: csr_matrix, column: np.ndarray) -> np.ndarray:
    """Return the columns with each one's threshold replaced by its feature's best on ``split``."""
    n_thresholds = split.total.shape[1]
    terms, chosen = np.arange(members.shape[0]), column.copy()
    best = np.full(len(terms), -1.0)
    for level in range(n_thresholds):
        tried = np.where(column >= 0, column - column % n_thresholds + level, -1)
        f1 = np.nan_to_num(split.score(members, terms, tried).f1)
        chosen, best = np.where(f1 > best, tried, chosen), np.maximum(best, f1)
    return chosen
