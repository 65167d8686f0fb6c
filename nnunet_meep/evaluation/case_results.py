"""The metrics of single cases, and a table of many cases that takes little memory."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any, overload

from nnunet_meep.evaluation.counting.components import Lesions
from nnunet_meep.evaluation.result_format import TOP_LABEL


@dataclass(frozen=True)
class RoiResult:
    """The metrics over the voxels of an ROI.

    Attributes:
        classes: the metrics of each class, by its key (as in ``Labels.keys``).
        top_label: the metrics of the top label and ``classwise_ece``; None for nnU-Net's regions.
        bins: for each class and ``top_label``: ``edges``, ``count``, ``mean_p``, ``mean_y``.
        risk_coverage: ``coverage`` and ``risk`` for ``top_label``, or for each region; empty for
            single cases.
    """

    classes: dict[str, dict[str, float]]
    top_label: dict[str, float] | None
    bins: dict[str, dict[str, list[float]]]
    risk_coverage: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def metrics(self, key: str) -> dict[str, float]:
        """The metrics of a class or of ``top_label``; raises ``KeyError`` if there is none."""
        if key != TOP_LABEL:
            return self.classes[key]
        if self.top_label is None:
            raise KeyError(key)
        return self.top_label


@dataclass(frozen=True)
class CaseResult:
    """The metrics of one case.

    Attributes:
        case: its name.
        n_clipped: number of probabilities that were outside [0, 1] by rounding and were clipped.
        n_not_argmax: number of voxels where the segmentation file differs from what nnU-Net's rule
            derives from the probabilities; None if there is no file.
        rois: its metrics in each ROI, by the ROI's name.
        lesions: its components over the whole image, by class key; None if not requested.
    """

    case: str
    n_clipped: int
    n_not_argmax: int | None
    rois: dict[str, RoiResult]
    lesions: dict[str, Lesions] | None = None

    @property
    def has_class(self) -> bool:
        """Whether its reference contains any class inside the evaluated ROIs."""
        of_classes = (c for r in self.rois.values() for c in r.classes.values())
        return any(not math.isnan(metrics["brier_plus"]) for metrics in of_classes)


#: 1 MB, of some hundred cases.
_NUMBERS_IN_MEMORY = 1 << 17


class CaseTable(Sequence[CaseResult]):
    """The results of cases that have the same ROIs, classes, metrics and bins.

    Only their numbers are kept, as float64: in memory as long as they are few, then in a temporary
    file without a name, which is gone with the process. Each result is made anew when it is asked
    for.

    Args:
        cases: the first ones.
    """

    def __init__(self, cases: Iterable[CaseResult] = ()) -> None:
        self._first: CaseResult | None = None
        self._names: list[Any] = []
        self._stored: IO[bytes] | None = None
        self._n_stored = 0
        #: The numbers that are not in the file, of the last cases.
        self._numbers = array("d")
        self._n_numbers = 0
        #: The metrics, by their place among the numbers of a case, that were an integer.
        self._integers: set[int] = set()
        self._others: list[tuple[str, int, int | None, dict[str, Lesions] | None]] = []
        for case in cases:
            self.append(case)

    def __reduce__(self) -> tuple[type[CaseTable], tuple[list[CaseResult]]]:
        return CaseTable, (list(self),)  # a copy has a file of its own

    def append(self, case: CaseResult) -> None:
        """Add a case.

        Raises:
            ValueError: its ROIs, classes, metrics or bins are not those of the first one.
            OSError: the folder for temporary files has no room for the numbers.
        """
        names = _names(case)
        if self._first is None:
            self._first, self._names = case, names
        elif names != self._names:
            raise ValueError(f"{case.case} has other metrics than {self._first.case}")
        numbers = [*_numbers(case)]
        self._n_numbers = len(numbers)
        self._integers.update(i for i, value in enumerate(numbers) if isinstance(value, int))
        self._numbers.extend(numbers)
        self._others.append((case.case, case.n_clipped, case.n_not_argmax, case.lesions))
        if len(self._numbers) >= _NUMBERS_IN_MEMORY:
            self._store()

    def _store(self) -> None:
        try:
            if self._stored is None:
                self._stored = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the table
                weakref.finalize(self, self._stored.close)
            self._stored.seek(0, os.SEEK_END)
            self._numbers.tofile(self._stored)
            self._stored.flush()
        except OSError as error:
            if self._stored is not None:
                with suppress(OSError):  # it tries to write once more
                    self._stored.close()
            error.filename = tempfile.gettempdir()
            raise
        self._n_stored += len(self._numbers)
        self._numbers = array("d")

    def __len__(self) -> int:
        return len(self._others)

    @overload
    def __getitem__(self, index: int) -> CaseResult: ...
    @overload
    def __getitem__(self, index: slice) -> list[CaseResult]: ...
    def __getitem__(self, index: int | slice) -> CaseResult | list[CaseResult]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        case, n_clipped, n_not_argmax, lesions = self._others[index]
        assert self._first is not None
        row = iter(self._row(range(len(self))[index] * self._n_numbers))
        rois = {name: _like(first, row) for name, first in self._first.rois.items()}
        return CaseResult(case, n_clipped, n_not_argmax, rois, lesions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def _row(self, start: int) -> list[float]:
        """The numbers of a case as they were; NaN is ``math.nan``, equal to itself in a list."""
        if self._stored is not None and start < self._n_stored:
            numbers = array("d")
            self._stored.seek(start * numbers.itemsize)
            numbers.fromfile(self._stored, self._n_numbers)
        else:
            start -= self._n_stored
            numbers = self._numbers[start : start + self._n_numbers]
        row = [math.nan if math.isnan(value) else value for value in numbers]
        for i in self._integers:
            if row[i].is_integer():
                row[i] = int(row[i])
        return row


class BinsOfCases(Sequence[dict[str, list[float]]]):
    """The bins of one class in each case, also made anew when they are asked for.

    Args:
        cases: the cases.
        roi: name of the ROI.
        key: class key, or ``top_label``.
    """

    def __init__(self, cases: Sequence[CaseResult], roi: str, key: str) -> None:
        self._cases, self._roi, self._key = cases, roi, key

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[dict[str, list[float]]]]]:
        return list, (list(self),)  # another process needs no more of the cases

    def __len__(self) -> int:
        return len(self._cases)

    @overload
    def __getitem__(self, index: int) -> dict[str, list[float]]: ...
    @overload
    def __getitem__(self, index: slice) -> BinsOfCases: ...
    def __getitem__(self, index: int | slice) -> dict[str, list[float]] | BinsOfCases:
        if isinstance(index, slice):
            return BinsOfCases(self._cases[index], self._roi, self._key)
        return self._cases[index].rois[self._roi].bins[self._key]


_BINS = ("count", "mean_p", "mean_y")


def _metrics(roi: RoiResult) -> dict[str, dict[str, float]]:
    return roi.classes if roi.top_label is None else {**roi.classes, TOP_LABEL: roi.top_label}


def _names(case: CaseResult) -> list[Any]:
    """What the numbers of a case are of."""
    return [
        (
            name,
            [(key, *of_key) for key, of_key in _metrics(roi).items()],
            [(key, len(bins["count"])) for key, bins in roi.bins.items()],
        )
        for name, roi in case.rois.items()
    ]


def _numbers(case: CaseResult) -> Iterator[float]:
    for roi in case.rois.values():
        for of_key in _metrics(roi).values():
            yield from of_key.values()
        for bins in roi.bins.values():
            for name in _BINS:
                yield from bins[name]


def _like(first: RoiResult, numbers: Iterator[float]) -> RoiResult:
    """A result with these numbers, in the order of :func:`_numbers`, and the names of another."""

    def with_numbers(names: Collection[str]) -> dict[str, float]:
        return dict(zip(names, islice(numbers, len(names)), strict=True))

    metrics = {key: with_numbers(of_key) for key, of_key in _metrics(first).items()}
    bins = {
        key: {
            "edges": of_key["edges"],
            **{name: list(islice(numbers, len(of_key["count"]))) for name in _BINS},
        }
        for key, of_key in first.bins.items()
    }
    return RoiResult({key: metrics[key] for key in first.classes}, metrics.get(TOP_LABEL), bins)
