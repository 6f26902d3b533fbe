"""Steering judged: measures against hand and scipy, screens read and simulated, nulls and verdicts."""

from __future__ import annotations

from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from interptfm import store
from interptfm.errors import InputError
from interptfm.simulate import perturb, read_design, simulate
from interptfm.simulate.perturb import simulate_screen
from interptfm.steering import analysis, directions, evaluation, judging, settings
from interptfm.steering.experiment import Prediction, States
from interptfm.steering.reading import read_screen, target_of
from interptfm.steering.screen import load_screen, write_screen

D = 12


def test_shifts_by_hand():
    observed = np.array([1.0, 1, 0, 0])
    shifts = np.array([[2.0, 2, 0, 0], [-1, -1, 0, 0], [0, 0, 3, 4], [0, 0, 0, 0]])
    assert evaluation.cosine(shifts, observed)[:3] == pytest.approx([1, -1, 0])
    assert np.isnan(evaluation.cosine(shifts, observed)[3])
    assert evaluation.off_target(shifts, observed) == pytest.approx([0, 0, 5 / np.sqrt(2), 0])
    x = np.random.default_rng(0).standard_normal((2, 30))
    assert evaluation.pearson(x[:1], x[1])[0] == pytest.approx(stats.pearsonr(*x).statistic)


def test_centroids_and_ranks():
    centroids = np.array([[0.0, 0], [10, 0], [0, 10]])
    assert evaluation.centroid_accuracy(np.array([[1.0, 1], [9, 0]]), centroids, 0).tolist() == [1.0, 0.5]
    assert evaluation.ranks(centroids, centroids).tolist() == [0.0, 0.0, 0.0]
    # All predictions the same: no information, 0.5 each.
    assert evaluation.ranks(np.ones((3, 2)), centroids).tolist() == [0.5, 0.5, 0.5]
    assert evaluation.ranks(centroids[[1, 0, 2]], centroids).tolist() == [0.75, 0.5, 0.0]


def test_distances_of_populations():
    rng = np.random.default_rng(1)
    same = [evaluation.e_distance(*rng.standard_normal((2, 40, 3))) for _ in range(60)]
    assert (
        abs(np.mean(same)) < 0.02
        and evaluation.e_distance(rng.standard_normal((40, 3)), rng.standard_normal((40, 3)) + 2) > 1
    )
    x, y = rng.standard_normal((2, 60, 1))
    # scipy's energy distance is the root of half of the biased form.
    biased = 2 * stats.energy_distance(x.ravel(), y.ravel()) ** 2
    n = len(x)
    within = sum(np.abs(z - z.T).sum() / (n * n) - np.abs(z - z.T).sum() / (n * (n - 1)) for z in (x, y))
    assert evaluation.e_distance(x, y) == pytest.approx(biased / 2 + within, abs=1e-9)
    same = [evaluation.mmd(*rng.standard_normal((2, 40, 3)), 1.5) for _ in range(60)]
    assert abs(np.mean(same)) < 0.01
    assert evaluation.mmd(rng.standard_normal((40, 3)), rng.standard_normal((40, 3)) + 2, 1.5) > 0.3
    with pytest.raises(InputError, match="found 1 cell"):
        evaluation.e_distance(x[:1], y)


def test_signed_overlap_masks_the_target_and_wants_the_sign():
    observed = np.array([9.0, 3, -2, 1, 0.1, np.nan])
    changes = np.array([[9.0, 5, 4, 0, 0, 7], [0, 3, -4, 0.1, 0, 7], [0, 0, 0, 0, 0, 0]])
    # Without gene 0 and the gene not measured, the top two of the observation are 1 (up) and 2 (down).
    assert evaluation.signed_overlap(changes, observed, 2, masked=0).tolist() == [0.5, 1.0, 0.0]
    assert evaluation.signed_overlap(changes[0], observed, 1).tolist() == 1.0


def test_a_dose_is_chosen_on_the_others():
    errors = np.array([[0.0, 1.0], [5.0, 1.0], [5.0, 1.0], [np.nan, np.nan]])
    assert evaluation.choose_doses(errors, [-1, 2]).tolist() == [2, 2, 2, 2]
    assert evaluation.choose_doses(errors[:2], [-1, 2]).tolist() == [2, -1]


def test_the_slope_of_a_line_is_its_slope():
    observed = np.array([3.0, 4.0])
    doses = np.array([-2.0, 0, 1, 4])
    shifts = doses[:, None, None] * 0.25 * observed + np.zeros((1, 5, 1))
    weights = evaluation.bootstrap_weights(5, 3, np.random.default_rng(0))
    assert evaluation.slope(shifts, doses, observed, weights) == pytest.approx([0.25] * 3)


