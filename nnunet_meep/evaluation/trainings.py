"""Folders that people name on a command line, as results that can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation import report
from nnunet_meep.evaluation.compare import find_result, in_region, load_result
from nnunet_meep.evaluation.evaluate import evaluate


@dataclass(frozen=True)
class Training:
    """One training of a model.

    Attributes:
        result: content of its ``calibration.json``, as if of the asked region alone.
        predictions: folders in which its probabilities are, or were.
        warnings: one line each.
    """

    result: dict[str, Any]
    predictions: tuple[Path, ...]
    warnings: tuple[str, ...]


def open_training(
    folder: Path, *, gt_folder: Path | None = None, region: str | None = None
) -> Training:
    """Read the result in a folder, or evaluate the predictions in it, with a progress bar.

    Args:
        folder: one that ``meep-calib-eval`` wrote, or predictions, with a result in
            ``folder / "calibration"`` or without one yet, which then is written there.
        gt_folder: references for what was not evaluated yet; None: as in :func:`.evaluate`.
        region: name of a region; None: the first one of the result.

    Raises:
        InputError: it is neither, or something in it cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of predictions or results, found none")
    if find_result(folder) is None and _holds_predictions(folder):
        try:
            evaluation = evaluate(
                gt_folder,
                folder,
                regions=[region or "image"],
                processes=None,
                progress=True,
                keep=folder / "calibration" / "cases",
            )
        except InputError as error:
            hint = "it has options for other cases" if gt_folder else "or give --gt"
            raise InputError(f"{error}; evaluate it with meep-calib-eval, {hint}") from None
        report.write(evaluation, folder / "calibration")
    result = load_result(folder)
    warnings = []
    references = result["settings"].get("gt_folder")
    is_there = references and Path(references).is_dir()
    if gt_folder and is_there and Path(references).resolve() != gt_folder.resolve():
        warnings.append(f"{folder} was evaluated against {references}, not {gt_folder} (--gt)")
    given = result["settings"].get("pred_folder", [])
    predictions = [Path(f) for f in ([given] if isinstance(given, str) else given)]
    if _holds_predictions(folder):
        predictions = [folder]
    warnings += _newer(folder, predictions)
    return Training(in_region(result, region, folder), tuple(predictions), tuple(warnings))


def _holds_predictions(folder: Path) -> bool:
    return any(_probabilities(folder))


def _probabilities(folder: Path) -> list[Path]:
    """Of a folder of predictions, or of a model folder."""
    return [*folder.glob("*.npz"), *folder.glob("fold_*/validation/*.npz")]


def _newer(folder: Path, predictions: list[Path]) -> list[str]:
    result = find_result(folder)
    assert result is not None
    written = result.stat().st_mtime
    files = [path for f in predictions for path in _probabilities(f)]
    if newer := [path for path in files if path.stat().st_mtime > written]:
        return [
            f"{result} is older than {len(newer)} of its {len(files)} predictions; evaluate them "
            f"again with meep-calib-eval"
        ]
    return []
