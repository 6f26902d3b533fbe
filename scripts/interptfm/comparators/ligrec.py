"""Squidpy's ligand–receptor test (``squidpy.gr.ligrec``): CellPhoneDB's shuffled labels.

Source: Palla et al. 2022, doi:10.1038/s41592-021-01358-2; Efremova et al. 2020,
doi:10.1038/s41596-020-0292-x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm.comparators import communication
from interptfm.comparators.status import package

if TYPE_CHECKING:
    from anndata import AnnData

METHOD = "squidpy"


def run(
    adata: AnnData, column: str, interactions: pd.DataFrame, settings: dict[str, Any], seed: int
) -> pd.DataFrame:
    """Test every interaction between every two groups, both ways.

    Parameters
    ----------
    adata, column
        Cells and the obs column of their groups (:func:`communication.read_cells`).
    interactions
        ``ligand``, ``receptor``; of a complex squidpy takes the subunit that is expressed least.
    settings
        ``permutations``; ``min_fraction`` of a group's cells that express each side, else it is not tested.

    Returns
    -------
    What :func:`communication.by_level` asks for: ``score`` mean of the two sides' means (log1p), ``p`` as
    (1 + k) / (1 + n). Untested rows are left out.

    Raises
    ------
    Skipped
        If squidpy is not there.
    """
    squidpy = package("squidpy", "squidpy", communication.FAMILY)
    n = settings["permutations"]
    # Squidpy writes all symbols in capitals, in its interactions as in its copy of the data.
    spelled = {gene.upper(): gene for gene in adata.var_names}
    found = squidpy.gr.ligrec(
        adata, column,
        interactions=interactions.rename(columns={"ligand": "source", "receptor": "target"}),
        n_perms=n, threshold=settings["min_fraction"], seed=seed % 2**31, use_raw=False, copy=True,
        corr_method=None, n_jobs=1, show_progress_bar=False,
    )  # fmt: skip
    p, means = (pd.DataFrame(found[name]).astype(float).to_numpy() for name in ("pvalues", "means"))
    genes, groups = found["pvalues"].index, found["pvalues"].columns
    row, column_at = np.nonzero(~np.isnan(p))
    return pd.DataFrame(
        {
            "method": METHOD,
            "source": [str(groups[j][0]) for j in column_at],
            "target": [str(groups[j][1]) for j in column_at],
            "ligand": [spelled[str(genes[i][0])] for i in row],
            "receptor": [spelled[str(genes[i][1])] for i in row],
            "score": means[row, column_at],
            "p": communication.corrected(p[row, column_at], n),
            "p_min": 1 / (1 + n),
        }
    )
