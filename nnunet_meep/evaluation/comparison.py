"""The result of a comparison of models: summaries, differences, tests, and its JSON content."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.case_results import RoiResult
from nnunet_meep.evaluation.metrics.case_ranking import STATISTICS
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, CLASS_TABLE, TOP_LABEL_TABLE
from nnunet_meep.evaluation.metrics.metric import Better
from nnunet_meep.evaluation.metrics.repeated import mean_of_defined
from nnunet_meep.evaluation.metrics.scores import cases_not_segmented
from nnunet_meep.evaluation.result_format import TOP_LABEL, malformed, none_to_nan
from nnunet_meep.evaluation.results import Evaluation

if TYPE_CHECKING:
    import pandas

#: The format of ``comparison.json``.
SCHEMA = 6
SIGNIFICANT = 0.05
NOT_SEGMENTED = "not segmented"
#: The key of means over all classes but background.
FOREGROUND = "foreground"
#: Key and metric of the few numbers that the short verdict is about, as far as there are any.
HEADLINE = (
    *((FOREGROUND, "dice"), (FOREGROUND, "ece"), (TOP_LABEL, "ece")),
    *((FOREGROUND, metric) for metric in ("brier", "nll", "hd95")),
)
_ENDS = ("low_trainings", "high_trainings")
_SUMMARY = (
    *("mean", "std", "median", "low", "high", *_ENDS),
    *("n", "n_undefined", "n_trainings", "training_std"),
)
_DIFFERENCE = (
    *("difference", "difference_low", "difference_high"),
    *("difference_low_trainings", "difference_high_trainings", "p", "p_holm"),
)
#: Column names of :meth:`Comparison.rows`.
COLUMNS = ("model", "roi", "class", "name", "metric", *_SUMMARY, *_DIFFERENCE)
_NUMBER = (int, float, type(None))
_INTERVALS = {"ci95": [_NUMBER], "ci95_trainings": [_NUMBER]}
_SUMMARY_KINDS = {
    **dict.fromkeys(("mean", "std", "median", "n", "n_undefined"), _NUMBER),
    **dict.fromkeys(("n_trainings", "training_std", "distance"), _NUMBER),
    **_INTERVALS,
}
_TEST_KINDS = {
    **dict.fromkeys(("mean", "n", "p", "p_holm", "p_smallest", "p_holm_smallest"), _NUMBER),
    **{"n_trainings": [int], **_INTERVALS},
}
_KINDS = {
    **{"roi": str, "models": [str], "n_trainings": dict, "n_folds": dict, "classes": dict},
    **{"cases": [str], "summary": dict, "differences": dict, "not_segmented": dict},
    **{"headline": dict, "headline_differences": dict},
    **{"ranking": dict, "optimistic": [str], "warnings": [str]},
}
_RANKING_KINDS = {
    **{"n": int, "risk": [_NUMBER]},
    **{name: {"value": _NUMBER, "ci95": [_NUMBER]} for name in STATISTICS},
}


#: By model, class key and metric: the numbers.
Table: TypeAlias = "dict[str, dict[str, dict[str, dict[str, Any]]]]"

#: A fold with fewer cases that have a class does not tell whether its training segments it.
FEW_CASES = 3


@dataclass(frozen=True)
class Comparison:
    """Models compared over the cases that all of them have.

    Attributes:
        roi: the region of interest, as ``meep-calib-eval`` names it.
        models: names, in the order given; the others are compared with the first one.
        n_trainings: number of trainings by model.
        n_folds: by model, in how many folds these trainings are. Trainings that were tested on the
            same cases (seeds) are in one fold, those without a common case are in different ones.
        classes: class names by class key, with ``top_label`` unless the classes are regions.
        cases: names of the common cases.
        summary: by model, class key and metric: the result of :func:`.over_cases`;
            ``ci95_trainings``, the 95 % interval over trainings and cases, see
            :func:`.interval_over_trainings` (that over cases for a model that was trained once);
            ``n_trainings``, the number of trainings in which the metric is defined for any case;
            ``training_std``, the standard deviation of the trainings' means over cases (NaN for a
            single one), which for folds contains the spread of their cases; ``distance``, the mean
            over cases of the distance to 1, of metrics whose best value is 1 (NaN for others).
        differences: by other model, class key and metric: ``mean``, ``ci95`` and ``n`` of the
            difference to the first model over the cases where both are defined (for metrics whose
            best value is 1, the difference between their distances to 1); ``ci95_trainings`` (that
            over cases if both were trained once); ``n_trainings`` of the other and of the first
            model; ``p`` (Wilcoxon, over cases; NaN if not tested); ``p_holm`` (corrected for the
            ``n_tests`` tests in the tables; NaN if the tables do not show it); ``p_smallest`` and
            ``p_holm_smallest``, the smallest values that these two could have with this number of
            pairs.
        headline, headline_differences: as ``summary`` and ``differences``, for the metrics in
            ``HEADLINE``: means over all classes but background, under the key ``foreground``, and
            those of the top label. ``p_holm`` is corrected for the tests of the headline alone.
        ranking: by model and class key: the result of :func:`.case_ranking`, of expected and actual
            Dice of each case, averaged over the trainings. Empty if not all models have both.
        not_segmented: by model and class key: in how many trainings Dice is 0 in every case whose
            reference has the class. Models and classes without such a training are left out.
        optimistic: models with a calibrator that was fitted to some of the compared cases.
        warnings: what makes the models less comparable, one line each.
        evaluations: by model, the evaluation of each training over ``roi`` alone, for pictures and
            single cases; empty if the comparison was read from JSON, which does not hold them.

    Example:
        >>> import nnunet_meep as nm
        >>> names = ("predictions", "predictions_meep")
        >>> comparison = nm.compare({name: nm.read_evaluation(name) for name in names})
        >>> comparison.verdict("predictions_meep", "1", "ece")  # too few cases to tell
        ''
    """

    roi: str
    models: tuple[str, ...]
    n_trainings: dict[str, int]
    n_folds: dict[str, int]
    classes: dict[str, str]
    cases: tuple[str, ...]
    summary: Table
    differences: Table
    headline: Table
    headline_differences: Table
    ranking: dict[str, dict[str, dict[str, Any]]]
    not_segmented: dict[str, dict[str, int]]
    optimistic: frozenset[str]
    warnings: tuple[str, ...]
    evaluations: Mapping[str, tuple[Evaluation, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def values(self, model: str, key: str, metric: str) -> NDArray[np.float64]:
        """A metric of each case, averaged over the trainings in which it is defined, (cases,).

        ``key``: of a class, ``top_label``, or ``foreground`` for the mean over the classes.
        """
        trainings = self.evaluations[model]
        return mean_of_defined(values_of_trainings(trainings, self.cases, key, metric))

    @property
    def n_tests(self) -> int:
        """The number of tests that p was corrected for."""
        return sum(not math.isnan(test["p_holm"]) for test in shown_tests(self.differences))

    def segments(self, model: str, key: str) -> bool:
        """Whether all trainings of a model segment a class.

        For the top label and the mean over the foreground: whether they segment all classes.
        """
        missing = self.not_segmented.get(model, {})
        return not missing if key in (TOP_LABEL, FOREGROUND) else key not in missing

    def repeated(self, model: str) -> bool:
        """Whether a model or the first one was trained several times."""
        return max(self.n_trainings[model], self.n_trainings[self.models[0]]) > 1

    def best(self, key: str, metric: str) -> set[str]:
        """The models with the best mean (:func:`judged`) among those that segment the class.

        Empty if the metric has no best value, or if none of these models has a mean. Also if it is
        undefined in other cases of one model than of another, such as distances in cases where the
        class is not found at all: the means are then of different cases.
        """
        if CATALOGUE[metric].better is Better.NEITHER:
            return set()
        candidates = [m for m in self.models if self.segments(m, key)]
        n_cases = {self.summary[m][key][metric]["n"] for m in candidates}
        if self.models[0] in candidates:  # the cases that both have
            n_cases |= {self.differences[m][key][metric]["n"] for m in candidates[1:]}
        if len(n_cases) > 1:
            return set()
        means = {m: judged(self.summary[m][key][metric]) for m in candidates}
        sign = -1 if CATALOGUE[metric].better is Better.HIGHER else 1
        loss = {m: sign * value for m, value in means.items() if not math.isnan(value)}
        return {m for m, value in loss.items() if value == min(loss.values())}

    def verdict(self, model: str, key: str, metric: str) -> str:
        """``better`` or ``worse`` than the first model, ``""`` unless p < 0.05 after correction.

        The test compares ranks; the sign of the mean difference decides between the two words. It
        takes the trainings as they are: if one of the two models was trained several times, the
        interval over trainings and cases must not contain 0 either. ``not segmented`` if one of
        the two models does not segment the class.
        """
        if not (self.segments(model, key) and self.segments(self.models[0], key)):
            return NOT_SEGMENTED
        test = self.differences[model][key][metric]
        if not test["p_holm"] < SIGNIFICANT or not test["mean"]:
            return ""
        if self.repeated(model) and not without_0(test["ci95_trainings"]):
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
            "n_folds": self.n_folds,
            "classes": self.classes,
            "cases": list(self.cases),
            "summary": self.summary,
            "differences": self.differences,
            "headline": self.headline,
            "headline_differences": self.headline_differences,
            "ranking": self.ranking,
            "n_tests": self.n_tests,
            "not_segmented": self.not_segmented,
            "optimistic": sorted(self.optimistic),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, content: Any) -> Comparison:
        """The inverse of :meth:`to_dict`; also takes None for NaN, as JSON stores it.

        Raises:
            InputError: the content is not that of a ``comparison.json``, or is damaged.
        """
        if problem := _damage(content):
            raise InputError(
                f"expected a result of meep-calib-compare, got one that is damaged: {problem}"
            )
        content = none_to_nan(content)
        return cls(
            **{name: content[name] for name in ("roi", "n_trainings", "n_folds", "classes")},
            **{name: content[name] for name in ("summary", "differences", "not_segmented")},
            **{name: content[name] for name in ("headline", "headline_differences", "ranking")},
            models=tuple(content["models"]),
            cases=tuple(content["cases"]),
            optimistic=frozenset(content["optimistic"]),
            warnings=tuple(content["warnings"]),
        )

    def to_dataframe(self) -> pandas.DataFrame:
        """One row for each model, class and metric, as in ``comparison.csv``.

        Example:
            >>> import nnunet_meep as nm
            >>> of_model = {name: nm.read_evaluation(name) for name in ("predictions",)}
            >>> table = nm.compare(of_model).to_dataframe()
            >>> table[table.metric == "ece"][["model", "name"]].values.tolist()[0]
            ['predictions', 'Anterior']
        """
        import pandas

        return pandas.DataFrame(list(self.rows()), columns=list(COLUMNS))

    def rows(self) -> Iterator[list[Any]]:
        """Rows with the columns ``COLUMNS``; NaN where a number does not exist.

        Of several classes, the rows of a model end with the means over them, as ``foreground``.
        """
        several = len(self.classes.keys() - {TOP_LABEL}) > 1
        names = {**self.classes, FOREGROUND: "mean over the classes"}
        differences = {
            model: {**keys, FOREGROUND: self.headline_differences[model].get(FOREGROUND, {})}
            for model, keys in self.differences.items()
        }
        for model, keys in self.summary.items():
            means = {FOREGROUND: self.headline[model].get(FOREGROUND, {})} if several else {}
            for key, metrics in {**keys, **means}.items():
                for metric, entry in metrics.items():
                    low, high = entry["ci95"]
                    ends = dict(zip(_ENDS, entry["ci95_trainings"], strict=True))
                    values = {**entry, "low": low, "high": high, **ends}
                    row = [values[name] for name in _SUMMARY]
                    if model in differences:
                        test = differences[model][key][metric]
                        row += [test["mean"], *test["ci95"], *test["ci95_trainings"]]
                        row += [test["p"], test["p_holm"]]
                    else:
                        row += [math.nan] * len(_DIFFERENCE)
                    yield [model, self.roi, key, names[key], metric, *row]


def judged(entry: Mapping[str, Any]) -> float:
    """By which number of a summary models are compared: the mean distance to 1, if it has one."""
    return float(entry["mean"] if math.isnan(entry["distance"]) else entry["distance"])


def without_0(interval: Sequence[float]) -> bool:
    """Whether an interval does not contain 0; False if it is NaN."""
    low, high = interval
    return low > 0 or high < 0


def shown(key: str, metrics: Iterable[str]) -> list[str]:
    """Those of the given metrics that tables show for a class or the top label, in table order."""
    there = set(metrics)
    return [m for m in (TOP_LABEL_TABLE if key == TOP_LABEL else CLASS_TABLE) if m in there]


def values_of_trainings(
    trainings: Sequence[Evaluation], cases: Sequence[str], key: str, metric: str
) -> NDArray[np.float64]:
    """A metric of each training and case, (trainings, cases).

    NaN where it is undefined, and where a training does not have the case. ``key``: of a class,
    ``top_label``, or ``foreground`` for the mean over the classes where it is defined; NaN if it is
    not for a class that the reference has.
    """
    values = np.full((len(trainings), len(cases)), np.nan)
    for row, training in zip(values, trainings, strict=True):
        by_case = {case.case: case.rois[training.roi] for case in training.cases}
        for i, case in enumerate(cases):
            if case in by_case:
                row[i] = _value(by_case[case], key, metric)
    return values


def not_segmenting(trainings: Sequence[Evaluation], cases: Sequence[str], key: str) -> list[int]:
    """Which of the trainings do not segment a class: Dice is 0 wherever the reference has it.

    A fold with few such cases is judged together with the others: to miss one scan of a fold does
    not mean that the training has failed.
    """
    dice, brier_plus = (
        values_of_trainings(trainings, cases, key, metric) for metric in ("dice", "brier_plus")
    )
    missed = list(map(cases_not_segmented, dice.tolist(), brier_plus.tolist()))
    has_class = ~np.isnan(brier_plus)
    is_shared = has_class.sum(axis=0) > 1
    never = cases_not_segmented(dice.ravel().tolist(), brier_plus.ravel().tolist()) > 0
    return [
        i
        for i, n in enumerate(missed)
        if n and (n >= FEW_CASES or never or (has_class[i] & is_shared).any())
    ]


def _value(result: RoiResult, key: str, metric: str) -> float:
    if key != FOREGROUND:
        return result.metrics(key)[metric]
    # A class of the reference for which a metric is undefined, as distances are where it is missed,
    # must not drop out: without it, the mean could be better than that of a model that finds it.
    has_class = "brier_plus"  # is defined only there
    values = [
        metrics[metric]
        for metrics in result.classes.values()
        if not math.isnan(metrics[metric]) or not math.isnan(metrics.get(has_class, math.nan))
    ]
    return math.fsum(values) / len(values) if values else math.nan


def shown_tests(differences: Table) -> Iterator[dict[str, Any]]:
    """The differences, with their tests, that the tables show."""
    for keys in differences.values():
        for key, metrics in keys.items():
            yield from (metrics[metric] for metric in shown(key, metrics))


def _damage(content: Any) -> str:
    """What is wrong with the content of a ``comparison.json``; empty if nothing is."""
    problem = malformed(content, {"schema": int}, "it")
    if problem or content["schema"] != SCHEMA:
        return problem or f"its schema is not {SCHEMA}"
    if problem := malformed(content, _KINDS, "it"):
        return problem
    if not content["models"]:
        return "no model"
    classes = list(content["classes"])
    headline = [FOREGROUND, *(key for key in classes if key == TOP_LABEL)]
    models, others = content["models"], content["models"][1:]
    tables: list[tuple[str, Any, list[str], Any]] = [
        *((m, content["summary"], classes, _SUMMARY_KINDS) for m in models),
        *((m, content["headline"], headline, _SUMMARY_KINDS) for m in models),
        *((m, content["differences"], classes, _TEST_KINDS) for m in others),
        *((m, content["headline_differences"], headline, _TEST_KINDS) for m in others),
    ]
    if content["ranking"]:
        of_classes = {key: _RANKING_KINDS for key in classes if key != TOP_LABEL}
        if problem := malformed(content["ranking"], dict.fromkeys(models, of_classes), "ranking"):
            return problem
    for model, table, keys, kinds in tables:
        if problem := malformed(table, {model: dict.fromkeys(keys, dict)}, "it"):
            return problem
        for key in keys:
            for metric, entry in table[model][key].items():
                if metric not in CATALOGUE:
                    return f"{metric} is no metric"
                if problem := malformed(entry, kinds, f"{metric} of {model}"):
                    return problem
    return ""
