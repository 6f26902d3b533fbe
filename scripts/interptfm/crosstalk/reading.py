"""What a section brings: concept activities, cells, and their compartments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm import store
from interptfm.crosstalk import graphs
from interptfm.errors import InputError
from interptfm.regions.geometry import REGIONS

if TYPE_CHECKING:
    from interptfm.tis.units import Cells

OBS = ("sample", "fov", "cell_type", "n_counts", "block")
VAR = ("name", "channel", "ic")
GENERIC = "generic"
COMPARTMENTS = {"called": "compartment", "geometric": "region"}


@dataclass(frozen=True)
class Section:
    """One section's cells and activities.

    ``values``, ``genes`` (n × concepts) float32: of dictionary features, and the plain member-gene baseline
    (None without); ``concepts``: term_id, name, channel, ic; ``obs`` with :data:`OBS`, indexed by cell;
    ``spatial`` (n × 2) µm; ``compartment`` (n,) int into ``REGIONS``, −1 for none.
    """

    values: np.ndarray
    genes: np.ndarray | None
    concepts: pd.DataFrame
    obs: pd.DataFrame
    spatial: np.ndarray
    compartment: np.ndarray

    @property
    def fov(self) -> np.ndarray:
        return self.obs["fov"].astype(str).to_numpy()

    @property
    def block(self) -> np.ndarray:
        return self.obs["block"].astype(str).to_numpy()

    @property
    def depth(self) -> np.ndarray:
        return self.obs["n_counts"].to_numpy(float)


def chosen_concepts(concepts: pd.DataFrame, most: int) -> np.ndarray:
    """Return positions of the concepts that pairs are made of: not generic, the most specific first.

    Specific is a high information content, ties by term id; back in the table's order.
    """
    usable = concepts[concepts["channel"] != GENERIC].assign(
        at=np.flatnonzero(concepts["channel"] != GENERIC)
    )
    order = usable.sort_values(["ic", "term_id"], ascending=[False, True], kind="stable")
    return np.sort(order["at"].to_numpy(int)[:most])


def read_section(activity: str | Path, regions: str | Path, compartments: str) -> Section:
    """Read ``activity/<sample>.h5ad`` and ``regions/<sample>.parquet``; cells without tokens take no part.

    Parameters
    ----------
    compartments
        ``called`` (from units) or ``geometric`` (labels and distance).

    Raises
    ------
    InputError
        Without the columns above, without places, or where the tables hold other cells.
    """
    adata = store.read_h5ad(activity)
    for axis, table, wanted in (("obs", adata.obs, OBS), ("var", adata.var, VAR)):
        missing = [name for name in wanted if name not in table]
        if missing:
            raise InputError(
                f"{activity}: found no {axis} column {missing[0]!r}, expected {', '.join(wanted)}"
            )
    if "spatial" not in adata.obsm:
        raise InputError(f"{activity}: found no obsm 'spatial', expected cells with a place for crosstalk")
    calls = store.read_table(regions).set_index("cell")
    lost = adata.obs_names.difference(calls.index)
    if len(lost):
        raise InputError(f"{regions}: found no cell {lost[0]!r}, expected all cells of {activity}")
    named = calls.loc[adata.obs_names, COMPARTMENTS[compartments]].astype(str)
    place = {name: i for i, name in enumerate(REGIONS)}
    keep = adata.obs["has_tokens"].to_numpy(bool) if "has_tokens" in adata.obs else np.ones(adata.n_obs, bool)
    found = adata[keep]
    genes = np.asarray(found.layers["genes"], np.float32) if "genes" in found.layers else None
    values = np.asarray(found.X, np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{activity}: found an activity that is not finite, expected numbers")
    concepts = found.var.rename_axis("term_id").reset_index()
    return Section(
        values, genes, concepts, found.obs[list(OBS)].copy(), np.asarray(found.obsm["spatial"], float),
        named.map(place).fillna(-1).to_numpy(int)[keep],
    )  # fmt: skip


def read_compartments(paths: list[str], cells: Cells, by: str) -> np.ndarray:
    """Return each cell's compartment (cells,) str, empty where it has none.

    Parameters
    ----------
    by
        ``geometric`` or ``called``.

    Raises
    ------
    InputError
        If a cell is in no table.
    """
    tables = [store.read_table(path) for path in paths]
    calls = pd.concat([table.astype({"cell": str}) for table in tables]).set_index("cell")
    unknown = cells.obs.index.difference(calls.index)
    if len(unknown):
        raise InputError(f"{paths[0]}: found no cell {unknown[0]!r}, expected all cells of the samples")
    named = calls.loc[cells.obs.index, COMPARTMENTS[by]].astype(str)
    return named.where(named.isin(REGIONS), "").to_numpy().astype(str)


def section_graph(section: Section, settings: dict[str, Any]) -> graphs.Graph:
    """Return the graph that ``crosstalk.graph`` describes; kind ``obsp`` reads squidpy's out of ``path``.

    Raises
    ------
    InputError
        If the file at ``path`` lacks a cell of the section or the matrix.
    """
    everyone = section.obs["sample"].astype(str).to_numpy()
    if settings["kind"] == "obsp":
        given = store.read_h5ad(settings["path"])
        lost = section.obs.index.difference(given.obs_names)
        if len(lost):
            raise InputError(f"{settings['path']}: found no cell {lost[0]!r}, expected all cells with tokens")
        return graphs.from_squidpy(given[section.obs.index], section.spatial, everyone)
    builder = graphs.builder(settings)
    weights = graphs.Weights(settings["weights"], settings["length_um"])
    return graphs.build(section.spatial, everyone, builder, weights)


def labels(values: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return int labels (n,) and the sorted names they stand for."""
    names, of = np.unique(np.asarray(values, str), return_inverse=True)
    return of, names.tolist()
