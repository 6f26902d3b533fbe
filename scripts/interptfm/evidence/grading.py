"""Rows of the chain: a feature, the term that it is interpretable for, and the state of every link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interptfm.evidence import COUNTED, EXPLORATORY, GRADES, LINKS, NOT_TESTED, SUPPORTED
from interptfm.evidence.feature_links import COMPARTMENT_COLUMNS, STAIN_COLUMNS
from interptfm.evidence.term_links import EDGE_COLUMNS, STEERING_COLUMNS, require

# What each link measures, beside its status.
COLUMNS = {
    "compartment": COMPARTMENT_COLUMNS[:-1],
    "channel": ("channel", *(f"{end}{name}" for end in ("", "own_", "shared_") for name in EDGE_COLUMNS)),
    "stain": STAIN_COLUMNS[:-1],
    "stability": (),
    "steering": STEERING_COLUMNS[1:],
}
KEYS = {"compartment": "feature", "stain": "feature", "stability": "feature"}
CANDIDATE_COLUMNS = ("term_id", "name", "feature", "f1", "lo", "hi", "lift", "q")


@dataclass(frozen=True)
class Chain:
    """A chain's candidates and the state of its links.

    ``rows``: one a scored term with its best feature: feature, term_id, ``aligned`` (bool), a column
    ``<link>_status`` each, and what the links measured. ``missing``: link → why the chain has none of it.
    ``n_features``, ``n_firing``: size of the dictionary, and how many of it fire in training.
    """

    rows: pd.DataFrame
    missing: dict[str, str]
    n_features: int
    n_firing: int

    @property
    def links(self) -> list[str]:
        """The links that the chain has, in order."""
        return [link for link in LINKS if link not in self.missing]


def candidates(concepts: pd.DataFrame, interpretable: pd.DataFrame) -> pd.DataFrame:
    """Return every scored term with its best feature, and whether alignment found it interpretable.

    Parameters
    ----------
    concepts, interpretable
        Tables of an alignment.

    Returns
    -------
    feature, term_id, name, f1, f1_lo, f1_hi, lift, q of alignment, ``aligned``.

    Raises
    ------
    InputError
        If a table lacks a column.
    """
    require(concepts, CANDIDATE_COLUMNS, "alignment concepts")
    require(interpretable, ("feature", "term_id"), "alignment interpretable")
    scored = concepts[concepts["feature"].notna() & concepts["f1"].notna()]
    rows = scored[list(CANDIDATE_COLUMNS)].rename(columns={"lo": "f1_lo", "hi": "f1_hi"})
    rows = rows.astype({"feature": np.int64, "term_id": str}).reset_index(drop=True)
    chosen = set(zip(interpretable["feature"], interpretable["term_id"].astype(str), strict=True))
    aligned = [pair in chosen for pair in zip(rows["feature"], rows["term_id"], strict=True)]
    return rows.assign(aligned=np.array(aligned, bool))


def attach(
    rows: pd.DataFrame, tables: Mapping[str, pd.DataFrame], missing: Mapping[str, str]
) -> pd.DataFrame:
    """Add to rows (feature, term_id, …) what is known of every link.

    Parameters
    ----------
    tables
        Link → frame with ``status``, indexed by feature or by term_id.
    missing
        Link → reason, of the links without a table.

    Returns
    -------
    ``rows`` with ``<link>_status`` and the other columns of the tables as ``<link>_<column>`` (``<link>`` for
    the column of that name), NaN where there is no table. What a table does not have is not tested.
    """
    result = rows.reset_index(drop=True)
    for link in LINKS:
        if link in tables:
            table = tables[link]
            found = table.reindex(result[KEYS.get(link, "term_id")]).reset_index(drop=True)
            found["status"] = found["status"].fillna(NOT_TESTED)
            found.columns = [renamed(link, name) for name in found]
            result = pd.concat([result, found], axis=1)
        else:
            # The same columns whatever ran, so that whoever reads the table finds them.
            result[[renamed(link, name) for name in COLUMNS[link]]] = np.nan
            result[f"{link}_status"] = missing[link]
    return result


def renamed(link: str, column: str) -> str:
    """Return what a column of a link's table is called in the chain."""
    return link if column == link else f"{link}_{column}"


def supported(rows: pd.DataFrame, link: str) -> np.ndarray:
    """Return (rows,) bool: whether the link is supported; what is missing is not."""
    return (rows[f"{link}_status"] == SUPPORTED).to_numpy()


def grades(rows: pd.DataFrame, rules: Mapping[str, Mapping[str, Any]]) -> pd.Series:
    """Return the verdict on every row; rows that are not aligned have none ("").

    Parameters
    ----------
    rows
        As :func:`attach` returns them.
    rules
        ``strong`` and ``moderate``, each with ``required`` (links) and ``at_least`` (supported links of
        ``COUNTED``, the required ones included): the first grade whose required links are all supported and
        whose number is reached. Any other aligned row is exploratory.
    """
    states = {link: supported(rows, link) for link in LINKS}
    count = np.sum([states[link] for link in COUNTED], axis=0) if len(rows) else np.zeros(0, int)
    verdict = np.where(rows["aligned"].to_numpy(bool), EXPLORATORY, "").astype(object)
    # From the weakest up, so that the strongest that holds stays.
    for grade in reversed(GRADES[:-1]):
        rule = rules[grade]
        holds = rows["aligned"].to_numpy(bool) & (count >= rule["at_least"])
        for link in rule["required"]:
            holds = holds & states[link]
        verdict[holds] = grade
    return pd.Series(verdict, rows.index, name="grade")


def without(chain: Chain, missing: Mapping[str, str]) -> Chain:
    """Return a chain as if it lacked these links, too: for a comparison with one that does."""
    rows = chain.rows.assign(**{f"{link}_status": reason for link, reason in missing.items()})
    return Chain(rows, {**missing, **chain.missing}, chain.n_features, chain.n_firing)
