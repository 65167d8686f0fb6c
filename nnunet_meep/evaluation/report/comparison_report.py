"""Write the output folder of a comparison: tables, pictures, slices, ``report.html``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.report import comparison_tables as tables
from nnunet_meep.evaluation.report import page
from nnunet_meep.evaluation.report.comparison_pictures import comparison_pictures
from nnunet_meep.evaluation.report.figures import save_figure
from nnunet_meep.evaluation.report.slice_figures import slices_figure
from nnunet_meep.evaluation.report.slices import Prediction, cut, worst_cases
from nnunet_meep.evaluation.report.verdict import about
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.identity import archive_identity, label_map_identity
from nnunet_meep.nnunet_files.predictions import Predictions

#: Number of worst cases that are shown as slices.
N_WORST = 5
_SLICES = "slices"


def write_comparison_report(
    comparison: Comparison,
    folder: Path,
    *,
    gt_folder: Path | None = None,
    images: Path | None = None,
    progress: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write a comparison into a folder; all is complete before the first file replaces an old one.

    Args:
        comparison: one that holds its evaluations.
        folder: created if missing.
        gt_folder: references for the slices; None: those of each evaluation.
        images: folder with ``CASE_0000<file_ending>`` for the slices; None: without images.
        progress: show progress bars on stderr.

    Returns:
        The paths, and all warnings, including the reason if slices could not be drawn.

    Raises:
        InputError: the comparison does not hold its evaluations, or ``images`` are given and slices
            cannot be cut.
        OSError: the folder cannot be written; old results are unchanged.
    """
    if not comparison.evaluations:
        raise InputError(
            "comparison: expected one that compare() made, got one that was read from its JSON, "
            "which does not hold what pictures need"
        )
    bar = partial(tqdm, disable=not progress)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Inside the folder: it may be a mount point, and files are moved within one file system.
        with TemporaryDirectory(prefix=".tmp-", dir=folder) as new:
            tables.write(comparison, Path(new))
            pictures = comparison_pictures(comparison)
            for name, picture in bar(pictures.items(), desc="pictures"):
                figure = picture.draw(list(picture.panels), about(comparison))
                for kind in ("png", "svg"):
                    save_figure(figure, Path(new) / f"{name}.{kind}", kind)
            lines, slices = [*comparison.warnings], {}
            try:
                slices = _write_slices(comparison, gt_folder, images, Path(new), bar)
            except InputError as error:
                if images is not None:
                    raise
                shutil.rmtree(Path(new) / _SLICES, ignore_errors=True)
                lines.append(f"no slices: {error}")
            text = page.render(comparison, pictures, slices, lines, progress)
            (Path(new) / "report.html").write_text(text, encoding="utf-8")
            return _replace(Path(new), folder), lines
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
    bar: Callable[..., Any],
) -> dict[str, tuple[str, Path]]:
    """Write pictures of the worst cases, with the first training of each model that has the case.

    Returns:
        For each case, what its picture shows and the path of the PNG.
    """
    if images is not None and not images.is_dir():
        raise InputError(f"{images}: expected a folder of images, found none (--images)")
    slices = {}
    for case, key in bar(list(worst_cases(comparison, N_WORST)), desc="slices"):
        predictions = []
        for model, trainings in comparison.evaluations.items():
            training = next(t for t in trainings if case in t.files)
            cases, dataset = _cases(model, training, gt_folder)
            if case not in cases:
                folders = training.sources.pred_folders
                raise InputError(f"{folders[0]}: expected {case}.npz, found none")
            _refuse_changed(cases[case], training)
            how = training.settings["segmentation"]
            predictions.append(Prediction(model, cases[case], dataset, how))
        shown = cut(key, predictions, images)
        where = comparison.cases.index(case)
        dice = {m: float(comparison.values(m, key, "dice")[where]) for m in comparison.models}
        figure = slices_figure(shown, dice)
        (folder / _SLICES).mkdir(exist_ok=True)
        for kind in ("png", "svg"):
            save_figure(figure, folder / _SLICES / f"{case}.{kind}", kind)
        title = f"{case}, {shown.class_name}, {shown.plane}"
        slices[case] = (title, folder / _SLICES / f"{case}.png")
    return slices


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
    if (folder / "comparison.json").is_file():  # we wrote this folder, so its slices are ours too
        shutil.rmtree(folder / _SLICES, ignore_errors=True)
    paths = []
    for path in sorted(p for p in new.rglob("*") if p.is_file()):
        target = folder / path.relative_to(new)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
        paths.append(target)
    return paths
