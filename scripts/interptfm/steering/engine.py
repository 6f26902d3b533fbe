"""The model run with interventions: doses × cells in batches, from the first layer that changes.

No hook is registered anywhere: an intervention is a function that the loop over layers calls, so an error
leaves nothing behind. What comes before the first changed layer runs once for all doses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interptfm.activations import batches
from interptfm.errors import InputError
from interptfm.scgpt.model import EncoderLayer, ScGPT, _Plan, cls_rows, plan_attention
from interptfm.scgpt.tokenizer import Tokens
from interptfm.steering.inputs import InputValue, gene_rows, swap
from interptfm.steering.interventions import AddEach, Step

BATCH_TOKENS = 8192


class Packed(NamedTuple):
    """What a read-out sees of a batch beside its states: token ids (N,), columns (N,), lengths (B,), `<cls>`
    rows (B,)."""

    genes: Tensor
    var: Tensor
    lengths: Tensor
    cls: Tensor


@dataclass(frozen=True)
class Readout:
    """`function(states (N, d) of `layer`, Packed) -> (B, k)`, one row a cell; layer −1 is the last one.

    cls_only: the function reads the rows of `<cls>` alone and gets them as (B, d).
    """

    layer: int
    function: Callable[[Tensor, Packed], Tensor]
    cls_only: bool = False


@dataclass
class Steered:
    """`values[name]` (doses, cells, k) float32 of every read-out; `base[name]` (cells, k) without dose."""

    doses: np.ndarray
    base: dict[str, np.ndarray]
    values: dict[str, np.ndarray]

    def shift(self, name: str) -> np.ndarray:
        """What the doses change (doses, cells, k); exactly 0 at dose 0."""
        return self.values[name] - self.base[name]


CLS = {"cls": Readout(-1, lambda states, packed: states, cls_only=True)}


def steer(
    network: ScGPT,
    tokens: Tokens,
    interventions: Sequence[Step | InputValue],
    doses: Sequence[float],
    readouts: Mapping[str, Readout] = CLS,
    *,
    column: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    device: str = "cpu",
) -> Steered:
    """Run the model on n cells under every dose of some interventions, all of which take that dose.

    tokens: of the n cells. interventions: steps on hidden states, in the order in which those of one layer
    act, and at most one swap of an input value. column: the gene whose token position `token` means.
    Dose 0 is no run of its own but the base, bit for bit.

    Raises InputError for no cell, a dose that is not finite, a layer that the model lacks, a direction of
    another width, position `token` without a gene or in a cell without the gene's token.
    """
    doses = np.asarray(doses, np.float64)
    if doses.ndim != 1 or not len(doses) or not np.isfinite(doses).all():
        raise InputError(f"steering: found doses {doses.tolist()}, expected finite numbers")
    steps = [each for each in interventions if isinstance(each, Step)]
    swaps = [each for each in interventions if isinstance(each, InputValue)]
    if len(swaps) > 1:
        raise InputError(f"steering: found {len(swaps)} swaps of input values, expected at most one")
    if any(isinstance(step.rule, AddEach) for step in steps):
        raise ValueError("AddEach gives copies of their own: use `steer_each`")
    _check(network, tokens, steps, column)
    base = run(network, tokens, [], 1, readouts, column, np.zeros(1), batch_tokens, device)
    base = {name: value[0] for name, value in base.items()}
    values = {name: np.repeat(value[None], len(doses), axis=0) for name, value in base.items()}
    acting = np.flatnonzero(doses != 0)
    if swaps:
        for i in acting:
            changed = swap(tokens, swaps[0], float(doses[i]))
            found = run(network, changed, steps, 1, readouts, column, doses[i : i + 1], batch_tokens, device)
            for name, value in found.items():
                values[name][i] = value[0]
    elif len(acting) and steps:
        found = run(
            network, tokens, steps, len(acting), readouts, column, doses[acting], batch_tokens, device
        )
        for name, value in found.items():
            values[name][acting] = value
    return Steered(doses, base, values)


def steer_each(
    network: ScGPT,
    tokens: Tokens,
    layer: int,
    position: str,
    vectors: np.ndarray,
    readouts: Mapping[str, Readout] = CLS,
    *,
    column: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    device: str = "cpu",
) -> Steered:
    """Add each row of `vectors` (k, d) by itself, at one layer and position, to all n cells.

    Many directions at once, as a null needs: `values[name]` is (k, cells, …). Raises as :func:`steer`.
    """
    step = Step(layer, position, AddEach(np.asarray(vectors, np.float32)))
    _check(network, tokens, [step], column)
    one = np.ones(len(vectors))
    base = run(network, tokens, [], 1, readouts, column, np.zeros(1), batch_tokens, device)
    found = run(network, tokens, [step], len(vectors), readouts, column, one, batch_tokens, device)
    return Steered(one, {name: value[0] for name, value in base.items()}, found)


def _check(network: ScGPT, tokens: Tokens, steps: Sequence[Step], column: int | None) -> None:
    if not len(tokens):
        raise InputError("steering: found no cell, expected at least one")
    d = network.config.embsize
    for step in steps:
        if not 0 <= step.layer < network.n_layers:
            raise InputError(
                f"steering: found layer {step.layer}, expected 0 to {network.n_layers - 1}: the model has "
                f"{network.n_layers} layers"
            )
        for name in ("directions", "direction", "vectors"):
            width = np.shape(getattr(step.rule, name, np.empty(d)))[-1]
            if width != d:
                raise InputError(f"steering: found a direction of width {width}, expected the model's {d}")
        if step.position == "token" and column is None:
            raise InputError("steering: found position 'token' without a gene, expected one")


@torch.inference_mode()
def run(
    network: ScGPT,
    tokens: Tokens,
    steps: Sequence[Step],
    copies: int,
    readouts: Mapping[str, Readout],
    column: int | None,
    doses: np.ndarray,
    batch_tokens: int,
    device: str,
) -> dict[str, np.ndarray]:
    """Read-outs (copies, cells, k) float32 of `copies` of the cells, copy i under dose i.

    Cells go through in batches; what is before the first step's layer runs once a batch, and its states
    are then repeated over copies, at most `batch_tokens` tokens at a time (or one copy).
    """
    first = min((step.layer for step in steps), default=network.n_layers - 1)
    size = max(1, batch_tokens // max(1, min(copies, 8)))
    found: dict[str, list[list[np.ndarray]]] = {name: [] for name in readouts}
    for start, stop in batches(tokens.lengths, size):
        batch = tokens.take(np.arange(start, stop))
        rows = _rows(batch, {step.position for step in steps}, column)
        genes, values = (torch.from_numpy(x).to(device) for x in (batch.genes, batch.values))
        lengths = torch.from_numpy(batch.lengths)
        states, early = network.embed(genes, values), {}
        packed = _packed(batch, 1, device)
        plan = plan_attention(lengths)
        for number in range(first + 1 if steps else first):
            states = network.transformer_encoder.layers[number](states, plan)
            if number < first:
                _read(early, readouts, number, network.n_layers, states, packed)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in readouts}
        chunk = max(1, batch_tokens // max(1, len(batch.genes)))
        for begin in range(0, copies, chunk):
            part = slice(begin, min(begin + chunk, copies))
            n = part.stop - part.start
            out = {name: value.repeat(n, 1) for name, value in early.items()}
            many = states.repeat(n, 1)
            here = _packed(batch, n, device)
            many_plan = plan_attention(here.lengths.cpu()) if n > 1 else plan
            dose = torch.as_tensor(doses[part], dtype=torch.float32, device=device)[:, None, None]
            _continue(network, many, many_plan, here, first, steps, rows, part, dose, readouts, out)
            for name, value in out.items():
                parts[name].append(value.float().cpu().numpy().reshape(n, stop - start, -1))
        for name in readouts:
            found[name].append(parts[name])
    return {
        name: np.concatenate([np.concatenate(parts) for parts in batch_parts], axis=1)
        for name, batch_parts in found.items()
    }


def _continue(
    network: ScGPT,
    states: Tensor,
    plan: _Plan,
    packed: Packed,
    first: int,
    steps: Sequence[Step],
    rows: Mapping[str, Tensor],
    part: slice,
    dose: Tensor,
    readouts: Mapping[str, Readout],
    out: dict[str, Tensor],
) -> None:
    """Take the states of layer `first` (its input, where there is no step) to the end, reading on the way."""
    n, last = part.stop - part.start, network.n_layers - 1
    cls_will_do = all(each.cls_only for each in readouts.values() if each.layer in (-1, last))
    for number in range(first, network.n_layers):
        here = [step for step in steps if step.layer == number]
        if number > first or not steps:
            layer = network.transformer_encoder.layers[number]
            if number == last and cls_will_do and all(step.position == "cls" for step in here):
                states = last_cls(layer, states, plan, packed.cls)
                for step in here:
                    states = states + _change(step, states.view(n, -1, states.shape[1]), dose, part)
                _read(out, readouts, number, network.n_layers, states, packed, only_cls=True)
                return
            states = layer(states, plan)
        for step in here:
            chosen = rows[step.position].to(states.device)
            view = states.view(n, -1, states.shape[1])
            picked = view[:, chosen]
            changed = picked + _change(step, picked, dose, part).view_as(picked)
            states = view.index_copy(1, chosen, changed).view_as(states)
        _read(out, readouts, number, network.n_layers, states, packed)


def _change(step: Step, states: Tensor, dose: Tensor, part: slice) -> Tensor:
    """Change (copies·rows, d) of states (copies, rows, d)."""
    rule = step.rule
    change = rule.change(states, dose, part) if isinstance(rule, AddEach) else rule.change(states, dose)
    return change.reshape(-1, states.shape[-1])


def _read(
    out: dict[str, Tensor],
    readouts: Mapping[str, Readout],
    number: int,
    n_layers: int,
    states: Tensor,
    packed: Packed,
    only_cls: bool = False,
) -> None:
    for name, readout in readouts.items():
        if readout.layer % n_layers == number:
            wanted = states if only_cls or not readout.cls_only else states[packed.cls]
            out[name] = readout.function(wanted, packed)


def _rows(batch: Tokens, positions: set[str], column: int | None) -> dict[str, Tensor]:
    """Rows (int64) of each position in a packed batch."""
    found = {}
    for position in positions:
        if position == "token":
            rows = gene_rows(batch, int(column))  # type: ignore[arg-type]
        else:
            rows = np.flatnonzero(batch.var >= 0) if position == "all" else batch.starts
        found[position] = torch.from_numpy(rows)
    return found


def _packed(batch: Tokens, copies: int, device: str) -> Packed:
    genes, var, lengths = (
        torch.from_numpy(np.tile(each, copies)) for each in (batch.genes, batch.var, batch.lengths)
    )
    return Packed(genes.to(device), var.to(device), lengths.to(device), cls_rows(lengths).to(device))


def last_cls(layer: EncoderLayer, states: Tensor, plan: _Plan, rows: Tensor) -> Tensor:
    """Output (B, d) of a layer at the `<cls>` rows (B,) alone: nothing reads that of the others."""
    attention, d = layer.self_attn, states.shape[1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    key_value = torch.nn.functional.linear(states, weight[d:], bias[d:])
    query = torch.nn.functional.linear(states[rows], weight[:d], bias[:d])
    mixed, place = torch.empty_like(query), torch.full((len(states),), -1, device=states.device)
    place[rows] = torch.arange(len(rows), device=states.device)
    for gather, keep, cells, length in plan.groups:
        picked = key_value[gather] if isinstance(gather, slice) else key_value.index_select(0, gather)
        starts = (
            torch.arange(cells, device=states.device) * length
            if isinstance(gather, slice)
            else gather.view(cells, length)[:, 0]
        )
        mine = place[starts]
        key, value = picked.view(cells, length, 2, attention.n_heads, -1).permute(2, 0, 3, 1, 4)
        asked = query[mine].view(cells, attention.n_heads, 1, -1)
        answer = torch.nn.functional.scaled_dot_product_attention(asked, key, value, attn_mask=keep)
        mixed[mine] = answer.reshape(cells, d)
    first = layer.norm1(states[rows] + attention.out_proj(mixed))
    return layer.norm2(first + layer.linear2(torch.relu(layer.linear1(first))))
