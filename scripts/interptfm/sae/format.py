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
from interptfm.sae.inference import JumpReLU

CONFIG_NAME, WEIGHTS_NAME = "cfg.json", "sae_weights.safetensors"
SAE_LENS_VERSION = "6.0.0"  # the format's version, not that of an installed package
FIXED = {
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
}


def save(
    cfg_path: str | Path, weights_path: str | Path, weights: dict[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    """Write a ``jumprelu`` dictionary; the same weights and metadata give the same bytes.

    ``weights`` as in :class:`~interptfm.sae.inference.JumpReLU`. To load both with sae-lens they
    must be named ``cfg.json`` and ``sae_weights.safetensors`` in one folder. ``metadata`` gains the
    versions that SAELens looks for and the SHA-256 of the weights file.
    """
    from safetensors.numpy import save as to_bytes

    d_sae, d_in = weights["W_dec"].shape
    content = to_bytes({name: np.ascontiguousarray(weights[name], np.float32) for name in JumpReLU.TENSORS})
    config = {
        "architecture": "jumprelu",
        "d_in": d_in,
        "d_sae": d_sae,
        **FIXED,
        "metadata": {
            "sae_lens_version": SAE_LENS_VERSION,
            "sae_lens_training_version": None,
            **metadata,
            "weights_sha256": hashlib.sha256(content).hexdigest(),
        },
    }
    with store.atomic(weights_path) as temporary:
        temporary.write_bytes(content)
    store.write_json(cfg_path, config)


def load(folder: str | Path, device: str = "cpu") -> JumpReLU:
    """Load a ``jumprelu`` dictionary from a SAELens folder.

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
    _check_weights(weights_path, weights, config["d_in"], config["d_sae"])
    return JumpReLU(weights, metadata, device)


def _check_config(path: Path, config: Any) -> None:
    if not isinstance(config, dict):
        raise InputError(f"{path}: found a {type(config).__name__}, expected an object of settings")
    expected = {"architecture": "jumprelu", **{key: FIXED[key] for key in FIXED if key != "device"}}
    for key, value in expected.items():
        if key not in config or config[key] != value:
            raise InputError(f"{path}: found {key} {config.get(key)!r}, expected {value!r}")
    for key in ("d_in", "d_sae"):
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


def _check_weights(path: Path, weights: dict[str, np.ndarray], d_in: int, d_sae: int) -> None:
    shapes = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_in),
        "b_enc": (d_sae,),
        "b_dec": (d_in,),
        "threshold": (d_sae,),
    }
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
