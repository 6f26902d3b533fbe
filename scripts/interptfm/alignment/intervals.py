"""Block-bootstrap intervals of the chosen pairs: a second pass over the test tokens, for those pairs alone.

The first pass counts by gene, which forgets the block of a cell. Here the tokens of test cells are encoded
once more and TP, fires and positives of each chosen (term, feature, threshold) are counted by block; an
interval is the central 95 % of the score when blocks are drawn with replacement (Efron and Tibshirani 1993).
The choice itself is not repeated: it was made on validation blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interptfm import job
from interptfm.alignment.genes import METRICS, RankedGenes, mean_of_defined
from interptfm.alignment.selection import ratio
from interptfm.errors import InputError
from interptfm.features.representations import OfGenes, Representation, codes_of
from interptfm.features.tokens import SPLITS, Block, Sample, blocks, samples_of
from interptfm.stats import INTERVAL

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from interptfm.alignment import Alignment, Selection

MAX_BLOCKS = 200
MAX_SUMS = 50_000_000
GENE_DRAWS = 200


@dataclass
class BlockCounts:
    """Counts of test tokens by block, int64.

    ``tp``, ``fires``, ``positives`` (blocks × pairs) of the rows of ``pairs``; ``gene_*`` (blocks × terms of
    the gene-held-out evaluation), pooled over folds; ``tokens`` (groups × genes) and ``sums`` (groups ×
    genes × features of ``feature``) float64 hold what AUROC and AP need, over groups of blocks where there
    are many.
    """

    tp: np.ndarray
    fires: np.ndarray
    positives: np.ndarray
    gene_tp: np.ndarray
    gene_fires: np.ndarray
    gene_positives: np.ndarray
    feature: np.ndarray
    tokens: np.ndarray
    sums: np.ndarray


def block_codes(adatas: Sequence[AnnData], limit: int = MAX_BLOCKS) -> tuple[dict[str, np.ndarray], int]:
    """Return sample → block of each cell (int, −1 outside test) and the number of blocks.

    More than ``limit`` test blocks are joined, neighbours in the order of their names, so that memory
    is bounded; larger blocks give intervals that are rather too wide than too narrow.
    """
    labels = {
        str(adata.obs["sample"].iloc[0]): np.where(
            (adata.obs["split"] == "test").to_numpy(), adata.obs["block"].astype(str).to_numpy(object), ""
        )
        for adata in adatas
    }
    names = sorted(set().union(*(set(values) for values in labels.values())) - {""})
    n = min(len(names), limit)
    code = {name: i * n // max(len(names), 1) for i, name in enumerate(names)} | {"": -1}
    return {sample: np.array([code[v] for v in values]) for sample, values in labels.items()}, n


class _Counter:
    """Counts chosen columns over aggregated tokens: those of one gene in one block."""

    def __init__(self, selection: Selection, n_blocks: int, n_features: int, maximum: np.ndarray) -> None:
        self.selection, self.n_blocks = selection, n_blocks
        self.fold = selection.fold
        self.n_folds = selection.held_out_column.shape[1]
        self.n_levels = selection.shares.shape[1]
        held = selection.held_out_column
        term = np.repeat(selection.held_out_terms, self.n_folds)
        row = np.repeat(np.arange(len(held)), self.n_folds)
        fold = np.tile(np.arange(self.n_folds), len(held))
        n_pairs = len(selection.column)
        # One list of detectors: pairs over all genes (fold −1), then terms over the genes of each fold.
        column = np.concatenate([selection.column, held.reshape(-1)])
        self.term = np.concatenate([selection.term, term])
        self.of_fold = np.concatenate([np.full(n_pairs, -1), fold])
        self.output = np.concatenate([np.arange(n_pairs), n_pairs + row])
        self.n_outputs, self.n_pairs = n_pairs + len(held), n_pairs
        self.columns, self.place = np.unique(column[column >= 0], return_inverse=True)
        self.live = np.flatnonzero(column >= 0)
        feature, level = np.divmod(self.columns, self.n_levels)
        self.feature = feature
        limit = selection.shares[feature, level].astype(np.float32) * np.asarray(maximum, np.float32)[feature]
        self.limit = np.where(np.asarray(maximum)[feature] > 0, limit, np.inf).astype(np.float32)
        order = np.argsort(self.place, kind="stable")
        self.detector = self.live[order]
        self.start = np.searchsorted(self.place[order], np.arange(len(self.columns) + 1))
        self.tp = np.zeros((n_blocks, self.n_outputs), np.int64)
        self.fires = np.zeros((n_blocks, self.n_folds + 1, len(self.columns)), np.int64)
        self.tokens = np.zeros((n_blocks, len(self.fold)), np.int64)
        self.member = selection.members.toarray() > 0

    def add(self, rows: np.ndarray, counts: csr_matrix) -> None:
        """Add fired tokens, CSR (rows × columns), of rows = block · genes + gene."""
        counts = counts.tocoo()
        block, gene = np.divmod(rows[counts.row], len(self.fold))
        fold, weight = self.fold[gene], counts.data.astype(np.int64)
        np.add.at(self.fires, (block, 0, counts.col), weight)
        np.add.at(self.fires, (block, fold + 1, counts.col), np.where(fold >= 0, weight, 0))
        repeats = np.diff(self.start)[counts.col]
        entry = np.repeat(np.arange(len(weight)), repeats)
        first = np.cumsum(repeats) - repeats
        detector = self.detector[self.start[counts.col[entry]] + np.arange(len(entry)) - first[entry]]
        hit = self.member[self.term[detector], gene[entry]]
        hit &= (self.of_fold[detector] < 0) | (self.of_fold[detector] == fold[entry])
        entry, detector = entry[hit], detector[hit]
        np.add.at(self.tp, (block[entry], self.output[detector]), weight[entry])

    def result(self) -> tuple[np.ndarray, ...]:
        """Return TP, fires and positives (blocks × outputs)."""
        fires, positives = np.zeros_like(self.tp), np.zeros_like(self.tp)
        for start, stop in ((0, self.n_pairs), (self.n_pairs, len(self.term))):
            # ``fires`` of a fold sits one place behind that of all genes.
            detector = self.live[(self.live >= start) & (self.live < stop)]
            place = self.place[np.searchsorted(self.live, detector)]
            value = self.fires[:, self.of_fold[detector] + 1, place]
            np.add.at(fires, (slice(None), self.output[detector]), value)
        members = self.selection.members.astype(np.float64)
        every = np.asarray(self.tokens @ members.T)
        positives[:, : self.n_pairs] = every[:, self.term[: self.n_pairs]]
        in_fold = self.tokens * (self.fold >= 0)
        held = np.asarray(in_fold @ members.T)[:, self.selection.held_out_terms]
        positives[:, self.n_pairs :] = held
        return self.tp, fires, positives


def count(
    paths: Sequence[str | Path],
    samples: dict[str, Sample],
    block_of_cell: dict[str, np.ndarray],
    n_blocks: int,
    representation: Representation | OfGenes,
    layer: int,
    maximum: np.ndarray,
    selection: Selection,
) -> BlockCounts:
    """Count the chosen pairs by block over the test tokens of all activation files.

    Parameters
    ----------
    paths, samples, representation, layer
        As for :func:`interptfm.features.extract`, whose counts made the choice.
    block_of_cell, n_blocks
        From :func:`block_codes`.
    maximum
        (features,) training maxima of the same representation.
    selection
        ``Alignment.selection``.

    Raises
    ------
    InputError
        If the maxima are not those of the representation.
    """
    if len(maximum) != representation.n_features:
        raise InputError(f"maxima: found {len(maximum)} features, expected {representation.n_features}")
    n_genes, counter = len(selection.fold), _Counter(selection, n_blocks, len(maximum), maximum)
    held, ranked = selection.held_out_column, selection.held_out_ranked
    feature = np.unique(np.concatenate([held[held >= 0] // counter.n_levels, ranked[ranked >= 0]]))
    n_groups = int(np.clip(MAX_SUMS // max(1, n_genes * len(feature)), 10, max(n_blocks, 1)))
    n_groups = min(n_groups, n_blocks)
    sums = np.zeros((n_groups * n_genes, len(feature)))
    tokens = np.zeros((n_groups, n_genes))
    scale = np.divide(1, maximum, out=np.zeros(len(maximum)), where=np.asarray(maximum) > 0)[feature]
    test = blocks(paths, samples, layer, splits=[SPLITS.index("test")])
    for block in job.progress(test, f"layer {layer}: counts by block, blocks"):
        codes = codes_of(representation, block)
        row = block_of_cell[block.sample][block.cell] * n_genes + block.gene
        rows, by_row = _by_row(row)
        np.add.at(counter.tokens.reshape(-1), row, 1)
        counter.add(rows, by_row @ _fired(codes, counter, block))
        group = (rows // n_genes) * n_groups // n_blocks
        part = by_row @ codes[:, feature]
        part = part if isinstance(part, np.ndarray) else part.toarray()
        np.add.at(sums, group * n_genes + rows % n_genes, part * scale)
        np.add.at(tokens, (group, rows % n_genes), np.asarray(by_row.sum(axis=1)).ravel())
    tp, fires, positives = counter.result()
    n = counter.n_pairs
    return BlockCounts(
        *(tp[:, :n], fires[:, :n], positives[:, :n]),
        *(tp[:, n:], fires[:, n:], positives[:, n:]),
        feature,
        tokens,
        sums.reshape(n_groups, n_genes, len(feature)),
    )


def bootstrap(
    result: Alignment,
    paths: Sequence[str | Path],
    adatas: Sequence[AnnData],
    representation: Representation | OfGenes,
    layer: int,
    maximum: np.ndarray,
    draws: int,
    generator: np.random.Generator,
) -> Alignment:
    """Count the chosen pairs by block and fill all intervals of ``result``, in place; see the parts."""
    block_of_cell, n_blocks = block_codes(adatas)
    _, samples = samples_of(adatas)
    counts = count(paths, samples, block_of_cell, n_blocks, representation, layer, maximum, result.selection)
    return add_intervals(result, counts, draws, generator)


def _by_row(row: np.ndarray) -> tuple[np.ndarray, csr_matrix]:
    from scipy.sparse import csr_matrix

    rows, index = np.unique(row, return_inverse=True)
    ones, ends = np.ones(len(row), np.float32), np.arange(len(row) + 1)
    return rows, csr_matrix((ones, index, ends), shape=(len(row), len(rows))).T.tocsr()


def _fired(codes: np.ndarray | csr_matrix, counter: _Counter, block: Block) -> csr_matrix:
    """Return which tokens exceed the limit of each chosen column, CSR float32 (tokens × columns)."""
    from scipy.sparse import csr_matrix

    chosen = codes[:, counter.feature]
    if isinstance(chosen, np.ndarray):
        return csr_matrix((chosen > counter.limit).astype(np.float32))
    chosen = chosen.tocsr()
    chosen.data = (chosen.data > counter.limit[chosen.indices]).astype(np.float32)
    chosen.eliminate_zeros()
    return chosen


def f1_intervals(
    tp: np.ndarray, fires: np.ndarray, positives: np.ndarray, draws: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lo and hi of the F1 of each column (blocks × pairs), and the drawn F1 (draws × pairs).

    NaN with fewer than 2 blocks. Draws without a positive are left out of a pair's interval.
    """
    n_blocks, n = tp.shape
    if n_blocks < 2:
        return np.full(n, np.nan), np.full(n, np.nan), np.full((draws, n), np.nan)
    weights = generator.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=draws).astype(np.float64)
    hits, below = weights @ tp, weights @ positives
    drawn = np.where(below > 0, ratio(2 * hits, weights @ fires + below), np.nan)
    lo, hi = _central(drawn)
    return lo, hi, drawn


