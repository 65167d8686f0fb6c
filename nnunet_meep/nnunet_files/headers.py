"""Checks of image headers: expected file size, valid label values, and matching voxel grids.

ITK reads truncated files without an error and makes up the missing voxels, and it reads NaN in a
NIfTI file as 0. Both would silently become background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.gunzip import gunzipped_size
from nnunet_meep.nnunet_files.paths import itk_path

_NIFTI = (".nii", ".nii.gz")
#: Formats whose header has the position of the voxels in space (spacing, origin, direction).
_WITH_GEOMETRY = (*_NIFTI, ".nrrd", ".mha", ".gipl")
_GIPL_HEADER = 256  # bytes
#: Fewer voxels than these are read in a moment, whatever they are.
MANY_VOXELS = 1 << 24

#: How far rounding in a header may move a corner, as a share of the image's diagonal. NIfTI headers
#: with the rotation only as a float32 quaternion were off by at most 3e-5 (2000 random ones).
_ROUNDING = 1e-4
#: An additional tolerance in mm, for formats that write the numbers as text.
_ROUNDING_MM = 1e-3


@dataclass(frozen=True)
class VoxelGrid:
    """The position of an image's voxels in space.

    Attributes:
        shape: number of voxels along each axis of the file, x first.
        affine: maps voxel indices to mm, (d + 1, d + 1) with d = len(shape).
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    @property
    def corners_mm(self) -> NDArray[np.float64]:
        """The outer corners of the image in mm, (d, 2**d): half a voxel beyond the centres."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        index = np.array([(*corner, 1) for corner in product(*ends)])
        corners: NDArray[np.float64] = self.affine @ index.T
        return corners[:-1]

    @property
    def tolerance_mm(self) -> float:
        """How far apart in mm the corners of equal grids may be because headers are rounded."""
        corners = self.corners_mm
        diagonal = float(np.linalg.norm(corners[:, -1] - corners[:, 0]))
        return _ROUNDING * diagonal + _ROUNDING_MM

    def distance_mm(self, other: VoxelGrid) -> float:
        """Largest distance between corresponding corners in mm; infinite if the shapes differ."""
        if self.shape != other.shape:
            return math.inf
        return float(np.linalg.norm(self.corners_mm - other.corners_mm, axis=0).max())

    def words(self) -> dict[str, str]:
        """Shape, spacing, origin and direction as text, for an error message."""
        axes = self.affine[:-1, :-1]
        spacing = np.linalg.norm(axes, axis=0)
        return {
            "shape": " x ".join(map(str, self.shape)),
            "spacing": f"{' x '.join(f'{mm:.6g}' for mm in spacing)} mm",
            "origin": f"({', '.join(f'{mm + 0.0:.6g}' for mm in self.affine[:-1, -1])}) mm",
            "direction": f"({' '.join(f'{c + 0.0:.3g}' for c in (axes / spacing).ravel())})",
        }


def refuse_other_grid(
    path: Path, found: VoxelGrid | None, reference: Path, expected: VoxelGrid | None
) -> None:
    """Refuse a file whose voxel grid differs from that of its case's reference segmentation.

    Args:
        path: the file.
        found: its grid; None if its format has none.
        reference: the reference segmentation.
        expected: its grid; None if its format has none.

    Raises:
        InputError: the grids differ by more than the rounding of headers explains.
    """
    if found is None or expected is None:
        return
    distance, tolerance = expected.distance_mm(found), expected.tolerance_mm
    if distance <= tolerance:
        return
    mine, other = expected.words(), found.words()
    differ = [
        f"{name} {mine[name]}, got {other[name]}" for name in mine if mine[name] != other[name]
    ]
    how_far = (
        ""
        if math.isinf(distance)
        else f"; their corners are up to {distance:.3g} mm apart, rounding of headers would be "
        f"{tolerance:.2g} mm"
    )
    raise InputError(
        f"{path}: expected the voxel grid of {reference}, {'; '.join(differ)}{how_far}; are these "
        f"files of the same image? If so, correct the header that is wrong"
    )


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI, judged by its name."""
    return path.name.endswith(_NIFTI)


def has_grid(path: Path) -> bool:
    """Whether the format of a file stores the position of its voxels, judged by its name."""
    return path.name.endswith(_WITH_GEOMETRY)


def read_grid(path: Path, reader: str | None) -> VoxelGrid | None:
    """The voxel grid of an image file; only the header is read.

    Args:
        path: the image.
        reader: name of nnU-Net's reader. For readers that reorient images, the grid after
            reorientation is returned, because that is the grid of the array they read.

    Returns:
        The grid, or None for formats without one.

    Raises:
        RuntimeError, nibabel's errors: the header cannot be read.
    """
    if not has_grid(path):
        return None
    # For nnU-Net's readers based on nibabel: SimpleITK refuses some oblique axes that they accept.
    by_nibabel = reader is not None and reader.startswith("Nibabel")
    grid = _grid_by_nibabel(path) if by_nibabel else _grid_by_itk(path)
    return _turned(grid) if reader is not None and reader.endswith("WithReorient") else grid


