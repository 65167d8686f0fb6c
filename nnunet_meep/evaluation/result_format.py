"""The format of ``calibration.json``, and checks that a file has this format.

A result is checked before its numbers are compared: a file that was edited or damaged should give
one clear message, not a failure later.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nnunet_meep.evaluation.counting import TOLERANCE_MM
from nnunet_meep.evaluation.counting.roi import KINDS
from nnunet_meep.evaluation.lesion_results import damaged_lesions
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.nnunet_files.networks import Network

#: Version of the format of ``calibration.json``; raise it whenever the meaning of an entry changes.
SCHEMA = 4
#: Of earlier versions, whose entries mean the same; they only lack some.
EARLIER = (3,)
#: The key of the predicted label, beside the keys of the classes.
TOP_LABEL = "top_label"

_LARGEST = sys.float_info.max
_TEXT_OR_NONE = (str, type(None))
#: Expected kinds by name: a type, a tuple of types, ``[kind]`` for a list, or a nested dictionary.
_SETTINGS: dict[str, Any] = {
    "gt_folder": str,
    "pred_folder": (str, list),
    "bins": int,
    "rois": [str],
    "surface": bool,
    "version": str,
}
_NEW_SETTINGS: dict[str, Any] = {
    **{"segmentation": str, "chill": bool, "reader": _TEXT_OR_NONE},
    **{"tolerance_mm": (int, float), "lesions": (int, float, type(None))},
}
_OPTIONAL_SETTINGS: dict[str, Any] = {
    "dataset_json": _TEXT_OR_NONE,
    "plans_json": _TEXT_OR_NONE,
    "cases": (list, type(None)),
    "tolerance_mm": (int, float),
}
_FOLD = {"fold": str, "evaluated": bool, "missing": [str], "n_cases": int}
_CALIBRATOR = {
    **{"identity": str, "any_network": [str], "used_to_fit": [str]},
    **{"n_cases": int, "n_fitted_on": int},
}
#: What a calibrator in a result has if it derives volume intervals; for each class, the second.
_VOLUME: dict[str, Any] = {"coverage": float, "classes": dict}
_COVERED: dict[str, Any] = {
    **{"n_cases": int, "n_covered": int},
    **{"mean_width_ml": (int, float), "mean_relative_width": (int, float)},
}
#: When a result was written, and the paths of its files relative to its folder.
_ORIGIN: dict[str, Any] = {
    "written": str,
    "gt_folder": _TEXT_OR_NONE,
    "pred_folders": [str],
    "masks": dict,
}
_POOLED = {"pooled": {"bins": {"edges": list, "count": list, "mean_p": list, "mean_y": list}}}
_CASE = {"case": str, "classes": dict, "bins": dict, "n_clipped": int}
_PART: dict[str, Any] = {"classes": dict, "cases": [_CASE], "top_label": (dict, type(None))}
_RESULT: dict[str, Any] = {
    "network": dict,
    "calibrators": [_CALIBRATOR],
    "not_predicted": [str],
    "skipped": [{"case": str, "reason": str}],
    "incomplete_folds": [_FOLD],
    "by_roi": dict,
    "files": {"dataset.json": str, "cases": dict},
    "classes": dict,
    "cases": [{"case": str, "n_not_argmax": (int, type(None))}],
    "top_label": (dict, type(None)),
    "lesions": (dict, type(None)),
}


def nan_to_none(value: Any) -> Any:
    """Replace NaN by None: JSON has no NaN, so null means that a number does not exist."""
    if isinstance(value, dict):
        return {k: nan_to_none(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a result with NaN as null, entry by entry: thousands of cases are not copied for it.

    Args:
        path: the new file.
        content: the result; an iterator is written as a list. It has at least one entry.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("w", encoding="utf-8") as file:
        json.dump(_without_nan(content), file, indent=1, allow_nan=False)
        file.write("\n")


def _without_nan(value: Any) -> Any:
    """:func:`nan_to_none`, which waits with each entry of a list until it is asked for."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, Iterator) or (value and isinstance(value, list)):
        return _Lazily(value)
    return nan_to_none(value)


