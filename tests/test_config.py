"""Configuration: schema, defaults and README agree; every mistake gets one sentence before any job."""

from __future__ import annotations

import copy

import pytest

from interptfm import config as settings
from interptfm import schema as schemas
from interptfm.errors import InputError


@pytest.fixture(scope="module")
def schema(root):
    return settings.load_yaml(root / "workflow/schemas/config.schema.yaml")


@pytest.fixture
def defaults(root, monkeypatch):
    monkeypatch.chdir(root)
    return settings.load_yaml("config/config.yaml")


@pytest.fixture(scope="module")
def sheet_schema(root):
    return settings.load_yaml(root / "workflow/schemas/samples.schema.yaml")


def leaves(part, schema, prefix=""):
    """Yield (path, part) of every key that the schema describes, branches of a union included."""
    for key, inner in part.get("properties", {}).items():
        inner = schemas.referred(inner, schema)
        yield f"{prefix}{key}", inner
        yield from leaves(inner, schema, f"{prefix}{key}.")
        items = schemas.referred(inner.get("items", {}), schema)
        yield from leaves(items, schema, f"{prefix}{key}[].")
        for branch in items.get("oneOf", ()):
            yield from leaves(schemas.referred(branch, schema), schema, f"{prefix}{key}[].")


def test_every_key_is_described_typed_bounded_and_closed(schema):
    for path, part in leaves(schema, schema):
        if "const" in part:
            continue
        assert part.get("description"), path
        assert {"type", "enum", "oneOf"} & set(part), path
        kinds = part.get("type", [])
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if {"integer", "number"} & set(kinds):
            assert {"minimum", "exclusiveMinimum", "enum"} & set(part), f"{path} has no lower bound"
        if "object" in kinds:
            assert part.get("additionalProperties") is not None, f"{path} accepts unknown keys"


def test_every_key_of_the_schema_has_a_default_and_the_reverse(schema, defaults):
    resolved = settings.resolve(defaults, schema)[""]

    def keys(part, value, prefix=""):
        assert set(part["properties"]) == set(value), prefix
        for key, inner in part["properties"].items():
            if "properties" in inner:
                keys(inner, value[key], f"{prefix}{key}.")

    for dictionary in resolved["dictionaries"]:
        _, branch = schemas.branch_of(dictionary, schema["$defs"]["dictionary"], schema)
        assert set(dictionary) == {*schema["$defs"]["dictionary"]["properties"], *branch["properties"]}

    keys(schema, defaults)


def test_defaults_of_the_schema_are_those_of_the_library(schema):
    from interptfm.sae import training

    for name, kind in training.ARCHITECTURES.items():
        bare = {"dictionaries": [{"name": "x", "architecture": name}]}
        (full,) = schemas.with_defaults(bare, schema)["dictionaries"]
        library = {**training.COMMON, **kind.SETTINGS, "name": "x", "architecture": name}
        assert full == library


def test_a_mapping_is_laid_over_every_item_of_a_list(schema, defaults):
    base = {"list": [{"a": 1, "b": 2}, {"a": 3}], "names": ["x"]}
    merged = settings.merge(base, {"list": {"b": 5}, "names": {"y": 1}})
    assert merged == {"list": [{"a": 1, "b": 5}, {"a": 3, "b": 5}], "names": {"y": 1}}
    assert base["list"] == [{"a": 1, "b": 2}, {"a": 3}]
    main, seeds = (settings.resolve(defaults, schema)[name]["dictionaries"] for name in ("", "seeds"))
    assert seeds == [{**each, "layers": "all", "seeds": 3} for each in main]


def test_layers_of_a_dictionary(defaults):
    for given, expected in (("all", [1, 3]), ("last", [3]), ([3, 1], [1, 3])):
        assert settings.dictionary_layers(defaults, {"name": "x", "layers": given}) == expected


def test_readme_table_is_the_generated_one(root):
    import importlib.util

    spec = importlib.util.spec_from_file_location("config_table", root / "scripts/config_table.py")
    config_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(config_table)
    text = (root / "README.md").read_text()
    assert config_table.updated(text) == text, "README's table is out of date: run make readme"


def changed(defaults, path, value):
    result = copy.deepcopy(defaults)
    *parents, last = path.split(".")
    place = result
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    last = int(last) if last.isdigit() else last
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return result


