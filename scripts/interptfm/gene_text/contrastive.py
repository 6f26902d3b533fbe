"""Supervised contrastive refinement: a projection head that draws cells of a type together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interptfm.errors import InputError

if TYPE_CHECKING:
    import torch

LOSSES = ("supcon", "soft_nearest_neighbour")


@dataclass(frozen=True)
class Head:
    """A fitted projection: x → W₂ relu(W₁ x + b₁) + b₂ (without hidden units W₁ x + b₁), to length 1."""

    layers: list[tuple[np.ndarray, np.ndarray]]

    def project(self, x: np.ndarray) -> np.ndarray:
        """Return unit vectors (n × dims, float32) of prepared representations (n × d)."""
        for i, (weight, bias) in enumerate(self.layers):
            x = (np.maximum(x, 0) if i else x) @ weight.T + bias
        length = np.linalg.norm(x, axis=1, keepdims=True)
        return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def loss_of(z: torch.Tensor, labels: torch.Tensor, temperature: float, kind: str) -> torch.Tensor:
    """Return the loss of a batch, a scalar.

    Parameters
    ----------
    z
        (n × d) unit vectors.
    labels
        (n,) whole numbers. Cells alone of their label in the batch are no anchors.
    temperature
        τ, by which cosines are divided.
    kind
        With s the similarities over τ, P(i) the others of i's label and A(i) all others: ``supcon``,
        −mean over P(i) of log(exp s_ip / Σ_A exp s_ia) (Khosla et al. 2020, *NeurIPS* 33, L_out);
        ``soft_nearest_neighbour``, −log(Σ_P exp s_ip / Σ_A exp s_ia) (Frosst et al. 2019, *ICML* 97).
    """
    import torch

    similarity = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    similarity = similarity.masked_fill(itself, -torch.inf)
    everything = torch.logsumexp(similarity, dim=1)
    anchors = positive.any(dim=1)
    if kind == "supcon":
        log_share = (similarity - everything[:, None]).masked_fill(~positive, 0)
        each = -log_share.sum(dim=1)[anchors] / positive.sum(dim=1)[anchors]
    elif kind == "soft_nearest_neighbour":
        own = torch.logsumexp(similarity.masked_fill(~positive, -torch.inf)[anchors], dim=1)
        each = everything[anchors] - own
    else:
        raise InputError(f"gene_text.contrastive.loss: found {kind!r}, expected one of {', '.join(LOSSES)}")
    return each.sum() / max(int(anchors.sum()), 1)


def fit(x: np.ndarray, labels: np.ndarray, settings: Mapping[str, Any], seed: int) -> Head:
    """Fit a head to teaching cells for a fixed number of epochs; nothing is chosen by any held-out cell.

    Parameters
    ----------
    x
        (n × d) float32, prepared representations of the cells that teach.
    labels
        (n,) their cell types as whole numbers.
    settings
        The block ``gene_text.contrastive``: loss, temperature, hidden, dimensions, epochs, batch,
        learning_rate, weight_decay, balanced (batches take each type alike).
    seed
        Of weights and batches.
    """
    import torch

    generator = torch.Generator().manual_seed(seed % 2**63)
    numbers = np.random.default_rng(seed)
    sizes = [x.shape[1], *([settings["hidden"]] if settings["hidden"] else []), settings["dimensions"]]
    layers = []
    for inner, outer in itertools.pairwise(sizes):
        weight = torch.randn(outer, inner, generator=generator) / inner**0.5
        layers.append((weight.requires_grad_(), torch.zeros(outer, requires_grad=True)))
    optimiser = torch.optim.AdamW(
        [part for layer in layers for part in layer],
        lr=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
    )
    inputs, targets = torch.from_numpy(np.ascontiguousarray(x, np.float32)), torch.from_numpy(labels)
    for _ in range(settings["epochs"]):
        for chosen in batches(labels, settings["batch"], settings["balanced"], numbers):
            z = inputs[chosen]
            for i, (weight, bias) in enumerate(layers):
                z = torch.nn.functional.linear(torch.relu(z) if i else z, weight, bias)
            z = torch.nn.functional.normalize(z, dim=1)
            loss = loss_of(z, targets[chosen], settings["temperature"], settings["loss"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return Head([(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in layers])


def batches(
    labels: np.ndarray, size: int, balanced: bool, generator: np.random.Generator
) -> list[np.ndarray]:
    """Return one epoch's batches of positions: as many as all cells take once, of ``size`` at most.

    ``balanced`` draws each cell's type first, then a cell of it with replacement: a rare type has partners in
    every batch.
    """
    n = len(labels)
    count = max(1, round(n / size))
    if not balanced:
        return np.array_split(generator.permutation(n), count)
    members = [np.flatnonzero(labels == t) for t in np.unique(labels)]
    found = []
    for _ in range(count):
        which = generator.integers(len(members), size=min(size, n))
        share = generator.random(len(which))
        found.append(
            np.array([members[t][int(s * len(members[t]))] for t, s in zip(which, share, strict=True)])
        )
    return found
