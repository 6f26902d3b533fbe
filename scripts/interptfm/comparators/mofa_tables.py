"""What factors explain: variance of every view, one view told from another, weights.

Held out means cells of test blocks; :mod:`interptfm.comparators.mofa` fits the factors and infers them there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations

import numpy as np
import pandas as pd

from interptfm import stats
from interptfm.comparators.mofa_views import CONCEPTS, DERIVED, STAINS, View
from interptfm.tis.units import Cells

EVERY = "all"
SHUFFLED = ("section", "type")
VARIANCE = ("cells", "view", "group", "factor", "r2", "n")
WEIGHTS = ("view", "name", "term_id", "channel", "factor", "weight")
PREDICTION = (
    "from", "to", "shuffled", "derived", "r2", "lo", "hi", "null_mean", "null_hi", "p", "p_min", "q",
    "r2_types", "n",
)  # fmt: skip
TABLES = {"variance": VARIANCE, "prediction": PREDICTION, "weights": WEIGHTS}


def r2(values: np.ndarray, predicted: np.ndarray) -> float:
    """Return 1 − residual / total sum of squares; the total is about 0, the training mean of the section."""
    total = float((values**2).sum())
    return 1 - float(((values - predicted) ** 2).sum()) / total if total > 0 else float("nan")


def explained(
    views: Sequence[View],
    loadings: Sequence[np.ndarray],
    factors: np.ndarray,
    rows: Mapping[tuple[str, str], np.ndarray],
) -> pd.DataFrame:
    """Return the variance of each view that each factor explains, :data:`VARIANCE`.

    Parameters
    ----------
    loadings
        Of each view (columns × factors) weights.
    factors
        (cells × factors), inferred from all views.
    rows
        (``cells``, ``group``) → positions.

    ``factor`` counts from 1; 0: all together. The factors have seen the view: this is how much of it is
    rebuilt.
    """
    found = []
    for (kind, group), chosen in rows.items():
        for view, weights in zip(views, loadings, strict=True):
            mine = chosen[view.there[chosen]]
            for k in range(weights.shape[1] + 1) if len(mine) else ():
                some = slice(None) if k == 0 else slice(k - 1, k)
                share = r2(view.values[mine], factors[mine, some] @ weights[:, some].T)
                found.append((kind, view.name, group, k, share, len(mine)))
    return pd.DataFrame(found, columns=list(VARIANCE))


def dealt(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a permutation (n,) that deals the rows anew among those with the same label."""
    result = np.empty(len(labels), np.int64)
    result[np.argsort(labels, kind="stable")] = np.lexsort((generator.random(len(labels)), labels))
    return result


def predictions(
    views: Sequence[View],
    loadings: Sequence[np.ndarray],
    infer: Callable[[int], np.ndarray],
    cells: Cells,
    train: np.ndarray,
    test: np.ndarray,
    settings: Mapping[str, int],
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Return how well one view tells another in cells that the model was not fitted on, :data:`PREDICTION`.

    Parameters
    ----------
    views, loadings
        Values of all cells, standardised by training cells; of each view (columns × factors) weights.
    infer
        Position of a view → (cells × factors), factors as this view alone has them.
    train, test
        Positions of cells.
    settings
        ``permutations`` and ``bootstrap``.

    ``r2`` of the view ``to`` from factors that only the view ``from`` was used for. ``null_mean`` and
    ``null_hi``: mean and 97.5 % quantile where these factors are dealt among the test cells of a section, or
    of a section and cell type (``shuffled``). ``lo``, ``hi`` by resampled test blocks. ``r2_types``: what
    the training mean of the cell's type predicts. ``derived``: one view is computed from the other. q is
    Benjamini–Hochberg over the rows of a null that are not derived.
    """
    found, types = [], cells.types
    section = pd.factorize(cells.section)[0]
    kind = section * (len(types) + 1) + pd.factorize(types)[0]
    for a, b in permutations(range(len(views)), 2):
        values, weights = views[b].values, loadings[b]
        derived = {views[a].name, views[b].name} in DERIVED
        rows = test[views[a].there[test] & views[b].there[test]]
        if len(rows) < 2:
            continue
        factors = infer(a)[rows]
        y = values[rows]
        predicted = factors @ weights.T
        total = (y**2).sum(axis=1)
        size, pull = (predicted**2).sum(axis=1), y @ weights
        known = train[views[b].there[train]]
        means = pd.DataFrame(values[known]).groupby(types[known]).mean()
        of_types = r2(y, means.reindex(types[rows]).fillna(0).to_numpy())
        gained = 2 * (factors * pull).sum(axis=1) - size
        lo = hi = np.nan
        if len(np.unique(cells.blocks[rows])) > 1:
            lo, hi = stats.block_bootstrap(
                cells.blocks[rows],
                lambda w, g=gained, t=total: (w @ g) / max(w @ t, 1e-300),
                settings["bootstrap"],
                generator,
            )
        share = gained.sum() / total.sum()
        for shuffled, labels in zip(SHUFFLED, (section[rows], kind[rows]), strict=True):
            null = np.array(
                [
                    (2 * (factors[dealt(labels, generator)] * pull).sum() - size.sum()) / total.sum()
                    for _ in range(settings["permutations"])
                ]
            )
            p = float(stats.permutation_p(share, null))
            high = float(np.quantile(null, stats.INTERVAL[1]))
            found.append(
                (views[a].name, views[b].name, shuffled, derived, share, float(lo), float(hi), null.mean(),
                 high, p, 1 / (1 + len(null)), np.nan, of_types, len(rows))
            )  # fmt: skip
    table = pd.DataFrame(found, columns=list(PREDICTION))
    independent = table[~table["derived"].astype(bool)]
    table.loc[independent.index, "q"] = independent.groupby("shuffled")["p"].transform(
        stats.benjamini_hochberg
    )
    return table


def weights_table(views: Sequence[View], loadings: Sequence[np.ndarray]) -> pd.DataFrame:
    """Return the weight of every column of every view on every factor (from 1), :data:`WEIGHTS`."""
    parts = []
    for view, weights in zip(views, loadings, strict=True):
        for k in range(weights.shape[1]):
            parts.append(view.columns.assign(view=view.name, factor=k + 1, weight=weights[:, k]))
    return pd.concat(parts, ignore_index=True)[list(WEIGHTS)]


def headline(variance: pd.DataFrame, prediction: pd.DataFrame, kept: int, fitted: int) -> str:
    """Return the factors kept, and what is explained and predicted on held-out cells beside the null."""
    rebuilt = variance[
        (variance["cells"] == "test") & (variance["group"] == EVERY) & (variance["factor"] == 0)
    ]
    parts = [f"{kept} of {fitted} factors"]
    if len(rebuilt):
        words = ", ".join(f"{row.view} {row.r2:.2f}" for row in rebuilt.itertuples())
        parts.append(f"r² of held-out cells, rebuilt: {words}")
    for a, b in ((CONCEPTS, STAINS), (STAINS, CONCEPTS)):
        rows = prediction[(prediction["from"] == a) & (prediction["to"] == b)].set_index("shuffled")
        if len(rows):
            row, null = rows.iloc[0], rows["null_mean"]
            parts.append(
                f"{b} from {a} {row['r2']:.2f} ({row['lo']:.2f} to {row['hi']:.2f}; shuffled "
                f"{null['section']:.2f}, within type {null['type']:.2f}; by the type alone "
                f"{row['r2_types']:.2f})"
            )
    if not len(prediction[~prediction["derived"].astype(bool)]):
        parts.append("no view is independent of another: channels are means of concepts")
    return "; ".join(parts)
