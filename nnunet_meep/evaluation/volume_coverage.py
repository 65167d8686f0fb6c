"""How often volume intervals of a calibrator contain the true volume of the evaluated cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_meep.evaluation.case_results import CaseResult
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.nnunet_files.derived import VolumeIntervals

#: Intervals are those of whole images.
_ROI = "image"
#: A volume at the end of its interval is inside, whatever the last digit of either.
_ROUNDING = 1e-9


def volume_coverage(intervals: VolumeIntervals, cases: Sequence[CaseResult]) -> dict[str, Any]:
    """The entry ``volume`` of a calibrator in ``calibration.json``.

    Args:
        intervals: those of the calibrator.
        cases: evaluated over whole images, among others.

    Returns:
        ``coverage`` that was asked for, and for each class with an interval ``n_cases`` that have
        one, ``n_covered`` of them with the true volume inside, and the mean width of the intervals,
        ``mean_width_ml`` and, as a share of the expected volume, ``mean_relative_width``.
    """
    classes = {}
    for key, half_width in intervals.half_width.items():
        found = []
        for case in cases if half_width is not None else ():
            metrics = case.rois[_ROI].classes[key]
            expected, true = metrics["volume_expected_ml"], metrics["volume_true_ml"]
            low, high = intervals.interval(key, expected)
            if math.isfinite(low) and math.isfinite(true):
                margin = _ROUNDING * expected
                found.append((low - margin <= true <= high + margin, high - low, expected))
        if found:
            inside, width, expected_ml = np.array(found, np.float64).T
            classes[key] = {
                "n_cases": len(found),
                "n_covered": int(inside.sum()),
                "mean_width_ml": float(width.mean()),
                "mean_relative_width": float((width / expected_ml).mean()),
            }
    return {"coverage": intervals.coverage, "classes": classes}


def with_intervals(rois: Sequence[str]) -> bool:
    """Whether an evaluation over these ROIs can say how often intervals contain the volume."""
    return _ROI in rois


def coverage_lines(evaluation: Evaluation) -> list[str]:
    """A line for each class with volume intervals: how many volumes they contain, their width."""
    return [
        f"Volume intervals ({100 * volume['coverage']:g} %), {key} {evaluation.classes[key]}: "
        f"{found['n_covered']} of {found['n_cases']} true volumes are inside "
        f"({found['n_covered'] / found['n_cases']:.1%}), mean width {found['mean_width_ml']:.3g} "
        f"ml, {found['mean_relative_width']:.1%} of the expected volume"
        for calibrator in evaluation.calibrators
        if (volume := calibrator.get("volume"))
        for key, found in volume["classes"].items()
    ]
