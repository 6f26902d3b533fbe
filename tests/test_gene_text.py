"""Gene texts, their vectors, cells made of them, and the classification of cell types."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from interptfm import job, store
from interptfm.errors import InputError
from interptfm.gene_text import cells as gene_cells
from interptfm.gene_text import classification, comparison, contrastive, folds, providers, scores, texts
from interptfm.tis import judges
from interptfm.tis.units import Cells

SETTINGS = {
    "split": {"by": "block", "folds": 4},
    "rare": 0.25,
    "knn": {"k": 5},
    "components": 5,
    "contrastive": {
        "loss": "supcon", "temperature": 0.1, "hidden": 16, "dimensions": 8, "epochs": 12, "batch": 64,
        "learning_rate": 0.01, "weight_decay": 0.0, "balanced": True,
    },
    "curve": {"labels": [1, 8], "draws": 2},
    "nulls": {"shuffles": 20, "refits": 3},
    "umap": {"neighbours": 8, "min_distance": 0.3},
    "min_cells": 5,
    "max_cells": 10_000,
}  # fmt: skip


def world(n=360, n_genes=30, effect=1.2, seed=0, blocks=12):
    """Cells of four types (one rare) on a line; each type has genes of its own, 30 µm lie between blocks."""
    rng = np.random.default_rng(seed)
    share = [0.5, 0.25, 0.17, 0.08]
    kind = rng.choice(4, n, p=share)
    rate = np.full((n, n_genes), 0.6)
    for t in range(4):
        rate[kind == t, 5 * t : 5 * t + 5] *= np.exp(effect)
    block = np.arange(n) * blocks // n
    x = np.arange(n) * 10.0 + 30 * block
    obs = pd.DataFrame(
        {
            "sample": np.where(block < blocks // 2, "s1", "s2"),
            "cell_type": np.array(["a", "b", "c", "d"])[kind],
            "block": [f"b{i}" for i in block],
            "split": np.where(block % 4 == 3, "test", "train"),
            "n_counts": 1.0,
            "n_genes": 1,
        },
        index=[f"cell{i}" for i in range(n)],
    )
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return Cells(counts, [f"G{i}" for i in range(n_genes)], obs, np.column_stack([x, np.zeros(n)]))


def task_of(cells, settings=SETTINGS, seed=1):
    found = folds.folds_of(cells, "block", settings["split"]["folds"], {}, 0, seed)
    names, types = np.unique(cells.types, return_inverse=True)
    return classification.Task(types.astype(np.int64), names.tolist(), found, settings, seed)


# Texts.


def test_texts_name_the_most_specific_terms_first():
    terms = pd.DataFrame({"name": ["wide", "narrow", "middle"], "ic": [1.0, 5.0, 3.0]})
    membership = sparse.csr_matrix(np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], bool))
    found = texts.from_terms(["A", "B", "C"], membership, terms, 2)
    assert found == {"A": "A: narrow; middle.", "B": "B: wide."}


def test_texts_are_written_and_read_again(tmp_path):
    texts.write_texts(tmp_path / "t.tsv", {"A": "one\ttwo\nthree", "HLA-A": 'says "so"'})
    assert texts.read_texts(tmp_path / "t.tsv") == {"A": "one two three", "HLA-A": 'says "so"'}


@pytest.mark.parametrize(
    "content, message",
    [
        ("gene\ttext\nA\tx\n", r"found the columns \['gene', 'text'\], expected symbol and text"),
        ("symbol\ttext\nA\t\n", "row 2: found no text, expected one"),
        ("symbol\ttext\n\tx\n", "row 2: found no symbol, expected one"),
        ("symbol\ttext\nA\tx\nA\ty\n", "row 3: found the symbol 'A' a second time"),
        ("symbol\ttext\n", "found no rows, expected one a gene"),
    ],
)
def test_a_bad_table_of_texts_gets_one_sentence(tmp_path, content, message):
    (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(InputError, match=message):
        texts.read_texts(tmp_path / "t.tsv")


def test_texts_of_other_symbols_are_refused():
    with pytest.raises(InputError, match="found a text for 0 of the panel's 3 genes"):
        texts.of_panel({"ENSG1": "x"}, ["A", "B", "C"], "t.tsv")
    assert list(texts.of_panel({"C": "z", "A": "x", "B": "y", "Q": "q"}, ["A", "B", "C", "D"], "t")) == [
        *"ABC"
    ]


NCBI_GENES = (
    "#tax_id\tGeneID\tSymbol\tdescription\n9606\t1\tTNF\ttumor necrosis factor\n"
    "9606\t2\tXYZ\t-\n9606\t3\tNEW\t-\n10090\t4\tTnf\ttumor necrosis factor\n9606\t5\tTNF\tanother\n"
)
NCBI_SUMMARIES = "#tax_id\tGeneID\tSource\tSummary\n9606\t1\tRefSeq\tA cytokine.\n9606\t2\tRefSeq\tUnnamed\n"


def test_full_names_and_summaries_of_ncbi_are_joined_by_gene_id(tmp_path):
    (tmp_path / "genes.gz").write_bytes(gzip.compress(NCBI_GENES.encode()))
    (tmp_path / "summaries").write_text(NCBI_SUMMARIES)
    found = texts.from_ncbi(tmp_path / "summaries", tmp_path / "genes.gz", 9606)
    assert found == {"TNF": "TNF: tumor necrosis factor. A cytokine.", "XYZ": "XYZ: Unnamed."}
    with pytest.raises(InputError, match="found no gene of taxon 7227"):
        texts.from_ncbi(tmp_path / "summaries", tmp_path / "genes.gz", 7227)
    (tmp_path / "cut").write_bytes(gzip.compress(NCBI_GENES.encode())[:-9])
    with pytest.raises(InputError, match="cut: found a damaged file"):
        texts.from_ncbi(tmp_path / "summaries", tmp_path / "cut", 9606)
    with pytest.raises(InputError, match="expected tax_id, geneid, summary"):
        texts.from_ncbi(tmp_path / "genes.gz", tmp_path / "genes.gz", 9606)


# Providers.

TEXTS = {
    "CD3D": "CD3D: T cell receptor signalling; lymphocyte process.",
    "CD3E": "CD3E: T cell receptor signalling; lymphocyte process.",
    "CD19": "CD19: B cell receptor signalling; lymphocyte process.",
    "COL1A1": "COL1A1: matrix building; collagen fibres.",
    "COL3A1": "COL3A1: matrix building; collagen fibres.",
    "HLA-A": "HLA-A: antigen presentation.",
}


def test_similar_texts_get_similar_vectors():
    setting = {"name": "tfidf", "kind": "tfidf", "dimensions": 4, "words": 2}
    genes, vectors, record = providers.gene_vectors(setting, TEXTS, [], 3)
    assert genes == list(TEXTS) and vectors.shape == (6, 4) and record["words"] > 10
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosine = pd.DataFrame(vectors @ vectors.T, genes, genes)
    assert cosine.loc["CD3D", "CD3E"] > 0.9 > 0.5 > cosine.loc["CD3D", "COL1A1"]
    assert cosine.loc["CD3D", "CD19"] > cosine.loc["CD3D", "COL1A1"]
    again = providers.gene_vectors(setting, TEXTS, [], 3)[1]
    np.testing.assert_array_equal(vectors, again)


def test_a_sentence_lies_near_the_genes_it_names():
    provider = providers.Tfidf(5, 1, 0)
    provider.fit(list(TEXTS.values()))
    found = provider.embed(["COL3A1 COL1A1", "CD3E CD3D", "nothing known here"])
    genes = provider.embed(list(TEXTS.values()))
    assert (found[0] @ genes.T).argmax() in (3, 4) and (found[1] @ genes.T).argmax() in (0, 1)
    assert not found[2].any()


def test_a_table_of_vectors_serves_the_panel(tmp_path):
    pd.DataFrame({"gene": ["A", "B", "C", "B"], "x": [1, 2, 3, 4.0]}).to_csv(
        tmp_path / "t.tsv", sep="\t", index=False
    )
    setting = {"name": "given", "kind": "table", "path": str(tmp_path / "t.tsv")}
    genes, vectors, _ = providers.gene_vectors(setting, None, ["C", "B", "Q", "A"], 0)
    assert genes == ["C", "B", "A"] and vectors.ravel().tolist() == [3, 2, 1]
    with pytest.raises(InputError, match="found 1 of the panel's 2 genes"):
        providers.gene_vectors(setting, None, ["A", "Q"], 0)


@pytest.mark.parametrize("values", [np.zeros((2, 3)), np.full((3, 2), np.nan), np.zeros((3, 0))])
def test_vectors_that_do_not_fit_are_refused(values):
    with pytest.raises(InputError, match="provider 'p': found vectors of shape"):
        providers.checked(values, 3, "p")


# Cells.


def test_only_the_most_expressed_genes_count():
    logged = sparse.csr_matrix(np.array([[0, 3, 1, 2.0], [5, 0, 0, 0], [0, 0, 0, 0], [2, 2, 2, 1]]))
    top = gene_cells.top_genes(logged, 2)
    expected = [[0, 3, 0, 2], [5, 0, 0, 0], [0, 0, 0, 0], [2, 2, 0, 0]]
    np.testing.assert_array_equal(top.toarray(), expected)
    assert top.indices[:2].tolist() == [1, 3]  # in falling order


def test_a_weighted_cell_is_the_mean_of_its_genes():
    cells, rng = world(n=50), np.random.default_rng(0)
    genes = [*cells.genes[3:], "elsewhere"]
    vectors = rng.standard_normal((len(genes), 4))
    found = gene_cells.weighted(cells.counts, cells.genes, genes, vectors, 6)
    logged = judges.log_normalise(cells.counts[:, 3:]).toarray()
    for row in range(50):
        best = np.argsort(-logged[row], kind="stable")[:6]
        weight = logged[row][best]
        np.testing.assert_allclose(found[row], weight @ vectors[best] / weight.sum(), rtol=2e-4, atol=1e-6)
    with pytest.raises(InputError, match="found vectors for none of the 30 genes"):
        gene_cells.weighted(cells.counts, cells.genes, ["X"], vectors[:1], 6)


def test_a_sentence_names_the_most_expressed_genes_in_order():
    counts = sparse.csr_matrix(np.array([[1, 9, 0, 4.0], [0, 0, 0, 0], [2, 2, 0, 0]]))
    assert gene_cells.sentences(counts, list("ABCD"), 2) == ["B D", "", "A B"]


def test_cells_without_counts_have_no_sentence_and_no_vector():
    class Length:
        def embed(self, given):
            assert len(given) == len(set(given))
            return np.array([[len(text)] for text in given], np.float32)

    counts = sparse.csr_matrix(np.array([[1, 9.0], [0, 0], [1, 9]]))
    found = gene_cells.embedded_sentences(Length(), counts, ["A", "B"], 2, "length")
    assert found.ravel().tolist() == [3, 0, 3]


def test_permuted_vectors_are_the_same_ones_elsewhere():
    vectors = np.arange(20.0).reshape(10, 2)
    found = gene_cells.permuted(vectors, np.random.default_rng(0))
    assert (found != vectors).any()
    np.testing.assert_array_equal(np.sort(found, axis=0), vectors)


# Folds.


@pytest.mark.parametrize("by, n_units", [("block", 12), ("section", 2), ("donor", 2)])
def test_whole_units_are_held_out_once(by, n_units):
    cells = world()
    donors = {"s1": "d1", "s2": "d2"}
    found = folds.folds_of(cells, by, 5, donors, 0, 3)
    groups = folds.groups_of(cells, by, donors)
    assert len(found) == min(5, n_units)
    assert sorted(np.concatenate([fold.held_out for fold in found])) == list(range(len(cells.obs)))
    for fold in found:
        assert not set(groups[fold.train]) & set(groups[fold.held_out])
        assert len(fold.train) + len(fold.held_out) == len(cells.obs)


def test_neighbours_of_teaching_cells_are_not_scored():
    cells = world()
    without = folds.folds_of(cells, "block", 4, {}, 0, 3)
    guarded = folds.folds_of(cells, "block", 4, {}, 40, 3)  # 40 µm lie between the blocks of a section
    for fold, other in zip(without, guarded, strict=True):
        np.testing.assert_array_equal(fold.train, other.train)
        x, section = cells.spatial[:, 0], cells.section
        for cell in fold.held_out:
            mine = fold.train[section[fold.train] == section[cell]]
            assert (cell in other.held_out) == (np.abs(x[mine] - x[cell]).min() > 40)
    assert sum(len(f.held_out) for f in guarded) < sum(len(f.held_out) for f in without)


def test_one_section_cannot_be_held_out():
    cells = world()
    one = cells.take(np.flatnonzero(cells.section == "s1"))
    with pytest.raises(InputError, match="found 1 section, expected at least 2 to hold one out; use block"):
        folds.folds_of(one, "section", 5, {}, 0, 0)


def test_few_labels_are_drawn_from_each_type():
    types = np.array([0] * 20 + [1] * 3)
    found = folds.labelled(np.arange(23), types, 5, np.random.default_rng(0))
    assert np.bincount(types[found]).tolist() == [5, 3] and len(set(found)) == 8


# Refinement.


def naive_loss(z, labels, temperature, kind):
    total, anchors = 0.0, 0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        own = [a for a in others if labels[a] == labels[i]]
        if not own:
            continue
        anchors += 1
        e = {a: np.exp(z[i] @ z[a] / temperature) for a in others}
        everything = sum(e.values())
        if kind == "supcon":
            total -= np.mean([np.log(e[p] / everything) for p in own])
        else:
            total -= np.log(sum(e[p] for p in own) / everything)
    return total / anchors


@pytest.mark.parametrize("kind", contrastive.LOSSES)
def test_the_loss_is_the_published_formula(kind):
    import torch

    rng = np.random.default_rng(2)
    z = rng.standard_normal((9, 4))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    labels = np.array([0, 0, 1, 1, 1, 2, 0, 1, 2])
    found = contrastive.loss_of(torch.from_numpy(z), torch.from_numpy(labels), 0.3, kind)
    assert float(found) == pytest.approx(naive_loss(z, labels, 0.3, kind))
    labels[5] = 3  # alone of its label: no anchor
    found = contrastive.loss_of(torch.from_numpy(z), torch.from_numpy(labels), 0.3, kind)
    assert float(found) == pytest.approx(naive_loss(z, labels, 0.3, kind))


def test_an_unknown_loss_is_refused():
    import torch

    with pytest.raises(InputError, match="found 'triplet', expected one of supcon"):
        contrastive.loss_of(torch.eye(3), torch.tensor([0, 0, 1]), 1, "triplet")


@pytest.mark.parametrize("hidden", [0, 16])
def test_a_head_draws_cells_of_a_type_together(hidden):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 60)
    x = rng.standard_normal((180, 20)).astype(np.float32)
    x[:, :3] += 3 * np.eye(3, dtype=np.float32)[labels]
    settings = {**SETTINGS["contrastive"], "hidden": hidden, "epochs": 60}
    head = contrastive.fit(x[::2], labels[::2], settings, 5)
    again = contrastive.fit(x[::2], labels[::2], settings, 5)
    np.testing.assert_array_equal(head.project(x), again.project(x))

    def gap(z):
        z = judges.unit_length(np.array(z[1::2]))
        same = labels[1::2][:, None] == labels[1::2][None, :]
        return (z @ z.T)[same].mean() - (z @ z.T)[~same].mean()

    np.testing.assert_allclose(np.linalg.norm(head.project(x), axis=1), 1, rtol=1e-5)
    assert gap(head.project(x)) > gap(x) + 0.2


def test_balanced_batches_have_rare_types():
    labels = np.array([0] * 990 + [1] * 10)
    rng = np.random.default_rng(0)
    found = contrastive.batches(labels, 100, True, rng)
    assert len(found) == 10 and all(0.25 < labels[batch].mean() < 0.75 for batch in found)
    plain = contrastive.batches(labels, 100, False, rng)
    assert sorted(np.concatenate(plain)) == list(range(1000))


# Classification.


def test_neighbours_are_the_most_similar_teaching_cells():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5)).astype(np.float32)
    train, held_out = np.arange(0, 60, 2), np.arange(1, 60, 2)
    found = classification.neighbours(x, train, held_out, 4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = train[np.argsort(-(unit[held_out] @ unit[train].T), axis=1)[:, :4]]
    np.testing.assert_array_equal(found, expected)
    assert classification.neighbours(x, train[:3], held_out, 4).shape == (30, 3)


def test_the_nearest_decides_a_tie():
    labels = np.array([[2, 1, 1, 2], [0, 1, 1, 2], [1, 0, 2, 2]])
    assert classification.vote(labels, 3).tolist() == [2, 1, 2]


@pytest.fixture(scope="module")
def told():
    cells = world()
    task = task_of(cells)
    spaces = classification.prepared(classification.Components(cells.counts, 5), task)
    return cells, task, spaces, classification.classify(spaces, task, cells)


def test_types_are_told_by_expression(told):
    cells, task, _, predictions = told
    assert len(predictions) == len(cells.obs) and task.rare == [3]
    for variant in ("before", "after", "logistic"):
        assert (predictions[variant] == predictions["cell_type"]).mean() > 0.85, variant


def test_what_held_out_cells_are_called_does_not_reach_the_fit(told):
    """The types of one fold's held-out cells are all changed; that fold calls the same."""
    cells, task, spaces, predictions = told
    fold = task.folds[0]
    types = task.types.copy()
    types[fold.held_out] = (types[fold.held_out] + 1) % 4
    one = classification.Task(types, task.names, [fold], SETTINGS, task.seed)
    found = classification.classify(spaces[:1], one, cells).set_index("cell")
    before = predictions.set_index("cell").loc[found.index]
    for variant in ("before", "after", "logistic"):
        assert (found[variant] == before[variant]).all(), variant


