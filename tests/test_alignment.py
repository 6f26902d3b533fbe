"""F1 from firing counts, its null and its baseline, against the dense definition and planted cases."""

import importlib.util
import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, load_npz, save_npz
from scipy.stats import kstest

from interptfm import alignment, features, store
from interptfm.alignment.null import permuted, strata_of
from interptfm.alignment.selection import Search, Split, best_single_gene
from interptfm.errors import InputError

OPTIONS = {"permutations": 20, "strata": 3, "max_q": 0.05, "min_lift": 0.0}


def terms_of(n):
    return pd.DataFrame(
        {"term_id": [f"T:{i:03d}" for i in range(n)], "name": [f"term {i}" for i in range(n)]}
    )


def aligned(firing, membership, seed=0, **options):
    return alignment.align(
        firing,
        csr_matrix(membership),
        terms_of(membership.shape[1]),
        list(firing.genes),
        generator=np.random.default_rng(seed),
        **{**OPTIONS, **options},
    )


def random_firing(rng, n_genes=30, n_features=7, thresholds=(0, 0.5), depth=20):
    """Return counts that never grow along thresholds and never exceed a gene's tokens."""
    tokens = rng.integers(1, depth, (3, n_genes))
    rates = rng.random((3, n_genes, n_features, len(thresholds)))
    counts = rng.binomial(tokens[:, :, None, None], rates)
    counts = np.minimum.accumulate(counts, axis=3).astype(np.int32)
    genes = [f"G{i}" for i in range(n_genes)]
    return features.Firing(counts, tokens.astype(np.int64), genes, list(thresholds))


def dense_scores(gene, fired, membership):
    """Return TP, FP, FN (terms × columns) from token × concept and token × column matrices."""
    labels, fired = membership[gene].astype(int), fired.astype(int)
    return labels.T @ fired, (1 - labels).T @ fired, labels.T @ (1 - fired)


def by_hand():
    # Genes A..F with 10 tokens each; feature 0 fires on A, B and half of C, feature 1 on F alone.
    fired = np.zeros((3, 6, 2, 2), np.int32)
    fired[:, :2, 0, :] = 10
    fired[:, 2, 0, 0] = 5
    fired[:, 5, 1, :] = 8
    tokens = np.full((3, 6), 10)
    membership = np.zeros((6, 2), bool)
    membership[:2, 0] = True
    membership[[0, 1, 2, 5], 1] = True
    return features.Firing(fired, tokens, list("ABCDEF"), [0.0, 0.5]), membership


def test_six_genes_by_hand():
    firing, membership = by_hand()
    firing.counts[2, 0, 0, 1] = 9  # on test one token fewer at the chosen threshold
    table = aligned(firing, membership).concepts.set_index("term_id")
    first, second = table.loc["T:000"], table.loc["T:001"]
    # {A, B}: threshold 0.5 gives validation F1 1; test TP 19, FP 0, FN 1.
    assert (first["feature"], first["threshold"], first["f1_validation"]) == (0, 0.5, 1)
    assert (first["tp"], first["fp"], first["fn"]) == (19, 0, 1)
    assert (first["precision"], first["recall"]) == (1, 0.95)
    assert first["f1"] == 38 / 39
    assert first["f1_single_gene"] == 2 * 10 / 30 and first["single_gene"] == "A"
    assert first["lift"] == first["f1"] - first["f1_single_gene"]
    # {A, B, C, F}: threshold 0 of feature 0 has TP 25 of 40.
    assert (second["feature"], second["threshold"]) == (0, 0)
    assert (second["tp"], second["fp"], second["fn"]) == (25, 0, 15)
    assert second["f1"] == pytest.approx(2 * 25 / (25 + 40))
    assert (table["split"] == "test").all()
    assert (table["n_genes"] == [2, 4]).all()


