"""provenance.json, make verify, and digests that show a changed file to the next job."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import test_features as tokens
from test_bad_input import undisturbed  # noqa: F401

from interptfm import config as settings
from interptfm import integrity, job, provenance, store
from interptfm.errors import InputError


@pytest.fixture(scope="module")
def record(project):
    return store.read_json(project / "results/tiny/provenance.json")


def verify(project, run="results/tiny"):
    command = [sys.executable, "scripts/verify.py", run]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def rules_of(root):
    text = "".join(path.read_text() for path in sorted((root / "workflow/rules").glob("*.smk")))
    return set(re.findall(r"^\s*(?:rule|checkpoint) (\w+):", text, re.MULTILINE))


def test_the_record_says_what_made_the_run(project, record):
    tiny = settings.load_yaml(project / "tests/tiny.yaml")
    assert record["run"] == "tiny" and record["seed"] == record["config"]["seed"] == 1
    schema = settings.load_yaml(project / "workflow/schemas/config.schema.yaml")
    assert record["config"].keys() == set(schema["properties"]), "the whole configuration"
    assert record["config"]["model"]["embsize"] == tiny["model"]["embsize"]
    assert record["config"]["dictionaries"][1]["aux_coefficient"] == 0.03125, "defaults are filled in"
    # A copy of the project is no clone.
    assert record["git"] == {
        "commit": None, "dirty": None, "reason": "the project's folder is no git clone",
    }  # fmt: skip
    assert record["packages"]["python"].startswith("3.") and record["packages"]["snakemake"]
    assert record["hardware"]["cores"] >= 1 and record["hardware"]["memory_mb"] > 1000
    environments = {path.name for path in (project / "envs").glob("*.yaml")}
    assert set(record["environment_files"]) == environments and len(environments) > 3


def test_every_rule_has_its_time_and_memory(project, record):
    """Rules by the names that the workflow gives them; those of all arms together."""
    ran = {rule for rule, found in record["rules"].items() if found["seconds"] > 0}
    assert ran == set(record["rules"]) and ran <= rules_of(project)
    assert {
        "simulate",
        "ingest",
        "build_model",
        "extract",
        "train_dictionary",
        "align",
        "write_report",
    } <= ran
    assert record["rules"]["extract"]["jobs"] == 6  # two sections, three arms
    assert record["rules"]["build_model"]["peak_mb"] > 100
    for found in record["rules"].values():
        assert found["longest_s"] <= found["seconds"] and found["jobs"] >= 1


def test_every_output_is_digested(project, record):
    results = project / "results/tiny"
    files = {str(p.relative_to(results)) for p in results.rglob("*") if p.is_file()}
    apart = {f for f in files if re.search(r"(^|/)(logs|benchmarks|\.work|\.digests)/|^provenance", f)}
    # Other tests of this session make further targets afterwards; nothing of `all` may be missing.
    assert record["outputs"].keys() <= files - apart and len(record["outputs"]) > 100
    assert {"report.html", "arms/untrained/model/best_model.pt", "cells/section_1.h5ad"} <= set(
        record["outputs"]
    )
    assert all(re.fullmatch(r"(sha256|zip):[0-9a-f]{64}", value) for value in record["outputs"].values())


def test_every_file_that_no_rule_makes_is_an_input(project, record):
    """What Snakemake says of the inputs of every output: a stage that reads another file joins the list."""
    command = [sys.executable, "-m", "snakemake", "--detailed-summary", "--configfile", "tests/tiny.yaml"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    table = csv.DictReader(io.StringIO(done.stdout), delimiter="\t")
    (column,) = (name for name in table.fieldnames if name.startswith("input-file"))
    read = {path.strip() for row in table for path in row[column].split(",")}
    outside = {
        path for path in read if path and path != "-" and not path.startswith(("results/", "scripts/"))
    }
    assert outside, "Snakemake words its summary otherwise"
    known = {*record["inputs"], *(f"envs/{name}" for name in record["environment_files"])}
    assert outside <= known
    assert set(record["inputs"]) - outside <= {"config/samples.tsv"}, "nobody reads it"


def test_nothing_but_the_record_names_times_or_places(project, record):
    """No output holds this folder, this machine or today's date (packed files: their whole content)."""
    node = record["hardware"]["node"].encode()
    words = [str(project).encode()] + ([node] if len(node) > 5 else [])
    for name in record["outputs"]:
        content = (project / "results/tiny" / name).read_bytes()
        assert not [word for word in words if word in content], name


