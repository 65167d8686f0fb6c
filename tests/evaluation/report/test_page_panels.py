"""The page's own pictures: the coordinates in its inline SVG, and what it refuses to draw."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from predictions import compared, stored_result

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.report.curves import TITLES
from nnunet_meep.evaluation.report.plots import COLORS, MARKERS, PAGE_COLORS
from nnunet_meep.evaluation.report.reliability_panels import (
    GEOMETRY,
    reliability_bins_of,
    reliability_panels,
)
from nnunet_meep.evaluation.report.slice_figures import ERROR_COLORS
from nnunet_meep.evaluation.report.svg_axes import Scale, path, scale_around
from nnunet_meep.evaluation.report.training_panels import (
    refuse_curves,
    training_costs,
    training_curves,
    training_dots,
)


def luminance(color):
    """Relative luminance as in WCAG 2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("theme", "paper"), [(0, "#ffffff"), (1, "#14191e")])
def test_models_stand_out_from_a_light_and_a_dark_page(theme, paper) -> None:
    assert len(PAGE_COLORS) == len(COLORS)
    for colors in PAGE_COLORS:
        low, high = sorted((luminance(colors[theme]), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 3, colors


def test_no_two_of_many_models_look_the_same() -> None:
    assert math.gcd(len(PAGE_COLORS), len(MARKERS)) == 1
    assert len({path for _, path in MARKERS}) == len({name for name, _ in MARKERS}) == len(MARKERS)


def test_the_colours_of_errors_are_not_those_of_models() -> None:
    assert not set(ERROR_COLORS) & {*COLORS, *(light for light, _ in PAGE_COLORS)}


def test_a_scale_and_its_ticks() -> None:
    scale = Scale(10, 20, 100, 0)
    assert [scale(v) for v in (10, 15, 20)] == [100, 50, 0]
    assert scale.ticks(2) == [(100, "10"), (50, "15"), (0, "20")]
    around = scale_around([1, math.nan, 2], 0, 1)
    assert (around.low, around.high) == pytest.approx((0.94, 2.06))
    assert scale_around([math.nan], 0, 1).high == 1
    assert scale_around([0], 0, 1).high > scale_around([0], 0, 1).low


def test_a_path_is_interrupted_where_there_is_no_number() -> None:
    points = [(0, 1), (1, 2.5), (2, math.nan), (3, 0), (4, 4)]
    assert path(points) == "M0 1L1 2.5M3 0L4 4"
    assert path([(0, 1), (1, math.nan), (2, 3)]) == "M0 1h0M2 3h0"  # dots, as ends are round


def with_bins(**bins):
    content = stored_result({"a": {"1": {"dice": 0.5}}})
    edges = {"edges": [0.0, 0.5, 1.0]}
    content["classes"]["1"]["pooled"]["bins"] = {**edges, **bins}
    content["cases"][0]["bins"]["1"] = bins
    return content


def test_points_lie_where_the_bins_say_and_empty_bins_have_none() -> None:
    first = with_bins(count=[90, 10], mean_p=[0.25, 0.75], mean_y=[0.0, 1.0])
    second = with_bins(count=[0, 10], mean_p=[None, 1.0], mean_y=[None, 0.5])
    comparison = compared({"a": first, "b": second})
    bins = reliability_bins_of(comparison)
    assert bins["1"]["a"]["count"] == [90, 10]
    assert np.isnan(bins["1"]["a"]["low"]).all()  # of one case
    (panel,) = reliability_panels(comparison, bins)
    left, size, top = GEOMETRY["left"], GEOMETRY["size"], GEOMETRY["top"]
    a, b = panel["models"]
    assert a["points"] == [(left + size / 4, top + size), (left + 3 * size / 4, top)]
    assert b["points"] == [(left + size, top + size / 2)]
    assert a["band"] == b["band"] == ""
    # The histogram is on a log scale: a tenth of the voxels lies one decade below all of them.
    bottom, upper = GEOMETRY["bottom"], GEOMETRY["histogram_top"]
    decade = next(y for y, text in panel["shares"] if text == "1e-1")
    *_, low, high = re.findall(r"L[\d.]+ ([\d.]+)", a["steps"])[-3:]
    assert float(low) == pytest.approx(decade, abs=0.1)
    assert float(high) == bottom
    assert panel["shares"][0] == (upper, "1")


def trained(dice, folder):
    cases = {name: {"1": {"dice": d, "ece": 0.01}} for name, d in zip("xy", dice, strict=True)}
    return stored_result(cases, pred_folder=folder)


def test_each_training_is_a_point_at_its_mean() -> None:
    seeds = [
        trained([0.5, 0.7], "p/Trainer_seed1/fold_0"),
        trained([0.8, None], "p/Trainer/fold_0"),
    ]
    comparison = compared({"m": seeds, "single": trained([0.6, 0.6], "p/other")})
    (panel,) = training_dots(comparison)
    dice, ece = panel["plots"]
    assert (dice["metric"], ece["metric"]) == ("dice", "ece")
    of_m, single = dice["rows"]
    assert [dot[1:] for dot in of_m["dots"]] == [
        ("Trainer_seed1", "0.600"),
        ("Trainer", "0.800"),
    ]
    assert [dot[2] for dot in single["dots"]] == ["0.600"]
    # 0.6, 0.8 and the mean over cases of 0.65 and 0.7 on one scale.
    x_low, x_high = (dot[0] for dot in of_m["dots"])
    assert (of_m["mean"] - x_low) / (x_high - x_low) == pytest.approx(0.375, abs=0.01)
    assert single["dots"][0][0] == x_low


def test_single_trainings_are_no_picture() -> None:
    assert training_dots(compared({"m": trained([0.5, 0.7], "p")})) == []


CURVES = {
    "m": [
        {
            "name": "seed 1",
            "values": {"my loss": [2, 1, None, 0]},
            "costs": {"s per epoch": 12.3456},
        },
        {"name": "seed 2", "values": {"my loss": [1, 1], "lambda": [0.5]}},
    ],
    "n": [{"name": "seed 1", "values": {"my loss": [2]}, "costs": {"device": "CPU"}}],
}


def test_curves_of_all_trainings_are_laid_over_each_other() -> None:
    loss, lambda_ = training_curves(CURVES, ["n", "m"])
    assert loss["name"] == "my loss"
    assert lambda_["name"] == TITLES["lambda"]
    assert [(i, name) for i, name, _ in loss["lines"]] == [
        (1, "seed 1"),
        (1, "seed 2"),
        (0, "seed 1"),
    ]
    assert [text for _, text in loss["x_ticks"]] == ["0", "1", "2", "3"]  # whole epochs
    assert [text for _, text in lambda_["x_ticks"]] == ["0"]
    start, second = loss["lines"][0][2], loss["lines"][1][2]
    assert start.count("M") == 2  # an epoch without a number
    first_x = [re.match(r"M([\d.]+)", text)[1] for text in (start, second)]
    assert first_x[0] == first_x[1]
    assert training_costs(CURVES) == {
        "head": ["s per epoch", "device"],
        "rows": [("m", "seed 1", ["12.35", "-"]), ("n", "seed 1", ["-", "CPU"])],
    }
    assert training_costs({})["rows"] == []


@pytest.mark.parametrize(
    ("curves", "words"),
    [
        ({"x": []}, "expected those of the models m, n, got x"),
        ({"m": [{"values": {}}]}, "curves of m: expected a name and values for each training"),
        ({"m": [{"name": "a", "values": [1]}]}, "curves of m: expected a name and values"),
        ({"m": [{"name": "a", "values": {"loss": ["1"]}}]}, "a: expected numbers for loss"),
        ({"m": [{"name": "a", "values": {"loss": 1}}]}, "a: expected numbers for loss"),
        ({"m": 3}, "curves of m: expected a list of trainings"),
        ({"m": [{"name": "a", "values": {}, "costs": [1]}]}, "a: expected costs by name"),
    ],
)
def test_curves_that_are_none_are_refused_in_one_line(curves, words) -> None:
    with pytest.raises(InputError) as error:
        refuse_curves(curves, ["m", "n"])
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    refuse_curves(CURVES, ["m", "n"])
