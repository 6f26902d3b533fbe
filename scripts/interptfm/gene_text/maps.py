"""Maps of held-out cells by UMAP, before and after refinement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from interptfm import job
from interptfm.gene_text.classification import AFTER, BEFORE, Components, Fixed, Task, refined
from interptfm.tis.units import Cells


def plane(
    representation: Fixed | Components, task: Task, cells: Cells, settings: Mapping[str, Any]
) -> pd.DataFrame:
    """Return UMAP coordinates of the first fold's held-out cells: cell, cell_type, variant, x, y.

    Held-out cells alone, since refinement has seen the types of the others. Source: McInnes et al. 2018,
    arXiv 1802.03426; cosine, initialised by the two leading components.
    """
    import warnings

    import umap

    fold = task.folds[0]
    x = representation.prepared(fold.train)
    frames = []
    for name, values in ((BEFORE, x), (AFTER, refined(x, fold, task.types, task, "fold", 0))):
        mapper = umap.UMAP(
            n_neighbors=min(settings["neighbours"], len(fold.held_out) - 1),
            min_dist=settings["min_distance"],
            metric="cosine",
            init="pca",
            random_state=job.seed(task.seed, "gene_text", "umap") % 2**31,
        )
        with warnings.catch_warnings():
            # It says that a seed costs its parallelism, which is what a seed is for.
            warnings.filterwarnings("ignore", message="n_jobs value")
            places = mapper.fit_transform(values[fold.held_out])
        frames.append(
            pd.DataFrame(
                {
                    "cell": cells.obs.index[fold.held_out],
                    "cell_type": np.asarray(task.names, object)[task.types[fold.held_out]],
                    "variant": name,
                    "x": places[:, 0].astype(np.float32),
                    "y": places[:, 1].astype(np.float32),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
