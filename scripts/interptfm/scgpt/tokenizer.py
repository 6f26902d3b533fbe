"""From raw counts to scGPT tokens: the vocabulary, binning, `<cls>` and truncation.

scGPT reads the non-zero raw counts of a cell, binned within the cell into quantile bins (Cui et al.
2024; `scgpt.preprocess`, `scgpt.data_collator`). Everything here depends on one cell at a time, its
name and the seed: never on the batch, the shard or the order of cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from interptfm.errors import InputError

PAD, CLS, EOC = SPECIAL = ("<pad>", "<cls>", "<eoc>")
PAD_VALUE = -2
"""Value of `<cls>` (and of padding) in scGPT."""
MODES = ("binned", "log1p", "raw")
MIN_FOUND = 0.5
"""Share of genes that the vocabulary must hold."""


@dataclass(frozen=True)
class Match:
    """Genes looked up in a vocabulary: ids (n,) int64, -1 where missing, and the missing names."""

    ids: np.ndarray
    missing: list[str]

    @property
    def n_found(self) -> int:
        return len(self.ids) - len(self.missing)

    @property
    def fraction(self) -> float:
        return self.n_found / len(self.ids)


class Vocabulary:
    """Token names and their ids 0..n-1, with `<pad>`, `<cls>` and `<eoc>` among them."""

    def __init__(self, tokens: Sequence[str]):
        """tokens: names in the order of their ids; missing special tokens are appended in the
        order `<pad>`, `<cls>`, `<eoc>`. Raises InputError where a name occurs twice."""
        tokens = [str(token) for token in tokens]
        present = set(tokens)
        tokens += [token for token in SPECIAL if token not in present]
        self.tokens: tuple[str, ...] = tuple(tokens)
        self._id = {token: number for number, token in enumerate(self.tokens)}
        if len(self._id) != len(self.tokens):
            seen: set[str] = set()
            twice = next(token for token in self.tokens if token in seen or seen.add(token))
            raise InputError(f"vocabulary: token {twice!r} occurs twice, expected unique names")

    @classmethod
    def from_json(cls, path: str | Path) -> Vocabulary:
        """Read a `vocab.json`, an object of name: id with ids 0..n-1 in any order.

        Raises InputError where the file is absent, no such object, or the ids have gaps or repeat.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path}: vocabulary not found, expected a vocab.json") from None
        except ValueError as error:
            raise InputError(f"{path}: no valid JSON ({error}), expected a vocab.json") from None
        if not isinstance(content, dict) or not content:
            raise InputError(f"{path}: expected an object of token names and ids")
        tokens: list[str | None] = [None] * len(content)
        for token, number in content.items():
            valid = type(number) is int and 0 <= number < len(tokens)
            if not valid or tokens[number] is not None:
                raise InputError(
                    f"{path}: token {token!r} has id {number!r}, expected each of 0..{len(tokens) - 1} once"
                )
            tokens[number] = token
        return cls(tokens)

    @classmethod
    def from_genes(cls, symbols: Iterable[str]) -> Vocabulary:
        """Vocabulary of these genes in their order, special tokens last."""
        return cls(list(symbols))

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

    @property
    def pad_id(self) -> int:
        return self._id[PAD]

    @property
    def cls_id(self) -> int:
        return self._id[CLS]

    def ids(self, symbols: Iterable[str]) -> np.ndarray:
        """Ids (n,) int64 of gene symbols; -1 where the vocabulary lacks one (special tokens are no
        genes, so they count as lacking)."""
        return np.array(
            [-1 if symbol in SPECIAL else self._id.get(symbol, -1) for symbol in symbols], np.int64
        )

    def match(self, symbols: Iterable[str]) -> Match:
        """Look up the genes of a data set.

        Raises InputError, with examples of both namings, where fewer than half are found.
        """
        symbols = [str(symbol) for symbol in symbols]
        ids = self.ids(symbols)
        missing = [symbol for symbol, number in zip(symbols, ids, strict=True) if number < 0]
        if not symbols or 1 - len(missing) / len(symbols) < MIN_FOUND:
            genes = [token for token in self.tokens if token not in SPECIAL]
            raise InputError(
                f"vocabulary: {len(symbols) - len(missing)} of {len(symbols)} genes found, "
                f"expected at least {MIN_FOUND:.0%}; the data names genes like {_examples(missing)}, the "
                f"vocabulary like {_examples(genes)}"
            )
        return Match(ids, missing)

    def to_json(self, path: str | Path) -> None:
        """Write the object of name: id that `from_json` and scGPT read."""
        content = {token: number for number, token in enumerate(self.tokens)}
        Path(path).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _examples(names: Sequence[str], n: int = 4) -> str:
    return ", ".join(names[:n]) if names else "(none)"


