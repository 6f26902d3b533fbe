"""Dictionaries on disk: SAELens' folder of ``cfg.json`` and ``sae_weights.safetensors``.

The layout is that of ``sae_lens.SAE.load_from_disk`` (version 6): configuration keys at the top
level, everything about the origin in ``metadata``, tensors under SAELens' names.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from interptfm import store
from interptfm.errors import InputError
from interptfm.sae.inference import SHARED, TENSORS, Dictionary

CONFIG_NAME, WEIGHTS_NAME = "cfg.json", "sae_weights.safetensors"
SAE_LENS_VERSION = "6.0.0"  # the format's version, not that of an installed package
FIXED = {
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
}


def save(cfg_path: str | Path, weights_path: str | Path, dictionary: Dictionary) -> None:
    """Write a dictionary; the same weights and metadata give the same bytes.

    To load both with sae-lens they must be named ``cfg.json`` and ``sae_weights.safetensors`` in one
    folder. The metadata gain the versions that SAELens looks for and the SHA-256 of the weights file.
    """
    from safetensors.numpy import save as to_bytes

    names = TENSORS[dictionary.kind]
    content = to_bytes({name: np.ascontiguousarray(dictionary.weights[name], np.float32) for name in names})
    config = {
        "architecture": dictionary.kind,
        "d_in": dictionary.d,
        "d_sae": dictionary.n_features,
        **dictionary.options,
        **FIXED,
        "metadata": {
            "sae_lens_version": SAE_LENS_VERSION,
            "sae_lens_training_version": None,
            **dictionary.metadata,
            "weights_sha256": hashlib.sha256(content).hexdigest(),
        },
    }
    with store.atomic(weights_path) as temporary:
        temporary.write_bytes(content)
    store.write_json(cfg_path, config)


def load(folder: str | Path, device: str = "cpu") -> Dictionary:
    """Load a dictionary from a SAELens folder of one of the kinds in ``inference.TENSORS``.

    Raises
    ------
    InputError
        If a file is missing or damaged, the architecture or an option is not supported, or a tensor
        is missing, foreign, of another shape or type, or not finite.
    """
    folder = Path(folder)
    cfg_path, weights_path = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    config = store.read_json(cfg_path)
    _check_config(cfg_path, config)
    metadata = config.get("metadata") or {}
    weights = _read_weights(weights_path, metadata.get("weights_sha256"))
    kind = config["architecture"]
    check_weights(weights_path, kind, weights, config["d_in"], config["d_sae"])
    options = {"k": config["k"]} if kind == "topk" else {}
    return Dictionary(kind, weights, options, metadata, device)


def _check_config(path: Path, config: Any) -> None:
    if not isinstance(config, dict):
        raise InputError(f"{path}: found a {type(config).__name__}, expected an object of settings")
    if config.get("architecture") not in TENSORS:
        raise InputError(
            f"{path}: found architecture {config.get('architecture')!r}, expected one of {', '.join(TENSORS)}"
        )
    for key in ("dtype", "apply_b_dec_to_input", "normalize_activations", "reshape_activations"):
        if key not in config or config[key] != FIXED[key]:
            raise InputError(f"{path}: found {key} {config.get(key)!r}, expected {FIXED[key]!r}")
    for key in ("d_in", "d_sae", *(("k",) if config["architecture"] == "topk" else ())):
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise InputError(f"{path}: found {key} {config.get(key)!r}, expected a whole number above 0")


def _read_weights(path: Path, sha256: str | None) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected the weights beside {CONFIG_NAME}") from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise InputError(
            f"{path}: found SHA-256 {found[:12]}…, expected {sha256[:12]}… as {CONFIG_NAME} says; the file "
            "is damaged or belongs to another dictionary"
        )
    try:
        return from_bytes(content)
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected safetensors") from None


def check_weights(path: Path, kind: str, weights: dict[str, np.ndarray], d_in: int, d_sae: int) -> None:
    """Raise :class:`InputError` unless the tensors are those of the kind, in float32 and finite."""
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    shapes |= {name: (d_sae,) for name in TENSORS[kind] if name not in SHARED}
    if set(weights) != set(shapes):
        raise InputError(
            f"{path}: found tensors {', '.join(sorted(weights))}, expected {', '.join(sorted(shapes))}"
        )
    for name, shape in shapes.items():
        tensor = weights[name]
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise InputError(f"{path}: found {name} {tensor.dtype} {tensor.shape}, expected float32 {shape}")
        if not np.isfinite(tensor).all():
            raise InputError(f"{path}: found values in {name} that are not finite, expected numbers")
