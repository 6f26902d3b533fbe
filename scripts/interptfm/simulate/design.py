"""What the simulator is asked to build: settings, panel, markers and planted gene sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interptfm.errors import InputError

CELL_TYPES = (
    "tumour",
    "fibroblast",
    "macrophage",
    "T cell",
    "B cell",
    "plasma cell",
    "endothelial",
    "neutrophil",
)
PLACES = ("anywhere", "border", "core", "stroma")


@dataclass(frozen=True)
class Settings:
    """Settings of one simulated world.

    Attributes
    ----------
    cells
        Cells over all sections together.
    fovs_per_section
        Fields of view side by side in a section.
    strength
        Factor on the log-fold effect of every program; 0 leaves markers as the only structure.
    negative_probes
        Number of ``NegPrb*`` columns.
    communication
        Whether the receiver programs of the design's pairs are induced by contact with senders. If
        not, every activity is drawn regardless of the neighbours.
    """

    cells: int = 3000
    fovs_per_section: int = 3
    strength: float = 1.0
    negative_probes: int = 10
    communication: bool = True

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Settings:
        """Check a plain mapping and fill in the defaults.

        Raises
        ------
        InputError
            For a key that does not exist or a value out of bounds.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise InputError(f"simulate: found setting {unknown[0]!r}, expected one of {sorted(known)}")
        result = cls(**settings)
        for name, low in (("cells", 1), ("fovs_per_section", 1), ("negative_probes", 0)):
            value = getattr(result, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"simulate: found {name} {value!r}, expected a whole number from {low}")
        if not (np.isfinite(result.strength) and result.strength >= 0):
            raise InputError(f"simulate: found strength {result.strength!r}, expected a number from 0")
        if not isinstance(result.communication, bool):
            raise InputError(
                f"simulate: found communication {result.communication!r}, expected true or false"
            )
        return result


@dataclass(frozen=True)
class Program:
    """A planted ontology term: where it is active and which genes follow it.

    Attributes
    ----------
    name, term_id
        Short name and term of the ontology.
    types
        Cell types that can run the program.
    place
        One of :data:`PLACES`, relative to the tumour border.
    smooth
        Share (0 to 1) of the variance of the activity that is spatially smooth.
    effect
        Log-fold a unit of activity gives a gene of loading 1 at strength 1.
    genes
        Gene symbols annotated to the term directly, by experiment, and not negated.
    """

    name: str
    term_id: str
    types: tuple[str, ...]
    place: str
    smooth: float
    effect: float
    genes: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A planted communication: program a of a sender type induces program b in a receiver type.

    Attributes
    ----------
    name
        Name of the pair.
    source_type, target_type
        Cell types of senders and receivers.
    a_term, b_term, a_name, b_name
        Terms of the two programs and their names in the ontology.
    effect
        Standard deviations of b's activity that contact with a sender expressing a adds.
    """

    name: str
    source_type: str
    target_type: str
    a_term: str
    b_term: str
    a_name: str
    b_name: str
    effect: float


@dataclass(frozen=True)
class Design:
    """Panel, markers, programs and communication of the demo tissue.

    Attributes
    ----------
    genes
        Panel in column order.
    markers
        Gene symbol to the cell type that it marks; no marker is in a planted term.
    programs
        Planted programs in table order.
    decoys
        Term to its genes; chosen at random, never co-expressed on purpose.
    pairs
        Planted communication, in table order; no program has two roles.
    """

    genes: tuple[str, ...]
    markers: dict[str, str]
    programs: tuple[Program, ...]
    decoys: dict[str, tuple[str, ...]]
    pairs: tuple[Pair, ...]


def direct_members(obo: str | Path, gaf: str | Path, panel: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return leaf term → panel genes annotated to it directly, by experiment and not negated.

    A leaf has no child over ``is_a`` or ``part_of``: under the true-path rule its direct genes are
    its gene set. Only the parsers of the ontology stage are used, not its propagation, so that what
    is planted stays independent of what that stage makes of the files. Genes are sorted.
    """
    from interptfm.ontology import EXPERIMENTAL, read_gaf, read_obo

    terms = read_obo(obo)
    parents = {parent for _, name, parent in terms.edges if name in ("is_a", "part_of")}
    leaves = set(terms.ids) - parents
    known = set(panel)
    members: dict[str, set[str]] = {leaf: set() for leaf in leaves}
    rows = read_gaf(gaf)
    for symbol, negated, term, code in zip(rows.symbol, rows.negated, rows.term, rows.code, strict=True):
        if term in leaves and symbol in known and code in EXPERIMENTAL and not negated:
            members[term].add(symbol)
    return {term: tuple(sorted(genes)) for term, genes in members.items()}


