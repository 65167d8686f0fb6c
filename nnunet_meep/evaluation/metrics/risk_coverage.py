"""Selective prediction: the error rate among the most confident voxels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import Cells, Grid

#: Shares of the voxels for which the risk is computed, ascending. They are dense near 1, because
#: nearly all voxels of an image are background and easy.
COVERAGES = 1 - np.append(np.logspace(0, -4, 81), 0)


def risk_coverage(cells: Cells, grid: Grid, *, top_label: bool) -> dict[str, list[float]]:
    """The risk-coverage curve (Geifman & El-Yaniv 2017): errors among the most confident voxels.

    Equally confident voxels are in random order, as in ``aurc``. Voxels of the same cell are
    treated as equally confident.

    Args:
        cells: cells of the top label, or of one of nnU-Net's regions.
        grid: the grid of the cells.
        top_label: True for the top label. A region is thresholded at p > 1/2, and its confidence is
            max(p, 1 - p).

    Returns:
        ``coverage`` (``COVERAGES``) and ``risk``, the error rate among this share of the voxels,
        taking the most confident first. At coverage 0, the risk is that of the most confident cell.
        NaN if there are no voxels.
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
    # Errors are spread evenly within a cell, so their number is linear between the ends of cells.
    errors = np.interp(covered, n_voxels, n_wrong)
    first = float(n_wrong[1] / n_voxels[1])
    risk = np.divide(errors, covered, out=np.full_like(covered, first), where=covered > 0)
    return {"coverage": COVERAGES.tolist(), "risk": risk.tolist()}


#: Up to this n, 1 + 1/2 + ... + 1/n is added up.
_N_ADDED = 40


def aurc_of_cells(cells: Cells) -> float:
    """``aurc``, as defined in :func:`.scores.top_label_metrics`; NaN without voxels."""
    if not len(cells.index):
        return math.nan
    wrong = cells.count[::-1, 0].astype(np.float64)  # the most confident first
    n = cells.count[::-1].sum(axis=1).astype(np.float64)
    n_before, wrong_before = np.cumsum(n) - n, np.cumsum(wrong) - wrong
    # In random order, the first j voxels of a cell include wrong * j / n of its errors on average.
    # This is the sum over j = 1 .. n of (wrong_before + wrong * j / n) / (n_before + j).
    harmonic = _harmonic(n_before + n) - _harmonic(n_before)
    risk = wrong_before * harmonic + wrong / n * (n - n_before * harmonic)
    return math.fsum(risk) / float(n.sum())


def _harmonic(n: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 + 1/2 + ... + 1/n, without Euler's constant, of whole numbers n >= 0.

    The same as ``scipy.special.digamma(n + 1)``, whose import takes longer than evaluating a small
    case.
    """
    added_up = np.cumsum([-np.euler_gamma, *(1 / np.arange(1, _N_ADDED + 1))])
    few = np.minimum(n, _N_ADDED).astype(np.intp)
    many = np.maximum(n, _N_ADDED)
    # Euler and Maclaurin's series; the terms that are left out are smaller than 1e-17.
    x = 1 / np.square(many)
    series = np.log(many) + 0.5 / many - x * (1 / 12 - x * (1 / 120 - x * (1 / 252 - x / 240)))
    return np.where(n <= _N_ADDED, added_up[few], series)
