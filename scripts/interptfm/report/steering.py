"""What steering left behind, read once into frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interptfm import store


@dataclass(frozen=True)
class Steering:
    """Tables of steering: ``screen`` name → frame (empty without perturbation data) and its ``summary``;
    ``concepts`` and their summary; ``recovery``: regulators and claims of a simulated screen, or None."""

    screen: dict[str, pd.DataFrame]
    summary: dict[str, Any] | None
    concepts: pd.DataFrame
    concepts_summary: dict[str, Any]
    recovery: tuple[pd.DataFrame, pd.DataFrame] | None


def read(screen: Mapping[str, str], towards: Mapping[str, str], recovery: Mapping[str, str]) -> Steering:
    """Read the tables by role: those of a screen and its recovery may be absent."""
    return Steering(
        {name: store.read_table(path) for name, path in screen.items() if name != "summary"},
        store.read_json(screen["summary"]) if screen else None,
        store.read_table(towards["concepts"]),
        store.read_json(towards["concepts_summary"]),
        tuple(store.read_table(recovery[name]) for name in ("regulators", "claims")) if recovery else None,
    )
