"""Our scGPT against the `scgpt` package's own TransformerModel, vocabulary, collator and binning."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import scgpt_oracle as oracle
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import nn

from interptfm.scgpt import checkpoint, tokenizer
from interptfm.scgpt import model as scgpt

pytestmark = pytest.mark.skipif(bool(oracle.absent()), reason=str(oracle.absent()))

CONFIG = scgpt.ModelConfig(embsize=32, nheads=4, d_hid=48, nlayers=3)
GENES = [f"GENE{number}" for number in range(60)]
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def counts():
    """(24 cells x 70 genes), the last ten outside the vocabulary, 1 to 60 detected genes a cell."""
    rng = np.random.default_rng(5)
    dense = rng.negative_binomial(0.4, 0.08, size=(24, 70)).astype(np.float32)
    dense[:, :60] *= rng.random((24, 60)) < np.linspace(0.1, 1, 24)[:, None]
    dense[0], dense[1] = 0, 0
    dense[0, 3] = 4
    dense[1, 5:20] = 2
    return sparse.csr_matrix(dense)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An official-style checkpoint folder (flash-attention keys, bare vocabulary), and the model."""
    folder = tmp_path_factory.mktemp("official")
    (folder / "vocab.json").write_text(json.dumps({gene: n for n, gene in enumerate(reversed(GENES))}))
    arguments = CONFIG.to_dict() | {"lr": 1e-4, "training_tasks": "both", "mask_ratio": [0.25, 0.5]}
    (folder / "args.json").write_text(json.dumps(arguments))
    network = oracle.model(CONFIG, len(GENES) + 3, len(GENES), seed=1)
    weights = network.state_dict() | {"flag_encoder.weight": torch.ones(2, CONFIG.embsize)}
    torch.save(
        {key.replace("in_proj_", "Wqkv."): value for key, value in weights.items()},
        folder / "best_model.pt",
    )
    return folder, network


def ours(model, counts, vocabulary, mode="binned", pad_value=-2):
    """Tokens, and the model's outputs by name, packed."""
    names = [f"cell {number}" for number in range(counts.shape[0])]
    ids = vocabulary.ids(GENES + [f"other {number}" for number in range(10)])
    tokens = tokenizer.tokenize(counts, ids, vocabulary, mode=mode, cell_names=names, pad_value=pad_value)
    genes, values, lengths = map(torch.from_numpy, (tokens.genes, tokens.values, tokens.lengths))
    with torch.inference_mode():
        hidden = model(genes, values, lengths)
        outputs = {f"layer_{layer}": states for layer, states in hidden.states.items()}
        outputs["expression"] = model.expression(hidden.last)
        outputs["mvc"] = model.mvc(hidden.last[scgpt.cls_rows(lengths)], genes, lengths)
    return tokens, outputs


def theirs(network, counts, folder, binned=True):
    """Token ids and values (packed) and outputs (packed) of the scgpt package."""
    vocab = oracle.vocabulary(folder / "vocab.json")
    gene_ids = np.array(vocab(GENES))
    genes, values, padding = oracle.tokens(counts[:, :60].toarray(), gene_ids, vocab)
    if not binned:
        raw = counts[:, :60].toarray()
        for cell, row in enumerate(raw):
            positive = row[row > 0]
            values[cell, 1 : 1 + len(positive)] = torch.from_numpy(positive)
    result = oracle.outputs(network, genes, values, padding)
    real = ~padding
    return genes[real], values[real], {name: states[real] for name, states in result.items()}


@pytest.fixture(scope="module")
def reference(folder, counts):
    """Token ids, values and outputs of the scgpt package for the binned cells."""
    path, network = folder
    return theirs(network, counts, path)


def assert_tokens(tokens, genes, values):
    np.testing.assert_array_equal(tokens.genes, genes.numpy())
    np.testing.assert_array_equal(tokens.values, values.numpy())


def assert_outputs(found, expected):
    assert found.keys() == expected.keys()
    for name, states in expected.items():
        difference = (found[name] - states).abs().max().item()
        assert difference < TOLERANCE, f"{name} differs by {difference:.2e}"


def test_every_layer_and_both_decoders_agree(folder, counts, reference):
    path, _ = folder
    model, vocabulary, config, report = checkpoint.load(path)
    assert config == CONFIG
    assert len(report.matched) == len(model.state_dict()) and not report.missing
    assert report.renamed == 2 * CONFIG.nlayers
    assert report.ignored and all(key.startswith("cls_decoder.") for key in report.ignored)
    genes, values, expected = reference
    tokens, found = ours(model, counts, vocabulary)
    assert_tokens(tokens, genes, values)
    assert len(set(tokens.lengths.tolist())) > 10
    assert_outputs(found, expected)


