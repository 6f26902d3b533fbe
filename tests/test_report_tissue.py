"""The report's sections on units and microenvironments, from tables that the library itself makes."""

from __future__ import annotations

from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from test_regions import SETTINGS, tissue, units_of
from test_tis import SETTINGS as TIS_SETTINGS

from interptfm import report, store
from interptfm.regions import analysis
from interptfm.report import tissue_figures
from interptfm.report.sections.microenvironments import interpretability, microenvironments
from interptfm.tis import table

EVIL = '<b>T & "x" cell</b> $a$'
REGION_NAMES = (*analysis.TABLES, "summary")


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("tissue")
    cells, inside = tissue(n=900)
    cells.obs["cell_type"] = cells.obs["cell_type"].replace("T cell", EVIL)
    columns, _ = units_of(cells, inside)
    present = np.ones(len(inside), bool)
    evaluation = table.Evaluation(cells, present, TIS_SETTINGS, seed=1, name="cls 1")
    scores, null, summary = table.evaluate(evaluation, columns, 1)
    scores.loc[(scores["variant"] == "units"), "q"] = 0.001
    result = analysis.analyse(cells, present, columns, scores, SETTINGS, 1)
    files = [folder / "units.parquet", folder / "null.parquet", folder / "summary.json"]
    store.write_table(files[0], scores)
    store.write_table(files[1], null)
    store.write_json(files[2], summary)
    for name, frame in result.tables.items():
        store.write_table(folder / f"{name}.regions.parquet", frame)
    regions = [folder / f"{name}.regions.parquet" for name in analysis.TABLES]
    store.write_json(folder / "regions.json", {"units": "cls", "layer": 1, **result.summary})
    store.write_table(folder / "s1.parquet", result.cells)
    claims = pd.DataFrame(
        {"claim": ["c"], "value": [0.5], "lo": [np.nan], "hi": [np.nan], "wanted": ["w"], "met": ["yes"]}
    )
    programs = pd.DataFrame(
        {"program": ["p"], "place": ["border"], "unit": [3], "r": [0.5], "r_within_types": [0.4],
         "tis_hard": [0.9], "q": [0.01], "tis_matched": [0.8], "tis_heldout_genes": [0.7]}
    )  # fmt: skip
    store.write_table(folder / "programs.tsv", programs)
    store.write_table(folder / "claims.tsv", claims)
    store.write_json(folder / "recovery.json", {})
    return {
        "tables": [str(file) for file in files],
        "regions": [*map(str, regions), str(folder / "regions.json")],
        "cells": [str(folder / "s1.parquet")],
        "recovery": [str(folder / name) for name in ("programs.tsv", "claims.tsv", "recovery.json")],
    }


def run_of(paths, recovery=True):
    found = report.read_microenvironments(
        [("cls", 1)], paths["tables"], REGION_NAMES, paths["regions"], paths["cells"],
        paths["recovery"] if recovery else [],
    )  # fmt: skip
    settings = {"tis": TIS_SETTINGS, "regions": SETTINGS}
    return SimpleNamespace(microenvironments=found, config=settings)


@pytest.fixture(scope="module")
def run(paths):
    return run_of(paths)


def test_sections_have_the_figures_and_tables(run):
    scores, places = interpretability(run), microenvironments(run)
    assert [figure.name for figure in scores.figures] == ["tis-cls-layer-1"]
    assert [figure.name for figure in places.figures] == [
        "unit-types", "tissue-s1", "composition", "profiles",
    ]  # fmt: skip
    assert {t.name for t in scores.tables} == {"tis-variants-cls-layer-1", "tis-depth"}
    assert {t.name for t in places.tables} == {
        "agreement", "by-compartment", "confusion", "interface", "top-units", "unit-claims", "unit-programs",
    }  # fmt: skip
    for figure in (*scores.figures, *places.figures):
        ElementTree.fromstring(figure.svg)
        assert len(figure.data) and figure.alt and figure.caption
    html = report.render("run", "test", [scores, places])
    ElementTree.fromstring(html.split("<!DOCTYPE html>")[-1].strip()) if "<!DOCTYPE" in html else None
    assert "<b>T" not in html and "&lt;b&gt;T" in html
    assert "are called tumour" in html and "Best by chance" in html


def test_real_runs_show_no_truth(paths):
    names = {t.name for t in microenvironments(run_of(paths, recovery=False)).tables}
    assert not names & {"unit-claims", "unit-programs"}
    nothing = SimpleNamespace(microenvironments=None)
    assert interpretability(nothing) is None and microenvironments(nothing) is None


def test_a_run_in_which_nothing_is_called_is_shown(run):
    found = run.microenvironments
    cells = found.cells.assign(compartment="")
    regions = {**found.regions, "enrichment": found.regions["enrichment"].iloc[:0]}
    regions["profiles"] = regions["profiles"].iloc[:0]
    bare = SimpleNamespace(
        config=run.config,
        microenvironments=type(found)(found.spaces, regions, found.summary, cells, None),
    )
    assert [figure.name for figure in microenvironments(bare).figures] == ["tissue-s1", "composition"]


def test_a_map_of_100000_cells_is_small_and_its_points_are_pixels():
    rng = np.random.default_rng(0)
    n = 100_000
    regions = np.array(["tumour", "interface", "TME", ""])
    cells = pd.DataFrame(
        {"x_um": rng.uniform(0, 4000, n), "y_um": rng.uniform(0, 3000, n),
         "region": regions[rng.integers(0, 4, n)], "compartment": regions[rng.integers(0, 4, n)]}
    )  # fmt: skip
    drawn = tissue_figures.tissue("map", cells)
    assert drawn.count("data:image/png;base64") == 2 and len(drawn) < 3e6
    assert drawn.count("<use") < 200, "no point is a vector"
    assert drawn == tissue_figures.tissue("map", cells), "the same figure is the same text"
