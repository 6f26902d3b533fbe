"""Time and memory of difference-in-means and ridge probes of many concepts, with 5 folds of genes.

    .venv/bin/python benchmarks/probes.py                # 12 layers x 1,000 concepts x 500,000 tokens, d 512
    .venv/bin/python benchmarks/probes.py --layers 2     # and what 12 would take
    .venv/bin/python benchmarks/probes.py --tokens 50000 --concepts 100 --d 128 --layers 1

The time is linear in the layers: each is read, fitted and scored by itself. A layer is what rule `fit_probes`
does: tokens from a compressed store of float16 twice (training and validation, then test), the exact fits
with all genes and without each fold, ridge's strength chosen on validation (five strengths, nested), permuted
membership through all of it, and AP, AUROC, precision and intervals on held-out genes and on held-out cells.
Tokens are made up; one store serves all layers. Splits are 60/20/20 by cells.

The floor counts the two products that cannot be avoided: x xᵀ over training and validation tokens (half of
it, by symmetry), and the test tokens with every direction (2 kinds x real and permuted x with all genes and
without a fold), at the speed of this machine's float32 products of that shape.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
TOKENS_OF_CELL = 250
SETTINGS = {
    "kinds": ["difference", "ridge"], "gene_folds": 5, "min_genes": 10, "bootstrap": 1000, "legacy": False,
    "ridge": {"strengths": [0.001, 0.01, 0.1, 1, 10]},
}  # fmt: skip


def write_store(path: Path, arguments: argparse.Namespace):
    """Write made-up tokens of one layer; return the sample, the labels of blocks, and the membership."""
    import numpy as np
    from scipy import sparse

    from interptfm import store
    from interptfm.features.tokens import Sample

    rng = np.random.default_rng(0)
    cells = max(20, arguments.tokens // TOKENS_OF_CELL)
    per_cell = min(arguments.tokens // cells, arguments.genes)
    tokens = cells * per_cell
    base = rng.standard_normal((arguments.genes, arguments.d), dtype=np.float32)
    common = rng.exponential(size=arguments.genes)
    attributes = {"sample": "s1", "model": "made up"}
    with store.ActivationWriter(path, [0], tokens, cells, arguments.d, "float16", attributes, 6) as writer:
        for first in range(0, cells, 40):
            group = range(first, min(first + 40, cells))
            gene = np.concatenate(
                [np.argsort(rng.exponential(size=arguments.genes) / common)[:per_cell] for _ in group]
            )
            x = base[gene] + rng.standard_normal((len(gene), arguments.d), dtype=np.float32)
            writer.write(gene, np.repeat(list(group), per_cell), np.ones(len(gene)), {0: x})
            writer.write_cls(first, np.zeros((1, len(group), arguments.d), np.float32))
    blocks = np.arange(cells) // 20
    split = rng.choice(3, blocks[-1] + 1, p=[0.6, 0.2, 0.2]).astype(np.int8)
    split[:3] = [0, 1, 2]
    names = np.array([f"s1:1_{i}" for i in range(cells)])
    sample = Sample(np.arange(arguments.genes, dtype=np.int32), split[blocks], names)
    size = rng.integers(10, max(11, arguments.genes // 8), arguments.concepts)
    members = np.zeros((arguments.concepts, arguments.genes), np.float32)
    for row, n in zip(members, size, strict=True):
        row[rng.choice(arguments.genes, n, replace=False)] = 1
    return sample, np.char.add("s1:", blocks.astype(str)), sparse.csr_matrix(members)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Return seconds (wall and CPU) of all layers in this process, the floor, and the products' speed."""
    import numpy as np

    from interptfm.probes import fitting

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.zarr.zip"
        sample, blocks, members = write_store(path, arguments)
        genes = [f"G{i}" for i in range(arguments.genes)]
        terms = [f"T{i}" for i in range(arguments.concepts)]
        start, cpu = time.monotonic(), time.process_time()
        for _ in range(arguments.layers):
            fitting.fit_layer(
                [path], {"s1": sample}, genes, 0, members, terms, {"s1": blocks}, SETTINGS, 1, "made up"
            )
        seconds = {"seconds": time.monotonic() - start, "cpu": time.process_time() - cpu}
    a = np.ones((4 * arguments.concepts, arguments.d), np.float32)
    b = np.ones((16384, arguments.d), np.float32)
    a @ b.T
    begun, rounds = time.monotonic(), 5
    for _ in range(rounds):
        a @ b.T
    speed = rounds * 2 * a.size * len(b) / (time.monotonic() - begun)
    fitted, scored = 0.8 * arguments.tokens, 0.2 * arguments.tokens
    products = fitted * arguments.d**2 + 2 * scored * arguments.d * 8 * arguments.concepts
    return {**seconds, "floor": arguments.layers * products / speed, "gflops": speed / 1e9}


def apart(arguments: argparse.Namespace) -> dict[str, float]:
    """Return what :func:`measure` gives in a process of its own, and that process's peak memory in GB."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        for variable in THREADS:
            os.environ[variable] = str(arguments.threads)
        with os.fdopen(write, "w") as pipe:
            json.dump(measure(arguments), pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"the measured process ended with status {status}")
    return {**json.loads(text), "peak_gb": usage.ru_maxrss * 1024 / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = {"layers": 12, "concepts": 1000, "tokens": 500_000, "d": 512, "genes": 960, "threads": 2}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    found = apart(arguments)
    print(
        "layers  concepts   tokens    d  genes  threads  all (s)  CPU (s)  floor (s)  x floor  GFLOP/s  "
        "peak (GB)"
    )
    print(
        f"{arguments.layers:6d} {arguments.concepts:9d} {arguments.tokens:8d} {arguments.d:4d} "
        f"{arguments.genes:6d} {arguments.threads:8d} {found['seconds']:8.1f} {found['cpu']:8.1f} "
        f"{found['floor']:10.1f} {found['seconds'] / found['floor']:8.1f} {found['gflops']:8.0f} "
        f"{found['peak_gb']:10.2f}"
    )
    if arguments.layers < defaults["layers"]:
        per_layer = found["seconds"] / arguments.layers
        print(f"{per_layer:.1f} s a layer: {defaults['layers']} layers would take {12 * per_layer:.0f} s")


if __name__ == "__main__":
    main()
