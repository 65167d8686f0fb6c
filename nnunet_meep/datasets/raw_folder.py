"""The part of the conversion to nnU-Net's raw format that all data sets share.

The module of a data set defines which scans there are (:class:`Scan`), how to read one, and the
splits. This module writes the folder ``$nnUNet_raw/Dataset<ID>_<NAME>``, completely or not at all.
All problems found in a run are listed together.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_meep.atomic import replacing_folder
from nnunet_meep.errors import InputError
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.paths import not_set
from nnunet_meep.nnunet_files.writing import write_image

Splits = list[dict[str, list[str]]]
#: As many files with the same problem are each named.
_A_FEW = 4
#: What is to be written of an image: the image, or its file, which is then copied as it is.
Volume: TypeAlias = sitk.Image | Path


@dataclass(frozen=True)
class Scan:
    """The files of one scan.

    Attributes:
        name: its case identifier in nnU-Net.
        is_test: whether it is for testing (written to ``imagesTs``).
        channels: one file for each channel, or a 4D file with all of them.
        mask: the file of the reference segmentation.
    """

    name: str
    is_test: bool
    channels: tuple[Path, ...]
    mask: Path


@dataclass(frozen=True)
class RawDataset:
    """A data set that was found on disk, before any image is read.

    Attributes:
        name: the part of the folder's name after ``Dataset<ID>_``.
        layout: description of the file layout that was found.
        scans: the scans to write.
        channel_names: in the order of ``Scan.channels``.
        labels: as in ``dataset.json``.
        read: reads and checks the channels and the mask of a scan and returns what is to be
            written, all in the same geometry, or raises ``InputError`` with one line for each
            problem.
        splits: content of ``splits_final.json``; if empty, the file is not written.
        folds: description of the folds, for example "fold 0 (20 validation scans)".
        problems: problems with the files that were found, one line each.
        notes: what was left out, one line each.
        warnings: deviations from the published data set, one line each.
    """

    name: str
    layout: str
    scans: tuple[Scan, ...]
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    read: Callable[[Scan], tuple[Sequence[Volume], Volume]]
    splits: Splits
    folds: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def n_training(self) -> int:
        """Number of scans for training."""
        return sum(not scan.is_test for scan in self.scans)

    @property
    def n_test(self) -> int:
        """Number of scans for testing."""
        return len(self.scans) - self.n_training


def target(dataset: RawDataset, dataset_id: int, *, overwrite: bool) -> Path:
    """The folder into which a data set will be written.

    Args:
        dataset: the data set to write.
        dataset_id: nnU-Net's number of the data set, 1 to 999.
        overwrite: whether the folder may already exist.

    Raises:
        InputError: one line for each reason why the folder cannot be written or used.
    """
    name = f"Dataset{dataset_id:03d}_{dataset.name}"
    raw = os.environ.get("nnUNet_raw")
    problems = _taken(name, overwrite=overwrite) + _conflicting_splits(name, dataset.splits)
    if not raw:
        problems.insert(0, not_set("nnUNet_raw"))
    if not raw or problems:
        raise InputError(*problems)
    return Path(raw) / name


def write(dataset: RawDataset, folder: Path) -> None:
    """Read and check all scans and write them to a folder, which is replaced if it exists.

    Raises:
        InputError: one line for each kind of problem with the files; nothing is written then.
        OSError: the folder cannot be written.
    """
    problems = list(dataset.problems)
    with replacing_folder(folder) as temporary:
        for part in sorted({"Ts" if scan.is_test else "Tr" for scan in dataset.scans}):
            (temporary / f"images{part}").mkdir()
            (temporary / f"labels{part}").mkdir()
        # disable=None: a progress bar on a terminal only, to keep log files readable.
        for scan in tqdm(dataset.scans, unit="scan", disable=None):
            part = "Ts" if scan.is_test else "Tr"
            try:
                channels, mask = dataset.read(scan)
            except InputError as error:
                problems += error.args
                continue
            if problems:
                continue  # nothing will be written, so only check the remaining scans
            for i, channel in enumerate(channels):
                name = f"{scan.name}_{i:04d}.nii.gz"
                _write(channel, temporary / f"images{part}" / name)
            _write(mask, temporary / f"labels{part}" / f"{scan.name}.nii.gz")
        if problems:
            raise InputError(*_together(problems))
        content = {
            "channel_names": {str(i): name for i, name in enumerate(dataset.channel_names)},
            "labels": dataset.labels,
            "numTraining": dataset.n_training,
            "file_ending": ".nii.gz",
        }
        (temporary / "dataset.json").write_text(json.dumps(content, indent=2))
        if dataset.splits:
            (temporary / "splits_final.json").write_text(json.dumps(dataset.splits, indent=2))


def _together(problems: Sequence[str]) -> list[str]:
    """A line for each file; one for all, if more than a few have the same problem.

    One file may contain both image and mask, so the same problem of it may occur twice.
    """
    files: dict[str, list[str]] = {}
    for line in dict.fromkeys(problems):
        file, _, problem = line.partition(": ")
        files.setdefault(problem, []).append(file)
    lines = []
    for problem, (first, *others) in files.items():
        if len(others) < _A_FEW:
            lines += [f"{file}: {problem}" for file in (first, *others)]
        else:
            lines.append(f"{first} and {len(others)} other files: {problem}")
    return lines


def shown(values: Sequence[Any]) -> str:
    """The first ten values as text for a message."""
    return ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")


def skipped_files(paths: Iterable[Path]) -> list[str]:
    """A note, one line, about files that are not scans; an empty list if there are none."""
    names = [str(path) for path in paths]
    return [f"Skipped {len(names)} files that are no scans: {shown(names)}"] if names else []


def cross_validation(pools: Sequence[Sequence[Any]], n_folds: int = 5) -> list[set[Any]]:
    """The held-out cases of each fold; each pool is spread evenly, in nnU-Net's random order.

    Args:
        pools: groups of cases, for example the sorted scans of each scanner.
        n_folds: number of folds.
    """
    held_out: list[set[Any]] = [set() for _ in range(n_folds)]
    for pool in pools:
        # The same as nnU-Net's, scikit-learn's KFold(5, shuffle=True, random_state=12345). Written
        # out here, because numpy guarantees that RandomState's numbers never change.
        order = np.random.RandomState(12345).permutation(len(pool))
        for fold, part in zip(held_out, np.array_split(order, n_folds), strict=True):
            fold.update(pool[i] for i in part)
    return held_out


def splits_of(
    cases: Sequence[str], held_out: Sequence[set[str]], only: Sequence[set[str] | None] = ()
) -> Splits:
    """The content of ``splits_final.json`` for the cases that were found.

    Args:
        cases: case identifiers, in the order in which to list them.
        held_out: the validation cases of each fold.
        only: for the first folds, the cases to which the fold is restricted; None for all cases.

    Returns:
        A dict with ``train`` and ``val`` for each fold; an empty list if any of these would be
        empty.
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


def _write(image: Volume, path: Path) -> None:
    if isinstance(image, Path):
        shutil.copyfile(image, path)
        return
    write_image(image, path)


def _taken(name: str, *, overwrite: bool) -> list[str]:
    """Problems with existing folders of the same number, by which nnU-Net finds a data set."""
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
    """A problem if an older splits_final.json would make an assertion of nnU-Net's planner fail."""
    root = os.environ.get("nnUNet_preprocessed")
    path = Path(root or "") / name / "splits_final.json"
    if not root or not splits or not path.exists():
        return []
    try:  # compared as the planner does: order does not matter, and more folds are allowed
        same = [
            {part: sorted(fold[part]) for part in ("train", "val")}
            for fold in read_json(path)[: len(splits)]
        ] == [{part: sorted(fold[part]) for part in ("train", "val")} for fold in splits]
    except (ValueError, TypeError, KeyError):
        same = False
    if same:
        return []
    return [f"{path} has other splits, on which nnU-Net's planner would fail: remove it"]
