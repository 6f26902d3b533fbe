"""One command a table of the README: Snakemake plans what it asks for, and its numbers are those of files."""

from __future__ import annotations

import dataclasses
import json
import re

import pandas as pd
import pytest
from planning import plans

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
        if table.configfile == reproduce.REAL:
            continue  # needs the real data: test_workflow plans it
        other = tmp_path / f"{table.run}.yaml"
        other.write_text("run: never_made\n")
        configs = [table.configfile] if table.configfile else []
        cases[json.dumps([table.targets, table.run])] = {
            "configs": [*configs, str(other)], "targets": list(table.targets),
        }  # fmt: skip
    found = plans(root, cases)
    assert len(found) >= 5
    for case, planned in found.items():
        assert isinstance(planned, dict) and sum(planned.values()) > 5, f"{case}: {planned}"


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
