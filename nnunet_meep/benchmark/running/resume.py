"""The commands that go on with an interrupted training or prediction of nnU-Net."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path

from nnunet_meep.benchmark.running.folders import Folders

_CHUNK = 1 << 20


def resume_training(fold: Path, command: list[str]) -> list[str]:
    """``--c`` if there is a checkpoint, ``--val`` if only the validation is missing.

    Checkpoints that were not written to the end are deleted: nnU-Net would stop at them, although
    there is an older one.

    Args:
        fold: nnU-Net's ``fold_X``.
        command: the one that begins the training.
    """
    # nnU-Net takes the first one that is there, in this order.
    for name, flag in (("final", "--val"), ("latest", "--c"), ("best", "--c")):
        path = fold / f"checkpoint_{name}.pth"
        if not path.is_file():
            continue
        if zipfile.is_zipfile(path):  # what a zip file holds is written at its end
            return [*command, flag]
        path.unlink()
    return command


def resume_prediction(folder: Path, command: list[str], ending: str) -> list[str]:
    """``--continue_prediction``, after the cases were deleted that were not written to the end.

    nnU-Net takes a case for predicted if its files exist. It writes one case after the other, the
    segmentation last.

    Args:
        folder: of the predictions.
        command: the one that begins the prediction.
        ending: of the segmentations; those other than ``.gz`` have no checksum, so that the newest
            one counts as not written to the end.
    """
    if not folder.is_dir():
        return command
    cases = {path: path.with_name(f"{path.stem}{ending}") for path in folder.glob("*.npz")}
    written = {s: s.stat().st_mtime_ns for s in cases.values() if s.is_file()}
    newest = max(written.values(), default=0)
    for path, segmentation in cases.items():
        if ending.endswith(".gz"):
            is_whole = _is_whole_gzip(segmentation)
        else:
            is_whole = written.get(segmentation, newest) < newest
        if not (is_whole and _is_whole_zip(path)):
            for part in (path, segmentation):
                part.unlink(missing_ok=True)
    return [*command, "--continue_prediction"]


def resume_itself(_folders: Folders, command: list[str]) -> list[str]:
    """The same command: it goes on by itself."""
    return command


def _is_whole_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError):
        return False


def _is_whole_gzip(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            while file.read(_CHUNK):
                pass
        return path.stat().st_size > 0  # nothing would be a whole file without members
    except (OSError, EOFError, zlib.error):
        return False
