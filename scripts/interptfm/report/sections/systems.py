"""Other systems on the same cells: what ran, in which version, what it found, and what was skipped."""

from __future__ import annotations

from interptfm.report.page import Section, Table
from interptfm.report.run import Run

HEADINGS = {
    "system": "System", "version": "Version", "data": "Data", "headline": "Headline", "status": "Status",
    "reason": "Why skipped",
}  # fmt: skip


def systems(run: Run) -> Section | None:
    """The table of systems; None where none was asked for."""
    found = run.systems
    if found is None:
        return None
    skipped = int((found["status"] == "skipped").sum())
    prose = [
        "Other systems on the cells of this run, each as its authors publish it, read by the scorers of this "
        f"run; {len(found) - skipped} ran, {skipped} could not. Tables: comparators/."
    ]
    caption = "Systems, their versions and headlines, or why one was skipped."
    return Section("Other systems", prose, tables=[Table("systems", caption, found, HEADINGS, rows=50)])
