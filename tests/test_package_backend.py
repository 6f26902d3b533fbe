"""``model.backend: scgpt``: the package's own transformer writes the same store, to rounding."""

from __future__ import annotations

import importlib.util
import shutil
import sys

import numpy as np
import pytest
import scgpt_oracle as oracle
import torch
import yaml
from planning import plans, snakemake
from scipy import sparse

from interptfm import activations, store
from interptfm import config as settings
from interptfm.errors import InputError
from interptfm.scgpt import checkpoint, package
from interptfm.scgpt.model import MAX_PADDING, ModelConfig, initialise
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
def test_a_long_cell_does_not_pad_the_others(folder):
    """Time and memory follow the tokens: in one padded batch this would be 10 times as many positions."""
    network = checkpoint.load(folder)[0]
    adapted, seen = package.PackageNetwork(network), []
    encode = adapted.model._encode

    def counted(genes, values, padding):
        seen.append(padding)
        assert (genes[padding] == network.pad_id).all()
        assert (values[padding] == network.config.pad_value).all()
        return encode(genes, values, padding)

    adapted.model._encode = counted
    lengths = torch.tensor([4, 6, 90, 5, 5, 4, 7, 5, 4, 6, 5, 6])
    generator = torch.Generator().manual_seed(2)
    genes = torch.randint(0, 20, (int(lengths.sum()),), generator=generator)
    values = torch.randint(1, 51, genes.shape, generator=generator).float()
    with torch.no_grad():
        ours, theirs = network(genes, values, lengths), adapted(genes, values, lengths, layers=[1])
    assert list(theirs.states) == [1]
    torch.testing.assert_close(theirs.states[1], ours.states[1], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(theirs.last, ours.last, atol=TOLERANCE, rtol=0)
    assert sum(padding.numel() for padding in seen) <= len(genes) / (1 - MAX_PADDING)
    assert sum(int((~padding).sum()) for padding in seen) == len(genes)


@installed
def test_a_checkpoint_without_the_mvc_decoder_loads():
    network = initialise(ModelConfig(embsize=8, nheads=2, d_hid=8, nlayers=1, MVC=False), 5, 3, 0)
    assert not hasattr(package.PackageNetwork(network).model, "mvc_decoder")


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


@pytest.mark.parametrize("model", [None, 3, ["backend"]])
def test_an_arm_whose_model_is_no_block_gets_a_sentence(root, model):
    configuration = settings.load_yaml(root / "config/config.yaml")
    schema = settings.load_yaml(root / "workflow/schemas/config.schema.yaml")
    with pytest.raises(InputError, match=r"arm 'x': key 'model': found .*, expected object"):
        settings.resolve(configuration | {"arms": {"x": {"model": model}}}, schema)


def test_the_workflow_plans_with_it(project, tmp_path):
    """The back end alone changes: model and cells stay, all that reads activations runs again."""
    overlays = {
        "scgpt": {"model": {"backend": "scgpt"}},
        "python": {"model": {"backend": "scgpt"}, "environments": {"scgpt": sys.executable}},
        "arm": {"arms": {"untrained": {"model": {"backend": "scgpt"}}}},
    }
    for name, overlay in overlays.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(overlay))
    found = plans(
        project,
        {name: {"configs": ["tests/tiny.yaml", str(tmp_path / f"{name}.yaml")]} for name in overlays},
    )
    assert found["scgpt"]["extract"] == 6 and "build_model" not in found["scgpt"]
    assert found["python"] == found["scgpt"]
    assert "arm 'untrained': key 'model.backend': found 'scgpt', expected 'interptfm' as in" in found["arm"]


@installed
def test_the_rule_runs_with_it_in_the_python_of_its_family(project, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    wrapper = folder / "other_python"
    wrapper.write_text(f'#!/bin/sh\necho "$1" >> {folder}/used.txt\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    configuration = settings.load_yaml(folder / "tests/tiny.yaml")
    configuration["model"]["backend"] = "scgpt"
    configuration["environments"] = {"scgpt": "./other_python"}
    (folder / "scgpt.yaml").write_text(yaml.safe_dump(configuration))
    [place, *_] = sorted(path.relative_to(project) for path in project.glob("results/tiny/activations/*/0.*"))
    done = snakemake(folder, str(place), config="scgpt.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((folder / "used.txt").read_text().splitlines()) == 1
    with store.open_activations(project / place) as ours, store.open_activations(folder / place) as theirs:
        assert (ours.attributes["backend"], theirs.attributes["backend"]) == ("interptfm", "scgpt")
        assert list(ours.layers) == list(theirs.layers)
        for name in ("gene", "cell", "value"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        for layer in ours.layers:
            mine, other = ours.rows(layer, 0, ours.n_tokens), theirs.rows(layer, 0, theirs.n_tokens)
            assert mine.dtype == other.dtype
            # The store keeps few bits of the mantissa: rounding may tip a value to its neighbour.
            np.testing.assert_allclose(mine.astype("f4"), other.astype("f4"), rtol=2**-5, atol=1e-3)
