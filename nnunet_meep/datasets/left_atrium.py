"""Converts the Left Atrium 2018 data to nnU-Net's raw format, with the MEEP paper's split.

100 late gadolinium enhanced MRI of the Atrial Segmentation Challenge 2018, each with a mask of
the left atrium. Three layouts are supported, recognised by their file names at any depth:

- the challenge's own, ``<CASE>/lgemri.nrrd`` and ``<CASE>/laendo.nrrd``: mask values are 0 and 255.
  The headers give a spacing of 1 although it is 0.625 mm;
- pre-processed, ``<CASE>/mri_norm2.h5``: ``image`` (float32, normalised and cropped) and
  ``label`` (0 and 1), with axes x, y, z. There is no geometry, so it is set to a spacing of
  0.625 mm, origin 0 and identity direction;
- NIfTI, ``imagesTr/LA_<CASE>_0000.nii.gz`` and ``labelsTr/LA_<CASE>.nii.gz``, and the same with
  ``Ts``: mask values are 0 and 1, the spacing is 0.625 mm.

The order of the voxels and the intensities do not change; masks become uint8 with 0 and 1. The
paper's lists divide the 100 scans that the challenge released for training into training and test
cases. They are used whatever folder a case comes from, unless the challenge's own folder
``Testing Set`` is requested as the test set.
"""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import h5py
import numpy as np
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
from nnunet_meep.datasets.volumes import TOLERANCE, differences, not_finite, read_volume
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.paths import real_path

# The lists in the paper's repository, sorted. The validation cases are among the training cases;
# fold 0 excludes them from training.
TRAINING_CASES = tuple(
    """
    06SR5RBREL16DQ6M8LWS 0RZDK210BSMWAA6467LU 1D7CUD1955YZPGK8XHJX 1GU15S0GJ6PFNARO469W
    1MHBF3G6DCPWHSKG7XCP 23X6SY44VT9KFHR7S7OC 2XL5HSFSE93RMOJDRGR4 38CWS74285MFGZZXR09Z
    3C2QTUNI0852XV7ZH4Q1 3DA0T2V6JJ2NLUAV6FWM 4498CA6DZWELOXCBRYRF 45C45I6IXAFGNRO067W9
    4CHFJGF6ZUM7CMZTNFQF 4EPVTT1HPA8U60CDUKXE 57SGAJMLCTCH92QUA0EE 5BHTH9RHH3PQT913I59W
    5FKQL4K14KCB72Y8YMC2 5HH0WPWIY06DLAFOBQ4M 5QFK2PMHNX7UALK52NNA 5UB5KFD2PK38Z4LS6W80
    6799D6LEBH3NSRV1KH27 78NJ5YFQF72BGC8RO51C 7FUCNXB39F78WTOP5K71 8GYK8A9MBRC9TV0FVSRA
    8M99G0JLAXG9GLPV0O8G 8RE90C8H5DKF4V6HO8UU 8ZG2TRZ81MAWHZPN9KKG 9DCM2IB45SK6YKQNYUQY
    9DHWWP5Y66VDMPXISZ13 9DQYTIU00I4JC0OEOKQQ A11O45O3NAXWM7T2H8CH A4R1S23KR0KU2WSYHK2X
    A5RNNK0A891WUSC2V624 AT5CRO5JUDBWD4RUPXSQ BNK95S2SJXEGSW7VAKYU BXJWOUYP2J3EN4U92517
    BYSRSI3H4YTWKMM3MADP BZUFJX66T0W6ZPVTL9DU CB5P5W7X310NIIVU7UZV CBIJFVZ5L9BS0LKWE8YL
    CCGAKN4EDT72KC8TTJ76 CLXFYOBQDCVXQ9P7YC07 CMPXO4J23G58J53Q98SZ CZPMV6KWZ4I7IJJP9FOK
    DLKXBV73A55ZTSZ0QQI2 DQ5UYBGR5QP6L692QSG6 DYXSCIWHLSUOZIDDSZ40 E2ZMO66WGS74UKXTZPPQ
    EJ5V7SPR4961JWD6SS8V FGM5NIWN3URY4HF4WNUW GSC9KNY0VEZXFSGWNF25 HVE7DR3CUA2IM3RC6OMA
    HZZ4O0BRKF8S0YX3NNF7 I2VZ7N8H9QYNYT7ZZF1Y IDWWHGWJ5STOQXSDT6GU IIY6TYJMTJIZRIZLB9YW
    IJJY51YW3W4YJJ7DTVTK IQYKPTWXVV9H0IHB8YXC JEC6HJ7SQJXBKVREX03F JGFOLWJF7YCYD8DPHQNH
    K32FD6LRSUSSXGS1YUOX KM5RYAMP4P4ZP6XWP3Q2 KSNYHUBHHUJTYJ14UQZR LH4FVU3TQDEC87YGN6FL
    LJSDNMND9SHKM7Q4IRHJ MFTDVMBWFNQ3F5KHBRDR MJHV7F65TB2A76CQLOC3 MVKIPGBKTNSENNP1S4HB
    O5TSIKRD4AIB8K84WIR9 OIRDLE32TXZX942FVZMM P1OTI3IWJUIB5NRLULLH PVNXUK681N9BY14K4Z86
    Q0MEX9ZIKAGJORSPLQ3Y Q7J0WYM695R9MA285ZW0 QZC1W0FNR19KJFLOCFLH R8ER97O9UUN77C02VE2J
    RSZY41MT2FGDKHWWL5L2 SN4LF8SGBSRQUPTDSX78 TDDI6L3Y0L9VVFP9MNFS UZUZZT2W9IUSHL6ASOX3
    """.split()  # noqa: SIM905 (legible)
)

