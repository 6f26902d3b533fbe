"""Descriptions of genes: from the run's concepts, from a table, or from the files of NCBI Gene."""

from __future__ import annotations

import csv
import gzip
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interptfm import store
from interptfm.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

log = logging.getLogger("interptfm")

COLUMNS = ("symbol", "text")


def from_terms(
    genes: Sequence[str], membership: csr_matrix, terms: pd.DataFrame, max_terms: int
) -> dict[str, str]:
    """Return gene → text, the names of the gene's most specific terms, for genes that have a term.

    Parameters
    ----------
    genes
        Symbols of the rows of ``membership``.
    membership
        (genes × terms) bool CSR.
    terms
        Frame with ``name`` and ``ic`` (bits), a row a column of ``membership``.
    max_terms
        Terms of a text, at most; those of the largest information content come first.

    Such a text repeats the annotation that concepts are made of: it is no independent source on them.
    """
    names = terms["name"].astype(str).to_numpy()
    order = np.lexsort((names, -terms["ic"].to_numpy(float)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    found = {}
    for row, gene in enumerate(genes):
        mine = membership.indices[membership.indptr[row] : membership.indptr[row + 1]]
        chosen = mine[np.argsort(rank[mine])][:max_terms]
        if len(chosen):
            found[str(gene)] = f"{gene}: {'; '.join(names[chosen])}."
    return found


def read_texts(path: str | Path) -> dict[str, str]:
    """Read gene → text from a TSV with the columns ``symbol`` and ``text``.

    Raises
    ------
    InputError
        For a missing file or column, a row without symbol or text, a symbol given twice.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, delimiter="\t")
            header, rows = list(reader.fieldnames or ()), list(reader)
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected gene texts (TSV)") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are no UTF-8 ({error}), expected text") from None
    for column in COLUMNS:
        if column not in header:
            raise InputError(f"{path}: found the columns {header[:6]}, expected symbol and text")
    texts: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        symbol, text = (" ".join((row[column] or "").split()) for column in COLUMNS)
        if not symbol or not text:
            raise InputError(f"{path}: row {number}: found no {'text' if symbol else 'symbol'}, expected one")
        if symbol in texts:
            raise InputError(
                f"{path}: row {number}: found the symbol {symbol!r} a second time, expected it once"
            )
        texts[symbol] = text
    if not texts:
        raise InputError(f"{path}: found no rows, expected one a gene")
    return texts


def write_texts(path: str | Path, texts: Mapping[str, str]) -> None:
    """Write gene → text as the TSV that :func:`read_texts` reads, white space in texts made plain spaces."""
    with store.atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((symbol, " ".join(text.split())) for symbol, text in texts.items())


def of_panel(texts: Mapping[str, str], panel: Sequence[str], source: str) -> dict[str, str]:
    """Return the texts of the panel's genes in the panel's order, and log how many have none.

    Raises
    ------
    InputError
        With fewer than 3 such genes: no embedding can tell cells by them.
    """
    found = {gene: texts[gene] for gene in panel if gene in texts}
    if len(found) < 3:
        raise InputError(
            f"{source}: found a text for {len(found)} of the panel's {len(panel)} genes (such as "
            f"{', '.join(panel[:3])}), expected at least 3; are these gene symbols?"
        )
    log.info("%d of the panel's %d genes have a text", len(found), len(panel))
    return found


def from_ncbi(summaries: str | Path, genes: str | Path, taxon: int) -> dict[str, str]:
    """Return gene → text of one species from the files ``gene_summary`` and ``gene_info`` of NCBI Gene.

    The text is the gene's full name and, where NCBI has one, its summary. Both files are tab-separated,
    gzipped or plain, with a header that begins with ``#tax_id``; columns are found by name. Of genes with
    the same symbol the first counts.

    Raises
    ------
    InputError
        For a file without the columns, a damaged one, or a species without genes.
    """
    summary_of = {
        row["geneid"]: row["summary"]
        for row in _ncbi_rows(summaries, ("tax_id", "geneid", "summary"))
        if row["tax_id"] == str(taxon)
    }
    texts: dict[str, str] = {}
    for row in _ncbi_rows(genes, ("tax_id", "geneid", "symbol", "description")):
        if row["tax_id"] != str(taxon) or row["symbol"] in texts:
            continue
        name = row["description"] if row["description"] != "-" else ""
        parts = [part.rstrip(". ") + "." for part in (name, summary_of.get(row["geneid"], "")) if part]
        if parts:
            texts[row["symbol"]] = " ".join([f"{row['symbol']}:", *parts])
    if not texts:
        raise InputError(f"{genes}: found no gene of taxon {taxon}, expected some")
    return texts


def _ncbi_rows(path: str | Path, wanted: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the wanted columns of each row; names in the header are compared without # and case."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rt", encoding="utf-8") if packed else open(path, encoding="utf-8") as file:
            header = [name.strip().lstrip("#").lower() for name in file.readline().split("\t")]
            missing = [name for name in wanted if name not in header]
            if missing:
                raise InputError(f"{path}: found the columns {header[:6]}, expected {', '.join(wanted)}")
            places = [header.index(name) for name in wanted]
            for number, line in enumerate(file, start=2):
                cells = line.rstrip("\n").split("\t")
                if len(cells) < len(header):
                    raise InputError(
                        f"{path}: line {number}: found {len(cells)} columns, expected {len(header)}"
                    )
                yield {name: cells[place].strip() for name, place in zip(wanted, places, strict=True)}
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected tab-separated text") from None
