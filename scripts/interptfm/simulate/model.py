"""The simulated tissue put together: layout, programs, counts and truth of every section."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interptfm import job
from interptfm.errors import InputError
from interptfm.simulate import communication, expression, tissue
from interptfm.simulate.design import CELL_TYPES, Design, Program, Settings

ACTIVITY_SCALE_UM = 25.0


@dataclass(frozen=True)
class Section:
    """One section as the instrument would report it.

    Attributes
    ----------
    genes, negative_probes
        Column names of the counts.
    counts
        (cells × genes) int32, raw.
    negative
        (cells × negative probes) int32.
    outside
        (FOVs × (genes + negative probes)) int32, counts in no cell.
    cells
        Metadata table of the CosMx release, one row a cell.
    positions
        ``fov``, ``x_global_px``, ``y_global_px`` of the lower left corner of each FOV.
    cell_types
        ``fov``, ``cell_ID``, ``cell_type``.
    """

    genes: tuple[str, ...]
    negative_probes: tuple[str, ...]
    counts: np.ndarray
    negative: np.ndarray
    outside: np.ndarray
    cells: pd.DataFrame
    positions: pd.DataFrame
    cell_types: pd.DataFrame


@dataclass(frozen=True)
class Simulation:
    """Sections by sample, and what only evaluation may read.

    Attributes
    ----------
    sections
        Sample → section.
    programs
        ``program``, ``role``, ``term_id``, ``types`` (separated by semicolons), ``place``,
        ``smooth``, ``effect``, ``strength``; one row a planted program, then one a decoy: a term
        of randomly drawn genes, for which the columns after ``term_id`` are empty.
    program_genes
        ``term_id``, ``gene``, ``loading`` (log fold a unit of activity, before ``effect``),
        ``annotated`` (False for a gene that follows the program though its term does not list it).
    truth
        ``sample``, ``fov``, ``cell_ID``, ``cell_type``, ``border_um`` (signed distance to the
        tumour border, negative inside), ``depth`` (factor, mean 1), and ``activity:<term_id>`` of
        every program.
    pairs
        Planted communication, see :func:`interptfm.simulate.communication.pair_table`; no rows where
        the settings plant none.
    """

    sections: dict[str, Section]
    programs: pd.DataFrame
    program_genes: pd.DataFrame
    truth: pd.DataFrame
    pairs: pd.DataFrame


def simulate(settings: Mapping[str, Any], samples: Sequence[str], seed: int, design: Design) -> Simulation:
    """Simulate a tissue with planted programs.

    Parameters
    ----------
    settings
        Keys of :class:`interptfm.simulate.design.Settings`; the rest takes the defaults.
    samples
        Section names; the cells are shared out evenly between them.
    seed
        Seed of the run. Layout, gene means, loadings, activities and depths do not depend on the
        strength: worlds of one seed differ in the effect of the programs alone. Nor do they depend on
        ``communication``, but for which receiver of a pair has which activity.
    design
        Panel, markers, programs and pairs, see :func:`interptfm.simulate.design.read_design`.

    Raises
    ------
    InputError
        For settings out of bounds, no sample, one sample twice, or less than a cell a FOV.
    """
    chosen = Settings.of(settings)
    if not samples or len(set(samples)) != len(samples):
        raise InputError(f"simulate: found samples {list(samples)}, expected distinct names")
    if chosen.cells < len(samples) * chosen.fovs_per_section:
        raise InputError(
            f"simulate: found {chosen.cells} cells for {len(samples)} sections of "
            f"{chosen.fovs_per_section} FOVs, expected at least one a FOV"
        )

    def generator(*names: object) -> np.random.Generator:
        return job.generator(seed, "simulate", *names)

    share = np.diff(np.linspace(0, chosen.cells, len(samples) + 1).astype(int))
    layouts = {
        sample: tissue.lay_out(int(n), chosen.fovs_per_section, generator("layout", sample))
        for sample, n in zip(samples, share, strict=True)
    }
    cell_type = np.concatenate([layout.cell_type for layout in layouts.values()])
    fov = np.concatenate(
        [layout.fov - 1 + i * chosen.fovs_per_section for i, layout in enumerate(layouts.values())]
    )
    genes = design.genes
    activities = _activities(design.programs, layouts, generator)
    pairs = communication.pair_table((), ())
    if chosen.communication:
        activities, pairs = communication.communicate(design, layouts, activities)
    loadings, annotated = expression.draw_loadings(
        design.programs, genes, design.markers, generator("loadings")
    )
    effects = np.array([program.effect for program in design.programs])
    fov_depth, fov_gene = expression.fov_effects(fov, len(genes), generator("fov"))
    log_fold = (
        expression.marker_effects(cell_type, genes, design.markers)
        + expression.program_effects(activities, loadings, effects, chosen.strength)
        + fov_gene
    )
    means = expression.gene_means(len(genes), generator("means"))
    depth = expression.cell_depths(len(fov), generator("depth")) * fov_depth
    expected = expression.add_background(expression.balance(log_fold, means, depth))
    counts = expression.negative_binomial(expected, generator("counts"))
    totals = expected.sum(axis=1)
    negative = expression.negative_probes(totals, len(genes), chosen.negative_probes, generator("negative"))

    probes = tuple(f"NegPrb{i}" for i in range(1, chosen.negative_probes + 1))
    sections = {}
    stop = 0
    for sample, layout in layouts.items():
        rows = slice(stop, stop := stop + len(layout.fov))
        sections[sample] = Section(
            genes,
            probes,
            counts[rows],
            negative[rows],
            _outside(layout, expected[rows], len(probes), generator("outside", sample)),
            *_tables(layout, generator("tables", sample)),
        )
    return Simulation(
        sections,
        _program_table(design, chosen.strength),
        _gene_table(design, loadings, annotated),
        _cell_table(design, layouts, totals, activities),
        pairs,
    )


def _activities(
    programs: Sequence[Program],
    layouts: Mapping[str, tissue.Layout],
    generator: Callable[..., np.random.Generator],
) -> np.ndarray:
    """Return the activity (cells × programs) over all sections, each program's draws its own."""
    cell_type = np.concatenate([layout.cell_type for layout in layouts.values()])
    border = np.concatenate([layout.border_um for layout in layouts.values()])
    columns = []
    for program in programs:
        smooth = [
            tissue.Field(layout.extent, ACTIVITY_SCALE_UM, generator("smooth", program.term_id, sample)).at(
                layout.xy
            )
            for sample, layout in layouts.items()
        ]
        own = generator("activity", program.term_id)
        columns.append(expression.activity(program, cell_type, border, np.concatenate(smooth), own))
    return np.stack(columns, axis=1)