def test_shuffled_labels_give_chance(told):
    """Before and after refinement; chance is what guessing by the types' shares, or the largest, scores."""
    _, task, spaces, _ = told
    drawn = classification.null(spaces, task)
    found = drawn.groupby(["variant", "measure"])["value"].agg(["mean", "size"])
    share = np.bincount(task.types) / len(task.types)
    assert found.loc[("before", "accuracy"), "size"] == 20 and found.loc[("after", "accuracy"), "size"] == 3
    for variant in ("before", "after"):
        assert (share**2).sum() - 0.1 < found.loc[(variant, "accuracy"), "mean"] < share.max() + 0.02
        assert found.loc[(variant, "macro_f1"), "mean"] < 0.3
        assert found.loc[(variant, "rare_recall"), "mean"] < 0.2


def test_types_without_a_sign_are_told_by_chance_alone():
    cells = world(effect=0.0, seed=4)
    task = task_of(cells)
    spaces = classification.prepared(classification.Components(cells.counts, 5), task)
    found = classification.classify(spaces, task, cells)
    for variant in ("before", "after", "logistic"):
        assert (found[variant] == found["cell_type"]).mean() < 0.6, variant


def test_more_labels_help(told):
    _, task, spaces, _ = told
    curve = classification.learning_curve(spaces, task)
    mean = curve.groupby(["variant", "labels", "measure"])["value"].mean()
    assert len(curve) == 2 * 2 * 2 * 3
    for variant in ("before", "after"):
        assert mean[variant, 8, "macro_f1"] > mean[variant, 1, "macro_f1"]


