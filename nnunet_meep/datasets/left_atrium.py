"""The Left Atrium 2018 data into nnU-Net's raw format, with the MEEP paper's split.

100 late gadolinium enhanced MRI of the Atrial Segmentation Challenge 2018, each with a mask of
the left atrium. Three layouts are read, told apart by their file names at any depth:

- the challenge's own, ``<CASE>/lgemri.nrrd`` and ``<CASE>/laendo.nrrd``: mask values 0 and 255,
  and headers that say a spacing of 1 where it is 0.625 mm;
- pre-processed, ``<CASE>/mri_norm2.h5``: ``image`` (float32, normalised and cropped) and
  ``label`` (0 and 1), axes x, y, z, without geometry: 0.625 mm, origin 0, identity direction;
- NIfTI, ``imagesTr/LA_<CASE>_0000.nii.gz`` and ``labelsTr/LA_<CASE>.nii.gz``, and the same with
  ``Ts``: mask values 0 and 1, 0.625 mm.

In each, voxel (i, j, k) stays voxel (i, j, k) and intensities stay what they are; masks become
uint8 with 0 and 1. The paper's lists decide what is for training and what for testing, whatever
the folder a case comes from.
"""

from __future__ import annotations

import glob
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunet_meep.atomic import creating_folder
from nnunet_meep.errors import InputError
from nnunet_meep.gunzip import GUNZIP_ERRORS, gunzipped_size

# The lists of the paper's repository, sorted. The validation cases are training cases too: they
# are taken out of training in fold 0.
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
# One scan that the challenge released under two names: were it on both sides of a split, the
# validation would see a training case.
SAME_SCAN = ("0RZDK210BSMWAA6467LU", "CMPXO4J23G58J53Q98SZ")

SPACING_MM = 0.625
# Headers that differ by less, in mm or in a direction cosine, mean the same: float32 and text
# round differently.
TOLERANCE = 1e-3

# Name: where the images are, where the masks are (globs below SRC), the mask's values.
_LAYOUTS = {
    "the challenge's NRRD": ("**/lgemri.nrrd", "**/laendo.nrrd", (0, 255)),
    "pre-processed HDF5": ("**/mri_norm2.h5", "**/mri_norm2.h5", (0, 1)),
    "NIfTI": ("**/imagesT[rs]/LA_*_0000.nii.gz", "**/labelsT[rs]/LA_*.nii.gz", (0, 1)),
}


@dataclass(frozen=True)
class Converted:
    """What ``convert`` wrote: ``folder`` and how many cases, and which cases of SRC it left out."""

    folder: Path
    layout: str
    n_training: int
    n_test: int
    has_splits: bool
    skipped: list[str]


def convert(source: Path, dataset_id: int) -> Converted:
    """Write ``$nnUNet_raw/Dataset<ID>_LA`` from the scans below ``source``.

    The folder appears whole or not at all: everything is read and checked first. Scans that are
    in none of the paper's lists are left out.

    Args:
        source: a folder with one of the three layouts (see the module).
        dataset_id: nnU-Net's number of the data set, 1 to 999.

    Raises:
        InputError: one line for each problem: nnU-Net's folders, ``source``, any of its files.
        OSError: a folder that cannot be written.
    """
    problems = []
    name = f"Dataset{dataset_id:03d}_LA"
    raw = os.environ.get("nnUNet_raw")
    if not raw:
        problems.append("nnUNet_raw is not set: export it as nnU-Net's installation guide says")
    problems += _taken(name)
    if not source.is_dir():
        problems.append(f"{source}: no such folder")
    if not raw or problems:
        raise InputError("\n".join(problems))

    layout, files, skipped, problems = _find(source.resolve())
    training = [case for case in TRAINING_CASES if case in files]
    test = [case for case in TEST_CASES if case in files]
    if not training and not problems:
        problems.append(f"{source}: none of the paper's {len(TRAINING_CASES)} training scans found")
    splits = make_splits(training)
    problems += _conflicting_splits(name, splits)

    folder = Path(raw) / name
    with creating_folder(folder) as temporary:
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (temporary / part).mkdir()
        # Bars only where someone looks at them: in a log, stderr is for warnings and errors.
        for case, (image_file, mask_file) in tqdm(files.items(), unit="scan", disable=None):
            part = "Tr" if case in TRAINING_CASES else "Ts"
            try:
                image, mask = _read_case(image_file, mask_file, _LAYOUTS[layout][2])
            except InputError as error:
                problems += str(error).splitlines()
            if not problems:  # else the rest is only checked
                _write(image, temporary / f"images{part}" / f"LA_{case}_0000.nii.gz")
                _write(mask, temporary / f"labels{part}" / f"LA_{case}.nii.gz")
        if problems:
            # An HDF5 file is image and mask in one: what is wrong with both is said once.
            raise InputError("\n".join(dict.fromkeys(problems)))
        dataset = {
            "channel_names": {"0": "LGE_MRI"},
            "labels": {"background": 0, "LA": 1},
            "numTraining": len(training),
            "file_ending": ".nii.gz",
        }
        (temporary / "dataset.json").write_text(json.dumps(dataset, indent=4))
        if splits:
            (temporary / "splits_final.json").write_text(json.dumps(splits, indent=4))
    return Converted(folder, layout, len(training), len(test), bool(splits), skipped)


