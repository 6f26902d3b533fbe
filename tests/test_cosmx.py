"""Readers of CosMx flat files and AnnData: every naming, every fault, memory, and the cells contract."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from interptfm import cosmx, qc
from interptfm.cosmx import cell_types, counts, metadata, naming
from interptfm.errors import InputError

PIXEL = 0.18
GENES = ["KRT19", "CD3E", "COL1A1", "LTF"]
CELLS = {
    "min_genes": 1,
    "blocks": {"unit": "tile", "size_um": 40.0, "guard_um": 9.5},
    "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "clustering": {"resolution": 1.0},
}


def tissue(n_per_fov: int = 6, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts and metadata of two FOVs, 20 px apart on a grid, in the NSCLC release's naming."""
    rng = np.random.default_rng(seed)
    fov = np.repeat([1, 3], n_per_fov)
    cell = np.tile(np.arange(1, n_per_fov + 1), 2)
    side = int(np.ceil(np.sqrt(n_per_fov)))
    local = np.column_stack([(cell - 1) % side, (cell - 1) // side]) * 50.0 + 10
    values = rng.poisson(2.0, size=(len(fov), len(GENES)))
    values[:, 0] += 1
    expression = pd.DataFrame(values, columns=GENES)
    expression.insert(0, "cell_ID", cell)
    expression.insert(0, "fov", fov)
    expression["NegPrb1"] = rng.poisson(0.5, len(fov))
    expression["NegPrb2"] = rng.poisson(0.5, len(fov))
    origin = np.where(fov == 1, 1000.0, 6000.0)
    meta = pd.DataFrame(
        {
            "fov": fov,
            "cell_ID": cell,
            "Area": 1000.0 + cell,
            "CenterX_local_px": local[:, 0],
            "CenterY_local_px": local[:, 1],
            "CenterX_global_px": local[:, 0] + origin,
            "CenterY_global_px": local[:, 1] + 200.0,
            "Mean.PanCK": 5.0 * cell,
            "Mean.CD298/B2M": 1.5 * cell,
            "Mean.CD45": np.nan,
            "kind": np.where(cell % 2, "odd", "even"),
        }
    )
    return expression, meta


POSITIONS = pd.DataFrame({"fov": [1, 3], "x_global_px": [1000.0, 6000.0], "y_global_px": [200.0, 200.0]})


def write(
    folder: Path,
    expression: pd.DataFrame | str,
    meta: pd.DataFrame | None = None,
    positions: pd.DataFrame | None = None,
    suffix: str = ".csv",
) -> dict[str, Path]:
    files = {"counts": folder / f"s_exprMat_file{suffix}"}
    if isinstance(expression, str):
        files["counts"].write_text(expression)
    else:
        expression.to_csv(files["counts"], index=False)
    if meta is not None:
        files["metadata"] = folder / f"s_metadata_file{suffix}"
        meta.to_csv(files["metadata"], index=False)
    if positions is not None:
        files["positions"] = folder / f"s_fov_positions_file{suffix}"
        positions.to_csv(files["positions"], index=False)
    return files


def read(folder: Path, expression, meta, positions=None, pixel=PIXEL, **options):
    return cosmx.read_cells(write(folder, expression, meta, positions), "cosmx", pixel, **options)


# --- what is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_flat_files_give_counts_controls_coordinates_and_stains(tmp_path, suffix):
    expression, meta = tissue()
    expression["SystemControl7"] = np.arange(12)
    expression["FalseCode1"] = 1
    shuffled = meta.sample(frac=1, random_state=0)
    cells, report = cosmx.read_cells(
        write(tmp_path, expression, shuffled, POSITIONS, suffix), "cosmx", PIXEL, label_column="kind"
    )
    assert cells.X.dtype == np.float32 and cells.X.has_sorted_indices and sp.isspmatrix_csr(cells.X)
    assert list(cells.var_names) == GENES
    np.testing.assert_array_equal(cells.X.toarray(), expression[GENES])
    np.testing.assert_array_equal(cells.obsm["negative_probes"], expression[["NegPrb1", "NegPrb2"]])
    assert list(cells.obsm["system_controls"].columns) == ["SystemControl7", "FalseCode1"]
    np.testing.assert_allclose(
        cells.obsm["spatial"], meta[["CenterX_global_px", "CenterY_global_px"]] * PIXEL, rtol=1e-12
    )
    assert cells.obsm["spatial"].dtype == np.float64
    np.testing.assert_array_equal(cells.obs["stain_PanCK"], meta["Mean.PanCK"])
    assert "stain_CD298_B2M" in cells.obs and "stain_CD45" not in cells.obs
    np.testing.assert_allclose(cells.obs["area_um2"], meta["Area"] * PIXEL**2)
    assert list(cells.obs["label"]) == list(meta["kind"])
    assert report == {"read": 12, "cell_ID 0": 0, "no counts": 0, "under min_genes": 0}


def composite(frame: pd.DataFrame, column: str = "cell") -> pd.DataFrame:
    frame = frame.copy()
    frame[column] = [f"c_2_{f}_{c}" for f, c in zip(frame["fov"], frame["cell_ID"])]
    return frame


NAMINGS = {
    "FOV and cell_id": lambda f: f.rename(columns={"fov": "FOV", "cell_ID": "cell_id"}),
    "composite cell only": lambda f: composite(f).drop(columns=["fov", "cell_ID"]),
    "composite in cell_id": lambda f: composite(f, "cell_id").drop(columns=["fov", "cell_ID"]),
    "number and composite": composite,
    "FOV and composite": lambda f: composite(f).drop(columns="cell_ID"),
    "number, composite and foreign id": lambda f: composite(f).assign(
        CellID=[f"u{i}" for i in range(len(f))]
    ),
    "row names of R": lambda f: pd.concat([pd.Series(range(len(f)), name=""), f], axis=1),
    "columns in another order": lambda f: f[list(f.columns[::-1])],
}


@pytest.mark.parametrize("change", NAMINGS.values(), ids=NAMINGS.keys())
def test_every_naming_of_identifiers_gives_the_same_cells(tmp_path, change):
    expression, meta = tissue()
    cells, _ = read(tmp_path, change(expression), change(meta))
    np.testing.assert_array_equal(cells[:, GENES].X.toarray(), expression[GENES])
    np.testing.assert_array_equal(cells.obs[["fov", "cell_id"]], expression[["fov", "cell_ID"]])
    np.testing.assert_allclose(cells.obsm["spatial"][:, 0], meta["CenterX_global_px"] * PIXEL)


def test_control_probes_of_every_export_are_kept_apart_from_genes():
    names = ["NegPrb3", "Negative12", "NegativeControl1", "NEGR1", "NELL2", "SystemControl4", "FalseCode88"]
    assert [naming.probe_class(n) for n in names] == [
        "negative_probes", "negative_probes", "negative_probes", "genes", "genes", "system_controls",
        "system_controls",
    ]  # fmt: skip


def global_names(meta: pd.DataFrame, x: str, y: str, scale: float) -> pd.DataFrame:
    kept = meta.drop(columns=[c for c in meta if "global" in c or "local" in c])
    return kept.assign(**{x: meta["CenterX_global_px"] * scale, y: meta["CenterY_global_px"] * scale})


@pytest.mark.parametrize(
    ("x", "y", "scale", "pixel"),
    [
        ("x_global_px", "y_global_px", 1.0, PIXEL),
        ("CenterX_global_mm", "CenterY_global_mm", PIXEL / 1000, None),
        ("x_slide_mm", "y_slide_mm", PIXEL / 1000, None),
        ("X_mm", "Y_mm", PIXEL / 1000, None),
    ],
)
def test_global_coordinates_in_px_and_mm(tmp_path, x, y, scale, pixel):
    expression, meta = tissue()
    cells, _ = read(tmp_path, expression, global_names(meta, x, y, scale), pixel=pixel)
    np.testing.assert_allclose(
        cells.obsm["spatial"], meta[["CenterX_global_px", "CenterY_global_px"]] * PIXEL, rtol=1e-9
    )


def test_cell_centres_win_over_fov_origins_copied_into_the_metadata(tmp_path):
    expression, meta = tissue()
    cells, _ = read(tmp_path, expression, meta.assign(x_global_px=1000.0, y_global_px=200.0))
    np.testing.assert_allclose(cells.obsm["spatial"][:, 0], meta["CenterX_global_px"] * PIXEL)


@pytest.mark.parametrize(
    ("names", "scale", "sign"),
    [
        (("fov", "x_global_px", "y_global_px"), 1.0, 1),
        (("FOV", "x_global_px", "y_global_px"), 1.0, -1),
        (("FOV", "x_global_mm", "y_global_mm"), PIXEL / 1000, -1),
        (("FOV", "X_mm", "Y_mm"), PIXEL / 1000, -1),
    ],
)
def test_local_coordinates_are_placed_by_fov_positions(tmp_path, names, scale, sign):
    expression, meta = tissue()
    local = meta.drop(columns=["CenterX_global_px", "CenterY_global_px"])
    positions = POSITIONS.set_axis(names, axis=1)
    positions.iloc[:, 1:] *= scale
    cells, _ = read(tmp_path, expression, local, positions.assign(Slide=1, Order=0))
    expected_y = (200.0 + sign * meta["CenterY_local_px"]) * PIXEL
    np.testing.assert_allclose(cells.obsm["spatial"][:, 0], meta["CenterX_global_px"] * PIXEL, rtol=1e-9)
    np.testing.assert_allclose(cells.obsm["spatial"][:, 1], expected_y, rtol=1e-9, atol=1e-9)


def test_area_in_um2_is_taken_as_it_is(tmp_path):
    expression, meta = tissue()
    cells, _ = read(tmp_path, expression, meta.assign(**{"Area.um2": 77.0}))
    assert (cells.obs["area_um2"] == 77.0).all()


def test_cells_are_dropped_by_reason_and_counted(tmp_path):
    expression, meta = tissue()
    expression.loc[2, GENES] = 0
    expression.loc[2, "NegPrb1"] = 9
    expression.loc[4, GENES] = [3, 0, 0, 0]
    outside = expression.iloc[:2].assign(cell_ID=0, fov=[1, 3], KRT19=1000)
    cells, report = read(tmp_path, pd.concat([outside, expression]), meta, min_genes=2)
    thin = (expression[GENES] > 0).sum(axis=1) < 2
    assert report == {"read": 14, "cell_ID 0": 2, "no counts": 1, "under min_genes": int(thin.sum()) - 1}
    kept = expression[~thin]
    np.testing.assert_array_equal(cells.X.toarray(), kept[GENES])
    np.testing.assert_array_equal(cells.obs[["fov", "cell_id"]], kept[["fov", "cell_ID"]])
    np.testing.assert_array_equal(cells.obsm["negative_probes"]["NegPrb1"], kept["NegPrb1"])
    np.testing.assert_allclose(cells.obsm["spatial"][:, 0], meta.loc[~thin, "CenterX_global_px"] * PIXEL)


def test_result_does_not_depend_on_block_size_line_ends_quotes_or_gzip_members(tmp_path, monkeypatch):
    expression, meta = tissue(40)
    plain, _ = read(tmp_path, expression, meta)
    text = write(tmp_path, expression)["counts"].read_bytes()
    quoted = b",".join(b'"%s"' % n for n in text.split(b"\n")[0].split(b",")) + text[text.index(b"\n") :]
    for body in (text.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + text, text.rstrip(), quoted, text + b"\n"):
        for size in (16, 100, 1 << 19):
            monkeypatch.setattr(counts, "MIN_BLOCK_BYTES", size)
            monkeypatch.setattr(counts, "MIN_BLOCK_ROWS", 1)
            (tmp_path / "s_exprMat_file.csv").write_bytes(body)
            result = counts.read_counts(tmp_path / "s_exprMat_file.csv")
            assert (result.matrix != plain.X).nnz == 0 and result.genes == GENES
    half = len(text) // 2
    members = tmp_path / "members.csv.gz"
    members.write_bytes(gzip.compress(text[:half]) + gzip.compress(text[half:]))
    assert (counts.read_counts(members).matrix != plain.X).nnz == 0


# --- faults, one sentence each ------------------------------------------------------------------------------


def fails(match: str, folder: Path, expression, meta, positions=None, **options) -> None:
    with pytest.raises(InputError, match=match) as caught:
        read(folder, expression, meta, positions, **options)
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)


@pytest.mark.parametrize("role", ["counts", "metadata", "positions", "cell_types"])
def test_a_missing_file_is_named(tmp_path, role):
    expression, meta = tissue()
    files = write(tmp_path, expression, meta.drop(columns=["CenterX_global_px"]), POSITIONS)
    files[role] = tmp_path / f"gone_{role}.csv"
    with pytest.raises(InputError, match=f"gone_{role}.csv: found no such file"):
        cosmx.ingest(files, "s", "cosmx", PIXEL, "d", 1, ["s"], CELLS, 1)


def test_a_role_without_a_file_is_named(tmp_path):
    with pytest.raises(InputError, match="format cosmx: found no metadata file"):
        cosmx.read_cells({"counts": tmp_path / "x.csv"}, "cosmx", PIXEL)


def test_header_without_genes(tmp_path):
    expression, meta = tissue()
    fails(
        "s_exprMat_file.csv: found no gene column", tmp_path, expression[["fov", "cell_ID", "NegPrb1"]], meta
    )


def test_header_without_cells(tmp_path):
    expression, meta = tissue()
    fails("s_exprMat_file.csv: found no cell identifier", tmp_path, expression.drop(columns="cell_ID"), meta)
    fails("s_exprMat_file.csv: found no FOV", tmp_path, expression.drop(columns="fov"), meta)


def test_a_gene_column_twice(tmp_path):
    expression, meta = tissue()
    fails("found column 'KRT19' twice", tmp_path, expression.rename(columns={"LTF": "KRT19"}), meta)


@pytest.mark.parametrize("file", ["counts", "metadata"])
def test_a_fov_and_cell_pair_twice(tmp_path, file):
    expression, meta = tissue()
    if file == "counts":
        expression.loc[7, "cell_ID"] = 1
    else:
        meta.loc[7, "cell_ID"] = 1
    fails("found FOV 3, cell 1 twice", tmp_path, expression, meta)


@pytest.mark.parametrize(
    ("value", "found"), [(-2, "-2"), (1.5, "1.5"), ("inf", "inf"), ("many", "'many'"), (np.nan, "NaN")]
)
@pytest.mark.parametrize("column", ["CD3E", "NegPrb2"])
def test_negative_fractional_missing_and_textual_counts(tmp_path, monkeypatch, value, found, column):
    monkeypatch.setattr(counts, "MIN_BLOCK_BYTES", 40)
    monkeypatch.setattr(counts, "MIN_BLOCK_ROWS", 1)
    expression, meta = tissue()
    expression[column] = expression[column].astype(object)
    expression.loc[9, column] = value
    fails(rf"s_exprMat_file.csv, row 11.*column {column}: found .*{found}", tmp_path, expression, meta)


def test_a_row_with_too_few_fields(tmp_path):
    _, meta = tissue()
    fails("row 3: found 3 fields, expected 4", tmp_path, "fov,cell_ID,A,B\n1,1,1,0\n1,2,3\n", meta)


@pytest.mark.parametrize("body", ["fov,cell_ID,A\n", "fov,cell_ID,A"])
def test_a_header_without_rows(tmp_path, body):
    _, meta = tissue()
    fails("found a header and no rows", tmp_path, body, meta)


def test_an_empty_file(tmp_path):
    _, meta = tissue()
    fails("s_exprMat_file.csv: found an empty file", tmp_path, "", meta)


def test_metadata_without_counts_and_the_reverse(tmp_path):
    expression, meta = tissue()
    fails(
        r"s_exprMat_file.csv: found no row for 2 of 12 cells of s_metadata_file.csv \(first FOV 1, cell 3\)",
        tmp_path, expression.drop(index=[2, 5]), meta,
    )  # fmt: skip
    fails(
        r"s_metadata_file.csv: found no row for 1 of 12 cells of s_exprMat_file.csv \(first FOV 3, cell 6\)",
        tmp_path, expression, meta.drop(index=11),
    )  # fmt: skip


def test_coordinates_missing(tmp_path):
    expression, meta = tissue()
    bare = meta.drop(columns=[c for c in meta if "Center" in c])
    fails("s_metadata_file.csv: found no coordinates among", tmp_path, expression, bare)
    holes = meta.copy()
    holes.loc[[3, 4], "CenterY_global_px"] = np.nan
    fails(r"found no coordinates for 2 cells \(first FOV 1, cell 4\)", tmp_path, expression, holes)
    empty = bare.assign(CenterX_global_px=np.nan, CenterY_global_px=np.nan)
    fails("found only missing values in CenterX_global_px", tmp_path, expression, empty)
    words = meta.assign(CenterX_global_px=["12", *["left"] * 11])
    fails("row 3, column CenterX_global_px: found 'left'", tmp_path, expression, words)


def test_local_coordinates_without_their_fov(tmp_path):
    expression, meta = tissue()
    local = meta.drop(columns=["CenterX_global_px", "CenterY_global_px"])
    fails("coordinates within the FOV only", tmp_path, expression, local)
    fails("found no row for FOV 3", tmp_path, expression, local, POSITIONS.iloc[:1])
    fails("found FOV 1 twice", tmp_path, expression, local, POSITIONS.iloc[[0, 0]])
    fails("fov_positions_file.csv: found the columns", tmp_path, expression, local, POSITIONS[["fov"]])


def test_no_cells_left(tmp_path):
    expression, meta = tissue()
    fails("found no cells left of 12 rows", tmp_path, expression, meta, min_genes=5)


@pytest.mark.parametrize("role", ["counts", "metadata", "positions"])
def test_truncated_gzip(tmp_path, role):
    expression, meta = tissue(200)
    local = meta.drop(columns=["CenterX_global_px", "CenterY_global_px"])
    files = write(tmp_path, expression, local, POSITIONS, ".csv.gz")
    files[role].write_bytes(files[role].read_bytes()[:-12])
    with pytest.raises(InputError, match=f"{files[role].name}: found a truncated gzip"):
        cosmx.read_cells(files, "cosmx", PIXEL)


def test_a_file_that_is_no_gzip(tmp_path):
    expression, meta = tissue()
    files = write(tmp_path, expression, meta)
    files["counts"] = files["counts"].rename(tmp_path / "s_exprMat_file.csv.gz")
    with pytest.raises(InputError, match=r"s_exprMat_file.csv.gz: found unreadable content"):
        cosmx.read_cells(files, "cosmx", PIXEL)


def test_unknown_format(tmp_path):
    with pytest.raises(InputError, match="format: found 'xenium', expected one of cosmx, h5ad"):
        cosmx.read_cells({}, "xenium", PIXEL)


@pytest.mark.parametrize("pixel", [None, 0.0, float("nan")])
def test_pixel_size_missing(tmp_path, pixel):
    expression, meta = tissue()
    fails("pixel_size_um: found .*CenterX_global_px", tmp_path, expression, meta, pixel=pixel)


def test_a_wrong_pixel_size_shows_in_the_distance_between_cells(tmp_path):
    expression, meta = tissue()
    fails(
        "median distance of 9e\\+03 µm .* with pixel_size_um 180.0", tmp_path, expression, meta, pixel=180.0
    )
    fails("median distance of 0.009 µm", tmp_path, expression, meta, pixel=0.00018)
    assert metadata.check_scale(np.array([[0.0, 0.0], [3.0, 4.0]]), 0.18, "f") == 5.0


def test_identifiers_that_contradict_each_other(tmp_path):
    expression, meta = tissue()
    wrong = composite(expression)
    wrong.loc[4, "cell"] = "c_2_9_5"
    fails("row 6: found fov 1 but cell 'c_2_9_5'", tmp_path, wrong, meta)
    wrong = expression.astype({"cell_ID": object})
    wrong.loc[4, "cell_ID"] = "5_1"
    fails("row 6: found cell_ID '5_1', expected a whole number", tmp_path, wrong, meta)


def test_two_slides_in_one_export(tmp_path):
    expression, meta = tissue()
    both = composite(expression)
    both.loc[6:, "cell"] = both.loc[6:, "cell"].str.replace("c_2", "c_3")
    fails(r"found cells of the slides \[2, 3\]", tmp_path, both, meta)


# --- AnnData ------------------------------------------------------------------------------------------------


def h5ad(folder: Path, **changes) -> Path:
    expression, meta = tissue()
    adata = anndata.AnnData(
        X=sp.csr_matrix(expression[[*GENES, "NegPrb1"]].to_numpy(dtype=np.float32)),
        obs=pd.DataFrame(
            {
                "fov": meta["fov"].to_numpy(),
                "cell_ID": meta["cell_ID"].to_numpy(),
                "dose": 1.0,
                "block": "old",
            },
            index=[f"cell{i}" for i in range(12)],
        ),
        var=pd.DataFrame(index=[*GENES, "NegPrb1"]),
    )
    adata.obsm["spatial"] = meta[["CenterX_global_px", "CenterY_global_px"]].to_numpy()
    for name, change in changes.items():
        changed = change(adata)
        assert name and (changed is None or isinstance(changed, anndata.AnnData))
        adata = adata if changed is None else changed
    adata.write_h5ad(folder / "s.h5ad")
    return folder / "s.h5ad"


def test_h5ad_with_coordinates(tmp_path):
    expression, meta = tissue()
    cells, report = cosmx.read_cells({"h5ad": h5ad(tmp_path)}, "h5ad", PIXEL)
    np.testing.assert_array_equal(cells.X.toarray(), expression[GENES])
    np.testing.assert_array_equal(cells.obsm["negative_probes"]["NegPrb1"], expression["NegPrb1"])
    np.testing.assert_array_equal(cells.obs[["fov", "cell_id"]], meta[["fov", "cell_ID"]])
    np.testing.assert_allclose(cells.obsm["spatial"][:, 0], meta["CenterX_global_px"] * PIXEL)
    assert (cells.obs["dose"] == 1).all() and (cells.obs["source_block"] == "old").all()
    assert report["read"] == 12


def test_h5ad_takes_counts_from_layer_or_raw_where_x_is_normalised(tmp_path):
    expression, _ = tissue()

    def layer(adata):
        adata.layers["counts"] = adata.X.copy()
        adata.X = adata.X * 0.3

    def raw(adata):
        adata.raw = adata.copy()
        adata.X = adata.X * 0.3
        return adata[:, :2].copy()

    for change in (layer, raw):
        cells, _ = cosmx.read_cells({"h5ad": h5ad(tmp_path, change=change)}, "h5ad", PIXEL)
        np.testing.assert_array_equal(cells.X.toarray(), expression[GENES])


def test_h5ad_without_raw_counts(tmp_path):
    def scaled(adata):
        adata.X = adata.X * np.float32(0.5)

    with pytest.raises(InputError, match=r"found no raw counts \(X holds .* in row cell"):
        cosmx.read_cells({"h5ad": h5ad(tmp_path, change=scaled)}, "h5ad", PIXEL)


def test_h5ad_symbols_from_var_where_names_are_ensembl_ids(tmp_path):
    def ensembl(adata):
        adata.var["gene_symbols"] = adata.var_names
        adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]

    cells, _ = cosmx.read_cells({"h5ad": h5ad(tmp_path, change=ensembl)}, "h5ad", PIXEL)
    assert list(cells.var_names) == GENES

    def nameless(adata):
        ensembl(adata)
        del adata.var["gene_symbols"]

    with pytest.raises(InputError, match="found Ensembl ids as var_names"):
        cosmx.read_cells({"h5ad": h5ad(tmp_path, change=nameless)}, "h5ad", PIXEL)


