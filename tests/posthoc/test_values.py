"""Counts of distinct probabilities: exact if there is room, near if there is not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from nnunet_meep.posthoc.binary import fit_binary
from nnunet_meep.posthoc.values import ValueCounts

probabilities = st.one_of(
    st.floats(0, 1, width=32),
    st.floats(0, 1),
    st.sampled_from([0.0, -0.0, 1.0, 5e-324, float(np.nextafter(1, 0)), -1e-6, 1 + 1e-6]),
)


@given(st.lists(st.tuples(probabilities, st.integers(0, 1)), max_size=60), st.integers(1, 7))
def test_each_probability_is_counted_by_itself(voxels, step):
    counts = ValueCounts()
    for i in range(0, len(voxels), step):
        p, y = zip(*voxels[i : i + step], strict=True)
        counts.add(np.array(p), np.array(y, np.uint8))
    found = counts.voxels()
    expected = Counter((min(max(p, 0.0), 1.0), y) for p, y in voxels)
    assert list(zip(found.p, found.y, strict=True)) == sorted(expected)
    assert dict(zip(zip(found.p, found.y, strict=True), found.weight, strict=True)) == expected


def many(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of which many are exactly 0 and 1, and labels."""
    rng = np.random.default_rng(0)
    logits = 8 * rng.normal(size=n) - 4
    y = rng.random(n) < expit(0.6 * logits)
    return np.where(np.abs(logits) > 12, logits > 0, expit(logits)), y


def test_more_values_than_there_is_room_for_are_put_together():
    p, y = many(200_000)
    at_most = 16_000
    counts = ValueCounts(at_most)
    for i in range(0, len(p), 2000):
        counts.add(p[i : i + 2000], y[i : i + 2000])
    found = counts.voxels()
    assert len(found.p) <= at_most
    assert (np.diff(found.p) >= 0).all()
    for kind in (0, 1):
        mine = found.y == kind
        assert found.weight[mine].sum() == np.count_nonzero(y == kind)
    assert found.weight @ found.p == pytest.approx(p.sum())
    for edge in (0, 1):  # values of many voxels stay what they are
        assert found.weight[found.p == edge].sum() == np.count_nonzero(p == edge)
    expected = IsotonicRegression().fit(p, y).predict(p)
    assert np.abs(fit_binary("isotonic", found)(p) - expected).mean() < 1e-3


@pytest.mark.slow
def test_of_millions_of_values_the_fit_is_nearly_that_of_all():
    """More than there is room for, all of them different."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.1, 0.5, 6_000_000)
    y = rng.random(len(p)) < p**1.3
    counts = ValueCounts()
    for i in range(0, len(p), 500_000):
        counts.add(p[i : i + 500_000], y[i : i + 500_000])
    found = counts.voxels()
    assert len(found.p) < len(p)
    expected = IsotonicRegression().fit(p, y).predict(p)
    assert np.abs(fit_binary("isotonic", found)(p) - expected).mean() < 1e-5


def test_neighbouring_floats_can_be_told_apart():
    low = 0.5
    high = float(np.nextafter(low, 1))
    counts = ValueCounts()
    counts.add(np.array([low, low, high, high]), np.array([0, 1, 1, 1]))
    assert fit_binary("isotonic", counts.voxels())(np.array([low, high])).tolist() == [0.5, 1.0]
