"""Defines bins and cells, and the sums kept for each case, which can be added over cases.

Bins have equal width over [0, 1] and are half open, ``(l, u]``; p = 0 belongs to the first one.

Cells are much finer: 16,384 of equal width in logit p over [-24, 24], where the outermost also
include everything beyond, and one each for p exactly 0 and exactly 1. No cell has probabilities
from two bins, or from both sides of 1/2. Bins are therefore unions of cells, and the ECE is exact.
For voxels with and without the class, a cell keeps their number and the sum of their p; all
calibration metrics are computed from these. In small images, where single voxels matter, each cell
is divided into 64 parts.

Sums are float64 and counts int64: float32 cannot count beyond 2**24, fewer voxels than a heart scan
has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.components import Lesions

#: Number of cells of equal width in logit p, and the logit (+ and -) at which they end.
N_LOGIT_CELLS = 16_384
LOGIT_LIMIT = 24.0
#: Parts per cell, and the number of voxels up to which cells are divided into parts.
SUBCELLS = 64
FEW_VOXELS = 1 << 18
#: More bins would be narrower than the cells.
MAX_BINS = 1000
#: The logarithmic score clips probabilities to [CLIP, 1 - CLIP].
CLIP = 1e-12

#: Coefficients a, b, c, ... of log2(1 + t) = t * (a + b t + c t^2 + ...), which is accurate to 3e-6
#: for t in [0, 1].
LOG2_COEFFICIENTS = (
    1.4425272941589355,
    -0.7179135084152222,
    0.45654061436653137,
    -0.27596938610076904,
    0.12010068446397781,
    -0.025285663083195686,
)
#: The cell is log2(odds) * ``CELLS_PER_OCTAVE`` + ``HALF_CELL``: cells per doubling of the odds,
#: and the cell of p = 1/2.
CELLS_PER_OCTAVE = math.log(2) * N_LOGIT_CELLS / (2 * LOGIT_LIMIT)
HALF_CELL = N_LOGIT_CELLS / 2


def bin_edges(n_bins: int) -> NDArray[np.float64]:
    """Edges of ``n_bins`` bins of equal width over [0, 1], (n_bins + 1,)."""
    return np.linspace(0, 1, n_bins + 1)


def bin_index(p: NDArray[np.floating], n_bins: int) -> NDArray[np.intp]:
    """Index of the bin ``(l, u]`` of each probability; 0 for p = 0."""
    # In float64, so that the edges are not rounded to float32.
    return np.searchsorted(bin_edges(n_bins)[1:], p.astype(np.float64, copy=False), side="left")


def cell_index(p: NDArray[np.floating], n_bins: int) -> NDArray[np.intp]:
    """Index of the cell of each probability; see :func:`subcell_index`."""
    return subcell_index(p, n_bins) // SUBCELLS


def subcell_index(p: NDArray[np.floating], n_bins: int) -> NDArray[np.intp]:
    """Index of the cell and part of each probability: cell * ``SUBCELLS`` + part.

    The logarithm is approximated by a polynomial in float32, which the compiled loop in
    :mod:`.loops` can reproduce in one vectorized pass. Because of this, p next to the border of two
    cells may be put on either side of it. At 1/2 and at the edges of bins this must not happen:
    there the side is decided exactly, and three extra cells keep the two sides apart.

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
    index: NDArray[np.intp] = cell * SUBCELLS + part
    return index


@dataclass(frozen=True)
class Grid:
    """The cells for a given number of bins.

    Attributes:
        n_bins: number of bins, B.
        n_cells: number of cells, C. The first has only p = 0, the last only p = 1.
        bin_of_cell: index of the bin that each cell belongs to, (C,).
        first_above_half: index of the first cell with p > 1/2.
    """

    n_bins: int
    n_cells: int
    bin_of_cell: NDArray[np.intp]
    first_above_half: int

    @property
    def open_cells(self) -> tuple[int, int]:
        """The outermost cells with 0 < p < 1, which also include everything beyond."""
        return 1, self.n_cells - 2


@lru_cache(maxsize=8)
def grid(n_bins: int) -> Grid:
    """The cells for ``n_bins`` bins."""
    n_cells = N_LOGIT_CELLS + 3 * n_bins + 2
    # If c is the cell of an edge, smaller p are in cells up to c + 1 and larger p from c + 2 on.
    behind = cell_index(bin_edges(n_bins)[1:-1], n_bins) + 2
    return Grid(
        n_bins=n_bins,
        n_cells=n_cells,
        bin_of_cell=np.searchsorted(behind, np.arange(n_cells), side="right"),
        first_above_half=int(cell_index(np.array([0.5]), n_bins)[0]) + 2,
    )


@dataclass(frozen=True)
class Cells:
    """The cells that are not empty. y is 1 for voxels with the class and 0 for others.

    Attributes:
        index: ascending, (n,): cell * ``SUBCELLS``, plus the part if the cells are divided.
        count: number of voxels with y = 0 and with y = 1, (n, 2).
        sum_p: sum of their p, (n, 2).
    """

    index: NDArray[np.int32]
    count: NDArray[np.int64]
    sum_p: NDArray[np.float64]

    @classmethod
    def from_dense(cls, count: NDArray[np.int64], sum_p: NDArray[np.float64]) -> Cells:
        """The cells that are not empty in arrays of all cells, (C, 2)."""
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
        """Indices of the cells without their parts, (n,)."""
        return self.index // SUBCELLS

    def between(self, first: int, stop: int) -> Cells:
        """The cells from ``first`` up to, but not including, ``stop``."""
        inside = slice(*np.searchsorted(self.cell, [first, stop]))
        return Cells(self.index[inside], self.count[inside], self.sum_p[inside])


