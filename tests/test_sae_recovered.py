"""Loss recovered: the model's error with a layer replaced, on a small untrained model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from test_sae import one_thread

from interptfm import pretrain
from interptfm.activations import Model
from interptfm.dictionary_quality import recovered
from interptfm.errors import InputError
from interptfm.sae.inference import Dictionary
from interptfm.scgpt.model import ModelConfig, initialise
from interptfm.scgpt.tokenizer import Vocabulary

__all__ = ["one_thread"]

D, GENES = 16, 30


def identity(d=D, shift=0.0):
    """A dictionary of 2 d features that reconstructs x + shift exactly."""
    eye = np.eye(d, dtype=np.float32)
    weights = {
        "W_enc": np.hstack([eye, -eye]),
        "W_dec": np.vstack([eye, -eye]),
        "b_enc": np.zeros(2 * d, np.float32),
        "b_dec": np.zeros(d, np.float32),
    }
    if shift:
        weights["b_dec"] += shift
        weights["b_enc"] += np.r_[np.full(d, shift), np.full(d, -shift)].astype(np.float32)
    return Dictionary("standard", weights)


@pytest.fixture(scope="module")
def setting():
    symbols = [f"G{i}" for i in range(GENES)]
    vocabulary = Vocabulary.from_genes(symbols)
    config = ModelConfig(embsize=D, nheads=2, d_hid=D, nlayers=2, dropout=0.0)
    network = initialise(config, len(vocabulary), vocabulary.pad_id, 0).eval().requires_grad_(False)
    model = Model(network, vocabulary, frozenset(), "all", "digest")
    rng = np.random.default_rng(0)
    samples = []
    for name in "ab":
        counts = sparse.csr_matrix(rng.poisson(1.0, (40, GENES)).astype(np.float32))
        split = np.array(["train", "test"] * 20)
        samples.append(pretrain.Sample(counts, symbols, split, [f"{name}:{i}" for i in range(40)]))
    return samples, model


def batches_of(setting, seed=0, **options):
    samples, model = setting
    return recovered.masked_cells(samples, model, [0.25, 0.5], np.random.default_rng(seed), seed, **options)


def test_cells_are_of_the_split_and_bounded(setting):
    batches = batches_of(setting)
    assert sum(len(batch.lengths) for batch in batches) == 40
    few = batches_of(setting, max_cells=7)
    assert sum(len(batch.lengths) for batch in few) == 7
    again = batches_of(setting, max_cells=7)
    for one, other in zip(few, again, strict=True):
        assert torch.equal(one.genes, other.genes) and torch.equal(one.masked, other.masked)
    with pytest.raises(InputError, match="no cell with known genes in the validation split"):
        batches_of(setting, split="validation")


@pytest.mark.parametrize("tokens", ["gene", "cls"])
@pytest.mark.parametrize("layer", [0, 1])
def test_errors_are_those_of_the_model_with_replaced_states(setting, tokens, layer):
    _, model = setting
    batches = batches_of(setting)
    found = recovered.loss_recovered(model.network, batches, identity(), layer, tokens)
    assert found["head"] == {"gene": "token", "cls": "cls"}[tokens] and found["cells"] == 40
    token, cls = pretrain.evaluate(model.network, batches)
    assert found["error"]["original"] == pytest.approx(token if tokens == "gene" else cls, rel=1e-5)
    # A perfect dictionary recovers everything.
    assert found["error"]["reconstruction"] == pytest.approx(found["error"]["original"], rel=1e-5)
    assert all(value < 1e-9 for value in found["fvu"].values())
    harmful = {name for name, value in found["recovered"].items() if value is not None}
    for name in harmful:
        assert found["recovered"][name] == pytest.approx(1, abs=1e-3)
    assert found["error"]["zero"] != pytest.approx(found["error"]["original"], rel=1e-3)

    # Zero ablation by hand, with the edit written out.
    total, count = 0.0, 0
    for batch in batches:
        starts = torch.cumsum(batch.lengths, 0) - batch.lengths

        def zero(number, states, starts=starts):
            if number != layer:
                return states
            keep = torch.zeros(len(states), 1)
            keep[starts] = 1
            return states * (keep if tokens == "gene" else 1 - keep)

        last = model.network(batch.genes, batch.values, batch.lengths, layers=(), edit=zero).last
        if tokens == "gene":
            predicted = model.network.expression(last[batch.masked])
        else:
            predicted = model.network.mvc(last[starts], batch.genes[batch.masked], batch.masked_lengths)
        total += float((predicted - batch.targets).double().square().sum())
        count += len(batch.targets)
    assert found["error"]["zero"] == pytest.approx(total / count, rel=1e-6)


def test_recovered_is_the_share_of_the_damage_avoided(setting):
    _, model = setting
    batches = batches_of(setting)
    shifted = recovered.loss_recovered(model.network, batches, identity(shift=0.7), 0)
    error, share = shifted["error"], shifted["recovered"]
    assert error["reconstruction"] != pytest.approx(error["original"], rel=1e-4)
    for name in ("mean", "zero"):
        damage = error[name] - error["original"]
        if damage > 1e-6 * error["original"]:
            assert share[name] == pytest.approx((error[name] - error["reconstruction"]) / damage)
        else:
            assert share[name] is None
    assert shifted["fvu"]["visible"] > 0 and shifted["fvu"]["masked"] > 0


def test_a_dictionary_of_the_mean_recovers_nothing_of_the_mean_ablation(setting):
    _, model = setting
    batches = batches_of(setting)
    states = []

    def note(number, found):
        if number == 0:
            states.append(found)
        return found

    for batch in batches:
        model.network(batch.genes, batch.values, batch.lengths, layers=(), edit=note)
        states[-1] = states[-1][recovered.replaced_rows(batch, "gene")]
    mean = torch.cat(states).mean(0).numpy()
    silent = {
        "W_enc": np.zeros((D, 4), np.float32),
        "W_dec": np.zeros((4, D), np.float32),
        "b_enc": np.zeros(4, np.float32),
        "b_dec": mean,
    }
    found = recovered.loss_recovered(model.network, batches, Dictionary("standard", silent), 0)
    assert found["error"]["reconstruction"] == pytest.approx(found["error"]["mean"], rel=1e-5)
    total = (found["fvu"]["visible"], found["fvu"]["masked"])
    assert min(total) > 0.5
