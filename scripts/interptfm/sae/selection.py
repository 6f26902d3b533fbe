"""Which pre-activations a TopK dictionary keeps: the largest of a batch, or of each token.

The product of all tokens with all features is needed only to find k of n features a token. Where the
processor multiplies bfloat16 natively (several times faster than float32), the product is taken in it,
every entry is known up to an error bound, and the entries that can be among the largest are computed again
in float32. The bound holds for any input, so that the selection is that of float32 (up to entries that
differ by float32's own rounding).
"""

from __future__ import annotations

import functools
import warnings

import numpy as np
import torch
from torch import Tensor

# Candidates for the batch's top entries are searched above this share of the last batch's smallest kept
# entry (less the error bound, where that has one): low enough to hold all of them, high enough to be few.
CANDIDATE_MARGIN, SCREEN_MARGIN = 0.9, 0.97
# More candidates than this many times the kept entries: the whole product in float32 is cheaper.
CANDIDATE_LIMIT = 8
# Largest relative error of rounding to bfloat16 (8 significant bits), and of one step in float32.
ROUNDING, ROUNDING_32 = 2.0**-8, 2.0**-24
# More than a value grows or shrinks when it is rounded (twice) to bfloat16.
UP = np.float32(1 + 3 * ROUNDING)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Return whether the processor has instructions for products of bfloat16 matrices."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


