"""The store: atomic, byte-deterministic, and it names what is damaged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import random as sparse_random

from interptfm import store
from interptfm.errors import InputError
from interptfm.store.activations import CHUNK_TOKENS, decode, encode


def write_activations(path, n_tokens=20_000, n_cells=30, d=6, layers=(0, 2), dtype="float16", pieces=7):
    rng = np.random.default_rng(1)
    states = {layer: rng.normal(size=(n_tokens, d)).astype(np.float32) for layer in layers}
    gene = rng.integers(0, 50, n_tokens)
    cell = np.sort(rng.integers(0, n_cells, n_tokens))
    cls = rng.normal(size=(len(layers), n_cells, d)).astype(np.float32)
    with store.ActivationWriter(path, list(layers), n_tokens, n_cells, d, dtype, {"sample": "s"}) as writer:
        for part in np.array_split(np.arange(n_tokens), pieces):
            writer.write(gene[part], cell[part], gene[part] + 0.5, {k: v[part] for k, v in states.items()})
        writer.write_cls(0, cls[:, :10])
        writer.write_cls(10, cls[:, 10:])
    return states, gene, cell, cls


@pytest.mark.parametrize("dtype, tolerance", [("float16", 2e-3), ("float32", 0), ("bfloat16", 2e-2)])
def test_activations_come_back(tmp_path, dtype, tolerance):
    path = tmp_path / "a.zarr.zip"
    states, gene, cell, cls = write_activations(path, dtype=dtype)
    with store.open_activations(path) as activations:
        assert activations.layers == [0, 2]
        assert np.array_equal(activations.gene, gene)
        assert np.array_equal(activations.cell, cell)
        assert np.array_equal(activations.value, gene.astype(np.float32) + 0.5)
        for layer, expected in states.items():
            found = np.concatenate([block for _, _, block in activations.blocks(layer, 3000)])
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(activations.cls(2), cls[1], rtol=tolerance, atol=tolerance)
        with pytest.raises(InputError, match=r"layers \[0, 2\], expected layer 1"):
            activations.rows(1, 0, 5)


def test_same_content_same_bytes_whatever_the_pieces(tmp_path):
    write_activations(tmp_path / "a.zarr.zip", pieces=3)
    write_activations(tmp_path / "b.zarr.zip", pieces=11)
    assert (tmp_path / "a.zarr.zip").read_bytes() == (tmp_path / "b.zarr.zip").read_bytes()
    assert store.digest(tmp_path / "a.zarr.zip") == store.digest(tmp_path / "b.zarr.zip")


def test_what_a_killed_job_left_is_removed_by_the_next(tmp_path):
    for name in (".123.t.json", ".9.figures", ".x.t.json", ".123.other.json", "t.json"):
        (tmp_path / name).mkdir() if "figures" in name else (tmp_path / name).write_text("half")
    store.write_json(tmp_path / "t.json", 1)
    with store.atomic_folder(tmp_path / "figures") as folder:
        (folder / "a.svg").write_text("")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".x.t.json", ".123.other.json", "t.json", "figures"}


def test_bfloat16_rounds_to_nearest_even():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(decode(encode(values, "bfloat16"), "bfloat16"), expected)


def test_bit_rounding_is_exact_to_its_bits_and_compresses(tmp_path):
    values = np.random.default_rng(0).normal(size=(CHUNK_TOKENS, 32)).astype(np.float32)
    values[np.abs(values) < 1e-3] = 1  # float16 has fewer bits for the smallest numbers
    sizes = {}
    for bits in (None, 7):
        path = tmp_path / f"{bits}.zarr.zip"
        with store.ActivationWriter(path, [0], len(values), 1, 32, "float16", {}, bits) as writer:
            writer.write(*np.zeros((3, len(values))), {0: values})
            writer.write_cls(0, np.zeros((1, 1, 32)))
        with store.open_activations(path) as activations:
            error = np.abs(activations.rows(0, 0, len(values)) / values - 1).max()
        assert error <= 2.0 ** -((bits or 10) + 1) * 1.15  # half a unit of the last bit kept, rounded twice
        sizes[bits] = path.stat().st_size
    assert sizes[7] < 0.8 * sizes[None]


def test_failure_leaves_nothing(tmp_path):
    with (
        pytest.raises(InputError, match="found 5 tokens in gene, expected 10"),
        store.ActivationWriter(tmp_path / "a.zarr.zip", [0], 10, 1, 2, "float32", {}) as writer,
    ):
        writer.write(np.zeros(5), np.zeros(5), np.zeros(5), {0: np.zeros((5, 2))})
    with pytest.raises(RuntimeError), store.atomic(tmp_path / "b.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bad, message",
    [(np.nan, "not finite in layer 0"), (1e5, "at most 65504 for activations.dtype float16")],
)
def test_values_that_cannot_be_stored(tmp_path, bad, message):
    with (
        pytest.raises(InputError, match=message),
        store.ActivationWriter(tmp_path / "a.zarr.zip", [0], 1, 1, 2, "float16", {}) as writer,
    ):
        writer.write(np.zeros(1), np.zeros(1), np.zeros(1), {0: np.array([[0, bad]])})
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named(tmp_path):
    path = tmp_path / "a.zarr.zip"
    write_activations(path, n_tokens=3 * CHUNK_TOKENS)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(flipped), b"no zip"):
        path.write_bytes(content)
        with (
            pytest.raises(InputError, match=r"a\.zarr\.zip: found a damaged file"),
            store.open_activations(path) as a,
        ):
            for layer in a.layers:
                list(a.blocks(layer))
            a.cls(0)
    with (
        pytest.raises(InputError, match="not found"),
        store.open_activations(tmp_path / "none.zarr.zip"),
    ):
        pass


def test_damaged_tables_and_h5ad_are_named(tmp_path):
    import anndata

    store.write_table(tmp_path / "t.parquet", pd.DataFrame({"a": [1, 2]}), {"seed": 1})
    assert store.read_table(tmp_path / "t.parquet", ["a"]).a.tolist() == [1, 2]
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"t\.parquet: found a table that cannot be read"):
        store.read_table(tmp_path / "t.parquet")
    store.write_h5ad(tmp_path / "c.h5ad", anndata.AnnData(np.ones((3, 2), np.float32)))
    assert store.read_h5ad(tmp_path / "c.h5ad").shape == (3, 2)
    (tmp_path / "c.h5ad").write_bytes((tmp_path / "c.h5ad").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"c\.h5ad: found a damaged file"):
        store.read_h5ad(tmp_path / "c.h5ad")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match=r"x\.json: found malformed JSON"):
        store.read_json(tmp_path / "x.json")
    with pytest.raises(InputError, match="not found"):
        store.read_json(tmp_path / "y.json")


def test_sparse_matrices_come_back(tmp_path):
    matrix = sparse_random(40, 30, 0.1, "csr", random_state=0)
    with store.create_zarr(tmp_path / "m.zarr.zip", {"k": 1}) as group:
        store.write_csr(group, "mean", matrix)
    with store.open_zarr(tmp_path / "m.zarr.zip") as group:
        assert group.attrs["k"] == 1
        assert (store.read_csr(group, "mean") != matrix).nnz == 0


def test_panel_is_the_union_in_order_of_first_appearance():
    assert store.panel([["b", "a"], ["a", "c"]]) == ["b", "a", "c"]


def test_the_digest_of_a_folder_is_of_what_the_job_wrote(tmp_path):
    """Snakemake marks a folder after its job has ended, which is no damage; any other new file is."""
    with store.atomic_folder(tmp_path / "figures") as folder:
        (folder / "a.svg").write_text("a")
    written = store.digest(tmp_path / "figures")
    (tmp_path / "figures/.snakemake_timestamp").touch()
    assert store.digest(tmp_path / "figures") == written
    (tmp_path / "figures/b.svg").touch()
    assert store.digest(tmp_path / "figures") != written
