"""The segmentation that follows from probabilities: by nnU-Net's rule, or by thresholds.

What is compared with a threshold is the probability of a region, or that of a class as a share of
the sum over all classes, which is 1 but for rounding. A region is segmented where it is larger than
its threshold; as in nnU-Net, later regions in ``regions_class_order`` overwrite earlier ones. Of
classes that exclude each other, those with shares above their thresholds compete, and the one with
the largest ratio of share to threshold wins, the first one if several are equal; where there is
none, the voxel is background.

Thresholds of 1/2 give, for two classes and for regions, exactly nnU-Net's segmentation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.nnunet_files.derived import Thresholds
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import PART


def segmentation(probabilities: NDArray[np.float32], labels: Labels) -> NDArray[np.unsignedinteger]:
    """The segmentation (*shape) that nnU-Net derives from probabilities (C, *shape).

    The label with the largest probability, the first one if several are equal. For regions, the
    label in ``regions_class_order`` of the last region with p > 1/2, or background if there is
    none.
    """
    result = _background(probabilities, labels)
    for p, target in _parts(probabilities, result):
        if not labels.is_region_based:
            target[...] = p.argmax(axis=0)
        else:
            for of_region, label in zip(p, labels.regions_class_order, strict=True):
                target[of_region > 0.5] = label
    return result


def thresholded(
    probabilities: NDArray[np.float32], labels: Labels, thresholds: Thresholds
) -> NDArray[np.unsignedinteger]:
    """The segmentation (*shape) of probabilities (C, *shape) by thresholds."""
    t = np.array([thresholds.of_class[key] for key in labels.keys])[:, None]  # float64
    values = np.array(labels.values[1:])
    result = _background(probabilities, labels)
    for part, target in _parts(probabilities, result):
        p = shares(part, labels)
        above = p > t
        if labels.is_region_based:
            for of_region, label in zip(above, labels.regions_class_order, strict=True):
                target[of_region] = label
        else:
            winner = values[np.where(above, p / t, 0).argmax(axis=0)]
            target[...] = np.where(above.any(axis=0), winner, 0)
    return result


def shares(p: NDArray[np.float32], labels: Labels) -> NDArray[np.float64]:
    """What is compared with thresholds, (classes, N), of probabilities (C, N)."""
    if labels.is_region_based:
        return p.astype(np.float64)
    total: NDArray[np.float64] = p.sum(axis=0, dtype=np.float64)
    return p[1:] / total


def _background(probabilities: NDArray[np.float32], labels: Labels) -> NDArray[np.unsignedinteger]:
    small = np.uint8 if max(labels.predicted_label) <= np.iinfo(np.uint8).max else np.uint16
    return np.zeros(probabilities.shape[1:], small)


def _parts(
    probabilities: NDArray[np.float32], result: NDArray[np.unsignedinteger]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.unsignedinteger]]]:
    """Some voxels after the other, (C, n) and (n,): argmax and shares need 8 bytes for each."""
    flat, of_voxels = probabilities.reshape(len(probabilities), -1), result.reshape(-1)
    for start in range(0, len(of_voxels), PART):
        part = slice(start, start + PART)
        yield flat[:, part], of_voxels[part]
