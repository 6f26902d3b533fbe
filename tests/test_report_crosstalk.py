"""The report's section on crosstalk, from tables that the library itself makes."""

from __future__ import annotations

from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from crosstalk_worlds import SETTINGS, world

from interptfm import report, store
from interptfm.crosstalk import analysis, contrasts, sections
from interptfm.report.crosstalk import SECTION_TABLES
from interptfm.report.sections.crosstalk import NULLS, crosstalk

EVIL = '<b>T & "x" cell</b> $a$ | b'
CHANNELS = ("immune communication", "metabolic", "angiogenesis")
FIGURES = {"edges-s1", "channel-heat", "network", "claims", "decay", "crosstalk-nulls"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crosstalk")
    part = world(8, 500)[0]["s1"]
    part.obs["cell_type"] = part.obs["cell_type"].replace("T cell", EVIL)
    claim = contrasts.Contrast("edge", "metabolic", ("tumour", "interface"), ("tumour", "tumour"))
    none = pd.DataFrame(columns=["child", "parent"])
    settings = {**SETTINGS, "min_edges": 20, "max_concepts": 12}
    result = analysis.analyse(part, settings, CHANNELS, [claim], none, 1, "s1")
    pairs = sections.combine([result.tables["pairs"]])
    claims = sections.combine_contrasts([result.tables["contrasts"]])
    summary = sections.summarise(pairs, claims, [result.summary], 0.05)
    for name in SECTION_TABLES:
        store.write_table(folder / f"{name}.parquet", result.tables[name])
    paths = {name: folder / f"all_{name}.parquet" for name in ("pairs", "contrasts")}
    paths["summary"] = folder / "summary.json"
    store.write_table(paths["pairs"], pairs)
    store.write_table(paths["contrasts"], claims)
    store.write_json(paths["summary"], summary)
    return folder, paths, part


def shown(made, pairs=None):
    folder, paths, part = made
    found = report.read_crosstalk(paths, ["s1"], [folder / f"{name}.parquet" for name in SECTION_TABLES])
    if pairs is not None:
        found = SimpleNamespace(**{**vars(found), "pairs": pairs(found.pairs)})
    terms = pd.DataFrame({"term_id": part.concepts["term_id"], "name": [EVIL, *part.concepts["name"][1:]]})
    config = {"crosstalk": {**SETTINGS}}
    return crosstalk(SimpleNamespace(crosstalk=found, config=config, terms=terms))


def test_a_run_without_crosstalk_has_no_section():
    assert crosstalk(SimpleNamespace(crosstalk=None)) is None


def test_all_figures_and_tables_make_a_page(made):
    section = shown(made)
    assert {figure.name for figure in section.figures} == FIGURES
    page = report.render("Run", "sub", [section])
    ElementTree.fromstring(page.split("\n", 1)[1] if page.startswith("<!") else page)
    assert "<b>T" not in page
    rates = next(table for table in section.tables if table.name == "crosstalk-rates").frame
    assert set(rates["null"]) == set(NULLS.values()) and rates["share"].between(0, 1).all()
    for figure in section.figures:
        assert len(figure.svg) > 1500, figure.name
        # Nothing is joined where nothing is found.
        assert len(figure.data) or figure.name == "network", figure.name
    edges = next(figure for figure in section.figures if figure.name == "edges-s1")
    assert "data:image/png" in edges.svg


def test_findings_and_directions_are_drawn(made):
    def all_found(pairs):
        return pairs.assign(q=np.float32(0.001), direction="target to source")

    drawn, before = shown(made, all_found), shown(made)
    network = {s: next(f for f in found.figures if f.name == "network").svg
               for s, found in (("with", drawn), ("without", before))}  # fmt: skip
    assert len(network["with"]) > len(network["without"])


def test_nothing_tested_is_said_and_nothing_drawn(made):
    section = shown(made, lambda pairs: pairs.iloc[:0])
    assert {figure.name for figure in section.figures} <= {"edges-s1", "decay", "crosstalk-nulls"}
    assert report.render("Run", "sub", [section])
