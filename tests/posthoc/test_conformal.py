"""Conformal bounds: hand-computed, in whole numbers, and simulated."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_meep.posthoc.conformal import (
    fewest_for_coverage,
    fewest_for_risk,
    keeps_risk,
    rank_of_bound,
    split_conformal_bound,
)

SHARES = st.integers(1, 999).map(lambda i: i / 1000)


def test_the_bound_of_nine_scores():
    scores = np.arange(9, 0, -1) / 10
    assert split_conformal_bound(scores, 0.9) == 0.9  # the ninth
    assert split_conformal_bound(scores, 0.7) == 0.7  # the seventh


@given(st.integers(1, 2000), SHARES)
def test_ranks_are_those_of_whole_numbers(n, coverage):
    """As of 1000 and not of floats, in which ``10 * (1 - 0.1)`` may be more than 9."""
    permille = round(1000 * coverage)
    assert rank_of_bound(n, coverage) == -(-(n + 1) * permille // 1000)
    enough = rank_of_bound(n, coverage) <= n
    assert enough == (n >= fewest_for_coverage(coverage))


@pytest.mark.parametrize(("share", "least"), [(0.9, 9), (0.95, 19), (0.99, 99), (0.5, 1)])
def test_the_least_number_of_cases(share, least):
    assert fewest_for_coverage(share) == least
    assert fewest_for_risk(round(1 - share, 2)) == least


def test_the_risk_of_four_cases():
    """False-negative rates at 0.5 and 0.4; the mean and 1 / (n + 1) count, alpha = 0.3."""
    losses = np.array([[0.2, 0.1, 0.3, 0.0], [0.1, 0.1, 0.1, 0.0]])
    assert keeps_risk(losses.sum(axis=1), 4, 0.3).tolist() == [False, True]
    assert keeps_risk(np.array([0.1 + 0.1 + 0.1 + 0.2]), 4, 0.3).tolist() == [True]  # equal


@given(SHARES)
def test_no_case_can_be_missed_if_there_are_just_enough(alpha):
    n = fewest_for_risk(alpha)
    assert Fraction(1, n + 1) <= Fraction(round(1000 * alpha), 1000) < Fraction(1, max(n, 1))
    if n:
        assert keeps_risk(np.zeros(1), n, alpha).all()
    if n > 1:
        assert not keeps_risk(np.zeros(1), n - 1, alpha).any()


def test_intervals_contain_a_further_case_as_often_as_promised():
    """With 19 scores of one kind and a bound of 90 %: in exactly 18 of 20 draws, on average."""
    rng = np.random.default_rng(0)
    draws = rng.lognormal(size=(20_000, 20))
    inside = [new <= split_conformal_bound(scores, 0.9) for *scores, new in draws]
    assert np.mean(inside) == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / len(inside)))


def test_the_rate_of_a_further_case_is_at_most_as_promised():
    """Rates that rise with the threshold, each case by a law of its own; alpha = 0.2, n = 9.

    It is also not far below: at most 1 / (n + 1).
    """
    rng = np.random.default_rng(0)
    thresholds = np.linspace(0, 1, 201)
    rates = []
    for _ in range(2000):
        steepness = rng.uniform(0.2, 4, size=10)
        losses = np.minimum(thresholds[:, None] ** 2 * steepness, 1)
        kept = np.flatnonzero(keeps_risk(losses[:, :9].sum(axis=1), 9, 0.2))
        rates.append(losses[kept[-1], 9])
    margin = 4 * np.std(rates) / math.sqrt(len(rates))
    assert 0.2 - 0.1 - margin <= np.mean(rates) <= 0.2 + margin
