"""Models compared over common cases, against numpy and scipy on the same numbers."""

from __future__ import annotations

import copy
import json
from contextlib import suppress

import numpy as np
import pytest
from predictions import ONE_BIN, compared, stored_result
from scipy.stats import wilcoxon

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.metrics.repeated import Repeated, interval_over_trainings
from nnunet_meep.evaluation.report import comparison_tables as tables
from nnunet_meep.evaluation.result_format import nan_to_none
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.evaluation.stored_results import read_evaluation

METRICS = ("dice", "ece", "volume_true_ml")


def result(values, *, roi="image", classes=("1",), top_label=True, **settings):
    """A ``calibration.json``; ``values``: case: metrics of every class, None for undefined."""
    cases = {
        case: {key: dict(zip(METRICS, row, strict=True)) for key in classes}
        for case, row in values.items()
    }
    of_errors = {case: {"ece": row[1], "error_rate_ratio": row[0]} for case, row in values.items()}
    return stored_result(cases, of_errors if top_label else None, rois=[roi], **settings)


def random_result(seed, n=12, shift=0.0, **kwargs):
    rng = np.random.default_rng(seed)
    return result(
        {f"c{i:02d}": [*(rng.random(2) + shift).tolist(), 1.0] for i in range(n)}, **kwargs
    )


def column(training, metric):
    return np.array([c["classes"]["1"][metric] for c in training["cases"]], float)


def test_summary_of_each_model_is_over_its_cases() -> None:
    a, b = random_result(0), random_result(1)
    comparison = compared({"a": a, "b": b})
    for name, training in (("a", a), ("b", b)):
        entry = comparison.summary[name]["1"]["ece"]
        assert entry["mean"] == pytest.approx(column(training, "ece").mean())
        assert entry["std"] == pytest.approx(column(training, "ece").std(ddof=1))
        assert entry["n"] == 12
        assert np.isnan(entry["training_std"])
    assert comparison.models == ("a", "b")
    assert comparison.classes == {"1": "class 1", "top_label": "all classes"}


def test_trainings_are_averaged_per_case_first() -> None:
    seeds = [random_result(seed) for seed in range(3)]
    comparison = compared({"a": random_result(9), "b": seeds})
    dice = np.array([column(s, "dice") for s in seeds])
    entry = comparison.summary["b"]["1"]["dice"]
    assert entry["std"] == pytest.approx(dice.mean(axis=0).std(ddof=1))
    assert entry["std"] != pytest.approx(dice.std(ddof=1), rel=0.1)
    assert entry["training_std"] == pytest.approx(dice.mean(axis=1).std(ddof=1))


def test_differences_are_paired_and_tested() -> None:
    a, b = random_result(0), random_result(1, shift=0.3)
    comparison = compared({"a": a, "b": b})
    test = comparison.differences["b"]["1"]["ece"]
    difference = column(b, "ece") - column(a, "ece")
    assert test["mean"] == pytest.approx(difference.mean())
    assert test["p"] == pytest.approx(wilcoxon(difference).pvalue)
    low, high = test["ci95"]
    assert low < difference.mean() < high
    # Paired: about 1.96 standard errors of the differences.
    error = difference.std(ddof=1) / np.sqrt(12)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)
    assert "a" not in comparison.differences


def of_cases(training, names):
    """The part of a ``calibration.json`` with these cases."""
    part = copy.deepcopy(training)
    part["cases"] = [case for case in part["cases"] if case["case"] in names]
    part["files"]["cases"] = {name: part["files"]["cases"][name] for name in names}
    return part


NAMES = [f"c{i:02d}" for i in range(12)]


