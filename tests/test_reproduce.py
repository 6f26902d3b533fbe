"""One command a table of the README: Snakemake plans what it asks for, and its numbers are those of files."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from planning import planned, plans

from interptfm import reproduce
from interptfm.errors import InputError

# Of runs that are planned below, but not made in the fast tests.
EXTRAS = {name for name, table in reproduce.TABLES.items() if "extras" in table.targets}
MADE = sorted(name for name, table in reproduce.TABLES.items() if table.run == "demo" and name not in EXTRAS)


@pytest.mark.parametrize("name", MADE)
def test_tables_are_made_of_a_finished_run(project, name, monkeypatch):
    table = dataclasses.replace(reproduce.TABLES[name], run="tiny")
    monkeypatch.setitem(reproduce.TABLES, name, table)
    text = reproduce.markdown(name, project / "results")
    blocks = [part for part in text.split("\n\n") if part.startswith("|")]
    assert text.startswith(f"**{table.title}**") and len(blocks) == len(table.sources)
    for block in blocks:
        head, rule, *rows = block.strip().splitlines()
        assert rows and len({line.count("|") - line.count("\\|") for line in (head, rule, *rows)}) == 1


def test_numbers_are_those_of_the_files(project, monkeypatch):
    monkeypatch.setitem(
        reproduce.TABLES, "planted", dataclasses.replace(reproduce.TABLES["planted"], run="tiny")
    )
    frame = pd.read_csv(project / "results/tiny/recovery/comparisons.tsv", sep="\t")
    chosen = frame[(frame.scope == "planted programs") & (frame.left == "SAE") & (frame.measure == "F1")]
    text = reproduce.markdown("planted", project / "results")
    assert len(chosen) > 3
    for row in chosen.itertuples():
        assert f"| {row.right} | {row.n} | {row.mean_left:.3g} | {row.mean_right:.3g} |" in text


def test_every_command_is_planned(root, tmp_path):
    """Snakemake knows the targets, under runs of other names: what lies in results/ needs no job."""
    cases = {}
    for table in reproduce.TABLES.values():
        if table.configfile in (reproduce.REAL, reproduce.SCREEN):
            continue  # needs the real data: below
        other = tmp_path / f"{table.run}.yaml"
        other.write_text("run: never_made\n")
        configs = [table.configfile] if table.configfile else []
        cases[json.dumps([table.targets, table.run])] = {
            "configs": [*configs, str(other)], "targets": list(table.targets),
        }  # fmt: skip
    found = plans(root, cases)
    assert len(found) >= 5
    for case, jobs in found.items():
        assert isinstance(jobs, dict) and sum(jobs.values()) > 5, f"{case}: {jobs}"


@pytest.mark.real
@pytest.mark.parametrize(
    "name", [n for n, t in reproduce.TABLES.items() if n.startswith("real") or t.run == "thp1"]
)
def test_commands_on_real_data_are_planned(root, real_data, name):
    further = ["--dry-run", "--config", f"data_root={real_data}", "run=never_made"]
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *reproduce.arguments(name), *further]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sum(planned(done.stdout + done.stderr).values()) > 5


def test_numbers_over_targets_are_their_means(tmp_path, monkeypatch):
    """Two methods, two targets; a number that is missing is no zero."""
    rows = [
        ("b", "x", 1.0, 4.0),
        ("a", "x", 3.0, float("nan")),
        ("b", "y", 2.0, 8.0),
        ("a", "y", 5.0, 7000.0),
    ]
    frame = pd.DataFrame(rows, columns=["method", "target", "cosine", "overlap"])
    (tmp_path / "r").mkdir()
    frame.to_csv(tmp_path / "r/effects.tsv", sep="\t", index=False)
    columns = {"method": "method", "cosine": "cosine", "overlap": "overlap"}
    source = reproduce.Source("effects.tsv", columns, mean_over="target")
    monkeypatch.setitem(reproduce.TABLES, "t", reproduce.Table("T", (source,), run="r"))
    lines = reproduce.markdown("t", tmp_path).strip().splitlines()
    assert lines[-2:] == ["| b | 1.5 | 6 |", "| a | 4 | 7000 |"]
    monkeypatch.setitem(
        reproduce.TABLES, "t", reproduce.Table("T", (dataclasses.replace(source, mean_over="cell"),), run="r")
    )
    with pytest.raises(InputError, match="found no column 'cell'"):
        reproduce.markdown("t", tmp_path)


def test_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match="found table 'table 1', expected one of planted, held_out_genes"):
        reproduce.arguments("table 1")
    with pytest.raises(InputError, match=r"demo/recovery/comparisons\.tsv: not found, expected the files of"):
        reproduce.markdown("planted", tmp_path)
    (tmp_path / "demo/recovery").mkdir(parents=True)
    (tmp_path / "demo/recovery/comparisons.tsv").write_text("scope\nx\n")
    with pytest.raises(InputError, match="found no column 'right' among"):
        reproduce.markdown("planted", tmp_path)
    assert reproduce.arguments("published_protocol") == ["alignment", "--configfile", "config/legacy.yaml"]


def test_the_documentation_lists_every_table(root):
    text = (root / "docs/reproducibility.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert listed == list(reproduce.TABLES)
