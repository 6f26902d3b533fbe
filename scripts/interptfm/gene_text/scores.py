"""Scores of classified cells: accuracy, macro-F1, recall of rare types, with blocks as replicates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interptfm import stats

MEASURES = ("accuracy", "macro_f1", "rare_recall")
KEPT = {"all": "all held-out cells", "test": "cells of test blocks"}


def rare_types(types: np.ndarray, share: float) -> list[str]:
    """Return the ``share`` of cell types (at least one) with the fewest cells."""
    names, counts = np.unique(types, return_counts=True)
    order = np.lexsort((names, counts))
    return sorted(names[order[: max(1, int(np.ceil(share * len(names))))]].tolist())


def confusion(
    true: np.ndarray, predicted: np.ndarray, n: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return counts, or sums of weights, (n × n; rows: true type) of types given as whole numbers."""
    return np.bincount(true * n + predicted, weights, minlength=n * n).reshape(n, n)


def measures_of(table: np.ndarray, rare: Sequence[int]) -> np.ndarray:
    """Return accuracy, macro-F1 and mean recall of the rare types of confusion tables (... × n × n).

    The mean over types is one over those with a cell; F1 is 0 for such a type that is never called. NaN
    where there is no cell, or none of a rare type.
    """
    table = np.asarray(table, float)
    right = np.diagonal(table, axis1=-2, axis2=-1)
    true, called = table.sum(axis=-1), table.sum(axis=-2)
    total = true.sum(axis=-1)
    there = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = right.sum(axis=-1) / total
        f1 = np.where(there, 2 * right / np.where(there, true + called, 1), 0).sum(axis=-1) / there.sum(
            axis=-1
        )
        recall = np.where(there, right / np.where(there, true, 1), 0)[..., list(rare)].sum(axis=-1)
        recall = recall / there[..., list(rare)].sum(axis=-1)
    return np.stack([accuracy, f1, recall], axis=-1)


def block_tables(true: np.ndarray, predicted: np.ndarray, blocks: np.ndarray, n: int) -> np.ndarray:
    """Return one confusion table a block, (blocks × n × n), blocks in sorted order."""
    _, block = np.unique(blocks, return_inverse=True)
    size = int(block.max()) + 1 if len(block) else 0
    flat = np.bincount((block * n + true) * n + predicted, minlength=size * n * n)
    return flat.reshape(size, n, n)


def draws(n_blocks: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return how often each block is drawn, (count × blocks): the block bootstrap."""
    return generator.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=count)


def score(
    predictions: pd.DataFrame, types: Sequence[str], rare: Sequence[str], bootstrap: int, seed: int
) -> tuple[pd.DataFrame, dict[tuple[str, str], np.ndarray]]:
    """Score every variant of one representation.

    Parameters
    ----------
    predictions
        Frame: block, split, cell_type, and one column a variant with the called type; held-out cells alone.
    types, rare
        All types, and the rare ones among them.
    bootstrap, seed
        Draws of whole blocks; the same seed gives the same draws for every representation, so that
        differences are paired.

    Returns
    -------
    scores, resampled
        Frame: variant, cells (see :data:`KEPT`), measure, value, lo, hi, n, n_blocks. By (variant, cells) the
        resampled measures (draws × measures).
    """
    place = {name: i for i, name in enumerate(types)}
    numbers = [place[name] for name in rare]
    variants = [name for name in predictions if name not in ("cell", "sample", "block", "split", "cell_type")]
    rows, resampled = [], {}
    for kept in KEPT:
        part = predictions if kept == "all" else predictions[predictions["split"] == "test"]
        if part["block"].nunique() < 2:
            continue
        true = part["cell_type"].map(place).to_numpy(np.int64)
        blocks = part["block"].to_numpy(str)
        drawn = draws(len(np.unique(blocks)), bootstrap, np.random.default_rng(seed))
        for variant in variants:
            tables = block_tables(true, part[variant].map(place).to_numpy(np.int64), blocks, len(types))
            values = measures_of(tables.sum(axis=0), numbers)
            again = measures_of(np.tensordot(drawn, tables, axes=1), numbers)
            resampled[variant, kept] = again
            lo, hi = np.nanquantile(again, stats.INTERVAL, axis=0)
            for i, measure in enumerate(MEASURES):
                rows.append((variant, kept, measure, values[i], lo[i], hi[i], len(part), len(tables)))
    columns = ["variant", "cells", "measure", "value", "lo", "hi", "n", "n_blocks"]
    return pd.DataFrame(rows, columns=columns), resampled


def of_types(predictions: pd.DataFrame, variant: str, types: Sequence[str]) -> pd.DataFrame:
    """Return cell_type, n, precision, recall and f1 of each type under one variant, all held-out cells."""
    place = {name: i for i, name in enumerate(types)}
    true = predictions["cell_type"].map(place).to_numpy(np.int64)
    table = confusion(true, predictions[variant].map(place).to_numpy(np.int64), len(types))
    right, n, called = np.diag(table).astype(float), table.sum(axis=1), table.sum(axis=0)
    return pd.DataFrame(
        {
            "cell_type": list(types),
            "n": n,
            "precision": np.divide(right, called, out=np.full(len(n), np.nan), where=called > 0),
            "recall": np.divide(right, n, out=np.full(len(n), np.nan), where=n > 0),
            "f1": np.divide(2 * right, n + called, out=np.full(len(n), np.nan), where=n > 0),
        }
    )


def differences(
    scores: pd.DataFrame,
    resampled: dict[str, dict[tuple[str, str], np.ndarray]],
    reference: str,
) -> pd.DataFrame:
    """Return the difference of every representation from a reference, with paired block-bootstrap intervals.

    Parameters
    ----------
    scores
        Frame of all representations: representation, and the columns of :func:`score`.
    resampled
        Representation → resampled measures of :func:`score`, made with the same draws.
    reference
        Representation that the others are compared with, variant by variant.

    Returns
    -------
    Frame: representation, reference, variant, cells, measure, difference, lo, hi.
    """
    value = scores.set_index(["representation", "variant", "cells", "measure"])["value"]
    rows = []
    for name, found in resampled.items():
        for (variant, kept), again in found.items():
            if name == reference or (variant, kept) not in resampled[reference]:
                continue
            gap = again - resampled[reference][variant, kept]
            lo, hi = np.nanquantile(gap, stats.INTERVAL, axis=0)
            for i, measure in enumerate(MEASURES):
                difference = value[name, variant, kept, measure] - value[reference, variant, kept, measure]
                rows.append((name, reference, variant, kept, measure, difference, lo[i], hi[i]))
    columns = ["representation", "reference", "variant", "cells", "measure", "difference", "lo", "hi"]
    return pd.DataFrame(rows, columns=columns)
