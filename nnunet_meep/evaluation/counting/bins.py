"""Sums that merge: all that is kept of the voxels of a case, and the rules of bins and cells.

Bins are equal in width over [0, 1] and half open, ``(l, u]``, with p = 0 in the first one.

Cells are much finer: 16,384 uniform in logit p over [-24, 24], the outer ones holding what lies
beyond, and one each for p exactly 0 and exactly 1. No cell holds p of two bins, or p on both sides
of 1/2, so that bins are unions of cells and nothing is approximated in the ECE. A cell keeps the
number of voxels and the sum of p, with and without the class; every calibration metric follows.
In a small image, where single voxels matter, each cell is divided in 64.

Sums are float64 and counts int64: float32 stops counting at 2**24, fewer voxels than one heart scan
has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: Cells of equal width in logit p, and where they end on both sides.
N_LOGIT_CELLS = 16_384
LOGIT_LIMIT = 24.0
#: Parts of a cell, and the number of voxels up to which cells are divided.
SUBCELLS = 64
FEW_VOXELS = 1 << 18
#: More bins would be narrower than the cells.
MAX_BINS = 1000
#: The logarithmic score clips probabilities to [CLIP, 1 - CLIP].
CLIP = 1e-12

#: log2(1 + t) = t * (a + b t + c t^2 + ...) within 3e-6 for t in [0, 1].
LOG2_COEFFICIENTS = (
    1.4425272941589355,
    -0.7179135084152222,
    0.45654061436653137,
    -0.27596938610076904,
    0.12010068446397781,
    -0.025285663083195686,
)
#: From log2 of the odds to the cell: cells in a doubling of the odds, and the cell of p = 1/2.
CELLS_PER_OCTAVE = math.log(2) * N_LOGIT_CELLS / (2 * LOGIT_LIMIT)
HALF_CELL = N_LOGIT_CELLS / 2


def bin_edges(n_bins: int) -> NDArray[np.float64]:
    """Edges of ``n_bins`` equal bins of [0, 1], shape (n_bins + 1,)."""
    return np.linspace(0, 1, n_bins + 1)


def bin_index(p: NDArray[np.floating], n_bins: int) -> NDArray[np.intp]:
    """The bin of each probability: the one whose ``(l, u]`` holds it, 0 for p = 0."""
    # In float64, so that a float32 probability is compared by its value with the exact edges.
    return np.searchsorted(bin_edges(n_bins)[1:], p.astype(np.float64, copy=False), side="left")


def cell_index(p: NDArray[np.floating], n_bins: int) -> NDArray[np.intp]:
    """The cell of each probability; see :func:`subcell_index`."""
    return subcell_index(p, n_bins) // SUBCELLS


def subcell_index(p: NDArray[np.floating], n_bins: int) -> NDArray[np.intp]:
    """The cell of each probability and the part of the cell, as cell * ``SUBCELLS`` + part.

    The logarithm is a polynomial in float32, so that a compiled loop (:mod:`.counting`) comes to
    the same cell in one vectorized pass; p next to the border of two cells may come to lie on
    either side of it. Three cells of distance at each edge of the bins and at 1/2 keep apart what
    lies on either side of those, which is decided exactly.

    Args:
        p: probabilities in [0, 1], any shape.
        n_bins: number of bins, 1 to ``MAX_BINS``.
    """
    p = p.astype(np.float64)
    odds = np.maximum(p, CLIP).astype(np.float32) / np.maximum(1 - p, CLIP).astype(np.float32)
    bits = odds.view(np.int32)
    exponent = ((bits >> 23) - 127).astype(np.float32)
    t = ((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - np.float32(1)
    log2 = np.zeros_like(t)
    for coefficient in reversed(LOG2_COEFFICIENTS):
        log2 = (log2 + np.float32(coefficient)) * t
    position = (exponent + log2) * np.float32(CELLS_PER_OCTAVE) + np.float32(HALF_CELL)
    position = np.clip(position, 0, N_LOGIT_CELLS - 1)
    logit_cell = position.astype(np.intp)
    part = ((position - logit_cell) * SUBCELLS).astype(np.intp)
    cell = logit_cell + 3 * (bin_index(p, n_bins) + (p > 0.5)) + (p > 0) + (p >= 1)
    return cell * SUBCELLS + part


@dataclass(frozen=True)
class Grid:
    """The cells for a number of bins.

    Attributes:
        n_bins: B.
        n_cells: C. The first cell holds p = 0 alone, the last one p = 1 alone.
        bin_of_cell: (C,), the bin in which a cell lies.
        first_above_half: the first cell with p > 1/2.
    """

    n_bins: int
    n_cells: int
    bin_of_cell: NDArray[np.intp]
    first_above_half: int


@lru_cache(maxsize=8)
def grid(n_bins: int) -> Grid:
    """The cells whose unions are ``n_bins`` bins."""
    n_cells = N_LOGIT_CELLS + 3 * n_bins + 2
    # Up to an edge no cell is more than one beyond the edge's own, behind it none less than two.
    behind = cell_index(bin_edges(n_bins)[1:-1], n_bins) + 2
    return Grid(
        n_bins=n_bins,
        n_cells=n_cells,
        bin_of_cell=np.searchsorted(behind, np.arange(n_cells), side="right"),
        first_above_half=int(cell_index(np.array([0.5]), n_bins)[0]) + 2,
    )


@dataclass(frozen=True)
class Cells:
    """The cells that hold voxels.

    Attributes:
        index: which, ascending, (n,): cell * ``SUBCELLS``, plus the part of the cell where cells
            are divided.
        count: voxels of y = 0 and of y = 1, (n, 2).
        sum_p: sum of their p, (n, 2).
    """

    index: NDArray[np.int32]
    count: NDArray[np.int64]
    sum_p: NDArray[np.float64]

    @classmethod
    def from_dense(cls, count: NDArray[np.int64], sum_p: NDArray[np.float64]) -> Cells:
        """Keep of (C, 2) arrays the cells that are not empty."""
        cell = np.flatnonzero(count.any(axis=1))
        return cls((cell * SUBCELLS).astype(np.int32), count[cell], sum_p[cell])

    @classmethod
    def from_voxels(
        cls, p: NDArray[np.floating], y: NDArray[np.unsignedinteger], n_bins: int
    ) -> Cells:
        """Sort voxels into divided cells.

        Args:
            p: probabilities in [0, 1], (N,).
            y: 0 or 1, (N,).
            n_bins: number of bins.
        """
        count = np.stack([y == 0, y == 1], axis=1).astype(np.int64)
        sum_p = np.multiply(count, p[:, None], dtype=np.float64)
        return _grouped(subcell_index(p, n_bins), count, sum_p)

    @property
    def cell(self) -> NDArray[np.int32]:
        """Which cells, without their parts, (n,)."""
        return self.index // SUBCELLS

    def between(self, first: int, stop: int) -> Cells:
        """What lies in the cells from ``first`` to ``stop``, that one excluded."""
        inside = slice(*np.searchsorted(self.cell, [first, stop]))
        return Cells(self.index[inside], self.count[inside], self.sum_p[inside])


def _grouped(
    index: NDArray[np.integer], count: NDArray[np.int64], sum_p: NDArray[np.float64]
) -> Cells:
    """Add up what has the same index, in order."""
    unique, inverse = np.unique(index, return_inverse=True)
    counts = np.zeros((len(unique), 2), np.int64)
    sums = np.zeros((len(unique), 2))
    np.add.at(counts, inverse, count)
    np.add.at(sums, inverse, sum_p)
    filled = counts.any(axis=1)
    return Cells(unique[filled].astype(np.int32), counts[filled], sums[filled])


@dataclass(frozen=True)
class ClassSums:
    """Sums over the voxels of one class.

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


