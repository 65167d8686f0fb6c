"""The metrics of each row of a plan's comparisons, and of each training, as Markdown tables.

    python benchmarks/results_table.py PLAN [--results benchmarks/results] [--roi image]
                                       [--scans test|validation]

Takes what ``meep-benchmark`` keeps of each training. Means over cases, classes and trainings; a
star where the 95 % interval of the difference to the first row, over trainings and cases, is
without 0. Rows without a result yet are left out. Of validation scans there is the table of
trainings alone, as calibrators are fitted to them.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_meep.benchmark.choose import choices
from nnunet_meep.benchmark.plans.plan import Plan
from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.benchmark.results import TrainingResult, read_results
from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.comparison import FOREGROUND, without_0
from nnunet_meep.evaluation.folds import Folds
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.model_statistics import Model, tables
from nnunet_meep.evaluation.report.tables import markdown_table
from nnunet_meep.evaluation.result_format import TOP_LABEL
from nnunet_meep.evaluation.results import Evaluation

#: Of lesions it is some 1e-6, which the catalogue's two digits do not show.
AURC = (TOP_LABEL, "aurc")
COLUMNS = (
    *((FOREGROUND, metric) for metric in ("dice", "hd95", "assd", "nsd", "ece")),
    *((FOREGROUND, metric) for metric in ("ece_adaptive", "ece_l2_debiased")),
    (TOP_LABEL, "ece"),
    *((FOREGROUND, metric) for metric in ("brier", "brier_plus", "nll")),
    AURC,
)
VOLUMES = ("volume_expected_ml", "volume_true_ml")
#: What the names of the trainers of all plans have in common.
_COMMON = re.compile(r"nnUNetTrainer|_50epochs_50iters(_bf16)?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    parser.add_argument("--roi", default="image")
    parser.add_argument("--scans", choices=("test", "validation"), default="test")
    given = parser.parse_args()
    plan = read_plan(given.plan)
    for data in plan.data:
        planned = {model.trainer for model in plan.models if model.data == data}
        results = read_results(given.results).of(data)
        trainings = [training for training in results if training.trainer in planned]
        for reference, models in _compared(plan, data, trainings):
            if reference in models and given.scans == "test":
                print(_table_of_models(models, given.roi), end="\n\n")
        if evaluated := [t for t in trainings if given.scans in t.evaluations]:
            print(_table_of_trainings(evaluated, given.scans, given.roi))


def _compared(
    plan: Plan, data: str, trainings: Sequence[TrainingResult]
) -> Iterator[tuple[str, dict[str, list[Evaluation]]]]:
    """The reference of each comparison, and the evaluations of each model that has any."""
    chosen, _ = choices(plan, data, trainings)
    for comparison in plan.comparisons:
        names = (comparison.reference, *comparison.models)
        found: dict[str, list[Evaluation]] = {name: [] for name in names}
        for training in trainings:
            choice = [
                n for n, folds in chosen.items() if folds.get(training.fold) == training.trainer
            ]
            for model, evaluation in training.models().items():
                after = model.removeprefix(training.trainer)
                for name in (model, *(name + after for name in choice)):
                    if name in found:
                        found[name].append(evaluation)
        yield comparison.reference, {name: found[name] for name in names if found[name]}


def _table_of_models(models: Mapping[str, Sequence[Evaluation]], roi: str) -> str:
    comparison = compare(models, roi=roi)
    found = comparison.evaluations
    compared = {name: Model(tuple(t), Folds.of(name, t)) for name, t in found.items()}
    columns = _columns([evaluation for of_model in found.values() for evaluation in of_model])
    metrics: dict[str, list[str]] = {FOREGROUND: list(VOLUMES), TOP_LABEL: []}
    for key, metric in columns:
        metrics[key].append(metric)
    summary, differences = tables(compared, comparison.cases, metrics)
    rows = [["trained with", "trainings", *map(_heading, columns), "expected / true volume"]]
    for name, of_model in summary.items():
        cells = []
        for key, metric in columns:
            number = _number((key, metric), of_model[key][metric]["mean"])
            test = differences.get(name, {}).get(key, {}).get(metric)
            cells.append(number + ("*" if test and without_0(test["ci95_trainings"]) else ""))
        expected, true = (of_model[FOREGROUND][metric]["mean"] for metric in VOLUMES)
        rows.append(
            [short(name), str(comparison.n_trainings[name]), *cells, f"{expected / true:.2f}"]
        )
    return markdown_table(rows)


def _table_of_trainings(trainings: Sequence[TrainingResult], scans: str, roi: str) -> str:
    columns = _columns([training.evaluations[scans] for training in trainings])
    rows = [["trained with", "fold", "seed", "lambda", "r", "T", *map(_heading, columns)]]
    for training in trainings:
        evaluation = training.evaluations[scans].over(roi)
        summary, _ = tables(
            {"": Model((evaluation,), Folds.of("", [evaluation]))},
            [case.case for case in evaluation.cases],
            {FOREGROUND: [m for k, m in columns if k == FOREGROUND], TOP_LABEL: ["ece", "aurc"]},
        )
        cells = [_number((k, m), summary[""][k][m]["mean"]) for k, m in columns]
        rows.append(
            [
                short(training.trainer),
                str(training.fold),
                "" if training.seed is None else str(training.seed),
                _last(training.curves, "lambda", ".3f"),
                _last(training.curves, "unexpected_errors", ".2f"),
                "" if training.temperature is None else f"{training.temperature:.2f}",
                *cells,
            ]
        )
    return markdown_table(rows)


def _columns(evaluations: Sequence[Evaluation]) -> list[tuple[str, str]]:
    """Those that all evaluations have: results of older versions lack some."""
    return [
        (key, metric)
        for key, metric in COLUMNS
        if key == TOP_LABEL or all(metric in e.class_metrics for e in evaluations)
    ]


def _heading(column: tuple[str, str]) -> str:
    if column == AURC:
        return "AURC e-6"
    return ("top-label " if column == (TOP_LABEL, "ece") else "") + CATALOGUE[column[1]].heading


def _number(column: tuple[str, str], value: float) -> str:
    return f"{1e6 * value:.0f}" if column == AURC else CATALOGUE[column[1]].number(value)


def short(name: str) -> str:
    """The name of a trainer without what those of these plans have in common."""
    return _COMMON.sub("", name)


def _last(curves: Mapping[str, Any], name: str, form: str) -> str:
    values = curves.get(name)
    return format(values[-1], form) if values and math.isfinite(values[-1]) else ""


if __name__ == "__main__":
    main()