def test_single_gene_feature_has_no_lift():
    firing, membership = by_hand()
    only = features.Firing(firing.counts[:, :, 1:], firing.tokens, firing.genes, firing.thresholds)
    result = aligned(only, membership)
    row = result.concepts.set_index("term_id").loc["T:001"]
    assert row["feature"] == 0
    assert row["f1"] == pytest.approx(2 * 8 / 48)
    assert row["lift"] < 0
    assert len(result.interpretable) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3))
def test_scores_equal_the_dense_definition(seed, n_features, n_terms, n_thresholds):
    rng = np.random.default_rng(seed)
    n, genes = 80, [f"G{i}" for i in range(8)]
    membership = rng.random((8, n_terms)) < 0.4
    thresholds = [0, 0.3, 0.6][:n_thresholds]
    codes = np.maximum(rng.integers(-5, 11, (n, n_features)) / 10, 0).astype(np.float32)
    gene, split = rng.integers(0, 8, n), rng.integers(0, 3, n)
    counter = features.FiringCounter(8, np.ones(n_features, np.float32), thresholds)
    counter.add(gene, split, codes)
    firing = features.Firing(*counter.result(), genes, thresholds)
    members = alignment.reindex(csr_matrix(membership), genes, genes)
    fired = (codes[:, :, None] > np.float32(thresholds)).reshape(n, -1)
    dense = [dense_scores(gene[split == s], fired[split == s], membership) for s in range(3)]
    term, column = np.divmod(np.arange(n_terms * fired.shape[1]), fired.shape[1])
    for s in range(3):
        scores = Split(firing.counts[s], firing.tokens[s]).score(members, term, column)
        for name, expected in zip(("tp", "fp", "fn"), dense[s], strict=True):
            np.testing.assert_array_equal(getattr(scores, name), expected.ravel())
        with np.errstate(invalid="ignore"):
            tp, fp, fn = (part.ravel() for part in dense[s])
            np.testing.assert_allclose(scores.f1, np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan))
    # The choice on validation: the first column of the largest dense F1.
    tp, fp, fn = dense[1]
    f1 = np.float32(2) * (tp.astype(np.float32) / np.maximum(2 * tp + fp + fn, 1).astype(np.float32))
    found, chosen = Search(Split(firing.counts[1], firing.tokens[1])).best(members)
    np.testing.assert_allclose(found, f1.max(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(chosen, np.where(f1.max(axis=1) > 0, f1.argmax(axis=1), -1))


@pytest.mark.parametrize("columns", [1, 3, 10_000])
def test_chunks_and_precision_change_nothing(monkeypatch, columns):
    rng = np.random.default_rng(1)
    firing, membership = (
        random_firing(rng, n_features=9, thresholds=(0, 0.2, 0.5)),
        rng.random((30, 12)) < 0.2,
    )
    expected = aligned(firing, membership)
    monkeypatch.setattr("interptfm.alignment.selection.CHUNK_COLUMNS", columns)
    found = aligned(firing, membership)
    for name in ("concepts", "features", "pairs", "null"):
        pd.testing.assert_frame_equal(getattr(expected, name), getattr(found, name))
    monkeypatch.setattr("interptfm.alignment.selection.EXACT_FLOAT32", 0)
    found = aligned(firing, membership)
    pd.testing.assert_frame_equal(
        expected.concepts.drop(columns=["null_mean"]), found.concepts.drop(columns=["null_mean"])
    )


def test_counts_above_two_to_the_24_stay_exact():
    n = 2**24
    fired = np.zeros((3, 4, 1, 1), np.int32)
    fired[:, :, 0, 0] = [n, 1, 1, 0]
    firing = features.Firing(fired, np.tile([n, 1, 1, 1], (3, 1)), list("ABCD"), [0.0])
    row = aligned(firing, np.array([[1], [1], [1], [0]], bool)).concepts.iloc[0]
    assert (row["tp"], row["fp"], row["fn"]) == (n + 2, 0, 0)
    assert Search(Split(fired[1], firing.tokens[1])).dtype is np.float64


def test_by_feature_and_best_agree():
    rng = np.random.default_rng(2)
    firing, membership = random_firing(rng, thresholds=(0, 0.3, 0.6)), rng.random((30, 15)) < 0.2
    members = alignment.reindex(csr_matrix(membership), firing.genes, firing.genes)
    search = Search(Split(firing.counts[1], firing.tokens[1]))
    f1, threshold = search.by_feature(members)
    best, column = search.best(members)
    feature = f1.argmax(axis=1)
    np.testing.assert_allclose(best, f1.max(axis=1))
    np.testing.assert_array_equal(column, feature * 3 + threshold[np.arange(15), feature])


def test_pairs_and_features_follow_validation():
    rng = np.random.default_rng(3)
    firing, membership = random_firing(rng, n_features=25), rng.random((30, 12)) < 0.2
    result = aligned(firing, membership)
    pairs = result.pairs
    assert not pairs.duplicated(["term_id", "feature"]).any()
    ranked = pairs.dropna(subset="rank").sort_values(["term_id", "rank"])
    assert (ranked.groupby("term_id")["rank"].max() == 10).all()
    drops = ranked.groupby("term_id")["f1_validation"].diff().dropna()
    assert (drops <= 1e-12).all()
    first = ranked[ranked["rank"] == 1].reset_index(drop=True)
    columns = ["term_id", "feature", "threshold", "tp", "f1", "f1_validation"]
    pd.testing.assert_frame_equal(first[columns], result.concepts[columns])
    best = pairs[pairs["best_of_feature"]].sort_values("feature", ignore_index=True)
    assert len(best) == len(result.features) == 25
    assert (best["term_id"] == result.features["term_id"]).all()
    np.testing.assert_allclose(best["f1"], result.features["f1"])


def planted_firing(rng, n_genes=120, n_features=40):
    """Return counts where feature 0 finds genes 0 to 9 and the others random gene sets of that kind."""
    rates = np.full((n_genes, n_features), 0.03)
    rates[:10, 0] = 0.8
    for feature in range(1, n_features):
        rates[rng.choice(np.arange(10, n_genes), 10, replace=False), feature] = 0.8
    tokens = rng.poisson(30, (3, n_genes)) + 1
    counts = rng.binomial(tokens[:, :, None, None], rates[None, :, :, None]).astype(np.int32)
    return features.Firing(counts, tokens, [f"G{i}" for i in range(n_genes)], [0.0])


def test_planted_concept_is_found_and_the_rest_is_not():
    rng = np.random.default_rng(4)
    firing = planted_firing(rng)
    membership = np.zeros((120, 40), bool)
    membership[:10, 0] = True
    for term in range(1, 40):
        membership[rng.choice(120, 10, replace=False), term] = True
    result = aligned(firing, membership, permutations=50, strata=10)
    table = result.concepts.set_index("term_id")
    row = table.loc["T:000"]
    assert row["feature"] == 0 and row["f1"] > 0.7
    assert row["excess"] > 0.3 and row["lift"] > 0.3
    assert row["q"] < 0.05
    assert row["p_min"] < 0.05 / 40
    assert abs(table["excess"].drop("T:000").mean()) < 0.03
    assert result.interpretable["term_id"].tolist() == ["T:000"]
    assert result.interpretable["stable"].isna().all()
    assert list(result.interpretable) == ["feature", "term_id", "f1", "lift", "p", "q", "stable"]
    assert result.summary["n_concepts_significant"] == 1
    strict = aligned(firing, membership, permutations=50, strata=10, min_lift=row["lift"])
    assert strict.summary["n_concepts_significant"] == 1 and len(strict.interpretable) == 0


def test_random_membership_is_not_enriched():
    rng = np.random.default_rng(5)
    firing = planted_firing(rng)
    membership = np.zeros((120, 300), bool)
    for term in range(300):
        membership[rng.choice(120, rng.integers(5, 30), replace=False), term] = True
    result = aligned(firing, membership, permutations=60, strata=5)
    p = result.concepts["p"]
    # The statistic of 300 uniform p-values exceeds 0.094 once in a hundred times.
    assert kstest(p, "uniform").statistic < 0.094
    assert abs(result.summary["excess"]) < 3 * result.summary["null_sd"]
    assert 0.02 < (p < 0.05).mean() < 0.09
    assert result.summary["p"] > 0.01
    assert result.summary["n_concepts_significant"] <= 2


def test_summary_follows_from_the_tables():
    rng = np.random.default_rng(6)
    firing, membership = random_firing(rng), rng.random((30, 12)) < 0.3
    result = aligned(firing, membership)
    summary, table = result.summary, result.concepts
    assert summary["mean_f1"] == pytest.approx(table["f1"].mean())
    assert summary["null_mean"] == pytest.approx(table["null_mean"].mean())
    assert summary["excess"] == pytest.approx(table["excess"].mean())
    assert summary["null_sd"] == pytest.approx(result.null["mean_f1"].std())
    assert summary["mean_lift"] == pytest.approx(table["lift"].mean())
    assert summary["p"] == (1 + (result.null["mean_f1"] >= summary["mean_f1"]).sum()) / 21
    assert summary["validation_mean_f1"] == pytest.approx(table["f1_validation"].mean())
    # Selection inflates validation, and the permuted membership is selected on the same split.
    assert result.null["mean_f1_validation"].mean() > result.null["mean_f1"].mean()
    assert (table["n_permutations"] == 20).all()
    assert len(result.null) == 20


def test_same_seed_same_tables():
    rng = np.random.default_rng(7)
    firing, membership = random_firing(rng), rng.random((30, 12)) < 0.3
    first, again, other = (aligned(firing, membership, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first.concepts, again.concepts)
    pd.testing.assert_frame_equal(first.null, again.null)
    assert not first.null.equals(other.null)
    # The null is the only thing that chance decides.
    columns = ["term_id", "feature", "threshold", "f1", "f1_single_gene"]
    pd.testing.assert_frame_equal(first.concepts[columns], other.concepts[columns])


def test_strata_hold_genes_of_similar_frequency():
    tokens = np.random.default_rng(8).integers(0, 1000, 103)
    tokens[:3] = 0
    strata = strata_of(tokens, 10)
    assert sorted(np.concatenate(strata)) == sorted(np.flatnonzero(tokens))
    for low, high in itertools.pairwise(strata):
        assert tokens[low].max() <= tokens[high].min()
    assert [len(part) for part in strata_of(np.array([5, 6, 7]), 10)] == [3]


def test_permutation_keeps_sizes_overlaps_and_strata():
    rng = np.random.default_rng(9)
    tokens, membership = rng.integers(1, 50, 40), rng.random((40, 9)) < 0.3
    members = alignment.reindex(csr_matrix(membership), list(range(40)), list(range(40)))
    strata = strata_of(tokens, 5)
    shuffled = permuted(members, strata, rng)
    np.testing.assert_array_equal((members @ members.T).toarray(), (shuffled @ shuffled.T).toarray())
    assert (members != shuffled).nnz > 0
    for part in strata:
        np.testing.assert_array_equal(
            np.sort(members[:, part].sum(axis=0)), np.sort(shuffled[:, part].sum(axis=0))
        )
        rows = {tuple(column) for column in members[:, part].toarray().T}
        assert rows == {tuple(column) for column in shuffled[:, part].toarray().T}


def test_terms_without_positives_are_not_scored():
    rng = np.random.default_rng(10)
    firing, membership = random_firing(rng), rng.random((30, 6)) < 0.3
    membership[:2] = False
    membership[:, :2] = False
    membership[0, 0] = membership[1, 1] = True
    firing.tokens[2, 0] = firing.tokens[1, 1] = 0
    firing.counts[2, 0] = firing.counts[1, 1] = 0
    result = aligned(firing, membership)
    table, summary = result.concepts, result.summary
    bare = table.iloc[:2]
    for name in ("f1", "f1_validation", "lift", "null_mean", "excess", "p", "q", "p_min", "f1_single_gene"):
        assert bare[name].isna().all()
        assert table[name].iloc[2:].notna().all()
    assert summary["n_concepts_without_test_positives"] == 1
    assert summary["n_concepts_without_validation_positives"] == 1
    assert (summary["n_concepts"], summary["n_concepts_scored"]) == (6, 4)
    assert not set(bare["term_id"]) & set(result.features["term_id"])
    assert not set(bare["term_id"]) & set(result.pairs["term_id"])


def test_features_that_never_fire():
    firing, membership = by_hand()
    firing.counts[:, :, 1] = 0
    result = aligned(firing, membership)
    assert result.summary["n_features_never_firing"] == 1
    dead = result.features.set_index("feature").loc[1]
    assert dead[["term_id", "f1", "tp", "lift", "threshold"]].isna().all()
    firing.counts[:] = 0
    result = aligned(firing, membership)
    assert result.concepts["feature"].isna().all()
    assert (result.concepts["f1"] == 0).all() and (result.concepts["tp"] == 0).all()
    assert result.summary["n_concepts_without_a_feature"] == 2
    assert len(result.interpretable) == len(result.pairs) == 0


def test_single_gene_is_chosen_on_validation():
    members = csr_matrix(np.array([[1, 1, 0, 1], [0, 0, 0, 0]], np.float32))
    gene, f1 = best_single_gene(members, np.array([3, 9, 50, 9]), np.array([40, 2, 1, 8]))
    assert gene.tolist() == [1, -1]
    assert f1[0] == 2 * 2 / (2 + 50)
    assert np.isnan(f1[1])


def test_membership_is_matched_by_symbol():
    membership = csr_matrix(np.array([[1, 0], [0, 1], [1, 1]], bool))
    members = alignment.reindex(membership, ["X", "B", "A"], ["A", "B", "C"])
    assert members.toarray().tolist() == [[1, 0, 0], [1, 1, 0]]


def test_bad_input_is_named(tmp_path):
    firing, membership = by_hand()
    with pytest.raises(InputError, match="no term"):
        aligned(firing, np.zeros((6, 0), bool))
    with pytest.raises(InputError, match="'A' twice"):
        alignment.reindex(csr_matrix(membership), list("ABCDEA"), firing.genes)
    with pytest.raises(InputError, match="firing genes: found 'A' twice"):
        alignment.reindex(csr_matrix(membership), firing.genes, list("ABCDEA"))
    with pytest.raises(InputError, match="expected 5, one a gene"):
        alignment.reindex(csr_matrix(membership), list("ABCDE"), firing.genes)
    with pytest.raises(InputError, match="expected some of the panel's"):
        alignment.reindex(csr_matrix(membership), list("abcdef"), firing.genes)
    with pytest.raises(InputError, match="at least 3"):
        aligned(firing, membership, permutations=2)
    with pytest.raises(InputError, match="none with tokens"):
        aligned(firing, np.zeros((6, 2), bool))
    empty = features.Firing(firing.counts, firing.tokens.copy(), firing.genes, firing.thresholds)
    empty.tokens[2] = 0
    with pytest.raises(InputError, match="no test token"):
        aligned(empty, membership)
    with pytest.raises(InputError, match="not found"):
        alignment.read_membership(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(InputError, match=r"text\.npz"):
        alignment.read_membership(tmp_path / "text.npz")


def test_benchmark_methods_count_the_same(tmp_path, root):
    spec = importlib.util.spec_from_file_location("benchmark", root / "benchmarks" / "firing_counts.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    small = ["--tokens", "300", "--features", "270", "--concepts", "23", "--genes", "40", "--active", "9"]
    benchmark.make_inputs(tmp_path, benchmark.arguments([*small, "--density", "0.2"]))
    found = [benchmark.measure(method, tmp_path, 1, 1) for method in benchmark.METHODS]
    assert len({result["digest"] for result in found}) == 1
    benchmark.make_inputs(tmp_path, benchmark.arguments([*small, "--density", "0.2", "--seed", "2"]))
    assert benchmark.measure("firing_counts", tmp_path, 1, 1)["digest"] != found[0]["digest"]


def test_script_writes_the_contract(tmp_path):
    from test_features import Named, extracted, world

    import align as script

    rng = np.random.default_rng(11)
    adatas, paths, _ = world(tmp_path, seed=5, n_cells=(60, 50))
    for adata in adatas:
        adata.obs["block"] = [f"block_{i // 5}" for i in range(adata.n_obs)]
        store.write_h5ad(tmp_path / f"{adata.obs['sample'].iloc[0]}.h5ad", adata)
    genes, result = extracted(adatas, paths, features.Neurons(5))
    firing, membership = result.firing, rng.random((len(genes), 12)) < 0.5
    np.save(tmp_path / "max.npy", result.maximum)
    features.write_firing(tmp_path / "firing.zarr.zip", firing)
    save_npz(tmp_path / "membership.npz", csr_matrix(membership))
    assert load_npz(tmp_path / "membership.npz").shape == membership.shape
    store.write_table(tmp_path / "terms.parquet", terms_of(12))
    store.write_table(tmp_path / "genes.tsv", pd.DataFrame({"gene": firing.genes, "annotated": True}))
    names = {"firing": "firing.zarr.zip", "membership": "membership.npz", "terms": "terms.parquet"}
    names |= {"genes": "genes.tsv", "max": "max.npy"}

    written = {
        f"{name}": f"{name}.parquet" for name in ("pairs", "concepts", "features", "interpretable", "null")
    }
    written["summary"] = "summary.json"
    for run in ("one", "two"):
        snakemake = SimpleNamespace(
            input=Named(
                {key: str(tmp_path / value) for key, value in names.items()}
                | {
                    "cells": [str(tmp_path / f"{s}.h5ad") for s in ("s1", "s2")],
                    "activations": [*map(str, paths)],
                }
            ),
            output=Named({key: tmp_path / run / value for key, value in written.items()}),
            params=SimpleNamespace(
                alignment={**OPTIONS, "bootstrap": 50}, representation="neurons", layer=0, arm="main", seed=1
            ),
            log=[str(tmp_path / "log")],
            threads=1,
            rule="align",
            wildcards={},
        )
        script.main(snakemake)
    for name in written.values():
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    summary = store.read_json(tmp_path / "one" / "summary.json")
    assert (summary["representation"], summary["layer"], summary["arm"]) == ("neurons", 0, "main")
    assert summary["n_concepts"] == 12 and summary["provenance"]["settings"]["seed"] == 1
    concepts = store.read_table(tmp_path / "one" / "concepts.parquet")
    promised = "term_id name n_genes feature threshold split tp fp fn precision recall f1 f1_validation "
    promised += "f1_single_gene single_gene lift null_mean null_sd excess p q p_min n_permutations "
    columns = ["feature", "term_id", "f1", "lift", "p", "q", "stable"]
    assert list(store.read_table(tmp_path / "one" / "interpretable.parquet")) == columns
    beside = {"lift", "excess", "p", "q", "lo", "hi", "split", "threshold", "tp", "fp", "fn"}
    for name in ("pairs", "features"):
        assert beside <= set(store.read_table(tmp_path / "one" / f"{name}.parquet"))
    promised += "lo hi gene_f1 gene_auroc gene_ap gene_auroc_q gene_f1_lo gene_f1_hi"
    assert set(promised.split()) <= set(concepts)
