"""Pretraining in place: masking, SVD embeddings, learning, resuming, determinism, and the three starts."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from interptfm import pretrain
from interptfm.errors import InputError
from interptfm.pretrain import building, training
from interptfm.scgpt import checkpoint
from interptfm.scgpt.model import ModelConfig, initialise
from interptfm.scgpt.tokenizer import Vocabulary, tokenize

N_GENES = 48
GENES = [f"G{i}" for i in range(N_GENES)]
MODULES = np.arange(N_GENES) % 4
TINY = {
    "init": "trained", "embsize": 32, "nheads": 4, "d_hid": 32, "nlayers": 2, "n_layers_cls": 3,
    "dropout": 0.1, "n_bins": 51, "pretrain": {"epochs": 2, "batch_cells": 16},
}  # fmt: skip


def simulate(n_cells: int, seed: int) -> sparse.csr_matrix:
    """Counts in which each cell expresses one of four gene modules more than the others."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(0).gamma(1.0, 1.5, N_GENES) + 0.2
    active = rng.integers(0, 4, n_cells)
    rates = means * np.where(active[:, None] == MODULES, 5.0, 0.7) * rng.gamma(5, 0.2, (n_cells, 1))
    return sparse.csr_matrix(rng.poisson(rates).astype(np.float32))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny matrices: a second thread costs more than it gives, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sample() -> pretrain.Sample:
    split = np.resize(["train"] * 7 + ["validation"] * 2 + ["guard"], 300).astype(str)
    return pretrain.Sample(simulate(300, 1), GENES, split, [f"s:1_{i}" for i in range(300)])


@pytest.fixture(scope="module")
def tokens():
    vocabulary = Vocabulary.from_genes(GENES)
    return tokenize(simulate(160, 2), np.arange(N_GENES), vocabulary, cell_names=None)


def network(seed: int = 1):
    config = ModelConfig(embsize=32, nheads=4, d_hid=32, nlayers=2, dropout=0.1)
    vocabulary = Vocabulary.from_genes(GENES)
    return initialise(config, len(vocabulary), vocabulary.pad_id, seed)


def weights(model) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def same(a, b) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_masks_hit_the_asked_share_of_genes_and_never_cls(tokens):
    ratio = np.resize([0.25, 0.5, 0.75], len(tokens))
    batch = pretrain.masked_batch(tokens, ratio, np.random.default_rng(0), mask_value=-1)
    masked = batch.masked.numpy()
    assert (tokens.var[masked] >= 0).all()
    cell = np.repeat(np.arange(len(tokens)), tokens.lengths)
    counted = np.bincount(cell[masked], minlength=len(tokens))
    np.testing.assert_array_equal(counted, batch.masked_lengths.numpy())
    np.testing.assert_array_equal(counted, np.maximum(1, np.rint(ratio * (tokens.lengths - 1))))
    values = batch.values.numpy()
    assert (values[masked] == -1).all()
    np.testing.assert_array_equal(np.delete(values, masked), np.delete(tokens.values, masked))
    np.testing.assert_array_equal(batch.targets.numpy(), tokens.values[masked])
    assert len(np.unique(tokens.var[masked])) == N_GENES


def test_batches_hold_every_cell_once_within_the_token_budget(monkeypatch):
    from interptfm.pretrain import masking

    monkeypatch.setattr(masking, "BATCH_TOKENS", 100)
    lengths = np.random.default_rng(0).integers(2, 60, 500)
    lengths[3] = 400
    batches = pretrain.cut_batches(lengths, 8, np.random.default_rng(1))
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert max(map(len, batches)) <= 8
    assert all(lengths[b].sum() <= 100 or len(b) == 1 for b in batches)
    assert list(np.concatenate(pretrain.cut_batches(lengths, 8))) == list(range(500))


def test_gene_half_is_stratified_and_deterministic():
    mean = np.random.default_rng(0).lognormal(size=101)
    half = pretrain.gene_half(mean, seed=4)
    np.testing.assert_array_equal(half, pretrain.gene_half(mean, seed=4))
    assert (half != pretrain.gene_half(mean, seed=5)).any()
    pairs = half[np.argsort(mean, kind="stable")][:100].reshape(50, 2)
    assert (pairs.sum(1) == 1).all()


