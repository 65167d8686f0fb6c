"""What is drawn: the numbers in the artists, not the pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from predictions import softmax_case

from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.metrics.calibration import merged_bins
from nnunet_meep.evaluation.report.comparison_pictures import comparison_pictures
from nnunet_meep.evaluation.report.displays import ReliabilityDisplay, RiskCoverageDisplay
from nnunet_meep.evaluation.report.figures import Layer, reliability_figure, save_figure
from nnunet_meep.evaluation.report.plots import (
    new_axes,
    plain,
    plot_agreement,
    plot_histogram,
    plot_reliability,
    plot_risk_coverage,
)
from nnunet_meep.evaluation.result_format import nan_to_none


@pytest.fixture
def evaluation(make_folder):
    folder, rng = make_folder(), np.random.default_rng(0)
    for case in "abc":
        folder.add(case, *softmax_case(rng, (6, 7, 8)))
    return evaluate(folder.gt, folder.pred, surface=False, rois=["image", "boundary:1"])


def bins(count, mean_p, mean_y):
    edges = np.linspace(0, 1, len(count) + 1).tolist()
    return {"edges": edges, "count": count, "mean_p": mean_p, "mean_y": mean_y}


def line(ax, label):
    (found,) = [artist for artist in ax.get_lines() if artist.get_label() == label]
    return found


def test_the_line_goes_through_the_bins_with_voxels() -> None:
    ax = new_axes()
    plot_reliability(ax, bins([4, 0, 6], [0.1, np.nan, 0.9], [0.3, np.nan, 0.8]))
    assert line(ax, "all cases").get_xydata().tolist() == [[0.1, 0.3], [0.9, 0.8]]
    assert line(ax, "perfectly calibrated").get_xydata().tolist() == [[0, 0], [1, 1]]
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert len(ax.collections) == 0  # no band of one case


def test_models_laid_over_each_other_share_one_diagonal() -> None:
    ax = new_axes()
    for label, color in (("a", "C0"), ("b", "C1")):
        plot_reliability(ax, bins([1], [0.5], [0.4]), label=label, color=color)
    assert ax.get_legend_handles_labels()[1] == ["perfectly calibrated", "a", "b"]


def test_one_object_gives_numbers_and_pictures(evaluation) -> None:
    frame = evaluation.to_dataframe()
    assert frame[["case", "roi", "class"]].drop_duplicates().shape[0] == len(frame) == 3 * 2 * 3
    of_case = evaluation.cases[1].rois["boundary:1"].classes["2"]
    row = frame.query("case == 'b' and roi == 'boundary:1' and `class` == '2'").iloc[0]
    assert row["ece"] == of_case["ece"]
    assert row["name"] == "Posterior"
    assert np.isnan(row["aurc"])

    ax = ReliabilityDisplay.from_evaluation(evaluation, "2", roi="boundary:1").plot()
    pooled = evaluation.pooled["boundary:1"].bins["2"]
    filled = np.array(pooled["count"]) > 0
    drawn = line(ax, "all cases").get_ydata()
    assert drawn == pytest.approx(np.array(pooled["mean_y"])[filled])
    assert len(ax.get_lines()) == 1 + 1  # the diagonal, all cases
    of_cases = ax.findobj(LineCollection)[0].get_segments()
    of_case = evaluation.cases[1].rois["boundary:1"].bins["2"]
    filled = np.array(of_case["count"]) > 0
    assert of_cases[1][:, 1].tolist() == np.array(of_case["mean_y"])[filled].tolist()
    assert ReliabilityDisplay.from_evaluation(evaluation, "top_label").plot(ax) is ax


def test_of_thousands_of_cases_some_are_drawn() -> None:
    case = bins([1, 1], [0.2, 0.7], [0.1, 0.9])
    for n_cases, n_drawn, name in (
        (200, 200, "single cases"),
        (2001, 182, "182 of 2001 single cases"),
    ):
        ax = new_axes()
        plot_reliability(ax, case, per_case=[case] * n_cases)
        assert len(ax.findobj(LineCollection)[0].get_segments()) == n_drawn
        assert name in ax.get_legend_handles_labels()[1]


def test_displays_of_arrays_are_those_of_files(make_folder) -> None:
    folder, rng = make_folder(), np.random.default_rng(0)
    cases = [softmax_case(rng, (6, 7, 8)) for _ in range(2)]
    for name, case in zip("ab", cases, strict=True):
        folder.add(name, *case)
    probabilities, labels = ([case[i] for case in cases] for i in (0, 1))
    evaluation = evaluate(folder.gt, folder.pred, surface=False)
    for key in ("2", "top_label"):
        of_arrays = ReliabilityDisplay.from_predictions(probabilities, labels, key)
        of_files = ReliabilityDisplay.from_evaluation(evaluation, key)
        assert nan_to_none(of_arrays.per_case) == nan_to_none(of_files.per_case)
        assert of_arrays.bins["count"] == of_files.bins["count"]
        assert of_arrays.bins["mean_y"] == pytest.approx(of_files.bins["mean_y"], nan_ok=True)
    with pytest.raises(ValueError, match=r"^key: expected one of 1, 2, top_label, got '3'"):
        ReliabilityDisplay.from_predictions(probabilities, labels, "3")


def test_a_risk_coverage_curve_of_files_and_of_arrays(make_folder) -> None:
    folder = make_folder()
    p, y = softmax_case(np.random.default_rng(0), (6, 7, 8))
    folder.add("a", p, y)
    of_files = RiskCoverageDisplay.from_evaluation(evaluate(folder.gt, folder.pred, surface=False))
    assert of_files == RiskCoverageDisplay.from_predictions(p, y)
    ax = of_files.plot(label="model")
    assert line(ax, "model").get_ydata()[0] == pytest.approx(100 * of_files.risk[0])
    assert of_files.plot(ax, label="other", color="C1") is ax
    with pytest.raises(KeyError):
        RiskCoverageDisplay.from_evaluation(evaluate(folder.gt, folder.pred, surface=False), "1")


def test_a_picture_of_no_class_is_a_key_error(evaluation) -> None:
    with pytest.raises(KeyError):
        ReliabilityDisplay.from_evaluation(evaluation, "7")


def test_a_histogram_without_voxels_says_so() -> None:
    ax = new_axes()
    plot_histogram(ax, bins([0, 0], [np.nan] * 2, [np.nan] * 2))
    assert [text.get_text() for text in ax.texts] == ["no voxels"]


def test_steps_of_a_histogram_are_shares_and_the_lowest_one_is_in_sight() -> None:
    ax = new_axes()
    plot_histogram(ax, bins([900, 0, 100], [0.1, np.nan, 0.9], [0.1, np.nan, 0.9]), fill=False)
    plot_histogram(ax, bins([999, 1, 0], [0.1, 0.5, np.nan], [0.1, 0.5, np.nan]), fill=False)
    first, second = (patch.get_data().values for patch in ax.patches)
    assert first == pytest.approx([0.9, 0, 0.1], abs=1e-9)
    assert second == pytest.approx([0.999, 0.001, 0], abs=1e-9)
    assert ax.get_yscale() == "log"
    assert 0 < ax.get_ylim()[0] < 0.001


def test_the_risk_is_drawn_over_what_is_set_aside_in_percent() -> None:
    ax = new_axes()
    plot_risk_coverage(ax, {"coverage": [0, 0.5, 0.9, 1], "risk": [0, 0.01, 0.02, 0.03]})
    (drawn,) = ax.get_lines()
    expected = [[100, 0], [50, 1], [10, 2]]  # nothing set aside has no place on a log scale
    assert drawn.get_xydata() == pytest.approx(np.array(expected))
    assert ax.get_xscale() == "log"


def test_the_axes_hold_the_curves_of_all_models() -> None:
    ax = new_axes()
    for risk in (0.01, 0.2, 0.05):
        plot_risk_coverage(ax, {"coverage": [0.5, 0.9, 1], "risk": [0, risk, 2 * risk]})
    assert ax.get_ylim() == (
        0,
        pytest.approx(1.05 * 20),
    )  # what nothing is set aside of is not drawn
    plot_risk_coverage(new_axes(), {"coverage": [0.5, 1], "risk": [np.nan, np.nan]})
    plot_risk_coverage(new_axes(), {"coverage": [0.5, 1], "risk": [0, 0]})


@pytest.mark.parametrize("name", ["_hidden", r"$\frac$", "$5 and $10", "a_b^c"])
def test_names_are_drawn_as_they_are(name, tmp_path) -> None:
    layers = [Layer(plain(name), bins([3], [0.5], [0.4])) for _ in range(2)]
    figure = reliability_figure({name: layers}, name)
    save_figure(figure, tmp_path / "a.svg", "svg")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.replace("\\$", "$").strip() for label in labels[1:]] == [name, name]


def test_what_no_font_has_is_drawn_as_its_escape(tmp_path) -> None:
    figure = reliability_figure({"a\udce9\x1b": [Layer("m", bins([3], [0.5], [0.4]))]}, "\ud800")
    save_figure(figure, tmp_path / "a.png", "png")
    assert figure.axes[0].get_title() == r"a\udce9\x1b"
    assert figure.get_suptitle() == r"\ud800"


class TestFigures:
    @pytest.mark.parametrize("name", ["ü" * 3000, "a $b$ " * 500, "a" * 95 + "$" * 20])
    def test_long_names_stay_above_their_panels(self, name) -> None:
        layers = [Layer("model", bins([1, 2], [0.2, 0.7], [0.1, 0.8]))]
        figure = reliability_figure({f"{name} (label {i})\nECE": layers for i in (1, 2)}, name)
        figure.canvas.draw()
        first, second = (ax.title.get_window_extent() for ax in figure.axes[::2])
        assert 0 <= first.x0 < first.x1 < second.x0 < second.x1 <= figure.bbox.x1
        assert first.y1 < figure._suptitle.get_window_extent().y0
        assert figure.axes[0].get_title().endswith("\nECE")

    def test_panels_have_one_legend_that_lies_on_none_of_them(self) -> None:
        layers = [Layer(name, bins([1, 2], [0.2, 0.7], [0.1, 0.8])) for name in ("model", "n" * 60)]
        for n in (1, 2, 5):
            panels = {f"class {i}": layers for i in range(n)}
            figure = reliability_figure(panels, "title", top_label="class 0")
            figure.canvas.draw()
            assert len(figure.axes) == 2 * n
            assert [ax.get_legend() for ax in figure.axes] == [None] * 2 * n
            (legend,) = figure.legends
            labels = [text.get_text() for text in legend.get_texts()]
            assert labels == ["perfectly calibrated", "model", "n" * 60]
            below = legend.get_window_extent()
            for ax in figure.axes:
                assert ax.get_tightbbox().y0 >= below.y1
            assert below.y0 >= 0

    def test_diagrams_are_square_and_do_not_touch(self) -> None:
        panels = {f"{i}\nsecond line": [Layer("a", bins([3], [0.5], [0.4]))] for i in range(6)}
        figure = reliability_figure(panels, "title")
        figure.canvas.draw()
        boxes = [ax.get_window_extent() for ax in figure.axes]
        for box in boxes[::2]:
            assert box.width == pytest.approx(box.height, rel=0.01)
        outer = [ax.get_tightbbox() for ax in figure.axes]
        overlaps = [a.overlaps(b) for i, a in enumerate(outer) for b in outer[:i]]
        assert not any(overlaps)

    def test_the_top_label_has_axes_of_its_own_meaning(self) -> None:
        layers = [Layer("a", bins([3], [0.9], [0.8]))]
        figure = reliability_figure({"x": layers, "top": layers}, "", top_label="top")
        diagrams, histograms = figure.axes[::2], figure.axes[1::2]
        assert [ax.get_ylabel() for ax in diagrams] == [
            "observed frequency",
            "share of right voxels",
        ]
        assert [ax.get_xlabel() for ax in histograms] == [
            "predicted probability",
            "largest probability",
        ]

    def test_histograms_share_their_scale(self) -> None:
        few, many = bins([1, 1], [0.2, 0.8], [0, 1]), bins([10_000, 1], [0.2, 0.8], [0, 1])
        panels = {"a": [Layer("m", few)], "b": [Layer("m", many)], "c": [Layer("m", few)]}
        histograms = reliability_figure(panels, "").axes[1::2]
        limits = {ax.get_ylim() for ax in histograms}
        assert len(limits) == 1
        assert limits.pop()[0] < 1e-4

    @pytest.mark.slow
    def test_a_hundred_classes_are_drawn(self, tmp_path) -> None:
        panels = {str(i): [Layer("a", bins([3], [0.5], [0.4]))] for i in range(104)}
        save_figure(reliability_figure(panels, "many"), tmp_path / "many.svg", "svg")
        assert (tmp_path / "many.svg").stat().st_size > 100_000

    def test_a_picture_is_the_same_bytes_every_time(self, tmp_path) -> None:
        for name in "ab":
            figure = reliability_figure({"x": [Layer("m", bins([3], [0.5], [0.4]))]}, "")
            for kind in ("png", "svg"):
                save_figure(figure, tmp_path / f"{name}.{kind}", kind)
        for kind in ("png", "svg"):
            first, second = (tmp_path / f"{name}.{kind}" for name in "ab")
            assert first.read_bytes() == second.read_bytes()


def comparison_figures(models):
    pictures = comparison_pictures(compare(models))
    return {name: p.draw(list(p.panels), "title") for name, p in pictures.items()}


PICTURES = ["reliability", "risk_coverage", "volumes", "errors", "expected_dice", "case_risk"]


class TestComparisonPictures:
    @pytest.fixture
    def models(self, make_folder):
        folder, rng = make_folder(), np.random.default_rng(0)
        for case in "abcd":
            folder.add(case, *softmax_case(rng, (6, 7, 8)))
        every = evaluate(folder.gt, folder.pred, surface=False)
        part = replace(every, cases=every.cases[:3])
        return {"all": every, "part": [part, part]}

    def test_what_is_drawn_is_of_the_compared_cases(self, models) -> None:
        figures = comparison_figures(models)
        assert list(figures) == PICTURES
        ax = figures["reliability"].axes[0]
        cases = [case.rois["image"] for case in models["all"].cases[:3]]
        of_three = merged_bins([case.bins["1"] for case in cases])
        filled = np.array(of_three["count"]) > 0
        for name in ("all", "part"):  # the fourth case is in none of them
            assert line(ax, name).get_ydata() == pytest.approx(np.array(of_three["mean_y"])[filled])
        (volumes, _) = figures["volumes"].axes
        true_ml = [case.classes["1"]["volume_true_ml"] for case in cases]
        assert line(volumes, "part").get_xdata() == pytest.approx(true_ml)
        (expected_dice, _) = figures["expected_dice"].axes
        dice = [case.classes["1"]["dice_expected"] for case in cases]
        assert line(expected_dice, "part").get_ydata() == pytest.approx(dice)
        (case_risk, _) = figures["case_risk"].axes
        risk = np.mean([1 - case.classes["1"]["dice"] for case in cases])
        assert line(case_risk, "all").get_ydata()[-1] == pytest.approx(risk)
        (errors,) = figures["errors"].axes
        percent = [100 * case.top_label["error_rate_expected"] for case in cases]
        assert line(errors, "all").get_ydata() == pytest.approx(percent)
        for figure in figures.values():
            for ax in figure.axes:
                assert ax.get_xlabel() or figure is figures["reliability"]

    def test_there_is_no_picture_of_volumes_that_do_not_exist(self, models) -> None:
        cases = list(models["all"].cases)
        for case in cases:
            for entry in case.rois["image"].classes.values():
                entry["volume_true_ml"] = np.nan  # of a 2D image
        without = replace(models["all"], cases=cases)
        assert "volumes" not in comparison_figures({"all": without})

    def test_results_of_overlapping_regions(self, make_folder) -> None:
        labels = {"background": 0, "whole": [1, 2], "core": 2}
        folder, rng = make_folder(labels, regions_class_order=[1, 2]), np.random.default_rng(0)
        for case in "ab":
            p = rng.random((2, 5, 6, 7)).astype(np.float32)
            folder.add(case, p, rng.integers(0, 3, (5, 6, 7)).astype(np.uint8))
        figures = comparison_figures({"m": evaluate(folder.gt, folder.pred, surface=False)})
        assert list(figures) == PICTURES
        assert [len(f.axes) for f in figures.values()] == [4, 2, 2, 2, 2, 2]


def test_matplotlib_settings_are_not_touched(evaluation, tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    ReliabilityDisplay.from_evaluation(evaluation).plot().figure.savefig(tmp_path / "a.svg")
    assert dict(mpl.rcParams) == before


def test_expected_and_actual_share_their_limits_and_one_diagonal() -> None:
    ax = new_axes()
    plot_agreement(ax, [1.0, 2.0], [1.5, np.nan], label="a")
    plot_agreement(ax, [1.0, 3.0], [8.0, 1.0], label="b", color="C1")
    assert ax.get_xlim() == ax.get_ylim() == (0, pytest.approx(8.35))
    assert ax.get_legend_handles_labels()[1] == ["expected = true", "a", "b"]
    assert line(ax, "b").get_xydata().tolist() == [[1, 8], [3, 1]]


def test_volumes_that_are_alike_fill_the_axes() -> None:
    ax = new_axes()
    plot_agreement(ax, [100.0, 110.0], [101.0, 108.0], label="a")
    assert ax.get_xlim() == ax.get_ylim() == (pytest.approx(99.5), pytest.approx(110.5))


def test_an_svg_has_no_shape_for_each_of_very_many_cases(tmp_path) -> None:
    values = np.linspace(1, 2, 1001)
    for name, n in (("few", 1000), ("many", 1001)):
        ax = new_axes()
        plot_agreement(ax, values[:n], values[:n], label="a")
        save_figure(ax.figure, tmp_path / name, "svg")
    few, many = ((tmp_path / name).read_text() for name in ("few", "many"))
    assert few.count("<use ") > 1000 > 50 > many.count("<use ")
    assert few.count("<image ") == 0 < many.count("<image ")


def test_nothing_to_expect_is_drawn_without_a_warning() -> None:
    ax = new_axes()
    plot_agreement(ax, [np.nan], [np.nan], label="a")
    ax.figure.canvas.draw()


def test_bins_of_two_results_merge_into_those_of_all_their_voxels() -> None:
    a = bins([2, 0, 1], [0.1, np.nan, 0.9], [0.5, np.nan, 1.0])
    b = bins([6, 0, 0], [0.3, np.nan, np.nan], [0.25, np.nan, np.nan])
    merged = merged_bins([a, b])
    assert merged["count"] == [8, 0, 1]
    assert merged["mean_p"] == pytest.approx([0.25, np.nan, 0.9], nan_ok=True)
    assert merged["mean_y"] == pytest.approx([2.5 / 8, np.nan, 1.0], nan_ok=True)
