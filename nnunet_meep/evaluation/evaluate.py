"""Evaluate folders of nnU-Net predictions with probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from sys import intern
from typing import Any

from nnunet_meep import __version__
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.case_results import CaseResult, CaseTable, RoiResult
from nnunet_meep.evaluation.counting import TOLERANCE_MM
from nnunet_meep.evaluation.counting.bins import (
    CLIP,
    CellTotals,
    ClassTotals,
    Grid,
    RoiSums,
    grid,
)
from nnunet_meep.evaluation.counting.reference import FILE
from nnunet_meep.evaluation.metrics.statistics import (
    BOOTSTRAP_RESAMPLES,
    BOOTSTRAP_SEED,
)
from nnunet_meep.evaluation.results import Evaluation, Sources
from nnunet_meep.evaluation.roi_results import risk_coverages, roi_result
from nnunet_meep.evaluation.setup import Setup
from nnunet_meep.evaluation.stored_results import StrPath
from nnunet_meep.evaluation.volume_coverage import volume_coverage, with_intervals
from nnunet_meep.garbage import collect_as_usual
from nnunet_meep.nnunet_files.calibrated import (
    CALIBRATOR_COPY,
    UNKNOWN_CALIBRATOR,
    applied_calibrator,
)
from nnunet_meep.nnunet_files.cases import Case
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.networks import Network


def evaluate(
    gt_folder: StrPath | None,
    pred_folders: StrPath | Sequence[StrPath],
    *,
    dataset_json: StrPath | None = None,
    plans_json: StrPath | None = None,
    bins: int = 15,
    rois: Sequence[str] = ("image",),
    surface: bool = True,
    tolerance_mm: float = TOLERANCE_MM,
    lesions: float | None = None,
    segmentation: str = FILE,
    cases: Sequence[str] | None = None,
    processes: int | None = 1,
    chill: bool = False,
    partial: bool = False,
    progress: bool = False,
    keep: StrPath | None = None,
) -> Evaluation:
    """Evaluate the probabilities of folders of nnU-Net predictions.

    Args:
        gt_folder: reference segmentations; None: those that nnU-Net's preprocessing stored, if
            ``pred_folders`` belong to a trained model.
        pred_folders: predictions, ``CASE.npz`` beside ``CASE<file_ending>``; one folder or
            several, or a model folder (``TRAINER__PLANS__CONFIG``) for all its
            ``fold_*/validation``.
        dataset_json, plans_json: nnU-Net's files; None: look for them in each folder of predictions
            and two folders up.
        bins: number of bins of the reliability diagram and of the ECE.
        rois: names of ROIs, see :mod:`nnunet_meep.evaluation.counting.roi`.
        surface: compare the surfaces, too, by their distances and by the surface Dice.
        tolerance_mm: distance up to which the surface Dice takes surfaces for the same, in mm.
        lesions: compare single lesions, too: the connected components of each class that have at
            least this size in mm^3 (in 2D images mm^2), 0 for all; None: do not. Smaller ones are
            left out of the segmentation and of the reference alike.
        segmentation: which segmentation Dice, distances and volumes use: ``"file"``, that of
            ``CASE<file_ending>`` beside the probabilities, if it exists; or ``"argmax"``, the one
            that nnU-Net's rule derives from the probabilities.
        cases: names of the cases to evaluate; None: all.
        processes: number of processes; 1: only this one; None: one for each usable core. The others
            are started with Python's multiprocessing, so a script must make the call below
            ``if __name__ == "__main__":``.
        chill: skip cases that cannot be evaluated, and list them.
        partial: continue if predictions or references are missing, and list them; files that
            cannot be used are still errors.
        progress: show a progress bar on stderr.
        keep: folder for the sums of finished cases, which later calls with the same arguments
            reuse; None keeps nothing.

    Raises:
        InputError: the folders, an argument or a file cannot be used.

    Example:
        >>> import nnunet_meep as nm
        >>> evaluation = nm.evaluate("labelsTs", "predictions")
        >>> [case.case for case in evaluation.cases]
        ['a', 'b', 'c']
        >>> ece = evaluation.pooled["image"].classes["1"]["ece"]
    """
    setup = Setup.of(
        gt_folder,
        pred_folders,
        dataset_json=dataset_json,
        plans_json=plans_json,
        bins=bins,
        rois=rois,
        surface=surface,
        tolerance_mm=tolerance_mm,
        lesions=lesions,
        segmentation=segmentation,
        cases=cases,
        unpaired=chill or partial,
        keep=keep,
    )
    given, network, predictions = setup.given, setup.network, setup.predictions
    folders, dataset, paired = predictions.folders, predictions.dataset, predictions.paired
    skipped = list(paired.broken)
    settings = {
        "bins": bins,
        "rois": list(rois),
        "surface": surface,
        "tolerance_mm": tolerance_mm,
        "lesions": lesions,
        "segmentation": segmentation,
        "cases": None if cases is None else sorted(set(cases)),
        "chill": chill,
        "reader": dataset.reader,
        "gt_folder": str(folders.references),
        "pred_folder": str(given[0]) if len(given) == 1 else [str(f) for f in given],
        "dataset_json": setup.dataset_json and str(setup.dataset_json),
        "plans_json": setup.plans_json and str(setup.plans_json),
        "bootstrap": "BCa",
        "bootstrap_resamples": BOOTSTRAP_RESAMPLES,
        "bootstrap_seed": BOOTSTRAP_SEED,
        "nll_clip": CLIP,
        "version": __version__,
    }

    results = CaseTable()
    files: dict[str, dict[str, str]] = {}
    n_kept = 0
    totals = {name: _Totals(dataset.labels, grid(bins)) for name in rois}
    with closing(setup.outcomes(paired.cases, processes, progress)) as outcomes:
        for case, outcome in outcomes:
            collect_as_usual()  # all is imported
            if isinstance(outcome, InputError):
                if not chill:
                    raise outcome
                skipped.append((case.name, str(outcome)))
                continue
            n_kept += outcome.was_kept
            results.append(outcome.result)
            # Read by another process, each case has its own copies of the same names.
            files[case.name] = {intern(role): f for role, f in outcome.files.items()}
            for name, total in totals.items():
                total.add(outcome.sums.rois[name])
    if not results:
        raise InputError(
            f"{folders.predictions[0]}: none of its {len(skipped)} cases could be evaluated"
        )
    return Evaluation(
        classes=dict(zip(dataset.labels.keys, dataset.labels.names, strict=True)),
        cases=results,
        pooled={name: total.pooled() for name, total in totals.items()},
        settings=settings,
        not_predicted=predictions.not_predicted(),
        skipped=sorted(skipped),
        incomplete_folds=predictions.incomplete_folds(),
        sources=Sources(
            folders.references,
            given,
            setup.dataset_json,
            setup.plans_json,
            {r.name: r.mask_folder for r in setup.job.rois if r.mask_folder is not None},
        ),
        files=files,
        dataset_identity=setup.dataset_identity,
        network=network,
        calibrators=_calibrators(
            folders.predictions, paired.cases, results, files, network, dataset.labels
        ),
        n_kept=n_kept,
    )


def _calibrators(
    pred_folders: Sequence[Path],
    cases: Sequence[Case],
    results: Sequence[CaseResult],
    files: dict[str, dict[str, str]],
    network: Network,
    labels: Labels,
) -> list[dict[str, Any]]:
    """The calibrator of each calibrated folder, and which of these cases it was fitted to."""
    folder_of = {case.name: case.probabilities.parent for case in cases}
    found = []
    for folder in pred_folders:
        calibrator = applied_calibrator(folder)
        if calibrator is None:
            noted = [c for c in files if folder_of[c] == folder and "calibrator" in files[c]]
            found += [UNKNOWN_CALIBRATOR.to_dict([], len(noted))] * bool(noted)
        else:
            mine = [result for result in results if folder_of[result.case] == folder]
            for result in mine:
                if files[result.case].get("calibrator") != calibrator.identity:
                    raise InputError(
                        f"{folder / (result.case + '.npz')}: expected a case that was calibrated "
                        f"with {CALIBRATOR_COPY} in its folder, found another one; calibrate the "
                        f"predictions again, into a new folder"
                    )
            used = [
                result.case
                for result in mine
                if calibrator.was_fitted_to(
                    result.case,
                    files[result.case],
                    network.dataset,
                    has_class=result.has_class,
                )
            ]
            entry = calibrator.to_dict(used, len(mine))
            # Where voxels are ignored, the expected volumes here are not those of whole images.
            known = mine and with_intervals(list(mine[0].rois)) and labels.ignore_label is None
            if calibrator.intervals is not None and known:
                entry["volume"] = volume_coverage(calibrator.intervals, mine)
            found.append(entry)
    return found


class _Totals:
    """The sums over an ROI, accumulated over the cases."""

    def __init__(self, labels: Labels, grid: Grid) -> None:
        self._labels, self._grid = labels, grid
        self._channels = [ClassTotals(grid.n_cells) for _ in range(labels.n_channels)]
        self._top_label = CellTotals(grid.n_cells)

    def add(self, sums: RoiSums) -> None:
        for total, channel in zip(self._channels, sums.channels, strict=True):
            total.add(channel)
        if sums.top_label is not None:
            self._top_label.add(sums.top_label)

    def pooled(self) -> RoiResult:
        labels, grid = self._labels, self._grid
        top = None if labels.is_region_based else self._top_label.total()
        sums = RoiSums(tuple(total.total() for total in self._channels), top)
        result = roi_result(labels, grid, sums, None)
        return replace(result, risk_coverage=risk_coverages(labels, grid, sums))
