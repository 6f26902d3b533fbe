"""The ontology stage: readers, true path rule, filters, classes, outputs, real numbers, speed."""

from __future__ import annotations

import csv
import gzip
import logging
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import networkx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from interptfm import job, ontology, store
from interptfm.errors import InputError
from interptfm.ontology.gprofiler_csv import LEADING

BP, MF, CC = "biological_process", "molecular_function", "cellular_component"
ASPECT = {BP: "P", MF: "F", CC: "C"}

#          root
#         /    \
#        a      b        a, b is_a root
#       / \    /         m is_a a, m is_a b
#      l   m             l is_a a;  p part_of m;  f (function) part_of l
TERMS = {
    "T:root": (BP, []),
    "T:a": (BP, ["is_a T:root"]),
    "T:b": (BP, ["is_a T:root"]),
    "T:m": (BP, ["is_a T:a", "is_a T:b"]),
    "T:l": (BP, ["is_a T:a"]),
    "T:p": (BP, ["relationship part_of T:m"]),
    "T:f": (MF, ["relationship part_of T:l"]),
}


def write_obo(path: Path, terms=None, extra: str = "") -> Path:
    lines = ["format-version: 1.4", "data-version: test/1", ""]
    for term, (namespace, links) in (terms or TERMS).items():
        lines += ["[Term]", f"id: {term}", f"name: name of {term}", f"namespace: {namespace}"]
        for link in links:
            tag, _, value = link.partition(" ")
            lines.append(f"{tag}: {value} ! a comment")
        lines.append("")
    path.write_text("\n".join(lines) + extra)
    return path


def gaf_row(symbol, term, code="IDA", qualifier="involved_in", aspect="P", synonyms="", taxon="taxon:9606"):
    left = ["X", "id", symbol, qualifier, term, "ref", code, "", aspect, "", synonyms, "protein"]
    return "\t".join([*left, taxon, "20200101", "x", "", ""])


def write_gaf(path: Path, rows, version: str = "2.2") -> Path:
    text = f"!gaf-version: {version}\n!generated-by: test\n" + "\n".join(rows) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text)
    return path


def build(folder: Path, rows, panel, terms=None, extra: str = "", **options) -> ontology.Concepts:
    options = {"min_genes": 1, "max_fraction": 1.0} | options
    obo = write_obo(folder / "x.obo", terms, extra)
    return ontology.from_obo_gaf(obo, write_gaf(folder / "x.gaf.gz", rows), panel, **options)


def held(concepts: ontology.Concepts, gene: str) -> set[str]:
    """Terms of a gene, without their prefix, before the size filter."""
    rows = concepts.evidence[concepts.evidence.gene == gene]
    return {term.partition(":")[2] for term in rows.term_id}


