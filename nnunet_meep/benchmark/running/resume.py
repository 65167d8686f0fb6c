"""The commands that go on with an interrupted training or prediction of nnU-Net."""

from __future__ import annotations

from pathlib import Path

from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.nnunet_files.unfinished import is_whole_zip, remove_unfinished


def resume_training(fold: Path, command: list[str]) -> list[str]:
    """``--c`` if there is a checkpoint, ``--val`` if only the validation is missing.

    Checkpoints that were not written to the end are deleted: nnU-Net writes its own under their
    final names, and would not go on from one that it was killed at.

    Args:
        fold: nnU-Net's ``fold_X``.
        command: the one that begins the training.
    """
    # nnU-Net takes the first one that is there, in this order.
    for name, flag in (("final", "--val"), ("latest", "--c"), ("best", "--c")):
        path = fold / f"checkpoint_{name}.pth"
        if not path.is_file():
            continue
        if is_whole_zip(path):
            return [*command, flag]
        path.unlink()
    return command


def resume_prediction(folder: Path, command: list[str], ending: str) -> list[str]:
    """``--continue_prediction``, after :func:`.remove_unfinished`.

    Args:
        folder: of the predictions.
        command: the one that begins the prediction.
        ending: of the segmentations.
    """
    if not folder.is_dir():
        return command
    remove_unfinished(folder, ending)
    return [*command, "--continue_prediction"]


def resume_itself(_folders: Folders, command: list[str]) -> list[str]:
    """The same command: it goes on by itself."""
    return command
