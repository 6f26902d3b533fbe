"""A second modality: what is read as counts, what is refused and why, whose cells are trained on."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from interptfm import store
from interptfm.comparators import multimodal, scvi_latent, status
from interptfm.errors import InputError
from interptfm.tis.units import Cells

STAINS = ["stain_PanCK", "stain_CD45"]


def some_cells(n=120, stains=True):
    """Two samples by turns, two thirds of training blocks."""
    rng = np.random.default_rng(0)
    sample = np.where(np.arange(n) % 2, "b", "a")
    obs = pd.DataFrame(
        {"sample": sample, "split": np.where(np.arange(n) % 3 < 2, "train", "test")},
        index=[f"{name}:1_{i}" for i, name in enumerate(sample)],
    )
    if stains:
        obs[STAINS] = rng.gamma(4.0, 250.0, (n, 2))
    counts = sparse.csr_matrix(rng.poisson(2.0, (n, 8)))
    return Cells(counts, [f"g{i}" for i in range(8)], obs, np.zeros((n, 2)))


def protein_table(cells, n=90):
    """Counts of two proteins of ``n`` cells, backwards, and of a cell of another run."""
    names = [*cells.obs.index[:n][::-1], "other:1_1"]
    counts = np.random.default_rng(1).poisson(20.0, (n + 1, 2))
    return pd.DataFrame({"cell": names, "CD3": counts[:, 0], "CD19": counts[:, 1]})


@pytest.mark.parametrize("suffix", ["tsv", "parquet", "h5ad"])
def test_counts_are_matched_to_cells_by_name(tmp_path, suffix):
    cells, path = some_cells(), tmp_path / f"proteins.{suffix}"
    table = protein_table(cells)
    if suffix == "h5ad":
        values = sparse.csc_matrix(table[["CD3", "CD19"]].to_numpy(np.float32))
        obs, var = pd.DataFrame(index=table["cell"].tolist()), pd.DataFrame(index=["CD3", "CD19"])
        anndata.AnnData(values, obs=obs, var=var).write_h5ad(path)
    else:
        store.write_table(path, table)
    found = multimodal.read("totalvi", str(path), path.name, cells)
    assert found.names == ["CD3", "CD19"] and found.counts.dtype == np.float32
    assert found.present.sum() == 90 and found.present[:90].all()
    np.testing.assert_array_equal(
        found.counts[:90].toarray(), table.set_index("cell").loc[cells.obs.index[:90]].to_numpy()
    )
    assert found.counts[90:].nnz == 0


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.rename(columns={"cell": "name"}), r"found the columns \['name', 'CD3', 'CD19'\]"),
        (lambda t: t[["cell"]], r"found the columns \['cell'\], expected 'cell' and counts"),
        (lambda t: t.assign(CD3="many"), "found text in the column 'CD3', expected counts"),
        (lambda t: t.assign(CD19=t["CD19"] - 1000.0), r"found -\d+ in the column 'CD19' for cell 'b:1_89'"),
        (lambda t: t.assign(CD3=t["CD3"] + 0.5), "'CD3' for cell 'b:1_89', expected counts, whole numbers"),
        (lambda t: t.assign(CD3=np.nan), "found nan in the column 'CD3'"),
        (lambda t: pd.concat([t, t.head(1)]), "found the cell 'b:1_89' twice, expected it once"),
        (lambda t: t.tail(1), r"found none of the run's cells by name \(the first is 'other:1_1'\)"),
    ],
)
def test_a_file_that_holds_no_counts_is_one_sentence(tmp_path, change, message):
    cells, path = some_cells(), tmp_path / "proteins.parquet"
    store.write_table(path, change(protein_table(cells)).reset_index(drop=True))
    with pytest.raises(InputError, match=message) as error:
        multimodal.read("totalvi", str(path), path.name, cells)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("rounded, named", [(False, True), (True, True), (True, False)])
def test_stains_are_refused_as_protein_counts(tmp_path, rounded, named):
    """As they are, rounded to whole numbers, and under another name."""
    cells, path = some_cells(), tmp_path / "proteins.tsv"
    stains = cells.obs[STAINS].round() if rounded else cells.obs[STAINS]
    stains.columns = STAINS if named else ["PanCK", "CD45"]
    store.write_table(path, stains.rename_axis("cell").reset_index())
    reason = "does not describe intensities" if rounded else "intensities and scaled values are none"
    with pytest.raises(InputError, match=f"in the column '{stains.columns[0]}'.*{reason}"):
        multimodal.read("totalvi", str(path), path.name, cells)


def test_without_a_file_the_reason_is_one_sentence():
    with pytest.raises(status.Skipped) as reason:
        multimodal.read("totalvi", None, None, some_cells())
    assert str(reason.value) == (
        "there is no file of protein counts: comparators.totalvi.proteins is null; the 2 stain columns of "
        "the cells (stain_PanCK, stain_CD45) are intensities, not counts, which totalVI's negative binomial "
        "does not describe"
    )
    with pytest.raises(status.Skipped, match=r"proteins is null$"):
        multimodal.read("totalvi", None, None, some_cells(stains=False))
    with pytest.raises(status.Skipped, match=r"multivi.atac is a.h5ad, which is no file below data_root$"):
        multimodal.read("multivi", None, "a.h5ad", some_cells())


def test_cells_of_training_blocks_with_both_are_needed():
    cells = some_cells()
    assert len(scvi_latent.training_cells(cells)) == 80
    few = np.arange(120) < 60
    with pytest.raises(status.Skipped, match="40 cells of training blocks have both, expected at least 50"):
        scvi_latent.training_cells(cells, few, "both")


def test_a_last_batch_of_one_cell_is_left_out():
    def drops(n):
        told = scvi_latent.training({"epochs": 1, "batch_cells": 20}, n)
        return told["datasplitter_kwargs"]["drop_last"]

    assert [drops(n) for n in (60, 61, 62, 79)] == [False, True, False, False]


def test_mismatched_cells_are_others_of_the_sample():
    section = np.array(["a", "b"] * 10)
    rows = np.arange(3, 20)
    other = multimodal._another(rows, section, np.random.default_rng(0))
    assert sorted(other) == rows.tolist() and (other != rows).all()
    assert (section[other] == section[rows]).all()
