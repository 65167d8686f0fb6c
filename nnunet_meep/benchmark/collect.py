"""Collect the results of finished trainings from a work folder into their compact form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nnunet_meep.benchmark.plans.plan import Plan, Training
from nnunet_meep.benchmark.results import (
    Results,
    TrainingResult,
    in_order,
    read_result,
    write_result,
)
from nnunet_meep.benchmark.running.state import State
from nnunet_meep.benchmark.running.steps import evaluation_folder, model_folder, network_of
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.evaluation.stored_results import read_evaluation
from nnunet_meep.json_file import read_json
from nnunet_meep.trainers.logs import curves_of, read_log


def collect(state: State, folder: Path) -> Results:
    """Write the result of each training whose evaluations are all done, and read them all.

    Args:
        state: of the benchmark.
        folder: for the results, one file for each training; those of other trainings stay.
    """
    found = []
    for training in state.plan.trainings():
        parts = _evaluated(state, training)
        if not parts:
            continue
        path = write_result(_result(state, training, parts), folder, state.folders)
        found.append(read_result(path, state.folders))  # as a later report will read it
    return ordered(found, state.plan)


def ordered(results: Iterable[TrainingResult], plan: Plan) -> Results:
    """Results in the order of a plan, without those of other trainings or networks."""
    keys = [
        f"{model.data}/{model.trainer}/{seed}/{fold}"
        for model in plan.models
        for seed in model.seeds.values()
        for fold in plan.data[model.data].folds
    ]
    theirs = [r for r in results if f"{r.data}/{r.trainer}/{r.seed}/{r.fold}" in keys]
    known = {name: (None, network_of(data)) for name, data in plan.data.items()}
    return in_order([r for r in theirs if r.network in known[r.data]], keys)


def _evaluated(state: State, training: Training) -> list[str]:
    """The parts that are evaluated; empty unless all are."""
    prefix = f"{training.key}/evaluate/"
    keys = [k for k in state.steps if k.startswith(prefix) and "/part_" not in k]
    if not keys or not all(state.is_done(state.steps[key]) for key in keys):
        return []
    return [key.removeprefix(prefix) for key in keys]


def _result(state: State, training: Training, parts: list[str]) -> TrainingResult:
    model = next(
        m for m in state.plan.models if m.data == training.data and training.trainer in m.seeds
    )
    fold = state.folders.path(model_folder(state.plan.data[training.data], training.trainer))
    checkpoint = fold / f"fold_{training.fold}" / "checkpoint_final.pth"
    record = state.records.read(f"{training.key}/train")
    curves: dict[str, list[float]] = {}
    cost: dict[str, Any] = dict(record.usage) if record else {}
    try:
        log = read_log(checkpoint)
        curves = {name: list(values) for name, values in curves_of(log).items()}
        cost["seconds_per_epoch"] = log.seconds_per_epoch
    except InputError:
        pass  # deleted after it was evaluated, or of another nnU-Net: a report without its curves
    return TrainingResult(
        data=training.data,
        trainer=model.trainer,
        seed=model.seeds[training.trainer],
        fold=training.fold,
        evaluations={
            part: read_evaluation(state.folders.path(evaluation_folder(training, part)))
            for part in parts
        },
        curves=curves,
        cost=cost,
        versions=record.versions if record else {},
        temperature=_temperature(state, training),
        network=network_of(state.plan.data[training.data]),
    )


def _temperature(state: State, training: Training) -> float | None:
    fit = state.steps.get(f"{training.key}/fit/temperature")
    if fit is None:
        return None
    try:
        content = read_json(state.folders.path(fit.outputs[0]))
        maps = [content["joint"]] if "joint" in content else [*content["classes"].values()]
        found = [each["parameters"]["temperature"] for each in maps if each["parameters"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # deleted after it was applied
    return float(found[0]) if len(found) == 1 else None


def missing(plan: Plan, data: str, results: Iterable[TrainingResult]) -> Iterator[tuple[str, str]]:
    """Each trainer of which not all trainings have a result, and how many have none."""
    there = {(r.trainer, r.seed, r.fold) for r in results}
    for model in plan.models:
        if model.data != data:
            continue
        folds = plan.data[data].folds
        asked = [(model.trainer, seed, fold) for seed in model.seeds.values() for fold in folds]
        if n := sum(key not in there for key in asked):
            yield model.trainer, f"{n} of {counted(len(asked), 'training')} not finished yet"
