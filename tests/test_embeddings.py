"""Hidden states of other models by file: what comes out, what is refused, and a second random model."""

from __future__ import annotations

import shutil
import zipfile

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from planning import plans, snakemake
from scipy import sparse

from interptfm import activations, embeddings, models, second_model, spaces, store
from interptfm import config as settings
from interptfm.annotate import settings as annotate_settings
from interptfm.errors import InputError
from interptfm.scgpt.model import ModelConfig, initialise
from interptfm.scgpt.tokenizer import Vocabulary
from interptfm.steering import settings as steering_settings

N_CELLS, N_GENES, D, LAYERS = 50, 30, 8, (0, 2)
GENES = [f"G{i}" for i in range(N_GENES)]
CELLS = [f"s:1_{i}" for i in range(N_CELLS)]
EMPTY = 7


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def counts() -> sparse.csr_matrix:
    rng = np.random.default_rng(0)
    dense = rng.poisson(rng.gamma(0.5, 2.0, (N_CELLS, N_GENES))).astype(np.float32)
    dense[:, 3] += 1
    dense[EMPTY] = 0
    return sparse.csr_matrix(dense)


@pytest.fixture(scope="module")
def original(tmp_path_factory, counts):
    """The activations of a small scGPT, as rule extract writes them."""
    vocabulary = Vocabulary.from_genes(GENES)
    network = initialise(ModelConfig(embsize=D, nheads=2, d_hid=8, nlayers=3), len(vocabulary), 0, seed=3)
    model = activations.Model(network.eval(), vocabulary, frozenset(), "all", "none")
    path = tmp_path_factory.mktemp("original") / "0.zarr.zip"
    everyone = np.ones(N_CELLS, bool)
    activations.write_shard(path, model, counts, GENES, CELLS, everyone, LAYERS, mantissa_bits=6)
    return path


def export(source, folder, order=None, **options):
    """Write the activations of a store as files of embeddings, in another order of rows if given."""
    with store.open_activations(source) as found:
        order = np.arange(found.n_tokens) if order is None else order
        states = {layer: found.rows(layer, 0, found.n_tokens)[order] for layer in LAYERS}
        parts = (
            {layer: values[i : i + 100] for layer, values in states.items()}
            for i in range(0, len(order), 100)
        )
        options = {"value": found.value[order], "model": "theirs", **options}
        tokens = folder / "s.h5ad"
        embeddings.write_tokens(
            tokens, found.cell[order], found.gene[order], CELLS, GENES, LAYERS, found.d, parts, **options
        )
        present = [CELLS[i] for i in np.unique(found.cell)][::-1]
        cells = folder / "s.cells.h5ad"
        embeddings.write_cells(
            cells, present, {layer: found.cls(layer)[::-1] for layer in LAYERS}, model="theirs"
        )
    return tokens, cells


@pytest.fixture(scope="module")
def exported(original, tmp_path_factory):
    return export(original, tmp_path_factory.mktemp("exported"))


def convert(path, tokens, cells, counts, shard=None, layers=LAYERS, **options):
    shard = np.ones(N_CELLS, bool) if shard is None else shard
    options = {"mantissa_bits": 6, **options}
    embeddings.convert(path, tokens, cells, counts, GENES, CELLS, shard, layers, **options)
    with store.open_activations(path) as found:
        rows = {layer: found.rows(layer, 0, found.n_tokens) for layer in found.layers}
        cls = {layer: found.cls(layer) for layer in found.layers}
        return found.gene, found.cell, found.value, rows, cls, found.attributes


def entries(path):
    """Name -> CRC of the entries of a store, but for the attributes of its root."""
    with zipfile.ZipFile(path) as archive:
        return {each.filename: each.CRC for each in archive.infolist() if each.filename != "zarr.json"}


def test_the_models_own_activations_come_back_byte_for_byte(original, exported, counts, tmp_path):
    *_, attributes = convert(tmp_path / "0.zarr.zip", *exported, counts)
    assert entries(tmp_path / "0.zarr.zip") == entries(original)
    with store.open_activations(original) as found:
        assert set(found.attributes) <= set(attributes)
        assert attributes["d"] == found.d and attributes["n_tokens"] == found.n_tokens
    assert attributes["cells_without_tokens"] == 1 and attributes["tokens_of_other_genes"] == 0
    assert (attributes["backend"], attributes["model_name"], attributes["cls"]) == (
        "files",
        "theirs",
        "given",
    )
    assert attributes["model"].startswith("files:")


