"""Run by the Python of a rule family: what its packages find in a world of two groups that talk.

python comparator_oracle.py SYSTEM OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]


def liana():
    """The strongest row of each method in the world of tests/test_comparators.py, and sizes of a resource."""
    from test_comparators import INTERACTIONS, SETTINGS, talking

    from interptfm.comparators import communication, liana_plus

    table, _ = communication.by_level(
        talking(), 10, lambda cells, column: liana_plus.run(cells, column, INTERACTIONS, SETTINGS, 1)
    )
    resource = liana_plus.resource("consensus")
    # Shuffled labels test a mean of means, so that one side alone can be significant: the strongest counts.
    strength = table["score"].where(table["method"] != "rank_aggregate", -table["score"])
    best = table.assign(strength=strength).sort_values("strength", ascending=False).groupby("method").head(1)
    names = ["method", "source", "target", "ligand", "receptor"]
    return {
        "best": sorted(map(list, best[names].to_numpy())),
        "least": float(table.loc[table["method"] != "rank_aggregate", "p"].min()),
        "resource": len(resource),
        "columns": list(table.columns),
    }


def two_types(n=120, seed=0):
    """Counts of two types of cells over 40 genes, ten marking each; 0 and 1 by turns."""
    import numpy as np

    rng = np.random.default_rng(seed)
    types = np.arange(n) % 2
    rate = np.full((n, 40), 1.0)
    rate[types == 0, :10] *= 8
    rate[types == 1, 10:20] *= 8
    return rng.poisson(rate), types


def as_cells(counts, n_train):
    """Cells of one sample, the first ``n_train`` of training blocks, the others of test blocks."""
    import numpy as np
    import pandas as pd
    from scipy import sparse

    from interptfm.tis.units import Cells

    n = len(counts)
    obs = pd.DataFrame(
        {"sample": "s", "split": np.where(np.arange(n) < n_train, "train", "test")},
        index=[f"s:1_{i}" for i in range(n)],
    )
    genes = [f"g{i}" for i in range(counts.shape[1])]
    return Cells(sparse.csr_matrix(counts), genes, obs, np.zeros((n, 2)))


def told(values, types, n_train):
    """Share of the test cells whose type the nearest training cells tell; its mean with shuffled labels."""
    import numpy as np
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    labels, rng = np.where(types == 0, "a", "b"), np.random.default_rng(0)
    scaled = StandardScaler().fit(values[:n_train]).transform(values)

    def share(names):
        nearest = KNeighborsClassifier(15).fit(scaled[:n_train], names)
        return float(nearest.score(scaled[n_train:], labels[n_train:]))

    shuffled = [share(rng.permutation(labels[:n_train])) for _ in range(50)]
    return share(labels[:n_train]), float(np.mean(shuffled))


def scvi():
    """How far the latent sets two types apart, on cells that were not trained on; twice with one seed."""
    from interptfm.comparators import scvi_latent

    counts, types = two_types()
    cells = as_cells(counts, 80)
    settings = {
        "n_latent": 4, "n_hidden": 16, "n_layers": 1, "likelihood": "nb", "epochs": 40, "batch_cells": 20,
        "learning_rate": 0.01,
    }  # fmt: skip
    latent, summary = scvi_latent.fit(cells, settings, 1, 1)
    again, _ = scvi_latent.fit(cells, settings, 1, 1)
    values = latent.obsm[scvi_latent.KEY]
    return {
        "shape": list(values.shape), "accuracy": told(values, types, 80)[0],
        "same": bool((values == again.obsm[scvi_latent.KEY]).all()), "trained": summary["n_trained_on"],
        "elbo": summary["elbo_test"],
    }  # fmt: skip


def multimodal(system, second, types, learning_rate, n_train=200):
    """How a second modality sets two types apart whose RNA is the same, every tenth cell without it.

    Twice with one seed and a last batch of one cell; and what one modality tells of the other.
    """
    import time

    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from sklearn.decomposition import PCA

    from interptfm import store
    from interptfm.comparators import multimodal
    from interptfm.tis.judges import log_normalise

    n = len(types)
    cells = as_cells(np.random.default_rng(5).poisson(2.0, (n, 60)), n_train)
    has = np.arange(n) % 10 != 9
    path = Path(sys.argv[2]).with_suffix(".h5ad")
    names = [f"c{i}" for i in range(second.shape[1])]
    obs = pd.DataFrame(index=cells.obs.index[has])
    store.write_h5ad(path, AnnData(second[has].astype(np.float32), obs=obs, var=pd.DataFrame(index=names)))
    modality = multimodal.read(system, str(path), path.name, cells)
    settings = {"n_latent": 5, "epochs": 60, "batch_cells": 20, "learning_rate": learning_rate}
    began = time.process_time()
    latent, summary = multimodal.fit(system, cells, modality, settings, 1, 1)
    spent = time.process_time() - began
    lone = {**settings, "epochs": 2, "batch_cells": summary["n_trained_on"] - 1}
    again, _ = multimodal.fit(system, cells, modality, lone, 1, 1)
    same, _ = multimodal.fit(system, cells, modality, lone, 1, 1)
    # Types that differ in RNA, too: now the one modality tells of the other.
    coupled = as_cells(two_types(n, 7)[0], n_train)
    _, tied = multimodal.fit(system, coupled, modality, {**settings, "epochs": 30}, 1, 1)
    key = multimodal.key(system)
    values = pd.DataFrame(latent.obsm[key], index=latent.obs_names)
    kept = values.loc[cells.obs.index[has]].to_numpy()
    train = int(has[:n_train].sum())
    accuracy, shuffled = told(kept, types[has], train)
    logged = np.asarray(log_normalise(cells.counts[has]).todense())
    rna = PCA(5, random_state=1).fit(logged[:train]).transform(logged)
    return {
        **summary, "shape": list(values.shape), "accuracy": accuracy, "shuffled": shuffled,
        "rna": told(rna, types[has], train)[0], "seconds": spent,
        "same": bool((again.obsm[key] == same.obsm[key]).all()),
        "gain": summary["elbo_test"] - summary["elbo_mismatched"],
        "gain_tied": tied["elbo_test"] - tied["elbo_mismatched"],
        "without": int((~has & np.isin(cells.obs.index, latent.obs_names)).sum()),
    }  # fmt: skip


def totalvi():
    """Two types that differ fivefold in 2 of 6 proteins, and in no gene."""
    import numpy as np

    types = np.arange(300) % 2
    rate = np.full((300, 6), 10.0)
    rate[types == 0, 0] *= 5
    rate[types == 1, 1] *= 5
    return multimodal("totalvi", np.random.default_rng(6).poisson(rate), types, 0.004)


def multivi():
    """Two types that differ in 200 of 300 peaks, open in 6 of 10 cells or in 1, and in no gene."""
    import numpy as np

    types = np.arange(300) % 2
    chance = np.full((300, 300), 0.1)
    chance[types == 0, :100] = 0.6
    chance[types == 1, 100:200] = 0.6
    return multimodal("multivi", np.random.default_rng(6).random((300, 300)) < chance, types, 0.01)


def tangram():
    """Where the two groups of a reference are mapped, and how held-out genes are predicted."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    from interptfm.comparators import tangram_map

    def cells(seed):
        counts, types = two_types(60, seed)
        obs = pd.DataFrame({"kind": np.where(types == 0, "a", "b")}, index=[f"{seed}:{i}" for i in range(60)])
        var = pd.DataFrame(index=[f"Gene{i}" for i in range(40)])
        return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)

    reference, tissue = tangram_map.check_reference("reference", cells(1), "kind"), cells(2)
    settings = {"epochs": 100, "held_out": 0.25}
    found, genes = tangram_map.run(reference, "kind", tissue, settings, 1)
    table = tangram_map.shares(
        np.asarray(found.X), found.obs["kind"].astype(str).tolist(), {"a": 30, "b": 30},
        {"cell types": tissue.obs["kind"].to_numpy(str)}, np.repeat(np.arange(6), 10), 20,
        np.random.default_rng(0),
    )  # fmt: skip
    own = table[table["cluster"] == table["group"]]
    return {
        "shape": list(found.shape), "least": float(own["share"].min()),
        "held_out": int(genes["held_out"].sum()), "genes": len(genes), "columns": list(table.columns),
    }  # fmt: skip


