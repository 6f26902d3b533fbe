"""Tests of concept pairs: "a in type S with b in type R next to it", under the default null and three others.

Default: residuals (centred within type, depth regressed out); per FOV, the field of b shifts on the torus by
at least twice its range, each cell taking the nearest shifted value of its own type. Beside it: profiles
shuffled within type and block; plain z-scores shifted whatever the type (``uncentred``); type labels
shuffled, as published. The statistic of the first two is the covariance on the edges, that of the others the
mean product z⁺z⁺ that they are known by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import stats
from interptfm.crosstalk import pairs
from interptfm.crosstalk.fields import ranges_um, residuals, standardised
from interptfm.crosstalk.shifts import Torus, shuffled

SHIFT, PROFILES, UNCENTRED, LABELS = "shift", "profiles", "uncentred", "labels"
OTHERS = (PROFILES, UNCENTRED, LABELS)
RANGE_STEPS = 3
LEAST_SHIFTS = 20
Draws = Callable[[str], np.random.Generator]


@dataclass(frozen=True)
class Tissue:
    """Cells of one section as the tests need them.

    ``values`` (n × concepts); ``types`` (n,) int into ``type_names``; ``fov``, ``block`` (n,) labels;
    ``depth`` (n,) total counts; ``spatial`` (n × 2) µm; ``weights`` (n × n) symmetric CSR.
    """

    values: np.ndarray
    types: np.ndarray
    type_names: list[str]
    fov: np.ndarray
    block: np.ndarray
    depth: np.ndarray
    spatial: np.ndarray
    weights: sparse.csr_matrix
    z: np.ndarray = field(init=False)
    residual: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "z", standardised(self.values))
        object.__setattr__(self, "residual", residuals(self.values, self.types, self.depth))

    def strata(self) -> np.ndarray:
        """Return the label (n,) int of type and block."""
        block = np.unique(self.block, return_inverse=True)[1]
        return block.astype(np.int64) * len(self.type_names) + self.types


@dataclass(frozen=True)
class Shifts:
    """Toroidal shifts of concepts that share them.

    ``groups``: column positions; ``least_um``: shortest shift of each group; ``distinct``: number of shifts
    apart by their range; ``drawn``: (permutations × FOVs × 2) of each group.
    """

    torus: Torus
    groups: list[np.ndarray]
    range_um: np.ndarray
    least_um: list[float]
    distinct: list[float]
    drawn: list[np.ndarray]

    @property
    def testable(self) -> np.ndarray:
        """(concepts,) bool: whether enough distinct shifts exist."""
        result = np.zeros(len(self.range_um), bool)
        for columns, number in zip(self.groups, self.distinct, strict=True):
            result[columns] = number >= LEAST_SHIFTS
        return result

    def donors(self, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (columns, donors (n,)) of every group that can be tested, of permutation ``k``."""
        for columns, number, drawn in zip(self.groups, self.distinct, self.drawn, strict=True):
            if number >= LEAST_SHIFTS:
                yield columns, self.torus.donors(drawn[k])


def shifts(
    tissue: Tissue, groups: np.ndarray, residual: np.ndarray, match_um: float, shortest_um: float, n: int,
    draws: Draws, name: str,
) -> Shifts:  # fmt: skip
    """Draw the shifts of every concept: at least twice its range, and ``shortest_um``.

    Concepts are put in three groups of similar range, and each group shifts by twice the longest range in it.
    """
    torus = Torus(tissue.spatial, tissue.fov, groups, match_um)
    if not residual.shape[1]:
        return Shifts(torus, [], np.zeros(0), [], [], [])
    range_um = ranges_um(residual, tissue.spatial, tissue.fov, draws(f"{name} ranges"))
    edges = np.unique(np.quantile(range_um, np.linspace(0, 1, RANGE_STEPS + 1)[1:], method="higher"))
    of = np.searchsorted(edges, range_um)
    found = Shifts(torus, [], range_um, [], [], [])
    for g, longest in enumerate(edges):
        least = max(2 * float(longest), shortest_um)
        found.groups.append(np.flatnonzero(of == g))
        found.least_um.append(least)
        found.distinct.append(torus.distinct(least, float(longest)))
        found.drawn.append(torus.draw(least, n, draws(f"{name} shifts {g}")))
    return found