@pytest.mark.parametrize("block", [1, 40, 10_000])
def test_neither_order_of_cells_nor_of_tokens_nor_blocks_matter(
    original, counts, tmp_path, monkeypatch, block
):
    rng = np.random.default_rng(4)
    with store.open_activations(original) as found:
        place = rng.permutation(N_CELLS)[found.cell]
        order = np.lexsort((rng.random(found.n_tokens), place))
    monkeypatch.setattr(embeddings.blocks, "__defaults__", (block,))
    convert(tmp_path / "0.zarr.zip", *export(original, tmp_path, order), counts)
    assert entries(tmp_path / "0.zarr.zip") == entries(original)


def test_blocks_are_whole_cells_and_bounded():
    cell = np.repeat([0, 2, 5, 6], [3, 4, 9, 1])
    assert list(embeddings.blocks(cell, 7)) == [(0, 7), (7, 16), (16, 17)]
    assert list(embeddings.blocks(cell, 1)) == [(0, 3), (3, 7), (7, 16), (16, 17)]
    assert list(embeddings.blocks(cell, 100)) == [(0, 17)] and list(embeddings.blocks(cell[:0])) == []


def test_memory_holds_one_block(exported, counts, tmp_path, monkeypatch):
    sizes, real = [], embeddings.rows_of
    monkeypatch.setattr(embeddings.blocks, "__defaults__", (60,))
    monkeypatch.setattr(embeddings, "rows_of", lambda m, rows: sizes.append(len(rows)) or real(m, rows))
    convert(tmp_path / "0.zarr.zip", exported[0], None, counts)
    assert len(sizes) > 10 and max(sizes) <= 60


def test_shards_are_the_parts_of_the_whole(exported, counts, tmp_path):
    whole = convert(tmp_path / "all.zarr.zip", *exported, counts)
    shard = np.arange(N_CELLS) % 3
    parts = [convert(tmp_path / f"{s}.zarr.zip", *exported, counts, shard == s) for s in range(3)]
    order = np.argsort(np.concatenate([part[1] for part in parts]), kind="stable")
    for i in range(3):
        np.testing.assert_array_equal(np.concatenate([part[i] for part in parts])[order], whole[i])
    rows = np.concatenate([part[3][2] for part in parts])
    np.testing.assert_array_equal(rows[order], whole[3][2])
    cells = np.concatenate([np.unique(part[1]) for part in parts])
    cls = np.concatenate([part[4][0] for part in parts])
    np.testing.assert_array_equal(cls[np.argsort(cells)], whole[4][0])


def test_a_cell_without_a_state_of_its_own_is_the_mean_of_its_tokens(exported, counts, tmp_path):
    options = {"dtype": "float32", "mantissa_bits": None}
    _, cell, _, rows, cls, attributes = convert(tmp_path / "0.zarr.zip", exported[0], None, counts, **options)
    assert attributes["cls"] == "mean of the cell's tokens"
    for place, index in enumerate(np.unique(cell)):
        np.testing.assert_allclose(cls[2][place], rows[2][cell == index].mean(0), atol=1e-6)


def test_a_token_without_a_value_has_its_count(original, counts, tmp_path):
    tokens, cells = export(original, tmp_path, value=None)
    gene, cell, value, *_ = convert(tmp_path / "0.zarr.zip", tokens, cells, counts)
    np.testing.assert_array_equal(value, counts.toarray()[cell, gene])


def test_tokens_of_other_genes_are_dropped_and_counted(exported, counts, tmp_path):
    tokens = changed(exported[0], tmp_path, lambda obs: obs.replace({"gene": {"G3": "<cls>"}}))
    gene, _, _, rows, _, attributes = convert(tmp_path / "0.zarr.zip", tokens, None, counts)
    whole = convert(tmp_path / "1.zarr.zip", exported[0], None, counts)
    kept = whole[0] != 3
    assert attributes["tokens_of_other_genes"] == (~kept).sum() == N_CELLS - 1
    np.testing.assert_array_equal(gene, whole[0][kept])
    np.testing.assert_array_equal(rows[0], whole[3][0][kept])