def mofa_world(shared, n=1200, seed=0):
    """Two views of 20 columns of three unit factors and unit noise: of the same factors, or each of its own.

    Two sections that differ in their means, a third of each in test blocks. Also what view 2's r² from view 1
    is at best: of the true weights, with the true noise.
    """
    import numpy as np
    import pandas as pd
    from scipy import sparse

    from interptfm.comparators.mofa_views import CONCEPTS, STAINS, View
    from interptfm.tis.units import Cells

    rng = np.random.default_rng(seed)
    section = np.arange(n) % 2
    factors = rng.normal(size=(2, n, 3))
    factors[1] = factors[0] if shared else factors[1]
    weights = rng.normal(size=(2, 20, 3))
    values = [z @ w.T + rng.normal(size=(n, 20)) for z, w in zip(factors, weights, strict=True)]
    test = np.arange(n) // 10 % 3 == 2
    inferred = values[0] @ weights[0] @ np.linalg.inv(np.eye(3) + weights[0].T @ weights[0])
    scale = values[1].std(axis=0)
    left = ((values[1] - inferred @ weights[1].T) / scale)[test]
    best = 1 - (left**2).sum() / ((values[1] / scale)[test] ** 2).sum()
    obs = pd.DataFrame(
        {
            "sample": np.where(section == 0, "s", "t"), "cell_type": "a", "block": np.arange(n) // 10,
            "split": np.where(test, "test", "train"),
        },
        index=[f"s:1_{i}" for i in range(n)],
    )  # fmt: skip
    columns = [
        pd.DataFrame({"name": [f"{v}{i}" for i in range(20)], "term_id": "", "channel": ""}) for v in "ab"
    ]
    views = [
        View(name, each + 5 * section[:, None], table)
        for name, each, table in zip((CONCEPTS, STAINS), values, columns, strict=True)
    ]
    cells = Cells(sparse.csr_matrix((n, 1)), ["g"], obs, np.zeros((n, 2)))
    return cells, views, factors, float(best)


