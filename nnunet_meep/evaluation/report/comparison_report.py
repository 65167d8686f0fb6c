"""Write the output folder of a comparison: tables, pictures, slices, ``report.html``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_meep.atomic import move_files, temporary_folder
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.notes import named
from nnunet_meep.evaluation.report import comparison_tables as tables
from nnunet_meep.evaluation.report import page
from nnunet_meep.evaluation.report.case_choice import cases_to_show, worst_class
from nnunet_meep.evaluation.report.case_layers import CasePictures, case_pictures
from nnunet_meep.evaluation.report.comparison_pictures import OPTIONAL, comparison_pictures
from nnunet_meep.evaluation.report.figures import save_figure
from nnunet_meep.evaluation.report.slice_figures import slices_figure
from nnunet_meep.evaluation.report.slices import Prediction, cut
from nnunet_meep.evaluation.report.tables import write_text
from nnunet_meep.evaluation.report.training_panels import Curves, refuse_curves
from nnunet_meep.evaluation.report.verdict import about
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.identity import archive_identity, label_map_identity
from nnunet_meep.nnunet_files.predictions import Predictions

#: Number of worst cases that are shown as slices.
N_WORST = 5
#: Of the pictures of cases, so that the page stays under about 10 MB.
_MOST_BYTES = 8_000_000
_SLICES = "slices"


def write_comparison_report(
    comparison: Comparison,
    folder: Path,
    *,
    gt_folder: Path | None = None,
    images: Path | None = None,
    needs_slices: bool = True,
    n_worst: int = N_WORST,
    curves: Curves | None = None,
    pages: Mapping[str, str] | None = None,
    progress: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write a comparison into a folder; all is complete before the first file replaces an old one.

    Args:
        comparison: one that holds its evaluations.
        folder: created if missing.
        gt_folder: references for the slices; None: those of each evaluation.
        images: folder with ``CASE_0000<file_ending>`` for the slices; None: without images.
        needs_slices: whether it is an error if ``images`` are given and slices cannot be cut;
            otherwise, and without images, it is a warning.
        n_worst: number of cases with the lowest Dice that are shown as slices; the page also has
            the worst, median and best case by Dice and by ECE, as far as it stays under 10 MB.
        curves: of the trainings over the epochs, for the page: by model, for each training
            ``{"name": str, "values": {curve: numbers}}`` and maybe ``"costs": {name: number or
            text}``; None: the page has none.
        pages: other pages to link to in the head of this one: by name, the path from here.
        progress: show progress bars on stderr.

    Returns:
        The paths, and all warnings, including the reason if slices could not be drawn.

    Raises:
        InputError: the comparison does not hold its evaluations, ``curves`` are not those of its
            models, or ``images`` are given and slices cannot be cut.
        OSError: the folder cannot be written; old results are unchanged.
    """
    if not comparison.evaluations:
        raise InputError(
            "comparison: expected one that compare() made, got one that was read from its JSON, "
            "which does not hold what pictures need"
        )
    of_curves = {} if curves is None else curves
    refuse_curves(of_curves, comparison.models)
    bar = partial(tqdm, disable=not progress)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Inside the folder: it may be a mount point, and files are moved within one file system.
        with temporary_folder(folder) as new:
            tables.write(comparison, new)
            pictures = comparison_pictures(comparison)
            for name, picture in bar(pictures.items(), desc="pictures"):
                figure = picture.draw(list(picture.panels), about(comparison))
                for kind in ("png", "svg"):
                    save_figure(figure, new / f"{name}.{kind}", kind)
            lines, cases = [*comparison.warnings], []
            try:
                cases = _write_slices(comparison, gt_folder, images, new, n_worst, bar)
            except InputError as error:
                if images is not None and needs_slices:
                    raise
                shutil.rmtree(new / _SLICES, ignore_errors=True)
                lines.append(f"no slices: {error}")
            embedded, dropped = _that_fit(cases)
            if dropped:
                lines.append(f"no pictures in report.html, to keep it small: {named(dropped)}")
            text = page.render(comparison, pictures, embedded, lines, of_curves, pages, progress)
            write_text(new / "report.html", text)
            return _replace(new, folder), lines
    except BaseException:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise


