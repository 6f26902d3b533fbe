"""A simulated knock-down screen: dissociated cells of the tissue's world, some regulators knocked down.

Gene means, loadings, effects and the law of activities are those of :func:`interptfm.simulate.simulate` with
the same seed and design; the cells are others, those of a line in culture, without places. As in screens,
the line is of one kind: a mixture of types would drown the shift of any knock-down in who was sampled. It has
the markers of one type and runs the programs of that type and of further ones. A regulator is a gene of its
program: knocking it down lowers its own expression and the program's activity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm import job, store
from interptfm.errors import InputError
from interptfm.simulate import expression, tissue
from interptfm.simulate.design import CELL_TYPES, Design, Program

if TYPE_CHECKING:
    from anndata import AnnData

CONTROL = "control"
COLUMN = "perturbation"
EFFICACY = (0.6, 0.95)
ESCAPED = 0.1
MIN_LOADING = 0.8
TISSUE_CELLS = 2000


@dataclass(frozen=True)
class ScreenSettings:
    """Regulators that are knocked down, cells of each, control cells; the line's type, and further types
    whose programs it runs."""

    targets: int = 12
    cells: int = 200
    controls: int = 800
    types: tuple[str, ...] = ("macrophage", "tumour")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ScreenSettings:
        """Check a plain mapping; raises InputError for an unknown key or type, or a number below 1."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(settings) - known):
            raise InputError(f"screen: found setting {unknown[0]!r}, expected one of {sorted(known)}")
        chosen = cls(**{**settings, "types": tuple(settings.get("types", cls.types))})
        for name in ("targets", "cells", "controls"):
            if not isinstance(getattr(chosen, name), int) or getattr(chosen, name) < 1:
                raise InputError(f"screen: found {name} {getattr(chosen, name)!r}, expected 1 or more")
        if unknown := sorted(set(chosen.types) - set(CELL_TYPES)) or not chosen.types:
            raise InputError(f"screen: found cell types {list(chosen.types)}, expected some of {CELL_TYPES}")
        return chosen


@dataclass(frozen=True)
class Screen:
    """What the sequencer would report, and what only evaluation may read.

    counts (cells × genes) int32; perturbation (cells,) regulator or :data:`CONTROL`. targets: target,
    program, term_id, loading. truth: cell, perturbation, efficacy (share of the regulator that is gone; 0 in
    controls and escaped cells), ``activity:<term_id>`` after the knock-down.
    """

    genes: tuple[str, ...]
    counts: np.ndarray
    perturbation: np.ndarray
    targets: pd.DataFrame
    truth: pd.DataFrame


def regulators(
    design: Design, loadings: np.ndarray, annotated: np.ndarray, means: np.ndarray, settings: ScreenSettings
) -> pd.DataFrame:
    """Return the regulator of each chosen program: target, program, term_id, loading, row.

    Programs without a place rule that the line runs, in the order of the design; of a
    program's annotated genes in no other program with a loading of at least :data:`MIN_LOADING` (or its
    largest), the one with the highest mean. Raises InputError where there are too few.
    """
    able = [
        row
        for row, program in enumerate(design.programs)
        if program.place == "anywhere" and set(program.types) & set(settings.types)
    ]
    alone = (loadings > 0).sum(axis=0) == 1
    rows = []
    for row in able:
        own = np.flatnonzero(annotated[row] & alone)
        if not len(own):
            continue
        strong = own[loadings[row, own] >= min(MIN_LOADING, loadings[row, own].max())]
        gene = strong[means[strong].argmax()]
        program = design.programs[row]
        rows.append((design.genes[gene], program.name, program.term_id, loadings[row, gene], row))
    if len(rows) < settings.targets:
        raise InputError(
            f"screen: found {len(rows)} programs that {list(settings.types)} run anywhere and that have a "
            f"gene of their own, expected at least the {settings.targets} asked for"
        )
    frame = pd.DataFrame(rows, columns=["target", "program", "term_id", "loading", "row"])
    return frame.head(settings.targets)


