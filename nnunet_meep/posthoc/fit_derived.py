"""Fits thresholds or volume intervals, which leave probabilities as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.case_counts import is_2d
from nnunet_meep.evaluation.counting.reference import read_reference
from nnunet_meep.evaluation.counting.roi import parse_roi
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.derived import (
    DERIVED,
    THRESHOLD,
    VOLUME,
    Thresholds,
    VolumeIntervals,
)
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.posthoc.calibrator import Calibrator, label_entries, read_calibrator
from nnunet_meep.posthoc.fitting_set import FittingSet
from nnunet_meep.posthoc.segmentation import segmentation
from nnunet_meep.posthoc.thresholds import HALF, ThresholdFit, learn_thresholds
from nnunet_meep.posthoc.volumes import VolumeFit, learn_intervals
from nnunet_meep.posthoc.voxels import ArrayVoxels
from nnunet_meep.posthoc.whole_case import read_probabilities

#: If none is asked for.
COVERAGE = 0.9


@dataclass(frozen=True)
class Goal:
    """What is fitted, and what it is to achieve.

    Attributes:
        method: one of ``DERIVED``.
        share: the coverage of volume intervals, or the false-negative rate that thresholds keep,
            above 0 and below 1; None: thresholds of the best mean Dice.

    Raises:
        InputError: ``share`` is out of range.
    """

    method: str
    share: float | None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share < 1:
            name = "coverage" if self.method == VOLUME else "fnr"
            raise InputError(
                f"{name}: expected a share above 0 and below 1, such as 0.9 or 0.1, got "
                f"{self.share:g}"
            )

    @classmethod
    def of(
        cls, method: str, coverage: float | None, goal: str | None, fnr: float | None
    ) -> Goal | None:
        """The goal that ``meep-calib-fit`` is asked for; None if its method is another one.

        Raises:
            InputError: an option does not belong to the method, is missing, or out of range.
        """
        if coverage is not None and method != VOLUME:
            raise InputError(f"--coverage: expected with {VOLUME} alone, got it with {method}")
        if (goal is not None or fnr is not None) and method != THRESHOLD:
            option = "--goal" if fnr is None else "--fnr"
            raise InputError(f"{option}: expected with {THRESHOLD} alone, got it with {method}")
        if method == VOLUME:
            return cls(method, COVERAGE if coverage is None else coverage)
        if method == THRESHOLD and (goal is None) == (fnr is None):
            got = "neither" if goal is None else "both"
            raise InputError(f"{THRESHOLD}: expected --goal dice or --fnr RATE, got {got}")
        return cls(method, fnr) if method == THRESHOLD else None

    def learn(
        self, cases: Iterable[ArrayVoxels], labels: Labels
    ) -> tuple[
        Thresholds | VolumeIntervals, Mapping[str, ThresholdFit | VolumeFit], dict[str, str]
    ]:
        """See :func:`.learn_thresholds` and :func:`.learn_intervals`."""
        if self.method == THRESHOLD:
            return learn_thresholds(cases, labels, self.share)
        return learn_intervals(cases, labels, COVERAGE if self.share is None else self.share)


@dataclass(frozen=True)
class DerivedFit:
    """The result of :func:`fit_derived`.

    Attributes:
        calibrator: the calibrator.
        classes: {key of a class: how it was fitted}.
        incomplete_folds: see :meth:`.Predictions.incomplete_folds`.
        n_twice: number of cases that a calibrator which comes before was fitted to, too.
    """

    calibrator: Calibrator
    classes: Mapping[str, ThresholdFit | VolumeFit]
    incomplete_folds: list[dict[str, Any]]
    n_twice: int


def fit_derived(
    goal: Goal,
    gt_folder: Path | None,
    pred_folders: Path | Sequence[Path],
    *,
    after: Path | None = None,
    dataset_json: Path | None = None,
    plans_json: Path | None = None,
    cases: Sequence[str] | None = None,
    folds: bool = False,
    progress: bool = False,
) -> DerivedFit:
    """Fit thresholds or volume intervals to predictions and their references.

    Whole images count, nnU-Net's padding included, as volumes and segmentations are those of whole
    images. Voxels with the ignore label count in expected volumes alone.

    Args:
        goal: what to fit.
        gt_folder, pred_folders, dataset_json, plans_json, cases, folds: as for :func:`.fit`.
        after: a calibrator that is applied first; the result holds it.
        progress: show a progress bar on stderr.

    Raises:
        InputError: a folder, file or argument cannot be used, or there is nothing to learn.
    """
    before = None if after is None else read_calibrator(after)
    given = FittingSet.open(
        gt_folder, pred_folders, dataset_json, plans_json, cases, parse_roi("image"), folds=folds
    )
    dataset, network = given.dataset, given.network
    if before is not None and after is not None:
        refuse_twice(goal.method, before, str(after))
        before.check_labels(dataset.labels, dataset.path)
        advice = "give --after a calibrator of this network"
        before.check_network(network, given.predictions.folders.predictions[0], advice=advice)
    with tqdm(given.cases, desc="fit", unit="case", disable=not progress) as bar:
        read = _read(bar, dataset, before, only_3d=goal.method == VOLUME)
        derived, classes, reasons = goal.learn(read, dataset.labels)
    given.refuse_changed()
    calibrator = Calibrator(
        goal.method,
        dataset.labels,
        label_entries(dataset.dataset_json),
        derived=derived,
        after=before,
        reasons=reasons,
        network=network,
        fitted_on={**given.to_dict(), "classes": about(classes)},
    )
    # Of the calibrators before, those that change probabilities.
    steps = [step for step in calibrator.steps[:-1] if step.method not in DERIVED]
    seen = {c["probabilities"] for step in steps for c in step.fitted_on["cases"]}
    n_twice = sum(f["probabilities"] in seen for f in given.files)
    return DerivedFit(calibrator, classes, given.predictions.incomplete_folds(), n_twice)


def refuse_twice(method: str, before: Calibrator, where: str) -> None:
    """Refuse what the calibrator that comes before has already.

    Raises:
        InputError: it has thresholds or volume intervals, and the same are to be fitted.
    """
    methods = [step.method for step in before.steps]
    if method in methods:
        raise InputError(
            f"{where}: expected a calibrator without {method} to fit it after, got one of "
            f"{', '.join(methods)}"
        )


def about(classes: Mapping[str, ThresholdFit | VolumeFit]) -> dict[str, dict[str, Any]]:
    """The entry ``classes`` of ``fitted_on`` in ``calibrator.json``."""
    return {key: {"name": of_class.name, **_about(of_class)} for key, of_class in classes.items()}


def _about(fit: ThresholdFit | VolumeFit) -> dict[str, Any]:
    if isinstance(fit, VolumeFit):
        return {"n_cases": len(fit.scores)}
    if not fit.n_with:
        return {"n_cases": 0}
    return {
        "n_cases": fit.n_with,
        "dice_of_nnunet": fit.nnunet_dice,
        "dice_at_half": float(fit.dice[HALF]),
        "dice_at_threshold": float(fit.dice[fit.chosen]),
        "fnr_of_nnunet": fit.nnunet_fnr,
        "fnr_at_half": float(fit.fnr[HALF]),
        "fnr_at_threshold": float(fit.fnr[fit.chosen]),
    }


def _read(
    cases: Iterable[Case], dataset: Dataset, before: Calibrator | None, *, only_3d: bool
) -> Iterator[ArrayVoxels]:
    whole = parse_roi("image")
    for case in cases:
        reference = read_reference(case, dataset, [])
        codes = reference.codes
        if only_3d and is_2d(codes.shape, reference.spacing_mm):
            raise InputError(
                f"{case.reference}: expected a 3D image for {VOLUME}, got a 2D one, which has no "
                f"volume"
            )
        expected = (dataset.labels.n_channels, *codes.shape)
        p, _ = read_probabilities(case.probabilities, expected, dataset.labels, case.reference.name)
        segmented = None
        if before is not None:
            segmented = None if only_3d else segmentation(p, dataset.labels)
            before(p, out=p)
        yield ArrayVoxels(p, codes, dataset.labels, whole, segmented)
