"""What tables say: names as they are, statistics that fit the number of cases."""

from __future__ import annotations

import copy
import csv
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from predictions import compared, stored_result

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.report import comparison_tables as tables
from nnunet_meep.evaluation.report.verdict import (
    short_verdict,
    trainings_sentence,
    verdict_sentences,
)

NAME = r"a|b_c & 50% #1 {x} $y^2$ ~ \z"
ESCAPED = (
    r"a\textbar{}b\_c \& 50\% \#1 \{x\} \$y\textasciicircum{}2\$ \textasciitilde{} "
    r"\textbackslash{}z"
)


class Model(NamedTuple):
    """A name, and the ``calibration.json`` of each training."""

    name: str
    trainings: tuple[dict[str, Any], ...]


def compare(models):
    return compared({model.name: list(model.trainings) for model in models})


def result(shift):
    cases = {f"c{i}": {"1": {"dice": 0.5 + i / 100 + shift, "ece": 0.01 * i}} for i in range(5)}
    return stored_result(cases, names={"1": NAME})


def two_models():
    return compared({"plain": result(0), NAME: result(0.1)})


def test_names_are_no_tags_in_markdown() -> None:
    name = "</td><script>alert(1)</script>"
    text = tables.markdown(compared({name: result(0), "a < b": result(0.1)}))
    assert not re.search(r"(?<!\\)<[a-z/]", text)
    assert r"\</td>\<script>alert(1)\</script>" in text
    assert "a < b" in text


def test_bytes_that_are_not_utf8_are_written_as_escapes(tmp_path) -> None:
    cases = {f"c\udce9{i}": {"1": {"dice": 0.5, "ece": 0.01 * i}} for i in range(2)}
    comparison = compared({"m\udce9": stored_result(cases), "b": stored_result(cases)})
    for path in tables.write(comparison, tmp_path):
        assert r"\udce9" in path.read_text(encoding="utf-8")


def test_a_class_whose_name_is_not_printable_is_damage() -> None:
    content = stored_result({"a": {"1": {"dice": 0.5}}}, names={"1": "a\ud800"})
    with pytest.raises(InputError, match="the name of class 1 is not one line of text"):
        compared({"m": content})


def test_markdown_has_as_many_cells_in_each_row() -> None:
    lines = tables.markdown(two_models()).splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {3, 5}  # five cases are too few for a p
    assert [row[0].strip() for row in rows[2:4]] == ["plain", NAME.replace("|", r"\|")]


def test_latex_shows_the_name_as_it_is_and_marks_nothing_where_all_are_equal() -> None:
    tex = tables.latex(two_models())
    (line,) = [line for line in tex.splitlines() if line.startswith("a\\textbar")]
    assert line == rf"{ESCAPED} & \textbf{{0.620 (0.016)}} & 20.00 (15.81) \\"


def test_latex_takes_no_name_for_an_argument() -> None:
    """Of the rule or the end of the line before it."""
    assert r"\textless{}i\textgreater{} &" in tables.latex(compared({"<i>": result(0)}))
    tex = tables.latex(compared({"[A]": result(0), "*b": result(0.1)}))
    rows = [line.split(" & ")[0] for line in tex.splitlines() if line.endswith(r"\\")]
    named = [row for row in rows if row.endswith(("[A]", "*b"))]
    assert named == ["{}[A]", "{}*b"] * tex.count(r"\midrule")


def test_latex_has_balanced_braces_and_environments_and_a_caption_for_each_class() -> None:
    cases = {
        f"c{i}": {"1": {"dice": None if i else 0.5}, "(1, 2)": {"dice": 0.5}} for i in range(3)
    }
    content = stored_result(cases, names={"1": NAME, "(1, 2)": "whole"})
    tex = tables.latex(compared({NAME: [content, content], "b": content}))
    text = re.sub(r"(?m)^%.*$", "", tex).replace(r"\\", "")
    text = re.sub(r"\\[{}&%#_$]", "", text)  # what stands for itself
    depth = np.cumsum([(c == "{") - (c == "}") for c in text])
    assert depth.min() == depth[-1] == 0
    open_now = []
    for command, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if command == "begin":
            open_now.append(name)
        else:
            assert open_now.pop() == name
    assert not open_now
    labels = re.findall(r"\\label\{([\w:-]+)\}", text)
    assert labels == ["tab:calibration-1", "tab:calibration-2"]
    captions = re.findall(r"\\caption\{(.*)\}", tex)
    assert "(1, 2) whole: whole images, 3 cases." in captions[1]
    for words in ("standard deviation over cases", "Trainings: ", " 2, b 1.", "Bold: the best"):
        assert all(words in caption for caption in captions)
    assert ["n: number of cases" in caption for caption in captions] == [True, False]


