"""Providers: what turns a text into a vector, behind one interface; TF-IDF and tables stand here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from interptfm import store
from interptfm.errors import InputError
from interptfm.tis.judges import unit_length

log = logging.getLogger("interptfm")

KINDS = ("tfidf", "transformer", "endpoint", "table")


class Provider(Protocol):
    """Turns texts into vectors; what must be fitted to the genes' texts is fitted first."""

    def fit(self, texts: Sequence[str]) -> None:
        """Learn what the provider has to know of the genes' texts; most have nothing to learn."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return one vector a text, (texts × dims) float32."""

    def record(self) -> dict[str, Any]:
        """Return what the summary must say of the vectors' origin."""


class Tfidf:
    """The offline provider: TF-IDF of words, reduced by a truncated SVD (latent semantic analysis).

    Words are lower-cased; symbols with hyphens stay whole. Source: Deerwester et al. 1990, *JASIS* 41:391;
    computed by scikit-learn.
    """

    def __init__(self, dimensions: int, words: int, seed: int) -> None:
        self.dimensions, self.words, self.seed = dimensions, words, seed

    def fit(self, texts: Sequence[str]) -> None:
        """Fit words, weights and directions to the genes' texts."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectoriser = TfidfVectorizer(
            ngram_range=(1, self.words), sublinear_tf=True, token_pattern=r"(?u)\b\w[\w-]*\b"
        )
        weights = self.vectoriser.fit_transform(texts)
        most = min(weights.shape) - 1
        self.svd = TruncatedSVD(min(self.dimensions, most), random_state=self.seed % 2**32)
        self.svd.fit(weights)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors, float32; a text without a known word is all zeros."""
        return unit_length(self.svd.transform(self.vectoriser.transform(texts)).astype(np.float32))

    def record(self) -> dict[str, Any]:
        return {
            "words": len(self.vectoriser.vocabulary_),
            "variance_explained": float(self.svd.explained_variance_ratio_.sum()),
        }


class Table:
    """Vectors that somebody else computed, such as GenePT's, by gene."""

    def __init__(self, path: str) -> None:
        from interptfm.tis.units import gene_table

        self.path = path
        values, genes = gene_table(path)
        self.place: dict[str, int] = {}
        for row, gene in enumerate(genes):
            self.place.setdefault(gene, row)
        self.values = values

    def genes(self, panel: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Return the panel's genes that the table has, and their vectors (genes × dims)."""
        found = [gene for gene in panel if gene in self.place]
        if len(found) < 3:
            raise InputError(
                f"{self.path}: found {len(found)} of the panel's {len(panel)} genes, expected at least 3; "
                "are these gene symbols?"
            )
        return found, self.values[[self.place[gene] for gene in found]]

    def record(self) -> dict[str, Any]:
        return {"genes_of_the_table": len(self.place)}


def make(setting: Mapping[str, Any], seed: int) -> Provider:
    """Return the provider of text that an entry of ``gene_text.providers`` describes."""
    kind = setting["kind"]
    if kind == "tfidf":
        return Tfidf(setting["dimensions"], setting["words"], seed)
    if kind == "transformer":
        from interptfm.gene_text.transformer import Transformer

        keys = ("model", "revision", "batch", "max_tokens")
        return Transformer(**{key: setting[key] for key in keys})
    if kind == "endpoint":
        from interptfm.gene_text.endpoint import Endpoint

        keys = (
            *("url", "model", "key", "batch", "attempts", "timeout", "wait"),
            *("usd_per_million_tokens", "max_usd", "cache"),
        )
        return Endpoint(**{key: setting[key] for key in keys})
    raise InputError(f"gene_text.providers: found kind {kind!r} for texts, expected one of {KINDS[:3]}")


def gene_vectors(
    setting: Mapping[str, Any], texts: Mapping[str, str] | None, panel: Sequence[str], seed: int
) -> tuple[list[str], np.ndarray, dict[str, Any]]:
    """Return genes, their vectors (genes × dims, float32) and the record of a provider.

    Parameters
    ----------
    setting
        An entry of ``gene_text.providers``.
    texts
        Gene → text; not needed by kind ``table``.
    panel
        Genes of the run.
    """
    if setting["kind"] == "table":
        table = Table(setting["path"])
        genes, values = table.genes(panel)
        return genes, values, table.record()
    if texts is None:
        raise InputError(
            f"gene_text provider {setting['name']!r}: found no texts, expected those of the genes"
        )
    provider, genes = make(setting, seed), list(texts)
    provider.fit(list(texts.values()))
    values = checked(provider.embed(list(texts.values())), len(genes), setting["name"])
    return genes, values, provider.record()


def checked(values: np.ndarray, n: int, name: str) -> np.ndarray:
    """Return ``values`` if they are n finite vectors of at least one dimension."""
    values = np.asarray(values, np.float32)
    if values.ndim != 2 or len(values) != n or not values.shape[1] or not np.isfinite(values).all():
        raise InputError(
            f"gene_text provider {name!r}: found vectors of shape {values.shape}, expected {n} finite ones"
        )
    return values


def write_genes(path: str, genes: Sequence[str], values: np.ndarray, origin: dict[str, Any]) -> None:
    """Write the table that judges of TIS take: ``gene``, then one column a dimension (d0, d1, …)."""
    import pandas as pd

    frame = pd.DataFrame(values, columns=[f"d{i}" for i in range(values.shape[1])])
    frame.insert(0, "gene", list(genes))
    store.write_table(path, frame, provenance=origin)
