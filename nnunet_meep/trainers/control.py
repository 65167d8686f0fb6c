"""A lambda that finds itself: raised while the network makes errors that it does not expect.

Cross-entropy plus the mean of a MEEP term over the misclassified voxels W does not have its minimum
where the probabilities are right: the term mends a network as far as it is overconfident, and
harms it from there on. How far that is differs between losses and data sets, and changes while the
network learns.

**The signal** is the share of errors that the network does not expect, ``r = 1 - E / A`` with
``E`` = mean of 1 - max p and ``A`` = mean of [argmax p != y], over the voxels (with regions, voxels
and regions) of validation patches that nnU-Net does not force onto foreground: 1 where none of the
errors is expected, 0 where as many are expected as are made, negative where the network is
underconfident. It has no unit, so it serves organs and sparse lesions. (The slope of the log-loss
over a temperature, which weighs an error by how little its label was expected, was tried instead:
a few lesions that a network does not see then ask for ever more lambda.)

**The aim** is :data:`AIM`, not 0: patches are predicted once, images by averaging overlapping and
mirrored patches, which makes them less sure.

**First learn to segment, then learn to be unsure.** While a network finds its classes r says
nothing worth following: errors change at once, and the expected ones later. Lambda is 0 until
:data:`BEGINS_AT` of the training, and then :data:`STARTS`, until the network has answered.

**The control** multiplies: once per epoch ``lambda <- lambda exp(g (r - aim))``, r within -1 and 1.
Where r falls from r0 to 0 as lambda rises to what is needed, its slope over log lambda is about -r0
there, which is 0.6 to 0.9 for overconfident networks, whatever the term, the loss and the data set:
one gain serves all of them, though their lambdas differ eightfold. E and A are those of the epoch,
because an average would be a delay; only what their difference is divided by is an average, so that
an epoch with few errors is no jump. The gain falls with the learning rate, because the network
answers ever more slowly.

All constants are per share of the training, so that a short and a long one go the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

#: The share of the training from which on there is a term.
BEGINS_AT = 0.4
#: term: its first lambda, about what hippocampus needs.
STARTS = {"MEEP_H": 0.4, "MEEP_KL": 0.15}
#: How long the first lambda stays, as a share of the training. In trainings of 2500 iterations a
#: network needs 0.01 (MEEP-KL) to 0.1 (MEEP-H) of them to answer.
WAIT = 0.1
#: g of a whole training, at the first step. With r0 = 0.6 to 0.9 an error in log lambda has fallen
#: to 1 / e after a tenth of the training or less.
GAIN = 18.0
#: r of whole images is lower than that of patches, by 0.05 on hippocampus, by more on lesions.
AIM = 0.05
#: From this share of the training on lambda is held.
HELD_FROM = 0.97
#: Lambda is at most this many times its first value.
LARGEST_FACTOR = 8.0
#: The averages' memory: the share of the training after which an epoch counts 1 / e. r of
#: single epochs scatters by 0.1 (hippocampus) to 0.4 (sparse lesions, a few hundred errors each).
MEMORY = 0.06


class ErrorSums(NamedTuple):
    """Sums over the validation patches of an epoch, of all ranks.

    Attributes:
        voxels: how many (with regions, pairs of voxel and region) count.
        errors: how many of them are misclassified.
        expected_errors: the sum of 1 - max p.
    """

    voxels: float
    errors: float
    expected_errors: float

    @property
    def usable(self) -> bool:
        """Neither without a voxel (all ignored) nor with sums that are not finite (of a log
        without them, or of an image or network that gave NaN)."""
        return self.voxels > 0 and all(map(math.isfinite, self))


class Signal(NamedTuple):
    """What the averages say; NaN before the first voxel.

    Attributes:
        expected: the mean of 1 - max p.
        errors: the mean of [argmax p != y].
        unexpected: r = 1 - expected / errors, NaN as long as no error has been made.
    """

    expected: float
    errors: float
    unexpected: float


def signal(epochs: Sequence[ErrorSums], n_epochs: int) -> Signal:
    """Averages after the given epochs of a training of ``n_epochs``."""
    voxels, errors, expected = _averaged(epochs, n_epochs)
    if not voxels:
        return Signal(*[math.nan] * len(Signal._fields))
    unexpected = 1 - expected / errors if errors else math.nan
    return Signal(expected / voxels, errors / voxels, unexpected)


def _averaged(epochs: Sequence[ErrorSums], n_epochs: int) -> ErrorSums:
    """Exponential averages, of sums and not of ratios, so that an epoch counts by what it saw.

    With the first epoch of the term they begin anew: those before were another network's.
    """
    keep = math.exp(-1 / (MEMORY * n_epochs))
    first = math.ceil(BEGINS_AT * n_epochs)
    total = ErrorSums(0, 0, 0)
    for sums in epochs[first if len(epochs) > first else 0 :]:
        if sums.usable:
            total = ErrorSums(*(keep * a + b for a, b in zip(total, sums, strict=True)))
    return total


def next_lambda(
    weight: float, epochs: Sequence[ErrorSums], n_epochs: int, *, start: float
) -> float:
    """Lambda of the next epoch.

    Args:
        weight: of the epoch that has ended; 0 or NaN if there was none.
        epochs: the sums of all epochs that have ended.
        n_epochs: of the whole training.
        start: the term's entry in :data:`STARTS`.
    """
    over = len(epochs) / n_epochs
    if over < BEGINS_AT:
        return 0.0
    if not weight > 0:
        return start
    last = epochs[-1]
    average = _averaged(epochs, n_epochs)
    if over < BEGINS_AT + WAIT or over >= HELD_FROM or not last.usable or not average.errors:
        return weight
    excess = (last.errors - last.expected_errors) / last.voxels
    unexpected = excess / (average.errors / average.voxels)
    gain = GAIN / n_epochs * math.sqrt((1 - over) / (1 - BEGINS_AT))
    factor = math.exp(gain * (min(max(unexpected, -1.0), 1.0) - AIM))
    return min(weight * factor, LARGEST_FACTOR * start)
