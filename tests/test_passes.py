"""Which layers share a forward pass, and what a record of it is worth."""

from __future__ import annotations

import pytest

from interptfm import passes
from interptfm.errors import InputError


def test_a_new_run_has_one_pass():
    assert passes.plan([], [3, 1], 4) == [[1, 3]]


def test_further_layers_get_a_pass_of_their_own():
    assert passes.plan([[1, 3]], [0, 1, 2, 3], 4) == [[1, 3], [0, 2]]
    assert passes.holding([[1, 3], [0, 2]], 2) == 1


def test_layers_that_are_dropped_keep_their_pass():
    assert passes.plan([[1, 3]], [1], 4) == [[1, 3]]


def test_a_record_of_a_deeper_model_counts_for_nothing():
    assert passes.plan([[1, 11]], [1], 4) == [[1]]


def test_a_pass_that_was_never_begun_binds_nothing():
    recorded = [[0, 1], [2], [3]]
    assert passes.begun(recorded, lambda number, layers: False) == []
    assert passes.begun(recorded, lambda number, layers: number == 1) == [[0, 1], [2]]


def test_a_layer_of_no_pass_is_a_mistake():
    with pytest.raises(ValueError, match="layer 5 is in none"):
        passes.holding([[0]], 5)


def test_the_record_is_written_once_and_read_back(tmp_path):
    folder = tmp_path / "activations"
    assert passes.read(folder) == []
    passes.write(folder, [[0, 1], [2]])
    time = (folder / passes.RECORD).stat().st_mtime_ns
    passes.write(folder, [[0, 1], [2]])
    assert passes.read(folder) == [[0, 1], [2]] and (folder / passes.RECORD).stat().st_mtime_ns == time
    assert [path.name for path in folder.iterdir()] == [passes.RECORD]


@pytest.mark.parametrize("text", ["", "{", "[1]", "[[]]", '[["1"]]', "{}"])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / passes.RECORD).write_text(text)
    with pytest.raises(InputError, match="expected one"):
        passes.read(tmp_path)
