"""Paths that the user gave: which can be used, and which are the same."""

from __future__ import annotations

import os
from pathlib import Path

from nnunet_meep.errors import InputError

_SETTING = (
    "https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/set_environment_variables.md"
)


def not_set(variable: str) -> str:
    """What to say where one of nnU-Net's environment variables is not set, for an error."""
    return (
        f"{variable}: expected nnU-Net's folder in this environment variable, found none; "
        f"export {variable}=FOLDER, see {_SETTING}"
    )


def itk_path(path: Path) -> str:
    """A path as SimpleITK, and nnU-Net's readers that use it, take it.

    Raises:
        InputError: the path is not UTF-8, at which SimpleITK would end the whole process.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{path}: expected a path in UTF-8, which the library that reads and writes images "
            f"needs, got other bytes; rename the file or folder"
        ) from None
    return str(path)


def real_path(path: Path) -> Path:
    """The absolute path behind all links; a link that leads to itself stays what it is."""
    return Path(os.path.realpath(path))


def refuse_no_file(path: Path) -> None:
    """Refuse what has the name of a file and is something else; what is missing is not refused.

    To read from a pipe could wait for ever.

    Raises:
        InputError: it is a folder, a link that leads nowhere, a pipe or a device.
    """
    if path.is_file() or not os.path.lexists(path):
        return
    found = "a folder" if path.is_dir() else "a pipe or a device"
    if not path.exists():
        found = "a link that leads nowhere"
    raise InputError(f"{path}: expected a file, found {found}")


def refuse_no_folder(path: Path) -> None:
    """Check before all the work that a folder can be made, or is there.

    Raises:
        InputError: it, or what should be a folder above it, is something else.
    """
    for place in (path, *path.parents):
        if os.path.lexists(place):
            if not place.is_dir():
                raise InputError(f"{place}: expected a folder to write into, found a file (-o)")
            return
