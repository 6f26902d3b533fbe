"""The scGPT transformer over packed, unpadded batches of cells.

Architecture: Cui et al. 2024 (Nature Methods), as in the `TransformerModel` of the `scgpt` package
0.2.4. A batch is ragged: the tokens of all cells lie one cell after the other, `<cls>` first in
each, with the number of tokens of every cell in `lengths`. Linear layers and norms see real tokens
only; padding exists inside attention alone, among cells of similar length. Module names are those
of the official checkpoints, so `state_dict()` has the official keys (torch style, `in_proj_`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interptfm.errors import InputError

MAX_VALUE = 512.0
"""Upper bound of the values that the value encoder sees (scGPT's `max_value`)."""

MAX_PADDING = 0.15
"""Share of padded positions that a group of cells may have inside attention."""

Edit = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and input format, with the names and defaults of scGPT's `args.json`.

    embsize: width d of the hidden states; nheads: attention heads; d_hid: width of the
    feed-forward layer; n_bins: expression bins with the zero bin; max_seq_len: tokens a cell with
    `<cls>`; pad_value: value of `<cls>` and of padding; mask_value: value of masked tokens; MVC:
    whether there is the decoder that predicts values from `<cls>`.
    """

    embsize: int = 512
    nheads: int = 8
    d_hid: int = 512
    nlayers: int = 12
    n_layers_cls: int = 3
    dropout: float = 0.2
    n_bins: int = 51
    max_seq_len: int = 1200
    pad_token: str = "<pad>"
    pad_value: int = -2
    mask_value: int = -1
    input_style: str = "binned"
    input_emb_style: str = "continuous"
    cell_emb_style: str = "cls"
    mvc_decoder_style: str = "inner product"
    fast_transformer: bool = True
    MVC: bool = True

    def __post_init__(self) -> None:
        for name in ("embsize", "nheads", "d_hid", "nlayers", "n_layers_cls", "max_seq_len"):
            _check(name, getattr(self, name), int, minimum=1)
        _check("n_bins", self.n_bins, int, minimum=3)
        _check("pad_value", self.pad_value, int)
        _check("mask_value", self.mask_value, int)
        _check("dropout", self.dropout, (int, float), minimum=0)
        _check("MVC", self.MVC, bool)
        _check("fast_transformer", self.fast_transformer, bool)
        if self.dropout >= 1:
            raise InputError(f"model config: dropout is {self.dropout}, expected less than 1")
        if self.embsize % self.nheads:
            raise InputError(
                f"model config: embsize {self.embsize} is not a multiple of nheads {self.nheads}"
            )
        for name, supported in SUPPORTED.items():
            found = getattr(self, name)
            if found != supported:
                raise InputError(f"model config: {name} is {found!r}, only {supported!r} is supported")

    @classmethod
    def from_dict(cls, arguments: Mapping[str, Any]) -> ModelConfig:
        """Config from the content of an `args.json`; keys that only training needs are ignored.

        Raises InputError where embsize, nheads, d_hid or nlayers is missing, where a value has the
        wrong type, and where the file asks for an architecture that this model is not.
        """
        missing = [key for key in REQUIRED if key not in arguments]
        if missing:
            raise InputError(f"args.json: {', '.join(missing)} missing, found {_some(arguments)}")
        for key, supported in FIXED.items():
            if key in arguments and arguments[key] not in supported:
                raise InputError(
                    f"args.json: {key} is {arguments[key]!r}, only {supported[0]!r} is supported"
                )
        names = {entry.name for entry in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in arguments.items() if key in names})

    def to_dict(self) -> dict[str, Any]:
        """The config as the JSON object that `from_dict` reads."""
        return dataclasses.asdict(self)


REQUIRED = ("embsize", "nheads", "d_hid", "nlayers")
SUPPORTED = {
    "pad_token": "<pad>",
    "input_style": "binned",
    "input_emb_style": "continuous",
    "cell_emb_style": "cls",
    "mvc_decoder_style": "inner product",
}
# Options of scGPT's training scripts that change the network; absent means the first value.
FIXED: dict[str, tuple] = {
    "pre_norm": (False, None),
    "norm_scheme": ("post", None),
    "use_batch_labels": (False, None),
    "domain_spec_batchnorm": (False, None, ""),
    "explicit_zero_prob": (False, None),
    "activation": ("relu", None),
}


def _check(name: str, value: Any, kinds: type | tuple, minimum: float | None = None) -> None:
    wrong = not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool)
    if wrong or (minimum is not None and value < minimum):
        names = kinds.__name__ if isinstance(kinds, type) else "number"
        bound = "" if minimum is None else f" of at least {minimum}"
        raise InputError(f"model config: {name} is {value!r}, expected {names}{bound}")


def _some(mapping: Mapping, n: int = 8) -> str:
    keys = sorted(map(str, mapping))
    return ", ".join(keys[:n]) + (", ..." if len(keys) > n else "") if keys else "no keys"


@dataclass
class Hidden:
    """Hidden states of a packed batch of N tokens.

    states: layer (from 0) -> (N, d), the output of that layer's `norm2`, after `edit` where one
    was given. last: (N, d), the output of the last layer that was run.
    """

    states: dict[int, Tensor] = field(default_factory=dict)
    last: Tensor | None = None


class _Group(NamedTuple):
    """Cells that go through attention together: `gather` (cells * length,) rows of the packed
    batch (a slice where they are contiguous and equally long), `keep` (cells, 1, 1, length) bool,
    True for real tokens, or None where there is no padding."""

    gather: Tensor | slice
    keep: Tensor | None
    cells: int
    length: int


class _Plan(NamedTuple):
    """How to pad a packed batch for attention; `scatter` (N,) takes the groups' concatenated
    outputs back to the packed order (None where that is the order already)."""

    groups: list[_Group]
    scatter: Tensor | None


def plan_attention(lengths: Tensor, max_padding: float = MAX_PADDING) -> _Plan:
    """Group the cells of a packed batch by similar length.

    lengths: (B,) int64, tokens a cell, each at least 1. A group holds at most `max_padding` padded
    positions (as a share of all its positions). Returns index tensors on the CPU.
    """
    lengths = lengths.detach().to("cpu", torch.int64)
    starts = torch.cumsum(lengths, 0) - lengths
    order = torch.argsort(lengths, descending=True, stable=True)
    ordered = lengths[order].tolist()
    if not ordered:
        return _Plan([], None)
    if ordered[0] == ordered[-1]:
        rows = slice(0, ordered[0] * len(ordered))
        return _Plan([_Group(rows, None, len(ordered), ordered[0])], None)

    bounds, first, real = [], 0, 0
    for position, length in enumerate(ordered):
        positions = (position - first + 1) * ordered[first]
        if real + length < (1 - max_padding) * positions:
            bounds.append((first, position))
            first, real = position, 0
        real += length
    bounds.append((first, len(ordered)))

    groups, scatter, base = [], torch.empty(int(lengths.sum()), dtype=torch.int64), 0
    for begin, end in bounds:
        cells, length = order[begin:end], ordered[begin]
        offset = torch.arange(length)
        keep = offset < lengths[cells, None]
        # A padded position repeats its cell's first token: finite, and masked as a key.
        gather = (starts[cells, None] + torch.where(keep, offset, 0)).flatten()
        scatter[gather[keep.flatten()]] = base + torch.nonzero(keep.flatten()).flatten()
        padded = ordered[begin] != ordered[end - 1]
        groups.append(_Group(gather, keep[:, None, None] if padded else None, end - begin, length))
        base += len(gather)
    return _Plan(groups, scatter)


def _to_device(plan: _Plan, device: torch.device) -> _Plan:
    if device.type == "cpu":
        return plan
    groups = [
        group._replace(
            gather=group.gather if isinstance(group.gather, slice) else group.gather.to(device),
            keep=None if group.keep is None else group.keep.to(device),
        )
        for group in plan.groups
    ]
    return _Plan(groups, None if plan.scatter is None else plan.scatter.to(device))


class SelfAttention(nn.Module):
    """Multi-head self-attention within each cell; parameters as in `nn.MultiheadAttention`."""

    def __init__(self, d: int, n_heads: int, dropout: float):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d, d))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d))
        self.out_proj = nn.Linear(d, d)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, states: Tensor, plan: _Plan) -> Tensor:
        qkv = F.linear(states, self.in_proj_weight, self.in_proj_bias)
        dropout = self.dropout if self.training else 0.0
        outputs = []
        for gather, keep, cells, length in plan.groups:
            rows = qkv[gather] if isinstance(gather, slice) else qkv.index_select(0, gather)
            # (3, cells, heads, length, d_head): query, key, value are stacked in this order
            query, key, value = rows.view(cells, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keep, dropout_p=dropout)
            outputs.append(mixed.transpose(1, 2).reshape(cells * length, -1))
        packed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        if plan.scatter is not None:
            packed = packed.index_select(0, plan.scatter)
        return self.out_proj(packed)


class EncoderLayer(nn.Module):
    """Post-norm transformer layer with a ReLU feed-forward part; its output is that of `norm2`."""

    def __init__(self, d: int, n_heads: int, d_hid: int, dropout: float):
        super().__init__()
        self.self_attn = SelfAttention(d, n_heads, dropout)
        self.linear1 = nn.Linear(d, d_hid)
        self.linear2 = nn.Linear(d_hid, d)
        self.norm1 = nn.LayerNorm(d, eps=1e-5)
        self.norm2 = nn.LayerNorm(d, eps=1e-5)
        self.dropout = nn.Dropout(dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, states: Tensor, plan: _Plan) -> Tensor:
        states = self.norm1(states + self.dropout1(self.self_attn(states, plan)))
        inner = self.dropout(F.relu(self.linear1(states)))
        return self.norm2(states + self.dropout2(self.linear2(inner)))


class Encoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(config.embsize, config.nheads, config.d_hid, config.dropout)
            for _ in range(config.nlayers)
        )


class GeneEncoder(nn.Module):
    """Token embedding followed by a LayerNorm."""

    def __init__(self, n_tokens: int, d: int, pad_id: int):
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, d, padding_idx=pad_id)
        self.enc_norm = nn.LayerNorm(d)

    def forward(self, genes: Tensor) -> Tensor:
        return self.enc_norm(self.embedding(genes))


class ValueEncoder(nn.Module):
    """Linear(1, d), ReLU, Linear(d, d), LayerNorm of a value clamped at 512 from above."""

    def __init__(self, d: int, dropout: float):
        super().__init__()
        self.linear1 = nn.Linear(1, d)
        self.linear2 = nn.Linear(d, d)
        self.norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        # Binned cells hold at most 51 bins, <cls> and the mask value: encode each value once.
        distinct, inverse = torch.unique(values, return_inverse=True)
        column = torch.clamp(distinct, max=MAX_VALUE)[:, None]
        encoded = self.norm(self.linear2(F.relu(self.linear1(column))))
        return self.dropout(F.embedding(inverse, encoded))


class ExpressionDecoder(nn.Module):
    """Value of every token from its hidden state."""

    def __init__(self, d: int):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(d, d), nn.LeakyReLU(), nn.Linear(d, d), nn.LeakyReLU(), nn.Linear(d, 1)
        )

    def forward(self, states: Tensor) -> Tensor:
        return self.fc(states).squeeze(-1)


class MVCDecoder(nn.Module):
    """Value of a gene from `<cls>`: sigmoid(gene2query(gene embedding)), W, dot product."""

    def __init__(self, d: int):
        super().__init__()
        self.gene2query = nn.Linear(d, d)
        self.W = nn.Linear(d, d, bias=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.W(torch.sigmoid(self.gene2query(embeddings)))


class ScGPT(nn.Module):
    """scGPT over a vocabulary of `n_tokens` tokens, one of which, `pad_id`, is padding."""

    def __init__(self, config: ModelConfig, n_tokens: int, pad_id: int):
        super().__init__()
        d = config.embsize
        self.config, self.n_tokens, self.pad_id = config, n_tokens, pad_id
        self.encoder = GeneEncoder(n_tokens, d, pad_id)
        # Part of the official checkpoints (generative pretraining); nothing here reads it.
        self.flag_encoder = nn.Embedding(2, d)
        self.value_encoder = ValueEncoder(d, config.dropout)
        self.transformer_encoder = Encoder(config)
        self.decoder = ExpressionDecoder(d)
        if config.MVC:
            self.mvc_decoder = MVCDecoder(d)
        nn.init.uniform_(self.encoder.embedding.weight, -0.1, 0.1)

    @property
    def n_layers(self) -> int:
        return len(self.transformer_encoder.layers)

    def embed(self, genes: Tensor, values: Tensor) -> Tensor:
        """Input embeddings (N, d) of tokens: genes (N,) int64 token ids, values (N,) float32."""
        return self.encoder(genes) + self.value_encoder(values)

    def forward(
        self,
        genes: Tensor,
        values: Tensor,
        lengths: Tensor,
        layers: Iterable[int] | None = None,
        edit: Edit | None = None,
        depth: int | None = None,
    ) -> Hidden:
        """Hidden states of a packed batch.

        genes (N,) int64 token ids and values (N,) float32, the tokens of each cell contiguous with
        `<cls>` first; lengths (B,) int64 with sum N (best kept on the CPU). layers: which layers
        to return (from 0; None: all). edit(layer, states (N, d)) -> states is applied to
        each layer's output, which the next layer then reads. depth: run only that many layers.
        Raises ValueError where the shapes or the layers do not fit.
        """
        depth = self.n_layers if depth is None else depth
        wanted = set(range(depth)) if layers is None else set(layers)
        if not 1 <= depth <= self.n_layers or not wanted <= set(range(depth)):
            raise ValueError(f"layers {sorted(wanted)} of {depth}: the model has {self.n_layers}")
        if not len(genes) == len(values) == int(lengths.sum()) or int(lengths.min()) < 1:
            raise ValueError(
                f"{len(genes)} genes and {len(values)} values for lengths of sum "
                f"{int(lengths.sum())} and minimum {int(lengths.min())}"
            )
        plan = _to_device(plan_attention(lengths), genes.device)
        states, hidden = self.embed(genes, values), Hidden()
        for number, layer in enumerate(self.transformer_encoder.layers[:depth]):
            states = layer(states, plan)
            if edit is not None:
                states = edit(number, states)
            if number in wanted:
                hidden.states[number] = states
        hidden.last = states
        return hidden

    def expression(self, states: Tensor) -> Tensor:
        """Predicted value (N,) of every token from its last hidden state (N, d)."""
        return self.decoder(states)

    def mvc(self, cls: Tensor, genes: Tensor, lengths: Tensor) -> Tensor:
        """Predicted value (N,) of every token's gene from the last `<cls>` state of its cell.

        cls (B, d), genes (N,) int64 packed as in `forward`, lengths (B,) int64. Queries come from
        the normalised gene embedding and depend on the gene alone: each gene is projected once.
        """
        distinct, inverse = torch.unique(genes, return_inverse=True)
        queries = self.mvc_decoder(self.encoder(distinct))
        cell = torch.repeat_interleave(lengths.to(cls.device))
        return (F.embedding(inverse, queries) * F.embedding(cell, cls)).sum(-1)


def cls_rows(lengths: Tensor) -> Tensor:
    """Rows (B,) of the `<cls>` tokens in a packed batch with these lengths (B,)."""
    return torch.cumsum(lengths, 0) - lengths


def initialise(config: ModelConfig, n_tokens: int, pad_id: int, seed: int) -> ScGPT:
    """A model with random weights, drawn as scGPT draws them; the global generator is left alone.

    Gene embeddings are uniform in ±0.1, attention projections Xavier-uniform, all else is
    PyTorch's default. The same seed gives the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ScGPT(config, n_tokens, pad_id)