def write_table(path: Path, genes, rows) -> Path:
    """Rows: (source, term_id, term_size, cells)."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*LEADING, *genes])
        for source, term, size, cells in rows:
            writer.writerow([source, f"name, of {term}", term, "false", 0.1, 1, size, 9, 3, 99, *cells])
    return path


# ---------------------------------------------------------------- OBO


def test_obo_reader(tmp_path):
    extra = (
        "[Term]\nid: T:new\nname: a \\! b\\, c ! comment\nnamespace: biological_process\nalt_id: T:old\n"
        'alt_id: T:m\nis_a: T:a {source="x"} ! a\nrelationship: regulates T:b ! b\n'
        "relationship: part_of T:gone\nintersection_of: part_of T:root\n\n"
        "[Term]\nid: T:gone\nname: obsolete one\nis_obsolete: true\n\n"
        "[Typedef]\nid: occurs_in\nname: occurs in\n"
    )
    obo = ontology.read_obo(write_obo(tmp_path / "x.obo", extra=extra))
    assert obo.ids == sorted([*TERMS, "T:new"])
    new = obo.ids.index("T:new")
    assert (obo.names[new], obo.namespaces[new]) == ("a ! b, c", BP)
    assert obo.alternative == {"T:old": "T:new"}  # T:m is a term of its own
    assert obo.obsolete == {"T:gone"}
    assert obo.header == {"format-version": "1.4", "data-version": "test/1"}
    edges = [edge for edge in obo.edges if edge[0] == "T:new"]
    assert edges == [
        ("T:new", "is_a", "T:a"),
        ("T:new", "regulates", "T:b"),
        ("T:new", "part_of", "T:gone"),
    ]
    dag = ontology.graph(obo)
    assert dag.dropped == 1
    assert dict(zip(obo.ids, dag.depth.tolist())) == {
        **{"T:root": 0, "T:a": 1, "T:b": 1, "T:m": 2, "T:l": 2, "T:p": 3, "T:f": 3, "T:new": 2}
    }
    assert ontology.graph(obo, ("is_a", "occurs_in")).up.nnz == 6
    with pytest.raises(InputError, match=r"relations: found \['partof'\]"):
        ontology.graph(obo, ("is_a", "partof"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no \\[Term\\]"),
        ("[Term]\nname: x\n", "without an id"),
        ("[Term]\nid: T:1\n\n[Term]\nid: T:1\n", "line 4: found term T:1 a second time"),
        ("[Term]\nid: T:1\nnonsense\n", "line 3: found 'nonsense'"),
        ("[Term]\nid: T:1\nrelationship: part_of\n", "expected 'relation id'"),
    ],
)
def test_obo_errors(tmp_path, text, message):
    path = tmp_path / "bad.obo"
    path.write_text("format-version: 1.2\n\n" + text if text.startswith("[Term]\nname") else text)
    with pytest.raises(InputError, match=message) as error:
        ontology.read_obo(path)
    assert "bad.obo" in str(error.value)


def test_cycles_are_named(tmp_path):
    terms = TERMS | {"T:b": (BP, ["is_a T:root", "relationship part_of T:p"])}
    obo = ontology.read_obo(write_obo(tmp_path / "x.obo", terms))
    with pytest.raises(InputError, match=r"x\.obo: found a cycle through T:b, T:m, T:p, expected"):
        ontology.graph(obo, name="x.obo")
    assert ontology.graph(obo, ("is_a",)).depth.max() == 2  # without part_of there is no cycle
    loop = write_obo(tmp_path / "y.obo", {"T:1": (BP, ["is_a T:1"]), "T:2": (BP, [])})
    with pytest.raises(InputError, match="cycle through T:1, expected"):
        ontology.graph(ontology.read_obo(loop))


# ---------------------------------------------------------------- GAF


def test_gaf_reader(tmp_path):
    rows = [
        gaf_row("A", "T:a"),
        gaf_row("B", "T:b", qualifier="NOT|involved_in", code="imp"),
        gaf_row("C", "T:b", qualifier="NOTHING", synonyms="c1|c2", taxon="taxon:1|taxon:2"),
        "\t".join(gaf_row("D", "T:b", qualifier="NOT").split("\t")[:15]),
    ]
    gaf = ontology.read_gaf(write_gaf(tmp_path / "x.gaf.gz", rows, "2.1"))
    assert gaf.symbol == ["A", "B", "C", "D"]
    assert gaf.negated == [False, True, False, True]
    assert gaf.code == ["IDA", "IMP", "IDA", "IDA"]
    assert gaf.synonyms == {"C": {"c1", "c2"}}
    assert gaf.taxa == {"taxon:9606": 3, "taxon:1": 1}
    assert gaf.header == {"gaf-version": "2.1", "generated-by": "test"}


@pytest.mark.parametrize(
    ("rows", "version", "message"),
    [
        ([gaf_row("A", "T:a")], "1.0", "found gaf-version '1.0'"),
        ([], "2.2", "found no annotation row"),
        (["a\tb\tc"], "2.2", "line 3: found 3 tab-separated columns"),
        ([gaf_row("", "T:a")], "2.2", "line 3: found an empty symbol"),
    ],
)
def test_gaf_errors(tmp_path, rows, version, message):
    with pytest.raises(InputError, match=message):
        ontology.read_gaf(write_gaf(tmp_path / "x.gaf", rows, version))


def test_damaged_files(tmp_path):
    path = write_gaf(tmp_path / "x.gaf.gz", [gaf_row(f"G{i}", "T:a") for i in range(2000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"x\.gaf\.gz: found a damaged file"):
        ontology.read_gaf(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="damaged file"):
        ontology.read_gaf(path)
    text = tmp_path / "y.gaf"
    text.write_bytes(b"!gaf-version: 2.2\n\xff\xfe\n")
    with pytest.raises(InputError, match="not UTF-8"):
        ontology.read_gaf(text)
    with pytest.raises(InputError, match=r"absent\.gaf: found no such file"):
        ontology.read_gaf(tmp_path / "absent.gaf")


# ---------------------------------------------------------------- true path


def test_propagation_over_is_a_and_part_of(tmp_path):
    rows = [
        gaf_row("A", "T:p", "IMP"),
        gaf_row("A", "T:a", "IDA"),
        gaf_row("B", "T:f", "EXP", aspect="F"),
        gaf_row("B", "T:f", "EXP", aspect="F"),
    ]
    concepts = build(tmp_path, rows, ["A", "B", "none"])
    assert held(concepts, "A") == {"p", "m", "a", "b", "root"}
    assert held(concepts, "B") == {"f", "l", "a", "root"}
    table = concepts.evidence.set_index(["gene", "term_id"])
    assert table.loc[("A", "T:a"), "codes"] == "IDA,IMP"  # the code of the descendant is carried along
    assert table.loc[("A", "T:root"), "codes"] == "IDA,IMP"
    assert table.loc[("A", "T:b"), "codes"] == "IMP"
    assert table.index[table.direct].tolist() == [("A", "T:a"), ("A", "T:p"), ("B", "T:f")]
    assert concepts.genes.annotated.tolist() == [True, True, False]
    only = build(tmp_path, rows, ["A", "B"], relations=("is_a",))
    assert held(only, "A") == {"p", "a", "root"}
    assert held(only, "B") == {"f"}


def test_filters_come_before_propagation(tmp_path):
    rows = [gaf_row("A", "T:p", "IEA"), gaf_row("A", "T:l", "IDA"), gaf_row("B", "T:f", "IDA", aspect="F")]
    concepts = build(tmp_path, rows, ["A", "B"])
    assert held(concepts, "A") == {"l", "a", "root"}
    assert concepts.query["counts"]["annotations_dropped_evidence_not_chosen"] == 1
    every = build(tmp_path, [*rows, gaf_row("B", "T:b", "ND")], ["A", "B"], evidence=None)
    assert held(every, "A") == {"p", "m", "l", "a", "b", "root"}
    assert held(every, "B") == {"f", "l", "a", "root"}  # ND is no evidence
    assert every.query["counts"]["annotations_dropped_no_data"] == 1
    process = build(tmp_path, rows, ["A", "B"], aspects=("P",))
    assert held(process, "B") == set()  # the function's annotation does not enter over part_of
    assert process.query["counts"]["annotations_dropped_aspect_not_chosen"] == 1
    function = build(tmp_path, rows, ["A", "B"], aspects=("F",))
    assert held(function, "B") == {"f"}  # nor do the processes that it is part of


def test_not_qualifier(tmp_path):
    no = {"qualifier": "NOT|involved_in"}
    rows = [
        gaf_row("A", "T:p"),
        gaf_row("A", "T:m", **no),  # bars the only way up from p
        gaf_row("B", "T:m"),
        gaf_row("B", "T:b", **no),  # bars one of two ways
        gaf_row("C", "T:a"),
        gaf_row("C", "T:a", "IMP", **no),  # cancels the direct annotation
        gaf_row("D", "T:m"),
        gaf_row("D", "T:b", "IEA", **no),  # evidence that does not count
        gaf_row("E", "T:m"),  # another gene's NOT is nothing to this one
    ]
    concepts = build(tmp_path, rows, list("ABCDE"))
    assert held(concepts, "A") == {"p"}
    assert held(concepts, "B") == {"m", "a", "root"}
    assert held(concepts, "C") == set()
    assert held(concepts, "D") == held(concepts, "E") == {"m", "a", "b", "root"}
    counts = concepts.query["counts"]
    assert (counts["annotations_negated"], counts["annotations_cancelled_by_not"]) == (3, 1)


def test_absent_obsolete_and_alternative_terms(tmp_path):
    extra = "[Term]\nid: T:z\nname: z\nnamespace: biological_process\nalt_id: T:old\nis_a: T:b\n\n"
    extra += "[Term]\nid: T:gone\nname: gone\nis_obsolete: true\n"
    rows = [gaf_row("A", "T:old"), gaf_row("A", "T:gone"), gaf_row("A", "T:nowhere"), gaf_row("Z", "T:a")]
    concepts = build(tmp_path, rows, ["A"], extra=extra)
    assert held(concepts, "A") == {"z", "b", "root"}
    counts = concepts.query["counts"]
    assert counts["annotations_dropped_term_obsolete"] == 1
    assert counts["annotations_dropped_term_absent_from_obo"] == 1
    assert counts["annotations_dropped_gene_off_panel"] == 1
    assert "2 of the panel's 3 annotation rows" in concepts.query["warnings"][0]


def test_synonyms_only_for_unmatched_genes(tmp_path):
    rows = [
        gaf_row("NEW1", "T:a", synonyms="OLD1|A"),  # A has rows of its own
        gaf_row("A", "T:b"),
        gaf_row("NEW2", "T:l", synonyms="SHARED"),
        gaf_row("NEW3", "T:m", synonyms="SHARED"),
        gaf_row("a", "T:m"),  # another case is another gene
    ]
    concepts = build(tmp_path, rows, ["A", "OLD1", "SHARED"])
    assert held(concepts, "A") == {"b", "root"}
    assert held(concepts, "OLD1") == {"a", "root"}
    assert held(concepts, "SHARED") == set()
    assert concepts.genes.matched.tolist() == ["A", "NEW1", ""]
    counts = concepts.query["counts"]
    assert [counts[f"genes_{k}"] for k in ("matched_by_symbol", "matched_by_synonym")] == [1, 1]
    assert counts["genes_with_ambiguous_synonym"] == 1
    with pytest.raises(InputError, match="found none of the 2 panel genes"):
        build(tmp_path, rows, ["ENSG1", "ENSG2"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_propagation_against_networkx(seed):
    """Random graphs, annotation and NOT rows, gene by gene on a networkx graph."""
    rng = np.random.default_rng(seed)
    n_terms, n_genes = int(rng.integers(2, 14)), 4
    upper = np.triu(rng.random((n_terms, n_terms)) < 0.3, 1)  # child < parent: acyclic
    up = sparse.csr_matrix(upper)
    positive = rng.integers(0, (n_genes, n_terms, 3), (12, 3))
    negated = rng.integers(0, (n_genes, n_terms, 3), (int(rng.integers(0, 5)), 3))
    bits = ontology.propagate(positive, negated, n_genes, up).toarray()
    whole = networkx.from_numpy_array(upper, create_using=networkx.DiGraph)
    for gene in range(n_genes):
        barred = set(negated[negated[:, 0] == gene, 1].tolist())
        open_graph = whole.subgraph(set(whole) - barred)
        expected = np.zeros(n_terms, dtype=np.int64)
        for _, term, code in positive[positive[:, 0] == gene].tolist():
            if term in open_graph:
                for reached in {term} | networkx.descendants(open_graph, term):
                    expected[reached] |= 1 << code
                expected[term] |= 1 << 62
        np.testing.assert_array_equal(bits[gene], expected)


# ---------------------------------------------------------------- size, classes, information


def test_size_filter_classes_and_information_content(tmp_path):
    panel = [f"G{i}" for i in range(10)]
    rows = [gaf_row(g, "T:m") for g in panel[:3]]  # m and b: the same three genes
    rows += [gaf_row(g, "T:l") for g in panel[3:5]]  # a: five genes, root: five
    rows += [gaf_row("G5", "T:root")]
    concepts = build(tmp_path, rows, panel, min_genes=3, max_fraction=0.5)
    terms = concepts.terms
    assert terms.term_id.tolist() == ["T:a", "T:m"]  # m is deeper than b; root has 6 of 10 genes
    assert terms.members.tolist() == [["T:a"], ["T:b", "T:m"]]
    assert terms.n_genes.tolist() == [5, 3]
    np.testing.assert_allclose(terms.ic, [-np.log2(5 / 6), 1.0])  # 6 annotated genes
    assert terms.depth.tolist() == [1, 2]
    assert terms.propagated.tolist() == [True, False]
    assert terms.source.tolist() == ["T:BP", "T:BP"]
    assert terms.name.tolist() == ["name of T:a", "name of T:m"]
    assert concepts.membership.dtype == bool
    dense = concepts.membership.toarray()
    np.testing.assert_array_equal(dense.T.nonzero()[1], [0, 1, 2, 3, 4, 0, 1, 2])
    counts = concepts.query["counts"]
    expected = {"terms_with_genes": 5, "terms_with_min_genes": 4, "terms_in_size": 3, "terms_kept": 2}
    assert {key: counts[key] for key in expected} == expected
    assert counts["terms_collapsed"] == 1
    # The graph keeps every term with a gene and every ancestor, before the size filter.
    edges = list(concepts.dag.itertuples(index=False, name=None))
    assert edges == sorted(
        (c, p, "is_a")
        for c, p in [("T:a", "T:root"), ("T:b", "T:root"), ("T:m", "T:a"), ("T:m", "T:b"), ("T:l", "T:a")]
    )
    with pytest.raises(InputError, match=r"at least 7 genes .* terms_with_genes 5, terms_with_min_genes 0"):
        build(tmp_path, rows, panel, min_genes=7)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"evidence": ["IDA", "IDX"]}, "evidence"),
        ({"evidence": []}, "evidence"),
        ({"aspects": ["BP"]}, "aspects"),
        ({"min_genes": 0}, "min_genes"),
        ({"max_fraction": 1.5}, "max_fraction"),
    ],
)
def test_bad_settings(tmp_path, options, key):
    with pytest.raises(InputError, match=rf"ontology\.{key}: found"):
        build(tmp_path, [gaf_row("A", "T:a")], ["A"], **options)


def test_bad_panel(tmp_path):
    for panel, message in (([], "panel: found no gene"), (["A", "A"], "'A' more than once")):
        with pytest.raises(InputError, match=message):
            build(tmp_path, [gaf_row("A", "T:a")], panel)


# ---------------------------------------------------------------- g:Profiler table

GENES = ["A", "B", "C", "D", "off"]
ROWS = [
    ("GO:BP", "GO:1", 50, ["IDA,IEA", "IEA", "imp , IEA", "", "IDA"]),
    ("GO:BP", "GO:2", 20, ["EXP,IDA", "", "IGI", "ND", ""]),
    ("GO:CC", "GO:3", 20, ["", "IDA", "", "IPI,XYZ", "XYZ"]),
    ("KEGG", "KEGG:1", 9, ["KEGG", "KEGG", "", "", ""]),
    ("REAC", "REAC:1", 9, ["", "REAC", "", "REAC", ""]),
]


def table(folder: Path, rows=ROWS, **options) -> ontology.Concepts:
    options = {"min_genes": 1, "max_fraction": 1.0} | options
    path = write_table(folder / "t.csv", GENES, rows)
    return ontology.from_gprofiler_csv(path, ["D", "C", "B", "A", "missing"], **options)


def test_table(tmp_path):
    concepts = table(tmp_path)
    members = dict(zip(concepts.terms.term_id, concepts.terms.members))
    # The smaller term represents its class, whatever its source: 20 < 50 and 9 < 20 genes.
    assert members == {"GO:2": ["GO:1", "GO:2"], "REAC:1": ["GO:3", "REAC:1"], "KEGG:1": ["KEGG:1"]}
    order = concepts.terms.term_id.tolist()
    assert order == ["GO:2", "KEGG:1", "REAC:1"]
    np.testing.assert_array_equal(
        concepts.membership.toarray().astype(int),
        [[0, 0, 1], [1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]],  # D, C, B, A, missing
    )
    assert concepts.dag.columns.tolist() == ["child", "parent", "relation"] and len(concepts.dag) == 0
    evidence = concepts.evidence.set_index(["gene", "term_id"])
    assert evidence.loc[("C", "GO:1"), "codes"] == "IMP"
    assert evidence.loc[("A", "GO:2"), "codes"] == "EXP,IDA"
    assert evidence.loc[("B", "KEGG:1"), "codes"] == "KEGG"
    assert evidence.direct.isna().all()
    query = concepts.query
    assert query["unknown_evidence"] == {"XYZ": 1}
    assert query["sources"]["KEGG"] == {"cells": 2, "cells_kept": 2}
    counts = query["counts"]
    assert (counts["gene_columns_off_panel"], counts["genes_without_column"]) == (1, 1)
    assert counts["annotations_dropped_evidence_not_chosen"] == 2  # GO:1 of B, GO:2 of D
    assert concepts.terms.propagated.all() and concepts.terms.depth.isna().all()
    np.testing.assert_allclose(concepts.terms.ic, 1.0)  # 2 of 4 annotated genes


def test_a_source_is_never_emptied_in_silence(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("interptfm"), "propagate", True)
    with caplog.at_level(logging.WARNING, "interptfm.ontology"):
        concepts = table(tmp_path, keep_without_evidence=["REAC"])
    assert "KEGG:1" not in concepts.terms.term_id.tolist()
    warning = next(w for w in concepts.query["warnings"] if "source KEGG" in w)
    assert "none of its 2 annotated cells" in warning and warning in caplog.text
    assert concepts.query["sources"]["KEGG"] == {"cells": 2, "cells_kept": 0}
    assert not any("source REAC" in w for w in concepts.query["warnings"])


def test_table_aspects_and_all_codes(tmp_path):
    assert table(tmp_path, aspects=["C"]).terms.source.isin(["GO:CC", "KEGG", "REAC"]).all()
    assert table(tmp_path, aspects=["C"]).query["counts"]["annotations_dropped_aspect_not_chosen"] == 4
    every = table(tmp_path, evidence=None)
    assert every.terms.set_index("term_id").n_genes["GO:1"] == 3
    assert ("D", "GO:2") not in set(zip(every.evidence.gene, every.evidence.term_id))  # ND


def test_table_gzip_and_order_of_columns(tmp_path):
    path = write_table(tmp_path / "t.csv", GENES, ROWS)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    shuffled = frame[[*GENES[::-1], *LEADING[::-1]]]
    packed = tmp_path / "t2.csv.gz"
    shuffled.to_csv(packed, index=False)
    panel = ["A", "B", "C"]
    options = {"min_genes": 1, "max_fraction": 1}
    one = ontology.from_gprofiler_csv(path, panel, **options)
    two = ontology.from_gprofiler_csv(packed, panel, **options)
    pd.testing.assert_frame_equal(one.terms, two.terms)
    assert (one.membership != two.membership).nnz == 0


def test_table_errors(tmp_path):
    path = write_table(tmp_path / "t.csv", GENES, ROWS)
    good = path.read_text()

    def fails(text: str, message: str, panel=("A", "B")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            ontology.from_gprofiler_csv(path, list(panel), min_genes=1, max_fraction=1.0)

    fails(good.replace("term_size", "size"), r"t\.csv: found no column 'term_size'")
    fails(good, "found none of the 1 panel genes", panel=("ENSG1",))
    fails(good.replace("GO:2", "GO:1"), "term id 'GO:1' twice")
    fails(good.replace(",off", ",A"), "column 'A' twice")
    fails(good[: -len(",REAC,\r\n") - 4], "unreadable CSV .*[Ee]xpected 15 columns")
    fails(good.replace(",50,", ",many,"), "term_size 'many'")
    fails(good.splitlines()[0] + "\n", "found")
    fails("", "found no column 'source'")
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        ontology.read_table(path)


# ---------------------------------------------------------------- outputs


def outputs(folder: Path) -> dict[str, Path]:
    suffix = {"membership": "npz", "genes": "tsv", "query": "json"}
    return {key: folder / f"{key}.{suffix.get(key, 'parquet')}" for key in ontology.OUTPUTS}


def test_outputs_round_trip_and_repeat(tmp_path, monkeypatch):
    panel = [f"G{i}" for i in range(10)]
    rows = [gaf_row(g, "T:m") for g in panel[:3]] + [gaf_row(g, "T:l") for g in panel[2:5]]
    for folder, clock in (("one", 1.0e9), ("two", 1.7e9)):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        concepts = build(tmp_path / folder, rows, panel)
        ontology.save(concepts, **outputs(tmp_path / folder), provenance={"rule": "concepts"})
    one, two = outputs(tmp_path / "one"), outputs(tmp_path / "two")
    for key in ontology.OUTPUTS:
        assert one[key].read_bytes() == two[key].read_bytes(), key
    with zipfile.ZipFile(one["membership"]) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    terms, genes = store.read_table(one["terms"]), store.read_table(one["genes"])
    membership = sparse.load_npz(one["membership"])
    assert membership.dtype == bool and membership.shape == (len(genes), len(terms))
    np.testing.assert_array_equal(membership.sum(axis=0).A1, terms.n_genes)
    assert genes.gene.tolist() == panel and genes.annotated.sum() == 5
    assert [list(m) for m in terms.members] == concepts.terms.members.tolist()
    assert store.read_table(one["evidence"]).direct.sum() == 6
    assert len(store.read_table(one["dag"])) == 5
    query = store.read_json(one["query"])
    assert query["provenance"] == {"rule": "concepts"}
    assert query["files"]["x.obo"] == store.digest(tmp_path / "one" / "x.obo")
    assert query["versions"]["obo"]["data-version"] == "test/1"
    assert str(tmp_path) not in one["query"].read_text()


def test_empty_graph_keeps_its_columns(tmp_path):
    ontology.save(table(tmp_path), **outputs(tmp_path))
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(outputs(tmp_path)["dag"])
    assert [(f.name, str(f.type).removeprefix("large_")) for f in schema] == [
        (name, "string") for name in ("child", "parent", "relation")
    ]


def run_rule(root: Path, folder: Path, cells, settings, **files):
    """Call the rule script with Snakemake's own list classes."""
    import importlib.util

    from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, Wildcards

    spec = importlib.util.spec_from_file_location("concepts_rule", root / "scripts" / "build_concepts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    inputs = InputFiles([str(path) for path in (*cells, *files.values())])
    inputs._set_name("cells", 0, end=len(cells))
    for i, key in enumerate(files, len(cells)):
        inputs._set_name(key, i)
    targets = {key: str(path) for key, path in outputs(folder).items()}
    module.main(
        SimpleNamespace(
            input=inputs,
            output=OutputFiles(fromdict=targets),
            params=Params(fromdict={"ontology": settings}),
            wildcards=Wildcards(),
            log=Log([str(folder / "log.txt")]),
            threads=1,
            rule="concepts",
        )
    )


def write_cells(path: Path, genes) -> Path:
    import anndata

    data = anndata.AnnData(sparse.csr_matrix((2, len(genes)), dtype=np.float32))
    data.var_names = genes
    data.write_h5ad(path)
    return path


def test_rule_script(root, tmp_path, monkeypatch):
    for variable in job.THREAD_VARIABLES:  # the rule sets them for its own process
        monkeypatch.setenv(variable, "1")
    logger = logging.getLogger("interptfm")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    cells = [write_cells(tmp_path / "1.h5ad", ["B", "A"]), write_cells(tmp_path / "2.h5ad", ["A", "C"])]
    obo = write_obo(tmp_path / "x.obo")
    gaf = write_gaf(tmp_path / "x.gaf", [gaf_row(g, "T:m") for g in "AC"] + [gaf_row("B", "T:l")])
    block = {"source": "obo_gaf", "min_genes": 2, "max_fraction": 0.7, "keep_without_evidence": ["KEGG"]}
    run_rule(root, tmp_path, cells, block, obo=obo, gaf=gaf)
    assert store.read_table(tmp_path / "genes.tsv").gene.tolist() == ["B", "A", "C"]
    assert store.read_table(tmp_path / "terms.parquet").term_id.tolist() == ["T:m"]
    assert sparse.load_npz(tmp_path / "membership.npz").toarray().ravel().tolist() == [False, True, True]
    assert "x.gaf" in store.read_json(tmp_path / "query.json")["provenance"]["inputs"]

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SystemExit):
        run_rule(root, empty, cells, block | {"min_genes": 3, "max_fraction": 0.5}, obo=obo, gaf=gaf)
    assert "found no term with at least 3 genes" in (empty / "log.txt").read_text()
    assert [path.name for path in empty.iterdir()] == ["log.txt"]


