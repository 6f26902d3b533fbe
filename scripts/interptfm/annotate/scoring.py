"""Concepts in the user's cells, on the scale of the run that the model and dictionary come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm.activity import rollup, scores
from interptfm.annotate.finished import Finished, var_of
from interptfm.annotate.query import Query
from interptfm.tis import units
from interptfm.tis.judges import log_normalise

if TYPE_CHECKING:
    from anndata import AnnData

OWN = ("has_tokens", "n_genes_read", "n_counts_read")
KEPT_UNS = ("spatial",)


def scored(run: Finished, query: Query, codes: sparse.spmatrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the activity of the run's concepts in other cells, and that of their genes alone.

    Parameters
    ----------
    run, query
        The scoring of the run; the cells.
    codes
        (cells × features) aggregated as the run aggregates, codes divided by the run's training maxima.

    Returns
    -------
    matrix, genes
        float32 (cells × concepts with an activity): as X and layer ``genes`` of the run's
        ``activity/*.h5ad``. Every sum is divided by the standard deviation over the *run's* cells, every
        gene's z-score taken with mean and deviation of the run's cells: the same cell gets the same value
        whatever lies beside it. Genes that the file lacks are left out of the means.
    """
    rolled = rollup.roll_up(
        scores.feature_scores(codes, run.weights), run.steps, run.touched, run.settings["rollup"]["alpha"]
    )
    depth, mean, deviation = run.gene_scale(query.genes)
    place = {gene: i for i, gene in enumerate(run.genes)}
    part = query.counts.tocoo()
    column = np.array([place[gene] for gene in query.genes])[part.col]
    shape = (query.counts.shape[0], len(run.genes))
    counts = sparse.csr_matrix((part.data, (part.row, column)), shape=shape)
    of_genes = np.nan_to_num(scores.gene_scores(log_normalise(counts, depth), run.members, (mean, deviation)))
    sd, used = run.table["sd"].to_numpy(float)[run.used], run.used
    found = (of_genes if run.settings["source"] == "genes" else rolled)[:, used] / sd
    return found.astype(np.float32), of_genes[:, used].astype(np.float32)


def as_cells(query: Query, name: str) -> units.Cells:
    """Return the user's cells as one sample, for reading features by cell."""
    obs = pd.DataFrame({"sample": name}, index=query.names)
    return units.Cells(query.counts, query.genes, obs, np.full((len(obs), 2), np.nan))


def annotated(
    run: Finished,
    query: Query,
    codes: sparse.spmatrix,
    present: np.ndarray,
    read: list[str],
    facts: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> AnnData:
    """Return cells × concepts as AnnData.

    X and layer ``genes`` as :func:`scored`; obs of the user's file and ``has_tokens``, ``n_genes_read``,
    ``n_counts_read`` (a column of the file with such a name becomes ``source_<name>``); obsm of the file and
    its ``uns["spatial"]``; var as in ``activity/*.h5ad`` with ``sd`` (the run's scale), ``n_genes`` (of the
    concept in the run's panel) and ``n_genes_found`` (of these in the file); uns ``interptfm``: JSON of the
    provenance, with ``annotation``: what was shared and what is missing.

    Parameters
    ----------
    present
        (cells,) bool, cells with a token.
    read
        Genes that the model read.
    facts
        Further plain values for ``annotation``.
    """
    from anndata import AnnData

    matrix, genes = scored(run, query, codes)
    known = np.isin(query.genes, read)
    counts = query.counts[:, np.flatnonzero(known)]
    obs = query.adata.obs.rename(columns={name: f"source_{name}" for name in OWN})
    obs["has_tokens"] = np.asarray(present, dtype=bool)
    obs["n_genes_read"] = np.diff(counts.indptr).astype(np.int64)
    obs["n_counts_read"] = np.asarray(counts.sum(axis=1)).ravel().astype(np.int64)
    members = run.members[:, np.flatnonzero(run.used)]
    here = np.flatnonzero(np.isin(run.genes, query.genes))
    var = var_of(run).astype({"name": str, "source": str, "channel": str, "n_features": np.int64})
    var["sd"] = run.table["sd"].to_numpy(float)[run.used]
    var["n_genes"] = np.asarray(members.sum(axis=0)).ravel().astype(np.int64)
    var["n_genes_found"] = np.asarray(members[here].sum(axis=0)).ravel().astype(np.int64)
    facts = {
        **facts,
        "dictionary": run.dictionary,
        "layer": run.layer,
        "source": run.settings["source"],
        "n_cells": len(obs),
        "n_cells_without_tokens": int((~obs["has_tokens"]).sum()),
        "n_genes_of_file": query.n_genes,
        "n_genes_of_panel": len(run.genes),
        "n_genes_shared": len(query.genes),
        "n_genes_read": len(read),
        "counts": query.source,
        "missing_genes": query.missing,
        "median_genes": float(np.median(obs["n_genes_read"])),
        "median_genes_of_run": float(np.median(np.diff(_of(run, read).indptr))),
    }
    found = AnnData(
        X=matrix,
        obs=obs,
        var=var,
        layers={"genes": genes},
        obsm={key: value for key, value in query.adata.obsm.items()},
        uns={key: query.adata.uns[key] for key in KEPT_UNS if key in query.adata.uns},
    )
    found.uns["interptfm"] = json.dumps({**provenance, "annotation": facts}, sort_keys=True)
    return found


def _of(run: Finished, genes: list[str]) -> sparse.csr_matrix:
    return sparse.csr_matrix(run.cells.counts[:, np.flatnonzero(np.isin(run.genes, genes))])
