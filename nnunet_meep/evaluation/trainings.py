"""Turn folders named on a command line into results that can be compared.

A result must match the files that are there now: the recorded hashes of each case's files are
compared with the current ones, and cases that differ are evaluated again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_meep import __version__
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting import cache
from nnunet_meep.evaluation.counting.roi import parse_roi
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.notes import counted, named
from nnunet_meep.evaluation.results import Evaluation, Sources
from nnunet_meep.evaluation.stored_results import (
    RESULT,
    NoResult,
    OtherFormat,
    find_result,
    holds_predictions,
    read_evaluation,
)
from nnunet_meep.nnunet_files.calibrated import applied_calibrator
from nnunet_meep.nnunet_files.identity import file_identity
from nnunet_meep.nnunet_files.paths import real_path
from nnunet_meep.nnunet_files.predictions import Predictions

#: Settings of a result that are kept when it is evaluated again.
_OPTIONS = ("bins", "rois", "surface", "tolerance_mm", "lesions", "segmentation", "chill", "cases")


@dataclass(frozen=True)
class Training:
    """One training of a model.

    Attributes:
        evaluation: over the requested ROI alone.
        notes: why it was evaluated again; or, if used as stored, when and on which files it was
            evaluated, and what has changed since. One line each.
    """

    evaluation: Evaluation
    notes: tuple[str, ...]


def open_training(
    folder: Path,
    *,
    write: Callable[[Evaluation, Path], object],
    gt_folder: Path | None = None,
    roi: str | None = None,
    options: Mapping[str, Any] | None = None,
    processes: int | None = None,
    as_stored: bool = False,
) -> Training:
    """The result of a folder, evaluated again if it does not match its files, with a progress bar.

    Args:
        folder: a folder that ``meep-calib-eval`` wrote, a folder of predictions, or a model folder;
            the result of the latter two is in ``folder / "calibration"``, or is written there.
        write: writes an evaluation into a folder, at least as ``calibration.json``.
        gt_folder: references; None: those of the stored result, or as in :func:`.evaluate`.
        roi: name of an ROI; None: the first one of the result.
        options: arguments of :func:`.evaluate` that replace the result's settings (``bins``,
            ``surface``, ``tolerance_mm``, ``lesions``).
        processes: number of processes; None: one per CPU core.
        as_stored: use the result as written, whatever has happened to its files.

    Raises:
        InputError: the folder has neither a result nor predictions, its predictions are gone, or
            something in it cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of predictions or results, found none")
    path = find_result(folder)
    where = folder / "calibration" if path is None else path.parent
    if as_stored:
        evaluation = read_evaluation(folder)
        lines = _as_stored(evaluation)
    else:
        again = partial(_evaluate, where, write, processes)
        evaluation, lines = _of_now(folder, where, gt_folder, roi, options or {}, again)
    try:
        return Training(evaluation.over(roi), tuple(lines))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def _of_now(
    folder: Path,
    where: Path,
    gt_folder: Path | None,
    roi: str | None,
    asked: Mapping[str, Any],
    evaluate_again: Callable[[Sources, Mapping[str, Any]], Evaluation],
) -> tuple[Evaluation, list[str]]:
    """The result for the files that are there now, and why it was evaluated again."""
    stored, other_format = None, None
    try:
        stored = read_evaluation(folder)
        settings, sources = stored.settings, stored.sources
    except OtherFormat as error:
        settings, sources, other_format = error.settings, error.sources, error
    except NoResult:
        if not holds_predictions(folder):
            raise
        sources = Sources(gt_folder, (folder,), None, None)
        return evaluate_again(sources, {"rois": [roi or "image"], **asked}), []
    if holds_predictions(folder) and [real_path(folder)] != [
        real_path(path) for path in sources.pred_folders
    ]:  # the stored result covers other folders, or more of them
        sources = replace(sources, pred_folders=(folder,))
    if not any(map(holds_predictions, sources.pred_folders)):
        if other_format is not None:
            raise other_format
        raise InputError(
            f"{where / RESULT}: expected its predictions in "
            f"{', '.join(map(str, sources.pred_folders))}, found none; compare the result as it "
            f"was written with --as-stored"
        )
    if gt_folder is not None:
        sources = replace(sources, gt_folder=gt_folder)
    elif sources.gt_folder is not None and not sources.gt_folder.is_dir():
        raise InputError(
            f"{where / RESULT}: expected its references in {sources.gt_folder}, found none; give "
            f"their folder with --gt, or compare the result as it was written with --as-stored"
        )
    _refuse_other_masks(sources, where)
    if stored is None:
        changes = ["it has another format"]
    else:
        try:
            changes = _changes(stored, sources)
        except InputError as error:
            if not settings.get("cases"):
                raise
            raise InputError(
                f"{where / RESULT}: was evaluated with --cases; {error}; evaluate it again with "
                f"meep-calib-eval, or compare it as it was written with --as-stored"
            ) from None
        changes += [
            f"{name} was {settings[name]}, not {value}"
            for name, value in asked.items()
            if settings[name] != value
        ]
        if not changes:
            return replace(stored, sources=sources), []
    options = {name: settings[name] for name in _OPTIONS if name in settings}
    line = f"{where / RESULT}: {'; '.join(changes)}: evaluated again"
    return evaluate_again(sources, {**options, **asked}), [line]


