"""Which channel edges of crosstalk have ligand–receptor support, and which are novel.

An edge is supported where a system finds an interaction between its two groups significant that belongs to
the channel: ligand or receptor is a gene of one of the channel's concepts. Shuffled labels make interactions
of markers significant nearly everywhere: how often edges that crosstalk does *not* find have support stands
beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse, stats

from interptfm.comparators import communication
from interptfm.crosstalk import analysis, direction

OF_LEVEL = {analysis.TYPES: communication.TYPES, analysis.COMPARTMENTS: communication.PLACES}
OWN, OTHER, NONE, UNTESTED = "of the channel", "other interactions", "none", "not testable"
SUPPORTED, NOVEL = "supported", "novel"
COLUMNS = (
    "level", "system", "source", "target", "channel", "n_edges", "log2_ratio", "q", "significant", "n_tested",
    "n_significant", "n_channel_tested", "n_channel_significant", "best", "best_p", "best_q", "support",
    "verdict",
)  # fmt: skip
EDGE = ("level", "source", "target", "channel")
SUMMARY = (
    "level", "system", "n_significant", "n_supported", "n_novel", "n_not_testable", "share_significant",
    "n_others", "share_others", "odds_ratio", "p",
)  # fmt: skip


def channel_genes(
    concepts: pd.DataFrame, terms: Sequence[str], membership: sparse.csr_matrix, genes: Sequence[str]
) -> dict[str, set[str]]:
    """Return channel → genes of its concepts.

    Parameters
    ----------
    concepts
        ``activity/concepts.parquet``; those that are used count.
    terms, membership, genes
        Columns, matrix (genes × terms) and rows of ``concepts/membership.npz``.
    """
    at = {term: i for i, term in enumerate(terms)}
    columns = sparse.csc_matrix(membership)
    found: dict[str, set[str]] = {}
    for term, channel in concepts.loc[concepts["used"].astype(bool), ["term_id", "channel"]].itertuples(
        index=False
    ):
        rows = columns.indices[columns.indptr[at[term]] : columns.indptr[at[term] + 1]]
        found.setdefault(str(channel), set()).update(genes[row] for row in rows)
    return found


def compare(
    pairs: pd.DataFrame, found: pd.DataFrame, genes: dict[str, set[str]], max_q: float, system_max_q: float
) -> pd.DataFrame:
    """Look up every tested channel edge in the tables of the systems.

    Parameters
    ----------
    pairs
        ``crosstalk/pairs.parquet``.
    found
        Interactions tested by the systems (``communication.COLUMNS``), of all methods.
    genes
        Of :func:`channel_genes`.
    max_q, system_max_q
        An edge, and an interaction, are significant below these.

    Returns
    -------
    :data:`COLUMNS`, one row an edge and method. An edge whose direction is established counts interactions
    that run this way, any other those of both.
    """
    edges = pairs[pairs["level"].isin(OF_LEVEL) & pairs["p"].notna()]
    rows: list[dict[str, Any]] = []
    sides = [
        frozenset((*communication.members(ligand), *communication.members(receptor)))
        for ligand, receptor in zip(found["ligand"], found["receptor"], strict=True)
    ]
    found = found.assign(genes=sides)
    between = {key: part for key, part in found.groupby(["level", "method", "source", "target"], sort=False)}
    for system in dict.fromkeys(found["method"]):
        for edge in edges.itertuples():
            level = OF_LEVEL[edge.level]
            ways = [(edge.source, edge.target), (edge.target, edge.source)]
            if edge.direction in (direction.FORWARD, direction.BACKWARD):
                ways = ways[:1] if edge.direction == direction.FORWARD else ways[1:]
            tested = [
                between[level, system, *way]
                for way in dict.fromkeys(ways)
                if (level, system, *way) in between
            ]
            here = pd.concat(tested) if tested else found.iloc[:0]
            own = genes.get(edge.channel, set())
            mine = here.loc[np.array([bool(side & own) for side in here["genes"]], dtype=bool)]
            rows.append(_row(edge, system, here, mine, max_q, system_max_q))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(
    edge: Any, system: str, here: pd.DataFrame, mine: pd.DataFrame, max_q: float, system_max_q: float
) -> dict[str, Any]:
    n, own = int((here["q"] < system_max_q).sum()), int((mine["q"] < system_max_q).sum())
    support = OWN if own else OTHER if n else NONE if len(mine) else UNTESTED
    significant = bool(edge.q < max_q)
    verdict = ""
    if significant:
        verdict = UNTESTED if not len(mine) else SUPPORTED if own else NOVEL
    best = mine.sort_values(["p", "ligand", "receptor"], kind="stable").iloc[0] if len(mine) else None
    arrow = (
        None if best is None else f"{best['source']}: {best['ligand']} → {best['target']}: {best['receptor']}"
    )
    return {
        "level": edge.level, "system": system, "source": edge.source, "target": edge.target,
        "channel": edge.channel, "n_edges": int(edge.n_edges), "log2_ratio": float(edge.log2_ratio),
        "q": float(edge.q), "significant": significant, "n_tested": len(here), "n_significant": n,
        "n_channel_tested": len(mine), "n_channel_significant": own, "best": arrow or "",
        "best_p": np.nan if best is None else float(best["p"]),
        "best_q": np.nan if best is None else float(best["q"]), "support": support, "verdict": verdict,
    }  # fmt: skip


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return per level and system whether significant edges have support more often than the others.

    Returns
    -------
    :data:`SUMMARY`: counts of verdicts; share of the significant edges, and of the others, that have support
    of their channel, among those that can be tested; odds ratio and one-sided p of Fisher's exact test, which
    takes edges for independent though they share groups. NaN where one of the two is empty.
    """
    rows = []
    for (level, system), part in table.groupby(["level", "system"], sort=False):
        testable = part[part["n_channel_tested"] > 0]
        supported = testable["n_channel_significant"] > 0
        claimed = testable["significant"].astype(bool)
        cells = [[int((claimed & supported).sum()), int((claimed & ~supported).sum())],
                 [int((~claimed & supported).sum()), int((~claimed & ~supported).sum())]]  # fmt: skip
        both = claimed.any() and (~claimed).any()
        test = stats.fisher_exact(cells, alternative="greater") if both else None
        rows.append(
            {
                "level": level, "system": system, "n_significant": int(part["significant"].sum()),
                "n_supported": int((part["verdict"] == SUPPORTED).sum()),
                "n_novel": int((part["verdict"] == NOVEL).sum()),
                "n_not_testable": int((part["verdict"] == UNTESTED).sum()),
                "share_significant": float(supported[claimed].mean()) if claimed.any() else np.nan,
                "n_others": int((~claimed).sum()),
                "share_others": float(supported[~claimed].mean()) if (~claimed).any() else np.nan,
                "odds_ratio": float(test.statistic) if test else np.nan,
                "p": float(test.pvalue) if test else np.nan,
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(SUMMARY))


def headline(summary: pd.DataFrame) -> str:
    """Return the counts of supported and novel edges of each system, in words."""
    parts = []
    for system, part in summary.groupby("system", sort=False):
        n, supported, novel = (int(part[c].sum()) for c in ("n_significant", "n_supported", "n_novel"))
        parts.append(f"{system}: {supported} of {n} significant channel edges supported, {novel} novel")
    return "; ".join(parts)


def empty() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the two tables where nothing could be compared: all columns, no row."""
    return pd.DataFrame(columns=list(COLUMNS)), pd.DataFrame(columns=list(SUMMARY))
