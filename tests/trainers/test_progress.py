"""The panel below nnU-Net's figure in progress.png."""

from __future__ import annotations

import math

import numpy as np
import pytest
import seaborn
from matplotlib.figure import Figure
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from PIL import Image

from nnunet_meep import trainers
from nnunet_meep.trainers import progress
from nnunet_meep.trainers.progress import ECE, KEYS, LAMBDA, UNEXPECTED, CalibrationLogger


def filled(n_epochs, *, finds_lambda=True, **ours):
    """A log with these values of ours, and some of nnU-Net's, in each epoch."""
    logger = CalibrationLogger(finds_lambda=finds_lambda)
    for epoch in range(n_epochs):
        for key in logger.my_fantastic_logging:
            value = ours.get(key, 0.5)
            value = [value, value] if key.endswith("per_class_or_region") else value
            logger.log(key, value, epoch)
    return logger


def test_nnunets_figure_stays_and_one_panel_as_high_as_each_of_its_own_comes_below_it(tmp_path):
    logger = filled(3)
    LocalLogger.plot_progress_png(logger, str(tmp_path))
    with Image.open(tmp_path / "progress.png") as image:
        nnunets = np.asarray(image.convert("RGB"))
    logger.plot_progress_png(str(tmp_path))
    with Image.open(tmp_path / "progress.png") as image:
        both = np.asarray(image)
    height = len(nnunets)
    np.testing.assert_array_equal(both[:height], nnunets)
    assert both.shape[1:] == nnunets.shape[1:]
    below = both[height:]
    assert len(below) == height / 3
    colours = below.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    assert len(np.unique(colours)) > 20  # lines in several colours
    assert [file.name for file in tmp_path.iterdir()] == ["progress.png"]


@pytest.fixture
def figure(monkeypatch):
    """``figure(logger)``: what it draws, as matplotlib's figure, with nnU-Net's letters."""
    made = []
    monkeypatch.setattr(progress, "Figure", lambda **how: made.append(Figure(**how)) or made[-1])

    def draw(logger):
        image = logger._panel()
        assert image.max() > 0  # not transparent throughout
        return made[-1]

    seaborn.set(font_scale=2.5)
    return draw


@pytest.mark.parametrize(("finds_lambda", "left"), [(True, LAMBDA), (False, ECE)])
def test_each_line_has_the_values_of_its_key_at_the_axis_that_names_them(
    figure, finds_lambda, left
):
    values = {key: 0.01 * (i + 1) for i, key in enumerate(KEYS)}
    axes = figure(filled(3, finds_lambda=finds_lambda, **values)).axes
    for its, side in zip(axes, (left, UNEXPECTED), strict=True):
        assert its.get_ylabel() == side.label
        drawn = {line.get_label(): line for line in its.lines}
        for key, (name, style, _) in side.lines.items():
            np.testing.assert_array_equal(drawn[name].get_ydata(), [values[key]] * 3, err_msg=key)
            assert drawn[name].get_linestyle() == style
        legend = [text.get_text() for text in its.get_legend().get_texts()]
        assert legend == [name for name, _, _ in side.lines.values()]


def test_the_trainer_says_whether_lambda_is_found(build):
    for name, left in (("nnUNetTrainerMEEP_H_lambdaauto", LAMBDA), ("nnUNetTrainerCP", ECE)):
        assert build(getattr(trainers, name)).logger.local_logger._left is left


def test_lambda_starts_at_0_and_an_ece_that_is_positive_has_a_logarithmic_axis(figure):
    (left, _) = figure(filled(3)).axes
    assert (left.get_yscale(), left.get_ylim()[0]) == ("linear", 0)
    for ece, scale in ((0.01, "log"), (0.0, "linear"), (math.nan, "linear")):
        (left, _) = figure(filled(3, finds_lambda=False, mean_fg_ece=ece)).axes
        assert left.get_yscale() == scale


def test_nothing_in_the_panel_lies_on_anything_else(figure):
    drawn = figure(filled(3))
    above = [drawn._suptitle, *(axes.get_legend() for axes in drawn.axes)]
    boxes = [part.get_window_extent() for part in above] + [drawn.axes[0].bbox]
    # Legends stand on the axes, so they share an edge.
    boxes = [box.padded(-1) for box in boxes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for box in boxes:
        assert drawn.bbox.x0 <= box.x0 < box.x1 <= drawn.bbox.x1
        assert box.y1 <= drawn.bbox.y1


def test_it_is_said_where_the_network_is_overconfident_and_where_nothing_was_measured(figure):
    sides = ["overconfident", "underconfident"]
    nothing = "nothing measured: the training log says why"
    for ece, expected in ((0.5, sides), (math.nan, [*sides, nothing])):
        (_, right) = figure(filled(2, mean_fg_ece=ece)).axes
        assert [text.get_text() for text in right.texts] == expected
        above, below = (text.get_window_extent() for text in right.texts[:2])
        zero = right.transData.transform((0, 0))[1]
        assert above.y0 > zero > below.y1


def test_a_single_epoch_is_a_point(figure):
    for n_epochs, marker in ((1, "o"), (2, "None")):
        for axes in figure(filled(n_epochs)).axes:
            assert axes.lines[0].get_marker() == marker


@pytest.mark.parametrize("width", [2, 3, 5])
def test_images_of_other_widths_stand_on_white(tmp_path, width):
    path = tmp_path / "progress.png"
    Image.new("RGB", (3, 2), "red").save(path)
    progress._append_below(path, np.zeros((1, width, 4), np.uint8))
    both = np.asarray(Image.open(path).convert("RGB"))
    expected = np.full((3, max(3, width), 3), 255)
    expected[:2, :3] = (255, 0, 0)
    expected[2, :width] = 0
    np.testing.assert_array_equal(both, expected)


@pytest.mark.parametrize("finds_lambda", [True, False])
@pytest.mark.parametrize(
    ("n_epochs", "value"), [(1, math.nan), (2, math.nan), (2, 0.0), (2, -math.inf), (1, -40.0)]
)
def test_any_values_can_be_drawn_after_any_number_of_epochs(n_epochs, value, finds_lambda):
    """The panel alone: nnU-Net's figure has none of these values, and takes ten times as long."""
    logger = filled(n_epochs, finds_lambda=finds_lambda, **dict.fromkeys(KEYS, value))
    assert logger._panel().size


def test_values_that_are_no_numbers_end_no_training(tmp_path):
    filled(1, **dict.fromkeys(KEYS, math.nan)).plot_progress_png(str(tmp_path))
    assert (tmp_path / "progress.png").is_file()


@pytest.mark.parametrize(
    ("average", "lowest"), [(0.5, -1.05), (-1.5, -1.55), (-40.0, -3), (math.nan, -1.05)]
)
def test_the_last_average_is_in_sight_and_a_far_lower_share_of_an_epoch_flattens_nothing(
    figure, average, lowest
):
    (_, right) = figure(filled(2, average_unexpected=average, unexpected_errors=-20.0)).axes
    assert right.get_ylim() == pytest.approx((lowest, 1.05))
