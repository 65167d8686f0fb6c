"""What a calibrator does to the probabilities of voxels.

A binary map takes the probability of one class, p in [0, 1], to a calibrated one; a joint map takes
the probabilities of all classes together. nnU-Net saves probabilities and no logits: they are
recovered as ``log p`` and ``logit p = log p - log(1 - p)``, with p (and 1 - p) not below
``LOGIT_FLOOR``, where the evaluator's grid ends: logits lie within [-24, 24].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from nnunet_meep.evaluation.counting.bins import LOGIT_LIMIT

#: Probabilities below count as this much, 3.8e-11, where a logarithm is taken of them.
LOGIT_FLOOR = float(expit(-LOGIT_LIMIT))
#: Temperatures lie between 1 / MAX_TEMPERATURE and MAX_TEMPERATURE.
MAX_TEMPERATURE = 100.0


def logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log p - log(1 - p)``, both floored: within [-24, 24]."""
    return np.log(np.maximum(p, LOGIT_FLOOR)) - np.log(np.maximum(1 - p, LOGIT_FLOOR))


class BinaryMap(Protocol):
    """Takes probabilities of one class, (N,) float64 in [0, 1], to calibrated ones."""

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]: ...

    def parameters(self) -> dict[str, Any]:
        """What was learnt, as JSON."""
        ...


class JointMap(Protocol):
    """Takes probabilities of all K classes, (K, N) float64 that sum to 1, to calibrated ones."""

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]: ...

    def parameters(self) -> dict[str, Any]:
        """What was learnt, as JSON."""
        ...


@dataclass(frozen=True)
class Platt:
    """``sigmoid(slope * logit p + intercept)``: logistic regression on logit p (Platt 1999)."""

    slope: float
    intercept: float

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        return expit(self.slope * logit(p) + self.intercept)

    def parameters(self) -> dict[str, Any]:
        return {"slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True)
class Isotonic:
    """The best nondecreasing function of p (Zadrozny & Elkan 2002), which has steps.

    Attributes:
        borders: where one step ends and the next one begins, (M - 1,), ascending; p at a border
            belongs to the step before it.
        steps: calibrated probabilities, (M,), ascending.
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
        return expit(logit(p) / self.temperature)

    def parameters(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


@dataclass(frozen=True)
class JointTemperature:
    """``softmax(log p / T)`` over the classes (Guo et al. 2017), T > 0."""

    temperature: float

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        return softmax(np.log(np.maximum(p, LOGIT_FLOOR)) / self.temperature, axis=0)

    def parameters(self) -> dict[str, Any]:
        return {"temperature": self.temperature}
