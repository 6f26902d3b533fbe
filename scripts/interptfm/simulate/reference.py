"""A simulated single-cell reference: cells of the tissue's types, dissociated and counted elsewhere.

Gene means, loadings, effects and the law of activities are those of :func:`interptfm.simulate.simulate` with
the same seed and design, and so is the composition, but for chance. The cells are others and have no places;
they are counted deeper and without the tissue's background, and each gene is caught in another measure than
on the tissue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interptfm import job
from interptfm.simulate import expression, perturb
from interptfm.simulate.design import CELL_TYPES, Design

if TYPE_CHECKING:
    from anndata import AnnData

COLUMN = "cell_type"
CELLS = 1200
DEPTH = 5.0
PLATFORM_LOG_SD = 0.4


def simulate_reference(design: Design, seed: int, strength: float) -> AnnData:
    """Simulate the reference of one world.

    Parameters
    ----------
    design, seed, strength
        Those of the tissue.

    Returns
    -------
    X raw counts (:data:`CELLS` × genes of the panel, CSR float32) of :data:`DEPTH` times the tissue's depth;
    obs :data:`COLUMN`.

    Raises
    ------
    InputError
        At a strength that no gene means fit, see :func:`interptfm.simulate.expression.balance`.
    """
    import anndata
    from scipy import sparse

    def generator(*names: object) -> np.random.Generator:
        return job.generator(seed, "simulate", *names)

    genes, own = design.genes, generator("reference")
    loadings, _ = expression.draw_loadings(design.programs, genes, design.markers, generator("loadings"))
    means = expression.gene_means(len(genes), generator("means"))
    effects = np.array([program.effect for program in design.programs])
    cell_type, log_fold = perturb.tissue_cells(design, loadings, effects, strength, CELLS, own)
    expected = expression.balance(log_fold, means, expression.cell_depths(CELLS, own))
    measure = np.exp(PLATFORM_LOG_SD * own.standard_normal(len(genes)))
    counts = expression.negative_binomial(DEPTH * expected * measure, own)
    types = pd.Categorical(np.array(CELL_TYPES)[cell_type])
    return anndata.AnnData(
        X=sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame({COLUMN: types}, index=[f"reference_{i:05d}" for i in range(CELLS)]),
        var=pd.DataFrame(index=pd.Index(genes, name=None)),
    )
