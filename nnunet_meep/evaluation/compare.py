"""Compare models on the same cases: tables, differences, and whether they could be due to chance.

Input: evaluations of each model. Output: the metrics of each model over the cases that all models
have, and the difference between every other model and the first.

Conventions: a model may have been trained several times (seeds). Its value for a case is then the
mean over the trainings in which the metric is defined, as the paper averages over three. The spread
over trainings is the standard deviation of their means over cases. Differences are paired by case:
mean, BCa bootstrap interval over cases, Wilcoxon signed-rank test. Metrics without a best value are
not tested. Among many tests some are significant by chance, so p is corrected with Holm's method;
the family is all tests that the tables show, over all classes and models.

With n pairs, p cannot be below 2^(1 - n), and Holm's method multiplies the smallest p by the number
of tests. If that exceeds 0.05, a large p means that n is small, not that the models are equal.

A network that never segments a class can still have the lowest ECE and Brier score for it. A class
counts as not segmented if, in any training of the model, Dice is 0 in every case whose reference
has the class. The model then cannot be the best for that class or for the top label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.comparison import (
    Comparison,
    mean_of_defined,
    shown_tests,
    values_of_trainings,
)
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, Better
from nnunet_meep.evaluation.metrics.scores import cases_not_segmented
from nnunet_meep.evaluation.metrics.statistics import holm, over_cases, paired_difference
from nnunet_meep.evaluation.notes import file_notes, named, of_models
from nnunet_meep.evaluation.result_format import TOP_LABEL, nan_to_none
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.nnunet_files.calibrated import optimistic

#: Settings that should be the same for all models; a warning names those that differ.
_SETTINGS = ("bins", "surface", "segmentation", "version")
#: Model name: the evaluations of its trainings.
_Models: TypeAlias = "dict[str, tuple[Evaluation, ...]]"
#: The evaluations of all trainings, each with the name of its model.
_Trainings: TypeAlias = "list[tuple[str, Evaluation]]"


def compare(
    models: Mapping[str, Evaluation | Sequence[Evaluation]],
    *,
    roi: str | None = None,
    cases: Sequence[str] | None = None,
    notes: Sequence[tuple[str, str]] = (),
) -> Comparison:
    """Compare models over the cases that all of them have.

    Args:
        models: by name, the evaluation of each model, or the evaluations of its trainings, which
            are averaged per case. The others are compared with the first model.
        roi: name of the ROI; None: the first one of each evaluation.
        cases: names of the cases to compare; None: all that the models have in common.
        notes: further warnings about the models: (name, line).

    Raises:
        InputError: there is no model, or the models have no ROI, class or case in common.

    Example:
        >>> import nnunet_meep as nm
        >>> default = nm.read_evaluation("predictions")
        >>> meep = nm.read_evaluation("predictions_meep")
        >>> comparison = nm.compare({"default": default, "MEEP": meep})
        >>> comparison.models
        ('default', 'MEEP')
        >>> mean = comparison.summary["MEEP"]["1"]["ece"]["mean"]
    """
    given_models: _Models = {}
    for name, given in models.items():
        trainings = (given,) if isinstance(given, Evaluation) else tuple(given or ())
        if not trainings or not all(isinstance(t, Evaluation) for t in trainings):
            raise InputError(
                f"{name}: expected an Evaluation or a list of them, got {type(given).__name__}"
            )
        try:
            given_models[name] = tuple(training.over(roi) for training in trainings)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    if not given_models:
        raise InputError("models: expected at least one, got none")
    return _compare(given_models, cases, notes)


def _compare(
    models: _Models, chosen: Sequence[str] | None, notes: Sequence[tuple[str, str]]
) -> Comparison:
    first, *others = models
    trainings = [(name, t) for name, of_model in models.items() for t in of_model]
    for name, of_model in models.items():
        if len(bins := {t.settings["bins"] for t in of_model}) > 1:
            raise InputError(
                f"{name}: expected trainings evaluated with the same number of bins, got "
                f"{' and '.join(map(str, sorted(bins)))}"
            )
    roi = _common_roi(trainings)
    classes = _common_classes(trainings)
    cases = sorted(set.intersection(*(_cases(t) for _, t in trainings)))
    if not cases:
        raise InputError(f"{', '.join(models)}: expected cases that all of them have, found none")
    if chosen is not None:
        if unknown := sorted(set(chosen) - set(cases)) or ([] if chosen else ["at least one"]):
            raise InputError(f"cases: expected cases that all models have, got {unknown[0]}")
        cases = sorted(set(chosen))

    summary: dict[str, Any] = {name: {} for name in models}
    differences: dict[str, Any] = {name: {} for name in others}
    for key in classes:
        for metric in _common_metrics(trainings, key):
            values = {
                name: values_of_trainings(of_model, cases, key, metric)
                for name, of_model in models.items()
            }
            per_case = {name: mean_of_defined(array) for name, array in values.items()}
            for name in models:
                summary[name].setdefault(key, {})[metric] = {
                    **over_cases(per_case[name].tolist()),
                    "training_std": _training_std(values[name]),
                }
            for name in others:
                difference = _compared(metric, per_case[name]) - _compared(metric, per_case[first])
                differences[name].setdefault(key, {})[metric] = paired_difference(
                    difference, tested=CATALOGUE[metric].better is not Better.NEITHER
                )
    _correct(differences)
    keys = [key for key in classes if {"dice", "brier_plus"} <= set(summary[first][key])]
    not_segmented = {name: _not_segmented(t, cases, keys) for name, t in models.items()}
    optimistic_models = _optimistic(models, cases)
    of_files = [(name, line) for name, t in trainings for line in file_notes(t)]
    return Comparison(
        roi=roi,
        models=tuple(models),
        n_trainings={name: len(of_model) for name, of_model in models.items()},
        classes=classes,
        cases=tuple(cases),
        summary=summary,
        differences=differences,
        not_segmented={name: found for name, found in not_segmented.items() if found},
        optimistic=frozenset(optimistic_models),
        warnings=(
            *of_models([*notes, *of_files]),
            *optimistic_models.values(),
            *_warnings(trainings, cases),
        ),
        evaluations=models,
    )


def _compared(metric: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values to compare case by case; their distance to 1 if 1 is the metric's best value."""
    return np.abs(values - 1) if CATALOGUE[metric].better is Better.NEAR_ONE else values


