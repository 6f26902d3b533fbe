"""Scores of edges and what they add up to: channels, concept pairs, cells, distances, senders. No loop over
edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import stats
from interptfm.crosstalk.graphs import Graph

NO_GRAPH = "not applicable: no graph"
DECAY_PAIRS = 400_000


def shared(z: np.ndarray, graph: Graph) -> np.ndarray:
    """Return w · min(z_i⁺, z_j⁺) of every edge (edges × columns) float32; ``z`` is (n × columns)."""
    positive = np.clip(z, 0, None).astype(np.float32)
    scores = positive.take(graph.i, axis=0)
    np.minimum(scores, positive.take(graph.j, axis=0), out=scores)
    scores *= graph.weight[:, None]
    return scores


def product(a: np.ndarray, b: np.ndarray, graph: Graph) -> np.ndarray:
    """Return w · (a_i⁺ b_j⁺ + a_j⁺ b_i⁺) of every edge (edges × columns); ``a``, ``b`` are (n × columns).

    An edge has no direction: both of its ends can have a.
    """
    a, b = (np.clip(x, 0, None).astype(np.float32) for x in (a, b))
    return (a[graph.i] * b[graph.j] + a[graph.j] * b[graph.i]) * graph.weight[:, None]


def relatedness(edges: pd.DataFrame, terms: Sequence[str], tau: float) -> np.ndarray | None:
    """Return G = exp(−distance / τ) between terms (terms × terms) float32; None where there is no graph.

    The distance is the number of steps along child–parent edges, up or down; terms without a path, and terms
    outside the graph, have 0.

    Parameters
    ----------
    edges
        ``dag.parquet``: child, parent.
    terms
        Term ids, in the order wanted.
    """
    from scipy.sparse import csgraph

    if edges.empty:
        return None
    names, ends = np.unique(edges[["child", "parent"]].to_numpy(str), return_inverse=True)
    ends = ends.reshape(-1, 2)
    steps = sparse.csr_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(names),) * 2)
    place = {name: i for i, name in enumerate(names)}
    known = [i for i, term in enumerate(terms) if term in place]
    at = [place[terms[i]] for i in known]
    found = np.zeros((len(terms), len(terms)), np.float32)
    if known:
        far = csgraph.dijkstra(steps, directed=False, unweighted=True, indices=at)[:, at]
        found[np.ix_(known, known)] = np.exp(-far / tau)
    np.fill_diagonal(found, 1)
    return found


def semantic(z: np.ndarray, related: np.ndarray, graph: Graph) -> np.ndarray:
    """Return w · Σ_ab z_i^a⁺ G_ab z_j^b⁺ / Σ_ab G_ab of every edge (edges,): related concepts count, too."""
    positive = np.clip(z, 0, None).astype(np.float32)
    spread = positive @ (related / related.sum())
    return np.einsum("ij,ij->i", spread[graph.i], positive[graph.j]) * graph.weight


def cell_sums(scores: np.ndarray, graph: Graph) -> np.ndarray:
    """Return the sum of the scores of each cell's edges (n × columns)."""
    result = np.empty((graph.n, scores.shape[1]), np.float32)
    for k in range(scores.shape[1]):
        result[:, k] = np.bincount(graph.i, scores[:, k], graph.n) + np.bincount(
            graph.j, scores[:, k], graph.n
        )
    return result


def moran(weights: sparse.csr_matrix, z: np.ndarray) -> np.ndarray:
    """Return bivariate Moran's I of all pairs (concepts × concepts): Σ w z_i^a z_j^b / Σ w.

    Source: Wartenberg 1985, *Geogr. Anal.* 17:263. NaN without edges.
    """
    total = weights.sum()
    found = z.T @ (weights @ z)
    return found / total if total > 0 else np.full(found.shape, np.nan)


def lee(weights: sparse.csr_matrix, z: np.ndarray) -> np.ndarray:
    """Return Lee's L of all pairs (concepts × concepts): what both fields, smoothed, have in common.

    Source: Lee 2001, *J. Geogr. Syst.* 3:369. NaN without edges.
    """
    smooth = weights @ z
    size = float((np.asarray(weights.sum(axis=1)) ** 2).sum())
    found = smooth.T @ smooth
    return found / size if size > 0 else np.full(found.shape, np.nan)


def crossing(scores: np.ndarray, graph: Graph, compartment: np.ndarray) -> pd.DataFrame:
    """Return how much of each column's score crosses compartments: share_cross, edges_cross (by weight).

    ``compartment`` (n,) int, −1 for cells in none, whose edges are left out.
    """
    a, b = compartment[graph.i], compartment[graph.j]
    placed = (a >= 0) & (b >= 0)
    cross = placed & (a != b)
    total, weight = scores[placed].sum(axis=0, dtype=float), float(graph.weight[placed].sum())
    share = np.divide(
        scores[cross].sum(axis=0, dtype=float), total, out=np.full(len(total), np.nan), where=total > 0
    )
    return pd.DataFrame(
        {"share_cross": share, "share_within": 1 - share,
         "edges_cross": float(graph.weight[cross].sum()) / weight if weight else np.nan}
    )  # fmt: skip


