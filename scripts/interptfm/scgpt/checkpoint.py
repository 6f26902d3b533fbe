"""scGPT checkpoint folders: `args.json`, `vocab.json`, `best_model.pt`, in the official format.

Reads the released checkpoints (flash-attention key style `self_attn.Wqkv.*`) and the torch style
(`self_attn.in_proj_*`), with or without the `module.` prefix of DataParallel, and writes the torch
style. scGPT's own loader skips keys that are missing or mis-shaped; this one refuses them.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interptfm import store
from interptfm.errors import InputError
from interptfm.scgpt.model import ModelConfig, ScGPT
from interptfm.scgpt.tokenizer import Vocabulary

ARGS, VOCAB, WEIGHTS = FILES = ("args.json", "vocab.json", "best_model.pt")

OPTIONAL_HEADS = (
    "cls_decoder.",
    "mvc_decoder.",
    "grad_reverse_discriminator.",
    "sim.",
    "creterion_cce.",
)
"""Prefixes of scGPT's task heads: what they hold takes no part in hidden states or decoders."""

UNREAD = ("flag_encoder.weight",)
"""Parameters that no computation here reads; zeros stand in where a checkpoint lacks them."""


@dataclass
class LoadReport:
    """What became of a checkpoint's keys, in the torch style.

    matched: loaded. missing: of `UNREAD`, absent from the file. ignored: optional heads in the
    file that the model does not have. renamed: how many keys came in the flash-attention style.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    renamed: int = 0

    def __str__(self) -> str:
        def names(keys: list[str]) -> str:
            return f"{len(keys)} ({', '.join(keys)})" if keys else "0"

        return (
            f"{len(self.matched)} keys matched ({self.renamed} in flash-attention style), "
            f"missing but unread: {names(self.missing)}, unexpected and ignored: "
            f"{names(self.ignored)}"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "matched": len(self.matched),
            "renamed": self.renamed,
            "missing": self.missing,
            "ignored": self.ignored,
        }


def load(
    folder: str | Path, vocabulary: Vocabulary | None = None
) -> tuple[ScGPT, Vocabulary, ModelConfig, LoadReport]:
    """Model (on the CPU, float32, in eval mode), vocabulary, config and report of a checkpoint.

    vocabulary: used in place of the folder's `vocab.json`. Weights are read as data only
    (`weights_only`): a pickle that would run code is refused. Raises InputError where a file is
    absent or unreadable, the architecture is not supported, or a key is missing, unknown, or of
    another shape than config and vocabulary ask for.
    """
    folder = Path(folder)
    config = read_config(folder / ARGS)
    if vocabulary is None:
        vocabulary = Vocabulary.from_json(folder / VOCAB)
    path = folder / WEIGHTS
    weights, renamed = _torch_style(_read_weights(path), path)
    with torch.device("meta"):
        model = ScGPT(config, len(vocabulary), vocabulary.pad_id)
    state, report = _fit(weights, model.state_dict(), path)
    report.renamed = renamed
    model.load_state_dict(state, strict=True, assign=True)
    model.requires_grad_(True)
    return model.eval(), vocabulary, config, report


def read_config(path: str | Path) -> ModelConfig:
    """The config in an `args.json`; InputError where it is absent, no JSON, or unsupported."""
    path = Path(path)
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected scGPT's args.json") from None
    except ValueError as error:
        raise InputError(f"{path}: no valid JSON ({error}), expected scGPT's args.json") from None
    if not isinstance(arguments, dict):
        raise InputError(f"{path}: found {type(arguments).__name__}, expected a JSON object")
    try:
        return ModelConfig.from_dict(arguments)
    except InputError as error:
        raise InputError(f"{path.parent}: {error}") from None


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: not found, expected scGPT's weights")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, as it is no plain file of tensors ({_brief(error)}); expected a state dict"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{path}: unreadable ({_brief(error)}), expected a state dict") from None
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path}: found {type(content).__name__}, expected a state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{path}: entry {key!r} is {type(value).__name__}, expected tensors by name")
    return dict(content)


def _brief(error: Exception) -> str:
    """The first clause of an error of torch's loader, which may run to a page."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].split(" This is ")[0][:160].rstrip(".:")


