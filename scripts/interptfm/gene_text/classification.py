"""Cell types told by a representation: nearest neighbours before and after refinement, and their null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import job
from interptfm.errors import InputError
from interptfm.gene_text import contrastive, scores
from interptfm.gene_text.cells import KEY
from interptfm.gene_text.folds import Fold, few_labels, folds_of
from interptfm.tis import units
from interptfm.tis.judges import MAX_Z, log_normalise, unit_length
from interptfm.tis.units import Cells

BEFORE, AFTER, LOGISTIC = "before", "after", "logistic"
NEIGHBOUR_CELLS = 2048


@dataclass(frozen=True)
class Task:
    """What is classified: types as whole numbers into ``names``, folds, settings, the seed."""

    types: np.ndarray
    names: list[str]
    folds: list[Fold]
    settings: Mapping[str, Any]
    seed: int

    @property
    def rare(self) -> list[int]:
        """Positions in ``names`` of the rare types."""
        rare = scores.rare_types(np.asarray(self.names)[self.types], self.settings["rare"])
        return [self.names.index(name) for name in rare]


def frequent(cells: Cells, least: int) -> tuple[np.ndarray, list[str]]:
    """Return positions of the cells whose type has at least ``least`` cells, and the types left out.

    Raises
    ------
    InputError
        With fewer than 2 such types.
    """
    names, counts = np.unique(cells.types, return_counts=True)
    kept = names[counts >= least]
    if len(kept) < 2:
        raise InputError(
            f"cells: found {len(kept)} cell types of at least {least} cells (gene_text.min_cells), expected 2"
        )
    return np.flatnonzero(np.isin(cells.types, kept)), sorted(names[counts < least].tolist())


class Fixed:
    """A representation that is there for all cells (cells × d), whatever the fold."""

    def __init__(self, values: np.ndarray | sparse.spmatrix) -> None:
        dense = values.toarray() if sparse.issparse(values) else values
        self.values = np.asarray(dense, np.float32)

    def prepared(self, train: np.ndarray) -> np.ndarray:
        """Return all cells less the mean of the teaching cells, over the root mean square of what is left."""
        x = self.values - self.values[train].mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = float(np.sqrt(np.mean(x[train] ** 2, dtype=np.float64)))
        return x / scale if scale > 0 else x


class Components:
    """Principal components of expression, fitted to each fold's teaching cells: no model, no text."""

    def __init__(self, counts: sparse.csr_matrix, components: int) -> None:
        self.logged, self.components = log_normalise(counts).toarray(), components

    def prepared(self, train: np.ndarray) -> np.ndarray:
        """Return components (cells × d) of z-scored log-normalised expression, clipped at ±10."""
        seen = self.logged[train]
        mean, deviation = seen.mean(axis=0), seen.std(axis=0)
        spread = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
        z = np.clip((self.logged - mean) * spread, -MAX_Z, MAX_Z).astype(np.float32)
        covariance = z[train].T.astype(np.float64) @ z[train]
        _, vectors = np.linalg.eigh(covariance)
        chosen = vectors[:, ::-1][:, : min(self.components, len(train) - 1)]
        return Fixed(z @ chosen.astype(np.float32)).prepared(train)