def test_verify_agrees_and_names_each_difference(project, record):
    results = project / "results/tiny"
    done = verify(project)
    n = len(record["outputs"]) + len(record["inputs"])
    assert done.returncode == 0 and f"results/tiny: 0 differences in {n} files" in done.stdout, done.stdout
    table, array = results / "alignment/headline.tsv", results / "activations/section_1/0.zarr.zip"
    gone, kept = results / "concepts/dag.parquet", project / "kept"
    kept.mkdir()
    places = {path: kept / str(i) for i, path in enumerate((table, array, gone))}
    for path, copy in places.items():
        shutil.copy2(path, copy)
    try:
        table.write_text(table.read_text().replace("0", "1", 1))
        content = bytearray(array.read_bytes())
        content[len(content) // 2] ^= 4  # in the data: the directory of the zip is as it was
        array.write_bytes(content)
        gone.unlink()
        (results / "NOTES.txt").write_text("mine")
        done = verify(project)
    finally:
        for path, copy in places.items():
            shutil.copy2(copy, path)
        (results / "NOTES.txt").unlink()
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[-1].startswith("results/tiny: 3 differences in ")
    assert any(line.startswith("results/tiny/alignment/headline.tsv: found sha256:") for line in lines)
    assert any(re.match(r"results/tiny/activations/section_1/0\.zarr\.zip: found damaged", x) for x in lines)
    assert any(
        line.startswith("results/tiny/concepts/dag.parquet: not found, expected the") for line in lines
    )
    assert any("NOTES.txt" in line and "in no record" in line for line in lines)
    assert verify(project, "results/none").returncode == 1


def test_the_commit_and_what_is_not_committed(tmp_path):
    def git(*arguments):
        setting = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *setting, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert provenance.git_state(tmp_path)["commit"] is None
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/Snakefile").write_text("1")
    git("init")
    assert provenance.git_state(tmp_path)["reason"] == "the project's folder is no git clone"
    git("add", "-A")
    git("commit", "-m", "one")
    clean = provenance.git_state(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"]) and clean["dirty"] is False
    (tmp_path / "other").write_text("2")
    assert provenance.git_state(tmp_path) == {"commit": clean["commit"], "dirty": True}


def test_packages_of_another_python():
    assert provenance.packages(sys.executable) == provenance.packages()
    with pytest.raises(InputError, match="found /no/python, which does not run"):
        provenance.packages("/no/python")


# --- digests between jobs -----------------------------------------------------------------------------------


def one_of_each(folder):
    """Write an output of every kind that stages hand on; return the paths."""
    rng = np.random.default_rng(0)
    made = {"safetensors": folder / "sae_weights.safetensors"}
    tokens.dictionary(folder)
    made["zarr"] = tokens.write_activations(
        folder / "0.zarr.zip", "s", np.arange(40) % 6, np.arange(40), rng.normal(size=(40, 3)).astype("f4")
    )
    made["parquet"], made["h5ad"] = folder / "t.parquet", folder / "c.h5ad"
    store.write_table(made["parquet"], pd.DataFrame({"a": rng.normal(size=50), "b": "x"}), {"seed": 1})
    store.write_h5ad(made["h5ad"], anndata.AnnData(rng.poisson(1.0, (20, 5)).astype(np.float32)))
    made["npy"], made["json"] = folder / "max.npy", folder / "summary.json"
    np.save(made["npy"], rng.normal(size=9))
    store.write_json(made["json"], {"mean_f1": 0.5})
    made["pt"] = folder / "best_model.pt"
    import torch

    torch.save({"w": torch.ones(30)}, made["pt"])
    return made


def read(kind, path):
    """Use a file as a stage does, as far as damage shows while it is read."""
    if kind == "zarr":
        with store.open_activations(path) as opened:
            opened.rows(0, 0, opened.n_tokens)
            opened.cls(0)


KINDS = ("safetensors", "zarr", "parquet", "h5ad", "npy", "json", "pt")


def as_rule(inputs, outputs, folder):
    return SimpleNamespace(
        input=[str(path) for path in inputs], output=[str(path) for path in outputs], rule="a_rule",
        threads=1, log=[str(folder / "log")], wildcards={},
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_intermediate_is_named_and_never_used(tmp_path, kind):
    """Truncated anywhere, or with one bit flipped anywhere: the next job ends before it computes."""
    folder = tmp_path / "results/r"
    folder.mkdir(parents=True)
    path = one_of_each(folder)[kind]
    with job.run(as_rule([], [path], tmp_path)):
        pass
    whole, rng = path.read_bytes(), random.Random(kind)
    with job.run(as_rule([path], [], tmp_path)):
        read(kind, path)
    harmless = 0
    for trial in range(60):
        place = rng.randrange(len(whole))
        content = bytearray(whole)
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content if trial % 4 else whole[:place])
        used = False
        try:
            with job.run(as_rule([path], [], tmp_path)):
                read(kind, path)
                used = True
        except SystemExit as end:
            assert end.code == 1
        said = (tmp_path / "log").read_text()
        if used:
            # In a zip some bytes say nothing: the second date and attributes of an entry, say.
            assert kind == "zarr" and trial % 4
            with store.open_activations(path) as opened:
                damaged = opened.rows(0, 0, 40)
            path.write_bytes(whole)
            with store.open_activations(path) as opened:
                assert np.array_equal(damaged, opened.rows(0, 0, 40))
            harmless += 1
        else:
            assert str(path) in said and "Traceback" not in said
            assert re.search("found a damaged", said), said
    assert harmless < 20


def test_digests_follow_outputs_and_ignore_what_no_rule_made(tmp_path):
    path = tmp_path / "results/r/arms/x/cells/a.json"
    store.write_json(path, {"a": 1})
    assert integrity.check([path]) == {}, "no record, nothing to compare"
    integrity.record([path, tmp_path / "elsewhere.json"], "ingest")
    assert integrity.check([path, tmp_path / "elsewhere.json"]) == {str(path): store.digest(path)}
    store.write_json(path, {"a": 2})
    integrity.record([path], "ingest")
    assert integrity.check([path]) == {str(path): store.digest(path)}
    assert integrity.record_of("results/r") is None and integrity.record_of("data/x.csv") is None


def test_a_digest_is_taken_once_a_job(tmp_path, monkeypatch):
    path = tmp_path / "results/r/a.json"
    store.write_json(path, {"a": 1})
    integrity.record([path], "ingest")
    taken = []
    monkeypatch.setattr(store, "digest", lambda p: taken.append(str(p)) or "sha256:" + 64 * "0")
    (integrity.record_of(path)).write_text("sha256:" + 64 * "0" + " ingest\n")
    snakemake = as_rule([path], [], tmp_path)
    with job.run(snakemake):
        assert job.provenance(snakemake)["inputs"] == {"a.json": "sha256:" + 64 * "0"}
    assert taken == [str(path)]
    assert json.loads(path.read_text()) == {"a": 1}
