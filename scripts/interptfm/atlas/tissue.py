"""Where the cells of a section lie on its map, and which groups and blocks they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interptfm import store
from interptfm.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# Kind of group -> column; cells are grouped by each of them.
GROUPS = {"cell type": "cell_type", "called compartment": "compartment", "geometric region": "region"}
COORDINATES = 65535


@dataclass
class Section:
    """The cells of one sample.

    ``xy`` float32 (spots × 2) in µm; ``spot`` int32 (cells,) the spot of each cell; ``side_um`` of the square
    that a spot is, 0 where each spot is a cell; ``block`` (cells,) str; ``groups`` kind → (cells,) str, ""
    where a cell belongs to none.
    """

    name: str
    xy: np.ndarray
    spot: np.ndarray
    side_um: float
    block: np.ndarray
    groups: dict[str, np.ndarray]

    @property
    def n_cells(self) -> int:
        """Cells of the section."""
        return len(self.spot)

    def per_spot(self) -> np.ndarray:
        """Return the number of cells (spots,) of each spot."""
        return np.bincount(self.spot, minlength=len(self.xy))


def spots(xy: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return spots of cells: the cells themselves, or the squares that hold any where there are too many.

    Parameters
    ----------
    xy
        (cells × 2) µm.
    most
        More cells than this are pooled into at most so many squares.

    Returns
    -------
    Centres float32 (spots × 2), spot int32 (cells,), side of the squares in µm (0 for cells).
    """
    if len(xy) <= most:
        return xy.astype(np.float32), np.arange(len(xy), dtype=np.int32), 0.0
    low = xy.min(axis=0)
    extent = np.maximum(xy.max(axis=0) - low, 1.0)
    side = float(np.sqrt(extent.prod() / most))
    while True:
        place = np.floor((xy - low) / side).astype(np.int64)
        squares, spot = np.unique(place, axis=0, return_inverse=True)
        if len(squares) <= most:
            return (low + (squares + 0.5) * side).astype(np.float32), spot.ravel().astype(np.int32), side
        side *= 1.02


def section(cells: str | Path, regions: str | Path, most: int) -> Section:
    """Read one section from ``cells/<sample>.h5ad`` and ``regions/<sample>.parquet``.

    Raises
    ------
    InputError
        Where the cells have no coordinates.
    """
    adata = store.read_h5ad(cells)
    if "spatial" not in adata.obsm or not adata.n_obs:
        raise InputError(f"{cells}: found no obsm['spatial'] of cells, expected coordinates in µm")
    obs, xy = adata.obs, np.asarray(adata.obsm["spatial"], float)[:, :2]
    called = store.read_table(regions).set_index("cell").reindex(obs.index)
    groups = {}
    for kind, column in GROUPS.items():
        source = obs if column in obs else called
        if column in source:
            groups[kind] = _words(source[column])
    centres, spot, side = spots(xy, most)
    return Section(
        str(obs["sample"].iloc[0]), centres, spot, side, obs["block"].astype(str).to_numpy(str), groups
    )


def _words(column: pd.Series) -> np.ndarray:
    """Return a column as str, "" where a value is missing."""
    return np.where(column.isna(), "", column.astype(object).astype(str)).astype(str)


def group_list(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Return (kind, name) of all groups that any section has, sorted by name within a kind."""
    return [
        (kind, name)
        for kind in GROUPS
        for name in sorted({str(n) for s in sections for n in np.unique(s.groups.get(kind, []))} - {""})
    ]


def description(section: Section) -> dict[str, Any]:
    """Return what the page's first paint needs of a section."""
    return {
        "name": section.name,
        "cells": section.n_cells,
        "spots": len(section.xy),
        "side": round(section.side_um, 2),
    }


def layout(section: Section, groups: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the spots of a section for the page.

    ``x`` and ``y`` are whole numbers from 0 to ``COORDINATES``; µm are ``origin + x × step``. ``n``: cells of
    each spot, where spots are squares. ``g``: of each spot that is a cell, the indices of its groups.
    """
    low = section.xy.min(axis=0).astype(float)
    extent = max(float((section.xy.max(axis=0) - low).max()), 1.0)
    step = extent / COORDINATES
    whole = np.rint((section.xy - low) / step).astype(int)
    found: dict[str, Any] = {
        "x": whole[:, 0].tolist(),
        "y": whole[:, 1].tolist(),
        "origin": [round(float(value), 3) for value in low],
        "step": float(f"{step:.6g}"),
    }
    if section.side_um:
        return {**found, "n": section.per_spot().tolist()}
    place = {group: i for i, group in enumerate(groups)}
    found["g"] = [
        [place.get((kind, name), -1) for name in names.tolist()] for kind, names in section.groups.items()
    ]
    return found
