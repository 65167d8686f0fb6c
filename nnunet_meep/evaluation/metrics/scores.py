"""From the sums of a case to its metrics, and what is reported where a number does not exist.

A metric without a meaning is NaN: Dice if class and segmentation are both empty, distances if
either is, Brier+ without a voxel of the class, the volume of a 2D image, everything without voxels.
NaN is left out of means and counted in ``n_undefined``.

``ece_adaptive``, ``ece_l2_debiased``, ``smece`` and ``aurc`` take the voxels of a cell
(:mod:`nnunet_meep.evaluation.counting.bins`) together, which moves them by less than 1e-4 on images
of any size; all others are exact. (Where all voxels lie in one cell, their order is lost, and that
can be more.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nnunet_meep.evaluation.counting.bins import CLIP, Cells, ClassSums, Grid
from nnunet_meep.evaluation.metrics.calibration import (
    binned_metrics,
    equal_mass_metrics,
    smooth_ece,
)
from nnunet_meep.evaluation.metrics.risk_coverage import aurc_of_cells


def class_metrics(sums: ClassSums, grid: Grid) -> dict[str, float]:
    """The metrics of one class that follow from its sums, by their keys in the catalogue.

    - ``dice``: 2 TP / (2 TP + FP + FN).
    - ``brier``: mean of (p - y)^2 over all voxels (binary convention; Brier 1950).
    - ``brier_plus``, ``brier_minus``: the same over the voxels of the class alone, over all others
      (stratified Brier score, Wallace & Dahabreh 2014).
    - ``nll``: mean of -log p where y = 1 and -log(1 - p) where y = 0, p clipped to
      [``CLIP``, 1 - ``CLIP``].
    - ``ece``: expected calibration error, sum over bins of n_b / N * |mean p - mean y|
      (Naeini et al. 2015), of the probability of the class; ``mce`` and ``ace`` the maximum and
      the plain mean of |mean p - mean y| over bins with voxels.
    - ``ece_adaptive``: ``ece`` with bins of equal mass (Nixon et al. 2019), equal p in one bin.
    - ``ece_l2_debiased``: root of the debiased squared calibration error (Kumar et al. 2019), bins
      of equal mass, negative squares taken as 0.
    - ``smece``: smooth calibration error (Błasiok & Nakkiran 2023).
    - ``volume_*_ml``: of the reference, of the segmentation, and expected (sum of p).
    """
    cells = sums.cells
    n_minus, n_plus = (int(n) for n in cells.count.sum(axis=0))
    n = n_minus + n_plus
    # p is 0 where y = 1, p is 1 where y = 0: misses of 1.
    missed_plus, missed_minus = _saturated(cells, grid, right=False)
    hits = sum(_saturated(cells, grid, right=True))
    plus, minus = sums.squared_plus + missed_plus, sums.squared_minus + missed_minus
    log_likelihood = (
        sums.log_likelihood
        + (missed_plus + missed_minus) * math.log(CLIP)
        + hits * math.log1p(-CLIP)
    )
    return {
        "dice": _ratio(2 * sums.tp, 2 * sums.tp + sums.fp + sums.fn),
        "brier": _ratio(plus + minus, n),
        "brier_plus": _ratio(plus, n_plus),
        "brier_minus": _ratio(minus, n_minus),
        "nll": -_ratio(log_likelihood, n),
        **binned_metrics(cells, grid),
        **equal_mass_metrics(cells, grid.n_bins),
        "smece": smooth_ece(cells),
        "volume_true_ml": sums.volume_true_ml if n else math.nan,
        "volume_pred_ml": sums.volume_pred_ml if n else math.nan,
        "volume_expected_ml": sums.volume_expected_ml if n else math.nan,
    }


def top_label_metrics(cells: Cells, grid: Grid) -> dict[str, float]:
    """The metrics of confidence = largest p, y = it is the right class.

    - ``ece``, ``mce``, ``ace``: as for a class (Guo et al. 2017).
    - ``aurc``: area under the risk-coverage curve (Geifman & El-Yaniv 2017): mean over n of the
      error rate among the n most confident voxels; among equally confident ones in random order.
    - ``accuracy``, and the errors of :func:`error_metrics`.
    """
    n_wrong, n_right = (int(n) for n in cells.count.sum(axis=0))
    n = n_wrong + n_right
    return {
        **binned_metrics(cells, grid),
        "aurc": aurc_of_cells(cells),
        "accuracy": _ratio(n_right, n),
        **_errors(n_wrong, n - math.fsum(cells.sum_p.flat), n),
    }


def error_metrics(cells: Cells, grid: Grid) -> dict[str, float]:
    """How often a region, cut at p > 1/2, is wrong and how often it expects to be.

    - ``error_rate``: mean of [(p > 1/2) != y].
    - ``error_rate_expected``: mean of 1 - max(p, 1 - p).
    - ``error_rate_ratio``: expected over actual. 1: as many errors as expected; below 1 the network
      is overconfident.
    """
    below = cells.between(0, grid.first_above_half)
    above = cells.between(grid.first_above_half, grid.n_cells)
    n_wrong = int(below.count[:, 1].sum() + above.count[:, 0].sum())
    expected = math.fsum([*below.sum_p.flat, int(above.count.sum()), *-above.sum_p.ravel()])
    return _errors(n_wrong, expected, int(cells.count.sum()))


def cases_not_segmented(dice: Sequence[float], brier_plus: Sequence[float]) -> int:
    """Whether a class is not segmented at all, over some cases.

    Args:
        dice: of the class in each case.
        brier_plus: the same; NaN where the reference does not have the class.

    Returns:
        In how many cases the reference has the class, if Dice is 0 in all of them; otherwise 0.
    """
    has_class = ~np.isnan(np.asarray(brier_plus, dtype=np.float64))
    missed = has_class & (np.asarray(dice, dtype=np.float64) == 0)
    return int(has_class.sum()) if (missed == has_class).all() else 0


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _errors(n_wrong: int, expected: float, n: int) -> dict[str, float]:
    return {
        "error_rate": _ratio(n_wrong, n),
        "error_rate_expected": _ratio(expected, n),
        "error_rate_ratio": _ratio(expected, n_wrong),
    }


def _saturated(cells: Cells, grid: Grid, *, right: bool) -> tuple[int, int]:
    """Voxels of y = 1 and of y = 0 whose p is exactly 1 or 0, rightly or wrongly so."""
    zero, one = cells.between(0, 1), cells.between(grid.n_cells - 1, grid.n_cells)
    of_plus, of_minus = (one, zero) if right else (zero, one)
    return int(of_plus.count[:, 1].sum()), int(of_minus.count[:, 0].sum())
