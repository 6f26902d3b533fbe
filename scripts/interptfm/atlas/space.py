"""What the stages found out about the features of one dictionary of one layer, read for the atlas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interptfm import store
from interptfm.errors import InputError

TOP_GENES = 10
# A gene with fewer tokens has no mean worth a rank.
MIN_TOKENS = 10
NEIGHBOURS = 10
CLAMP = "feature clamped, all tokens"
PAIR_COLUMNS = (
    "threshold", "precision", "recall", "f1", "lo", "hi", "f1_single_gene", "null_mean", "lift", "p", "q",
)  # fmt: skip
TIS_COLUMNS = ("tis_hard", "lo", "hi", "tis_matched", "tis_heldout_genes", "q", "p_min", "n_high")


@dataclass
class Space:
    """The tables of one dictionary at one layer.

    ``pairs`` (feature, term_id, scores of test blocks, interpretable), of each feature those that pass the
    run's thresholds first, then by F1 on validation blocks; ``tokens`` top tokens; ``maximum`` float32
    (features,); ``histogram`` int64 (features × bins) of positive codes; ``n_tokens`` that were counted;
    ``gene_mean`` float32 (panel × features), NaN for genes with few tokens, and ``gene_share`` of the
    feature's summed activation; ``decoder`` float32 (features × d) of unit length; ``tis`` by feature or
    None; ``clamped`` by feature (empty where steering clamps none).
    """

    dictionary: str
    layer: int
    pairs: pd.DataFrame
    tokens: pd.DataFrame
    maximum: np.ndarray
    histogram: np.ndarray
    n_tokens: int
    genes: list[str]
    gene_mean: np.ndarray
    gene_share: np.ndarray
    decoder: np.ndarray
    tis: pd.DataFrame | None
    clamped: pd.DataFrame

    @property
    def n_features(self) -> int:
        """Features of the dictionary, those that never fire among them."""
        return len(self.maximum)

    def rate(self) -> np.ndarray:
        """Return the share of tokens (features,) on which each feature fires."""
        return self.histogram.sum(axis=1) / max(1, self.n_tokens)

    def top_genes(self, feature: int) -> list[int]:
        """Return the panel indices of the genes with the largest positive mean activation, best first."""
        mean = np.nan_to_num(self.gene_mean[:, feature])
        order = np.argsort(-mean, kind="stable")[:TOP_GENES]
        return [int(gene) for gene in order if mean[gene] > 0]

    def neighbours(self, start: int, stop: int) -> list[list[tuple[int, float]]]:
        """Return for features ``start`` to ``stop`` the nearest other features by decoder cosine.

        Features that never fire on training tokens have directions that were never used; they are no
        neighbours.
        """
        cosine = self.decoder[start:stop] @ self.decoder.T
        cosine[:, self.maximum <= 0] = -np.inf
        cosine[np.arange(stop - start), np.arange(start, stop)] = -np.inf
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :NEIGHBOURS]
        return [
            [(int(other), float(row[other])) for other in chosen if np.isfinite(row[other])]
            for row, chosen in zip(cosine, order, strict=True)
        ]


def read(
    dictionary: str, layer: int, paths: Mapping[str, str], steering: Mapping[str, Any] | None = None
) -> Space:
    """Read the tables of one dictionary and layer.

    Parameters
    ----------
    paths
        Of ``interpretable`` and ``pairs`` (alignment), ``firing``, ``histogram`` and
        ``top_tokens`` (features), ``max``, ``weights``, and ``tis`` ("" where no units are scored).
    steering
        ``effects`` and ``summary`` of steering, where features of this dictionary and layer were clamped.

    Raises
    ------
    InputError
        If the tables are of different numbers of features.
    """
    maximum, histogram = np.load(paths["max"]), np.load(paths["histogram"])
    found = {"maxima": len(maximum), "histogram": len(histogram)}
    if len(set(found.values())) != 1:
        raise InputError(f"{paths['histogram']}: found {found} features, expected one number of features")
    genes, mean, share, n_tokens = _gene_profiles(paths["firing"])
    return Space(
        dictionary,
        layer,
        _pairs(paths["pairs"], paths["interpretable"]),
        store.read_table(paths["top_tokens"]).sort_values(["feature", "rank"]),
        maximum,
        histogram,
        n_tokens,
        genes,
        mean,
        share,
        _decoder(paths["weights"]),
        _tis(paths["tis"]) if paths["tis"] else None,
        _clamped(steering),
    )


def _gene_profiles(path: str) -> tuple[list[str], np.ndarray, np.ndarray, int]:
    """Return genes, mean activation and share of it (panel × features), and the tokens counted."""
    with store.open_zarr(path) as group:
        genes = [str(gene) for gene in group.attrs["genes"]]
        tokens = group["tokens"][:].sum(axis=0)
        sums = np.zeros(group["sums"].shape[1:], np.float32)
        for split in range(group["sums"].shape[0]):
            sums += group["sums"][split]
    total = sums.sum(axis=0)
    share = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
    sums /= np.maximum(tokens, 1)[:, None].astype(np.float32)
    sums[tokens < MIN_TOKENS] = np.nan
    return genes, sums, share, int(tokens.sum())


def _pairs(pairs: str, interpretable: str) -> pd.DataFrame:
    frame = store.read_table(pairs)
    frame = frame[frame["feature"].notna() & frame["term_id"].notna()].copy()
    frame["feature"] = frame["feature"].astype(int)
    frame["term_id"] = frame["term_id"].astype(str)
    passed = store.read_table(interpretable)
    keys = set(zip(passed["feature"].astype(int), passed["term_id"].astype(str), strict=True))
    frame["interpretable"] = [
        key in keys for key in zip(frame["feature"], frame["term_id"], strict=True)
    ]  # fmt: skip
    # Not by F1 on test cells, which the first pair of a feature is shown with.
    order = ["feature", "interpretable", "f1_validation", "term_id"]
    return frame.drop_duplicates(["feature", "term_id"]).sort_values(
        order, ascending=[True, False, False, True]
    )


def _decoder(path: str) -> np.ndarray:
    from interptfm.sae import format as sae_format

    rows = sae_format.load(Path(path).parent).weights["W_dec"].astype(np.float32)
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(size > 0, size, 1)


def _tis(path: str) -> pd.DataFrame:
    frame = store.read_table(path)
    return frame[frame["variant"] == "units"].set_index("unit")


def _clamped(steering: Mapping[str, Any] | None) -> pd.DataFrame:
    """Return the rows of ``steering/effects.parquet`` whose method clamps a feature, with its ``feature``."""
    if steering is None:
        return pd.DataFrame({"feature": np.array([], int), "target": np.array([], object)})
    of_target = steering["summary"]["clamped"]
    frame = steering["effects"]
    frame = frame[(frame["method"] == CLAMP) & frame["target"].isin(of_target)]
    return frame.assign(feature=frame["target"].map(of_target).astype(int)).sort_values(["feature", "target"])
