"""What the chain is made of, read once from the tables of other stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interptfm import alignment, features, store
from interptfm.crosstalk.reading import read_compartments
from interptfm.evidence import NOT_COMPUTED
from interptfm.evidence.analysis import Arm, Terms
from interptfm.tis import units
from interptfm.tis.units import Cells


def read(given: Any, dictionary: str, layer: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read the rule's inputs.

    Parameters
    ----------
    given
        Paths by role, as Snakemake gives them: ``cells``, ``regions``, ``features``, ``firing``,
        ``concepts``, ``interpretable``, ``summary``, ``membership``, ``genes``, ``terms``, ``channels``,
        ``activity``, ``pairs``; where there are such, ``steering``, ``stability`` and ``untrained_*``.
    dictionary, layer
        The dictionary whose features the rows are about. Channel edges of another one are no evidence for
        them: then that link is not computed, and says of which they are.

    Returns
    -------
    Arguments of :func:`interptfm.evidence.analysis.collect`.
    """
    cells = units.read_cells(units.listed(given["cells"]))
    firing = features.read_firing(given["firing"])
    genes = store.read_table(given["genes"])["gene"].astype(str).tolist()
    members = alignment.reindex(alignment.read_membership(given["membership"]), genes, firing.genes)
    untrained = read_arm(given, cells, settings, "untrained_") if given.get("untrained_features") else None
    return {
        "arm": read_arm(given, cells, settings),
        "terms": read_terms(given, dictionary, layer),
        "cells": cells,
        "compartments": read_compartments(
            units.listed(given["regions"]), cells, settings["compartment"]["by"]
        ),
        "firing": firing,
        "members": members,
        "term_table": store.read_table(given["terms"]),
        "untrained": untrained,
    }


def read_arm(given: Any, cells: Cells, settings: Mapping[str, Any], prefix: str = "") -> Arm:
    """Read an arm's alignment, its features in cells and, where there is one, the table over seeds."""
    codes, present = units.feature_units(given[f"{prefix}features"], cells, settings["aggregate"])
    stability = given.get(f"{prefix}stability")
    return Arm(
        store.read_table(given[f"{prefix}concepts"]),
        store.read_table(given[f"{prefix}interpretable"]),
        store.read_json(given[f"{prefix}summary"]),
        codes,
        present,
        store.read_table(stability) if stability else None,
    )


def read_terms(given: Any, dictionary: str, layer: int) -> Terms:
    """Read what crosstalk and steering found for terms."""
    of, reasons, edges = store.read_json(given["activity"]), {}, {}
    same = of["dictionary"] == dictionary and int(of["layer"]) == layer and of["source"] == "features"
    if same:
        edges = {"channels": store.read_table(given["channels"]), "pairs": store.read_table(given["pairs"])}
    else:
        what = f"{of['dictionary']}, layer {of['layer']}" if of["source"] == "features" else "member genes"
        reasons["channel"] = f"{NOT_COMPUTED}: crosstalk is of {what}"
    steering = store.read_table(given["steering"]) if given.get("steering") else None
    return Terms(**edges, steering=steering, reasons=reasons)