BAD = [
    ("simulat", {}, "configuration: found the unknown key 'simulat'; did you mean 'simulate'?"),
    ("cells.min_gene", 3, "key 'cells': found the unknown key 'min_gene'; did you mean 'min_genes'?"),
    ("seed", ..., "configuration: found no key 'seed', expected it to be set"),
    ("seed", "one", "key 'seed': found 'one', expected integer"),
    ("run", "../away", "key 'run': found '../away', expected a match of"),
    ("cells.min_genes", 0, "key 'cells.min_genes': found 0, expected at least 1"),
    (
        "cells.blocks.unit",
        "cube",
        "key 'cells.blocks.unit': found 'cube', expected one of tile, fov, section",
    ),
    ("cells.split.train", 0.7, "key 'cells.split': found shares that add up to 1.1, expected 1"),
    ("activations.layers", [4], "found layer 4, expected 0 to 3, since the model has 4 layers"),
    ("activations.layers", [], "key 'activations.layers': found [], expected Layers to extract"),
    ("activations.dtype", "float8", "found 'float8', expected one of float16, float32, bfloat16"),
    ("dictionaries.0.k", 0, "key 'dictionaries.0.k': found 0, expected at least 1"),
    ("dictionaries.0.name", "neurons", "key 'dictionaries.0.name': found 'neurons'"),
    (
        "dictionaries.0.layers",
        [7],
        "dictionary 'batchtopk': found layer 7, expected one of the extracted layers",
    ),
    (
        "dictionaries.0.l1_coefficient",
        1,
        "key 'dictionaries.0': found the key 'l1_coefficient', which architecture 'batchtopk' does not have",
    ),
    ("dictionaries.0.kk", 1, "found the key 'kk', which architecture 'batchtopk' does not have"),
    (
        "dictionaries.0.architecture",
        "gated",
        "found the key 'k', which architecture 'gated' does not have; expected of name, architecture, tokens",
    ),
    ("dictionaries.0.architecture", "vae", "found 'vae', expected one of batchtopk, topk, matryoshka"),
    ("dictionaries.0.architecture", ..., "found no key 'architecture', expected it to be set"),
    ("dictionaries.0.k", 1025, "dictionary 'batchtopk': found k 1025, expected at most n_features = 64"),
    ("dictionaries.0.training_tokens", 100, "found training_tokens 100, expected at least one batch"),
    (
        "dictionaries.0",
        {"name": "m", "architecture": "matryoshka", "prefix_sizes": [64, 512]},
        "dictionary 'm': found prefix_sizes [64, 512], expected rising numbers",
    ),
    ("dictionaries.0.layers", "first", "key 'dictionaries.0.layers': found 'first'"),
    ("dictionaries.0.seeds", 0, "key 'dictionaries.0.seeds': found 0, expected at least 1"),
    ("dictionaries.0.tokens", "cell", "found 'cell', expected one of gene, cls"),
    (
        "dictionaries.0",
        {"name": "x", "architecture": "imported"},
        "key 'dictionaries.0': found no key 'path', expected it to be set",
    ),
    (
        "dictionaries.0",
        {"name": "x", "architecture": "imported", "path": "nowhere/{layer}"},
        "dictionary 'x': found no folder nowhere/1",
    ),
    ("dictionaries.0.tokens", "cls", "key 'dictionaries.0.tokens': found 'cls', expected 'gene'"),
    ("dictionaries", [], "key 'dictionaries': found [], expected"),
    ("features.thresholds", [0.5, 0.1], "found [0.5, 0.1], expected rising values"),
    ("model.nheads", 3, "key 'model.nheads': found 3, expected a divisor of embsize 128"),
    ("model.checkpoint", "nowhere", "key 'model.checkpoint': found no file nowhere/args.json, expected one"),
    ("model.init", "magic", "found 'magic', expected one of trained, random, svd_only"),
    ("ontology.obo", None, "key 'ontology.obo': found nothing, expected a file for source obo_gaf"),
    ("ontology.gaf", "no.gaf", "key 'ontology.gaf': found no file no.gaf, expected one"),
    ("alignment.permutations", 5, "key 'alignment.permutations': found 5, expected at least 20"),
    (
        "arms.untrained",
        {"modle": {}},
        "arm 'untrained': found the unknown key 'modle'; did you mean 'model'?",
    ),
    ("arms.untrained", {"run": "x"}, "arm 'untrained': found the key 'run', which an arm cannot change"),
    ("arms.untrained", {"activations": {"layers": [9]}}, "arm 'untrained'"),
]


