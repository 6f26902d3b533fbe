"""Shards and batches are how a run is done, not what it finds: activations to rounding, F1 counts equal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interptfm import activations, alignment, blocks, features, store

LAYER = 1
WAYS = [(1, 16384), (3, 16384), (1, 4096), (4, 900)]  # shards, batch_tokens
ENTRIES = 1e-5  # share of counts that may differ, by one, where states are rounded on their way to disk


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(project, tmp_path_factory, one_thread):
    """A function: states, firing counts and maxima of a way of extraction, of neurons and the dictionary."""
    results, folder = project / "results/tiny", tmp_path_factory.mktemp("ways")
    model = activations.load_model(results / "model")
    cells = {name: store.read_h5ad(results / f"cells/{name}.h5ad") for name in ("section_1", "section_2")}
    genes, samples = features.samples_of(cells.values())
    sources = {"neurons": None, "batchtopk": results / f"dictionaries/batchtopk/layer_{LAYER}"}

    def make(shards, batch_tokens, dtype, mantissa_bits):
        paths = []
        for sample, adata in cells.items():
            shard = blocks.assign_shards(adata.n_obs, shards, sample)
            for i in range(shards):
                paths.append(folder / f"{sample}_{shards}_{batch_tokens}_{dtype}_{i}.zarr.zip")
                activations.write_shard(
                    paths[-1], model, adata.X, list(adata.var_names), list(adata.obs_names), shard == i,
                    [LAYER], dtype=dtype, mantissa_bits=mantissa_bits, batch_tokens=batch_tokens, seed=1,
                    attributes={"sample": sample, "shard": i},
                )  # fmt: skip
        states = []
        for path in paths:
            with store.open_activations(path) as opened:
                states.append(opened.rows(LAYER, 0, opened.n_tokens))
        found = {
            name: features.extract(
                paths, samples, genes, features.representation_of(name, paths, source), LAYER
            )
            for name, source in sources.items()
        }
        return np.concatenate(states), found

    return make


def f1_counts(project, firing):
    """True positives and fired tokens of every pair that F1 is made of, on validation and test."""
    members = alignment.reindex(
        alignment.read_membership(project / "results/tiny/concepts/membership.npz"),
        store.read_table(project / "results/tiny/concepts/genes.tsv")["gene"].tolist(),
        firing.genes,
    )
    fired = firing.counts.reshape(len(firing.counts), len(firing.genes), -1)  # splits × genes × columns
    return [(alignment.true_positives(members, fired[split]), fired[split].sum(axis=0)) for split in (1, 2)]


def test_full_precision_gives_equal_counts(project, made):
    reference, expected = made(*WAYS[0], "float32", None)
    for way in WAYS[1:]:
        states, found = made(*way, "float32", None)
        np.testing.assert_allclose(states, reference, atol=5e-6)
        for name, one in found.items():
            np.testing.assert_array_equal(one.firing.counts, expected[name].firing.counts)
            np.testing.assert_array_equal(one.firing.tokens, expected[name].firing.tokens)
            np.testing.assert_allclose(one.maximum, expected[name].maximum, rtol=1e-5)
            both = zip(f1_counts(project, one.firing), f1_counts(project, expected[name].firing), strict=True)
            for (positives, fired), (wanted, wanted_fired) in both:
                assert wanted.sum() > 1000
                np.testing.assert_array_equal(positives, wanted)
                np.testing.assert_array_equal(fired, wanted_fired)


def test_rounded_states_are_equal_but_for_ties_of_the_rounding(made):
    """Six bits of mantissa swallow the last bits of sums, but at the border of two roundings."""
    reference, expected = made(*WAYS[0], "float16", 6)
    for way in WAYS[1:]:
        states, found = made(*way, "float16", 6)
        differing = states != reference
        assert differing.mean() < 1e-4
        np.testing.assert_allclose(states[differing], reference[differing], rtol=2**-6, atol=1e-5)
        for name, one in found.items():
            change = one.firing.counts - expected[name].firing.counts.astype(int)
            assert np.abs(change).max() <= 1 and (change != 0).mean() <= ENTRIES
