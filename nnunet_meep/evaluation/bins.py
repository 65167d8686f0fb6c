"""Sums that merge: all that is kept of a class in a case, and the rule of the bins.

Bins are equal in width over [0, 1] and half open, ``(l, u]``, with p = 0 in the first one. Sums
are float64 and counts int64: float32 stops counting at 2**24, fewer voxels than one heart scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassSums:
    """Sums over the valid voxels of one class; ``a + b`` is the sums over both.

    Attributes:
        tp, fp, fn: voxels of nnU-Net's segmentation against the reference.
        squared_plus, squared_minus: sum of (p - y)**2 where y = 1, where y = 0.
        count, sum_p, sum_y: per bin, shape (B,): voxels, sum of p, voxels with y = 1.
    """

    tp: int
    fp: int
    fn: int
    squared_plus: float
    squared_minus: float
    count: NDArray[np.int64]
    sum_p: NDArray[np.float64]
    sum_y: NDArray[np.int64]

    def __add__(self, other: ClassSums) -> ClassSums:
        return ClassSums(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.squared_plus + other.squared_plus,
            self.squared_minus + other.squared_minus,
            self.count + other.count,
            self.sum_p + other.sum_p,
            self.sum_y + other.sum_y,
        )


def bin_edges(n_bins: int) -> NDArray[np.float64]:
    """Edges of ``n_bins`` equal bins of [0, 1], shape (n_bins + 1,)."""
    return np.linspace(0, 1, n_bins + 1)


def bin_index(p: NDArray[np.floating], n_bins: int) -> NDArray[np.intp]:
    """The bin of each probability: the one whose ``(l, u]`` holds it, 0 for p = 0."""
    # In float64, so that a float32 probability is compared by its value with the exact edges.
    return np.searchsorted(bin_edges(n_bins)[1:], p.astype(np.float64, copy=False), side="left")


def class_sums(
    p: NDArray[np.floating], y: NDArray[np.bool_], predicted: NDArray[np.bool_], n_bins: int
) -> ClassSums:
    """The sums over some voxels of one class.

    Args:
        p: probabilities of the class in [0, 1], shape (N,).
        y: whether the voxel is of the class in the reference, shape (N,).
        predicted: whether it is in the segmentation, shape (N,).
        n_bins: number of bins, at least 1.
    """
    p = p.astype(np.float64, copy=False)
    index = bin_index(p, n_bins)
    count = np.bincount(index, minlength=n_bins)
    sum_p = np.bincount(index, weights=p, minlength=n_bins)
    sum_y = np.bincount(index[y], minlength=n_bins)
    tp = int(np.count_nonzero(predicted & y))
    return ClassSums(
        tp=tp,
        fp=int(np.count_nonzero(predicted)) - tp,
        fn=int(np.count_nonzero(y)) - tp,
        squared_plus=float(np.square(1 - p[y]).sum()),
        squared_minus=float(np.square(p[~y]).sum()),
        count=count.astype(np.int64, copy=False),
        sum_p=sum_p.astype(np.float64, copy=False),
        sum_y=sum_y.astype(np.int64, copy=False),
    )
