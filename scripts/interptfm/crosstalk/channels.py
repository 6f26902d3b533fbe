"""Channels: one activity a cell and channel, and tests of what two groups of cells share of it on their
edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import stats
from interptfm.crosstalk.fields import standardised
from interptfm.crosstalk.graphs import Graph
from interptfm.crosstalk.nulls import LABELS, PROFILES, UNCENTRED, Draws, Tissue, shifts
from interptfm.crosstalk.shifts import Torus, shuffled

CHUNK = 50_000


def channel_values(
    z: np.ndarray, channel: Sequence[str], weight: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, dict[str, int]]:
    """Return the weighted mean z-score of each channel's concepts (n × channels with concepts), and how many.

    Parameters
    ----------
    z
        (n × concepts).
    channel, weight
        (concepts,) channel and weight (information content) of each concept.
    names
        All channels; one without concepts has no column and the number 0.
    """
    channel = np.asarray(channel, dtype=object)
    counts = {name: int((channel == name).sum()) for name in names}
    columns = []
    for name in names:
        mine = np.flatnonzero(channel == name)
        if len(mine):
            share = np.maximum(np.nan_to_num(weight[mine]), 0)
            share = share / share.sum() if share.sum() > 0 else np.full(len(mine), 1 / len(mine))
            columns.append(z[:, mine] @ share.astype(np.float32))
    values = np.column_stack(columns) if columns else np.zeros((len(z), 0), np.float32)
    return standardised(values), counts


@dataclass(frozen=True)
class Groups:
    """Edges by the labels of their ends, each oriented so that the first end has the lower label.

    ``u``, ``v`` (m,) cells and ``weight`` (m,), sorted by ``group`` (m,); ``pairs`` (g × 2) labels; ``sums``:
    CSR (groups × a chunk of edges) of weights; ``counts`` (g,) edges.
    """

    u: np.ndarray
    v: np.ndarray
    weight: np.ndarray
    pairs: np.ndarray
    sums: list[sparse.csr_matrix]
    counts: np.ndarray
    group: np.ndarray

    def means(self, first: np.ndarray, second: np.ndarray, donors: np.ndarray | None = None) -> np.ndarray:
        """Return the mean of min(first_u, second_v) over the edges of each group (g × channels).

        ``second`` has one more row, of zeros, and both a last column of ones: what is dropped drops out of
        the weights, too. ``donors`` (n,) replaces v by another cell; −1 is the row of zeros.
        """
        v = self.v if donors is None else donors[self.v]
        total = np.zeros((len(self.pairs), first.shape[1]))
        # Edges are sorted by group, and a chunk fits in the cache of a core.
        for start in range(0, len(v), CHUNK):
            part = slice(start, start + CHUNK)
            total += self.sums[start // CHUNK] @ np.minimum(first[self.u[part]], second[v[part]])
        weight = total[:, -1:]
        return total[:, :-1] / np.where(weight > 0, weight, np.nan)


def groups(graph: Graph, labels: np.ndarray, min_edges: int) -> Groups:
    """Group the edges by the labels (n,) int of their ends; −1 takes no part, nor pairs with few edges."""
    a, b = labels[graph.i], labels[graph.j]
    swap = a > b
    u, v = np.where(swap, graph.j, graph.i), np.where(swap, graph.i, graph.j)
    low, high = np.minimum(a, b), np.maximum(a, b)
    code = np.where(low >= 0, low.astype(np.int64) * (int(labels.max(initial=0)) + 1) + high, -1)
    found, counts = np.unique(code[code >= 0], return_counts=True)
    found, counts = found[counts >= min_edges], counts[counts >= min_edges]
    edge = np.flatnonzero(np.isin(code, found))
    edge = edge[np.argsort(code[edge], kind="stable")]
    group = np.searchsorted(found, code[edge])
    parts = [
        sparse.csr_matrix(
            (graph.weight[edge[s : s + CHUNK]], (group[s : s + CHUNK], np.arange(len(edge[s : s + CHUNK])))),
            shape=(len(found), len(edge[s : s + CHUNK])),
        )
        for s in range(0, len(edge), CHUNK)
    ]
    width = int(labels.max(initial=0)) + 1
    pairs = np.column_stack([found // width, found % width])
    return Groups(u[edge], v[edge], graph.weight[edge], pairs, parts, counts, group)


def with_ones(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positive values with a column of ones, and the same with a last row of zeros."""
    cut = np.hstack([np.clip(values, 0, None), np.ones((len(values), 1))]).astype(np.float32)
    return cut, np.vstack([cut, np.zeros((1, cut.shape[1]), np.float32)])


