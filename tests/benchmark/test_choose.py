"""Which lambda is chosen on validation cases, in cases worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from predictions import stored_result

from nnunet_meep.benchmark.choose import choices
from nnunet_meep.benchmark.plans.plan import Plan
from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.benchmark.results import TrainingResult
from nnunet_meep.evaluation.results import Evaluation

PLAIN, KL = "nnUNetTrainerDice", "nnUNetTrainerDiceMEEP_KL_lambda"
NAME = f"{KL}*"


def plan(tmp_path: Path, select: str) -> Plan:
    path = tmp_path / "plan.toml"
    path.write_text(
        f"""
[data.la]
dataset = "Dataset501_LA"
folds = [0, 1]

[[training]]
trainers = ["{PLAIN}", "{KL}{{0p1,0p3}}"]
seeds = [0, 1]
select = {{ over = "lambda", {select} }}
"""
    )
    return read_plan(path)


def trained(
    trainer: str, seed: int, fold: int, *cases: tuple[float, float], top_label: float = 0.5
) -> TrainingResult:
    """A training with (ece, dice) of each validation case, of both of two classes."""
    classes = {
        f"c{i}": {key: {"ece": ece, "dice": dice} for key in "12"}
        for i, (ece, dice) in enumerate(cases)
    }
    of_top_label = {case: {"ece": top_label} for case in classes}
    content = stored_result(classes, of_top_label)
    return TrainingResult("la", trainer, seed, fold, {"validation": Evaluation.from_dict(content)})


def of_both(trainer: str, ece: float, dice: float, fold: int = 0, **more: float) -> list:
    return [trained(trainer, seed, fold, (ece, dice), **more) for seed in (0, 1)]


def test_the_best_mean_over_seeds_cases_and_classes(tmp_path) -> None:
    results = [
        # 0.2 on average, but for the case in which the other one has no value.
        trained(f"{KL}0p1", 0, 0, (0.2, 0.9), (0.0, 0.9)),
        trained(f"{KL}0p1", 1, 0, (0.2, 0.9), (0.2, 0.9)),
        # 0.15 on average, with a case in which the metric is undefined.
        trained(f"{KL}0p3", 0, 0, (0.1, 0.1), (math.nan, 0.1)),
        trained(f"{KL}0p3", 1, 0, (0.2, 0.1), (0.2, 0.1)),
        # In the other fold the other way round.
        *of_both(f"{KL}0p1", 0.1, 0.9, fold=1),
        *of_both(f"{KL}0p3", 0.2, 0.9, fold=1),
        *of_both(PLAIN, 0.0, 0.9),
        *of_both(PLAIN, 0.0, 0.9, fold=1),
    ]
    by_ece = plan(tmp_path, 'by = "validation ece"')
    found, said = choices(by_ece, "la", results)
    assert found == {NAME: {0: f"{KL}0p3", 1: f"{KL}0p1"}}
    assert [name for name, _ in said] == [NAME, NAME]
    assert said[0][1].startswith("fold 0: lambda 0.3 of 0.1, 0.3, by validation ECE")
    # By Dice, of which more is better.
    found, _ = choices(plan(tmp_path, 'by = "validation dice"'), "la", results)
    assert found[NAME][0] == f"{KL}0p1"
    # As long as one training is missing, in that fold there is no choice.
    found, said = choices(by_ece, "la", results[1:])
    assert found == {NAME: {1: f"{KL}0p1"}}
    assert len(said) == 1


def test_the_mean_over_classes_comes_before_that_over_cases(tmp_path) -> None:
    """Case means 0.1 and 0.4, of which the mean is 0.25, and not the 0.2 of the three values."""
    split = {"c0": {"1": {"ece": 0.1, "dice": 1.0}, "2": {"ece": 0.1, "dice": 1.0}}}
    split["c1"] = {"1": {"ece": 0.4, "dice": 1.0}, "2": {"ece": math.nan, "dice": 1.0}}
    even = {case: {key: {**of, "ece": 0.22} for key, of in c.items()} for case, c in split.items()}
    results = [*of_both(PLAIN, 0.0, 1.0)]
    for trainer, cases in ((f"{KL}0p1", split), (f"{KL}0p3", even)):
        made = Evaluation.from_dict(stored_result(cases, {case: {} for case in cases}))
        results += [TrainingResult("la", trainer, seed, 0, {"validation": made}) for seed in (0, 1)]
    found, _ = choices(plan(tmp_path, 'by = "validation ece"'), "la", results)
    assert found == {NAME: {0: f"{KL}0p3"}}


@pytest.mark.parametrize("metric", ["hd95", "nsd"])
def test_a_network_that_misses_a_class_is_no_choice(tmp_path, metric) -> None:
    """It has no distance then, and would be the better one by the only case that it does find.

    Normalised surface Dice is 0 for a missed class, and undefined where it is rightly not found.
    """
    values = {"hd95": ([2.0, math.nan], [3.0, 3.0]), "nsd": ([0.9, math.nan], [0.95, 0.0])}
    results = []
    for trainer, of_cases in zip((f"{KL}0p1", f"{KL}0p3"), values[metric], strict=True):
        cases = {f"c{i}": {"1": {metric: value, "dice": 1.0}} for i, value in enumerate(of_cases)}
        made = Evaluation.from_dict(stored_result(cases, None))
        results += [TrainingResult("la", trainer, seed, 0, {"validation": made}) for seed in (0, 1)]
    asked = plan(tmp_path, f'by = "validation {metric}"')
    found, _ = choices(asked, "la", [*results, *of_both(PLAIN, 0.0, 1.0)])
    assert found == {NAME: {0: f"{KL}0p3"}}


def test_what_cannot_be_compared_is_said(tmp_path) -> None:
    nan = math.nan
    results = [*of_both(f"{KL}0p1", nan, 0.7), *of_both(f"{KL}0p3", nan, 0.9)]
    by_ece = plan(tmp_path, 'by = "validation ece"')
    (line,) = [text for _, text in choices(by_ece, "la", [*results, *of_both(PLAIN, 0, 0)])[1]]
    assert line.endswith("by validation ECE, which none of them has, so that it is the first")
    # Nothing is worse than a plain loss that has no Dice.
    both = plan(tmp_path, 'by = "validation dice", not_worse = "dice"')
    found, said = choices(both, "la", [*results, *of_both(PLAIN, 0.0, nan)])
    assert found == {NAME: {0: f"{KL}0p3"}}
    assert said[0][1].startswith("fold 0: lambda 0.3 of 0.1, 0.3, by validation Dice, at a")


@pytest.mark.parametrize(
    ("low", "high", "chosen", "why"),
    [
        # (ece, dice) of lambda 0.1 and 0.3; the plain loss has Dice 0.8.
        ((0.2, 0.8), (0.1, 0.7), "0p1", "not worse than that of nnUNetTrainerDice"),
        ((0.2, 0.9), (0.1, 0.8), "0p3", "not worse"),
        ((0.1, 0.6), (0.2, 0.7), "0p3", "all have a worse validation Dice"),
        ((0.1, 0.7), (0.1, 0.7), "0p1", "all have a worse"),
        ((0.1, 0.9), (0.1, 0.9), "0p1", "not worse"),
        ((math.nan, 0.9), (0.5, 0.9), "0p3", "not worse"),
        ((math.nan, 0.9), (math.nan, 0.9), "0p1", "not worse"),
        ((0.1, math.nan), (0.2, 0.8), "0p3", "not worse"),
        ((0.1, math.nan), (0.2, 0.7), "0p3", "all have a worse"),
    ],
)
def test_not_worse_than_the_plain_loss(tmp_path, low, high, chosen, why) -> None:
    results = [
        *of_both(f"{KL}0p1", *low),
        *of_both(f"{KL}0p3", *high),
        *of_both(PLAIN, 0.3, 0.8),
    ]
    asked = plan(tmp_path, 'by = "validation ece", not_worse = "dice"')
    found, said = choices(asked, "la", results)
    assert found == {NAME: {0: f"{KL}{chosen}"}}
    assert why in said[0][1]
    without_plain = [r for r in results if r.trainer != PLAIN]
    assert choices(asked, "la", without_plain) == ({}, [])


def test_by_the_top_label(tmp_path) -> None:
    results = [
        *of_both(f"{KL}0p1", 0.1, 0.9, top_label=0.4),
        *of_both(f"{KL}0p3", 0.2, 0.9, top_label=0.3),
        *of_both(PLAIN, 0.3, 0.8),
    ]
    found, said = choices(plan(tmp_path, 'by = "validation top_label ece"'), "la", results)
    assert found == {NAME: {0: f"{KL}0p3"}}
    assert "top-label ECE" in said[0][1]


def test_a_metric_that_the_evaluation_does_not_have_is_undefined(tmp_path) -> None:
    results = [r for t in (f"{KL}0p1", f"{KL}0p3", PLAIN) for r in of_both(t, 0.1, 0.9)]
    found, _ = choices(plan(tmp_path, 'by = "validation smece"'), "la", results)
    assert found == {NAME: {0: f"{KL}0p1"}}
