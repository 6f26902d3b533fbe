"""Representations side by side: scores, paired differences, types and learning curves in one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from interptfm import stats
from interptfm.gene_text import scores
from interptfm.gene_text.classification import AFTER


def compare(
    predictions: Mapping[str, pd.DataFrame],
    curve: Mapping[str, pd.DataFrame],
    null: Mapping[str, pd.DataFrame],
    types: Sequence[str],
    rare: Sequence[str],
    reference: str,
    bootstrap: int,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Return the tables ``scores``, ``differences``, ``types`` and ``curve`` of all representations.

    Parameters
    ----------
    predictions, curve, null
        Frames of :mod:`interptfm.gene_text.classification` by representation.
    types, rare
        All types, and the rare ones.
    reference
        Representation that the others are compared with.
    bootstrap, seed
        Draws of whole blocks, the same for all.
    """
    parts, resampled = [], {}
    for name, frame in predictions.items():
        part, resampled[name] = scores.score(frame, types, rare, bootstrap, seed)
        parts.append(_with_null(part, null[name]).assign(representation=name))
    scored = pd.concat(parts, ignore_index=True)
    by_type = [
        scores.of_types(frame, AFTER, types).assign(representation=n) for n, frame in predictions.items()
    ]
    curves = [_mean_curve(frame).assign(representation=name) for name, frame in curve.items()]
    tables = {
        "scores": scored,
        "differences": scores.differences(scored, resampled, reference),
        "types": pd.concat(by_type, ignore_index=True),
        "curve": pd.concat(curves, ignore_index=True),
    }
    return {name: _first(frame, "representation") for name, frame in tables.items()}


def _with_null(scored: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """Add the mean and the central 95 % of the shuffled labels, and p, to scores over all held-out cells."""
    keys = ["variant", "measure"]
    by = null.groupby(keys)["value"]
    drawn = pd.DataFrame(
        {
            "null_mean": by.mean(),
            "null_lo": by.quantile(stats.INTERVAL[0]),
            "null_hi": by.quantile(stats.INTERVAL[1]),
            "null_draws": by.size(),
        }
    ).reset_index()
    found = scored.merge(drawn.assign(cells="all"), on=[*keys, "cells"], how="left")
    values = {key: part.to_numpy() for key, part in by}
    found["p"] = [
        float(stats.permutation_p(row.value, values[row.variant, row.measure]))
        if row.null_draws > 0
        else np.nan
        for row in found.itertuples()
    ]
    return found


def _mean_curve(curve: pd.DataFrame) -> pd.DataFrame:
    """Return mean, least and largest value over the draws of labelled cells."""
    by = curve.groupby(["labels", "variant", "measure"], sort=False)["value"]
    return pd.DataFrame(
        {"value": by.mean(), "least": by.min(), "largest": by.max(), "draws": by.size()}
    ).reset_index()


def _first(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame[[column, *(name for name in frame if name != column)]]
