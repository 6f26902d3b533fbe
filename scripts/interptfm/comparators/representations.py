"""Representations of cells side by side: how well nearest neighbours in them tell cell types, and TIS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import stats
from interptfm.comparators.status import Skipped
from interptfm.gene_text.scores import confusion, measures_of

COLUMNS = ("representation", "layer", "dimensions", "measure", "group", "value", "lo", "hi", "n")
ACCURACY, F1 = "accuracy of cell types", "macro-F1 of cell types"
SHUFFLED, COMMONEST = "shuffled training labels", "commonest type"


def principal_components(counts: sparse.csr_matrix, fitted: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return principal components of log-normalised expression, fitted on some cells; float64 (cells × n)."""
    from sklearn.decomposition import PCA

    from interptfm.tis.judges import log_normalise

    logged = np.asarray(log_normalise(counts).todense(), np.float64)
    most = min(n, len(fitted), logged.shape[1])
    return PCA(most, random_state=seed % 2**32).fit(logged[fitted]).transform(logged)


def neighbours(
    values: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, k: int
) -> np.ndarray:
    """Return the label that most of the ``k`` nearest training cells have, of each test cell.

    Columns are standardised by the training cells; distances are Euclidean; ties go to the label that comes
    first. ``train`` and ``test`` are positions.
    """
    from sklearn.neighbors import KNeighborsClassifier

    mean, sd = values[train].mean(axis=0), values[train].std(axis=0)
    scaled = (values - mean) / np.where(sd > 0, sd, 1)
    model = KNeighborsClassifier(min(k, len(train))).fit(scaled[train], labels[train])
    return model.predict(scaled[test])


def scores(true: np.ndarray, found: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return accuracy and macro-F1 over the types that are there, of weighted cells."""
    names, number = np.unique(np.concatenate([true, found]), return_inverse=True)
    table = confusion(number[: len(true)], number[len(true) :], len(names), weights)
    accuracy, f1, _ = measures_of(table, rare=())
    return float(accuracy), float(f1)


def classify(
    spaces: Mapping[tuple[str, int], np.ndarray],
    labels: np.ndarray,
    blocks: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    settings: Mapping[str, int],
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Classify the test cells in every space, and by two rules of chance.

    Parameters
    ----------
    spaces
        (name, layer) → (cells × dimensions).
    labels, blocks
        (cells,) type and block of each cell.
    train, test
        Positions; test cells lie in blocks that no training cell lies in.
    settings
        ``neighbours`` and ``bootstrap``.

    Returns
    -------
    :data:`COLUMNS`; ``lo``, ``hi`` by resampled test blocks. Layer −1: has none.

    Raises
    ------
    Skipped
        Without two types among the training cells, or without test cells in two blocks.
    """
    kinds, counts = np.unique(labels[train], return_counts=True)
    if len(kinds) < 2 or len(np.unique(blocks[test])) < 2:
        raise Skipped(f"{len(kinds)} types in training blocks and {len(np.unique(blocks[test]))} test blocks")
    true, rows = labels[test], []
    answers = {
        key: (values.shape[1], neighbours(values, labels, train, test, settings["neighbours"]))
        for key, values in spaces.items()
    }
    (name, layer), values = next(iter(spaces.items()))
    shuffled = labels.copy()
    shuffled[train] = generator.permutation(labels[train])
    chance = neighbours(values, shuffled, train, test, settings["neighbours"])
    answers[f"{name}, {SHUFFLED}", layer] = (values.shape[1], chance)
    answers[COMMONEST, -1] = (0, np.full(len(test), kinds[np.argmax(counts)]))
    for (name, layer), (dimensions, found) in answers.items():
        values = scores(true, found, np.ones(len(test)))
        lo, hi = stats.block_bootstrap(
            blocks[test],
            lambda weights, found=found: np.array(scores(true, found, weights.astype(float))),
            settings["bootstrap"],
            generator,
        )
        for i, measure in enumerate((ACCURACY, F1)):
            rows.append((name, layer, dimensions, measure, "all", values[i], lo[i], hi[i], len(test)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def unit_scores(name: str, layer: int, summary: Mapping[str, Any]) -> pd.DataFrame:
    """Return the TIS of a space and of its controls from ``tis/*/summary.json``, as :data:`COLUMNS`."""
    rows = []
    for variant in summary["variants"]:
        for key, measure in (("mean", "TIS, mean"), ("mean_matched", "TIS, mean, matched"),
                             ("best_tis", "TIS, best")):  # fmt: skip
            if variant[key] is not None:
                n, value = variant["n_scored"], variant[key]
                rows.append(
                    (name, layer, variant["n"], measure, variant["variant"], value, np.nan, np.nan, n)
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def compartment_scores(name: str, layer: int, agreement: pd.DataFrame) -> pd.DataFrame:
    """Return how well compartments called from a space agree with geometry, from ``agreement.parquet``."""
    mine = agreement[agreement["measure"].isin(["accuracy", "AUROC, one against rest"])]
    return pd.DataFrame(
        {
            "representation": name, "layer": layer, "dimensions": 0,
            "measure": "compartments: " + mine["measure"].astype(str), "group": mine["group"],
            "value": mine["value"], "lo": mine["lo"], "hi": mine["hi"], "n": mine["n"],
        }
    )[list(COLUMNS)]  # fmt: skip


def headline(table: pd.DataFrame) -> str:
    """Return macro-F1 of every representation with its interval, best first, in words."""
    found = table[table["measure"] == F1].sort_values("value", ascending=False, kind="stable")
    return "macro-F1 of cell types: " + ", ".join(
        f"{row.representation}{f' layer {row.layer}' if row.layer >= 0 else ''} {row.value:.3f} "
        f"({row.lo:.3f} to {row.hi:.3f})"
        for row in found.itertuples()
    )
