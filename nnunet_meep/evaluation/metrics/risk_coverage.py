"""Selective prediction: the error rate among the most confident voxels."""

from __future__ import annotations

import math

import numpy as np

from nnunet_meep.evaluation.counting.bins import Cells, Grid

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


def aurc_of_cells(cells: Cells) -> float:
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
