"""The SLURM profile as a text: nothing overrides it, it names rules that exist, GPUs are asked for once."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import yaml

GPU_RULES = {"build_model", "extract", "train_dictionary", "encode", "aggregate"}


def profile(root, name):
    return yaml.safe_load((root / "workflow/profiles" / name / "config.yaml").read_text())


def test_the_command_finds_the_profile_as_typed(root):
    assert (root / "slurm").is_symlink() and os.readlink(root / "slurm") == "workflow/profiles/slurm"
    # A run of its own name: what `make demo` left here needs no job.
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--dry-run", "cells"]
    command += ["--config", "run=never_made"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    # A resource that only the profile gives.
    assert done.returncode == 0 and "in_turn=1" in done.stdout + done.stderr, done.stdout + done.stderr


def test_the_default_profile_overrides_nothing(root):
    # A workflow's own default profile takes precedence over --profile.
    assert not profile(root, "default").keys() & profile(root, "slurm").keys()


def test_gpus_are_asked_for_once(root):
    asked = profile(root, "slurm")["set-resources"]
    assert asked.keys() == GPU_RULES
    for resources in asked.values():
        assert resources == {"gres": "gpu:1"}
    text = (root / "workflow/profiles/slurm/config.yaml").read_text()
    assert len(re.findall(r"^ +gres:", text, re.MULTILINE)) == 1, "one place to switch"
    switched = yaml.safe_load(re.sub(r"^( +)gres: .*\n#( +)gpu: 1", r"\1gpu: 1", text, flags=re.MULTILINE))
    assert all(resources == {"gpu": 1} for resources in switched["set-resources"].values())


def test_the_commented_lines_of_a_site_are_valid(root):
    """Without their comment signs, account and partitions parse and land where they belong."""
    text = (root / "workflow/profiles/slurm/config.yaml").read_text()
    site = yaml.safe_load(re.sub(r"^#( +(slurm_\w+|constraint):)", r"\1", text, flags=re.MULTILINE))
    assert site["default-resources"]["slurm_account"] == "my_project"
    assert site["default-resources"]["slurm_partition"] == "cpu"
    for resources in site["set-resources"].values():
        assert resources == {"gres": "gpu:1", "slurm_partition": "gpu", "constraint": "a100"}
    every = yaml.safe_load(re.sub(r"^#(?=\S+: )", "", text, flags=re.MULTILINE))
    assert every["slurm-status-command"] == "squeue" and every["conda-prefix"]


def test_the_profile_names_rules_that_exist(root):
    slurm = profile(root, "slurm")
    text = "".join(path.read_text() for path in (root / "workflow/rules").glob("*.smk"))
    rules = set(re.findall(r"^\s*rule (\w+):", text, re.MULTILINE))
    assert {*slurm["set-resources"], *slurm["set-threads"], *slurm["groups"]} <= rules
    assert slurm["group-components"].keys() == set(slurm["groups"].values())
