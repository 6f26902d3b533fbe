"""Sections put together: p by Stouffer's method, effects averaged, and in how many sections a finding
stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interptfm.crosstalk import direction
from interptfm.crosstalk.analysis import KEY, LEVELS, compact, q_by_level
from interptfm.crosstalk.nulls import OTHERS

LEVEL = 0.05
NORMAL = 1.959964


def combine(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Combine ``pairs.parquet`` of all sections, one row a hypothesis of any of them.

    p is Stouffer's, z-scores of the sections' p weighted by the root of their edges; score, null_mean,
    log2_ratio, forward and backward are means weighted by edges; lo and hi take the sections for independent.
    Directions combine as two-sided p do. ``sections_replicated`` counts the sections with p < 0.05 and a
    ratio above 0, of ``n_sections`` that tested it. ``p_min`` is that of the combination. q within each
    level.
    """
    from scipy.stats import norm

    words = [*KEY]
    frames = [table.astype(dict.fromkeys(words, str)).assign(section=i) for i, table in enumerate(tables)]
    rows = pd.concat(frames, ignore_index=True)
    if rows.empty:
        return rows.drop(columns="section").assign(n_sections=[], sections_replicated=[])
    group = rows.groupby(words, sort=False, observed=True).ngroup().to_numpy()
    n = int(group.max()) + 1
    first = np.unique(group, return_index=True)[1]
    edges = rows["n_edges"].to_numpy(float)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(group, values, n)

    def mean(name: str) -> np.ndarray:
        values = rows[name].to_numpy(float)
        known = np.isfinite(values)
        weight = total(edges * known)
        return np.divide(
            total(edges * np.where(known, values, 0)), weight, out=np.full(n, np.nan), where=weight > 0
        )

    def stouffer(score: np.ndarray) -> np.ndarray:
        known = np.isfinite(score)
        root = np.sqrt(edges) * known
        size = np.sqrt(total(root**2))
        return np.divide(
            total(root * np.where(known, score, 0)), size, out=np.full(n, np.nan), where=size > 0
        )

    def upper(name: str) -> np.ndarray:
        return norm.sf(stouffer(norm.isf(rows[name].to_numpy(float))))

    table = rows.loc[first, words].reset_index(drop=True)
    table["n_edges"] = total(edges).astype(int)
    for name in ("score", "null_mean", "log2_ratio"):
        table[name] = mean(name)
    half = (rows["hi"] - rows["lo"]).to_numpy(float) / 2 / NORMAL
    # A mean weighted by edges has the weights' squares in its variance.
    known = np.isfinite(half)
    weight = total(edges * known)
    deviation = np.divide(np.sqrt(total((edges * np.where(known, half, 0)) ** 2)), weight,
                          out=np.full(n, np.nan), where=weight > 0)  # fmt: skip
    table["lo"], table["hi"] = (table["log2_ratio"] + sign * NORMAL * deviation for sign in (-1, 1))
    table["p"], table["p_min"] = upper("p"), upper("p_min")
    table["z"] = stouffer(norm.isf(rows["p"].to_numpy(float)))
    tested = rows["p"].notna().to_numpy()
    table["n_sections"] = total(tested).astype(int)
    replicated = (rows["p"] < LEVEL).to_numpy() & (rows["log2_ratio"] > 0).to_numpy()
    table["sections_replicated"] = total(replicated).astype(int)
    table["forward"], table["backward"] = mean("forward"), mean("backward")
    ahead = np.sign((rows["forward"] - rows["backward"]).to_numpy(float))
    both = stouffer(ahead * norm.isf(rows["p_direction"].to_numpy(float) / 2))
    table["p_direction"] = 2 * norm.sf(np.abs(both))
    claimed = np.where(np.isfinite(both), direction.directions(table), "")
    table["direction"] = claimed
    for name in ("semantic", "score_z", "log2_ratio_genes"):
        table[name] = mean(name)
    for name in ("p_genes", *(f"p_{other}" for other in OTHERS if f"p_{other}" in rows)):
        table[name] = upper(name)
    table["null"] = rows.loc[first, "null"].to_numpy()
    table["q"] = q_by_level(table)
    return compact(table)


def combine_contrasts(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Combine the sections' contrasts: Stouffer's p, mean differences, q over the contrasts, replication."""
    from scipy.stats import norm

    from interptfm import stats

    rows = pd.concat(tables, ignore_index=True)
    result = []
    for name, part in rows.groupby("contrast", sort=False):
        found: dict[str, Any] = {"contrast": name, **part.iloc[0][["channel", "above", "below"]].to_dict()}
        for column in ("p", "p_labels", "p_min"):
            known = part[column].dropna().to_numpy(float)
            found[column] = (
                float(norm.sf(norm.isf(known).sum() / np.sqrt(len(known)))) if len(known) else np.nan
            )
        for column in ("difference", "difference_z"):
            found[column] = part[column].mean()
        half = ((part["hi"] - part["lo"]) / 2 / NORMAL).dropna()
        deviation = float(np.sqrt((half**2).sum()) / len(half)) if len(half) else np.nan
        found["lo"], found["hi"] = (found["difference"] + sign * NORMAL * deviation for sign in (-1, 1))
        found["n_sections"] = int(part["p"].notna().sum())
        found["sections_replicated"] = int(((part["p"] < LEVEL) & (part["difference"] > 0)).sum())
        found["reason"] = "" if found["n_sections"] else part["reason"].iloc[0]
        result.append(found)
    columns = ["contrast", "channel", "above", "below", "difference", "lo", "hi", "p", "p_min", "q",
    "n_sections",
               "sections_replicated", "difference_z", "p_labels", "reason"]  # fmt: skip
    table = pd.DataFrame(result).reindex(columns=columns)
    table["q"] = stats.benjamini_hochberg(table["p"].to_numpy(float))
    return table


def summarise(
    pairs: pd.DataFrame, contrasts: pd.DataFrame, summaries: Sequence[Mapping[str, Any]], max_q: float
) -> dict[str, Any]:
    """Return plain values on all sections: tests and findings a level, shares of p below 0.05 by null."""
    from interptfm.crosstalk import nulls

    levels = {}
    for level in LEVELS:
        mine = pairs[pairs["level"] == level]
        tested = mine[mine["p"].notna()]
        found = tested[tested["q"] < max_q]
        levels[level] = {
            "n_tests": len(tested),
            "n_significant": len(found),
            "n_directed": int(found["direction"].isin([direction.FORWARD, direction.BACKWARD]).sum()),
            "n_replicated": int((found["sections_replicated"] >= 2).sum()),
            "share_below_05": dict(nulls.rates(mine)),
            "p_min": float(tested["p_min"].min()) if len(tested) else None,
        }
    return {
        "n_sections": len(summaries),
        "levels": levels,
        "n_contrasts": int(contrasts["p"].notna().sum()),
        "n_contrasts_significant": int((contrasts["q"] < max_q).sum()),
        "family": "Benjamini-Hochberg within each level, p of sections by Stouffer's method",
        "null": str(pairs["null"].iloc[0]) if len(pairs) else "",
        "sections": [dict(summary) for summary in summaries],
    }