class _Lazily(list[Any]):
    """A list, not empty, whose entries are not all there at once."""

    def __init__(self, entries: Iterable[Any]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return 1  # only whether it is empty is looked at

    def __iter__(self) -> Iterator[Any]:
        return map(nan_to_none, self._entries)


def none_to_nan(value: Any) -> Any:
    """The inverse of :func:`nan_to_none`."""
    if isinstance(value, dict):
        return {k: none_to_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [none_to_nan(v) for v in value]
    return math.nan if value is None else value


def malformed_settings(settings: Any, *, complete: bool) -> str:
    """The first malformed entry in the settings of a result; empty if there is none.

    Args:
        settings: as read from JSON.
        complete: whether they have the current format; older ones have fewer entries.
    """
    kinds = {**_SETTINGS, **_NEW_SETTINGS} if complete else _SETTINGS
    if problem := malformed(settings, kinds, "settings"):
        return problem
    optional = {name: kind for name, kind in _OPTIONAL_SETTINGS.items() if name in settings}
    if unknown := [roi for roi in settings["rois"] if roi.partition(":")[0] not in KINDS]:
        return f"{unknown[0]!r} is not an ROI"
    if not settings["rois"] or isinstance(settings["bins"], bool):
        return "no ROIs, or no number of bins"
    folders = settings["pred_folder"]
    if isinstance(folders, list) and (not folders or malformed(folders, [str], "pred_folder")):
        return "no pred_folder"
    if settings.get("cases") and malformed(settings["cases"], [str], "cases"):
        return "cases are not names"
    return malformed(settings, optional, "settings")


def in_current_format(content: Any) -> Any:
    """The content of a result of an earlier version, without the metrics that came later.

    Anything else is returned as it is. For results whose predictions are gone; others are better
    evaluated again.
    """
    if not isinstance(content, dict) or content.get("schema") not in EARLIER:
        return content
    settings = {"tolerance_mm": TOLERANCE_MM, "lesions": None, **content["settings"]}
    return {"lesions": None, **content, "schema": SCHEMA, "settings": settings}


def damage(content: Any) -> str:
    """What is wrong with a result of this format; empty if nothing is."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return f"its schema is not {SCHEMA}"
    if missing := [name for name in ("settings", *_RESULT) if name not in content]:
        return f"it has no {', '.join(missing)}"
    if problem := malformed_settings(content["settings"], complete=True):
        return problem
    if problem := malformed(content, _RESULT, "it"):
        return problem
    for calibrator in content["calibrators"]:
        if problem := _malformed_derived(calibrator, content["classes"]):
            return problem
    if "origin" in content and (problem := _malformed_origin(content["origin"])):
        return problem
    try:
        Network.from_dict(content["network"])
    except ValueError as error:
        return str(error)
    rois, names = content["settings"]["rois"], [case["case"] for case in content["cases"]]
    if list(content["by_roi"]) != rois[1:]:
        return f"its ROIs are not {', '.join(rois)}"
    try:
        for part in (content, *content["by_roi"].values()):
            if problem := _malformed_part(part) or _damaged_numbers(part):
                return problem
            if [case["case"] for case in part["cases"]] != names:
                return "the ROIs have different cases"
        return _damaged_files(content["files"]["cases"], names) or _damaged_lesions(content, names)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"{type(error).__name__} {error}"


def _malformed_derived(calibrator: dict[str, Any], classes: dict[str, Any]) -> str:
    """The first malformed entry on thresholds or volume intervals; empty if there is none."""
    thresholds, volume = calibrator.get("thresholds", {}), calibrator.get("volume")
    if problem := malformed(thresholds, {}, "thresholds"):
        return problem
    if problem := malformed(thresholds, dict.fromkeys(thresholds, float), "thresholds"):
        return problem
    if volume is None:
        return ""
    if problem := malformed(volume, _VOLUME, "volume"):
        return problem
    if set(volume["classes"]) - set(classes):
        return "volume has other classes"
    kinds = dict.fromkeys(volume["classes"], _COVERED)
    if problem := malformed(volume["classes"], kinds, "volume"):
        return problem
    return "" if all(of["n_cases"] > 0 for of in volume["classes"].values()) else "no cases"


def _malformed_origin(origin: Any) -> str:
    if problem := malformed(origin, _ORIGIN, "origin"):
        return problem
    optional = {name: _TEXT_OR_NONE for name in ("dataset_json", "plans_json") if name in origin}
    if problem := malformed(origin, optional, "origin"):
        return problem
    return malformed(origin["masks"], dict.fromkeys(origin["masks"], str), "masks")


def _malformed_part(part: Any) -> str:
    """The first malformed entry in the part of a result for one ROI; empty if there is none."""
    if problem := malformed(part, _PART, "an ROI"):
        return problem
    for key, entry in part["classes"].items():
        if problem := malformed(entry, {"name": str, **_POOLED}, f"class {key}"):
            return problem
        if not entry["name"].isprintable():
            return f"the name of class {key} is not one line of text"
    if part["top_label"] is None:
        return ""
    kinds = {"classwise_ece": {"pooled": (int, float, type(None))}, **_POOLED}
    return malformed(part["top_label"], kinds, TOP_LABEL)


def _damaged_files(of_cases: dict[str, Any], names: list[str]) -> str:
    if set(of_cases) != set(names):
        return "other cases in its files"
    for case, identities in of_cases.items():
        if not {"probabilities", "reference"} <= set(identities):
            return f"no files of {case}"
    return ""


def _damaged_lesions(content: dict[str, Any], names: list[str]) -> str:
    requested = content["settings"]["lesions"] is not None
    if requested != (content["lesions"] is not None):
        return "lesions that its settings do not ask for, or none"
    return damaged_lesions(content["lesions"], list(content["classes"]), names) if requested else ""


def _damaged_numbers(part: dict[str, Any]) -> str:
    """What is wrong with the numbers of an ROI; empty if nothing is."""
    names = [case["case"] for case in part["cases"]]
    if not names or len(set(names)) < len(names):
        return "no case, or a case twice"
    pooled = {key: entry["pooled"] for key, entry in part["classes"].items()}
    if part["top_label"] is not None:
        pooled[TOP_LABEL] = part["top_label"]["pooled"]
    n_bins = {key: len(entry["bins"]["count"]) for key, entry in pooled.items()}
    for key, entry in pooled.items():
        numbers = [v for v in entry.values() if not isinstance(v, dict)]
        curves = [*entry["bins"].values(), *entry.get("risk_coverage", {}).values()]
        if not all(map(_is_number, (*numbers, *(v for curve in curves for v in curve)))):
            return f"the pooled {key} contains a value that is not a number"
        if len(entry["bins"]["edges"]) != n_bins[key] + 1:
            return f"other bins in the pooled {key}"
    first = _metrics(part["cases"][0])
    for case in part["cases"]:
        metrics = _metrics(case)
        if unknown := [m for of_key in metrics.values() for m in of_key if m not in CATALOGUE]:
            return f"{unknown[0]}, which is no metric, in {case['case']}"
        if metrics.keys() != pooled.keys():
            return f"other classes, or no top label, in {case['case']}"
        if "classwise_ece" not in metrics.get(TOP_LABEL, {"classwise_ece"}):
            return f"no classwise_ece in {case['case']}"
        if any(list(metrics[key]) != list(first[key]) for key in first):
            return f"{case['case']} has other metrics than the first case"
        lists = [bins[n] for bins in case["bins"].values() for n in ("count", "mean_p", "mean_y")]
        numbers = [v for of_key in metrics.values() for v in of_key.values()]
        if not all(map(_is_number, (*numbers, *(v for values in lists for v in values)))):
            return f"{case['case']} contains a value that is not a number"
        if {key: len(bins["count"]) for key, bins in case["bins"].items()} != n_bins:
            return f"other bins in {case['case']}"
    return ""


def _metrics(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of each class, and of the top label if there is one."""
    top_label = {} if case["top_label"] is None else {TOP_LABEL: case["top_label"]}
    return {**case["classes"], **top_label}


def _is_number(value: Any) -> bool:
    """Whether it is a number that float64 can hold, or None or NaN for one that does not exist."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and abs(value) <= _LARGEST


def malformed(value: Any, kind: Any, where: str) -> str:
    """The first entry of a value that is not of the expected kind; empty if there is none.

    Args:
        value: as read from JSON.
        kind: a type, a tuple of types, ``[kind]`` for a list, or a dictionary of kinds by name.
        where: how the message calls the value.
    """
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return f"{where} is no object"
        for name, its_kind in kind.items():
            if name not in value:
                return f"{where} has no {name}"
            if problem := malformed(value[name], its_kind, name):
                return problem
        return ""
    if isinstance(kind, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return next((p for v in value if (p := malformed(v, kind[0], where))), "")
    return "" if isinstance(value, kind) else f"{where} is {type(value).__name__}"