def test_build_names_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"ontology\.source: found 'kegg'"):
        ontology.build(["A"], {"source": "kegg"})
    with pytest.raises(InputError, match=r"ontology\.gaf: found nothing"):
        ontology.build(["A"], {"source": "obo_gaf"}, obo=tmp_path)
    with pytest.raises(InputError, match=r"no\.h5ad: found no readable 'var'"):
        ontology.panel_of_cells([tmp_path / "no.h5ad"])


# ---------------------------------------------------------------- demo, speed, real data


def test_demo_ontology(root):
    folder = root / "resources" / "demo_ontology"
    panel = store.read_table(folder / "panel.tsv").gene.tolist()
    concepts = ontology.from_obo_gaf(folder / "demo.obo", folder / "demo.gaf", panel)
    counts = concepts.query["counts"]
    assert counts["annotations_negated"] > 0 and counts["terms_kept"] >= 40
    assert counts["genes_annotated"] < len(panel)
    relations = set(concepts.dag.relation)
    assert relations == {"is_a", "part_of"}
    # True path: but for barred pairs, the genes of a child are genes of its parents.
    sets = concepts.evidence.groupby("term_id").gene.agg(set)
    gaf = ontology.read_gaf(folder / "demo.gaf")
    barred = {(g, t) for g, t, no in zip(gaf.symbol, gaf.term, gaf.negated) if no}
    checked = 0
    for child, parent in zip(concepts.dag.child, concepts.dag.parent):
        missing = sets.get(child, set()) - sets.get(parent, set())
        assert {(gene, parent) for gene in missing} <= barred
        checked += len(sets.get(child, set()))
    assert checked > 300
    assert not barred & set(zip(concepts.evidence.gene, concepts.evidence.term_id))
    programs = store.read_table(folder / "programs.tsv").term_id.dropna()
    assert set(programs) <= set(concepts.terms.members.explode())