def test_csv_keeps_it(tmp_path) -> None:
    tables.write(two_models(), tmp_path)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        models = {row["model"] for row in csv.DictReader(file)}
    assert models == {"plain", NAME}


def random_model(name, seed, n, shift=0.0, keys=("1",)):
    """A model with a value of each metric in a table, and of one that is in none."""
    rng = np.random.default_rng(seed)
    metrics = ("dice", "brier", "brier_plus", "ece", "mce")
    cases = {
        f"c{i:02d}": {
            key: dict(zip(metrics, (rng.random(5) / 10 + 0.5 + shift).tolist(), strict=True))
            for key in keys
        }
        for i in range(n)
    }
    return Model(name, (stored_result(cases, names={key: f"class{key}" for key in keys}),))


def rows_of(comparison):
    """The table of differences: class, metric, model: text by heading."""
    rows = tables.difference_rows(comparison)
    head = tables.difference_head(comparison)
    return {tuple(row[:3]): dict(zip(head, row, strict=True)) for row in rows}


def test_p_stands_beside_the_corrected_one_and_the_family_is_said() -> None:
    models = [random_model(name, i, 20, keys=("1", "2")) for i, name in enumerate("abc")]
    comparison = compare(models)
    rows = rows_of(comparison)
    assert len(rows) == 2 * 4 * 2
    test = comparison.differences["c"]["2"]["ece"]
    row = rows["2 class2", "ECE e-3", "c"]
    assert row["p"] == f"{test['p']:.3g}"
    assert row["p (Holm)"] == f"{test['p_holm']:.3g}"
    for text in (tables.terminal(comparison), tables.markdown(comparison)):
        assert "Holm-corrected over the 16 tests of this table" in text
        assert "n too small" not in text


@pytest.mark.parametrize(
    ("n", "p", "holm"), [(1, 0, 0), (4, 0, 0), (5, 0, 0), (6, 1, 0), (7, 1, 0), (8, 1, 1)]
)
def test_a_p_that_cannot_be_small_is_not_shown(n, p, holm) -> None:
    """4 tests: 4 * 2^(1 - 7) is above 0.05, 4 * 2^(1 - 8) is not."""
    comparison = compare([random_model("a", 0, n), random_model("b", 1, n, shift=0.3)])
    for row in rows_of(comparison).values():
        assert (row["p"] != "n too small", row["p (Holm)"] != "n too small") == (p, holm)
        verdict = "better" if row["metric"] == "Dice" else "worse"
        assert row["p (Holm) < 0.05"] == (verdict if holm else "")
    assert ("cannot be below 0.05" in tables.terminal(comparison)) == (not holm)


def test_the_interval_stands_where_n_is_too_small() -> None:
    comparison = compare([random_model("a", 0, 4), random_model("b", 1, 4)])
    low, high = comparison.differences["b"]["1"]["dice"]["ci95"]
    row = rows_of(comparison)["1 class1", "Dice", "b"]
    assert row["95 % interval"] == f"{low:+.3f} to {high:+.3f}"


def test_columns_of_p_that_say_nothing_are_left_out_with_the_reason() -> None:
    """4 tests, as above. Undefined values make n smaller in one of them."""
    for n, heads in ((4, []), (7, ["p"]), (8, ["p", "p (Holm)", "p (Holm) < 0.05"])):
        comparison = compare([random_model("a", 0, n), random_model("b", 1, n, shift=0.3)])
        head, *rows = tables.difference_table(comparison)
        assert head[5:] == heads
        assert {len(row) for row in rows} == {5 + len(heads)}
        about = tables.about_differences(comparison)
        assert ("Holm-corrected over" in about) == ("p (Holm)" in heads)
        assert ("p is left out: with so few cases it cannot" in about) == (not heads)
        left_out = "p (Holm) is left out: with so few cases and 4 tests it cannot be below 0.05"
        assert (left_out in about) == (heads == ["p"])
    a, b = random_model("a", 0, 8), random_model("b", 1, 8, shift=0.3)
    for case in a.trainings[0]["cases"][:3]:
        case["classes"]["1"]["dice"] = None
    comparison = compare([a, b])
    assert '"n too small": with so few cases this p cannot' in tables.about_differences(comparison)
    assert "An interval without 0 is no proof then" in tables.about_differences(comparison)


