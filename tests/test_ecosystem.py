"""Results in other tools: squidpy draws activity, spatialdata reads the export back."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from planning import snakemake

from interptfm import store
from interptfm.errors import InputError
from interptfm.export import spatial


def toy(n=6, **obs):
    names = [f"s:1_{i}" for i in range(n)]
    cells = anndata.AnnData(
        X=np.ones((n, 2), np.float32), obs=pd.DataFrame({"cell_type": ["a"] * n, **obs}, index=names)
    )
    cells.obsm["spatial"] = np.column_stack([10.0 * np.arange(n), np.zeros(n)])
    regions = pd.DataFrame({"cell": names, "compartment": ["TME"] * n, "cell_type": "other"})
    return cells, cells[:, :1].copy(), regions


def test_radii_are_of_areas_and_else_half_the_nearest_distance():
    xy = np.column_stack([10.0 * np.arange(4), np.zeros(4)])
    np.testing.assert_allclose(spatial.radii(xy, np.full(4, np.pi * 9)), 3)
    np.testing.assert_allclose(spatial.radii(xy, None), 5)
    np.testing.assert_allclose(spatial.radii(xy, np.array([np.pi, np.nan, 0, np.pi * 4])), [1, 5, 5, 2])
    assert spatial.radii(xy[:1], None).tolist() == [1] and spatial.radii(xy[:2] * 0, None).tolist() == [1, 1]


def test_a_section_is_shapes_with_tables_on_them():
    found = spatial.section(*toy(cell=["x"] * 6))
    assert list(found.shapes) == ["cells"] and sorted(found.tables) == ["activity", "counts"]
    table = found.tables["activity"]
    assert table.obs["cell"].tolist() == list(found.shapes["cells"].index) and "source_cell" in table.obs
    assert (table.obs["compartment"] == "TME").all() and (table.obs["cell_type"] == "a").all()


def test_sections_that_do_not_fit_are_one_sentence():
    cells, activity, regions = toy()
    with pytest.raises(InputError, match="found other cells in regions"):
        spatial.section(cells, activity, regions.iloc[::-1])
    with pytest.raises(InputError, match="found other cells in activity"):
        spatial.section(cells, activity[::-1], regions)
    cells.obsm["spatial"][2, 0] = np.nan
    with pytest.raises(InputError, match="found a cell without coordinates"):
        spatial.section(cells, activity, regions)
    del cells.obsm["spatial"]
    with pytest.raises(InputError, match=r"found cells without obsm\['spatial'\]"):
        spatial.section(cells, activity, regions)


def test_squidpy_draws_activity(project, tmp_path):
    """``sq.pl.spatial_scatter`` on the file as it is, by a concept, a cell type and a layer."""
    import matplotlib

    matplotlib.use("Agg")
    import squidpy
    from matplotlib import pyplot as plt

    activity = store.read_h5ad(project / "results/tiny/activity/section_1.h5ad")
    concept = activity.var_names[0]
    squidpy.pl.spatial_scatter(activity, shape=None, color=[concept, "cell_type"], save=tmp_path / "a.png")
    axes = plt.gcf().axes
    drawn = np.asarray(axes[0].collections[0].get_offsets())
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, activity.obsm["spatial"]))
    assert (tmp_path / "a.png").stat().st_size > 5000
    squidpy.pl.spatial_scatter(activity, shape=None, color=concept, layer="genes", library_key="sample")
    plt.close("all")


def test_the_graph_of_crosstalk_is_one_of_squidpys(project):
    import squidpy

    graph = store.read_h5ad(project / "results/tiny/crosstalk/section_1/graph.h5ad")
    graph.obs["cell_type"] = graph.obs["cell_type"].astype("category")
    squidpy.gr.nhood_enrichment(graph, cluster_key="cell_type", n_perms=10, seed=1, show_progress_bar=False)
    assert graph.uns["cell_type_nhood_enrichment"]["count"].sum() == graph.obsp["spatial_connectivities"].nnz


def test_spatialdata_reads_the_export_back(project):
    import spatialdata

    done = snakemake(project, "spatialdata")
    assert done.returncode == 0, done.stdout + done.stderr
    for sample in ("section_1", "section_2"):
        found = spatialdata.read_zarr(project / f"results/tiny/spatialdata/{sample}.zarr")
        cells = store.read_h5ad(project / f"results/tiny/cells/{sample}.h5ad")
        activity = store.read_h5ad(project / f"results/tiny/activity/{sample}.h5ad")
        circles = found.shapes["cells"]
        assert list(circles.index) == cells.obs_names.tolist() and (circles["radius"] > 0).all()
        np.testing.assert_array_equal(
            np.column_stack([circles.geometry.x, circles.geometry.y]), cells.obsm["spatial"]
        )
        np.testing.assert_array_equal(found.tables["activity"].X, activity.X)
        assert (found.tables["counts"].X != cells.X).nnz == 0
        assert {"compartment", "region", "distance_um"} <= set(found.tables["activity"].obs)
        _, matched = spatialdata.join_spatialelement_table(found, "cells", table_name="activity")
        assert matched.obs_names.tolist() == cells.obs_names.tolist()
    assert not list((project / "results/tiny/spatialdata").glob(".*")), "a temporary folder was left behind"
