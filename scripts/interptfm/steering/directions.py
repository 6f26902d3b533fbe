"""Directions to steer along: those of a gene's concepts, and the controls beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm.errors import InputError
from interptfm.features.tokens import SPLITS, Sample, blocks

TRAIN = SPLITS.index("train")
COMPONENTS = 64


@dataclass
class Moments:
    """Of a layer's training tokens: how many a gene has (genes,), their sums (genes, d), Σ x xᵀ (d, d)."""

    tokens: np.ndarray
    sums: np.ndarray
    gram: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean (d,) of the tokens."""
        return self.sums.sum(axis=0) / self.tokens.sum()

    @property
    def covariance(self) -> np.ndarray:
        """Covariance (d, d) of the tokens."""
        return self.gram / self.tokens.sum() - np.outer(self.mean, self.mean)

    def sigma(self, directions: np.ndarray) -> np.ndarray:
        """Standard deviation (k,) of the tokens along unit directions (k, d)."""
        return np.sqrt(np.maximum(((directions @ self.covariance) * directions).sum(axis=-1), 0))


def moments_of(paths: Sequence[str | Path], samples: dict[str, Sample], layer: int, n_genes: int) -> Moments:
    """Stream the training tokens of a layer once. Raises InputError where there are none."""
    tokens, sums, gram = np.zeros(n_genes, np.int64), None, None
    for block in blocks(paths, samples, layer, splits=[TRAIN]):
        kept = block.split == TRAIN
        gene, x = block.gene[kept], block.x[kept]
        if sums is None:
            sums, gram = np.zeros((n_genes, x.shape[1])), np.zeros((x.shape[1], x.shape[1]))
        tokens += np.bincount(gene, minlength=n_genes)
        where = (np.ones(len(gene), x.dtype), (gene, np.arange(len(gene))))
        sums += sparse.csr_matrix(where, shape=(n_genes, len(gene))) @ x
        gram += x.T @ x
    if sums is None or not tokens.any():
        raise InputError(f"activations: found no training token at layer {layer}, expected some")
    return Moments(tokens, sums, gram)


def difference(moments: Moments, members: np.ndarray) -> np.ndarray:
    """Mean of the tokens of member genes less that of all others, (terms, d) of members (terms, genes) bool.

    Rows of zeros where a side has no token.
    """
    inside = members.astype(float)
    n = inside @ moments.tokens
    total = moments.tokens.sum()
    own = inside @ moments.sums
    other = moments.sums.sum(axis=0) - own
    defined = (n > 0) & (n < total)
    found = own / np.maximum(n, 1)[:, None] - other / np.maximum(total - n, 1)[:, None]
    return np.where(defined[:, None], found, 0)


def terms_of(targets: Sequence[str], terms: pd.DataFrame, evidence: pd.DataFrame) -> dict[str, list[str]]:
    """Return target → the terms (`term_id` of their class) that it is annotated to.

    terms: `concepts/terms.parquet` (a class a row, `members` its terms); evidence: gene and term_id pairs
    before the filter by size.
    """
    of_member = {
        str(member): str(row.term_id) for row in terms.itertuples() for member in (*row.members, row.term_id)
    }
    wanted = evidence[evidence["gene"].isin(list(targets))]
    found: dict[str, list[str]] = {target: [] for target in targets}
    for gene, term in zip(wanted["gene"], wanted["term_id"], strict=True):
        name = of_member.get(str(term))
        if name is not None and name not in found[str(gene)]:
            found[str(gene)].append(name)
    return {target: sorted(names) for target, names in found.items()}


def of_concepts(
    unit: np.ndarray, term_ids: Sequence[str], of_target: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Return target → unit directions (k, d) of its terms; targets without any are left out.

    unit: (terms, d) rows of length 1, or of zeros where a term has no direction.
    """
    position = {term: i for i, term in enumerate(term_ids)}
    found = {}
    for target, names in of_target.items():
        rows = np.array([position[name] for name in names if name in position], np.int64)
        rows = rows[np.abs(unit[rows]).sum(axis=1) > 0] if len(rows) else rows
        if len(rows):
            found[target] = np.asarray(unit[rows], np.float32)
    return found


def combined(directions: np.ndarray) -> np.ndarray:
    """One unit direction (d,) for several (k, d): that of their mean; the first where they cancel."""
    mean = directions.mean(axis=0)
    size = np.linalg.norm(mean)
    return (mean / size if size > 1e-6 else directions[0] / np.linalg.norm(directions[0])).astype(np.float32)


def neuron(moments: Moments, direction: np.ndarray) -> np.ndarray:
    """The signed axis (d,) on which a direction is largest in standard deviations of the tokens."""
    scaled = direction / np.sqrt(np.maximum(np.diag(moments.covariance), 1e-12))
    result = np.zeros(len(direction), np.float32)
    best = int(np.abs(scaled).argmax())
    result[best] = np.sign(scaled[best]) or 1.0
    return result


def component(moments: Moments, direction: np.ndarray, n: int = COMPONENTS) -> np.ndarray:
    """The signed principal component (d,) of the tokens, of the first `n`, nearest to a direction."""
    _, vectors = np.linalg.eigh(moments.covariance)
    leading = vectors[:, ::-1][:, :n].T
    overlap = leading @ direction
    best = int(np.abs(overlap).argmax())
    return (leading[best] * (np.sign(overlap[best]) or 1.0)).astype(np.float32)


def random_directions(n: int, d: int, generator: np.random.Generator) -> np.ndarray:
    """Unit directions (n, d) float32, uniform on the sphere."""
    rows = generator.standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
