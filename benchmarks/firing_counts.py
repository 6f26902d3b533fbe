"""Firing-count F1 against the dense formula: the same counts, how much faster, in how much less memory.

Dense, as in the published pipeline: codes / maximum compared with every threshold gives a float
tensor thresholds × tokens × features, and two matrix products with the labels (tokens × concepts)
and their complement give TP and FP; the whole at once ("dense"), or 250 features at a time
("dense in chunks"). Firing counts: codes counted by gene, then one product with the membership,
through the library's own functions.

Method: inputs are made once and saved; each method runs in a fresh process that loads its inputs
(dense: dense codes and dense labels; firing counts: CSR codes, genes, membership), allocates and
touches its outputs TP, FP and FN and warms up on a few rows. Time is the best of ``--repeats`` runs
by the wall clock (and, for a busy machine, by processor time over all threads). Memory is the
process' high-water mark of resident memory (getrusage) after the first run, less its resident
memory just before: what is needed beyond inputs and outputs. The counts are compared by a digest of
all three arrays.

    python benchmarks/firing_counts.py
    python benchmarks/firing_counts.py --tokens 2000 --features 512 --concepts 100 --json out.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

THRESHOLDS = (0.0, 0.15, 0.5, 0.6, 0.8)
METHODS = ("dense", "dense_in_chunks", "firing_counts")
DENSE_CHUNK = 250
CHUNK = 32


def make_inputs(folder: Path, options: argparse.Namespace) -> None:
    """Write random codes, genes and membership, each in the form that a method takes."""
    rng = np.random.default_rng(options.seed)
    n, n_features, active = options.tokens, options.features, options.active
    frequency = rng.lognormal(sigma=1.2, size=options.genes)
    gene = rng.choice(options.genes, n, p=frequency / frequency.sum()).astype(np.int32)
    feature = np.concatenate([np.sort(rng.choice(n_features, active, replace=False)) for _ in range(n)])
    value = rng.exponential(size=n * active).astype(np.float32)
    codes = sparse.csr_matrix((value, feature, np.arange(n + 1) * active), shape=(n, n_features))
    membership = sparse.random(options.genes, options.concepts, options.density, "csr", rng=rng).astype(bool)
    sparse.save_npz(folder / "codes.npz", codes, compressed=False)
    sparse.save_npz(folder / "membership.npz", membership, compressed=False)
    np.save(folder / "gene.npy", gene)
    np.save(folder / "codes.npy", codes.toarray())
    np.save(folder / "labels.npy", membership.toarray()[gene].astype(np.float32))
    np.save(folder / "maximum.npy", codes.max(axis=0).toarray().ravel())


def dense(codes, labels, maximum, out, chunk: int | None = None) -> None:
    """Fill TP, FP, FN (thresholds × features × concepts) by the dense formula, in torch."""
    import torch

    thresholds = torch.tensor(THRESHOLDS)[:, None, None]
    n_features, negatives = codes.shape[1], 1 - labels
    positives = labels.sum(dim=0)
    step = chunk or n_features
    for start in range(0, n_features, step):
        stop = min(start + step, n_features)
        scaled = codes[:, start:stop] / maximum[start:stop].clamp(min=torch.finfo(torch.float32).tiny)
        fired = (scaled[None] > thresholds).float().transpose(1, 2)
        out[0][:, start:stop] = torch.matmul(fired, labels)
        out[1][:, start:stop] = torch.matmul(fired, negatives)
        out[2][:, start:stop] = positives - out[0][:, start:stop]


def firing_counts(codes, gene, membership, maximum, out) -> None:
    """Fill TP, FP, FN (concepts × features · thresholds) from counts by gene."""
    from interptfm.alignment.selection import true_positives
    from interptfm.features.firing import cumulate, cuts, scatter

    n_genes, n_features = membership.shape[0], codes.shape[1]
    members = membership.T.tocsr().astype(np.float32)
    positives = (members @ np.bincount(gene, minlength=n_genes).astype(np.float32))[:, None]
    cut, codes = cuts(maximum, THRESHOLDS), codes.tocsc()
    for start in range(0, n_features, CHUNK):
        stop = min(start + CHUNK, n_features)
        entries = slice(codes.indptr[start], codes.indptr[stop])
        feature = np.repeat(np.arange(stop - start), np.diff(codes.indptr[start : stop + 1]))
        table = np.zeros((n_genes, stop - start, len(THRESHOLDS)), np.float32)
        scatter(table, gene[codes.indices[entries]], feature, codes.data[entries], cut[:, start:stop])
        fired = cumulate(table).reshape(n_genes, -1)
        columns = slice(start * len(THRESHOLDS), stop * len(THRESHOLDS))
        tp = true_positives(members, fired)
        out[0][:, columns] = tp
        np.subtract(fired.sum(axis=0), tp, out=out[1][:, columns])
        np.subtract(positives, tp, out=out[2][:, columns])


def resident_bytes() -> int:
    """Return the resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def high_water_bytes() -> int:
    """Return the largest resident memory that this process has had (kilobytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(method: str, folder: Path, threads: int, repeats: int) -> dict[str, Any]:
    """Run one method in this process and return its seconds, bytes and the digest of its counts."""
    maximum = np.load(folder / "maximum.npy")
    if method == "firing_counts":
        codes, membership = (sparse.load_npz(folder / f"{name}.npz") for name in ("codes", "membership"))
        gene = np.load(folder / "gene.npy")
        shape = (membership.shape[1], codes.shape[1] * len(THRESHOLDS))
        out = [np.full(shape, -1, np.float32) for _ in range(3)]
        firing_counts(codes[:8], gene[:8], membership, maximum, out)

        def run() -> None:
            firing_counts(codes, gene, membership, maximum, out)
    else:
        import torch

        torch.set_num_threads(threads)
        codes, labels = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("codes", "labels"))
        peak = torch.from_numpy(maximum)
        shape = (len(THRESHOLDS), codes.shape[1], labels.shape[1])
        out = [torch.full(shape, -1.0) for _ in range(3)]
        chunk = DENSE_CHUNK if method == "dense_in_chunks" else None
        dense(codes[:8], labels[:8], peak, out, DENSE_CHUNK)

        def run() -> None:
            dense(codes, labels, peak, out, chunk)

    before, high_before = resident_bytes(), high_water_bytes()
    seconds, processor, extra = [], [], 0
    for repeat in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
        if repeat == 0:
            extra = high_water_bytes() - before
    hasher = hashlib.sha256()
    for array in map(np.asarray, out):
        if method != "firing_counts":
            array = array.transpose(2, 1, 0)
        hasher.update(np.ascontiguousarray(array.astype(np.int32)).tobytes())
    return {
        "method": method,
        "seconds": min(seconds),
        "all_seconds": seconds,
        "processor_seconds": min(processor),
        "extra_bytes": extra,
        # The mark can only be trusted where loading had not pushed it above what stays resident.
        "loading_excess_bytes": max(0, high_before - before),
        "digest": hasher.hexdigest(),
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every method in a process of its own and return the measurements with their ratios."""
    names = ("tokens", "features", "concepts", "genes", "active", "density", "seed", "threads", "repeats")
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads)),
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make_inputs(Path(folder), options)
        found = {}
        for method in METHODS:
            command = [sys.executable, __file__, "--measure", method, "--folder", folder]
            command += ["--threads", str(options.threads), "--repeats", str(options.repeats)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            found[method] = json.loads(done.stdout)
    ours = found["firing_counts"]
    return {
        "settings": {name: getattr(options, name) for name in names} | {"thresholds": list(THRESHOLDS)},
        "methods": list(found.values()),
        "identical_counts": len({result["digest"] for result in found.values()}) == 1,
        "times_faster": {name: found[name]["seconds"] / ours["seconds"] for name in METHODS[:2]},
        "times_faster_processor": {
            name: found[name]["processor_seconds"] / ours["processor_seconds"] for name in METHODS[:2]
        },
        "memory_share": {
            name: ours["extra_bytes"] / max(1, found[name]["extra_bytes"]) for name in METHODS[:2]
        },
    }


def table(result: dict[str, Any]) -> str:
    """Return the comparison as text."""
    size = result["settings"]
    columns = ("seconds", "cpu s", "extra MB", "x faster", "(by cpu)", "memory share")
    lines = [
        f"{size['tokens']} tokens x {size['features']} features x {size['concepts']} concepts x "
        f"{len(size['thresholds'])} thresholds, {size['threads']} threads",
        f"{'method':<18}" + "".join(f"{name:>14}" for name in columns),
    ]
    for row in result["methods"]:
        name = row["method"]
        numbers = [f"{row['seconds']:.3f}", f"{row['processor_seconds']:.3f}"]
        numbers.append(f"{row['extra_bytes'] / 1e6:.1f}")
        if name in result["times_faster"]:
            numbers += [f"{result[key][name]:.1f}" for key in ("times_faster", "times_faster_processor")]
            numbers.append(f"{result['memory_share'][name]:.4f}")
        lines.append(f"{name:<18}" + "".join(f"{number:>14}" for number in numbers))
    lines.append(f"identical counts: {result['identical_counts']}")
    return "\n".join(lines)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("tokens", 20_000), ("features", 4096), ("concepts", 1000), ("genes", 960)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--active", type=int, default=32, help="non-zero codes a token")
    parser.add_argument("--density", type=float, default=0.03, help="share of gene-concept pairs that belong")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the measurements here")
    parser.add_argument("--folder", type=Path, help="where temporary inputs go")
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> dict[str, Any]:
    """Run the comparison, print it, and return it."""
    options = arguments(given)
    if options.measure:
        result = measure(options.measure, options.folder, options.threads, options.repeats)
        print(json.dumps(result))
        return result
    result = compare(options)
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
