"""An atlas of made-up features, small for tests and of any size for benchmarks, with hostile names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from interptfm import features
from interptfm.atlas import Section, Site, Space
from interptfm.atlas.space import PAIR_COLUMNS, TIS_COLUMNS
from interptfm.features.cells import write_cells

EVIL = "</script><script>alert('x')</script> & \"quoted\" \\ $a"
LONG = "regulation of " * 60 + "everything"
TYPES = ("T cell", EVIL, "tumour")
SETTINGS = {"spots": 4000, "bootstrap": 20}


def genes(n: int) -> list[str]:
    return ["<b>GENE&1</b>", *(f"GENE{i}" for i in range(1, n))]


def terms(n: int) -> pd.DataFrame:
    names = [EVIL, LONG, *(f"response to stimulus {i}" for i in range(2, n))]
    return pd.DataFrame(
        {"term_id": [f"GO:{i:07d}" for i in range(n)], "name": names, "n_genes": range(5, 5 + n)}
    )


def section(name: str, n: int, generator: np.random.Generator) -> Section:
    xy = generator.uniform(0, 500, (n, 2)).astype(np.float32)
    return Section(
        name, xy, np.arange(n, dtype=np.int32), 0.0, np.array([f"{name}:{int(x // 100)}" for x in xy[:, 0]]),
        {"cell type": generator.choice(TYPES, n), "geometric region": np.where(xy[:, 1] > 250, "tumour", "")},
    )  # fmt: skip


def aggregates(sections, n_features: int, generator: np.random.Generator, density: float = 0.2):
    """Return what features do in the cells; feature 0 does nothing."""
    parts = [sparse.random(s.n_cells, n_features, density, "csr", np.float32, generator) for s in sections]
    mean = sparse.csr_matrix(sparse.vstack(parts))
    mean.data[mean.indices == 0] = 0
    mean.eliminate_zeros()
    sample = np.repeat([s.name for s in sections], [s.n_cells for s in sections])
    cell = np.concatenate([np.arange(s.n_cells) for s in sections]).astype(np.int32)
    return features.Cells(mean, mean, mean, sample, cell)


def space(layer: int, n_features: int, panel: list[str], n_terms: int, sections, generator) -> Space:
    n = n_features
    feature = np.repeat(np.arange(1, n), 2)
    pairs = pd.DataFrame(
        {"feature": feature, "term_id": [f"GO:{i:07d}" for i in generator.integers(0, n_terms, len(feature))]}
    )
    for name in PAIR_COLUMNS:
        pairs[name] = generator.uniform(size=len(pairs))
    pairs["p_min"] = 0.01
    pairs["interpretable"] = generator.uniform(size=len(pairs)) < 0.2
    pairs = pairs.drop_duplicates(["feature", "term_id"])
    pairs = pairs.sort_values(["feature", "interpretable"], ascending=[True, False], ignore_index=True)
    owner = np.repeat(np.arange(1, n), 5)
    tokens = pd.DataFrame(
        {
            "feature": owner, "rank": np.tile(np.arange(1, 6), n - 1),
            "sample": generator.choice([s.name for s in sections], len(owner)),
            "cell": [f'"cell" <{i}>' for i in range(len(owner))],
            "gene": generator.choice(panel, len(owner)),
            "value": generator.integers(1, 50, len(owner)).astype(np.float32),
            "activation": generator.uniform(1, 5, len(owner)).astype(np.float32),
        }
    )  # fmt: skip
    maximum = np.where(np.arange(n) > 0, generator.uniform(1, 5, n), 0).astype(np.float32)
    histogram = generator.integers(0, 1000, (n, features.HISTOGRAM_BINS)) * (maximum[:, None] > 0)
    mean = generator.uniform(size=(len(panel), n)).astype(np.float32) * (maximum > 0)
    decoder = generator.standard_normal((n, 16)).astype(np.float32)
    tis = pd.DataFrame({name: generator.uniform(size=n) for name in TIS_COLUMNS}).assign(reason="")
    clamped = pd.DataFrame({"feature": [1], "target": [EVIL], "dose": [1.0], "cosine_control": [0.5]})
    return Space(
        "batch <topk>", layer, pairs, tokens, maximum, histogram.astype(np.int64), 1_000_000, panel, mean,
        mean / np.maximum(mean.sum(axis=0), 1e-9), decoder / np.linalg.norm(decoder, axis=1, keepdims=True),
        tis if layer else None, clamped,
    )  # fmt: skip


def write(
    folder: Path, n_features: int = 130, layers=(0, 1), cells=(120, 90), n_genes: int = 30, n_terms: int = 20
) -> list[Space]:
    """Write an atlas into ``folder / "atlas"`` and return its spaces."""
    generator = np.random.default_rng(7)
    (folder / "atlas").mkdir(parents=True)
    sections = [section(f"section '{i}' <i>", n, generator) for i, n in enumerate(cells)]
    site = Site(folder / "atlas", sections, terms(n_terms), SETTINGS, 1)
    spaces = []
    for layer in layers:
        spaces.append(space(layer, n_features, genes(n_genes), n_terms, sections, generator))
        path = folder / f"cells_{layer}.zarr.zip"
        write_cells(path, aggregates(sections, n_features, generator), {})
        site.add(spaces[-1], path)
    site.finish(f"run {EVIL}")
    return spaces