def test_components_are_those_of_the_teaching_cells():
    """Cells that are held out have no part in mean, deviation and directions."""
    cells = world()
    train = np.arange(180)
    found = classification.Components(cells.counts, 5)
    before = found.prepared(train)
    found.logged[180:] *= 3
    after = found.prepared(train)
    np.testing.assert_allclose(np.abs(after[:180]), np.abs(before[:180]), rtol=1e-3, atol=1e-4)
    assert np.abs(after[180:] - before[180:]).max() > 0.1


def test_rare_cell_types_without_enough_cells_are_left_out():
    cells = world()
    kept, left_out = classification.frequent(cells, int((cells.types == "d").sum()) + 1)
    assert left_out == ["d"] and set(cells.types[kept]) == {"a", "b", "c"}
    with pytest.raises(InputError, match=r"found 0 cell types of at least 1000 cells"):
        classification.frequent(cells, 1000)


# Scores.


def test_scores_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    rng = np.random.default_rng(0)
    true, called = rng.integers(0, 5, 300), rng.integers(0, 6, 300)
    called[:150] = true[:150]
    found = scores.measures_of(scores.confusion(true, called, 6), [1, 3])
    assert found[0] == pytest.approx(accuracy_score(true, called))
    f1 = f1_score(true, called, labels=range(5), average="macro")
    assert found[1] == pytest.approx(f1)
    assert found[2] == pytest.approx(recall_score(true, called, labels=[1, 3], average="macro"))


