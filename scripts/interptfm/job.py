"""What every rule script does around its library call: log, seeds, threads, errors, provenance."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from interptfm import __version__, integrity
from interptfm.errors import InputError

if TYPE_CHECKING:
    import numpy as np

SCHEMA_VERSION = 1
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)

# Set in a script that was started again with another Python: the one it runs in by then.
PYTHON_VARIABLE = "INTERPTFM_PYTHON"

# What a disk or its permissions refuse, by errno; the user's to mend, hence one sentence.
REFUSED = {
    errno.ENOSPC: "found no space left on the disk, expected room for the outputs; make room and run again",
    errno.EDQUOT: "found the disk quota used up, expected room for the outputs; make room and run again",
    errno.EROFS: "found a read-only file system, expected one that can be written",
    errno.EACCES: "permission denied, expected a file or folder that this user may read and write",
    errno.EPERM: "permission denied, expected a file or folder that this user may read and write",
}
FULL_BYTES = 2**20

log = logging.getLogger("interptfm")
T = TypeVar("T")
# Digests of this job's inputs that were compared with what their rules wrote.
_verified: dict[str, str] = {}


@contextlib.contextmanager
def run(snakemake: Any) -> Iterator[None]:
    """Wrap the body of a rule script.

    Logs to ``snakemake.log[0]`` and stderr, gives BLAS and torch ``snakemake.threads`` threads, and
    turns an :class:`InputError`, a full disk or a lack of permission into one logged sentence and exit
    code 1; any other exception is logged with its traceback and also exits with 1. Inputs that are not
    what their rules wrote are such an error, too (:mod:`interptfm.integrity`). Must enclose the heavy
    imports: the thread variables are read by the libraries when they load.
    """
    _configure_logging(snakemake.log[0] if len(snakemake.log) else None)
    _change_python(snakemake)
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(snakemake.threads)
    # Threads that spin while they wait starve each other wherever a node is shared; measured on two
    # cores, a passive wait is faster even on an idle one (training in place: 8.6 s an epoch, 12.2 s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # cuBLAS needs this for run-to-run determinism; it has no effect on a CPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    log.info("rule %s on %s, %d threads", snakemake.rule, platform.node(), int(snakemake.threads))
    started = time.monotonic()
    outputs = [str(path) for path in snakemake.output]
    try:
        _verified.clear()
        _verified.update(integrity.check(snakemake.input))
        yield
        integrity.record(outputs, snakemake.rule)
    except InputError as error:
        log.error("%s: %s", snakemake.rule, error)
        sys.exit(1)
    except Exception as error:
        sentence = refused(error, outputs)
        if sentence is None:
            log.exception("rule %s failed; this is a defect of interpTFM or of the machine", snakemake.rule)
        else:
            log.error("%s: %s", snakemake.rule, sentence)
        sys.exit(1)
    seconds, peak_mb = spent()
    line = "rule %s finished in %.1f s, %.2f s of CPU, peak memory %.0f MB"
    log.info(line, snakemake.rule, time.monotonic() - started, seconds, peak_mb)


def spent() -> tuple[float, float]:
    """Return CPU seconds of this process and the children it waited for, and its peak memory in MB.

    Exact, where Snakemake's benchmark files look at a job every 30 s once it runs for 15 s. The
    peak is that since the program started: ``ru_maxrss`` would begin with that of the parent.
    """
    import resource

    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return seconds, int(line.split()[1]) * 1024 / 1e6
    return seconds, used[0].ru_maxrss / 1e6  # bytes on macOS


def refused(error: Exception, outputs: list[str]) -> str | None:
    """Return the sentence on a disk that is full or a file that this user may not touch, else None.

    Libraries word a full disk in their own ways (torch and safetensors without an errno), hence also a
    look at the disk itself.
    """
    place = next((folder for path in outputs[:1] for folder in Path(path).parents if folder.is_dir()), None)
    if place is not None and shutil.disk_usage(place).free < FULL_BYTES:
        return f"{place}: {REFUSED[errno.ENOSPC]}"
    if isinstance(error, OSError) and error.errno in REFUSED:
        return f"{error.filename or place or 'disk'}: {REFUSED[error.errno]}"
    return None


def _change_python(snakemake: Any) -> None:
    """Start the rule's script again with the Python that ``environments`` names for it, if any.

    Snakemake hands over a script that carries its own arguments, so that any Python can run it: this is
    what Snakemake does for conda. The process keeps its id, so benchmark and cancelling still see it.
    """
    python = getattr(snakemake, "config", {}).get("python_of_rule", {}).get(snakemake.rule)
    if python is None:
        return
    if os.environ.get(PYTHON_VARIABLE) == python:
        log.info("rule %s runs in %s", snakemake.rule, python)
        return
    os.environ[PYTHON_VARIABLE] = python
    os.execv(python, [python, *sys.argv])


class _LogFile(logging.FileHandler):
    """A log file; where the disk is full, lines are missing from it instead of a traceback on stderr."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def _configure_logging(path: str | None) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        # A log that cannot be written (read-only or full disk) hides no message: stderr has them all.
        with contextlib.suppress(OSError):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            handlers.append(_LogFile(path, mode="w"))
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    for handler in handlers:
        handler.setFormatter(formatter)
    log.handlers[:] = handlers
    log.setLevel(logging.INFO)
    log.propagate = False


def seed(base: int, *names: object) -> int:
    """Return a 63-bit seed derived from the configured seed and the names of stage and wildcards."""
    text = "\x1f".join([str(int(base)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(base: int, *names: object) -> np.random.Generator:
    """Return a numpy generator of its own for (configured seed, stage, wildcards…)."""
    import numpy as np

    return np.random.default_rng(seed(base, *names))


def device(name: str = "auto") -> str:
    """Return the torch device to use: ``cuda`` where there is one (``auto``), else what was asked.

    Raises
    ------
    InputError
        If ``cuda`` is asked for and torch finds none.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device: found {name!r}, expected 'cpu' or 'auto', since torch sees no GPU here")
    return name


def progress(iterable: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield from ``iterable`` with a progress bar on a terminal and a log line a minute elsewhere."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(iterable, desc=label, total=total, leave=False)
        return
    last = time.monotonic()
    for done, item in enumerate(iterable):
        if time.monotonic() - last >= 60:
            last = time.monotonic()
            log.info("%s: %d of %s", label, done, total if total is not None else "?")
        yield item


def provenance(snakemake: Any, **sections: Any) -> dict[str, Any]:
    """Return what an output must say of its origin: versions, rule, settings, seed, input digests.

    ``sections`` are the configuration values that the rule used (usually its params). Neither time
    nor absolute path is recorded, so that the same inputs give the same bytes anywhere; inputs are
    named by their path inside the run (or by their file name outside of it).
    """
    from interptfm.store import digest

    inputs = {}
    for path in dict.fromkeys(str(p) for p in snakemake.input):
        if not path.endswith(".py"):
            inputs[_short_name(path)] = _verified.get(path) or digest(path)
    return {
        "schema_version": SCHEMA_VERSION,
        "package": f"interptfm {__version__}",
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "settings": sections,
        "inputs": inputs,
    }


def _short_name(path: str) -> str:
    parts = Path(path).parts
    if "results" in parts:
        return "/".join(parts[len(parts) - parts[::-1].index("results") + 1 :])
    return parts[-1]
