"""A thin reader of GAF 2.x, and the match of its gene symbols to a panel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from interptfm.errors import InputError
from interptfm.ontology.obo import numbered_lines

VERSIONS = ("2.0", "2.1", "2.2")
HEADER_KEYS = ("gaf-version", "generated-by", "date-generated", "go-version", "project-release")
COLUMNS = 15  # columns 16 and 17 are optional in all of GAF 2


@dataclass
class Gaf:
    """Rows of a GAF file as parallel lists, one entry a row, and its header's version lines."""

    symbol: list[str] = field(default_factory=list)
    negated: list[bool] = field(default_factory=list)
    term: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    aspect: list[str] = field(default_factory=list)
    synonyms: dict[str, set[str]] = field(default_factory=dict)
    taxa: Counter = field(default_factory=Counter)
    header: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.symbol)


def read_gaf(path: str | Path) -> Gaf:
    """Read a GAF 2.0, 2.1 or 2.2 file, gzip-compressed if its name ends in ``.gz``.

    Taken are columns 3 (symbol), 4 (qualifier: negated if ``NOT`` is among its parts), 5 (term),
    7 (evidence), 9 (aspect), 11 (synonyms) and 13 (taxon). Source: the GO Consortium's GAF format.

    Raises
    ------
    InputError
        Missing or damaged file, no or another ``!gaf-version``, a row with under 15 columns or
        without symbol, term or evidence code, no row at all.
    """
    name = Path(path).name
    gaf = Gaf()
    shared: dict[str, str] = {}  # one string object for each distinct value of a column
    for number, line in numbered_lines(path):
        if line.startswith("!"):
            key, colon, value = line[1:].partition(":")
            key = key.strip().lower()
            if colon and key in HEADER_KEYS:
                gaf.header.setdefault(key, value.strip())
            continue
        if not line.strip():
            continue
        if gaf.header.get("gaf-version") not in VERSIONS:
            raise InputError(
                f"{name}: found gaf-version {gaf.header.get('gaf-version')!r} before the first row "
                f"(line {number}), expected a line '!gaf-version: ' with one of {VERSIONS}"
            )
        cells = line.split("\t")
        if len(cells) < COLUMNS:
            raise InputError(
                f"{name}: line {number}: found {len(cells)} tab-separated columns, expected {COLUMNS} to 17"
            )
        symbol, term, code = cells[2].strip(), cells[4].strip(), cells[6].strip().upper()
        if not (symbol and term and code):
            raise InputError(
                f"{name}: line {number}: found an empty symbol, term or evidence code "
                "(columns 3, 5 and 7), expected all three"
            )
        symbol = shared.setdefault(symbol, symbol)
        gaf.symbol.append(symbol)
        gaf.negated.append("NOT" in cells[3].upper().split("|"))
        gaf.term.append(shared.setdefault(term, term))
        gaf.code.append(shared.setdefault(code, code))
        gaf.aspect.append(cells[8].strip().upper())
        names = {part.strip() for part in cells[10].split("|")} - {"", symbol}
        if names:
            gaf.synonyms.setdefault(symbol, set()).update(names)
        gaf.taxa[cells[12].split("|")[0].strip()] += 1
    if len(gaf) == 0:
        raise InputError(f"{name}: found no annotation row, expected at least one")
    return gaf


def match_symbols(gaf: Gaf, panel: Sequence[str]) -> tuple[dict[str, list[int]], list[str], int]:
    """Match the symbols of a GAF file to the genes of a panel.

    A symbol that equals a gene is that gene. A gene that no symbol equals takes the annotation of
    the one symbol that lists it as a synonym (column 11), provided that this symbol is itself no
    gene of the panel; a gene claimed by several symbols is ambiguous and stays unannotated.

    Returns
    -------
    genes of each symbol (symbol -> panel positions), the symbol behind each gene ('' where there is
    none), and the number of ambiguous genes.
    """
    position = {gene: i for i, gene in enumerate(panel)}
    symbols = dict.fromkeys(gaf.symbol)
    found = {symbol: [position[symbol]] for symbol in symbols if symbol in position}
    matched = [gene if gene in found else "" for gene in panel]
    claims: dict[str, list[str]] = {}
    for symbol in symbols:
        if symbol not in position:
            for synonym in sorted(gaf.synonyms.get(symbol, ())):
                if synonym in position and synonym not in found:
                    claims.setdefault(synonym, []).append(symbol)
    ambiguous = 0
    for gene, claimants in sorted(claims.items()):
        if len(claimants) > 1:
            ambiguous += 1
            continue
        found.setdefault(claimants[0], []).append(position[gene])
        matched[position[gene]] = claimants[0]
    return found, matched, ambiguous