def test_an_interval_has_two_ends_also_without_width_and_none_is_one_dash() -> None:
    one = rows_of(compare([random_model("a", 0, 1), random_model("b", 1, 1)]))
    assert {row["95 % interval"] for row in one.values()} == {"-"}
    a = random_model("a", 0, 8)
    equal = rows_of(compare([a, random_model("same", 0, 8)]))
    zeros = {"+0.000 to +0.000", "+0.00 to +0.00"}
    assert {row["95 % interval"] for row in equal.values()} == zeros
    # Ends that differ by less than is shown, on both sides of zero.
    nearly = random_model("nearly", 0, 8)
    for i, case in enumerate(nearly.trainings[0]["cases"]):
        case["classes"]["1"]["dice"] += 1e-5 * (-1) ** i
    row = rows_of(compare([a, nearly]))["1 class1", "Dice", "nearly"]
    assert (row["difference"], row["95 % interval"]) == ("+0.000", "+0.000 to +0.000")


def missing(model, key):
    """The same model without a voxel of a class in its segmentations, and with a lower ECE."""
    for training in model.trainings:
        for case in training["cases"]:
            case["classes"][key].update(dice=0.0, ece=0.001)
    return model


class TestNotSegmented:
    @pytest.fixture
    def comparison(self):
        keys = ("1", "2")
        several = [random_model("", seed, 12, keys=keys).trainings[0] for seed in range(3, 6)]
        missing(Model("", (several[1],)), "2")
        return compare(
            [
                random_model("good", 0, 12, keys=keys),
                missing(random_model("a|b_c", 1, 12, keys=keys), "2"),
                Model("several", tuple(several)),
            ]
        )

    def test_each_table_says_it_at_the_name_and_only_in_the_table_of_the_class(
        self, comparison
    ) -> None:
        for text, name, title in (
            (tables.terminal(comparison), "a|b_c", "\n2 class2\n"),
            (tables.markdown(comparison), r"a\|b_c", "**2 class2**"),
            (tables.latex(comparison), r"a\textbar{}b\_c", "caption{2 class2: "),
        ):
            assert text.count(f"{name} (not segmented) ") == 1
            assert text.count("several (not segmented in 1 of 3 trainings) ") == 1
            assert text.index(title) < text.index("(not segmented)")

    def test_the_lowest_value_is_not_marked(self, comparison) -> None:
        ece = {m: comparison.summary[m]["2"]["ece"]["mean"] for m in comparison.models}
        assert ece["a|b_c"] < ece["several"] < ece["good"]
        marked = [tables.cell(comparison, model, "2", "ece")[1] for model in comparison.models]
        assert marked == [True, False, False]

    def test_equal_digits_do_not_make_it_the_best(self) -> None:
        good, collapsed = random_model("good", 0, 9), missing(random_model("none", 0, 9), "1")
        comparison = compare([good, collapsed, random_model("third", 1, 9)])
        for metric in ("brier", "brier_plus"):
            means = [tables.cell(comparison, m, "1", metric)[0] for m in ("good", "none")]
            assert means[0] == means[1]
            assert not tables.cell(comparison, "none", "1", metric)[1]

    def test_the_differences_say_it_instead_of_better_or_worse(self, comparison) -> None:
        rows = rows_of(comparison)
        for model in ("a|b_c", "several"):
            assert rows["2 class2", "ECE e-3", model]["beyond chance"] == "not segmented"
            assert rows["2 class2", "Dice", model]["beyond chance"] == "not segmented"
            assert rows["1 class1", "Dice", model]["beyond chance"] != "not segmented"

    def test_the_table_of_the_top_label_says_that_a_class_is_missing(self) -> None:
        contents = {
            "good": random_model("", 0, 5).trainings[0],
            "none": missing(random_model("", 1, 5), "1").trainings[0],
        }
        models = {}
        for name, content in contents.items():
            cases = {case["case"]: case["classes"] for case in content["cases"]}
            models[name] = stored_result(cases, {case: {"ece": 0.1} for case in cases})
        text = tables.terminal(compared(models))
        top_label = text[text.index("Top label") :]
        assert "none (not all classes segmented) " in top_label


