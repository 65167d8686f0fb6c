"""Converts arrays from the axes of nnU-Net's readers back to those of the image file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_meep.atomic import temporary_folder
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.headers import has_grid, read_grid
from nnunet_meep.nnunet_files.images import read_label_map
from nnunet_meep.nnunet_files.paths import itk_path

#: Up to this, directions that are not perpendicular are taken for rounded ones.
_PERPENDICULAR = 1e-4


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
    if not has_grid(case.reference):
        return lambda array: _plain_image(array, spacing_mm)
    reference = _header(case.reference, dataset.reader)
    size = (2, 3, 4)[: len(reference.spacing)]
    numbers: NDArray[np.float32] = np.arange(math.prod(size), dtype=np.float32).reshape(size[::-1])
    small = sitk.GetImageFromArray(numbers)
    small.SetDirection(reference.direction)
    small.SetSpacing(reference.spacing)
    with temporary_folder() as folder:
        path = folder / f"small{dataset.file_ending}"
        sitk.WriteImage(small, itk_path(path))
        seen = read_label_map(path, dataset).labels

    # nnU-Net adds a first axis of length 1 to 2D images.
    squeeze = len(reference.spacing) == 2
    axes, mirrored = turn(seen[0] if squeeze else seen, numbers)

    def to_image(array: NDArray[np.float32]) -> sitk.Image:
        array = array[0] if squeeze else array
        image = sitk.GetImageFromArray(np.flip(array.transpose(axes), mirrored))
        image.SetOrigin(reference.origin)
        image.SetSpacing(reference.spacing)
        image.SetDirection(reference.direction)
        return image

    return to_image


def is_sheared(case: Case, dataset: Dataset) -> bool:
    """Whether the axes of the reference are so oblique that SimpleITK cannot write them."""
    return has_grid(case.reference) and _header(case.reference, dataset.reader).is_sheared


class _Header(NamedTuple):
    """The geometry of a file as SimpleITK takes it, x first.

    Attributes:
        spacing, origin: in mm.
        direction: the rows of an orthogonal matrix, one after the other.
        is_sheared: whether this is only the matrix nearest to the directions in the file.
    """

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    is_sheared: bool = False


def _header(path: Path, reader: str | None) -> _Header:
    if reader is not None and reader.startswith("Nibabel"):
        # SimpleITK refuses axes that are not perpendicular, as of a tilted gantry.
        grid = read_grid(path, reader.removesuffix("WithReorient"))
        assert grid is not None
        n = len(grid.shape)
        to_left_back = np.diag([-1.0, -1.0, 1.0][:n])  # from nibabel's right and front
        axes = to_left_back @ grid.affine[:-1, :-1]
        spacing = np.linalg.norm(axes, axis=0)
        before, _, after = np.linalg.svd(axes / spacing)
        direction = before @ after
        return _Header(
            tuple(spacing.tolist()),
            tuple((to_left_back @ grid.affine[:-1, -1]).tolist()),
            tuple(direction.ravel().tolist()),
            not np.allclose(direction, axes / spacing, atol=_PERPENDICULAR),
        )
    image = sitk.ImageFileReader()
    image.SetFileName(itk_path(path))
    image.ReadImageInformation()
    return _Header(image.GetSpacing(), image.GetOrigin(), image.GetDirection())


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
