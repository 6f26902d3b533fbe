"""Steering: interventions against their formulas, the engine against plain forward passes, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from interptfm.errors import InputError
from interptfm.sae.inference import Dictionary
from interptfm.scgpt.model import ModelConfig, cls_rows, initialise
from interptfm.scgpt.tokenizer import Vocabulary, tokenize
from interptfm.steering import engine, inputs, interventions, readouts
from interptfm.steering.interventions import Ablate, Add, Clamp, Project, Step

GENES, D, LAYERS = 20, 16, 4
ZERO = torch.zeros(1, 1, 1)
ONE = torch.ones(1, 1, 1)


@pytest.fixture(scope="module")
def network():
    config = ModelConfig(embsize=D, nheads=2, d_hid=24, nlayers=LAYERS, n_layers_cls=1, dropout=0.1)
    return initialise(config, GENES + 3, GENES, seed=3).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.from_genes([f"G{i}" for i in range(GENES)])


def cells_of(vocabulary, n=7, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.0, (n, GENES)) * (rng.random((n, GENES)) < 0.7)
    counts[:, 4] = rng.integers(1, 9, n)  # every cell expresses gene 4
    counts[:, 9] = 0  # and none gene 9
    ids = vocabulary.ids([f"G{i}" for i in range(GENES)])
    return tokenize(sparse.csr_matrix(counts.astype(np.float32)), ids, vocabulary)


@pytest.fixture(scope="module")
def tokens(vocabulary):
    return cells_of(vocabulary)


@pytest.fixture(scope="module")
def directions():
    return np.random.default_rng(5).standard_normal((3, D)).astype(np.float32)


@pytest.fixture(scope="module")
def dictionary():
    rng = np.random.default_rng(6)
    weights = {
        "W_enc": rng.standard_normal((D, 30)), "W_dec": rng.standard_normal((30, D)),
        "b_dec": rng.standard_normal(D), "b_enc": rng.standard_normal(30),
    }  # fmt: skip
    return Dictionary("standard", {name: value.astype(np.float32) for name, value in weights.items()})


def rules(directions, dictionary):
    return {
        "project": Project(directions),
        "add": Add(directions[0], 2.5),
        "ablate": Ablate(directions),
        "clamp": Clamp(dictionary, 3, 1.5),
    }


@pytest.mark.parametrize("name", ["project", "add", "ablate", "clamp"])
def test_dose_zero_changes_no_bit(network, tokens, directions, dictionary, name):
    rule = rules(directions, dictionary)[name]
    states = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1))
    assert torch.equal(states + rule.change(states, ZERO), states)
    for position in interventions.POSITIONS:
        step = [Step(1, position, rule)]
        found = engine.steer(network, tokens, step, [0.0, 0.7], column=4)
        assert not found.shift("cls")[0].any() and found.shift("cls")[1].any()
    found = engine.steer(network, tokens, [inputs.InputValue(4, 4)], [0.0, 1.0])
    assert not found.shift("cls")[0].any() and found.shift("cls")[1].any()


def test_the_published_rule_is_its_formula_on_a_toy():
    h = torch.tensor([[[1.0, 2.0, 3.0]]])
    d = np.array([[2.0, 0, 0], [0, 3.0, 4.0]], np.float32)
    # (h·d̂) d̂ by hand: (1, 0, 0) and (2·0.6 + 3·0.8 = 3.6) (0, 0.6, 0.8); s = 0.5.
    expected = torch.tensor([[[0.5, 0.5 * 3.6 * 0.6, 0.5 * 3.6 * 0.8]]])
    assert torch.allclose(Project(d).change(h, 0.5 * ONE), expected, atol=1e-6)


def test_orthogonal_directions_add(network, tokens):
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0].T.astype(np.float32)
    states = torch.randn(1, 6, D, generator=torch.Generator().manual_seed(2))
    for rule in (Project, Ablate):
        together = rule(basis[:2]).change(states, ONE)
        apart = sum(rule(basis[i]).change(states, ONE) for i in (0, 1))
        assert torch.allclose(together, apart, atol=1e-5)
        after = states + rule(basis[0]).change(states, ONE)
        one_by_one = after + rule(basis[1]).change(after, ONE)
        assert torch.allclose(one_by_one, states + together, atol=1e-5)
    # Through the model at the last layer, where nothing comes after.
    steps = [Step(LAYERS - 1, "cls", Add(basis[i], 1.0 + i)) for i in (0, 1)]
    found = engine.steer(network, tokens, steps, [2.0]).shift("cls")[0]
    assert np.allclose(found, 2 * (basis[0] + 2 * basis[1]), atol=1e-4)


def test_ablation_leaves_nothing_of_the_span(directions):
    states = torch.randn(1, 4, D, generator=torch.Generator().manual_seed(3))
    doubled = np.concatenate([directions, directions[:1] * 2])  # dependent directions
    left = states + Ablate(doubled).change(states, ONE)
    assert torch.allclose(left @ torch.from_numpy(directions).T, torch.zeros(1, 4, 3), atol=1e-4)


def test_clamping_moves_the_reconstruction_by_its_decoder_row(dictionary):
    states = torch.randn(1, 9, D, generator=torch.Generator().manual_seed(4))
    code = dictionary.encode(states[0])
    moved = states[0] + Clamp(dictionary, 3, 1.5).change(states, ONE)[0]
    changed = code.clone()
    changed[:, 3] = 1.5
    # The reconstruction changes by (1.5 − z) times the decoder's row, and the error is kept.
    difference = dictionary.decode(changed) - dictionary.decode(code)
    row = torch.from_numpy(dictionary.weights["W_dec"][3])
    assert torch.allclose(difference, (1.5 - code[:, 3:4]) * row, atol=1e-5)
    assert torch.allclose(moved - states[0], difference, atol=1e-5)
    assert torch.allclose(moved - dictionary.decode(changed), states[0] - dictionary.decode(code), atol=1e-5)


@pytest.mark.parametrize("position", interventions.POSITIONS)
@pytest.mark.parametrize("layer", [0, 2, LAYERS - 1])
def test_the_engine_equals_a_plain_pass_with_an_edit(network, tokens, directions, layer, position):
    doses = [-1.5, 0.4, 3.0]
    read = {**engine.CLS, "early": readouts.cls(0), "all": readouts.token_expression(network, GENES)}
    step = Step(layer, position, Project(directions))
    small = engine.steer(network, tokens, [step], doses, read, column=4, batch_tokens=40)
    large = engine.steer(network, tokens, [step], doses, read, column=4)
    alone = engine.steer(network, tokens, [step], doses, column=4)  # the last layer at <cls> only
    rows = {
        "token": torch.from_numpy(inputs.gene_rows(tokens, 4)),
        "cls": cls_rows(torch.from_numpy(tokens.lengths)),
        "all": torch.from_numpy(np.flatnonzero(tokens.var >= 0)),
    }[position]  # fmt: skip
    given = torch.from_numpy(tokens.genes), torch.from_numpy(tokens.values), torch.from_numpy(tokens.lengths)
    for i, dose in enumerate(doses):

        def edit(number, states, dose=dose):
            if number != layer:
                return states
            changed = states[rows] + Project(directions).change(states[rows], dose * torch.ones(1, 1))
            return states.index_copy(0, rows, changed)

        hidden = network(*given, edit=edit)
        cls = hidden.last[cls_rows(given[2])].numpy()
        for found in (small, large, alone):
            assert np.abs(found.values["cls"][i] - cls).max() < 2e-5
        assert np.allclose(large.values["early"][i], hidden.states[0][cls_rows(given[2])], atol=2e-5)
        decoded = np.full((len(tokens), GENES), np.nan)
        cell = np.repeat(np.arange(len(tokens)), tokens.lengths)
        genes = tokens.var >= 0
        decoded[cell[genes], tokens.var[genes]] = network.expression(hidden.last).numpy()[genes]
        assert np.allclose(large.values["all"][i], decoded, atol=2e-5, equal_nan=True)


def test_many_vectors_at_once_equal_one_by_one(network, tokens, directions):
    for position in interventions.POSITIONS:
        found = engine.steer_each(network, tokens, 1, position, directions, column=4, batch_tokens=64)
        for i, vector in enumerate(directions):
            one = Step(1, position, Add(vector, np.linalg.norm(vector)))
            expected = engine.steer(network, tokens, [one], [1.0], column=4)
            assert np.allclose(found.values["cls"][i], expected.values["cls"][0], atol=2e-5)
            assert np.allclose(found.base["cls"], expected.base["cls"])


def test_steering_several_layers_is_a_plain_pass_with_both_edits(network, tokens, directions):
    steps = [Step(layer, "all", Project(directions)) for layer in (0, 2)]
    found = engine.steer(network, tokens, steps, [0.5])
    rows = torch.from_numpy(np.flatnonzero(tokens.var >= 0))

    def edit(number, states):
        if number not in (0, 2):
            return states
        return states.index_add(0, rows, Project(directions).change(states[rows], torch.tensor(0.5)))

    given = torch.from_numpy(tokens.genes), torch.from_numpy(tokens.values), torch.from_numpy(tokens.lengths)
    cls = network(*given, edit=edit).last[cls_rows(given[2])].numpy()
    assert np.abs(found.values["cls"][0] - cls).max() < 2e-5


def test_the_mvc_rows_decode_as_the_head_does(network, tokens, vocabulary):
    ids = vocabulary.ids([*(f"G{i}" for i in range(GENES)), "UNKNOWN"])
    rows = readouts.mvc_weights(network, ids)
    assert np.isnan(rows[-1]).all()
    cls = torch.from_numpy(engine.steer(network, tokens, [], [0.0]).base["cls"])
    genes = torch.arange(GENES).repeat(len(tokens))
    expected = network.mvc(cls, genes, torch.full((len(tokens),), GENES)).view(len(tokens), GENES)
    assert np.allclose(cls.numpy() @ rows[:-1].T, expected.numpy(), atol=1e-5)
    assert readouts.head(network) == "mvc"


def test_activities_are_means_over_gene_tokens(network, tokens, directions, dictionary):
    read = {
        "concepts": readouts.concept_activity(directions, 1),
        "cls": readouts.concept_activity(directions, 1, "cls"),
        "features": readouts.feature_activity(dictionary, [3, 8], 1),
    }
    found = engine.steer(network, tokens, [], [0.0], read).base
    states = network(*(torch.from_numpy(x) for x in (tokens.genes, tokens.values, tokens.lengths))).states[1]
    rows = interventions.unit(directions)
    cell = np.repeat(np.arange(len(tokens)), tokens.lengths)
    mine = torch.from_numpy((cell == 2) & (tokens.var >= 0))
    assert np.allclose(found["concepts"][2], (states[mine] @ rows.T).mean(0), atol=1e-5)
    assert np.allclose(found["features"][2], dictionary.encode(states[mine])[:, [3, 8]].mean(0), atol=1e-5)
    first = cls_rows(torch.from_numpy(tokens.lengths))
    assert np.allclose(found["cls"], states[first] @ rows.T, atol=1e-5)


def test_input_values_move_by_the_dose_and_vanish_below_one_half(tokens):
    down = inputs.InputValue(4, 4)
    half, gone = inputs.swap(tokens, down, 0.5), inputs.swap(tokens, down, 1.0)
    before = tokens.values[tokens.var == 4]
    assert np.array_equal(half.values[half.var == 4], np.rint(before / 2)[np.rint(before / 2) > 0])
    assert not (gone.var == 4).any() and (gone.lengths == tokens.lengths - 1).all()
    kept = tokens.var != 4
    assert np.array_equal(gone.values, tokens.values[kept])
    assert np.array_equal(gone.genes, tokens.genes[kept])
    up = inputs.swap(tokens, inputs.InputValue(9, 9, "over-expression", 50.0), 1.0)
    assert (up.values[up.var == 9] == 50).all() and (up.var == 9).sum() == len(tokens)
    for start, length in zip(up.starts, up.lengths):
        assert (np.diff(up.var[start : start + length]) > 0).all()


def test_an_error_inside_a_rule_leaves_the_model_as_it_was(network, tokens):
    class Broken:
        def change(self, states, dose):
            raise RuntimeError("inside")

    before = engine.steer(network, tokens, [], [0.0]).base["cls"]
    with pytest.raises(RuntimeError, match="inside"):
        engine.steer(network, tokens, [Step(1, "all", Broken())], [1.0])
    assert np.array_equal(engine.steer(network, tokens, [], [0.0]).base["cls"], before)
    for module in network.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks


def test_what_cannot_be_steered_is_said_clearly(network, tokens, directions, dictionary, vocabulary):
    rule = Project(directions)
    cases = [
        (lambda: engine.steer(network, tokens, [Step(4, "all", rule)], [1.0]), "layer 4, expected 0 to 3"),
        (lambda: engine.steer(network, tokens, [Step(1, "token", rule)], [1.0]), "without a gene"),
        (
            lambda: engine.steer(network, tokens, [Step(1, "token", rule)], [1.0], column=9),
            "no token of gene 9 in cell 0",
        ),
        (lambda: Step(1, "tail", rule), "found position 'tail'"),
        (lambda: engine.steer(network, tokens, [], [np.nan]), "expected finite numbers"),
        (lambda: engine.steer(network, tokens.take(np.arange(0)), [], [1.0]), "found no cell"),
        (
            lambda: engine.steer(network, tokens, [Step(1, "all", Project(np.ones((2, 5))))], [1.0]),
            "width 5, expected the model's 16",
        ),
        (lambda: Project(np.zeros((1, D))).change(torch.zeros(1, 1, D), ONE), "expected a finite length"),
        (lambda: Clamp(dictionary, 30, 0.0), "found feature 30, expected 0 to 29"),
        (lambda: inputs.InputValue(1, 1, "knock-out"), "found input change 'knock-out'"),
        (lambda: inputs.swap(tokens, inputs.InputValue(9, 9), 1.0), "no token of gene 9 in cell 0"),
        (lambda: inputs.column_of("TP53", ["A"], np.array([0])), "no gene 'TP53' in the data"),
        (lambda: inputs.column_of("A", ["A"], np.array([-1])), "no gene 'A' in the model's vocabulary"),
    ]
    for act, message in cases:
        with pytest.raises(InputError, match=message):
            act()