def shifted(name, model, **shifts):
    """The same model with other values of some metrics of class 1, each case a little more so."""
    changed = copy.deepcopy(model.trainings[0])
    for i, case in enumerate(changed["cases"]):
        for metric, shift in shifts.items():
            case["classes"]["1"][metric] += shift * (1 + i / 100)
    return Model(name, (changed,))


class TestVerdict:
    KEYS = ("1", "2")

    def test_better_and_worse_than_the_first_by_metric_and_class(self) -> None:
        first = random_model("first", 0, 20, keys=self.KEYS)
        other = shifted("other", first, dice=0.1, ece=-0.1, brier=0.1)
        for case in other.trainings[0]["cases"]:
            case["classes"]["2"]["ece"] -= 0.2
        assert verdict_sentences(compare([first, other])) == [
            "Compared with first, other is better in Dice (1 class1), ECE (1 class1, 2 class2); "
            "worse in Brier (1 class1) (p < 0.05 after Holm's correction for 8 tests)."
        ]

    def test_each_other_model_has_a_sentence_and_the_first_has_none(self) -> None:
        first = random_model("first", 0, 20)
        models = [first, shifted("second", first, dice=-0.1), shifted("third", first, ece=0.0)]
        assert verdict_sentences(compare(models)) == [
            "Compared with first, second is worse in Dice (1 class1) (p < 0.05 after Holm's "
            "correction for 8 tests).",
            "No difference between first and third is shown (p of 0.05 or more after Holm's "
            "correction for 8 tests).",
        ]
        assert verdict_sentences(compare(models[:1])) == []

    def test_many_classes_are_counted(self) -> None:
        keys = tuple(map(str, range(1, 8)))
        first = random_model("a", 0, 20, keys=keys)
        other = shifted("b", first)
        for case in other.trainings[0]["cases"]:
            for metrics in case["classes"].values():
                metrics["ece"] -= 0.1
        (sentence,) = verdict_sentences(compare([first, other]))
        five = ", ".join(f"{k} class{k}" for k in range(1, 6))
        assert f"b is better in ECE ({five}, 2 more) (p < 0.05 " in sentence

    @pytest.mark.parametrize(
        ("n", "expected"),
        [
            (1, "1 case is too few to show a difference between first and other."),
            (
                4,
                "4 cases are too few to show a difference between first and other: p cannot be "
                "below 0.05 after Holm's correction for 4 tests.",
            ),
        ],
    )
    def test_too_few_cases(self, n, expected) -> None:
        models = [random_model("first", 0, n), random_model("other", 1, n)]
        assert verdict_sentences(compare(models)) == [expected]

    def test_too_few_cases_of_some_metrics(self) -> None:
        first = random_model("first", 0, 20)
        for case in first.trainings[0]["cases"][4:]:
            case["classes"]["1"]["dice"] = None
        assert verdict_sentences(compare([first, shifted("other", first)])) == [
            "No difference between first and other is shown (p of 0.05 or more after Holm's "
            "correction for 4 tests; 1 of 4 have too few cases to show one)."
        ]

    def test_nothing_that_both_have(self) -> None:
        first = random_model("first", 0, 3)
        for case in first.trainings[0]["cases"]:
            case["classes"]["1"] = dict.fromkeys(case["classes"]["1"])
        assert verdict_sentences(compare([first, shifted("other", first)])) == [
            "No metric in the tables is defined for both first and other."
        ]

    def test_what_is_not_segmented_is_not_judged(self) -> None:
        first = random_model("first", 0, 20, keys=self.KEYS)
        collapsed = missing(shifted("collapsed", first, dice=0.1), "2")
        several = [shifted("", first).trainings[0] for _ in range(3)]
        missing(Model("", (several[0],)), "2")
        models = [first, collapsed, Model("several", tuple(several))]
        assert verdict_sentences(compare(models)) == [
            "Compared with first in the classes that both segment, collapsed is better in Dice "
            "(1 class1) (p < 0.05 after Holm's correction for 16 tests).",
            "No difference between first and several is shown in the classes that both segment "
            "(p of 0.05 or more after Holm's correction for 16 tests, or an interval over "
            "trainings and cases that contains 0).",
        ]

    def test_a_first_model_that_segments_nothing(self) -> None:
        first = missing(missing(random_model("first", 0, 20, keys=self.KEYS), "1"), "2")
        other = random_model("other", 1, 20, keys=self.KEYS)
        assert verdict_sentences(compare([first, other])) == [
            "first and other are not compared: no class is segmented by both.",
        ]

    def test_one_model_alone(self) -> None:
        keys = ("1", "2", "3")
        alone = missing(missing(random_model("alone", 0, 5, keys=keys), "1"), "3")
        assert verdict_sentences(compare([alone])) == []
        assert short_verdict(compare([alone]))[0] == (
            "alone does not segment 1 class1 and 3 class3: Dice is 0 wherever the reference has "
            "them."
        )

    def test_it_stands_before_the_tables_and_so_do_warnings(self) -> None:
        first = random_model("first", 0, 20)
        comparison = compare([first, shifted("other", first, ece=0.1), shifted("twin", first)])
        (warning,) = comparison.warnings
        sentences = verdict_sentences(comparison)
        assert len(sentences) == 2
        printed, text = tables.terminal(comparison), tables.markdown(comparison)
        assert "\n".join(sentences) in printed[: printed.index("1 class1\n")]
        above = text[: text.index("**1 class1**")]
        assert "\n".join(f"- {sentence}" for sentence in sentences) in above
        assert f"Warning: {warning}" in above
        assert text.count(warning) == 1
        tex = tables.latex(comparison)
        assert f"% {warning}" in tex[: tex.index("\\begin{tabular}")]


