"""One section from activities to tables: graph, scores, tests, direction, contrasts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interptfm import job, stats
from interptfm.crosstalk import channels as channel_tests
from interptfm.crosstalk import contrasts as contrast_tests
from interptfm.crosstalk import direction, graphs, nulls, reading, scores
from interptfm.regions.geometry import REGIONS

log = logging.getLogger(__name__)
TABLES = ("edges", "pairs", "channels", "contrasts", "importance", "decay", "nulls", "concepts", "cells")
CONCEPTS, TYPES, COMPARTMENTS = "concept pair", "channel, cell types", "channel, compartments"
CLAIMED = ("lo", "hi", "forward", "backward", "p_direction")
LEVELS = (CONCEPTS, TYPES, COMPARTMENTS)
KEY = ("level", "source", "target", "channel", "a", "b")
NULL_NAMES = {
    nulls.SHIFT: "toroidal shift within type",
    nulls.LABELS: "labels shuffled",
}


@dataclass(frozen=True)
class Result:
    """``tables``: name of :data:`TABLES` → frame; ``graph``; ``summary``: plain values."""

    tables: dict[str, pd.DataFrame]
    graph: graphs.Graph
    summary: dict[str, Any]


def analyse(
    section: reading.Section,
    settings: Mapping[str, Any],
    channels: Sequence[str],
    contrasts: Sequence[contrast_tests.Contrast],
    dag: pd.DataFrame,
    seed: int,
    sample: str,
) -> Result:
    """Score and test the communication of one section.

    Parameters
    ----------
    section
        Of :func:`interptfm.crosstalk.reading.read_section`.
    settings
        The ``crosstalk`` block of the configuration.
    channels
        All channels, those without a concept among them.
    contrasts
        Of :func:`interptfm.crosstalk.contrasts.read_contrasts`.
    dag
        ``dag.parquet``; empty where the source has no graph.
    seed, sample
        Name the generators.
    """

    def draws(name: str) -> np.random.Generator:
        return job.generator(seed, "crosstalk", sample, name)

    graph = reading.section_graph(section, settings["graph"])
    types, names = reading.labels(section.obs["cell_type"].astype(str))
    chosen = reading.chosen_concepts(section.concepts, settings["max_concepts"])
    concepts = section.concepts.iloc[chosen].reset_index(drop=True)

    def tissue(values: np.ndarray) -> nulls.Tissue:
        weights = graph.matrix()
        return nulls.Tissue(
            values, types, names, section.fov, section.block, section.depth, section.spatial, weights
        )

    of_concepts = tissue(section.values[:, chosen])
    pairs, kept, facts = _concept_pairs(of_concepts, graph, settings, draws)
    if section.genes is not None and len(pairs):
        pairs = _beside_genes(pairs, tissue(section.genes[:, chosen]), settings, draws)
    related = scores.relatedness(dag, section.concepts["term_id"].tolist(), settings["tau"])
    if len(pairs):
        near = np.nan if related is None else related[chosen[pairs["a"]], chosen[pairs["b"]]]
        pairs = pairs.assign(semantic=pairs["score"] * near)

    whole = nulls.standardised(section.values)
    channel = section.concepts["channel"].to_numpy()
    values, counts = channel_tests.channel_values(
        whole, channel, section.concepts["ic"].to_numpy(float), channels
    )
    present = [name for name in channels if counts[name]]
    of_channels = tissue(values)
    tables, statistics = _channels(of_channels, graph, section.compartment, settings, draws)
    for level, table in tables.items():
        named = names if level == TYPES else list(REGIONS)
        tables[level] = _named(table, named, present)
    edge_scores = scores.shared(of_channels.z, graph)

    term = concepts["term_id"].to_numpy(dtype=object)
    claims = pairs.index[:0]
    if len(pairs):
        order = pairs.sort_values(["p", "z"], ascending=[True, False], kind="stable")
        claims = order.index[: settings["edge_pairs"]]
    frame = _frame(pairs, names, term, tables, settings)
    summary = _summary(section, graph, counts, facts, frame, related, settings, names)
    result = {
        "edges": _edges(section, graph, edge_scores, present, of_concepts, pairs.loc[claims], names, term),
        "pairs": frame,
        "channels": _channel_table(edge_scores, graph, section, of_channels, present, counts, channel, whole,
        related),
        "contrasts": contrast_tests.test_contrasts(contrasts, tables[COMPARTMENTS], statistics),
        "importance": scores.importance(edge_scores, graph, types, names, present),
        "decay": _decay(section, of_channels, of_concepts, pairs.loc[claims], present, names, term, settings,
        draws),
        "nulls": _kept(kept, pairs, names, term),
        "concepts": _autocorrelation(of_concepts, term),
        "cells": _cells(section, scores.cell_sums(edge_scores, graph), present),
    }  # fmt: skip
    log.info("%s: %d edges, %d tests", sample, len(graph.i), len(frame))
    return Result(result, graph, {"sample": sample, **summary})


def _concept_pairs(
    tissue: nulls.Tissue, graph: graphs.Graph, settings: Mapping[str, Any], draws: nulls.Draws
) -> tuple[pd.DataFrame, dict[int, np.ndarray], dict[str, Any]]:
    if tissue.values.shape[1] < 2:
        return pd.DataFrame(), {}, {}
    null = settings["nulls"]
    table, kept, facts = nulls.test_pairs(
        tissue, permutations=null["permutations"]["pairs"], match_um=null["match_um"],
        shortest_um=null["shortest_um"], min_edges=settings["min_edges"], max_r=settings["max_r"],
        draws=draws,
        others=null["others"],
    )  # fmt: skip
    if table.empty:
        return table, kept, facts
    table = table.assign(**dict.fromkeys(CLAIMED, np.nan), direction="")
    best = table.sort_values(["p", "z"], ascending=[True, False], kind="stable").index[: settings["claims"]]
    claims = table.loc[best]
    lo, hi = direction.intervals(claims, tissue, graph, settings["bootstrap"], draws("intervals"))
    found = direction.induction(
        claims, tissue, graph, settings["contact_um"], null["permutations"]["channels"], draws("direction")
    )
    for name, values in {"lo": lo, "hi": hi, **found}.items():
        table.loc[best, name] = np.asarray(values)
    return table, kept, facts


def _beside_genes(
    pairs: pd.DataFrame, tissue: nulls.Tissue, settings: Mapping[str, Any], draws: nulls.Draws
) -> pd.DataFrame:
    """Add log2_ratio_genes, z_genes and p_genes: the same tests of the plain member-gene activities."""
    null = settings["nulls"]
    table, _, _ = nulls.test_pairs(
        tissue, permutations=null["permutations"]["pairs"], match_um=null["match_um"],
        shortest_um=null["shortest_um"], min_edges=settings["min_edges"], max_r=1.0,
        draws=lambda name: draws(f"genes {name}"), others=(), kept=0,
    )  # fmt: skip
    key = ["source", "target", "a", "b"]
    wanted = table.reindex(columns=[*key, "log2_ratio", "z", "p"])
    renamed = wanted.rename(columns={name: f"{name}_genes" for name in ("log2_ratio", "z", "p")})
    return pairs.merge(renamed, on=key, how="left") if len(table) else pairs


def _channels(
    tissue: nulls.Tissue, graph: graphs.Graph, compartment: np.ndarray, settings: Mapping[str, Any],
    draws: nulls.Draws,
) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray]]:  # fmt: skip
    """Return the tests by compartments and by types, and the statistics of the former."""
    null = settings["nulls"]
    n = null["permutations"]["channels"]
    tables, statistics = {}, {}
    for level, labels in ((TYPES, tissue.types), (COMPARTMENTS, compartment)):
        made = channel_tests.channel_nulls(
            tissue, n, null["permutations"]["pairs"], null["match_um"], null["shortest_um"], draws,
            [name for name in null["others"] if name != nulls.LABELS],
        )  # fmt: skip
        tables[level], statistics = channel_tests.test_channels(
            tissue, graph, labels, made, min_edges=settings["min_edges"], draws=settings["bootstrap"],
            level=level, make=draws, shuffle=nulls.LABELS in null["others"],
        )  # fmt: skip
    types = tables[TYPES].rename(columns={"channel": "a"})
    same = types.assign(b=types["a"])
    induced = same.index[(same["source"] != same["target"]) & same["p"].notna()]
    directed = direction.induction(
        same.loc[induced], tissue, graph, settings["contact_um"], n, draws("channel direction")
    )
    for name in directed:
        tables[TYPES].loc[induced, name] = directed[name].to_numpy()
    return tables, statistics


def _named(table: pd.DataFrame, names: Sequence[str], channels: Sequence[str]) -> pd.DataFrame:
    place = np.asarray(names, dtype=object)
    return table.assign(
        source=place[table["source"].to_numpy(int)],
        target=place[table["target"].to_numpy(int)],
        channel=np.asarray(channels, dtype=object)[table["channel"].to_numpy(int)] if len(table) else [],
    )


def _frame(
    pairs: pd.DataFrame, names: Sequence[str], term: np.ndarray, tables: Mapping[str, pd.DataFrame],
    settings: Mapping[str, Any],
) -> pd.DataFrame:  # fmt: skip
    """Put the levels into one table, q within each, and the null that p is of."""
    place = np.asarray(names, dtype=object)
    parts = []
    if len(pairs):
        parts.append(
            pairs.assign(
                source=place[pairs["source"]], target=place[pairs["target"]], a=term[pairs["a"]],
                b=term[pairs["b"]],
                channel="", level=CONCEPTS,
            )
        )  # fmt: skip
    parts += [table.assign(a="", b="", level=level) for level, table in tables.items() if len(table)]
    columns = [
        *KEY, "n_edges", "score", "null_mean", "log2_ratio", "lo", "hi", "z", "p", "p_min", "q", "null",
        "direction",
        "forward", "backward", "p_direction", "semantic", "score_z", "log2_ratio_genes", "z_genes", "p_genes",
        *(f"p_{name}" for name in settings["nulls"]["others"]),
    ]  # fmt: skip
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    frame = frame.reindex(columns=columns)
    null = nulls.SHIFT
    if settings["legacy"]:
        null = nulls.LABELS
        frame["p"] = frame[f"p_{null}"]
        frame["p_min"] = 1 / (1 + settings["nulls"]["permutations"]["pairs"])
    frame["null"] = NULL_NAMES[null]
    frame["q"] = q_by_level(frame)
    return compact(frame)


def q_by_level(frame: pd.DataFrame) -> np.ndarray:
    """Return Benjamini–Hochberg q (rows,) of p within each level: the stated families."""
    q = np.full(len(frame), np.nan)
    for level in LEVELS:
        rows = np.flatnonzero(frame["level"] == level)
        q[rows] = stats.benjamini_hochberg(frame["p"].to_numpy(float)[rows])
    return q


def compact(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with float32 numbers and categories for words: there are many rows."""
    words = [*KEY, "null", "direction"]
    return frame.astype(
        {name: "category" if name in words else np.float32 for name in frame
         if name in words or frame[name].dtype == np.float64}
    )  # fmt: skip


