"""Probes on disk: one safetensors file of directions and one JSON file that says what they are of.

Both stand in one folder, ``probes.safetensors`` and ``probes.json``. Tensors are float32; ``<kind>`` is one
of ``difference``, ``ridge``, ``logistic`` and, where it was asked for, ``softmax``:

- ``mean`` (d,): mean of the training tokens; ``fold`` int8 (genes,): fold of each gene, −1 without tokens;
- ``<kind>``, ``<kind>.bias``, ``<kind>.sigma``: (terms × d), (terms,), (terms,), fitted on training cells
  with all genes;
- ``<kind>.folds``, ``<kind>.folds.bias``: (folds × terms × d), (folds × terms), without the genes of a fold;
- ``<kind>.permuted``, ``<kind>.permuted.bias``, ``<kind>.permuted.sigma``: as the first, of one permuted
  membership.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from interptfm import store
from interptfm.errors import InputError

KINDS = ("difference", "ridge", "logistic", "softmax")
WEIGHTS_NAME, DOCUMENT_NAME = "probes.safetensors", "probes.json"
PERMUTED = ".permuted"


@dataclass
class Directions:
    """Probes of one kind for every term: score = x · ``weight`` + ``bias``.

    ``weight`` (terms × d), ``bias`` (terms,), ``sigma`` (terms,): standard deviation, over training tokens,
    of the projection on the direction of unit length. ``fold_weight`` (folds × terms × d) and
    ``fold_bias`` (folds × terms) were fitted without the genes of a fold; None where they were not. A term
    that could not be fitted (no gene of it, or no other, among the tokens) has zeros.
    """

    weight: np.ndarray
    bias: np.ndarray
    sigma: np.ndarray
    fold_weight: np.ndarray | None = None
    fold_bias: np.ndarray | None = None


@dataclass
class Probes:
    """The probes of one layer of one model.

    ``model``: digest of the checkpoint whose activations they were fitted on; ``term_ids`` (terms,) names
    the rows; ``genes`` (panel,) and ``fold`` (panel,) say which genes a fold holds out; ``mean`` (d,) of the
    training tokens; ``directions``: kind → :class:`Directions`; ``permuted``: the same under one permuted
    membership, without folds; ``settings``: how they were fitted, the chosen strengths among it.
    """

    model: str
    layer: int
    term_ids: list[str]
    genes: list[str]
    fold: np.ndarray
    mean: np.ndarray
    directions: dict[str, Directions]
    permuted: dict[str, Directions] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def d(self) -> int:
        """Width of the activations."""
        return len(self.mean)

    def rows(self, term_ids: Sequence[str]) -> np.ndarray:
        """Return the row of each term, int64 (n,).

        Raises
        ------
        InputError
            For a term that has no probe.
        """
        position = {term: i for i, term in enumerate(self.term_ids)}
        for term in term_ids:
            if term not in position:
                raise InputError(
                    f"probes of layer {self.layer}: found no term {term!r}, expected one of "
                    f"{len(position)} such as {', '.join(self.term_ids[:3])}"
                )
        return np.array([position[term] for term in term_ids], np.int64)

    def of(self, kind: str, permuted: bool = False) -> Directions:
        """Return the directions of one kind.

        Raises
        ------
        InputError
            For a kind that was not fitted.
        """
        found = self.permuted if permuted else self.directions
        if kind not in found:
            raise InputError(
                f"probes of layer {self.layer}: found no kind {kind!r}, expected one of {', '.join(found)}"
            )
        return found[kind]

    def unit(self, kind: str, fold: int | None = None, permuted: bool = False) -> np.ndarray:
        """Return directions of unit length, float32 (terms × d); zeros where a term has none.

        With ``fold`` those that were fitted without the genes of that fold.

        Raises
        ------
        InputError
            For a kind or a fold that was not fitted.
        """
        found = self.of(kind, permuted)
        if fold is None:
            return unit_rows(found.weight)
        if found.fold_weight is None or not 0 <= fold < len(found.fold_weight):
            n = 0 if found.fold_weight is None else len(found.fold_weight)
            raise InputError(f"probes of layer {self.layer}: found fold {fold}, expected one below {n}")
        return unit_rows(found.fold_weight[fold])


def unit_rows(weight: np.ndarray) -> np.ndarray:
    """Return the rows at length 1, float32 (n × d); rows of zeros stay zeros."""
    weight = np.asarray(weight, np.float64)
    norm = np.linalg.norm(weight, axis=-1, keepdims=True)
    return np.divide(weight, norm, out=np.zeros_like(weight), where=norm > 0).astype(np.float32)


def to_tensors(probes: Probes) -> dict[str, np.ndarray]:
    """Return all arrays by the names of the file."""
    tensors = {"mean": np.asarray(probes.mean, np.float32), "fold": np.asarray(probes.fold, np.int8)}
    for suffix, group in (("", probes.directions), (PERMUTED, probes.permuted)):
        for kind, found in group.items():
            name = f"{kind}{suffix}"
            tensors[name] = found.weight
            tensors[f"{name}.bias"] = found.bias
            tensors[f"{name}.sigma"] = found.sigma
            if found.fold_weight is not None:
                tensors[f"{name}.folds"] = found.fold_weight
                tensors[f"{name}.folds.bias"] = found.fold_bias
    return {
        name: np.ascontiguousarray(value, value.dtype if value.dtype == np.int8 else np.float32)
        for name, value in tensors.items()
    }


def write_probes(
    weights: str | Path, document: str | Path, probes: Probes, provenance: dict[str, Any] | None = None
) -> None:
    """Write both files; for :func:`read_probes` they need their names and one folder."""
    from safetensors.numpy import save

    with store.atomic(weights) as path:
        path.write_bytes(save(to_tensors(probes)))
    text = {
        "layer": probes.layer,
        "model": probes.model,
        "d": probes.d,
        "kinds": list(probes.directions),
        "term_ids": list(probes.term_ids),
        "genes": list(probes.genes),
        "settings": probes.settings,
        "provenance": provenance or {},
    }
    store.write_json(document, text)


def read_probes(folder: str | Path, model_digest: str | None) -> Probes:
    """Read the probes in a folder that are of one model.

    Parameters
    ----------
    folder
        ``probes/layer_<l>``.
    model_digest
        Digest of the model they are to be used with (attribute ``model`` of its activation stores,
        :func:`interptfm.scgpt.checkpoint.model_digest`); None where no model is involved.

    Raises
    ------
    InputError
        If a file is missing, damaged or does not fit the other, or the probes are of another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    folder = Path(folder)
    document = store.read_json(folder / DOCUMENT_NAME)
    path = folder / WEIGHTS_NAME
    missing = {"layer", "model", "d", "kinds", "term_ids", "genes", "settings"} - set(document)
    if missing:
        raise InputError(f"{folder / DOCUMENT_NAME}: found no key {min(missing)!r}, expected probes")
    if model_digest is not None and document["model"] != model_digest:
        raise InputError(
            f"{folder}: found probes of the model {document['model']}, expected those of {model_digest}; "
            "a direction means nothing in another model"
        )
    try:
        tensors = load(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except SafetensorError as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected safetensors") from None
    shape = (len(document["term_ids"]), document["d"])
    groups: dict[str, dict[str, Directions]] = {"": {}, PERMUTED: {}}
    for kind in document["kinds"]:
        for suffix, group in groups.items():
            name = f"{kind}{suffix}"
            if name not in tensors and suffix:
                continue
            if name not in tensors or tensors[name].shape != shape:
                found = tensors[name].shape if name in tensors else "nothing"
                raise InputError(f"{path}: found {found} for {name!r}, expected {shape}")
            folds = tensors.get(f"{name}.folds"), tensors.get(f"{name}.folds.bias")
            group[kind] = Directions(tensors[name], tensors[f"{name}.bias"], tensors[f"{name}.sigma"], *folds)
    return Probes(
        document["model"],
        int(document["layer"]),
        list(document["term_ids"]),
        list(document["genes"]),
        tensors["fold"],
        tensors["mean"],
        groups[""],
        groups[PERMUTED],
        document["settings"],
    )
