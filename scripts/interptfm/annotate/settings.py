"""What `annotate` of the configuration means for the workflow: its file, its name, the run that it uses.

Runs while Snakemake parses the workflow, hence standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interptfm import config as config_module
from interptfm.errors import InputError

Config = dict[str, Any]
SUMMARY = "activity/summary.json"
MODEL = ("args", "vocab", "model")


def query_file(main: Config) -> str | None:
    """Return the file of the cells to annotate, below `data_root`; None without `annotate.path`."""
    path = main["annotate"]["path"]
    return str(Path(main["data_root"], path)) if path else None


def query_name(main: Config) -> str:
    """Return the name of the outputs: `annotate.name`, or the file's own without its suffix."""
    stem = main["annotate"]["name"] or Path(query_file(main) or "none").stem
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip(".") or "cells"


def run_files(main: Config, run: str, model: Sequence[str]) -> dict[str, Any]:
    """Return the run's files by role (`cells` a list), its `folder`, `layer`, and `digest` of its state.

    Which dictionary, layer and sections is what the run itself recorded in `activity/summary.json`. That file
    names the digests of all that activity was made of, hence its own digest stands for the whole run.

    Parameters
    ----------
    main, run
        The configuration of the main arm, and the run's folder.
    model
        The model's three files (args, vocabulary, weights), in the run or where a given checkpoint lies.

    Raises
    ------
    InputError
        Without a file to annotate, for one that is not there or is the run's own, and where the run lacks a
        file: nothing of it is ever made for an annotation.
    """
    if main["model"]["backend"] == config_module.FILES:
        raise InputError(
            f"configuration: key 'model.backend': found {config_module.FILES}, expected a model that runs on "
            "the cells to annotate"
        )
    query = query_file(main)
    if query is None:
        raise InputError(
            "configuration: key 'annotate.path': found nothing, expected the .h5ad file of the cells to "
            "annotate"
        )
    if not Path(query).is_file():
        raise InputError(
            f"configuration: key 'annotate.path': found no file {query}, expected AnnData (.h5ad)"
        )
    if Path(run).resolve() in Path(query).resolve().parents:
        raise InputError(
            f"configuration: key 'annotate.path': found {query}, a file of the run itself, expected other "
            f"cells; "
            f"its own cells are scored in {run}/activity"
        )
    summary = Path(run, SUMMARY)
    _require(summary, run)
    content = summary.read_bytes()
    try:
        found = json.loads(content)
        place = f"{found['dictionary']}/layer_{int(found['layer'])}"
        cells = [path for path in found["provenance"]["inputs"] if path.startswith("cells/")]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{summary}: found a damaged file, expected the summary of rule score_activity"
        ) from None
    alignment, concepts = f"{run}/alignment/{place}", f"{run}/concepts"
    files: dict[str, Any] = {
        **dict(zip(MODEL, model, strict=True)),
        "cfg": f"{run}/dictionaries/{place}/cfg.json",
        "weights": f"{run}/dictionaries/{place}/sae_weights.safetensors",
        "maximum": f"{run}/features/{place}/max.npy",
        "codes": f"{run}/features/{place}/cells.zarr.zip",
        "interpretable": f"{alignment}/interpretable.parquet",
        "pairs": f"{alignment}/pairs.parquet",
        "terms": f"{concepts}/terms.parquet",
        "membership": f"{concepts}/membership.npz",
        "genes": f"{concepts}/genes.tsv",
        "dag": f"{concepts}/dag.parquet",
        "concepts": f"{run}/activity/concepts.parquet",
        "summary": str(summary),
        "cells": [f"{run}/{path}" for path in cells],
    }
    for path in (*files["cells"], *(path for role, path in files.items() if role != "cells")):
        _require(Path(path), run)
    return {
        **files,
        "folder": run,
        "layer": int(found["layer"]),
        "digest": hashlib.sha256(content).hexdigest(),
    }


def _require(path: Path, run: str) -> None:
    if not path.is_file():
        raise InputError(
            f"{path}: not found, expected a finished run in {run}: an annotation uses its model and "
            f"dictionary and "
            "trains nothing; run the workflow with the same configuration first"
        )