def test_intervals_resample_blocks_and_differences_are_paired(told):
    cells, task, _, predictions = told
    rng = np.random.default_rng(99)
    worse = predictions.copy()
    wrong = rng.random(len(worse)) < 0.3
    for variant in ("before", "after", "logistic"):
        worse.loc[wrong, variant] = "a"
    null = pd.DataFrame({"variant": "before", "draw": range(9), "measure": "accuracy", "value": 0.4})
    curve = pd.DataFrame({"labels": [1, 1], "draw": [0, 1], "variant": "before", "measure": "accuracy",
                          "value": [0.2, 0.4]})  # fmt: skip
    tables = comparison.compare(
        {"pca": predictions, "worse": worse}, {"pca": curve, "worse": curve}, {"pca": null, "worse": null},
        task.names, ["d"], "pca", 200, 7,
    )  # fmt: skip
    rows = tables["scores"].set_index(["representation", "variant", "cells", "measure"])
    value = rows.loc[("pca", "before", "all", "accuracy")]
    assert value["value"] == pytest.approx((predictions["before"] == predictions["cell_type"]).mean())
    assert value["lo"] < value["value"] < value["hi"] and value["n_blocks"] == 12 and value["p"] == 0.1
    assert rows.loc[("pca", "before", "test", "accuracy"), "n"] == (cells.split == "test").sum()
    gap = tables["differences"].set_index(["representation", "variant", "cells", "measure"])
    gap = gap.loc[("worse", "before", "all", "accuracy")]
    assert gap["difference"] < 0 and gap["hi"] < 0
    assert gap["hi"] - gap["lo"] < 2 * (value["hi"] - value["lo"]) + 0.2
    mean = tables["curve"].iloc[0]
    assert (mean["value"], mean["least"], mean["largest"], mean["draws"]) == (pytest.approx(0.3), 0.2, 0.4, 2)
    assert tables["types"]["n"].sum() == 2 * len(predictions)


