"""The DAG: it runs end to end on a small simulation, and a change reruns exactly what it touches."""

from __future__ import annotations

import ast
import base64
import json
import math
import re
import subprocess
import sys
import zlib

import pytest
import yaml
from planning import planned, snakemake

from interptfm import config as settings
from interptfm import dependencies, store


def test_every_output_is_there_and_nothing_is_left_to_do(project):
    results = project / "results/tiny"
    for path in (
        "report.html",
        "provenance.json",
        "atlas/index.html",
        "recovery/comparisons.tsv",
        "alignment/headline.tsv",
        "alignment/chosen_layer.json",
        "cells/section_1.h5ad",
        "activations/section_2/0.zarr.zip",
        "alignment/batchtopk/layer_1/summary.json",
        "alignment/neurons/layer_0/concepts.parquet",
        "dictionaries/batchtopk/layer_1/quality.json",
        "dictionaries/cells/layer_1/quality.json",
        "absorption/batchtopk/layer_0.tsv",
        "arms/untrained/alignment/batchtopk/layer_1/concepts.parquet",
        "logs/align/batchtopk_0.log",
        "benchmarks/align/batchtopk_0.tsv",
        "tis/cls/layer_0/units.parquet",
        "tis/features/layer_1/summary.json",
        "regions/section_2.parquet",
        "probes/layer_0/probes.safetensors",
        "probes/layer_1/metrics.parquet",
        "probes/cosines.parquet",
        "arms/untrained/probes/layer_1/probes.json",
        "regions/interface.parquet",
        "activity/section_1.h5ad",
        "activity/channel_means.parquet",
        "crosstalk/section_1/edges.parquet",
        "crosstalk/section_2/graph.graphml",
        "crosstalk/pairs.parquet",
        "recovery/pair_summary.json",
        "truth/pairs.parquet",
        "recovery/unit_claims.tsv",
        "arms/genes_a/activations/section_1/0.zarr.zip",
        "steering/effects.parquet",
        "steering/map.parquet",
        "steering/concepts.parquet",
        "evidence/evidence.tsv",
        "evidence/funnel.tsv",
        "recovery/steering_claims.tsv",
    ):
        assert (results / path).is_file(), path
    assert not list(results.rglob(".*.zarr.zip")), "a temporary file was left behind"
    assert not (results / "arms/untrained/cells").exists(), "an arm reads the main arm's cells"
    assert not (results / "arms/untrained/alignment/batchtopk/layer_0").exists(), "the arm names layer 1 only"
    read = [path.parts[-5] for path in results.glob("arms/*/features/*/*/cells.zarr.zip")]
    assert read == ["untrained"], "the chain of evidence reads cells of that arm, nothing reads another's"
    assert not (results / "arms/genes_a/dictionaries").exists(), "an arm that serves a judge has no concepts"
    done = snakemake(project, "--dry-run")
    assert planned(done.stdout + done.stderr) == {} and "Nothing to be done" in done.stdout + done.stderr


def test_the_atlas_shows_what_the_stages_found(project):
    """Of a feature that steering clamps, and of the tissue interpretability of its layer."""
    results = project / "results/tiny"
    text = (results / "atlas/data/space_1/features_0.js").read_text()
    shown = json.loads(zlib.decompress(base64.b64decode(text.split('"')[3])))
    assert len(shown) == 64
    pairs = store.read_table(results / "alignment/batchtopk/layer_1/pairs.parquet")
    units = store.read_table(results / "tis/features/layer_1/units.parquet")
    tis = units[units["variant"] == "units"].set_index("unit")["tis_hard"]
    clamped = store.read_json(results / "steering/summary.json")["clamped"]
    assert clamped and set(clamped.values()) == {i for i, found in enumerate(shown) if found["steering"]}
    for feature, found in enumerate(shown):
        mine = pairs[pairs["feature"] == feature]
        assert sorted(row[5] for row in found["pairs"]) == pytest.approx(sorted(mine["f1"]), rel=1e-3)
        value = found["tis"][0]
        assert (value is None) == math.isnan(tis[feature])
        assert value is None or value == pytest.approx(tis[feature], rel=1e-3)


