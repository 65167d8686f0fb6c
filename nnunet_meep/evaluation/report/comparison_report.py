"""All that a comparison leaves behind in a folder: tables, pictures, slices, ``report.html``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.compare import Comparison, Model
from nnunet_meep.evaluation.report import comparison_tables as tables
from nnunet_meep.evaluation.report import page
from nnunet_meep.evaluation.report.plots import comparison_pictures, save_figure
from nnunet_meep.evaluation.report.slice_figures import slices_figure
from nnunet_meep.evaluation.report.slices import Prediction, cut, worst_cases
from nnunet_meep.evaluation.results import Sources
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.identity import archive_identity, label_map_identity
from nnunet_meep.nnunet_files.predictions import Predictions

#: So many of the worst cases are shown as slices.
N_WORST = 5
_SLICES = "slices"


def write(
    models: Sequence[Model],
    comparison: Comparison,
    folder: Path,
    *,
    sources: dict[str, Sources],
    gt_folder: Path | None = None,
    images: Path | None = None,
    progress: Callable[[Sequence[Any], str], Iterable[Any]] = lambda items, _: items,
) -> tuple[list[Path], list[str]]:
    """Write a comparison into a folder; all is complete before the first file replaces an old one.

    Args:
        models: what was compared.
        comparison: over which cases, and what came out.
        folder: made if it is not there.
        sources: for each model where the files of its first training are, for slices.
        gt_folder: references for the slices; None: those of each result.
        images: folder with ``CASE_0000<file_ending>`` for the slices; None: without images.
        progress: goes through what takes long (items, what they are), and may show how far it is.

    Returns:
        The paths, and all warnings, with what could not be drawn and why.

    Raises:
        InputError: ``images`` are given and slices cannot be cut.
        OSError: the folder cannot be written; old results are as they were.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # In the folder itself, which may be a file system of its own.
        with TemporaryDirectory(prefix=".tmp-", dir=folder) as new:
            tables.write(comparison, Path(new))
            pictures = comparison_pictures(models, comparison)
            for name, picture in progress(list(pictures.items()), "pictures"):
                figure = picture.draw(list(picture.panels), tables.about(comparison))
                for kind in ("png", "svg"):
                    save_figure(figure, Path(new) / f"{name}.{kind}", kind)
            lines, slices = [*comparison.warnings], {}
            try:
                slices = _write_slices(
                    models, comparison, sources, gt_folder, images, Path(new), progress
                )
            except InputError as error:
                if images is not None:
                    raise
                shutil.rmtree(Path(new) / _SLICES, ignore_errors=True)
                lines.append(f"no slices: {error}")
            text = page.render(models, comparison, pictures, slices, lines, progress)
            (Path(new) / "report.html").write_text(text, encoding="utf-8")
            return _replace(Path(new), folder), lines
    except BaseException:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise


def _write_slices(
    models: Sequence[Model],
    comparison: Comparison,
    sources: dict[str, Sources],
    gt_folder: Path | None,
    images: Path | None,
    folder: Path,
    progress: Callable[[Sequence[Any], str], Iterable[Any]],
) -> dict[str, tuple[str, Path]]:
    """Pictures of the worst cases: case: (what it shows, its PNG)."""
    if images is not None and not images.is_dir():
        raise InputError(f"{images}: expected a folder of images, found none (--images)")
    found = {model.name: _cases(model, sources[model.name], gt_folder) for model in models}
    slices, by_name = {}, {model.name: model for model in models}
    for case, key in progress(list(worst_cases(models, comparison, N_WORST)), "slices"):
        for name, (of_model, _) in found.items():
            if case not in of_model:
                raise InputError(
                    f"{sources[name].pred_folders[0]}: expected {case}.npz, found none"
                )
            _refuse_changed(of_model[case], by_name[name].trainings[0])
        how = {m.name: m.trainings[0]["settings"]["segmentation"] for m in models}
        of_models = [Prediction(n, cs[case], d, how[n]) for n, (cs, d) in found.items()]
        shown = cut(key, of_models, images)
        dice = {m.name: float(m.values([case], key, "dice")[0]) for m in models}
        figure = slices_figure(shown, dice)
        (folder / _SLICES).mkdir(exist_ok=True)
        for kind in ("png", "svg"):
            save_figure(figure, folder / _SLICES / f"{case}.{kind}", kind)
        title = f"{case}, {shown.class_name}, {shown.plane}"
        slices[case] = (title, folder / _SLICES / f"{case}.png")
    return slices


def _refuse_changed(case: Case, result: dict[str, Any]) -> None:
    """Is a case still the one whose numbers stand beside its slice?"""
    evaluated = result["files"]["cases"][case.name]
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
    model: Model, sources: Sources, gt_folder: Path | None
) -> tuple[dict[str, Case], Dataset]:
    references = gt_folder or sources.gt_folder
    if references is None or not references.is_dir():
        raise InputError(
            f"{references}: expected the references that {model.name} was evaluated against, found "
            f"none; give their folder with --gt"
        )
    opened = Predictions.open(
        references, sources.pred_folders, sources.dataset_json, sources.plans_json
    )
    return {case.name: case for case in opened.paired.cases}, opened.dataset


def _replace(new: Path, folder: Path) -> list[Path]:
    """Move the files of a complete folder into another one, in place of older ones."""
    if (folder / "comparison.json").is_file():  # written by us, and so are its slices
        shutil.rmtree(folder / _SLICES, ignore_errors=True)
    paths = []
    for path in sorted(p for p in new.rglob("*") if p.is_file()):
        target = folder / path.relative_to(new)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
        paths.append(target)
    return paths
