"""Every training architecture against its formula, and what all of them promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_sae import SMALL, atoms, one_thread, planted, write_activations

from interptfm.errors import InputError
from interptfm.sae import format as sae_format
from interptfm.sae import metrics, training
from interptfm.sae.buffer import TokenBuffer, selected_blocks
from interptfm.sae.inference import Dictionary
from interptfm.sae.jumprelu import Jump, Step

__all__ = ["one_thread"]

D, N = 12, 40
NONE = torch.empty(0, dtype=torch.long)


@pytest.fixture
def files(tmp_path):
    """One shard of 3,000 tokens of width 16."""
    rng = np.random.default_rng(0)
    x = planted(3000, atoms(24, 16, rng), rng)
    return [write_activations(tmp_path / "0.zarr.zip", x, np.repeat(np.arange(100), 30))]


def build(name, seed=0, **settings):
    """A model whose parameters are all away from their start."""
    kind = training.ARCHITECTURES[name]
    full = kind.completed({**kind.SETTINGS, "n_features": N, **settings})
    generator = torch.Generator().manual_seed(seed)
    model = kind(D, N, full, torch.full((D,), 0.1), generator)
    with torch.no_grad():
        for value in model.parameters.values():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    return model


def batch(n=64, seed=1):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def copies(model):
    return {name: value.detach().clone().requires_grad_() for name, value in model.parameters.items()}


def compare(model, expected_total, expected, x, dead=NONE, progress=1.0):
    """The model's loss and gradients are the expected ones (``expected``: parameters with gradients)."""
    expected_total.backward()
    loss = model.loss(x, dead, progress)
    loss.total.backward()
    assert float(loss.total.detach()) == pytest.approx(float(expected_total.detach()), rel=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(model.parameters[name].grad, value.grad, rtol=1e-4, atol=1e-5)
    return loss


def code_of(p, x):
    return torch.relu((x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"])


@pytest.mark.parametrize("progress, share", [(1.0, 1.0), (0.05, 0.5), (0.0, 0.0)])
def test_standard_is_squared_error_and_l1_weighted_by_decoder_norm(progress, share):
    model = build("standard", l1_coefficient=0.7, l1_warmup_fraction=0.1)
    p, x = copies(model), batch()
    code = code_of(p, x)
    residual = x - code @ p["W_dec"] - p["b_dec"]
    penalty = (code * (p["W_dec"] ** 2).sum(1).sqrt()).sum(1).mean()
    total = (residual**2).sum(1).mean() + 0.7 * share * penalty
    loss = compare(model, total, p, x, progress=progress)
    assert float(loss.parts["l1"]) == pytest.approx(float(penalty.detach()), rel=1e-5)
    assert int(loss.kept) == int((code > 0).sum()) and torch.equal(loss.fired, (code > 0).any(0))
    torch.testing.assert_close(loss.residual, residual.detach())


def test_standard_with_the_unsquared_norm():
    model = build("standard", l1_coefficient=0.1, l1_warmup_fraction=0.0, reconstruction="norm")
    p, x = copies(model), batch()
    code = code_of(p, x)
    error = ((x - code @ p["W_dec"] - p["b_dec"]) ** 2).sum(1).sqrt().mean()
    compare(model, error + 0.1 * code.sum(1).mean(), p, x)
    model.before_step()
    parallel = (model.parameters["W_dec"].grad * model.parameters["W_dec"]).sum(1)
    free = build("standard")
    free.loss(x, NONE).total.backward()
    before = free.parameters["W_dec"].grad.clone()
    free.before_step()
    free.after_step(free.loss(x, NONE))
    assert torch.equal(free.parameters["W_dec"].grad, before)
    assert free.parameters["W_dec"].norm(dim=1).std() > 1e-3
    model.after_step(model.loss(x, NONE))
    torch.testing.assert_close(model.parameters["W_dec"].norm(dim=1), torch.ones(N))
    assert parallel.shape == (N,)


def test_gated_trains_the_gate_through_a_frozen_decoder():
    model = build("gated", l1_coefficient=0.7, l1_warmup_fraction=0.0)
    p, x = copies(model), batch()
    shared = (x - p["b_dec"]) @ p["W_enc"].T
    gate, magnitude = shared + p["b_gate"], shared * p["r_mag"].exp() + p["b_mag"]
    code = (gate > 0).float() * torch.relu(magnitude)
    error = ((x - code @ p["W_dec"] - p["b_dec"]) ** 2).sum(1).mean()
    opened = torch.relu(gate)
    frozen = ((x - opened @ p["W_dec"].detach() - p["b_dec"].detach()) ** 2).sum(1).mean()
    loss = compare(model, error + 0.7 * opened.sum(1).mean() + frozen, p, x)
    assert "b_enc" not in model.parameters and set(loss.parts) == {"reconstruction", "l1", "auxiliary"}
    # Only the penalty and the auxiliary reconstruction reach the gate's bias.
    alone = copies(model)
    shared = (x - alone["b_dec"]) @ alone["W_enc"].T
    opened = torch.relu(shared + alone["b_gate"])
    auxiliary = ((x - opened @ alone["W_dec"].detach() - alone["b_dec"].detach()) ** 2).sum(1).mean()
    (0.7 * opened.sum(1).mean() + auxiliary).backward()
    torch.testing.assert_close(model.parameters["b_gate"].grad, alone["b_gate"].grad, rtol=1e-4, atol=1e-5)


def test_jumprelu_gradients_are_the_published_estimators():
    width, theta = 0.4, 0.5
    pre = torch.tensor([[0.2], [0.31], [0.6], [0.69], [0.71], [2.0]], requires_grad=True)
    threshold = torch.tensor([theta], requires_grad=True)
    upstream = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    value = Jump.apply(pre, threshold, width)
    assert value.flatten().tolist() == pytest.approx([0, 0, 0.6, 0.69, 0.71, 2.0])
    value.backward(upstream)
    assert pre.grad.flatten().tolist() == [0, 0, 3, 4, 5, 6]
    # −θ/ε Σ upstream over |p − θ| < ε/2, here the entries 0.31, 0.6 and 0.69.
    assert float(threshold.grad) == pytest.approx(-theta / width * (2 + 3 + 4))
    pre.grad, threshold.grad = None, None
    fires = Step.apply(pre, threshold, width)
    assert fires.flatten().tolist() == [0, 0, 1, 1, 1, 1]
    fires.backward(upstream)
    assert pre.grad is None and float(threshold.grad) == pytest.approx(-1 / width * (2 + 3 + 4))


def test_jumprelu_estimators_are_unbiased_for_a_uniform_density():
    """d/dθ E[1[p > θ]] = −density and d/dθ E[p 1[p > θ]] = −θ · density."""
    pre = torch.rand(200_000, 1, generator=torch.Generator().manual_seed(0)) * 2
    for function, expected in ((Step, -0.5), (Jump, -0.5 * 0.8)):
        threshold = torch.tensor([0.8], requires_grad=True)
        function.apply(pre, threshold, 0.2).mean().backward()
        assert float(threshold.grad) == pytest.approx(expected, rel=0.02)


def test_jumprelu_loss_and_float32_threshold():
    model = build("jumprelu", l0_coefficient=0.3, l0_warmup_fraction=0.0, bandwidth=0.4)
    p, x = copies(model), batch()
    pre = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    threshold = p["log_threshold"].exp()
    fires = (pre > threshold).float()
    residual = x - (pre * fires) @ p["W_dec"] - p["b_dec"]
    total = (residual**2).sum(1).mean() + 0.3 * fires.sum(1).mean()
    # The jumps' gradient by hand: through the code −θ/ε K · ∂error/∂code, through L0 −λ/ε K.
    near = (((pre - threshold) / 0.4).abs() < 0.5).float()
    to_code = -2 * residual / len(x) @ p["W_dec"].T
    by_hand = (near * (-threshold / 0.4 * to_code - 0.3 / 0.4 / len(x))).sum(0) * threshold
    expected = by_hand.detach()
    loss = compare(model, total, {k: v for k, v in p.items() if k != "log_threshold"}, x)
    gradient = model.parameters["log_threshold"].grad
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert float(loss.parts["l0_penalty"]) == pytest.approx(float(fires.sum(1).mean()))
    half = Jump.apply(x.bfloat16(), torch.full((D,), 0.5, requires_grad=True), 0.4)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("n_dead", [0, 5, 20])
def test_topk_keeps_k_of_each_token(n_dead):
    model = build("topk", k=3)
    p, x, dead = copies(model), batch(), torch.arange(n_dead)
    code = code_of(p, x)
    values, index = code.topk(3, dim=1)
    kept = torch.zeros_like(code).scatter(1, index, values)
    residual = x - kept @ p["W_dec"] - p["b_dec"]
    total = (residual**2).sum(1).mean()
    if n_dead:
        pre = (x - p["b_dec"].detach()) @ p["W_enc"].T + p["b_enc"]
        top = pre[:, dead].topk(min(D // 2, n_dead), dim=1)
        auxiliary = torch.zeros(len(x), n_dead).scatter(1, top.indices, torch.relu(top.values))
        total = total + ((residual.detach() - auxiliary @ p["W_dec"][dead]) ** 2).sum(1).mean() / 32
    loss = compare(model, total, p, x, dead)
    assert int(loss.kept) == int((kept > 0).sum()) and torch.equal(loss.fired, (kept > 0).any(0))
    assert ((kept > 0).sum(1) == 3).all()


def test_topk_with_fewer_positive_entries_than_k():
    model = build("topk", k=30)
    x = batch()
    p = copies(model)
    code = code_of(p, x)
    values, index = code.topk(30, dim=1)
    kept = torch.zeros_like(code).scatter(1, index, values)
    assert (kept > 0).sum(1).min() < 30
    residual = x - kept @ p["W_dec"] - p["b_dec"]
    compare(model, (residual**2).sum(1).mean(), p, x)


def test_matryoshka_sums_the_prefixes():
    sizes = [4, 10, 25, N]
    model = build("matryoshka", k=5, prefix_sizes=sizes)
    p, x = copies(model), batch()
    flat = code_of(p, x).flatten()
    values, index = flat.topk(5 * len(x))
    code = torch.zeros_like(flat).scatter(0, index, values).view(len(x), N)
    total = sum(((x - p["b_dec"] - code[:, :m] @ p["W_dec"][:m]) ** 2).sum(1).mean() for m in sizes)
    loss = compare(model, total, p, x)
    full = x - p["b_dec"] - code @ p["W_dec"]
    torch.testing.assert_close(loss.residual, full.detach())
    assert int(loss.kept) == 5 * len(x)
    one = build("matryoshka", k=5, prefix_sizes=[N])
    plain = build("batchtopk", k=5)
    totals = [float(each.loss(x, NONE).total.detach()) for each in (one, plain)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)


NAMES = list(training.ARCHITECTURES)
PENALTIES = {"standard": {"l1_coefficient": 0.5}, "gated": {"l1_coefficient": 0.5}, "jumprelu": {}}


def settings_of(name, **more):
    common = {key: value for key, value in SMALL.items() if key != "k"}
    own = PENALTIES.get(name, {"k": 3})
    return {**common, "architecture": name, "learning_rate": 3e-3, **own, **more}


@pytest.mark.parametrize("name", NAMES)
def test_folding_saving_and_the_normalised_copy_reconstruct_the_same(name, tmp_path):
    model, scale = build(name), 3.7
    if name in ("batchtopk", "matryoshka"):
        model.threshold_sum, model.threshold_weight = torch.tensor(0.6), torch.tensor(2.0)
    x = batch(200)
    scaled = Dictionary(*model.inference_weights(1.0))
    folded = Dictionary(*model.inference_weights(scale))
    code = scaled.encode(x * scale)
    assert 0 < (code > 0).float().mean() < 0.6
    torch.testing.assert_close(folded.encode(x) * scale, code, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        folded.decode(folded.encode(x)) * scale, scaled.decode(code), rtol=1e-5, atol=1e-5
    )
    sae_format.save(tmp_path / "cfg.json", tmp_path / "sae_weights.safetensors", folded)
    loaded = sae_format.load(tmp_path)
    assert loaded.kind == folded.kind and loaded.options == folded.options
    assert torch.equal(loaded.encode(x), folded.encode(x))
    np.testing.assert_array_equal(loaded.encode_sparse(x).toarray(), folded.encode(x).numpy())

    maximum = folded.encode(x).amax(0).numpy()
    maximum[3] = 0.0  # a feature that never fired in training keeps its scale
    normal = folded.normalised(maximum)
    one = normal.encode(x)
    alive = torch.from_numpy(maximum > 0)
    torch.testing.assert_close(one.amax(0)[alive], torch.ones(int(alive.sum())), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(normal.decode(one), folded.decode(folded.encode(x)), rtol=1e-5, atol=1e-5)
    twice = normal.normalised(np.full(N, 2.0))
    torch.testing.assert_close(twice.decode(twice.encode(x)), normal.decode(one), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"maximum: found shape \(3,\), expected \(40,\)"):
        folded.normalised(np.ones(3))


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_learns_planted_atoms(name, files, tmp_path):
    # JumpReLU and the L1 kinds start dense and need more steps than the TopK family.
    settings = settings_of(name, training_tokens=256 * 600)
    dictionary, history, speed = training.train(make_all(files), settings, seed=0)
    quality = metrics.quality(dictionary, selected_blocks(files, 0, [np.ones(3000, bool)]))
    assert quality["fvu"] < 0.35 and quality["l0"] < 12
    assert history["fvu"].iloc[-1] < 0.5 * history["fvu"].iloc[2]
    assert np.linalg.norm(dictionary.weights["W_dec"], axis=1) == pytest.approx(np.ones(32), rel=1e-5)
    assert {"loss", "reconstruction", "fvu", "l0", "dead", "learning_rate"} <= set(history)
    assert len(speed) == len(history) and not history.isna().any().any()


def make_all(paths, seed=0):
    selectors = [np.ones(3000, bool) for _ in paths]
    return TokenBuffer(paths, 0, selectors, 256, np.random.default_rng(seed))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "batchtopk"])
def test_every_architecture_resumes_exactly(name, files, tmp_path):
    settings = settings_of(name, dead_after_tokens=3 * 256)
    whole, history, _ = training.train(make_all(files), settings, 5)

    class Killed(Exception):
        pass

    def killed(steps, label, total):
        for done, step in enumerate(steps):
            if done == 17:
                raise Killed
            yield step

    with pytest.raises(Killed):
        training.train(make_all(files), settings, 5, tmp_path / "c.pt", 0.0, progress=killed)
    resumed, after, _ = training.train(make_all(files), settings, 5, tmp_path / "c.pt")
    for tensor, value in whole.weights.items():
        assert value.tobytes() == resumed.weights[tensor].tobytes(), tensor
    assert history.equals(after)


BAD = [
    ("standard", {"l1_coefficient": -1}, r"l1_coefficient: found -1, expected a number of at least 0"),
    ("standard", {"l1_coefficient": True}, r"l1_coefficient: found True"),
    ("standard", {"reconstruction": "cubed"}, r"reconstruction: found 'cubed', expected squared or norm"),
    ("gated", {"l1_warmup_fraction": 2}, r"l1_warmup_fraction: found 2, expected 0 to 1"),
    ("gated", {"k": 3}, r"dictionaries\.k: found a key that architecture 'gated' does not have"),
    ("jumprelu", {"bandwidth": 0}, r"bandwidth: found 0, expected a number above 0"),
    ("jumprelu", {"l1_coefficient": 1}, r"l1_coefficient: found a key that architecture 'jumprelu'"),
    ("topk", {"k": 33}, r"k: found 33, expected a whole number from 1 to n_features = 32"),
    ("matryoshka", {"prefix_sizes": [4, 31]}, r"prefix_sizes: found \[4, 31\], expected rising .* = 32"),
    ("matryoshka", {"prefix_sizes": [8, 4, 32]}, r"prefix_sizes: found \[8, 4, 32\]"),
    ("topk", {"prefix_sizes": [32]}, r"prefix_sizes: found a key that architecture 'topk'"),
]


@pytest.mark.parametrize("name, change, message", BAD)
def test_bad_settings_are_one_sentence(name, change, message):
    with pytest.raises(InputError, match=message) as caught:
        training.complete_settings(settings_of(name, **change))
    assert "\n" not in str(caught.value)


def test_prefixes_double_by_default():
    assert training.complete_settings(settings_of("matryoshka"))["prefix_sizes"] == [2, 4, 8, 16, 32]
