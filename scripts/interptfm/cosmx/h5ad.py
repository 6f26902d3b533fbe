"""Read cells from an AnnData file, with coordinates (``h5ad``) or without (``h5ad_nonspatial``)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from interptfm import store
from interptfm.cosmx import naming
from interptfm.cosmx.counts import DROP_REASONS, require_cells_left
from interptfm.cosmx.metadata import require_pixel_size
from interptfm.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp
    from anndata import AnnData

log = logging.getLogger("interptfm")

SYMBOL_COLUMNS = ("symbol", "gene_symbol", "gene_symbols", "gene_name", "gene_names", "feature_name")
# obs columns that ingest writes itself; columns of the source with these names become source_<name>.
RESERVED = frozenset(
    (
        "sample",
        "donor",
        "fov",
        "cell_id",
        "cell_type",
        "n_counts",
        "n_genes",
        "block",
        "split",
        "shard",
        "label",
    )
)


def read_h5ad_cells(
    path: str | Path,
    pixel_size_um: float | None,
    min_genes: int = 1,
    label_column: str | None = None,
    spatial: bool = True,
) -> tuple[AnnData, dict[str, int]]:
    """Read raw counts, and with ``spatial`` coordinates, from an AnnData file.

    Counts come from ``layers["counts"]``, else ``X``, else ``raw.X``: the first that is there, except that a
    normalised ``X`` is passed over for ``raw``. Symbols come from ``var_names``, or from a symbol column of
    ``var`` where the names are Ensembl ids. FOV and cell come from obs (``fov``, ``cell_ID``, …), or from
    obs_names of the form ``c_<slide>_<fov>_<cell>``; otherwise all cells are FOV 1 and numbered from 1 in
    file order, with their own names kept in ``obs["source_name"]``. Further obs columns are kept.

    Parameters
    ----------
    path
        AnnData file.
    pixel_size_um
        µm per unit of ``obsm["spatial"]`` (1 if it is in µm already); required with ``spatial``.
    min_genes
        Cells with fewer detected genes are dropped.
    label_column
        obs column with cell types, kept as ``label``.
    spatial
        Whether coordinates are read; without, ``obsm["spatial"]`` is absent from the result.

    Returns
    -------
    AnnData
        X: CSR float32; obs: fov, cell_id, label, further columns; obsm: spatial (float64, µm), controls.
    dict
        Cells read and dropped by reason.

    Raises
    ------
    InputError
        Missing or damaged file; no raw counts; negative, fractional or missing counts; no coordinates or a
        missing one; a FOV/cell pair, gene or label column that is not as expected; no cell left.
    """
    import anndata
    import numpy as np
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: found no such file, expected AnnData (.h5ad)")
    source = store.read_h5ad(path)
    matrix, var = _raw_counts(source, path.name)
    symbols = _symbols(var, path.name)
    if label_column is not None and label_column not in source.obs:
        raise InputError(
            f"cell_types: found no column {label_column!r} in obs of {path.name}, expected one of "
            f"{list(source.obs.columns)}"
        )
    xy = _coordinates(source, pixel_size_um, path.name) if spatial else None
    fov, cell, named = _identifiers(source, path.name)

    kinds = np.array([naming.probe_class(s) for s in symbols], dtype=object)
    controls = {
        kind: pd.DataFrame(
            matrix[:, np.flatnonzero(kinds == kind)].toarray().astype(np.int32),
            columns=[s for s, k in zip(symbols, kinds) if k == kind],
        )
        for kind in ("negative_probes", "system_controls")
    }
    genes = [s for s, k in zip(symbols, kinds) if k == "genes"]
    if not genes:
        raise InputError(f"{path.name}: found no gene among {len(symbols)} variables, expected genes")
    if len(genes) < len(symbols):
        matrix = matrix[:, np.flatnonzero(kinds == "genes")]
    detected = np.diff(matrix.indptr)
    in_cell = cell != 0 if named else np.ones(len(cell), dtype=bool)
    keep = in_cell & (detected >= max(min_genes, 1))
    dropped = dict.fromkeys(DROP_REASONS, 0)
    dropped["cell_ID 0"] = int((~in_cell).sum())
    dropped["no counts"] = int((in_cell & (detected == 0)).sum())
    dropped["under min_genes"] = int((in_cell & (detected > 0) & ~keep).sum())
    require_cells_left(int(keep.sum()), len(cell), dropped, min_genes, path.name)

    obs = pd.DataFrame({"fov": fov, "cell_id": cell})
    if not named:
        obs["source_name"] = source.obs_names.to_numpy().astype(str)
    if label_column is not None:
        obs["label"] = source.obs[label_column].to_numpy()
    for column in source.obs.columns:
        taken = column in RESERVED or column in naming.identifier_columns([column])
        name = f"source_{column}" if taken else column
        if not (taken and column in naming.identifier_columns([column])) and name not in obs:
            obs[name] = source.obs[column].to_numpy()
    rows = np.flatnonzero(keep)
    kept = anndata.AnnData(
        X=matrix[rows] if len(rows) < len(keep) else matrix,
        obs=obs.iloc[rows].set_axis([str(i) for i in range(len(rows))]),
        var=pd.DataFrame(index=pd.Index(genes, name=None)),
    )
    if xy is not None:
        kept.obsm["spatial"] = xy[rows]
    for kind, frame in controls.items():
        if frame.shape[1]:
            kept.obsm[kind] = frame.iloc[rows].set_axis(kept.obs_names)
    return kept, {"read": len(cell), **dropped}


def _raw_counts(source: AnnData, file: str) -> tuple[sp.csr_matrix, object]:
    """Return raw counts (CSR float32, sorted) and the var frame that goes with them."""
    import numpy as np
    import scipy.sparse as sp

    candidates = []
    if "counts" in source.layers:
        candidates.append(("layers['counts']", source.layers["counts"], source.var))
    elif source.X is not None:
        candidates.append(("X", source.X, source.var))
    if source.raw is not None and "counts" not in source.layers:
        candidates.append(("raw.X", source.raw.X, source.raw.var))
    if not candidates:
        raise InputError(f"{file}: found neither X, layers['counts'] nor raw, expected raw counts in one")
    complaint = ""
    for where, values, var in candidates:
        matrix = sp.csr_matrix(values, dtype=np.float32)
        bad = ~(np.isfinite(matrix.data) & (matrix.data >= 0) & (matrix.data == np.rint(matrix.data)))
        if not bad.any():
            matrix.sum_duplicates()
            matrix.eliminate_zeros()
            matrix.sort_indices()
            if where != candidates[0][0]:
                log.info("%s: %s; counts are taken from %s", file, complaint, where)
            return matrix, var
        at = int(np.flatnonzero(bad)[0])
        row = int(np.searchsorted(matrix.indptr, at, side="right")) - 1
        value = float(matrix.data[at])
        found = "a missing value (NaN)" if np.isnan(value) else f"{value:g}"
        here = f"{where} holds {found} in row {source.obs_names[row]}, column {var.index[matrix.indices[at]]}"
        complaint = f"{complaint} and {here}" if complaint else here
    raise InputError(
        f"{file}: found no raw counts ({complaint}), expected whole numbers of 0 or more in "
        "layers['counts'], X or raw"
    )


def _symbols(var: object, file: str) -> list[str]:
    names = [str(n) for n in var.index]  # type: ignore[attr-defined]
    if names and all(n.startswith("ENS") for n in names):
        column = next((c for c in SYMBOL_COLUMNS if c in var.columns), None)  # type: ignore[attr-defined]
        if column is None:
            raise InputError(
                f"{file}: found Ensembl ids as var_names ({names[0]}) and no symbols, expected gene symbols "
                f"in var_names or in one of the var columns {', '.join(SYMBOL_COLUMNS)}"
            )
        names = [str(n) for n in var[column]]  # type: ignore[index]
    naming.require_unique(names, f"{file}, genes")
    return names


def _coordinates(source: AnnData, pixel_size_um: float | None, file: str) -> np.ndarray:
    import numpy as np

    if "spatial" not in source.obsm:
        raise InputError(
            f"{file}: found no obsm['spatial'] (obsm has {list(source.obsm)}), expected coordinates, or the "
            "format h5ad_nonspatial for cells without any"
        )
    require_pixel_size(pixel_size_um, f"{file} has obsm['spatial'] in an unstated unit (1 if it is µm)")
    values = np.asarray(source.obsm["spatial"], dtype=float)
    if values.ndim != 2 or values.shape[1] < 2:
        raise InputError(f"{file}: found obsm['spatial'] of shape {values.shape}, expected cells × 2")
    missing = np.flatnonzero(~np.isfinite(values[:, :2]).all(axis=1))
    if missing.size:
        raise InputError(
            f"{file}: found no coordinates for {missing.size} cells (first {source.obs_names[missing[0]]}), "
            "expected two numbers for every cell"
        )
    return np.ascontiguousarray(values[:, :2]) * float(pixel_size_um)  # type: ignore[arg-type]


def _identifiers(source: AnnData, file: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return FOV, cell number and whether the file itself names the cells."""
    import numpy as np
    import pandas as pd

    columns = naming.identifier_columns(list(source.obs.columns))
    frame = source.obs[columns].astype(str).reset_index(drop=True)
    has_cell = any(c.lower() in naming.CELL_COLUMNS for c in columns)
    names = pd.Series(source.obs_names.to_numpy().astype(str))
    if not has_cell and len(names) and names.str.match(naming.COMPOSITE).all():
        frame, has_cell = frame.assign(cell=names), True
    if has_cell and not any(c.lower() in naming.FOV_COLUMNS for c in columns):
        # Without a FOV column a plain number is a running number of one field; a composite brings its FOV.
        column = naming.require_identifiers(list(frame.columns), file)[0]
        if not frame[column].str.match(naming.COMPOSITE).all():
            frame = frame.assign(fov="1")
    if has_cell:
        fov, cell, slides = naming.parse_identifiers(frame, f"{file}, obs", first_row=1)
        naming.require_one_slide(slides, file)
        inside = cell != 0
        naming.require_unique_cells(fov[inside], cell[inside], file)
        return fov, cell, True
    number = np.arange(1, source.n_obs + 1, dtype=np.int64)
    if columns:
        frame = frame.assign(cell_ID=number.astype(str))
        fov, _, _ = naming.parse_identifiers(frame, f"{file}, obs", first_row=1)
        return fov, number, False
    return np.ones(source.n_obs, dtype=np.int64), number, False