def importance(
    scores: np.ndarray, graph: Graph, types: np.ndarray, names: Sequence[str], columns: Sequence[str]
) -> pd.DataFrame:
    """Return what receivers lose when the edges from one sender type are masked.

    Returns
    -------
    One row a channel, receiver and sender: ``loss`` the share of the receiver type's summed score that goes
    with these edges, ``expected`` their share of the receiver's edge weights, ``excess`` the difference.
    """
    n = len(names)
    sender = np.concatenate([types[graph.i], types[graph.j]])
    receiver = np.concatenate([types[graph.j], types[graph.i]])
    cell = receiver * n + sender

    def by_pair(values: np.ndarray) -> np.ndarray:
        found = np.bincount(cell, np.concatenate([values, values]), n * n).reshape(n, n)
        total = found.sum(axis=1, keepdims=True)
        return np.divide(found, total, out=np.full((n, n), np.nan), where=total > 0)

    expected, rows = by_pair(graph.weight), []
    for k, column in enumerate(columns):
        loss = by_pair(scores[:, k])
        for r, s in np.argwhere(np.isfinite(loss)):
            rows.append((column, names[r], names[s], loss[r, s], expected[r, s], loss[r, s] - expected[r, s]))
    return pd.DataFrame(rows, columns=["channel", "receiver", "sender", "loss", "expected", "excess"])


def decay(
    values: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], pairs: np.ndarray,
    distance: np.ndarray, block: np.ndarray, edges_um: np.ndarray, draws: int, generator: np.random.Generator,
) -> pd.DataFrame:  # fmt: skip
    """Return how the association of two fields falls with distance, with intervals over blocks.

    Parameters
    ----------
    values
        Name → (a (n,), b (n,), senders (n,) bool, receivers (n,) bool): pairs of cells of which one is a
        sender and the other a receiver count, by the product of a and b, both centred over the senders and
        receivers.
    pairs, distance
        (m × 2) cells and (m,) µm between them, also farther apart than the graph's edges.
    block
        (n,) int; a pair belongs to the block of its sender.

    Returns
    -------
    quantity, from_um, to_um, mean, lo, hi, n.
    """
    rows = []
    both = np.concatenate([pairs, pairs[:, ::-1]])
    bins = np.digitize(np.concatenate([distance, distance]), edges_um) - 1
    n_blocks = int(block.max()) + 1 if len(block) else 0
    weights = generator.multinomial(max(n_blocks, 1), np.full(max(n_blocks, 1), 1 / max(n_blocks, 1)), draws)
    for name, (a, b, senders, receivers) in values.items():
        keep = senders[both[:, 0]] & receivers[both[:, 1]] & (bins >= 0) & (bins < len(edges_um) - 1)
        ends, mine = both[keep], bins[keep]
        if not len(ends):
            continue
        value = (a[ends[:, 0]] - a[senders].mean()) * (b[ends[:, 1]] - b[receivers].mean())
        place = mine * n_blocks + block[ends[:, 0]]
        size = (len(edges_um) - 1) * n_blocks
        total = np.bincount(place, value, size).reshape(-1, n_blocks)
        count = np.bincount(place, minlength=size).reshape(-1, n_blocks)
        for k in np.flatnonzero(count.sum(axis=1) > 1):
            mean = total[k].sum() / count[k].sum()
            lo = hi = np.nan
            if (count[k] > 0).sum() > 1:
                drawn = weights @ count[k]
                means = np.divide(weights @ total[k], drawn, out=np.full(draws, np.nan), where=drawn > 0)
                lo, hi = np.nanquantile(means, stats.INTERVAL)
            rows.append((name, edges_um[k], edges_um[k + 1], mean, lo, hi, int(count[k].sum())))
    return pd.DataFrame(rows, columns=["quantity", "from_um", "to_um", "mean", "lo", "hi", "n"])


def near_pairs(
    spatial: np.ndarray, fov: np.ndarray, radius_um: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of cells of one FOV up to ``radius_um`` apart (m × 2), 400,000 at most, and their
    distance.

    Where there would be more, whole cells are left out at random first, so that memory stays bounded.
    """
    from scipy.spatial import cKDTree

    placed = np.isfinite(spatial).all(axis=1)
    found = []
    for name in np.unique(fov[placed]):
        cells = np.flatnonzero((fov == name) & placed)
        tree = cKDTree(spatial[cells])
        n = (tree.count_neighbors(tree, radius_um) - len(cells)) / 2
        most = DECAY_PAIRS * len(cells) / placed.sum()
        if n > most:
            cells = np.sort(
                generator.choice(cells, max(2, int(len(cells) * np.sqrt(most / n))), replace=False)
            )
            tree = cKDTree(spatial[cells])
        found.append(cells[tree.query_pairs(radius_um, output_type="ndarray")])
    pairs = np.concatenate(found) if found else np.empty((0, 2), int)
    return pairs, np.linalg.norm(spatial[pairs[:, 0]] - spatial[pairs[:, 1]], axis=1)
