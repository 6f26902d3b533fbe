"""The user's cells through model and dictionary, to features aggregated by cell."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from interptfm import activations, features, store
from interptfm.annotate.query import Query
from interptfm.errors import InputError

log = logging.getLogger("interptfm")

CHUNK = 20_000
"""Cells whose activations of one layer lie on the disk at a time: a shard of the usual size."""
SETTINGS = ("backend", "dtype", "mantissa_bits", "mode", "max_length", "batch_tokens", "seed")


def extraction(configured: Mapping[str, Any], stores: Sequence[str | Path]) -> dict[str, Any]:
    """Return how the run's activations were made (:data:`SETTINGS`).

    As its first activation store says; where the stores were deleted to save space, as configured.
    """
    for path in stores:
        with store.open_activations(path) as file:
            recorded = file.attributes.get("provenance", {}).get("settings", {}).get("activations", {})
        missing = [name for name in SETTINGS if name not in recorded]
        if missing:
            raise InputError(f"{path}: found no record of {missing[0]!r}, expected a store of rule extract")
        return {name: recorded[name] for name in SETTINGS}
    log.info("no activation store is left of the run: settings of the extraction are those configured")
    return {name: configured[name] for name in SETTINGS}


def check_origin(cfg: str | Path, metadata: Mapping[str, Any], model: activations.Model, mode: str) -> None:
    """Raise :class:`InputError` unless a dictionary was made of this model's activations, in this mode."""
    found = str(metadata.get("model_digest"))
    if found != model.digest:
        raise InputError(
            f"{cfg}: found a dictionary of another model ({found[:15]}…), expected one of the run's model "
            f"({model.digest[:15]}…)"
        )
    if metadata.get("tokeniser_mode") != mode:
        raise InputError(
            f"{cfg}: found a dictionary of mode {metadata.get('tokeniser_mode')!r}, expected {mode!r} as "
            f"configured"
        )


def encode(
    query: Query,
    model: activations.Model,
    dictionary: features.Dictionary,
    maximum: np.ndarray,
    layer: int,
    settings: Mapping[str, Any],
    name: str,
    work: str | Path,
    device: str = "cpu",
    chunk: int = CHUNK,
) -> tuple[features.Cells, list[str]]:
    """Return the features of every cell with a token, and the genes that the model read.

    Parameters
    ----------
    query
        Cells, by genes of the run's panel.
    model, dictionary, maximum
        Of the run; ``maximum`` (features,) are the largest codes of its training tokens, by which codes are
        divided, so that the new cells do not set their own scale.
    layer, settings
        As the run extracted them (:func:`extraction`).
    name, work
        The sample's name in the result; a folder for activations, of which ``chunk`` cells are kept at a
        time.

    Raises
    ------
    InputError
        If the model knows none of the genes, or no cell has a count of those it knows.
    """
    read = [
        i
        for i, gene in enumerate(query.genes)
        if gene in model.vocabulary and gene not in model.excluded_genes
    ]
    if not read:
        raise InputError(
            f"{name}: found none of its {len(query.genes)} genes of the panel in the model's vocabulary, "
            f"expected "
            "some"
        )
    genes = [query.genes[i] for i in read]
    counts = sparse.csr_matrix(query.counts[:, read])
    has_tokens = np.diff(counts.indptr) > 0
    if not has_tokens.any():
        raise InputError(
            f"{name}: found no cell with a count of the {len(genes)} genes that the model reads, expected "
            f"some"
        )
    cells = np.array(query.names)
    sample = {
        name: features.Sample(np.arange(len(genes), dtype=np.int32), np.zeros(len(cells), np.int8), cells)
    }
    parts = []
    Path(work).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for start in range(0, len(cells), chunk):
            mine = np.zeros(len(cells), dtype=bool)
            mine[start : start + chunk] = True
            if not (mine & has_tokens).any():
                continue
            path = Path(folder, f"{start}.zarr.zip")
            activations.write_shard(
                path,
                model,
                counts,
                genes,
                query.names,
                mine,
                [layer],
                **{key: value for key, value in settings.items() if key != "backend"},
                device=device,
                attributes={"sample": name},
            )
            found, *_ = features.aggregate([path], sample, genes, dictionary, layer, maximum, top_tokens=1)
            parts.append(found)
            path.unlink()
            log.info("%d of %d cells", min(start + chunk, len(cells)), len(cells))
    return _joined(parts), genes


def _joined(parts: list[features.Cells]) -> features.Cells:
    joined = {}
    for field in fields(features.Cells):
        values = [getattr(part, field.name) for part in parts]
        stack = (lambda v: sparse.vstack(v, format="csr")) if sparse.issparse(values[0]) else np.concatenate
        joined[field.name] = stack(values)
    return features.Cells(**joined)
