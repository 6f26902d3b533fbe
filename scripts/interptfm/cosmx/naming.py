"""What CosMx exports call things: cell identifiers, control probes, coordinates, stains.

The flat files of the NSCLC release (He et al. 2022) and those that AtoMx writes differ in the spelling of
nearly every column, and AtoMx changed its own more than once. Everything that depends on a spelling is here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interptfm.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FOV_COLUMNS = ("fov",)
CELL_COLUMNS = ("cell_id", "cellid", "cell")
# Columns of an expression matrix that are neither identifier nor probe; "" is the row name that R writes.
OTHER_COLUMNS = ("", "slide", "slide_id", "slide_id_numeric", "run_tissue_name", "version")
COMPOSITE = re.compile(r"^c_(?P<slide>\d+)_(?P<fov>\d+)_(?P<cell>\d+)$")
NEGATIVE_PROBES = ("negprb", "negative")
SYSTEM_CONTROLS = ("systemcontrol", "falsecode")
STAIN = re.compile(r"^Mean\.(?P<name>.+)$")


def probe_class(name: str) -> str:
    """Return ``negative_probes``, ``system_controls`` or ``genes`` for the name of a probe column."""
    lowered = name.lower()
    if lowered.startswith(NEGATIVE_PROBES):
        return "negative_probes"
    if lowered.startswith(SYSTEM_CONTROLS):
        return "system_controls"
    return "genes"


def identifier_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns that identify the FOV or the cell, in file order."""
    return [c for c in columns if c.lower() in FOV_COLUMNS + CELL_COLUMNS]


def require_unique(columns: Sequence[str], file: str) -> None:
    """Raise :class:`InputError` if a column name occurs twice in a header."""
    seen: set[str] = set()
    for column in columns:
        if column in seen:
            raise InputError(f"{file}: found column {column!r} twice in the header, expected every name once")
        seen.add(column)


def parse_identifiers(
    frame: pd.DataFrame, file: str, first_row: int = 2
) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """Return FOV and cell number of every row from whatever identifier columns a file has.

    Parameters
    ----------
    frame
        Identifier columns as strings: ``fov``/``FOV`` and at least one of ``cell_ID``, ``cell_id``,
        ``CellID``, ``cell``, which hold either the number inside the FOV or ``c_<slide>_<fov>_<cell>``.
    file
        Name used in error messages.
    first_row
        Line of the file that the first row of ``frame`` comes from.

    Returns
    -------
    fov, cell
        int64, one a row. Numbers are preferred over composites, and both must agree.
    slides
        Slide numbers found in composites (empty without composites).

    Raises
    ------
    InputError
        If no column identifies the cell, a value is neither form, or ``fov`` and composite disagree.
    """
    import numpy as np

    candidates = require_identifiers(frame.columns, file)
    fov_column = next((c for c in frame.columns if c.lower() in FOV_COLUMNS), None)
    fov = None if fov_column is None else _integers(frame[fov_column], fov_column, file, first_row)
    cell = None
    slides: set[int] = set()
    for column in candidates:
        values = frame[column].fillna("").astype(str).str.strip()
        parts = values.str.extract(COMPOSITE)
        if parts["cell"].isna().any():
            # A plain number counts where nothing has named the cell yet; a further identifier of
            # another kind (a running number, a UUID) says nothing about the cell inside its FOV.
            if cell is None:
                cell = _integers(values, column, file, first_row)
            continue
        parts = parts.astype(np.int64)
        slides |= set(parts["slide"].unique().tolist())
        for name, known in (("fov", fov), ("cell", cell)):
            wrong = np.flatnonzero(known != parts[name].to_numpy()) if known is not None else []
            if len(wrong):
                row = int(wrong[0])
                raise InputError(
                    f"{file}, row {first_row + row}: found {name} {known[row]} but {column} "
                    f"{values.iloc[row]!r}, expected both to name the same cell"
                )
        fov = parts["fov"].to_numpy() if fov is None else fov
        cell = parts["cell"].to_numpy() if cell is None else cell
    if fov is None:
        raise InputError(
            f"{file}: found no FOV (no column fov or FOV, and {candidates[0]} is not of the form "
            "c_<slide>_<fov>_<cell>), expected one of them"
        )
    return fov, cell, slides


