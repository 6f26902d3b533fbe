"""Direction by induction, and intervals of claims.

On a graph without direction the order of a and b says nothing. A claim "S to R" needs that b in R depends on
contact with a in S more than a in S depends on contact with b in R.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import stats
from interptfm.crosstalk.graphs import Graph
from interptfm.crosstalk.nulls import Tissue
from interptfm.regions.enrichment import sign_flip_p

FORWARD, BACKWARD, OPEN = "source to target", "target to source", "not established"
DEPTH_STRATA = 5
LEVEL = 0.05


def depth_strata(depth: np.ndarray, types: np.ndarray, n: int = DEPTH_STRATA) -> np.ndarray:
    """Return the stratum (n,) int of each cell: its type, and its fifth of that type's depths."""
    result = np.zeros(len(depth), np.int64)
    for name in np.unique(types):
        cells = np.flatnonzero(types == name)
        order = np.argsort(np.argsort(depth[cells], kind="stable"), kind="stable")
        result[cells] = name * n + order * n // len(cells)
    return result


def _centred(values: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Return values (m × tests) less the mean of their stratum."""
    labels, of = np.unique(stratum, return_inverse=True)
    count = np.bincount(of, minlength=len(labels))
    sums = np.zeros((len(labels), values.shape[1]))
    np.add.at(sums, of, values)
    return values - (sums / count[:, None])[of]


def _dependence(
    exposed: np.ndarray, response: np.ndarray, stratum: np.ndarray, block: np.ndarray, n_blocks: int
) -> np.ndarray:
    """Return each block's part of the difference in response, exposed less not, within strata.

    ``exposed`` (m × A) bool, ``response`` (m × B): all pairs at once, (blocks × A × B).
    """
    e, y = _centred(exposed.astype(float), stratum), _centred(response.astype(float), stratum)
    size = (e**2).sum(axis=0)[:, None]
    parts = np.zeros((n_blocks, e.shape[1], y.shape[1]))
    for k, mine in enumerate(stats.members(block, n_blocks)):
        parts[k] = e[mine].T @ y[mine]
    return np.divide(parts, size, out=np.full(parts.shape, np.nan), where=size > 1e-9)


def induction(
    claims: pd.DataFrame, tissue: Tissue, graph: Graph, contact_um: float, permutations: int,
    generator: np.random.Generator,
) -> pd.DataFrame:  # fmt: skip
    """Compare, for each claim, how much b in R depends on contact with a in S, and the reverse.

    ``forward``: mean residual of b in cells of R with a neighbour of type S (within ``contact_um``) that
    expresses a (residual above 0), less that in the other cells of R, within fifths of depth. ``backward``: a
    in S by contact with b in R. Residuals have unit spread in every type, so that the two compare. p is
    two-sided, of forward − backward, by exchanging the roles of the two sides in whole blocks (signs
    flipped).

    Parameters
    ----------
    claims
        source, target, a, b: positions of types and concepts.

    Returns
    -------
    forward, backward, p_direction, direction (:data:`FORWARD`, :data:`BACKWARD` or :data:`OPEN`), one row a
    claim.
    """
    near = graph.within(contact_um).matrix()
    near.data[:] = 1
    on = (tissue.residual > 0).astype(np.float32)
    block = np.unique(tissue.block, return_inverse=True)[1]
    n_blocks = int(block.max()) + 1 if len(block) else 0
    stratum = depth_strata(tissue.depth, tissue.types)
    cells = {t: np.flatnonzero(tissue.types == t) for t in range(len(tissue.type_names))}
    found = np.full((len(claims), 3), np.nan)
    for (source, target), rows in claims.reset_index(drop=True).groupby(["source", "target"]).indices.items():
        mine = claims.iloc[rows]
        parts = []
        for sender, receiver, seen, answer in ((source, target, "a", "b"), (target, source, "b", "a")):
            s, r = cells[sender], cells[receiver]
            seen_at, first = np.unique(mine[seen].to_numpy(int), return_inverse=True)
            answer_at, second = np.unique(mine[answer].to_numpy(int), return_inverse=True)
            exposed = (near[r][:, s] @ on[np.ix_(s, seen_at)]) > 0
            response = tissue.residual[np.ix_(r, answer_at)]
            found_parts = _dependence(exposed, response, stratum[r], block[r], n_blocks)
            parts.append(found_parts[:, first, second])
        difference = parts[0] - parts[1]
        weights = np.isfinite(difference).astype(float)
        _, p, _ = sign_flip_p(np.nan_to_num(difference), weights, permutations, generator, sided=2)
        found[rows] = np.column_stack([parts[0].sum(axis=0), parts[1].sum(axis=0), p])
    table = pd.DataFrame(found, columns=["forward", "backward", "p_direction"])
    return table.assign(direction=directions(table))


def directions(table: pd.DataFrame) -> np.ndarray:
    """Return the direction that forward, backward and p_direction allow to claim."""
    ahead = table["forward"] - table["backward"]
    sure = table["p_direction"] < LEVEL
    forward = sure & (ahead > 0) & (table["forward"] > 0)
    backward = sure & (ahead < 0) & (table["backward"] > 0)
    return np.select([forward, backward], [FORWARD, BACKWARD], OPEN)


def intervals(
    claims: pd.DataFrame, tissue: Tissue, graph: Graph, draws: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of log2_ratio (claims,) over resampled blocks; NaN with one block.

    A block is drawn with the edges of its senders. The null's lift is held at what it was.

    Parameters
    ----------
    claims
        source, target, a, b (positions), log2_ratio.
    """
    labels, block = np.unique(tissue.block, return_inverse=True)
    lo, hi = np.full((2, len(claims)), np.nan)
    if len(labels) < 2:
        return lo, hi
    drawn = generator.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), draws)
    positive = np.clip(tissue.residual, 0, None)
    u, v = np.concatenate([graph.i, graph.j]), np.concatenate([graph.j, graph.i])
    weight = np.concatenate([graph.weight, graph.weight])
    kind = tissue.types[u] * len(tissue.type_names) + tissue.types[v]
    for (source, target), rows in claims.reset_index(drop=True).groupby(["source", "target"]).indices.items():
        edges = np.flatnonzero(kind == source * len(tissue.type_names) + target)
        w = weight[edges][:, None]
        mine = claims.iloc[rows]
        a = positive[np.ix_(u[edges], mine["a"].to_numpy(int))]
        b = positive[np.ix_(v[edges], mine["b"].to_numpy(int))]
        values = np.hstack([w * a * b, w * a, w * b, w]).astype(float)
        of_block = sparse.csr_matrix(
            (np.ones(len(edges)), (block[u[edges]], np.arange(len(edges)))), shape=(len(labels), len(edges))
        )
        sums = of_block @ values
        ab, x, y = np.split((drawn @ sums)[:, :-1], 3, axis=1)
        total = (drawn @ sums)[:, -1:]
        whole = sums.sum(axis=0)
        m = len(rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            lifts = np.log2(ab * total / (x * y))
            seen = np.log2(whole[:m] * whole[-1] / (whole[m : 2 * m] * whole[2 * m : 3 * m]))
        lifts[~np.isfinite(lifts)] = np.nan
        enough = np.isfinite(lifts).mean(axis=0) > 0.5
        bounds = (
            np.nanquantile(lifts[:, enough], stats.INTERVAL, axis=0) if enough.any() else np.empty((2, 0))
        )
        shift = (mine["log2_ratio"].to_numpy() - seen)[enough]
        lo[rows[enough]], hi[rows[enough]] = bounds[0] + shift, bounds[1] + shift
    return lo, hi
