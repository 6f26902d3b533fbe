"""Simulated worlds in which nothing communicates: how many pairs each null calls communication anyway."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from crosstalk_worlds import SETTINGS, design, section, world

from interptfm import job, stats
from interptfm.crosstalk import nulls, reading

pytestmark = pytest.mark.soak

WORLDS = 24
CELLS = 1200
PERMUTATIONS = 99


def table_of(part, seed):
    """Return the tests of a section under all nulls."""
    types, names = reading.labels(part.obs["cell_type"])
    graph = reading.section_graph(part, SETTINGS["graph"])
    tissue = nulls.Tissue(
        part.values, types, names, part.fov, part.block, part.depth, part.spatial, graph.matrix()
    )
    table, _, _ = nulls.test_pairs(
        tissue, permutations=PERMUTATIONS, match_um=50, shortest_um=50, min_edges=50, max_r=0.5,
        draws=lambda name: job.generator(seed, "calibration", name),
    )  # fmt: skip
    return table


@pytest.fixture(scope="module")
def shares():
    """Return share of pairs at p < 0.05 by world, activities and null, and findings at q < 0.05."""
    planted, rows = design(), []
    for seed in range(1000, 1000 + WORLDS):
        _, made = world(seed, CELLS, False, fovs=2, planted=planted)
        for truth in (False, True):
            table = table_of(section(made, "s1", planted, truth=truth), seed)
            found = int((stats.benjamini_hochberg(table["p"].to_numpy()) < 0.05).sum())
            row = {
                "seed": seed,
                "activities": "planted" if truth else "genes",
                "found": found,
                "n": len(table),
            }
            rows.append(row | dict(nulls.rates(table)))
    return pd.DataFrame(rows)


@pytest.mark.parametrize("activities", ["genes", "planted"])
def test_the_default_null_calls_nothing_communication(shares, activities):
    mine = shares[shares["activities"] == activities]
    means = mine[["shift", "profiles", "uncentred", "labels"]].mean()
    assert len(mine) >= 20 and mine["n"].min() > 200
    assert means["shift"] <= 0.06, means.to_dict()
    # Beside it, what the two usual nulls say of the same worlds.
    assert means["uncentred"] > 0.1 and means["labels"] > 0.1, means.to_dict()
    assert (mine["found"] > 0).mean() <= 0.25, mine["found"].tolist()
    assert np.isfinite(means).all()
