"""``snakemake --report``: the main tables and figures, with captions and categories."""

from __future__ import annotations

import json
import re
import zipfile

import pytest
from planning import snakemake

CATEGORIES = {
    "Report": {"Figures", "Other"},
    "Cells": {"Other"},
    "Concept alignment": {"Other"},
    "Dictionaries": {"Other"},
    "Recovery of what was planted": {"Other"},
}


def after(text, start):
    """Return the JSON value that the last character of ``start`` opens."""
    return json.JSONDecoder().raw_decode(text[text.index(start) + len(start) - 1 :])[0]


@pytest.fixture(scope="module")
def report(project, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.zip"
    done = snakemake(project, "--report", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(path) as archive:
        text = archive.read("report/report.html").decode()
        files = {name: archive.getinfo(name).file_size for name in archive.namelist()}
    return after(text, "var categories = {"), after(text, "var results = {"), files


def test_every_category_is_there(report):
    categories, _, _ = report
    assert {name: set(parts) for name, parts in categories.items()} == CATEGORIES


def test_every_result_has_a_caption_a_label_and_a_file(report):
    categories, results, files = report
    listed = [path for parts in categories.values() for paths in parts.values() for path in paths]
    assert set(listed) == set(results) and len(listed) > 40
    for path, result in results.items():
        assert re.sub("<[^>]*>", "", result["caption"]).strip(), path
        assert result["labels"], path
        assert files[f"report/{result['data_uri']}"] > 0, path
    for name in (
        "report.html",
        "alignment/headline.tsv",
        "recovery/comparisons.tsv",
        "cells/section_2.qc.svg",
    ):
        assert f"results/tiny/{name}" in results


def test_captions_are_words_and_all_are_used(root):
    """Numbers change with the run; a caption that names one goes stale."""
    rules = "".join(path.read_text() for path in (root / "workflow/rules").glob("*.smk"))
    captions = sorted((root / "workflow/report").glob("*.rst"))
    assert len(captions) > 8
    for path in captions:
        words = re.sub(r"\{\{.*?\}\}|\bF1\b", "", path.read_text())
        assert not re.search(r"\d", words), path.name
        assert f'"../report/{path.name}"' in rules or f'="{path.stem}"' in rules, path.name