def _central(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import warnings

    if not drawn.size:  # no term is evaluated on held-out genes
        return np.full(drawn.shape[1:], np.nan), np.full(drawn.shape[1:], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns that are NaN throughout stay NaN
        lo, hi = np.nanquantile(drawn, INTERVAL, axis=0)
    return lo, hi


def _recentred(drawn: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Shift each column of draws so that its mean is the observed value.

    Resampled blocks give noisier means of genes than all blocks do, and noise lowers what ranks agree on:
    left alone, the interval may lie below the estimate (Efron and Tibshirani 1993, section 10).
    """
    n = (~np.isnan(drawn)).sum(axis=0)
    return drawn + (observed - ratio(np.nansum(drawn, axis=0), n))


def gene_draws(
    counts: BlockCounts, selection: Selection, draws: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return both AUROCs and AP on held-out genes of every draw of blocks, (draws × terms)."""
    n_groups = len(counts.tokens)
    n, n_levels = len(selection.held_out_terms), selection.shares.shape[1]
    result = {name: np.full((draws, n), np.nan) for name in ("auroc", "ap", "auroc_ranked")}
    if n_groups < 2 or not n:
        return result
    members = selection.members[selection.held_out_terms]
    held, by_rank = selection.held_out_column, selection.held_out_ranked
    place = _places(counts.feature, np.where(held >= 0, held // n_levels, -1))
    ranked_place = _places(counts.feature, by_rank)
    even = np.full(n_groups, 1 / n_groups)
    for i, weight in enumerate(generator.multinomial(n_groups, even, size=draws)):
        tokens, sums = weight @ counts.tokens, np.tensordot(weight, counts.sums, axes=1)
        scores = {name: np.full(held.shape, np.nan) for name in result}
        for h in range(held.shape[1]):
            genes = np.flatnonzero((selection.fold == h) & (tokens > 0))
            if not len(genes):
                continue
            ranked = RankedGenes(genes, sums[genes] / tokens[genes, None])
            scores["auroc"][:, h], scores["ap"][:, h] = ranked.auroc_and_ap(members, place[:, h])
            scores["auroc_ranked"][:, h], _ = ranked.auroc_and_ap(members, ranked_place[:, h])
        for name, values in scores.items():
            result[name][i] = mean_of_defined(values)
    return result


def _places(known: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """Return where each feature stands in ``known``, −1 for −1."""
    place = np.searchsorted(known, np.maximum(feature, 0))
    return np.where(feature >= 0, np.minimum(place, len(known) - 1), -1)


def add_intervals(
    result: Alignment, counts: BlockCounts, draws: int, generator: np.random.Generator
) -> Alignment:
    """Fill ``lo`` and ``hi`` of pairs, concepts, features and headline in place, and return ``result``.

    ``lo``, ``hi`` belong to ``f1``; ``gene_<measure>_lo`` and ``_hi`` to the measures on held-out genes, of
    which AUROC and AP are recentred on the observed value. The headline's are those of the mean over terms.
    NaN with fewer than 2 test blocks.
    """
    lo, hi, drawn = f1_intervals(counts.tp, counts.fires, counts.positives, draws, generator)
    pairs = result.pairs
    unscored = pairs["f1"].isna().to_numpy()
    pairs["lo"], pairs["hi"] = (np.where(unscored, np.nan, values) for values in (lo, hi))
    first = np.flatnonzero(pairs["rank"].eq(1).fillna(False).to_numpy(bool))
    by_term = pairs.iloc[first].set_index("term_id")
    by_feature = pairs[pairs["best_of_feature"]].set_index("feature")
    concepts = result.concepts
    found = concepts["f1"].notna()
    for name in ("lo", "hi"):
        # A term without any feature has F1 0 however blocks are drawn.
        concepts[name] = concepts["term_id"].map(by_term[name]).where(concepts["feature"].notna(), 0.0)
        concepts[name] = concepts[name].where(found)
        result.features[name] = result.features["feature"].map(by_feature[name]).astype(float)
    scored = concepts.loc[found & concepts["feature"].notna(), "term_id"]
    rows = first[np.isin(pairs["term_id"].to_numpy(object)[first], scored.to_numpy(object))]
    share = len(scored) / max(1, int(found.sum()))
    headline = result.summary["headline"]
    _store(headline["cell_held_out"]["f1"], np.array([share * m for m in mean_of_defined(drawn[:, rows])]))

    terms = result.selection.held_out_terms
    gene = (counts.gene_tp, counts.gene_fires, counts.gene_positives)
    drawn_genes = {"f1": f1_intervals(*gene, draws, generator)[2]}
    ranked = gene_draws(counts, result.selection, min(draws, GENE_DRAWS), generator)
    for name, values in ranked.items():
        drawn_genes[name] = _recentred(values, concepts[f"gene_{name}"].to_numpy(float)[terms])
    for name in METRICS:
        lo, hi = _central(np.clip(drawn_genes[name], 0, 1))
        for suffix, values in (("lo", lo), ("hi", hi)):
            concepts[f"gene_{name}_{suffix}"] = np.nan
            concepts.loc[terms, f"gene_{name}_{suffix}"] = values
        if name in headline["gene_held_out"]:
            _store(headline["gene_held_out"][name], mean_of_defined(drawn_genes[name]))
    result.summary["n_test_blocks"], result.summary["n_bootstrap"] = len(counts.tp), draws
    return result


def _store(entry: dict, means: np.ndarray) -> None:
    lo, hi = _central(means)
    entry["lo"], entry["hi"] = float(lo), float(hi)
