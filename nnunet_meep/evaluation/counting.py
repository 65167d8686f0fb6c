"""The compiled loops: one look at each voxel.

:class:`Counter` sorts probabilities into the cells of :mod:`.bins` while they arrive. To find a
cell without a logarithm, the leading bits of p (of 1 - p above one half) are looked up in a table
that says how many edges lie below, and comparisons with the next two edges settle it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.bins import CLIP, Cells, ClassSums, Grid, grid

#: A probability may leave [0, 1] by this much (rounding); it is clipped.
RANGE_TOLERANCE = 1e-3

# The table has an entry for each of 2**10 parts of each octave down to 2**-35, below which lies
# no edge but 0 (e**-24 is the smallest).
_MANTISSA_BITS = 10
_SHIFT = 52 - _MANTISSA_BITS
_OCTAVES = 35
_FIRST_KEY = (1023 - _OCTAVES) << _MANTISSA_BITS

# Voxels are worked on in blocks that stay in the cache; the products of likelihoods have as many
# factors as cannot underflow: CLIP**16 = 1e-192.
_FACTORS, _PRODUCTS = 16, 64
_BLOCK = _FACTORS * _PRODUCTS


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # nowhere to keep the compiled code: compile in every process
        return numba.njit(function, nogil=True)


class _Lookup(NamedTuple):
    """Where to start looking for the cell of a probability."""

    edges: NDArray[np.float64]
    table: NDArray[np.int32]
    n_keys: int


@lru_cache(maxsize=8)
def _lookup(edges_bytes: bytes) -> _Lookup:
    edges = np.frombuffer(edges_bytes)
    n_keys = (1022 << _MANTISSA_BITS) + 1 - _FIRST_KEY
    keys = np.arange(n_keys, dtype=np.int64) + _FIRST_KEY
    low, high = ((k << _SHIFT).view(np.float64) for k in (keys, keys + 1))
    low[0] = 0  # the first key takes all that is smaller
    # Edges below every p of a key, for p up to one half and for p = 1 - q above it.
    lowest, highest = np.concatenate([low, 1 - high]), np.concatenate([high, 1 - low])
    start, stop = (np.searchsorted(edges, p, "left") for p in (lowest, highest))
    assert (stop - start).max() <= 2  # the comparisons in _count
    return _Lookup(np.append(edges, [np.inf, np.inf]), start.astype(np.int32), n_keys)


@_compiled
def _count(
    p,  # type: ignore[no-untyped-def]
    codes,
    y_of_code,
    edges,
    table,
    n_keys,
    count,
    sum_p,
    squared,
    log_likelihood,
):
    """Add the voxels to ``count`` and ``sum_p`` (flat, cell-major: 2 * cell + y).

    ``y_of_code``: 1, 0, or 2 for voxels that are in nothing. Returns how many values are out of
    range or NaN, and how many were clipped.
    """
    value = np.empty(_BLOCK)
    smaller = np.empty(_BLOCK)
    bits = smaller.view(np.int64)
    slot = np.empty(_BLOCK, np.int32)
    product = np.empty(_PRODUCTS)
    nowhere = len(count) - 2  # one cell more than there are, for what counts nowhere
    n_bad = 0
    n_clipped = 0
    plus = 0.0
    minus = 0.0
    log_sum = 0.0
    for start in range(0, len(p), _BLOCK):
        n = min(_BLOCK, len(p) - start)
        for j in range(n):
            x = np.float64(p[start + j])
            n_bad += not (x >= -RANGE_TOLERANCE and x <= 1 + RANGE_TOLERANCE)
            n_clipped += (x < 0) | (x > 1)
            x = min(max(x, 0.0), 1.0)
            value[j] = x
            smaller[j] = min(x, 1 - x)
        for j in range(n):
            x = value[j]
            key = max((bits[j] >> _SHIFT) - _FIRST_KEY, 0)
            cell = table[key + (n_keys if x > 0.5 else 0)]
            cell += x > edges[cell]
            cell += x > edges[cell]
            y = y_of_code[codes[start + j]]
            slot[j] = 2 * cell + y if y < 2 else nowhere
        for j in range(n):
            count[slot[j]] += 1
            sum_p[slot[j]] += value[j]
        for j in range(n):
            x = value[j]
            inside = (slot[j] != nowhere) & (x > 0) & (x < 1)
            miss = 1 - x if slot[j] & 1 else x
            square = miss * miss if inside else 0.0
            if slot[j] & 1:
                plus += square
            else:
                minus += square
            value[j] = min(max(1 - miss, CLIP), 1 - CLIP) if inside else 1.0
        for j in range(n, _BLOCK):
            value[j] = 1.0
        for j in range(_PRODUCTS):
            product[j] = value[j]
        for i in range(1, _FACTORS):
            for j in range(_PRODUCTS):
                product[j] *= value[i * _PRODUCTS + j]
        for j in range(_PRODUCTS):
            log_sum += math.log(product[j])
    squared[0] += minus
    squared[1] += plus
    log_likelihood[0] += log_sum
    return n_bad, n_clipped


@_compiled
def _count_pairs(a, b, table):  # type: ignore[no-untyped-def]
    for i in range(len(a)):
        table[a[i], b[i]] += 1


def count_pairs(
    a: NDArray[np.unsignedinteger], b: NDArray[np.unsignedinteger], table: NDArray[np.int64]
) -> None:
    """Add to ``table[a, b]`` the number of positions with each pair of values.

    Args:
        a, b: (N,), below the shape of the table.
        table: counts, changed in place.
    """
    _count_pairs(a, b, table)


@dataclass(frozen=True)
class Counted:
    """What a :class:`Counter` counted; see ``ClassSums`` for the meaning."""

    cells: Cells
    squared_minus: float
    squared_plus: float
    log_likelihood: float


class Counter:
    """Counts the voxels of one class, part by part."""

    def __init__(self, grid: Grid, y_of_code: NDArray[np.uint8]) -> None:
        """``y_of_code``: for each code 1 (the class), 0 (not), or 2 (the voxel counts nowhere)."""
        self._lookup = _lookup(grid.edges.tobytes())
        self._y_of_code = y_of_code
        self._count = np.zeros((grid.n_cells + 1, 2), np.int64)
        self._sum_p = np.zeros((grid.n_cells + 1, 2))
        self._squared = np.zeros(2)
        self._log_likelihood = np.zeros(1)

    def add(self, p: NDArray[np.floating], codes: NDArray[np.unsignedinteger]) -> tuple[int, int]:
        """Count some more voxels.

        Args:
            p: float32 or float64 probabilities of the class, (N,), contiguous; clipped to [0, 1].
            codes: (N,).

        Returns:
            How many values are NaN or leave [0, 1] by more than ``RANGE_TOLERANCE`` (the sums are
            worth nothing then), and how many were clipped.
        """
        return _count(
            p,
            codes,
            self._y_of_code,
            *self._lookup,
            self._count.ravel(),
            self._sum_p.ravel(),
            self._squared,
            self._log_likelihood,
        )

    def counted(self) -> Counted:
        """What has been counted so far."""
        return Counted(
            Cells.from_dense(self._count[:-1], self._sum_p[:-1]),
            *self._squared.tolist(),
            *self._log_likelihood.tolist(),
        )


def count_voxels(
    p: NDArray[np.floating], y: NDArray[np.bool_], predicted: NDArray[np.bool_], n_bins: int
) -> ClassSums:
    """The sums over some voxels of one class that lie in memory; a voxel is a millilitre.

    Args:
        p: probabilities of the class in [0, 1], shape (N,).
        y: whether the voxel is of the class in the reference, shape (N,).
        predicted: whether it is in the segmentation, shape (N,).
        n_bins: number of bins, 1 to ``MAX_BINS``.

    Raises:
        ValueError: p is no probability.
    """
    counter = Counter(grid(n_bins), np.array([0, 1], np.uint8))
    exact = np.ascontiguousarray(p, np.float64 if p.dtype == np.float64 else np.float32)
    n_bad, _ = counter.add(exact, y.astype(np.uint8))
    if n_bad:
        raise ValueError(f"p: expected probabilities in [0, 1], found {n_bad} values that are none")
    tp = int(np.count_nonzero(predicted & y))
    return class_sums(
        counter.counted(),
        tp=tp,
        fp=int(np.count_nonzero(predicted)) - tp,
        fn=int(np.count_nonzero(y)) - tp,
        voxel_ml=1.0,
    )


def class_sums(counted: Counted, *, tp: int, fp: int, fn: int, voxel_ml: float) -> ClassSums:
    """The sums of a class from what was counted of its probabilities and of its segmentation."""
    return ClassSums(
        tp=tp,
        fp=fp,
        fn=fn,
        squared_plus=counted.squared_plus,
        squared_minus=counted.squared_minus,
        log_likelihood=counted.log_likelihood,
        volume_true_ml=(tp + fn) * voxel_ml,
        volume_pred_ml=(tp + fp) * voxel_ml,
        volume_expected_ml=math.fsum(counted.cells.sum_p.flat) * voxel_ml,
        cells=counted.cells,
    )
