"""Stream the expression matrix of a CosMx flat-file export to CSR, a block of rows at a time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interptfm.cosmx import naming
from interptfm.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
MIN_BLOCK_BYTES = 1 << 19
MIN_BLOCK_ROWS = 64
CONTROLS = ("negative_probes", "system_controls")
DROP_REASONS = ("cell_ID 0", "no counts", "under min_genes")


@dataclass
class Counts:
    """Kept cells of one expression matrix, in file order.

    ``matrix``: cells × genes raw counts, CSR float32, indices sorted. ``negative_probes`` and
    ``system_controls``: cells × probes int32. ``all_fov`` and ``all_cell``: identifiers of every row but
    those with cell_ID 0, kept or not. ``dropped``: cells by reason, applied in the order of ``DROP_REASONS``.
    """

    matrix: sp.csr_matrix
    genes: list[str]
    fov: np.ndarray
    cell: np.ndarray
    negative_probes: pd.DataFrame
    system_controls: pd.DataFrame
    all_fov: np.ndarray
    all_cell: np.ndarray
    dropped: dict[str, int] = field(default_factory=dict)


def read_counts(path: str | Path, min_genes: int = 1) -> Counts:
    """Read ``*_exprMat_file.csv`` or ``.csv.gz`` without ever holding it dense.

    Each block is parsed by pyarrow, checked, thinned to the cells that are kept and appended as CSR;
    memory beyond the CSR is a few blocks of text and their dense form.

    Parameters
    ----------
    path
        Flat file: FOV and cell identifiers, then one column a gene or control probe.
    min_genes
        Cells with fewer detected genes are dropped; control probes do not count.

    Raises
    ------
    InputError
        Missing, empty or truncated file; header without identifiers or genes; a negative, fractional,
        missing or non-numeric count; a FOV/cell pair twice; several slides; no cell left.
    """
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    path = Path(path)
    header = read_header(path)
    names = [c for c in header if c not in naming.identifier_columns(header)]
    columns: dict[str, list[str]] = {"genes": [], "negative_probes": [], "system_controls": []}
    for name in names:
        if name.lower() not in naming.OTHER_COLUMNS:
            columns[naming.probe_class(name)].append(name)
    if not columns["genes"]:
        raise InputError(
            f"{path.name}: found no gene column in the header ({len(header)} columns, the first "
            f"{header[:4]}), expected one column a gene beside fov and cell_ID"
        )
    identifiers = naming.identifier_columns(header)
    naming.require_identifiers(header, path.name)

    dropped = dict.fromkeys(DROP_REASONS, 0)
    slides: set[int] = set()
    rows_read = 0
    data, indices = _Growing(np.float32), _Growing(np.int32)
    parts: dict[str, list[Any]] = {
        key: [] for key in ("length", "fov", "cell", "all_fov", "all_cell", *CONTROLS)
    }
    for batch in _batches(path, header, identifiers):
        first_row = rows_read + 2
        rows_read += batch.num_rows
        fov, cell, found = naming.parse_identifiers(
            batch.select(identifiers).to_pandas(), path.name, first_row
        )
        slides |= found
        block = _dense(batch, columns["genes"])
        matrix = sp.csr_matrix(block)
        _check_counts(matrix, columns["genes"], fov, cell, first_row, path.name)
        controls = {}
        for kind in CONTROLS:
            values = _dense(batch, columns[kind])
            _check_counts(sp.csr_matrix(values), columns[kind], fov, cell, first_row, path.name)
            controls[kind] = values

        # float32 sums are exact here: a cell has far fewer than 2**24 counts.
        in_cell = cell != 0
        detected = np.diff(matrix.indptr)
        keep = in_cell & (detected >= max(min_genes, 1))
        dropped["cell_ID 0"] += int((~in_cell).sum())
        dropped["no counts"] += int((in_cell & (detected == 0)).sum())
        dropped["under min_genes"] += int((in_cell & (detected > 0) & ~keep).sum())
        parts["all_fov"].append(fov[in_cell])
        parts["all_cell"].append(cell[in_cell])
        if not keep.all():
            matrix = matrix[np.flatnonzero(keep)]
        data.append(matrix.data)
        indices.append(matrix.indices)
        parts["length"].append(np.diff(matrix.indptr))
        parts["fov"].append(fov[keep])
        parts["cell"].append(cell[keep])
        for kind, values in controls.items():
            parts[kind].append(values[keep].astype(np.int32))

    naming.require_one_slide(slides, path.name)
    if rows_read == 0:
        raise InputError(f"{path.name}: found a header and no rows, expected one row a cell")
    joined = {key: np.concatenate(part) for key, part in parts.items()}
    naming.require_unique_cells(joined["all_fov"], joined["all_cell"], path.name)
    require_cells_left(len(joined["cell"]), rows_read, dropped, min_genes, path.name)
    indptr = np.concatenate([[0], np.cumsum(joined["length"], dtype=np.int64)])
    if indptr[-1] <= np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)
    return Counts(
        matrix=sp.csr_matrix(
            (data.finish(), indices.finish(), indptr), shape=(len(joined["cell"]), len(columns["genes"]))
        ),
        genes=columns["genes"],
        fov=joined["fov"],
        cell=joined["cell"],
        negative_probes=pd.DataFrame(joined["negative_probes"], columns=columns["negative_probes"]),
        system_controls=pd.DataFrame(joined["system_controls"], columns=columns["system_controls"]),
        all_fov=joined["all_fov"],
        all_cell=joined["all_cell"],
        dropped=dropped,
    )


class _Growing:
    """One array that grows in place.

    Joining a list of blocks at the end would hold them twice; a large buffer that is resized is remapped by
    the system without a copy, and the reserve beyond what was written takes no memory.
    """

    def __init__(self, dtype: type, reserve: int = 1 << 20) -> None:
        import numpy as np

        self._buffer = np.empty(reserve, dtype=dtype)
        self._length = 0

    def append(self, values: np.ndarray) -> None:
        end = self._length + len(values)
        if end > len(self._buffer):
            # No view of the buffer leaves this class before finish(), hence no reference to check.
            self._buffer.resize(max(end, len(self._buffer) * 3 // 2), refcheck=False)
        self._buffer[self._length : end] = values
        self._length = end

    def finish(self) -> np.ndarray:
        self._buffer.resize(self._length, refcheck=False)
        return self._buffer


def require_cells_left(kept: int, read: int, dropped: dict[str, int], min_genes: int, file: str) -> None:
    """Raise :class:`InputError` that lists the reasons if no cell is left."""
    if kept == 0:
        reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
        raise InputError(
            f"{file}: found no cells left of {read} rows ({reasons}), expected at least one cell with "
            f"{min_genes} detected genes (min_genes)"
        )


def read_header(path: Path) -> list[str]:
    """Return the column names of a CSV or CSV.gz file.

    Raises
    ------
    InputError
        Missing, empty or unreadable file; a name twice.
    """
    import csv
    import gzip

    if not path.is_file():
        raise InputError(f"{path}: found no such file, expected a CosMx flat file")
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8-sig", newline="") as stream
        ):
            header = next(csv.reader(stream), [])
    except (EOFError, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    if not header:
        raise InputError(f"{path.name}: found an empty file, expected a CSV with a header")
    naming.require_unique(header, path.name)
    return header


def unreadable(path: Path, error: Exception) -> InputError:
    """Return the :class:`InputError` for a file that decompression or decoding gave up on."""
    # zlib and Arrow word it differently, but both speak of the stream's end when it is cut.
    cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
    what = "a truncated gzip stream" if cut else f"unreadable content ({error})"
    return InputError(f"{path.name}: found {what}, expected a complete file")


@contextlib.contextmanager
def _input_stream(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as file:
        if path.suffix == ".gz":
            with pa.CompressedInputStream(file, "gzip") as stream:
                yield stream
        else:
            yield file


def _batches(path: Path, header: list[str], identifiers: list[str]) -> Iterator[Any]:
    """Yield Arrow record batches: identifiers as strings, everything else but row names as float32."""
    import pyarrow as pa
    import pyarrow.csv as csv

    wanted = [c for c in header if c in identifiers or c.lower() not in naming.OTHER_COLUMNS]
    convert = csv.ConvertOptions(
        column_types={c: pa.string() if c in identifiers else pa.float32() for c in wanted},
        include_columns=wanted,
        null_values=MISSING,
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    # Wide panels need longer blocks, since every column of a block has a fixed cost.
    size = max(MIN_BLOCK_BYTES, MIN_BLOCK_ROWS * 2 * len(header))
    rows = 0
    try:
        with _input_stream(path) as stream:
            for text in _text_blocks(stream, size):
                # One thread, so that Arrow names the row of a bad value.
                read = csv.ReadOptions(use_threads=False, block_size=len(text), column_names=header)
                table = csv.read_csv(
                    pa.BufferReader(text),
                    read_options=read,
                    convert_options=convert,
                    memory_pool=pa.system_memory_pool(),
                )
                for batch in table.to_batches():
                    yield batch
                    rows += batch.num_rows
    except pa.ArrowInvalid as error:
        raise _invalid(path, header, str(error), rows) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _text_blocks(stream: Any, size: int) -> Iterator[bytes]:
    """Yield whole lines after the header, about ``size`` bytes at a time.

    Arrow's own streaming reader reads dozens of blocks ahead, which is more memory than the cells take.
    """
    rest, header = b"", True
    while chunk := stream.read(size):
        text = rest + chunk
        if header:
            _, newline, after = text.partition(b"\n")
            if not newline:
                rest = text
                continue
            header, text = False, after
        cut = text.rfind(b"\n") + 1
        rest = text[cut:]
        if text[:cut].strip():
            yield text[:cut]
    if not header and rest.strip():
        yield rest


def _invalid(path: Path, header: list[str], message: str, rows_before: int) -> InputError:
    """Return the :class:`InputError` for what Arrow says of a block after ``rows_before`` rows."""
    row = re.search(r"Row #(\d+)", message)
    where = f"{path.name}, row {int(row[1]) + rows_before + 1}" if row else path.name
    if match := re.search(r"column #(\d+).*invalid value '([^']*)'", message):
        return InputError(f"{where}, column {header[int(match[1])]}: found {match[2]!r}, expected a count")
    if match := re.search(r"Expected (\d+) columns, got (\d+)", message):
        return InputError(f"{where}: found {match[2]} fields, expected {match[1]} as in the header")
    return InputError(f"{where}: found malformed CSV ({message.splitlines()[0]}), expected a table of counts")


def _dense(batch: Any, columns: list[str]) -> np.ndarray:
    import numpy as np
    import pyarrow as pa

    if not columns or batch.num_rows == 0:
        return np.zeros((batch.num_rows, len(columns)), dtype=np.float32)
    tensor = batch.select(columns).to_tensor(
        null_to_nan=True, row_major=True, memory_pool=pa.system_memory_pool()
    )
    return tensor.to_numpy()


def _check_counts(
    matrix: sp.csr_matrix, names: list[str], fov: np.ndarray, cell: np.ndarray, first_row: int, file: str
) -> None:
    import numpy as np

    values = matrix.data
    good = np.isfinite(values) & (values >= 0) & (values == np.rint(values))
    if good.all():
        return
    at = int(np.flatnonzero(~good)[0])
    row = int(np.searchsorted(matrix.indptr, at, side="right")) - 1
    value = float(values[at])
    found = "a missing value (NaN)" if np.isnan(value) else f"{value:g}"
    raise InputError(
        f"{file}, row {first_row + row} (FOV {fov[row]}, cell {cell[row]}), column "
        f"{names[matrix.indices[at]]}: found {found}, expected a raw count (a whole number of 0 or more)"
    )
