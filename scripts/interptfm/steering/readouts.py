"""What is read of a steered model: `<cls>`, decoded expression, activity of concepts and features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from interptfm.errors import InputError
from interptfm.sae.inference import Dictionary
from interptfm.scgpt.model import ScGPT
from interptfm.steering.engine import Packed, Readout
from interptfm.steering.interventions import unit


def cls(layer: int = -1) -> Readout:
    """The `<cls>` state (cells, d) of a layer."""
    return Readout(layer, lambda states, packed: states, cls_only=True)


def head(network: ScGPT) -> str:
    """The expression head to read: `mvc` (all genes, from `<cls>`) where the model has one, else `token`."""
    return "mvc" if network.config.MVC else "token"


@torch.inference_mode()
def mvc_weights(network: ScGPT, ids: np.ndarray) -> np.ndarray:
    """Rows (genes, d) float32 whose dot product with the last `<cls>` is the decoded value of a gene.

    ids (genes,) token ids; a gene outside the vocabulary (−1) gets NaN. The head is linear in `<cls>`, so
    a shift of `<cls>` times these rows is the shift of decoded values. Raises InputError for a
    model without the head.
    """
    if not network.config.MVC:
        raise InputError("steering: found a model without the head MVC, expected one that decodes from <cls>")
    rows = np.full((len(ids), network.config.embsize), np.nan, np.float32)
    known = np.flatnonzero(np.asarray(ids) >= 0)
    device = network.encoder.embedding.weight.device
    genes = torch.from_numpy(np.asarray(ids)[known]).to(device)
    rows[known] = network.mvc_decoder(network.encoder(genes)).cpu().numpy()
    return rows


def token_expression(network: ScGPT, n_genes: int) -> Readout:
    """Decoded value of every gene's own token (cells, genes); NaN where a cell has none."""

    def decode(states: Tensor, packed: Packed) -> Tensor:
        values = network.expression(states)
        result = torch.full((len(packed.lengths), n_genes), float("nan"), device=states.device)
        cell = torch.repeat_interleave(packed.lengths)
        genes = packed.var >= 0
        result[cell[genes], packed.var[genes].long()] = values[genes].float()
        return result

    return Readout(-1, decode)


def _mean_over_genes(values: Tensor, packed: Packed) -> Tensor:
    """Mean (cells, k) over the gene tokens of each cell; 0 for a cell without any."""
    cell, genes = torch.repeat_interleave(packed.lengths), packed.var >= 0
    total = torch.zeros(len(packed.lengths), values.shape[1], device=values.device)
    total.index_add_(0, cell[genes], values[genes])
    return total / (packed.lengths - 1).clamp(min=1)[:, None]


def concept_activity(directions: np.ndarray, layer: int, position: str = "all") -> Readout:
    """Projection on the unit directions (k, d): of `<cls>`, or the mean over a cell's gene tokens."""
    rows = unit(directions)
    if position == "cls":
        return Readout(layer, lambda states, packed: states @ rows.to(states).T, cls_only=True)
    return Readout(layer, lambda states, packed: _mean_over_genes(states @ rows.to(states).T, packed))


def feature_activity(dictionary: Dictionary, features: list[int], layer: int) -> Readout:
    """Mean activation (cells, k) of features of a dictionary of gene tokens over a cell's gene tokens."""
    chosen = torch.tensor(features)

    def encode(states: Tensor, packed: Packed) -> Tensor:
        return _mean_over_genes(dictionary.encode(states.float())[:, chosen], packed)

    return Readout(layer, encode)
