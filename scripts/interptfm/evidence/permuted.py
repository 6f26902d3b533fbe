"""Candidates where terms mean nothing, or nothing to their features: the two nulls of the chain.

Permuted membership: every draw is a world of its own. Its genes are exchanged within strata of token count,
each term's best feature is chosen on validation and scored on test as in :mod:`interptfm.alignment`, and
tested against all other draws. What is interpretable there is so by chance.

Exchanged terms: the interpretable pairs stay as many, but their terms change places. What passes there passes
because links of features and links of terms are each common, not because they come together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm import job, stats
from interptfm.alignment import LEVEL
from interptfm.alignment.null import best_threshold, permuted, strata_of
from interptfm.alignment.selection import best_single_gene
from interptfm.alignment.tables import Data
from interptfm.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from interptfm.features.firing import Firing

MIN_WORLDS = 20


def worlds(
    firing: Firing,
    members: csr_matrix,
    terms: pd.DataFrame,
    alignment: Mapping[str, Any],
    n: int,
    generator: np.random.Generator,
    stable: pd.DataFrame | None = None,
) -> list[pd.DataFrame]:
    """Return the candidates of ``n`` worlds with permuted membership.

    Parameters
    ----------
    firing, members, terms
        Firing counts; membership (terms × genes of the counts), float32; term_id and name.
    alignment
        Settings of alignment: strata, max_q, min_lift, min_f1, threshold_from, min_positive_tokens.
    n
        Worlds, at least 20.
    stable
        ``feature`` and ``stable``, where only stable features are interpretable.

    Returns
    -------
    One frame a world, a row a scored term with a feature: feature, term_id, name, f1, lift, p, q, aligned.
    p is pooled over terms of similar gene number from the other n − 1 worlds, q Benjamini–Hochberg over the
    scored terms, as alignment's are.

    Raises
    ------
    InputError
        With fewer than 20 worlds.
    """
    if n < MIN_WORLDS:
        raise InputError(f"evidence.permutations: found {n}, expected at least {MIN_WORLDS}")
    data = Data(firing, members, terms, alignment["min_positive_tokens"])
    strata = strata_of(firing.tokens.sum(axis=0), alignment["strata"])
    every = np.arange(members.shape[0])
    f1, column, single = (np.zeros((n, len(every)), kind) for kind in (float, np.int64, float))
    for i in job.progress(range(n), "worlds with permuted membership"):
        shuffled = permuted(members, strata, generator)
        _, column[i] = data.search.best(shuffled)
        if alignment["threshold_from"] == "test":
            column[i] = best_threshold(data.test, shuffled, column[i])
        f1[i] = np.nan_to_num(data.test.score(shuffled, every, column[i]).f1)
        single[i] = best_single_gene(shuffled, data.validation.tokens, data.test.tokens)[1]
    level = alignment["max_q"] if alignment["max_q"] < 1 else LEVEL
    scored = np.flatnonzero(data.scored)
    sizes = data.terms["n_genes"].to_numpy()[scored]
    groups = stats.similar_size_groups(sizes, n - 1, level)
    firm = set(stable.loc[stable["stable"].astype(bool), "feature"]) if stable is not None else None
    found = []
    for i in range(n):
        p, _ = stats.pooled_permutation_p(f1[i, scored], np.delete(f1[:, scored], i, axis=0), groups)
        frame = data.terms.iloc[scored][["term_id", "name"]].reset_index(drop=True)
        frame["feature"] = column[i, scored] // data.n_thresholds
        frame["f1"], frame["lift"] = f1[i, scored], f1[i, scored] - single[i, scored]
        frame["p"], frame["q"] = p, stats.benjamini_hochberg(p)
        keep = frame["lift"] > alignment["min_lift"]
        if alignment["max_q"] < 1:
            keep &= frame["q"] < alignment["max_q"]
        if alignment["min_f1"] is not None:
            keep &= frame["f1"] > alignment["min_f1"]
        if firm is not None:
            keep &= frame["feature"].isin(firm)
        found.append(frame.assign(aligned=keep)[column[i, scored] >= 0].reset_index(drop=True))
    return found


def exchanged(rows: pd.DataFrame, n: int, generator: np.random.Generator) -> list[pd.DataFrame]:
    """Return ``n`` copies of candidates with the terms of the aligned ones exchanged at random.

    Parameters
    ----------
    rows
        feature, term_id, name, aligned.

    Returns
    -------
    One frame a draw with the same columns; features, and which rows are aligned, stay.
    """
    aligned = np.flatnonzero(rows["aligned"].to_numpy(bool))
    columns = ["term_id", "name"]
    found = []
    for _ in range(n):
        order = np.arange(len(rows))
        order[aligned] = generator.permutation(aligned)
        found.append(rows.assign(**{name: rows[name].to_numpy()[order] for name in columns}))
    return found