class TestFolds:
    def test_trainings_without_a_common_case_are_folds(self) -> None:
        whole = random_result(0)
        folds = [of_cases(whole, NAMES[i::3]) for i in range(3)]
        comparison = compared({"folds": folds, "whole": whole})
        assert (comparison.n_trainings, comparison.n_folds) == (
            {"folds": 3, "whole": 1},
            {"folds": 3, "whole": 1},
        )
        assert comparison.cases == tuple(NAMES)
        entry = comparison.summary["folds"]["1"]["dice"]
        assert entry["mean"] == pytest.approx(column(whole, "dice").mean())
        means = [column(fold, "dice").mean() for fold in folds]
        assert entry["training_std"] == pytest.approx(np.std(means, ddof=1))
        assert comparison.values("folds", "1", "dice").tolist() == column(whole, "dice").tolist()
        assert comparison.warnings == ()

    def test_seeds_of_folds_are_averaged_where_they_are(self) -> None:
        a, b, c = (random_result(i) for i in range(3))
        halves = NAMES[:6], NAMES[6:]
        trainings = [of_cases(a, halves[0]), of_cases(c, halves[1]), of_cases(b, halves[0])]
        comparison = compared({"model": trainings})
        assert (comparison.n_trainings, comparison.n_folds) == ({"model": 3}, {"model": 2})
        expected = np.where(
            np.arange(12) < 6, (column(a, "ece") + column(b, "ece")) / 2, column(c, "ece")
        )
        assert comparison.values("model", "1", "ece") == pytest.approx(expected)

    def test_a_fold_that_several_folders_make_up_is_not_missing(self) -> None:
        halves = [of_cases(random_result(0), names) for names in (NAMES[:6], NAMES[6:])]
        for i, half in enumerate(halves):
            rest = halves[1 - i]["files"]["cases"]
            fold = {"fold": str(1 - i), "evaluated": False, "n_cases": 7}
            fold["missing"] = [*rest, "other"]
            half["incomplete_folds"] = [fold]
        assert not [line for line in compared({"m": halves}).warnings if "no predictions" in line]

    def test_within_a_fold_all_trainings_have_the_cases(self) -> None:
        a, b = random_result(0), random_result(1)
        trainings = [of_cases(a, NAMES[:6]), of_cases(b, NAMES[1:6]), of_cases(a, NAMES[6:])]
        comparison = compared({"model": trainings})
        assert comparison.cases == tuple(NAMES[1:])
        (line,) = comparison.warnings
        assert line.startswith("model: 1 of its 6 cases are not in all models and left out")
        assert line.endswith(": c00")

    def test_seeds_that_have_no_case_in_common_are_refused(self) -> None:
        parts = (NAMES[:4], NAMES[8:], NAMES[2:10])  # the last one joins the others
        trainings = [of_cases(random_result(i), part) for i, part in enumerate(parts)]
        with pytest.raises(InputError, match=r"^model: expected trainings on the same cases \(see"):
            compared({"model": trainings})

    def test_a_fold_without_a_compared_case_is_left_out_and_said(self) -> None:
        a, b = random_result(0), random_result(1)
        folds = [of_cases(a, NAMES[:6]), of_cases(a, NAMES[6:])]
        comparison = compared({"folds": folds, "half": of_cases(b, NAMES[:6])})
        assert comparison.n_trainings == {"folds": 1, "half": 1}
        assert len(comparison.evaluations["folds"]) == 1
        assert comparison.warnings == ("folds: 1 training without a compared case left out",)

    def test_other_folds_are_said(self) -> None:
        whole = random_result(0), random_result(1)
        thirds = [of_cases(whole[0], NAMES[i::3]) for i in range(3)]
        halves = [of_cases(whole[1], NAMES[i::2]) for i in range(2)]
        (line,) = compared({"thirds": thirds, "halves": halves}).warnings
        assert line.startswith("halves was tested in other folds than thirds: ")
        assert not compared({"thirds": thirds, "whole": whole[1]}).warnings

    def test_one_result_over_all_folds_is_one_training_and_says_so(self) -> None:
        content = random_result(0, pred_folder=["fold_0/validation", "fold_1/validation"])
        comparison = compared({"model": content})
        assert comparison.n_trainings == {"model": 1}
        assert comparison.warnings[0].startswith("model: one result over 2 folds counts as one ")

    def test_references_are_compared_case_by_case(self) -> None:
        a, b = random_result(0), random_result(1)
        b["files"]["cases"]["c03"]["reference"] = "another"
        folds = [of_cases(a, NAMES[6:]), of_cases(a, NAMES[:6])]
        (line,) = compared({"a": folds, "b": b}).warnings
        assert line == "b was evaluated against other references than a in 1 of 12 cases: c03"


class TestOverTrainings:
    def test_the_interval_is_that_of_the_values(self) -> None:
        a, b = ([random_result(10 * i + seed) for seed in range(3)] for i in range(2))
        comparison = compared({"a": a, "b": b})
        zeros = np.zeros(3, int), np.zeros(12, int)
        models = [
            Repeated(np.array([column(t, "ece") for t in of_model])[..., None], *zeros)
            for of_model in (a, b)
        ]
        expected = interval_over_trainings([models[1], models[0]], np.array([False]))[:, 0]
        test = comparison.differences["b"]["1"]["ece"]
        assert test["ci95_trainings"] == pytest.approx(expected, rel=1e-9)
        assert test["n_trainings"] == [3, 3]
        expected = interval_over_trainings(models[:1], np.array([False]))[:, 0]
        entry = comparison.summary["a"]["1"]["ece"]
        assert entry["ci95_trainings"] == pytest.approx(expected, rel=1e-9)
        assert entry["n_trainings"] == 3

    def test_of_models_trained_once_it_is_that_over_cases(self) -> None:
        comparison = compared({"a": random_result(0), "b": random_result(1)})
        for table in (comparison.summary, comparison.differences):
            for keys in table.values():
                entries = [entry for metrics in keys.values() for entry in metrics.values()]
                assert all(entry["ci95_trainings"] is entry["ci95"] for entry in entries)

    def test_nothing_is_better_that_another_training_may_undo(self) -> None:
        first = random_result(0, n=30)
        better = random_result(0, n=30, shift=0.1)
        comparison = compared({"a": first, "b": better})
        assert comparison.verdict("b", "1", "dice") == "better"
        seeds = [random_result(0, n=30, shift=shift) for shift in (-0.2, 0.1, 0.4)]
        comparison = compared({"a": first, "b": seeds})
        assert comparison.differences["b"]["1"]["dice"]["p_holm"] < 0.05
        assert comparison.verdict("b", "1", "dice") == ""

    def test_the_headline_is_the_mean_over_classes_and_a_family_of_its_own(self) -> None:
        models = {str(i): random_result(i, classes=("1", "2")) for i in range(3)}
        for i, training in enumerate(models.values()):
            for j, case in enumerate(training["cases"]):
                case["classes"]["2"]["dice"] = None if j < 3 else i + j / 10
        comparison = compared(models)
        one, two = (comparison.values("1", key, "dice") for key in ("1", "2"))
        expected = np.where(np.isnan(two), one, (one + two) / 2)
        assert comparison.values("1", "foreground", "dice") == pytest.approx(expected)
        entry = comparison.headline["1"]["foreground"]["dice"]
        assert entry["mean"] == pytest.approx(expected.mean())
        tests = [
            test
            for keys in comparison.headline_differences.values()
            for metrics in keys.values()
            for test in metrics.values()
        ]
        assert len(tests) == 2 * 3  # Dice, ECE and top-label ECE
        smallest = min(tests, key=lambda test: test["p"])
        assert smallest["p_holm"] == min(6 * smallest["p"], 1)


