"""``calibration.json`` on disk: found, read, and refused if damaged or of another format."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.result_format import malformed_result, malformed_settings
from nnunet_meep.evaluation.results import SCHEMA as RESULT_SCHEMA
from nnunet_meep.evaluation.results import TOP_LABEL

_LARGEST = np.finfo(np.float64).max
#: What a result has.
_PARTS = {
    *("settings", "network", "calibrators", "classes", "cases", "not_predicted", "skipped"),
    *("incomplete_folds", "files", "origin", "by_roi"),
}


#: What ``meep-calib-eval`` writes.
RESULT = "calibration.json"


class NoResult(InputError):
    """There is no result of ``meep-calib-eval``."""


class OtherFormat(InputError):
    """A result in a format that this version does not read; ``content`` is what was found."""

    def __init__(self, message: str, content: dict[str, Any]) -> None:
        super().__init__(message)
        self.content = content


def find_result(folder: Path) -> Path | None:
    """The ``calibration.json`` in a folder, or in ``calibration`` in it, if there is one."""
    candidates = [folder / RESULT, folder / "calibration" / RESULT]
    return next((p for p in candidates if p.is_file()), None)


def load_result(folder: Path) -> dict[str, Any]:
    """Read the result that :func:`find_result` finds.

    Raises:
        InputError: there is none, or it is not one that this version reads.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder with a result of meep-calib-eval, found none"
        )
    path = find_result(folder)
    if path is None:
        raise NoResult(
            f"{folder}: expected calibration.json in it or in its folder 'calibration', or "
            f"predictions with probabilities (CASE.npz), found none"
        )
    try:
        content = json.loads(path.read_bytes())
        schema, settings = content["schema"], content["settings"]
        malformed = malformed_settings(settings, complete=schema == RESULT_SCHEMA)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(
            f"{path}: expected a result of meep-calib-eval, got something else"
        ) from None
    if malformed and schema != RESULT_SCHEMA:
        raise InputError(
            f"{path}: expected a result of schema {RESULT_SCHEMA}, got {schema}; evaluate it again "
            f"with this version"
        )
    if malformed:
        raise InputError(
            f"{path}: expected a result of meep-calib-eval, got one whose settings are damaged: "
            f"{malformed}"
        )
    if schema != RESULT_SCHEMA:
        raise OtherFormat(
            f"{path}: expected a result of schema {RESULT_SCHEMA}, got {schema}; evaluate it again "
            f"with this version: {_command(settings, path.parent)}",
            content,
        )
    if missing := _PARTS - set(content):
        raise InputError(
            f"{path}: expected a result of meep-calib-eval, got one without "
            f"{', '.join(sorted(missing))}"
        )
    problem = malformed_result(content)
    for part in () if problem else (content, *content["by_roi"].values()):
        problem = problem or _damage(part)
    if problem := problem or _damaged_files(content):
        raise InputError(
            f"{path}: expected a result of meep-calib-eval, got one that is damaged: {problem}"
        )
    return content


def _command(settings: dict[str, Any], output: Path) -> str:
    """The command that made a result, or one much like it."""
    folders = settings["pred_folder"]
    words = ["meep-calib-eval", settings["gt_folder"]]
    words += [folders] if isinstance(folders, str) else folders
    words += ["-o", str(output)]
    for name, flag in (("dataset_json", "-djfile"), ("plans_json", "-pfile"), ("bins", "--bins")):
        words += [flag, str(settings[name])] if settings.get(name) else []
    if settings.get("segmentation") == "argmax":
        words += ["--segmentation", "argmax"]
    words += ["--no-surface"] * (settings.get("surface") is False)
    words += ["--chill"] * (settings.get("chill") is True)
    if rois := settings.get("rois"):
        words += ["--roi", *rois]
    return shlex.join(map(str, words))


def _damaged_files(content: dict[str, Any]) -> str:
    """What is wrong with what a result says of its files, if anything is."""
    try:
        of_cases = content["files"]["cases"]
        if set(of_cases) != {case["case"] for case in content["cases"]}:
            return "other cases in its files"
        for case, identities in of_cases.items():
            if not {"probabilities", "reference"} <= set(identities):
                return f"no files of {case}"
    except (KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__} {error}"
    return ""


def _damage(part: dict[str, Any]) -> str:
    """What is wrong with the cases of an ROI, if anything is."""
    try:
        keys, cases = list(part["classes"]), part["cases"]
        names = [case["case"] for case in cases]
        if not names or len(set(names)) < len(names):
            return "no case, or a case twice"
        for case in cases:
            if bool(part.get("top_label")) != bool(case.get("top_label")):
                return f"no top label, or one alone, in {case['case']}"
            entries, first = (
                [
                    *(c["classes"][key] for key in keys),
                    *([c["top_label"]] if c.get("top_label") else []),
                ]
                for c in (case, cases[0])
            )
            for entry, expected in zip(entries, first, strict=True):
                if list(entry) != list(expected):
                    return f"other metrics in {case['case']}"
            if not all(map(_is_number, (v for e in entries for v in e.values()))):
                return f"{case['case']} has what is no number"
            for key, bins in case.get("bins", {}).items():
                pooled = part["top_label"] if key == TOP_LABEL else part["classes"][key]
                n_bins = len(pooled["pooled"]["bins"]["count"])
                if any(len(bins[name]) != n_bins for name in ("count", "mean_p", "mean_y")):
                    return f"other bins in {case['case']}"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"{type(error).__name__} {error}"
    return ""


def _is_number(value: Any) -> bool:
    """A number that float64 can hold, or None for one that does not exist."""
    return value is None or (isinstance(value, int | float) and abs(value) <= _LARGEST)


def in_roi(result: dict[str, Any], roi: str | None, source: Path) -> dict[str, Any]:
    """A result as if it had been evaluated over one of its ROIs alone.

    Args:
        result: content of a ``calibration.json``.
        roi: name of the ROI; None: the first one.
        source: what is named in errors.

    Raises:
        InputError: it was not evaluated over that roi.
    """
    rois = result["settings"]["rois"]
    if roi is None or roi == rois[0]:
        return result
    if roi not in result.get("by_roi", {}):
        raise InputError(
            f"{source}: expected a result over {roi}, got one over {', '.join(rois)}; "
            f"evaluate it again with --roi {roi}"
        )
    settings = {**result["settings"], "rois": [roi]}
    return {**result, **result["by_roi"][roi], "settings": settings}
