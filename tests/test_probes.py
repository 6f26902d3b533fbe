"""Probes: exact fits against closed forms, streamed scores against sorted ones, nulls, and bad input."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy import sparse as sp
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, roc_auc_score

from interptfm import features, report, store
from interptfm.errors import InputError
from interptfm.features.firing import Firing
from interptfm.features.tokens import SPLITS, Sample
from interptfm.probes import cosines, fitting, linear, logistic, metrics, read_probes, unit_rows, write_probes
from interptfm.probes import sparse as sparse_probes
from interptfm.probes.statistics import (
    TRAIN,
    VALIDATION,
    BalancedSample,
    Moments,
    balanced_quota,
    token_counts,
)
from interptfm.report.sections.probes import probes as section

SETTINGS = {
    "kinds": ["difference", "ridge", "logistic"], "gene_folds": 5, "min_genes": 8,
    "ridge": {"strengths": [0.01, 0.1, 1]},
    "logistic": {"tokens": 600, "strengths": [0.01, 0.1], "iterations": 30},
    "bootstrap": 50, "legacy": True,
}  # fmt: skip
GENES, D, MODEL = 60, 12, "sha256:model"


class World:
    """Tokens whose genes carry two planted directions, in activation stores of two samples."""

    def __init__(self, folder, seed=0, cells=90, per_cell=30):
        rng = np.random.default_rng(seed)
        self.genes = [f"G{i}" for i in range(GENES)]
        self.members = np.zeros((4, GENES))
        self.members[0, :20] = self.members[1, 15:30] = 1
        self.members[2, rng.permutation(GENES)[:12]] = 1
        self.terms = ["T0", "T1", "T2", "T3"]  # the last has no gene
        direction = rng.standard_normal((3, D))
        base = 0.7 * rng.standard_normal((GENES, D)) + 1.0 * self.members[:3].T @ direction
        self.paths, self.samples, self.blocks, parts = [], {}, {}, []
        for name in ("s1", "s2"):
            split = rng.choice(4, cells, p=[0.5, 0.2, 0.2, 0.1]).astype(np.int8)
            split[split == 3] = -1
            gene = np.concatenate([rng.choice(GENES, per_cell, replace=False) for _ in range(cells)])
            cell = np.repeat(np.arange(cells), per_cell)
            x = (base[gene] + 1.5 * rng.standard_normal((len(gene), D))).astype(np.float32)
            self.samples[name] = Sample(
                np.arange(GENES, dtype=np.int32), split, np.array([f"{name}:{i}" for i in range(cells)])
            )
            self.blocks[name] = np.array([f"{name}:{i // 8}" for i in range(cells)])
            path = folder / f"{name}.zarr.zip"
            attributes = {"sample": name, "model": MODEL}
            with store.ActivationWriter(path, [1], len(gene), cells, D, "float32", attributes) as writer:
                writer.write(gene, cell, np.ones(len(gene)), {1: x})
                writer.write_cls(0, np.zeros((1, cells, D), np.float32))
            self.paths.append(path)
            parts.append((x, gene, split[cell]))
        self.x, self.gene, self.split = (np.concatenate(one) for one in zip(*parts, strict=True))

    def of(self, split, without=None, fold=None):
        keep = self.split == split
        if without is not None:
            keep &= fold[self.gene] != without
        return self.x[keep].astype(float), self.gene[keep]

    def fit(self, block_tokens=997, **changes):
        return fitting.fit_layer(
            self.paths, self.samples, self.genes, 1, sp.csr_matrix(self.members), self.terms, self.blocks,
            {**SETTINGS, **changes}, 3, MODEL, block_tokens,
        )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("probes"))


@pytest.fixture(scope="module")
def layer(world):
    return world.fit()


def test_difference_in_means_is_that_of_all_tokens_with_and_without_each_fold(world, layer):
    found, fold = layer.probes.of("difference"), layer.probes.fold
    for held_out in (None, *range(5)):
        x, gene = world.of(TRAIN, held_out, fold)
        for term in range(3):
            is_member = world.members[term, gene] > 0
            expected = x[is_member].mean(axis=0) - x[~is_member].mean(axis=0)
            got = found.weight[term] if held_out is None else found.fold_weight[held_out, term]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    middle = (x[is_member].mean(axis=0) + x[~is_member].mean(axis=0)) / 2
    assert found.fold_weight[4, 2] @ middle + found.fold_bias[4, 2] == pytest.approx(0, abs=1e-4)
    assert not found.weight[3].any() and not layer.probes.unit("difference")[3].any()


def test_ridge_is_sklearns_with_and_without_each_fold(world, layer):
    found, fold = layer.probes.of("ridge"), layer.probes.fold
    chosen = layer.probes.settings["chosen"]["ridge"]["real"]
    for held_out in (None, *range(5)):
        x, gene = world.of(TRAIN, held_out, fold)
        strength = chosen["final"] if held_out is None else chosen["folds"][held_out]
        alpha = strength * ((x - x.mean(axis=0)) ** 2).sum() / D
        for term in range(3):
            model = Ridge(alpha=alpha).fit(x, world.members[term, gene])
            weight = found.weight if held_out is None else found.fold_weight[held_out]
            bias = found.bias if held_out is None else found.fold_bias[held_out]
            np.testing.assert_allclose(weight[term], model.coef_, rtol=2e-3, atol=2e-5)
            assert bias[term] == pytest.approx(model.intercept_, abs=1e-3)


def test_the_strength_of_ridge_is_chosen_on_validation_tokens_of_genes_not_seen(world, layer):
    """The choice for fold 0, recomputed token by token: its genes take no part, nor do test cells."""
    fold, said = layer.probes.fold, layer.probes.settings["chosen"]["ridge"]["real"]
    score = {}
    for strength in SETTINGS["ridge"]["strengths"]:
        values = []
        for inner in range(1, 5):
            x, gene = world.of(TRAIN)
            seen = (fold[gene] != 0) & (fold[gene] != inner)
            x, gene = x[seen], gene[seen]
            alpha = strength * ((x - x.mean(axis=0)) ** 2).sum() / D
            x_held, gene_held = world.of(VALIDATION)
            x_held, gene_held = x_held[fold[gene_held] == inner], gene_held[fold[gene_held] == inner]
            of_terms = []
            for term in range(3):
                y, y_held = world.members[term, gene], world.members[term, gene_held]
                if y_held.any():
                    error = (Ridge(alpha=alpha).fit(x, y).predict(x_held) - y_held) ** 2
                    of_terms.append(1 - error.sum() / ((y.mean() - y_held) ** 2).sum())
            values.append(np.mean(of_terms))
        score[strength] = np.mean(values)
    assert said["folds"][0] == max(score, key=score.get)


def test_logistic_is_sklearns(world):
    x, gene = world.of(TRAIN)
    tokens = logistic.Tokens(x[:500].astype(np.float32), gene[:500])
    label = world.members[:3, gene[:500]]
    for balanced in (False, True):
        found = logistic.fit_logistic(tokens, world.members[:3], 0.05, balanced, iterations=300)
        for term in range(3):
            # sklearn: C · Σ loss + |w|² / 2; its balanced weights are n / (2 n_class).
            weights = "balanced" if balanced else None
            model = LogisticRegression(C=1 / (0.05 * 500), class_weight=weights, tol=1e-8, max_iter=1000)
            model.fit(tokens.x, label[term])
            np.testing.assert_allclose(found[term, :-1], model.coef_[0], atol=5e-3)
            assert found[term, -1] == pytest.approx(model.intercept_[0], abs=5e-3)
    weight, bias = tokens.back(found[:, :-1], found[:, -1])
    np.testing.assert_allclose(
        x[:500] @ weight.T + bias, tokens.x @ found[:, :-1].T + found[:, -1], atol=1e-4
    )


def test_the_softmax_form_is_multinomial_regression_where_genes_have_one_term(world):
    x, gene = world.of(TRAIN)
    members = np.zeros((3, GENES))
    members[np.arange(45) % 3, np.arange(45)] = 1  # genes 45 … in none: left out
    tokens = logistic.Tokens(x[:800].astype(np.float32), gene[:800])
    found = logistic.fit_softmax(tokens, members, iterations=400)
    has = gene[:800] < 45
    model = LogisticRegression(C=1e6, tol=1e-9, max_iter=3000).fit(tokens.x[has], gene[:800][has] % 3)
    score = tokens.x @ found[:, :-1].T + found[:, -1]
    expected = tokens.x @ model.coef_.T + model.intercept_
    for part in (score, expected):
        part -= part.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(score, expected, atol=0.05)


def test_streaming_in_any_blocks_and_shards_gives_the_same(world, layer):
    other = world.fit(block_tokens=10_000_000)
    for kind in ("difference", "ridge", "logistic", "softmax"):
        # L-BFGS ends at slightly different points once float32 products round differently.
        exact = kind in ("difference", "ridge")
        np.testing.assert_allclose(
            other.probes.of(kind).weight,
            layer.probes.of(kind).weight,
            rtol=1e-3,
            atol=1e-5 if exact else 2e-2,
        )
    a, b = (one.metrics[one.metrics["kind"] == "ridge"] for one in (layer, other))
    np.testing.assert_allclose(a["auroc"], b["auroc"], atol=5e-3)


def test_scores_are_those_of_sorted_tokens(world, layer):
    """Binned AP, AUROC and precision of both splits against sklearn on all test tokens."""
    x, gene = world.of(SPLITS.index("test"))
    rows = layer.metrics.set_index(["kind", "split", "label", "term_id"])
    fold = layer.probes.fold
    for kind in ("difference", "ridge", "logistic"):
        found = layer.probes.of(kind)
        for term in range(3):
            label = world.members[term, gene] > 0
            row = rows.loc[(kind, "cells", "real", world.terms[term])]
            score = x @ found.weight[term] + found.bias[term]
            assert row["auroc"] == pytest.approx(roc_auc_score(label, score), abs=2e-3)
            assert row["ap"] == pytest.approx(average_precision_score(label, score), abs=1e-2)
            top = label[np.argsort(-score)[: label.sum()]].mean()
            assert row["precision"] == pytest.approx(top, abs=1e-2)
            assert row["n_pos"] == label.sum() and row["lo"] < row["auroc"] < row["hi"]
            areas = []
            for h in range(5):
                here = fold[gene] == h
                if len(np.unique(gene[here & label])) >= 2:
                    held = x[here] @ found.fold_weight[h, term] + found.fold_bias[h, term]
                    areas.append(roc_auc_score(label[here], held))
            row = rows.loc[(kind, "genes", "real", world.terms[term])]
            assert row["n_folds"] == len(areas)
            assert row["auroc"] == pytest.approx(np.mean(areas), abs=3e-3)
    assert rows.loc[("ridge", "cells", "real", "T3"), ["auroc", "ap", "lo"]].isna().all()


def test_planted_directions_are_found_on_held_out_genes_and_permuted_ones_are_not(tmp_path):
    found = {"real": [], "permuted": [], "cells": []}
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        world = World(folder, seed=10 + seed)
        result = fitting.fit_layer(
            world.paths, world.samples, world.genes, 1, sp.csr_matrix(world.members[:2]), world.terms[:2],
            world.blocks, {**SETTINGS, "kinds": ["ridge"], "legacy": False}, seed, MODEL,
        ).metrics  # fmt: skip
        genes = result[result["split"] == "genes"]
        for label in ("real", "permuted"):
            found[label].append(genes.loc[genes["label"] == label, "auroc"].mean())
        control = result[(result["split"] == "cells") & (result["label"] == "permuted")]
        found["cells"].append(control["auroc"].mean())
    assert np.mean(found["real"]) > 0.85
    assert 0.35 < np.mean(found["permuted"]) < 0.65
    # Held-out cells cannot tell a concept from any other list of genes.
    assert np.mean(found["cells"]) > max(0.6, np.mean(found["permuted"]) + 0.1)


def test_the_permuted_membership_keeps_sizes_and_is_scored_alike(layer):
    cells = layer.metrics[(layer.metrics["kind"] == "ridge") & (layer.metrics["split"] == "cells")]
    sizes = cells.pivot(index="term_id", columns="label", values="n_genes")
    assert (sizes["real"] == sizes["permuted"]).all()
    row = layer.summary[(layer.summary["kind"] == "ridge") & (layer.summary["metric"] == "auroc")]
    assert set(row["split"]) == {"genes", "cells"}
    assert row["difference"].tolist() == pytest.approx((row["real"] - row["permuted"]).tolist())


def test_binned_scores_against_sklearn_with_ties():
    rng = np.random.default_rng(1)
    score = rng.integers(0, 40, (5, 3000))
    label = rng.random((5, 3000)) < [[0.5], [0.1], [0.01], [0.3], [0.002]]
    counts = np.stack([[np.bincount(s[~y], minlength=40), np.bincount(s[y], minlength=40)]
                       for s, y in zip(score, label, strict=True)])  # fmt: skip
    found = metrics.scores_of(counts)
    for i in range(5):
        assert found.auroc[i] == pytest.approx(roc_auc_score(label[i], score[i]))
        assert found.ap[i] == pytest.approx(average_precision_score(label[i], score[i]))
    assert metrics.scores_of(np.zeros((1, 2, 4))).auroc[0] != metrics.scores_of(np.zeros((1, 2, 4))).auroc[0]


def test_drawn_groups_count_as_often_as_they_were_drawn():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 9, (3, 4, 2, 16))
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 4, 0, 0]])
    found = metrics.auroc_draws(counts, weights)
    for draw, weight in enumerate(weights):
        whole = metrics.scores_of(np.einsum("g,tgcb->tcb", weight, counts)).auroc
        np.testing.assert_allclose(found[draw], whole)


def test_the_sample_is_even_over_genes_and_never_above_the_budget():
    tokens = np.array([0, 1, 5, 100, 1000, 7])
    for budget in (1, 4, 5, 20, 113, 1113, 5000):
        quota = balanced_quota(tokens, budget)
        assert quota.sum() <= max(budget, 0) and (quota <= tokens).all()
        full = quota == tokens
        assert full.all() or quota[~full].max() - quota[~full].min() == 0
    assert balanced_quota(tokens, 1113).tolist() == tokens.tolist()
    assert balanced_quota(tokens, 20).tolist() == [0, 1, 4, 4, 4, 4]
    gene = np.repeat(np.arange(6), tokens)
    gene = np.random.default_rng(0).permutation(gene)
    x = np.arange(len(gene), dtype=np.float32)[:, None]
    whole, parts = (BalancedSample(tokens, 40, np.random.default_rng(5)) for _ in range(2))
    whole.add(x, gene)
    for start in range(0, len(gene), 37):
        parts.add(x[start : start + 37], gene[start : start + 37])
    assert whole.result()[0].tolist() == parts.result()[0].tolist()
    assert np.bincount(whole.result()[1]).tolist() == [0, 1, 5, 13, 13, 7]


def test_probes_come_back_from_disk_and_belong_to_one_model(world, layer, tmp_path):
    weights, document = tmp_path / "probes.safetensors", tmp_path / "probes.json"
    write_probes(weights, document, layer.probes, {"rule": "fit_probes"})
    again = read_probes(tmp_path, MODEL)
    assert again.term_ids == world.terms and again.genes == world.genes and again.layer == 1
    assert again.fold.tolist() == layer.probes.fold.tolist()
    np.testing.assert_array_equal(again.mean, layer.probes.mean)
    for kind in ("difference", "ridge", "logistic", "softmax"):
        for permuted in (False, True):
            a, b = again.of(kind, permuted), layer.probes.of(kind, permuted)
            np.testing.assert_array_equal(a.weight, b.weight)
            np.testing.assert_array_equal(a.sigma, b.sigma)
        np.testing.assert_array_equal(again.of(kind).fold_weight, layer.probes.of(kind).fold_weight)
    norms = np.linalg.norm(again.unit("ridge", fold=2), axis=1)
    np.testing.assert_allclose(norms[:3], 1, rtol=1e-6)
    x, _ = world.of(TRAIN)
    np.testing.assert_allclose(
        again.of("ridge").sigma[:3], (x @ again.unit("ridge").T).std(axis=0)[:3], rtol=1e-3
    )
    assert again.rows(["T2", "T0"]).tolist() == [2, 0]
    with pytest.raises(InputError, match="probes of the model sha256:model, expected those of sha256:other"):
        read_probes(tmp_path, "sha256:other")
    with pytest.raises(InputError, match="found no term 'T9'"):
        again.rows(["T9"])
    with pytest.raises(InputError, match="found no kind 'lda', expected one of difference"):
        again.of("lda")
    with pytest.raises(InputError, match="found fold 7"):
        again.unit("ridge", fold=7)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        read_probes(tmp_path, MODEL)
    weights.unlink()
    with pytest.raises(InputError, match="not found"):
        read_probes(tmp_path, None)


def test_the_same_seed_gives_the_same_bytes(world, layer, tmp_path):
    for name, probes in (("a", layer.probes), ("b", world.fit().probes)):
        write_probes(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.json", probes)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_mistakes_are_named(world, tmp_path):
    with pytest.raises(InputError, match=r"expected one of \['s1'\]"):
        token_counts(world.paths, {"s1": world.samples["s1"]}, GENES)
    untested = {name: replace(one, split=np.zeros_like(one.split)) for name, one in world.samples.items()}
    with pytest.raises(InputError, match="no token of a validation cell"):
        token_counts(world.paths, untested, GENES)
    with pytest.raises(InputError, match=r"probes\.gene_folds: found 61 for 60 genes"):
        world.fit(gene_folds=61)
    other = tmp_path / "other.zarr.zip"
    with store.ActivationWriter(other, [1], 1, 1, D, "float32", {"sample": "s2", "model": "else"}) as writer:
        writer.write(np.zeros(1), np.zeros(1), np.ones(1), {1: np.zeros((1, D), np.float32)})
        writer.write_cls(0, np.zeros((1, 1, D), np.float32))
    with pytest.raises(InputError, match="stores of 2 models"):
        fitting.model_of([world.paths[0], other])
    assert fitting.model_of(world.paths) == MODEL


def firing_of(seed=0, n_features=40):
    """Gene-level codes in which term 0 needs one feature and term 1 two."""
    rng = np.random.default_rng(seed)
    members = np.zeros((2, GENES))
    members[0, rng.permutation(GENES)[:20]] = 1
    halves = rng.permutation(GENES)[:24]
    members[1, halves] = 1
    tokens = np.full((3, GENES), 50)
    strength = rng.exponential(0.3, (GENES, n_features)) * (rng.random((GENES, n_features)) < 0.4)
    strength[:, 0] += 2 * members[0]
    strength[halves[:12], 1] += 2
    strength[halves[12:], 2] += 2
    noise = rng.random((3, GENES, n_features)) * 0.2 * (strength > 0)
    sums = ((strength + noise) * tokens[:, :, None]).astype(np.float32)
    counts = np.zeros((3, GENES, n_features, 1), np.int64)
    return Firing(counts, tokens, [f"G{i}" for i in range(GENES)], [0.0], {}, sums), sp.csr_matrix(members)


def test_sparse_probes_need_as_many_features_as_were_planted():
    firing, members = firing_of()
    found = sparse_probes.sparse_probes(
        firing, members, ["one", "two"], max_features=8, gene_folds=5, min_genes=5, seed=1
    )
    real = found.terms[found.terms["label"] == "real"].set_index("term_id")
    assert real.loc["one", "n_features"] == 1 and real.loc["one", "auroc"] > 0.95
    assert real.loc["two", "n_features"] == 2 and real.loc["two", "auroc"] > 0.95
    assert 0.6 < real.loc["two", "auroc_1"] < 0.9
    control = found.path[found.path["label"] == "permuted"]
    assert 0.2 < control["auroc"].mean() < 0.8
    assert set(found.path["n_features"]) == {1, 2, 4, 8}


def test_the_l1_path_has_at_most_so_many_features_and_starts_with_the_best_one():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 30))
    x -= x.mean(axis=0)
    label = (x[:, 3] + 0.5 * x[:, 7] + 0.3 * rng.standard_normal(50) > 0).astype(float)
    sizes = sparse_probes.sizes_up_to(6)
    assert sizes == [1, 2, 4, 6]
    found = sparse_probes.l1_path(np.asfortranarray(x), x.T @ x, label, sizes)
    assert ((found != 0).sum(axis=1) <= sizes).all() and (found != 0).sum(axis=1).min() >= 1
    assert found[0].nonzero()[0].tolist() == [3] and set(found[1].nonzero()[0]) <= {3, 7}
    assert not sparse_probes.l1_path(np.zeros((50, 30)), np.zeros((30, 30)), label, sizes).any()


def test_sparse_probes_say_what_is_missing():
    firing, members = firing_of()
    options = {"max_features": 4, "gene_folds": 5, "seed": 1}
    with pytest.raises(InputError, match="no term with 50 genes, expected at least one; the largest has 24"):
        sparse_probes.sparse_probes(firing, members, ["one", "two"], min_genes=50, **options)
    firing.sums = None
    with pytest.raises(InputError, match="found no sums of codes"):
        sparse_probes.sparse_probes(firing, members, ["one", "two"], min_genes=5, **options)


def test_cosines_within_and_across_layers(world, layer):
    other = replace(layer.probes, layer=4, directions=dict(layer.probes.directions))
    flipped = layer.probes.of("ridge")
    other.directions["ridge"] = replace(flipped, weight=-2 * flipped.weight)
    table = cosines.compare([layer.probes, other], world.members, np.random.default_rng(0))
    mine = table[(table["kind"] == "ridge") & (table["label"] == "real")]
    across = mine[mine["chosen"] == "same term"]
    assert across["term_id"].tolist() == ["T0", "T1", "T2"]  # T3 has no direction
    np.testing.assert_allclose(across["cosine"], -1, rtol=1e-5)
    unit = unit_rows(flipped.weight)
    pair = mine[(mine["layer"] == 1) & (mine["term_id"] == "T0") & (mine["other_term_id"] == "T1")].iloc[0]
    assert pair["cosine"] == pytest.approx(float(unit[0] @ unit[1]), abs=1e-5)
    assert pair["jaccard"] == pytest.approx(5 / 30)
    with pytest.raises(InputError, match="found other terms than in layer 1"):
        cosines.compare(
            [layer.probes, replace(other, term_ids=["X", *world.terms[1:]])], world.members,
            np.random.default_rng(0),
        )  # fmt: skip


def test_ridge_with_one_strength_needs_no_positive_on_validation():
    """A fold without a term's genes leaves the others' choice defined."""
    rng = np.random.default_rng(0)
    fold = np.repeat(np.arange(3), 4).astype(np.int8)
    gene = np.repeat(np.arange(12), 20)
    x = rng.standard_normal((len(gene), 4))
    tokens = np.stack([np.bincount(gene)] * 3)
    sums = np.stack([np.stack([x[gene == g].sum(axis=0) for g in range(12)])] * 2)
    grams = np.stack([np.stack([x[fold[gene] == h].T @ x[fold[gene] == h] for h in range(3)])] * 2)
    moments = Moments(tokens, sums, grams, fold, [])
    members = np.zeros((2, 12))
    members[0, [0, 1]] = members[1, [2, 6, 9]] = 1
    fit, said = linear.ridge(moments, members, [0.1, 1.0], np.zeros(2, int))
    assert np.isfinite(fit.weight).all() and np.isfinite(fit.fold_weight).all()
    assert not fit.fold_weight[0, 0].any(), "without fold 0 the first term has no gene"
    assert said[0]["final"] in (0.1, 1.0)


def test_the_report_shows_probes(world, layer, tmp_path):
    found = report.read_probing(*_tables(world, layer, tmp_path))
    config = {"probes": SETTINGS}
    terms = pd.DataFrame({"term_id": world.terms, "name": ['<b>T & "x"', "b", "c", "d"]})
    run = SimpleNamespace(probing=found, layer=1, config=config, terms=terms)
    made = section(run)
    assert [figure.name for figure in made.figures] == ["probes-by-layer", "probes-cosines", "probes-sparse"]
    for figure in made.figures:
        ElementTree.fromstring(figure.svg)
        assert len(figure.data) and figure.alt and figure.caption
    html = report.render("run", "test", [made])
    assert "<b>T" not in html and "&lt;b&gt;T" in html
    assert "Arm untrained" in " ".join(made.prose)
    assert section(SimpleNamespace(probing=None)) is None


def _tables(world, layer, folder):
    firing, members = firing_of()
    found = sparse_probes.sparse_probes(
        firing, members, world.terms[:2], max_features=4, gene_folds=5, min_genes=5, seed=1
    )
    frames = {
        "summary": layer.summary, "metrics": layer.metrics, "sparse": found.terms, "path": found.path,
        "cosines": cosines.compare([layer.probes], world.members, np.random.default_rng(0)),
    }  # fmt: skip
    paths = {name: str(folder / f"{name}.parquet") for name in frames}
    for name, frame in frames.items():
        store.write_table(paths[name], frame)
    both = {key: paths[key] for key in ("summary", "metrics")}
    index = [{"arm": arm, "layer": 1, **both} for arm in ("main", "untrained")]
    return index, paths["cosines"], [paths["sparse"], paths["path"]]


def test_folds_are_those_of_the_alignment(project):
    """The same genes are held out, so that features and probes can be compared."""
    from interptfm import job
    from interptfm.alignment.genes import folds_of

    folder = project / "results/tiny"
    probes = read_probes(folder / "probes/layer_1", None)
    firing = features.read_firing(folder / "features/batchtopk/layer_1/firing.zarr.zip")
    assert probes.genes == firing.genes
    expected = folds_of(firing.tokens.sum(axis=0), 5, job.generator(1, "gene folds"))
    assert probes.fold.tolist() == expected.tolist()
    with store.open_activations(folder / "activations/section_1/0.zarr.zip") as file:
        assert probes.model == file.attributes["model"]
        read_probes(folder / "probes/layer_1", file.attributes["model"])
    untrained = fitting.model_of([folder / "arms/untrained/activations/section_1/0.zarr.zip"])
    with pytest.raises(InputError, match="a direction means nothing in another model"):
        read_probes(folder / "probes/layer_1", untrained)
    assert (folder / "arms/untrained/probes/layer_1/metrics.parquet").is_file()
    assert not (folder / "arms/untrained/probes/layer_0").exists()
