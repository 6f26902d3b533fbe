"""The TopK family in training: ``topk``, ``batchtopk`` and ``matryoshka``, with sparse gradients.

Gao et al. 2024 (TopK, auxiliary loss on dead features, tied initialisation, learning-rate rule); Bussmann,
Leask & Nanda 2024 (BatchTopK, inference threshold); Bussmann et al. 2025 (Matryoshka).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from interptfm.errors import InputError
from interptfm.sae import sparse
from interptfm.sae.architecture import Architecture, Loss, require
from interptfm.sae.selection import SMALLEST, Selection, kth_of_tokens

# The inference threshold is the mean of the smallest kept activation over about this many batches.
THRESHOLD_BATCHES = 100


class TopK(Architecture):
    """A dictionary that keeps the k largest activations of each token.

    Loss: ‖x − x̂‖² + ``aux_coefficient`` · ‖e − ê‖², e = x − x̂ held constant and ê its reconstruction
    from the dead features alone.
    """

    NAME = "topk"
    SETTINGS: ClassVar[dict[str, Any]] = {"k": 16, "aux_coefficient": 1 / 32}

    @classmethod
    def check(cls, settings: dict[str, Any], n_features: int) -> None:
        k = settings["k"]
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= n_features:
            raise InputError(
                f"dictionaries.k: found {k!r}, expected a whole number from 1 to n_features = {n_features}"
            )
        require(settings, "aux_coefficient", lambda value: value >= 0, "a number of at least 0")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.selection = Selection(self.n_features)

    def _encoder(self) -> tuple[Tensor, Tensor]:
        return self.parameters["W_enc"], self.parameters["b_enc"]

    def _largest(self, centred: Tensor) -> tuple[Tensor, Tensor]:
        """Flat indices (ascending) and values of the pre-activations that are kept."""
        return self.selection.of_tokens(centred, *self._encoder(), self.settings["k"])

    def loss(self, x: Tensor, dead: Tensor, progress: float = 1.0) -> Loss:
        p = self.parameters
        with torch.no_grad():
            centred = x - p["b_dec"]
            flat, values = self._largest(centred)
            support = sparse.support_of(flat, len(x), self.n_features)
        kept = torch.relu(sparse.select(support, values, centred, p["W_enc"], p["b_enc"], p["b_dec"]))
        reconstruction, residual = self._reconstruct(x, kept, support)
        auxiliary = self._auxiliary(centred, residual, dead)
        with torch.no_grad():
            positive = kept > 0
            smallest = (
                torch.where(positive, kept, torch.inf).min() if len(kept) else kept.new_tensor(torch.inf)
            )
        return Loss(
            total=reconstruction + self.settings["aux_coefficient"] * auxiliary,
            parts={"reconstruction": reconstruction.detach(), "auxiliary": auxiliary.detach()},
            residual=residual,
            fired=support.fired if x.device.type == "cpu" else self._fired(support, positive),
            kept=positive.sum(),
            smallest=smallest,
        )

    def _reconstruct(self, x: Tensor, kept: Tensor, support: sparse.Support) -> tuple[Tensor, Tensor]:
        """Reconstruction loss with its graph, and the residual (tokens × d) without."""
        p = self.parameters
        residual = x - sparse.decode(kept, p["W_dec"], support) - p["b_dec"]
        return residual.square().sum(1).mean(), residual.detach()

    def _fired(self, support: sparse.Support, positive: Tensor) -> Tensor:
        fired = torch.zeros(self.n_features, device=positive.device)
        return fired.scatter_reduce(0, support.feature, positive.float(), "amax") > 0

    def _auxiliary(self, centred: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
        """Squared error of the residual's reconstruction from the dead features alone.

        Each token uses its min(d / 2, dead) largest dead pre-activations, no bias; the target and
        the encoder's input are constants, so only rows of dead features receive gradient.
        """
        if not len(dead) or not self.settings["aux_coefficient"]:
            return residual.new_zeros(())
        chosen = (self.parameters[name].index_select(0, dead) for name in ("W_enc", "b_enc", "W_dec"))
        return _Auxiliary.apply(*chosen, centred, residual, min(max(1, self.d // 2), len(dead)))

    def _saved(self, values: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
        return "topk", {**values, "W_enc": values["W_enc"].T}, {"k": self.settings["k"]}


class BatchTopK(TopK):
    """A dictionary that keeps the k · tokens largest activations of each batch.

    After training it is a JumpReLU with one threshold for all features: the running mean of the
    smallest kept activation.
    """

    NAME = "batchtopk"
    BUFFERS = ("last_smallest", "threshold_sum", "threshold_weight")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.last_smallest = torch.zeros((), device=self.device)
        self.threshold_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.threshold_weight = torch.zeros((), dtype=torch.float64, device=self.device)

    def _largest(self, centred: Tensor) -> tuple[Tensor, Tensor]:
        # On a CPU reading the tensor costs nothing; elsewhere the guess is not used.
        guess = float(self.last_smallest) if centred.device.type == "cpu" else 0.0
        return self.selection.of_batch(centred, *self._encoder(), self.settings["k"] * len(centred), guess)

    @torch.no_grad()
    def after_step(self, loss: Loss) -> None:
        """Return the decoder's rows to unit norm and update the running threshold."""
        super().after_step(loss)
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
    def report(self, x: Tensor, scale: float) -> dict[str, float]:
        """L0 of the batch at the inference threshold, and that threshold in unscaled units."""
        pre = self.selection.product(x - self.parameters["b_dec"], *self._encoder())
        l0 = (pre > self.threshold.to(pre.dtype)).sum() / len(x)
        return {"l0_inference": float(l0), "threshold": float(self.threshold) / scale}

    def _saved(self, values: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
        threshold = np.full(self.n_features, float(self.threshold))
        return "jumprelu", {**values, "W_enc": values["W_enc"].T, "threshold": threshold}, {}


class Matryoshka(BatchTopK):
    """BatchTopK whose first features also have to reconstruct without the later ones.

    Loss: Σ over ``prefix_sizes`` m of ‖x − b_dec − Σ_{i<m} fᵢ W_dec,ᵢ‖², the last m being all features, and
    the auxiliary loss of the full reconstruction.
    """

    NAME = "matryoshka"
    SETTINGS: ClassVar[dict[str, Any]] = {**TopK.SETTINGS, "prefix_sizes": None}

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        sizes = torch.tensor(self.settings["prefix_sizes"], device=self.device)
        features = torch.arange(self.n_features, device=self.device)
        self._group = torch.searchsorted(sizes, features, right=True)
        self._n_groups = len(sizes)

    @classmethod
    def completed(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Five prefixes unless set, each twice as long as the one before; the last is all features."""
        if settings["prefix_sizes"] is None:
            n = settings["n_features"]
            return {**settings, "prefix_sizes": sorted({max(1, n // 2**power) for power in range(5)})}
        return settings

    @classmethod
    def check(cls, settings: dict[str, Any], n_features: int) -> None:
        super().check(settings, n_features)
        sizes = settings["prefix_sizes"]
        if (
            not isinstance(sizes, list)
            or not sizes
            or not all(isinstance(size, int) and size >= 1 for size in sizes)
            or sizes != sorted(set(sizes))
            or sizes[-1] != n_features
        ):
            raise InputError(
                f"dictionaries.prefix_sizes: found {sizes!r}, expected rising whole numbers of which the "
                f"last is n_features = {n_features}"
            )

    def _reconstruct(self, x: Tensor, kept: Tensor, support: sparse.Support) -> tuple[Tensor, Tensor]:
        # Entries are ordered by token and then by feature, hence by group within a token: each
        # (token, group) is one bag, and prefixes are the running sums of a token's bags.
        with torch.no_grad():
            bag = support.token * self._n_groups + self._group[support.feature]
            bags = torch.arange(len(x) * self._n_groups, device=x.device)
            grouped = sparse.Support(
                bag,
                support.feature,
                torch.searchsorted(bag, bags),
                support.by_feature,
                support.feature_offsets,
            )
        p = self.parameters
        parts = sparse.decode(kept, p["W_dec"], grouped).view(len(x), self._n_groups, self.d)
        residuals = (x - p["b_dec"])[:, None] - parts.cumsum(1)
        return residuals.square().sum((1, 2)).mean(), residuals[:, -1].detach()


class _Auxiliary(torch.autograd.Function):
    """Mean over tokens of ‖residual − code · w_dec‖², code: the k_aux largest relu(centred · w_encᵀ + b_enc).

    Gradients to w_enc (dead × d), b_enc (dead,) and w_dec (dead × d); written out to pass over the
    (tokens × d) and (tokens × dead) matrices as rarely as possible.
    """

    @staticmethod
    def forward(
        ctx: Any, w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, centred: Tensor, residual: Tensor, k_aux: int
    ) -> Tensor:
        code = torch.addmm(b_enc, centred, w_enc.T)
        code.masked_fill_(code < kth_of_tokens(code, k_aux).clamp_min(SMALLEST), 0.0)
        error = torch.addmm(residual, code, w_dec, alpha=-1)
        ctx.save_for_backward(w_dec, centred, code, error)
        return torch.linalg.vector_norm(error).square() / len(centred)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        w_dec, centred, code, error = ctx.saved_tensors
        factor = -2 * gradient / len(centred)
        to_code = (error @ w_dec.T).masked_fill_(code == 0, 0.0)
        to_encoder = (to_code.T @ centred).mul_(factor)
        return to_encoder, to_code.sum(0) * factor, (code.T @ error).mul_(factor), None, None, None
