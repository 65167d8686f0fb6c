"""Statistics over cases: means, bootstrap intervals, tests of differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_SEED = 0


def over_cases(values: Sequence[float]) -> dict[str, Any]:
    """One metric over the cases, NaN left out and counted.

    Returns:
        ``mean``, ``std`` (of a sample, n - 1), ``median``, ``ci95`` (BCa bootstrap interval of the
        mean over cases; the mean twice if all cases are equal), ``n``, ``n_undefined``. What needs
        more cases than there are is NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    defined = array[~np.isnan(array)]
    n = len(defined)
    mean = math.fsum(defined) / n if n else np.nan
    ci95 = [np.nan, np.nan]
    if n > 1:
        resampled = resamples(n) @ defined / n
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

    Efron, "Better bootstrap confidence intervals" (1987). Unlike plain percentiles they allow for a
    statistic that is biased or skewed, as means over few cases are.

    Args:
        estimate: K statistics of a sample, (K,).
        resampled: the same of R resamples, (R, K). NaN, where a resample does not give the
            statistic, is left out; each has to be there once.
        jackknife: the same of the sample without each of its members, (n, K). NaN is left out.

    Returns:
        Lower and upper ends, (2, K); ``estimate`` itself where no resample differs from it.
    """
    from scipy.special import ndtr, ndtri

    n = (~np.isnan(resampled)).sum(axis=0)
    # A tie counts as half below. Sums in another order differ in their last digits, which would
    # decide the ties, and with few cases many resamples are tied with the estimate.
    tolerance = 1e-10 * np.nanmax(np.abs(resampled), axis=0)
    excess = resampled - estimate
    tied = np.abs(excess) <= tolerance
    below = (excess < -tolerance).sum(axis=0) + tied.sum(axis=0) / 2
    # At least half a resample on either side: then z is below 6 and the acceleration, which is at
    # most 1/6, leaves the denominator positive.
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
def resamples(n: int) -> NDArray[np.float64]:
    # How often each case is drawn, rather than the draws: the same, in less memory.
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    times = rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP_RESAMPLES)
    return times.astype(np.float64)


def paired_difference(difference: NDArray[np.float64], *, tested: bool) -> dict[str, Any]:
    """Summary and test of the differences of the cases, NaN left out.

    Wilcoxon's test leaves out pairs without a difference, too. With scipy 1.17 its p is exact for
    up to 50 pairs if no two differences are equally large, and for up to 13 if some are; else it is
    that of the normal approximation, corrected for ties. None is below 2^(1 - n) for n pairs.
    """
    from scipy.stats import wilcoxon

    summary = over_cases(difference.tolist())
    n = summary["n"]
    p = p_smallest = math.nan
    if tested and n:
        p_smallest = 2.0 ** (1 - n)
    if tested and n > 1:
        unequal = difference[~np.isnan(difference) & (difference != 0)]
        # Without any difference there is nothing to rank.
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
    """p of a family of tests, corrected (Holm 1979), in the same order."""
    corrected = [math.nan] * len(p)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min((len(p) - rank) * p[i], 1.0))
        corrected[i] = highest
    return corrected
