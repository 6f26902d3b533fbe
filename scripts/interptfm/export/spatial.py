"""A section as SpatialData: cells as circles in µm, and tables of counts and of concept activity on them.

Layout as in Marconato et al. 2024 (doi:10.1038/s41592-024-02212-x), written by the package ``spatialdata``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interptfm.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

log = logging.getLogger("interptfm")

CELLS, ACTIVITY, SHAPES, REGION, INSTANCE = "counts", "activity", "cells", "shapes", "cell"
AREA = "area_um2"


def radii(spatial: np.ndarray, area: np.ndarray | None) -> np.ndarray:
    """Return the radius of each cell in µm, float64 (cells,).

    Of the circle with the cell's area where there is one; for cells without, half the median distance to the
    nearest other cell (1 µm for a cell alone): a size to be seen, not a measurement.

    Parameters
    ----------
    spatial
        (cells × 2) centres in µm.
    area
        (cells,) in µm², or None; not finite or not above 0 counts as missing.
    """
    from scipy.spatial import cKDTree

    found = np.full(len(spatial), np.nan)
    if area is not None:
        known = np.isfinite(area) & (area > 0)
        found[known] = np.sqrt(area[known] / np.pi)
    if np.isnan(found).any():
        nearest = cKDTree(spatial).query(spatial, k=2)[0][:, 1] if len(spatial) > 1 else np.array([2.0])
        apart = nearest[nearest > 0]
        found[np.isnan(found)] = np.median(apart) / 2 if len(apart) else 1.0
    return found


def section(cells: AnnData, activity: AnnData, regions: pd.DataFrame | None) -> SpatialData:
    """Return a section as SpatialData.

    Parameters
    ----------
    cells, activity
        ``cells/<sample>.h5ad`` and ``activity/<sample>.h5ad``: the same cells in the same order.
    regions
        ``regions/<sample>.parquet`` (``cell`` and what was called for it), or None; its columns join obs of
        both tables.

    Returns
    -------
    Shapes ``cells``: circles (radius as :func:`radii`) in the coordinate system ``global``, in µm,
    indexed by the cells' names. Tables ``counts`` and ``activity``: the two files, tied to the circles
    by the obs columns ``shapes`` and ``cell``.

    Raises
    ------
    InputError
        Without coordinates, for cells that are not the same in all three, or a name that stands twice.
    """
    import geopandas
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    if "spatial" not in cells.obsm:
        raise InputError("spatialdata: found cells without obsm['spatial'], expected coordinates in µm")
    if not cells.obs_names.is_unique:
        raise InputError("spatialdata: found a cell's name twice in obs_names, expected it once")
    names = cells.obs_names.to_numpy().astype(str)
    others = {"activity": activity.obs_names}
    if regions is not None:
        others["regions"] = regions["cell"]
    for what, other in others.items():
        if not np.array_equal(np.asarray(other, dtype=str), names):
            raise InputError(
                f"spatialdata: found other cells in {what} than in cells, expected the same in order"
            )
    spatial = np.asarray(cells.obsm["spatial"], np.float64)[:, :2]
    if not np.isfinite(spatial).all():
        raise InputError("spatialdata: found a cell without coordinates, expected two numbers for every cell")
    area = cells.obs[AREA].to_numpy(float) if AREA in cells.obs else None
    circles = geopandas.GeoDataFrame(
        {"radius": radii(spatial, area)}, geometry=geopandas.points_from_xy(*spatial.T), index=names
    )
    tables = {
        name: TableModel.parse(_tied(adata, regions), region=SHAPES, region_key=REGION, instance_key=INSTANCE)
        for name, adata in ((CELLS, cells), (ACTIVITY, activity))
    }
    return SpatialData(shapes={SHAPES: ShapesModel.parse(circles)}, tables=tables)


def _tied(adata: AnnData, regions: pd.DataFrame | None) -> AnnData:
    tied = adata.copy()
    if regions is not None:
        called = regions.drop(columns=["cell", *(c for c in regions if c in tied.obs)])
        for name in called:
            tied.obs[name] = called[name].to_numpy()
    for name in (REGION, INSTANCE):
        if name in tied.obs:
            tied.obs = tied.obs.rename(columns={name: f"source_{name}"})
    tied.obs[REGION] = pd.Categorical([SHAPES] * tied.n_obs)
    tied.obs[INSTANCE] = tied.obs_names.to_numpy().astype(str)
    return tied


def write(folder: Path, data: SpatialData) -> None:
    """Write SpatialData as a zarr folder that ``spatialdata.read_zarr`` opens, in place of an empty one."""
    folder.rmdir()  # what is there and no zarr store is refused
    data.write(folder)
    log.info("%s: %d circles, tables %s", folder.name, len(data.shapes[SHAPES]), ", ".join(data.tables))
