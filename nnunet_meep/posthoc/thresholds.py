"""Chooses a threshold for each class or region from validation cases.

The thresholds to choose from are fixed: 16,385, 0.003 apart in logit, from 3.8e-11 to 1 - 3.8e-11,
1/2 among them. For each of them Dice and false-negative rate of each case are exact. That the
thresholds do not depend on the cases is what conformal risk control asks for; a finer choice could
raise a threshold by less than 0.3 % of itself.

Only cases whose reference has the class count for it. With the others, in which nothing can be
missed, a rare class could be lost in every case that has it, and keep its rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.bins import LOGIT_LIMIT, N_LOGIT_CELLS
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.nnunet_files.derived import Thresholds
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import PART
from nnunet_meep.posthoc.conformal import fewest_for_risk, keeps_risk
from nnunet_meep.posthoc.segmentation import segmentation, shares
from nnunet_meep.posthoc.voxels import ArrayVoxels

#: The thresholds to choose from, ascending, (T,).
THRESHOLDS = expit(np.linspace(-LOGIT_LIMIT, LOGIT_LIMIT, N_LOGIT_CELLS + 1))
#: The index of 1/2 among them.
HALF = N_LOGIT_CELLS // 2

ABSENT = "no voxels of it in the references"


@dataclass(frozen=True)
class ThresholdFit:
    """The choice of a threshold for one class.

    Attributes:
        name: name of the class.
        n_with: number of cases whose reference has the class.
        chosen: index of its threshold in :data:`THRESHOLDS`.
        dice: for each threshold, mean Dice over the cases whose reference has the class, (T,).
        fnr: for each threshold, mean false-negative rate over the same cases, (T,).
        nnunet_dice, nnunet_fnr: the same means for nnU-Net's segmentation, without thresholds.
    """

    name: str
    n_with: int
    chosen: int
    dice: NDArray[np.float64]
    fnr: NDArray[np.float64]
    nnunet_dice: float
    nnunet_fnr: float

    @property
    def threshold(self) -> float:
        return float(THRESHOLDS[self.chosen])


def learn_thresholds(
    cases: Iterable[ArrayVoxels], labels: Labels, fnr: float | None
) -> tuple[Thresholds, dict[str, ThresholdFit], dict[str, str]]:
    """Choose the thresholds.

    For the best mean Dice, each class or region has its own, chosen as if it were alone. To keep a
    false-negative rate, each region has its own; classes that exclude each other have the same: a
    class with a lower threshold would win voxels of another one, whose rate would no longer depend
    on its own threshold alone. It is the lowest that any of them needs.

    Args:
        cases: the validation cases, with calibrated probabilities.
        labels: the classes.
        fnr: the false-negative rate to keep; None: choose for the best mean Dice.

    Returns:
        The thresholds; for each class how it was chosen; and, for those that no reference has, or
        too few to keep the rate, why it stays at 1/2, or is that of the others.

    Raises:
        InputError: no class is in enough cases, no threshold of one that is keeps the rate, or no
            reference has any class.
    """
    compete = fnr is not None and not labels.is_region_based and len(labels.classes) > 1
    totals = [_Totals(THRESHOLDS.shape) for _ in labels.classes]
    of_nnunet = [_Totals(()) for _ in labels.classes]
    for case in cases:
        for total, counts in zip(totals, _counts(case, labels, compete), strict=True):
            total.add(*counts)
        for total, counts in zip(of_nnunet, _nnunet_counts(case, labels), strict=True):
            total.add(*counts)
    if not any(total.n_with for total in totals):
        raise InputError("threshold: nothing to learn: the references have none of the classes")
    fewest = 1 if fnr is None else fewest_for_risk(fnr)
    if fnr is not None:
        _refuse_rate(dict(zip(labels.names, totals, strict=True)), fnr, compete)
    chosen = {
        key: _best_dice(total) if fnr is None else _largest(total, fnr)
        for key, total in zip(labels.keys, totals, strict=True)
        if total.n_with >= fewest
    }
    if compete:
        chosen = dict.fromkeys(labels.keys, min(chosen.values()))
    fits = {
        key: ThresholdFit(
            name,
            t.n_with,
            chosen.get(key, HALF),
            *(t.mean_dice, t.mean_fnr),
            *(float(nnunet.mean_dice), float(nnunet.mean_fnr)),
        )
        for key, name, t, nnunet in zip(labels.keys, labels.names, totals, of_nnunet, strict=True)
    }
    reasons = {
        key: _too_few(of_class.n_with, fewest) if of_class.n_with else ABSENT
        for key, of_class in fits.items()
        if of_class.n_with < fewest
    }
    return Thresholds({key: f.threshold for key, f in fits.items()}, fnr), fits, reasons


def _too_few(n: int, fewest: int) -> str:
    return f"only {counted(n, 'case')} with it, of {fewest} that the rate needs"


class _Totals:
    """Sums over cases for one class, of several segmentations (those of the thresholds) or one.

    Args:
        shape: that of the numbers of one case: (T,) for thresholds, () for one segmentation.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n_with = 0
        self.fnr = np.zeros(shape)
        self._dice = np.zeros(shape)

    def add(self, tp: NDArray[np.int64], fp: NDArray[np.int64], n_positive: int) -> None:
        """Add a case: true and false positives of each segmentation; voxels of the class."""
        if n_positive:  # otherwise none can be missed, and Dice is 0 or does not exist
            self.n_with += 1
            self.fnr += (n_positive - tp) / n_positive
            self._dice += 2 * tp / (tp + fp + n_positive)

    @property
    def mean_dice(self) -> NDArray[np.float64]:
        return self._mean(self._dice)

    @property
    def mean_fnr(self) -> NDArray[np.float64]:
        return self._mean(self.fnr)

    def _mean(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        return total / self.n_with if self.n_with else np.full_like(total, np.nan)


def _counts(
    case: ArrayVoxels, labels: Labels, compete: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """For each class: true and false positives of each threshold, and the voxels of the class.

    If classes ``compete``, a voxel can only get the class with the largest share, as it does if all
    have the same threshold.
    """
    n_slots = len(THRESHOLDS) + 1
    flat, codes = case.probabilities.reshape(len(case.probabilities), -1), case.codes.ravel()
    y_of_code = [labels.y_of_code(labels.members(i)) for i in range(len(labels.classes))]
    counts = np.zeros((len(labels.classes), 2, n_slots), np.int64)
    for start in range(0, len(codes), PART):
        part = slice(start, start + PART)
        p = shares(flat[:, part], labels)
        if compete:
            p = np.where(np.arange(len(p))[:, None] == p.argmax(axis=0), p, 0)
        for of_class, q, y in zip(counts, p, y_of_code, strict=True):
            # The number of thresholds that are smaller than q: those by which it is segmented.
            slot = y[codes[part]].astype(np.intp) * n_slots + np.searchsorted(THRESHOLDS, q)
            of_class += np.bincount(slot, minlength=3 * n_slots).reshape(3, n_slots)[:2]
    segmented = counts[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:]
    for (fp, tp), of_class in zip(segmented, counts, strict=True):
        yield tp, fp, int(of_class[1].sum())


def _nnunet_counts(
    case: ArrayVoxels, labels: Labels
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """For each class: true and false positives, (), of nnU-Net's segmentation, and its voxels."""
    segmented = case.segmented
    if segmented is None:
        segmented = segmentation(case.probabilities, labels)
    for members in map(labels.members, range(len(labels.classes))):
        mine, y = np.isin(segmented, members), labels.y_of_code(members)[case.codes]
        tp, fp = (np.asarray(np.count_nonzero(mine & (y == truth))) for truth in (1, 0))
        yield tp, fp, int(np.count_nonzero(y == 1))


def _best_dice(total: _Totals) -> int:
    """The threshold with the largest mean Dice, of several the one nearest to 1/2."""
    best = np.flatnonzero(total.mean_dice == total.mean_dice.max())
    return int(best[np.abs(best - HALF).argmin()])


def _refuse_rate(totals: dict[str, _Totals], fnr: float, compete: bool) -> None:
    """Refuse a false-negative rate that no threshold of some class keeps.

    Raises:
        InputError: with the class, by its name, that misses most voxels.
    """
    most = max(total.n_with for total in totals.values())
    if most < fewest_for_risk(fnr):
        raise InputError(
            f"fnr {fnr:g}: expected {fewest_for_risk(fnr)} cases at least that have the class, for "
            f"a false-negative rate of {100 * fnr:g} %, got {most}; give more cases, or a larger "
            f"rate"
        )
    enough = {k: t for k, t in totals.items() if t.n_with >= fewest_for_risk(fnr)}
    name, total = max(enough.items(), key=lambda item: _least_rate(item[1]))
    n = total.n_with
    if not keeps_risk(total.fnr[:1], n, fnr).any():
        others = " or another class has a larger one" if compete else ""
        least = math.ceil(1000 * _least_rate(total)) / 1000
        what_to_do = (
            f"give a rate of {least:g} at least"
            if least < 1
            else "no rate can be kept, the network does not segment it"
        )
        raise InputError(
            f"fnr {fnr:g}: expected a threshold that keeps this false-negative rate, found none "
            f"for {name}: the lowest one misses {total.mean_fnr[0]:.1%} of its voxels, on average "
            f"over {n} cases with it, as their p is 0{others}; {what_to_do}"
        )


def _least_rate(total: _Totals) -> float:
    """The lowest false-negative rate that the lowest threshold keeps; see :func:`keeps_risk`."""
    return float((total.fnr[0] + 1) / (total.n_with + 1))


def _largest(total: _Totals, fnr: float) -> int:
    """The largest threshold that keeps the false-negative rate."""
    return int(np.flatnonzero(keeps_risk(total.fnr, total.n_with, fnr))[-1])
