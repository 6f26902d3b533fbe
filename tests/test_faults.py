"""Kills at random moments, a full disk, results that cannot be written: a rerun gives what would have been.

What a disturbed run is compared with ran elsewhere, so that equal outputs are also the test of determinism.

Kills: every rule that `all` runs has a job killed once, at a random moment of its usual length, and the whole
run, Snakemake included, is killed five times. These are more than 30, the least, since `all` has more than 25
rules. It is one run that goes on, not one run a kill: what a kill can disturb is its job, or what a dead
Snakemake leaves behind. Rules outside `all` (extras, annotate, spatialdata, fetch) write through the same
functions, job.run and store.atomic.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from test_bad_input import undisturbed  # noqa: F401
from test_provenance import as_rule

from interptfm import job, provenance, store

pytestmark = pytest.mark.soak

KILLS = 30  # the least
OF_ALL = 5  # of them, of the whole run
PR_CAPBSET_DROP = 24  # linux/prctl.h
RULE = re.compile(r"\\x04rule\\x94\\x8c(?:\\x..|\\.|.)(\w+?)\\x94")
# One layer, one dictionary of each kind, one baseline, no control arm: every rule of `all`, few jobs of each.
OVERLAY = {
    "run": "faults",
    "simulate": {"cells": 500},
    "activations": {"layers": [1]},
    "dictionaries": [
        {"name": "topk", "architecture": "topk", "n_features": 48, "k": 4, "training_tokens": 40_000,
         "batch_tokens": 512, "buffer_bytes": 10_000_000},
        {"name": "cells", "architecture": "topk", "tokens": "cls", "n_features": 48, "k": 4,
         "training_tokens": 2000, "batch_tokens": 128},
    ],
    "tis": {"units": [{"name": "cls", "source": "cls", "layers": "all"},
                      {"name": "codes", "source": "features", "dictionary": "cells", "layers": "all"}]},
    "baselines": {"names": ["pca"]},
    "arms": {"untrained": None, "genes_a": None},
    "extras": {"frontier": [], "arms": {"strength_0": None, "seeds": None}},
}  # fmt: skip


def copy_project(root: Path, folder: Path) -> Path:
    for part in ("workflow", "scripts", "config", "resources", "envs", "tests"):
        shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY))
    return folder


def command(*arguments: str) -> list[str]:
    base = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return [*base, "--configfile", "tests/tiny.yaml", "overlay.yaml"]


def digests(folder: Path) -> dict[str, str]:
    results = folder / "results/faults"
    return {str(path.relative_to(results)): store.digest(path) for path in provenance.outputs(results)}


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """The folder of an undisturbed run."""
    folder = copy_project(root, tmp_path_factory.mktemp("undisturbed") / "in/another/place")
    done = subprocess.run(command(), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


# --- kills --------------------------------------------------------------------------------------------------


class Scripts:
    """The scripts that a run in ``folder`` has running."""

    def __init__(self, folder: Path) -> None:
        self.place = f"{folder}/.snakemake/scripts/".encode()
        self.rules: dict[bytes, str] = {}

    def running(self) -> dict[int, str]:
        """Return process → rule."""
        found = {}
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path("/proc", process, "cmdline").read_bytes().split(b"\0")
                for script in (word for word in words if word.startswith(self.place)):
                    if script not in self.rules:
                        # Snakemake hands a script its arguments as a pickle, written into it as text.
                        self.rules[script] = RULE.search(Path(script.decode()).read_text())[1]
                    found[int(process)] = self.rules[script]
            except (OSError, TypeError):
                continue  # it ended meanwhile, or is being written
        return found


def kill(process: int) -> bool:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Disturbance:
    """Kill each rule's job once at a random moment of its usual length, and the whole run a few times."""

    def __init__(self, folder: Path, seconds: dict[str, float], seed: int) -> None:
        self.scripts, self.seconds, self.rng = Scripts(folder), seconds, random.Random(seed)
        self.killed: dict[str, int] = {}
        self.due: dict[int, tuple[float, str]] = {}

    def watch(self, run: subprocess.Popen, until: float | None) -> bool:
        """Follow a run to its end (True), or to ``until`` seconds from now and kill all of it (False)."""
        started = time.monotonic()
        while run.poll() is None:
            now = time.monotonic()
            if until is not None and now - started > until:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
                self.killed["all"] = self.killed.get("all", 0) + 1
                return False
            self._strike(now)
            time.sleep(0.05)
        return True

    def _strike(self, now: float) -> None:
        scripts = self.scripts.running()
        for process, rule in scripts.items():
            if rule not in self.killed and rule not in {each for _, each in self.due.values()}:
                self.due[process] = (now + self.rng.random() * 0.8 * self.seconds[rule], rule)
        for process, (moment, rule) in list(self.due.items()):
            if process not in scripts:
                del self.due[process]  # it was faster
            elif now >= moment:
                if kill(process):
                    self.killed[rule] = self.killed.get(rule, 0) + 1
                del self.due[process]


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    with open(folder / "run.log", "a") as log:
        return subprocess.Popen(
            command("--retries", "3", *arguments),
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def test_a_run_killed_again_and_again_ends_as_if_nothing_had_been(whole, root, tmp_path):
    folder = copy_project(root, tmp_path / "disturbed")
    usual = provenance.benchmarks(whole / "results/faults")
    usual = {rule: found["longest_s"] for rule, found in usual.items()} | {"record_provenance": 2.0}
    disturbance = Disturbance(folder, usual, seed=int(os.environ.get("INTERPTFM_FAULT_SEED", "1")))
    # Two jobs run at a time; the kills of the whole run are spread over all of them.
    span = sum(usual.values()) / 2 / OF_ALL
    for _ in range(OF_ALL):
        # Reading the workflow takes seconds, in which no kill could hurt a job: so many are waited first.
        began = time.monotonic()
        subprocess.run(command("--unlock"), cwd=folder, check=True, capture_output=True)
        reading = time.monotonic() - began
        if disturbance.watch(start(folder), reading + 2 * disturbance.rng.random() * span):
            break
    subprocess.run(command("--unlock"), cwd=folder, check=True, capture_output=True)
    for _ in range(4):
        missed = sorted(usual.keys() - disturbance.killed.keys())
        finished = (folder / "results/faults/provenance.json").exists()
        if finished and not missed:
            break
        # Jobs that ended before the moment that was drawn for them run once more, and are met earlier.
        assert disturbance.watch(start(folder, *(["--forcerun", *missed] if finished else [])), None)
        disturbance.seconds = {rule: 0.5 * seconds for rule, seconds in disturbance.seconds.items()}
    done = subprocess.run(command(), cwd=folder, capture_output=True, text=True, check=False)
    log = (folder / "run.log").read_text()
    assert done.returncode == 0, log[-4000:] + done.stderr[-2000:]
    assert usual.keys() <= disturbance.killed.keys(), usual.keys() - disturbance.killed.keys()
    assert sum(disturbance.killed.values()) >= KILLS, disturbance.killed
    assert digests(folder) == digests(whole)
    assert not list((folder / "results/faults").rglob(".[0-9]*")), "temporary files were left behind"


# --- a full disk --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a tmpfs of so many kB at results/ of a folder, or changes its size."""
    mounted = []
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]

    def mount(folder: Path, kilobytes: int) -> None:
        (folder / "results").mkdir(parents=True, exist_ok=True)
        place = str(folder / "results")
        options = f"size={kilobytes}k" if place not in mounted else f"remount,size={kilobytes}k"
        options += f",uid={os.geteuid()},gid={os.getegid()}"
        line = [*as_root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", place]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no right to mount a small tmpfs here ({done.stderr.strip()})")
        mounted.append(place)

    yield mount
    for place in set(mounted):
        subprocess.run([*as_root, "umount", place], check=True)