def test_cells_are_written_for_any_reader(tmp_path):
    cells = world(n=40)
    gene_cells.write_cells(tmp_path / "c.h5ad", cells.obs, np.ones((40, 3), np.float32), {"seed": 1})
    adata = store.read_h5ad(tmp_path / "c.h5ad")
    assert adata.obsm["gene_text"].shape == (40, 3) and list(adata.obs) == ["sample", "cell_type"]


def test_one_seed_gives_one_null():
    cells = world(n=200)
    task = task_of(cells)
    spaces = classification.prepared(classification.Fixed(cells.counts), task)
    first, second = classification.null(spaces, task), classification.null(spaces, task)
    pd.testing.assert_frame_equal(first, second)
    assert job.seed(1, "gene_text") != job.seed(2, "gene_text")


# Terms.


def planted_terms():
    """A term a type, of the type's own genes, and one of genes of no type."""
    membership = np.zeros((30, 5), bool)
    for t in range(5):
        membership[5 * t : 5 * t + 5, t] = True
    terms = pd.DataFrame({"term_id": list("TUVWX"), "name": list("tuvwx"), "ic": [1.0, 2, 3, 4, 5]})
    return sparse.csr_matrix(membership), terms


def test_terms_mark_the_types_whose_genes_they_are_made_of():
    from interptfm.gene_text import terms as gene_terms

    cells, (membership, terms) = world(), planted_terms()
    rng = np.random.default_rng(0)
    known = np.ones(30, bool)
    chosen = gene_terms.chosen_terms(membership, terms, known, 5, 10)
    assert chosen.tolist() == [4, 3, 2, 1, 0]
    vectors = rng.standard_normal((30, 40)).astype(np.float32)
    found = gene_terms.mark_types(cells, cells.genes, vectors, 30, membership, terms, chosen, rng)
    assert len(found) == 5 * 4
    own = found[found["term_id"].map(dict(zip("TUVW", "abcd", strict=True))) == found["cell_type"]]
    assert len(own) == 4 and (own["n_genes"] == 5).all()
    for route in gene_terms.ROUTES:
        assert (own[f"effect_{route}"] > 0.3).all(), route
        assert (own[f"q_{route}"] < 0.05).all(), route
    of_none = found[found["term_id"] == "X"]
    assert (of_none["q_expression"] > 0.01).all()


