"""Links of features, from their activity in cells: where they are active, and with which stain they go.

Both tests take blocks of tissue as replicates (:func:`interptfm.regions.enrichment.sign_flip_p`) and hold
for any dictionary, so that a control arm is measured exactly as the dictionary under test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import stats
from interptfm.evidence import NOT_SUPPORTED, NOT_TESTED, SUPPORTED
from interptfm.regions.enrichment import block_auc, permutations_for, sign_flip_p
from interptfm.regions.interface import stratum_ranks

# Features that are ranked at a time: (cells × features) float64 is what takes the memory.
CHUNK = 256
COMPARTMENT_COLUMNS = ("compartment", "effect", "lo", "hi", "p", "p_min", "q", "status")
STAIN_COLUMNS = ("stain", "r", "lo", "hi", "p", "p_min", "q", "status")


def active(codes: sparse.csc_matrix) -> np.ndarray:
    """Return the features that are not 0 in some cell of (cells × features)."""
    return np.flatnonzero(np.diff(sparse.csc_matrix(codes).indptr) > 0)


def compartment_links(
    codes: sparse.csc_matrix,
    compartments: np.ndarray,
    blocks: np.ndarray,
    *,
    max_q: float,
    min_effect: float,
    draws: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Return each feature's compartment: the one whose cells it is most active in.

    Parameters
    ----------
    codes
        (cells × features) activity of features.
    compartments, blocks
        (cells,) str; cells whose compartment is empty take no part.
    max_q, min_effect
        The link is supported where q < max_q and the effect is at least min_effect.
    draws
        Bootstrap draws of blocks for the interval.

    Returns
    -------
    Frame indexed by feature, :data:`COMPARTMENT_COLUMNS`: ``effect`` = 2 · (mean AUC within blocks − ½) of
    the compartment against the others, the largest of all compartments; two-sided p by flipping the signs of
    blocks, ``q`` (Benjamini–Hochberg) over all features that are active in a cell and all compartments;
    ``lo`` and ``hi`` of a block bootstrap. Features that are never active are not tested. Cell types are
    not held constant: the link says where a feature is active, not why.
    """
    keep = np.flatnonzero(compartments != "")
    labels, code = np.unique(compartments[keep], return_inverse=True)
    codes = sparse.csc_matrix(codes)[keep]
    features, n_features = active(codes), codes.shape[1]
    if len(labels) < 2 or not len(features):
        return _untested(n_features, COMPARTMENT_COLUMNS)
    block_names, block = np.unique(blocks[keep], return_inverse=True)
    members = stats.members(block, len(block_names))
    n_permutations = permutations_for(len(features) * len(labels))
    seed = int(generator.integers(2**63))
    frames = []
    for start in range(0, len(features), CHUNK):
        chosen = features[start : start + CHUNK]
        values = codes[:, chosen].toarray()
        shape = (len(members), len(labels), len(chosen))
        effects, weights = np.zeros(shape), np.zeros(shape)
        for i, mine in enumerate(members):
            auc, weight = block_auc(values[mine], code[mine], len(labels))
            effects[i], weights[i] = 2 * auc - 1, weight[:, None]
        frame = _tested(effects, weights, n_permutations, draws, seed)
        frame["compartment"] = np.repeat(labels, len(chosen))
        frame["feature"] = np.tile(chosen, len(labels))
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True)
    frame["q"] = stats.benjamini_hochberg(frame["p"].to_numpy())
    best = frame.sort_values(["effect", "compartment"], ascending=[False, True], kind="stable")
    best = best.drop_duplicates("feature").set_index("feature")
    supported = (best["q"] < max_q) & (best["effect"] >= min_effect)
    return _with_status(best, supported, n_features, COMPARTMENT_COLUMNS)