def all_tests(comparison):
    return {
        (model, key, metric): test
        for model, keys in comparison.differences.items()
        for key, metrics in keys.items()
        for metric, test in metrics.items()
    }


def test_p_is_corrected_by_holm_for_the_tests_that_tables_show() -> None:
    results = [random_result(i, shift=0.15 * i) for i in range(4)]
    for training in results:
        for case in training["cases"]:
            case["classes"]["1"]["mce"] = 2 * case["classes"]["1"]["ece"]  # in no table
    comparison = compared({str(i): training for i, training in enumerate(results)})
    every = all_tests(comparison)
    in_no_table = ("mce", "classwise_ece")
    hidden = [t for (_, _, metric), t in every.items() if metric in in_no_table]
    assert all(t["p"] <= 1 and np.isnan([t["p_holm"], t["p_holm_smallest"]]).all() for t in hidden)
    tests = [t for (_, _, m), t in every.items() if m not in in_no_table and not np.isnan(t["p"])]
    assert len(tests) == comparison.n_tests == 3 * (2 + 2)  # volumes are not tested
    assert comparison.to_dict()["n_tests"] == 12
    p = np.array([t["p"] for t in tests])
    for t in tests:
        # Holm by its definition: the largest of (m - rank) p over all that are not larger.
        smaller = np.sort(p[p <= t["p"]])
        expected = max((len(p) - i) * q for i, q in enumerate(smaller))
        assert t["p_holm"] == pytest.approx(min(expected, 1))


@pytest.mark.parametrize("n", [2, 5, 6, 12])
def test_no_p_is_below_what_so_many_pairs_can_give(n) -> None:
    a, b = random_result(0, n=n), random_result(0, n=n)
    for i, case in enumerate(b["cases"]):  # every case is worse: the smallest p there is
        case["classes"]["1"]["dice"] -= 0.01 * (i + 1)
    comparison = compared({"a": a, "b": b})
    test = comparison.differences["b"]["1"]["dice"]
    assert test["p"] == pytest.approx(2.0 ** (1 - n), rel=1e-12)
    for key, metric in (("1", "dice"), ("1", "ece"), ("top_label", "error_rate_ratio")):
        test = comparison.differences["b"][key][metric]
        assert test["p_smallest"] == 2.0 ** (1 - n)
        assert test["p_holm_smallest"] == min(4 * 2.0 ** (1 - n), 1)
    assert np.isnan(comparison.differences["b"]["1"]["volume_true_ml"]["p_smallest"])


def test_the_smallest_corrected_p_is_that_of_a_family_whose_tests_all_have_their_smallest() -> None:
    a, b = random_result(0, n=12), random_result(1, n=12)
    for case in a["cases"][6:]:
        case["classes"]["1"]["dice"] = None  # as where a class is in half of the cases
    comparison = compared({"a": a, "b": b})
    of_class = comparison.differences["b"]["1"]
    assert of_class["ece"]["p_holm_smallest"] == 4 * 2.0**-11
    # The others come before it, so that it is not multiplied.
    assert of_class["dice"]["p_holm_smallest"] == 2.0**-5


@pytest.mark.parametrize(
    ("difference", "p"),
    [
        ([0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2 / 2**6),
        # More than scipy takes ties and zeros of, but only five differ.
        ([0] * 10 + [0.1, 0.2, 0.3, 0.4, 0.5], 2 / 2**5),
        ([0.25, 0.25, 0.25, 0.25, 0.25, 0.25], 2 / 2**6),
        ([0.25, 0.25, 0.25, 0.5, -0.25], 2 * 5 / 2**5),
    ],
)
def test_p_is_exact_with_few_differences_equal_ones_and_none(difference, p) -> None:
    a = result({f"c{i}": [1, 1, 1] for i in range(len(difference))})
    b = result({f"c{i}": [1 + d, 1, 1] for i, d in enumerate(difference)})
    test = compared({"a": a, "b": b}).differences["b"]["1"]["dice"]
    assert test["p"] == pytest.approx(p, rel=1e-12)
    assert test["p_smallest"] == 2.0 ** (1 - len(difference))


def test_equal_models_do_not_differ() -> None:
    a = random_result(0)
    test = compared({"a": a, "b": a}).differences["b"]["1"]["dice"]
    assert (test["mean"], test["p"], test["p_holm"]) == (0, 1, 1)


def test_only_common_cases_count_and_the_others_are_said() -> None:
    a = result({"x": [0.1, 0.2, 1], "y": [0.3, 0.4, 1]})
    b = result({"y": [0.5, 0.6, 1], "z": [0.7, 0.8, 1]})
    comparison = compared({"a": a, "b": b})
    assert comparison.cases == ("y",)
    assert comparison.summary["a"]["1"]["dice"]["mean"] == 0.3
    assert [w.split(":")[0] for w in comparison.warnings] == ["a", "b"]
    assert comparison.warnings[0].endswith(": x")


def test_an_undefined_value_is_left_out_on_both_sides() -> None:
    a = result({"x": [0.1, 0.2, 1], "y": [None, 0.4, 1], "z": [0.5, 0.1, 1]})
    b = result({"x": [0.2, 0.2, 1], "y": [0.5, 0.6, 1], "z": [None, 0.1, 1]})
    comparison = compared({"a": a, "b": b})
    assert comparison.summary["a"]["1"]["dice"]["n_undefined"] == 1
    test = comparison.differences["b"]["1"]["dice"]
    assert test["n"] == 1
    assert test["mean"] == pytest.approx(0.1)
    assert np.isnan(test["p"])
    assert np.isnan(test["p_holm"])


def test_a_case_undefined_in_one_training_is_the_mean_of_the_others() -> None:
    seeds = (result({"x": [None, 0.2, 1]}), result({"x": [0.4, 0.2, 1]}))
    entry = compared({"a": seeds}).summary["a"]["1"]["dice"]
    assert (entry["mean"], entry["n_undefined"]) == (0.4, 0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("bins", 10),
        ("surface", False),
        ("tolerance_mm", 3.0),
        ("segmentation", "argmax"),
        ("version", "2"),
    ],
)
def test_other_settings_are_said(setting, value) -> None:
    models = {"a": random_result(0), "b": random_result(1, **{setting: value})}
    (line,) = compared(models).warnings
    assert setting in line
    assert str(value) in line


