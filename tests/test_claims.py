"""What the README claims of the demo and of the real cells, on runs made here from nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import resources

pytestmark = pytest.mark.soak

DEMO_BYTES = 300e6
STRENGTH_0 = [
    f"results/demo/arms/strength_0/alignment/batchtopk/layer_{layer}/{table}"
    for layer in (1, 3)
    for table in ("concepts.parquet", "summary.json")
]


def run(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    for part in ("workflow", "scripts", "config", "resources", "envs"):
        shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def demo(project):
    run(project)
    return project / "results/demo"


def comparison(demo: Path, against: str, scope: str = "planted programs") -> pd.Series:
    table = pd.read_csv(demo / "recovery/comparisons.tsv", sep="\t")
    chosen = table[(table.scope == scope) & (table.left == "SAE") & (table.right == against)]
    return chosen[chosen.measure == "F1"].iloc[0]


@pytest.mark.parametrize("against", ["permuted membership", "raw neurons", "untrained", "best single gene"])
def test_planted_programs_are_found_beyond(demo, against):
    found = comparison(demo, against)
    assert found.n == 24
    assert found.lo > 0, found.to_dict()


def test_the_untrained_model_shows_no_excess(demo):
    table = pd.read_csv(demo / "recovery/comparisons.tsv", sep="\t")
    own = table[(table.scope == "planted programs") & (table.left == "untrained") & (table.measure == "F1")]
    assert own.iloc[0].lo < 0, own.iloc[0].to_dict()


def test_decoys_show_no_excess(demo):
    """Terms of randomly drawn genes: whatever is found there is found by chance."""
    assert comparison(demo, "permuted membership", "decoys").lo < 0.05


def test_the_model_keeps_its_predictions_through_the_dictionaries(demo):
    for layer in (1, 3):
        found = json.loads((demo / f"dictionaries/batchtopk/layer_{layer}/quality.json").read_text())
        error = found["error"]
        assert error["original"] < error["reconstruction"] < min(error["mean"], error["zero"]), error
        # What the size was chosen by: docs/dictionaries.md.
        assert found["recovered"]["mean"] > 0.9, found["recovered"]
        metrics = json.loads((demo / f"dictionaries/batchtopk/layer_{layer}/metrics.json").read_text())
        assert metrics["test"]["fvu"] < 0.2 and 6 < metrics["test"]["l0"] < 10, metrics["test"]


def test_units_mean_something_and_depth_does_not(demo):
    """Claims of the issue that can be checked against the truth, each within its own bounds."""
    claims = pd.read_csv(demo / "recovery/unit_claims.tsv", sep="\t").set_index("claim")
    wanted = claims[claims["met"].notna()]
    assert set(wanted["met"]) <= {"yes", "no"} and len(wanted) == 7, claims.to_string()
    missed = wanted.index[wanted["met"] == "no"]
    assert set(missed) <= {"AUROC of TME against the rest"}, claims.to_string()
    # Interface and TME hold the same cell types: not even a classifier that was taught them by expression
    # tells the TME from the rest, but what lies around a cell does.
    if len(missed):
        assert claims.at["… TME, by a classifier shown expression", "hi"] < 0.9, claims.to_string()
        around = claims.at["… TME, by a classifier shown units of its neighbours", "value"]
        assert around > claims.at["… TME, by a classifier shown units", "value"], claims.to_string()


def test_steering_along_concepts_beats_its_controls(demo):
    """Concepts at all tokens tell targets apart, controls of the same norm do not; the ceiling is high."""
    effects = pd.read_parquet(demo / "steering/effects.parquet")
    mean = effects.groupby("method")["centroid_accuracy"].mean()
    own = mean["concept, all tokens"]
    assert effects["target"].nunique() == 12 and own > 0.5
    for control in ("another gene's concepts, all tokens", "permuted probe, all tokens", "no change"):
        assert own > mean[control], control
    assert mean["split half (ceiling)"] > own
    assert effects["p_min"].dropna().eq(1 / 501).all()
    size = sum(path.stat().st_size for path in (demo / "steering").rglob("*") if path.is_file())
    assert size < 5e6


def test_planted_communication_ranks_high_among_what_can_be_tested(demo):
    """Of six pairs those whose programs have a feature; and most of the directions."""
    found = json.loads((demo / "recovery/pair_summary.json").read_text())["variants"]
    assert found["features"]["n_missing"] <= 1 and found["features"]["auroc_tested"] > 0.9, found["features"]
    assert found["features"]["n_direction_right"] >= 5, found["features"]
    assert found["planted activities"]["auroc"] > 0.9, found["planted activities"]


def test_strength_0_shows_no_excess(project, demo):
    run(project, *STRENGTH_0)
    for path in STRENGTH_0:
        if path.endswith(".json"):
            summary = json.loads((project / path).read_text())
            assert summary["p"] > 0.01, summary
            # One of 62 concepts at q < 0.05 may come by chance; many may not.
            assert summary["n_concepts_significant"] <= 3, summary


def test_results_keep_to_their_budget(demo):
    used = sum(p.stat().st_size for p in demo.rglob("*") if p.is_file() and "strength_" not in str(p))
    assert used < DEMO_BYTES, f"{used / 1e6:.0f} MB"
    assert (demo / "report.html").stat().st_size < 15e6


def within_what_was_asked_for(project, name):
    """No job of a run held more memory than its rule asks of SLURM, which would have killed it."""
    jobs = resources.measured(project, name)
    seen = jobs.dropna(subset="peak_mb")
    assert set(seen["rule"]) >= {"build_model", "extract", "train_dictionary", "encode", "align"}
    beyond = seen[seen["peak_mb"] > seen["mem_mb"]]
    assert beyond.empty, beyond.to_string()


def test_no_rule_of_the_demo_exceeds_its_memory(project, demo):
    within_what_was_asked_for(project, "demo")


@pytest.mark.real
def test_real_cells_run_end_to_end(project, real_data):
    # Two of the four layers, for time: the README's numbers are of all.
    overlay = project / "layers.yaml"
    overlay.write_text("activations: {layers: [0, 3]}\n")
    configs = ("--configfile", "config/nsclc_mini.yaml", overlay.name)
    run(project, *configs, "--config", f"data_root={real_data}")
    results = project / "results/nsclc_mini"
    assert (results / "report.html").is_file()
    for layer in (0, 3):
        summary = json.loads((results / f"alignment/batchtopk/layer_{layer}/summary.json").read_text())
        assert summary["n_concepts_scored"] == 2020 and summary["n_permutations"] == 200
    for space, layer in (("cls", 3), ("features", 3)):
        units = pd.read_parquet(results / f"tis/{space}/layer_{layer}/units.parquet")
        assert units.loc[units["variant"] == "shuffled", "tis_hard"].mean() == pytest.approx(0.5, abs=0.02)
        assert (units.loc[units["variant"] == "units", "reason"] == "").any()
    assert not (results / "recovery").exists(), "there is no truth to recover in real data"
    within_what_was_asked_for(project, "nsclc_mini")
