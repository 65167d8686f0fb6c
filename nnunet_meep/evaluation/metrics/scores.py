"""Computes the metrics of a case from its sums.

A metric that is undefined is NaN: Dice and surface Dice if both the reference and the segmentation
have no voxel of the class, surface distances if either has none, precision if the segmentation has
none, recall and Brier+ if the reference has none, expected Dice if the segmentation has none and
half a voxel is not expected either, and volumes in 2D images. If there are no voxels, all are but
the surface metrics, which are of the whole image. NaN is left out of means and counted in
``n_undefined``.

``ece_adaptive``, ``ece_l2_debiased``, ``smece`` and ``aurc`` do not distinguish the voxels within a
cell (see :mod:`nnunet_meep.evaluation.counting.bins`), which changes them by less than 1e-4 for
images of any size; all other metrics are exact. (The change can be larger if all voxels are in one
cell, because their order is then lost.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import CLIP, Cells, ClassSums, Grid
from nnunet_meep.evaluation.metrics.calibration import (
    binned_metrics,
    equal_mass_metrics,
    smooth_ece,
)
from nnunet_meep.evaluation.metrics.risk_coverage import aurc_of_cells


def class_metrics(sums: ClassSums, grid: Grid) -> dict[str, float]:
    """The metrics of one class that are computed from its sums, by their keys in the catalogue.

    p is the probability of the class; y is 1 for voxels with the class in the reference, else 0.

    - ``dice``: 2 TP / (2 TP + FP + FN). ``precision``: TP / (TP + FP). ``recall``: TP / (TP + FN).
    - ``dice_expected``: 2 sum(p s) / (sum(p) + sum(s)), where s is 1 at segmented voxels (Soft Dice
      Confidence, Borges, Pacheco & Silva 2024). ``dice_expected_error``: |``dice_expected`` -
      ``dice``|.
    - ``brier``: mean of (p - y)^2 over all voxels (binary convention; Brier 1950).
    - ``brier_plus``, ``brier_minus``: the same, over the voxels with y = 1 only, and over those
      with y = 0 only (stratified Brier score, Wallace & Dahabreh 2014).
    - ``nll``: mean of -log p where y = 1 and -log(1 - p) where y = 0, with p clipped to
      [``CLIP``, 1 - ``CLIP``].
    - ``ece``: expected calibration error, the sum over bins of n_b / N * |mean p - mean y| (Naeini
      et al. 2015). ``mce`` and ``ace`` are the maximum and the unweighted mean of
      |mean p - mean y| over the bins that have voxels.
    - ``ece_adaptive``: ``ece`` with bins of equal mass (Nixon et al. 2019); voxels with equal p are
      in the same bin.
    - ``ece_l2_debiased``: root of the debiased squared calibration error (Kumar et al. 2019) with
      bins of equal mass; 0 if the estimate of the square is negative.
    - ``smece``: smooth calibration error (Błasiok & Nakkiran 2023).
    - ``volume_true_ml``, ``volume_pred_ml``, ``volume_expected_ml``: volume in the reference, in
      the segmentation, and the expected volume (from the sum of p). ``volume_error_ml``,
      ``volume_error_abs_ml``: segmented minus true volume, and without its sign;
      ``volume_expected_error_abs_ml``: |expected - true volume|.
    """
    cells = sums.cells
    n_minus, n_plus = (int(n) for n in cells.count.sum(axis=0))
    n = n_minus + n_plus
    # p = 0 where y = 1 and p = 1 where y = 0 have a squared error of 1 each.
    missed_plus, missed_minus = _saturated(cells, grid, right=False)
    hits = sum(_saturated(cells, grid, right=True))
    plus, minus = sums.squared_plus + missed_plus, sums.squared_minus + missed_minus
    log_likelihood = (
        sums.log_likelihood
        + (missed_plus + missed_minus) * math.log(CLIP)
        + hits * math.log1p(-CLIP)
    )
    dice = _ratio(2 * sums.tp, 2 * sums.tp + sums.fp + sums.fn)
    dice_expected = expected_dice(
        sums.expected_overlap, math.fsum(cells.sum_p.flat), sums.tp + sums.fp
    )
    # Volumes of no voxels are NaN, and so are their differences.
    true_ml, pred_ml, expected_ml = (
        volume if n else math.nan
        for volume in (sums.volume_true_ml, sums.volume_pred_ml, sums.volume_expected_ml)
    )
    return {
        "dice": dice,
        "precision": _ratio(sums.tp, sums.tp + sums.fp),
        "recall": _ratio(sums.tp, sums.tp + sums.fn),
        "dice_expected": dice_expected,
        "dice_expected_error": abs(dice_expected - dice),
        "brier": _ratio(plus + minus, n),
        "brier_plus": _ratio(plus, n_plus),
        "brier_minus": _ratio(minus, n_minus),
        "nll": -_ratio(log_likelihood, n),
        **binned_metrics(cells, grid),
        **equal_mass_metrics(cells, grid.n_bins),
        "smece": smooth_ece(cells),
        "volume_true_ml": true_ml,
        "volume_pred_ml": pred_ml,
        "volume_expected_ml": expected_ml,
        "volume_error_ml": pred_ml - true_ml,
        "volume_error_abs_ml": abs(pred_ml - true_ml),
        "volume_expected_error_abs_ml": abs(expected_ml - true_ml),
    }


def top_label_metrics(cells: Cells, grid: Grid) -> dict[str, float]:
    """The top-label metrics: p is a voxel's largest probability, y is 1 if that class is correct.

    - ``ece``, ``mce``, ``ace``: as for a class (Guo et al. 2017).
    - ``aurc``: area under the risk-coverage curve (Geifman & El-Yaniv 2017), the mean over n of the
      error rate among the n most confident voxels; equally confident voxels are in random order.
    - ``accuracy``: share of correct voxels.
    - ``error_rate``, ``error_rate_expected``, ``error_rate_ratio``: as in :func:`error_metrics`.
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
    """Actual and expected errors of one of nnU-Net's regions, thresholded at p > 1/2.

    - ``error_rate``: mean of [(p > 1/2) != y].
    - ``error_rate_expected``: mean of 1 - max(p, 1 - p).
    - ``error_rate_ratio``: expected / actual. 1 if there are as many errors as the probabilities
      predict; below 1 the network is overconfident.
    """
    below = cells.between(0, grid.first_above_half)
    above = cells.between(grid.first_above_half, grid.n_cells)
    n_wrong = int(below.count[:, 1].sum() + above.count[:, 0].sum())
    expected = math.fsum([*below.sum_p.flat, int(above.count.sum()), *-above.sum_p.ravel()])
    return _errors(n_wrong, expected, int(cells.count.sum()))


