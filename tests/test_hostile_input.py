"""Input made to run code, to leave its folder or to enter the report: refused or escaped, and nothing ran."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import test_cosmx as sections
import test_features as tokens
import torch
from planning import plans
from test_bad_input import Attack

from interptfm import cosmx, qc, store
from interptfm.errors import InputError
from interptfm.pretrain import training as pretraining
from interptfm.sae import importing

EVIL_TYPE = '<script>alert(1)</script>"&<img src=x onerror=alert(2)> $\\frac$'
EVIL_GENES = ["<b>KRT19</b>", "javascript:alert(1)", "=cmd|' /C calc'!A0", "../../LTF"]

# A configuration, and what Snakemake or the workflow says to it.
CONFIGS = {
    "a tag that runs a program": (
        '!!python/object/apply:os.system ["touch ran"]\n', "not valid JSON or YAML",
    ),
    "a tag in a value": (
        'seed: !!python/object/apply:os.system ["touch ran"]\n', "not valid JSON or YAML",
    ),
    "a run above results": ("run: ../x\n", "key 'run': found '../x'"),
    "an absolute run": ("run: /tmp/x\n", "key 'run': found '/tmp/x'"),
    "a dictionary with a path for a name": (
        "dictionaries: [{name: ../../x, architecture: topk}]\n", "key 'dictionaries.0.name': found '../../x'",
    ),
    "an arm with a path for a name": ("arms: {../x: {model: {init: random}}}\n", "found '../x'"),
    "units with a path for a name": (
        "tis: {units: [{name: ../x, source: cls, layers: all}]}\n", "key 'tis.units.0.name': found '../x'",
    ),
    "a simulated section above results": ("samples: climbing.tsv\n", "found path '../../../x'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def planned(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "project"
    for part in ("workflow", "scripts", "config", "resources", "envs"):
        shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    header = "sample\tpath\tformat\tdonor\tpixel_size_um\tcell_types\tshards\n"
    (folder / "climbing.tsv").write_text(header + "s\t../../../x\tcosmx\td\t0.18\t\t1\n")
    before = {path for path in folder.parent.rglob("*") if ".snakemake" not in path.parts}
    for number, (text, _) in enumerate(CONFIGS.values()):
        (folder / f"{number}.yaml").write_text(text)
    cases = {name: {"configs": [f"{number}.yaml"]} for number, name in enumerate(CONFIGS)}
    answers = plans(folder, cases)
    made = {path for path in folder.parent.rglob("*") if ".snakemake" not in path.parts} - before
    return answers, {path.name for path in made if path.suffix not in (".yaml", ".pyc")}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_hostile_configuration_is_refused(planned, case):
    answers, made = planned
    assert isinstance(answers[case], str), "it was planned"
    assert CONFIGS[case][1] in answers[case] and "Traceback" not in answers[case]
    assert made - {"__pycache__"} == set(), "something was made"


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickled_dictionary_runs_nothing(tmp_path, plain):
    marker = tmp_path / "ran"
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    if plain:
        (tmp_path / "ae.pt").write_bytes(pickle.dumps({"encoder.weight": Attack(marker)}, protocol=2))
    else:
        torch.save({"encoder.weight": Attack(marker)}, tmp_path / "ae.pt")
    with pytest.raises(InputError, match=r"ae\.pt: found a damaged file .* expected a state dict"):
        importing.load_folder(tmp_path)
    assert not marker.exists()


def test_a_pickled_state_of_training_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"key": Attack(marker)}, tmp_path / "pretrain.pt")
    assert pretraining._load_state(tmp_path / "pretrain.pt", "key") is None
    assert not marker.exists()


def test_pickles_inside_arrays_run_nothing(tmp_path):
    """np.save of objects is a pickle: in membership.npz, in max.npy, and among the columns of an h5ad."""
    from interptfm import alignment

    marker = tmp_path / "ran"
    np.savez(tmp_path / "membership.npz", data=np.array([Attack(marker)], object))
    with pytest.raises(InputError, match=r"membership\.npz: found no sparse matrix"):
        alignment.read_membership(tmp_path / "membership.npz")
    np.save(tmp_path / "max.npy", np.array([Attack(marker)], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(tmp_path / "max.npy")
    assert not marker.exists()


def test_entries_of_a_zip_stay_inside(tmp_path):
    """An array store is read entry by entry and never unpacked: names that climb are names."""
    inside = tmp_path / "deep/down"
    inside.mkdir(parents=True)
    path = tokens.write_activations(
        inside / "0.zarr.zip", "s", np.arange(4), np.arange(4), np.ones((4, 2), np.float32)
    )
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../evil", "../../evil", "/tmp/interptfm_evil", "layer_0/../../evil"):
            archive.writestr(name, b"evil")
    with store.open_activations(path) as opened:
        assert opened.rows(0, 0, 4).shape == (4, 2) and opened.cls(0).shape == (4, 2)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["0.zarr.zip"]
    with zipfile.ZipFile(inside / "1.zarr.zip", "w") as archive:
        archive.writestr("../zarr.json", b"{}")
    with (
        pytest.raises(InputError, match="found no zarr group"),
        store.open_activations(inside / "1.zarr.zip"),
    ):
        pass


@pytest.fixture(scope="module")
def hostile_section(tmp_path_factory):
    """A section read from flat files whose genes and cell types are attacks."""
    folder = tmp_path_factory.mktemp("section")
    expression, meta = sections.tissue(n_per_fov=60)
    expression = expression.rename(columns=dict(zip(sections.GENES, EVIL_GENES, strict=True)))
    meta["kind"] = np.where(np.arange(len(meta)) % 2, EVIL_TYPE, "T cell")
    files = sections.write(folder, expression, meta)
    cells, counts = cosmx.ingest(
        files, "s", "cosmx", sections.PIXEL, "d", 1, ["s"], sections.CELLS, 1, cell_types_column="kind"
    )
    return cells, counts


def test_hostile_names_are_data_in_cells_and_tables(hostile_section, tmp_path):
    cells, _ = hostile_section
    store.write_h5ad(tmp_path / "s.h5ad", cells)
    again = store.read_h5ad(tmp_path / "s.h5ad")
    assert list(again.var_names) == EVIL_GENES and EVIL_TYPE in set(again.obs["cell_type"])
    store.write_table(tmp_path / "t.tsv", pd.DataFrame({"gene": EVIL_GENES}))
    assert store.read_table(tmp_path / "t.tsv")["gene"].tolist() == EVIL_GENES
    assert {p.name for p in tmp_path.rglob("*")} == {"s.h5ad", "t.tsv"}


def test_hostile_names_are_text_in_the_figure_of_ingest(hostile_section, tmp_path):
    cells, _ = hostile_section
    qc.write_figure(tmp_path / "qc.svg", qc.qc_figure(cells, "s"), "s")
    text = (tmp_path / "qc.svg").read_text()
    assert "<script" not in text and "<img" not in text
    drawn = "".join(ElementTree.fromstring(text).itertext())
    assert EVIL_TYPE in drawn, "the name is not shown as it is"
