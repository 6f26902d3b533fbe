"""How much passes each link, and each grade: of a chain, of a control arm, and by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interptfm.evidence import GRADES, LINKS
from interptfm.evidence.grading import Chain, grades, supported

COLUMNS = (
    "chain", "kind", "step", "status", "features", "lo", "hi", "rows", "alone_features", "alone_rows",
    "alone_lo", "alone_hi",
)  # fmt: skip
REAL, PERMUTED, EXCHANGED = "real", "permuted membership", "exchanged terms"
COUNTED = "counted"


def counts(chain: Chain, name: str, rules: Mapping[str, Any]) -> pd.DataFrame:
    """Return how many features and rows of a chain pass.

    Returns
    -------
    :data:`COLUMNS`, one row a step. ``kind`` size: the dictionary, features that fire, features that are the
    best of a term. ``kind`` link: ``features`` and ``rows`` pass alignment and all links up to this that
    the chain has; ``alone_*`` pass this link whatever the others; a link that the chain lacks has its reason
    as ``status`` and no number. ``kind`` grade: rows of this grade, and features with such a row.
    """
    rows = chain.rows
    found = [
        _row(name, "size", "features", chain.n_features),
        _row(name, "size", "firing", chain.n_firing),
        _row(name, "size", "best of a term", rows["feature"].nunique(), len(rows)),
    ]
    passed = rows["aligned"].to_numpy(bool)
    found.append(_passing(name, "alignment", rows, passed, passed))
    for link in LINKS:
        if link in chain.missing:
            found.append(_row(name, "link", link, status=chain.missing[link]))
            continue
        alone = supported(rows, link)
        passed = passed & alone
        found.append(_passing(name, link, rows, passed, alone))
    verdict = grades(rows, rules)
    for grade in GRADES:
        mine = (verdict == grade).to_numpy()
        found.append(_row(name, "grade", grade, rows.loc[mine, "feature"].nunique(), int(mine.sum())))
    return pd.DataFrame(found, columns=list(COLUMNS))


def average(tables: Sequence[pd.DataFrame], name: str) -> pd.DataFrame:
    """Return the mean of several worlds' :func:`counts`, with least and largest numbers of features."""
    first = tables[0]
    numbers = ["features", "rows", "alone_features", "alone_rows"]
    stack = np.stack([table[numbers].to_numpy(float) for table in tables])
    frame = first.assign(chain=name, **dict(zip(numbers, stack.mean(axis=0).T, strict=True)))
    for prefix, at in (("", 0), ("alone_", 2)):
        frame[f"{prefix}lo"], frame[f"{prefix}hi"] = stack[:, :, at].min(axis=0), stack[:, :, at].max(axis=0)
    return frame


def by_chance(real: pd.DataFrame, tables: Sequence[pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Return for each grade its rows beside those of the worlds.

    ``rows``; ``mean``, ``lo``, ``hi`` over the worlds; ``share`` = mean / rows, what part chance explains
    (None without rows); ``p`` = (1 + worlds with as many rows or more) / (1 + worlds), ``p_min``.
    """
    found = {}
    for grade in GRADES:
        n = _rows_of(real, grade)
        null = np.array([_rows_of(table, grade) for table in tables])
        found[grade] = {
            "rows": int(n), "mean": float(null.mean()), "lo": int(null.min()), "hi": int(null.max()),
            "share": float(null.mean() / n) if n else None,
            "p": float((1 + (null >= n).sum()) / (1 + len(null))), "p_min": 1 / (1 + len(null)),
        }  # fmt: skip
    return found


def _rows_of(table: pd.DataFrame, grade: str) -> float:
    return float(table.loc[(table["kind"] == "grade") & (table["step"] == grade), "rows"].iloc[0])


def _passing(
    name: str, link: str, rows: pd.DataFrame, passed: np.ndarray, alone: np.ndarray
) -> dict[str, Any]:
    return _row(
        name, "link", link, rows.loc[passed, "feature"].nunique(), int(passed.sum()),
        rows.loc[alone, "feature"].nunique(), int(alone.sum()),
    )  # fmt: skip


def _row(
    name: str,
    kind: str,
    step: str,
    features: float = np.nan,
    rows: float = np.nan,
    alone_features: float = np.nan,
    alone_rows: float = np.nan,
    status: str = COUNTED,
) -> dict[str, Any]:
    return {
        "chain": name, "kind": kind, "step": step, "status": status, "features": features, "rows": rows,
        "alone_features": alone_features, "alone_rows": alone_rows, "lo": np.nan, "hi": np.nan,
        "alone_lo": np.nan, "alone_hi": np.nan,
    }  # fmt: skip
