"""NicheNet's ligand activity on a simulated contact, and spaces of cells side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from interptfm.comparators import nichenet, representations, status
from interptfm.errors import InputError

SETTINGS = {"genes": 8, "min_fraction": 0.05, "min_cells": 20, "permutations": 199, "max_q": 0.05}
TARGETS = [f"T{i}" for i in range(40)]


def tissue(effect=1.5, seed=0):
    """200 senders, 200 receivers, 2 sections; half of the receivers touch a sender and answer by T0 to T7.

    Ligand ``Own`` has these as its targets, ``Other`` eight that do not answer, ``Flat`` all alike.
    """
    rng = np.random.default_rng(seed)
    types = np.repeat(["R", "S"], 200)
    section = np.tile(["a", "b"], 200)
    genes = [*TARGETS, "Own", "Other", "Flat"]
    logged = rng.gamma(2.0, 0.5, (400, len(genes)))
    logged[section == "b"] += 1
    touched = np.arange(0, 100)
    logged[np.ix_(touched, np.arange(8))] += effect
    graph = sparse.coo_matrix((np.ones(100), (touched, touched + 200)), (400, 400))
    potential = rng.uniform(0, 0.1, (40, 3))
    potential[:8, 0] += 1
    potential[20:28, 1] += 1
    potential[:, 2] = 0.5
    matrix = pd.DataFrame(potential, index=TARGETS, columns=["Own", "Other", "Flat"])
    return logged, genes, types, section, (graph + graph.T).tocsr(), matrix


def test_the_ligand_whose_targets_answer_to_contact_is_active():
    table = nichenet.analyse(*tissue(), SETTINGS, 1)
    mine = table[(table["source"] == "S") & (table["target"] == "R")].set_index("ligand")
    assert list(table.columns) == list(nichenet.COLUMNS)
    assert mine["rank"].to_dict() == {"Own": 1, "Other": 2, "Flat": 3}
    own, other = mine.loc["Own"], mine.loc["Other"]
    assert own["pearson"] > 0.95 and own["aupr"] == 1 and own["p"] == own["p_min"] == 1 / 200
    assert own["q"] < 0.05 and own["n_genes"] == 8 and own["prevalence"] == 0.2 and own["n_contact"] == 100
    assert other["pearson"] < 0 and other["p"] > 0.5 and np.isnan(mine.loc["Flat", "pearson"])
    assert "strongest Own of S on R" in nichenet.headline(table, 0.05)


def test_without_an_answer_few_ligands_are_active():
    found = [nichenet.analyse(*tissue(0.0, seed), SETTINGS, seed) for seed in range(10)]
    p = pd.concat(found)["p"].dropna()
    assert len(p) >= 20 and (p <= 0.05).mean() <= 0.2


def test_activity_is_pearsons_and_average_precision():
    from scipy.stats import pearsonr

    potential = np.random.default_rng(0).uniform(size=(30, 4))
    members = np.arange(30) < 9
    r, aupr = nichenet.activity(potential, members)
    np.testing.assert_allclose(r, [pearsonr(column, members).statistic for column in potential.T])
    order = np.argsort(-potential[:, 0])
    hits = np.cumsum(members[order])
    np.testing.assert_allclose(aupr[0], (hits / np.arange(1, 31))[members[order]].mean())


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\tL\nT\t1\n", "expected 'gene' and one a ligand"),
        ("gene\tL\nT\t1\nT\t2\n", "found gene 'T' twice"),
        ("gene\tL\nT\tx\n", "found text among the potentials"),
        ("gene\tL\nT\t\n", "found a potential that is not finite"),
    ],
)
def test_a_matrix_that_is_none_is_one_sentence(tmp_path, text, message):
    (tmp_path / "m.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        nichenet.read_matrix(tmp_path / "m.tsv")


def test_a_matrix_of_other_genes_is_skipped():
    logged, genes, types, section, graph, matrix = tissue()
    with pytest.raises(status.Skipped, match="0 ligands and 40 targets of the matrix are in the panel"):
        nichenet.analyse(
            logged, genes, types, section, graph, matrix.set_axis(["a", "b", "c"], axis=1), SETTINGS, 1
        )
    with pytest.raises(status.Skipped, match="no two cell types have 150 receivers"):
        nichenet.analyse(logged, genes, types, section, graph, matrix, {**SETTINGS, "min_cells": 150}, 1)


def summary(space, layer, **means):
    keys = {"n": 4, "n_scored": 3, "mean": 0.9, "best_tis": 0.95}
    return {
        "units": space, "layer": layer,
        "variants": [{"variant": name, **keys, "mean_matched": value} for name, value in means.items()],
    }  # fmt: skip


def test_units_of_all_spaces_stand_side_by_side_with_their_controls():
    """A space of types alone cannot be matched by type: no row instead of a number."""
    parts = [
        representations.unit_scores(summary("scvi", 0, units=0.7, shuffled=0.5)),
        representations.unit_scores(summary("cls", 0, units=0.8, shuffled=None)),
    ]
    table = pd.concat(parts, ignore_index=True)
    assert list(table.columns) == list(representations.COLUMNS)
    matched = table[table["measure"] == representations.MATCHED]
    assert matched[["representation", "layer", "group", "value"]].to_numpy().tolist() == [
        ["scvi", 0, "units", 0.7], ["scvi", 0, "shuffled", 0.5], ["cls", 0, "units", 0.8]
    ]  # fmt: skip
    assert representations.headline(table, "scvi") == (
        "mean TIS of units within cell type and depth: cls layer 0 0.800, scvi 0.700"
    )
