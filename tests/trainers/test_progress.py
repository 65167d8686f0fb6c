"""The panels below nnU-Net's figure in progress.png."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from PIL import Image

from nnunet_meep.trainers import progress
from nnunet_meep.trainers.control import ErrorSums
from nnunet_meep.trainers.progress import KEYS, PANELS, CalibrationLogger


def filled(n_epochs, **ours):
    """A log with these values of ours, and some of nnU-Net's, in each epoch."""
    logger = CalibrationLogger()
    for epoch in range(n_epochs):
        for key in logger.my_fantastic_logging:
            value = ours.get(key, 0.5)
            value = [value, value] if key.endswith("per_class_or_region") else value
            logger.log(key, value, epoch)
    return logger


def test_nnunets_figure_stays_and_the_panels_come_below_it(tmp_path):
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
    assert len(below) == 1300 * len(PANELS)
    colours = below.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    assert len(np.unique(colours)) > 20  # lines in several colours
    assert [file.name for file in tmp_path.iterdir()] == ["progress.png"]


def test_each_key_of_ours_that_is_one_number_and_no_count_has_a_line():
    drawn = [key for panel in PANELS for _, lines in panel for key in lines]
    counts = {f"validation_{name}" for name in ErrorSums._fields}
    numbers = {key for key in KEYS if not key.endswith("per_class_or_region")}
    assert sorted(drawn) == sorted(numbers - counts)


@pytest.fixture
def figure(monkeypatch):
    """``figure(logger)``: what it draws, as matplotlib's figure."""
    made = []
    monkeypatch.setattr(progress, "Figure", lambda **how: made.append(Figure(**how)) or made[-1])

    def draw(logger):
        image = logger._panel()
        assert image.max() > 0  # not transparent throughout
        return made[-1]

    return draw


def test_each_line_has_the_values_of_its_key_at_the_axis_that_names_them(figure):
    values = {key: 0.1 * (i + 1) for i, key in enumerate(KEYS)}
    axes = figure(filled(3, **values)).axes
    for label, lines in (side for panel in PANELS for side in panel):
        (its,) = [each for each in axes if each.get_ylabel() == label]
        drawn = {line.get_label(): line for line in its.lines}
        for key, (name, colour, style) in lines.items():
            np.testing.assert_array_equal(drawn[name].get_ydata(), [values[key]] * 3, err_msg=key)
            assert (drawn[name].get_color(), drawn[name].get_linestyle()) == (colour, style)
        legend = [text.get_text() for text in its.get_legend().get_texts()]
        assert legend == [name for name, _, _ in lines.values()]


def test_small_values_have_a_logarithmic_axis_and_shares_one_around_0(figure):
    axes = {each.get_ylabel(): each for each in figure(filled(3)).axes}
    scales = {label: each.get_yscale() for label, each in axes.items()}
    logarithmic = ["pseudo ECE, pseudo Brier (validation)", "share of voxels (training)"]
    logarithmic.append("share of voxels (validation, average)")
    assert [label for label, scale in scales.items() if scale == "log"] == logarithmic
    assert axes["entropy / log K (training)"].get_ylim() == (0, 1.05)
    assert axes["lambda"].get_ylim()[0] == 0
    zero = [line.get_ydata() for line in axes["unexpected errors (validation)"].lines][-1]
    assert list(zero) == [0, 0]


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


@pytest.mark.parametrize(
    ("n_epochs", "value"), [(1, math.nan), (2, math.nan), (2, 0.0), (2, -math.inf), (1, -40.0)]
)
def test_any_values_can_be_drawn_after_any_number_of_epochs(n_epochs, value):
    """The panels alone: nnU-Net's figure has none of these values, and takes ten times as long."""
    assert filled(n_epochs, **dict.fromkeys(KEYS, value))._panel().size


def test_values_that_are_no_numbers_end_no_training(tmp_path):
    filled(1, **dict.fromkeys(KEYS, math.nan)).plot_progress_png(str(tmp_path))
    assert (tmp_path / "progress.png").is_file()


@pytest.mark.parametrize(("share", "lowest"), [(0.5, -1.05), (-1.5, -1.5), (-40.0, -3)])
def test_the_axis_of_unexpected_errors_follows_them_down(monkeypatch, share, lowest):
    limits = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.set_ylim", lambda self, *args, **_: limits.append(args)
    )
    filled(2, unexpected_errors=share)._panel()
    assert (lowest, 1.05) in limits
