"""How directions lie to each other: terms within a layer, and one term across layers.

Terms that share genes have similar directions whatever the model knows. Hence the share of common genes
stands beside each cosine, and the same cosines under permuted membership, which keeps every overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from interptfm.errors import InputError
from interptfm.probes.format import Probes

NEAREST, RANDOM = 5, 20


def jaccard(members: np.ndarray) -> np.ndarray:
    """Return shared genes / genes of either, float64 (terms × terms), of (terms × genes) 0 or 1."""
    members = members.astype(float)
    shared, size = members @ members.T, members.sum(axis=1)
    either = size[:, None] + size[None, :] - shared
    return np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)


def within(unit: np.ndarray, generator: np.random.Generator) -> pd.DataFrame:
    """Return pairs of rows of one layer: each one's 5 nearest by \\|cosine\\|, and 20 at random.

    ``a``, ``b``: row numbers; ``chosen``: ``nearest`` or ``random``; ``cosine``. Rows of zeros are left out.
    """
    live = np.flatnonzero(np.abs(unit).sum(axis=1) > 0)
    n = len(live)
    parts: dict[str, list[np.ndarray]] = {"a": [], "b": [], "chosen": [], "cosine": []}
    for i, row in enumerate(live):
        cosine = unit[live] @ unit[row]
        others = np.delete(np.arange(n), i)
        near = others[np.argsort(-np.abs(cosine[others]), kind="stable")[:NEAREST]]
        drawn = generator.choice(others, min(RANDOM, n - 1), replace=False) if n > 1 else others
        picked = np.concatenate([near, drawn])
        parts["a"].append(np.full(len(picked), row))
        parts["b"].append(live[picked])
        parts["chosen"].append(np.repeat(["nearest", "random"], [len(near), len(drawn)]))
        parts["cosine"].append(cosine[picked])
    return pd.DataFrame({name: np.concatenate(values) for name, values in parts.items() if values})


def compare(layers: Sequence[Probes], members: np.ndarray, generator: np.random.Generator) -> pd.DataFrame:
    """Return cosines between directions of the same kind, within and across layers.

    Parameters
    ----------
    layers
        Probes of each layer, of the same terms.
    members
        (terms × genes) 0 or 1.

    Returns
    -------
    ``kind``, ``label`` (real or permuted), ``layer``, ``other_layer``, ``term_id``, ``other_term_id``,
    ``chosen`` (``nearest``, ``random``, or ``same term``), ``cosine``, ``jaccard`` of the terms' genes.

    Raises
    ------
    InputError
        If the layers do not have the same terms.
    """
    terms = np.asarray(layers[0].term_ids, object)
    for probes in layers[1:]:
        if list(probes.term_ids) != list(terms):
            raise InputError(
                f"probes of layer {probes.layer}: found other terms than in layer {layers[0].layer}, "
                "expected the same; fit them again"
            )
    overlap = jaccard(members)
    frames = []
    for kind in layers[0].directions:
        for label in ("real", "permuted"):
            units = {p.layer: p.unit(kind, permuted=label == "permuted") for p in layers}
            for layer, unit in units.items():
                pairs = within(unit, generator)
                if len(pairs):
                    frames.append(_named(pairs, terms, overlap, kind, label, layer, layer))
            frames += [
                _named(pairs, terms, overlap, kind, label, layer, other)
                for (layer, other), pairs in across(units).items()
                if len(pairs)
            ]
    order = [
        "kind",
        "label",
        "layer",
        "other_layer",
        "term_id",
        "other_term_id",
        "chosen",
        "cosine",
        "jaccard",
    ]
    return pd.concat(frames, ignore_index=True)[order]


def across(units: Mapping[int, np.ndarray]) -> dict[tuple[int, int], pd.DataFrame]:
    """Return (layer, later layer) → the cosine of each term's directions in both."""
    found, layers = {}, sorted(units)
    for i, layer in enumerate(layers):
        for other in layers[i + 1 :]:
            cosine = (units[layer] * units[other]).sum(axis=1)
            live = np.flatnonzero(
                (np.abs(units[layer]).sum(axis=1) > 0) & (np.abs(units[other]).sum(axis=1) > 0)
            )
            rows = {"a": live, "b": live, "chosen": "same term", "cosine": cosine[live]}
            found[layer, other] = pd.DataFrame(rows)
    return found


def _named(
    pairs: pd.DataFrame, terms: np.ndarray, overlap: np.ndarray, kind: str, label: str, layer: int, other: int
) -> pd.DataFrame:
    a, b = pairs["a"].to_numpy(), pairs["b"].to_numpy()
    return pd.DataFrame(
        {
            "kind": kind,
            "label": label,
            "layer": layer,
            "other_layer": other,
            "term_id": terms[a],
            "other_term_id": terms[b],
            "chosen": pairs["chosen"].to_numpy(),
            "cosine": pairs["cosine"].to_numpy(np.float32),
            "jaccard": overlap[a, b].astype(np.float32),
        }
    )
