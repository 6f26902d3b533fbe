"""Dictionaries that others trained: folders as SAELens and as dictionary_learning write them.

Every layout becomes one of the kinds of ``inference``, exactly: an encoder that sees x rather than
x − b_dec gets b_dec W_enc added to its bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from interptfm import store
from interptfm.errors import InputError
from interptfm.sae import format
from interptfm.sae.inference import TENSORS, Dictionary

LEARNING_CONFIG, LEARNING_WEIGHTS = "config.json", "ae.pt"
Arrays = dict[str, np.ndarray]


def load_folder(folder: str | Path, device: str = "cpu") -> Dictionary:
    """Return the dictionary of a folder, in float32.

    Raises
    ------
    InputError
        If neither layout is there, a file is damaged, or the dictionary is of a kind (or has an option)
        that cannot be expressed.
    """
    folder = Path(folder)
    if (folder / format.CONFIG_NAME).is_file():
        return _from_saelens(folder, device)
    if (folder / LEARNING_CONFIG).is_file():
        return _from_dictionary_learning(folder, device)
    raise InputError(
        f"{folder}: found neither {format.CONFIG_NAME} nor {LEARNING_CONFIG}, expected SAELens or "
        "dictionary_learning files"
    )


def _from_saelens(folder: Path, device: str) -> Dictionary:
    path = folder / format.CONFIG_NAME
    config = store.read_json(path)
    kind = config.get("architecture") if isinstance(config, dict) else None
    if kind not in TENSORS:
        raise InputError(f"{path}: found architecture {kind!r}, expected one of {', '.join(TENSORS)}")
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") != "none":
            raise InputError(f"{path}: found {key} {config[key]!r}, expected 'none'")
    weights = _float32(folder / format.WEIGHTS_NAME, _read_safetensors(folder / format.WEIGHTS_NAME))
    if config.get("rescale_acts_by_decoder_norm"):
        # Selection by activation × decoder norm, undone on decoding: the same with unit rows.
        norm = np.linalg.norm(weights["W_dec"].astype(np.float64), axis=1)
        weights["W_enc"] = (weights["W_enc"] * norm).astype(np.float32)
        weights["b_enc"] = (weights["b_enc"] * norm).astype(np.float32)
        weights["W_dec"] = (weights["W_dec"] / norm[:, None]).astype(np.float32)
    if not config.get("apply_b_dec_to_input", True):
        weights = _centred(kind, weights)
    options = {"k": int(config["k"])} if kind == "topk" else {}
    return _checked(
        folder / format.WEIGHTS_NAME, kind, weights, options, config.get("metadata") or {}, device
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected the weights beside {format.CONFIG_NAME}") from None
    except SafetensorError as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected safetensors") from None


def _from_dictionary_learning(folder: Path, device: str) -> Dictionary:
    path, weights_path = folder / LEARNING_CONFIG, folder / LEARNING_WEIGHTS
    config = store.read_json(path)
    trainer = config.get("trainer", {}) if isinstance(config, dict) else {}
    name = trainer.get("dict_class")
    if name not in LEARNING_KINDS:
        raise InputError(f"{path}: found dict_class {name!r}, expected one of {', '.join(LEARNING_KINDS)}")
    try:
        state = torch.load(weights_path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise InputError(f"{weights_path}: not found, expected the weights beside {path.name}") from None
    except Exception as error:  # torch raises many types for a file that is not a state dict
        reason = str(error).splitlines()[0][:100]
        raise InputError(f"{weights_path}: found a damaged file ({reason}), expected a state dict") from None
    arrays = _float32(weights_path, state)
    try:
        kind, weights, options = LEARNING_KINDS[name](arrays, trainer)
    except KeyError as error:
        raise InputError(f"{weights_path}: found no tensor {error}, expected those of {name}") from None
    origin = {"dictionary_learning": {key: trainer[key] for key in sorted(trainer)}}
    return _checked(weights_path, kind, weights, options, origin, device)


def _linear(state: Arrays, centre: str, bias: str = "encoder.bias") -> Arrays:
    """Tensors of a dictionary with ``nn.Linear`` encoder and decoder, whose weights are transposed."""
    weights = {"W_enc": state["encoder.weight"].T, "W_dec": state["decoder.weight"].T, "b_dec": state[centre]}
    return {**weights, "b_enc": state[bias]} if bias else weights


def _batch_threshold(state: Arrays, weights: Arrays) -> tuple[str, Arrays, dict[str, Any]]:
    threshold = max(0.0, float(state["threshold"]))  # −1 before the first batch that tracked it
    return "jumprelu", {**weights, "threshold": np.full(len(weights["b_enc"]), threshold, np.float32)}, {}


def _uncentred_jumprelu(state: Arrays, trainer: dict[str, Any]) -> tuple[str, Arrays, dict[str, Any]]:
    weights = {name: state[name] for name in TENSORS["jumprelu"]}
    return "jumprelu", _centred("jumprelu", weights), {}


def _gated(state: Arrays, trainer: dict[str, Any]) -> tuple[str, Arrays, dict[str, Any]]:
    weights = _linear(state, "decoder_bias", "")
    names = {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
    return "gated", {**weights, **{ours: state[theirs] for ours, theirs in names.items()}}, {}


LEARNING_KINDS = {
    "AutoEncoder": lambda state, trainer: ("standard", _linear(state, "bias"), {}),
    "AutoEncoderNew": lambda state, trainer: (
        "standard",
        _centred("standard", _linear(state, "decoder.bias")),
        {},
    ),
    "AutoEncoderTopK": lambda state, trainer: ("topk", _linear(state, "b_dec"), {"k": int(trainer["k"])}),
    "BatchTopKSAE": lambda state, trainer: _batch_threshold(state, _linear(state, "b_dec")),
    "MatryoshkaBatchTopKSAE": lambda state, trainer: _batch_threshold(
        state, {name: state[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    ),
    "JumpReluAutoEncoder": _uncentred_jumprelu,
    "GatedAutoEncoder": _gated,
}


def _centred(kind: str, weights: Arrays) -> Arrays:
    """Return tensors that act on x − b_dec, from ones that act on x."""
    shift = weights["b_dec"].astype(np.float64) @ weights["W_enc"].astype(np.float64)
    weights = dict(weights)
    if kind == "gated":
        weights["b_gate"] = (weights["b_gate"] + shift).astype(np.float32)
        weights["b_mag"] = (weights["b_mag"] + shift * np.exp(weights["r_mag"])).astype(np.float32)
    else:
        weights["b_enc"] = (weights["b_enc"] + shift).astype(np.float32)
    return weights


def _float32(path: Path, tensors: Any) -> Arrays:
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise InputError(f"{path}: found a {type(tensors).__name__}, expected named tensors")
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def _checked(
    path: Path, kind: str, weights: Arrays, options: dict[str, Any], metadata: dict[str, Any], device: str
) -> Dictionary:
    missing = [name for name in TENSORS[kind] if name not in weights]
    if missing:
        raise InputError(f"{path}: found no tensor {missing[0]!r}, expected {', '.join(TENSORS[kind])}")
    kept = {name: np.ascontiguousarray(weights[name]) for name in TENSORS[kind]}
    if kept["W_dec"].ndim != 2:
        raise InputError(f"{path}: found W_dec of shape {kept['W_dec'].shape}, expected (features, d)")
    d_sae, d_in = kept["W_dec"].shape
    format.check_weights(path, kind, kept, d_in, d_sae)
    if kind == "topk" and not 1 <= options["k"] <= d_sae:
        raise InputError(f"{path}: found k {options['k']}, expected 1 to {d_sae}")
    return Dictionary(kind, kept, options, {"imported": metadata}, device)
