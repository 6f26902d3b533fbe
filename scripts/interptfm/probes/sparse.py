"""Sparse probes: how many dictionary features it takes to tell a concept's genes from all others.

A label depends on the gene alone, so the observations are genes: the mean of each feature over a gene's
tokens. The L1 path (lasso, Tibshirani 1996; coordinate descent) of the label on standardised means of
training cells gives the best few features of each size. Genes are split into the folds that the probes and
the alignment use; a fold's genes are scored by their means on test cells. How many features a term needs is
decided without them: the smallest size whose AUROC, over genes of the other folds held out in turn and on
validation cells, is within one standard error of the best (Breiman et al. 1984).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interptfm import job
from interptfm.alignment.genes import MIN_POSITIVES, folds_of
from interptfm.alignment.null import permuted, strata_of
from interptfm.errors import InputError
from interptfm.probes.fitting import LABELS, STRATA
from interptfm.probes.logistic import areas
from interptfm.probes.statistics import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from interptfm.features.firing import Firing

# Where no feature is chosen, over the penalty: in small steps first, where one feature enters after another.
STEPS = np.concatenate([1.002 * 1.05 ** np.arange(8), 1.41 * 1.2 ** np.arange(1, 15)])
MAX_ITERATIONS = 300


@dataclass
class Sparse:
    """``terms``: a row a (term, label); ``path``: a row a (term, label, number of features)."""

    terms: pd.DataFrame
    path: pd.DataFrame


def sizes_up_to(most: int) -> list[int]:
    """Return 1, 2, 4 … and ``most``."""
    powers = [2**k for k in range(most.bit_length()) if 2**k <= most]
    return powers if powers[-1] == most else [*powers, most]


class Means:
    """Mean code of every feature over the tokens of a gene, by split: float64 (genes × features)."""

    def __init__(self, firing: Firing) -> None:
        if firing.sums is None:
            raise InputError("features: found no sums of codes, expected those that rule encode writes")
        self.tokens = firing.tokens
        some = np.maximum(self.tokens, 1)[:, :, None]
        self.of_split = firing.sums / some

    def observed(self, split: int) -> np.ndarray:
        """Return which genes have tokens in a split, bool (genes,)."""
        return self.tokens[split] > 0


def l1_path(x: np.ndarray, gram: np.ndarray, label: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return coefficients (sizes × features) of the lasso's path at the end of each size.

    Parameters
    ----------
    x
        (genes × features), standardised columns; ``gram`` is xᵀ x.
    label
        (genes,) 0 or 1.
    sizes
        Rising numbers of non-zero coefficients. The weakest penalty that leaves at most so many is taken, of
        penalties that fall by a factor of 1.05, then 1.2; where the second feature enters right behind the
        first, the size of one is the first alone.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lasso_path

    centred = label - label.mean()
    inner = x.T @ centred
    largest = float(np.abs(inner).max(initial=0)) / len(x)
    result = np.zeros((len(sizes), x.shape[1]))
    if largest <= 0:
        return result
    with warnings.catch_warnings():
        # Coefficients a thousandth from the optimum order genes as those at it do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        parts: list[np.ndarray] = []
        for ratios in np.array_split(STEPS, 3):
            _, found, _ = lasso_path(
                x, centred, alphas=largest / ratios, precompute=gram, Xy=inner, tol=1e-3,
                max_iter=MAX_ITERATIONS, coef_init=parts[-1][:, -1].copy() if parts else None,
                check_input=False,
            )  # fmt: skip
            parts.append(found)
            # Weak penalties take most of the time, and are not needed once the longest size is passed.
            if (found[:, -1] != 0).sum() > sizes[-1]:
                break
    coefficients = np.concatenate(parts, axis=1)
    first = np.abs(inner).argmax()
    active = np.maximum.accumulate((coefficients != 0).sum(axis=0))
    for i, size in enumerate(sizes):
        fitting = np.flatnonzero((active <= size) & (active > 0))
        if len(fitting):
            result[i] = coefficients[:, fitting[-1]]
        else:
            result[i, first] = np.sign(inner[first])
    return result


def fit_without(
    means: Means, members: np.ndarray, fold: np.ndarray, held_out: Sequence[int], sizes: Sequence[int]
) -> np.ndarray:
    """Return coefficients for means as they are, (sizes × features × terms), fitted without some folds."""
    genes = np.flatnonzero((fold >= 0) & ~np.isin(fold, held_out) & means.observed(TRAIN))
    x = means.of_split[TRAIN][genes]
    spread = x.std(axis=0)
    # A feature of one gene tells nothing of others; there are many, and those of one gene are all alike.
    live = (x > 0).sum(axis=0) >= MIN_POSITIVES
    standardised = np.asfortranarray((x[:, live] - x[:, live].mean(axis=0)) / spread[live])
    gram = standardised.T @ standardised
    result = np.zeros((len(sizes), x.shape[1], len(members)))
    for term, label in enumerate(members[:, genes]):
        if MIN_POSITIVES <= label.sum() < len(genes):
            found = l1_path(standardised, gram, label.astype(float), sizes)
            result[:, live, term] = found / spread[live]
    return result


def score_on(
    means: Means, members: np.ndarray, fold: np.ndarray, held: int, split: int, coefficients: np.ndarray
) -> np.ndarray:
    """Return AUROC (sizes × terms) over one fold's genes; NaN with fewer than 2 genes of a term there."""
    genes = np.flatnonzero((fold == held) & means.observed(split))
    label = members[:, genes].T > 0
    x = means.of_split[split][genes]
    found = np.stack([areas(x @ one, label) for one in coefficients])
    found[:, label.sum(axis=0) < MIN_POSITIVES] = np.nan
    return found


