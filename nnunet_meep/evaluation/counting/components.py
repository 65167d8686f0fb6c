"""Components of a class in the segmentation and in the reference, and which of them match.

A component is a set of voxels of the mask that touch each other by a face, an edge or a corner (26
neighbours in 3D, 8 in 2D). Ignored voxels belong to neither mask, so that they may divide one.

Matching is one to one: pairs whose intersection over union (IoU) is at least ``MATCH_IOU`` are
taken in descending order of their IoU, each component once (as panoptica does; Kofler et al. 2023).
The threshold is nnDetection's for lesions (Baumgartner et al. 2021): it asks whether a lesion was
found, not how well it was outlined. The matches at a higher threshold are those of these matches
whose IoU reaches it, because they are taken first.

Small components are left out of both masks alike, before anything is matched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.surface import bounding_box

#: The least intersection over union of a component and its match.
MATCH_IOU = 0.1
#: Relative. NIfTI stores the size of a voxel in single precision.
_SIZE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Components:
    """The components of a mask; each list has one entry for each of them.

    Attributes:
        size: volume in mm^3; of 2D images, area in mm^2.
        centre: the voxel nearest to the mean of its voxels, as indices along the axes of the
            probabilities, counted from 0.
        match: which component of the other mask it matches; None: none.
    """

    size: list[float]
    centre: list[list[int]]
    match: list[int | None]


@dataclass(frozen=True)
class Lesions:
    """The components of one class in one case.

    Attributes:
        predicted, reference: of the segmentation and of the reference.
        iou: IoU of each predicted component with its match; 0 without one.
        mean_p, max_p: mean and largest probability of the class in each predicted component.
    """

    predicted: Components
    reference: Components
    iou: list[float]
    mean_p: list[float]
    max_p: list[float]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Lesions:
        """The inverse of :func:`dataclasses.asdict`."""
        sides = {name: Components(**content[name]) for name in ("predicted", "reference")}
        return cls(**{**content, **sides})


@dataclass(frozen=True)
class Numbered:
    """To which component each voxel of two masks belongs, counted from 1.

    Voxels are in the order of ``numpy.ndarray.ravel``.

    Attributes:
        box: the bounding box of both masks together.
        voxels_predicted, voxels_reference: indices of the voxels of the masks in the box, (P,) and
            (R,).
        predicted: components of the segmentation, (P,).
        reference: components of the reference, (R,).
        reference_at_predicted: component of the reference at the voxels of the segmentation, 0
            where there is none, (P,).
    """

    box: tuple[slice, ...]
    voxels_predicted: NDArray[np.intp]
    voxels_reference: NDArray[np.intp]
    predicted: NDArray[np.int32]
    reference: NDArray[np.int32]
    reference_at_predicted: NDArray[np.int32]

    @classmethod
    def of(cls, predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> Numbered:
        """Find the components of two masks of the same shape."""
        box = bounding_box(predicted | reference) or (slice(0, 0),) * predicted.ndim
        predicted, reference = predicted[box], reference[box]
        voxels_p, voxels_r = np.flatnonzero(predicted), np.flatnonzero(reference)
        numbers = _components(reference).ravel()
        of_reference, there = numbers[voxels_r], numbers[voxels_p]
        del numbers  # before the next ones: each is as large as an image of 32 bits
        of_predicted = _components(predicted).ravel()[voxels_p]
        return cls(box, voxels_p, voxels_r, of_predicted, of_reference, there)

    def detected(self) -> tuple[float, float]:
        """How many components share a voxel with the other mask, many to many.

        Returns:
            The share of those of the reference, and of those of the segmentation; 1 if there are
            none.
        """
        both = self.reference_at_predicted > 0
        found = len(np.unique(self.reference_at_predicted[both]))
        right = len(np.unique(self.predicted[both]))
        return _share(found, _number_of(self.reference)), _share(right, _number_of(self.predicted))


def match_lesions(
    numbered: Numbered, p: NDArray[np.floating], voxel_size: float, least_size: float
) -> Lesions:
    """The components that are large enough, their confidence, and which of them match.

    Args:
        numbered: the components.
        p: probability of the class at each voxel of the segmentation, (P,), in [0, 1].
        voxel_size: size of a voxel in mm^3; of 2D images, in mm^2.
        least_size: smallest size of a component, in the same unit.
    """
    least = least_size * (1 - _SIZE_TOLERANCE)
    of_p = _large(numbered.predicted, least / voxel_size)
    of_r = _large(numbered.reference, least / voxel_size)
    predicted = of_p[numbered.predicted]
    reference = of_r[numbered.reference]
    there = of_r[numbered.reference_at_predicted]
    n_p, n_r = _sizes(predicted), _sizes(reference)
    match_p, match_r, iou = _greedy(predicted, there, n_p, n_r)
    exact = p.astype(np.float64)
    largest = np.zeros(len(n_p) + 1)
    np.maximum.at(largest, predicted, exact)
    sum_p = np.bincount(predicted, exact, len(n_p) + 1)
    return Lesions(
        Components(
            (n_p * voxel_size).tolist(),
            _centres(predicted, n_p, numbered.voxels_predicted, numbered.box),
            match_p,
        ),
        Components(
            (n_r * voxel_size).tolist(),
            _centres(reference, n_r, numbered.voxels_reference, numbered.box),
            match_r,
        ),
        iou,
        (sum_p[1:] / n_p).tolist(),
        largest[1:].tolist(),
    )


def _components(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The number of the component of each voxel, from 1 on, and 0 outside the mask, (*shape)."""
    from scipy.ndimage import label

    numbers: NDArray[np.int32]
    numbers, _ = label(mask, np.ones((3,) * mask.ndim), np.int32)
    return numbers


