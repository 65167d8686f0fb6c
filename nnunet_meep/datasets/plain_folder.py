"""Converts a folder of scans with labels to nnU-Net's raw format.

``SOURCE/images*/CASE_0000.nii.gz`` or ``CASE.nii.gz``, with one channel, and
``SOURCE/labels*/CASE.nii.gz``. All folders of the same kind are taken together: which cases are for
testing is decided by the order of the names, not by the folder that a case is in.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence, Set
from pathlib import Path

from nnunet_meep.datasets.division import Division
from nnunet_meep.datasets.labelled_scans import ENDING, make_dataset, nifti_files, numbered
from nnunet_meep.datasets.raw_folder import RawDataset, shown, skipped_files
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.paths import real_path


def find(
    source: Path,
    *,
    name: str,
    classes: Sequence[tuple[str, int]],
    ignored: Collection[int] = (),
    channel: str = "image",
    division: Division,
) -> RawDataset:
    """Find the scans and labels in the folders of a source.

    Args:
        source: a folder with folders ``images*`` and ``labels*``.
        name: the data set's name.
        classes: name and value of each label but the background, which is 0.
        ignored: values of labels that become nnU-Net's ignore label.
        channel: name of the channel.
        division: how many cases are for what.

    Raises:
        InputError: there are no such files, too few for the division, or labels that cannot be.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    labels, become = numbered(classes, ignored, "--labels, --ignore")
    source = real_path(source)
    image_files, strays = _files(source, "images*")
    mask_files, more_strays = _files(source, "labels*")
    if not image_files and not mask_files:
        raise InputError(
            f"{source}: no scans here. Expected are images*/CASE_0000{ENDING} (or CASE{ENDING}) "
            f"and labels*/CASE{ENDING}"
        )
    masks = defaultdict(list)
    for path in mask_files:
        masks[path.name.removesuffix(ENDING)].append(path)
    images, others = _by_case(image_files, masks.keys())
    notes = skipped_files([*strays, *more_strays])
    if others:
        notes.append(f"Skipped {len(others)} files of further channels: {shown(others)}")
    return make_dataset(
        source,
        name,
        images,
        masks,
        layout=str(source),
        channel_names=[channel],
        labels=labels,
        become=become,
        division=division,
        notes=notes,
        to_do="name them in --labels, or give them to --ignore",
    )


def _files(source: Path, pattern: str) -> tuple[list[Path], list[Path]]:
    """The NIfTI files in the folders of a pattern, and other files in them."""
    scans, strays = [], []
    for folder in sorted(source.glob(pattern)):
        if folder.is_dir():
            files, others = nifti_files(folder)
            scans += files
            strays += others
    return scans, strays


def _by_case(files: Sequence[Path], masks: Set[str]) -> tuple[dict[str, list[Path]], list[Path]]:
    """The first channel's files of each case, and the files of other channels.

    A name that ends like a channel, ``scan_2019``, may be a case: the labels tell.
    """
    stems = {path.name.removesuffix(ENDING) for path in files}
    found, others = defaultdict(list), []
    for path in files:
        stem = path.name.removesuffix(ENDING)
        channel = re.fullmatch(r"(.+)_(\d{4})", stem)
        if stem in masks or not channel:
            found[stem].append(path)
        elif channel[2] == "0000":
            found[channel[1]].append(path)
        elif channel[1] in masks or f"{channel[1]}_0000" in stems - masks:
            others.append(path)
        else:
            found[stem].append(path)
    return dict(found), others
