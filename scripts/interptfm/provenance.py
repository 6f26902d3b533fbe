"""What made a run, and whether its files are still what was made: ``provenance.json`` and ``make verify``.

The one output that holds times and names of a machine; all others stay free of both, so that two runs can
be compared byte by byte.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from interptfm import __version__
from interptfm.errors import InputError

SCHEMA_VERSION = 1
PATTERN = "provenance*.json"
# Not results: logs and times differ between runs, work is unfinished, digests are about the others.
APART = frozenset({"logs", "benchmarks", ".work", ".digests"})
MIB = 2**20 / 1e6
# Asked of another Python in the same words as of this one.
LIST_PACKAGES = (
    "import json, platform; from importlib import metadata; print(json.dumps({'python': "
    "platform.python_version(), **{d.name: d.version for d in metadata.distributions()}}))"
)


def outputs(run: str | Path) -> list[Path]:
    """Return the files of a run's results in order of path, without logs, times, work and provenance."""
    run = Path(run)
    return sorted(
        path
        for path in run.rglob("*")
        if path.is_file()
        and not APART.intersection(path.relative_to(run).parts)
        and not (path.parent == run and path.match(PATTERN))
    )


def git_state(folder: str | Path) -> dict[str, Any]:
    """Return ``commit`` and ``dirty`` (changed or untracked files that git does not ignore) of a project.

    Both are None, with a ``reason``, where the folder is no clone or git is not there.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # A copy inside some other repository is not a clone.
        git("ls-files", "--error-unmatch", "workflow/Snakefile")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except FileNotFoundError:
        reason = "git is not installed"
    except subprocess.CalledProcessError:
        reason = "the project's folder is no git clone"
    return {"commit": None, "dirty": None, "reason": reason}


def packages(python: str | None = None) -> dict[str, str]:
    """Return the version of Python and of every installed distribution, of this Python or of another.

    Raises
    ------
    InputError
        If the other Python does not start.
    """
    if python is None:
        found = {d.name: d.version for d in metadata.distributions()}
        return {"python": platform.python_version(), **dict(sorted(found.items(), key=_by_name))}
    try:
        done = subprocess.run([python, "-c", LIST_PACKAGES], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"environments: found {python}, which does not run ({error}), expected a Python"
        ) from None
    listed = json.loads(done.stdout)
    return {"python": listed.pop("python"), **dict(sorted(listed.items(), key=_by_name))}


def _by_name(item: tuple[str, str]) -> str:
    return item[0].lower()


def hardware() -> dict[str, Any]:
    """Return machine, processor, cores, memory (MB) and GPUs of where this runs."""
    models = [
        line.split(":", 1)[1].strip()
        for line in _text("/proc/cpuinfo").splitlines()
        if line.startswith("model name")
    ]
    gpus = [
        line.split(":", 1)[1].strip()
        for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        for line in _text(file).splitlines()
        if line.startswith("Model:")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    return {
        "node": platform.node(),
        "platform": platform.platform(),
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cores_available": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_mb": round(memory),
        "gpus": gpus,
    }


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def benchmarks(run: str | Path) -> dict[str, dict[str, Any]]:
    """Return rule → jobs, ``seconds`` (wall time over all jobs), ``longest_s``, ``peak_mb``, by Snakemake.

    Read from ``benchmarks/<rule>.tsv`` and ``benchmarks/<rule>/*.tsv`` of all arms; ``peak_mb`` (largest
    resident set of a job, MB of 10⁶ bytes) is None where a rule's jobs were too short to be looked at.
    """
    run, found = Path(run), {}
    for file in sorted(run.rglob("benchmarks/**/*.tsv")):
        inside = file.parts[len(file.parts) - file.parts[::-1].index("benchmarks") :]
        if inside[0].startswith("record_"):  # an earlier writing of what is being written
            continue
        with open(file, newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                found.setdefault(Path(inside[0]).stem, []).append(row)
    result = {}
    for rule, rows in sorted(found.items()):
        seconds = [float(row["s"]) for row in rows]
        peaks = [float(row["max_rss"]) for row in rows if row["max_rss"][:1].isdigit()]
        result[rule] = {
            "jobs": len(rows),
            "seconds": round(sum(seconds), 2),
            "longest_s": round(max(seconds), 2),
            "peak_mb": round(max(peaks) * MIB, 1) if peaks else None,
        }
    return result


def collect(
    project: str | Path,
    run: str | Path,
    config: Mapping[str, Any],
    inputs: Iterable[str],
    pythons: Mapping[str, str],
    environment_files: Iterable[str],
) -> dict[str, Any]:
    """Return all that ``provenance.json`` says of a finished run.

    Parameters
    ----------
    project
        Folder of the workflow (for git).
    run
        ``results/<run>``.
    config
        The resolved configuration of the main arm; those of the others follow from its ``arms``.
    inputs
        Files that no rule made: data, ontology, checkpoint, sample sheet.
    pythons
        Family of rules → another Python that runs it (``environments``).
    environment_files
        conda's descriptions, digested: under conda they say what the rules' own environments hold.
    """
    from interptfm import integrity, store

    run = Path(run)
    files = outputs(run)
    integrity.check(files)
    return {
        "schema_version": SCHEMA_VERSION,
        "package": f"interptfm {__version__}",
        "run": run.name,
        "git": git_state(project),
        "seed": config["seed"],
        "config": dict(config),
        "packages": packages(),
        "packages_of": {family: packages(python) for family, python in sorted(pythons.items())},
        "environment_files": {Path(path).name: store.digest(path) for path in sorted(environment_files)},
        "hardware": hardware(),
        "rules": benchmarks(run),
        "inputs": {path: store.digest(path) for path in sorted(set(inputs))},
        "outputs": {str(path.relative_to(run)): store.digest(path) for path in files},
    }


def verify(run: str | Path, project: str | Path = ".") -> tuple[list[str], int, list[str]]:
    """Compare a run's files, and the inputs it read, with every ``provenance*.json`` of its folder.

    Array stores are read whole: their digest is of the zip's directory, whose CRCs are held against the data.

    Returns
    -------
    differences
        One sentence each; empty where all is as it was.
    n
        Number of files compared.
    unknown
        Files that no record names, by path: what a target made afterwards.

    Raises
    ------
    InputError
        Where there is no record.
    """
    from interptfm import store

    run, project = Path(run), Path(project)
    records = sorted(run.glob(PATTERN))
    if not records:
        raise InputError(f"{run}: found no provenance.json, expected a finished run")
    given: dict[str, str] = {}
    made: dict[str, str] = {}
    # What the last one says of a file holds: the extras' record is of all that was there then.
    for path in sorted(records, key=lambda file: (file.stat().st_mtime_ns, file.name)):
        content = store.read_json(path)
        given |= content["inputs"]
        made |= content["outputs"]
    places = [*((name, project / name, digest, "input") for name, digest in sorted(given.items()))]
    places += [(str(run / name), run / name, digest, "output") for name, digest in sorted(made.items())]
    found = (_difference(*place) for place in places)
    unknown = sorted({str(path.relative_to(run)) for path in outputs(run)} - made.keys())
    return [sentence for sentence in found if sentence], len(places), unknown


def _difference(name: str, path: Path, expected: str, kind: str) -> str | None:
    from interptfm import store

    if not path.exists():
        return f"{name}: not found, expected the {kind} {expected[:19]}…"
    try:
        found = store.digest(path)
        if found == expected and found.startswith("zip:"):
            with store.damaged(path), zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
            if bad is not None:
                return f"{name}: found damaged data in {bad}, expected the {kind} {expected[:19]}…"
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{name}: cannot be read ({error.strerror}), expected the {kind} {expected[:19]}…"
    return None if found == expected else f"{name}: found {found[:19]}…, expected the {kind} {expected[:19]}…"