def test_results_without_a_top_label_are_compared_by_class(tmp_path) -> None:
    old, new = random_result(0), random_result(1)
    old["top_label"] = None  # as of nnU-Net's regions
    for case in old["cases"]:
        case["top_label"] = None
        del case["bins"]["top_label"], case["classes"]["1"]["ece"]
    comparison = compared({"old": old, "new": new})
    assert list(comparison.classes) == ["1"]
    assert list(comparison.summary["new"]["1"]) == ["dice", "volume_true_ml"]


def test_the_best_is_the_highest_dice_the_lowest_error_and_the_ratio_next_to_one() -> None:
    a, b = result({"x": [0.8, 0.2, 1]}), result({"x": [1.3, 0.1, 2]})
    comparison = compared({"a": a, "b": b})
    assert comparison.best("1", "dice") == {"b"}
    assert comparison.best("1", "ece") == {"b"}
    assert comparison.best("top_label", "error_rate_ratio") == {"a"}
    assert comparison.best("1", "volume_true_ml") == set()


def collapsing(seed, *, missed=(), n=12):
    """Two classes, of which those missed have Dice 0, and the better calibration."""
    training = random_result(seed, n=n, classes=("1", "2"))
    for i, case in enumerate(training["cases"]):
        for key, metrics in case["classes"].items():
            metrics["brier_plus"] = 0.5 if i else None  # the first case does not have it
            if key in missed:
                metrics.update(dice=0.0 if i else None, ece=metrics["ece"] / 100)
        case["top_label"]["ece"] = 0.001 if missed else 0.1 + i / 100
    return training


def test_nobody_is_best_by_means_over_different_cases() -> None:
    """A model that misses the hard cases has no distances there."""
    hard, easy = [0.5, 0.3, 1.0], [0.9, 0.1, 1.0]
    a = result({"x": easy, "y": easy, "z": hard})
    b = result({"x": easy, "y": easy, "z": [0.0, None, 1.0]})
    comparison = compared({"a": a, "b": b})
    assert comparison.summary["b"]["1"]["ece"]["mean"] < comparison.summary["a"]["1"]["ece"]["mean"]
    assert comparison.best("1", "ece") == set()
    assert comparison.best("1", "dice") == {"a"}


def test_nor_if_they_are_as_many_but_others() -> None:
    a = result({"x": [0.8, 0.1, 1.0], "y": [0.8, 0.3, 1.0], "z": [0.8, None, 1.0]})
    b = result({"x": [0.8, None, 1.0], "y": [0.8, 0.2, 1.0], "z": [0.8, 0.9, 1.0]})
    comparison = compared({"a": a, "b": b})
    assert [comparison.summary[m]["1"]["ece"]["n"] for m in ("a", "b")] == [2, 2]
    assert comparison.best("1", "ece") == set()
    assert comparison.best("1", "dice") == {"a", "b"}


def test_a_missed_class_does_not_drop_out_of_the_mean_over_classes() -> None:
    """Its distance does not exist; that of the other class alone could be the better mean."""
    trainings = [random_result(0, classes=("1", "2")) for _ in range(2)]
    for i, training in enumerate(trainings):
        for n, case in enumerate(training["cases"]):
            for key, metrics in case["classes"].items():
                metrics["brier_plus"] = 0.5
                is_missed = i == 1 and key == "2" and n < 4
                metrics["hd95"] = None if is_missed else float(key)
    comparison = compared({"a": trainings[0], "b": trainings[1]})
    of_a, of_b = (comparison.values(model, "foreground", "hd95").tolist() for model in ("a", "b"))
    assert of_a == [1.5] * 12
    assert of_b == pytest.approx([np.nan] * 4 + [1.5] * 8, nan_ok=True)
    difference = comparison.headline_differences["b"]["foreground"]["hd95"]
    assert (difference["mean"], difference["n"]) == (0, 8)