def test_classifiers_know_which_side_is_nearer():
    rng = np.random.default_rng(3)
    target, control = rng.standard_normal((30, D)) + 2, rng.standard_normal((50, D))
    nearer = evaluation.Nearer.fit(target, control, 2, rng)
    assert len(nearer.weights) == 10
    assert nearer.share(rng.standard_normal((40, D)) + 2)[0] > 0.9 > 0.1 > nearer.share(control)[0]


def write(path, labels, column="perturbation", genes=30, seed=0):
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(2, (len(labels), genes)).astype(np.float32))
    obs = pd.DataFrame({column: labels}, index=[f"c{i}" for i in range(len(labels))])
    anndata.AnnData(counts, obs, pd.DataFrame(index=[f"G{i}" for i in range(genes)])).write_h5ad(path)
    return path


LABELS = ["ctrl"] * 40 + ["G1+ctrl"] * 20 + ["ctrl+G2"] * 20 + ["G1+G2"] * 20 + ["G3"] * 4


def test_a_screen_is_read_and_halved(tmp_path):
    path = write(tmp_path / "gears.h5ad", LABELS)
    screen = read_screen([path], "perturbation", "ctrl", np.random.default_rng(0))
    assert screen.targets == ["G1", "G2"]  # no double, none of 4 cells
    assert [len(screen.cells(t, True)) for t in ("ctrl", "G1", "G2")] == [20, 10, 10]
    assert [len(screen.cells(t, False)) for t in ("ctrl", "G1", "G2")] == [20, 10, 10]
    again = read_screen([path], "perturbation", "ctrl", np.random.default_rng(0))
    assert np.array_equal(again.judge, screen.judge)
    write_screen(tmp_path / "own.h5ad", screen)
    loaded = load_screen(tmp_path / "own.h5ad")
    assert np.array_equal(loaded.judge, screen.judge) and np.array_equal(loaded.target, screen.target)
    assert (loaded.counts != screen.counts).nnz == 0 and loaded.control == "ctrl"
    with pytest.raises(InputError, match="found no screen"):
        load_screen(path)
    assert target_of("A+ctrl", "ctrl") == "A" and target_of("control", "control") == "control"
    same = read_screen(
        [write(tmp_path / "label.h5ad", LABELS, "label")], "label", "ctrl", np.random.default_rng(0)
    )
    assert same.targets == screen.targets
    with pytest.raises(InputError, match="no perturbation 'TP53', expected one of G1"):
        screen.cells("TP53", True)


def test_a_screen_without_what_it_needs_is_refused(tmp_path):
    path, rng = write(tmp_path / "x.h5ad", LABELS), np.random.default_rng(0)
    with pytest.raises(InputError, match="no obs column 'condition', expected"):
        read_screen([path], "condition", "ctrl", rng)
    with pytest.raises(InputError, match="no cell with perturbation 'non-targeting', expected controls"):
        read_screen([path], "perturbation", "non-targeting", rng)
    with pytest.raises(InputError, match="found 0 perturbations of at least 30 cells"):
        read_screen([path], "perturbation", "ctrl", rng, min_cells=30)


def test_of_the_runs_own_cells_only_test_blocks_judge(tmp_path):
    path = write(tmp_path / "own.h5ad", LABELS)
    adata = store.read_h5ad(path)
    adata.obs["split"] = np.resize(["train", "test", "guard", "validation"], adata.n_obs)
    adata.write_h5ad(path)
    screen = read_screen([path], "perturbation", "ctrl", np.random.default_rng(0), own=True)
    split = adata.obs["split"].reindex(screen.names).to_numpy()
    assert np.array_equal(screen.judge, split == "test") and "guard" not in split


@pytest.fixture(scope="module")
def design(root):
    folder = root / "resources/demo_ontology"
    names = ("demo.obo", "demo.gaf", "programs.tsv", "panel.tsv", "pairs.tsv")
    return read_design(*(folder / name for name in names))


def test_the_simulated_screen_is_of_the_tissues_world(design):
    screen = simulate_screen(design, 7, 1.0, {"cells": 80, "controls": 160})
    tissue = simulate({"cells": 60}, ["a"], 7, design)
    loadings = tissue.program_genes.set_index(["term_id", "gene"])["loading"]
    for row in screen.targets.itertuples():
        assert loadings[row.term_id, row.target] == row.loading  # a gene of its program, the same loading
    assert len(screen.targets) == 12 and screen.targets["target"].is_unique
    column = [screen.genes.index(t) for t in screen.targets["target"]]
    control = screen.counts[screen.perturbation == perturb.CONTROL].mean(axis=0)
    lower = [
        screen.counts[screen.perturbation == t][:, c].mean() < 0.6 * control[c]
        for t, c in zip(screen.targets["target"], column)
    ]
    assert sum(lower) >= 11
    truth = screen.truth.set_index("perturbation")
    for row in screen.targets.itertuples():
        activity = truth[f"activity:{row.term_id}"]
        assert activity[row.target].mean() < 0.6 * activity[perturb.CONTROL].mean()
    assert (truth.loc[perturb.CONTROL, "efficacy"] == 0).all()


