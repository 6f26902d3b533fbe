"""The dictionary stage: sparse gradients, BatchTopK, buffer, training, format, metrics."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from interptfm import store
from interptfm.errors import InputError
from interptfm.sae import format as sae_format
from interptfm.sae import metrics, selection, sparse, stage, training
from interptfm.sae.buffer import TokenBuffer, selected_blocks, token_splits
from interptfm.sae.inference import Dictionary
from interptfm.sae.topk import BatchTopK


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def atoms(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    directions = rng.standard_normal((n, d))
    return (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)


def planted(n: int, truth: np.ndarray, rng: np.random.Generator, active: int = 3) -> np.ndarray:
    """Tokens that are sums of ``active`` true atoms with amplitudes 1–2, an offset and 2 % noise."""
    code = np.zeros((n, len(truth)), np.float32)
    chosen = rng.random((n, len(truth))).argsort(1)[:, :active]
    np.put_along_axis(code, chosen, rng.uniform(1, 2, (n, active)).astype(np.float32), 1)
    noise = 0.02 * rng.standard_normal((n, truth.shape[1]))
    return (code @ truth + 0.5 + noise).astype(np.float32)


def write_activations(path, x, cells, sample="a", layer=0, **attributes):
    """Store rows of ``x`` as the gene tokens of ``cells`` (sorted) and per-cell means as ``<cls>``."""
    unique = np.unique(cells)
    named = {"sample": sample, "shard": 0, "model": "m", "mode": "hvg", **attributes}
    with store.ActivationWriter(path, [layer], len(x), len(unique), x.shape[1], "float32", named) as writer:
        writer.write(np.zeros(len(x)), cells, np.ones(len(x)), {layer: x})
        writer.write_cls(0, np.stack([x[cells == c].mean(0) for c in unique])[None])
    return path


@pytest.fixture
def files(tmp_path):
    """Two shards of one sample, 3,000 tokens of width 16, 30 tokens a cell."""
    rng = np.random.default_rng(0)
    truth = atoms(24, 16, rng)
    paths = []
    for shard in range(2):
        cells = np.repeat(np.arange(50) + 50 * shard, 30)
        path = tmp_path / f"{shard}.zarr.zip"
        paths.append(write_activations(path, planted(1500, truth, rng), cells))
    return paths


def everything(paths):
    return [np.ones(1500, bool) for _ in paths]


def make_buffer(paths, seed=0, **options):
    return TokenBuffer(
        paths, 0, everything(paths), options.pop("batch_tokens", 256), np.random.default_rng(seed), **options
    )


SMALL = {"n_features": 32, "k": 3, "batch_tokens": 256, "training_tokens": 256 * 40}


def small_model(k=3, d=16, n=40, seed=0, aux=1 / 32):
    generator = torch.Generator().manual_seed(seed)
    model = BatchTopK(d, n, {"k": k, "aux_coefficient": aux}, torch.full((d,), 0.1), generator)
    with torch.no_grad():
        for value in model.parameters.values():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    return model


def dense_loss(model, x, dead):
    """The same loss written with dense matrices, every gradient left to autograd."""
    p = {name: value.detach().clone().requires_grad_() for name, value in model.parameters.items()}
    pre = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    flat = torch.relu(pre).flatten()
    values, index = flat.topk(model.settings["k"] * len(x))
    code = torch.zeros_like(flat).scatter(0, index, values).view_as(pre)
    residual = x - code @ p["W_dec"] - p["b_dec"]
    total = residual.square().sum(1).mean()
    if len(dead):
        pre = (x - p["b_dec"].detach()) @ p["W_enc"].T + p["b_enc"]
        top = pre[:, dead].topk(min(x.shape[1] // 2, len(dead)), dim=1)
        aux = torch.zeros(len(x), len(dead)).scatter(1, top.indices, torch.relu(top.values))
        error = residual.detach() - aux @ p["W_dec"][dead]
        total = total + model.settings["aux_coefficient"] * error.square().sum(1).mean()
    total.backward()
    return total.detach(), {name: value.grad for name, value in p.items()}, code.detach()


@pytest.mark.parametrize("n_dead", [0, 3, 20])
def test_loss_and_gradients_are_those_of_the_dense_formula(n_dead):
    model = small_model()
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    dead = torch.arange(0, 2 * n_dead, 2)
    expected, gradients, _ = dense_loss(model, x, dead)
    loss = model.loss(x, dead)
    loss.total.backward()
    assert float(loss.total.detach()) == pytest.approx(float(expected), rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.parameters[name].grad, gradient, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_chosen_and_dead_features_only():
    model = small_model(k=1, n=200)
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    _, _, code = dense_loss(model, x, torch.empty(0, dtype=torch.long))
    chosen = set(torch.nonzero(code.any(0)).flatten().tolist())
    assert 0 < len(chosen) < 40
    model.loss(x, torch.empty(0, dtype=torch.long)).total.backward()
    for name in ("W_enc", "b_enc", "W_dec"):
        gradient = model.parameters[name].grad.reshape(200, -1)
        assert set(torch.nonzero(gradient.any(1)).flatten().tolist()) == chosen

    pre = (x - model.parameters["b_dec"]) @ model.parameters["W_enc"].T + model.parameters["b_enc"]
    silent = [j for j in range(200) if j not in chosen and bool((pre[:, j] > 0).any())][:5]
    without = {name: value.grad.clone() for name, value in model.parameters.items()}
    for value in model.parameters.values():
        value.grad = None
    model.loss(x, torch.tensor(silent)).total.backward()
    for name in ("W_enc", "b_enc", "W_dec"):
        gradient = model.parameters[name].grad.reshape(200, -1)
        assert set(torch.nonzero(gradient.any(1)).flatten().tolist()) == chosen | set(silent)
        kept = sorted(chosen)
        # The auxiliary target is detached: living features learn from the main loss alone.
        torch.testing.assert_close(gradient[kept], without[name].reshape(200, -1)[kept])
    torch.testing.assert_close(model.parameters["b_dec"].grad, without["b_dec"])


def test_batch_keeps_k_times_tokens():
    model = small_model(k=3)
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(2))
    _, _, code = dense_loss(model, x, torch.empty(0, dtype=torch.long))
    loss = model.loss(x, torch.empty(0, dtype=torch.long))
    assert int(loss.kept) == 3 * 64 == int((code > 0).sum())
    assert torch.equal(loss.fired, (code > 0).any(0))
    assert float(loss.smallest) == pytest.approx(float(code[code > 0].min()), rel=1e-6)
    per_token = (code > 0).sum(1)
    assert per_token.min() < 3 < per_token.max()


@pytest.mark.parametrize("floor", [0.0, 0.5, 1.9, 50.0])
def test_selection_is_exact_whatever_the_guess(floor):
    pre = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    pre[3, 4:9] = 1.25  # ties at the border
    pre[30, 4:9] = 1.25
    count = int((pre > 1.25).sum()) + 4
    flat, values = selection.largest_of_batch(pre, count, floor)
    assert len(flat) == count and bool((flat.diff() > 0).all())
    assert values.sort().values.tolist() == pre.flatten().topk(count).values.sort().values.tolist()
    assert torch.equal(pre.flatten()[flat], values)


def test_selection_with_too_few_positive_entries_keeps_them_all():
    pre = -torch.rand(20, 10)
    pre[4, 2], pre[7, 1] = 1.0, 2.0
    flat, values = selection.largest_of_batch(pre, 100, 0.3)
    assert flat.tolist() == [42, 71] and values.tolist() == [1.0, 2.0]
    model = small_model()
    with torch.no_grad():
        model.parameters["b_enc"].fill_(-1e3)
    loss = model.loss(torch.randn(8, 16), torch.empty(0, dtype=torch.long))
    loss.total.backward()
    model.after_step(loss)
    assert int(loss.kept) == 0 and not loss.fired.any() and float(model.threshold) == 0
    assert not model.parameters["W_enc"].grad.any()


def test_support_groups_entries_by_feature_with_either_sort():
    flat = torch.tensor([1, 5, 7, 70_001, 140_003, 140_005])
    wide, narrow = sparse.support_of(flat, 3, 70_000), sparse.support_of(flat % 10, 1, 10)
    assert wide.token.tolist() == [0, 0, 0, 1, 2, 2] and wide.token_offsets.tolist() == [0, 3, 4]
    assert wide.feature[wide.by_feature].tolist() == [1, 1, 3, 5, 5, 7]
    assert narrow.fired.nonzero().flatten().tolist() == [1, 3, 5, 7]


def test_decoder_constraints_and_running_threshold():
    model = small_model(n=200, k=1)
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    smallest = []
    for _ in range(4):
        with torch.no_grad():
            rows = model.parameters["W_dec"]
            rows /= rows.norm(dim=1, keepdim=True)
        loss = model.loss(x, torch.empty(0, dtype=torch.long))
        loss.total.backward()
        model.before_step()
        parallel = (model.parameters["W_dec"].grad * model.parameters["W_dec"]).sum(1)
        assert float(parallel.detach().abs().max()) < 1e-5
        with torch.no_grad():
            for value in model.parameters.values():
                value -= 0.05 * value.grad
                value.grad = None
        model.after_step(loss)
        torch.testing.assert_close(model.parameters["W_dec"].norm(dim=1), torch.ones(200))
        smallest.append(float(loss.smallest))
    weights = 0.99 ** np.arange(3, -1, -1)
    assert float(model.threshold) == pytest.approx(np.average(smallest, weights=weights), rel=1e-6)


def test_initial_encoder_is_the_transposed_decoder():
    model = BatchTopK(8, 20, {"k": 2, "aux_coefficient": 0.1}, torch.zeros(8), torch.Generator())
    assert torch.equal(model.parameters["W_enc"], model.parameters["W_dec"])
    assert not model.parameters["b_enc"].any()


def test_scale_folds_into_the_weights():
    model, scale = small_model(n=200), 3.7
    model.threshold_sum, model.threshold_weight = torch.tensor(1.3), torch.tensor(2.0)
    x = torch.randn(100, 16)
    folded = Dictionary(*model.inference_weights(scale))
    unfolded = Dictionary(*model.inference_weights(1.0))
    z_scaled = unfolded.encode(x * scale)
    torch.testing.assert_close(folded.encode(x) * scale, z_scaled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        folded.decode(folded.encode(x)) * scale, unfolded.decode(z_scaled), rtol=1e-5, atol=1e-5
    )
    p = model.parameters
    pre = (x * scale - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    torch.testing.assert_close(z_scaled, torch.where(pre > 0.65, pre, 0.0).detach(), rtol=1e-5, atol=1e-5)


def test_sparse_and_dense_inference_agree():
    _, weights, _ = small_model(n=200).inference_weights(1.0)
    dictionary = Dictionary("jumprelu", {**weights, "threshold": np.full(200, 0.3, np.float32)})
    x = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    dense, code = dictionary.encode(x), dictionary.encode_sparse(x)
    assert code.has_sorted_indices and 0 < code.nnz < 50 * 200 / 2
    np.testing.assert_array_equal(code.toarray(), dense.numpy())
    assert code.data.min() > 0.3
    torch.testing.assert_close(dictionary.decode(code), dictionary.decode(dense))
    with pytest.raises(InputError, match=r"\(50, 3\).*\(tokens, 16\)"):
        dictionary.encode(x[:, :3])


def test_learning_rate_schedule():
    settings = training.complete_settings({**SMALL, "warmup_fraction": 0.1, "decay_fraction": 0.2})
    peak = 2e-4 / (32 / 2**14) ** 0.5
    rates = [training.learning_rate(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(peak / 10) and rates[9:80] == pytest.approx([peak] * 71)
    assert rates[90] == pytest.approx(peak / 2) and rates[99] == pytest.approx(peak / 20)


def test_geometric_median_minimises_the_distances_and_resists_outliers():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(np.vstack([rng.standard_normal((200, 5)), np.full((40, 5), 100.0)]))
    median = training.geometric_median(x)
    gradient = ((median - x) / (median - x).norm(dim=1, keepdim=True)).mean(0)
    assert float(gradient.norm()) < 1e-3 and float(median.norm()) < 1.0 < float(x.mean(0).norm())
    same = torch.ones(30, 4)
    torch.testing.assert_close(training.geometric_median(same), torch.ones(4))


def rows_as_set(x):
    return {row.tobytes() for row in np.ascontiguousarray(x)}


def test_buffer_in_memory_gives_every_selected_token_once_an_epoch(files):
    selectors = everything(files)
    selectors[0][200:700] = False
    data = np.concatenate(list(selected_blocks(files, 0, selectors)))
    assert data.shape == (2500, 16)
    buffer = TokenBuffer(files, 0, selectors, 250, np.random.default_rng(0))
    assert buffer.resident and buffer.n_tokens == 2500
    epochs = [np.concatenate([buffer.batch() for _ in range(10)]) for _ in range(2)]
    for epoch in epochs:
        assert rows_as_set(epoch) == rows_as_set(data) and len(epoch) == 2500
    assert not np.array_equal(epochs[0], epochs[1])
    first_file = rows_as_set(data[:1000])
    share = np.mean([row.tobytes() in first_file for row in epochs[0][:250]])
    assert 0.3 < share < 0.5  # both files in every batch, in proportion


def test_buffer_out_of_memory_is_bounded_and_covers_the_data(files):
    options = {"buffer_bytes": 1000 * 64, "block_tokens": 100, "batch_tokens": 100}
    buffer = make_buffer(files, **options)
    assert not buffer.resident and buffer._data.nbytes <= 1000 * 64
    data = np.concatenate(list(selected_blocks(files, 0, everything(files))))
    seen = np.concatenate([buffer.batch() for _ in range(60)])
    assert rows_as_set(seen) <= rows_as_set(data)
    assert len(rows_as_set(seen)) > 0.98 * len(data)  # the rest still waits in the buffer
    counts = pd.Series([row.tobytes() for row in seen]).value_counts()
    assert counts.max() <= 3


@pytest.mark.parametrize("buffer_bytes", [1e9, 1000 * 64])
def test_buffer_is_deterministic_and_seeks(files, buffer_bytes):
    options = {"buffer_bytes": buffer_bytes, "block_tokens": 100, "batch_tokens": 100}
    first, second, other = (make_buffer(files, seed=s, **options) for s in (1, 1, 2))
    batches = [first.batch() for _ in range(45)]
    for batch in batches[:20]:
        np.testing.assert_array_equal(second.batch(), batch)
    assert not np.array_equal(other.batch(), batches[0])
    for position in (37, 0, 12, 30):
        other = second if position % 2 else first
        other.seek(position)
        for batch in batches[position : position + 4]:
            np.testing.assert_array_equal(other.batch(), batch)
    assert first.fingerprint() == second.fingerprint() != make_buffer(files, 2, **options).fingerprint()


def test_buffer_reads_cls_rows(files):
    buffer = TokenBuffer(
        files, 0, [np.ones(50, bool), np.arange(50) < 10], 60, np.random.default_rng(0), tokens="cls"
    )
    with store.open_activations(files[0]) as one, store.open_activations(files[1]) as two:
        expected = np.concatenate([one.cls(0), two.cls(0)[:10]])
    assert rows_as_set(buffer.batch()) == rows_as_set(expected)


def test_token_splits_follow_the_cells(files):
    splits = np.array(["train", "test"] * 50)
    found = token_splits(files[1], {"a": splits})
    assert found.shape == (1500,) and (found[:30] == "train").all() and (found[30:60] == "test").all()
    assert token_splits(files[1], {"a": splits}, "cls").tolist() == splits[50:].tolist()
    with pytest.raises(InputError, match=r"sample 'a'.*expected one of b"):
        token_splits(files[0], {"b": splits})
    with pytest.raises(InputError, match=r"found cell 99.*below the 60 cells"):
        token_splits(files[1], {"a": splits[:60]})


@pytest.fixture(scope="module")
def recovered(tmp_path_factory):
    """A dictionary of 96 features trained on 64 planted atoms in 32 dimensions."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(3)
    truth = atoms(64, 32, rng)
    path = tmp_path_factory.mktemp("planted") / "0.zarr.zip"
    write_activations(path, planted(20_000, truth, rng), np.repeat(np.arange(400), 50))
    settings = {
        "n_features": 96,
        "k": 3,
        "batch_tokens": 512,
        "training_tokens": 512 * 1500,
        "learning_rate": 3e-3,
    }
    buffer = TokenBuffer([path], 0, [np.ones(20_000, bool)], 512, np.random.default_rng(0))
    dictionary, history, _ = training.train(buffer, settings, seed=0)
    return truth, dictionary, history, planted(4000, truth, rng)


