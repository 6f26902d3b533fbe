"""TIS: the score against its definition, its symmetries, its controls, and what it says of bad input."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from interptfm import job, store
from interptfm.errors import InputError
from interptfm.tis import controls, judges, readout, scoring, table, tasks, units

SETTINGS = {
    "similarity": "cosine", "embedding": None, "references": 5, "tasks": 200, "quantile": 0.2,
    "shuffles": 200, "controls": 8, "components": 4, "bootstrap": 50, "legacy": False,
    "matched": {"cell_type": True, "depth_strata": 1, "depth_quantile": 0.1},
}  # fmt: skip


def world(n=600, genes=60, types=2, blocks=6, sections=2, seed=0, depth_sd=0.6, factor=1.0):
    """Cells with types, a continuous program on the first genes, and depth; returns cells and the program."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, types, n)
    program = rng.standard_normal(n)
    log_fold = np.zeros((n, genes))
    log_fold[:, :15] += factor * program[:, None] * rng.uniform(0.3, 1, 15)
    for t in range(types):
        log_fold[kind == t, 20 + 8 * t : 28 + 8 * t] += 2
    rate = np.exp(log_fold)
    rate *= (150 * np.exp(depth_sd * rng.standard_normal(n)) / rate.sum(1))[:, None]
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    section = np.arange(n) * sections // n
    block = [f"s{s}:{b}" for s, b in zip(section, rng.integers(0, blocks, n))]
    split = np.array(["train", "validation", "test"])[rng.integers(0, 3, n)]
    obs = pd.DataFrame(
        {"sample": [f"s{s}" for s in section], "cell_type": [f"type {t}" for t in kind], "block": block,
         "split": split, "n_counts": np.asarray(counts.sum(1)).ravel(), "n_genes": np.diff(counts.indptr)},
        index=[f"s{s}:1_{i}" for i, s in enumerate(section)],
    )  # fmt: skip
    spatial = rng.uniform(0, 500, (n, 2))
    return units.Cells(counts, [f"G{i}" for i in range(genes)], obs, spatial), program.astype(np.float32)


@pytest.fixture(scope="module")
def tissue():
    return world()


def scorer(cells, labels=None, vectors=None, **options):
    vectors = judges.judge(cells.counts, cells.genes) if vectors is None else vectors
    labels = tasks.labels_of(cells.section) if labels is None else labels
    return scoring.Scorer(vectors, labels, cells.blocks, **{"references": 5, "tasks": 400, **options})


