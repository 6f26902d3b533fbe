"""Features of a dictionary of `<cls>`: one code a cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from interptfm import store
from interptfm.errors import InputError
from interptfm.features.cells import CellAggregator, Cells
from interptfm.features.tokens import SPLITS, Block, Sample

if TYPE_CHECKING:
    from interptfm.features.representations import Representation


def aggregate_cls(
    paths: Sequence[str], samples: dict[str, Sample], dictionary: Representation, layer: int
) -> Cells:
    """Return the codes of all cells, in the form of aggregates over a cell's tokens.

    ``mean`` and ``max`` are both code / maximum over training cells, ``fraction`` is 1 where a feature is
    active. Features that no training cell activates are 0.

    Parameters
    ----------
    paths
        Activation stores of all samples and shards.
    samples
        As :func:`interptfm.features.samples_of` gives them.
    dictionary
        Trained on `<cls>` states.

    Raises
    ------
    InputError
        Without stores, or for one of a sample that is not there.
    """
    encoded, maximum = [], None
    for path in paths:
        with store.open_activations(path) as file:
            name = str(file.attributes["sample"])
            if name not in samples:
                raise InputError(f"{path}: found sample {name!r}, expected one of {', '.join(samples)}")
            cell, states = np.unique(file.cell), file.cls(layer)
        codes = dictionary.encode(states)
        train = samples[name].split[cell] == SPLITS.index("train")
        largest = np.zeros(codes.shape[1])
        if train.any():
            largest = np.maximum(codes[np.flatnonzero(train)].max(axis=0).toarray().ravel(), 0)
        maximum = largest if maximum is None else np.maximum(maximum, largest)
        nothing = np.zeros(len(cell), np.int32)
        encoded.append((Block(name, nothing, samples[name].split[cell], cell, nothing, states), codes))
    if maximum is None:
        raise InputError("activations: found no store, expected one a shard")
    aggregator = CellAggregator(maximum)
    for block, codes in encoded:
        aggregator.add(block, codes)
    return aggregator.result()
