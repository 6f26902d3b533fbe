"""Enrichment of a feature's genes, entropies of pairs, groups of features against the graph, predictors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm import stats
from interptfm.reading.similarity import Ontology, entropy, reduce_terms, slim_of

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


PENALTIES = 30
COEFFICIENT_COLUMNS = ["feature", "rank", "gene", "coefficient", "enters_at"]
PATH_COLUMNS = ["feature", "penalty", "n_genes", "r2_cross_validated", "chosen"]
FIT_COLUMNS = ["feature", "n_genes", "penalty", "r2_cross_validated", "r2_test"]


def top_genes(means: np.ndarray, n: int) -> list[np.ndarray]:
    """Return, for each column of means (genes × features), its ``n`` largest positive genes, best first."""
    order = np.argsort(-means, axis=0, kind="stable")[:n]
    return [column[means[column, i] > 0] for i, column in enumerate(order.T)]


def enrichment(
    genes_of: Sequence[np.ndarray], features: Sequence[int], members: csr_matrix, terms: pd.DataFrame
) -> pd.DataFrame:
    """Test the overlap of each feature's top genes with each term, against the whole panel.

    Parameters
    ----------
    genes_of
        Panel indices of each feature's genes; ``features`` names them.
    members
        (terms × panel genes) CSR.

    Returns
    -------
    ``feature``, ``term_id``, ``name``, ``overlap``, ``n_top``, ``n_genes``, ``fold``, ``p`` (hypergeometric,
    upper tail), ``q`` (Benjamini–Hochberg over all features × terms, those without overlap included as 1).
    """
    from scipy.sparse import csr_matrix
    from scipy.stats import hypergeom

    n_panel, sizes = members.shape[1], np.diff(members.tocsr().indptr)
    indptr = np.cumsum([0, *(len(genes) for genes in genes_of)])
    place = np.concatenate([np.empty(0, int), *genes_of]).astype(int)
    chosen = csr_matrix((np.ones(len(place)), place, indptr), shape=(len(genes_of), n_panel))
    overlap = (chosen @ members.T).toarray().astype(int)
    n_top = np.diff(indptr)
    p = np.ones(overlap.shape)
    row, term = np.nonzero(overlap)
    p[row, term] = hypergeom.sf(overlap[row, term] - 1, n_panel, sizes[term], n_top[row])
    q = stats.benjamini_hochberg(p.ravel()).reshape(p.shape)
    frame = pd.DataFrame(
        {
            "feature": np.asarray(features, np.int64)[row],
            "term_id": terms["term_id"].astype(str).to_numpy(object)[term],
            "name": terms["name"].astype(str).to_numpy(object)[term],
            "overlap": overlap[row, term],
            "n_top": n_top[row],
            "n_genes": sizes[term],
            "fold": overlap[row, term] * n_panel / (n_top[row] * sizes[term]),
            "p": p[row, term],
            "q": q[row, term],
        }
    )
    return frame.sort_values(["feature", "p", "term_id"], ignore_index=True)


def entropies(pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the entropy (bits) of each feature over concepts and of each concept over features.

    Weights are the test F1 of the rows of ``pairs`` (``feature``, ``term_id``, ``f1``). 0: one partner; the
    ``perplexity`` 2^entropy is the effective number of partners.
    """
    found = pairs[pairs["f1"] > 0]
    frames = []
    for key in ("feature", "term_id"):
        bits = found.groupby(key)["f1"].agg(lambda values: entropy(values.to_numpy()))
        frame = bits.rename("entropy").reset_index()
        frames.append(
            frame.assign(perplexity=2 ** frame["entropy"], n_partners=found.groupby(key).size().values)
        )
    return frames[0], frames[1]


def best_terms(interpretable: pd.DataFrame, ontology: Ontology, names: Mapping[str, str], slim: Sequence[str],
               threshold: float = 0.7) -> pd.DataFrame:  # fmt: skip
    """Return each interpretable feature's terms, reduced by Lin similarity, with their slim terms.

    ``interpretable``: ``feature``, ``term_id``, ``f1``. One row a kept term: ``rank``, ``stands_for`` (ids of
    similar terms, comma-separated), ``slim`` (ids) and ``slim_name``.
    """
    rolled = slim_of(ontology, slim, interpretable["term_id"].astype(str).unique())
    rows = []
    ordered = interpretable.sort_values(["feature", "f1", "term_id"], ascending=[True, False, True])
    for feature, part in ordered.groupby("feature"):
        f1 = dict(zip(part["term_id"], part["f1"], strict=True))
        for rank, (term, others) in enumerate(reduce_terms(list(part["term_id"]), ontology, threshold), 1):
            slims = rolled[term]
            rows.append(
                {"feature": feature, "rank": rank, "term_id": term, "name": names.get(term, ""),
                 "f1": f1[term], "stands_for": ",".join(others), "slim": ",".join(slims),
                 "slim_name": ", ".join(names.get(one, one) for one in slims)}
            )  # fmt: skip
    columns = ["feature", "rank", "term_id", "name", "f1", "stands_for", "slim", "slim_name"]
    return pd.DataFrame(rows, columns=columns)