def test_terms_with_too_few_known_genes_are_not_tested():
    from interptfm.gene_text import terms as gene_terms

    membership, terms = planted_terms()
    known = np.ones(30, bool)
    known[:2] = False
    assert gene_terms.chosen_terms(membership, terms, known, 5, 2).tolist() == [4, 3]
    assert 0 not in gene_terms.chosen_terms(membership, terms, known, 5, 9)
    with pytest.raises(InputError, match="found no term with 6 genes that have a vector"):
        gene_terms.chosen_terms(membership, terms, known, 6, 9)


def test_similarity_is_a_cosine_of_what_is_centred():
    from interptfm.gene_text import terms as gene_terms

    rng = np.random.default_rng(1)
    cells, vectors = rng.standard_normal((6, 3)), rng.standard_normal((4, 3))
    members = sparse.csr_matrix(np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool))
    found = gene_terms.similarity(cells, vectors, members)
    term = vectors[:2].mean(axis=0) - vectors.mean(axis=0)
    cell = cells[4] - cells.mean(axis=0)
    expected = cell @ term / np.linalg.norm(cell) / np.linalg.norm(term)
    assert found[4, 0] == pytest.approx(expected, rel=1e-4)


# The representation of tokens.


def test_gene_vectors_become_a_representation_of_tokens():
    from interptfm.features import baselines

    found = baselines.text_scores(np.array([[1.0, 0], [3, 4]]), ["A", "C"], ["A", "B", "C"])
    np.testing.assert_array_equal(found[:, :2], [[0, 0], [0, 0], [1, 2]])
    np.testing.assert_array_equal(found[:, 2:], [[1, 2], [0, 0], [0, 0]])


