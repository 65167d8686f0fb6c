"""What the maps do to probabilities, by their equations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunet_meep.nnunet_files.labels import read_labels
from nnunet_meep.posthoc.calibrator import Calibrator
from nnunet_meep.posthoc.maps import (
    LOGIT_FLOOR,
    Isotonic,
    JointTemperature,
    Platt,
    Temperature,
    logit,
)

probabilities = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1, width=32))


def test_the_logit_ends_where_the_floor_is():
    assert logit(np.array([0.0, 0.25, 0.5, 1.0])) == pytest.approx([-24, -math.log(3), 0, 24])
    assert pytest.approx(3.775e-11, rel=1e-3) == LOGIT_FLOOR


def test_platt_and_temperature_by_hand():
    p = np.array([0.2, 0.5, 0.9])
    odds = p / (1 - p)
    expected = math.exp(-0.3) * odds**0.7
    assert Platt(0.7, -0.3)(p) == pytest.approx(expected / (1 + expected))
    assert Temperature(2.0)(p) == pytest.approx(np.sqrt(odds) / (1 + np.sqrt(odds)))
    three = np.array([[0.7], [0.2], [0.1]])
    powers = three**0.5
    assert JointTemperature(2.0)(three) == pytest.approx(powers / powers.sum())


@given(probabilities)
def test_of_two_classes_the_joint_temperature_is_the_binary_one(p):
    inside = np.clip(p, 1e-6, 1 - 1e-6)
    joint = JointTemperature(3.0)(np.stack([1 - inside, inside]))
    np.testing.assert_allclose(joint[1], Temperature(3.0)(inside), rtol=1e-9)


@given(probabilities)
def test_nothing_changes_with_the_temperature_of_one(p):
    np.testing.assert_allclose(Temperature(1.0)(p), p, atol=1e-10)
    np.testing.assert_allclose(Platt(1.0, 0.0)(p), p, atol=1e-10)


@given(arrays(np.float64, (4, 9), elements=st.floats(0, 1)), st.floats(0.05, 50))
def test_a_temperature_keeps_the_largest_class(p, temperature):
    p = (p + 1e-9) / (p + 1e-9).sum(axis=0)
    calibrated = JointTemperature(temperature)(p)
    assert calibrated.sum(axis=0) == pytest.approx(1)
    winner = p.argmax(axis=0)
    # Up to ties of rounding, a smaller one never overtakes it.
    kept = np.take_along_axis(calibrated, winner[None], axis=0)[0]
    assert (kept >= calibrated.max(axis=0) * (1 - 1e-12)).all()


def test_an_isotonic_map_has_steps_that_end_at_their_borders():
    map_ = Isotonic(np.array([0.2, 0.6]), np.array([0.1, 0.5, 0.9]))
    assert map_(np.array([0, 0.2, 0.21, 0.6, 0.61, 1])).tolist() == [0.1, 0.1, 0.5, 0.5, 0.9, 0.9]


def test_a_voxel_of_which_no_class_is_left_stays_as_it_is():
    """Steps may be 0: then there is nothing to make a sum of 1 of."""
    content = {"labels": {"background": 0, "a": 1, "b": 2}}
    step = Isotonic(np.array([0.5]), np.array([0.0, 0.8]))
    labels = read_labels(content, Path("dataset.json"))
    calibrator = Calibrator("isotonic", labels, content, dict.fromkeys("012", step))
    p = np.array([[0.4, 0.6], [0.35, 0.3], [0.25, 0.1]])
    assert calibrator.of_voxels(p).T.tolist() == [[0.4, 0.35, 0.25], [1.0, 0.0, 0.0]]