def test_eight_cells_by_hand():
    """Two kinds of cells, pointing along two axes: every task has the same D, worked out on paper."""
    vectors = np.array([[1, 0]] * 4 + [[0, 1]] * 4, np.float32)
    unit = np.array([8, 7, 6, 5, 4, 3, 2, 1], np.float32)
    strata = tasks.Strata(np.zeros(8, int), quantile=0.5, references=3)
    order, reason = strata.tails(unit, np.random.default_rng(0))
    assert reason == "" and order[0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    drawn = strata.draw(order, 3, np.random.default_rng(0))
    # All four of each half are drawn; the most extreme are references, the cell in the middle the query.
    assert drawn.high.tolist() == [[0, 1, 2, 3]] * 3 and drawn.low.tolist() == [[7, 6, 5, 4]] * 3
    assert (drawn.n_high, drawn.n_low, drawn.n_scorable) == (4, 4, 8)
    # Δ(query⁺) = 1 − 0, Δ(query⁻) = 0 − 1, D = 2.
    assert scoring.differences(vectors, drawn.high, drawn.low).tolist() == [2.0] * 3
    # A query that is nothing like its side: Δ(query⁺) = 0 − 1, so D = −1 − (−1) = 0, a tie.
    vectors[3] = [0, 1]
    d = scoring.differences(vectors, drawn.high, drawn.low)
    assert d.tolist() == [0.0] * 3
    assert scoring.hard_score(d).tolist() == [0.5] * 3
    assert scoring.hard_score(d, legacy=True).tolist() == [0.0] * 3
    assert scoring.soft_score(np.array([0.0, 1.0]), 2.0) == pytest.approx([0.5, 1 / (1 + np.exp(-2))])


def test_d_is_the_difference_of_mean_cosines(tissue):
    """The dot product with the mean of normalised references is the mean of pairwise cosines."""
    cells, program = tissue
    logged = judges.log_normalise(cells.counts)
    z = judges.standardise(logged).astype(float)
    vectors = judges.cosine(logged)
    strata = tasks.Strata(tasks.labels_of(cells.section), 0.2, 5)
    rng = np.random.default_rng(1)
    drawn = strata.draw(strata.tails(program, rng)[0], 7, rng)

    def s(c, others):
        return np.mean([z[c] @ z[e] / np.linalg.norm(z[c]) / np.linalg.norm(z[e]) for e in others])

    for high, low, d in zip(drawn.high, drawn.low, scoring.differences(vectors, drawn.high, drawn.low)):
        of_high = s(high[5], high[:5]) - s(high[5], low[:5])
        of_low = s(low[5], high[:5]) - s(low[5], low[:5])
        assert d == pytest.approx(of_high - of_low, abs=1e-5)


def test_draws_keep_to_the_rules(tissue):
    """Queries and references are disjoint and from one stratum and tail; the query is the least extreme."""
    cells, program = tissue
    labels = tasks.labels_of(cells.section, cells.types)
    strata = tasks.Strata(labels, 0.25, 5)
    rng = np.random.default_rng(2)
    drawn = strata.draw(strata.tails(program, rng)[0], 500, rng)
    together = np.concatenate([drawn.high, drawn.low], axis=1)
    assert all(len(set(row)) == 12 for row in together)
    assert (labels[together] == labels[together[:, :1]]).all()
    assert (np.diff(program[drawn.high], axis=1) <= 0).all() and (
        np.diff(program[drawn.low], axis=1) >= 0
    ).all()
    for label in np.unique(labels):
        inside = program[labels == label]
        m = int(0.25 * len(inside))
        mine = drawn.high[labels[drawn.high[:, 0]] == label]
        assert program[mine].min() >= np.sort(inside)[-m]
        share = (labels[drawn.high[:, 0]] == label).mean()
        assert share == pytest.approx((labels == label).mean(), abs=1 / 250)


def test_subsets_are_all_equally_likely():
    chosen = tasks.subsets(np.full(60_000, 6), 3, np.random.default_rng(3))
    code = chosen @ [1, 10, 100]
    assert (np.diff(chosen, axis=1) > 0).all() and chosen.min() == 0 and chosen.max() == 5
    _, counts = np.unique(code, return_counts=True)
    assert len(counts) == 20
    assert stats.chisquare(counts).pvalue > 0.001


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 5000))
def test_shares_add_up(sizes, total):
    shares = tasks.share_out(np.array(sizes), total)
    assert shares.sum() == total and (np.abs(shares - total * np.array(sizes) / sum(sizes)) < 1).all()


def test_the_opposite_unit_scores_the_same(tissue):
    """D is unchanged when the tails change places, so −u and u differ by the draws alone."""
    cells, program = tissue
    strata = tasks.Strata(tasks.labels_of(cells.section), 0.2, 5)
    rng = np.random.default_rng(4)
    vectors = judges.judge(cells.counts, cells.genes)
    drawn = strata.draw(strata.tails(program, rng)[0], 300, rng)
    d = scoring.differences(vectors, drawn.high, drawn.low)
    np.testing.assert_allclose(scoring.differences(vectors, drawn.low, drawn.high), d, atol=1e-6)
    noisy = program + 1 * np.random.default_rng(5).standard_normal(len(program)).astype(np.float32)
    scores = scorer(cells, tasks=8000).score(np.column_stack([noisy, -noisy]), ["u", "-u"])
    assert 0.6 < scores["hard"][0] < 0.95
    assert scores["hard"][0] == pytest.approx(scores["hard"][1], abs=0.015)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_scaling_genes_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    logged = rng.poisson(1.0, (40, 12)) * rng.uniform(0.5, 2, (40, 12))
    scaled = logged * rng.uniform(0.01, 100, 12)
    np.testing.assert_allclose(judges.cosine(scaled), judges.cosine(logged), atol=2e-5)


