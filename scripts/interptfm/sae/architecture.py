"""What all training architectures share: parameters, decoder constraint, penalty warm-up, saving.

An architecture of the training loop is a subclass of :class:`Architecture` that is registered in
``training.ARCHITECTURES``. Activations reach it scaled (mean squared norm d); it saves weights that act
on unscaled ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from interptfm.errors import InputError


@dataclass
class Loss:
    """What one batch gives: ``total`` carries the graph, everything else is detached.

    ``parts``: scalars by name; ``residual``: x − reconstruction (tokens × d); ``fired``: bool
    (features,); ``kept``: number of entries above 0; ``smallest``: the smallest kept activation, where
    the architecture tracks it.
    """

    total: Tensor
    parts: dict[str, Tensor]
    residual: Tensor
    fired: Tensor
    kept: Tensor
    smallest: Tensor | None = None


class Architecture:
    """A dictionary in training.

    Parameters
    ----------
    d, n_features
        Width of the activations and number of features.
    settings
        Values for :attr:`SETTINGS`.
    centre
        float32 (d,): initial decoder bias.
    generator
        CPU generator of the initial decoder directions.
    device
        Torch device.

    Encoder rows are held as (features × d), transposed to SAELens' layout on saving. Initially the
    encoder is the transposed decoder and the encoder's bias is 0.
    """

    NAME: ClassVar[str]
    SETTINGS: ClassVar[dict[str, Any]] = {}
    BUFFERS: ClassVar[tuple[str, ...]] = ()
    UNIT_NORM: ClassVar[bool] = True
    INITIAL_NORM: ClassVar[float] = 1.0

    def __init__(
        self,
        d: int,
        n_features: int,
        settings: dict[str, Any],
        centre: Tensor,
        generator: torch.Generator,
        device: str = "cpu",
    ) -> None:
        self.d, self.n_features, self.settings, self.device = d, n_features, settings, device
        rows = self.INITIAL_NORM * functional.normalize(torch.randn(n_features, d, generator=generator))
        start = {
            "W_enc": rows.clone(),
            "b_enc": torch.zeros(n_features),
            "W_dec": rows,
            "b_dec": centre.detach().clone().float().cpu(),
            **self._more_parameters(),
        }
        self.parameters = {name: value.to(device).requires_grad_() for name, value in start.items()}

    def _more_parameters(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def completed(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Return ``settings`` with values filled in that follow from others."""
        return settings

    @classmethod
    def check(cls, settings: dict[str, Any], n_features: int) -> None:
        """Raise :class:`InputError` where the architecture's own settings cannot work."""

    def loss(self, x: Tensor, dead: Tensor, progress: float = 1.0) -> Loss:
        """Return the loss of a batch.

        Parameters
        ----------
        x
            float32 (tokens × d), scaled so that the mean squared norm is d.
        dead
            int64 (n,): features that count as dead.
        progress
            Share of the training steps that are done, for the warm-up of a penalty.
        """
        raise NotImplementedError

    @torch.no_grad()
    def before_step(self) -> None:
        """Remove the part of the decoder's gradient parallel to its rows, where those are kept at 1."""
        if self.UNIT_NORM:
            rows = self.parameters["W_dec"]
            rows.grad.addcmul_(rows, (rows.grad * rows).sum(1, keepdim=True), value=-1)

    @torch.no_grad()
    def after_step(self, loss: Loss) -> None:
        """Return the decoder's rows to unit norm, if they are to have it."""
        if self.UNIT_NORM:
            rows = self.parameters["W_dec"]
            rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-12)

    def report(self, x: Tensor, scale: float) -> dict[str, float]:
        """Return what the architecture adds to a row of the history, for a scaled batch ``x``."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Everything that :meth:`load_state` needs to go on exactly."""
        return {name: value.detach() for name, value in self.parameters.items()} | {
            name: getattr(self, name) for name in self.BUFFERS
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set parameters and buffers to what :meth:`state` returned."""
        for name, value in state.items():
            if name in self.parameters:
                self.parameters[name].copy_(value)
            else:
                setattr(self, name, value.to(self.device))

    def inference_weights(self, scale: float) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
        """Return (kind, tensors, options) of a :class:`~interptfm.sae.inference.Dictionary`.

        Training saw ``scale`` · x. As relu is homogeneous, dividing biases and thresholds by ``scale``
        gives the same features, divided by ``scale``, on unscaled activations, and the same decoder.
        """
        values = {name: value.detach().cpu().double().numpy() for name, value in self.parameters.items()}
        kind, weights, options = self._saved(values)
        for name, value in weights.items():
            if name.startswith("b_") or name == "threshold":
                weights[name] = value / scale
        tensors = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}
        return kind, tensors, options

    def _saved(self, values: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
        """Kind, scaled tensors in SAELens' layout and options, from float64 parameters."""
        raise NotImplementedError


def warmed(coefficient: float, warmup_fraction: float, progress: float) -> float:
    """Return a penalty's coefficient: linear from 0 over the first share of training, then constant."""
    return coefficient * (min(1.0, progress / warmup_fraction) if warmup_fraction else 1.0)


def require(settings: dict[str, Any], key: str, holds: Callable[[Any], bool], expected: str) -> None:
    """Raise :class:`InputError` unless ``settings[key]`` is a number (no bool) for which ``holds``."""
    value = settings[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
        raise InputError(f"dictionaries.{key}: found {value!r}, expected {expected}")
