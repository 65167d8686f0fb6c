"""Which cases a report shows with pictures: the worst ones, the median and the best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.metrics.metric import Better
from nnunet_meep.evaluation.result_format import TOP_LABEL

#: The metrics by which cases are ranked.
RANKED_BY = ("dice", "ece")
#: Of the cases to review first, as many are shown.
N_REVIEWED = 3


def ranked_cases(comparison: Comparison, metric: str) -> list[str]:
    """Cases by the mean of a metric over classes and models, the worst first.

    Cases in which the metric is undefined for all classes are left out.
    """
    values = _values(comparison, metric)
    cases = np.flatnonzero(~np.isnan(values).all(axis=(0, 1)))
    mean = np.nanmean(values[:, :, cases], axis=(0, 1))
    loss = -mean if CATALOGUE[metric].better is Better.HIGHER else mean
    return [comparison.cases[i] for i in cases[np.argsort(-loss, kind="stable")]]


def worst_class(comparison: Comparison, case: str) -> str:
    """The key of the class with the lowest mean Dice over models; undefined ones come last."""
    of_case = _values(comparison, "dice")[:, :, comparison.cases.index(case)]
    mean = [np.inf if np.isnan(dice).all() else np.nanmean(dice) for dice in of_case.T]
    return _keys(comparison)[int(np.argmin(mean))]


def cases_to_show(comparison: Comparison, n_worst: int) -> list[str]:
    """The ``n_worst`` cases with the lowest Dice, then the worst, median and best by each metric.

    Before these come the first ones of :func:`review_order`. Each is named once.
    """
    cases = ranked_cases(comparison, "dice")[:n_worst]
    cases += [case for case, _ in review_order(comparison)[:N_REVIEWED]]
    for metric in RANKED_BY:
        ranked = ranked_cases(comparison, metric)
        cases += [ranked[i] for i in (0, (len(ranked) - 1) // 2, -1) if ranked]
    return list(dict.fromkeys(cases))


def review_order(comparison: Comparison) -> list[tuple[str, list[tuple[str, float]]]]:
    """Cases by the lowest expected Dice of their classes, mean over models; the lowest first.

    Of cases where it is the same, the next lowest one decides. Cases in which it is undefined for
    all classes and models are left out.

    Returns:
        The name of each case, and for each model the key of this class and its expected Dice, NaN
        if undefined for all classes. Empty without expected Dice.
    """
    if not comparison.ranking:
        return []
    keys = _keys(comparison)
    expected = _values(comparison, "dice_expected")
    lowest = np.where(np.isnan(expected), np.inf, expected).argmin(axis=1)  # (models, cases)
    least = np.take_along_axis(expected, lowest[:, None], axis=1)[:, 0]
    cases = np.flatnonzero(~np.isnan(least).all(axis=0))
    others = np.sort(np.where(np.isnan(expected), np.inf, expected), axis=1)[:, 1:].mean(axis=0)
    first = np.nanmean(least[:, cases], axis=0)
    order = cases[np.lexsort([*others[::-1, cases], first])]
    return [
        (
            comparison.cases[i],
            [(keys[k], float(v)) for k, v in zip(lowest[:, i], least[:, i], strict=True)],
        )
        for i in order
    ]


def _keys(comparison: Comparison) -> list[str]:
    return [key for key in comparison.classes if key != TOP_LABEL]


def _values(comparison: Comparison, metric: str) -> NDArray[np.float64]:
    """A metric of each model, class and case; (models, classes, cases), NaN where undefined."""
    keys = _keys(comparison)
    return np.array([[comparison.values(m, k, metric) for k in keys] for m in comparison.models])
