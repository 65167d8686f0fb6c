"""Statistics over cases: means, bootstrap intervals and tests of paired differences."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
#: So many numbers of resamples are held as float64 at once: few enough for a processor's cache.
AT_ONCE = 1 << 19
#: The intervals of metrics are computed together for about so many values.
_VALUES_AT_ONCE = 1 << 18
#: Resamples of up to so many bytes are kept for the next metrics; larger ones are drawn again.
KEPT = 1 << 25


def over_cases(metrics: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Summary of each metric over the cases; NaN is left out.

    Args:
        metrics: values of each metric, one for each case.

    Returns:
        For each metric, ``mean``, ``std`` (sample standard deviation, n - 1), ``median``, ``ci95``
        (95 % BCa bootstrap interval of the mean; the mean twice if all cases are equal), ``n``
        (values that are not NaN) and ``n_undefined`` (values that are). Entries that need more
        cases are NaN.
    """
    summaries, by_n = [], defaultdict[int, list[tuple[dict[str, Any], NDArray[np.float64]]]](list)
    for values in metrics:
        array = np.asarray(values, dtype=np.float64)
        defined = array[~np.isnan(array)]
        n = len(defined)
        summary = {
            "mean": math.fsum(defined) / n if n else np.nan,
            "std": float(defined.std(ddof=1)) if n > 1 else np.nan,
            "median": float(np.median(defined)) if n else np.nan,
            "ci95": [np.nan, np.nan],
            "n": n,
            "n_undefined": len(array) - n,
        }
        summaries.append(summary)
        if n > 1:
            by_n[n].append((summary, defined))
    for n, of_n in by_n.items():
        at_once = max(1, _VALUES_AT_ONCE // n)
        for start in range(0, len(of_n), at_once):
            _add_intervals(n, of_n[start : start + at_once])
    return summaries


def _add_intervals(n: int, metrics: list[tuple[dict[str, Any], NDArray[np.float64]]]) -> None:
    """Add ``ci95`` to the summaries of metrics that are each defined for n cases."""
    defined = np.stack([values for _, values in metrics], axis=1)
    mean = np.array([summary["mean"] for summary, _ in metrics])
    resampled = np.concatenate([part @ defined for part in resamples(n)]) / n
    ends = bca_interval(mean, resampled, (n * mean - defined) / (n - 1))
    for (summary, _), ci95 in zip(metrics, ends.T.tolist(), strict=True):
        summary["ci95"] = ci95


def bca_interval(
    estimate: NDArray[np.float64], resampled: NDArray[np.float64], jackknife: NDArray[np.float64]
) -> NDArray[np.float64]:
    """95 % bootstrap intervals, bias-corrected and accelerated (BCa).

    Efron, "Better bootstrap confidence intervals" (1987). Unlike plain percentiles, they account
    for a biased or skewed statistic, such as the mean over few cases.

    Args:
        estimate: K statistics of the sample, (K,).
        resampled: the same statistics of R resamples, (R, K). NaN (undefined in this resample) is
            left out; each statistic must be defined in at least one resample.
        jackknife: the same statistics with one case left out at a time, (n, K). NaN is left out.

    Returns:
        Lower and upper ends, (2, K); both equal to ``estimate`` if no resample differs from it.
    """
    from scipy.special import ndtr, ndtri

    n = (~np.isnan(resampled)).sum(axis=0)
    # A resample that equals the estimate counts as half below it. With few cases there are many of
    # these. The tolerance is needed because sums in a different order differ in their last digits.
    tolerance = 1e-10 * np.nanmax(np.abs(resampled), axis=0)
    excess = resampled - estimate
    tied = np.abs(excess) <= tolerance
    below = (excess < -tolerance).sum(axis=0) + tied.sum(axis=0) / 2
    # Clipped to at least half a resample on either side. Then |z| is below 6, and because the
    # acceleration is at most 1/6, the denominator below stays positive.
    bias = ndtri(np.clip(below, 0.5, n - 0.5) / n)

    influence = np.nanmean(jackknife, axis=0) - jackknife
    scale = np.nansum(influence**2, axis=0) ** 1.5
    skew = np.nansum(influence**3, axis=0)
    acceleration = np.divide(skew, 6 * scale, out=np.zeros_like(skew), where=scale > 0)

    z = bias + ndtri(np.array([[0.025], [0.975]]))
    rank = ndtr(bias + z / (1 - acceleration * z)) * (n - 1)
    ordered = np.sort(resampled, axis=0)  # NaN last
    below_rank = np.floor(rank).astype(np.intp)
    low = np.take_along_axis(ordered, below_rank, axis=0)
    high = np.take_along_axis(ordered, np.minimum(below_rank + 1, n - 1), axis=0)
    ends = low + (rank - below_rank) * (high - low)
    return np.where(tied.sum(axis=0) == n, estimate, ends)


def resamples(n: int, at_once: int = AT_ONCE) -> Iterator[NDArray[np.float64]]:
    """How often each of n cases is drawn in each bootstrap resample, (R, n), some rows at a time.

    The same each time. Those of many cases are drawn one case after the other, which takes a tenth
    of the time of the multinomial numbers that are kept of fewer cases.

    Args:
        at_once: about so many numbers in each part.
    """
    if BOOTSTRAP_RESAMPLES * n <= KEPT:
        yield from parts_of(_kept(n), at_once)
        return
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    for rows in _rows((BOOTSTRAP_RESAMPLES, n), at_once):
        n_rows = rows.stop - rows.start
        drawn = rng.integers(n, size=(n_rows, n)) + n * np.arange(n_rows)[:, np.newaxis]
        times = np.bincount(drawn.reshape(-1), minlength=n_rows * n)
        yield times.reshape(n_rows, n).astype(np.float64)


@lru_cache(maxsize=2)
def _kept(n: int) -> NDArray[np.uint8]:
    return draw(np.random.default_rng(BOOTSTRAP_SEED), np.full(n, 1 / n), n)


def draw(rng: np.random.Generator, chances: NDArray[np.float64], n_drawn: int) -> NDArray[np.uint8]:
    """How often each unit is drawn in each of R resamples, with replacement, (R, units).

    Args:
        rng: the random numbers.
        chances: the chance of each unit to be drawn, (units,).
        n_drawn: how many are drawn in each resample; about as many as there are units, so that none
            comes near 255 times.
    """
    times = np.empty((BOOTSTRAP_RESAMPLES, len(chances)), np.uint8)
    for rows in _rows(times.shape, AT_ONCE):
        times[rows] = rng.multinomial(n_drawn, chances, size=rows.stop - rows.start)
    return times


def parts_of(times: NDArray[np.uint8], at_once: int = AT_ONCE) -> Iterator[NDArray[np.float64]]:
    """Some rows after others as float64, so that memory stays small with many cases.

    Args:
        times: of :func:`draw`, (R, n).
        at_once: about so many numbers in each part.
    """
    for rows in _rows(times.shape, at_once):
        yield times[rows].astype(np.float64)


def _rows(shape: tuple[int, ...], at_once: int) -> Iterator[slice]:
    n_rows, step = shape[0], max(1, at_once // max(1, shape[1]))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def paired_differences(
    differences: NDArray[np.float64], tested: Sequence[bool]
) -> list[dict[str, Any]]:
    """Summaries and Wilcoxon signed-rank tests of paired differences; NaN is left out.

    The test also leaves out pairs without a difference. With scipy 1.17, p is exact for up to 50
    pairs if no two differences are equally large, and for up to 13 otherwise; else it is from the
    normal approximation, corrected for ties. With n pairs p cannot be below 2^(1 - n).

    Args:
        differences: difference of each case in K metrics, (n, K).
        tested: whether to test each metric; if not, the values of p are NaN.

    Returns:
        For each metric, ``mean`` and ``ci95`` of the differences, ``n``, ``p`` and ``p_smallest``
        (the smallest p that is possible with n cases). ``p_holm`` and ``p_holm_smallest`` are NaN,
        to be filled in once all tests of the family are known.
    """
    return [
        {
            "mean": summary["mean"],
            "ci95": summary["ci95"],
            "n": summary["n"],
            "p": _wilcoxon(of_metric) if test else math.nan,
            "p_smallest": 2.0 ** (1 - summary["n"]) if test and summary["n"] else math.nan,
            "p_holm": math.nan,
            "p_holm_smallest": math.nan,
        }
        for of_metric, test, summary in zip(
            differences.T, tested, over_cases(differences.T.tolist()), strict=True
        )
    ]


def _wilcoxon(difference: NDArray[np.float64]) -> float:
    from scipy.stats import wilcoxon

    if (~np.isnan(difference)).sum() < 2:
        return math.nan
    unequal = difference[~np.isnan(difference) & (difference != 0)]
    # The test fails if all differences are 0.
    return float(wilcoxon(unequal).pvalue) if len(unequal) else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Correct the p-values of a family of tests (Holm 1979); returned in the same order."""
    corrected = [math.nan] * len(p)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min((len(p) - rank) * p[i], 1.0))
        corrected[i] = highest
    return corrected
