"""Several models on the same cases: tables, differences and whether they could be chance.

Task: from what ``meep-calib-eval`` wrote of each model (``calibration.json``), the metrics of each
model over the cases that all of them have, and the difference of every other model to the first.

Conventions: a model may have been trained several times (seeds). Its value of a case is the mean
over the trainings, as the paper averages its three, those in which it is undefined left out; the
spread over trainings is the standard deviation of their means over cases. Differences are paired by
case: mean, BCa bootstrap interval over cases, Wilcoxon's signed-rank test. Metrics of which no
value is better than another are not tested. With many tests some difference is always there by
chance, so that p is corrected by Holm; the family is the tests that tables show, of all classes and
models.

With n pairs the test cannot give a p below 2^(1 - n), and Holm multiplies it by the number of
tests. Where that is above 0.05 a large p says that n is small, not that there is no difference.

A network that segments nothing of a class may well have the lowest ECE and Brier score of it. A
class with Dice 0 in every case whose reference has it, in any training of a model, is not
segmented: the model is no candidate for the best of that class or of the top label.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, CLASS_TABLE, TOP_LABEL_TABLE, Better
from nnunet_meep.evaluation.metrics.scores import cases_not_segmented
from nnunet_meep.evaluation.metrics.statistics import holm, over_cases, paired_difference
from nnunet_meep.evaluation.notes import named
from nnunet_meep.evaluation.results import TOP_LABEL
from nnunet_meep.nnunet_files.calibrated import optimistic

SCHEMA = 3
SIGNIFICANT = 0.05
NOT_SEGMENTED = "not segmented"
#: Settings without which numbers are not about the same thing.
_SETTINGS = ("bins", "surface", "segmentation", "version")


@dataclass(frozen=True)
class Model:
    """What was evaluated of one model.

    Attributes:
        name: as in tables.
        trainings: content of the ``calibration.json`` of each training.
    """

    name: str
    trainings: tuple[dict[str, Any], ...]

    def values_of_trainings(
        self, cases: Sequence[str], key: str, metric: str
    ) -> NDArray[np.float64]:
        """A metric of some cases, NaN where undefined, (trainings, cases)."""
        rows = []
        for training in self.trainings:
            by_case = {case["case"]: case for case in training["cases"]}
            rows.append([_of_class(by_case[case], key)[metric] for case in cases])
        return np.array(rows, np.float64)  # None becomes NaN

    def values(self, cases: Sequence[str], key: str, metric: str) -> NDArray[np.float64]:
        """A metric of some cases: its mean over the trainings in which it is defined, (cases,)."""
        return _mean_of_defined(self.values_of_trainings(cases, key, metric))


@dataclass(frozen=True)
class Comparison:
    """Models compared over the cases that all of them have.

    Attributes:
        roi: which voxels count, as ``meep-calib-eval`` names it.
        models: names, in the order given; the first one is what the others are compared with.
        n_trainings: of each model.
        classes: class key (``top_label`` too): name.
        cases: names of the common cases.
        summary: model, class key, metric: what :func:`.metrics.over_cases` gives, and
            ``training_std``, the standard deviation over trainings (NaN for a single one).
        differences: other model, class key, metric: ``mean``, ``ci95``, ``n`` of the difference to
            the first model over the cases where both are defined (of metrics of which 1 is best,
            the difference of their distances to 1), ``p`` (Wilcoxon; NaN where not tested),
            ``p_holm`` (corrected for the ``n_tests`` of the tables; NaN where these do not show
            it), and the smallest values that these two could have with so many pairs,
            ``p_smallest`` and ``p_holm_smallest``.
        not_segmented: model, class key: in how many of its trainings Dice is 0 in every case whose
            reference has the class; without models and classes of which there is none.
        optimistic: models with a calibrator that was fitted to some of the compared cases.
        warnings: what makes the models less comparable, one line each.
    """

    roi: str
    models: tuple[str, ...]
    n_trainings: dict[str, int]
    classes: dict[str, str]
    cases: tuple[str, ...]
    summary: dict[str, dict[str, dict[str, dict[str, Any]]]]
    differences: dict[str, dict[str, dict[str, dict[str, Any]]]]
    not_segmented: dict[str, dict[str, int]]
    optimistic: frozenset[str]
    warnings: tuple[str, ...]

    @property
    def n_tests(self) -> int:
        """How many tests p was corrected for."""
        return sum(not math.isnan(test["p_holm"]) for test in _tests(self.differences))

    def segments(self, model: str, key: str) -> bool:
        """Whether all trainings of a model segment a class, or all classes for the top label."""
        missing = self.not_segmented.get(model, {})
        return not missing if key == TOP_LABEL else key not in missing

    def best(self, key: str, metric: str) -> set[str]:
        """The models with the best mean of a metric, among those that segment the class.

        None if no value is better than another.
        """
        if CATALOGUE[metric].better is Better.NEITHER:
            return set()
        candidates = [m for m in self.models if self.segments(m, key)]
        means = {m: self.summary[m][key][metric]["mean"] for m in candidates}
        loss = {m: _loss(metric, value) for m, value in means.items() if not math.isnan(value)}
        return {m for m, value in loss.items() if value == min(loss.values())}

    def verdict(self, model: str, key: str, metric: str) -> str:
        """``better`` or ``worse`` than the first model, ``""`` if p >= 0.05 after correction.

        By the sign of the mean difference, where Wilcoxon's test, which is one of ranks, sees one.
        ``not segmented`` where one of the two models does not segment the class.
        """
        if not (self.segments(model, key) and self.segments(self.models[0], key)):
            return NOT_SEGMENTED
        test = self.differences[model][key][metric]
        if not test["p_holm"] < SIGNIFICANT or not test["mean"]:
            return ""
        better = (test["mean"] > 0) == (CATALOGUE[metric].better is Better.HIGHER)
        return "better" if better else "worse"

    def to_dict(self) -> dict[str, Any]:
        """The content of ``comparison.json``, with NaN where a number does not exist."""
        return {
            "schema": SCHEMA,
            "roi": self.roi,
            "models": list(self.models),
            "n_trainings": self.n_trainings,
            "classes": self.classes,
            "cases": list(self.cases),
            "summary": self.summary,
            "differences": self.differences,
            "n_tests": self.n_tests,
            "not_segmented": self.not_segmented,
            "optimistic": sorted(self.optimistic),
            "warnings": list(self.warnings),
        }


def compare(models: Sequence[Model], notes: Sequence[str] = ()) -> Comparison:
    """Compare models over the cases that all of them have.

    Args:
        models: at least one; the first one is what the others are compared with.
        notes: what else makes them less comparable, one line each.

    Raises:
        InputError: a name is there twice, or the models have no ROI, class or case in common.
    """
    names = [m.name for m in models]
    refuse_names_twice(names)
    trainings = [(m.name, t) for m in models for t in m.trainings]
    for m in models:
        if len(bins := {t["settings"]["bins"] for t in m.trainings}) > 1:
            raise InputError(
                f"{m.name}: expected trainings evaluated with as many bins, got "
                f"{' and '.join(map(str, sorted(bins)))}"
            )
    roi = _common_roi(trainings)
    classes = _common_classes(trainings)
    cases = sorted(set.intersection(*(_cases(t) for _, t in trainings)))
    if not cases:
        raise InputError(f"{', '.join(names)}: expected cases that all of them have, found none")

    summary: dict[str, Any] = {m.name: {} for m in models}
    differences: dict[str, Any] = {m.name: {} for m in models[1:]}
    for key in classes:
        for metric in _common_metrics(trainings, key):
            per_case = {m.name: m.values(cases, key, metric) for m in models}
            for m in models:
                summary[m.name].setdefault(key, {})[metric] = {
                    **over_cases(per_case[m.name].tolist()),
                    "training_std": _training_std(m.values_of_trainings(cases, key, metric)),
                }
            for m in models[1:]:
                difference = _compared(metric, per_case[m.name]) - _compared(
                    metric, per_case[names[0]]
                )
                differences[m.name].setdefault(key, {})[metric] = paired_difference(
                    difference, tested=CATALOGUE[metric].better is not Better.NEITHER
                )
    _correct(differences)
    keys = [key for key in classes if {"dice", "brier_plus"} <= set(summary[names[0]][key])]
    optimistic_models = _optimistic(models, cases)
    return Comparison(
        roi=roi,
        models=tuple(names),
        n_trainings={m.name: len(m.trainings) for m in models},
        classes=classes,
        cases=tuple(cases),
        summary=summary,
        differences=differences,
        not_segmented={m.name: found for m in models if (found := _not_segmented(m, cases, keys))},
        optimistic=frozenset(optimistic_models),
        warnings=(*notes, *optimistic_models.values(), *_warnings(trainings, cases)),
    )


def shown(key: str, metrics: Iterable[str]) -> list[str]:
    """The metrics that tables show of a class, or of the top label, of those that there are."""
    there = set(metrics)
    return [m for m in (TOP_LABEL_TABLE if key == TOP_LABEL else CLASS_TABLE) if m in there]


def refuse_names_twice(names: Sequence[str]) -> None:
    """Raise an ``InputError`` if two models have the same name."""
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise InputError(
            f"{twice[0]}: expected each name once, got it {names.count(twice[0])} times"
        )


def _compared(metric: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is compared case by case: the value, or its distance to 1 where that is best."""
    return np.abs(values - 1) if CATALOGUE[metric].better is Better.NEAR_ONE else values