def test_h5ad_without_coordinates(tmp_path):
    def bare(adata):
        del adata.obsm["spatial"]
        adata.obs = adata.obs[["dose"]]

    path = h5ad(tmp_path, change=bare)
    with pytest.raises(InputError, match=r"s.h5ad: found no obsm\['spatial'\].* h5ad_nonspatial"):
        cosmx.read_cells({"h5ad": path}, "h5ad", PIXEL)
    cells, _ = cosmx.read_cells({"h5ad": path}, "h5ad_nonspatial", None)
    assert "spatial" not in cells.obsm and (cells.obs["fov"] == 1).all()
    assert list(cells.obs["cell_id"]) == list(range(1, 13)) and cells.obs["source_name"].iloc[0] == "cell0"


def test_h5ad_faults(tmp_path):
    def nan_xy(adata):
        adata.obsm["spatial"][4] = np.nan

    def twice(adata):
        adata.obs["cell_ID"] = 1

    with pytest.raises(InputError, match=r"no coordinates for 1 cells \(first cell4\)"):
        cosmx.read_cells({"h5ad": h5ad(tmp_path, change=nan_xy)}, "h5ad", PIXEL)
    with pytest.raises(InputError, match="found FOV 1, cell 1 twice"):
        cosmx.read_cells({"h5ad": h5ad(tmp_path, change=twice)}, "h5ad", PIXEL)
    with pytest.raises(InputError, match="pixel_size_um: found None"):
        cosmx.read_cells({"h5ad": h5ad(tmp_path)}, "h5ad", None)
    with pytest.raises(InputError, match="found no cells left"):
        cosmx.read_cells({"h5ad": h5ad(tmp_path)}, "h5ad", PIXEL, min_genes=9)
    with pytest.raises(InputError, match=r"gone.h5ad: found no such file"):
        cosmx.read_cells({"h5ad": tmp_path / "gone.h5ad"}, "h5ad", PIXEL)
    with pytest.raises(InputError, match="cell_types: found no column 'kind' in obs"):
        cosmx.read_cells({"h5ad": h5ad(tmp_path)}, "h5ad", PIXEL, label_column="kind")
    (tmp_path / "cut.h5ad").write_bytes(h5ad(tmp_path).read_bytes()[:3000])
    with pytest.raises(InputError, match=r"cut.h5ad: found a damaged file"):
        cosmx.read_cells({"h5ad": tmp_path / "cut.h5ad"}, "h5ad", PIXEL)


