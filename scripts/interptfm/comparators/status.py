"""Whether a system ran, in which version, and the one sentence on why it did not."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from interptfm import store

log = logging.getLogger("interptfm")

DONE, SKIPPED = "done", "skipped"
SIMULATED = "simulated"
COLUMNS = ("system", "package", "version", "status", "reason", "data", "headline")


class Skipped(Exception):
    """A system cannot run here; the message is one sentence on what is missing."""


def package(distribution: str, module: str, family: str) -> Any:
    """Import and return the module of a package.

    Parameters
    ----------
    distribution, module
        Its name on PyPI and its import name.
    family
        The rule family whose environment has it.

    Raises
    ------
    Skipped
        If it is not installed, or is installed and does not load.
    """
    how = f"install envs/requirements-{family}.txt and name its Python in environments.{family}, or use conda"
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise Skipped(f"the package {distribution} is not installed; {how}") from None
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a foreign package raises while it loads
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Skipped(
            f"the package {distribution} is installed and does not load ({detail}); {how}"
        ) from error


def require(found: Any, what: str, key: str, path: str | None) -> None:
    """Skip a system whose file is not there.

    Parameters
    ----------
    found
        The file that the rule was given; empty without one.
    what, key, path
        What the file holds; its key below ``comparators`` and what that is set to.

    Raises
    ------
    Skipped
        If there is no file.
    """
    if not found:
        words = f"{path}, which is no file below data_root" if path else "null"
        words = "simulated, and the cells of this run are not" if path == SIMULATED else words
        raise Skipped(f"there is no {what}: comparators.{key} is {words}")


def attempt(
    system: str, distribution: str | None, function: Callable[[], tuple[Any, Mapping[str, Any]]]
) -> tuple[Any, dict[str, Any]]:
    """Run a system; return what it found (None where it was skipped) and its summary.

    Parameters
    ----------
    distribution
        The package whose version is recorded; None for the project's own code.
    function
        Returns (result, further keys of the summary); raises :class:`Skipped` where something is missing.
        Any other exception is a defect and passes.

    Returns
    -------
    result, summary
        ``summary``: ``system``, ``package``, ``version``, ``status`` (done or skipped), ``reason``, and what
        the function adds (``data`` and ``headline`` go into the table of systems).
    """
    summary: dict[str, Any] = {
        "system": system, "package": distribution or "", "version": version(distribution), "status": DONE,
        "reason": "", "data": "", "headline": "",
    }  # fmt: skip
    try:
        result, found = function()
    except Skipped as reason:
        log.warning("%s was skipped: %s", system, reason)
        return None, {**summary, "status": SKIPPED, "reason": str(reason)}
    return result, {**summary, **found}


def version(distribution: str | None) -> str:
    """Return the installed version of a package; empty for none, and where it is not installed."""
    try:
        return metadata.version(distribution) if distribution else ""
    except metadata.PackageNotFoundError:
        return ""


def systems(paths: list[str | Path]) -> pd.DataFrame:
    """Return one row a system (:data:`COLUMNS`) from the summaries that its rule wrote, in this order."""
    rows = [store.read_json(path) for path in paths]
    return pd.DataFrame([{name: row[name] for name in COLUMNS} for row in rows], columns=list(COLUMNS))
