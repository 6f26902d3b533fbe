"""One table of a space's units beside all controls, and the summary of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interptfm import job, stats
from interptfm.tis import controls, judges, tasks
from interptfm.tis.controls import Group
from interptfm.tis.readout import Readout
from interptfm.tis.scoring import Columns, Null, Scorer
from interptfm.tis.units import Cells

log = logging.getLogger(__name__)

UNITS = "units"
MAX_SHUFFLES = 20_000
DEPTH_STRATA_SHOWN = 5
SAMPLED_UNITS = 64
READOUT_UNITS = 128
"""Units predicted at a time, which bounds the memory."""
DEPTH_TASKS = 10
"""Times as many tasks for the two units of depth, whose score stands beside every claim."""
COLUMNS = (
    "unit", "name", "layer", "variant", "tis_hard", "tis_soft", "lo", "hi", "lo_binomial", "hi_binomial",
    "p", "q", "p_min", "tis_matched", "lo_matched", "hi_matched", "tis_heldout_genes", "heldout_r",
    "reliability", "tis_half_a", "tis_half_b", "tis_reseeded", "n_high", "n_low", "n_scorable", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """What the arm that sees half of the genes gives.

    ``states`` (cells × d) its `<cls>` states and ``present`` who has one; ``visible`` (genes,) bool the genes
    that it saw; ``same_weights``: it is the model under test, so its states are the units themselves.
    """

    states: np.ndarray
    present: np.ndarray
    visible: np.ndarray
    same_weights: bool = False

    def take(self, kept: np.ndarray) -> HeldOut:
        """Return the same for some of the cells, by position."""
        return HeldOut(self.states[kept], self.present[kept], self.visible, self.same_weights)


def shuffles(setting: int | None, n_units: int) -> int:
    """Return how many shuffled units: as set, or so many that one unit alone can reach q < 0.05."""
    return setting or min(max(1000, 20 * n_units), MAX_SHUFFLES)


class Evaluation:
    """Scores groups of units on the same cells in every way that the table shows.

    Parameters
    ----------
    cells, present
        The cells, and which of them have activations; the others take no part.
    settings
        The ``tis`` block of the configuration.
    seed, name, threads
        What draws derive from; threads of each scorer.
    embedding
        Gene table and symbols of the judge by embedding, if configured.
    held_out
        See :class:`HeldOut`.
    """

    def __init__(
        self,
        cells: Cells,
        present: np.ndarray,
        settings: Mapping[str, Any],
        *,
        seed: int,
        name: str,
        threads: int = 1,
        embedding: tuple[np.ndarray, Sequence[str]] | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        self.cells, self.present, self.settings, self.held_out = cells, present, settings, held_out
        self.seed, self.name, self.threads, self.embedding = seed, name, threads, embedding
        matched = settings["matched"]
        self.section = np.zeros(len(present), int) if settings["legacy"] else cells.section
        everyone = tasks.labels_of(self.section, keep=present)
        vectors = self.judge(cells.counts, cells.genes)
        self.full = self.scorer(vectors, everyone, "all", settings["bootstrap"])
        self.reseeded = self.scorer(vectors, everyone, "reseeded", 0)
        first = tasks.block_halves(cells.blocks, cells.section, job.generator(seed, "tis", name, "halves"))
        # A single block a section has no second half; then there is no reliability by block.
        self.halves = [
            self.scorer(vectors, np.where(part, everyone, -1), half, 0)
            for half, part in (("half a", first), ("half b", ~first))
        ]
        total = np.asarray(cells.counts.sum(axis=1)).ravel()
        self.depth = max(1, int(np.quantile(total[present], matched["depth_quantile"])))
        thinned, enough = judges.thin(cells.counts, self.depth, job.generator(seed, "tis", name, "thin"))
        self.thinned, self.enough = self.judge(thinned, cells.genes), present & enough
        types = cells.types if matched["cell_type"] else np.zeros(len(present), int)
        self.matched_labels = self.strata_of(types, total, matched["depth_strata"], self.enough)
        self.matched = self.scorer(self.thinned, self.matched_labels, "matched", settings["bootstrap"])
        self.other_genes = self.readout = None
        if held_out is not None:
            hidden = np.flatnonzero(~held_out.visible)
            scored = present & held_out.present
            if not held_out.same_weights:
                scored = scored & (cells.split != "train")
            judge = self.judge(cells.counts[:, hidden], [cells.genes[i] for i in hidden])
            labels = tasks.labels_of(self.section, keep=scored)
            self.other_genes = self.scorer(judge, labels, "held-out genes", 0)
            self.scored_elsewhere = scored

    def judge(self, counts, genes) -> np.ndarray:
        return judges.judge(counts, genes, self.settings["similarity"], self.embedding)

    def scorer(
        self, vectors: np.ndarray, labels: np.ndarray, kind: str, bootstrap: int, times: int = 1
    ) -> Scorer:
        return Scorer(
            vectors,
            labels,
            self.cells.blocks,
            references=self.settings["references"],
            tasks=self.settings["tasks"] * times,
            quantile=self.settings["quantile"],
            legacy=self.settings["legacy"],
            seed=self.seed,
            name=f"{self.name} {kind}",
            bootstrap=bootstrap,
            threads=self.threads,
        )

    def strata_of(self, types: np.ndarray, total: np.ndarray, n: int, keep: np.ndarray) -> np.ndarray:
        """Return labels of section × type × depth stratum (n of them, of equal size)."""
        groups = tasks.labels_of(self.section, types)
        depth = np.zeros(len(keep), np.int64)
        depth[keep] = tasks.depth_strata(total[keep], groups[keep], n)
        return tasks.labels_of(groups, depth, keep=keep)

    def rows(self, units: Group, null: Null, layer: int) -> pd.DataFrame:
        """Return the rows of one group; ``p`` against the null, ``q`` over the group."""
        keys = [f"{units.variant} {name}" for name in units.names]
        full = self.full.score(units.columns, keys, null.alpha)
        halves = [half.score(units.columns, keys)["hard"] for half in self.halves]
        matched = self.matched.score(units.columns, keys)
        elsewhere, r = self.elsewhere(units, keys)
        p = null.p(full["hard"])
        frame = {
            "unit": units.index, "name": units.names, "layer": layer, "variant": units.variant,
            "tis_hard": full["hard"], "tis_soft": full["soft"], "lo": full["lo"], "hi": full["hi"],
            "lo_binomial": full["lo_binomial"], "hi_binomial": full["hi_binomial"],
            "p": p, "q": stats.benjamini_hochberg(p), "p_min": null.p_min,
            "tis_matched": matched["hard"], "lo_matched": matched["lo"], "hi_matched": matched["hi"],
            "tis_heldout_genes": elsewhere, "heldout_r": r,
            "reliability": 1 - (halves[0] - halves[1]).abs(),
            "tis_half_a": halves[0], "tis_half_b": halves[1],
            "tis_reseeded": self.reseeded.score(units.columns, keys)["hard"],
            "n_high": full["n_high"], "n_low": full["n_low"], "n_scorable": matched["n_scorable"],
            "reason": full["reason"],
        }  # fmt: skip
        return pd.DataFrame(frame)[list(COLUMNS)]

    def elsewhere(self, units: Group, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the score by genes that the units' model did not see, and how it matches the units (r)."""
        scores, r = np.full(len(keys), np.nan), np.full(len(keys), np.nan)
        if self.other_genes is None:
            return scores, r
        if units.held_out is not None:
            return self.other_genes.score(units.held_out, keys)["hard"].to_numpy(), r
        if not units.linear:
            return scores, r
        if self.readout is None:
            train = self.present & self.held_out.present & (self.cells.split == "train")
            self.readout = Readout(self.held_out.states, train)
        for start in range(0, len(keys), READOUT_UNITS):
            part = slice(start, start + READOUT_UNITS)
            predicted, r[part] = self.readout.predict(units.columns[:, part], self.scored_elsewhere)
            scores[part] = self.other_genes.score(predicted, keys[part])["hard"]
        return scores, r

    def by_matching(self, units: Sequence[Group]) -> list[dict[str, Any]]:
        """Return the score of depth, and of a sample of units, under each way of matching.

        Shows what matching does, and does not do, about depth: strata leave a range of depth, and thinning
        leaves how a cell's depth goes with its state.
        """
        total = np.asarray(self.cells.counts.sum(axis=1)).ravel()
        one, types = np.zeros(len(total), int), self.cells.types
        ways = {
            "sections only": (self.full.vectors, one, 1, self.present),
            "cell type": (self.full.vectors, types, 1, self.present),
            "cell type and depth quintile": (self.full.vectors, types, DEPTH_STRATA_SHOWN, self.present),
            "judge thinned": (self.thinned, one, 1, self.enough),
            "cell type, judge thinned": (self.thinned, types, 1, self.enough),
            "cell type and depth quintile, judge thinned": (
                self.thinned, types, DEPTH_STRATA_SHOWN, self.enough,
            ),
        }  # fmt: skip
        rows = []
        for way, (vectors, groups, n, keep) in ways.items():
            labels = self.strata_of(groups, total, n, keep)
            for part in units:
                scorer = self.scorer(vectors, labels, way, 0, DEPTH_TASKS if part.variant == "depth" else 1)
                scores = scorer.score(part.columns, [f"{part.variant} {name}" for name in part.names])
                names = part.names if part.variant == "depth" else [f"mean of {len(scores)} {part.variant}"]
                values = scores["hard"] if part.variant == "depth" else [scores["hard"].mean()]
                for name, value in zip(names, values, strict=True):
                    cells = int(scores["n_scorable"].max())
                    rows.append({"matching": way, "unit": name, "tis": _number(value), "n_cells": cells})
        return rows


