"""Time and memory of crosstalk: against the published loop over edges, and at the size of a section.

    .venv/bin/python benchmarks/crosstalk.py                     # all three
    .venv/bin/python benchmarks/crosstalk.py --only loop         # or channels, or pairs

`loop`: the published definition (12 nearest neighbours, w = exp(-d²/σ²) with σ the median distance, min(z_i,
z_j) clipped at 0, 8 channels) edge by edge in Python, and the same numbers from arrays; both compute the same
scores. `channels`: edges and 1,000 permutations of 8 channels on 81,000 cells with 12 neighbours, between 3
compartments. `pairs`: 400 × 400 concept pairs with 200 permutations on 81,000 cells. Each runs in a process
of its own, whose peak memory is read from the system when it ends; cells are made up, and making them is not
timed.
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


def cells(n: int, columns: int, types: int, seed: int = 0):
    """Return places (µm, 3,000 cells a FOV), FOV, type, depth and activities: half type, half noise."""
    import numpy as np

    rng = np.random.default_rng(seed)
    fovs = max(1, n // 3000)
    fov = np.sort(rng.integers(0, fovs, n))
    xy = rng.uniform(0, (980, 680), (n, 2)) + np.column_stack([fov % 5 * 980, fov // 5 * 680])
    kind = rng.integers(0, types, n)
    values = rng.standard_normal((types, columns)).astype(np.float32)[kind] / 2
    values += rng.standard_normal(values.shape, dtype=np.float32)
    depth = rng.lognormal(np.log(180), 0.5, n)
    return xy, fov, kind, depth, values


def published(z, neighbour, distance, sigma):
    """Score every edge in Python, as published; return the scores (cells · 12 × channels)."""
    import numpy as np

    scores = []
    for i in range(len(z)):
        for k in range(1, 13):
            j = neighbour[i, k]
            w = np.exp(-(distance[i, k] ** 2) / sigma**2)
            row = []
            for c in range(z.shape[1]):
                row.append(w * max(min(z[i, c], z[j, c]), 0.0))
            scores.append(row)
    return np.array(scores)


def loop(arguments: argparse.Namespace) -> dict[str, float]:
    """Time the published loop and the arrays on the same edges; both give the same scores."""
    import numpy as np
    from scipy.spatial import cKDTree

    from interptfm.crosstalk import graphs, scores
    from interptfm.crosstalk.fields import standardised

    xy, _, _, _, values = cells(arguments.loop_cells, 8, 8)
    z = standardised(values)
    start = time.perf_counter()
    distance, neighbour = cKDTree(xy).query(xy, k=13)
    search = time.perf_counter() - start
    sigma = float(np.median(distance[:, 1:]))
    start = time.perf_counter()
    slow = published(z, neighbour, distance, sigma)
    looped = time.perf_counter() - start
    here = np.repeat(np.arange(len(xy), dtype=np.int32), 12)
    other, length = neighbour[:, 1:].ravel().astype(np.int32), distance[:, 1:].ravel().astype(np.float32)
    weights = graphs.Weights("gaussian", sigma / np.sqrt(2))
    scored, whole = [], []
    for _ in range(9):
        start = time.perf_counter()
        same = graphs.Graph(len(xy), here, other, length, weights.of(length), {})
        fast = scores.shared(z, same)
        scored.append(time.perf_counter() - start)
        start = time.perf_counter()
        made = graphs.build(xy, np.zeros(len(xy)), graphs.Nearest(12, "union"), weights)
        scores.shared(z, made)
        whole.append(time.perf_counter() - start)
    assert np.allclose(slow, fast, atol=1e-5)
    return {
        "cells": len(xy), "edges": len(here), "published_s": looped, "ours_s": min(scored),
        "ratio": looped / min(scored), "published_with_search_s": looped + search,
        "ours_with_graph_s": min(whole),
        "ratio_with_graph": (looped + search) / min(whole),
    }  # fmt: skip


def channels(arguments: argparse.Namespace) -> dict[str, float]:
    """Time edges, scores and permutations of 8 channels between compartments."""
    import numpy as np

    from interptfm.crosstalk import channels as tests
    from interptfm.crosstalk import graphs, nulls, scores

    xy, fov, kind, depth, values = cells(arguments.cells, 8, 12)
    compartment = np.random.default_rng(1).integers(0, 3, len(xy))
    start = time.perf_counter()
    graph = graphs.build(xy, np.zeros(len(xy)), graphs.Nearest(12), graphs.Weights())
    tissue = nulls.Tissue(values, kind, [f"type {t}" for t in range(12)], fov, fov, depth, xy, graph.matrix())
    scores.shared(tissue.z, graph)

    def draws(name: str):
        return np.random.default_rng(len(name))

    made = tests.channel_nulls(tissue, arguments.permutations, 1, 50, 50, draws, ())
    tests.test_channels(
        tissue, graph, compartment, made, min_edges=50, draws=200, level="compartments", make=draws,
        shuffle=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return {
        "cells": len(xy),
        "edges": len(graph.i),
        "permutations": arguments.permutations,
        "seconds": seconds,
    }


def pairs(arguments: argparse.Namespace) -> dict[str, float]:
    """Time all concept pairs over all cells together."""
    import numpy as np

    from interptfm.crosstalk import graphs, nulls

    n = arguments.concepts
    xy, fov, _, depth, values = cells(arguments.cells, n, 1)
    start = time.perf_counter()
    graph = graphs.build(xy, np.zeros(len(xy)), graphs.Nearest(12), graphs.Weights())
    tissue = nulls.Tissue(values, np.zeros(len(xy), int), ["all"], fov, fov, depth, xy, graph.matrix())
    table, _, _ = nulls.test_pairs(
        tissue, permutations=arguments.pair_permutations, match_um=50, shortest_um=50, min_edges=50,
        max_r=0.5,
        draws=lambda name: np.random.default_rng(len(name)), others=(), kept=0,
    )  # fmt: skip
    return {"cells": len(xy), "pairs": len(table), "permutations": arguments.pair_permutations,
            "seconds": time.perf_counter() - start}  # fmt: skip


PARTS = {"loop": loop, "channels": channels, "pairs": pairs}


def apart(arguments: argparse.Namespace, name: str) -> dict[str, float]:
    """Return what a part gives in a process of its own, and that process's peak memory in GB."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        for variable in THREADS:
            os.environ[variable] = str(arguments.threads)
        with os.fdopen(write, "w") as pipe:
            json.dump(PARTS[name](arguments), pipe)
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
    for name, default in (
        ("cells", 81_000),
        ("loop-cells", 5_000),
        ("permutations", 1000),
        ("concepts", 400),
        ("pair-permutations", 200),
        ("threads", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", choices=list(PARTS))
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else PARTS:
        found = apart(arguments, name)
        print(name + ":", ", ".join(f"{key} {value:,.4g}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
