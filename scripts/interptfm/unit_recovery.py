"""Evaluation on simulated tissue: units against planted programs, and the claims that the demo can check.

Reads the simulation's truth; nothing that scores or calls units imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from interptfm.errors import InputError
from interptfm.tis.scoring import Columns
from interptfm.tis.table import UNITS
from interptfm.tis.units import Cells

BORDER = "border"
NOMINAL = 0.05
SCORES = ("tis_hard", "lo", "hi", "q", "tis_matched", "tis_heldout_genes", "heldout_r")
CAUSES = tuple(
    f"AUROC, one against rest, of {shown}"
    for shown in (
        "cell types alone",
        "scores of its neighbours",
        "a classifier shown units",
        "a classifier shown expression",
        "a classifier shown units of its neighbours",
    )
)
"""What locates the cause where called compartments miss the geometric ones."""
CLAIM_COLUMNS = ("claim", "value", "lo", "hi", "wanted", "met")


def aligned_truth(cells: Cells, truth: pd.DataFrame) -> pd.DataFrame:
    """Return the truth's rows in the order of ``cells``.

    Raises
    ------
    InputError
        If a cell is not in the truth.
    """
    names = [
        f"{sample}:{fov}_{cell}"
        for sample, fov, cell in zip(truth["sample"], truth["fov"], truth["cell_ID"], strict=True)
    ]
    indexed = truth.set_axis(names)
    missing = cells.obs.index.difference(indexed.index)
    if len(missing):
        raise InputError(f"truth: found no cell {missing[0]!r}, expected all cells of the run")
    return indexed.loc[cells.obs.index]


def correlations(columns: Columns, activity: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation (units × programs) over the cells given; 0 without spread."""
    x = np.asarray(columns.todense() if hasattr(columns, "todense") else columns, float)
    x, y = x - x.mean(axis=0), activity - activity.mean(axis=0)
    size = np.outer(np.sqrt((x**2).sum(axis=0)), np.sqrt((y**2).sum(axis=0)))
    return np.divide(x.T @ y, size, out=np.zeros(size.shape), where=size > 0)


def program_units(
    cells: Cells,
    present: np.ndarray,
    columns: Columns,
    truth: pd.DataFrame,
    planted: pd.DataFrame,
    table: pd.DataFrame,
) -> pd.DataFrame:
    """Return for each planted program the unit that follows it most, and that unit's scores.

    The unit with the largest |r| over all cells of training and validation blocks; ``r`` is measured on the
    cells of test blocks. ``r_within_types``: the same within the program's own cell types.
    """
    programs = planted[planted["role"] == "planted"]
    activity = truth[[f"activity:{term}" for term in programs["term_id"]]].to_numpy(float)
    chosen_on = present & np.isin(cells.split, ("train", "validation"))
    test = present & (cells.split == "test")
    units = table[table["variant"] == UNITS].set_index("unit")
    found = correlations(columns[chosen_on], activity[chosen_on])
    held_out = correlations(columns[test], activity[test])
    rows = []
    for i, program in enumerate(programs.itertuples()):
        unit = int(np.abs(found[:, i]).argmax())
        own = test & np.isin(cells.types, program.types.split(";"))
        within = correlations(columns[own][:, [unit]], activity[own][:, [i]])[0, 0]
        row = {"program": program.program, "term_id": program.term_id, "place": program.place, "unit": unit,
               "r": held_out[unit, i], "r_within_types": within}  # fmt: skip
        rows.append({**row, **{name: units.at[unit, name] for name in SCORES}})
    return pd.DataFrame(rows)


