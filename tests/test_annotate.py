"""Cells of another file through a finished run: the same scores, nothing retrained, clear sentences."""

from __future__ import annotations

import json
import os
import re
import shutil
from xml.etree import ElementTree

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from planning import planned, plans, snakemake
from scipy import sparse

from interptfm import config as settings_module
from interptfm import store
from interptfm.activity import scores
from interptfm.annotate import finished, page, query
from interptfm.annotate import settings as annotate_settings
from interptfm.errors import InputError
from interptfm.tis.judges import log_normalise

SETTINGS = {"path": "x.h5ad", "name": None, "counts": None, "symbols": None, "group": None}
PANEL = ["A", "B", "C", "D"]


def cells_file(tmp_path, matrix=None, genes=("D", "A", "X"), names=("c1", "c2"), **parts):
    matrix = np.array([[1, 0, 5], [0, 3, 0]]) if matrix is None else matrix
    adata = anndata.AnnData(
        X=matrix if matrix is None else np.asarray(matrix, np.float32),
        obs=pd.DataFrame({"type": ["a", "b"][: len(names)]}, index=list(names)),
        var=pd.DataFrame({"symbol": ["B", "C", "D"][: len(genes)]}, index=list(genes)),
    )
    for key, value in parts.items():
        adata.layers[key] = np.asarray(value, np.float32)
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    return path


# --- the user's file ------------------------------------------------------------------------------


def test_genes_come_in_the_order_of_the_panel(tmp_path):
    found = query.read(cells_file(tmp_path), SETTINGS, PANEL)
    assert found.genes == ["A", "D"] and found.missing == ["B", "C"] and found.n_genes == 3
    assert found.counts.toarray().tolist() == [[0, 1], [3, 0]] and found.source == "X"


def test_the_named_layer_and_column_are_read(tmp_path):
    path = cells_file(tmp_path, matrix=[[0.5, 1, 1], [1, 1, 1]], raw_counts=[[1, 2, 3], [4, 5, 6]])
    found = query.read(path, {**SETTINGS, "counts": "raw_counts", "symbols": "symbol"}, PANEL)
    assert found.genes == ["B", "C", "D"] and found.counts.toarray().tolist() == [[1, 2, 3], [4, 5, 6]]
    path = cells_file(tmp_path, matrix=[[0.5, 1, 1], [1, 1, 1]], counts=[[1, 2, 3], [4, 5, 6]])
    assert query.read(path, SETTINGS, PANEL).source == "layers['counts']"


BAD = [
    ({"genes": ("x", "y", "z")}, {}, "found none of its 3 genes among the 4 of the run"),
    ({"matrix": [[1, -2, 0], [0, 1, 1]]}, {}, "found -2 in X for cell c1, gene A, expected raw counts"),
    ({"matrix": [[1, 0, 0], [0, 0.5, 1]]}, {}, "found 0.5 in X for cell c2, gene A"),
    ({"matrix": [[1, 0, 0], [0, np.nan, 1]]}, {}, "found a missing value in X for cell c2"),
    ({"matrix": np.zeros((2, 3))}, {}, "found nothing but zeros in X"),
    ({"names": ("c", "c")}, {}, "found the cell 'c' more than once in obs_names"),
    ({"genes": ("A", "A", "B")}, {}, "found the gene 'A' more than once"),
    ({}, {"counts": "umi"}, "found no counts in 'umi' (annotate.counts), expected one of: X"),
    ({}, {"symbols": "name"}, "found no var column 'name' (annotate.symbols), expected one of: symbol"),
    ({}, {"group": "kind"}, "found no obs column 'kind' (annotate.group), expected one of: type"),
    ({"matrix": np.zeros((0, 3)), "names": ()}, {}, "found no cell, expected one or more"),
]


@pytest.mark.filterwarnings("ignore:Observation names are not unique", "ignore:Variable names are not unique")
@pytest.mark.parametrize(("file", "change", "message"), BAD, ids=[message[:32] for *_, message in BAD])
def test_a_bad_file_is_one_sentence(tmp_path, file, change, message):
    path = cells_file(tmp_path, **file)
    with pytest.raises(InputError, match=re.escape(message)):
        query.read(path, {**SETTINGS, **change}, PANEL)


def test_a_file_that_is_no_anndata_is_one_sentence(tmp_path):
    (tmp_path / "text.h5ad").write_text("no")
    with pytest.raises(InputError, match=r"text\.h5ad: found a damaged file"):
        query.read(tmp_path / "text.h5ad", SETTINGS, PANEL)


# --- scale ----------------------------------------------------------------------------------------


def test_gene_scores_on_another_scale_do_not_depend_on_the_neighbours():
    generator = np.random.default_rng(1)
    run = log_normalise(sparse.csr_matrix(generator.poisson(2, (60, 5))))
    members = sparse.csr_matrix(generator.random((5, 3)) < 0.6)
    scaling = scores.gene_scaling(run)
    np.testing.assert_array_equal(scores.gene_scores(run, members, scaling), scores.gene_scores(run, members))
    alone = scores.gene_scores(run[:3], members, scaling)
    np.testing.assert_allclose(alone, scores.gene_scores(run, members)[:3], atol=1e-12)
    assert not np.allclose(scores.gene_scores(run[:3], members), alone), "their own scale is another one"


