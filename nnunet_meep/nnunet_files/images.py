"""Images and segmentations, read and written with nnU-Net's own readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.cases import Dataset
from nnunet_meep.nnunet_files.headers import (
    VoxelGrid,
    grid_of,
    has_grid,
    is_nifti,
    read_grid,
    refuse_invalid_labels,
    refuse_many_more_voxels,
    refuse_short,
    spacing_of,
)
from nnunet_meep.nnunet_files.labels import UnknownLabels
from nnunet_meep.nnunet_files.paths import itk_path, refuse_no_file
from nnunet_meep.nnunet_files.writing import not_whole


@dataclass(frozen=True)
class LabelMap:
    """A segmentation as read from a file.

    Attributes:
        labels: label map (*shape) of any dtype, with the axes of nnU-Net's probabilities.
        spacing_mm: size of a voxel along each axis.
        grid: position of the voxels in space; None if the format does not store it.
    """

    labels: NDArray[Any]
    spacing_mm: tuple[float, ...]
    grid: VoxelGrid | None


def read_label_map(path: Path, dataset: Dataset, n_expected: int | None = None) -> LabelMap:
    """Read a segmentation as nnU-Net's reader for the data set does.

    Args:
        path: the file.
        dataset: gives the reader.
        n_expected: number of its voxels, if known: a file that declares many more is not read.

    Raises:
        InputError: the file cannot be read, is shorter than its header requires, has values that
            are no labels (NaN, infinite, complex, colours), or declares too many voxels.
    """
    refuse_no_file(path)
    with _errors_in_one_line(path, "a segmentation"):
        if n_expected is not None:
            refuse_many_more_voxels(path, dataset.reader, n_expected)
        refuse_short(path)
        refuse_invalid_labels(path)
    found = _read_by_itk(path) if dataset.reader == "SimpleITKIO" else None
    if found is None:
        array, properties = _read_label_map(path, dataset)
        spacing_mm = tuple(float(mm) for mm in properties["spacing"])
        with _errors_in_one_line(path, "a segmentation"):
            found = LabelMap(array, spacing_mm, read_grid(path, dataset.reader))
    if not is_nifti(path):
        refuse_invalid_labels(path, found.labels)
    return found


def _read_by_itk(path: Path) -> LabelMap | None:
    """The result of nnU-Net's ``SimpleITKIO`` without its float32 copy; None if not a 3D image."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    with _errors_in_one_line(path, "a segmentation"):
        image = SimpleITK.ReadImage(itk_path(path))
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        return None
    grid = grid_of(image) if has_grid(path) else None
    return LabelMap(SimpleITK.GetArrayFromImage(image), spacing_of(image.GetSpacing()), grid)


def write_label_map(label_map: NDArray[Any], path: Path, like: Path, dataset: Dataset) -> None:
    """Write a segmentation as nnU-Net does, in the geometry of another segmentation.

    Args:
        label_map: labels, with the axes of nnU-Net's probabilities.
        path: the new file.
        like: a segmentation of the same shape, whose geometry is copied.
        dataset: gives the reader.

    Raises:
        InputError: ``like`` cannot be read, or has a different shape.
        OSError: the file cannot be written; it is read again, as not every library notices that.
    """
    old, properties = _read_label_map(like, dataset)
    if old.shape != label_map.shape:
        raise InputError(
            f"{like}: expected a segmentation of shape {label_map.shape} like its probabilities, "
            f"got {old.shape}"
        )
    del old
    name = itk_path(path)
    try:
        _reader(like, dataset).write_seg(label_map, name, properties)
        written, _ = _read_label_map(path, dataset)
    except (RuntimeError, InputError) as error:
        raise not_whole(path) from error
    if not np.array_equal(written, label_map):
        raise not_whole(path)


def _read_label_map(path: Path, dataset: Dataset) -> tuple[NDArray[Any], dict[str, Any]]:
    array, properties = _read(path, dataset, "segmentation", lambda reader: reader.read_seg)
    if len(array) != 1:
        raise InputError(f"{path}: expected one label map, got {len(array)} in one file")
    return array[0], properties


def read_image(path: Path, dataset: Dataset) -> NDArray[Any]:
    """Read an image (its first channel), with the axes of nnU-Net's probabilities.

    Raises:
        InputError: the image cannot be read.
    """
    array, _ = _read(path, dataset, "image", lambda reader: lambda p: reader.read_images([p]))
    first: NDArray[Any] = array[0]
    return first


def _read(
    path: Path, dataset: Dataset, what: str, how: Callable[[Any], Callable[[str], Any]]
) -> tuple[NDArray[Any], dict[str, Any]]:
    reader = _reader(path, dataset)
    with _errors_in_one_line(path, f"{'an' if what == 'image' else 'a'} {what}"):
        refuse_short(path)
        read: tuple[NDArray[Any], dict[str, Any]] = how(reader)(itk_path(path))
        return read


@contextmanager
def _errors_in_one_line(path: Path, what: str) -> Iterator[None]:
    """Turn any exception of a library into an :class:`InputError` of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # nnU-Net's readers raise whatever their libraries raise
        raise InputError(
            f"{path}: expected {what}, could not read it: {_first_line(str(error))}"
        ) from None


def _reader(path: Path, dataset: Dataset) -> Any:
    """nnU-Net's reader and writer named in the plans, or else the one it uses for such a file."""
    import SimpleITK
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
    from nnunetv2.imageio.reader_writer_registry import (
        determine_reader_writer_from_dataset_json,
        recursive_find_reader_writer_by_name,
    )

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        if dataset.reader is None:
            reader = determine_reader_writer_from_dataset_json(
                dataset.dataset_json, itk_path(path), verbose=False
            )
        else:
            reader = recursive_find_reader_writer_by_name(dataset.reader)
        # It finds whatever has that name in one of its modules, such as os.
        if not issubclass(reader, BaseReaderWriter):
            raise TypeError
        return reader()  # TypeError if it is the abstract class
    except (RuntimeError, AssertionError, TypeError):
        named = f"plans.json names {dataset.reader}" if dataset.reader else "its ending has none"
        raise InputError(f"{path}: expected one of nnU-Net's readers for it, {named}") from None


def _first_line(text: str) -> str:
    """The first line of an error, but for the place in C++ with which SimpleITK begins."""
    lines: Iterable[str] = (line.strip() for line in text.splitlines())
    said = (line for line in lines if line and not line.startswith("Exception thrown in SimpleITK"))
    return next(said, "no reason given")


def read_codes(
    path: Path, dataset: Dataset, n_expected: int | None = None
) -> tuple[NDArray[np.unsignedinteger], tuple[float, ...], VoxelGrid | None]:
    """Read a segmentation as codes.

    Args:
        path, dataset, n_expected: as for :func:`read_label_map`.

    Returns:
        Codes of the labels (see ``Labels.encode``), (*shape); voxel size in mm along each axis;
        grid, None if the format has none.

    Raises:
        InputError: the file cannot be read, or has labels that are not in ``dataset.json``.
    """
    label_map = read_label_map(path, dataset, n_expected)
    labels = dataset.labels
    try:
        return labels.encode(label_map.labels), label_map.spacing_mm, label_map.grid
    except UnknownLabels as error:
        known = [*labels.values, *([labels.ignore_label] if labels.ignore_label else [])]
        found = ", ".join(f"{v:g}" for v in error.args[0][:10])
        raise InputError(
            f"{path}: expected the labels of dataset.json, {known}, found also {found}"
        ) from None
