"""Converts arrays from the axes of nnU-Net's readers back to those of the image file."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_meep.atomic import temporary_folder
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.images import read_label_map
from nnunet_meep.nnunet_files.paths import itk_path


def geometry(
    case: Case, dataset: Dataset, spacing_mm: tuple[float, ...]
) -> Callable[[NDArray[np.float32]], sitk.Image]:
    """Return a function that converts an array to an image in the geometry of the reference.

    The array has the axes of nnU-Net's reader, which may permute and flip those of the file. To
    find out how, a small image with the direction of the reference and a different number in each
    voxel is written and read back.

    Args:
        case: the case whose reference segmentation gives the geometry.
        dataset: gives file ending and reader.
        spacing_mm: voxel size along the axes of the array, for formats without a geometry.
    """
    if not case.reference.name.endswith((".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")):
        return lambda array: _plain_image(array, spacing_mm)
    reference = sitk.ImageFileReader()
    reference.SetFileName(itk_path(case.reference))
    reference.ReadImageInformation()
    size = (2, 3, 4)[: reference.GetDimension()]
    numbers: NDArray[np.float32] = np.arange(math.prod(size), dtype=np.float32).reshape(size[::-1])
    small = sitk.GetImageFromArray(numbers)
    small.SetDirection(reference.GetDirection())
    small.SetSpacing(reference.GetSpacing())
    with temporary_folder() as folder:
        path = folder / f"small{dataset.file_ending}"
        sitk.WriteImage(small, itk_path(path))
        seen = read_label_map(path, dataset).labels

    # nnU-Net adds a first axis of length 1 to 2D images.
    squeeze = reference.GetDimension() == 2
    axes, mirrored = turn(seen[0] if squeeze else seen, numbers)

    def to_image(array: NDArray[np.float32]) -> sitk.Image:
        array = array[0] if squeeze else array
        image = sitk.GetImageFromArray(np.flip(array.transpose(axes), mirrored))
        image.SetOrigin(reference.GetOrigin())
        image.SetSpacing(reference.GetSpacing())
        image.SetDirection(reference.GetDirection())
        return image

    return to_image


def turn(
    before: NDArray[np.float32], after: NDArray[np.float32]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find ``axes`` and ``mirrored`` so that ``flip(transpose(before, axes), mirrored) == after``.

    Args:
        before, after: the same consecutive numbers, arranged differently. No two axes may have the
            same length.

    Returns:
        ``axes``, ``mirrored``.
    """
    axes = tuple(before.shape.index(n) for n in after.shape)
    turned = before.transpose(axes)
    mirrored = tuple(
        axis
        for axis in range(turned.ndim)
        if np.sign(np.diff(turned, axis=axis)).flat[0] != np.sign(np.diff(after, axis=axis)).flat[0]
    )
    return axes, mirrored


def _plain_image(array: NDArray[np.float32], spacing_mm: tuple[float, ...]) -> sitk.Image:
    """An image for formats without a geometry, with the voxel sizes that nnU-Net uses."""
    image = sitk.GetImageFromArray(array[0] if array.shape[0] == 1 else array)
    image.SetSpacing(spacing_mm[::-1][: image.GetDimension()])
    return image
