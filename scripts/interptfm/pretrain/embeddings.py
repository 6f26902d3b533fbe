"""Gene embeddings from co-expression, and the halves of the held-out-gene arms."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
from scipy import linalg, sparse

from interptfm import job
from interptfm.errors import InputError

log = logging.getLogger(__name__)

GENES = ("all", "half_a", "half_b")
"""Genes that a model may see: all, or either half of the panel."""
MAX_Z = 10.0
"""Bound of a standardised expression value, so that one cell cannot carry a component."""
IDENTITY_SHARE = 0.2
"""Least share of a gene's embedding that is its own random direction."""
EMBEDDING_SD = 0.3
"""Standard deviation of the entries; enc_norm removes it, the optimiser's steps are relative to it."""


def gene_half(mean_expression: np.ndarray, seed: int) -> np.ndarray:
    """Split genes into halves of like expression; True is `half_a`.

    mean_expression: (genes,). Genes are paired in the order of their mean, and a seeded coin puts one of
    each pair into either half. Deterministic in the means and the seed.
    """
    order = np.argsort(np.asarray(mean_expression), kind="stable")
    first = job.generator(seed, "gene_half").random(-(-len(order) // 2)) < 0.5
    half = np.empty(len(order), dtype=bool)
    half[order] = np.column_stack([first, ~first]).ravel()[: len(order)]
    return half


def svd_gene_embeddings(counts: Sequence[sparse.csr_matrix], n_components: int, seed: int) -> np.ndarray:
    """Gene embeddings (genes, n_components) float32 from the co-expression of training cells.

    counts: raw counts of the training cells, one CSR (cells x genes) a sample, over the same genes.
    Counts are scaled to the median depth, log1p, and freed of what log depth still explains (the
    detection of rare genes), then standardised per gene, within each sample, and clipped at ±MAX_Z.
    Loadings are the eigenvectors of the gene correlation matrix (the SVD's right singular vectors), kept
    where the eigenvalue exceeds the largest of the same data with every gene permuted over cells
    (parallel analysis, Horn 1965) and weighted by the root of the eigenvalue's excess over 1, shrunk
    as is optimal in Frobenius norm for spiked covariances (Donoho, Gavish and Johnstone 2018).

    Since `enc_norm` brings every row to the same norm, a gene whose loadings are mostly sampling error
    would be blown up into a spurious direction. So a row is sqrt(r) * its direction of loadings +
    sqrt(1 - r) * a seeded random direction, r being the share of its squared loadings above their
    sampling error, at most 1 - IDENTITY_SHARE, which also keeps genes of one program apart. Signs are fixed
    by the largest entry. Raises InputError without cells.
    """
    n_cells, n_genes = sum(c.shape[0] for c in counts), counts[0].shape[1]
    if n_cells < 2:
        raise InputError(f"cells: found {n_cells} training cells, expected at least 2 to train a model on")
    rng = job.generator(seed, "svd_gene_embeddings")
    depth = float(np.median(np.concatenate([np.asarray(c.sum(1)).ravel() for c in counts])))
    logged = [_log_normalise(c, depth) for c in counts]
    permuted = [(_permute_genes(matrix, rng), score) for matrix, score in logged]
    values, vectors = _leading_components(_correlation(logged), min(n_components, n_genes))
    edge = _leading_components(_correlation(permuted), 1)[0][0]
    excess = _spike_excess(values, n_genes / n_cells)
    kept = (values > edge) & (excess > 0)
    loadings = vectors[:, kept] * np.sqrt(excess[kept])

    squared = (loadings**2).sum(1)
    error = kept.sum() / n_cells
    share = np.clip(1 - error / np.maximum(squared, 1e-12), 0, 1 - IDENTITY_SHARE)
    rows = np.zeros((n_genes, n_components))
    rows[:, : kept.sum()] = _unit(loadings) * np.sqrt(share)[:, None]
    rows += _unit(rng.standard_normal((n_genes, n_components))) * np.sqrt(1 - share)[:, None]
    log.info(
        "SVD embeddings: %d components above the permutation edge, median share of structure %.2f",
        kept.sum(), np.median(share),
    )  # fmt: skip
    return (_unit(rows) * math.sqrt(n_components) * EMBEDDING_SD).astype(np.float32)


def _spike_excess(values: np.ndarray, gamma: float) -> np.ndarray:
    """Shrunken excess over 1 of sample eigenvalues, for gamma = variables / observations.

    The spike x + 1 that gives the eigenvalue (1 + x)(1 + gamma / x), times the squared cosine between the
    sample's and the true eigenvector; 0 up to the edge (1 + sqrt(gamma))².
    """
    centred = values - 1 - gamma
    root = np.sqrt(np.maximum(centred**2 - 4 * gamma, 0))
    x = np.where(values > (1 + math.sqrt(gamma)) ** 2, (centred + root) / 2, math.sqrt(gamma))
    return np.maximum(x * (1 - gamma / x**2) / (1 + gamma / x), 0)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _log_normalise(counts: sparse.csr_matrix, depth: float) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Log-normalised counts, and every cell's standardised log total (cells,)."""
    total = np.maximum(np.asarray(counts.sum(1), dtype=np.float64).ravel(), 1)
    logged = sparse.csr_matrix(sparse.diags(depth / total) @ counts.astype(np.float64))
    logged.data = np.log1p(logged.data)
    score = np.log(total) - np.log(total).mean()
    return logged, score / max(score.std(), 1e-12)


def _permute_genes(matrix: sparse.csr_matrix, rng: np.random.Generator) -> sparse.csr_matrix:
    columns = matrix.tocsc()
    for start, stop in zip(columns.indptr[:-1], columns.indptr[1:], strict=True):
        columns.indices[start:stop] = rng.choice(matrix.shape[0], stop - start, replace=False)
    columns.has_sorted_indices = False
    return columns.tocsr()


def _correlation(samples: Sequence[tuple[sparse.csr_matrix, np.ndarray]], block: int = 4096) -> np.ndarray:
    """Gene correlation matrix (genes, genes) of clipped residuals from depth, each sample by itself.

    samples: log-normalised counts (cells x genes) and standardised log totals (cells,).
    """
    gram, n = np.zeros((samples[0][0].shape[1],) * 2), 0
    for matrix, score in samples:
        mean = np.asarray(matrix.mean(0)).ravel()
        slope = matrix.T @ score / len(score)
        variance = np.asarray(matrix.multiply(matrix).mean(0)).ravel() - mean**2 - slope**2
        scale = np.where(variance > 1e-12, 1 / np.sqrt(np.maximum(variance, 1e-12)), 0)
        for start in range(0, len(score), block):
            stop = start + block
            residual = matrix[start:stop].toarray() - mean - score[start:stop, None] * slope
            z = np.clip(residual * scale, -MAX_Z, MAX_Z)
            gram += z.T @ z
        n += len(score)
    return gram / n


def _leading_components(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues, descending, and their eigenvectors, largest entry positive."""
    n = len(matrix)
    values, vectors = linalg.eigh(matrix, subset_by_index=(n - k, n - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(k)]
    return values, vectors * np.where(largest < 0, -1.0, 1.0)