def test_a_program_scores_and_noise_does_not(tissue):
    cells, program = tissue
    noise = np.random.default_rng(6).standard_normal(len(program)).astype(np.float32)
    judge = scorer(cells)
    null = judge.null(300)
    scores = judge.score(np.column_stack([program, noise]), ["program", "noise"], null.alpha)
    assert scores["hard"][0] > 0.9 and scores["soft"][0] > 0.7
    assert 0.4 < scores["hard"][1] < 0.6 and 0.45 < scores["soft"][1] < 0.55
    assert null.hard.mean() == pytest.approx(0.5, abs=0.01)
    p = null.p(scores["hard"])
    assert p[0] == null.p_min == 1 / 301 and p[1] > 0.02


def test_the_null_does_not_depend_on_the_unit(tissue):
    """Shuffling a sparse unit, ties at random, gives scores of the same law as the pooled null."""
    cells, _ = tissue
    judge = scorer(cells, tasks=100)
    rng = np.random.default_rng(7)
    sparse_unit = np.where(rng.random(len(cells.obs)) < 0.1, rng.random(len(cells.obs)), 0).astype(np.float32)
    shuffled = np.column_stack([rng.permutation(sparse_unit) for _ in range(200)])
    scores = judge.score(shuffled, range(200))["hard"]
    assert stats.ks_2samp(scores, judge.null(400).hard).pvalue > 0.01


def test_expected_maximum_of_the_null():
    rng = np.random.default_rng(8)
    null = scoring.Null(rng.normal(0.5, 0.02, 4000), 1.0)
    drawn = rng.choice(null.hard, (20_000, 50)).max(axis=1).mean()
    assert null.expected_maximum(50) == pytest.approx(drawn, abs=5e-4)
    assert null.expected_maximum(1) == pytest.approx(null.hard.mean())
    assert np.isnan(scoring.Null(np.empty(0), 1.0).expected_maximum(3))


def test_threads_and_dense_or_sparse_give_the_same(tissue):
    cells, program = tissue
    columns = np.column_stack([program, np.maximum(program, 0)])
    dense = scorer(cells, threads=1, bootstrap=20).score(columns, "ab", 1.0)
    threaded = scorer(cells, threads=3, bootstrap=20).score(sparse.csc_matrix(columns), "ab", 1.0)
    pd.testing.assert_frame_equal(dense, threaded)
    other = scorer(cells, seed=1).score(columns, "ab", 1.0)
    assert (other["hard"] != dense["hard"]).any()


def test_units_that_cannot_be_scored_say_why(tissue):
    cells, program = tissue
    n = len(program)
    broken = np.where(np.arange(n) == 3, np.nan, program)
    few = np.zeros(n, np.float32)
    few[[0, 5, 400, 401]] = 1  # fewer than K + 1 in either section
    columns = np.column_stack([broken, np.ones(n), few, program]).astype(np.float32)
    scores = scorer(cells).score(columns, range(4))
    assert scores["hard"][:3].isna().all() and scores["hard"][3] > 0.9
    assert scores["reason"].tolist() == [
        "activations are not finite",
        "too few cells differ from its most common value",
        "too few cells differ from its most common value",
        "",
    ]
    tiny = scorer(cells, labels=np.where(np.arange(n) < 20, 0, -1))
    assert tiny.score(columns[:, 3:], [3])["reason"][0] == (
        "no stratum is large enough: the largest has 20 cells"
    )
    assert len(tiny.null(5).hard) == 0


def test_one_block_has_no_interval(tissue):
    cells, program = tissue
    vectors = judges.judge(cells.counts, cells.genes)
    labels = tasks.labels_of(cells.section)
    alone = scoring.Scorer(vectors, labels, np.full(len(labels), "b"), references=5, bootstrap=50)
    found = alone.score(program[:, None], [0])
    assert found[["lo", "hi"]].isna().all(axis=None)
    assert found["lo_binomial"][0] < found["hard"][0] <= found["hi_binomial"][0]
    assert tasks.block_halves(np.full(9, "b"), np.zeros(9), np.random.default_rng(0)).all()


