"""Paths for SimpleITK, which ends the whole process at a path that is not UTF-8."""

from __future__ import annotations

from pathlib import Path

from nnunet_meep.errors import InputError


def itk_path(path: Path) -> str:
    """A path as SimpleITK, and nnU-Net's readers that use it, take it.

    Raises:
        InputError: the path is not UTF-8.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{path}: expected a path in UTF-8, which the library that reads and writes images "
            f"needs, got other bytes; rename the file or folder"
        ) from None
    return str(path)
