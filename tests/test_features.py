"""Firing counts, cell aggregates and top tokens, against hand counts and dense definitions."""

import itertools
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from interptfm import features, store
from interptfm.errors import InputError
from interptfm.features.firing import cumulate, scatter
from interptfm.features.tokens import cell_blocks

GENES = ["A", "B", "C", "D", "E", "F"]
THRESHOLDS = [0, 0.15, 0.5, 0.6, 0.8]


class Positive:
    """A sparse representation whose codes are the positive part of the activations."""

    sparse = True

    def __init__(self, n):
        self.n_features = n

    def encode(self, block):
        return csr_matrix(np.maximum(block, 0))


def cells_file(sample, splits, genes):
    adata = anndata.AnnData(np.zeros((len(splits), len(genes)), np.float32))
    adata.obs_names = [f"{sample}:1_{i}" for i in range(len(splits))]
    adata.var_names = genes
    adata.obs["sample"], adata.obs["split"] = sample, pd.Categorical(splits)
    return adata


def write_activations(path, sample, gene, cell, x, layer=0):
    attributes = {"sample": sample}
    n_cells = len(np.unique(cell))
    with store.ActivationWriter(
        path, [layer], len(gene), n_cells, x.shape[1], "float32", attributes
    ) as writer:
        writer.write(gene, cell, np.arange(len(gene), dtype=np.float32), {layer: x})
        writer.write_cls(0, np.zeros((1, n_cells, x.shape[1]), np.float32))
    return path


def world(folder, seed=0, n_cells=(14, 11), d=5, grid=8, shards=2):
    """Return files and tokens of two samples with different gene orders; codes on a grid are exact."""
    rng = np.random.default_rng(seed)
    orders = {"s1": GENES[:5], "s2": [GENES[i] for i in (5, 2, 0, 4)]}
    adatas, paths, rows = [], [], []
    for (sample, genes), n in zip(orders.items(), n_cells, strict=True):
        splits = rng.choice(["train", "validation", "test", "guard"], n, p=[0.4, 0.25, 0.25, 0.1])
        splits[:3] = ["train", "validation", "test"]
        adatas.append(cells_file(sample, splits, genes))
        sizes = rng.integers(1, len(genes) + 1, n)
        cell = np.repeat(np.arange(n), sizes)
        gene = np.concatenate([np.sort(rng.choice(len(genes), size, replace=False)) for size in sizes])
        x = (rng.integers(-grid, grid + 1, (len(cell), d)) / grid).astype(np.float32)
        x[:, 0] = -1  # feature 0 never fires
        bounds = np.linspace(0, n, shards + 1).astype(int)
        for shard, (first, last) in enumerate(itertools.pairwise(bounds)):
            here = (cell >= first) & (cell < last)
            path = folder / f"{sample}_{shards}_{shard}.zarr.zip"
            paths.append(write_activations(path, sample, gene[here], cell[here], x[here]))
        rows.append(pd.DataFrame({"sample": sample, "cell": cell, "gene": np.array(genes)[gene]}))
        rows[-1]["split"] = splits[cell]
        rows[-1] = pd.concat([rows[-1], pd.DataFrame(x)], axis=1)
    return adatas, paths, pd.concat(rows, ignore_index=True)


def dense_counts(tokens, codes, genes, thresholds, maximum):
    """Count by the definition, through the whole threshold × token × feature array."""
    fired = codes[None] > (np.float32(thresholds)[:, None] * maximum)[:, None, :]
    fired &= maximum > 0
    counts = np.zeros((3, len(genes), codes.shape[1], len(thresholds)), int)
    n = np.zeros((3, len(genes)), int)
    for i, split in enumerate(features.SPLITS):
        for j, gene in enumerate(genes):
            chosen = ((tokens["split"] == split) & (tokens["gene"] == gene)).to_numpy()
            counts[i, j], n[i, j] = fired[:, chosen].sum(axis=1).T, chosen.sum()
    return counts, n


