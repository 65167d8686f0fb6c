"""Converts the WMH Segmentation Challenge's data to nnU-Net's raw format, with a split like MEEP's.

60 brain MRI for training, 20 from each of three scanners, each with FLAIR, T1 and a mask: 1 is
white matter hyperintensity, 2 is other pathology, which the challenge excludes from its scores.

Both releases can be read, at any depth below SRC: that of 2017 (``Utrecht``, ``Singapore``,
``GE3T``) and the current one (``training/Utrecht``, ``training/Singapore``,
``training/Amsterdam/GE3T``, and ``test/...`` with 110 more scans from five scanners). A scan is a
folder ``SITE/NUMBER`` with ``wmh.nii.gz``, ``pre/FLAIR.nii.gz`` and ``pre/T1.nii.gz``. Images in
``pre/`` are bias corrected; those in ``orig/`` are as scanned, with T1 resampled onto FLAIR.

The order of the voxels and the intensities do not change; masks become uint8.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import SimpleITK as sitk

from nnunet_meep.datasets.raw_folder import (
    RawDataset,
    Scan,
    Splits,
    cross_validation,
    shown,
    skipped_files,
    splits_of,
)
from nnunet_meep.datasets.volumes import read_scan, recoded
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.paths import real_path

#: {scanner: numbers of the scans that were released for training}.
PUBLISHED = {
    "Utrecht": (0, 2, 4, 6, 8, 11, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 49),
    "Singapore": tuple(range(50, 70)),
    "GE3T": (*range(100, 111), *range(112, 117), 126, 132, 137, 144),
}
# The paper divides the 60 into 42 for training, 3 for validation and 15 for testing, but does not
# list them. Here each scanner contributes 14, 1 and 5, drawn once at random with r =
# RandomState(2017): for the scanners in this order, p = r.permutation(PUBLISHED[scanner]); p[:5] is
# for testing and p[5] for validation.
TEST = {
    "Utrecht": (2, 11, 27, 33, 49),
    "Singapore": (56, 59, 64, 65, 67),
    "GE3T": (101, 105, 112, 114, 126),
}
VALIDATION = {"Utrecht": (29,), "Singapore": (66,), "GE3T": (104,)}

CHANNELS = ("FLAIR", "T1")
#: How label 2 (other pathology) is used: {choice: (``labels`` of ``dataset.json``, {label of the
#: mask: new label})}.
OTHER_PATHOLOGY = {
    "ignore": ({"background": 0, "WMH": 1, "ignore": 2}, {0: 0, 1: 1, 2: 2}),
    "background": ({"background": 0, "WMH": 1}, {0: 0, 1: 1, 2: 0}),
    "lesion": ({"background": 0, "WMH": 1}, {0: 0, 1: 1, 2: 1}),
}
SOURCES = (
    "https://doi.org/10.34894/AECRSD (DataverseNL; its terms of use apply), described at "
    "https://wmh.isi.uu.nl"
)

_MASK = "wmh.nii.gz"
#: Other released files in the folders of a scan; they are not read.
_ALSO_RELEASED = {"3DT1.nii.gz", "3DT1_mask.nii.gz", "reg_3DT1_to_FLAIR.txt", "result.nii.gz"}


def find(
    source: Path,
    *,
    channels: Sequence[str] = CHANNELS,
    other_pathology: str = "ignore",
    original: bool = False,
    challenge_test: bool = False,
) -> RawDataset:
    """Find the challenge's scans below a folder.

    Args:
        source: a folder that has the sites at any depth.
        channels: which of ``CHANNELS`` to use as channels, in this order.
        other_pathology: a key of ``OTHER_PATHOLOGY``.
        original: use the images in ``orig/`` instead of ``pre/``.
        challenge_test: use the release's own test scans for testing, and all 60 published training
            scans for training. Otherwise the scans in ``TEST`` are for testing.

    Raises:
        InputError: there are no scans.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    source = real_path(source)
    folders, notes = _subjects(source)
    if not folders:
        raise InputError(
            f"{source}: no scans of the WMH challenge here. Expected are SITE/NUMBER/pre/"
            f"FLAIR.nii.gz, T1.nii.gz and SITE/NUMBER/{_MASK}, for example in Utrecht/0 or "
            f"training/Amsterdam/GE3T/100. They are to be had from {SOURCES}"
        )
    scans, problems, others = [], [], []
    for name, paths in sorted(folders.items()):
        site, number = name
        published = number in PUBLISHED.get(site, ())
        released_test = not published and "test" in _parts(paths[0], source)
        if not published and not (challenge_test and released_test):
            others.append(identifier(site, number))
            continue
        if len(paths) > 1:
            problems.append(f"{site}/{number}: more than one folder: {', '.join(map(str, paths))}")
        files = [paths[0] / ("orig" if original else "pre") / f"{c}.nii.gz" for c in channels]
        mask = paths[0] / _MASK
        if missing := [path for path in (*files, mask) if not path.is_file()]:
            problems += [f"{path}: expected this file, found none" for path in missing]
            continue
        is_test = released_test if challenge_test else number in TEST[site]
        scans.append(Scan(identifier(site, number), is_test, tuple(files), mask))
    if others:
        why = (
            "not published for training"
            if challenge_test
            else ("not published for training (--challenge-test takes the release's test scans)")
        )
        notes.insert(0, f"Skipped {len(others)} scans, {why}: {shown(others)}")
    training = [scan.name for scan in scans if not scan.is_test]
    splits = make_splits(training)
    warnings = _warnings(scans, splits, challenge_test=challenge_test)
    if not training and not problems:
        raise InputError(f"{source}: none of the 60 scans that were published for training found")
    if challenge_test and not any(scan.is_test for scan in scans):
        problems.append(
            f"{source}: expected scans of the release's own test set in a folder 'test', found "
            "none (--challenge-test)"
        )
    labels, become = OTHER_PATHOLOGY[other_pathology]
    return RawDataset(
        name="WMH",
        layout=f"the challenge's {'orig' if original else 'pre'} scans",
        scans=tuple(scans),
        channel_names=tuple(channels),
        labels=labels,
        read=lambda scan: _read_case(scan, become),
        splits=splits,
        folds=(
            "folds 0 (like the paper's), 1 to 5 (cross-validation), 6 to 8 (leave one scanner out)"
        ),
        problems=problems,
        notes=notes,
        warnings=warnings,
    )