def evaluate(
    cells: Cells,
    present: np.ndarray,
    columns: Columns,
    *,
    truth: pd.DataFrame,
    planted: pd.DataFrame,
    table: pd.DataFrame,
    tis: Mapping[str, Any],
    interface: pd.DataFrame,
    agreement: pd.DataFrame,
    max_q: float,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Compare units, matching and regions with what was planted.

    Parameters
    ----------
    cells, present, columns
        As in :func:`interptfm.regions.analysis.analyse`.
    truth, planted
        ``truth/cells.parquet`` and ``truth/programs.parquet``.
    table, tis
        ``units.parquet`` and ``summary.json`` of the units.
    interface, agreement
        Tables of the regions.

    Returns
    -------
    programs, claims, summary
        One row a program (:func:`program_units`); one row a claim: ``value``, ``wanted`` in words, ``met``;
        and counts.
    """
    truth = aligned_truth(cells, truth)
    programs = program_units(cells, present, columns, truth, planted, table)
    shuffled = float(tis["null"]["mean"])
    claims = [_claim("mean score of shuffled units", shuffled, "0.49 to 0.51", 0.49 <= shuffled <= 0.51)]
    for row in tis["by_matching"]:
        if row["unit"] == "total counts" and row["matching"] == "cell type, judge thinned":
            value = row["tis"]
            met = value is not None and abs(value - 0.5) <= 0.03
            words = "score of total counts within cell type, judge thinned"
            claims.append(_claim(words, value, "0.47 to 0.53", met))
    lowest, largest = programs["tis_hard"].min(), programs["q"].max()
    words = "units that follow planted programs most: "
    claims.append(_claim(words + "lowest score", lowest, "above 0.75", lowest > 0.75))
    claims.append(_claim(words + "largest q", largest, "below 0.05", largest < 0.05))
    auroc = agreement[agreement["measure"] == "AUROC, one against rest"].set_index("group")
    for region, wanted in (("tumour", 0.9), ("TME", 0.9), ("interface", None)):
        if region in auroc.index:
            value, lo, hi = (float(auroc.at[region, name]) for name in ("value", "lo", "hi"))
            met = None if wanted is None else value > wanted
            text = "reported" if wanted is None else f"above {wanted}"
            claims.append(_claim(f"AUROC of {region} against the rest", value, text, met, lo, hi))
    for measure in CAUSES:
        for row in agreement[(agreement["measure"] == measure) & (agreement["group"] == "TME")].itertuples():
            words = measure.removeprefix("AUROC, one against rest, of ")
            claims.append(_claim(f"… TME, by {words}", row.value, "reported", None, row.lo, row.hi))
    border = planted[planted["place"] == BORDER]
    able = {name for types in border["types"] for name in types.split(";")}
    tested = interface[interface["unit"].notna()]
    inside, outside = (tested[tested["cell_type"].isin(able) == own] for own in (True, False))
    hits, false = int((inside["q"] < max_q).sum()), int((outside["q"] < max_q).sum())
    names = ", ".join(sorted(set(inside["cell_type"])))
    words = "units different near the tumour in types with the border program"
    claims.append(_claim(f"{words} ({names})", hits, "1 or more", hits >= 1))
    # At q < max_q some false ones are expected; with planted communication they need not be false, either.
    claims.append(_claim("… in types without it", false, "reported", None))
    nominal = float((outside["p"] < NOMINAL).mean()) if len(outside) else np.nan
    claims.append(_claim(f"… share of their tests with p < {NOMINAL:g}", nominal, "reported", None))
    summary = {
        "n_programs": len(programs),
        "n_above": int(((programs["tis_hard"] > 0.75) & (programs["q"] < 0.05)).sum()),
        "median_r": float(programs["r"].abs().median()),
        "interface_tests": {"with_program": len(inside), "without": len(outside)},
        "interface_found": {"with_program": hits, "without": false},
    }
    return programs, pd.DataFrame(claims, columns=list(CLAIM_COLUMNS)), summary


def _claim(
    claim: str, value: float, wanted: str, met: bool | None, lo: float = np.nan, hi: float = np.nan
) -> dict[str, Any]:
    said = "" if met is None else "yes" if met else "no"
    return {"claim": claim, "value": value, "lo": lo, "hi": hi, "wanted": wanted, "met": said}