def extracted(adatas, paths, representation, top_tokens=20, **options):
    """Return the genes and, in one object, what ``extract`` and (for sparse codes) ``aggregate`` return."""
    genes, samples = features.samples_of(adatas)
    found = features.extract(paths, samples, genes, representation, 0, **options)
    result = SimpleNamespace(maximum=found.maximum, firing=found.firing)
    if representation.sparse:
        size = {key: options[key] for key in ("block_tokens",) if key in options}
        result.cells, result.top_tokens, result.histogram = features.aggregate(
            paths, samples, genes, representation, 0, found.maximum, top_tokens, **size
        )
    return genes, result


def test_histograms_by_hand():
    histogram = features.cells.Histogram(np.array([40, 0], np.float32))
    codes = np.array([[0, 1], [1, 0], [1.25, 0], [40, 2], [90, 0], [10, 1]], np.float32)
    block = SimpleNamespace(split=np.array([0, 0, 1, 2, 2, -1]))
    histogram.add(block, csr_matrix(codes))
    histogram.add(block, csr_matrix(codes))
    counts = histogram.counts
    assert counts.shape == (2, features.HISTOGRAM_BINS) and counts[1].sum() == 0
    # (0, 1] and (1, 2]; the last bin has what is above the maximum; the last token is a guard's.
    assert counts[0, 0] == 2 and counts[0, 1] == 2 and counts[0, -1] == 4 and counts[0].sum() == 8


def test_counts_by_hand():
    # Feature 0 has maximum 10, feature 1 never fires in training.
    counter = features.FiringCounter(6, np.array([10, 0], np.float32), THRESHOLDS)
    codes = np.array([[0, 0], [1.5, 3], [1.6, 0], [5, 0], [8, 0], [10, 2], [9, 0]], np.float32)
    gene = np.array([0, 1, 1, 2, 2, 2, 5])
    split = np.array([1, 1, 1, 1, 1, 2, -1])
    counter.add(gene, split, csr_matrix(codes))
    counts, tokens = counter.result()
    assert counts.shape == (3, 6, 2, 5)
    assert counts[1, 0, 0].tolist() == [0, 0, 0, 0, 0]
    assert counts[1, 1, 0].tolist() == [2, 1, 0, 0, 0]
    assert counts[1, 2, 0].tolist() == [2, 2, 1, 1, 0]
    assert counts[2, 2, 0].tolist() == [1, 1, 1, 1, 1]
    assert counts[:, :, 1].sum() == 0
    assert counts[:, 5].sum() == 0
    assert tokens.tolist() == [[0] * 6, [1, 2, 2, 0, 0, 0], [0, 0, 1, 0, 0, 0]]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 9),
    st.sampled_from([[0], [0, 0.15, 0.5, 0.6, 0.8], [0.25, 0.5]]),
    st.integers(1, 5),
)
def test_sparse_dense_and_definition_agree(seed, n, n_features, thresholds, parts):
    rng = np.random.default_rng(seed)
    codes = np.maximum(rng.integers(-4, 5, (n, n_features)), 0).astype(np.float32)
    gene, split = rng.integers(0, 6, n), rng.integers(-1, 3, n)
    maximum = codes[split == 0].max(axis=0, initial=0)
    tokens = pd.DataFrame({"gene": np.array(GENES)[gene]})
    tokens["split"] = np.array([*features.SPLITS, "guard"])[split]
    expected, n_tokens = dense_counts(tokens, codes, GENES, thresholds, maximum)
    for kind in (np.asarray, csr_matrix):
        counter = features.FiringCounter(6, maximum, thresholds)
        for part in np.array_split(rng.permutation(n), parts):
            counter.add(gene[part], split[part], kind(codes[part]))
        counts, found = counter.result()
        np.testing.assert_array_equal(counts, expected)
        np.testing.assert_array_equal(found, n_tokens)


def test_scatter_is_a_histogram_of_the_highest_level():
    table = np.zeros((1, 1, 3), np.int32)
    cut = np.array([[0], [1], [2]], np.float32)
    scatter(table, np.zeros(4, int), np.zeros(4, int), np.array([0.5, 1.0, 1.5, 9.0]), cut)
    assert table[0, 0].tolist() == [2, 1, 1]
    assert cumulate(table)[0, 0].tolist() == [4, 2, 1]


