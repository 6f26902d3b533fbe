"""The views that MOFA+ is given of the same cells: activity of concepts, channels, stains.

Code that needs no package of its own; :mod:`interptfm.comparators.mofa` fits them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from interptfm import store
from interptfm.comparators.status import Skipped
from interptfm.crosstalk.channels import channel_values
from interptfm.crosstalk.reading import GENERIC, chosen_concepts
from interptfm.errors import InputError
from interptfm.tis.units import STAIN, Cells

# What activity calls concepts that are of no channel.
NO_CHANNEL = (GENERIC, "unclassified")
CONCEPTS, CHANNELS, STAINS = "concepts", "channels", "stains"
# Channels are means of concepts: that one tells the other is arithmetic.
DERIVED = ({CONCEPTS, CHANNELS},)


@dataclass(frozen=True)
class View:
    """``values`` float64 (cells × columns), a row of NaN in a cell without the view; ``columns``: name,
    term_id, channel."""

    name: str
    values: np.ndarray
    columns: pd.DataFrame

    @property
    def there(self) -> np.ndarray:
        return np.isfinite(self.values).all(axis=1)


def read_views(paths: Sequence[str | Path], cells: Cells, most: int) -> tuple[list[View], np.ndarray]:
    """Return the three views of all cells, and which cells have tokens (bool).

    Parameters
    ----------
    paths
        ``activity/<sample>.h5ad`` of all samples, in the order of ``cells``.
    most
        Concepts in their view at most: not generic, the most specific first, as crosstalk takes them. All
        activities have unit deviation, so their spread ranks nothing.

    Channels are as in crosstalk, the mean of their concepts weighted by information content; stains are
    log1p of their intensity. A view that is not there has no columns.

    Raises
    ------
    InputError
        If the files hold other cells than ``cells``, or differ in their concepts.
    """
    read = [store.read_h5ad(path) for path in paths]
    at = np.cumsum([0, *(adata.n_obs for adata in read)])
    for path, adata, first in zip(paths, read, at, strict=False):
        if not adata.obs_names.equals(cells.obs.index[first : first + adata.n_obs]):
            raise InputError(f"{path}: found other cells than in cells/, expected the same in order")
        if not adata.var_names.equals(read[0].var_names):
            raise InputError(f"{path}: found other concepts than in {paths[0]}, expected the same")
    if at[-1] != len(cells.obs):
        raise InputError(f"{paths[-1]}: found {at[-1]} cells in all, expected the {len(cells.obs)} of cells/")
    present = np.concatenate([adata.obs["has_tokens"].to_numpy(bool) for adata in read])
    values = np.concatenate([np.asarray(adata.X, np.float64) for adata in read])
    values[~present] = np.nan
    var = read[0].var.rename_axis("term_id").reset_index().astype({"channel": str, "name": str})
    names = sorted(set(var["channel"]) - set(NO_CHANNEL))
    channels = np.full((len(values), len(names)), np.nan)
    if present.any():
        channels[present], _ = channel_values(
            values[present].astype(np.float32), var["channel"], var["ic"].to_numpy(float), names
        )
    kept = chosen_concepts(var, most)
    stains = [name for name in cells.obs if name.startswith(STAIN) and cells.obs[name].notna().any()]
    intensities = np.array(cells.obs[stains], float)
    intensities[~np.isfinite(intensities).all(axis=1)] = np.nan
    named = pd.DataFrame({"name": names, "term_id": "", "channel": names})
    of_stains = pd.DataFrame(
        {"name": [n.removeprefix(STAIN) for n in stains], "term_id": "", "channel": ""}, dtype=str
    )
    return [
        View(CONCEPTS, values[:, kept], var.iloc[kept][["name", "term_id", "channel"]]),
        View(CHANNELS, channels, named),
        View(STAINS, np.log1p(np.maximum(intensities, 0)), of_stains),
    ], present


def usable(views: Sequence[View], train: np.ndarray, sections: np.ndarray) -> tuple[list[View], list[str]]:
    """Return the views standardised, and a sentence on each that is not there.

    Parameters
    ----------
    train
        Positions of the training cells.
    sections
        (cells,) int: section, or −1 for one that the model does not know.

    Every column is centred by the training cells of its section (in an unknown one, of all sections) and
    divided by its deviation within sections over all training cells; so every view has unit variance.
    Columns that do not vary over training cells are left out.

    Raises
    ------
    Skipped
        If fewer than two views are left.
    """
    found, notes = [], []
    for view in views:
        mine = train[view.there[train]]
        values = view.values - (view.values[mine].mean(axis=0) if len(mine) else 0)
        for section in np.unique(sections[sections >= 0]):
            own = mine[sections[mine] == section]
            if len(own):
                values[sections == section] -= values[own].mean(axis=0)
        deviation = values[mine].std(axis=0) if len(mine) else np.zeros(values.shape[1])
        varies = deviation > 1e-9
        if not varies.any():
            why = "none varies over training cells" if len(varies) else "the cells have none"
            notes.append(f"no view of {view.name}: {why}")
            continue
        found.append(View(view.name, values[:, varies] / deviation[varies], view.columns[varies]))
    if len(found) < 2:
        raise Skipped(f"{len(found)} of {len(views)} views can be used, expected 2: {'; '.join(notes)}")
    return found, notes
