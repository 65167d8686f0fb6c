"""How well the Dice that a network expects of itself tells good segmentations from bad ones.

Cases are taken in the order of their expected Dice; the risk of a case is 1 - its actual Dice.
Cases with the same expected Dice are in random order: all numbers are means over their orders.
Cases in which either Dice is undefined are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.metrics.statistics import bca_interval, resamples

#: What :func:`case_ranking` computes, each with an interval.
STATISTICS = ("spearman", "aurc", "e_aurc")
#: With fewer cases there is no interval: their few resamples all give the same.
_FEWEST = 3
#: So many numbers of resamples are held at once. What is computed from them fits a cache, too.
_AT_ONCE = 1 << 16
#: An area above the best one by less is the best one.
_ROUNDING = 1e-12


def case_ranking(expected: Sequence[float], actual: Sequence[float]) -> dict[str, Any]:
    """Compare the order of the cases by expected Dice with that by actual Dice.

    Args:
        expected, actual: expected and actual Dice of each case, in [0, 1] or NaN.

    Returns:
        ``n``: number of cases in which both are defined.

        For each of ``STATISTICS`` its ``value`` and ``ci95``, the 95 % BCa bootstrap interval over
        cases. It is NaN with fewer than 3 cases, and where all resamples give the same, as those of
        a perfect order do: they say nothing on other cases. ``spearman``: Spearman's rank
        correlation of expected and actual Dice; NaN if either is the same in all cases. ``aurc``:
        area under the risk-coverage curve over cases, the mean over k = 1 .. n of the mean risk of
        the k cases with the highest expected Dice (Geifman & El-Yaniv 2017). ``e_aurc``: how much
        that is above the area of the best order, the one by actual Dice (Geifman, Uziel & El-Yaniv
        2019). Both are 0 at best.

        ``risk``: the curve, for each k the mean risk of these k cases.
    """
    # The same numbers are needed for the JSON and for tables; resampling takes long.
    return _case_ranking(tuple(map(float, expected)), tuple(map(float, actual)))


@lru_cache(maxsize=256)
def _case_ranking(expected: tuple[float, ...], actual: tuple[float, ...]) -> dict[str, Any]:
    confidence, dice = np.array(expected), np.array(actual)
    defined = ~np.isnan(confidence) & ~np.isnan(dice)
    confidence, risk = confidence[defined], 1 - dice[defined]
    n = len(risk)
    if not n:
        nothing = {"value": np.nan, "ci95": [np.nan, np.nan]}
        return {"n": 0, **dict.fromkeys(STATISTICS, nothing), "risk": []}
    value = _of_samples(confidence, risk, [np.ones((1, n))])[0]
    ends = np.full((2, len(STATISTICS)), np.nan)
    if n >= _FEWEST:
        resampled = _of_samples(confidence, risk, resamples(n, _AT_ONCE))
        known = ~np.isnan(value)
        jackknife = _of_samples(confidence, risk, _leaving_one_out(n))
        ends[:, known] = bca_interval(value[known], resampled[:, known], jackknife[:, known])
        ends[:, ends[0] == ends[1]] = np.nan
    return {
        "n": n,
        **{
            name: {"value": float(value[i]), "ci95": ends[:, i].tolist()}
            for i, name in enumerate(STATISTICS)
        },
        "risk": _curve(confidence, risk).tolist(),
    }


def _leaving_one_out(n: int) -> Iterator[NDArray[np.float64]]:
    """The n samples that lack one of n cases, (n, n), some rows at a time."""
    for start in range(0, n, step := max(1, _AT_ONCE // n)):
        yield 1 - np.eye(min(step, n - start), n, start)


def _of_samples(
    confidence: NDArray[np.float64], risk: NDArray[np.float64], parts: Iterable[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """``STATISTICS`` of R samples, (R, 3).

    Args:
        confidence, risk: of each case, (n,).
        parts: how often each case is in each sample, some rows of (R, n) after others.
    """
    orders = _Order.falling(confidence), _Order.falling(-risk)
    return np.concatenate([_statistics(*orders, risk, times) for times in parts])


def _statistics(
    by_confidence: _Order, by_dice: _Order, risk: NDArray[np.float64], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    samples, best = (_Sorted.of(times, order) for order in (by_confidence, by_dice))
    area = _area(samples, risk[by_confidence.cases])
    excess = area - _area(best, risk[by_dice.cases])
    excess[np.abs(excess) < _ROUNDING] = 0
    return np.stack(
        [
            _rank_correlation(samples, best, by_dice.group[by_confidence.cases]),
            area,
            excess,
        ],
        axis=1,
    )


class _Order(NamedTuple):
    """The order of n cases by a value, from high to low.

    Attributes:
        cases: the index of the first case, of the second one and so on, (n,).
        starts: where, in this order, each of G groups of equal values begins, (G,).
        group: the group of each case, (n,), in the cases' own order.
    """

    cases: NDArray[np.intp]
    starts: NDArray[np.intp]
    group: NDArray[np.intp]

    @classmethod
    def falling(cls, values: NDArray[np.float64]) -> _Order:
        cases = np.argsort(-values, kind="stable")
        is_new = np.diff(values[cases], prepend=np.inf) != 0
        group = np.empty(len(values), np.intp)
        group[cases] = np.cumsum(is_new) - 1
        return cls(cases, np.flatnonzero(is_new), group)


class _Sorted(NamedTuple):
    """R samples of n cases, in an order with G groups.

    Attributes:
        order: the order.
        times: how often each case is in each sample, in the order, (R, n).
        n: how many cases of a sample are in each group, (R, G).
        n_until: how many are in this group and those before, (R, G).
    """

    order: _Order
    times: NDArray[np.float64]
    n: NDArray[np.float64]
    n_until: NDArray[np.float64]

    @classmethod
    def of(cls, times: NDArray[np.float64], order: _Order) -> _Sorted:
        """``times``: in the cases' own order, (R, n)."""
        times = times[:, order.cases]
        n = _per_group(times, order)
        return cls(order, times, n, np.cumsum(n, axis=1))


