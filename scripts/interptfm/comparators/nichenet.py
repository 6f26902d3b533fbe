"""Ligand activity as NicheNet defines it, against a ligand–target matrix that the user supplies.

For a sender and a receiver type: the genes that are higher in receivers next to a sender than in the other
receivers of the section, and for every ligand that senders express how well its regulatory potential over the
receiver's genes agrees with membership in that set: Pearson's r and AUPR.

Source: Browaeys, Saelens and Saeys 2020, doi:10.1038/s41592-019-0667-5; the contact that defines the gene
set is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import job, stats, store
from interptfm.comparators.status import Skipped
from interptfm.errors import InputError

COLUMNS = (
    "source", "target", "ligand", "n_contact", "n_other", "n_genes", "n_background", "pearson", "p", "p_min",
    "q", "aupr", "prevalence", "rank",
)  # fmt: skip


def read_matrix(path: str | Path) -> pd.DataFrame:
    """Read regulatory potentials: ``.parquet`` or ``.tsv``, the column ``gene`` and one column a ligand.

    Returns
    -------
    float64 (targets × ligands), indexed by gene.

    Raises
    ------
    InputError
        Without the column ``gene``, without a ligand, for a gene that stands twice, or for what is no finite
        number.
    """
    table = store.read_table(path)
    if "gene" not in table or len(table.columns) < 2:
        raise InputError(f"{path}: found the columns {list(table)[:4]}, expected 'gene' and one a ligand")
    genes = table["gene"].astype(str)
    if genes.duplicated().any():
        raise InputError(f"{path}: found gene {genes[genes.duplicated()].iloc[0]!r} twice, expected it once")
    try:
        values = table.drop(columns="gene").astype(float)
    except ValueError:
        raise InputError(f"{path}: found text among the potentials, expected numbers") from None
    if not np.isfinite(values.to_numpy()).all():
        raise InputError(f"{path}: found a potential that is not finite, expected numbers")
    return values.set_axis(genes, axis=0)


def activity(potential: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Pearson's r and AUPR of each ligand's potential for membership in the gene set.

    Parameters
    ----------
    potential
        (genes × ligands) float.
    members
        (genes,) bool, neither all nor none.

    Returns
    -------
    (ligands,) float64 each; r is NaN for a ligand whose potential does not vary.
    """
    from sklearn.metrics import average_precision_score

    aupr = np.array([average_precision_score(members, potential[:, i]) for i in range(potential.shape[1])])
    return correlations(potential, members[:, None].astype(float))[:, 0], aupr


