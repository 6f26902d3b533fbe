"""Latents of cells that have a second modality: totalVI's of RNA and protein, MultiVI's of RNA and ATAC.

The second modality is a user's file of counts. Stain intensities are none: they are light, not molecules, and
no negative binomial describes them.

Source: Gayoso et al. 2021, doi:10.1038/s41592-020-01050-x (totalVI), and Ashuach et al. 2023,
doi:10.1038/s41592-023-01909-9 (MultiVI), as scvi-tools implements them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import job, store
from interptfm.comparators import scvi_latent
from interptfm.comparators.status import Skipped, require
from interptfm.errors import InputError
from interptfm.tis.units import STAIN, Cells

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger("interptfm")

TOTALVI, MULTIVI = "totalvi", "multivi"
# System -> the key of its file, what the file holds, what its columns are.
FILES = {
    TOTALVI: ("proteins", "protein counts", "proteins"),
    MULTIVI: ("atac", "ATAC counts", "peaks"),
}
CELL = "cell"


@dataclass(frozen=True)
class Modality:
    """Counts beside those of the genes.

    ``counts`` CSR float32 (cells of the run × names), 0 in cells without; ``present`` (cells,) bool, which
    cells the file has.
    """

    counts: sparse.csr_matrix
    names: list[str]
    present: np.ndarray


def key(system: str) -> str:
    """Return the obsm key of a system's latent."""
    return f"X_{system}"


def read(system: str, found: str | None, path: str | None, cells: Cells) -> Modality:
    """Read the file of a system's second modality.

    Parameters
    ----------
    found, path
        The file that the rule was given, None without one; what the configuration says.
    cells
        All samples. Cells of the file that are not among them are left out.

    Raises
    ------
    Skipped
        Without a file; where cells have stains and proteins are asked for, with the reason why those do not
        serve.
    InputError
        As :func:`read_counts`; for a column that is one of the stains.
    """
    name, what, _ = FILES[system]
    stains = [column for column in cells.obs if column.startswith(STAIN)] if system == TOTALVI else []
    try:
        require(found, f"file of {what}", f"{system}.{name}", path)
    except Skipped as reason:
        if not stains:
            raise
        raise Skipped(
            f"{reason}; the {len(stains)} stain columns of the cells ({', '.join(stains)}) are intensities, "
            "not counts, which totalVI's negative binomial does not describe"
        ) from None
    modality = read_counts(found, cells)
    _refuse_stains(found, modality, cells.obs[stains])
    return modality


def read_counts(path: str | Path, cells: Cells) -> Modality:
    """Read counts of cells: ``.h5ad`` (cells × columns, counts in X), or ``.parquet`` or ``.tsv`` with the
    column ``cell`` and one column a protein or peak.

    Raises
    ------
    InputError
        Without the column ``cell`` or any other, for a cell or column that stands twice, for anything but
        whole numbers from 0, and where no cell is one of the run.
    """
    if Path(path).suffix == ".h5ad":
        adata = store.read_h5ad(path)
        rows, names, values = adata.obs_names.astype(str), adata.var_names.astype(str), adata.X
        if values is None or not len(names):
            raise InputError(f"{path}: found no counts in X, expected cells × proteins or peaks")
    else:
        table = store.read_table(path)
        if CELL not in table or len(table.columns) < 2:
            raise InputError(f"{path}: found the columns {list(table)[:4]}, expected '{CELL}' and counts")
        rows, table = pd.Index(table[CELL].astype(str)), table.drop(columns=CELL)
        names = table.columns.astype(str)
        text = [str(column) for column in table if not pd.api.types.is_numeric_dtype(table[column])]
        if text:
            raise InputError(f"{path}: found text in the column {text[0]!r}, expected counts")
        values = table.to_numpy(np.float64)
    for what, index in (("cell", rows), ("column", names)):
        if index.has_duplicates:
            twice = index[index.duplicated()][0]
            raise InputError(f"{path}: found the {what} {twice!r} twice, expected it once")
    counts = sparse.csr_matrix(values, dtype=np.float64)
    _check_counts(path, counts, rows, names)
    place = rows.get_indexer(cells.obs.index.astype(str))
    present = place >= 0
    if not present.any():
        raise InputError(
            f"{path}: found none of the run's cells by name (the first is {next(iter(rows), '')!r}), "
            f"expected names such as {next(iter(cells.obs.index), '')!r}"
        )
    # Cells that the file lacks take its first row times 0.
    counts = sparse.diags(present.astype(float)) @ counts[np.maximum(place, 0)]
    return Modality(sparse.csr_matrix(counts, dtype=np.float32), list(names), present)


def _check_counts(path: str | Path, counts: sparse.csr_matrix, rows: pd.Index, names: pd.Index) -> None:
    values = counts.data
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~np.isfinite(values) | (values < 0) | (values != np.round(values)))
    if len(wrong):
        row = int(np.searchsorted(counts.indptr, wrong[0], side="right")) - 1
        raise InputError(
            f"{path}: found {values[wrong[0]]:g} in the column {names[counts.indices[wrong[0]]]!r} for cell "
            f"{rows[row]!r}, expected counts, whole numbers from 0; intensities and scaled values are none"
        )


