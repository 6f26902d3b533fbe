"""Shared fixtures: the library on the path, threads bounded, the real data where it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "2")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))


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