# --- cell types ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz"])
def test_cell_types_are_joined_by_fov_and_cell(tmp_path, suffix):
    table = pd.DataFrame(
        {"fov": [3, 1, 1, 8], "cell_ID": [1, 2, 1, 1], "cell_type": ["tumour", None, "B-cell", "rare"]}
    )
    table.to_csv(tmp_path / f"t{suffix}", index=False, sep="\t" if suffix == ".tsv" else ",")
    kinds = cell_types.from_table(tmp_path / f"t{suffix}", np.array([1, 1, 3, 3]), np.array([1, 2, 1, 2]))
    assert list(kinds) == ["B-cell", "unassigned", "tumour", "unassigned"]
    assert list(kinds.categories) == ["B-cell", "tumour", "unassigned"]


def test_cell_type_table_faults(tmp_path):
    path = tmp_path / "types.csv"
    one = np.array([1])
    path.write_text("fov,cell_ID,cell_type\n1,1,a\n1,1,b\n")
    with pytest.raises(InputError, match=r"types.csv: found FOV 1, cell 1 twice"):
        cell_types.from_table(path, one, one)
    path.write_text("fov,cell_ID,cluster\n1,1,a\n")
    with pytest.raises(InputError, match=r"types.csv: found the columns"):
        cell_types.from_table(path, one, one)
    path.write_text("fov,cell_ID,cell_type\n7,1,a\n")
    with pytest.raises(InputError, match=r"types.csv: found no row for any of 1 cells"):
        cell_types.from_table(path, one, one)
    path.write_text("fov,cell_ID,cell_type\n")
    with pytest.raises(InputError, match=r"types.csv: found no rows"):
        cell_types.from_table(path, one, one)


