"""Interventions on hidden states: what changes, by how much a dose, and where.

An intervention maps states h (…, d) and a dose s that broadcasts against them to the *change* of h; the
engine adds it. All changes are 0 at s = 0. The rules are those of activation steering (Turner et al. 2023),
of directional ablation (Arditi et al. 2024), of feature clamping (Templeton et al. 2024), and the
project-and-scale rule of the published pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interptfm.errors import InputError
from interptfm.sae.inference import Dictionary

POSITIONS = ("token", "all", "cls")
"""Where an intervention acts: the token of one gene, all tokens of genes, or `<cls>`."""


def unit(directions: np.ndarray | Tensor) -> Tensor:
    """Directions (k, d) float32 of length 1, from one (d,) or several (k, d).

    Raises InputError for a direction that is not finite or has no length.
    """
    rows = torch.as_tensor(np.asarray(directions), dtype=torch.float32).reshape(-1, np.shape(directions)[-1])
    length = rows.norm(dim=1, keepdim=True)
    bad = ~(torch.isfinite(length) & (length > 0)).squeeze(1)
    if bad.any():
        raise InputError(
            f"steering: found direction {int(torch.nonzero(bad)[0])} of length {float(length[bad][0]):g}, "
            "expected a finite length above 0"
        )
    return rows / length


@dataclass(frozen=True)
class Project:
    """The published rule, h += s Σ_c (h·d̂_c) d̂_c over the directions (k, d) of a gene's concepts."""

    directions: np.ndarray

    def change(self, states: Tensor, dose: Tensor) -> Tensor:
        rows = unit(self.directions).to(states)
        return dose * ((states @ rows.T) @ rows)


@dataclass(frozen=True)
class Add:
    """h += s σ d̂ for one direction (d,); `sigma` is what a dose of 1 adds, a norm."""

    direction: np.ndarray
    sigma: float = 1.0

    def change(self, states: Tensor, dose: Tensor) -> Tensor:
        return (dose * float(self.sigma)) * unit(self.direction)[0].to(states).expand_as(states)


@dataclass(frozen=True)
class AddEach:
    """h += s v_i where copy i of the cells gets row i of `vectors` (copies, d), not scaled to length 1."""

    vectors: np.ndarray

    def change(self, states: Tensor, dose: Tensor, copies: slice = slice(None)) -> Tensor:
        rows = torch.as_tensor(np.asarray(self.vectors, np.float32))[copies].to(states)
        return dose * rows[:, None].expand_as(states)


@dataclass(frozen=True)
class Ablate:
    """h −= s Q Qᵀ h, with Q an orthonormal basis of the span of `directions`; at s = 1 they are gone."""

    directions: np.ndarray

    def change(self, states: Tensor, dose: Tensor) -> Tensor:
        rows = unit(self.directions)
        # Of a QR the columns of dependent directions would be arbitrary; singular vectors say the rank.
        _, size, basis = torch.linalg.svd(rows.double(), full_matrices=False)
        basis = basis[size > 1e-6 * size[0]].to(states)
        return -dose * ((states @ basis.T) @ basis)


@dataclass(frozen=True)
class Clamp:
    """A feature of a dictionary moves from z towards `value`: z' = z + s (value − z), 1 being the clamp.

    Encode, change, decode, and keep the reconstruction error: h' = h + (z' − z) W_dec[feature]. Raises
    InputError for a feature that the dictionary does not have.
    """

    dictionary: Dictionary
    feature: int
    value: float

    def __post_init__(self) -> None:
        n = self.dictionary.n_features
        if not 0 <= self.feature < n:
            raise InputError(f"steering: found feature {self.feature}, expected 0 to {n - 1}")

    def change(self, states: Tensor, dose: Tensor) -> Tensor:
        flat = states.reshape(-1, states.shape[-1])
        code = self.dictionary.encode(flat.float())[:, self.feature].to(states)
        row = torch.as_tensor(self.dictionary.weights["W_dec"][self.feature]).to(states)
        moved = (self.value - code).reshape(*states.shape[:-1], 1)
        return (dose * moved) * row


Rule = Project | Add | AddEach | Ablate | Clamp


@dataclass(frozen=True)
class Step:
    """One intervention: `rule` on the output of `layer` (from 0) at `position`."""

    layer: int
    position: str
    rule: Rule

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            raise InputError(
                f"steering: found position {self.position!r}, expected one of {', '.join(POSITIONS)}"
            )