class Selection:
    """Selects entries of ``centred`` · weightᵀ + bias, with work space kept from batch to batch.

    Parameters
    ----------
    n_features
        Columns of the product.
    screened
        Whether to search in bfloat16 first; by default where it pays.
    """

    def __init__(self, n_features: int, screened: bool | None = None) -> None:
        self.n_features, self.screened = n_features, screened
        self._space: dict[torch.dtype, Tensor] = {}

    def product(self, centred: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return ``centred`` (tokens × d) · ``weight``ᵀ (features × d) + ``bias`` in their dtype, ungraphed.

        The result is overwritten by the next product of that dtype.
        """
        shape = (len(centred), self.n_features)
        out = self._space.get(centred.dtype)
        if out is None or out.shape != shape:
            out = self._space[centred.dtype] = torch.empty(shape, dtype=centred.dtype, device=centred.device)
        return torch.addmm(bias, centred, weight.T, out=out)

    def of_batch(
        self, centred: Tensor, weight: Tensor, bias: Tensor, count: int, guess: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return flat indices (ascending) and values of the ``count`` largest positive entries.

        ``guess`` is a value near the smallest of them. It saves time and never changes the result.
        Fewer entries are returned where fewer are positive (see :func:`largest_of_batch`).
        """
        if self._screens(centred):
            found = self._screened_batch(centred, weight, bias, count, guess)
            if found is not None:
                flat, values = found
                kept, values = _largest(values, count)
                return torch.from_numpy(flat[kept]), torch.from_numpy(values)
        return largest_of_batch(self.product(centred, weight, bias), count, CANDIDATE_MARGIN * guess)

    def of_tokens(self, centred: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return flat indices (ascending) and values of the ``k`` largest positive entries of each token."""
        if self._screens(centred):
            found = self._screened_tokens(centred, weight, bias, k)
            if found is not None:
                return _largest_of_groups(*found, k, self.n_features)
        return largest_of_tokens(self.product(centred, weight, bias), k)

    def _screens(self, centred: Tensor) -> bool:
        if self.screened is not None or centred.device.type != "cpu":
            return bool(self.screened)
        return multiplies_bfloat16()

    def _approximate(
        self, centred: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bits (tokens × features) of the product in bfloat16; by token and by feature the error's factors.

        Before its own rounding, the approximation is within by_token (tokens × 3) · by_feature
        (features × 3) of the product. As int16, the bits of positive values are ordered as the values
        are, and above those of all others.
        """
        near_x, near_w, near_bias = centred.bfloat16(), weight.bfloat16(), bias.bfloat16()
        bits = self.product(near_x, near_w, near_bias).view(torch.int16)
        # x w − x' w' = (x − x') w + x' (w − w'), and each product is at most that of the lengths.
        x, w = _length(near_x.float()), _length(weight)
        lost_x, lost_w = _length(centred - near_x.float()), _length(weight - near_w.float())
        sums = 4 * (centred.shape[1] + 1) * ROUNDING_32 * (x + lost_x)  # of float32, here and in the product
        by_token = torch.stack([lost_x + sums, x, torch.ones_like(x)], 1)
        by_feature = torch.stack([w, lost_w, (bias - near_bias.float()).abs() + bias.abs() * ROUNDING_32], 1)
        return bits.numpy(), by_token.numpy(), by_feature.numpy()

    def _screened_batch(
        self, centred: Tensor, weight: Tensor, bias: Tensor, count: int, guess: float
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Flat indices (ascending) and float32 values of entries that hold all of the largest ``count``.

        None where the bound does not narrow them down.
        """
        bits, by_token, by_feature = self._approximate(centred, weight, bias)
        widest = float(by_token.max(0) @ by_feature.max(0))
        floor = _bits_below(SCREEN_MARGIN * guess - 2 * widest)
        bits = bits.reshape(-1)
        while floor > 0:
            flat = np.flatnonzero(bits >= floor)
            if not count <= len(flat) <= CANDIDATE_LIMIT**2 * count:
                return None
            token, feature = _places(flat, len(centred), self.n_features)
            error = np.einsum("ij,ij->i", by_token[token], by_feature[feature])
            value = _values(bits[flat])
            smallest = float(np.partition(value / UP - error, -count)[-count])
            # What lies below the floor cannot reach the smallest of the largest, or it is to be seen, too.
            needed = _bits_below(smallest - widest)
            if floor <= needed:
                possible = value * UP + error >= smallest
                if np.count_nonzero(possible) > CANDIDATE_LIMIT * count:
                    return None
                flat = flat[possible]
                return flat, self._exact(flat, feature[possible], centred, weight, bias)
            floor = needed
        return None

    def _screened_tokens(
        self, centred: Tensor, weight: Tensor, bias: Tensor, k: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """As :meth:`_screened_batch`, for the ``k`` largest of each token."""
        bits, by_token, by_feature = self._approximate(centred, weight, bias)
        error = by_token @ by_feature.max(0)
        if not np.isfinite(error).all():
            return None
        kth = np.partition(bits, self.n_features - k, axis=1)[:, self.n_features - k]
        at_least = np.where(kth > 0, _values(kth), 0) / UP - error
        floor = _bits_below(at_least - error)
        # Where that is not above 0, all of the token's entries count.
        flat = np.flatnonzero(bits >= np.where(floor > 0, floor, np.iinfo(np.int16).min)[:, None])
        if len(flat) > CANDIDATE_LIMIT * k * len(bits):
            return None
        _, feature = _places(flat, len(centred), self.n_features)
        return flat, self._exact(flat, feature, centred, weight, bias)

    def _exact(
        self,
        flat: np.ndarray,
        feature: np.ndarray,
        centred: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> np.ndarray:
        """Entries of the product in float32, at ascending flat indices."""
        rows = np.searchsorted(flat, np.arange(len(centred) + 1) * self.n_features)
        column = torch.from_numpy(feature)
        with warnings.catch_warnings():
            # torch says of all CSR tensors that their support is in beta.
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
            pattern = torch.sparse_csr_tensor(
                torch.from_numpy(rows),
                column,
                bias[column],
                (len(centred), self.n_features),
                check_invariants=False,
            )
            return torch.sparse.sampled_addmm(pattern, centred, weight.T).values().numpy()


def _places(flat: np.ndarray, n_rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of ascending flat indices, without a division of each."""
    ends = np.searchsorted(flat, np.arange(n_rows + 1) * width)
    row = np.repeat(np.arange(n_rows), np.diff(ends))
    return row, flat - row * width


def _length(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


def _values(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 values, given as int16 bits, in float32."""
    return (bits.astype(np.int32) << 16).view(np.float32)


def _bits_below(value: np.ndarray | float) -> np.ndarray | np.int16:
    """Return the bits of a bfloat16 some roundings below ``value``; 0 where that is not positive."""
    lower = np.maximum(np.asarray(value, np.float32) * np.float32(1 - 4 * ROUNDING), 0)
    return (lower.view(np.int32) >> 16).astype(np.int16)[()]


def largest_of_batch(pre: Tensor, count: int, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return flat indices (ascending) and values of the ``count`` largest positive entries of ``pre``.

    Parameters
    ----------
    pre
        float32 (tokens × features), contiguous.
    count
        How many to keep; fewer are returned where fewer are positive (on a GPU the rest comes back
        with values ≤ 0, to spare a synchronisation).
    floor
        A guess of a value below the smallest kept entry. It saves time and never changes the
        result: where too few entries lie above it, the search starts again at zero.
    """
    if pre.device.type != "cpu":
        values, flat = torch.topk(pre.flatten(), count, sorted=False)
        flat, order = torch.sort(flat)
        return flat, values[order]
    values = pre.numpy().reshape(-1)
    candidates = np.flatnonzero(values > max(floor, 0.0))
    if len(candidates) < count and floor > 0:
        candidates = np.flatnonzero(values > 0)
    chosen, kept = _largest(values[candidates], count)
    return torch.from_numpy(candidates[chosen]), torch.from_numpy(kept)


def _largest(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places (ascending) and values of the ``count`` largest positive values; of equals the first."""
    chosen = values > 0
    if np.count_nonzero(chosen) > count:
        smallest = np.partition(values, len(values) - count)[len(values) - count]
        chosen = values >= smallest
        surplus = int(np.count_nonzero(chosen)) - count
        if surplus:
            chosen[np.flatnonzero(values == smallest)[-surplus:]] = False
    places = np.flatnonzero(chosen)
    return places, values[places]


def largest_of_tokens(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return flat indices (ascending) and values of the ``k`` largest positive entries of each token.

    Parameters as in :func:`largest_of_batch`; again a GPU returns entries ≤ 0 where fewer are positive.
    """
    if pre.device.type != "cpu":
        values, feature = torch.topk(pre, k, dim=1, sorted=False)
        feature, order = torch.sort(feature, dim=1)
        flat = (feature + torch.arange(len(pre), device=pre.device)[:, None] * pre.shape[1]).flatten()
        return flat, values.gather(1, order).flatten()
    values, n = pre.numpy(), pre.shape[1]
    flat = np.flatnonzero(values >= kth_of_tokens(pre, k).clamp_min(SMALLEST).numpy())
    return _largest_of_groups(flat, values.reshape(-1)[flat], k, n)


def kth_of_tokens(pre: Tensor, k: int) -> Tensor:
    """Return the ``k``-th largest entry of each token, (tokens × 1)."""
    if pre.device.type != "cpu":
        return pre.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    place = pre.shape[1] - k
    return torch.from_numpy(np.partition(pre.numpy(), place, axis=1)[:, place, None])


def _largest_of_groups(flat: np.ndarray, values: np.ndarray, k: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest positive entries of each row, given some entries of it (flat, ascending)."""
    n_rows = int(flat[-1]) // width + 1 if len(flat) else 0
    row, _ = _places(flat, n_rows, width)
    first = np.searchsorted(row, np.arange(n_rows))[row]
    order = np.arange(len(flat)) - first
    table = np.full((n_rows, int(order.max(initial=0)) + 1), -np.inf, np.float32)
    table[row, order] = values
    if table.shape[1] > k:
        smallest = np.partition(table, table.shape[1] - k, axis=1)[:, table.shape[1] - k]
        above = (table > smallest[:, None]).sum(1)
        equal = values == smallest[row]
        # Of equal entries the first ones fill what the larger ones leave.
        rank = np.cumsum(equal) - 1
        chosen = (values > smallest[row]) | (equal & (rank - rank[first] + equal[first] <= k - above[row]))
        chosen &= values > 0
    else:
        chosen = values > 0
    return torch.from_numpy(flat[chosen]), torch.from_numpy(values[chosen])
