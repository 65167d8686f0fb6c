"""From sums to numbers, and what is reported where a number does not exist.

A metric without a meaning is NaN: Dice if class and segmentation are both empty, distances if
either is, Brier+ without a voxel of the class, everything without voxels. NaN is left out of
means and counted in ``n_undefined``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_meep.evaluation.bins import ClassSums, bin_edges

BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_SEED = 0


def class_metrics(sums: ClassSums) -> dict[str, float]:
    """The metrics of one class that follow from its sums.

    - ``dice``: 2 TP / (2 TP + FP + FN).
    - ``brier``: mean of (p - y)^2 over all voxels (binary convention; Brier 1950).
    - ``brier_plus``: the same over the voxels of the class alone (stratified Brier score,
      Wallace & Dahabreh 2014).
    - ``ece``: expected calibration error, sum over bins of n_b / N * |mean p - mean y|
      (Naeini et al. 2015), of the probability of the class.
    """
    n = int(sums.count.sum())
    n_plus = sums.tp + sums.fn
    return {
        "dice": _ratio(2 * sums.tp, 2 * sums.tp + sums.fp + sums.fn),
        "brier": _ratio(sums.squared_plus + sums.squared_minus, n),
        "brier_plus": _ratio(sums.squared_plus, n_plus),
        # n_b |mean p - mean y| is |sum p - sum y|, with nothing to divide in an empty bin.
        "ece": _ratio(float(np.abs(sums.sum_p - sums.sum_y).sum()), n),
    }


def reliability_bins(sums: ClassSums) -> dict[str, list[float]]:
    """Edges (B + 1), and count, mean p and mean y of each bin (B; NaN where it is empty)."""
    n_bins = len(sums.count)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        mean_p, mean_y = sums.sum_p / sums.count, sums.sum_y / sums.count
    return {
        "edges": bin_edges(n_bins).tolist(),
        "count": sums.count.tolist(),
        "mean_p": mean_p.tolist(),
        "mean_y": mean_y.tolist(),
    }


def over_cases(values: Sequence[float]) -> dict[str, Any]:
    """One metric over the cases, NaN left out and counted.

    Returns:
        ``mean``, ``std`` (of a sample, n - 1), ``median``, ``ci95`` (percentile bootstrap of the
        mean over cases), ``n``, ``n_undefined``. What needs more cases than there are is NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    defined = array[~np.isnan(array)]
    n = len(defined)
    ci95 = [np.nan, np.nan]
    if n > 1:
        rng = np.random.default_rng(BOOTSTRAP_SEED)
        # How often each case is drawn, rather than the draws: the same, in less memory.
        times = rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP_RESAMPLES)
        ci95 = np.percentile(times @ defined / n, [2.5, 97.5]).tolist()
    return {
        "mean": float(defined.mean()) if n else np.nan,
        "std": float(defined.std(ddof=1)) if n > 1 else np.nan,
        "median": float(np.median(defined)) if n else np.nan,
        "ci95": ci95,
        "n": n,
        "n_undefined": len(array) - n,
    }


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")