def _outside(
    layout: tissue.Layout, expected: np.ndarray, n_negative: int, generator: np.random.Generator
) -> np.ndarray:
    """Return counts outside cells (FOVs × columns): a share of each FOV's, plus background."""
    rows = []
    for fov in range(1, layout.fov.max() + 1):
        mean = expression.OUTSIDE_SHARE * expected[layout.fov == fov].sum(axis=0)
        floor = np.full(n_negative, expression.BACKGROUND * mean.mean())
        rows.append(generator.poisson(np.concatenate([mean, floor])))
    return np.array(rows, dtype=np.int32)


def _tables(
    layout: tissue.Layout, generator: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return metadata, FOV positions and cell types of a section, columns as in the release."""
    origin = np.rint(generator.uniform(10_000, 60_000, 2)) * [1, -1]
    fovs = np.arange(1, layout.fov.max() + 1)
    positions = pd.DataFrame(
        {
            "fov": fovs,
            "x_global_px": origin[0] + (fovs - 1) * layout.fov_width_px,
            "y_global_px": np.full(len(fovs), origin[1]),
        }
    )
    pixels = np.rint(layout.xy / tissue.PIXEL_UM).astype(np.int64)
    shapes = tissue.cell_shapes(len(pixels), generator)
    cells = pd.DataFrame(
        {
            "fov": layout.fov,
            "cell_ID": layout.cell_id,
            "Area": shapes["Area"],
            "AspectRatio": shapes["AspectRatio"],
            "CenterX_local_px": pixels[:, 0] - (layout.fov - 1) * layout.fov_width_px,
            "CenterY_local_px": pixels[:, 1],
            "CenterX_global_px": origin[0] + pixels[:, 0],
            "CenterY_global_px": origin[1] + pixels[:, 1],
            "Width": shapes["Width"],
            "Height": shapes["Height"],
            **tissue.stain_intensities(layout.cell_type, generator),
        }
    )
    names = np.array(CELL_TYPES, dtype=object)[layout.cell_type]
    return cells, positions, cells[["fov", "cell_ID"]].assign(cell_type=names)


def _program_table(design: Design, strength: float) -> pd.DataFrame:
    planted = pd.DataFrame(
        {
            "program": [program.name for program in design.programs],
            "role": "planted",
            "term_id": [program.term_id for program in design.programs],
            "types": [";".join(program.types) for program in design.programs],
            "place": [program.place for program in design.programs],
            "smooth": [program.smooth for program in design.programs],
            "effect": [program.effect for program in design.programs],
            "strength": float(strength),
        }
    )
    decoys = pd.DataFrame({"program": list(design.decoys), "role": "decoy", "term_id": list(design.decoys)})
    return pd.concat([planted, decoys.assign(types="", place="")], ignore_index=True)


def _gene_table(design: Design, loadings: np.ndarray, annotated: np.ndarray) -> pd.DataFrame:
    row, column = np.nonzero(loadings)
    return pd.DataFrame(
        {
            "term_id": np.array([p.term_id for p in design.programs], dtype=object)[row],
            "gene": np.array(design.genes, dtype=object)[column],
            "loading": loadings[row, column],
            "annotated": annotated[row, column],
        }
    )


def _cell_table(
    design: Design,
    layouts: Mapping[str, tissue.Layout],
    totals: np.ndarray,
    activities: np.ndarray,
) -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {
                "sample": sample,
                "fov": layout.fov,
                "cell_ID": layout.cell_id,
                "cell_type": np.array(CELL_TYPES, dtype=object)[layout.cell_type],
                "border_um": layout.border_um,
            }
        )
        for sample, layout in layouts.items()
    ]
    cells = pd.concat(frames, ignore_index=True).assign(depth=totals / totals.mean())
    names = [f"activity:{program.term_id}" for program in design.programs]
    return pd.concat([cells, pd.DataFrame(activities, columns=names)], axis=1)
