"""One sample from raw files to the cells that every later stage reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interptfm import blocks, job
from interptfm.cosmx import cell_types, naming
from interptfm.cosmx.counts import read_counts
from interptfm.cosmx.h5ad import read_h5ad_cells
from interptfm.cosmx.metadata import check_scale, read_metadata
from interptfm.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger("interptfm")

FORMATS = ("cosmx", "h5ad", "h5ad_nonspatial")


def read_cells(
    files: Mapping[str, str | Path],
    format: str,
    pixel_size_um: float | None,
    min_genes: int = 1,
    label_column: str | None = None,
) -> tuple[AnnData, dict[str, int]]:
    """Read the kept cells of one sample in any supported format.

    Parameters
    ----------
    files
        For ``cosmx``: ``counts``, ``metadata`` and, where the metadata has no global coordinates,
        ``positions``. For ``h5ad`` and ``h5ad_nonspatial``: ``h5ad``.
    format
        One of ``FORMATS``.
    pixel_size_um
        µm per pixel (or per unit of ``obsm["spatial"]``).
    min_genes
        Cells with fewer detected genes are dropped, besides cell_ID 0 and cells without counts.
    label_column
        Column of metadata or obs with cell types, kept as ``label``.

    Returns
    -------
    AnnData
        X: raw counts CSR float32 (cells × genes, sorted indices); obs: ``fov``, ``cell_id``, ``label``,
        ``area_um2``, ``stain_<name>`` where present; obsm: ``spatial`` (cells × 2, float64, µm),
        ``negative_probes`` and ``system_controls`` (DataFrames, int32) where present; var: index = symbol.
    dict
        ``read`` (rows) and rows dropped by reason.

    Raises
    ------
    InputError
        For every fault of the files that the readers name, and for an unknown format.
    """
    if format not in FORMATS:
        raise InputError(f"format: found {format!r}, expected one of {', '.join(FORMATS)}")
    needed = ("counts", "metadata") if format == "cosmx" else ("h5ad",)
    for role in needed:
        if not files.get(role):
            raise InputError(f"format {format}: found no {role} file, expected {' and '.join(needed)}")
    if format == "cosmx":
        cells, report = _read_flat_files(files, pixel_size_um, min_genes, label_column)
        source = Path(files["metadata"]).name
    else:
        cells, report = read_h5ad_cells(
            files["h5ad"], pixel_size_um, min_genes, label_column, spatial=format == "h5ad"
        )
        source = Path(files["h5ad"]).name
    if "spatial" in cells.obsm:
        median = check_scale(cells.obsm["spatial"], pixel_size_um, source)
        log.info("%s: median distance to the nearest cell %.2f µm", source, median)
    log.info(
        "%d of %d rows kept (%s), %d genes",
        cells.n_obs,
        report["read"],
        ", ".join(f"{n} {reason}" for reason, n in report.items() if reason != "read"),
        cells.n_vars,
    )
    return cells, report


def _read_flat_files(
    files: Mapping[str, str | Path], pixel_size_um: float | None, min_genes: int, label_column: str | None
) -> tuple[AnnData, dict[str, int]]:
    import anndata
    import numpy as np
    import pandas as pd

    # The metadata first: it is small, and most mistakes show there before the long read.
    metadata = read_metadata(files["metadata"], files.get("positions"), pixel_size_um, label_column)
    counts = read_counts(files["counts"], min_genes)
    meta_keys = naming.cell_keys(metadata["fov"].to_numpy(), metadata["cell"].to_numpy())
    count_keys = naming.cell_keys(counts.all_fov, counts.all_cell)
    names = Path(files["counts"]).name, Path(files["metadata"]).name
    for here, there, fov, cell, (has, lacks) in (
        (count_keys, meta_keys, counts.all_fov, counts.all_cell, names),
        (meta_keys, count_keys, metadata["fov"], metadata["cell"], names[::-1]),
    ):
        alone = np.flatnonzero(~np.isin(here, there))
        if alone.size:
            raise InputError(
                f"{lacks}: found no row for {alone.size} of {len(here)} cells of {has} (first FOV "
                f"{fov[alone[0]]}, cell {cell[alone[0]]}), expected the same cells in both files"
            )
    order = pd.Index(meta_keys).get_indexer(naming.cell_keys(counts.fov, counts.cell))
    metadata = metadata.iloc[order].set_axis([str(i) for i in range(len(order))])
    cells = anndata.AnnData(
        X=counts.matrix,
        obs=metadata.drop(columns=["x", "y"]).rename(columns={"cell": "cell_id"}),
        var=pd.DataFrame(index=pd.Index(counts.genes, name=None)),
    )
    cells.obsm["spatial"] = metadata[["x", "y"]].to_numpy(dtype=float)
    for kind in ("negative_probes", "system_controls"):
        frame = getattr(counts, kind)
        if frame.shape[1]:
            cells.obsm[kind] = frame.set_axis(cells.obs_names)
    rows = len(count_keys) + counts.dropped["cell_ID 0"]
    return cells, {"read": rows, **counts.dropped}


def ingest(
    files: Mapping[str, str | Path],
    sample: str,
    format: str,
    pixel_size_um: float | None,
    donor: str,
    shards: int,
    samples: Sequence[str],
    cells: Mapping[str, Any],
    seed: int,
    cell_types_column: str | None = None,
    vocabulary: Mapping[str, int] | None = None,
) -> tuple[AnnData, dict[str, int]]:
    """Read one sample and add cell types, blocks, splits and shards: the contract of ``cells/<sample>.h5ad``.

    Parameters
    ----------
    files
        As for :func:`read_cells`, and ``cell_types`` for a table to join.
    sample, format, pixel_size_um, donor, shards
        Row of the sample sheet.
    samples
        Names of all samples of the run; used where blocks are sections.
    cells
        ``min_genes``, ``blocks`` (``unit``, ``size_um``, ``guard_um``, optionally ``column``), ``split``
        (shares) and ``clustering`` (``resolution``).
    seed
        The configured seed; splits and clusters derive their own from it.
    cell_types_column
        Column with cell types; else ``files["cell_types"]``; else Leiden clusters.
    vocabulary
        Gene ids of a given checkpoint; without one ``var["in_vocab"]`` is true everywhere.

    Returns
    -------
    AnnData, dict
        Cells as in DESIGN, and the rows read and dropped by reason.

    Raises
    ------
    InputError
        As :func:`read_cells` and the functions of :mod:`interptfm.blocks`.
    """
    import numpy as np
    import pandas as pd

    data, report = read_cells(files, format, pixel_size_um, cells["min_genes"], cell_types_column)
    obs = data.obs
    if cell_types_column is not None:
        kinds = cell_types.from_column(obs.pop("label"), cell_types_column)
    elif files.get("cell_types"):
        kinds = cell_types.from_table(files["cell_types"], obs["fov"].to_numpy(), obs["cell_id"].to_numpy())
    else:
        kinds = cell_types.leiden_clusters(
            data.X, cells["clustering"]["resolution"], job.seed(seed, "ingest", sample, "clusters")
        )
        log.info("cell types: none given; %d Leiden clusters stand in", len(kinds.categories))

    settings = cells["blocks"]
    unit, spatial = settings["unit"], data.obsm.get("spatial")
    column = settings.get("column")
    if column is not None and column not in obs:
        raise InputError(f"cells.blocks.column: found {column!r}, expected one of {list(obs.columns)}")
    block = blocks.assign_blocks(
        spatial,
        obs["fov"].to_numpy(),
        unit,
        settings["size_um"],
        sample,
        groups=None if column is None else obs[column].astype(str).to_numpy(),
        rng=job.generator(seed, "ingest", sample, "groups"),
    )
    if unit == "section":
        split = np.full(
            data.n_obs,
            blocks.split_sections(samples, cells["split"], job.generator(seed, "ingest", "sections"))[sample],
            dtype=object,
        )
    else:
        split = blocks.assign_splits(
            block, cells["split"], job.generator(seed, "ingest", sample, "splits"), unit, sample
        )
        if spatial is not None:
            split = blocks.guard(split, spatial, settings["guard_um"], sample)

    front = pd.DataFrame(
        {
            "sample": pd.Categorical([sample] * data.n_obs),
            "donor": pd.Categorical([donor] * data.n_obs),
            "fov": obs["fov"].to_numpy(),
            "cell_id": obs["cell_id"].to_numpy(),
            "cell_type": kinds,
            "n_counts": np.asarray(data.X.sum(axis=1)).ravel().astype(np.int64),
            "n_genes": np.diff(data.X.indptr).astype(np.int32),
            "block": block,
            "split": pd.Categorical(split, categories=blocks.SPLITS),
            "shard": blocks.assign_shards(data.n_obs, shards, sample),
        },
        index=obs.index,
    )
    data.obs = pd.concat([front, obs.drop(columns=["fov", "cell_id"])], axis=1)
    data.obs_names = [f"{sample}:{f}_{c}" for f, c in zip(front["fov"], front["cell_id"])]
    data.var["symbol"] = data.var_names.to_numpy()
    data.var["in_vocab"] = True if vocabulary is None else [g in vocabulary for g in data.var_names]
    return data, report
