"""Masked expression modelling: settings, the training loop, and its checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interptfm import job, store
from interptfm.errors import InputError
from interptfm.pretrain.masking import Batch, cut_batches, masked_batch
from interptfm.scgpt.model import ScGPT, cls_rows
from interptfm.scgpt.tokenizer import Tokens

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Settings of pretraining; keys of `model.pretrain` in the configuration."""

    epochs: int = 12
    batch_cells: int = 32
    learning_rate: float = 1e-3
    mask_ratios: Sequence[float] = (0.25, 0.5, 0.75)
    warmup_fraction: float = 0.05
    patience: int = 3
    weight_decay: float = 0.01
    gradient_clip: float = 1.0

    def __post_init__(self) -> None:
        if not self.mask_ratios or not all(0 < ratio < 1 for ratio in self.mask_ratios):
            raise InputError(
                f"model.pretrain.mask_ratios: found {list(self.mask_ratios)}, "
                "expected numbers between 0 and 1"
            )
        if self.epochs < 1 or self.batch_cells < 1:
            raise InputError(
                f"model.pretrain: found epochs {self.epochs} and batch_cells {self.batch_cells}, "
                "expected at least 1 of each"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from a configuration block. Raises InputError for an unknown key."""
        known = [entry.name for entry in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"model.pretrain: found key {key!r}, expected {', '.join(known)}")
        return cls(**values)


def _errors(model: ScGPT, batch: Batch, device: str) -> torch.Tensor:
    """Squared errors (n, 2) of the masked tokens, predicted from tokens and from `<cls>`.

    Without an MVC decoder only the first column is there.
    """
    genes, values, masked = (x.to(device) for x in (batch.genes, batch.values, batch.masked))
    states = model(genes, values, batch.lengths, layers=()).last
    predictions = [model.expression(states[masked])]
    if model.config.MVC:
        cls = states[cls_rows(batch.lengths).to(device)]
        predictions.append(model.mvc(cls, genes[masked], batch.masked_lengths))
    return (torch.stack(predictions, 1) - batch.targets.to(device)[:, None]).square()


def evaluate(model: ScGPT, batches: Sequence[Batch], device: str = "cpu") -> tuple[float, float]:
    """Mean squared error (bins squared) of masked tokens predicted from tokens and from `<cls>`.

    The second is NaN for a model without an MVC decoder. Leaves the model in eval mode.
    """
    model.eval()
    with torch.inference_mode():
        totals = sum(_errors(model, batch, device).double().sum(0) for batch in batches)
    return _pair(totals / sum(len(batch.masked) for batch in batches))


def _pair(errors: torch.Tensor) -> tuple[float, float]:
    token, *cls = errors.tolist()
    return token, cls[0] if cls else float("nan")


def pretrain(
    model: ScGPT,
    train: Tokens,
    validation: Sequence[Batch],
    settings: Settings,
    *,
    seed: int,
    checkpoint_path: str | Path | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Train `model` in place; it ends with the weights of the best validation loss.

    train: tokens of the training cells; validation: from `validation_batches`. AdamW with linear warm-up
    and cosine decay, early stopping after `patience` epochs without improvement. All draws of an
    epoch derive from (seed, epoch), and the state is saved after each one to `checkpoint_path`, so
    an interrupted run ends in the weights of an uninterrupted one. A file there that belongs to
    other data, settings or weights is ignored.

    Returns one row an epoch (0: before training): learning_rate, steps, tokens, train and validation errors
    (token: from the masked token, cls: from `<cls>`; bins squared), validation loss (their sum), best.
    """
    tokens = train.take(np.flatnonzero(train.lengths > 1))
    targets = tokens.values[tokens.var >= 0]
    variance = max(float(targets.var()), 1e-6)
    key = _run_key(model, tokens, validation, settings, seed)
    model.to(device)
    _start_decoders(model, validation[0], float(targets.mean()), math.sqrt(variance), device)
    optimizer = _optimizer(model, settings)
    history = [history_row(0, 0.0, 0, 0, (float("nan"),) * 2, evaluate(model, validation, device))]
    best = {name: value.detach().clone() for name, value in model.state_dict().items()}
    saved = _load_state(checkpoint_path, key)
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        history, best = saved["history"], saved["best"]
        log.info("pretraining: resumed after epoch %d", history[-1]["epoch"])

    with _deterministic(), _fused_attention(model):
        for epoch in range(len(history), settings.epochs + 1):
            if _stalled(history, settings.patience):
                break
            started = time.monotonic()
            rate, steps, errors = _train_epoch(
                model, optimizer, tokens, settings, seed, epoch, variance, device
            )
            row = history_row(
                epoch, rate, steps, len(tokens.genes), errors, evaluate(model, validation, device)
            )
            if row["validation_loss"] < min(entry["validation_loss"] for entry in history):
                best = {name: value.detach().clone() for name, value in model.state_dict().items()}
            history.append(row)
            log.info(
                "epoch %d of %d: error %.2f (tokens) %.2f (<cls>), validation %.2f %.2f; %.0f tokens/s",
                epoch, settings.epochs, row["train_token"], row["train_cls"], row["validation_token"],
                row["validation_cls"], len(tokens.genes) / (time.monotonic() - started),
            )  # fmt: skip
            if checkpoint_path is not None:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                _save_state(checkpoint_path, {**state, "history": history, "best": best, "key": key})
    model.load_state_dict(best)
    model.eval()
    frame = pd.DataFrame(history)
    frame["best"] = frame.index == frame["validation_loss"].idxmin()
    return frame


@contextlib.contextmanager
def _fused_attention(model: ScGPT) -> Iterator[None]:
    """Leave dropout out of the attention weights: with it, torch has no fused attention on a CPU, and a
    training step takes a quarter longer. The other dropouts stay."""
    layers = [layer.self_attn for layer in model.transformer_encoder.layers]
    before = [layer.dropout for layer in layers]
    for layer in layers:
        layer.dropout = 0.0
    try:
        yield
    finally:
        for layer, dropout in zip(layers, before, strict=True):
            layer.dropout = dropout


def _train_epoch(model, optimizer, tokens, settings, seed, epoch, variance, device):
    """One pass over the cells; returns the last learning rate, the steps and both mean errors."""
    rng = job.generator(seed, "pretrain", "epoch", epoch)
    batches = cut_batches(tokens.lengths, settings.batch_cells, rng)
    parameters = [p for p in model.parameters() if p.requires_grad]
    totals, n = torch.zeros((), device=device), 0
    model.train()
    with torch.random.fork_rng(devices=[] if device == "cpu" else None):
        torch.manual_seed(job.seed(seed, "pretrain", "dropout", epoch))
        for step, cells in enumerate(job.progress(batches, f"epoch {epoch}")):
            done = (epoch - 1 + (step + 1) / len(batches)) / settings.epochs
            rate = settings.learning_rate * _schedule(done, settings.warmup_fraction)
            for group in optimizer.param_groups:
                group["lr"] = rate
            ratio = np.full(len(cells), rng.choice(settings.mask_ratios))
            batch = masked_batch(tokens.take(cells), ratio, rng, model.config.mask_value)
            errors = _errors(model, batch, device)
            optimizer.zero_grad(set_to_none=True)
            # In units of the variance, so that the clipping bound does not depend on the bins.
            (errors.mean(0).sum() / variance).backward()
            torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
            optimizer.step()
            totals = totals + errors.detach().double().sum(0)
            n += len(batch.masked)
    return rate, len(batches), _pair(totals / n)


def _schedule(done: float, warmup: float) -> float:
    """Learning rate factor after the share `done` of training: linear warm-up, then half a cosine to 0."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1 - warmup, 1e-9)))


def history_row(
    epoch: int, rate: float, steps: int, n_tokens: int, train: Sequence[float], validation: Sequence[float]
) -> dict[str, Any]:
    """One row of the history; train and validation are errors from (tokens, `<cls>`), bins squared."""
    return {
        "epoch": epoch, "learning_rate": rate, "steps": steps, "tokens": n_tokens,
        "train_token": train[0], "train_cls": train[1],
        "validation_token": validation[0], "validation_cls": validation[1],
        "validation_loss": validation[0] + (0.0 if math.isnan(validation[1]) else validation[1]),
    }  # fmt: skip


def _stalled(history: list[dict[str, Any]], patience: int) -> bool:
    losses = [row["validation_loss"] for row in history]
    return len(losses) - 1 - int(np.argmin(losses)) >= patience


def _start_decoders(model: ScGPT, batch: Batch, mean: float, sd: float, device: str) -> None:
    """Let untrained predictions have the targets' mean and, from tokens, their scale.

    Bins are far from 0 and the optimiser would spend the first epochs on that constant alone. The MVC
    decoder has no bias: the mean goes into the direction that the `<cls>` states of a batch share.
    """
    model.eval()
    with torch.no_grad():
        last = model.decoder.fc[-1]
        last.weight.mul_(sd)
        last.bias.fill_(mean)
        if not model.config.MVC:
            return
        genes, values = batch.genes.to(device), batch.values.to(device)
        states = model(genes, values, batch.lengths, layers=()).last
        shared = states[cls_rows(batch.lengths).to(device)].mean(0)
        decoder = model.mvc_decoder
        query = torch.sigmoid(decoder.gene2query(model.encoder(genes.unique()))).mean(0)
        constant = torch.outer(shared / shared.square().sum(), query / query.square().sum())
        # What W answers to the mean query along the shared state becomes the mean.
        decoder.W.weight.add_(constant * (mean - float(shared @ decoder.W.weight @ query)))


def _optimizer(model: ScGPT, settings: Settings) -> torch.optim.Optimizer:
    embedding = model.encoder.embedding.weight
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1 and p is not embedding]
    others = [p for p in parameters if p.ndim < 2 or p is embedding]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _run_key(model, tokens, validation, settings, seed) -> str:
    """Digest of what determines a training run: starting weights, data, settings, seed."""
    hasher = hashlib.sha256(repr((settings, model.config, seed)).encode())
    for array in (tokens.genes, tokens.values, tokens.lengths):
        hasher.update(np.ascontiguousarray(array))
    for array in [b.targets for b in validation] + list(model.state_dict().values()):
        hasher.update(array.detach().cpu().contiguous().numpy())
    return hasher.hexdigest()


def _load_state(path: str | Path | None, key: str) -> dict[str, Any] | None:
    if path is None or not Path(path).exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged checkpoint is only lost time
        log.warning("%s: cannot be read (%s); pretraining starts anew", path, error)
        return None
    if state.get("key") != key:
        log.warning("%s: belongs to other data or settings; pretraining starts anew", path)
        return None
    return state


def _save_state(path: str | Path, state: dict[str, Any]) -> None:
    with store.atomic(path) as temporary:
        torch.save(state, temporary)
