"""Whether expected Dice says which scans are bad: the table, the points, the list."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from predictions import compared, softmax_case, stored_result

from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.metrics.case_ranking import case_ranking
from nnunet_meep.evaluation.report.case_choice import cases_to_show, review_order
from nnunet_meep.evaluation.report.comparison_report import write_comparison_report
from nnunet_meep.evaluation.report.comparison_tables import markdown, terminal
from nnunet_meep.evaluation.report.plots import new_axes, plot_case_risk
from nnunet_meep.evaluation.report.scans import N_FIRST, ranking_table, scan_section
from nnunet_meep.evaluation.report.text import table


def result(cases):
    """A result; ``cases``: by name, of classes 1 and 2 a pair of expected and actual Dice."""

    def metrics(expected, actual):
        known = None not in (expected, actual)
        error = abs(expected - actual) if known else None
        of_dice = {"dice": actual, "dice_expected": expected, "dice_expected_error": error}
        return {**of_dice, "ece": 0.1}

    return stored_result(
        {
            case: {key: metrics(*pair) for key, pair in zip("12", pairs, strict=True)}
            for case, pairs in cases.items()
        }
    )


A = {
    "w": [(0.9, 0.85), (0.8, 0.9)],
    "x": [(0.7, 0.8), (0.6, 0.5)],
    "y": [(None, None), (0.5, 0.7)],
    "z": [(None, 0.0), (None, None)],
}
B = {**A, "w": [(0.1, 0.9), (0.8, 0.9)], "x": [(0.7, 0.8), (0.8, 0.5)]}


def test_the_table_has_the_numbers_of_each_class_and_model() -> None:
    comparison = compared({"a": result(A), "b": result(B)})
    head, *rows = ranking_table(comparison)
    assert [row[:4] for row in rows] == [
        ["1 class 1", "a", "2", "0.075"],
        ["1 class 1", "b", "2", "0.450"],
        ["2 class 2", "a", "3", "0.133"],
        ["2 class 2", "b", "3", "0.200"],
    ]
    expected = case_ranking([0.8, 0.6, 0.5], [0.9, 0.5, 0.7])
    of_a = dict(zip(head, rows[2], strict=True))
    for column, name in (("rank correlation", "spearman"), ("AURC", "aurc"), ("E-AURC", "e_aurc")):
        assert of_a[column].startswith(f"{expected[name]['value']:.3f} (")
    # Of class 1 of a, the cases w and x are in the right order; of b they are not.
    assert [row[4] for row in rows[:2]] == ["1.000", "-1.000"]
    for text in (terminal(comparison), markdown(comparison)):
        assert "Can the network say which scans are bad?" in text
        assert rows[2][4] in text


def test_the_first_to_review_has_the_lowest_expected_dice_over_models() -> None:
    comparison = compared({"a": result(A), "b": result(B)})
    # Lowest of the classes, mean over models: w (0.8 + 0.1) / 2, x (0.6 + 0.7) / 2, y 0.5, z none.
    assert review_order(comparison) == [
        ("w", [("2", 0.8), ("1", 0.1)]),
        ("y", [("2", 0.5), ("2", 0.5)]),
        ("x", [("2", 0.6), ("1", 0.7)]),
    ]
    found = scan_section(comparison)["review"]
    assert found[0] == ("w", ["0.800 (class 2), Dice 0.900", "0.100 (class 1), Dice 0.900"])
    assert cases_to_show(comparison, 1) == ["z", "w", "y", "x"]


def test_where_one_class_is_never_segmented_the_other_decides() -> None:
    one = {
        "w": [(0.9, 0.9), (0.0, 0.0)],
        "x": [(0.7, 0.9), (0.0, 0.0)],
        "y": [(None, None), (0, 0)],
    }
    assert [case for case, _ in review_order(compared({"a": result(one)}))] == ["x", "w", "y"]


def test_a_panel_has_a_named_point_for_each_case_with_both() -> None:
    first, second = scan_section(compared({"a": result(A)}))["panels"]
    (w, x) = first["models"][0]["points"]
    assert w[2] == "w: 0.850, expected 0.900"
    assert w[0] > x[0]  # more Dice is further right,
    assert w[1] < x[1]  # more expected further up
    assert len(second["models"][0]["points"]) == 3
    # On the diagonal of the square both coordinates are equally far from its lower left corner.
    (on,) = scan_section(compared({"a": result({"v": [(0.5, 0.5), (0.4, 0.4)]})}))["panels"][0][
        "models"
    ][0]["points"]
    corner = first["left"], first["top"] + first["size"]
    assert on[0] - corner[0] == pytest.approx(corner[1] - on[1])


def test_cases_in_which_nothing_is_segmented_are_counted() -> None:
    """The first of them is wrong, in the second the class is not there."""
    cases = {"v": [(0.0, 0.0), (0.4, 0.4)], "w": [(0.0, None), (0.9, 0.8)], "x": [(0.7, 0.6)] * 2}
    assert scan_section(compared({"a": result(cases)}))["n_nothing"] == 2


def test_results_without_expected_dice_have_no_section() -> None:
    content = stored_result({"x": {"1": {"dice": 0.5}}})
    comparison = compared({"a": content})
    assert comparison.ranking == {}
    assert ranking_table(comparison) == []
    assert scan_section(comparison) == {}
    assert "which scans" not in terminal(comparison)


def test_it_survives_the_json_and_is_checked_there() -> None:
    comparison = compared({"a": result(A)})
    content = comparison.to_dict()
    assert Comparison.from_dict(content).ranking["a"]["2"]["n"] == 3
    content["ranking"] = {"a": {"1": {"n": 2}, "2": {"n": 3}}}
    with pytest.raises(ValueError, match="damaged: 1 has no risk"):
        Comparison.from_dict(content)


def test_the_curve_goes_from_the_surest_case_to_all() -> None:
    ax = new_axes()
    plot_case_risk(ax, [0.1, 0.2, 0.3, 0.3], label="m")
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_xydata()[:, 0], [25, 50, 75, 100])
    assert ax.get_ylim()[0] == 0
    assert line.get_marker() == "o"
    plot_case_risk(ax, [0.1] * 201, label="many")
    assert ax.get_lines()[1].get_marker() == "None"
    plot_case_risk(ax, [], label="none")
    assert not math.isnan(ax.get_ylim()[1])


@pytest.mark.rendered
def test_the_page_and_the_folder_of_real_predictions(make_folder, tmp_path) -> None:
    folder, rng = make_folder(), np.random.default_rng(0)
    cases = [f"case_{i:02d}" for i in range(N_FIRST + 2)]
    for case in cases:
        folder.add(case, *softmax_case(rng, (3, 4, 5)))
    evaluation = evaluate(folder.gt, folder.pred, surface=False)
    text = table(evaluation)
    of_class = evaluation.roi_to_dict("image")["classes"]["1"]
    value = of_class["ranking"]["spearman"]["value"]
    off = of_class["per_case"]["dice_expected_error"]["mean"]
    assert f"Expected Dice, 1 Anterior: off by {off:.3f} on average" in text
    assert f"rank correlation with Dice {value:.3f} (" in text

    comparison = compare({"m": evaluation})
    paths, _ = write_comparison_report(comparison, tmp_path / "out")
    names = {path.name for path in paths}
    assert {"expected_dice.png", "expected_dice.svg", "case_risk.png", "case_risk.svg"} <= names
    page = (tmp_path / "out" / "report.html").read_text()
    section = page[page.index('<section id="scans">') : page.index('<section id="cases">')]
    assert re.findall('<button class="case">(.*?)</button>', section) == [
        case for case, _ in review_order(comparison)
    ]
    assert "2 more of 12 cases" in section
    for case in cases:
        assert len(re.findall(f"<title>m, {case}: ", section)) == 2  # of both classes
    first = review_order(comparison)[0][0]
    assert f'class="case-pictures" data-case="{first}"' in page
