"""The sections of the report: each takes a run's frames and returns one section, or None.

A new section is one more function in ``SECTIONS``; None means that the run has nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable

from interptfm.report.page import Section
from interptfm.report.run import Run
from interptfm.report.sections.activity import activity
from interptfm.report.sections.alignment import alignment
from interptfm.report.sections.common import model_kind
from interptfm.report.sections.crosstalk import crosstalk
from interptfm.report.sections.dictionary_quality import dictionary_quality
from interptfm.report.sections.evidence import evidence
from interptfm.report.sections.gene_text import gene_text
from interptfm.report.sections.microenvironments import interpretability, microenvironments
from interptfm.report.sections.models import models
from interptfm.report.sections.overview import overview
from interptfm.report.sections.probes import probes
from interptfm.report.sections.reading import reading
from interptfm.report.sections.recovery import recovery
from interptfm.report.sections.representations import representations
from interptfm.report.sections.stages import dictionaries, model, quality
from interptfm.report.sections.steering import steering
from interptfm.report.sections.systems import systems

SECTIONS: tuple[Callable[[Run], Section | None], ...] = (
    overview,
    quality,
    model,
    dictionaries,
    dictionary_quality,
    alignment,
    representations,
    models,
    reading,
    recovery,
    interpretability,
    microenvironments,
    activity,
    crosstalk,
    probes,
    steering,
    evidence,
    gene_text,
    systems,
)


def notice(run: Run) -> str | None:
    """Return what nobody may overlook: a model or tissue that is not the published kind."""
    parts = []
    if run.simulated:
        parts.append("The tissue is simulated, with planted programs; nothing here is biology.")
    if run.model_metrics["kind"] != "official checkpoint":
        parts.append(f"The model is {model_kind(run.model_metrics)}.")
    return " ".join(parts) or None
