"""The chain of a run, of its untrained arm, and where terms and features belong together by chance only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm import job
from interptfm.evidence import (
    COUNTED,
    GRADES,
    LINKS,
    NOT_AVAILABLE,
    NOT_COMPUTED,
    NOT_MEASURED,
    feature_links,
    funnel,
    grading,
    permuted,
    term_links,
)
from interptfm.evidence.grading import Chain
from interptfm.tis import tasks
from interptfm.tis.units import STAIN

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

    from interptfm.features.firing import Firing
    from interptfm.tis.units import Cells

CANDIDATE = ["feature", "term_id", "name", "aligned"]
UNTRAINED, COMMON = "untrained", "real, links of untrained"


@dataclass(frozen=True)
class Arm:
    """A dictionary's alignment, and its features in cells.

    ``concepts``, ``interpretable``, ``summary`` of the alignment; ``codes`` (cells × features), ``present``
    (cells,) which cells have tokens; ``stable``: table of features over seeds, None where there is none.
    """

    concepts: pd.DataFrame
    interpretable: pd.DataFrame
    summary: Mapping[str, Any]
    codes: csc_matrix
    present: np.ndarray
    stable: pd.DataFrame | None = None


@dataclass(frozen=True)
class Terms:
    """What other stages found for terms; None where a stage did not run for these features.

    ``channels``, ``pairs``: of activity and crosstalk; ``steering``; ``reasons``: link → why it is missing.
    """

    channels: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    steering: pd.DataFrame | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """``rows``: the interpretable pairs with every link and grade, best first; ``funnel``; ``summary``."""

    rows: pd.DataFrame
    funnel: pd.DataFrame
    summary: dict[str, Any]


def chain_of(
    arm: Arm, terms: Terms, cells: Cells, compartments: np.ndarray, settings: Mapping[str, Any], seed: int
) -> tuple[Chain, dict[str, pd.DataFrame]]:
    """Measure and look up all links of an arm's candidates.

    Parameters
    ----------
    compartments
        (cells,) str, empty for a cell without one.

    Returns
    -------
    The chain, and the tables of its links by name.
    """
    max_q, draws, missing = settings["max_q"], settings["bootstrap"], dict(terms.reasons)
    keep = np.flatnonzero(arm.present)
    codes, obs = arm.codes[keep], cells.obs.iloc[keep]
    block = cells.blocks[keep]
    tables = {}
    if len(set(compartments[keep]) - {""}) > 1:
        tables["compartment"] = feature_links.compartment_links(
            codes, compartments[keep], block, max_q=max_q, min_effect=settings["compartment"]["min_effect"],
            draws=draws, generator=job.generator(seed, "evidence", "compartment"),
        )  # fmt: skip
    else:
        missing["compartment"] = NOT_MEASURED
    stains = obs[[name for name in obs if name.startswith(STAIN)]]
    if stains.notna().to_numpy().any():
        groups = tasks.labels_of(cells.section[keep], cells.types[keep])
        tables["stain"] = feature_links.stain_links(
            codes, stains.rename(columns=lambda name: name.removeprefix(STAIN)), groups,
            obs["n_counts"].to_numpy(float), block, max_q=max_q, min_r=settings["stain"]["min_r"],
            draws=draws, generator=job.generator(seed, "evidence", "stain"),
        )  # fmt: skip
    else:
        missing["stain"] = NOT_MEASURED
    if arm.stable is not None:
        tables["stability"] = feature_links.stability_links(arm.stable)
    if terms.channels is not None and terms.pairs is not None:
        tables["channel"] = term_links.channel_links(
            terms.channels, terms.pairs, settings["channel"]["levels"], max_q
        )
    if terms.steering is not None:
        tables["steering"] = term_links.steering_links(
            terms.steering, max_q, settings["steering"]["min_effect"]
        )
    missing = {link: missing.get(link, NOT_COMPUTED) for link in LINKS if link not in tables}
    rows = grading.candidates(arm.concepts, arm.interpretable)
    firing = int(arm.summary["n_features"]) - int(arm.summary["n_features_never_firing"])
    chain = Chain(grading.attach(rows, tables, missing), missing, int(arm.summary["n_features"]), firing)
    return chain, tables


def collect(
    arm: Arm,
    terms: Terms,
    cells: Cells,
    compartments: np.ndarray,
    firing: Firing,
    members: csr_matrix,
    term_table: pd.DataFrame,
    settings: Mapping[str, Any],
    alignment: Mapping[str, Any],
    seed: int,
    untrained: Arm | None = None,
) -> Evidence:
    """Return the graded rows, and how many there are where there is nothing to find.

    The untrained arm is compared over the links that both have: channel edges and steering are of the main
    arm's model and not available for it. In both nulls (:mod:`interptfm.evidence.permuted`) the chain has all
    links: those of features stay with the features, those of terms with the terms, and only which feature
    goes with which term is by chance.

    Parameters
    ----------
    firing, members, term_table
        Firing counts of the dictionary, membership (terms × genes), term_id and name.
    settings, alignment
        The configuration's ``evidence`` and ``alignment``.
    """
    chain, tables = chain_of(arm, terms, cells, compartments, settings, seed)
    rules = settings["grades"]
    real = funnel.counts(chain, funnel.REAL, rules)
    n = int(settings["permutations"])
    generator = job.generator(seed, "evidence", funnel.PERMUTED)
    drawn = {
        funnel.PERMUTED: permuted.worlds(firing, members, term_table, alignment, n, generator, arm.stable),
        funnel.EXCHANGED: permuted.exchanged(
            chain.rows[CANDIDATE], n, job.generator(seed, "evidence", funnel.EXCHANGED)
        ),
    }
    parts = [real]
    summary = {
        "status": "graded" if chain.rows["aligned"].any() else "no interpretable pair",
        "links": {link: chain.missing.get(link, "available") for link in LINKS},
        "worlds": n,
    }
    for name, draws in drawn.items():
        null = [
            funnel.counts(replace(chain, rows=grading.attach(rows, tables, chain.missing)), name, rules)
            for rows in draws
        ]
        parts.append(funnel.average(null, name))
        summary[name] = funnel.by_chance(real, null)
    summary[UNTRAINED] = {"status": NOT_AVAILABLE}
    if untrained is not None:
        reasons = dict.fromkeys(("channel", "steering"), NOT_AVAILABLE)
        other, _ = chain_of(untrained, Terms(reasons=reasons), cells, compartments, settings, seed)
        common = grading.without(chain, {k: v for k, v in other.missing.items() if k not in chain.missing})
        both = grading.without(other, {k: v for k, v in chain.missing.items() if k not in other.missing})
        parts += [funnel.counts(both, UNTRAINED, rules), funnel.counts(common, COMMON, rules)]
        summary[UNTRAINED] = {"status": "compared", "links": common.links} | {
            grade: {
                "rows": int((grading.grades(both.rows, rules) == grade).sum()),
                "real_rows": int((grading.grades(common.rows, rules) == grade).sum()),
            }
            for grade in GRADES
        }
    rows = graded(chain, rules)
    summary["n_rows"] = len(rows)
    summary["grades"] = {grade: int((rows["grade"] == grade).sum()) for grade in GRADES}
    return Evidence(rows, pd.concat(parts, ignore_index=True), summary)


def graded(chain: Chain, rules: Mapping[str, Any]) -> pd.DataFrame:
    """Return the aligned rows with their grade and number of supported links, best first."""
    rows = chain.rows.assign(grade=grading.grades(chain.rows, rules))
    rows["n_supported"] = sum(grading.supported(rows, link).astype(int) for link in COUNTED)
    rows["n_missing"] = sum(
        (~rows[f"{link}_status"].isin(["supported", "not supported"])).astype(int) for link in LINKS
    )
    rows = rows[rows["aligned"]].drop(columns="aligned")
    first = ["feature", "term_id", "name", "grade", "n_supported", "n_missing"]
    rows = rows[[*first, *(name for name in rows if name not in first)]]
    order = rows["grade"].map({grade: i for i, grade in enumerate(GRADES)})
    rows = rows.assign(order=order).sort_values(
        ["order", "n_supported", "q", "f1", "feature", "term_id"],
        ascending=[True, False, True, False, True, True],
        kind="stable",
    )
    return rows.drop(columns="order").reset_index(drop=True)
