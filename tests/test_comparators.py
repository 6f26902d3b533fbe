"""Other systems: what they are given, how answers are compared, one sentence where one is missing."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from planning import snakemake
from scipy import sparse

from interptfm import store
from interptfm.comparators import communication, concordance, liana_plus, ligrec, status
from interptfm.errors import InputError

SETTINGS = {"permutations": 99, "min_fraction": 0.05, "min_cells": 10, "max_q": 0.05}


def talking(n=60, seed=0):
    """Three groups; ``Lig`` is of A, ``Rec`` of B, ``Both`` of no group, all over noise of log1p scale."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(["A", "B", "C"], n)
    x = rng.gamma(1.0, 0.5, (3 * n, 4)).astype(np.float32)
    x[groups == "A", 0] += 2
    x[groups == "B", 1] += 2
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(groups), "compartment": pd.Categorical([""] * (3 * n))},
        index=[f"s:1_{i}" for i in range(3 * n)],
    )
    genes = pd.DataFrame(index=["Lig", "Rec", "Both", "Other"])
    return anndata.AnnData(X=sparse.csr_matrix(x), obs=obs, var=genes)


INTERACTIONS = pd.DataFrame({"ligand": ["Lig", "Both"], "receptor": ["Rec", "Other"]})


def test_shares_of_permutations_become_p():
    np.testing.assert_allclose(
        communication.corrected([0, 0.01, 1, np.nan], 100), [1 / 101, 2 / 101, 1, np.nan]
    )


def test_interactions_are_those_whose_subunits_are_all_in_the_panel():
    known = pd.DataFrame({"ligand": ["L", "L", "L_M"], "receptor": ["R", "R_S", "R"]})
    assert communication.in_panel(known, ["L", "R", "S"])["receptor"].tolist() == ["R", "R_S"]
    with pytest.raises(status.Skipped, match="no interaction of the 3 in the resource has all its genes"):
        communication.in_panel(known, ["M"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\tb\n1\t2\n", "found no column 'ligand', expected ligand and receptor"),
        ("ligand\treceptor\nL\tR\nL\t\n", "row 3: found an empty name"),
    ],
)
def test_a_table_of_interactions_that_is_none_is_one_sentence(tmp_path, text, message):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        communication.read_interactions(tmp_path / "t.tsv")


def test_the_shipped_interactions_are_in_the_demo_panel(root):
    panel = set(store.read_table(root / "resources/demo_ontology/panel.tsv")["gene"])
    known = communication.read_interactions(root / "resources/demo_interactions.tsv")
    assert len(communication.in_panel(known, panel)) == len(known) == 40


def test_squidpy_finds_the_planted_way_and_no_p_is_0():
    adata = talking()
    table, summary = communication.by_level(
        adata, 10, lambda cells, column: ligrec.run(cells, column, INTERACTIONS, SETTINGS, 1)
    )
    assert list(table.columns) == list(communication.COLUMNS) and set(table["level"]) == {communication.TYPES}
    assert "fewer than 2 groups" in summary[communication.PLACES]["reason"]
    assert table["p"].min() == table["p_min"].max() == 0.01 and len(table) == 18
    found = table[table["q"] < 0.05]
    best = found.loc[found["score"].idxmax(), ["source", "target", "ligand", "receptor"]]
    assert best.tolist() == ["A", "B", "Lig", "Rec"]
    assert (found["ligand"] == "Lig").all(), "an interaction of no group is below q"


def test_groups_that_are_too_few_are_skipped():
    with pytest.raises(
        status.Skipped, match="neither cell types nor compartments are 2 groups of 1000 cells"
    ):
        communication.by_level(talking(), 1000, lambda cells, column: pytest.fail("was run"))


def edges(**changed):
    row = {
        "level": "channel, cell types", "source": "A", "target": "B", "channel": "c", "a": "", "b": "",
        "n_edges": 60, "log2_ratio": 1.0, "p": 0.001, "q": 0.01, "direction": "not established", **changed,
    }  # fmt: skip
    return row


