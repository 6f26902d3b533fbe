"""Quality of a dictionary on tokens that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from interptfm.sae.inference import Dictionary

DENSE_RATE = 0.1
L0_QUANTILES = (0.05, 0.5, 0.95)
# Edges of the histogram of firing rates, a quarter of a decade wide; features that never fire are `dead`.
RATE_EDGES = tuple(float(f"{10 ** (power / 4):.3g}") for power in range(-24, 1))


def quality(dictionary: Dictionary, blocks: Iterable[np.ndarray]) -> dict[str, Any]:
    """Return the reconstruction and sparsity of ``dictionary`` over blocks of activations.

    Parameters
    ----------
    dictionary
        The trained dictionary.
    blocks
        float32 (n × d) arrays that together are the held-out tokens.

    Returns
    -------
    dict
        ``tokens``; ``fvu``: Σ‖x − x̂‖² / Σ‖x − mean‖², the mean taken over all these tokens;
        ``cosine``: mean cosine of x and x̂; ``l0``: mean features a token, ``l0_quantiles`` at 5, 50
        and 95 %; ``dead``: share of features that never fire on these tokens; ``dense``: share that
        fire on more than 10 % of them; ``firing_rates``: number of features whose share of tokens lies
        between neighbouring :data:`RATE_EDGES` (the last bin includes 1, the first what is rarer). Every
        number is ``None`` where there is no token, and ``fvu``
        also where the tokens are all alike.
    """
    n, error, cosine = 0, 0.0, 0.0
    total = np.zeros(dictionary.d)
    squares = 0.0
    fired = np.zeros(dictionary.n_features, np.int64)
    l0_counts = np.zeros(dictionary.n_features + 1, np.int64)
    for block in blocks:
        code = dictionary.encode_sparse(block)
        reconstruction = dictionary.decode(code).cpu().numpy()
        n += len(block)
        error += float(np.square(block - reconstruction, dtype=np.float64).sum())
        norms = np.linalg.norm(block, axis=1) * np.linalg.norm(reconstruction, axis=1)
        products = np.einsum("nd,nd->n", block, reconstruction)
        cosine += float((products / np.maximum(norms, 1e-12)).sum(dtype=np.float64))
        total += block.sum(0, dtype=np.float64)
        squares += float(np.square(block, dtype=np.float64).sum())
        fired += np.bincount(code.indices, minlength=dictionary.n_features)
        l0_counts += np.bincount(np.diff(code.indptr), minlength=dictionary.n_features + 1)
    if n == 0:
        keys = ("fvu", "cosine", "l0", "l0_quantiles", "dead", "dense", "firing_rates")
        return {"tokens": 0, **dict.fromkeys(keys)}
    variance = squares - float(total @ total) / n
    cumulative = np.cumsum(l0_counts) / n
    return {
        "tokens": n,
        "fvu": error / variance if variance > 1e-9 * squares else None,
        "cosine": cosine / n,
        "l0": float(fired.sum() / n),
        "l0_quantiles": [int(np.searchsorted(cumulative, q)) for q in L0_QUANTILES],
        "dead": float((fired == 0).mean()),
        "dense": float((fired > DENSE_RATE * n).mean()),
        "firing_rates": np.histogram(np.clip(fired[fired > 0] / n, RATE_EDGES[0], 1), RATE_EDGES)[0].tolist(),
    }