def simulate_screen(design: Design, seed: int, strength: float, settings: Mapping[str, Any]) -> Screen:
    """Simulate the screen of one world.

    seed, strength: those of the tissue. Raises InputError as :class:`ScreenSettings` and :func:`regulators`.
    """
    chosen = ScreenSettings.of(settings)
    genes, programs = design.genes, design.programs

    def generator(*names: object) -> np.random.Generator:
        return job.generator(seed, "simulate", *names)

    loadings, annotated = expression.draw_loadings(programs, genes, design.markers, generator("loadings"))
    means = expression.gene_means(len(genes), generator("means"))
    effects = np.array([program.effect for program in programs])
    own = generator("screen")
    targets = regulators(design, loadings, annotated, means, chosen)
    n_cells = chosen.controls + len(targets) * chosen.cells
    # Target of each cell (−1: control).
    target = np.concatenate([np.full(chosen.controls, -1), np.repeat(np.arange(len(targets)), chosen.cells)])
    cell_type = np.full(n_cells, CELL_TYPES.index(chosen.types[0]))
    activities = _activities_of_line(programs, chosen.types, n_cells, own)
    efficacy = own.uniform(*EFFICACY, n_cells) * (own.random(n_cells) >= ESCAPED) * (target >= 0)
    hit = np.flatnonzero(target >= 0)
    rows = targets["row"].to_numpy()
    activities[hit, rows[target[hit]]] *= 1 - efficacy[hit]

    log_fold = expression.marker_effects(cell_type, genes, design.markers)
    log_fold = log_fold + expression.program_effects(activities, loadings, effects, strength)
    log_fold += _baseline(design, loadings, effects, means, strength, own)
    column = np.array([genes.index(gene) for gene in targets["target"]])
    log_fold[hit, column[target[hit]]] += np.log1p(-efficacy[hit])
    expected = np.exp(log_fold - log_fold.max(axis=1, keepdims=True))
    depth = expression.cell_depths(n_cells, own)
    expected *= (depth / expected.sum(axis=1))[:, None]
    counts = expression.negative_binomial(expression.add_background(expected), own)

    names = np.append(targets["target"].to_numpy(), CONTROL)
    order = own.permutation(n_cells)
    perturbation = names[target][order].astype(str)
    truth = pd.DataFrame(
        {
            "cell": cell_names(n_cells),
            "perturbation": perturbation,
            "efficacy": efficacy[order],
            **{f"activity:{p.term_id}": activities[order, i] for i, p in enumerate(programs)},
        }
    )
    return Screen(genes, counts[order], perturbation, targets.drop(columns="row"), truth)


def cell_names(n: int) -> list[str]:
    """Return names of the screen's cells in the order of its file."""
    return [f"screen_{i:05d}" for i in range(n)]


def _activities_of_line(
    programs: Sequence[Program], types: Sequence[str], n: int, generator: np.random.Generator
) -> np.ndarray:
    """Activities (cells × programs) by the tissue's law, of the programs that the line runs."""
    columns = []
    for program in programs:
        able = [name for name in program.types if name in types and program.place == "anywhere"]
        kind = np.full(n, CELL_TYPES.index(able[0] if able else program.types[0]))
        smooth = generator.standard_normal(n)
        columns.append(bool(able) * expression.activity(program, kind, np.zeros(n), smooth, generator))
    return np.stack(columns, axis=1)


def _baseline(
    design: Design,
    loadings: np.ndarray,
    effects: np.ndarray,
    means: np.ndarray,
    strength: float,
    own: np.random.Generator,
) -> np.ndarray:
    """Log rate (genes,) of every gene before types and programs, such that a tissue has the gene means.

    The tissue's fit of rows and columns, repeated on cells of its composition, whose column factors these
    are: so a gene is as high in the line as in such a cell of the tissue.
    """
    _, log_fold = tissue_cells(design, loadings, effects, strength, TISSUE_CELLS, own)
    depth = expression.cell_depths(TISSUE_CELLS, own)
    expected = expression.balance(log_fold, means, depth)
    return np.log(expected[0]) - log_fold[0]


def tissue_cells(
    design: Design,
    loadings: np.ndarray,
    effects: np.ndarray,
    strength: float,
    n: int,
    own: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw cells of the tissue's composition that lie nowhere.

    Parameters
    ----------
    loadings, effects, strength
        (programs × genes), (programs,) and the factor on both.
    n, own
        How many cells, and where they are drawn from.

    Returns
    -------
    (n,) index into ``CELL_TYPES``, and the log fold (n × genes) of markers and programs. Nothing is smooth
    over cells, and the distance to the border, which rules of place look at, is that of a nest's scale.
    """
    nest = own.random(n) < tissue.NEST_SHARE
    shares = np.where(nest[:, None], tissue.SHARE_IN_NEST, tissue.SHARE_IN_STROMA)
    draw = own.random(n)[:, None]
    cell_type = np.minimum((shares.cumsum(axis=1) < draw).sum(axis=1), len(CELL_TYPES) - 1)
    border = np.abs(own.normal(0, tissue.NEST_SCALE_UM, n)) * np.where(nest, -1, 1)
    activities = np.stack(
        [
            expression.activity(program, cell_type, border, own.standard_normal(n), own)
            for program in design.programs
        ],
        axis=1,
    )
    log_fold = expression.marker_effects(cell_type, design.genes, design.markers)
    return cell_type, log_fold + expression.program_effects(activities, loadings, effects, strength)


def as_anndata(screen: Screen) -> AnnData:
    """Return the screen as files of perturbation data are: raw counts, a perturbation column, no truth."""
    import anndata
    from scipy import sparse

    obs = pd.DataFrame({COLUMN: pd.Categorical(screen.perturbation)})
    return anndata.AnnData(
        X=sparse.csr_matrix(screen.counts.astype(np.float32)),
        obs=obs.set_axis(cell_names(len(obs))),
        var=pd.DataFrame(index=pd.Index(screen.genes, name=None)),
    )


def write_screen(
    path: str | Path, cells: str | Path, targets: str | Path, screen: Screen, provenance: dict[str, Any]
) -> None:
    """Write the screen's `.h5ad`, and apart from it the truth's two tables."""
    store.write_h5ad(path, as_anndata(screen))
    store.write_table(cells, screen.truth, provenance)
    store.write_table(targets, screen.targets, provenance)
