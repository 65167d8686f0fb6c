"""Maps from their parameters, as ``calibrator.json`` holds them.

All functions raise ``LookupError``, ``TypeError``, ``ValueError`` or what fiducio raises if the
parameters are damaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnunet_meep.posthoc.maps import (
    MAX_TEMPERATURE,
    BinaryMap,
    Isotonic,
    JointMap,
    JointTemperature,
    Platt,
    Temperature,
)
from nnunet_meep.posthoc.scalings import BinaryScaling, scaling_from


def joint_map(method: str, parameters: dict[str, Any], n_classes: int) -> JointMap:
    """The map of all classes together."""
    if method == "temperature":
        return JointTemperature(_temperature(parameters))
    return scaling_from(method, parameters, n_classes)


def binary_map(method: str, parameters: dict[str, Any]) -> BinaryMap:
    """The map of one class against the rest."""
    if method == "platt":
        return Platt(_finite(parameters["slope"]), _finite(parameters["intercept"]))
    if method == "isotonic":
        return _isotonic(parameters)
    if method == "temperature":
        return Temperature(_temperature(parameters))
    return BinaryScaling(scaling_from(method, parameters, 2))


def _isotonic(parameters: dict[str, Any]) -> Isotonic:
    borders = np.array(parameters["borders"], np.float64)
    steps = np.array(parameters["steps"], np.float64)
    if borders.ndim != 1 or steps.shape != (len(borders) + 1,):
        raise ValueError(f"{steps.shape} steps with borders {borders.shape}")
    for values in (borders, steps):
        if not ((values >= 0) & (values <= 1)).all() or (np.diff(values) <= 0).any():
            raise ValueError("borders or steps do not ascend from 0 to 1")
    return Isotonic(borders, steps)


def _temperature(parameters: dict[str, Any]) -> float:
    temperature = _finite(parameters["temperature"])
    if not 1 / MAX_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise ValueError(f"the temperature {temperature} is out of range")
    return temperature


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not np.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)