def changed(source, folder, edit):
    """Return a copy of a file of tokens whose obs went through ``edit``."""
    adata = anndata.read_h5ad(source)
    obs = edit(adata.obs.astype({"cell": str, "gene": str}))
    path = folder / "changed.h5ad"
    anndata.AnnData(obs=obs, obsm=dict(adata.obsm), uns=dict(adata.uns)).write_h5ad(path)
    return path


def first(column, value):
    """Return an edit that sets a column's first value."""

    def edit(obs):
        return obs.assign(**{column: [value, *obs[column].iloc[1:]]})

    return edit


def swapped(obs):
    """Put the first token of a cell behind all others."""
    return obs.iloc[[*range(1, len(obs)), 0]]


def repeated(obs):
    return obs.assign(gene=[obs["gene"].iloc[1], *obs["gene"].iloc[1:]])


BAD_ROWS = [
    (
        first("cell", "s:9_9"),
        "found 1 cells such as 's:9_9', expected names of the cells file of the sample, such",
    ),
    (
        swapped,
        "found cell 's:1_0' again in row .*, expected the rows of a cell together; sort the rows by cell",
    ),
    (repeated, "found gene 'G.*' twice in cell 's:1_0', expected it once"),
    (
        lambda obs: obs.assign(gene="ENSG01"),
        "found 0 of .* tokens with a gene of the panel.*'G0', not 'ENSG01'",
    ),
    (lambda obs: obs.drop(columns="gene"), "found obs columns cell, value, expected 'gene' among them"),
    (first("cell", None), "found no cell in row 0, expected a name"),
    (first("value", np.nan), "found a value that is no finite number in obs 'value'"),
]


@pytest.mark.parametrize("edit, message", BAD_ROWS, ids=[message[:30] for _, message in BAD_ROWS])
def test_bad_rows_get_one_sentence(exported, counts, tmp_path, edit, message):
    path = changed(exported[0], tmp_path, edit)
    with pytest.raises(InputError, match=f"changed.h5ad: {message}"):
        convert(tmp_path / "0.zarr.zip", path, None, counts)
    assert not list(tmp_path.glob("*.zarr.zip"))


def matrix_of(layer, edit):
    """Return an edit of an open file that puts another matrix in the place of a layer's."""

    def change(file):
        values = edit(file[f"obsm/layer_{layer}"][:])
        del file[f"obsm/layer_{layer}"]
        if values is not None:
            file["obsm"].create_dataset(f"layer_{layer}", data=values)

    return change


def with_nan(values):
    values[5, 1] = np.nan
    return values


BAD_STATES = [
    (matrix_of(2, lambda values: None), "found layer_0 in obsm, expected 'layer_2' .activations.layers."),
    (
        matrix_of(2, lambda values: values[:, 1:]),
        r"found widths \{0: 8, 2: 7\} by layer in obsm, expected one",
    ),
    (
        matrix_of(0, lambda values: values.astype(int)),
        "found no dense matrix of real numbers in obsm 'layer_0'",
    ),
    (matrix_of(0, with_nan), "found NaN or infinity in obsm 'layer_0' of cell 's:1_"),
    (lambda file: file.__delitem__("obs"), "found no obs, expected AnnData"),
]


@pytest.mark.parametrize("edit, message", BAD_STATES, ids=[message[:30] for _, message in BAD_STATES])
def test_bad_states_get_one_sentence(exported, counts, tmp_path, edit, message):
    path = shutil.copy(exported[0], tmp_path / "changed.h5ad")
    with h5py.File(path, "a") as file:
        edit(file)
    with pytest.raises(InputError, match=f"changed.h5ad: {message}"):
        convert(tmp_path / "0.zarr.zip", path, None, counts)
    assert not list(tmp_path.glob("*.zarr.zip"))


def test_files_that_are_none_get_one_sentence(exported, counts, tmp_path):
    (tmp_path / "text.h5ad").write_text("no AnnData")
    for name, message in (("text.h5ad", "found a damaged file"), ("none.h5ad", "not found")):
        with pytest.raises(InputError, match=f"{name}: {message}"):
            convert(tmp_path / "0.zarr.zip", tmp_path / name, None, counts)
    nobody = np.arange(N_CELLS) == EMPTY
    with pytest.raises(InputError, match=r"s\.h5ad: found no token of the shard's 1 cells, expected one"):
        convert(tmp_path / "0.zarr.zip", *exported, counts, nobody)


