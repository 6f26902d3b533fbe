"""Held-out genes: folds, the choice without a fold, pooled counts, AUROC and AP, intervals, baselines."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.stats import kstest
from sklearn.metrics import average_precision_score, roc_auc_score
from test_alignment import OPTIONS, aligned, random_firing, terms_of
from test_features import Positive, extracted, world

from interptfm import alignment, features
from interptfm.alignment import genes as by_gene
from interptfm.alignment import intervals
from interptfm.alignment.selection import Split
from interptfm.errors import InputError
from interptfm.features import baselines, representations


def with_sums(firing, rng):
    """Add sums that follow the counts, so that means rank genes as firing does."""
    firing.sums = (firing.counts.sum(axis=3) + rng.random(firing.counts.shape[:3])).astype(np.float32)
    return firing


def test_folds_are_stratified_by_frequency():
    tokens = np.array([0, 5, 9, 1, 7, 3, 2, 8, 4, 6, 10])
    fold = by_gene.folds_of(tokens, 5, np.random.default_rng(0))
    assert fold[0] == -1
    order = np.argsort(tokens)[1:]
    assert sorted(fold[order[:5]]) == sorted(fold[order[5:]]) == [0, 1, 2, 3, 4]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_held_out_scores_equal_the_plain_definition(seed, n_features, n_terms):
    rng = np.random.default_rng(seed)
    firing = with_sums(random_firing(rng, n_genes=25, n_features=n_features), rng)
    membership = rng.random((25, n_terms)) < 0.4
    members = csr_matrix(membership.T.astype(np.float32))
    fold = by_gene.folds_of(firing.tokens.sum(axis=0), 5, rng)
    validation, test = (Split(firing.counts[i], firing.tokens[i]) for i in (1, 2))
    held = by_gene.HeldOutGenes(validation, test, fold, firing.sums[1], firing.sums[2])
    found = held.score(members)
    for term in range(n_terms):
        tp = fp = fn = 0
        aurocs, aps = [], []
        for h in range(5):
            inside = fold == h
            f1 = np.zeros(firing.counts.shape[2:])
            fired, tokens = firing.counts[1][~inside], firing.tokens[1][~inside]
            mine = membership[~inside, term]
            hits = fired[mine].sum(axis=0)
            below = fired.sum(axis=0) + tokens[mine].sum()
            f1 = np.float32(hits) / np.float32(np.maximum(below, 1))
            best = int(f1.argmax()) if f1.max() > 0 else -1
            assert found.column[term, h] == best
            mine = membership[inside, term]
            chosen = firing.counts[2][inside].reshape(inside.sum(), -1)[:, best] * (best >= 0)
            tp, fp = tp + chosen[mine].sum(), fp + chosen[~mine].sum()
            fn += (firing.tokens[2][inside] - chosen)[mine].sum()
            if mine.sum() >= 2 and (~mine).any():
                mean = firing.sums[2][inside, best // 2] / firing.tokens[2][inside] * (best >= 0)
                aurocs.append(roc_auc_score(mine, mean))
                aps.append(average_precision_score(mine, mean))
        assert (found.tp[term], found.fp[term], found.fn[term]) == (tp, fp, fn)
        assert found.n_folds[term] == len(aurocs)
        if aurocs:
            assert found.auroc[term] == pytest.approx(np.mean(aurocs), abs=1e-6)
            assert found.ap[term] == pytest.approx(np.mean(aps), abs=1e-6)
        else:
            assert np.isnan(found.auroc[term])


def planted(rng, n_genes=200, n_features=30, single=False):
    """Feature 0 finds 20 genes of term 0 (or one frequent gene of them); the others fire at random."""
    rates = rng.uniform(0, 0.05, (n_genes, n_features))
    rates[: 1 if single else 20, 0] = 0.8
    tokens = rng.poisson(30, (3, n_genes)) + 1
    tokens[:, 0] = 600 if single else tokens[:, 0]
    counts = rng.binomial(tokens[:, :, None, None], rates[None, :, :, None]).astype(np.int32)
    firing = features.Firing(counts, tokens, [f"G{i}" for i in range(n_genes)], [0.0])
    membership = np.zeros((n_genes, 40), bool)
    membership[:20, 0] = True
    for term in range(1, 40):
        membership[rng.choice(n_genes, 20, replace=False), term] = True
    firing.sums = counts[..., 0].astype(np.float32)
    return firing, membership


def test_a_planted_concept_is_found_on_held_out_genes():
    result = aligned(*planted(np.random.default_rng(1)), permutations=60, strata=5)
    row = result.concepts.set_index("term_id").loc["T:000"]
    assert row["gene_f1"] > 0.7 and row["gene_auroc"] > 0.99 and row["gene_ap"] > 0.95
    assert row["gene_auroc_ranked"] > 0.99
    assert row["gene_f1_q"] < 0.05 and row["gene_auroc_q"] < 0.05
    rest = result.concepts[result.concepts["term_id"] != "T:000"]
    assert abs(rest["gene_auroc"].mean() - 0.5) < 0.04
    assert rest["gene_auroc_q"].min() > 0.05


def test_a_single_gene_feature_passes_held_out_cells_but_not_held_out_genes():
    result = aligned(*planted(np.random.default_rng(2), single=True), permutations=40, strata=5)
    row = result.concepts.set_index("term_id").loc["T:000"]
    assert row["f1"] > 0.5
    assert row["lift"] < 0.02
    assert row["gene_f1"] < 0.2
    assert len(result.interpretable) == 0


def test_p_on_held_out_genes_is_uniform_under_the_null():
    rng = np.random.default_rng(3)
    firing, _ = planted(rng)
    membership = np.zeros((200, 200), bool)
    for term in range(200):
        membership[rng.choice(np.arange(20, 200), 20, replace=False), term] = True
    result = aligned(firing, membership, permutations=60, strata=5)
    # The statistic of 200 uniform p-values exceeds 0.115 once in a hundred times.
    for name in ("auroc", "auroc_ranked"):
        p = result.concepts[f"gene_{name}_p"].dropna()
        assert len(p) == 200 and kstest(p, "uniform").statistic < 0.115
    headline = result.summary["headline"]["gene_held_out"]
    assert headline["n"] == 200 and abs(headline["auroc"]["excess"]) < 0.03


def test_small_terms_missing_sums_and_silent_features_have_documented_values():
    rng = np.random.default_rng(4)
    firing = random_firing(rng, n_genes=40)
    membership = np.zeros((40, 3), bool)
    membership[:9, 0] = membership[:10, 1] = membership[20:40, 2] = True
    firing.counts[:, 20:] = 0  # no feature fires on a gene of term 2
    table = aligned(firing, membership).concepts
    assert table["gene_f1"].isna().tolist() == [True, False, False]
    assert table["gene_auroc"].isna().all() and (table["gene_folds"] == 0).all()
    assert table.loc[2, "gene_f1"] == 0
    found = aligned(with_sums(firing, rng), membership).concepts
    assert found["gene_auroc"].notna().tolist() == [False, True, True]
    assert found.loc[2, "gene_auroc"] == 0.5  # nothing fires rightly: all genes score the same


def test_duplicated_genes_that_no_fold_separates_keep_ranks_tied():
    means = np.array([[1.0], [1.0], [0.0], [0.0]])
    ranked = by_gene.RankedGenes(np.arange(4), means)
    members = csr_matrix(np.array([[1, 1, 0, 0], [1, 0, 1, 0]], np.float32))
    auroc, ap = ranked.auroc_and_ap(members, np.zeros(2, int))
    np.testing.assert_allclose(auroc, [1, 0.5])
    np.testing.assert_allclose(ap, [1, 0.5])


@pytest.mark.parametrize("columns", [1, 3, 1000])
def test_chunks_change_nothing(monkeypatch, columns):
    rng = np.random.default_rng(5)
    firing = with_sums(random_firing(rng, n_features=9, thresholds=(0, 0.2, 0.5)), rng)
    membership = rng.random((30, 6)) < 0.5
    expected = aligned(firing, membership).concepts
    monkeypatch.setattr("interptfm.alignment.genes.CHUNK_COLUMNS", columns)
    pd.testing.assert_frame_equal(expected, aligned(firing, membership).concepts)


def test_stable_features_alone_are_interpretable_where_compared():
    firing, membership = planted(np.random.default_rng(1))
    everything = aligned(firing, membership, permutations=60, strata=5).interpretable
    assert everything["feature"].tolist() == [0] and everything["stable"].isna().all()
    table = pd.DataFrame({"feature": range(30), "stable": [False] + [True] * 29})
    assert aligned(firing, membership, permutations=60, strata=5, stable=table).interpretable.empty
    table["stable"] = True
    kept = aligned(firing, membership, permutations=60, strata=5, stable=table).interpretable
    assert kept["stable"].tolist() == [True]


def second_pass(tmp_path, representation, shards=2):
    adatas, paths, _ = world(tmp_path, seed=3, n_cells=(60, 50), shards=shards)
    for adata in adatas:
        blocks = np.arange(adata.n_obs) // 6
        adata.obs["block"] = [f"{adata.obs['sample'].iloc[0]}:{b}" for b in blocks]
    genes, result = extracted(adatas, paths, representation, thresholds=[0, 0.3, 0.6])
    membership = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1]], bool)
    found = alignment.align(
        result.firing,
        csr_matrix(membership),
        terms_of(3),
        genes,
        generator=np.random.default_rng(0),
        **{**OPTIONS, "gene_min_genes": 2, "gene_folds": 2},
    )
    code, n = intervals.block_codes(adatas)
    _, samples = features.samples_of(adatas)
    counts = intervals.count(paths, samples, code, n, representation, 0, result.maximum, found.selection)
    return adatas, result, found, counts


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_the_second_pass_adds_up_to_the_first(tmp_path, kind):
    representation = Positive(5) if kind == "sparse" else features.Neurons(5)
    _, result, found, counts = second_pass(tmp_path, representation)
    pairs, part = found.pairs, found.concepts.iloc[found.selection.held_out_terms]
    for prefix, table in (("", pairs), ("gene_", part)):
        tp, fires, positives = (
            getattr(counts, f"{prefix}{n}").sum(axis=0) for n in ("tp", "fires", "positives")
        )
        np.testing.assert_array_equal(tp, table[f"{prefix}tp"])
        np.testing.assert_array_equal(fires - tp, table[f"{prefix}fp"])
        np.testing.assert_array_equal(positives - tp, table[f"{prefix}fn"])
    np.testing.assert_allclose(counts.tokens.sum(axis=0), result.firing.tokens[2])
    expected = result.firing.sums[2][:, counts.feature]
    np.testing.assert_allclose(counts.sums.sum(axis=0), expected, rtol=1e-5)
    intervals.add_intervals(found, counts, 200, np.random.default_rng(1))
    scored = found.concepts.dropna(subset="f1")
    assert (scored["lo"] <= scored["f1"] + 1e-9).all() and (scored["f1"] <= scored["hi"] + 1e-9).all()
    entry = found.summary["headline"]["cell_held_out"]["f1"]
    assert entry["lo"] <= entry["mean"] <= entry["hi"]
    for entry in found.summary["headline"]["gene_held_out"].values():
        assert isinstance(entry, int) or entry["lo"] - 1e-9 <= entry["mean"] <= entry["hi"] + 1e-9
    part = found.concepts.iloc[found.selection.held_out_terms]
    for name in ("auroc", "ap", "auroc_ranked"):
        value, lo, hi = (part[f"gene_{name}{suffix}"] for suffix in ("", "_lo", "_hi"))
        assert ((lo >= 0) & (lo <= value + 1e-9) & (value <= hi + 1e-9) & (hi <= 1)).all()


def test_the_mean_of_whole_blocks_gives_the_observed_auroc(tmp_path):
    """Every block once: what the draws recompute from the second pass is the table's own value."""
    _, _, found, counts = second_pass(tmp_path, features.Neurons(5))

    class Once:
        def multinomial(self, n, p, size):
            return np.ones((size, n), np.int64)

    drawn = intervals.gene_draws(counts, found.selection, 1, Once())
    part = found.concepts.iloc[found.selection.held_out_terms]
    for name, values in drawn.items():
        np.testing.assert_allclose(values[0], part[f"gene_{name}"], atol=1e-6, err_msg=name)


