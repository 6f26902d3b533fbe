"""The SLURM profile on a real SLURM of one node: the same outputs, and what happens when jobs are lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from interptfm import provenance, store

sys.path.insert(0, str(Path(__file__).parent))
from slurm_cluster import Cluster, missing_programs, processes_with, wait_for

pytestmark = pytest.mark.soak

# Status by the queue, since this cluster keeps no accounts; first look after 2 s instead of 40.
CLUSTER_ARGUMENTS = (
    *("--profile", "slurm", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"),
)
# Equal thread counts on both sides, and such as any machine has: sums depend on the number of threads.
THREADS = (
    "--set-threads",
    *("build_model=2", "extract=1", "train_dictionary=1", "encode=1", "encode_neurons=1"),
)
# The small workflow cut to one layer without control arm: every rule of `all`.
OVERLAY = {
    "run": "slurm",
    "activations": {"layers": [1]},
    "arms": {"untrained": None},
    "extras": {"arms": {"strength_0": None}},
}
# Two steps; the second has a GPU by the profile and hangs in the middle of its output until told not to.
SLOW_WORKFLOW = """
localrules: all

rule all:
    input: "out/second.txt"

rule first:
    output: "out/first.txt"
    resources: mem_mb=200, runtime=5
    shell: "date +%s%N > {output}"

rule build_model:
    input: "out/first.txt"
    output: "out/second.txt"
    resources: mem_mb=lambda wildcards, attempt: 200 * attempt, runtime=5
    shell: "echo half > {output}; touch started; [ -e quick ] || sleep 120; echo whole >> {output}"
"""


@pytest.fixture(scope="module")
def cluster():
    """The running cluster; afterwards nothing of it may be left."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"no SLURM here: {', '.join(missing)} not found (apt-get install slurm-wlm munge)")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    try:
        with Cluster(folder) as running:
            yield running
        assert processes_with(f"{folder}/") == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def started(folder, environment, *arguments):
    """Start Snakemake in ``folder`` as a user would; its output goes to run.log; ended if it still runs."""
    with open(folder / "run.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(timeout=15)


def finish(process, folder, cluster, seconds, code=0):
    """Wait for the end of a run and check its exit code."""
    try:
        found = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        found = f"no end within {seconds} s"
    assert found == code, f"{(folder / 'run.log').read_text()[-4000:]}\n{cluster.jobs()}\n{cluster.logs()}"


def copy_project(root, folder):
    """Copy what a user clones, without results, and add the overlay of this test."""
    for part in ("workflow", "scripts", "config", "resources", "envs", "tests"):
        shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "slurm").symlink_to("workflow/profiles/slurm")
    (folder / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY))
    return folder


def digests(results):
    """Return relative path → digest of every output."""
    return {str(path.relative_to(results)): store.digest(path) for path in provenance.outputs(results)}


def test_the_outputs_equal_those_of_a_local_run(cluster, root, tmp_path):
    remote, local = copy_project(root, tmp_path / "remote"), copy_project(root, tmp_path / "local")
    inputs = ["--configfile", "tests/tiny.yaml", "overlay.yaml", *THREADS]
    with (
        started(remote, cluster.environment, *CLUSTER_ARGUMENTS, *inputs) as run,
        started(local, cluster.environment, "--cores", "2", *inputs) as alone,
    ):
        finish(run, remote, cluster, 1200)
        finish(alone, local, cluster, 300)
    expected = digests(local / "results/slurm")
    assert len(expected) > 30 and "report.html" in expected
    assert digests(remote / "results/slurm") == expected

    jobs = {job["comment"].removeprefix("rule_"): job for job in cluster.jobs().values()}
    assert {job["state"] for job in jobs.values()} == {"COMPLETED"}
    for rule in ("build_model", "extract", "train_dictionary", "encode_wildcards"):
        asked = [job["gres"] for name, job in jobs.items() if name.startswith(rule)]
        assert asked and set(asked) == {"gres:gpu:1"}, rule
    assert jobs["simulate"]["gres"] == "N/A" and jobs["simulate"]["memory"] == "1500M"
    # Dictionary and neurons share a job; so do, once the layer is chosen, the six other representations.
    alignments = [job for job in cluster.jobs().values() if "align" in job["comment"]]
    assert {job["cpus"] for job in alignments} == {"1"}
    assert sorted(job["time"] for job in alignments) == ["1:00:00", "3:00:00"], "one after the other"


@pytest.fixture
def slow(root, tmp_path):
    """A workflow of two steps under the project's profile, hanging in the second."""
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/Snakefile").write_text(SLOW_WORKFLOW)
    shutil.copytree(root / "workflow/profiles", tmp_path / "workflow/profiles")
    (tmp_path / "slurm").symlink_to("workflow/profiles/slurm")
    return tmp_path


def running_job(cluster, folder):
    """Wait until the second step is in the middle of its output; return its job id."""
    wait_for((folder / "started").exists, 90, "the second step to start")
    [job] = cluster.jobs("RUNNING")
    return job


def test_a_cancelled_job_is_tried_again_with_more_memory(cluster, slow):
    with started(slow, cluster.environment, *CLUSTER_ARGUMENTS) as run:
        job = running_job(cluster, slow)
        (slow / "quick").touch()
        cluster.command("scancel", job)
        finish(run, slow, cluster, 90)
    assert (slow / "out/second.txt").read_text() == "half\nwhole\n"
    jobs = cluster.jobs()
    assert jobs[job]["state"] == "CANCELLED" and jobs[job]["memory"] == "200M"
    [again] = [id for id, one in jobs.items() if int(id) > int(job)]
    assert jobs[again]["state"] == "COMPLETED" and jobs[again]["memory"] == "400M"


def test_a_run_that_lost_its_node_is_completed_by_a_rerun(cluster, slow):
    with started(slow, cluster.environment, *CLUSTER_ARGUMENTS, "--retries", "0") as run:
        job = running_job(cluster, slow)
        first = (slow / "out/first.txt").read_text()
        cluster.kill_node()
        wait_for(lambda: cluster.jobs()[job]["state"] == "NODE_FAIL", 60, "SLURM to miss the node")
        finish(run, slow, cluster, 90, code=1)
    assert not (slow / "out/second.txt").exists(), "half an output was left behind"
    cluster.start_node()
    (slow / "quick").touch()
    with started(slow, cluster.environment, *CLUSTER_ARGUMENTS) as run:
        finish(run, slow, cluster, 90)
    assert (slow / "out/second.txt").read_text() == "half\nwhole\n"
    assert (slow / "out/first.txt").read_text() == first, "a finished step ran again"
