"""The workflow stays plannable at 10^7 cells, and the arithmetic of docs/scaling.md is right."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from planning import planned, snakemake

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import scale
import scaling

ATLAS = next(setting for setting in scaling.SETTINGS if setting.name == "atlas")


def test_ten_million_cells_are_less_than_2000_jobs(record_property):
    assert (ATLAS.cells, ATLAS.shards * ATLAS.sections) == (10_000_000, 500)
    jobs, seconds = scaling.plan(ATLAS)
    record_property("planning_cpu_seconds", seconds)
    assert jobs["ingest"] == 125 and jobs["extract"] == 500
    assert jobs["train_dictionary"] == jobs["encode"] == scaling.LAYERS
    assert jobs["total"] < 2000, jobs
    assert seconds < 60, f"planning took {seconds:.0f} s of CPU time"


def test_storage_is_tokens_times_layers_times_width_times_bytes():
    one = scaling.Setting("x", 1, 1000, layers=(2, 5), bytes_per_value=4)
    assert one.storage()["activations"] == pytest.approx(1000 * scaling.TOKENS_A_CELL * 2 * 512 * 4)
    assert one.storage()["cls"] == 1000 * 2 * 512 * 4
    assert one.traffic()["written"] == pytest.approx(sum(one.storage().values()))


def test_the_store_has_the_size_that_the_arithmetic_says(tmp_path):
    """Incompressible activations: the file is as large as computed, within 6 %."""
    from interptfm import store

    rng = np.random.default_rng(0)
    tokens, cells, layers, d = 20_000, 200, [0, 1], 64
    path = tmp_path / "0.zarr.zip"
    with store.ActivationWriter(path, layers, tokens, cells, d, "float16", {}) as writer:
        bits = rng.integers(0, 2**15 - 2**11, (2, tokens, d), dtype=np.uint16).view(np.float16)
        cell = np.sort(rng.integers(0, cells, tokens)).astype(np.int32)
        writer.write(
            rng.integers(0, 2**30, tokens, dtype=np.int32),
            cell,
            rng.random(tokens).astype(np.float32),
            {layer: bits[i].astype(np.float32) for i, layer in enumerate(layers)},
        )
        writer.write_cls(0, rng.random((2, cells, d)).astype(np.float32))
    expected = tokens * len(layers) * d * 2
    assert 0.95 * expected < path.stat().st_size < 1.06 * (expected + tokens * scaling.TOKEN_BYTES)


def test_unmeasured_costs_are_said_to_be(monkeypatch):
    monkeypatch.setitem(scaling.COSTS, "GPU", {"extract": None, "train_dictionary": 1e-6, "encode": None})
    seconds = ATLAS.seconds("GPU")
    assert seconds["extract"] is None and scaling.hours_text(None) == "not measured"
    assert seconds["train_dictionary"] == pytest.approx(1e-6 * scaling.DICTIONARY_TOKENS * scaling.LAYERS)


# --- benchmarks/scale.py ------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
def test_exponents_do_not_see_what_a_job_starts_with(power):
    seconds = [7 + 800 * (n / 81_000) ** power for n in scale.SIZES]
    found = scale.growth(scale.SIZES, seconds)
    assert found.beyond == pytest.approx(power, abs=1e-6)
    assert found.slope < power


def test_what_hardly_grows_has_no_exponent():
    assert np.isnan(scale.growth(scale.SIZES, [20, 21, 24]).beyond)
    assert np.isnan(scale.growth(scale.SIZES, [20, 19, 50]).beyond), "not even in order"
    assert scale.growth(scale.SIZES, [20, 20, 20]).slope == pytest.approx(0)
    assert 1.0 < scale.n_log_n(scale.SIZES) < 1.2


def test_a_stage_that_grows_too_fast_is_named(tmp_path, monkeypatch):
    """Logs and benchmark files as jobs leave them; one rule grows with the square of the cells."""
    monkeypatch.setattr(scale, "tokens", lambda folder, cells: cells * 100)
    for n in scale.SIZES:
        results = tmp_path / f"results/cells_{n}"
        for rule, seconds in (("flat", 5.0), ("linear", 5 + n / 500), ("square", 5 + n**2 / 1e7)):
            for folder, name, text in (
                (
                    "logs",
                    "x.log",
                    f"rule {rule} finished in 9.0 s, {seconds:.2f} s of CPU, peak memory 200 MB\n",
                ),
                ("benchmarks", "x.tsv", f"s\th:m:s\n{seconds + 1}\t0:00:01\n"),
            ):
                (results / folder / rule).mkdir(parents=True)
                (results / folder / rule / name).write_text(text)
    lines = scale.table(tmp_path, scale.SIZES)
    assert "Worse by more than 0.1: square (2.00)." in lines[-1]
    row = next(line for line in lines if line.startswith("| linear "))
    assert row.split(" | ")[1:7] == ["15.0", "45.0", "167.0", "168", "0.87", "1.00"], row
    (results / "logs/flat/x.log").write_text("rule flat on a node, 1 threads\n")
    with pytest.raises(ValueError, match=r"flat/x\.log: found no end of a job"):
        scale.jobs(tmp_path, results.name)


def test_every_stage_is_planned_on_a_panel_of_960_genes(tmp_path):
    scale.set_up(tmp_path)
    rows = (tmp_path / "resources/demo_ontology/panel.tsv").read_text().splitlines()
    assert len(rows) == 1 + scale.GENES and len(set(rows)) == len(rows)
    config = scale.overlay(tmp_path, "cells_81000", 81_000, None)
    done = snakemake(tmp_path, "--quiet", "rules", "--dry-run", *scale.TARGETS, config=config)
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = planned(done.stdout + done.stderr)
    assert jobs["extract"] == 4 and jobs["crosstalk_section"] == jobs["train_dictionary"] == 1
    assert {"ingest", "align", "score_units"} <= jobs.keys()
