"""Pages of the methods: their defaults are the configuration's, and each has what a reader must find."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).resolve().parent.parent / "docs"
METHODS = (
    "cells", "concepts", "model", "dictionaries", "alignment", "tis", "activity", "crosstalk", "probes",
    "steering", "evidence",
)  # fmt: skip
ROW = re.compile(r"^\| `([a-z_0-9.]+)` \| `(.+)` \|$", re.MULTILINE)


def section(text: str, heading: str) -> str:
    """Return what stands below a heading of the second level, up to the next one."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {heading}"
    return found[1]


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_those_of_the_configuration(name, root):
    config = yaml.safe_load((root / "config/config.yaml").read_text())
    text = section((DOCS / f"{name}.md").read_text(), "Defaults")
    rows = ROW.findall(text)
    assert len(rows) >= 5 and len(rows) == len([line for line in text.splitlines() if line.startswith("| `")])
    for key, written in rows:
        value = config
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        assert yaml.safe_load(written) == value, f"{name}.md, {key}"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_nulls_limits_and_sources(name):
    text = (DOCS / f"{name}.md").read_text()
    assert section(text, "(?:Nulls?|What stands beside it|What is tested|How many there are [^\n]*)")
    assert len(section(text, "Limits")) > 200
    assert len(set(re.findall(r"\b(?:19|20)\d\d\b", section(text, "Sources")))) >= 2


def test_links_between_pages_lead_somewhere(root):
    for page in (*DOCS.glob("*.md"), root / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for page in DOCS.glob("*.md"):
        for path in re.findall(
            r"`((?:scripts|tests|benchmarks|resources|workflow|config)/[\w./-]+)`", page.read_text()
        ):
            assert (root / path).exists(), f"{page.name}: {path}"
