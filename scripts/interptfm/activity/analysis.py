"""From cells, features and concepts to activity, its table of concepts, channels, and means by cell type."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import job, stats
from interptfm.activity import pairs as pairs_module
from interptfm.activity import rollup, scores
from interptfm.activity.channels import GENERIC, UNCLASSIFIED, Channels, classify
from interptfm.errors import InputError
from interptfm.tis.judges import log_normalise
from interptfm.tis.units import Cells

log = logging.getLogger(__name__)
SOURCES = ("features", "genes")


@dataclass(frozen=True)
class Concepts:
    """Terms (``term_id``, ``name``, ``source``, ``ic``, ``members``, ``propagated``), their genes and graph.

    ``membership`` bool (genes × terms), ``genes`` its gene axis, ``dag`` child, parent, relation (may be
    empty).
    """

    terms: pd.DataFrame
    membership: sparse.csr_matrix
    genes: list[str]
    dag: pd.DataFrame


@dataclass(frozen=True)
class Activity:
    """``matrix`` and ``genes``: float32 (cells × concepts kept); ``var``: a row a concept kept; the tables of
    all terms (``concepts``, ``channels``), of channels by cell type (``means``), and plain values
    (``summary``)."""

    matrix: np.ndarray
    genes: np.ndarray
    var: pd.DataFrame
    concepts: pd.DataFrame
    channels: pd.DataFrame
    means: pd.DataFrame
    summary: dict[str, Any]


def analyse(
    cells: Cells,
    codes: sparse.spmatrix,
    present: np.ndarray,
    concepts: Concepts,
    interpretable: pd.DataFrame,
    pairs: pd.DataFrame,
    channels: Channels,
    settings: Mapping[str, Any],
    seed: int,
) -> Activity:
    """Score every concept in every cell.

    Parameters
    ----------
    cells, codes, present
        Cells of all samples; (cells × features) aggregated codes; which cells have tokens.
    interpretable, pairs
        Tables of the alignment of the same features.
    settings
        The ``activity`` block of the configuration.

    With source ``features`` a concept without a feature that counts is left out, unless terms below it roll
    up to it; with source ``genes`` every concept with a gene that varies is kept. Where no concept is left,
    the matrices have no columns and the summary's ``status`` says so.

    Raises
    ------
    InputError
        For settings out of bounds, or tables that do not fit each other.
    """
    if settings["source"] not in SOURCES:
        raise InputError(
            f"activity.source: found {settings['source']!r}, expected one of {', '.join(SOURCES)}"
        )
    terms = concepts.terms.reset_index(drop=True)
    ids = terms["term_id"].astype(str).tolist()
    chosen = pairs_module.choose(interpretable, pairs, settings)
    weights = pairs_module.weights(chosen, ids, codes.shape[1])
    raw = scores.feature_scores(codes, weights)

    steps = rollup.descendants(terms, concepts.dag, settings["rollup"]["hops"])
    touched = rollup.unpropagated(steps, terms["propagated"].to_numpy(bool), concepts.membership)
    graph = _graph_status(concepts.dag, touched)
    rolled = rollup.roll_up(raw, steps, touched, settings["rollup"]["alpha"])
    gained = touched & (rolled != raw).any(axis=0)

    from_features, feature_sd = scores.unit_deviation(rolled, present)
    genes = scores.gene_scores(log_normalise(cells.counts), _members(concepts, cells.genes))
    of_genes = settings["source"] == "genes"
    everyone = np.ones(len(genes), dtype=bool)
    from_genes, gene_sd = scores.unit_deviation(np.nan_to_num(genes), everyone)
    kept = gene_sd > 0 if of_genes else feature_sd > 0

    n_features = np.bincount(weights.indices, minlength=len(ids)) if weights.nnz else np.zeros(len(ids), int)
    reasons = pairs_module.rejection(ids, pairs, chosen, settings)
    found = classify(terms, concepts.dag, channels)
    table = terms[["term_id", "name", "source", "ic"]].assign(
        channel=found["channel"],
        n_features=n_features,
        rolled_up=gained,
        used=kept,
        reason=["" if use else _reason(why, of_genes) for use, why in zip(kept, reasons, strict=True)],
        sd=np.where(kept, gene_sd if of_genes else feature_sd, np.nan),
        features=[
            group.tolist()
            for group in chosen.groupby("term_id")["feature"].agg(list).reindex(ids).map(_listed)
        ],
    )
    matrix = (from_genes if of_genes else from_features)[:, kept].astype(np.float32)
    baseline = np.nan_to_num(genes[:, kept]).astype(np.float32)
    names = ["name", "source", "channel", "ic", "n_features", "rolled_up"]
    var = table.loc[kept, ["term_id", *names]].set_index("term_id")[names]
    means = channel_means(
        matrix, baseline, var["channel"].to_numpy(), cells, channels, settings["bootstrap"],
        job.generator(seed, "activity", "means"),
    )  # fmt: skip
    summary = {
        "source": settings["source"],
        "status": "ok" if kept.any() else _empty(of_genes),
        "n_concepts": int(kept.sum()),
        "n_terms": len(ids),
        "n_pairs": len(chosen),
        "n_features": int(chosen["feature"].nunique()),
        "n_cells_without_tokens": int((~present).sum()),
        "rollup": {"status": graph, "n_touched": int(touched.sum()), "n_changed": int(gained.sum())},
        "n_terms_by_channel": found["channel"]
        .value_counts()
        .reindex(_every(channels), fill_value=0)
        .to_dict(),
        "n_concepts_by_channel": var["channel"]
        .value_counts()
        .reindex(_every(channels), fill_value=0)
        .to_dict(),
        "unclassified_share": float((found["channel"] == UNCLASSIFIED).mean()),
        "generic_share": float((found["channel"] == GENERIC).mean()),
    }
    if not kept.any():
        log.warning("%s", summary["status"])
    log.info("%d of %d concepts, %d pairs, roll-up: %s", kept.sum(), len(ids), len(chosen), graph)
    return Activity(matrix, baseline, var, table, found, means, summary)


def _listed(value: Any) -> np.ndarray:
    return np.array(value if isinstance(value, list) else [], dtype=np.int64)


def _every(channels: Channels) -> list[str]:
    return [*channels.names, GENERIC, UNCLASSIFIED]


def _reason(why: str, of_genes: bool) -> str:
    if of_genes:
        return "no gene of it varies"
    return why or "its features fire in no cell, or alike in all"


def _empty(of_genes: bool) -> str:
    return "no concept has a gene that varies" if of_genes else "no concept has an interpretable feature"


def _graph_status(dag: pd.DataFrame, touched: np.ndarray) -> str:
    """Return what roll-up did in words, and warn where it had nothing to do."""
    if not len(dag):
        status = "not applicable: no graph"
    elif not touched.any():
        status = "touched no term: all annotation is propagated"
    else:
        return f"touched {touched.sum()} terms"
    log.warning("roll-up %s", status)
    return status


def _members(concepts: Concepts, genes: list[str]) -> sparse.csr_matrix:
    """Return the membership with its rows in the order of the cells' genes."""
    place = {gene: i for i, gene in enumerate(concepts.genes)}
    missing = [gene for gene in genes if gene not in place]
    if missing:
        raise InputError(
            f"concepts: found no gene {missing[0]!r} of the cells, expected the same panel in both"
        )
    return sparse.csr_matrix(concepts.membership)[[place[gene] for gene in genes]]


