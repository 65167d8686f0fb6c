"""Automatic lambda: it rises while the network makes more errors than it expects.

Calibrated probabilities do not minimize cross-entropy plus the mean of a MEEP term over the
misclassified voxels W: the term helps as long as the network is overconfident, and harms beyond
that. The lambda at which this happens depends on the loss and the data set, and changes during
training.

**The signal** is the fraction of errors that the network does not expect, ``r = 1 - E / A``, with
the expected error rate ``E`` = mean of 1 - max p and the actual error rate ``A`` = mean of
[argmax p != y]. Both are means over the voxels (with regions, pairs of voxel and region) of the
validation patches that nnU-Net does not force onto foreground. r is 1 if none of the errors is
expected, 0 if as many are expected as are made, negative if the network is underconfident. It has
no unit, so it suits organs as well as sparse lesions. (The slope of the log-loss over a
temperature was tried instead. It weighs an error the more, the less its label was expected, so a
few lesions that the network does not see demand ever more lambda.)

**The target** is :data:`AIM`, not 0: the patches are predicted once, whereas images are predicted
by averaging overlapping and mirrored patches, which lowers confidence.

**First learn to segment, then to be unsure.** Until the network has found its classes, r is not
worth following: the actual errors change at once, the expected ones later. And the term hinders it
from finding them: everything that it does not know yet is an error, which the term keeps uncertain.
Lambda is 0 up to :data:`BEGINS_AT` of the training, and longer, up to :data:`BEGINS_LATEST`, while
the pseudo Dice of a class is below :data:`FOUND`; then :data:`STARTS` until the network has
responded.

**An underconfident network is left alone.** Some are, without any term, such as those of
cross-entropy alone in short trainings (benchmarks/lambda_auto.md). The term would make them worse,
so it does not begin, however late, while r was below 0, or unknown, in each epoch of
:data:`LASTING`. For a few epochs, it is below 0 in other networks, too, when they find a class:
those do not wait.

**The control** is multiplicative: ``lambda <- lambda exp(g (r - AIM))`` once per epoch, with r
clipped to [-1, 1]. As lambda rises to the value needed, r falls from r0 to 0, and its slope over
log lambda there is about -r0. r0 is 0.4 to 0.9 for networks trained without a term, whatever the
loss and the data set: one gain serves all of them, though their lambdas differ tenfold. E and A
are those of the current epoch, because averages would lag behind; only the denominator of r is an
average, so that an epoch with few errors causes no jump. The gain falls with the learning rate,
because the network responds ever more slowly.

All constants are relative to the length of the training. Longer trainings come to the same lambda;
after a thousand iterations, networks still change too fast (benchmarks/lambda_auto.md).

**Other terms.** Nothing of this knows MEEP: the control works with every term of which more lowers
confidence, and so asks of each rival whether it is the term that calibrates, or the control. It
was tuned with the MEEP terms; the others begin with their published weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from nnunet_meep.trainers.grammar import TERMS

#: Fraction of the training after which the term begins.
BEGINS_AT = 0.4
#: The same if a class has not been found yet.
BEGINS_LATEST = 0.6
#: Pseudo Dice from which a class counts as found. Below 0.5, there are more false positives and
#: negatives together than twice the true positives.
FOUND = 0.5
#: First lambda of each term: of the MEEP terms, about the value that hippocampus needs.
STARTS = {name: term.weights["DiceCE"] for name, term in TERMS.items() if not term.not_auto}
STARTS |= {"MEEP_H": 0.4, "MEEP_KL": 0.15}
#: How long a network has to be underconfident to count as such, as a fraction of the training.
LASTING = 0.2
#: How long the first lambda is kept, as a fraction of the training. In trainings of 2500 iterations
#: a network needs 0.01 (MEEP-KL) to 0.1 (MEEP-H) of them to respond.
WAIT = 0.1
#: g over a whole training, at the first step. With r0 = 0.6, an error in log lambda falls to 1 / e
#: within a tenth of the training.
GAIN = 18.0
#: Target of r on patches. r of whole images is as high or up to 0.04 lower, in the means of the
#: trainings on hippocampus and left atrium (benchmarks/lambda_auto.md), which came later.
AIM = 0.05
#: Fraction of the training after which lambda no longer changes.
HELD_FROM = 0.97
#: Lambda is at most this many times its first value.
LARGEST_FACTOR = 8.0
#: Time constant of the averages: the fraction of the training after which the weight of an epoch is
#: 1 / e. r of single epochs varies by 0.1 (hippocampus) to 0.4 (sparse lesions, a few hundred
#: errors each).
MEMORY = 0.06


class ErrorSums(NamedTuple):
    """Sums over the validation patches of an epoch, over all ranks.

    Attributes:
        voxels: number of voxels that are not ignored (with regions, pairs of voxel and region).
        errors: number of these that are misclassified.
        expected_errors: the sum of 1 - max p over these.
    """

    voxels: float
    errors: float
    expected_errors: float

    @property
    def usable(self) -> bool:
        """Whether there are voxels (not all ignored) and all sums are finite.

        They are not if the log lacks them, or if an image or the network gave NaN.
        """
        return self.voxels > 0 and all(map(math.isfinite, self))


class Signal(NamedTuple):
    """The averaged signal; NaN before the first voxel.

    Attributes:
        expected: the mean of 1 - max p.
        errors: the mean of [argmax p != y].
        unexpected: r = 1 - expected / errors; NaN until an error has been made.
    """

    expected: float
    errors: float
    unexpected: float


def begins(dice: Sequence[Sequence[float]], epochs: Sequence[ErrorSums], n_epochs: int) -> bool:
    """Whether the term may begin in the next epoch.

    Args:
        dice: for each epoch so far, the pseudo Dice of each class or region; NaN if undefined.
        epochs: the sums of all epochs so far.
        n_epochs: number of epochs of the whole training.
    """
    over = len(dice) / n_epochs
    lasting = epochs[-max(1, round(LASTING * n_epochs)) :]
    if over < BEGINS_AT or not any(map(_is_overconfident, lasting)):
        return False
    last = dice[-max(1, round(MEMORY * n_epochs)) :]
    return over >= BEGINS_LATEST or all(map(_is_found, zip(*last, strict=True)))


def _is_overconfident(sums: ErrorSums) -> bool:
    """Whether the network made as many errors as it expected, or more; if that is known."""
    return sums.usable and sums.errors >= sums.expected_errors


def may_be_too_short(n_epochs: int) -> bool:
    """Whether the training ends before the term of an overconfident network surely begins."""
    return (n_epochs - 1) / n_epochs < BEGINS_LATEST


def _is_found(dice: Sequence[float]) -> bool:
    """Whether a class, with its pseudo Dice in the last epochs, is found, or nowhere in them."""
    defined = [value for value in dice if not math.isnan(value)]
    return not defined or sum(defined) / len(defined) >= FOUND


def signal(epochs: Sequence[ErrorSums], n_epochs: int, begun: int | None = None) -> Signal:
    """The averages after the given epochs of a training of ``n_epochs``.

    Args:
        begun: the epoch in which the term began; None if it has not.
    """
    voxels, errors, expected = _averaged(epochs, n_epochs, begun)
    if not voxels:
        return Signal(*[math.nan] * len(Signal._fields))
    unexpected = 1 - expected / errors if errors else math.nan
    return Signal(expected / voxels, errors / voxels, unexpected)


def _averaged(epochs: Sequence[ErrorSums], n_epochs: int, begun: int | None) -> ErrorSums:
    """Exponentially weighted sums, not ratios, so that each epoch counts by its number of voxels.

    They restart when the term begins, because earlier epochs describe training without it.
    """
    keep = math.exp(-1 / (MEMORY * n_epochs))
    total = ErrorSums(0, 0, 0)
    for sums in epochs[begun if begun is not None and begun < len(epochs) else 0 :]:
        if sums.usable:
            total = ErrorSums(*(keep * a + b for a, b in zip(total, sums, strict=True)))
    return total


def next_lambda(
    weights: Sequence[float], epochs: Sequence[ErrorSums], n_epochs: int, *, start: float
) -> float:
    """Lambda of the next epoch, once the term has begun.

    Args:
        weights: lambda of all epochs so far, 0 or NaN where there was none.
        epochs: the sums of all epochs so far.
        n_epochs: number of epochs of the whole training.
        start: the term's entry in :data:`STARTS`.
    """
    begun = first_epoch(weights)
    if begun is None:
        return start
    weight, over, last = weights[-1], len(epochs) / n_epochs, epochs[-1]
    average = _averaged(epochs, n_epochs, begun)
    is_waiting = over < begun / n_epochs + WAIT
    if is_waiting or over >= HELD_FROM or not last.usable or not average.errors:
        return weight
    excess = (last.errors - last.expected_errors) / last.voxels
    unexpected = excess / (average.errors / average.voxels)
    gain = GAIN / n_epochs * math.sqrt((1 - over) / (1 - BEGINS_AT))
    factor = math.exp(gain * (min(max(unexpected, -1.0), 1.0) - AIM))
    return min(weight * factor, LARGEST_FACTOR * start)


def first_epoch(weights: Sequence[float]) -> int | None:
    """The epoch in which the term began: from there on lambda was above 0; None if it has not."""
    begun = None
    for epoch in range(len(weights) - 1, -1, -1):
        if not weights[epoch] > 0:  # 0, or NaN without this package
            break
        begun = epoch
    return begun