class TestNotSegmented:
    @pytest.fixture
    def comparison(self):
        some = (collapsing(3), collapsing(4, missed="2"), collapsing(5))
        return compared(
            {
                "good": collapsing(0),
                "other": collapsing(1),
                "collapsed": collapsing(2, missed="2"),
                "sometimes": some,
            }
        )

    def test_it_is_said_of_whom_and_in_how_many_trainings(self, comparison) -> None:
        expected = {"collapsed": {"2": 1}, "sometimes": {"2": 1}}
        assert comparison.not_segmented == comparison.to_dict()["not_segmented"] == expected
        assert comparison.n_trainings == {"good": 1, "other": 1, "collapsed": 1, "sometimes": 3}

    def test_it_is_best_in_nothing_of_that_class_nor_of_the_top_label(self, comparison) -> None:
        def lowest(key):
            return min(comparison.models, key=lambda m: comparison.summary[m][key]["ece"]["mean"])

        assert lowest("2") == lowest("top_label") == "collapsed"
        for key in ("2", "top_label"):
            for metric in comparison.summary["good"][key]:
                assert comparison.best(key, metric) <= {"good", "other"}
        assert comparison.best("2", "ece")
        assert comparison.best("1", "ece") == {lowest("1")}

    def test_a_few_missed_cases_of_one_fold_are_no_failed_training(self) -> None:
        def fold(number, n, missed=()):
            text = json.dumps(collapsing(number, missed=missed, n=n))
            return json.loads(text.replace('"c0', f'"fold{number}_'))

        # The first case of each does not have the class.
        for n, of_other, expected in ((3, "", {}), (4, "", {"2": 1}), (3, "2", {"2": 2})):
            comparison = compared({"folds": (fold(0, n, "2"), fold(1, n, of_other))})
            assert comparison.not_segmented.get("folds", {}) == expected

    def test_where_nobody_segments_it_nobody_is_best(self) -> None:
        comparison = compared({str(i): collapsing(i, missed="2") for i in range(2)})
        assert comparison.best("2", "ece") == comparison.best("top_label", "ece") == set()

    def test_the_verdict_is_that_it_does_not(self, comparison) -> None:
        assert comparison.differences["collapsed"]["2"]["ece"]["p_holm"] < 0.05
        for model in ("collapsed", "sometimes"):
            for key in ("2", "top_label"):
                assert comparison.verdict(model, key, "ece") == "not segmented"
            assert comparison.verdict(model, "1", "ece") == ""
        assert comparison.verdict("other", "2", "ece") == ""

    def test_nobody_is_compared_with_a_first_model_that_does_not(self) -> None:
        first, other = collapsing(2, missed="2"), collapsing(0)
        comparison = compared({"first": first, "other": other})
        assert comparison.verdict("other", "2", "dice") == "not segmented"
        assert comparison.verdict("other", "1", "dice") == ""

    def test_a_class_that_is_in_no_reference_is_not_missed(self) -> None:
        training = collapsing(0, missed="2")
        for case in training["cases"]:
            case["classes"]["2"]["brier_plus"] = None
        assert compared({"a": training}).not_segmented == {}

    def test_one_case_in_which_it_is_segmented_is_enough(self) -> None:
        training = collapsing(0, missed="2")
        training["cases"][5]["classes"]["2"]["dice"] = 1e-4
        assert compared({"a": training}).not_segmented == {}

    def test_results_that_do_not_tell_are_compared_all_the_same(self) -> None:
        training = collapsing(0, missed="2")
        for case in training["cases"]:
            for metrics in case["classes"].values():
                del metrics["brier_plus"]
        assert compared({"a": training}).not_segmented == {}


def test_a_ratio_is_compared_by_its_distance_to_one() -> None:
    a = result({"x": [0.5, 0, 1], "y": [0.8, 0, 1], "z": [0.9, 0, 1]})
    b = result({"x": [1.4, 0, 1], "y": [1.1, 0, 1], "z": [1.4, 0, 1]})
    test = compared({"a": a, "b": b}).differences["b"]["top_label"]
    # 0.4 - 0.5, 0.1 - 0.2, 0.4 - 0.1
    assert test["error_rate_ratio"]["mean"] == pytest.approx(0.1 / 3)


def test_a_ratio_that_is_right_on_average_alone_is_not_the_best() -> None:
    a = result({"x": [0.9, 0, 1], "y": [0.7, 0, 1]})
    b = result({"x": [0.5, 0, 1], "y": [1.5, 0, 1]})
    comparison = compared({"a": a, "b": b})
    ratios = {m: comparison.summary[m]["top_label"]["error_rate_ratio"] for m in "ab"}
    assert (ratios["a"]["mean"], ratios["b"]["mean"]) == pytest.approx((0.8, 1.0))
    assert (ratios["a"]["distance"], ratios["b"]["distance"]) == pytest.approx((0.2, 0.5))
    assert comparison.best("top_label", "error_rate_ratio") == {"a"}
    texts = [tables.cell(comparison, m, "top_label", "error_rate_ratio") for m in "ab"]
    assert texts == [("0.80 (0.14), off by 0.20", True), ("1.00 (0.71), off by 0.50", False)]
    difference = comparison.differences["b"]["top_label"]["error_rate_ratio"]["mean"]
    assert difference == pytest.approx(0.5 - 0.2)
    again = Comparison.from_dict(json.loads(json.dumps(nan_to_none(comparison.to_dict()))))
    assert again.best("top_label", "error_rate_ratio") == {"a"}


def test_the_verdict_knows_what_is_better() -> None:
    a = random_result(0, n=30)
    worse = random_result(0, n=30, shift=0.2)
    for case in worse["cases"]:
        case["classes"]["1"]["dice"] -= 0.4
    comparison = compared({"a": a, "b": worse, "c": a})
    assert comparison.verdict("b", "1", "dice") == "worse"
    assert comparison.verdict("b", "1", "ece") == "worse"
    assert comparison.verdict("c", "1", "ece") == ""
    assert comparison.verdict("b", "1", "volume_true_ml") == ""
    back = compared({"b": worse, "a": a})
    assert back.verdict("a", "1", "dice") == back.verdict("a", "1", "ece") == "better"