def _loss(metric: str, value: float) -> float:
    better = CATALOGUE[metric].better
    if better is Better.NEAR_ONE:
        return abs(value - 1)
    return -value if better is Better.HIGHER else value


def _common_roi(trainings: Sequence[tuple[str, dict[str, Any]]]) -> str:
    rois = [(name, t["settings"]["rois"][0]) for name, t in trainings]
    if len({roi for _, roi in rois}) > 1:
        raise InputError(
            "expected models evaluated over the same voxels, got "
            + ", ".join(f"{name} over {roi}" for name, roi in dict.fromkeys(rois))
        )
    return rois[0][1]


def _common_classes(trainings: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    first = {key: entry["name"] for key, entry in trainings[0][1]["classes"].items()}
    for name, training in trainings[1:]:
        if list(training["classes"]) != list(first):
            raise InputError(
                f"{name}: expected the classes of {trainings[0][0]}, {', '.join(first)}, got "
                f"{', '.join(training['classes'])}"
            )
    if all(t.get("top_label") for _, t in trainings):
        first[TOP_LABEL] = "all classes"
    return first


def _common_metrics(trainings: Sequence[tuple[str, dict[str, Any]]], key: str) -> list[str]:
    found = [list(_of_class(t["cases"][0], key)) for _, t in trainings]
    return [metric for metric in found[0] if all(metric in other for other in found)]


def _cases(training: dict[str, Any]) -> set[str]:
    return {case["case"] for case in training["cases"]}


def _of_class(case: dict[str, Any], key: str) -> dict[str, float | None]:
    return case["top_label"] if key == TOP_LABEL else case["classes"][key]


def _mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis, NaN left out; NaN where all are."""
    defined = ~np.isnan(values)
    n = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)


def _training_std(values: NDArray[np.float64]) -> float:
    means = _mean_of_defined(values.T)
    means = means[~np.isnan(means)]
    return float(means.std(ddof=1)) if len(means) > 1 else math.nan


def _not_segmented(model: Model, cases: Sequence[str], keys: Sequence[str]) -> dict[str, int]:
    """Class key: number of trainings that do not segment it, of those of which there is one."""
    found = {}
    for key in keys:
        dice, brier_plus = (
            model.values_of_trainings(cases, key, metric) for metric in ("dice", "brier_plus")
        )
        found[key] = sum(map(bool, map(cases_not_segmented, dice, brier_plus)))
    return {key: n for key, n in found.items() if n}


_Differences: TypeAlias = "dict[str, dict[str, dict[str, dict[str, Any]]]]"


def _tests(differences: _Differences) -> Iterator[dict[str, Any]]:
    """All that tables show."""
    for keys in differences.values():
        for key, metrics in keys.items():
            yield from (metrics[metric] for metric in shown(key, metrics))


def _correct(differences: _Differences) -> None:
    """Fill in ``p_holm`` and ``p_holm_smallest`` of the tests that tables show."""
    family = [test for test in _tests(differences) if not math.isnan(test["p"])]
    # No corrected p grows where one of the family falls, so that the smallest p give the smallest.
    for name, corrected in (("p", "p_holm"), ("p_smallest", "p_holm_smallest")):
        for test, value in zip(family, holm([t[name] for t in family]), strict=True):
            test[corrected] = value


def _warnings(trainings: Sequence[tuple[str, dict[str, Any]]], cases: Sequence[str]) -> list[str]:
    lines = []
    for i, (name, training) in enumerate(trainings):
        if twins := [other for other, t in trainings[:i] if t["cases"] == training["cases"]]:
            whose = "another" if twins[0] == name else f"a training of {twins[0]}"
            lines.append(
                f"{name}: one training has every number of {whose}; is it the same folder twice?"
            )
        if missing := sorted(_cases(training) - set(cases)):
            lines.append(
                f"{name}: {len(missing)} of its {len(missing) + len(cases)} cases are not in all "
                f"models and left out, except from risk-coverage curves: {named(missing)}"
            )
    lines += _other_files(trainings, cases)
    names = [(name, ", ".join(e["name"] for e in t["classes"].values())) for name, t in trainings]
    if len({text for _, text in names}) > 1:
        said = "; ".join(f"{name} {text}" for name, text in dict.fromkeys(names))
        lines.append(f"classes are not called the same: {said}")
    for setting in _SETTINGS:
        values = [(name, str(t["settings"].get(setting))) for name, t in trainings]
        if len({value for _, value in values}) > 1:
            said = ", ".join(f"{name} {value}" for name, value in dict.fromkeys(values))
            lines.append(f"{setting} is not the same: {said}")
    return lines


def _other_files(
    trainings: Sequence[tuple[str, dict[str, Any]]], cases: Sequence[str]
) -> list[str]:
    """Who was evaluated against other references, or inside other masks, than the first one."""
    (first, of_first), *others = trainings
    roles = {"reference": "against other references"}
    if (roi := of_first["settings"]["rois"][0]).startswith("mask:"):
        roles[roi] = "inside other masks"
    lines = []
    for name, training in others:
        mine, theirs = training["files"]["cases"], of_first["files"]["cases"]
        for role, words in roles.items():
            if differ := [c for c in cases if mine[c].get(role) != theirs[c].get(role)]:
                lines.append(
                    f"{name} was evaluated {words} than {first} in {len(differ)} of {len(cases)} "
                    f"cases: {named(differ)}"
                )
    return lines


def _optimistic(models: Sequence[Model], cases: Sequence[str]) -> dict[str, str]:
    """Models with a calibrator that was fitted to compared cases, and what has to be said of it."""
    found = {}
    for model in models:
        used = {
            case
            for training in model.trainings
            for calibrator in training["calibrators"]
            for case in calibrator["used_to_fit"]
        }
        if compared := sorted(used.intersection(cases)):
            line = optimistic(len(compared), len(cases))
            found[model.name] = f"{model.name}: {line} ({named(compared)})"
    return found