def _grid_by_nibabel(path: Path) -> VoxelGrid:
    import nibabel

    image: Any = nibabel.load(path)
    return VoxelGrid(tuple(image.shape), np.asarray(image.affine, np.float64))


def _grid_by_itk(path: Path) -> VoxelGrid:
    import SimpleITK

    header = SimpleITK.ImageFileReader()
    header.SetFileName(itk_path(path))
    header.ReadImageInformation()
    return grid_of(header)


def grid_of(image: Any) -> VoxelGrid:
    """The grid of a SimpleITK image, or of an ``ImageFileReader`` that has read a header."""
    n = image.GetDimension()
    affine = np.eye(n + 1)
    affine[:-1, :-1] = np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing()
    affine[:-1, -1] = image.GetOrigin()
    return VoxelGrid(tuple(image.GetSize()), affine)


def _turned(grid: VoxelGrid) -> VoxelGrid:
    """The grid after its axes are permuted and flipped to be closest to those of the patient."""
    from nibabel.orientations import inv_ornt_aff, io_orientation

    if len(grid.shape) != 3:
        return grid
    orientation = io_orientation(grid.affine)
    order = np.argsort(orientation[:, 0])
    shape = tuple(grid.shape[int(axis)] for axis in order)
    return VoxelGrid(shape, grid.affine @ inv_ornt_aff(orientation, grid.shape))


def refuse_many_more_voxels(path: Path, reader: str | None, n_expected: int) -> None:
    """Refuse a file that declares many more voxels than expected, before it is read.

    A few megabytes may declare, and inflate to, more than the memory holds. Files with a few more
    voxels than expected are refused later, when their shape is compared.

    Args:
        path: the file; formats without a grid are not checked.
        reader: name of nnU-Net's reader.
        n_expected: how many voxels it should have.

    Raises:
        InputError: it declares more than that and than :data:`MANY_VOXELS`.
        RuntimeError, nibabel's errors: the header cannot be read.
    """
    grid = read_grid(path, reader)
    if grid is not None and math.prod(grid.shape) > max(n_expected, MANY_VOXELS):
        raise InputError(
            f"{path}: expected {n_expected} voxels as in the probabilities, its header declares "
            f"{' x '.join(map(str, grid.shape))}"
        )


def refuse_short(path: Path) -> None:
    """Refuse a file that is shorter than its header requires.

    A ``.gz`` file is decompressed for this and its checksum is verified. ``.nrrd`` and ``.mha``
    files are not checked here, because ITK itself refuses those with too few voxels.

    Raises:
        InputError: the file is too short.
        OSError, EOFError, IsalError, nibabel's errors: the file is damaged.
    """
    found = gunzipped_size(path) if path.suffix == ".gz" else path.stat().st_size
    if is_nifti(path):
        import nibabel

        data: Any = nibabel.load(path).dataobj
        expected = data.offset + math.prod(data.shape) * data.dtype.itemsize
    elif path.suffix == ".gipl":
        expected = _GIPL_HEADER + _voxel_bytes_by_itk(path)
    else:
        return
    if found < expected:
        raise InputError(
            f"{path}: expected {expected} bytes, as its header says, got {found}: it is cut short"
        )


def _voxel_bytes_by_itk(path: Path) -> int:
    import SimpleITK

    header = SimpleITK.ImageFileReader()
    header.SetFileName(itk_path(path))
    header.ReadImageInformation()
    one = SimpleITK.Image([1] * header.GetDimension(), header.GetPixelID())
    size: tuple[int, ...] = header.GetSize()
    return math.prod(size) * int(one.GetSizeOfPixelComponent())


def refuse_invalid_labels(path: Path, array: NDArray[Any] | None = None) -> None:
    """Refuse a label map with values that are no labels: NaN, infinite, complex, or colours.

    Args:
        path: the file. NIfTI files are read here with nibabel, because ITK reads NaN as 0.
        array: the voxels as they were read; used only for other formats.

    Raises:
        InputError: the file has such values.
        nibabel's errors: the header cannot be read.
    """
    if is_nifti(path):
        import nibabel

        data: Any = nibabel.load(path).dataobj
        kind, array = data.dtype.kind, np.asanyarray(data) if data.dtype.kind == "f" else None
    elif array is None:
        return
    else:
        kind = array.dtype.kind
    if kind not in "buif":
        raise InputError(f"{path}: expected labels, found complex numbers or colours")
    if kind == "f" and array is not None and (n := array.size - int(np.isfinite(array).sum())):
        raise InputError(
            f"{path}: expected labels, found {n} voxel{'s' * (n != 1)} NaN or infinite"
        )


def spacing_of(spacing_xyz_mm: Sequence[float]) -> tuple[float, ...]:
    """Spacing in mm along the axes of the array, z first, as in nnU-Net."""
    return tuple(abs(float(mm)) for mm in reversed(spacing_xyz_mm))
