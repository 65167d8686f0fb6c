"""Which voxels of a case count: the whole image, or a part of it.

- ``image``: all voxels (the paper's setting).
- ``crop``: the bounding box of what is not nnU-Net's padding. Outside the non-zero crop on which it
  predicted, nnU-Net writes a background probability of exactly 1 and all others exactly 0.
- ``boundary:MM``: within MM millimetres of the reference surface, that is of the nearest surface
  voxel of any class.
- ``mask:FOLDER``: where the label map ``FOLDER/CASE<file_ending>`` is not 0.

Voxels with the ignore label never count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.cases import Case, Dataset, read_label_map
from nnunet_meep.evaluation.labels import Labels
from nnunet_meep.evaluation.surface import bounding_box, surface_voxels

_FORMS = "image, crop, boundary:MM or mask:FOLDER"


@dataclass(frozen=True)
class Region:
    """A choice of voxels.

    Attributes:
        name: as it was asked for, and as it stands in every output.
        margin_mm: of ``boundary:MM``.
        mask_folder: of ``mask:FOLDER``.
    """

    name: str
    margin_mm: float | None = None
    mask_folder: Path | None = None


def parse_region(name: str) -> Region:
    """A region from its name.

    Raises:
        InputError: it is not one of the four forms, or the folder is not there.
    """
    kind, colon, value = name.partition(":")
    if kind in ("image", "crop") and not colon:
        return Region(name)
    if kind == "boundary":
        try:
            margin = float(value)
        except ValueError:
            margin = math.nan
        if not 0 <= margin < math.inf:
            raise InputError(
                f"{name}: expected a distance in mm, for example boundary:5, got {value!r}"
            )
        return Region(name, margin_mm=margin)
    if kind == "mask" and value:
        if not Path(value).is_dir():
            raise InputError(f"{name}: expected a folder of masks, found none")
        return Region(name, mask_folder=Path(value))
    raise InputError(f"{name}: expected a region {_FORMS}")


def mask_path(region: Region, case: Case, dataset: Dataset) -> Path | None:
    """The file that says where a case counts, if the region takes one."""
    if region.mask_folder is None:
        return None
    return region.mask_folder / f"{case.name}{dataset.file_ending}"


def restrict(
    codes: NDArray[np.unsignedinteger],
    region: Region,
    case: Case,
    dataset: Dataset,
    spacing_mm: Sequence[float],
) -> NDArray[np.unsignedinteger]:
    """The codes of a reference (``Labels.encode``) with what lies outside of a region ``nowhere``.

    For ``crop`` it is all of them: where that is, only the probabilities say.

    Raises:
        InputError: a mask is missing, cannot be read, or has another shape.
    """
    inside: NDArray[Any]
    if region.margin_mm is not None:
        inside = near_surface(codes, dataset.labels, region.margin_mm, spacing_mm)
    elif (path := mask_path(region, case, dataset)) is not None:
        if not path.is_file():
            raise InputError(f"{path}: expected a mask for {case.name}, found none ({region.name})")
        mask, _ = read_label_map(path, dataset)
        if mask.shape != codes.shape:
            raise InputError(
                f"{path}: expected a mask of shape {codes.shape} like {case.reference.name}, got "
                f"{mask.shape}"
            )
        inside = mask != 0
    else:
        return codes
    return np.where(inside, codes, codes.dtype.type(dataset.labels.nowhere))


def near_surface(
    codes: NDArray[np.unsignedinteger],
    labels: Labels,
    margin_mm: float,
    spacing_mm: Sequence[float],
) -> NDArray[np.bool_]:
    """Voxels within some distance of a surface voxel of any class, (*shape)."""
    import SimpleITK

    surface = np.zeros(codes.shape, np.bool_)
    for i in range(len(labels.classes)):
        surface |= surface_voxels(labels.y_of_code(labels.members(i))[codes] == 1)
    near = np.zeros_like(surface)
    box = bounding_box(surface)
    if box is None:
        return near
    # Nothing matters beyond the bounding box and the margin.
    pads = [math.ceil(margin_mm / mm) for mm in spacing_mm]
    box = tuple(slice(max(s.start - n, 0), s.stop + n) for s, n in zip(box, pads, strict=True))
    image = SimpleITK.GetImageFromArray(surface[box].astype(np.uint8))
    image.SetSpacing([float(s) for s in reversed(spacing_mm)])
    distance = SimpleITK.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    # The filter computes in float32.
    near[box] = SimpleITK.GetArrayViewFromImage(distance) <= margin_mm * (1 + 1e-6)
    return near