def _edges(
    section: reading.Section, graph: graphs.Graph, edge_scores: np.ndarray, present: Sequence[str],
    tissue: nulls.Tissue, claims: pd.DataFrame, names: Sequence[str], term: np.ndarray,
) -> pd.DataFrame:  # fmt: skip
    """Return one row an edge: i, j (rows of cells.parquet), distance, weight, cross, channels, top claims."""
    a, b = section.compartment[graph.i], section.compartment[graph.j]
    table = pd.DataFrame(
        {"i": graph.i, "j": graph.j, "distance_um": graph.distance, "weight": graph.weight,
         "placed": (a >= 0) & (b >= 0), "cross": (a != b) & (a >= 0) & (b >= 0)}
    )  # fmt: skip
    columns = {f"channel:{name}": edge_scores[:, k] for k, name in enumerate(present)}
    for claim in claims.itertuples():
        senders, receivers = tissue.types == claim.source, tissue.types == claim.target
        x = np.where(senders, tissue.residual[:, claim.a], 0)[:, None]
        y = np.where(receivers, tissue.residual[:, claim.b], 0)[:, None]
        label = claim_label(names[claim.source], term[claim.a], names[claim.target], term[claim.b])
        columns[f"pair:{label}"] = scores.product(x, y, graph)[:, 0]
    return pd.concat([table, pd.DataFrame(columns).astype(np.float32)], axis=1)


