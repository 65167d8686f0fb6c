"""Maximum entropy on erroneous predictions (MEEP, MICCAI 2023) for nnU-Net v2.

    >>> import nnunet_meep as nm
    >>> evaluation = nm.evaluate("labelsTs", "predictions")  # doctest: +SKIP
    >>> import numpy as np
    >>> nm.brier_score(np.array([[0.9, 0.3], [0.1, 0.7]]), np.array([0, 1])).round(2)
    array([0.05])

Names are imported when they are asked for: every Python start of an environment with this package
imports it (see ``nnunet_meep._autoload``), so that it must cost nothing.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # as typing has it; to import that takes milliseconds at each start

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
    from nnunet_meep.evaluation.evaluate import evaluate
    from nnunet_meep.evaluation.report.displays import ReliabilityDisplay
    from nnunet_meep.evaluation.results import Evaluation

_HOMES = {
    "InputError": "errors",
    "Evaluation": "evaluation.results",
    "evaluate": "evaluation.evaluate",
    "ReliabilityDisplay": "evaluation.report.displays",
    **dict.fromkeys(
        (
            *("aurc", "brier_score", "calibration_error", "negative_log_likelihood"),
            *("risk_coverage", "smooth_calibration_error"),
        ),
        "evaluation.arrays",
    ),
}

__all__ = [
    "Evaluation",
    "InputError",
    "ReliabilityDisplay",
    "aurc",
    "brier_score",
    "calibration_error",
    "evaluate",
    "negative_log_likelihood",
    "risk_coverage",
    "smooth_calibration_error",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
