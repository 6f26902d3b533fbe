"""Lin similarity by hand and against GOATOOLS, slim roll-up, enrichment, entropy, agreement, regression."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import fisher_exact

from interptfm import reading
from interptfm.errors import InputError
from interptfm.reading import Ontology

EDGES = [("B", "A"), ("C", "A"), ("D", "B"), ("E", "B"), ("F", "C"), ("G", "B"), ("G", "C")]


def frame(edges):
    return pd.DataFrame(edges, columns=["child", "parent"]).assign(relation="is_a")


def evidence(genes):
    rows = [(gene, term) for term, members in genes.items() for gene in members]
    return pd.DataFrame(rows, columns=["gene", "term_id"])


@pytest.fixture
def small():
    return Ontology(frame(EDGES), evidence({"D": "12", "E": "23", "F": "45", "G": "6", "A": "78"}))


def test_information_content_and_lin_by_hand(small):
    assert small.n_genes == {"A": 8, "B": 4, "C": 3, "D": 2, "E": 2, "F": 2, "G": 1}
    assert small.ic["A"] == 0 and small.ic["B"] == 1 and small.ic["D"] == 2 and small.ic["G"] == 3
    assert small.lin("D", "E") == pytest.approx(2 * 1 / 4)
    assert small.lin("D", "D") == 1
    assert small.lin("D", "F") == 0
    # G lies below B and C: with F the common ancestor is C.
    assert small.common_ancestor("G", "F") == "C"
    assert small.lin("G", "F") == pytest.approx(2 * small.ic["C"] / 5)
    assert np.isnan(small.lin("D", "X"))
    assert small.ancestors("G") == {"G", "B", "C", "A"}


def test_a_cycle_is_refused():
    with pytest.raises(InputError, match="cycle"):
        Ontology(frame([("A", "B"), ("B", "C"), ("C", "A")]), evidence({"A": "1"}))


def test_terms_are_reduced_and_rolled_up(small):
    assert reading.reduce_terms(["D", "E", "F"], small, 0.5) == [("D", ["E"]), ("F", [])]
    assert reading.reduce_terms(["D", "E", "F"], small, 0.51) == [("D", []), ("E", []), ("F", [])]
    assert reading.top_level(small) == ["B", "C"]
    assert reading.slim_of(small, ["B", "C"], "DG") == {"D": ["B"], "G": ["B", "C"]}
    assert reading.slim_of(small, ["A", "B"], ["D", "F"]) == {"D": ["B"], "F": ["A"]}
    table = reading.best_terms(
        pd.DataFrame({"feature": [3, 3, 3], "term_id": ["E", "D", "F"], "f1": [0.4, 0.6, 0.3]}),
        small, {"B": "bee"}, ["B", "C"], 0.5,
    )  # fmt: skip
    assert table["term_id"].tolist() == ["D", "F"] and table["stands_for"].tolist() == ["E", ""]
    assert table["slim"].tolist() == ["B", "C"] and table["slim_name"].tolist() == ["bee", "C"]


def test_lin_agrees_with_goatools(tmp_path):
    """On a random tree both definitions of the best common ancestor are the same."""
    pytest.importorskip(
        "goatools", reason="goatools is installed by make test (envs/requirements-oracle.txt)"
    )
    from goatools.obo_parser import GODag
    from goatools.semantic import TermCounts, lin_sim

    rng = np.random.default_rng(0)
    root = "GO:0008150"
    ids = [root, *(f"GO:{i:07d}" for i in range(1, 40))]
    edges = [(ids[i], ids[rng.integers(i)]) for i in range(1, 40)]
    stanzas = ["format-version: 1.2"]
    for i, one in enumerate(ids):
        parents = "".join(f"is_a: {parent} ! p\n" for child, parent in edges if child == one)
        stanzas.append(f"[Term]\nid: {one}\nname: term {i}\nnamespace: biological_process\n{parents}")
    path = tmp_path / "tree.obo"
    path.write_text("\n\n".join(stanzas) + "\n")
    annotated = {f"g{i}": set(rng.choice(ids[1:], 2, replace=False)) for i in range(60)}
    dag = GODag(str(path), prt=None)
    counts = TermCounts(dag, annotated)
    rows = [(gene, term) for gene, terms in annotated.items() for term in terms]
    ours = Ontology(frame(edges), pd.DataFrame(rows, columns=["gene", "term_id"]))
    known = sorted(set(itertools.chain(*annotated.values())))
    compared = 0
    for first, second in itertools.combinations(known, 2):
        theirs = lin_sim(first, second, dag, counts)
        if theirs is not None:
            assert ours.lin(first, second) == pytest.approx(theirs, abs=1e-9)
            compared += 1
    assert compared > 100


def test_enrichment_is_fishers_exact_test():
    members = csr_matrix(np.array([[1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1]], float))
    terms = pd.DataFrame({"term_id": ["T1", "T2"], "name": ["one", "two"]})
    table = reading.enrichment([np.array([0, 1, 3])], [7], members, terms).set_index("term_id")
    assert table.loc["T1", "p"] == pytest.approx(fisher_exact([[2, 1], [1, 4]], "greater")[1])
    assert (table["feature"] == 7).all() and table.loc["T1", "fold"] == pytest.approx(2 * 8 / 9)
    means = np.array([[3.0, 0], [1, 0], [2, 5]])
    assert [genes.tolist() for genes in reading.top_genes(means, 2)] == [[0, 2], [2]]


def test_entropy():
    assert reading.entropy(np.array([1.0, 1, 1, 1])) == pytest.approx(2)
    assert reading.entropy(np.array([5.0, 0])) == 0 and reading.entropy(np.array([])) == 0
    pairs = pd.DataFrame({"feature": [1, 1, 2], "term_id": ["a", "b", "a"], "f1": [0.5, 0.5, 0.5]})
    by_feature, by_term = reading.entropies(pairs)
    assert by_feature["entropy"].tolist() == [1, 0] and by_term["perplexity"].tolist() == [2, 1]


def test_agreement_finds_groups_and_no_groups():
    rng = np.random.default_rng(1)
    profiles = np.repeat(np.eye(3), 10, axis=0) @ rng.random((3, 20)) + rng.normal(0, 0.01, (30, 20))
    labels = np.repeat(["x", "y", "z"], 10)
    found = reading.agreement(profiles, labels, 99, rng)
    assert found["ari"] == 1 and found["nmi"] == pytest.approx(1) and found["ari_p"] == 0.01
    mixed = reading.agreement(profiles, rng.permutation(labels), 99, rng)
    assert abs(mixed["ari"]) < 0.25
    assert reading.agreement(profiles[:3], labels[:3], 9, rng)["status"].startswith("not applicable")


def test_regression_finds_the_genes_that_make_a_feature():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 15))
    y = np.column_stack([2 * x[:, 3] - x[:, 7] + rng.normal(0, 0.3, 200), np.zeros(200)])
    blocks, test = np.arange(200) // 10, np.arange(200) >= 160
    genes = [f"G{i}" for i in range(15)]
    coefficients, path, fits = reading.predictors(x, y, blocks, test, genes, [4, 9])
    top = coefficients[coefficients["feature"] == 4].head(2)
    assert top["gene"].tolist() == ["G3", "G7"] and top["coefficient"].iloc[1] < 0
    assert fits.loc[0, "r2_test"] > 0.9 and fits.loc[1, "n_genes"] == 0 and np.isnan(fits.loc[1, "r2_test"])
    # Along the path genes come in by and by; the strongest is the first of all.
    assert (top["enters_at"] >= coefficients["enters_at"].max() * 0.3).all()
    assert (
        coefficients.loc[coefficients["gene"] == "G3", "enters_at"].item() == coefficients["enters_at"].max()
    )
    assert set(path["feature"]) == {4} and (path["penalty"].diff().dropna() < 0).all()
    assert path["n_genes"].iloc[0] <= 1 and path["n_genes"].iloc[-1] >= 10
    (chosen,) = path[path["chosen"]].itertuples()
    assert chosen.r2_cross_validated == path["r2_cross_validated"].max() == fits.loc[0, "r2_cross_validated"]
    assert chosen.penalty == fits.loc[0, "penalty"]


class Tissue:
    """Two samples of 60 cells × 8 genes with a feature that follows gene 2, and the alignment's tables."""

    def __init__(self):
        import anndata

        from interptfm import features

        rng = np.random.default_rng(3)
        self.genes = [f"G{i}" for i in range(8)]
        self.adatas = []
        for name in ("a", "b"):
            adata = anndata.AnnData(csr_matrix(rng.poisson(4, (60, 8)).astype(np.float32)))
            adata.var_names = self.genes
            adata.obs["sample"], adata.obs["block"] = name, [f"{name}{i // 6}" for i in range(60)]
            adata.obs["split"] = np.repeat(["train", "validation", "test", "guard"], 15)
            self.adatas.append(adata)
        activity = np.vstack([adata.X.toarray() for adata in self.adatas])[:, [2, 5, 2]]
        cells = np.tile(np.arange(60), 2)
        sparse = csr_matrix(activity)
        self.cells = features.Cells(sparse, sparse, sparse, np.repeat(["a", "b"], 60), cells)
        tokens = np.full((3, 8), 10)
        sums = rng.random((3, 8, 3)).astype(np.float32)
        counts = np.zeros((3, 8, 3, 1), np.int32)
        self.firing = features.Firing(counts, tokens, self.genes, [0.0], {}, sums)
        self.members = csr_matrix(rng.random((7, 8)) < 0.5).astype(float)
        self.terms = pd.DataFrame({"term_id": list("ABCDEFG"), "name": list("abcdefg")})
        self.interpretable = pd.DataFrame(
            {"feature": [0, 0, 1], "term_id": list("DFE"), "f1": [0.6, 0.5, 0.4]}
        )
        self.pairs = pd.DataFrame(
            {"feature": [0, 0, 1, 2], "term_id": list("DFED"), "f1": [0.6, 0.5, 0.4, 0.1]}
        )

    def read(self, dag, interpretable):
        known = evidence({"D": "12", "E": "23", "F": "45", "G": "6", "A": "78"})
        return reading.read(
            self.firing, self.members, self.terms, dag, known, interpretable, self.pairs, self.cells,
            self.adatas, permutations=20, generator=np.random.default_rng(0),
        )  # fmt: skip


