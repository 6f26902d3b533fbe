"""Units: what is scored, as (cells × units) activations over the cells of all samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import store
from interptfm.errors import InputError

SOURCES = ("cls", "features", "obsm")
AGGREGATES = ("mean", "max", "fraction")
STAIN = "stain_"


@dataclass(frozen=True)
class Cells:
    """The cells of all samples, one below the other.

    ``counts`` raw CSR (cells × genes of the panel); ``obs`` with sample, cell_type, block, split, n_counts,
    n_genes and stains, indexed by the cells' names; ``spatial`` (cells × 2) in µm, NaN where there is none.
    """

    counts: sparse.csr_matrix
    genes: list[str]
    obs: pd.DataFrame
    spatial: np.ndarray

    @property
    def section(self) -> np.ndarray:
        return self.obs["sample"].to_numpy().astype(str)

    @property
    def types(self) -> np.ndarray:
        return self.obs["cell_type"].astype(str).to_numpy()

    @property
    def blocks(self) -> np.ndarray:
        return self.obs["block"].astype(str).to_numpy()

    @property
    def split(self) -> np.ndarray:
        return self.obs["split"].astype(str).to_numpy()

    def take(self, chosen: np.ndarray) -> Cells:
        """Return some of the cells, by position."""
        return Cells(self.counts[chosen], self.genes, self.obs.iloc[chosen], self.spatial[chosen])

    def rows(self) -> dict[str, np.ndarray]:
        """Return sample → positions of its cells, in the order of its file."""
        section = self.section
        return {name: np.flatnonzero(section == name) for name in dict.fromkeys(section)}


def read_cells(paths: Sequence[str | Path]) -> Cells:
    """Read ``cells/<sample>.h5ad`` of all samples; genes are the union of their panels.

    Raises
    ------
    InputError
        Without files, or for a file without the columns that ingest writes.
    """
    if not paths:
        raise InputError("cells: found no file, expected one a sample")
    read = [store.read_h5ad(path) for path in paths]
    wanted = ("sample", "cell_type", "block", "split", "n_counts", "n_genes")
    for path, adata in zip(paths, read, strict=True):
        for name in wanted:
            if name not in adata.obs:
                raise InputError(
                    f"{path}: found no obs column {name!r}, expected cells as ingest writes them"
                )
    genes = store.panel(adata.var_names for adata in read)
    place = {gene: i for i, gene in enumerate(genes)}
    counts = []
    for adata in read:
        part = sparse.coo_matrix(adata.X)
        column = np.array([place[gene] for gene in adata.var_names])[part.col]
        counts.append(sparse.csr_matrix((part.data, (part.row, column)), shape=(adata.n_obs, len(genes))))
    obs = pd.concat(
        [
            a.obs[[*wanted, *(c for c in a.obs if c.startswith(STAIN))]].astype({"cell_type": str})
            for a in read
        ]
    )
    nowhere = [np.full((a.n_obs, 2), np.nan) for a in read]
    spatial = [
        np.asarray(a.obsm["spatial"], float) if "spatial" in a.obsm else n for a, n in zip(read, nowhere)
    ]
    return Cells(sparse.vstack(counts, format="csr"), genes, obs, np.concatenate(spatial))


def cls_units(paths: Sequence[str | Path], cells: Cells, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `<cls>` states of a layer and which cells have one (those with tokens).

    Returns
    -------
    activations, present
        (cells × d) float32, 0 in cells without; (cells,) bool.

    Raises
    ------
    InputError
        If a store names another sample or cell, or two disagree on d.
    """
    rows, activations = cells.rows(), None
    present = np.zeros(len(cells.obs), bool)
    for path in paths:
        with store.open_activations(path) as file:
            sample = str(file.attributes["sample"])
            index = np.unique(file.cell)
            if sample not in rows or (len(index) and index[-1] >= len(rows[sample])):
                raise InputError(f"{path}: found cells of sample {sample!r} that are not in its cells file")
            states = file.cls(layer)
            if activations is None:
                activations = np.zeros((len(cells.obs), states.shape[1]), np.float32)
            if states.shape[1] != activations.shape[1]:
                raise InputError(f"{path}: found d = {states.shape[1]}, expected {activations.shape[1]}")
            activations[rows[sample][index]] = states
            present[rows[sample][index]] = True
    if activations is None:
        raise InputError("activations: found no store, expected one a shard")
    return activations, present