def answers(rows):
    names = ["level", "method", "source", "target", "ligand", "receptor", "p", "q"]
    return pd.DataFrame([dict(zip(names, ("cell types", "m", *row))) for row in rows])


def test_an_edge_is_supported_by_an_interaction_of_its_channel_that_runs_its_way():
    pairs = pd.DataFrame(
        [
            edges(),
            edges(channel="d"),
            edges(channel="unknown"),
            edges(target="C", q=0.5),
            edges(direction="target to source"),
            edges(source="C", target="C"),
            edges(level="concept pair", channel="", a="x", b="y"),
            edges(p=np.nan, q=np.nan, source="D"),
        ]
    )
    found = answers(
        [
            ("A", "B", "L", "R_S", 0.001, 0.01),
            ("B", "A", "L", "R_S", 0.8, 0.9),
            ("A", "B", "M", "T", 0.4, 0.5),
            ("A", "C", "L", "R_S", 0.3, 0.4),
        ]
    )
    table = concordance.compare(pairs, found, {"c": {"S"}, "d": {"T"}}, 0.05, 0.05)
    assert table["support"].tolist() == [
        "of the channel", "other interactions", "other interactions", "none", "none", "not testable",
    ]  # fmt: skip
    assert table["verdict"].tolist() == ["supported", "novel", "not testable", "", "novel", "not testable"]
    first = table.iloc[0]
    assert (first["n_tested"], first["n_channel_tested"], first["n_channel_significant"]) == (3, 2, 1)
    assert first["best"] == "A: L → B: R_S" and first["best_p"] == 0.001
    assert table.iloc[4]["best"] == "B: L → A: R_S", "an edge that runs from target to source"
    row = concordance.summarise(table).iloc[0]
    assert (row["n_significant"], row["n_supported"], row["n_novel"], row["n_not_testable"]) == (5, 1, 2, 2)
    assert (
        row["n_others"] == 1 and row["share_others"] == 0 and row["share_significant"] == pytest.approx(1 / 3)
    )


def test_the_excess_of_support_is_fishers():
    rows = [
        {**dict.fromkeys(concordance.COLUMNS, 0), "level": "l", "system": "s", "significant": claimed,
         "n_channel_tested": 1, "n_channel_significant": own, "verdict": ""}
        for claimed, own, n in ((True, 1, 8), (True, 0, 2), (False, 1, 1), (False, 0, 9)) for _ in range(n)
    ]  # fmt: skip
    row = concordance.summarise(pd.DataFrame(rows)).iloc[0]
    assert row["odds_ratio"] == 36 and row["p"] == pytest.approx(0.0027, abs=2e-4)


def test_channels_have_the_genes_of_their_used_concepts():
    concepts = pd.DataFrame(
        {"term_id": ["t1", "t2", "t3"], "channel": ["c", "c", "d"], "used": [True, False, True]}
    )
    membership = sparse.csr_matrix(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], bool))
    found = concordance.channel_genes(concepts, ["t1", "t2", "t3"], membership, ["g1", "g2", "g3"])
    assert found == {"c": {"g1", "g2"}, "d": {"g3"}}


def test_a_missing_package_is_one_sentence_and_no_crash():
    def run():
        return status.package("no-such-package", "no_such", "communication")

    result, summary = status.attempt("a system", "no-such-package", run)
    assert result is None and summary["status"] == "skipped" and summary["version"] == ""
    assert summary["reason"] == (
        "the package no-such-package is not installed; install envs/requirements-communication.txt and name "
        "its Python in environments.communication, or use conda"
    )


def test_a_package_that_does_not_load_is_one_sentence(monkeypatch):
    monkeypatch.setattr(status.importlib, "import_module", lambda name: 1 / 0)
    with pytest.raises(
        status.Skipped, match=r"installed and does not load \(ZeroDivisionError: division by zero\)"
    ):
        status.package("numpy", "numpy", "communication")


