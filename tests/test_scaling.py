"""The workflow stays plannable at 10^7 cells, and the arithmetic of docs/scaling.md is right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
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
    import numpy as np

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
