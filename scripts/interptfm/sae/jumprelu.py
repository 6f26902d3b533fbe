"""JumpReLU dictionaries in training: straight-through gradients of the jump and of the L0 penalty."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from interptfm.sae.architecture import Architecture, Loss, require, warmed
from interptfm.sae.relu import check_penalty, dense_loss


class JumpReLU(Architecture):
    """z = p · 1[p > θ] with p = W_enc (x − b_dec) + b_enc (Rajamanoharan et al. 2024b).

    Loss ‖x − x̂‖² + λ Σ 1[pᵢ > θᵢ], λ rising linearly from 0. Only θ receives gradient through the jumps,
    estimated with a rectangle kernel of width ``bandwidth`` (in units of the scaled activations). θ is
    held as its logarithm, and is float32 with float32 gradients whatever the activations are. Decoder
    rows have unit norm.
    """

    NAME = "jumprelu"
    SETTINGS: ClassVar[dict[str, Any]] = {
        "l0_coefficient": 1.0,
        "l0_warmup_fraction": 0.05,
        "bandwidth": 0.3,
        "initial_threshold": 0.3,
    }

    def _more_parameters(self) -> dict[str, Tensor]:
        start = float(np.log(self.settings["initial_threshold"]))
        return {"log_threshold": torch.full((self.n_features,), start, dtype=torch.float32)}

    @classmethod
    def check(cls, settings: dict[str, Any], n_features: int) -> None:
        check_penalty(settings, "l0")
        for key in ("bandwidth", "initial_threshold"):
            require(settings, key, lambda value: value > 0, "a number above 0")

    def loss(self, x: Tensor, dead: Tensor, progress: float = 1.0) -> Loss:
        p, settings = self.parameters, self.settings
        pre = functional.linear(x - p["b_dec"], p["W_enc"], p["b_enc"])
        threshold = p["log_threshold"].exp()
        code = Jump.apply(pre, threshold, settings["bandwidth"])
        residual = x - code @ p["W_dec"] - p["b_dec"]
        reconstruction = residual.square().sum(1).mean()
        l0 = Step.apply(pre, threshold, settings["bandwidth"]).sum(1).mean()
        coefficient = warmed(settings["l0_coefficient"], settings["l0_warmup_fraction"], progress)
        return dense_loss(
            reconstruction + coefficient * l0,
            {"reconstruction": reconstruction, "l0_penalty": l0},
            residual,
            code,
        )

    def report(self, x: Tensor, scale: float) -> dict[str, float]:
        return {"threshold": float(self.parameters["log_threshold"].detach().exp().mean()) / scale}

    def _saved(self, values: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
        weights = {name: values[name] for name in ("b_enc", "W_dec", "b_dec")}
        threshold = np.exp(values["log_threshold"])
        return "jumprelu", {**weights, "W_enc": values["W_enc"].T, "threshold": threshold}, {}


def rectangle(values: Tensor) -> Tensor:
    """Return the rectangle kernel, 1 within ±½ and 0 outside."""
    return (values.abs() < 0.5).to(values.dtype)


class Jump(torch.autograd.Function):
    """p · 1[p > θ]; ∂/∂p = 1[p > θ] and ∂/∂θ = −θ/ε · K((p − θ)/ε), in float32."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = rectangle((pre.float() - threshold) / ctx.bandwidth)
        to_threshold = -(threshold / ctx.bandwidth) * (near * gradient.float()).sum(0)
        return gradient * (pre > threshold), to_threshold, None


class Step(torch.autograd.Function):
    """1[p > θ]; no gradient to p, and ∂/∂θ = −1/ε · K((p − θ)/ε), in float32."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(threshold.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = rectangle((pre.float() - threshold) / ctx.bandwidth)
        return None, -(near * gradient.float()).sum(0) / ctx.bandwidth, None
