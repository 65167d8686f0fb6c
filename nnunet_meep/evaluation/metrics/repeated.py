"""Statistics of models that were trained several times: intervals over trainings and cases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.metrics.statistics import (
    BOOTSTRAP_RESAMPLES,
    BOOTSTRAP_SEED,
    draw,
    parts_of,
)

_Floats: TypeAlias = "NDArray[np.float64]"
#: A variance of each metric and its degrees of freedom.
_Part: TypeAlias = "tuple[_Floats, NDArray[np.intp] | int]"
#: So many numbers of resamples are held at once.
_AT_ONCE = 2**20


class Repeated(NamedTuple):
    """The values of a model that was trained several times: with seeds, in folds, or both.

    Attributes:
        values: K metrics of each training and case, (trainings, cases, K); NaN where a metric is
            undefined, and where a training was not tested on the case.
        fold_of_training: the fold of each training, (trainings,) integers. The trainings of a fold
            were tested on the same cases.
        fold_of_case: the fold of each case, (cases,) integers.
    """

    values: _Floats
    fold_of_training: NDArray[np.intp]
    fold_of_case: NDArray[np.intp]

    @property
    def n_trainings(self) -> NDArray[np.intp]:
        """In how many trainings each metric is defined for any case, (K,)."""
        n: NDArray[np.intp] = (~np.isnan(self.values)).any(axis=1).sum(axis=0)
        return n

    @property
    def n_folds(self) -> int:
        """The number of folds that have a case."""
        return len(np.unique(self.fold_of_case))


def mean_of_defined(values: _Floats) -> _Floats:
    """Mean over the first axis, ignoring NaN; NaN if all values are."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


def difference(values: _Floats, subtracted: _Floats, near_one: NDArray[np.bool_]) -> _Floats:
    """Differences of K metrics, (..., K); between distances to 1 where ``near_one``, (K,)."""
    one, other = (np.where(near_one, np.abs(v - 1), v) for v in (values, subtracted))
    return one - other


def interval_over_trainings(models: Sequence[Repeated], near_one: NDArray[np.bool_]) -> _Floats:
    """95 % intervals of means, or of paired differences, over trainings and cases.

    The statistic is the mean over the cases of the mean over the trainings that have the case; for
    two models, the mean over the cases of the difference between the two. Its variance is from a
    bootstrap of each level: the trainings within their fold, the cases within their fold, and whole
    folds. Of n units, n - 1 are drawn with replacement (the rescaling bootstrap of Rao & Wu,
    "Resampling inference with complex survey data", 1988). The variance of a mean is then s^2 / n;
    drawing n would give (n - 1) / n of it, which is half for two trainings. For two models, cases
    and folds are drawn together, and the trainings of each model on their own.

    Each level is resampled while the others stay as they are, and the variances are added up.
    Resampled all at once, what is particular to one training and one case would be counted three
    times instead of twice. A fold is drawn as a whole, because the spread between folds already
    contains that of trainings and cases; the variance is then the larger one of that between folds
    and that within them.

    The interval is the mean plus or minus t times the standard error, with Satterthwaite's degrees
    of freedom ("An approximate distribution of estimates of variance components", 1946), because
    percentiles of a bootstrap over two to five trainings are too close together. In simulations
    with normal values the intervals contain the truth in 94 to 98 % of cases, in 90 % for the mean
    of a single model with two trainings that differ more than their cases. A level with a single
    unit has no spread: the interval of a model that was trained once is of this training.

    Args:
        models: one model, or a model and the one to subtract from it, with the same cases.
        near_one: for which metrics two models are compared by their distances to 1, (K,).

    Returns:
        Lower and upper ends, (2, K); NaN if a metric is defined for fewer than two cases.
    """
    per_case = _per_case([mean_of_defined(model.values) for model in models], near_one)
    ends = np.full((2, per_case.shape[1]), np.nan)
    # Undefined cases are left out before resampling; many metrics are defined for the same cases.
    patterns, pattern_of = np.unique(~np.isnan(per_case), axis=1, return_inverse=True)
    for i, cases in enumerate(patterns.T):
        columns = np.flatnonzero(pattern_of.reshape(-1) == i)
        if cases.sum() > 1:
            defined = [
                Repeated(
                    m.values[:, cases][..., columns], m.fold_of_training, m.fold_of_case[cases]
                )
                for m in models
            ]
            ends[:, columns] = _t_interval(defined, near_one[columns])
    return ends


