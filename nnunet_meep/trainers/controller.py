"""Compute lambda of each epoch from the training log, and describe it at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_meep.trainers.control import (
    STARTS,
    ErrorSums,
    Signal,
    begins,
    first_epoch,
    may_be_too_short,
    next_lambda,
    signal,
)
from nnunet_meep.trainers.grammar import TERMS, Experiment


class LambdaController:
    """Computes lambda; stateless, because nnU-Net's log, which every checkpoint holds, is enough.

    Args:
        experiment: whether lambda is fixed or automatic.
        logger: nnU-Net's logger, with the keys of :mod:`.progress`.
    """

    def __init__(self, experiment: Experiment, logger: Any) -> None:
        self._experiment, self._logger = experiment, logger

    def weight(self, epoch: int, n_epochs: int) -> float:
        """Lambda of an epoch; all earlier epochs must be in the log.

        Args:
            epoch: from 0.
            n_epochs: number of epochs of the whole training.
        """
        experiment = self._experiment
        if not experiment.auto or not experiment.term:
            return experiment.weight
        weights = self._weights()[:epoch]
        dice = self._logger.get_value("dice_per_class_or_region", step=None)[:epoch]
        sums = self._error_sums()[:epoch]
        if first_epoch(weights) is None and not begins(dice, sums, n_epochs):
            return 0.0
        found = next_lambda(weights, sums, n_epochs, start=STARTS[experiment.term])
        return min(found, TERMS[experiment.term].largest)

    def averages(self, n_epochs: int) -> Signal:
        """The averaged signal over the validation patches of all epochs in the log."""
        return signal(self._error_sums(), n_epochs, first_epoch(self._weights()))

    def _weights(self) -> list[float]:
        """Lambda of each epoch in the log; NaN where it was trained without this package."""
        return list(self._logger.get_value("lambda", step=None))

    def _error_sums(self) -> list[ErrorSums]:
        values = (
            self._logger.get_value(f"validation_{key}", step=None) for key in ErrorSums._fields
        )
        return list(map(ErrorSums, *values))

    def of_training(self, *, saved: bool) -> str:
        """A sentence on the lambda at the end of the training.

        Args:
            saved: whether there are checkpoints, of which it says what each was trained with.
        """
        weights: Sequence[float] = self._logger.get_value("lambda", step=None)
        if not weights[-1]:
            n = len(weights)
            if may_be_too_short(n):
                why = (
                    f"a training of {n} epoch{'s' * (n != 1)} is too short for the term, which "
                    "begins after two fifths of it, three if a class is found late"
                )
            elif not any(sums.usable for sums in self._error_sums()):
                why = (
                    "nothing could be measured on the validation patches; all their voxels are "
                    "ignored, or the trainer's validation step does not call the loss"
                )
            else:
                why = (
                    "whenever the term could have begun, the network expected more errors than it "
                    "made; such a network is underconfident, and the term would make it worse"
                )
            return f"lambda was 0 to the end: {why}"
        text = f"lambda: {weights[-1]:.4g} in the last epoch"
        if not saved:
            return text
        text += ", of checkpoint_final"
        averages = np.array(self._logger.get_value("ema_fg_dice", step=None), np.float64)
        best = int(np.argmax(np.nan_to_num(averages, nan=-np.inf)))  # nnU-Net never takes NaN
        if best < len(weights) - 1:
            text += f"; {weights[best]:.4g} in epoch {best}, of checkpoint_best"
            if not weights[best]:
                text += ", which was trained without the term, because it had not begun yet"
        return text
