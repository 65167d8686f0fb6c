"""Folders of nnU-Net predictions with probabilities, evaluated."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from tqdm import tqdm

from nnunet_meep import __version__
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting import cache
from nnunet_meep.evaluation.counting.bins import (
    CLIP,
    MAX_BINS,
    CaseSums,
    CellTotals,
    ClassTotals,
    Grid,
    RoiSums,
    grid,
)
from nnunet_meep.evaluation.counting.reference import ARGMAX, FILE, Reference, read_reference
from nnunet_meep.evaluation.counting.roi import Roi, parse_roi
from nnunet_meep.evaluation.counting.surface import METRICS as SURFACE_METRICS
from nnunet_meep.evaluation.metrics.calibration import binned_metrics, reliability_bins
from nnunet_meep.evaluation.metrics.catalogue import Of, metrics_of
from nnunet_meep.evaluation.metrics.risk_coverage import risk_coverage
from nnunet_meep.evaluation.metrics.scores import (
    class_metrics,
    error_metrics,
    top_label_metrics,
)
from nnunet_meep.evaluation.metrics.statistics import (
    BOOTSTRAP_RESAMPLES,
    BOOTSTRAP_SEED,
    over_cases,
)
from nnunet_meep.nnunet_files.calibrated import (
    CALIBRATOR_COPY,
    UNKNOWN_CALIBRATOR,
    applied_calibrator,
)
from nnunet_meep.nnunet_files.cases import Case, Dataset, Folders, refuse_unpaired
from nnunet_meep.nnunet_files.identity import file_identity
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.networks import Network, network_of
from nnunet_meep.nnunet_files.predictions import Predictions

if TYPE_CHECKING:
    import pandas

StrPath: TypeAlias = "str | os.PathLike[str]"
#: The format of ``calibration.json``; to be raised whenever something in it changes its meaning.
SCHEMA = 3


@dataclass(frozen=True)
class RoiResult:
    """The metrics over the voxels of an ROI.

    Attributes:
        classes: for each class (keys as in ``Labels.keys``) its metrics.
        top_label: metrics of the top label and ``classwise_ece``; None for regions of labels.
        bins: of each class, and of ``top_label``: ``edges``, ``count``, ``mean_p``, ``mean_y``.
        risk_coverage: of ``top_label``, or of each class where there is none: ``coverage``,
            ``risk``.
    """

    classes: dict[str, dict[str, float]]
    top_label: dict[str, float] | None
    bins: dict[str, dict[str, list[float]]]
    risk_coverage: dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class CaseResult:
    """One case.

    Attributes:
        case: its name.
        n_clipped: probabilities that left [0, 1] by rounding and were clipped.
        n_not_argmax: voxels in which the segmentation file is not what the probabilities make by
            nnU-Net's rule; None without a file.
        rois: its metrics in each ROI, by the ROI's name.
    """

    case: str
    n_clipped: int
    n_not_argmax: int | None
    rois: dict[str, RoiResult]

    @property
    def has_class(self) -> bool:
        """Does its reference hold any class?"""
        of_classes = (c for r in self.rois.values() for c in r.classes.values())
        return any(not math.isnan(metrics["brier_plus"]) for metrics in of_classes)


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        labels: the classes.
        cases: results in the order of the case names.
        pooled: over the voxels of all cases, without distances; by the name of the ROI, in the
            order asked for.
        settings: what the numbers depend on.
        not_predicted: references without a prediction.
        skipped: (case, reason) of what ``chill`` or ``partial`` left out.
        incomplete_folds: see :meth:`.Predictions.incomplete_folds`.
        sources: the folders and files that were given.
        files: what the files of each case hold, see :func:`.cache.case_identity`.
        dataset_identity: what ``dataset.json`` holds (:mod:`.identity`).
        network: what made the predictions.
        calibrators: with which they were calibrated, and which cases they were fitted to.
    """

    labels: Labels
    cases: list[CaseResult]
    pooled: dict[str, RoiResult]
    settings: dict[str, Any]
    not_predicted: list[str]
    skipped: list[tuple[str, str]]
    incomplete_folds: list[dict[str, Any]]
    sources: Sources
    files: dict[str, dict[str, str]]
    dataset_identity: str
    network: Network
    calibrators: list[dict[str, Any]]

    @property
    def class_metrics(self) -> tuple[str, ...]:
        """The metrics of a class that were computed, in the order of tables."""
        metrics = metrics_of(Of.CLASS)
        if not self.settings["surface"]:
            metrics = tuple(m for m in metrics if m not in SURFACE_METRICS)
        return metrics + (metrics_of(Of.REGION) if self.labels.is_region_based else ())

    @property
    def columns(self) -> list[str]:
        """Names of what :meth:`rows` gives."""
        metrics = [*self.class_metrics]
        if not self.labels.is_region_based:
            metrics += [m for m in metrics_of(Of.TOP_LABEL) if m not in metrics]
        return ["case", "roi", "class", "name", *metrics]

    def rows(self) -> Iterator[list[Any]]:
        """One row for each case, ROI and class, and for the top label where there is one.

        What a class or the top label does not have, and what is undefined, is NaN.
        """
        names = dict(zip(self.labels.keys, self.labels.names, strict=True))
        metrics = self.columns[4:]
        for case in self.cases:
            for roi, result in case.rois.items():
                rows = [(key, names[key], values) for key, values in result.classes.items()]
                if result.top_label is not None:
                    rows.append(("top_label", "", result.top_label))
                for key, name, values in rows:
                    numbers = [values.get(m, math.nan) for m in metrics]
                    yield [case.case, roi, key, name, *numbers]

    def to_dataframe(self) -> pandas.DataFrame:
        """:meth:`rows` with their names, as in ``calibration.csv``."""
        import pandas

        return pandas.DataFrame(list(self.rows()), columns=self.columns)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``calibration.json``, with NaN where a number does not exist."""
        first, *others = self.pooled
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "network": self.network.to_dict(),
            "calibrators": self.calibrators,
            **self.roi_to_dict(first),
            "by_roi": {name: self.roi_to_dict(name) for name in others},
            "not_predicted": self.not_predicted,
            "skipped": [{"case": case, "reason": reason} for case, reason in self.skipped],
            "incomplete_folds": self.incomplete_folds,
            "files": {"dataset.json": self.dataset_identity, "cases": self.files},
        }

    def roi_to_dict(self, roi: str) -> dict[str, Any]:
        """``classes``, ``top_label`` and ``cases`` of one roi."""
        pooled = self.pooled[roi]
        cases = [(case, case.rois[roi]) for case in self.cases]
        classes = {
            key: {
                "name": name,
                "per_case": {
                    metric: over_cases([r.classes[key][metric] for _, r in cases])
                    for metric in self.class_metrics
                },
                "pooled": {**pooled.classes[key], **_curves(pooled, key)},
            }
            for key, name in zip(self.labels.keys, self.labels.names, strict=True)
        }
        top_label = None
        if pooled.top_label is not None:
            per_case = {
                metric: over_cases([r.top_label[metric] for _, r in cases if r.top_label])
                for metric in metrics_of(Of.TOP_LABEL)
            }
            all_voxels = dict(pooled.top_label)
            top_label = {
                "classwise_ece": {
                    "per_case": per_case.pop("classwise_ece"),
                    "pooled": all_voxels.pop("classwise_ece"),
                },
                "per_case": per_case,
                "pooled": {**all_voxels, **_curves(pooled, "top_label")},
            }
        return {
            "classes": classes,
            "top_label": top_label,
            "cases": [
                {
                    "case": case.case,
                    "classes": r.classes,
                    "top_label": r.top_label,
                    "n_clipped": case.n_clipped,
                    "n_not_argmax": case.n_not_argmax,
                    "bins": {key: _without_edges(bins) for key, bins in r.bins.items()},
                }
                for case, r in cases
            ],
        }


@dataclass(frozen=True)
class Sources:
    """The folders and files that an evaluation was given; see :func:`evaluate`.

    Attributes:
        masks: folders of masks by the name of the roi.
    """

    gt_folder: Path | None
    pred_folders: tuple[Path, ...]
    dataset_json: Path | None
    plans_json: Path | None
    masks: Mapping[str, Path] = field(default_factory=dict)


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
    processes: int | None = 1,
    chill: bool = False,
    partial: bool = False,
    progress: bool = False,
    keep: StrPath | None = None,
) -> Evaluation:
    """Evaluate the probabilities of folders of nnU-Net predictions.

    Args:
        gt_folder: reference segmentations; None: those of nnU-Net's preprocessing, for a model.
        pred_folders: predictions, ``CASE.npz`` beside ``CASE<file_ending>``; one folder or
            several, or a model folder (``TRAINER__PLANS__CONFIG``) for all its
            ``fold_*/validation``.
        dataset_json, plans_json: nnU-Net's files; looked for in each folder of predictions and two
            folders up if None.
        bins: number of bins of the reliability diagram and of the ECE.
        rois: names of ROIs, see :mod:`nnunet_meep.evaluation.counting.roi`.
        surface: compute surface distances, too.
        segmentation: of what Dice, distances and volumes are: ``"file"``, ``CASE<file_ending>``
            beside the probabilities where it is there; or ``"argmax"``, what nnU-Net's rule makes
            of the probabilities.
        processes: how many count; 1: this one; None: as many as there are cores. Others than this
            one are started by Python's multiprocessing, so that a script has to call from below
            ``if __name__ == "__main__":``.
        chill: go on without cases that cannot be evaluated, and list them.
        partial: go on where predictions or references are missing, and list them; files that
            cannot be used are errors all the same.
        progress: show a progress bar on stderr.
        keep: folder for the sums of finished cases, which another call with the same arguments
            takes from there; None keeps nothing.

    Raises:
        InputError: the folders, an argument or a file cannot be used.
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
    predictions = Predictions.open(gt_folder, given, dataset_json, plans_json)
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
        job = _Job(dataset, bins, tuple(asked_rois), surface, segmentation, keep)
        n_processes = processes or os.cpu_count() or 1
        outcomes = job.in_this_process if n_processes == 1 else job.in_processes
        # Closed here and not when Python ends, which is too late for the pool's pipes.
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
        labels=dataset.labels,
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
    """The sums of finished cases are called as their probabilities: never write over these."""
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
    """Of each folder that was calibrated, with what, and which cases that was fitted to."""
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


