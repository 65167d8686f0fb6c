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
        # 0.2 on average; the better one in the first case of the first seed only.
        trained(f"{KL}0p1", 0, 0, (0.0, 0.9), (0.4, 0.9)),
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
    uneven = Evaluation.from_dict(stored_result(split, {case: {} for case in split}))
    of_uneven = [
        TrainingResult("la", f"{KL}0p1", seed, 0, {"validation": uneven}) for seed in (0, 1)
    ]
    rest = [*of_both(f"{KL}0p3", 0.22, 1.0), *of_both(PLAIN, 0.0, 1.0)]
    found, _ = choices(plan(tmp_path, 'by = "validation ece"'), "la", [*of_uneven, *rest])
    assert found == {NAME: {0: f"{KL}0p3"}}


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
