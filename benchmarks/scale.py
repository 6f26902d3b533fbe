"""Time and peak memory of every rule on one simulated section of 960 genes, from 5,000 to 81,000 cells.

    .venv/bin/python benchmarks/scale.py FOLDER                 # runs what is missing, prints the table
    .venv/bin/python benchmarks/scale.py FOLDER --cells 5000    # one size
    .venv/bin/python benchmarks/scale.py FOLDER --no-run        # prints the table of what has run

FOLDER gets a copy of the workflow, so that no other run is touched. A small model is trained once, on 3,000
cells, and read as a checkpoint by every size. What costs a bounded amount whatever the size (training tokens,
permutations, resamplings, tasks) is the same for all sizes. Seconds of CPU and peak memory are those that
each job says at the end of its log (job.spent), wall seconds those of Snakemake's benchmark files: these look
at a long job every 30 s only, and miss what it uses in between.

Two exponents a rule. `slope`: of log CPU seconds on log cells, all sizes. Start-up (imports, a few seconds a
job) flattens it, hence `beyond start`: p of a + b cells^p through the three sizes, which is blind to
costs that do not grow; a dash where the seconds less than double from the smallest to the largest size,
since p would be a ratio of two noises. A stage is listed as worse than n log n where p exceeds the slope that
n log n has between the same sizes by more than 0.1, the noise of a shared machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
GENES = 960
SIZES = (5_000, 20_000, 81_000)
MODEL_CELLS = 3_000
SHARD_CELLS = 20_000
FOV_CELLS = 2_500
TARGETS = ("cells", "activations", "dictionaries", "alignment", "tis", "crosstalk")
MEMORY_MB = 16_000
# How far above n log n an exponent of timings on a shared machine may lie by chance.
NOISE = 0.1
# The last line of a job's log.
SPENT = re.compile(r"rule (\w+) finished in \S+ s, (\S+) s of CPU, peak memory (\d+) MB")
GROWS = 2.0

# Every stage of the issue once: one layer, one dictionary, no control arm, no other representation.
SETTINGS = {
    "model": {"embsize": 64, "nheads": 4, "d_hid": 64, "nlayers": 2, "pretrain": {"epochs": 4}},
    "activations": {"layers": [1]},
    "dictionaries": [
        {
            "name": "batchtopk",
            "architecture": "batchtopk",
            "n_features": 256,
            "k": 8,
            "training_tokens": 500_000,
            "batch_tokens": 2048,
            "buffer_bytes": 100_000_000,
        }
    ],
    "alignment": {"permutations": 20, "bootstrap": 100},
    "baselines": {"names": []},
    "reading": {"permutations": 20},
    "tis": {"tasks": 100, "shuffles": 100, "controls": 16, "components": 8, "bootstrap": 20},
    "regions": {"bootstrap": 20},
    "activity": {"bootstrap": 20},
    "crosstalk": {
        "nulls": {"permutations": {"channels": 50, "pairs": 20}},
        "claims": 500,
        "max_concepts": 20,
        "bootstrap": 20,
    },
    "arms": {"untrained": None, "svd_only": None, "genes_a": None},
    "extras": {
        "frontier": [],
        "arms": {
            name: None for name in ("seeds", "strength_0", "strength_0.5", "strength_2", "second_model")
        },
    },
}


@dataclass(frozen=True)
class Growth:
    """Exponents of a rule's CPU seconds in the number of cells; ``beyond`` is NaN where they hardly grow."""

    slope: float
    beyond: float


def growth(cells: Sequence[int], seconds: Sequence[float]) -> Growth:
    """Return the exponents from the seconds (sizes,) at two sizes or more, ascending.

    ``beyond`` takes three sizes and solves (t₃ − t₂)/(t₂ − t₁) = (n₃ᵖ − n₂ᵖ)/(n₂ᵖ − n₁ᵖ), which the constant
    drops out of.
    """
    from scipy.optimize import brentq

    n, t = np.asarray(cells, float), np.asarray(seconds, float)
    slope = float(np.polyfit(np.log(n), np.log(np.maximum(t, 1e-3)), 1)[0])
    if len(n) != 3 or t[-1] < GROWS * t[0] or not t[0] < t[1] < t[2]:
        return Growth(slope, float("nan"))
    wanted = np.log((t[2] - t[1]) / (t[1] - t[0]))

    def excess(p: float) -> float:
        x = n**p
        return float(np.log((x[2] - x[1]) / (x[1] - x[0])) - wanted)

    low, high = 0.01, 6.0
    if excess(low) > 0 or excess(high) < 0:
        return Growth(slope, low if excess(low) > 0 else high)
    return Growth(slope, float(brentq(excess, low, high)))


def n_log_n(cells: Sequence[int]) -> float:
    """Return the exponent that n log n shows as ``beyond start``, between these three sizes."""
    n = np.asarray(cells, float)
    return growth(cells, n * np.log(n)).beyond


def set_up(folder: Path) -> None:
    """Copy the workflow to ``folder``, with a panel filled up to :data:`GENES` genes that no term names."""
    for part in ("workflow", "scripts", "config", "resources", "envs"):
        if (folder / part).exists():
            shutil.rmtree(folder / part)
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    panel = folder / "resources/demo_ontology/panel.tsv"
    rows = panel.read_text().splitlines()
    rows += [f"FILLER{i}\t" for i in range(GENES - len(rows) + 1)]
    panel.write_text("\n".join(rows) + "\n")


