"""From sums to numbers, and what is reported where a number does not exist.

A metric without a meaning is NaN: Dice if class and segmentation are both empty, distances if
either is, Brier+ without a voxel of the class, the volume of a 2D image, everything without voxels.
NaN is left out of means and counted in ``n_undefined``.

``ece_adaptive``, ``ece_l2_debiased``, ``smece`` and ``aurc`` take the voxels of a cell
(:mod:`.bins`) together, which moves them by less than 1e-4 on images of any size; all others are
exact. (Where all voxels lie in one cell, their order is lost, and that can be more.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.bins import CLIP, Cells, ClassSums, Grid, bin_edges

BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_SEED = 0

#: Of each class, from its sums, in the order of tables.
CLASS_METRICS = (
    "dice",
    "brier",
    "brier_plus",
    "brier_minus",
    "nll",
    "ece",
    "mce",
    "ace",
    "ece_adaptive",
    "ece_l2_debiased",
    "smece",
    "volume_true_ml",
    "volume_pred_ml",
    "volume_expected_ml",
)
#: Of errors: of the top label, or of each region.
ERROR_METRICS = ("error_rate", "error_rate_expected", "error_rate_ratio")
#: Of the top label.
TOP_LABEL_METRICS = ("ece", "mce", "ace", "aurc", "accuracy", *ERROR_METRICS)


def class_metrics(sums: ClassSums, grid: Grid) -> dict[str, float]:
    """The metrics of one class that follow from its sums; keys are ``CLASS_METRICS``.

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
        **_equal_mass(cells, grid.n_bins),
        "smece": smooth_ece(cells),
        "volume_true_ml": sums.volume_true_ml if n else math.nan,
        "volume_pred_ml": sums.volume_pred_ml if n else math.nan,
        "volume_expected_ml": sums.volume_expected_ml if n else math.nan,
    }