def make_splits(cases: Collection[str]) -> list[dict[str, list[str]]]:
    """nnU-Net's ``splits_final.json`` for those of the paper's training scans that are there.

    Fold 0 is the paper's split, folds 1 to 5 are a cross-validation of all training scans. They
    are in the file because nnU-Net silently draws a random split for a fold that is not.

    Args:
        cases: names of training scans, as in ``TRAINING_CASES``. What a fold does with a scan
            does not depend on the others.

    Returns:
        Six dicts with the case identifiers ``LA_<CASE>`` under ``train`` and ``val``, or none if
        any of those lists would be empty.
    """
    groups = sorted([SAME_SCAN, *((case,) for case in TRAINING_CASES if case not in SAME_SCAN)])
    # scikit-learn's KFold(5, shuffle=True, random_state=12345), which is nnU-Net's, written out:
    # numpy keeps RandomState's numbers the same for good.
    order = np.random.RandomState(12345).permutation(len(groups))
    held_out = [{case for i in part for case in groups[i]} for part in np.array_split(order, 5)]
    splits = [
        {
            "train": [f"LA_{case}" for case in sorted(cases) if case not in validation],
            "val": [f"LA_{case}" for case in sorted(cases) if case in validation],
        }
        for validation in (set(VALIDATION_CASES), *held_out)
    ]
    return splits if all(split["train"] and split["val"] for split in splits) else []


def _taken(name: str) -> list[str]:
    """Problems with folders that are there already: nnU-Net finds a data set by its number."""
    problems = []
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        root = os.environ.get(variable)
        for found in sorted(Path(root).glob(name[: len("Dataset000")] + "*")) if root else []:
            if found.name == name and variable == "nnUNet_raw":
                problems.append(f"{found} exists: remove it or choose another number with -d")
            elif found.name != name and found.is_dir():
                problems.append(
                    f"{found} has the same number, which nnU-Net refuses as ambiguous: "
                    "choose another with -d"
                )
    return problems


def _conflicting_splits(name: str, splits: list[dict[str, list[str]]]) -> list[str]:
    """A problem if nnU-Net's planner would end in an assert over an older splits_final.json."""
    root = os.environ.get("nnUNet_preprocessed")
    path = Path(root or "") / name / "splits_final.json"
    if not root or not splits or not path.exists():
        return []
    try:  # as the planner compares: as sets, and more folds than ours are fine
        same = [
            {part: sorted(fold[part]) for part in ("train", "val")}
            for fold in json.loads(path.read_text())[: len(splits)]
        ] == splits
    except (ValueError, TypeError, KeyError):
        same = False
    if same:
        return []
    return [f"{path} has other splits, on which nnU-Net's planner would fail: remove it"]


def _find(source: Path) -> tuple[str, dict[str, tuple[Path, Path]], list[str], list[str]]:
    """The layout, each listed case's image and mask, the cases in no list, and the problems."""
    found = {
        layout: (_by_case(source, images), _by_case(source, masks))
        for layout, (images, masks, _) in _LAYOUTS.items()
    }
    found = {layout: parts for layout, parts in found.items() if any(parts)}
    if not found:
        raise InputError(
            f"{source}: no Left Atrium 2018 data here. Expected are <CASE>/lgemri.nrrd and "
            "<CASE>/laendo.nrrd (as released, https://www.cardiacatlas.org/atriaseg2018-challenge/)"
            ", or <CASE>/mri_norm2.h5 (pre-processed, the repository yulequan/UA-MT on GitHub), or "
            "imagesTr/LA_<CASE>_0000.nii.gz and labelsTr/LA_<CASE>.nii.gz (NIfTI); "
            "the challenge's terms of use apply"
        )
    if len(found) > 1:
        raise InputError(
            f"{source}: more than one layout here, name a folder that has only one of them: "
            + ", ".join(f"{layout} ({len(images)} scans)" for layout, (images, _) in found.items())
        )
    ((layout, (images, masks)),) = found.items()

    files: dict[str, tuple[Path, Path]] = {}
    skipped = []
    problems = []
    for case in sorted(images | masks):
        if case not in TRAINING_CASES + TEST_CASES:
            skipped.append(case)
            continue
        both = {"image": images.get(case, []), "mask": masks.get(case, [])}
        here = next(path for paths in both.values() for path in paths)
        for part, paths in both.items():
            if not paths:
                problems.append(f"{here}: the {part} of this case is missing")
            if len(paths) > 1:
                problems.append(f"{case}: more than one file: {', '.join(map(str, paths))}")
        if len(both["image"]) == len(both["mask"]) == 1:
            files[case] = (images[case][0], masks[case][0])
    return layout, files, skipped, problems


