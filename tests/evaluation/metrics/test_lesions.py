"""What is said about lesions: by hand, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from nnunet_meep.evaluation.counting.components import Components, Lesions
from nnunet_meep.evaluation.metrics.lesions import (
    CONFIDENCES,
    confidence,
    lesion_bins,
    lesion_metrics,
    pooled_lesions,
)


def components(match):
    return Components([1.0] * len(match), [[0, 0, 0]] * len(match), list(match))


def lesions(confidences, right, n_true, max_p=None):
    """Components with these mean probabilities; each right one matches another of ``n_true``."""
    next_one = iter(range(n_true))
    match = [next(next_one) if is_right else None for is_right in right]
    back = {j: i for i, j in enumerate(match) if j is not None}
    iou = [0.5 if is_right else 0.0 for is_right in right]
    return Lesions(
        components(match),
        components([back.get(j) for j in range(n_true)]),
        iou,
        list(confidences),
        list(confidences if max_p is None else max_p),
    )


def test_a_case_by_hand():
    found = lesion_metrics(lesions([0.9, 0.8, 0.6, 0.6], [1, 0, 1, 0], n_true=3))
    assert found == {
        "lesion_f1": pytest.approx(4 / 7),
        "lesion_precision": 0.5,
        "lesion_recall": pytest.approx(2 / 3),
        "lesions_true": 3,
        "lesions_pred": 4,
    }


def test_two_cases_by_hand():
    cases = [
        lesions([0.9, 0.6], [1, 1], n_true=3, max_p=[0.95, 0.95]),
        lesions([0.6, 0.75, 0.55], [0, 0, 1], n_true=1, max_p=[0.6, 1.0, 0.95]),
    ]
    found = pooled_lesions(cases, 5)
    assert found["n_scans"] == 2
    assert (found["lesions_true"], found["lesions_pred"]) == (4, 5)
    assert found["lesion_f1"] == pytest.approx(6 / 9)
    by_mean = found["confidence"]["mean_p"]
    # In turn: .9 is right, .75 is wrong, of the two at .6 one is right, .55 is right.
    assert by_mean["froc"] == {
        "threshold": [0.9, 0.75, 0.6, 0.55],
        "sensitivity": [0.25, 0.25, 0.5, 0.75],
        "false_positives": [0.0, 0.5, 1.0, 1.0],
    }
    # Precision where the sensitivity rises: 1, 2 / 4, 3 / 5.
    assert by_mean["average_precision"] == pytest.approx(0.25 * (1 + 0.5 + 0.6))
    # (.4, .6]: three with a mean of .5833, two of them right; (.6, .8]: .75, wrong; .9, right.
    assert by_mean["bins"]["count"] == [0, 0, 3, 1, 1]
    assert by_mean["ece"] == pytest.approx((abs(1.75 - 2) + 0.75 + 0.1) / 5)
    by_max = found["confidence"]["max_p"]
    assert by_max["froc"]["threshold"] == [1.0, 0.95, 0.6]
    assert by_max["froc"]["sensitivity"] == [0.0, 0.75, 0.75]
    assert by_max["froc"]["false_positives"] == [0.5, 0.5, 1.0]
    assert by_max["average_precision"] == pytest.approx(0.75 * 0.75)


def test_expected_dice_orders_components_as_the_mean_does():
    """2 sum p / (sum p + n): of two voxels with .5 and 1, 3 / 3.5."""
    case = lesions([0.75, 0.5, 1.0], [1, 0, 0], n_true=1)
    assert confidence(case, "dice_expected").tolist() == pytest.approx([3 / 3.5, 2 / 3, 1])
    of = pooled_lesions([case], 15)["confidence"]
    for name in ("sensitivity", "false_positives"):
        assert of["dice_expected"]["froc"][name] == of["mean_p"]["froc"][name]
    assert of["dice_expected"]["average_precision"] == of["mean_p"]["average_precision"]
    assert of["dice_expected"]["ece"] != of["mean_p"]["ece"]


@pytest.mark.parametrize(("n_pred", "n_true"), [(0, 0), (2, 0), (0, 3)])
def test_nothing_there(n_pred, n_true):
    case = lesions([0.7] * n_pred, [0] * n_pred, n_true)
    found = lesion_metrics(case)
    assert math.isnan(found["lesion_precision"]) == (n_pred == 0)
    assert math.isnan(found["lesion_recall"]) == (n_true == 0)
    assert found["lesion_f1"] == 0.0 or n_pred == n_true == 0
    of = pooled_lesions([case, case], 15)["confidence"]["mean_p"]
    assert math.isnan(of["average_precision"]) if n_true == 0 else of["average_precision"] == 0
    assert of["ece"] == (pytest.approx(0.7) if n_pred else pytest.approx(math.nan, nan_ok=True))
    assert of["froc"]["false_positives"] == ([2.0] if n_pred else [])
    assert lesion_bins(case, "max_p", 2)["count"] == [0, n_pred]


@given(st.lists(st.tuples(st.sampled_from([0.5, 0.6, 0.7, 0.9, 1.0]), st.booleans()), min_size=1))
def test_average_precision_is_scikit_learns_times_the_share_that_is_found(parts):
    p, right = [p for p, _ in parts], [is_right for _, is_right in parts]
    n_true = sum(right) + 2
    found = pooled_lesions([lesions(p, right, n_true)], 15)["confidence"]["max_p"]
    expected = average_precision_score(right, p) * sum(right) / n_true if any(right) else 0.0
    assert found["average_precision"] == pytest.approx(expected)
    assert found["froc"]["sensitivity"][-1] == sum(right) / n_true
    assert found["froc"]["false_positives"][-1] == len(right) - sum(right)


def test_each_confidence_has_a_name():
    case = lesions([0.6, 0.8], [1, 0], 1, max_p=[0.9, 1.0])
    values = [confidence(case, name).tolist() for name in CONFIDENCES]
    assert values == [[0.6, 0.8], [0.9, 1.0], pytest.approx([0.75, 1.6 / 1.8])]
    assert np.array(values).max() <= 1
