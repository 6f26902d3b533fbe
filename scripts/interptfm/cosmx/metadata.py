"""Metadata and FOV positions of a CosMx flat-file export: coordinates in µm, area, stains, labels."""

from __future__ import annotations

import gzip
import logging
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from interptfm.cosmx import naming
from interptfm.cosmx.counts import read_header, unreadable
from interptfm.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

log = logging.getLogger("interptfm")

UM_PER_MM = 1000.0
NEIGHBOUR_RANGE_UM = (1.0, 100.0)


def read_metadata(
    path: str | Path,
    positions: str | Path | None,
    pixel_size_um: float | None,
    label_column: str | None = None,
) -> pd.DataFrame:
    """Read ``*_metadata_file.csv[.gz]``, one row a cell.

    Parameters
    ----------
    path
        Metadata flat file.
    positions
        ``*_fov_positions_file.csv[.gz]``; read only where the metadata has no global coordinates.
    pixel_size_um
        Size of a pixel in µm (0.18 in the NSCLC release, 0.12028 in later instruments); may be None
        only if all coordinates in use are millimetres.
    label_column
        Metadata column with cell types, kept as ``label``.

    Returns
    -------
    DataFrame
        ``fov``, ``cell`` (int64), ``x``, ``y`` (float64, µm), ``area_um2`` and ``stain_<name>``
        where present and not all missing, ``label`` where asked for. Rows with cell_ID 0 are left out.

    Raises
    ------
    InputError
        Missing or truncated file; a FOV/cell pair twice; no coordinates; a missing coordinate; no pixel
        size for pixels; an unknown ``label_column``.
    """
    import numpy as np
    import pandas as pd

    path = Path(path)
    header = read_header(path)
    pairs = naming.coordinate_columns(header)
    if not pairs:
        raise InputError(
            f"{path.name}: found no coordinates among {len(header)} columns, expected CenterX_global_px and "
            "CenterY_global_px, their mm form, or CenterX_local_px and CenterY_local_px"
        )
    if label_column is not None and label_column not in header:
        raise InputError(
            f"cell_types: found no column {label_column!r} in {path.name}, expected one of {header}"
        )
    identifiers = naming.identifier_columns(header)
    naming.require_identifiers(header, path.name)
    stains = naming.stain_columns(header)
    areas = [c for c in ("Area", "Area.um2") if c in header]
    numeric = {*areas, *stains, *(c for pair in pairs for c in pair[2:])} - {label_column}
    wanted = {*identifiers, *numeric, *([label_column] if label_column else [])}
    table = read_csv(path, columns=wanted, text={*identifiers} | ({label_column} if label_column else set()))
    for column in numeric:
        if not pd.api.types.is_numeric_dtype(table[column]):
            bad = pd.to_numeric(table[column], errors="coerce").isna() & table[column].notna()
            row = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{path.name}, row {row + 2}, column {column}: found {table[column].iloc[row]!r}, "
                "expected a number"
            )
    fov, cell, slides = naming.parse_identifiers(table[identifiers], path.name)
    naming.require_one_slide(slides, path.name)
    in_cell = cell != 0
    table, fov, cell = table[in_cell].reset_index(drop=True), fov[in_cell], cell[in_cell]
    naming.require_unique_cells(fov, cell, path.name)

    x, y = _coordinates_um(table, fov, cell, pairs, positions, pixel_size_um, path.name)
    columns = {"fov": fov, "cell": cell, "x": x, "y": y}
    if "Area.um2" in areas and table["Area.um2"].notna().any():
        columns["area_um2"] = table["Area.um2"].to_numpy(dtype=float)
    elif "Area" in areas and table["Area"].notna().any():
        if pixel_size_um is None:
            log.warning("%s: Area is in pixels and no pixel_size_um is given; it is left out", path.name)
        else:
            columns["area_um2"] = table["Area"].to_numpy(dtype=float) * pixel_size_um**2
    for source, name in stains.items():
        if table[source].notna().any():
            columns[name] = table[source].to_numpy(dtype=np.float32)
    if label_column is not None:
        columns["label"] = table[label_column]
    return pd.DataFrame(columns)


