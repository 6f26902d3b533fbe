"""Logistic probes (binary cross entropy, L2, bias) on gene-balanced tokens, and the published softmax form.

Coordinates are standardised over the tokens at hand, so that one strength means the same in all of them;
weights come back in the activations' own coordinates. All terms are fitted at once by L-BFGS: their
objectives do not share a parameter, the products with the tokens are what they share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from interptfm.probes.linear import Fit

CHUNK = 8_000_000  # tokens × terms of one fit
ITERATIONS = 60


class Tokens:
    """Tokens to fit on: x float32 (n × d) standardised, gene (n,), and the way back."""

    def __init__(self, x: np.ndarray, gene: np.ndarray) -> None:
        self.mean, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        self.spread = np.where(spread > 0, spread, 1.0)
        self.x = ((x - self.mean) / self.spread).astype(np.float32)
        self.gene = gene

    def back(self, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (terms × d) and bias (terms,) for tokens that are not standardised."""
        own = weight / self.spread
        return own, bias - own @ self.mean


def fit_logistic(
    tokens: Tokens,
    members: np.ndarray,
    strength: float,
    balanced: bool,
    start: np.ndarray | None = None,
    iterations: int = ITERATIONS,
) -> np.ndarray:
    """Return coefficients (terms × (d + 1)), bias last, in standardised coordinates, float64.

    Minimises, for each term, the mean over tokens of the binary cross entropy + strength / 2 · |w|². With
    ``balanced`` positives and negatives weigh the same in all. Terms without a positive or a negative among
    the tokens get zeros.

    Parameters
    ----------
    members
        (terms × genes), 0 or 1.
    start
        Coefficients to start from.
    """
    n, d = tokens.x.shape
    result = np.zeros((len(members), d + 1))
    step = max(1, CHUNK // max(1, n))
    for first in range(0, len(members), step):
        rows = slice(first, first + step)
        label = members[rows].astype(np.float32)[:, tokens.gene].T
        positives = label.sum(axis=0)
        defined = (positives > 0) & (positives < n)
        weights = np.ones((2, label.shape[1]), np.float32)
        if balanced:
            weights[1] = n / np.maximum(2 * positives, 1)
            weights[0] = n / np.maximum(2 * (n - positives), 1)
        base = np.zeros((label.shape[1], d + 1)) if start is None else start[rows]
        found = _minimise(_cross_entropy(tokens.x, label, weights, strength), base, iterations)
        result[rows] = np.where(defined[:, None], found, 0)
    return result


def _cross_entropy(
    x: np.ndarray, label: np.ndarray, weights: np.ndarray, strength: float
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    n = len(x)
    weight = np.where(label > 0, weights[1], weights[0]) / np.float32(n)

    def objective(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        w = coefficients[:, :-1]
        score = x @ w.T.astype(np.float32) + coefficients[:, -1].astype(np.float32)
        # log(1 + e^s) − y s, without overflow; e^−|s| serves the loss and the probability.
        small = np.exp(-np.abs(score))
        residual = np.where(score >= 0, 1, small)
        residual /= 1 + small
        residual -= label
        residual *= weight
        loss = np.log1p(small, out=small)
        loss += np.maximum(score, 0)
        loss -= label * score
        loss *= weight
        gradient = np.empty_like(coefficients)
        gradient[:, :-1] = (residual.T @ x) + strength * w
        gradient[:, -1] = residual.sum(axis=0)
        value = float(loss.sum(dtype=np.float64))
        return value + strength / 2 * float((w**2).sum()), gradient

    return objective


def fit_softmax(tokens: Tokens, members: np.ndarray, iterations: int = ITERATIONS) -> np.ndarray:
    """Return coefficients as :func:`fit_logistic`, of one softmax over all terms, as published (``legacy``).

    Cross entropy between softmax(x W + b) and the token's terms, each with the same share. Tokens of genes in
    no term take no part; terms compete, although a gene may belong to many. No penalty.
    """
    label = members.astype(np.float32)[:, tokens.gene].T
    has = label.any(axis=1)
    x, label = tokens.x[has], label[has]
    target = label / label.sum(axis=1, keepdims=True)
    n = np.float32(max(len(x), 1))

    def objective(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        score = x @ coefficients[:, :-1].T.astype(np.float32) + coefficients[:, -1].astype(np.float32)
        score -= score.max(axis=1, keepdims=True)
        share = np.exp(score)
        total = share.sum(axis=1, keepdims=True)
        loss = np.log(total[:, 0]) - (target * score).sum(axis=1)
        residual = (share / total - target) / n
        gradient = np.empty_like(coefficients)
        gradient[:, :-1] = residual.T @ x
        gradient[:, -1] = residual.sum(axis=0)
        return float(loss.sum(dtype=np.float64) / n), gradient

    found = _minimise(objective, np.zeros((len(members), x.shape[1] + 1)), iterations)
    return np.where(target.any(axis=0)[:, None], found, 0)


def _minimise(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray, iterations: int
) -> np.ndarray:
    from scipy.optimize import minimize

    def flat(values: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(values.reshape(start.shape))
        return value, gradient.ravel()

    options = {"maxiter": iterations, "gtol": 1e-6, "ftol": 1e-9}
    return minimize(flat, start.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(start.shape)


def areas(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the AUROC of each column, score and label (n × terms); NaN without both classes."""
    from scipy.stats import rankdata

    positives = label.sum(axis=0, dtype=np.float64)
    negatives = len(label) - positives
    ranks = rankdata(score, axis=0)
    above = (ranks * label).sum(axis=0) - positives * (positives + 1) / 2
    both = (positives > 0) & (negatives > 0)
    return np.divide(above, positives * negatives, out=np.full(len(positives), np.nan), where=both)


def choose(
    tokens: Tokens,
    judged: tuple[np.ndarray, np.ndarray],
    members: np.ndarray,
    strengths: Sequence[float],
    groups: np.ndarray,
    iterations: int,
) -> np.ndarray:
    """Return mean AUROC (settings × groups) on other tokens.

    Settings are (strength, balanced), strengths falling so that each fit starts from the one before.

    Parameters
    ----------
    tokens
        To fit on.
    judged
        x (n × d), gene (n,): validation cells, genes that the fit has not seen.
    """
    x, gene = judged
    label = members[:, gene].T > 0
    score = []
    for balanced in (False, True):
        start = None
        for strength in sorted(strengths, reverse=True):
            start = fit_logistic(tokens, members, strength, balanced, start, iterations)
            weight, _ = tokens.back(start[:, :-1], start[:, -1])
            area = areas(x @ weight.T.astype(np.float32), label)
            score.append([_mean(area[groups == group]) for group in np.unique(groups)])
    return np.array(score)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else 0.5


def logistic(
    sample: list[tuple[np.ndarray, np.ndarray]],
    fold: np.ndarray,
    members: np.ndarray,
    strengths: Sequence[float],
    groups: np.ndarray,
    iterations: int = ITERATIONS,
) -> tuple[Fit, dict[int, dict[str, object]]]:
    """Return logistic probes, and the strength and class balance that validation chose.

    For the fit without fold f, fits without f and the next fold g are judged by their AUROC on validation
    tokens of g. The fit with all genes takes, of these choices, the one with the best mean over the folds.

    Parameters
    ----------
    sample
        Gene-balanced tokens, x and gene, of training and of validation cells.
    fold
        (genes,) fold of each gene.
    members, groups
        (terms × genes) stacked memberships, and which of them a term is of; each chooses for itself.
    """
    (x, gene), (x_validation, gene_validation) = sample
    n_folds, labels = int(fold.max()) + 1, np.unique(groups)
    settings = [(s, b) for b in (False, True) for s in sorted(strengths, reverse=True)]
    scores = []
    for f in range(n_folds):
        g = (f + 1) % n_folds
        seen = (fold[gene] != f) & (fold[gene] != g)
        judged = fold[gene_validation] == g
        tokens, others = Tokens(x[seen], gene[seen]), (x_validation[judged], gene_validation[judged])
        scores.append(choose(tokens, others, members, strengths, groups, iterations))
    best = np.array([[int(np.argmax(score[:, k])) for k in range(len(labels))] for score in scores])
    mean = np.mean(scores, axis=0)
    final = mean.argmax(axis=0)

    def fit(seen: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens = Tokens(x[seen], gene[seen])
        weight, bias = np.zeros((len(members), x.shape[1])), np.zeros(len(members))
        for k, label in enumerate(labels):
            rows = groups == label
            found = fit_logistic(tokens, members[rows], *settings[chosen[k]], iterations=iterations)
            weight[rows], bias[rows] = tokens.back(found[:, :-1], found[:, -1])
        return weight, bias

    weight, bias = fit(np.ones(len(gene), bool), final)
    folds = [fit(fold[gene] != f, best[f]) for f in range(n_folds)]
    said = {
        int(label): {
            "final": {"strength": settings[final[k]][0], "balanced": settings[final[k]][1]},
            "folds": [{"strength": settings[b[k]][0], "balanced": settings[b[k]][1]} for b in best],
            "settings": [{"strength": s, "balanced": b} for s, b in settings],
            "validation": mean[:, k].tolist(),
        }
        for k, label in enumerate(labels)
    }
    return _fit(weight, bias, folds), said


def softmax(
    sample: list[tuple[np.ndarray, np.ndarray]],
    fold: np.ndarray,
    members: np.ndarray,
    groups: np.ndarray,
    iterations: int = ITERATIONS,
) -> Fit:
    """Return the published form on the gene-balanced training tokens, each membership by itself."""
    x, gene = sample[0]

    def fit(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens = Tokens(x[seen], gene[seen])
        weight, bias = np.zeros((len(members), x.shape[1])), np.zeros(len(members))
        for label in np.unique(groups):
            rows = groups == label
            found = fit_softmax(tokens, members[rows], iterations)
            weight[rows], bias[rows] = tokens.back(found[:, :-1], found[:, -1])
        return weight, bias

    weight, bias = fit(np.ones(len(gene), bool))
    return _fit(weight, bias, [fit(fold[gene] != f) for f in range(int(fold.max()) + 1)])


def _fit(weight: np.ndarray, bias: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]) -> Fit:
    return Fit(
        weight.astype(np.float32),
        bias.astype(np.float32),
        np.stack([w for w, _ in folds]).astype(np.float32),
        np.stack([b for _, b in folds]).astype(np.float32),
    )
