"""Sums that merge: all that is kept of the voxels of a case, and the rules of bins and cells.

Bins are equal in width over [0, 1] and half open, ``(l, u]``, with p = 0 in the first one.

Cells are much finer: 16,384 uniform in logit p over [-24, 24], one for what lies beyond on either
side, and one each for p exactly 0 and exactly 1. No cell straddles an edge of the bins or 1/2, so
that bins are unions of cells and nothing is approximated in the ECE. A cell keeps the number of
voxels and the sum of p, with and without the class; every calibration metric follows from those.

Sums are float64 and counts int64: float32 stops counting at 2**24, fewer voxels than one heart scan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

N_CELLS = 16_384
LOGIT_LIMIT = 24.0
#: More bins would be narrower than the cells.
MAX_BINS = 1000
#: The logarithmic score clips probabilities to [CLIP, 1 - CLIP].
CLIP = 1e-12


def bin_edges(n_bins: int) -> NDArray[np.float64]:
    """Edges of ``n_bins`` equal bins of [0, 1], shape (n_bins + 1,)."""
    return np.linspace(0, 1, n_bins + 1)


def bin_index(p: NDArray[np.floating], n_bins: int) -> NDArray[np.intp]:
    """The bin of each probability: the one whose ``(l, u]`` holds it, 0 for p = 0."""
    # In float64, so that a float32 probability is compared by its value with the exact edges.
    return np.searchsorted(bin_edges(n_bins)[1:], p.astype(np.float64, copy=False), side="left")


@dataclass(frozen=True)
class Grid:
    """The cells for a number of bins.

    Attributes:
        n_bins: B.
        edges: ascending, (C - 1,): cell i holds ``edges[i - 1] < p <= edges[i]``, the first one
            p = 0 alone, the last one p = 1 alone.
        bin_of_cell: (C,), the bin in which a cell lies.
        first_above_half: the first cell with p > 1/2.
    """

    n_bins: int
    edges: NDArray[np.float64]
    bin_of_cell: NDArray[np.intp]
    first_above_half: int

    @property
    def n_cells(self) -> int:
        """C."""
        return len(self.bin_of_cell)


@lru_cache(maxsize=8)
def grid(n_bins: int) -> Grid:
    """The cells whose unions are ``n_bins`` bins."""
    logits = np.linspace(-LOGIT_LIMIT, LOGIT_LIMIT, N_CELLS + 1)
    uniform = 1 / (1 + np.exp(-logits))
    uniform[N_CELLS // 2] = 0.5
    inner = bin_edges(n_bins)[1:-1]
    edges = np.unique([0.0, *uniform, *inner, np.nextafter(1.0, 0.0)])
    return Grid(
        n_bins=n_bins,
        edges=edges,
        bin_of_cell=np.append(bin_index(edges, n_bins), n_bins - 1),
        first_above_half=int(np.searchsorted(edges, 0.5)) + 1,
    )


@dataclass(frozen=True)
class Cells:
    """The cells that hold voxels.

    Attributes:
        index: which cells, ascending, (n,).
        count: voxels of y = 0 and of y = 1, (n, 2).
        sum_p: sum of their p, (n, 2).
    """

    index: NDArray[np.int32]
    count: NDArray[np.int64]
    sum_p: NDArray[np.float64]

    @classmethod
    def from_dense(cls, count: NDArray[np.int64], sum_p: NDArray[np.float64]) -> Cells:
        """Keep of (C, 2) arrays the cells that are not empty."""
        index = np.flatnonzero(count.any(axis=1)).astype(np.int32)
        return cls(index, count[index], sum_p[index])

    def between(self, first: int, stop: int) -> Cells:
        """The cells with ``first <= index < stop``."""
        inside = slice(*np.searchsorted(self.index, [first, stop]))
        return Cells(self.index[inside], self.count[inside], self.sum_p[inside])


@dataclass(frozen=True)
class ClassSums:
    """Sums over the voxels of one class; :func:`merge` is the sums over several cases.

    Attributes:
        tp, fp, fn: voxels of nnU-Net's segmentation against the reference.
        squared_plus, squared_minus: sum of (p - y)**2 where y = 1, where y = 0.
        log_likelihood: sum of log p where y = 1 and of log(1 - p) where y = 0, each p clipped to
            [``CLIP``, 1 - ``CLIP``]. This and the squares are over 0 < p < 1 alone: what lies in
            the cells of p = 0 and p = 1 is known from their counts.
        volume_true_ml, volume_pred_ml, volume_expected_ml: of the reference, of the segmentation,
            and voxel volume times the sum of p.
        cells: counts and sums of p.
    """

    tp: int
    fp: int
    fn: int
    squared_plus: float
    squared_minus: float
    log_likelihood: float
    volume_true_ml: float
    volume_pred_ml: float
    volume_expected_ml: float
    cells: Cells


class CellTotals:
    """Cells of case after case added up, with what rounding loses kept beside the sums.

    The result depends on the order of the cases alone, and on that only beyond float64's own
    rounding.
    """

    def __init__(self, n_cells: int) -> None:
        self._count = np.zeros((n_cells, 2), np.int64)
        self._sum_p = np.zeros((n_cells, 2))
        self._lost = np.zeros((n_cells, 2))

    def add(self, cells: Cells) -> None:
        """Add the cells of one more case."""
        self._count[cells.index] += cells.count
        # Knuth's two-sum: the rounding error of each addition, exactly.
        old, new = self._sum_p[cells.index], cells.sum_p
        total = old + new
        virtual = total - old
        self._lost[cells.index] += (old - (total - virtual)) + (new - virtual)
        self._sum_p[cells.index] = total

    def total(self) -> Cells:
        """The cells of all cases."""
        return Cells.from_dense(self._count, self._sum_p + self._lost)


class ClassTotals:
    """:class:`ClassSums` of case after case added up."""

    def __init__(self, n_cells: int) -> None:
        self._cells = CellTotals(n_cells)
        self._scalars: dict[str, list[float]] = {
            f.name: [] for f in fields(ClassSums) if f.name != "cells"
        }

    def add(self, sums: ClassSums) -> None:
        """Add the sums of one more case."""
        self._cells.add(sums.cells)
        for name, values in self._scalars.items():
            values.append(getattr(sums, name))

    def total(self) -> ClassSums:
        """The sums of all cases."""
        exact = {k: _exact_sum(values) for k, values in self._scalars.items()}
        return ClassSums(cells=self._cells.total(), **exact)  # type: ignore[arg-type]


def merge(sums: Sequence[ClassSums], n_cells: int) -> ClassSums:
    """The sums over all voxels from those of its parts, none of them twice."""
    totals = ClassTotals(n_cells)
    for part in sums:
        totals.add(part)
    return totals.total()


def _exact_sum(values: Sequence[float]) -> float:
    return sum(values) if all(isinstance(v, int) for v in values) else math.fsum(values)