def test_blocks_that_differ_widen_the_interval():
    """A unit that means something in half of the blocks: tasks are no independent draws."""
    cells, program = world(n=900, blocks=5, sections=1, seed=9)
    names = np.unique(cells.blocks)
    works = np.isin(cells.blocks, names[::2])
    noise = np.random.default_rng(10).standard_normal(len(program))
    unit = np.where(works, program, noise).astype(np.float32)
    found = scorer(cells, bootstrap=400, tasks=1500).score(unit[:, None], [0]).iloc[0]
    assert found["lo"] <= found["hard"] <= found["hi"]
    assert found["hi"] - found["lo"] > 2 * (found["hi_binomial"] - found["lo_binomial"])


def test_thinning_draws_counts_to_one_depth(tissue):
    cells, _ = tissue
    depth = 80
    rng = np.random.default_rng(11)
    thinned, enough = judges.thin(cells.counts, depth, rng)
    total = np.asarray(thinned.sum(1)).ravel()
    assert (total[enough] == depth).all() and (total[~enough] == 0).all() and 0 < enough.mean() < 1
    assert (thinned - cells.counts).max() <= 0
    row = int(np.flatnonzero(enough)[0])
    one = cells.counts[[row]]
    mean = np.mean([judges.thin(one, depth, rng)[0].toarray() for _ in range(400)], axis=0)
    np.testing.assert_allclose(mean, one.toarray() * depth / one.sum(), atol=0.6)
    with pytest.raises(InputError, match="whole numbers"):
        judges.thin(one * 0.5, 3, rng)


def test_depth_scores_until_the_judge_is_thinned():
    """Depth is nobody's program here, yet judges see it; equal depth takes that away, strata do not."""
    cells, _ = world(n=1500, blocks=5, seed=12, depth_sd=1.0)
    depth = np.asarray(cells.counts.sum(1)).astype(np.float32)
    plain = scorer(cells, tasks=4000).score(depth, [0])["hard"][0]
    strata = tasks.labels_of(cells.section, cells.types)
    matched = scorer(cells, labels=strata, tasks=4000).score(depth, [0])["hard"][0]
    limit = int(np.quantile(depth, 0.1))
    thinned, enough = judges.thin(cells.counts, limit, np.random.default_rng(13))
    labels = np.where(enough, strata, -1)
    equal = scorer(cells, labels, judges.judge(thinned, cells.genes), tasks=4000).score(depth, [0])["hard"][0]
    assert plain > 0.6 and matched > 0.6
    assert equal == pytest.approx(0.5, abs=0.03)


def test_spearman_and_embedding_judges(tissue):
    cells, program = tissue
    logged = judges.log_normalise(cells.counts)
    vectors = judges.spearman(logged, chunk=100)
    dense = logged.toarray()
    assert vectors[3] @ vectors[77] == pytest.approx(stats.spearmanr(dense[3], dense[77]).statistic, abs=1e-5)
    rng = np.random.default_rng(14)
    gene_table = np.zeros((15, 2), np.float32)
    gene_table[:, 0] = 1
    names = [f"G{i}" for i in range(15)]
    gene_table = np.concatenate([gene_table, rng.standard_normal((5, 2)).astype(np.float32)])
    vectors = judges.judge(cells.counts, cells.genes, embedding=(gene_table, [*names, *"ABCDE"]))
    assert vectors.shape == (len(program), 2)
    table_all = rng.standard_normal((60, 8)).astype(np.float32)
    table_all[:15] += 3  # the program's genes lie together
    vectors = judges.judge(cells.counts, cells.genes, embedding=(table_all, cells.genes))
    assert scorer(cells, vectors=vectors).score(program[:, None], [0])["hard"][0] > 0.9


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda c: judges.judge(c.counts, c.genes, embedding=(np.ones((2, 3)), ["X", "Y"])), "found none of"),
        (lambda c: judges.judge(c.counts, c.genes, embedding=(np.ones(3), ["X"])), "one row a gene"),
        (lambda c: judges.judge(c.counts, c.genes, "euclid"), "found similarity 'euclid'"),
        (lambda c: judges.judge(-c.counts, c.genes), "negative or not finite"),
        (lambda c: judges.judge(c.counts[:, :0], []), "found no counts in the genes it sees"),
        (lambda c: tasks.Strata(np.zeros(9), 0.7, 3), "tis.quantile: found 0.7"),
        (lambda c: tasks.Strata(np.zeros(9), 0.2, 0), "tis.references: found 0"),
        (lambda c: units.visible(c.genes, set()), "sees 60 of 60 genes"),
        (lambda c: units.visible(c.genes, set(c.genes)), "sees 0 of 60 genes"),
        (lambda c: units.read({"source": "moon"}, [], c, 0), "found source 'moon'"),
        (lambda c: units.read_cells([]), "found no file"),
    ],
)
def test_mistakes_are_named(tissue, call, message):
    with pytest.raises(InputError, match=message):
        call(tissue[0])


