"""The packed scGPT model and its checkpoint folders."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from interptfm.errors import InputError
from interptfm.scgpt import checkpoint
from interptfm.scgpt.model import ModelConfig, cls_rows, initialise, plan_attention
from interptfm.scgpt.tokenizer import Vocabulary

CONFIG = ModelConfig(embsize=24, nheads=3, d_hid=40, nlayers=3)
VOCABULARY = Vocabulary.from_genes([f"GENE{number}" for number in range(40)])
LENGTHS = [1, 31, 12, 12, 3, 30, 7, 25, 2, 18]


def build(seed=0, config=CONFIG):
    """A model in eval mode whose norms and biases are away from their neutral start."""
    model = initialise(config, len(VOCABULARY), VOCABULARY.pad_id, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def batch(lengths=LENGTHS, seed=0):
    """genes (N,), values (N,), lengths (B,) of random binned cells."""
    rng = np.random.default_rng(seed)
    genes, values = [], []
    for length in lengths:
        genes += [VOCABULARY.cls_id, *rng.permutation(40)[: length - 1]]
        values += [-2, *rng.integers(1, 51, length - 1)]
    return torch.tensor(genes), torch.tensor(values, dtype=torch.float32), torch.tensor(lengths)


@torch.inference_mode()
def run(model, genes, values, lengths, **options):
    return model(genes, values, lengths, **options)


@pytest.mark.parametrize("max_padding", [0, 0.15, 0.9])
@pytest.mark.parametrize("lengths", [LENGTHS, [5] * 4, [1], [9, 9, 8], list(range(1, 60))])
def test_plan_covers_every_token_once(lengths, max_padding):
    lengths = torch.tensor(lengths)
    plan = plan_attention(lengths, max_padding)
    n, rows, real = int(lengths.sum()), [], []
    for group in plan.groups:
        gather = torch.arange(n)[group.gather]
        keep = torch.ones(group.cells, group.length, dtype=bool)
        if group.keep is not None:
            keep = group.keep[:, 0, 0]
            assert not keep.all() and keep[:, 0].all()
            assert (~keep).float().mean() <= max_padding
        starts = cls_rows(lengths)
        assert torch.isin(gather.view(group.cells, -1)[:, 0], starts).all()
        rows.append(gather)
        real.append(keep.flatten())
    rows, real = torch.cat(rows), torch.cat(real)
    assert torch.equal(rows[real].sort().values, torch.arange(n))
    packed = rows if plan.scatter is None else rows[plan.scatter]
    assert torch.equal(packed, torch.arange(n))


def test_a_cell_does_not_notice_its_batch():
    model = build()
    genes, values, lengths = batch()
    together = run(model, genes, values, lengths)
    mvc = model.mvc(together.last[cls_rows(lengths)], genes, lengths)
    start = 0
    for length in LENGTHS:
        part = slice(start, start + length)
        alone = run(model, genes[part], values[part], torch.tensor([length]))
        for layer, states in alone.states.items():
            torch.testing.assert_close(together.states[layer][part], states, rtol=0, atol=2e-6)
        torch.testing.assert_close(
            mvc[part], model.mvc(alone.last[:1], genes[part], torch.tensor([length])), rtol=0, atol=1e-5
        )
        start += length


def test_order_of_genes_in_a_cell_does_not_matter_but_values_do():
    model = build()
    genes, values, lengths = batch([20])
    order = torch.cat([torch.zeros(1, dtype=int), 1 + torch.randperm(19)])
    first, second = (run(model, genes[o], values[o], lengths).last for o in (torch.arange(20), order))
    torch.testing.assert_close(first[order], second, rtol=0, atol=2e-6)
    values[5] += 1
    assert (run(model, genes, values, lengths).last - first).abs().amax(1).min() > 1e-5


def test_embedding_shares_work_between_equal_values():
    model = build()
    genes, values, _ = batch()
    values[3] = 9000
    encoder = model.value_encoder
    each = encoder.norm(encoder.linear2(torch.relu(encoder.linear1(values.clamp(max=512)[:, None]))))
    torch.testing.assert_close(model.embed(genes, values), model.encoder(genes) + each, rtol=0, atol=1e-6)
    values[4] = 512
    assert torch.equal(encoder(values)[3], encoder(values)[4])


def test_mvc_is_the_inner_product_of_each_gene_with_its_cell():
    model = build()
    genes, _, lengths = batch()
    cls = torch.randn(len(LENGTHS), CONFIG.embsize)
    decoder = model.mvc_decoder
    queries = decoder.W(torch.sigmoid(decoder.gene2query(model.encoder(genes))))
    cells = cls[torch.repeat_interleave(torch.arange(len(LENGTHS)), lengths)]
    torch.testing.assert_close(model.mvc(cls, genes, lengths), (queries * cells).sum(1), rtol=0, atol=1e-5)


def test_layers_depth_and_edit():
    model = build()
    genes, values, lengths = batch()
    every = run(model, genes, values, lengths)
    assert sorted(every.states) == [0, 1, 2] and torch.equal(every.last, every.states[2])
    some = run(model, genes, values, lengths, layers=[1])
    assert list(some.states) == [1] and torch.equal(some.states[1], every.states[1])
    assert torch.equal(some.last, every.last)
    short = run(model, genes, values, lengths, layers=[1], depth=2)
    assert torch.equal(short.last, every.states[1])

    def edit(layer, states):
        return states + 1 if layer == 1 else states

    edited = run(model, genes, values, lengths, edit=edit)
    assert torch.equal(edited.states[0], every.states[0])
    assert torch.equal(edited.states[1], every.states[1] + 1)
    assert (edited.last - every.last).abs().max() > 1e-3
    same = run(model, genes, values, lengths, edit=lambda layer, states: states)
    assert torch.equal(same.last, every.last)
    for wrong in ({"layers": [3]}, {"layers": [2], "depth": 2}, {"depth": 0}, {"depth": 4}):
        with pytest.raises(ValueError, match="the model has 3"):
            run(model, genes, values, lengths, **wrong)


@pytest.mark.parametrize("lengths", [[10, 20], [31, 0]])
def test_lengths_that_do_not_fit(lengths):
    genes, values, _ = batch([31])
    with pytest.raises(ValueError, match="lengths of sum"):
        build()(genes, values, torch.tensor(lengths))


def loss(model, genes, values, lengths, target):
    hidden = model(genes, values, lengths, layers=())
    mvc = model.mvc(hidden.last[cls_rows(lengths)], genes, lengths)
    return ((model.expression(hidden.last) - target) ** 2).sum() + ((mvc - target) ** 2).sum()


def test_gradients_of_a_batch_are_those_of_its_cells():
    """In float64: padding, grouping and shared encodings leave no trace in the gradients."""
    model = build().double()
    genes, values, lengths = batch()
    values = values.double()
    target = torch.randn(len(genes), dtype=torch.float64)
    loss(model, genes, values, lengths, target).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for start, length in zip(cls_rows(lengths).tolist(), LENGTHS, strict=True):
        part = slice(start, start + length)
        loss(model, genes[part], values[part], torch.tensor([length]), target[part]).backward()
    # flag_encoder alone is read by nothing
    assert set(dict(model.named_parameters())) - set(together) == {"flag_encoder.weight"}
    for name, parameter in model.named_parameters():
        if name in together:
            torch.testing.assert_close(together[name], parameter.grad, rtol=1e-8, atol=1e-8)
    assert all(gradient.abs().max() > 0 for gradient in together.values())


def test_dropout_acts_in_training_only():
    model = build()
    inputs = batch()
    assert torch.equal(run(model, *inputs).last, run(model, *inputs).last)
    model.train()
    torch.manual_seed(0)
    first = run(model, *inputs).last
    assert not torch.equal(first, run(model, *inputs).last)
    torch.manual_seed(0)
    assert torch.equal(first, run(model, *inputs).last)
    still = build(config=dataclasses.replace(CONFIG, dropout=0.0)).train()
    torch.testing.assert_close(run(still, *inputs).last, run(still.eval(), *inputs).last, rtol=0, atol=2e-6)


def test_a_few_steps_learn():
    torch.manual_seed(0)
    model = initialise(CONFIG, len(VOCABULARY), VOCABULARY.pad_id, 0).train()
    genes, values, lengths = batch()
    target = values / 50
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        value = loss(model, genes, values, lengths, target)
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < 0.5 * losses[0]


def test_autocast_keeps_float32_states():
    model, inputs = build(), batch()
    exact = run(model, *inputs).last
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run(model, *inputs)
        assert model.mvc(rough.last[cls_rows(inputs[2])], inputs[0], inputs[2]).isfinite().all()
    assert rough.last.dtype == torch.float32
    difference = (rough.last - exact).abs().max()
    assert 0 < difference < 0.15


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees():
    model, (genes, values, lengths) = build(), batch()
    exact = run(model, genes, values, lengths).last
    model = model.cuda()
    found = run(model, genes.cuda(), values.cuda(), lengths).last.cpu()
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-3)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        rough = run(model, genes.cuda(), values.cuda(), lengths).last.cpu()
    assert (rough - exact).abs().max() < 0.15


def test_initialise_is_seeded_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again, other = (initialise(CONFIG, 43, 40, seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    embedding = "encoder.embedding.weight"
    assert not torch.equal(first[embedding], other[embedding])
    assert 0.09 < first[embedding].abs().max() <= 0.1
    assert (first["transformer_encoder.layers.0.self_attn.in_proj_bias"] == 0).all()


OFFICIAL = {
    "embsize": 512,
    "nheads": 8,
    "d_hid": 512,
    "nlayers": 12,
    "n_layers_cls": 3,
    "dropout": 0.2,
    "n_bins": 51,
    "max_seq_len": 1200,
    "pad_token": "<pad>",
    "pad_value": -2,
    "mask_value": -1,
    "input_style": "binned",
    "input_emb_style": "continuous",
    "fast_transformer": True,
    "MVC": True,
    # training only
    "training_tasks": "both",
    "mask_ratio": [0.25, 0.5, 0.75],
    "lr": 1e-4,
    "fp16": True,
    "USE_CLS": False,
    "load_model": None,
}


def test_official_arguments_give_the_official_network():
    config = ModelConfig.from_dict(OFFICIAL)
    assert config == ModelConfig()
    assert ModelConfig.from_dict(config.to_dict()) == config
    with torch.device("meta"):
        from interptfm.scgpt.model import ScGPT

        model = ScGPT(config, 60_697, 60_694)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    expected = {"flag_encoder.weight": (2, 512), "encoder.embedding.weight": (60_697, 512)}
    for name, shape in {
        "encoder.enc_norm": (512,),
        "value_encoder.linear1": (512, 1),
        "value_encoder.linear2": (512, 512),
        "value_encoder.norm": (512,),
        "decoder.fc.0": (512, 512),
        "decoder.fc.2": (512, 512),
        "decoder.fc.4": (1, 512),
        "mvc_decoder.gene2query": (512, 512),
    }.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}
    expected["mvc_decoder.W.weight"] = (512, 512)
    for layer in range(12):
        prefix = f"transformer_encoder.layers.{layer}"
        expected |= {
            f"{prefix}.self_attn.in_proj_weight": (1536, 512),
            f"{prefix}.self_attn.in_proj_bias": (1536,),
        }
        for name in ("self_attn.out_proj", "linear1", "linear2"):
            expected |= {f"{prefix}.{name}.weight": (512, 512), f"{prefix}.{name}.bias": (512,)}
        for name in ("norm1", "norm2"):
            expected |= {f"{prefix}.{name}.weight": (512,), f"{prefix}.{name}.bias": (512,)}
    assert shapes == expected
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(51.3, abs=0.1)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"embsize": None}, "embsize is None, expected int"),
        ({"embsize": 510}, "510 is not a multiple of nheads 8"),
        ({"nlayers": 0}, "nlayers is 0, expected int of at least 1"),
        ({"nlayers": True}, "nlayers is True"),
        ({"nheads": "8"}, "nheads is '8'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"MVC": "yes"}, "MVC is 'yes'"),
        ({"input_emb_style": "category"}, "input_emb_style is 'category', only 'continuous'"),
        ({"input_style": "log1p"}, "input_style is 'log1p', only 'binned'"),
        ({"cell_emb_style": "avg-pool"}, "cell_emb_style"),
        ({"pre_norm": True}, "pre_norm is True, only False"),
        ({"use_batch_labels": True}, "use_batch_labels"),
        ({"explicit_zero_prob": True}, "explicit_zero_prob"),
    ],
)
def test_unsupported_arguments_are_refused(change, pattern):
    with pytest.raises(InputError, match=pattern):
        ModelConfig.from_dict(OFFICIAL | change)


def test_missing_arguments_are_named():
    with pytest.raises(InputError, match="embsize, nlayers missing, found d_hid, nheads"):
        ModelConfig.from_dict({"d_hid": 8, "nheads": 2})


# Checkpoint folders


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(tmp_path / "model", build(), VOCABULARY, {"init": "trained", "epochs": 3})
    return tmp_path / "model"


def rewrite(folder, change):
    """Load the weights, let `change` edit the dict in place, write them back."""
    weights = dict(torch.load(folder / "best_model.pt", weights_only=True))
    change(weights)
    torch.save(weights, folder / "best_model.pt")


def test_saved_model_loads_as_it_was(folder):
    model, vocabulary, config, report = checkpoint.load(folder)
    original = build()
    assert (config, vocabulary) == (CONFIG, VOCABULARY)
    assert not model.training and all(p.requires_grad for p in model.parameters())
    for key, value in original.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert sorted(report.matched) == sorted(original.state_dict())
    assert not report.missing and not report.ignored and report.renamed == 0
    assert str(report).startswith(f"{len(original.state_dict())} keys matched")
    arguments = json.loads((folder / "args.json").read_text())
    assert arguments["fast_transformer"] is True and arguments["epochs"] == 3
    assert sorted(path.name for path in folder.iterdir()) == ["args.json", "best_model.pt", "vocab.json"]
    inputs = batch()
    assert torch.equal(run(model, *inputs).last, run(original, *inputs).last)


def test_same_weights_same_bytes(folder, tmp_path):
    model, vocabulary, *_ = checkpoint.load(folder)
    checkpoint.save(tmp_path / "elsewhere" / "again", model, vocabulary, {"epochs": 3, "init": "trained"})
    script = (
        "import sys; from interptfm.scgpt import checkpoint\n"
        "model, vocabulary, *_ = checkpoint.load(sys.argv[1])\n"
        "checkpoint.save(sys.argv[2], model, vocabulary, {'init': 'trained', 'epochs': 3})"
    )
    import interptfm

    environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(interptfm.__file__))}
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-c", script, folder, other], check=True, env=environment)
    for again in (tmp_path / "elsewhere" / "again", other):
        for name in checkpoint.FILES:
            assert (again / name).read_bytes() == (folder / name).read_bytes(), name
        assert checkpoint.model_digest(again) == checkpoint.model_digest(folder)


def test_digest_follows_each_file_and_no_other(folder):
    digests = {checkpoint.model_digest(folder)}
    (folder / "training.parquet").write_bytes(b"else")
    assert checkpoint.model_digest(folder) in digests
    for name in checkpoint.FILES:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        digests.add(checkpoint.model_digest(folder))
        (folder / name).write_bytes(content)
    assert len(digests) == 4 and all(digest.startswith("sha256:") for digest in digests)
    (folder / "vocab.json").unlink()
    with pytest.raises(InputError, match=r"vocab\.json not found"):
        checkpoint.model_digest(folder)


def test_key_styles_and_prefix_load_to_the_same_model(folder):
    expected = checkpoint.load(folder)[0].state_dict()

    def flash(weights):
        for key in list(weights):
            weights["module." + key.replace("in_proj_", "Wqkv.")] = weights.pop(key)

    rewrite(folder, flash)
    model, *_, report = checkpoint.load(folder)
    assert report.renamed == 6
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_half_precision_weights_load_as_float32(folder):
    rewrite(folder, lambda weights: weights.update({k: v.half() for k, v in weights.items()}))
    model, *_ = checkpoint.load(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_task_heads_are_reported_and_ignored(folder):
    heads = {"cls_decoder.out_layer.weight": torch.ones(1, 24), "sim.scale": torch.ones(1)}
    rewrite(folder, lambda weights: weights.update(heads))
    *_, report = checkpoint.load(folder)
    assert report.ignored == sorted(heads)
    assert "cls_decoder.out_layer.weight" in str(report)
    assert report.to_dict()["ignored"] == sorted(heads)


def test_only_the_unread_flag_encoder_may_be_missing(folder):
    rewrite(folder, lambda weights: weights.pop("flag_encoder.weight"))
    model, *_, report = checkpoint.load(folder)
    assert report.missing == ["flag_encoder.weight"] and "flag_encoder.weight" not in report.matched
    assert (model.flag_encoder.weight == 0).all()


def test_every_other_missing_key_is_refused(folder):
    keys = [key for key in torch.load(folder / "best_model.pt") if key != "flag_encoder.weight"]
    for key in keys:
        kept = {}
        rewrite(folder, lambda weights, key=key, kept=kept: kept.update({key: weights.pop(key)}))
        with pytest.raises(InputError, match=rf"key {key} is missing, expected shape \("):
            checkpoint.load(folder)
        rewrite(folder, lambda weights, kept=kept: weights.update(kept))
    checkpoint.load(folder)


KEY = "transformer_encoder.layers.1.self_attn.in_proj_weight"


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda w: w.update({KEY: w[KEY][:-1]}), rf"{KEY} has shape \(71, 24\), expected \(72, 24\)"),
        (lambda w: w.update({KEY: w[KEY].T}), rf"{KEY} has shape \(24, 72\), expected \(72, 24\)"),
        (lambda w: w[KEY].view(-1)[5].fill_(float("nan")), rf"{KEY} .* finite"),
        (lambda w: w.update({KEY: w[KEY].long()}), rf"{KEY} \(torch.int64\)"),
        (lambda w: w.update({"batch_encoder.embedding.weight": w[KEY]}), "unknown key batch_encoder"),
        (lambda w: w.update({KEY.replace(".1.", ".3."): w[KEY]}), "unknown key .*layers.3"),
        (lambda w: w.update({f"module.{KEY}": w[KEY]}), "is there twice"),
        (lambda w: w.update({"epoch": 3}), "entry 'epoch' is int, expected tensors"),
        (lambda w: w.clear(), "expected a state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, pattern, folder):
    rewrite(folder, change)
    with pytest.raises(InputError, match=pattern) as caught:
        checkpoint.load(folder)
    assert "best_model.pt" in str(caught.value)


def test_a_vocabulary_of_another_size_is_refused(folder):
    Vocabulary.from_genes(["A", "B"]).to_json(folder / "vocab.json")
    with pytest.raises(InputError, match=r"embedding.weight has shape \(43, 24\), expected \(5, 24\)"):
        checkpoint.load(folder)
    model, vocabulary, *_ = checkpoint.load(folder, VOCABULARY)
    assert vocabulary is VOCABULARY and model.n_tokens == 43


class Attack:
    """A pickle that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(plain, folder, tmp_path):
    marker = tmp_path / "ran"
    payload = {"encoder.embedding.weight": Attack(marker)}
    if plain:
        (folder / "best_model.pt").write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload, folder / "best_model.pt")
    with pytest.raises(InputError, match=r"best_model.pt: refused, .* expected a state dict"):
        checkpoint.load(folder)
    assert not marker.exists()
    # The payload is live: the unsafe loader would have run it.
    if not plain:
        torch.load(folder / "best_model.pt", weights_only=False)
        assert marker.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", None])
