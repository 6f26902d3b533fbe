"""Activation extraction: content, order, independence of batches and shards, failures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from interptfm import activations, store
from interptfm.errors import InputError
from interptfm.scgpt import checkpoint
from interptfm.scgpt.model import ModelConfig, initialise
from interptfm.scgpt.tokenizer import Vocabulary, tokenize

N_CELLS, N_GENES, D, LAYERS = 60, 40, 16, 3
GENES = [f"G{i}" for i in range(N_GENES)]
UNKNOWN = 4  # the first genes are not in the vocabulary
EMPTY = 7  # a cell that has counts on unknown genes only


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny matrices: a second thread costs more than it gives, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def counts() -> sparse.csr_matrix:
    rng = np.random.default_rng(0)
    dense = rng.poisson(rng.gamma(0.5, 2.0, (N_CELLS, N_GENES))).astype(np.float32)
    dense[:, UNKNOWN] += 1
    dense[EMPTY] = 0
    dense[EMPTY, 0] = 3
    return sparse.csr_matrix(dense)


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [f"s:1_{i}" for i in range(N_CELLS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model whose vocabulary lacks some genes and has others."""
    vocabulary = Vocabulary.from_genes([*GENES[UNKNOWN:], "OTHER"])
    config = ModelConfig(embsize=D, nheads=4, d_hid=32, nlayers=LAYERS, dropout=0.1)
    network = initialise(config, len(vocabulary), vocabulary.pad_id, seed=3)
    path = tmp_path_factory.mktemp("model")
    checkpoint.save(path, network, vocabulary, {"genes": "all", "excluded_genes": []})
    return path


@pytest.fixture(scope="module")
def model(folder):
    return activations.load_model(folder)


def write(path, model, counts, names, shard=None, layers=(0, 1, 2), **options):
    options = {"dtype": "float32", **options}
    shard = np.ones(counts.shape[0], bool) if shard is None else shard
    activations.write_shard(path, model, counts, GENES, names, shard, layers, **options)
    return read(path)


def read(path):
    with store.open_activations(path) as file:
        rows = {layer: file.rows(layer, 0, file.n_tokens) for layer in file.layers}
        cls = {layer: file.cls(layer) for layer in file.layers}
        return file.gene, file.cell, file.value, rows, cls, file.attributes


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model, counts, names):
    return write(tmp_path_factory.mktemp("whole") / "0.zarr.zip", model, counts, names)


def test_one_token_per_known_nonzero_in_order_and_no_padding(whole, counts, model):
    gene, cell, value, rows, cls, attributes = whole
    known = counts[:, UNKNOWN:].tocoo()
    assert len(gene) == known.nnz == attributes["n_tokens"]
    order = np.lexsort((known.col, known.row))
    np.testing.assert_array_equal(cell, known.row[order])
    np.testing.assert_array_equal(gene, known.col[order] + UNKNOWN)
    assert value.min() >= 1 and value.max() == 50
    assert set(rows) == {0, 1, 2} and all(x.shape == (known.nnz, D) for x in rows.values())
    assert np.abs(rows[0]).max(1).min() > 0
    assert EMPTY not in cell and attributes["cells_without_tokens"] == 1
    assert cls[0].shape == (N_CELLS - 1, D)
    assert attributes["model"] == model.digest and attributes["mode"] == "binned"


def test_states_are_those_of_each_cell_alone(whole, counts, names, model):
    """The oracle: one cell at a time through the model; also the order of the `<cls>` rows."""
    gene, cell, _, rows, cls, _ = whole
    ids = activations.gene_ids(GENES, model)
    for position, index in enumerate(np.unique(cell)):
        tokens = tokenize(counts[[index]], ids, model.vocabulary, cell_names=[names[index]])
        with torch.inference_mode():
            hidden = model.network(*map(torch.from_numpy, (tokens.genes, tokens.values, tokens.lengths)))
        for layer in range(LAYERS):
            alone = hidden.states[layer].numpy()
            np.testing.assert_array_equal(gene[cell == index], tokens.var[1:])
            np.testing.assert_allclose(rows[layer][cell == index], alone[1:], atol=2e-5)
            np.testing.assert_allclose(cls[layer][position], alone[0], atol=2e-5)