def test_cell_types_from_a_metadata_column(tmp_path):
    expression, meta = tissue(60)
    files = write(tmp_path, expression, meta)
    cells, _ = cosmx.ingest(files, "s", "cosmx", PIXEL, "d", 1, ["s"], CELLS, 1, cell_types_column="kind")
    assert list(cells.obs["cell_type"]) == list(meta["kind"]) and "label" not in cells.obs
    with pytest.raises(InputError, match=r"cell_types: found no column 'knd' in s_metadata_file.csv"):
        cosmx.ingest(files, "s", "cosmx", PIXEL, "d", 1, ["s"], CELLS, 1, cell_types_column="knd")


def test_clusters_stand_in_for_cell_types_and_say_so():
    rng = np.random.default_rng(0)
    programme = np.repeat(np.eye(3) * 8 + 0.2, [60, 90, 50], axis=0)
    matrix = sp.csr_matrix(rng.poisson(np.repeat(programme, 10, axis=1)).astype(np.float32))
    before = matrix.copy()
    kinds = cell_types.leiden_clusters(matrix, 0.3, seed=3)
    assert list(kinds) == ["leiden_1"] * 60 + ["leiden_0"] * 90 + ["leiden_2"] * 50
    assert list(kinds) == list(cell_types.leiden_clusters(matrix, 0.3, seed=3))
    assert (matrix != before).nnz == 0


