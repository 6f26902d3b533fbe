"""The evaluation on one screen: methods, baselines and ceilings in one table, nulls, verdicts, ablation."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interptfm import job
from interptfm.activations import Model, gene_ids
from interptfm.errors import InputError
from interptfm.probes import Probes
from interptfm.sae.inference import Dictionary
from interptfm.scgpt.tokenizer import tokenize
from interptfm.steering import directions as along
from interptfm.steering import judging, readouts
from interptfm.steering.experiment import ALL, CLS, TOKEN, Plan, Prediction, Runner, States, direct, see
from interptfm.steering.interventions import unit
from interptfm.steering.judging import MEAN_SHIFT, SPLIT_HALF, Judge
from interptfm.steering.screen import Screen

log = logging.getLogger("interptfm.steering")

NAMES = {ALL: "concept, all tokens", TOKEN: "concept, gene's token", CLS: "concept, <cls>"}
PUBLISHED, CLAMP, INPUT = "published rule, gene's token", "feature clamped, all tokens", "input value alone"
PERMUTED, NEURON, COMPONENT = "permuted probe, all tokens", "raw neuron, all tokens", "component, all tokens"
CEILING = "difference in means, <cls> (ceiling)"
OTHERS = "another gene's concepts, all tokens"
UNTRAINED = "untrained: "
SHOWN_TARGETS = 4
RANDOM_ACTIVITY = 100


@dataclass
class Evidence:
    """What steering knows of one model.

    directions: (kind of probe, layer) → unit directions (terms, d), rows of `term_ids`, and the standard
    deviation of tokens along each (terms,); kind: the one that is steered along, the others serve the
    ablation. permuted: those of this kind at the plan's layer under a permuted membership; moments: of the
    training tokens there; either None where the controls made of it are not wanted.
    """

    model: Model
    term_ids: list[str]
    kind: str
    directions: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]
    permuted: np.ndarray | None = None
    moments: along.Moments | None = None

    def concepts(
        self, layer: int, of_target: Mapping[str, Sequence[str]], kind: str | None = None
    ) -> Concepts:
        """Return target → directions (k, d) of its terms at a layer, and the targets' median deviation."""
        rows, sigma = self.directions[kind or self.kind, layer]
        found = along.of_concepts(rows, self.term_ids, of_target)
        position = {term: i for i, term in enumerate(self.term_ids)}
        each = [
            np.median([sigma[position[name]] for name in of_target[t] if name in position]) for t in found
        ]
        return found, float(np.median(each)) if each else 1.0

    @property
    def layers(self) -> list[int]:
        """Layers that have directions of the kind."""
        return sorted(layer for kind, layer in self.directions if kind == self.kind)


Concepts = tuple[dict[str, np.ndarray], float]


def clamped_features(of_target: Mapping[str, Sequence[str]], aligned: pd.DataFrame) -> dict[str, int]:
    """Return target → the feature of its best-aligned concept, by F1 on validation blocks.

    aligned: `alignment/…/concepts.parquet` (term_id, feature, f1_validation).
    """
    best = aligned.assign(term_id=aligned["term_id"].astype(str)).set_index("term_id")
    best = best[best["f1_validation"].notna()]
    found = {}
    for target, names in of_target.items():
        known = best.loc[[name for name in names if name in best.index]]
        if len(known):
            found[target] = int(known.loc[known["f1_validation"].idxmax(), "feature"])
    return found


def evidence_of(
    model: Model, probes: Sequence[Probes], kind: str, layer: int, moments: along.Moments | None = None
) -> Evidence:
    """Return what steering needs of the probes of several layers; InputError where their terms differ."""
    term_ids = probes[0].term_ids
    for each in probes:
        if each.term_ids != term_ids:
            raise InputError(
                f"probes of layer {each.layer}: found other terms than in layer {probes[0].layer}, expected "
                "the same"
            )
    directions = {
        (k, each.layer): (each.unit(k), each.of(k).sigma) for each in probes for k in each.directions
    }
    here = next(each for each in probes if each.layer == layer)
    here.of(kind)
    permuted = here.unit(kind, permuted=True) if kind in here.permuted else None
    return Evidence(model, list(term_ids), kind, directions, permuted, moments)


