"""Steering towards concepts, the experiment's bookkeeping, and recovery: by hand and on a tiny model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from interptfm import steering_recovery, store
from interptfm.activations import Model
from interptfm.errors import InputError
from interptfm.probes import Directions, Probes, read_probes, write_probes
from interptfm.scgpt.model import ModelConfig, initialise
from interptfm.scgpt.tokenizer import Vocabulary, tokenize
from interptfm.steering import analysis, engine, experiment, towards
from interptfm.steering.experiment import ALL, CLS, TOKEN, Plan
from interptfm.steering.screen import Screen

GENES, D, TERMS = 24, 16, 5
SETTINGS = {"position": "all", "bootstrap": 20, "classifier_seeds": 1, "top_genes": 5, "dose_by": "accuracy",
            "max_q": 0.05, "mode": "binned", "max_length": 1200}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    vocabulary = Vocabulary.from_genes([f"G{i}" for i in range(GENES)])
    config = ModelConfig(embsize=D, nheads=2, d_hid=24, nlayers=3, n_layers_cls=1)
    network = initialise(config, len(vocabulary), vocabulary.pad_id, seed=3).eval().requires_grad_(False)
    return Model(network, vocabulary, frozenset(), "all", "sha256:tiny")


@pytest.fixture(scope="module")
def probes():
    rng = np.random.default_rng(0)
    weight, folds = rng.standard_normal((TERMS, D)), rng.standard_normal((3, TERMS, D))
    weight[4] = 0  # a term that could not be fitted
    kinds = {
        kind: Directions(weight, np.zeros(TERMS), np.ones(TERMS), folds, np.zeros((3, TERMS)))
        for kind in ("difference", "ridge")
    }
    permuted = {"difference": Directions(weight[::-1].copy(), np.zeros(TERMS), np.ones(TERMS))}
    names = [f"T{i}" for i in range(TERMS)]
    genes = [f"G{i}" for i in range(GENES)]
    fold = np.arange(GENES) % 3
    return Probes("sha256:tiny", 1, names, genes, fold, np.zeros(D), kinds, permuted, {})


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(1)
    return sparse.csr_matrix(rng.poisson(1.5, (200, GENES)).astype(np.float32))


def screen_of(counts):
    target = np.array(["control"] * 80 + [f"G{i}" for i in range(4) for _ in range(30)])
    judge = np.arange(200) % 2 == 0
    names = [f"c{i}" for i in range(200)]
    return Screen(counts, [f"G{i}" for i in range(GENES)], names, target, "control", judge)


def test_a_contrast_by_hand():
    members = np.array([True, True, False, False, False])
    judged = np.array([True, True, True, True, False])
    effect, auroc = towards.contrast(np.array([[3.0, 1, 0, 0, 99], [0, 0, 3, 1, 0]]), members, judged)
    spread = np.std([3, 1, 0, 0])
    assert effect == pytest.approx([2 / spread, -2 / spread]) and auroc.tolist() == [1.0, 0.0]
    assert np.isnan(towards.contrast(np.ones((1, 5)), members, members)[0]).all()


def test_towards_concepts_uses_directions_without_the_judged_genes(model, probes, counts, monkeypatch):
    members = np.random.default_rng(2).random((TERMS, GENES)) < 0.4
    ids = model.vocabulary.ids([f"G{i}" for i in range(GENES)])
    tokens = tokenize(counts[:6], ids, model.vocabulary)
    settings = {"dose": 1.0, "random": 30, "min_genes": 3, "terms": 10, "bootstrap": 10, "batch_tokens": 512}
    seen = []
    original = towards.decoded_changes

    def record(*args, **options):
        seen.append(args[4])
        return original(*args, **options)

    monkeypatch.setattr(towards, "decoded_changes", record)
    table, summary = towards.towards(
        model, tokens, probes.genes, ids, probes, members, "difference", settings, np.random.default_rng(0)
    )
    assert list(table) == list(towards.COLUMNS) and set(table["term_id"]) == {"T0", "T1", "T2", "T3"}
    assert (table["p_min"] == 1 / 31).all() and table["p"].between(1 / 31, 1).all()
    assert (table["lo"] <= table["effect"] + 1e-9).all() and summary["terms"] == 4
    # First the null, then one direction a fold and the permuted one: never that fitted with all genes.
    assert seen[0].shape == (30, D) and [len(v) for v in seen[1:]] == [3, 4, 4, 4]  # T0 has no permuted one
    fitted = [probes.unit("difference", fold=f)[0] for f in range(3)]
    assert np.allclose(seen[1][:3], fitted, atol=1e-6)
    for bad, message in (
        ({"min_genes": 100}, "no term with a direction and 100 genes"),
        ({}, "found no cell to steer"),
    ):
        cells = tokens if bad else tokens.take(np.arange(0))
        with pytest.raises(InputError, match=message):
            towards.towards(
                model, cells, probes.genes, ids, probes, members, "difference", {**settings, **bad},
                np.random.default_rng(0),
            )  # fmt: skip


def test_probes_of_another_model_are_refused(probes, tmp_path):
    write_probes(tmp_path / "probes.safetensors", tmp_path / "probes.json", probes)
    assert read_probes(tmp_path, "sha256:tiny").term_ids == probes.term_ids
    with pytest.raises(
        InputError, match="found probes of the model sha256:tiny, expected those of sha256:new"
    ):
        read_probes(tmp_path, "sha256:new")


def test_token_steering_predicts_for_cells_without_the_token(model, probes, counts):
    screen = screen_of(counts)
    evidence = analysis.evidence_of(model, [probes], "difference", 1)
    plan = Plan(1, np.array([-1.0, 1.0]), cells=6, random=20, random_cells=3)
    states = analysis._states(screen, evidence, plan, SETTINGS, 0)
    judge = analysis._judge(states, screen, SETTINGS, np.random.default_rng(0))
    concepts, sigma = evidence.concepts(1, {"G0": ["T0", "T1"], "G1": ["T2"], "G2": ["T4"]})
    assert sigma == 1 and set(concepts) == {"G0", "G1"} and concepts["G0"].shape == (2, D)
    runner = experiment.Runner(states, screen, judge.steered, concepts, sigma, plan)
    found = runner.add(runner.direction, TOKEN, "token")
    for target, prediction in found.items():
        has = counts[:, int(target[1:])].toarray().ravel()[states.kept[prediction.rows]] > 0
        assert np.array_equal(np.abs(prediction.shifts).sum(axis=(0, 2)) > 0, has)
        assert np.array_equal(prediction.acting, np.flatnonzero(has))
    # Shared cells for the other positions; every direction has the same norm.
    everywhere = runner.add(runner.direction, ALL, "all")
    assert all(len(p.rows) == 6 and p.acting is None for p in everywhere.values())
    one = engine.steer(
        model.network, states.tokens.take(everywhere["G1"].rows),
        [experiment.Step(1, ALL, _add(runner, "G1"))], [-1.0, 1.0],
    ).shift("cls")  # fmt: skip
    assert np.allclose(one, everywhere["G1"].shifts, atol=2e-5)
    with pytest.raises(InputError, match="no token of 'NONE' to steer"):
        runner.null(np.eye(D, dtype=np.float32), TOKEN, 1.0, "NONE")
    assert "no gene 'NONE' in the data" in runner.missing["random", "NONE"]


def _add(runner, target):
    from interptfm.steering.interventions import Add

    return Add(runner.direction[target], runner.scale[ALL])


def test_the_whole_evaluation_runs_on_a_tiny_model(model, probes, counts):
    """Every table is there and complete; nothing is expected of a random model's numbers but their range."""
    screen = screen_of(counts)
    evidence = analysis.evidence_of(model, [probes], "difference", 1)
    of_target = {"G0": ["T0", "T1"], "G1": ["T2"], "G2": ["T3"], "G3": ["T4"]}
    plan = Plan(1, np.array([-1.0, 1.0, 2.0]), cells=6, random=20, random_cells=3)
    found = analysis.analyse(screen, evidence, of_target, plan, SETTINGS, 0, untrained=evidence)
    again = analysis.analyse(screen, evidence, of_target, plan, SETTINGS, 0, untrained=evidence)
    pd.testing.assert_frame_equal(found.effects, again.effects)
    methods = set(found.effects["method"])
    assert {*analysis.NAMES.values(), analysis.PUBLISHED, analysis.INPUT, analysis.OTHERS} <= methods
    assert {analysis.PERMUTED, "no change", "mean shift of the others", "split half (ceiling)"} <= methods
    assert f"untrained: {analysis.NAMES[CLS]}" in methods
    bounded = found.effects[["centroid_accuracy", "nearer", "overlap"]].to_numpy()
    assert ((bounded >= 0) & (bounded <= 1)).all()
    steered = found.effects[found.effects["method"].isin(analysis.NAMES.values())]
    assert steered["p_cosine_control"].between(1 / 21, 1).all() and (steered["p_min"] == 1 / 21).all()
    assert len(found.genes) == 4 and found.genes["verdict"].iloc[3] == "not compared"
    assert set(found.ablation["kind"]) == {"difference", "ridge"} and len(found.expression) == 4 * GENES
    assert found.summary["with_concepts"] == 3 and store.__name__
    with pytest.raises(InputError, match="found no concept with a direction for any of 4 targets"):
        analysis.analyse(screen, evidence, {"G3": ["T4"]}, plan, SETTINGS, 0)


def test_the_clamped_feature_is_that_of_the_best_term():
    aligned = pd.DataFrame(
        {"term_id": ["T0", "T1", "T2"], "feature": [5, 6, 7], "f1_validation": [0.2, 0.9, np.nan]}
    )
    found = analysis.clamped_features({"A": ["T0", "T1"], "B": ["T2"], "C": []}, aligned)
    assert found == {"A": 6}


def test_declines_of_a_program_are_ranked():
    predicted, members = np.array([-3.0, -2, 0, 1, np.nan]), np.array([True, True, False, False, True])
    assert steering_recovery.decline_auroc(predicted, members) == 1
    assert steering_recovery.decline_auroc(-predicted, members) == 0
    assert np.isnan(steering_recovery.decline_auroc(predicted, np.zeros(5, bool)))