def _refuse_stains(path: str | Path, modality: Modality, stains: pd.DataFrame) -> None:
    """Raise InputError for a column that is a stain of the cells, by its name or by all its values."""
    here = modality.counts[modality.present].tocsc()
    known = stains.to_numpy(np.float64)[modality.present]
    for i, name in enumerate(modality.names):
        values = here[:, [i]].toarray()
        same = known.shape[1] > 0 and values.any() and (np.round(known) == values).all(axis=0).any()
        if name.startswith(STAIN) or same:
            raise InputError(
                f"{path}: found the stain of the cells in the column {name!r}, expected protein counts: "
                "totalVI's negative binomial does not describe intensities"
            )


def fit(
    system: str, cells: Cells, modality: Modality, settings: dict[str, Any], seed: int, threads: int
) -> tuple[AnnData, dict[str, Any]]:
    """Fit totalVI or MultiVI on training blocks and return the latent of the cells.

    totalVI is of cells with protein counts: it is trained on those alone, and no other has a latent. MultiVI
    takes cells without ATAC, too: its latent of them is of their RNA.

    Parameters
    ----------
    cells, modality
        All samples (the sample is the batch where there are several), and :func:`read`.
    settings
        ``n_latent``, ``epochs``, ``batch_cells``, ``learning_rate``; the rest are the package's defaults.

    Returns
    -------
    latent, summary
        AnnData without X: obs_names of the cells with a value, obs ``sample``, obsm :func:`key` float32
        (cells × n_latent), the posterior's means. ``summary``: ``n_trained_on``, ``n_cells`` with a latent,
        ``n_both`` with both modalities, ``n_columns``; of those with both the evidence lower bound a cell on
        training and on test blocks (nats, higher is better), and ``elbo_mismatched``, that of test cells
        which were given the second modality of another test cell of the sample: what is below ``elbo_test``
        is what the model knows of the one modality by the other.

    Raises
    ------
    Skipped
        If scvi-tools is not there, or too few cells of training blocks have both modalities.
    """
    scvi = scvi_latent.begin(seed, threads)
    what = f"a count and {FILES[system][1]}"
    both = scvi_latent.training_cells(cells, modality.present, what)
    used = modality.present if system == TOTALVI else np.ones(len(cells.obs), bool)
    chosen = scvi_latent.training_cells(cells, used)
    adata, batch = scvi_latent.as_anndata(cells)
    shape = {"n_latent": settings["n_latent"]}
    told = {
        **scvi_latent.training(settings, len(chosen)), "lr": settings["learning_rate"],
        "early_stopping": False,
    }  # fmt: skip
    names = pd.Index(modality.names)

    def part(rows: np.ndarray, other: np.ndarray | None = None) -> Any:
        """Return the data of some cells, with the second modality of these or of ``other`` cells."""
        second = modality.counts[rows if other is None else other]
        if system == TOTALVI:
            result = adata[rows].copy()
            result.obsm["proteins"] = pd.DataFrame(
                second.toarray(), index=adata.obs_names[rows], columns=names
            )
            return result
        from anndata import AnnData
        from mudata import MuData

        peaks = AnnData(second, obs=adata.obs[[]].iloc[rows], var=pd.DataFrame(index="peak:" + names))
        result = MuData({"rna": adata[rows].copy(), "atac": peaks})
        # Registered with the training cells, hence expected of all data, though no weight is a cell's own.
        result.obs["_indices"] = np.arange(len(rows))
        return result

    seen = part(chosen)
    if system == TOTALVI:
        scvi.model.TOTALVI.setup_anndata(seen, protein_expression_obsm_key="proteins", batch_key=batch)
        model = scvi.model.TOTALVI(seen, **shape)
        model.train(**told, reduce_lr_on_plateau=False)
    else:
        places = {"rna_layer": "rna", "atac_layer": "atac", "batch_key": "rna"}
        scvi.model.MULTIVI.setup_mudata(seen, batch_key=batch, modalities=places)
        model = scvi.model.MULTIVI(seen, **shape)
        # The adversary mixes batches, which are samples here; the modalities are tied by the penalty.
        model.train(**told, adversarial_mixing=False)
    rows = np.flatnonzero(used)
    test = np.flatnonzero((cells.split == "test") & modality.present)
    summary = {
        "n_trained_on": len(chosen), "n_cells": len(rows), "n_both": int(modality.present.sum()),
        "n_columns": len(names), "elbo_train": float(model.get_elbo(part(both))), "elbo_test": None,
        "elbo_mismatched": None,
    }  # fmt: skip
    if len(test):
        other = _another(test, cells.section, job.generator(seed, system, "mismatched"))
        summary["elbo_test"] = float(model.get_elbo(part(test)))
        summary["elbo_mismatched"] = float(model.get_elbo(part(test, other)))
    values = model.get_latent_representation(part(rows))
    log.info("%s on %d cells: lower bound %.1f nats a cell", system, len(chosen), summary["elbo_train"])
    return scvi_latent.latent_of(adata.obs.iloc[rows], values, key(system)), summary


def _another(rows: np.ndarray, section: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return for each of these cells another of them, of the same sample: every one once, in random order."""
    result = rows.copy()
    for name in np.unique(section[rows]):
        mine = np.flatnonzero(section[rows] == name)
        order = generator.permutation(mine)
        result[order] = rows[np.roll(order, 1)]
    return result


def headline(summary: dict[str, Any], n_latent: int) -> str:
    """Return dimensions and lower bounds in words."""
    if summary["elbo_test"] is None:
        return f"{n_latent} dimensions, lower bound {summary['elbo_train']:.1f} nats a training cell"
    bounds = f"lower bound {summary['elbo_test']:.1f} nats a test cell"
    return f"{n_latent} dimensions, {bounds} ({summary['elbo_mismatched']:.1f} where modalities mismatch)"