# --- the contract of cells/<sample>.h5ad --------------------------------------------------------------------


class Named(dict):
    """Inputs, outputs or params as a rule script sees them: iterable over values, named by attribute."""

    def __getattr__(self, name):
        return self[name]

    def __iter__(self):
        return iter(self.values())


class Job:
    """What Snakemake hands to a rule script."""

    def __init__(self, folder: Path, files: dict[str, Path], **params):
        self.input = Named({role: str(path) for role, path in files.items()})
        self.output = Named(
            cells=str(folder / "s.h5ad"), qc=str(folder / "s.qc.tsv"), figure=str(folder / "s.qc.svg")
        )
        self.params = Named(
            sample="s", format="cosmx", pixel_size_um=PIXEL, cell_types_column=None, donor="d1", shards=3,
            samples=["s"], cells=CELLS, seed=5, **params,
        )  # fmt: skip
        self.wildcards = Named(sample="s")
        self.log, self.threads, self.rule, self.config = [str(folder / "s.log")], 1, "ingest", {}


def test_rule_script_writes_cells_table_and_figure(tmp_path):
    import ingest

    expression, meta = tissue(200)
    files = write(tmp_path, expression, meta, POSITIONS)
    files["cell_types"] = tmp_path / "types.csv"
    meta.rename(columns={"kind": "cell_type"})[["fov", "cell_ID", "cell_type"]].to_csv(files["cell_types"])
    files["vocabulary"] = tmp_path / "vocab.json"
    files["vocabulary"].write_text(json.dumps({"KRT19": 0, "LTF": 1, "<pad>": 2}))
    outputs = []
    for run in ("a", "b"):
        folder = tmp_path / run
        folder.mkdir()
        ingest.main(Job(folder, files))
        outputs.append([(folder / name).read_bytes() for name in ("s.qc.tsv", "s.qc.svg")])
    assert outputs[0] == outputs[1]
    first, again = (anndata.read_h5ad(tmp_path / run / "s.h5ad") for run in ("a", "b"))
    pd.testing.assert_frame_equal(first.obs, again.obs)

    obs = first.obs
    assert list(obs.columns[:10]) == [
        "sample", "donor", "fov", "cell_id", "cell_type", "n_counts", "n_genes", "block", "split", "shard",
    ]  # fmt: skip
    assert obs.index[0] == "s:1_1" and obs.index.is_unique
    assert obs["cell_type"].dtype == "category" and obs["shard"].dtype == np.int32
    assert set(obs["split"]) == {"train", "validation", "test", "guard"}
    np.testing.assert_array_equal(obs["n_counts"], expression[GENES].sum(axis=1))
    np.testing.assert_array_equal(obs["n_genes"], (expression[GENES] > 0).sum(axis=1))
    assert first.X.dtype == np.float32 and first.X.has_sorted_indices and first.X.format == "csr"
    assert list(first.var["in_vocab"]) == [True, False, False, True]
    assert list(first.var["symbol"]) == list(first.var_names) == GENES
    assert isinstance(first.obsm["negative_probes"], pd.DataFrame)
    provenance = json.loads(first.uns["interptfm"])
    assert provenance["settings"]["seed"] == 5 and "s_exprMat_file.csv" in provenance["inputs"]
    assert str(tmp_path) not in first.uns["interptfm"]


