"""Blocks, splits, guard zone and shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interptfm import blocks, job
from interptfm.errors import InputError

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def scattered(n: int = 1500, fovs: int = 2, side: float = 400.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    fov = np.sort(rng.integers(1, fovs + 1, n))
    return rng.uniform(0, side, (n, 2)) + np.column_stack([fov * 1000.0, np.zeros(n)]), fov


# --- blocks -------------------------------------------------------------------------------------------------


def test_tiles_are_squares_within_a_fov():
    xy, fov = scattered(4000)
    labels = blocks.assign_blocks(xy, fov, "tile", 150.0, "s1", min_cells=1)
    for value in (1, 2):
        rows = fov == value
        index = np.floor((xy[rows] - xy[rows].min(axis=0)) / 150).astype(int)
        assert list(labels[rows]) == [f"s1:{value}:{x}_{y}" for x, y in index]
    assert len(set(labels)) == 2 * 9


def test_tiles_with_few_cells_join_the_neighbour_with_fewest():
    # Three tiles in a row of 20, 12 and 11 cells, a sliver of 3 beside the last, and one far tile of 2.
    x = np.repeat([10.0, 110.0, 210.0, 310.0, 910.0], [20, 12, 11, 3, 2])
    xy = np.column_stack([x - 10, np.zeros(len(x))])
    labels = blocks.assign_blocks(xy, np.ones(len(x), dtype=int), "tile", 100.0, "s")
    assert [f"s:1:{k}_0" for k in (0, 1)] == list(dict.fromkeys(labels[:32]))
    assert set(labels[32:]) == {"s:1:2_0"}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 4), st.floats(20, 500), st.integers(0, 10_000))
def test_merged_tiles_hold_enough_cells_and_stay_in_their_fov(n, fovs, size, seed):
    xy, fov = scattered(n, fovs, 400.0, seed)
    labels = blocks.assign_blocks(xy, fov, "tile", size, "s")
    names, count = np.unique(labels.astype(str), return_counts=True)
    for name, cells in zip(names, count):
        inside = np.unique(fov[labels == name])
        assert len(inside) == 1 and name.split(":")[1] == str(inside[0])
        assert cells >= blocks.MIN_TILE_CELLS or cells == (fov == inside[0]).sum()


def test_merging_does_not_depend_on_the_order_of_cells():
    xy, fov = scattered(300, 2, 400.0, 3)
    order = np.random.default_rng(1).permutation(len(fov))
    labels = blocks.assign_blocks(xy, fov, "tile", 90.0, "s")
    assert list(blocks.assign_blocks(xy[order], fov[order], "tile", 90.0, "s")) == list(labels[order])


def test_other_units_groups_and_random_groups():
    xy, fov = scattered(2000, 6)
    assert set(blocks.assign_blocks(xy, fov, "fov", sample="s")) == {f"s:{f}" for f in range(1, 7)}
    assert set(blocks.assign_blocks(xy, fov, "section", sample="s")) == {"s"}
    named = blocks.assign_blocks(None, fov, "tile", sample="s", groups=np.array(["a", "b"] * 1000))
    assert list(named[:2]) == ["s:a", "s:b"]
    drawn = [
        blocks.assign_blocks(None, fov, "tile", sample="s", rng=job.generator(seed, "g"))
        for seed in (1, 1, 2)
    ]
    assert list(drawn[0]) == list(drawn[1]) != list(drawn[2])
    _, count = np.unique(drawn[0].astype(str), return_counts=True)
    assert len(count) == 20 and set(count) == {100}


@pytest.mark.parametrize(("unit", "size", "key"), [("cells", 150.0, "unit"), ("tile", 0.0, "size_um")])
def test_unknown_unit_and_size(unit, size, key):
    with pytest.raises(InputError, match=f"cells.blocks.{key}: found"):
        blocks.assign_blocks(np.zeros((3, 2)), np.ones(3), unit, size)


# --- splits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_fifteen_uneven_blocks_are_split_whole_and_near_the_shares(seed):
    rng = np.random.default_rng(seed)
    block = np.repeat([f"b{k}" for k in range(15)], rng.integers(20, 160, 15))
    split = blocks.assign_splits(block, SHARES, job.generator(seed, "t"))
    for name in set(block):
        assert len(set(split[block == name])) == 1
    for part, share in SHARES.items():
        assert abs((split == part).mean() - share) < 0.04


def test_splits_follow_the_seed():
    block = np.repeat([f"b{k}" for k in range(30)], 50)
    first, again, other = (blocks.assign_splits(block, SHARES, job.generator(s, "t")) for s in (1, 1, 2))
    assert list(first) == list(again) != list(other)
    held_out = [
        block[blocks.assign_splits(block, SHARES, job.generator(seed, "t")) == "test"] for seed in range(60)
    ]
    assert len({name for names in held_out for name in names}) == 30, "every block can be held out"


def test_every_split_gets_a_block_whatever_the_sizes():
    for sizes in ([1, 1, 1], [900, 5, 5], [3, 2, 2, 1, 1]):
        block = np.repeat([f"b{k}" for k in range(len(sizes))], sizes)
        assert set(blocks.assign_splits(block, SHARES, job.generator(1))) == set(blocks.PARTS)


def test_too_few_blocks():
    with pytest.raises(InputError, match="found 2 blocks of unit tile in sample 's', expected at least 3"):
        blocks.assign_splits(np.array(["a", "b"]), SHARES, job.generator(1), "tile", "s")
    with pytest.raises(InputError, match="found 4 blocks of unit fov in sample 's', expected at least 5"):
        blocks.assign_splits(np.array(list("abcd")), SHARES, job.generator(1), "fov", "s")


@pytest.mark.parametrize(
    "shares",
    [
        {"train": 0.6, "validation": 0.2, "test": 0.3},
        {"train": 1.0, "validation": 0.0, "test": 0.0},
        {"train": 0.8, "test": 0.2},
    ],
)
def test_shares_must_be_complete(shares):
    with pytest.raises(InputError, match=r"cells\.split: found"):
        blocks.assign_splits(np.array(list("abcdef")), shares, job.generator(1))


def test_sections_are_split_by_number_and_alike_in_every_job():
    names = [f"s{k}" for k in range(10)]
    parts = blocks.split_sections(names, SHARES, job.generator(1, "sections"))
    assert sorted(parts.values()) == ["test"] * 2 + ["train"] * 6 + ["validation"] * 2
    assert parts == blocks.split_sections(names[::-1], SHARES, job.generator(1, "sections"))
    five = blocks.split_sections(names[:5], SHARES, job.generator(1, "sections"))
    assert sorted(five.values()) == ["test", "train", "train", "train", "validation"]


def test_too_few_sections():
    with pytest.raises(InputError, match="found section with 4 samples, expected at least 5"):
        blocks.split_sections(["a", "b", "c", "d", "a"], SHARES, job.generator(1))
    with pytest.raises(InputError, match="leave none of 5 sections to train"):
        blocks.split_sections(list("abcde"), {"train": 0.1, "validation": 0.3, "test": 0.6}, job.generator(1))


# --- guard --------------------------------------------------------------------------------------------------


def test_guard_is_every_scored_cell_near_another_split():
    xy, fov = scattered(900)
    block = blocks.assign_blocks(xy, fov, "tile", 130.0, "s")
    split = blocks.assign_splits(block, SHARES, job.generator(1, "g"))
    guarded = blocks.guard(split, xy, 15.0)
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    near = ((distance <= 15.0) & (split[:, None] != split[None])).any(axis=1)
    np.testing.assert_array_equal(guarded == "guard", near & (split != "train"))
    np.testing.assert_array_equal(guarded[guarded != "guard"], split[guarded != "guard"])
    assert (guarded == "guard").sum() > 20 and (split == "train").sum() == (guarded == "train").sum()


def test_guard_includes_its_width_and_crosses_fovs():
    xy = np.array([[0.0, 0.0], [15.0, 0.0], [100.0, 0.0], [115.001, 0.0], [300.0, 0.0], [400.0, 0.0]])
    split = np.array(["train", "test", "validation", "test", "validation", "test"], dtype=object)
    assert list(blocks.guard(split, xy, 15.0)) == [
        "train",
        "guard",
        "validation",
        "test",
        "validation",
        "test",
    ]
    assert list(blocks.guard(split, xy, 0.0)) == list(split)
    assert split[1] == "test", "the argument is left as it was"


def test_a_guard_that_leaves_nothing():
    xy = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    with pytest.raises(InputError, match="found no validation cell of sample 's' farther than 15 µm"):
        blocks.guard(np.array(["train", "validation", "test"], dtype=object), xy, 15.0, "s")


# --- shards -------------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.data())
def test_shards_are_equal_contiguous_runs(n, data):
    shards = data.draw(st.integers(1, n))
    shard = blocks.assign_shards(n, shards)
    assert shard.dtype == np.int32 and (np.diff(shard) >= 0).all()
    count = np.bincount(shard)
    assert len(count) == shards and count.max() - count.min() <= 1


@pytest.mark.parametrize("shards", [0, 4])
def test_more_shards_than_cells(shards):
    with pytest.raises(InputError, match=f"shards: found {shards} for sample 's', expected 1 to 3"):
        blocks.assign_shards(3, shards, "s")
