"""The panels below nnU-Net's figure in progress.png."""

from __future__ import annotations

import math

import numpy as np
import pytest
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from PIL import Image

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


def test_each_key_of_ours_that_is_one_number_has_a_line():
    drawn = [key for panel in PANELS for _, lines in panel for key in lines]
    assert sorted(drawn) == sorted(key for key in KEYS if not key.endswith("per_class_or_region"))


@pytest.mark.parametrize("n_epochs", [1, 2])
@pytest.mark.parametrize("value", [math.nan, 0.0, -math.inf, -40.0, 1.0])
def test_any_values_can_be_drawn_after_any_number_of_epochs(tmp_path, n_epochs, value):
    filled(n_epochs, **dict.fromkeys(KEYS, value)).plot_progress_png(str(tmp_path))
    assert (tmp_path / "progress.png").is_file()


@pytest.mark.parametrize(("share", "lowest"), [(0.5, -1.05), (-1.5, -1.5), (-40.0, -3)])
def test_the_axis_of_unexpected_errors_follows_them_down(monkeypatch, share, lowest):
    limits = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.set_ylim", lambda self, *args, **_: limits.append(args)
    )
    filled(2, unexpected_errors=share)._panel()
    assert (lowest, 1.05) in limits