@pytest.mark.parametrize("path, value, message", BAD, ids=[f"{p}={v!r}"[:40] for p, v, _ in BAD])
def test_mistakes_get_one_sentence(schema, defaults, path, value, message):
    with pytest.raises(InputError) as caught:
        for arm in settings.resolve(changed(defaults, path, value), schema).values():
            settings.layers(arm)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


HEADER = "sample\tpath\tformat\tdonor\tpixel_size_um\tcell_types\tshards\n"
SHEETS = [
    (HEADER, "found no rows"),
    (
        HEADER + "a\ta\tcosmx\td\t0.18\t\t1\na\tb\tcosmx\td\t0.18\t\t1\n",
        "row 3: found sample 'a' a second time",
    ),
    (HEADER + "a\ta\tcosmx\td\t\t\t1\n", "row 2: found no pixel_size_um"),
    (HEADER + "a\ta\tcosmx\td\t-1\t\t1\n", "key 'pixel_size_um': found -1.0, expected more than 0"),
    (HEADER + "a\ta\tcosmx\td\t0.18\t\tmany\n", "key 'shards': found 'many', expected integer"),
    (HEADER + "a\ta\txenium\td\t0.18\t\t1\n", "found 'xenium', expected one of cosmx, h5ad, h5ad_nonspatial"),
    (HEADER + "a/b\ta\tcosmx\td\t0.18\t\t1\n", "key 'sample': found 'a/b', expected a match of"),
    (HEADER.replace("donor", "doner") + "a\ta\tcosmx\td\t0.18\t\t1\n", "found the unknown key 'doner'"),
]


@pytest.mark.parametrize("text, message", SHEETS, ids=[m[:30] for _, m in SHEETS])
def test_sample_sheet_mistakes(tmp_path, sheet_schema, text, message):
    sheet = tmp_path / "samples.tsv"
    sheet.write_text(text)
    with pytest.raises(InputError, match=r"samples\.tsv") as caught:
        settings.read_samples(sheet, sheet_schema)
    assert message in str(caught.value)


def test_missing_sections_are_named(tmp_path, sheet_schema):
    sheet = tmp_path / "samples.tsv"
    sheet.write_text(HEADER + "a\there\tcosmx\td\t0.18\t\t1\n")
    (sample,) = settings.read_samples(sheet, sheet_schema).values()
    with pytest.raises(InputError, match=r"found 0 files \*_exprMat_file.csv\[.gz\] in .*here, expected one"):
        settings.sample_files(sample, tmp_path, simulated=False)


def test_arms_repeat_what_they_change_and_what_follows(schema, defaults):
    arms = settings.resolve(defaults, schema)
    downstream = {"model", "activations", "dictionaries", "features", "alignment"}
    assert settings.repeated_stages(arms[""], arms[""]) == set()
    assert settings.repeated_stages(arms[""], arms["untrained"]) == downstream
    assert settings.repeated_stages(arms[""], arms["strength_0"]) == set(settings.STAGES)
    half = settings.merge(arms[""], {"cells": {"genes": "half_a"}})
    assert settings.repeated_stages(arms[""], half) == downstream
    other = settings.merge(arms[""], {"ontology": {"min_genes": 9}})
    assert settings.repeated_stages(arms[""], other) == {"concepts", "alignment"}


def test_an_arm_can_be_dropped(schema, defaults):
    assert "untrained" not in settings.resolve(changed(defaults, "arms.untrained", None), schema)


def test_the_order_of_keys_is_no_change(schema, defaults):
    """Snakemake compares params as text: mappings come out sorted, whatever the order in a file."""
    turned = {key: defaults[key] for key in reversed(defaults)}
    turned["cells"] = {key: defaults["cells"][key] for key in reversed(defaults["cells"])}
    assert repr(settings.resolve(turned, schema)) == repr(settings.resolve(defaults, schema))
