"""Time and peak memory of reading a CosMx expression matrix, against the size of its CSR.

    python benchmarks/ingest_memory.py --cells 80000 --genes 960

Writes simulated flat files to a temporary folder, reads them in a fresh process and prints one JSON object:
peak resident memory above what it was after the imports, as a multiple of the CSR's bytes, and the seconds
taken. The exit code is 1 if the multiple reaches --bound.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

CELLS_PER_FOV = 4_000
FOV_UM = 700.0
PIXEL_UM = 0.12028
COUNTS_PER_CELL = 200


def write_flat_files(folder: Path, cells: int, genes: int, seed: int = 1) -> dict[str, str]:
    """Write an expression matrix (gzip) and metadata of ``cells`` × ``genes`` at CosMx depth.

    Gene means are log-normal and cell depths gamma, which gives about 200 counts and 90 genes a cell.
    Returns the paths by role.
    """
    rng = np.random.default_rng(seed)
    mean = rng.lognormal(sigma=1.9, size=genes)
    mean *= COUNTS_PER_CELL / mean.sum()
    fov = 1 + np.arange(cells) // CELLS_PER_FOV
    number = 1 + np.arange(cells) % CELLS_PER_FOV
    files = {
        "counts": str(folder / "big_exprMat_file.csv.gz"),
        "metadata": str(folder / "big_metadata_file.csv"),
    }
    with gzip.open(files["counts"], "wb", compresslevel=3) as stream:
        names = [f"GENE{k}" for k in range(genes)] + [f"NegPrb{k}" for k in range(20)]
        stream.write(("fov,cell_ID," + ",".join(names) + "\n").encode())
        for start in range(0, cells, 1000):
            rows = slice(start, min(start + 1000, cells))
            depth = rng.gamma(2.0, 0.5, size=len(fov[rows]))[:, None]
            counts = rng.poisson(depth * mean)
            probes = rng.poisson(0.02, size=(len(counts), 20))
            block = np.column_stack([fov[rows], number[rows], counts, probes])
            stream.write(("\n".join(",".join(map(str, row)) for row in block.tolist()) + "\n").encode())
    xy = rng.uniform(0, FOV_UM, size=(cells, 2)) + np.column_stack([FOV_UM * fov, np.zeros(cells)])
    with open(files["metadata"], "w") as stream:
        stream.write("fov,cell_ID,CenterX_global_px,CenterY_global_px\n")
        for f, c, (x, y) in zip(fov, number, xy / PIXEL_UM):
            stream.write(f"{f},{c},{x:.2f},{y:.2f}\n")
    return files


def measure(files: dict[str, str]) -> dict[str, float]:
    """Read the files in this process; return seconds, CSR bytes and peak bytes above the import baseline."""
    import anndata  # noqa: F401
    import pyarrow.csv  # noqa: F401
    import scipy.spatial  # noqa: F401

    from interptfm import cosmx

    baseline = _resident_bytes()
    started = time.perf_counter()
    cells, _ = cosmx.read_cells(files, "cosmx", PIXEL_UM)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - baseline
    csr = cells.X.data.nbytes + cells.X.indices.nbytes + cells.X.indptr.nbytes
    return {
        "cells": cells.n_obs,
        "genes": cells.n_vars,
        "genes_per_cell": round(cells.X.nnz / cells.n_obs, 1),
        "seconds": round(seconds, 2),
        "csr_bytes": csr,
        "peak_over_baseline_bytes": peak,
        "peak_over_csr": round(peak / csr, 2),
    }


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmRSS line; this benchmark needs Linux")


def run(cells: int, genes: int) -> dict[str, float]:
    """Write files, read them in a fresh process, return its measurements."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_flat_files(Path(folder), cells, genes)
        command = [sys.executable, __file__, "--measure", json.dumps(files)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=80_000)
    parser.add_argument("--genes", type=int, default=960)
    parser.add_argument(
        "--bound", type=float, default=3.0, help="largest peak allowed, in multiples of the CSR"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(json.loads(arguments.measure))))
        return
    result = run(arguments.cells, arguments.genes)
    print(json.dumps(result, indent=2))
    sys.exit(result["peak_over_csr"] >= arguments.bound)


if __name__ == "__main__":
    main()