def neighbours(x: np.ndarray, train: np.ndarray, held_out: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the k teaching cells of highest cosine for every held-out cell (n × k).

    Exact, by blocks of cells. The nearest comes first; of equal ones the first in the order of cells.
    """
    reference = unit_length(x[train].copy())
    k = min(k, len(train))
    found = np.empty((len(held_out), k), np.int64)
    for start in range(0, len(held_out), NEIGHBOUR_CELLS):
        similarity = unit_length(x[held_out[start : start + NEIGHBOUR_CELLS]].copy()) @ reference.T
        some = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        some.sort(axis=1)
        order = np.argsort(-np.take_along_axis(similarity, some, axis=1), axis=1, kind="stable")
        found[start : start + NEIGHBOUR_CELLS] = train[np.take_along_axis(some, order, axis=1)]
    return found


def vote(labels: np.ndarray, n_types: int) -> np.ndarray:
    """Return the most frequent label of each row (n × k); of equals that of the nearest cell."""
    rows = np.arange(len(labels))[:, None]
    counts = np.zeros((len(labels), n_types), np.int64)
    np.add.at(counts, (rows, labels), 1)
    most = counts[rows, labels] == counts.max(axis=1, keepdims=True)
    return labels[rows[:, 0], most.argmax(axis=1)]


def refined(x: np.ndarray, fold: Fold, types: np.ndarray, task: Task, *names: object) -> np.ndarray:
    """Return all cells through a head fitted to the fold's teaching cells (cells × dims)."""
    seed = job.seed(task.seed, "gene_text", "contrastive", *names)
    head = contrastive.fit(x[fold.train], types[fold.train], task.settings["contrastive"], seed)
    return head.project(x)


def prepared(representation: Fixed | Components, task: Task) -> list[np.ndarray]:
    """Return the representation (cells × d) as each fold's teaching cells prepare it."""
    return [representation.prepared(fold.train) for fold in task.folds]


def classify(spaces: Sequence[np.ndarray], task: Task, cells: Cells) -> pd.DataFrame:
    """Return the called type of every held-out cell: cell, sample, block, split, cell_type, and the variants.

    ``spaces``: the representation by fold (:func:`prepared`), here and below.

    ``before`` and ``after`` are nearest neighbours before and after refinement; ``logistic`` is a multinomial
    logistic regression on the same representation, the plain supervised reading that refinement has to beat.
    """
    k, n = task.settings["knn"]["k"], len(task.names)
    called = {name: np.full(len(task.types), -1) for name in (BEFORE, AFTER, LOGISTIC)}
    for number, fold in enumerate(job.progress(task.folds, "folds")):
        x = spaces[number]
        after = refined(x, fold, task.types, task, "fold", number)
        for name, values in ((BEFORE, x), (AFTER, after)):
            near = neighbours(values, fold.train, fold.held_out, k)
            called[name][fold.held_out] = vote(task.types[near], n)
        called[LOGISTIC][fold.held_out] = logistic(x, fold, task.types)
    scored = np.flatnonzero(called[BEFORE] >= 0)
    names, obs = np.asarray(task.names, object), cells.obs.iloc[scored]
    return pd.DataFrame(
        {
            "cell": obs.index.to_numpy(),
            "sample": obs["sample"].astype(str).to_numpy(),
            "block": obs["block"].astype(str).to_numpy(),
            "split": obs["split"].astype(str).to_numpy(),
            "cell_type": names[task.types[scored]],
            **{name: names[values[scored]] for name, values in called.items()},
        }
    )


def logistic(x: np.ndarray, fold: Fold, types: np.ndarray) -> np.ndarray:
    """Return types called by a logistic regression (L2, C = 1) taught by the fold's teaching cells."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # A baseline stopped after a fixed number of steps is what is meant.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=200).fit(x[fold.train], types[fold.train])
    return model.predict(x[fold.held_out])


def pooled(true: np.ndarray, predicted: np.ndarray, task: Task) -> np.ndarray:
    """Return the measures (:data:`scores.MEASURES`) of cells pooled over folds."""
    return scores.measures_of(scores.confusion(true, predicted, len(task.names)), task.rare)


def learning_curve(spaces: Sequence[np.ndarray], task: Task) -> pd.DataFrame:
    """Return scores with few labelled cells a type: labels, draw, variant, measure, value.

    The labelled cells are drawn from the fold's teaching cells; as many neighbours vote as a type has labels,
    and no more than k. Centring and components, which use no label, take all teaching cells.
    """
    wanted, rows = task.settings["curve"], []
    for labels in job.progress(wanted["labels"], "learning curve"):
        for draw in range(wanted["draws"]):
            generator = job.generator(task.seed, "gene_text", "few labels", labels, draw)
            true, called = [], {BEFORE: [], AFTER: []}
            few = few_labels(task.folds, task.types, labels, generator)
            for number, (x, fold) in enumerate(zip(spaces, few, strict=True)):
                after = refined(x, fold, task.types, task, "few", labels, draw, number)
                true.append(task.types[fold.held_out])
                for name, values in ((BEFORE, x), (AFTER, after)):
                    near = neighbours(
                        values, fold.train, fold.held_out, min(labels, task.settings["knn"]["k"])
                    )
                    called[name].append(vote(task.types[near], len(task.names)))
            for name, parts in called.items():
                values = pooled(np.concatenate(true), np.concatenate(parts), task)
                rows += [(labels, draw, name, m, v) for m, v in zip(scores.MEASURES, values, strict=True)]
    return pd.DataFrame(rows, columns=["labels", "draw", "variant", "measure", "value"])


def null(spaces: Sequence[np.ndarray], task: Task) -> pd.DataFrame:
    """Return scores with the cells' types shuffled: variant, draw, measure, value; the whole fit is repeated.

    Neighbours before refinement do not depend on types, so that their null is cheap (``nulls.shuffles``
    draws); after refinement each draw fits all heads anew (``nulls.refits``).
    """
    wanted, rows = task.settings["nulls"], []
    k = task.settings["knn"]["k"]
    near = [neighbours(x, f.train, f.held_out, k) for x, f in zip(spaces, task.folds, strict=True)]
    held_out = np.concatenate([fold.held_out for fold in task.folds])
    for draw in job.progress(range(max(wanted["shuffles"], wanted["refits"])), "shuffled labels"):
        types = job.generator(task.seed, "gene_text", "shuffled labels", draw).permutation(task.types)
        called = {}
        if draw < wanted["shuffles"]:
            called[BEFORE] = [vote(types[each], len(task.names)) for each in near]
        if draw < wanted["refits"]:
            called[AFTER] = []
            for number, (x, fold) in enumerate(zip(spaces, task.folds, strict=True)):
                after = refined(x, fold, types, task, "shuffled", draw, number)
                mine = neighbours(after, fold.train, fold.held_out, k)
                called[AFTER].append(vote(types[mine], len(task.names)))
        for name, parts in called.items():
            values = pooled(types[held_out], np.concatenate(parts), task)
            rows += [(name, draw, m, v) for m, v in zip(scores.MEASURES, values, strict=True)]
    return pd.DataFrame(rows, columns=["variant", "draw", "measure", "value"])


def open_task(
    paths: Sequence[str],
    source: Mapping[str, Any],
    files: Sequence[str],
    settings: Mapping[str, Any],
    donors: Mapping[str, str],
    guard_um: float,
    seed: int,
) -> tuple[Fixed | Components, Task, Cells, list[str]]:
    """Return a representation, the task, the cells that take part, and the types left out.

    Parameters
    ----------
    paths
        ``cells/<sample>.h5ad`` of all samples.
    source, files
        How the representation is read (:func:`interptfm.gene_text.settings.representations`), and its files.
    settings, donors, guard_um
        The block ``gene_text``, sample → donor, and the width of the guard.
    seed
        Cells, folds and draws depend on it alone, and are hence those of every representation.
    """
    everything = units.read_cells(paths)
    values = None
    if source["source"] != "pca":
        setting = {"source": "obsm", "key": KEY} if source["source"] == "text" else source
        values, _ = units.read(setting, files, everything, source.get("layer", 0))
    frequent_cells, left_out = frequent(everything, settings["min_cells"])
    some = units.at_most(
        everything.take(frequent_cells), settings["max_cells"], job.generator(seed, "gene_text", "cells")
    )
    kept = frequent_cells[some]
    cells = everything.take(kept)
    split = settings["split"]
    folds = folds_of(
        cells, split["by"], split["folds"], donors, guard_um, job.seed(seed, "gene_text", "folds")
    )
    names, types = np.unique(cells.types, return_inverse=True)
    task = Task(types.astype(np.int64), names.tolist(), folds, settings, seed)
    if values is None:
        return Components(cells.counts, settings["components"]), task, cells, left_out
    return Fixed(units.rows_of(values, kept)), task, cells, left_out
