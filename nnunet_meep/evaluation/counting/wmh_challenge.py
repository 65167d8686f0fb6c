"""The figures of the WMH Segmentation Challenge 2017, as its evaluation script computes them.

Other pathology (label 2 of the reference) is taken out of the prediction before. Some figures
differ from ours of a similar name: lesions are matched many to many, so that one large component of
the prediction may find ten lesions, and the surface of H95 is that of each slice alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.components import Numbered
from nnunet_meep.evaluation.counting.surface import bounding_box
from nnunet_meep.nnunet_files.labels import Labels


def is_wmh_challenge(labels: Labels) -> bool:
    """Whether labels are those of the challenge: 1 is called WMH, 2 is ignored.

    As ``meep-convert-wmh`` writes them. With other labels the reference does not tell what has to
    be taken out of the prediction, and the figures would not be the challenge's.
    """
    return (labels.names, labels.classes, labels.ignore_label) == (("WMH",), (1,), 2)


def challenge_figures(
    predicted: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    numbered: Numbered,
    spacing_mm: Sequence[float],
    surface: bool,
) -> dict[str, float]:
    """The challenge's figures of one scan.

    Args:
        predicted, reference: masks of WMH without other pathology, (z, y, x).
        numbered: their components.
        spacing_mm: size of a voxel along each axis.
        surface: compute H95, too.

    Returns:
        - ``wmh_dsc``: Dice; NaN if both masks are empty.
        - ``wmh_h95``: the distance in mm that 95 % of the surface of one mask have to the other's
          at most, the larger of both directions; NaN if a mask has no surface, because it is empty
          or fills its slices. Not there without ``surface``.
        - ``wmh_avd``: difference of the volumes in % of the true one; NaN if that is 0.
        - ``wmh_recall``: share of the lesions that have a voxel in the prediction; 1 if there are
          none.
        - ``wmh_f1``: harmonic mean of the recall and of the share of predicted components that have
          a voxel in the reference (1 if there are none); 0 if both are 0.
    """
    n_p, n_r = int(np.count_nonzero(predicted)), int(np.count_nonzero(reference))
    shared = int(np.count_nonzero(predicted & reference))
    recall, precision = numbered.detected()
    h95 = {"wmh_h95": _h95(predicted, reference, spacing_mm)} if surface else {}
    return {
        "wmh_dsc": 2 * shared / (n_p + n_r) if n_p + n_r else math.nan,
        **h95,
        "wmh_avd": 100 * abs(n_p - n_r) / n_r if n_r else math.nan,
        "wmh_recall": recall,
        "wmh_f1": 2 * recall * precision / (recall + precision) if recall + precision else 0.0,
    }


def _h95(
    predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> float:
    from scipy.spatial import KDTree

    points = [np.argwhere(_edge(mask)) * np.asarray(spacing_mm) for mask in (predicted, reference)]
    if not all(map(len, points)):
        return math.nan
    to_other = [KDTree(points[1 - i]).query(points[i])[0] for i in (0, 1)]
    return max(float(np.percentile(distances, 95)) for distances in to_other)


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels with one of their 8 neighbours in the slice outside the mask.

    Beyond the image, the mask goes on.
    """
    from scipy.ndimage import binary_erosion

    edge = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is not None:
        # One voxel more, where there is one: beyond the box is outside, beyond the image is not.
        wider = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        inner = binary_erosion(mask[wider], np.ones((1, 3, 3)), border_value=1)
        edge[wider] = mask[wider] & ~inner
    return edge