def _area(samples: _Sorted, risk: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area under the risk-coverage curve of each sample, (R,); ``risk``: in the order, (n,)."""
    n, n_until = samples.n, samples.n_until
    total = _per_group(samples.times * risk, samples.order)
    total_before = np.cumsum(total, axis=1) - total
    # In random order, the first j of n equal cases have a risk of total * j / n on average. This is
    # the sum over j = 1 .. n of (total_before + total * j / n) / (n_before + j).
    inverse = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, samples.times.shape[1] + 1))])
    until = inverse[n_until.astype(np.intp)]
    harmonic = until.copy()
    harmonic[:, 1:] -= until[:, :-1]
    mean = total / np.maximum(n, 1)
    area = total_before * harmonic + mean * (n - (n_until - n) * harmonic)
    return np.asarray(area.sum(axis=1) / n_until[:, -1])


def _rank_correlation(
    one: _Sorted, other: _Sorted, group_in_other: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Spearman's correlation of each sample, (R,); equal values have the mean of their ranks.

    As ``scipy.stats.spearmanr``, which has no weights, and whose import takes longer than all else
    here.

    Args:
        one, other: the same samples in either order.
        group_in_other: the group in the other order of each case of the first one, (n,).
    """
    a, b = (s.n_until - (s.n + s.n_until[:, -1:]) / 2 for s in (one, other))
    scale = np.sqrt(np.einsum("ij,ij,ij->i", one.n, a, a) * np.einsum("ij,ij,ij->i", other.n, b, b))
    if a.shape != one.times.shape:  # some values are equal
        a = a[:, one.order.group[one.order.cases]]
    covariance = np.einsum("ij,ij,ij->i", one.times, a, b[:, group_in_other])
    correlation: NDArray[np.float64] = np.full(len(scale), np.nan)
    np.divide(covariance, scale, out=correlation, where=scale > 0)
    return correlation


def _per_group(values: NDArray[np.float64], order: _Order) -> NDArray[np.float64]:
    """Sums over the columns of each group, (R, n) to (R, G)."""
    if len(order.starts) == values.shape[1]:  # all values differ
        return values
    return np.add.reduceat(values, order.starts, axis=1)


def _curve(confidence: NDArray[np.float64], risk: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean risk of the k most confident cases for k = 1 .. n, (n,)."""
    _, group, n = np.unique(-confidence, return_inverse=True, return_counts=True)
    mean = np.bincount(group, risk) / n
    return np.asarray(np.cumsum(np.repeat(mean, n)) / np.arange(1, len(risk) + 1))