def repeat(model, spread, n=5, **shifts):
    """Trainings of a model whose metrics of class 1 are apart by ``spread``."""
    apart = spread * (np.arange(n) - (n - 1) / 2)
    metrics = dict.fromkeys(("dice", "brier", "ece"), 0) | shifts
    trainings = [
        shifted("", model, **{m: shift + a for m, shift in metrics.items()}).trainings[0]
        for a in apart.tolist()
    ]
    return Model(model.name, tuple(trainings))


class TestTrainings:
    ONCE = (
        "Each model was trained once: the intervals are over cases and cannot tell whether another "
        "training would give the same."
    )

    def test_models_that_were_trained_once_say_so_wherever_intervals_are(self) -> None:
        comparison = compare([random_model("a", 0, 12), random_model("b", 1, 12)])
        assert trainings_sentence(comparison) == self.ONCE
        for text in (tables.terminal(comparison), tables.markdown(comparison)):
            top, below = text.split("Differences to the first model")
            assert self.ONCE in top
            assert self.ONCE in below
        assert tables.difference_head(comparison)[-1] == "p (Holm) < 0.05"

    def test_those_trained_once_among_others_are_named(self) -> None:
        a, b = random_model("a", 0, 12), repeat(random_model("b", 1, 12), 0.01)
        assert trainings_sentence(compare([a, b])) == (
            "a was trained once, b 5 times: no interval can tell whether another training of a "
            "would give the same."
        )
        assert trainings_sentence(compare([b, repeat(Model("c", a.trainings), 0.01, 2)])) == (
            "Trainings: b 5, c 2."
        )
        assert trainings_sentence(compare([a])).startswith("The model was trained once: ")

    def test_the_second_interval_and_what_is_beyond_chance(self) -> None:
        first = random_model("first", 0, 20)
        models = [repeat(first, 0.02), repeat(Model("other", first.trainings), 0.02, dice=0.01)]
        comparison = compare(models)
        test = comparison.differences["other"]["1"]["dice"]
        assert test["p_holm"] < 0.05
        low, high = test["ci95_trainings"]
        assert low < 0 < high
        row = rows_of(comparison)["1 class1", "Dice", "other"]
        assert row["over trainings and cases"] == f"{low:+.3f} to {high:+.3f}"
        assert row["beyond chance"] == ""
        assert verdict_sentences(comparison)[0].startswith("No difference between first and other")