def write_pt(path):
    import torch

    with store.atomic(path) as temporary:
        torch.save({"w": torch.randn(20_000)}, temporary)


def write_safetensors(path):
    from safetensors.numpy import save_file

    with store.atomic(path) as temporary:
        save_file({"w": np.random.default_rng(0).normal(size=20_000)}, str(temporary))


def write_zarr(path):
    with store.create_zarr(path, {}) as group:
        store.write_array(group, "x", np.random.default_rng(0).normal(size=20_000))


NOISE = pd.DataFrame({"x": np.random.default_rng(0).normal(size=20_000)})
WRITERS = {
    "t.parquet": lambda path: store.write_table(path, NOISE),
    "t.tsv": lambda path: store.write_table(path, NOISE),
    "a.json": lambda path: store.write_json(path, NOISE["x"].tolist()),
    "c.h5ad": lambda path: store.write_h5ad(path, anndata.AnnData(NOISE.to_numpy(np.float32))),
    "a.zarr.zip": write_zarr,
    "m.pt": write_pt,
    "w.safetensors": write_safetensors,
}


def write_as_job(name: str, path: Path, folder: Path) -> None:
    """Write one of ``WRITERS`` as a rule does, and end the process with what the job ends with."""
    try:
        with job.run(as_rule([], [path], folder)):
            WRITERS[name](path)
    except SystemExit as end:
        # HDF5 keeps what it could not flush, and dies of it when a process that goes on ends.
        os._exit(end.code)