VALIDATION_CASES = tuple(
    """
    23X6SY44VT9KFHR7S7OC AT5CRO5JUDBWD4RUPXSQ CB5P5W7X310NIIVU7UZV CLXFYOBQDCVXQ9P7YC07
    """.split()  # noqa: SIM905 (legible)
)

TEST_CASES = tuple(
    """
    ULHWPWKKLTE921LQLH1P UPT6DX9IQY9JAZ7HJKA7 UTBUJIWZMKP64E3N73YC V0MZOWJ6MU3RMRCV9EXR
    VDOF02M8ZHEAADFMS6NP VG4C826RAAKVMV9BQLVD VIXBEFTNVHZWKAKURJBN VQ2L3WM8KEVF6L44E6G9
    WBG9WYZ1B25WDT5WAT8T WMDG2EFA6L2SNDZXIRU0 WNPKE0W404QE9AELX1LR WSJB9P4JCXUVHBOYFVWL
    WW8F5CO4S4K5IM5Z7EXX X18LU5AOBNNDMLTA0JZL XYDLYJ5CS19FDBVLJIPI Y7ZU0B2APPF54WG6PDMF
    YDKD1HVHSME6NVMA8I39 Z9GMG63CJLL0VW893BB1 ZIJLJAVQV3FJ6JSQOH1E ZQPMJ4XEC5A4BISD45P1
    """.split()  # noqa: SIM905 (legible)
)
# One scan that the challenge released under two names. Both must be on the same side of a split, or
# a training case would be validated on.
SAME_SCAN = ("0RZDK210BSMWAA6467LU", "CMPXO4J23G58J53Q98SZ")

SPACING_MM = 0.625

# {layout: (glob for images, glob for masks, values of the mask)}; globs are relative to SRC.
_LAYOUTS = {
    "the challenge's NRRD": ("**/lgemri.nrrd", "**/laendo.nrrd", (0, 255)),
    "pre-processed HDF5": ("**/mri_norm2.h5", "**/mri_norm2.h5", (0, 1)),
    "NIfTI": ("**/imagesT[rs]/LA_*_0000.nii.gz", "**/labelsT[rs]/LA_*.nii.gz", (0, 1)),
}
_NAMES = ("lgemri.nrrd", "laendo.nrrd", "mri_norm2.h5")
#: The challenge's folder of test scans.
_TEST_FOLDER = "Testing Set"
SOURCES = (
    "https://www.cardiacatlas.org/atriaseg2018-challenge/ (as released; register there), or "
    "pre-processed from the repository yulequan/UA-MT on GitHub; the challenge's terms of use apply"
)


