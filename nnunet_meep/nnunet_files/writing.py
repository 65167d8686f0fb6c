"""Write images with ITK, which for most formats does not notice that the disk is full."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_meep.nnunet_files.gunzip import GUNZIP_ERRORS, gunzipped_size
from nnunet_meep.nnunet_files.paths import itk_path

if TYPE_CHECKING:
    import SimpleITK as sitk


def write_image(image: sitk.Image, path: Path) -> None:
    """Write a ``.nii.gz`` and read it once, to see that all of it is there.

    Raises:
        OSError: it could not be written.
    """
    import SimpleITK as sitk

    try:
        sitk.WriteImage(image, itk_path(path), useCompression=True)
        gunzipped_size(path)
    except (RuntimeError, *GUNZIP_ERRORS) as error:
        raise not_whole(path) from error


def not_whole(path: Path) -> OSError:
    """The error for a file that a library wrote in part, or not at all."""
    return OSError(errno.EIO, "could not be written whole; is the disk full?", str(path))
