"""Miscalibration: the difference between mean probability and observed frequency.

y is 1 for voxels with the class (for the top label: predicted correctly) and 0 for others, so mean
y is the observed frequency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import Cells, Grid, bin_edges, bin_index, grid
from nnunet_meep.evaluation.metrics.statistics import bca_interval, resamples


def binned_metrics(cells: Cells, grid: Grid) -> dict[str, float]:
    """``ece``, ``mce`` and ``ace``, as defined in :func:`.scores.class_metrics`."""
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
    """Data for a reliability diagram with B bins.

    Returns:
        ``edges`` of the bins, (B + 1,), and for each bin ``count``, ``mean_p`` and ``mean_y``,
        (B,); the means are NaN in empty bins.
    """
    return bins_of_sums(*_bins(cells, grid))


def bins_of_sums(
    count: NDArray[Any], sum_p: NDArray[Any], sum_y: NDArray[Any]
) -> dict[str, list[float]]:
    """:func:`reliability_bins`, given the sums over each bin's voxels, weighted or not, (B,)."""
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        mean_p, mean_y = sum_p / count, sum_y / count
    return {
        "edges": _edges(len(count)),
        "count": count.tolist(),
        "mean_p": mean_p.tolist(),
        "mean_y": mean_y.tolist(),
    }


@lru_cache(maxsize=8)
def _edges(n_bins: int) -> list[float]:
    """The same list for all cases, of which there may be thousands."""
    edges: list[float] = bin_edges(n_bins).tolist()
    return edges


def bins_of_voxels(
    p: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64], n_bins: int
) -> dict[str, list[float]]:
    """:func:`reliability_bins` of weighted voxels.

    Args:
        p: probabilities, (N,).
        y: 1 where the class is there, otherwise 0, (N,).
        weight: how many voxels each stands for, (N,).
        n_bins: number of bins.
    """
    index = bin_index(p, n_bins)
    count, sum_p, sum_y = (
        np.bincount(index, weights=w, minlength=n_bins) for w in (weight, weight * p, weight * y)
    )
    return bins_of_sums(count, sum_p, sum_y)


def ece_of_bins(bins: Mapping[str, Sequence[float]]) -> float:
    """The ECE of the result of :func:`reliability_bins`; NaN if all bins are empty."""
    count, mean_p, mean_y = (np.asarray(bins[key], float) for key in ("count", "mean_p", "mean_y"))
    if not count.any():
        return math.nan
    return float(np.nansum(count * np.abs(mean_p - mean_y)) / count.sum())


