"""Tasks: which cells stand for the high and the low end of a unit, drawn within strata."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interptfm.errors import InputError


@dataclass(frozen=True)
class Drawn:
    """The tasks of one unit.

    ``high`` and ``low`` (tasks × (references + 1)) int64 cells: the references, most extreme first, then
    the query. ``n_high`` and ``n_low``: cells in the tails; ``n_scorable``: cells in the strata that tasks
    come from.
    """

    high: np.ndarray
    low: np.ndarray
    n_high: int
    n_low: int
    n_scorable: int


class Strata:
    """Cells grouped for drawing: every task takes all of its cells from one stratum.

    Parameters
    ----------
    labels
        (cells,) int; cells below 0 take no part.
    quantile
        Share of a stratum's cells in each tail, at most a half.
    references
        Reference cells a side (K); K + 1 are drawn.

    Raises
    ------
    InputError
        For a share or number out of bounds.
    """

    def __init__(self, labels: np.ndarray, quantile: float, references: int) -> None:
        if not 0 < quantile <= 0.5:
            raise InputError(f"tis.quantile: found {quantile}, expected more than 0 and at most 0.5")
        if references < 1:
            raise InputError(f"tis.references: found {references}, expected at least 1")
        labels = np.asarray(labels)
        order = np.argsort(labels, kind="stable")
        kept = order[np.searchsorted(labels[order], 0) :]
        starts = np.flatnonzero(np.diff(labels[kept], prepend=-1))
        self.members = np.split(kept, starts[1:]) if len(kept) else []
        self.n_cells, self.references = len(labels), references
        # A hair above, so that 0.2 of 50 cells are 10 in floating point, too.
        self.tail = np.array([int(quantile * len(cells) + 1e-9) for cells in self.members], np.int64)
        self.large_enough = np.flatnonzero(self.tail > references)

    def why_not(self) -> str:
        """Say why no stratum can be drawn from, or nothing where one can."""
        if len(self.large_enough):
            return ""
        largest = max(map(len, self.members), default=0)
        return f"no stratum is large enough: the largest has {largest} cells"

    def tails(
        self, values: np.ndarray, generator: np.random.Generator, random_ties: bool = True
    ) -> tuple[dict[int, np.ndarray], str]:
        """Return per scorable stratum its cells from the lowest to the highest of a unit; ties at random.

        A stratum is scorable if its tails hold K + 1 cells and at least K + 1 of its cells differ from its
        most common value: with fewer, both tails are the same crowd (of zeros, as a rule).

        Returns
        -------
        order, reason
            ``order``: stratum → sorted cells. ``reason`` says why there is none, else it is empty.
        """
        if not np.isfinite(values).all():
            return {}, "activations are not finite"
        found = {}
        for stratum in self.large_enough:
            cells = self.members[stratum]
            shuffled = generator.permutation(cells) if random_ties else cells
            order = shuffled[np.argsort(values[shuffled], kind="stable")]
            ends = np.flatnonzero(np.diff(values[order]) != 0)
            runs = np.diff(np.concatenate([[-1], ends, [len(order) - 1]]))
            if len(order) - runs.max() > self.references:
                found[int(stratum)] = order
        if found:
            return found, ""
        return found, self.why_not() or "too few cells differ from its most common value"

    def shuffled(self, generator: np.random.Generator) -> dict[int, np.ndarray]:
        """Return what :meth:`tails` gives for a unit whose activations are shuffled within strata.

        It is the same law whatever the unit: with random ties, shuffled activations order cells at random.
        """
        return {int(s): generator.permutation(self.members[s]) for s in self.large_enough}

    def draw(self, order: dict[int, np.ndarray], tasks: int, generator: np.random.Generator) -> Drawn:
        """Draw tasks, shared out over the strata of ``order`` (of :meth:`tails`) by their cells."""
        strata = np.array(sorted(order))
        sizes = np.array([len(order[s]) for s in strata])
        of_task = np.repeat(np.arange(len(strata)), share_out(sizes, tasks))
        tail = self.tail[strata]
        low = np.concatenate([order[s][:m] for s, m in zip(strata, tail)])
        high = np.concatenate([order[s][::-1][:m] for s, m in zip(strata, tail)])
        offset = (np.cumsum(tail) - tail)[of_task, None]
        size = self.references + 1
        return Drawn(
            high[offset + subsets(tail[of_task], size, generator)],
            low[offset + subsets(tail[of_task], size, generator)],
            len(high),
            len(low),
            int(sizes.sum()),
        )


def share_out(sizes: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers that add up to ``total``, in proportion to ``sizes`` (largest remainders)."""
    exact = total * np.asarray(sizes) / np.sum(sizes)
    shares = np.floor(exact).astype(np.int64)
    rest = np.argsort(shares - exact, kind="stable")[: total - shares.sum()]
    shares[rest] += 1
    return shares


def subsets(bounds: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a random subset of ``size`` of the numbers below each bound; rows rising (n × size) int64.

    All subsets are equally likely (Floyd's algorithm: Bentley and Floyd 1987, *Commun. ACM* 30:754).
    """
    bounds = np.asarray(bounds)
    chosen = np.full((len(bounds), size), -1, np.int64)
    for i in range(size):
        last = bounds - size + i
        pick = (generator.random(len(bounds)) * (last + 1)).astype(np.int64)
        taken = (chosen[:, :i] == pick[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, last, pick)
    chosen.sort(axis=1)
    return chosen


def labels_of(*columns: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """Return one int label for each combination of values, −1 where ``keep`` is False."""
    label = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, inverse = np.unique(np.asarray(column), return_inverse=True)
        label = label * len(values) + inverse
    return label if keep is None else np.where(keep, label, -1)


def depth_strata(depth: np.ndarray, groups: np.ndarray, n: int) -> np.ndarray:
    """Return the depth stratum (0 … n − 1) of each cell within its group: equal numbers, by rank."""
    depth, groups = np.asarray(depth), np.asarray(groups)
    stratum = np.zeros(len(depth), np.int64)
    for group in np.unique(groups):
        cells = np.flatnonzero(groups == group)
        rank = np.argsort(np.argsort(depth[cells], kind="stable"), kind="stable")
        stratum[cells] = rank * n // len(cells)
    return stratum


def block_halves(blocks: np.ndarray, sections: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Split cells into halves made of whole blocks; True is the first.

    Within each section the blocks come in random order and each goes to the half with fewer cells. All
    True where a section is a single block: it cannot be split.
    """
    blocks = np.asarray(blocks)
    half = np.ones(len(blocks), bool)
    for section in np.unique(sections):
        cells = np.flatnonzero(sections == section)
        names, inverse, sizes = np.unique(blocks[cells], return_inverse=True, return_counts=True)
        held = [0, 0]
        side = np.ones(len(names), bool)
        for block in generator.permutation(len(names)):
            side[block] = held[1] <= held[0]
            held[int(side[block])] += sizes[block]
        half[cells] = side[inverse]
    return half
