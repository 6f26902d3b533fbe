"""The dictionary stage: from activation files to weights, training history and held-out metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interptfm import store
from interptfm.errors import InputError
from interptfm.sae import buffer, format, importing, metrics, training
from interptfm.sae.inference import Dictionary

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

HELD_OUT = ("validation", "test")


@dataclass
class Result:
    """A trained dictionary, its origin, its history and speed, and its quality by held-out split."""

    dictionary: Dictionary
    history: pd.DataFrame
    speed: pd.DataFrame
    metrics: dict[str, Any]


def cell_splits(paths: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """Return by sample the split of every cell, read from ``cells/<sample>.h5ad`` (the file's stem)."""
    splits = {}
    for path in paths:
        obs = store.read_h5ad(path).obs
        if "split" not in obs:
            raise InputError(f"{path}: found obs columns {', '.join(obs)}, expected 'split' among them")
        splits[Path(path).stem] = obs["split"].to_numpy().astype(str)
    return splits


def run(
    cells: Sequence[str | Path],
    activations: Sequence[str | Path],
    layer: int,
    settings: dict[str, Any],
    rng: np.random.Generator,
    seed: int,
    checkpoint_path: str | Path | None = None,
    device: str = "cpu",
    progress: Callable[[Iterable[int], str, int], Iterable[int]] | None = None,
) -> Result:
    """Train one dictionary on the training blocks of all samples and measure it on the held-out ones.

    Parameters
    ----------
    cells
        ``cells/<sample>.h5ad`` of every sample; only ``obs["split"]`` is used.
    activations
        ``activations/<sample>/<shard>.zarr.zip`` of every sample and shard.
    layer
        Layer to train on.
    settings
        See :func:`interptfm.sae.training.complete_settings`; or ``architecture: imported`` with ``tokens``
        and ``path``, for a dictionary that is only loaded and measured.
    rng, seed
        Order of the tokens, and initial weights.
    checkpoint_path, device, progress
        As for :func:`interptfm.sae.training.train`.

    Raises
    ------
    InputError
        For bad settings, files that do not belong together, or unusable activations.
    """
    if settings.get("architecture") == "imported":
        return _imported(cells, activations, layer, settings, device)
    settings = training.complete_settings(settings)
    tokens = settings["tokens"]
    chosen = _selectors(cells, activations, tokens)
    source = buffer.TokenBuffer(
        activations,
        layer,
        chosen["train"],
        settings["batch_tokens"],
        rng,
        settings["buffer_bytes"],
        tokens,
    )
    dictionary, history, speed = training.train(
        source, settings, seed, checkpoint_path, device=device, progress=progress
    )
    dictionary.metadata = {
        **_origin(activations, layer, tokens),
        "tokens_seen": int(history["tokens"].iloc[-1]),
        "training_set_tokens": source.n_tokens,
        "seed": seed,
        "training": {key: value for key, value in settings.items() if key not in ("layers", "seeds")},
    }
    del source
    return Result(dictionary, history, speed, _quality(dictionary, activations, layer, chosen, tokens))


def _imported(
    cells: Sequence[str | Path],
    activations: Sequence[str | Path],
    layer: int,
    settings: dict[str, Any],
    device: str,
) -> Result:
    """As :func:`run`, with a dictionary from ``settings["path"]``; history and speed have no rows."""
    import pandas as pd

    tokens = settings["tokens"]
    folder = Path(settings["path"].replace("{layer}", str(layer)))
    dictionary = importing.load_folder(folder, device)
    with store.open_activations(activations[0]) as opened:
        if opened.d != dictionary.d:
            raise InputError(
                f"{folder}: found a dictionary of width {dictionary.d}, expected {opened.d} as the "
                f"activations of layer {layer} have"
            )
    dictionary.metadata |= {**_origin(activations, layer, tokens), "path": settings["path"]}
    chosen = _selectors(cells, activations, tokens)
    history = pd.DataFrame({"step": [], "tokens": []}, dtype="int64")
    speed = pd.DataFrame({"step": [], "seconds": [], "tokens_per_second": []}, dtype="float64")
    return Result(dictionary, history, speed, _quality(dictionary, activations, layer, chosen, tokens))


def _selectors(
    cells: Sequence[str | Path], activations: Sequence[str | Path], tokens: str
) -> dict[str, list[np.ndarray]]:
    """Return by split one bool array a file: which of its tokens belong to it."""
    by_sample = cell_splits(cells)
    # One byte a token and split: the names themselves would take forty.
    chosen: dict[str, list[np.ndarray]] = {split: [] for split in ("train", *HELD_OUT)}
    for path in activations:
        found = buffer.token_splits(path, by_sample, tokens)
        for split, selectors in chosen.items():
            selectors.append(found == split)
    return chosen


def _quality(
    dictionary: Dictionary,
    activations: Sequence[str | Path],
    layer: int,
    chosen: dict[str, list[np.ndarray]],
    tokens: str,
) -> dict[str, Any]:
    return {
        split: metrics.quality(
            dictionary,
            buffer.selected_blocks(activations, layer, chosen[split], tokens),
        )
        for split in HELD_OUT
    }


def _origin(activations: Sequence[str | Path], layer: int, tokens: str) -> dict[str, Any]:
    """Return where activations come from: hook, and what all files must agree on."""
    found: dict[str, dict[Any, Path]] = {"model": {}, "genes": {}, "mode": {}}
    hook, name = f"transformer_encoder.layers.{layer}.norm2", "scgpt"
    for path in activations:
        with store.open_activations(path) as opened:
            # Of a model that was run elsewhere its name is all that is known.
            if "model_name" in opened.attributes:
                hook, name = f"layer_{layer}", opened.attributes["model_name"]
            for key, values in found.items():
                values.setdefault(opened.attributes.get(key), Path(path))
    for key, values in found.items():
        if len(values) > 1:
            (one, first), (other, second) = list(values.items())[:2]
            raise InputError(f"{second}: found {key} {other!r}, expected {one!r} as in {first}")
    model, genes, mode = (next(iter(values)) for values in found.values())
    return {
        "model_name": name,
        "model_digest": model,
        "genes": genes,
        "tokeniser_mode": mode,
        "layer": layer,
        "hook_name": hook,
        "tokens": tokens,
    }


def write(
    cfg: str | Path,
    weights: str | Path,
    history: str | Path,
    speed: str | Path,
    metrics_path: str | Path,
    result: Result,
    provenance: dict[str, Any],
) -> None:
    """Write the stage's five outputs."""
    dictionary = result.dictionary
    dictionary.metadata = {**dictionary.metadata, "provenance": provenance}
    format.save(cfg, weights, dictionary)
    store.write_table(history, result.history, provenance)
    store.write_table(speed, result.speed)
    store.write_json(metrics_path, {**result.metrics, "provenance": provenance})
