"""Read the log of any training of nnU-Net, with or without this package, from a checkpoint."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from nnunet_meep.errors import InputError
from nnunet_meep.trainers.checkpoints import read_checkpoint
from nnunet_meep.trainers.progress import KEYS

#: Field of :class:`TrainingLog`: nnU-Net's key.
_NNUNETS = {
    "training_loss": "train_losses",
    "validation_loss": "val_losses",
    "mean_dice": "mean_fg_dice",
    "ema_dice": "ema_fg_dice",
    "learning_rate": "lrs",
}
_STARTED, _ENDED = "epoch_start_timestamps", "epoch_end_timestamps"
#: Our keys with one number per epoch.
_OURS = tuple(key for key in KEYS if not key.endswith("per_class_or_region"))


@dataclass(frozen=True)
class TrainingLog:
    """What a training has logged; each tuple has one value per epoch.

    Attributes:
        trainer: the name of its class.
        training_loss, validation_loss: of the whole loss, with the term if there is one.
        mean_dice: pseudo Dice, the mean of the foreground classes or regions, 0 to 1.
        ema_dice: its moving average, by which nnU-Net chooses ``checkpoint_best``.
        learning_rate: at the start of the epoch.
        seconds: duration of the epoch.
        calibration: what the trainers of this package log besides, by the keys of
            :data:`nnunet_meep.trainers.progress.KEYS` that have one number per epoch (``lambda``,
            ``unexpected_errors``, ``misclassified``, ...); empty for other trainers. NaN where
            there was nothing to measure.
    """

    trainer: str
    training_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    mean_dice: tuple[float, ...]
    ema_dice: tuple[float, ...]
    learning_rate: tuple[float, ...]
    seconds: tuple[float, ...]
    calibration: dict[str, tuple[float, ...]]

    @property
    def n_epochs(self) -> int:
        """Number of epochs that have ended."""
        return len(self.training_loss)

    @property
    def seconds_per_epoch(self) -> float:
        """The median, as the first epochs and those beside other jobs take longer."""
        return statistics.median(self.seconds)


def read_log(checkpoint: Path) -> TrainingLog:
    """The log in a checkpoint, which is read without running any code in it.

    Args:
        checkpoint: ``checkpoint_final.pth`` in the folder of a fold; of a training that has not
            ended, ``checkpoint_latest.pth``.

    Raises:
        InputError: there is no such file; it is damaged, or not nnU-Net's; it holds something
            that is not safe; its log lacks values of nnU-Net's, or has no epoch.
    """
    content = read_checkpoint(checkpoint, weights=False)
    log = content["logging"]
    keys = [*_NNUNETS.values(), _STARTED, _ENDED, *(key for key in _OURS if key in log)]
    values = {key: _numbers(checkpoint, log, key) for key in keys}
    # As in nnU-Net's figure: an epoch counts once all its values are logged.
    n_epochs = min(map(len, values.values()))
    if not n_epochs:
        raise InputError(f"{checkpoint}: expected the log of at least one epoch, got none")
    values = {key: numbers[:n_epochs] for key, numbers in values.items()}
    return TrainingLog(
        trainer=content["trainer_name"],
        seconds=tuple(
            end - start for start, end in zip(values[_STARTED], values[_ENDED], strict=True)
        ),
        calibration={key: values[key] for key in _OURS if key in values},
        **{field: values[key] for field, key in _NNUNETS.items()},
    )


def _numbers(checkpoint: Path, log: dict[str, Any], key: str) -> tuple[float, ...]:
    values = log.get(key)
    # Not a tensor: its value has not been read.
    if isinstance(values, list) and all(isinstance(value, Real) for value in values):
        return tuple(map(float, values))
    got = "nothing" if values is None else f"a {type(values).__name__}"
    if isinstance(values, list):
        other = next(value for value in values if not isinstance(value, Real))
        got += f" with a {type(other).__name__}"
    raise InputError(
        f"{checkpoint}: not a log of nnU-Net: expected a list of numbers as {key}, got {got}"
    )


def curves_of(log: TrainingLog) -> dict[str, tuple[float, ...]]:
    """The curves of a training that are worth laying over those of others, one value per epoch.

    Returns:
        ``loss``: the segmentation loss on training patches, without the term, whose weight differs
        between trainings; ``dice``: the pseudo Dice. Of trainers of this package also ``lambda``,
        unless it is always 0, and ``unexpected_errors``, the moving average of their share. For
        :func:`nnunet_meep.evaluation.report.curves.curves_figure`.
    """
    ours = log.calibration
    # NaN in epochs before this package continued the training: they had no term.
    segmentation = ours.get("segmentation_loss", log.training_loss)
    loss = (
        whole if math.isnan(part) else part
        for part, whole in zip(segmentation, log.training_loss, strict=True)
    )
    curves = {"loss": tuple(loss), "dice": log.mean_dice}
    if any(weight > 0 for weight in ours.get("lambda", ())):
        curves["lambda"] = ours["lambda"]
    if "average_unexpected" in ours:
        curves["unexpected_errors"] = ours["average_unexpected"]
    return curves
