"""Files of the simulated tissue: CosMx flat files as in the NSCLC release, and the truth tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interptfm import store
from interptfm.simulate.model import Section, Simulation

NUMBER_FORMAT = "%.10g"


def write_section(folder: str | Path, sample: str, section: Section) -> list[Path]:
    """Write one section and return the paths.

    ``<sample>_exprMat_file.csv`` (``fov``, ``cell_ID``, genes, negative probes; one row a FOV with
    ``cell_ID`` 0 holds the counts outside cells), ``<sample>_metadata_file.csv``,
    ``<sample>_fov_positions_file.csv`` and ``cell_types.csv``, each written whole or not at all.
    """
    folder = Path(folder)
    tables = {
        f"{sample}_exprMat_file.csv": expression_table(section),
        f"{sample}_metadata_file.csv": section.cells,
        f"{sample}_fov_positions_file.csv": section.positions,
        "cell_types.csv": section.cell_types,
    }
    for name, table in tables.items():
        with store.atomic(folder / name) as temporary:
            table.to_csv(temporary, index=False, float_format=NUMBER_FORMAT, lineterminator="\n")
    return [folder / name for name in tables]


def expression_table(section: Section) -> pd.DataFrame:
    """Return the expression matrix as a table sorted by FOV and cell, ``cell_ID`` 0 first."""
    fovs = section.positions.fov.to_numpy()
    fov = np.concatenate([fovs, section.cells.fov])
    cell = np.concatenate([np.zeros_like(fovs), section.cells.cell_ID])
    values = np.concatenate([section.outside, np.concatenate([section.counts, section.negative], axis=1)])
    order = np.lexsort((cell, fov))
    table = pd.DataFrame(values[order], columns=[*section.genes, *section.negative_probes])
    table.insert(0, "fov", fov[order])
    table.insert(1, "cell_ID", cell[order])
    return table


def write_truth(
    folder: str | Path, simulation: Simulation, provenance: dict[str, Any] | None = None
) -> list[Path]:
    """Write ``programs.parquet``, ``program_genes.parquet``, ``cells.parquet`` and ``pairs.parquet``.

    Columns as in :class:`interptfm.simulate.model.Simulation`. Only evaluation may read them.
    """
    tables = {
        "programs.parquet": simulation.programs,
        "program_genes.parquet": simulation.program_genes,
        "cells.parquet": simulation.truth,
        "pairs.parquet": simulation.pairs,
    }
    for name, table in tables.items():
        store.write_table(Path(folder) / name, table, provenance)
    return [Path(folder) / name for name in tables]