def test_rule_script_ends_with_one_sentence_and_no_output(tmp_path, capsys):
    import ingest

    expression, meta = tissue()
    with pytest.raises(SystemExit) as caught:
        ingest.main(Job(tmp_path, write(tmp_path, expression, meta.drop(index=3))))
    assert caught.value.code == 1
    message = (tmp_path / "s.log").read_text()
    assert "found no row for 1 of 12 cells" in message and "Traceback" not in message
    assert not list(tmp_path.glob("*.h5ad")) and not list(tmp_path.glob("*.qc.*"))


def test_without_a_checkpoint_every_gene_is_in_the_vocabulary(tmp_path):
    expression, meta = tissue(60)
    cells, _ = cosmx.ingest(
        write(tmp_path, expression, meta),
        "s",
        "cosmx",
        PIXEL,
        "d",
        2,
        ["s"],
        CELLS,
        1,
        cell_types_column="kind",
    )
    assert cells.var["in_vocab"].all() and sorted(cells.obs["shard"].unique()) == [0, 1]


def test_cells_without_coordinates_get_groups_for_blocks_and_bars_for_maps(tmp_path):
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(
        X=sp.csr_matrix(rng.poisson(3, size=(300, 8)).astype(np.float32)),
        obs=pd.DataFrame(
            {"replicate": [f"r{i % 5}" for i in range(300)], "kind": "a"}, index=map(str, range(300))
        ),
        var=pd.DataFrame(index=[f"G{i}" for i in range(8)]),
    )
    adata.write_h5ad(tmp_path / "p.h5ad")
    cells, report = cosmx.ingest(
        {"h5ad": tmp_path / "p.h5ad"},
        "p",
        "h5ad_nonspatial",
        None,
        "d",
        1,
        ["p"],
        CELLS,
        1,
        cell_types_column="kind",
    )
    assert cells.obs["block"].nunique() == 15 and cells.obs["block"].value_counts().max() == 20
    assert set(cells.obs["split"]) == {"train", "validation", "test"}
    by_column = {**CELLS, "blocks": {**CELLS["blocks"], "column": "replicate"}}
    grouped, _ = cosmx.ingest(
        {"h5ad": tmp_path / "p.h5ad"}, "p", "h5ad_nonspatial", None, "d", 1, ["p"], by_column, 1,
        cell_types_column="kind",
    )  # fmt: skip
    assert set(grouped.obs["block"]) == {f"p:r{i}" for i in range(5)}
    qc.write_figure(tmp_path / "p.svg", qc.qc_figure(cells, "p"), "p")
    text = (tmp_path / "p.svg").read_text()
    assert "Cells by type" in text and "Cells by split" in text
    table = qc.qc_table(cells, report)
    assert "extent (µm)" not in set(table["quantity"])


