"""MOFA+: factors shared by views of the same cells (concept activity, channels, stains), sections as groups.

Source: Argelaguet et al. 2020, doi:10.1186/s13059-020-02015-1, as mofapy2 implements it. It
cannot tell the factors of cells that it was not fitted on: :func:`project` is its own update of the factors,
solved at once.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interptfm import job
from interptfm.comparators.mofa_tables import (
    EVERY,
    explained,
    headline,
    predictions,
    weights_table,
)
from interptfm.comparators.mofa_views import View, read_views, usable
from interptfm.comparators.status import Skipped, package
from interptfm.tis.units import Cells

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

log = logging.getLogger("interptfm")

FAMILY = "mofa"
KEY = "X_mofa"
FEWEST = 50
# Fewer training cells give a section no means and no noise of its own.
FEWEST_OF_SECTION = 15


@dataclass(frozen=True)
class Model:
    """What was fitted.

    Of each view ``weights`` and their posterior variances ``spread`` (columns × factors) and the precision of
    noise ``tau`` (groups × columns); ``alpha`` (groups × factors), the factors' precision; ``factors``
    (training cells × factors) as the package has them. The last group stands for a section that the model
    does not know: the mean of the others."""

    weights: list[np.ndarray]
    spread: list[np.ndarray]
    tau: list[np.ndarray]
    alpha: np.ndarray
    factors: np.ndarray

    def take(self, kept: np.ndarray) -> Model:
        """Return the model with some of the factors, by position."""
        return replace(
            self, weights=[w[:, kept] for w in self.weights], spread=[s[:, kept] for s in self.spread],
            alpha=self.alpha[:, kept], factors=self.factors[:, kept],
        )  # fmt: skip


def run(
    cells: Cells, activity: Sequence[str | Path], settings: Mapping[str, Any], seed: int
) -> tuple[AnnData, dict[str, pd.DataFrame], dict[str, Any]]:
    """Fit MOFA+ on training blocks and return the factors of all cells with tokens, and what they explain.

    Parameters
    ----------
    cells, activity
        All samples; ``activity/<sample>.h5ad`` in the same order.
    settings
        ``factors``, ``iterations``, ``convergence``, ``concepts``, ``min_r2``, ``permutations``,
        ``bootstrap``.

    Returns
    -------
    latent, tables, summary
        AnnData without X: obs_names of the cells that have a view, obs ``sample``, obsm :data:`KEY` float32
        (cells × factors kept). Tables ``variance``, ``prediction`` and ``weights``. ``summary``: headline and
        what was left out. Factors are kept that explain ``min_r2`` of a view over the training cells, the
        strongest first.

    Raises
    ------
    Skipped
        If mofapy2, two views, enough training cells, or a factor that is kept is not there.
    """
    from anndata import AnnData

    _package()
    views, present = read_views(activity, cells, settings["concepts"])
    sections, train, names = split(cells, present)
    views, notes = usable(views, train, sections)
    model, ended = fit(views, train, sections, settings, job.seed(seed, "mofa"))
    if not ended["converged"]:
        notes.append(f"the fit had not converged after {settings['iterations']} iterations")
    together = {(EVERY, EVERY): train}
    single = explained(views, model.weights, project(model, views, sections), together)
    best = single[single["factor"] > 0].groupby("factor")["r2"].agg(["max", "sum"])
    kept = best[best["max"] >= settings["min_r2"]].sort_values("sum", ascending=False, kind="stable").index
    if not len(kept):
        raise Skipped(f"none of {len(best)} factors explains {settings['min_r2']:g} of a view")
    model = model.take(kept.to_numpy() - 1)
    factors = project(model, views, sections)
    test = np.flatnonzero(present & (cells.split == "test"))
    rows = {
        (kind, group): chosen if group == EVERY else chosen[cells.section[chosen] == group]
        for kind, chosen in (("training", train), ("test", test))
        for group in (EVERY, *names)
    }
    found = predictions(
        views, model.weights, lambda seen: project(model, views, sections, [seen]), cells, train, test,
        settings, job.generator(seed, "mofa", "prediction"),
    )  # fmt: skip
    tables = {
        "variance": explained(views, model.weights, factors, rows),
        "prediction": found,
        "weights": weights_table(views, model.weights),
    }
    has = np.flatnonzero(np.isfinite(factors).all(axis=1))
    latent = AnnData(obs=cells.obs[["sample"]].iloc[has].copy())
    latent.obsm[KEY] = factors[has].astype(np.float32)
    sizes = ", ".join(f"{view.values.shape[1]} {view.name}" for view in views)
    summary = {
        "data": "; ".join([f"{len(train)} of {len(cells.obs)} cells", sizes, *notes]),
        "headline": headline(tables["variance"], tables["prediction"], len(kept), len(best)),
        "n_trained_on": len(train), "n_factors": len(kept), "notes": notes, **ended,
    }  # fmt: skip
    log.info("MOFA+: %s", summary["headline"])
    return latent, tables, summary


def _package() -> Any:
    """Import mofapy2, which turns all warnings of Python off, and turn them on again."""
    with warnings.catch_warnings():
        return package("mofapy2", "mofapy2.run.entry_point", FAMILY)


def split(cells: Cells, present: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return each cell's section (int; −1: too few training cells), the training cells, and sections' names.

    Raises
    ------
    Skipped
        If too few training cells have tokens.
    """
    train = np.flatnonzero(present & (cells.split == "train"))
    if len(train) < FEWEST:
        raise Skipped(f"{len(train)} cells of training blocks have tokens, expected at least {FEWEST}")
    known, counts = np.unique(cells.section[train], return_counts=True)
    names = [str(name) for name, n in zip(known, counts, strict=True) if n >= FEWEST_OF_SECTION]
    if not names:
        raise Skipped(f"no section has {FEWEST_OF_SECTION} cells of training blocks with tokens")
    place = {name: i for i, name in enumerate(names)}
    sections = np.array([place.get(name, -1) for name in cells.section])
    return sections, train[sections[train] >= 0], names


