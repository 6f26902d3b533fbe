"""Regions: distances, enrichment, archetypes, the interface claim, agreement; on data made by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from interptfm.errors import InputError
from interptfm.regions import agreement, analysis, archetypes, ceiling, enrichment, geometry, interface
from interptfm.tis import judges
from interptfm.tis.table import UNITS
from interptfm.tis.units import Cells

PATTERN = "tumou?r|cancer"
SETTINGS = {
    "tumour": {"types": PATTERN, "markers": ["EPCAM", "KRT8", "KRT7"]}, "interface_um": 30, "top_units": 10,
    "max_q": 0.05, "high_quantile": 0.8, "call_quantile": 0.5, "depth_strata": 3, "min_cells": 10,
    "markers": {"tumour": ["EPCAM", "KRT8"], "stroma": ["DCN", "ABSENT"]}, "bootstrap": 40, "legacy": False,
}  # fmt: skip
GENES = ["EPCAM", "KRT8", "DCN", *(f"G{i}" for i in range(20))]


def test_distances_never_cross_sections():
    spatial = np.array([[0, 0], [3, 4], [0, 0], [30, 40], [np.nan, 0]], float)
    section = np.array(["a", "a", "b", "b", "a"])
    found = geometry.nearest(spatial, section, np.array([True, False, False, True, False]))
    assert found[:4].tolist() == [0, 5, 50, 0] and np.isnan(found[4])
    alone = geometry.nearest(spatial, section, np.array([True, False, False, False, False]))
    assert alone[:2].tolist() == [0, 5] and np.isinf(alone[2:4]).all()


def test_geometric_regions():
    tumour = np.array([True, False, False, False, False])
    distance = np.array([0, 30, 30.1, np.inf, np.nan])
    section = np.zeros(5)
    found = geometry.regions(tumour, distance, section, 30)
    assert found.tolist() == ["tumour", "interface", "TME", "TME", ""]
    distance = np.concatenate([[0.0], np.arange(1, 101)])
    legacy = geometry.regions(distance == 0, distance, np.zeros(101), 30, legacy=True)
    assert (legacy == "interface").sum() == 10 and (legacy[1:11] == "interface").all()


def test_tumour_by_label_or_by_markers():
    rng = np.random.default_rng(0)
    upper = np.arange(400) < 120
    rate = np.where(upper[:, None] & (np.arange(23) < 2), 12.0, 0.4)
    logged = judges.log_normalise(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    types = np.array(["Tumor cells", "T cell"])[rng.integers(0, 2, 400)]
    by_label, how = geometry.tumour_cells(types, PATTERN, logged, GENES, ["EPCAM"], 0)
    assert (by_label == (types == "Tumor cells")).all() and how == "cell types Tumor cells"
    clusters = np.full(400, "cluster 1")
    by_marker, how = geometry.tumour_cells(clusters, PATTERN, logged, GENES, ["EPCAM", "KRT8", "KRT7"], 0)
    assert (by_marker == upper).mean() > 0.98 and how.startswith("marker score of EPCAM, KRT8 (")
    with pytest.raises(InputError, match="none of the markers MUC1 in the panel"):
        geometry.tumour_cells(clusters, PATTERN, logged, GENES, ["MUC1"], 0)


def test_flipping_blocks_is_the_exact_test():
    rng = np.random.default_rng(1)
    effects, weights = rng.normal(0.4, 1, (6, 3)), rng.uniform(1, 3, (6, 3))
    effects[:, 2] += 5
    weights[:5, 1] = 0
    effect, p, p_min = enrichment.sign_flip_p(effects, weights, 40_000, rng, 2)
    for test in (0, 2):
        share = weights[:, test] / weights[:, test].sum()
        parts = effects[:, test] * share
        signs = np.array(list(itertools.product([-1, 1], repeat=6)))
        exact = (np.abs(signs @ parts) >= abs(parts.sum()) - 1e-12).mean()
        assert effect[test] == pytest.approx(parts.sum()) and p[test] == pytest.approx(exact, abs=0.01)
    assert np.isnan(p[1]), "one block is no replication"
    assert p[2] == pytest.approx(2 / 64, abs=0.005) and p_min[2] == 2 / 64


def test_block_auc():
    rng = np.random.default_rng(2)
    values, groups = rng.integers(0, 5, (50, 2)).astype(float), rng.integers(0, 3, 50)
    auc, weight = enrichment.block_auc(values, groups, 4)
    for group, unit in itertools.product(range(3), range(2)):
        assert auc[group, unit] == pytest.approx(roc_auc_score(groups == group, values[:, unit]))
    assert (auc[3] == 0.5).all() and weight[3] == 0
    assert agreement.auroc(groups == 1, values[:, 0]) == pytest.approx(auc[1, 0])
    assert np.isnan(agreement.auroc(groups == 9, values[:, 0]))


def tissue(n=1200, blocks=20, seed=3):
    """Nests of tumour cells, other cells around; blocks, depth; returns Cells and the truth."""
    rng = np.random.default_rng(seed)
    spatial = rng.uniform(0, 600, (n, 2))
    inside = np.hypot((spatial[:, 0] % 150) - 75, (spatial[:, 1] % 150) - 75) < 45
    others = np.array(["fibroblast", "macrophage", "T cell"])[rng.integers(0, 3, n)]
    types = np.where(inside, "tumour", others)
    block = (spatial // 150).astype(int)
    counts = rng.poisson(np.exp(rng.normal(0, 0.3, (n, 1))) * 2, (n, len(GENES)))
    counts[:, :2] += rng.poisson(8 * inside[:, None] * np.ones((n, 2)))
    counts[:, 2] += rng.poisson(8.0 * (types == "fibroblast"))
    names = np.array([f"s1:{a}_{b}" for a, b in block])
    chosen = np.unique(names)
    part = dict(zip(chosen, np.array(["train", "validation", "test", "train"])[np.arange(len(chosen)) % 4]))
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    obs = pd.DataFrame(
        {"sample": "s1", "cell_type": types, "block": names, "split": [part[b] for b in names],
         "n_counts": counts.sum(1), "n_genes": (counts > 0).sum(1),
         "stain_PanCK": np.where(inside, 900, 50) * np.exp(rng.normal(0, 0.4, n)), "stain_none": np.nan},
        index=[f"s1:1_{i}" for i in range(n)],
    )  # fmt: skip
    return Cells(matrix, GENES, obs, spatial), inside


def units_of(cells, inside, seed=4):
    """Units: tumour, TME, one of both tumour and fibroblasts, noise, and one of the border in fibroblasts."""
    rng = np.random.default_rng(seed)
    n, types = len(inside), cells.types
    distance = geometry.nearest(cells.spatial, cells.section, inside)
    near = (types == "fibroblast") & (distance <= 30)
    signals = [inside, ~inside, inside | (types == "fibroblast"), np.zeros(n), near]
    noise = rng.standard_normal((n, 5))
    return (noise + 3 * np.column_stack(signals)).astype(np.float32), distance


def table_of(n, tis=0.9):
    return pd.DataFrame(
        {
            "unit": range(n),
            "variant": UNITS,
            "tis_hard": tis - 0.01 * np.arange(n),
            "tis_soft": 0.7,
            "q": 0.001,
        }
    )


@pytest.fixture(scope="module")
def world():
    cells, inside = tissue()
    columns, distance = units_of(cells, inside)
    return cells, inside, columns, distance


def test_enrichment_finds_types_and_needs_more_than_one_block(world):
    cells, inside, columns, _ = world
    rng = np.random.default_rng(5)
    first = cells.blocks == np.unique(cells.blocks)[3]
    local = rng.standard_normal(len(inside)) + 6 * (first & inside) - 6 * (first & ~inside)
    wide = np.column_stack([columns, local])
    everyone = np.ones(len(inside), bool)
    found = enrichment.enrichment(wide, range(6), cells.types, cells.blocks, everyone, 0.8, rng)
    assert list(found) == list(enrichment.COLUMNS)
    rows = found.set_index(["unit", "cell_type"])
    assert rows.loc[(0, "tumour"), "q"] < 0.01 and rows.loc[(0, "tumour"), "effect"] > 0.9
    assert rows.loc[(0, "tumour"), "ratio"] > 2 and rows.loc[(0, "tumour"), "auc"] > 0.95
    assert rows.loc[(1, "tumour"), "effect"] < -0.9 and rows.loc[(1, "tumour"), "q"] < 0.01
    assert (found[found["unit"] == 3]["q"] > 0.05).all(), "noise"
    assert rows.loc[(5, "tumour"), "q"] > 0.05, "one block is one replicate"
    published = enrichment.hypergeometric(wide, range(6), cells.types, everyone)
    assert list(published) == list(enrichment.COLUMNS)
    by_cells = published.set_index(["unit", "cell_type"])
    assert by_cells.loc[(5, "tumour"), "q"] < 0.05, "as published, the cells of one block are enough"
    assert by_cells.loc[(0, "tumour"), "ratio"] > 1.5


def test_archetypes_by_hand():
    enriched = pd.DataFrame(
        [
            (0, "tumour", 0.9, 1e-3), (0, "T cell", -0.5, 1e-3),
            (1, "tumour", -0.9, 1e-3), (1, "T cell", 0.8, 1e-3), (1, "B cell", 0.5, 1e-2),
            (2, "tumour", 0.5, 1e-2), (2, "T cell", 0.5, 1e-2),
            (3, "tumour", 0.9, 0.2), (3, "T cell", 0.1, 0.3),
        ],
        columns=["unit", "cell_type", "effect", "q"],
    )  # fmt: skip
    found = archetypes.archetypes(enriched, ["tumour"], 0.05, 0.75).set_index("unit")
    assert found.loc[0, ["T", "E", "I"]].tolist() == pytest.approx([2.7, 0, 0])
    assert found.loc[1, ["T", "E", "I"]].tolist() == pytest.approx([0, 3.4, 0])
    assert found.loc[2, ["T", "E", "I"]].tolist() == pytest.approx([1, 1, 1])
    assert found["call"].tolist() == ["tumour", "TME", "interface", ""]


def test_cells_are_called_by_softmax():
    columns = np.array([[2, 0, 0], [0, 2, 0], [0, 0, 2], [1, 1, 1]], np.float32)
    calls = pd.DataFrame({"unit": [7, 8, 9], "call": ["tumour", "interface", "TME"]})
    scores = archetypes.compartment_scores(columns, [7, 8, 9], calls, np.ones(4, bool))
    probability, call, confidence = archetypes.call_cells(scores)
    assert probability.sum(1) == pytest.approx(1) and call[:3].tolist() == ["tumour", "interface", "TME"]
    assert confidence[3] == pytest.approx(0, abs=1e-6) and confidence[0] > 0.5
    z = (columns[:, 0] - columns[:, 0].mean()) / columns[:, 0].std()
    assert scores[:, 0] == pytest.approx(z)
    none = archetypes.compartment_scores(columns, [7, 8, 9], calls[calls["call"] == "TME"], np.ones(4, bool))
    probability, call, _ = archetypes.call_cells(none)
    assert (probability[:, :2] == 0).all() and set(call) == {"TME"}
    probability, call, confidence = archetypes.call_cells(np.full((4, 3), np.nan))
    assert np.isnan(probability).all() and set(call) == {""} and np.isnan(confidence).all()


def claims(cells, columns, distance, inside, depth=None, **changes):
    options = {"interface_um": 30, "strata": 3, "min_cells": 10, "generator": np.random.default_rng(6)}
    depth = np.asarray(cells.counts.sum(1)).ravel() if depth is None else depth
    return interface.interface_claims(
        columns, range(columns.shape[1]), cells.types, cells.section, cells.blocks, depth, distance, inside,
        np.ones(len(inside), bool), **{**options, **changes},
    )  # fmt: skip


def test_the_interface_claim_is_made_within_types(world):
    """A unit of the border in fibroblasts is found there and nowhere else; units that know types are not."""
    cells, inside, columns, distance = world
    found = claims(cells, columns, distance, inside)
    rows = found.set_index(["unit", "cell_type"])
    assert rows.loc[(4, "fibroblast"), "q"] < 0.01 and rows.loc[(4, "fibroblast"), "effect"] > 0.3
    others = found[~((found["unit"] == 4) & (found["cell_type"] == "fibroblast"))]
    assert (others["q"] > 0.05).all(), others[others["q"] <= 0.05]
    assert set(found["cell_type"]) == {"fibroblast", "macrophage", "T cell"}, "tumour cells are not tested"


def test_depth_does_not_make_an_interface_claim(world):
    """Cells near the tumour are deeper here, and the unit is depth: ranks within depth strata see little."""
    cells, inside, _, distance = world
    rng = np.random.default_rng(7)
    depth = rng.lognormal(0, 0.5, len(inside)) * np.where(distance <= 30, 1.5, 1.0)
    unit = depth[:, None].astype(np.float32)
    loose = claims(cells, unit, distance, inside, depth, strata=1)["effect"].abs().mean()
    strict = claims(cells, unit, distance, inside, depth, strata=20)["effect"].abs().mean()
    assert loose > 0.15 and strict < loose / 4


def test_types_with_few_cells_are_named_and_not_tested(world):
    cells, inside, columns, distance = world
    found = claims(cells, columns, distance, inside, min_cells=10_000)
    assert found["unit"].isna().all() and found["reason"].str.startswith("fewer than 10000").all()
    assert found["p"].isna().all() and len(found) == 3


def test_position_on_the_line():
    region = np.repeat(["tumour", "interface", "TME"], 4)
    latent = np.concatenate([np.tile([0.0, 0], (4, 1)), np.tile([3.0, 5], (4, 1)), np.tile([4.0, 0], (4, 1))])
    assert agreement.position(latent, region) == pytest.approx(0.75)
    assert np.isnan(agreement.position(latent[:8], region[:8]))
    # Composition alone: both regions have types a (at 1) and b (at 3), in other shares.
    types = np.array(["t"] * 4 + ["a", "a", "a", "b"] + ["a", "b", "b", "b"])
    line = np.where(types == "a", 1.0, np.where(types == "b", 3.0, 0.0))[:, None]
    assert agreement.position(line, region) == pytest.approx(1.5 / 2.5)
    assert agreement.position(line, region, types) == pytest.approx(1.0)


def test_profiles_and_composition():
    signed = np.array([-5.0, -5, 5, 5, 15, np.inf, np.nan])
    values = pd.DataFrame({"x": [1.0, 3, 5, 7, 9, 0, 0]})
    blocks = np.array(list("ababaab"))
    found = agreement.profiles(signed, values, blocks, [-10, 0, 10, 20], 50, np.random.default_rng(8))
    assert found[["from_um", "mean", "n"]].to_numpy().tolist() == [[-10, 2, 2], [0, 6, 2]]
    assert (found["lo"] <= found["mean"]).all() and found["lo"].tolist() == [1, 5]
    shares = agreement.composition(np.array(list("aab")), np.array(["TME"] * 3), np.array(["TME", "", "TME"]))
    inside = shares[(shares["region"] == "TME") & (shares["kind"] == "geometric")].set_index("cell_type")
    assert inside["share"].tolist() == [0.5, 0.5] and inside["n"].tolist() == [1, 1]


def test_one_block_gives_values_without_intervals():
    found = agreement.Agreement(np.array(["b"] * 4), 20, np.random.default_rng(0))
    found.add("mean", "all", lambda i: float(i.mean()))
    found.add("nothing", "none", lambda i: float(i.mean()), np.zeros(4, bool))
    table = found.table()
    assert table.loc[0, "value"] == 1.5 and table[["lo", "hi"]].isna().all(axis=None)
    assert np.isnan(table.loc[1, "value"]) and table["n"].tolist() == [4, 0]


@pytest.fixture(scope="module")
def analysed(world):
    cells, inside, columns, _ = world
    return analysis.analyse(cells, np.ones(len(inside), bool), columns, table_of(5), SETTINGS, 1)


def test_the_analysis_calls_what_units_know(world, analysed):
    cells, inside, _, _ = world
    calls = analysed.tables["units"].set_index("unit")["call"]
    assert calls[0] == "tumour" and calls[1] == "TME" and calls[3] == ""
    rows = analysed.tables["agreement"].set_index(["measure", "group"])
    auroc = rows.loc[("AUROC, one against rest", "tumour")]
    assert auroc["value"] > 0.95 and auroc["lo"] <= auroc["value"] <= auroc["hi"]
    assert auroc["n"] == (cells.split == "test").sum(), "judged on test blocks only"
    assert rows.loc[("AUROC, one against rest, of cell types alone", "tumour"), "value"] == 1
    assert rows.loc[("AUROC, TME against tumour", "TME"), "value"] > 0.8
    assert rows.loc[("stain PanCK, AUROC for the call", "tumour"), "value"] > 0.7
    assert rows.loc[("markers of tumour, mean z", "tumour"), "value"] > 0.5
    assert not any("none" in measure for measure, _ in rows.index), "a stain without values is left out"
    assert ("markers of stroma, mean z", "TME") in rows.index
    assert set(analysed.cells["compartment"]) <= set(geometry.REGIONS)
    assert len(analysed.cells) == len(inside) and analysed.cells["signed_um"][inside].max() <= 0
    assert analysed.summary["agreement_on"] == "test blocks"
    assert analysed.summary["status"] == "cells are called"


def test_the_analysis_repeats_itself(world, analysed):
    cells, inside, columns, _ = world
    present = np.ones(len(inside), bool)
    again = analysis.analyse(cells, present, sparse.csc_matrix(columns), table_of(5), SETTINGS, 1)
    pd.testing.assert_frame_equal(again.cells, analysed.cells, rtol=1e-4)
    for name, frame in again.tables.items():
        pd.testing.assert_frame_equal(frame, analysed.tables[name], rtol=1e-4)


def test_legacy_uses_all_cells_and_the_median_split(world):
    cells, inside, columns, _ = world
    settings = {**SETTINGS, "legacy": True}
    found = analysis.analyse(cells, np.ones(len(inside), bool), columns, table_of(5), settings, 1)
    assert found.summary["agreement_on"].startswith("all blocks")
    assert (found.cells["region"] == "interface").sum() == pytest.approx(0.1 * (~inside).sum(), abs=2)
    assert found.tables["enrichment"]["n_blocks"].eq(0).all()


def test_without_a_significant_unit_no_cell_is_called(world):
    cells, inside, columns, _ = world
    present = np.ones(len(inside), bool)
    found = analysis.analyse(cells, present, columns, table_of(5).assign(q=0.5), SETTINGS, 1)
    assert found.summary["status"] == "no cell is called: no unit has a significant score"
    assert set(found.cells["compartment"]) == {""} and set(found.cells["region"]) == set(geometry.REGIONS)
    assert found.summary["n_called"] == dict.fromkeys(geometry.REGIONS, 0)
    only = analysis.analyse(cells, present, columns[:, [3]], table_of(1), SETTINGS, 1)
    assert only.summary["status"].startswith("no cell is called: no unit is significantly high")


def test_cells_without_activations_or_place_stay_out(world):
    cells, inside, columns, _ = world
    present = np.arange(len(inside)) % 10 != 0
    spatial = cells.spatial.copy()
    spatial[5] = np.nan
    moved = Cells(cells.counts, cells.genes, cells.obs, spatial)
    found = analysis.analyse(moved, present, columns, table_of(5), SETTINGS, 1)
    absent = found.cells[~present]
    assert set(absent["compartment"]) == {""} and absent["confidence"].isna().all()
    assert found.cells.loc[5, "region"] in ("", "tumour")


def test_a_classifier_finds_what_the_values_know_and_no_more():
    rng = np.random.default_rng(4)
    region = np.array(geometry.REGIONS)[rng.integers(0, 3, 600)]
    blocks = np.array([f"b{i}" for i in rng.integers(0, 12, 600)])
    judged = np.isin(blocks, ["b0", "b1", "b2"])
    knows = rng.normal(size=(600, 5)) + 3 * (region == "TME")[:, None]
    score = ceiling.classified(knows, region, blocks, ~judged, judged, rng)
    assert agreement.auroc(region[judged] == "TME", score[:, 2]) > 0.99
    noise = ceiling.classified(rng.normal(size=(600, 5)), region, blocks, ~judged, judged, rng)
    assert abs(agreement.auroc(region[judged] == "TME", noise[:, 2]) - 0.5) < 0.15
    # Without cells of a region nothing can be learnt of it, with one region or few blocks nothing at all.
    two = ceiling.classified(knows, region, blocks, ~judged & (region != "tumour"), judged, rng)
    assert np.isnan(two[:, 0]).all() and np.isfinite(two[:, 1:]).all()
    assert np.isnan(ceiling.classified(knows, region, blocks, ~judged & (region == "TME"), judged, rng)).all()
    assert np.isnan(
        ceiling.classified(knows, region, blocks, np.isin(blocks, ["b4", "b5"]), judged, rng)
    ).all()


def test_the_neighbourhood_leaves_out_the_cell_and_other_sections():
    spatial = np.array([[0, 0], [1, 0], [1, 0], [0, 0], [np.nan, 0]], float)
    section = np.array(["a", "a", "a", "b", "a"])
    values = np.array([[1.0], [3], [5], [7], [9]])
    assert ceiling.neighbourhood(values, spatial, section, 2).ravel().tolist() == [4, 3, 2, 7, 9]
    assert ceiling.neighbourhood(values, spatial, section, 15).ravel().tolist() == [4, 3, 2, 7, 9]
