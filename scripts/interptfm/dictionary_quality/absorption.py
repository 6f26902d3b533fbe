"""Absorption: a general concept's feature that falls silent where a special concept's feature fires.

Chanin et al. 2024 describe it for first letters of words. Here the parent–child pairs are the ontology's:
for a child term and its parent with different interpretable features, tokens of the child's genes (which
are the parent's, too) on which the child's feature fires should make the parent's fire as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

COLUMNS = (
    "child", "parent", "relation", "child_name", "parent_name", "child_feature", "parent_feature",
    "tokens", "child_fires", "parent_silent", "silent_rate", "silent_rate_elsewhere", "excess",
)  # fmt: skip


def pairs_of(dag: pd.DataFrame, interpretable: pd.DataFrame, terms: pd.DataFrame) -> pd.DataFrame:
    """Return the edges whose two terms have interpretable features, and different ones.

    ``dag`` (child, parent, relation), ``interpretable`` (feature, term_id, f1), ``terms`` (term_id, name).
    A term with several features has that of the largest F1. Columns: the first seven of :data:`COLUMNS`.
    """
    best = interpretable.sort_values(["f1", "feature"], ascending=[False, True])
    feature = best.drop_duplicates("term_id").set_index("term_id")["feature"]
    name = terms.set_index("term_id")["name"]
    found = dag[dag["child"].isin(feature.index) & dag["parent"].isin(feature.index)]
    found = found[["child", "parent", "relation"]].reset_index(drop=True)
    for end in ("child", "parent"):
        found[f"{end}_name"] = found[end].map(name)
    for end in ("child", "parent"):
        found[f"{end}_feature"] = found[end].map(feature).astype(np.int64)
    return found[found["child_feature"] != found["parent_feature"]].reset_index(drop=True)


def absorption(
    pairs: pd.DataFrame, child_genes: np.ndarray, blocks: Iterable[tuple[np.ndarray, csr_matrix]]
) -> pd.DataFrame:
    """Count silence of the parents' features.

    Parameters
    ----------
    pairs
        From :func:`pairs_of`.
    child_genes
        bool (pairs × genes): the panel's genes of each child term.
    blocks
        (gene (n,) panel index, code CSR (n × features)) of held-out tokens.

    Returns
    -------
    DataFrame
        ``pairs`` with ``tokens`` of the child's genes; ``child_fires``: those with the child's feature;
        ``parent_silent``: of these, those without the parent's; ``silent_rate`` = parent_silent /
        child_fires; ``silent_rate_elsewhere``: the same over tokens of the child's genes on which the
        child's feature is silent; ``excess`` = their difference. Absorption makes the excess positive;
        a parent's feature that is merely rare has a high rate in both.
    """
    counts = np.zeros((4, len(pairs)), np.int64)
    children, parents = (pairs[f"{end}_feature"].to_numpy() for end in ("child", "parent"))
    for gene, code in blocks:
        columns = (code > 0).tocsc()
        # (tokens × pairs), a block at a time
        child, parent = columns[:, children].toarray(), columns[:, parents].toarray()
        inside = child_genes[:, gene].T
        counts[0] += inside.sum(0)
        counts[1] += (inside & child).sum(0)
        counts[2] += (inside & child & ~parent).sum(0)
        counts[3] += (inside & ~child & ~parent).sum(0)
    tokens, fires, silent, elsewhere = counts
    with np.errstate(invalid="ignore", divide="ignore"):
        rate, other = silent / fires, elsewhere / (tokens - fires)
    result = pairs.assign(
        tokens=tokens,
        child_fires=fires,
        parent_silent=silent,
        silent_rate=rate,
        silent_rate_elsewhere=other,
        excess=rate - other,
    )
    return result[list(COLUMNS)]