def _common_roi(trainings: _Trainings) -> str:
    rois = [(name, t.roi) for name, t in trainings]
    if len({roi for _, roi in rois}) > 1:
        raise InputError(
            "expected models evaluated over the same voxels, got "
            + ", ".join(f"{name} over {roi}" for name, roi in dict.fromkeys(rois))
        )
    return rois[0][1]


def _common_classes(trainings: _Trainings) -> dict[str, str]:
    first = dict(trainings[0][1].classes)
    for name, training in trainings[1:]:
        if list(training.classes) != list(first):
            raise InputError(
                f"{name}: expected the classes of {trainings[0][0]}, {', '.join(first)}, got "
                f"{', '.join(training.classes)}"
            )
    if not any(t.is_region_based for _, t in trainings):
        first[TOP_LABEL] = "all classes"
    return first


def _common_metrics(trainings: _Trainings, key: str) -> list[str]:
    found = [list(t.cases[0].rois[t.roi].metrics(key)) for _, t in trainings]
    return [metric for metric in found[0] if all(metric in other for other in found)]


def _cases(training: Evaluation) -> set[str]:
    return {case.case for case in training.cases}


def _training_std(values: NDArray[np.float64]) -> float:
    means = mean_of_defined(values.T)
    means = means[~np.isnan(means)]
    return float(means.std(ddof=1)) if len(means) > 1 else math.nan