def evaluation(cells, present=None, held_out=None, **changes):
    present = np.ones(len(cells.obs), bool) if present is None else present
    chosen = {**SETTINGS, **changes}
    return table.Evaluation(cells, present, chosen, seed=1, name="test", held_out=held_out)


def test_the_table_has_units_and_all_controls(tissue):
    cells, program = tissue
    rng = np.random.default_rng(15)
    columns = np.column_stack([program, *rng.standard_normal((3, len(program)))]).astype(np.float32)
    columns[5, 3] = np.nan
    untrained = rng.standard_normal((len(program), 6)).astype(np.float32)
    rows, null, summary = table.evaluate(evaluation(cells), columns, 2, untrained)
    assert list(rows) == list(table.COLUMNS) and set(rows["layer"]) == {2}
    counts = rows["variant"].value_counts()
    assert counts.to_dict() == {
        "units": 4, "shuffled": 8, "random direction": 8, "rotation": 4, "untrained": 6, "depth": 2,
        "principal component": 4, "cell type": 2,
    }  # fmt: skip
    mine = rows[rows["variant"] == "units"].set_index("unit")
    assert mine.loc[0, "tis_hard"] > 0.9 and mine.loc[0, "q"] < 0.05 and mine.loc[0, "tis_matched"] > 0.8
    assert np.isnan(mine.loc[3, "tis_hard"]) and mine.loc[3, "reason"] == "activations are not finite"
    assert np.isnan(mine.loc[3, "p"]) and np.isnan(mine.loc[3, "q"]) and np.isnan(mine.loc[3, "reliability"])
    assert mine.loc[0, "reliability"] > 0.9
    types = rows[rows["variant"] == "cell type"]
    assert (types["tis_hard"] > 0.9).all() and types["tis_matched"].isna().all(), (
        "a type is constant within it"
    )
    assert (types["n_scorable"] == 0).all() and mine.loc[0, "n_scorable"] > 400
    assert rows["tis_heldout_genes"].isna().all() and summary["held_out"] is None
    first = summary["variants"][0]
    assert first["variant"] == "units" and first["best"] == "0" and first["n_scored"] == 3
    assert first["best_tis"] > first["null_expected_best"] > 0.5
    assert len(null) == 200 and summary["null"]["p_min"] == 1 / 201
    ways = {row["matching"] for row in summary["by_matching"]}
    assert len(ways) == 6 and summary["unscored"] == {"activations are not finite": 2}, "shuffled, too"
    again, _, _ = table.evaluate(evaluation(cells), columns, 2, untrained)
    pd.testing.assert_frame_equal(rows, again)


def test_a_single_cell_type_section_and_block():
    """Nothing to match on, no second half, no interval: documented values, no failure."""
    cells, program = world(n=200, types=1, blocks=1, sections=1)
    rows, _, summary = table.evaluate(evaluation(cells), program[:, None], 0)
    mine = rows[rows["variant"] == "units"].iloc[0]
    assert mine["tis_hard"] > 0.9 and mine["tis_matched"] > 0.7
    assert mine[["lo", "hi", "lo_matched", "tis_half_b", "reliability"]].isna().all()
    assert rows.loc[rows["variant"] == "cell type", "reason"].tolist() == [
        "too few cells differ from its most common value"
    ]
    assert summary["variants"][0]["reliability_by_block"] is None


