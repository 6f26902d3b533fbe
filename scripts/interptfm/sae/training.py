"""The training loop of dictionaries: settings, schedule, optimiser, history, checkpoints."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interptfm import store
from interptfm.errors import InputError
from interptfm.sae.architecture import Architecture
from interptfm.sae.buffer import TOKEN_KINDS, TokenBuffer
from interptfm.sae.inference import Dictionary
from interptfm.sae.jumprelu import JumpReLU
from interptfm.sae.relu import Gated, Standard
from interptfm.sae.topk import BatchTopK, Matryoshka, TopK

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ARCHITECTURES: dict[str, type[Architecture]] = {
    kind.NAME: kind for kind in (BatchTopK, TopK, Matryoshka, JumpReLU, Gated, Standard)
}
COMMON: dict[str, Any] = {
    "name": "main",
    "architecture": "batchtopk",
    "tokens": "gene",
    "layers": "all",
    "n_features": 1024,
    "training_tokens": 1_500_000,
    "batch_tokens": 2048,
    "learning_rate": None,
    "warmup_fraction": 0.05,
    "decay_fraction": 0.2,
    "dead_after_tokens": None,
    "buffer_bytes": 1_000_000_000,
    "seeds": 1,
}
# The dead list follows its definition within this many steps; rebuilding it makes a GPU wait.
DEAD_LIST_STEPS = 16
# Scaled losses have gradients far above this norm: all steps weigh alike in Adam's second moment, and the
# large gradients of the start do not slow the rest of a short run down.
GRADIENT_NORM = 1.0
HISTORY_ROWS = 500
MEDIAN_STEPS, MEDIAN_EPSILON = 100, 1e-6

log = logging.getLogger("interptfm")


def complete_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with every default filled in and derived values resolved.

    ``learning_rate`` null becomes 2e-4 / √(n_features / 2¹⁴) (Gao et al. 2024). ``dead_after_tokens``
    null becomes a twentieth of the training tokens, at least 10 batches and at most the 10 million of
    Gao et al.: a feature that is rarer than this is not seen often enough to be learned in the run.

    Raises
    ------
    InputError
        If a key is unknown (also one of another architecture) or a value is out of its range.
    """
    name = settings.get("architecture", COMMON["architecture"])
    if name not in ARCHITECTURES:
        raise InputError(
            f"dictionaries.architecture: found {name!r}, expected one of {', '.join(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[name]
    known = {**COMMON, **architecture.SETTINGS}
    for key in settings:
        if key not in known:
            raise InputError(
                f"dictionaries.{key}: found a key that architecture {name!r} does not have, expected one of "
                f"{', '.join(known)}"
            )
    full = {**known, **settings}
    for key in ("n_features", "training_tokens", "batch_tokens"):
        _require(full, key, isinstance(full[key], int) and full[key] >= 1, "a whole number above 0")
    if full["learning_rate"] is None:
        full["learning_rate"] = 2e-4 / (full["n_features"] / 2**14) ** 0.5
    if full["dead_after_tokens"] is None:
        full["dead_after_tokens"] = max(
            10 * full["batch_tokens"], min(10_000_000, full["training_tokens"] // 20)
        )
    for key in ("learning_rate", "dead_after_tokens", "buffer_bytes"):
        _require(full, key, isinstance(full[key], int | float) and full[key] > 0, "a number above 0")
    for key in ("warmup_fraction", "decay_fraction"):
        _require(full, key, isinstance(full[key], int | float) and 0 <= full[key] <= 1, "0 to 1")
    _require(full, "tokens", full["tokens"] in TOKEN_KINDS, " or ".join(TOKEN_KINDS))
    _require(
        full,
        "training_tokens",
        full["training_tokens"] >= full["batch_tokens"],
        f"at least batch_tokens = {full['batch_tokens']}",
    )
    full = architecture.completed(full)
    architecture.check(full, full["n_features"])
    return full


def _require(settings: dict[str, Any], key: str, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(f"dictionaries.{key}: found {settings[key]!r}, expected {expected}")


def learning_rate(step: int, steps: int, settings: dict[str, Any]) -> float:
    """Return the rate of ``step`` (from 0): linear warm-up, constant, linear decay to near 0 at the end."""
    warmup = settings["warmup_fraction"] * steps
    decay = settings["decay_fraction"] * steps
    factor = min(1.0, (step + 1) / warmup if warmup else 1.0, (steps - step) / decay if decay else 1.0)
    return settings["learning_rate"] * factor


def geometric_median(x: Tensor) -> Tensor:
    """Return the geometric median (d,) of rows (n × d) by Weiszfeld's iteration, distances floored.

    The floor (``MEDIAN_EPSILON`` × the root mean squared distance from the mean) keeps a row that
    coincides with the estimate from taking infinite weight.
    """
    median = x.mean(0)
    floor = MEDIAN_EPSILON * (x - median).square().sum(1).mean().sqrt().clamp_min(1e-12)
    for _ in range(MEDIAN_STEPS):
        weights = 1 / (x - median).norm(dim=1).clamp_min(floor)
        following = (weights / weights.sum()) @ x
        moved = (following - median).norm()
        median = following
        if moved <= floor:
            break
    return median


def activation_scale(sample: np.ndarray, what: str) -> float:
    """Return the factor that gives rows (n × d) a mean squared norm of d.

    Raises
    ------
    InputError
        If the rows do not vary; ``what`` names them in the message.
    """
    import numpy as np

    squares = float(np.einsum("nd,nd->", sample, sample, dtype=np.float64))
    mean = sample.mean(0, dtype=np.float64)
    spread = squares / len(sample) - float(mean @ mean)
    if spread <= 1e-9 * max(squares / len(sample), 1e-30):
        raise InputError(f"{what}: found constant activations, expected activations that vary over tokens")
    return float((sample.shape[1] * len(sample) / squares) ** 0.5)


class Trainer:
    """State of one training run: architecture, optimiser, counters, history. See :func:`train`."""

    def __init__(self, buffer: TokenBuffer, settings: dict[str, Any], seed: int, device: str) -> None:
        self.buffer, self.settings, self.device = buffer, settings, device
        self.steps = settings["training_tokens"] // settings["batch_tokens"]
        self.log_every = max(1, self.steps // HISTORY_ROWS)
        self.fingerprint = {"settings": settings, "seed": seed, "data": buffer.fingerprint()}
        what = f"activations of layer {buffer.layer} ({buffer.paths[0].name}, …)"
        self.scale = activation_scale(buffer.sample(), what)
        rows = buffer.sample()
        rows = rows[:: len(rows) // settings["batch_tokens"]][: settings["batch_tokens"]]
        self.model = ARCHITECTURES[settings["architecture"]](
            buffer.d,
            settings["n_features"],
            settings,
            geometric_median(torch.from_numpy(rows.copy()) * self.scale),
            torch.Generator().manual_seed(seed),
            device,
        )
        self.optimiser = torch.optim.Adam(list(self.model.parameters.values()), fused=True)
        self.since_fired = torch.zeros(settings["n_features"], dtype=torch.int64, device=device)
        self.dead = torch.empty(0, dtype=torch.int64, device=device)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.speed: list[dict[str, float]] = []
        self.started, self.first_step = time.monotonic(), 0

    def advance(self) -> None:
        """Take one optimisation step."""
        settings = self.settings
        rate = learning_rate(self.step, self.steps, settings)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        x = self._on_device(self.buffer.batch()) * self.scale
        if self.step % DEAD_LIST_STEPS == 0:
            self.dead = torch.nonzero(self.since_fired >= settings["dead_after_tokens"]).squeeze(1)
        loss = self.model.loss(x, self.dead, self.step / self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        loss.total.backward()
        self.model.before_step()
        torch.nn.utils.clip_grad_norm_(self.model.parameters.values(), GRADIENT_NORM)
        self.optimiser.step()
        self.model.after_step(loss)
        self.since_fired = torch.where(loss.fired, 0, self.since_fired + len(x))
        self.step += 1
        if self.step % self.log_every == 0 or self.step == self.steps:
            self._log_row(x, loss, rate)

    def _on_device(self, rows: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(rows)
        if self.device == "cpu":
            return tensor
        # From pinned memory the copy queues up behind the GPU's work; otherwise the host would wait for it.
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _log_row(self, x: Tensor, loss: Any, rate: float) -> None:
        total = float(loss.total.detach())
        if not math.isfinite(total):
            raise InputError(
                f"dictionaries.learning_rate: found {self.settings['learning_rate']}, with which the loss "
                f"was no longer finite at step {self.step}, expected a smaller one"
            )
        seconds = time.monotonic() - self.started
        tokens = (self.step - self.first_step) * len(x)
        # Times differ from run to run: apart from the history, which is the same bytes.
        self.speed.append({"step": self.step, "seconds": seconds, "tokens_per_second": tokens / seconds})
        variance = (x - x.mean(0)).square().sum(1).mean()
        self.history.append(
            {
                "step": self.step,
                "tokens": self.step * len(x),
                "loss": total,
                **{name: float(value) for name, value in loss.parts.items()},
                "fvu": float(loss.residual.square().sum(1).mean() / variance),
                "l0": float(loss.kept) / len(x),
                **self.model.report(x, self.scale),
                "dead": int((self.since_fired >= self.settings["dead_after_tokens"]).sum()),
                "learning_rate": rate,
            }
        )

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        state = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "scale": self.scale,
            "model": self.model.state(),
            "optimiser": self.optimiser.state_dict(),
            "since_fired": self.since_fired,
            "dead": self.dead,
            "history": self.history,
        }
        with store.atomic(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> bool:
        """Go on from a checkpoint of this very run; return False (and say why) where there is none."""
        if not path.exists():
            return False
        try:
            state = torch.load(path, weights_only=True, map_location=self.device)
            fits = state["fingerprint"] == self.fingerprint
        except Exception as error:  # a damaged checkpoint is scratch: torch raises many types here
            log.warning("%s: damaged checkpoint (%s), training starts anew", path, error)
            return False
        if not fits:
            log.warning("%s: checkpoint of other settings or data, training starts anew", path)
            return False
        self.scale, self.step, self.history = state["scale"], state["step"], state["history"]
        self.model.load_state(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.since_fired, self.dead = state["since_fired"], state["dead"]
        self.buffer.seek(self.step)
        self.started, self.first_step = time.monotonic(), self.step
        log.info("%s: resumed at step %d of %d", path, self.step, self.steps)
        return True


def train(
    buffer: TokenBuffer,
    settings: dict[str, Any],
    seed: int,
    checkpoint_path: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    device: str = "cpu",
    progress: Callable[[Iterable[int], str, int], Iterable[int]] | None = None,
) -> tuple[Dictionary, pd.DataFrame, pd.DataFrame]:
    """Train one dictionary.

    Parameters
    ----------
    buffer
        Source of batches; its ``batch_tokens`` must be that of the settings.
    settings
        See :func:`complete_settings`; completed here.
    seed
        63-bit seed of the initial weights; the buffer brings its own generator.
    checkpoint_path
        Where unfinished work is kept; a checkpoint of the same run found there is continued, with
        the same result as without the interruption (same machine and thread count).
    checkpoint_seconds
        Time between checkpoints; 0 writes one after every step.
    device
        Torch device.
    progress
        Wraps the iterable of steps, called as ``progress(steps, label, total)``.

    Returns
    -------
    dictionary
        Acts on unscaled activations.
    history
        At most about 500 rows: step, tokens, loss and its parts (scaled units), fvu and l0 of the
        batch, what the architecture adds (threshold in unscaled units, …), dead (count), learning rate.
    speed
        At the same steps: seconds since the start (or the resumption) and tokens per second.

    Raises
    ------
    InputError
        For settings out of range, constant activations, or a loss that is no longer finite.
    """
    import pandas as pd

    settings = complete_settings(settings)
    if settings["batch_tokens"] != buffer.batch_tokens:
        raise InputError(
            f"dictionaries.batch_tokens: found {settings['batch_tokens']}, "
            f"expected the buffer's {buffer.batch_tokens}"
        )
    trainer = Trainer(buffer, settings, seed, device)
    path = None if checkpoint_path is None else Path(checkpoint_path)
    if path is not None:
        trainer.resume(path)
    saved = time.monotonic()
    remaining: Iterable[int] = range(trainer.step, trainer.steps)
    if progress is not None:
        remaining = progress(remaining, f"dictionary {settings['name']}", len(remaining))
    for _ in remaining:
        trainer.advance()
        if path is not None and time.monotonic() - saved >= checkpoint_seconds:
            trainer.save(path)
            saved = time.monotonic()
    seconds = max(time.monotonic() - trainer.started, 1e-9)
    tokens = (trainer.step - trainer.first_step) * settings["batch_tokens"]
    log.info("dictionary %s: %d tokens, %.0f tokens/s", settings["name"], tokens, tokens / seconds)
    kind, weights, options = trainer.model.inference_weights(trainer.scale)
    dictionary = Dictionary(kind, weights, options, device=device)
    return dictionary, pd.DataFrame(trainer.history), pd.DataFrame(trainer.speed)
