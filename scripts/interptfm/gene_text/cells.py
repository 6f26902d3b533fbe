"""Cells from genes: the expression-weighted mean of gene vectors, or a sentence of gene names.

Both forms after GenePT (Chen and Zou 2024, *Nat. Biomed. Eng.* 9:483): ``weighted`` is its GenePT-w,
``sentence`` its GenePT-s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from interptfm import store
from interptfm.errors import InputError
from interptfm.gene_text.providers import Provider, checked
from interptfm.tis.judges import log_normalise

if TYPE_CHECKING:
    import pandas as pd

KEY = "gene_text"


def top_genes(logged: sparse.csr_matrix, n: int) -> sparse.csr_matrix:
    """Keep the ``n`` largest values of every row (cells × genes), each row's in falling order.

    Of equal values the gene that comes first in the panel stays.
    """
    logged = sparse.csr_matrix(logged)
    logged.sum_duplicates()
    row = np.repeat(np.arange(logged.shape[0]), np.diff(logged.indptr))
    order = np.lexsort((logged.indices, -logged.data, row))
    rank = np.arange(len(order)) - logged.indptr[row[order]]
    kept = order[(rank < n) & (logged.data[order] > 0)]
    counts = np.bincount(row[kept], minlength=logged.shape[0])
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_matrix((logged.data[kept], logged.indices[kept], indptr), shape=logged.shape)


def weighted(
    counts: sparse.csr_matrix, panel: Sequence[str], genes: Sequence[str], vectors: np.ndarray, n: int
) -> np.ndarray:
    """Return cells as means of gene vectors weighted by expression, float32 (cells × dims).

    Parameters
    ----------
    counts, panel
        Raw counts, CSR (cells × genes), and the symbols of the columns.
    genes, vectors
        Symbols and vectors (genes × dims) of the genes that have one.
    n
        Genes of a cell, the most expressed ones; weights are log(1 + counts scaled to the median depth).

    Returns
    -------
    Zeros for a cell without a count in any such gene.

    Raises
    ------
    InputError
        If no gene of the panel has a vector.
    """
    place = {gene: i for i, gene in enumerate(genes)}
    columns = [i for i, gene in enumerate(panel) if gene in place]
    if not columns:
        raise InputError(
            f"gene_text: found vectors for none of the {len(panel)} genes, expected shared symbols"
        )
    expression = top_genes(log_normalise(sparse.csr_matrix(counts)[:, columns]), n)
    total = np.asarray(expression.sum(axis=1), np.float64).ravel()
    cells = expression @ np.asarray(vectors, np.float32)[[place[panel[i]] for i in columns]]
    return (cells * np.divide(1, total, out=np.zeros_like(total), where=total > 0)[:, None]).astype(
        np.float32
    )


def sentences(counts: sparse.csr_matrix, panel: Sequence[str], n: int) -> list[str]:
    """Return each cell as the names of its ``n`` most expressed genes, the most expressed first."""
    names = np.asarray(panel, object)
    top = top_genes(log_normalise(counts), n)
    return [" ".join(names[top.indices[a:b]]) for a, b in zip(top.indptr[:-1], top.indptr[1:], strict=True)]


def permuted(vectors: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the vectors (genes × dims) handed to other genes: what is left when no gene has its own text.

    A cell is then as good a random projection of its expression as before; what the texts add is the
    difference.
    """
    return vectors[generator.permutation(len(vectors))]


def embedded_sentences(
    provider: Provider, counts: sparse.csr_matrix, panel: Sequence[str], n: int, name: str
) -> np.ndarray:
    """Return each cell's sentence (:func:`sentences`) as the provider embeds it, float32 (cells × dims).

    Equal sentences are embedded once; a cell without counts is all zeros.
    """
    found = sentences(counts, panel, n)
    distinct = list(dict.fromkeys(text for text in found if text))
    vectors = checked(provider.embed(distinct), len(distinct), name)
    place = {text: i for i, text in enumerate(distinct)}
    values = np.zeros((len(found), vectors.shape[1]), np.float32)
    some = np.array([bool(text) for text in found])
    values[some] = vectors[[place[text] for text in found if text]]
    return values


def write_cells(path: str, obs: pd.DataFrame, values: np.ndarray, origin: dict[str, Any]) -> None:
    """Write the cells as AnnData: obs (sample, cell_type) and obsm ``gene_text`` (cells × dims)."""
    import json

    import anndata

    kept = obs[["sample", "cell_type"]].astype(str)
    adata = anndata.AnnData(
        obs=kept, obsm={KEY: values}, uns={"interptfm": json.dumps(origin, sort_keys=True)}
    )
    store.write_h5ad(path, adata)