def test_training_recovers_planted_atoms(recovered):
    truth, dictionary, history, held_out = recovered
    cosine = (truth @ dictionary.weights["W_dec"].T).max(1)
    assert cosine.mean() > 0.9
    assert len(history) == 500 and history["step"].iloc[-1] == 1500
    assert history["fvu"].iloc[-1] < 0.5 * history["fvu"].iloc[10]
    assert history["l0"].iloc[-1] == 3
    quality = metrics.quality(dictionary, [held_out[:1500], held_out[1500:]])
    # The best rank-3 linear code explains 3 of 32 directions; a wrong dictionary stays far above 0.1.
    assert quality["fvu"] < 0.1
    assert quality["l0"] == pytest.approx(3, rel=0.1)
    assert history["l0_inference"].iloc[-1] == pytest.approx(3, rel=0.1)


def test_metrics_are_those_of_the_definitions(recovered):
    _, dictionary, _, x = recovered
    quality = metrics.quality(dictionary, [x[:100], x[100:]])
    z = dictionary.encode(x)
    reconstruction = dictionary.decode(z).numpy()
    fired = (z > 0).numpy()
    fvu = ((x - reconstruction) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    cosine = functional.cosine_similarity(torch.from_numpy(x), torch.from_numpy(reconstruction))
    assert quality["tokens"] == 4000 and quality["fvu"] == pytest.approx(fvu, rel=1e-4)
    assert quality["cosine"] == pytest.approx(float(cosine.mean()), rel=1e-5)
    assert quality["l0"] == pytest.approx(fired.sum(1).mean())
    assert quality["dead"] == pytest.approx((~fired.any(0)).mean())
    assert quality["dense"] == pytest.approx((fired.mean(0) > 0.1).mean())
    expected = np.quantile(fired.sum(1), metrics.L0_QUANTILES, method="inverted_cdf")
    assert quality["l0_quantiles"] == expected.tolist()
    rates = fired.mean(0)
    assert sum(quality["firing_rates"]) == (rates > 0).sum()
    edges = metrics.RATE_EDGES
    assert edges[0] == 1e-6 and edges[-1] == 1 and len(quality["firing_rates"]) == len(edges) - 1
    bin_ = int(np.searchsorted(edges, rates.max(), side="right")) - 1
    assert quality["firing_rates"][bin_] > 0 and sum(quality["firing_rates"][bin_ + 1 :]) == 0
    empty = metrics.quality(dictionary, [])
    assert empty["tokens"] == 0 and empty["fvu"] is None


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("buffer_bytes", [1e9, 1000 * 64])
def test_resumed_training_equals_uninterrupted_training(files, tmp_path, buffer_bytes, caplog):
    # Features die after 3 batches, so that the auxiliary loss and its list take part.
    settings = {**SMALL, "n_features": 200, "k": 1, "dead_after_tokens": 3 * 256}
    options = {"buffer_bytes": buffer_bytes, "block_tokens": 100}
    dictionary, history, _ = training.train(make_buffer(files, **options), settings, seed=5)
    weights = dictionary.weights
    assert history["dead"].max() > 0 and history["auxiliary"].max() > 0

    def killed_at(steps):
        for done, step in enumerate(steps):
            if done == 21:
                raise Interrupted
            yield step

    checkpoint = tmp_path / ".work" / "c.pt"
    with pytest.raises(Interrupted):
        training.train(
            make_buffer(files, **options), settings, 5, checkpoint, 0.0,
            progress=lambda steps, label, total: killed_at(steps),
        )  # fmt: skip
    assert torch.load(checkpoint, weights_only=True)["step"] == 21
    resumed, resumed_history, _ = training.train(make_buffer(files, **options), settings, 5, checkpoint)
    for name, value in weights.items():
        assert value.tobytes() == resumed.weights[name].tobytes()
    pd.testing.assert_frame_equal(history, resumed_history, check_exact=True)

    # A checkpoint of another seed, or a damaged one, is not continued.
    anew, *_ = training.train(make_buffer(files, **options), settings, 6, checkpoint)
    assert not np.array_equal(anew.weights["W_dec"], weights["W_dec"])
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    restarted, *_ = training.train(make_buffer(files, **options), settings, 5, checkpoint)
    assert restarted.weights["W_dec"].tobytes() == weights["W_dec"].tobytes()


def test_auxiliary_loss_revives_dead_features():
    """Half of the encoder starts so weak that it is never chosen: only the auxiliary loss can help it."""
    rng = np.random.default_rng(0)
    truth = atoms(64, 32, rng)
    x = torch.from_numpy(planted(10_000, truth, rng))
    x *= (32 / x.square().sum(1).mean()).sqrt()
    ends = {}
    for coefficient in (0.0, 1 / 32):
        model = BatchTopK(
            32, 64, {"k": 3, "aux_coefficient": coefficient}, x.mean(0), torch.Generator().manual_seed(0)
        )
        with torch.no_grad():
            model.parameters["W_enc"][32:] *= 0.1
        optimiser = torch.optim.Adam(list(model.parameters.values()), lr=3e-3)
        since_fired = torch.zeros(64)
        for step in range(400):
            batch = x[torch.randint(10_000, (512,), generator=torch.Generator().manual_seed(step))]
            loss = model.loss(batch, torch.nonzero(since_fired >= 4).squeeze(1))
            optimiser.zero_grad()
            loss.total.backward()
            model.before_step()
            optimiser.step()
            model.after_step(loss)
            since_fired = torch.where(loss.fired, 0, since_fired + 1)
        ends[coefficient] = int((since_fired >= 4).sum()), float(loss.parts["reconstruction"])
    assert ends[0.0][0] == 32
    assert ends[1 / 32][0] < 12 and ends[1 / 32][1] < 0.6 * ends[0.0][1]


def test_completed_settings():
    full = training.complete_settings({})
    assert full["learning_rate"] == pytest.approx(8e-4) and full["dead_after_tokens"] == 75_000
    assert full["k"] == 16 and full["aux_coefficient"] == 0.03125
    assert training.complete_settings(full) == full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 33}, r"dictionaries\.k: found 33, expected a whole number from 1 to n_features = 32"),
        ({"k": 1.5}, r"dictionaries\.k: found 1\.5"),
        ({"architecture": "vae"}, r"architecture: found 'vae', expected one of batchtopk, topk"),
        ({"l1_coefficient": 1}, r"dictionaries\.l1_coefficient: found a key that architecture 'batchtopk'"),
        ({"training_tokens": 100}, r"training_tokens: found 100, expected at least batch_tokens = 256"),
        ({"n_features": 0}, r"n_features: found 0"),
        ({"learning_rate": -1}, r"learning_rate: found -1"),
        ({"warmup_fraction": 2}, r"warmup_fraction: found 2"),
        ({"aux_coefficient": -1}, r"aux_coefficient: found -1"),
        ({"tokens": "cell"}, r"tokens: found 'cell', expected gene or cls"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_sentence(change, message):
    with pytest.raises(InputError, match=message) as caught:
        training.complete_settings({**SMALL, **change})
    assert "\n" not in str(caught.value)


def test_bad_activations_are_one_sentence(files, tmp_path):
    cells = np.repeat(np.arange(50), 30)
    wide = write_activations(tmp_path / "wide.zarr.zip", np.ones((1500, 17), np.float32), cells)
    with pytest.raises(InputError, match=r"wide\.zarr\.zip: found activations of width 17, expected 16"):
        make_buffer([files[0], wide])
    with pytest.raises(InputError, match=r"found 3000 training tokens.*batch_tokens = 4000"):
        make_buffer(files, batch_tokens=4000)
    with pytest.raises(InputError, match=r"buffer_bytes: found 1000, room for 15 tokens"):
        make_buffer(files, buffer_bytes=1000)
    with pytest.raises(InputError, match=r"found layers \[0\], expected layer 7"):
        TokenBuffer(files, 7, everything(files), 256, np.random.default_rng(0))
    with pytest.raises(InputError, match="found 1500 gene tokens, expected 7"):
        TokenBuffer(files[:1], 0, [np.ones(7, bool)], 4, np.random.default_rng(0))
    constant = write_activations(tmp_path / "c.zarr.zip", np.full((1500, 16), 2.5, np.float32), cells)
    with pytest.raises(InputError, match="found constant activations"):
        training.train(make_buffer([constant]), SMALL, 0)
    with pytest.raises(InputError, match="batch_tokens: found 256, expected the buffer's 128"):
        training.train(make_buffer(files, batch_tokens=128), SMALL, 0)


def test_nan_activations_are_one_sentence(files, tmp_path, monkeypatch):
    # The store refuses to write NaN, so a file with NaN can only come from elsewhere.
    original = store.Activations.rows

    def spoiled(self, layer, start, stop):
        rows = original(self, layer, start, stop)
        rows[3, 2] = np.nan
        return rows

    monkeypatch.setattr(store.Activations, "rows", spoiled)
    with pytest.raises(InputError, match=r"0\.zarr\.zip: found activations that are not finite in layer 0"):
        make_buffer(files)


def test_diverging_training_is_one_sentence(files):
    settings = {**SMALL, "learning_rate": 1e30, "warmup_fraction": 0.0}
    with pytest.raises(InputError, match=r"learning_rate: found 1e.30, with which the loss"):
        training.train(make_buffer(files), settings, 0)


@pytest.fixture
def folder(tmp_path):
    origin = {"layer": 3, "model_digest": "x"}
    dictionary = Dictionary(*small_model(n=24).inference_weights(2.0), origin)
    sae_format.save(tmp_path / "cfg.json", tmp_path / "sae_weights.safetensors", dictionary)
    return tmp_path


def test_format_roundtrip_and_bytes(folder):
    config = json.loads((folder / "cfg.json").read_text())
    metadata = config.pop("metadata")
    assert config == {
        "architecture": "jumprelu",
        "d_in": 16,
        "d_sae": 24,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6 and metadata["layer"] == 3
    dictionary = sae_format.load(folder)
    assert (dictionary.d, dictionary.n_features, dictionary.metadata) == (16, 24, metadata)
    assert dictionary.weights["W_enc"].shape == (16, 24)
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    assert set(before) == {"cfg.json", "sae_weights.safetensors"}
    sae_format.save(folder / "cfg.json", folder / "sae_weights.safetensors", dictionary)
    assert before == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_damaged_dictionaries_are_one_sentence(folder):
    from safetensors.numpy import load, save

    cfg, weights = folder / "cfg.json", folder / "sae_weights.safetensors"
    good_cfg, good = cfg.read_text(), weights.read_bytes()

    def expect(message, config=None, content=None):
        cfg.write_text(good_cfg if config is None else json.dumps(config))
        weights.write_bytes(good if content is None else content)
        with pytest.raises(InputError, match=message):
            sae_format.load(folder)

    flipped = bytearray(good)
    flipped[-1] ^= 1
    expect("found SHA-256", content=bytes(flipped))
    foreign = json.loads(good_cfg)
    del foreign["metadata"]["weights_sha256"]  # as in a folder that SAELens wrote
    expect("found a damaged file", foreign, good[:-10])
    tensors = load(good)
    expect("expected .*threshold", foreign, save({k: v for k, v in tensors.items() if k != "threshold"}))
    expect("found W_enc float32 .24, 16.", foreign, save({**tensors, "W_enc": tensors["W_enc"].T.copy()}))
    nan = np.full(24, np.nan, np.float32)
    expect("b_enc that are not finite", foreign, save({**tensors, "b_enc": nan}))
    expect("architecture 'vae', expected one of standard", {**foreign, "architecture": "vae"})
    expect("found k None, expected a whole number", {**foreign, "architecture": "topk"})
    expect("expected .*b_gate", {**foreign, "architecture": "gated"})
    expect("normalize_activations 'layer_norm'", {**foreign, "normalize_activations": "layer_norm"})
    expect("d_sae None", {k: v for k, v in foreign.items() if k != "d_sae"})
    cfg.write_text(good_cfg[:50])
    with pytest.raises(InputError, match=r"cfg\.json"):
        sae_format.load(folder)
    cfg.write_text(good_cfg)
    weights.unlink()
    with pytest.raises(InputError, match=r"sae_weights\.safetensors: not found"):
        sae_format.load(folder)


def test_stage_trains_on_training_blocks_only_and_is_reproducible(files, tmp_path):
    import anndata

    splits = np.array(["train"] * 60 + ["validation"] * 15 + ["test"] * 15 + ["guard"] * 10)
    cells = tmp_path / "a.h5ad"
    obs = pd.DataFrame({"split": splits}, index=[f"a:{i}" for i in range(100)])
    store.write_h5ad(cells, anndata.AnnData(np.zeros((100, 1), np.float32), obs=obs))
    digests = []
    for name in ("one", "two"):
        result = stage.run([cells], files, 0, SMALL, np.random.default_rng(0), 1)
        out = tmp_path / name
        outputs = [
            out / file
            for file in (
                "cfg.json", "sae_weights.safetensors", "training.parquet", "speed.parquet", "metrics.json"
            )
        ]  # fmt: skip
        stage.write(*outputs, result, {"rule": "dictionary"})
        speed = store.read_table(out / "speed.parquet")
        assert list(speed["step"]) == list(result.history["step"]) and (speed["tokens_per_second"] > 0).all()
        same = [path for path in outputs if path.name != "speed.parquet"]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in same])
    assert digests[0] == digests[1]
    dictionary = sae_format.load(tmp_path / "one")
    origin = dictionary.metadata
    assert (origin["training_set_tokens"], origin["tokens_seen"]) == (1800, 256 * 40)
    assert origin["model_digest"] == "m" and origin["hook_name"] == "transformer_encoder.layers.0.norm2"
    found = store.read_json(tmp_path / "one" / "metrics.json")
    assert found["validation"]["tokens"] == found["test"]["tokens"] == 450
    with store.open_activations(files[1]) as activations:
        validation = activations.rows(0, 300, 750)
    assert found["validation"] == metrics.quality(dictionary, [validation])


def test_stage_refuses_files_of_two_models(files, tmp_path):
    other = write_activations(
        tmp_path / "o.zarr.zip", np.zeros((30, 16), np.float32), np.zeros(30, int), model="n"
    )
    with pytest.raises(InputError, match=r"o\.zarr\.zip: found model 'n', expected 'm'"):
        stage._origin([*files, other], 0, "gene")
