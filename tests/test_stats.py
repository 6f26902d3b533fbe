"""Permutation p-values, their pooled form, BH and the bootstraps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from statsmodels.stats.multitest import multipletests

from interptfm import stats
from interptfm.errors import InputError


def test_permutation_p_counts_ties_and_keeps_nan():
    null = np.array([[0.1, 0.5], [0.3, 0.5], [0.2, 0.5]])
    p = stats.permutation_p(np.array([0.2, np.nan]), null)
    assert p[0] == (1 + 2) / (1 + 3)
    assert np.isnan(p[1])
    assert float(stats.permutation_p(19.5, np.arange(19.0))) == 1 / 20


@given(st.integers(20, 3000), st.integers(1, 400), st.sampled_from([0.01, 0.05, 0.2]))
def test_groups_let_one_finding_reach_the_level_or_are_one(n, permutations, level):
    groups = stats.similar_size_groups(np.arange(n) % 7, permutations, level)
    smallest = np.bincount(groups).min()
    if groups.max() > 0:
        assert n / (1 + permutations * smallest) < level
    assert groups.max() < 10


def test_groups_hold_neighbours_in_size():
    sizes = np.random.default_rng(0).integers(5, 300, 500)
    groups = stats.similar_size_groups(sizes, 200, 0.05)
    assert len(np.unique(groups)) > 3
    for low in range(groups.max()):
        assert sizes[groups == low].max() <= sizes[groups == low + 1].min()


def test_pooled_p_is_uniform_for_tests_of_different_scale():
    rng = np.random.default_rng(1)
    scale, shift = rng.uniform(0.01, 10, 400), rng.normal(size=400)
    draws = rng.gamma(3, size=(101, 400)) * scale + shift
    groups = stats.similar_size_groups(np.arange(400), 100, 0.05)
    p, p_min = stats.pooled_permutation_p(draws[0], draws[1:], groups)
    assert kstest(p, "uniform").pvalue > 0.01
    assert (p >= p_min).all()
    assert p_min.max() * 400 < 0.05


def test_pooled_p_resolves_what_own_p_cannot():
    rng = np.random.default_rng(2)
    null = rng.normal(size=(50, 100))
    observed = rng.normal(size=100)
    observed[3] = 30
    groups = np.zeros(100, int)
    q = stats.benjamini_hochberg(stats.pooled_permutation_p(observed, null, groups)[0])
    assert q[3] < 0.05
    assert stats.benjamini_hochberg(stats.permutation_p(observed, null))[3] > 0.05


def test_pooled_p_by_hand():
    null = np.array([[1.0], [2.0], [4.0]])
    # Each value against mean and sd of the other two.
    z = [(1 - 3) / np.sqrt(2), (2 - 2.5) / np.sqrt(4.5), (4 - 1.5) / np.sqrt(0.5)]
    observed = 7 / 3 + null.std(ddof=1) * (z[1] + 1e-9)
    p, p_min = stats.pooled_permutation_p(np.array([observed]), null, np.array([0]))
    assert p[0] == (1 + 1) / (1 + 3)
    assert p_min[0] == 1 / 4


def test_a_null_without_spread_is_not_pooled():
    rng = np.random.default_rng(3)
    null = np.column_stack([np.full(20, 0.25), rng.normal(size=20), np.r_[1.0, np.zeros(19)]])
    p, p_min = stats.pooled_permutation_p(np.array([0.3, 0.0, 0.5]), null, np.zeros(3, int))
    assert (p[0], p_min[0]) == (1 / 21, 1 / 21)
    assert p[2] == (1 + 1) / (1 + 20)
    assert np.isfinite(p).all()
    untestable = stats.pooled_permutation_p(np.array([np.nan] * 3), null, np.zeros(3, int))
    assert np.isnan(untestable[0]).all()


def test_too_few_permutations():
    with pytest.raises(InputError, match="at least 3"):
        stats.pooled_permutation_p(np.zeros(2), np.zeros((2, 2)), np.zeros(2, int))


def test_bh_equals_statsmodels_and_skips_nan():
    p = np.random.default_rng(4).random(50) ** 3
    expected = multipletests(p, method="fdr_bh")[1]
    np.testing.assert_allclose(stats.benjamini_hochberg(p), expected)
    holes = np.insert(p, [5, 20], np.nan)
    np.testing.assert_allclose(np.delete(stats.benjamini_hochberg(holes), [5, 21]), expected)
    assert np.isnan(stats.benjamini_hochberg(np.array([np.nan]))).all()


@pytest.mark.parametrize("n, rows", [(5, 40), (5, 3), (1, 4), (3, 0), (0, 0)])
def test_members_are_the_rows_of_each_group_in_order(n, rows):
    group = np.random.default_rng(n).integers(0, max(n, 1), rows)
    found = stats.members(group, n)
    assert len(found) == n
    for k in range(n):
        assert found[k].tolist() == np.flatnonzero(group == k).tolist()


def test_block_bootstrap_sees_the_blocks():
    rng = np.random.default_rng(5)
    blocks = np.repeat(np.arange(30), 40)
    values = rng.normal(size=30)[blocks] + 0.1 * rng.normal(size=1200)

    def mean(weights):
        return np.average(values, weights=weights)

    lo, hi = stats.block_bootstrap(blocks, mean, 500, np.random.default_rng(6))
    naive = 2 * 1.96 * values.std() / np.sqrt(1200)
    assert lo < values.mean() < hi
    assert hi - lo > 3 * naive
    again = stats.block_bootstrap(blocks, mean, 500, np.random.default_rng(6))
    assert (lo, hi) == again
    with pytest.raises(InputError, match="at least 2"):
        stats.block_bootstrap(np.zeros(4), mean, 10, rng)


def test_paired_bootstrap_covers_at_its_level():
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        a = rng.normal(0.3, 1, 60)
        found = stats.paired_bootstrap(a, np.zeros(60), 400, rng)
        covered += found["lo"] < 0.3 < found["hi"]
    assert 0.88 < covered / 200 < 0.99


def test_paired_bootstrap_drops_incomplete_pairs():
    rng = np.random.default_rng(8)
    found = stats.paired_bootstrap([1.0, 2.0, np.nan], [0.0, 1.0, 5.0], 50, rng)
    assert found == {"n": 2, "difference": 1.0, "lo": 1.0, "hi": 1.0}
    with pytest.raises(InputError, match="the same"):
        stats.paired_bootstrap([1.0], [1.0, 2.0], 50, rng)
    with pytest.raises(InputError, match="complete pairs"):
        stats.paired_bootstrap([1.0], [1.0], 50, rng)


def test_q_of_a_member_is_its_own_and_between_members_it_is_monotone():
    rng = np.random.default_rng(3)
    family = np.append(rng.beta(0.3, 2, 40), np.nan)
    np.testing.assert_allclose(stats.q_among(family, family), stats.benjamini_hochberg(family))
    grid = np.linspace(0.0005, 1, 400)
    assert (np.diff(stats.q_among(grid, family)) >= -1e-12).all()
    # One level above the family's smallest p: as if the family's second had stood there.
    assert stats.q_among(np.array([0.02, np.nan]), np.array([0.01, 0.04]))[0] == pytest.approx(0.04)
    assert np.isnan(stats.q_among(np.array([0.5]), np.array([np.nan])))


def test_several_values_of_one_test_share_its_null():
    rng = np.random.default_rng(4)
    null, groups = rng.normal(size=(50, 6)), np.array([0, 0, 0, 1, 1, -1])
    observed = rng.normal(1, 1, 6)
    alone, least = stats.pooled_permutation_p(observed, null, groups)
    test = np.array([3, 0, 0, 5, 2])
    p, p_min = stats.pooled_permutation_p(np.append(observed[test[:4]], np.nan), null, groups, test)
    np.testing.assert_array_equal(p[:4], alone[test[:4]])
    np.testing.assert_array_equal(p_min[:4], least[test[:4]])
    assert np.isnan(p[4]) and alone[5] == stats.permutation_p(observed, null)[5]
