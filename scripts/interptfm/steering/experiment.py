"""Every way to predict a perturbation, run on control cells of a screen at all doses.

Predictions are shifts of the last layer's `<cls>`. All directions of a position are scaled to one norm, so
that steering, its controls and random directions differ in direction alone: a dose of 1 adds the median,
over targets, of the standard deviation along the target's concept direction.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from interptfm.activations import Model
from interptfm.errors import InputError
from interptfm.sae.inference import Dictionary
from interptfm.scgpt.tokenizer import Tokens
from interptfm.steering import engine, inputs, readouts
from interptfm.steering.directions import combined
from interptfm.steering.interventions import Clamp, Project, Step
from interptfm.steering.screen import Screen

log = logging.getLogger("interptfm.steering")

CONCEPT = "concept"
ALL, CLS, TOKEN = "all", "cls", "token"
MIN_TOKEN_CELLS = 5
TOKEN_POOL = 4
"""How many times as many cells are looked at where only those with a gene's token are run."""


@dataclass
class Plan:
    """What is steered: layer, doses, cells steered a target, and the null.

    random: number of random directions; random_cells: cells that they, and what they are compared with,
    are run on.
    """

    layer: int
    doses: np.ndarray
    cells: int = 32
    random: int = 500
    random_cells: int = 6
    batch_tokens: int = 16384
    device: str = "cpu"


@dataclass
class States:
    """A screen seen by a model: tokens of the cells that have any, and their `<cls>` by layer (cells, d).

    kept (cells,) are rows of the screen. `last` is the last layer's.
    """

    model: Model
    ids: np.ndarray
    tokens: Tokens
    kept: np.ndarray
    cls: dict[int, np.ndarray]

    @property
    def last(self) -> np.ndarray:
        return self.cls[self.model.network.n_layers - 1]


@dataclass
class Prediction:
    """Shifts (doses, cells, d) of `<cls>` by one method for one target, of the cells `rows` (of the states).

    doses (doses,). change (genes,): predicted change of expression where it does not come from `<cls>`.
    fixed: there is no dose to choose. acting (n,): the cells, by place in `rows`, that the method can act on;
    the others, which lack the gene's token, keep their state, and count as such in the population. None: all.
    """

    rows: np.ndarray
    doses: np.ndarray
    shifts: np.ndarray
    change: np.ndarray | None = None
    fixed: bool = False
    acting: np.ndarray | None = None


@dataclass
class Predictions:
    """`of[method][target]`, the norm that a dose of 1 adds at each position, and why others are missing."""

    of: dict[str, dict[str, Prediction]]
    scale: dict[str, float] = field(default_factory=dict)
    missing: dict[tuple[str, str], str] = field(default_factory=dict)


def see(screen: Screen, model: Model, tokens: Tokens, ids: np.ndarray, layers: Sequence[int],
        plan: Plan) -> States:  # fmt: skip
    """Run the model once over all cells of the screen; `layers` beside the last are kept."""
    kept = np.flatnonzero(tokens.lengths > 1)
    if not len(kept):
        raise InputError("steering: found no cell with a gene of the vocabulary, expected some")
    seen = tokens.take(kept)
    wanted = sorted({*layers, model.network.n_layers - 1})
    read = {str(layer): readouts.cls(layer) for layer in wanted}
    base = engine.steer(
        model.network, seen, [], [0.0], read, batch_tokens=plan.batch_tokens, device=plan.device
    ).base
    return States(model, ids, seen, kept, {layer: base[str(layer)] for layer in wanted})