# The report.

EVIL = '<b>T & "x" cell</b>'


@pytest.fixture(scope="module")
def shown(told):
    from types import SimpleNamespace

    from interptfm.report.gene_text import GeneText

    _, task, spaces, predictions = told
    names = ["tfidf_weighted", "tfidf_permuted", "pca"]
    predictions = predictions.replace("b", EVIL)
    types = [EVIL if name == "b" else name for name in task.names]
    curve, null = (
        classification.learning_curve(spaces, task),
        classification.null(spaces, task),
    )
    tables = comparison.compare(
        dict.fromkeys(names, predictions), dict.fromkeys(names, curve), dict.fromkeys(names, null),
        types, ["d"], "pca", 30, 1,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    places = pd.DataFrame({"cell_type": [EVIL, "a"] * 10, "variant": ["before"] * 10 + ["after"] * 10,
                           "x": rng.random(20), "y": rng.random(20)})  # fmt: skip
    terms = pd.DataFrame({"term_id": ["T"], "name": [EVIL], "n_genes": [5], "cell_type": ["a"]})
    routes = {
        f"{key}_{route}": 0.01 for key in ("effect", "q") for route in ("text", "permuted", "expression")
    }
    tis = {"units": "cls", "variants": [{"variant": "units", "n": 1, "mean": 0.9, "mean_matched": 0.8,
                                         "n_significant": 1, "best_tis": 0.9}]}  # fmt: skip
    aligned = pd.DataFrame({"representation": ["text-tfidf"], "layer": [1], "evaluation": ["gene_held_out"],
                            "measure": ["auroc"], "mean": [0.9], "lo": [0.8], "hi": [1.0],
                            "null_mean": [0.5], "excess": [0.4], "p": [0.01]})  # fmt: skip
    found = GeneText(
        **tables, summary={"folds": 4, "rare": ["d"], "reference": "pca"}, maps={"tfidf_weighted": places},
        providers={"tfidf": {"kind": "tfidf", "n_genes": 20, "n_panel": 30, "dimensions": 8}},
        terms={"tfidf": terms.assign(**routes)}, tis={"tfidf": tis}, alignment=aligned,
        settings={"texts": "ontology", "max_q": 0.05, "split": {"by": "block", "folds": 4}},
    )  # fmt: skip
    return SimpleNamespace(gene_text=found)


def test_the_section_makes_a_page(shown):
    from xml.etree import ElementTree

    from interptfm.report import render
    from interptfm.report.sections.gene_text import gene_text

    section = gene_text(shown)
    page = render("run", "words", [section])
    ElementTree.fromstring(page.split("\n", 1)[1] if page.startswith("<!") else page)
    assert EVIL not in page and "&lt;b&gt;T &amp;" in page
    assert len(section.figures) == 3 and len(section.tables) == 8
    assert any("components of expression have" in sentence for sentence in section.prose)
    assert any("by construction" in sentence for sentence in section.prose)


def test_a_run_without_gene_texts_has_no_section():
    from types import SimpleNamespace

    from interptfm.report.sections.gene_text import gene_text

    assert gene_text(SimpleNamespace(gene_text=None)) is None
