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
from dataclasses import dataclass
from pathlib import Path

from nnunet_meep.errors import InputError

_FORMS = "image, crop, boundary:MM or mask:FOLDER"


@dataclass(frozen=True)
class Roi:
    """A choice of voxels.

    Attributes:
        name: as it was asked for, and as it stands in every output.
        margin_mm: of ``boundary:MM``.
        mask_folder: of ``mask:FOLDER``.
        without_padding: leave out what nnU-Net padded back; where that is, only the probabilities
            say.
    """

    name: str
    margin_mm: float | None = None
    mask_folder: Path | None = None
    without_padding: bool = False

    @property
    def counted_as(self) -> str:
        """The roi whose voxels are counted: for ``crop`` the image, less its padding."""
        return "image" if self.name == "crop" else self.name

    def mask_path(self, case: str, file_ending: str) -> Path | None:
        """The file that says where a case counts, if the ROI takes one."""
        return self.mask_folder and self.mask_folder / f"{case}{file_ending}"


def parse_roi(name: str) -> Roi:
    """An ROI from its name.

    Raises:
        InputError: it is not one of the four forms, or the folder is not there.
    """
    kind, colon, value = name.partition(":")
    if kind in ("image", "crop") and not colon:
        return Roi(name, without_padding=kind == "crop")
    if kind == "boundary":
        try:
            margin = float(value)
        except ValueError:
            margin = math.nan
        if not 0 <= margin < math.inf:
            raise InputError(
                f"{name}: expected a distance in mm, for example boundary:5, got {value!r}"
            )
        return Roi(name, margin_mm=margin)
    if kind == "mask" and value:
        if not Path(value).is_dir():
            raise InputError(f"{name}: expected a folder of masks, found none")
        return Roi(name, mask_folder=Path(value))
    raise InputError(f"{name}: expected an ROI ({_FORMS})")


def describe(roi: str) -> str:
    """An ROI in words, for people."""
    kind, _, value = roi.partition(":")
    return {
        "image": "whole images",
        "crop": "without nnU-Net's padding (crop)",
        "boundary": f"within {value} mm of the reference surface ({roi})",
        "mask": f"inside the masks of {value}",
    }[kind]
