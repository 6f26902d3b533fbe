"""Baselines fitted to training cells: PCA, NMF and random directions of activations, scores of genes.

What needs no model at all stands here, too: loadings of genes on the components of expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interptfm import job
from interptfm.errors import InputError
from interptfm.features.representations import both_signs
from interptfm.features.tokens import SPLITS, Sample, blocks

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

OF_ACTIVATIONS = ("pca", "nmf", "random")
OF_GENES = ("static", "expression_pca", "expression_nmf")
NMF_TOKENS = 20_000
NMF_ITERATIONS = 200


def fit(
    name: str,
    paths: Sequence[str | Path],
    samples: dict[str, Sample],
    layer: int,
    components: int,
    n_features: int,
    k: int,
    generator: np.random.Generator,
) -> tuple[str, dict[str, Any]]:
    """Fit a baseline of the activations of one layer to training tokens.

    Parameters
    ----------
    name
        ``pca`` (``components`` leading principal components, both signs), ``nmf`` (``components``
        parts of [relu(x), relu(−x)], fitted to at most 20,000 tokens) or ``random`` (``n_features``
        random unit vectors, of which each token keeps its ``k`` largest projections: a dictionary's
        size and sparsity without its training).
    paths, samples
        As for :func:`interptfm.features.extract`.

    Returns
    -------
    kind, arrays
        For :func:`interptfm.features.write_representation`.

    Raises
    ------
    InputError
        For an unknown name, or without training tokens.
    """
    if name not in OF_ACTIVATIONS:
        raise InputError(f"baseline: found {name!r}, expected one of {', '.join(OF_ACTIVATIONS)}")
    if name == "nmf":
        sample = _sampled_tokens(paths, samples, layer, NMF_TOKENS, generator)
        return "nonnegative", {"parts": nmf_parts(both_signs(sample), components, generator)}
    mean, covariance = _moments(paths, samples, layer)
    d = len(mean)
    if name == "pca":
        _, vectors = np.linalg.eigh(covariance)
        return "linear", {"mean": mean, "directions": _fixed_signs(vectors[:, ::-1][:, :components])}
    directions = generator.standard_normal((d, n_features))
    directions /= np.linalg.norm(directions, axis=0)
    return "directions", {"mean": mean, "directions": directions, "k": max(1, min(int(k), n_features))}


def _training(paths: Sequence[str | Path], samples: dict[str, Sample], layer: int, label: str):
    train = blocks(paths, samples, layer, splits=[SPLITS.index("train")])
    return job.progress(train, f"layer {layer}: {label}, blocks")


def _moments(
    paths: Sequence[str | Path], samples: dict[str, Sample], layer: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (d,) and covariance (d × d) of training tokens, float64."""
    n, total, products = 0, 0.0, 0.0
    for block in _training(paths, samples, layer, "moments"):
        x = block.x.astype(np.float64)
        n, total, products = n + len(x), total + x.sum(axis=0), products + x.T @ x
    if not n:
        raise InputError("activations: found no token of a training cell, expected at least one")
    mean = total / n
    return mean, products / n - np.outer(mean, mean)