def test_classes_of_other_names_are_said() -> None:
    other = random_result(1)
    other["classes"]["1"]["name"] = "something else"
    (line,) = compared({"a": random_result(0), "b": other}).warnings
    assert line == "classes are not called the same: a class 1; b something else"


def test_the_same_result_under_two_names_is_said() -> None:
    (line,) = compared({"a": random_result(0), "b": random_result(0)}).warnings
    assert line.startswith("b: one training has the same numbers as a training of a")


def test_one_evaluation_may_stand_under_two_names_but_not_twice_under_one() -> None:
    """As a lambda that was chosen does, beside itself."""
    evaluation = Evaluation.from_dict(random_result(0))
    assert compare({"a": evaluation, "b": evaluation}).warnings == ()
    (line,) = compare({"a": [evaluation, evaluation]}).warnings
    assert line.startswith("a: one training has the same numbers as another")


def test_another_padding_is_said() -> None:
    """Without it, other voxels were evaluated in case c03."""
    plain, other = (random_result(seed, roi="crop") for seed in range(2))
    case = other["cases"][3]
    case["bins"] = {key: {**bins, "count": [2]} for key, bins in case["bins"].items()}
    (line,) = compared({"a": plain, "b": [random_result(2, roi="crop"), other]}).warnings
    assert line == (
        "b has another padding than a in 1 of 12 cases, so that other voxels were evaluated: c03"
    )


class TestOverAnRoi:
    @pytest.fixture
    def evaluation(self):
        content, other = random_result(0), random_result(1)
        content["settings"]["rois"] = ["image", "boundary:5"]
        content["by_roi"] = {"boundary:5": {k: other[k] for k in ("classes", "top_label", "cases")}}
        return Evaluation.from_dict(content)

    def test_the_first_one_is_meant_if_none_is_named(self, evaluation) -> None:
        for roi in (None, "image"):
            chosen = evaluation.over(roi)
            assert (chosen.roi, chosen.settings["rois"]) == ("image", ["image"])
            assert chosen.pooled == {"image": evaluation.pooled["image"]}

    def test_another_one(self, evaluation) -> None:
        other = Evaluation.from_dict(random_result(1, roi="boundary:5"))
        assert list(evaluation.over("boundary:5").rows()) == list(other.rows())
        assert compare({"a": evaluation}, roi="boundary:5").roi == "boundary:5"
        assert evaluation.settings["rois"] == ["image", "boundary:5"]

    def test_one_that_is_not_there(self, evaluation) -> None:
        message = r"^a: expected .* crop, got one over image, boundary:5;"
        with pytest.raises(InputError, match=message):
            compare({"a": evaluation}, roi="crop")


class TestTrainingsOfOneModel:
    def test_over_other_voxels_are_refused(self) -> None:
        trainings = (random_result(0), random_result(1, roi="boundary:5"))
        with pytest.raises(InputError, match=r"got a over image, a over boundary:5$"):
            compared({"a": trainings})

    def test_with_other_settings_are_said(self) -> None:
        trainings = (random_result(0), random_result(1, segmentation="argmax"))
        comparison = compared({"a": trainings, "b": random_result(2)})
        assert "segmentation is not the same: a file, a argmax, b file" in comparison.warnings

    def test_inside_other_masks_are_said(self) -> None:
        a, b = (random_result(i, roi="mask:masks") for i in range(2))
        for content, mask in ((a, "one"), (b, "other")):
            for files in content["files"]["cases"].values():
                files["mask:masks"] = mask
        (line, *_) = compared({"a": a, "b": b}).warnings
        assert line.startswith("b was evaluated inside other masks than a in 12 of 12 cases: c00")

    def test_a_calibrator_matters_where_its_cases_are_compared(self) -> None:
        a, b = random_result(0), random_result(1)
        calibrator = {"identity": "x", "any_network": [], "n_cases": 12, "n_fitted_on": 2}
        b["calibrators"] = [{**calibrator, "used_to_fit": ["c01", "c07"]}]
        comparison = compared({"a": a, "b": b})
        line = "b: 2 of 12 cases were used to fit the calibrator: these numbers are optimistic"
        assert comparison.warnings == (f"{line} (c01, c07)",)
        assert comparison.optimistic == {"b"}
        for content in (a["cases"], a["files"]["cases"]):
            for name in ("c01", "c07"):
                index = (
                    name if isinstance(content, dict) else [c["case"] for c in content].index(name)
                )
                del content[index]
        comparison = compared({"a": a, "b": b})
        assert not comparison.optimistic
        assert not any("optimistic" in line for line in comparison.warnings)


class TestRefused:
    def test_trainings_with_other_bins(self) -> None:
        with pytest.raises(
            InputError, match=r"^a: expected trainings .* the same number of bins, got 10 and 15"
        ):
            compared({"a": (random_result(0), random_result(1, bins=10))})

    @pytest.mark.parametrize("models", [{}, {"a": []}, {"a": None}, {"a": [random_result(0)]}])
    def test_what_is_no_evaluation(self, models) -> None:
        with pytest.raises(InputError, match=r"^(a: expected an Evaluation|models: expected at)"):
            compare(models)

    def test_no_common_case(self) -> None:
        a, b = result({"x": [1, 1, 1]}), result({"y": [1, 1, 1]})
        with pytest.raises(InputError, match="cases that all of them have"):
            compared({"a": a, "b": b})

    def test_other_classes(self) -> None:
        a, b = random_result(0), random_result(0, classes=("1", "2"))
        with pytest.raises(InputError, match=r"^b: expected the classes of a, 1, got 1, 2"):
            compared({"a": a, "b": b})

    def test_other_voxels(self) -> None:
        a, b = random_result(0), random_result(0, roi="boundary:5")
        with pytest.raises(InputError, match="a over image, b over boundary:5"):
            compared({"a": a, "b": b})


