"""Evaluation on simulated tissue: are the planted pairs found among all, and which way do they run?

Reads the simulation's truth; nothing that scores or tests crosstalk imports this module. The same test is
made of the planted activities themselves: what is lost there is lost by the test, what is lost after it by
the activities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interptfm import job
from interptfm.crosstalk import direction, nulls, reading, sections
from interptfm.crosstalk.analysis import CONCEPTS
from interptfm.crosstalk.graphs import Graph
from interptfm.errors import InputError
from interptfm.regions.agreement import auroc

FEATURES, GENES, TRUTH = "features", "genes", "planted activities"
VARIANTS = (FEATURES, GENES, TRUTH)
COLUMNS = (
    "pair", "source_type", "a_term", "target_type", "b_term", "variant", "z", "p", "q", "log2_ratio", "rank",
    "n_tests",
    "direction", "right", "r_a", "r_b", "reason",
)  # fmt: skip
NO_PAIRS = "no communication is planted"


def aligned_truth(section: reading.Section, truth: pd.DataFrame) -> pd.DataFrame:
    """Return the truth's rows in the order of a section's cells.

    Raises
    ------
    InputError
        If a cell is not in the truth.
    """
    names = [
        f"{sample}:{fov}_{cell}"
        for sample, fov, cell in zip(truth["sample"], truth["fov"], truth["cell_ID"], strict=True)
    ]
    indexed = truth.set_axis(names)
    lost = section.obs.index.difference(indexed.index)
    if len(lost):
        raise InputError(f"truth: found no cell {lost[0]!r}, expected all cells of the run")
    return indexed.loc[section.obs.index]


def truth_table(
    section: reading.Section, graph: Graph, truth: pd.DataFrame, planted: pd.DataFrame,
    settings: Mapping[str, Any],
    seed: int, sample: str,
) -> pd.DataFrame:  # fmt: skip
    """Return the tests of a section's planted activities, in the form of ``pairs.parquet``."""
    terms = [name.removeprefix("activity:") for name in truth if name.startswith("activity:")]
    types, names = reading.labels(section.obs["cell_type"].astype(str))
    values = truth[[f"activity:{term}" for term in terms]].to_numpy(np.float32)
    tissue = nulls.Tissue(
        values, types, names, section.fov, section.block, section.depth, section.spatial, graph.matrix()
    )

    def draws(name: str) -> np.random.Generator:
        return job.generator(seed, "pair recovery", sample, name)

    null = settings["nulls"]
    table, _, _ = nulls.test_pairs(
        tissue, permutations=null["permutations"]["pairs"], match_um=null["match_um"],
        shortest_um=null["shortest_um"], min_edges=settings["min_edges"], max_r=settings["max_r"],
        draws=draws,
        others=(), kept=0,
    )  # fmt: skip
    if table.empty:
        return pd.DataFrame()
    found = table.assign(
        source=np.asarray(names)[table["source"]], target=np.asarray(names)[table["target"]],
        a=np.asarray(terms)[table["a"]], b=np.asarray(terms)[table["b"]], channel="", level=CONCEPTS, null="",
    )  # fmt: skip
    wanted = [place(found, row) for row in planted.itertuples()]
    rows = found.index[np.isin(np.arange(len(found)), [i for i in wanted if i is not None])]
    induced = direction.induction(
        table.loc[rows],
        tissue,
        graph,
        settings["contact_um"],
        null["permutations"]["channels"],
        draws("direction"),
    )
    for name in (
        "lo",
        "hi",
        "semantic",
        "score_z",
        "log2_ratio_genes",
        "p_genes",
        "forward",
        "backward",
        "p_direction",
    ):
        found[name] = np.nan
    found["direction"] = ""
    for name in induced:
        found.loc[rows, name] = induced[name].to_numpy()
    return found


def place(table: pd.DataFrame, pair: Any) -> int | None:
    """Return the row of a planted pair, in either order of its ends; None where it was not tested."""
    here = _matches(table, pair.source_type, pair.a_term, pair.target_type, pair.b_term)
    here |= _matches(table, pair.target_type, pair.b_term, pair.source_type, pair.a_term)
    return int(np.flatnonzero(here)[0]) if here.any() else None


def _matches(table: pd.DataFrame, source: str, a: str, target: str, b: str) -> np.ndarray:
    wanted = {"source": source, "a": a, "target": target, "b": b}
    return np.logical_and.reduce(
        [table[name].astype(str).to_numpy() == value for name, value in wanted.items()]
    )


def rightly(row: pd.Series, pair: Any) -> bool:
    """Tell whether the direction claimed is that of the planted pair."""
    along = str(row["source"]) == pair.source_type and str(row["a"]) == pair.a_term
    return row["direction"] == (direction.FORWARD if along else direction.BACKWARD)