@pytest.mark.parametrize("wrong", [[], [0.5, 0.2], [0, 0], [0, 1.0], [-0.1], [float("nan")]])
def test_thresholds_must_increase_in_the_unit_interval(wrong):
    with pytest.raises(InputError, match="thresholds"):
        features.cuts(np.ones(2, np.float32), wrong)


@given(st.lists(st.integers(1, 30), max_size=30), st.integers(1, 50))
def test_blocks_are_whole_cells_and_cover_everything(sizes, limit):
    cell = np.repeat(np.arange(len(sizes)) * 3, sizes)
    runs = list(cell_blocks(cell, limit))
    assert [t for start, stop in runs for t in range(start, stop)] == list(range(len(cell)))
    for start, stop in runs:
        assert stop - start <= limit or len(set(cell[start:stop])) == 1
        assert start == 0 or cell[start] != cell[start - 1]


def test_extract_equals_the_definition(tmp_path):
    adatas, paths, tokens = world(tmp_path)
    x = tokens[list(range(5))].to_numpy(np.float32)
    for representation, codes in (
        (Positive(5), np.maximum(x, 0)),
        (features.Neurons(5), np.hstack([np.maximum(x, 0), np.maximum(-x, 0)])),
    ):
        genes, result = extracted(adatas, paths, representation, block_tokens=7)
        assert genes == GENES
        maximum = codes[tokens["split"] == "train"].max(axis=0)
        np.testing.assert_array_equal(result.maximum, maximum)
        counts, n = dense_counts(tokens, codes, genes, features.THRESHOLDS, maximum)
        np.testing.assert_array_equal(result.firing.counts, counts)
        np.testing.assert_array_equal(result.firing.tokens, n)
    assert (tokens["split"] == "guard").any()


def test_cell_aggregates_equal_the_definition(tmp_path):
    adatas, paths, tokens = world(tmp_path, seed=1)
    _, result = extracted(adatas, paths, Positive(5), block_tokens=9)
    codes = np.maximum(tokens[list(range(5))].to_numpy(np.float32), 0)
    scaled = np.divide(codes, result.maximum, out=np.zeros_like(codes), where=result.maximum > 0)
    frame = pd.DataFrame(scaled).groupby([tokens["sample"], tokens["cell"]])
    cells = result.cells
    assert list(zip(cells.sample, cells.cell, strict=True)) == list(frame.groups)
    np.testing.assert_allclose(cells.mean.toarray(), frame.mean(), rtol=1e-6)
    np.testing.assert_allclose(cells.max.toarray(), frame.max(), rtol=1e-6)
    fraction = pd.DataFrame(scaled > 0).groupby([tokens["sample"], tokens["cell"]]).mean()
    np.testing.assert_allclose(cells.fraction.toarray(), fraction, rtol=1e-6)
    assert cells.mean.nnz == cells.max.nnz == cells.fraction.nnz == (frame.max() > 0).to_numpy().sum()


def test_top_tokens_equal_a_full_sort(tmp_path, monkeypatch):
    monkeypatch.setattr("interptfm.features.cells.PENDING_CODES", 5)
    adatas, paths, tokens = world(tmp_path, seed=2)
    _, result = extracted(adatas, paths, Positive(5), top_tokens=4, block_tokens=6)
    codes = np.maximum(tokens[list(range(5))].to_numpy(np.float32), 0)
    names = {adata.obs["sample"].iloc[0]: adata.obs_names for adata in adatas}
    expected = []
    for feature in range(5):
        code = np.where(tokens["split"] == "guard", 0, codes[:, feature])
        for rank, token in enumerate(np.argsort(-code, kind="stable")[:4]):
            if code[token] > 0:
                row = tokens.iloc[token]
                cell = names[row["sample"]][row["cell"]]
                expected.append((feature, rank + 1, row["sample"], cell, row["gene"], code[token]))
    columns = ["feature", "rank", "sample", "cell", "gene", "activation"]
    # The histogram is of the same tokens: guard tokens are in neither.
    shown = (codes > 0) & (tokens["split"] != "guard").to_numpy()[:, None] & (result.maximum > 0)
    assert result.histogram.sum(axis=1).tolist() == shown.sum(axis=0).tolist()
    assert list(result.top_tokens[columns].itertuples(index=False, name=None)) == expected
    assert list(result.top_tokens) == [*columns[:-1], "value", "activation"]
    assert 0 not in set(result.top_tokens["feature"])


