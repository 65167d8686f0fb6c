"""The voxels of a case that a calibrator is fitted to, from its files or from memory."""

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
    """A case; nothing of it stays in memory between the calls."""

    def counts(self, n_bins: int) -> CaseCounts:
        """All that is counted of it. Raises ``InputError`` where something cannot be used."""
        ...

    def parts(self) -> Iterator[Part]:
        """Its probabilities, once more."""
        ...


@dataclass(frozen=True)
class FileVoxels:
    """The files of a case.

    Attributes:
        case: which files.
        dataset: that they belong to.
        roi: which voxels count.
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
        codes: of the reference (``Labels.encode``), (*shape).
        labels: the classes.
        roi: the image, with or without its padding.
    """

    probabilities: NDArray[np.floating]
    codes: NDArray[np.unsignedinteger]
    labels: Labels
    roi: Roi

    def counts(self, n_bins: int) -> CaseCounts:
        return count_array(self.probabilities, self.codes, self.labels, n_bins, self.roi)

    def parts(self) -> Iterator[Part]:
        return ProbabilityArray(self.probabilities).parts()