def test_two_versions_of_the_ontology_are_compared(project, tmp_path):
    """Target diff: an arm with the same files elsewhere differs in nothing, one with other files does."""
    folder = project / "resources/demo_ontology"
    lines = (folder / "demo.gaf").read_text().splitlines(keepends=True)
    kept = [line for i, line in enumerate(lines) if line.startswith("!") or i % 5]
    (project / "resources/copy.gaf").write_text("".join(lines))
    (project / "resources/later.gaf").write_text("".join(kept))
    stanzas = (folder / "demo.obo").read_text().split("\n\n")
    gone = [part for part in stanzas if part.startswith("[Term]\nid: DEMO:0000113\n")]
    assert len(gone) == 1
    (project / "resources/later.obo").write_text("\n\n".join(part for part in stanzas if part not in gone))
    changed = settings.load_yaml(project / "tests/tiny.yaml")
    changed["arms"] |= {
        "copy": {"ontology": {"gaf": "resources/copy.gaf"}},
        "later": {"ontology": {"gaf": "resources/later.gaf", "obo": "resources/later.obo"}},
    }
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(changed))
    done = snakemake(project, "diff", config=str(tmp_path / "changed.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = project / "results/tiny/diff"
    found = {name: store.read_json(results / name / "summary.json") for name in ("copy", "later")}
    same, later = found["copy"], found["later"]
    terms = store.read_table(results / "copy/terms.tsv")
    assert same["n_same"] == len(terms) > 50 and same["mean_jaccard"] == 1
    assert not any(same[f"n_{name}"] for name in ("changed", "added", "removed", "gained", "lost"))
    assert (store.read_table(results / "copy/headline.tsv")["difference"] == 0).all()
    assert later["n_lost"] > 20 and later["n_removed"] > 0 and 0.3 < later["mean_jaccard"] < 1
    terms = store.read_table(results / "later/terms.tsv").set_index("term_id")
    assert terms.loc["DEMO:0000113", "status"] == "removed"
    headline = store.read_table(results / "later/headline.tsv")
    assert set(headline["layer"]) == {0, 1} and (headline["difference"] != 0).any()
    old = store.read_json(project / "results/tiny/alignment/batchtopk/layer_0/summary.json")
    row = headline[(headline["layer"] == 0) & (headline["evaluation"] == "cell_held_out")].iloc[0]
    assert row["old"] == pytest.approx(old["mean_f1"], abs=1e-5)
    assert row["difference"] == pytest.approx(row["new"] - row["old"], abs=1e-5)


EVALUATION = ("recover", "recovery_curve", "recover_units", "recover_steering", "recover_pairs")


def test_only_evaluation_reads_the_truth(root):
    """No rule but those of recovery names truth/ among its inputs, and no library module but theirs."""
    text = "".join(path.read_text() for path in sorted((root / "workflow/rules").glob("*.smk")))
    rules = re.split(r"^\s*(?:rule|checkpoint) (?=\w+:)", text, flags=re.MULTILINE)[1:]
    assert len(rules) > 10
    for rule in rules:
        name = rule.split(":", 1)[0]
        inputs = re.search(r"input:\n(.*?)\n\s*output:", rule, re.DOTALL)
        if inputs and "truth" in inputs.group(1).lower():
            assert name in EVALUATION, f"rule {name} reads truth/"


def scripts_and_libraries(root):
    """Yield (rule, script, names given to lib()) for every rule of the workflow."""
    for path in sorted((root / "workflow/rules").glob("*.smk")):
        for part in re.split(r"^\s*(?:rule|checkpoint) (?=\w+:)", path.read_text(), flags=re.MULTILINE)[1:]:
            script = re.search(r'"\.\./\.\./scripts/(\w+\.py)"', part)
            names = re.search(r"lib\((.*?)\)", part, re.DOTALL) or re.search(
                r'"code": lib\((.*?)\)', path.read_text(), re.DOTALL
            )
            yield part.split(":", 1)[0], script.group(1), ast.literal_eval(f"[{names.group(1)}]")


def test_lib_covers_what_each_script_imports(root):
    library = root / "scripts/interptfm"
    seen = 0
    for rule, script, names in scripts_and_libraries(root):
        declared = set(dependencies.closure(names, library))
        needed = dependencies.imported(root / "scripts" / script, library)
        assert needed <= declared, f"rule {rule}: {sorted(p.name for p in needed - declared)} not in lib()"
        seen += 1
    assert seen > 10


def test_every_rule_keeps_the_contract(root):
    """Log, benchmark, threads, memory, run time, environment and script in every rule with a script."""
    for path in sorted((root / "workflow/rules").glob("*.smk")):
        for part in re.split(r"^\s*(?:rule|checkpoint) (?=\w+:)", path.read_text(), flags=re.MULTILINE)[1:]:
            for key in ("log:", "benchmark:", "threads:", "mem_mb=", "runtime=", "conda:", "script:"):
                assert key in part, f"rule {part.split(':', 1)[0]} has no {key}"
            environment = re.search(r'"\.\./\.\./(envs/\w+\.yaml)"', part).group(1)
            assert (root / environment).is_file()


BAD = [
    ("simulat: {}\n", "found the unknown key 'simulat'; did you mean 'simulate'?"),
    ("activations: {layers: [5]}\n", "found layer 5, expected 0 to 3, since the model has 4 layers"),
    ("samples: nowhere.tsv\n", "nowhere.tsv: not found, expected the sample sheet"),
    ("simulate: {enabled: false}\n", "sample 'section_1': found 0 files *_exprMat_file.csv[.gz]"),
]


@pytest.mark.parametrize("text, message", BAD, ids=[text.strip()[:25] for text, _ in BAD])
def test_mistakes_stop_the_run_before_any_job(root, tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    done = snakemake(root, "--dry-run", config=str(tmp_path / "bad.yaml"))
    assert done.returncode == 1
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "interpTFM:" in line]
    assert len(lines) == 1 and message in lines[0], done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.real
def test_the_real_configuration_plans(root, real_data):
    done = snakemake(root, "--dry-run", "--config", f"data_root={real_data}", config="config/nsclc_mini.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "simulate" not in dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))


@pytest.mark.real
def test_the_real_screen_plans(root, real_data):
    """Steering of THP-1 needs its own model, probes and an untrained arm, and nothing simulated."""
    done = snakemake(
        root, "steering", "--dry-run", "--config", f"data_root={real_data}", config="config/thp1.yaml"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    assert jobs["steer"] == "1" and jobs["build_model"] == "2" and "simulate_screen" not in jobs


def test_extras_plan_the_recovery_curve(root):
    # A run of its own name: what `make demo` left here needs no job.
    done = snakemake(root, "--dry-run", "extras", "--config", "run=never_made", config="config/config.yaml")
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    assert jobs["simulate"] == "4" and jobs["recovery_curve"] == "1" and jobs["write_extras_report"] == "1"


def test_modules_load_without_the_heavy_packages(root):
    """Importing what Snakemake imports while parsing must stay light."""
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import interptfm.config, interptfm.dependencies, "
        "interptfm.job; print([m for m in ('torch', 'scanpy', 'numpy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_three_seeds_say_which_features_are_stable(project):
    """The extras' arm with seeds: stability of both kinds, and ``stable`` in interpretable.parquet."""
    import json

    import pandas as pd

    target = "results/tiny/arms/seeds/alignment/batchtopk/layer_1/interpretable.parquet"
    cells = "results/tiny/arms/seeds/features/batchtopk/layer_1/cells.zarr.zip"
    done = snakemake(project, target, cells, "results/tiny/frontier.tsv")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = project / "results/tiny/arms/seeds/dictionaries/batchtopk/layer_1"
    features = pd.read_parquet(folder / "stability.parquet").set_index("feature")
    summary = json.loads((folder / "stability.json").read_text())
    assert summary["seeds"] == 3 and summary["stable"] == features["stable"].mean()
    interpretable = pd.read_parquet(project / target)
    assert interpretable["stable"].notna().all()
    expected = features["stable"].reindex(interpretable["feature"])
    assert interpretable["stable"].astype(bool).tolist() == expected.tolist()
    weights = [folder / name / "sae_weights.safetensors" for name in (".", "seed_2", "seed_3")]
    assert len({path.read_bytes() for path in weights}) == 3
    main = pd.read_parquet(project / "results/tiny/alignment/batchtopk/layer_1/interpretable.parquet")
    assert main["stable"].isna().all()
    frontier = pd.read_csv(project / "results/tiny/frontier.tsv", sep="\t", comment="#")
    assert set(frontier["architecture"]) == {"batchtopk", "gated"} and (frontier["l0"] > 0).all()
    check_chain_over_seeds(project / "results/tiny", features["stable"])


def check_chain_over_seeds(results, stable):
    """The chain of evidence, read from what the arm with seeds left, takes stability from its table."""
    from dataclasses import replace

    import pandas as pd
    import yaml

    from interptfm.evidence import analysis, reading

    config = yaml.safe_load((results.parents[1] / "config/config.yaml").read_text())
    settings = config["evidence"] | {"permutations": 20, "bootstrap": 20}
    arm, place = results / "arms/seeds", "batchtopk/layer_1"
    given = {
        **{name: arm / f"alignment/{place}/{name}.parquet" for name in ("concepts", "interpretable")},
        "summary": arm / f"alignment/{place}/summary.json",
        "features": arm / f"features/{place}/cells.zarr.zip",
        "firing": arm / f"features/{place}/firing.zarr.zip",
        "stability": arm / f"dictionaries/{place}/stability.parquet",
        "cells": sorted(map(str, (results / "cells").glob("*.h5ad"))),
        "regions": sorted(map(str, (results / "regions").glob("section_*.parquet"))),
        "membership": results / "concepts/membership.npz",
        "genes": results / "concepts/genes.tsv",
        "terms": results / "concepts/terms.parquet",
        "channels": results / "activity/channels.parquet",
        "activity": results / "activity/summary.json",
        "pairs": results / "crosstalk/pairs.parquet",
    }
    material = reading.read(given, "batchtopk", 1, settings)
    alignment = config["alignment"] | {"permutations": 20, "strata": 5}
    best = pd.read_parquet(given["concepts"])["feature"].dropna().astype(int).unique()
    # A run this small has hardly a feature that comes back: the same table at another level, too.
    table = material["arm"].stable
    easier = table.assign(stable=table["decoder_cosine"] > table["decoder_cosine"].median())
    for expected, arm in (
        (stable, material["arm"]),
        (easier["stable"], replace(material["arm"], stable=easier)),
    ):
        found = analysis.collect(**{**material, "arm": arm}, settings=settings, alignment=alignment, seed=1)
        assert found.summary["links"]["stability"] == "available"
        funnel = found.funnel.set_index(["chain", "step"])
        step = funnel.loc[("real", "stability")]
        assert step["status"] == "counted" and step["alone_features"] == expected.reindex(best).sum()
        assert funnel.loc[("permuted membership", "stability"), "status"] == "counted"
    assert easier["stable"].reindex(best).any()
