"""Predictions that were calibrated: by which calibrator, and was it fitted to these very cases?

A calibrator looks better on the cases that it was fitted to than on others, as a network does on
its training cases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.identity import file_identity
from nnunet_meep.nnunet_files.networks import RECORD

#: Marks numbers that :func:`optimistic` has something to say of.
OPTIMISTIC = "optimistic"
#: In a folder that was calibrated: the calibrator.
CALIBRATOR_COPY = "calibrator.json"


@dataclass(frozen=True)
class AppliedCalibrator:
    """The calibrator of a folder of predictions.

    Attributes:
        identity: of its file (:mod:`.identity`); empty if it is not known.
        method: as ``meep-calib-fit`` names it.
        dataset: on which it was fitted, if that is known.
        cases: name and identities of ``probabilities`` and ``reference`` of each case that it was
            fitted to.
        any_network: in what its network is another one than that of the predictions, if it was
            applied all the same (``--any-network``).
    """

    identity: str
    method: str
    dataset: str | None
    cases: tuple[Mapping[str, str], ...]
    any_network: tuple[str, ...]

    def was_fitted_to(
        self, case: str, files: Mapping[str, str], dataset: str | None, *, has_class: bool
    ) -> bool:
        """Was it fitted to this case?

        By its name, if it is of the same data set; or by what is in its files, however they are
        called.

        Args:
            case: its name.
            files: what its files hold (:mod:`.identity`), by role.
            dataset: name of its data set, if that is known.
            has_class: does its reference hold any class? Empty ones are all alike.
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
        """As it stands in ``calibration.json``, with the cases that it was fitted to."""
        return {
            "identity": self.identity,
            "method": self.method,
            "n_fitted_on": len(self.cases),
            "any_network": list(self.any_network),
            "used_to_fit": list(used),
            "n_cases": n_cases,
        }


#: Of probabilities that are calibrated, in a folder that does not say by what.
UNKNOWN_CALIBRATOR = AppliedCalibrator("", "", None, (), ())


def applied_calibrator(folder: Path) -> AppliedCalibrator | None:
    """The calibrator with which a folder of predictions was calibrated, if it was.

    Raises:
        InputError: its files are not what ``meep-calib-apply`` writes.
    """
    record, path = folder / RECORD, folder / CALIBRATOR_COPY
    if not record.is_file():
        return None
    try:
        any_network = json.loads(record.read_bytes())["any_network"]
        content = json.loads(path.read_bytes())
        cases = fitted_cases(content)
        return AppliedCalibrator(
            file_identity(path),
            str(content["method"]),
            content["network"]["dataset"],
            cases,
            tuple(map(str, any_network)),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{folder}: expected {RECORD} and {CALIBRATOR_COPY} as meep-calib-apply writes them, "
            f"got something else ({type(error).__name__} {error}); calibrate the predictions again"
        ) from None


def note(uncalibrated: str, calibrator: str) -> bytes:
    """The comment of a calibrated ``CASE.npz``: of what it was made, by which calibrator.

    Args:
        uncalibrated: what the probabilities were before (:mod:`.identity`).
        calibrator: what the calibrator's file holds.
    """
    return json.dumps({"uncalibrated": uncalibrated, "calibrator": calibrator}).encode()


def read_note(comment: bytes) -> dict[str, str]:
    """What :func:`note` wrote; nothing for probabilities that were never calibrated."""
    try:
        content = json.loads(comment)
        found = {name: content[name] for name in ("uncalibrated", "calibrator")}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return found if all(isinstance(value, str) for value in found.values()) else {}


def fitted_cases(calibrator: Any) -> tuple[dict[str, str], ...]:
    """The cases that a calibrator was fitted to, of the content of its file.

    Returns:
        ``case``, and the identities of ``probabilities`` and ``reference``, of each; nothing if it
        was fitted to arrays.

    Raises:
        ValueError: they are missing.
    """
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
    return tuple(dict(zip(names, case, strict=True)) for case in cases)


def optimistic(n_used: int, n_cases: int) -> str:
    """What has to be said where a calibrator is evaluated on cases that it was fitted to."""
    return (
        f"{n_used} of {n_cases} cases were used to fit the calibrator: these numbers are optimistic"
    )
