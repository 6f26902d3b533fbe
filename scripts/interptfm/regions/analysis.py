"""From the table of units to compartments, claims and their agreement with labels, markers and stains."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interptfm import job
from interptfm.regions import agreement, archetypes, ceiling, enrichment, geometry
from interptfm.regions.geometry import INTERFACE, REGIONS, TUMOUR
from interptfm.regions.interface import interface_claims
from interptfm.tis import judges
from interptfm.tis.scoring import Columns
from interptfm.tis.table import UNITS
from interptfm.tis.units import STAIN, Cells

log = logging.getLogger(__name__)
TABLES = ("units", "enrichment", "interface", "agreement", "confusion", "composition", "profiles")
EDGES_UM = (-90, -60, -45, -30, -20, -10, 0, 10, 20, 30, 45, 60, 80, 100, 130, 160, 200)
LATENT_UNITS = 512


@dataclass(frozen=True)
class Result:
    """``cells``: one row a cell; ``tables``: name of :data:`TABLES` → frame; ``summary``: plain values."""

    cells: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    summary: dict[str, Any]


def top_units(table: pd.DataFrame, n: int, max_q: float) -> pd.DataFrame:
    """Return the ``n`` units under test with the highest score among those with q below ``max_q``."""
    mine = table[(table["variant"] == UNITS) & (table["q"] < max_q)]
    order = ["tis_hard", "tis_soft", "unit"]
    return mine.sort_values(order, ascending=[False, False, True]).head(n).reset_index(drop=True)


def analyse(
    cells: Cells,
    present: np.ndarray,
    columns: Columns,
    table: pd.DataFrame,
    settings: Mapping[str, Any],
    seed: int,
) -> Result:
    """Find out what the best units mark and where it lies.

    Enrichment, and the calls made by it, use training and validation blocks; agreement uses test blocks
    alone (all blocks where a run has no test cells). The interface claim, which calls nothing, uses all.

    Parameters
    ----------
    cells, present, columns
        Cells, which of them have activations, and (cells × units) activations.
    table
        ``units.parquet`` of these units.
    settings
        The ``regions`` block of the configuration.

    Where no unit is significant, or none is enriched in a type, no cell is called and the summary's
    ``status`` says so; geometric regions and composition are there all the same.

    Raises
    ------
    InputError
        If nothing says which cells are tumour.
    """

    def generator(kind: str) -> np.random.Generator:
        return job.generator(seed, "regions", kind)

    tumour_settings, legacy = settings["tumour"], settings["legacy"]
    logged = judges.log_normalise(cells.counts)
    tumour, decided_by = geometry.tumour_cells(
        cells.types, tumour_settings["types"], logged, cells.genes, tumour_settings["markers"],
        job.seed(seed, "regions", "tumour"),
    )  # fmt: skip
    log.info("%d of %d cells are tumour, by %s", tumour.sum(), len(tumour), decided_by)
    distance = geometry.nearest(cells.spatial, cells.section, tumour)
    inward = geometry.nearest(cells.spatial, cells.section, ~tumour)
    signed = np.where(tumour, -inward, distance)
    region = geometry.regions(tumour, distance, cells.section, settings["interface_um"], legacy)

    top = top_units(table, settings["top_units"], settings["max_q"])
    chosen = top["unit"].astype(int).tolist()
    active = columns[:, chosen].toarray() if not isinstance(columns, np.ndarray) else columns[:, chosen]
    active = np.asarray(active, np.float64)
    held_out = (cells.split == "test") & present
    split_used = held_out.any() and not legacy
    fitted = present & np.isin(cells.split, ("train", "validation")) if split_used else present
    judged = held_out if split_used else present

    types = np.where(tumour, TUMOUR, cells.types) if "marker score" in decided_by else cells.types
    tumour_types = sorted(set(types[tumour]))
    if not chosen:
        enriched = pd.DataFrame(columns=list(enrichment.COLUMNS))
    elif legacy:
        enriched = enrichment.hypergeometric(active, chosen, types, fitted)
    else:
        enriched = enrichment.enrichment(
            active, chosen, types, cells.blocks, fitted, settings["high_quantile"], generator("enrichment")
        )
    calls = archetypes.archetypes(enriched, tumour_types, settings["max_q"], settings["call_quantile"])
    units = top.merge(calls, on="unit", how="left")
    scores = archetypes.compartment_scores(active, chosen, calls, fitted)
    probability, call, confidence = archetypes.call_cells(scores)
    call = np.where(present, call, "")
    claims = interface_claims(
        active, chosen, types, cells.section, cells.blocks, cells.counts.sum(axis=1).A1,
        distance, tumour, present, interface_um=settings["interface_um"], strata=settings["depth_strata"],
        min_cells=settings["min_cells"], generator=generator("interface"),
    )  # fmt: skip
    if not (call != "").any():
        log.warning("%s", _status(units))

    at = np.flatnonzero(judged)
    found = agreement.Agreement(cells.blocks[at], settings["bootstrap"], generator("agreement"))
    found.regions(scores[at], call[at], region[at], distance[at])
    placed = fitted & (region != "")
    found.by_type_alone(types[at], region[at], agreement.type_shares(types[placed], region[placed]))
    # What locates the cause where calls and geometry disagree: the units, the calling, or that a cell's
    # own expression does not say what is around it.
    latent = columns[:, :LATENT_UNITS]
    latent = latent if isinstance(latent, np.ndarray) else latent.toarray()
    around = ceiling.neighbourhood(scores, cells.spatial, cells.section)
    found.by_others("scores of its neighbours", around[at], region[at])
    shown = {
        "units": latent,
        "expression": judges.standardise(logged),
        "units of its neighbours": ceiling.neighbourhood(latent, cells.spatial, cells.section),
    }
    for name, values in shown.items():
        taught = ceiling.classified(values, region, cells.blocks, fitted, judged, generator(f"taught {name}"))
        found.by_others(f"a classifier shown {name}", taught, region[at])
    found.markers(logged[at], cells.genes, settings["markers"], call[at])
    found.stains(cells.obs.iloc[at][[c for c in cells.obs if c.startswith(STAIN)]], call[at])
    found.continuity(judges.standardise(latent[at]), region[at], types[at])
    quantities = pd.DataFrame({f"p, {name}": probability[:, j] for j, name in enumerate(REGIONS)})
    if np.isnan(probability).all():
        quantities = quantities[[]]
    if not np.isnan(scores[:, REGIONS.index(INTERFACE)]).any():
        quantities["interface score"] = scores[:, REGIONS.index(INTERFACE)]
    tables = {
        "units": units,
        "enrichment": enriched,
        "interface": claims,
        "agreement": found.table(),
        "confusion": agreement.confusion(call[at], region[at]),
        "composition": agreement.composition(types, call, region),
        "profiles": agreement.profiles(
            np.where(present, signed, np.nan), quantities, cells.blocks, EDGES_UM, settings["bootstrap"],
            generator("profiles"),
        ),
    }  # fmt: skip
    frame = pd.DataFrame(
        {
            "sample": cells.section,
            "cell": cells.obs.index.astype(str),
            "x_um": cells.spatial[:, 0],
            "y_um": cells.spatial[:, 1],
            "cell_type": types,
            "split": cells.split,
            "compartment": call,
            "confidence": np.where(present, confidence, np.nan),
            **{f"p_{name}": np.where(present, probability[:, j], np.nan) for j, name in enumerate(REGIONS)},
            **{f"score_{name}": np.where(present, scores[:, j], np.nan) for j, name in enumerate(REGIONS)},
            "region": region,
            "distance_um": distance,
            "signed_um": signed,
        }
    )
    return Result(frame, tables, _summary(tables, calls, settings, decided_by, split_used, tumour_types))


def _status(units: pd.DataFrame) -> str:
    """Say whether cells were called, and if not, why."""
    if units.empty:
        return "no cell is called: no unit has a significant score"
    if not (units["call"].fillna("") != "").any():
        return "no cell is called: no unit is significantly high in a cell type"
    return "cells are called"


def _summary(
    tables: Mapping[str, pd.DataFrame],
    calls: pd.DataFrame,
    settings: Mapping[str, Any],
    decided_by: str,
    split_used: bool,
    tumour_types: list[str],
) -> dict[str, Any]:
    """Return counts of calls and claims, and the agreement rows by name."""
    claims, enriched = tables["interface"], tables["enrichment"]
    tested = claims[claims["unit"].notna()]
    return {
        "status": _status(tables["units"]),
        "tumour_by": decided_by,
        "tumour_types": tumour_types,
        "n_units": len(tables["units"]),
        "n_called": {name: int((calls["call"] == name).sum()) for name in REGIONS},
        "agreement_on": "test blocks"
        if split_used
        else "all blocks, those that units were called on included",
        "n_enriched_pairs": int((enriched["q"] < settings["max_q"]).sum()),
        "n_pairs": len(enriched),
        "interface": {
            "n_tests": len(tested),
            "n_significant": int((tested["q"] < settings["max_q"]).sum()),
            "types_tested": sorted(tested["cell_type"].unique().tolist()),
            "types_not_tested": sorted(claims.loc[claims["unit"].isna(), "cell_type"].tolist()),
            "p_min": None if tested.empty else float(tested["p_min"].min()),
        },
        "interface_um": settings["interface_um"],
        "legacy": bool(settings["legacy"]),
    }
