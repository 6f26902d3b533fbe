"""Hidden states of any model, read from files into the activation store, and written to such files.

One file a sample, `<sample>.h5ad` (AnnData), a row a token: obs `cell` (name as in `cells/<sample>.h5ad`),
`gene` (symbol) and, if there, `value`; obsm `layer_<l>` (tokens × d). The rows of a cell stand together.
Beside it, if there, `<sample>.cells.h5ad`: obs_names are cells, obsm `layer_<l>` (cells × d). `uns["model"]`
names the model. Columns are read whole, a few bytes a token; states pass through in blocks of whole cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interptfm import job, store
from interptfm.errors import InputError

if TYPE_CHECKING:
    import h5py
    from scipy import sparse

BACKEND = "files"
BLOCK_TOKENS = 16384
# Rows that are read and thrown away rather than reading two pieces.
GAP_ROWS = 64
GIVEN, MEAN = "given", "mean of the cell's tokens"


@dataclass(frozen=True)
class Tokens:
    """The tokens of a file that count: ``row`` (n,) int64 in the file, ``cell``, ``gene`` (n,) int32 indices.

    Sorted by cell, then gene. ``value`` (n,) float32 or None; ``foreign`` (cells,) int64 counts the tokens of
    each cell whose gene is not in the panel.
    """

    row: np.ndarray
    cell: np.ndarray
    gene: np.ndarray
    value: np.ndarray | None
    foreign: np.ndarray


def read_tokens(file: h5py.File, cell_names: Sequence[str], symbols: Sequence[str]) -> Tokens:
    """Read and check the columns of an open file of tokens.

    Raises
    ------
    InputError
        For a missing column or value, a cell that is not among ``cell_names``, a cell whose rows do not
        stand together, more than half of the tokens with a gene that is not among ``symbols``, a cell and
        gene twice, a value that is not a finite number.
    """
    path = file.filename
    cell, unknown = _indices(file, "cell", cell_names)
    if unknown:
        raise InputError(
            f"{path}: found {len(unknown)} cells such as {unknown[0]!r}, expected names of the cells file of "
            f"the sample, such as {cell_names[0]!r}"
        )
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    seen, first = np.unique(cell[starts], return_index=True)
    if len(seen) < len(starts):
        again = np.setdiff1d(np.arange(len(starts)), first)[0]
        raise InputError(
            f"{path}: found cell {str(cell_names[cell[starts[again]]])!r} again in row {starts[again]}, "
            "expected the rows of a cell together; sort the rows by cell"
        )
    gene, unknown = _indices(file, "gene", symbols)
    known = gene >= 0
    if 2 * int(known.sum()) < len(gene) or not len(gene):
        others = ", ".join(map(repr, unknown[:3])) or "nothing"
        raise InputError(
            f"{path}: found {int(known.sum())} of {len(gene)} tokens with a gene of the panel, expected at "
            f"least half: symbols such as {str(symbols[0])!r}, not {others}"
        )
    foreign = np.bincount(cell[~known], minlength=len(cell_names))
    row = np.flatnonzero(known)
    row = row[np.lexsort((gene[row], cell[row]))]
    cell, gene = cell[row], gene[row]
    twice = np.flatnonzero((cell[1:] == cell[:-1]) & (gene[1:] == gene[:-1]))
    if len(twice):
        name, symbol = str(cell_names[cell[twice[0]]]), str(symbols[gene[twice[0]]])
        raise InputError(f"{path}: found gene {symbol!r} twice in cell {name!r}, expected it once")
    value = None
    if "value" in file["obs"]:
        value = np.asarray(_column(file, "value"))
        if value.dtype.kind not in "iuf" or not np.isfinite(value).all():
            raise InputError(
                f"{path}: found a value that is no finite number in obs 'value', expected numbers"
            )
        value = value[row].astype(np.float32)
    return Tokens(row, cell, gene, value, foreign)


def _indices(file: h5py.File, column: str, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the index in ``names`` of each row's value (−1: not among them), and the values unknown."""
    import pandas as pd

    if column not in file["obs"]:
        raise InputError(
            f"{file.filename}: found obs columns {', '.join(_columns(file)) or 'none'}, expected {column!r} "
            "among them"
        )
    values = pd.Categorical(_column(file, column))
    if (values.codes < 0).any():
        raise InputError(
            f"{file.filename}: found no {column} in row {int(np.argmin(values.codes))}, expected a name"
        )
    known = pd.Index([str(name) for name in names]).get_indexer([str(name) for name in values.categories])
    used = np.unique(values.codes)
    unknown = [str(values.categories[code]) for code in used if known[code] < 0]
    return (known[values.codes] if len(known) else np.empty(0)).astype(np.int32), unknown