def claim_label(source: str, a: str, target: str, b: str) -> str:
    """Return what a pair is called in tables: ``a in S | b in R``."""
    return f"{a} in {source} | {b} in {target}"


def _channel_table(
    edge_scores: np.ndarray, graph: graphs.Graph, section: reading.Section, tissue: nulls.Tissue,
    present: Sequence[str], counts: Mapping[str, int], channel: np.ndarray, whole: np.ndarray,
    related: np.ndarray | None,
) -> pd.DataFrame:  # fmt: skip
    """Return one row a channel: n_concepts, total, share within and across compartments, Moran's I,
    semantic.
    """
    shares = scores.crossing(edge_scores, graph, section.compartment)
    own = scores.moran(tissue.weights, tissue.z)
    rows = []
    for name, n in counts.items():
        row: dict[str, Any] = {
            "channel": name,
            "n_concepts": n,
            "reason": "" if n else "no concept in this channel",
        }
        if n:
            k, mine = list(present).index(name), np.flatnonzero(channel == name)
            row |= {
                "total": float(edge_scores[:, k].sum()),
                **shares.iloc[k].to_dict(),
                "moran": float(own[k, k]),
            }
            if related is not None and len(graph.i):
                edges = scores.semantic(whole[:, mine], related[np.ix_(mine, mine)], graph)
                row["semantic"] = float(edges.sum() / graph.weight.sum())
        rows.append(row)
    columns = ["share_within", "share_cross", "edges_cross", "moran", "semantic", "reason"]
    return pd.DataFrame(rows).reindex(columns=["channel", "n_concepts", "total", *columns])