def test_all_is_read_with_a_graph():
    tissue = Tissue()
    found = tissue.read(frame(EDGES), tissue.interpretable)
    assert found.terms["slim"].tolist() == ["B", "C", "B"] and found.summary["graph"] == "yes"
    assert found.predictors.groupby("feature")["gene"].first().to_dict() == {0: "G2", 1: "G5"}
    assert (found.fits["r2_test"] > 0.6).all() and set(found.path["feature"]) == {0, 1}
    assert set(found.entropy["of"]) == {"feature over concepts", "concept over features"}


def test_without_a_graph_what_needs_one_is_not_applicable():
    tissue = Tissue()
    found = tissue.read(frame([]), tissue.interpretable)
    assert found.terms.empty and found.summary["terms"] == reading.NO_GRAPH
    assert found.summary["agreement"] == {"status": "not applicable: no graph"}
    assert len(found.fits) == 2 and len(found.enrichment) and len(found.entropy)


@pytest.mark.parametrize("edges", [EDGES, []])
def test_no_interpretable_feature_leaves_empty_tables(edges):
    tissue = Tissue()
    found = tissue.read(frame(edges), tissue.interpretable.iloc[:0])
    assert found.summary["n_features"] == found.summary["n_features_enriched"] == 0
    for name in ("terms", "enrichment", "predictors", "path", "fits"):
        assert getattr(found, name).empty and len(getattr(found, name).columns) > 3
    assert found.summary["median_r2_test"] is None


def test_of_many_cells_some_are_drawn(monkeypatch):
    monkeypatch.setattr(reading, "MAX_CELLS", 40)
    tissue = Tissue()
    first, second = (tissue.read(frame([]), tissue.interpretable).fits for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert (first["r2_test"] > 0.3).all()
