"""Vocabulary, binning, truncation: exact against NumPy per cell, and a function of the cell alone."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from interptfm.errors import InputError
from interptfm.scgpt import tokenizer
from interptfm.scgpt.tokenizer import Vocabulary, bin_values, tokenize

GENES = [f"GENE{number}" for number in range(50)]


def simulate(n_cells=40, n_genes=50, seed=0):
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, 3, n_genes) * rng.gamma(2, 0.5, n_cells)[:, None]
    return sparse.csr_matrix(rng.poisson(rate).astype(np.float32))


def names(n):
    return [f"sample:1_{number}" for number in range(n)]


def digitize(row, n_bins=51):
    """The definition, one cell: digits among the quantiles of the non-zero values, zero is 0."""
    bins = np.zeros(len(row), int)
    positive = row != 0
    edges = np.quantile(row[positive], np.linspace(0, 1, n_bins - 1)) if positive.any() else []
    bins[positive] = np.digitize(row[positive], edges)
    return bins


def split(tokens):
    """(genes, values, var) of every cell."""
    ends = np.cumsum(tokens.lengths)[:-1]
    return list(zip(*(np.split(a, ends) for a in (tokens.genes, tokens.values, tokens.var)), strict=True))


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@given(
    st.lists(st.one_of(st.integers(0, 30), st.floats(0, 2000, width=32)), min_size=1, max_size=120),
    st.sampled_from([3, 11, 51]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_bins_are_numpys(values, n_bins):
    row = np.array(values, dtype=np.float32)
    found = bin_values(row, n_bins)
    np.testing.assert_array_equal(found, digitize(row, n_bins))
    assert np.array_equal(found == 0, row == 0)
    if row.any():
        assert found[row == row.max()].min() == n_bins - 1


def test_one_distinct_value_is_the_last_bin_and_counts_scale():
    assert set(bin_values(np.array([3.0, 0, 3, 3]))) == {0, 50}
    row = simulate(1, 200, seed=4).toarray()[0]
    np.testing.assert_array_equal(bin_values(row), bin_values(2 * row))


def test_random_ties_stay_within_the_bins_a_value_spans():
    row = np.array([1.0] * 30 + [2.0] * 10 + [7.0])
    edges = np.quantile(row, np.linspace(0, 1, 50))
    low, high = np.digitize(row, edges, right=True), np.digitize(row, edges)
    drawn = np.stack([bin_values(row, ties="random", rng=np.random.default_rng(s)) for s in range(300)])
    assert (drawn >= low + (low < high)).all() and (drawn <= high).all()
    # The 30 tied counts reach every bin of their span, the deterministic rule only its top.
    assert set(np.unique(drawn[:, 0])) == set(range(low[0] + 1, high[0] + 1))
    assert (bin_values(row) == high).all()
    with pytest.raises(ValueError, match="rng"):
        bin_values(row, ties="random")


def test_cells_together_are_binned_as_cells_alone():
    counts = simulate(200)
    vocabulary = Vocabulary.from_genes(GENES)
    tokens = tokenize(counts, vocabulary.ids(GENES), vocabulary)
    for cell, (genes, values, var) in enumerate(split(tokens)):
        row = counts[cell].toarray()[0]
        positive = np.flatnonzero(row)
        assert genes[0] == vocabulary.cls_id and values[0] == -2 and var[0] == -1
        np.testing.assert_array_equal(var[1:], positive)
        np.testing.assert_array_equal(genes[1:], vocabulary.ids([GENES[i] for i in positive]))
        np.testing.assert_array_equal(values[1:], digitize(row)[positive])
    assert not tokens.truncated.any()
    assert (tokens.genes.dtype, tokens.values.dtype, tokens.var.dtype, tokens.lengths.dtype) == (
        np.int64,
        np.float32,
        np.int32,
        np.int64,
    )


def test_genes_outside_the_vocabulary_leave_before_the_quantiles():
    counts = simulate()
    vocabulary = Vocabulary.from_genes(GENES[::2])
    ids = vocabulary.ids(GENES)
    assert (ids[1::2] == -1).all()
    tokens = tokenize(counts, ids, vocabulary)
    kept = tokenize(counts[:, ::2], vocabulary.ids(GENES[::2]), vocabulary)
    assert same((tokens.genes, tokens.values, tokens.lengths), (kept.genes, kept.values, kept.lengths))
    np.testing.assert_array_equal(tokens.var[tokens.var >= 0], 2 * kept.var[kept.var >= 0])


@pytest.mark.parametrize("mode", ["binned", "log1p", "raw"])
def test_modes_and_zeros(mode):
    counts = simulate(10)
    vocabulary = Vocabulary.from_genes(GENES)
    ids = vocabulary.ids(GENES)
    plain = tokenize(counts, ids, vocabulary, mode=mode)
    zeros = tokenize(counts, ids, vocabulary, mode=mode, include_zeros=True)
    expected = {"binned": digitize, "log1p": np.log1p, "raw": np.asarray}[mode]
    assert (zeros.lengths == 51).all()
    for cell, (some, every) in enumerate(zip(split(plain), split(zeros), strict=True)):
        row = counts[cell].toarray()[0]
        np.testing.assert_array_equal(every[1][1:], expected(row).astype(np.float32))
        np.testing.assert_array_equal(every[2][1:], np.arange(50))
        keep = every[1] != 0
        assert same(some, [part[keep] for part in every])


def test_truncation_keeps_a_sample_in_gene_order_binned_before():
    counts = simulate(60)
    vocabulary = Vocabulary.from_genes(GENES)
    ids = vocabulary.ids(GENES)
    whole = split(tokenize(counts, ids, vocabulary))
    tokens = tokenize(counts, ids, vocabulary, max_length=12, cell_names=names(60), seed=1)
    assert tokens.lengths.max() == 12
    np.testing.assert_array_equal(tokens.truncated, [len(genes) > 12 for genes, *_ in whole])
    assert 0 < tokens.truncated.sum() < 60
    for (genes, values, var), (_, all_values, all_var) in zip(split(tokens), whole, strict=True):
        assert genes[0] == vocabulary.cls_id
        assert (np.diff(var) > 0).all()
        position = np.searchsorted(all_var, var)
        np.testing.assert_array_equal(all_var[position], var)
        np.testing.assert_array_equal(all_values[position], values)


def test_truncation_samples_genes_evenly():
    counts = sparse.csr_matrix(np.ones((2000, 20), np.float32))
    vocabulary = Vocabulary.from_genes(GENES[:20])
    ids = vocabulary.ids(GENES[:20])
    tokens = tokenize(counts, ids, vocabulary, max_length=6, cell_names=names(2000))
    kept = np.bincount(tokens.var[tokens.var >= 0], minlength=20)
    # 500 expected of 2,000 cells, standard deviation 19.4
    assert np.abs(kept - 500).max() < 90


@pytest.mark.parametrize(
    "options", [{"max_length": 12}, {"ties": "random"}, {"max_length": 9, "include_zeros": True}]
)
def test_results_do_not_depend_on_batch_shard_or_order(options):
    counts, cells = simulate(60), np.array(names(60))
    vocabulary = Vocabulary.from_genes(GENES)
    ids = vocabulary.ids(GENES)
    whole = split(tokenize(counts, ids, vocabulary, cell_names=cells, seed=3, **options))
    order = np.random.default_rng(0).permutation(60)
    for part in (order, order[:1], order[10:35]):
        some = tokenize(counts[part], ids, vocabulary, cell_names=cells[part], seed=3, **options)
        for position, cell in enumerate(part):
            assert same(split(some)[position], whole[cell])
    other = split(tokenize(counts, ids, vocabulary, cell_names=cells, seed=4, **options))
    assert not all(same(a, b) for a, b in zip(whole, other, strict=True))
    renamed = split(tokenize(counts, ids, vocabulary, cell_names=cells[::-1], seed=3, **options))
    assert not all(same(a, b) for a, b in zip(whole, renamed, strict=True))


def test_the_draw_of_a_cell_is_fixed_for_good():
    """A changed hash or generator would silently change every truncated cell."""
    rng = tokenizer.cell_generator(7, "lung5:3_118", "truncate")
    assert rng.permutation(10).tolist() == [6, 7, 3, 9, 4, 5, 2, 8, 1, 0]


def test_names_are_needed_where_something_is_drawn():
    counts, vocabulary = simulate(), Vocabulary.from_genes(GENES)
    ids = vocabulary.ids(GENES)
    for options in ({"max_length": 5}, {"ties": "random"}):
        with pytest.raises(ValueError, match="cell_names"):
            tokenize(counts, ids, vocabulary, **options)


def test_a_cell_without_genes_is_cls_alone():
    counts = sparse.csr_matrix(np.array([[0, 0, 0], [1, 0, 2], [0, 5, 0]], np.float32))
    vocabulary = Vocabulary.from_genes(["A", "C"])
    tokens = tokenize(counts, vocabulary.ids(["A", "B", "C"]), vocabulary)
    assert tokens.lengths.tolist() == [1, 3, 1]
    assert tokens.var.tolist() == [-1, -1, 0, 2, -1]
    none = tokenize(counts[:0], vocabulary.ids(["A", "B", "C"]), vocabulary)
    assert len(none) == 0 and len(none.genes) == 0


def test_take_picks_cells():
    counts, vocabulary = simulate(), Vocabulary.from_genes(GENES)
    tokens = tokenize(counts, vocabulary.ids(GENES), vocabulary)
    cells, parts = np.array([7, 0, 39, 7]), split(tokens)
    taken = split(tokens.take(cells))
    assert all(same(found, parts[cell]) for found, cell in zip(taken, cells, strict=True))
    assert len(tokens.take(np.array([], int)).genes) == 0


def test_untidy_matrices_count_the_same_and_stay_untouched():
    tidy = simulate(8)
    coo = tidy.tocoo()
    row = np.concatenate([coo.row, coo.row, [0, 3]])[::-1]
    col = np.concatenate([coo.col, coo.col, [1, 4]])[::-1]
    data = np.concatenate([coo.data / 2, coo.data / 2, [0, 0]])[::-1]
    order = np.argsort(row, kind="stable")
    indptr = np.searchsorted(row[order], np.arange(9))
    untidy = sparse.csr_matrix((data[order], col[order].copy(), indptr), shape=tidy.shape)
    before = untidy.data.copy(), untidy.indices.copy()
    vocabulary = Vocabulary.from_genes(GENES)
    found = tokenize(untidy, vocabulary.ids(GENES), vocabulary)
    expected = tokenize(tidy, vocabulary.ids(GENES), vocabulary)
    assert all(same(a, b) for a, b in zip(split(found), split(expected), strict=True))
    assert same((untidy.data, untidy.indices), before)


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_bad_counts_are_refused(value):
    counts = simulate(5)
    counts.data[counts.indptr[3]] = value
    vocabulary = Vocabulary.from_genes(GENES)
    with pytest.raises(InputError, match=r"cell 3 has the count"):
        tokenize(counts, vocabulary.ids(GENES), vocabulary)


def test_arguments_that_do_not_fit():
    counts, vocabulary = simulate(5), Vocabulary.from_genes(GENES)
    ids = vocabulary.ids(GENES)
    for wrong, pattern in (
        ({"mode": "bins"}, "mode"),
        ({"max_length": 1}, "max_length"),
        ({"cell_names": ["a"]}, "cell_names"),
        ({"ties": "highest", "cell_names": names(5)}, "ties"),
    ):
        with pytest.raises(ValueError, match=pattern):
            tokenize(counts, ids, vocabulary, **wrong)
    with pytest.raises(ValueError, match="gene_ids"):
        tokenize(counts, ids[:-1], vocabulary)


def test_twenty_thousand_cells_in_two_seconds():
    counts = sparse.random(20_000, 300, density=85 / 300, format="csr", random_state=0, dtype=np.float32)
    counts.data = np.ceil(counts.data * 20)
    symbols = [f"GENE{number}" for number in range(300)]
    vocabulary = Vocabulary.from_genes(symbols)
    start = time.process_time()
    tokenize(counts, vocabulary.ids(symbols), vocabulary)
    assert time.process_time() - start < 2


def test_vocabulary_round_trip_and_special_tokens(tmp_path):
    vocabulary = Vocabulary.from_genes(GENES)
    assert vocabulary.tokens == (*GENES, "<pad>", "<cls>", "<eoc>")
    vocabulary.to_json(tmp_path / "vocab.json")
    assert Vocabulary.from_json(tmp_path / "vocab.json") == vocabulary
    # A file that has <cls> already keeps its id; only the others are appended.
    (tmp_path / "vocab.json").write_text(json.dumps({"B": 2, "<cls>": 1, "A": 0}))
    some = Vocabulary.from_json(tmp_path / "vocab.json")
    assert some.tokens == ("A", "<cls>", "B", "<pad>", "<eoc>")
    assert (some.cls_id, some.pad_id) == (1, 3)
    assert some.ids(["B", "A", "C", "<cls>", "<pad>"]).tolist() == [2, 0, -1, -1, -1]


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ('{"A": 0, "B": 2}', "'B' has id 2"),
        ('{"A": 0, "B": 0}', "'B' has id 0"),
        ('{"A": 0, "B": true}', "'B' has id True"),
        ('["A", "B"]', "an object"),
        ("{}", "an object"),
        ('{"A": 0', "no valid JSON"),
    ],
)
def test_bad_vocabularies_are_refused(content, pattern, tmp_path):
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(InputError, match=pattern):
        Vocabulary.from_json(tmp_path / "vocab.json")


def test_absent_or_ambiguous_vocabulary(tmp_path):
    with pytest.raises(InputError, match="not found"):
        Vocabulary.from_json(tmp_path / "vocab.json")
    with pytest.raises(InputError, match="'A' occurs twice"):
        Vocabulary.from_genes(["A", "B", "A"])


def test_match_lists_missing_genes_and_refuses_another_naming():
    vocabulary = Vocabulary.from_genes(GENES)
    match = vocabulary.match([*GENES[:3], "LOST1", "LOST2"])
    assert (match.n_found, match.fraction, match.missing) == (3, 0.6, ["LOST1", "LOST2"])
    assert match.ids.tolist() == [0, 1, 2, -1, -1]
    assert vocabulary.match(["GENE1", "LOST"]).fraction == 0.5
    with pytest.raises(InputError, match=r"1 of 3 genes found.*ENSG01, ENSG02.*GENE0, GENE1"):
        vocabulary.match(["ENSG01", "GENE4", "ENSG02"])
    with pytest.raises(InputError, match="0 of 0"):
        vocabulary.match([])


@pytest.mark.real
def test_real_cells_and_vocabularies(real_data):
    import pandas as pd

    folder = real_data / "cosmx_nsclc_mini"
    frame = pd.read_csv(folder / "nsclc_mini_exprMat_file.csv.gz", nrows=300)
    symbols = [name for name in frame.columns[2:] if not name.startswith("NegPrb")]
    assert len(symbols) == 960
    counts = sparse.csr_matrix(frame[symbols].to_numpy(np.float32))
    for name, missing in (
        ("scgpt_vocab.json", ["C9orf16"]),
        ("scgpt_census_vocab.json", ["CCL3L3", "RGS5"]),
    ):
        vocabulary = Vocabulary.from_json(real_data / name)
        match = vocabulary.match(symbols)
        assert sorted(match.missing) == missing
        tokens = tokenize(counts, match.ids, vocabulary)
        known = match.ids >= 0
        for cell, (_, values, var) in enumerate(split(tokens)):
            row = np.where(known, counts[cell].toarray()[0], 0)
            np.testing.assert_array_equal(values[1:], digitize(row)[var[1:]])
            np.testing.assert_array_equal(var[1:], np.flatnonzero(row))
