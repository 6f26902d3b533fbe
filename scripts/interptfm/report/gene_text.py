"""What embeddings of gene descriptions left behind, read once into frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interptfm import store


@dataclass(frozen=True)
class GeneText:
    """Tables of ``gene_text``.

    ``scores``, ``differences``, ``types``, ``curve`` over representations, with ``summary``; ``maps``:
    representation → coordinates; ``providers``: provider → record; ``terms``: provider → terms by type;
    ``tis``: provider → summary of the units that its vectors judge; ``alignment``: as
    ``alignment/headline.tsv``, with the providers' vectors; ``settings``: the block of the configuration.
    """

    scores: pd.DataFrame
    differences: pd.DataFrame
    types: pd.DataFrame
    curve: pd.DataFrame
    summary: dict[str, Any]
    maps: dict[str, pd.DataFrame]
    providers: dict[str, dict[str, Any]]
    terms: dict[str, pd.DataFrame]
    tis: dict[str, dict[str, Any]]
    alignment: pd.DataFrame
    settings: dict[str, Any]


def read(index: Mapping[str, Any], settings: Mapping[str, Any]) -> GeneText:
    """Read the tables.

    Parameters
    ----------
    index
        Paths by role: the four tables, ``summary`` and ``alignment``; and by name under ``maps``,
        ``providers``, ``terms`` and ``tis``.
    settings
        The block ``gene_text`` of the configuration.
    """
    tables = {role: store.read_table(index[role]) for role in ("scores", "differences", "types", "curve")}
    return GeneText(
        **tables,
        summary=store.read_json(index["summary"]),
        maps={name: store.read_table(path) for name, path in index["maps"].items()},
        providers={name: store.read_json(path) for name, path in index["providers"].items()},
        terms={name: store.read_table(path) for name, path in index["terms"].items()},
        tis={name: store.read_json(path) for name, path in index["tis"].items()},
        alignment=store.read_table(index["alignment"]),
        settings=dict(settings),
    )
