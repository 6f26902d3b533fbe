"""Which pre-activations are kept: the search in bfloat16 finds what float32 does, for any input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_sae import one_thread

from interptfm.sae import selection
from interptfm.sae.selection import Selection

__all__ = ["one_thread"]

TOKENS, FEATURES, D = 96, 160, 24


def operands(kind: str, seed: int = 0):
    """Return x (tokens × d), w (features × d) and b (features,) of a kind that could mislead a bound."""
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(n, D, generator=generator) for n in (TOKENS, FEATURES))
    b = 0.3 * torch.randn(FEATURES, generator=generator)
    if kind == "aligned":  # every token is a feature's direction: all rounding errors of a product add up
        x = 3 * w[torch.arange(TOKENS) % FEATURES] + 0.01 * x
    elif kind == "scales":  # tokens and features of very different lengths
        x *= torch.logspace(-3, 3, TOKENS)[:, None]
        w *= torch.logspace(-2, 2, FEATURES)[:, None]
    elif kind == "one sign":  # large products of one sign, small differences between them
        x, w, b = x.abs() + 5, w.abs() * 0.01 + 1, b * 0
    elif kind == "large bias":
        b *= 100
    elif kind == "negative":  # few positive entries
        b -= 8
    return x, w, b


KINDS = ["random", "aligned", "scales", "one sign", "large bias", "negative"]


def expected(x, w, b, k, by_token):
    """Bool (tokens × features): the largest positive entries of the product in float64, and their margin."""
    pre = (x.double() @ w.double().T + b.double()).numpy()
    rows = pre if by_token else pre.reshape(1, -1)
    smallest = np.sort(rows, axis=1)[:, -k if by_token else -k * TOKENS, None]
    return ((rows >= smallest) & (rows > 0)).reshape(pre.shape), pre


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 7, 60])
def test_screened_selection_is_that_of_the_whole_product(kind, k, seed):
    x, w, b = operands(kind, seed)
    keep, pre = expected(x, w, b, k, by_token=False)
    smallest = float(pre[keep].min())
    for guess in (0.0, smallest, 0.5 * smallest, 1.02 * smallest, 3 * smallest):
        flat, values = Selection(FEATURES, screened=True).of_batch(x, w, b, k * TOKENS, guess)
        assert flat.tolist() == np.flatnonzero(keep).tolist(), guess
        np.testing.assert_allclose(values.numpy(), pre[keep], rtol=1e-5, atol=1e-4 * np.abs(pre).max())
    keep, pre = expected(x, w, b, k, by_token=True)
    flat, values = Selection(FEATURES, screened=True).of_tokens(x, w, b, k)
    assert flat.tolist() == np.flatnonzero(keep).tolist()
    np.testing.assert_allclose(values.numpy(), pre[keep], rtol=1e-5, atol=1e-4 * np.abs(pre).max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_within_its_bound(kind):
    x, w, b = operands(kind)
    bits, by_token, by_feature = Selection(FEATURES)._approximate(x, w, b)
    approximate = torch.from_numpy(bits.copy()).view(torch.bfloat16).double().numpy()
    exact = (x.double() @ w.double().T + b.double()).numpy()
    bound = by_token.astype(float) @ by_feature.T.astype(float) + 2 * selection.ROUNDING * np.abs(exact)
    assert (np.abs(approximate - exact) <= bound).all()
    # A bound that is never approached would let everything through.
    assert (np.abs(approximate - exact) / bound).max() > 0.1


class Misled(Selection):
    """Approximations that are wrong by nearly the bound: too small where lowered, too large elsewhere."""

    def __init__(self, lowered):
        super().__init__(FEATURES, screened=True)
        self.lowered = torch.from_numpy(lowered)

    def _approximate(self, centred, weight, bias):
        bound = 0.3 * torch.rand(TOKENS, 1, generator=torch.Generator().manual_seed(0)) + 0.5
        harm = torch.where(self.lowered, -bound, bound) * (1 - 1e-3)
        bits = (centred @ weight.T + bias + harm).bfloat16().view(torch.int16)
        return bits.numpy(), bound.numpy(), np.ones((FEATURES, 1), np.float32)


@pytest.mark.parametrize("factor", np.linspace(0.9, 1.2, 16))
@pytest.mark.parametrize("share", [0.01, 1.0], ids=["the smallest", "all"])
def test_no_error_within_the_bound_misleads(factor, share):
    x, w, b = operands("random")
    for by_token in (False, True):
        keep, pre = expected(x, w, b, 7, by_token)
        lowered = keep & (pre <= np.quantile(pre[keep], share))
        search = Misled(lowered)
        if by_token:
            flat, _ = search.of_tokens(x, w, b, 7)
        else:
            flat, _ = search.of_batch(x, w, b, 7 * TOKENS, factor * float(pre[keep].min()))
        assert flat.tolist() == np.flatnonzero(keep).tolist(), by_token


def test_screening_narrows_the_candidates_down(monkeypatch):
    """At the published shape few entries are looked at twice, and the whole product is not taken again."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(512, 256, generator=generator), torch.randn(2048, 256, generator=generator) / 16
    b = torch.zeros(2048)
    looked_at = []
    exact = Selection._exact

    def counted(self, flat, *rest):
        looked_at.append(len(flat))
        return exact(self, flat, *rest)

    monkeypatch.setattr(Selection, "_exact", counted)
    whole = selection.largest_of_batch(x @ w.T, 16 * 512)
    found = Selection(2048, screened=True).of_batch(x, w, b, 16 * 512, float(whole[1].min()))
    assert torch.equal(found[0], whole[0])
    Selection(2048, screened=True).of_tokens(x, w, b, 16)
    assert len(looked_at) == 2 and max(looked_at) < 2 * 16 * 512


def test_values_that_are_not_finite_do_not_stop_the_search():
    x, w, b = operands("random")
    x[3, 2] = torch.nan
    flat, _ = Selection(FEATURES, screened=True).of_batch(x, w, b, 50, 1.0)
    assert len(flat) <= 50
    Selection(FEATURES, screened=True).of_tokens(x, w, b, 5)


@pytest.mark.parametrize("k", [1, 3, 9, 20])
def test_equal_entries_of_a_token_fill_up_in_order(k):
    pre = torch.tensor([[2.0, 1, 1, 1, 1, 5, -1, 1, 0, 0], [-1.0] * 10, [1.0] * 10, [3.0, 0] * 5])
    pre = torch.cat([pre, torch.zeros(4, 20)], 1)
    flat, values = selection.largest_of_tokens(pre, k)
    rows = [flat[flat // 30 == row] % 30 for row in range(4)]
    assert rows[1].tolist() == [] and rows[2].tolist() == list(range(min(k, 10)))
    assert rows[0].tolist() == sorted([5, 0, 1, 2, 3, 4, 7][:k]) and rows[3].tolist() == [0, 2, 4, 6, 8][:k]
    assert torch.equal(values, pre.flatten()[flat])


def test_the_smallest_kept_value_of_bits():
    values = torch.tensor([1.0, 2.5, 1e-30, 3e30])
    for value in values.tolist():
        below = selection._values(np.array([selection._bits_below(value)]))[0]
        assert value * (1 - 8 * selection.ROUNDING) < below < value / (1 + 3 * selection.ROUNDING)
    assert selection._bits_below(-1.0) == 0 and selection._bits_below(0.0) == 0
