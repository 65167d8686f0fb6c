"""Cases: pair the files of two folders, read them, refuse what would give a wrong number.

Files are nnU-Net's: ``CASE.npz`` with one array ``probabilities`` of shape (C, *shape) as
``nnUNetv2_predict --save_probabilities`` and ``nnUNetv2_train --npz`` write it, and the reference
``CASE<file_ending>``, read with nnU-Net's own reader, so that both have the same axes.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.labels import Labels, read_labels
from nnunet_meep.gunzip import gunzipped_size

#: A probability may leave [0, 1] by this much (rounding); it is clipped.
RANGE_TOLERANCE = 1e-3
#: The probabilities of a voxel may miss the sum of one by this much.
SUM_TOLERANCE = {"float16": 2e-2, "float32": 1e-3, "float64": 1e-3}


@dataclass(frozen=True)
class Dataset:
    """What ``dataset.json`` and ``plans.json`` say about a folder of predictions."""

    labels: Labels
    file_ending: str
    reader: str | None  # name of nnU-Net's reader class; None: nnU-Net picks it by the file
    dataset_json: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One pair of files."""

    name: str
    reference: Path
    probabilities: Path


@dataclass(frozen=True)
class CaseFolder:
    """The cases of a folder in the order of their names, and what does not pair up.

    Attributes:
        cases: reference and probabilities are both there.
        broken: (case name, one line that says what is wrong with its files).
        not_predicted: names of references without any prediction file.
    """

    cases: list[Case]
    broken: list[tuple[str, str]]
    not_predicted: list[str]


@dataclass(frozen=True)
class CaseData:
    """The voxels of one case.

    Attributes:
        probabilities: (C, *shape), floating, finite, within [0, 1].
        reference: (*shape), label map.
        spacing_mm: size of a voxel along each axis of ``shape``.
    """

    probabilities: NDArray[np.floating]
    reference: NDArray[Any]
    spacing_mm: tuple[float, ...]


def read_dataset(
    pred_folder: Path, dataset_json: Path | None = None, plans_json: Path | None = None
) -> Dataset:
    """Labels, file ending and reader of a folder of predictions.

    Files that are not given are looked for in ``pred_folder``, where ``nnUNetv2_predict`` puts
    them, and two folders up, where they are for ``fold_0/validation``.

    Raises:
        InputError: a file is not found, not JSON, or without what is needed.
    """
    if not pred_folder.is_dir():
        raise InputError(f"{pred_folder}: expected a folder of predictions, found none")
    dataset_path = _find_json(pred_folder, dataset_json, "dataset.json", "-djfile")
    plans_path = _find_json(pred_folder, plans_json, "plans.json", "-pfile")
    dataset, plans = _load_json(dataset_path), _load_json(plans_path)
    file_ending = dataset.get("file_ending")
    if not isinstance(file_ending, str) or not file_ending.startswith("."):
        raise InputError(
            f'{dataset_path}: expected "file_ending", for example ".nii.gz", got {file_ending!r}'
        )
    reader = plans.get("image_reader_writer")
    if not isinstance(reader, str | None):
        raise InputError(
            f'{plans_path}: expected "image_reader_writer" with the name of one of nnU-Net\'s '
            f"readers, got {reader!r}"
        )
    return Dataset(
        labels=read_labels(dataset, dataset_path),
        file_ending=file_ending,
        reader=reader,
        dataset_json=dataset,
    )


def find_cases(gt_folder: Path, pred_folder: Path, file_ending: str) -> CaseFolder:
    """Pair references and predictions by name.

    Raises:
        InputError: a folder is missing, or there are no probabilities in it at all.
    """
    if not gt_folder.is_dir():
        raise InputError(f"{gt_folder}: expected a folder of reference segmentations, found none")
    references = _names(gt_folder, file_ending)
    segmentations = _names(pred_folder, file_ending)
    probabilities = _names(pred_folder, ".npz")
    if not probabilities:
        raise InputError(
            f"{pred_folder}: expected CASE.npz files with probabilities, found none beside "
            f"{len(segmentations)} segmentations ({file_ending}); predict with "
            f"--save_probabilities (or train with --npz)"
        )
    cases, broken = [], []
    for name in sorted(segmentations | probabilities):
        reference = gt_folder / f"{name}{file_ending}"
        npz = pred_folder / f"{name}.npz"
        if name not in probabilities:
            broken.append(
                (
                    name,
                    f"{pred_folder / (name + file_ending)}: expected {npz.name} with its "
                    f"probabilities beside it, found none; predict with --save_probabilities "
                    f"(or train with --npz)",
                )
            )
        elif name not in references:
            broken.append((name, f"{npz}: expected a reference {reference}, found none"))
        else:
            cases.append(Case(name, reference, npz))
    not_predicted = sorted(references - probabilities - segmentations)
    return CaseFolder(cases, broken, not_predicted)


