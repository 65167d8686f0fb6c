"""One reading pass over a case: from its probabilities to the sums from which everything follows.

Probabilities are counted while they are read. Two threads count, each its own voxels (the parts of
an image in turn), so that the sums do not depend on which of them was faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.bins import CaseSums, RoiSums, grid
from nnunet_meep.evaluation.counting.case_counts import N_LANES, CaseCounts
from nnunet_meep.evaluation.counting.reference import FILE, Reference
from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.nnunet_files.cases import Case
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import (
    ProbabilityArray,
    ProbabilityFile,
    open_probabilities,
)


def sum_case(
    case: Case,
    labels: Labels,
    reference: Reference,
    n_bins: int,
    rois: Sequence[Roi],
    surface: bool,
    segmentation: str = FILE,
) -> CaseSums:
    """Read the probabilities of a case once and reduce it to its sums.

    Args:
        case: its files.
        labels: of the data set.
        reference: its label maps.
        n_bins: of the reliability diagram.
        rois: which voxels count.
        surface: compute surface distances, too.
        segmentation: of what Dice, volumes and distances are: ``FILE``, the segmentation file
            where there is one, or ``ARGMAX``, what nnU-Net's rule makes of the probabilities.

    Raises:
        InputError: the file cannot be read, or its values cannot be what they should be; the line
            names it, what was expected and what came.
    """
    counts = count_case(case, labels, reference, n_bins, rois)
    n_not_argmax = None
    if reference.segmentation is not None:
        n_not_argmax = counts.compare_segmentation(reference.segmentation)
        if n_not_argmax and segmentation == FILE:
            counts.take_segmentation(reference.segmentation)
    return CaseSums(
        case.name,
        counts.n_clipped,
        {r.name: counts.sums_of(r) for r in rois},
        counts.distances_mm() if surface else None,
        n_not_argmax,
    )


def count_case(
    case: Case, labels: Labels, reference: Reference, n_bins: int, rois: Sequence[Roi]
) -> CaseCounts:
    """The reading pass of :func:`sum_case`, before anything is summed up. Raises what that does."""
    codes = reference.codes
    with open_probabilities(case.probabilities) as file:
        expected = (labels.n_channels, *codes.shape)
        if file.shape != expected:
            raise InputError(
                f"{case.probabilities}: expected probabilities of shape {expected} (classes or "
                f"regions of dataset.json, then the axes of {case.reference.name}), got "
                f"{file.shape}"
            )
        if not math.prod(expected):
            raise InputError(
                f"{case.probabilities}: expected voxels, got an empty array of shape {expected}"
            )
        return _count(file, labels, reference, n_bins, rois)


def sum_array(
    probabilities: NDArray[np.floating],
    codes: NDArray[np.unsignedinteger],
    labels: Labels,
    n_bins: int,
) -> RoiSums:
    """What :func:`sum_case` gives over the whole image, of arrays in memory.

    Args, Raises: as :func:`count_array`.
    """
    whole = Roi("image")
    return count_array(probabilities, codes, labels, n_bins, whole).sums_of(whole)


def count_array(
    probabilities: NDArray[np.floating],
    codes: NDArray[np.unsignedinteger],
    labels: Labels,
    n_bins: int,
    roi: Roi,
) -> CaseCounts:
    """What :func:`count_case` gives, of arrays in memory.

    Args:
        probabilities: (K, *shape), float16, float32 or float64.
        codes: of the reference (``Labels.encode``), (*shape).
        labels: of the data set.
        n_bins: of the reliability diagram.
        roi: the image, with or without its padding.

    Raises:
        InputError: they are no probabilities.
    """
    reference = Reference(codes, {}, (1.0,) * codes.ndim, None)
    return _count(ProbabilityArray(probabilities), labels, reference, n_bins, [roi])


def _count(
    file: ProbabilityFile | ProbabilityArray,
    labels: Labels,
    reference: Reference,
    n_bins: int,
    rois: Sequence[Roi],
) -> CaseCounts:
    counts = CaseCounts(labels, grid(n_bins), reference, rois, file)
    with _threads() as lanes:
        for part in file.parts():
            lane = part.index % N_LANES
            lanes[lane].submit(counts.add, part, lane)
    counts.check()
    return counts


class _Lane:
    """A thread that works on what it is given in order."""

    def __init__(self, stack: ExitStack) -> None:
        self._pool = stack.enter_context(ThreadPoolExecutor(1))
        self.futures: list[Future] = []

    def submit(self, function: Any, *args: Any) -> None:
        self.futures.append(self._pool.submit(function, *args))


@contextmanager
def _threads() -> Iterator[list[_Lane]]:
    with ExitStack() as stack:
        lanes = [_Lane(stack) for _ in range(N_LANES)]
        yield lanes
        for lane in lanes:
            for future in lane.futures:
                future.result()
