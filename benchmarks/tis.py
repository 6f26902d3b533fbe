"""Time and memory of the TIS of all units of a section, with every control, judge and interval.

    .venv/bin/python benchmarks/tis.py                                  # 81,000 cells x (512 + 4,096) units
    .venv/bin/python benchmarks/tis.py --scaling                        # over cells and over units
    .venv/bin/python benchmarks/tis.py --cells 3000 --cls 32 --features 64 --genes 200

Two spaces, each in a process of its own as in the workflow: `<cls>` dimensions (dense) and dictionary
features (a tenth of the cells active). Cells are made up: 12 types, 960 genes, depths as of CosMx. The null
has as many shuffled units as the workflow would draw. A process's peak memory is read from the system when it
ends; making the cells counts towards the memory, not the time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
SETTINGS = {
    "similarity": "cosine", "embedding": None, "references": 9, "quantile": 0.2, "shuffles": None,
    "controls": 64, "components": 20, "bootstrap": 200, "legacy": False,
    "matched": {"cell_type": True, "depth_strata": 1, "depth_quantile": 0.1},
}  # fmt: skip


def section(cells: int, genes: int, seed: int = 0):
    """Return made-up cells: types, blocks of about 100 cells, log-normal depths around 200 counts."""
    import numpy as np
    import pandas as pd
    from scipy import sparse

    from interptfm.tis.units import Cells

    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 12, cells)
    profiles = rng.gamma(0.6, 1, (12, genes))
    profiles /= profiles.sum(1, keepdims=True)
    depth = rng.lognormal(np.log(180), 0.5, cells)
    parts = []
    for start in range(0, cells, 10_000):
        rows = slice(start, start + 10_000)
        counts = rng.poisson(profiles[kind[rows]] * depth[rows, None])
        parts.append(sparse.csr_matrix(counts.astype(np.float32)))
    matrix = sparse.vstack(parts, format="csr")
    split = rng.choice(["train", "validation", "test"], cells, p=[0.6, 0.2, 0.2])
    obs = pd.DataFrame(
        {"sample": "s1", "cell_type": [f"type {t}" for t in kind], "split": split,
         "block": [f"b{b}" for b in rng.integers(0, max(2, cells // 100), cells)]},
        index=[f"s1:1_{i}" for i in range(cells)],
    )  # fmt: skip
    return Cells(matrix, [f"G{i}" for i in range(genes)], obs, rng.uniform(0, 5000, (cells, 2))), kind


def space(name: str, kind, n: int, seed: int = 1):
    """Return ``n`` units: half of every unit is the type, half is noise; ``features`` are sparse."""
    import numpy as np
    from scipy import sparse

    rng = np.random.default_rng(seed)
    if name == "cls":
        dense = rng.standard_normal((12, n)).astype(np.float32)[kind]
        dense += rng.standard_normal(dense.shape, dtype=np.float32)
        return dense
    rows = [rng.choice(len(kind), len(kind) // 10, replace=False) for _ in range(n)]
    values = [rng.random(len(r), dtype=np.float32) + (kind[r] == rng.integers(12)) for r in rows]
    indptr = np.arange(n + 1) * (len(kind) // 10)
    parts = (np.concatenate(values, dtype=np.float32), np.concatenate(rows), indptr)
    return sparse.csc_matrix(parts, shape=(len(kind), n))


def measure(arguments: argparse.Namespace, name: str) -> float:
    """Score one space in this process; return the seconds."""
    import numpy as np

    from interptfm.tis import table

    cells, kind = section(arguments.cells, arguments.genes)
    everyone = np.ones(arguments.cells, bool)
    visible = np.arange(arguments.genes) % 2 == 0
    states = np.random.default_rng(2).standard_normal(
        (arguments.cells, min(arguments.cls, 512)), dtype=np.float32
    )
    held_out = table.HeldOut(states, everyone, visible)
    columns = space(name, kind, getattr(arguments, name))
    start = time.monotonic()
    evaluation = table.Evaluation(
        cells, everyone, {**SETTINGS, "tasks": arguments.tasks}, seed=1, name=name,
        threads=arguments.threads, held_out=held_out,
    )  # fmt: skip
    table.evaluate(evaluation, columns, 0)
    return time.monotonic() - start


def apart(arguments: argparse.Namespace, name: str) -> tuple[float, float]:
    """Return what :func:`measure` gives in a process of its own, and that process's peak memory in GB."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        for variable in THREADS:
            os.environ[variable] = str(arguments.threads)
        with os.fdopen(write, "w") as pipe:
            json.dump(measure(arguments, name), pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"the measured process ended with status {status}")
    return json.loads(text), usage.ru_maxrss * 1024 / 1e9


def settings_of(arguments: argparse.Namespace) -> list[argparse.Namespace]:
    if not arguments.scaling:
        return [arguments]
    shapes = [(n, 128, 512) for n in (5_000, 20_000, 81_000)] + [(20_000, c, 8 * c) for c in (32, 256)]
    return [
        argparse.Namespace(**{**vars(arguments), "cells": n, "cls": c, "features": f}) for n, c, f in shapes
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("cells", 81_000),
        ("cls", 512),
        ("features", 4096),
        ("genes", 960),
        ("tasks", 400),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scaling", action="store_true", help="several sizes, instead of one")
    print(
        "   cells  cls  features  genes  tasks  threads  cls (s)  peak (GB)  features (s)  peak (GB)  all (s)"
    )
    for chosen in settings_of(parser.parse_args()):
        (cls, cls_peak), (features, features_peak) = apart(chosen, "cls"), apart(chosen, "features")
        print(
            f"{chosen.cells:8d} {chosen.cls:4d} {chosen.features:9d} {chosen.genes:6d} {chosen.tasks:6d} "
            f"{chosen.threads:8d} {cls:8.1f} {cls_peak:10.2f} {features:13.1f} {features_peak:10.2f} "
            f"{cls + features:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
