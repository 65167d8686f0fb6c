"""Compare models on the same cases: tables, differences, and whether they could be due to chance.

Input: evaluations of each model. Output: the metrics of each model over the cases that all models
have, and the difference between every other model and the first.

Conventions: a model may have been trained several times. Trainings that share cases repeat each
other (seeds); those that share none are folds. Within a fold the cases are those that all its
trainings have, and the cases of a model are those of all its folds. Its value for a case is the
mean over the trainings that have the case and in which the metric is defined, as the paper averages
over three. The spread over trainings is the standard deviation of their means over cases; for folds
it contains the spread of their cases.

Differences are paired by case: mean, BCa bootstrap interval over cases, Wilcoxon signed-rank test.
Both take the trainings as they are. A second interval is over trainings and cases
(:func:`.interval_over_trainings`); it tells whether other trainings would give the same. For models
that were all trained once it is the same as the first.

Metrics without a best value are not tested. Among many tests some are significant by chance, so p
is corrected with Holm's method; the family is all tests that the tables show, over all classes and
models. The few means over the foreground that the short verdict is about are a family of their own.

With n pairs, p cannot be below 2^(1 - n), and Holm's method multiplies the smallest p by the number
of tests. If that exceeds 0.05, a large p means that n is small, not that the models are equal.

A network that never segments a class can still have the lowest ECE and Brier score for it. A class
counts as not segmented if, in any training of the model, Dice is 0 in every case whose reference
has the class. The model then cannot be the best for that class or for the top label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.comparison import (
    FOREGROUND,
    HEADLINE,
    Comparison,
    not_segmenting,
    shown_tests,
)
from nnunet_meep.evaluation.folds import Folds
from nnunet_meep.evaluation.model_statistics import Model, correct, rankings, tables
from nnunet_meep.evaluation.notes import counted, file_notes, named, of_models
from nnunet_meep.evaluation.result_format import TOP_LABEL, nan_to_none
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.nnunet_files.calibrated import optimistic

#: Settings that should be the same for all models; a warning names those that differ.
_SETTINGS = ("bins", "surface", "tolerance_mm", "lesions", "segmentation", "version")
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
        models: by name, the evaluation of each model, or the evaluations of its trainings: seeds,
            which have the same cases and are averaged per case, folds, which have none in common,
            or both. The others are compared with the first model.
        roi: name of the ROI; None: the first one of each evaluation.
        cases: names of the cases to compare; None: all that the models have in common.
        notes: further warnings about the models: (name, line).

    Raises:
        InputError: there is no model; the models have no ROI, class or case in common; or some
            trainings of a model share cases, but all that do so have none in common.

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
    over: dict[int, Evaluation] = {}  # one evaluation may be given under two names
    for name, given in models.items():
        trainings = (given,) if isinstance(given, Evaluation) else tuple(given or ())
        if not trainings or not all(isinstance(t, Evaluation) for t in trainings):
            raise InputError(
                f"{name}: expected an Evaluation or a list of them, got {type(given).__name__}"
            )
        try:
            over |= {id(t): t.over(roi) for t in trainings if id(t) not in over}
            given_models[name] = tuple(over[id(training)] for training in trainings)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    if not given_models:
        raise InputError("models: expected at least one, got none")
    return _compare(given_models, cases, notes)


def _compare(
    models: _Models, chosen: Sequence[str] | None, notes: Sequence[tuple[str, str]]
) -> Comparison:
    first = next(iter(models))
    trainings = [(name, t) for name, of_model in models.items() for t in of_model]
    for name, of_model in models.items():
        if len(bins := {t.settings["bins"] for t in of_model}) > 1:
            raise InputError(
                f"{name}: expected trainings evaluated with the same number of bins, got "
                f"{' and '.join(map(str, sorted(bins)))}"
            )
    roi = _common_roi(trainings)
    classes = _common_classes(trainings)
    folds = {name: Folds.of(name, of_model) for name, of_model in models.items()}
    common = _common_cases(folds)
    cases = common if chosen is None else _chosen(chosen, common)
    # Before trainings are left out, so that their cases are named.
    of_cases = _warnings(trainings, cases, common)
    compared = {}
    for name, of_model in models.items():
        its_folds, kept = folds[name].with_cases(cases)
        compared[name] = Model(tuple(of_model[i] for i in kept), its_folds)
        if n := len(of_model) - len(kept):
            of_cases.append(f"{name}: {counted(n, 'training')} without a compared case left out")
    of_cases += _other_folds(compared)
    given, models = models, {name: model.trainings for name, model in compared.items()}

    metrics = {key: _common_metrics(trainings, key) for key in classes}
    summary, differences = tables(compared, cases, metrics)
    correct(list(shown_tests(differences)))
    headline, headline_differences = tables(compared, cases, _headline(metrics))
    of_headline = [keys.values() for keys in headline_differences.values()]
    correct([test for keys in of_headline for tests in keys for test in tests.values()])
    keys = [key for key in classes if {"dice", "brier_plus"} <= set(summary[first][key])]
    not_segmented = {name: _not_segmented(t, cases, keys) for name, t in models.items()}
    optimistic_models = _optimistic(models, cases)
    of_files = [
        (name, line)
        for name, of_model in given.items()
        for training in of_model
        for line in file_notes(_without_others(training, folds[name]))
    ]
    return Comparison(
        roi=roi,
        models=tuple(models),
        n_trainings={name: len(model.trainings) for name, model in compared.items()},
        n_folds={name: model.folds.n for name, model in compared.items()},
        classes=classes,
        cases=tuple(cases),
        summary=summary,
        differences=differences,
        headline=headline,
        headline_differences=headline_differences,
        ranking=rankings(compared, cases, metrics),
        not_segmented={name: found for name, found in not_segmented.items() if found},
        optimistic=frozenset(optimistic_models),
        warnings=(
            *of_models([*notes, *of_files]),
            *optimistic_models.values(),
            *of_cases,
        ),
        evaluations=models,
    )


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


def _common_cases(folds: Mapping[str, Folds]) -> list[str]:
    cases = sorted(set.intersection(*(set(f.of_case) for f in folds.values())))
    if not cases:
        raise InputError(f"{', '.join(folds)}: expected cases that all of them have, found none")
    return cases


def _chosen(chosen: Sequence[str], cases: Sequence[str]) -> list[str]:
    if unknown := sorted(set(chosen) - set(cases)) or ([] if chosen else ["at least one"]):
        raise InputError(f"cases: expected cases that all models have, got {unknown[0]}")
    return sorted(set(chosen))


def _common_metrics(trainings: _Trainings, key: str) -> list[str]:
    found = [list(t.cases[0].rois[t.roi].metrics(key)) for _, t in trainings]
    return [metric for metric in found[0] if all(metric in other for other in found)]


def _cases(training: Evaluation) -> set[str]:
    return {case.case for case in training.cases}


def _not_segmented(
    trainings: Sequence[Evaluation], cases: Sequence[str], keys: Sequence[str]
) -> dict[str, int]:
    """Class key: number of trainings that do not segment it, without classes where it is 0."""
    found = {key: len(not_segmenting(trainings, cases, key)) for key in keys}
    return {key: n for key, n in found.items() if n}


def _without_others(training: Evaluation, folds: Folds) -> Evaluation:
    """An evaluation of a fold that does not miss predictions of the cases of other folds."""
    others = set(folds.of_case) - _cases(training)
    incomplete = []
    for fold in training.incomplete_folds:
        missing = [case for case in fold["missing"] if case not in others]
        if fold["evaluated"] or missing == fold["missing"]:  # else another training is this fold
            incomplete.append({**fold, "missing": missing})
    return replace(
        training,
        not_predicted=[case for case in training.not_predicted if case not in others],
        incomplete_folds=[fold for fold in incomplete if fold["missing"]],
    )


def _headline(metrics: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The metrics of the headline by key, as far as all models have them."""
    of_classes = [set(of_key) for key, of_key in metrics.items() if key != TOP_LABEL]
    there = {FOREGROUND: set.intersection(*of_classes)}
    if TOP_LABEL in metrics:
        there[TOP_LABEL] = set(metrics[TOP_LABEL])
    return {
        key: [m for k, m in HEADLINE if k == key and m in found] for key, found in there.items()
    }