def read_case(case: Case, dataset: Dataset) -> CaseData:
    """Read and check one case.

    Raises:
        InputError: a file cannot be read, or its values cannot be what they should be; the line
            names the file, what was expected and what came.
    """
    probabilities = _read_probabilities(case.probabilities)
    reference, spacing_mm = _read_reference(case.reference, dataset)
    expected = (dataset.labels.n_channels, *reference.shape)
    if probabilities.shape != expected:
        raise InputError(
            f"{case.probabilities}: expected probabilities of shape {expected} (classes or "
            f"regions of dataset.json, then the axes of {case.reference.name}), got "
            f"{probabilities.shape}"
        )
    probabilities = _check_probabilities(
        probabilities, case.probabilities, softmax=dataset.labels.regions_class_order is None
    )
    known = dataset.labels.values
    if dataset.labels.ignore_label is not None:
        known = (*known, dataset.labels.ignore_label)
    found = np.unique(reference)
    if unknown := [f"{v:g}" for v in found if v not in known]:
        raise InputError(
            f"{case.reference}: expected the labels of dataset.json, {list(known)}, found also "
            f"{', '.join(unknown[:10])}"
        )
    return CaseData(probabilities, reference, spacing_mm)


def _find_json(pred_folder: Path, given: Path | None, name: str, flag: str) -> Path:
    candidates = [given] if given else [pred_folder / name, pred_folder / ".." / ".." / name]
    for path in candidates:
        if path.is_file():
            return path
    if given:
        raise InputError(f"{given}: expected nnU-Net's {name}, found no file ({flag})")
    raise InputError(
        f"{pred_folder}: expected {name} in it or two folders up, found none; give it with {flag}"
    )


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _names(folder: Path, ending: str) -> set[str]:
    return {
        p.name.removesuffix(ending)
        for p in folder.iterdir()
        if p.name.endswith(ending) and not p.name.startswith(".")
    }


def _read_probabilities(path: Path) -> NDArray[np.floating]:
    try:
        # Opened here, because np.load leaves a file open that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if archive.files != ["probabilities"]:
                raise InputError(
                    f'{path}: expected one array "probabilities" as nnU-Net writes it, found '
                    f"{archive.files}"
                )
            array = archive["probabilities"]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, AttributeError) as error:
        # AttributeError: a bare .npy under the name .npz. ValueError: pickled objects.
        raise InputError(
            f"{path}: expected an npz file with probabilities, could not read it: {error}"
        ) from None
    if array.dtype.name not in SUM_TOLERANCE:
        raise InputError(f"{path}: expected float16, 32 or 64 probabilities, got {array.dtype}")
    return array


def _check_probabilities(
    array: NDArray[np.floating], path: Path, *, softmax: bool
) -> NDArray[np.floating]:
    if not array.size:
        raise InputError(f"{path}: expected voxels, got an empty array of shape {array.shape}")
    low, high = float(array.min()), float(array.max())
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # false for NaN, too
        if not np.isfinite(array).all():
            n = int((~np.isfinite(array)).sum())
            raise InputError(f"{path}: expected probabilities, found {n} values NaN or infinite")
        raise InputError(f"{path}: expected probabilities in [0, 1], got {low:g} to {high:g}")
    if softmax:
        total = array.sum(0, dtype=np.float64 if array.dtype == np.float64 else np.float32)
        worst = float(np.abs(total - 1).max())
        tolerance = SUM_TOLERANCE[array.dtype.name]
        if worst > tolerance:
            raise InputError(
                f"{path}: expected probabilities that sum to 1 over the classes within "
                f"{tolerance:g}, found a voxel that misses it by {worst:.3g}"
            )
    return array if low >= 0 and high <= 1 else np.clip(array, 0, 1)


def _read_reference(path: Path, dataset: Dataset) -> tuple[NDArray[Any], tuple[float, ...]]:
    import SimpleITK
    from nnunetv2.imageio.reader_writer_registry import (
        determine_reader_writer_from_dataset_json,
        recursive_find_reader_writer_by_name,
    )

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        if dataset.reader is None:
            reader = determine_reader_writer_from_dataset_json(
                dataset.dataset_json, str(path), verbose=False
            )
        else:
            reader = recursive_find_reader_writer_by_name(dataset.reader)
    except (RuntimeError, AssertionError):
        named = f"plans.json names {dataset.reader}" if dataset.reader else "its ending has none"
        raise InputError(f"{path}: expected one of nnU-Net's readers for it, {named}") from None
    try:
        if path.suffix == ".gz":
            gunzipped_size(path)
        segmentation, properties = reader().read_seg(str(path))
    except Exception as error:  # each of nnU-Net's readers raises its library's own
        raise InputError(
            f"{path}: expected a segmentation, could not read it: {_first_line(str(error))}"
        ) from None
    spacing = tuple(float(s) for s in properties["spacing"])
    return segmentation[0], spacing


def _first_line(text: str) -> str:
    lines: Iterable[str] = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line), "no reason given")