def agreement(
    profiles: np.ndarray, labels: Sequence[str], permutations: int, generator: np.random.Generator
) -> dict[str, Any]:
    """Compare groups of features by what they fire on with the slim parents of their best terms.

    Parameters
    ----------
    profiles
        (features × genes) mean activation.
    labels
        Slim parent of each feature's best term.

    Returns
    -------
    Adjusted Rand index (Hubert and Arabie 1985) and normalised mutual information of average-linkage
    clusters by cosine distance, as many as there are labels, with the p of permuted labels; "not
    applicable" with fewer than 2 labels or 4 features.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    labels = np.asarray(labels)
    groups = len(set(labels.tolist()))
    if groups < 2 or len(labels) < 4:
        return {"status": "not applicable: fewer than 2 parents or 4 features", "n": len(labels)}
    norm = np.linalg.norm(profiles, axis=1, keepdims=True)
    unit = profiles / np.where(norm > 0, norm, 1)
    cluster = fcluster(linkage(unit, "average", metric="euclidean"), groups, criterion="maxclust")
    result: dict[str, Any] = {"status": "computed", "n": len(labels), "n_parents": groups}
    for name, score in (("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)):
        draws = np.array([score(generator.permutation(labels), cluster) for _ in range(permutations)])
        observed = float(score(labels, cluster))
        result[name] = observed
        result[f"{name}_null_mean"] = float(draws.mean())
        result[f"{name}_p"] = float(stats.permutation_p(observed, draws))
    return result


def predictors(
    expression: np.ndarray,
    activity: np.ndarray,
    blocks: np.ndarray,
    test: np.ndarray,
    genes: Sequence[str],
    features: Sequence[int],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the genes whose expression in a cell predicts a feature's activity there.

    Lasso (Tibshirani 1996) along its path by coordinate descent, the penalty chosen by cross-validation over
    whole blocks of the cells that are not test cells; ``r2_test`` is that of the test cells.

    Parameters
    ----------
    expression
        (cells × genes) log-normalised; ``activity`` (cells × features).
    blocks, test
        (cells,) block labels, and which cells are the test cells.

    Returns
    -------
    coefficients
        ``feature``, ``rank``, ``gene``, ``coefficient`` per standard deviation at the chosen penalty, and
        ``enters_at``, the largest penalty of the path at which the gene is in.
    path
        ``feature``, ``penalty`` falling, ``n_genes``, ``r2_cross_validated``, ``chosen``.
    fits
        ``feature``, ``n_genes``, ``penalty``, ``r2_cross_validated``, ``r2_test``; NaN for activity that
        does not vary.
    """
    from sklearn.linear_model import LassoCV, lasso_path
    from sklearn.model_selection import GroupKFold

    train = ~test
    mean, deviation = expression[train].mean(axis=0), expression[train].std(axis=0)
    x = (expression - mean) / np.where(deviation > 0, deviation, 1)
    folds = list(GroupKFold(min(5, len(set(blocks[train])))).split(x[train], groups=blocks[train]))
    rows, paths, fits = [], [], []
    for i, feature in enumerate(features):
        y = activity[:, i]
        spread = y[train].std()
        fit = {"feature": int(feature), "n_genes": 0, "penalty": np.nan}
        fit |= {"r2_cross_validated": np.nan, "r2_test": np.nan}
        fits.append(fit)
        if spread == 0:
            continue
        scaled = (y - y[train].mean()) / spread
        model = LassoCV(cv=folds, alphas=PENALTIES, max_iter=2000, tol=1e-3).fit(x[train], scaled[train])
        _, along, _ = lasso_path(x[train], scaled[train], alphas=model.alphas_, max_iter=2000, tol=1e-3)
        is_in, r2 = along != 0, 1 - model.mse_path_.mean(axis=1)
        order = np.argsort(-np.abs(model.coef_), kind="stable")
        order = order[model.coef_[order] != 0]
        entry = model.alphas_[np.where(is_in.any(axis=1), is_in.argmax(axis=1), -1)]
        rows += [
            {"feature": int(feature), "rank": rank, "gene": genes[g], "coefficient": model.coef_[g],
             "enters_at": entry[g]}
            for rank, g in enumerate(order, 1)
        ]  # fmt: skip
        steps = zip(model.alphas_, is_in.sum(axis=0), r2, model.alphas_ == model.alpha_, strict=True)
        paths += [
            {"feature": int(feature), "penalty": a, "n_genes": int(n), "r2_cross_validated": r, "chosen": c}
            for a, n, r, c in steps
        ]
        fit |= {"n_genes": len(order), "penalty": float(model.alpha_), "r2_cross_validated": r2.max()}
        if test.any() and scaled[test].var() > 0:
            residual = scaled[test] - model.predict(x[test])
            fit["r2_test"] = 1 - (residual**2).mean() / scaled[test].var()
    columns = (COEFFICIENT_COLUMNS, PATH_COLUMNS, FIT_COLUMNS)
    return tuple(
        pd.DataFrame(part, columns=names) for part, names in zip((rows, paths, fits), columns, strict=True)
    )
