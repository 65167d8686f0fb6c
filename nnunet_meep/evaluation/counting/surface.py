"""Distances between the surfaces of two masks, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

METRICS = ("hd", "hd95", "assd")


def surface_voxels(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a mask with one of their 6 neighbours (4 in 2D) outside of it, inner ones included.

    The edge of the image counts as outside; an axis of length 1 has no neighbours.

    Args:
        mask: (*shape).

    Returns:
        (*shape).
    """
    from scipy.ndimage import binary_erosion

    surface = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is not None:  # outside of it is background
        inside = np.squeeze(mask[box], tuple(i for i, n in enumerate(mask.shape) if n == 1))
        kept = binary_erosion(inside) if inside.ndim else False
        surface[box] = (inside & ~np.bool_(kept)).reshape(surface[box].shape)
    return surface


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """The smallest box that holds all of a mask; None if it is empty."""
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple({*range(mask.ndim)} - {axis})))
        if not len(occupied):
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def surface_distances_mm(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Distances between the surface voxels of two masks; see :func:`surface_voxels`.

    Args:
        reference, prediction: masks of the same shape.
        spacing_mm: size of a voxel along each axis.

    Returns:
        ``hd`` = the larger of both directed maxima (Hausdorff distance), ``hd95`` = the larger of
        both directed 95th percentiles, ``assd`` = mean over the union of both directions; NaN
        where a mask is empty.
    """
    from scipy.spatial import KDTree

    if not reference.any() or not prediction.any():
        return dict.fromkeys(METRICS, np.nan)
    surface_r, surface_p = surface_voxels(reference), surface_voxels(prediction)
    box = bounding_box(surface_r | surface_p)
    points_r = np.argwhere(surface_r[box]) * np.asarray(spacing_mm)
    points_p = np.argwhere(surface_p[box]) * np.asarray(spacing_mm)
    to_reference, _ = KDTree(points_r).query(points_p)
    to_prediction, _ = KDTree(points_p).query(points_r)
    return {
        "hd": float(max(to_reference.max(), to_prediction.max())),
        "hd95": float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
        "assd": float(np.mean(np.concatenate([to_reference, to_prediction]))),
    }