def test_intervals_do_not_depend_on_shards(tmp_path):
    tables = []
    for shards in (1, 3):
        _, _, found, counts = second_pass(tmp_path, Positive(5), shards)
        tables.append(intervals.add_intervals(found, counts, 50, np.random.default_rng(1)).concepts)
    pd.testing.assert_frame_equal(*tables)


def test_intervals_equal_a_bootstrap_by_hand():
    rng = np.random.default_rng(8)
    tp, positives = rng.integers(1, 20, (2, 6, 3))
    fires, positives = tp + rng.integers(0, 9, (6, 3)), tp + positives
    _, _, drawn = intervals.f1_intervals(tp, fires, positives, 40, np.random.default_rng(0))
    weights = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=40)
    by_hand = 2 * (weights @ tp) / (weights @ fires + weights @ positives)
    np.testing.assert_allclose(drawn, by_hand)
    lo, hi, _ = intervals.f1_intervals(tp[:1], fires[:1], positives[:1], 40, rng)
    assert np.isnan(lo).all() and np.isnan(hi).all()


def test_many_blocks_are_joined():
    import anndata

    adata = anndata.AnnData(np.zeros((40, 1), np.float32))
    adata.obs["sample"], adata.obs["split"] = "s", ["test", "train"] * 20
    adata.obs["block"] = [f"b{i:02d}" for i in range(40)]
    code, n = intervals.block_codes([adata], limit=7)
    assert n == 7 and set(code["s"][::2]) == set(range(7)) and (code["s"][1::2] == -1).all()