@pytest.mark.parametrize("batch_tokens", [1, 30, 500])
def test_batch_size_does_not_matter(whole, tmp_path, model, counts, names, batch_tokens):
    other = write(tmp_path / "0.zarr.zip", model, counts, names, batch_tokens=batch_tokens)
    for a, b in zip(whole[:3], other[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    for layer in range(LAYERS):
        np.testing.assert_allclose(whole[3][layer], other[3][layer], atol=2e-5)
        np.testing.assert_allclose(whole[4][layer], other[4][layer], atol=2e-5)


def test_shards_and_order_do_not_matter_even_where_cells_are_truncated(tmp_path, model, counts, names):
    full = write(tmp_path / "full.zarr.zip", model, counts, names, max_length=8, seed=5)
    assert full[5]["truncated_cells"] > 0 and np.bincount(full[1]).max() == 7
    shards = np.random.default_rng(1).integers(0, 3, N_CELLS)
    parts = [
        write(tmp_path / f"{s}.zarr.zip", model, counts, names, shards == s, max_length=8, seed=5)
        for s in range(3)
    ]
    cell = np.concatenate([part[1] for part in parts])
    order = np.argsort(cell, kind="stable")
    np.testing.assert_array_equal(cell[order], full[1])
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts])[order], full[0])
    rows = np.concatenate([part[3][2] for part in parts])[order]
    np.testing.assert_allclose(rows, full[3][2], atol=2e-5)

    permutation = np.random.default_rng(2).permutation(N_CELLS)
    moved = write(
        tmp_path / "moved.zarr.zip", model, counts[permutation], [names[p] for p in permutation],
        max_length=8, seed=5,
    )  # fmt: skip
    for new, old in enumerate(permutation):
        np.testing.assert_array_equal(moved[0][moved[1] == new], full[0][full[1] == old])
        np.testing.assert_allclose(moved[3][1][moved[1] == new], full[3][1][full[1] == old], atol=2e-5)


def test_one_pass_gives_what_single_layers_give(whole, tmp_path, model, counts, names):
    for layer in range(LAYERS):
        single = write(tmp_path / f"{layer}.zarr.zip", model, counts, names, layers=[layer])
        assert single[5]["layers"] == [layer]
        np.testing.assert_array_equal(single[3][layer], whole[3][layer])
        np.testing.assert_array_equal(single[4][layer], whole[4][layer])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_narrow_types_round_the_same_states(whole, tmp_path, model, counts, names, dtype, tolerance):
    narrow = write(tmp_path / "0.zarr.zip", model, counts, names, dtype=dtype)
    assert narrow[5]["dtype"] == dtype
    for layer in range(LAYERS):
        np.testing.assert_allclose(narrow[3][layer], whole[3][layer], atol=tolerance, rtol=tolerance)
        assert not np.array_equal(narrow[3][layer], whole[3][layer])


def test_same_input_same_bytes(tmp_path, model, counts, names):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.zarr.zip", model, counts, names)
    assert (tmp_path / "a.zarr.zip").read_bytes() == (tmp_path / "b.zarr.zip").read_bytes()


def test_memory_holds_one_batch(monkeypatch, tmp_path, model, counts, names):
    sizes = []
    original = store.ActivationWriter.write

    def counted(self, gene, cell, value, states):
        sizes.append(len(gene))
        original(self, gene, cell, value, states)

    monkeypatch.setattr(store.ActivationWriter, "write", counted)
    write(tmp_path / "0.zarr.zip", model, counts, names, batch_tokens=100)
    assert len(sizes) > 5 and max(sizes) <= 100


def test_hidden_genes_are_not_shown(tmp_path, folder, counts, names):
    half = GENES[UNKNOWN::2]
    args = store.read_json(folder / "args.json")
    other = tmp_path / "model"
    network, vocabulary, _, _ = checkpoint.load(folder)
    del args["genes"], args["excluded_genes"]
    checkpoint.save(other, network, vocabulary, {"genes": "half_a", "excluded_genes": half})
    model = activations.load_model(other)
    assert model.genes == "half_a"
    gene, *_ = write(tmp_path / "0.zarr.zip", model, counts, names)
    assert set(gene) == set(range(UNKNOWN + 1, N_GENES, 2))


