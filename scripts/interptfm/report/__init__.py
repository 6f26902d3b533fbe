"""The report: one self-contained HTML page, with its figures also as SVG files.

``run`` reads what a run left behind into frames; ``sections`` has one function a section, which
takes those frames; ``figures`` draws; ``page`` assembles. A further stage adds a function to
``sections.SECTIONS``.
"""

from __future__ import annotations

from interptfm.report.crosstalk import read as read_crosstalk
from interptfm.report.gene_text import read as read_gene_text
from interptfm.report.microenvironments import read as read_microenvironments
from interptfm.report.page import Figure, Section, Table, render
from interptfm.report.probing import read as read_probing
from interptfm.report.run import Entry, Run, listed, read, undeclared
from interptfm.report.sections import SECTIONS, notice
from interptfm.report.steering import read as read_steering

__all__ = [
    "SECTIONS",
    "Entry",
    "Figure",
    "Run",
    "Section",
    "Table",
    "build",
    "listed",
    "read",
    "read_crosstalk",
    "read_gene_text",
    "read_microenvironments",
    "read_probing",
    "read_steering",
    "render",
    "undeclared",
]


def build(run: Run) -> tuple[str, dict[str, str]]:
    """Return the page of ``run`` and its figures, file name → SVG text.

    Raises
    ------
    InputError
        If a table lacks what a section needs, or a figure is not fit to be shown inside the page.
    """
    sections = [section for make in SECTIONS if (section := make(run)) is not None]
    subtitle = (
        "Concepts in the activations of a transcriptomic foundation model: dictionary features against "
    )
    subtitle += "ontology terms, each number beside its null, its simple baseline and an interval."
    html = render(f"Run {run.name}", subtitle, sections, notice(run), run.atlas)
    figures = {f"{figure.name}.svg": figure.svg for section in sections for figure in section.figures}
    return html, figures
