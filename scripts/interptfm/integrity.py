"""Digests of outputs, written where a job ends and compared where another one begins.

Most formats do not notice a flipped bit: safetensors, HDF5, PyTorch, JSON and NumPy files have no checksum,
Parquet has one for its pages at most. A job digests its inputs anyhow, for the provenance of what it writes.
Compared with what the job before has left under ``.digests``, the same numbers find every change of any
file of any format, for the price of one more read of each output. The digest of an array store is that of
its zip directory; its CRCs are checked on reading.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from interptfm.errors import InputError

RESULTS, FOLDER = "results", ".digests"

log = logging.getLogger("interptfm")


def record_of(path: str | Path) -> Path | None:
    """Return where the digest of an output stands; None for a path that is not inside ``results/<run>``."""
    parts = Path(path).parts
    if RESULTS not in parts:
        return None
    run = len(parts) - parts[::-1].index(RESULTS)
    if len(parts) < run + 2:
        return None
    return Path(*parts[: run + 1], FOLDER, *parts[run + 1 : -1], f"{parts[-1]}.txt")


def record(outputs: Iterable[str | Path], rule: str) -> None:
    """Write the digest of each output of a finished job, and the rule that made it."""
    from interptfm import store

    for path in outputs:
        place = record_of(path)
        if place is not None:
            with store.atomic(place) as temporary:
                temporary.write_text(f"{store.digest(path)} {rule}\n")


def check(inputs: Iterable[str | Path]) -> dict[str, str]:
    """Return path → digest of the inputs of a job, of those that an earlier job has written.

    Raises
    ------
    InputError
        Naming the first file whose content is not what was written, or that is gone.
    """
    from interptfm import store

    found: dict[str, str] = {}
    for path in dict.fromkeys(map(str, inputs)):
        place = record_of(path)
        if place is None or not place.is_file():
            continue
        if not Path(path).exists():
            raise InputError(f"{path}: not found, expected the output of an earlier rule; run again")
        expected, rule = place.read_text().split()
        found[path] = store.digest(path)
        if found[path] != expected:
            raise InputError(
                f"{path}: found a damaged or edited file ({found[path][:15]}…), expected what rule {rule} "
                f"wrote ({expected[:15]}…); delete it and run again"
            )
    return found
