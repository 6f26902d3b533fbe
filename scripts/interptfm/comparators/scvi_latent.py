"""scVI's latent space of the cells: a variational autoencoder of their counts.

Source: Lopez et al. 2018, doi:10.1038/s41592-018-0229-2, as scvi-tools implements it (Gayoso et al. 2022,
doi:10.1038/s41587-021-01206-w).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm.comparators.status import Skipped, package
from interptfm.tis.units import Cells

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger("interptfm")

FAMILY = "scvi"
KEY = "X_scvi"
FEWEST = 50


def training_cells(cells: Cells, present: np.ndarray | None = None, what: str = "a count") -> np.ndarray:
    """Return positions of the cells that a model may see: those of training blocks with a count.

    Parameters
    ----------
    present
        (cells,) bool, which cells have all that the model is of; None: all.
    what
        What these cells have, for the message.

    Raises
    ------
    Skipped
        If they are fewer than :data:`FEWEST`.
    """
    usable = (cells.split == "train") & (np.diff(cells.counts.indptr) > 0)
    chosen = np.flatnonzero(usable if present is None else usable & present)
    if len(chosen) < FEWEST:
        raise Skipped(f"{len(chosen)} cells of training blocks have {what}, expected at least {FEWEST}")
    return chosen


def begin(seed: int, threads: int) -> Any:
    """Return scvi-tools, seeded and quiet; raises :class:`Skipped` where it is not there."""
    scvi = package("scvi-tools", "scvi", FAMILY)
    import torch

    torch.set_num_threads(threads)
    scvi.settings.seed = seed % 2**32
    scvi.settings.verbosity = logging.WARNING
    return scvi


def as_anndata(cells: Cells) -> tuple[AnnData, str | None]:
    """Return raw counts (cells × genes, float32) with obs ``sample``, and the batch: None for one sample."""
    from anndata import AnnData

    obs = pd.DataFrame({"sample": pd.Categorical(cells.section)}, index=cells.obs.index)
    var = pd.DataFrame(index=pd.Index(cells.genes))
    batch = "sample" if obs["sample"].nunique() > 1 else None
    return AnnData(X=cells.counts.astype(np.float32), obs=obs, var=var), batch


def training(settings: dict[str, Any], n_cells: int) -> dict[str, Any]:
    """Return what ``train`` of any model of the package is told: ``epochs``, ``batch_cells``, the CPU.

    All cells are trained on, whoever holds some out does so before. Batch normalisation cannot be fitted on
    one cell: where the last batch would be that, it is left out, another cell in each epoch.
    """
    return {
        "max_epochs": settings["epochs"], "accelerator": "cpu", "devices": 1, "train_size": 1.0,
        "batch_size": settings["batch_cells"], "enable_progress_bar": False, "logger": False,
        "datasplitter_kwargs": {"drop_last": n_cells % settings["batch_cells"] == 1},
    }  # fmt: skip


def latent_of(obs: pd.DataFrame, values: Any, key: str) -> AnnData:
    """Return the file of a latent: AnnData without X, obs ``sample``, obsm ``key`` float32."""
    from anndata import AnnData

    return AnnData(obs=obs[["sample"]], obsm={key: np.asarray(values, np.float32)})


def fit(cells: Cells, settings: dict[str, Any], seed: int, threads: int) -> tuple[AnnData, dict[str, Any]]:
    """Fit scVI on training blocks and return the latent of every cell.

    Parameters
    ----------
    cells
        All samples; the sample is the batch where there are several.
    settings
        ``n_latent``, ``n_hidden``, ``n_layers``, ``epochs``, ``batch_cells``, ``learning_rate``,
        ``likelihood``.

    Returns
    -------
    latent, summary
        AnnData without X: obs_names of ``cells``, obs ``sample``, obsm :data:`KEY` float32 (cells ×
        n_latent), the posterior's means. ``summary``: cells, and the evidence lower bound a cell on training
        and on test blocks (nats, higher is better).

    Raises
    ------
    Skipped
        If scvi-tools is not there, or too few cells are.
    """
    scvi = begin(seed, threads)
    chosen = training_cells(cells)
    adata, batch = as_anndata(cells)
    seen = adata[chosen].copy()
    scvi.model.SCVI.setup_anndata(seen, batch_key=batch)
    model = scvi.model.SCVI(
        seen, n_latent=settings["n_latent"], n_hidden=settings["n_hidden"], n_layers=settings["n_layers"],
        gene_likelihood=settings["likelihood"],
    )  # fmt: skip
    model.train(**training(settings, len(chosen)), plan_kwargs={"lr": settings["learning_rate"]})
    test = np.flatnonzero(cells.split == "test")
    summary = {
        "n_trained_on": len(chosen),
        "elbo_train": float(model.get_elbo(seen)),
        "elbo_test": float(model.get_elbo(adata[test].copy())) if len(test) else None,
    }
    log.info("scVI on %d cells: lower bound %.1f nats a cell", len(chosen), summary["elbo_train"])
    return latent_of(adata.obs, model.get_latent_representation(adata), KEY), summary
