"""Download of public data named by a manifest: resumed, repeated, checked, unpacked without trust.

Standard library only: the manifest is read while Snakemake parses the workflow.
"""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import http.client
import json
import logging
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from interptfm import job
from interptfm.errors import InputError

COLUMNS = ("name", "kind", "url", "sha256", "bytes", "licence", "path")
KINDS = ("section", "file", "by_hand")
SECTION_FILES = ("exprMat_file.csv", "metadata_file.csv", "fov_positions_file.csv")
CHECKPOINT_FILES = ("args.json", "vocab.json", "best_model.pt")
BLOCK_BYTES = 1 << 20
# Answers after which the same request may succeed: overload, and what a proxy or a restart causes.
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

log = logging.getLogger("interptfm")


@dataclass(frozen=True)
class Item:
    """One row of the manifest.

    ``kind`` is ``section`` (a tar.gz of CosMx flat files; ``path`` is the folder they go to), ``file``
    (``path`` is the file) or ``by_hand`` (a model folder that no program can download). ``sha256`` and
    ``bytes`` (of the download) are None where unknown.
    """

    name: str
    kind: str
    url: str
    sha256: str | None
    bytes: int | None
    licence: str
    path: str

    def files(self, root: str | Path) -> list[str]:
        """Return the files that this item provides under the data folder ``root``."""
        place = Path(root, self.path)
        if self.kind == "file":
            return [str(place)]
        if self.kind == "by_hand":
            return [str(place / file) for file in CHECKPOINT_FILES]
        return [str(place / f"{self.name}_{file}") for file in SECTION_FILES]


def read_manifest(path: str | Path) -> dict[str, Item]:
    """Read the manifest (TSV) into one :class:`Item` per name, in the order of the file.

    Raises
    ------
    InputError
        For a missing file or column, an unknown kind, a name given twice, a malformed hash or size,
        a path that leaves the data folder.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, delimiter="\t")
            found, rows = tuple(reader.fieldnames or ()), list(reader)
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected the manifest of key 'fetch.manifest'") from None
    if found != COLUMNS:
        raise InputError(f"{path}: found the columns {', '.join(found)}, expected {', '.join(COLUMNS)}")
    items: dict[str, Item] = {}
    for number, row in enumerate(rows, start=2):
        item = _item(row, f"{path}: row {number}")
        if item.name in items:
            raise InputError(f"{path}: row {number}: found {item.name!r} a second time, expected it once")
        items[item.name] = item
    return items


def _item(row: dict[str, str], name: str) -> Item:
    sha256, size = row["sha256"] or None, row["bytes"] or None
    if row["kind"] not in KINDS:
        raise InputError(f"{name}: found kind {row['kind']!r}, expected one of {', '.join(KINDS)}")
    if urlsplit(row["url"]).scheme not in ("http", "https"):
        raise InputError(f"{name}: found url {row['url']!r}, expected http or https")
    if sha256 and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
        raise InputError(f"{name}: found sha256 {sha256!r}, expected 64 hexadecimal digits or nothing")
    if size and not size.isdigit():
        raise InputError(f"{name}: found bytes {size!r}, expected a whole number or nothing")
    if not row["path"] or Path(row["path"]).is_absolute() or ".." in Path(row["path"]).parts:
        raise InputError(f"{name}: found path {row['path']!r}, expected one inside the data folder")
    return Item(**{**row, "sha256": sha256, "bytes": int(size) if size else None})


def provided_files(manifest: dict[str, Item], root: str | Path) -> dict[str, Item]:
    """Return every file that the manifest's items provide under ``root``, with its item."""
    return {file: item for item in manifest.values() for file in item.files(root)}