def reliability_band(
    per_case: Sequence[dict[str, list[float]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % BCa bootstrap intervals, over cases, of the observed frequency in each bin.

    The frequency is that of the voxels of all cases together. Resamples in which no case has voxels
    in a bin are left out for this bin.

    Args:
        per_case: results of :func:`reliability_bins` for at least two cases.

    Returns:
        Lower and upper ends for each bin, (B,) each. NaN if no case has voxels in the bin; both
        equal to the frequency if only one case has.
    """
    count = np.array([bins["count"] for bins in per_case], np.float64)
    mean_y = np.array([bins["mean_y"] for bins in per_case], np.float64)
    filled = count.any(axis=0)
    sum_y = np.where(count > 0, mean_y * count, 0)[:, filled]
    n = count[:, filled]
    all_y, all_n = sum_y.sum(axis=0), n.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 where no drawn case has voxels in a bin
        resampled = np.concatenate(
            [(times @ sum_y) / (times @ n) for times in resamples(len(per_case))]
        )
        jackknife = (all_y - sum_y) / (all_n - n)
    ends = np.full((2, count.shape[1]), np.nan)
    ends[:, filled] = bca_interval(all_y / all_n, resampled, jackknife)
    return ends[0], ends[1]


#: Points on [0, 1] on which the smooth calibration error is computed.
_SMOOTH_POINTS = 1 << 14


def smooth_ece(cells: Cells) -> float:
    """Smooth calibration error (smECE): the kernel width s at which the smoothed error equals s.

    Błasiok & Nakkiran, "Smooth ECE: principled reliability diagrams via kernel smoothing" (2023),
    with their reflected Gaussian kernel of standard deviation s on [0, 1]. The residuals p - y are
    put on a regular grid over p. Smoothing then means to multiply their Fourier transform by
    exp(-(pi k s)^2 / 2).
    """
    n_cell = cells.count.sum(axis=1)
    if not len(n_cell):
        return math.nan
    n = int(n_cell.sum())
    sum_p = cells.sum_p.sum(axis=1)
    residual = (sum_p - cells.count[:, 1]) / n
    # The residual of a cell is at its mean p. It is divided between the two nearest of the points,
    # which are at (k + 1/2) / M.
    position = np.clip(sum_p / n_cell * _SMOOTH_POINTS - 0.5, 0, _SMOOTH_POINTS - 1)
    left = np.minimum(position.astype(np.intp), _SMOOTH_POINTS - 2)
    share = position - left
    on_grid = np.bincount(left, residual * (1 - share), _SMOOTH_POINTS)
    on_grid += np.bincount(left + 1, residual * share, _SMOOTH_POINTS)
    # Reflecting at 0 and 1 is the same as appending the mirror image and repeating periodically.
    spectrum = np.fft.rfft(np.concatenate([on_grid, on_grid[::-1]]))
    frequency = np.pi * np.arange(len(spectrum))

    def error(width: float) -> float:
        smoothed = np.fft.irfft(spectrum * np.exp(-0.5 * (frequency * width) ** 2))
        return float(np.abs(smoothed).sum()) / 2

    # Bisection: the smoothed error is at most 1 and decreases with the width.
    low, high = 0.0, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        if error(middle) > middle:
            low = middle
        else:
            high = middle
    return high


def _bins(
    cells: Cells, grid: Grid
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Number of voxels, sum of p and sum of y in each bin, (B,); exact, as cells make up bins."""
    return _grouped(cells, grid.bin_of_cell[cells.cell], grid.n_bins)


def _grouped(
    cells: Cells,
    group: NDArray[np.signedinteger],
    n_groups: int,
    of: NDArray[np.bool_] | slice = slice(None),
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    count, sum_y = np.zeros(n_groups, np.int64), np.zeros(n_groups, np.int64)
    np.add.at(count, group[of], cells.count[of].sum(axis=1))
    np.add.at(sum_y, group[of], cells.count[of, 1])
    sum_p = np.bincount(group[of], cells.sum_p[of].sum(axis=1), n_groups)
    return count, np.asarray(sum_p, np.float64), sum_y


def equal_mass_metrics(cells: Cells, n_bins: int) -> dict[str, float]:
    """``ece_adaptive`` and ``ece_l2_debiased``, as defined in :func:`.scores.class_metrics`."""
    n_cell = cells.count.sum(axis=1)
    n = int(n_cell.sum())
    if not n:
        return {"ece_adaptive": math.nan, "ece_l2_debiased": math.nan}
    # A cell is put into the bin of its middle voxel. Twice the rank of that is an integer.
    end = np.cumsum(n_cell)
    middle = 2 * end - n_cell
    group = np.minimum(n_bins * middle // (2 * n), n_bins - 1)
    whole = ~np.isin(cells.cell, grid(n_bins).open_cells)
    count, sum_p, sum_y = (
        sums.astype(np.float64) for sums in _grouped(cells, group, n_bins, of=whole)
    )
    # The outermost cells hold everything beyond their ends, such as most of the background of a
    # confident network, and so may span bins. Their sums are divided by the ranks in each bin.
    edges = np.arange(n_bins + 1) * (n / n_bins)
    for i in np.flatnonzero(~whole):
        share = np.diff(np.clip(edges, end[i] - n_cell[i], end[i])) / n_cell[i]
        count += share * n_cell[i]
        sum_p += share * cells.sum_p[i].sum()
        sum_y += share * cells.count[i, 1]
    filled = count > 0
    several = count > 1  # the variance cannot be estimated from a single voxel
    mean_y = sum_y[several] / count[several]
    gap = sum_p[several] / count[several] - mean_y
    squared = gap**2 - mean_y * (1 - mean_y) / (count[several] - 1)
    return {
        "ece_adaptive": math.fsum(np.abs(sum_p - sum_y)[filled]) / n,
        "ece_l2_debiased": math.sqrt(max(math.fsum(count[several] / n * squared), 0.0)),
    }


def merged_bins(parts: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Merge several results of :func:`reliability_bins` that have the same edges."""
    count = np.array([part["count"] for part in parts], np.float64)
    total = count.sum(axis=0)
    merged: dict[str, list[float]] = {**parts[0], "count": total.tolist()}
    for name in ("mean_p", "mean_y"):
        mean = np.array([part[name] for part in parts], np.float64)
        sums = np.where(count > 0, mean * count, 0).sum(axis=0)
        out = np.full(len(total), np.nan)
        merged[name] = np.divide(sums, total, out=out, where=total > 0).tolist()
    return merged
