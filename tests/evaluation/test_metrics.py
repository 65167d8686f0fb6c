import numpy as np
import pytest
from scipy.stats import bootstrap

from nnunet_meep.evaluation.metrics import over_cases


def test_summary_of_three_cases_and_an_undefined_one() -> None:
    summary = over_cases([1.0, 2.0, np.nan, 6.0])
    assert summary["mean"] == 3.0
    assert summary["median"] == 2.0
    assert summary["std"] == pytest.approx(np.sqrt((4 + 1 + 9) / 2))
    assert (summary["n"], summary["n_undefined"]) == (3, 1)


def test_bootstrap_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=20)
    low, high = over_cases(values.tolist())["ci95"]
    other = bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=7
    ).confidence_interval
    width = high - low
    assert low == pytest.approx(other.low, abs=0.05 * width)
    assert high == pytest.approx(other.high, abs=0.05 * width)


def test_bootstrap_is_the_same_every_time() -> None:
    values = [0.1, 0.5, 0.7]
    assert over_cases(values) == over_cases(values)


@pytest.mark.parametrize("values", [[], [np.nan]])
def test_without_cases_nothing_is_defined(values) -> None:
    summary = over_cases(values)
    assert summary["n"] == 0
    assert summary["n_undefined"] == len(values)
    assert np.isnan([summary["mean"], summary["std"], summary["median"], *summary["ci95"]]).all()


def test_one_case_has_a_mean_and_no_spread() -> None:
    summary = over_cases([0.25])
    assert summary["mean"] == summary["median"] == 0.25
    assert np.isnan([summary["std"], *summary["ci95"]]).all()