@dataclass(frozen=True)
class Nulls:
    """Donors of every permutation, made when asked for: they are cheap, and many."""

    n: int
    n_others: int
    default: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]
    testable: np.ndarray
    others: Mapping[str, Callable[[int], np.ndarray]]


def channel_nulls(
    tissue: Tissue, n: int, n_others: int, match_um: float, shortest_um: float, draws: Draws,
    others: Sequence[str],
) -> Nulls:  # fmt: skip
    """Prepare the nulls of channels, as those of concept pairs (:mod:`interptfm.crosstalk.nulls`).

    ``n`` permutations of the default, ``n_others`` of those beside it.
    """
    moved = shifts(tissue, tissue.types, tissue.residual, match_um, shortest_um, n, draws, "channels")
    made: dict[str, Callable[[int], np.ndarray]] = {}
    if PROFILES in others:
        generator, strata = draws("channel profiles"), tissue.strata()
        made[PROFILES] = lambda k: shuffled(strata, generator)
    if UNCENTRED in others:
        torus = Torus(tissue.spatial, tissue.fov, np.zeros(len(tissue.types), int), match_um)
        drawn = torus.draw(max(moved.least_um, default=shortest_um), n_others, draws("channels uncentred"))
        made[UNCENTRED] = lambda k: torus.donors(drawn[k])
    return Nulls(n, n_others, moved.donors, moved.testable, made)


