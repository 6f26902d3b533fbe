"""Tokens for training, mixed from all activation files in a bounded buffer; held-out blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interptfm import store
from interptfm.errors import InputError

BLOCK_TOKENS = 8192  # the stores' chunk: a smaller block would read chunks twice
TOKEN_KINDS = ("gene", "cls")


def token_splits(path: str | Path, cell_splits: Mapping[str, np.ndarray], tokens: str = "gene") -> np.ndarray:
    """Return the split of each token of one activation file, as the strings of its cells' ``obs["split"]``.

    Parameters
    ----------
    path
        Activation file; its attribute ``sample`` names the sample.
    cell_splits
        By sample: the split of every cell of that sample, in the order of ``obs``.
    tokens
        ``gene`` (one value a gene token) or ``cls`` (one a cell of the file).

    Raises
    ------
    InputError
        If the file's sample is not among ``cell_splits`` or a token's cell does not exist.
    """
    with store.open_activations(path) as activations:
        sample = activations.attributes.get("sample")
        if sample not in cell_splits:
            raise InputError(
                f"{path}: found activations of sample {sample!r}, expected one of {', '.join(cell_splits)}"
            )
        splits = np.asarray(cell_splits[sample]).astype(str)
        cells = np.unique(activations.cell) if tokens == "cls" else activations.cell
    if len(cells) and (cells.min() < 0 or cells.max() >= len(splits)):
        raise InputError(
            f"{path}: found cell {int(cells.max())}, expected indices below the {len(splits)} cells of "
            f"sample {sample!r}"
        )
    return splits[cells]


def selected_blocks(
    paths: Sequence[str | Path],
    layer: int,
    selectors: Sequence[np.ndarray],
    tokens: str = "gene",
    size: int = BLOCK_TOKENS,
) -> Iterator[np.ndarray]:
    """Yield float32 (n × d) blocks of the selected tokens, file after file, n ≤ ``size``, none empty."""
    for path, selector in zip(paths, selectors, strict=True):
        with store.open_activations(path) as activations:
            for start in range(0, len(selector), size):
                chosen = selector[start : start + size]
                if chosen.any():
                    yield _read(activations, layer, tokens, start, start + len(chosen))[chosen]


def _read(activations: store.Activations, layer: int, tokens: str, start: int, stop: int) -> np.ndarray:
    rows = activations.cls(layer)[start:stop] if tokens == "cls" else activations.rows(layer, start, stop)
    if not np.isfinite(rows).all():
        raise InputError(
            f"{activations.path}: found activations that are not finite in layer {layer}, expected numbers"
        )
    return rows


class TokenBuffer:
    """Shuffled batches of the selected tokens of all files, without end, from one bounded buffer.

    What fits ``buffer_bytes`` is read once and reshuffled each epoch. Otherwise blocks of all files
    enter in random order, each once an epoch; whenever half of the buffer has been used, the next
    blocks take the used places and everything is reshuffled.

    Parameters
    ----------
    paths
        Activation files (one a sample and shard).
    layer
        Layer to read.
    selectors
        Per file a bool array: which tokens (of ``gene`` tokens, or of ``cls`` rows) take part.
    batch_tokens
        Tokens a batch.
    rng
        Decides every order; the same generator state gives the same batches.
    buffer_bytes
        Bound on the buffered float32 rows.
    tokens
        ``gene`` or ``cls``.

    Raises
    ------
    InputError
        If the files' widths differ, a selector does not fit its file, there are fewer tokens than a
        batch, the buffer cannot hold two batches or blocks, or activations are not finite.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        layer: int,
        selectors: Sequence[np.ndarray],
        batch_tokens: int,
        rng: np.random.Generator,
        buffer_bytes: float = 1e9,
        tokens: str = "gene",
        block_tokens: int = BLOCK_TOKENS,
    ) -> None:
        self.paths, self.layer, self.tokens = [Path(path) for path in paths], layer, tokens
        self.batch_tokens = batch_tokens
        self._selectors = [np.asarray(selector, bool) for selector in selectors]
        self.d = self._check_files()
        self._starts = np.concatenate([[0], np.cumsum([len(s) for s in self._selectors])])
        self._blocks = self._list_blocks(block_tokens)
        self.n_tokens = int(sum(selector.sum() for selector in self._selectors))
        if self.n_tokens < batch_tokens:
            raise InputError(
                f"activations of layer {layer}: found {self.n_tokens} training tokens in {len(self.paths)} "
                f"file(s), expected at least one batch (batch_tokens = {batch_tokens})"
            )
        room = int(buffer_bytes) // (4 * self.d)
        self.resident = self.n_tokens <= room
        largest = max(len(rows) for rows in self._blocks)
        if not self.resident and room < 2 * max(largest, batch_tokens):
            raise InputError(
                f"dictionaries.buffer_bytes: found {int(buffer_bytes)}, room for {room} tokens of width "
                f"{self.d}, expected at least {8 * self.d * max(largest, batch_tokens)} "
                "(two blocks or batches)"
            )
        self.capacity = self.n_tokens if self.resident else room
        self._initial_state = rng.bit_generator.state
        self._rng = np.random.Generator(type(rng.bit_generator)())
        self._data = np.empty((self.capacity, self.d), np.float32)
        self._token = np.full(self.capacity, -1, np.int64)  # which token belongs in each slot
        self._loaded = np.zeros(self.capacity, bool)  # whether it stands there already
        self._restart()
        self._load_slots()

    def _check_files(self) -> int:
        if len(self.paths) != len(self._selectors) or not self.paths:
            raise InputError(
                f"activations: found {len(self.paths)} files and {len(self._selectors)} selectors, "
                "expected one selector a file and at least one file"
            )
        widths: dict[int, Path] = {}
        for path, selector in zip(self.paths, self._selectors, strict=True):
            with store.open_activations(path) as activations:
                if self.layer not in activations.layers:
                    raise InputError(
                        f"{path}: found layers {activations.layers}, expected layer {self.layer} among them"
                    )
                n = activations.attributes["n_cells"] if self.tokens == "cls" else activations.n_tokens
                widths.setdefault(activations.d, path)
            if len(selector) != n:
                raise InputError(
                    f"{path}: found {n} {self.tokens} tokens, expected {len(selector)} as the selector has"
                )
        if len(widths) > 1:
            (d, first), (other, second) = list(widths.items())[:2]
            raise InputError(f"{second}: found activations of width {other}, expected {d} as in {first}")
        return next(iter(widths))

    def _list_blocks(self, block_tokens: int) -> list[np.ndarray]:
        """Token numbers (file start + row) of each block, blocks without selected tokens left out."""
        blocks = []
        for start, selector in zip(self._starts, self._selectors, strict=False):
            # `cls` rows are one array of the file: reading it in parts would decode it many times.
            size = block_tokens if self.tokens == "gene" else max(1, len(selector))
            for first in range(0, len(selector), size):
                rows = np.flatnonzero(selector[first : first + size])
                if len(rows):
                    blocks.append(start + first + rows)
        return blocks

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the batches: file digests, layer, selection, sizes, generator state."""
        import hashlib

        selection = hashlib.sha256()
        for selector in self._selectors:
            selection.update(np.packbits(selector).tobytes() + str(len(selector)).encode())
        return {
            "files": [f"{path.name} {store.digest(path)}" for path in self.paths],
            "layer": self.layer,
            "tokens": self.tokens,
            "selection": selection.hexdigest(),
            "batch_tokens": self.batch_tokens,
            "capacity": self.capacity,
            "generator": str(self._initial_state),
        }

    def sample(self) -> np.ndarray:
        """Return the rows of the first fill, float32 (n × d), as a view; to be used before any batch."""
        return self._data[: len(self._order)]

    def batch(self) -> np.ndarray:
        """Return the next batch, float32 (batch_tokens × d)."""
        return self._data[self._advance(self._load_slots)]

    def seek(self, n_batches: int) -> None:
        """Go to the state after ``n_batches`` batches from the start, reading only what it then holds."""
        self._restart()
        for _ in range(n_batches):
            self._advance(None)
        self._load_slots()

    def _restart(self) -> None:
        self._rng.bit_generator.state = self._initial_state
        self._order, self._cursor = np.empty(0, np.int64), 0
        self._queue: list[int] = []
        self._refill()

    def _advance(self, load: Any) -> np.ndarray:
        """Return the slots of the next batch; refill (and ``load``, unless replaying) where needed."""
        left = len(self._order) - self._cursor
        if self.resident and left < self.batch_tokens:
            tail = self._order[self._cursor :]
            self._order = self._rng.permutation(self.capacity)
            self._cursor = self.batch_tokens - left
            return np.concatenate([tail, self._order[: self._cursor]])
        if not self.resident and left < max(self.batch_tokens, self.capacity // 2):
            self._refill()
            if load is not None:
                load()
        slots = self._order[self._cursor : self._cursor + self.batch_tokens]
        self._cursor += self.batch_tokens
        return slots

    def _refill(self) -> None:
        """Put the next blocks into the free slots (their numbers only) and reshuffle what is there."""
        left = self._order[self._cursor :]
        is_free = np.ones(self.capacity, bool)
        is_free[left] = False
        free = np.flatnonzero(is_free)
        taken = 0
        while True:
            if not self._queue:
                if self.resident and taken:
                    break
                self._queue = self._rng.permutation(len(self._blocks)).tolist()
            rows = self._blocks[self._queue[-1]]
            if taken + len(rows) > len(free):
                break
            self._queue.pop()
            slots = free[taken : taken + len(rows)]
            self._loaded[slots] &= self._token[slots] == rows
            self._token[slots] = rows
            taken += len(rows)
        self._order = self._rng.permutation(np.concatenate([left, free[:taken]]))
        self._cursor = 0

    def _load_slots(self) -> None:
        """Read the rows of all slots in use that are not in memory yet, block by block."""
        wanted = self._order[self._cursor :] if not self.resident else np.arange(self.capacity)
        wanted = wanted[~self._loaded[wanted]]
        wanted = wanted[np.argsort(self._token[wanted], kind="stable")]
        token = self._token[wanted]
        for number, path in enumerate(self.paths):
            first, last = np.searchsorted(token, self._starts[number : number + 2])
            if first == last:
                continue
            rows, slots = token[first:last] - self._starts[number], wanted[first:last]
            with store.open_activations(path) as activations:
                for part in _runs(rows, BLOCK_TOKENS if self.tokens == "gene" else None):
                    low, high = int(rows[part][0]), int(rows[part][-1]) + 1
                    block = _read(activations, self.layer, self.tokens, low, high)
                    self._data[slots[part]] = block[rows[part] - low]
        self._loaded[wanted] = True


def _runs(rows: np.ndarray, size: int | None) -> list[slice]:
    """Cut sorted row numbers into slices that each lie in one block of ``size`` rows."""
    if size is None:
        return [slice(0, len(rows))]
    cuts = np.flatnonzero(np.diff(rows // size)) + 1
    edges = [0, *cuts.tolist(), len(rows)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]