def channel_means(
    matrix: np.ndarray,
    baseline: np.ndarray,
    channel: np.ndarray,
    cells: Cells,
    channels: Channels,
    draws: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Return the mean activity of every channel in every cell type, one row each.

    A channel's activity in a cell is the mean over its concepts, z-scored over all cells; ``mean`` is its
    mean in the type, ``lo`` and ``hi`` the 95 % block-bootstrap interval (missing with fewer than 2 blocks),
    ``mean_genes`` the same of the genes' activity. ``n_concepts`` 0: every value is missing.
    """
    types, rows = cells.types, []
    for name in channels.names:
        mine = channel == name
        both = [_z(values[:, mine].mean(axis=1)) if mine.any() else None for values in (matrix, baseline)]
        for kind in sorted(set(types)):
            here = types == kind
            row = {
                "channel": name,
                "cell_type": kind,
                "n_concepts": int(mine.sum()),
                "n_cells": int(here.sum()),
            }
            row |= dict.fromkeys(("mean", "lo", "hi", "mean_genes"), float("nan"))
            if mine.any():
                values, blocks = both[0][here], cells.blocks[here]
                row["mean"], row["mean_genes"] = float(values.mean()), float(both[1][here].mean())
                if len(set(blocks)) > 1 and draws:
                    lo, hi = stats.block_bootstrap(
                        blocks, lambda w, v=values: (w @ v) / w.sum(), draws, generator
                    )
                    row["lo"], row["hi"] = float(lo), float(hi)
            rows.append(row)
    columns = ["channel", "cell_type", "n_concepts", "n_cells", "mean", "lo", "hi", "mean_genes"]
    return pd.DataFrame(rows, columns=columns)


def _z(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    deviation = values.std()
    return (values - values.mean()) / (deviation if deviation > 0 else 1.0)
