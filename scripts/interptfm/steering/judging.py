"""Predictions held against a screen: one table of all methods and targets, their nulls and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from interptfm import stats
from interptfm.errors import InputError
from interptfm.steering import evaluation
from interptfm.steering.experiment import Prediction, States
from interptfm.steering.screen import Screen, log_expression

MAX_POPULATION = 200
MEASURES = ("cosine_control", "cosine_centroids", "centroid_accuracy", "overlap")
"""What random directions are compared on; larger is better."""
NO_CHANGE, MEAN_SHIFT = "no change", "mean shift of the others"
SPLIT_HALF = "split half (ceiling)"
YES, NO, NOT_COMPARED = "yes", "no", "not compared"


@dataclass
class Truth:
    """What was observed of one target: shift of `<cls>` against control (d,), its centroid's shift from the
    mean of centroids, cells that judge (n, d), change of expression (genes,), column (−1: not measured)."""

    shift: np.ndarray
    cells: np.ndarray
    change: np.ndarray
    column: int
    nearer: evaluation.Nearer
    bandwidth: float


class Judge:
    """Holds predictions against the cells of a screen that judge.

    Parameters
    ----------
    states, screen
        Of all cells.
    weights
        (genes, d) of :func:`interptfm.steering.readouts.mvc_weights`, or None where the model has no such
        head: then predictions from `<cls>` have no change of expression.
    draws, seeds
        Bootstrap draws over cells; repeats of the classifiers' folds.
    dose_by
        ``accuracy`` or ``distance``: what a dose is chosen by, see :meth:`errors`.

    Judging controls are halved: one half is steered, the other is the reference of what was observed.
    """

    def __init__(
        self,
        states: States,
        screen: Screen,
        weights: np.ndarray | None,
        generator: np.random.Generator,
        draws: int = 200,
        seeds: int = 3,
        top: int = evaluation.TOP_GENES,
        dose_by: str = "accuracy",
    ) -> None:
        self.states, self.screen, self.weights = states, screen, weights
        self.draws, self.seeds, self.top, self.generator = draws, seeds, top, generator
        self.dose_by = dose_by
        target, judges = screen.target[states.kept], screen.judge[states.kept]
        self.rows = {
            (name, side): np.flatnonzero((target == name) & (judges == side))
            for name in (screen.control, *screen.targets)
            for side in (True, False)
        }
        self.targets = [
            t for t in screen.targets if min(map(len, (self.rows[t, True], self.rows[t, False]))) > 4
        ]
        controls = generator.permutation(self.rows[screen.control, True])
        if len(controls) < 10 or len(self.rows[screen.control, False]) < 10 or len(self.targets) < 2:
            raise InputError(
                f"steering: found {len(controls)} judging control cells and {len(self.targets)} perturbations"
                " with at least 5 cells on either side, expected 20 controls and 2 perturbations"
            )
        self.steered, self.reference = controls[: len(controls) // 2], np.sort(controls[len(controls) // 2 :])
        last = states.last
        self.control = last[self.reference].mean(axis=0)
        self.centroids = np.stack([last[self.rows[t, True]].mean(axis=0) for t in self.targets])
        self.middle = self.centroids.mean(axis=0)
        self.logged = log_expression(screen.counts[states.kept])
        self._control_draws = self._means(last[self.reference])
        self.truth = {t: self._truth(t) for t in self.targets}

    def _means(self, x: np.ndarray) -> np.ndarray:
        """Bootstrap means (draws, d) of cells (n, d)."""
        return evaluation.bootstrap_weights(len(x), self.draws, self.generator) @ x

    def _some(self, rows: np.ndarray) -> np.ndarray:
        return rows if len(rows) <= MAX_POPULATION else np.sort(
            self.generator.choice(rows, MAX_POPULATION, replace=False)
        )  # fmt: skip

    def mean_change(self, rows: np.ndarray, control: np.ndarray) -> np.ndarray:
        """Mean log expression (genes,) of some cells less that of others."""
        return np.asarray(self.logged[rows].mean(axis=0) - self.logged[control].mean(axis=0)).ravel()

    def _truth(self, target: str) -> Truth:
        last, judging = self.states.last, self.rows[target, True]
        cells = last[self._some(judging)]
        fitting = self._some(self.rows[target, False]), self._some(self.rows[self.screen.control, False])
        genes = self.screen.genes
        both = np.concatenate([cells, last[self._some(self.reference)]])
        return Truth(
            last[judging].mean(axis=0) - self.control,
            cells,
            self.mean_change(judging, self.reference),
            genes.index(target) if target in genes else -1,
            evaluation.Nearer.fit(last[fitting[0]], last[fitting[1]], self.seeds, self.generator),
            evaluation.median_distance(both),
        )

    @cached_property
    def fit_shifts(self) -> dict[str, np.ndarray]:
        """Target → shift (d,) of `<cls>` between cells that fits may use."""
        last, control = self.states.last, self.rows[self.screen.control, False]
        mean = last[control].mean(axis=0)
        return {t: last[self.rows[t, False]].mean(axis=0) - mean for t in self.targets}

    @cached_property
    def fit_changes(self) -> dict[str, np.ndarray]:
        """Target → change (genes,) of log expression between cells that fits may use."""
        control = self.rows[self.screen.control, False]
        return {t: self.mean_change(self.rows[t, False], control) for t in self.targets}

    def simple(self) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Predictions without the model's steering: method → target → (shift (d,), change (genes,)).

        No change; the mean shift of all other targets; the target's own shift in other cells (a ceiling).
        """
        shifts, changes = self.fit_shifts, self.fit_changes
        found: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {NO_CHANGE: {}, MEAN_SHIFT: {}}
        found[SPLIT_HALF] = {t: (shifts[t], changes[t]) for t in self.targets}
        for t in self.targets:
            others = [u for u in self.targets if u != t]
            found[NO_CHANGE][t] = np.zeros_like(shifts[t]), np.zeros_like(changes[t])
            found[MEAN_SHIFT][t] = tuple(
                np.mean([each[u] for u in others], axis=0) for each in (shifts, changes)
            )
        return found

    def change_of(self, shifts: np.ndarray) -> np.ndarray | None:
        """Decoded change (..., genes) of shifts (..., d) of `<cls>`; None without the head."""
        return None if self.weights is None else shifts @ self.weights.T

    def directional(self, target: str, shifts: np.ndarray, change: np.ndarray | None = None) -> dict:
        """Measures (k,) of mean shifts (k, d): what random directions are compared on, and more."""
        truth, i = self.truth[target], self.targets.index(target)
        predicted = self.control + shifts
        change = self.change_of(shifts) if change is None else change
        centred = predicted - self.middle, self.centroids[i] - self.middle
        return {
            "cosine_control": evaluation.cosine(shifts, truth.shift),
            "pearson_control": evaluation.pearson(shifts, truth.shift),
            "cosine_centroids": evaluation.cosine(*centred),
            "pearson_centroids": evaluation.pearson(*centred),
            "centroid_accuracy": evaluation.centroid_accuracy(predicted, self.centroids, i),
            "overlap": np.full(len(shifts), np.nan) if change is None else evaluation.signed_overlap(
                change, truth.change, self.top, truth.column
            ),
            "off_target": evaluation.off_target(shifts, truth.shift),
        }  # fmt: skip

    def measure(self, target: str, prediction: Prediction, dose: float) -> dict[str, object]:
        """All measures of one prediction at one of its doses."""
        truth, i = self.truth[target], int(np.argmin(np.abs(prediction.doses - dose)))
        shifts = prediction.shifts[i]
        change = None if prediction.change is None else prediction.change[None]
        found = self.directional(target, shifts.mean(axis=0)[None], change)
        row: dict[str, object] = {name: float(value[0]) for name, value in found.items()}
        base = self.states.last[prediction.rows]
        moved = base + shifts
        nearer, spread = truth.nearer.share(moved)
        row |= {
            "e_distance": evaluation.e_distance(moved, truth.cells),
            "mmd": evaluation.mmd(moved, truth.cells, truth.bandwidth),
            "nearer": nearer,
            "nearer_sd": spread,
            "nearer_unsteered": truth.nearer.share(base)[0],
            "n_cells": len(base),
            **self._interval(target, shifts),
        }
        if not prediction.fixed:
            weights = evaluation.bootstrap_weights(len(base), self.draws, self.generator)
            slopes = evaluation.slope(prediction.shifts, prediction.doses, truth.shift, weights)
            even = np.full((1, len(base)), 1 / len(base))
            row["slope"] = float(evaluation.slope(prediction.shifts, prediction.doses, truth.shift, even)[0])
            row["slope_lo"], row["slope_hi"] = map(float, np.quantile(slopes, stats.INTERVAL))
        return row

    def _draws(self, target: str, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cosines (draws,) against control and against the mean of centroids, cells resampled."""
        predicted = self._means(shifts)
        observed = self._target_draws(target)
        control = evaluation.cosine(predicted, observed - self._control_draws)
        i = self.targets.index(target)
        middle = self.middle + (observed - self.centroids[i]) / len(self.targets)
        centred = self._control_draws + predicted - middle
        return control, evaluation.cosine(centred, observed - middle)

    def _target_draws(self, target: str) -> np.ndarray:
        if not hasattr(self, "_observed"):
            last = self.states.last
            self._observed = {t: self._means(last[self.rows[t, True]]) for t in self.targets}
        return self._observed[target]

    def _interval(self, target: str, shifts: np.ndarray) -> dict[str, float]:
        if not shifts.any():
            return {"lo": np.nan, "hi": np.nan}
        lo, hi = np.nanquantile(self._draws(target, shifts)[0], stats.INTERVAL)
        return {"lo": float(lo), "hi": float(hi)}

    def better(self, target: str, one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
        """Difference of the cosines against control of two predictions' shifts (cells, d), and its interval.

        Cells of the target and of the reference are resampled together for both.
        """
        truth = self.truth[target].shift
        means = one.mean(axis=0), other.mean(axis=0)
        difference = evaluation.cosine(means[0], truth) - evaluation.cosine(means[1], truth)
        draws = self._draws(target, one)[0] - self._draws(target, other)[0]
        lo, hi = np.nanquantile(draws, stats.INTERVAL)
        return float(difference), float(lo), float(hi)

    def errors(self, predictions: Mapping[str, Prediction]) -> np.ndarray:
        """What is wrong with predictions (targets, doses) on fitting cells, NaN where there are none.

        By `distance`: that from the observed shift, in norms of it. By `accuracy`: 1 less the centroid
        accuracy among fitting cells, the distance deciding between equals. The least distance is had by
        short shifts, whose nearest centroid is that of the weakest perturbation.
        """
        n = next((len(p.doses) for p in predictions.values()), 0)
        found = np.full((len(self.targets), n), np.nan)
        fitted = np.stack([self.fit_shifts[t] for t in self.targets])
        for i, target in enumerate(self.targets):
            if target not in predictions:
                continue
            means = predictions[target].shifts.mean(axis=1)
            distance = np.linalg.norm(means - fitted[i], axis=1) / np.linalg.norm(fitted[i])
            found[i] = distance
            if self.dose_by == "accuracy":
                found[i] = 1 - evaluation.centroid_accuracy(means, fitted, i) + 1e-3 * distance
        return found

    def doses(self, predictions: Mapping[str, Prediction]) -> dict[str, float]:
        """The dose of each target, chosen on the fitting cells of all other targets."""
        first = next(iter(predictions.values()))
        if first.fixed:
            return {target: float(first.doses[0]) for target in predictions}
        chosen = evaluation.choose_doses(self.errors(predictions), first.doses)
        return {t: float(dose) for t, dose in zip(self.targets, chosen, strict=True) if t in predictions}

    def table(self, methods: Mapping[str, Mapping[str, Prediction]]) -> pd.DataFrame:
        """One row a method and target, at the dose chosen on others, with every measure."""
        rows = []
        for method, predictions in methods.items():
            if not predictions:
                continue
            doses = self.doses(predictions)
            judged = [t for t in self.targets if t in predictions]
            means = np.stack([self._at(predictions[t], doses[t]).mean(axis=0) for t in judged])
            place = [self.targets.index(t) for t in judged]
            rank = evaluation.ranks(self.control + means, self.centroids[place])
            rows += [
                {"target": t, "method": method, "dose": np.nan if predictions[t].fixed else doses[t],
                 **self.measure(t, predictions[t], doses[t]), "rank": rank[k]}
                for k, t in enumerate(judged)
            ]  # fmt: skip
        return pd.DataFrame(rows)

    @staticmethod
    def _at(prediction: Prediction, dose: float) -> np.ndarray:
        return prediction.shifts[int(np.argmin(np.abs(prediction.doses - dose)))]

    def curves(self, methods: Mapping[str, Mapping[str, Prediction]]) -> pd.DataFrame:
        """One row a method, target and dose: the projection on the observed shift, in its norms, and more."""
        rows = []
        for method, predictions in methods.items():
            for target, prediction in predictions.items():
                if prediction.fixed or target not in self.truth:
                    continue
                truth = self.truth[target].shift
                means = prediction.shifts.mean(axis=1)
                found = self.directional(target, means)
                along = means @ truth / (truth @ truth)
                for i, dose in enumerate(prediction.doses):
                    rows.append(
                        {"target": target, "method": method, "dose": float(dose), "along": float(along[i]),
                         **{name: float(found[name][i]) for name in (*MEASURES, "off_target")}}
                    )  # fmt: skip
        return pd.DataFrame(rows)


def p_values(
    judge: Judge,
    predictions: Mapping[str, Prediction],
    doses: Mapping[str, float],
    null: Mapping[str, np.ndarray],
    cells: int,
) -> pd.DataFrame:
    """p of each target over random directions, on the first `cells` acting cells, which both were run on.

    null: target → mean shifts (directions, d). Returns target, `p_<measure>` for :data:`MEASURES`, `p_min`,
    the null's means, and q, Benjamini–Hochberg over targets within a measure.
    """
    rows = []
    for target, shifts in null.items():
        if target not in judge.truth:
            continue
        found = predictions[target]
        acting = np.arange(cells) if found.acting is None else found.acting[:cells]
        own = Judge._at(found, doses[target])[acting].mean(axis=0)[None]
        observed, random = judge.directional(target, own), judge.directional(target, shifts)
        row = {"target": target, "p_min": 1 / (1 + len(shifts))}
        for name in MEASURES:
            value = observed[name][0]
            row[f"p_{name}"] = float(stats.permutation_p(value, random[name]))
            row[f"null_{name}"] = (
                float(np.nanmean(random[name])) if np.isfinite(random[name]).any() else np.nan
            )
        rows.append(row)
    frame = pd.DataFrame(rows)
    for name in MEASURES if len(frame) else ():
        frame[f"q_{name}"] = stats.benjamini_hochberg(frame[f"p_{name}"].to_numpy())
    return frame


def other_genes(
    judge: Judge, predictions: Mapping[str, Prediction], doses: Mapping[str, float]
) -> pd.DataFrame:
    """Each target judged by all other targets' directions at its own dose: means, and shares that are worse.

    Only where all were run on the same cells. Columns of the measures are means over the others;
    `worse_<measure>` is the share of the others that are worse than the target's own (ties ½).
    """
    rows = []
    for target, own in predictions.items():
        if target not in judge.truth:
            continue
        others = [p for name, p in predictions.items() if name != target and np.array_equal(p.rows, own.rows)]
        if not others:
            continue
        dose = doses[target]
        mine = judge.directional(target, Judge._at(own, dose).mean(axis=0)[None])
        theirs = judge.directional(target, np.stack([Judge._at(p, dose).mean(axis=0) for p in others]))
        measured = pd.DataFrame([judge.measure(target, p, dose) for p in others]).mean(numeric_only=True)
        row = {"target": target, "dose": dose, **measured.to_dict()}
        for name in MEASURES:
            worse = (theirs[name] < mine[name]) + 0.5 * (theirs[name] == mine[name])
            row[f"worse_{name}"] = float(worse.mean()) if np.isfinite(mine[name]).all() else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def verdicts(
    judge: Judge,
    methods: Mapping[str, Mapping[str, Prediction]],
    table: pd.DataFrame,
    headline: str,
    against: Sequence[str],
    max_q: float = 0.05,
) -> pd.DataFrame:
    """One row a target: is the headline method better than each simple prediction, in words.

    `better than <method>`: yes where the difference of cosines against control has an interval above 0.
    `above random directions`: yes where q of that cosine is below `max_q`.
    """
    rows = []
    head = table[table["method"] == headline].set_index("target")
    for target in judge.targets:
        row: dict[str, object] = {"target": target}
        if target not in head.index:
            rows.append({**row, "verdict": NOT_COMPARED})
            continue
        mine = Judge._at(methods[headline][target], head.at[target, "dose"])
        words = []
        for method in against:
            if target not in methods.get(method, {}):
                row[f"better than {method}"] = NOT_COMPARED
                continue
            doses = table[(table["method"] == method) & (table["target"] == target)]["dose"]
            dose = 1.0 if doses.isna().all() else float(doses.iloc[0])
            difference, lo, hi = judge.better(target, mine, Judge._at(methods[method][target], dose))
            said = YES if lo > 0 else NO
            row |= {f"difference from {method}": difference, f"lo {method}": lo, f"hi {method}": hi}
            row[f"better than {method}"] = said
            words.append(f"better than {method}: {said}")
        q = head.at[target, "q_cosine_control"] if "q_cosine_control" in head else np.nan
        said = NOT_COMPARED if np.isnan(q) else YES if q < max_q else NO
        words.append(f"above random directions: {said}")
        row |= {"q": q, "above random directions": said, "verdict": "; ".join(words)}
        rows.append(row)
    return pd.DataFrame(rows)