def evaluate(
    found: pd.DataFrame, planted: pd.DataFrame, given: Sequence[reading.Section], graphs: Sequence[Graph],
    truth: pd.DataFrame, settings: Mapping[str, Any], seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:  # fmt: skip
    """Compare the tests with what was planted.

    Parameters
    ----------
    found
        ``crosstalk/pairs.parquet``.
    planted, truth
        ``truth/pairs.parquet`` and ``truth/cells.parquet``.
    given, graphs
        The sections, and their graphs.
    settings
        The ``crosstalk`` block.

    Returns
    -------
    rows, summary
        One row a pair and variant: rank of its z among all tests, p, q, direction and whether it is
        ``right``, and how well the activities follow the planted ones within the types concerned (``r_a``,
        ``r_b``). ``auroc`` of the planted pairs among all tests of a variant; a pair that was not tested
        counts as last.
    """
    from scipy.stats import norm

    if planted.empty:
        return pd.DataFrame(columns=list(COLUMNS)), {"status": NO_PAIRS, "n_planted": 0}
    truths = [aligned_truth(section, truth) for section in given]
    mine = found[found["level"] == CONCEPTS].reset_index(drop=True)
    genes = mine.assign(p=mine["p_genes"], z=norm.isf(mine["p_genes"].astype(float)), q=np.nan,
                        log2_ratio=mine["log2_ratio_genes"], direction="")  # fmt: skip
    own = [
        truth_table(section, graph, part, planted, settings, seed, str(i))
        for i, (section, graph, part) in enumerate(zip(given, graphs, truths, strict=True))
    ]
    own = [table for table in own if len(table)]
    tested = sections.combine(own) if own else mine.iloc[:0]
    tables = {FEATURES: mine, GENES: genes[genes["p"].notna()].reset_index(drop=True), TRUTH: tested}
    rows, summary = [], {"status": "planted", "n_planted": len(planted), "variants": {}}
    for variant, table in tables.items():
        ranks = table["z"].rank(ascending=False, method="min").to_numpy()
        positive, right = np.zeros(len(table), bool), 0
        for pair in planted.itertuples():
            at = place(table, pair)
            row = {"pair": pair.pair, "source_type": pair.source_type, "a_term": pair.a_term,
                   "target_type": pair.target_type, "b_term": pair.b_term, "variant": variant,
                   "n_tests": len(table), "reason": "" if at is not None else "not tested",
                   "right": ""}  # fmt: skip
            if variant != TRUTH:
                row |= _follows(given, truths, pair, variant)
            if at is not None:
                positive[at] = True
                hit = table.iloc[at]
                row |= {name: float(hit[name]) for name in ("z", "p", "q", "log2_ratio")} | {
                    "rank": int(ranks[at])
                }
                if variant != GENES:
                    row |= {"direction": hit["direction"], "right": "yes" if rightly(hit, pair) else "no"}
                    right += rightly(hit, pair)
            rows.append(row)
        missing = len(planted) - int(positive.sum())
        score = np.append(np.nan_to_num(table["z"].to_numpy(float), nan=-99.0), np.full(missing, -100.0))
        area = auroc(np.append(positive, np.ones(missing, bool)), score)
        tested = auroc(positive, score[: len(table)])
        facts: dict[str, Any] = {
            "auroc": None if np.isnan(area) else area,
            "auroc_tested": None if np.isnan(tested) else tested,
            "n_tests": len(table),
            "n_missing": missing,
        }
        if variant != GENES:
            facts["n_direction_right"] = int(right)
        if variant == FEATURES:
            known = positive & (table["q"] < settings["max_q"]).to_numpy()
            facts |= {"n_found": int(known.sum()), "n_claims": int((table["q"] < settings["max_q"]).sum())}
        summary["variants"][variant] = facts
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS)), summary


def _follows(
    given: Sequence[reading.Section], truths: Sequence[pd.DataFrame], pair: Any, variant: str
) -> dict[str, float]:
    """Return the correlation of activity and planted activity of a in the sender type and of b in the
    receivers.
    """
    result = {}
    for name, term, kind in (("r_a", pair.a_term, pair.source_type), ("r_b", pair.b_term, pair.target_type)):
        seen, planted = [], []
        for section, truth in zip(given, truths, strict=True):
            at = np.flatnonzero(section.concepts["term_id"].to_numpy() == term)
            values = section.values if variant == FEATURES else section.genes
            cells = (section.obs["cell_type"].astype(str) == kind).to_numpy()
            if len(at) and values is not None:
                seen.append(values[cells, at[0]])
                planted.append(truth[f"activity:{term}"].to_numpy()[cells])
        x, y = (np.concatenate(parts) if parts else np.zeros(0) for parts in (seen, planted))
        varied = len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
        result[name] = float(np.corrcoef(x, y)[0, 1]) if varied else float("nan")
    return result