def test_held_out_genes_tell_programs_from_copies_of_the_judge():
    """A unit that only repeats the noise of genes that its model sees fools a judge of these genes alone."""
    rng = np.random.default_rng(16)
    cells, _ = world(n=900, seed=17, factor=0.7)
    counts = cells.counts.toarray()
    counts[:, 50:] = rng.poisson(1.5, (len(counts), 10))  # genes that go with no other
    cells = units.Cells(sparse.csr_matrix(counts), cells.genes, cells.obs, cells.spatial)
    visible = np.ones(60, bool)
    visible[1:50:2] = False
    logged = judges.log_normalise(cells.counts[:, np.flatnonzero(visible)]).toarray()
    copy = counts[:, 50:].sum(axis=1).astype(np.float32)
    seen_program = logged[:, :7].sum(axis=1).astype(np.float32)
    states = np.column_stack([copy, seen_program])
    held_out = table.HeldOut(states, np.ones(len(states), bool), visible, same_weights=True)
    judged = evaluation(cells, held_out=held_out, tasks=1500)
    rows = judged.rows(controls.group("units", states, held_out=states), judged.full.null(50), 0)
    assert rows["tis_hard"][0] > 0.6 and rows["tis_hard"][1] > 0.85
    assert rows["tis_heldout_genes"][0] == pytest.approx(0.5, abs=0.06)
    assert rows["tis_heldout_genes"][1] > 0.7


def test_units_are_read_out_of_another_model(tissue):
    """With other weights, a unit is predicted from the arm's states on cells that the fit did not see."""
    cells, program = tissue
    rng = np.random.default_rng(18)
    noise = rng.standard_normal(len(program)).astype(np.float32)
    states = np.column_stack([2 * program + 1, rng.standard_normal((len(program), 4))[:, 0]]).astype(
        np.float32
    )
    train = cells.split == "train"
    predicted, r = readout.Readout(states, train).predict(np.column_stack([program, noise]), ~train)
    assert r[0] > 0.99 and abs(r[1]) < 0.2
    assert np.corrcoef(predicted[:, 0], program)[0, 1] > 0.99
    visible = np.arange(60) % 2 == 0
    held_out = table.HeldOut(states, np.ones(len(states), bool), visible)
    rows, _, summary = table.evaluate(evaluation(cells, held_out=held_out), program[:, None], 0)
    mine = rows[rows["variant"] == "units"].iloc[0]
    assert mine["tis_heldout_genes"] > 0.85 and mine["heldout_r"] > 0.99
    assert summary["held_out"]["genes_of_the_judge"] == 30
    assert summary["held_out"]["cells"] == int((~train).sum())
    assert rows.loc[rows["variant"] == "principal component", "tis_heldout_genes"].max() > 0.85
    shuffled = rows.loc[rows["variant"] == "shuffled", "tis_heldout_genes"]
    assert shuffled.mean() == pytest.approx(0.5, abs=0.07)


def test_controls_are_what_they_say(tissue):
    cells, program = tissue
    rng = np.random.default_rng(19)
    space = controls.group("units", rng.standard_normal((len(program), 12)).astype(np.float32))
    rotated = controls.rotation(space.columns, 12, rng).columns
    np.testing.assert_allclose(
        np.linalg.norm(rotated, axis=1), np.linalg.norm(space.columns, axis=1), rtol=1e-4
    )
    shuffled = controls.shuffled(space, cells.section, 5, rng)
    for i, unit in enumerate(shuffled.index):
        for name in np.unique(cells.section):
            inside = cells.section == name
            assert (np.sort(shuffled.columns[inside, i]) == np.sort(space.columns[inside, unit])).all()
            assert (shuffled.columns[inside, i] != space.columns[inside, unit]).any()
    depth = controls.depth(cells.counts, np.arange(60) < 30)
    assert (depth.columns[:, 0] == np.asarray(cells.counts.sum(1)).ravel()).all()
    assert (depth.held_out[:, 0] == np.asarray(cells.counts[:, :30].sum(1)).ravel()).all()
    pc = controls.components(cells.counts, 3)
    assert np.abs(np.corrcoef(pc.T) - np.eye(3)).max() < 1e-3
    assert max(abs(np.corrcoef(pc[:, i], program)[0, 1]) for i in range(3)) > 0.8
    wide = controls.directions(sparse.csr_matrix(space.columns), 4, rng)
    assert wide.columns.shape == (len(program), 4) and wide.linear


