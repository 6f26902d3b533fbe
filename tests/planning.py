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


def plan(configs: list[str], targets: list[str]) -> dict[str, int] | str:
    """Dry-run in a fork of this process, in the current folder."""
    from snakemake import cli

    with tempfile.TemporaryFile("w+") as out:
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
        _, status = os.waitpid(child, 0)
        out.seek(0)
        text = out.read()
    return planned(text) if status == 0 else text[-3000:]


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
    found = {}
    for name, case in json.loads(Path(sys.argv[2]).read_text()).items():
        edited = Path("scripts/interptfm", case["edit"]) if case.get("edit") else None
        if edited:
            before, times = edited.read_bytes(), edited.stat()
            edited.write_bytes(before + b"\n# edited\n")
        try:
            found[name] = plan(case["configs"], case.get("targets", []))
        finally:
            if edited:
                edited.write_bytes(before)
                os.utime(edited, ns=(times.st_atime_ns, times.st_mtime_ns))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