def find(source: Path, *, challenge_test: bool = False) -> RawDataset:
    """Find the Left Atrium 2018 data below a folder.

    Args:
        source: a folder with one of the three layouts (see the module's docstring).
        challenge_test: use the scans in the challenge's ``Testing Set`` for testing, and all scans
            in the paper's lists for training. Otherwise the paper's lists define both, and scans
            that are not in them are left out.

    Raises:
        InputError: there are no such data, or more than one layout.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    source = real_path(source)
    layout, where, files, of_cases = _find(source)
    listed = (*TRAINING_CASES, *TEST_CASES)
    test, training = set(TEST_CASES), set(TRAINING_CASES)
    if challenge_test:
        training = set(listed)
        inside = {case: (source.name, *p.relative_to(source).parts) for case, p in where.items()}
        test = {case for case, parts in inside.items() if _TEST_FOLDER in parts} - training
    whose = "challenge's" if challenge_test else "paper's"
    skipped = sorted(set(where) - test - training)
    scans = [
        Scan(f"LA_{case}", case in test, (image,), mask)
        for case, (image, mask) in files.items()
        if case not in skipped
    ]
    problems = [line for case, lines in of_cases.items() for line in lines if case not in skipped]
    here = [case for case in listed if case in training and case in files]
    notes, warnings = _strays(source), []
    if skipped:
        notes.insert(
            0,
            f"Skipped {len(skipped)} cases that are in none of the paper's lists: "
            f"{', '.join(skipped)}",
        )
    if not here and not problems:
        raise InputError(f"{source}: none of the {whose} {len(training)} training scans found")
    splits = make_splits(here)
    n_test = sum(scan.is_test for scan in scans)
    if challenge_test and not n_test:
        problems.append(
            f"{source}: expected scans in a folder '{_TEST_FOLDER}', found none (--challenge-test)"
        )
    if len(here) < len(training) or (n_test < len(TEST_CASES) and not challenge_test):
        warning = f"{len(here)} of the {whose} {len(training)} training scans"
        if not challenge_test:
            warning += f" and {n_test} of its {len(TEST_CASES)} test scans"
        warning += " are there"
        if not splits:
            warning += "; too few for its splits: no splits_final.json, nnU-Net draws its own"
        warnings.append(warning)
    return RawDataset(
        name="LA",
        layout=layout,
        scans=tuple(scans),
        channel_names=("LGE_MRI",),
        labels={"background": 0, "LA": 1},
        read=lambda scan: _read_case(scan, _LAYOUTS[layout][2]),
        splits=splits,
        folds="folds 0 (the paper's) to 5",
        problems=problems,
        notes=notes,
        warnings=warnings,
    )


def make_splits(cases: Collection[str]) -> Splits:
    """The content of nnU-Net's ``splits_final.json`` for the scans that were found.

    Fold 0 is the paper's split. Folds 1 to 5 are a cross-validation over all training scans; they
    are in the file because nnU-Net silently draws a random split for a fold that is not.

    Args:
        cases: names of the scans for training, as in ``TRAINING_CASES``. If they include any of
            ``TEST_CASES``, the cross-validation is over both lists, and fold 0 leaves the test
            cases out. The part of a scan in a fold does not depend on which other scans were found.

    Returns:
        Six dicts with the case identifiers ``LA_<CASE>`` under ``train`` and ``val``; an empty list
        if any of these would be empty.
    """
    pool = {*TRAINING_CASES, *(TEST_CASES if set(cases) & set(TEST_CASES) else ())}
    groups = sorted([SAME_SCAN, *((case,) for case in pool if case not in SAME_SCAN)])
    held_out = [{case for group in fold for case in group} for fold in cross_validation([groups])]
    return splits_of(
        [f"LA_{case}" for case in sorted(cases)],
        [{f"LA_{case}" for case in fold} for fold in (set(VALIDATION_CASES), *held_out)],
        only=[{f"LA_{case}" for case in TRAINING_CASES}],
    )


def _find(
    source: Path,
) -> tuple[str, dict[str, Path], dict[str, tuple[Path, Path]], dict[str, list[str]]]:
    """Find all cases, whatever list they are in.

    Returns:
        The name of the layout, and three dicts by case: one of its files; its image and mask, if
        there is exactly one of each; and its problems, if any.
    """
    found = {
        layout: (_by_case(source, images), _by_case(source, masks))
        for layout, (images, masks, _) in _LAYOUTS.items()
    }
    found = {layout: parts for layout, parts in found.items() if any(parts)}
    if not found:
        raise InputError(
            f"{source}: no Left Atrium 2018 data here. Expected are <CASE>/lgemri.nrrd and "
            "<CASE>/laendo.nrrd, or <CASE>/mri_norm2.h5, or imagesTr/LA_<CASE>_0000.nii.gz and "
            f"labelsTr/LA_<CASE>.nii.gz. They are to be had from {SOURCES}"
        )
    if len(found) > 1:
        raise InputError(
            f"{source}: more than one layout here, name a folder that has only one of them: "
            + ", ".join(f"{layout} ({len(images)} scans)" for layout, (images, _) in found.items())
        )
    ((layout, (images, masks)),) = found.items()

    where: dict[str, Path] = {}
    files: dict[str, tuple[Path, Path]] = {}
    problems: dict[str, list[str]] = defaultdict(list)
    for case in sorted(images | masks):
        both = {"image": images.get(case, []), "mask": masks.get(case, [])}
        here = next(path for paths in both.values() for path in paths)
        for part, paths in both.items():
            if not paths:
                problems[case].append(f"{here}: the {part} of this case is missing")
            if len(paths) > 1:
                problems[case].append(f"{case}: more than one file: {', '.join(map(str, paths))}")
        where[case] = here
        if len(both["image"]) == len(both["mask"]) == 1:
            files[case] = (images[case][0], masks[case][0])
    return layout, where, files, problems


def _by_case(source: Path, pattern: str) -> dict[str, list[Path]]:
    # glob.glob, because Path.glob does not follow links to folders in every Python version.
    found = defaultdict(list)
    for relative in sorted(glob.glob(pattern, root_dir=source, recursive=True)):
        path = source / relative
        nifti = re.fullmatch(r"LA_(.+?)(_0000)?\.nii\.gz", path.name)
        found[nifti[1] if nifti else path.parent.name].append(path)
    return dict(found)


def _strays(source: Path) -> list[str]:
    """A note about other files among the scans: a list of at most one line."""
    return skipped_files(
        path
        for path in sorted(source.rglob("*"))
        if path.is_file()
        and path.name not in _NAMES
        and not re.fullmatch(r"LA_.*\.nii\.gz|.*\.(json|list|txt|md)", path.name)
    )


def _read_case(scan: Scan, mask_values: tuple[int, int]) -> tuple[list[sitk.Image], sitk.Image]:
    """Read the image unchanged and the mask as uint8 with 0 and 1, in the image's geometry.

    Raises:
        InputError: one line for each problem with the case.
    """
    problems = []
    read: dict[str, sitk.Image] = {}
    (image_file,), mask_file = scan.channels, scan.mask
    for part, path in (("image", image_file), ("mask", mask_file)):
        try:
            read[part] = _read_h5(path, part) if path.suffix == ".h5" else _read_itk(path)
        except InputError as error:
            problems.append(str(error))

    if "image" in read:
        problems += not_finite(read["image"], image_file)
    if "mask" in read:
        labels = sitk.GetArrayViewFromImage(read["mask"])
        values = np.unique(labels).tolist()
        if values != list(mask_values):
            problems.append(
                f"{mask_file}: the mask has the values {shown(values)}, expected "
                f"{mask_values[0]} and {mask_values[1]}"
            )
        mask = sitk.GetImageFromArray((labels == mask_values[1]).astype(np.uint8))
    if len(read) == 2:
        problems += differences(read["image"], read["mask"], mask_file)
    if problems:
        raise InputError(*problems)
    mask.CopyInformation(read["image"])
    return [read["image"]], mask


def _read_itk(path: Path) -> sitk.Image:
    """Read a NRRD or NIfTI file and set its spacing to exactly 0.625 mm."""
    image = read_volume(path)
    # The challenge's NRRD headers give 1. A NIfTI file with 1 mm would have been resampled.
    known = (1.0, SPACING_MM) if path.suffix == ".nrrd" else (SPACING_MM,)
    if not any(np.allclose(image.GetSpacing(), s, rtol=0, atol=TOLERANCE) for s in known):
        raise InputError(
            f"{path}: the spacing is {image.GetSpacing()}, expected {' or '.join(map(str, known))}"
        )
    image.SetSpacing((SPACING_MM,) * 3)
    return image


def _read_h5(path: Path, part: str) -> sitk.Image:
    """Read the ``image`` or the ``mask`` of a pre-processed file, as float32."""
    key = {"image": "image", "mask": "label"}[part]
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get(key), h5py.Dataset):
                raise InputError(f"{path}: no '{key}' in it, only {sorted(file)}")
            array = np.asarray(file[key])
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if array.ndim != 3 or array.dtype.kind not in "buif":
        raise InputError(
            f"{path}: expected '{key}' to be a 3D volume of real numbers, found {array.ndim}D, "
            f"{array.dtype}"
        )
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0).astype(np.float32))
    image.SetSpacing((SPACING_MM,) * 3)
    return image