@dataclass
class Result:
    """Tables of the evaluation; `summary` is JSON."""

    effects: pd.DataFrame
    doses: pd.DataFrame
    genes: pd.DataFrame
    ablation: pd.DataFrame
    activity: pd.DataFrame
    expression: pd.DataFrame
    cells: pd.DataFrame
    summary: dict[str, Any]


def analyse(
    screen: Screen,
    evidence: Evidence,
    of_target: Mapping[str, Sequence[str]],
    plan: Plan,
    settings: Mapping[str, Any],
    seed: int,
    *,
    untrained: Evidence | None = None,
    dictionary: Dictionary | None = None,
    features: Mapping[str, int] | None = None,
) -> Result:
    """Evaluate steering on a screen.

    Parameters
    ----------
    screen, evidence
        The data; the model with its directions.
    of_target
        Target → its terms, from :func:`interptfm.steering.directions.terms_of`.
    plan, settings
        What is run; `position` (of the headline), `dose_by`, `bootstrap`, `classifier_seeds`,
        `top_genes`, `max_q`, `mode`, `max_length`.
    untrained
        The same for a model with random weights, with directions fitted on its own activations.
    dictionary, features
        Of the plan's layer; target → feature to clamp.

    Raises
    ------
    InputError
        Where no target has a concept with a direction, or the data are too few.
    """

    def generator(*names: object) -> np.random.Generator:
        return job.generator(seed, "steering", *names)

    states = _states(screen, evidence, plan, settings, seed)
    log.info("%d cells seen, %d targets to judge", len(states.kept), len(screen.targets))
    judge = _judge(states, screen, settings, generator("judge"))
    concepts, sigma = evidence.concepts(plan.layer, _judged(of_target, judge))
    if not concepts:
        raise InputError(
            f"steering: found no concept with a direction for any of {len(judge.targets)} targets, expected "
            "targets that the ontology annotates"
        )
    runner = Runner(states, screen, judge.steered, concepts, sigma, plan)
    methods = {NAMES[position]: runner.add(runner.direction, position, NAMES[position]) for position in NAMES}
    by_layer = {layer: evidence.concepts(layer, _judged(of_target, judge))[0] for layer in evidence.layers}
    methods[PUBLISHED] = runner.published(by_layer, PUBLISHED)
    chosen: dict[str, int] = {}
    if dictionary is not None and features:
        chosen = {t: f for t, f in features.items() if t in concepts}
        methods[CLAMP] = runner.clamped(dictionary, chosen, plan.layer)
    methods |= _controls(runner, evidence, of_target)
    methods[INPUT] = runner.input_value(judge.targets, INPUT)
    methods[CEILING] = _ceiling(runner, judge)
    rows = judge.steered[: plan.cells]
    for name, found in judge.simple().items():
        shifts = {t: shift for t, (shift, _) in found.items()}
        methods[name] = direct(rows, shifts, {t: change for t, (_, change) in found.items()})
    methods = {name: found for name, found in methods.items() if found}

    log.info("%d methods run", len(methods))
    effects = judge.table(methods)
    log.info("methods judged; %d random directions next", plan.random)
    effects = _with_p(effects, judge, runner, methods, generator("random"))
    log.info("random directions run")
    others = judging.other_genes(judge, methods[NAMES[ALL]], judge.doses(methods[NAMES[ALL]]))
    effects = _with_others(effects, others)
    if untrained is not None:
        effects = pd.concat([effects, _untrained(screen, untrained, of_target, plan, settings, seed)])
    headline = NAMES[settings["position"]]
    if headline not in methods:
        raise InputError(
            f"steering.position: found {settings['position']!r}, which no target can be steered at, expected "
            f"one of {', '.join(p for p in NAMES if NAMES[p] in methods)}"
        )
    against = [MEAN_SHIFT, INPUT]
    genes = judging.verdicts(judge, methods, effects, headline, against, settings["max_q"])
    genes = genes.assign(
        n_concepts=[len(concepts.get(t, ())) for t in genes["target"]],
        n_cells=[len(judge.rows[t, True]) for t in genes["target"]],
        measured=[judge.truth[t].column >= 0 for t in genes["target"]],
    )
    log.info("ablation next")
    ablation = _ablation(states, screen, judge, evidence, of_target, plan)
    reasons = [{"method": m, "target": t, "reason": r} for (m, t), r in sorted(runner.missing.items())]
    summary = {
        "layer": plan.layer,
        "headline": headline,
        "targets": len(judge.targets),
        "with_concepts": len(concepts),
        "with_token": len(methods.get(NAMES[TOKEN], {})),
        "steered_cells": plan.cells,
        "random_directions": plan.random,
        "random_cells": plan.random_cells,
        "p_min": 1 / (1 + plan.random),
        "scale": runner.scale,
        "expression_head": readouts.head(evidence.model.network),
        "verdicts": _counts(genes),
        "clamped": chosen,
        "not_steered": reasons,
    }
    return Result(
        effects.reset_index(drop=True),
        judge.curves(methods),
        genes,
        ablation,
        _activity(judge, by_layer, generator("activity")),
        _expression(judge, methods, headline, effects),
        _cells(judge, methods[headline], effects, headline),
        summary,
    )


