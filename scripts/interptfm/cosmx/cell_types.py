"""Cell types: from a column, from a joined table, or Leiden clusters that say so in their names."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from interptfm.cosmx import naming
from interptfm.cosmx.counts import read_header
from interptfm.cosmx.metadata import read_csv
from interptfm.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

log = logging.getLogger("interptfm")

UNASSIGNED = "unassigned"
SCALE = 1e4
N_COMPONENTS = 50
N_NEIGHBOURS = 15


def from_column(labels: pd.Series, column: str) -> pd.Categorical:
    """Return labels as categories in sorted order; missing ones are ``unassigned``.

    Raises
    ------
    InputError
        If every label is missing.
    """
    import pandas as pd

    values = labels.astype(object).map(str, na_action="ignore").str.strip()
    values = values.where(~values.isin(["", "nan", "NA"]))
    if values.isna().all():
        raise InputError(f"cell_types: found only missing values in column {column!r}, expected labels")
    if n := int(values.isna().sum()):
        log.info("cell types: %d cells have none in column %s and become %s", n, column, UNASSIGNED)
    filled = values.fillna(UNASSIGNED)
    return pd.Categorical(filled, categories=sorted(set(filled)))


def from_table(path: str | Path, fov: np.ndarray, cell: np.ndarray) -> pd.Categorical:
    """Join a table with the columns fov, cell_ID (or a composite ``cell``) and cell_type to the cells.

    Cells without a row become ``unassigned``; rows without a kept cell are ignored; both are logged.

    Parameters
    ----------
    path
        CSV, or TSV by its suffix, either may be gzipped.
    fov, cell
        Identifiers of the cells, int64.

    Raises
    ------
    InputError
        Missing file or column, a cell twice, or no row that fits any cell.
    """
    import numpy as np
    import pandas as pd

    path = Path(path)
    tabs = ".tsv" in path.suffixes or path.suffix == ".txt"
    header = read_header(path)
    header = header[0].split("\t") if tabs and len(header) == 1 else header
    label = next((c for c in header if c.lower() in ("cell_type", "celltype", "cell_types")), None)
    if label is None:
        raise InputError(f"{path.name}: found the columns {header}, expected fov, cell_ID and cell_type")
    identifiers = naming.identifier_columns(header)
    naming.require_identifiers(header, path.name)
    table = read_csv(path, columns={*identifiers, label}, text={*identifiers, label})
    table_fov, table_cell, _ = naming.parse_identifiers(table[identifiers], path.name)
    naming.require_unique_cells(table_fov, table_cell, path.name)
    labels = pd.Series(table[label].to_numpy(), index=naming.cell_keys(table_fov, table_cell))
    keys = naming.cell_keys(fov, cell)
    joined = labels.reindex(keys)
    found = int(np.isin(keys, labels.index.to_numpy()).sum())
    if not found:
        raise InputError(
            f"{path.name}: found no row for any of {len(keys)} cells (first row FOV {table_fov[0]}, cell "
            f"{table_cell[0]}; first cell FOV {fov[0]}, cell {cell[0]}), expected the same identifiers"
            if len(table)
            else f"{path.name}: found no rows, expected one a cell"
        )
    log.info(
        "cell types: %d cells from %s, %d cells without a row, %d rows without a kept cell",
        found,
        path.name,
        len(keys) - found,
        len(labels) - found,
    )
    return from_column(joined.reset_index(drop=True), label)


def leiden_clusters(matrix: sp.csr_matrix, resolution: float, seed: int) -> pd.Categorical:
    """Return Leiden clusters of the expression, named ``leiden_0`` (largest), ``leiden_1``, ….

    Counts are scaled to 10,000 a cell, log1p; 50 principal components, 15 nearest neighbours, Leiden with
    igraph (Traag et al. 2019), as scanpy does it. They are clusters, not cell types, hence the names.

    Parameters
    ----------
    matrix
        Cells × genes raw counts.
    resolution
        Leiden resolution.
    seed
        Seed of PCA, neighbours and Leiden.
    """
    import anndata
    import pandas as pd
    import scanpy as sc

    n_cells, n_genes = matrix.shape
    if n_cells < 3 or n_genes < 3:
        return pd.Categorical(["leiden_0"] * n_cells)
    state = seed % (2**32)
    work = anndata.AnnData(X=matrix.copy())
    sc.pp.normalize_total(work, target_sum=SCALE)
    sc.pp.log1p(work)
    sc.pp.pca(work, n_comps=min(N_COMPONENTS, n_cells - 1, n_genes - 1), random_state=state)
    # Exact neighbours: the approximate ones depend on thread timing, and scanpy 1.11 cannot read those of
    # pynndescent 0.7. Brute force takes half a minute at 80,000 cells.
    sc.pp.neighbors(
        work, n_neighbors=min(N_NEIGHBOURS, n_cells - 1), random_state=state, transformer="sklearn"
    )
    sc.tl.leiden(
        work,
        resolution=resolution,
        random_state=seed % (2**31),
        flavor="igraph",
        n_iterations=2,
        directed=False,
    )
    sizes = work.obs["leiden"].value_counts(sort=True)
    names = {cluster: f"leiden_{rank}" for rank, cluster in enumerate(sizes.index)}
    return pd.Categorical(work.obs["leiden"].map(names).astype(str), categories=list(names.values()))
