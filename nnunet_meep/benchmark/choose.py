"""Choose lambda of each loss and fold on the validation cases, as the MEEP paper did."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nnunet_meep.benchmark.plans.plan import Model, Plan, Select, plain_of
from nnunet_meep.benchmark.plans.trainer_names import lambda_of
from nnunet_meep.benchmark.results import TrainingResult
from nnunet_meep.benchmark.running.steps import VALIDATION
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.metrics.metric import Better


def choices(
    plan: Plan, data: str, results: Sequence[TrainingResult]
) -> tuple[dict[str, dict[int, str]], list[tuple[str, str]]]:
    """The trainer that is chosen, by the name of the choice and the fold.

    The metric is the mean over the seeds' validation cases and the foreground classes, or that of
    the top label. A choice is made once all of its trainings are there. Among the lambdas that are
    not worse than the plain loss in ``not_worse``, the best one is chosen; if all are worse, the
    one that is least so. The first of equal ones is chosen; what is undefined is the worst.

    Args:
        plan: with ``select`` for the trainers in question.
        data: name of the data set.
        results: of its trainings.

    Returns:
        The choices; the name of each, and what was chosen why.
    """
    found: dict[str, dict[int, str]] = {}
    said = []
    for name, models in plan.choices(data).items():
        for fold in plan.data[data].folds:
            select, plain = models[0].select, plain_of(models[0], plan.models)
            if select is None or not _are_there(models, plain, fold, results):
                continue
            trainer, why = _choose(select, models, plain, fold, results)
            found.setdefault(name, {})[fold] = trainer
            said.append((name, f"fold {fold}: {why}"))
    return found, said


def _are_there(
    models: Sequence[Model], plain: Model | None, fold: int, results: Sequence[TrainingResult]
) -> bool:
    there = {(r.trainer, r.seed) for r in results if r.fold == fold}
    asked = [*models, *([plain] if plain else [])]
    return all((m.trainer, seed) in there for m in asked for seed in m.seeds.values())


def _choose(
    select: Select,
    models: Sequence[Model],
    plain: Model | None,
    fold: int,
    results: Sequence[TrainingResult],
) -> tuple[str, str]:
    def value(trainer: str, metric: str, top_label: bool = False) -> float:
        found = [
            _on_validation(r, metric, top_label)
            for r in results
            if (r.trainer, r.fold) == (trainer, fold)
        ]
        return float(np.mean(found))

    names = [model.trainer for model in models]
    loss = {n: _loss(select.by, value(n, select.by, select.top_label)) for n in names}
    allowed, remark = names, ""
    if select.not_worse and plain:
        of_plain = _loss(select.not_worse, value(plain.trainer, select.not_worse))
        of_term = {n: _loss(select.not_worse, value(n, select.not_worse)) for n in names}
        worse_by = {n: _or_inf(of_term[n] - of_plain) for n in names}
        allowed = [n for n in names if worse_by[n] <= 0]
        heading = CATALOGUE[select.not_worse].name
        remark = f", at a validation {heading} not worse than that of {plain.trainer}"
        if not allowed:
            best = min(names, key=lambda n: worse_by[n])
            return best, (
                f"lambda {_lambda(best)}: all have a worse validation {heading} than "
                f"{plain.trainer}, this one the least"
            )
    best = min(allowed, key=lambda n: _or_inf(loss[n]))
    what = ("top-label " if select.top_label else "") + CATALOGUE[select.by].name
    of = ", ".join(_lambda(n) for n in names)
    return best, f"lambda {_lambda(best)} of {of}, by validation {what}{remark}"


def _on_validation(result: TrainingResult, metric: str, top_label: bool) -> float:
    """The mean over cases of the mean over the foreground classes, or of the top label."""
    evaluation = result.evaluations[VALIDATION]
    cases = [case.rois[evaluation.roi] for case in evaluation.cases]
    if top_label:
        values = [[(case.top_label or {}).get(metric, math.nan)] for case in cases]
    else:
        values = [[c.get(metric, math.nan) for c in case.classes.values()] for case in cases]
    defined = [np.nanmean(v) for v in values if np.isfinite(v).any()]
    return float(np.mean(defined)) if defined else math.nan


def _loss(metric: str, value: float) -> float:
    """What is to be small: the value itself, its negative, or its distance to 1."""
    better = CATALOGUE[metric].better
    if better is Better.NEAR_ONE:
        return abs(value - 1)
    return -value if better is Better.HIGHER else value


def _or_inf(value: float) -> float:
    """What is undefined is worse than any number."""
    return value if math.isfinite(value) else math.inf


def _lambda(trainer: str) -> str:
    found = lambda_of(trainer)
    return found[1].replace("p", ".") if found else "?"
