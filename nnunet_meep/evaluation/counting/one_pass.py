"""Reads the probabilities of a case once and computes the sums for all its metrics.

Probabilities are counted while they are read, in two lanes. Each lane always gets the same parts of
the image, so the sums do not depend on the number of threads, nor on which one is faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.cores import usable_cores
from nnunet_meep.evaluation.counting.bins import CaseSums, RoiSums, grid
from nnunet_meep.evaluation.counting.case_counts import CaseCounts
from nnunet_meep.evaluation.counting.case_lesions import case_lesions
from nnunet_meep.evaluation.counting.lane_counts import N_LANES
from nnunet_meep.evaluation.counting.reference import FILE, Reference
from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.nnunet_files.cases import Case
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import (
    ProbabilityArray,
    ProbabilityFile,
    open_probabilities,
    refuse_shape,
)


def sum_case(
    case: Case,
    labels: Labels,
    reference: Reference,
    n_bins: int,
    rois: Sequence[Roi],
    surface: bool,
    tolerance_mm: float,
    segmentation: str = FILE,
    lesions: float | None = None,
) -> CaseSums:
    """Read the probabilities of a case and reduce them to sums.

    They are read once. Regions whose segmentation is not a file are read a second time, because it
    is not known before where they are.

    Args:
        case: its files.
        labels: labels of the data set.
        reference: its label maps.
        n_bins: number of bins of the reliability diagram.
        rois: the ROIs to evaluate.
        surface: compute surface distances and the surface Dice, too.
        tolerance_mm: that of the surface Dice, in mm, at least 0.
        segmentation: the segmentation from which Dice, volumes and distances are computed: ``FILE``
            for the segmentation file, if there is one, or ``ARGMAX`` for the labels that follow
            from the probabilities by nnU-Net's rule.
        lesions: find the lesions of at least this size, see :func:`.case_lesions`; None: do not.

    Raises:
        InputError: the file cannot be read, has the wrong shape, or values that are not
            probabilities; the message names the file, what was expected and what was found.
    """
    codes = None if reference.segmentation is None else reference.segmentation.unpacked()
    known = codes if segmentation == FILE else None
    counts = count_case(case, labels, reference, n_bins, rois, known)
    n_not_argmax = None
    if codes is not None:
        n_not_argmax = counts.compare_segmentation(codes)
        if n_not_argmax and known is not None:
            counts.take_segmentation(codes)
    if not counts.predicted.is_gathered:
        with open_probabilities(case.probabilities) as file:
            for part in file.parts():
                counts.predicted.add(part)
                part.release()
    found, wmh = None, None
    if lesions is not None:
        found, wmh = case_lesions(counts, reference, lesions, surface)
    return CaseSums(
        case.name,
        counts.n_clipped,
        {r.name: counts.sums_of(r) for r in rois},
        counts.surface_metrics(tolerance_mm) if surface else None,
        n_not_argmax,
        found,
        wmh,
    )


def count_case(
    case: Case,
    labels: Labels,
    reference: Reference,
    n_bins: int,
    rois: Sequence[Roi],
    segmentation: NDArray[np.unsignedinteger] | None = None,
) -> CaseCounts:
    """Read and count the probabilities for :func:`sum_case`; raise the same errors.

    Args:
        case, labels, reference, n_bins, rois: as for :func:`sum_case`.
        segmentation: see :class:`.CaseCounts`.
    """
    codes = reference.codes
    with open_probabilities(case.probabilities) as file:
        expected = (labels.n_channels, *codes.shape)
        refuse_shape(case.probabilities, file.shape, expected, case.reference.name)
        return _count(file, labels, reference, n_bins, rois, segmentation)


def sum_array(
    probabilities: NDArray[np.floating],
    codes: NDArray[np.unsignedinteger],
    labels: Labels,
    n_bins: int,
) -> RoiSums:
    """Like :func:`sum_case`, but for arrays in memory, and over the whole image.

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
    """Like :func:`count_case`, but for arrays in memory.

    Args:
        probabilities: (K, *shape), float16, float32 or float64.
        codes: codes of the reference (``Labels.encode``), (*shape).
        labels: labels of the data set.
        n_bins: number of bins of the reliability diagram.
        roi: ``image`` or ``crop``.

    Raises:
        InputError: the values are not probabilities, or do not sum to 1 over the classes.
    """
    reference = Reference(codes, {}, (1.0,) * codes.ndim, None)
    return _count(ProbabilityArray(probabilities), labels, reference, n_bins, [roi])


def _count(
    file: ProbabilityFile | ProbabilityArray,
    labels: Labels,
    reference: Reference,
    n_bins: int,
    rois: Sequence[Roi],
    segmentation: NDArray[np.unsignedinteger] | None = None,
) -> CaseCounts:
    counts = CaseCounts(labels, grid(n_bins), reference, rois, file, segmentation)
    # Reading a file keeps one core busy. With more threads than cores it would have to wait.
    n_threads = usable_cores() - isinstance(file, ProbabilityFile)
    with _threads(min(max(n_threads, 1), N_LANES)) as threads:
        for part in file.parts():
            lane = part.index % N_LANES
            threads[lane % len(threads)].submit(counts.add, part, lane)
    counts.check()
    return counts


class _Thread:
    """A thread that runs its tasks in the order in which they are submitted."""

    def __init__(self, stack: ExitStack) -> None:
        self._pool = stack.enter_context(ThreadPoolExecutor(1))
        self.futures: list[Future[Any]] = []

    def submit(self, function: Any, *args: Any) -> None:
        self.futures.append(self._pool.submit(function, *args))


@contextmanager
def _threads(n: int) -> Iterator[list[_Thread]]:
    with ExitStack() as stack:
        threads = [_Thread(stack) for _ in range(n)]
        yield threads
        for thread in threads:
            for future in thread.futures:
                future.result()