class Runner:
    """Runs the methods on the steered control cells; see :meth:`everything`.

    Parameters
    ----------
    states, screen
        Of all cells; `steered` (n,) are rows of the states: controls that judge nothing.
    concepts
        Target → unit directions (k, d) of its concepts at the plan's layer.
    sigma
        Norm that a dose of 1 adds to gene tokens.
    plan
        Doses and sizes.
    """

    def __init__(
        self,
        states: States,
        screen: Screen,
        steered: np.ndarray,
        concepts: Mapping[str, np.ndarray],
        sigma: float,
        plan: Plan,
    ) -> None:
        self.states, self.screen, self.plan = states, screen, plan
        self.steered, self.concepts = steered, dict(concepts)
        self.network, self.options = (
            states.model.network,
            {"batch_tokens": plan.batch_tokens, "device": plan.device},
        )
        one = {target: combined(rows) for target, rows in concepts.items()}
        self.direction = one
        spread = states.cls[plan.layer][steered].std(axis=0, ddof=1)
        centred = states.cls[plan.layer][steered] - states.cls[plan.layer][steered].mean(axis=0)
        along = [float((centred @ d).std(ddof=1)) for d in one.values()]
        of_cls = float(np.median(along)) if along else float(np.sqrt((spread**2).mean()))
        self.scale = {ALL: sigma, TOKEN: sigma, CLS: of_cls}
        self.missing: dict[tuple[str, str], str] = {}

    def tokens(self, rows: np.ndarray) -> Tokens:
        return self.states.tokens.take(rows)

    @property
    def pool(self) -> np.ndarray:
        """Control cells (n,) that token methods predict for, with the token or without."""
        return self.steered[: TOKEN_POOL * self.plan.cells]

    def token_rows(self, target: str, method: str) -> tuple[int, np.ndarray] | None:
        """Column of a target and the pool's cells (by place) with its token, or None, the reason noted."""
        try:
            column = inputs.column_of(target, self.screen.genes, self.states.ids)
        except InputError as error:
            self.missing[method, target] = str(error).removeprefix("steering: ")
            return None
        having = inputs.having(self.tokens(self.pool), column)
        if len(having) < MIN_TOKEN_CELLS:
            self.missing[method, target] = (
                f"{len(having)} control cells have its token, {MIN_TOKEN_CELLS} wanted"
            )
            return None
        return column, having

    def spread(
        self, acting: np.ndarray, shifts: np.ndarray, doses: np.ndarray, fixed: bool = False
    ) -> Prediction:
        """Prediction for the pool of what was run on its `acting` cells: 0 for the others."""
        every = np.zeros((len(doses), len(self.pool), shifts.shape[2]), np.float32)
        every[:, acting] = shifts
        return Prediction(self.pool, doses, every, fixed=fixed, acting=acting)

    def add(self, directions: Mapping[str, np.ndarray], position: str, method: str) -> dict[str, Prediction]:
        """Add each target's direction (d,) at every dose."""
        doses, size = self.plan.doses, self.scale[position]
        if position == TOKEN:
            found = {}
            for target, direction in directions.items():
                place = self.token_rows(target, method)
                if place is None:
                    continue
                vectors = doses[:, None] * size * direction
                shifts = engine.steer_each(
                    self.network, self.tokens(self.pool[place[1]]), self.plan.layer, TOKEN, vectors,
                    column=place[0], **self.options,
                ).shift("cls")  # fmt: skip
                found[target] = self.spread(place[1], shifts, doses)
            return found
        if not directions:
            return {}
        rows = self.steered[: self.plan.cells]
        vectors = np.concatenate([doses[:, None] * size * d for d in directions.values()])
        shifts = engine.steer_each(
            self.network, self.tokens(rows), self.plan.layer, position, vectors, **self.options
        ).shift("cls")
        parts = shifts.reshape(len(directions), len(doses), len(rows), -1)
        return {target: Prediction(rows, doses, part) for target, part in zip(directions, parts, strict=True)}

    def rule(self, steps: Sequence[Step], column: int | None, rows: np.ndarray) -> Prediction:
        """Any steps at every dose."""
        found = engine.steer(
            self.network, self.tokens(rows), steps, self.plan.doses, column=column, **self.options
        )
        return Prediction(rows, self.plan.doses, found.shift("cls"))

    def published(
        self, by_layer: Mapping[int, Mapping[str, np.ndarray]], method: str
    ) -> dict[str, Prediction]:
        """Project and scale, all concepts of the target, at its token, in every layer that has probes."""
        found = {}
        for target in self.concepts:
            steps = [
                Step(layer, TOKEN, Project(rows[target]))
                for layer, rows in by_layer.items()
                if target in rows
            ]
            place = self.token_rows(target, method) if steps else None
            if place is not None:
                column, acting = place
                run = self.rule(steps, column, self.pool[acting])
                found[target] = self.spread(acting, run.shifts, self.plan.doses)
        return found

    def clamped(
        self, dictionary: Dictionary, features: Mapping[str, int], layer: int
    ) -> dict[str, Prediction]:
        """A feature of the target's concepts towards 0, at all tokens."""
        rows = self.steered[: self.plan.cells]
        return {
            target: self.rule([Step(layer, ALL, Clamp(dictionary, feature, 0.0))], None, rows)
            for target, feature in features.items()
        }

    def input_value(self, targets: Sequence[str], method: str) -> dict[str, Prediction]:
        """The target's own token taken away, and nothing else."""
        found = {}
        for target in targets:
            place = self.token_rows(target, method)
            if place is None:
                continue
            column, acting = place
            change = inputs.InputValue(column, int(self.states.ids[column]))
            shifts = engine.steer(
                self.network, self.tokens(self.pool[acting]), [change], [1.0], **self.options
            ).shift("cls")
            found[target] = self.spread(acting, shifts, np.ones(1), fixed=True)
        return found

    def null(
        self, directions: np.ndarray, position: str, dose: float, target: str | None = None
    ) -> np.ndarray:
        """Mean shifts (directions, d) of random directions at one dose, over the null's cells."""
        column, rows = None, self.steered[: self.plan.random_cells]
        if position == TOKEN:
            place = self.token_rows(str(target), "random")
            if place is None:
                raise InputError(f"steering: found no token of {target!r} to steer, expected one")
            column, rows = place[0], self.pool[place[1][: self.plan.random_cells]]
        vectors = directions * np.float32(abs(dose) * self.scale[position])
        found = engine.steer_each(
            self.network, self.tokens(rows), self.plan.layer, position, vectors, column=column, **self.options
        )
        return found.shift("cls").mean(axis=1)


def direct(
    rows: np.ndarray, shifts: Mapping[str, np.ndarray], changes: Mapping[str, np.ndarray | None]
) -> dict[str, Prediction]:
    """Predictions that are one shift (d,) for all cells, with the change of expression (genes,) beside it."""
    return {
        target: Prediction(
            rows, np.ones(1), np.broadcast_to(shift, (1, len(rows), len(shift))), changes.get(target), True
        )
        for target, shift in shifts.items()
    }