def require_identifiers(columns: Sequence[str], file: str) -> list[str]:
    """Return the columns that can identify the cell, best first, or raise :class:`InputError`."""
    found = [c for c in columns if c.lower() in CELL_COLUMNS]
    if not found:
        raise InputError(
            f"{file}: found no cell identifier among the columns {list(columns)[:8]}, "
            "expected cell_ID, cell_id or cell"
        )
    # AtoMx writes the number as cell_ID and the composite as cell or cell_id, side by side.
    return sorted(found, key=lambda c: (c != "cell_ID", CELL_COLUMNS.index(c.lower())))


def _integers(values: pd.Series, column: str, file: str, first_row: int) -> np.ndarray:
    import numpy as np
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0) & (numbers == np.rint(numbers))))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"{file}, row {first_row + row}: found {column} {values.iloc[row]!r}, expected a whole number"
            + ("" if column.lower() in FOV_COLUMNS else " or c_<slide>_<fov>_<cell>")
        )
    return numbers.astype(np.int64)


def require_one_slide(slides: set[int], file: str) -> None:
    """Raise :class:`InputError` if composites name several slides: FOV numbers start anew on each."""
    if len(slides) > 1:
        raise InputError(
            f"{file}: found cells of the slides {sorted(slides)}, expected one slide; "
            "export one set of flat files a slide and list each as a sample"
        )


def cell_keys(fov: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return one int64 a cell that orders by FOV, then cell (cells below 2**40 a FOV)."""
    import numpy as np

    return (np.asarray(fov, dtype=np.int64) << 40) + np.asarray(cell, dtype=np.int64)


def require_unique_cells(fov: np.ndarray, cell: np.ndarray, file: str) -> None:
    """Raise :class:`InputError` that names the first FOV/cell pair which occurs twice."""
    import numpy as np

    keys = cell_keys(fov, cell)
    order = np.argsort(keys, kind="stable")
    repeated = order[1:][keys[order][1:] == keys[order][:-1]]
    if repeated.size:
        row = int(repeated.min())
        raise InputError(
            f"{file}: found FOV {fov[row]}, cell {cell[row]} twice ({repeated.size} repeated rows in all), "
            "expected every FOV/cell pair once"
        )


def coordinate_columns(columns: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return the coordinate pairs of a metadata header, best first.

    Returns
    -------
    list of (frame, unit, x column, y column)
        ``frame`` is ``global`` or ``local`` (within the FOV), ``unit`` is ``px`` or ``mm``. Global before
        local, pixels before millimetres, cell centres before plain names (some tools copy the FOV's
        ``x_global_px`` into the metadata beside the cell's ``CenterX_global_px``).
    """
    lowered = {c.lower(): c for c in columns}
    pairs = []
    for frame, words in (("global", ("global", "slide")), ("local", ("local", "fov"))):
        for unit in ("px", "mm"):
            for prefix in ("center", ""):
                for word in words:
                    x, y = f"{prefix}x_{word}_{unit}", f"{prefix}y_{word}_{unit}"
                    if x in lowered and y in lowered:
                        pairs.append((frame, unit, lowered[x], lowered[y]))
    if "x_mm" in lowered and "y_mm" in lowered:
        pairs.append(("global", "mm", lowered["x_mm"], lowered["y_mm"]))
    return sorted(pairs, key=lambda p: p[0] == "local")


def stain_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return {metadata column: obs column} of mean stain intensities (``Mean.PanCK`` → ``stain_PanCK``)."""
    found = {}
    for column in columns:
        if match := STAIN.match(column):
            found[column] = "stain_" + re.sub(r"\W+", "_", match["name"])
    return found