def _warnings(trainings: _Trainings, cases: Sequence[str], common: Sequence[str]) -> list[str]:
    """Lines on what is wrong with the trainings.

    Args:
        trainings: of all models, each with the name of its model.
        cases: the compared cases.
        common: the cases that all models have.
    """
    lines = []
    for i, (name, training) in enumerate(trainings):
        before = [(other, t) for other, t in trainings[:i] if other == name or t is not training]
        if twins := [other for other, t in before if _same_numbers(t, training)]:
            whose = "another" if twins[0] == name else f"a training of {twins[0]}"
            lines.append(
                f"{name}: one training has the same numbers as {whose}; was the same folder given "
                f"twice?"
            )
        its_cases = _cases(training)
        if (missing := sorted(its_cases - set(common))) and len(missing) < len(its_cases):
            lines.append(
                f"{name}: {len(missing)} of its {len(its_cases)} cases are not in all models and "
                f"left out, except from risk-coverage curves: {named(missing)}"
            )
        network = training.network
        n_folds = 1 if network.averaged else len(network.folds)
        if (n := max(n_folds, len(training.sources.pred_folders))) > 1:
            lines.append(
                f"{name}: one result over {n} folds counts as one training; for intervals over "
                f"trainings and cases, evaluate each fold on its own"
            )
    lines += _other_files(trainings, cases)
    lines += _other_crops(trainings, cases)
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


