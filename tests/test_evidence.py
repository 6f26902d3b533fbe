"""The chain of evidence: grades and links by hand, what is missing, nulls with nothing to find, errors."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from interptfm import alignment, features, store
from interptfm.errors import InputError
from interptfm.evidence import LINKS, analysis, feature_links, funnel, grading, permuted, reading, term_links
from interptfm.report import render
from interptfm.report.sections.evidence import evidence
from interptfm.tis.units import Cells

YES, NO = "supported", "not supported"
RULES = {
    "strong": {"required": ["compartment", "channel"], "at_least": 3},
    "moderate": {"required": [], "at_least": 2},
}
SETTINGS = {
    "untrained_arm": "untrained", "permutations": 20, "max_q": 0.05, "aggregate": "mean",
    "compartment": {"by": "geometric", "min_effect": 0.2},
    "channel": {"levels": ["concept pair", "channel, cell types", "channel, compartments"]},
    "stain": {"min_r": 0.1}, "steering": {"min_effect": 0}, "grades": RULES, "bootstrap": 20,
}  # fmt: skip
ALIGNMENT = {
    "strata": 3, "max_q": 0.05, "min_lift": 0, "min_f1": None, "threshold_from": "validation",
    "min_positive_tokens": 0,
}  # fmt: skip
EVIL = '<script>alert("x")</script> & $a$'


def rows_of(*states, aligned=True):
    """Rows with the statuses of the links, in their order."""
    frame = pd.DataFrame(list(states), columns=[f"{link}_status" for link in LINKS])
    frame.insert(0, "aligned", aligned)
    frame.insert(0, "term_id", [f"T:{i}" for i in range(len(frame))])
    frame.insert(0, "feature", range(len(frame)))
    return frame


# --- grades


def test_grades_by_hand():
    rows = rows_of(
        (YES, YES, YES, NO, NO),  # strong: both required ones and a third
        (YES, YES, NO, NO, NO),  # two links, no third
        (YES, NO, YES, YES, YES),  # four links, but not a required one
        (NO, NO, NO, NO, YES),
        (NO, NO, NO, NO, NO),
    )
    assert list(grading.grades(rows, RULES)) == ["strong", "moderate", "moderate"] + ["exploratory"] * 2


def test_what_is_missing_never_counts():
    rows = rows_of(
        (YES, "not tested", YES, "not computed", YES),
        ("not measured", "not available", "not computed", "not tested", YES),
        ("not measured", "not available", "not measured", "not computed", "not tested"),
    )
    assert list(grading.grades(rows, RULES)) == ["moderate", "exploratory", "exploratory"]


def test_without_alignment_there_is_no_grade():
    assert list(grading.grades(rows_of((YES,) * 5, aligned=False), RULES)) == [""]
    assert len(grading.grades(rows_of(), RULES)) == 0


def test_links_that_tables_lack_are_not_tested_and_those_without_a_table_have_the_reason():
    rows = pd.DataFrame({"feature": [3, 7], "term_id": ["T:1", "T:2"]})
    tables = {
        "stability": pd.DataFrame({"status": [YES]}, index=[7]),
        "steering": pd.DataFrame({"effect": [1.5], "status": [YES]}, index=["T:1"]),
    }
    missing = {"compartment": "not measured", "channel": "not computed: of k8", "stain": "not measured"}
    found = grading.attach(rows, tables, missing)
    assert list(found["stability_status"]) == ["not tested", YES]
    assert list(found["steering_status"]) == [YES, "not tested"]
    assert found["steering_effect"].isna().tolist() == [False, True]
    assert set(found["channel_status"]) == {"not computed: of k8"}


# --- links of features


def tissue(n=600, n_blocks=20, seed=0):
    """Cells in blocks: half of each block tumour, half TME; two types, in both."""
    rng = np.random.default_rng(seed)
    block = np.arange(n) % n_blocks
    where = np.where((np.arange(n) // n_blocks) % 2 == 0, "tumour", "TME")
    types = rng.choice(["T cell", "B cell"], n)
    return rng, np.array([f"b{i}" for i in block]), where.astype("<U6"), types


def compartments(codes, where, blocks, **options):
    settings = {"max_q": 0.05, "min_effect": 0.2, "draws": 30, "generator": np.random.default_rng(1)}
    return feature_links.compartment_links(sparse.csc_matrix(codes), where, blocks, **settings | options)


def test_a_feature_of_one_compartment_is_found_there_and_noise_is_not():
    rng, blocks, where, _ = tissue()
    codes = rng.random((len(where), 12))
    codes[:, 0] += 2 * (where == "TME")
    codes[:, 1] = 0
    found = compartments(codes, where, blocks)
    assert found.loc[0, "compartment"] == "TME"
    assert found.loc[0, "effect"] == pytest.approx(1)
    assert found.loc[0, "status"] == YES
    assert found.loc[0, "lo"] <= found.loc[0, "effect"] <= found.loc[0, "hi"] + 1e-12
    assert found.loc[1, "status"] == "not tested"
    assert (found.loc[2:, "status"] == NO).all()


def test_the_effect_decides_too_and_chunks_do_not(monkeypatch):
    rng, blocks, where, _ = tissue()
    codes = rng.random((len(where), 9))
    codes[:, 0] += 2 * (where == "TME")
    whole = compartments(codes, where, blocks)
    monkeypatch.setattr(feature_links, "CHUNK", 2)
    pd.testing.assert_frame_equal(compartments(codes, where, blocks), whole)
    codes[:, 0] = rng.random(len(where)) + 0.3 * (where == "TME")
    assert compartments(codes, where, blocks)["status"][0] == YES
    assert compartments(codes, where, blocks, min_effect=0.99)["status"][0] == NO


def test_one_block_is_no_evidence_however_many_cells_it_has():
    rng, _, where, _ = tissue()
    codes = rng.random((len(where), 1)) + 5 * (where == "TME")[:, None]
    assert compartments(codes, where, np.repeat("b", len(where)))["status"][0] == "not tested"


def stains_of(codes, stains, types, blocks, depth=None):
    depth = np.ones(len(types)) if depth is None else depth
    return feature_links.stain_links(
        sparse.csc_matrix(codes), stains, types, depth, blocks,
        max_q=0.05, min_r=0.1, draws=30, generator=np.random.default_rng(2),
    )  # fmt: skip


def test_a_stain_that_only_knows_types_or_depth_is_no_evidence():
    rng, blocks, _, types = tissue(1200)
    depth = rng.integers(50, 500, len(types)).astype(float)
    of_type = (types == "T cell").astype(float)
    codes = np.column_stack([of_type + 0.1 * rng.random(len(types)), depth, rng.random(len(types))])
    stains = pd.DataFrame({"CD3": 100 * of_type + rng.random(len(types)), "all": depth})
    found = stains_of(codes, stains, types, blocks, depth)
    assert (found["status"] != YES).all()


def test_a_feature_that_follows_a_stain_within_its_type_is_found():
    rng, blocks, _, types = tissue(1200)
    stain = rng.random(len(types))
    codes = np.column_stack([stain + 0.5 * rng.random(len(types)), -stain + rng.random(len(types)) + 3])
    stains = pd.DataFrame({"PanCK": np.where(rng.random(len(types)) < 0.2, np.nan, stain), "flat": 1.0})
    found = stains_of(codes, stains, types, blocks)
    assert list(found["stain"]) == ["PanCK", "PanCK"]
    assert list(found["status"]) == [YES, YES]
    assert found.loc[0, "r"] > 0.7
    assert found.loc[1, "r"] < -0.5  # either sign is consistent


def test_features_and_stains_that_are_smooth_in_space_are_no_evidence_for_each_other():
    """Whole blocks share a level: cells as replicates would call most of these, blocks as replicates 5 %."""
    rng, blocks, where, types = tissue(1200, n_blocks=30)
    level = rng.normal(size=(30, 301))[np.arange(1200) % 30]
    codes, stain = np.exp(level[:, :300]), np.exp(level[:, 300])
    found = stains_of(codes, pd.DataFrame({"CD45": stain}), types, blocks)
    assert 0.01 < (found["p"] < 0.05).mean() < 0.1
    assert (found["status"] == YES).mean() < 0.02
    # Within a block a level is no more of one compartment than of the other.
    noisy = codes * rng.random(codes.shape)
    assert (compartments(noisy, where, blocks, min_effect=0)["status"] == YES).mean() < 0.02


def test_a_stain_without_spread_is_not_tested():
    _, blocks, _, types = tissue()
    found = stains_of(np.arange(600.0)[:, None], pd.DataFrame({"flat": np.ones(600)}), types, blocks)
    assert list(found["status"]) == ["not tested"]


def test_stability_raises_no_grade_by_itself():
    """Where seeds are compared every aligned row is stable: a link that all rows have tells none apart."""
    states = {"compartment": [YES, YES], "channel": [YES, NO], "stain": [NO, NO], "steering": [NO, NO]}
    rows = pd.DataFrame({f"{link}_status": values for link, values in states.items()}).assign(aligned=True)
    rules = SETTINGS["grades"]
    both = [grading.grades(rows.assign(stability_status=state), rules).tolist() for state in (YES, NO)]
    assert both[0] == both[1] == ["moderate", "exploratory"]
    asked = {**rules, "moderate": {"required": ["stability"], "at_least": 1}}
    assert list(grading.grades(rows.assign(stability_status=[YES, NO]), asked)) == ["moderate", "exploratory"]


def test_stability_comes_from_the_table_over_seeds():
    found = feature_links.stability_links(pd.DataFrame({"feature": [4, 9], "stable": [True, False]}))
    assert list(found["status"]) == [YES, NO]


# --- links of terms


def edges():
    columns = ("level", "source", "target", "channel", "a", "b", "log2_ratio", "q")
    rows = [
        ("concept pair", "B", "T", "", "T:1", "T:2", 1.2, 0.30),
        ("concept pair", "T", "T", "", "T:2", "T:3", 0.8, 0.01),
        ("channel, cell types", "B", "T", "metabolic", "", "", 0.5, 0.02),
        ("channel, compartments", "TME", "tumour", "angiogenesis", "", "", -0.9, 0.001),
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(lo=frame["log2_ratio"] - 1, hi=frame["log2_ratio"] + 1, p=frame["q"], null="shift")


def channels():
    # Columns of the same name as those of edges are the other table's own.
    names = ["metabolic", "metabolic", "generic", "angiogenesis", "generic"]
    ids = [f"T:{i}" for i in range(1, 6)]
    return pd.DataFrame({"term_id": ids, "channel": names, "source": "GO", "name": "n"})


LEVELS = ["concept pair", "channel, cell types", "channel, compartments"]


def test_edges_of_a_term_and_of_its_channel_by_hand():
    found = term_links.channel_links(channels(), edges(), LEVELS, 0.05)
    first = found.loc["T:1"]
    assert (first["level"], first["q"], first["edge"]) == ("channel, cell types", 0.02, "B – T: metabolic")
    assert (first["own_edge"], first["own_q"]) == ("B – T: T:1 / T:2", 0.30)
    assert found.loc["T:2", "edge"] == "T – T: T:2 / T:3"  # smaller q than its channel's
    assert found.loc["T:3", "status"] == YES  # at the other end of a pair
    assert found.loc["T:4", "status"] == NO  # fewer than by chance
    assert found.loc["T:5", "status"] == "not tested"


def test_levels_say_which_edges_support():
    found = term_links.channel_links(channels(), edges(), ["concept pair"], 0.05)
    assert list(found["status"]) == [NO, YES, YES, "not tested", "not tested"]
    assert found.loc["T:1", "shared_q"] == 0.02  # still shown


def test_crosstalk_without_any_edge_tests_no_term():
    found = term_links.channel_links(channels(), edges().head(0), LEVELS, 0.05)
    assert set(found["status"]) == {"not tested"}


def test_steering_by_hand():
    table = pd.DataFrame(
        {
            "term_id": ["T:1", "T:2", "T:3", "T:4"], "effect": [2.0, -2.0, 1.0, np.nan], "lo": 0.0, "hi": 1.0,
            "p": 0.01, "q": [0.01, 0.01, 0.2, np.nan],
        }
    )  # fmt: skip
    assert list(term_links.steering_links(table, 0.05, 0)["status"]) == [YES, NO, NO, "not tested"]


def test_a_table_without_a_column_is_one_sentence():
    with pytest.raises(InputError, match="crosstalk pairs: found no column 'log2_ratio' among level, "):
        term_links.channel_links(channels(), edges().drop(columns="log2_ratio"), LEVELS, 0.05)
    with pytest.raises(InputError, match="steering concepts: found no column 'q'"):
        term_links.steering_links(pd.DataFrame(columns=["term_id", "effect", "lo", "hi", "p"]), 0.05, 0)
    with pytest.raises(InputError, match="alignment concepts: found no column 'lift'"):
        grading.candidates(
            pd.DataFrame(columns=["term_id", "name", "feature", "f1", "lo", "hi", "q"]), pd.DataFrame()
        )


# --- funnel


def test_the_funnel_by_hand():
    rows = rows_of(
        (YES, YES, NO, "not computed", YES),
        (YES, NO, YES, "not computed", YES),
        (NO, YES, YES, "not computed", YES),
        (YES, YES, YES, "not computed", YES),
    ).assign(feature=[1, 1, 2, 3], aligned=[True, True, True, False])
    chain = grading.Chain(rows, {"stability": "not computed"}, 10, 8)
    found = funnel.counts(chain, "real", RULES).set_index("step")
    sizes = found.loc[["features", "firing", "best of a term", "alignment"], "features"]
    assert sizes.tolist() == [10, 8, 3, 2]
    assert found.loc["compartment", ["features", "rows", "alone_features", "alone_rows"]].tolist() == [
        1,
        2,
        2,
        3,
    ]
    assert found.loc["channel", ["features", "rows", "alone_features"]].tolist() == [1, 1, 3]
    assert found.loc["stain", "rows"] == 0
    assert found.loc["stability", "status"] == "not computed"
    assert np.isnan(found.loc["stability", "features"])
    assert found.loc[["strong", "moderate", "exploratory"], "rows"].tolist() == [1, 2, 0]


def test_worlds_are_averaged_with_their_range():
    some = grading.Chain(rows_of((YES, YES, YES, YES, YES)), {}, 5, 5)
    none = grading.Chain(rows_of((NO,) * 5, aligned=False), {}, 5, 5)
    tables = [funnel.counts(chain, "null", RULES) for chain in (some, none, none, none)]
    found = funnel.average(tables, "null").set_index("step")
    assert found.loc["steering", ["features", "lo", "hi"]].tolist() == [0.25, 0, 1]
    strong = funnel.by_chance(tables[0], tables)["strong"]
    assert (strong["rows"], strong["mean"], strong["share"], strong["p"]) == (1, 0.25, 0.25, 0.4)
    assert funnel.by_chance(tables[1], tables)["strong"]["share"] is None


# --- the whole chain


def world(planted: bool, seed=3):
    """Counts and cells of 12 features; planted: 4 are a term each, active in TME, and follow a stain."""
    rng, blocks, where, types = tissue(1200, seed=seed)
    n_genes, n_features, n_terms = 120, 12, 24
    members = np.zeros((n_terms, n_genes), bool)
    for term in range(n_terms):
        members[term, rng.choice(n_genes, 10, replace=False)] = True
    tokens = rng.integers(20, 40, (3, n_genes))
    rates = np.tile(rng.random((1, n_genes, n_features, 1)) < 0.08, (3, 1, 1, 1)) * 0.9
    if planted:
        for i in range(4):
            rates[:, :, i, 0] = np.where(members[i], 0.9, 0.01)
    counts = rng.binomial(tokens[:, :, None, None], rates).astype(np.int32)
    firing = features.Firing(counts, tokens, [f"G{i}" for i in range(n_genes)], [0.0])
    stain = rng.random(len(types))
    codes = rng.random((len(types), n_features))
    if planted:
        codes[:, :4] += (2 * (where == "TME") + stain)[:, None]
    obs = pd.DataFrame(
        {
            "sample": "s1", "cell_type": types, "block": blocks, "split": "test", "n_counts": 100,
            "n_genes": 50, "stain_PanCK": stain,
        }
    )  # fmt: skip
    obs.index = [f"s1:{i}" for i in range(len(obs))]
    cells = Cells(sparse.csr_matrix((len(obs), 1)), ["G0"], obs, np.zeros((len(obs), 2)))
    terms = pd.DataFrame({"term_id": [f"T:{i}" for i in range(n_terms)], "name": EVIL})
    made = alignment.align(
        firing, sparse.csr_matrix(members.T), terms, firing.genes, permutations=60,
        generator=np.random.default_rng(seed), **{**ALIGNMENT, "gene_min_genes": 5, "gene_folds": 3},
    )  # fmt: skip
    concepts = made.concepts.assign(lo=np.nan, hi=np.nan)
    arm = analysis.Arm(
        concepts, made.interpretable, made.summary, sparse.csc_matrix(codes), np.ones(len(obs), bool)
    )
    given = alignment.reindex(sparse.csr_matrix(members.T), firing.genes, firing.genes)
    return {
        "arm": arm, "cells": cells, "compartments": where, "firing": firing, "members": given,
        "term_table": terms,
    }  # fmt: skip


def of_terms(n=24):
    """All terms in one channel with an edge: as generous as tables of terms can be."""
    ids = [f"T:{i}" for i in range(n)]
    return analysis.Terms(
        channels=pd.DataFrame({"term_id": ids, "channel": "metabolic"}), pairs=edges(),
        steering=pd.DataFrame(
            {"term_id": ids, "effect": 1.0, "lo": 0.5, "hi": 1.5, "p": 0.001, "q": 0.001}
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def planted():
    return world(True)


@pytest.fixture(scope="module")
def found(planted):
    other = world(False)["arm"]
    return analysis.collect(
        **planted, terms=of_terms(), settings=SETTINGS, alignment=ALIGNMENT, seed=1, untrained=other
    )


def test_planted_chains_are_strong_and_worlds_have_hardly_any(found):
    strong = found.rows[found.rows["grade"] == "strong"]
    assert {(int(f), t) for f, t in zip(strong["feature"], strong["term_id"])} >= {
        (i, f"T:{i}") for i in range(4)
    }
    assert (strong["compartment"] == "TME").all()
    assert set(found.rows["stability_status"]) == {"not computed"}
    by_chance = found.summary["permuted membership"]["strong"]
    assert by_chance["mean"] < 1
    assert by_chance["p"] == pytest.approx(1 / 21)


def test_where_there_is_nothing_no_row_is_strong():
    nothing = world(False)
    found = analysis.collect(
        **nothing, terms=of_terms(), settings=SETTINGS, alignment=ALIGNMENT, seed=1, untrained=None
    )
    assert found.summary["grades"]["strong"] == 0
    assert found.summary["permuted membership"]["strong"]["mean"] == 0
    assert found.summary["untrained"] == {"status": "not available"}
    assert set(found.funnel["chain"]) == {"real", "permuted membership", "exchanged terms"}
    if found.rows.empty:
        assert found.summary["status"] == "no interpretable pair"


def test_the_untrained_arm_is_compared_over_the_links_that_both_have(found):
    table = found.funnel.set_index(["chain", "step"])
    for chain in ("untrained", "real, links of untrained"):
        assert table.loc[(chain, "channel"), "status"] == "not available"
        assert np.isnan(table.loc[(chain, "steering"), "features"])
        assert table.loc[(chain, "compartment"), "status"] == "counted"
    assert table.loc[("real", "channel"), "status"] == "counted"
    assert found.summary["untrained"]["links"] == ["compartment", "stain"]
    assert found.summary["untrained"]["strong"] == {"rows": 0, "real_rows": 0}
    assert table.loc[("real, links of untrained", "stain"), "features"] >= 4


def test_the_same_seed_gives_the_same_chain(planted, found):
    again = analysis.collect(**planted, terms=of_terms(), settings=SETTINGS, alignment=ALIGNMENT, seed=1)
    pd.testing.assert_frame_equal(again.rows, found.rows)


def test_a_run_with_nothing_but_alignment_has_exploratory_rows_only(planted):
    bare = {**planted, "compartments": np.full(1200, "")}
    obs = planted["cells"].obs.drop(columns="stain_PanCK")
    bare["cells"] = Cells(planted["cells"].counts, ["G0"], obs, planted["cells"].spatial)
    reasons = {"channel": "not computed: crosstalk is of k8, layer 1"}
    found = analysis.collect(
        **bare, terms=analysis.Terms(reasons=reasons), settings=SETTINGS, alignment=ALIGNMENT, seed=1
    )
    assert set(found.rows["grade"]) == {"exploratory"}
    assert found.summary["links"] == {
        "compartment": "not measured", "channel": "not computed: crosstalk is of k8, layer 1",
        "stain": "not measured", "stability": "not computed", "steering": "not computed",
    }  # fmt: skip
    assert (found.rows["n_missing"] == 5).all()
    full = analysis.collect(**planted, terms=of_terms(), settings=SETTINGS, alignment=ALIGNMENT, seed=1)
    assert set(found.rows.columns) == set(full.rows.columns)
    run = SimpleNamespace(
        evidence=(
            {"evidence": found.rows, "funnel": found.funnel}, {"dictionary": "k", "layer": 0} | found.summary
        ),
        config={"evidence": SETTINGS},
    )  # fmt: skip
    page = render("t", "s", [evidence(run)])
    assert "not computed: crosstalk is of k8, layer 1" in page


def test_only_stable_features_are_interpretable_in_a_world_where_seeds_are_compared(planted):
    firing, members, terms = (planted[key] for key in ("firing", "members", "term_table"))
    none = pd.DataFrame({"feature": range(12), "stable": False})
    options = {**ALIGNMENT, "max_q": 1, "min_lift": -1}
    drawn = permuted.worlds(firing, members, terms, options, 20, np.random.default_rng(0))
    assert all(world["aligned"].all() for world in drawn)
    drawn = permuted.worlds(firing, members, terms, options, 20, np.random.default_rng(0), none)
    assert not any(world["aligned"].any() for world in drawn)


def test_too_few_worlds_are_one_sentence(planted):
    with pytest.raises(InputError, match=r"evidence.permutations: found 5, expected at least 20"):
        permuted.worlds(
            planted["firing"],
            planted["members"],
            planted["term_table"],
            ALIGNMENT,
            5,
            np.random.default_rng(0),
        )


def test_exchanged_terms_keep_features_and_what_is_aligned():
    rows = pd.DataFrame(
        {
            "feature": range(6),
            "term_id": list("abcdef"),
            "name": list("ABCDEF"),
            "aligned": [True] * 4 + [False] * 2,
        }
    )
    drawn = permuted.exchanged(rows, 30, np.random.default_rng(0))
    for each in drawn:
        assert each["feature"].tolist() == list(range(6))
        assert each["aligned"].tolist() == rows["aligned"].tolist()
        assert sorted(each["term_id"][:4]) == list("abcd")
        assert each["term_id"][4:].tolist() == ["e", "f"]
        assert (each["term_id"].str.upper() == each["name"]).all()
    assert len({tuple(each["term_id"]) for each in drawn}) > 5


# --- reading


def test_edges_of_another_dictionary_are_not_computed(tmp_path):
    store.write_json(tmp_path / "activity.json", {"dictionary": "k8", "layer": 1, "source": "features"})
    given = {"activity": tmp_path / "activity.json"}
    assert reading.read_terms(given, "k8", 3).reasons == {
        "channel": "not computed: crosstalk is of k8, layer 1"
    }
    store.write_json(tmp_path / "activity.json", {"dictionary": "k8", "layer": 3, "source": "genes"})
    assert reading.read_terms(given, "k8", 3).reasons["channel"].endswith("crosstalk is of member genes")


def test_compartments_are_matched_by_cell_and_a_lost_one_is_an_error(tmp_path, planted):
    cells = Cells(None, [], planted["cells"].obs.head(3), np.zeros((3, 2)))
    path = tmp_path / "s1.parquet"
    table = pd.DataFrame({"cell": ["s1:2", "s1:0", "s1:1"], "region": ["tumour", "TME", None]})
    store.write_table(path, table.assign(compartment="interface"))
    assert reading.read_compartments([path], cells, "geometric").tolist() == ["TME", "", "tumour"]
    assert reading.read_compartments([path], cells, "called").tolist() == ["interface"] * 3
    store.write_table(path, table.head(2))
    with pytest.raises(InputError, match=r"s1.parquet: found no cell 's1:1', expected all cells"):
        reading.read_compartments([path], cells, "geometric")


# --- report and workflow


def test_the_section_escapes_names_and_has_figure_and_tables(found):
    summary = {"dictionary": "k8", "layer": 3, **found.summary}
    tables = {"evidence": found.rows, "funnel": found.funnel}
    run = SimpleNamespace(evidence=(tables, summary), config={"evidence": SETTINGS})
    section = evidence(run)
    page = render("t", "s", [section])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert [figure.name for figure in section.figures] == ["evidence-funnel"]
    assert "with exchanged terms" in section.prose[2]
    assert "stable over seeds (not computed)" in section.prose[0]


def test_a_run_without_a_chain_has_no_section_and_one_without_rows_has():
    assert evidence(SimpleNamespace(evidence=None)) is None
    nothing = world(False)
    arm = nothing["arm"]
    empty = {**nothing, "arm": dataclasses.replace(arm, interpretable=arm.interpretable.head(0))}
    found = analysis.collect(**empty, terms=of_terms(), settings=SETTINGS, alignment=ALIGNMENT, seed=1)
    assert found.summary["status"] == "no interpretable pair"
    summary = {"dictionary": "k8", "layer": 3, **found.summary}
    run = SimpleNamespace(
        evidence=({"evidence": found.rows, "funnel": found.funnel}, summary), config={"evidence": SETTINGS}
    )
    assert "No rows." in render("t", "s", [evidence(run)])


def test_the_workflow_leaves_a_row_for_every_interpretable_pair(project):
    folder = project / "results/tiny"
    summary = store.read_json(folder / "evidence/summary.json")
    place = folder / f"alignment/{summary['dictionary']}/layer_{summary['layer']}"
    pairs = store.read_table(place / "interpretable.parquet")
    rows = store.read_table(folder / "evidence/evidence.tsv")
    expected = set(zip(pairs["feature"], pairs["term_id"]))
    assert set(zip(rows["feature"], rows["term_id"])) == expected
    steps = store.read_table(folder / "evidence/funnel.tsv").set_index(["chain", "step"])
    assert steps.loc[("real", "alignment"), "rows"] == len(pairs)
    assert sum(summary["grades"].values()) == len(pairs)
    compared = summary["layer"] == 1  # the layer that the untrained arm of the small workflow has
    assert summary["untrained"]["status"] == ("compared" if compared else "not available")
    assert 'id="evidence"' in (folder / "report.html").read_text(encoding="utf-8")