def _write_slices(
    comparison: Comparison,
    gt_folder: Path | None,
    images: Path | None,
    folder: Path,
    n_worst: int,
    bar: Callable[..., Any],
) -> list[CasePictures]:
    """Cut slices of the cases to show, with the first training of each model that has the case.

    Figures of the ``n_worst`` cases are written into ``folder``.

    Returns:
        The pictures of each case for the page.
    """
    if images is not None and not images.is_dir():
        raise InputError(f"{images}: expected a folder of images, found none (--images)")
    of_cases = []
    opened: dict[int, tuple[dict[str, Case], Dataset]] = {}
    for i, case in enumerate(bar(cases_to_show(comparison, n_worst), desc="slices")):
        predictions = []
        for model, trainings in comparison.evaluations.items():
            training = next(t for t in trainings if case in t.files)
            if id(training) not in opened:
                opened[id(training)] = _cases(model, training, gt_folder)
            cases, dataset = opened[id(training)]
            if case not in cases:
                folders = training.sources.pred_folders
                raise InputError(f"{folders[0]}: expected {case}.npz, found none")
            _refuse_changed(cases[case], training)
            how = training.settings["segmentation"]
            predictions.append(Prediction(model, cases[case], dataset, how))
        key = worst_class(comparison, case)
        masks = training.sources.masks.get(comparison.roi)  # as an absolute path
        planes = cut(key, predictions, images, f"mask:{masks}" if masks else comparison.roi)
        of_cases.append(case_pictures(planes))
        if i < n_worst:
            where = comparison.cases.index(case)
            dice = {m: float(comparison.values(m, key, "dice")[where]) for m in comparison.models}
            figure = slices_figure(planes[0], dice)
            (folder / _SLICES).mkdir(exist_ok=True)
            for kind in ("png", "svg"):
                save_figure(figure, folder / _SLICES / f"{case}.{kind}", kind)
    return of_cases


def _that_fit(cases: Sequence[CasePictures]) -> tuple[list[CasePictures], list[str]]:
    """As many of the first cases as the page has room for, and the names of the others."""
    fitting, dropped = [], []
    for pictures, end in zip(cases, accumulate(p.n_bytes for p in cases), strict=True):
        if end <= _MOST_BYTES:
            fitting.append(pictures)
        else:
            dropped.append(pictures.case)
    return fitting, dropped


def _refuse_changed(case: Case, evaluation: Evaluation) -> None:
    """Refuse a case whose files have changed: its slice would not match the reported numbers."""
    evaluated = evaluation.files[case.name]
    now = {
        "probabilities": archive_identity(case.probabilities),
        "reference": label_map_identity(case.reference),
    }
    if case.segmentation is not None:
        now["segmentation"] = label_map_identity(case.segmentation)
    if changed := [role for role in now if now[role] != evaluated.get(role)]:
        raise InputError(
            f"{case.probabilities}: expected the files of {case.name} as they were evaluated, "
            f"found others ({', '.join(changed)})"
        )


def _cases(
    model: str, evaluation: Evaluation, gt_folder: Path | None
) -> tuple[dict[str, Case], Dataset]:
    sources = evaluation.sources
    references = gt_folder or sources.gt_folder
    if references is None or not references.is_dir():
        raise InputError(
            f"{references}: expected the references that {model} was evaluated against, found "
            f"none; give their folder with --gt"
        )
    opened = Predictions.open(
        references,
        sources.pred_folders,
        sources.dataset_json,
        sources.plans_json,
        [case.case for case in evaluation.cases],
    )
    return {case.name: case for case in opened.paired.cases}, opened.dataset


def _replace(new: Path, folder: Path) -> list[Path]:
    """Move the files of a complete folder into another one, replacing older ones."""
    # If we wrote this folder, the slices of its cases are ours, too, and pictures that not every
    # comparison has. They go last, so that none is missed if the process is killed here.
    cases = _compared_in(folder)
    names = [f"{_SLICES}/{case}" for case in cases] + [*(OPTIONAL if cases else ())]
    old = [folder / f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    paths = move_files(new, folder)
    for path in set(old).difference(paths):
        path.unlink(missing_ok=True)
    if cases:
        with suppress(OSError):  # it is not there, or not empty
            (folder / _SLICES).rmdir()
    return paths


def _compared_in(folder: Path) -> list[str]:
    """The cases of the comparison that was written into a folder; none if there is none."""
    try:
        cases = read_json(folder / "comparison.json")["cases"]
        return [case for case in cases if Path(case).name == case]
    except (OSError, ValueError, TypeError, KeyError):
        return []
