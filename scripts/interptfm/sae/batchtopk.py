"""BatchTopK in training: parameters, loss, constraints and the running inference threshold.

Bussmann, Leask & Nanda 2024 (BatchTopK); Gao et al. 2024 (auxiliary loss on dead features, tied
initialisation, learning-rate rule). An architecture of the training loop is a class with this
module's surface: ``SETTINGS``, ``check``, ``parameters``, ``loss``, ``before_step``, ``after_step``,
``state``, ``load_state`` and ``inference_weights``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from interptfm.errors import InputError
from interptfm.sae import sparse

# The inference threshold is the mean of the smallest kept activation over about this many batches.
THRESHOLD_BATCHES = 100


@dataclass
class Loss:
    """What one batch gives: ``total`` carries the graph, everything else is detached.

    ``parts``: scalars by name; ``residual``: x − reconstruction (tokens × d); ``fired``: bool
    (features,); ``smallest``: the smallest kept activation; ``kept``: entries kept.
    """

    total: Tensor
    parts: dict[str, Tensor]
    residual: Tensor
    fired: Tensor
    smallest: Tensor
    kept: Tensor


class BatchTopK:
    """A dictionary that keeps the k · tokens largest activations of each batch.

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

    Encoder rows are held as (features × d), transposed to SAELens' layout on saving.
    """

    SETTINGS: dict[str, Any] = {"k": 16, "aux_coefficient": 1 / 32}  # noqa: RUF012

    def __init__(
        self,
        d: int,
        n_features: int,
        settings: dict[str, Any],
        centre: Tensor,
        generator: torch.Generator,
        device: str = "cpu",
    ) -> None:
        self.d, self.n_features = d, n_features
        self.k, self.aux_coefficient = settings["k"], settings["aux_coefficient"]
        directions = functional.normalize(torch.randn(n_features, d, generator=generator))
        start = {
            "W_enc": directions.clone(),
            "b_enc": torch.zeros(n_features),
            "W_dec": directions,
            "b_dec": centre.detach().clone().float().cpu(),
        }
        self.parameters = {name: value.to(device).requires_grad_() for name, value in start.items()}
        self.last_smallest = torch.zeros((), device=device)
        self.threshold_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.threshold_weight = torch.zeros((), dtype=torch.float64, device=device)
        self._pre: Tensor | None = None

    @classmethod
    def check(cls, settings: dict[str, Any], n_features: int) -> None:
        """Raise :class:`InputError` where the architecture's own settings cannot work."""
        k, coefficient = settings["k"], settings["aux_coefficient"]
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= n_features:
            raise InputError(
                f"dictionaries.k: found {k!r}, expected a whole number from 1 to n_features = {n_features}"
            )
        if not isinstance(coefficient, int | float) or coefficient < 0:
            raise InputError(
                f"dictionaries.aux_coefficient: found {coefficient!r}, expected a number of at least 0"
            )

    def loss(self, x: Tensor, dead: Tensor) -> Loss:
        """Return the loss of a batch.

        Parameters
        ----------
        x
            float32 (tokens × d), scaled so that the mean squared norm is d.
        dead
            int64 (n,): features that count as dead; empty switches the auxiliary loss off.
        """
        w_enc, b_enc = self.parameters["W_enc"], self.parameters["b_enc"]
        w_dec, b_dec = self.parameters["W_dec"], self.parameters["b_dec"]
        with torch.no_grad():
            centred = x - b_dec
            pre = self._dense(centred)
            # On a CPU reading the tensor costs nothing; elsewhere the guess is not used.
            floor = sparse.CANDIDATE_MARGIN * float(self.last_smallest) if x.device.type == "cpu" else 0.0
            flat, values = sparse.largest_of_batch(pre, self.k * len(x), floor)
            support = sparse.support_of(flat, len(x), self.n_features)
        kept = torch.relu(sparse.select(support, values, centred, w_enc, b_enc, b_dec))
        residual = x - sparse.decode(kept, w_dec, support) - b_dec
        reconstruction = residual.square().sum(1).mean()
        auxiliary = self._auxiliary(centred, residual.detach(), dead)
        total = reconstruction + self.aux_coefficient * auxiliary
        with torch.no_grad():
            positive = kept > 0
            smallest = (
                torch.where(positive, kept, torch.inf).min() if len(kept) else kept.new_tensor(torch.inf)
            )
            fired = support.fired if x.device.type == "cpu" else self._fired(support, positive)
        return Loss(
            total=total,
            parts={"reconstruction": reconstruction.detach(), "auxiliary": auxiliary.detach()},
            residual=residual.detach(),
            fired=fired,
            smallest=smallest,
            kept=positive.sum(),
        )

    def _dense(self, centred: Tensor) -> Tensor:
        """Pre-activations (tokens × features), in a buffer that is kept from batch to batch."""
        shape = (len(centred), self.n_features)
        if self._pre is None or self._pre.shape != shape:
            self._pre = torch.empty(shape, device=centred.device)
        return torch.addmm(self.parameters["b_enc"], centred, self.parameters["W_enc"].T, out=self._pre)

    def _fired(self, support: sparse.Support, positive: Tensor) -> Tensor:
        fired = torch.zeros(self.n_features, device=positive.device)
        return fired.scatter_reduce(0, support.feature, positive.float(), "amax") > 0

    def _auxiliary(self, centred: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
        """Squared error of the residual's reconstruction from the dead features alone.

        Each token uses its min(d / 2, dead) largest dead pre-activations, no bias; the target and
        the encoder's input are constants, so only rows of dead features receive gradient.
        """
        if not len(dead) or not self.aux_coefficient:
            return residual.new_zeros(())
        w_enc, b_enc, w_dec = (
            self.parameters[name].index_select(0, dead) for name in ("W_enc", "b_enc", "W_dec")
        )
        pre = functional.linear(centred, w_enc, b_enc)
        k_aux = max(1, self.d // 2)
        if k_aux < len(dead):
            smallest = pre.detach().topk(k_aux, dim=1, sorted=False).values.amin(1, keepdim=True)
            pre = torch.where(pre >= smallest, pre, 0.0)
        predicted = torch.relu(pre) @ w_dec
        return (residual - predicted).square().sum(1).mean()

    @torch.no_grad()
    def before_step(self) -> None:
        """Remove the part of the decoder's gradient that is parallel to its rows."""
        rows = self.parameters["W_dec"]
        rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows

    @torch.no_grad()
    def after_step(self, loss: Loss) -> None:
        """Return the decoder's rows to unit norm and update the running threshold."""
        rows = self.parameters["W_dec"]
        rows /= rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        found = torch.isfinite(loss.smallest)
        self.last_smallest = torch.where(found, loss.smallest, 0.0)
        decay = 1 - 1 / THRESHOLD_BATCHES
        self.threshold_sum = torch.where(
            found, decay * self.threshold_sum + self.last_smallest, self.threshold_sum
        )
        self.threshold_weight = torch.where(found, decay * self.threshold_weight + 1, self.threshold_weight)

    @property
    def threshold(self) -> Tensor:
        """Running mean of the smallest kept activation, in scaled units; 0 before the first batch."""
        return self.threshold_sum / self.threshold_weight.clamp_min(1e-12)

    @torch.no_grad()
    def l0(self, x: Tensor) -> Tensor:
        """Mean features a token above the inference threshold on a scaled batch."""
        return (self._dense(x - self.parameters["b_dec"]) > self.threshold).sum() / len(x)

    def state(self) -> dict[str, Tensor]:
        """Everything that :meth:`load_state` needs to go on exactly."""
        buffers = ("last_smallest", "threshold_sum", "threshold_weight")
        return {name: value.detach() for name, value in self.parameters.items()} | {
            name: getattr(self, name) for name in buffers
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set parameters and buffers to what :meth:`state` returned."""
        for name, value in state.items():
            if name in self.parameters:
                self.parameters[name].copy_(value)
            else:
                setattr(self, name, value.to(self.last_smallest.device))

    def inference_weights(self, scale: float) -> dict[str, np.ndarray]:
        """Return SAELens' ``jumprelu`` tensors that act on unscaled activations.

        Training saw ``scale`` · x. As relu is homogeneous, dividing both biases and the threshold by
        ``scale`` gives the same features, divided by ``scale``, and the same unit-norm decoder.
        """
        values = {name: value.detach().cpu().double().numpy() for name, value in self.parameters.items()}
        threshold = np.full(self.n_features, float(self.threshold) / scale)
        weights = {
            "W_enc": values["W_enc"].T,
            "W_dec": values["W_dec"],
            "b_enc": values["b_enc"] / scale,
            "b_dec": values["b_dec"] / scale,
            "threshold": threshold,
        }
        return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}