def top_label_metrics(cells: Cells, grid: Grid) -> dict[str, float]:
    """The metrics of confidence = largest p, y = it is the right class; ``TOP_LABEL_METRICS``.

    - ``ece``, ``mce``, ``ace``: as for a class (Guo et al. 2017).
    - ``aurc``: area under the risk-coverage curve (Geifman & El-Yaniv 2017): mean over n of the
      error rate among the n most confident voxels; among equally confident ones in random order.
    - ``accuracy``, and the errors of :func:`error_metrics`.
    """
    n_wrong, n_right = (int(n) for n in cells.count.sum(axis=0))
    n = n_wrong + n_right
    return {
        **binned_metrics(cells, grid),
        "aurc": _aurc(cells),
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


def binned_metrics(cells: Cells, grid: Grid) -> dict[str, float]:
    """``ece``, ``mce`` and ``ace`` of :func:`class_metrics`."""
    count, sum_p, sum_y = _bins(cells, grid)
    filled = count > 0
    if not filled.any():
        return dict.fromkeys(("ece", "mce", "ace"), math.nan)
    # n_b |mean p - mean y| is |sum p - sum y|.
    distance = np.abs(sum_p - sum_y)[filled]
    gap = distance / count[filled]
    return {
        "ece": math.fsum(distance) / int(count.sum()),
        "mce": float(gap.max()),
        "ace": math.fsum(gap) / len(gap),
    }


def reliability_bins(cells: Cells, grid: Grid) -> dict[str, list[float]]:
    """Edges (B + 1), and count, mean p and mean y of each bin (B; NaN where it is empty)."""
    count, sum_p, sum_y = _bins(cells, grid)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        mean_p, mean_y = sum_p / count, sum_y / count
    return {
        "edges": bin_edges(grid.n_bins).tolist(),
        "count": count.tolist(),
        "mean_p": mean_p.tolist(),
        "mean_y": mean_y.tolist(),
    }


def reliability_band(
    per_case: Sequence[dict[str, list[float]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % BCa bootstrap intervals over cases of the pooled observed frequencies.

    A resample without a case that has voxels in a bin is left out there.

    Args:
        per_case: what :func:`reliability_bins` gives, of at least two cases.

    Returns:
        Lower and upper end for each bin, (B,) each; NaN where no case has voxels, the frequency
        itself where a single case has some.
    """
    count = np.array([bins["count"] for bins in per_case], np.float64)
    mean_y = np.array([bins["mean_y"] for bins in per_case], np.float64)
    filled = count.any(axis=0)
    sum_y = np.where(count > 0, mean_y * count, 0)[:, filled]
    n = count[:, filled]
    all_y, all_n = sum_y.sum(axis=0), n.sum(axis=0)
    times = _resamples(len(per_case))
    with np.errstate(invalid="ignore"):  # 0 / 0: no case with voxels in this bin is left
        resampled = (times @ sum_y) / (times @ n)
        jackknife = (all_y - sum_y) / (all_n - n)
    ends = np.full((2, count.shape[1]), np.nan)
    ends[:, filled] = bca_interval(all_y / all_n, resampled, jackknife)
    return ends[0], ends[1]


#: Shares of the voxels for which the risk is given, ascending; dense near 1, because background,
#: which is easy, is nearly all of an image.
COVERAGES = 1 - np.append(np.logspace(0, -4, 81), 0)


def risk_coverage(cells: Cells, grid: Grid, *, top_label: bool) -> dict[str, list[float]]:
    """The risk-coverage curve (Geifman & El-Yaniv 2017): errors among the most confident voxels.

    Equally confident voxels come in random order, as in ``aurc``; a cell's voxels count as equal.

    Args:
        cells: of the largest p of each voxel with y = it is right, or of a region's p.
        grid: the cells' grid.
        top_label: which of the two. A region is cut at p > 1/2, its confidence is max(p, 1 - p).

    Returns:
        ``coverage`` (``COVERAGES``), ``risk``: the error rate among that share of the voxels, the
        most confident ones; at 0 that of the most confident cell. NaN without voxels.
    """
    n = cells.count.sum(axis=1)
    if not len(n):
        return {"coverage": COVERAGES.tolist(), "risk": [math.nan] * len(COVERAGES)}
    mean_p = cells.sum_p.sum(axis=1) / n
    above = cells.cell >= (0 if top_label else grid.first_above_half)
    confidence = np.where(above, mean_p, 1 - mean_p)
    wrong = np.where(above, cells.count[:, 0], cells.count[:, 1])
    order = np.argsort(-confidence, kind="stable")
    n_voxels = np.concatenate([[0], np.cumsum(n[order])])
    n_wrong = np.concatenate([[0], np.cumsum(wrong[order])])
    covered = COVERAGES * n_voxels[-1]
    # Within a cell errors come evenly, so that their number is linear between the cells' ends.
    errors = np.interp(covered, n_voxels, n_wrong)
    first = float(n_wrong[1] / n_voxels[1])
    risk = np.divide(errors, covered, out=np.full_like(covered, first), where=covered > 0)
    return {"coverage": COVERAGES.tolist(), "risk": risk.tolist()}


#: Points on [0, 1] on which the smooth calibration error is computed.
_SMOOTH_POINTS = 1 << 14


def smooth_ece(cells: Cells) -> float:
    """Smooth calibration error: the width s of a kernel at which the smoothed error equals s.

    Błasiok & Nakkiran, "Smooth ECE: principled reliability diagrams via kernel smoothing" (2023),
    with their reflected Gaussian kernel of standard deviation s on [0, 1]. The residuals p - y lie
    on a grid; there that kernel is a product with exp(-(pi k s)^2 / 2) in the Fourier transform.
    """
    n_cell = cells.count.sum(axis=1)
    if not len(n_cell):
        return math.nan
    n = int(n_cell.sum())
    sum_p = cells.sum_p.sum(axis=1)
    residual = (sum_p - cells.count[:, 1]) / n
    # Each cell at its mean p, shared by the two points beside it; points lie at (k + 1/2) / M.
    position = np.clip(sum_p / n_cell * _SMOOTH_POINTS - 0.5, 0, _SMOOTH_POINTS - 1)
    left = np.minimum(position.astype(np.intp), _SMOOTH_POINTS - 2)
    share = position - left
    on_grid = np.bincount(left, residual * (1 - share), _SMOOTH_POINTS)
    on_grid += np.bincount(left + 1, residual * share, _SMOOTH_POINTS)
    # Reflection at 0 and 1 is a signal with its mirror image, repeated without end.
    spectrum = np.fft.rfft(np.concatenate([on_grid, on_grid[::-1]]))
    frequency = np.pi * np.arange(len(spectrum))

    def error(width: float) -> float:
        smoothed = np.fft.irfft(spectrum * np.exp(-0.5 * (frequency * width) ** 2))
        return float(np.abs(smoothed).sum()) / 2

    # The error falls as the width grows, from at most 1.
    low, high = 0.0, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        if error(middle) > middle:
            low = middle
        else:
            high = middle
    return high


def over_cases(values: Sequence[float]) -> dict[str, Any]:
    """One metric over the cases, NaN left out and counted.

    Returns:
        ``mean``, ``std`` (of a sample, n - 1), ``median``, ``ci95`` (BCa bootstrap interval of the
        mean over cases; the mean twice if all cases are equal), ``n``, ``n_undefined``. What needs
        more cases than there are is NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    defined = array[~np.isnan(array)]
    n = len(defined)
    mean = math.fsum(defined) / n if n else np.nan
    ci95 = [np.nan, np.nan]
    if n > 1:
        resampled = _resamples(n) @ defined / n
        jackknife = (n * mean - defined) / (n - 1)
        ends = bca_interval(np.array([mean]), resampled[:, None], jackknife[:, None])
        ci95 = ends[:, 0].tolist()
    return {
        "mean": mean,
        "std": float(defined.std(ddof=1)) if n > 1 else np.nan,
        "median": float(np.median(defined)) if n else np.nan,
        "ci95": ci95,
        "n": n,
        "n_undefined": len(array) - n,
    }


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


def bca_interval(
    estimate: NDArray[np.float64], resampled: NDArray[np.float64], jackknife: NDArray[np.float64]
) -> NDArray[np.float64]:
    """95 % bootstrap intervals, bias-corrected and accelerated (BCa).

    Efron, "Better bootstrap confidence intervals" (1987). Unlike plain percentiles they allow for a
    statistic that is biased or skewed, as means over few cases are.

    Args:
        estimate: K statistics of a sample, (K,).
        resampled: the same of R resamples, (R, K). NaN, where a resample does not give the
            statistic, is left out; each has to be there once.
        jackknife: the same of the sample without each of its members, (n, K). NaN is left out.

    Returns:
        Lower and upper ends, (2, K); ``estimate`` itself where no resample differs from it.
    """
    from scipy.special import ndtr, ndtri

    n = (~np.isnan(resampled)).sum(axis=0)
    # A tie counts as half below. Sums in another order differ in their last digits, which would
    # decide the ties, and with few cases many resamples are tied with the estimate.
    tolerance = 1e-10 * np.nanmax(np.abs(resampled), axis=0)
    excess = resampled - estimate
    tied = np.abs(excess) <= tolerance
    below = (excess < -tolerance).sum(axis=0) + tied.sum(axis=0) / 2
    # At least half a resample on either side: then z is below 6 and the acceleration, which is at
    # most 1/6, leaves the denominator positive.
    bias = ndtri(np.clip(below, 0.5, n - 0.5) / n)

    influence = np.nanmean(jackknife, axis=0) - jackknife
    scale = np.nansum(influence**2, axis=0) ** 1.5
    skew = np.nansum(influence**3, axis=0)
    acceleration = np.divide(skew, 6 * scale, out=np.zeros_like(skew), where=scale > 0)

    z = bias + ndtri(np.array([[0.025], [0.975]]))
    rank = ndtr(bias + z / (1 - acceleration * z)) * (n - 1)
    ordered = np.sort(resampled, axis=0)  # NaN last
    below_rank = np.floor(rank).astype(np.intp)
    low = np.take_along_axis(ordered, below_rank, axis=0)
    high = np.take_along_axis(ordered, np.minimum(below_rank + 1, n - 1), axis=0)
    ends = low + (rank - below_rank) * (high - low)
    return np.where(tied.sum(axis=0) == n, estimate, ends)


@lru_cache(maxsize=2)
def _resamples(n: int) -> NDArray[np.float64]:
    # How often each case is drawn, rather than the draws: the same, in less memory.
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    times = rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP_RESAMPLES)
    return times.astype(np.float64)


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


def _bins(
    cells: Cells, grid: Grid
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Voxels, sum of p and of y in each bin, (B,): bins are unions of cells."""
    return _grouped(cells, grid.bin_of_cell[cells.cell], grid.n_bins)


def _grouped(
    cells: Cells, group: NDArray[np.signedinteger], n_groups: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    count, sum_y = np.zeros(n_groups, np.int64), np.zeros(n_groups, np.int64)
    np.add.at(count, group, cells.count.sum(axis=1))
    np.add.at(sum_y, group, cells.count[:, 1])
    sum_p = np.asarray(np.bincount(group, cells.sum_p.sum(axis=1), n_groups), np.float64)
    return count, sum_p, sum_y


def _equal_mass(cells: Cells, n_bins: int) -> dict[str, float]:
    n_cell = cells.count.sum(axis=1)
    n = int(n_cell.sum())
    if not n:
        return {"ece_adaptive": math.nan, "ece_l2_debiased": math.nan}
    # A cell goes where its middle voxel belongs by rank. Twice the rank, so that it is whole.
    middle = 2 * np.cumsum(n_cell) - n_cell
    group = np.minimum(n_bins * middle // (2 * n), n_bins - 1)
    count, sum_p, sum_y = _grouped(cells, group, n_bins)
    filled = count > 0
    several = count > 1  # a single voxel says nothing of its own variance
    mean_y = sum_y[several] / count[several]
    gap = sum_p[several] / count[several] - mean_y
    squared = gap**2 - mean_y * (1 - mean_y) / (count[several] - 1)
    return {
        "ece_adaptive": math.fsum(np.abs(sum_p - sum_y)[filled]) / n,
        "ece_l2_debiased": math.sqrt(max(math.fsum(count[several] / n * squared), 0.0)),
    }


def _aurc(cells: Cells) -> float:
    from scipy.special import digamma

    if not len(cells.index):
        return math.nan
    wrong = cells.count[::-1, 0].astype(np.float64)  # the most confident first
    n = cells.count[::-1].sum(axis=1).astype(np.float64)
    n_before, wrong_before = np.cumsum(n) - n, np.cumsum(wrong) - wrong
    # Sum over j = 1 .. n of (wrong_before + wrong j / n) / (n_before + j): in random order, the
    # j-th voxel of a cell has wrong j / n errors of its cell up to it.
    harmonic = digamma(n_before + n + 1) - digamma(n_before + 1)
    risk = wrong_before * harmonic + wrong / n * (n - n_before * harmonic)
    return math.fsum(risk) / float(n.sum())
