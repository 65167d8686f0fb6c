"""Learns intervals around expected volumes from validation cases (split conformal prediction).

The expected volume E of a class is the sum of its probabilities, V its volume in the reference. E
is of all voxels, as it will be for a scan without a reference, V of those that are not ignored. The
score of a case is ``|V - E| / E``, and half the width of the intervals is a bound on the score of
further cases, see :mod:`.conformal` (Lei et al. 2018; Lambert et al. 2024). Cases with E = 0 get no
interval, and none is learnt from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.derived import VolumeIntervals
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.posthoc.conformal import fewest_for_coverage, split_conformal_bound
from nnunet_meep.posthoc.thresholds import ABSENT
from nnunet_meep.posthoc.voxels import ArrayVoxels


@dataclass(frozen=True)
class VolumeFit:
    """The intervals of one class, and the cases that they were learnt from, those with E > 0.

    Attributes:
        name: name of the class.
        expected, true: E and V of each case, in voxels, (n,).
        half_width: half the width of an interval as a share of E; None if no reference has the
            class.
    """

    name: str
    expected: NDArray[np.float64]
    true: NDArray[np.float64]
    half_width: float | None

    @property
    def scores(self) -> NDArray[np.float64]:
        return np.abs(self.true - self.expected) / self.expected


def learn_intervals(
    cases: Iterable[ArrayVoxels], labels: Labels, coverage: float
) -> tuple[VolumeIntervals, dict[str, VolumeFit], dict[str, str]]:
    """Learn the intervals of each class or region.

    Args:
        cases: the validation cases, with calibrated probabilities.
        labels: the classes.
        coverage: share of further cases whose volume is to be inside, above 0 and below 1.

    Returns:
        The intervals; for each class what they were learnt from; and, for those that no reference
        has, why they have none.

    Raises:
        InputError: a case cannot be used, there are too few, or no reference has any class.
    """
    expected: list[list[float]] = []
    true: list[list[int]] = []
    classes = range(len(labels.classes))
    for case in cases:
        sums = case.counts(1).sums_of(case.roi)
        channels = [case.probabilities[labels.channel(i)] for i in classes]
        expected.append([float(p.sum(dtype=np.float64)) for p in channels])
        cells = [sums.channels[labels.channel(i)].cells for i in classes]
        true.append([int(c.count[:, 1].sum()) for c in cells])
    e, v = np.array(expected), np.array(true, np.float64)
    if not v.any():
        raise InputError("volume: nothing to learn: the references have none of the classes")
    fits, reasons = {}, {}
    for i, (key, name) in enumerate(zip(labels.keys, labels.names, strict=True)):
        there = e[:, i] > 0
        of_class = VolumeFit(name, e[there, i], v[there, i], None)
        if not v[:, i].any():
            reasons[key] = ABSENT
        elif (n := len(of_class.scores)) < (least := fewest_for_coverage(coverage)):
            raise InputError(
                f"coverage {coverage:g}: expected {least} cases at least for "
                f"{100 * coverage:g} %, got {n} with an expected volume of {name}; give more "
                f"cases, or a smaller coverage"
            )
        else:
            bound = split_conformal_bound(of_class.scores, coverage)
            of_class = VolumeFit(name, of_class.expected, of_class.true, bound)
        fits[key] = of_class
    halves = {key: of_class.half_width for key, of_class in fits.items()}
    return VolumeIntervals(coverage, halves), fits, reasons
