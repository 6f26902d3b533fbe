"""Which terms mark a cell type, by the similarity of cells with terms in the space of gene texts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm.errors import InputError
from interptfm.gene_text import cells as gene_cells
from interptfm.regions import enrichment
from interptfm.tis.judges import log_normalise, standardise, unit_length
from interptfm.tis.units import Cells

QUANTILE = 0.8
ROUTES = ("text", "permuted", "expression")


def chosen_terms(
    membership: sparse.csr_matrix, terms: pd.DataFrame, known: np.ndarray, min_genes: int, most: int
) -> np.ndarray:
    """Return positions of the terms to test, the most specific first.

    Parameters
    ----------
    membership, terms
        (genes × terms) bool CSR, and the frame of the columns with ``ic`` and ``term_id``.
    known
        (genes,) bool: the gene has a vector.
    min_genes, most
        Fewest genes with a vector, and how many terms at most.
    """
    size = np.asarray(membership[known].sum(axis=0)).ravel()
    fit = np.flatnonzero(size >= min_genes)
    if not len(fit):
        raise InputError(
            f"gene_text.terms.min_genes: found no term with {min_genes} genes that have a "
            "vector, expected some"
        )
    order = np.lexsort((terms["term_id"].astype(str).to_numpy()[fit], -terms["ic"].to_numpy(float)[fit]))
    return fit[order][:most]


def similarity(cells: np.ndarray, vectors: np.ndarray, members: sparse.csr_matrix) -> np.ndarray:
    """Return the cosine of every cell with every term, float32 (cells × terms), both centred.

    Parameters
    ----------
    cells
        (cells × dims).
    vectors
        (genes × dims); a term is the mean of its genes less the mean of all.
    members
        (genes × terms) bool.
    """
    size = np.asarray(members.sum(axis=0), float).ravel()
    means = (members.T.astype(np.float32) @ vectors) / size[:, None]
    centred = unit_length(np.asarray(means - vectors.mean(axis=0), np.float32))
    return unit_length(np.asarray(cells - cells.mean(axis=0), np.float32)) @ centred.T


def mark_types(
    cells: Cells,
    genes: list[str],
    vectors: np.ndarray,
    n_genes: int,
    membership: sparse.csr_matrix,
    terms: pd.DataFrame,
    chosen: np.ndarray,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Compare every term with every cell type, by three routes.

    Parameters
    ----------
    cells
        All cells; blocks are the replicates.
    genes, vectors, n_genes
        Symbols and vectors of the genes that have one, and how many genes make a cell.
    membership, terms, chosen
        (genes × terms) bool CSR, rows as ``genes``; the frame of its columns; the columns to test.

    Returns
    -------
    Frame: term_id, name, n_genes, cell_type, n_cells, then for each route (``text``: the texts' vectors;
    ``permuted``: the same handed to other genes; ``expression``: mean z-score of the term's genes) effect,
    p and q as :func:`interptfm.regions.enrichment.enrichment` has them, ``p_min`` and ``n_blocks``.
    """
    members = sparse.csc_matrix(membership)[:, chosen].tocsr()
    place = {gene: i for i, gene in enumerate(cells.genes)}
    columns = [place[gene] for gene in genes]
    z = standardise(log_normalise(cells.counts)[:, columns])
    size = np.asarray(members.sum(axis=0), float).ravel()
    moved = gene_cells.permuted(vectors, generator)

    def by_vectors(table: np.ndarray) -> np.ndarray:
        return similarity(
            gene_cells.weighted(cells.counts, cells.genes, genes, table, n_genes), table, members
        )

    activities = {
        "text": by_vectors(vectors),
        "permuted": by_vectors(moved),
        "expression": (z @ members.astype(np.float32)) / size,
    }
    everything, result = np.ones(len(cells.obs), bool), None
    for route in ROUTES:
        found = enrichment.enrichment(
            np.asarray(activities[route], np.float32), range(len(chosen)), cells.types, cells.blocks,
            everything, QUANTILE, generator,
        )  # fmt: skip
        if result is None:
            result = found[["unit", "cell_type", "n_cells", "p_min", "n_blocks"]]
        result = result.assign(**{f"{key}_{route}": found[key] for key in ("effect", "p", "q")})
    unit = result.pop("unit").to_numpy(int)
    picked = terms.iloc[chosen[unit]]
    result.insert(0, "term_id", picked["term_id"].astype(str).to_numpy())
    result.insert(1, "name", picked["name"].astype(str).to_numpy())
    result.insert(2, "n_genes", size[unit].astype(int))
    return result
