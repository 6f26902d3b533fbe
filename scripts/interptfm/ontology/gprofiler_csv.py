"""Concepts from a g:Profiler g:GOSt table with one evidence column a gene, propagated already."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm.errors import InputError
from interptfm.ontology.obo import open_text
from interptfm.ontology.terms import (
    ASPECTS,
    CODES,
    EXPERIMENTAL,
    Concepts,
    check_settings,
    dag_frame,
    evidence_frame,
    gene_frame,
    log,
    select_terms,
    warn,
)

LEADING = (
    "source",
    "term_name",
    "term_id",
    "highlighted",
    "adjusted_p_value",
    "negative_log10_of_adjusted_p_value",
    "term_size",
    "query_size",
    "intersection_size",
    "effective_domain_size",
)
GO_ASPECT = {"GO:BP": "P", "GO:MF": "F", "GO:CC": "C"}


@dataclass
class Table:
    """A g:GOSt table: ``terms`` (source, term_name, term_id, term_size), the gene columns, and the
    non-empty cells as parallel int64 arrays ``row``, ``column`` and ``text`` (into ``texts``)."""

    terms: pd.DataFrame
    genes: list[str]
    row: np.ndarray
    column: np.ndarray
    text: np.ndarray
    texts: list[str]


def read_table(path: str | Path) -> Table:
    """Read a g:GOSt CSV export: ten leading columns, then one column a gene.

    A cell holds comma-separated evidence codes and is empty where the gene is not annotated. Every
    cell is read as text: type inference would take the codes apart from column to column.

    Raises
    ------
    InputError
        Missing file, a leading column missing, a column or a term id given twice, a row with
        another number of columns, a term size that is no number, no row.
    """
    import pyarrow as pa
    import pyarrow.csv

    name = Path(path).name
    with open_text(path) as file:
        try:
            header = next(csv.reader(file), [])
        except (UnicodeDecodeError, EOFError, OSError) as error:
            raise InputError(f"{name}: found no readable header ({error}), expected CSV") from None
    header = [column.lstrip("\ufeff") for column in header]
    missing = [column for column in LEADING if column not in header]
    if missing:
        raise InputError(
            f"{name}: found no column {missing[0]!r} among {header[:10]}, expected the ten leading "
            "columns of a g:GOSt export"
        )
    twice = [column for column, n in Counter(header).items() if n > 1]
    if twice:
        raise InputError(f"{name}: found column {twice[0]!r} twice, expected each once")
    genes = [column for column in header if column not in LEADING]
    dictionary = pa.dictionary(pa.int32(), pa.string())
    types = {column: pa.string() for column in LEADING} | dict.fromkeys(genes, dictionary)
    try:
        data = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(column_names=header, skip_rows=1),
            convert_options=pa.csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{name}: found unreadable CSV ({error})") from None
    if data.num_rows == 0:
        raise InputError(f"{name}: found no term, expected at least one row")
    terms = data.select(["source", "term_name", "term_id", "term_size"]).to_pandas()
    repeated = terms["term_id"][terms["term_id"].duplicated()]
    if len(repeated):
        raise InputError(
            f"{name}: found term id {repeated.iloc[0]!r} twice ({len(repeated)} repeated rows), "
            "expected each once"
        )
    size = pd.to_numeric(terms["term_size"], errors="coerce")
    if size.isna().any():
        row = int(np.flatnonzero(size.isna())[0])
        raise InputError(
            f"{name}: data row {row + 1}: found term_size {terms['term_size'].iloc[row]!r}, expected a number"
        )
    terms["term_size"] = size
    return Table(terms, genes, *_cells(data, genes))


def _cells(data, genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return row, column and text of each cell that is not blank, and the distinct texts."""
    known: dict[str, int] = {}
    rows, columns, texts = [], [], []
    for column, gene in enumerate(genes):
        array = data.column(gene).unify_dictionaries().combine_chunks()
        words = [word.strip() for word in array.dictionary.to_pylist()]
        codes = np.array([known.setdefault(w, len(known)) if w else -1 for w in words], np.int64)
        text = codes[array.indices.to_numpy()]
        filled = np.flatnonzero(text >= 0)
        rows.append(filled)
        columns.append(np.full(len(filled), column, dtype=np.int64))
        texts.append(text[filled])
    if not genes:
        return (np.empty(0, np.int64),) * 3 + ([],)
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(texts), list(known)


