"""What a run costs at 81,000, 800,000 and 10^7 cells: jobs, storage, reading and writing, time.

    .venv/bin/python benchmarks/scaling.py     # the tables of docs/scaling.md

Jobs are counted by a dry run of the workflow itself. Storage is arithmetic: tokens x layers x d x bytes.
Time needs costs per token: `COSTS` holds what was measured, and None where no measurement exists; those
cells of the tables say so. The model is whole-human scGPT (d = 512, 12 layers) and one dictionary
of 4,096 features on every layer.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Seconds per token, per device: CPU seconds of one core, or seconds of one GPU. `extract` is the
# whole model, the others are one layer; `train_dictionary` per training token.
COSTS: dict[str, dict[str, float | None]] = {
    "CPU core": {"extract": 7.8e-4, "train_dictionary": 5.0e-5, "encode": None},
    "GPU": {"extract": None, "train_dictionary": None, "encode": None},
}
# Where each was measured; one line a number.
SOURCES = [
    "CPU core, extract: benchmarks/extraction.py --cells 96 --repeats 1, 15.1 cells a CPU second, written to "
    "the store, random weights of the whole-human shape, real CosMx cells, 2 shared x86 cores.",
    "CPU core, train_dictionary: benchmarks/sae_training.py --threads 2 --steps 40, 39,700 tokens a second "
    "on two threads (bfloat16 instructions at hand), quiet x86 cores.",
]

# Detected genes a cell, mean of the real CosMx NSCLC sample at hand (2,198 cells, 960 genes).
TOKENS_A_CELL = 85.1
WIDTH = 512
LAYERS = 12
FEATURES = 4096
SHARD_CELLS = 20_000
DICTIONARY_TOKENS = 20_000_000
# Of the cells; the rest is held out or guard.
TRAINING_SHARE = 0.6
# gene int32, cell int32, value float32
TOKEN_BYTES = 12


@dataclass(frozen=True)
class Setting:
    """A data set: its sections, the cells of each, and what the run keeps of them."""

    name: str
    sections: int
    cells: int
    layers: tuple[int, ...] = tuple(range(LAYERS))
    bytes_per_value: int = 2

    @property
    def shards(self) -> int:
        """Shards a section, of about 20,000 cells."""
        return max(1, round(self.cells / self.sections / SHARD_CELLS))

    @property
    def depth(self) -> float:
        """Share of the model that runs: extraction stops after the last layer that is kept."""
        return (max(self.layers) + 1) / LAYERS

    @property
    def tokens(self) -> float:
        """Gene tokens of all cells."""
        return self.cells * TOKENS_A_CELL

    def storage(self) -> dict[str, float]:
        """Bytes by kind: activations (gene tokens), their token tables, cls, and the counts."""
        one_layer = WIDTH * self.bytes_per_value
        return {
            "activations": self.tokens * len(self.layers) * one_layer,
            "token tables": self.tokens * TOKEN_BYTES,
            "cls": self.cells * len(self.layers) * one_layer,
            "counts": self.tokens * 8,
        }

    def traffic(self) -> dict[str, float]:
        """Bytes written by extraction, and read by each stage that goes over the tokens.

        Splits are blocks of tissue, so that a chunk of tokens nearly always holds some of each: an epoch
        of training, or a pass over held-out tokens, reads nearly everything.
        """
        stored = self.storage()
        everything = stored["activations"] + len(self.layers) * stored["token tables"]
        epochs = DICTIONARY_TOKENS / (TRAINING_SHARE * self.tokens)
        return {
            "written": sum(stored.values()),
            "read by training": everything * epochs,
            "read by its held-out quality": 2 * everything,
            "read by encoding": everything,
            "read by aggregation": everything,
            "read by the neurons' baseline": everything,
            # A dictionary and the neurons, each for its intervals.
            "read by alignment": 2 * everything,
            # PCA, NMF and random directions, fitted, encoded and aligned at one layer.
            "read by the other representations": 9 * everything / len(self.layers),
            "read by absorption": everything,
        }

    def seconds(self, device: str) -> dict[str, float | None]:
        """Device seconds by stage, None where the cost is not measured."""
        units = {
            "extract": self.tokens * self.depth,
            "train_dictionary": DICTIONARY_TOKENS * len(self.layers),
            "encode": self.tokens * len(self.layers),
        }
        costs = COSTS[device]
        return {stage: None if costs[stage] is None else costs[stage] * n for stage, n in units.items()}

    def operations(self) -> dict[str, float]:
        """Floating-point operations by stage (two a multiplication with addition), dense encoder."""
        block = 4 * WIDTH**2 + 2 * WIDTH**2 + 2 * TOKENS_A_CELL * WIDTH
        pair = 2 * WIDTH * FEATURES
        return {
            "extract": 2 * block * LAYERS * self.depth * self.tokens,
            "train_dictionary": 3 * 2 * pair * DICTIONARY_TOKENS * len(self.layers),
            "encode": pair * self.tokens * len(self.layers),
        }


SETTINGS = (
    Setting("1 section", 1, 81_000),
    Setting("8 sections", 8, 800_000),
    Setting("atlas", 125, 10_000_000),
    Setting("atlas, 2 layers", 125, 10_000_000, layers=(3, 7)),
)


def plan(setting: Setting, timeout_s: float = 300) -> tuple[dict[str, int], float]:
    """Dry-run the workflow for a setting without its data; return (rule → jobs, CPU seconds it took).

    The samples are declared simulated, so that no file needs to exist; the jobs that only a simulation has
    are not counted. Control arms are off.
    """
    overlay = {
        "run": "scaling",
        "model": {"embsize": WIDTH, "nheads": 8, "d_hid": WIDTH, "nlayers": LAYERS},
        "activations": {"layers": list(setting.layers)},
        "arms": {"untrained": None, "svd_only": None, "genes_a": None},
        "extras": {"arms": dict.fromkeys(("strength_0", "strength_0.5", "strength_2", "second_model"))},
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            f"s{i}\ts{i}\tcosmx\tdonor_{i}\t0.18\ts{i}/cell_types.csv\t{setting.shards}"
            for i in range(setting.sections)
        ]
        header = "sample\tpath\tformat\tdonor\tpixel_size_um\tcell_types\tshards"
        samples = Path(folder, "samples.tsv")
        samples.write_text("\n".join([header, *rows]) + "\n")
        overlay["samples"] = str(samples)
        config = Path(folder, "overlay.yaml")
        config.write_text(json.dumps(overlay))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules", "--cores", "1",
             "--configfile", str(config)],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    text = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"the dry run failed:\n{text[-3000:]}")
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)}
    jobs["total"] -= jobs.pop("simulate") + jobs.pop("recover") + jobs.pop("all")
    return jobs, seconds


def bytes_text(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def hours_text(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds / 3600:.3g} h"


def tables() -> list[str]:
    """Return the Markdown tables of docs/scaling.md."""
    head = ["| | " + " | ".join(s.name for s in SETTINGS) + " |", "| --- |" + " ---: |" * len(SETTINGS)]

    def row(name: str, values: list[str]) -> str:
        return f"| {name} | " + " | ".join(values) + " |"

    lines = [*head, row("cells", [f"{s.cells:,}" for s in SETTINGS])]
    lines.append(row("tokens", [f"{s.tokens:.3g}" for s in SETTINGS]))
    plans = [plan(s) for s in SETTINGS]
    lines.append(row("jobs", [f"{jobs['total']:,}" for jobs, _ in plans]))
    for rule in ("ingest", "extract", "train_dictionary", "encode", "align"):
        lines.append(row(f"… {rule}", [str(jobs.get(rule, 0)) for jobs, _ in plans]))
    lines.append(row("planning (CPU s)", [f"{seconds:.1f}" for _, seconds in plans]))
    for kind in SETTINGS[0].storage():
        lines.append(row(f"storage: {kind}", [bytes_text(s.storage()[kind]) for s in SETTINGS]))
    for kind in SETTINGS[0].traffic():
        lines.append(row(kind, [bytes_text(s.traffic()[kind]) for s in SETTINGS]))
    for stage in SETTINGS[0].operations():
        lines.append(row(f"operations: {stage}", [f"{s.operations()[stage]:.2g}" for s in SETTINGS]))
    for device in COSTS:
        for stage in COSTS[device]:
            cells = [hours_text(s.seconds(device)[stage]) for s in SETTINGS]
            lines.append(row(f"{device} time: {stage}", cells))
    return [*lines, *([""] if SOURCES else []), *SOURCES]


def main() -> None:
    print("\n".join(tables()))


if __name__ == "__main__":
    main()
