"""What the sections share: wordings, intervals as text, settings as a table, the order of sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from interptfm.report.page import Table, number

KINDS = {
    "official checkpoint": "the scGPT checkpoint that the configuration names, loaded as published",
    "trained in place": "a small scGPT trained in place on these cells, not a published checkpoint",
    "random": "an untrained scGPT: all weights random",
    "svd_only": "an untrained scGPT whose gene embeddings are the SVD loadings of the expression",
    "files": "one that was run elsewhere, its hidden states read from files",
}

COMPARED = {
    "comparison": "Comparison", "measure": "Measure", "n": "Terms", "mean_left": "Value",
    "mean_right": "Against", "difference": "Difference", "interval": "95 % interval",
    "verdict": "Verdict",
}  # fmt: skip
HOW = (
    "Intervals: percentile bootstrap over terms, paired; they hold for this one fitted model and "
    "dictionary, and take the null's mean as known."
)


def model_kind(metrics: Mapping[str, Any]) -> str:
    """Return in plain words which kind of model the run used."""
    kind = str(metrics["kind"])
    return KINDS.get(kind, kind)


def interval(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``interval``, the text of lo and hi."""
    text = [
        "–" if pd.isna(lo) else f"{number(float(lo))} to {number(float(hi))}"
        for lo, hi in zip(frame["lo"], frame["hi"], strict=True)
    ]
    return frame.assign(interval=text)


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (dotted key, text) pairs, in their own order."""
    if isinstance(value, Mapping):
        nested = [flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
        return [pair for pairs in nested for pair in pairs]
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        nested = [flat(item, f"{prefix}[{index}]") for index, item in enumerate(value)]
        return [pair for pairs in nested for pair in pairs]
    if isinstance(value, (list, tuple)):
        return [(prefix, ", ".join(map(str, value)) or "none")]
    return [(prefix, "not set" if value is None else number(value))]


def settings(name: str, caption: str, value: Any) -> Table:
    frame = pd.DataFrame(flat(value), columns=["key", "value"])
    return Table(name, caption, frame, {"key": "Key", "value": "Value"}, rows=400, folded=True)


def main_first(values: pd.Series) -> pd.Series:
    """Sort key: the dictionary under test before all other sources, numbers as they are."""
    if pd.api.types.is_numeric_dtype(values):
        return values
    return values.map(lambda value: (value != "SAE", value))