def feature_units(path: str | Path, cells: Cells, aggregate: str) -> tuple[sparse.csc_matrix, np.ndarray]:
    """Return a dictionary's features aggregated to cells, CSC float32 (cells × features), and who has one.

    ``aggregate``: ``mean``, ``max`` or ``fraction`` of a cell's tokens (see ``features/*/cells.zarr.zip``).
    """
    if aggregate not in AGGREGATES:
        raise InputError(f"tis.units: found aggregate {aggregate!r}, expected one of {', '.join(AGGREGATES)}")
    with store.open_zarr(path) as group:
        names, matrix = list(group.attrs["samples"]), store.read_csr(group, aggregate)
        sample, cell = group["sample"][:], group["cell"][:]
    rows = cells.rows()
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise InputError(f"{path}: found sample {unknown[0]!r}, expected one of {', '.join(rows)}")
    place = np.empty(len(cell), np.int64)
    for code, name in enumerate(names):
        mine = sample == code
        if mine.any() and cell[mine].max() >= len(rows[name]):
            raise InputError(
                f"{path}: found cell {cell[mine].max()} of sample {name!r}, expected one of the "
                f"{len(rows[name])} in its cells file"
            )
        place[mine] = rows[name][cell[mine]]
    part = matrix.tocoo()
    shape = (len(cells.obs), matrix.shape[1])
    activations = sparse.csc_matrix((part.data, (place[part.row], part.col)), shape=shape, dtype=np.float32)
    present = np.zeros(len(cells.obs), bool)
    present[place] = True
    return activations, present


def obsm_units(paths: Sequence[str | Path], cells: Cells, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of ``obsm[key]`` of any AnnData files, matched to cells by name.

    Raises
    ------
    InputError
        If a file has no such key, or no name is that of a cell.
    """
    place = {name: i for i, name in enumerate(cells.obs.index)}
    activations, present = None, np.zeros(len(cells.obs), bool)
    for path in paths:
        adata = store.read_h5ad(path)
        if key not in adata.obsm:
            known = ", ".join(adata.obsm) or "none"
            raise InputError(f"{path}: found no obsm key {key!r}, expected it among {known}")
        values = np.asarray(adata.obsm[key], np.float32)
        if activations is None:
            activations = np.zeros((len(place), values.shape[1]), np.float32)
        if values.shape[1] != activations.shape[1]:
            raise InputError(f"{path}: found {values.shape[1]} columns, expected {activations.shape[1]}")
        known = np.array([place.get(name, -1) for name in adata.obs_names])
        activations[known[known >= 0]] = values[known >= 0]
        present[known[known >= 0]] = True
    if activations is None or not present.any():
        raise InputError(
            f"obsm {key!r}: found none of the cells by name, expected names "
            f"such as {next(iter(place), '?')!r}"
        )
    return activations, present


def at_most(cells: Cells, limit: int | None, generator: np.random.Generator) -> np.ndarray:
    """Return positions of at most ``limit`` cells drawn at random, rising; all where there is no limit."""
    n = len(cells.obs)
    if limit is None or n <= limit:
        return np.arange(n)
    return np.sort(generator.choice(n, limit, replace=False))


def rows_of(columns: np.ndarray | sparse.csc_matrix, kept: np.ndarray) -> np.ndarray | sparse.csc_matrix:
    """Return the rows ``kept`` of activations; a sparse matrix stays CSC."""
    if len(kept) == columns.shape[0]:
        return columns
    return columns[kept] if isinstance(columns, np.ndarray) else columns.tocsr()[kept].tocsc()


def listed(value: str | Sequence[str]) -> list[str]:
    """Return one path or several as a list; Snakemake gives a lone named input as plain text."""
    return [value] if isinstance(value, str) else [str(path) for path in value]


def visible(genes: Sequence[str], hidden: set[str]) -> np.ndarray:
    """Return which genes (bool) the held-out-gene arm saw.

    Raises
    ------
    InputError
        If it saw all or none of them: then nothing is left to judge by, or to see.
    """
    seen = np.array([gene not in hidden for gene in genes])
    if seen.all() or not seen.any():
        raise InputError(
            f"tis.held_out_arm: found an arm that sees {seen.sum()} of {len(seen)} genes, expected a part of "
            "them, so that the others can judge"
        )
    return seen


def gene_table(path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Read a gene embedding: a table with the column ``gene`` and one numeric column a dimension."""
    frame = store.read_table(path)
    if "gene" not in frame or len(frame.columns) < 2:
        raise InputError(f"{path}: found the columns {list(frame)[:4]}, expected 'gene' and dimensions")
    try:
        values = frame.drop(columns="gene").to_numpy(np.float32)
    except ValueError:
        raise InputError(f"{path}: found text among the dimensions, expected numbers") from None
    if not np.isfinite(values).all():
        raise InputError(f"{path}: found dimensions that are not finite, expected numbers")
    return values, frame["gene"].astype(str).tolist()


def read(
    setting: dict[str, Any], files: Sequence[str], cells: Cells, layer: int
) -> tuple[np.ndarray | sparse.csc_matrix, np.ndarray]:
    """Return activations and presence of one entry of ``tis.units`` (source, aggregate, key)."""
    source = setting["source"]
    if source == "cls":
        return cls_units(files, cells, layer)
    if source == "features":
        return feature_units(files[0], cells, setting.get("aggregate") or "mean")
    if source == "obsm":
        return obsm_units(files, cells, setting["key"])
    raise InputError(f"tis.units: found source {source!r}, expected one of {', '.join(SOURCES)}")
