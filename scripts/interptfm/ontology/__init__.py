"""Concepts: which genes of the panel carry which ontology term, and on what evidence.

Three sources give the same six outputs (:class:`Concepts`): offline an ontology graph with direct
annotation (``obo_gaf``) and a table that is propagated already (``gprofiler_csv``), online the
g:Profiler service (``gprofiler``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interptfm.errors import InputError
from interptfm.ontology.gaf import Gaf, read_gaf
from interptfm.ontology.gprofiler import from_gprofiler
from interptfm.ontology.gprofiler_csv import from_gprofiler_csv, read_table
from interptfm.ontology.obo import Graph, Obo, graph, read_obo
from interptfm.ontology.obo_gaf import climb, from_obo_gaf, propagate
from interptfm.ontology.terms import EXPERIMENTAL, OUTPUTS, Concepts, save

__all__ = [
    "EXPERIMENTAL",
    "OUTPUTS",
    "Concepts",
    "Gaf",
    "Graph",
    "Obo",
    "build",
    "climb",
    "from_gprofiler",
    "from_gprofiler_csv",
    "from_obo_gaf",
    "graph",
    "panel_of_cells",
    "propagate",
    "read_gaf",
    "read_obo",
    "read_table",
    "save",
]

SHARED = {"evidence", "aspects", "min_genes", "max_fraction"}
SETTINGS = {
    "obo_gaf": SHARED | {"relations"},
    "gprofiler_csv": SHARED | {"keep_without_evidence"},
    "gprofiler": SHARED | {"keep_without_evidence"},
}


def panel_of_cells(paths: Sequence[str | Path]) -> list[str]:
    """Return the genes of several ``cells/*.h5ad`` in order of first appearance.

    Only ``var`` is read. Raises InputError where a file has no readable ``var``.
    """
    import h5py
    from anndata.io import read_elem

    from interptfm.store import panel

    names = []
    for path in paths:
        try:
            with h5py.File(path, "r") as file:
                names.append(read_elem(file["var"]).index)
        except (OSError, KeyError) as error:
            raise InputError(
                f"{Path(path).name}: found no readable 'var' ({error}), expected a cells h5ad file"
            ) from None
    return panel(names)


def build(
    panel: Sequence[str],
    settings: Mapping[str, Any],
    *,
    obo: str | Path | None = None,
    gaf: str | Path | None = None,
    table: str | Path | None = None,
) -> Concepts:
    """Build the concepts from the source that ``settings["source"]`` names.

    ``settings`` is the ``ontology`` block of the configuration: keys that belong to the other
    source are not used, keys that are absent take the defaults of :func:`from_obo_gaf` and
    :func:`from_gprofiler_csv`. Raises InputError for an unknown source or a file that it lacks.
    """
    source = settings.get("source")
    if source not in SETTINGS:
        raise InputError(f"ontology.source: found {source!r}, expected one of {sorted(SETTINGS)}")
    needed = {"obo_gaf": {"obo": obo, "gaf": gaf}, "gprofiler_csv": {"table": table}}.get(source, {})
    for key, path in needed.items():
        if path is None:
            raise InputError(f"ontology.{key}: found nothing, but ontology.source is {source!r}")
    chosen = {key: settings[key] for key in SETTINGS[source] if key in settings}
    if source == "obo_gaf":
        return from_obo_gaf(obo, gaf, panel, **chosen)
    if source == "gprofiler":
        return from_gprofiler(panel, **chosen, **settings.get("gprofiler", {}))
    return from_gprofiler_csv(table, panel, **chosen)