def type_pairs(tissue: Tissue, min_edges: int) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """Return the edges between types, and for each receiver the sources (S ≤ R) with ``min_edges`` edges."""
    n = len(tissue.type_names)
    counts = pairs.edge_counts(tissue.weights, tissue.types, n)
    sources = [(r, [s for s in range(r + 1) if counts[s, r] >= min_edges]) for r in range(n)]
    return counts, [(r, found) for r, found in sources if found]


def exceeding(
    observed: np.ndarray, sent: np.ndarray, sums: pairs.PairSums, cells: np.ndarray,
    donors: Sequence[np.ndarray], statistic: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:  # fmt: skip
    """Return (1 + k) / (1 + n) of each pair over donors that serve all concepts alike; NaN stays NaN."""
    count, columns = np.zeros(observed.shape, np.int32), np.arange(observed.shape[-1])
    for donor in donors:
        count += statistic(sums.sums(sent, donor[cells], columns)) >= observed
    return np.where(np.isnan(observed), np.nan, (1 + count) / (1 + len(donors)))


def test_pairs(
    tissue: Tissue, *, permutations: int, match_um: float, shortest_um: float, min_edges: int, max_r: float,
    draws: Draws, others: Sequence[str] = OTHERS, kept: int = 6,
) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, Any]]:  # fmt: skip
    """Test every pair of concepts in every pair of types.

    Parameters
    ----------
    tissue
        Cells, graph and activities of one section.
    permutations
        Of each null; p-values of the default pool the standardised nulls of all pairs with one receiver type.
    match_um
        Longest distance from a shifted place to the cell that gives the value.
    shortest_um
        Shortest shift, whatever the range.
    min_edges
        Type pairs with fewer edges are not tested.
    max_r
        Concepts whose residuals correlate more than this within cells are no pair: they are one activity, and
        what is smooth in space meets itself.
    draws
        Name → generator of its own.
    others
        The nulls beside the default.
    kept
        Number of pairs a receiver type whose null is returned.

    Returns
    -------
    table, kept nulls, facts
        ``table``: one row an unordered pair: source, target (positions of types, S ≤ R), a, b (positions of
        concepts), n_edges, score (mean z⁺z⁺ of residuals over edges), null_mean (of the score, at the
        observed amounts of a and b on the edges), log2_ratio, statistic (covariance of residuals on the
        edges, less what is passed on, :func:`passed_on`), z, p, p_min, and p_<null> of the others. Pairs
        of which one does not vary in its type have no row. ``kept``: row → null of the statistic.
        ``facts``: distinct shifts and shares of cells with a donor.
    """
    n_concepts = tissue.values.shape[1]
    residual, positive = tissue.residual, np.clip(tissue.residual, 0, None)
    z = np.clip(tissue.z, 0, None)
    counts, jobs = type_pairs(tissue, min_edges)
    moved = shifts(tissue, tissue.types, residual, match_um, shortest_um, permutations, draws, "pairs")
    signed = pairs.PairSums(tissue.weights, tissue.types, residual, residual)
    cut = pairs.PairSums(tissue.weights, tissue.types, positive, positive)
    other = _Others(tissue, z, jobs, moved, match_um, permutations, draws, others)
    same, columns = np.arange(len(tissue.types)), np.arange(n_concepts)
    # Memory: all donors at once, int32; rows without one are −1.
    donors = [list(moved.donors(k)) for k in range(permutations)]
    varies = np.array(
        [tissue.residual[tissue.types == t].std(axis=0) > 0 for t in range(len(tissue.type_names))]
    )
    apart = np.abs(correlation(residual)) <= max_r
    within = [beyond_chance(residual[tissue.types == t]) for t in range(len(tissue.type_names))]
    frames, nulls = [], {}
    for target, sources in jobs:
        cells, sent = signed.receiver(target, sources)
        sent_cut = cut.receiver(target, sources)[1]
        observed = pairs.covariance(signed.sums(sent, same[cells], columns))
        observed -= np.stack([passed_on(m, within[s], within[target]) for m, s in zip(observed, sources)])
        observed_cut = cut.sums(sent_cut, same[cells], columns)
        null = np.full((permutations, *observed.shape), np.nan, np.float32)
        lifts = np.zeros(observed.shape)
        for k in range(permutations):
            for mine, donor in donors[k]:
                null[k][..., mine] = pairs.covariance(signed.sums(sent, donor[cells], mine))
                lifts[..., mine] += pairs.lift(cut.sums(sent_cut, donor[cells], mine))
        chosen = _hypotheses(target, sources, varies, moved.testable, apart) & np.isfinite(observed)
        chosen &= np.isfinite(null).all(axis=0)
        source, a, b = np.nonzero(chosen)
        tested, null = observed[chosen], null[:, chosen]
        p, p_min = stats.pooled_permutation_p(tested, null, np.zeros(len(tested), int))
        score = pairs.mean_product(observed_cut)[chosen]
        expected = (pairs.independent(observed_cut) * lifts / permutations)[chosen]
        deviation = null.std(axis=0, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            frame = {
                "source": np.asarray(sources)[source], "target": target, "a": a, "b": b,
                "n_edges": counts[np.asarray(sources)[source], target], "score": score,
                "null_mean": expected, "log2_ratio": np.log2(np.where(score > 0, score, np.nan) / expected),
                "statistic": tested, "z": (tested - null.mean(axis=0)) / np.where(deviation > 0, deviation,
                np.nan),
                "p": p, "p_min": p_min,
            }  # fmt: skip
        for name, values in other.p_values(target, sources, observed):
            frame[f"p_{name}"] = values[chosen]
        offset = sum(map(len, frames))
        for row in np.argsort(p, kind="stable")[:kept]:
            nulls[offset + int(row)] = null[:, row]
        frames.append(pd.DataFrame(frame))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    given = [np.mean([d >= 0 for d in (t.donors(s) for s in drawn[:20])]) for t, drawn in
             ((moved.torus, drawn) for drawn in moved.drawn)]  # fmt: skip
    facts = {
        "shortest_shift_um": moved.least_um, "distinct_shifts": moved.distinct,
        "concepts": [len(g) for g in moved.groups], "share_with_donor": [float(x) for x in given],
        "overlapping_pairs": int((~apart[np.triu_indices(n_concepts, 1)]).sum()),
    }  # fmt: skip
    return table, nulls, facts


def correlation(residual: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of concepts within cells (concepts × concepts); 0 without spread."""
    centred = residual - residual.mean(axis=0)
    size = np.sqrt((centred**2).sum(axis=0))
    unit = np.divide(centred, size, out=np.zeros_like(centred), where=size > 0)
    return unit.T @ unit


def beyond_chance(residual: np.ndarray) -> np.ndarray:
    """Return correlations within cells (concepts × concepts), two standard errors nearer to 0.

    What is left over is no accident of these cells; taking off accidents, too, would make the test timid.
    """
    r = correlation(residual)
    return np.sign(r) * np.maximum(np.abs(r) - 2 / np.sqrt(max(len(residual), 1)), 0)


def passed_on(observed: np.ndarray, in_source: np.ndarray, in_target: np.ndarray) -> np.ndarray:
    """Return the part of a covariance on edges (a × b) that either concept's own smoothness passes on.

    Where b goes with a inside the receivers (shared genes or features, r), what neighbours share of a is
    shared of b, too: r·cov(a, a). Likewise r·cov(b, b) by a going with b inside the senders. The larger of
    the two.
    """
    own = np.diag(observed)
    by_a, by_b = in_target * own[:, None], in_source * own[None, :]
    return np.where(np.abs(by_a) >= np.abs(by_b), by_a, by_b)


def _hypotheses(
    target: int, sources: Sequence[int], varies: np.ndarray, testable: np.ndarray, apart: np.ndarray
) -> np.ndarray:
    """Return which (source, a, b) are hypotheses: not one activity, each unordered pair once, both
    varying.
    """
    n = varies.shape[1]
    result = np.zeros((len(sources), n, n), bool)
    for k, source in enumerate(sources):
        result[k] = apart & varies[source][:, None] & (varies[target] & testable)[None, :]
        np.fill_diagonal(result[k], False)
        if source == target:
            result[k] = np.triu(result[k], 1)
    return result


class _Others:
    """p-values under the nulls that stand beside the default, (1 + k) / (1 + n) each."""

    def __init__(
        self, tissue: Tissue, z: np.ndarray, jobs: Sequence[tuple[int, Sequence[int]]], moved: Shifts,
        match_um: float, n: int, draws: Draws, names: Sequence[str],
    ) -> None:  # fmt: skip
        self.tissue, self.z, self.names, self.jobs = tissue, z, names, dict(jobs)
        self.donors: dict[str, list[np.ndarray]] = {}
        if PROFILES in names:
            generator, strata = draws("profiles"), tissue.strata()
            self.donors[PROFILES] = [shuffled(strata, generator) for _ in range(n)]
        if UNCENTRED in names:
            torus = Torus(tissue.spatial, tissue.fov, np.zeros(len(tissue.types), int), match_um)
            drawn = torus.draw(max(moved.least_um, default=0.0), n, draws("uncentred"))
            self.donors[UNCENTRED] = [torus.donors(shift) for shift in drawn]
        self.signed = pairs.PairSums(tissue.weights, tissue.types, tissue.residual, tissue.residual)
        self.plain = pairs.PairSums(tissue.weights, tissue.types, z, z)
        self.by_labels = self._labels(n, draws("labels")) if LABELS in names else {}

    def _labels(self, n: int, generator: np.random.Generator) -> dict[int, np.ndarray]:
        """Return receiver → p (sources × A × B) with type labels dealt to other cells of the section."""
        observed = self._by_type(self.tissue.types)
        count = {target: np.zeros(values.shape, np.int32) for target, values in observed.items()}
        for _ in range(n):
            for target, values in self._by_type(generator.permutation(self.tissue.types)).items():
                count[target] += values >= observed[target]
        return {target: (1 + number) / (1 + n) for target, number in count.items()}

    def _by_type(self, types: np.ndarray) -> dict[int, np.ndarray]:
        """Return receiver → mean products (sources × A × B) of z-scores, were these the types."""
        sent = [
            self.tissue.weights @ (self.plain.a * (types == s)[:, None])
            for s in range(len(self.tissue.type_names))
        ]
        found = {}
        for target, sources in self.jobs.items():
            cells = np.flatnonzero(types == target)
            taken = self.plain.b[cells]
            found[target] = np.stack([pairs.mean_product(sent[s][cells].T @ taken) for s in sources])
        return found

    def p_values(
        self, target: int, sources: Sequence[int], covariance: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (null, p (sources × A × B))."""
        same, columns = np.arange(len(self.tissue.types)), np.arange(self.z.shape[1])
        if PROFILES in self.donors:
            cells, sent = self.signed.receiver(target, sources)
            yield (
                PROFILES,
                exceeding(covariance, sent, self.signed, cells, self.donors[PROFILES], pairs.covariance),
            )
        if UNCENTRED in self.donors:
            cells, sent = self.plain.receiver(target, sources)
            observed = pairs.mean_product(self.plain.sums(sent, same[cells], columns))
            yield (
                UNCENTRED,
                exceeding(observed, sent, self.plain, cells, self.donors[UNCENTRED], pairs.mean_product),
            )
        if self.by_labels:
            yield LABELS, self.by_labels[target]


def rates(table: pd.DataFrame, level: float = 0.05) -> Mapping[str, float]:
    """Return the share of tests with p below ``level`` under each null."""
    names = {SHIFT: "p", **{name: f"p_{name}" for name in OTHERS}}
    return {
        name: float((table[column].dropna() < level).mean())
        for name, column in names.items()
        if column in table and table[column].notna().any()
    }