def test_shards_blocks_and_order_change_nothing(tmp_path):
    adatas, paths, _ = world(tmp_path, seed=3, shards=1)
    _, whole = extracted(adatas, paths, Positive(5))
    adatas, paths, _ = world(tmp_path, seed=3, shards=4)
    for options in ({}, {"block_tokens": 1}, {"block_tokens": 11}):
        _, other = extracted(adatas, paths[::-1], Positive(5), **options)
        np.testing.assert_array_equal(whole.firing.counts, other.firing.counts)
        np.testing.assert_array_equal(whole.maximum, other.maximum)
        np.testing.assert_array_equal(whole.cells.cell, other.cells.cell)
        for name in ("mean", "max", "fraction"):
            left, right = getattr(whole.cells, name), getattr(other.cells, name)
            np.testing.assert_array_equal(left.toarray(), right.toarray())
        # "value" numbers the tokens of a file here, so it differs by construction.
        left, right = (found.top_tokens.drop(columns="value") for found in (whole, other))
        pd.testing.assert_frame_equal(left, right)


def test_interleaved_shards_are_put_in_order(tmp_path):
    cells = cells_file("s", ["train"] * 4, GENES)
    x = np.ones((4, 1), np.float32)
    gene, cell = np.arange(4), np.arange(4)
    paths = [
        write_activations(tmp_path / f"{i}.zarr.zip", "s", gene[i::2], cell[i::2], x[i::2]) for i in range(2)
    ]
    _, result = extracted([cells], paths, Positive(1))
    assert result.cells.cell.tolist() == [0, 1, 2, 3]
    assert result.top_tokens["gene"].tolist() == GENES[:4]


def test_guard_cells_have_aggregates_but_no_top_tokens(tmp_path):
    cells = cells_file("s", ["train", "guard"], GENES)
    x = np.array([[1.0], [4.0]], np.float32)
    path = write_activations(tmp_path / "a.zarr.zip", "s", np.arange(2), np.arange(2), x)
    _, result = extracted([cells], [path], Positive(1))
    assert result.maximum.tolist() == [1]
    assert result.top_tokens["activation"].tolist() == [1]
    assert result.cells.max.toarray().ravel().tolist() == [1, 4]


def test_files_come_back_and_are_deterministic(tmp_path):
    adatas, paths, _ = world(tmp_path, seed=4)
    _, result = extracted(adatas, paths, Positive(5), attributes={"representation": "p", "layer": 0})
    for name in ("a", "b"):
        features.write_firing(tmp_path / f"{name}.zarr.zip", result.firing)
        features.write_cells(tmp_path / f"{name}c.zarr.zip", result.cells, {"layer": 0})
    assert (tmp_path / "a.zarr.zip").read_bytes() == (tmp_path / "b.zarr.zip").read_bytes()
    firing = features.read_firing(tmp_path / "a.zarr.zip")
    np.testing.assert_array_equal(firing.counts, result.firing.counts)
    np.testing.assert_array_equal(firing.tokens, result.firing.tokens)
    assert firing.genes == GENES and firing.thresholds == list(features.THRESHOLDS)
    assert firing.attributes["representation"] == "p"
    cells = features.read_cells(tmp_path / "ac.zarr.zip")
    np.testing.assert_array_equal(cells.mean.toarray(), result.cells.mean.toarray())
    np.testing.assert_array_equal(cells.sample, result.cells.sample)
    with pytest.raises(InputError, match="expected firing counts"):
        features.read_firing(tmp_path / "ac.zarr.zip")


