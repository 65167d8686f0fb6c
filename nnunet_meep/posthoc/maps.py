"""The maps from probabilities to calibrated probabilities.

A binary map calibrates the probability of one class, p in [0, 1]; a joint map calibrates the
probabilities of all classes together. nnU-Net saves probabilities but not logits, so these are
computed as ``log p`` and ``logit p = log p - log(1 - p)``. In both, p and 1 - p are raised to at
least ``LOGIT_FLOOR``, where the evaluator's cells end: ``logit p`` is within [-24, 24].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from nnunet_meep.evaluation.counting.bins import LOGIT_LIMIT

#: Before a logarithm is taken, smaller probabilities are raised to this value, 3.8e-11.
LOGIT_FLOOR = float(expit(-LOGIT_LIMIT))
#: Temperatures are limited to the range from 1 / MAX_TEMPERATURE to MAX_TEMPERATURE.
MAX_TEMPERATURE = 100.0


def logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log p - log(1 - p)``, within [-24, 24] because both are raised to ``LOGIT_FLOOR``."""
    return np.log(np.maximum(p, LOGIT_FLOOR)) - np.log(np.maximum(1 - p, LOGIT_FLOOR))


class BinaryMap(Protocol):
    """Calibrates probabilities of one class, (N,) float64 in [0, 1]."""

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]: ...

    def parameters(self) -> dict[str, Any]:
        """The fitted parameters, as JSON."""
        ...


class JointMap(Protocol):
    """Calibrates probabilities of all K classes, (K, N) float64 that sum to 1 over the classes."""

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]: ...

    def parameters(self) -> dict[str, Any]:
        """The fitted parameters, as JSON."""
        ...


@dataclass(frozen=True)
class Platt:
    """``sigmoid(slope * logit p + intercept)``: logistic regression on logit p (Platt 1999)."""

    slope: float
    intercept: float

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        mapped: NDArray[np.float64] = expit(self.slope * logit(p) + self.intercept)
        return mapped

    def parameters(self) -> dict[str, Any]:
        return {"slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True)
class Isotonic:
    """The best-fitting nondecreasing function of p, a step function (Zadrozny & Elkan 2002).

    Attributes:
        borders: values of p between one step and the next, (M - 1,), ascending; p equal to a border
            belongs to the lower step.
        steps: calibrated probability of each step, (M,), ascending.
    """

    borders: NDArray[np.float64]
    steps: NDArray[np.float64]

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.steps[np.searchsorted(self.borders, p, side="left")]

    def parameters(self) -> dict[str, Any]:
        return {"borders": self.borders.tolist(), "steps": self.steps.tolist()}


@dataclass(frozen=True)
class Temperature:
    """``sigmoid(logit p / T)`` (Guo et al. 2017), T > 0."""

    temperature: float

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        mapped: NDArray[np.float64] = expit(logit(p) / self.temperature)
        return mapped

    def parameters(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


@dataclass(frozen=True)
class JointTemperature:
    """``softmax(log p / T)`` over the classes (Guo et al. 2017), T > 0."""

    temperature: float

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        logits = np.log(np.maximum(p, LOGIT_FLOOR)) / self.temperature
        mapped: NDArray[np.float64] = softmax(logits, axis=0)
        return mapped

    def parameters(self) -> dict[str, Any]:
        return {"temperature": self.temperature}