def mofa():
    """Planted factors of two views found on held-out cells, what one view tells of the other, and noise."""
    import numpy as np

    from interptfm.comparators import mofa as fitting
    from interptfm.comparators import mofa_tables, mofa_views

    settings = {
        "factors": 6, "iterations": 300, "convergence": "medium", "permutations": 199, "bootstrap": 50,
    }  # fmt: skip
    answer = {}
    for world, shared in (("shared", True), ("apart", False)):
        cells, views, truth, best = mofa_world(shared)
        sections, train, names = fitting.split(cells, np.ones(len(cells.obs), bool))
        views, notes = mofa_views.usable(views, train, sections)
        model, ended = fitting.fit(views, train, sections, settings, 1)
        again, _ = fitting.fit(views, train, sections, settings, 1)
        found = fitting.project(model, views, sections)
        test = np.flatnonzero(cells.split == "test")
        # Factors of equal size are found but for a rotation: how well the truth lies in their span.
        held = np.column_stack([found[test], np.ones(len(test))])
        planted = truth[0] if shared else np.hstack(list(truth))
        fitted = held @ np.linalg.lstsq(held, planted[test], rcond=None)[0]
        left = ((planted[test] - fitted) ** 2).sum(axis=0) / (planted[test] ** 2).sum(axis=0)
        kept = np.flatnonzero(model.factors.std(axis=0) > 1e-3)
        agreement = [np.corrcoef(found[train, k], model.factors[:, k])[0, 1] for k in kept]
        table = mofa_tables.predictions(
            views, model.weights, lambda seen, m=model, v=views, s=sections: fitting.project(m, v, s, [seen]),
            cells, train, test, settings, np.random.default_rng(0),
        )  # fmt: skip
        told = table[table["shuffled"] == "section"].set_index(["from", "to"])
        answer[world] = {
            "groups": names, "notes": notes, "converged": ended["converged"],
            "same": all((a == b).all() for a, b in zip(model.weights, again.weights, strict=True)),
            "factors": len(kept), "left": float(left.max()), "best": best,
            "r": float(min(agreement)),
            **{
                name: [float(told.loc[way, name]) for way in (("concepts", "stains"), ("stains", "concepts"))]
                for name in ("r2", "null_hi", "p")
            },
        }  # fmt: skip
    return answer


if __name__ == "__main__":
    systems = {
        "liana": liana,
        "mofa": mofa,
        "scvi": scvi,
        "totalvi": totalvi,
        "multivi": multivi,
        "tangram": tangram,
    }
    Path(sys.argv[2]).write_text(json.dumps(systems[sys.argv[1]]()))
