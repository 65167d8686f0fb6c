"""The compiled loops over voxels, for all images but those of few voxels.

:class:`ClassCounter` sorts probabilities into the cells of :mod:`.bins` as they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import (
    CELLS_PER_OCTAVE,
    CLIP,
    HALF_CELL,
    LOG2_COEFFICIENTS,
    N_LOGIT_CELLS,
    Cells,
    Grid,
    bin_edges,
    bin_index,
    cell_index,
)
from nnunet_meep.evaluation.counting.class_counts import ClassCounts
from nnunet_meep.nnunet_files.probabilities import RANGE_TOLERANCE

# Voxels are processed in blocks that stay in the cache. Likelihoods are multiplied before the
# logarithm is taken; 16 factors cannot underflow, as CLIP**16 = 1e-192.
_FACTORS, _PRODUCTS = 16, 64
_BLOCK = _FACTORS * _PRODUCTS

# Most voxels of a saturated network have p = 0 or p = 1. Repeated additions to one cell would each
# have to wait for the previous one, so these voxels are spread over several cells.
_SPREAD = 8


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # With NumPy's error model, divisions are not checked for 0, so that they can be vectorized.
    options = {"nogil": True, "error_model": "numpy"}
    compiled: Callable[..., Any]
    try:
        compiled = numba.njit(function, cache=True, **options)
    except RuntimeError:  # no writable cache folder: compile again in every process
        compiled = numba.njit(function, **options)
    return compiled


_A, _B, _C, _D, _E, _F = (np.float32(c) for c in LOG2_COEFFICIENTS)
_PER_OCTAVE, _HALF = np.float32(CELLS_PER_OCTAVE), np.float32(HALF_CELL)
_LAST = np.float32(N_LOGIT_CELLS - 1)
_ONE = np.float32(1)


@lru_cache(maxsize=8)
def _offsets(n_bins: int) -> NDArray[np.int32]:
    """For each cell of equal width in logit p, by how much its index among all cells is larger.

    -1 where that differs within the cell or the next ones, because the edge of a bin or 1/2 is
    there; and in the outermost cells, which may also hold p = 0 or p = 1.
    """
    edges = np.append(bin_edges(n_bins)[1:-1], 0.5)
    above = bin_index(edges, n_bins) + (edges > 0.5)
    cell = cell_index(edges, n_bins) - 3 * above - 1
    offsets = np.ones(N_LOGIT_CELLS, np.int32)
    for c in cell:
        offsets[c + 1 :] += 3
    offsets[[0, -1]] = -1
    offsets[np.concatenate([cell - 1, cell, cell + 1])] = -1
    return offsets


@_compiled
def _count(  # type: ignore[no-untyped-def]
    p, codes, y_of_code, n_bins, offset_of_cell, score, table, sums
):
    """Add voxels to ``table`` and to ``sums``.

    Number and sum of p of the voxels in a cell are next to each other in the table, at the flat
    index 2 * (2 * cell + y), so that they are read and written together.

    After the cells there is one more for ignored voxels, and ``_SPREAD`` each for p = 0 and p = 1.
    ``sums`` are the squared errors where y = 0, those where y = 1, and the log likelihood; they are
    updated only if ``score``. Returns the number of values that are NaN or out of range, and the
    number that were clipped.
    """
    zero, one, clip = p.dtype.type(0), p.dtype.type(1), p.dtype.type(CLIP)
    value = np.empty(_BLOCK, p.dtype)
    odds = np.empty(_BLOCK, np.float32)
    bits = odds.view(np.int32)
    exponent = np.empty(_BLOCK, np.float32)
    logit_cell = np.empty(_BLOCK, np.int32)
    slot = np.empty(_BLOCK, np.int32)
    square_plus = np.empty(_BLOCK)
    square_minus = np.empty(_BLOCK)
    likelihood = np.empty(_BLOCK)
    product = np.empty(_PRODUCTS)
    plus = np.zeros(_PRODUCTS)
    minus = np.zeros(_PRODUCTS)
    first_saturated = len(table) // 4 - 2 * _SPREAD
    nowhere = 2 * (first_saturated - 1)
    width = 1.0 / n_bins
    last_bin = n_bins - 1.0
    n_outside = 0
    log_sum = 0.0
    for start in range(0, len(p), _BLOCK):
        n = min(_BLOCK, len(p) - start)
        for j in range(n):
            x = p[start + j]
            n_outside += 0 if (x >= zero) & (x <= one) else 1
            x = x if x > zero else zero  # NaN, too, which has no cell
            x = x if x < one else one
            value[j] = x
            odds[j] = np.float32(max(x, clip)) / np.float32(max(one - x, clip))
        # The same computation as in bins.subcell_index, in steps that can be vectorized.
        for j in range(n):
            exponent[j] = np.float32((bits[j] >> 23) - 127)
            bits[j] = (bits[j] & 0x7FFFFF) | 0x3F800000
        for j in range(n):
            t = odds[j] - _ONE
            log2 = (((((_F * t + _E) * t + _D) * t + _C) * t + _B) * t + _A) * t
            position = (exponent[j] + log2) * _PER_OCTAVE + _HALF
            logit_cell[j] = np.int32(min(max(position, np.float32(0)), _LAST))
        for j in range(n):
            x = np.float64(value[j])
            offset = offset_of_cell[logit_cell[j]]
            if offset >= 0:
                cell = logit_cell[j] + offset
            elif (x > 0) & (x < 1):
                # Edges are at k * width, exactly as from numpy's linspace; the last one is 1.
                k = np.floor(x * n_bins)
                k -= 1.0 if x <= k * width else 0.0
                k += 1.0 if x > (k + 1.0) * width else 0.0
                k = min(max(k, 0.0), last_bin) + (1.0 if x > 0.5 else 0.0)
                cell = logit_cell[j] + 3 * np.int32(k) + 1
            else:
                cell = first_saturated + (j & (_SPREAD - 1)) + (_SPREAD if x >= 1 else 0)
            y = y_of_code[codes[start + j]]
            i = 2 * cell + y if y < 2 else nowhere
            slot[j] = i
            table[2 * i] += 1.0
            table[2 * i + 1] += x
        if not score:
            continue
        for j in range(n):
            x = np.float64(value[j])
            inside = slot[j] < nowhere
            y = slot[j] & 1
            miss = 1 - x if y else x
            square = miss * miss if inside else 0.0
            square_plus[j] = square if y else 0.0
            square_minus[j] = 0.0 if y else square
            of_label = x if y else 1 - x
            likelihood[j] = min(max(of_label, CLIP), 1 - CLIP) if inside else 1.0
        for j in range(n, _BLOCK):
            likelihood[j] = 1.0
            square_plus[j] = square_minus[j] = 0.0
        # Several sums in parallel, because in a single one each addition waits for the previous.
        product[:] = 1.0
        for i in range(0, _BLOCK, _PRODUCTS):
            for j in range(_PRODUCTS):
                product[j] *= likelihood[i + j]
                plus[j] += square_plus[i + j]
                minus[j] += square_minus[i + j]
        for j in range(_PRODUCTS):
            log_sum += math.log(product[j])
    sums[0] += minus.sum()
    sums[1] += plus.sum()
    sums[2] += log_sum
    n_bad = 0
    n_clipped = 0
    if n_outside:
        for i in range(len(p)):
            n_bad += not (p[i] >= -RANGE_TOLERANCE and p[i] <= 1 + RANGE_TOLERANCE)
            n_clipped += (p[i] < 0) | (p[i] > 1)
    return n_bad, n_clipped


@_compiled
def _count_pairs(a, b, table):  # type: ignore[no-untyped-def]
    tables = np.zeros((_SPREAD, *table.shape), table.dtype)
    for i in range(len(a)):
        tables[i & (_SPREAD - 1), a[i], b[i]] += 1
    table += tables.sum(axis=0)


@_compiled
def _take_where(values, index, chosen):  # type: ignore[no-untyped-def]
    n = 0
    for i in range(len(index)):
        n += chosen[index[i]]
    taken = np.empty(n, values.dtype)
    n = 0
    for i in range(len(index)):
        if chosen[index[i]]:
            taken[n] = values[i]
            n += 1
    return taken


@_compiled
def _compare(p, largest, total, tolerance):  # type: ignore[no-untyped-def]
    n_both = 0
    for i in range(len(p)):
        n_both += (p[i] > 0.5) & (largest[i] > 0.5)
    n_off = 0
    for i in range(len(total)):
        total[i] += p[i]
        n_off += abs(total[i] - 1) > tolerance
    if len(total) == 0:
        for i in range(len(p)):
            n_off += abs(largest[i] + p[i] - 1) > tolerance
    return n_both, n_off


@_compiled
def _follow(p, channel, largest, winner):  # type: ignore[no-untyped-def]
    n_unsure = 0
    for i in range(len(p)):
        winner[i] = channel if p[i] > largest[i] else winner[i]
        largest[i] = p[i] if p[i] > largest[i] else largest[i]
        n_unsure += largest[i] <= 0.5
    return n_unsure


def compare_with_largest(
    p: NDArray[np.floating],
    largest: NDArray[np.floating],
    total: NDArray[np.floating],
    tolerance: float,
) -> tuple[int, int]:
    """Compare one more channel with those before it; call this before :func:`take_larger`.

    Args:
        p: probabilities of the channel, (N,).
        largest: the largest probability so far, (N,).
        total: sum of the channels so far, (N,), to which p is added in place. Empty if there are
            only two channels; ``largest`` is then the other one.
        tolerance: how far the sum may be from 1.

    Returns:
        The number of voxels where both p and ``largest`` are above 1/2, and the number where the
        sum so far differs from 1 by more than the tolerance.
    """
    counted: tuple[int, int] = _compare(p, largest, total, tolerance)
    return counted


def take_larger(
    p: NDArray[np.floating],
    channel: int,
    largest: NDArray[np.floating],
    winner: NDArray[np.unsignedinteger],
) -> int:
    """Update ``largest`` and ``winner`` with one more channel, in place.

    Args:
        p: probabilities of the channel, (N,).
        channel: its index.
        largest: the largest probability so far, (N,).
        winner: the channel with the largest probability, the first one if several are equal, (N,).

    Returns:
        The number of voxels whose largest probability is still not above 1/2.
    """
    n_unsure: int = _follow(p, winner.dtype.type(channel), largest, winner)
    return n_unsure


def count_pairs(
    a: NDArray[np.unsignedinteger], b: NDArray[np.unsignedinteger], table: NDArray[np.int64]
) -> None:
    """Add 1 to ``table[a[i], b[i]]`` for each i.

    Args:
        a, b: indices into the rows and the columns of the table, (N,).
        table: counts, changed in place.
    """
    _count_pairs(a, b, table)


def take_where(
    values: NDArray[Any], index: NDArray[np.unsignedinteger], chosen: NDArray[np.bool_]
) -> NDArray[Any]:
    """``values[chosen[index]]``, without temporary arrays.

    Args:
        values: (N,).
        index: indices into ``chosen``, (N,).
        chosen: which indices to take.
    """
    taken: NDArray[Any] = _take_where(values, index, chosen)
    return taken


class ClassCounter:
    """Counts the voxels of one class, part by part of the image."""

    def __init__(self, grid: Grid, y_of_code: NDArray[np.uint8], *, score: bool) -> None:
        """Start with no voxels counted.

        Args:
            grid: the cells.
            y_of_code: for each code 1 (the class), 0 (another class), or 2 (ignored).
            score: also sum squared errors and the log likelihood.
        """
        self._n_bins, self._score, self._y_of_code = grid.n_bins, score, y_of_code
        self._offsets = _offsets(grid.n_bins)
        n_slots = grid.n_cells + 1 + 2 * _SPREAD
        #: Number (exact up to 2**53) and sum of p, by slot and y.
        self._table = np.zeros((n_slots, 2, 2))
        self._sums = np.zeros(3)

    def add(self, p: NDArray[np.floating], codes: NDArray[np.unsignedinteger]) -> tuple[int, int]:
        """Count more voxels.

        Args:
            p: float32 or float64 probabilities of the class, (N,), contiguous. Values outside
                [0, 1] are clipped.
            codes: codes of the reference, (N,).

        Returns:
            The number of values that are NaN or outside [0, 1] by more than ``RANGE_TOLERANCE`` (if
            not 0, the sums are invalid), and the number of values that were clipped.
        """
        outside: tuple[int, int] = _count(
            p,
            codes,
            self._y_of_code,
            self._n_bins,
            self._offsets,
            self._score,
            self._table.ravel(),
            self._sums,
        )
        return outside

    def counted(self) -> ClassCounts:
        """The counts so far."""
        counts = self._table[..., 0].astype(np.int64)
        count, sum_p = counts[: -1 - 2 * _SPREAD], self._table[: -1 - 2 * _SPREAD, :, 1].copy()
        zeros, ones = (counts[-n * _SPREAD :][:_SPREAD].sum(axis=0) for n in (2, 1))
        count[0], count[-1], sum_p[-1] = zeros, ones, ones
        return ClassCounts(
            Cells.from_dense(count, sum_p),
            *self._sums.tolist(),
        )
