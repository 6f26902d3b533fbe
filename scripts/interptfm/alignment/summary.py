"""The headline of an alignment: held-out cells and held-out genes, each beside its null."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from interptfm import stats
from interptfm.alignment.genes import METRICS
from interptfm.alignment.tables import Data
from interptfm.features.tokens import SPLITS


def summary_of(
    data: Data,
    concepts: pd.DataFrame,
    features: pd.DataFrame,
    interpretable: pd.DataFrame,
    null: pd.DataFrame,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return the headline numbers; means are over the scored terms, of the null over the same."""
    scored, max_q = concepts[data.scored], settings["max_q"]
    mean, mean_validation = float(scored["f1"].mean()), float(scored["f1_validation"].mean())
    draws, draws_validation = null["mean_f1"].to_numpy(), null["mean_f1_validation"].to_numpy()
    lo, hi = np.quantile(draws, stats.INTERVAL)
    fired = features["fired_train"] > 0
    p_min = float(scored["p_min"].max())
    return {
        "n_concepts": len(concepts),
        "n_concepts_scored": len(scored),
        "n_concepts_without_validation_positives": int((~data.has_validation).sum()),
        "n_concepts_without_test_positives": int((~data.has_test).sum()),
        "n_concepts_without_a_feature": int(scored["feature"].isna().sum()),
        "n_features": data.n_features,
        "n_features_never_firing": int((~fired).sum()),
        "n_features_not_firing_on_validation": int((features["fired_validation"] == 0).sum()),
        "n_genes": len(data.firing.genes),
        "n_genes_without_term": int((data.members.getnnz(axis=0) == 0).sum()),
        "thresholds": [float(t) for t in data.firing.thresholds],
        "n_tokens": {name: int(data.firing.tokens[i].sum()) for i, name in enumerate(SPLITS)},
        "n_permutations": len(null),
        "mean_f1": mean,
        "null_mean": float(draws.mean()),
        "null_sd": float(draws.std(ddof=1)),
        "null_lo": float(lo),
        "null_hi": float(hi),
        "excess": mean - float(draws.mean()),
        "p": float(stats.permutation_p(mean, draws)),
        "p_min": 1 / (1 + len(null)),
        "mean_f1_single_gene": float(scored["f1_single_gene"].mean()),
        "mean_lift": float(scored["lift"].mean()),
        "validation_mean_f1": mean_validation,
        "validation_null_mean": float(draws_validation.mean()),
        "validation_excess": mean_validation - float(draws_validation.mean()),
        "n_concepts_significant": int((scored["q"] < max_q).sum()),
        "concept_p_min": p_min,
        "one_concept_can_be_significant": bool(p_min * len(scored) < max_q),
        "n_concepts_f1_above_half": int((scored["f1"] > 0.5).sum()),
        "n_features_f1_above_half": int(scored.loc[scored["f1"] > 0.5, "feature"].nunique()),
        "n_interpretable_pairs": len(interpretable),
        "n_interpretable_features": int(interpretable["feature"].nunique()),
        "p_method": "nulls standardised per term, pooled over terms of similar gene number",
        "n_gene_folds": data.held_out.n_folds,
        **settings,
        "headline": {"cell_held_out": _cells(scored, null), "gene_held_out": _genes(data, concepts, null)},
    }


def _beside_null(observed: pd.Series, draws: np.ndarray) -> dict[str, Any]:
    """Return the mean over terms with the null's mean and central 95 %, excess and permutation p."""
    mean = float(observed.mean())
    lo, hi = np.quantile(draws, stats.INTERVAL)
    return {
        "mean": mean,
        "null_mean": float(draws.mean()),
        "null_lo": float(lo),
        "null_hi": float(hi),
        "excess": mean - float(draws.mean()),
        "p": float(stats.permutation_p(mean, draws)),
    }


def _cells(scored: pd.DataFrame, null: pd.DataFrame) -> dict[str, Any]:
    return {"n": len(scored), "f1": _beside_null(scored["f1"], null["mean_f1"].to_numpy())}


def _genes(data: Data, concepts: pd.DataFrame, null: pd.DataFrame) -> dict[str, Any]:
    """Return the measures on held-out genes; those that are not defined for any term are left out."""
    part = concepts.iloc[data.held_out_terms]
    found: dict[str, Any] = {"n": len(part)}
    for name in METRICS:
        if part[f"gene_{name}"].notna().any():
            # The null counts a term without a scored fold as chance, so it is over the same terms.
            found[name] = _beside_null(part[f"gene_{name}"], null[f"gene_{name}"].to_numpy())
    return found
