"""Hidden states of every chosen layer for the cells of a shard, written to the activation store.

One forward pass gives all layers. Cells go through in their order, packed without padding (the model
groups cells by length and pads inside attention alone), so that rows leave in the order of the store and
memory is bounded by one batch. Only gene tokens are stored; `<cls>` has a table of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from interptfm import job, store
from interptfm.errors import InputError
from interptfm.scgpt import checkpoint
from interptfm.scgpt.model import ScGPT, cls_rows
from interptfm.scgpt.tokenizer import Tokens, Vocabulary, tokenize

if TYPE_CHECKING:
    from interptfm.scgpt.package import PackageNetwork


@dataclass
class Model:
    """A model with what extraction must know of it: the genes it was not shown, and its digest."""

    network: ScGPT | PackageNetwork
    vocabulary: Vocabulary
    excluded_genes: frozenset[str]
    genes: str
    digest: str
    backend: str = "interptfm"


def load_model(folder: str | Path, device: str = "cpu", backend: str = "interptfm") -> Model:
    """Load a checkpoint folder, official or written by `pretrain`; InputError where it does not load.

    backend: `interptfm`, or `scgpt` to run the states through that package's own transformer.
    """
    network, vocabulary, _, _ = checkpoint.load(folder)
    if backend == "scgpt":
        from interptfm.scgpt.package import PackageNetwork

        network = PackageNetwork(network)
    elif backend != "interptfm":
        raise InputError(f"model.backend: found {backend!r}, expected interptfm or scgpt")
    args = store.read_json(Path(folder) / checkpoint.ARGS)
    return Model(
        network.to(device).eval().requires_grad_(False),
        vocabulary,
        frozenset(args.get("excluded_genes", ())),
        args.get("genes", "all"),
        checkpoint.model_digest(folder),
        backend,
    )


def gene_ids(symbols: Sequence[str], model: Model) -> np.ndarray:
    """Token ids (genes,) int64 of a sample's genes, -1 where unknown or hidden from the model.

    Raises InputError where fewer than half of the genes that the model may see are in its vocabulary.
    """
    visible = np.array([str(symbol) not in model.excluded_genes for symbol in symbols], dtype=bool)
    ids = np.full(len(visible), -1, np.int64)
    ids[visible] = model.vocabulary.match(np.asarray(symbols, dtype=object)[visible]).ids
    return ids


def check_layers(layers: Sequence[int], n_layers: int) -> list[int]:
    """Sorted unique layers. Raises InputError for a layer that a model of `n_layers` layers lacks."""
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise InputError(
                f"activations.layers: found layer {layer}, expected 0 to {n_layers - 1}: "
                f"the model has {n_layers} layers"
            )
    return sorted(set(layers))


def extract(
    network: ScGPT | PackageNetwork,
    tokens: Tokens,
    cells: np.ndarray,
    layers: Sequence[int],
    writer: store.ActivationWriter,
    *,
    batch_tokens: int = 16384,
    device: str = "cpu",
) -> None:
    """Write the hidden states (output of `norm2`) of `layers` for packed cells.

    tokens: of n cells, each with a gene; cells (n,) int32: their rows in the sample's `obs`, ascending.
    writer: open, made for exactly these tokens and cells. A batch is a run of cells with at most
    `batch_tokens` tokens (or one longer cell); its states, layers x tokens x d, are all that is in memory.
    Computes in float32 on a CPU and under bfloat16 autocast on a GPU; results do not depend on
    batches beyond rounding. Raises InputError naming layer and cell where a state is not finite.
    """
    bounds = list(batches(tokens.lengths, batch_tokens))
    for start, stop in job.progress(bounds, "activations"):
        batch = tokens.take(np.arange(start, stop))
        lengths = torch.from_numpy(batch.lengths)
        cell = np.repeat(cells[start:stop], batch.lengths)
        with torch.inference_mode(), _autocast(device):
            hidden = network(
                torch.from_numpy(batch.genes).to(device),
                torch.from_numpy(batch.values).to(device),
                lengths,
                layers=layers,
                depth=max(layers) + 1,
            )
        is_gene, first = batch.var >= 0, cls_rows(lengths).numpy()
        states, cls = {}, []
        for layer in layers:
            rows = hidden.states.pop(layer).float().cpu().numpy()
            _check_finite(rows, layer, cell)
            states[layer] = rows[is_gene]
            cls.append(rows[first])
        writer.write(batch.var[is_gene], cell[is_gene], batch.values[is_gene], states)
        writer.write_cls(start, np.stack(cls))


def batches(lengths: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Runs of cells (start, stop) of at most `size` tokens each, or of one longer cell."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        limit = size + (ends[start - 1] if start else 0)
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        yield start, stop
        start = stop


def _autocast(device: str) -> contextlib.AbstractContextManager:
    # bfloat16 is several times slower than float32 on CPUs without instructions for it.
    if not device.startswith("cuda"):
        return contextlib.nullcontext()
    return torch.autocast("cuda", dtype=torch.bfloat16)


def _check_finite(rows: np.ndarray, layer: int, cell: np.ndarray) -> None:
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise InputError(
            f"activations: found NaN or infinity in layer {layer} of cell {int(cell[bad][0])} (row of obs), "
            "expected finite states; check the checkpoint's weights and the counts of that cell"
        )


def write_shard(
    path: str | Path,
    model: Model,
    counts: sparse.csr_matrix,
    symbols: Sequence[str],
    cell_names: Sequence[str],
    in_shard: np.ndarray,
    layers: Sequence[int],
    *,
    dtype: str = "float16",
    mantissa_bits: int | None = None,
    gene_tokens: bool = True,
    mode: str = "binned",
    max_length: int = 1200,
    batch_tokens: int = 16384,
    seed: int = 0,
    device: str = "cpu",
    attributes: dict[str, Any] | None = None,
) -> None:
    """Tokenise the cells of a shard and write their activation file (atomically).

    counts: CSR (cells x genes) of the sample, raw; in_shard (cells,) bool. Cells without a gene that the
    model knows have neither tokens nor a `<cls>` row; the attribute `cells_without_tokens` counts them.
    mantissa_bits: see `store.ActivationWriter`. gene_tokens: whether their states are written, or those of
    `<cls>` only. `value` is what the model was given (the bin in mode `binned`), `gene` the column of
    `counts`.
    """
    network = model.network
    layers = check_layers(layers, network.n_layers)
    rows = np.flatnonzero(in_shard)
    tokens = tokenize(
        counts[rows], gene_ids(symbols, model), model.vocabulary, mode, max_length=max_length,
        n_bins=network.config.n_bins, cell_names=[str(cell_names[r]) for r in rows], seed=seed,
    )  # fmt: skip
    known = np.flatnonzero(tokens.lengths > 1)
    if not len(known):
        raise InputError(f"{path}: found no cell with a gene of the vocabulary among {len(rows)} cells")
    tokens, cells = tokens.take(known), rows[known].astype(np.int32)
    attributes = {
        **(attributes or {}),
        "model": model.digest,
        "backend": model.backend,
        "genes": model.genes,
        "mode": mode,
        "max_length": max_length,
        "cells_without_tokens": len(rows) - len(known),
        "truncated_cells": int(tokens.truncated.sum()),
    }
    n_tokens = len(tokens.genes) - len(cells)
    d = network.config.embsize
    with store.ActivationWriter(
        path, layers, n_tokens, len(cells), d, dtype, attributes, mantissa_bits, gene_tokens
    ) as writer:
        extract(network, tokens, cells, layers, writer, batch_tokens=batch_tokens, device=device)