def _column(file: h5py.File, column: str) -> Any:
    from anndata.io import read_elem

    return read_elem(file["obs"][column])


def _columns(file: h5py.File) -> list[str]:
    return [name for name in file["obs"] if name not in (file["obs"].attrs.get("_index"), "_index")]


def matrices(file: h5py.File, layers: Sequence[int]) -> dict[int, h5py.Dataset]:
    """Return obsm ``layer_<l>`` of each layer, unread.

    Raises
    ------
    InputError
        For a layer that is not there, is not a dense matrix of real numbers, or is not as wide as the others.
    """
    import h5py

    path, there = file.filename, file.get("obsm", {})
    found: dict[int, h5py.Dataset] = {}
    for layer in layers:
        name = f"layer_{layer}"
        if name not in there:
            names = ", ".join(sorted(there)) or "nothing"
            raise InputError(f"{path}: found {names} in obsm, expected {name!r} (activations.layers)")
        matrix = there[name]
        if not isinstance(matrix, h5py.Dataset) or matrix.ndim != 2 or matrix.dtype.kind != "f":
            raise InputError(f"{path}: found no dense matrix of real numbers in obsm {name!r}, expected one")
        found[layer] = matrix
    widths = {layer: matrix.shape[1] for layer, matrix in found.items()}
    if len(set(widths.values())) > 1:
        raise InputError(f"{path}: found widths {widths} by layer in obsm, expected one for all")
    return found


