"""Sections for tests of crosstalk: simulated worlds with activities from member genes or from the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from interptfm.crosstalk.reading import Section
from interptfm.simulate import read_design, simulate

DEMO = Path(__file__).resolve().parent.parent / "resources/demo_ontology"
PIXEL_UM = 0.18
SETTINGS = {
    "compartments": "geometric",
    "graph": {"kind": "radius", "radius_um": 50, "k": 12, "mode": "union", "weights": "gaussian",
    "length_um": 20,
              "path": None},
    "nulls": {"match_um": 50, "shortest_um": 50, "permutations": {"channels": 200, "pairs": 100},
             "others": ["profiles", "uncentred", "labels"]},
    "min_edges": 50, "max_concepts": 60, "max_r": 0.5, "claims": 200, "edge_pairs": 2, "contact_um": 25,
    "tau": 2,
    "decay_um": 120, "bootstrap": 50, "max_q": 0.05, "legacy": False,
}  # fmt: skip


def design():
    names = ("demo.obo", "demo.gaf", "programs.tsv", "panel.tsv", "pairs.tsv")
    return read_design(*(DEMO / name for name in names))


def world(seed, cells=1200, communication=False, samples=("s1",), fovs=2, planted=None):
    """Return sample → Section of a simulated world, and the simulation."""
    planted = planted or design()
    settings = {"cells": cells, "fovs_per_section": fovs, "communication": communication}
    made = simulate(settings, list(samples), seed, planted)
    return {sample: section(made, sample, planted) for sample in samples}, made


def section(made, sample, planted, truth=False):
    """Return one section: member-gene activities of planted and decoy terms, or the planted activities."""
    raw = made.sections[sample]
    rows = made.truth[made.truth["sample"] == sample]
    depth = raw.counts.sum(axis=1)
    logged = np.log1p(raw.counts / np.maximum(depth, 1)[:, None] * np.median(depth))
    place = {gene: i for i, gene in enumerate(planted.genes)}
    terms = {p.term_id: p.genes for p in planted.programs} | ({} if truth else dict(planted.decoys))
    if truth:
        values = rows[[f"activity:{term}" for term in terms]].to_numpy()
    else:
        values = np.column_stack(
            [logged[:, [place[g] for g in genes]].mean(axis=1) for genes in terms.values()]
        )
    border = rows["border_um"].to_numpy()
    compartment = np.where(border < 0, 0, np.where(border < 30, 1, 2))
    channel = [("immune communication", "metabolic", "unclassified")[i % 3] for i in range(len(terms))]
    concepts = pd.DataFrame({"term_id": list(terms), "name": list(terms), "channel": channel, "ic": 5.0})
    fov = rows["fov"].astype(str).to_numpy()
    xy = raw.cells[["CenterX_global_px", "CenterY_global_px"]].to_numpy(float) * PIXEL_UM
    tile = np.floor((xy - xy.min(axis=0)) / 130).astype(int)
    obs = pd.DataFrame(
        {"sample": sample, "fov": fov, "cell_type": rows["cell_type"].astype(str).to_numpy(),
        "n_counts": depth,
         "block": [f"{f}:{x}_{y}" for f, (x, y) in zip(fov, tile)]},
        index=[f"{sample}:{f}_{c}" for f, c in zip(fov, rows["cell_ID"])],
    )  # fmt: skip
    values = values.astype(np.float32)
    return Section(values, values.copy(), concepts, obs, xy, compartment)
