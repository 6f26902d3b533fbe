"""docs/outputs.md names every file, column and key of a run, and nothing else; the glossary has its terms."""

from __future__ import annotations

import re

import anndata
import pandas as pd
import pytest

from interptfm import store

CELL = re.compile(r"(?<!\\)\|")
NAMES = re.compile(r"`([^`]+)`")
# Written by a stage for itself, not for a reader.
INTERNAL = (".digests/", ".work/", ".snakemake", "figures/.")
# What only other targets make; another test of the session may have run them.
LATER = (
    "annotate/",
    "gene_text/",
    "spatialdata/",
    "comparators/",
    "diff/",
    "frontier.tsv",
    "extras",
    "models.tsv",
    "second_model/",
    "recovery/curve.tsv",
    "provenance_extras",
)


def rows_of(text, heading):
    """Return the cells of each row of the tables under a heading, or under all but the named ones."""
    part = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in CELL.split(line)[1:-1]] for line in lines[1:]]


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs/outputs.md").read_text()


@pytest.fixture(scope="module")
def tables(page):
    """File pattern -> its columns, of all tables of files."""
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    listed = [name for name in headings if name not in ("AnnData", "Other targets", "Columns")]
    assert len(listed) == 8
    return {
        NAMES.match(row[0])[1]: NAMES.findall(row[2]) for heading in listed for row in rows_of(page, heading)
    }


@pytest.fixture(scope="module")
def slots(page):
    """AnnData file pattern -> slot -> its keys."""
    found, file = {}, ""
    for row in rows_of(page, "AnnData"):
        file = NAMES.match(row[0])[1] if row[0] else file
        found.setdefault(file, {}).setdefault(row[1], []).extend(NAMES.findall(row[2]))
    return found


@pytest.fixture(scope="module")
def files(project):
    """The files of the small run, of the main arm, by their path in the run."""
    run = project / "results/tiny"
    paths = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    return run, [path for path in paths if not path.startswith(("arms/", *INTERNAL, *LATER))]


def pattern(name):
    """Return a documented name as a regular expression; a question mark at its end is no part of it."""
    parts = re.split(r"<[^>]*>", name.removesuffix("?"))
    return re.compile(r"[^/]+".join(map(re.escape, parts)) + ("(?:.*)" if name.endswith("/") else ""))


def shard(path):
    return re.sub(r"\.added_\d+(?=\.zarr)", "", path)


def test_every_file_is_documented_and_every_documented_file_is_there(files, tables, slots):
    _, paths = files
    named = [name for name in (*tables, *slots) if not name.startswith(("arms/", *LATER))]
    known = [pattern(name) for name in named]
    unknown = [path for path in paths if not any(each.fullmatch(shard(path)) for each in known)]
    assert unknown == []
    missing = [
        n for n, each in zip(named, known, strict=True) if not any(map(each.fullmatch, map(shard, paths)))
    ]
    assert missing == []


def columns_of(path):
    if path.suffix == ".tsv":
        return list(pd.read_csv(path, sep="\t", nrows=1).columns)
    return list(store.read_table(path).columns)


def differing(found, documented):
    """Return what is there and not documented, and what is documented, not optional, and not there."""
    known = {name: pattern(name) for name in documented}
    extra = [name for name in found if not any(each.fullmatch(name) for each in known.values())]
    absent = [
        name
        for name, each in known.items()
        if not name.endswith("?") and not any(each.fullmatch(one) for one in found)
    ]
    return extra, absent


def test_every_column_is_documented(files, tables):
    run, paths = files
    compared, wrong = 0, {}
    for name, columns in tables.items():
        if not name.endswith((".parquet", ".tsv")):
            continue
        # A name of its own goes before a pattern: regions/units.parquet is no section.
        mine = [
            path for path in paths if path == name or (path not in tables and pattern(name).fullmatch(path))
        ]
        found = list(dict.fromkeys(column for path in mine for column in columns_of(run / path)))
        if any(result := differing(found, columns)):
            wrong[name] = result
        compared += len(found)
    assert wrong == {} and compared > 500


def test_every_key_of_anndata_is_documented(files, slots):
    run, paths = files
    wrong = {}
    for name, documented in slots.items():
        for path in (path for path in paths if pattern(name).fullmatch(path)):
            adata = anndata.read_h5ad(run / path)
            found = {
                slot: list(getattr(adata, slot)) for slot in ("obs", "var", "obsm", "varm", "obsp", "uns")
            }
            found["layers"], found["X"] = list(adata.layers), ["X"] if adata.X is not None else []
            for slot, keys in found.items():
                if any(result := differing(keys, documented.get(slot, []))):
                    wrong[path, slot] = result
    assert wrong == {} and len(slots) == 5


def test_annotated_cells_have_the_documented_keys(project, slots):
    """Of obs and obsm only those that are not the user's."""
    for path in (project / "results/tiny/annotate").glob("*.h5ad"):
        adata, documented = anndata.read_h5ad(path), slots["annotate/<name>.h5ad"]
        assert set(documented["obs"]) <= set(adata.obs)
        assert differing(list(adata.var), documented["var"]) == ([], [])
        assert list(adata.layers) == documented["layers"] and set(documented["uns"]) <= set(adata.uns)


def test_every_column_has_a_unit_and_a_meaning_once(page, tables):
    rows = rows_of(page, "Columns")
    names = [NAMES.match(row[0])[1] for row in rows]
    assert len(names) == len(set(names))
    assert set(names) == {column for columns in tables.values() for column in columns}
    for name, row in zip(names, rows, strict=True):
        assert len(row) == 3 and row[1] and len(row[2]) > 3, name
    assert names == sorted(names, key=str.lower)


def test_names_of_columns_are_compared_by_pattern():
    assert differing(["d0", "lo x"], ["d<number>", "lo <baseline>", "area?"]) == ([], [])
    assert differing(["new"], ["old"]) == (["new"], ["old"])


def test_the_glossary_defines_each_term_in_one_sentence(root):
    lines = (root / "docs/glossary.md").read_text().splitlines()
    entries = [re.fullmatch(r"\*\*(.+?)\*\*: (.+)", line) for line in lines if line.startswith("**")]
    terms = [entry[1] for entry in entries]
    assert terms == sorted(terms, key=str.lower) and len(terms) > 30
    for entry in entries:
        assert entry[2].endswith(".") and not re.search(r"[.!?] [A-Z]", entry[2]), entry[1]
    for needed in ("Feature", "Concept", "Lift", "F1", "TIS", "Interface", "Crosstalk", "Null"):
        assert needed in terms
