"""Steering cells towards a concept, where nothing was perturbed: does decoded expression follow?

Cells of one type are steered at all tokens along a concept's direction. Judged are genes that had no say in
the direction: for each fold of genes the direction fitted without them is used, and the decoded change of
the fold's members is compared with that of the fold's other genes. Random directions of the same norm say
what any push does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from interptfm import stats
from interptfm.activations import Model, gene_ids
from interptfm.errors import InputError
from interptfm.probes import Probes
from interptfm.scgpt.tokenizer import Tokens, tokenize
from interptfm.steering import engine, readouts
from interptfm.steering.directions import random_directions
from interptfm.steering.interventions import unit
from interptfm.tis.units import Cells

COLUMNS = (
    "term_id", "n_genes", "n_held_out", "effect", "lo", "hi", "auroc", "effect_permuted", "null_mean",
    "null_sd", "p", "p_min", "q",
)  # fmt: skip


def tokens_of(
    model: Model, cells: Cells, settings: Mapping[str, Any], generator: np.random.Generator, seed: int
) -> tuple[Tokens, np.ndarray, str]:
    """Tokens of cells to steer, the token ids of the genes, and the cells' type in words.

    Cells of test blocks of the type `cell_type` (any where it is None), `cells` of them, drawn at random.
    Raises InputError where there are none.
    """
    kind = settings["cell_type"]
    rows = cells.split == "test"
    if kind is not None:
        rows &= cells.types == kind
    rows = np.flatnonzero(rows)
    if not len(rows):
        raise InputError(
            f"steering.concepts.cell_type: found no test cell of type {kind!r}, expected one of "
            f"{', '.join(sorted(set(cells.types)))}"
        )
    chosen = np.sort(generator.permutation(rows)[: settings["cells"]])
    ids = gene_ids(cells.genes, model)
    tokens = tokenize(
        cells.counts[chosen], ids, model.vocabulary, settings["mode"], max_length=settings["max_length"],
        n_bins=model.network.config.n_bins, cell_names=[str(name) for name in cells.obs.index[chosen]],
        seed=seed,
    )  # fmt: skip
    return tokens.take(np.flatnonzero(tokens.lengths > 1)), ids, kind or "any type"


def decoded_changes(
    model: Model,
    tokens: Tokens,
    ids: np.ndarray,
    layer: int,
    vectors: np.ndarray,
    *,
    batch_tokens: int = engine.BATCH_TOKENS,
    device: str = "cpu",
) -> np.ndarray:
    """Change of decoded expression (vectors, cells, genes) when each vector (k, d) is added at all tokens.

    From `<cls>` where the model has the head MVC; else from the genes' own tokens, NaN where a cell has none.
    """
    network, options = model.network, {"batch_tokens": batch_tokens, "device": device}
    if readouts.head(network) == "mvc":
        found = engine.steer_each(network, tokens, layer, "all", vectors, **options)
        return found.shift("cls") @ readouts.mvc_weights(network, ids).T
    read = {"genes": readouts.token_expression(network, len(ids))}
    return engine.steer_each(network, tokens, layer, "all", vectors, read, **options).shift("genes")


def contrast(changes: np.ndarray, members: np.ndarray, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effect and AUROC (...,) of members against other judged genes, of changes (..., genes).

    The effect is the difference of mean changes in standard deviations over the judged genes. NaN where a
    side is empty.
    """
    usable = judged & np.isfinite(changes).all(axis=tuple(range(changes.ndim - 1)))
    inside, outside = usable & members, usable & ~members
    if not inside.any() or not outside.any():
        return np.full(changes.shape[:-1], np.nan), np.full(changes.shape[:-1], np.nan)
    spread = changes[..., usable].std(axis=-1)
    difference = changes[..., inside].mean(axis=-1) - changes[..., outside].mean(axis=-1)
    effect = np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0)
    rank = rankdata(changes[..., usable], axis=-1)
    n, m = int(inside.sum()), int(outside.sum())
    total = rank[..., members[usable]].sum(axis=-1)
    return effect, (total - n * (n + 1) / 2) / (n * m)


