"""The tokens of all activation files, as blocks of whole cells with their gene, split and sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interptfm import store
from interptfm.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

SPLITS = ("train", "validation", "test")
GUARD = "guard"
BLOCK_TOKENS = 8192


@dataclass
class Sample:
    """What the counting needs of ``cells/<sample>.h5ad``.

    ``gene`` (var,) int32: index into the panel; ``split`` (cells,) int8: index into ``SPLITS``,
    −1 for guard cells; ``cell_names`` (cells,) str.
    """

    gene: np.ndarray
    split: np.ndarray
    cell_names: np.ndarray


@dataclass
class Block:
    """Tokens of whole cells of one sample.

    ``gene`` (n,) panel index; ``split`` (n,) int8; ``cell`` (n,) index into obs, sorted; ``value``
    (n,) float32; ``x`` (n × d) float32 activations.
    """

    sample: str
    gene: np.ndarray
    split: np.ndarray
    cell: np.ndarray
    value: np.ndarray
    x: np.ndarray


def samples_of(adatas: Iterable[AnnData]) -> tuple[list[str], dict[str, Sample]]:
    """Return the gene panel (union over samples) and the :class:`Sample` of each.

    Raises
    ------
    InputError
        On a file without cells, a sample given twice, a gene twice in one sample, or an unknown
        split.
    """
    adatas = list(adatas)
    panel = store.panel([adata.var_names for adata in adatas])
    position = {gene: i for i, gene in enumerate(panel)}
    codes = {name: i for i, name in enumerate(SPLITS)} | {GUARD: -1}
    samples: dict[str, Sample] = {}
    for adata in adatas:
        if not adata.n_obs:
            raise InputError("cells: found a file without cells, expected at least one cell")
        name = str(adata.obs["sample"].iloc[0])
        if name in samples:
            raise InputError(f"cells: found sample {name!r} twice, expected one file a sample")
        twice = adata.var_names[adata.var_names.duplicated()]
        if len(twice):
            raise InputError(f"{name}: found gene {twice[0]!r} twice in var, expected it once")
        splits = adata.obs["split"].astype(str)
        unknown = sorted(set(splits) - set(codes))
        if unknown:
            raise InputError(f"{name}: found split {unknown[0]!r} in obs, expected {[*codes]}")
        samples[name] = Sample(
            np.array([position[str(gene)] for gene in adata.var_names], np.int32),
            splits.map(codes).to_numpy(np.int8),
            adata.obs_names.to_numpy(str),
        )
    return panel, samples


def cell_blocks(cell: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of runs of whole cells of at most ``size`` tokens (or of one cell)."""
    ends = np.append(np.flatnonzero(np.diff(cell)) + 1, len(cell))
    start = 0
    while start < len(cell):
        fitting = np.searchsorted(ends, start + size, side="right") - 1
        one = np.searchsorted(ends, start, side="right")
        stop = int(ends[max(fitting, one)])
        yield start, stop
        start = stop


def blocks(
    paths: Sequence[str | Path],
    samples: dict[str, Sample],
    layer: int,
    size: int = BLOCK_TOKENS,
    splits: Sequence[int] | None = None,
) -> Iterator[Block]:
    """Yield the tokens of all activation files, in the order of samples and of their first cells.

    With ``splits`` only tokens of these splits (indices into ``SPLITS``); blocks without any are
    not read.

    Raises
    ------
    InputError
        If a file belongs to no sample, its indices do not fit the sample, or a cell comes twice.
    """
    for path, name in _ordered(paths, samples):
        sample = samples[name]
        with store.open_activations(path) as activations:
            for start, stop in cell_blocks(activations.cell, size):
                cell = activations.cell[start:stop]
                split = sample.split[cell]
                keep = slice(None) if splits is None else np.isin(split, splits)
                if splits is not None and not keep.any():
                    continue
                yield Block(
                    name,
                    sample.gene[activations.gene[start:stop]][keep],
                    split[keep],
                    cell[keep],
                    activations.value[start:stop][keep],
                    activations.rows(layer, start, stop)[keep],
                )


def _ordered(paths: Sequence[str | Path], samples: dict[str, Sample]) -> list[tuple[str | Path, str]]:
    """Return (path, sample) in a fixed order, after checking that the files fit the samples."""
    order = {name: i for i, name in enumerate(samples)}
    seen = {name: np.zeros(len(sample.split), bool) for name, sample in samples.items()}
    keys = []
    for path in paths:
        with store.open_activations(path) as activations:
            name = str(activations.attributes.get("sample"))
            genes, cells = activations.gene, np.unique(activations.cell)
        if name not in order:
            raise InputError(f"{path}: found sample {name!r}, expected one of {list(order)}")
        n_cells, n_genes = len(samples[name].split), len(samples[name].gene)
        if len(cells) and (cells[-1] >= n_cells or genes.max() >= n_genes):
            raise InputError(
                f"{path}: found cell {cells[-1]} and gene {genes.max()}, expected indices into the "
                f"{n_cells} cells and {n_genes} genes of sample {name!r}"
            )
        if seen[name][cells].any():
            twice = cells[seen[name][cells]][0]
            raise InputError(f"{path}: found cell {twice} of {name!r} a second time, expected once")
        seen[name][cells] = True
        keys.append((order[name], int(cells[0]) if len(cells) else 0, path, name))
    return [(path, name) for *_, path, name in sorted(keys, key=lambda key: key[:2])]