def test_damaged_weights_are_one_sentence(content, folder):
    path = folder / "best_model.pt"
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(InputError, match=r"best_model\.pt") as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("args.json", None, "args.json: not found"),
        ("vocab.json", None, "vocab.json: vocabulary not found"),
        ("best_model.pt", None, "best_model.pt: not found"),
        ("args.json", "{", "args.json: no valid JSON"),
        ("args.json", "[1]", "found list, expected a JSON object"),
        ("args.json", '{"embsize": 8}', "model: args.json: nheads, d_hid, nlayers missing"),
    ],
)
def test_absent_or_unreadable_files(name, content, pattern, folder):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=pattern):
        checkpoint.load(folder)


def test_save_refuses_what_would_not_load(tmp_path):
    model = build()
    with pytest.raises(ValueError, match="tokens"):
        checkpoint.save(tmp_path / "a", model, Vocabulary.from_genes(["A"]))
    with pytest.raises(ValueError, match="embsize"):
        checkpoint.save(tmp_path / "a", model, VOCABULARY, {"embsize": 12})
    assert not (tmp_path / "a").exists()


def test_a_failed_save_leaves_the_old_weights(folder, monkeypatch):
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(folder, build(seed=9), VOCABULARY, {"init": "random"})
    after = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert after == before
