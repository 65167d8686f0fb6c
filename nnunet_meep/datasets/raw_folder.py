"""What all data sets share on their way into nnU-Net's raw format.

A data set says which scans there are (:class:`Scan`), how one is read, and its splits; here are the
rules of files: what is read must be whole, all parts of a scan lie in one geometry, and the folder
``$nnUNet_raw/Dataset<ID>_<NAME>`` appears whole or not at all, with every problem of a run listed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_meep.atomic import replacing_folder
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.gunzip import GUNZIP_ERRORS, gunzipped_size

# Headers that differ by less, in mm or in a direction cosine, mean the same: float32 and text
# round differently.
TOLERANCE = 1e-3

Splits = list[dict[str, list[str]]]


@dataclass(frozen=True)
class Scan:
    """The files of one scan.

    Attributes:
        name: its case identifier in nnU-Net.
        is_test: whether it goes to ``imagesTs``.
        channels: a file for each channel.
        mask: the file of the reference.
    """

    name: str
    is_test: bool
    channels: tuple[Path, ...]
    mask: Path


@dataclass(frozen=True)
class RawDataset:
    """A data set as it was found, before anything of it is read.

    Attributes:
        name: behind ``Dataset<ID>_``.
        layout: in which form it was found, in words.
        scans: what will be written.
        channel_names: in the order of ``Scan.channels``.
        labels: as in ``dataset.json``.
        read: gives the channels and the mask (uint8) of a scan, all in one geometry, or raises
            ``InputError`` with one line for each problem.
        splits: ``splits_final.json``; empty: none.
        folds: what the folds are, in words.
        problems: what is wrong with the files that were found, one line each.
        notes: what was left out, one line each.
        warnings: what is not as published, one line each.
    """

    name: str
    layout: str
    scans: tuple[Scan, ...]
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    read: Callable[[Scan], tuple[list[sitk.Image], sitk.Image]]
    splits: Splits
    folds: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def n_training(self) -> int:
        """How many scans are for training."""
        return sum(not scan.is_test for scan in self.scans)

    @property
    def n_test(self) -> int:
        """How many scans are for testing."""
        return len(self.scans) - self.n_training


def target(dataset: RawDataset, dataset_id: int, *, overwrite: bool) -> Path:
    """The folder of a data set.

    Args:
        dataset: what is to be written.
        dataset_id: nnU-Net's number of the data set, 1 to 999.
        overwrite: whether the folder may be there already.

    Raises:
        InputError: one line for each reason for which it cannot be written or used.
    """
    name = f"Dataset{dataset_id:03d}_{dataset.name}"
    raw = os.environ.get("nnUNet_raw")
    problems = _taken(name, overwrite=overwrite) + _conflicting_splits(name, dataset.splits)
    if not raw:
        problems.insert(0, "nnUNet_raw is not set: export it as nnU-Net's installation guide says")
    if not raw or problems:
        raise InputError("\n".join(problems))
    return Path(raw) / name


def write(dataset: RawDataset, folder: Path) -> None:
    """Read and check all scans and write them into a folder, in place of an older one.

    Raises:
        InputError: one line for each problem with any of the files; nothing is written.
        OSError: the folder cannot be written.
    """
    problems = list(dataset.problems)
    with replacing_folder(folder) as temporary:
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (temporary / part).mkdir()
        # Bars only where someone looks at them: in a log, stderr is for warnings and errors.
        for scan in tqdm(dataset.scans, unit="scan", disable=None):
            part = "Ts" if scan.is_test else "Tr"
            try:
                channels, mask = dataset.read(scan)
            except InputError as error:
                problems += str(error).splitlines()
                continue
            if problems:
                continue  # the rest is only checked
            for i, channel in enumerate(channels):
                name = f"{scan.name}_{i:04d}.nii.gz"
                _write_whole(channel, temporary / f"images{part}" / name)
            _write_whole(mask, temporary / f"labels{part}" / f"{scan.name}.nii.gz")
        if problems:
            # A file may be image and mask in one: what is wrong with both is said once.
            raise InputError("\n".join(dict.fromkeys(problems)))
        content = {
            "channel_names": {str(i): name for i, name in enumerate(dataset.channel_names)},
            "labels": dataset.labels,
            "numTraining": dataset.n_training,
            "file_ending": ".nii.gz",
        }
        (temporary / "dataset.json").write_text(json.dumps(content, indent=4))
        if dataset.splits:
            (temporary / "splits_final.json").write_text(json.dumps(dataset.splits, indent=4))


def read_volume(path: Path) -> sitk.Image:
    """A whole NRRD or NIfTI file that holds a 3D volume of real numbers.

    Raises:
        InputError: it does not.
    """
    try:
        # ITK reads a .nii.gz that is cut short without a word, and makes up what is missing.
        n_bytes = gunzipped_size(path) if path.name.endswith(".nii.gz") else None
        image = sitk.ReadImage(path)
    except (*GUNZIP_ERRORS, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{path}: cannot be read ({reason})") from error
    if n_bytes is not None:
        n_voxel_bytes = math.prod(image.GetSize()) * int(image.GetMetaData("bitpix")) // 8
        if n_bytes < float(image.GetMetaData("vox_offset")) + n_voxel_bytes:
            raise InputError(f"{path}: cannot be read (cut short before it was compressed)")
    kind = sitk.GetArrayViewFromImage(image).dtype.kind
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1 or kind not in "uif":
        raise InputError(
            f"{path}: expected a 3D volume of real numbers, found {image.GetDimension()}D, "
            f"{image.GetPixelIDTypeAsString()}"
        )
    return image


def not_finite(image: sitk.Image, path: Path) -> list[str]:
    """A problem if voxels of an image are NaN or infinite."""
    array = sitk.GetArrayViewFromImage(image)
    if path.name.endswith(".nii.gz") and array.dtype.kind == "f":
        import nibabel  # ITK reads NaN in a NIfTI file as 0, without a word

        array = np.asanyarray(nibabel.load(path).dataobj)
    bad = np.count_nonzero(~np.isfinite(array))
    return [f"{path}: {bad} voxels of the image are NaN or infinite"] if bad else []


def shown(values: Sequence[Any]) -> str:
    """Values for a message, not too many of them."""
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")


def skipped_files(paths: Iterable[Path]) -> list[str]:
    """A note about files that are no scans, if there are any."""
    names = [str(path) for path in paths]
    return [f"Skipped {len(names)} files that are no scans: {shown(names)}"] if names else []


def differences(
    image: sitk.Image, other: sitk.Image, path: Path, what: str = "mask", of: str = "image"
) -> list[str]:
    """How the geometry of a scan's other file differs from that of its first image.

    Args:
        image, other: the two.
        path: of the other file.
        what, of: what the two are.
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


