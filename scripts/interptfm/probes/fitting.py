"""All probes of one layer: fitted on training cells, chosen on validation, scored on test.

Two evaluations, both on tokens of test cells. ``genes``: the tokens of a fold's genes, scored by the probe
that never saw those genes, averaged over folds: does the direction generalise to genes? ``cells``: all
tokens, by the probe fitted with all genes: a label depends on the gene alone, so a probe that merely
recognises genes passes. Each beside the same with membership permuted over genes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm import job, stats, store
from interptfm.alignment.genes import MIN_POSITIVES, folds_of
from interptfm.alignment.null import permuted, strata_of
from interptfm.errors import InputError
from interptfm.features.tokens import Sample, blocks
from interptfm.probes import linear, logistic
from interptfm.probes.format import Directions, Probes, unit_rows
from interptfm.probes.metrics import METRICS, Histograms, auroc_draws, groups_of, scores_of
from interptfm.probes.statistics import BLOCK_TOKENS, TEST, TRAIN, Moments, collect, segments, token_counts

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LABELS = ("real", "permuted")
SPLIT_KINDS = ("genes", "cells")
STRATA = 10
COUNTED_TOKENS = 65_536


@dataclass
class Layer:
    """What :func:`fit_layer` returns: the probes, a row a (term, kind, split, label), and their means."""

    probes: Probes
    metrics: pd.DataFrame
    summary: pd.DataFrame


def fit_layer(
    paths: Sequence[str | Path],
    samples: dict[str, Sample],
    genes: list[str],
    layer: int,
    members: csr_matrix,
    term_ids: Sequence[str],
    cell_blocks: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    seed: int,
    model: str,
    block_tokens: int = BLOCK_TOKENS,
) -> Layer:
    """Fit and score the probes of one layer.

    Parameters
    ----------
    paths
        Activation stores of all samples and shards.
    samples, genes
        From :func:`interptfm.features.samples_of`.
    members
        float CSR (terms × panel genes), from :func:`interptfm.alignment.reindex`; ``term_ids`` name its rows.
    cell_blocks
        Sample → block label of each cell, (cells,) str.
    settings
        ``kinds``, ``gene_folds``, ``min_genes``, ``ridge.strengths``, ``logistic.tokens``,
        ``logistic.strengths``, ``logistic.iterations``, ``bootstrap``, ``legacy``.
    seed
        The configured seed. Folds of genes are those of the alignment.
    model
        Digest of the model.
    block_tokens
        Tokens held at a time.

    Raises
    ------
    InputError
        If files, samples and membership do not fit each other, or there are fewer genes than folds.
    """
    tokens = token_counts(paths, samples, len(genes))
    n_seen = int((tokens.sum(axis=0) > 0).sum())
    n_folds = int(settings["gene_folds"])
    if n_seen < n_folds:
        raise InputError(f"probes.gene_folds: found {n_folds} for {n_seen} genes with tokens, expected fewer")
    fold = folds_of(tokens.sum(axis=0), n_folds, job.generator(seed, "gene folds"))
    generator = job.generator(seed, "probes", "permutation")
    control = permuted(members, strata_of(tokens.sum(axis=0), STRATA), generator)
    stacked = np.concatenate([members.toarray(), control.toarray()]) > 0
    groups = np.repeat([0, 1], len(term_ids))
    kinds = [*settings["kinds"], *(["softmax"] if settings["legacy"] else [])]
    sampled = any(kind in ("logistic", "softmax") for kind in kinds)
    budget = int(settings["logistic"]["tokens"]) if sampled else 0
    moments = collect(
        paths, samples, layer, tokens, fold, budget, job.generator(seed, "probes", "sample"), block_tokens
    )
    fits, chosen = fit_kinds(moments, stacked, groups, kinds, settings)
    probes = _probes(model, layer, term_ids, genes, moments, fits, {**settings, "chosen": chosen})
    test_blocks = {
        name: np.where(samples[name].split == TEST, found, "") for name, found in cell_blocks.items()
    }
    evaluation = Evaluation(moments, stacked, fits, test_blocks)
    passing = blocks(paths, samples, layer, block_tokens, splits=[TEST])
    for block in job.progress(passing, f"layer {layer}: scores of probes, blocks"):
        evaluation.add(block.sample, block.cell, block.gene, block.x)
    metrics = evaluation.table(
        term_ids, settings["min_genes"], settings["bootstrap"], job.generator(seed, "probes", "blocks", layer)
    )
    summary = summarise(metrics, job.generator(seed, "probes", "terms", layer), settings["bootstrap"])
    return Layer(probes, metrics, summary.assign(layer=layer))


def fit_kinds(
    moments: Moments,
    members: np.ndarray,
    groups: np.ndarray,
    kinds: Sequence[str],
    settings: Mapping[str, Any],
) -> tuple[dict[str, linear.Fit], dict[str, Any]]:
    """Return the fits by kind for stacked memberships, and what validation chose, by kind and label."""
    fits: dict[str, linear.Fit] = {}
    chosen: dict[str, Any] = {}
    for kind in kinds:
        if kind == "difference":
            fits[kind] = linear.difference_in_means(moments, members)
            continue
        if kind == "softmax":
            iterations = settings["logistic"]["iterations"]
            fits[kind] = logistic.softmax(moments.sample, moments.fold, members, groups, iterations)
            continue
        options = settings[kind]
        if kind == "ridge":
            fits[kind], said = linear.ridge(moments, members, sorted(options["strengths"]), groups)
        else:
            fits[kind], said = logistic.logistic(
                moments.sample, moments.fold, members, options["strengths"], groups, options["iterations"]
            )
        chosen[kind] = {LABELS[group]: found for group, found in said.items()}
    return fits, chosen


def _probes(
    model: str,
    layer: int,
    term_ids: Sequence[str],
    genes: list[str],
    moments: Moments,
    fits: dict[str, linear.Fit],
    settings: dict[str, Any],
) -> Probes:
    groups: tuple[dict[str, Directions], dict[str, Directions]] = ({}, {})
    n = len(term_ids)
    for kind, fit in fits.items():
        sigma = linear.sigma_of(moments, unit_rows(fit.weight))
        real, other = slice(0, n), slice(n, 2 * n)
        folds = fit.fold_weight[:, real], fit.fold_bias[:, real]
        groups[0][kind] = Directions(fit.weight[real], fit.bias[real], sigma[real], *folds)
        groups[1][kind] = Directions(fit.weight[other], fit.bias[other], sigma[other])
    mean = linear.token_mean(moments)
    return Probes(model, layer, list(term_ids), genes, moments.fold, mean, *groups, settings)


class Evaluation:
    """Streams test tokens through every probe, once with each fold's own genes and once with all.

    Parameters
    ----------
    moments
        Of the training tokens.
    members
        bool (2 · terms × genes): real, then permuted.
    fits
        Kind → probes of the same rows.
    test_blocks
        Sample → block label of each cell of test, (cells,) str, empty for all others.
    """

    def __init__(
        self,
        moments: Moments,
        members: np.ndarray,
        fits: Mapping[str, linear.Fit],
        test_blocks: Mapping[str, np.ndarray],
    ) -> None:
        n = moments.tokens[TRAIN].sum()
        mean = moments.sums[TRAIN].sum(axis=0) / n
        covariance = moments.grams[TRAIN].sum(axis=0) / n - np.outer(mean, mean)
        self.tokens, self.fold, self.members = moments.tokens[TEST], moments.fold, members
        self.n_folds, self.n_terms = moments.n_folds, len(members) // 2
        labels, cells = np.unique(np.concatenate(list(test_blocks.values())), return_counts=True)
        labels, cells = labels[labels != ""], cells[labels != ""]
        group = groups_of(labels, cells)
        place = {name: np.searchsorted(labels, found) for name, found in test_blocks.items()}
        self._group = {name: group[np.minimum(at, len(labels) - 1)] for name, at in place.items()}
        self.n_groups = int(group.max()) + 1
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        real, control = slice(0, self.n_terms), slice(self.n_terms, None)

        def counted(weight: np.ndarray, bias: np.ndarray) -> tuple[Histograms, Histograms]:
            place = mean, covariance
            return (
                Histograms(weight[real], bias[real], *place, members[real], self.n_groups),
                Histograms(weight[control], bias[control], *place, members[control]),
            )

        self.cells = {kind: counted(fit.weight, fit.bias) for kind, fit in fits.items()}
        self.genes = {
            kind: [counted(fit.fold_weight[h], fit.fold_bias[h]) for h in range(self.n_folds)]
            for kind, fit in fits.items()
        }

    def add(self, sample: str, cell: np.ndarray, gene: np.ndarray, x: np.ndarray) -> None:
        """Score tokens of one sample: cell (n,) index into obs, gene (n,), x float32 (n × d)."""
        self._waiting.append((gene, x, self._group[sample][cell]))
        # Counting costs a pass over the bins of each term, whatever the number of tokens.
        if sum(len(gene) for gene, *_ in self._waiting) >= COUNTED_TOKENS:
            self._count()

    def _count(self) -> None:
        if not self._waiting:
            return
        gene, x, group = (np.concatenate(part) for part in zip(*self._waiting, strict=True))
        self._waiting = []
        order = np.argsort(self.fold[gene], kind="stable")
        gene, x, group = gene[order], x[order], group[order]
        parts = list(segments(self.fold[gene], self.n_folds))
        for kind, (real, control) in self.cells.items():
            real.add(x, gene, group)
            control.add(x, gene)
            for h, (start, stop) in enumerate(parts):
                rows = slice(start, stop)
                self.genes[kind][h][0].add(x[rows], gene[rows], group[rows])
                self.genes[kind][h][1].add(x[rows], gene[rows])

    def table(
        self, term_ids: Sequence[str], min_genes: int, draws: int, generator: np.random.Generator
    ) -> pd.DataFrame:
        """Return a row a (kind, split, label, term).

        ``ap``, ``auroc``, ``precision`` (at the number of positives), ``n_pos`` tokens, ``n_genes`` with test
        tokens, ``prevalence`` (what AP and precision are by chance), ``lo``, ``hi`` of AUROC: 95 % interval
        over blocks (joined to at most 10 groups), of real labels. On genes: means over ``n_folds`` folds with
        at least 2 held-out genes of the term and, pooled over these, ``n_pos``; NaN for terms with fewer than
        ``min_genes`` genes; ``sd_folds``: standard deviation of AUROC over folds.
        """
        self._count()
        weights = generator.multinomial(self.n_groups, np.full(self.n_groups, 1 / self.n_groups), size=draws)
        held = self.tokens > 0
        by_fold = np.stack(
            [self.members[:, held & (self.fold == h)].sum(axis=1) for h in range(self.n_folds)]
        )
        n_genes = by_fold.sum(axis=0)
        frames = []
        for kind in self.cells:
            for label in (0, 1):
                rows = slice(label * self.n_terms, (label + 1) * self.n_terms)
                enough = n_genes[rows] >= min_genes
                defined = (by_fold[:, rows] >= MIN_POSITIVES) & enough
                parts = [self.genes[kind][h][label] for h in range(self.n_folds)]
                frames += [
                    _rows(parts, defined, weights if label == 0 else None).assign(split="genes"),
                    _rows(
                        [self.cells[kind][label]],
                        np.ones((1, self.n_terms), bool),
                        weights if label == 0 else None,
                    ).assign(split="cells"),
                ]
                for frame in frames[-2:]:
                    frame.insert(0, "term_id", list(term_ids))
                    frame.insert(1, "kind", kind)
                    frame["label"] = LABELS[label]
                    frame["n_genes"] = n_genes[rows]
        order = ["term_id", "kind", "split", "label", *METRICS, "lo", "hi", "prevalence", "n_pos", "n_genes"]
        return pd.concat(frames, ignore_index=True)[[*order, "n_folds", "sd_folds"]]


def _rows(parts: Sequence[Histograms], defined: np.ndarray, weights: np.ndarray | None) -> pd.DataFrame:
    """Return metrics averaged over the parts in which a term is defined, (parts × terms)."""
    found = [scores_of(part.by_group().sum(axis=1)) for part in parts]
    defined = defined & np.stack([~np.isnan(one.auroc) for one in found])
    n = defined.sum(axis=0)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.where(defined, values, 0).sum(axis=0)
        return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)

    stacked = {name: np.stack([getattr(one, name) for one in found]) for name in (*METRICS, "n_pos")}
    totals = np.stack([part.counts.sum(axis=1) for part in parts])
    columns = {name: mean(stacked[name]) for name in METRICS}
    columns["prevalence"] = mean(stacked["n_pos"] / np.maximum(totals, 1))
    columns["n_pos"] = np.where(defined, stacked["n_pos"], 0).sum(axis=0)
    columns["n_folds"] = n
    squares = mean((stacked["auroc"] - columns["auroc"]) ** 2)
    columns["sd_folds"] = np.sqrt(squares * np.divide(n, n - 1, out=np.full(len(n), np.nan), where=n > 1))
    columns["lo"] = columns["hi"] = np.full(len(n), np.nan)
    if weights is not None and len(weights) and weights.shape[1] > 1:
        draws = np.stack([auroc_draws(part.by_group(), weights) for part in parts])
        draws = np.where(defined[:, None] & ~np.isnan(draws), draws, np.nan)
        some = ~np.isnan(draws).all(axis=0)
        count = np.maximum((~np.isnan(draws)).sum(axis=0), 1)
        average = np.where(some, np.nansum(draws, axis=0) / count, np.nan)
        present = some.any(axis=0)
        columns["lo"][present], hi = np.nanquantile(average[:, present], stats.INTERVAL, axis=0)
        columns["hi"] = np.full(len(n), np.nan)
        columns["hi"][present] = hi
    return pd.DataFrame(columns)


def summarise(metrics: pd.DataFrame, generator: np.random.Generator, draws: int) -> pd.DataFrame:
    """Return a row a (kind, split, metric): mean over terms, of real and permuted labels, and the difference.

    ``lo``, ``hi``: 95 % interval of the mean paired difference over resampled terms; terms share genes and
    one permutation is one draw, hence they hold for these terms and this permutation.
    """
    rows = []
    for (kind, split), part in metrics.groupby(["kind", "split"], sort=False):
        real, control = (part[part["label"] == label].set_index("term_id") for label in LABELS)
        control = control.loc[real.index]
        for metric in METRICS:
            a, b = real[metric].to_numpy(), control[metric].to_numpy()
            both = ~np.isnan(a - b)
            row: dict[str, Any] = {"kind": kind, "split": split, "metric": metric, "n": int(both.sum())}
            row |= {"real": np.nan, "permuted": np.nan, "difference": np.nan, "lo": np.nan, "hi": np.nan}
            if both.any():
                row |= {"real": a[both].mean(), "permuted": b[both].mean()}
                row["difference"] = row["real"] - row["permuted"]
            if both.sum() > 1 and draws:
                row |= stats.paired_bootstrap(a, b, draws, generator)
            rows.append(row)
    return pd.DataFrame(rows)


def model_of(paths: Sequence[str | Path]) -> str:
    """Return the digest of the model that the activation stores are of.

    Raises
    ------
    InputError
        If they are of several models.
    """
    digests = {}
    for path in paths:
        with store.open_activations(path) as file:
            digests[str(file.attributes.get("model"))] = path
    if len(digests) != 1:
        raise InputError(
            f"activations: found stores of {len(digests)} models ({', '.join(map(str, digests.values()))}), "
            "expected one"
        )
    return next(iter(digests))
