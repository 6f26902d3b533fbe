"""Representations of tokens: what maps an activation, or a token's gene, to non-negative codes.

All of them go through the same counting and the same alignment, so that a dictionary stands beside
what a far simpler map of the same activations, or the expression alone, achieves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from interptfm import store
from interptfm.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from interptfm.features.tokens import Block

NEURONS = "neurons"
NMF_ITERATIONS = 30
TINY = 1e-9


class Representation(Protocol):
    """Anything that maps activations to non-negative codes."""

    n_features: int
    sparse: bool

    def encode(self, block: np.ndarray) -> np.ndarray | csr_matrix:
        """Map activations (n × d, float32) to codes (n × features, float32): CSR if ``sparse``."""


def both_signs(values: np.ndarray) -> np.ndarray:
    """Return [relu(x), relu(−x)], float32 (n × 2 m) of (n × m): a direction and its opposite."""
    return np.maximum(np.concatenate([values, -values], axis=1), 0).astype(np.float32, copy=False)


class Neurons:
    """The raw neurons with both signs, [relu(x), relu(−x)]: 2 d features, no dictionary."""

    sparse = False

    def __init__(self, d: int) -> None:
        self.n_features = 2 * d

    def encode(self, block: np.ndarray) -> np.ndarray:
        """Map activations (n × d) to codes (n × 2 d), dense."""
        return both_signs(block)


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


class Linear:
    """Projections of centred activations on directions (d × m), both signs: PCA."""

    sparse = False

    def __init__(self, mean: np.ndarray, directions: np.ndarray) -> None:
        self.mean, self.directions = mean.astype(np.float32), directions.astype(np.float32)
        self.n_features = 2 * directions.shape[1]

    def encode(self, block: np.ndarray) -> np.ndarray:
        """Map activations (n × d) to codes (n × 2 m), dense."""
        return both_signs((block - self.mean) @ self.directions)


class Directions:
    """Random directions (d × m) as a dictionary: of each token's projections the k largest, if positive."""

    sparse = True

    def __init__(self, mean: np.ndarray, directions: np.ndarray, k: int) -> None:
        self.mean, self.directions = mean.astype(np.float32), directions.astype(np.float32)
        self.n_features, self.k = directions.shape[1], int(k)

    def encode(self, block: np.ndarray) -> csr_matrix:
        """Map activations (n × d) to codes (n × m), CSR with at most k a row."""
        from scipy.sparse import csr_matrix

        projected = (block - self.mean) @ self.directions
        top = np.sort(np.argpartition(-projected, self.k - 1, axis=1)[:, : self.k], axis=1)
        value = np.maximum(np.take_along_axis(projected, top, axis=1), 0)
        indptr = np.arange(len(block) + 1) * self.k
        codes = csr_matrix((value.ravel(), top.ravel(), indptr), shape=projected.shape)
        codes.eliminate_zeros()
        return codes


class NonNegative:
    """Non-negative codes W of [relu(x), relu(−x)] ≈ W H with H (m × 2 d) fixed.

    Multiplicative updates (Lee and Seung 2001, *NIPS* 13) from a constant start, a fixed number of them,
    so that the code of a token does not depend on which others are in the block.
    """

    sparse = False

    def __init__(self, parts: np.ndarray) -> None:
        self.parts = parts.astype(np.float32)
        self.gram = self.parts @ self.parts.T
        self.n_features = len(parts)

    def encode(self, block: np.ndarray) -> np.ndarray:
        """Map activations (n × d) to codes (n × m), dense."""
        target = both_signs(block) @ self.parts.T
        codes = np.full(target.shape, 1 / self.n_features, np.float32)
        for _ in range(NMF_ITERATIONS):
            codes *= target / (codes @ self.gram + TINY)
        # What is on its way to 0 never gets there by multiplication.
        codes[codes < 1e-3 * codes.max(axis=1, keepdims=True)] = 0
        return codes


class OfGenes:
    """Scores (genes × m) that a token gets by its gene alone, whatever its cell: no activations."""

    sparse = False

    def __init__(self, scores: np.ndarray) -> None:
        if (scores < 0).any():
            raise InputError(f"scores of genes: found {scores.min():g}, expected none below 0")
        self.scores = scores.astype(np.float32)
        self.n_features = scores.shape[1]

    def encode_genes(self, gene: np.ndarray) -> np.ndarray:
        """Map genes (n,), panel indices, to codes (n × m), dense."""
        return self.scores[gene]


def codes_of(representation: Representation | OfGenes, block: Block) -> np.ndarray | csr_matrix:
    """Return the codes of a block's tokens, (tokens × features): from activations, or from genes."""
    if isinstance(representation, OfGenes):
        return representation.encode_genes(block.gene)
    return representation.encode(block.x)


KINDS = {"linear": Linear, "directions": Directions, "nonnegative": NonNegative, "genes": OfGenes}


def write_representation(path: str | Path, kind: str, attributes: dict[str, Any], **arrays: Any) -> None:
    """Write the arrays that make a fitted representation, as one ``.zarr.zip``.

    ``kind`` is one of ``KINDS``; ``arrays`` are its constructor's arguments, numbers among them.
    """
    numbers = {key: value for key, value in arrays.items() if np.ndim(value) == 0}
    with store.create_zarr(path, {**attributes, "kind": kind, "numbers": numbers}) as group:
        for name in sorted(set(arrays) - set(numbers)):
            store.write_array(group, name, np.asarray(arrays[name], np.float32))


def read_representation(path: str | Path) -> Representation | OfGenes:
    """Read what :func:`write_representation` wrote.

    Raises
    ------
    InputError
        If the file is missing, damaged or something else.
    """
    with store.open_zarr(path) as group:
        kind = group.attrs.get("kind")
        if kind not in KINDS:
            raise InputError(f"{path}: found kind {kind!r}, expected one of {sorted(KINDS)}")
        arrays = {name: array[:] for name, array in group.arrays()}
        return KINDS[kind](**arrays, **group.attrs["numbers"])


def representation_of(
    name: str, paths: Sequence[str | Path], source: str | Path | None, device: str = "cpu"
) -> Representation | OfGenes:
    """Return the representation of that name.

    Parameters
    ----------
    name
        ``neurons``: no source needed. Any other: what ``source`` holds.
    paths
        Activation files, for their width.
    source
        A dictionary's folder, or the file of a fitted baseline (``.zarr.zip``).

    Raises
    ------
    InputError
        If ``name`` is not "neurons" and there is no source, or the reverse.
    """
    if (name == NEURONS) != (source is None):
        expected = "no dictionary" if name == NEURONS else "a dictionary's folder"
        raise InputError(f"representation {name!r}: found {source!s}, expected {expected}")
    if source is not None:
        fitted = str(source).endswith(".zarr.zip")
        return read_representation(source) if fitted else Dictionary(source, device)
    with store.open_activations(paths[0]) as activations:
        return Neurons(activations.d)
