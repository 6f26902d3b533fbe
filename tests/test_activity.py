"""Concept activity: sums by hand, roll-up on five terms, channels by root and by name, and bad input."""

from __future__ import annotations

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse
from test_tis import world

from interptfm import ontology, report, spaces, store
from interptfm.activity import analysis, channels, files, pairs, rollup, scores
from interptfm.errors import InputError
from interptfm.features.cells import Cells, write_cells
from interptfm.report.sections.activity import activity
from interptfm.tis import units
from interptfm.tis.judges import log_normalise

SETTINGS = {
    "source": "features", "aggregate": "mean", "pairs": "listed", "max_q": 0.05, "min_lift": 0,
    "min_f1_validation": None, "rollup": {"alpha": 0.5, "hops": 2}, "bootstrap": 20,
}  # fmt: skip
NO_DAG = pd.DataFrame({"child": [], "parent": [], "relation": []}, dtype=str)


def pair_table(*rows):
    return pd.DataFrame(rows, columns=["term_id", "feature", "lift", "q", "f1_validation"])


PAIRS = pair_table(
    ("T:1", 0, 0.5, 0.01, 0.6),
    ("T:1", 2, 0.25, 0.01, 0.4),
    ("T:1", 3, -0.1, 0.01, 0.3),
    ("T:2", 1, 0.2, 0.04, 0.5),
    ("T:2", 2, 0.1, 0.30, 0.2),
    ("T:3", 1, 0.3, 0.20, 0.5),
    (None, 4, np.nan, np.nan, np.nan),
)
BEST = pd.DataFrame({"feature": [0, 1], "term_id": ["T:1", "T:2"]})


# --- which pairs count ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, [("T:1", 0), ("T:1", 2), ("T:2", 1)]),
        ({"pairs": "best"}, [("T:1", 0), ("T:2", 1)]),
        ({"max_q": 1}, [("T:1", 0), ("T:1", 2), ("T:2", 1), ("T:2", 2), ("T:3", 1)]),
        ({"min_lift": 0.2}, [("T:1", 0), ("T:1", 2)]),
        ({"min_f1_validation": 0.5}, [("T:1", 0), ("T:2", 1)]),
        ({"max_q": 0.005}, []),
    ],
)
def test_pairs_that_count(change, expected):
    found = pairs.choose(BEST, PAIRS, {**SETTINGS, **change})
    assert list(zip(found["term_id"], found["feature"], strict=True)) == expected
    assert (found["lift"] > 0).all()


def test_every_term_without_a_pair_has_a_reason():
    chosen = pairs.choose(BEST, PAIRS, SETTINGS)
    table = pd.concat([PAIRS, pair_table(("T:4", 1, -0.2, 0.01, 0.2))])
    assert pairs.rejection(["T:1", "T:3", "T:4", "T:5"], table, chosen, SETTINGS) == [
        "", "no pair with q < 0.05", "no pair with a lift above 0", "no feature fires on its tokens",
    ]  # fmt: skip


def test_bad_settings_and_foreign_tables_are_one_sentence():
    for change, message in (
        ({"pairs": "all"}, "activity.pairs: found 'all'"),
        ({"min_lift": -1}, "activity.min_lift: found -1"),
    ):
        with pytest.raises(InputError, match=message):
            pairs.choose(BEST, PAIRS, {**SETTINGS, **change})
    chosen = pairs.choose(BEST, PAIRS, SETTINGS)
    with pytest.raises(InputError, match="found the term 'T:2', expected one of"):
        pairs.weights(chosen, ["T:1"], 5)
    with pytest.raises(InputError, match="found feature 2, expected one below 2"):
        pairs.weights(chosen, ["T:1", "T:2"], 2)


# --- scores ---------------------------------------------------------------------------------------


def test_four_cells_by_hand():
    codes = sparse.csr_matrix(np.array([[1.0, 0, 2, 9], [0, 1, 0, 9], [0, 0, 4, 0], [0, 0, 0, 0]]))
    weights = pairs.weights(pairs.choose(BEST, PAIRS, SETTINGS), ["T:1", "T:2"], 4)
    found = scores.feature_scores(codes, weights)
    # T:1 = 0.5 · f0 + 0.25 · f2, T:2 = 0.2 · f1; feature 3 counts for nothing.
    np.testing.assert_allclose(found, [[1.0, 0], [0, 0.2], [1.0, 0], [0, 0]])
    scaled, deviation = scores.unit_deviation(found, np.array([True, True, True, False]))
    np.testing.assert_allclose(deviation, [np.std([1, 0, 1]), np.std([0, 0.2, 0])])
    np.testing.assert_allclose(scaled, found / deviation)
    assert (scaled[3] == 0).all(), "a cell without tokens keeps 0"


