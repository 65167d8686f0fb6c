"""Maximum entropy on erroneous predictions (MEEP, MICCAI 2023) for nnU-Net v2.

    >>> import nnunet_meep as nm
    >>> evaluation = nm.evaluate("labelsTs", "predictions")
    >>> import numpy as np
    >>> nm.brier_score(np.array([[0.9, 0.3], [0.1, 0.7]]), np.array([0, 1])).round(2)
    array([0.05])

Names are imported on first use: Python imports this package at every start (see
``nnunet_meep._autoload``), so importing it must cost nothing.
"""

__version__ = "0.2.0"

TYPE_CHECKING = False  # as in typing, whose import would take milliseconds at every start

if TYPE_CHECKING:
    from nnunet_meep.errors import InputError
    from nnunet_meep.evaluation.arrays import (
        aurc,
        brier_score,
        calibration_error,
        negative_log_likelihood,
        risk_coverage,
        smooth_calibration_error,
    )
    from nnunet_meep.evaluation.compare import compare
    from nnunet_meep.evaluation.comparison import Comparison
    from nnunet_meep.evaluation.evaluate import evaluate
    from nnunet_meep.evaluation.report.displays import ReliabilityDisplay, RiskCoverageDisplay
    from nnunet_meep.evaluation.report.write_report import write_report
    from nnunet_meep.evaluation.results import Evaluation
    from nnunet_meep.evaluation.stored_results import read_evaluation
    from nnunet_meep.evaluation.triage import triage
    from nnunet_meep.posthoc.arrays import fit_calibrator, fit_thresholds, fit_volume_intervals
    from nnunet_meep.posthoc.calibrator import Calibrator, read_calibrator

_HOMES = {
    "Calibrator": "posthoc.calibrator",
    "Comparison": "evaluation.comparison",
    "Evaluation": "evaluation.results",
    "InputError": "errors",
    "ReliabilityDisplay": "evaluation.report.displays",
    "RiskCoverageDisplay": "evaluation.report.displays",
    "aurc": "evaluation.arrays",
    "brier_score": "evaluation.arrays",
    "calibration_error": "evaluation.arrays",
    "compare": "evaluation.compare",
    "evaluate": "evaluation.evaluate",
    "fit_calibrator": "posthoc.arrays",
    "fit_thresholds": "posthoc.arrays",
    "fit_volume_intervals": "posthoc.arrays",
    "negative_log_likelihood": "evaluation.arrays",
    "read_calibrator": "posthoc.calibrator",
    "read_evaluation": "evaluation.stored_results",
    "risk_coverage": "evaluation.arrays",
    "smooth_calibration_error": "evaluation.arrays",
    "triage": "evaluation.triage",
    "write_report": "evaluation.report.write_report",
}

__all__ = [
    "Calibrator",
    "Comparison",
    "Evaluation",
    "InputError",
    "ReliabilityDisplay",
    "RiskCoverageDisplay",
    "aurc",
    "brier_score",
    "calibration_error",
    "compare",
    "evaluate",
    "fit_calibrator",
    "fit_thresholds",
    "fit_volume_intervals",
    "negative_log_likelihood",
    "read_calibrator",
    "read_evaluation",
    "risk_coverage",
    "smooth_calibration_error",
    "triage",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
