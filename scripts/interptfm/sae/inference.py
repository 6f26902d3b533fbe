"""The trained dictionary: encode and decode, apart from training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interptfm.errors import InputError
from interptfm.sae import sparse

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SHARED = ("W_enc", "W_dec", "b_dec")
TENSORS = {
    "standard": (*SHARED, "b_enc"),
    "jumprelu": (*SHARED, "b_enc", "threshold"),
    "topk": (*SHARED, "b_enc"),
    "gated": (*SHARED, "b_gate", "b_mag", "r_mag"),
}
"""Kinds of trained dictionaries and their tensors, with SAELens' names."""


class Dictionary:
    """A trained dictionary; code z of activations x, reconstruction z W_dec + b_dec.

    With p = (x − b_dec) W_enc, as SAELens defines its kinds with ``apply_b_dec_to_input``:
    ``standard`` z = relu(p + b_enc); ``jumprelu`` the same where p + b_enc > threshold, else 0
    (BatchTopK and Matryoshka dictionaries are of this kind after training); ``topk`` the same for the
    k largest of a token, else 0; ``gated`` z = relu(exp(r_mag) p + b_mag) where p + b_gate > 0, else 0.

    Parameters
    ----------
    kind
        One of :data:`TENSORS`.
    weights
        float32 arrays: ``W_enc`` (d × features), ``W_dec`` (features × d), ``b_dec`` (d,), all others
        (features,).
    options
        ``k`` for ``topk``.
    metadata
        Free-form origin (model digest, layer, …).
    device
        Torch device on which to encode.
    """

    def __init__(
        self,
        kind: str,
        weights: dict[str, np.ndarray],
        options: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        self.kind, self.weights, self.options = kind, weights, dict(options or {})
        self.metadata, self.device = dict(metadata or {}), device
        self._tensors = {name: torch.from_numpy(weights[name]).to(device) for name in TENSORS[kind]}
        # What a topk dictionary ranks by, relative to its code: set by `normalised` alone.
        self._rank: Tensor | None = None

    @property
    def d(self) -> int:
        """Width of the activations."""
        return self.weights["W_dec"].shape[1]

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.weights["W_dec"].shape[0]

    @torch.inference_mode()
    def encode(self, x: np.ndarray | Tensor) -> Tensor:
        """Return dense features, float32 (tokens × features), of activations (tokens × d)."""
        value, keep = self._code(x)
        return torch.where(keep, value, 0.0)

    @torch.inference_mode()
    def encode_sparse(self, x: np.ndarray | Tensor) -> csr_matrix:
        """Return the same features as CSR, float32 (tokens × features), indices sorted."""
        from scipy.sparse import csr_matrix

        value, keep = self._code(x)
        flat = _flat_indices(keep)
        values = value.flatten()[flat].cpu().numpy()
        flat = flat.cpu().numpy()
        indptr = np.searchsorted(flat, np.arange(len(value) + 1) * self.n_features)
        return csr_matrix((values, flat % self.n_features, indptr), shape=tuple(value.shape))

    @torch.inference_mode()
    def decode(self, z: np.ndarray | Tensor | csr_matrix) -> Tensor:
        """Return reconstructions, float32 (tokens × d), of features (tokens × features), dense or CSR."""
        if hasattr(z, "indptr"):
            coo = z.tocoo()
            flat = torch.from_numpy(coo.row.astype(np.int64) * self.n_features + coo.col)
            support = sparse.support_of(flat.to(self.device), *z.shape)
            values = torch.from_numpy(np.ascontiguousarray(coo.data, np.float32)).to(self.device)
            product = sparse.decode(values, self._tensors["W_dec"], support)
        else:
            product = torch.as_tensor(z, dtype=torch.float32, device=self.device) @ self._tensors["W_dec"]
        return product + self._tensors["b_dec"]

    def normalised(self, maximum: np.ndarray) -> Dictionary:
        """Return a copy with its features divided by ``maximum`` (features,) that reconstructs the same.

        With the maxima over training tokens every feature's largest value there is 1. Features whose
        maximum is 0 stay as they are.
        """
        maximum = np.asarray(maximum, np.float64)
        if maximum.shape != (self.n_features,):
            raise InputError(f"maximum: found shape {maximum.shape}, expected ({self.n_features},)")
        unit = np.where(maximum > 0, maximum, 1.0)
        weights = {name: value.astype(np.float64) for name, value in self.weights.items()}
        weights["W_enc"] /= unit
        weights["W_dec"] *= unit[:, None]
        for name in {"b_enc", "b_gate", "b_mag", "threshold"} & set(weights):
            weights[name] /= unit
        weights = {name: value.astype(np.float32) for name, value in weights.items()}
        copy = Dictionary(self.kind, weights, self.options, self.metadata, self.device)
        rank = torch.from_numpy(unit.astype(np.float32)).to(self.device)
        copy._rank = rank if self._rank is None else rank * self._rank
        return copy

    def _code(self, x: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
        """Values (tokens × features) and which of them are features that fire."""
        if x.ndim != 2 or x.shape[1] != self.d:
            raise InputError(
                f"activations: found shape {tuple(x.shape)}, expected (tokens, {self.d}) as the "
                "dictionary has"
            )
        t = self._tensors
        centred = torch.as_tensor(x, dtype=torch.float32, device=self.device) - t["b_dec"]
        if self.kind == "gated":
            shared = centred @ t["W_enc"]
            value = shared * t["r_mag"].exp() + t["b_mag"]
            return value, (shared + t["b_gate"] > 0) & (value > 0)
        value = torch.addmm(t["b_enc"], centred, t["W_enc"])
        if self.kind == "topk":
            ranked = value if self._rank is None else value * self._rank
            chosen = ranked.topk(self.options["k"], dim=1, sorted=False).indices
            keep = torch.zeros_like(value, dtype=torch.bool).scatter_(1, chosen, True)
            return value, keep & (value > 0)
        if self.kind == "jumprelu":
            return value, (value > t["threshold"]) & (value > 0)
        return value, value > 0


def _flat_indices(keep: Tensor) -> Tensor:
    if keep.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(keep.numpy()))
    return torch.nonzero(keep.flatten()).squeeze(1)