class TestLoad:
    def test_from_the_folder_of_results_or_of_predictions(self, tmp_path) -> None:
        content = random_result(0)
        (tmp_path / "calibration").mkdir()
        (tmp_path / "calibration" / "calibration.json").write_text(json.dumps(content))
        for path in ("", "calibration", "calibration/calibration.json"):
            assert read_evaluation(tmp_path / path).settings == content["settings"]

    def test_no_folder(self, tmp_path) -> None:
        with pytest.raises(InputError, match="expected a folder"):
            read_evaluation(tmp_path / "nowhere")

    def test_nothing_there(self, tmp_path) -> None:
        with pytest.raises(
            InputError,
            match=r"'calibration', or predictions with probabilities \(CASE.npz\), found none",
        ):
            read_evaluation(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": 1}'])
    def test_something_else(self, tmp_path, text) -> None:
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(InputError, match="expected a result of meep-calib-eval"):
            read_evaluation(tmp_path)

    def test_a_part_of_a_result(self, tmp_path) -> None:
        content = random_result(0)
        del content["cases"], content["classes"]
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="it has no classes, cases"):
            read_evaluation(tmp_path)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda cases: cases[1]["classes"].pop("1"),
            lambda cases: cases[1]["classes"]["1"].pop("ece"),
            lambda cases: cases[1]["classes"]["1"].update(ece="x"),
            lambda cases: cases[1].pop("case"),
            lambda cases: cases.append(cases[0]),
            lambda cases: cases.clear(),
            lambda cases: cases.insert(0, 3),
            lambda cases: cases[1].update(bins={"1": {"count": [1], "mean_p": [1], "mean_y": [1]}}),
            lambda cases: cases[1]["bins"].update({"1": {**ONE_BIN, "count": [1, 2]}}),
            lambda cases: cases[1]["bins"].update({"1": {**ONE_BIN, "mean_p": ["x"]}}),
        ],
    )
    @pytest.mark.parametrize("where", ["first ROI", "another ROI"])
    def test_a_damaged_result(self, tmp_path, damage, where) -> None:
        content, other = random_result(0), random_result(1)
        content["settings"]["rois"] = ["image", "crop"]
        content["by_roi"] = {"crop": other}
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(content))
        read_evaluation(tmp_path)
        damage((content if where == "first ROI" else other)["cases"])
        path.write_text(json.dumps(content))
        with pytest.raises(
            InputError, match=rf"^{path}: expected .* one that is damaged: "
        ) as error:
            read_evaluation(tmp_path)
        assert "\n" not in str(error.value)

    def test_a_region_of_interest_that_is_none(self, tmp_path) -> None:
        content = random_result(0)
        content["settings"]["rois"] = ["$x$"]
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"whose settings are damaged: '\$x\$' is not an ROI"):
            read_evaluation(path)

    @pytest.mark.parametrize("folds", [1, None, "0", ["0", 1], {"0": "1"}])
    def test_a_damaged_network(self, tmp_path, folds) -> None:
        content = random_result(0)
        content["network"]["folds"] = folds
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="one that is damaged: network: expected"):
            read_evaluation(tmp_path)

    def test_another_schema(self, tmp_path) -> None:
        content = {**random_result(0), "schema": 1}
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        with pytest.raises(InputError) as error:
            read_evaluation(tmp_path)
        assert str(error.value) == (
            f"{tmp_path / 'calibration.json'}: expected a result of schema 4, got 1; evaluate it "
            f"again with this version: meep-calib-eval gt pred -o {tmp_path} --bins 15 --roi "
            f"image"
        )

    @pytest.mark.parametrize(
        "damage",
        [
            lambda files: files.pop("cases"),
            lambda files: files["cases"].pop("c01"),
            lambda files: files["cases"]["c01"].pop("reference"),
            lambda files: files.update(cases=[1]),
        ],
    )
    def test_a_result_that_does_not_say_its_files(self, tmp_path, damage) -> None:
        content = random_result(0)
        damage(content["files"])
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="one that is damaged: "):
            read_evaluation(tmp_path)

    @pytest.mark.parametrize("value", [None, 5, "x", [], {}, [5], [{}], 10**400])
    @pytest.mark.parametrize(
        "place",
        [
            *("origin", "calibrators", "not_predicted", "skipped", "incomplete_folds"),
            *("by_roi", "files", "classes", "cases", "top_label", "settings"),
            *("origin/written", "origin/pred_folders", "origin/masks", "files/cases"),
            *("settings/rois", "settings/bins", "settings/pred_folder", "classes/1"),
            *("classes/1/pooled", "classes/1/pooled/bins", "cases/0/bins", "cases/0/bins/1"),
            *("classes/1/name", "cases/0", "cases/0/top_label", "cases/0/classes/1/ece"),
            *("cases/0/n_not_argmax", "settings/dataset_json", "origin/gt_folder"),
        ],
    )
    def test_anything_else_in_its_place_is_one_line_or_as_good(
        self, tmp_path, place, value
    ) -> None:
        from nnunet_meep.evaluation.report import comparison_tables as tables
        from nnunet_meep.evaluation.trainings import open_training

        content = random_result(0)
        *way, name = (int(k) if k.isdigit() and k != "1" else k for k in place.split("/"))
        target = content
        for key in way:
            target = target[key]
        target[name] = value
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        with suppress(InputError):  # anything else would be a traceback
            training = open_training(tmp_path, write=tables.write, as_stored=True)
            tables.terminal(compare({"a": training.evaluation}, notes=[("a", "a line")]))

    def test_a_result_without_its_options(self, tmp_path) -> None:
        content = random_result(0)
        del content["settings"]["reader"], content["settings"]["chill"]
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"settings are damaged: settings has no chill$"):
            read_evaluation(tmp_path)

    def test_other_references_are_said(self) -> None:
        a, b = random_result(0), random_result(0)
        b["files"]["cases"]["c03"]["reference"] = "another"
        (line, *_) = compared({"a": a, "b": b}).warnings[1:]
        assert line == "b was evaluated against other references than a in 1 of 12 cases: c03"