def _autocorrelation(tissue: nulls.Tissue, term: np.ndarray) -> pd.DataFrame:
    """Return bivariate Moran's I and Lee's L of every two concepts over all cells, by plain z-scores."""
    found, smooth = scores.moran(tissue.weights, tissue.z), scores.lee(tissue.weights, tissue.z)
    a, b = np.triu_indices(len(term))
    table = pd.DataFrame({"a": term[a], "b": term[b], "moran": found[a, b], "lee": smooth[a, b]})
    return table.astype({"a": "category", "b": "category", "moran": np.float32, "lee": np.float32})


def _decay(
    section: reading.Section, of_channels: nulls.Tissue, of_concepts: nulls.Tissue, claims: pd.DataFrame,
    present: Sequence[str], names: Sequence[str], term: np.ndarray, settings: Mapping[str, Any],
    draws: nulls.Draws,
) -> pd.DataFrame:  # fmt: skip
    everyone = np.ones(len(section.obs), bool)
    values = {
        name: (of_channels.residual[:, k], of_channels.residual[:, k], everyone, everyone)
        for k, name in enumerate(present)
    }
    for claim in claims.itertuples():
        label = claim_label(names[claim.source], term[claim.a], names[claim.target], term[claim.b])
        values[label] = (
            of_concepts.residual[:, claim.a], of_concepts.residual[:, claim.b],
            of_concepts.types == claim.source, of_concepts.types == claim.target,
        )  # fmt: skip
    radius = settings["decay_um"]
    pairs, distance = scores.near_pairs(section.spatial, section.fov, radius, draws("decay"))
    block = np.unique(section.block, return_inverse=True)[1]
    edges = np.linspace(0, radius, 13)
    return scores.decay(
        values, pairs, distance, block, edges, settings["bootstrap"], draws("decay bootstrap")
    )