# --- the page -------------------------------------------------------------------------------------


def annotated_cells(n=12):
    generator = np.random.default_rng(2)
    facts = {
        "run": "results/x", "dictionary": "d", "layer": 1, "source": "features", "n_cells": n, "counts": "X",
        "n_cells_without_tokens": 1, "n_genes_of_file": 9, "n_genes_of_panel": 8, "n_genes_shared": 7,
        "n_genes_read": 6, "missing_genes": ["<b>G"], "median_genes": 5.0, "median_genes_of_run": 6.0,
        "group": "kind",
    }  # fmt: skip
    obs = pd.DataFrame(
        {
            "kind": ["<script>alert(1)</script>", 'b & "c"', None] * (n // 3),
            "has_tokens": [False] + [True] * (n - 1),
        },
        index=[f"c{i}" for i in range(n)],
    )
    var = pd.DataFrame(
        {"name": ["<img src=x>" + "long " * 60, "b"], "source": "s", "channel": "ch", "n_features": 1,
         "sd": 1.0, "n_genes": [4, 2], "n_genes_found": [1, 2]},
        index=["T:1", "T:2"],
    )  # fmt: skip
    return anndata.AnnData(
        X=generator.random((n, 2)).astype(np.float32), obs=obs, var=var,
        uns={"interptfm": json.dumps({"annotation": facts})},
    )  # fmt: skip


def test_the_page_is_well_formed_and_escaped():
    text = page.build(annotated_cells(), "<my> cells")
    ElementTree.fromstring(text.partition("\n")[2])
    for raw in ("<script", "<img src=x", "<b>G", "<my>"):
        assert raw not in text, raw
    assert "&lt;script&gt;alert(1)" in text and "(missing)" in text


def test_means_by_group_by_hand():
    cells = annotated_cells()
    means = page.group_means(cells, "kind")
    here = (cells.obs["kind"] == 'b & "c"').to_numpy()
    others = ~here & cells.obs["has_tokens"].to_numpy()
    row = means[(means["group"] == 'b & "c"') & (means["term_id"] == "T:2")].iloc[0]
    assert row["n_cells"] == here.sum()
    assert row["mean"] == pytest.approx(cells.X[here, 1].mean(), abs=1e-6)
    assert row["rest"] == pytest.approx(cells.X[others, 1].mean(), abs=1e-6)
    everyone = page.group_means(cells, None)
    assert everyone["rest"].isna().all() and (everyone["difference"] == everyone["mean"]).all()


def test_other_anndata_is_no_annotated_file():
    cells = annotated_cells()
    del cells.uns["interptfm"]
    with pytest.raises(InputError, match="found no record of the annotation"):
        page.build(cells, "x")


# --- a finished run -------------------------------------------------------------------------------


def configured(project, name, **annotate):
    """Write a configuration of the small run with the block ``annotate``; return its path."""
    tiny = settings_module.load_yaml(project / "tests/tiny.yaml")
    file = project / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**tiny, "annotate": annotate}))
    return str(file)


@pytest.fixture(scope="module")
def own(project):
    """The run's first section as a user's file, its genes in another order, annotated."""
    cells = store.read_h5ad(project / "results/tiny/cells/section_1.h5ad")
    shuffled = cells[:, np.random.default_rng(3).permutation(cells.n_vars)].copy()
    shuffled.write_h5ad(project / "own.h5ad")
    file = configured(project, "own", path="own.h5ad", group="cell_type")
    done = snakemake(project, "annotate", config=file)
    assert done.returncode == 0, done.stdout + done.stderr
    allowed = {"annotate", "annotate_features", "annotate_cells", "annotate_report"}
    assert set(planned(done.stdout + done.stderr)) <= allowed, "something of the run was made"
    return project / "results/tiny/annotate/own.h5ad"


def test_the_runs_own_cells_get_the_runs_own_activity(project, own):
    mine = store.read_h5ad(own)
    theirs = store.read_h5ad(project / "results/tiny/activity/section_1.h5ad")
    assert mine.obs_names.tolist() == theirs.obs_names.tolist()
    assert mine.var_names.tolist() == theirs.var_names.tolist() and mine.n_vars > 3
    np.testing.assert_allclose(mine.X, theirs.X, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mine.layers["genes"], theirs.layers["genes"], rtol=1e-5, atol=1e-6)
    pd.testing.assert_frame_equal(mine.var[list(theirs.var)], theirs.var)
    np.testing.assert_array_equal(mine.obsm["spatial"], theirs.obsm["spatial"])
    assert (mine.obs["has_tokens"] == theirs.obs["has_tokens"]).all()


def test_the_page_of_the_run_names_what_was_shared(own):
    text = own.with_suffix(".html").read_text()
    assert "312 of 312" in text and "batchtopk" in text and "<script" not in text


