"""Converts a task of the Medical Segmentation Decathlon to nnU-Net's raw format.

A folder ``TaskNN_NAME`` with ``dataset.json``, ``imagesTr/CASE.nii.gz`` (4D if there are several
modalities, which become channels) and ``labelsTr/CASE.nii.gz``. The scans in ``imagesTs`` have no
labels, so nothing can be measured on them, and they are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nnunet_meep.datasets.division import Division
from nnunet_meep.datasets.labelled_scans import ENDING, make_dataset, nifti_files, numbered
from nnunet_meep.datasets.raw_folder import RawDataset, shown, skipped_files
from nnunet_meep.errors import InputError
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.paths import real_path


def find(source: Path, *, division: Division) -> RawDataset:
    """Find the labelled scans of a task.

    Args:
        source: the task's folder as it was unpacked, ``TaskNN_NAME``.
        division: how many cases are for what.

    Raises:
        InputError: this is not such a folder, or there are too few cases for the division.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    source = real_path(source)
    if not (task := re.fullmatch(r"Task\d+_(\w+)", source.name)):
        raise InputError(
            f"{source}: expected a task folder of the Medical Segmentation Decathlon, TaskNN_NAME, "
            f"got {source.name}; for folders of other scans there is meep-convert-folder"
        )
    channel_names, classes, listed = _read_description(source / "dataset.json")
    labels, become = numbered(classes, (), f'{source / "dataset.json"}, "labels"')
    files, strays = {}, []
    for part in ("imagesTr", "labelsTr"):
        if not (source / part).is_dir():
            raise InputError(f"{source / part}: expected this folder of the task, found none")
        files[part], others = nifti_files(source / part)
        strays += others
    images, masks = (
        {path.name.removesuffix(ENDING): [path] for path in files[part]}
        for part in ("imagesTr", "labelsTr")
    )
    notes, warnings = skipped_files(strays), []
    unlabelled = nifti_files(source / "imagesTs")[0] if (source / "imagesTs").is_dir() else []
    if unlabelled:
        notes.append(f"Skipped {len(unlabelled)} scans without labels, in imagesTs")
    if missing := [case for case in listed if case not in images or case not in masks]:
        warnings.append(
            f"{len(missing)} of the {len(listed)} training scans in dataset.json are not there: "
            f"{shown(missing)}"
        )
    return make_dataset(
        source,
        task[1],
        images,
        masks,
        layout=f"the Medical Segmentation Decathlon's {source.name}",
        channel_names=channel_names,
        labels=labels,
        become=become,
        division=division,
        notes=notes,
        warnings=warnings,
    )


def _read_description(path: Path) -> tuple[list[str], list[tuple[str, int]], Sequence[str]]:
    """Modalities, (name, value) of the labels but the background, and the training cases."""
    try:
        content = read_json(path)
        modalities = {int(i): str(name) for i, name in content["modality"].items()}
        labels = [(str(name), int(value)) for value, name in content["labels"].items()]
        listed = [Path(entry["image"]).name for entry in content["training"]]
        channel_names = [modalities[i] for i in range(len(modalities))]
    except FileNotFoundError:
        raise InputError(f"{path}: expected this file of the task, found none") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f'{path}: expected JSON with "modality", "labels" and "training", as the Medical '
            f"Segmentation Decathlon has them, got {error!r}"
        ) from None
    if not channel_names:
        raise InputError(f'{path}: expected at least one entry in "modality", got none')
    classes = [(name, value) for name, value in labels if value != 0]
    return channel_names, classes, sorted(name.removesuffix(ENDING) for name in listed)
