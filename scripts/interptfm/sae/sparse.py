"""Products with a sparse code (tokens × features) and their gradients, at a cost set by the kept entries.

A dictionary keeps k of n features a token. Only the encoder's forward product has to be dense; the
decoder's product and all three weight gradients are sums over kept entries, which
``torch.nn.functional.embedding_bag`` computes as weighted sums of table rows, grouped by token or by
feature, in a fixed order (so the result does not depend on scheduling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Candidates for the batch's top entries are searched above this share of the last batch's smallest
# kept entry: low enough to hold all of them, high enough to spare a sort of the whole matrix.
CANDIDATE_MARGIN = 0.9


@dataclass(frozen=True)
class Support:
    """The kept entries of a (tokens × features) matrix, ordered by token and then by feature.

    Attributes
    ----------
    token, feature
        int64 (entries,): row and column of each entry.
    token_offsets
        int64 (tokens,): first entry of each token.
    by_feature
        int64 (entries,): the entries' order when grouped by feature (stable).
    feature_offsets
        int64 (features,): first entry of each feature in that order.
    """

    token: Tensor
    feature: Tensor
    token_offsets: Tensor
    by_feature: Tensor
    feature_offsets: Tensor

    @property
    def fired(self) -> Tensor:
        """Bool (features,): whether the feature has an entry at all."""
        ends = torch.cat([self.feature_offsets[1:], self.feature_offsets.new_tensor([len(self.token)])])
        return ends > self.feature_offsets


def support_of(flat: Tensor, n_tokens: int, n_features: int) -> Support:
    """Return the :class:`Support` of entries given by ascending flat indices (token · features + feature)."""
    token = torch.div(flat, n_features, rounding_mode="floor")
    feature = flat - token * n_features
    if flat.device.type == "cpu" and n_features <= 2**16:
        # numpy's stable sort of 16-bit keys is a radix sort, many times faster than comparing.
        keys = feature.numpy().astype(np.uint16)
        by_feature = torch.from_numpy(np.argsort(keys, kind="stable"))
    else:
        by_feature = torch.argsort(feature, stable=True)
    starts = torch.arange(n_tokens, device=flat.device)
    columns = torch.arange(n_features, device=flat.device)
    return Support(
        token=token,
        feature=feature,
        token_offsets=torch.searchsorted(token, starts),
        by_feature=by_feature,
        feature_offsets=torch.searchsorted(feature[by_feature], columns),
    )


def largest_of_batch(pre: Tensor, count: int, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return flat indices (ascending) and values of the ``count`` largest positive entries of ``pre``.

    Parameters
    ----------
    pre
        float32 (tokens × features), contiguous.
    count
        How many to keep; fewer are returned where fewer are positive (on a GPU the rest comes back
        with values ≤ 0, to spare a synchronisation).
    floor
        A guess of a value below the smallest kept entry. It saves time and never changes the
        result: where too few entries lie above it, the search starts again at zero.
    """
    if pre.device.type != "cpu":
        values, flat = torch.topk(pre.flatten(), count, sorted=False)
        flat, order = torch.sort(flat)
        return flat, values[order]
    values = pre.numpy().reshape(-1)
    candidates = np.flatnonzero(values > max(floor, 0.0))
    if len(candidates) < count and floor > 0:
        candidates = np.flatnonzero(values > 0)
    kept = values[candidates]
    if len(kept) > count:
        smallest = np.partition(kept, len(kept) - count)[len(kept) - count]
        chosen = kept >= smallest
        surplus = int(chosen.sum()) - count
        if surplus:
            chosen[np.flatnonzero(kept == smallest)[-surplus:]] = False
        candidates, kept = candidates[chosen], kept[chosen]
    return torch.from_numpy(candidates), torch.from_numpy(kept)


def largest_of_tokens(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return flat indices (ascending) and values of the ``k`` largest positive entries of each token.

    Parameters as in :func:`largest_of_batch`; again a GPU returns entries ≤ 0 where fewer are positive.
    """
    values, feature = torch.topk(pre, k, dim=1, sorted=False)
    feature, order = torch.sort(feature, dim=1)
    flat = (feature + torch.arange(len(pre), device=pre.device)[:, None] * pre.shape[1]).flatten()
    values = values.gather(1, order).flatten()
    if pre.device.type != "cpu":
        return flat, values
    positive = values > 0
    return flat[positive], values[positive]


def select(
    support: Support, values: Tensor, centred: Tensor, weight: Tensor, bias: Tensor, centre: Tensor
) -> Tensor:
    """Return ``values`` (the kept pre-activations) with gradients to ``weight``, ``bias`` and ``centre``.

    The pre-activations ``centred`` · weightᵀ + bias were computed without a graph; ``centred`` = x − centre
    (tokens × d), ``weight`` (features × d), ``bias`` (features,), ``centre`` (d,). Only the rows of
    features in the support receive gradient.
    """
    return _Select.apply(weight, bias, centre, centred, values, support)


def decode(values: Tensor, weight: Tensor, support: Support) -> Tensor:
    """Return code · ``weight`` (tokens × d): ``values`` on ``support`` times (features × d)."""
    product = functional.embedding_bag(
        support.feature, weight.detach(), support.token_offsets, mode="sum", per_sample_weights=values
    )
    return _RowGradient.apply(product, weight, values.detach(), support)


def _sum_by_feature(values: Tensor, rows: Tensor, support: Support) -> Tensor:
    """Return Σ over entries of each feature of value · rows[token]: (features × d)."""
    return functional.embedding_bag(
        support.token[support.by_feature],
        rows,
        support.feature_offsets,
        mode="sum",
        per_sample_weights=values[support.by_feature],
    )


class _RowGradient(torch.autograd.Function):
    """Identity on the decoder's product that adds the decoder weights' gradient."""

    @staticmethod
    def forward(ctx: Any, product: Tensor, weight: Tensor, values: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values)
        ctx.support = support
        return product.view_as(product)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        gradient = gradient.contiguous()
        return gradient, _sum_by_feature(values, gradient, ctx.support), None, None


class _Select(torch.autograd.Function):
    """The kept pre-activations, with the encoder's gradients summed over kept entries alone."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        centre: Tensor,
        centred: Tensor,
        values: Tensor,
        support: Support,
    ) -> Tensor:
        ctx.save_for_backward(weight, centred)
        ctx.support = support
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, centred = ctx.saved_tensors
        support = ctx.support
        to_weight = _sum_by_feature(gradient, centred, support)
        to_bias = functional.embedding_bag(
            support.by_feature, gradient[:, None].contiguous(), support.feature_offsets, mode="sum"
        )[:, 0]
        return to_weight, to_bias, -(to_bias @ weight), None, None, None
