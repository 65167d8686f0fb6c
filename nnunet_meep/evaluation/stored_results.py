"""Write, find and read ``calibration.json``; damaged files and other formats are refused."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting import TOLERANCE_MM
from nnunet_meep.evaluation.result_format import SCHEMA, malformed_settings, write_json
from nnunet_meep.evaluation.results import Evaluation, Sources
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.paths import real_path

StrPath: TypeAlias = "str | os.PathLike[str]"

#: The file that ``meep-calib-eval`` writes.
RESULT = "calibration.json"


class NoResult(InputError):
    """There is no result of ``meep-calib-eval``."""


class OtherFormat(InputError):
    """A result in a format that this version does not read.

    Attributes:
        settings: those it was evaluated with.
        sources: its files, as the settings name them.
    """

    def __init__(self, message: str, settings: dict[str, Any], sources: Sources) -> None:
        super().__init__(message)
        self.settings, self.sources = settings, sources


def write_evaluation(evaluation: Evaluation, path: Path, folder: Path) -> None:
    """Write an evaluation as JSON, with the paths of its files relative to the output folder.

    Args:
        evaluation: what to write.
        path: the new file, maybe in a temporary folder.
        folder: the output folder.
    """
    origin = {
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **_as_seen_from(folder, evaluation.sources),
    }
    write_json(path, {**evaluation.to_dict(iter), "origin": origin})


def find_result(folder: Path) -> Path | None:
    """The ``calibration.json`` in a folder or in its folder ``calibration``, if there is one."""
    candidates = [folder / RESULT, folder / "calibration" / RESULT]
    return next((p for p in candidates if p.is_file()), None)


def read_evaluation(path: StrPath) -> Evaluation:
    """Read what ``meep-calib-eval`` wrote.

    Args:
        path: a ``calibration.json``, its folder, or a folder of predictions that contains its
            folder ``calibration``.

    Returns:
        The evaluation. Its sources are resolved relative to its folder if the predictions are
        found there, because then all was moved or copied together. Otherwise they are the paths
        that were given when it was evaluated.

    Raises:
        InputError: there is no result, or this version cannot read it.

    Example:
        >>> import nnunet_meep as nm
        >>> evaluation = nm.read_evaluation("predictions/calibration")
        >>> evaluation.classes
        {'1': 'Anterior', '2': 'Posterior'}
    """
    path = Path(path)
    if path.name == RESULT:
        found: Path | None = path if path.is_file() else None
    elif not path.is_dir():
        raise InputError(f"{path}: expected a folder with a result of meep-calib-eval, found none")
    else:
        found = find_result(path)
    if found is None:
        raise NoResult(
            f"{path}: expected calibration.json in it or in its folder 'calibration', or "
            f"predictions with probabilities (CASE.npz), found none"
        )
    path = found
    try:
        content = read_json(path)
        schema, settings = content["schema"], content["settings"]
        malformed = malformed_settings(settings, complete=schema == SCHEMA)
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"{path}: expected a result of meep-calib-eval, got something else"
        ) from None
    if malformed and schema != SCHEMA:
        raise InputError(
            f"{path}: expected a result of schema {SCHEMA}, got {schema}; evaluate it again with "
            f"this version"
        )
    if malformed:
        raise InputError(
            f"{path}: expected a result of meep-calib-eval, got one whose settings are damaged: "
            f"{malformed}"
        )
    if schema != SCHEMA:
        raise OtherFormat(
            f"{path}: expected a result of schema {SCHEMA}, got {schema}; evaluate it again with "
            f"this version: {_command(settings, path.parent)}",
            settings,
            Sources.named_in(settings),
        )
    try:
        evaluation = Evaluation.from_dict(content)
        return replace(evaluation, sources=_seen_from(path.parent, content, evaluation.sources))
    except (InputError, OSError) as error:  # OSError: a recorded name longer than a name can be
        raise InputError(f"{path}: {error}") from None


def holds_predictions(folder: Path) -> bool:
    """Whether a folder, or the folds of a model folder, contain probabilities."""
    return any(any(folder.glob(names)) for names in ("*.npz", "fold_*/validation/*.npz"))


def _as_seen_from(folder: Path, sources: Sources) -> dict[str, Any]:
    """Paths of the files relative to the result's folder, so that both can be moved together."""

    def from_here(path: Path | None) -> str | None:
        return None if path is None else os.path.relpath(real_path(path), real_path(folder))

    return {
        "gt_folder": from_here(sources.gt_folder),
        "pred_folders": [from_here(path) for path in sources.pred_folders],
        "dataset_json": from_here(sources.dataset_json),
        "plans_json": from_here(sources.plans_json),
        "masks": {name: from_here(masks) for name, masks in sources.masks.items()},
    }


def _seen_from(folder: Path, content: dict[str, Any], named: Sources) -> Sources:
    """The files of a result, relative to its folder if they are there, else as ``named``."""
    origin = content.get("origin", {})

    def seen(relative: str) -> Path:
        return Path(os.path.normpath(folder / relative))

    masks = {name: seen(relative) for name, relative in origin.get("masks", {}).items()}
    folders = tuple(map(seen, origin.get("pred_folders", [])))
    if not folders or not all(map(holds_predictions, folders)):
        return replace(named, masks=masks)

    def find(role: str, otherwise: Path | None) -> Path | None:
        path = seen(origin[role]) if origin.get(role) is not None else None
        return path if path is not None and path.exists() else otherwise

    return Sources(
        find("gt_folder", named.gt_folder),
        folders,
        find("dataset_json", named.dataset_json),
        find("plans_json", named.plans_json),
        masks,
    )


def _command(settings: dict[str, Any], output: Path) -> str:
    """The command that made a result, or a similar one."""
    folders = settings["pred_folder"]
    words = ["meep-calib-eval", settings["gt_folder"]]
    words += [folders] if isinstance(folders, str) else folders
    words += ["-o", str(output)]
    for name, flag in (("dataset_json", "-djfile"), ("plans_json", "-pfile"), ("bins", "--bins")):
        words += [flag, str(settings[name])] if settings.get(name) else []
    if (tolerance_mm := settings.get("tolerance_mm", TOLERANCE_MM)) != TOLERANCE_MM:
        words += ["--tolerance", str(tolerance_mm)]
    if settings.get("lesions") is not None:
        words += ["--lesions", str(settings["lesions"])]
    if settings.get("segmentation") == "argmax":
        words += ["--segmentation", "argmax"]
    words += ["--cases", *settings["cases"]] if settings.get("cases") else []
    words += ["--no-surface"] * (settings.get("surface") is False)
    words += ["--chill"] * (settings.get("chill") is True)
    if rois := settings.get("rois"):
        words += ["--roi", *rois]
    return shlex.join(map(str, words))
