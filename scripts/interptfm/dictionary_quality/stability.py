"""Stability over seeds: which features come back when the dictionary is trained again.

Features of two dictionaries are matched one to one (Hungarian method) so that the summed cosine of their
decoder rows is largest, and, separately, that of their activations over held-out tokens (Paulo & Belrose
2025 do the former). Random directions also match to some degree: the same matching against random rows
is reported beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interptfm.errors import InputError
from interptfm.sae.inference import Dictionary

LEVEL = 0.7
MIN_SEEDS = 3


def matched(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return partner and similarity (n,) of each row under the one-to-one matching of largest sum."""
    from scipy.optimize import linear_sum_assignment

    row, column = linear_sum_assignment(similarity, maximize=True)
    order = np.argsort(row)
    return column[order], similarity[row[order], column[order]]


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return rows (n × d) of length 1; rows of length 0 stay 0."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norm, 1e-12)


def firing_similarity(
    first: Dictionary, others: Sequence[Dictionary], blocks: Iterable[np.ndarray]
) -> list[np.ndarray]:
    """Return for each other dictionary the cosine of activations over tokens (features × features).

    Features that do not fire on the blocks have cosine 0 with everything.
    """
    products = [np.zeros((first.n_features, other.n_features), np.float64) for other in others]
    squares = [np.zeros(each.n_features) for each in (first, *others)]
    for block in blocks:
        codes = [each.encode_sparse(block) for each in (first, *others)]
        for total, code in zip(squares, codes, strict=True):
            total += np.asarray(code.multiply(code).sum(0)).ravel()
        for total, code in zip(products, codes[1:], strict=True):
            cross = (codes[0].T @ code).tocoo()
            np.add.at(total, (cross.row, cross.col), cross.data)
    norms = [np.sqrt(np.maximum(total, 1e-30)) for total in squares]
    return [product / np.outer(norms[0], norm) for product, norm in zip(products, norms[1:], strict=True)]


def stability(
    first: Dictionary,
    others: Sequence[Dictionary],
    blocks: Iterable[np.ndarray],
    generator: np.random.Generator,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Compare the dictionary of the first seed with those of further seeds.

    Returns
    -------
    frame
        One row a feature of ``first``: ``feature``; ``decoder_cosine`` and ``firing_cosine``: mean over
        the other seeds of the matched cosine; their smallest values ``…_min``; ``stable``: the decoder's
        matched cosine is above 0.7 in every other seed.
    summary
        ``seeds``; ``decoder`` and ``firing``: share of matches above 0.7, over features and seeds, and
        the mean cosine; ``chance``: the decoder's with random directions in place of a seed; ``stable``:
        share of features.

    Raises
    ------
    InputError
        For fewer than three seeds, or dictionaries of different shapes.
    """
    if len(others) + 1 < MIN_SEEDS:
        raise InputError(f"stability: found {len(others) + 1} seeds, expected at least {MIN_SEEDS}")
    for other in others:
        if (other.d, other.n_features) != (first.d, first.n_features):
            raise InputError(
                f"stability: found a dictionary of {other.n_features} × {other.d}, expected "
                f"{first.n_features} × {first.d} as the first seed's"
            )
    rows = unit_rows(first.weights["W_dec"])
    decoder = np.stack([matched(rows @ unit_rows(each.weights["W_dec"]).T)[1] for each in others])
    firing = np.stack([matched(each)[1] for each in firing_similarity(first, others, blocks)])
    random = unit_rows(generator.standard_normal(rows.shape))
    chance = matched(rows @ random.T)[1]
    stable = (decoder > LEVEL).all(0)
    frame = pd.DataFrame(
        {
            "feature": np.arange(first.n_features),
            "decoder_cosine": decoder.mean(0),
            "decoder_cosine_min": decoder.min(0),
            "firing_cosine": firing.mean(0),
            "firing_cosine_min": firing.min(0),
            "stable": stable,
        }
    )

    def share(values: np.ndarray) -> dict[str, float]:
        return {"above": float((values > LEVEL).mean()), "mean": float(values.mean())}

    summary = {
        "seeds": len(others) + 1,
        "level": LEVEL,
        "n_features": first.n_features,
        "decoder": share(decoder),
        "firing": share(firing),
        "chance": share(chance),
        "stable": float(stable.mean()),
    }
    return frame, summary