def download(
    item: Item, part: str | Path, *, attempts: int = 6, timeout_s: float = 60, wait_s: float = 2
) -> dict[str, Any]:
    """Download one item to the file ``part``, going on where an earlier attempt stopped.

    A file begun by an earlier call (or job) is continued by an HTTP range request, unless the server
    says that its content has changed. Lost connections, time-outs and passing server errors are tried
    again after ``wait_s``, twice that, and so on.

    Parameters
    ----------
    item
        What to download.
    part
        Where to; kept between calls, and accompanied by ``<part>.json`` with the server's version of it.
    attempts
        Requests in a row without a new byte before giving up.
    timeout_s
        Seconds without a byte after which a connection counts as lost.

    Returns
    -------
    dict
        url, sha256, bytes, licence, and the server's ``etag`` and ``last_modified`` (None if not sent).

    Raises
    ------
    InputError
        Not found, no network, server errors to the end, another size or hash than the manifest's.
    """
    part = Path(part)
    part.parent.mkdir(parents=True, exist_ok=True)
    failures, wrong_hash = 0, False
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            version = _transfer(item, part, timeout_s)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what is here is not a beginning of what the server has: start anew
                _discard(part)
            elif error.code not in PASSING_STATUS:
                raise InputError(
                    f"{item.url}: found HTTP status {error.code} ({error.reason}), expected the file; "
                    f"correct its address in the manifest, or {_by_hand(item)}"
                ) from None
            problem = f"HTTP status {error.code} ({error.reason})"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(f"{part}: found no space left, expected room for {item.url}") from None
            problem = str(getattr(error, "reason", None) or error) or type(error).__name__
        else:
            digest = _sha256(part)
            if item.sha256 in (None, digest):
                size = part.stat().st_size
                return {
                    "url": item.url,
                    "sha256": digest,
                    "bytes": size,
                    "licence": item.licence,
                    "etag": version["etag"],
                    "last_modified": version["last_modified"],
                }
            _discard(part)
            if wrong_hash:
                raise InputError(
                    f"{item.url}: found sha256 {digest}, expected {item.sha256} as in the manifest; "
                    "nothing was kept"
                )
            wrong_hash, problem = True, "another sha256 than the manifest's; starting anew"
        grown = part.exists() and part.stat().st_size > before
        failures = 1 if grown else failures + 1
        if failures >= attempts:
            raise InputError(
                f"{item.url}: found no way to download it in {attempts} attempts ({problem}), expected a "
                f"network connection to {urlsplit(item.url).netloc}; without one, {_by_hand(item)}"
            )
        log.warning("%s: %s; attempt %d of %d follows", item.url, problem, failures + 1, attempts)
        time.sleep(wait_s * 2 ** (failures - 1))


def _by_hand(item: Item) -> str:
    what = "its flat files" if item.kind == "section" else "it"
    return f"download it on another machine and place {what} at {item.path} under the data folder"