def one_standard_error(score: np.ndarray) -> np.ndarray:
    """Return the place of the smallest size within one standard error of the best, (terms,).

    ``score`` is (folds × sizes × terms), NaN where a fold has none.
    """
    n = (~np.isnan(score)).sum(axis=0)
    mean = np.nansum(score, axis=0) / np.maximum(n, 1)
    squares = np.nansum((score - mean) ** 2, axis=0)
    error = np.sqrt(squares / np.maximum(n - 1, 1) / np.maximum(n, 1))
    best = mean.argmax(axis=0)
    terms = np.arange(score.shape[2])
    return (mean >= mean[best, terms] - error[best, terms]).argmax(axis=0)


def sparse_probes(
    firing: Firing,
    members: csr_matrix,
    term_ids: Sequence[str],
    *,
    max_features: int,
    gene_folds: int,
    min_genes: int,
    seed: int,
) -> Sparse:
    """Return how many features each term needs, beside the same with membership permuted over genes.

    Parameters
    ----------
    firing
        With sums of codes (splits × genes × features).
    members
        float CSR (terms × the genes of ``firing``).
    max_features
        Longest path.
    min_genes
        Terms with fewer genes that have tokens are left out.
    seed
        The configured seed; folds and permutation are those of the probes.

    Returns
    -------
    ``terms``: ``term_id``, ``label``, ``n_genes``, ``n_features`` (median over folds of the size chosen
    without the fold), ``auroc`` (held-out genes at that size, mean over ``n_folds`` folds), ``auroc_1`` (at
    most one feature).
    ``path``: ``term_id``, ``label``, ``n_features``, ``auroc_validation`` and ``auroc`` at each size.

    Raises
    ------
    InputError
        If there are no sums, or no term has enough genes.
    """
    tokens = firing.tokens.sum(axis=0)
    fold = folds_of(tokens, gene_folds, job.generator(seed, "gene folds"))
    control = permuted(members, strata_of(tokens, STRATA), job.generator(seed, "probes", "permutation"))
    n_genes = np.asarray(members @ (fold >= 0).astype(float)).astype(int)
    kept = np.flatnonzero(n_genes >= min_genes)
    if not len(kept):
        raise InputError(
            f"probes.min_genes: found no term with {min_genes} genes, expected at least one; the largest has "
            f"{n_genes.max(initial=0)}"
        )
    stacked = np.concatenate([members[kept].toarray(), control[kept].toarray()])
    means, sizes = Means(firing), sizes_up_to(max_features)
    n_folds = int(fold.max()) + 1
    inner = np.full((n_folds, n_folds, len(sizes), len(stacked)), np.nan)
    pairs = list(combinations(range(n_folds), 2))
    for f, g in job.progress(pairs, "sparse probes, pairs of folds"):
        found = fit_without(means, stacked, fold, (f, g), sizes)
        inner[f, g] = score_on(means, stacked, fold, g, VALIDATION, found)
        inner[g, f] = score_on(means, stacked, fold, f, VALIDATION, found)
    outer = np.stack(
        [
            score_on(means, stacked, fold, f, TEST, fit_without(means, stacked, fold, (f,), sizes))
            for f in range(n_folds)
        ]
    )
    chosen = np.stack([one_standard_error(inner[f]) for f in range(n_folds)])
    terms = np.arange(len(stacked))
    at_chosen = np.stack([outer[f, chosen[f], terms] for f in range(n_folds)])
    ids = np.tile(np.asarray(term_ids, object)[kept], 2)
    labels = np.repeat(LABELS, len(kept))
    table = pd.DataFrame(
        {
            "term_id": ids,
            "label": labels,
            "n_genes": np.tile(n_genes[kept], 2),
            "n_features": np.median(np.asarray(sizes)[chosen], axis=0),
            "auroc": _mean(at_chosen),
            "auroc_1": _mean(outer[:, 0]),
            "n_folds": (~np.isnan(at_chosen)).sum(axis=0),
        }
    )
    path = pd.DataFrame(
        {
            "term_id": np.tile(ids, len(sizes)),
            "label": np.tile(labels, len(sizes)),
            "n_features": np.repeat(sizes, len(stacked)),
            "auroc_validation": _mean(inner.reshape(n_folds**2, len(sizes), -1)).ravel(),
            "auroc": _mean(outer).ravel(),
        }
    )
    return Sparse(table, path)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis without NaN; NaN where nothing is left."""
    n = (~np.isnan(values)).sum(axis=0)
    return np.divide(np.nansum(values, axis=0), n, out=np.full(n.shape, np.nan), where=n > 0)
