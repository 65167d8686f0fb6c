"""Mutual information and standard deviation between the members of an ensemble."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr

from nnunet_meep.posthoc.disagreement import Disagreement


def of_voxel(*members: tuple[float, ...], regions: bool = False) -> tuple[float, float]:
    """Mutual information and standard deviation of one voxel; a member's probabilities each."""
    found = Disagreement(1, is_region_based=regions)
    for channel in np.transpose(members):
        found.add(slice(0, 1), channel[:, None].astype(np.float32))
    return float(found.mutual_information[0]), float(found.std[0])


@pytest.mark.parametrize(
    ("members", "information", "std"),
    [
        # One says yes, the other no: all there is to know is in who says it.
        ([(1, 0), (0, 1)], np.log(2), 0.5),
        ([(0.9, 0.1), (0.9, 0.1)], 0, 0),
        # H(.7, .3) = .6109; H(.9, .1) = .3251; H(.5, .5) = .6931
        ([(0.9, 0.1), (0.5, 0.5)], 0.6109 - (0.3251 + 0.6931) / 2, 0.2),
        # Both doubt as much, of different classes: the background alone would show nothing.
        ([(0.4, 0.6, 0), (0.4, 0, 0.6)], 0.6 * np.log(2), 0.3),
        # The standard deviation is that of all members, not of a sample of them.
        ([(1, 0), (0, 1), (0, 1)], np.log(3) - 2 / 3 * np.log(2), np.sqrt(2) / 3),
    ],
)
def test_by_hand(members, information, std) -> None:
    assert of_voxel(*members) == pytest.approx((information, std), abs=1e-4)


def test_regions_by_hand() -> None:
    """The first has log 2; the second .1018, as the two classes above."""
    found = of_voxel((1, 0.9), (0, 0.5), regions=True)
    assert found == pytest.approx((np.log(2) + 0.1018, 0.5), abs=1e-4)
    # They need not sum to 1, and one region is as two classes.
    assert of_voxel((0.3,), (0.8,), regions=True) == pytest.approx(
        of_voxel((0.7, 0.3), (0.2, 0.8)), abs=1e-6
    )


@given(
    arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(2, 4)), elements=st.floats(0, 9))
)
def test_it_is_the_mean_divergence_from_the_average(logits) -> None:
    """Another way to say mutual information: mean KL(p_m | mean p)."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    information, std = of_voxel(*p)
    assert information == pytest.approx(rel_entr(p, p.mean(axis=0)).sum(axis=1).mean(), abs=1e-5)
    assert 0 <= information <= np.log(len(p)) + 1e-6
    assert 0 <= std <= 0.5
    assert of_voxel(*p[::-1]) == pytest.approx((information, std), abs=1e-6)
