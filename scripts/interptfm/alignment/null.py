"""The null: membership with its genes permuted, and the whole selection repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interptfm import job
from interptfm.alignment.selection import Search, Split

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass
class Null:
    """Best F1 of every term under permuted membership, float64 (permutations × terms).

    ``test``: of the column chosen on validation, scored on test; ``validation``: of the same column
    on validation. A permuted term without test positives counts as 0.
    """

    test: np.ndarray
    validation: np.ndarray


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
    """
    shape = (permutations, members.shape[0])
    null = Null(np.zeros(shape), np.zeros(shape))
    terms = np.arange(members.shape[0])
    for i in job.progress(range(permutations), "permuted membership"):
        shuffled = permuted(members, strata, generator)
        null.validation[i], column = search.best(shuffled)
        null.test[i] = np.nan_to_num(test.score(shuffled, terms, column).f1)
    return null