class TestTyped:
    """Evaluations and comparisons come back from their JSON as they were."""

    def test_an_evaluation(self) -> None:
        content = random_result(0, classes=("1", "2"))
        content["cases"][3]["classes"]["2"]["dice"] = None
        evaluation = Evaluation.from_dict(content)
        again = Evaluation.from_dict(json.loads(json.dumps(nan_to_none(evaluation.to_dict()))))
        assert evaluation.classes == {"1": "class 1", "2": "class 2"}
        assert np.isnan(again.cases[3].rois["image"].classes["2"]["dice"])
        assert nan_to_none(again.to_dict()) == nan_to_none(evaluation.to_dict())

    def test_a_comparison(self) -> None:
        a, b = random_result(0), random_result(1)
        a["cases"][0]["classes"]["1"]["dice"] = None
        comparison = compared({"a": a, "b": b})
        content = nan_to_none(comparison.to_dict())
        again = Comparison.from_dict(json.loads(json.dumps(content)))
        assert nan_to_none(again.to_dict()) == content
        assert again.n_tests == comparison.n_tests
        assert again.verdict("b", "1", "ece") == comparison.verdict("b", "1", "ece")
        assert again.best("1", "ece") == comparison.best("1", "ece")
        assert again.to_dataframe().equals(comparison.to_dataframe())

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content.pop("summary"),
            lambda content: content.update(schema=3),
            lambda content: content.pop("n_folds"),
            lambda content: content["headline"]["a"].pop("foreground"),
            lambda content: content["headline_differences"]["b"].update(top_label=3),
            lambda content: content["summary"]["a"]["1"]["ece"].pop("ci95_trainings"),
            lambda content: content["models"].append("c"),
            lambda content: content["models"].clear(),
            lambda content: content["summary"]["a"].pop("1"),
            lambda content: content["differences"]["b"]["1"]["ece"].pop("p"),
            lambda content: content["summary"]["a"]["1"].update(nothing={}),
            lambda content: content["summary"]["a"]["1"]["ece"].update(mean="x"),
        ],
    )
    def test_a_damaged_comparison_is_one_line(self, damage) -> None:
        content = nan_to_none(compared({"a": random_result(0), "b": random_result(1)}).to_dict())
        damage(content)
        message = r"^expected a result of meep-calib-compare, got one that is damaged: .+$"
        with pytest.raises(InputError, match=message):
            Comparison.from_dict(content)

    def test_one_row_for_each_model_class_and_metric(self) -> None:
        comparison = compared({"a": random_result(0), "b": [random_result(1), random_result(2)]})
        table = comparison.to_dataframe().set_index(["model", "class", "metric"])
        assert len(table) == 2 * (3 + 3)
        row = table.loc["b", "1", "ece"]
        assert row["mean"] == comparison.summary["b"]["1"]["ece"]["mean"]
        assert row["p_holm"] == comparison.differences["b"]["1"]["ece"]["p_holm"]
        ends = row[["difference_low_trainings", "difference_high_trainings"]].tolist()
        assert ends == comparison.differences["b"]["1"]["ece"]["ci95_trainings"]
        ends = row[["low_trainings", "high_trainings"]].tolist()
        assert ends == comparison.summary["b"]["1"]["ece"]["ci95_trainings"]
        assert row["n_trainings"] == 2
        assert np.isnan(table.loc["a", "1", "ece"]["difference"])

    def test_means_over_several_classes_have_rows_of_their_own(self) -> None:
        rng = np.random.default_rng(0)
        models = {
            model: stored_result(
                {
                    f"c{i}": {key: {"dice": rng.random(), "ece": rng.random()} for key in "12"}
                    for i in range(6)
                }
            )
            for model in "ab"
        }
        comparison = compared(models)
        table = comparison.to_dataframe().set_index(["model", "class", "metric"])
        row = table.loc["b", "foreground", "dice"]
        assert row["name"] == "mean over the classes"
        of_classes = [table.loc["b", key, "dice"]["mean"] for key in ("1", "2")]
        assert row["mean"] == pytest.approx(np.mean(of_classes))
        test = comparison.headline_differences["b"]["foreground"]["dice"]
        assert row["difference"] == test["mean"]
        assert row["p_holm"] == pytest.approx(test["p_holm"], nan_ok=True)
        assert np.isnan(table.loc["a", "foreground", "dice"]["difference"])

    def test_a_case_is_the_mean_over_the_trainings(self) -> None:
        seeds = [random_result(1), random_result(2)]
        comparison = compared({"a": random_result(0), "b": seeds})
        expected = np.mean([column(seed, "dice") for seed in seeds], axis=0)
        assert comparison.values("b", "1", "dice") == pytest.approx(expected)
