"""Regions of interest (ROIs): which voxels of a case are evaluated.

- ``image``: all voxels (the paper's setting).
- ``crop``: the bounding box of the voxels that nnU-Net predicted. It predicts only a crop to the
  non-zero part of the image; outside it pads with background probability 1 and all others 0.
- ``boundary:MM``: voxels within MM millimetres of a surface voxel of any class in the reference.
- ``mask:FOLDER``: voxels where the label map ``FOLDER/CASE<file_ending>`` is not 0.

Voxels with the ignore label are always left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from nnunet_meep.errors import InputError, is_meant

#: What a name may begin with, before a colon.
KINDS = ("image", "crop", "boundary", "mask")
_FORMS = "image, crop, boundary:MM or mask:FOLDER"


@dataclass(frozen=True)
class Roi:
    """A region of interest.

    Attributes:
        name: as given by the user; also used in every output.
        margin_mm: MM of ``boundary:MM``, else None.
        mask_folder: FOLDER of ``mask:FOLDER``, else None.
        without_padding: leave out nnU-Net's padding (``crop``). Where the padding is can be seen
            only from the probabilities.
    """

    name: str
    margin_mm: float | None = None
    mask_folder: Path | None = None
    without_padding: bool = False

    @property
    def counted_as(self) -> str:
        """Name of the ROI to count; ``image`` for ``crop``, whose padding is subtracted later."""
        return "image" if self.name == "crop" else self.name

    def mask_path(self, case: str, file_ending: str) -> Path | None:
        """The mask of a case; None if the ROI is not ``mask:FOLDER``."""
        return self.mask_folder and self.mask_folder / f"{case}{file_ending}"


def parse_roi(name: str) -> Roi:
    """The ROI with a given name.

    Raises:
        InputError: the name has none of the four forms, or the folder does not exist.
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
    meant = is_meant(kind, KINDS) if kind not in KINDS else ""
    raise InputError(f"{name}: {meant}expected an ROI ({_FORMS})")


def describe(roi: str) -> str:
    """A readable description of an ROI, given its name."""
    kind, _, value = roi.partition(":")
    return {
        "image": "whole images",
        "crop": "without nnU-Net's padding (crop)",
        "boundary": f"within {value} mm of the reference surface ({roi})",
        "mask": f"inside the masks of {value}",
    }[kind]