def _not_segmented(
    trainings: Sequence[Evaluation], cases: Sequence[str], keys: Sequence[str]
) -> dict[str, int]:
    """Class key: number of trainings that do not segment it, without classes where it is 0."""
    found = {}
    for key in keys:
        dice, brier_plus = (
            values_of_trainings(trainings, cases, key, metric) for metric in ("dice", "brier_plus")
        )
        found[key] = sum(map(bool, map(cases_not_segmented, dice, brier_plus)))
    return {key: n for key, n in found.items() if n}


_Differences: TypeAlias = "dict[str, dict[str, dict[str, dict[str, Any]]]]"


def _correct(differences: dict[str, Any]) -> None:
    """Fill in ``p_holm`` and ``p_holm_smallest`` of the tests that tables show."""
    family = [test for test in shown_tests(differences) if not math.isnan(test["p"])]
    # Lowering a p never raises a corrected one: the smallest possible p give the smallest p_holm.
    for name, corrected in (("p", "p_holm"), ("p_smallest", "p_holm_smallest")):
        for test, value in zip(family, holm([t[name] for t in family]), strict=True):
            test[corrected] = value


def _warnings(trainings: _Trainings, cases: Sequence[str]) -> list[str]:
    lines = []
    for i, (name, training) in enumerate(trainings):
        if twins := [other for other, t in trainings[:i] if _same_numbers(t, training)]:
            whose = "another" if twins[0] == name else f"a training of {twins[0]}"
            lines.append(
                f"{name}: one training has the same numbers as {whose}; was the same folder given "
                f"twice?"
            )
        if missing := sorted(_cases(training) - set(cases)):
            lines.append(
                f"{name}: {len(missing)} of its {len(missing) + len(cases)} cases are not in all "
                f"models and left out, except from risk-coverage curves: {named(missing)}"
            )
    lines += _other_files(trainings, cases)
    names = [(name, ", ".join(t.classes.values())) for name, t in trainings]
    if len({text for _, text in names}) > 1:
        said = "; ".join(f"{name} {text}" for name, text in dict.fromkeys(names))
        lines.append(f"classes are not called the same: {said}")
    for setting in _SETTINGS:
        values = [(name, str(t.settings[setting])) for name, t in trainings]
        if len({value for _, value in values}) > 1:
            said = ", ".join(f"{name} {value}" for name, value in dict.fromkeys(values))
            lines.append(f"{setting} is not the same: {said}")
    return lines


def _same_numbers(one: Evaluation, other: Evaluation) -> bool:
    """Whether two evaluations have equal numbers; undefined ones count as equal."""

    def numbers(evaluation: Evaluation) -> Any:
        rois = [(case.case, case.rois[evaluation.roi]) for case in evaluation.cases]
        return nan_to_none([(case, r.classes, r.top_label) for case, r in rois])

    return numbers(one) == numbers(other)


def _other_files(trainings: _Trainings, cases: Sequence[str]) -> list[str]:
    """Warnings about models evaluated with other references or masks than the first one."""
    (first, of_first), *others = trainings
    roles = {"reference": "against other references"}
    if (roi := of_first.roi).startswith("mask:"):
        roles[roi] = "inside other masks"
    lines = []
    for name, training in others:
        mine, theirs = training.files, of_first.files
        for role, words in roles.items():
            if differ := [c for c in cases if mine[c].get(role) != theirs[c].get(role)]:
                lines.append(
                    f"{name} was evaluated {words} than {first} in {len(differ)} of {len(cases)} "
                    f"cases: {named(differ)}"
                )
    return lines


def _optimistic(models: _Models, cases: Sequence[str]) -> dict[str, str]:
    """Warnings by model, for those with a calibrator that was fitted to compared cases."""
    found = {}
    for name, trainings in models.items():
        used = {
            case
            for training in trainings
            for calibrator in training.calibrators
            for case in calibrator["used_to_fit"]
        }
        if compared := sorted(used.intersection(cases)):
            line = optimistic(len(compared), len(cases))
            found[name] = f"{name}: {line} ({named(compared)})"
    return found
