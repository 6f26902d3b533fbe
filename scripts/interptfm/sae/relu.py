"""Dictionaries with a ReLU and an L1 penalty: ``standard`` and ``gated``."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from interptfm.errors import InputError
from interptfm.sae.architecture import Architecture, Loss, require, warmed

RECONSTRUCTIONS = ("squared", "norm")


class Standard(Architecture):
    """ReLU dictionary.

    ``reconstruction: squared`` (Conerly et al. 2024): ‖x − x̂‖² + λ Σ fᵢ ‖W_dec,ᵢ‖, decoder norms free
    (start 0.1), folded into the encoder on saving. ``norm`` (Bricken et al. 2023 as in the published
    pipeline's trainer): ‖x − x̂‖ + λ Σ fᵢ with unit-norm decoder rows. λ rises linearly from 0.
    """

    NAME = "standard"
    SETTINGS: ClassVar[dict[str, Any]] = {
        "l1_coefficient": 1.0,
        "l1_warmup_fraction": 0.05,
        "reconstruction": "squared",
    }

    def __init__(self, d: int, n_features: int, settings: dict[str, Any], *rest: Any) -> None:
        self.UNIT_NORM = settings["reconstruction"] == "norm"
        self.INITIAL_NORM = 1.0 if self.UNIT_NORM else 0.1
        super().__init__(d, n_features, settings, *rest)

    @classmethod
    def check(cls, settings: dict[str, Any], n_features: int) -> None:
        check_penalty(settings, "l1")
        if settings["reconstruction"] not in RECONSTRUCTIONS:
            raise InputError(
                f"dictionaries.reconstruction: found {settings['reconstruction']!r}, expected "
                f"{' or '.join(RECONSTRUCTIONS)}"
            )

    def loss(self, x: Tensor, dead: Tensor, progress: float = 1.0) -> Loss:
        p, settings = self.parameters, self.settings
        code = torch.relu(functional.linear(x - p["b_dec"], p["W_enc"], p["b_enc"]))
        residual = x - code @ p["W_dec"] - p["b_dec"]
        if self.UNIT_NORM:
            reconstruction = torch.linalg.vector_norm(residual, dim=1).mean()
            penalty = code.sum(1).mean()
        else:
            reconstruction = residual.square().sum(1).mean()
            penalty = (code @ torch.linalg.vector_norm(p["W_dec"], dim=1)).mean()
        coefficient = warmed(settings["l1_coefficient"], settings["l1_warmup_fraction"], progress)
        return dense_loss(
            reconstruction + coefficient * penalty,
            {"reconstruction": reconstruction, "l1": penalty},
            residual,
            code,
        )

    def _saved(self, values: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
        norm = np.maximum(np.linalg.norm(values["W_dec"], axis=1), 1e-12)
        weights = {
            "W_enc": values["W_enc"].T * norm,
            "b_enc": values["b_enc"] * norm,
            "W_dec": values["W_dec"] / norm[:, None],
            "b_dec": values["b_dec"],
        }
        return "standard", weights, {}


class Gated(Architecture):
    """Gated dictionary (Rajamanoharan et al. 2024a).

    With π = W_enc (x − b_dec): gate 1[π + b_gate > 0], magnitude relu(exp(r_mag) π + b_mag). Loss:
    ‖x − x̂‖² + λ Σ relu(π + b_gate) + ‖x − x̂_gate‖², where x̂_gate decodes relu(π + b_gate) with a frozen
    copy of the decoder. The gate itself passes no gradient; decoder rows have unit norm.
    """

    NAME = "gated"
    SETTINGS: ClassVar[dict[str, Any]] = {"l1_coefficient": 1.0, "l1_warmup_fraction": 0.05}

    def _more_parameters(self) -> dict[str, Tensor]:
        return {name: torch.zeros(self.n_features) for name in ("b_gate", "b_mag", "r_mag")}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        del self.parameters["b_enc"]  # the gate's and the magnitude's biases take its place

    @classmethod
    def check(cls, settings: dict[str, Any], n_features: int) -> None:
        check_penalty(settings, "l1")

    def loss(self, x: Tensor, dead: Tensor, progress: float = 1.0) -> Loss:
        p, settings = self.parameters, self.settings
        shared = (x - p["b_dec"]) @ p["W_enc"].T
        gate = shared + p["b_gate"]
        code = torch.relu(shared * p["r_mag"].exp() + p["b_mag"]) * (gate > 0)
        residual = x - code @ p["W_dec"] - p["b_dec"]
        opened = torch.relu(gate)
        by_gate = x - opened @ p["W_dec"].detach() - p["b_dec"].detach()
        reconstruction = residual.square().sum(1).mean()
        auxiliary = by_gate.square().sum(1).mean()
        penalty = opened.sum(1).mean()
        coefficient = warmed(settings["l1_coefficient"], settings["l1_warmup_fraction"], progress)
        return dense_loss(
            reconstruction + coefficient * penalty + auxiliary,
            {"reconstruction": reconstruction, "l1": penalty, "auxiliary": auxiliary},
            residual,
            code,
        )

    def _saved(self, values: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
        return "gated", {**values, "W_enc": values["W_enc"].T}, {}


def check_penalty(settings: dict[str, Any], name: str) -> None:
    """Check the coefficient and warm-up of the penalty ``l1`` or ``l0``."""
    require(settings, f"{name}_coefficient", lambda value: value >= 0, "a number of at least 0")
    require(settings, f"{name}_warmup_fraction", lambda value: 0 <= value <= 1, "0 to 1")


def dense_loss(total: Tensor, parts: dict[str, Tensor], residual: Tensor, code: Tensor) -> Loss:
    """Return the :class:`Loss` of a dense code (tokens × features)."""
    with torch.no_grad():
        active = code > 0
        return Loss(
            total=total,
            parts={name: value.detach() for name, value in parts.items()},
            residual=residual.detach(),
            fired=active.any(0),
            kept=active.sum(),
        )
