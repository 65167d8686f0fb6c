"""The segmentation by thresholds: by hand, and as nnU-Net's at 1/2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from too_sure import KINDS

from nnunet_meep.nnunet_files.derived import Thresholds
from nnunet_meep.nnunet_files.labels import read_labels
from nnunet_meep.posthoc.segmentation import segmentation, thresholded

LABELS = {kind: read_labels(content, Path("dataset.json")) for kind, (content, _) in KINDS.items()}


def by(kind: str, p: list[list[float]], *thresholds: float) -> list[int]:
    labels = LABELS[kind]
    given = Thresholds(dict(zip(labels.keys, thresholds, strict=True)))
    return thresholded(np.array(p, np.float32), labels, given).tolist()


def test_two_classes():
    """A probability has to be above its threshold, not equal to it."""
    foreground = [0.1, 0.25, 0.26, 0.9]
    background = [1 - p for p in foreground]
    assert by("two classes", [background, foreground], 0.25) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("p", "thresholds", "label"),
    [
        ((0.6, 0.3, 0.1), (0.4, 0.2), 0),  # none is above
        ((0.6, 0.3, 0.1), (0.2, 0.2), 1),
        ((0.6, 0.1, 0.3), (0.4, 0.25), 2),
        ((0.3, 0.4, 0.3), (0.2, 0.1), 2),  # both are above: 2 times and 3 times its threshold
        ((0.2, 0.6, 0.2), (0.2, 0.1), 1),  # 3 times and 2 times
        ((0.2, 0.4, 0.4), (0.25, 0.25), 1),  # equal: the first one
        ((0.4, 0.35, 0.25), (0.1, 0.3), 1),  # 2 is below its own
    ],
)
def test_three_classes(p, thresholds, label):
    assert by("three classes", [[x] for x in p], *thresholds) == [label]


def test_regions_overwrite_in_their_order():
    p = [[0.3, 0.3, 0.1, 0.1], [0.7, 0.1, 0.7, 0.1]]
    assert by("regions", p, 0.2, 0.5) == [2, 1, 2, 0]


@given(st.lists(st.tuples(*[st.floats(0.499755859375, 0.50048828125, width=32)] * 2), min_size=1))
def test_a_half_is_nnunets_rule_for_two_classes(pairs):
    """Also where rounding lets the two not sum to 1."""
    p = np.array(pairs, np.float32).T
    labels = LABELS["two classes"]
    np.testing.assert_array_equal(
        thresholded(p, labels, Thresholds({"1": 0.5})), segmentation(p, labels)
    )


@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 2), min_size=1))
def test_a_half_is_nnunets_rule_for_regions(pairs):
    p = np.array(pairs, np.float32).T
    labels = LABELS["regions"]
    halves = Thresholds(dict.fromkeys(labels.keys, 0.5))
    np.testing.assert_array_equal(thresholded(p, labels, halves), segmentation(p, labels))


def test_the_shape_of_the_image_and_the_blocks_make_no_difference(monkeypatch):
    rng = np.random.default_rng(0)
    p = rng.dirichlet((2, 1, 1), (4, 5, 6)).astype(np.float32).transpose(3, 0, 1, 2)
    labels, given = LABELS["three classes"], Thresholds({"1": 0.3, "2": 0.2})
    flat = thresholded(np.ascontiguousarray(p).reshape(3, -1), labels, given)
    monkeypatch.setattr("nnunet_meep.posthoc.segmentation.PART", 7)
    np.testing.assert_array_equal(thresholded(p, labels, given).ravel(), flat)
    assert set(np.unique(flat)) == {0, 1, 2}
