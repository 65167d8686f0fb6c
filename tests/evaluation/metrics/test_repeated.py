"""Intervals over trainings and cases, against closed forms and simulated data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_ind

from nnunet_meep.evaluation.metrics.repeated import Repeated, interval_over_trainings


def repeated(values, fold_of_training=None, fold_of_case=None):
    """``values``: (trainings, cases) or (trainings, cases, K)."""
    array = np.asarray(values, np.float64)
    array = array[..., None] if array.ndim == 2 else array
    trainings, cases, _ = array.shape
    of_training = np.zeros(trainings) if fold_of_training is None else fold_of_training
    of_case = np.zeros(cases) if fold_of_case is None else fold_of_case
    return Repeated(array, np.asarray(of_training, np.intp), np.asarray(of_case, np.intp))


def interval(*models, near_one=False):
    k = models[0].values.shape[2]
    return interval_over_trainings(models, np.full(k, near_one))


def of_variance(mean, *parts):
    """The t interval of a sum of variances, each with its degrees of freedom."""
    variance = sum(v for v, _ in parts)
    freedom = variance**2 / sum(v**2 / n for v, n in parts)
    half = t.ppf(0.975, freedom) * np.sqrt(variance)
    return [mean - half, mean + half]


def in_folds(of_folds):
    """One training for each fold; ``of_folds``: the values of its cases."""
    folds = np.repeat(np.arange(len(of_folds)), [len(fold) for fold in of_folds])
    values = np.full((len(of_folds), len(folds)), np.nan)
    for i, fold in enumerate(of_folds):
        values[i, folds == i] = fold
    return repeated(values, np.arange(len(of_folds)), folds)


def close_to(expected):
    """Up to the randomness of 10,000 resamples."""
    return pytest.approx(expected, abs=0.025 * (expected[1] - expected[0]))


def test_of_one_training_it_is_the_t_interval_over_cases() -> None:
    values = np.random.default_rng(0).normal(size=30)
    expected = ttest_1samp(values, 0).confidence_interval()
    assert interval(repeated([values]))[:, 0] == close_to([expected.low, expected.high])


def test_equal_trainings_are_as_good_as_one() -> None:
    values = np.random.default_rng(0).normal(size=(1, 30, 3))
    one, three = repeated(values), repeated(np.repeat(values, 3, axis=0))
    assert interval(three) == pytest.approx(interval(one), rel=1e-12)


def test_variances_of_trainings_and_cases_by_hand() -> None:
    two = repeated([[-2, -1, 0], [0, 1, 2]])  # trainings -1 and 1, cases -1, 0 and 1
    parts = [(2 / 2, 1), (1 / 3, 2)]
    assert interval(two)[:, 0] == close_to(of_variance(0, *parts))
    three = repeated(np.repeat([[0], [0], [3]], 3, axis=1))
    assert interval(two, three)[:, 0] == close_to(of_variance(-1, *parts, (3 / 3, 2)))


def test_without_a_spread_of_cases_it_is_welchs() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=5), rng.normal(2, 3, size=4)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval()
    models = (repeated(np.repeat(x[:, None], 10, axis=1)) for x in (a, b))
    assert interval(*models)[:, 0] == close_to([expected.low, expected.high])


def test_cases_are_paired_and_trainings_are_not() -> None:
    values = np.random.default_rng(2).normal(size=(1, 20)) * 100
    assert interval(repeated(values + 1), repeated(values))[:, 0] == pytest.approx([1, 1])
    seeds = repeated(values + np.array([[0], [1], [2]]))
    assert interval(seeds, seeds)[:, 0] == close_to(of_variance(0, (1 / 3, 2), (1 / 3, 2)))


def test_folds_that_differ_are_the_units() -> None:
    rng = np.random.default_rng(3)
    folds = [level + rng.normal(size=6) for level in (-3, 0, 1, 4)]
    expected = ttest_1samp([fold.mean() for fold in folds], 0).confidence_interval()
    assert interval(in_folds(folds))[:, 0] == close_to([expected.low, expected.high])


@pytest.mark.parametrize(
    ("folds", "variance"),
    [([[-1, 1], [-1, 1]], 1 / 2), ([[0], [-1, 1]], (2 / 3) ** 2)],
)
def test_folds_that_are_equal_leave_the_spread_of_their_cases(folds, variance) -> None:
    model = in_folds(folds)
    freedom = model.values.shape[1] - 2
    assert interval(model)[:, 0] == close_to(of_variance(0, (variance, freedom)))


def test_seeds_of_a_fold_are_averaged_before_folds_are_compared() -> None:
    folds = np.repeat([0, 1, 2], 4)
    values = np.full((6, 12), np.nan)
    for i, (fold, level) in enumerate([(0, 0), (0, 2), (1, 4), (1, 6), (2, -4), (2, -2)]):
        values[i, folds == fold] = level
    model = repeated(values, [0, 0, 1, 1, 2, 2], folds)
    expected = ttest_1samp([1, 5, -3], 0).confidence_interval()
    assert interval(model)[:, 0] == close_to([expected.low, expected.high])


def test_a_model_without_folds_beside_one_with_folds() -> None:
    folds = in_folds([[0, 0], [2, 2]])
    seeds = repeated(np.repeat([[0], [0], [3]], 4, axis=1))
    expected = of_variance(0, (2 / 2, 1), (3 / 3, 2))
    assert interval(folds, seeds)[:, 0] == close_to(expected)
    assert interval(seeds, folds)[:, 0] == close_to(expected)


def test_undefined_cases_count_as_if_they_were_not_there() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(3, 12, 3))
    values[:, 5, 1] = np.nan
    values[0, 7, 2] = np.nan  # a case of the two other trainings
    ends = interval(repeated(values))
    without = interval(repeated(np.delete(values, 5, axis=1)))
    assert ends[:, 1] == pytest.approx(without[:, 1], rel=1e-12)
    for i in range(3):  # each metric as if it were alone
        alone = interval(repeated(values[..., i]))
        assert ends[:, i] == pytest.approx(alone[:, 0], rel=1e-12)
    assert np.isfinite(ends).all()


@pytest.mark.parametrize("n_defined", [0, 1])
def test_fewer_than_two_cases_have_no_interval(n_defined) -> None:
    values = np.full((2, 5), np.nan)
    values[:, :n_defined] = 1
    assert np.isnan(interval(repeated(values))).all()


def test_a_ratio_is_compared_by_its_distance_to_1() -> None:
    rng = np.random.default_rng(5)
    a, b = 1 + rng.random((1, 20)), 1 - rng.random((1, 20))
    expected = interval(repeated(a - 1), repeated(1 - b))
    ends = interval(repeated(a), repeated(b), near_one=True)
    assert ends == pytest.approx(expected, rel=1e-12)


N = 1_000  # simulated comparisons, as so many metrics


def coverage(ends, truth=0.0):
    return np.mean((ends[0] <= truth) & (truth <= ends[1]))


@pytest.mark.parametrize("trainings", [(2, 2), (3, 3), (5, 4)])
@pytest.mark.parametrize("spread", [(1, 1, 0.3), (0.3, 1, 1), (0, 1, 0.3)])
def test_it_covers_the_difference_of_simulated_trainings_and_cases(trainings, spread) -> None:
    """``spread``: of trainings, of cases' differences, of each training and case."""
    rng = np.random.default_rng(6)
    of_training, of_case, of_both = spread
    cases = 20
    difficulty = rng.normal(size=(1, cases, N))
    models = []
    for i, n in enumerate(trainings):
        effect = i * of_case * rng.normal(size=(1, cases, N))
        noise = of_both * rng.normal(size=(n, cases, N))
        models.append(
            repeated(difficulty + effect + of_training * rng.normal(size=(n, 1, N)) + noise)
        )
    # Rather too wide: what is particular to a training and a case is counted twice.
    assert 0.93 < coverage(interval(*models)) < 0.99
    difference = models[0].values.mean(axis=0) - models[1].values.mean(axis=0)
    over_cases = ttest_1samp(difference, 0).confidence_interval()
    if of_training == 1:
        assert coverage((over_cases.low, over_cases.high)) < 0.7


@pytest.mark.parametrize("of_training", [0, 0.5, 2])
def test_it_covers_the_mean_of_simulated_folds(of_training) -> None:
    rng = np.random.default_rng(7)
    folds = np.repeat(np.arange(5), 4)
    values = rng.normal(size=(20, N)) + of_training * rng.normal(size=(5, N))[folds]
    model = np.full((5, 20, N), np.nan)
    model[folds, np.arange(20)] = values
    assert 0.93 < coverage(interval(repeated(model, np.arange(5), folds))) < 0.985
