"""Fits a calibration map for one class against the rest.

Smooth maps are fitted to the evaluator's cells. A cell (see
:mod:`nnunet_meep.evaluation.counting.bins`) is only 0.003 wide in logit p. All its voxels with the
class are treated as having their mean p, and likewise those without. The fits thus need only the
counts and mean p of the cells, not the voxels themselves. Isotonic regression, whose steps can be
narrower than a cell, is fitted to the distinct values of p (see :mod:`.values`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import Cells
from nnunet_meep.posthoc.maps import MAX_TEMPERATURE, BinaryMap, Isotonic, Platt, Temperature, logit
from nnunet_meep.posthoc.scalings import SCALINGS, BinaryScaling, fit_scaling


class NothingToLearn(ValueError):
    """The voxels do not determine a map; the message gives the reason."""


@dataclass(frozen=True)
class WeightedVoxels:
    """Weighted voxels of one class against the rest; each entry represents several voxels.

    Attributes:
        p: probabilities, (N,) float64.
        y: 1 if the voxels have the class, else 0, (N,).
        weight: how many voxels the entry represents, (N,).
    """

    p: NDArray[np.float64]
    y: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def from_cells(cls, cells: Cells) -> WeightedVoxels:
        """Up to two entries per cell: for its voxels without the class, and for those with it."""
        filled = cells.count.T > 0
        p = np.clip(cells.sum_p.T[filled] / cells.count.T[filled], 0, 1)
        y = np.broadcast_to(np.array([[0.0], [1.0]]), filled.shape)[filled]
        return cls(p, y, cells.count.T[filled].astype(np.float64))


def fit_binary(method: str, voxels: WeightedVoxels) -> BinaryMap:
    """Fit the map with the smallest log loss (for ``isotonic`` also the smallest squared error).

    Args:
        method: ``platt``, ``isotonic``, ``temperature`` or one of ``SCALINGS``.
        voxels: those of the class and of the rest.

    Raises:
        NothingToLearn: there are no voxels with the class, or none without. For methods other than
            ``isotonic`` also if p is the same everywhere, or separates the two without error: the
            best map would be infinitely steep.
    """
    if not (voxels.y == 1).any():
        raise NothingToLearn("no voxels of it in the references")
    if not (voxels.y == 0).any():
        raise NothingToLearn("no voxels but those of it in the references")
    if method == "isotonic":
        return _fit_isotonic(voxels)
    if np.ptp(voxels.p) == 0:
        raise NothingToLearn("its probabilities are all the same")
    # If a threshold separates the classes perfectly, a steeper sigmoid is always better; also if
    # some voxels of both lie on it, or if the class is where p is low.
    of_class, of_rest = (voxels.p[voxels.y == y] for y in (1, 0))
    if method == "temperature":
        if of_rest.max() < 0.5 <= of_class.min():
            raise NothingToLearn("its probabilities make no error: there is nothing to correct")
    elif of_rest.max() <= of_class.min() or of_class.max() <= of_rest.min():
        raise NothingToLearn(
            "a threshold on its probabilities separates the two without error: the best map would "
            "be infinitely steep"
        )
    if method in SCALINGS:
        both = np.stack([1 - voxels.p, voxels.p], axis=1).astype(np.float32)
        return BinaryScaling(fit_scaling(method, both, voxels.y.astype(np.intp), voxels.weight))
    return _fit_platt(voxels) if method == "platt" else _fit_temperature(voxels)


def _fit_platt(voxels: WeightedVoxels) -> Platt:
    from sklearn.linear_model import LogisticRegression

    # Without a penalty. The tolerance is small, because it applies to the gradient of the mean over
    # voxels, most of which are background.
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    with warnings.catch_warnings():
        # Said of few voxels, which a threshold nearly separates; it then does it by itself.
        warnings.filterwarnings("ignore", "(?s).*It will now resort to lbfgs")
        regression.fit(logit(voxels.p)[:, None], voxels.y, sample_weight=voxels.weight)
    return Platt(float(regression.coef_[0, 0]), float(regression.intercept_[0]))


def _fit_isotonic(voxels: WeightedVoxels) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression

    p, value = np.unique(voxels.p, return_inverse=True)
    n_voxels = np.bincount(value, weights=voxels.weight)
    frequency = np.bincount(value, weights=voxels.weight * voxels.y) / n_voxels
    # Only the order of p matters. Ranks are used because scikit-learn treats values that differ by
    # less than 1e-15 as equal.
    rank = np.arange(len(p))
    fitted = IsotonicRegression().fit_transform(rank, frequency, sample_weight=n_voxels)
    last = np.flatnonzero(np.diff(fitted) > 0)  # where each step ends, without the last step
    below, above = p[last], p[last + 1]
    # A border is half way between neighbouring values. If there is no number between them, it is
    # the lower one, because p equal to a border belongs to the lower step.
    middle = (below + above) / 2
    borders = np.where(middle < above, middle, below)
    return Isotonic(borders, fitted[[*last, len(p) - 1]])


def _fit_temperature(voxels: WeightedVoxels) -> Temperature:
    margin = np.where(voxels.y == 1, 1, -1) * logit(voxels.p)

    def loss(temperature: float) -> float:
        return float(voxels.weight @ np.logaddexp(0, -margin / temperature))

    return Temperature(best_temperature(loss))


def best_temperature(loss: Callable[[float], float]) -> float:
    """The temperature, within the allowed range, with the smallest log loss (convex in 1 / T)."""
    from scipy.optimize import minimize_scalar

    limit = np.log(MAX_TEMPERATURE)
    found = minimize_scalar(
        lambda log_t: loss(float(np.exp(log_t))),
        bounds=(-limit, limit),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.exp(found.x))
