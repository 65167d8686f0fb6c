"""Predictions of networks that are far too sure."""

from __future__ import annotations

from typing import Any

import numpy as np
from predictions import LABELS

SHAPE = (6, 9, 10)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=0))
    return e / e.sum(axis=0)


def overconfident(
    rng: np.random.Generator, n_classes: int, shape: tuple[int, ...] = SHAPE, sharpness: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (C, *shape), float32, of a network whose logits are ``sharpness`` times too
    large, and a label map drawn from what they should be."""
    logits = rng.normal(size=(n_classes, *shape))
    logits[0] += 1
    right = softmax(1.5 * logits).cumsum(axis=0)
    reference = np.minimum((rng.random(shape) > right).sum(axis=0), n_classes - 1)
    return softmax(sharpness * 1.5 * logits).astype(np.float32), reference.astype(np.uint8)


def overconfident_regions(
    rng: np.random.Generator, shape: tuple[int, ...] = SHAPE, sharpness: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """The same of the regions (1, 2) and (2,), whose labels are nested."""
    whole, share = 1 / (1 + np.exp(-rng.normal(size=(2, *shape))))
    right = np.stack([whole, whole * share])
    reference = (rng.random(shape) < right).sum(axis=0).astype(np.uint8)
    odds = (right / (1 - right)) ** sharpness
    return (odds / (1 + odds)).astype(np.float32), reference


#: dataset.json of each kind of labels, and the number of its classes, 0 for regions.
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "two classes": ({"labels": {"background": 0, "LA": 1}}, 2),
    "three classes": ({"labels": LABELS}, 3),
    "regions": (
        {
            "labels": {"background": 0, "whole": [1, 2], "inner": [2]},
            "regions_class_order": [1, 2],
        },
        0,
    ),
}