def test_depth_strata_and_halves():
    rng = np.random.default_rng(20)
    depth, groups = rng.random(103), np.repeat([0, 1], [53, 50])
    stratum = tasks.depth_strata(depth, groups, 5)
    for group in (0, 1):
        sizes = np.bincount(stratum[groups == group])
        assert len(sizes) == 5 and sizes.max() - sizes.min() <= 1
        mine = groups == group
        assert all(
            depth[mine & (stratum == i)].max() < depth[mine & (stratum == i + 1)].min() for i in range(4)
        )
    blocks = np.array([f"b{i % 9}" for i in range(500)])
    half = tasks.block_halves(blocks, np.zeros(500), rng)
    assert all(len(set(half[blocks == b])) == 1 for b in set(blocks)) and 150 < half.sum() < 350


def write_activations(path, sample, cell, states, tokens=True):
    """Write a store of one token a cell and `<cls>` states of layer 1."""
    n = len(cell)
    attributes = {"sample": sample}
    with store.ActivationWriter(path, [1], n, n, 2, "float32", attributes, tokens=tokens) as writer:
        writer.write(np.zeros(n), cell, np.ones(n), {1: states})
        writer.write_cls(0, states[None])


def test_cls_units_are_put_in_their_cells(tissue, tmp_path):
    cells, _ = tissue
    rows = cells.rows()["s1"]
    states = np.arange(8, dtype=np.float32).reshape(4, 2)
    write_activations(tmp_path / "0.zarr.zip", "s1", np.array([0, 2, 3, 5], np.int32), states)
    found, present = units.cls_units([tmp_path / "0.zarr.zip"], cells, 1)
    assert (found[rows[[0, 2, 3, 5]]] == states).all() and present.sum() == 4 and not present[rows[1]]
    write_activations(tmp_path / "1.zarr.zip", "s9", np.array([0], np.int32), states[:1])
    with pytest.raises(InputError, match="'s9' that are not in its cells"):
        units.cls_units([tmp_path / "1.zarr.zip"], cells, 1)


def test_a_store_without_tokens_has_cls_and_says_so(tmp_path):
    path = tmp_path / "0.zarr.zip"
    states = np.ones((3, 2), np.float32)
    write_activations(path, "s1", np.arange(3, dtype=np.int32), states, tokens=False)
    with store.open_activations(path) as file:
        assert (file.cls(1) == states).all() and file.cell.tolist() == [0, 1, 2]
        with pytest.raises(InputError, match="`<cls>` states only"):
            file.rows(1, 0, 1)


def test_feature_units_and_obsm(tissue, tmp_path):
    from interptfm import features
    from interptfm.features.cells import Cells as Aggregates

    cells, program = tissue
    rng = np.random.default_rng(21)
    order = rng.permutation(len(program))
    matrix = sparse.random(len(program), 5, 0.3, random_state=1, format="csr", dtype=np.float32)
    section, within = cells.section, np.concatenate([np.arange(300), np.arange(300)])
    parts = {"mean": matrix, "max": 2 * matrix, "fraction": 3 * matrix}
    aggregates = Aggregates(
        **{k: v[order] for k, v in parts.items()}, sample=section[order], cell=within[order].astype(np.int32)
    )
    features.write_cells(tmp_path / "cells.zarr.zip", aggregates, {})
    for name, expected in parts.items():
        found, present = units.feature_units(tmp_path / "cells.zarr.zip", cells, name)
        assert present.all() and np.allclose(found.toarray(), expected.toarray())
    with pytest.raises(InputError, match="aggregate 'sum'"):
        units.feature_units(tmp_path / "cells.zarr.zip", cells, "sum")

    some = order[:100]
    adata = anndata.AnnData(np.zeros((100, 1), np.float32), obs=pd.DataFrame(index=cells.obs.index[some]))
    adata.obsm["X_test"] = program[some, None]
    adata.write_h5ad(tmp_path / "x.h5ad")
    found, present = units.obsm_units([tmp_path / "x.h5ad"], cells, "X_test")
    assert present.sum() == 100 and (found[some, 0] == program[some]).all()
    with pytest.raises(InputError, match="no obsm key 'X_pca'"):
        units.obsm_units([tmp_path / "x.h5ad"], cells, "X_pca")
    adata.obs_names = [f"other {i}" for i in range(100)]
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(InputError, match="found none of the cells by name"):
        units.obsm_units([tmp_path / "x.h5ad"], cells, "X_test")


