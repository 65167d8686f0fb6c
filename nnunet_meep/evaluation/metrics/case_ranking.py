"""How well the Dice that a network expects of itself tells good segmentations from bad ones.

Cases are taken in the order of their expected Dice; the risk of a case is 1 - its actual Dice.
Cases with the same expected Dice are in random order: all numbers are means over their orders.
Cases in which either Dice is undefined are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.metrics.statistics import AT_ONCE, bca_interval, resamples

#: What :func:`case_ranking` computes, each with an interval.
STATISTICS = ("spearman", "aurc", "e_aurc")
#: With fewer cases there is no interval: their few resamples all give the same.
_FEWEST = 3


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
    value = _statistics(confidence, risk, np.ones((1, n)))[0]
    ends = np.full((2, len(STATISTICS)), np.nan)
    if n >= _FEWEST:
        # Each sample needs several times its own memory.
        at_once = AT_ONCE // 8
        resampled = _of_samples(confidence, risk, resamples(n, at_once))
        known = ~np.isnan(value)
        jackknife = _of_samples(confidence, risk, _leaving_one_out(n, at_once))
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


def _leaving_one_out(n: int, at_once: int) -> Iterator[NDArray[np.float64]]:
    """The n samples that lack one of n cases, (n, n), some rows at a time."""
    for start in range(0, n, step := max(1, at_once // n)):
        yield 1 - np.eye(min(step, n - start), n, start)


def _of_samples(
    confidence: NDArray[np.float64], risk: NDArray[np.float64], parts: Iterable[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """:func:`_statistics` of samples that come in parts."""
    return np.concatenate([_statistics(confidence, risk, part) for part in parts])


def _statistics(
    confidence: NDArray[np.float64], risk: NDArray[np.float64], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``STATISTICS`` of R samples, (R, 3); ``times``: how often each case is in each, (R, n)."""
    area = _area(confidence, risk, times)
    return np.stack(
        [
            _rank_correlation(confidence, 1 - risk, times),
            area,
            area - _area(-risk, risk, times),
        ],
        axis=1,
    )


def _area(
    confidence: NDArray[np.float64], risk: NDArray[np.float64], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area under the risk-coverage curve of each sample, (R,)."""
    _, group = np.unique(-confidence, return_inverse=True)
    n, total = _per_group(times, group), _per_group(times * risk, group)
    n_before, total_before = np.cumsum(n, axis=1) - n, np.cumsum(total, axis=1) - total
    # In random order, the first j of n equal cases have a risk of total * j / n on average. This is
    # the sum over j = 1 .. n of (total_before + total * j / n) / (n_before + j).
    inverse = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, times.shape[1] + 1))])
    harmonic = inverse[(n_before + n).astype(np.intp)] - inverse[n_before.astype(np.intp)]
    mean = np.divide(total, n, out=np.zeros_like(total), where=n > 0)
    area = total_before * harmonic + mean * (n - n_before * harmonic)
    return np.asarray(area.sum(axis=1) / n.sum(axis=1))


def _rank_correlation(
    x: NDArray[np.float64], y: NDArray[np.float64], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spearman's correlation of each sample, (R,); equal values have the mean of their ranks.

    As ``scipy.stats.spearmanr``, which has no weights, and whose import takes longer than all else
    here.
    """
    n = times.sum(axis=1, keepdims=True)
    ranks = []
    for values in (x, y):
        _, group = np.unique(values, return_inverse=True)
        in_group = _per_group(times, group)
        rank = np.cumsum(in_group, axis=1) - (in_group - 1) / 2
        ranks.append(rank[:, group] - (n + 1) / 2)
    a, b = ranks
    covariance: NDArray[np.float64] = (times * a * b).sum(axis=1)
    scale: NDArray[np.float64] = np.sqrt((times * a**2).sum(axis=1) * (times * b**2).sum(axis=1))
    return np.divide(covariance, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def _per_group(values: NDArray[np.float64], group: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sums over the columns of each group, (R, n) to (R, groups)."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    return np.add.reduceat(values[:, order], starts, axis=1)


def _curve(confidence: NDArray[np.float64], risk: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean risk of the k most confident cases for k = 1 .. n, (n,)."""
    _, group, n = np.unique(-confidence, return_inverse=True, return_counts=True)
    mean = np.bincount(group, risk) / n
    return np.asarray(np.cumsum(np.repeat(mean, n)) / np.arange(1, len(risk) + 1))