@dataclass(frozen=True)
class RoiSums:
    """The sums over the voxels of an ROI of a case.

    Attributes:
        channels: for each channel of the probabilities, background included.
        top_label: of the largest probability of each voxel, y = it is the right one; None for
            regions of labels, which overlap.
    """

    channels: tuple[ClassSums, ...]
    top_label: Cells | None


@dataclass(frozen=True)
class CaseSums:
    """All that is kept of a case.

    Attributes:
        case: its name.
        n_clipped: probabilities that left [0, 1] by rounding and were clipped.
        rois: sums by the name of the roi.
        distances_mm: for each class ``hd``, ``hd95``, ``assd`` over the whole image; None if not
            asked for.
        n_not_argmax: voxels in which the segmentation file has another label than the
            probabilities make by nnU-Net's rule; None without a file.
    """

    case: str
    n_clipped: int
    rois: dict[str, RoiSums]
    distances_mm: tuple[dict[str, float], ...] | None
    n_not_argmax: int | None


class CellTotals:
    """Cells of case after case added up; they stay divided as long as there are few voxels.

    Beyond that, what rounding loses is kept beside the sums, so that the result depends on the
    order of the cases alone, and on that only beyond float64's own rounding.
    """

    def __init__(self, n_cells: int) -> None:
        self._few: list[Cells] = []
        self._n_voxels = 0
        self._count = np.zeros((n_cells, 2), np.int64)
        self._sum_p = np.zeros((n_cells, 2))
        self._lost = np.zeros((n_cells, 2))

    def add(self, cells: Cells) -> None:
        """Add the cells of one more case."""
        self._few.append(cells)
        self._n_voxels += int(np.abs(cells.count).sum())
        if self._n_voxels > FEW_VOXELS:
            for few in self._few:
                self._add(_grouped(few.cell, few.count, few.sum_p))
            self._few.clear()

    def _add(self, cells: Cells) -> None:
        """Here ``index`` is that of the undivided cells."""
        self._count[cells.index] += cells.count
        # Knuth's two-sum: the rounding error of each addition, exactly.
        old, new = self._sum_p[cells.index], cells.sum_p
        total = old + new
        virtual = total - old
        self._lost[cells.index] += (old - (total - virtual)) + (new - virtual)
        self._sum_p[cells.index] = total

    def total(self) -> Cells:
        """The cells of all cases."""
        if self._n_voxels > FEW_VOXELS:
            return Cells.from_dense(self._count, self._sum_p + self._lost)
        none = Cells.from_dense(self._count, self._sum_p)
        parts = [none, *self._few]
        return _grouped(
            np.concatenate([c.index for c in parts]),
            np.concatenate([c.count for c in parts]),
            np.concatenate([c.sum_p for c in parts]),
        )


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


def _exact_sum(values: Sequence[float]) -> float:
    return sum(values) if all(isinstance(v, int) for v in values) else math.fsum(values)
