"""Distances between the surfaces of two masks, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, find_objects
from scipy.spatial import KDTree


def surface_distances_mm(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Hausdorff distance and its 95th percentile between two masks.

    Surface voxels are those of the mask with one of their 6 neighbours (4 in 2D) outside of it,
    the edge of the image counting as outside, inner surfaces included. Axes of length 1 are
    dropped: one slice is 2D.

    Args:
        reference, prediction: masks of the same shape.
        spacing_mm: size of a voxel along each axis.

    Returns:
        ``hd`` = the larger of both directed maxima, ``hd95`` = the larger of both directed 95th
        percentiles; both NaN where a mask is empty.
    """
    if not reference.any() or not prediction.any():
        return {"hd": np.nan, "hd95": np.nan}
    axes = [i for i, n in enumerate(reference.shape) if n > 1]
    spacing = np.array([spacing_mm[i] for i in axes])
    surface_r = _surface_points(np.squeeze(reference), spacing)
    surface_p = _surface_points(np.squeeze(prediction), spacing)
    to_reference, _ = KDTree(surface_r).query(surface_p)
    to_prediction, _ = KDTree(surface_p).query(surface_r)
    return {
        "hd": float(max(to_reference.max(), to_prediction.max())),
        "hd95": float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
    }


def _surface_points(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates in mm of the surface voxels, (N, D)."""
    if mask.ndim == 0:
        return np.zeros((1, 1))
    # All that matters lies in the bounding box: outside of it is background.
    (box,) = find_objects(mask.astype(np.uint8))
    inside = mask[box]
    surface = inside & ~binary_erosion(inside)
    corner = np.array([s.start for s in box])
    return (np.argwhere(surface) + corner) * spacing