def _sampled_tokens(
    paths: Sequence[str | Path],
    samples: dict[str, Sample],
    layer: int,
    size: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return a uniform sample of training tokens, (at most size × d): those with the smallest keys."""
    kept, keys = None, None
    for block in _training(paths, samples, layer, "sample"):
        key = generator.random(len(block.gene))
        x = block.x if kept is None else np.concatenate([kept, block.x])
        key = key if keys is None else np.concatenate([keys, key])
        order = np.sort(np.argsort(key, kind="stable")[:size])
        kept, keys = x[order], key[order]
    if kept is None:
        raise InputError("activations: found no token of a training cell, expected at least one")
    return kept


def _fixed_signs(vectors: np.ndarray) -> np.ndarray:
    """Return columns with their largest entry positive: eigenvectors have no sign of their own."""
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return vectors * np.where(largest < 0, -1.0, 1.0)


def nmf_parts(values: np.ndarray, components: int, generator: np.random.Generator) -> np.ndarray:
    """Return H (components × columns) of values (rows × columns) ≈ W H, all non-negative.

    scikit-learn's coordinate descent from the non-negative SVD (Boutsidis and Gallopoulos 2008), its
    zeros filled at random.
    """
    import warnings

    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    components = min(components, *values.shape)
    seed = int(generator.integers(2**31 - 1))
    model = NMF(components, init="nndsvdar", max_iter=NMF_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        # A baseline stopped after a fixed number of steps is what is meant.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(values)
    return model.components_


def expression_scores(
    name: str,
    adatas: Sequence[AnnData],
    genes: Sequence[str],
    components: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return loadings of genes on components of expression, non-negative (genes × m).

    Training cells alone: counts scaled to the median depth, log1p, each gene divided by its standard
    deviation. ``expression_pca``: centred, the leading right singular vectors times their singular
    value, both signs (m = 2 · components). ``expression_nmf``: the parts of a non-negative
    factorisation (m = components). The baseline to beat: it has seen the same cells, and no model.

    Raises
    ------
    InputError
        For an unknown name, or without training cells.
    """
    matrix = _scaled_expression(adatas, genes)
    components = min(components, min(matrix.shape) - 1)
    if name == "expression_nmf":
        return nmf_parts(matrix, components, generator).T
    if name != "expression_pca":
        raise InputError(f"baseline: found {name!r}, expected expression_pca or expression_nmf")
    centred = matrix - matrix.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    values, vectors = values[::-1][:components], _fixed_signs(vectors[:, ::-1][:, :components])
    return both_signs(vectors * np.sqrt(np.maximum(values, 0)))


def log_normalised(counts: csr_matrix, depth: float) -> csr_matrix:
    """Return log1p of counts (cells × genes) scaled to ``depth`` a cell, CSR float64."""
    from scipy import sparse

    total = np.maximum(np.asarray(counts.sum(axis=1), float).ravel(), 1)
    scaled = sparse.csr_matrix(sparse.diags(depth / total) @ counts.astype(np.float64))
    scaled.data = np.log1p(scaled.data)
    return scaled


def panel_counts(adata: AnnData, genes: Sequence[str]) -> csr_matrix:
    """Return the raw counts of a sample over the panel's genes, CSR (cells × genes)."""
    from scipy import sparse

    position = {gene: i for i, gene in enumerate(genes)}
    columns = np.array([position[str(gene)] for gene in adata.var_names])
    coo = sparse.coo_matrix(adata.X)
    return sparse.csr_matrix((coo.data, (coo.row, columns[coo.col])), shape=(adata.n_obs, len(genes)))


def _scaled_expression(adatas: Sequence[AnnData], genes: Sequence[str]) -> np.ndarray:
    from scipy import sparse

    train = [(adata.obs["split"] == "train").to_numpy() for adata in adatas]
    parts = [panel_counts(adata, genes)[chosen] for adata, chosen in zip(adatas, train, strict=True)]
    counts = sparse.vstack(parts, format="csr")
    if counts.shape[0] < 2:
        raise InputError(f"cells: found {counts.shape[0]} training cells, expected at least 2")
    depth = float(np.median(np.asarray(counts.sum(axis=1))))
    matrix = log_normalised(counts, depth).toarray()
    deviation = matrix.std(axis=0)
    return np.divide(matrix, deviation, out=np.zeros_like(matrix), where=deviation > 0)


def static_scores(weights: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the model's static gene embeddings, centred over genes, both signs (genes × 2 d).

    ``weights`` (vocabulary × d): gene embeddings after their norm; ``ids`` (genes,): row of each gene,
    −1 for genes that the model does not know, which score 0 throughout.
    """
    known = ids >= 0
    if not known.any():
        raise InputError("gene vectors: found none of the panel's genes, expected some")
    rows = np.zeros((len(ids), weights.shape[1]))
    rows[known] = weights[ids[known]]
    rows[known] -= rows[known].mean(axis=0)
    return both_signs(rows)


def text_scores(vectors: np.ndarray, known: Sequence[str], genes: Sequence[str]) -> np.ndarray:
    """Return vectors of genes that were made elsewhere (of texts, say), centred, both signs (genes × 2 d).

    ``vectors`` (rows × d) and their symbols ``known``; a gene of the panel without one scores 0 throughout.
    """
    place = {gene: i for i, gene in enumerate(known)}
    return static_scores(vectors, np.array([place.get(gene, -1) for gene in genes]))