def test_qc_table_adds_up(tmp_path):
    expression, meta = tissue(60)
    expression.loc[0, GENES] = 0
    cells, report = cosmx.ingest(
        write(tmp_path, expression, meta),
        "s",
        "cosmx",
        PIXEL,
        "d",
        1,
        ["s"],
        CELLS,
        1,
        cell_types_column="kind",
    )
    table = qc.qc_table(cells, report)
    assert list(table.columns) == ["quantity", "group", "value"]
    assert not table.duplicated(["quantity", "group"]).any()
    total = table.groupby("quantity")["value"].sum()
    assert total["rows read"] == 120 == total["cells kept"] + total["cells dropped"]
    for quantity in ("cells by type", "cells by FOV", "cells by split"):
        assert total[quantity] == total["cells kept"] == 119
    assert total["blocks by split"] == total["blocks"]
    kept = expression.iloc[1:]
    negative = kept[["NegPrb1", "NegPrb2"]].to_numpy()
    assert total["negative probe rate"] == pytest.approx(negative.mean() / kept[GENES].to_numpy().mean())
    counts_ = kept[GENES].to_numpy().sum()
    assert total["negative probe fraction"] == pytest.approx(negative.sum() / (negative.sum() + counts_))
    values = table.set_index(["quantity", "group"])["value"]
    assert values["counts per cell", "median"] == kept[GENES].sum(axis=1).median()


