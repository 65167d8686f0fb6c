"""Evaluate folders of nnU-Net predictions with probabilities."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_meep import __version__
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.bins import (
    CLIP,
    MAX_BINS,
    CellTotals,
    ClassTotals,
    Grid,
    RoiSums,
    grid,
)
from nnunet_meep.evaluation.counting.reference import ARGMAX, FILE
from nnunet_meep.evaluation.counting.roi import Roi, parse_roi
from nnunet_meep.evaluation.metrics.statistics import (
    BOOTSTRAP_RESAMPLES,
    BOOTSTRAP_SEED,
)
from nnunet_meep.evaluation.pool import Job
from nnunet_meep.evaluation.results import CaseResult, Evaluation, RoiResult, Sources
from nnunet_meep.evaluation.roi_results import risk_coverages, roi_result
from nnunet_meep.evaluation.stored_results import StrPath
from nnunet_meep.nnunet_files.calibrated import (
    CALIBRATOR_COPY,
    UNKNOWN_CALIBRATOR,
    applied_calibrator,
)
from nnunet_meep.nnunet_files.cases import Case, Folders, refuse_unpaired
from nnunet_meep.nnunet_files.identity import file_identity
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.networks import Network, network_of
from nnunet_meep.nnunet_files.predictions import Predictions


def evaluate(
    gt_folder: StrPath | None,
    pred_folders: StrPath | Sequence[StrPath],
    *,
    dataset_json: StrPath | None = None,
    plans_json: StrPath | None = None,
    bins: int = 15,
    rois: Sequence[str] = ("image",),
    surface: bool = True,
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
        surface: compute surface distances, too.
        segmentation: which segmentation Dice, distances and volumes use: ``"file"``, that of
            ``CASE<file_ending>`` beside the probabilities, if it exists; or ``"argmax"``, the one
            that nnU-Net's rule derives from the probabilities.
        cases: names of the cases to evaluate; None: all.
        processes: number of processes; 1: only this one; None: one per CPU core. The others are
            started with Python's multiprocessing, so a script must make the call below
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
    if not 1 <= bins <= MAX_BINS:
        raise InputError(f"bins: expected a number of bins from 1 to {MAX_BINS}, got {bins}")
    if not rois or len(set(rois)) < len(rois):
        raise InputError(f"rois: expected each ROI once, got {' '.join(rois) or 'none'}")
    if segmentation not in (FILE, ARGMAX):
        raise InputError(f"segmentation: expected {FILE} or {ARGMAX}, got {segmentation}")
    asked_rois = [parse_roi(name) for name in rois]
    gt_folder, dataset_json, plans_json, keep = map(
        _path, (gt_folder, dataset_json, plans_json, keep)
    )
    if isinstance(pred_folders, str | os.PathLike):
        pred_folders = [pred_folders]
    given = [Path(folder) for folder in pred_folders]
    predictions = Predictions.open(gt_folder, given, dataset_json, plans_json, cases)
    folders, dataset, paired = predictions.folders, predictions.dataset, predictions.paired
    if not (chill or partial):
        refuse_unpaired(folders, paired, hint=" (--chill evaluates the others)")
    _refuse_to_keep_among(keep, folders, asked_rois)
    skipped = list(paired.broken)
    settings = {
        "bins": bins,
        "rois": list(rois),
        "surface": surface,
        "segmentation": segmentation,
        "cases": None if cases is None else sorted(set(cases)),
        "chill": chill,
        "reader": dataset.reader,
        "gt_folder": str(folders.references),
        "pred_folder": str(given[0]) if len(given) == 1 else [str(f) for f in given],
        "dataset_json": dataset_json and str(dataset_json),
        "plans_json": plans_json and str(plans_json),
        "bootstrap": "BCa",
        "bootstrap_resamples": BOOTSTRAP_RESAMPLES,
        "bootstrap_seed": BOOTSTRAP_SEED,
        "nll_clip": CLIP,
        "version": __version__,
    }
    dataset_identity = file_identity(dataset.path)
    network = network_of(folders.predictions)

    results: list[CaseResult] = []
    files: dict[str, dict[str, str]] = {}
    totals = {name: _Totals(dataset.labels, grid(bins)) for name in rois}
    with ExitStack() as stack:
        job = Job(dataset, bins, tuple(asked_rois), surface, segmentation, keep)
        n_processes = processes or os.cpu_count() or 1
        outcomes = job.in_this_process if n_processes == 1 else job.in_processes
        # Close it here: when Python exits it is too late for the pool's pipes.
        results_in_order = stack.enter_context(closing(outcomes(paired.cases, n_processes)))
        bar = stack.enter_context(
            closing(
                tqdm(results_in_order, total=len(paired.cases), unit="case", disable=not progress)
            )
        )
        for case, outcome in zip(paired.cases, bar, strict=True):
            if isinstance(outcome, InputError):
                if not chill:
                    raise outcome
                skipped.append((case.name, str(outcome)))
                continue
            results.append(outcome.result)
            files[case.name] = outcome.files
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
        not_predicted=paired.not_predicted,
        skipped=sorted(skipped),
        incomplete_folds=predictions.incomplete_folds(),
        sources=Sources(
            folders.references,
            tuple(given),
            dataset_json,
            plans_json,
            {r.name: r.mask_folder for r in asked_rois if r.mask_folder is not None},
        ),
        files=files,
        dataset_identity=dataset_identity,
        network=network,
        calibrators=_calibrators(folders.predictions, paired.cases, results, files, network),
    )


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _refuse_to_keep_among(keep: Path | None, folders: Folders, rois: Sequence[Roi]) -> None:
    """Refuse a folder that is read: sums are named like probabilities and would replace them."""
    masks = [roi.mask_folder for roi in rois if roi.mask_folder is not None]
    for folder in (folders.references, *folders.predictions, *masks):
        if keep is not None and keep.resolve() == folder.resolve():
            raise InputError(
                f"{keep}: expected a folder for the sums of finished cases, found one that is "
                f"read; give another output folder (-o)"
            )


def _calibrators(
    pred_folders: Sequence[Path],
    cases: Sequence[Case],
    results: Sequence[CaseResult],
    files: dict[str, dict[str, str]],
    network: Network,
) -> list[dict[str, Any]]:
    """The calibrator of each calibrated folder, and which of these cases it was fitted to."""
    folder_of = {case.name: case.probabilities.parent for case in cases}
    found = []
    for folder in pred_folders:
        calibrator = applied_calibrator(folder)
        mine = [result for result in results if folder_of[result.case] == folder]
        noted = [r.case for r in mine if "calibrator" in files[r.case]]
        if calibrator is None:
            found += [UNKNOWN_CALIBRATOR.to_dict([], len(noted))] * bool(noted)
        else:
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
            found.append(calibrator.to_dict(used, len(mine)))
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
