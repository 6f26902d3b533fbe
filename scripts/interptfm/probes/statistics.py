"""One pass over the tokens of a layer for what exact linear fits need, and a gene-balanced sample.

A label depends on the gene alone. Hence XᵀY = Σ over genes (sum of the gene's tokens) ⊗ (the gene's labels),
for any membership, permuted or not; and with one Gram matrix per fold of genes XᵀX without a fold is a
difference. Counts and sums per gene and Gram matrices per fold are all that difference in means and ridge
regression need, with all genes or without some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interptfm import job, store
from interptfm.errors import InputError
from interptfm.features.tokens import SPLITS, Sample, blocks

TRAIN, VALIDATION, TEST = (SPLITS.index(name) for name in ("train", "validation", "test"))
FITTED = (TRAIN, VALIDATION)
BLOCK_TOKENS = 16384


@dataclass
class Moments:
    """Sufficient statistics of the tokens of one layer.

    ``tokens`` int64 (splits × genes); ``sums`` float64 (2 × genes × d) and ``grams`` float64 (2 × folds × d ×
    d), sums of x and of x xᵀ over training and over validation tokens; ``fold`` int8 (genes,), −1 for genes
    without tokens; ``sample``: per split (train, validation) gene-balanced tokens, x float32 (n × d) and gene
    (n,).
    """

    tokens: np.ndarray
    sums: np.ndarray
    grams: np.ndarray
    fold: np.ndarray
    sample: list[tuple[np.ndarray, np.ndarray]]

    @property
    def n_folds(self) -> int:
        """Number of folds of genes."""
        return self.grams.shape[1]


def token_counts(paths: Sequence[str | Path], samples: dict[str, Sample], n_genes: int) -> np.ndarray:
    """Return the tokens of each split and gene, int64 (splits × genes), guard left out.

    Reads the index arrays of the stores alone.

    Raises
    ------
    InputError
        If a store belongs to no sample, or holds no token of a split.
    """
    counts = np.zeros(len(SPLITS) * n_genes, np.int64)
    for path in paths:
        with store.open_activations(path) as file:
            name = str(file.attributes.get("sample"))
            if name not in samples:
                raise InputError(f"{path}: found sample {name!r}, expected one of {list(samples)}")
            split = samples[name].split[file.cell]
            gene = samples[name].gene[file.gene]
        kept = split >= 0
        counts += np.bincount(split[kept].astype(np.int64) * n_genes + gene[kept], minlength=len(counts))
    counts = counts.reshape(len(SPLITS), n_genes)
    for split, name in enumerate(SPLITS):
        if not counts[split].any():
            raise InputError(f"activations: found no token of a {name} cell, expected at least one")
    return counts


def balanced_quota(tokens: np.ndarray, budget: int) -> np.ndarray:
    """Return how many tokens of each gene to take, int64 (genes,): as even as possible, ``budget`` in all."""
    ordered = np.sort(tokens[tokens > 0])
    # With a cap of m the rarer genes give all they have; the largest m that fits is found from these sums.
    taken = np.cumsum(ordered)
    left = len(ordered) - 1 - np.arange(len(ordered))
    fits = taken + left * ordered <= budget
    if fits.all():
        return tokens.copy()
    first = int(np.argmin(fits))
    before = int(taken[first - 1]) if first else 0
    cap = (budget - before) // (len(ordered) - first)
    return np.minimum(tokens, cap)


class BalancedSample:
    """Picks tokens evenly over genes while they stream by; the same whatever the size of the blocks.

    Parameters
    ----------
    tokens
        (genes,) how many there will be.
    budget
        Largest number of tokens to keep.
    generator
        Draws, for each gene, which of its tokens are kept.
    """

    def __init__(self, tokens: np.ndarray, budget: int, generator: np.random.Generator) -> None:
        quota = balanced_quota(tokens, budget)
        self._start = np.concatenate([[0], np.cumsum(tokens)])
        self._chosen = np.zeros(self._start[-1], bool)
        for gene in np.flatnonzero(quota):
            picked = generator.choice(tokens[gene], quota[gene], replace=False)
            self._chosen[self._start[gene] + picked] = True
        self._seen = np.zeros(len(tokens), np.int64)
        self._x: list[np.ndarray] = []
        self._gene: list[np.ndarray] = []

    def add(self, x: np.ndarray, gene: np.ndarray) -> None:
        """Offer tokens, x (n × d) of the genes (n,)."""
        order = np.argsort(gene, kind="stable")
        ranked = gene[order]
        occurrence = np.empty(len(gene), np.int64)
        occurrence[order] = np.arange(len(gene)) - np.searchsorted(ranked, ranked)
        keep = self._chosen[self._start[gene] + self._seen[gene] + occurrence]
        self._seen += np.bincount(gene, minlength=len(self._seen))
        self._x.append(x[keep])
        self._gene.append(gene[keep])

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x float32 (n × d) and gene (n,) of all tokens kept."""
        return np.concatenate(self._x), np.concatenate(self._gene)


def collect(
    paths: Sequence[str | Path],
    samples: dict[str, Sample],
    layer: int,
    tokens: np.ndarray,
    fold: np.ndarray,
    budget: int,
    generator: np.random.Generator,
    block_tokens: int = BLOCK_TOKENS,
) -> Moments:
    """Stream the training and validation tokens of a layer once.

    Parameters
    ----------
    paths, samples
        Stores of all samples and shards; from :func:`interptfm.features.samples_of`.
    tokens
        From :func:`token_counts`.
    fold
        (genes,) from :func:`interptfm.alignment.genes.folds_of`.
    budget
        Largest number of gene-balanced training tokens; a third as many of validation.
    block_tokens
        Tokens held at a time; changes no result but for the rounding of float32 products.

    Raises
    ------
    InputError
        If files and samples do not fit each other.
    """
    n_folds, n_genes = int(fold.max()) + 1, len(fold)
    samplers = [
        BalancedSample(tokens[split], budget if split == TRAIN else budget // 3, generator)
        for split in FITTED
    ]
    sums = grams = None
    passing = blocks(paths, samples, layer, block_tokens, splits=FITTED)
    for block in job.progress(passing, f"layer {layer}: sums over tokens, blocks"):
        d = block.x.shape[1]
        if sums is None or grams is None:
            sums = np.zeros((len(FITTED), n_genes, d))
            grams = np.zeros((len(FITTED), n_folds, d, d))
        for split in FITTED:
            rows = np.flatnonzero(block.split == split)
            gene = block.gene[rows]
            samplers[split].add(block.x[rows], gene)
            rows = rows[np.argsort(fold[gene], kind="stable")]
            gene, x = block.gene[rows], block.x[rows]
            sums[split] += sums_by_gene(x, gene, n_genes)
            for h, (start, stop) in enumerate(segments(fold[gene], n_folds)):
                part = x[start:stop]
                grams[split, h] += part.T @ part
    return Moments(tokens, sums, grams, fold, [sampler.result() for sampler in samplers])


def sums_by_gene(x: np.ndarray, gene: np.ndarray, n_genes: int) -> np.ndarray:
    """Return the sum of the rows of each gene, (genes × d), of x (n × d) and gene (n,)."""
    from scipy.sparse import csr_matrix

    ones = np.ones(len(gene), x.dtype)
    return csr_matrix((ones, (gene, np.arange(len(gene)))), shape=(n_genes, len(gene))) @ x


def segments(values: np.ndarray, n: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the runs of 0 … n − 1 in sorted ``values``."""
    edges = np.searchsorted(values, np.arange(n + 1))
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
