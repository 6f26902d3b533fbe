"""The activation store: tokens × d for every chosen layer, with the gene, cell and value of each token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interptfm.errors import InputError
from interptfm.store.arrays import create_zarr, open_zarr, write_array

if TYPE_CHECKING:
    import zarr

CHUNK_TOKENS = 8192
DTYPES = {"float16": np.float16, "float32": np.float32, "bfloat16": np.uint16}
INDEX_ARRAYS = {"gene": np.int32, "cell": np.int32, "value": np.float32}


def encode(values: np.ndarray, dtype: str, mantissa_bits: int | None = None) -> np.ndarray:
    """Turn float32 values into what is stored; bfloat16 is kept as the upper half of the float32 bits.

    Zarr has no bfloat16, hence ``uint16`` on disk. Rounding is to nearest even, as in torch. With
    ``mantissa_bits`` fewer than the dtype has (float16: 10), the others are rounded away: the zeros
    that remain compress, while noise does not (bit rounding: Klöwer et al. 2021, Nat Comput Sci).
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    if dtype != "bfloat16":
        stored = values.astype(DTYPES[dtype])
        if mantissa_bits is None or mantissa_bits >= np.finfo(stored.dtype).nmant:
            return stored
        from numcodecs import BitRound

        return BitRound(mantissa_bits).encode(stored).view(stored.dtype)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def decode(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Turn what is stored back into float32."""
    if dtype != "bfloat16":
        return stored.astype(np.float32)
    return (stored.astype(np.uint32) << 16).view(np.float32)


def _bitshuffle(dtype: str) -> Any:
    """Exponents repeat, mantissas do not: shuffled by bit, activations shrink (float16: by a tenth)."""
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle", typesize=np.dtype(DTYPES[dtype]).itemsize)


class ActivationWriter:
    """Writes one activation file; tokens must arrive in their final order (cell, then token).

    Parameters
    ----------
    path
        ``.zarr.zip`` to create (atomically: nothing stands there before the block ends well).
    layers
        Layer indices, each stored as ``layer_<l>`` (n_tokens × d).
    n_tokens, n_cells, d
        Sizes, known from tokenisation before the first forward pass.
    dtype
        ``float16``, ``float32`` or ``bfloat16``.
    attributes
        Further attributes; ``layers``, ``dtype`` and the sizes are added.
    mantissa_bits
        Bits of the mantissa to keep of float16 and float32 values; None keeps all.
    tokens
        Whether to store the states of gene tokens; without them a file holds ``cls`` and the index arrays.

    Raises
    ------
    InputError
        If a value is not finite or overflows the dtype, or the totals differ from the sizes given.
    """

    def __init__(
        self,
        path: str | Path,
        layers: list[int],
        n_tokens: int,
        n_cells: int,
        d: int,
        dtype: str,
        attributes: dict[str, Any],
        mantissa_bits: int | None = None,
        tokens: bool = True,
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"activations.dtype: found {dtype!r}, expected one of {', '.join(DTYPES)}")
        self.path, self.layers, self.n_tokens, self.n_cells, self.d = (
            Path(path),
            list(layers),
            n_tokens,
            n_cells,
            d,
        )
        self.dtype, self.mantissa_bits = dtype, mantissa_bits
        self.token_layers = self.layers if tokens else []
        self.attributes = {
            **attributes,
            "mantissa_bits": mantissa_bits,
            "layers": self.layers,
            "dtype": dtype,
            "n_tokens": n_tokens,
            "n_cells": n_cells,
            "d": d,
        }

    def __enter__(self) -> ActivationWriter:
        self._stack = contextlib.ExitStack()
        self._group = self._stack.enter_context(create_zarr(self.path, self.attributes))
        self._pending: dict[str, list[np.ndarray]] = {}
        self._arrays: dict[str, zarr.Array] = {}
        self._written: dict[str, int] = {}
        for name, dtype in INDEX_ARRAYS.items():
            self._create(name, (self.n_tokens,), dtype)
        for layer in self.token_layers:
            self._create(
                f"layer_{layer}",
                (self.n_tokens, self.d),
                DTYPES[self.dtype],
                compressors=_bitshuffle(self.dtype),
            )
        self._cls = np.zeros((len(self.layers), self.n_cells, self.d), DTYPES[self.dtype])
        self._cls_done = np.zeros(self.n_cells, bool)
        return self

    def _create(self, name: str, shape: tuple[int, ...], dtype: Any, **options: Any) -> None:
        self._pending[name], self._written[name] = [], 0
        self._arrays[name] = self._group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=(CHUNK_TOKENS, *shape[1:]),
            fill_value=0,
            **options,
        )

    def write(
        self, gene: np.ndarray, cell: np.ndarray, value: np.ndarray, states: dict[int, np.ndarray]
    ) -> None:
        """Append tokens: ``gene``, ``cell``, ``value`` (n,) and per layer ``states[l]`` (n × d) float32."""
        for name, data in (("gene", gene), ("cell", cell), ("value", value)):
            self._append(name, np.asarray(data, INDEX_ARRAYS[name]))
        for layer in self.token_layers:
            self._append(f"layer_{layer}", self._checked(states[layer], layer))

    def write_cls(self, start: int, states: np.ndarray) -> None:
        """Store `<cls>` states (layers × n × d) of the cells ``start`` … ``start + n`` in sorted order."""
        stop = start + states.shape[1]
        for i, layer in enumerate(self.layers):
            self._cls[i, start:stop] = self._checked(states[i], layer)
        self._cls_done[start:stop] = True

    def _checked(self, states: np.ndarray, layer: int) -> np.ndarray:
        if not np.isfinite(states).all():
            raise InputError(
                f"{self.path}: found activations that are not finite in layer {layer}, expected numbers"
            )
        if self.dtype == "float16" and states.size and np.abs(states).max() > np.finfo(np.float16).max:
            raise InputError(
                f"{self.path}: found an activation of {np.abs(states).max():.3g} in layer {layer}, "
                "expected at most 65504 for activations.dtype float16; use bfloat16 or float32"
            )
        return encode(states, self.dtype, self.mantissa_bits)

    def _append(self, name: str, data: np.ndarray, final: bool = False) -> None:
        pending = self._pending[name]
        if len(data):
            pending.append(data)
        total = sum(map(len, pending))
        if total < CHUNK_TOKENS and not (final and total):
            return
        joined = np.concatenate(pending)
        keep = len(joined) if final else len(joined) - len(joined) % CHUNK_TOKENS
        start = self._written[name]
        if start + keep > self.n_tokens:
            raise InputError(f"{self.path}: found more than the {self.n_tokens} tokens that were announced")
        # One chunk at a time: concurrent chunk writes would enter the zip in any order.
        for first in range(0, keep, CHUNK_TOKENS):
            last = min(first + CHUNK_TOKENS, keep)
            self._arrays[name][start + first : start + last] = joined[first:last]
        self._written[name] = start + keep
        self._pending[name] = [joined[keep:].copy()] if keep < len(joined) else []

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        if kind is not None:
            return self._stack.__exit__(kind, error, trace)
        try:
            for name in self._arrays:
                self._append(
                    name,
                    np.empty((0, *self._arrays[name].shape[1:]), self._arrays[name].dtype),
                    final=True,
                )
                if self._written[name] != self.n_tokens:
                    raise InputError(
                        f"{self.path}: found {self._written[name]} tokens in {name}, expected {self.n_tokens}"
                    )
            if not self._cls_done.all():
                raise InputError(
                    f"{self.path}: found {self._cls_done.sum()} <cls> rows, expected {self.n_cells}"
                )
            write_array(self._group, "cls", self._cls, chunks=(1, max(1, self.n_cells), self.d))
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._stack.close()
        return None


class Activations:
    """An open activation file (see :func:`open_activations`)."""

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path, self._group = path, group
        self.attributes: dict[str, Any] = dict(group.attrs)
        missing = [key for key in ("layers", "dtype", "n_tokens", "d") if key not in self.attributes]
        if missing:
            raise InputError(f"{path}: found no attribute {missing[0]!r}, expected an activation store")
        self.layers: list[int] = list(self.attributes["layers"])
        self.n_tokens, self.d = int(self.attributes["n_tokens"]), int(self.attributes["d"])
        self.dtype: str = self.attributes["dtype"]
        self.gene: np.ndarray = group["gene"][:]
        self.cell: np.ndarray = group["cell"][:]
        self.value: np.ndarray = group["value"][:]

    def rows(self, layer: int, start: int, stop: int) -> np.ndarray:
        """Return activations of the tokens ``start`` … ``stop`` of one layer, float32 (n × d)."""
        return decode(self._array(layer)[start:stop], self.dtype)

    def blocks(self, layer: int, size: int = 4 * CHUNK_TOKENS) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield ``(start, stop, activations float32)`` over all tokens of one layer."""
        for start in range(0, self.n_tokens, size):
            stop = min(start + size, self.n_tokens)
            yield start, stop, self.rows(layer, start, stop)

    def cls(self, layer: int) -> np.ndarray:
        """Return the `<cls>` states of one layer, float32 (cells × d), rows as the sorted unique ``cell``."""
        self._check_layer(layer)
        return decode(self._group["cls"][self.layers.index(layer)], self.dtype)

    def _check_layer(self, layer: int) -> None:
        if layer not in self.layers:
            raise InputError(f"{self.path}: found layers {self.layers}, expected layer {layer} among them")

    def _array(self, layer: int) -> zarr.Array:
        self._check_layer(layer)
        if f"layer_{layer}" not in self._group:
            raise InputError(
                f"{self.path}: found `<cls>` states only, expected those of gene tokens; "
                "it was extracted with activations.tokens off"
            )
        return self._group[f"layer_{layer}"]


@contextlib.contextmanager
def open_activations(path: str | Path) -> Iterator[Activations]:
    """Open an activation file for reading; damage met inside the block becomes an :class:`InputError`."""
    with open_zarr(path) as group:
        yield Activations(Path(path), group)
