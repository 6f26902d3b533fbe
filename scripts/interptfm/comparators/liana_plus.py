"""LIANA+ : CellPhoneDB and CellChat as it implements them, and its consensus of methods; offline.

Source: Dimitrov et al. 2024, doi:10.1038/s41556-024-01469-w.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm.comparators import communication
from interptfm.comparators.status import package

if TYPE_CHECKING:
    from anndata import AnnData

# Method → its column of strength and of specificity; only the first two are shares of permutations.
PERMUTED = {"cellphonedb": ("lr_means", "cellphone_pvals"), "cellchat": ("lr_probs", "cellchat_pvals")}
CONSENSUS = ("rank_aggregate", "magnitude_rank", "specificity_rank")


def module() -> Any:
    """Return the package liana; :class:`~interptfm.comparators.status.Skipped` where it is not there."""
    return package("liana", "liana", communication.FAMILY)


def resource(name: str) -> pd.DataFrame:
    """Return a resource bundled with LIANA+: ``ligand`` and ``receptor``, subunits joined by ``_``."""
    found = module().rs.select_resource(name)
    return found[["ligand", "receptor"]].astype(str).drop_duplicates(ignore_index=True)


def run(
    adata: AnnData, column: str, interactions: pd.DataFrame, settings: dict[str, Any], seed: int
) -> pd.DataFrame:
    """Score every interaction between every two groups, both ways, by the three methods.

    Parameters
    ----------
    As :func:`interptfm.comparators.ligrec.run`.

    Returns
    -------
    What :func:`communication.by_level` asks for. CellPhoneDB and CellChat: p as (1 + k) / (1 + n).
    ``rank_aggregate``: ``p`` is LIANA's specificity rank, which robust rank aggregation gives and which is
    no permutation p (``p_min`` NaN); ``score`` its magnitude rank, small is strong.

    Raises
    ------
    Skipped
        If LIANA+ is not there.
    """
    liana = module()
    n = settings["permutations"]
    common = {
        "groupby": column, "resource": interactions, "expr_prop": settings["min_fraction"],
        "min_cells": settings["min_cells"], "use_raw": False, "n_perms": n, "seed": seed % 2**31,
        "inplace": False, "verbose": False,
    }  # fmt: skip
    tables = []
    for method, (strength, specificity) in PERMUTED.items():
        found = getattr(liana.mt, method)(adata, **common)
        p = communication.corrected(found[specificity].to_numpy(), n)
        tables.append(_table(found, method, found[strength], p, 1 / (1 + n)))
    method, strength, specificity = CONSENSUS
    found = liana.mt.rank_aggregate(adata, **common)
    tables.append(_table(found, method, found[strength], found[specificity].to_numpy(float), np.nan))
    return pd.concat(tables, ignore_index=True)


def _table(found: pd.DataFrame, method: str, score: pd.Series, p: np.ndarray, p_min: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": method,
            "source": found["source"].astype(str).to_numpy(),
            "target": found["target"].astype(str).to_numpy(),
            "ligand": found["ligand_complex"].astype(str).to_numpy(),
            "receptor": found["receptor_complex"].astype(str).to_numpy(),
            "score": score.to_numpy(float),
            "p": p,
            "p_min": p_min,
        }
    )
