"""Zarr v3 arrays in one ``.zarr.zip`` file whose bytes depend on its content alone."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interptfm.errors import InputError
from interptfm.store.files import atomic, damaged

if TYPE_CHECKING:
    import numpy as np
    import zarr
    from scipy.sparse import csr_matrix

FIXED_DATE = (1980, 1, 1, 0, 0, 0)
ROW_BYTES = 8 * 2**20


@contextlib.contextmanager
def create_zarr(path: str | Path, attributes: dict[str, Any]) -> Iterator[zarr.Group]:
    """Create ``path`` (a ``.zarr.zip``) atomically and yield its root group.

    ``attributes`` must be complete at creation and every chunk be written once: a zip file cannot
    replace an entry.
    """
    import zarr

    with atomic(path) as temporary, contextlib.closing(_fixed_date_store(temporary)) as zip_store:
        yield zarr.create_group(zip_store, attributes=attributes, zarr_format=3)


def _fixed_date_store(path: Path) -> Any:
    from zarr.storage import ZipStore

    class FixedDateZipStore(ZipStore):
        """zarr's zip store stamps entries with the clock; the same content must be the same file."""

        def _set(self, key: str, value: Any) -> None:
            if not self._is_open:
                self._sync_open()
            entry = zipfile.ZipInfo(filename=key, date_time=FIXED_DATE)
            entry.compress_type = self.compression
            entry.external_attr = 0o644 << 16
            self._zf.writestr(entry, value.to_bytes())

    return FixedDateZipStore(path, mode="w")


@contextlib.contextmanager
def open_zarr(path: str | Path) -> Iterator[zarr.Group]:
    """Open a ``.zarr.zip`` for reading and yield its root group.

    Damage found inside the ``with`` block (the zip's CRC of an entry is checked whenever it is read)
    leaves it as an :class:`InputError` that names the file.
    """
    import zarr
    from zarr.errors import GroupNotFoundError
    from zarr.storage import ZipStore

    with damaged(path):
        # zarr's store cannot be closed when its file is no zip; ask zipfile first.
        zipfile.ZipFile(path).close()
        with contextlib.closing(ZipStore(path, mode="r")) as zip_store:
            try:
                group = zarr.open_group(zip_store, mode="r")
            except GroupNotFoundError:
                raise InputError(f"{path}: found no zarr group, expected a complete .zarr.zip") from None
            yield group


def write_array(
    group: zarr.Group,
    name: str,
    data: np.ndarray,
    chunks: tuple[int, ...] | None = None,
    attributes: dict[str, Any] | None = None,
    compressors: Any = "auto",
) -> None:
    """Write one array, chunk after chunk so that the entries keep one order.

    ``chunks`` defaults to whole rows of about 8 MiB, ``compressors`` to zstd.
    """
    import numpy as np

    data = np.ascontiguousarray(data)
    if chunks is None:
        row = max(1, data.nbytes // max(1, data.shape[0])) if data.ndim else 1
        chunks = (max(1, min(data.shape[0], ROW_BYTES // row)), *data.shape[1:]) if data.ndim else ()
    chunks = tuple(max(1, size) for size in chunks)
    array = group.create_array(
        name, shape=data.shape, dtype=data.dtype, chunks=chunks, attributes=attributes, fill_value=0,
        compressors=compressors,
    )  # fmt: skip
    if data.size == 0:
        return
    step = chunks[0] if chunks else 1
    if data.ndim == 0:
        array[...] = data
        return
    for start in range(0, data.shape[0], step):
        array[start : start + step] = data[start : start + step]


def write_csr(
    group: zarr.Group, name: str, matrix: csr_matrix, attributes: dict[str, Any] | None = None
) -> None:
    """Write a CSR matrix as the subgroup ``name`` with ``data``, ``indices``, ``indptr`` and its shape."""
    from zarr.codecs import BloscCodec

    matrix = matrix.tocsr()
    matrix.sort_indices()
    part = group.create_group(name, attributes={**(attributes or {}), "shape": list(matrix.shape)})
    # Indices rise within a row: shuffled by byte, they take two thirds of the space.
    shuffled = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=matrix.indices.itemsize)
    write_array(part, "data", matrix.data)
    write_array(part, "indices", matrix.indices, compressors=shuffled)
    write_array(part, "indptr", matrix.indptr)


def read_csr(group: zarr.Group, name: str) -> csr_matrix:
    """Read a CSR matrix written by :func:`write_csr`."""
    from scipy.sparse import csr_matrix

    part = group[name]
    parts = tuple(part[key][:] for key in ("data", "indices", "indptr"))
    return csr_matrix(parts, shape=tuple(part.attrs["shape"]))