def test_speed_on_a_graph_of_the_size_of_go(tmp_path):
    """40,000 terms × 20,000 genes × 100,000 rows, with NOT rows, read, propagated and filtered."""
    rng = np.random.default_rng(0)
    n_terms, n_genes, n_rows = 40_000, 20_000, 100_000
    level = np.sort(rng.integers(1, 14, n_terms))
    level[0] = 0
    first = np.searchsorted(level, np.arange(15))
    lines = ["format-version: 1.2", ""]
    for term in range(n_terms):
        lines += ["[Term]", f"id: GO:{term:07d}", f"name: term {term}", f"namespace: {BP}"]
        if term:
            above = rng.integers(first[level[term] - 1], first[level[term]], 2)
            lines.append(f"is_a: GO:{above[0]:07d}")
            lines += [f"relationship: part_of GO:{above[1]:07d}"] if term % 2 else []
        lines.append("")
    obo = tmp_path / "big.obo"
    obo.write_text("\n".join(lines))
    genes, terms = rng.integers(0, n_genes, n_rows), rng.integers(0, n_terms, n_rows)
    codes = rng.choice(["IDA", "IMP", "IPI", "IEA"], n_rows)
    qualifiers = np.where(rng.random(n_rows) < 0.01, "NOT|involved_in", "involved_in")
    cells = zip(genes, terms, codes, qualifiers)
    gaf = write_gaf(tmp_path / "big.gaf", [gaf_row(f"G{g}", f"GO:{t:07d}", c, q) for g, t, c, q in cells])
    started = time.process_time()
    concepts = ontology.from_obo_gaf(obo, gaf, [f"G{i}" for i in range(n_genes)])
    seconds = time.process_time() - started
    assert concepts.query["counts"]["edges"] > 55_000
    assert len(concepts.evidence) > 3_000_000
    assert seconds < 20