def _grouped(
    index: NDArray[np.integer], count: NDArray[np.int64], sum_p: NDArray[np.float64]
) -> Cells:
    """Add up the entries that have the same index; the result is sorted by index."""
    unique, inverse = np.unique(index, return_inverse=True)
    counts = np.zeros((len(unique), 2), np.int64)
    sums = np.zeros((len(unique), 2))
    np.add.at(counts, inverse, count)
    np.add.at(sums, inverse, sum_p)
    filled = counts.any(axis=1)
    return Cells(unique[filled].astype(np.int32), counts[filled], sums[filled])


@dataclass(frozen=True)
class ClassSums:
    """Sums over voxels for one class (class against the rest; y is 1 for voxels with the class).

    Attributes:
        tp, fp, fn: true positive, false positive and false negative voxels of the segmentation.
        expected_overlap: sum of p over the voxels that the segmentation gives the class, tp + fp of
            them; 0 for the background, for which it is not computed.
        squared_plus, squared_minus: sum of (p - y)**2 over voxels with y = 1, and with y = 0.
        log_likelihood: sum of log p where y = 1 and of log(1 - p) where y = 0, with p clipped to
            [``CLIP``, 1 - ``CLIP``]. This and the squares include only voxels with 0 < p < 1; the
            others follow from the counts in the cells of p = 0 and p = 1.
        volume_true_ml, volume_pred_ml: volume in the reference and in the segmentation.
        volume_expected_ml: voxel volume times the sum of p.
        cells: counts and sums of p.
    """

    tp: int
    fp: int
    fn: int
    expected_overlap: float
    squared_plus: float
    squared_minus: float
    log_likelihood: float
    volume_true_ml: float
    volume_pred_ml: float
    volume_expected_ml: float
    cells: Cells


@dataclass(frozen=True)
class RoiSums:
    """The sums over the voxels of one case in one ROI.

    Attributes:
        channels: sums for each channel of the probabilities, including background.
        top_label: cells of each voxel's largest probability, where y = 1 if that is the correct
            label. None for nnU-Net's regions, which overlap.
    """

    channels: tuple[ClassSums, ...]
    top_label: Cells | None


@dataclass(frozen=True)
class CaseSums:
    """All sums of one case, from which its metrics are computed.

    Attributes:
        case: name of the case.
        n_clipped: number of probabilities slightly outside [0, 1] (rounding) that were clipped.
        rois: {name of an ROI: its sums}.
        surfaces: the result of :func:`.surface_metrics` for each class over the whole image; None
            if not requested.
        n_not_argmax: number of voxels whose label in the segmentation file differs from the one
            that follows from the probabilities by nnU-Net's rule; None without a file.
        lesions, wmh: the result of :func:`.case_lesions`; None if not requested.
    """

    case: str
    n_clipped: int
    rois: dict[str, RoiSums]
    surfaces: tuple[dict[str, float], ...] | None
    n_not_argmax: int | None
    lesions: tuple[Lesions, ...] | None
    wmh: dict[str, float] | None


class CellTotals:
    """Adds up the cells of cases. With few voxels, cells stay divided into parts.

    With many voxels, the rounding errors are summed, too, and added at the end. The result then
    depends only on the order of the cases, and by less than the rounding of float64.
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
        """Add undivided cells; here ``cells.index`` is the plain index of a cell."""
        self._count[cells.index] += cells.count
        # Knuth's two-sum gives the exact rounding error of each addition.
        old, new = self._sum_p[cells.index], cells.sum_p
        total = old + new
        virtual = total - old
        self._lost[cells.index] += (old - (total - virtual)) + (new - virtual)
        self._sum_p[cells.index] = total

    def total(self) -> Cells:
        """The sum over all cases."""
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
    """Adds up the :class:`ClassSums` of cases."""

    def __init__(self, n_cells: int) -> None:
        self._cells = CellTotals(n_cells)
        # Rational numbers: exact, and of thousands of cases no larger than of one.
        self._scalars = {f.name: Fraction() for f in fields(ClassSums) if f.name != "cells"}
        self._floats: set[str] = set()
        self._undefined: dict[str, float] = {}

    def add(self, sums: ClassSums) -> None:
        """Add the sums of one more case."""
        self._cells.add(sums.cells)
        for name in self._scalars:
            value = getattr(sums, name)
            if math.isnan(value):  # a volume, if the size of a voxel is not known
                self._undefined[name] = value
                continue
            self._scalars[name] += Fraction(value)
            if not isinstance(value, int):
                self._floats.add(name)

    def total(self) -> ClassSums:
        """The sums over all cases."""
        scalars = {
            name: float(total) if name in self._floats else int(total)
            for name, total in self._scalars.items()
        } | self._undefined
        return ClassSums(cells=self._cells.total(), **scalars)  # type: ignore[arg-type]
