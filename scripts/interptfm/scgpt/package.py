"""The ``scgpt`` package's own model as back end of extraction (``model.backend: scgpt``).

For those who want the reference implementation to make the numbers: its transformer runs padded groups of
cells of similar length, and what leaves here is packed like the states of
:class:`interptfm.scgpt.model.ScGPT`, so that the activation store is the same. Weights come
through this library's loader, which checks every key.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interptfm.errors import InputError
from interptfm.scgpt.model import Hidden, ScGPT, plan_attention

# Weights that one of the two models lacks and no hidden state depends on: the package's classifier of cells,
# and a flag of generative pretraining.
UNREAD = ("cls_decoder.", "flag_encoder.")


def transformer_class() -> type[nn.Module]:
    """Return ``scgpt.model.model.TransformerModel``, imported without the packages around it.

    ``import scgpt`` wants scvi-tools, torchtext and more, which few environments hold together and the model
    does not use: its module is imported under bare packages that are gone again afterwards.

    Raises
    ------
    InputError
        Where the package is not installed, or its module does not import.
    """
    expected = (
        "expected the package scgpt in the Python of rule extract: use conda (envs/scgpt.yaml), name a "
        "Python under 'environments.scgpt', or pip install --no-deps scgpt"
    )
    spec = importlib.util.find_spec("scgpt")
    if spec is None or not spec.origin:
        raise InputError(f"model.backend: found scgpt, but no such package in {sys.prefix}; {expected}")
    folder = Path(spec.origin).parent
    with _bare_packages({"scgpt": folder, "scgpt.model": folder / "model"}):
        try:
            return importlib.import_module("scgpt.model.model").TransformerModel
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"model.backend: found scgpt in {folder}, whose model does not import ({error}); {expected}"
            ) from None


@contextlib.contextmanager
def _bare_packages(folders: dict[str, Path]) -> Iterator[None]:
    """Let submodules be imported from ``folders`` without running the ``__init__`` files above them."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "scgpt"}
    for name in before:
        del sys.modules[name]
    for name, folder in folders.items():
        package: Any = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flash_attn is not installed")
            yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "scgpt"]:
            del sys.modules[name]
        sys.modules.update(before)


class PackageNetwork(nn.Module):
    """The package's transformer behind the interface of :class:`ScGPT` that extraction uses.

    Parameters
    ----------
    network
        The checkpoint as this library loads it; its weights are given to the package's model.
    transformer
        The class to build, by default the installed package's.

    Raises
    ------
    InputError
        Where the package is missing, or its model wants weights that the checkpoint does not have.
    """

    def __init__(self, network: ScGPT, transformer: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.config, self.pad_id = network.config, network.pad_id
        config = network.config
        self.model = (transformer or transformer_class())(
            ntoken=network.n_tokens,
            d_model=config.embsize,
            nhead=config.nheads,
            d_hid=config.d_hid,
            nlayers=config.nlayers,
            nlayers_cls=config.n_layers_cls,
            vocab={"<pad>": network.pad_id},
            dropout=config.dropout,
            pad_token="<pad>",
            pad_value=config.pad_value,
            do_mvc=config.MVC,
            use_fast_transformer=False,
        )
        found = self.model.load_state_dict(network.state_dict(), strict=False)
        lacking = [key for key in found.missing_keys if not key.startswith(UNREAD)]
        unknown = [key for key in found.unexpected_keys if not key.startswith(UNREAD)]
        if lacking or unknown:
            key = (lacking + unknown)[0]
            raise InputError(
                f"model.backend: found weight {key} only {'there' if lacking else 'in the checkpoint'}, "
                "expected the package scgpt (0.2) to have the checkpoint's architecture"
            )
        self.eval()

    @property
    def n_layers(self) -> int:
        return len(self.model.transformer_encoder.layers)

    def forward(
        self,
        genes: Tensor,
        values: Tensor,
        lengths: Tensor,
        layers: Iterable[int] | None = None,
        depth: int | None = None,
    ) -> Hidden:
        """Hidden states of a packed batch; arguments and result as of :meth:`ScGPT.forward`.

        ``depth`` is not used: the package has no way to stop early.
        """
        wanted, device = set(range(self.n_layers) if layers is None else layers), genes.device
        plan = plan_attention(lengths)
        outputs: dict[int, list[Tensor]] = {number: [] for number in {*wanted, self.n_layers - 1}}

        def keep(number: int) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda module, inputs, output: outputs[number].append(output.flatten(0, 1))

        handles = [
            self.model.transformer_encoder.layers[number].norm2.register_forward_hook(keep(number))
            for number in outputs
        ]
        try:
            with _no_fast_path():
                # Padded to the longest cell of a batch, one long cell would multiply time and memory.
                for group in plan.groups:
                    rows = group.gather if isinstance(group.gather, slice) else group.gather.to(device)
                    shape = (group.cells, group.length)
                    padding = torch.zeros(shape, dtype=torch.bool, device=device)
                    if group.keep is not None:
                        padding = ~group.keep.view(shape).to(device)
                    self.model._encode(
                        genes[rows].view(shape).masked_fill(padding, self.pad_id),
                        values[rows].view(shape).masked_fill(padding, self.config.pad_value),
                        padding,
                    )
        finally:
            for handle in handles:
                handle.remove()
        packed = {}
        for number in sorted(outputs):
            states = torch.cat(outputs.pop(number))
            packed[number] = states if plan.scatter is None else states[plan.scatter.to(device)]
        return Hidden({number: packed[number] for number in sorted(wanted)}, packed[self.n_layers - 1])


@contextlib.contextmanager
def _no_fast_path() -> Iterator[None]:
    """Keep ``nn.TransformerEncoder`` off its fused path, where hooks see no states."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
