"""Every metric as its equation says it, on all voxels: slow, in float64, and without cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLIP = 1e-12

P = NDArray[np.float64]
Y = NDArray[np.bool_]


def brier(p: P, y: Y) -> float:
    return float(np.mean((p - y) ** 2))


def brier_plus(p: P, y: Y) -> float:
    return brier(p[y], y[y])


def brier_minus(p: P, y: Y) -> float:
    return brier(p[~y], y[~y])


def nll(p: P, y: Y) -> float:
    p = np.clip(p, CLIP, 1 - CLIP)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def dice(predicted: Y, y: Y) -> float:
    return float(2 * (predicted & y).sum() / (predicted.sum() + y.sum()))


def equal_width(p: P, n_bins: int) -> NDArray[np.intp]:
    """b where ``b / B < p <= (b + 1) / B``; 0 where p = 0."""
    edges = np.linspace(0, 1, n_bins + 1)
    return np.clip(np.digitize(p, edges, right=True) - 1, 0, n_bins - 1)


def equal_mass(p: P, n_bins: int) -> NDArray[np.intp]:
    """``floor(B * r / N)``, r the rank of the middle one of all voxels with the same p."""
    _, which, n = np.unique(p, return_inverse=True, return_counts=True)
    r = np.cumsum(n) - n / 2
    return np.floor(n_bins * r / len(p)).astype(np.intp)[which]


def gaps(p: P, y: Y, group: NDArray[np.intp]) -> tuple[P, P]:
    """``n_b / N`` and ``|mean p - mean y|`` of each group with voxels."""
    members = [group == b for b in np.unique(group)]
    share = np.array([inside.mean() for inside in members])
    return share, np.array([abs(p[inside].mean() - y[inside].mean()) for inside in members])


def ece(p: P, y: Y, n_bins: int) -> float:
    share, gap = gaps(p, y, equal_width(p, n_bins))
    return float((share * gap).sum())


def mce(p: P, y: Y, n_bins: int) -> float:
    return float(gaps(p, y, equal_width(p, n_bins))[1].max())


def ace(p: P, y: Y, n_bins: int) -> float:
    return float(gaps(p, y, equal_width(p, n_bins))[1].mean())


def ece_adaptive(p: P, y: Y, n_bins: int) -> float:
    share, gap = gaps(p, y, equal_mass(p, n_bins))
    return float((share * gap).sum())


def ece_l2_debiased(p: P, y: Y, n_bins: int) -> float:
    """Kumar et al. 2019: ``sqrt(sum_b n_b / N * (gap^2 - mean y (1 - mean y) / (n_b - 1)))``."""
    group = equal_mass(p, n_bins)
    square = 0.0
    for b in np.unique(group):
        inside = group == b
        n, mean_y = inside.sum(), y[inside].mean()
        if n > 1:
            gap = p[inside].mean() - mean_y
            square += n / len(p) * (gap**2 - mean_y * (1 - mean_y) / (n - 1))
    return float(np.sqrt(max(square, 0)))


def smoothed_error(p: P, y: Y, width: float) -> float:
    """Integral over t in [0, 1] of ``|mean_i (p_i - y_i) K(t, p_i)|``.

    K(t, p) is the sum of Gaussians of this width around p and around all its mirror images at 0 and
    1, which are 2 k + p and 2 k - p.
    """
    value, which = np.unique(p, return_inverse=True)
    residual = np.bincount(which, p - y) / len(p)
    reach = 6 * width
    shifts = [2 * k for k in range(-int(reach) - 1, int(reach) + 2)]
    images = np.concatenate([image for s in shifts for image in (s + value, s - value)])
    weights = np.tile(residual, 2 * len(shifts))
    near = (images > -reach) & (images < 1 + reach)
    images, weights = images[near], weights[near]
    order = np.argsort(images)
    images, weights = images[order], weights[order]
    n_points = int(np.clip(20 / width, 200, 20_000))
    integral = 0.0
    for t in (np.arange(n_points) + 0.5) / n_points:
        near = slice(*np.searchsorted(images, [t - reach, t + reach]))
        kernel = np.exp(-(((t - images[near]) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
        integral += abs(weights[near] @ kernel) / n_points
    return float(integral)


def smece(p: P, y: Y) -> float:
    """The width that equals the smoothed error, by bisection."""
    low, high = 0.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        if smoothed_error(p, y, middle) > middle:
            low = middle
        else:
            high = middle
    return high


def aurc(confidence: P, correct: Y) -> float:
    """Mean over n of the error rate of the n most confident; of equal ones each has their rate."""
    value, which, n = np.unique(-confidence, return_inverse=True, return_counts=True)
    rate = np.bincount(which, ~correct, len(value)) / n
    errors = np.cumsum(rate[np.sort(which)])
    return float(np.mean(errors / np.arange(1, len(errors) + 1)))


def error_rate(p: P, y: Y) -> float:
    return float(np.mean((p > 0.5) != y))


def error_rate_expected(p: P, y: Y) -> float:
    return float(np.mean(1 - np.maximum(p, 1 - p)))


def error_rate_ratio(p: P, y: Y) -> float:
    return error_rate_expected(p, y) / error_rate(p, y)