def read_csv(path: Path, columns: set[str] | None = None, text: set[str] = frozenset()) -> pd.DataFrame:
    """Read some columns of a CSV (tab-separated if the name says so), ``text`` columns as strings.

    Raises
    ------
    InputError
        Missing, truncated, empty or malformed file.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: found no such file, expected a table")
    separator = "\t" if ".tsv" in path.suffixes or path.suffix in (".txt", ".tsv") else ","
    try:
        return pd.read_csv(
            path,
            sep=separator,
            usecols=None if columns is None else lambda c: c in columns,
            dtype=dict.fromkeys(text, str),
            low_memory=False,
            encoding="utf-8-sig",
        )
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path.name}: found malformed text ({error}), expected a table") from error


def read_positions(path: str | Path, pixel_size_um: float | None) -> pd.DataFrame:
    """Read ``*_fov_positions_file.csv``: origin of every FOV in µm.

    Pixels (``x_global_px``) or millimetres (``x_global_mm``, ``X_mm``); pixels are preferred.

    Returns
    -------
    DataFrame
        Indexed by FOV number; ``x``, ``y`` in µm and ``y_sign``: +1 where local y runs with global y
        (NSCLC release, column ``fov``), -1 where it runs against it (AtoMx, column ``FOV``, as its
        transcript files show: global y = FOV origin - local y).

    Raises
    ------
    InputError
        Missing or malformed file, missing columns, a FOV twice, no pixel size for pixels.
    """
    import pandas as pd

    path = Path(path)
    header = read_header(path)
    fov_column = next((c for c in header if c.lower() in naming.FOV_COLUMNS), None)
    pairs = [p for p in naming.coordinate_columns(header) if p[0] == "global"]
    if fov_column is None or not pairs:
        raise InputError(
            f"{path.name}: found the columns {header}, expected fov or FOV with x_global_px and y_global_px, "
            "x_global_mm and y_global_mm, or X_mm and Y_mm"
        )
    _, unit, x, y = pairs[0]
    scale = _um_per_unit(unit, pixel_size_um, path.name, x)
    table = read_csv(path, columns={fov_column, x, y})
    if table[fov_column].duplicated().any():
        first = table[fov_column][table[fov_column].duplicated()].iloc[0]
        raise InputError(f"{path.name}: found FOV {first} twice, expected every FOV once")
    return pd.DataFrame(
        {
            "x": table[x].to_numpy() * scale,
            "y": table[y].to_numpy() * scale,
            "y_sign": 1.0 if fov_column == "fov" else -1.0,
        },
        index=pd.Index(table[fov_column].to_numpy(), name="fov"),
    )


def _um_per_unit(unit: str, pixel_size_um: float | None, file: str, column: str) -> float:
    if unit == "mm":
        return UM_PER_MM
    require_pixel_size(pixel_size_um, f"{file} has its coordinates in pixels ({column})")
    return float(pixel_size_um)  # type: ignore[arg-type]


def require_pixel_size(pixel_size_um: float | None, why: str) -> None:
    """Raise :class:`InputError` unless ``pixel_size_um`` is a positive number; ``why`` it is needed."""
    if pixel_size_um is None or not pixel_size_um > 0:
        raise InputError(
            f"pixel_size_um: found {pixel_size_um}, expected µm per pixel (0.18 for the NSCLC release, "
            f"0.12028 for later instruments), since {why}"
        )


def _coordinates_um(
    table: pd.DataFrame,
    fov: np.ndarray,
    cell: np.ndarray,
    pairs: list[tuple[str, str, str, str]],
    positions: str | Path | None,
    pixel_size_um: float | None,
    file: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return global x and y in µm from the best coordinate pair that is not empty."""
    import numpy as np

    filled = [p for p in pairs if table[p[2]].notna().any() and table[p[3]].notna().any()]
    if not filled:
        raise InputError(
            f"{file}: found only missing values in {pairs[0][2]} and {pairs[0][3]}, expected coordinates"
        )
    # Millimetres need no pixel size: they win over pixels of the same frame where none is given.
    best = [p for p in filled if p[0] == filled[0][0]]
    frame, unit, x_column, y_column = next(
        (p for p in best if pixel_size_um is None and p[1] == "mm"), best[0]
    )
    scale = _um_per_unit(unit, pixel_size_um, file, x_column)
    x = table[x_column].to_numpy(dtype=float) * scale
    y = table[y_column].to_numpy(dtype=float) * scale
    missing = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))
    if missing.size:
        row = int(missing[0])
        raise InputError(
            f"{file}: found no coordinates for {missing.size} cells (first FOV {fov[row]}, cell "
            f"{cell[row]}), expected {x_column} and {y_column} for every cell"
        )
    if frame == "global":
        return x, y
    if positions is None:
        raise InputError(
            f"{file}: found coordinates within the FOV only ({x_column}) and no FOV positions file, expected "
            "*_fov_positions_file.csv or global coordinates"
        )
    origins = read_positions(positions, pixel_size_um)
    unknown = np.setdiff1d(fov, origins.index.to_numpy())
    if unknown.size:
        raise InputError(
            f"{Path(positions).name}: found no row for FOV {unknown[0]} ({unknown.size} FOVs missing), "
            f"expected every FOV of {file}"
        )
    own = origins.loc[fov]
    log.info(
        "%s: coordinates are local + FOV origin, y %s (distances inside a FOV do not depend on this)",
        file,
        "added" if own["y_sign"].iloc[0] > 0 else "subtracted",
    )
    return own["x"].to_numpy() + x, own["y"].to_numpy() + own["y_sign"].to_numpy() * y


def check_scale(spatial: np.ndarray, pixel_size_um: float | None, file: str) -> float:
    """Return the median distance to the nearest other cell (µm) and check that it is one of cells.

    Raises
    ------
    InputError
        If it lies outside ``NEIGHBOUR_RANGE_UM``: coordinates or ``pixel_size_um`` have another unit.
    """
    import numpy as np
    from scipy.spatial import cKDTree

    if len(spatial) < 2:
        return float("nan")
    distance, _ = cKDTree(spatial).query(spatial, k=2)
    median = float(np.median(distance[:, 1]))
    low, high = NEIGHBOUR_RANGE_UM
    if not low <= median <= high:
        raise InputError(
            f"{file}: found a median distance of {median:.3g} µm to the nearest cell with pixel_size_um "
            f"{pixel_size_um}, expected {low:g} to {high:g} µm; check pixel_size_um and the unit of the "
            "coordinates"
        )
    return median
