"""The README's tables, each from one command: what Snakemake is asked for, and the numbers to show of it.

A stage adds its tables by an entry of :data:`TABLES`.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interptfm.errors import InputError

REAL = "config/nsclc_mini.yaml"
LEGACY = "config/legacy.yaml"
SILENT = "config/no_communication.yaml"
SCREEN = "config/thp1.yaml"


@dataclass(frozen=True)
class Source:
    """Numbers of one kind of file.

    ``files`` is a pattern under ``results/<run>/``; ``columns`` maps columns of a table, or key paths of a
    JSON document (``test.fvu``), to headings. ``rows`` keeps the rows of a table whose columns have these
    values; in a document it is the key path of the list, or mapping, whose entries are the rows. With
    ``mean_over`` (a column) the numbers are means over its values, one row a value of the first column, in
    the order of the table.
    """

    files: str
    columns: Mapping[str, str]
    rows: Mapping[str, str] | str = field(default_factory=dict)
    mean_over: str = ""


@dataclass(frozen=True)
class Table:
    """A table: what it shows, where its numbers stand, and what makes them: targets, run, configuration."""

    title: str
    sources: tuple[Source, ...]
    targets: tuple[str, ...] = ("all",)
    run: str = "demo"
    configfile: str | None = None


COMPARISON = {
    "right": "against", "n": "n", "mean_left": "SAE", "mean_right": "it", "difference": "difference",
    "lo": "lo", "hi": "hi",
}  # fmt: skip
SUMMARY = {
    "mean_f1": "mean F1", "null_mean": "its null", "null_lo": "null lo", "null_hi": "null hi", "p": "p",
    "n_concepts_significant": "q < 0.05", "mean_f1_single_gene": "single gene",
    "headline.gene_held_out.auroc.mean": "held-out-gene AUROC",
    "headline.gene_held_out.auroc.null_mean": "its null",
    "n_concepts_f1_above_half": "F1 > 0.5",
}  # fmt: skip
HEADLINE = {
    "representation": "representation", "arm": "arm", "layer": "layer", "n": "n", "mean": "mean",
    "lo": "lo", "hi": "hi", "null_mean": "null", "excess": "excess", "p": "p",
}  # fmt: skip


CLAIMS = {"claim": "claim", "value": "value", "n": "n", "wanted": "wanted", "met": "met"}
PROBES = {
    "kind": "probe", "split": "held out", "n": "n", "real": "real", "permuted": "permuted",
    "difference": "difference", "lo": "lo", "hi": "hi",
}  # fmt: skip
UNITS = Source(
    "tis/*/layer_*/summary.json",
    {
        "variant": "units", "n": "n", "mean": "mean", "mean_matched": "matched",
        "mean_heldout_genes": "held-out genes", "n_significant": "q < 0.05", "best_tis": "best",
    },
    "variants",
)  # fmt: skip
STEERED = Source(
    "steering/effects.parquet",
    {
        "method": "steered along", "n_cells": "cells a target", "cosine_control": "cosine",
        "null_cosine_control": "of random directions", "centroid_accuracy": "centroid accuracy",
        "null_centroid_accuracy": "of random directions", "overlap": "signed overlap",
        "null_overlap": "of random directions",
    },
    mean_over="target",
)  # fmt: skip


def _compared(measure: str) -> Source:
    rows = {"scope": "planted programs", "left": "SAE", "measure": measure}
    return Source("recovery/comparisons.tsv", COMPARISON, rows)


TABLES: dict[str, Table] = {
    "planted": Table(
        "Planted programs: F1 of the dictionary's features against null, baselines and arms",
        (_compared("F1"), _compared("excess")),
    ),
    "held_out_genes": Table(
        "Planted programs: AUROC of genes that had no say in the choice of the feature",
        (_compared("held-out-gene AUROC"), _compared("held-out-gene AUROC, chosen by AUROC")),
    ),
    "representations": Table(
        "Every representation beside its null, held-out cells and held-out genes",
        tuple(
            Source("alignment/headline.tsv", HEADLINE, {"evaluation": evaluation, "measure": measure})
            for evaluation, measure in (("cell_held_out", "f1"), ("gene_held_out", "auroc"))
        ),
    ),
    "dictionaries": Table(
        "Dictionaries on test blocks, and the model's error with a layer replaced",
        (
            Source(
                "dictionaries/*/layer_*/metrics.json",
                {"test.fvu": "FVU", "test.l0": "L0", "test.dead": "dead"},
            ),
            Source(
                "dictionaries/*/layer_*/quality.json",
                {
                    "error.original": "untouched", "error.reconstruction": "reconstructed",
                    "error.mean": "mean", "error.zero": "zero", "recovered.mean": "damage avoided",
                },
            ),
        ),
        ("dictionaries",),
    ),
    "units": Table(
        "TIS of units beside their controls",
        (UNITS,),
        ("tis",),
    ),
    "places": Table(
        "Claims about units and compartments",
        (
            Source(
                "recovery/unit_claims.tsv",
                {
                    "claim": "claim", "value": "value", "lo": "lo", "hi": "hi",
                    "wanted": "wanted", "met": "met",
                },
            ),
        ),
        ("recovery",),
    ),
    "crosstalk": Table(
        "Planted communication: AUROC of its pairs among all tests, and directions",
        (
            Source(
                "recovery/pair_summary.json",
                {
                    "": "activity of cells from", "n_tests": "tests", "auroc": "AUROC",
                    "auroc_tested": "of the pairs that could be tested", "n_missing": "not tested",
                },
                "variants",
            ),
            Source(
                "recovery/pair_summary.json",
                {
                    "n_planted": "planted", "variants.features.n_direction_right": "right by features",
                    "variants.planted activities.n_direction_right": "right by the planted activities",
                },
            ),
        ),
        ("recovery",),
    ),
    "probes": Table(
        "Probes on held-out genes and cells, beside probes of permuted membership and the untrained model",
        tuple(
            Source(f"{arm}probes/layer_*/summary.parquet", PROBES, {"metric": "auroc"})
            for arm in ("", "arms/*/")
        ),
        ("probes",),
    ),
    "steering": Table(
        "Steering against the observed shift, mean over targets, and the claims made of it",
        (STEERED, Source("recovery/steering_claims.tsv", CLAIMS)),
        ("steering",),
    ),
    "evidence": Table(
        "How many features and pairs pass each link, beside both nulls and the untrained arm",
        (
            Source(
                "evidence/funnel.tsv",
                {
                    "chain": "chain", "kind": "kind", "step": "step", "status": "status",
                    "features": "features", "rows": "pairs", "lo": "lo", "hi": "hi",
                },
            ),
        ),
        ("evidence",),
    ),
    "without_communication": Table(
        "The demo without planted communication: F1 against null, baselines and arms",
        (_compared("F1"),),
        ("all",),
        "no_communication",
        SILENT,
    ),
    "seeds": Table(
        "Features that come back over seeds",
        (Source("arms/seeds/dictionaries/*/layer_*/stability.json", {"seeds": "seeds", "stable": "stable"}),),
        ("extras",),
    ),
    "frontier": Table(
        "Dictionaries of the sweep: sizes, architectures, and what they keep",
        (
            Source(
                "frontier.tsv",
                {
                    "dictionary": "dictionary", "architecture": "architecture", "layer": "layer",
                    "n_features": "features", "l0": "L0", "fvu": "FVU", "recovered": "loss recovered",
                    "validation_excess": "F1 beyond the null (validation)",
                },
            ),
        ),
        ("extras",),
    ),
    "strength": Table(
        "Recovery over the strength at which programs are planted",
        (
            Source(
                "recovery/curve.tsv",
                {
                    "strength": "strength", "layer": "layer", "mean_f1": "F1", "mean_null": "null",
                    "mean_excess": "excess", "lo": "lo", "hi": "hi",
                    "gene_auroc": "held-out-gene AUROC", "gene_auroc_excess": "its excess",
                    "gene_auroc_lo": "lo", "gene_auroc_hi": "hi",
                },
                {"scope": "planted programs"},
            ),
        ),
        ("extras",),
    ),
    "nothing_planted": Table(
        "Nothing planted: ours",
        (Source("arms/strength_0/alignment/*/layer_*/summary.json", SUMMARY),),
        ("extras",),
    ),
    "published_protocol": Table(
        "Nothing planted: the published protocol",
        (Source("alignment/*/layer_*/summary.json", SUMMARY),),
        ("alignment",),
        "legacy",
        LEGACY,
    ),
    "real": Table(
        "2,198 real CosMx cells: every layer, with control arms",
        (
            Source("alignment/*/layer_*/summary.json", SUMMARY),
            Source("arms/*/alignment/*/layer_*/summary.json", SUMMARY),
        ),
        ("all",),
        "nsclc_mini",
        REAL,
    ),
    "real_held_out_genes": Table(
        "2,198 real CosMx cells: genes that had no say in the choice of the feature",
        (
            Source(
                "alignment/headline.tsv", HEADLINE, {"evaluation": "gene_held_out", "measure": "auroc"}
            ),
        ),
        ("all",),
        "nsclc_mini",
        REAL,
    ),
    "real_units": Table(
        "2,198 real CosMx cells: TIS of units beside their controls", (UNITS,), ("tis",), "nsclc_mini", REAL
    ),
    "real_probes": Table(
        "2,198 real CosMx cells: probes on held-out genes and cells",
        (Source("probes/layer_*/summary.parquet", PROBES, {"metric": "auroc"}),),
        ("probes",),
        "nsclc_mini",
        REAL,
    ),
    "knock_outs": Table(
        "A real knock-out screen: steering against the observed shift, mean over targets",
        (STEERED,),
        ("steering",),
        "thp1",
        SCREEN,
    ),
    "resources": Table(
        "Time and peak memory of every rule",
        (
            Source(
                "provenance.json",
                {
                    "": "rule", "jobs": "jobs", "seconds": "seconds",
                    "longest_s": "longest", "peak_mb": "peak MB",
                },
                "rules",
            ),
        ),
    ),
}  # fmt: skip


def arguments(name: str) -> list[str]:
    """Return what Snakemake is called with for a table; InputError for an unknown one."""
    table = find(name)
    return [*table.targets, *(["--configfile", table.configfile] if table.configfile else [])]


def find(name: str) -> Table:
    """Return the table of this name; InputError lists the names there are."""
    if name not in TABLES:
        raise InputError(f"reproduce: found table {name!r}, expected one of {', '.join(TABLES)}")
    return TABLES[name]


def markdown(name: str, results: str | Path) -> str:
    """Return a table in Markdown from the files under ``results`` (a folder of runs).

    Raises
    ------
    InputError
        For an unknown table, a file, column or key that is not there.
    """
    table = find(name)
    parts = [f"**{table.title}**"]
    for source in table.sources:
        rows = list(_rows(source, Path(results, table.run)))
        head = ["file", *source.columns.values()] if "*" in source.files else list(source.columns.values())
        lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        lines += [f"| {' | '.join(map(_shown, row))} |" for row in rows]
        parts.append(f"`{table.run}/{source.files}`\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _rows(source: Source, run: Path) -> Iterator[list[Any]]:
    from interptfm import store

    files = sorted(run.glob(source.files))
    if not files:
        raise InputError(f"{run}/{source.files}: not found, expected the files of a finished run")
    for path in files:
        start = [str(path.relative_to(run).parent)] if "*" in source.files else []
        if path.suffix == ".json":
            content = store.read_json(path)
            for entry in _entries(content, source.rows, path):
                yield start + [_value(entry, key, path) for key in source.columns]
            continue
        frame = store.read_table(path)
        for column in (*source.columns, *source.rows, *([source.mean_over] if source.mean_over else [])):
            if column not in frame:
                raise InputError(f"{path}: found no column {column!r} among {list(frame)}, expected it")
        for column, wanted in dict(source.rows).items():
            frame = frame[[fnmatch.fnmatchcase(str(value), wanted) for value in frame[column]]]
        if source.mean_over:
            first, *numbers = source.columns
            frame = frame.groupby(first, sort=False)[numbers].mean().reset_index()
        for row in frame[list(source.columns)].itertuples(index=False):
            yield start + list(row)


def _entries(content: Any, rows: Mapping[str, str] | str, path: Path) -> list[Any]:
    if not isinstance(rows, str):
        return [content]
    found = _value(content, rows, path)
    return found if isinstance(found, list) else [{"": key, **value} for key, value in found.items()]


def _value(content: Any, key: str, path: Path) -> Any:
    """Return the value at a key path; InputError where it is not there."""
    value = content
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(f"{path}: found no key {key!r}, expected it")
        value = value[part]
    return value


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value).replace("|", "\\|")
