"""Trainers of others: nnU-Net's own, and those in the other folders of ``nnUNet_extTrainer``."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from nnunet_meep.errors import InputError

#: In our folder, and in that of another copy of this package: an environment may inherit the
#: variable from another one.
_OURS = "nnunet_meep_trainers.py"


def external_folders() -> list[str]:
    """The folders of ``nnUNet_extTrainer`` that nnU-Net searches, in this order, without ours."""
    return [folder for folder in _searched() if not _is_ours(folder)]


def folders_behind_ours() -> list[str]:
    """Those of :func:`external_folders` that nnU-Net searches after ours."""
    folders = _searched()
    first = next((i for i, folder in enumerate(folders) if _is_ours(folder)), len(folders))
    return [folder for folder in folders[first:] if not _is_ours(folder)]


def _is_ours(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, _OURS))


def _searched() -> list[str]:
    folders = os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)
    return [folder for folder in folders if folder.strip() and os.path.exists(folder)]


def folder_with(trainer: str, folders: Sequence[str]) -> str | None:
    """The first of some folders in which nnU-Net finds a trainer; None if there is none.

    They are imported, as nnU-Net does it: a module there may make trainers on demand, as ours does.

    Raises:
        InputError: a module there cannot be imported.
    """
    if not folders:
        return None
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    for folder in folders:
        try:
            found = recursive_find_python_class(
                folder, trainer, None, base_folder=folder, cleanup_imports_from_base_folder=True
            )
        except Exception as error:  # whatever the modules of others raise
            raise InputError(
                f"{folder}: expected trainers (nnUNet_extTrainer), could not look for {trainer}: "
                f"{type(error).__name__} {error}"
            ) from error
        if found is not None:
            return folder
    return None


@cache
def written_classes() -> frozenset[str]:
    """The classes in nnU-Net's own trainer files and in those of ``nnUNet_extTrainer``.

    They are read, not imported: importing all of nnU-Net's takes many seconds.
    """
    spec = importlib.util.find_spec("nnunetv2")
    packages = spec.submodule_search_locations if spec else None
    places = [Path(p) / "training" / "nnUNetTrainer" for p in packages or ()]
    places += map(Path, _searched())
    found: set[str] = set()
    for place in places:
        for path in place.rglob("*.py"):
            text = path.read_text(encoding="utf-8", errors="replace")
            found.update(re.findall(r"^class (\w+)", text, re.MULTILINE))
    return frozenset(found)
