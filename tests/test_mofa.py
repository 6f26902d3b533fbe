"""MOFA+ without its package: views, factors of held-out cells, and what they tell beside the null."""

from __future__ import annotations

from importlib import metadata
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from interptfm import store
from interptfm.comparators import mofa, mofa_tables, mofa_views, status
from interptfm.comparators.mofa_views import CHANNELS, CONCEPTS, STAINS, View
from interptfm.errors import InputError
from interptfm.tis.units import Cells

SETTINGS = {"permutations": 99, "bootstrap": 50}


def cells_of(n, types=None, sections=1, **columns):
    """Cells of blocks of ten, the last third of each section being test blocks."""
    at = np.arange(n)
    section = at * sections // n
    own = at - np.searchsorted(section, section)
    obs = pd.DataFrame(
        {
            "sample": [f"s{i}" for i in section], "block": [f"{s}_{i // 10}" for s, i in zip(section, own)],
            "cell_type": "a" if types is None else types,
            "split": np.where(own < 2 * n // (3 * sections), "train", "test"), **columns,
        },
        index=[f"s{s}:1_{i}" for s, i in zip(section, at)],
    )  # fmt: skip
    return Cells(sparse.csr_matrix(np.ones((n, 1))), ["g"], obs, np.zeros((n, 2)))


def view(name, values):
    columns = pd.DataFrame({"name": [f"{name} {i}" for i in range(values.shape[1])], "term_id": ""})
    return View(name, values, columns.assign(channel=""))


def model(weights, spread=0.0, tau=1.0, groups=1):
    k = weights[0].shape[1]
    return mofa.Model(
        weights, [np.full(w.shape, spread) for w in weights],
        [np.full((groups + 1, len(w)), tau) for w in weights], np.ones((groups + 1, k)), np.zeros((0, k)),
    )  # fmt: skip


def world(z, widths=(20, 20), noise=1.0, seed=0):
    """Views whose columns are mixtures of factors, unit weights at random, and the model that is true."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(d, z.shape[1])) for d in widths]
    names = (CONCEPTS, STAINS, CHANNELS)
    views = [
        view(name, z @ w.T + noise * rng.normal(size=(len(z), len(w)))) for name, w in zip(names, weights)
    ]
    return views, model(weights, tau=1 / noise**2)


# -- factors of cells that were not fitted on -------------------------------------------------------------


def test_projection_is_where_the_updates_of_one_factor_after_the_other_come_to_rest():
    rng = np.random.default_rng(1)
    views, true = world(rng.normal(size=(30, 3)), noise=2.0)
    fitted = model(true.weights, spread=0.3, tau=0.25)
    z = np.zeros((30, 3))
    for _ in range(500):
        for k in range(3):
            pull, precision = 0, 1
            for each, w in zip(views, fitted.weights, strict=True):
                others = z @ w.T - np.outer(z[:, k], w[:, k])
                pull = pull + 0.25 * (each.values - others) @ w[:, k]
                precision = precision + 0.25 * (w[:, k] ** 2 + 0.3).sum()
            z[:, k] = pull / precision
    np.testing.assert_allclose(mofa.project(fitted, views, np.zeros(30, int)), z, atol=1e-10)


def test_planted_factors_are_found_as_well_as_the_noise_allows():
    z = np.random.default_rng(2).normal(size=(3000, 2))
    views, fitted = world(z)
    found = mofa.project(fitted, views, np.zeros(len(z), int))
    precision = np.eye(2) + sum(w.T @ w for w in fitted.weights)
    unexplained = np.diag(np.linalg.inv(precision))
    np.testing.assert_allclose(((found - z) ** 2).mean(axis=0), unexplained, rtol=0.1)


def test_a_cell_without_a_view_has_factors_of_the_others_and_none_without_any():
    z = np.random.default_rng(3).normal(size=(12, 2))
    views, fitted = world(z)
    views[1].values[:4] = np.nan
    views[0].values[:2] = np.nan
    sections = np.zeros(12, int)
    found = mofa.project(fitted, views, sections)
    assert np.isnan(found[:2]).all() and np.isfinite(found[2:]).all()
    np.testing.assert_allclose(found[2:4], mofa.project(fitted, views, sections, [0])[2:4])
    assert not np.allclose(found[4:], mofa.project(fitted, views, sections, [0])[4:])


def test_a_section_that_the_model_does_not_know_takes_the_mean_of_the_others():
    z = np.random.default_rng(4).normal(size=(6, 2))
    views, fitted = world(z)
    fitted.tau[0][:-1], fitted.alpha[:-1] = 9.0, 5.0
    own, unknown = (mofa.project(fitted, views, np.full(6, section)) for section in (0, -1))
    plain = mofa.project(model(fitted.weights), views, np.zeros(6, int))
    np.testing.assert_allclose(unknown, plain)
    assert not np.allclose(own, plain)


# -- what factors explain ---------------------------------------------------------------------------------


def test_variance_of_factors_that_do_not_overlap_adds_up():
    z = np.linalg.qr(np.random.default_rng(5).normal(size=(40, 2)))[0]
    weights = np.array([[3.0, 0], [0, 1.0]])
    rows = {("test", "all"): np.arange(40)}
    table = mofa_tables.explained([view(CONCEPTS, z @ weights.T)], [weights], z, rows)
    assert list(table.columns) == list(mofa_tables.VARIANCE)
    np.testing.assert_allclose(table.set_index("factor")["r2"], [1, 0.9, 0.1])


def test_dealing_keeps_every_row_among_its_own():
    labels = np.array([2, 0, 0, 1, 2, 0, 2, 1])
    found = mofa_tables.dealt(labels, np.random.default_rng(0))
    assert sorted(found) == list(range(8)) and (labels[found] == labels).all()
    assert (found != np.arange(8)).any()


def told(z, cells, views=None, weights=None):
    made, fitted = world(z)
    views, loadings = views or made, weights or fitted.weights
    fitted = model(loadings)
    train, test = (np.flatnonzero(cells.split == name) for name in ("train", "test"))
    sections = np.zeros(len(z), int)
    table = mofa_tables.predictions(
        views, loadings, lambda seen: mofa.project(fitted, views, sections, [seen]), cells, train, test,
        SETTINGS, np.random.default_rng(0),
    )  # fmt: skip
    return table.set_index(["from", "to", "shuffled"])


def test_a_shared_factor_tells_the_other_view_beyond_both_nulls():
    z = np.random.default_rng(6).normal(size=(600, 2))
    table = told(z, cells_of(600))
    assert list(table.reset_index().columns) == list(mofa_tables.PREDICTION)
    # Each column: two unit factors and unit noise, two thirds of its variance shared in the mean.
    row = table.loc[(CONCEPTS, STAINS, "section")]
    assert 0.5 < row["lo"] < row["r2"] < row["hi"] < 0.75 and row["null_hi"] < 0 < row["r2"]
    assert (table["p"] == 0.01).all() and (table["p_min"] == 0.01).all() and (table["n"] == 200).all()
    assert table["r2_types"].abs().max() < 0.05, "one type tells nothing but the mean"


def test_what_is_shared_by_cell_types_alone_does_not_beat_the_null_within_type():
    types = np.random.default_rng(7).integers(0, 4, 600)
    z = np.array([[2.0, 0], [-2, 0], [0, 2], [0, -2]])[types]
    table = told(z, cells_of(600, types=types.astype(str)))
    assert (table.xs("section", level="shuffled")["p"] == 0.01).all()
    assert (table.xs("type", level="shuffled")["p"] > 0.05).all()
    assert (table["r2_types"] > table["r2"] - 0.02).all(), "types say all that there is"


def test_factors_of_one_view_each_tell_nothing_of_the_other():
    rng = np.random.default_rng(8)
    z = rng.normal(size=(600, 2))
    a, b = (np.zeros((20, 2)) for _ in range(2))
    a[:, 0], b[:, 1] = rng.normal(size=(2, 20))
    views = [view(name, z @ w.T + rng.normal(size=(600, 20))) for name, w in ((CONCEPTS, a), (STAINS, b))]
    table = told(z, cells_of(600), views, [a, b])
    assert (table["r2"].abs() < 1e-9).all() and (table["p"] == 1).all()


def test_channels_told_by_concepts_are_marked_and_take_no_part_in_q():
    z = np.random.default_rng(9).normal(size=(300, 2))
    views, fitted = world(z)
    views[1] = view(CHANNELS, views[1].values)
    table = told(z, cells_of(300), views, fitted.weights)
    assert table["derived"].all() and table["q"].isna().all() and table["p"].notna().all()
    variance = mofa_tables.explained(views, fitted.weights, z, {("test", "all"): np.arange(300)})
    words = mofa_tables.headline(variance, table.reset_index(), 2, 5)
    assert words.startswith("2 of 5 factors; r² of held-out cells, rebuilt: concepts 0.")
    assert words.endswith("no view is independent of another: channels are means of concepts")


def test_without_test_cells_there_is_nothing_to_tell():
    z = np.random.default_rng(10).normal(size=(60, 2))
    cells = cells_of(60)
    cells.obs["split"] = "train"
    table = told(z, cells).reset_index()
    assert not len(table) and list(table.columns) == list(mofa_tables.PREDICTION)
    words = mofa_tables.headline(pd.DataFrame(columns=list(mofa_tables.VARIANCE)), table, 2, 2)
    assert words.startswith("2 of 2 factors")


def test_weights_name_the_term_channel_or_stain():
    z = np.zeros((4, 2))
    views, fitted = world(z, widths=(3, 2))
    table = mofa_tables.weights_table(views, fitted.weights)
    assert list(table.columns) == list(mofa_tables.WEIGHTS) and len(table) == 2 * (3 + 2)
    row = table[(table["view"] == STAINS) & (table["factor"] == 2)].iloc[1]
    assert row["name"] == "stains 1" and row["weight"] == fitted.weights[1][1, 1]


# -- views ------------------------------------------------------------------------------------------------


@pytest.fixture
def activity(tmp_path):
    """Two sections of 60 cells with 5 concepts, of which one is generic; one cell has no tokens."""
    rng = np.random.default_rng(11)
    cells = cells_of(120, sections=2, stain_CD3=1.0, stain_PanCK=np.nan)
    cells.obs["stain_CD3"] = rng.gamma(2.0, 100, 120)
    cells.obs["stain_PanCK"] = rng.gamma(2.0, 100, 120)
    cells.obs.loc[cells.section == "s1", ["stain_CD3", "stain_PanCK"]] = np.nan
    var = pd.DataFrame(
        {
            "name": list("vwxyz"), "channel": ["c", "c", "d", "generic", "unclassified"],
            "ic": [1.0, 3.0, 2.0, 9.0, 4.0],
        },
        index=[f"t{i}" for i in range(5)],
    )  # fmt: skip
    paths = []
    for name, rows in cells.rows().items():
        obs = pd.DataFrame({"has_tokens": True}, index=cells.obs.index[rows])
        obs.iloc[-1] = name != "s0"
        adata = anndata.AnnData(rng.normal(size=(60, 5)).astype(np.float32), obs=obs, var=var)
        paths.append(tmp_path / f"{name}.h5ad")
        store.write_h5ad(paths[-1], adata)
    return paths, cells


def test_views_are_of_concepts_that_are_not_generic_their_channels_and_stains(activity):
    paths, cells = activity
    (concepts, channels, stains), present = mofa_views.read_views(paths, cells, 3)
    assert present.sum() == 119 and not present[59]
    assert concepts.columns["name"].tolist() == ["w", "x", "z"], "the most specific of four"
    assert channels.columns["name"].tolist() == ["c", "d"]
    assert stains.columns["name"].tolist() == ["CD3", "PanCK"]
    assert np.isnan(concepts.values[59]).all() and not concepts.there[59] and concepts.there.sum() == 119
    assert stains.there.sum() == 60 and stains.values[0, 0] == np.log1p(cells.obs["stain_CD3"].iloc[0])
    x = np.concatenate([store.read_h5ad(path).X for path in paths])[present].astype(float)
    mean = x[:, 0] * 0.25 + x[:, 1] * 0.75  # by information content
    assert np.corrcoef(mean, channels.values[present, 0])[0, 1] == pytest.approx(1)


def test_columns_are_centred_by_section_and_scaled_by_training_cells(activity):
    paths, cells = activity
    read, present = mofa_views.read_views(paths, cells, 3)
    sections, train, names = mofa.split(cells, present)
    found, notes = mofa_views.usable(read, train, sections)
    assert names == ["s0", "s1"] and len(train) == 80 and notes == []
    for each in found:
        mine = train[each.there[train]]
        for section in np.unique(sections[mine]):
            np.testing.assert_allclose(
                each.values[mine[sections[mine] == section]].mean(axis=0), 0, atol=1e-9
            )
        np.testing.assert_allclose(each.values[mine].std(axis=0), 1)
    test = np.flatnonzero(cells.split == "test")
    assert not np.allclose(found[0].values[test].mean(axis=0), 0, atol=1e-3), "test cells set no mean"


def test_a_section_with_few_training_cells_is_unknown_and_centred_by_all(activity):
    paths, cells = activity
    cells.obs.loc[cells.section == "s1", "split"] = "test"
    cells.obs.loc[cells.section == "s0", "split"] = "train"
    read, present = mofa_views.read_views(paths, cells, 3)
    sections, train, names = mofa.split(cells, present)
    assert names == ["s0"] and set(sections) == {0, -1} and len(train) == 59
    found, _ = mofa_views.usable(read, train, sections)
    given = read[0].values
    np.testing.assert_allclose(
        found[0].values[60:], (given[60:] - given[train].mean(axis=0)) / given[train].std(axis=0)
    )
    cells.obs["split"] = "test"
    with pytest.raises(status.Skipped, match="0 cells of training blocks have tokens, expected at least 50"):
        mofa.split(cells, present)


def test_stains_without_intensities_are_left_out_with_a_sentence(activity):
    paths, cells = activity
    cells.obs[["stain_CD3", "stain_PanCK"]] = np.nan
    read, present = mofa_views.read_views(paths, cells, 3)
    sections, train, _ = mofa.split(cells, present)
    found, notes = mofa_views.usable(read, train, sections)
    assert [each.name for each in found] == [CONCEPTS, CHANNELS]
    assert notes == ["no view of stains: the cells have none"]
    flat = View(CHANNELS, np.ones((120, 2)), read[1].columns)
    with pytest.raises(status.Skipped) as reason:
        mofa_views.usable([read[0], flat, read[2]], train, sections)
    assert str(reason.value) == (
        "1 of 3 views can be used, expected 2: no view of channels: none varies over training cells; "
        "no view of stains: the cells have none"
    )


def test_activity_of_other_cells_is_one_sentence(activity):
    paths, cells = activity
    with pytest.raises(
        InputError, match=r"s1\.h5ad: found other cells than in cells/, expected the same in order"
    ):
        mofa_views.read_views(paths[::-1], cells, 3)
    adata = store.read_h5ad(paths[1])
    store.write_h5ad(paths[1], adata[:, ::-1].copy())
    with pytest.raises(InputError, match=r"s1\.h5ad: found other concepts than in .*s0\.h5ad, expected"):
        mofa_views.read_views(paths, cells, 3)
    with pytest.raises(InputError, match=r"s0\.h5ad: found 60 cells in all, expected the 120 of cells/"):
        mofa_views.read_views(paths[:1], cells, 3)


def test_without_the_package_it_is_skipped(activity, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(status.metadata, "version", missing)
    paths, cells = activity
    result, summary = status.attempt("mofa", "mofapy2", lambda: (mofa.run(cells, paths, {}, 1), {}))
    assert result is None and summary["reason"] == (
        "the package mofapy2 is not installed; install envs/requirements-mofa.txt and name its Python in "
        "environments.mofa, or use conda"
    )


# -- report -----------------------------------------------------------------------------------------------


def test_the_report_shows_variance_and_what_is_told_of_independent_views():
    from interptfm.report.sections.systems import factors, systems

    z = np.random.default_rng(12).normal(size=(300, 2))
    views, fitted = world(z)
    variance = mofa_tables.explained(views, fitted.weights, z, {("test", "all"): np.arange(300)})
    tables = factors((variance, told(z, cells_of(300)).reset_index()))
    assert [table.name for table in tables] == ["mofa_variance", "mofa_prediction"]
    assert tables[0].frame["factor"].tolist() == ["all", "1", "2"]
    assert len(tables[1].frame) == 4 and set(tables[1].columns) <= set(tables[1].frame)
    empty = tuple(pd.DataFrame(columns=list(mofa_tables.TABLES[name])) for name in ("variance", "prediction"))
    assert factors(empty) == [] and factors(None) == []
    row = pd.DataFrame([{**dict.fromkeys(status.COLUMNS, ""), "system": "mofa", "status": "done"}])
    section = systems(SimpleNamespace(systems=row, mofa=(variance, told(z, cells_of(300)).reset_index())))
    assert len(section.tables) == 3
