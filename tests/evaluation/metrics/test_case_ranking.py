"""Whether expected Dice ranks cases: against orders written out, and against SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, spearmanr

from nnunet_meep.evaluation.metrics.case_ranking import STATISTICS, _of_samples, case_ranking

#: Few different values, so that many are equal.
dices = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=6)


def mean_over_orders(expected, risk) -> np.ndarray:
    """The curve, as the mean over all orders of the cases in which no better one comes later."""
    curves = [
        np.cumsum(np.array(risk)[list(order)]) / np.arange(1, len(risk) + 1)
        for order in itertools.permutations(range(len(risk)))
        if all(expected[a] >= expected[b] for a, b in itertools.pairwise(order))
    ]
    return np.mean(curves, axis=0)


def test_by_hand() -> None:
    # Risks in the order of expected Dice: 0.2, 0.4, 0.1; means of the first k: 0.2, 0.3, 0.7 / 3.
    found = case_ranking([0.7, 0.9, 0.8], [0.9, 0.8, 0.6])
    assert found["n"] == 3
    assert found["risk"] == pytest.approx([0.2, 0.3, 0.7 / 3])
    assert found["aurc"]["value"] == pytest.approx((0.2 + 0.3 + 0.7 / 3) / 3)
    best = (0.1 + 0.15 + 0.7 / 3) / 3
    assert found["e_aurc"]["value"] == pytest.approx(found["aurc"]["value"] - best)
    assert found["spearman"]["value"] == pytest.approx(-0.5)


@given(dices)
def test_ties_are_the_mean_over_their_orders(cases) -> None:
    expected, actual = (np.array(values) / 4 for values in zip(*cases, strict=True))
    curve = mean_over_orders(expected, 1 - actual)
    best = mean_over_orders(actual, 1 - actual)
    found = case_ranking(expected, actual)
    assert found["risk"] == pytest.approx(curve)
    assert found["aurc"]["value"] == pytest.approx(curve.mean())
    assert found["e_aurc"]["value"] == pytest.approx(curve.mean() - best.mean(), abs=1e-12)


@given(dices, st.data())
def test_a_resample_is_the_sample_with_its_cases_written_out(cases, data) -> None:
    expected, actual = (np.array(values) / 4 for values in zip(*cases, strict=True))
    n = len(expected)
    drawn = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n)))
    times = np.bincount(drawn, minlength=n)[None].astype(float)
    found = _of_samples(expected, 1 - actual, [times])[0]
    alone = case_ranking(expected[drawn], actual[drawn])
    values = [alone[name]["value"] for name in STATISTICS]
    np.testing.assert_allclose(found, values, atol=1e-12, equal_nan=True)
    if len(set(expected[drawn])) > 1 and len(set(actual[drawn])) > 1:
        assert found[0] == pytest.approx(spearmanr(expected[drawn], actual[drawn]).statistic)
    else:
        assert np.isnan(found[0])


def test_intervals_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    actual = rng.beta(6, 2, 25)
    expected = np.clip(actual + rng.normal(0, 0.1, 25), 0, 1)
    found = case_ranking(expected, actual)
    spearman = lambda x, y: spearmanr(x, y).statistic  # noqa: E731
    for name, statistic in (("spearman", spearman), ("aurc", area_by_hand)):
        theirs = bootstrap(
            (expected, actual),
            statistic,
            paired=True,
            vectorized=False,
            n_resamples=3000,
            rng=np.random.default_rng(1),
        ).confidence_interval
        width = theirs.high - theirs.low
        assert found[name]["ci95"] == pytest.approx([theirs.low, theirs.high], abs=0.1 * width)


def area_by_hand(expected, actual) -> float:
    risk = (1 - actual)[np.argsort(-expected, kind="stable")]
    return float(np.mean(np.cumsum(risk) / np.arange(1, len(risk) + 1)))


def test_undefined_cases_are_left_out_and_few_have_no_interval() -> None:
    nan = np.nan
    found = case_ranking([0.9, nan, 0.5, 0.7], [0.8, 0.9, 0.6, nan])
    assert found["n"] == 2
    assert found["risk"] == pytest.approx([0.2, 0.3])
    assert np.isnan([found[name]["ci95"] for name in STATISTICS]).all()
    nothing = case_ranking([nan], [0.5])
    assert (nothing["n"], nothing["risk"]) == (0, [])
    assert np.isnan([nothing[name]["value"] for name in STATISTICS]).all()


def test_a_perfect_order_has_no_excess() -> None:
    actual = np.linspace(0.2, 0.9, 8)
    found = case_ranking(actual**2, actual)
    assert found["spearman"]["value"] == pytest.approx(1)
    assert found["e_aurc"]["value"] == 0
    # Each resample is in perfect order, too, which does not mean that other cases would be.
    assert np.isnan([*found["e_aurc"]["ci95"], *found["spearman"]["ci95"]]).all()
    assert found["aurc"]["ci95"][0] < found["aurc"]["value"] < found["aurc"]["ci95"][1]
    # Nor by rounding, where some are equal.
    rng = np.random.default_rng(0)
    for _ in range(20):
        tied = np.repeat(rng.random(7), [2, *[1] * 6])
        assert np.isnan(case_ranking(tied, tied)["e_aurc"]["ci95"]).all()
        assert np.isnan(
            case_ranking(rng.random(7), np.full(7, rng.random()))["e_aurc"]["ci95"]
        ).all()
    # All expected to be equally good: no order at all, and the mean risk at each coverage.
    same = case_ranking(np.full(8, 0.5), actual)
    assert np.isnan(same["spearman"]["value"])
    assert same["aurc"]["value"] == pytest.approx(1 - actual.mean())