def test_bad_input_is_named(tmp_path):
    cells = cells_file("s", ["train", "test"], GENES)
    one = np.ones((2, 1), np.float32)
    good = write_activations(tmp_path / "good.zarr.zip", "s", np.arange(2), np.arange(2), one)
    with pytest.raises(InputError, match="sample 's' twice"):
        features.samples_of([cells, cells])
    with pytest.raises(InputError, match="gene 'A' twice"):
        features.samples_of([cells_file("s", ["train"], ["A", "A"])])
    with pytest.raises(InputError, match="split 'dev'"):
        features.samples_of([cells_file("s", ["dev"], GENES)])
    with pytest.raises(InputError, match="without cells"):
        features.samples_of([cells_file("s", [], GENES)])
    with pytest.raises(InputError, match="a second time"):
        extracted([cells], [good, good], Positive(1))
    with pytest.raises(InputError, match="sample 's', expected one of"):
        extracted([cells_file("t", ["train"], GENES)], [good], Positive(1))
    with pytest.raises(InputError, match="expected indices into the 2 cells and 1 genes"):
        extracted([cells_file("s", ["train", "test"], ["A"])], [good], Positive(1))
    with pytest.raises(InputError, match="no token of a training cell"):
        extracted([cells_file("s", ["test", "guard"], GENES)], [good], Positive(1))
    with pytest.raises(InputError, match="expected a dictionary's folder"):
        features.representation_of("batchtopk", [good], None)
    with pytest.raises(InputError, match="expected no dictionary"):
        features.representation_of("neurons", [good], tmp_path)
    assert features.representation_of("neurons", [good], None).n_features == 2


def dictionary(folder, d=5, n=12, seed=0):
    from interptfm.sae import format as sae_format
    from interptfm.sae.inference import Dictionary

    rng = np.random.default_rng(seed)
    weights = {
        "W_enc": rng.normal(size=(d, n)),
        "W_dec": rng.normal(size=(n, d)),
        "b_enc": rng.normal(size=n) / 4,
        "b_dec": rng.normal(size=d) / 4,
        "threshold": rng.uniform(0.1, 1, n),
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    paths = folder / "cfg.json", folder / "sae_weights.safetensors"
    sae_format.save(*paths, Dictionary("jumprelu", weights))
    return weights, paths


def test_dictionary_codes_are_jumprelu(tmp_path):
    weights, _ = dictionary(tmp_path)
    x = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32)
    codes = features.Dictionary(tmp_path).encode(x).toarray()
    pre = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    expected = np.where(pre > weights["threshold"], np.maximum(pre, 0), 0)
    np.testing.assert_allclose(codes, expected, atol=1e-5)


class Named(dict):
    __getattr__ = dict.__getitem__

    def __iter__(self):
        values = [v if isinstance(v, list) else [v] for v in self.values()]
        return iter([x for part in values for x in part])


@pytest.mark.parametrize("name", ["batchtopk", "neurons"])
def test_script_writes_the_contract(tmp_path, name):
    import aggregate
    import encode

    adatas, paths, tokens = world(tmp_path, seed=5)
    for adata in adatas:
        store.write_h5ad(tmp_path / f"{adata.obs['sample'].iloc[0]}.h5ad", adata)
    given = Named(cells=[str(tmp_path / f"{s}.h5ad") for s in ("s1", "s2")], activations=[*map(str, paths)])
    outputs = {"max": "max.npy", "firing": "firing.zarr.zip"}
    if name != "neurons":
        _, (cfg, weights) = dictionary(tmp_path)
        given |= {"cfg": str(cfg), "weights": str(weights)}
    snakemake = SimpleNamespace(
        input=Named(given),
        output=Named({key: tmp_path / "out" / value for key, value in outputs.items()}),
        params=SimpleNamespace(representation=name, layer=0, thresholds=[0, 0.5], top_tokens=3, grid=None),
        log=[str(tmp_path / "log")],
        threads=1,
        rule="encode",
        wildcards={},
    )
    encode.main(snakemake)
    if name != "neurons":
        snakemake.input["max"] = str(snakemake.output["max"])
        outputs |= {
            "cells": "cells.zarr.zip",
            "top_tokens": "top_tokens.parquet",
            "histogram": "histogram.npy",
        }
        snakemake.output = Named({key: tmp_path / "out" / value for key, value in outputs.items()})
        aggregate.main(snakemake)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(outputs.values())
    firing = features.read_firing(tmp_path / "out" / "firing.zarr.zip")
    assert firing.attributes["representation"] == name and firing.attributes["layer"] == 0
    assert firing.counts.shape == (3, 6, 12 if name != "neurons" else 10, 2)
    assert firing.tokens.sum() == (tokens["split"] != "guard").sum()
    assert np.load(tmp_path / "out" / "max.npy").shape == (firing.counts.shape[2],)
