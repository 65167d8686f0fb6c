"""The log of a training, read from a checkpoint: the values, and what is refused."""

from __future__ import annotations

import math
import os
import pickle
import re

import numpy as np
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.report.curves import TITLES
from nnunet_meep.trainers.logs import curves_of, read_log
from nnunet_meep.trainers.progress import KEYS, CalibrationLogger

#: Of three epochs, in the types in which nnU-Net logs them.
NNUNETS = {
    "train_losses": [np.float32(0.5), np.float32(0.25), np.float32(-0.5)],
    "val_losses": [np.float64(0.75), np.float64(0.0), np.float64(-0.25)],
    "mean_fg_dice": [np.float64(0.0), np.float64(0.5), np.float64(0.75)],
    "ema_fg_dice": [np.float64(0.0), np.float64(0.05), np.float64(0.12)],
    "dice_per_class_or_region": [[np.float64(0.0), np.float64(0.5)]] * 3,
    "lrs": [0.01, 0.007, 0.003],
    "epoch_start_timestamps": [100.0, 160.0, 200.0],
    "epoch_end_timestamps": [150.0, 180.0, 230.0],
}


@pytest.fixture
def save(tmp_path):
    """``save(logger, **values)``: a checkpoint with these values in the log; its path."""

    def make(logger, **values):
        log = logger.my_fantastic_logging
        assert set(NNUNETS) <= set(log)
        log.update(NNUNETS | values)
        content = {
            "network_weights": {"weight": torch.ones(2)},
            "logging": log,
            "init_args": {"device": torch.device("cuda")},
            "trainer_name": "nnUNetTrainerMine",
        }
        torch.save(content, tmp_path / "checkpoint_latest.pth")
        return tmp_path / "checkpoint_latest.pth"

    return make


@pytest.fixture
def ours():
    """Three epochs; in the first the training was another trainer's, which logs none of this."""
    values = {key: [math.nan, 0.25, 0.5] for key in KEYS}
    return values | {"lambda": [math.nan, 0.0, 0.4], "average_unexpected": [math.nan, 0.75, 0.5]}


def test_the_log_of_nnunets_own_trainer_has_its_numbers(save):
    log = read_log(save(LocalLogger()))
    assert log.trainer == "nnUNetTrainerMine"
    assert log.training_loss == (0.5, 0.25, -0.5)
    assert log.validation_loss == (0.75, 0.0, -0.25)
    assert (log.mean_dice, log.ema_dice) == ((0.0, 0.5, 0.75), (0.0, 0.05, 0.12))
    assert log.learning_rate == (0.01, 0.007, 0.003)
    assert log.seconds == (50.0, 20.0, 30.0)
    assert (log.n_epochs, log.seconds_per_epoch) == (3, 30.0)
    assert log.calibration == {}
    assert {type(value) for value in log.training_loss + log.mean_dice} == {float}
    assert curves_of(log) == {"loss": log.training_loss, "dice": log.mean_dice}


def test_the_log_of_our_trainers_has_what_they_add(save, ours):
    log = read_log(save(CalibrationLogger(), **ours))
    assert set(log.calibration) == {key for key in KEYS if "per_class" not in key}
    for key, values in log.calibration.items():
        np.testing.assert_array_equal(values, ours[key], err_msg=key)


def test_curves_are_those_that_can_be_compared_and_drawn(save, ours):
    curves = curves_of(read_log(save(CalibrationLogger(), **ours)))
    assert list(curves) == list(TITLES)
    # Without the term; before there was one, that is the whole loss.
    assert curves["loss"] == (0.5, 0.25, 0.5)
    assert curves["lambda"][1:] == (0.0, 0.4)
    assert curves["unexpected_errors"][1:] == (0.75, 0.5)
    without_term = ours | {"lambda": [0.0] * 3}
    assert "lambda" not in curves_of(read_log(save(CalibrationLogger(), **without_term)))


def test_an_epoch_whose_values_are_not_all_logged_does_not_count(save, ours):
    for key in ("epoch_end_timestamps", "lambda"):
        values = {key: (NNUNETS | ours)[key][:2]}
        log = read_log(save(CalibrationLogger(), **(ours | values)))
        assert log.n_epochs == 2
        lengths = {len(values) for values in (log.seconds, log.ema_dice, *log.calibration.values())}
        assert lengths == {2}


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refusal(path):
    with pytest.raises(InputError) as error:
        read_log(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


def test_code_in_a_checkpoint_is_not_run(save, tmp_path):
    bomb = Bomb(tmp_path / "bomb")
    path = save(LocalLogger(), mine=bomb)
    assert "mkdir" in refusal(path)
    path.write_bytes(pickle.dumps(bomb))
    assert "not a checkpoint of nnU-Net" in refusal(path)
    assert not bomb.path.exists()


def test_what_is_no_checkpoint_is_refused(save, tmp_path):
    path = save(LocalLogger())
    content = path.read_bytes()
    for broken in (b"", b"text", content[: len(content) // 2], content[:-1]):
        path.write_bytes(broken)
        assert "not a checkpoint of nnU-Net, or cut short" in refusal(path)
    torch.save({"state_dict": {}}, path)
    assert "not a checkpoint of nnU-Net: it needs" in refusal(path)
    assert refusal(tmp_path).endswith("got a folder")
    assert refusal(tmp_path / "checkpoint_final.pth").endswith("got nothing")


@pytest.mark.parametrize(
    ("key", "values", "got"),
    [
        ("train_losses", None, "got nothing"),
        ("lrs", 0.01, "got a float"),
        ("val_losses", [0.5, "0.5", 0.5], "got a list with a str"),
        ("lambda", [0.5, torch.tensor(0.5), 0.5], "got a list with a Tensor"),
    ],
)
def test_a_log_without_numbers_is_refused_and_the_key_is_named(save, key, values, got):
    line = refusal(save(LocalLogger(), **{key: values}))
    assert re.search(rf"expected a list of numbers as {key}, {re.escape(got)}", line)


def test_a_log_of_no_epoch_is_refused(save):
    assert "at least one epoch, got none" in refusal(save(LocalLogger(), lrs=[]))