def of_cells(names=None, width=D, model="theirs"):
    names = [name for i, name in enumerate(CELLS) if i != EMPTY] if names is None else names
    return names, {layer: np.ones((len(names), width)) for layer in LAYERS}, model


BAD_CELLS = [
    (of_cells([*CELLS, "other"]), "found 1 cells such as 'other', expected names of the cells file"),
    (of_cells([*CELLS, CELLS[2]]), "found cell 's:1_2' twice, expected it once"),
    (of_cells(CELLS[1:]), "found no cell 's:1_0', expected every cell that has tokens"),
    (of_cells(width=3), "found width 3, expected 8 as of the tokens"),
    (of_cells(model="mine"), "found model 'mine' in uns, expected 'theirs' as of the tokens"),
]


@pytest.mark.parametrize("given, message", BAD_CELLS, ids=[message[:30] for _, message in BAD_CELLS])
def test_bad_files_of_cells_get_one_sentence(exported, counts, tmp_path, given, message):
    names, states, model = given
    embeddings.write_cells(tmp_path / "c.h5ad", names, states, model=model)
    with pytest.raises(InputError, match=f"c.h5ad: {message}"):
        convert(tmp_path / "0.zarr.zip", exported[0], tmp_path / "c.h5ad", counts)
    assert not list(tmp_path.glob("*.zarr.zip"))


def test_what_a_writer_announced_must_come(tmp_path):
    rows = np.zeros(3, int)
    with pytest.raises(ValueError, match="found states of 2 tokens, expected 3"):
        embeddings.write_tokens(
            tmp_path / "s.h5ad", rows, np.arange(3), CELLS, GENES, [0], 2, [{0: np.ones((2, 2))}]
        )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def configured(root, monkeypatch):
    """Resolve the demo's configuration with another block of the model and of others."""
    monkeypatch.chdir(root)
    schema = settings.load_yaml("workflow/schemas/config.schema.yaml")

    def resolve(**blocks):
        config = settings.merge(settings.load_yaml("config/config.yaml"), blocks)
        config["arms"] = {**dict.fromkeys(config["arms"]), **blocks.get("arms", {})}
        return settings.resolve(config, schema)

    return resolve


BY_FILE = {"model": {"backend": "files", "embeddings": "emb"}, "activations": {"layers": [4, 11]}}


def test_a_run_of_files_has_their_layers_and_no_model(configured):
    arms = configured(**BY_FILE)
    assert settings.layers(arms[""]) == [4, 11] and settings.checkpoint_files(arms[""]) == []
    assert steering_settings.layer(arms[""]) is None and steering_settings.data(arms[""]) is None
    spaces.check(arms)
    given = configured(**settings.merge(BY_FILE, {"model": {"checkpoint": "nowhere"}}))[""]
    assert settings.checkpoint_files(given) == [], "an arm of files inherits a checkpoint and reads none"
    with pytest.raises(InputError, match="found files, expected a model that runs on the cells to annotate"):
        annotate_settings.run_files(arms[""], "results/x", [])
    named = configured(**settings.merge(BY_FILE, {"steering": {"layer": 4}}))[""]
    with pytest.raises(
        InputError, match=r"'steering\.layer': found 4, expected first, since with model.backend"
    ):
        steering_settings.layer(named)


BAD_KEYS = [
    (
        {"model": {"backend": "files"}},
        "'model.embeddings': found null, expected the folder of the embeddings",
    ),
    (
        {"model": {"embeddings": "emb"}},
        "'model.embeddings': found 'emb', expected null, since model.backend is",
    ),
    ({"activations": {"layers": "all"}}, "'activations.layers': found all, expected a list of layers for"),
    ({"activations": {"gene_tokens": False}}, "'activations.gene_tokens': .*tis.units with source obsm"),
    (
        {"arms": {"untrained": {"model": {"init": "random"}}}},
        "arm 'untrained': key 'model.init': found 'random'",
    ),
    (
        {"arms": {"half": {"cells": {"genes": "half_a"}}}},
        "arm 'half': key 'cells.genes': .*drop the arm .null.",
    ),
    (
        {"model": {"backend": "scgpt"}, "arms": {"other": {"model": {"backend": "interptfm"}}}},
        "arm 'other': key 'model.backend': found 'interptfm', expected 'scgpt' as in the main arm, or files",
    ),
]


