"""Archetypes: units called tumour, TME or interface by what they are enriched in; and cells by units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interptfm.regions.geometry import INTERFACE, REGIONS, TME, TUMOUR
from interptfm.tis.scoring import Columns, column

LEAST_Q = 1e-12


def archetypes(
    enriched: pd.DataFrame, tumour_types: Sequence[str], max_q: float, quantile: float
) -> pd.DataFrame:
    """Call units by the types in which they are significantly high.

    T = Σ effect × −log₁₀ q over significant tumour types with an effect above 0, E likewise over the other
    types, I = min(T, E). Each score is turned into its share of units that do not exceed it; a unit is
    called by the score in which it stands highest, if that share reaches ``quantile`` and the score is
    above 0.

    Parameters
    ----------
    enriched
        Table of :func:`interptfm.regions.enrichment.enrichment`.
    tumour_types
        Types that are tumour.

    Returns
    -------
    Frame by unit: unit, T, E, I, call (empty where not called).
    """
    significant = (enriched["q"] < max_q) & (enriched["effect"] > 0)
    strength = enriched["effect"] * -np.log10(enriched["q"].clip(lower=LEAST_Q))
    score = strength.where(significant, 0.0)
    is_tumour = enriched["cell_type"].isin(list(tumour_types))
    frame = pd.DataFrame(
        {
            "T": score.where(is_tumour, 0.0).groupby(enriched["unit"]).sum(),
            "E": score.where(~is_tumour, 0.0).groupby(enriched["unit"]).sum(),
        }
    )
    frame["I"] = frame[["T", "E"]].min(axis=1)

    scores = frame[["T", "I", "E"]]
    standing = scores.rank(method="max", pct=True).where(scores > 0, 0.0)
    best = standing.max(axis=1)
    names = standing.idxmax(axis=1).map({"T": TUMOUR, "I": INTERFACE, "E": TME})
    frame["call"] = names.where((best > 0) & (best >= quantile), "")
    return frame.rename_axis("unit").reset_index()


def compartment_scores(
    columns: Columns, names: Sequence[int], calls: pd.DataFrame, reference: np.ndarray
) -> np.ndarray:
    """Return the mean z-score of the units called for each compartment, (cells × 3), as in ``REGIONS``.

    Units are standardised by the ``reference`` cells (bool). A compartment without units is NaN throughout.
    """
    place = {int(name): i for i, name in enumerate(names)}
    scores = np.full((columns.shape[0], len(REGIONS)), np.nan)
    for j, region in enumerate(REGIONS):
        parts = []
        for unit in calls.loc[calls["call"] == region, "unit"]:
            values = np.asarray(column(columns, place[int(unit)]), float)
            spread = values[reference].std()
            parts.append((values - values[reference].mean()) / (spread if spread > 0 else 1.0))
        if parts:
            scores[:, j] = np.mean(parts, axis=0)
    return scores


def call_cells(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities (softmax of the scores; 0 for a compartment without units), call and confidence.

    The confidence is the probability of the call less that of the next. Without units for any compartment,
    all are NaN and the call is empty.
    """
    from scipy.special import softmax

    present = ~np.isnan(scores).all(axis=0)
    if not present.any():
        return scores.copy(), np.full(len(scores), ""), np.full(len(scores), np.nan)
    probability = np.zeros(scores.shape)
    probability[:, present] = softmax(scores[:, present], axis=1)
    ranked = np.sort(probability, axis=1)
    return probability, np.array(REGIONS)[probability.argmax(axis=1)], ranked[:, -1] - ranked[:, -2]
