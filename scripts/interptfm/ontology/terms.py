"""What both ontology sources share: settings, size filter, information content, classes, outputs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm.errors import InputError

log = logging.getLogger("interptfm.ontology")

EXPERIMENTAL = ("EXP", "IDA", "IPI", "IMP", "IGI", "IEP")
CODES = (
    *EXPERIMENTAL,
    *("HTP", "HDA", "HMP", "HGI", "HEP"),
    *("IBA", "IBD", "IKR", "IRD", "ISS", "ISO", "ISA", "ISM", "IGC", "RCA"),
    *("TAS", "NAS", "IC", "IEA", "ND"),
)
NO_DATA = "ND"  # says that nothing is known: never evidence, unless it is asked for by name
ASPECTS = ("P", "F", "C")
OUTPUTS = ("terms", "membership", "genes", "dag", "evidence", "query")
NAMESPACES = {
    "biological_process": ("P", "BP"),
    "molecular_function": ("F", "MF"),
    "cellular_component": ("C", "CC"),
}


@dataclass
class Concepts:
    """The outputs of the ontology stage.

    ``terms``: one row a class of terms with the same genes (term_id, name, source, n_genes, ic in
    bits, depth, members, propagated), sorted by term_id. ``membership``: bool CSR (genes × terms).
    ``genes``: the gene axis (gene, annotated, matched). ``dag``: (child, parent, relation).
    ``evidence``: (gene, term_id, codes, direct) before the size filter. ``query``: plain dict.
    """

    terms: pd.DataFrame
    membership: sparse.csr_matrix
    genes: pd.DataFrame
    dag: pd.DataFrame
    evidence: pd.DataFrame
    query: dict[str, Any]


def check_settings(
    panel: Sequence[str],
    evidence: Sequence[str] | None,
    aspects: Sequence[str],
    min_genes: int,
    max_fraction: float,
) -> tuple[list[str], list[str]]:
    """Return the evidence codes and aspects in a fixed order, after checking every setting.

    ``evidence`` None means every code but ND. Raises InputError naming the key.
    """
    if len(panel) == 0:
        raise InputError("panel: found no gene, expected the genes of the cells files")
    twice = [gene for gene, n in Counter(panel).items() if n > 1]
    if twice:
        raise InputError(f"panel: found gene {twice[0]!r} more than once, expected distinct genes")
    if evidence is None:
        codes = [code for code in CODES if code != NO_DATA]
    else:
        wrong = sorted(set(evidence) - set(CODES))
        if wrong or not evidence:
            raise InputError(f"ontology.evidence: found {wrong or 'no code'}, expected some of {list(CODES)}")
        codes = [code for code in CODES if code in set(evidence)]
    wrong = sorted(set(aspects) - set(ASPECTS))
    if wrong or not aspects:
        raise InputError(f"ontology.aspects: found {wrong or 'no aspect'}, expected some of {list(ASPECTS)}")
    if min_genes < 1:
        raise InputError(f"ontology.min_genes: found {min_genes}, expected 1 or more")
    if not 0 < max_fraction <= 1:
        raise InputError(f"ontology.max_fraction: found {max_fraction}, expected above 0, up to 1")
    return codes, [aspect for aspect in ASPECTS if aspect in set(aspects)]


def information_content(n_genes: np.ndarray, n_annotated: int) -> np.ndarray:
    """Return −log2(n_genes / n_annotated), float64 bits, for terms with at least one gene.

    ``n_annotated`` counts the panel genes with at least one term after the filters, before the size
    filter: the information content (Resnik 1995) within the panel, not within the genome.
    """
    # The addition turns the -0.0 of a term with every gene into 0.0.
    return -np.log2(np.asarray(n_genes, dtype=np.float64) / n_annotated) + 0.0


def _classes(columns: sparse.csc_matrix, order: np.ndarray) -> list[list[int]]:
    """Group the columns with the same rows; in each group, and over groups, ``order`` decides."""
    groups: dict[bytes, list[int]] = {}
    for i in order:
        rows = columns.indices[columns.indptr[i] : columns.indptr[i + 1]]
        groups.setdefault(rows.tobytes(), []).append(int(i))
    return list(groups.values())


def select_terms(
    membership: sparse.spmatrix,
    candidates: pd.DataFrame,
    panel: Sequence[str],
    *,
    min_genes: int,
    max_fraction: float,
    counts: dict[str, int],
) -> tuple[pd.DataFrame, sparse.csr_matrix, np.ndarray]:
    """Apply the size filter and collapse terms with the same genes into one class.

    Parameters
    ----------
    membership : bool (genes × candidate terms).
    candidates : term_id, name, source, depth, propagated and ``priority`` (the smallest represents
        its class, ties go to the first id) of each column.
    counts : the counts so far; those of the steps here are added.

    Returns
    -------
    the ``terms`` frame, the bool CSR membership (genes × classes), and which genes are annotated.

    Raises InputError, with the counts of every step, if no term is left.
    """
    columns = sparse.csc_matrix(membership, dtype=bool)
    columns.sort_indices()
    n_genes = np.diff(columns.indptr)
    annotated = np.asarray(columns.sum(axis=1)).ravel() > 0
    enough = n_genes >= min_genes
    keep = enough & (n_genes <= max_fraction * len(panel) + 1e-9)
    counts["genes_annotated"] = int(annotated.sum())
    counts["terms_with_genes"] = int((n_genes > 0).sum())
    counts["terms_with_min_genes"] = int(enough.sum())
    counts["terms_in_size"] = int(keep.sum())
    if not keep.any():
        steps = ", ".join(f"{key} {value}" for key, value in counts.items())
        raise InputError(
            f"ontology: found no term with at least {min_genes} genes and at most "
            f"{max_fraction:g} of the {len(panel)} panel genes, expected one or more ({steps})"
        )
    ids = candidates["term_id"].to_numpy(dtype=object)
    order = np.lexsort((ids.astype(str), candidates["priority"].to_numpy(dtype=np.float64)))
    groups = _classes(columns, order[keep[order]])
    groups.sort(key=lambda group: ids[group[0]])
    first = np.array([group[0] for group in groups])
    counts["terms_kept"] = len(groups)
    counts["terms_collapsed"] = int(keep.sum()) - len(groups)
    frame = candidates.iloc[first][["term_id", "name", "source"]].reset_index(drop=True)
    frame["n_genes"] = n_genes[first].astype(np.int64)
    frame["ic"] = information_content(n_genes[first], int(annotated.sum()))
    frame["depth"] = candidates["depth"].iloc[first].astype("Int64").array
    frame["members"] = [sorted(ids[group].tolist()) for group in groups]
    frame["propagated"] = candidates["propagated"].to_numpy(dtype=bool)[first]
    chosen = columns[:, first].tocsr()
    chosen.sort_indices()
    return frame, chosen, annotated


def evidence_frame(
    panel: Sequence[str],
    ids: Sequence[str],
    gene: np.ndarray,
    term: np.ndarray,
    codes: np.ndarray,
    direct: np.ndarray | None,
) -> pd.DataFrame:
    """Return the evidence table, sorted by panel order and term id.

    ``direct`` is None where the source does not tell direct annotation from inherited: the column
    is then missing (NA) throughout, not False.
    """
    ids = np.asarray(ids, dtype=object)
    rank = np.empty(len(ids), dtype=np.int64)
    rank[np.argsort(ids.astype(str), kind="stable")] = np.arange(len(ids))
    # A stable sort of one key is linear where the pairs come in order, as those of a CSR matrix do.
    order = np.argsort(gene.astype(np.int64) * len(ids) + rank[term], kind="stable")
    flag = pd.array([pd.NA] * len(gene) if direct is None else direct[order], dtype="boolean")
    return pd.DataFrame(
        {
            "gene": np.asarray(panel, dtype=object)[gene[order]],
            "term_id": ids[term[order]],
            "codes": codes[order],
            "direct": flag,
        }
    )


def dag_frame(child: Sequence[str], parent: Sequence[str], relation: Sequence[str]) -> pd.DataFrame:
    """Return the edges sorted; the columns are text even where there is no edge."""
    frame = pd.DataFrame({"child": child, "parent": parent, "relation": relation}, dtype="string")
    return frame.sort_values(list(frame.columns), ignore_index=True)


def gene_frame(panel: Sequence[str], annotated: np.ndarray, matched: Sequence[str]) -> pd.DataFrame:
    """Return the gene axis: gene, annotated (bool), matched (the source's name of it, or '')."""
    return pd.DataFrame({"gene": list(panel), "annotated": annotated, "matched": list(matched)})


def warn(warnings: list[str], message: str) -> None:
    """Log a warning and keep it for query.json."""
    log.warning("%s", message)
    warnings.append(message)


def save(
    concepts: Concepts,
    *,
    terms: str | Path,
    membership: str | Path,
    genes: str | Path,
    dag: str | Path,
    evidence: str | Path,
    query: str | Path,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write the six files of ``concepts/``; the same concepts give the same bytes."""
    from interptfm import store

    store.write_table(terms, concepts.terms, provenance=provenance)
    store.write_table(genes, concepts.genes)
    store.write_table(dag, concepts.dag, provenance=provenance)
    store.write_table(evidence, concepts.evidence, provenance=provenance)
    # An open file, since save_npz would add a suffix to the temporary name.
    with store.atomic(membership) as path, open(path, "wb") as file:
        sparse.save_npz(file, concepts.membership)
    store.write_json(query, {**concepts.query, "provenance": provenance})
