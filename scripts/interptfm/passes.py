"""Which layers are extracted together: one forward pass a shard, and one more for layers added later.

A forward pass yields all layers at once, so that a shard's layers share a job and a file. Were a layer that
the configuration adds to join them, the file would be written anew and every dictionary trained again.
It gets a pass and a file of its own instead. Which layers an earlier run extracted together cannot be
known from the configuration, hence it is recorded beside the activations.

Standard library only: this is read while Snakemake parses the workflow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from interptfm.errors import InputError

RECORD = "passes.json"
Passes = list[list[int]]


def plan(recorded: Passes, layers: Sequence[int], n_layers: int) -> Passes:
    """Return the passes that provide ``layers``: those recorded as they are, and one for what they lack.

    A record that names layers the model does not have is of another model and counts for nothing.
    """
    if any(layer >= n_layers for group in recorded for layer in group):
        recorded = []
    known = {layer for group in recorded for layer in group}
    missing = sorted(set(layers) - known)
    return [*map(list, recorded), *([missing] if missing else [])]


def begun(recorded: Passes, used: Callable[[int, Sequence[int]], bool]) -> Passes:
    """Return the passes recorded, up to the last of which ``used(number, layers)`` finds any result.

    A run writes the record when it starts: what it did not come to must not bind a later configuration.
    """
    count = len(recorded)
    while count and not used(count - 1, recorded[count - 1]):
        count -= 1
    return recorded[:count]


def holding(passes: Passes, layer: int) -> int:
    """Return the number of the pass that provides a layer; ValueError if none does."""
    for number, layers in enumerate(passes):
        if layer in layers:
            return number
    raise ValueError(f"layer {layer} is in none of the passes {passes}")


def read(folder: str | Path) -> Passes:
    """Return the passes recorded in an ``activations`` folder; none where nothing was extracted yet.

    Raises
    ------
    InputError
        For a record that is not a list of lists of layers.
    """
    path = Path(folder, RECORD)
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(
        isinstance(group, list) and group and all(isinstance(layer, int) for layer in group)
        for group in found
    ):
        raise InputError(f"{path}: found no list of lists of layers, expected one; delete {folder}")
    return found


def write(folder: str | Path, passes: Passes) -> None:
    """Record the passes in an ``activations`` folder, unless that is what stands there."""
    if read(folder) == passes:
        return
    path = Path(folder, RECORD)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{RECORD}.{os.getpid()}")
    temporary.write_text(json.dumps(passes) + "\n")
    temporary.replace(path)
