"""Atomic writes, digests, JSON, tables and AnnData."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interptfm.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

METADATA_KEY = b"interptfm"
FOLDER_MARK = ".snakemake_timestamp"


def _leftovers(path: Path) -> list[Path]:
    """Return the temporary files of ``path``, of whatever process: ``.<number>.<name>`` beside it."""
    found = path.parent.glob(f".*.{glob.escape(path.name)}")
    return [each for each in found if each.name[1 : -len(path.name) - 1].isdigit()]


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file name beside ``path``; rename it on success, remove it on any failure.

    The suffixes are kept, because several writers choose their format by them. What a killed job left of
    the same file is removed: an output has one writer at a time.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in _leftovers(path):
        stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it takes the place of ``path`` on success only."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in _leftovers(path):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def digest(path: str | Path) -> str:
    """Return a digest of a file's (or folder's) content, prefixed by how it was taken.

    ``sha256:`` over the bytes; ``zip:`` over the names, sizes and CRC-32 of a zip's entries, which
    needs only its directory (activation stores are many gigabytes); ``folder:`` over its files,
    but for the mark that Snakemake leaves in a folder once its job has ended.
    """
    path = Path(path)
    hasher = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file() and p.name != FOLDER_MARK):
            hasher.update(f"{file.relative_to(path)}\0{digest(file)}\0".encode())
        return f"folder:{hasher.hexdigest()}"
    if path.suffix == ".zip":
        with damaged(path), zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                hasher.update(f"{entry.filename}\0{entry.file_size}\0{entry.CRC}\0".encode())
        return f"zip:{hasher.hexdigest()}"
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


@contextlib.contextmanager
def damaged(path: str | Path) -> Iterator[None]:
    """Turn the many exceptions of a truncated or altered file into one :class:`InputError`."""
    import zlib

    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: found a damaged file ({error}), expected the complete output of an earlier rule; "
            "delete it and run again"
        ) from error


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON with its keys in the given order; NaN is refused."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; :class:`InputError` names a missing or damaged file."""
    with damaged(path):
        text = Path(path).read_text()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: found malformed JSON ({error}), expected a JSON document") from None


def write_table(path: str | Path, frame: pd.DataFrame, provenance: dict[str, Any] | None = None) -> None:
    """Write a frame without its index as ``.parquet`` or ``.tsv``, chosen by the suffix.

    Parquet keeps ``provenance`` in its schema metadata; a TSV has no room for it and stays plain.
    """
    import pyarrow as pa
    import pyarrow.parquet

    with atomic(path) as temporary:
        if Path(path).suffix == ".tsv":
            frame.to_csv(temporary, sep="\t", index=False, float_format="%.6g")
            return
        table = pa.Table.from_pandas(frame, preserve_index=False)
        metadata = dict(table.schema.metadata or {})
        if provenance is not None:
            metadata[METADATA_KEY] = json.dumps(provenance, sort_keys=True).encode()
        pa.parquet.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_table(path: str | Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a ``.parquet`` or ``.tsv`` table; :class:`InputError` names a missing, damaged or foreign file."""
    import pandas as pd
    import pyarrow as pa

    with damaged(path):
        try:
            if Path(path).suffix == ".tsv":
                return pd.read_csv(path, sep="\t", usecols=columns)
            return pd.read_parquet(path, columns=columns)
        except (
            pa.ArrowInvalid,
            pa.ArrowKeyError,
            pd.errors.ParserError,
            OSError,
            ValueError,
        ) as error:
            if isinstance(error, FileNotFoundError):
                raise
            detail = str(error).splitlines()[0]
            raise InputError(
                f"{path}: found a table that cannot be read ({detail}), expected {columns or 'a table'}"
            ) from None


def write_h5ad(path: str | Path, adata: AnnData) -> None:
    """Write an AnnData file atomically (gzip level 4, which both CSR parts and strings compress well)."""
    with atomic(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip", compression_opts=4)


def read_h5ad(path: str | Path) -> AnnData:
    """Read an AnnData file into memory; :class:`InputError` names a missing or damaged one."""
    import anndata

    with damaged(path):
        try:
            return anndata.read_h5ad(path)
        except FileNotFoundError:
            raise
        except (OSError, KeyError, ValueError, anndata._io.utils.AnnDataReadError) as error:
            raise InputError(f"{path}: found a damaged file ({error}), expected AnnData (.h5ad)") from None


def panel(var_names: Iterable[Iterable[str]]) -> list[str]:
    """Return the genes of a run: the union over samples, in order of first appearance."""
    return list(dict.fromkeys(str(gene) for names in var_names for gene in names))
