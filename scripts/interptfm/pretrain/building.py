"""From configuration and cells to a model: load, initialise or pretrain, and measure it on held-out cells."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from interptfm import job, store
from interptfm.errors import InputError
from interptfm.pretrain.embeddings import GENES, gene_half, svd_gene_embeddings
from interptfm.pretrain.masking import Batch, baselines, validation_batches
from interptfm.pretrain.training import Settings, evaluate, history_row, pretrain
from interptfm.scgpt import checkpoint as checkpoints
from interptfm.scgpt.model import ModelConfig, ScGPT, initialise
from interptfm.scgpt.tokenizer import Tokens, Vocabulary, tokenize

log = logging.getLogger(__name__)

INITS = ("trained", "random", "svd_only")
ARCHITECTURE = ("embsize", "nheads", "d_hid", "nlayers", "n_layers_cls", "dropout", "n_bins")


@dataclass
class Sample:
    """One sample: counts CSR (cells x genes), symbols (genes,), split (cells,) str, cell names (cells,)."""

    counts: sparse.csr_matrix
    symbols: Sequence[str]
    split: np.ndarray
    names: Sequence[str]


@dataclass
class Built:
    """A model ready to be written: extra_args belong into `args.json`, history and metrics beside it."""

    model: ScGPT
    vocabulary: Vocabulary
    extra_args: dict[str, Any]
    history: pd.DataFrame
    metrics: dict[str, Any]


def align(counts: sparse.csr_matrix, symbols: Sequence[str], panel: Sequence[str]) -> sparse.csr_matrix:
    """Counts with the columns of `panel`: (cells, genes) to (cells, len(panel)); absent genes are empty."""
    column = {gene: number for number, gene in enumerate(panel)}
    targets = [column[str(symbol)] for symbol in symbols]
    selector = sparse.csr_matrix(
        (np.ones(len(targets), np.float32), (np.arange(len(targets)), targets)),
        shape=(len(targets), len(panel)),
    )
    aligned = sparse.csr_matrix(counts @ selector)
    aligned.sort_indices()
    return aligned


def build(
    samples: Sequence[Sample],
    model: Mapping[str, Any],
    *,
    checkpoint: str | Path | None = None,
    genes: str = "all",
    mode: str = "binned",
    max_length: int = 1200,
    seed: int = 0,
    work: str | Path | None = None,
    device: str = "cpu",
) -> Built:
    """Build the model of a run.

    model: the configuration's `model` block (init, architecture, pretrain). checkpoint: a folder in the
    official format; without one the vocabulary is the samples' genes. init `trained`: load the checkpoint,
    or else pretrain on the training cells; `random`: all weights random; `svd_only`: SVD gene
    embeddings, all else random; both with the checkpoint's architecture and vocabulary where there
    is one, and with the same random weights that pretraining starts from. genes: `half_a` and `half_b`
    hide the other half of the genes (recorded as `excluded_genes` in `args.json`). work: file for
    the state of unfinished pretraining.

    Raises InputError where fewer than half of the genes are in the vocabulary, or a split has no cells.
    """
    panel = store.panel(sample.symbols for sample in samples)
    counts = [align(sample.counts, sample.symbols, panel) for sample in samples]
    train_counts = [c[np.flatnonzero(s.split == "train")] for c, s in zip(counts, samples, strict=True)]
    visible = _visible_genes(train_counts, genes, seed)
    kept = [gene for gene, keep in zip(panel, visible, strict=True) if keep]

    network, vocabulary, config, kind, report = _starting_point(model, checkpoint, kept, max_length, seed)
    match = vocabulary.match(kept)
    ids = np.full(len(panel), -1, np.int64)
    ids[visible] = match.ids
    if match.missing:
        log.warning("%d genes are not in the vocabulary: %s", len(match.missing), ", ".join(match.missing))
    if kind in ("trained in place", "svd_only"):
        found = np.flatnonzero(ids >= 0)
        rows = svd_gene_embeddings([c[:, found] for c in train_counts], config.embsize, seed)
        with torch.no_grad():
            network.encoder.embedding.weight[torch.from_numpy(ids[found])] = torch.from_numpy(rows)

    def tokens(split: str) -> Tokens:
        rows = [np.flatnonzero(sample.split == split) for sample in samples]
        names = [name for s, r in zip(samples, rows, strict=True) for name in np.asarray(s.names)[r]]
        matrix = sparse.vstack([c[r] for c, r in zip(counts, rows, strict=True)], format="csr")
        return tokenize(
            matrix, ids, vocabulary, mode, max_length=max_length, n_bins=config.n_bins,
            cell_names=names, seed=seed,
        )  # fmt: skip

    settings = Settings.from_dict(model["pretrain"])
    train, held_out = tokens("train"), tokens("validation")
    if not (train.lengths > 1).any():
        raise InputError("cells: found no cell with known genes in the training split, expected some")
    validation = validation_batches(held_out, settings.mask_ratios, config.mask_value, seed)
    if kind == "trained in place":
        history = pretrain(
            network, train, validation, settings, seed=seed, checkpoint_path=work, device=device
        )
    else:
        errors = evaluate(network.to(device), validation, device)
        history = pd.DataFrame([history_row(0, 0.0, 0, 0, (np.nan, np.nan), errors)]).assign(best=True)
    network.to("cpu").eval()

    metrics = {
        "kind": kind,
        "n_parameters": sum(p.numel() for p in network.parameters()),
        "architecture": {name: getattr(config, name) for name in ARCHITECTURE},
        "checkpoint": report,
        "genes": {
            "panel": len(panel),
            "visible": len(kept),
            "found": match.n_found,
            "fraction_found": match.fraction,
            "missing": match.missing,
        },
        "cells": {"train": len(train), "validation": len(held_out)},
        "tokens": {"train": _n_genes(train), "validation": _n_genes(held_out)},
        "truncated_cells": int(train.truncated.sum() + held_out.truncated.sum()),
        "validation": _validation_metrics(history, train, validation, config, kind),
    }
    extra = {
        "trained_by": kind,
        "genes": genes,
        "excluded_genes": [gene for gene, keep in zip(panel, visible, strict=True) if not keep],
    }
    return Built(network, vocabulary, extra, history, metrics)


def _visible_genes(train_counts: Sequence[sparse.csr_matrix], genes: str, seed: int) -> np.ndarray:
    """Genes (panel,) bool that the model may see."""
    if genes not in GENES:
        raise InputError(f"cells.genes: found {genes!r}, expected one of {', '.join(GENES)}")
    if genes == "all":
        return np.ones(train_counts[0].shape[1], dtype=bool)
    total = sum(np.asarray(c.sum(0), dtype=np.float64).ravel() for c in train_counts)
    half = gene_half(total / max(sum(c.shape[0] for c in train_counts), 1), seed)
    return half if genes == "half_a" else ~half


def _starting_point(model, checkpoint, kept, max_length, seed):
    """Network, vocabulary, config, kind and (for a loaded checkpoint) what became of its keys."""
    init, weights_seed = model["init"], job.seed(seed, "model", "weights")
    if init not in INITS:
        raise InputError(f"model.init: found {init!r}, expected one of {', '.join(INITS)}")
    if checkpoint is not None and init == "trained":
        network, vocabulary, config, report = checkpoints.load(checkpoint)
        log.info("checkpoint: %s", report)
        return network, vocabulary, config, "official checkpoint", report.to_dict()
    if checkpoint is not None:
        config = checkpoints.read_config(Path(checkpoint) / checkpoints.ARGS)
        vocabulary = Vocabulary.from_json(Path(checkpoint) / checkpoints.VOCAB)
    else:
        config = ModelConfig(**{name: model[name] for name in ARCHITECTURE}, max_seq_len=max_length)
        vocabulary = Vocabulary.from_genes(kept)
    network = initialise(config, len(vocabulary), vocabulary.pad_id, weights_seed)
    return network, vocabulary, config, "trained in place" if init == "trained" else init, None


def _n_genes(tokens: Tokens) -> int:
    return int((tokens.var >= 0).sum())


def _validation_metrics(
    history: pd.DataFrame, train: Tokens, batches: Sequence[Batch], config: ModelConfig, kind: str
) -> dict[str, Any]:
    """Errors on the masked tokens of held-out cells (bins squared) beside those of the simple predictors,
    and the share of the gene means' error that is explained (none for controls: their decoders are
    random, so their errors say nothing of their states)."""
    best = history.loc[history["best"]].iloc[0]
    simple = baselines(train, batches, config.mask_value)
    errors = {name: float(best[f"validation_{name}"]) for name in ("token", "cls")}
    if not config.MVC:
        del errors["cls"]
    explained = {name: 1 - error / simple["gene_mean"] for name, error in errors.items()}
    return {
        "cells": sum(len(batch.lengths) for batch in batches),
        "masked_tokens": sum(len(batch.masked) for batch in batches),
        "best_epoch": int(best["epoch"]),
        "error": errors,
        "baseline_error": simple,
        "explained": None if kind in ("random", "svd_only") else explained,
        "baseline_explained": 1 - simple["gene_and_cell"] / simple["gene_mean"],
    }