def test_qc_figure_shows_eight_types_and_counts_the_rest(tmp_path):
    expression, meta = tissue(200)
    meta["kind"] = [f"type{i % 11:02d}" for i in range(len(meta))]
    cells, _ = cosmx.ingest(
        write(tmp_path, expression, meta),
        "s",
        "cosmx",
        PIXEL,
        "d",
        1,
        ["s"],
        CELLS,
        1,
        cell_types_column="kind",
    )
    qc.write_figure(tmp_path / "s.svg", qc.qc_figure(cells, "s"), "s")
    text = (tmp_path / "s.svg").read_text()
    assert "3 other types (108)" in text and "train (" in text and "guard (" in text
    assert text.count("data:image/png") >= 2, "points must be rasterised"


# --- memory and real data -----------------------------------------------------------------------------------


def test_memory_stays_near_the_csr(root):
    """The full bound (3 × CSR at 80,000 × 960) is the benchmark's; here libraries add a fixed cost."""
    script = root / "benchmarks" / "ingest_memory.py"
    command = [sys.executable, str(script), "--cells", "8000", "--bound", "inf"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    fixed = 50e6
    # The dense float32 matrix alone is 31 MB more than this allows.
    assert result["peak_over_baseline_bytes"] < 3 * result["csr_bytes"] + fixed, result
    assert result["cells"] > 7_900


@pytest.mark.real
def test_real_nsclc_cells(real_data, tmp_path):
    folder = real_data / "cosmx_nsclc_mini"
    files = {
        "counts": folder / "nsclc_mini_exprMat_file.csv.gz",
        "metadata": folder / "nsclc_mini_metadata_file.csv",
        "positions": folder / "nsclc_mini_fov_positions_file.csv",
        "cell_types": folder / "cell_types.csv",
    }
    settings = {**CELLS, "min_genes": 10, "blocks": {"unit": "tile", "size_um": 150, "guard_um": 15}}
    cells, report = cosmx.ingest(files, "mini", "cosmx", PIXEL, "d", 1, ["mini"], settings, 1)
    expected = pd.read_csv(files["counts"])
    probes = [c for c in expected if c.startswith("NegPrb")]
    genes = [c for c in expected if c not in [*probes, "fov", "cell_ID"]]
    assert cells.shape == (2198, 960) and len(probes) == 20 and report["read"] == 2198
    np.testing.assert_array_equal(cells.X.toarray(), expected[genes])
    np.testing.assert_array_equal(cells.obsm["negative_probes"][probes], expected[probes])
    assert cells.obsm["negative_probes"].to_numpy().sum() == 920
    kinds = pd.read_csv(files["cell_types"]).set_index(["fov", "cell_ID"])["cell_type"]
    assert list(cells.obs["cell_type"]) == list(kinds.loc[list(zip(cells.obs["fov"], cells.obs["cell_id"]))])
    xy = cells.obsm["spatial"]
    assert xy[:, 0].min() >= 7300 and xy[:, 0].max() <= 8000
    assert metadata.check_scale(xy, PIXEL, "mini") == pytest.approx(9.18, abs=0.01)
    assert not [c for c in cells.obs if c.startswith("stain_")]
    share = cells.obs["split"].value_counts(normalize=True)
    assert share["train"] == pytest.approx(0.6, abs=0.02) and share["guard"] < 0.1
    assert min(share["validation"], share["test"]) > 0.12


@pytest.mark.real
def test_real_positions_and_local_coordinates_agree_with_global_ones(real_data, tmp_path):
    folder = real_data / "cosmx_nsclc_mini"
    path = folder / "nsclc_mini_metadata_file.csv"
    positions = folder / "nsclc_mini_fov_positions_file.csv"
    local = pd.read_csv(path).drop(columns=["CenterX_global_px", "CenterY_global_px"])
    local.to_csv(tmp_path / "local.csv", index=False)
    both = [metadata.read_metadata(p, positions, PIXEL)[["x", "y"]] for p in (path, tmp_path / "local.csv")]
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)


@pytest.mark.real
def test_real_perturbation_data_has_no_coordinates(real_data):
    cells, report = cosmx.read_cells({"h5ad": real_data / "perturb_papalexi.h5ad"}, "h5ad_nonspatial", None)
    assert cells.shape == (16192, 299) and report["read"] == 16192 and "spatial" not in cells.obsm
    assert {"perturbation", "grna", "bio_rep"} <= set(cells.obs) and cells.obs["perturbation"].nunique() == 26
    np.testing.assert_array_equal(np.asarray(cells.X.sum(axis=1)).ravel(), cells.obs["n_umis"])
