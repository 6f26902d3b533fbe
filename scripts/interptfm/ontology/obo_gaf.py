"""Concepts from an ontology graph (OBO) and direct annotation (GAF), by the true path rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm.errors import InputError
from interptfm.ontology.gaf import Gaf, match_symbols, read_gaf
from interptfm.ontology.obo import Graph, Obo, graph, read_obo
from interptfm.ontology.terms import (
    ASPECTS,
    CODES,
    EXPERIMENTAL,
    NAMESPACES,
    NO_DATA,
    Concepts,
    check_settings,
    dag_frame,
    evidence_frame,
    gene_frame,
    log,
    select_terms,
    warn,
)

DIRECT = 1 << 62  # above the bits of the evidence codes
ABSENT_WARNING = 0.1  # share of the panel's rows on terms absent from the OBO that is worth a word


def climb(
    start: sparse.csr_matrix, up: sparse.csr_matrix, blocked: sparse.csr_matrix | None = None
) -> sparse.csr_matrix:
    """Return every (gene, term) reached from ``start`` over zero or more child → parent steps.

    Parameters
    ----------
    start : bool CSR (genes × terms), direct annotation.
    up : bool CSR (terms × terms), True at (child, parent); acyclic.
    blocked : bool CSR (genes × terms): pairs that may be neither entered nor passed through.

    Breadth-first for all genes at once: each pair is expanded once, in at most as many sparse
    products as the longest path has steps.
    """
    reached = start if blocked is None else start > blocked
    frontier = reached
    while frontier.nnz:
        frontier = (frontier @ up) > reached
        if blocked is not None:
            frontier = frontier > blocked
        reached = reached + frontier
    return reached.tocsr()


def _sources(obo: Obo) -> tuple[list[str], list[str]]:
    """Return (source, aspect) of each term: ``GO:BP`` and ``P``, or the namespace and ''."""
    sources, aspects = [], []
    for term, namespace in zip(obo.ids, obo.namespaces, strict=True):
        aspect, short = NAMESPACES.get(namespace, ("", ""))
        sources.append(f"{term.partition(':')[0]}:{short}" if short else namespace)
        aspects.append(aspect)
    return sources, aspects


def _filter_rows(
    gaf: Gaf, obo: Obo, genes: dict[str, list[int]], codes: Sequence[str], aspects: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, Counter, Counter]:
    """Return int64 arrays (rows × 3: gene, term, code) of positive and of negated annotation.

    A row is dropped for the first reason that holds, in the order of the tests below, and counted
    under it. Also returned: the evidence codes that GO does not define, with their counts.
    """
    index = {term: i for i, term in enumerate(obo.ids)}
    number = {code: i for i, code in enumerate(codes)}
    dropped: Counter = Counter()
    unknown: Counter = Counter()
    positive, negated = [], []
    for symbol, no, term, code, aspect in zip(
        gaf.symbol, gaf.negated, gaf.term, gaf.code, gaf.aspect, strict=True
    ):
        if symbol not in genes:
            dropped["gene_off_panel"] += 1
            continue
        if code not in CODES:
            unknown[code] += 1
        target = index.get(obo.alternative.get(term, term))
        if target is None:
            dropped["term_obsolete" if term in obo.obsolete else "term_absent_from_obo"] += 1
        elif aspect not in ASPECTS:
            dropped["aspect_not_p_f_c"] += 1
        elif aspect not in aspects:
            dropped["aspect_not_chosen"] += 1
        elif code not in number:
            dropped["no_data" if code == NO_DATA else "evidence_not_chosen"] += 1
        else:
            for gene in genes[symbol]:
                (negated if no else positive).append((gene, target, number[code]))
    return (
        np.array(positive, dtype=np.int64).reshape(-1, 3),
        np.array(negated, dtype=np.int64).reshape(-1, 3),
        dropped,
        unknown,
    )


def _matrix(rows: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix((np.ones(len(rows), dtype=bool), (rows[:, 0], rows[:, 1])), shape)
    matrix.sum_duplicates()
    return matrix


def propagate(
    positive: np.ndarray, negated: np.ndarray, n_genes: int, up: sparse.csr_matrix
) -> sparse.csr_matrix:
    """Roll annotation up the graph, each evidence code on its own.

    Parameters
    ----------
    positive, negated : int64 (rows × 3): gene, term, bit of the evidence code (under 62).
    up : bool CSR (terms × terms), True at (child, parent).

    Returns
    -------
    int64 CSR (genes × terms): bit c is set where code c holds, directly or from a descendant, and
    the bit ``DIRECT`` where the gene is annotated to that very term.

    A negated row removes the gene's direct annotation to that same term, whatever its evidence, and
    bars the way into and through the term: what the gene does in a descendant neither puts the term
    back nor reaches its ancestors through it (over another path it still may). The descendants keep
    their own annotation, since a curator stated it.
    """
    shape = (n_genes, up.shape[0])
    blocked = _matrix(negated, shape) if len(negated) else None
    direct = _matrix(positive, shape)
    if blocked is not None:
        direct = direct > blocked
    # Each code has a bit of its own, so that the sum is the union.
    bits = direct.astype(np.int64) * DIRECT
    for code in np.unique(positive[:, 2]):
        reached = climb(_matrix(positive[positive[:, 2] == code], shape), up, blocked)
        bits = bits + reached.astype(np.int64) * (1 << int(code))
    return bits


def _code_strings(bits: np.ndarray, codes: Sequence[str]) -> np.ndarray:
    inverse, masks = pd.factorize(bits)
    text = [",".join(sorted(c for i, c in enumerate(codes) if m >> i & 1)) for m in masks.tolist()]
    return np.array(text, dtype=object)[inverse]


def _dag(obo: Obo, dag: Graph, seeds: np.ndarray) -> pd.DataFrame:
    """Return the edges among the terms ``seeds`` (positions) and all their ancestors."""
    start = sparse.csr_matrix(
        (np.ones(len(seeds), dtype=bool), (np.zeros(len(seeds), dtype=np.int64), seeds)),
        (1, len(obo.ids)),
    )
    inside = np.zeros(len(obo.ids), dtype=bool)
    inside[climb(start, dag.up).indices] = True
    ids = np.array(obo.ids, dtype=object)
    rows = np.flatnonzero(inside[dag.edges[:, 0]])
    relations = np.array(dag.relations, dtype=object)
    return dag_frame(ids[dag.edges[rows, 0]], ids[dag.edges[rows, 1]], relations[rows])


def _counts(
    obo: Obo, dag: Graph, gaf: Gaf, positive: np.ndarray, negated: np.ndarray, dropped: Counter
) -> dict[str, int]:
    keys, barred = (rows[:, 0] * len(obo.ids) + rows[:, 1] for rows in (positive, negated))
    return {
        "terms_read": len(obo.ids) + len(obo.obsolete),
        "terms_obsolete": len(obo.obsolete),
        "edges": len(dag.edges),
        "edges_dropped_parent_absent": dag.dropped,
        "annotations_read": len(gaf),
        **{f"annotations_dropped_{reason}": n for reason, n in sorted(dropped.items())},
        "annotations_positive": len(positive),
        "annotations_negated": len(negated),
        "annotations_cancelled_by_not": int(np.isin(keys, barred).sum()),
    }


def _warnings(obo: str, gaf: str, rows: Gaf, dropped: Counter, unknown: Counter) -> list[str]:
    """Log and return what a user should know of two files that could be read."""
    warnings: list[str] = []
    on_panel = len(rows) - dropped["gene_off_panel"]
    absent = dropped["term_absent_from_obo"] + dropped["term_obsolete"]
    if absent > ABSENT_WARNING * on_panel:
        message = (
            f"{gaf}: {absent} of the panel's {on_panel} annotation rows are on terms that {obo} "
            "lacks or calls obsolete: are both of the same release?"
        )
        warn(warnings, message)
    if len(rows.taxa) > 1:
        warn(warnings, f"{gaf}: holds {len(rows.taxa)} taxa, and genes are matched by symbol alone")
    if unknown:
        warn(warnings, f"{gaf}: codes that GO does not define: {dict(sorted(unknown.items()))}")
    return warnings


def from_obo_gaf(
    obo: str | Path,
    gaf: str | Path,
    panel: Sequence[str],
    *,
    evidence: Sequence[str] | None = EXPERIMENTAL,
    aspects: Sequence[str] = ASPECTS,
    relations: Sequence[str] = ("is_a", "part_of"),
    min_genes: int = 5,
    max_fraction: float = 0.4,
) -> Concepts:
    """Build concepts from an OBO file and a GAF file.

    Parameters
    ----------
    panel : distinct gene symbols of the data, the gene axis of the result.
    evidence : codes that count, for positive and for negated rows alike; None: every code but ND.
    aspects : P, F, C; applied to the rows (column 9) before they are propagated, and to the terms
        afterwards, since ``part_of`` leads from one aspect into another. Terms in a namespace that
        is none of GO's three pass.
    relations : relations that annotation climbs. The true path rule holds for ``is_a`` and
        ``part_of``; others are followed as given.
    min_genes, max_fraction : terms with at least so many panel genes and at most this fraction of
        the panel stay.

    Order: match symbols, drop rows on absent or obsolete terms, filter by aspect and evidence,
    propagate with the surviving codes (negation: see :func:`propagate`), filter by size, collapse
    terms with the same genes. A class is represented by its deepest term (longest path to a root).

    Source: the GO Consortium's true path rule (Ashburner et al. 2000).

    Raises InputError for unreadable files, a cycle, no symbol on the panel, or no term left.
    """
    from interptfm.store import digest

    panel = list(panel)
    codes, aspects = check_settings(panel, evidence, aspects, min_genes, max_fraction)
    ontology = read_obo(obo)
    dag = graph(ontology, relations, Path(obo).name)
    rows = read_gaf(gaf)
    genes, matched, ambiguous = match_symbols(rows, panel)
    if not genes:
        raise InputError(
            f"{Path(gaf).name}: found none of the {len(panel)} panel genes in column 3 or 11 "
            f"(panel: {', '.join(panel[:3])}; file: {', '.join(sorted(set(rows.symbol))[:3])}), "
            "expected the same kind of gene symbol"
        )
    positive, negated, dropped, unknown = _filter_rows(rows, ontology, genes, codes, aspects)
    bits = propagate(positive, negated, len(panel), dag.up)

    sources, term_aspects = _sources(ontology)
    chosen = np.array([a in aspects or a == "" for a in term_aspects])
    held = bits.tocoo()
    inside = chosen[held.col] & (held.data != 0)
    gene, term, mask = held.row[inside], held.col[inside], held.data[inside]
    is_direct = mask & DIRECT > 0
    inherited = np.bincount(term[~is_direct], minlength=len(ontology.ids)) > 0

    counts = _counts(ontology, dag, rows, positive, negated, dropped)
    by_symbol = sum(m == g for m, g in zip(matched, panel, strict=True))
    counts |= {
        "genes_in_panel": len(panel),
        "genes_matched_by_symbol": by_symbol,
        "genes_matched_by_synonym": sum(map(bool, matched)) - by_symbol,
        "genes_with_ambiguous_synonym": ambiguous,
    }
    warnings = _warnings(Path(obo).name, Path(gaf).name, rows, dropped, unknown)
    candidates = pd.DataFrame(
        {
            "term_id": ontology.ids,
            "name": ontology.names,
            "source": sources,
            "depth": dag.depth,
            "priority": -dag.depth,
            "propagated": inherited,
        }
    )
    membership = _matrix(np.column_stack([gene, term]), bits.shape)
    terms, kept, annotated = select_terms(
        membership,
        candidates,
        panel,
        min_genes=min_genes,
        max_fraction=max_fraction,
        counts=counts,
    )
    log.info("ontology: %d classes of %d terms", len(terms), counts["terms_in_size"])
    query = {
        "source": "obo_gaf",
        "files": {Path(path).name: digest(path) for path in (obo, gaf)},
        "versions": {"obo": ontology.header, "gaf": rows.header},
        "taxa": dict(sorted(rows.taxa.items())),
        "evidence": codes,
        "aspects": aspects,
        "relations": sorted(relations),
        "min_genes": min_genes,
        "max_fraction": max_fraction,
        "counts": counts,
        "unknown_evidence": dict(sorted(unknown.items())),
        "warnings": warnings,
    }
    return Concepts(
        terms=terms,
        membership=kept,
        genes=gene_frame(panel, annotated, matched),
        dag=_dag(ontology, dag, np.unique(term)),
        evidence=evidence_frame(panel, ontology.ids, gene, term, _code_strings(mask, codes), is_direct),
        query=query,
    )
