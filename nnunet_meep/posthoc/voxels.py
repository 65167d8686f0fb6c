"""Access to the voxels of a case for fitting a calibrator, from files or from memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.case_counts import CaseCounts
from nnunet_meep.evaluation.counting.one_pass import count_array, count_case
from nnunet_meep.evaluation.counting.reference import read_reference
from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import Part, ProbabilityArray, open_probabilities


class Voxels(Protocol):
    """The interface to the voxels of one case. It keeps nothing in memory between calls."""

    def counts(self, n_bins: int) -> CaseCounts:
        """Count the voxels. Raises ``InputError`` if the case cannot be used."""
        ...

    def parts(self) -> Iterator[Part]:
        """The probabilities, part by part, as :meth:`.ProbabilityFile.parts`."""
        ...


@dataclass(frozen=True)
class FileVoxels:
    """A case in files.

    Attributes:
        case: the files.
        dataset: the data set they belong to.
        roi: the voxels to use.
    """

    case: Case
    dataset: Dataset
    roi: Roi

    def counts(self, n_bins: int) -> CaseCounts:
        reference = read_reference(self.case, self.dataset, [self.roi])
        return count_case(self.case, self.dataset.labels, reference, n_bins, [self.roi])

    def parts(self) -> Iterator[Part]:
        with open_probabilities(self.case.probabilities) as file:
            yield from file.parts()


@dataclass(frozen=True)
class ArrayVoxels:
    """A case in memory.

    Attributes:
        probabilities: (K, *shape), float16, float32 or float64.
        codes: codes of the reference (``Labels.encode``), (*shape).
        labels: the classes.
        roi: the voxels to use: the whole image, with or without nnU-Net's padding.
        segmented: the labels by nnU-Net's rule, (*shape), if ``probabilities`` have been calibrated
            since; None: they are those of ``probabilities``.
    """

    probabilities: NDArray[np.floating]
    codes: NDArray[np.unsignedinteger]
    labels: Labels
    roi: Roi
    segmented: NDArray[np.integer] | None = None

    def counts(self, n_bins: int) -> CaseCounts:
        return count_array(self.probabilities, self.codes, self.labels, n_bins, self.roi)

    def parts(self) -> Iterator[Part]:
        return ProbabilityArray(self.probabilities).parts()
