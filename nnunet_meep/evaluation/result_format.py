"""Is what stands in a ``calibration.json`` of the kinds that it has to be of?

A result is read before its numbers are compared; what somebody or something has changed in it is to
be one clear line, not a failure later.
"""

from __future__ import annotations

from typing import Any

_TEXT_OR_NONE = (str, type(None))
#: By name the type, the types, ``[kind]`` for a list of such, or a dictionary of the same form.
_SETTINGS: dict[str, Any] = {
    "gt_folder": str,
    "pred_folder": (str, list),
    "bins": int,
    "rois": [str],
    "surface": bool,
    "version": str,
}
_NEW_SETTINGS: dict[str, Any] = {"segmentation": str, "chill": bool, "reader": _TEXT_OR_NONE}
_OPTIONAL_SETTINGS: dict[str, Any] = {"dataset_json": _TEXT_OR_NONE, "plans_json": _TEXT_OR_NONE}
_FOLD = {"fold": str, "evaluated": bool, "missing": [str], "n_cases": int}
_CALIBRATOR = {"identity": str, "any_network": [str], "used_to_fit": [str], "n_cases": int}
_RESULT: dict[str, Any] = {
    "origin": {"written": str, "gt_folder": _TEXT_OR_NONE, "pred_folders": [str], "masks": dict},
    "calibrators": [_CALIBRATOR],
    "not_predicted": [str],
    "skipped": [{"case": str, "reason": str}],
    "incomplete_folds": [_FOLD],
    "by_roi": dict,
    "files": {"dataset.json": str, "cases": dict},
    "classes": dict,
    "cases": [{"case": str, "classes": dict, "n_not_argmax": (int, type(None))}],
    "top_label": (dict, type(None)),
}


def malformed_settings(settings: Any, *, complete: bool) -> str:
    """What is not of its kind in the settings of a result, if anything is.

    Args:
        settings: as they were read.
        complete: are they of this format? Older ones have less.
    """
    kinds = {**_SETTINGS, **_NEW_SETTINGS} if complete else _SETTINGS
    if problem := _malformed(settings, kinds, "settings"):
        return problem
    optional = {name: kind for name, kind in _OPTIONAL_SETTINGS.items() if name in settings}
    if not settings["rois"] or isinstance(settings["bins"], bool):
        return "no ROIs, or no number of bins"
    folders = settings["pred_folder"]
    if isinstance(folders, list) and (not folders or _malformed(folders, [str], "pred_folder")):
        return "no pred_folder"
    return _malformed(settings, optional, "settings")


def malformed_result(content: Any) -> str:
    """What is not of its kind in a result of this format, if anything is."""
    if problem := _malformed(content, _RESULT, "it"):
        return problem
    for part in (content, *content["by_roi"].values()):
        if problem := _malformed(part, {"classes": dict, "cases": list}, "an ROI"):
            return problem
        for key, entry in part["classes"].items():
            if problem := _malformed(entry, {"name": str}, f"class {key}"):
                return problem
    return ""


def _malformed(value: Any, kind: Any, where: str) -> str:
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return f"{where} is no object"
        for name, its_kind in kind.items():
            if name not in value:
                return f"{where} has no {name}"
            if problem := _malformed(value[name], its_kind, name):
                return problem
        return ""
    if isinstance(kind, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return next((p for v in value if (p := _malformed(v, kind[0], where))), "")
    return "" if isinstance(value, kind) else f"{where} is {type(value).__name__}"
