"""Agreement of called compartments with what they were not made from, with intervals over blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import stats
from interptfm.regions.geometry import INTERFACE, REGIONS, TME, TUMOUR, marker_score

Statistic = Callable[[np.ndarray], np.ndarray | float]


def with_interval(
    blocks: np.ndarray, statistic: Statistic, draws: int, generator: np.random.Generator
) -> tuple[Any, Any, Any]:
    """Return a statistic of all cells and its 95 % interval over resampled blocks; NaN with one block.

    ``statistic`` takes cell positions, which repeat where a block is drawn more than once.
    """
    cells = np.arange(len(blocks))
    value = statistic(cells)
    if len(np.unique(blocks)) < 2 or np.isnan(value).all():
        nothing = value * np.nan
        return value, nothing, nothing
    lo, hi = stats.block_bootstrap(
        blocks, lambda weights: statistic(np.repeat(cells, weights)), draws, generator
    )
    return value, lo, hi


def auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the ROC curve; NaN where a class is empty."""
    from scipy.stats import rankdata

    n = int(positive.sum())
    if n in (0, len(positive)):
        return float("nan")
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's correlation; NaN with fewer than 3 values or without spread."""
    from scipy.stats import rankdata

    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


class Agreement:
    """Collects rows (measure, group, value, lo, hi, n, n_blocks) over the cells that calls are judged on.

    Parameters
    ----------
    blocks
        (cells,) block of the cells judged on.
    draws, generator
        Of the block bootstrap.
    """

    def __init__(self, blocks: np.ndarray, draws: int, generator: np.random.Generator) -> None:
        self.blocks, self.draws, self.generator = blocks, draws, generator
        self.rows: list[dict[str, Any]] = []

    def add(self, measure: str, group: str, statistic: Statistic, cells: np.ndarray | None = None) -> None:
        """Add one row; ``statistic`` takes positions among all cells, ``cells`` (bool) picks those to use."""
        chosen = np.arange(len(self.blocks)) if cells is None else np.flatnonzero(cells)
        blocks = self.blocks[chosen]
        value = lo = hi = float("nan")
        if len(chosen):
            value, lo, hi = with_interval(blocks, lambda i: statistic(chosen[i]), self.draws, self.generator)
        row = {"measure": measure, "group": group, "value": value, "lo": lo, "hi": hi}
        self.rows.append({**row, "n": len(chosen), "n_blocks": len(np.unique(blocks))})

    def regions(self, scores: np.ndarray, call: np.ndarray, region: np.ndarray, distance: np.ndarray) -> None:
        """Add one-vs-rest AUROC of each score for its region, and the interface score against distance."""
        placed = region != ""
        for j, name in enumerate(REGIONS):
            if not np.isnan(scores[:, j]).any():
                self.add(
                    "AUROC, one against rest",
                    name,
                    lambda i, j=j, name=name: auroc(region[i] == name, scores[i, j]),
                    placed,
                )
        self.add("accuracy", "all", lambda i: float((call[i] == region[i]).mean()), placed)
        outside = scores[:, REGIONS.index(TME)]
        if not np.isnan(outside).any():
            for name in (TUMOUR, INTERFACE):
                self.add(f"AUROC, TME against {name}", TME, lambda i: auroc(region[i] == TME, outside[i]),
                         np.isin(region, (TME, name)))  # fmt: skip
        others = np.isin(region, (INTERFACE, TME)) & np.isfinite(distance)
        interface = scores[:, REGIONS.index(INTERFACE)]
        if not np.isnan(interface).any():
            self.add("AUROC, interface against TME", INTERFACE,
                     lambda i: auroc(region[i] == INTERFACE, interface[i]), others)  # fmt: skip
            self.add("Spearman, interface score and distance", INTERFACE,
                     lambda i: spearman(interface[i], distance[i]), others)  # fmt: skip

    def by_type_alone(self, types: np.ndarray, region: np.ndarray, shares: pd.DataFrame) -> None:
        """Add the AUROC of the plain baseline: how often a cell's type lies in a region, counted elsewhere.

        ``shares`` (types × regions). What calls have over this is what they know beyond the type.
        """
        known = shares.reindex(types).fillna(shares.mean())
        for name in REGIONS:
            score = known[name].to_numpy()
            self.add(
                "AUROC, one against rest, of cell types alone",
                name,
                lambda i, score=score, name=name: auroc(region[i] == name, score[i]),
                region != "",
            )

    def by_others(self, scores_of: str, scores: np.ndarray, region: np.ndarray) -> None:
        """Add the AUROC of other ``scores`` (cells × ``REGIONS``); a column of NaN is left out.

        Of a classifier that was taught the regions elsewhere, it is the ceiling of calls made from the same
        numbers: where it is low, these numbers do not say where a cell lies; where it is high and a call's
        is low, the way of calling is at fault.
        """
        for j, name in enumerate(REGIONS):
            if not np.isnan(scores[:, j]).any():
                self.add(
                    f"AUROC, one against rest, of {scores_of}",
                    name,
                    lambda i, j=j, name=name: auroc(region[i] == name, scores[i, j]),
                    region != "",
                )

    def markers(
        self,
        logged: sparse.csr_matrix,
        genes: Sequence[str],
        markers: Mapping[str, Sequence[str]],
        call: np.ndarray,
    ) -> None:
        """Add the mean z-score of each marker set in each called compartment."""
        for name, symbols in markers.items():
            score = marker_score(logged, genes, symbols)
            if score is not None:
                self._means(f"markers of {name}, mean z", score, call)

    def stains(self, intensities: pd.DataFrame, call: np.ndarray) -> None:
        """Add mean z-scores of log(1 + intensity) by compartment, and the AUROC for tumour.

        Protein evidence: the model sees no stain. Stains without a value are left out.
        """
        for name in intensities:
            values = intensities[name].to_numpy(float)
            present = np.isfinite(values)
            if present.sum() < 2 or np.ptp(values[present]) == 0:
                continue
            logged = np.log1p(np.clip(values, 0, None))
            z = (logged - logged[present].mean()) / logged[present].std()
            stain = name.removeprefix("stain_")
            self._means(f"stain {stain}, mean z", z, call, present)
            self.add(f"stain {stain}, AUROC for the call", TUMOUR,
                     lambda i, z=z: auroc(call[i] == TUMOUR, z[i]), present)  # fmt: skip

    def _means(
        self, measure: str, score: np.ndarray, call: np.ndarray, keep: np.ndarray | None = None
    ) -> None:
        for region in REGIONS:
            cells = call == region if keep is None else (call == region) & keep
            self.add(measure, region, lambda i: float(score[i].mean()), cells)

    def continuity(self, latent: np.ndarray, region: np.ndarray, types: np.ndarray) -> None:
        """Add where the interface's centroid lies on the line from the tumour's (0) to the TME's (1).

        ``latent`` (cells × units), standardised. Once over all cells, once with the interface and the TME
        weighted to the same cell types: a difference in composition alone would move the first.
        """
        placed = region != ""
        self.add("position of the interface, tumour 0 to TME 1", "all cells",
                 lambda i: position(latent[i], region[i]), placed)  # fmt: skip
        self.add("position of the interface, tumour 0 to TME 1", "same cell types",
                 lambda i: position(latent[i], region[i], types[i]), placed)  # fmt: skip

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)


