"""What a run left behind, read once into frames: the input of every section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from interptfm import recovery, store
from interptfm.errors import InputError
from interptfm.report.crosstalk import Crosstalk
from interptfm.report.gene_text import GeneText
from interptfm.report.microenvironments import Microenvironments
from interptfm.report.probing import Probing
from interptfm.report.steering import Steering

MAIN_ARM = "main"
NEURONS = "neurons"
TABLES = ("concepts", "features", "null", "interpretable", "training", "top_tokens")
DOCUMENTS = ("summary", "metrics", "quality")


@dataclass(frozen=True)
class Entry:
    """One representation at one layer of one arm: frames of its alignment and of its training.

    What a representation does not have (raw neurons are not trained) is None.
    """

    arm: str
    representation: str
    layer: int
    concepts: pd.DataFrame | None = None
    features: pd.DataFrame | None = None
    null: pd.DataFrame | None = None
    interpretable: pd.DataFrame | None = None
    summary: dict[str, Any] | None = None
    training: pd.DataFrame | None = None
    metrics: dict[str, Any] | None = None
    top_tokens: pd.DataFrame | None = None
    quality: dict[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """All that the report shows of a run, as frames and plain values."""

    name: str
    config: dict[str, Any]
    samples: list[str]
    simulated: bool
    qc: dict[str, pd.DataFrame]
    qc_svg: dict[str, str]
    query: dict[str, Any]
    terms: pd.DataFrame
    model_metrics: dict[str, Any]
    model_training: pd.DataFrame
    entries: list[Entry]
    recovery: tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]] | None = None
    curve: pd.DataFrame | None = None
    headline: pd.DataFrame | None = None
    reading: tuple[dict[str, pd.DataFrame], dict[str, Any]] | None = None
    dictionary_tables: dict[str, Any] = field(default_factory=dict)
    microenvironments: Microenvironments | None = None
    activity: tuple[dict[str, pd.DataFrame], dict[str, Any]] | None = None
    crosstalk: Crosstalk | None = None
    probing: Probing | None = None
    steering: Steering | None = None
    evidence: tuple[dict[str, pd.DataFrame], dict[str, Any]] | None = None
    atlas: str = ""
    gene_text: GeneText | None = None
    systems: pd.DataFrame | None = None
    mofa: tuple[pd.DataFrame, pd.DataFrame] | None = None
    models: pd.DataFrame | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @cached_property
    def dictionary(self) -> str:
        """Name of the dictionary under test: the first of the main arm."""
        for entry in self.entries:
            if entry.arm == MAIN_ARM and entry.representation != NEURONS:
                return entry.representation
        raise InputError("report: found no dictionary in the main arm, expected one or more")

    def label(self, entry: Entry) -> str:
        """Return what figures and tables call ``entry``, without its layer."""
        if entry.arm == MAIN_ARM:
            names = {self.dictionary: "SAE", NEURONS: "raw neurons"}
            return names.get(entry.representation, entry.representation)
        if entry.representation == self.dictionary:
            return entry.arm
        words = "raw neurons" if entry.representation == NEURONS else entry.representation
        return f"{entry.arm} {words}"

    @cached_property
    def layers(self) -> list[int]:
        return sorted({entry.layer for entry in self.entries if self.label(entry) == "SAE"})

    @cached_property
    def layer(self) -> int:
        """The layer chosen on validation, for the dictionary under test."""
        mine = [entry for entry in self.entries if self.label(entry) == "SAE" and entry.summary]
        return recovery.choose_layer(
            {entry.layer: recovery.validation_excess(entry.summary) for entry in mine}
        )

    def at(self, layer: int) -> dict[str, Entry]:
        """Return label → entry at ``layer``, the dictionary under test first."""
        aligned = [entry for entry in self.entries if entry.concepts is not None]
        found = {self.label(entry): entry for entry in aligned if entry.layer == layer}
        return {name: found[name] for name in sorted(found, key=lambda name: name != "SAE")}

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """All terms compared at the chosen layer, arms that lack it named as such."""
        # A dictionary of <cls> tokens has no genes, hence no alignment.
        labels = dict.fromkeys(self.label(entry) for entry in self.entries if entry.concepts is not None)
        here = self.at(self.layer)
        tables = {
            name: here[name].concepts if name in here else pd.DataFrame()
            for name in sorted(labels, key=lambda name: name != "SAE")
        }
        every = tables["SAE"]["term_id"].astype(str)
        return recovery.compare(tables, {"all terms": every}, self.seed)


def read(
    index: Sequence[Mapping[str, Any]],
    *,
    name: str,
    config: Mapping[str, Any],
    samples: Sequence[str],
    simulated: bool,
    qc: Sequence[str],
    qc_figures: Sequence[str],
    query: str,
    terms: str,
    model_metrics: str | None,
    model_training: str | None,
    recovery_files: Sequence[str] = (),
    curve: str | None = None,
    headline: str | None = None,
    reading: Mapping[str, str] | None = None,
    absorption: Mapping[int, str] | None = None,
    has_graph: bool = True,
    stability: Sequence[str] = (),
    frontier: str | None = None,
    microenvironments: Microenvironments | None = None,
    activity: Mapping[str, str] | None = None,
    crosstalk: Crosstalk | None = None,
    probing: Probing | None = None,
    steering: Steering | None = None,
    evidence: Mapping[str, str] | None = None,
    atlas: str = "",
    gene_text: GeneText | None = None,
    systems: str | None = None,
    mofa: Sequence[str] = (),
    models: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Run:
    """Read a run's tables.

    Parameters
    ----------
    index
        One mapping a representation and layer: ``arm`` (``main`` or empty for the main one),
        ``representation``, ``layer``, and paths under ``concepts``, ``features``, ``null``,
        ``interpretable``, ``summary``, ``training``, ``metrics``, ``top_tokens``; a path may be
        absent where the representation has no such file.
    qc, qc_figures
        One path a sample, in the order of ``samples``.
    absorption
        Table by layer of the main dictionary; ``has_graph``: whether the ontology is a graph.
    stability
        Summaries of dictionaries with several seeds.
    frontier
        Table of the sweep.
    recovery_files
        Programs, comparisons and summary, in this order; empty for real data.
    headline
        Table of all representations.
    reading
        Tables of the reading of features, and its ``summary``, by name.
    activity
        Tables of the activity of concepts, and its ``summary``, by name.
    microenvironments, crosstalk, probing, steering, gene_text
        What later stages left, read already.
    evidence
        Tables of the chain of evidence, and its ``summary``, by name.
    atlas
        Path of the feature atlas from the report's folder, empty where the run has none.
    systems
        Table of the other systems, those that were skipped among them.
    mofa
        Tables of MOFA+: variance explained, and one view told from another.
    models
        Table of the models of all arms.
    model_metrics, model_training
        None where activations are read from files.

    Raises
    ------
    InputError
        If a file is missing or damaged, or the lists do not fit the samples.
    """
    for key, files in (("qc", qc), ("qc_figures", qc_figures)):
        if len(files) != len(samples):
            raise InputError(
                f"report: found {len(files)} files of {key}, expected one for each of {list(samples)}"
            )
    entries = []
    for item in index:
        known = {
            "arm": item["arm"] or MAIN_ARM,
            "representation": item["representation"],
            "layer": int(item["layer"]),
        }
        tables = {key: store.read_table(item[key]) for key in TABLES if item.get(key)}
        documents = {key: store.read_json(item[key]) for key in DOCUMENTS if item.get(key)}
        entries.append(Entry(**known, **tables, **documents))
    found = None
    if recovery_files:
        programs, comparisons, summary = recovery_files
        found = (
            store.read_table(programs),
            store.read_table(comparisons),
            store.read_json(summary),
        )
    return Run(
        name=name,
        config=dict(config),
        samples=list(samples),
        simulated=simulated,
        qc={sample: store.read_table(path) for sample, path in zip(samples, qc, strict=True)},
        qc_svg={
            sample: Path(path).read_text(encoding="utf-8")
            for sample, path in zip(samples, qc_figures, strict=True)
        },
        query=store.read_json(query),
        terms=store.read_table(terms),
        model_metrics=store.read_json(model_metrics) if model_metrics else {"kind": "files"},
        model_training=store.read_table(model_training) if model_training else pd.DataFrame(),
        entries=entries,
        recovery=found,
        curve=store.read_table(curve) if curve else None,
        headline=store.read_table(headline) if headline else None,
        reading=_reading(reading) if reading else None,
        dictionary_tables=_dictionary_tables(absorption or {}, has_graph, stability, frontier),
        microenvironments=microenvironments,
        activity=_reading(activity) if activity else None,
        crosstalk=crosstalk,
        probing=probing,
        steering=steering,
        evidence=_reading(evidence) if evidence else None,
        atlas=atlas,
        gene_text=gene_text,
        systems=store.read_table(systems).fillna("") if systems else None,
        mofa=(store.read_table(mofa[0]), store.read_table(mofa[1])) if mofa else None,
        models=store.read_table(models) if models else None,
        provenance=dict(provenance or {}),
    )


def _reading(paths: Mapping[str, str]) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    tables = {name: store.read_table(path) for name, path in paths.items() if name != "summary"}
    return tables, store.read_json(paths["summary"])


def _dictionary_tables(
    absorption: Mapping[int, str], has_graph: bool, stability: Sequence[str], frontier: str | None
) -> dict[str, Any]:
    tables: dict[str, Any] = {"has_graph": has_graph}
    if absorption:
        frames = [store.read_table(path).assign(layer=layer) for layer, path in absorption.items()]
        tables["absorption"] = pd.concat([frame for frame in frames if len(frame)] or frames[:1])
    if stability:
        rows = []
        for path in stability:
            found = store.read_json(path)
            parts = {
                f"{name}_{key}": value
                for name in ("decoder", "firing", "chance")
                for key, value in found[name].items()
            }
            rows.append({key: found[key] for key in ("dictionary", "layer", "seeds", "stable")} | parts)
        tables["stability"] = pd.DataFrame(rows)
    if frontier:
        tables["frontier"] = store.read_table(frontier)
    return tables


def listed(value: str | Sequence[str]) -> list[str]:
    """Return one path or several as a list; Snakemake gives a lone named input as plain text."""
    return [value] if isinstance(value, str) else [str(path) for path in value]


def undeclared(index: Sequence[Mapping[str, Any]], inputs: str | Sequence[str]) -> list[str]:
    """Return the paths that ``index`` names and ``inputs`` does not: the rule would read them unseen."""
    known = set(listed(inputs))
    paths = [str(item[key]) for item in index for key in (*TABLES, *DOCUMENTS) if item.get(key)]
    return [path for path in paths if path not in known]
