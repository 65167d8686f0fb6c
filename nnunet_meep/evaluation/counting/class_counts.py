"""The counts of one class, and which loops over voxels count them.

Images of few voxels are counted with NumPy: loading the compiled loops would take longer than the
counting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import FEW_VOXELS, Cells, ClassSums, grid


def loops_for(n_voxels: int) -> ModuleType:
    """The module with the loops for images of this size: :mod:`.few_voxels` or :mod:`.loops`.

    Both have ``ClassCounter``, ``compare_with_largest``, ``take_larger``, ``count_pairs`` and
    ``take_where``.
    """
    if n_voxels <= FEW_VOXELS:
        from nnunet_meep.evaluation.counting import few_voxels

        return few_voxels
    from nnunet_meep.evaluation.counting import loops

    return loops


@dataclass(frozen=True)
class ClassCounts:
    """Result of a :class:`ClassCounter`; see ``ClassSums``. Without ``score`` the sums are 0."""

    cells: Cells
    squared_minus: float
    squared_plus: float
    log_likelihood: float


def count_voxels(
    p: NDArray[np.floating], y: NDArray[np.bool_], predicted: NDArray[np.bool_], n_bins: int
) -> ClassSums:
    """The sums of one class for voxels in memory; the volume of a voxel is taken as 1 ml.

    Args:
        p: probabilities of the class in [0, 1], (N,).
        y: whether the voxel has the class in the reference, (N,).
        predicted: whether it has the class in the segmentation, (N,).
        n_bins: number of bins, 1 to ``MAX_BINS``.

    Raises:
        ValueError: values of p are not probabilities.
    """
    y_of_code = np.array([0, 1], np.uint8)
    counter = loops_for(len(p)).ClassCounter(grid(n_bins), y_of_code, score=True)
    exact = np.ascontiguousarray(p, np.float64 if p.dtype == np.float64 else np.float32)
    n_bad, _ = counter.add(exact, y.astype(np.uint8))
    if n_bad:
        raise ValueError(f"p: expected probabilities in [0, 1], found {n_bad} values that are none")
    tp = int(np.count_nonzero(predicted & y))
    return class_sums(
        counter.counted(),
        expected_overlap=float(np.clip(exact[predicted], 0, 1).sum(dtype=np.float64)),
        tp=tp,
        fp=int(np.count_nonzero(predicted)) - tp,
        fn=int(np.count_nonzero(y)) - tp,
        voxel_ml=1.0,
    )


def class_sums(
    counted: ClassCounts, *, expected_overlap: float, tp: int, fp: int, fn: int, voxel_ml: float
) -> ClassSums:
    """Combine the counts of a class's probabilities and of its segmentation."""
    return ClassSums(
        tp=tp,
        fp=fp,
        fn=fn,
        expected_overlap=expected_overlap,
        squared_plus=counted.squared_plus,
        squared_minus=counted.squared_minus,
        log_likelihood=counted.log_likelihood,
        volume_true_ml=(tp + fn) * voxel_ml,
        volume_pred_ml=(tp + fp) * voxel_ml,
        volume_expected_ml=math.fsum(counted.cells.sum_p.flat) * voxel_ml,
        cells=counted.cells,
    )