def identifier(site: str, number: int) -> str:
    """The case identifier of a scan."""
    return f"{site}_{number:03d}"


def make_splits(cases: Collection[str]) -> Splits:
    """The content of nnU-Net's ``splits_final.json`` for the scans that were found.

    Fold 0 is a split like the paper's. Folds 1 to 5 are a cross-validation over all training scans
    in which each fold has the same number of each scanner. Folds 6 to 8 validate on all scans of
    one scanner and train on those of the others.

    Args:
        cases: identifiers of the scans for training. If they include any of ``TEST``, folds 1 to 8
            are over all published scans, and fold 0 leaves the test scans out. The part of a scan
            in a fold does not depend on which other scans were found.

    Returns:
        Nine dicts with ``train`` and ``val``; an empty list if any of these would be empty.
    """
    by_scanner = {
        site: [identifier(site, number) for number in numbers]
        for site, numbers in PUBLISHED.items()
    }
    test = {identifier(site, number) for site, numbers in TEST.items() for number in numbers}
    validation = {identifier(site, n) for site, numbers in VALIDATION.items() for n in numbers}
    everything = {name for names in by_scanner.values() for name in names}
    pool = everything if test & set(cases) else everything - test
    pools = [[name for name in names if name in pool] for names in by_scanner.values()]
    return splits_of(
        [name for names in by_scanner.values() for name in names if name in set(cases)],
        [validation, *cross_validation(pools), *map(set, pools)],
        only=[everything - test],
    )


def _subjects(source: Path) -> tuple[dict[tuple[str, int], list[Path]], list[str]]:
    """The folders of each (site, number), and notes about other files among them, one line each."""
    found: dict[tuple[str, int], list[Path]] = defaultdict(list)
    strays = []
    known = {f"{channel}.nii.gz" for channel in CHANNELS} | _ALSO_RELEASED | {_MASK}
    for root, folders, files in os.walk(source, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__MACOSX")  # of archives
        folder = Path(root)
        is_scan = {"pre", "orig"} & set(folders) or _MASK in files
        if is_scan and folder.name.isdecimal():
            site = re.sub(r"\W+|_+", "_", folder.parent.name).strip("_")
            found[site, int(folder.name)].append(folder)
        strays += [folder / name for name in sorted(set(files) - known)]
    return dict(found), skipped_files(strays)


def _parts(folder: Path, source: Path) -> list[str]:
    """Names of the folders from SRC to the scan, both included, in lower case."""
    return [source.name.lower(), *(part.lower() for part in folder.relative_to(source).parts)]


def _warnings(scans: Sequence[Scan], splits: Splits, *, challenge_test: bool) -> list[str]:
    n_test = sum(scan.is_test for scan in scans)
    n_training = len(scans) - n_test
    expected = (60, 110) if challenge_test else (45, 15)
    if (n_training, n_test) == expected:
        return []
    line = (
        f"{n_training} of {expected[0]} training scans and {n_test} of {expected[1]} test scans "
        "are there"
    )
    if not splits:
        line += "; too few for the splits: no splits_final.json, nnU-Net draws its own"
    return [line]


def _read_case(scan: Scan, become: Mapping[int, int]) -> tuple[list[sitk.Image], sitk.Image]:
    """Read the channels unchanged and the mask as uint8, in the geometry of the first channel.

    Raises:
        InputError: one line for each problem with the scan.
    """
    channels, mask = read_scan(scan, become)
    for channel in channels[1:]:
        channel.CopyInformation(channels[0])
    return channels, recoded(mask, become, channels[0])