def _transfer(item: Item, part: Path, timeout_s: float) -> dict[str, str | None]:
    """Make one request and append what it brings; ConnectionError where the connection ends early."""
    have, notes = 0, part.with_name(f"{part.name}.json")
    headers = {"User-Agent": "interpTFM", "Accept-Encoding": "identity"}
    if part.exists() and notes.exists():
        version = _notes(notes)
        validator = version.get("etag") or version.get("last_modified")
        # A weak validator says nothing about bytes: then start anew.
        if validator and not validator.startswith("W/"):
            have = part.stat().st_size
            if version["bytes"] == have:
                return version
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    request = urllib.request.Request(item.url, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            _discard(part)
            raise ConnectionError(f"an answer for another range ({response.headers.get('Content-Range')})")
        length = response.headers.get("Content-Length")
        start = have if resumed else 0
        total = start + int(length) if length and length.isdigit() else None
        if item.bytes is not None and total is not None and total != item.bytes:
            raise InputError(f"{item.url}: found {total} bytes, expected {item.bytes} as in the manifest")
        version = {
            "etag": response.headers.get("ETag"),
            "last_modified": response.headers.get("Last-Modified"),
            "bytes": total,
        }
        with open(part, "ab" if resumed else "wb") as file:
            notes.write_text(json.dumps(version))
            blocks = None if total is None else -(-(total - start) // BLOCK_BYTES)
            for _ in job.progress(_receive(response, file), f"{item.name} (MiB)", blocks):
                pass
    size = part.stat().st_size
    if (total is not None and size != total) or (item.bytes is not None and size != item.bytes):
        raise ConnectionError(f"the connection ended after {size} of {total or item.bytes} bytes")
    return version


def _notes(path: Path) -> dict[str, Any]:
    """Return the server's version of a download begun earlier; nothing if writing it was interrupted."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return {}


def _receive(response: Any, file: Any) -> Iterator[None]:
    """Write what arrives as it arrives, so that a lost connection loses nothing; yield once a block."""
    waiting = 0
    while piece := response.read1(BLOCK_BYTES):
        file.write(piece)
        waiting += len(piece)
        while waiting >= BLOCK_BYTES:
            waiting -= BLOCK_BYTES
            yield


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.json").unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract_members(archive: str | Path, outputs: list[str], source: str) -> None:
    """Write the members of a tar archive that have the file names of ``outputs`` to those paths.

    Paths inside the archive decide nothing: a member's content goes to the output of the same file
    name, whatever folder it claims. An archive that holds an absolute path, ``..``, a link or a device is
    refused as a whole.

    Parameters
    ----------
    archive
        The tar file, plain or gzipped.
    outputs
        Paths to write, with distinct file names; each is written to a temporary name and renamed, and
        none is left behind if one fails.
    source
        What to call the archive in messages (its URL).

    Raises
    ------
    InputError
        Refused, damaged or truncated archive; a member missing or there twice.
    """
    wanted = {Path(path).name: Path(path) for path in outputs}
    written: dict[str, Path] = {}
    try:
        # tarfile's own decompression skips the checksum of gzip, and would stop before it.
        with _decompressed(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                _refuse(member, source)
                name = Path(member.name).name
                if not member.isfile() or name not in wanted:
                    continue
                if name in written:
                    raise InputError(f"{source}: found two members {name}, expected one")
                target = wanted[name]
                target.parent.mkdir(parents=True, exist_ok=True)
                written[name] = target.with_name(f".{target.name}.{os.getpid()}.tmp")
                content = tar.extractfile(member)
                with open(written[name], "wb") as file:
                    while content and (block := content.read(BLOCK_BYTES)):
                        file.write(block)
                if written[name].stat().st_size != member.size:
                    raise InputError(f"{source}: found member {name} cut short, expected {member.size} bytes")
            while stream.read(BLOCK_BYTES):
                pass
        if missing := [name for name in wanted if name not in written]:
            raise InputError(f"{source}: found no member {missing[0]}, expected one in the archive")
        for name, temporary in written.items():
            temporary.replace(wanted[name])
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"{source}: found a damaged or truncated archive ({error}), expected tar or tar.gz"
        ) from None
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


def _decompressed(archive: str | Path) -> Any:
    with open(archive, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(archive, "rb") if packed else open(archive, "rb")


def _refuse(member: tarfile.TarInfo, source: str) -> None:
    path = Path(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"{source}: found the member path {member.name!r}, expected one inside the archive; refused"
        )
    if not (member.isfile() or member.isdir()):
        raise InputError(
            f"{source}: found the member {member.name!r}, a link or device, expected files; refused"
        )


def fetch(item: Item, outputs: list[str], work: str | Path, **options: Any) -> dict[str, Any]:
    """Provide the files of one item at ``outputs`` and return the record of the download.

    Parameters
    ----------
    item
        The row of the manifest.
    outputs
        The item's files, as :meth:`Item.files` names them.
    work
        Folder for the unfinished download; what is in it survives a failure and is continued.
    options
        As :func:`download` takes them.

    Raises
    ------
    InputError
        As :func:`download` and :func:`extract_members` raise it; and for an item that only a person can
        download.
    """
    if item.kind == "by_hand":
        folder = Path(outputs[0]).parent
        names = ", ".join(Path(path).name for path in outputs)
        raise InputError(
            f"{folder}: found no model checkpoint, expected {names}; no program can download it from "
            f"{item.url}: download the folder with a browser and place its files there"
        )
    part = Path(work, f"{item.name}.part")
    record = download(item, part, **options)
    if item.kind == "file":
        target = Path(outputs[0])
        target.parent.mkdir(parents=True, exist_ok=True)
        # The data folder may be on another file system than the results, where a rename fails.
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            shutil.move(part, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    else:
        try:
            extract_members(part, outputs, item.url)
        except InputError:
            _discard(part)
            raise
    _discard(part)
    # Beside the data and no output of the rule: data placed by hand has none, and is not downloaded again.
    notes = Path(outputs[0]).with_name(f"{item.name}.fetch.json")
    notes.write_text(json.dumps({"name": item.name, **record}, indent=1) + "\n", encoding="utf-8")
    return {"name": item.name, **record}
