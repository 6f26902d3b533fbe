"""Two versions of the concepts compared: terms, memberships, and what it does to the headline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

TERM_COLUMNS = ["term_id", "name", "status", "n_genes_old", "n_genes_new", "gained", "lost", "jaccard"]
HEADLINE_COLUMNS = ["layer", "evaluation", "measure", "old", "new", "difference", "old_excess", "new_excess"]


@dataclass
class Version:
    """One version: ``terms`` (term_id, name, members), ``membership`` (genes × terms) and its ``genes``."""

    terms: pd.DataFrame
    membership: sparse.csr_matrix
    genes: list[str]

    def sets(self) -> dict[str, tuple[str, frozenset[str]]]:
        """Return term id → (name, genes); every member of a class of equal terms by its own id."""
        columns, names = self.membership.tocsc(), np.array(self.genes, object)
        result = {}
        for i, row in enumerate(self.terms.itertuples()):
            genes = frozenset(names[columns.indices[columns.indptr[i] : columns.indptr[i + 1]]])
            for member in {str(row.term_id), *map(str, row.members)}:
                result[member] = (str(row.name), genes)
        return result


def compare(old: Version, new: Version) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return (terms, memberships, summary).

    ``terms``: a row a term of either version with ``status`` same, changed, added or removed, and the Jaccard
    index of its genes. ``memberships``: ``gene``, ``term_id``, ``change`` (gained or lost) of terms that both
    have. ``summary``: the counts, and the mean Jaccard index over terms of both.
    """
    before, after = old.sets(), new.sets()
    rows, changes = [], []
    for term in sorted({*before, *after}):
        name, genes = before.get(term, ("", frozenset()))
        name_new, genes_new = after.get(term, ("", frozenset()))
        both = term in before and term in after
        gained, lost = sorted(genes_new - genes), sorted(genes - genes_new)
        status = (
            ("changed" if gained or lost else "same") if both else "added" if term in after else "removed"
        )
        union = len(genes | genes_new)
        jaccard = len(genes & genes_new) / union if both and union else np.nan
        values = (term, name_new or name, status, len(genes), len(genes_new), len(gained), len(lost), jaccard)
        rows.append(dict(zip(TERM_COLUMNS, values, strict=True)))
        if both:
            changes += [(gene, term, "gained") for gene in gained] + [(gene, term, "lost") for gene in lost]
    terms = pd.DataFrame(rows, columns=TERM_COLUMNS)
    memberships = pd.DataFrame(changes, columns=["gene", "term_id", "change"])
    summary = {f"n_{status}": int((terms["status"] == status).sum()) for status in ("same", "changed")}
    summary |= {f"n_{status}": int((terms["status"] == status).sum()) for status in ("added", "removed")}
    summary |= {f"n_{change}": int((memberships["change"] == change).sum()) for change in ("gained", "lost")}
    mean = terms["jaccard"].mean()
    return terms, memberships, summary | {"mean_jaccard": None if pd.isna(mean) else float(mean)}


def headline(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return each headline measure under both versions, from alignments' ``summary.json``, by layer."""
    other = {int(summary["layer"]): summary["headline"] for summary in new}
    rows = []
    for summary in old:
        layer = int(summary["layer"])
        for evaluation, measures in summary["headline"].items():
            for measure, values in measures.items():
                found = other.get(layer, {}).get(evaluation, {}).get(measure)
                if isinstance(values, dict) and found:
                    a, b = values["mean"], found["mean"]
                    row = (layer, evaluation, measure, a, b, b - a, values["excess"], found["excess"])
                    rows.append(dict(zip(HEADLINE_COLUMNS, row, strict=True)))
    return pd.DataFrame(rows, columns=HEADLINE_COLUMNS)
