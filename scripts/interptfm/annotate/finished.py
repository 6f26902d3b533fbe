"""What a finished run scores concepts with and whether its files belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import store
from interptfm.activity import pairs, rollup, scores
from interptfm.activity.files import VAR
from interptfm.errors import InputError
from interptfm.tis import units
from interptfm.tis.judges import log_normalise


@dataclass(frozen=True)
class Finished:
    """Scoring of a run.

    ``weights`` CSR (features × terms); ``steps``, ``touched`` (terms,), ``alpha`` of the roll-up; ``table``
    a row a term with ``sd`` (NaN where the run gives it no activity); ``members`` bool (genes × terms) over
    ``genes``; ``cells`` the run's own, for the scale of genes; ``settings`` of its activity.
    """

    weights: sparse.csr_matrix
    steps: dict[tuple[int, int], int]
    touched: np.ndarray
    table: pd.DataFrame
    members: sparse.csr_matrix
    genes: list[str]
    cells: units.Cells
    settings: dict[str, Any]
    dictionary: str
    layer: int

    @property
    def used(self) -> np.ndarray:
        return self.table["used"].to_numpy(bool)

    def gene_scale(self, shared: list[str]) -> tuple[float, np.ndarray, np.ndarray]:
        """Return median depth over the shared genes, and mean and deviation of each gene of ``genes``.

        Mean and deviation are those of the run's log-normalised cells; a gene outside ``shared`` has
        deviation 0, so that it counts for no concept. With all genes shared this is how the run scaled.
        """
        mean, deviation = scores.gene_scaling(log_normalise(self.cells.counts))
        here = np.isin(self.genes, shared)
        depth = np.asarray(self.cells.counts[:, np.flatnonzero(here)].sum(axis=1), np.float64).ravel()
        if not (depth > 0).any():
            raise InputError("annotate: found no count of the shared genes in the run's cells, expected some")
        return float(np.median(depth[depth > 0])), mean, np.where(here, deviation, 0.0)


def check(files: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` unless dictionary, features, alignment and concepts are of one run.

    The run's activity names the digests of what it was scored from, and these the digests of what they were
    made of; a file that has been exchanged since, however well it fits in shape, is found here.
    """
    run = Path(files["folder"])
    recorded = store.read_json(files["summary"])["provenance"]["inputs"]
    roles = ("codes", "interpretable", "pairs", "terms", "membership", "genes", "dag")
    _compare(run, [*(files[role] for role in roles), *files["cells"]], recorded, "activity")
    with store.open_zarr(files["codes"]) as group:
        made_of = dict(group.attrs)["provenance"]["inputs"]
    _compare(run, [files[role] for role in ("cfg", "weights", "maximum")], made_of, "features")


def _compare(run: Path, paths: list[str], recorded: Mapping[str, str], what: str) -> None:
    for path in paths:
        expected, found = recorded.get(Path(path).relative_to(run).as_posix()), store.digest(path)
        if found != expected:
            raise InputError(
                f"{path}: found another file ({found[:15]}…) than the one that the run's {what} was made "
                f"with ({str(expected)[:15]}…), expected the files of one run; run the workflow again"
            )


def read(files: Mapping[str, Any]) -> Finished:
    """Read the scoring of a run.

    Raises
    ------
    InputError
        If its files do not fit together, or it found no concept that has an activity.
    """
    check(files)
    summary, table = store.read_json(files["summary"]), store.read_table(files["concepts"])
    if not table["used"].any():
        raise InputError(
            f"{files['summary']}: {summary['status']}, so there is nothing to annotate cells with"
        )
    settings = summary["provenance"]["settings"]["activity"]
    terms = store.read_table(files["terms"]).reset_index(drop=True)
    ids = terms["term_id"].astype(str).tolist()
    if table["term_id"].astype(str).tolist() != ids:
        raise InputError(
            f"{files['concepts']}: found other terms than in {files['terms']}, expected those of one run"
        )
    cells = units.read_cells(files["cells"])
    membership = sparse.load_npz(files["membership"]).tocsr()
    place = {gene: i for i, gene in enumerate(store.read_table(files["genes"])["gene"].astype(str))}
    members = membership[[place[gene] for gene in cells.genes]]
    chosen = pairs.choose(
        store.read_table(files["interpretable"]), store.read_table(files["pairs"]), settings
    )
    n_features = len(np.load(files["maximum"]))
    steps = rollup.descendants(terms, store.read_table(files["dag"]), settings["rollup"]["hops"])
    touched = rollup.unpropagated(steps, terms["propagated"].to_numpy(bool), membership)
    return Finished(
        pairs.weights(chosen, ids, n_features), steps, touched, table, members, cells.genes, cells, settings,
        summary["dictionary"], int(summary["layer"]),
    )  # fmt: skip


def var_of(run: Finished) -> pd.DataFrame:
    """Return the concepts with an activity as ``activity/*.h5ad`` has them in var, indexed by term."""
    return run.table.loc[run.used, ["term_id", *VAR]].set_index("term_id")[list(VAR)]