def position(latent: np.ndarray, region: np.ndarray, types: np.ndarray | None = None) -> float:
    """Return t of the projection of the interface's centroid on tumour + t · (TME − tumour).

    With ``types``, interface and TME centroids are means over the types that both have, each type alike.
    NaN where a region is absent.
    """
    if not all((region == name).any() for name in REGIONS):
        return float("nan")
    tumour = latent[region == TUMOUR].mean(axis=0)
    if types is None:
        interface, tme = (latent[region == name].mean(axis=0) for name in (INTERFACE, TME))
    else:
        shared = sorted(set(types[region == INTERFACE]) & set(types[region == TME]))
        if not shared:
            return float("nan")
        interface, tme = (
            np.mean([latent[(region == name) & (types == t)].mean(axis=0) for t in shared], axis=0)
            for name in (INTERFACE, TME)
        )
    axis = tme - tumour
    size = float(axis @ axis)
    return float((interface - tumour) @ axis / size) if size > 0 else float("nan")


def type_shares(types: np.ndarray, region: np.ndarray) -> pd.DataFrame:
    """Return the share of each type's cells in each region (types × ``REGIONS``)."""
    return pd.crosstab(types, region, normalize="index").reindex(columns=list(REGIONS), fill_value=0.0)


def confusion(call: np.ndarray, region: np.ndarray) -> pd.DataFrame:
    """Return cells by geometric region and called compartment: region, call, n, share (of the region)."""
    rows = []
    for name in REGIONS:
        inside = call[region == name]
        for called in REGIONS:
            n = int((inside == called).sum())
            rows.append({"region": name, "call": called, "n": n, "share": n / max(len(inside), 1)})
    return pd.DataFrame(rows)


def composition(types: np.ndarray, call: np.ndarray, region: np.ndarray) -> pd.DataFrame:
    """Return cell types by region: kind (``geometric`` or ``called``), region, cell_type, n, share."""
    rows = []
    for kind, labels in (("geometric", region), ("called", call)):
        for name in REGIONS:
            inside = types[labels == name]
            for cell_type in np.unique(types):
                n = int((inside == cell_type).sum())
                share = n / max(len(inside), 1)
                rows.append({"kind": kind, "region": name, "cell_type": cell_type, "n": n, "share": share})
    return pd.DataFrame(rows)


def profiles(
    signed_um: np.ndarray, values: pd.DataFrame, blocks: np.ndarray, edges: Sequence[float], draws: int,
    generator: np.random.Generator,
) -> pd.DataFrame:  # fmt: skip
    """Return means by distance: quantity, from_um, to_um, mean, lo, hi (over blocks), n; empty bins left out.

    ``signed_um`` (cells,) distance to the tumour, negative within it; infinite or NaN cells are left out.
    """
    rows = []
    for start, stop in itertools.pairwise(edges):
        cells = np.flatnonzero((signed_um >= start) & (signed_um < stop))
        if len(cells) < 2:
            continue
        inside = values.to_numpy(float)[cells]
        mean, lo, hi = with_interval(blocks[cells], lambda i, x=inside: x[i].mean(axis=0), draws, generator)
        for j, name in enumerate(values):
            rows.append((name, start, stop, mean[j], lo[j], hi[j], len(cells)))
    return pd.DataFrame(rows, columns=["quantity", "from_um", "to_um", "mean", "lo", "hi", "n"])