def test_svd_embeddings_keep_modules_through_the_layer_norm():
    counts = [simulate(200, 3), simulate(150, 4)]
    rows = pretrain.svd_gene_embeddings(counts, 32, seed=1)
    assert rows.shape == (N_GENES, 32) and rows.dtype == np.float32
    normed = torch.nn.functional.layer_norm(torch.from_numpy(rows), (32,)).numpy()
    cosine = np.corrcoef(normed)
    together = MODULES[:, None] == MODULES
    apart = cosine[~together]
    inside = cosine[together & ~np.eye(N_GENES, dtype=bool)]
    assert np.median(inside) > np.quantile(apart, 0.99) + 0.2
    np.testing.assert_array_equal(rows, pretrain.svd_gene_embeddings(counts, 32, seed=1))


def test_svd_embeddings_ignore_depth_and_section_effects():
    """Depth and a section's gene effects are nobody's co-expression: no structure is found in them."""
    rng = np.random.default_rng(0)
    means = rng.gamma(1.0, 0.5, 200) + 0.05
    sections = []
    for _ in range(2):
        rates = means * rng.lognormal(0, 0.5, 200) * rng.gamma(5, 0.2, (300, 1))
        sections.append(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)))
    cosine = np.corrcoef(pretrain.svd_gene_embeddings(sections, 64, seed=1))
    random = np.corrcoef(rng.standard_normal((200, 64)))
    others = ~np.eye(200, dtype=bool)
    assert np.abs(cosine[others]).mean() < 1.05 * np.abs(random[others]).mean()


def test_svd_embeddings_with_more_dimensions_than_genes_and_a_silent_gene():
    counts = simulate(100, 5).tolil()
    counts[:, 7] = 0
    rows = pretrain.svd_gene_embeddings([counts.tocsr()], 2 * N_GENES, seed=1)
    assert np.isfinite(rows).all()
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)
    others = np.delete(rows, 7, axis=0) @ rows[7] / norms[0] ** 2
    assert np.abs(others).max() < 0.5


def test_baselines_against_the_plain_formula(tokens):
    batches = pretrain.validation_batches(tokens, [0.5], -1, seed=1)
    frame = pd.DataFrame({"gene": tokens.genes, "value": tokens.values})[tokens.var >= 0]
    mean = frame.groupby("gene").value.mean()
    simple, offset = [], []
    for batch in batches:
        cell = np.repeat(np.arange(len(batch.lengths)), batch.lengths)
        for row, target in zip(batch.masked.numpy(), batch.targets.numpy(), strict=True):
            gene = int(batch.genes[row])
            simple.append((target - mean[gene]) ** 2)
            peers = [
                float(batch.values[r]) - mean[int(batch.genes[r])]
                for r in np.flatnonzero(cell == cell[row])[1:]
                if batch.values[r] != -1
            ]
            offset.append((target - mean[gene] - np.mean(peers)) ** 2)
    result = pretrain.baselines(tokens, batches, -1)
    assert result["gene_mean"] == pytest.approx(np.mean(simple), rel=1e-5)
    assert result["gene_and_cell"] == pytest.approx(np.mean(offset), rel=1e-5)


def test_training_beats_the_gene_means_on_held_out_cells():
    """Held-out modules are predictable from visible genes alone, so gene means must be beaten."""
    split = np.resize(["train"] * 4 + ["validation"], 700).astype(str)
    sample = pretrain.Sample(simulate(700, 6), GENES, split, [f"s:1_{i}" for i in range(700)])
    settings = {"epochs": 8, "batch_cells": 16, "learning_rate": 0.002}
    built = pretrain.build([sample], {**TINY, "pretrain": settings}, seed=1)
    measured = built.metrics["validation"]
    assert built.metrics["kind"] == "trained in place"
    assert measured["explained"]["token"] > 0.2
    assert measured["explained"]["cls"] > 0.05
    assert measured["error"]["token"] < measured["baseline_error"]["gene_and_cell"]
    history = built.history
    assert history["best"].sum() == 1
    assert history.loc[history["best"], "validation_loss"].item() == history["validation_loss"].min()
    assert history["train_token"].iloc[-1] < history["train_token"].iloc[1]
    assert not built.model.training


def test_best_weights_are_kept(tokens):
    model, settings = network(), pretrain.Settings(epochs=3, batch_cells=16, learning_rate=0.3)
    validation = pretrain.validation_batches(tokens, settings.mask_ratios, -1, seed=1)
    history = pretrain.pretrain(model, tokens, validation, settings, seed=1)
    token, cls = pretrain.evaluate(model, validation)
    assert token + cls == pytest.approx(history["validation_loss"].min(), rel=1e-6)


