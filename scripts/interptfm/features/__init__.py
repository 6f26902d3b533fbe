"""Features of a representation over all tokens: firing counts, cell aggregates and top tokens.

``tokens`` iterates over the activation files, ``representations`` encodes, ``baselines`` fits the simpler
ones, ``firing`` counts, ``cells`` aggregates; here are the passes that fill everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interptfm import job
from interptfm.errors import InputError
from interptfm.features.cells import (
    HISTOGRAM_BINS,
    CellAggregator,
    Cells,
    Histogram,
    TopTokens,
    read_cells,
    write_cells,
)
from interptfm.features.firing import (
    THRESHOLDS,
    CodeHistogram,
    Firing,
    FiringCounter,
    cuts,
    read_firing,
    write_firing,
)
from interptfm.features.representations import (
    NEURONS,
    Dictionary,
    Neurons,
    OfGenes,
    Representation,
    codes_of,
    read_representation,
    representation_of,
    write_representation,
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

__all__ = [
    "GUARD",
    "HISTOGRAM_BINS",
    "NEURONS",
    "SPLITS",
    "THRESHOLDS",
    "Cells",
    "Dictionary",
    "Features",
    "Firing",
    "FiringCounter",
    "Neurons",
    "OfGenes",
    "Representation",
    "Sample",
    "aggregate",
    "blocks",
    "codes_of",
    "cuts",
    "extract",
    "read_cells",
    "read_firing",
    "read_representation",
    "representation_of",
    "samples_of",
    "write_cells",
    "write_firing",
    "write_representation",
]


@dataclass
class Features:
    """What :func:`extract` returns; ``maximum`` float32 (features,) over training tokens."""

    maximum: np.ndarray
    firing: Firing


def extract(
    paths: Sequence[str | Path],
    samples: dict[str, Sample],
    genes: list[str],
    representation: Representation | OfGenes,
    layer: int,
    thresholds: Sequence[float] = THRESHOLDS,
    grid: Sequence[float] | None = None,
    attributes: dict[str, Any] | None = None,
    block_tokens: int = BLOCK_TOKENS,
) -> Features:
    """Encode all tokens twice: for the maxima over training tokens, then for the firing counts.

    With a ``grid`` of quantiles, training tokens a third time in between.

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
    grid
        Rising quantiles, in [0, 1), of each feature's own positive codes on training tokens; they
        replace ``thresholds`` at the price of a third pass over the training tokens.
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
    train = [SPLITS.index("train")]
    n_training = 0
    training = blocks(paths, samples, layer, block_tokens, splits=train)
    for block in job.progress(training, f"layer {layer}: maxima, blocks"):
        codes = codes_of(representation, block)
        largest = codes.max(axis=0)
        largest = largest if isinstance(largest, np.ndarray) else largest.toarray().ravel()
        np.maximum(maximum, largest, out=maximum)
        n_training += len(block.gene)
    if not n_training:
        raise InputError("activations: found no token of a training cell, expected at least one")

    shares = None
    if grid is not None:
        cuts(maximum, grid)  # the same checks as for thresholds
        histogram = CodeHistogram(maximum)
        training = blocks(paths, samples, layer, block_tokens, splits=train)
        for block in job.progress(training, f"layer {layer}: quantiles, blocks"):
            histogram.add(codes_of(representation, block))
        thresholds, shares = grid, histogram.shares(grid)
    counter = FiringCounter(len(genes), maximum, thresholds, shares)
    every = blocks(paths, samples, layer, block_tokens)
    for block in job.progress(every, f"layer {layer}: firing counts, blocks"):
        counter.add(block.gene, block.split, codes_of(representation, block))
    sums = counter.sums()
    levels = [float(t) for t in thresholds]
    firing = Firing(*counter.result(), genes, levels, attributes or {}, sums, shares)
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
) -> tuple[Cells, pd.DataFrame, np.ndarray]:
    """Encode all tokens once more, for what features do in every cell and for their strongest tokens.

    Returns the aggregates of cells, the top tokens of every feature, and the histogram of its codes, int64
    (features × ``HISTOGRAM_BINS``).

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
    histogram = Histogram(maximum)
    every = blocks(paths, samples, layer, block_tokens)
    for block in job.progress(every, f"layer {layer}: cells, blocks"):
        codes = dictionary.encode(block.x)
        aggregates.add(block, codes)
        top.add(block, codes)
        histogram.add(block, codes)
    return aggregates.result(), top.result(samples, genes), histogram.counts