def towards(
    model: Model,
    tokens: Tokens,
    genes: Sequence[str],
    ids: np.ndarray,
    probes: Probes,
    members: np.ndarray,
    kind: str,
    settings: Mapping[str, Any],
    generator: np.random.Generator,
    *,
    device: str = "cpu",
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Steer towards every term that has enough genes.

    Parameters
    ----------
    tokens
        Of the cells to steer, none of which the model or the probes were fitted on.
    genes, ids
        (genes,) symbols of the columns and their token ids.
    probes, members
        Of the layer that is steered; bool (terms × genes) in the order of `probes.term_ids` and `genes`.
    kind
        Of probes.
    settings
        `dose` (in medians of the directions' sigma), `random`, `min_genes`, `terms` (at most), `bootstrap`,
        `batch_tokens`.

    Returns
    -------
    One row a term (:data:`COLUMNS`), sorted by p; and a summary.

    Raises
    ------
    InputError
        Without cells, or where no term has enough genes or directions fitted without folds.
    """
    if not len(tokens):
        raise InputError("steering: found no cell to steer towards concepts, expected some")
    position = {gene: i for i, gene in enumerate(probes.genes)}
    fold = np.array([probes.fold[position[g]] if g in position else -1 for g in genes])
    visible = (np.asarray(ids) >= 0) & (fold >= 0)
    sizes = (members & visible).sum(axis=1)
    directions = probes.unit(kind)
    able = np.flatnonzero((sizes >= settings["min_genes"]) & (np.abs(directions).sum(axis=1) > 0))
    if not len(able):
        raise InputError(
            f"steering: found no term with a direction and {settings['min_genes']} genes that the model sees"
        )
    able = np.sort(generator.permutation(able)[: settings["terms"]])
    norm = float(settings["dose"] * np.median(probes.of(kind).sigma[able]))
    options = {"batch_tokens": settings["batch_tokens"], "device": device}
    folds = [f for f in range(int(fold.max()) + 1)]
    permuted = probes.unit(kind, permuted=True) if kind in probes.permuted else np.zeros_like(directions)
    random = random_directions(settings["random"], probes.d, generator)
    null = decoded_changes(model, tokens, ids, probes.layer, norm * random, **options).mean(axis=1)
    rows = []
    for term in able:
        fitted = np.stack([probes.unit(kind, fold=f)[term] for f in folds])
        used = [f for f in folds if np.abs(fitted[f]).sum() and (members[term] & visible & (fold == f)).any()]
        if not used:
            continue
        vectors = [unit(fitted[f])[0].numpy() for f in used]
        if np.abs(permuted[term]).sum():
            vectors.append(permuted[term])
        changes = decoded_changes(model, tokens, ids, probes.layer, norm * np.stack(vectors), **options)
        weights = [int((members[term] & visible & (fold == f)).sum()) for f in used]
        judged = [visible & (fold == f) for f in used]

        def score(means: np.ndarray, used=used, judged=judged, weights=weights, term=term) -> np.ndarray:
            """Effect and AUROC (2,) over folds of mean changes (folds, genes)."""
            parts = [contrast(means[i], members[term], judged[i]) for i in range(len(used))]
            return np.average(np.array(parts, float), axis=0, weights=weights)

        effect, auroc = score(changes[: len(used)].mean(axis=1))
        drawn = generator.multinomial(
            len(tokens), np.full(len(tokens), 1 / len(tokens)), settings["bootstrap"]
        )
        draws = [score(np.einsum("c,fcg->fg", w / len(tokens), changes[: len(used)]))[0] for w in drawn]
        lo, hi = np.quantile(draws, stats.INTERVAL)
        of_null = np.average(
            [contrast(null, members[term], each)[0] for each in judged], axis=0, weights=weights
        )
        control = np.nan
        if len(vectors) > len(used):
            alone = changes[-1].mean(axis=0)
            control = np.average(
                [contrast(alone, members[term], each)[0] for each in judged], weights=weights
            )
        rows.append(
            {"term_id": probes.term_ids[term], "n_genes": int(sizes[term]), "n_held_out": sum(weights),
             "effect": effect, "lo": lo, "hi": hi, "auroc": auroc, "effect_permuted": float(control),
             "null_mean": of_null.mean(), "null_sd": of_null.std(ddof=1),
             "p": float(stats.permutation_p(effect, of_null)), "p_min": 1 / (1 + len(of_null))}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table["q"] = stats.benjamini_hochberg(table["p"].to_numpy())
    table = table.sort_values(["p", "effect"], ascending=[True, False], kind="stable")[list(COLUMNS)]
    summary = {
        "layer": probes.layer,
        "kind": kind,
        "cells": len(tokens),
        "terms": len(table),
        "random_directions": settings["random"],
        "dose": settings["dose"],
        "norm": norm,
        "mean_effect": float(table["effect"].mean()),
        "mean_effect_permuted": _mean(table["effect_permuted"]),
        "mean_null": float(table["null_mean"].mean()),
        "mean_auroc": float(table["auroc"].mean()),
        "n_significant": int((table["q"] < 0.05).sum()),
    }
    return table.reset_index(drop=True), summary


def _mean(values: pd.Series) -> float | None:
    return None if values.isna().all() else float(values.mean())
