"""The `scgpt` package's own model and tokeniser, for comparison.

Its submodules are imported without the package's `__init__` (which wants scvi, torchtext and more), with
torchtext, flash-attn and scanpy replaced by what the imports need.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch

SUBMODULES = ("model.model", "tokenizer.gene_tokenizer", "preprocess", "data_collator")


class Vocab:
    """The part of torchtext's Vocab that scGPT's GeneVocab uses: tokens in the order of their ids."""

    def __init__(self, tokens):
        self.vocab = list(tokens.vocab if isinstance(tokens, Vocab) else tokens)
        self._ids = {token: number for number, token in enumerate(self.vocab)}
        self._default = None

    def __contains__(self, token):
        return token in self._ids

    def __len__(self):
        return len(self.vocab)

    def __getitem__(self, token):
        return self._ids.get(token, self._default)

    def __call__(self, tokens):
        return [self[token] for token in tokens]

    def insert_token(self, token, index):
        if index != len(self.vocab):
            raise ValueError(f"token {token} with id {index} after {len(self.vocab)} tokens")
        self._ids[token] = index
        self.vocab.append(token)

    def append_token(self, token):
        self.insert_token(token, len(self.vocab))

    def set_default_index(self, index):
        self._default = index


def absent() -> str | None:
    """Why the comparison cannot run, or None."""
    return None if importlib.util.find_spec("scgpt") else "the scgpt wheel is not installed"


@functools.cache
def modules() -> types.SimpleNamespace:
    """scGPT's submodules `model`, `gene_tokenizer`, `preprocess` and `data_collator`."""
    folder = Path(importlib.util.find_spec("scgpt").origin).parent
    stubs = {}
    for name in ("torchtext", "torchtext.vocab", "flash_attn", "scanpy", "scanpy.get"):
        stubs[name] = types.ModuleType(name)
    stubs["torchtext"].vocab = stubs["torchtext.vocab"]
    stubs["torchtext.vocab"].Vocab = Vocab
    stubs["torchtext.vocab"].vocab = lambda counter, min_freq=1: Vocab(list(counter))
    stubs["scanpy"].get = stubs["scanpy.get"]
    stubs["scanpy.get"]._get_obs_rep = stubs["scanpy.get"]._set_obs_rep = None
    for name, path in (("", folder), (".model", folder / "model"), (".tokenizer", folder / "tokenizer")):
        package = types.ModuleType(f"scgpt{name}")
        package.__path__ = [str(path)]
        package.logger = logging.getLogger("scGPT")
        stubs[f"scgpt{name}"] = package
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {s.split(".")[-1]: importlib.import_module(f"scgpt.{s}") for s in SUBMODULES}
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        for name in [name for name in sys.modules if name.split(".")[0] == "scgpt"]:
            del sys.modules[name]
    return types.SimpleNamespace(**found)


def vocabulary(path: Path):
    """scGPT's GeneVocab of a `vocab.json`, special tokens appended as scGPT's tasks do."""
    vocab = modules().gene_tokenizer.GeneVocab.from_file(path)
    for token in ("<pad>", "<cls>", "<eoc>"):
        if token not in vocab:
            vocab.append_token(token)
    return vocab


def model(config, n_tokens: int, pad_id: int, seed: int) -> torch.nn.Module:
    """scGPT's TransformerModel with every parameter drawn away from its neutral start."""
    torch.manual_seed(seed)
    network = modules().model.TransformerModel(
        ntoken=n_tokens,
        d_model=config.embsize,
        nhead=config.nheads,
        d_hid=config.d_hid,
        nlayers=config.nlayers,
        nlayers_cls=config.n_layers_cls,
        vocab={"<pad>": pad_id},
        dropout=config.dropout,
        pad_token="<pad>",
        pad_value=config.pad_value,
        do_mvc=config.MVC,
        use_fast_transformer=False,
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval()


@contextlib.contextmanager
def no_fast_path():
    """Keep `nn.TransformerEncoder` off its fused path, where hooks see no states."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@torch.no_grad()
def outputs(network, genes, values, padding) -> dict[str, torch.Tensor]:
    """`layer_<l>` (cells, length, d), `expression` and `mvc` (cells, length) of a padded batch."""
    states, handles = {}, []
    for number, layer in enumerate(network.transformer_encoder.layers):

        def keep(module, inputs, output, name=f"layer_{number}"):
            states[name] = output

        handles.append(layer.norm2.register_forward_hook(keep))
    try:
        with no_fast_path():
            result = network(genes, values, padding, MVC=True)
    finally:
        for handle in handles:
            handle.remove()
    return states | {"expression": result["mlm_output"], "mvc": result["mvc_output"]}


@contextlib.contextmanager
def digitize_side(side: str):
    """scGPT's binning with this tie rule ("one": the deterministic one of its pretraining)."""
    module = modules().preprocess
    original = module._digitize
    module._digitize = functools.partial(original, side=side)
    try:
        yield module
    finally:
        module._digitize = original


def tokens(counts: np.ndarray, gene_ids: np.ndarray, vocab, pad_value: int = -2, side: str = "one"):
    """Padded gene ids, values and padding mask (cells, length) as scGPT's `embed_data` makes them.

    counts: dense (cells x genes); gene_ids: ids of those genes, all in the vocabulary.
    """
    examples = []
    for number, row in enumerate(counts):
        positive = np.nonzero(row)[0]
        examples.append(
            {
                "id": number,
                "genes": torch.from_numpy(np.insert(gene_ids[positive], 0, vocab["<cls>"])).long(),
                "expressions": torch.from_numpy(np.insert(row[positive], 0, pad_value)).float(),
            }
        )
    collator = modules().data_collator.DataCollator(
        do_padding=True,
        pad_token_id=vocab["<pad>"],
        pad_value=pad_value,
        do_mlm=False,
        do_binning=True,
        max_length=1200,
        sampling=True,
        keep_first_n_tokens=1,
    )
    with digitize_side(side):
        batch = collator(examples)
    return batch["gene"], batch["expr"], batch["gene"].eq(vocab["<pad>"])


def embed_batches(counts: np.ndarray, gene_ids: np.ndarray, vocab, size: int):
    """`tokens` in padded batches of `size` cells, in their order."""
    for start in range(0, len(counts), size):
        yield tokens(counts[start : start + size], gene_ids, vocab)
