"""Loss recovered: what the model still predicts when a layer is replaced by its reconstruction.

The model's masked-expression error on held-out cells (its own pretraining task) is taken four times:
with the layer's states as they are, replaced by the dictionary's reconstruction, by their mean, and by
zero. Loss recovered is the share of the damage of an ablation that the reconstruction avoids (Gao et al.
2024 and others, there for language models). The dictionary learnt from unmasked cells; states of masked
tokens are new to it, hence FVU is given for visible and masked tokens apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from interptfm import pretrain
from interptfm.activations import Model, gene_ids
from interptfm.errors import InputError
from interptfm.sae.inference import Dictionary
from interptfm.scgpt.model import ScGPT, cls_rows
from interptfm.scgpt.tokenizer import tokenize

if TYPE_CHECKING:
    from interptfm.pretrain.masking import Batch

MAX_CELLS = 300
HEADS = {"gene": "token", "cls": "cls"}


def masked_cells(
    samples: Sequence[pretrain.Sample],
    model: Model,
    mask_ratios: Sequence[float],
    generator: np.random.Generator,
    seed: int,
    *,
    mode: str = "binned",
    max_length: int = 1200,
    split: str = "test",
    max_cells: int = MAX_CELLS,
) -> list[Batch]:
    """Return masked batches of at most ``max_cells`` cells of a split, drawn over all samples.

    Raises
    ------
    InputError
        If the split has no cell with a gene that the model knows.
    """
    chosen = [np.flatnonzero(sample.split == split) for sample in samples]
    total = sum(map(len, chosen))
    drawn = generator.permutation(total)[:max_cells]
    ends = np.cumsum([0, *map(len, chosen)])
    batches: list[Batch] = []
    for number, (sample, rows) in enumerate(zip(samples, chosen, strict=True)):
        mine = np.sort(drawn[(drawn >= ends[number]) & (drawn < ends[number + 1])]) - ends[number]
        if not len(mine):
            continue
        counts = sparse.csr_matrix(sample.counts)[rows[mine]]
        names = [str(sample.names[row]) for row in rows[mine]]
        tokens = tokenize(
            counts, gene_ids(sample.symbols, model), model.vocabulary, mode, max_length=max_length,
            n_bins=model.network.config.n_bins, cell_names=names, seed=seed,
        )  # fmt: skip
        if (tokens.lengths > 1).any():
            mask = model.network.config.mask_value
            batches += pretrain.validation_batches(tokens, mask_ratios, mask, seed)
    if not batches:
        raise InputError(f"cells: found no cell with known genes in the {split} split, expected some")
    return batches


@torch.inference_mode()
def loss_recovered(
    network: ScGPT,
    batches: Sequence[Batch],
    dictionary: Dictionary,
    layer: int,
    tokens: str = "gene",
    device: str = "cpu",
) -> dict[str, Any]:
    """Return errors and the loss recovered of one layer's dictionary.

    Parameters
    ----------
    network
        The model, in eval mode.
    batches
        From :func:`masked_cells`.
    dictionary, layer
        Dictionary of the output of this layer's ``norm2``.
    tokens
        Which states the dictionary is of and hence are replaced: ``gene`` (error of the prediction
        from gene tokens) or ``cls`` (error of the prediction from ``<cls>``).

    Returns
    -------
    dict
        ``head``, ``cells``, ``masked_tokens``; ``error``: mean squared error (bins²) by ``original``,
        ``reconstruction``, ``mean``, ``zero``; ``recovered``: (ablation − reconstruction) /
        (ablation − original) for ``mean`` and ``zero``, ``None`` where the ablation does no harm or the
        model lacks the head; ``fvu``: of ``visible`` and ``masked`` tokens (or ``cls``) in these cells.
    """
    head = HEADS[tokens]
    result: dict[str, Any] = {
        "head": head,
        "cells": sum(len(batch.lengths) for batch in batches),
        "masked_tokens": sum(len(batch.masked) for batch in batches),
    }
    if head == "cls" and not network.config.MVC:
        return {**result, "error": None, "recovered": {"mean": None, "zero": None}, "fvu": {}}
    statistics = _Statistics(dictionary.d, tokens)

    def reconstruct(states: Tensor, batch: Batch) -> Tensor:
        found = dictionary.decode(dictionary.encode(states.float())).to(states.device)
        statistics.add_error(states, found, batch)
        return found

    replacements: dict[str, Callable[[Tensor, Batch], Tensor]] = {
        "original": statistics.add_states,
        "reconstruction": reconstruct,
        "mean": lambda states, batch: statistics.mean.to(states).expand_as(states),
        "zero": lambda states, batch: torch.zeros_like(states),
    }
    errors = {
        name: _error(network, batches, layer, tokens, head, replace, device)
        for name, replace in replacements.items()
    }
    recovered = {
        name: (errors[name] - errors["reconstruction"]) / (errors[name] - errors["original"])
        if errors[name] - errors["original"] > 1e-6 * errors["original"]
        else None
        for name in ("mean", "zero")
    }
    return {**result, "error": errors, "recovered": recovered, "fvu": statistics.fvu()}


def replaced_rows(batch: Batch, tokens: str) -> Tensor:
    """Return the rows (int64) of a packed batch's gene tokens, or of its ``<cls>`` tokens."""
    is_cls = torch.zeros(len(batch.genes), dtype=torch.bool)
    is_cls[cls_rows(batch.lengths)] = True
    return torch.nonzero(is_cls if tokens == "cls" else ~is_cls).squeeze(1)


