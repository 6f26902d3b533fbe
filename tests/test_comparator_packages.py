"""The packages of other systems, in the environments that `make comparators-env` builds."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from planning import snakemake

from interptfm import store
from interptfm.comparators import communication, tangram_map

pytestmark = pytest.mark.soak
FAMILIES = ("communication", "mofa", "scvi", "tangram")


@pytest.fixture(scope="module")
def pythons(root):
    """Rule family → its Python: INTERPTFM_<FAMILY>_PYTHON, or the one of make comparators-env."""
    found = {}
    for family in FAMILIES:
        default = root / f".venv-{family}/bin/python"
        found[family] = Path(os.environ.get(f"INTERPTFM_{family.upper()}_PYTHON", default))
        if not found[family].is_file():
            pytest.skip(f"no {found[family]}: make comparators-env builds it")
    return found


def ask(python, root, system, folder):
    command = [str(python), str(root / "tests/comparator_oracle.py"), system, str(folder / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


def test_liana_finds_the_planted_way(pythons, root, tmp_path):
    found = ask(pythons["communication"], root, "liana", tmp_path)
    methods = ("cellchat", "cellphonedb", "rank_aggregate")
    assert found["best"] == [[method, "A", "B", "Lig", "Rec"] for method in methods]
    assert found["least"] == 0.01 and found["resource"] > 1000
    assert found["columns"] == list(communication.COLUMNS)


def test_scvi_sets_types_apart_on_cells_that_it_was_not_shown(pythons, root, tmp_path):
    found = ask(pythons["scvi"], root, "scvi", tmp_path)
    assert found["shape"] == [120, 4] and found["trained"] == 80 and found["elbo"] < 0
    assert found["accuracy"] >= 0.95 and found["same"], "the same seed gives the same bytes"


def test_mofa_finds_factors_of_held_out_cells_and_no_view_in_another_that_shares_none(
    pythons, root, tmp_path
):
    found = ask(pythons["mofa"], root, "mofa", tmp_path)
    for world, views in (("shared", 2), ("apart", 1)):
        each = found[world]
        assert each["groups"] == ["s", "t"] and each["notes"] == [] and each["converged"]
        assert each["same"], "the same seed gives the same weights"
        assert each["r"] > 0.9999, "projection agrees with the package on the cells that it was fitted on"
        # Twenty columns of unit noise a view leave 1 / (1 + 20 views) of a unit factor.
        assert each["left"] < 2 / (1 + 20 * views)
    shared, apart = found["shared"], found["apart"]
    assert shared["factors"] == 3 and apart["factors"] == 6
    assert shared["best"] - 0.03 < shared["r2"][0] < shared["best"] + 0.01 and shared["p"] == [0.005, 0.005]
    assert max(shared["null_hi"]) < 0 and max(map(abs, apart["r2"])) < 0.01 and min(apart["p"]) > 0.05


@pytest.mark.parametrize(
    "system, n_trained_on, n_cells, without", [("totalvi", 180, 270, 0), ("multivi", 200, 300, 30)]
)
def test_a_second_modality_sets_apart_what_rna_does_not(
    pythons, root, tmp_path, system, n_trained_on, n_cells, without
):
    found = ask(pythons["scvi"], root, system, tmp_path)
    assert found["shape"] == [n_cells, 5] and found["n_trained_on"] == n_trained_on
    assert found["n_both"] == 270 and found["without"] == without, "totalVI has no latent of cells without"
    # 90 test cells: by chance half are right, and more than 63 % in one of a hundred draws.
    assert found["accuracy"] >= 0.95 and found["rna"] < 0.65 and abs(found["shuffled"] - 0.5) < 0.1
    assert found["same"], "the same seed gives the same bytes"
    # Nats: RNA tells nothing of the other modality but where its types differ, too.
    assert abs(found["gain"]) < 1 < found["gain_tied"]
    assert found["seconds"] < 60


def test_tangram_maps_groups_on_cells_of_their_kind(pythons, root, tmp_path):
    found = ask(pythons["tangram"], root, "tangram", tmp_path)
    assert found["shape"] == [2, 60] and found["least"] > 0.7
    assert found["held_out"] == 10 and found["genes"] == 40
    assert found["columns"] == list(tangram_map.COLUMNS)


def test_every_system_runs_where_its_package_is(pythons, project, tmp_path):
    overlay = yaml.safe_load((project / "tests/tiny.yaml").read_text())
    overlay["environments"] = {family: str(python) for family, python in pythons.items()}
    (tmp_path / "with.yaml").write_text(yaml.safe_dump(overlay))
    done = snakemake(project, "comparators", config=str(tmp_path / "with.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    systems = store.read_table(project / "results/tiny/comparators/systems.tsv").set_index("system")
    ran = ["squidpy", "liana", "concordance", "scvi", "scvi, scored", "mofa", "mofa, scored", "tangram"]
    assert (systems.loc[ran, "status"] == "done").all()
    assert systems.loc["nichenet", "reason"].endswith("comparators.nichenet.matrix is null")
    assert "5 stain columns" in systems.loc["totalvi", "reason"]
    assert systems.loc["multivi", "reason"].endswith("comparators.multivi.atac is null")
    places = store.read_table(project / "results/tiny/comparators/tangram/clusters.parquet")
    own = places[(places["cluster"] == places["group"]) & (places["level"] == communication.TYPES)]
    assert len(own) == 8 and (own["share"] > own["expected"]).all(), "every type lies most on its own"
    table = store.read_table(project / "results/tiny/comparators/concordance.parquet")
    assert set(table["system"]) == {"squidpy", "cellphonedb", "cellchat", "rank_aggregate"}