@dataclass
class Tokens:
    """Tokens of n cells, one cell after the other, `<cls>` first in each.

    genes (N,) int64 token ids; values (N,) float32; lengths (n,) int64 tokens a cell with `<cls>`
    (1 where a cell has no gene of the vocabulary); var (N,) int32 column of the count matrix, -1
    for `<cls>`; truncated (n,) bool, True where genes were left out for `max_length`.
    """

    genes: np.ndarray
    values: np.ndarray
    lengths: np.ndarray
    var: np.ndarray
    truncated: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> np.ndarray:
        """Row (n,) int64 of every cell's `<cls>` token."""
        return np.cumsum(self.lengths) - self.lengths

    def take(self, cells: np.ndarray) -> Tokens:
        """The tokens of some cells, in the order asked for."""
        cells = np.asarray(cells, dtype=np.int64)
        lengths = self.lengths[cells]
        rows = _ranges(self.starts[cells], lengths)
        return Tokens(self.genes[rows], self.values[rows], lengths, self.var[rows], self.truncated[cells])


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenation of arange(start, start + length) over the pairs."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def cell_generator(seed: int, name: str, purpose: str) -> np.random.Generator:
    """Generator of one cell, by (seed, cell name, purpose) alone; stable over machines."""
    text = "\x1f".join((str(int(seed)), purpose, name))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def bin_values(
    values: np.ndarray,
    n_bins: int = 51,
    ties: str = "lowest",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Bins (n,) int64 of the values (n,) of one cell: 1..n_bins-1 for positive values, 0 for zero.

    Edges are the n_bins-1 evenly spaced quantiles of the non-zero values; a bin is the number of
    edges at or below the value (`np.digitize`), as in scGPT's pretraining. ties="random" is the
    default of scgpt 0.2.4: where edges coincide, a bin is drawn (with `rng`) from those that the
    value spans.
    """
    _check_ties(ties)
    values = np.asarray(values)
    bins = np.zeros(len(values), dtype=np.int64)
    positive = np.flatnonzero(values)
    if len(positive):
        draws = None
        if ties == "random":
            if rng is None:
                raise ValueError("ties='random' needs rng")
            draws = rng.random(len(positive))[None]
        bins[positive] = _bin_rows(values[positive][None], n_bins, draws)[0]
    return bins


def _check_ties(ties: str) -> None:
    if ties not in ("lowest", "random"):
        raise ValueError(f"ties is {ties!r}, expected 'lowest' or 'random'")


def _bin_rows(rows: np.ndarray, n_bins: int, draws: np.ndarray | None) -> np.ndarray:
    """Bins (cells, n) of positive values (cells, n); draws (cells, n) in [0, 1) break ties."""
    edges = np.quantile(rows, np.linspace(0, 1, n_bins - 1), axis=1)
    bins = np.zeros(rows.shape, dtype=np.int64)
    for edge in edges:
        bins += rows >= edge[:, None]
    if draws is None:
        return bins
    lower = np.zeros(rows.shape, dtype=np.int64)
    for edge in edges:
        lower += rows > edge[:, None]
    return np.ceil(draws * (lower - bins) + bins).astype(np.int64)


def _bin_cells(data, indptr, n_bins, ties, names, seed) -> np.ndarray:
    """Bins of the positive values of many cells (CSR `data`, `indptr`), exactly as `bin_values`.

    Cells with equally many values go through NumPy together.
    """
    bins = np.zeros(len(data), dtype=np.int64)
    if not len(data):
        return bins
    lengths = np.diff(indptr)
    order = np.argsort(lengths, kind="stable")
    sizes, first = np.unique(lengths[order], return_index=True)
    for size, cells in zip(sizes, np.split(order, first[1:]), strict=True):
        if size == 0:
            continue
        positions = indptr[cells][:, None] + np.arange(size)
        draws = None
        if ties == "random":
            draws = np.stack([cell_generator(seed, names[c], "ties").random(size) for c in cells])
        bins[positions] = _bin_rows(data[positions], n_bins, draws)
    return bins


def _checked(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Counts as CSR with sorted, unique, non-zero entries; the argument stays as it is."""
    matrix = sparse.csr_matrix(counts)
    if not matrix.has_canonical_format or (matrix.data == 0).any():
        matrix = matrix.copy()
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    bad = ~np.isfinite(matrix.data) | (matrix.data < 0)
    if bad.any():
        row = int(np.searchsorted(matrix.indptr, np.flatnonzero(bad)[0], side="right")) - 1
        raise InputError(
            f"tokenizer: cell {row} has the count {matrix.data[bad][0]}, expected finite counts of at least 0"
        )
    return matrix


def tokenize(
    counts: sparse.csr_matrix,
    gene_ids: np.ndarray,
    vocabulary: Vocabulary,
    mode: str = "binned",
    include_zeros: bool = False,
    max_length: int = 1200,
    n_bins: int = 51,
    cell_names: Sequence[str] | None = None,
    seed: int = 0,
    ties: str = "lowest",
    pad_value: int = PAD_VALUE,
) -> Tokens:
    """Tokens of every cell of a raw count matrix.

    counts: CSR (cells x genes), raw counts. gene_ids (genes,) int64 token ids, -1 for genes outside
    the vocabulary, which are dropped before anything else. mode: `binned` (scGPT's own), or `log1p`
    and `raw` of the raw count (not what scGPT was trained on). include_zeros: every gene of the
    vocabulary becomes a token, zeros with value 0. max_length: tokens a cell with `<cls>`; longer
    cells keep a random sample without replacement in the order of genes, drawn after binning from
    (seed, cell name); hence `cell_names` (cells,) is needed where that or ties="random" draws.
    pad_value: the value of `<cls>`. Genes keep the column order of `counts`.
    Raises InputError for negative or non-finite counts; ValueError for arguments that do not fit.
    """
    gene_ids = np.asarray(gene_ids, dtype=np.int64)
    if counts.shape[1] != len(gene_ids):
        raise ValueError(f"counts has {counts.shape[1]} genes, gene_ids {len(gene_ids)}")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    _check_ties(ties)
    if max_length < 2:
        raise ValueError(f"max_length is {max_length}, expected at least 2 (<cls> and a gene)")
    if cell_names is not None and len(cell_names) != counts.shape[0]:
        raise ValueError(f"counts has {counts.shape[0]} cells, cell_names {len(cell_names)}")

    known = np.flatnonzero(gene_ids >= 0)
    matrix = _checked(counts)[:, known]
    indptr = matrix.indptr.astype(np.int64)
    lengths = np.diff(indptr)
    n_cells = len(lengths)
    too_long = (len(known) if include_zeros else lengths) > max_length - 1
    if cell_names is None and (ties == "random" or np.any(too_long)):
        raise ValueError("cell_names is needed: cells are truncated or ties are drawn")

    if mode == "binned":
        values = _bin_cells(matrix.data, indptr, n_bins, ties, cell_names, seed)
    else:
        values = np.log1p(matrix.data) if mode == "log1p" else matrix.data
    values, columns = values.astype(np.float32), matrix.indices.astype(np.int64)

    if include_zeros:
        dense = np.zeros((n_cells, len(known)), dtype=np.float32)
        dense[np.repeat(np.arange(n_cells), lengths), columns] = values
        values = dense.ravel()
        columns = np.tile(np.arange(len(known)), n_cells)
        lengths = np.full(n_cells, len(known), dtype=np.int64)

    truncated = lengths > max_length - 1
    if truncated.any():
        values, columns, lengths = _truncate(values, columns, lengths, max_length - 1, cell_names, seed)
    cls = (vocabulary.cls_id, pad_value)
    return _with_cls(values, known[columns], lengths, truncated, gene_ids, cls)


def _truncate(values, columns, lengths, size, names, seed):
    """Keep `size` genes of every longer cell, sampled by its name, in the order of genes."""
    starts = np.cumsum(lengths) - lengths
    keep = np.ones(len(values), dtype=bool)
    for cell in np.flatnonzero(lengths > size):
        n = int(lengths[cell])
        chosen = cell_generator(seed, names[cell], "truncate").permutation(n)[:size]
        inside = np.zeros(n, dtype=bool)
        inside[chosen] = True
        keep[starts[cell] : starts[cell] + n] = inside
    return values[keep], columns[keep], np.minimum(lengths, size)


def _with_cls(values, var, lengths, truncated, gene_ids, cls) -> Tokens:
    """Put `<cls>` with its value in front of every cell."""
    total = lengths + 1
    starts = np.cumsum(total) - total
    is_gene = np.ones(int(total.sum()), dtype=bool)
    is_gene[starts] = False
    genes = np.full(len(is_gene), cls[0], dtype=np.int64)
    out_values = np.full(len(is_gene), cls[1], dtype=np.float32)
    out_var = np.full(len(is_gene), -1, dtype=np.int32)
    genes[is_gene] = gene_ids[var]
    out_values[is_gene] = values
    out_var[is_gene] = var
    return Tokens(genes, out_values, total.astype(np.int64), out_var, truncated)