def read_design(
    obo: str | Path, gaf: str | Path, programs: str | Path, panel: str | Path, pairs: str | Path
) -> Design:
    """Read the demo ontology and the three tables that say what is planted in it.

    Parameters
    ----------
    obo, gaf
        Ontology and annotations.
    programs
        TSV with ``program``, ``term_id``, ``role`` (planted or decoy), ``types`` (separated by
        semicolons), ``place``, ``smooth``, ``effect``; the last four are empty for decoys.
    panel
        TSV with ``gene`` and ``marker_of`` (a cell type or empty).
    pairs
        TSV with ``pair``, ``source_type``, ``a`` (a program that the source type runs),
        ``target_type``, ``b`` (a program that the target type runs anywhere), ``effect``.

    Raises
    ------
    InputError
        If a gene stands twice, a marker is in a planted term, a term is no leaf of the ontology or
        has no gene, or a type, place or role is unknown; if a pair names a program that its cell
        type does not run, or a program has two roles.
    """
    table = pd.read_csv(panel, sep="\t", dtype=str, keep_default_na=False)
    twice = table.gene[table.gene.duplicated()]
    if len(twice):
        raise InputError(f"{panel}: found gene {twice.iloc[0]} twice, expected each gene once")
    markers = {g: t for g, t in zip(table.gene, table.marker_of, strict=True) if t}
    _check(panel, "cell type", set(markers.values()), CELL_TYPES)

    members = direct_members(obo, gaf, table.gene)
    planted: list[Program] = []
    decoys: dict[str, tuple[str, ...]] = {}
    rows = pd.read_csv(programs, sep="\t", dtype=str, keep_default_na=False)
    _check(programs, "role", set(rows.role), ("planted", "decoy"))
    for row in rows.itertuples():
        if row.term_id not in members:
            raise InputError(f"{programs}: found term {row.term_id}, expected a leaf of {obo}")
        genes = members[row.term_id]
        if not genes:
            raise InputError(
                f"{gaf}: found no experimental annotation to {row.term_id}, expected at least one"
            )
        if row.role == "decoy":
            decoys[row.term_id] = genes
            continue
        types = tuple(row.types.split(";"))
        _check(programs, "cell type", set(types), CELL_TYPES)
        _check(programs, "place", {row.place}, PLACES)
        if shared := sorted(set(genes) & set(markers)):
            raise InputError(
                f"{gaf}: found marker {shared[0]} in planted term {row.term_id}, expected no marker"
            )
        planted.append(
            Program(
                row.program,
                row.term_id,
                types,
                row.place,
                float(row.smooth),
                float(row.effect),
                genes,
            )
        )
    return Design(tuple(table.gene), markers, tuple(planted), decoys, _read_pairs(pairs, obo, planted))


def _read_pairs(path: str | Path, obo: str | Path, planted: list[Program]) -> tuple[Pair, ...]:
    from interptfm.ontology import read_obo

    terms = read_obo(obo)
    names = dict(zip(terms.ids, terms.names, strict=True))
    programs = {program.name: program for program in planted}
    rows = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    roles = pd.concat([rows.a, rows.b])
    _check(path, "program", set(roles), tuple(programs))
    if (twice := roles[roles.duplicated()]).size:
        raise InputError(f"{path}: found program {twice.iloc[0]!r} in two roles, expected one")
    pairs = []
    for row in rows.itertuples():
        a, b = programs[row.a], programs[row.b]
        for cell_type, program in ((row.source_type, a), (row.target_type, b)):
            _check(path, f"cell type for {program.name}", {cell_type}, program.types)
        _check(path, f"place of {b.name}", {b.place}, ("anywhere",))
        pairs.append(
            Pair(
                row.pair,
                row.source_type,
                row.target_type,
                a.term_id,
                b.term_id,
                names[a.term_id],
                names[b.term_id],
                float(row.effect),
            )
        )
    return tuple(pairs)


def _check(path: str | Path, what: str, found: set[str], known: tuple[str, ...]) -> None:
    if unknown := sorted(found - set(known)):
        raise InputError(f"{path}: found {what} {unknown[0]!r}, expected one of {list(known)}")
