"""``environments.<family>``: the rules of a family run in the Python that the configuration names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
import yaml

from interptfm import store

RULES = ["simulate", "ingest"]


@pytest.fixture
def project(root, tmp_path):
    """A copy of the project, and a wrapper around this Python that notes what it was started with."""
    for part in ("workflow", "scripts", "config", "resources", "envs", "tests"):
        shutil.copytree(root / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    wrapper = tmp_path / "other_python"
    wrapper.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/used.txt\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    return tmp_path


def snakemake(folder, environments, *arguments):
    (folder / "overlay.yaml").write_text(
        yaml.safe_dump({"simulate": {"cells": 200, "fovs_per_section": 1}, "environments": environments})
    )
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "tests/tiny.yaml"]
    done = subprocess.run(
        [*command, "overlay.yaml", "--nocolor", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_family_runs_in_its_python_and_gives_the_same(project):
    results = project / "results/tiny"
    code, text = snakemake(project, {"model": "./other_python"}, "cells")
    assert code == 0, text
    assert not (project / "used.txt").exists(), "another family's Python was used"
    before = {path.name: store.digest(path) for path in (results / "cells").iterdir()}
    shutil.rmtree(results)
    code, text = snakemake(project, {"data": "./other_python"}, "cells")
    assert code == 0, text
    used = (project / "used.txt").read_text().splitlines()
    assert sorted(re.search(r"\.(\w+)\.py$", path).group(1) for path in used) == sorted([*RULES, "ingest"])
    assert {path.name: store.digest(path) for path in (results / "cells").iterdir()} == before
    assert "rule simulate runs in ./other_python" in (results / "logs/simulate.log").read_text()
    # Another Python is no reason to run anything again.
    code, text = snakemake(project, {}, "cells", "--dry-run")
    assert code == 0 and "Nothing to be done" in text, text


def test_a_python_that_is_not_there_stops_the_run_before_any_job(project):
    code, text = snakemake(project, {"report": "nowhere/bin/python"}, "--dry-run")
    assert code == 1 and "Traceback" not in text
    assert (
        "interpTFM: configuration: key 'environments.report': found no executable nowhere/bin/python" in text
    )