def _by_case(source: Path, pattern: str) -> dict[str, list[Path]]:
    # glob.glob and not Path.glob: the latter does not follow links to folders everywhere.
    found = defaultdict(list)
    for relative in sorted(glob.glob(pattern, root_dir=source, recursive=True)):
        path = source / relative
        nifti = re.fullmatch(r"LA_(.+?)(_0000)?\.nii\.gz", path.name)
        found[nifti[1] if nifti else path.parent.name].append(path)
    return dict(found)


def _read_case(
    image_file: Path, mask_file: Path, mask_values: tuple[int, int]
) -> tuple[sitk.Image, sitk.Image]:
    """The image as it is and the mask as uint8 with 0 and 1, in one geometry.

    Raises:
        InputError: one line for each thing that is wrong with the case.
    """
    problems = []
    read: dict[str, sitk.Image] = {}
    for part, path in (("image", image_file), ("mask", mask_file)):
        try:
            read[part] = _read_h5(path, part) if path.suffix == ".h5" else _read_itk(path)
        except InputError as error:
            problems.append(str(error))

    if "image" in read:
        bad = np.count_nonzero(~np.isfinite(sitk.GetArrayViewFromImage(read["image"])))
        if bad:
            problems.append(f"{image_file}: {bad} voxels of the image are NaN or infinite")
    if "mask" in read:
        labels = sitk.GetArrayViewFromImage(read["mask"])
        values = np.unique(labels).tolist()
        if values != list(mask_values):
            shown = ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
            problems.append(
                f"{mask_file}: the mask has the values {shown}, expected {mask_values[0]} and "
                f"{mask_values[1]}"
            )
        mask = sitk.GetImageFromArray((labels == mask_values[1]).astype(np.uint8))
    if len(read) == 2:
        problems += _differences(read["image"], read["mask"], mask_file)
    if problems:
        raise InputError("\n".join(problems))
    mask.CopyInformation(read["image"])
    return read["image"], mask


def _differences(image: sitk.Image, mask: sitk.Image, mask_file: Path) -> list[str]:
    if image.GetSize() != mask.GetSize():
        return [f"{mask_file}: the mask's shape is {mask.GetSize()}, the image's {image.GetSize()}"]
    return [
        f"{mask_file}: the mask's {what} is {of_mask}, the image's {of_image}"
        for what, of_image, of_mask in (
            ("origin", image.GetOrigin(), mask.GetOrigin()),
            ("direction", image.GetDirection(), mask.GetDirection()),
        )
        if not np.allclose(of_image, of_mask, rtol=0, atol=TOLERANCE)
    ]


def _read_itk(path: Path) -> sitk.Image:
    """A NRRD or NIfTI file, its spacing set to exactly 0.625 mm."""
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
    # The challenge's headers say 1. In a NIfTI file, 1 mm would be somebody's resampling.
    known = (1.0, SPACING_MM) if path.suffix == ".nrrd" else (SPACING_MM,)
    if not any(np.allclose(image.GetSpacing(), s, rtol=0, atol=TOLERANCE) for s in known):
        raise InputError(
            f"{path}: the spacing is {image.GetSpacing()}, expected {' or '.join(map(str, known))}"
        )
    image.SetSpacing((SPACING_MM,) * 3)
    return image


def _read_h5(path: Path, part: str) -> sitk.Image:
    """The ``image`` or the ``mask`` of a pre-processed file, as float32."""
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


def _write(image: sitk.Image, path: Path) -> None:
    sitk.WriteImage(image, path, useCompression=True)
    try:  # ITK does not notice when the disk is full
        gunzipped_size(path)
    except GUNZIP_ERRORS as error:
        raise InputError(f"{path}: could not be written whole; is the disk full?") from error
