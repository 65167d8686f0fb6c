"""How many lesions are found, and whether the probabilities tell the real ones from the others.

A predicted component is right if it matches one of the reference
(:mod:`nnunet_meep.evaluation.counting.components`). Its confidence is one of

- ``mean_p``: the mean probability of its voxels;
- ``max_p``: the largest one;
- ``dice_expected``: the Dice that they expect inside it, 2 sum p / (sum p + n) over its n voxels,
  which is 2 m / (1 + m) for a mean m: the same order as by ``mean_p``, on another scale.

A threshold runs over the confidences: components below it are not counted. They are those of the
segmentation, and are not made anew at each threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import Cells, grid
from nnunet_meep.evaluation.counting.components import Lesions
from nnunet_meep.evaluation.metrics.calibration import binned_metrics, reliability_bins

#: Key and name of each confidence; the first one is that of pictures with several models.
CONFIDENCES = {
    "mean_p": "mean probability",
    "max_p": "largest probability",
    "dice_expected": "expected Dice",
}


def lesion_metrics(lesions: Lesions) -> dict[str, float]:
    """The metrics of the lesions of one class in one case, by their keys in the catalogue.

    - ``lesion_f1``: 2 TP / (2 TP + FP + FN), with TP the matched pairs; NaN without components.
    - ``lesion_precision``: matched share of the predicted components; NaN if there are none.
    - ``lesion_recall``: matched share of those of the reference; NaN if there are none.
    - ``lesions_true``, ``lesions_pred``: number of components of the reference and of the
      segmentation.
    """
    matched = sum(match is not None for match in lesions.predicted.match)
    n_pred, n_true = len(lesions.predicted.match), len(lesions.reference.match)
    return _detection(matched, n_pred, n_true)


def pooled_lesions(cases: Sequence[Lesions], n_bins: int) -> dict[str, Any]:
    """The lesions of several cases together.

    Args:
        cases: the lesions of one class in each case, at least one case.
        n_bins: number of bins of the reliability diagrams, 1 to ``MAX_BINS``.

    Returns:
        The keys of :func:`lesion_metrics`, ``n_scans``, and ``confidence``: for each of
        ``CONFIDENCES`` its ``ece`` over components, ``average_precision``, ``bins`` (as
        :func:`.reliability_bins`) and ``froc`` (as :func:`froc`).
    """
    right = np.concatenate([_right(lesions) for lesions in cases])
    n_true = sum(len(lesions.reference.match) for lesions in cases)
    return {
        **_detection(int(right.sum()), len(right), n_true),
        "n_scans": len(cases),
        "confidence": {
            name: _of_confidence(
                np.concatenate([confidence(lesions, name) for lesions in cases]),
                right,
                n_true,
                len(cases),
                n_bins,
            )
            for name in CONFIDENCES
        },
    }


def lesion_bins(lesions: Lesions, name: str, n_bins: int) -> dict[str, list[float]]:
    """The reliability bins (:func:`.reliability_bins`) of the components of one case.

    Args:
        lesions: of the case.
        name: one of ``CONFIDENCES``.
        n_bins: number of bins.
    """
    cells = Cells.from_voxels(confidence(lesions, name), _right(lesions), n_bins)
    return reliability_bins(cells, grid(n_bins))


def confidence(lesions: Lesions, name: str) -> NDArray[np.float64]:
    """The confidence of each predicted component, in [0, 1], (n,).

    Args:
        lesions: of one case.
        name: one of ``CONFIDENCES``.
    """
    if name == "max_p":
        return np.array(lesions.max_p, np.float64)
    mean_p = np.array(lesions.mean_p, np.float64)
    return mean_p if name == "mean_p" else 2 * mean_p / (1 + mean_p)


def froc(
    confidence: NDArray[np.float64], right: NDArray[np.uint8], n_true: int, n_scans: int
) -> dict[str, list[float]]:
    """The free-response ROC curve: what is found at how many false alarms.

    Args:
        confidence: of each predicted component, (n,).
        right: 1 if it is right, otherwise 0, (n,).
        n_true: number of components of the reference.
        n_scans: number of cases.

    Returns:
        ``threshold``, the different confidences in descending order. For the components with at
        least this confidence: ``sensitivity``, the share of the components of the reference that
        match one (NaN if there are none), and ``false_positives``, those without a match, per scan.
    """
    threshold, found, wrong = _at_thresholds(confidence, right)
    sensitivity = found / n_true if n_true else np.full(len(found), np.nan)
    return {
        "threshold": threshold.tolist(),
        "sensitivity": sensitivity.tolist(),
        "false_positives": (wrong / n_scans).tolist(),
    }


def average_precision(
    confidence: NDArray[np.float64], right: NDArray[np.uint8], n_true: int
) -> float:
    """Average precision: precision at each threshold, weighted by the rise of the sensitivity.

    Lesions that no component matches are never found, so that it is at most the sensitivity of all.

    Args:
        confidence, right, n_true: as for :func:`froc`.

    Returns:
        In [0, 1]; NaN if the reference has no component.
    """
    if not n_true:
        return math.nan
    _, found, wrong = _at_thresholds(confidence, right)
    return math.fsum(np.diff(found, prepend=0) * found / (found + wrong)) / n_true


def _at_thresholds(
    confidence: NDArray[np.float64], right: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The different confidences, descending, and how many of at least each are right and wrong."""
    threshold, which = np.unique(-confidence, return_inverse=True)
    found = np.bincount(which, right == 1, len(threshold)).cumsum().astype(np.int64)
    wrong = np.bincount(which, right == 0, len(threshold)).cumsum().astype(np.int64)
    return -threshold, found, wrong


def _of_confidence(
    confidence: NDArray[np.float64],
    right: NDArray[np.uint8],
    n_true: int,
    n_scans: int,
    n_bins: int,
) -> dict[str, Any]:
    cells = Cells.from_voxels(confidence, right, n_bins)
    return {
        "ece": binned_metrics(cells, grid(n_bins))["ece"],
        "average_precision": average_precision(confidence, right, n_true),
        "bins": reliability_bins(cells, grid(n_bins)),
        "froc": froc(confidence, right, n_true, n_scans),
    }


def _right(lesions: Lesions) -> NDArray[np.uint8]:
    return np.array([match is not None for match in lesions.predicted.match], np.uint8)


def _detection(matched: int, n_pred: int, n_true: int) -> dict[str, float]:
    return {
        "lesion_f1": 2 * matched / (n_pred + n_true) if n_pred + n_true else math.nan,
        "lesion_precision": matched / n_pred if n_pred else math.nan,
        "lesion_recall": matched / n_true if n_true else math.nan,
        "lesions_true": n_true,
        "lesions_pred": n_pred,
    }