def _kept(
    kept: Mapping[int, np.ndarray], pairs: pd.DataFrame, names: Sequence[str], term: np.ndarray
) -> pd.DataFrame:
    """Return the null's values of the six pairs with the smallest p: label, observed, value."""
    order = sorted(kept, key=lambda row: (pairs.at[row, "p"], -pairs.at[row, "z"]))[:6]
    frames = []
    for row in order:
        found = pairs.loc[row]
        label = claim_label(
            names[int(found["source"])],
            term[int(found["a"])],
            names[int(found["target"])],
            term[int(found["b"])],
        )
        frames.append(pd.DataFrame({"claim": label, "observed": found["statistic"], "value": kept[row]}))
    return (
        pd.concat(frames, ignore_index=True)
        if frames
        else pd.DataFrame(columns=["claim", "observed", "value"])
    )


def _cells(section: reading.Section, sums: np.ndarray, present: Sequence[str]) -> pd.DataFrame:
    """Return one row a cell: its place, type and compartment, and the sum of its edges' scores a channel."""
    named = np.array([*REGIONS, ""], dtype=object)[section.compartment]
    table = pd.DataFrame(
        {"cell": section.obs.index.astype(str), "x_um": section.spatial[:, 0], "y_um": section.spatial[:, 1],
         "cell_type": section.obs["cell_type"].astype(str).to_numpy(), "compartment": named}
    )  # fmt: skip
    return pd.concat([table, pd.DataFrame(sums, columns=[f"channel:{name}" for name in present])], axis=1)


def _summary(
    section: reading.Section, graph: graphs.Graph, counts: Mapping[str, int], facts: Mapping[str, Any],
    frame: pd.DataFrame, related: np.ndarray | None, settings: Mapping[str, Any], names: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    levels = {}
    for level in LEVELS:
        mine = frame[frame["level"] == level]
        tested = mine[mine["p"].notna()]
        levels[level] = {
            "n_tests": len(tested),
            "n_significant": int((tested["q"] < settings["max_q"]).sum()),
            "share_below_05": dict(nulls.rates(mine)),
            "p_min": float(tested["p_min"].min()) if len(tested) else None,
        }
    return {
        "graph": {key: value if isinstance(value, str) else _plain(value) for key,
        value in graph.parameters.items()},
        "n_cells": len(section.obs), "n_edges": len(graph.i), "cell_types": list(names),
        "compartments": settings["compartments"],
        "n_without_compartment": int((section.compartment < 0).sum()),
        "concepts_by_channel": dict(counts),
        "shifts": dict(facts),
        "semantic": scores.NO_GRAPH if related is None else f"exp(-steps / {settings['tau']:g})",
        "levels": levels,
        "family": "Benjamini-Hochberg within each level of a section",
        "status": status(section, graph, frame),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def status(section: reading.Section, graph: graphs.Graph, frame: pd.DataFrame) -> str:
    """Say what could not be tested, and why."""
    if not len(graph.i):
        return "not testable: the graph has no edge"
    if not section.values.shape[1]:
        return "not testable: no concept has an activity"
    parts = []
    if (section.compartment < 0).all():
        parts.append("no cell has a compartment")
    if not (frame["level"] == CONCEPTS).any():
        parts.append("no pair of concepts can be tested: fewer than 20 distinct shifts, or too few edges")
    return "; ".join(parts) or "tested"
