"""From the axes of nnU-Net's readers back to those of the image file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.images import read_label_map


def geometry(
    case: Case, dataset: Dataset, spacing_mm: tuple[float, ...]
) -> Callable[[NDArray[np.float32]], sitk.Image]:
    """How an array with the axes of nnU-Net's reader becomes an image like the reference.

    Readers may turn and mirror axes. What one does is seen from a small image with the directions
    of the reference and a number of its own in each voxel.
    """
    if not case.reference.name.endswith((".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")):
        return lambda array: _plain_image(array, spacing_mm)
    reference = sitk.ImageFileReader()
    reference.SetFileName(str(case.reference))
    reference.ReadImageInformation()
    size = (2, 3, 4)[: reference.GetDimension()]
    numbers: NDArray[np.float32] = np.arange(math.prod(size), dtype=np.float32).reshape(size[::-1])
    small = sitk.GetImageFromArray(numbers)
    small.SetDirection(reference.GetDirection())
    small.SetSpacing(reference.GetSpacing())
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"small{dataset.file_ending}"
        sitk.WriteImage(small, str(path))
        seen = read_label_map(path, dataset).labels

    # 2D images have got a first axis of one voxel.
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
    """What makes ``after`` of ``before``: ``flip(transpose(before, axes), mirrored)``.

    Args:
        before, after: consecutive numbers in different arrangements, no two axes of equal length.

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
    """For formats without a geometry: voxel sizes as nnU-Net has them."""
    image = sitk.GetImageFromArray(array[0] if array.shape[0] == 1 else array)
    image.SetSpacing(spacing_mm[::-1][: image.GetDimension()])
    return image