def _states(screen: Screen, evidence: Evidence, plan: Plan, settings: Mapping[str, Any], seed: int) -> States:
    ids = gene_ids(screen.genes, evidence.model)
    tokens = tokenize(
        screen.counts, ids, evidence.model.vocabulary, settings["mode"], max_length=settings["max_length"],
        n_bins=evidence.model.network.config.n_bins, cell_names=screen.names, seed=seed,
    )  # fmt: skip
    return see(screen, evidence.model, tokens, ids, [*evidence.layers, plan.layer], plan)


def _judge(
    states: States, screen: Screen, settings: Mapping[str, Any], generator: np.random.Generator
) -> Judge:
    network = states.model.network
    weights = readouts.mvc_weights(network, states.ids) if readouts.head(network) == "mvc" else None
    return Judge(
        states, screen, weights, generator, settings["bootstrap"], settings["classifier_seeds"],
        settings["top_genes"], settings["dose_by"],
    )  # fmt: skip


def _judged(of_target: Mapping[str, Sequence[str]], judge: Judge) -> dict[str, Sequence[str]]:
    return {target: names for target, names in of_target.items() if target in judge.targets}


def _controls(
    runner: Runner, evidence: Evidence, of_target: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Prediction]]:
    """Directions that are no concept's, of the same norm at the same tokens."""
    found: dict[str, dict[str, Prediction]] = {}
    moments = evidence.moments
    if moments is not None:
        neurons = {t: along.neuron(moments, d) for t, d in runner.direction.items()}
        components = {t: along.component(moments, d) for t, d in runner.direction.items()}
        found[NEURON] = runner.add(neurons, ALL, NEURON)
        found[COMPONENT] = runner.add(components, ALL, COMPONENT)
    if evidence.permuted is not None:
        permuted = along.of_concepts(evidence.permuted, evidence.term_ids, of_target)
        one = {t: along.combined(rows) for t, rows in permuted.items() if t in runner.direction}
        found[PERMUTED] = runner.add(one, ALL, PERMUTED)
    return found


def _ceiling(runner: Runner, judge: Judge) -> dict[str, Prediction]:
    """The target's own shift of `<cls>` at the plan's layer, from fitting cells, added to `<cls>`."""
    cls = runner.states.cls[runner.plan.layer]
    control = cls[judge.rows[judge.screen.control, False]].mean(axis=0)
    shifts = {t: cls[judge.rows[t, False]].mean(axis=0) - control for t in judge.targets}
    return runner.add({t: unit(shift)[0].numpy() for t, shift in shifts.items()}, CLS, CEILING)


