"""Crosstalk: scores by hand, graphs, nulls, direction, contrasts, and what is at the edge of its inputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from crosstalk_worlds import SETTINGS, design, section, world
from hypothesis import given, settings
from hypothesis import strategies as st

from interptfm import pair_recovery, spaces
from interptfm.crosstalk import (
    analysis,
    channels,
    contrasts,
    direction,
    fields,
    files,
    graphs,
    nulls,
    pairs,
    reading,
    scores,
    sections,
    shifts,
)
from interptfm.errors import InputError

CHANNELS = ("immune communication", "metabolic", "angiogenesis")
NO_DAG = pd.DataFrame(columns=["child", "parent", "relation"])


def square() -> graphs.Graph:
    """Four cells on a square of 30 µm: sides are edges, diagonals (42 µm) are not."""
    xy = np.array([[0.0, 0], [30, 0], [0, 30], [30, 30]])
    return graphs.build(xy, np.zeros(4), graphs.Radius(35), graphs.Weights("gaussian", 30))


W = np.exp(-0.5)


def test_scores_of_four_cells_by_hand():
    graph = square()
    assert list(zip(graph.i, graph.j)) == [(0, 1), (0, 2), (1, 3), (2, 3)]
    assert graph.weight == pytest.approx([W] * 4)
    z = np.array([[2.0, -1], [1, 3], [-1, 2], [4, 0.5]])
    assert scores.shared(z, graph)[:, 0] == pytest.approx(W * np.array([1, 0, 1, 0]))
    assert scores.shared(z, graph)[:, 1] == pytest.approx(W * np.array([0, 0, 0.5, 0.5]))
    # Edge 0–1: a of cell 0 (2) with b of cell 1 (3), a of cell 1 (1) with b of cell 0 (none).
    found = scores.product(z[:, :1], z[:, 1:], graph)[:, 0]
    assert found == pytest.approx(W * np.array([6, 4, 0.5 + 12, 8]))
    assert scores.cell_sums(found[:, None], graph)[:, 0] == pytest.approx(W * np.array([10, 18.5, 12, 20.5]))
    related = np.array([[1.0, 0], [0, 1]], np.float32)
    assert scores.semantic(z, related, graph) == pytest.approx(W / 2 * np.array([2, 0, 5.5, 1]))


def test_aggregates_of_four_cells_by_hand():
    graph = square()
    z = np.array([[1.0, 2], [-1, 0], [1, -2], [-1, 0]], np.float32)
    found = scores.moran(graph.matrix(), z)
    # Each ordered edge weighs alike: Σ z_i z_j over the four edges, both ways, over 8.
    assert found[0, 0] == pytest.approx(2 * (-1 + 1 + 1 - 1) / 8)
    assert found[0, 1] == pytest.approx((0 - 2 - 2 * 1 + 0 + 2 + 0 + 2 * 1 + 0) / 8)
    smooth = graph.matrix() @ z
    assert scores.lee(graph.matrix(), z) == pytest.approx(smooth.T @ smooth / (4 * (2 * W) ** 2))
    edge = scores.shared(np.array([[1.0], [1], [1], [1]]), graph)
    shares = scores.crossing(edge, graph, np.array([0, 0, 1, -1]))
    assert shares["share_cross"][0] == pytest.approx(0.5) and shares["edges_cross"][0] == pytest.approx(0.5)
    lost = scores.importance(edge, graph, np.array([0, 0, 1, 1]), ["x", "y"], ["channel"])
    row = lost[(lost["receiver"] == "x") & (lost["sender"] == "y")].iloc[0]
    assert row["loss"] == pytest.approx(0.5) and row["excess"] == pytest.approx(0)


def test_sums_of_pairs_are_those_of_a_loop_over_edges():
    rng = np.random.default_rng(0)
    xy, types = rng.uniform(0, 200, (60, 2)), rng.integers(0, 3, 60)
    graph = graphs.build(xy, np.zeros(60), graphs.Nearest(5), graphs.Weights("exponential", 20))
    a, b = rng.random((60, 2)).astype(np.float32), rng.random((60, 3)).astype(np.float32)
    donors = rng.integers(-1, 60, 60).astype(np.int32)
    sums = pairs.PairSums(graph.matrix(), types, a, b)
    cells, sent = sums.receiver(1, [0, 2])
    found = sums.sums(sent, donors[cells], np.arange(3))
    expected = np.zeros((2, 3, 4))
    for i, j, w in zip(graph.i, graph.j, graph.weight):
        for s, r in ((i, j), (j, i)):
            if types[r] == 1 and types[s] != 1 and donors[r] >= 0:
                row = [0, None, 1][types[s]]
                expected[row] += w * np.outer(np.append(a[s], 1), np.append(b[donors[r]], 1))
    assert found == pytest.approx(expected, rel=1e-5)
    ab, x, y, w = expected[0, :2, :3], expected[0, :2, 3:], expected[0, 2:, :3], expected[0, 2, 3]
    assert pairs.covariance(found)[0] == pytest.approx(ab / w - x * y / w**2, abs=1e-6)
    assert pairs.lift(found)[0] == pytest.approx(ab * w / (x * y), rel=1e-5)
    counts = pairs.edge_counts(graph.matrix(), types, 3)
    assert counts[0, 1] == sum({0, 1} == {types[i], types[j]} for i, j in zip(graph.i, graph.j))
    assert counts[2, 2] == sum(types[i] == types[j] == 2 for i, j in zip(graph.i, graph.j))


BUILDERS = [graphs.Radius(40), graphs.Nearest(4), graphs.Nearest(4, "mutual"), graphs.Delaunay(60)]


@pytest.mark.parametrize("builder", BUILDERS, ids=str)
@settings(max_examples=15, deadline=None)
@given(angle=st.floats(0, 6.28), x=st.floats(-1e4, 1e4), y=st.floats(-1e4, 1e4))
def test_graphs_do_not_change_when_the_tissue_is_moved_or_turned(builder, angle, x, y):
    xy = np.random.default_rng(1).uniform(0, 200, (80, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    first, second = (
        graphs.build(places, np.zeros(80), builder, graphs.Weights()) for places in (xy, xy @ turn.T + (x, y))
    )
    assert (first.i == second.i).all() and (first.j == second.j).all()
    assert first.weight == pytest.approx(second.weight, abs=1e-4)


@pytest.mark.parametrize("builder", BUILDERS, ids=str)
def test_sections_are_independent(builder):
    rng = np.random.default_rng(2)
    one, two = rng.uniform(0, 150, (50, 2)), rng.uniform(0, 150, (40, 2))
    both = graphs.build(np.vstack([one, two]), np.repeat([0, 1], (50, 40)), builder, graphs.Weights())
    alone = graphs.build(one, np.zeros(50), builder, graphs.Weights())
    assert ((both.i < 50) == (both.j < 50)).all()
    mine = both.j < 50
    assert (both.i[mine] == alone.i).all() and (both.distance[mine] == alone.distance).all()
    assert both.parameters["builder"] == type(builder).__name__.lower() and both.parameters["cells"] == 90


def test_cells_at_one_place_are_joined_and_cells_without_one_are_not():
    xy = np.array([[0.0, 0], [0, 0], [10, 0], [5, 9], [np.nan, 0], [30, 30]])
    for builder in (graphs.Radius(15), graphs.Nearest(2), graphs.Delaunay(50)):
        graph = graphs.build(xy, np.zeros(6), builder, graphs.Weights("none"))
        ends = set(zip(graph.i.tolist(), graph.j.tolist()))
        assert (0, 1) in ends and 4 not in {cell for edge in ends for cell in edge}
        assert all(a < b for a, b in ends) and len(ends) == len(graph.i)
        assert graph.parameters["without_place"] == 1 and set(graph.weight) == {1}
    # Five at one place: none need be its own first neighbour.
    graph = graphs.build(np.zeros((5, 2)), np.zeros(5), graphs.Nearest(2), graphs.Weights())
    assert (graph.i < graph.j).all() and set(graph.i) | set(graph.j) == set(range(5))


def test_nearest_is_mutual_or_either():
    xy = np.array([[0.0, 0], [1, 0], [3, 0]])
    either, each = (
        graphs.build(xy, np.zeros(3), graphs.Nearest(1, mode), graphs.Weights())
        for mode in ("union", "mutual")
    )
    assert list(zip(either.i, either.j)) == [(0, 1), (1, 2)] and list(zip(each.i, each.j)) == [(0, 1)]
    for wrong in (graphs.Nearest(0), graphs.Nearest(3, "some"), graphs.Radius(0)):
        with pytest.raises(InputError, match=r"crosstalk.graph"):
            graphs.build(xy, np.zeros(3), wrong, graphs.Weights())
    with pytest.raises(InputError, match="on one line"):
        graphs.build(xy * 1.0, np.zeros(3), graphs.Delaunay(9), graphs.Weights())
    published = graphs.Weights("gaussian", None).of(np.array([1.0, 2, 3]))
    assert published == pytest.approx(np.exp(-np.array([1, 4, 9]) / 4))


def test_squidpy_reads_what_is_written_and_the_other_way_round():
    squidpy = pytest.importorskip("squidpy")
    from anndata import AnnData

    xy = np.random.default_rng(3).uniform(0, 100, (40, 2))
    adata = AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(40)]), obsm={"spatial": xy})
    squidpy.gr.spatial_neighbors(adata, coord_type="generic", radius=30.0)
    theirs = graphs.from_squidpy(adata, xy, np.zeros(40))
    ours = graphs.build(xy, np.zeros(40), graphs.Radius(30), graphs.Weights("none"))
    assert (theirs.i == ours.i).all() and (theirs.j == ours.j).all()
    other = AnnData(obs=adata.obs.copy(), obsm={"spatial": xy})
    graphs.to_squidpy(other, ours)
    assert abs(other.obsp["spatial_connectivities"] - adata.obsp["spatial_connectivities"]).max() == 0
    assert abs(other.obsp["spatial_distances"] - adata.obsp["spatial_distances"]).max() < 1e-4
    again = graphs.from_squidpy(other, xy, np.zeros(40))
    assert (again.weight == ours.weight).all()
    with pytest.raises(InputError, match="between sections"):
        graphs.from_squidpy(adata, xy, np.arange(40))
    with pytest.raises(InputError, match="expected the graph that squidpy writes"):
        graphs.from_squidpy(AnnData(np.zeros((40, 1))), xy, np.zeros(40))


def test_relatedness_counts_steps_of_the_graph():
    dag = pd.DataFrame({"child": ["b", "c", "d"], "parent": ["a", "a", "c"]})
    found = scores.relatedness(dag, ["b", "d", "x"], 2.0)
    assert found[0, 1] == pytest.approx(np.exp(-3 / 2)) and found[0, 2] == 0 and found[2, 2] == 1
    assert scores.relatedness(NO_DAG, ["a"], 2.0) is None


def test_residuals_know_neither_type_nor_depth():
    rng = np.random.default_rng(4)
    types, depth = rng.integers(0, 3, 900), rng.lognormal(5, 0.6, 900)
    noise = rng.standard_normal((900, 2))
    values = noise / np.sqrt(depth)[:, None] * 10 + types[:, None] * 5 + np.log(depth)[:, None] * [2, 0]
    values = np.column_stack([values, np.where(types == 1, noise[:, 0], 7.0)])
    found = fields.residuals(values, types, depth)
    for kind in range(3):
        mine = types == kind
        assert found[mine, :2].mean(axis=0) == pytest.approx([0, 0], abs=1e-5)
        assert found[mine, :2].std(axis=0) == pytest.approx([1, 1], abs=1e-4)
        assert np.abs(np.corrcoef(found[mine, 0], np.log(depth[mine]))[0, 1]) < 0.15
        assert np.abs(np.corrcoef(np.abs(found[mine, 1]), np.log(depth[mine]))[0, 1]) < 0.12
    # Without spread within a type there is nothing to test.
    assert (found[types != 1, 2] == 0).all() and found[types == 1, 2].std() == pytest.approx(1, abs=1e-4)


def test_the_range_follows_the_field():
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(5)
    xy = rng.uniform(0, 400, (3000, 2))
    at = xy.astype(int)
    smooth = [gaussian_filter(rng.standard_normal((401, 401)), s)[at[:, 0], at[:, 1]] for s in (5, 20)]
    values = fields.standardised(np.column_stack([rng.standard_normal(3000), *smooth]))
    noise, short, long = fields.ranges_um(values, xy, np.zeros(3000), rng)
    assert noise == 10 and 10 <= short <= 30 and 40 <= long <= 90


def test_a_shift_takes_the_nearest_cell_of_the_type_wrapped_at_the_edge():
    x, y = np.meshgrid(np.arange(20) * 15.0, np.arange(14) * 15.0, indexing="ij")
    xy = np.column_stack([x.ravel(), y.ravel()])
    groups = np.random.default_rng(6).integers(0, 2, len(xy))
    torus = shifts.Torus(xy, np.zeros(len(xy)), groups, 40)
    donors = torus.donors(torus.draw(60, 1, np.random.default_rng(7))[0])
    assert (groups[donors[donors >= 0]] == groups[donors >= 0]).all() and (donors >= 0).mean() > 0.9
    extent = xy.max(axis=0)
    shift = torus.draw(60, 200, np.random.default_rng(8))[:, 0] * torus.fovs[0].step
    length = np.hypot(*np.minimum(shift, extent - shift).T)
    assert length.min() >= 60 - 1e-9 and len({tuple(s) for s in shift}) > 100
    step = torus.fovs[0].step
    drawn = torus.draw(60, 30, np.random.default_rng(9))
    for one in drawn:
        donor = torus.donors(one)
        found = np.flatnonzero(donor >= 0)
        off = np.mod(xy[found] - one[0] * step - xy[donor[found]], extent)
        assert np.hypot(*np.minimum(off, extent - off).T).max() <= 40 + np.hypot(*step)
    # Nothing is left of a FOV smaller than the shortest shift, and its cells take no value.
    assert torus.distinct(400, 100) == 0 and (torus.draw(400, 3, np.random.default_rng(0)) == -1).all()
    assert (torus.donors(np.array([[-1, -1]])) == -1).all()
    assert torus.distinct(60, 30) > torus.distinct(120, 60) > 0


def test_fovs_shift_apart_and_profiles_stay_in_their_block():
    xy = np.random.default_rng(10).uniform(0, 300, (400, 2))
    fov = np.repeat(["a", "b"], 200)
    torus = shifts.Torus(xy, fov, np.zeros(400, int), 50)
    drawn = torus.draw(60, 20, np.random.default_rng(11))
    assert (drawn[:, 0] != drawn[:, 1]).any()
    donors = torus.donors(drawn[0])
    assert (fov[donors[donors >= 0]] == fov[donors >= 0]).all()
    label = np.random.default_rng(12).integers(0, 9, 400)
    dealt = shifts.shuffled(label, np.random.default_rng(13))
    assert (
        sorted(dealt) == list(range(400))
        and (label[dealt] == label).all()
        and (dealt != np.arange(400)).any()
    )


@pytest.fixture(scope="module")
def planted():
    found, made = world(5, 2400, True, ("s1", "s2"), 3)
    settings = {**SETTINGS, "claims": 3000}
    results = {
        name: analysis.analyse(part, settings, CHANNELS, defined(), NO_DAG, 1, name)
        for name, part in found.items()
    }
    return found, made, results


def defined():
    return [
        contrasts.Contrast("edge", "immune communication", ("tumour", "interface"), ("tumour", "tumour")),
        contrasts.Contrast("absent", "angiogenesis", ("TME", "TME"), ("tumour", "tumour")),
    ]


def test_the_tables_of_a_section_hold_together(planted):
    sections_, _, results = planted
    result, part = results["s1"], sections_["s1"]
    tables = result.tables
    assert set(tables) == set(analysis.TABLES)
    rows = tables["pairs"]
    assert set(rows["level"]) == set(analysis.LEVELS) and not rows.duplicated(list(analysis.KEY)).any()
    tested = rows[rows["p"].notna()]
    assert (tested["p"] >= tested["p_min"] * 0.999).all() and (tested["q"] >= tested["p"] * 0.999).all()
    ratio = np.log2(tested["score"] / tested["null_mean"])
    known = np.isfinite(ratio)
    assert ratio[known].to_numpy() == pytest.approx(tested["log2_ratio"][known].to_numpy(), abs=1e-3)
    inside = rows[rows["lo"].notna() & rows["log2_ratio"].notna()]
    assert (inside["lo"] <= inside["hi"]).all()
    assert (
        (inside["lo"] - 1e-3 <= inside["log2_ratio"]) & (inside["log2_ratio"] <= inside["hi"] + 1e-3)
    ).mean() > 0.9
    edges = tables["edges"]
    assert (edges["i"] < edges["j"]).all() and edges["j"].max() < len(part.obs)
    assert edges["distance_um"].max() <= 50 and set(edges["cross"]) == {True, False}
    by_channel = tables["channels"].set_index("channel")
    assert by_channel.loc["angiogenesis", "reason"] == "no concept in this channel"
    sums = tables["cells"]["channel:metabolic"].sum() / 2
    assert by_channel.loc["metabolic", "total"] == pytest.approx(sums, rel=1e-4)
    claimed = tables["contrasts"].set_index("contrast")
    assert claimed.loc["absent", "reason"] and np.isfinite(claimed.loc["edge", "p"])
    shares = tables["importance"].groupby(["channel", "receiver"])[["loss", "expected"]].sum()
    assert shares.to_numpy() == pytest.approx(1)
    assert result.summary["semantic"] == scores.NO_GRAPH and result.summary["status"] == "tested"


def test_the_same_seed_gives_the_same_tables(planted):
    found, _, results = planted
    again = analysis.analyse(found["s1"], {**SETTINGS, "claims": 3000}, CHANNELS, defined(), NO_DAG, 1, "s1")
    for name, table in results["s1"].tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name])


def test_planted_pairs_are_recovered_and_point_the_right_way(planted):
    found, made, results = planted
    combined = sections.combine([result.tables["pairs"] for result in results.values()])
    built = [reading.section_graph(part, SETTINGS["graph"]) for part in found.values()]
    rows, summary = pair_recovery.evaluate(
        combined, made.pairs, list(found.values()), built, made.truth, SETTINGS, 1
    )
    variants = summary["variants"]
    assert variants["planted activities"]["auroc"] > 0.9 and variants["features"]["auroc"] > 0.8, summary
    assert variants["planted activities"]["n_direction_right"] >= 5
    assert len(rows) == 18 and rows["r_a"].dropna().between(0.1, 1).all()
    # Without communication there is nothing to recover.
    none, said = pair_recovery.evaluate(
        combined, made.pairs.iloc[:0], list(found.values()), built, made.truth, SETTINGS, 1
    )
    assert none.empty and said["status"] == pair_recovery.NO_PAIRS


def test_direction_is_that_of_induction_and_turns_with_it():
    """b appears in R where S with a is near; a does not care. Named the other way round, the claim turns."""
    rng = np.random.default_rng(14)
    xy, types = rng.uniform(0, 600, (2500, 2)), rng.integers(0, 2, 2500)
    a = rng.standard_normal(2500)
    graph = graphs.build(xy, np.zeros(2500), graphs.Radius(50), graphs.Weights())
    near = graph.within(25).matrix()
    near.data[:] = 1
    contact = near @ ((types == 0) & (a > 1)).astype(float) > 0
    b = rng.standard_normal(2500) + 2.0 * (contact & (types == 1))
    block = [f"{x}_{y}" for x, y in (xy // 100).astype(int)]
    tissue = nulls.Tissue(
        np.column_stack([a, b]), types, ["S", "R"], np.zeros(2500), np.array(block), np.full(2500, 200.0), xy,
        graph.matrix(),
    )  # fmt: skip
    claims = pd.DataFrame({"source": [0, 1], "target": [1, 0], "a": [0, 1], "b": [1, 0]})
    found = direction.induction(claims, tissue, graph, 25, 999, np.random.default_rng(15))
    assert found["direction"].tolist() == [direction.FORWARD, direction.BACKWARD]
    assert found["forward"][0] == pytest.approx(found["backward"][1]) and found["forward"][0] > 0.4
    same = pd.DataFrame({"source": [0], "target": [1], "a": [1], "b": [0]})
    assert (
        direction.induction(same, tissue, graph, 25, 999, np.random.default_rng(16))["direction"][0]
        == direction.OPEN
    )


def test_depth_strata_hold_fifths_of_a_type():
    depth = np.random.default_rng(17).permutation(100).astype(float)
    found = direction.depth_strata(depth, np.repeat([0, 1], 50))
    assert np.bincount(found).tolist() == [10] * 10
    assert depth[found == 0].max() < depth[found == 4].min()


def test_what_smoothness_passes_on_is_taken_off():
    observed = np.array([[0.4, 0.3], [0.3, 0.1]])
    r = np.array([[1.0, 0.5], [0.5, 1.0]])
    zero = np.eye(2)
    assert nulls.passed_on(observed, zero, r)[0, 1] == pytest.approx(0.2)  # r · cov(a, a)
    assert nulls.passed_on(observed, r, zero)[0, 1] == pytest.approx(0.05)  # r · cov(b, b)
    assert nulls.passed_on(observed, r, r)[0, 1] == pytest.approx(0.2)
    assert nulls.passed_on(observed, zero, zero)[0, 1] == 0


def test_sections_combine_by_stouffer_and_count_replication(planted):
    _, _, results = planted
    tables = [result.tables["pairs"] for result in results.values()]
    combined = sections.combine(tables).set_index(list(analysis.KEY))
    both = [table.set_index(list(analysis.KEY)) for table in tables]
    key = both[0].dropna(subset=["p", "lo"]).index.intersection(both[1].dropna(subset=["p", "lo"]).index)[0]
    from scipy.stats import norm

    edges = np.array([table.loc[key, "n_edges"] for table in both], float)
    z = norm.isf([table.loc[key, "p"] for table in both])
    expected = norm.sf((np.sqrt(edges) * z).sum() / np.sqrt(edges.sum()))
    row = combined.loc[key]
    assert row["p"] == pytest.approx(expected, rel=1e-3) and row["n_sections"] == 2
    assert row["n_edges"] == edges.sum()
    hits = sum(table.loc[key, "p"] < 0.05 and table.loc[key, "log2_ratio"] > 0 for table in both)
    assert row["sections_replicated"] == hits
    assert row["lo"] <= row["log2_ratio"] <= row["hi"]
    alone = sections.combine(tables[:1]).set_index(list(analysis.KEY)).loc[key]
    assert alone["p"] == pytest.approx(both[0].loc[key, "p"], rel=1e-3)
    assert alone["lo"] + alone["hi"] == pytest.approx(2 * alone["log2_ratio"], abs=1e-3)
    claims = sections.combine_contrasts([result.tables["contrasts"] for result in results.values()])
    assert claims.set_index("contrast").loc["edge", "n_sections"] == 2
    summary = sections.summarise(combined.reset_index(), claims, [r.summary for r in results.values()], 0.05)
    assert summary["n_sections"] == 2 and summary["levels"][analysis.CONCEPTS]["n_tests"] > 1000


def test_the_network_is_read_by_others(planted, tmp_path):
    import networkx as nx

    found, _, results = planted
    files.write_network(tmp_path / "graph.graphml", results["s1"].tables["pairs"], found["s1"], 0.05)
    graph = nx.read_graphml(tmp_path / "graph.graphml")
    kinds = nx.get_node_attributes(graph, "kind")
    assert set(kinds.values()) == {"cell type", "compartment"} and len(kinds) == 11
    assert all({"level", "p", "directed"} <= set(data) for *_, data in graph.edges(data=True))
    files.write_graph(tmp_path / "graph.h5ad", found["s1"], results["s1"].graph, {"rule": "x"})
    import anndata

    read = anndata.read_h5ad(tmp_path / "graph.h5ad")
    assert read.obsp["spatial_connectivities"].nnz == 2 * len(results["s1"].tables["edges"])


def test_shares_of_channels_have_a_null_and_an_answer():
    """A channel that lies in patches is shared by neighbours, one of noise is not."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(18)
    xy = rng.uniform(0, 500, (2500, 2))
    field = gaussian_filter(rng.standard_normal((501, 501)), 15)[tuple(xy.astype(int).T)]
    values = np.column_stack([field, rng.standard_normal(2500)])
    graph = graphs.build(xy, np.zeros(2500), graphs.Radius(40), graphs.Weights())
    block = np.array([f"{x}_{y}" for x, y in (xy // 100).astype(int)])
    tissue = nulls.Tissue(
        values, rng.integers(0, 2, 2500), ["x", "y"], np.zeros(2500), block, np.full(2500, 100.0), xy,
        graph.matrix(),
    )  # fmt: skip

    def draws(name):
        return np.random.default_rng(len(name))

    made = channels.channel_nulls(tissue, 99, 50, 50, 50, draws, ("profiles", "uncentred"))
    table, statistics = channels.test_channels(
        tissue, graph, tissue.types, made, min_edges=20, draws=50, level="t", make=draws, shuffle=True
    )
    field, noise = table[table["channel"] == 0], table[table["channel"] == 1]
    assert len(field) == 3 and (field["p"] < 0.01).all() and (field["lo"] > 0).all()
    assert (noise["p"] > 0.01).all() and (noise["lo"] < 0).all()
    assert statistics["shift"].shape == (99, 3, 2) and statistics["labels"].shape == (50, 3, 2)
    # By hand: the mean of w·min over the edges between x and y.
    a, b = tissue.types[graph.i], tissue.types[graph.j]
    cross = a != b
    positive = np.clip(tissue.residual[:, 0], 0, None)
    expected = (np.minimum(positive[graph.i], positive[graph.j]) * graph.weight)[cross].sum() / graph.weight[
        cross
    ].sum()
    assert field.set_index(["source", "target"]).loc[(0, 1), "score"] == pytest.approx(expected, rel=1e-4)


def small(**changes):
    part = world(6, 300)[0]["s1"]
    return dataclasses.replace(part, **changes)


def run(part, **changes):
    return analysis.analyse(part, {**SETTINGS, **changes}, CHANNELS, defined(), NO_DAG, 1, "s1")


def test_without_edges_nothing_is_tested_and_it_says_so():
    result = run(small(), graph={**SETTINGS["graph"], "radius_um": 0.001})
    assert result.summary["status"] == "not testable: the graph has no edge"
    assert result.tables["pairs"].empty and result.tables["edges"].empty
    assert (result.tables["contrasts"]["reason"] != "").all()
    assert sections.combine([result.tables["pairs"]]).empty


def test_without_a_concept_nothing_is_tested_and_it_says_so():
    part = small()
    part = dataclasses.replace(
        part, values=part.values[:, :0], genes=part.genes[:, :0], concepts=part.concepts.iloc[:0]
    )
    result = run(part)
    assert result.summary["status"] == "not testable: no concept has an activity"
    assert result.tables["pairs"].empty and len(result.tables["edges"])
    assert (result.tables["contrasts"]["reason"] != "").all()
    assert (result.tables["channels"]["n_concepts"] == 0).all()
    both = sections.combine([result.tables["pairs"]] * 2)
    assert sections.summarise(both, sections.combine_contrasts([result.tables["contrasts"]]), [{}], 0.05)


def test_one_cell_type_and_missing_places():
    part = small()
    spatial = part.spatial.copy()
    spatial[:10], spatial[20:24] = np.nan, spatial[20]
    result = run(dataclasses.replace(part, obs=part.obs.assign(cell_type="all"), spatial=spatial))
    assert result.summary["graph"]["without_place"] == 10
    rows = result.tables["pairs"]
    mine = rows[rows["level"] == analysis.CONCEPTS]
    assert len(mine) and set(mine["source"]) == set(mine["target"]) == {"all"} and mine["p"].notna().all()
    assert np.isfinite(result.tables["edges"]["weight"]).all()


def test_without_compartments_channels_are_compared_by_type_alone():
    result = run(small(compartment=np.full(300, -1)))
    assert "no cell has a compartment" in result.summary["status"]
    assert not (result.tables["pairs"]["level"] == analysis.COMPARTMENTS).any()
    assert (result.tables["contrasts"]["reason"] != "").all()


def test_fields_too_smooth_for_the_fov_are_not_testable():
    part = small()
    xy = part.spatial
    wave = np.sin((xy[:, 0] - xy[:, 0].min()) / 80)[:, None] + np.random.default_rng(0).normal(
        0, 0.1, (300, 2)
    )
    part = dataclasses.replace(
        part, values=wave.astype(np.float32), genes=None, concepts=part.concepts.iloc[:2],
        obs=part.obs.assign(cell_type="all"),
    )  # fmt: skip
    result = run(part)
    assert "fewer than 20 distinct shifts" in result.summary["status"]
    assert result.tables["pairs"]["p"].isna().all()


def test_concepts_that_agree_within_cells_are_no_pair():
    part = small()
    values = np.column_stack([part.values[:, 0], part.values[:, 0] * 2, part.values[:, 1]])
    part = dataclasses.replace(part, values=values, genes=None, concepts=part.concepts.iloc[:3])
    result = run(part)
    mine = result.tables["pairs"]
    first = part.concepts["term_id"].tolist()
    together = mine[(mine["a"].isin(first[:2])) & (mine["b"].isin(first[:2]))]
    assert together.empty and result.summary["shifts"]["overlapping_pairs"] == 1


def test_legacy_takes_p_from_shuffled_labels():
    result = run(small(), legacy=True)
    rows = result.tables["pairs"]
    assert set(rows["null"]) == {"labels shuffled"}
    assert rows["p"].to_numpy(float) == pytest.approx(rows["p_labels"].to_numpy(float), nan_ok=True)


def test_only_specific_concepts_make_pairs():
    concepts = pd.DataFrame(
        {"term_id": list("abcd"), "channel": ["x", "generic", "x", "unclassified"], "ic": [1.0, 9, 3, 2]}
    )
    assert reading.chosen_concepts(concepts, 2).tolist() == [2, 3]
    assert reading.chosen_concepts(concepts, 9).tolist() == [0, 2, 3]


def test_sections_are_read_and_mistakes_named(tmp_path):
    from anndata import AnnData

    names = ["s1:1_1", "s1:1_2", "s1:1_3"]
    obs = pd.DataFrame(
        {"sample": "s1", "fov": 1, "cell_type": "T", "n_counts": 5, "block": "b", "has_tokens": [True, False,
        True]},
        index=names,
    )  # fmt: skip
    var = pd.DataFrame({"name": ["n"], "channel": ["x"], "ic": [1.0]}, index=["t"])
    adata = AnnData(np.ones((3, 1), np.float32), obs, var, obsm={"spatial": np.zeros((3, 2))})
    adata.write_h5ad(tmp_path / "a.h5ad")
    calls = pd.DataFrame({"cell": names, "compartment": ["TME", "tumour", ""], "region": ["tumour"] * 3})
    calls.to_parquet(tmp_path / "r.parquet")
    part = reading.read_section(tmp_path / "a.h5ad", tmp_path / "r.parquet", "called")
    assert part.obs.index.tolist() == ["s1:1_1", "s1:1_3"] and part.compartment.tolist() == [2, -1]
    assert reading.read_section(
        tmp_path / "a.h5ad", tmp_path / "r.parquet", "geometric"
    ).compartment.tolist() == [0, 0]
    calls.iloc[1:].to_parquet(tmp_path / "r.parquet")
    with pytest.raises(InputError, match="found no cell 's1:1_1'"):
        reading.read_section(tmp_path / "a.h5ad", tmp_path / "r.parquet", "called")
    del adata.obs["block"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="found no obs column 'block'"):
        reading.read_section(tmp_path / "a.h5ad", tmp_path / "r.parquet", "called")


def test_the_contrasts_that_ship_are_one_a_channel(root):
    from interptfm.activity.channels import read_channels

    names = read_channels(root / "resources/channels.yaml").names
    found = contrasts.read_contrasts(root / "resources/contrasts.yaml", names)
    assert len(found) == 6 and len({c.channel for c in found}) == 6
    with pytest.raises(InputError, match="found channel 'immune communication'"):
        contrasts.read_contrasts(root / "resources/contrasts.yaml", ["other"])


def test_a_contrast_is_tested_the_way_it_was_written():
    rng = np.random.default_rng(19)
    null = rng.lognormal(0, 0.1, (199, 2, 1))
    table = pd.DataFrame(
        {"source": ["tumour", "interface"], "target": ["tumour", "tumour"], "channel": "c", "n_edges": 9,
         "score": [1.0, 2.0], "log2_ratio": [0.0, 1.0], "score_z": [1.0, 2.0]}
    )  # fmt: skip
    statistics = {"shift": null, "labels": null, "bootstrap": rng.normal(0, 0.1, (50, 2, 1))}
    one = contrasts.Contrast("up", "c", ("tumour", "interface"), ("tumour", "tumour"))
    other = contrasts.Contrast("down", "c", ("tumour", "tumour"), ("interface", "tumour"))
    up, down = contrasts.test_contrasts([one, other], table, statistics).to_dict("records")
    assert up["p"] == pytest.approx(1 / 200) and down["p"] == pytest.approx(1)
    assert up["difference"] == pytest.approx(1) and down["difference"] == pytest.approx(-1)
    assert up["lo"] < up["hi"] and up["n_above"] == 9


def test_truth_and_sections_have_the_same_cells():
    found, made = world(7, 300)
    with pytest.raises(InputError, match="expected all cells of the run"):
        pair_recovery.aligned_truth(found["s1"], made.truth.iloc[1:])
    part = section(made, "s1", design(), truth=True)
    assert part.values.shape[1] == 24


def test_settings_that_need_each_other_are_checked():
    good = {"crosstalk": SETTINGS}
    spaces.check_crosstalk(good)
    read = {**SETTINGS, "graph": {**SETTINGS["graph"], "kind": "obsp"}}
    with pytest.raises(InputError, match=r"crosstalk\.graph\.path"):
        spaces.check_crosstalk({"crosstalk": read})
    published = {**SETTINGS, "legacy": True, "nulls": {**SETTINGS["nulls"], "others": []}}
    with pytest.raises(InputError, match="expected it with"):
        spaces.check_crosstalk({"crosstalk": published})
