"""Stability over seeds, absorption along the ontology, and dictionaries that others trained."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from test_sae import atoms, one_thread, planted, write_activations

from interptfm import store
from interptfm.dictionary_quality import absorption, stability
from interptfm.errors import InputError
from interptfm.sae import format as sae_format
from interptfm.sae import importing, metrics, stage
from interptfm.sae.inference import Dictionary

__all__ = ["one_thread"]

D, N = 16, 24


def dictionary(rows, bias=-0.2):
    rows = np.ascontiguousarray(rows, np.float32)
    weights = {
        "W_enc": np.ascontiguousarray(rows.T),
        "W_dec": rows,
        "b_enc": np.full(len(rows), bias, np.float32),
        "b_dec": np.zeros(rows.shape[1], np.float32),
    }
    return Dictionary("standard", weights)


def test_matching_is_one_to_one_and_of_largest_sum():
    similarity = np.array([[0.9, 0.8, 0.0], [0.85, 0.1, 0.0], [0.0, 0.0, 0.3]])
    partner, value = stability.matched(similarity)
    # Greedily row 0 would take column 0 and leave 0.1 to row 1.
    assert partner.tolist() == [1, 0, 2] and value.tolist() == [0.8, 0.85, 0.3]


def test_stability_finds_the_features_that_come_back():
    rng = np.random.default_rng(0)
    rows = atoms(N, D, rng)
    order = rng.permutation(N)
    second = rows[order].copy()
    third = rows.copy()
    third[:6] = atoms(6, D, rng)  # six features are lost in the third seed
    x = planted(2000, rows, rng) - 0.5
    frame, summary = stability.stability(
        dictionary(rows), [dictionary(second), dictionary(third)], [x[:1200], x[1200:]], rng
    )
    assert frame["feature"].tolist() == list(range(N)) and frame["stable"].tolist()[6:] == [True] * 18
    assert frame["stable"][:6].sum() <= 2
    assert frame["decoder_cosine"][6:].to_numpy() == pytest.approx(np.ones(18), abs=1e-5)
    assert frame["firing_cosine_min"][6:].min() > 0.7 > frame["firing_cosine_min"][:6].median()
    assert summary["seeds"] == 3 and summary["stable"] == pytest.approx(frame["stable"].mean())
    assert summary["decoder"]["above"] > 0.8 > 0.3 > summary["chance"]["above"]
    assert 0 < summary["chance"]["mean"] < summary["decoder"]["mean"]


def test_firing_similarity_is_the_cosine_over_all_blocks():
    rng = np.random.default_rng(1)
    rows, other = atoms(N, D, rng), atoms(N, D, rng)
    x = planted(300, rows, rng)
    (found,) = stability.firing_similarity(dictionary(rows), [dictionary(other)], [x[:100], x[100:]])
    a, b = (dictionary(each).encode(x).numpy().astype(float) for each in (rows, other))
    expected = a.T @ b / np.maximum(np.outer(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0)), 1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_stability_needs_three_seeds_of_one_shape():
    rng = np.random.default_rng(0)
    first, small = dictionary(atoms(N, D, rng)), dictionary(atoms(N - 1, D, rng))
    with pytest.raises(InputError, match="found 2 seeds, expected at least 3"):
        stability.stability(first, [first], [], rng)
    with pytest.raises(InputError, match="found a dictionary of 23 × 16, expected 24 × 16"):
        stability.stability(first, [first, small], [], rng)


def test_absorption_counts_silent_parents():
    dag = pd.DataFrame(
        {"child": ["b", "c", "d", "b"], "parent": ["a", "a", "a", "z"], "relation": ["is_a"] * 4}
    )
    interpretable = pd.DataFrame(
        {"feature": [0, 1, 9, 2, 0], "term_id": ["a", "b", "b", "c", "d"], "f1": [0.9, 0.8, 0.1, 0.7, 0.6]}
    )
    terms = pd.DataFrame({"term_id": list("abcd"), "name": ["A", "B", "C", "D"]})
    pairs = absorption.pairs_of(dag, interpretable, terms)
    # d shares its parent's feature and z has none; b is detected by its best feature.
    assert pairs[["child", "parent", "child_feature", "parent_feature"]].values.tolist() == [
        ["b", "a", 1, 0],
        ["c", "a", 2, 0],
    ]
    assert pairs["child_name"].tolist() == ["B", "C"] and pairs["parent_name"].tolist() == ["A", "A"]
    rng = np.random.default_rng(0)
    gene = rng.integers(0, 6, 5000)
    fires = np.zeros((5000, 10), np.float32)
    genes = np.zeros((2, 6), bool)
    genes[0, :3] = genes[1, 2:5] = True
    fires[:, 1] = genes[0, gene] & (rng.random(5000) < 0.5)
    fires[:, 2] = genes[1, gene] & (rng.random(5000) < 0.5)
    parent = rng.random(5000) < 0.9
    fires[:, 0] = parent & ~((fires[:, 1] > 0) & (rng.random(5000) < 0.8))  # b absorbs, c does not
    blocks = [(gene[i : i + 1000], csr_matrix(fires[i : i + 1000])) for i in range(0, 5000, 1000)]
    found = absorption.absorption(pairs, genes, blocks)
    inside = genes[0, gene]
    assert found["tokens"][0] == inside.sum()
    assert found["child_fires"][0] == (inside & (fires[:, 1] > 0)).sum()
    assert found["parent_silent"][0] == (inside & (fires[:, 1] > 0) & (fires[:, 0] == 0)).sum()
    elsewhere = inside & (fires[:, 1] == 0)
    assert found["silent_rate_elsewhere"][0] == pytest.approx((fires[elsewhere, 0] == 0).mean())
    assert found["excess"][0] > 0.6 and abs(found["excess"][1]) < 0.1


def test_absorption_without_a_graph_has_no_rows():
    dag = pd.DataFrame({"child": [], "parent": [], "relation": []}, dtype=object)
    interpretable = pd.DataFrame({"feature": [0], "term_id": ["a"], "f1": [0.5]})
    terms = pd.DataFrame({"term_id": ["a"], "name": ["A"]})
    pairs = absorption.pairs_of(dag, interpretable, terms)
    found = absorption.absorption(pairs, np.zeros((0, 3), bool), ())
    assert len(found) == 0 and tuple(found) == absorption.COLUMNS


def learning_folder(folder, name, state, **trainer):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, **trainer}}))
    torch.save(state, folder / "ae.pt")
    return folder


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return normal


@pytest.fixture
def x(tensors):
    return tensors(100, D)


def test_dictionary_learning_batchtopk(tmp_path, tensors, x):
    state = {
        "encoder.weight": tensors(N, D), "encoder.bias": tensors(N), "decoder.weight": tensors(D, N),
        "b_dec": tensors(D), "k": torch.tensor(3), "threshold": torch.tensor(1.5),
    }  # fmt: skip
    found = importing.load_folder(learning_folder(tmp_path / "f", "BatchTopKSAE", state, k=3))
    pre = torch.relu((x - state["b_dec"]) @ state["encoder.weight"].T + state["encoder.bias"])
    code = pre * (pre > 1.5)
    assert found.kind == "jumprelu" and 0 < (code > 0).float().mean() < 1
    torch.testing.assert_close(found.encode(x), code, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found.decode(found.encode(x)), code @ state["decoder.weight"].T + state["b_dec"], rtol=1e-4, atol=1e-4
    )
    state["threshold"] = torch.tensor(-1.0)  # never tracked
    found = importing.load_folder(learning_folder(tmp_path / "f", "BatchTopKSAE", state, k=3))
    torch.testing.assert_close(found.encode(x), pre, rtol=1e-5, atol=1e-5)


def test_dictionary_learning_kinds_that_see_uncentred_activations(tmp_path, tensors, x):
    state = {
        "W_enc": tensors(D, N), "b_enc": tensors(N), "W_dec": tensors(N, D), "b_dec": tensors(D),
        "threshold": tensors(N).abs(),
    }  # fmt: skip
    found = importing.load_folder(learning_folder(tmp_path / "j", "JumpReluAutoEncoder", state))
    pre = x @ state["W_enc"] + state["b_enc"]
    code = torch.relu(pre * (pre > state["threshold"]))
    torch.testing.assert_close(found.encode(x), code, rtol=1e-4, atol=1e-4)
    new = {
        "encoder.weight": tensors(N, D), "encoder.bias": tensors(N),
        "decoder.weight": tensors(D, N), "decoder.bias": tensors(D),
    }  # fmt: skip
    found = importing.load_folder(learning_folder(tmp_path / "n", "AutoEncoderNew", new))
    code = torch.relu(x @ new["encoder.weight"].T + new["encoder.bias"])
    torch.testing.assert_close(found.encode(x), code, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        found.decode(code), code @ new["decoder.weight"].T + new["decoder.bias"], rtol=1e-4, atol=1e-4
    )


def test_dictionary_learning_gated_and_topk(tmp_path, tensors, x):
    state = {
        "encoder.weight": tensors(N, D), "decoder.weight": tensors(D, N), "decoder_bias": tensors(D),
        "r_mag": 0.3 * tensors(N), "gate_bias": tensors(N), "mag_bias": tensors(N),
    }  # fmt: skip
    found = importing.load_folder(learning_folder(tmp_path / "g", "GatedAutoEncoder", state))
    shared = (x - state["decoder_bias"]) @ state["encoder.weight"].T
    code = (shared + state["gate_bias"] > 0) * torch.relu(shared * state["r_mag"].exp() + state["mag_bias"])
    torch.testing.assert_close(found.encode(x), code, rtol=1e-4, atol=1e-4)
    top = {
        "encoder.weight": tensors(N, D), "encoder.bias": tensors(N), "decoder.weight": tensors(D, N),
        "b_dec": tensors(D), "k": torch.tensor(4), "threshold": torch.tensor(-1.0),
    }  # fmt: skip
    found = importing.load_folder(learning_folder(tmp_path / "t", "AutoEncoderTopK", top, k=4))
    assert found.kind == "topk" and ((found.encode(x) > 0).sum(1) <= 4).all()


@pytest.mark.parametrize("kind", ["standard", "gated", "topk"])
def test_saelens_folders_with_options_that_we_do_not_write(tmp_path, tensors, x, kind):
    """No centring of the input, bfloat16, and TopK that ranks by activation × decoder norm."""
    from safetensors.torch import save_file

    names = {"gated": ("b_gate", "b_mag", "r_mag")}.get(kind, ("b_enc",))
    state = {"W_enc": tensors(D, N), "W_dec": tensors(N, D), "b_dec": tensors(D)}
    state |= {name: 0.3 * tensors(N) for name in names}
    state = {name: value.bfloat16().float() for name, value in state.items()}
    save_file({n: v.bfloat16() for n, v in state.items()}, tmp_path / "sae_weights.safetensors")
    config = {
        "architecture": kind, "d_in": D, "d_sae": N, "dtype": "bfloat16", "apply_b_dec_to_input": False,
        "k": 4, "rescale_acts_by_decoder_norm": kind == "topk",
    }  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    found = importing.load_folder(tmp_path)
    pre = x @ state["W_enc"]
    if kind == "gated":
        code = (pre + state["b_gate"] > 0) * torch.relu(pre * state["r_mag"].exp() + state["b_mag"])
    else:
        code = torch.relu(pre + state["b_enc"])
    reconstruction = code @ state["W_dec"] + state["b_dec"]
    if kind == "topk":
        norm = state["W_dec"].norm(dim=1)
        code = code * norm
        code = code * (code >= code.topk(4, dim=1).values[:, -1:])
        reconstruction = (code / norm) @ state["W_dec"] + state["b_dec"]
    torch.testing.assert_close(found.encode(x), code, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.decode(found.encode(x)), reconstruction, rtol=1e-4, atol=1e-4)


def test_bad_folders_are_one_sentence(tmp_path, tensors):
    def expect(message, folder):
        with pytest.raises(InputError, match=message) as caught:
            importing.load_folder(folder)
        assert "\n" not in str(caught.value)

    expect(r"found neither cfg\.json nor config\.json", tmp_path)
    state = {"encoder.weight": tensors(N, D)}
    folder = learning_folder(tmp_path / "f", "VariationalAutoEncoder", state)
    expect("found dict_class 'VariationalAutoEncoder', expected one of AutoEncoder", folder)
    expect(
        "found no tensor .*, expected those of BatchTopKSAE", learning_folder(folder, "BatchTopKSAE", state)
    )
    (folder / "ae.pt").write_bytes(b"nothing")
    expect(r"ae\.pt: found a damaged file", folder)
    (folder / "ae.pt").unlink()
    expect(r"ae\.pt: not found", folder)
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "temporal"}))
    expect("found architecture 'temporal', expected one of standard", tmp_path)
    normal = {"architecture": "standard", "normalize_activations": "layer_norm"}
    (tmp_path / "cfg.json").write_text(json.dumps(normal))
    expect("found normalize_activations 'layer_norm', expected 'none'", tmp_path)


def test_the_stage_measures_an_imported_dictionary(tmp_path):
    import anndata

    rng = np.random.default_rng(0)
    rows = atoms(N, D, rng)
    x = planted(3000, rows, rng)
    path = write_activations(tmp_path / "0.zarr.zip", x, np.repeat(np.arange(100), 30))
    splits = np.array(["train"] * 60 + ["validation"] * 20 + ["test"] * 20)
    obs = pd.DataFrame({"split": splits}, index=[f"a:{i}" for i in range(100)])
    store.write_h5ad(tmp_path / "a.h5ad", anndata.AnnData(np.zeros((100, 1), np.float32), obs=obs))
    mine = dictionary(rows)
    folder = tmp_path / "layer_0"
    sae_format.save(folder / "cfg.json", folder / "sae_weights.safetensors", mine)
    settings = {
        "name": "x",
        "architecture": "imported",
        "tokens": "gene",
        "path": f"{tmp_path}/layer_{{layer}}",
    }
    result = stage.run([tmp_path / "a.h5ad"], [path], 0, settings, rng, 0)
    assert result.metrics["test"] == metrics.quality(mine, [x[2400:]])
    assert len(result.history) == 0 and result.dictionary.metadata["layer"] == 0
    out = [tmp_path / n for n in ("cfg.json", "w.safetensors", "h.parquet", "s.parquet", "m.json")]
    stage.write(*out, result, {})
    narrow = dictionary(atoms(N, D - 1, rng))
    sae_format.save(folder / "cfg.json", folder / "sae_weights.safetensors", narrow)
    with pytest.raises(InputError, match="found a dictionary of width 15, expected 16"):
        stage.run([tmp_path / "a.h5ad"], [path], 0, settings, rng, 0)
