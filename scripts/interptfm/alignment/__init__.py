"""Alignment of features with concepts: best F1 on held-out blocks beside its null and its baseline.

For every concept the (feature, threshold) with the largest F1 on validation is reported on test at
that same threshold (as in InterPLM, Simon & Zou 2024). Beside it stand the best detector of a single
gene, chosen in the same way, and the same selection repeated under permuted membership: with many
features best F1 is high by chance, so only the excess over that null says something. ``genes`` asks the
same of genes that had no part in the choice, and ``intervals`` gives the uncertainty over blocks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm.alignment.null import null_distribution, strata_of
from interptfm.alignment.selection import Search, read_membership, reindex, true_positives
from interptfm.alignment.summary import summary_of
from interptfm.alignment.tables import Data, concepts_table, features_table, pairs_table, term_groups
from interptfm.errors import InputError
from interptfm.features.firing import Firing
from interptfm.features.tokens import SPLITS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Alignment", "Selection", "align", "read_membership", "reindex", "true_positives"]

LEVEL = 0.05  # of significance, where interpretable features need not be significant

log = logging.getLogger("interptfm.alignment")


@dataclass
class Selection:
    """What was chosen, for the second pass over the tokens (:mod:`interptfm.alignment.intervals`).

    ``members`` float CSR (terms × panel genes); ``term``, ``column`` (pairs,) of the rows of ``pairs``;
    ``shares`` (features × thresholds) thresholds as shares of the maximum; ``fold`` (genes,);
    ``held_out_terms`` (n,), their ``held_out_column`` (n × folds), and the feature that AUROC chose,
    ``held_out_ranked`` (n × folds).
    """

    members: csr_matrix
    term: np.ndarray
    column: np.ndarray
    shares: np.ndarray
    fold: np.ndarray
    held_out_terms: np.ndarray
    held_out_column: np.ndarray
    held_out_ranked: np.ndarray


@dataclass
class Alignment:
    """The tables of one representation of one layer (columns: README and :func:`align`)."""

    pairs: pd.DataFrame
    concepts: pd.DataFrame
    features: pd.DataFrame
    interpretable: pd.DataFrame
    null: pd.DataFrame
    summary: dict[str, Any]
    selection: Selection


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
    fold_generator: np.random.Generator | None = None,
    gene_folds: int = 5,
    gene_min_genes: int = 10,
    threshold_from: str = "validation",
    min_positive_tokens: int = 0,
    min_f1: float | None = None,
    stable: pd.DataFrame | None = None,
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
    max_q, min_lift, min_f1
        A concept's best feature is interpretable where q < max_q (1: any q) and lift > min_lift and,
        unless it is None, F1 > min_f1.
    generator
        Draws the permutations.
    fold_generator
        Draws the gene folds: the same for all representations, so that they are compared over the same
        folds. None: ``generator`` does.
    gene_folds, gene_min_genes
        Folds of the gene-held-out evaluation, and the fewest genes with tokens of a term in it.
    threshold_from
        ``validation``; or ``test``, as in the published notebooks: the feature is chosen on validation,
        its threshold once more on test (so are those of the null), which flatters.
    min_positive_tokens
        Terms with fewer positive tokens over all splits are not scored.
    stable
        ``feature`` and ``stable`` (bool) of features compared over seeds: those that are not stable are
        not interpretable. None where nothing was compared.

    Returns
    -------
    ``concepts``: a row a term, its best column with its test scores. A term without positives on
    validation or test is not scored (NaN). ``p`` is (1 + k) / (1 + pooled nulls) from nulls
    standardised per term and pooled over terms of similar gene number, ``p_min`` its smallest
    possible value; ``p_own`` is (1 + k) / (1 + n) from the term's own null alone; ``q`` is
    Benjamini–Hochberg over the scored terms. ``null_mean`` is the expected maximum over all features
    and thresholds under permuted membership, so ``excess`` compares representations of any size.
    ``gene_*``: the scores on held-out genes (:mod:`interptfm.alignment.genes`) of terms with enough
    genes, with null mean, excess, p and q of each. ``features``: a row a feature, its best term.
    ``pairs``: the 10 best features of every term by validation F1, and every feature's best term. Of
    both, ``excess``, ``p`` and ``q`` are against what the best of all features reaches for the term.
    ``interpretable``: see ``max_q``; ``stable`` is missing where seeds were not compared. ``null``:
    mean best F1 of each permutation, and of the gene-held-out measures.

    Raises
    ------
    InputError
        On an empty ontology, genes or terms that do not fit, a split without tokens, no term
        with positives on both splits, or an unknown ``threshold_from``.
    """
    if permutations < 3:
        raise InputError(f"alignment.permutations: found {permutations}, expected at least 3")
    if threshold_from not in ("validation", "test"):
        raise InputError(f"alignment.threshold_from: found {threshold_from!r}, expected validation or test")
    if len(terms) != membership.shape[1]:
        raise InputError(
            f"terms: found {len(terms)} rows, expected {membership.shape[1]}, one a column of the membership"
        )
    members = reindex(membership, genes, firing.genes)
    for split in ("validation", "test"):
        if not firing.tokens[SPLITS.index(split)].sum():
            raise InputError(f"firing counts: found no {split} token, expected at least one")
    data = Data(firing, members, terms, min_positive_tokens)
    if not data.scored.any():
        raise InputError("terms: found none with tokens on validation and test, expected at least one")
    data.hold_out(gene_folds, gene_min_genes, fold_generator or generator.spawn(1)[0])

    f1, threshold = data.search.by_feature(members)
    f1[~data.scored] = 0
    rechoose = threshold_from == "test"
    if rechoose:
        threshold = Search(data.test).by_feature(members)[1]
    strata_list = strata_of(firing.tokens.sum(axis=0), strata)
    null = null_distribution(
        data.search,
        data.test,
        members,
        strata_list,
        permutations,
        generator,
        data.held_out,
        data.held_out_terms,
        rechoose,
    )
    level = max_q if max_q < 1 else LEVEL
    concepts = concepts_table(data, f1, threshold, null, level)
    groups = term_groups(data, permutations, level)
    features = features_table(data, f1, threshold, concepts, null, groups)
    pairs, term, column = pairs_table(data, f1, threshold, concepts, null, groups)
    frame = pd.DataFrame(
        {
            "permutation": np.arange(permutations, dtype=np.int32),
            "mean_f1": null.test[:, data.scored].mean(axis=1),
            "mean_f1_validation": null.validation[:, data.scored].mean(axis=1),
        }
    )
    for name, draws in null.genes.items():
        frame[f"gene_{name}"] = draws.mean(axis=1) if draws.shape[1] else np.nan
    interpretable = _interpretable(concepts, max_q, min_lift, min_f1, stable)
    shares = firing.share(*np.indices(firing.counts.shape[2:]).reshape(2, -1))
    selection = Selection(
        members,
        term,
        column,
        shares.reshape(firing.counts.shape[2:]),
        data.held_out.fold,
        data.held_out_terms,
        data.gene_scores.column,
        data.gene_scores.ranked,
    )
    settings = {"max_q": level, "threshold_from": threshold_from, "min_positive_tokens": min_positive_tokens}
    settings |= {"n_strata": len(strata_list), "gene_min_genes": gene_min_genes}
    summary = summary_of(data, concepts, features, interpretable, frame, settings)
    return Alignment(pairs, concepts, features, interpretable, frame, summary, selection)


