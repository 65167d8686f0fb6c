"""What a calibrator derives from probabilities, which it leaves as they are.

``meep-calib-fit threshold`` gives each class or region a threshold, by which a segmentation follows
from the probabilities; ``meep-calib-fit volume`` an interval around its expected volume. Both may
be fitted after another calibrator, which their file then holds, too (``after``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

#: The methods of ``meep-calib-fit`` that leave probabilities as they are.
THRESHOLD, VOLUME = "threshold", "volume"
DERIVED = (THRESHOLD, VOLUME)


@dataclass(frozen=True)
class Thresholds:
    """A threshold for each class or region; how they are applied: :mod:`.posthoc.segmentation`.

    Attributes:
        of_class: {key of a class (as in ``Labels.keys``): threshold, above 0 and below 1}.
        fnr: the false-negative rate that they keep, above 0 and below 1; None if they were chosen
            for the best mean Dice.
    """

    of_class: Mapping[str, float]
    fnr: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entries of ``calibrator.json``; ``classes`` are to be completed with reasons."""
        goal = {"goal": "dice"} if self.fnr is None else {"goal": "fnr", "fnr": self.fnr}
        return {**goal, "classes": {key: {"threshold": t} for key, t in self.of_class.items()}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Thresholds:
        """The inverse of :meth:`to_dict`; raises ``LookupError``, ``TypeError``, ``ValueError``."""
        if content["goal"] not in ("dice", "fnr"):
            raise ValueError(f"{content['goal']!r} is no goal")
        fnr = _share(content["fnr"]) if content["goal"] == "fnr" else None
        classes = content["classes"].items()
        return cls({key: _share(entry["threshold"]) for key, entry in classes}, fnr)


@dataclass(frozen=True)
class VolumeIntervals:
    """Intervals around expected volumes, by split conformal prediction.

    Attributes:
        coverage: share of cases whose volume is to be inside, above 0 and below 1.
        half_width: {key of a class: half the width as a share of the expected volume, at least 0};
            None if there was nothing to learn.
    """

    coverage: float
    half_width: Mapping[str, float | None]

    def interval(self, key: str, expected: float) -> tuple[float, float]:
        """The interval of a class, in the unit of its expected volume.

        (NaN, NaN) if the class has none, or the expected volume is 0 or NaN.
        """
        half = self.half_width[key]
        if half is None or not expected > 0:
            return math.nan, math.nan
        return max(expected * (1 - half), 0.0), expected * (1 + half)

    def to_dict(self) -> dict[str, Any]:
        """The entries of ``calibrator.json``; ``classes`` are to be completed with reasons."""
        classes = {key: {"half_width": half} for key, half in self.half_width.items()}
        return {"coverage": self.coverage, "classes": classes}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> VolumeIntervals:
        """The inverse of :meth:`to_dict`; raises ``LookupError``, ``TypeError``, ``ValueError``."""
        halves = {key: entry["half_width"] for key, entry in content["classes"].items()}
        for half in halves.values():
            if half is not None and not (_is_number(half) and 0 <= half < math.inf):
                raise ValueError(f"{half!r} is no half width")
        return cls(_share(content["coverage"]), halves)


def derived_of(
    content: Mapping[str, Any], keys: Collection[str] | None = None
) -> Thresholds | VolumeIntervals | None:
    """What a calibrator derives, without the one that comes before it; None if nothing.

    Args:
        content: parsed content of its file.
        keys: of the classes that it must have; None: any.

    Raises:
        LookupError, TypeError, ValueError: the content is something else.
    """
    found: Thresholds | VolumeIntervals
    if content["method"] == THRESHOLD:
        found = Thresholds.from_dict(content)
    elif content["method"] == VOLUME:
        found = VolumeIntervals.from_dict(content)
    else:
        return None
    if keys is not None and set(content["classes"]) != set(keys):
        raise ValueError(f"classes {', '.join(content['classes'])}")
    return found


def steps_of(content: Any) -> list[Mapping[str, Any]]:
    """The contents of a calibrator's file and of those before it; the first applied comes first.

    Calibrated probabilities come first, then thresholds and volumes in either order, each at most
    once.

    Raises:
        LookupError, TypeError, ValueError: the content is something else.
    """
    steps = [content]
    while "after" in steps[0]:
        steps.insert(0, steps[0]["after"])
    methods = [step["method"] for step in steps]
    if len(set(methods)) < len(methods) or any(m not in DERIVED for m in methods[1:]):
        raise ValueError(f"{' after '.join(map(str, methods[::-1]))}")
    return steps


def _share(value: Any) -> float:
    if not _is_number(value) or not 0 < value < 1:
        raise ValueError(f"{value!r} is no number between 0 and 1")
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