@pytest.fixture(scope="module")
def real_panel(real_data) -> list[str]:
    path = real_data / "cosmx_nsclc_mini" / "nsclc_mini_exprMat_file.csv.gz"
    columns = pd.read_csv(path, nrows=0).columns[2:]
    return [c for c in columns if not c.startswith("NegPrb")]


@pytest.mark.real
def test_real_table(real_data, real_panel):
    """The numbers that the data pack's README states, from an independent computation."""
    path = real_data / "go" / "gprofiler_like.csv"
    assert len(real_panel) == 960
    concepts = ontology.from_gprofiler_csv(path, real_panel)
    counts = concepts.query["counts"]
    assert counts["terms_read"] == 4338
    assert counts["terms_with_genes"] == 3906
    assert counts["genes_annotated"] == concepts.genes.annotated.sum() == 873
    assert counts["terms_with_min_genes"] == 2393
    assert round(100 * (1 - len(concepts.evidence) / (4338 * 960)), 1) == 97.9
    assert concepts.query["warnings"] == [] and concepts.query["unknown_evidence"] == {}
    # Against the published pipeline's way: pandas, token by token.
    frame = pd.read_csv(path, low_memory=False, keep_default_na=False, dtype=str)
    wanted = set(ontology.EXPERIMENTAL)
    chosen = frame.set_index("term_id").loc[concepts.terms.term_id, real_panel]
    dense = chosen.map(lambda cell: bool(wanted.intersection(cell.split(",")))).to_numpy().T
    np.testing.assert_array_equal(concepts.membership.toarray(), dense)
    n = concepts.terms.n_genes
    assert n.min() >= 5 and n.max() <= 0.4 * 960
    assert concepts.terms.members.map(len).sum() == counts["terms_in_size"]
    assert len({column.tobytes() for column in dense.T}) == len(concepts.terms)


