"""Reads the images of a scan and checks them.

No file may be truncated, all images must have real and finite values, the labels must be known, and
all parts of a scan must have the same geometry.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_meep.datasets.raw_folder import Scan, shown
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.gunzip import GUNZIP_ERRORS, gunzipped_size
from nnunet_meep.nnunet_files.paths import itk_path

# Headers that differ by at most this, in mm or in a direction cosine, are taken as equal: float32
# and text are rounded differently.
TOLERANCE = 1e-3


def read_scan(
    scan: Scan, labels: Collection[int], *, n_channels: int = 1, to_do: str = ""
) -> tuple[list[sitk.Image], sitk.Image]:
    """Read the channels and the mask of a scan unchanged, and check that they belong together.

    Args:
        scan: its files, NRRD or NIfTI.
        labels: the values that the mask may have.
        n_channels: how many channels each file of the images has; several are the 4th axis.
        to_do: what to do where the mask has other labels, for the end of the message.

    Returns:
        The channels and the mask, each 3D. Their geometries differ by no more than ``TOLERANCE``.

    Raises:
        InputError: one line for each problem with the scan.
    """
    problems = []
    read: dict[Path, sitk.Image] = {}
    for path in (*scan.channels, scan.mask):
        try:
            read[path] = read_volume(path, 1 if path == scan.mask else n_channels)
        except InputError as error:
            problems.append(str(error))
    for path, image in read.items():
        problems += not_finite(image, path, "mask" if path == scan.mask else "image")
    if scan.mask in read:
        values = np.unique(sitk.GetArrayViewFromImage(read[scan.mask])).tolist()
        if unknown := [v for v in values if v not in labels]:
            are_labels = all(v > 0 and v == int(v) for v in unknown)
            problems.append(
                f"{scan.mask}: expected only the labels {shown(sorted(labels))}, found "
                f"{shown([str(v).removesuffix('.0') for v in unknown])}"
                f"{f'; {to_do}' if to_do and are_labels else ''}"
            )
    volumes = {path: _channels(image) for path, image in read.items()}
    first, *others = scan.channels
    if first in volumes:
        of = first.name.removesuffix(".nii.gz") if others else "image"
        for path in (*others, scan.mask):
            if path in volumes:
                what = "mask" if path == scan.mask else path.name.removesuffix(".nii.gz")
                problems += differences(volumes[first][0], volumes[path][0], path, what, of)
    if problems:
        raise InputError(*problems)
    return [volume for path in scan.channels for volume in volumes[path]], volumes[scan.mask][0]


def recoded(mask: sitk.Image, become: Mapping[int, int], reference: sitk.Image) -> sitk.Image:
    """A mask with other labels, in the geometry of another image.

    Args:
        mask: has no labels but those in ``become``.
        become: {label: new label}.
        reference: an image of the same shape, for example the first channel.

    Returns:
        uint8, or the smallest unsigned type that holds the new labels.
    """
    labels = sitk.GetArrayViewFromImage(mask)
    new = np.zeros(labels.shape, np.min_scalar_type(max(become.values())))
    for old, label in become.items():
        new[labels == old] = label
    image = sitk.GetImageFromArray(new)
    image.CopyInformation(reference)
    return image


def read_volume(path: Path, n_channels: int = 1) -> sitk.Image:
    """Read a NRRD or NIfTI file with 3D volumes of real numbers: one, or several as 4th axis.

    Args:
        path: the file.
        n_channels: how many volumes it has.

    Returns:
        The image: 3D if ``n_channels`` is 1, else 4D.

    Raises:
        InputError: the file is truncated or damaged, or has other content.
    """
    try:
        # ITK silently reads a truncated .nii.gz and makes up the missing voxels.
        n_bytes = gunzipped_size(path) if path.name.endswith(".nii.gz") else None
        image = sitk.ReadImage(itk_path(path))
    except (*GUNZIP_ERRORS, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{path}: cannot be read ({reason})") from error
    if n_bytes is not None:
        n_voxel_bytes = math.prod(image.GetSize()) * int(image.GetMetaData("bitpix")) // 8
        if n_bytes < float(image.GetMetaData("vox_offset")) + n_voxel_bytes:
            raise InputError(f"{path}: cannot be read (cut short before it was compressed)")
    kind = sitk.GetArrayViewFromImage(image).dtype.kind
    if n_channels == 1:
        expected, found = "a 3D volume", f"{image.GetDimension()}D"
        fits = image.GetDimension() == 3
    else:
        expected, found = f"a 4D volume with {n_channels} channels", f"shape {image.GetSize()}"
        fits = image.GetSize()[3:] == (n_channels,)
    if not fits or image.GetNumberOfComponentsPerPixel() != 1 or kind not in "uif":
        raise InputError(
            f"{path}: expected {expected} of real numbers, found {found}, "
            f"{image.GetPixelIDTypeAsString()}"
        )
    return image


def not_finite(image: sitk.Image, path: Path, what: str = "image") -> list[str]:
    """A problem, one line, if any voxels are NaN or infinite; else an empty list.

    Args:
        image: as read from ``path``.
        path: the file.
        what: what to call it in the message.
    """
    array = sitk.GetArrayViewFromImage(image)
    if path.name.endswith(".nii.gz") and array.dtype.kind == "f":
        import nibabel  # because ITK silently reads NaN in a NIfTI file as 0

        array = np.asanyarray(nibabel.load(path).dataobj)
    bad = np.count_nonzero(~np.isfinite(array))
    return [f"{path}: {bad} voxels of the {what} are NaN or infinite"] if bad else []


def differences(
    image: sitk.Image, other: sitk.Image, path: Path, what: str = "mask", of: str = "image"
) -> list[str]:
    """Differences in geometry between two images of a scan, one line each.

    Args:
        image: the first image of the scan.
        other: the image or mask to compare with it.
        path: the file of ``other``.
        what, of: what to call ``other`` and ``image`` in the message.
    """
    if image.GetSize() != other.GetSize():
        return [f"{path}: the {what}'s shape is {other.GetSize()}, the {of}'s {image.GetSize()}"]
    return [
        f"{path}: the {what}'s {name} is {theirs}, the {of}'s {mine}"
        for name, mine, theirs in (
            ("spacing", image.GetSpacing(), other.GetSpacing()),
            ("origin", image.GetOrigin(), other.GetOrigin()),
            ("direction", image.GetDirection(), other.GetDirection()),
        )
        if not np.allclose(mine, theirs, rtol=0, atol=TOLERANCE)
    ]


def _channels(image: sitk.Image) -> list[sitk.Image]:
    """The 3D volumes of an image: itself, or those along its 4th axis."""
    if image.GetDimension() == 3:
        return [image]
    *size, n_channels = image.GetSize()
    submatrix = sitk.ExtractImageFilter.DIRECTIONCOLLAPSETOSUBMATRIX
    return [sitk.Extract(image, [*size, 0], [0, 0, 0, i], submatrix) for i in range(n_channels)]
