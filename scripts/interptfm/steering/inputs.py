"""Interventions on the input: the value of a gene swapped, as in-silico knock-down and over-expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interptfm.errors import InputError
from interptfm.scgpt.tokenizer import Tokens

KINDS = ("knock-down", "over-expression")


@dataclass(frozen=True)
class InputValue:
    """The value v of one gene becomes v + s (target − v): 0 for a knock-down, `top` for over-expression.

    column: the gene's column of the count matrix; token_id: its id; top: the largest value (`n_bins` − 1).
    A value below ½ has no token, as in pretraining, where genes with no count have none. Other genes keep
    their bins.
    """

    column: int
    token_id: int
    kind: str = "knock-down"
    top: float = 50.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(
                f"steering: found input change {self.kind!r}, expected one of {', '.join(KINDS)}"
            )


def gene_rows(tokens: Tokens, column: int, name: str = "") -> np.ndarray:
    """Rows (n,) int64 of a gene's token in every packed cell.

    Raises InputError naming the first cell (by its place) that has no token of the gene.
    """
    rows = np.flatnonzero(tokens.var == column)
    cells = np.searchsorted(tokens.starts, rows, side="right") - 1
    if len(rows) < len(tokens):
        lacking = np.setdiff1d(np.arange(len(tokens)), cells)[0]
        raise InputError(
            f"steering: found no token of gene {name or column} in cell {lacking}, expected cells that "
            "express it"
        )
    return rows


def having(tokens: Tokens, column: int) -> np.ndarray:
    """Return the cells (by place, int64) that have a token of a gene."""
    rows = np.flatnonzero(tokens.var == column)
    return np.searchsorted(tokens.starts, rows, side="right") - 1


def column_of(gene: str, symbols: Sequence[str], ids: np.ndarray) -> int:
    """Column of a gene that the model can be given; `ids` (genes,) token ids, −1 where unknown.

    Raises InputError where the data or the vocabulary lacks the gene.
    """
    symbols = [str(symbol) for symbol in symbols]
    if gene not in symbols:
        raise InputError(f"steering: found no gene {gene!r} in the data, expected one of its {len(symbols)}")
    column = symbols.index(gene)
    if ids[column] < 0:
        raise InputError(f"steering: found no gene {gene!r} in the model's vocabulary, expected it there")
    return column


def swap(tokens: Tokens, change: InputValue, dose: float) -> Tokens:
    """Tokens with the gene's value swapped in every cell, as :class:`InputValue` says.

    Over-expression puts a token, in the order of columns, into a cell that lacks one. Raises InputError for
    a knock-down in a cell without the gene.
    """
    if dose == 0:
        return tokens
    if change.kind == "knock-down":
        gene_rows(tokens, change.column)
    target = 0.0 if change.kind == "knock-down" else change.top
    genes, values, var, lengths = [], [], [], []
    for start, length in zip(tokens.starts, tokens.lengths, strict=True):
        part = slice(start, start + length)
        v, g, x = tokens.var[part], tokens.genes[part], tokens.values[part].copy()
        place = int(np.searchsorted(v, change.column))
        if place == len(v) or v[place] != change.column:
            v = np.insert(v, place, change.column)
            g, x = np.insert(g, place, change.token_id), np.insert(x, place, np.float32(0))
        x[place] = np.rint(x[place] + dose * (target - x[place]))
        if x[place] < 0.5:
            v, g, x = (np.delete(each, place) for each in (v, g, x))
        x = np.where(v >= 0, np.minimum(x, change.top), x)
        genes.append(g), values.append(x), var.append(v), lengths.append(len(v))
    return Tokens(
        np.concatenate(genes),
        np.concatenate(values).astype(np.float32),
        np.array(lengths, np.int64),
        np.concatenate(var).astype(np.int32),
        tokens.truncated,
    )
