"""Other systems on the same cells: what ran, in which version, what it found, and what was skipped."""

from __future__ import annotations

import pandas as pd

from interptfm.report.page import Section, Table
from interptfm.report.run import Run

HEADINGS = {
    "system": "System", "version": "Version", "data": "Data", "headline": "Headline", "status": "Status",
    "reason": "Why skipped",
}  # fmt: skip
PREDICTED = {
    "from": "From", "to": "Told", "shuffled": "Dealt within", "r2": "r²", "interval": "95 % interval",
    "null_mean": "Null", "p": "p", "q": "q", "r2_types": "r² of the cell type", "n": "Cells",
}  # fmt: skip


def systems(run: Run) -> Section | None:
    """The table of systems, and what MOFA+ explains; None where none was asked for."""
    found = run.systems
    if found is None:
        return None
    skipped = int((found["status"] == "skipped").sum())
    prose = [
        "Other systems on the cells of this run, each as its authors publish it, read by the scorers of this "
        f"run; {len(found) - skipped} ran, {skipped} could not. Tables: comparators/."
    ]
    caption = "Systems, their versions and headlines, or why one was skipped."
    tables = [Table("systems", caption, found, HEADINGS, rows=50)]
    return Section("Other systems", prose, tables=[*tables, *factors(run.mofa)])


def factors(found: tuple[pd.DataFrame, pd.DataFrame] | None) -> list[Table]:
    """Variance that each factor of MOFA+ explains in each view, and one view told from another."""
    if found is None or not len(found[0]):
        return []
    variance, prediction = found
    mine = variance[(variance["cells"] == "test") & (variance["group"] == "all")]
    wide = mine.pivot(index="factor", columns="view", values="r2").reset_index()
    wide["factor"] = ["all" if k == 0 else str(k) for k in wide["factor"]]
    caption = (
        "MOFA+: r² of each view on cells of test blocks, rebuilt from factors that saw it. Channels are "
        "means of concepts, so that these two views share factors whatever the tissue does."
    )
    tables = [Table("mofa_variance", caption, wide, {name: name.capitalize() for name in wide}, rows=50)]
    told = prediction[~prediction["derived"].astype(bool)]
    if len(told):
        interval = [f"{lo:.2f} to {hi:.2f}" for lo, hi in zip(told["lo"], told["hi"], strict=True)]
        caption = (
            "MOFA+: r² of a view on cells of test blocks from factors that saw another view alone, beside "
            "the mean where these are dealt among cells of a section, or of a section and cell type. What "
            "the second null reaches is cell types and no more."
        )
        tables.append(Table("mofa_prediction", caption, told.assign(interval=interval), PREDICTED, rows=50))
    return tables
