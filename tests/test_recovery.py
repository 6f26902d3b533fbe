"""Recovery: known differences, the layer from validation alone, programs that cannot be judged."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from interptfm import recovery
from interptfm.errors import InputError


def table(f1, null=0.3, single=0.2) -> pd.DataFrame:
    f1 = np.asarray(f1, float)
    n = len(f1)
    return pd.DataFrame(
        {
            "term_id": [f"T{i}" for i in range(n)],
            "name": [f"term {i}" for i in range(n)],
            "feature": range(n),
            "f1": f1,
            "null_mean": np.broadcast_to(null, n),
            "f1_single_gene": np.broadcast_to(single, n),
            "q": 0.01,
        }
    )


def terms(n: int) -> pd.DataFrame:
    ids = [f"T{i}" for i in range(n)]
    return pd.DataFrame({"term_id": ids, "members": [np.array([i], dtype=object) for i in ids]})


def truth(*ids: str) -> pd.DataFrame:
    return pd.DataFrame({"term_id": ids})


F1 = np.linspace(0.4, 0.8, 12)


def one(frame: pd.DataFrame, scope: str, comparison: str, measure: str = "F1") -> pd.Series:
    rows = frame[
        (frame["scope"] == scope) & (frame["comparison"] == comparison) & (frame["measure"] == measure)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


def test_differences_have_the_known_mean_sign_and_verdict():
    tables = {"SAE": table(F1), "raw neurons": table(F1 - 0.1, null=0.1), "untrained": table(F1 + 0.05)}
    found = recovery.compare(tables, {"all terms": [f"T{i}" for i in range(12)]}, seed=3)
    neurons = one(found, "all terms", "SAE − raw neurons")
    assert neurons["difference"] == pytest.approx(0.1)
    # The difference is the same for all terms: any resample has the same mean.
    assert neurons["lo"] == pytest.approx(0.1) and neurons["hi"] == pytest.approx(0.1)
    assert neurons["verdict"].startswith("higher")
    # Above the neurons in F1, below them in what each has over its own null: 0.3 against 0.1.
    excess = one(found, "all terms", "SAE − raw neurons", "excess")
    assert excess["difference"] == pytest.approx(-0.1) and excess["verdict"].startswith("lower")
    assert one(found, "all terms", "SAE − untrained")["verdict"].startswith("lower")
    null = one(found, "all terms", "SAE − its permuted membership")
    assert null["difference"] == pytest.approx(F1.mean() - 0.3)
    assert null["lo"] < null["difference"] < null["hi"]
    single = one(found, "all terms", "SAE − best single gene")
    assert single["mean_right"] == pytest.approx(0.2)


def test_interval_agrees_with_scipy():
    from scipy.stats import bootstrap

    left = pd.Series(np.random.default_rng(0).gamma(2, 0.1, 25), index=range(25))
    right = pd.Series(0.15, index=range(25))
    found = recovery.paired_difference(left, right, np.random.default_rng(1), 20_000)
    expected = bootstrap(
        ((left - right).to_numpy(),), np.mean, n_resamples=20_000, method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert found["lo"] == pytest.approx(expected.low, abs=0.003)
    assert found["hi"] == pytest.approx(expected.high, abs=0.003)


def test_pairs_need_both_scores_and_an_interval_needs_two_pairs():
    left = pd.Series([0.5, 0.6, math.nan], index=["a", "b", "c"])
    one_pair = recovery.paired_difference(left, left.drop("a"), np.random.default_rng(0))
    assert one_pair["n"] == 1 and math.isnan(one_pair["lo"])
    assert one_pair["verdict"] == "not tested: fewer than 2 terms"
    none = recovery.paired_difference(left, pd.Series(dtype=float), np.random.default_rng(0))
    assert none["n"] == 0 and math.isnan(none["difference"])


def test_no_difference_is_not_called_one():
    noise = np.random.default_rng(5).normal(0, 0.1, 40)
    found = recovery.compare({"SAE": table(0.3 + noise - noise.mean())}, {"all": terms(40)["term_id"]}, 0)
    null = one(found, "all", "SAE − its permuted membership")
    assert null["lo"] < 0 < null["hi"] and null["verdict"].startswith("no difference shown")
    equal = recovery.paired_difference(pd.Series([0.3] * 5), pd.Series([0.3] * 5), np.random.default_rng(0))
    assert equal["verdict"].startswith("no difference shown")


def test_layer_is_chosen_on_validation_alone():
    excess = {0: 0.1, 1: 0.3, 2: 0.3, 3: math.nan}
    assert recovery.choose_layer(excess) == 1
    generator = np.random.default_rng(0)
    chosen = set()
    for _ in range(5):
        layers = {layer: table(generator.permutation(F1) * generator.uniform()) for layer in excess}
        summary = recovery.evaluate(truth("T1", "T2"), terms(12), {"SAE": layers}, excess, 0, 100)[2]
        chosen.add(summary["layer"])
    assert chosen == {1}
    with pytest.raises(InputError, match="finite number for one layer or more"):
        recovery.choose_layer({0: math.nan})


def test_programs_are_found_in_classes_and_missing_ones_are_reported():
    vocabulary = terms(6)
    vocabulary.at[3, "members"] = np.array(["T3", "P9", "P8"], dtype=object)
    scores = table(F1[:6])
    scores.loc[5, "f1"] = math.nan
    planted = truth("T1", "P9", "T3", "T5", "GONE")
    programs, compared, summary = recovery.evaluate(
        planted, vocabulary, {"SAE": {0: scores}}, {0: 0.1}, 0, 200
    )
    assert set(programs["term_id"]) == {"T1", "T3"}
    assert programs.set_index("term_id").loc["T3", "programs"] == "P9,T3"
    assert [record["program"] for record in summary["missing"]] == ["T5", "GONE"]
    assert summary["missing"][0]["status"].startswith("not scored")
    assert summary["missing"][1]["status"].startswith("not a term")
    assert summary["collapsed"][0]["status"] == "scored as the class of T3"
    assert (summary["n_planted"], summary["n_scored"], summary["n_terms_scored"]) == (5, 3, 2)
    n = compared[compared["comparison"] == "SAE − its permuted membership"].set_index("scope")["n"]
    # T5 was planted but not scored: neither a scored program nor a term that nobody planted.
    assert n.to_dict() == {"planted programs": 2, "all terms": 5, "not planted": 3}


def test_roles_in_truth_give_decoys_of_their_own():
    rows = truth("T1", "T2", "T4", "T5").assign(role=["planted", "planted", "decoy", "decoy"])
    programs, compared, summary = recovery.evaluate(
        rows, terms(8), {"SAE": {0: table(F1[:8])}}, {0: 0.1}, 0, 200
    )
    assert set(programs["term_id"]) == {"T1", "T2"} and summary["n_planted"] == 2
    n = compared[compared["comparison"] == "SAE − its permuted membership"].set_index("scope")["n"]
    assert n["decoys"] == 2 and n["not planted"] == 6


def test_programs_table_stands_beside_each_baseline():
    tables = {"SAE": {2: table(F1)}, "raw neurons": {2: table(F1 / 2)}, "svd_only": {0: table(F1)}}
    programs, compared, summary = recovery.evaluate(truth("T0", "T7"), terms(12), tables, {2: 0.2}, 0, 200)
    assert list(programs["term_id"]) == ["T7", "T0"]
    assert programs["raw neurons"].tolist() == pytest.approx((programs["f1"] / 2).tolist())
    assert programs["svd_only"].isna().all() and summary["absent_at_layer"] == ["svd_only"]
    row = one(compared, "planted programs", "SAE − svd_only")
    assert row["n"] == 0 and row["verdict"] == "not compared: no svd_only at this layer"


def test_rows_do_not_depend_on_which_other_tables_are_compared():
    scopes = {"all": terms(12)["term_id"]}
    first = recovery.compare({"SAE": table(F1), "a": table(F1**2), "b": table(F1)}, scopes, 7)
    second = recovery.compare({"SAE": table(F1), "a": table(F1**2)}, scopes, 7)
    left = one(first, "all", "SAE − a")
    pd.testing.assert_series_equal(left, one(second, "all", "SAE − a"), check_names=False)
    other = recovery.compare({"SAE": table(F1), "a": table(F1**2)}, scopes, 8)
    assert one(other, "all", "SAE − a")["lo"] != left["lo"]


def test_curve_has_no_excess_at_strength_zero_and_chooses_each_layer_on_validation():
    noise = np.random.default_rng(1).normal(0, 0.05, 12)
    runs = [
        {"strength": s, "layer": layer, "validation_excess": 0.1 + 0.1 * (layer == 2) * (s > 0),
         "truth": truth(*(f"T{i}" for i in range(6))),
         "concepts": table(0.3 + noise - noise[:6].mean() + 0.1 * s * (layer == 2))}
        for s in (1, 0, 2)
        for layer in (0, 2)
    ]  # fmt: skip
    curve = recovery.strength_curve(runs, terms(12), 0, 2000)
    planted = curve[curve["scope"] == "planted programs"].set_index("strength")
    assert planted.index.tolist() == [0, 1, 2] and planted["layer"].tolist() == [0, 2, 2]
    assert planted["mean_excess"].tolist() == pytest.approx([0, 0.1, 0.2])
    assert planted.loc[0, "verdict"].startswith("no difference shown")
    assert planted.loc[2, "verdict"].startswith("higher")
    assert not [name for name in curve if "auroc" in name]


def test_curve_has_auroc_on_held_out_genes_where_the_runs_do():
    noise = np.random.default_rng(2).normal(0, 0.02, 12)
    runs = [
        {"strength": s, "layer": 0, "validation_excess": 0.1, "truth": truth(*(f"T{i}" for i in range(6))),
         "concepts": table(F1[:12]).assign(gene_auroc=0.5 + noise - noise[:6].mean() + 0.2 * s,
                                           gene_auroc_null_mean=0.5)}
        for s in (0, 1)
    ]  # fmt: skip
    curve = recovery.strength_curve(runs, terms(12), 0, 2000)
    planted = curve[curve["scope"] == "planted programs"].set_index("strength")
    assert planted["gene_auroc_excess"].tolist() == pytest.approx([0, 0.2], abs=1e-9)
    assert planted.loc[0, "gene_auroc_lo"] < 0 < planted.loc[0, "gene_auroc_hi"]
    assert planted.loc[1, "gene_auroc_lo"] > 0.15 and planted["gene_auroc_n"].tolist() == [6, 6]


def test_a_term_twice_or_a_missing_column_is_one_sentence():
    scopes = {"all": ["T0"]}
    with pytest.raises(InputError, match="concepts of SAE: found term 'T0' twice"):
        recovery.compare({"SAE": pd.concat([table(F1), table(F1[:1])])}, scopes, 0)
    with pytest.raises(InputError, match="found no column 'null_mean'"):
        recovery.compare({"SAE": table(F1).drop(columns="null_mean")}, scopes, 0)