def test_a_grid_of_quantiles_counts_what_exceeds_them(tmp_path):
    adatas, paths, tokens = world(tmp_path, seed=5, n_cells=(80, 70), grid=500)
    _, result = extracted(adatas, paths, Positive(5), grid=[0, 0.5, 0.9])
    train = (tokens["split"] == "train").to_numpy()
    codes = np.maximum(tokens[[*range(5)]].to_numpy(), 0)
    fired = result.firing.counts[0].sum(axis=0)
    for feature in range(1, 5):
        mine = codes[train, feature]
        assert fired[feature, 0] == (mine > 0).sum()
        for level, quantile in ((1, 0.5), (2, 0.9)):
            expected = (mine > 0).sum() * (1 - quantile)
            assert abs(fired[feature, level] - expected) <= 2 + 0.01 * len(mine)
    assert result.firing.shares.shape == (5, 3) and fired[0].sum() == 0
    features.write_firing(tmp_path / "firing.zarr.zip", result.firing)
    again = features.read_firing(tmp_path / "firing.zarr.zip")
    np.testing.assert_array_equal(again.shares, result.firing.shares)
    np.testing.assert_array_equal(again.sums, result.firing.sums)


@pytest.mark.parametrize("name", baselines.OF_ACTIVATIONS)
def test_baselines_of_activations_survive_their_file(tmp_path, name):
    adatas, paths, tokens = world(tmp_path, seed=6, n_cells=(40, 30))
    _, samples = features.samples_of(adatas)
    generator = np.random.default_rng(0)
    kind, arrays = baselines.fit(name, paths, samples, 0, 3, 12, 2, generator)
    path = tmp_path / "representation.zarr.zip"
    representations.write_representation(path, kind, {}, **arrays)
    found, first = representations.read_representation(path), representations.KINDS[kind](**arrays)
    x = tokens[[*range(5)]].to_numpy(np.float32)
    codes = [r.encode(x) for r in (found, first)]
    codes = [c if isinstance(c, np.ndarray) else c.toarray() for c in codes]
    np.testing.assert_array_equal(*codes)
    assert codes[0].shape[1] == found.n_features and (codes[0] >= 0).all() and codes[0].any()
    if name == "random":
        assert (np.count_nonzero(codes[0], axis=1) <= 2).all()
    if name == "pca":
        train = x[(tokens["split"] == "train").to_numpy()]
        values = np.linalg.svd(train - train.mean(axis=0), compute_uv=False)
        scores = found.encode(train)[:, :3] - found.encode(train)[:, 3:]
        np.testing.assert_allclose(np.linalg.norm(scores, axis=0), values[:3], rtol=1e-4)


