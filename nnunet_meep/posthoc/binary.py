"""Fits for one class against the rest, from the cells that its voxels were counted in.

A cell of the evaluator's grid (:mod:`nnunet_meep.evaluation.counting.bins`) is 0.003 wide in logit
p: its voxels with the class, and those without, are taken to have the mean of their p. That is why
fits need no voxels, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import Cells
from nnunet_meep.posthoc.maps import MAX_TEMPERATURE, BinaryMap, Isotonic, Platt, Temperature, logit
from nnunet_meep.posthoc.scalings import SCALINGS, BinaryScaling, fit_scaling


class NothingToLearn(ValueError):
    """The voxels say nothing about a map; ``str()`` of it says why."""


@dataclass(frozen=True)
class WeightedVoxels:
    """Voxels of one class against the rest, each standing for several.

    Attributes:
        p: probabilities, (N,) float64.
        y: whether they are of the class, (N,), 0 or 1.
        weight: how many voxels they stand for, (N,).
    """

    p: NDArray[np.float64]
    y: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def from_cells(cls, cells: Cells) -> WeightedVoxels:
        """Two for each cell: its voxels without the class, and those with it."""
        filled = cells.count.T > 0
        p = np.clip(cells.sum_p.T[filled] / cells.count.T[filled], 0, 1)
        y = np.broadcast_to(np.array([[0.0], [1.0]]), filled.shape)[filled]
        return cls(p, y, cells.count.T[filled].astype(np.float64))


def fit_binary(method: str, cells: Cells) -> BinaryMap:
    """The map that makes the log loss smallest; for ``isotonic`` the squared error as well.

    Args:
        method: ``platt``, ``isotonic``, ``temperature`` or one of ``SCALINGS``.
        cells: counts and sums of p of the class.

    Raises:
        NothingToLearn: there are no voxels of the class, or none of others, or p is the same
            everywhere, or the best map would be infinitely steep because p makes no error.
    """
    voxels = WeightedVoxels.from_cells(cells)
    if not (voxels.y == 1).any():
        raise NothingToLearn("no voxels of it in the references")
    if not (voxels.y == 0).any():
        raise NothingToLearn("no voxels but those of it in the references")
    if method == "isotonic":
        return _fit_isotonic(cells)
    if np.ptp(voxels.p) == 0:
        raise NothingToLearn("its probabilities are all the same")
    # Any steeper sigmoid is better still.
    border = 0.5 if method == "temperature" else float(voxels.p[voxels.y == 1].min())
    if (voxels.p[voxels.y == 0] < border).all() and (voxels.p[voxels.y == 1] >= border).all():
        raise NothingToLearn("its probabilities make no error: there is none to learn from")
    if method in SCALINGS:
        both = np.stack([1 - voxels.p, voxels.p], axis=1).astype(np.float32)
        return BinaryScaling(fit_scaling(method, both, voxels.y.astype(np.intp), voxels.weight))
    return _fit_platt(voxels) if method == "platt" else _fit_temperature(voxels)


def _fit_platt(voxels: WeightedVoxels) -> Platt:
    from sklearn.linear_model import LogisticRegression

    # Without a penalty. The tolerance is of the gradient of the mean, of which most is background.
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    regression.fit(logit(voxels.p)[:, None], voxels.y, sample_weight=voxels.weight)
    return Platt(float(regression.coef_[0, 0]), float(regression.intercept_[0]))


def _fit_isotonic(cells: Cells) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression

    # Of a cell as a whole: between its two means there is nothing to be learnt.
    count = cells.count.sum(axis=1)
    p, cell = np.unique(np.clip(cells.sum_p.sum(axis=1) / count, 0, 1), return_inverse=True)
    n_voxels = np.bincount(cell, weights=count)
    frequency = np.bincount(cell, weights=cells.count[:, 1]) / n_voxels
    # Only the order of p matters. By rank, because scikit-learn takes p within 1e-15 as equal.
    rank = np.arange(len(p))
    fitted = IsotonicRegression().fit_transform(rank, frequency, sample_weight=n_voxels)
    last = np.flatnonzero(np.diff(fitted) > 0)  # of each step but the last one
    # Half way to the next cell, where in the midst of others the two cells meet.
    borders = (p[last] + p[last + 1]) / 2
    return Isotonic(borders, fitted[[*last, len(p) - 1]])


def _fit_temperature(voxels: WeightedVoxels) -> Temperature:
    margin = np.where(voxels.y == 1, 1, -1) * logit(voxels.p)

    def loss(temperature: float) -> float:
        return float(voxels.weight @ np.logaddexp(0, -margin / temperature))

    return Temperature(best_temperature(loss))


def best_temperature(loss: Callable[[float], float]) -> float:
    """Where a log loss, which is convex in 1 / T, is smallest in the range of temperatures."""
    from scipy.optimize import minimize_scalar

    limit = np.log(MAX_TEMPERATURE)
    found = minimize_scalar(
        lambda log_t: loss(float(np.exp(log_t))),
        bounds=(-limit, limit),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.exp(found.x))
