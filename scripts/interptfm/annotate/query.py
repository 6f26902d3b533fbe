"""The user's cells: raw counts of the genes that the run knows, from any AnnData file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from interptfm import store
from interptfm.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

MOST_GROUPS = 100


@dataclass(frozen=True)
class Query:
    """Cells to annotate.

    ``counts`` raw CSR float32 (cells × genes) of the genes that the file shares with the run's panel, in the
    panel's order; ``genes`` their symbols; ``adata`` the file as it was read; ``n_genes`` genes in the file;
    ``missing`` genes of the panel that it lacks; ``source`` where the counts were found.
    """

    counts: sparse.csr_matrix
    genes: list[str]
    adata: AnnData
    n_genes: int
    missing: list[str]
    source: str

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.adata.obs_names]


def read(path: str | Path, settings: Mapping[str, Any], panel: Sequence[str]) -> Query:
    """Read the cells of a file.

    Parameters
    ----------
    path
        AnnData (``.h5ad``).
    settings
        ``counts`` (a layer, ``X`` or ``raw``; None: layer ``counts`` if there is one, else X, else raw),
        ``symbols`` (column of var with gene symbols; None: var_names), ``group`` (column of obs or None).
    panel
        Genes of the run, in its order.

    Raises
    ------
    InputError
        For a file that is missing, damaged or without cells, a layer or column that it lacks, a cell or a
        gene that stands twice, counts that are negative, fractional, missing or all 0, and genes of which the
        panel has none.
    """
    adata = store.read_h5ad(path)
    if not adata.n_obs:
        raise InputError(f"{path}: found no cell, expected one or more")
    names = adata.obs_names.astype(str)
    if names.has_duplicates:
        twice = names[names.duplicated()]
        raise InputError(
            f"{path}: found the cell {twice[0]!r} more than once in obs_names ({len(twice)} repeats), "
            f"expected "
            "every cell once; make names unique or drop the repeats"
        )
    _check_group(path, adata, settings["group"])
    source, matrix, var = _matrix(path, adata, settings["counts"])
    symbols = _symbols(path, var, settings["symbols"])
    counts = _whole(path, source, matrix, names, symbols)
    place = {gene: i for i, gene in enumerate(symbols)}
    shared = [gene for gene in panel if gene in place]
    if not shared:
        raise InputError(
            f"{path}: found none of its {len(symbols)} genes among the {len(panel)} of the run, expected "
            f"some; the "
            f"file names genes like {', '.join(symbols[:3])}, the run like {', '.join(panel[:3])} (the "
            f"column of "
            "var with symbols is the key 'annotate.symbols')"
        )
    chosen = counts[:, [place[gene] for gene in shared]]
    chosen.sort_indices()
    return Query(chosen, shared, adata, len(symbols), [g for g in panel if g not in place], source)


def _check_group(path: str | Path, adata: AnnData, column: str | None) -> None:
    if column is None:
        return
    if column not in adata.obs:
        known = ", ".join(map(str, adata.obs.columns)) or "none"
        raise InputError(f"{path}: found no obs column {column!r} (annotate.group), expected one of: {known}")
    n = adata.obs[column].nunique()
    if n > MOST_GROUPS:
        raise InputError(
            f"{path}: found {n} values in obs column {column!r} (annotate.group), expected groups of "
            f"cells, at "
            f"most {MOST_GROUPS}"
        )


def _matrix(path: str | Path, adata: AnnData, wanted: str | None) -> tuple[str, Any, Any]:
    """Return the name of the matrix that holds the counts, the matrix, and its var."""
    if wanted is None:
        wanted = "counts" if "counts" in adata.layers else "X" if adata.X is not None else "raw"
    if wanted in adata.layers:
        return f"layers[{wanted!r}]", adata.layers[wanted], adata.var
    if wanted == "X" and adata.X is not None:
        return "X", adata.X, adata.var
    if wanted == "raw" and adata.raw is not None:
        return "raw", adata.raw.X, adata.raw.var
    known = [
        *adata.layers,
        *(["X"] if adata.X is not None else []),
        *(["raw"] if adata.raw is not None else []),
    ]
    raise InputError(
        f"{path}: found no counts in {wanted!r} (annotate.counts), expected one of: "
        f"{', '.join(known) or 'none'}"
    )


def _symbols(path: str | Path, var: Any, column: str | None) -> list[str]:
    if column is not None and column not in var:
        known = ", ".join(map(str, var.columns)) or "none"
        raise InputError(
            f"{path}: found no var column {column!r} (annotate.symbols), expected one of: {known}"
        )
    symbols = [str(name) for name in (var.index if column is None else var[column])]
    seen: set[str] = set()
    twice = next((name for name in symbols if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]
    if twice is not None:
        raise InputError(f"{path}: found the gene {twice!r} more than once, expected every gene once")
    return symbols


def _whole(path, source: str, matrix: Any, names: Any, symbols: list[str]) -> sparse.csr_matrix:
    """Return the counts as canonical CSR float32, after checking that they are counts."""
    counts = sparse.csr_matrix(matrix, dtype=np.float32)
    counts.sum_duplicates()
    bad = ~(np.isfinite(counts.data) & (counts.data >= 0) & (counts.data == np.rint(counts.data)))
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        row = int(np.searchsorted(counts.indptr, at, side="right")) - 1
        value = float(counts.data[at])
        found = "a missing value" if np.isnan(value) else f"{value:g}"
        raise InputError(
            f"{path}: found {found} in {source} for cell {names[row]}, gene {symbols[counts.indices[at]]}, "
            "expected raw counts, whole numbers of 0 or more (annotate.counts names the layer that has them)"
        )
    counts.eliminate_zeros()
    if not counts.nnz:
        raise InputError(
            f"{path}: found nothing but zeros in {source}, expected raw counts (annotate.counts names the "
            f"layer)"
        )
    return counts
