"""Activity cell by cell: weighted sums of features, mean z-scores of genes, and one scale for both."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def feature_scores(codes: sparse.spmatrix, weights: sparse.spmatrix) -> np.ndarray:
    """Return Σ over a concept's features of lift × the feature's aggregate, float64 (cells × concepts).

    ``codes`` (cells × features) has no negative values, ``weights`` (features × concepts) is the lift.
    """
    return np.asarray((sparse.csr_matrix(codes, dtype=np.float64) @ weights).todense())


def gene_scaling(logged: sparse.spmatrix) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each gene, float64 (genes,), over log-normalised cells × genes.

    The deviation of a gene that is the same in all cells is 0.
    """
    logged = sparse.csr_matrix(logged, dtype=np.float64)
    mean = np.asarray(logged.mean(axis=0)).ravel()
    square = np.asarray(logged.multiply(logged).mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-300)
    return mean, np.where(varies, deviation, 0.0)


def gene_scores(
    logged: sparse.spmatrix,
    membership: sparse.spmatrix,
    scaling: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return the mean z-score of a concept's genes, float64 (cells × concepts).

    Parameters
    ----------
    logged
        (cells × genes) log-normalised counts, of all samples together.
    membership
        (genes × concepts) bool, genes in the same order.
    scaling
        What :func:`gene_scaling` found in other cells, to score these on the scale of those; None takes
        the cells given.

    Genes with deviation 0 have no z-score and are left out of the mean; a concept without any other is NaN
    throughout.
    """
    logged = sparse.csr_matrix(logged, dtype=np.float64)
    mean, deviation = gene_scaling(logged) if scaling is None else scaling
    varies = deviation > 0
    members = sparse.csc_matrix(membership, dtype=np.float64)
    share = sparse.diags(np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)) @ members
    n = np.asarray(members.T @ varies.astype(float)).ravel()
    # Σ (x − mean) / sd without a dense matrix of cells × genes.
    total = np.asarray((logged @ share).todense()) - mean @ share
    return np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)


def unit_deviation(scores: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores divided by each concept's standard deviation, and the deviations (concepts,).

    The deviation is that of the cells ``present`` (bool), their zeros included. Nothing is subtracted: a cell
    in which no feature of a concept fires keeps 0, and so does one without tokens. A concept that does not
    vary has deviation 0 and stays as it is.
    """
    deviation = scores[present].std(axis=0) if present.any() else np.zeros(scores.shape[1])
    deviation = np.where(deviation > 1e-12, deviation, 0.0)
    return scores / np.where(deviation > 0, deviation, 1.0), deviation
