"""Against the real sae-lens and dictionary-learning, in the environment that `make soak` builds."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from test_sae import atoms, one_thread, planted, write_activations
from test_sae_architectures import NAMES, D, batch, build

from interptfm.sae import format as sae_format
from interptfm.sae import importing, metrics, training
from interptfm.sae.buffer import TokenBuffer
from interptfm.sae.inference import Dictionary

__all__ = ["one_thread"]
pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def oracle(root):
    """Run tests/sae_oracle.py with the Python that has the peers."""
    python = Path(os.environ.get("INTERPTFM_SOAK_PYTHON", root / ".venv-soak/bin/python"))
    if not python.is_file():
        pytest.skip(f"no {python}: make soak builds it")

    def run(mode, folder):
        command = [str(python), str(root / "tests/sae_oracle.py"), mode, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    return run


def same(dictionary, x, folder):
    """Code and reconstruction are those of the oracle to 1e-5 (of activations of order 1)."""
    with np.load(folder / "oracle.npz") as expected:
        code = dictionary.encode(x)
        np.testing.assert_allclose(code.numpy(), expected["code"], rtol=1e-5, atol=1e-5)
        assert 0 < (expected["code"] > 0).mean() < 0.9
        np.testing.assert_allclose(
            dictionary.decode(code).numpy(), expected["reconstruction"], rtol=1e-5, atol=1e-5
        )


def test_sae_lens_loads_what_we_write(oracle, tmp_path):
    x = batch(200)
    np.save(tmp_path / "x.npy", x.numpy())
    written = {}
    for name in NAMES:
        model = build(name)
        if name in ("batchtopk", "matryoshka"):
            model.threshold_sum, model.threshold_weight = torch.tensor(0.6), torch.tensor(2.0)
        # As the rule writes it: nested provenance, too.
        origin = {
            "model_digest": "m", "layer": 1, "hook_name": "h", "tokens_seen": 9, "seed": 0,
            "training": {"architecture": name}, "provenance": {"rule": "r", "inputs": {"a": "b"}},
        }  # fmt: skip
        written[name] = Dictionary(*model.inference_weights(1.7), origin)
        folder = tmp_path / name
        sae_format.save(folder / "cfg.json", folder / "sae_weights.safetensors", written[name])
    oracle("lens", tmp_path)
    for name, dictionary in written.items():
        same(dictionary, x, tmp_path / name)


def test_we_load_what_sae_lens_writes(oracle, tmp_path):
    x = batch(200)
    np.save(tmp_path / "x.npy", x.numpy())
    oracle("write", tmp_path)
    folders = sorted(path.parent for path in tmp_path.glob("*/cfg.json"))
    assert len(folders) == 8
    for folder in folders:
        assert importing.load_folder(folder).d == D
        same(importing.load_folder(folder), x, folder)


def test_fvu_is_that_of_dictionary_learning(oracle, tmp_path):
    """Same tokens in the same order, size, k, rate, steps and dead features: FVU within 5 %."""
    rng = np.random.default_rng(0)
    truth = atoms(96, 32, rng)
    tokens, held_out = planted(20_000, truth, rng, active=4), planted(4000, truth, rng, active=4)
    # Scaled as our trainer does, so that rates and clipping mean the same to both.
    scale = float((32 / np.square(tokens).sum(1).mean()) ** 0.5)
    tokens, held_out = tokens * scale, held_out * scale
    settings = {
        "n_features": 192, "k": 4, "batch_tokens": 512, "training_tokens": 512 * 2000,
        "learning_rate": 2e-3, "dead_after_tokens": 512 * 20,
    }  # fmt: skip
    path = write_activations(tmp_path / "0.zarr.zip", tokens, np.repeat(np.arange(400), 50))
    selector = [np.ones(len(tokens), bool)]
    lookup = {row.tobytes(): number for number, row in enumerate(tokens)}
    buffer = TokenBuffer([path], 0, selector, 512, np.random.default_rng(1))
    order = [[lookup[row.tobytes()] for row in buffer.batch()] for _ in range(2000)]
    np.save(tmp_path / "order.npy", np.array(order))
    np.save(tmp_path / "tokens.npy", tokens)
    np.save(tmp_path / "x.npy", held_out)
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    oracle("learning", tmp_path)
    buffer = TokenBuffer([path], 0, selector, 512, np.random.default_rng(1))
    ours, _, _ = training.train(buffer, settings, seed=0)
    theirs = importing.load_folder(tmp_path)
    same(theirs, torch.from_numpy(held_out), tmp_path)
    quality = {name: metrics.quality(each, [held_out]) for name, each in (("ours", ours), ("theirs", theirs))}
    assert quality["ours"]["l0"] == pytest.approx(quality["theirs"]["l0"], rel=0.1)
    assert quality["ours"]["fvu"] < 1.05 * quality["theirs"]["fvu"], quality
