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


class JumpReLU:
    """A dictionary with one threshold a feature.

    z = relu(p) · 1[p > threshold] with p = (x − b_dec) W_enc + b_enc; reconstruction z W_dec + b_dec.
    The definition is SAELens' ``jumprelu`` with ``apply_b_dec_to_input``; BatchTopK dictionaries are
    of this kind after training.

    Parameters
    ----------
    weights
        float32 arrays ``W_enc`` (d × features), ``W_dec`` (features × d), ``b_enc`` and
        ``threshold`` (features,), ``b_dec`` (d,).
    metadata
        Free-form origin (model digest, layer, …).
    device
        Torch device on which to encode.
    """

    TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")

    def __init__(
        self,
        weights: dict[str, np.ndarray],
        metadata: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        self.weights, self.metadata, self.device = weights, dict(metadata or {}), device
        self._tensors = {name: torch.from_numpy(weights[name]).to(device) for name in self.TENSORS}

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
        pre = self._pre(x)
        return torch.where(pre > self._tensors["threshold"], pre, 0.0).relu_()

    @torch.inference_mode()
    def encode_sparse(self, x: np.ndarray | Tensor) -> csr_matrix:
        """Return the same features as CSR, float32 (tokens × features), indices sorted."""
        from scipy.sparse import csr_matrix

        pre = self._pre(x)
        keep = (pre > self._tensors["threshold"]) & (pre > 0)
        flat = _flat_indices(keep)
        values = pre.flatten()[flat].cpu().numpy()
        flat = flat.cpu().numpy()
        indptr = np.searchsorted(flat, np.arange(len(pre) + 1) * self.n_features)
        return csr_matrix((values, flat % self.n_features, indptr), shape=tuple(pre.shape))

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

    def _pre(self, x: np.ndarray | Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.d:
            raise InputError(
                f"activations: found shape {tuple(x.shape)}, expected (tokens, {self.d}) as the "
                "dictionary has"
            )
        x = torch.as_tensor(x, dtype=torch.float32, device=self.device)
        return torch.addmm(self._tensors["b_enc"], x - self._tensors["b_dec"], self._tensors["W_enc"])


def _flat_indices(keep: Tensor) -> Tensor:
    if keep.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(keep.numpy()))
    return torch.nonzero(keep.flatten()).squeeze(1)
