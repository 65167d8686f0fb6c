"""Models compared over common cases, against numpy and scipy on the same numbers."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from predictions import NOTHING_TO_SAY, files_of
from scipy.stats import wilcoxon

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.compare import Model, compare
from nnunet_meep.evaluation.stored_results import in_roi, load_result

METRICS = ("dice", "ece", "volume_true_ml")


def result(values, *, roi="image", classes=("1",), top_label=True, **settings):
    """A ``calibration.json``; ``values``: case: metrics of every class, None for undefined."""
    cases = [
        {
            "case": case,
            "classes": {key: dict(zip(METRICS, row, strict=True)) for key in classes},
            "top_label": {"ece": row[1], "error_rate_ratio": row[0]} if top_label else None,
            "n_not_argmax": 0,
        }
        for case, row in values.items()
    ]
    return {
        "schema": 3,
        "settings": {
            "bins": 15,
            "rois": [roi],
            "gt_folder": "gt",
            "pred_folder": "pred",
            "version": "1",
            "surface": True,
            "segmentation": "file",
            "chill": False,
            "reader": None,
            **settings,
        },
        **NOTHING_TO_SAY,
        "files": files_of(values),
        "classes": {key: {"name": f"class {key}"} for key in classes},
        "top_label": {} if not top_label else {"per_case": {}},
        "cases": cases,
    }


def random_result(seed, n=12, shift=0.0, **kwargs):
    rng = np.random.default_rng(seed)
    return result(
        {f"c{i:02d}": [*(rng.random(2) + shift).tolist(), 1.0] for i in range(n)}, **kwargs
    )


def column(training, metric):
    return np.array([c["classes"]["1"][metric] for c in training["cases"]], float)


def test_summary_of_each_model_is_over_its_cases() -> None:
    a, b = random_result(0), random_result(1)
    comparison = compare([Model("a", (a,)), Model("b", (b,))])
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
    comparison = compare([Model("a", (random_result(9),)), Model("b", tuple(seeds))])
    dice = np.array([column(s, "dice") for s in seeds])
    entry = comparison.summary["b"]["1"]["dice"]
    assert entry["std"] == pytest.approx(dice.mean(axis=0).std(ddof=1))
    assert entry["std"] != pytest.approx(dice.std(ddof=1), rel=0.1)
    assert entry["training_std"] == pytest.approx(dice.mean(axis=1).std(ddof=1))


def test_differences_are_paired_and_tested() -> None:
    a, b = random_result(0), random_result(1, shift=0.3)
    comparison = compare([Model("a", (a,)), Model("b", (b,))])
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
    comparison = compare([Model(str(i), (training,)) for i, training in enumerate(results)])
    every = all_tests(comparison)
    hidden = [t for (_, _, metric), t in every.items() if metric == "mce"]
    assert all(t["p"] <= 1 and np.isnan([t["p_holm"], t["p_holm_smallest"]]).all() for t in hidden)
    tests = [t for (_, _, m), t in every.items() if m != "mce" and not np.isnan(t["p"])]
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
    comparison = compare([Model("a", (a,)), Model("b", (b,))])
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
    comparison = compare([Model("a", (a,)), Model("b", (b,))])
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
    test = compare([Model("a", (a,)), Model("b", (b,))]).differences["b"]["1"]["dice"]
    assert test["p"] == pytest.approx(p, rel=1e-12)
    assert test["p_smallest"] == 2.0 ** (1 - len(difference))


def test_equal_models_do_not_differ() -> None:
    a = random_result(0)
    test = compare([Model("a", (a,)), Model("b", (a,))]).differences["b"]["1"]["dice"]
    assert (test["mean"], test["p"], test["p_holm"]) == (0, 1, 1)


def test_only_common_cases_count_and_the_others_are_said() -> None:
    a = result({"x": [0.1, 0.2, 1], "y": [0.3, 0.4, 1]})
    b = result({"y": [0.5, 0.6, 1], "z": [0.7, 0.8, 1]})
    comparison = compare([Model("a", (a,)), Model("b", (b,))])
    assert comparison.cases == ("y",)
    assert comparison.summary["a"]["1"]["dice"]["mean"] == 0.3
    assert [w.split(":")[0] for w in comparison.warnings] == ["a", "b"]
    assert comparison.warnings[0].endswith(": x")


def test_an_undefined_value_is_left_out_on_both_sides() -> None:
    a = result({"x": [0.1, 0.2, 1], "y": [None, 0.4, 1], "z": [0.5, 0.1, 1]})
    b = result({"x": [0.2, 0.2, 1], "y": [0.5, 0.6, 1], "z": [None, 0.1, 1]})
    comparison = compare([Model("a", (a,)), Model("b", (b,))])
    assert comparison.summary["a"]["1"]["dice"]["n_undefined"] == 1
    test = comparison.differences["b"]["1"]["dice"]
    assert test["n"] == 1
    assert test["mean"] == pytest.approx(0.1)
    assert np.isnan(test["p"])
    assert np.isnan(test["p_holm"])


def test_a_case_undefined_in_one_training_is_the_mean_of_the_others() -> None:
    seeds = (result({"x": [None, 0.2, 1]}), result({"x": [0.4, 0.2, 1]}))
    entry = compare([Model("a", seeds)]).summary["a"]["1"]["dice"]
    assert (entry["mean"], entry["n_undefined"]) == (0.4, 0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("bins", 10), ("surface", False), ("segmentation", "argmax"), ("version", "2")],
)
def test_other_settings_are_said(setting, value) -> None:
    models = [Model("a", (random_result(0),)), Model("b", (random_result(1, **{setting: value}),))]
    (line,) = compare(models).warnings
    assert setting in line
    assert str(value) in line


def test_results_without_a_top_label_are_compared_by_class(tmp_path) -> None:
    old, new = random_result(0), random_result(1)
    del old["top_label"]  # as before the top label was evaluated
    for case in old["cases"]:
        del case["top_label"], case["classes"]["1"]["ece"]
    comparison = compare([Model("old", (old,)), Model("new", (new,))])
    assert list(comparison.classes) == ["1"]
    assert list(comparison.summary["new"]["1"]) == ["dice", "volume_true_ml"]


def test_the_best_is_the_highest_dice_the_lowest_error_and_the_ratio_next_to_one() -> None:
    a, b = result({"x": [0.8, 0.2, 1]}), result({"x": [1.3, 0.1, 2]})
    comparison = compare([Model("a", (a,)), Model("b", (b,))])
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


class TestNotSegmented:
    @pytest.fixture
    def comparison(self):
        some = (collapsing(3), collapsing(4, missed="2"), collapsing(5))
        return compare(
            [
                Model("good", (collapsing(0),)),
                Model("other", (collapsing(1),)),
                Model("collapsed", (collapsing(2, missed="2"),)),
                Model("sometimes", some),
            ]
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

    def test_where_nobody_segments_it_nobody_is_best(self) -> None:
        models = [Model(str(i), (collapsing(i, missed="2"),)) for i in range(2)]
        assert compare(models).best("2", "ece") == compare(models).best("top_label", "ece") == set()

    def test_the_verdict_is_that_it_does_not(self, comparison) -> None:
        assert comparison.differences["collapsed"]["2"]["ece"]["p_holm"] < 0.05
        for model in ("collapsed", "sometimes"):
            for key in ("2", "top_label"):
                assert comparison.verdict(model, key, "ece") == "not segmented"
            assert comparison.verdict(model, "1", "ece") == ""
        assert comparison.verdict("other", "2", "ece") == ""

    def test_nobody_is_compared_with_a_first_model_that_does_not(self) -> None:
        first, other = collapsing(2, missed="2"), collapsing(0)
        comparison = compare([Model("first", (first,)), Model("other", (other,))])
        assert comparison.verdict("other", "2", "dice") == "not segmented"
        assert comparison.verdict("other", "1", "dice") == ""

    def test_a_class_that_is_in_no_reference_is_not_missed(self) -> None:
        training = collapsing(0, missed="2")
        for case in training["cases"]:
            case["classes"]["2"]["brier_plus"] = None
        assert compare([Model("a", (training,))]).not_segmented == {}

    def test_one_case_in_which_it_is_segmented_is_enough(self) -> None:
        training = collapsing(0, missed="2")
        training["cases"][5]["classes"]["2"]["dice"] = 1e-4
        assert compare([Model("a", (training,))]).not_segmented == {}

    def test_results_that_do_not_tell_are_compared_all_the_same(self) -> None:
        training = collapsing(0, missed="2")
        for case in training["cases"]:
            for metrics in case["classes"].values():
                del metrics["brier_plus"]
        assert compare([Model("a", (training,))]).not_segmented == {}


def test_a_ratio_is_compared_by_its_distance_to_one() -> None:
    a = result({"x": [0.5, 0, 1], "y": [0.8, 0, 1], "z": [0.9, 0, 1]})
    b = result({"x": [1.4, 0, 1], "y": [1.1, 0, 1], "z": [1.4, 0, 1]})
    test = compare([Model("a", (a,)), Model("b", (b,))]).differences["b"]["top_label"]
    # 0.4 - 0.5, 0.1 - 0.2, 0.4 - 0.1
    assert test["error_rate_ratio"]["mean"] == pytest.approx(0.1 / 3)


def test_the_verdict_knows_what_is_better() -> None:
    a = random_result(0, n=30)
    worse = random_result(0, n=30, shift=0.2)
    for case in worse["cases"]:
        case["classes"]["1"]["dice"] -= 0.4
    comparison = compare([Model("a", (a,)), Model("b", (worse,)), Model("c", (a,))])
    assert comparison.verdict("b", "1", "dice") == "worse"
    assert comparison.verdict("b", "1", "ece") == "worse"
    assert comparison.verdict("c", "1", "ece") == ""
    assert comparison.verdict("b", "1", "volume_true_ml") == ""
    back = compare([Model("b", (worse,)), Model("a", (a,))])
    assert back.verdict("a", "1", "dice") == back.verdict("a", "1", "ece") == "better"


def test_classes_of_other_names_are_said() -> None:
    other = random_result(1)
    other["classes"]["1"]["name"] = "something else"
    (line,) = compare([Model("a", (random_result(0),)), Model("b", (other,))]).warnings
    assert line == "classes are not called the same: a class 1; b something else"


def test_the_same_result_under_two_names_is_said() -> None:
    (line,) = compare([Model("a", (random_result(0),)), Model("b", (random_result(0),))]).warnings
    assert line.startswith("b: one training has every number of a training of a")


class TestInRoi:
    def evaluated(self):
        content = random_result(0)
        other = random_result(1)
        content["settings"]["rois"] = ["image", "boundary:5"]
        content["by_roi"] = {"boundary:5": {k: other[k] for k in ("classes", "top_label", "cases")}}
        return content, other

    def test_the_first_one_is_meant_if_none_is_named(self) -> None:
        content, _ = self.evaluated()
        assert in_roi(content, None, Path("x")) is content
        assert in_roi(content, "image", Path("x")) is content

    def test_another_one(self) -> None:
        content, other = self.evaluated()
        chosen = in_roi(content, "boundary:5", Path("x"))
        assert chosen["cases"] == other["cases"]
        assert compare([Model("a", (chosen,))]).roi == "boundary:5"
        assert content["settings"]["rois"] == ["image", "boundary:5"]

    def test_one_that_is_not_there(self) -> None:
        content, _ = self.evaluated()
        with pytest.raises(
            InputError, match=r"^x: expected .* crop, got one over image, boundary:5;"
        ):
            in_roi(content, "crop", Path("x"))


class TestTrainingsOfOneModel:
    def test_over_other_voxels_are_refused(self) -> None:
        trainings = (random_result(0), random_result(1, roi="boundary:5"))
        with pytest.raises(InputError, match=r"got a over image, a over boundary:5$"):
            compare([Model("a", trainings)])

    def test_with_other_settings_are_said(self) -> None:
        trainings = (random_result(0), random_result(1, segmentation="argmax"))
        comparison = compare([Model("a", trainings), Model("b", (random_result(2),))])
        assert "segmentation is not the same: a file, a argmax, b file" in comparison.warnings

    def test_inside_other_masks_are_said(self) -> None:
        a, b = (random_result(i, roi="mask:masks") for i in range(2))
        for content, mask in ((a, "one"), (b, "other")):
            for files in content["files"]["cases"].values():
                files["mask:masks"] = mask
        (line, *_) = compare([Model("a", (a,)), Model("b", (b,))]).warnings
        assert line.startswith("b was evaluated inside other masks than a in 12 of 12 cases: c00")

    def test_a_calibrator_matters_where_its_cases_are_compared(self) -> None:
        a, b = random_result(0), random_result(1)
        calibrator = {"identity": "x", "any_network": [], "n_cases": 12}
        b["calibrators"] = [{**calibrator, "used_to_fit": ["c01", "c07"]}]
        comparison = compare([Model("a", (a,)), Model("b", (b,))])
        line = "b: 2 of 12 cases were used to fit the calibrator: these numbers are optimistic"
        assert comparison.warnings == (f"{line} (c01, c07)",)
        assert comparison.optimistic == {"b"}
        for content in (a["cases"], a["files"]["cases"]):
            for name in ("c01", "c07"):
                index = (
                    name if isinstance(content, dict) else [c["case"] for c in content].index(name)
                )
                del content[index]
        comparison = compare([Model("a", (a,)), Model("b", (b,))])
        assert not comparison.optimistic
        assert not any("optimistic" in line for line in comparison.warnings)


class TestRefused:
    def test_trainings_with_other_bins(self) -> None:
        with pytest.raises(
            InputError, match=r"^a: expected trainings .* as many bins, got 10 and 15"
        ):
            compare([Model("a", (random_result(0), random_result(1, bins=10)))])

    def test_a_name_twice(self) -> None:
        with pytest.raises(InputError, match=r"^a: expected each name once"):
            compare([Model("a", (random_result(0),)), Model("a", (random_result(1),))])

    def test_no_common_case(self) -> None:
        a, b = result({"x": [1, 1, 1]}), result({"y": [1, 1, 1]})
        with pytest.raises(InputError, match="cases that all of them have"):
            compare([Model("a", (a,)), Model("b", (b,))])

    def test_other_classes(self) -> None:
        a, b = random_result(0), random_result(0, classes=("1", "2"))
        with pytest.raises(InputError, match=r"^b: expected the classes of a, 1, got 1, 2"):
            compare([Model("a", (a,)), Model("b", (b,))])

    def test_other_voxels(self) -> None:
        a, b = random_result(0), random_result(0, roi="boundary:5")
        with pytest.raises(InputError, match="a over image, b over boundary:5"):
            compare([Model("a", (a,)), Model("b", (b,))])


class TestLoad:
    def test_from_the_folder_of_results_or_of_predictions(self, tmp_path) -> None:
        content = random_result(0)
        (tmp_path / "calibration").mkdir()
        (tmp_path / "calibration" / "calibration.json").write_text(json.dumps(content))
        assert load_result(tmp_path) == load_result(tmp_path / "calibration") == content

    def test_no_folder(self, tmp_path) -> None:
        with pytest.raises(InputError, match="expected a folder"):
            load_result(tmp_path / "nowhere")

    def test_nothing_there(self, tmp_path) -> None:
        with pytest.raises(
            InputError,
            match=r"'calibration', or predictions with probabilities \(CASE.npz\), found none",
        ):
            load_result(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": 1}'])
    def test_something_else(self, tmp_path, text) -> None:
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(InputError, match="expected a result of meep-calib-eval"):
            load_result(tmp_path)

    def test_a_part_of_a_result(self, tmp_path) -> None:
        content = random_result(0)
        del content["cases"], content["classes"]
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="without cases, classes"):
            load_result(tmp_path)

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
        ],
    )
    @pytest.mark.parametrize("where", ["first ROI", "another ROI"])
    def test_a_damaged_result(self, tmp_path, damage, where) -> None:
        content, other = random_result(0), random_result(1)
        for part in (content, other):
            part["classes"]["1"]["pooled"] = {"bins": {"count": [1, 2]}}
        content["by_roi"] = {"crop": other}
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(content))
        load_result(tmp_path)
        damage((content if where == "first ROI" else other)["cases"])
        path.write_text(json.dumps(content))
        with pytest.raises(
            InputError, match=rf"^{path}: expected .* one that is damaged: "
        ) as error:
            load_result(tmp_path)
        assert "\n" not in str(error.value)

    def test_another_schema(self, tmp_path) -> None:
        content = {**random_result(0), "schema": 1}
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        with pytest.raises(InputError) as error:
            load_result(tmp_path)
        assert str(error.value) == (
            f"{tmp_path / 'calibration.json'}: expected a result of schema 3, got 1; evaluate it "
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
            load_result(tmp_path)

    @pytest.mark.parametrize("value", [None, 5, "x", [], {}, [5], [{}], 10**400])
    @pytest.mark.parametrize(
        "place",
        [
            *("origin", "calibrators", "not_predicted", "skipped", "incomplete_folds"),
            *("by_roi", "files", "classes", "cases", "top_label", "settings"),
            *("origin/written", "origin/pred_folders", "origin/masks", "files/cases"),
            *("settings/rois", "settings/bins", "settings/pred_folder", "classes/1"),
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
            tables.terminal(compare([Model("a", (training.result,))]))

    def test_a_result_without_its_options(self, tmp_path) -> None:
        content = random_result(0)
        del content["settings"]["reader"], content["settings"]["chill"]
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"settings are damaged: settings has no chill$"):
            load_result(tmp_path)

    def test_other_references_are_said(self) -> None:
        a, b = random_result(0), random_result(0)
        b["files"]["cases"]["c03"]["reference"] = "another"
        (line, *_) = compare([Model("a", (a,)), Model("b", (b,))]).warnings[1:]
        assert line == "b was evaluated against other references than a in 1 of 12 cases: c03"
