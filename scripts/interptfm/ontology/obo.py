"""A thin reader of OBO 1.2 and 1.4, and the graph over the relations that annotation climbs."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import sparse

from interptfm.errors import InputError

HEADER_KEYS = ("format-version", "data-version", "ontology", "date", "default-namespace")
_COMMENT = re.compile(r"(?<!\\)\s!.*$")
_ESCAPE = re.compile(r"\\(.)")


@dataclass
class Obo:
    """Terms of an OBO file that are not obsolete, with their asserted relations.

    ``ids``, ``names`` and ``namespaces`` are parallel lists, sorted by id; ``alternative`` maps an
    alternative id to the id that replaced it; ``edges`` holds (child, relation, parent) ids as
    asserted, so a parent may be absent; ``typedefs`` names the declared relations; ``header`` keeps
    the version lines.
    """

    ids: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    alternative: dict[str, str] = field(default_factory=dict)
    obsolete: set[str] = field(default_factory=set)
    edges: list[tuple[str, str, str]] = field(default_factory=list)
    typedefs: set[str] = field(default_factory=set)
    header: dict[str, str] = field(default_factory=dict)


@dataclass
class Graph:
    """The directed acyclic graph over chosen relations, terms numbered as in ``Obo.ids``.

    ``up`` is a bool CSR matrix (terms × terms) with True at (child, parent); ``edges`` the same as
    an int64 array (edges × 2) with ``relations`` beside it; ``depth`` the longest path to a root,
    int64; ``dropped`` counts edges to terms that are absent or obsolete.
    """

    up: sparse.csr_matrix
    edges: np.ndarray
    relations: list[str]
    depth: np.ndarray
    dropped: int


def open_text(path: str | Path):
    """Open a text file, gzip-compressed if its name ends in ``.gz``, as UTF-8."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path.name}: found no such file, expected one at {path}")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return open(path, encoding="utf-8")


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end); unreadable content is an InputError."""
    number = 0
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{Path(path).name}: found bytes that are not UTF-8 after line {number} ({error.reason})"
        ) from None
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise InputError(
            f"{Path(path).name}: found a damaged file after line {number} ({error}), "
            "expected complete text or gzip"
        ) from None


def _stanzas(path: str | Path) -> Iterator[tuple[int, str, list[tuple[str, str]]]]:
    """Yield (line number, stanza type, [(tag, value)]); the header has type ''."""
    start, kind, tags = 1, "", []
    for number, line in numbered_lines(path):
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            yield start, kind, tags
            start, kind, tags = number, line[1:-1], []
        elif line and not line.startswith("!"):
            tag, colon, value = line.partition(":")
            if not colon:
                raise InputError(
                    f"{Path(path).name}: line {number}: found {line[:60]!r}, expected 'tag: value'"
                )
            tags.append((tag.strip(), value.strip()))
    yield start, kind, tags


def _text(value: str) -> str:
    """Return a free-text value without its trailing comment and with escapes resolved."""
    return _ESCAPE.sub(r"\1", _COMMENT.sub("", value)).strip()


def read_obo(path: str | Path) -> Obo:
    """Read terms, names, namespaces, alternative ids, ``is_a`` and ``relationship`` of an OBO file.

    Obsolete terms are set aside in ``obsolete``. Logical definitions (``intersection_of``), cross
    references and synonyms are not read. Source of the format: the OBO Flat File Format 1.2 and 1.4
    guides of the GO Consortium.

    Raises
    ------
    InputError
        Missing or damaged file, no [Term] stanza, a term without an id or given twice.
    """
    name = Path(path).name
    obo = Obo()
    seen: set[str] = set()
    alternatives: list[tuple[str, str]] = []
    for line, kind, tags in _stanzas(path):
        if kind == "":
            obo.header = {tag: value for tag, value in tags if tag in HEADER_KEYS}
            continue
        values: dict[str, list[str]] = {}
        for tag, value in tags:
            values.setdefault(tag, []).append(value)
        if kind == "Typedef":
            obo.typedefs.update(v.split()[0] for v in values.get("id", []) if v)
            continue
        if kind != "Term":
            continue
        if not values.get("id", [""])[0]:
            raise InputError(f"{name}: line {line}: found a [Term] without an id")
        term = values["id"][0].split()[0]
        if term in seen:
            raise InputError(f"{name}: line {line}: found term {term} a second time, expected once")
        seen.add(term)
        if values.get("is_obsolete", ["false"])[0].split()[0] == "true":
            obo.obsolete.add(term)
            continue
        obo.ids.append(term)
        obo.names.append(_text(values.get("name", [term])[0]) or term)
        default = obo.header.get("default-namespace", "")
        obo.namespaces.append(values.get("namespace", [default])[0])
        alternatives += [(v.split()[0], term) for v in values.get("alt_id", []) if v]
        obo.edges += [(term, "is_a", v.split()[0]) for v in values.get("is_a", []) if v]
        for value in values.get("relationship", []):
            words = value.split()
            if len(words) < 2:
                raise InputError(f"{name}: term {term}: found relationship {value!r}, expected 'relation id'")
            obo.edges.append((term, words[0], words[1]))
    if not obo.ids:
        raise InputError(f"{name}: found no [Term] that is not obsolete, expected an OBO file")
    order = sorted(range(len(obo.ids)), key=obo.ids.__getitem__)
    for column in ("ids", "names", "namespaces"):
        setattr(obo, column, [getattr(obo, column)[i] for i in order])
    # A primary id wins over an alternative id of the same spelling.
    obo.alternative = {alt: term for alt, term in sorted(alternatives) if alt not in seen}
    return obo


def graph(obo: Obo, relations: Sequence[str] = ("is_a", "part_of"), name: str = "OBO") -> Graph:
    """Return the graph over ``relations``; parents given by an alternative id are resolved.

    Raises InputError for a relation that the file neither declares nor uses (``is_a`` and
    ``part_of`` may be unused) and for a cycle, whose terms it names.
    """
    known = {"is_a", "part_of"} | obo.typedefs | {relation for _, relation, _ in obo.edges}
    unknown = sorted(set(relations) - known)
    if unknown or not relations:
        raise InputError(
            f"ontology.relations: found {unknown or 'no relation'}, expected some of {sorted(known)}"
        )
    index = {term: i for i, term in enumerate(obo.ids)}
    wanted = set(relations)
    rows: dict[tuple[int, int, str], None] = {}
    dropped = 0
    for child, relation, parent in obo.edges:
        if relation not in wanted:
            continue
        target = index.get(obo.alternative.get(parent, parent))
        if target is None:
            dropped += 1
        else:
            rows[(index[child], target, relation)] = None
    ordered = sorted(rows)
    edges = np.array([row[:2] for row in ordered], dtype=np.int64).reshape(-1, 2)
    n = len(obo.ids)
    up = sparse.csr_matrix((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), (n, n))
    up.sum_duplicates()
    return Graph(up, edges, [row[2] for row in ordered], _depths(up, obo.ids, name), dropped)


def _depths(up: sparse.csr_matrix, ids: Sequence[str], name: str) -> np.ndarray:
    """Return the longest path to a root for each term, or name the terms of the cycles."""
    down = up.T.tocsr()
    waiting = np.diff(up.indptr)
    depth = np.zeros(len(ids), dtype=np.int64)
    level = np.flatnonzero(waiting == 0)
    done, step = len(level), 0
    # Terms are released level by level, once their last parent has been: the level is the depth.
    while len(level):
        depth[level] = step
        children = down[level].indices
        if len(children) == 0:
            break
        waiting = waiting - np.bincount(children, minlength=len(ids))
        touched = np.unique(children)
        level = touched[waiting[touched] == 0]
        done += len(level)
        step += 1
    if done == len(ids):
        return depth
    _, component = sparse.csgraph.connected_components(up, directed=True, connection="strong")
    size = Counter(component.tolist())
    loops = set(np.flatnonzero(up.diagonal()).tolist())
    members = [i for i in range(len(ids)) if size[component[i]] > 1 or i in loops]
    terms = sorted(ids[i] for i in members)
    shown = ", ".join(terms[:10]) + (f" and {len(terms) - 10} more" if len(terms) > 10 else "")
    raise InputError(f"{name}: found a cycle through {shown}, expected an acyclic graph")