def fit(
    views: Sequence[View], train: np.ndarray, sections: np.ndarray, settings: Mapping[str, Any], seed: int
) -> tuple[Model, dict[str, Any]]:
    """Fit MOFA+ on the training cells; return the model and how its fit ended.

    Parameters
    ----------
    views
        Of :func:`usable`.
    train, sections
        Positions, rising; (cells,) int, the groups.
    settings
        ``factors``, ``iterations``, ``convergence``.

    Gaussian likelihood, spike-and-slab and ARD on weights, ARD on factors where there are several groups: the
    package's own choice.

    Raises
    ------
    Skipped
        If mofapy2 is not there.
    RuntimeError
        If the package gives up, which it does by leaving Python.
    """
    groups = np.unique(sections[train])
    members = [train[sections[train] == group] for group in groups]
    order, said = np.concatenate(members), io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said):
        warnings.simplefilter("ignore")
        entry = _package().entry_point()
        try:
            entry.set_data_options(scale_views=True, center_groups=True)
            entry.set_data_matrix(
                [[view.values[rows].copy() for rows in members] for view in views],
                likelihoods=["gaussian"] * len(views), views_names=[view.name for view in views],
                groups_names=[str(group) for group in groups],
                samples_names=[[str(i) for i in rows] for rows in members],
            )  # fmt: skip
            entry.set_model_options(
                factors=settings["factors"], ard_factors=len(groups) > 1, ard_weights=True
            )
            entry.set_train_options(
                iter=settings["iterations"], convergence_mode=settings["convergence"], quiet=True,
                seed=seed % 2**32,
            )  # fmt: skip
            entry.build()
            entry.run()
        except SystemExit:
            raise RuntimeError(f"mofapy2 gave up: {said.getvalue().strip()[-500:]}") from None
    if not entry.model.trained:
        raise KeyboardInterrupt
    nodes, firsts = entry.model.nodes, np.cumsum([0, *map(len, members[:-1])])
    weights = [node.getExpectations() for node in nodes["W"].nodes]
    tau = [np.asarray(node.getExpectation())[firsts] for node in nodes["Tau"].nodes]
    factors = np.asarray(nodes["Z"].getExpectation())
    alpha = np.ones((len(groups), factors.shape[1]))
    if "AlphaZ" in nodes:
        alpha = np.asarray(nodes["AlphaZ"].getExpectation(expand=True))[firsts]
    bound = np.asarray(entry.model.train_stats["elbo"], float)
    bound = bound[np.isfinite(bound)]
    ended = {
        "iterations": len(entry.model.train_stats["elbo"]),
        "converged": len(entry.model.train_stats["elbo"]) <= settings["iterations"],
        "elbo": float(bound[-1]) if len(bound) else None,
    }
    with_mean = [np.vstack([part, part.mean(axis=0)]) for part in (*tau, alpha)]
    model = Model(
        [np.asarray(w["E"]) for w in weights],
        [np.maximum(np.asarray(w["E2"]) - np.asarray(w["E"]) ** 2, 0) for w in weights],
        with_mean[:-1], with_mean[-1], factors[np.argsort(order)],
    )  # fmt: skip
    return model, ended


def project(
    model: Model, views: Sequence[View], sections: np.ndarray, seen: Sequence[int] | None = None
) -> np.ndarray:
    """Return the posterior mean of each cell's factors given the weights; NaN in a cell that has no view.

    Parameters
    ----------
    views, sections
        As for :func:`fit`, of any cells.
    seen
        Positions of the views to infer from; all by default.

    z = (A + Σ WᵀτW + diag Σ τ·var(W))⁻¹ Σ Wᵀτ y over the views that the cell has: where mofapy2's updates of
    one factor after the other come to rest, solved for all factors at once.

    Returns
    -------
    (cells × factors) float64.
    """
    seen = list(range(len(views))) if seen is None else list(seen)
    there = np.stack([views[m].there for m in seen], axis=1)
    result = np.full((len(there), model.alpha.shape[1]), np.nan)
    for group in np.unique(sections):
        for pattern in product((False, True), repeat=len(seen)):
            rows = np.flatnonzero((sections == group) & (there == pattern).all(axis=1))
            if not any(pattern) or not len(rows):
                continue
            precision, pull = np.diag(model.alpha[group]), 0
            for m in (m for m, has in zip(seen, pattern, strict=True) if has):
                weighted = model.tau[m][group][:, None] * model.weights[m]
                precision = precision + model.weights[m].T @ weighted
                precision = precision + np.diag(model.tau[m][group] @ model.spread[m])
                pull = pull + views[m].values[rows] @ weighted
            result[rows] = np.linalg.solve(precision, pull.T).T
    return result
