"""Target gene_text of the small run: every table, nothing of `all` made again."""

from __future__ import annotations

import numpy as np
import pytest
from planning import planned, snakemake

from interptfm import store
from interptfm.tis.units import gene_table

NAMES = {
    "tfidf_weighted",
    "tfidf_sentence",
    "tfidf_permuted",
    "pca",
    "cls_0",
    "cls_1",
    "features_0",
    "features_1",
}


@pytest.fixture(scope="module")
def results(project):
    done = snakemake(project, "gene_text")
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "results/tiny"


def test_the_target_is_complete_and_leaves_all_alone(project, results):
    for target in ("gene_text", "all"):
        done = snakemake(project, target, "--dry-run")
        assert planned(done.stdout + done.stderr) == {}, target


def test_every_representation_is_scored_on_the_same_cells(results):
    scores = store.read_table(results / "gene_text/scores.tsv")
    assert set(scores["representation"]) == NAMES
    everything = scores[scores["cells"] == "all"]
    assert everything["n"].nunique() == 1 and everything["value"].between(0, 1).all()
    assert set(everything["variant"]) == {"before", "after", "logistic"}
    told = everything[(everything["representation"] == "pca") & (everything["measure"] == "accuracy")]
    assert (told.set_index("variant")["value"] > 0.5).all()
    assert (told.dropna(subset="null_mean")["value"] > told.dropna(subset="null_mean")["null_hi"]).all()
    differences = store.read_table(results / "gene_text/differences.tsv")
    assert set(differences["representation"]) == NAMES - {"pca"} and set(differences["reference"]) == {"pca"}


def test_gene_vectors_serve_judge_and_alignment(results):
    vectors, genes = gene_table(results / "gene_text/tfidf/genes.parquet")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-4)
    summary = store.read_json(results / "gene_text/tfidf/summary.json")
    assert summary["n_genes"] == len(genes) < summary["n_panel"]
    assert store.read_json(results / "gene_text/tfidf/tis/cls/layer_1/summary.json")["variants"]
    alignment = store.read_table(results / "gene_text/alignment.tsv")
    assert {"SAE", "text-tfidf", "NMF of expression"} <= set(alignment["representation"])
    terms = store.read_table(results / "gene_text/tfidf/terms.parquet")
    assert len(terms) > 20 and terms["effect_text"].between(-1, 1).all()


def test_cells_are_those_of_the_run(results):
    adata = store.read_h5ad(results / "gene_text/tfidf/cells_sentence.h5ad")
    cells = [store.read_h5ad(results / f"cells/section_{i}.h5ad") for i in (1, 2)]
    assert list(adata.obs_names) == [name for each in cells for name in each.obs_names]
    places = store.read_table(results / "gene_text/maps/tfidf_weighted.parquet")
    assert set(places["variant"]) == {"before", "after"} and set(places["cell"]) <= set(adata.obs_names)
