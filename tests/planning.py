"""Running Snakemake in tests. As a program: many dry runs, of which each is a fork of one process.

    python planning.py FOLDER CASES.json

CASES: name -> {"configs": [...], "edit": library file, "targets": [...]}.
Prints JSON: name -> rule -> number of jobs, or what Snakemake said where it failed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

TARGETS = ("all", "total", "extras")


def snakemake(
    folder: Path, *arguments: str, config: str = "tests/tiny.yaml"
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in ``folder`` as a user would and return the finished process."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--configfile", config]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def planned(text: str) -> dict[str, int]:
    """Return rule -> number of jobs of what a dry run printed, target rules left out."""
    table = re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)
    return {name: int(count) for name, count in table if name not in TARGETS}


def begin(configs: list[str], targets: list[str]) -> tuple[int, IO[str]]:
    """Start a dry run in a fork of this process, in the current folder; return its number and output."""
    from snakemake import cli

    out = tempfile.TemporaryFile("w+")  # noqa: SIM115  finish() closes it
    child = os.fork()
    if not child:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        code = 1
        try:
            cli.main(["--dry-run", "--cores", "2", *targets, "--configfile", *configs])
        except SystemExit as end:
            code = 0 if end.code in (0, None) else 1
            if isinstance(end.code, str):
                sys.stderr.write(end.code)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child, out


def finish(child: int, out: IO[str]) -> dict[str, int] | str:
    """Return what a dry run planned, or what Snakemake said where it failed."""
    _, status = os.waitpid(child, 0)
    with out:
        out.seek(0)
        text = out.read()
    return planned(text) if status == 0 else text[-3000:]


def plan(configs: list[str], targets: list[str]) -> dict[str, int] | str:
    """Dry-run in a fork of this process, in the current folder."""
    return finish(*begin(configs, targets))


def plans(folder: Path, cases: dict[str, dict]) -> dict[str, dict[str, int] | str]:
    """Run this file over ``cases`` in the project ``folder``; return its answer."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(cases, file)
        file.flush()
        command = [sys.executable, __file__, str(folder), file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    os.chdir(sys.argv[1])
    cases = json.loads(Path(sys.argv[2]).read_text())
    found: dict[str, dict[str, int] | str] = {}
    # Dry runs of the files as they are go two at a time; an edited module must be seen by its own plan alone.
    alike = [name for name, case in cases.items() if not case.get("edit")]
    for pair in (alike[i : i + 2] for i in range(0, len(alike), 2)):
        running = {name: begin(cases[name]["configs"], cases[name].get("targets", [])) for name in pair}
        found |= {name: finish(*started) for name, started in running.items()}
    for name in cases.keys() - found.keys():
        edited = Path("scripts/interptfm", cases[name]["edit"])
        before, times = edited.read_bytes(), edited.stat()
        edited.write_bytes(before + b"\n# edited\n")
        try:
            found[name] = plan(cases[name]["configs"], cases[name].get("targets", []))
        finally:
            edited.write_bytes(before)
            os.utime(edited, ns=(times.st_atime_ns, times.st_mtime_ns))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