def test_patience_stops(tokens, monkeypatch):
    losses = iter([9.0, 5.0, 6.0, 7.0, 8.0, 1.0])
    monkeypatch.setattr(training, "evaluate", lambda *_: (next(losses), 0.0))
    settings = pretrain.Settings(epochs=6, batch_cells=64, patience=2)
    validation = pretrain.validation_batches(tokens, settings.mask_ratios, -1, seed=1)
    history = pretrain.pretrain(network(), tokens, validation, settings, seed=1)
    assert list(history["epoch"]) == [0, 1, 2, 3] and history["best"].idxmax() == 1


def test_interrupted_and_resumed_run_ends_in_the_same_weights(tokens, tmp_path, monkeypatch):
    settings = pretrain.Settings(epochs=4, batch_cells=32)
    validation = pretrain.validation_batches(tokens, settings.mask_ratios, -1, seed=1)
    whole = network()
    expected = pretrain.pretrain(whole, tokens, validation, settings, seed=1)

    path, epochs = tmp_path / ".work" / "pretrain.pt", []
    train_epoch = training._train_epoch

    def interrupted(*arguments):
        if len(epochs) == 2:
            raise KeyboardInterrupt
        epochs.append(1)
        return train_epoch(*arguments)

    monkeypatch.setattr(training, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(network(), tokens, validation, settings, seed=1, checkpoint_path=path)
    epochs.clear()
    resumed = network()
    torch.manual_seed(99)  # the global generator has no part in it
    history = pretrain.pretrain(resumed, tokens, validation, settings, seed=1, checkpoint_path=path)
    assert len(epochs) == 2
    pd.testing.assert_frame_equal(history, expected)
    assert same(weights(resumed), weights(whole))

    # A state of other settings, and a damaged file, are not continued.
    for content in (path.read_bytes(), b"damaged"):
        path.write_bytes(content)
        monkeypatch.setattr(training, "_train_epoch", train_epoch)
        again = pretrain.pretrain(
            network(), tokens, validation, pretrain.Settings(epochs=1, batch_cells=32), seed=1,
            checkpoint_path=path,
        )  # fmt: skip
        assert list(again["epoch"]) == [0, 1]


def test_same_seed_same_weights_and_other_seed_others(sample):
    once, twice = (pretrain.build([sample], TINY, seed=1) for _ in range(2))
    assert same(weights(once.model), weights(twice.model))
    pd.testing.assert_frame_equal(once.history, twice.history)
    assert json.dumps(once.metrics) == json.dumps(twice.metrics)
    assert not same(weights(once.model), weights(pretrain.build([sample], TINY, seed=2).model))


def test_only_training_cells_train(sample):
    """What the test and guard cells hold leaves no trace; neither does the order of the validation cells."""
    changed = sample.counts.tolil()
    changed[sample.split == "guard"] = 9
    other = pretrain.Sample(changed.tocsr(), GENES, sample.split, sample.names)
    a, b = (pretrain.build([s], TINY, seed=1) for s in (sample, other))
    assert same(weights(a.model), weights(b.model))


def test_svd_only_is_where_training_starts_and_random_shares_the_rest(sample):
    svd, random = (
        pretrain.build([sample], {**TINY, "init": init}, seed=1) for init in ("svd_only", "random")
    )
    assert (svd.metrics["kind"], random.metrics["kind"]) == ("svd_only", "random")
    embedding = "encoder.embedding.weight"
    assert svd.metrics["validation"]["explained"] is None
    a, b = weights(svd.model), weights(random.model)
    assert not np.array_equal(a[embedding], b[embedding])
    assert all(np.array_equal(a[name], b[name]) for name in a if name != embedding)
    train = sample.counts[sample.split == "train"]
    rows = pretrain.svd_gene_embeddings([train], 32, seed=1)
    np.testing.assert_array_equal(a[embedding][:N_GENES], rows)
    assert list(svd.history["epoch"]) == [0] and svd.history["best"].all()


def test_checkpoint_is_loaded_and_its_controls_share_architecture(sample, tmp_path):
    vocabulary = Vocabulary.from_genes([*GENES[::-1], "OTHER"][2:])
    config = ModelConfig(embsize=16, nheads=2, d_hid=16, nlayers=1, n_bins=21)
    given = initialise(config, len(vocabulary), vocabulary.pad_id, seed=8)
    checkpoint.save(tmp_path, given, vocabulary)
    loaded = pretrain.build([sample], TINY, checkpoint=tmp_path, seed=1)
    assert loaded.metrics["kind"] == "official checkpoint"
    assert loaded.metrics["checkpoint"]["missing"] == []
    assert same(weights(loaded.model), weights(given))
    assert loaded.metrics["genes"]["missing"] == [GENES[-2], GENES[-1]]
    assert loaded.metrics["genes"]["fraction_found"] == pytest.approx(46 / 48)
    for init in ("random", "svd_only"):
        control = pretrain.build([sample], {**TINY, "init": init}, checkpoint=tmp_path, seed=1)
        assert control.metrics["kind"] == init and control.metrics["checkpoint"] is None
        assert control.model.config == config and control.vocabulary == vocabulary
        assert not same(weights(control.model), weights(given))


def test_half_of_the_genes_is_hidden_everywhere(sample, tmp_path):
    a, b = (
        pretrain.build([sample], {**TINY, "init": "svd_only"}, genes=half, seed=1)
        for half in ("half_a", "half_b")
    )
    assert set(a.extra_args["excluded_genes"]) | set(b.extra_args["excluded_genes"]) == set(GENES)
    assert not set(a.extra_args["excluded_genes"]) & set(b.extra_args["excluded_genes"])
    assert set(a.vocabulary.tokens[:-3]) == set(b.extra_args["excluded_genes"])
    checkpoint.save(tmp_path, a.model, a.vocabulary, a.extra_args)
    from interptfm import activations

    model = activations.load_model(tmp_path)
    ids = activations.gene_ids(GENES, model)
    assert [g for g, i in zip(GENES, ids, strict=True) if i < 0] == a.extra_args["excluded_genes"]


def test_samples_with_different_panels_share_one_model(sample):
    fewer = np.arange(N_GENES)[::-1][:40]
    other = pretrain.Sample(
        sample.counts[:, fewer], [GENES[g] for g in fewer], sample.split, [f"t{n}" for n in sample.names]
    )
    aligned = pretrain.align(other.counts, other.symbols, GENES)
    np.testing.assert_array_equal(aligned.toarray()[:, fewer], sample.counts[:, fewer].toarray())
    assert aligned[:, : N_GENES - 40].nnz == 0
    built = pretrain.build([sample, other], {**TINY, "init": "svd_only"}, seed=1)
    assert built.vocabulary.tokens[:N_GENES] == tuple(GENES)
    assert built.metrics["cells"]["train"] == 2 * (sample.split == "train").sum()


def test_bad_input_is_one_sentence(sample, tmp_path):
    def replaced(split):
        return pretrain.Sample(sample.counts, GENES, split, sample.names)

    with pytest.raises(InputError, match="validation split"):
        pretrain.build([replaced(np.full(300, "train"))], TINY, seed=1)
    with pytest.raises(InputError, match="training cells"):
        pretrain.build([replaced(np.full(300, "validation"))], TINY, seed=1)
    with pytest.raises(InputError, match="training split"):
        pretrain.build([replaced(np.full(300, "validation"))], {**TINY, "init": "random"}, seed=1)
    with pytest.raises(InputError, match=r"model\.pretrain: found key 'epoch'"):
        pretrain.build([sample], {**TINY, "pretrain": {"epoch": 3}}, seed=1)
    with pytest.raises(InputError, match="mask_ratios"):
        pretrain.Settings(mask_ratios=[0.5, 1.0])
    with pytest.raises(InputError, match=r"model\.init"):
        pretrain.build([sample], {**TINY, "init": "pretrained"}, seed=1)
    with pytest.raises(InputError, match=r"cells\.genes"):
        building._visible_genes([sample.counts], "half", 1)
    config = ModelConfig(embsize=16, nheads=2, d_hid=16, nlayers=1)
    vocabulary = Vocabulary.from_genes([f"ENSG{i}" for i in range(50)])
    checkpoint.save(tmp_path, initialise(config, 53, vocabulary.pad_id, 1), vocabulary)
    with pytest.raises(InputError, match=r"0 of 48 genes.*G0.*ENSG0"):
        pretrain.build([sample], TINY, checkpoint=tmp_path, seed=1)
