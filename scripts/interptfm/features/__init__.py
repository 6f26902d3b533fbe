"""Features of a representation over all tokens: firing counts, cell aggregates and top tokens.

``tokens`` iterates over the activation files, ``firing`` counts, ``cells`` aggregates; here are the
representations and the passes over the tokens that fill everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from interptfm import job, store
from interptfm.errors import InputError
from interptfm.features.cells import CellAggregator, Cells, TopTokens, read_cells, write_cells
from interptfm.features.firing import (
    THRESHOLDS,
    Firing,
    FiringCounter,
    cuts,
    read_firing,
    write_firing,
)
from interptfm.features.tokens import (
    BLOCK_TOKENS,
    GUARD,
    SPLITS,
    Sample,
    blocks,
    samples_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

__all__ = [
    "GUARD",
    "NEURONS",
    "SPLITS",
    "THRESHOLDS",
    "Cells",
    "Dictionary",
    "Features",
    "Firing",
    "FiringCounter",
    "Neurons",
    "Sample",
    "aggregate",
    "cuts",
    "extract",
    "read_cells",
    "read_firing",
    "representation_of",
    "samples_of",
    "write_cells",
    "write_firing",
]

NEURONS = "neurons"


class Representation(Protocol):
    """Anything that maps activations to non-negative codes."""

    n_features: int
    sparse: bool

    def encode(self, block: np.ndarray) -> np.ndarray | csr_matrix:
        """Map activations (n × d, float32) to codes (n × features, float32): CSR if ``sparse``."""


class Neurons:
    """The raw neurons with both signs, [relu(x), relu(−x)]: 2 d features, no dictionary."""

    sparse = False

    def __init__(self, d: int) -> None:
        self.n_features = 2 * d

    def encode(self, block: np.ndarray) -> np.ndarray:
        """Map activations (n × d) to codes (n × 2 d), dense."""
        return np.maximum(np.concatenate([block, -block], axis=1), 0)


class Dictionary:
    """A trained dictionary, read from its folder (SAELens' format)."""

    sparse = True

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        from interptfm.sae import format as sae_format

        self._inference = sae_format.load(folder, device=device)
        self.n_features = self._inference.n_features

    def encode(self, block: np.ndarray) -> csr_matrix:
        """Map activations (n × d) to codes (n × features), CSR."""
        return self._inference.encode_sparse(block)


@dataclass
class Features:
    """What :func:`extract` returns; ``maximum`` float32 (features,) over training tokens."""

    maximum: np.ndarray
    firing: Firing


def representation_of(
    name: str, paths: Sequence[str | Path], folder: str | Path | None, device: str = "cpu"
) -> Representation:
    """Return the representation of that name: raw neurons, or the dictionary in ``folder``.

    Raises
    ------
    InputError
        If ``name`` is not "neurons" and there is no dictionary, or the reverse.
    """
    if (name == NEURONS) != (folder is None):
        expected = "no dictionary" if name == NEURONS else "a dictionary's folder"
        raise InputError(f"representation {name!r}: found {folder!s}, expected {expected}")
    if folder is not None:
        return Dictionary(folder, device)
    with store.open_activations(paths[0]) as activations:
        return Neurons(activations.d)


def extract(
    paths: Sequence[str | Path],
    samples: dict[str, Sample],
    genes: list[str],
    representation: Representation,
    layer: int,
    thresholds: Sequence[float] = THRESHOLDS,
    attributes: dict[str, Any] | None = None,
    block_tokens: int = BLOCK_TOKENS,
) -> Features:
    """Encode all tokens twice: for the maxima over training tokens, then for the firing counts.

    Parameters
    ----------
    paths
        Activation files of all samples and shards, in any order.
    samples, genes
        From :func:`samples_of`.
    representation
        Maps activations to codes.
    layer
        Which layer of the activation files.
    thresholds
        Shares of the maximum, increasing, in [0, 1); 0 means code > 0.
    attributes
        Become attributes of the firing counts.
    block_tokens
        Tokens encoded at a time; bounds the memory, changes no result but for the rounding of
        matrix products.

    Raises
    ------
    InputError
        If no training token exists, or files and samples do not fit each other.
    """
    maximum = np.zeros(representation.n_features, np.float32)
    training = blocks(paths, samples, layer, block_tokens, splits=[SPLITS.index("train")])
    n_training = 0
    for block in job.progress(training, f"layer {layer}: maxima, blocks"):
        codes = representation.encode(block.x)
        largest = codes.max(axis=0)
        largest = largest if isinstance(largest, np.ndarray) else largest.toarray().ravel()
        np.maximum(maximum, largest, out=maximum)
        n_training += len(block.gene)
    if not n_training:
        raise InputError("activations: found no token of a training cell, expected at least one")

    counter = FiringCounter(len(genes), maximum, thresholds)
    every = blocks(paths, samples, layer, block_tokens)
    for block in job.progress(every, f"layer {layer}: firing counts, blocks"):
        counter.add(block.gene, block.split, representation.encode(block.x))
    firing = Firing(*counter.result(), genes, [float(t) for t in thresholds], attributes or {})
    return Features(maximum, firing)


def aggregate(
    paths: Sequence[str | Path],
    samples: dict[str, Sample],
    genes: list[str],
    dictionary: Dictionary,
    layer: int,
    maximum: np.ndarray,
    top_tokens: int = 20,
    block_tokens: int = BLOCK_TOKENS,
) -> tuple[Cells, pd.DataFrame]:
    """Encode all tokens once more, for the aggregates of every cell and the top tokens of every feature.

    Parameters
    ----------
    paths, samples, genes, layer, block_tokens
        As for :func:`extract`.
    dictionary
        Maps activations to sparse codes.
    maximum
        (features,) float32, training maxima from :func:`extract`.
    top_tokens
        How many tokens to keep a feature.

    Raises
    ------
    InputError
        If files, samples and maxima do not fit each other.
    """
    if len(maximum) != dictionary.n_features:
        raise InputError(
            f"features: found maxima of {len(maximum)} features, "
            f"expected the dictionary's {dictionary.n_features}"
        )
    aggregates, top = CellAggregator(maximum), TopTokens(dictionary.n_features, top_tokens)
    every = blocks(paths, samples, layer, block_tokens)
    for block in job.progress(every, f"layer {layer}: cells, blocks"):
        codes = dictionary.encode(block.x)
        aggregates.add(block, codes)
        top.add(block, codes)
    return aggregates.result(), top.result(samples, genes)