def _refuse_other_masks(sources: Sources, where: Path) -> None:
    """Refuse ``mask:FOLDER`` if FOLDER now means another folder than when it was evaluated."""
    for name, there in sources.masks.items():
        try:
            here = parse_roi(name).mask_folder
        except InputError as error:
            raise InputError(
                f"{where / RESULT}: was evaluated with the masks {there}; {error}; compare it "
                f"where {name} means this folder, or as it was written with --as-stored"
            ) from None
        if here is not None and there.is_dir() and real_path(here) != real_path(there):
            raise InputError(
                f"{where / RESULT}: expected the masks {there} with which it was evaluated, found "
                f"others at {here} from here; evaluate it again with meep-calib-eval, or compare "
                f"it as it was written with --as-stored"
            )


def _evaluate(
    target: Path,
    write: Callable[[Evaluation, Path], object],
    processes: int | None,
    sources: Sources,
    options: Mapping[str, Any],
) -> Evaluation:
    try:
        evaluation = evaluate(
            sources.gt_folder,
            sources.pred_folders,
            dataset_json=sources.dataset_json,
            plans_json=sources.plans_json,
            **options,
            partial=True,
            processes=processes,
            progress=True,
            keep=target / "cases",
        )
    except InputError as error:
        hint = "which has more options" if sources.gt_folder else "or give --gt"
        raise InputError(f"{error}; evaluate it with meep-calib-eval, {hint}") from None
    write(evaluation, target)
    return evaluation


def _changes(stored: Evaluation, sources: Sources, *, retry: bool = True) -> list[str]:
    """How the files that are there now differ from those of a result; one phrase each.

    ``retry``: also name the cases that could not be evaluated before.
    """
    predictions = Predictions.open(
        sources.gt_folder,
        sources.pred_folders,
        sources.dataset_json,
        sources.plans_json,
        stored.settings.get("cases"),
    )
    dataset = predictions.dataset
    settings, before = stored.settings, stored.files
    rois = [parse_roi(name) for name in settings["rois"]]
    left_out = dict(stored.skipped)
    new, changed, again = [], [], []
    for case in predictions.paired.cases:
        try:
            now = cache.case_identity(case, dataset.file_ending, rois)
        except InputError:  # evaluating the case reports what is wrong with it
            now = {}
        if case.name in left_out:
            again.append(case.name)
        elif case.name not in before:
            new.append(case.name)
        elif now != before[case.name]:
            was = before[case.name]
            roles = [role for role in {**was, **now} if was.get(role) != now.get(role)]
            changed.append(f"{case.name} ({', '.join(roles)})")
    gone = sorted(set(before) - {case.name for case in predictions.paired.cases})
    found = [
        f"{counted(len(cases), f'{what} case')}: {named(cases)}"
        for what, cases in (("new", new), ("changed", changed))
        if cases
    ]
    if gone:
        found.append(f"{counted(len(gone), 'case')} gone: {named(gone)}")
    if again and retry:
        found.append(f"{counted(len(again), 'case')} left out before: {named(again)}")
    unpaired = dict(predictions.paired.broken)
    calibrators = [applied_calibrator(f) for f in predictions.folders.predictions]
    others = {
        "dataset.json": (stored.dataset_identity, file_identity(dataset.path)),
        "the reader in plans.json": (settings["reader"], dataset.reader),
        "the calibrator": (
            [c["identity"] for c in stored.calibrators],
            [c.identity for c in calibrators if c is not None],
        ),
        "references without a prediction": (stored.not_predicted, predictions.not_predicted()),
        "what does not pair up": (
            {case: reason for case, reason in left_out.items() if case not in again},
            unpaired,
        ),
        "the folds": (stored.incomplete_folds, predictions.incomplete_folds()),
        "the version of nnunet-meep": (settings["version"], __version__),
    }
    return found + [f"{what} changed" for what, (was, now) in others.items() if was != now]


def _as_stored(evaluation: Evaluation) -> list[str]:
    """When and on which files a result was evaluated, and whether these have changed since."""
    settings = evaluation.settings
    folders = settings["pred_folder"]
    folders = folders if isinstance(folders, str) else ", ".join(folders)
    lines = [
        f"as stored on {evaluation.written}: {counted(len(evaluation.cases), 'case')} of "
        f"{folders} against {settings['gt_folder']}, evaluated by nnunet-meep {settings['version']}"
    ]
    try:
        if changes := _changes(evaluation, evaluation.sources, retry=False):
            lines.append(f"its files are not the same any more: {'; '.join(changes)}")
    except InputError:
        lines.append("not compared with its files, not all of which are there")
    return lines
