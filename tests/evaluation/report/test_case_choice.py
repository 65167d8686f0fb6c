"""Which cases are shown: the order of all, and the worst, the median and the best."""

from __future__ import annotations

from predictions import compared, stored_result

from nnunet_meep.evaluation.report.case_choice import cases_to_show, ranked_cases, worst_class


def result(dice):
    """A result; ``dice``: case: of classes 1 and 2. The ECE is a tenth of 1 - Dice, squared."""

    def metrics(value):
        return {"dice": value, "ece": None if value is None else (1 - value) ** 2 / 10}

    return stored_result(
        {
            case: {key: metrics(value) for key, value in zip("12", row, strict=True)}
            for case, row in dice.items()
        }
    )


def test_cases_are_ranked_by_their_mean_over_models_and_classes() -> None:
    a = result({"w": [0.9, 0.8], "x": [0.5, 0.3], "y": [None, None], "z": [None, 0.4]})
    b = result({"w": [0.9, 0.8], "x": [0.1, 0.5], "y": [None, None], "z": [None, 0.2]})
    comparison = compared({"a": a, "b": b})
    # Means 0.85, 0.35, none, 0.3; of the classes of x 0.3 and 0.4.
    assert ranked_cases(comparison, "dice") == ["z", "x", "w"]
    assert [worst_class(comparison, case) for case in "zxw"] == ["2", "1", "2"]
    # Mean (1 - Dice)^2: w 0.025, x 0.4475 (0.25, 0.49, 0.81, 0.25 over 4), z 0.5.
    assert ranked_cases(comparison, "ece") == ["z", "x", "w"]


def test_the_worst_come_first_then_the_median_and_the_best_each_once() -> None:
    dice = {name: [value, value] for name, value in zip("abcdefg", range(1, 8), strict=True)}
    content = result({name: [v / 10 for v in row] for name, row in dice.items()})
    for case in content["cases"]:  # by ECE "d" is the worst, "a" the best
        for metrics in case["classes"].values():
            metrics["ece"] = {"d": 0.9, "a": 0.1}.get(case["case"], metrics["dice"])
    comparison = compared({"m": content})
    assert ranked_cases(comparison, "ece") == ["d", "g", "f", "e", "c", "b", "a"]
    assert cases_to_show(comparison, 2) == ["a", "b", "d", "g", "e"]
    assert cases_to_show(comparison, 0) == ["a", "d", "g", "e"]
    assert len(cases_to_show(comparison, 100)) == 7


def test_without_a_dice_there_is_no_case_to_show() -> None:
    comparison = compared({"m": result({"a": [None, None]})})
    assert cases_to_show(comparison, 5) == []