def _with_p(
    effects: pd.DataFrame,
    judge: Judge,
    runner: Runner,
    methods: Mapping[str, Mapping[str, Prediction]],
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Add p and q over random directions to the methods that add a concept's direction."""
    plan = runner.plan
    directions = along.random_directions(plan.random, runner.network.config.embsize, generator)
    parts = []
    for position, name in NAMES.items():
        if name not in methods:
            continue
        doses, null, shared = judge.doses(methods[name]), {}, {}
        for target in methods[name]:
            size = abs(doses[target])
            if position == TOKEN:
                null[target] = runner.null(directions, position, size, target)
                continue
            if size not in shared:
                shared[size] = runner.null(directions, position, size)
            null[target] = shared[size]
        frame = judging.p_values(judge, methods[name], doses, null, plan.random_cells)
        parts.append(frame.assign(method=name))
    return effects.merge(pd.concat(parts), on=["target", "method"], how="left")


def _with_others(effects: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Add what other genes' directions do, as a method and as the share of them that is worse."""
    if not len(others):
        return effects
    worse = [name for name in others if name.startswith("worse_")]
    own = others[["target", *worse]].assign(method=NAMES[ALL])
    effects = effects.merge(own, on=["target", "method"], how="left")
    return pd.concat([effects, others.drop(columns=worse).assign(method=OTHERS)], ignore_index=True)


def _untrained(
    screen: Screen,
    evidence: Evidence,
    of_target: Mapping[str, Sequence[str]],
    plan: Plan,
    settings: Mapping[str, Any],
    seed: int,
) -> pd.DataFrame:
    """The same steering in a model with random weights, judged in its own `<cls>`."""
    states = _states(screen, evidence, plan, settings, seed)
    judge = _judge(states, screen, settings, job.generator(seed, "steering", "judge"))
    concepts, sigma = evidence.concepts(plan.layer, _judged(of_target, judge))
    runner = Runner(states, screen, judge.steered, concepts, sigma, plan)
    methods = {NAMES[place]: runner.add(runner.direction, place, NAMES[place]) for place in (ALL, CLS)}
    methods[INPUT] = runner.input_value(judge.targets, INPUT)
    shifts = {t: shift for t, (shift, _) in judge.simple()[SPLIT_HALF].items()}
    methods[SPLIT_HALF] = direct(judge.steered[: plan.cells], shifts, judge.fit_changes)
    table = judge.table({name: found for name, found in methods.items() if found})
    return table.assign(method=UNTRAINED + table["method"])


def _ablation(
    states: States,
    screen: Screen,
    judge: Judge,
    evidence: Evidence,
    of_target: Mapping[str, Sequence[str]],
    plan: Plan,
) -> pd.DataFrame:
    """What changes with the probe, the layer, the position, and with a dose chosen on the judging cells.

    Few cells each. `best_dose_cosine` takes each target's best dose by its own judging cells: an upper bound
    on what choosing the dose better could give.
    """
    rows = []
    small = dataclasses.replace(plan, cells=2 * plan.random_cells)
    for kind, layer in evidence.directions:
        concepts, sigma = evidence.concepts(layer, _judged(of_target, judge), kind)
        if not concepts or layer not in states.cls:
            continue
        here = dataclasses.replace(small, layer=layer)
        runner = Runner(states, screen, judge.steered, concepts, sigma, here)
        for position in (ALL, CLS):
            if position == ALL and layer == states.model.network.n_layers - 1:
                continue  # nothing reads gene tokens after the last layer
            found = runner.add(runner.direction, position, "ablation")
            doses = judge.doses(found)
            for target, prediction in found.items():
                means = prediction.shifts.mean(axis=1)
                measured = judge.directional(target, means)
                at = int(np.argmin(np.abs(prediction.doses - doses[target])))
                best = measured["cosine_control"]
                rows.append(
                    {"kind": kind, "layer": layer, "position": position, "target": target,
                     "dose": doses[target], **{m: float(measured[m][at]) for m in judging.MEASURES},
                     "best_dose_cosine": float(np.nanmax(best)) if np.isfinite(best).any() else np.nan,
                     "best_dose_accuracy": float(measured["centroid_accuracy"].max())}
                )  # fmt: skip
    return pd.DataFrame(rows)


def _activity(
    judge: Judge, by_layer: Mapping[int, Mapping[str, np.ndarray]], generator: np.random.Generator
) -> pd.DataFrame:
    """Standardised difference of perturbed and control `<cls>` along concepts, and along random directions.

    Cohen's d over judging cells, by layer and target; `direction` is concept or random.
    """
    rows = []
    for layer, concepts in sorted(by_layer.items()):
        cls = judge.states.cls[layer]
        random = along.random_directions(RANDOM_ACTIVITY, cls.shape[1], generator)
        control = cls[judge.reference]
        for target in judge.targets:
            own = [along.combined(concepts[target])] if target in concepts else []
            directions = np.stack([*own, *random])
            one, other = cls[judge.rows[target, True]] @ directions.T, control @ directions.T
            pooled = np.sqrt((one.var(axis=0, ddof=1) + other.var(axis=0, ddof=1)) / 2)
            effect = (one.mean(axis=0) - other.mean(axis=0)) / np.maximum(pooled, 1e-12)
            kinds = ["concept"] * len(own) + ["random"] * len(random)
            rows.append(
                pd.DataFrame({"layer": layer, "target": target, "direction": kinds, "effect": effect})
            )
    return pd.concat(rows, ignore_index=True)


def _expression(
    judge: Judge,
    methods: Mapping[str, Mapping[str, Prediction]],
    headline: str,
    effects: pd.DataFrame,
) -> pd.DataFrame:
    """Observed change of log expression and the decoded change of steering, a row a target and gene."""
    doses = effects[effects["method"] == headline].set_index("target")["dose"]
    parts = []
    for target, truth in judge.truth.items():
        frame = pd.DataFrame({"target": target, "gene": judge.screen.genes, "observed": truth.change})
        frame["predicted"] = np.nan
        if target in methods[headline] and judge.weights is not None:
            shift = Judge._at(methods[headline][target], doses[target]).mean(axis=0)
            frame["predicted"] = judge.change_of(shift)
        parts.append(frame.astype({"observed": np.float32, "predicted": np.float32}))
    return pd.concat(parts, ignore_index=True)


def _cells(
    judge: Judge, predictions: Mapping[str, Prediction], effects: pd.DataFrame, headline: str
) -> pd.DataFrame:
    """`<cls>` of control, perturbed and steered cells of the targets with the largest shifts, for a map."""
    doses = effects[effects["method"] == headline].set_index("target")["dose"]
    sizes = {t: float(np.linalg.norm(judge.truth[t].shift)) for t in predictions if t in judge.truth}
    shown = sorted(sizes, key=sizes.__getitem__, reverse=True)[:SHOWN_TARGETS]
    last = judge.states.last
    groups = [("", "control", last[judge.reference])]
    for target in shown:
        found = predictions[target]
        groups.append((target, "perturbed", judge.truth[target].cells))
        groups.append((target, "steered", last[found.rows] + Judge._at(found, doses[target])))
    frames = []
    for target, group, states in groups:
        frame = pd.DataFrame(states.astype(np.float32), columns=[f"d{i}" for i in range(states.shape[1])])
        frame.insert(0, "group", group)
        frame.insert(0, "target", target)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _counts(genes: pd.DataFrame) -> dict[str, dict[str, int]]:
    columns = [c for c in genes if c.startswith(("better than", "above random"))]
    return {c: {str(k): int(v) for k, v in genes[c].value_counts().items()} for c in columns}
