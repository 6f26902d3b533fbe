"""Judges: each turns raw counts into one vector a cell, such that similarity is a dot product.

Every judge here centres or weighs a cell's expression and scales it to length 1. Hence the mean similarity
of a cell with a set of references is one dot product with the mean of their vectors, and no matrix of
cells × cells is ever needed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from interptfm.errors import InputError

log = logging.getLogger(__name__)

SIMILARITIES = ("cosine", "spearman")
MAX_Z = 10.0
"""Bound of a standardised expression value, so that one rare transcript does not decide a similarity."""


def log_normalise(counts: sparse.csr_matrix, target: float | None = None) -> sparse.csr_matrix:
    """Return log(1 + count · median depth / depth), CSR float32 (cells × genes); empty cells stay empty.

    The depth of a cell is its sum over the genes given: a judge of half the genes normalises by these.
    ``target`` takes the place of the median depth, for cells on the scale of others.
    """
    counts = sparse.csr_matrix(counts, dtype=np.float32, copy=True)
    depth = np.asarray(counts.sum(axis=1), np.float64).ravel()
    if not (depth > 0).any():
        raise InputError(
            "judge: found no counts in the genes it sees, expected some; do the gene names match?"
        )
    target = np.median(depth[depth > 0]) if target is None else target
    factor = np.divide(target, depth, out=np.zeros_like(depth), where=depth > 0)
    counts.data = np.log1p(counts.data * np.repeat(factor, np.diff(counts.indptr)).astype(np.float32))
    return counts


def standardise(matrix: sparse.csr_matrix | np.ndarray) -> np.ndarray:
    """Return per-gene z-scores clipped at ±:data:`MAX_Z`, float32 (cells × genes); constant genes are 0."""
    dense = matrix.toarray() if sparse.issparse(matrix) else np.array(matrix)
    dense = np.asarray(dense, np.float32)
    mean = dense.mean(axis=0, dtype=np.float64)
    deviation = dense.std(axis=0, dtype=np.float64)
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-300)
    dense -= mean.astype(np.float32)
    dense *= np.divide(1, deviation, out=np.zeros_like(deviation), where=varies).astype(np.float32)
    return np.clip(dense, -MAX_Z, MAX_Z, out=dense)


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Scale rows (n × d) to Euclidean length 1, in place; rows of zeros stay zero, similar to nothing."""
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    rows *= np.divide(1, length, out=np.zeros_like(length), where=length > 0)[:, None].astype(rows.dtype)
    return rows


def cosine(logged: sparse.csr_matrix | np.ndarray) -> np.ndarray:
    """Return the vectors of the default judge: cosine of z-scored log-normalised expression.

    Scaling a gene of ``logged`` (cells × genes) by any positive factor changes nothing.
    """
    return unit_length(standardise(logged))


def spearman(logged: sparse.csr_matrix | np.ndarray, chunk: int = 8192) -> np.ndarray:
    """Return vectors (cells × genes, float32) whose dot product is Spearman's correlation over genes.

    Ties share their mean rank. A cell whose genes are all tied is similar to nothing.
    """
    from scipy.stats import rankdata

    n, d = logged.shape
    vectors = np.empty((n, d), np.float32)
    for start in range(0, n, chunk):
        part = logged[start : start + chunk]
        ranks = rankdata(part.toarray() if sparse.issparse(part) else part, axis=1)
        vectors[start : start + chunk] = ranks - ranks.mean(axis=1, keepdims=True)
    return unit_length(vectors)


def embedded(
    logged: sparse.csr_matrix, genes: Sequence[str], table: np.ndarray, table_genes: Sequence[str]
) -> np.ndarray:
    """Return vectors of a judge that knows genes by an embedding: a cell is its expression-weighted mean.

    Parameters
    ----------
    logged
        (cells × genes) log-normalised expression.
    genes
        Symbols of its columns.
    table, table_genes
        (rows × dims) gene vectors and the symbols of the rows; the first row of a symbol counts.

    Returns
    -------
    (cells × dims) float32. The mean over cells is taken off before scaling, else all cells look alike.

    Raises
    ------
    InputError
        If no gene is shared, or the table's size does not fit its symbols.
    """
    table = np.asarray(table, np.float32)
    if table.ndim != 2 or len(table) != len(table_genes):
        raise InputError(
            f"judge: found a gene embedding of shape {table.shape} for {len(table_genes)} genes, "
            "expected one row a gene"
        )
    place: dict[str, int] = {}
    for row, gene in enumerate(table_genes):
        place.setdefault(str(gene), row)
    columns = [i for i, gene in enumerate(genes) if gene in place]
    if not columns:
        raise InputError(
            f"judge: found none of the {len(genes)} genes in the embedding of {len(table_genes)} genes "
            f"(such as {', '.join(map(str, list(table_genes)[:3]))}), expected shared symbols"
        )
    log.info("the gene embedding has %d of the judge's %d genes", len(columns), len(genes))
    expression = sparse.csr_matrix(logged)[:, columns]
    total = np.asarray(expression.sum(axis=1), np.float64).ravel()
    vectors = expression @ table[[place[genes[i]] for i in columns]]
    vectors *= np.divide(1, total, out=np.zeros_like(total), where=total > 0)[:, None].astype(np.float32)
    some = total > 0
    vectors[some] -= vectors[some].mean(axis=0, dtype=np.float64).astype(np.float32)
    return unit_length(np.ascontiguousarray(vectors, np.float32))


def judge(
    counts: sparse.csr_matrix,
    genes: Sequence[str],
    similarity: str = "cosine",
    embedding: tuple[np.ndarray, Sequence[str]] | None = None,
) -> np.ndarray:
    """Return one vector a cell (cells × dims, float32, length 1 or 0) for raw ``counts`` (cells × genes).

    ``embedding`` (table, symbols), where given, decides instead of ``similarity``.

    Raises
    ------
    InputError
        For an unknown similarity, counts that are not finite or negative, or a panel without counts.
    """
    counts = sparse.csr_matrix(counts)
    if not np.isfinite(counts.data).all() or (counts.data < 0).any():
        raise InputError("judge: found counts that are negative or not finite, expected raw counts")
    if embedding is None and similarity not in SIMILARITIES:
        raise InputError(f"judge: found similarity {similarity!r}, expected one of {', '.join(SIMILARITIES)}")
    logged = log_normalise(counts)
    if embedding is not None:
        return embedded(logged, genes, *embedding)
    return cosine(logged) if similarity == "cosine" else spearman(logged)


def thin(
    counts: sparse.csr_matrix, depth: int, generator: np.random.Generator
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Draw ``depth`` of each cell's counts without replacement (multivariate hypergeometric).

    Parameters
    ----------
    counts
        (cells × genes) whole numbers.
    depth
        Counts that every cell keeps.

    Returns
    -------
    thinned, enough
        CSR float32 with rows of sum ``depth``, or of zeros where a cell has fewer; which cells had enough.

    Raises
    ------
    InputError
        For counts that are no whole numbers: only they can be drawn from.
    """
    counts = sparse.csr_matrix(counts)
    whole = np.rint(counts.data)
    if (np.abs(counts.data - whole) > 1e-6).any():
        raise InputError("judge: found counts that are no whole numbers, expected raw counts to thin")
    total = np.asarray(counts.sum(axis=1)).ravel()
    enough = total >= depth
    data = np.zeros(counts.nnz, np.float32)
    for row in np.flatnonzero(enough):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        data[part] = generator.multivariate_hypergeometric(whole[part].astype(np.int64), depth)
    thinned = sparse.csr_matrix((data, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape)
    thinned.eliminate_zeros()
    return thinned, enough
