"""Choose lambda of each loss and fold on the validation cases, as the MEEP paper did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_meep.benchmark.plans.plan import Model, Plan, Select, plain_of
from nnunet_meep.benchmark.plans.trainer_names import lambda_of
from nnunet_meep.benchmark.results import TrainingResult
from nnunet_meep.benchmark.running.steps import VALIDATION
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.metrics.metric import Better
from nnunet_meep.evaluation.result_format import TOP_LABEL

#: Metrics that a class does not have where the network misses it.
_DISTANCES = ("hd", "hd95", "assd")


def choices(
    plan: Plan, data: str, results: Sequence[TrainingResult]
) -> tuple[dict[str, dict[int, str]], list[tuple[str, str]]]:
    """The trainer that is chosen, by the name of the choice and the fold.

    The metric is the mean over the seeds' validation cases and the foreground classes, or that of
    the top label; see :func:`_losses` on what is undefined. A choice is made once all of its
    trainings are there. Among the lambdas that are not worse than the plain loss in ``not_worse``,
    the best one is chosen; if all are worse, the one that is least so. The first of equal ones is
    chosen.

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
    results = [r for r in results if r.fold == fold]
    names = [model.trainer for model in models]
    loss = _losses(select.by, _values(names, results, select.by, select.top_label))
    allowed, remark = names, ""
    if select.not_worse and plain:
        every = [*names, plain.trainer]
        found = _losses(select.not_worse, _values(every, results, select.not_worse))
        of_plain = found[plain.trainer]  # if it is not defined, nothing is worse
        is_known = math.isfinite(of_plain)
        worse_by = {n: _or_inf(found[n]) - of_plain if is_known else 0.0 for n in names}
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
    if not math.isfinite(loss[best]):
        remark = ", which none of them has, so that it is the first" + remark
    return best, f"lambda {_lambda(best)} of {of}, by validation {what}{remark}"


def _values(
    trainers: Sequence[str], results: Sequence[TrainingResult], metric: str, top_label: bool = False
) -> dict[str, dict[tuple[int | None, str, str], float]]:
    """By trainer: the values by seed, case, and class (or top label)."""
    found: dict[str, dict[tuple[int | None, str, str], float]] = {name: {} for name in trainers}
    for result in results:
        if result.trainer not in found:
            continue
        evaluation = result.evaluations[VALIDATION]
        for case in evaluation.cases:
            roi = case.rois[evaluation.roi]
            classes = {TOP_LABEL: roi.top_label or {}} if top_label else roi.classes
            for key, of_class in classes.items():
                value = of_class.get(metric, math.nan)
                found[result.trainer][result.seed, case.case, key] = value
    return found


def _losses(
    metric: str, values: Mapping[str, Mapping[tuple[int | None, str, str], float]]
) -> dict[str, float]:
    """By trainer: what is to be small, of the mean over classes, cases and seeds.

    Trainers are compared over what all of them have a value for, but for those that have none at
    all. A distance that only some of them have is one of a class that the others miss, for which it
    is infinite.
    """
    is_distance = metric in _DISTANCES
    others = [of for of in values.values() if np.isfinite(list(of.values())).any()]
    losses = {}
    for trainer, of_trainer in values.items():
        by_case: dict[int | None, dict[str, list[float]]] = {}
        for (seed, case, key), own in of_trainer.items():
            every = [other.get((seed, case, key), math.nan) for other in others]
            if is_distance and math.isnan(own) and not np.isnan(every).all():
                own = math.inf
            if not math.isnan(own) and (is_distance or not np.isnan(every).any()):
                by_case.setdefault(seed, {}).setdefault(case, []).append(own)
        of_seeds = [np.mean([np.mean(of) for of in cases.values()]) for cases in by_case.values()]
        losses[trainer] = _loss(metric, float(np.mean(of_seeds)) if of_seeds else math.nan)
    return losses


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