def test_nmf_of_expression_finds_two_blocks_of_genes(tmp_path):
    import anndata

    rng = np.random.default_rng(9)
    on = rng.random(300) < 0.5
    mean = np.where(np.arange(20) < 10, on[:, None], ~on[:, None]) * 5 + 0.2
    adata = anndata.AnnData(rng.poisson(mean).astype(np.float32))
    adata.var_names = [f"G{i}" for i in range(20)]
    adata.obs["sample"], adata.obs["split"] = "s", "train"
    for name in ("expression_nmf", "expression_pca"):
        scores = baselines.expression_scores(name, [adata], list(adata.var_names), 2, rng)
        truth = np.arange(20) < 10
        best = max(roc_auc_score(truth, column) for column in scores.T)
        assert best > 0.99 and (scores >= 0).all()
    with pytest.raises(InputError, match="baseline"):
        baselines.fit("ica", [], {}, 0, 2, 2, 1, rng)


def test_the_best_pair_of_a_term_has_the_terms_p_and_q():
    firing, membership = planted(np.random.default_rng(1))
    found = aligned(firing, membership, permutations=60, strata=5)
    best = found.pairs[found.pairs["rank"] == 1].set_index("term_id")
    concepts = found.concepts.set_index("term_id").loc[best.index]
    for name in ("f1", "lift", "null_mean", "excess", "p", "p_min", "q"):
        np.testing.assert_allclose(best[name], concepts[name], err_msg=name)
    own = found.pairs[found.pairs["best_of_feature"]].set_index("feature")
    table = found.features.set_index("feature").loc[own.index]
    for name in ("f1", "excess", "p", "q"):
        np.testing.assert_allclose(own[name], table[name], err_msg=name)


def test_all_representations_are_compared_over_the_same_gene_folds():
    firing, membership = planted(np.random.default_rng(1))
    found = [
        aligned(firing, membership, seed=seed, fold_generator=np.random.default_rng(5)) for seed in (0, 1)
    ]
    np.testing.assert_array_equal(found[0].selection.fold, found[1].selection.fold)
    pd.testing.assert_series_equal(*(each.concepts["gene_auroc"] for each in found))
    assert (found[0].null["mean_f1"] != found[1].null["mean_f1"]).any()