def rows_of(matrix: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Return rows (n,) of an unread matrix, float32 (n × d), reading pieces that lie together."""
    out = np.empty((len(rows), matrix.shape[1]), np.float32)
    order = np.argsort(rows, kind="stable")
    for piece in np.split(order, np.flatnonzero(np.diff(rows[order]) > GAP_ROWS) + 1):
        if len(piece):
            low = rows[piece[0]]
            with np.errstate(over="ignore"):
                out[piece] = matrix[low : rows[piece[-1]] + 1][rows[piece] - low]
    return out


def blocks(cell: np.ndarray, size: int = BLOCK_TOKENS) -> Iterator[tuple[int, int]]:
    """Runs (start, stop) of whole cells of at most ``size`` tokens, or of one longer cell.

    cell: (n,) int, sorted.
    """
    ends = np.append(np.flatnonzero(np.diff(cell)) + 1, len(cell))
    start = 0
    while start < len(cell):
        next_cell, last = np.searchsorted(ends, [start, start + size], side="right")
        stop = int(ends[max(next_cell, last - 1)])
        yield start, stop
        start = stop


def model_name(file: h5py.File) -> str:
    """Return what `uns["model"]` says, or nothing."""
    from anndata.io import read_elem

    found = read_elem(file["uns"]["model"]) if "uns" in file and "model" in file["uns"] else ""
    return str(found)


def convert(
    path: str | Path,
    tokens: str | Path,
    cells: str | Path | None,
    counts: sparse.csr_matrix,
    symbols: Sequence[str],
    cell_names: Sequence[str],
    in_shard: np.ndarray,
    layers: Sequence[int],
    *,
    dtype: str = "float16",
    mantissa_bits: int | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write the activation file of a shard from a sample's files of embeddings (atomically).

    Parameters
    ----------
    path
        `.zarr.zip` to write, as :func:`interptfm.activations.write_shard` does.
    tokens, cells
        Files of the sample (see above); without ``cells`` a cell's state is the mean of its tokens that are
        stored, in float64.
    counts, symbols, cell_names
        The sample's raw counts, CSR (cells × genes), its genes and cells. Counts are a token's `value` where
        the file has none.
    in_shard
        (cells,) bool. Cells without a token are left out; the attribute `cells_without_tokens` counts them,
        `tokens_of_other_genes` the tokens dropped because their gene is not in the panel.
    layers, dtype, mantissa_bits
        As of :class:`interptfm.store.ActivationWriter`.

    Raises
    ------
    InputError
        As :func:`read_tokens` and :func:`matrices`; for states that are not finite, no token in the shard, a
        file of cells that lacks one with tokens, has one twice or unknown ones, another width or model.
    """
    layers = sorted(set(layers))
    with store.damaged(tokens), _opened(tokens) as file:
        states = matrices(file, layers)
        found = read_tokens(file, cell_names, symbols)
        name = model_name(file)
        chosen = np.flatnonzero(np.asarray(in_shard, bool)[found.cell])
        row, cell, gene = found.row[chosen], found.cell[chosen], found.gene[chosen]
        present, n_shard = np.unique(cell), int(np.sum(in_shard))
        if not len(present):
            raise InputError(f"{tokens}: found no token of the shard's {n_shard} cells, expected one or more")
        value = _counts(counts, cell, gene) if found.value is None else found.value[chosen]
        d = next(iter(states.values())).shape[1]
        given = None if cells is None else _read_cells(cells, layers, cell_names, present, d, name)
        document = {
            **(attributes or {}),
            "model": f"{BACKEND}:{hashlib.sha256(name.encode()).hexdigest()}",
            "model_name": name,
            "backend": BACKEND,
            "genes": "all",
            "mode": BACKEND,
            "max_length": None,
            "cells_without_tokens": n_shard - len(present),
            "truncated_cells": 0,
            "tokens_of_other_genes": int(found.foreign[np.asarray(in_shard, bool)].sum()),
            "cls": MEAN if given is None else GIVEN,
        }
        with store.ActivationWriter(
            path, layers, len(row), len(present), d, dtype, document, mantissa_bits
        ) as writer:
            done = 0
            for start, stop in job.progress(list(blocks(cell)), "embeddings"):
                here = {layer: rows_of(matrix, row[start:stop]) for layer, matrix in states.items()}
                for layer, values in here.items():
                    _check_finite(values, tokens, layer, cell[start:stop], cell_names)
                writer.write(gene[start:stop], cell[start:stop], value[start:stop], here)
                first = np.flatnonzero(np.diff(cell[start:stop], prepend=-1))
                if given is None:
                    sizes = np.diff(first, append=stop - start)[:, None]
                    means = [
                        np.add.reduceat(here[layer], first, axis=0, dtype=np.float64) / sizes
                        for layer in layers
                    ]
                    writer.write_cls(done, np.stack(means).astype(np.float32))
                done += len(first)
            if given is not None:
                writer.write_cls(0, given)


def _opened(path: str | Path) -> h5py.File:
    import h5py

    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected AnnData (.h5ad)") from None
    if "obs" not in file:
        file.close()
        raise InputError(f"{path}: found no obs, expected AnnData (.h5ad)")
    return file


def _counts(counts: sparse.csr_matrix, cell: np.ndarray, gene: np.ndarray) -> np.ndarray:
    """Return the count of each token's gene in its cell, float32."""
    return np.asarray(counts.tocsr()[cell, gene], np.float32).reshape(-1)


def _check_finite(
    values: np.ndarray, path: str | Path, layer: int, cell: np.ndarray, cell_names: Sequence[str]
) -> None:
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise InputError(
            f"{path}: found NaN or infinity in obsm 'layer_{layer}' of cell "
            f"{str(cell_names[cell[bad][0]])!r}, expected finite numbers"
        )


def _read_cells(
    path: str | Path, layers: Sequence[int], cell_names: Sequence[str], present: np.ndarray, d: int, name: str
) -> np.ndarray:
    """Return the states of the cells ``present``, float32 (layers × cells × d)."""
    import pandas as pd
    from anndata.io import read_elem

    with store.damaged(path), _opened(path) as file:
        names = pd.Index(np.asarray(read_elem(file["obs"]).index).astype(str))
        if names.has_duplicates:
            raise InputError(f"{path}: found cell {names[names.duplicated()][0]!r} twice, expected it once")
        known = pd.Index([str(each) for each in cell_names])
        unknown = names[known.get_indexer(names) < 0]
        if len(unknown):
            raise InputError(
                f"{path}: found {len(unknown)} cells such as {unknown[0]!r}, expected names of the cells "
                f"file of the sample, such as {known[0]!r}"
            )
        rows = names.get_indexer(known[present])
        if (rows < 0).any():
            raise InputError(
                f"{path}: found no cell {known[present][rows < 0][0]!r}, expected every cell that has tokens"
            )
        found = matrices(file, layers)
        if next(iter(found.values())).shape[1] != d:
            raise InputError(
                f"{path}: found width {next(iter(found.values())).shape[1]}, expected {d} as of the tokens"
            )
        if model_name(file) != name:
            raise InputError(
                f"{path}: found model {model_name(file)!r} in uns, expected {name!r} as of the tokens"
            )
        states = np.stack([rows_of(found[layer], rows) for layer in layers])
        for layer, values in zip(layers, states, strict=True):
            _check_finite(values, path, layer, present, cell_names)
        return states


def write_tokens(
    path: str | Path,
    cell: np.ndarray,
    gene: np.ndarray,
    cell_names: Sequence[str],
    symbols: Sequence[str],
    layers: Sequence[int],
    d: int,
    parts: Iterable[Mapping[int, np.ndarray]],
    *,
    value: np.ndarray | None = None,
    model: str = "",
    dtype: str = "float16",
    uns: Mapping[str, Any] | None = None,
) -> None:
    """Write a file of tokens (atomically), states part by part, so that one part is all that is in memory.

    Parameters
    ----------
    cell, gene
        (n,) int: indices in ``cell_names`` and ``symbols``; the rows of a cell stand together.
    parts
        By layer, states (rows × d) of the next rows, n in all.
    value
        (n,) float, or None for a file without values.
    """
    import anndata
    import h5py
    import pandas as pd

    names = [pd.Categorical.from_codes(code, [str(each) for each in known])
             for code, known in ((cell, cell_names), (gene, symbols))]  # fmt: skip
    obs = pd.DataFrame({"cell": names[0], "gene": names[1]}, index=np.arange(len(cell)).astype(str))
    if value is not None:
        obs["value"] = np.asarray(value, np.float32)
    with store.atomic(path) as temporary:
        anndata.AnnData(obs=obs, uns={**(uns or {}), "model": model}).write_h5ad(temporary, compression="lzf")
        with h5py.File(temporary, "a") as file:
            arrays = {}
            for layer in layers:
                array = file["obsm"].create_dataset(f"layer_{layer}", (len(cell), d), dtype=dtype)
                array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
                arrays[layer] = array
            start = 0
            for part in parts:
                stop = start + len(part[layers[0]])
                for layer, array in arrays.items():
                    array[start:stop] = part[layer]
                start = stop
            if start != len(cell):
                raise ValueError(f"{path}: found states of {start} tokens, expected {len(cell)}")


def write_cells(
    path: str | Path, cell_names: Sequence[str], states: Mapping[int, np.ndarray], *, model: str = ""
) -> None:
    """Write a file of cells (atomically): by layer, states (cells × d) in the order of ``cell_names``."""
    import anndata
    import pandas as pd

    adata = anndata.AnnData(obs=pd.DataFrame(index=[str(each) for each in cell_names]), uns={"model": model})
    for layer, values in states.items():
        adata.obsm[f"layer_{layer}"] = np.asarray(values)
    store.write_h5ad(path, adata)
