"""What systems of cell–cell communication are given: the cells and groups of crosstalk, and interactions.

Both systems get raw counts scaled to one depth and log1p; groups are the cell types, then the compartments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm import stats, store
from interptfm.comparators.status import Skipped
from interptfm.crosstalk.reading import read_compartments
from interptfm.errors import InputError
from interptfm.tis import units

if TYPE_CHECKING:
    from anndata import AnnData

FAMILY = "communication"
TYPES, PLACES = "cell types", "compartments"
LEVELS = {TYPES: "cell_type", PLACES: "compartment"}
SUBUNITS = "_"
COLUMNS = ("level", "method", "source", "target", "ligand", "receptor", "score", "p", "p_min", "q")


def read_interactions(path: str | Path) -> pd.DataFrame:
    """Read interactions: TSV with the columns ``ligand`` and ``receptor``, subunits joined by ``_``.

    Raises
    ------
    InputError
        Without the columns, or with an empty name.
    """
    table = store.read_table(path)
    for name in ("ligand", "receptor"):
        if name not in table:
            raise InputError(f"{path}: found no column {name!r}, expected ligand and receptor")
    found = table[["ligand", "receptor"]]
    if found.isna().to_numpy().any():
        row = int(np.flatnonzero(found.isna().any(axis=1))[0])
        raise InputError(f"{path}: row {row + 2}: found an empty name, expected a ligand and a receptor")
    return found.astype(str).drop_duplicates(ignore_index=True)


def in_panel(interactions: pd.DataFrame, genes: Sequence[str]) -> pd.DataFrame:
    """Return the interactions of which every subunit is among ``genes``.

    Raises
    ------
    Skipped
        If there is none.
    """
    known = set(genes)
    inside = [
        set(members(ligand)) <= known and set(members(receptor)) <= known
        for ligand, receptor in zip(interactions["ligand"], interactions["receptor"], strict=True)
    ]
    if not any(inside):
        raise Skipped(
            f"no interaction of the {len(interactions)} in the resource has all its genes among the "
            f"{len(known)} of the panel"
        )
    return interactions[inside].reset_index(drop=True)


def members(name: str) -> list[str]:
    """Return the gene symbols of a ligand or receptor, which may be a complex."""
    return name.split(SUBUNITS)


def read_cells(
    cells: Sequence[str | Path],
    activity: Sequence[str | Path],
    regions: Sequence[str | Path],
    compartments: str,
) -> AnnData:
    """Return the cells that crosstalk looks at, of all sections: those that have tokens.

    Parameters
    ----------
    cells, activity, regions
        ``cells/``, ``activity/`` and ``regions/`` of every sample, in one order.
    compartments
        ``called`` or ``geometric``, as ``crosstalk.compartments``.

    Returns
    -------
    AnnData: X log1p of counts scaled to the median depth, CSR float32 (cells × genes); obs ``sample``,
    ``cell_type`` and ``compartment`` (empty without one), categories.

    Raises
    ------
    InputError
        If the files hold other cells.
    """
    import scanpy
    from anndata import AnnData

    found = units.read_cells(units.listed(cells))
    tables = [store.read_h5ad(path).obs for path in units.listed(activity)]
    table = pd.concat([obs[["has_tokens"]] for obs in tables])
    if not found.obs.index.equals(table.index):
        raise InputError("activity: found other cells than in cells/, expected the same in order")
    places = read_compartments(units.listed(regions), found, compartments)
    kept = np.flatnonzero(table["has_tokens"])
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical(found.section[kept]),
            "cell_type": pd.Categorical(found.types[kept]),
            "compartment": pd.Categorical(places[kept]),
        },
        index=table.index[kept],
    )
    adata = AnnData(
        X=found.counts[kept].astype(np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(found.genes))
    )
    scanpy.pp.normalize_total(adata)
    scanpy.pp.log1p(adata)
    return adata


def corrected(p: np.ndarray, permutations: int) -> np.ndarray:
    """Return (1 + k) / (1 + n) of p-values that are k / n, NaN where they are.

    Source: Phipson and Smyth 2010, *Stat. Appl. Genet. Mol. Biol.* 9:39.
    """
    return (1 + np.rint(np.asarray(p, float) * permutations)) / (1 + permutations)


def by_level(
    adata: AnnData, min_cells: int, run: Callable[[AnnData, str], pd.DataFrame]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run a system on cell types and on compartments; return its table and what took no part.

    Parameters
    ----------
    adata
        Of :func:`read_cells`.
    min_cells
        Groups with fewer cells take no part, nor do cells without a group.
    run
        Takes the cells of the groups and the obs column; returns ``method``, ``source``, ``target``,
        ``ligand``, ``receptor``, ``score``, ``p``, ``p_min``.

    Returns
    -------
    table, summary
        :data:`COLUMNS`: q is Benjamini–Hochberg over all tests of a method and level. ``summary``: level →
        groups and tests, or the reason why there are none.
    """
    tables, summary = [], {}
    for level, column in LEVELS.items():
        counts = adata.obs[column].value_counts()
        groups = sorted(str(name) for name, n in counts.items() if n >= min_cells and str(name))
        if len(groups) < 2:
            summary[level] = {"groups": groups, "reason": f"fewer than 2 groups have {min_cells} cells"}
            continue
        chosen = adata[adata.obs[column].isin(groups)].copy()
        chosen.obs[column] = chosen.obs[column].cat.remove_unused_categories()
        table = run(chosen, column)
        table.insert(0, "level", level)
        table["q"] = table.groupby("method")["p"].transform(stats.benjamini_hochberg)
        tables.append(table)
        summary[level] = {"groups": groups, "tests": len(table)}
    if not tables:
        raise Skipped(f"neither cell types nor compartments are 2 groups of {min_cells} cells")
    merged = pd.concat(tables, ignore_index=True)[list(COLUMNS)]
    order = ["level", "method", "p", "source", "target", "ligand", "receptor"]
    return merged.sort_values(order, kind="stable", ignore_index=True), summary


def headline(table: pd.DataFrame, max_q: float) -> str:
    """Return how many tests are below ``max_q``, by method, in words."""
    parts = []
    for method, found in table.groupby("method", sort=False):
        parts.append(f"{method}: {int((found['q'] < max_q).sum())} of {len(found)} tests with q < {max_q:g}")
    return "; ".join(parts)


def empty() -> pd.DataFrame:
    """Return the table of a system that was skipped: all columns, no row."""
    text = ("level", "method", "source", "target", "ligand", "receptor")
    return pd.DataFrame({name: pd.Series(dtype="str" if name in text else float) for name in COLUMNS})