class TestShortVerdict:
    def test_trainings_that_are_apart_decide_nothing(self) -> None:
        first = random_model("first", 0, 20)
        models = [repeat(first, 0.02), repeat(Model("other", first.trainings), 0.02, dice=0.01)]
        text, trainings = short_verdict(compare(models))
        assert text == (
            "Whether other differs from first in Dice, ECE and Brier is not known over 5 trainings "
            "each and 20 cases: the 95 % intervals contain 0."
        )
        assert trainings == "Trainings: first 5, other 5."

    def test_better_worse_and_about_as_good_with_numbers(self) -> None:
        first = random_model("first", 0, 20)
        other = repeat(Model("other", first.trainings), 1e-5, n=3, dice=0.1, ece=0.1)
        comparison = compare([repeat(first, 1e-5), other])
        means = [comparison.headline[m]["foreground"] for m in ("other", "first")]
        dice = [f"{mean['dice']['mean']:.3f}" for mean in means]
        ece = [f"{1e3 * mean['ece']['mean']:.2f}" for mean in means]
        brier = [f"{1e4 * mean['brier']['mean']:.2f}" for mean in means]
        assert short_verdict(comparison)[0] == (
            f"Over 3 and 5 trainings and 20 cases, other is better than first in Dice ({dice[0]} "
            f"instead of {dice[1]}). It is worse in ECE ({ece[0]} e-3 instead of {ece[1]}) and "
            f"about as good in Brier ({brier[0]} e-4 and {brier[1]})."
        )

    def test_one_training_needs_a_corrected_test(self) -> None:
        first, other = random_model("first", 0, 20), random_model("other", 0, 20, shift=0.1)
        text, once = short_verdict(compare([first, other]))
        assert text.startswith("Over 20 cases, other is better than first in Dice (")
        assert "It is worse in ECE (" in text
        assert once == TestTrainings.ONCE

    def test_a_test_of_ranks_does_not_decide_against_the_mean(self) -> None:
        first = random_model("first", 0, 20)
        other = shifted("other", first, ece=-0.001, dice=0.0, brier=0.0)
        other.trainings[0]["cases"][7]["classes"]["1"]["ece"] += 1
        comparison = compare([first, other])
        test = comparison.headline_differences["other"]["foreground"]["ece"]
        assert test["p_holm"] < 0.05
        assert test["mean"] > 0
        assert "Whether it differs in ECE is not known: " in short_verdict(comparison)[0]

    def test_few_cases_decide_nothing_even_if_the_interval_is_narrow(self) -> None:
        first = random_model("first", 0, 4)
        models = [first, shifted("other", first), shifted("third", first)]
        text, _ = short_verdict(compare(models))
        assert text == (
            "4 cases are too few to tell whether other or third differs from first in Dice, ECE "
            "or Brier."
        )

    def test_it_is_of_the_mean_over_classes(self) -> None:
        first = random_model("first", 0, 20, keys=("1", "2"))
        other = shifted("other", first, dice=0.2)
        for i, case in enumerate(other.trainings[0]["cases"]):
            case["classes"]["2"]["dice"] -= 0.2 * (1 + i / 100)
        text, _ = short_verdict(compare([first, other]))
        assert "about as good as first in Dice (" in text

    def test_classes_that_are_not_segmented_are_said_once_with_their_trainings(self) -> None:
        first = random_model("first", 0, 20, keys=("1", "2"))
        seeds = [copy.deepcopy(first.trainings[0]) for _ in range(2)]
        for seed, training in enumerate(seeds):
            training["settings"]["pred_folder"] = f"results/T_seed{seed}/fold_0/validation"
        missing(Model("", (seeds[1],)), "2")
        some = [Model(name, tuple(copy.deepcopy(seeds))) for name in ("a", "b")]
        none = missing(missing(shifted("none", first), "1"), "2")
        said = [
            "a and b do not segment 2 class2 in 1 of 2 trainings (seed 1): Dice is 0 wherever the "
            "reference has it.",
            "none does not segment any class: Dice is 0 wherever the reference has it.",
        ]
        *above, so, better, trained = short_verdict(
            compare([first, *some, none, shifted("good", first, dice=0.1)])
        )
        assert above == said
        assert so.startswith("So this verdict does not compare a, b or none with first; ")
        assert so.endswith("Was the training long enough?")
        assert "good is better than first in Dice" in better
        *above, so, trained = short_verdict(compare([*some, none, first]))
        assert above == said
        assert so.startswith("So this verdict compares no model with a; ")
        assert trained.startswith("none and first were each trained once")

    def test_no_metric_that_both_have(self) -> None:
        first = random_model("first", 0, 3)
        for case in first.trainings[0]["cases"]:
            case["classes"]["1"] = dict.fromkeys(case["classes"]["1"])
        text, _ = short_verdict(compare([first, shifted("other", first)]))
        assert text == "No metric of the verdict is defined for both first and other."

    def test_it_stands_above_the_longer_sentences(self) -> None:
        comparison = compare([random_model("first", 0, 20), random_model("other", 1, 20)])
        short, long = short_verdict(comparison), verdict_sentences(comparison)
        for text in (tables.terminal(comparison), tables.markdown(comparison)):
            places = [text.index(sentence) for sentence in (*short, *long)]
            assert places == sorted(places)