def test_raw_values_agree_and_are_clamped_at_512(folder, counts):
    path, network = folder
    model, vocabulary, *_ = checkpoint.load(path)
    large = counts.copy()
    large.data[::7] *= 400
    assert large.data.max() > 2 * scgpt.MAX_VALUE
    _, values, expected = theirs(network, large, path, binned=False)
    tokens, found = ours(model, large, vocabulary, mode="raw")
    np.testing.assert_array_equal(tokens.values, values.numpy())
    assert_outputs(found, expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_fused_path_of_the_package_gives_the_same_last_layer(folder, counts):
    path, network = folder
    model, vocabulary, *_ = checkpoint.load(path)
    vocab = oracle.vocabulary(path / "vocab.json")
    genes, values, padding = oracle.tokens(counts[:, :60].toarray(), np.array(vocab(GENES)), vocab)
    with torch.no_grad():
        last = network._encode(genes, values, padding)
    _, found = ours(model, counts, vocabulary)
    assert (found["layer_2"] - last[~padding]).abs().max() < TOLERANCE


def test_both_key_styles_load_to_the_same_model(folder, counts, tmp_path):
    path, network = folder
    flash, *_ = checkpoint.load(path)
    for name in ("args.json", "vocab.json"):
        (tmp_path / name).write_bytes((path / name).read_bytes())
    weights = network.state_dict() | {"flag_encoder.weight": torch.ones(2, CONFIG.embsize)}
    torch.save({f"module.{key}": value for key, value in weights.items()}, tmp_path / "best_model.pt")
    plain, _, _, report = checkpoint.load(tmp_path)
    assert report.renamed == 0
    for (key, value), other in zip(flash.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(value, other), key


@pytest.mark.parametrize("where", ["value_encoder", "attention", "dropout", "dropout1", "dropout2"])
def test_dropout_sits_where_the_package_has_it(where, folder, counts):
    """In training mode, dropping everything at one place must change both models alike."""
    path, network = folder
    model, vocabulary, *_ = checkpoint.load(path)
    network = copy.deepcopy(network)
    for each in (model, network):
        each.train()
        each.value_encoder.dropout.p = float(where == "value_encoder")
        for layer in each.transformer_encoder.layers:
            layer.self_attn.dropout = float(where == "attention")
            for name in ("dropout", "dropout1", "dropout2"):
                getattr(layer, name).p = float(where == name)
    _, _, expected = theirs(network, counts, path)
    _, found = ours(model, counts, vocabulary)
    assert_outputs(found, expected)
    _, kept = ours(model.eval(), counts, vocabulary)
    with pytest.raises(AssertionError, match="differs by"):
        assert_outputs(kept, expected)


def test_vocabulary_appends_special_tokens_as_the_package_does(folder):
    path, _ = folder
    vocabulary = tokenizer.Vocabulary.from_json(path / "vocab.json")
    vocab = oracle.vocabulary(path / "vocab.json")
    assert vocabulary.tokens == tuple(vocab.vocab)
    assert (vocabulary.pad_id, vocabulary.cls_id) == (vocab["<pad>"], vocab["<cls>"])


@pytest.mark.real
@pytest.mark.parametrize("name", ["scgpt_vocab.json", "scgpt_census_vocab.json"])
def test_published_vocabularies_agree(real_data, name):
    vocabulary = tokenizer.Vocabulary.from_json(real_data / name)
    content = json.loads((real_data / name).read_text())
    assert vocabulary.tokens[-3:] == ("<pad>", "<cls>", "<eoc>")
    assert len(vocabulary) == len(content) + 3
    np.testing.assert_array_equal(vocabulary.ids(content), list(content.values()))


@pytest.mark.parametrize("side", ["one", "both"])
def test_bins_agree_with_the_package(side, monkeypatch):
    rng = np.random.default_rng(2)
    for number in range(300):
        n = int(rng.integers(1, 250))
        row = rng.negative_binomial(0.5, 0.2, size=n).astype(np.float32)
        row[rng.integers(n)] = 3
        if number % 3 == 0:
            row = np.log1p(row)
        draws = rng.random(int(np.count_nonzero(row)))
        monkeypatch.setattr(np.random, "rand", lambda size, draws=draws: draws)
        with oracle.digitize_side(side) as preprocess:
            expected = preprocess.binning(row, n_bins=51)
        found = tokenizer.bin_values(
            row,
            ties={"one": "lowest", "both": "random"}[side],
            rng=type("Draws", (), {"random": lambda self, size, draws=draws: draws})(),
        )
        np.testing.assert_array_equal(found, expected)


# Each deliberate mistake must break the comparison, or the comparison proves nothing.


def pre_norm(model, monkeypatch):
    def forward(self, states, plan):
        states = states + self.self_attn(self.norm1(states), plan)
        return states + self.linear2(F.relu(self.linear1(self.norm2(states))))

    monkeypatch.setattr(scgpt.EncoderLayer, "forward", forward)


def gelu(model, monkeypatch):
    def forward(self, states, plan):
        states = self.norm1(states + self.self_attn(states, plan))
        return self.norm2(states + self.linear2(F.gelu(self.linear1(states))))

    monkeypatch.setattr(scgpt.EncoderLayer, "forward", forward)


def no_enc_norm(model, monkeypatch):
    model.encoder.enc_norm = nn.Identity()


def mask_inverted(model, monkeypatch):
    original = scgpt.plan_attention

    def inverted(lengths):
        plan = original(lengths)
        groups = [g if g.keep is None else g._replace(keep=~g.keep) for g in plan.groups]
        return plan._replace(groups=groups)

    monkeypatch.setattr(scgpt, "plan_attention", inverted)


def no_mask(model, monkeypatch):
    original = scgpt.plan_attention

    def unmasked(lengths):
        plan = original(lengths)
        return plan._replace(groups=[g._replace(keep=None) for g in plan.groups])

    monkeypatch.setattr(scgpt, "plan_attention", unmasked)


def projections_out_of_order(model, monkeypatch):
    d = model.config.embsize
    for layer in model.transformer_encoder.layers:
        for parameter in (layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias):
            parameter.data = parameter.data.roll(d, 0)


def query_and_key_swapped(model, monkeypatch):
    for layer in model.transformer_encoder.layers:
        for parameter in (layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias):
            query, key, value = parameter.data.chunk(3)
            parameter.data = torch.cat([key, query, value])


def norms_swapped(model, monkeypatch):
    for layer in model.transformer_encoder.layers:
        layer.norm1, layer.norm2 = layer.norm2, layer.norm1


def plain_relu_in_decoder(model, monkeypatch):
    model.decoder.fc[1] = nn.ReLU()


def no_sigmoid_in_mvc(model, monkeypatch):
    monkeypatch.setattr(
        scgpt.MVCDecoder, "forward", lambda self, embeddings: self.W(self.gene2query(embeddings))
    )


def heads_interleaved(model, monkeypatch):
    for layer in model.transformer_encoder.layers:
        weight = layer.self_attn.in_proj_weight
        n, d = model.config.nheads, model.config.embsize
        weight.data = weight.data.view(3, n, d // n, d).transpose(1, 2).reshape(3 * d, d)


@pytest.mark.parametrize(
    "mistake",
    [
        pre_norm,
        gelu,
        no_enc_norm,
        mask_inverted,
        no_mask,
        projections_out_of_order,
        query_and_key_swapped,
        norms_swapped,
        plain_relu_in_decoder,
        no_sigmoid_in_mvc,
        heads_interleaved,
    ],
)
def test_a_wrong_model_is_noticed(mistake, folder, counts, reference, monkeypatch):
    path, _ = folder
    genes, values, expected = reference
    model, vocabulary, *_ = checkpoint.load(path)
    mistake(model, monkeypatch)
    tokens, found = ours(model, counts, vocabulary)
    assert_tokens(tokens, genes, values)
    with pytest.raises(AssertionError, match="differs by"):
        assert_outputs(found, expected)


def test_a_value_left_unclamped_is_noticed(folder, counts, monkeypatch):
    path, network = folder
    large = counts.copy()
    large.data[::7] *= 400
    _, _, expected = theirs(network, large, path, binned=False)
    model, vocabulary, *_ = checkpoint.load(path)
    monkeypatch.setattr(scgpt, "MAX_VALUE", float("inf"))
    _, found = ours(model, large, vocabulary, mode="raw")
    with pytest.raises(AssertionError, match="differs by"):
        assert_outputs(found, expected)


def test_cls_with_value_zero_is_noticed(folder, counts, reference):
    path, _ = folder
    genes, values, expected = reference
    model, vocabulary, *_ = checkpoint.load(path)
    tokens, found = ours(model, counts, vocabulary, pad_value=0)
    with pytest.raises(AssertionError):
        assert_tokens(tokens, genes, values)
    with pytest.raises(AssertionError, match="differs by"):
        assert_outputs(found, expected)


@pytest.mark.parametrize("shift", [-1, 1])
def test_bins_off_by_one_are_noticed(shift, folder, counts, reference, monkeypatch):
    path, _ = folder
    genes, values, expected = reference
    model, vocabulary, *_ = checkpoint.load(path)
    original = tokenizer._bin_rows
    monkeypatch.setattr(tokenizer, "_bin_rows", lambda *arguments: original(*arguments) + shift)
    tokens, found = ours(model, counts, vocabulary)
    with pytest.raises(AssertionError):
        assert_tokens(tokens, genes, values)
    with pytest.raises(AssertionError, match="differs by"):
        assert_outputs(found, expected)


def test_bins_that_include_cls_are_noticed(folder, counts):
    path, _ = folder
    vocab = oracle.vocabulary(path / "vocab.json")
    row = counts[12, :60].toarray()[0]
    positive = row[row > 0]
    with oracle.digitize_side("one") as preprocess:
        without = preprocess.binning(positive, n_bins=51)
        with_cls = preprocess.binning(np.insert(positive, 0, vocab["<cls>"]), n_bins=51)[1:]
    found = tokenizer.bin_values(positive)
    np.testing.assert_array_equal(found, without)
    assert (found != with_cls).any()