@pytest.mark.real
def test_real_table_all_codes(real_data, real_panel):
    concepts = ontology.from_gprofiler_csv(
        real_data / "go" / "gprofiler_like.csv", real_panel, evidence=None, max_fraction=1.0
    )
    assert concepts.query["counts"]["genes_annotated"] == 951


@pytest.mark.real
def test_real_annotation_on_the_slim(real_data, real_panel):
    obo, gaf = real_data / "go" / "goslim_generic.obo", real_data / "go" / "human_go_panel.gaf.gz"
    concepts = ontology.from_obo_gaf(obo, gaf, real_panel)
    counts = concepts.query["counts"]
    assert counts["annotations_read"] == 35_561
    assert counts["genes_matched_by_symbol"] == 951
    assert counts["terms_read"] == 149
    rows = pd.read_csv(gaf, sep="\t", comment="!", header=None, dtype=str, keep_default_na=False)
    slim = set(ontology.read_obo(obo).ids) | set(ontology.read_obo(obo).alternative)
    rows = rows[rows[2].isin(real_panel)]
    assert counts["annotations_dropped_term_absent_from_obo"] == (~rows[4].isin(slim)).sum()
    assert any("same release" in warning for warning in concepts.query["warnings"])
    for child, parent in zip(concepts.dag.child, concepts.dag.parent):
        genes = [set(concepts.evidence.gene[concepts.evidence.term_id == t]) for t in (child, parent)]
        assert genes[0] <= genes[1]