@pytest.mark.parametrize("blocks, message", BAD_KEYS, ids=[message[:30] for _, message in BAD_KEYS])
def test_keys_that_do_not_fit_are_refused_before_any_job(configured, blocks, message):
    base = {} if "model" in blocks else BY_FILE
    with pytest.raises(InputError, match=message):
        configured(**settings.merge(base, blocks))


def test_files_of_a_sample(tmp_path):
    config = {"run": "x", "data_root": str(tmp_path), "model": {"embeddings": "emb"}}
    (tmp_path / "emb").mkdir()
    with pytest.raises(InputError, match=r"found no file .*emb/s\.h5ad, expected .* sample 's'$"):
        settings.embedding_files(config, "s")
    (tmp_path / "emb/s.cells.h5ad").touch()
    with pytest.raises(InputError, match=r"s\.cells\.h5ad alone serves as units"):
        settings.embedding_files(config, "s")
    (tmp_path / "emb/s.h5ad").touch()
    assert set(settings.embedding_files(config, "s")) == {"tokens", "cells"}
    config["model"]["embeddings"] = "results/{run}/theirs"
    assert settings.embedding_files(config, "s") == {"tokens": "results/x/theirs/s.h5ad"}


def test_ranks_are_by_count_over_the_genes_median(counts):
    scale = second_model.medians([counts], [np.arange(N_GENES)], N_GENES)
    share = counts.toarray() / np.maximum(counts.toarray().sum(1, keepdims=True), 1) * 1e4
    for gene in range(N_GENES):
        there = share[:, gene][share[:, gene] > 0]
        assert scale[gene] == pytest.approx(np.median(there) if len(there) else 1)
    cell, column, place = second_model.ranked(counts, scale)
    assert len(cell) == counts.nnz and (np.diff(cell) >= 0).all()
    dense = counts.toarray() / scale
    for index in np.unique(cell):
        mine = column[cell == index]
        np.testing.assert_array_equal(place[cell == index], np.arange(len(mine)))
        assert (np.diff(dense[index, mine]) <= 0).all() and len(set(mine)) == (dense[index] > 0).sum()


def test_medians_pool_samples_whose_columns_differ(counts):
    other = np.random.default_rng(1).permutation(N_GENES)
    halves = [counts[:20], counts[20:][:, other]]
    pooled = second_model.medians(halves, [np.arange(N_GENES), other], N_GENES)
    np.testing.assert_allclose(pooled, second_model.medians([counts], [np.arange(N_GENES)], N_GENES))


