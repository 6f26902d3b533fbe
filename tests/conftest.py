"""Shared fixtures: the library on the path, threads bounded, the real data where it is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "2")

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project folder."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data (``INTERPTFM_REAL_DATA``), or a skip that says it is absent."""
    folder = Path(os.environ.get("INTERPTFM_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "cosmx_nsclc_mini").is_dir():
        pytest.skip(f"real data absent: no cosmx_nsclc_mini in {folder} (set INTERPTFM_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def project(root, tmp_path_factory) -> Path:
    """A copy of the project in which the small workflow has run to its end."""
    from planning import snakemake

    folder = tmp_path_factory.mktemp("project")
    for part in ("workflow", "scripts", "config", "resources", "envs", "tests"):
        shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


# What a machine may lack without its tests being worth less: the reasons that skips give begin so.
EXCUSED = ("no GPU", "real data absent")
_unexcused: list[str] = []


def pytest_runtest_logreport(report) -> None:
    """Note skips that CI does not excuse; under pytest-xdist this runs where the workers report to."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(EXCUSED):
            _unexcused.append(f"{report.nodeid}: {reason}")


def pytest_collectreport(report) -> None:
    """A module may skip as a whole, while it is imported."""
    pytest_runtest_logreport(report)


def pytest_sessionfinish(session, exitstatus) -> None:
    """With INTERPTFM_STRICT (set by .ci/run) a skip for any other reason fails the session."""
    if _unexcused and os.environ.get("INTERPTFM_STRICT") and not hasattr(session.config, "workerinput"):
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter) -> None:
    """Name the skips that failed the session."""
    if _unexcused and os.environ.get("INTERPTFM_STRICT"):
        terminalreporter.section("skips that are not excused", red=True)
        for line in _unexcused:
            terminalreporter.line(line)