def _t_interval(models: Sequence[Repeated], near_one: NDArray[np.bool_]) -> _Floats:
    """:func:`interval_over_trainings` of metrics that are defined for all cases."""
    from scipy.stats import t

    means = [mean_of_defined(model.values) for model in models]
    per_case = _per_case(means, near_one)
    # In a common fold are the cases that the same trainings of both models were tested on.
    _, folds = np.unique([m.fold_of_case for m in models], axis=1, return_inverse=True)
    folds = folds.reshape(-1)
    n_folds = int(folds.max()) + 1
    over_cases = _variance_of_means(per_case, _drawn(folds))
    of_models: list[_Part] = [
        (_variance_over_trainings(models, i, means, near_one), m.n_trainings - m.n_folds)
        for i, m in enumerate(models)
    ]
    variance, freedom = _sum_of([(over_cases, len(folds) - n_folds), *of_models])
    if n_folds > 1:
        weights = _drawn(np.zeros(n_folds, np.intp), folds)
        # A training that was tested on several common folds is the same in all of them.
        beside = [part for part, m in zip(of_models, models, strict=True) if m.n_folds < n_folds]
        between, its_freedom = _sum_of(
            [(_variance_of_means(per_case, weights), n_folds - 1), *beside]
        )
        freedom = np.where(between > variance, its_freedom, freedom)
        variance = np.maximum(variance, between)
    half: _Floats = t.ppf(0.975, freedom) * np.sqrt(variance)
    mean: _Floats = per_case.mean(axis=0)
    return mean + np.array([[-1], [1]]) * half


def _per_case(values: Sequence[_Floats], near_one: NDArray[np.bool_]) -> _Floats:
    """The values of one model, or the differences between two, (..., cases, K)."""
    return values[0] if len(values) == 1 else difference(values[0], values[1], near_one)


def _drawn(
    folds: NDArray[np.intp], unit_of_case: NDArray[np.intp] | slice = slice(None)
) -> Iterator[_Floats]:
    """How often each unit is drawn in each resample, scaled to 1 on average.

    Of n units of a fold, n - 1 are drawn; a single unit is always there.

    Args:
        folds: the fold of each unit, (units,).
        unit_of_case: the unit of each case, if the numbers are wanted for cases.

    Yields:
        Some rows after others of an array (R, units), or (R, cases).
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    times = np.ones((BOOTSTRAP_RESAMPLES, len(folds)), np.uint8)
    scale = np.ones(len(folds))
    for fold in np.unique(folds):
        units = np.flatnonzero(folds == fold)
        if (n := len(units)) > 1:
            times[:, units] = draw(rng, np.full(n, 1 / n), n - 1)
            scale[units] = n / (n - 1)
    for part in parts_of(times[:, unit_of_case]):
        yield part * scale[unit_of_case]


def _variance_of_means(per_case: _Floats, weights: Iterable[_Floats]) -> _Floats:
    """Variance of the weighted means over cases, (K,), from weights with a column for each case."""
    # Centred first: equal cases then have a variance of exactly 0.
    centred = per_case - per_case[0]
    means = [part @ centred / part.sum(axis=1, keepdims=True) for part in weights]
    variance: _Floats = np.concatenate(means).var(axis=0)
    return variance


def _variance_over_trainings(
    models: Sequence[Repeated], i: int, means: Sequence[_Floats], near_one: NDArray[np.bool_]
) -> _Floats:
    """Variance of the statistic if the trainings of model ``i`` are resampled, (K,)."""
    model = models[i]
    if not (np.unique(model.fold_of_training, return_counts=True)[1] > 1).any():
        return np.zeros(len(near_one))
    # Of few trainings, few different resamples can be drawn.
    drawn = np.concatenate([*_drawn(model.fold_of_training)])
    weights, times = np.unique(drawn, axis=0, return_counts=True)
    defined = ~np.isnan(model.values)
    # Centred first: equal trainings then have a variance of exactly 0.
    centred = np.where(defined, model.values - means[i], 0)
    rows = max(1, _AT_ONCE // means[i].size)
    statistics = []
    for start in range(0, len(weights), rows):
        some = weights[start : start + rows]
        shift = _ratio(np.tensordot(some, centred, 1), np.tensordot(some, defined, 1))
        values = [*means[:i], means[i] + shift, *means[i + 1 :]]
        statistics.append(mean_of_defined(np.moveaxis(_per_case(values, near_one), 1, 0)))
    statistic = np.concatenate(statistics)
    counts = np.where(np.isnan(statistic), 0, times[:, None])
    mean = _ratio(np.nansum(counts * statistic, axis=0), counts.sum(axis=0))
    return _ratio(np.nansum(counts * (statistic - mean) ** 2, axis=0), counts.sum(axis=0))


def _sum_of(parts: Sequence[_Part]) -> tuple[_Floats, _Floats]:
    """The sum of independent variances, with its degrees of freedom; these are at least 1."""
    variance: _Floats = np.sum([v for v, _ in parts], axis=0)
    # A level without degrees of freedom has no variance either.
    share: _Floats = np.sum([v**2 / np.maximum(n, 1) for v, n in parts], axis=0)
    freedom = np.ones_like(variance)
    np.divide(variance**2, share, out=freedom, where=share > 0)
    return variance, freedom


def _ratio(total: _Floats, n: NDArray[np.number]) -> _Floats:
    ratio = np.full(np.shape(total), np.nan)
    np.divide(total, n, out=ratio, where=n > 0)
    return ratio