def test_the_simulated_screen_repeats_and_keeps_its_truth_apart(design, tmp_path):
    small = {"cells": 20, "controls": 40, "targets": 3}
    one, two = (simulate_screen(design, 1, 1.0, small) for _ in range(2))
    assert np.array_equal(one.counts, two.counts) and one.truth.equals(two.truth)
    paths = [tmp_path / name for name in ("screen.h5ad", "cells.parquet", "targets.parquet")]
    perturb.write_screen(*paths, one, {})
    assert list(store.read_h5ad(paths[0]).obs) == [perturb.COLUMN]
    screen = read_screen([paths[0]], perturb.COLUMN, perturb.CONTROL, np.random.default_rng(0))
    assert screen.targets == sorted(one.targets["target"])
    for bad, message in (
        ({"targets": 24}, "expected at least the 24 asked for"),
        ({"types": ["wizard"]}, "found cell types"),
        ({"cell": 3}, "found setting 'cell'"),
    ):
        with pytest.raises(InputError, match=message):
            simulate_screen(design, 1, 1.0, bad)


def planted(n=60, targets=6, genes=40, seed=0, size=1.5):
    """States of a screen whose targets shift `<cls>` along directions of their own, and expression along."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((targets, D))
    truth *= size / np.linalg.norm(truth, axis=1, keepdims=True)
    names = ["control"] * 160 + [f"G{i}" for i in range(targets) for _ in range(n)]
    index = np.array([-1] * 160 + [i for i in range(targets) for _ in range(n)])
    cls = 0.5 * rng.standard_normal((len(names), D))
    cls[index >= 0] += truth[index[index >= 0]]
    weights = rng.standard_normal((genes, D))
    counts = rng.poisson(np.exp(1 + 0.4 * cls @ weights.T / np.sqrt(D)))
    judge = np.arange(len(names)) % 2 == 0
    screen = SimpleNamespace(
        counts=sparse.csr_matrix(counts.astype(np.float32)), genes=[f"G{i}" for i in range(genes)],
        target=np.array(names), control="control", judge=judge, targets=[f"G{i}" for i in range(targets)],
    )  # fmt: skip
    model = SimpleNamespace(network=SimpleNamespace(n_layers=1))
    states = States(model, np.arange(genes), None, np.arange(len(names)), {0: cls.astype(np.float32)})
    return states, screen, weights, truth


def along(judge, vectors, doses=(-2.0, -1.0, 1.0, 2.0)):
    doses, rows = np.array(doses), judge.steered[:10]
    return {
        t: Prediction(rows, doses, np.repeat(doses[:, None, None] * v, 10, axis=1))
        for t, v in zip(judge.targets, vectors)
    }


@pytest.fixture(scope="module")
def world():
    states, screen, weights, truth = planted()
    judge = judging.Judge(states, screen, weights, np.random.default_rng(0), draws=50, seeds=1, top=8)
    return judge, truth


def test_the_right_direction_wins_and_its_dose_is_found(world):
    judge, truth = world
    right, wrong = along(judge, truth), along(judge, truth[[1, 2, 3, 4, 5, 0]])
    table = judge.table({"right": right, "wrong": wrong})
    mine, theirs = (table[table["method"] == m] for m in ("right", "wrong"))
    assert (mine["dose"] == 1).all()
    assert (mine["cosine_control"] > 0.95).all() and mine["centroid_accuracy"].eq(1).all()
    assert mine["rank"].eq(0).all() and mine["overlap"].mean() > theirs["overlap"].mean() + 0.3
    assert (mine["nearer"] > mine["nearer_unsteered"] + 0.4).all()
    assert mine["e_distance"].mean() < theirs["e_distance"].mean()
    assert mine["slope"].between(0.8, 1.2).all() and (mine["off_target"] < 0.3).all()
    assert (mine["lo"] < mine["cosine_control"]).all()
    # Against the mean of centroids, too.
    assert (mine["cosine_centroids"] > 0.9).all()


def test_simple_predictions_and_ceilings(world):
    judge, _ = world
    methods = {}
    for name, found in judge.simple().items():
        shifts = {t: s for t, (s, _) in found.items()}
        methods[name] = analysis.direct(judge.steered[:10], shifts, {t: c for t, (_, c) in found.items()})
    table = judge.table(methods).set_index(["method", "target"])
    ceiling, mean = table.loc[judging.SPLIT_HALF], table.loc[judging.MEAN_SHIFT]
    assert (ceiling["cosine_control"] > 0.9).all() and (ceiling["centroid_accuracy"] == 1).all()
    assert table.loc[judging.NO_CHANGE, "cosine_control"].isna().all()
    assert table.loc[judging.NO_CHANGE, "rank"].eq(0.5).all()
    # The mean of the others says nothing of a target: near 0 once the mean of centroids is the origin.
    assert mean["cosine_centroids"].mean() < 0.3 and mean["cosine_control"].mean() < 0.6


def test_p_values_are_small_for_the_truth_and_uniform_for_chance(world):
    judge, truth = world
    rng = np.random.default_rng(4)
    random = 1.5 * directions.random_directions(200, D, rng)
    null = {t: random for t in judge.targets}
    one = dict.fromkeys(judge.targets, 1.0)
    frame = judging.p_values(judge, along(judge, truth), one, null, 10)
    assert (frame["p_cosine_control"] == frame["p_min"]).all() and (frame["q_cosine_control"] < 0.05).all()
    chance = [
        judging.p_values(judge, along(judge, 1.5 * directions.random_directions(6, D, rng)), one, null, 10)
        for _ in range(20)
    ]
    p = pd.concat(chance)["p_cosine_control"]
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_verdicts_say_yes_and_no(world):
    judge, truth = world
    rng = np.random.default_rng(5)
    poor = 0.2 * truth + 1.4 * directions.random_directions(6, D, rng)
    methods = {"right": along(judge, truth), judging.MEAN_SHIFT: along(judge, poor, (1.0, 1.5, 2.0))}
    table = judge.table(methods)
    null = {t: 1.5 * directions.random_directions(200, D, rng) for t in judge.targets}
    p = judging.p_values(judge, methods["right"], dict.fromkeys(judge.targets, 1.0), null, 10)
    table = table.merge(p.assign(method="right"), on=["method", "target"], how="left")
    said = judging.verdicts(judge, methods, table, "right", [judging.MEAN_SHIFT, "absent"])
    assert said[f"better than {judging.MEAN_SHIFT}"].eq("yes").all()
    assert said["better than absent"].eq("not compared").all()
    assert said["above random directions"].eq("yes").all()
    turned = judging.verdicts(
        judge, methods, table.assign(q_cosine_control=1.0), judging.MEAN_SHIFT, ["right"]
    )
    assert turned["better than right"].eq("no").all() and turned["above random directions"].eq("no").all()


def test_other_genes_directions_are_worse_than_the_own(world):
    judge, truth = world
    found = judging.other_genes(judge, along(judge, truth), dict.fromkeys(judge.targets, 1.0))
    assert (found["worse_cosine_control"] == 1).all() and found["cosine_control"].mean() < 0.4


def test_terms_of_targets_climb_to_their_class():
    terms = pd.DataFrame({"term_id": ["T1", "T2"], "members": [["T1", "T9"], ["T2"]]})
    evidence = pd.DataFrame({"gene": ["A", "A", "B", "C"], "term_id": ["T9", "T1", "T2", "T5"]})
    found = directions.terms_of(["A", "B", "C", "D"], terms, evidence)
    assert found == {"A": ["T1"], "B": ["T2"], "C": [], "D": []}
    unit = np.eye(2, 4)
    concepts = directions.of_concepts(unit, ["T1", "T2"], found)
    assert list(concepts) == ["A", "B"] and np.array_equal(concepts["B"], unit[1:])


def test_controls_are_the_nearest_neuron_and_component():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4000, 3)) * [5.0, 1.0, 0.2]
    moments = directions.Moments(np.array([4000]), x.sum(axis=0)[None], x.T @ x)
    assert directions.neuron(moments, np.array([0.5, -0.6, 0.1])).tolist() == [0, -1, 0]
    assert directions.component(moments, np.array([0.1, -0.9, 0.2]))[1] == pytest.approx(-1, abs=0.01)
    assert directions.difference(moments, np.array([[True]])).tolist() == [[0, 0, 0]]
    sigma = moments.sigma(np.eye(3))
    assert sigma == pytest.approx([5, 1, 0.2], rel=0.1)


def test_mistakes_in_the_settings_are_said(root):
    from interptfm import config

    schema = config.load_yaml(root / "workflow/schemas/config.schema.yaml")
    base = config.load_yaml(root / "config/config.yaml")
    for change, message in (
        ({"layer": 2}, "expected one of the extracted layers"),
        ({"layer": 3}, "the model's last"),
        ({"dictionary": "none"}, "expected a dictionary of gene tokens"),
        ({"data": "nowhere.h5ad"}, "found no file nowhere.h5ad"),
        ({"doses": [0, 1]}, "found 0, expected doses other than 0"),
    ):
        arms = config.resolve(config.merge(base, {"steering": change}), schema)
        with pytest.raises(InputError, match=message):
            settings.check(arms)
    main = config.resolve(base, schema)[""]
    assert settings.layer(main) == 1 and settings.dictionary(main) == "batchtopk"
