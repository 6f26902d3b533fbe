"""The ontology as a graph: information content, Lin similarity, slim terms, and fewer terms per feature.

Information content is Resnik's (1995, *IJCAI*), −log2 of the share of annotated panel genes that carry a term
or any of its descendants; the similarity of two terms is Lin's (1998, *ICML*), 2 IC(a) / (IC(s) + IC(t)) with
a the common ancestor of largest information content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from interptfm.errors import InputError


class Ontology:
    """A directed acyclic graph of terms with their information content.

    Parameters
    ----------
    dag
        ``child``, ``parent`` (ids), one row an edge (``concepts/dag.parquet``).
    evidence
        ``gene``, ``term_id``, propagated over the graph or not (``concepts/evidence.parquet``): a gene of a
        term is one of all its ancestors here.

    Raises
    ------
    InputError
        If the graph has a cycle.
    """

    def __init__(self, dag: pd.DataFrame, evidence: pd.DataFrame) -> None:
        self.parents: dict[str, list[str]] = {}
        for child, parent in zip(dag["child"].astype(str), dag["parent"].astype(str), strict=True):
            self.parents.setdefault(child, []).append(parent)
        self._ancestors: dict[str, frozenset[str]] = {}
        genes: dict[str, set[str]] = {}
        pairs = evidence[["gene", "term_id"]].astype(str).drop_duplicates()
        for term, group in pairs.groupby("term_id", sort=True)["gene"]:
            for ancestor in self.ancestors(term):
                genes.setdefault(ancestor, set()).update(group)
        n = max(1, pairs["gene"].nunique())
        self.n_genes = {term: len(members) for term, members in genes.items()}
        self.ic = {term: float(-np.log2(count / n)) + 0.0 for term, count in self.n_genes.items()}

    @property
    def empty(self) -> bool:
        """True without any edge: then nothing here applies."""
        return not self.parents

    def ancestors(self, term: str) -> frozenset[str]:
        """Return the ids of a term's ancestors, the term itself among them."""
        known = self._ancestors
        stack = [term]
        on_path: set[str] = set()
        while stack:
            here = stack[-1]
            if here in known:
                stack.pop()
                continue
            waiting = [parent for parent in self.parents.get(here, ()) if parent not in known]
            if here in on_path:
                if waiting:
                    raise InputError(f"dag: found a cycle through {here!r}, expected none")
                found = {here}.union(*(known[parent] for parent in self.parents.get(here, ())))
                known[here] = frozenset(found)
                on_path.discard(here)
                stack.pop()
                continue
            on_path.add(here)
            for parent in waiting:
                if parent in on_path:
                    raise InputError(f"dag: found a cycle through {parent!r}, expected none")
            stack.extend(waiting)
        return known[term]

    def common_ancestor(self, first: str, second: str) -> str | None:
        """Return the common ancestor of largest information content (first id of a tie), None without one."""
        common = [term for term in self.ancestors(first) & self.ancestors(second) if term in self.ic]
        return min(common, key=lambda term: (-self.ic[term], term)) if common else None

    def lin(self, first: str, second: str) -> float:
        """Return Lin's similarity in [0, 1]; 0 without a common ancestor, NaN for a term without genes.

        Two terms that all genes carry have no information to share: 1 for the same term, else 0.
        """
        if first not in self.ic or second not in self.ic:
            return float("nan")
        total = self.ic[first] + self.ic[second]
        if total == 0:
            return float(first == second)
        ancestor = self.common_ancestor(first, second)
        return 0.0 if ancestor is None else 2 * self.ic[ancestor] / total


def reduce_terms(
    terms: Sequence[str], ontology: Ontology, threshold: float = 0.7
) -> list[tuple[str, list[str]]]:
    """Keep the first of similar terms: (kept, terms that it stands for), in the order given.

    A term whose Lin similarity to a kept one reaches ``threshold`` joins the most similar of them (as REVIGO
    does, Supek et al. 2011, *PLoS ONE* 6:e21800). ``terms`` must come best first.
    """
    kept: list[tuple[str, list[str]]] = []
    for term in terms:
        scores = [ontology.lin(term, other) for other, _ in kept]
        best = int(np.nanargmax(scores)) if scores and not np.isnan(scores).all() else -1
        if best >= 0 and scores[best] >= threshold:
            kept[best][1].append(term)
        else:
            kept.append((term, []))
    return kept


def slim_of(ontology: Ontology, slim: Iterable[str], terms: Iterable[str]) -> dict[str, list[str]]:
    """Return term → slim terms it rolls up to: the lowest of its ancestors in ``slim``, sorted.

    A slim ancestor that is itself an ancestor of another slim ancestor of the term is left out.
    """
    wanted = set(slim)
    result = {}
    for term in terms:
        found = ontology.ancestors(term) & wanted
        covered = set().union(*(ontology.ancestors(one) - {one} for one in found)) if found else set()
        result[term] = sorted(found - covered)
    return result


def top_level(ontology: Ontology) -> list[str]:
    """Return the children of the roots, the slim where none is given; sorted ids."""
    roots = {p for parents in ontology.parents.values() for p in parents} - set(ontology.parents)
    return sorted(child for child, parents in ontology.parents.items() if roots.intersection(parents))


def entropy(weights: Mapping[str, float] | np.ndarray) -> float:
    """Return Shannon's entropy in bits of non-negative weights; 0 where there are none."""
    values = np.asarray(list(weights.values()) if isinstance(weights, Mapping) else weights, float)
    values = values[values > 0]
    if not len(values):
        return 0.0
    share = values / values.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0
