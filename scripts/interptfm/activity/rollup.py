"""Activity that climbs the ontology's graph by term ids, where annotation has not climbed it already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm.activity.channels import ancestors, parents_of


def descendants(terms: pd.DataFrame, dag: pd.DataFrame, hops: int) -> dict[tuple[int, int], int]:
    """Return (ancestor, descendant) → fewest steps between them, from 1 to ``hops``, as rows of ``terms``.

    Parameters
    ----------
    terms
        ``term_id`` and ``members``: all ids of the class of terms with the same genes; a step from or to any
        of them is one of the class. Terms on the way need not be among ``terms``.
    dag
        ``child``, ``parent``, ``relation``; ``is_a`` and ``part_of`` count.
    """
    parents = parents_of(dag)
    ids = [[str(t), *map(str, m)] for t, m in zip(terms["term_id"], terms["members"], strict=True)]
    row = {one: i for i, group in enumerate(ids) for one in group}
    steps: dict[tuple[int, int], int] = {}
    for below, group in enumerate(ids):
        for one, distance in ancestors(group, parents, hops).items():
            above = row.get(one)
            if above is not None and above != below:
                steps[above, below] = min(distance, steps.get((above, below), distance))
    return steps


def unpropagated(
    steps: Mapping[tuple[int, int], int], propagated: Sequence[bool], membership: sparse.spmatrix
) -> np.ndarray:
    """Return which terms (bool) lack genes of terms below them.

    ``propagated`` says of which terms the ontology stage has inherited genes; such a term is done, even if a
    negated annotation holds a gene back. Of the others one is unpropagated if a term below it has a gene that
    it has not. ``membership`` is (genes × terms) bool.
    """
    members = sparse.csc_matrix(membership, dtype=bool)
    genes = [set(members.indices[a:b]) for a, b in zip(members.indptr[:-1], members.indptr[1:], strict=True)]
    lacking = np.zeros(len(genes), dtype=bool)
    for above, below in steps:
        lacking[above] |= not genes[below] <= genes[above]
    return lacking & ~np.asarray(propagated, dtype=bool)


def roll_up(
    scores: np.ndarray, steps: Mapping[tuple[int, int], int], touched: np.ndarray, alpha: float
) -> np.ndarray:
    """Return scores (cells × terms) where each touched term gains α^hops × the score of each term below it.

    A term below is counted once, over its shortest way, with the score that it has before any rolling up.
    """
    pairs = [(below, above, alpha**hops) for (above, below), hops in steps.items() if touched[above]]
    n = scores.shape[1]
    if not pairs:
        return scores.copy()
    below, above, factor = (np.array(column) for column in zip(*pairs, strict=True))
    return scores + scores @ sparse.csr_matrix((factor, (below, above)), shape=(n, n))