def _torch_style(weights: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], int]:
    """Keys without `module.` and with `in_proj_`; also how many were in flash-attention style."""
    result, renamed = {}, 0
    for key, value in weights.items():
        name = key.removeprefix("module.")
        torch_name = name.replace("self_attn.Wqkv.", "self_attn.in_proj_")
        renamed += torch_name != name
        if torch_name in result:
            raise InputError(f"{path}: key {torch_name} is there twice (as {key}), expected once")
        result[torch_name] = value
    return result, renamed


def _fit(
    weights: dict[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], LoadReport]:
    """The file's tensors, float32, checked against the model's by key and shape; and the report."""
    report = LoadReport()
    missing = [key for key in expected if key not in weights]
    report.missing = [key for key in missing if key in UNREAD]
    lacking = [key for key in missing if key not in UNREAD]
    unexpected = [key for key in weights if key not in expected]
    report.ignored = sorted(key for key in unexpected if key.startswith(OPTIONAL_HEADS))
    unknown = sorted(set(unexpected) - set(report.ignored))
    if lacking:
        key = lacking[0]
        raise InputError(
            f"{path}: key {key} is missing{_more(lacking)}, expected shape "
            f"{tuple(expected[key].shape)}{_found(unknown)}"
        )
    if unknown:
        key = unknown[0]
        raise InputError(
            f"{path}: unknown key {key} of shape {tuple(weights[key].shape)}{_more(unknown)}, "
            f"expected none but those of the model and of scGPT's task heads"
        )
    state = {}
    for key, parameter in expected.items():
        if key in report.missing:
            state[key] = torch.zeros(parameter.shape)
            continue
        value = weights[key]
        if value.shape != parameter.shape:
            raise InputError(
                f"{path}: key {key} has shape {tuple(value.shape)}, expected "
                f"{tuple(parameter.shape)} by args.json and the vocabulary"
            )
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise InputError(f"{path}: key {key} ({value.dtype}) must hold finite real numbers")
        state[key] = value.to(torch.float32).contiguous()
        report.matched.append(key)
    return state, report


def _more(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _found(unknown: list[str]) -> str:
    return f", found {unknown[0]}{_more(unknown)} instead" if unknown else ""


def save(
    folder: str | Path,
    model: ScGPT,
    vocabulary: Vocabulary,
    extra_args: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder, each file atomically, the weights last.

    extra_args: further entries of `args.json` (how the model was trained); they must be JSON and
    may not contradict the config. The same weights give the same bytes.
    Raises ValueError where the vocabulary is not the model's or an extra entry is in the config.
    """
    folder = Path(folder)
    if len(vocabulary) != model.n_tokens or vocabulary.pad_id != model.pad_id:
        raise ValueError(
            f"the vocabulary has {len(vocabulary)} tokens (padding {vocabulary.pad_id}), the model "
            f"{model.n_tokens} (padding {model.pad_id})"
        )
    arguments = model.config.to_dict()
    clash = sorted(set(arguments) & set(extra_args or {}))
    if clash:
        raise ValueError(f"extra_args holds {', '.join(clash)}, which the model's config sets")
    arguments.update(extra_args or {})
    text = json.dumps(arguments, indent=2, sort_keys=True, allow_nan=False)

    # Saved to a buffer: torch writes the name of a file into the archive. Copies, so that the
    # archive holds each tensor once and no more of its storage than the tensor.
    state = {
        str(key): value.detach().to("cpu", torch.float32).contiguous().clone()
        for key, value in model.state_dict().items()
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)

    with store.atomic(folder / ARGS) as path:
        path.write_text(text + "\n", encoding="utf-8")
    with store.atomic(folder / VOCAB) as path:
        vocabulary.to_json(path)
    with store.atomic(folder / WEIGHTS) as path:
        path.write_bytes(buffer.getbuffer())


def model_digest(folder: str | Path) -> str:
    """`sha256:` and the digest of a checkpoint's three files, whatever else the folder holds."""
    digest = hashlib.sha256()
    for name in FILES:
        try:
            with (Path(folder) / name).open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            raise InputError(f"{folder}: {name} not found, expected a scGPT checkpoint") from None
        digest.update(f"{name} {content}\n".encode())
    return f"sha256:{digest.hexdigest()}"
