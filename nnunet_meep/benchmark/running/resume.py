"""The commands that go on with an interrupted training or prediction of nnU-Net."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path

_CHUNK = 1 << 20


def resume_training(fold: Path, command: list[str]) -> list[str]:
    """``--c`` if there is a checkpoint, ``--val`` if only the validation is missing.

    Args:
        fold: nnU-Net's ``fold_X``.
        command: the one that begins the training.
    """
    if (fold / "checkpoint_final.pth").is_file():
        return [*command, "--val"]
    names = ("checkpoint_latest.pth", "checkpoint_best.pth")
    return [*command, "--c"] if any((fold / name).is_file() for name in names) else command


def resume_prediction(folder: Path, command: list[str]) -> list[str]:
    """``--continue_prediction``, after the cases were deleted that were not written to the end.

    nnU-Net takes a case for predicted if its files exist.
    """
    if not folder.is_dir():
        return command
    for path in folder.glob("*.npz"):
        segmentations = [p for p in folder.glob(f"{path.stem}.*") if p.suffix in (".gz", ".nii")]
        if not (_is_whole_zip(path) and all(map(_is_whole_gzip, segmentations))):
            for part in (path, *segmentations):
                part.unlink()
    return [*command, "--continue_prediction"]


def _is_whole_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError):
        return False


def _is_whole_gzip(path: Path) -> bool:
    if path.suffix != ".gz":
        return True  # a file without a checksum: nnU-Net writes it after the npz
    try:
        with gzip.open(path) as file:
            while file.read(_CHUNK):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True