def test_every_writer_says_that_the_disk_is_full(small_disk, tmp_path):
    small_disk(tmp_path, 48)
    processes = multiprocessing.get_context("spawn")
    for name in WRITERS:
        path = tmp_path / "results/r" / name
        process = processes.Process(target=write_as_job, args=(name, path, tmp_path))
        process.start()
        process.join()
        said = (tmp_path / "log").read_text()
        assert process.exitcode == 1 and "found no space left on the disk" in said, f"{name}: {said}"
        assert "Traceback" not in said
        assert not [p for p in (tmp_path / "results").rglob("*") if p.is_file()], f"{name} left something"


def test_a_run_on_a_full_disk_is_completed_once_there_is_room(whole, small_disk, root, tmp_path):
    folder = copy_project(root, tmp_path / "full")
    small_disk(folder, 400)
    done = subprocess.run(command("cells"), cwd=folder, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "found no space left on the disk" in said and "Traceback" not in said, (
        said
    )
    assert not list(folder.glob("results/faults/cells/*.h5ad"))
    small_disk(folder, 100_000)
    subprocess.run(command("cells"), cwd=folder, capture_output=True, text=True, check=True)
    found, expected = digests(folder), digests(whole)
    assert found and found == {name: expected[name] for name in found}


# --- results that cannot be written -------------------------------------------------------------------------


def drop_privileges() -> None:
    """Take from root what lets it write everywhere: programs that it starts obey the modes of files."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def test_results_that_cannot_be_written_are_named(root, tmp_path):
    folder = copy_project(root, tmp_path / "project")
    results = folder / "results"
    results.mkdir()
    results.chmod(0o555)
    done = subprocess.run(
        command("cells"), cwd=folder, capture_output=True, text=True, check=False,
        preexec_fn=drop_privileges if os.geteuid() == 0 else None,
    )  # fmt: skip
    results.chmod(0o755)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said, said
    assert "interpTFM: results/faults: permission denied, expected a file or folder that" in said, said
    assert not list(results.iterdir())


# --- damage between two runs --------------------------------------------------------------------------------

# Files damaged together, each with a rule that reads it and needs none of the other rules.
DAMAGED = (
    {
        "activations/section_1/0.zarr.zip": "encode_neurons",
        "dictionaries/topk/layer_1/sae_weights.safetensors": "encode",
        "truth/cells.parquet": "recover_units",
    },
    {"cells/section_2.h5ad": "build_concepts"},
)


def damage(path: Path) -> None:
    """Flip a bit (of the table: cut it short), the time of the file as it was: Snakemake sees nothing."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content[: len(content) // 2] if path.suffix == ".parquet" else content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_damaged_intermediates_stop_what_reads_them(whole, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder, copy_function=shutil.copy2)
    for files in DAMAGED:
        for name in files:
            damage(folder / "results/faults" / name)
        before = digests(folder)
        done = subprocess.run(
            command("--keep-going", "--rerun-triggers", "mtime", "--forcerun", *files.values()),
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 1 and "Traceback" not in said, said
        for name, rule in files.items():
            wanted = f"{rule}: results/faults/{name}: found a damaged"
            assert wanted in said, f"{name} was used by {rule}: {said}"
        after = digests(folder)
        assert all(before[name] == digest for name, digest in after.items()), "something was made of it"
