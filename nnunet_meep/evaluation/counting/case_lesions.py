"""The lesions of a case that has been counted."""

from __future__ import annotations

import math

from nnunet_meep.evaluation.counting.case_counts import CaseCounts, is_2d
from nnunet_meep.evaluation.counting.components import Lesions, Numbered, match_lesions
from nnunet_meep.evaluation.counting.reference import Reference
from nnunet_meep.evaluation.counting.wmh_challenge import challenge_figures, is_wmh_challenge


def case_lesions(
    counts: CaseCounts, reference: Reference, least_size: float, surface: bool
) -> tuple[tuple[Lesions, ...], dict[str, float] | None]:
    """The components of each class over the whole image; ignored voxels belong to none.

    Args:
        counts: of the case, whose probabilities at the voxels of the segmentation are there.
        reference: its label maps.
        least_size: smaller components are left out, in mm^3; of 2D images, in mm^2.
        surface: compute the challenge's surface distance, too.

    Returns:
        The lesions of each class, and :func:`.challenge_figures`; None unless the labels are those
        of the WMH challenge. These are of all components, however small.
    """
    labels = counts.labels
    shape, spacing_mm = reference.codes.shape, reference.spacing_mm
    voxel_size = math.prod(spacing_mm[1:] if is_2d(shape, spacing_mm) else spacing_mm)
    lesions, challenge = [], None
    for i in range(len(labels.classes)):
        predicted = counts.predicted_mask(i)
        is_there = reference.mask(labels, i)
        numbered = Numbered.of(predicted, is_there)
        lesions.append(match_lesions(numbered, counts.predicted_p(i), voxel_size, least_size))
        if is_wmh_challenge(labels):
            challenge = challenge_figures(predicted, is_there, numbered, spacing_mm, surface)
    return tuple(lesions), challenge
