"""What features mean in the ontology's own terms: similarity, slim terms, enrichment, entropy, predictors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interptfm.reading.features import (
    agreement,
    best_terms,
    enrichment,
    entropies,
    predictors,
    top_genes,
)
from interptfm.reading.similarity import Ontology, entropy, reduce_terms, slim_of, top_level

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from interptfm.features import Cells, Firing

__all__ = [
    "Ontology",
    "Reading",
    "agreement",
    "best_terms",
    "enrichment",
    "entropies",
    "entropy",
    "predictors",
    "read",
    "reduce_terms",
    "slim_of",
    "top_genes",
    "top_level",
]

NO_GRAPH = "not applicable: no graph"
MAX_PREDICTED = 20
MAX_CELLS = 20_000


@dataclass
class Reading:
    """The tables of one representation of one layer (columns: the functions that make them)."""

    terms: pd.DataFrame
    enrichment: pd.DataFrame
    entropy: pd.DataFrame
    predictors: pd.DataFrame
    path: pd.DataFrame
    fits: pd.DataFrame
    summary: dict[str, Any]


def read(
    firing: Firing,
    members: csr_matrix,
    terms: pd.DataFrame,
    dag: pd.DataFrame,
    evidence: pd.DataFrame,
    interpretable: pd.DataFrame,
    pairs: pd.DataFrame,
    cells: Cells,
    adatas: Sequence[AnnData],
    *,
    slim: Sequence[str] | None = None,
    lin: float = 0.7,
    n_top_genes: int = 20,
    n_predicted: int = MAX_PREDICTED,
    permutations: int = 200,
    generator: np.random.Generator,
) -> Reading:
    """Read the interpretable features of one alignment.

    Parameters
    ----------
    firing, interpretable, pairs, terms
        Of the alignment; ``members`` (terms × panel genes) CSR.
    dag, evidence
        ``concepts/``; with an empty ``dag`` what needs a graph says "not applicable: no graph".
    cells, adatas
        Cell aggregates of the features, and the cells themselves.
    slim
        Ids of slim terms; None: the children of the roots.
    lin
        Terms of a feature this similar (Lin) count as one.
    n_top_genes
        Genes of largest mean activation on training tokens that are tested for enrichment.
    n_predicted
        Features, the best by F1, that expression is regressed on.
    """
    ontology = Ontology(dag, evidence)
    names = dict(zip(terms["term_id"].astype(str), terms["name"].astype(str), strict=True))
    found = interpretable.sort_values(["f1", "feature"], ascending=[False, True])
    features = list(dict.fromkeys(found["feature"].astype(int)))
    tokens = np.maximum(firing.tokens[0], 1)[:, None]
    means = firing.sums[0][:, features] / tokens
    by_feature, by_term = entropies(pairs.dropna(subset="f1"))
    parts = [by_feature.rename(columns={"feature": "id"}).assign(of="feature over concepts")]
    parts.append(by_term.rename(columns={"term_id": "id"}).assign(of="concept over features"))
    table = pd.concat([part.assign(id=part["id"].astype(str)) for part in parts], ignore_index=True)
    summary: dict[str, Any] = {"n_features": len(features), "graph": "no" if ontology.empty else "yes"}
    mine = by_feature[by_feature["feature"].isin(features)]
    for key, frame in (("features", mine), ("concepts", by_term)):
        summary[f"median_entropy_of_{key}"] = float(frame["entropy"].median()) if len(frame) else None
    if ontology.empty:
        kept = best_terms(found.iloc[:0], ontology, names, [], lin)
        summary |= {"terms": NO_GRAPH, "agreement": {"status": NO_GRAPH}}
    else:
        chosen = top_level(ontology) if slim is None else list(slim)
        kept = best_terms(found, ontology, names, chosen, lin)
        first = kept[kept["rank"] == 1].set_index("feature")["slim"].reindex(features)
        rolled = (first.fillna("") != "").to_numpy()
        labels = first[rolled].str.split(",").str[0].tolist()
        summary["terms"] = {"n_terms": len(found), "n_after_reduction": len(kept), "lin": lin}
        summary["agreement"] = agreement(means.T[rolled], labels, permutations, generator)
    enriched = enrichment(top_genes(means, n_top_genes), features, members, terms)
    summary["n_features_enriched"] = int(enriched.loc[enriched["q"] < 0.05, "feature"].nunique())
    chosen = features[:n_predicted]
    coefficients, path, fits = _regress(cells, adatas, firing.genes, chosen, generator)
    summary["median_r2_test"] = float(fits["r2_test"].median()) if len(fits) else None
    return Reading(kept, enriched, table, coefficients, path, fits, summary)


def _regress(
    cells: Cells,
    adatas: Sequence[AnnData],
    genes: list[str],
    features: list[int],
    generator: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Regress activity of cells on their expression; guard cells are left out, 20,000 drawn of more."""
    from scipy import sparse

    from interptfm.features.baselines import log_normalised, panel_counts

    by_name = {str(adata.obs["sample"].iloc[0]): adata for adata in adatas}
    parts = []
    for name, adata in by_name.items():
        row = np.flatnonzero(cells.sample == name)
        split = adata.obs["split"].astype(str).to_numpy()[cells.cell[row]]
        parts.append(pd.DataFrame({"name": name, "row": row, "cell": cells.cell[row], "split": split}))
    frame = pd.concat(parts, ignore_index=True)
    frame = frame[frame["split"] != "guard"]
    if len(frame) > MAX_CELLS:
        frame = frame.iloc[np.sort(generator.choice(len(frame), MAX_CELLS, replace=False))]
    counts, blocks = [], []
    for name, part in frame.groupby("name", sort=False):
        counts.append(panel_counts(by_name[name], genes)[part["cell"].to_numpy()])
        blocks.append(by_name[name].obs["block"].astype(str).to_numpy()[part["cell"].to_numpy()])
    expression = sparse.vstack(counts, format="csr")
    depth = float(np.median(np.asarray(expression.sum(axis=1))))
    matrix = log_normalised(expression, depth).toarray()
    activity = cells.mean[frame["row"].to_numpy()][:, features].toarray()
    test = (frame["split"] == "test").to_numpy()
    return predictors(matrix, activity, np.concatenate(blocks), test, genes, features)
