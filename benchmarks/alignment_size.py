"""Alignment at the published size, by simulation: counting, permutations, memory, and the dense formula.

500,000 tokens × 4,096 features × 2,885 concepts × 5 thresholds over 957 genes, 50 active features a token.
"counting" adds blocks of sparse codes to the firing counts and sums; "encoder" is the matrix product of the
same tokens (d = 512) with the encoder's weights in torch, nothing else. "permutations" repeats the whole
selection on held-out cells and on held-out genes; beside the wall clock stands processor time, for a machine
that others use, too. The dense formula of the published pipeline (thresholds × tokens × features, two
products) is timed on few tokens and features, and its cost at full size is EXTRAPOLATED linearly.

    python benchmarks/alignment_size.py
    python benchmarks/alignment_size.py --tokens 100000 --permutations 5
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

THRESHOLDS = (0.0, 0.15, 0.5, 0.6, 0.8)
BLOCK = 8192
D = 512


def peak_mb() -> float:
    """Return the largest resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def codes_of(rng: np.random.Generator, n: int, options: argparse.Namespace) -> sparse.csr_matrix:
    """Return random codes of a block, CSR with ``active`` a token."""
    offset = rng.integers(options.features, size=(n, 1))
    # Distinct features of a token without a draw for each: steps through them from a random start.
    step = 2 * rng.integers(options.features // 2, size=(n, 1)) + 1
    feature = np.sort((offset + step * np.arange(options.active)) % options.features, axis=1)
    value = rng.random((n, options.active), dtype=np.float32)
    ends = np.arange(n + 1) * options.active
    return sparse.csr_matrix((value.ravel(), feature.ravel(), ends), shape=(n, options.features))


def counting(options: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    """Count all tokens block by block; return the firing counts and the seconds of counting and encoder."""
    import torch

    from interptfm.features import Firing, FiringCounter

    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    frequency = rng.lognormal(sigma=1.2, size=options.genes)
    weights = torch.from_numpy(rng.standard_normal((D, options.features), dtype=np.float32))
    counter = FiringCounter(options.genes, np.ones(options.features, np.float32), THRESHOLDS)
    seconds = {"counting": 0.0, "encoder": 0.0}
    done = 0
    while done < options.tokens:
        n = min(BLOCK, options.tokens - done)
        codes = codes_of(rng, n, options)
        gene = rng.choice(options.genes, n, p=frequency / frequency.sum())
        split = rng.integers(0, 3, n).astype(np.int8)
        x = torch.from_numpy(rng.standard_normal((n, D), dtype=np.float32))
        started = time.perf_counter()
        counter.add(gene, split, codes)
        seconds["counting"] += time.perf_counter() - started
        started = time.perf_counter()
        torch.relu(x @ weights)
        seconds["encoder"] += time.perf_counter() - started
        done += n
    genes = [f"G{i}" for i in range(options.genes)]
    sums = counter.sums()
    return Firing(*counter.result(), genes, list(THRESHOLDS), {}, sums), seconds


def permutations(firing: Any, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of laying out and of the permutations, on held-out cells and genes."""
    from interptfm.alignment.genes import HeldOutGenes, folds_of
    from interptfm.alignment.null import null_distribution, strata_of
    from interptfm.alignment.selection import Search, Split

    rng = np.random.default_rng(options.seed + 1)
    shape = (options.concepts, options.genes)
    members = sparse.random(*shape, options.density, "csr", rng=rng, dtype=np.float32)
    members.data[:] = 1
    started = time.perf_counter()
    validation, test = (Split(firing.counts[i], firing.tokens[i]) for i in (1, 2))
    search = Search(validation)
    frequency = firing.tokens.sum(axis=0)
    fold = folds_of(frequency, 5, rng)
    held = HeldOutGenes(validation, test, fold, firing.sums[1], firing.sums[2])
    large = np.flatnonzero(np.diff(members.indptr) >= 10)
    strata = strata_of(frequency, 10)
    laid_out = time.perf_counter() - started
    seconds, processor = {}, {}
    for name, extra in (("cells", ()), ("cells_and_genes", (held, large))):
        started, used = time.perf_counter(), time.process_time()
        null_distribution(search, test, members, strata, options.permutations, rng, *extra)
        seconds[name] = (time.perf_counter() - started) / options.permutations
        processor[name] = (time.process_time() - used) / options.permutations
    return {
        "layout_s": laid_out,
        "one_permutation_cells_s": seconds["cells"],
        "one_permutation_cells_and_genes_s": seconds["cells_and_genes"],
        "n_concepts_on_held_out_genes": len(large),
        "permutations_200_s": 200 * seconds["cells_and_genes"],
        "permutations_200_processor_s": 200 * processor["cells_and_genes"],
    }


def dense(options: argparse.Namespace, tokens: int = 2000, features: int = 250) -> dict[str, float]:
    """Time the dense formula at a size it can bear, and extrapolate to the full one."""
    import torch

    rng = np.random.default_rng(options.seed)
    codes = torch.from_numpy(rng.random((tokens, features), dtype=np.float32))
    labels = torch.from_numpy((rng.random((tokens, options.concepts)) < options.density).astype(np.float32))
    started = time.perf_counter()
    levels = torch.tensor(THRESHOLDS)[:, None, None]
    fired = (codes[None] > levels).float().transpose(1, 2)
    torch.matmul(fired, labels), torch.matmul(fired, 1 - labels)
    seconds = time.perf_counter() - started
    factor = options.tokens / tokens * options.features / features
    return {"dense_measured_s": seconds, "dense_extrapolated_h": seconds * factor / 3600}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = (("tokens", 500_000), ("features", 4096), ("concepts", 2885), ("genes", 957), ("active", 50))
    for name, value in (*sizes, ("permutations", 10), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--density", type=float, default=0.028, help="share of pairs that belong")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="also write the measurements here")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> dict[str, Any]:
    """Run, print and return the measurements."""
    options = arguments(given)
    firing, seconds = counting(options)
    result: dict[str, Any] = {"counting_s": seconds["counting"], "encoder_s": seconds["encoder"]}
    result["counting_over_encoder"] = seconds["counting"] / seconds["encoder"]
    result["peak_mb_after_counting"] = peak_mb()
    result |= permutations(firing, options)
    result["peak_mb"] = peak_mb()
    result |= dense(options)
    for name, value in result.items():
        print(f"{name:<38}{value:12.3f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
