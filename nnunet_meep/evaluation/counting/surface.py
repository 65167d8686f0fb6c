"""Distances between the surfaces of two masks, and their agreement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

METRICS = ("hd", "hd95", "assd", "nsd")


def surface_voxels(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a mask that have at least one of their 6 neighbours (4 in 2D) outside the mask.

    Voxels next to holes are included. Beyond the edge of the image is outside; along an axis of
    length 1 there are no neighbours.

    Args:
        mask: (*shape).

    Returns:
        Mask of the surface voxels, (*shape).
    """
    from scipy.ndimage import binary_erosion

    surface = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is not None:  # computed inside the box only: there is nothing beyond
        inside = np.squeeze(mask[box], tuple(i for i, n in enumerate(mask.shape) if n == 1))
        kept = binary_erosion(inside) if inside.ndim else False
        surface[box] = (inside & ~np.bool_(kept)).reshape(surface[box].shape)
    return surface


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """The smallest box that contains the whole mask; None if the mask is empty."""
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple({*range(mask.ndim)} - {axis})))
        if not len(occupied):
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def surface_metrics(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> dict[str, float]:
    """Compare the surface voxels of two masks; see :func:`surface_voxels`.

    Args:
        reference, prediction: masks of the same shape.
        spacing_mm: size of a voxel along each axis.
        tolerance_mm: distance up to which surfaces agree, at least 0.

    Returns:
        Distances in mm, NaN if a mask is empty. ``hd``: Hausdorff distance, the larger of the
        maxima in both directions. ``hd95``: the larger of the 95th percentiles in both directions.
        ``assd``: average symmetric surface distance, the mean over the distances in both directions
        together.

        ``nsd``: normalised surface Dice (Nikolov et al. 2018), the share of the surface voxels of
        both masks that are within the tolerance of the other surface; 0 if one mask is empty, NaN
        if both are.
    """
    from scipy.spatial import KDTree

    empty = not reference.any(), not prediction.any()
    if any(empty):
        return {**dict.fromkeys(METRICS, np.nan), "nsd": np.nan if all(empty) else 0.0}
    surface_r, surface_p = surface_voxels(reference), surface_voxels(prediction)
    box = bounding_box(surface_r | surface_p)
    points_r = np.argwhere(surface_r[box]) * np.asarray(spacing_mm)
    points_p = np.argwhere(surface_p[box]) * np.asarray(spacing_mm)
    to_reference, _ = KDTree(points_r).query(points_p)
    to_prediction, _ = KDTree(points_p).query(points_r)
    distances = np.concatenate([to_reference, to_prediction])
    return {
        "hd": float(max(to_reference.max(), to_prediction.max())),
        "hd95": float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
        "assd": float(np.mean(distances)),
        # Some file formats have the spacing in float32, so allow for its rounding.
        "nsd": float(np.mean(distances <= tolerance_mm * (1 + 1e-6))),
    }
