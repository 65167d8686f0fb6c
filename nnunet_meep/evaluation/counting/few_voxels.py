"""The loops of :mod:`.loops` for images of few voxels, without Numba, which takes long to load.

Cells are divided into parts here, because in small images single voxels matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import CLIP, Cells, Grid
from nnunet_meep.evaluation.counting.class_counts import ClassCounts
from nnunet_meep.nnunet_files.probabilities import RANGE_TOLERANCE


def compare_with_largest(
    p: NDArray[np.floating],
    largest: NDArray[np.floating],
    total: NDArray[np.floating],
    tolerance: float,
) -> tuple[int, int]:
    """As :func:`.loops.compare_with_largest`."""
    n_both = int(np.count_nonzero((p > 0.5) & (largest > 0.5)))
    if len(total):
        total += p
    sums = total if len(total) else largest + p
    n_off = int(np.count_nonzero(np.abs(sums.astype(np.float64) - 1) > tolerance))
    return n_both, n_off


def take_larger(
    p: NDArray[np.floating],
    channel: int,
    largest: NDArray[np.floating],
    winner: NDArray[np.unsignedinteger],
) -> int:
    """As :func:`.loops.take_larger`."""
    larger = p > largest
    winner[larger] = channel
    largest[larger] = p[larger]
    return int(np.count_nonzero(largest <= 0.5))


def count_pairs(
    a: NDArray[np.unsignedinteger], b: NDArray[np.unsignedinteger], table: NDArray[np.int64]
) -> None:
    """As :func:`.loops.count_pairs`."""
    place = a.astype(np.intp) * table.shape[1] + b
    table += np.bincount(place, minlength=table.size).reshape(table.shape)


def take_where(
    values: NDArray[Any], index: NDArray[np.unsignedinteger], chosen: NDArray[np.bool_]
) -> NDArray[Any]:
    """As :func:`.loops.take_where`."""
    taken: NDArray[Any] = values[chosen[index]]
    return taken


class ClassCounter:
    """As :class:`.loops.ClassCounter`; keeps the voxels until they are counted."""

    def __init__(self, grid: Grid, y_of_code: NDArray[np.uint8], *, score: bool) -> None:
        """As :meth:`.loops.ClassCounter.__init__`."""
        self._n_bins, self._score, self._y_of_code = grid.n_bins, score, y_of_code
        self._p: list[NDArray[np.float64]] = [np.zeros(0)]
        self._y: list[NDArray[np.uint8]] = [np.zeros(0, np.uint8)]

    def add(self, p: NDArray[np.floating], codes: NDArray[np.unsignedinteger]) -> tuple[int, int]:
        """As :meth:`.loops.ClassCounter.add`."""
        y, exact = self._y_of_code[codes], p.astype(np.float64)
        self._p.append(np.clip(np.nan_to_num(exact[y < 2]), 0, 1))
        self._y.append(y[y < 2])
        is_good = (exact >= -RANGE_TOLERANCE) & (exact <= 1 + RANGE_TOLERANCE)
        is_clipped = (exact < 0) | (exact > 1)
        return int(np.count_nonzero(~is_good)), int(np.count_nonzero(is_clipped))

    def counted(self) -> ClassCounts:
        """The counts so far."""
        p, y = np.concatenate(self._p), np.concatenate(self._y)
        cells = Cells.from_voxels(p, y, self._n_bins)
        if not self._score:
            return ClassCounts(cells, 0.0, 0.0, 0.0)
        inside = (p > 0) & (p < 1)
        p, y = p[inside], y[inside] == 1
        likelihood = np.clip(np.where(y, p, 1 - p), CLIP, 1 - CLIP)
        return ClassCounts(
            cells,
            squared_minus=float(np.square(p[~y]).sum()),
            squared_plus=float(np.square(1 - p[y]).sum()),
            log_likelihood=float(np.log(likelihood).sum()),
        )
