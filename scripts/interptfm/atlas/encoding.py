"""Text of the atlas's data files: a script that hands one packed value to the page.

``fetch`` does not work on ``file://``, a ``<script>`` does. What it hands over is base64 of zlib, so that no
name of a gene, cell or term can end a string or a script, and the files stay small.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

LEVELS = 15
DIGITS = 4


def number(value: Any, digits: int = DIGITS) -> float | int | None:
    """Return a number with ``digits`` significant digits; None for what is missing or not finite."""
    if value is None:
        return None
    try:
        value = float(value)
    except TypeError:  # pandas.NA
        return None
    if not math.isfinite(value):
        return None
    value = float(f"{value:.{digits}g}")
    return int(value) if value == int(value) and abs(value) < 1e15 else value


def numbers(values: Iterable[Any], digits: int = DIGITS) -> list[float | int | None]:
    """Return :func:`number` of each value."""
    return [number(value, digits) for value in values]


def text(value: Any) -> str:
    """Return compact JSON; NaN is refused."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def embedded(value: Any) -> str:
    """Return JSON that can stand inside ``<script type="application/json">`` whatever it holds."""
    plain = text(value)
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def packed(data: bytes, runs: bool = False) -> str:
    """Return base64 of zlib of bytes, which a browser's ``DecompressionStream("deflate")`` reads.

    With ``runs`` only runs of equal bytes are looked for: maps, whose levels are noise to zlib's search for
    repeated strings, get a tenth smaller and are packed several times faster.
    """
    strategy = zlib.Z_RLE if runs else zlib.Z_DEFAULT_STRATEGY
    packer = zlib.compressobj(level=6, strategy=strategy)
    return base64.b64encode(packer.compress(data) + packer.flush()).decode()


def script(key: str, data: bytes, runs: bool = False) -> str:
    """Return the text of a data file: a call that hands ``data`` over under its key."""
    return f'atlasData({text(key)},"{packed(data, runs)}");\n'


def levels(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Quantise activities to 0 (none) … ``LEVELS``, on a square-root scale.

    Parameters
    ----------
    values
        (spots × features), at least 0.
    scale
        (features,) the value of the highest level; 0 where a feature has no activity.

    Returns
    -------
    uint8 (spots × features): level l > 0 stands for values of at most (l / ``LEVELS``)² scale and more than
    ((l − 1) / ``LEVELS``)² scale.
    """
    share = np.divide(values, scale, out=np.zeros(values.shape, np.float64), where=scale > 0)
    # A value that equals a bound must not jump a level because of the rounding of the root.
    return np.ceil(np.sqrt(np.clip(share, 0, 1)) * LEVELS - 1e-6).astype(np.uint8)
