"""Perturbation data: cells with a perturbation column and a control label, and what each cell is used for.

Reads scPerturb files (a target or `control` a cell) and GEARS exports (`GENE+ctrl`, `ctrl`). Cells of a
perturbation and controls are split into those that fits may use and those that judge; a cell on which the
model was trained never judges.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from interptfm import store
from interptfm.cosmx.h5ad import RESERVED, read_h5ad_cells
from interptfm.errors import InputError
from interptfm.steering.screen import Screen

log = logging.getLogger("interptfm.steering")

MIN_CELLS = 10


def target_of(label: str, control: str) -> str | None:
    """Target of a label, the control's label for `control`, None for several targets at once.

    `GENE+ctrl` and `ctrl+GENE` are `GENE`, as in GEARS exports.
    """
    parts = [part.strip() for part in label.split("+")]
    named = [part for part in parts if part not in (control, "ctrl", "")]
    if label == control or not named:
        return control
    return named[0] if len(named) == 1 else None


def read_screen(
    paths: Sequence[str | Path],
    column: str,
    control: str,
    generator: np.random.Generator,
    *,
    own: bool = False,
    min_genes: int = 1,
    min_cells: int = MIN_CELLS,
) -> Screen:
    """Read perturbation data.

    paths: one `.h5ad` with raw counts, or, with `own`, the run's own `cells/<sample>.h5ad`, of which cells of
    test blocks judge, those of training and validation blocks serve fits, and guard cells are left out. Of
    other data half of the cells of each perturbation judge. Perturbations with fewer than `min_cells` cells,
    and cells with several targets or no label, are left out with a logged word.

    Raises InputError for a missing column, a control label that no cell has, or no perturbation left.
    """
    counts, names, labels, judge, genes = [], [], [], [], None
    for path in paths:
        if own:
            adata = store.read_h5ad(path)
        else:
            adata, _ = read_h5ad_cells(path, None, min_genes=min_genes, spatial=False)
            adata.obs_names = [f"{Path(path).stem}:{i}" for i in range(adata.n_obs)]
        # The reader of cells keeps columns with its own names under another one.
        name = column if own or column not in RESERVED else f"source_{column}"
        if name not in adata.obs:
            raise InputError(
                f"{path}: found no obs column {column!r}, expected steering.column among {list(adata.obs)}"
            )
        mine = [str(gene) for gene in adata.var_names]
        if genes not in (None, mine):
            raise InputError(f"{path}: found other genes than in {paths[0]}, expected the same in all files")
        genes = mine
        counts.append(sparse.csr_matrix(adata.X))
        names += [str(name) for name in adata.obs_names]
        found = adata.obs[name]
        labels += ["" if missing else str(x) for x, missing in zip(found, found.isna(), strict=True)]
        judge.append(adata.obs["split"].to_numpy().astype(str) if own else np.full(adata.n_obs, ""))
    if control not in labels:
        some = ", ".join(sorted(set(labels))[:6])
        raise InputError(
            f"{paths[0]}: found no cell with {column} {control!r}, expected controls; there are {some}"
        )
    target = np.array([target_of(label, control) if label else None for label in labels], dtype=object)
    split = np.concatenate(judge)
    kept = np.array([each is not None for each in target]) & (split != "guard")
    sizes = {name: int(((target == name) & kept).sum()) for name in set(target[kept])}
    small = sorted(name for name, n in sizes.items() if n < min_cells and name != control)
    kept &= ~np.isin(target, small)
    if small or not kept.all():
        log.warning(
            "%d of %d cells left out: several targets, no label, guard, or perturbations of fewer than %d "
            "cells (%s)", int((~kept).sum()), len(kept), min_cells, ", ".join(small) or "none",
        )  # fmt: skip
    rows = np.flatnonzero(kept)
    if len(set(target[rows])) < 3:
        raise InputError(
            f"{paths[0]}: found {len(set(target[rows])) - 1} perturbations of at least {min_cells} cells, "
            "expected two or more"
        )
    judges = split[rows] == "test" if own else _half(target[rows], generator)
    matrix = sparse.vstack(counts, format="csr")[rows]
    return Screen(
        matrix, list(genes or []), [names[row] for row in rows], target[rows].astype(str), control, judges
    )


def _half(target: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Half (cells,) bool of the cells of every target, drawn at random."""
    result = np.zeros(len(target), bool)
    for name in sorted(set(target)):
        rows = generator.permutation(np.flatnonzero(target == name))
        result[rows[: -(-len(rows) // 2)]] = True
    return result
