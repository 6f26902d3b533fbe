"""What units are compared with: the same numbers without meaning, and plain quantities of a cell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from interptfm.tis import judges
from interptfm.tis.scoring import Columns, column


@dataclass(frozen=True)
class Group:
    """Units of one kind.

    ``variant`` names the kind, ``names`` its units, ``index`` their numbers; ``columns`` (cells × units).
    ``held_out`` are the same quantities made from the genes of the held-out-gene arm alone, where they can
    be; ``linear`` says that they can be read out of that arm's states instead.
    """

    variant: str
    columns: Columns
    names: list[str]
    index: list[int]
    held_out: Columns | None = None
    linear: bool = False

    def take(self, chosen: np.ndarray) -> Group:
        """Return some of the units."""
        return replace(
            self,
            columns=self.columns[:, chosen],
            names=[self.names[i] for i in chosen],
            index=[self.index[i] for i in chosen],
            held_out=None if self.held_out is None else self.held_out[:, chosen],
        )


def group(variant: str, columns: Columns, **options: object) -> Group:
    """Return a group whose units are numbered."""
    n = columns.shape[1]
    return Group(variant, columns, [str(i) for i in range(n)], list(range(n)), **options)


def sample(units: Group, n: int, generator: np.random.Generator) -> Group:
    """Return at most ``n`` units of a group, drawn at random, in their order."""
    size = units.columns.shape[1]
    if size <= n:
        return units
    return units.take(np.sort(generator.choice(size, n, replace=False)))


def shuffled(units: Group, sections: np.ndarray, n: int, generator: np.random.Generator) -> Group:
    """Return ``n`` units whose activations are shuffled over the cells of each section."""
    chosen = np.sort(generator.choice(units.columns.shape[1], n, replace=units.columns.shape[1] < n))
    parts = [np.flatnonzero(sections == name) for name in np.unique(sections)]
    columns = np.empty((len(sections), n), np.float32)
    for i, unit in enumerate(chosen):
        values = column(units.columns, unit)
        for cells in parts:
            columns[cells, i] = values[generator.permutation(cells)]
    names = [units.names[i] for i in chosen]
    return Group("shuffled", columns, names, [units.index[i] for i in chosen], held_out=columns)


def directions(units: Columns, n: int, generator: np.random.Generator) -> Group:
    """Return activations along ``n`` random directions of the units' space, drawn independently."""
    axes = generator.standard_normal((units.shape[1], n))
    axes /= np.linalg.norm(axes, axis=0)
    return group("random direction", np.asarray(units @ axes, np.float32), linear=True)


def rotation(units: Columns, n: int, generator: np.random.Generator) -> Group:
    """Return the first ``n`` axes of a random rotation of the units' space (Haar; Mezzadri 2007)."""
    q, r = np.linalg.qr(generator.standard_normal((units.shape[1], min(n, units.shape[1]))))
    return group("rotation", np.asarray(units @ (q * np.sign(np.diag(r))), np.float32), linear=True)


def components(counts: sparse.csr_matrix, n: int) -> np.ndarray:
    """Return the leading principal components (cells × n) of z-scored log-normalised expression."""
    z = judges.standardise(judges.log_normalise(counts))
    values, vectors = np.linalg.eigh((z.T @ z).astype(np.float64))
    leading = vectors[:, ::-1][:, : min(n, int((values > 1e-9 * values[-1]).sum()))]
    leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(leading.shape[1])])
    return z @ leading.astype(np.float32)


def principal_components(counts: sparse.csr_matrix, n: int, visible: np.ndarray | None) -> Group:
    """Return expression's principal components: the ceiling, as they are what the judge itself sees.

    ``visible`` (genes,) bool are the genes of the held-out-gene arm: of these are the ``held_out`` ones.
    """
    columns = components(counts, n)
    held_out = None
    if visible is not None:
        held_out = components(counts[:, np.flatnonzero(visible)], columns.shape[1])
        columns = columns[:, : held_out.shape[1]]
    units = group("principal component", columns, held_out=held_out)
    return replace(units, names=[f"PC {i + 1}" for i in units.index])


def depth(counts: sparse.csr_matrix, visible: np.ndarray | None) -> Group:
    """Return a cell's total counts and detected genes as units."""

    def of(matrix: sparse.csr_matrix) -> np.ndarray:
        total = np.asarray(matrix.sum(axis=1)).ravel()
        return np.column_stack([total, np.diff(matrix.indptr)]).astype(np.float32)

    held_out = None if visible is None else of(sparse.csr_matrix(counts[:, np.flatnonzero(visible)]))
    names = ["total counts", "detected genes"]
    return Group("depth", of(sparse.csr_matrix(counts)), names, [0, 1], held_out=held_out)


def indicators(types: np.ndarray) -> Group:
    """Return one unit a cell type: 1 in its cells, else 0. Labels were made from all genes."""
    names, code = np.unique(np.asarray(types).astype(str), return_inverse=True)
    columns = (code[:, None] == np.arange(len(names))).astype(np.float32)
    return Group("cell type", columns, names.tolist(), list(range(len(names))), held_out=columns)
