"""The numbers of a comparison: summaries of each model, differences to the first, tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.comparison import Table, values_of_trainings
from nnunet_meep.evaluation.folds import Folds
from nnunet_meep.evaluation.metrics.case_ranking import case_ranking
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.metrics.metric import Better
from nnunet_meep.evaluation.metrics.repeated import (
    Repeated,
    difference,
    interval_over_trainings,
    mean_of_defined,
)
from nnunet_meep.evaluation.metrics.statistics import holm, over_cases, paired_differences
from nnunet_meep.evaluation.result_format import TOP_LABEL
from nnunet_meep.evaluation.results import Evaluation


class Model(NamedTuple):
    """The trainings of a model, and the folds that they are in."""

    trainings: tuple[Evaluation, ...]
    folds: Folds


def tables(
    models: Mapping[str, Model], cases: Sequence[str], metrics: Mapping[str, Sequence[str]]
) -> tuple[Table, Table]:
    """Summaries of each model and differences to the first one, see :class:`.Comparison`.

    Args:
        models: by name; all have the cases.
        cases: their names.
        metrics: by class key.
    """
    columns = [(key, metric) for key, of_key in metrics.items() for metric in of_key]
    near_one = np.array([CATALOGUE[m].better is Better.NEAR_ONE for _, m in columns], np.bool_)
    found = {name: _repeated(model, cases, columns) for name, model in models.items()}
    first, *others = found.values()
    summary: Table = {name: {key: {} for key in metrics} for name in models}
    differences: Table = {name: {key: {} for key in metrics} for name in [*models][1:]}
    for name, model in found.items():
        entries = _summaries(model, near_one)
        for (key, metric), entry in zip(columns, entries, strict=True):
            summary[name][key][metric] = entry
    for name, model in zip(differences, others, strict=True):
        tested = [CATALOGUE[metric].better is not Better.NEITHER for _, metric in columns]
        entries = _differences(model, first, near_one, tested)
        for (key, metric), entry in zip(columns, entries, strict=True):
            differences[name][key][metric] = entry
    return summary, differences


def rankings(
    models: Mapping[str, Model], cases: Sequence[str], metrics: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """``Comparison.ranking``.

    Args:
        models, cases, metrics: as for :func:`tables`.
    """
    both = ("dice_expected", "dice")
    keys = [key for key in metrics if key != TOP_LABEL]
    if not all({*both, "dice_expected_error"} <= set(metrics[key]) for key in keys):
        return {}

    def per_case(model: Model, key: str, metric: str) -> list[float]:
        values = values_of_trainings(model.trainings, cases, key, metric)
        return list(mean_of_defined(values))

    return {
        name: {key: case_ranking(*(per_case(model, key, m) for m in both)) for key in keys}
        for name, model in models.items()
    }


def correct(tests: Sequence[dict[str, Any]]) -> None:
    """Fill in ``p_holm`` and ``p_holm_smallest`` of a family of tests."""
    family = [test for test in tests if not math.isnan(test["p"])]
    # Lowering a p never raises a corrected one: the smallest possible p give the smallest p_holm.
    for name, corrected in (("p", "p_holm"), ("p_smallest", "p_holm_smallest")):
        for test, value in zip(family, holm([t[name] for t in family]), strict=True):
            test[corrected] = value


def _repeated(model: Model, cases: Sequence[str], columns: Sequence[tuple[str, str]]) -> Repeated:
    values = [values_of_trainings(model.trainings, cases, *column) for column in columns]
    shape = (len(model.trainings), len(cases), 0)
    return Repeated(
        np.stack(values, axis=-1) if values else np.empty(shape),
        np.array(model.folds.of_training, np.intp),
        np.array([model.folds.of_case[case] for case in cases], np.intp),
    )


def _summaries(model: Repeated, near_one: NDArray[np.bool_]) -> list[dict[str, Any]]:
    per_case = mean_of_defined(model.values)
    entries = []
    for i, summary in enumerate(over_cases(per_case.T.tolist())):
        std = _training_std(model.values[..., i])
        distance = mean_of_defined(np.abs(per_case[:, i] - 1)) if near_one[i] else math.nan
        of_trainings = {"n_trainings": int(model.n_trainings[i]), "training_std": std}
        entries.append({**summary, **of_trainings, "distance": float(distance)})
    return _with_intervals(entries, [model], near_one)


def _differences(
    model: Repeated, first: Repeated, near_one: NDArray[np.bool_], tested: Sequence[bool]
) -> list[dict[str, Any]]:
    per_case = difference(mean_of_defined(model.values), mean_of_defined(first.values), near_one)
    n_trainings = np.stack([model.n_trainings, first.n_trainings], axis=-1).tolist()
    entries = [
        {**entry, "n_trainings": n}
        for entry, n in zip(paired_differences(per_case, tested), n_trainings, strict=True)
    ]
    return _with_intervals(entries, [model, first], near_one)


def _with_intervals(
    entries: list[dict[str, Any]], models: Sequence[Repeated], near_one: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """The entries with ``ci95_trainings``: that over cases if each model was trained once."""
    if all(len(model.values) == 1 for model in models):
        return [{**entry, "ci95_trainings": entry["ci95"]} for entry in entries]
    ends = interval_over_trainings(models, near_one)
    return [
        {**entry, "ci95_trainings": of_entry}
        for entry, of_entry in zip(entries, ends.T.tolist(), strict=True)
    ]


def _training_std(values: NDArray[np.float64]) -> float:
    means = mean_of_defined(values.T)
    means = means[~np.isnan(means)]
    return float(means.std(ddof=1)) if len(means) > 1 else math.nan
