"""config/legacy.yaml: each of the published notebooks' choices, and that it does what it is there to show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from test_alignment import aligned, random_firing

from interptfm import alignment
from interptfm import config as settings
from interptfm.alignment.null import best_threshold
from interptfm.alignment.selection import Search, Split
from interptfm.blocks import assign_blocks, assign_splits
from interptfm.errors import InputError


@pytest.fixture(scope="module")
def legacy(root):
    """The configuration as the workflow resolves it: the file laid over the defaults."""
    from snakemake.utils import update_config

    merged = settings.load_yaml(root / "config/config.yaml")
    update_config(merged, settings.load_yaml(root / "config/legacy.yaml"))
    return settings.resolve(merged, settings.load_yaml(root / "workflow/schemas/config.schema.yaml"))[""]


@pytest.fixture
def firing():
    rng = np.random.default_rng(7)
    return random_firing(rng, thresholds=(0, 0.2, 0.5, 0.8)), rng.random((30, 12)) < 0.3


def test_nothing_is_planted(legacy):
    assert legacy["simulate"] == {**legacy["simulate"], "enabled": True, "strength": 0}


def test_cells_are_split_at_random(legacy):
    cells = legacy["cells"]
    assert cells["blocks"]["unit"] == "cell" and cells["blocks"]["guard_um"] == 0
    rng = np.random.default_rng(0)
    blocks = assign_blocks(None, np.zeros(600), unit="cell", sample="s")
    assert len(set(blocks)) == 600
    split = pd.Series(assign_splits(blocks, cells["split"], rng, unit="cell", sample="s"))
    assert split.value_counts(normalize=True).round(1).to_dict() == cells["split"]
    # Next to each other in space is as good as anywhere: about the share that chance alone gives.
    same = (split.to_numpy()[1:] == split.to_numpy()[:-1]).mean()
    assert same == pytest.approx(sum(share**2 for share in cells["split"].values()), abs=0.06)


def test_the_threshold_is_chosen_once_more_on_test(legacy, firing):
    assert legacy["alignment"]["threshold_from"] == "test"
    counts, membership = firing
    ours, theirs = (aligned(*firing, threshold_from=name) for name in ("validation", "test"))
    assert (theirs.concepts["feature"] == ours.concepts["feature"]).all()
    assert (theirs.concepts["f1"] >= ours.concepts["f1"]).all()
    assert theirs.summary["mean_f1"] > ours.summary["mean_f1"]
    # The null is chosen in the same way, so it rises, too.
    assert theirs.summary["null_mean"] > ours.summary["null_mean"]
    members = alignment.reindex(csr_matrix(membership), counts.genes, counts.genes)
    validation, test = (Split(counts.counts[i], counts.tokens[i]) for i in (1, 2))
    column = best_threshold(test, members, Search(validation).best(members)[1])
    np.testing.assert_allclose(test.score(members, np.arange(12), column).f1, theirs.concepts["f1"])
    with pytest.raises(InputError, match="threshold_from"):
        aligned(*firing, threshold_from="train")


def test_terms_need_1500_positive_tokens(legacy, firing):
    assert legacy["alignment"]["min_positive_tokens"] == 1500
    counts, membership = firing
    tokens = membership.T @ counts.tokens.sum(axis=0)
    least = int(np.median(tokens))
    table = aligned(*firing, min_positive_tokens=least).concepts
    assert (table["f1"].notna() == (tokens >= least)).all() and 0 < table["f1"].notna().sum() < 12


def test_interpretable_is_f1_above_half_whatever_its_null(legacy, firing):
    chosen = {key: legacy["alignment"][key] for key in ("max_q", "min_lift", "min_f1")}
    assert chosen == {"max_q": 1, "min_lift": -1, "min_f1": 0.5}
    table = aligned(*firing).concepts
    chosen["min_f1"] = float(table["f1"].median())
    kept = aligned(*firing, **chosen).interpretable
    expected = table[table["f1"] > chosen["min_f1"]]
    assert set(kept["term_id"]) == set(expected["term_id"]) and len(kept) == len(expected)
    # Features fire at random here: most of what is kept is no better than its null.
    assert (kept["q"] > 0.05).mean() > 0.5
    assert len(aligned(*firing, **{**chosen, "max_q": 0.05, "min_lift": 0}).interpretable) < len(kept)


def test_the_dictionary_sees_160000_tokens_in_batches_of_32(legacy):
    (dictionary,) = legacy["dictionaries"]
    assert (dictionary["architecture"], dictionary["reconstruction"]) == ("standard", "norm")
    assert dictionary["training_tokens"] == 160_000 and dictionary["batch_tokens"] == 32
    assert dictionary["n_features"] == 8 * legacy["model"]["embsize"]


def test_raw_activations_alone_stand_beside_it(legacy):
    assert legacy["baselines"]["names"] == [] and set(legacy["arms"].values()) == {None}
    assert legacy["features"]["thresholds"] == [0, 0.15, 0.5, 0.6, 0.8] and legacy["features"]["grid"] is None