def _by_source(
    source: np.ndarray, filled: np.ndarray, passing: np.ndarray, member: np.ndarray
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Return the cells read and kept of each source, and the sources that evidence empties."""
    counts, lost = {}, []
    for key in sorted(set(source)):
        mine = (source == key) & filled
        counts[key] = {"cells": int(mine.sum()), "cells_kept": int((mine & member).sum())}
        if mine.any() and not (mine & passing).any():
            lost.append(key)
    return counts, lost


def _unknown(tokens: Sequence[Sequence[str]], uses: np.ndarray) -> dict[str, int]:
    """Return how many cells hold each token that is no evidence code of GO."""
    unknown: Counter = Counter()
    for words, count in zip(tokens, uses.tolist(), strict=True):
        for word in set(words) - set(CODES) - {""}:
            unknown[word] += count
    return dict(sorted((+unknown).items()))


def from_gprofiler_csv(
    table: str | Path,
    panel: Sequence[str],
    *,
    evidence: Sequence[str] | None = EXPERIMENTAL,
    aspects: Sequence[str] = ASPECTS,
    keep_without_evidence: Sequence[str] = ("KEGG", "REAC"),
    min_genes: int = 5,
    max_fraction: float = 0.4,
) -> Concepts:
    """Build concepts from a g:GOSt CSV export, as the published pipeline consumed it.

    Parameters
    ----------
    panel : distinct gene symbols of the data, the gene axis of the result.
    evidence : codes that count; None: every code but ND. A gene belongs to a term if its cell holds
        at least one of them.
    aspects : P, F, C; applied to the sources GO:BP, GO:MF and GO:CC. Other sources pass.
    keep_without_evidence : sources that carry no evidence codes of GO, where every cell that is not
        empty counts. A source that the evidence filter empties altogether is warned about.
    min_genes, max_fraction : as in :func:`interptfm.ontology.from_obo_gaf`.

    The codes of a cell include those of the descendants (g:Profiler, Kolberg et al. 2023), so
    nothing is rolled up here, ``dag`` is empty, and ``direct`` in ``evidence`` is missing. A class
    is represented by the term with the smallest ``term_size``.

    Raises InputError for an unreadable table, no gene column on the panel, or no term left.
    """
    from interptfm.store import digest

    panel, name = list(panel), Path(table).name
    check_settings(panel, evidence, aspects, min_genes, max_fraction)
    return from_table(
        read_table(table),
        name,
        panel,
        evidence=evidence,
        aspects=aspects,
        keep_without_evidence=keep_without_evidence,
        min_genes=min_genes,
        max_fraction=max_fraction,
        origin={"source": "gprofiler_csv", "files": {name: digest(table)}, "versions": {}},
    )


def from_table(
    data: Table,
    name: str,
    panel: Sequence[str],
    *,
    evidence: Sequence[str] | None,
    aspects: Sequence[str],
    keep_without_evidence: Sequence[str],
    min_genes: int,
    max_fraction: float,
    origin: dict[str, Any],
    dag: pd.DataFrame | None = None,
) -> Concepts:
    """Build concepts from a g:GOSt table in memory; ``name`` says in messages where it came from.

    ``origin``: what ``query`` says of the source. ``dag``: edges to keep as they are; None: no edge.
    """
    panel = list(panel)
    codes, aspects = check_settings(panel, evidence, aspects, min_genes, max_fraction)
    position = {gene: i for i, gene in enumerate(panel)}
    to_panel = np.array([position.get(gene, -1) for gene in data.genes], dtype=np.int64)
    if not (to_panel >= 0).any():
        raise InputError(
            f"{name}: found none of the {len(panel)} panel genes among {len(data.genes)} gene "
            f"columns (panel: {', '.join(panel[:3])}; table: {', '.join(data.genes[:3])}), "
            "expected the same kind of gene symbol"
        )
    on_panel = to_panel[data.column] >= 0
    gene, term, text = to_panel[data.column][on_panel], data.row[on_panel], data.text[on_panel]

    source = data.terms["source"].to_numpy(dtype=object)
    free = np.isin(source.astype(str), list(keep_without_evidence))
    in_aspect = np.array([GO_ASPECT.get(s, "") in (*aspects, "") for s in source])
    tokens = [[token.strip().upper() for token in t.split(",")] for t in data.texts]
    wanted = set(codes)
    passing = [",".join(sorted(wanted.intersection(t))) for t in tokens]
    whole = [",".join(sorted(set(t) - {""})) for t in tokens]
    # A cell of commas and blanks alone names no evidence at all.
    filled = np.array([bool(w) for w in whole], dtype=bool)[text]
    counted = np.array([bool(p) for p in passing], dtype=bool)[text]
    passes = np.where(free[term], filled, counted)
    refused = int((~passes).sum())
    member = passes & in_aspect[term]

    by_source, lost = _by_source(source[term], filled, passes, member)
    warnings: list[str] = []
    for key in lost:
        message = (
            f"{name}: source {key}: none of its {by_source[key]['cells']} annotated cells carries one of "
            f"{','.join(codes)}, so all of it is lost; list it in ontology.keep_without_evidence to keep it"
        )
        warn(warnings, message)
    unknown = _unknown(tokens, np.bincount(text[~free[term]], minlength=len(tokens)))
    if unknown:
        warn(warnings, f"{name}: codes that GO does not define: {unknown}")

    gene, term, text = gene[member], term[member], text[member]
    shape = (len(panel), len(data.terms))
    membership = sparse.csr_matrix((np.ones(len(gene), dtype=bool), (gene, term)), shape)
    strings = np.where(
        free[term],
        np.array(whole, dtype=object)[text],
        np.array(passing, dtype=object)[text],
    )
    counts = {
        "terms_read": len(data.terms),
        "terms_in_aspects": int(in_aspect.sum()),
        "annotations_read": len(data.row),
        "annotations_on_panel": int(on_panel.sum()),
        "annotations_dropped_gene_off_panel": int((~on_panel).sum()),
        "annotations_dropped_evidence_not_chosen": refused,
        "annotations_dropped_aspect_not_chosen": int(on_panel.sum()) - refused - len(gene),
        "gene_columns": len(data.genes),
        "gene_columns_off_panel": int((to_panel < 0).sum()),
        "genes_in_panel": len(panel),
        "genes_without_column": len(panel) - int((to_panel >= 0).sum()),
    }
    candidates = pd.DataFrame(
        {
            "term_id": data.terms["term_id"],
            "name": data.terms["term_name"],
            "source": source,
            "depth": pd.array([pd.NA] * len(data.terms), dtype="Int64"),
            "priority": data.terms["term_size"],
            "propagated": True,
        }
    )
    terms, kept, annotated = select_terms(
        membership,
        candidates,
        panel,
        min_genes=min_genes,
        max_fraction=max_fraction,
        counts=counts,
    )
    log.info("ontology: %d classes of %d terms", len(terms), counts["terms_in_size"])
    columns = set(data.genes)
    query = {
        **origin,
        "evidence": codes,
        "aspects": aspects,
        "keep_without_evidence": sorted(keep_without_evidence),
        "min_genes": min_genes,
        "max_fraction": max_fraction,
        "counts": counts,
        "sources": by_source,
        "unknown_evidence": unknown,
        "warnings": warnings,
    }
    return Concepts(
        terms=terms,
        membership=kept,
        genes=gene_frame(panel, annotated, [g if g in columns else "" for g in panel]),
        dag=dag_frame([], [], []) if dag is None else dag,
        evidence=evidence_frame(panel, data.terms["term_id"], gene, term, strings, None),
        query=query,
    )