@dataclass(frozen=True)
class _Finished:
    """A case that was counted, now or before: its metrics, its sums, what its files hold."""

    result: CaseResult
    sums: CaseSums
    files: dict[str, str]


_Outcomes: TypeAlias = "Generator[_Finished | InputError, None, None]"


@dataclass(frozen=True)
class _Job:
    """What is done with each case, and where.

    This process reads references, which takes SimpleITK, and adds up; others count, which takes a
    compiler. Neither fits twice into the memory that one large case should need.
    """

    dataset: Dataset
    n_bins: int
    rois: tuple[Roi, ...]
    surface: bool
    segmentation: str
    keep: Path | None

    def in_this_process(self, cases: list[Case], n: int) -> _Outcomes:
        """One case after the other; ``n`` is 1."""
        for case in cases:
            try:
                key = self._key(case)
                sums = self._kept(case, key) or self.count(case, key, self._read(case))
                yield self.finish(case, key, sums)
            except InputError as error:
                yield error

    def in_processes(self, cases: list[Case], n: int) -> _Outcomes:
        """Several cases at once, results in the order of the cases."""
        n = max(min(n, len(cases)), 1)
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(n, mp_context=spawn, initializer=_follow_parent)
        waiting: deque[Future[_Finished] | InputError] = deque()
        warm = False
        with TemporaryDirectory(prefix="meep-calib-eval-") as folder:

            def submit(i: int, case: Case) -> Future[_Finished] | InputError:
                nonlocal warm
                try:
                    key = self._key(case)
                    if sums := self._kept(case, key):
                        return pool.submit(self.finish, case, key, sums)
                    if not warm:  # while this process loads what reads references
                        for _ in range(n):
                            pool.submit(_warm_up)
                        warm = True
                    reference = self._read(case)
                except InputError as error:
                    return error
                # Through a file, because a pipe would hold it in memory until somebody is there
                # for it.
                path = Path(folder) / f"{i}.npz"
                reference.save(path)
                return pool.submit(self.count_and_finish, case, key, path)

            try:
                for i, case in enumerate(cases):
                    waiting.append(submit(i, case))
                    # One more than there are processes, so that none waits for a reference.
                    while len(waiting) > n:
                        yield _outcome(waiting.popleft())
                while waiting:
                    yield _outcome(waiting.popleft())
            except BrokenProcessPool:
                raise InputError(
                    f"one of {n} processes was killed, probably for want of memory, or could not "
                    f"start; try fewer (-np {max(n // 2, 1)})"
                ) from None
            finally:
                # Those that have nothing left to do may end while results are written.
                pool.shutdown(wait=bool(waiting), cancel_futures=True)

    def _read(self, case: Case) -> Reference:
        return read_reference(case, self.dataset, self.rois)

    def _key(self, case: Case) -> dict[str, Any]:
        return cache.cache_key(
            case, self.dataset, self.n_bins, self.rois, self.surface, self.segmentation
        )

    def _kept(self, case: Case, key: dict[str, Any]) -> CaseSums | None:
        return None if self.keep is None else cache.find(_kept_path(self.keep, case), key)

    def count(self, case: Case, key: dict[str, Any], reference: Reference) -> CaseSums:
        """The sums of a case, which are kept if that is asked for.

        Raises:
            InputError: a file cannot be used, or was changed meanwhile.
            OSError: the sums cannot be written.
        """
        from nnunet_meep.evaluation.counting.one_pass import sum_case  # the compiled part

        labels = self.dataset.labels
        sums = sum_case(
            case, labels, reference, self.n_bins, self.rois, self.surface, self.segmentation
        )
        if self._key(case) != key:
            raise InputError(
                f"{case.probabilities}: {case.name} was changed while it was evaluated; "
                f"evaluate it again when nothing writes to its files"
            )
        if self.keep is not None:
            cache.save(_kept_path(self.keep, case), sums, key)
        return sums

    def finish(self, case: Case, key: dict[str, Any], sums: CaseSums) -> _Finished:
        """The metrics of a case."""
        rois = {
            name: _roi_result(self.dataset.labels, grid(self.n_bins), roi, sums.distances_mm)
            for name, roi in sums.rois.items()
        }
        result = CaseResult(case.name, sums.n_clipped, sums.n_not_argmax, rois)
        return _Finished(result, sums, key["files"])

    def count_and_finish(self, case: Case, key: dict[str, Any], reference: Path) -> _Finished:
        """Both, of a reference that lies in a file (``Reference.save``)."""
        counted = self.count(case, key, Reference.load_and_remove(reference))
        return self.finish(case, key, counted)