def _error(
    network: ScGPT,
    batches: Sequence[Batch],
    layer: int,
    tokens: str,
    head: str,
    replace: Callable[[Tensor, Batch], Tensor],
    device: str,
) -> float:
    total, count = 0.0, 0
    for batch in batches:
        rows = replaced_rows(batch, tokens).to(device)

        def edit(number: int, states: Tensor, batch: Batch = batch, rows: Tensor = rows) -> Tensor:
            if number != layer:
                return states
            return states.index_copy(0, rows, replace(states[rows], batch).to(states.dtype))

        genes, values, masked = (each.to(device) for each in (batch.genes, batch.values, batch.masked))
        last = network(genes, values, batch.lengths, layers=(), edit=edit).last
        if head == "token":
            predicted = network.expression(last[masked])
        else:
            cls = last[cls_rows(batch.lengths).to(device)]
            predicted = network.mvc(cls, genes[masked], batch.masked_lengths)
        total += float((predicted.cpu() - batch.targets).double().square().sum())
        count += len(batch.targets)
    return total / count


class _Statistics:
    """Sums over the replaced states: for their mean, and for the FVU of visible and masked ones."""

    def __init__(self, d: int, tokens: str) -> None:
        self.names = ("cls",) if tokens == "cls" else ("visible", "masked")
        self.tokens = tokens
        self.sums = {name: torch.zeros(d, dtype=torch.float64) for name in self.names}
        self.squares, self.errors, self.n = (dict.fromkeys(self.names, 0.0) for _ in range(3))

    def parts(self, batch: Batch) -> dict[str, Tensor]:
        if self.tokens == "cls":
            return {"cls": torch.ones(len(batch.lengths), dtype=torch.bool)}
        masked = torch.zeros(len(batch.genes), dtype=torch.bool)
        masked[batch.masked] = True
        masked = masked[replaced_rows(batch, "gene")]
        return {"visible": ~masked, "masked": masked}

    def add_states(self, states: Tensor, batch: Batch) -> Tensor:
        for name, part in self.parts(batch).items():
            rows = states.cpu().double()[part]
            self.sums[name] += rows.sum(0)
            self.squares[name] += float(rows.square().sum())
            self.n[name] += len(rows)
        return states

    def add_error(self, states: Tensor, reconstruction: Tensor, batch: Batch) -> None:
        difference = (states - reconstruction).cpu().double()
        for name, part in self.parts(batch).items():
            self.errors[name] += float(difference[part].square().sum())

    @property
    def mean(self) -> Tensor:
        return sum(self.sums.values()) / max(1, sum(self.n.values()))

    def fvu(self) -> dict[str, float | None]:
        result: dict[str, float | None] = {}
        for name in self.names:
            variance = self.squares[name] - float(self.sums[name].square().sum()) / max(1, self.n[name])
            result[name] = self.errors[name] / variance if variance > 1e-9 * self.squares[name] else None
        return result