def test_a_concept_that_does_not_vary_stays_as_it_is():
    scaled, deviation = scores.unit_deviation(np.full((3, 1), 2.0), np.ones(3, bool))
    assert deviation.tolist() == [0] and scaled.ravel().tolist() == [2, 2, 2]
    assert scores.unit_deviation(np.ones((2, 1)), np.zeros(2, bool))[1].tolist() == [0]


def test_gene_scores_are_mean_z_scores():
    cells, _ = world(n=80, genes=40)
    counts = cells.counts.tolil()
    counts[:, 7] = 0
    logged = log_normalise(counts.tocsr())
    members = np.zeros((40, 3), bool)
    members[[0, 3, 7], 0] = members[[7], 1] = members[[5], 2] = True
    found = scores.gene_scores(logged, sparse.csr_matrix(members))
    dense = logged.toarray().astype(float)
    z = (dense - dense.mean(0)) / np.where(dense.std(0) > 0, dense.std(0), 1)
    np.testing.assert_allclose(found[:, 0], z[:, [0, 3]].mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(found[:, 2], z[:, 5], atol=1e-9)
    assert np.isnan(found[:, 1]).all(), "no gene of the concept varies"


# --- roll-up --------------------------------------------------------------------------------------

# A diamond with a tail: E is_a C, D part_of B, D is_a C, B and C is_a A; regulates carries nothing.
DAG = pd.DataFrame(
    [("B", "A", "is_a"), ("C", "A", "is_a"), ("D", "B", "part_of"), ("D", "C", "is_a"), ("E", "D", "is_a"),
     ("E", "B", "regulates")],
    columns=["child", "parent", "relation"],
)  # fmt: skip


def five(ids="ABCDE", propagated=False):
    terms = pd.DataFrame({"term_id": list(ids), "name": list(ids), "source": "X", "ic": 1.0})
    terms["members"] = [[term] for term in ids]
    terms["propagated"] = propagated
    return terms


def test_roll_up_of_five_terms_by_hand():
    steps = rollup.descendants(five(), DAG, 2)
    assert steps == {
        (0, 1): 1, (0, 2): 1, (0, 3): 2, (1, 3): 1, (2, 3): 1, (1, 4): 2, (2, 4): 2, (3, 4): 1,
    }  # fmt: skip
    touched = rollup.unpropagated(steps, [False] * 5, sparse.eye(5, dtype=bool, format="csr"))
    assert touched.tolist() == [True, True, True, True, False]
    raw = np.array([[0.0, 1, 0, 4, 16], [1, 0, 0, 0, 0]])
    found = rollup.roll_up(raw, steps, touched, 0.5)
    # A: ½·B + ½·C + ¼·D (D over two ways, once; E is three steps away); B: ½·D + ¼·E; D: ½·E; E: nothing.
    np.testing.assert_allclose(found, [[0.5 + 1, 1 + 2 + 4, 2 + 4, 4 + 8, 16], [1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(rollup.roll_up(raw, steps, np.zeros(5, bool), 0.5), raw)


def test_roll_up_passes_through_terms_that_are_not_kept():
    steps = rollup.descendants(five("AE"), DAG, 3)
    assert steps == {(0, 1): 3} and rollup.descendants(five("AE"), DAG, 2) == {}
    assert rollup.descendants(five("AE"), NO_DAG, 3) == {}


def test_a_class_of_terms_is_reached_by_any_of_its_members():
    terms = five("AD")
    terms["members"] = [["A"], ["D", "B"]]
    assert rollup.descendants(terms, DAG, 2) == {(0, 1): 1}


def test_propagated_terms_are_left_alone():
    steps = rollup.descendants(five(), DAG, 2)
    eye = sparse.eye(5, dtype=bool, format="csr")
    assert not rollup.unpropagated(steps, [True] * 5, eye).any()
    assert rollup.unpropagated(steps, [False, True, True, True, False], eye).tolist() == [True] + [False] * 4
    # With the genes of all terms below, a term is propagated, whatever the flag says.
    closed = np.zeros((5, 5), bool)
    for above, below in [(i, i) for i in range(5)] + [(0, i) for i in range(5)] + [*steps, (1, 4)]:
        closed[below, above] = True
    assert not rollup.unpropagated(steps, [False] * 5, sparse.csr_matrix(closed)).any()


# --- channels -------------------------------------------------------------------------------------

TWO = {
    "generic": {"terms": ["A"], "patterns": ["^any"]},
    "channels": [
        {"name": "first", "roots": ["B"], "patterns": ["immun"]},
        {"name": "second", "roots": ["C"], "patterns": [r"\bvessel"]},
    ],
}


@pytest.fixture
def two(tmp_path):
    (tmp_path / "channels.yaml").write_text(yaml.safe_dump(TWO))
    return channels.read_channels(tmp_path / "channels.yaml")


def test_roots_first_and_names_second(two):
    terms = five("ABCDEFGH")
    terms["name"] = ["a", "vessel b", "c", "d", "any e", "Immune f", "blood vessels", "unvesselled"]
    dag = pd.concat([DAG, pd.DataFrame({"child": ["D"], "parent": ["X"], "relation": ["regulates"]})])
    found = channels.classify(terms, dag, two)
    assert found["channel"].tolist() == [
        "generic", "first", "second", "first", "generic", "first", "second", "unclassified",
    ]  # fmt: skip
    assert found["by"].tolist() == [
        "generic", "root", "root", "root", "generic", "pattern", "pattern", "none",
    ]  # fmt: skip
    assert found["reason"].tolist()[3:7] == ["root B", "pattern ^any", "pattern immun", r"pattern \bvessel"]
    assert found["steps"].tolist()[1:4] == [0, 0, 1] and found["steps"].isna().sum() == 5
    # Nearest, not first: E's way to C is shorter than that to B once D part_of B is gone.
    nearer = dag[~((dag["child"] == "D") & (dag["parent"] == "B"))]
    assert channels.classify(terms, nearer, two)["channel"][3] == "second"


def test_without_a_graph_ids_and_names_decide(two):
    terms = five("BDE")
    terms["members"] = [["B"], ["D", "C"], ["E"]]
    found = channels.classify(terms, NO_DAG, two)
    assert found["channel"].tolist() == ["first", "second", "unclassified"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["channels"][0].update(roots=[], patterns=[]), "neither root nor pattern for 'first'"),
        (lambda c: c["channels"][1].update(name="first"), "the channel 'first' twice"),
        (lambda c: c["channels"][1].update(name="generic"), "the channel 'generic' twice or reserved"),
        (lambda c: c["channels"][1].update(roots=["B"]), "the term 'B' twice"),
        (lambda c: c["channels"][1].update(roots=["A"]), "the term 'A' twice"),
        (lambda c: c["channels"][1].update(patterns=["("]), "expected a regular expression"),
        (
            lambda c: c["channels"][1].update(root=["D"]),
            "found the unknown key 'root'; did you mean 'roots'?",
        ),
        (lambda c: c.update(channels=[]), "channels"),
    ],
)
def test_faulty_definitions_are_one_sentence(tmp_path, change, message):
    definitions = yaml.safe_load(yaml.safe_dump(TWO))
    change(definitions)
    (tmp_path / "channels.yaml").write_text(yaml.safe_dump(definitions))
    with pytest.raises(InputError, match=re.escape(message)) as error:
        channels.read_channels(tmp_path / "channels.yaml")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def shipped(root):
    return channels.read_channels(root / "resources/channels.yaml")


def test_the_shipped_channels_hold_the_planted_terms(root, shipped):
    folder = root / "resources/demo_ontology"
    obo = ontology.read_obo(folder / "demo.obo")
    graph = [(child, parent, relation) for child, relation, parent in obo.edges]
    terms = pd.DataFrame({"term_id": obo.ids, "name": obo.names, "source": "DEMO"})
    terms["members"] = [[term] for term in obo.ids]
    found = channels.classify(terms, pd.DataFrame(graph, columns=["child", "parent", "relation"]), shipped)
    assert len(shipped.names) == 8
    of = dict(zip(found["name"], found["channel"], strict=True))
    assert of["T cell receptor signal relay"] == "immune communication"
    assert of["fibrillar collagen laying"] == "extracellular matrix"
    assert of["coping with low oxygen"] == "hypoxia and stress"
    assert of["vessel sprouting"] == "angiogenesis" and of["mitotic round"] == "proliferation and DNA damage"
    assert of["lipid uptake by phagocytes"] == "metabolic" and of["demo biological process"] == "generic"
    planted = pd.read_csv(folder / "programs.tsv", sep="\t").query("role == 'planted'")["term_id"]
    mine = found.set_index("term_id").loc[planted]
    assert (mine["by"] == "root").all() and set(shipped.names) == set(mine["channel"])


@pytest.mark.real
def test_the_shipped_channels_on_real_terms(real_data, shipped):
    """Terms that a pattern could easily get wrong, and the share that none gets."""
    terms = pd.read_csv(real_data / "go/go_terms.tsv", sep="\t").rename(columns={"go_id": "term_id"})
    terms["source"], terms["members"] = "GO", [[term] for term in terms["term_id"]]
    found = channels.classify(terms, NO_DAG, shipped).set_index("name")["channel"]
    expected = {
        "regulation of T cell proliferation": "immune communication",
        "blood vessel endothelial cell migration": "angiogenesis",
        "insulin secretion": "vesicles and secretion",
        "cellular response to insulin stimulus": "metabolic",
        "transforming growth factor beta receptor signaling pathway": "EMT and migration",
        "cell-matrix adhesion": "extracellular matrix",
        "intrinsic apoptotic signaling pathway in response to DNA damage": "proliferation and DNA damage",
        "response to hypoxia": "hypoxia and stress",
        "macroautophagy": "hypoxia and stress",
        "metal ion transport": "unclassified",
        "brain development": "unclassified",
        "regulation of transcription, DNA-templated": "generic",
        "protein binding": "generic",
        "signal transduction": "generic",
    }
    assert {name: found[name] for name in expected if name in found} == {
        name: channel for name, channel in expected.items() if name in found
    }
    assert sum(name in found for name in expected) > 8
    # Every root that the definitions name is a term, under the id that they give.
    ids = set(terms["term_id"])
    assert sum(one not in ids for one in shipped.roots if one.startswith("GO:")) <= 3


# --- all of it ------------------------------------------------------------------------------------


def study(n=200, propagated=True, terms="BCDE"):
    """Cells, codes of six features, and concepts of the diamond's terms over the genes of a small world."""
    cells, program = world(n=n)
    rng = np.random.default_rng(0)
    codes = np.maximum(rng.normal(size=(n, 6)), 0)
    codes[:, 0] = np.maximum(program, 0)
    present = np.ones(n, bool)
    present[:3] = False
    codes[:3] = 0
    table = five(terms, propagated)
    membership = np.zeros((60, len(terms)), bool)
    for i in range(len(terms)):
        membership[8 * i : 8 * i + 8, i] = True
    concepts = analysis.Concepts(table, sparse.csr_matrix(membership), list(cells.genes), DAG)
    listed = pair_table(
        ("B", 0, 0.5, 0.01, 0.6), ("B", 1, 0.1, 0.01, 0.6), ("C", 2, 0.3, 0.01, 0.6), ("D", 3, 0.3, 0.4, 0.6)
    )
    best = listed.iloc[[0, 2]][["feature", "term_id"]]
    return cells, sparse.csc_matrix(codes), present, concepts, best, listed


def run(two, settings=None, **options):
    return analysis.analyse(*study(**options), two, {**SETTINGS, **(settings or {})}, 1)


def test_activity_of_a_small_study(two):
    _, codes, present, *_ = study()
    found = run(two)
    assert found.var.index.tolist() == ["B", "C"] and found.var["n_features"].tolist() == [2, 1]
    assert found.matrix.dtype == found.genes.dtype == np.float32
    np.testing.assert_allclose(found.matrix[present].std(axis=0), 1, rtol=1e-5)
    assert (found.matrix[~present] == 0).all() and (found.matrix >= 0).all()
    expected = codes[:, [0, 1]] @ np.array([0.5, 0.1])
    assert np.corrcoef(found.matrix[:, 0], expected)[0, 1] > 0.999
    table = found.concepts.set_index("term_id")
    assert table["used"].to_dict() == {"B": True, "C": True, "D": False, "E": False}
    assert table.loc["D", "reason"] == "no pair with q < 0.05"
    assert table.loc["E", "reason"] == "no feature fires on its tokens"
    assert [list(one) for one in table["features"]] == [[0, 1], [2], [], []]
    assert found.summary["rollup"] == {
        "status": "touched no term: all annotation is propagated", "n_touched": 0, "n_changed": 0,
    }  # fmt: skip
    assert found.summary["n_cells_without_tokens"] == 3 and found.summary["unclassified_share"] == 0
    first = found.means[found.means["channel"] == "first"]
    assert (first["lo"] <= first["mean"]).all() and (first["mean"] <= first["hi"]).all()
    weighted = np.average(first["mean"], weights=first["n_cells"])
    assert weighted == pytest.approx(0, abs=1e-6)
    again = run(two)
    np.testing.assert_array_equal(found.matrix, again.matrix)
    pd.testing.assert_frame_equal(found.means, again.means)


def test_roll_up_gives_activity_to_terms_without_features(two, caplog):
    rolled = run(two, propagated=False, terms="ABCDE")
    assert rolled.summary["rollup"]["status"] == "touched 4 terms"
    var = rolled.var
    assert var.loc["A", ["n_features", "rolled_up"]].tolist() == [0, True]
    assert var.loc["B", ["n_features", "rolled_up"]].tolist() == [2, False] and "D" not in var.index
    with caplog.at_level("WARNING"):
        plain = run(two, propagated=True, terms="ABCDE")
    assert "A" not in plain.var.index and not plain.concepts["rolled_up"].any()
    assert "roll-up touched no term" in caplog.text
    cells, codes, present, concepts, best, listed = study(propagated=False)
    bare = analysis.Concepts(concepts.terms, concepts.membership, concepts.genes, NO_DAG)
    found = analysis.analyse(cells, codes, present, bare, best, listed, two, SETTINGS, 1)
    assert found.summary["rollup"]["status"] == "not applicable: no graph"


def test_activity_from_genes_needs_no_feature(two):
    found = run(two, {"source": "genes"})
    assert found.var.index.tolist() == list("BCDE") and found.summary["status"] == "ok"
    np.testing.assert_allclose(found.matrix.std(axis=0), 1, rtol=1e-5)
    for j in range(4):
        assert np.corrcoef(found.matrix[:, j], found.genes[:, j])[0, 1] > 0.9999
    both = run(two)
    np.testing.assert_allclose(both.genes, found.genes[:, :2])


def test_no_interpretable_concept_is_a_documented_value(two, caplog, tmp_path):
    with caplog.at_level("WARNING"):
        found = run(two, {"max_q": 0.001})
    assert found.matrix.shape == found.genes.shape == (200, 0) and len(found.var) == 0
    assert found.summary["status"] == "no concept has an interpretable feature" in caplog.text
    assert not found.concepts["used"].any() and (found.concepts["reason"] != "").all()
    assert (found.means["n_concepts"] == 0).all() and found.means["mean"].isna().all()
    written = write(found, tmp_path)
    assert written.shape == (100, 0) and written.layers["genes"].shape == (100, 0)
    section = activity(run_of(found))
    assert section.figures == [] and "no concept has an interpretable feature" in section.prose[0]


def test_a_channel_without_concepts_has_missing_means(two):
    means = run(two, {"min_lift": 0.4}).means
    second = means[means["channel"] == "second"]
    assert (second["n_concepts"] == 0).all() and second[["mean", "lo", "hi", "mean_genes"]].isna().all(
        axis=None
    )
    assert (means.loc[means["channel"] == "first", "n_concepts"] == 1).all()


def test_bad_input_is_one_sentence(two):
    with pytest.raises(InputError, match="found 'both', expected one of features, genes"):
        run(two, {"source": "both"})
    cells, codes, present, concepts, best, listed = study()
    other = analysis.Concepts(concepts.terms, concepts.membership, ["X", *concepts.genes[1:]], DAG)
    with pytest.raises(InputError, match="found no gene 'G0' of the cells"):
        analysis.analyse(cells, codes, present, other, best, listed, two, SETTINGS, 1)


def test_features_of_other_cells_are_an_error(tmp_path):
    cells, codes, *_ = study(n=20)
    matrix = sparse.csr_matrix(codes, dtype=np.float32)
    sample, index = cells.section, np.concatenate([np.arange(10), np.arange(10)]).astype(np.int32)

    def read(sample, index):
        aggregates = Cells(matrix, matrix, matrix, np.array(sample), index)
        write_cells(tmp_path / "cells.zarr.zip", aggregates, {})
        return units.feature_units(tmp_path / "cells.zarr.zip", cells, "mean")

    found, present = read(sample, index)
    np.testing.assert_allclose(found.toarray(), matrix.toarray())
    assert present.all()
    with pytest.raises(InputError, match="found sample 'other', expected one of s0, s1"):
        read(["other"] * 20, index)
    with pytest.raises(InputError, match="found cell 10 of sample 's1', expected one of the 10"):
        read(sample, np.where(np.arange(20) == 19, 10, index).astype(np.int32))


# --- files ----------------------------------------------------------------------------------------


def write(found, folder, n=100):
    cells = study()[0]
    obs = cells.obs.iloc[:n].assign(fov=1, donor="d")
    given = anndata.AnnData(cells.counts[:n], obs=obs, obsm={"spatial": cells.spatial[:n]})
    store.write_h5ad(folder / "cells.h5ad", given)
    present = np.arange(n) > 2
    files.write_activity(
        folder / "activity.h5ad", folder / "cells.h5ad", found.matrix[:n], found.genes[:n], present,
        found.var, {"rule": "score_activity"},
    )  # fmt: skip
    return store.read_h5ad(folder / "activity.h5ad")


def test_files_keep_the_cells_and_name_the_concepts(two, tmp_path):
    found = run(two)
    written = write(found, tmp_path)
    given = store.read_h5ad(tmp_path / "cells.h5ad")
    assert written.obs_names.tolist() == given.obs_names.tolist()
    assert list(written.obs) == ["sample", "fov", "cell_type", "n_counts", "block", "has_tokens"]
    assert written.obs["has_tokens"].sum() == 97
    assert list(written.var) == ["name", "source", "channel", "ic", "n_features", "rolled_up"]
    assert written.var_names.tolist() == ["B", "C"] and written.var["rolled_up"].dtype == bool
    np.testing.assert_array_equal(written.X, found.matrix[:100])
    np.testing.assert_array_equal(written.layers["genes"], found.genes[:100])
    np.testing.assert_array_equal(written.obsm["spatial"], given.obsm["spatial"])
    assert '"rule": "score_activity"' in written.uns["interptfm"]
    with pytest.raises(InputError, match="found 100 cells, expected the 99 that were scored"):
        files.write_activity(
            tmp_path / "x.h5ad", tmp_path / "cells.h5ad", found.matrix[:99], found.genes[:99],
            np.ones(99, bool), found.var, {},
        )  # fmt: skip
    assert not (tmp_path / "x.h5ad").exists()


# --- configuration and report ---------------------------------------------------------------------


def test_the_features_of_crosstalk_are_of_a_dictionary_that_is_there():
    config = {
        "activations": {"layers": [0, 1, 2]},
        "model": {"backend": "interptfm", "checkpoint": None, "init": "trained", "nlayers": 3},
        "dictionaries": [{"name": "main", "tokens": "gene", "layers": [0, 1]},
                         {"name": "late", "tokens": "gene", "layers": [2]},
                         {"name": "cells", "tokens": "cls", "layers": "all"}],
    }  # fmt: skip

    def name(dictionary, layer):
        features = {"dictionary": dictionary, "layer": layer}
        return spaces.crosstalk_dictionary({**config, "crosstalk": {"features": features}})

    assert name(None, "chosen") == "main" and name("late", 2) == "late"
    for dictionary, layer, message in (
        ("cells", 0, "found 'cells', expected one of gene tokens: main, late"),
        ("main", 2, "found 2, expected one of [0, 1], the layers of dictionary 'main'"),
        ("late", "chosen", "found 'chosen', expected one of [2]"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            name(dictionary, layer)


def run_of(found):
    tables = {name: getattr(found, name) for name in ("concepts", "channels", "means")}
    return SimpleNamespace(activity=(tables, {"dictionary": "batchtopk", "layer": 1, **found.summary}))


def test_the_section_shows_channels_and_concepts(two):
    study_ = run(two)
    evil = "<b>first</b> $a$"
    study_.concepts.loc[0, "name"] = evil
    section = activity(run_of(study_))
    assert [figure.name for figure in section.figures] == ["channels"]
    assert [t.name for t in section.tables] == ["channel-terms", "activity-concepts", "channel-means"]
    ElementTree.fromstring(section.figures[0].svg)
    html = report.render("run", "test", [section])
    assert "&lt;b&gt;first" in html and "<b>first" not in html
    assert "2 of 4 concepts have one" in section.prose[0] and "batchtopk, layer 1" in section.prose[0]
    assert activity(SimpleNamespace(activity=None)) is None
    genes = activity(run_of(run(two, {"source": "genes"})))
    assert "mean z-score of its genes" in genes.prose[0]
