"""The curves of several trainings: what is drawn, read from the axes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import same_color

from nnunet_meep.evaluation.report.curves import TITLES, curves_figure
from nnunet_meep.evaluation.report.plots import COLORS, color_of, line_of


def training(**values):
    return {"name": "fold 0", "values": values}


def lines(ax):
    """[(colour, x, y)] of the trainings: not the legend's, which are empty, nor the line at 0."""
    drawn = [line for line in ax.get_lines() if len(line.get_xdata()) and line.get_ls() == "-"]
    return [(line.get_color(), [*line.get_xdata()], [*line.get_ydata()]) for line in drawn]


def panels(figure):
    return {" ".join(ax.get_title().split()): ax for ax in figure.axes}  # long ones are wrapped


def test_of_more_models_than_colours_the_lines_differ() -> None:
    looks = [(color_of(i), line_of(i)) for i in range(4 * len(COLORS))]
    assert len(set(looks)) == len(looks)
    values = {"loss": [1.0, 0.5]}
    curves = {f"m{i}": [{"name": "1", "values": values}] for i in range(12)}
    (ax,) = curves_figure(curves, "12 models").axes
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.get_lines()}) == 12


def test_each_kind_of_curve_has_a_panel_and_each_training_its_line_in_it():
    curves = {
        "$plain$": [training(loss=[3, 2, 1], dice=[0, 0.5, 0.5])],
        "ours": [
            training(loss=[4, 2, 2], dice=[0.5, 0.5, 1], **{"lambda": [0, 0.4, 0.5]}),
            training(loss=[5, 3, 2], dice=[0, 0, 1], **{"lambda": [0, 0.4, 0.2]}),
        ],
    }
    figure = curves_figure(curves, "of three trainings")
    axes = panels(figure)
    assert list(axes) == [TITLES[key] for key in ("loss", "dice", "lambda")]
    assert figure.get_suptitle() == "of three trainings"
    colors = [color_of(0), color_of(1), color_of(1)]
    for key, title in TITLES.items():
        expected = [t["values"].get(key) for model in curves.values() for t in model]
        expected = [(c, [0, 1, 2], y) for c, y in zip(colors, expected, strict=True) if y]
        assert (lines(axes[title]) if title in axes else []) == expected
    assert {ax.get_xlabel() for ax in figure.axes} == {"epoch"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [r"\$plain\$", "ours"]
    for line, color in zip(legend.get_lines(), colors, strict=False):
        assert same_color(line.get_color(), color)


def test_trainings_of_different_lengths_end_together():
    figure = curves_figure({"a": [training(loss=[2, 1])], "b": [training(loss=[4, 3, 2, 1])]})
    (ax,) = figure.axes
    assert [x for _, x, _ in lines(ax)] == [[50, 100], [25, 50, 75, 100]]
    assert ax.get_xlabel() == "share of the logged epochs, %"


def test_what_has_no_value_has_no_panel():
    nothing = [np.nan, np.nan]
    figure = curves_figure({"a": [training(dice=[0, 1], unexpected_errors=nothing, other=[1, 2])]})
    assert list(panels(figure)) == [TITLES["dice"]]
    for curves in ({}, {"a": []}, {"a": [training(loss=nothing)]}, {"a": [training(loss=[])]}):
        with pytest.raises(ValueError, match=r"^curves: expected a training with values of loss"):
            curves_figure(curves)


def test_a_single_epoch_is_a_point():
    (ax,) = curves_figure({"a": [training(loss=[1.0])]}).axes
    assert ax.get_lines()[0].get_marker() == "o"


@pytest.mark.parametrize(("last", "lowest"), [(0.5, -1.05), (-2.0, -2.05), (np.nan, -1.05)])
def test_the_last_shares_are_in_sight_and_far_lower_early_ones_flatten_nothing(last, lowest):
    of_two = [training(unexpected_errors=[-20, share]) for share in (0.25, last)]
    (ax,) = curves_figure({"a": of_two}).axes
    assert ax.get_ylim() == pytest.approx((lowest, 1.05))
    assert [text.get_text() for text in ax.texts] == ["overconfident", "underconfident"]
    (zero,) = [line for line in ax.get_lines() if line.get_ls() == "--"]
    assert list(zero.get_ydata()) == [0, 0]
