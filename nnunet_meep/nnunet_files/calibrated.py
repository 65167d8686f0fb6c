"""Calibrated predictions: which calibrator made them, and whether it was fitted to the same cases.

On the cases it was fitted to, a calibrator looks better than on others, as a network does on its
training cases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_meep.errors import InputError
from nnunet_meep.json_file import parse_json, read_json
from nnunet_meep.nnunet_files.derived import Thresholds, VolumeIntervals, derived_of, steps_of
from nnunet_meep.nnunet_files.identity import file_identity
from nnunet_meep.nnunet_files.networks import RECORD

#: Marks numbers to which the warning of :func:`optimistic` applies.
OPTIMISTIC = "optimistic"
#: Name of the copy of the calibrator in a folder of calibrated predictions.
CALIBRATOR_COPY = "calibrator.json"


@dataclass(frozen=True)
class AppliedCalibrator:
    """The calibrator that was applied to a folder of predictions.

    Attributes:
        identity: identity of its file (see :mod:`.identity`); empty if unknown.
        method: as ``meep-calib-fit`` names it; several if it was fitted after others.
        dataset: the data set it was fitted on; None if unknown.
        cases: the cases it was fitted to. For each, ``case`` (its name) and the identities of
            ``probabilities`` and ``reference``.
        any_network: how the network it was fitted to differs from the one that made the
            predictions; not empty only if it was applied all the same (``--any-network``).
        thresholds: by class, those that the segmentations follow; empty if there are none.
        intervals: those of the volumes; None if there are none.
    """

    identity: str
    method: str
    dataset: str | None
    cases: tuple[Mapping[str, str], ...]
    any_network: tuple[str, ...]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    intervals: VolumeIntervals | None = None

    def was_fitted_to(
        self, case: str, files: Mapping[str, str], dataset: str | None, *, has_class: bool
    ) -> bool:
        """Whether the calibrator was fitted to this case.

        A case is recognised by its name, if the data set or the reference is the same, or by the
        content of its files, whatever their names.

        Args:
            case: name of the case.
            files: identities of its files (see :mod:`.identity`): ``reference``,
                ``probabilities`` and, if these are calibrated, ``uncalibrated``.
            dataset: name of its data set; None if unknown.
            has_class: whether its reference has any foreground. Empty references are all equal,
                so they identify no case.
        """
        for fitted in self.cases:
            same_name = fitted["case"] == case
            same_reference = fitted["reference"] == files["reference"]
            if same_name and (same_reference or (dataset and dataset == self.dataset)):
                return True
            if same_reference and has_class:
                return True
            if fitted["probabilities"] in (files["probabilities"], files.get("uncalibrated")):
                return True
        return False

    def to_dict(self, used: Sequence[str], n_cases: int) -> dict[str, Any]:
        """The entry in ``calibration.json``.

        Args:
            used: names of the evaluated cases that the calibrator was fitted to.
            n_cases: number of evaluated cases.
        """
        return {
            "identity": self.identity,
            "method": self.method,
            "n_fitted_on": len(self.cases),
            "any_network": list(self.any_network),
            "used_to_fit": list(used),
            "n_cases": n_cases,
            **({"thresholds": dict(self.thresholds)} if self.thresholds else {}),
        }


#: For calibrated probabilities in a folder that has no record of the calibrator.
UNKNOWN_CALIBRATOR = AppliedCalibrator("", "", None, (), ())


def applied_calibrator(folder: Path) -> AppliedCalibrator | None:
    """The calibrator that was applied to a folder of predictions; None if there was none.

    Raises:
        InputError: its files are not as ``meep-calib-apply`` writes them.
    """
    record, path = folder / RECORD, folder / CALIBRATOR_COPY
    if not record.is_file():
        return None
    try:
        any_network = read_json(record)["any_network"]
        content = read_json(path)
        cases = fitted_cases(content)
        steps = steps_of(content)
        derived = [derived_of(step) for step in steps]
        return AppliedCalibrator(
            file_identity(path),
            ", ".join(str(step["method"]) for step in steps),
            content["network"]["dataset"],
            cases,
            tuple(map(str, any_network)),
            next((d.of_class for d in derived if isinstance(d, Thresholds)), {}),
            next((d for d in derived if isinstance(d, VolumeIntervals)), None),
        )
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise InputError(
            f"{folder}: expected {RECORD} and {CALIBRATOR_COPY} as meep-calib-apply writes them, "
            f"got something else ({type(error).__name__} {error}); calibrate the predictions again"
        ) from None


def note(uncalibrated: str, calibrator: str, beside: str) -> bytes:
    """The comment stored in a calibrated ``CASE.npz``: what was calibrated, and with what.

    Args:
        uncalibrated: identity of the probabilities before calibration (see :mod:`.identity`).
        calibrator: identity of the calibrator's file.
        beside: identities of the other files of the case.
    """
    content = {"uncalibrated": uncalibrated, "calibrator": calibrator, "beside": beside}
    return json.dumps(content).encode()


def read_note(comment: bytes) -> dict[str, str]:
    """The identities that :func:`note` stored; empty if the file was never calibrated."""
    try:
        content = parse_json(comment)
        found = {name: content[name] for name in ("uncalibrated", "calibrator")}
    except (ValueError, TypeError, KeyError):
        return {}
    return found if all(isinstance(value, str) for value in found.values()) else {}


def fitted_cases(calibrator: Any) -> tuple[dict[str, str], ...]:
    """The cases that a calibrator, or one that comes before it, was fitted to.

    Args:
        calibrator: parsed content of its file.

    Returns:
        For each case its name (``case``) and the identities of ``probabilities`` and
        ``reference``. Empty if the calibrator was fitted to arrays.

    Raises:
        ValueError: the cases are missing.
    """
    try:
        steps = steps_of(calibrator)
    except (TypeError, LookupError) as error:
        raise ValueError(f"no cases that it was fitted to ({error})") from None
    cases = [case for step in steps for case in _cases_of(step)]
    return tuple({tuple(case.items()): case for case in cases}.values())


def _cases_of(calibrator: Any) -> list[dict[str, str]]:
    names = ("case", "probabilities", "reference")
    try:
        fitted_on = calibrator["fitted_on"]
        cases = [[case[name] for name in names] for case in fitted_on["cases"]]
        of_arrays = fitted_on.get("arrays") is True and not cases
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no cases that it was fitted to ({error})") from None
    if not (cases or of_arrays) or not all(
        isinstance(text, str) for case in cases for text in case
    ):
        raise ValueError("no cases that it was fitted to")
    return [dict(zip(names, case, strict=True)) for case in cases]


def optimistic(n_used: int, n_cases: int) -> str:
    """The warning shown when a calibrator is evaluated on cases that it was fitted to."""
    return (
        f"{n_used} of {n_cases} cases were used to fit the calibrator: these numbers are optimistic"
    )