def _other_folds(models: Mapping[str, Model]) -> list[str]:
    """Warnings about models whose folds are neither those of the first one nor parts of them."""
    (first, of_first), *others = models.items()
    return [
        f"{name} was tested in other folds than {first}: intervals over trainings and cases may be "
        f"too narrow"
        for name, model in others
        if model.folds.differ(of_first.folds)
    ]


def _same_numbers(one: Evaluation, other: Evaluation) -> bool:
    """Whether two evaluations have equal numbers; undefined ones count as equal."""

    def numbers(evaluation: Evaluation) -> Any:
        rois = [(case.case, case.rois[evaluation.roi]) for case in evaluation.cases]
        return nan_to_none([(case, r.classes, r.top_label) for case, r in rois])

    equal: bool = numbers(one) == numbers(other)
    return equal


def _other_crops(trainings: _Trainings, cases: Sequence[str]) -> list[str]:
    """Warnings about models whose predictions have another padding than those of the first one."""

    def n_voxels(training: Evaluation) -> dict[str, float]:
        rois = {case.case: case.rois[training.roi] for case in training.cases}
        return {case: sum(next(iter(roi.bins.values()))["count"]) for case, roi in rois.items()}

    first, of_first = trainings[0]
    if of_first.roi != "crop":
        return []
    theirs: dict[str, float] = {}
    for training in (t for name, t in trainings if name == first):
        theirs = {**n_voxels(training), **theirs}
    lines = []
    for name, training in trainings[1:]:
        mine = n_voxels(training)
        its_cases = [case for case in cases if case in mine]
        if differ := [case for case in its_cases if mine[case] != theirs.get(case)]:
            lines.append(
                f"{name} has another padding than {first} in {len(differ)} of {len(its_cases)} "
                f"cases, so that other voxels were evaluated: {named(differ)}"
            )
    return lines


def _other_files(trainings: _Trainings, cases: Sequence[str]) -> list[str]:
    """Warnings about models evaluated with other references or masks than the first one."""
    # Each case of the first model, and of the others, as its first training has it.
    first, of_first = trainings[0]
    theirs = {c: t.files[c] for name, t in reversed(trainings) if name == first for c in t.files}
    roles = {"reference": "against other references"}
    if (roi := of_first.roi).startswith("mask:"):
        roles[roi] = "inside other masks"
    lines = []
    for name, training in trainings[1:]:
        mine = training.files
        its_cases = [case for case in cases if case in mine]
        for role, words in roles.items():
            if differ := [c for c in its_cases if mine[c].get(role) != theirs[c].get(role)]:
                lines.append(
                    f"{name} was evaluated {words} than {first} in {len(differ)} of "
                    f"{len(its_cases)} cases: {named(differ)}"
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