def log_loss(likelihood: NDArray[np.floating], weight: NDArray[np.float64], floor: float) -> float:
    """Weighted mean of -log of the probability of what is true, in nats.

    Args:
        likelihood: that probability for each voxel, (N,).
        weight: how many voxels each stands for, (N,).
        floor: smaller probabilities count as this much.
    """
    exact = np.maximum(likelihood.astype(np.float64), floor)
    return float(np.average(-np.log(exact), weights=weight))


def cases_not_segmented(dice: Sequence[float], brier_plus: Sequence[float]) -> int:
    """Detect a class that is not segmented in any case.

    Args:
        dice: Dice of the class in each case.
        brier_plus: Brier+ of the class in each case; NaN where the reference lacks the class.

    Returns:
        The number of cases whose reference has the class, if Dice is 0 in all of these; else 0.
    """
    has_class = ~np.isnan(np.asarray(brier_plus, dtype=np.float64))
    missed = has_class & (np.asarray(dice, dtype=np.float64) == 0)
    return int(has_class.sum()) if (missed == has_class).all() else 0


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def expected_dice(overlap: float, sum_p: float, n_predicted: int) -> float:
    """``dice_expected``, see :func:`class_metrics`.

    Args:
        overlap: sum of p over the segmented voxels.
        sum_p: sum of p over all voxels.
        n_predicted: number of segmented voxels.

    Returns:
        In [0, 1]; NaN if nothing is segmented and less than half a voxel is expected: then the
        class is probably not there either, and Dice undefined.
    """
    if not n_predicted and sum_p < 0.5:
        return math.nan
    return 2 * overlap / (sum_p + n_predicted)


def _errors(n_wrong: int, expected: float, n: int) -> dict[str, float]:
    return {
        "error_rate": _ratio(n_wrong, n),
        "error_rate_expected": _ratio(expected, n),
        "error_rate_ratio": _ratio(expected, n_wrong),
    }


def _saturated(cells: Cells, grid: Grid, *, right: bool) -> tuple[int, int]:
    """Number of voxels with y = 1, and with y = 0, whose p is exactly 0 or 1.

    Args:
        cells: counts of the class.
        grid: the grid of the cells.
        right: count those where p equals y; otherwise, those where it does not.
    """
    zero, one = cells.between(0, 1), cells.between(grid.n_cells - 1, grid.n_cells)
    of_plus, of_minus = (one, zero) if right else (zero, one)
    return int(of_plus.count[:, 1].sum()), int(of_minus.count[:, 0].sum())
