"""The report from fabricated frames: well-formed, self-contained, escaped, complete."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from interptfm import recovery, report, store
from interptfm.errors import InputError
from interptfm.report import figures, page, sections, svg
from interptfm.report.sections.alignment import top_genes

EVIL = "<script>alert('x')</script> & \"q\" $a$"
TEXT_FILL = re.compile(r"<text[^>]*fill: (#[0-9a-f]{6})")
LONG = "regulation of " * 60 + "everything"
LAYERS = (0, 1)
SVG_TEXT = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 60 20"><g id="figure_1">'
    '<path id="p" d="M0 0L60 20" style="stroke:#000;clip-path:url(#c)"/><clipPath id="c"/></g></svg>'
)


def concepts(generator, n: int, shift: float) -> pd.DataFrame:
    null = generator.uniform(0.2, 0.4, n)
    f1 = np.clip(null + shift + generator.normal(0, 0.05, n), 0, 1)
    return pd.DataFrame(
        {
            "term_id": [f"GO:{i:07d}" for i in range(n)],
            "name": [{0: EVIL, 8: LONG}.get(i, f"response to stimulus {i}") for i in range(n)],
            "n_genes": generator.integers(5, 60, n),
            "feature": generator.integers(0, 32, n),
            "threshold": 0.15,
            "split": "test",
            "tp": 5, "fp": 3, "fn": 2, "precision": 0.6, "recall": 0.7,
            "f1": f1, "f1_validation": f1 + 0.01,
            "f1_single_gene": generator.uniform(0.1, 0.3, n),
            "single_gene": "CD74", "lift": 2.0, "null_mean": null, "null_sd": 0.03,
            "excess": f1 - null, "p": 0.01, "q": np.where(f1 - null > 0.05, 0.01, 0.4),
            "p_min": 0.001, "n_permutations": 20,
        }
    )  # fmt: skip


def entry_files(folder: Path, arm: str, representation: str, layer: int, shift: float) -> dict:
    generator = np.random.default_rng([layer, len(arm), len(representation)])
    folder = folder / f"{arm}_{representation}_{layer}"
    folder.mkdir()
    n, k = 40, 32
    frame = concepts(generator, n, shift)
    null = pd.DataFrame({"permutation": range(20), "mean_f1": generator.normal(0.3, 0.01, 20)})
    tables = {
        "concepts": frame,
        "features": pd.DataFrame({"feature": range(k), "f1": generator.uniform(size=k)}),
        "null": null,
        "interpretable": frame.head(12)[["feature", "term_id", "f1", "lift", "p", "q"]].assign(stable=True),
    }
    files = {"arm": arm, "representation": representation, "layer": layer}
    documents = {"summary": {"validation_excess": shift + 0.01 * layer, "n_features": k}}
    if representation != "neurons":
        steps = np.arange(1, 30)
        tables["training"] = pd.DataFrame(
            {"step": steps, "tokens": steps * 1024, "loss": 1 / steps, "fvu": 1 / steps, "l0": 16.0,
             "dead": 3, "learning_rate": 1e-3}
        )  # fmt: skip
        genes = [EVIL if i % 3 == 0 else f"GENE{i % 7}" for i in range(k * 5)]
        tables["top_tokens"] = pd.DataFrame(
            {"feature": np.repeat(range(k), 5), "rank": np.tile(range(5), k), "sample": "s1",
             "cell": "s1:1_2", "gene": genes, "value": 3.0, "activation": generator.uniform(size=k * 5)}
        )  # fmt: skip
        part = {"tokens": 100, "fvu": 0.2, "cosine": 0.9, "l0": 16.0, "l0_quantiles": [3, 16, 40],
                "dead": 0.03, "dense": None}  # fmt: skip
        part |= {"firing_rates": [0] * 12 + [3] * 12}
        documents["metrics"] = {"n_features": k, "validation": part, "test": part}
        if not arm:
            error = {"original": 2.0, "reconstruction": 2.1, "mean": 3.0, "zero": 4.0}
            documents["quality"] = {
                "head": "token", "cells": 9, "masked_tokens": 90, "error": error,
                "recovered": {"mean": 0.9, "zero": None}, "fvu": {"visible": 0.1, "masked": 0.6},
            }  # fmt: skip
    for key, table in tables.items():
        files[key] = str(folder / f"{key}.parquet")
        store.write_table(files[key], table)
    for key, value in documents.items():
        files[key] = str(folder / f"{key}.json")
        store.write_json(files[key], value)
    return files


def representation_files(folder: Path) -> dict:
    """Return paths of the table of all representations and of a reading of features."""
    rows = [
        {"representation": name, "arm": "main", "layer": layer, "n_features": 32, "evaluation": evaluation,
         "measure": measure, "n": 40, "mean": mean, "lo": mean - 0.02, "hi": mean + 0.02, "null_mean": 0.2,
         "null_lo": 0.18, "null_hi": 0.22, "excess": mean - 0.2, "p": 0.01}
        for name, mean in (("SAE", 0.4), ("raw neurons", 0.3), ("NMF of expression", 0.5))
        for layer in LAYERS
        for evaluation, measure in (("cell_held_out", "f1"), *(("gene_held_out", m) for m in ("f1", "auroc")))
    ]  # fmt: skip
    store.write_table(folder / "headline.tsv", pd.DataFrame(rows))
    terms = pd.DataFrame({"feature": [3, 4], "rank": 1, "term_id": ["GO:0000001", "GO:0000002"]})
    terms = terms.assign(name=[EVIL, "two"], f1=[0.6, 0.5], stands_for="", slim="GO:1", slim_name="parent")
    steps = np.arange(20)
    path = pd.DataFrame({"feature": 3, "penalty": 0.5**steps, "n_genes": steps * 2})
    path["r2_cross_validated"] = 1 - 0.9**steps
    path["chosen"] = steps == 15
    fits = pd.DataFrame({"feature": [3, 4], "n_genes": [30, 0], "penalty": [0.1, np.nan]})
    tables = {
        "terms": terms,
        "enrichment": terms[["feature", "term_id", "name"]].assign(
            overlap=5, n_top=20, n_genes=9, fold=4.0, p=1e-6, q=[1e-5, 0.2]
        ),
        "entropy": pd.DataFrame(
            {"of": ["feature over concepts", "concept over features"] * 2, "id": list("1a2b"),
             "entropy": [0.0, 1, 2, 3], "perplexity": [1.0, 2, 4, 8], "n_partners": [1, 2, 4, 8]}
        ),
        "predictors": pd.DataFrame({"feature": 3, "rank": [1, 2], "gene": ["CD74", EVIL],
                                    "coefficient": [0.5, -0.2], "enters_at": [0.5, 0.1]}),
        "path": path,
        "fits": fits.assign(r2_cross_validated=[0.8, np.nan], r2_test=[0.7, np.nan]),
    }  # fmt: skip
    files = {name: str(folder / f"reading_{name}.parquet") for name in tables}
    for name, table in tables.items():
        store.write_table(files[name], table)
    files["summary"] = str(folder / "reading.json")
    store.write_json(files["summary"], READING)
    return {"headline": str(folder / "headline.tsv"), "reading": files}


READING = {
    "layer": 1, "n_features": 2, "graph": "yes", "n_features_enriched": 1, "median_r2_test": 0.7,
    "median_entropy_of_features": 0.0, "median_entropy_of_concepts": 2.0,
    "terms": {"n_terms": 3, "n_after_reduction": 2, "lin": 0.7},
    "agreement": {"status": "computed", "n": 9, "n_parents": 3, "ari": 0.1, "ari_null_mean": 0.0,
                  "ari_p": 0.2, "nmi": 0.5, "nmi_null_mean": 0.4, "nmi_p": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict:
    """Paths of a fabricated run, as the rule would hand them over."""
    folder = tmp_path_factory.mktemp("run")
    plan = [("", "batchtopk", 0.25), ("", "neurons", 0.12), ("untrained", "batchtopk", 0.03)]
    index = [entry_files(folder, arm, name, layer, shift) for arm, name, shift in plan for layer in LAYERS]
    index.append(entry_files(folder, "svd_only", "batchtopk", 1, 0.18))
    terms = concepts(np.random.default_rng(0), 40, 0)[["term_id", "name"]].assign(source="GO:BP")
    terms["members"] = [[term] for term in terms["term_id"]]
    store.write_table(folder / "terms.parquet", terms)
    qc = pd.DataFrame(
        {
            "quantity": ["rows read", "cells kept", "cells by type"],
            "group": ["", "", EVIL],
            "value": [9, 8, 3],
        }
    )
    for sample in ("s1", "s2"):
        store.write_table(folder / f"{sample}.qc.tsv", qc)
        (folder / f"{sample}.qc.svg").write_text(SVG_TEXT)
    store.write_json(folder / "query.json", {"source": "obo_gaf", "counts": {"terms": 40}})
    validation = {
        "cells": 100, "masked_tokens": 9000, "best_epoch": 3, "error": {"token": 2.0, "cls": 2.2},
        "baseline_error": {"gene_mean": 3.0, "gene_and_cell": 2.5},
    }  # fmt: skip
    store.write_json(
        folder / "metrics.json",
        {"kind": "trained in place", "n_parameters": 123456, "validation": validation},
    )
    epochs = pd.DataFrame({"epoch": range(1, 6)})
    for column in ("train_token", "train_cls", "validation_token", "validation_cls"):
        epochs[column] = 3 / epochs["epoch"] + 1
    store.write_table(folder / "training.parquet", epochs)
    truth = terms[["term_id"]].iloc[::4].assign(role=["planted", "decoy"] * 5)
    tables = {"SAE": {}, "raw neurons": {}, "untrained": {}, "svd_only": {}}
    names = {("", "batchtopk"): "SAE", ("", "neurons"): "raw neurons"}
    for item in index:
        name = names.get((item["arm"], item["representation"]), item["arm"])
        tables[name][item["layer"]] = store.read_table(item["concepts"])
    programs, compared, summary = recovery.evaluate(truth, terms, tables, {0: 0.1, 1: 0.2}, 1, 500)
    found = [str(folder / f"recovery.{suffix}") for suffix in ("parquet", "tsv", "json")]
    store.write_table(found[0], programs)
    store.write_table(found[1], compared)
    store.write_json(found[2], summary)
    runs = [
        {"strength": s, "layer": 1, "validation_excess": 0.1, "truth": truth,
         "concepts": concepts(np.random.default_rng(int(9 * s)), 40, 0.1 * s)}
        for s in (0, 0.5, 1, 2)
    ]  # fmt: skip
    store.write_table(folder / "curve.tsv", recovery.strength_curve(runs, terms, 1, 500))
    absorbed = pd.DataFrame(
        {"child_name": [EVIL], "parent_name": ["b"], "child_fires": [9], "silent_rate": [0.5],
         "silent_rate_elsewhere": [0.25], "excess": [0.25]}
    )  # fmt: skip
    store.write_table(folder / "absorption.tsv", absorbed)
    share = {"above": 0.6, "mean": 0.7}
    store.write_json(
        folder / "stability.json",
        {"dictionary": "batchtopk", "layer": 1, "seeds": 3, "stable": 0.5,
         "decoder": share, "firing": share, "chance": {"above": 0.0, "mean": 0.3}},
    )  # fmt: skip
    sweep = pd.DataFrame(
        {"dictionary": ["a", "b", "c"], "architecture": ["batchtopk", "batchtopk", "gated"], "layer": 1,
         "l0": [8.0, 16.0, 30.0], "fvu": [0.3, 0.2, 0.25],
         "n_features": [64, 64, 128], "validation_excess": [0.16, 0.14, 0.12]}
    )  # fmt: skip
    store.write_table(folder / "frontier.tsv", sweep)
    return {
        "absorption": {1: str(folder / "absorption.tsv")},
        "stability": [str(folder / "stability.json")],
        "frontier": str(folder / "frontier.tsv"),
        "index": index,
        **representation_files(folder),
        "name": f"demo {EVIL}",
        "config": {"run": "demo", "seed": 1, "dictionaries": [{"name": "batchtopk", "k": 16}]},
        "samples": ["s1", "s2"],
        "simulated": True,
        "qc": [str(folder / f"{s}.qc.tsv") for s in ("s1", "s2")],
        "qc_figures": [str(folder / f"{s}.qc.svg") for s in ("s1", "s2")],
        "query": str(folder / "query.json"),
        "terms": str(folder / "terms.parquet"),
        "model_metrics": str(folder / "metrics.json"),
        "model_training": str(folder / "training.parquet"),
        "recovery_files": found,
        "curve": str(folder / "curve.tsv"),
    }


@pytest.fixture(scope="module")
def run(inputs) -> report.Run:
    arguments = dict(inputs)
    return report.read(arguments.pop("index"), **arguments)


def test_dictionary_quality_shows_what_there_is(inputs, run):
    section = sections.dictionary_quality(run)
    assert [figure.name for figure in section.figures] == ["loss-recovered", "firing-rates", "frontier"]
    tables = {table.name: table.frame for table in section.tables}
    assert list(tables) == ["loss-recovered-errors", "absorption", "stability"]
    assert tables["loss-recovered-errors"]["recovered_mean"].tolist() == [0.9, 0.9]
    assert tables["stability"]["decoder_above"].tolist() == [0.6]
    bare = dict(inputs) | {"absorption": {}, "stability": [], "frontier": None}
    index = [{k: v for k, v in item.items() if k not in ("quality", "metrics")} for item in bare.pop("index")]
    assert sections.dictionary_quality(report.read(index, **bare)) is None
    no_graph = dict(inputs) | {"has_graph": False}
    section = sections.dictionary_quality(report.read(no_graph.pop("index"), **no_graph))
    assert section.prose == ["Absorption: not applicable: no graph."]
    from interptfm.report import figures as drawn
    from interptfm.sae import metrics

    assert drawn.RATE_EDGES == metrics.RATE_EDGES


@pytest.fixture(scope="module")
def built(run) -> tuple[str, dict[str, str]]:
    return report.build(run)


def tree(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>"))


def test_page_is_well_formed_with_unique_ids_and_resolved_references(built):
    root = tree(built[0])
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) > 50
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href") and value.startswith("#"):
                assert value[1:] in ids
            for target in re.findall(r"url\(#([^)]+)\)", value):
                assert target in ids
        for name in (element.get("aria-labelledby") or "").split():
            assert name in ids


def test_page_loads_nothing(built):
    html = built[0]
    for element in tree(html).iter():
        tag = element.tag.rsplit("}", 1)[-1]
        assert tag not in {"script", "link", "iframe", "object", "embed", "img"}
        for key, value in element.attrib.items():
            local = key.rsplit("}", 1)[-1]
            if local in {"src", "href", "srcset", "action", "poster"}:
                assert value.startswith(("#", "data:")), value[:80]
            assert not re.search(r"url\(\s*['\"]?(?!#|data:)", value)
            assert not local.startswith("on")
    css = re.search(r"<style>(.*?)</style>", html, re.S).group(1)
    assert "@import" not in css and "url(" not in css and "font: 16px" in css
    assert "default-src 'none'" in html


def test_names_are_escaped_in_page_and_figures(built):
    html, drawn = built
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert all("<script" not in text for text in drawn.values())
    # The name of a program is a tick label: it must arrive in the figure as text, and leave room to draw.
    assert "&lt;script&gt;" in drawn["recovery-programs.svg"]
    assert LONG in html and LONG[:40] in drawn["recovery-programs.svg"]
    assert all(LONG not in text for text in drawn.values())


def test_the_atlas_is_linked_where_the_run_has_one(inputs, built):
    def links(html):
        return [a.get("href") for a in tree(html).iter("a") if not a.get("href").startswith(("#", "data:"))]

    assert links(built[0]) == []
    arguments = {**inputs, "atlas": "atlas/index.html"}
    html, _ = report.build(report.read(arguments.pop("index"), **arguments))
    assert links(html) == ["atlas/index.html"]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two #rrggbb colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_the_style_sheet_is_aa(built):
    """Every dark text colour on every light background, every light one on the dark: 4.5 to 1 or more."""
    css = re.search(r"<style>(.*?)</style>", built[0], re.S).group(1)
    known = dict(re.findall(r"(--[a-z]+): (#[0-9a-f]{6})", css))
    css = re.sub(r"var\((--[a-z]+)\)", lambda match: known.get(match[1], "none"), css)
    text = set(re.findall(r"[;{ ]color: (#[0-9a-f]{6})", css))
    behind = set(re.findall(r"background: (#[0-9a-f]{6})", css))
    assert len(text) >= 8 and len(behind) >= 5
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    dark = {colour for colour in text | behind if contrast(colour, "#ffffff") > contrast(colour, "#000000")}
    pairs = [(a, b) for a in text for b in behind if (a in dark) != (b in dark)]
    assert {a for a, _ in pairs} == text
    assert min(contrast(a, b) for a, b in pairs) >= 4.5
    drawn = {figures.INK} | {colour for _, text in built[1].items() for colour in TEXT_FILL.findall(text)}
    assert min(contrast(colour, "#ffffff") for colour in drawn) >= 4.5


def test_every_figure_has_caption_title_description_svg_and_tsv(built):
    html, drawn = built
    found = [element for element in tree(html).iter() if element.tag == "figure"]
    assert len(found) == len(drawn) >= 10
    for figure in found:
        picture = next(e for e in figure.iter() if e.tag.endswith("}svg"))
        assert picture.get("role") == "img"
        texts = {e.tag.rsplit("}", 1)[-1]: e.text for e in picture if e.text}
        assert len(texts["desc"]) > 30 and len(texts["title"]) > 5
        caption = "".join(figure.find("figcaption").itertext())
        assert len(caption) > 100
        links = {a.get("download"): a.get("href") for a in figure.iter("a")}
        name = figure.get("id").removeprefix("figure-")
        assert set(links) == {f"{name}.svg", f"{name}.tsv"}
        text = base64.b64decode(links[f"{name}.svg"].split(",")[1]).decode()
        assert text == drawn[f"{name}.svg"]
        data = base64.b64decode(links[f"{name}.tsv"].split(",")[1]).decode()
        assert len(pd.read_csv(io.StringIO(data), sep="\t")) > 0


def test_headline_stands_beside_null_interval_and_verdict(built, run):
    def rows(name: str) -> list[str]:
        table = next(t for t in tree(built[0]).iter("table") if t.get("id") == name)
        return [" | ".join("".join(cell.itertext()) for cell in row) for row in table.iter("tr")]

    planted, every = rows("tab-headline-planted"), rows("tab-headline")
    null = next(text for text in planted if "SAE − its permuted membership" in text)
    assert "higher: interval above 0" in null and " to " in null
    for other in ("raw neurons", "untrained", "svd_only", "best single gene"):
        assert any(f"SAE − {other}" in text for text in planted)
        assert any(f"SAE − {other}" in text for text in every)
    # p is against the null's own draws: 20 permutations, none as high.
    null = next(text for text in every if "SAE − its permuted membership" in text)
    assert f"| {page.number(1 / 21)} |" in null
    assert "trained in place" in sections.notice(run)


def test_layer_is_the_one_with_the_largest_validation_excess(run):
    assert run.layer == 1
    absent = run.comparisons[run.comparisons["right"] == "svd_only"]
    assert (absent["n"] > 0).all()


def test_arm_without_the_chosen_layer_is_named(inputs):
    arguments = dict(inputs)
    index = [i for i in arguments.pop("index") if (i["arm"], i["layer"]) != ("svd_only", 1)]
    index.append(inputs["index"][-1] | {"layer": 0})
    compared = report.read(index, **arguments).comparisons
    row = compared[(compared["right"] == "svd_only") & (compared["measure"] == "F1")].iloc[0]
    assert row["n"] == 0 and row["verdict"] == "not compared: no svd_only at this layer"


def test_real_data_has_no_recovery_section_and_same_input_same_bytes(inputs, built, run):
    assert report.build(run) == built
    arguments = {**inputs, "recovery_files": [], "curve": None, "simulated": False}
    real = report.read(arguments.pop("index"), **arguments)
    html, drawn = report.build(real)
    assert "planted" not in html.lower()
    assert not [name for name in drawn if name.startswith("recovery")]
    assert len(html.encode()) < 5_000_000


def test_features_table_counts_genes_of_top_tokens():
    tokens = pd.DataFrame(
        {"feature": [3, 3, 3, 3, 5], "gene": ["B", "A", "A", "C", "Z"],
         "activation": [0.9, 0.5, 0.4, 0.1, 1.0]}
    )  # fmt: skip
    assert top_genes(tokens, 2) == {3: "A (2), B (1)", 5: "Z (1)"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<svg", "expected well-formed SVG"),
        ("<a/>", "expected svg"),
        (SVG_TEXT.replace("<g", "<script/><g"), "found a script"),
        (SVG_TEXT.replace("<g", "<g onclick='x'"), "found the handler"),
        (SVG_TEXT.replace("<g", "<image href='https://a.b/c.png'/><g"), "found a link to"),
    ],
)
def test_svg_that_is_not_a_drawing_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        svg.inline(text, "x", "title", "description")


def test_inlined_svg_keeps_its_references_under_a_prefix():
    text = svg.inline(SVG_TEXT, "one", "title", "description")
    assert 'id="one-p"' in text and "url(#one-c)" in text and 'id="one-c"' in text


def test_large_scatter_is_rasterised_and_small_one_is_not():
    generator = np.random.default_rng(0)
    small = figures.f1_against_null("f1-by-term", concepts(generator, 50, 0.1))
    large = figures.f1_against_null("f1-by-term", concepts(generator, figures.RASTER_ABOVE + 1, 0.1))
    assert "data:image/png" in large and "data:image/png" not in small
    assert len(large) < 1_000_000
    svg.inline(large, "x", "title", "description")


def test_numbers_are_written_for_readers():
    assert page.number(12345) == "12\u202f345"
    assert page.number(-0.1234) == "\u22120.123"
    assert page.number(np.float64(2e-5), "q") == "2.0e\u22125"
    assert page.number(float("nan")) == "–" and page.number(True) == "yes"
    assert page.tsv(pd.DataFrame({"a": ["x\ty\nz"], "b": [1.5]})) == "a\tb\nx y z\t1.5\n"


def test_counts_and_rates_in_one_column_are_both_numbers():
    frame = pd.DataFrame({"a": ["x", "y"], "b": pd.Series([20, 0.25], dtype=object)})
    shown = page._cells(page.Table("t", "c", frame))
    assert [row[1] for row in shown["rows"]] == [("20", True, "number"), ("0.250", True, "number")]


def test_a_missing_qc_file_and_two_figures_of_one_name_are_refused(inputs):
    arguments = {**inputs, "qc": inputs["qc"][:1]}
    with pytest.raises(InputError, match="found 1 files of qc"):
        report.read(arguments.pop("index"), **arguments)
    twice = page.Section("One", ["text"])
    with pytest.raises(InputError, match="twice"):
        page.render("t", "s", [twice, twice])


def test_script_writes_page_and_figures_and_refuses_undeclared_inputs(inputs, tmp_path):
    import importlib.util

    path = Path(report.__file__).parents[2] / "write_report.py"
    spec = importlib.util.spec_from_file_location("rule_report", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Given(list):
        def __init__(self, **names):
            super().__init__()
            self.__dict__.update(names)
            for value in names.values():
                self.extend([value] if isinstance(value, str) else value)

        def get(self, name, default=None):
            return self.__dict__.get(name, default)

    tables = report.undeclared(inputs["index"], [])
    named = ("qc", "qc_figures", "query", "terms", "model_metrics", "model_training", "headline")
    named = {k: inputs[k] for k in named} | {"reading": list(inputs["reading"].values())}
    params = {k: inputs[k] for k in ("index", "config", "samples", "simulated")} | {"run": "demo"}
    params["reading"] = list(inputs["reading"])
    params |= {"layers": list(LAYERS), "has_graph": True, "atlas": ""}
    output = Given(report=str(tmp_path / "report.html"), figures=str(tmp_path / "figures"))
    snakemake = SimpleNamespace(
        input=Given(**named, tables=tables, recovery=inputs["recovery_files"], curve=inputs["curve"]),
        output=output, params=SimpleNamespace(**params), log=[str(tmp_path / "log")], threads=1,
        rule="write_report", wildcards={},
    )  # fmt: skip
    module.main(snakemake)
    html = (tmp_path / "report.html").read_text()
    names = {p.name for p in (tmp_path / "figures").iterdir()}
    assert {"f1-distribution.svg", "recovery-strength.svg", "representations.svg"} <= names
    assert "expression-paths.svg" in names
    tree(html)
    assert json.dumps(str(tmp_path)) not in html

    snakemake.input = Given(**named, tables=tables[1:])
    with pytest.raises(SystemExit):
        module.main(snakemake)
    assert "which is no input of the rule" in (tmp_path / "log").read_text()


def text_of(section: page.Section) -> str:
    return " ".join(section.prose)


def test_the_best_representation_is_named_whatever_it_is(run):
    section = sections.representations(run)
    assert "highest for NMF of expression (0.500); the dictionary has 0.400" in text_of(section)
    assert {"SAE", "raw neurons", "NMF of expression"} == set(section.tables[0].frame["representation"])
    assert set(section.tables[1].frame["layer"]) == set(LAYERS)


def test_the_reading_is_told_with_and_without_a_graph(run):
    from dataclasses import replace

    section = sections.reading(run)
    assert "Their 3 terms are 2" in text_of(section) and "adjusted Rand index 0.100" in text_of(section)
    names = [table.name for table in section.tables]
    assert names == ["reduced-terms", "enrichment", "predictors", "entropies"]
    assert section.tables[2].frame["genes"].tolist() == [f"CD74, −{EVIL}", ""]
    assert section.tables[3].frame["50%"].tolist() == [1.0, 2.0]
    tables, summary = run.reading
    nothing = "not applicable: no graph"
    bare = {**summary, "terms": nothing, "agreement": {"status": nothing}, "median_entropy_of_features": None}
    empty = {name: table.iloc[:0] for name, table in tables.items()}
    section = sections.reading(replace(run, reading=(empty, bare)))
    assert text_of(section).count(nothing) == 2 and "not defined" in text_of(section)
    assert not section.figures and "reduced-terms" not in [table.name for table in section.tables]
    assert sections.reading(replace(run, reading=None)) is None