def correlations(potential: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return Pearson's r (ligands × sets) of potentials (genes × ligands) and sets (genes × sets)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        x = (potential - potential.mean(axis=0)) / potential.std(axis=0)
        y = (members - members.mean(axis=0)) / members.std(axis=0)
        return x.T @ y / len(potential)


def contacts(graph: sparse.csr_matrix, types: np.ndarray, sender: str) -> np.ndarray:
    """Return which cells (bool) have a neighbour of type ``sender``; ``graph`` (cells × cells)."""
    return np.asarray(sparse.csr_matrix(graph) @ (types == sender).astype(float)) > 0


def gene_set(logged: np.ndarray, contact: np.ndarray, section: np.ndarray, n: int) -> np.ndarray:
    """Return which genes (bool): the ``n`` with the largest t of contact against none, expression centred.

    Parameters
    ----------
    logged
        (receivers × genes) log-normalised expression.
    contact, section
        (receivers,) whether a sender is next to the cell, and its section: expression is centred by section.

    Genes whose t is not positive are left out, hence at most ``n``.
    """
    from scipy.stats import ttest_ind

    centred = logged.astype(float).copy()
    for name in np.unique(section):
        centred[section == name] -= centred[section == name].mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.nan_to_num(ttest_ind(centred[contact], centred[~contact], axis=0, equal_var=False).statistic)
    chosen = np.zeros(len(t), bool)
    chosen[np.argsort(-t, kind="stable")[:n]] = True
    return chosen & (t > 0)


def analyse(
    logged: np.ndarray,
    genes: list[str],
    types: np.ndarray,
    section: np.ndarray,
    graph: sparse.csr_matrix,
    matrix: pd.DataFrame,
    settings: Mapping[str, Any],
    seed: int,
) -> pd.DataFrame:
    """Score every ligand between every two types.

    Parameters
    ----------
    logged, genes, types, section
        (cells × genes) log-normalised expression, names, and of each cell type and section.
    graph
        (cells × cells) neighbours, as crosstalk's.
    matrix
        Of :func:`read_matrix`.
    settings
        ``genes`` in the set, ``min_fraction`` of senders that express a ligand (and of receivers, a target),
        ``min_cells`` with and without contact, ``permutations``.

    Returns
    -------
    :data:`COLUMNS`, best ligand first within a pair of types. p of Pearson's r from permuted membership, as
    (1 + k) / (1 + n); q over all rows.

    Raises
    ------
    Skipped
        If no ligand or fewer than 10 targets are in the panel, or no pair of types has enough cells.
    """
    at = {gene: i for i, gene in enumerate(genes)}
    ligands = [name for name in matrix.columns if name in at]
    targets = [gene for gene in matrix.index if gene in at]
    if not ligands or len(targets) < 10:
        raise Skipped(
            f"{len(ligands)} ligands and {len(targets)} targets of the matrix are in the panel, "
            "expected at least 1 and 10"
        )
    potential = matrix.loc[targets, ligands].to_numpy(float)
    column = np.array([at[gene] for gene in targets])
    kinds, least = np.unique(types), settings["min_fraction"]
    expressed = {kind: (logged[types == kind] > 0).mean(axis=0) for kind in kinds}
    rows: list[dict[str, Any]] = []
    for sender in kinds:
        near = contacts(graph, types, sender)
        sent = [i for i, name in enumerate(ligands) if expressed[sender][at[name]] >= least]
        for receiver in kinds:
            mine = np.flatnonzero(types == receiver)
            contact = near[mine]
            background = np.flatnonzero(expressed[receiver][column] >= least)
            if (
                min(contact.sum(), (~contact).sum()) < settings["min_cells"]
                or not sent
                or len(background) < 10
            ):
                continue
            members = gene_set(
                logged[np.ix_(mine, column[background])], contact, section[mine], settings["genes"]
            )
            if not members.any() or members.all():
                continue
            here = potential[np.ix_(background, sent)]
            r, aupr = activity(here, members)
            generator = job.generator(seed, "nichenet", sender, receiver)
            shuffled = np.array(
                [generator.permutation(members) for _ in range(settings["permutations"])], float
            )
            p = stats.permutation_p(r, correlations(here, shuffled.T).T)
            order = np.argsort(np.argsort(-np.nan_to_num(r, nan=-2), kind="stable"), kind="stable")
            rows += [
                {
                    "source": sender, "target": receiver, "ligand": ligands[sent[i]],
                    "n_contact": int(contact.sum()), "n_other": int((~contact).sum()),
                    "n_genes": int(members.sum()), "n_background": len(members), "pearson": r[i], "p": p[i],
                    "p_min": 1 / (1 + len(shuffled)), "aupr": aupr[i], "prevalence": members.mean(),
                    "rank": int(order[i]) + 1,
                }
                for i in np.argsort(order, kind="stable")
            ]  # fmt: skip
    if not rows:
        raise Skipped(f"no two cell types have {settings['min_cells']} receivers with and without contact")
    table = pd.DataFrame(rows)
    table["q"] = stats.benjamini_hochberg(table["p"].to_numpy())
    return table[list(COLUMNS)]


def headline(table: pd.DataFrame, max_q: float) -> str:
    """Return how many ligands are below ``max_q``, and the strongest, in words."""
    found = table[table["q"] < max_q]
    words = f"{len(found)} of {len(table)} ligands between types with q < {max_q:g}"
    if found.empty:
        return words
    best = found.loc[found["pearson"].idxmax()]
    way = f"{best['ligand']} of {best['source']} on {best['target']}"
    return f"{words}; strongest {way} (r {best['pearson']:.2f})"