def overlay(folder: Path, run: str, cells: int, checkpoint: str | None) -> str:
    """Write configuration and sample sheet of one size; return the configuration's path in ``folder``."""
    shards = max(1, round(cells / SHARD_CELLS))
    header = "sample\tpath\tformat\tdonor\tpixel_size_um\tcell_types\tshards"
    row = f"section\tsection\tcosmx\tdonor\t0.18\tsection/cell_types.csv\t{shards}"
    (folder / f"{run}_samples.tsv").write_text(f"{header}\n{row}\n")
    simulate = {"cells": cells, "fovs_per_section": max(1, cells // FOV_CELLS)}
    chosen = {"run": run, "samples": f"{run}_samples.tsv", "simulate": simulate, **SETTINGS}
    chosen["model"] = {**SETTINGS["model"], "checkpoint": checkpoint}
    (folder / f"{run}.yaml").write_text(json.dumps(chosen, indent=1))
    return f"{run}.yaml"


def snakemake(folder: Path, config: str, targets: Sequence[str]) -> None:
    """Run targets on two cores and 16 GB; what Snakemake says goes to ``<config>.log``."""
    command = [
        sys.executable, "-m", "snakemake", *targets, "--cores", "2", "--resources", f"mem_mb={MEMORY_MB}",
        "--configfile", config,
    ]  # fmt: skip
    log = folder / f"{config}.log"
    with open(log, "w") as file:
        done = subprocess.run(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"Snakemake failed:\n{log.read_text()[-3000:]}")


def measure(folder: Path, sizes: Sequence[int]) -> None:
    """Train the model, where there is none yet, and run every size; what is there is not made again."""
    checkpoint = "results/model/model"
    if not (folder / checkpoint).is_dir():
        set_up(folder)
        snakemake(folder, overlay(folder, "model", MODEL_CELLS, None), ["model"])
    for cells in sizes:
        snakemake(folder, overlay(folder, f"cells_{cells}", cells, checkpoint), TARGETS)


def jobs(folder: Path, run: str) -> pd.DataFrame:
    """Return one row a job of a run: rule, cpu (s), wall (s), peak_mb; in the order of ending.

    Raises
    ------
    ValueError
        For a log that does not end as that of a finished job.
    """
    rows = []
    results = folder / "results" / run
    for log in sorted((results / "logs").rglob("*.log"), key=lambda path: path.stat().st_mtime):
        found = SPENT.search(log.read_text())
        if found is None:
            raise ValueError(f"{log}: found no end of a job, expected a finished run")
        place = results / "benchmarks" / log.relative_to(results / "logs").with_suffix(".tsv")
        with open(place, newline="") as file:
            wall = float(next(csv.DictReader(file, delimiter="\t"))["s"])
        rows.append((found[1], float(found[2]), wall, float(found[3])))
    return pd.DataFrame(rows, columns=["rule", "cpu", "wall", "peak_mb"])


def by_rule(found: pd.DataFrame) -> pd.DataFrame:
    """Return number of jobs, CPU and wall seconds in all and the largest job's peak_mb of each rule."""
    return found.groupby("rule", sort=False).agg(
        jobs=("rule", "size"), cpu=("cpu", "sum"), wall=("wall", "sum"), peak_mb=("peak_mb", "max")
    )


def tokens(folder: Path, cells: int) -> int:
    """Return the gene tokens of a size: detected genes, over all cells that ingest kept."""
    import anndata

    found = anndata.read_h5ad(folder / f"results/cells_{cells}/cells/section.h5ad", backed="r")
    return int(found.obs["n_genes"].sum())


def table(folder: Path, sizes: Sequence[int]) -> list[str]:
    """Return the Markdown lines of docs/scaling.md for the sizes that have run."""
    runs = {n: by_rule(jobs(folder, f"cells_{n}")) for n in sizes}
    names = [f"{n:,}" for n in sizes]
    lines = [
        f"{', '.join(names)} cells, {', '.join(f'{tokens(folder, n):,}' for n in sizes)} tokens; in all "
        + ", ".join(f"{runs[n].cpu.sum():,.0f}" for n in sizes)
        + " CPU s, "
        + ", ".join(f"{runs[n].wall.sum():,.0f}" for n in sizes)
        + " s of jobs.",
        "",
    ]
    head = ["rule", *(f"CPU s, {n}" for n in names), f"wall s, {names[-1]}", "slope", "beyond start"]
    head += [f"MB, {n}" for n in names]
    lines += [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    bound, worse = n_log_n(sizes), []
    for rule in runs[sizes[-1]].index:
        if any(rule not in runs[n].index for n in sizes):
            continue  # of one size only: nothing to compare
        seconds = [float(runs[n].cpu[rule]) for n in sizes]
        found = growth(sizes, seconds)
        if found.beyond > bound + NOISE:
            worse.append(f"{rule} ({found.beyond:.2f})")
        of_rule = [*(f"{s:,.1f}" for s in seconds), f"{runs[sizes[-1]].wall[rule]:,.0f}"]
        of_rule += [f"{value:.2f}" if np.isfinite(value) else "–" for value in (found.slope, found.beyond)]
        of_rule += [f"{runs[n].peak_mb[rule]:,.0f}" for n in sizes]
        lines.append(f"| {rule} | {' | '.join(of_rule)} |")
    if len(sizes) == 3:
        named = ", ".join(worse) or "none"
        lines += ["", f"n log n shows as {bound:.2f}. Worse by more than {NOISE}: {named}."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to run; several GB")
    parser.add_argument("--cells", type=int, nargs="+", default=SIZES, help="sizes, ascending")
    parser.add_argument("--no-run", action="store_true", help="print the table of what has run")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if not options.no_run:
        measure(options.folder, options.cells)
    print("\n".join(table(options.folder, options.cells)))


if __name__ == "__main__":
    main()
