"""Probabilities as images that a viewer shows over the scan.

For each case ``CASE/probability_CLASS.nii.gz`` for each class or region, and
``CASE/entropy.nii.gz`` (for regions ``CASE/entropy_REGION.nii.gz``, one each, because they
overlap): float32, in the geometry of the reference, whatever axes nnU-Net's reader had turned them
into. Entropy is in shares of the most there can be, log K: 0 is sure, 1 says that all K classes
are equally likely.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_meep.atomic import creating_folder
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.cases import Case, Dataset, read_label_map
from nnunet_meep.evaluation.stream import open_probabilities


def write_maps(case: Case, dataset: Dataset, folder: Path) -> Path:
    """Write the maps of a case into ``folder / case.name``, in place of older ones.

    Returns:
        That folder.

    Raises:
        InputError: a file cannot be read, or the two have different shapes.
        OSError: the maps cannot be written.
    """
    labels = dataset.labels
    reference = read_label_map(case.reference, dataset)
    shape, spacing_mm = reference.labels.shape, reference.spacing_mm
    del reference
    to_image = geometry(case, dataset, spacing_mm)
    target, new = folder / case.name, folder / f".new-{case.name}"
    shutil.rmtree(new, ignore_errors=True)
    with creating_folder(new) as temporary:
        names = {labels.channel(i): _file_name(name) for i, name in enumerate(labels.names)}
        n_channels = labels.n_channels
        entropy = np.zeros(shape, np.float32)
        for channel, p in channels(case.probabilities, (n_channels, *shape)):
            if labels.regions_class_order is None:
                entropy += surprise(p) / np.float32(np.log(n_channels))
            else:
                two = (surprise(p) + surprise(1 - p)) / np.float32(np.log(2))
                _write(to_image(two), temporary / f"entropy_{names[channel]}.nii.gz")
            if channel in names:
                _write(to_image(p), temporary / f"probability_{names[channel]}.nii.gz")
        if labels.regions_class_order is None:
            _write(to_image(np.clip(entropy, 0, 1)), temporary / "entropy.nii.gz")
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    return target


def channels(path: Path, expected: tuple[int, ...]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Each channel as an array (*shape), clipped to [0, 1]."""
    with open_probabilities(path) as file:
        if file.shape != expected:
            raise InputError(
                f"{path}: expected probabilities of shape {expected}, got {file.shape}"
            )
        n_voxels = math.prod(expected[1:])
        # Channels lie one after the other, or, in Fortran order, side by side.
        together = expected[0] if file.fortran_order else 1
        arrays = np.empty((together, n_voxels), np.float32)
        for part in file.parts():
            row = arrays[part.channel % together]
            np.clip(part.p, 0, 1, out=row[part.start : part.stop], casting="same_kind")
            is_last = part.stop == n_voxels
            channel = part.channel
            part.release()
            if is_last:
                yield channel, row.reshape(expected[1:], order=file.order)


def surprise(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """-p log p, 0 where p is 0."""
    return -p * np.log(np.maximum(p, np.finfo(np.float32).tiny))


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


def _write(image: sitk.Image, path: Path) -> None:
    sitk.WriteImage(image, str(path), True)


def _file_name(name: str) -> str:
    """A class name without what file systems do not like."""
    return re.sub(r"[^\w.+-]+", "_", name)
