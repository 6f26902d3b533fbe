"""Time and peak memory of every rule of finished runs, beside the memory that the rules asked for.

    .venv/bin/python benchmarks/resources.py FOLDER RUN    # FOLDER: where Snakemake ran; RUN: demo, say

Seconds and memory are those of Snakemake's benchmark files; what was asked for is in its log. A job of a
second or less ends before its memory is looked at, and shows a dash where no job of its rule was seen.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

import pandas as pd

MIB = 1024**2 / 1e6


def asked_for(logs: list[Path]) -> pd.DataFrame:
    """Return rule, benchmark (file) and mem_mb of every job in the logs; the last of several runs."""
    jobs = {}
    for log in logs:
        for block in re.split(r"^(?=(?:local)?rule \w+:)", log.read_text(), flags=re.MULTILINE)[1:]:
            rule = re.match(r"(?:local)?rule (\w+):", block).group(1)
            benchmark = re.search(r"^    benchmark: (\S+)", block, re.MULTILINE)
            memory = re.search(r"^    resources: .*\bmem_mb=(\d+)", block, re.MULTILINE)
            if benchmark and memory:
                jobs[benchmark.group(1)] = (rule, int(memory.group(1)))
    rows = [(rule, path, memory) for path, (rule, memory) in jobs.items()]
    return pd.DataFrame(rows, columns=["rule", "benchmark", "mem_mb"])


def measured(folder: Path, run: str) -> pd.DataFrame:
    """Return rule, benchmark, mem_mb (asked for), seconds and peak_mb (nan if not seen) of a run's jobs.

    Raises
    ------
    FileNotFoundError
        If Snakemake left no log under ``folder``.
    """
    logs = sorted((folder / ".snakemake/log").glob("*.snakemake.log"))
    if not logs:
        raise FileNotFoundError(f"{folder}: no log of Snakemake under .snakemake/log")
    jobs = asked_for(logs)
    jobs = jobs[jobs["benchmark"].str.startswith(f"results/{run}/")]
    jobs = jobs[[(folder / path).is_file() for path in jobs["benchmark"]]].copy()
    rows = []
    for path in jobs["benchmark"]:
        with open(folder / path, newline="") as file:
            rows.append(next(csv.DictReader(file, delimiter="\t")))
    jobs["seconds"] = [float(row["s"]) for row in rows]
    jobs["peak_mb"] = [
        MIB * float(row["max_rss"]) if row["max_rss"][0].isdigit() else float("nan") for row in rows
    ]
    return jobs


def by_rule(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return one row a rule in the order of running: jobs, seconds in all, and the tightest job's memory."""
    rows = []
    for rule, group in jobs.groupby("rule", sort=False):
        seen = group.dropna(subset="peak_mb")
        worst = seen.loc[(seen["peak_mb"] / seen["mem_mb"]).idxmax()] if len(seen) else None
        rows.append(
            {
                "rule": rule,
                "jobs": len(group),
                "seconds": group["seconds"].sum(),
                "peak MB": float("nan") if worst is None else worst["peak_mb"],
                "asked for MB": group["mem_mb"].max() if worst is None else worst["mem_mb"],
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where Snakemake ran")
    parser.add_argument("run", help="the configuration's run: demo, nsclc_mini, ...")
    options = parser.parse_args()
    table = by_rule(measured(options.folder, options.run))
    lines = ["| rule | jobs | s | peak MB | asked for MB |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in table.itertuples(index=False):
        peak = "–" if pd.isna(row[3]) else f"{row[3]:,.0f}"
        lines.append(f"| {row[0]} | {row[1]} | {row[2]:.0f} | {peak} | {row[4]:,.0f} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