def test_channels(
    tissue: Tissue, graph: Graph, labels: np.ndarray, nulls: Nulls, *, min_edges: int, draws: int, level: str,
    make: Draws, shuffle: bool,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:  # fmt: skip
    """Test what every two groups of cells share of every channel on their edges.

    Parameters
    ----------
    tissue
        Cells with the channels' activities as values.
    labels
        (n,) int group of each cell (compartment or type), −1 for none.
    nulls
        Of :func:`channel_nulls`.
    draws
        Of the block bootstrap.
    level
        Names the generators.
    shuffle
        Whether the published null, labels shuffled over cells, is tested.

    Returns
    -------
    table, statistics
        ``table``: source, target (labels), channel (position), n_edges, score (mean of w·min over edges /
        mean of w, of residuals), null_mean, log2_ratio, lo, hi, z, p, p_min, score_z (of plain z-scores),
        p_<null>. ``statistics``: ``shift`` (n × groups × channels), and ``labels`` where tested, of plain
        z-scores.
    """
    found = groups(graph, labels, min_edges)
    first, second = with_ones(tissue.residual)
    plain = with_ones(tissue.z)
    observed, observed_z = found.means(first, second), found.means(*plain)
    null = np.full((nulls.n, *observed.shape), np.nan)
    count = {name: np.zeros(observed.shape) for name in nulls.others}
    for k in range(nulls.n):
        for columns, donors in nulls.default(k):
            chosen = np.append(columns, first.shape[1] - 1)
            if len(columns) == tissue.values.shape[1]:
                null[k] = found.means(first, second, donors)
            else:
                null[k][:, columns] = found.means(first[:, chosen], second[:, chosen], donors)
    for k in range(nulls.n_others):
        for name, donor in nulls.others.items():
            values, seen = (plain, observed_z) if name == UNCENTRED else ((first, second), observed)
            count[name] += found.means(*values, donor(k)) >= seen
    statistics = {"shift": null}
    flat = observed.ravel()
    spread = null.reshape(nulls.n, flat.size)
    usable = np.isfinite(flat) & np.isfinite(spread).all(axis=0) & (spread.std(axis=0) > 0)
    p, p_min = np.full(flat.shape, np.nan), np.full(flat.shape, np.nan)
    if usable.any():
        p[usable], p_min[usable] = stats.pooled_permutation_p(
            flat[usable], spread[:, usable], np.zeros(int(usable.sum()), int)
        )
    mean = np.where(usable, spread.mean(axis=0), np.nan)
    deviation = np.where(usable, spread.std(axis=0, ddof=1), np.nan)
    group, channel = np.divmod(np.arange(len(flat)), max(observed.shape[1], 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2(np.where(flat > 0, flat, np.nan) / mean)
    drawn = _resampled(found, first, second, tissue.block, draws, make(f"{level} bootstrap"))
    statistics["bootstrap"] = drawn
    lo, hi = interval(drawn)
    table = {
        "source": found.pairs[group, 0], "target": found.pairs[group, 1], "channel": channel,
        "n_edges": found.counts[group], "score": flat, "null_mean": mean, "log2_ratio": ratio,
        "lo": lo.ravel() - np.log2(mean), "hi": hi.ravel() - np.log2(mean), "z": (flat - mean) / deviation,
        "p": p, "p_min": p_min, "score_z": observed_z.ravel(),
    }  # fmt: skip
    for name, number in count.items():
        table[f"p_{name}"] = np.where(usable, (1 + number.ravel()) / (1 + nulls.n_others), np.nan)
    if shuffle:
        statistics[LABELS] = _label_null(
            graph, labels, tissue.z, found.pairs, nulls.n_others, make(f"{level} labels")
        )
        exceeding = (statistics[LABELS] >= observed_z[None]).sum(axis=0)
        table[f"p_{LABELS}"] = ((1 + exceeding) / (1 + nulls.n_others)).ravel()
    return pd.DataFrame(table), statistics


def _label_null(
    graph: Graph, labels: np.ndarray, z: np.ndarray, pairs: np.ndarray, n: int, generator: np.random.Generator
) -> np.ndarray:
    """Return the mean shared z-score by group (n × groups × channels) with labels dealt to other cells."""
    positive = np.clip(z, 0, None).astype(np.float32)
    values = np.minimum(positive[graph.i], positive[graph.j])
    values = np.hstack([values, np.ones((len(values), 1), np.float32)]) * graph.weight[:, None]
    width = int(labels.max(initial=0)) + 1
    wanted = pairs[:, 0] * width + pairs[:, 1]
    placed = np.flatnonzero(labels >= 0)
    result = np.empty((n, len(pairs), z.shape[1]))
    dealt = labels.astype(np.int64)
    for k in range(n):
        dealt[placed] = labels[generator.permutation(placed)]
        a, b = dealt[graph.i], dealt[graph.j]
        code = np.where((a >= 0) & (b >= 0), np.minimum(a, b) * width + np.maximum(a, b), width * width)
        rows = sparse.csr_matrix(
            (np.ones(len(code), np.float32), code, np.arange(len(code) + 1)),
            shape=(len(code), width * width + 1),
        )
        sums = (rows.T @ values)[wanted]
        result[k] = sums[:, :-1] / np.where(sums[:, -1:] > 0, sums[:, -1:], np.nan)
    return result


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval over the first axis; NaN where no draw has a value."""
    if not drawn[0].size:
        return np.full(drawn.shape[1:], np.nan), np.full(drawn.shape[1:], np.nan)
    empty = ~np.isfinite(drawn).any(axis=0)
    lo, hi = np.nanquantile(np.where(empty[None], 0.0, drawn), stats.INTERVAL, axis=0)
    return np.where(empty, np.nan, lo), np.where(empty, np.nan, hi)


def _resampled(
    found: Groups, first: np.ndarray, second: np.ndarray, block: np.ndarray, draws: int,
    generator: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Return log₂ means (draws × g × channels) over resampled blocks; NaN with one block or nothing
    shared.
    """
    labels, of_cell = np.unique(block, return_inverse=True)
    shape = (len(found.pairs), first.shape[1] - 1)
    if len(labels) < 2 or not len(found.pairs):
        return np.full((1, *shape), np.nan)
    values = np.minimum(first[found.u], second[found.v]) * found.weight[:, None]
    place = found.group * len(labels) + of_cell[found.u]
    size = len(found.pairs) * len(labels)
    sums = np.stack([np.bincount(place, values[:, k], size) for k in range(values.shape[1])], axis=-1)
    sums = sums.reshape(len(found.pairs), len(labels), -1)
    drawn = generator.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), draws)
    totals = np.einsum("db,gbk->dgk", drawn, sums)
    value, weight = totals[..., :-1], totals[..., -1:]
    usable = (value > 0) & (weight > 0)
    return np.log2(np.where(usable, value, np.nan) / np.where(weight > 0, weight, np.nan))