def test_layer_that_the_model_lacks(tmp_path, model, counts, names):
    with pytest.raises(InputError, match="layer 3, expected 0 to 2"):
        write(tmp_path / "0.zarr.zip", model, counts, names, layers=[0, 3])
    with pytest.raises(InputError, match="found layer -1"):
        write(tmp_path / "0.zarr.zip", model, counts, names, layers=[-1])
    assert list(tmp_path.iterdir()) == []


def test_foreign_gene_names_are_refused(model):
    with pytest.raises(InputError, match="ENSG"):
        activations.gene_ids([f"ENSG{i:05d}" for i in range(40)], model)


def test_nan_names_layer_and_cell_and_leaves_nothing(tmp_path, folder, counts, names):
    model = activations.load_model(folder)
    rare = int(np.argmin(np.diff(counts[:, UNKNOWN:].tocsc().indptr)))
    first = int(counts[:, UNKNOWN + rare].nonzero()[0].min())
    model.network.encoder.embedding.weight[rare] = float("nan")
    with pytest.raises(InputError, match=f"layer 0 of cell {first} "):
        write(tmp_path / "0.zarr.zip", model, counts, names, batch_tokens=1)
    assert list(tmp_path.iterdir()) == []


def test_float16_overflow_is_refused_and_bfloat16_takes_it(tmp_path, folder, counts, names):
    model = activations.load_model(folder)
    model.network.transformer_encoder.layers[1].norm2.weight.mul_(1e6)
    with pytest.raises(InputError, match=r"layer 1.*65504.*float16.*bfloat16"):
        write(tmp_path / "0.zarr.zip", model, counts, names, dtype="float16")
    assert list(tmp_path.iterdir()) == []
    wide = write(tmp_path / "0.zarr.zip", model, counts, names, dtype="bfloat16")
    assert np.abs(wide[3][1]).max() > 65504


def test_killed_job_leaves_nothing_finished(tmp_path, model, counts, names, monkeypatch):
    calls = []

    def dies(self, start, states):
        calls.append(start)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(store.ActivationWriter, "write_cls", dies)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "0.zarr.zip", model, counts, names, batch_tokens=50)
    assert list(tmp_path.iterdir()) == []


def test_shard_without_tokens_is_an_error(tmp_path, model, counts, names):
    only = np.arange(N_CELLS) == EMPTY
    with pytest.raises(InputError, match="no cell with a gene"):
        write(tmp_path / "0.zarr.zip", model, counts, names, only)


@pytest.mark.real
def test_real_cells_have_a_token_for_each_nonzero(real_data, tmp_path):
    import pandas as pd

    table = pd.read_csv(
        real_data / "cosmx_nsclc_mini" / "nsclc_mini_exprMat_file.csv.gz", nrows=80
    ).drop(columns=["fov", "cell_ID"])  # fmt: skip
    table = table.loc[:, ~table.columns.str.startswith("NegPrb")]
    symbols, real_counts = list(table.columns), sparse.csr_matrix(table.to_numpy(np.float32))
    vocabulary = Vocabulary.from_json(real_data / "scgpt_vocab.json")
    config = ModelConfig(embsize=32, nheads=4, d_hid=32, nlayers=2)
    network = initialise(config, len(vocabulary), vocabulary.pad_id, seed=1).eval()
    model = activations.Model(network, vocabulary, frozenset(), "all", "none")
    path = tmp_path / "0.zarr.zip"
    everyone = np.ones(80, bool)
    activations.write_shard(path, model, real_counts, symbols, list("x" * 80), everyone, [1])
    gene, cell, *_ = read(path)
    missing = symbols.index("C9orf16")
    expected = real_counts[:, np.arange(len(symbols)) != missing]
    assert missing not in gene and len(gene) == expected.nnz
    np.testing.assert_array_equal(np.bincount(cell, minlength=80), np.diff(expected.indptr))
