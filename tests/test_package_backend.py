"""``model.backend: scgpt``: the package's own transformer writes the same store, to rounding."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import scgpt_oracle as oracle
import torch
from planning import plans
from scipy import sparse

from interptfm import activations, store
from interptfm.errors import InputError
from interptfm.scgpt import checkpoint, package
from interptfm.scgpt.model import ModelConfig, initialise
from interptfm.scgpt.tokenizer import Vocabulary

installed = pytest.mark.skipif(bool(oracle.absent()), reason=str(oracle.absent()))
GENES = [f"G{i}" for i in range(30)]
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    vocabulary = Vocabulary.from_genes(GENES[3:])
    network = initialise(
        ModelConfig(embsize=16, nheads=4, d_hid=24, nlayers=3), len(vocabulary), vocabulary.pad_id, 3
    )
    # Neutral norms and biases would hide a layer taken at the wrong place.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    path = tmp_path_factory.mktemp("model")
    checkpoint.save(path, network, vocabulary, {"genes": "all", "excluded_genes": []})
    return path


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(1)
    return sparse.csr_matrix(rng.poisson(rng.gamma(0.5, 2.0, (40, len(GENES)))).astype(np.float32))


def extracted(path, folder, counts, backend):
    model = activations.load_model(folder, backend=backend)
    names, everything = [f"s:{i}" for i in range(counts.shape[0])], np.ones(counts.shape[0], bool)
    activations.write_shard(
        path, model, counts, GENES, names, everything, [0, 2], dtype="float32", batch_tokens=100
    )
    with store.open_activations(path) as opened:
        rows = {layer: opened.rows(layer, 0, opened.n_tokens) for layer in opened.layers}
        cls = {layer: opened.cls(layer) for layer in opened.layers}
        return opened.gene, opened.cell, opened.value, rows, cls, opened.attributes  # fmt: skip


@installed
def test_both_back_ends_write_the_same_store(tmp_path, folder, counts):
    ours = extracted(tmp_path / "ours.zarr.zip", folder, counts, "interptfm")
    theirs = extracted(tmp_path / "theirs.zarr.zip", folder, counts, "scgpt")
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        np.testing.assert_array_equal(mine, other)
    for mine, other in zip(ours[3:5], theirs[3:5], strict=True):
        for layer in (0, 2):
            assert mine[layer].shape == other[layer].shape
            np.testing.assert_allclose(mine[layer], other[layer], atol=TOLERANCE)
    assert (ours[5].pop("backend"), theirs[5].pop("backend")) == ("interptfm", "scgpt")
    assert ours[5] == theirs[5]


@installed
def test_a_layer_taken_elsewhere_would_be_seen(tmp_path, folder, counts):
    """The tolerance bites: neighbouring layers differ by far more."""
    rows = extracted(tmp_path / "x.zarr.zip", folder, counts, "scgpt")[3]
    assert np.abs(rows[0] - rows[2]).max() > 100 * TOLERANCE


@installed
def test_nothing_of_the_package_stays_imported(folder):
    activations.load_model(folder, backend="scgpt")
    assert not [name for name in sys.modules if name.split(".")[0] == "scgpt"]


@installed
def test_weights_that_the_package_lacks_are_named(folder):
    network = checkpoint.load(folder)[0]
    network.further = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"found weight further\.weight only in the checkpoint"):
        package.PackageNetwork(network)


def test_without_the_package_one_sentence_says_what_to_do(folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"no such package .*envs/scgpt\.yaml"):
        activations.load_model(folder, backend="scgpt")


def test_another_name_is_refused(folder):
    with pytest.raises(InputError, match="found 'geneformer', expected interptfm or scgpt"):
        activations.load_model(folder, backend="geneformer")


@pytest.mark.xdist_group("workflow")
def test_the_small_workflow_runs_with_it(root, project, tmp_path):
    """The back end alone changes: model and cells stay, all that reads activations runs again."""
    (tmp_path / "scgpt.yaml").write_text("model: {backend: scgpt}\n")
    (tmp_path / "arm.yaml").write_text("arms: {untrained: {model: {backend: scgpt}}}\n")
    found = plans(
        project,
        {name: {"configs": ["tests/tiny.yaml", str(tmp_path / f"{name}.yaml")]} for name in ("scgpt", "arm")},
    )
    assert found["scgpt"]["extract"] == 4 and "build_model" not in found["scgpt"]
    assert "arm 'untrained': found the key 'model.backend', which an arm cannot change" in found["arm"]