def test_states_of_the_second_model_are_each_cells_own(counts, monkeypatch):
    """Whatever the batch; another seed is another model, and its layers differ."""
    scale = second_model.medians([counts], [np.arange(N_GENES)], N_GENES)
    cell, column, place = second_model.ranked(counts, scale)
    network = second_model.Network(N_GENES, 5)

    def whole(net):
        parts = list(second_model.states(net, column, cell, place))
        return len(parts), {layer: np.concatenate([part[layer] for part in parts]) for layer in (0, 1)}

    together, found = whole(network)
    monkeypatch.setattr(second_model, "BATCH_PAIRS", 1)
    alone, each = whole(network)
    assert together == 1 and alone == N_CELLS - 1
    for layer in (0, 1):
        assert found[layer].shape == (counts.nnz, second_model.D)
        np.testing.assert_allclose(found[layer], each[layer], atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1
    np.testing.assert_array_equal(whole(second_model.Network(N_GENES, 5))[1][1], each[1])
    assert np.abs(whole(second_model.Network(N_GENES, 6))[1][1] - each[1]).max() > 0.1


def test_models_are_compared_by_their_own_null():
    rng = np.random.default_rng(0)
    null = rng.random(40) / 4
    frame = pd.DataFrame({"term_id": [f"t{i}" for i in range(40)], "f1": null + 0.2, "null_mean": null})
    frame["gene_auroc"], frame["gene_auroc_null_mean"] = 0.5, 0.5 + rng.normal(0, 0.01, 40)
    entry = {"arm": "main", "backend": "files", "layer": 3, "concepts": frame}
    entry["summary"] = {"headline": {"cell_held_out": {"f1": {"p": 0.01}}}}
    entry["cfg"] = {"d_in": 64, "d_sae": 32, "metadata": {"model_name": "theirs"}}
    found = models.table([entry], 1).set_index("measure")
    assert found.at["F1", "excess"] == pytest.approx(0.2) and found.at["F1", "p"] == 0.01
    assert found.at["F1", "lo"] > 0.19 and found.at["F1", "verdict"].startswith("higher")
    assert found.at["held-out-gene AUROC", "lo"] < 0 < found.at["held-out-gene AUROC", "hi"]
    assert set(found["model_name"]) == {"theirs"}


def test_the_second_model_of_the_small_run(project):
    """Extras plan the arm; its files are converted and deleted, and its table stands beside the others."""
    plan = plans(project, {"extras": {"configs": ["tests/tiny.yaml"], "targets": ["extras"]}})["extras"]
    assert isinstance(plan, dict), plan
    assert plan["embed_second_model"] == plan["convert_embeddings"] == 2 and plan["compare_models"] == 1
    done = snakemake(project, "results/tiny/models.tsv")
    assert done.returncode == 0, done.stdout + done.stderr
    results = project / "results/tiny"
    assert not list((results / "second_model").glob("*"))
    path = results / "arms/second_model/activations/section_1/0.zarr.zip"
    adata = store.read_h5ad(results / "cells/section_1.h5ad")
    with store.open_activations(path) as found:
        assert found.layers == [1] and found.d == second_model.D and found.n_tokens == adata.X.nnz
        np.testing.assert_array_equal(found.value, adata.X[found.cell, found.gene].A1)
        assert found.attributes["cls"] == "mean of the cell's tokens"
    table = store.read_table(results / "models.tsv")
    assert {"main", "untrained", "second_model"} == set(table["arm"])
    mine = table[table["arm"] == "second_model"]
    assert set(mine["backend"]) == {"files"} and set(mine["d_in"]) == {64}
    assert mine["model_name"].str.startswith("random transformer over ranked genes").all()
    document = store.read_json(results / "arms/second_model/dictionaries/batchtopk/layer_1/cfg.json")
    assert document["metadata"]["hook_name"] == "layer_1"


def test_a_run_of_files_plans_what_needs_no_model(project, tmp_path):
    """The main run's own states by file: everything else but the model, its quality and steering."""
    folder = project / "results/tiny"
    place = project / "theirs"
    place.mkdir(exist_ok=True)
    for sample in ("section_1", "section_2"):
        (place / f"{sample}.h5ad").touch()
    tiny = settings.load_yaml(project / "tests/tiny.yaml")
    model = {**tiny["model"], "backend": "files", "embeddings": "theirs"}
    steering = {**tiny["steering"], "layer": "first"}
    mine = {**tiny, "model": model, "steering": steering, "arms": dict.fromkeys(tiny["arms"])}
    (tmp_path / "files.yaml").write_text(yaml.safe_dump(mine))
    (place / "section_2.h5ad").rename(place / "elsewhere.h5ad")
    missing = plans(project, {"one": {"configs": [str(tmp_path / "files.yaml")]}})["one"]
    assert "theirs/section_2.h5ad, expected the embeddings of the tokens of sample 'section_2'" in missing
    (place / "elsewhere.h5ad").rename(place / "section_2.h5ad")
    arm = {"model": {"backend": "files", "embeddings": "theirs"}, "activations": {"layers": [5]}}
    beside = {**tiny, "arms": {**tiny["arms"], "theirs": {**arm, "dictionaries": {"layers": "all"}}}}
    (tmp_path / "beside.yaml").write_text(yaml.safe_dump(beside))
    plan = plans(project, {"one": {"configs": [str(tmp_path / "beside.yaml")]}})["one"]
    assert isinstance(plan, dict), plan
    assert plan["convert_embeddings"] == 2 and plan["train_dictionary"] == 1
    assert plan["compare_control_models"] == 1 and not {"extract", "build_model"} & set(plan)
    cases = {
        name: {"configs": [str(tmp_path / "files.yaml")], "targets": [name]} for name in ("all", "extras")
    }
    found = plans(project, cases)
    for name, plan in found.items():
        assert isinstance(plan, dict), plan
        never = {"build_model", "extract", "dictionary_quality", "steer", "steer_towards", "simulate_screen"}
        assert not never & set(plan), name
        assert {"convert_embeddings", "train_dictionary", "align", "score_units", "fit_probes"} <= set(plan)
    assert folder.is_dir()
