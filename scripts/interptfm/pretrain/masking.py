"""Masked batches for pretraining, the fixed validation masks, and what needs no transformer to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from interptfm import job
from interptfm.errors import InputError
from interptfm.scgpt.model import cls_rows
from interptfm.scgpt.tokenizer import Tokens

BATCH_TOKENS = 16384
"""Tokens that a batch holds at most, whatever `batch_cells` says."""
MAX_VALIDATION_CELLS = 2000
"""Held-out cells that the loss is measured on."""


@dataclass
class Batch:
    """A packed batch with masked values; genes, values (N,), lengths and masked_lengths (cells,)."""

    genes: torch.Tensor
    values: torch.Tensor
    lengths: torch.Tensor
    masked: torch.Tensor
    masked_lengths: torch.Tensor
    targets: torch.Tensor


def masked_batch(tokens: Tokens, ratio: np.ndarray, rng: np.random.Generator, mask_value: int) -> Batch:
    """Mask the share `ratio` (cells,) of every cell's gene tokens (at least one), never `<cls>`.

    Returns the batch with `mask_value` in place of masked values; masked (n,) are row indices and
    targets (n,) their true values.
    """
    keys = rng.random(len(tokens.genes))
    keys[tokens.var < 0] = 2.0
    cell = np.repeat(np.arange(len(tokens)), tokens.lengths)
    order = np.lexsort((keys, cell))
    rank = np.arange(len(order)) - np.repeat(tokens.starts, tokens.lengths)
    n_genes = tokens.lengths - 1
    n_masked = np.clip(np.rint(ratio * n_genes).astype(np.int64), np.minimum(1, n_genes), n_genes)
    masked = np.sort(order[rank < n_masked[cell]])
    values = tokens.values.copy()
    values[masked] = mask_value
    arrays = (tokens.genes, values, tokens.lengths, masked, n_masked, tokens.values[masked])
    return Batch(*map(torch.from_numpy, arrays))


def cut_batches(
    lengths: np.ndarray, batch_cells: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Cut cells (in a random order where there is a generator) into batches of their indices.

    lengths: (cells,) tokens. A batch has `batch_cells` cells, fewer where they hold more than
    BATCH_TOKENS tokens. The model itself groups a batch's cells by length; batches of like length are
    avoided on purpose, since the bin of a single count depends on how many genes a cell shows: such
    batches differ in their mean bin, and training only chases that.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    batches, first = [], 0
    while first < len(order):
        n_tokens = np.cumsum(lengths[order[first : first + batch_cells]])
        last = first + max(1, int(np.searchsorted(n_tokens, BATCH_TOKENS, side="right")))
        batches.append(order[first:last])
        first = last
    return batches


def validation_batches(
    tokens: Tokens, mask_ratios: Sequence[float], mask_value: int, seed: int
) -> list[Batch]:
    """Held-out cells with fixed masks: each cell has one of the mask ratios, in turn.

    At most MAX_VALIDATION_CELLS, drawn by the seed. Raises InputError where no cell has a gene.
    """
    rng = job.generator(seed, "pretrain", "validation")
    cells = np.flatnonzero(tokens.lengths > 1)
    if len(cells) > MAX_VALIDATION_CELLS:
        cells = np.sort(rng.choice(cells, MAX_VALIDATION_CELLS, replace=False))
    if not len(cells):
        raise InputError(
            "cells: found no cell with known genes in the validation split, expected some for early stopping"
        )
    tokens = tokens.take(cells)
    ratios = np.resize(np.asarray(mask_ratios, float), len(cells))
    return [
        masked_batch(tokens.take(members), ratios[members], rng, mask_value)
        for members in cut_batches(tokens.lengths, 256)
    ]


def baselines(train: Tokens, batches: Sequence[Batch], mask_value: int) -> dict[str, float]:
    """Errors (bins squared) on the masked tokens of what needs no transformer.

    gene_mean: the gene's mean value in training; gene_and_cell: plus the mean deviation
    from it of the cell's visible tokens.
    """
    is_gene = train.var >= 0
    size = 1 + max(int(train.genes.max()), *(int(batch.genes.max()) for batch in batches))
    n = np.bincount(train.genes[is_gene], minlength=size)
    total = np.bincount(train.genes[is_gene], weights=train.values[is_gene], minlength=size)
    mean = np.where(n > 0, total / np.maximum(n, 1), train.values[is_gene].mean())
    errors, count = np.zeros(2), 0
    for batch in batches:
        genes, values, masked = batch.genes.numpy(), batch.values.numpy(), batch.masked.numpy()
        cell = np.repeat(np.arange(len(batch.lengths)), batch.lengths.numpy())
        visible = values != mask_value
        visible[cls_rows(batch.lengths).numpy()] = False
        shown = np.bincount(cell[visible], minlength=len(batch.lengths))
        offset = np.bincount(
            cell[visible], weights=(values - mean[genes])[visible], minlength=len(shown)
        ) / np.maximum(shown, 1)
        residual = batch.targets.numpy() - mean[genes[masked]]
        errors += [np.square(residual).sum(), np.square(residual - offset[cell[masked]]).sum()]
        count += len(masked)
    return {"gene_mean": float(errors[0] / count), "gene_and_cell": float(errors[1] / count)}