def cross_validation(pools: Sequence[Sequence[Any]], n_folds: int = 5) -> list[set[Any]]:
    """What each fold holds out if each pool is dealt out evenly, in nnU-Net's random order.

    Args:
        pools: for example the scans of each scanner, sorted.
        n_folds: number of folds.
    """
    held_out: list[set[Any]] = [set() for _ in range(n_folds)]
    for pool in pools:
        # scikit-learn's KFold(5, shuffle=True, random_state=12345), which is nnU-Net's, written
        # out: numpy keeps RandomState's numbers the same for good.
        order = np.random.RandomState(12345).permutation(len(pool))
        for fold, part in zip(held_out, np.array_split(order, n_folds), strict=True):
            fold.update(pool[i] for i in part)
    return held_out


def splits_of(
    cases: Sequence[str], held_out: Sequence[set[str]], only: Sequence[set[str] | None] = ()
) -> Splits:
    """``splits_final.json`` of the cases that are there.

    Args:
        cases: case identifiers, in the order in which they are listed.
        held_out: what each fold validates on.
        only: for the first folds the cases that they are about; None: all.

    Returns:
        A dict with ``train`` and ``val`` for each fold, or none if any of them would be empty.
    """
    splits = []
    for i, validation in enumerate(held_out):
        about = only[i] if i < len(only) else None
        mine = [case for case in cases if about is None or case in about]
        splits.append(
            {
                "train": [case for case in mine if case not in validation],
                "val": [case for case in mine if case in validation],
            }
        )
    return splits if all(split["train"] and split["val"] for split in splits) else []


def _write_whole(image: sitk.Image, path: Path) -> None:
    sitk.WriteImage(image, path, useCompression=True)
    try:  # ITK does not notice when the disk is full
        gunzipped_size(path)
    except GUNZIP_ERRORS as error:
        raise InputError(
            f"{path.name}: could not be written whole into {path.parents[2]}; is the disk full?"
        ) from error


def _taken(name: str, *, overwrite: bool) -> list[str]:
    """Problems with folders that are there already: nnU-Net finds a data set by its number."""
    problems = []
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        root = os.environ.get(variable)
        for found in sorted(Path(root).glob(name[: len("Dataset000")] + "*")) if root else []:
            if found.name == name and variable == "nnUNet_raw":
                if not found.is_dir():
                    problems.append(f"{found}: expected a folder or nothing, found a file")
                elif not overwrite:
                    problems.append(
                        f"{found} exists: --overwrite replaces it, or choose another number with -d"
                    )
            elif found.name != name and found.is_dir():
                problems.append(
                    f"{found} has the same number, which nnU-Net refuses as ambiguous: "
                    "choose another with -d"
                )
    return problems


def _conflicting_splits(name: str, splits: Splits) -> list[str]:
    """A problem if nnU-Net's planner would end in an assert over an older splits_final.json."""
    root = os.environ.get("nnUNet_preprocessed")
    path = Path(root or "") / name / "splits_final.json"
    if not root or not splits or not path.exists():
        return []
    try:  # as the planner compares: as sets, and more folds than ours are fine
        same = [
            {part: sorted(fold[part]) for part in ("train", "val")}
            for fold in json.loads(path.read_text())[: len(splits)]
        ] == [{part: sorted(fold[part]) for part in ("train", "val")} for fold in splits]
    except (ValueError, TypeError, KeyError):
        same = False
    if same:
        return []
    return [f"{path} has other splits, on which nnU-Net's planner would fail: remove it"]
