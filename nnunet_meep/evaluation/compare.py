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

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.evaluate import SCHEMA as RESULT_SCHEMA
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, CLASS_TABLE, TOP_LABEL_TABLE, Better
from nnunet_meep.evaluation.metrics.scores import cases_not_segmented
from nnunet_meep.evaluation.metrics.statistics import holm, over_cases, paired_difference
from nnunet_meep.evaluation.notes import named
from nnunet_meep.evaluation.result_format import malformed_result, malformed_settings
from nnunet_meep.nnunet_files.calibrated import optimistic

SCHEMA = 3
TOP_LABEL = "top_label"
SIGNIFICANT = 0.05
_LARGEST = np.finfo(np.float64).max
NOT_SEGMENTED = "not segmented"
#: Settings without which numbers are not about the same thing.
_SETTINGS = ("bins", "surface", "segmentation", "version")
#: What a result has.
_PARTS = {
    *("settings", "network", "calibrators", "classes", "cases", "not_predicted", "skipped"),
    *("incomplete_folds", "files", "origin", "by_roi"),
}


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


#: What ``meep-calib-eval`` writes.
RESULT = "calibration.json"


class NoResult(InputError):
    """There is no result of ``meep-calib-eval``."""


class OtherFormat(InputError):
    """A result in a format that this version does not read; ``content`` is what was found."""

    def __init__(self, message: str, content: dict[str, Any]) -> None:
        super().__init__(message)
        self.content = content


def find_result(folder: Path) -> Path | None:
    """The ``calibration.json`` in a folder, or in ``calibration`` in it, if there is one."""
    candidates = [folder / RESULT, folder / "calibration" / RESULT]
    return next((p for p in candidates if p.is_file()), None)


def load_result(folder: Path) -> dict[str, Any]:
    """Read the result that :func:`find_result` finds.

    Raises:
        InputError: there is none, or it is not one that this version reads.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder with a result of meep-calib-eval, found none"
        )
    path = find_result(folder)
    if path is None:
        raise NoResult(
            f"{folder}: expected calibration.json in it or in its folder 'calibration', or "
            f"predictions with probabilities (CASE.npz), found none"
        )
    try:
        content = json.loads(path.read_bytes())
        schema, settings = content["schema"], content["settings"]
        malformed = malformed_settings(settings, complete=schema == RESULT_SCHEMA)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(
            f"{path}: expected a result of meep-calib-eval, got something else"
        ) from None
    if malformed and schema != RESULT_SCHEMA:
        raise InputError(
            f"{path}: expected a result of schema {RESULT_SCHEMA}, got {schema}; evaluate it again "
            f"with this version"
        )
    if malformed:
        raise InputError(
            f"{path}: expected a result of meep-calib-eval, got one whose settings are damaged: "
            f"{malformed}"
        )
    if schema != RESULT_SCHEMA:
        raise OtherFormat(
            f"{path}: expected a result of schema {RESULT_SCHEMA}, got {schema}; evaluate it again "
            f"with this version: {_command(settings, path.parent)}",
            content,
        )
    if missing := _PARTS - set(content):
        raise InputError(
            f"{path}: expected a result of meep-calib-eval, got one without "
            f"{', '.join(sorted(missing))}"
        )
    problem = malformed_result(content)
    for part in () if problem else (content, *content["by_roi"].values()):
        problem = problem or _damage(part)
    if problem := problem or _damaged_files(content):
        raise InputError(
            f"{path}: expected a result of meep-calib-eval, got one that is damaged: {problem}"
        )
    return content


def _command(settings: dict[str, Any], output: Path) -> str:
    """The command that made a result, or one much like it."""
    folders = settings["pred_folder"]
    words = ["meep-calib-eval", settings["gt_folder"]]
    words += [folders] if isinstance(folders, str) else folders
    words += ["-o", str(output)]
    for name, flag in (("dataset_json", "-djfile"), ("plans_json", "-pfile"), ("bins", "--bins")):
        words += [flag, str(settings[name])] if settings.get(name) else []
    if settings.get("segmentation") == "argmax":
        words += ["--segmentation", "argmax"]
    words += ["--no-surface"] * (settings.get("surface") is False)
    words += ["--chill"] * (settings.get("chill") is True)
    if rois := settings.get("rois"):
        words += ["--roi", *rois]
    return shlex.join(map(str, words))


def _damaged_files(content: dict[str, Any]) -> str:
    """What is wrong with what a result says of its files, if anything is."""
    try:
        of_cases = content["files"]["cases"]
        if set(of_cases) != {case["case"] for case in content["cases"]}:
            return "other cases in its files"
        for case, identities in of_cases.items():
            if not {"probabilities", "reference"} <= set(identities):
                return f"no files of {case}"
    except (KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__} {error}"
    return ""


def _damage(part: dict[str, Any]) -> str:
    """What is wrong with the cases of an ROI, if anything is."""
    try:
        keys, cases = list(part["classes"]), part["cases"]
        names = [case["case"] for case in cases]
        if not names or len(set(names)) < len(names):
            return "no case, or a case twice"
        for case in cases:
            if bool(part.get("top_label")) != bool(case.get("top_label")):
                return f"no top label, or one alone, in {case['case']}"
            entries, first = (
                [
                    *(c["classes"][key] for key in keys),
                    *([c["top_label"]] if c.get("top_label") else []),
                ]
                for c in (case, cases[0])
            )
            for entry, expected in zip(entries, first, strict=True):
                if list(entry) != list(expected):
                    return f"other metrics in {case['case']}"
            if not all(map(_is_number, (v for e in entries for v in e.values()))):
                return f"{case['case']} has what is no number"
            for key, bins in case.get("bins", {}).items():
                pooled = part["top_label"] if key == TOP_LABEL else part["classes"][key]
                n_bins = len(pooled["pooled"]["bins"]["count"])
                if any(len(bins[name]) != n_bins for name in ("count", "mean_p", "mean_y")):
                    return f"other bins in {case['case']}"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return f"{type(error).__name__} {error}"
    return ""


def _is_number(value: Any) -> bool:
    """A number that float64 can hold, or None for one that does not exist."""
    return value is None or (isinstance(value, int | float) and abs(value) <= _LARGEST)


def in_roi(result: dict[str, Any], roi: str | None, source: Path) -> dict[str, Any]:
    """A result as if it had been evaluated over one of its ROIs alone.

    Args:
        result: content of a ``calibration.json``.
        roi: name of the ROI; None: the first one.
        source: what is named in errors.

    Raises:
        InputError: it was not evaluated over that roi.
    """
    rois = result["settings"]["rois"]
    if roi is None or roi == rois[0]:
        return result
    if roi not in result.get("by_roi", {}):
        raise InputError(
            f"{source}: expected a result over {roi}, got one over {', '.join(rois)}; "
            f"evaluate it again with --roi {roi}"
        )
    settings = {**result["settings"], "rois": [roi]}
    return {**result, **result["by_roi"][roi], "settings": settings}


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
