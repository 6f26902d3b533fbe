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
