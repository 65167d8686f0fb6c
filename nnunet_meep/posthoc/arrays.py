"""Fits calibrators to arrays in memory, as ``meep-calib-fit`` does for files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.arrays import Arrays, checked, pairs_of
from nnunet_meep.evaluation.counting.roi import Roi, parse_roi
from nnunet_meep.nnunet_files.derived import THRESHOLD, VOLUME
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.posthoc.calibrator import Calibrator
from nnunet_meep.posthoc.fit import check_method, learn
from nnunet_meep.posthoc.fit_derived import Goal, about, refuse_twice
from nnunet_meep.posthoc.segmentation import segmentation
from nnunet_meep.posthoc.voxels import ArrayVoxels


def fit_calibrator(
    method: str, probabilities: Arrays, labels: Arrays, *, ignore_label: int | None = None
) -> Calibrator:
    """Learn a calibrator from probabilities and reference labels.

    Args:
        method: ``platt``, ``isotonic``, ``temperature``, or one of fiducio's scalings:
            ``vector``, ``matrix``, ``dirichlet``, ``class-conditional``,
            ``class-conditional-argmax``, ``class-conditional-order``; see
            :mod:`nnunet_meep.posthoc.maps` and :mod:`nnunet_meep.posthoc.scalings`.
        probabilities: (K, *shape), classes first as nnU-Net saves them, including background; or a
            list of such arrays, one per case. nnU-Net's padding around an image (background 1, all
            else 0) is left out.
        labels: (*shape), integers from 0 to K - 1 or ``ignore_label``; or a list of such arrays.
        ignore_label: voxels with this label are left out.

    Returns:
        A calibrator, to be called with probabilities (K, *shape). It can be saved and read again.
        Unlike one from ``meep-calib-fit``, which is made for folders of predictions, it stores
        neither the names of the classes nor the cases it was fitted to.

    Raises:
        ValueError: an argument is invalid, or there is nothing to learn.

    Example:
        >>> import nnunet_meep as nm
        >>> import numpy as np
        >>> p = np.array([[0.9, 0.9, 0.9, 0.2, 0.2], [0.1, 0.1, 0.1, 0.8, 0.8]])
        >>> calibrator = nm.fit_calibrator("platt", p, np.array([0, 0, 1, 1, 0]))
        >>> calibrator(p)[1].round(2)  # one of three, one of two
        array([0.33, 0.33, 0.33, 0.5 , 0.5 ], dtype=float32)
    """
    check_method(method)
    roi = replace(parse_roi("image"), without_padding=True)
    cases = _cases(probabilities, labels, ignore_label, roi)
    learnt = learn(method, cases, len(cases), cases[0].labels, roi)
    return Calibrator(
        method,
        cases[0].labels,
        _entries(cases[0].labels),
        fitted_on={**_fitted_on(cases), **learnt.on},
        **learnt.maps,
    )


def fit_thresholds(
    probabilities: Arrays,
    labels: Arrays,
    *,
    fnr: float | None = None,
    after: Calibrator | None = None,
    ignore_label: int | None = None,
) -> Calibrator:
    """Choose a threshold for each class from probabilities and reference labels.

    Args:
        probabilities: (K, *shape), classes first, including background; a list: one per case.
        labels: (*shape), integers from 0 to K - 1 or ``ignore_label``; or a list of such arrays.
        fnr: the false-negative rate that further cases keep on average (conformal risk control),
            above 0 and below 1; None: choose for the best mean Dice.
        after: a calibrator to apply first; the result holds it.
        ignore_label: voxels with this label are left out.

    Returns:
        A calibrator. Its ``segmentation`` of probabilities that it was called with follows the
        thresholds, which are in ``thresholds.of_class``.

    Raises:
        ValueError: an argument is invalid, or there are too few cases.

    Example:
        >>> import nnunet_meep as nm
        >>> import numpy as np
        >>> p = np.array([[0.9, 0.7, 0.6, 0.1], [0.1, 0.3, 0.4, 0.9]], np.float32)
        >>> calibrator = nm.fit_thresholds(p, np.array([0, 0, 1, 1]))
        >>> round(calibrator.thresholds.of_class["1"], 2)  # below 0.4, and nearest to 1/2
        0.4
        >>> calibrator.segmentation(calibrator(p))
        array([0, 0, 1, 1], dtype=uint8)
    """
    return _fit(Goal(THRESHOLD, fnr), probabilities, labels, after, ignore_label)


def fit_volume_intervals(
    probabilities: Arrays,
    labels: Arrays,
    *,
    coverage: float = 0.9,
    after: Calibrator | None = None,
    ignore_label: int | None = None,
) -> Calibrator:
    """Learn from probabilities and reference labels how far volumes are from expected ones.

    Args:
        probabilities, labels, after, ignore_label: as for :func:`fit_thresholds`.
        coverage: share of further cases whose volume is to be inside the interval (split conformal
            prediction), above 0 and below 1.

    Returns:
        A calibrator; its ``intervals.interval(key, expected)`` is (low, high) around the expected
        volume of a class, which is the sum of its probabilities.

    Raises:
        ValueError: an argument is invalid, or there are too few cases.

    Example:
        >>> import nnunet_meep as nm
        >>> import numpy as np
        >>> p = [np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])] * 3  # 2 voxels expected
        >>> y = [np.array([1, 1, 0, 0]), np.array([1, 1, 1, 0]), np.array([1, 1, 0, 0])]
        >>> calibrator = nm.fit_volume_intervals(p, y, coverage=0.75)  # errors 0, 1/2 and 0
        >>> calibrator.intervals.interval("1", 2.0)
        (1.0, 3.0)
    """
    return _fit(Goal(VOLUME, coverage), probabilities, labels, after, ignore_label)


def _fit(
    goal: Goal,
    probabilities: Arrays,
    labels: Arrays,
    after: Calibrator | None,
    ignore_label: int | None,
) -> Calibrator:
    cases = _cases(probabilities, labels, ignore_label, parse_roi("image"))
    known = cases[0].labels
    if after is not None:
        refuse_twice(goal.method, after, "after")
        after.check_labels(known, "labels")
    before = _no_change if after is None else after
    given = []
    for case in cases:
        case.counts(1)  # refuses what are no probabilities
        segmented = segmentation(case.probabilities, known)
        p = np.ascontiguousarray(before(case.probabilities), np.float32)
        given.append(replace(case, probabilities=p, segmented=segmented))
    derived, classes, reasons = goal.learn(given, known)
    return Calibrator(
        goal.method,
        known,
        _entries(known),
        derived=derived,
        after=after,
        reasons=reasons,
        fitted_on={**_fitted_on(cases), "classes": about(classes)},
    )


def _no_change(p: NDArray[np.floating]) -> NDArray[np.floating]:
    return p


def _cases(
    probabilities: Arrays, labels: Arrays, ignore_label: int | None, roi: Roi
) -> list[ArrayVoxels]:
    cases: list[ArrayVoxels] = []
    for p, y in pairs_of(probabilities, labels):
        p, codes, known = checked(p, y, ignore_label)
        if cases and known != cases[0].labels:
            raise InputError(
                f"probabilities: expected as many classes in each case, got "
                f"{cases[0].labels.n_channels} and {known.n_channels}"
            )
        cases.append(ArrayVoxels(p, codes, known, roi))
    return cases


def _entries(labels: Labels) -> dict[str, Any]:
    """The entry ``labels`` of a ``dataset.json``."""
    ignored = {} if labels.ignore_label is None else {"ignore": labels.ignore_label}
    named = dict(zip(labels.names, labels.classes, strict=True))
    return {"labels": {"background": 0, **named, **ignored}}


def _fitted_on(cases: list[ArrayVoxels]) -> dict[str, Any]:
    return {"arrays": True, "n_cases": len(cases), "cases": [], "roi": cases[0].roi.name}