def evaluate(
    evaluation: Evaluation,
    units: Columns,
    layer: int,
    untrained: Columns | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Score a space of units beside its controls.

    Parameters
    ----------
    evaluation
        Cells, judges and strata.
    units
        (cells × units) activations; NaN makes a unit unscored.
    layer
        Number for the table.
    untrained
        (cells × units) of the same kind of units in the untrained arm.

    Returns
    -------
    table, null, summary
        One row a unit (:data:`COLUMNS`), those under test of variant ``units``; ``tis_hard`` of each shuffled
        unit of the null; what the report and README say of it.
    """
    settings, seed, name = evaluation.settings, evaluation.seed, evaluation.name
    held_out, cells = evaluation.held_out, evaluation.cells
    n, visible = settings["controls"], held_out.visible if held_out else None

    def generator(kind: str) -> np.random.Generator:
        return job.generator(seed, "tis", name, kind)

    same = held_out is not None and held_out.same_weights and held_out.states.shape == units.shape
    main = controls.group(UNITS, units, held_out=held_out.states if same else None, linear=True)
    finite = np.nan_to_num(units) if isinstance(units, np.ndarray) else units
    depth = controls.depth(cells.counts, visible)
    groups = [
        main,
        controls.shuffled(main, evaluation.section, n, generator("shuffled")),
        controls.directions(finite, n, generator("directions")),
        controls.rotation(finite, n, generator("rotation")),
        depth,
        controls.principal_components(cells.counts, settings["components"], visible),
        controls.indicators(cells.types),
    ]
    if untrained is not None:
        arm = controls.group("untrained", untrained)
        groups.insert(4, controls.sample(arm, n, generator("untrained")))
    null = evaluation.full.null(shuffles(settings["shuffles"], units.shape[1]))
    table = pd.concat([evaluation.rows(group, null, layer) for group in groups], ignore_index=True)
    summary = summarise(table, null, settings)
    sampled = controls.sample(main, SAMPLED_UNITS, generator("sampled"))
    summary |= {
        "layer": layer,
        "n_cells": int(evaluation.present.sum()),
        "n_blocks": len(np.unique(cells.blocks[evaluation.present])),
        "thinned_to": evaluation.depth,
        "n_thinned": int(evaluation.enough.sum()),
        "held_out": None
        if held_out is None
        else {
            "genes_seen": int(held_out.visible.sum()),
            "genes_of_the_judge": int((~held_out.visible).sum()),
            "cells": int(evaluation.scored_elsewhere.sum()),
            "units_are": "those of the same weights" if same else "read out of the arm by ridge regression",
        },
        "by_matching": evaluation.by_matching([depth, sampled]),
    }
    return table, pd.DataFrame({"tis_hard": null.hard}), summary


def summarise(table: pd.DataFrame, null: Null, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return per variant: how many were scored, their mean and best score, and the null's expected best."""
    variants = []
    for variant, rows in table.groupby("variant", sort=False):
        scored = rows[rows["tis_hard"].notna()]
        best = scored.loc[scored["tis_hard"].idxmax()] if len(scored) else None
        variants.append(
            {
                "variant": str(variant),
                "n": len(rows),
                "n_scored": len(scored),
                "mean": _number(scored["tis_hard"].mean()),
                "mean_soft": _number(scored["tis_soft"].mean()),
                "mean_matched": _number(rows["tis_matched"].mean()),
                "mean_heldout_genes": _number(rows["tis_heldout_genes"].mean()),
                "n_significant": int((scored["q"] < 0.05).sum()),
                "best": None if best is None else str(best["name"]),
                "best_tis": None if best is None else _number(best["tis_hard"]),
                "null_expected_best": _number(null.expected_maximum(len(scored))),
                "reliability_by_block": correlation(rows["tis_half_a"], rows["tis_half_b"]),
                "reliability_by_seed": correlation(rows["tis_hard"], rows["tis_reseeded"]),
            }
        )
    return {
        "variants": variants,
        "null": {
            "n": len(null.hard),
            "mean": _number(null.hard.mean() if len(null.hard) else np.nan),
            "sd": _number(null.hard.std(ddof=1) if len(null.hard) > 1 else np.nan),
            "alpha": _number(null.alpha),
            "p_min": null.p_min,
        },
        "unscored": {
            str(k): int(v) for k, v in table.loc[table["reason"] != "", "reason"].value_counts().items()
        },
        "family": "q is Benjamini–Hochberg over the units of one variant, layer and space",
        "legacy": bool(settings["legacy"]),
    }


def correlation(a: pd.Series, b: pd.Series) -> float | None:
    """Return Pearson's correlation over units scored in both; None with fewer than 3 or no spread."""
    both = a.notna() & b.notna()
    if both.sum() < 3 or a[both].std() == 0 or b[both].std() == 0:
        return None
    return float(np.corrcoef(a[both], b[both])[0, 1])


def _number(value: float) -> float | None:
    """Return a plain float, None for NaN, which JSON does not have."""
    return float(value) if np.isfinite(value) else None
