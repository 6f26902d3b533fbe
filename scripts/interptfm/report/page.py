"""Sections, figures and tables of a report, and the one self-contained HTML page made of them."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interptfm.errors import InputError
from interptfm.report import svg

TEMPLATES = Path(__file__).parent
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
# Words of a verdict -> the mark in front of it, so that colour is never the only sign.
MARKS = {"higher": "▲", "lower": "▼", "no difference": "○", "not ": "–"}


@dataclass(frozen=True)
class Figure:
    """A drawing with what a reader needs to judge it.

    ``name`` is its file name without suffix, ``svg`` its text, ``caption`` says what to see and how
    it was tested, ``alt`` describes it to who cannot see it, ``data`` are the plotted numbers.
    """

    name: str
    title: str
    svg: str
    caption: str
    alt: str
    data: pd.DataFrame


@dataclass(frozen=True)
class Table:
    """A frame with a caption; ``columns`` maps its columns to headings, in the order shown.

    Columns outside ``columns`` and rows past ``rows`` are left to the TSV that goes with it.
    ``folded`` puts the table behind a summary line.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    columns: Mapping[str, str] | None = None
    rows: int = 20
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """What a section function returns: a heading and all that stands below it."""

    title: str
    prose: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = field(default=())

    @property
    def key(self) -> str:
        return slug(self.title)


def slug(text: str) -> str:
    """Return ``text`` as an id: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


def number(value: Any, column: str = "") -> str:
    """Return a cell's text: three significant digits, thin thousands, an en dash for what is absent.

    Columns named ``p``, ``q`` or ``p_min`` (or ending so) go to scientific notation below 0.001.
    """
    if value is None or value is pd.NA or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace(",", "\u202f").replace("-", "\u2212")
    if isinstance(value, (float, np.floating)):
        if math.isinf(value):
            return "∞" if value > 0 else "\u2212∞"
        small = abs(value) < 1e-3 and value != 0
        if small and (column in {"p", "q"} or column.startswith(("p_", "q_"))):
            digits, exponent = f"{value:.1e}".split("e")
            return f"{digits}e{int(exponent)}".replace("-", "\u2212")
        if abs(value) >= 1000:
            return f"{value:,.0f}".replace(",", "\u202f").replace("-", "\u2212")
        text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
        if small:
            text = f"{value:.2g}"
        return text.replace("-", "\u2212")
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return ", ".join(str(item) for item in value)
    return str(value)


def tsv(frame: pd.DataFrame) -> str:
    """Return ``frame`` as tab-separated text; tabs and line breaks inside names become spaces."""
    plain = frame.copy()
    for column in plain.columns:
        if plain[column].dtype == object or isinstance(plain[column].dtype, pd.CategoricalDtype):
            plain[column] = [
                re.sub(r"[\t\r\n]+", " ", "" if value is None else _words(value)) for value in plain[column]
            ]
    return plain.to_csv(sep="\t", index=False, float_format="%.6g", lineterminator="\n")


def _words(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return ""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple, np.ndarray)) else str(value)


def data_uri(text: str, media: str) -> str:
    """Return ``text`` as a ``data:`` URI, which a link can offer as a download without network."""
    return f"data:{media};base64,{base64.b64encode(text.encode()).decode()}"


def verdict_mark(text: str) -> tuple[str, str] | None:
    """Return (mark, style class) of a verdict in words, or None for other text."""
    for start, mark in MARKS.items():
        if text.startswith(start):
            return mark, "verdict-" + slug(start)
    return None


def render(
    title: str, subtitle: str, sections: Iterable[Section], notice: str | None = None, atlas: str = ""
) -> str:
    """Return the report: one HTML page that needs no network, script or file beside it.

    ``notice`` is a sentence set off at the top, for what nobody may overlook; ``atlas`` is the relative
    address of the feature atlas, which the page links to and does not need. All text is escaped;
    only the normalised SVG goes in as markup. The page is well-formed XML, too.

    Raises
    ------
    InputError
        If two sections, or two figures or tables, have the same name.
    """
    import jinja2
    from markupsafe import Markup

    sections = list(sections)
    keys = [section.key for section in sections]
    names = [item.name for section in sections for item in (*section.figures, *section.tables)]
    twice = {name for group in (keys, names) for name in group if group.count(name) > 1}
    if twice:
        raise InputError(f"report: found the names {sorted(twice)} twice, expected each once")

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        inline=lambda figure: Markup(svg.inline(figure.svg, f"fig-{figure.name}", figure.title, figure.alt)),
        svg_uri=lambda figure: data_uri(figure.svg, "image/svg+xml"),
        tsv_uri=lambda frame: data_uri(tsv(frame), "text/tab-separated-values"),
        cells=_cells,
        verdict_mark=verdict_mark,
    )
    clean = partial(_CONTROL.sub, "\ufffd")
    page = environment.get_template("template.html").render(
        title=title, subtitle=subtitle, sections=sections, notice=notice, atlas=atlas
    )
    return clean(page)


def _cells(table: Table) -> dict[str, Any]:
    """Return headings, rows of (text, is number, style class) and the number of rows left out."""
    columns = dict(table.columns or {str(name): str(name) for name in table.frame.columns})
    missing = [name for name in columns if name not in table.frame.columns]
    if missing:
        raise InputError(
            f"table {table.name}: found no column {missing[0]!r} among "
            f"{list(table.frame.columns)}, expected the columns that it shows"
        )
    shown = table.frame.head(table.rows)
    numeric = {name: _is_numeric(shown[name]) for name in columns}
    kinds = {name: "number" if numeric[name] else "interval" * (name == "interval") for name in columns}
    rows = [
        [
            (number(value, name), numeric[name], kinds[name])
            for name, value in zip(columns, values, strict=True)
        ]
        for values in zip(*(shown[name].tolist() for name in columns), strict=True)
    ]
    headings = [(heading, numeric[name]) for name, heading in columns.items()]
    return {"headings": headings, "rows": rows, "hidden": len(table.frame) - len(shown)}


def _is_numeric(values: pd.Series) -> bool:
    """Tell whether a column is set as numbers: by dtype, or whole numbers and fractions mixed."""
    if values.dtype == object:
        return values.notna().any() and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
        )
    return pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