@pytest.mark.parametrize(
    "path, words",
    [
        (None, "null"),
        ("a.h5ad", "a.h5ad, which is no file below data_root"),
        ("simulated", "simulated, and the cells of this run are not"),
    ],
)
def test_a_file_that_is_not_there_is_one_sentence(path, words):
    with pytest.raises(status.Skipped) as reason:
        status.require(None, "reference", "tangram.reference", path)
    assert str(reason.value) == f"there is no reference: comparators.tangram.reference is {words}"


def test_a_defect_is_no_skip():
    with pytest.raises(ZeroDivisionError):
        status.attempt("a system", None, lambda: 1 / 0)


def test_liana_is_skipped_where_it_is_not():
    from importlib import metadata

    try:
        metadata.version("liana")
    except metadata.PackageNotFoundError:
        with pytest.raises(status.Skipped, match="the package liana is not installed"):
            liana_plus.resource("consensus")
    else:
        assert len(liana_plus.resource("consensus")) > 1000


@pytest.fixture(scope="module")
def compared(project):
    """The folder of what target comparators makes of the small run, in this Python alone."""
    done = snakemake(project, "comparators")
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "results/tiny/comparators", done.stdout + done.stderr


def test_every_system_has_its_row_and_a_skipped_one_its_sentence(compared):
    folder, text = compared
    systems = store.read_table(folder / "systems.tsv").fillna("").set_index("system")
    assert list(systems.reset_index().columns) == list(status.COLUMNS)
    assert (
        systems.loc["squidpy", "status"] == "done"
        and "tests with q < 0.05" in systems.loc["squidpy", "headline"]
    )
    skipped = systems[systems["status"] == "skipped"]
    assert skipped["reason"].str.len().min() > 20
    for name, row in skipped.iterrows():
        assert f"{name} was skipped: {row['reason']}" in text


@pytest.mark.parametrize("system, reason", [("totalvi", "5 stain columns"), ("multivi", "atac is null")])
def test_a_second_modality_that_is_not_there_leaves_an_empty_latent(compared, system, reason):
    folder, _ = compared
    summary = store.read_json(folder / system / "summary.json")
    assert summary["status"] == "skipped" and reason in summary["reason"]
    latent = store.read_h5ad(folder / system / "latent.h5ad")
    assert latent.n_obs == 0 and list(latent.obs) == ["sample"]


def test_concordance_is_about_the_edges_of_crosstalk(compared, project):
    folder, _ = compared
    table = store.read_table(folder / "concordance.parquet")
    pairs = store.read_table(project / "results/tiny/crosstalk/pairs.parquet")
    edges = pairs[pairs["level"].isin(concordance.OF_LEVEL) & pairs["p"].notna()]
    mine = table[table["system"] == "squidpy"]
    assert len(mine) == len(edges) > 10 and list(table.columns) == list(concordance.COLUMNS)
    assert (mine["n_significant"] <= mine["n_tested"]).all()
    assert (mine["verdict"].ne("") == mine["significant"]).all()
    found = store.read_table(folder / "squidpy/interactions.parquet")
    cells = store.read_h5ad(project / "results/tiny/activity/section_1.h5ad").obs["cell_type"]
    types = found.loc[found["level"] == communication.TYPES, "source"]
    assert set(types) <= set(cells.astype(str)) and found["p"].between(found["p_min"], 1).all()


def test_the_report_shows_what_ran_and_why_something_did_not():
    from types import SimpleNamespace

    from interptfm.report.sections.systems import systems

    row = dict.fromkeys(status.COLUMNS, "")
    found = pd.DataFrame(
        [
            {**row, "system": "squidpy", "version": "1.8.2", "status": "done", "headline": "3 of 9"},
            {**row, "system": "liana", "status": "skipped", "reason": "the package liana is not installed"},
        ]
    )
    section = systems(SimpleNamespace(systems=found, mofa=None))
    assert section.title == "Other systems" and "1 ran, 1 could not" in section.prose[0]
    assert section.tables[0].frame["reason"].tolist() == ["", "the package liana is not installed"]
    assert systems(SimpleNamespace(systems=None, mofa=None)) is None