def stain_links(
    codes: sparse.csc_matrix,
    stains: pd.DataFrame,
    groups: np.ndarray,
    depth: np.ndarray,
    blocks: np.ndarray,
    *,
    max_q: float,
    min_r: float,
    draws: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Return each feature's stain: the one that it goes with best among cells of one type.

    Activity, stain and depth become ranks within each group; those of depth are regressed out of both, so
    neither type nor depth makes a correlation.

    Parameters
    ----------
    codes
        (cells × features) activity of features.
    stains
        (cells × stains) intensities; cells without one take no part in its tests.
    groups, depth, blocks
        (cells,) section and cell type, total counts, block.
    max_q, min_r
        The link is supported where q < max_q and |r| is at least min_r.
    draws
        Bootstrap draws of blocks for the interval.

    Returns
    -------
    Frame indexed by feature, :data:`STAIN_COLUMNS`: ``r`` the partial rank correlation of the stain with
    the smallest p; two-sided p by flipping the signs of blocks, ``q`` (Benjamini–Hochberg) over all active
    features and stains. A stain that does not vary is not tested.
    """
    codes = sparse.csc_matrix(codes)
    features, n_features = active(codes), codes.shape[1]
    n_permutations = permutations_for(max(1, len(features) * stains.shape[1]))
    seed = int(generator.integers(2**63))
    frames = []
    measured = np.isfinite(stains.to_numpy(float))
    # Stains that the same cells have are tested together: ranking the features is what takes the time.
    for pattern in np.unique(measured, axis=1).T:
        keep, names = np.flatnonzero(pattern), stains.columns[(measured == pattern[:, None]).all(axis=0)]
        if not len(keep):
            continue
        mine, labels = codes[keep], groups[keep]
        deep = _centred(depth[keep, None].astype(float), labels)
        intensities = _residual(_centred(stains[names].to_numpy(float)[keep], labels), deep)
        names, intensities = names[_varies(intensities)], intensities[:, _varies(intensities)]
        block_names, block = np.unique(blocks[keep], return_inverse=True)
        size = np.bincount(block).astype(float)
        shape = (len(block_names), len(keep))
        of_block = sparse.csr_matrix((1 / size[block], (block, np.arange(len(keep)))), shape=shape)
        for start in range(0, len(features), CHUNK):
            chosen = features[start : start + CHUNK]
            values = _residual(_centred(mine[:, chosen].toarray().astype(float), labels), deep)
            chosen, values = chosen[_varies(values)], values[:, _varies(values)]
            values /= values.std(axis=0)
            for name, stain in zip(names, intensities.T, strict=True):
                effects = of_block @ (values * (stain / stain.std())[:, None])
                weights = np.broadcast_to(size[:, None], effects.shape)
                frame = _tested(effects, weights, n_permutations, draws, seed)
                frames.append(frame.rename(columns={"effect": "r"}).assign(stain=name, feature=chosen))
    if not frames:
        return _untested(n_features, STAIN_COLUMNS)
    frame = pd.concat(frames, ignore_index=True)
    frame["q"] = stats.benjamini_hochberg(frame["p"].to_numpy())
    frame["size"] = -frame["r"].abs()
    best = frame.sort_values(["p", "size", "stain"], kind="stable").drop_duplicates("feature")
    best = best.set_index("feature")
    supported = (best["q"] < max_q) & (best["r"].abs() >= min_r)
    return _with_status(best, supported, n_features, STAIN_COLUMNS)


def stability_links(stable: pd.DataFrame) -> pd.DataFrame:
    """Return the features' links to other seeds, by feature: ``status`` from the column ``stable``."""
    frame = stable.set_index("feature")[["stable"]].astype(bool)
    return frame.assign(status=np.where(frame["stable"], SUPPORTED, NOT_SUPPORTED))[["status"]]


def _tested(
    effects: np.ndarray, weights: np.ndarray, n_permutations: int, draws: int, seed: int
) -> pd.DataFrame:
    """Return effect, interval and p of (blocks × … × features) effects, one row a test.

    The same seed for every chunk, so that chunks of another size give the same.
    """
    flips, resamples = np.random.default_rng(seed).spawn(2)
    n_blocks = len(effects)
    effects, weights = effects.reshape(n_blocks, -1), weights.reshape(n_blocks, -1)
    effect, p, p_min = sign_flip_p(effects, weights, n_permutations, flips, 2)
    drawn = resamples.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=draws)
    total = drawn @ weights
    means = np.divide(drawn @ (effects * weights), total, out=np.full(total.shape, np.nan), where=total > 0)
    lo, hi = np.full((2, effects.shape[1]), np.nan)
    known = np.isfinite(means).any(axis=0)
    lo[known], hi[known] = np.nanquantile(means[:, known], stats.INTERVAL, axis=0)
    return pd.DataFrame({"effect": effect, "lo": lo, "hi": hi, "p": p, "p_min": p_min})


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return ranks within groups, from −½ to ½, of (cells × columns)."""
    return stratum_ranks(values, groups) - 0.5


def _residual(values: np.ndarray, covariate: np.ndarray) -> np.ndarray:
    """Return (cells × columns) less what is linear in ``covariate`` (cells × 1); both are centred."""
    square = float((covariate**2).sum())
    return values - covariate * (covariate.T @ values) / square if square > 0 else values


def _varies(values: np.ndarray) -> np.ndarray:
    return values.std(axis=0) > 1e-9 if len(values) else np.zeros(values.shape[1], bool)


def _untested(n_features: int, columns: Sequence[str]) -> pd.DataFrame:
    frame = pd.DataFrame(np.nan, index=pd.RangeIndex(n_features, name="feature"), columns=list(columns))
    return frame.astype({columns[0]: object}).assign(status=NOT_TESTED)


def _with_status(
    best: pd.DataFrame, supported: pd.Series, n_features: int, columns: Sequence[str]
) -> pd.DataFrame:
    status = pd.Series(np.where(supported, SUPPORTED, NOT_SUPPORTED), best.index)
    best = best.assign(status=status.where(best["p"].notna(), NOT_TESTED))
    found = best.reindex(pd.RangeIndex(n_features, name="feature"))[list(columns)]
    return found.assign(status=found["status"].fillna(NOT_TESTED))