def _follow_parent() -> None:
    """A process of the pool leaves it to its parent to be interrupted, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)  # killed: nobody is there who would say that there is no more to do

    Thread(target=end_with_parent, daemon=True).start()


def _warm_up() -> None:
    """Load the compiled loops and what else evaluating a case takes, before there is one."""
    from nnunet_meep.evaluation.counting.loops import count_voxels

    none = np.zeros(1, np.bool_)
    sums = count_voxels(np.zeros(1, np.float32), none, none, 1)
    class_metrics(sums, grid(1))
    top_label_metrics(sums.cells, grid(1))


def _outcome(job: Future[_Finished] | InputError) -> _Finished | InputError:
    if isinstance(job, InputError):
        return job
    try:
        return job.result()
    except InputError as error:
        return error


class _Totals:
    """The sums of an ROI over the cases."""

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
        return _roi_result(labels, grid, sums, None)


def _without_edges(bins: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: values for name, values in bins.items() if name != "edges"}


def _curves(result: RoiResult, key: str) -> dict[str, Any]:
    """What is more than one number."""
    curves = {"bins": result.bins[key]}
    if key in result.risk_coverage:
        curves["risk_coverage"] = result.risk_coverage[key]
    return curves


def _roi_result(
    labels: Labels,
    grid: Grid,
    sums: RoiSums,
    distances_mm: tuple[dict[str, float], ...] | None,
) -> RoiResult:
    classes, bins, risk = {}, {}, {}
    for i, key in enumerate(labels.keys):
        of_class = sums.channels[labels.channel(i)]
        metrics = class_metrics(of_class, grid)
        distances = {} if distances_mm is None else distances_mm[i]
        classes[key] = {"dice": metrics["dice"], **distances, **metrics}
        bins[key] = reliability_bins(of_class.cells, grid)
        if sums.top_label is None:
            classes[key] |= error_metrics(of_class.cells, grid)
            risk[key] = risk_coverage(of_class.cells, grid, top_label=False)
    top_label = None
    if sums.top_label is not None:
        eces = [binned_metrics(channel.cells, grid)["ece"] for channel in sums.channels]
        top_label = {
            **top_label_metrics(sums.top_label, grid),
            "classwise_ece": math.fsum(eces) / len(eces),
        }
        bins["top_label"] = reliability_bins(sums.top_label, grid)
        risk["top_label"] = risk_coverage(sums.top_label, grid, top_label=True)
    return RoiResult(classes, top_label, bins, risk)


def _kept_path(keep: Path, case: Case) -> Path:
    return keep / f"{case.name}.npz"
