"""Reads the label maps of a case (reference, segmentation, masks) and checks that they match.

All commands use these checks: each file must be complete, have the labels of ``dataset.json``, and
lie on the voxel grid of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.evaluation.counting.surface import bounding_box
from nnunet_meep.nnunet_files.cases import Case, Dataset, n_voxels_of
from nnunet_meep.nnunet_files.headers import VoxelGrid, refuse_other_grid
from nnunet_meep.nnunet_files.images import read_codes, read_label_map
from nnunet_meep.nnunet_files.labels import Labels

#: The segmentation from which Dice, volumes and distances are computed: the file, if there is one,
#: or the labels that follow from the probabilities by nnU-Net's rule.
FILE, ARGMAX = "file", "argmax"

_PIECE = 1 << 20  # bytes decompressed at a time


@dataclass(frozen=True)
class Reference:
    """The label maps of a case as codes (``Labels.encode``), with the axes of the probabilities.

    Attributes:
        codes: the reference segmentation, (*shape).
        restricted: {name of an ROI: ``codes``, with ``ignored_code`` outside of the ROI}.
            ``image`` and ``crop`` are not in it; both are counted over the whole image.
        spacing_mm: size of a voxel along each axis of ``shape``.
        segmentation: the predicted segmentation, packed; None if there is no file.
    """

    codes: NDArray[np.unsignedinteger]
    restricted: dict[str, NDArray[np.unsignedinteger]]
    spacing_mm: tuple[float, ...]
    segmentation: PackedCodes | None

    def mask(self, labels: Labels, class_index: int) -> NDArray[np.bool_]:
        """Where the reference has a class, (*shape)."""
        codes = (labels.values.index(label) for label in labels.members(class_index))
        # A comparison is faster than looking each voxel up in a table.
        return reduce(np.logical_or, (self.codes == code for code in codes))

    def codes_of(self, rois: Sequence[Roi]) -> dict[str, NDArray[np.unsignedinteger]]:
        """The codes to count for some ROIs: {``Roi.counted_as``: codes (*shape)}."""
        names = {r.counted_as for r in rois}
        return {name: self.restricted.get(name, self.codes) for name in sorted(names)}

    def packed(self) -> PackedReference:
        """The same for another process, which costs less than writing and reading a file."""
        return PackedReference(
            PackedCodes.of(self.codes),
            {name: PackedCodes.of(codes) for name, codes in self.restricted.items()},
            self.spacing_mm,
            self.segmentation,
        )


@dataclass(frozen=True)
class PackedCodes:
    """A compressed label map. Most of them shrink to about 1 %, as neighbours have the same label.

    Attributes:
        data: a zlib stream.
        shape, dtype: of the label map.
    """

    data: bytes
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, codes: NDArray[np.unsignedinteger]) -> PackedCodes:
        """Compress a label map."""
        return cls(
            isal_zlib.compress(np.ascontiguousarray(codes), 1), codes.shape, str(codes.dtype)
        )

    def unpacked(self) -> NDArray[np.unsignedinteger]:
        """The label map, (*shape)."""
        codes = np.empty(math.prod(self.shape), self.dtype)
        target, done = codes.view(np.uint8).data, 0
        stream, data = isal_zlib.decompressobj(), self.data
        while done < len(target):
            piece = stream.decompress(data, _PIECE)
            data = stream.unconsumed_tail
            target[done : done + len(piece)] = piece
            done += len(piece)
        return codes.reshape(self.shape)


@dataclass(frozen=True)
class PackedReference:
    """A :class:`Reference` with compressed label maps."""

    codes: PackedCodes
    restricted: dict[str, PackedCodes]
    spacing_mm: tuple[float, ...]
    segmentation: PackedCodes | None

    def unpacked(self) -> Reference:
        """The reference."""
        restricted = {name: packed.unpacked() for name, packed in self.restricted.items()}
        return Reference(self.codes.unpacked(), restricted, self.spacing_mm, self.segmentation)


def read_reference(case: Case, dataset: Dataset, rois: Sequence[Roi]) -> Reference:
    """Read the reference of a case, its predicted segmentation, and the masks of the ROIs.

    Raises:
        InputError: a file cannot be read, has invalid content, or does not match the reference.
    """
    n_expected = n_voxels_of(case.probabilities)
    codes, spacing_mm, grid = read_codes(case.reference, dataset, n_expected)
    segmentation = None
    if case.segmentation is not None:
        predicted, its_spacing_mm, its_grid = read_codes(case.segmentation, dataset, codes.size)
        refuse_other_grid(case.segmentation, its_grid, case.reference, grid)
        # Formats without a grid may still have a spacing, in a file beside the image.
        if its_grid is None and not np.allclose(its_spacing_mm, spacing_mm, rtol=1e-3):
            raise InputError(
                f"{case.segmentation}: expected voxels of {spacing_mm} mm like {case.reference}, "
                f"got {its_spacing_mm}"
            )
        _refuse_segmentation(case.segmentation, predicted, case, dataset, codes.shape)
        segmentation = PackedCodes.of(predicted)  # it may go to another process
        del predicted
    restricted = {}
    for roi in rois:
        inside = _inside(roi, case, dataset, codes, spacing_mm, grid)
        if inside is not None:
            restricted[roi.name] = np.where(
                inside, codes, codes.dtype.type(dataset.labels.ignored_code)
            )
    return Reference(codes, restricted, spacing_mm, segmentation)


def _refuse_segmentation(
    path: Path,
    codes: NDArray[np.unsignedinteger],
    case: Case,
    dataset: Dataset,
    shape: tuple[int, ...],
) -> None:
    """Refuse a segmentation that cannot be a prediction of the case."""
    if codes.shape != shape:
        raise InputError(
            f"{path}: expected a segmentation of shape {shape} like {case.reference}, got "
            f"{codes.shape}"
        )
    if dataset.labels.ignore_label is not None and (codes == dataset.labels.ignored_code).any():
        raise InputError(
            f"{path}: expected a prediction, found the ignore label "
            f"{dataset.labels.ignore_label}, which no network predicts"
        )


def _inside(
    roi: Roi,
    case: Case,
    dataset: Dataset,
    codes: NDArray[np.unsignedinteger],
    spacing_mm: Sequence[float],
    grid: VoxelGrid | None,
) -> NDArray[Any] | None:
    """Mask of an ROI, (*shape); None for ``image``, and for ``crop``, which needs the npz."""
    if roi.margin_mm is not None:
        return near_surface(codes, dataset.labels, roi.margin_mm, spacing_mm)
    path = roi.mask_path(case.name, dataset.file_ending)
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"{path}: expected a mask for {case.name}, found none ({roi.name})")
    mask = read_label_map(path, dataset, codes.size)
    refuse_other_grid(path, mask.grid, case.reference, grid)
    if mask.labels.shape != codes.shape:
        raise InputError(
            f"{path}: expected a mask of shape {codes.shape} like {case.reference.name}, got "
            f"{mask.labels.shape}"
        )
    inside: NDArray[np.bool_] = mask.labels != 0
    return inside


def near_surface(
    codes: NDArray[np.unsignedinteger],
    labels: Labels,
    margin_mm: float,
    spacing_mm: Sequence[float],
) -> NDArray[np.bool_]:
    """Mask of the voxels within ``margin_mm`` of a surface voxel of any class, (*shape)."""
    import SimpleITK

    surface = _surface_of_any_class(codes, labels)
    near = np.zeros_like(surface)
    box = bounding_box(surface)
    if box is None:
        return near
    # No voxel outside the bounding box plus the margin can be near.
    pads = [math.ceil(margin_mm / mm) for mm in spacing_mm]
    box = tuple(slice(max(s.start - n, 0), s.stop + n) for s, n in zip(box, pads, strict=True))
    image = SimpleITK.GetImageFromArray(surface[box].astype(np.uint8))
    image.SetSpacing([float(s) for s in reversed(spacing_mm)])
    distance = SimpleITK.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    # The filter computes in float32, so allow for its rounding.
    near[box] = SimpleITK.GetArrayViewFromImage(distance) <= margin_mm * (1 + 1e-6)
    return near


def _surface_of_any_class(codes: NDArray[np.unsignedinteger], labels: Labels) -> NDArray[np.bool_]:
    """The union of ``surface_voxels`` of all classes, (*shape), in one pass for all of them."""
    member = np.array(
        [labels.y_of_code(labels.members(i)) == 1 for i in range(len(labels.classes))]
    )
    # on_surface[a, b]: a voxel of code a with a neighbour of code b is on a surface, because it
    # belongs to a class that the neighbour does not belong to. Beyond the edge of the image there
    # is no class, as with the code ``ignored_code``.
    on_surface = (member[:, :, None] & ~member[:, None, :]).any(axis=0)
    surface = np.zeros(codes.shape, np.bool_)
    beyond = np.full(codes.shape[1:], labels.ignored_code, codes.dtype)
    for i, here in enumerate(codes):
        neighbours = []
        if len(codes) > 1:
            neighbours += [codes[i - 1] if i else beyond]
            neighbours += [codes[i + 1] if i + 1 < len(codes) else beyond]
        for axis, n in enumerate(here.shape):
            if n > 1:
                edge = beyond.take([0], axis)
                before, after = np.split(here, [n - 1], axis)[0], np.split(here, [1], axis)[1]
                neighbours += [np.concatenate([edge, before], axis)]
                neighbours += [np.concatenate([after, edge], axis)]
        for neighbour in neighbours:
            surface[i] |= on_surface[here, neighbour]
    return surface
