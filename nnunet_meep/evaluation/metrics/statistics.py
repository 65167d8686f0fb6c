"""Statistics over cases: means, bootstrap intervals and tests of paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
#: So many numbers of resamples are held as float64 at once.
AT_ONCE = 1 << 21


def over_cases(values: Sequence[float]) -> dict[str, Any]:
    """Summary of one metric over the cases; NaN is left out.

    Returns:
        ``mean``, ``std`` (sample standard deviation, n - 1), ``median``, ``ci95`` (95 % BCa
        bootstrap interval of the mean; the mean twice if all cases are equal), ``n`` (values that
        are not NaN) and ``n_undefined`` (values that are). Entries that need more cases are NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    defined = array[~np.isnan(array)]
    n = len(defined)
    mean = math.fsum(defined) / n if n else np.nan
    ci95 = [np.nan, np.nan]
    if n > 1:
        resampled = np.concatenate([part @ defined for part in parts_of(resamples(n))]) / n
        jackknife = (n * mean - defined) / (n - 1)
        ends = bca_interval(np.array([mean]), resampled[:, None], jackknife[:, None])
        ci95 = ends[:, 0].tolist()
    return {
        "mean": mean,
        "std": float(defined.std(ddof=1)) if n > 1 else np.nan,
        "median": float(np.median(defined)) if n else np.nan,
        "ci95": ci95,
        "n": n,
        "n_undefined": len(array) - n,
    }


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


@lru_cache(maxsize=2)
def resamples(n: int) -> NDArray[np.uint8]:
    """How often each of n cases is drawn in each bootstrap resample, (R, n)."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    return draw(rng, np.full(n, 1 / n), n)


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


def paired_difference(difference: NDArray[np.float64], *, tested: bool) -> dict[str, Any]:
    """Summary and Wilcoxon signed-rank test of paired differences; NaN is left out.

    The test also leaves out pairs without a difference. With scipy 1.17, p is exact for up to 50
    pairs if no two differences are equally large, and for up to 13 otherwise; else it is from the
    normal approximation, corrected for ties. With n pairs p cannot be below 2^(1 - n).

    Args:
        difference: difference of each case, (n,).
        tested: whether to test; if not, the values of p are NaN.

    Returns:
        ``mean`` and ``ci95`` of the differences, ``n``, ``p`` and ``p_smallest`` (the smallest p
        that is possible with n cases). ``p_holm`` and ``p_holm_smallest`` are NaN, to be filled in
        once all tests of the family are known.
    """
    from scipy.stats import wilcoxon

    summary = over_cases(difference.tolist())
    n = summary["n"]
    p = p_smallest = math.nan
    if tested and n:
        p_smallest = 2.0 ** (1 - n)
    if tested and n > 1:
        unequal = difference[~np.isnan(difference) & (difference != 0)]
        # The test fails if all differences are 0.
        p = float(wilcoxon(unequal).pvalue) if len(unequal) else 1.0
    return {
        "mean": summary["mean"],
        "ci95": summary["ci95"],
        "n": n,
        "p": p,
        "p_smallest": p_smallest,
        "p_holm": math.nan,
        "p_holm_smallest": math.nan,
    }


def holm(p: Sequence[float]) -> list[float]:
    """Correct the p-values of a family of tests (Holm 1979); returned in the same order."""
    corrected = [math.nan] * len(p)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min((len(p) - rank) * p[i], 1.0))
        corrected[i] = highest
    return corrected
