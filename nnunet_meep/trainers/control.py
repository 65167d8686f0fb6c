"""A lambda that finds itself: raised while the network makes errors that it does not expect.

Cross-entropy plus the mean of MEEP-KL over the misclassified voxels W does not have its minimum
where the probabilities are right. For a voxel whose label is 1 with probability ``pi < 1/2``, and
|W| held fixed, it lies at ``p = (pi + l pi / 2) / (1 + l pi)`` with ``l = lambda N / |W|``, above
``pi``: MEEP lifts small probabilities. That mends a network as far as it is overconfident, and
harms it from there on; how far that is differs between losses and data sets, and changes while
the network learns.

**The signal** is the share of errors that the network does not expect, ``r = 1 - E / A`` with
``E`` = mean of 1 - max p and ``A`` = mean of [argmax p != y], over the voxels (with regions, voxels
and regions) of validation patches that nnU-Net does not force onto foreground: 1 where none of the
errors is expected, 0 where as many are expected as are made, negative where the network is
underconfident. It has no unit, so one gain serves organs and sparse lesions. ``E`` and ``A`` are
ratios of exponential averages of the sums over the epochs, so that an epoch counts by what it saw:
the first epochs, unsure of everything, keep r down, and lambda at 0, until they have faded.

**The control**: once per epoch ``lambda <- clip(lambda + g clip(r, -1, 1), 0, lambda_max)``, from
0 and constant over the last part of the training.

All constants are per share of the training, so that a short and a long one go the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

#: What lambda gains over a whole training in which no error is expected (r = 1): it takes a twelfth
#: of it to come to 0.2, about what small networks need (0.15 in ``benchmarks/first_runs.md``), and
#: an eighth to the paper's 0.3. It settles if r falls with lambda at a slope of up to 8 and the
#: network answers within 5 % of the training; from 12 on it swings. Measured slopes are 3 to 6.
GAIN = 2.5
#: The averages' memory: the share of the training after which an epoch counts 1 / e. r of
#: single epochs scatters by 0.1 (hippocampus) to 0.4 (sparse lesions, a few hundred errors each).
MEMORY = 0.06
#: The paper's largest best value (WMH with Dice).
LARGEST_LAMBDA = 1.0
#: From this share of the training on lambda is held: the learning rate has become too small for
#: the network to answer, and a control without an answer goes on in one direction.
HELD_FROM = 0.9


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


class Signal(NamedTuple):
    """What the averages say; NaN before the first voxel.

    Attributes:
        expected: E, the mean of 1 - max p.
        errors: A, the mean of [argmax p != y].
        unexpected: r = 1 - E / A, NaN as long as no error has been made.
    """

    expected: float
    errors: float
    unexpected: float


def signal(epochs: Sequence[ErrorSums], n_epochs: int) -> Signal:
    """E, A and r after the given epochs of a training of ``n_epochs``.

    An epoch without a voxel (all ignored) or with sums that are not finite (of a log without
    them, or of an image or network that gave NaN) is none.
    """
    keep = math.exp(-1 / (MEMORY * n_epochs))
    voxels = errors = expected = 0.0
    for sums in epochs:
        if sums.voxels > 0 and all(map(math.isfinite, sums)):
            voxels = keep * voxels + sums.voxels
            errors = keep * errors + sums.errors
            expected = keep * expected + sums.expected_errors
    if not voxels:
        return Signal(math.nan, math.nan, math.nan)
    unexpected = 1 - expected / errors if errors else math.nan
    return Signal(expected / voxels, errors / voxels, unexpected)


def next_lambda(weight: float, unexpected: float, n_done: int, n_epochs: int) -> float:
    """Lambda of the next epoch.

    Args:
        weight: of the epoch that has ended, from 0 to :data:`LARGEST_LAMBDA`.
        unexpected: r; NaN leaves lambda as it is.
        n_done: epochs that have ended.
        n_epochs: of the whole training.
    """
    if math.isnan(unexpected) or n_done >= HELD_FROM * n_epochs:
        return weight
    step = GAIN / n_epochs * min(max(unexpected, -1.0), 1.0)
    return min(max(weight + step, 0.0), LARGEST_LAMBDA)