def _number_of(numbers: NDArray[np.int32]) -> int:
    return int(numbers.max(initial=0))


def _share(n: int, of: int) -> float:
    return n / of if of else 1.0


def _sizes(numbers: NDArray[np.int32]) -> NDArray[np.intp]:
    """Number of voxels of each component, from 1 on."""
    return np.bincount(numbers, minlength=1)[1:]


def _large(numbers: NDArray[np.int32], least: float) -> NDArray[np.int32]:
    """The new number of each component: 0 for 0 and for those of less than ``least`` voxels."""
    kept = _sizes(numbers) >= least
    return np.concatenate([[0], np.where(kept, np.cumsum(kept), 0)]).astype(np.int32)


def _greedy(
    predicted: NDArray[np.int32],
    there: NDArray[np.int32],
    n_p: NDArray[np.intp],
    n_r: NDArray[np.intp],
) -> tuple[list[int | None], list[int | None], list[float]]:
    """The match of each predicted component and of each one of the reference, and the IoU."""
    match_p: list[int | None] = [None] * len(n_p)
    match_r: list[int | None] = [None] * len(n_r)
    iou = [0.0] * len(n_p)
    both = (predicted > 0) & (there > 0)
    pair, shared = np.unique(
        predicted[both].astype(np.int64) * (len(n_r) + 1) + there[both], return_counts=True
    )
    i, j = pair // (len(n_r) + 1) - 1, pair % (len(n_r) + 1) - 1
    found = shared / (n_p[i] + n_r[j] - shared)
    for k in np.argsort(-found, kind="stable"):
        if found[k] >= MATCH_IOU and match_p[i[k]] is None and match_r[j[k]] is None:
            match_p[i[k]], match_r[j[k]] = int(j[k]), int(i[k])
            iou[i[k]] = float(found[k])
    return match_p, match_r, iou


def _centres(
    numbers: NDArray[np.int32],
    n: NDArray[np.intp],
    voxels: NDArray[np.intp],
    box: tuple[slice, ...],
) -> list[list[int]]:
    """The mean index of each component along each axis, rounded, (n, axes)."""
    along_axes = np.unravel_index(voxels, tuple(side.stop - side.start for side in box))
    centres = [
        side.start + np.bincount(numbers, index, len(n) + 1)[1:] / n
        for side, index in zip(box, along_axes, strict=True)
    ]
    rounded: list[list[int]] = np.rint(np.stack(centres, axis=1)).astype(int).tolist()
    return rounded