def _interpretable(
    concepts: pd.DataFrame,
    max_q: float,
    min_lift: float,
    min_f1: float | None,
    stable: pd.DataFrame | None,
) -> pd.DataFrame:
    keep = (concepts["lift"] > min_lift) & concepts["feature"].notna()
    if max_q < 1:  # a q of 1 is found, too: then nothing is asked of it
        keep &= concepts["q"] < max_q
    if min_f1 is not None:
        keep &= concepts["f1"] > min_f1
    chosen = concepts.loc[keep, ["feature", "term_id", "f1", "lift", "p", "q"]]
    chosen = chosen.astype({"feature": np.int64})
    chosen = chosen.sort_values(["feature", "term_id"], ignore_index=True)
    if stable is None:
        chosen["stable"] = pd.array([pd.NA] * len(chosen), "boolean")
        return chosen
    known = dict(zip(stable["feature"], stable["stable"].astype(bool), strict=True))
    unknown = sorted(set(chosen["feature"]) - set(known))
    if unknown:
        raise InputError(
            f"stability: found no feature {unknown[0]}, expected every feature of the dictionary"
        )
    chosen["stable"] = pd.array(chosen["feature"].map(known), "boolean")
    return chosen[chosen["stable"].astype(bool)].reset_index(drop=True)