def test_few_cells_alone_keep_their_scores_and_missing_genes_are_named(project, own):
    """The scale is the run's: 25 cells of one type, without a tenth of the genes, are near what they were."""
    cells = store.read_h5ad(project / "results/tiny/cells/section_1.h5ad")
    theirs = store.read_h5ad(project / "results/tiny/activity/section_1.h5ad")
    kind = cells.obs["cell_type"].value_counts().index[0]
    chosen = np.flatnonzero(cells.obs["cell_type"] == kind)[:25]
    cells[chosen].copy().write_h5ad(project / "few.h5ad")
    fewer = cells[chosen, 31:].copy()
    fewer.write_h5ad(project / "fewer.h5ad")
    for name in ("few", "fewer"):
        done = snakemake(project, "annotate", config=configured(project, name, path=f"{name}.h5ad"))
        assert done.returncode == 0, done.stdout + done.stderr
    few, fewer = (
        store.read_h5ad(project / f"results/tiny/annotate/{name}.h5ad") for name in ("few", "fewer")
    )
    # Batches of other cells round otherwise before the mantissa is cut; no score is on another scale.
    assert np.abs(few.X - theirs.X[chosen]).max() < 0.2 and np.median(np.abs(few.X - theirs.X[chosen])) < 1e-3
    facts = json.loads(fewer.uns["interptfm"])["annotation"]
    assert facts["n_genes_shared"] == 281 and len(facts["missing_genes"]) == 31
    assert (fewer.var["n_genes_found"] <= fewer.var["n_genes"]).all()
    assert (fewer.var["n_genes_found"] < fewer.var["n_genes"]).any()


def test_an_annotation_is_no_part_of_all_and_rests_when_made(project, own):
    file = str(project / "own.yaml")
    found = plans(
        project, {"all": {"configs": [file]}, "annotate": {"configs": [file], "targets": ["annotate"]}}
    )
    assert not [rule for rule in found["all"] if rule.startswith("annotate")] and found["annotate"] == {}


def sentence(done):
    """Return the only sentence of a run that ended before any job."""
    text = done.stdout + done.stderr
    lines = [line for line in text.splitlines() if "interpTFM:" in line]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in text, text
    return lines[0]


@pytest.mark.parametrize("part", ["model/best_model.pt", "dictionaries", "activity/summary.json"])
def test_nothing_is_trained_where_the_run_is_unfinished(project, own, part):
    place = project / "results/tiny" / part
    place.rename(place.with_name("aside"))
    try:
        done = snakemake(project, "annotate", config=str(project / "own.yaml"))
    finally:
        place.with_name("aside").rename(place)
    assert "not found, expected a finished run in results/tiny" in sentence(done)
    assert "trains nothing" in sentence(done)


def test_mistakes_of_the_configuration_are_one_sentence(project):
    for annotate, message in (
        ({}, "key 'annotate.path': found nothing, expected the .h5ad file"),
        ({"path": "nowhere.h5ad"}, "key 'annotate.path': found no file nowhere.h5ad"),
        ({"path": "results/tiny/cells/section_1.h5ad"}, "a file of the run itself"),
    ):
        done = snakemake(project, "annotate", config=configured(project, "mistake", **annotate))
        assert message in sentence(done)


@pytest.fixture
def files(project, monkeypatch):
    """The files of the run by role, and a function that puts a copy of one in the place of another."""
    monkeypatch.chdir(project)
    main = settings_module.merge(
        settings_module.load_yaml("config/config.yaml"), {"annotate": {"path": "own.h5ad"}}
    )
    return annotate_settings.run_files(
        main,
        "results/tiny",
        [f"results/tiny/model/{name}" for name in ("args.json", "vocab.json", "best_model.pt")],
    )


def replaced(path, other):
    """Put ``other`` in the place of ``path``; return what undoes it."""
    shutil.copy2(path, f"{path}.aside")
    shutil.copyfile(other, path)
    return lambda: os.replace(f"{path}.aside", path)


def test_files_of_another_run_are_found(own, files):
    finished.check(files)
    arm = files["folder"] + "/arms/untrained"
    place = files["weights"].removeprefix(files["folder"])
    assert os.path.isfile(arm + place) or files["layer"] == 0
    for role, what in (("maximum", "features"), ("pairs", "activity")):
        undo = replaced(files[role], files["genes"])
        try:
            with pytest.raises(InputError, match=rf"found another file .* that the run's {what} was made"):
                finished.check(files)
        finally:
            undo()


def test_a_dictionary_of_another_model_is_refused(own, files):
    from interptfm import activations
    from interptfm.annotate import encoding

    model = activations.load_model("results/tiny/model")
    metadata = store.read_json(files["cfg"])["metadata"]
    encoding.check_origin(files["cfg"], metadata, model, "binned")
    other = store.read_json("results/tiny/arms/untrained/dictionaries/batchtopk/layer_1/cfg.json")["metadata"]
    with pytest.raises(InputError, match="found a dictionary of another model"):
        encoding.check_origin("cfg.json", other, model, "binned")
    with pytest.raises(InputError, match="found a dictionary of mode 'binned', expected 'log1p'"):
        encoding.check_origin(files["cfg"], metadata, model, "log1p")
