"""The lesions in ``calibration.json``: of each case, and pooled over the cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nnunet_meep.evaluation.counting.components import MATCH_IOU, Lesions
from nnunet_meep.evaluation.metrics.lesions import pooled_lesions

_SIDES = ("predicted", "reference")


def lesions_to_dict(
    cases: Mapping[str, Mapping[str, Lesions]], keys: Sequence[str], n_bins: int
) -> dict[str, Any]:
    """The entry ``lesions`` of ``calibration.json``.

    Args:
        cases: by case and class key, the lesions.
        keys: of the classes.
        n_bins: number of bins of the reliability diagrams.

    Returns:
        ``least_iou``, that of a match, and ``classes``: for each key ``pooled``
        (:func:`.pooled_lesions`) and ``cases``, the components of each (:class:`.Lesions`).
    """
    return {
        "least_iou": MATCH_IOU,
        "classes": {
            key: {
                "pooled": pooled_lesions([of_case[key] for of_case in cases.values()], n_bins),
                "cases": {case: asdict(of_case[key]) for case, of_case in cases.items()},
            }
            for key in keys
        },
    }


def lesions_from_dict(content: Mapping[str, Any], case: str) -> dict[str, Lesions]:
    """The lesions of a case by class key, from the result of :func:`lesions_to_dict`."""
    return {
        key: Lesions.from_dict(entry["cases"][case]) for key, entry in content["classes"].items()
    }


def damaged_lesions(content: Any, keys: Sequence[str], cases: Sequence[str]) -> str:
    """What is wrong with the entry ``lesions``; empty if nothing is.

    Args:
        content: as read from JSON.
        keys: of the classes.
        cases: their names.
    """
    try:
        if list(content["classes"]) != list(keys):
            return "its lesions are of other classes"
        for key, entry in content["classes"].items():
            if set(entry["cases"]) != set(cases):
                return f"its lesions of class {key} are of other cases"
            for case, lesions in entry["cases"].items():
                if not _is_sound(lesions):
                    return f"the lesions of class {key} in {case} are not what they should be"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"lesions: {type(error).__name__} {error}"
    return ""


def _is_sound(lesions: Mapping[str, Any]) -> bool:
    """Whether all lists have an entry for each component, within its range."""
    sides = [lesions[name] for name in _SIDES]
    n = len(sides[0]["match"])
    if set(lesions) != {*_SIDES, "iou", "mean_p", "max_p"}:
        return False
    shares = [lesions[name] for name in ("iou", "mean_p", "max_p")]
    if not all(len(share) == n and all(_is_within(v, 1) for v in share) for share in shares):
        return False
    return _is_side(sides[0], sides[1]) and _is_side(sides[1], sides[0])


def _is_side(side: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    match, n = side["match"], len(side["match"])
    return (
        set(side) == {"size", "centre", "match"}
        and len(side["size"]) == len(side["centre"]) == n
        and all(_is_within(size, float("inf")) for size in side["size"])
        and all(type(i) is int and i >= 0 for centre in side["centre"] for i in centre)
        and all(
            j is None
            or (type(j) is int and 0 <= j < len(other["match"]) and other["match"][j] == i)
            for i, j in enumerate(match)
        )
    )


def _is_within(value: Any, largest: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= largest