def test_gene_tables(tmp_path):
    frame = pd.DataFrame({"gene": ["A", "B"], "d1": [1.0, 2.0], "d2": [0.5, 0.1]})
    store.write_table(tmp_path / "table.tsv", frame)
    values, names = units.gene_table(tmp_path / "table.tsv")
    assert values.shape == (2, 2) and names == ["A", "B"]
    store.write_table(tmp_path / "table.tsv", frame.drop(columns="gene"))
    with pytest.raises(InputError, match="expected 'gene' and dimensions"):
        units.gene_table(tmp_path / "table.tsv")
    store.write_table(tmp_path / "table.tsv", frame.assign(d1=["x", "y"]))
    with pytest.raises(InputError, match="found text among the dimensions"):
        units.gene_table(tmp_path / "table.tsv")


def test_shuffles_let_one_finding_pass():
    assert table.shuffles(50, 10) == 50
    for n in (3, 128, 900):
        assert n / (1 + table.shuffles(None, n)) < 0.05
    assert table.shuffles(None, 4608) == 20_000


def test_seeds_of_units_are_their_own(tissue):
    """The same unit scores the same, alone or among others."""
    cells, program = tissue
    judge = scorer(cells)
    noise = job.generator(1, "noise").standard_normal((len(program), 2)).astype(np.float32)
    both = judge.score(np.column_stack([noise, program]), ["a", "b", "c"])
    alone = judge.score(program[:, None], ["c"])
    assert both["hard"][2] == alone["hard"][0]


def test_a_limit_of_cells_draws_them_over_all_sections(tissue):
    cells, program = tissue
    kept = units.at_most(cells, 200, np.random.default_rng(22))
    some = cells.take(kept)
    assert len(kept) == len(set(kept)) == 200 == len(some.obs) and set(some.section) == {"s0", "s1"}
    assert (some.counts != cells.counts[kept]).nnz == 0 and (np.diff(kept) > 0).all()
    assert (units.rows_of(program[:, None], kept)[:, 0] == program[kept]).all()
    thin = units.rows_of(sparse.csc_matrix(program[:, None]), kept)
    assert thin.format == "csc" and (thin.toarray()[:, 0] == program[kept]).all()
    assert len(units.at_most(cells, None, np.random.default_rng(0))) == len(program)


def test_the_readout_is_ridge_regression_with_the_penalty_of_least_gcv():
    from sklearn.linear_model import Ridge, RidgeCV

    rng = np.random.default_rng(23)
    x = rng.standard_normal((80, 20)).astype(np.float32)
    y = (x[:, :3].sum(1) + 4 * rng.standard_normal(80)).astype(np.float32)
    train = np.arange(80) < 60
    fit = readout.Readout(x, train)
    predicted, r = fit.predict(y[:, None], ~train)
    mean, sd = x[train].mean(0), x[train].std(0)
    scaled = ((x - mean) / sd).astype(float)
    chosen = RidgeCV(fit.penalties).fit(scaled[train], y[train])  # leave-one-out: near, not the same as GCV
    assert r[0] > 0
    near = [Ridge(alpha).fit(scaled[train], y[train]).predict(scaled) for alpha in fit.penalties]
    assert min(np.abs(predicted[:, 0] - p).max() for p in near) < 1e-3
    assert np.corrcoef(predicted[:, 0], chosen.predict(scaled))[0, 1] > 0.95
    with pytest.raises(InputError, match="found 0 training cells"):
        readout.Readout(x, np.zeros(80, bool))
