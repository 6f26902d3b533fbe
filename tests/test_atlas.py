"""The feature atlas from made-up features: what its files hold, their size, escaping and determinism."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from html.parser import HTMLParser
from types import SimpleNamespace

import atlas_world
import numpy as np
import pandas as pd
import pytest

from interptfm import store
from interptfm.atlas import CHUNK, activity, encoding, site, space, tissue
from interptfm.errors import InputError

CALL = re.compile(r'atlasData\("([a-z0-9_/]+)","([A-Za-z0-9+/=]+)"\);\n')


def unpacked(path):
    """Return key and bytes of a data file, which must be one call with two plain strings."""
    found = CALL.fullmatch(path.read_text())
    assert found, path
    return found[1], zlib.decompress(base64.b64decode(found[2]))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas")
    spaces = atlas_world.write(folder)
    return SimpleNamespace(spaces=spaces, folder=folder, site=folder / "atlas", data=folder / "atlas/data")


def meta_of(folder):
    text = (folder / "index.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="meta">(.*?)</script>', text, re.S)[1])


def test_every_data_file_is_one_call_under_its_own_name(world):
    files = sorted(world.data.rglob("*.js"))
    assert len(files) == 2 + 2 * (1 + 3 + 2 * 3)
    for path in files:
        assert unpacked(path)[0] == str(path.relative_to(world.data)).removesuffix(".js")


def test_rows_of_the_table(world):
    for i, each in enumerate(world.spaces):
        rows = json.loads(unpacked(world.data / f"space_{i}/table.js")[1])
        assert {len(column) for column in rows.values()} == {130}
        assert rows["f1"][0] is None and rows["terms"][0] == [] and rows["type"][0] == -1
        first = each.pairs.groupby("feature").first()
        np.testing.assert_allclose(rows["f1"][1:], first["f1"], rtol=1e-3)
        passed = each.pairs.groupby("feature")["interpretable"].sum()
        assert rows["passed"][1:] == passed.tolist()
        np.testing.assert_allclose(rows["rate"], each.histogram.sum(axis=1) / 1e6, rtol=1e-3)
        assert (rows["tis"][5] is None) == (each.tis is None)


def test_what_a_feature_s_page_shows(world):
    meta, each = meta_of(world.site), world.spaces[1]
    found = [
        entry for k in range(3) for entry in json.loads(unpacked(world.data / f"space_1/features_{k}.js")[1])
    ]
    assert len(found) == 130
    tokens = each.tokens[each.tokens["feature"] == 77]
    section, cell, gene, value, activation = found[77]["tokens"][0]
    assert meta["sections"][section]["name"] == tokens["sample"].iloc[0] and cell == tokens["cell"].iloc[0]
    assert meta["genes"][gene] == tokens["gene"].iloc[0] and value == tokens["value"].iloc[0]
    assert activation == pytest.approx(tokens["activation"].iloc[0], rel=1e-3)
    pairs = each.pairs[each.pairs["feature"] == 77]
    assert [meta["terms"][row[0]][0] for row in found[77]["pairs"]] == pairs["term_id"].tolist()
    assert found[77]["hist"] == each.histogram[77].tolist()
    cosine = each.decoder @ each.decoder[77]
    cosine[[0, 77]] = -2  # feature 0 never fires
    assert [other for other, _ in found[77]["near"]] == np.argsort(-cosine)[: space.NEIGHBOURS].tolist()
    assert found[1]["steering"][0][:3] == [atlas_world.EVIL, 1, 0.5] and found[2]["steering"] == []
    assert found[0]["tokens"] == [] and found[0]["pairs"] == []


def test_chunks_are_small(world):
    meta = meta_of(world.site)
    assert meta["chunk"] == CHUNK
    for k, n in enumerate((CHUNK, CHUNK, 130 - 2 * CHUNK)):
        assert len(json.loads(unpacked(world.data / f"space_0/features_{k}.js")[1])) == n
        for i, one in enumerate(meta["sections"]):
            assert len(unpacked(world.data / f"space_0/map_{i}_{k}.js")[1]) == n * one["spots"]
    assert max(path.stat().st_size for path in world.data.rglob("*.js")) < 60_000


def test_maps_hold_the_activity_of_cells(world):
    from interptfm.features import read_cells

    cells = read_cells(world.folder / "cells_0.zarr.zip")
    data = unpacked(world.data / "space_0/map_1_1.js")[1]
    found = np.frombuffer(data, np.uint8).reshape(CHUNK, 90)[70 - CHUNK]
    scale = json.loads(unpacked(world.data / "space_0/features_1.js")[1])[70 - CHUNK]["scale"][1]
    truth = cells.mean[120:, 70].toarray().ravel()
    assert scale == pytest.approx(truth.max(), rel=1e-3)
    assert ((found > 0) == (truth > 0)).all() and found.max() == encoding.LEVELS
    level = found / encoding.LEVELS
    assert (truth <= level**2 * scale + 1e-3).all()
    assert (truth >= np.maximum(level - 1 / encoding.LEVELS, 0) ** 2 * scale - 1e-3).all()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_names_cannot_become_markup(world):
    page = (world.site / "index.html").read_text()
    tags = Tags()
    tags.feed(page)
    scripts = [attributes for tag, attributes in tags.found if tag == "script"]
    assert [one.get("src") for one in scripts] == [None, *site.SCRIPTS]
    assert "alert(" not in re.sub(
        r'<script type="application/json".*?</script>', "", page, flags=re.S
    ).replace("&lt;script&gt;alert(", "")
    meta = meta_of(world.site)
    assert meta["run"] == f"run {atlas_world.EVIL}"
    assert meta["terms"][0][1] == atlas_world.EVIL and meta["terms"][1][1] == atlas_world.LONG
    assert atlas_world.EVIL in [name for _, name, *_ in meta["groups"]]


def test_nothing_is_asked_of_a_network(world):
    for path in world.site.glob("*"):
        if path.is_file():
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(
                r"https?:|//[a-z]+\.|@import|url\(|fetch\(|XMLHttp|innerHTML|insertAdjacentHTML", text
            ), path


def test_the_same_input_gives_the_same_bytes(world, tmp_path):
    atlas_world.write(tmp_path)
    files = sorted(path.relative_to(world.site) for path in world.site.rglob("*") if path.is_file())
    assert files == sorted(
        p.relative_to(tmp_path / "atlas") for p in (tmp_path / "atlas").rglob("*") if p.is_file()
    )
    for path in files:
        assert (world.site / path).read_bytes() == (tmp_path / "atlas" / path).read_bytes(), path


def test_the_digest_of_the_folder_is_that_of_its_content(world, tmp_path):
    """Snakemake adds a file to a folder after its job; provenance compares digests from before and after."""
    shutil.copytree(world.site, tmp_path / "atlas")
    before = store.digest(tmp_path / "atlas")
    (tmp_path / "atlas/.snakemake_timestamp").touch()
    assert store.digest(tmp_path / "atlas") == before
    (tmp_path / "atlas/data/section_0.js").write_text("")
    assert store.digest(tmp_path / "atlas") != before


def last(parts):
    *_, found = parts
    return found


def test_profiles_are_means_over_cells_whatever_the_block_size(world, monkeypatch):
    generator = np.random.default_rng(3)
    sections = [atlas_world.section(f"s{i}", n, generator) for i, n in enumerate((40, 25))]
    cells = atlas_world.aggregates(sections, 9, generator)
    path = world.folder / "profile.zarr.zip"
    atlas_world.write_cells(path, cells, {})
    groups = tissue.group_list(sections)
    whole = last(activity.collect(path, sections, groups))
    blocks = activity.row_blocks
    monkeypatch.setattr(activity, "row_blocks", lambda *given: blocks(*given, size=11))
    parts = last(activity.collect(path, sections, groups))
    for name in ("sums", "active", "cells", "block", "group", "scale"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-6)
    draws = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), 500)
    mean, low, high, share = whole.profile(slice(2, 7), draws)
    dense = cells.mean.toarray()[:, 2:7]
    for row, (kind, name) in enumerate(groups):
        mine = np.concatenate([s.groups[kind] == name for s in sections])
        np.testing.assert_allclose(mean[row], dense[mine].mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(share[row], (dense[mine] > 0).mean(axis=0), rtol=1e-5)
    assert (low <= mean + 1e-6).all() and (mean <= high + 1e-6).all() and (low < high).any()


def test_a_group_in_one_block_has_no_interval():
    one = activity.Activity(
        np.ones((1, 2), np.float32), np.array([[4, 4], [0, 0]]), np.array([4]), np.array([0]), np.array([0]),
        np.ones((1, 2), np.float32),
    )  # fmt: skip
    mean, low, _, share = one.profile(slice(0, 2), np.ones((20, 1), int))
    assert mean[0].tolist() == [0.25, 0.25] and np.isnan(low[0]).all() and share[0].tolist() == [1, 1]
    assert np.isnan(mean[1]).all() and np.isnan(share[1]).all()


def test_cells_of_another_sample_are_an_error(world):
    with pytest.raises(InputError, match="expected those of"):
        last(activity.collect(world.folder / "cells_0.zarr.zip", [], []))


def test_large_sections_are_pooled_into_squares():
    xy = np.random.default_rng(1).uniform(0, 1000, (5000, 2))
    centres, spot, side = tissue.spots(xy, 400)
    assert 200 < len(centres) <= 400 and side > 0
    assert (np.abs(xy - centres[spot]) <= side / 2 + 1e-3).all()
    centres, spot, side = tissue.spots(xy, 5000)
    assert side == 0 and (spot == np.arange(5000)).all()


def test_positions_survive_the_page_s_whole_numbers():
    one = atlas_world.section("s", 50, np.random.default_rng(0))
    found = tissue.layout(one, tissue.group_list([one]))
    x = found["origin"][0] + np.array(found["x"]) * found["step"]
    np.testing.assert_allclose(x, one.xy[:, 0], atol=0.02)
    assert max(*found["x"], *found["y"]) == tissue.COORDINATES
    names = [name for _, name in tissue.group_list([one])]
    assert [names[i] for i in found["g"][0]] == one.groups["cell type"].tolist()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.123456, 0.1235), (2.0, 2), (np.nan, None), (np.inf, None), (pd.NA, None), (None, None)],
)
def test_numbers(value, shown):
    assert encoding.number(value) == shown


def test_pairs_are_ordered_by_what_passes_then_by_validation(tmp_path):
    frame = pd.DataFrame(
        {
            "feature": pd.array([3, 3, 3, None], "Int64"), "term_id": ["a", "b", "c", "d"],
            "f1": [0.9, 0.5, 0.6, 0.1], "f1_validation": [0.7, 0.8, 0.2, 0.1],
        }
    )  # fmt: skip
    store.write_table(tmp_path / "pairs.parquet", frame)
    store.write_table(tmp_path / "passed.parquet", pd.DataFrame({"feature": [3], "term_id": ["c"]}))
    found = space._pairs(str(tmp_path / "pairs.parquet"), str(tmp_path / "passed.parquet"))
    assert found["term_id"].tolist() == ["c", "b", "a"] and found["interpretable"].tolist() == [
        True,
        False,
        False,
    ]


def test_tables_of_different_dictionaries_are_an_error(tmp_path):
    np.save(tmp_path / "max.npy", np.ones(4, np.float32))
    np.save(tmp_path / "histogram.npy", np.ones((5, 40), np.int64))
    with pytest.raises(InputError, match="expected one number of features"):
        space.read("d", 0, {"max": tmp_path / "max.npy", "histogram": tmp_path / "histogram.npy"})


def test_the_clamped_feature_has_its_effects():
    effects = pd.DataFrame(
        {"method": [space.CLAMP, space.CLAMP, "other"], "target": ["A", "B", "A"], "dose": [1.0, 1.0, 2.0]}
    )
    found = space._clamped({"effects": effects, "summary": {"clamped": {"A": 7}}})
    assert found[["target", "feature", "dose"]].to_numpy().tolist() == [["A", 7, 1.0]]
    assert len(space._clamped(None)) == 0
