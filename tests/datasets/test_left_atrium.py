"""Left Atrium 2018: three layouts into one, the paper's split, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_meep.cli.convert_la import main
from nnunet_meep.datasets import raw_folder
from nnunet_meep.datasets.left_atrium import (
    SAME_SCAN,
    TEST_CASES,
    TRAINING_CASES,
    VALIDATION_CASES,
    find,
    make_splits,
)
from nnunet_meep.datasets.raw_folder import target
from nnunet_meep.errors import InputError

DATA = Path(__file__).parents[3] / "shared" / "data"
TRAIN, OTHER, TEST = TRAINING_CASES[0], TRAINING_CASES[1], TEST_CASES[0]
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


class Converted(NamedTuple):
    """What was written."""

    folder: Path
    n_training: int
    n_test: int
    has_splits: bool
    notes: list[str]


def convert(source: Path, dataset_id: int, **options: bool) -> Converted:
    dataset = find(source, **options)
    folder = target(dataset, dataset_id, overwrite=False)
    raw_folder.write(dataset, folder)
    counts = (dataset.n_training, dataset.n_test, bool(dataset.splits))
    return Converted(folder, *counts, dataset.notes)


def volume(seed: int = 0, shape: tuple[int, int, int] = (5, 4, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def outline(seed: int = 0, shape: tuple[int, int, int] = (5, 4, 3)) -> np.ndarray:
    mask = np.random.default_rng(seed + 1000).integers(0, 2, shape, dtype=np.uint8)
    mask[0, 0, 0], mask[1, 1, 1] = 0, 1
    return mask


def write(
    path: Path,
    array: np.ndarray,
    spacing: float = 0.625,
    origin: tuple[float, ...] = (0.0, 0.0, 0.0),
    direction: tuple[float, ...] = IDENTITY,
) -> None:
    """``array[i, j, k]`` becomes voxel (i, j, k) of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing((spacing,) * 3)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    sitk.WriteImage(image, path, useCompression=True)


def write_nrrd(root: Path, case: str, image: np.ndarray, mask: np.ndarray) -> None:
    folder = root / "download" / "Training Set" / case
    write(folder / "lgemri.nrrd", image, spacing=1.0)
    write(folder / "laendo.nrrd", mask * np.uint8(255), spacing=1.0)


def write_h5(root: Path, case: str, image: np.ndarray, mask: np.ndarray) -> None:
    path = root / "2018LA_Seg_Training Set" / case / "mri_norm2.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=image.astype(np.float32), compression="gzip")
        file.create_dataset("label", data=mask, compression="gzip")


def write_nifti(root: Path, case: str, image: np.ndarray, mask: np.ndarray) -> None:
    part = "Tr" if case in TRAINING_CASES else "Ts"
    write(root / f"images{part}" / f"LA_{case}_0000.nii.gz", image)
    write(root / f"labels{part}" / f"LA_{case}.nii.gz", mask)


LAYOUTS = {"nrrd": write_nrrd, "h5": write_h5, "nifti": write_nifti}


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path)).transpose(2, 1, 0)


def nothing_in(raw: Path) -> bool:
    return not raw.exists() or not any(raw.iterdir())


# What is written


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_voxel_stays_where_it_is(layout: str, source: Path, raw: Path) -> None:
    for seed, case in enumerate((TRAIN, TEST)):
        LAYOUTS[layout](source, case, volume(seed), outline(seed))
    done = convert(source, 501)
    assert (done.folder, done.n_training, done.n_test) == (raw / "Dataset501_LA", 1, 1)
    for seed, (case, part) in enumerate(((TRAIN, "Tr"), (TEST, "Ts"))):
        image_file = done.folder / f"images{part}" / f"LA_{case}_0000.nii.gz"
        mask_file = done.folder / f"labels{part}" / f"LA_{case}.nii.gz"
        np.testing.assert_array_equal(voxels(image_file), volume(seed))
        np.testing.assert_array_equal(voxels(mask_file), outline(seed))
        image, mask = sitk.ReadImage(image_file), sitk.ReadImage(mask_file)
        assert image.GetPixelID() == (sitk.sitkFloat32 if layout == "h5" else sitk.sitkUInt8)
        assert mask.GetPixelID() == sitk.sitkUInt8
        for written in (image, mask):
            assert written.GetSpacing() == (0.625, 0.625, 0.625)
            point = written.TransformIndexToPhysicalPoint((4, 2, 1))
            assert point == pytest.approx((4 * 0.625, 2 * 0.625, 0.625))
    assert len(list(done.folder.rglob("*.nii.gz"))) == 4


@pytest.mark.parametrize("said", [1.0, 0.625, 0.6250004])
def test_origin_and_direction_of_the_header_stay(said: float, source: Path, raw: Path) -> None:
    for name, array in (("lgemri", volume()), ("laendo", outline() * np.uint8(255))):
        write(source / TRAIN / f"{name}.nrrd", array, said, (10.0, -20.0, 30.0), FLIPPED)
    folder = convert(source, 501).folder
    for path in (f"imagesTr/LA_{TRAIN}_0000.nii.gz", f"labelsTr/LA_{TRAIN}.nii.gz"):
        written = sitk.ReadImage(folder / path)
        assert written.GetSpacing() == (0.625, 0.625, 0.625)
        assert written.GetDirection() == FLIPPED
        point = written.TransformIndexToPhysicalPoint((4, 2, 1))
        assert point == pytest.approx((10 - 4 * 0.625, -20 - 2 * 0.625, 30 + 0.625))


def test_a_rounded_origin_of_the_mask_becomes_the_image_s(source: Path, raw: Path) -> None:
    write(source / TRAIN / "lgemri.nrrd", volume(), origin=(1.0, 2.0, 3.0))
    write(source / TRAIN / "laendo.nrrd", outline() * np.uint8(255), origin=(1.0004, 2.0, 3.0))
    folder = convert(source, 501).folder
    mask = sitk.ReadImage(folder / "labelsTr" / f"LA_{TRAIN}.nii.gz")
    assert mask.GetOrigin() == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_intensities_of_other_types_stay(dtype: type, source: Path, raw: Path) -> None:
    image = (volume().astype(dtype) - 100) * dtype(3)
    write(source / "imagesTr" / f"LA_{TRAIN}_0000.nii.gz", image)
    write(source / "labelsTr" / f"LA_{TRAIN}.nii.gz", outline().astype(np.float64))
    folder = convert(source, 501).folder
    written = voxels(folder / "imagesTr" / f"LA_{TRAIN}_0000.nii.gz")
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, image)
    assert voxels(folder / "labelsTr" / f"LA_{TRAIN}.nii.gz").dtype == np.uint8


def test_the_lists_decide_and_not_the_folder(source: Path, raw: Path) -> None:
    write(source / "imagesTs" / f"LA_{TRAIN}_0000.nii.gz", volume())
    write(source / "labelsTs" / f"LA_{TRAIN}.nii.gz", outline())
    write(source / "imagesTr" / f"LA_{TEST}_0000.nii.gz", volume())
    write(source / "labelsTr" / f"LA_{TEST}.nii.gz", outline())
    folder = convert(source, 501).folder
    assert [path.name for path in (folder / "labelsTr").iterdir()] == [f"LA_{TRAIN}.nii.gz"]
    assert [path.name for path in (folder / "labelsTs").iterdir()] == [f"LA_{TEST}.nii.gz"]


def test_linked_folders_are_followed(source: Path, raw: Path, tmp_path: Path) -> None:
    write_nrrd(tmp_path / "elsewhere", TRAIN, volume(), outline())
    source.mkdir()
    (source / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert convert(source, 501).n_training == 1


def test_a_complete_data_set(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, case in enumerate(TRAINING_CASES + TEST_CASES):
        write_nifti(source, case, volume(seed), outline(seed))
    assert main([str(source), "-d", "7"]) == 0
    out, err = capfd.readouterr()
    folder = raw / "Dataset007_LA"
    assert err == ""
    assert out.splitlines() == [
        f"Wrote {folder} from NIfTI: 80 training scans, 20 test scans, splits_final.json with "
        "folds 0 (the paper's) to 5",
        "Next: meep-benchmark init 7, to compare trainers; or by hand: "
        "nnUNetv2_plan_and_preprocess -d 7 --verify_dataset_integrity",
    ]
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "LGE_MRI"},
        "labels": {"background": 0, "LA": 1},
        "numTraining": 80,
        "file_ending": ".nii.gz",
    }
    assert json.loads((folder / "splits_final.json").read_text()) == make_splits(TRAINING_CASES)
    n_files = {part.name: len(list(part.iterdir())) for part in folder.iterdir() if part.is_dir()}
    assert n_files == {"imagesTr": 80, "labelsTr": 80, "imagesTs": 20, "labelsTs": 20}

    # Older splits in nnU-Net's other folder: the same (and one more) are fine, others are not.
    monkeypatch.setenv("nnUNet_preprocessed", str(raw.parent / "preprocessed"))
    older = raw.parent / "preprocessed" / "Dataset007_LA" / "splits_final.json"
    older.parent.mkdir(parents=True)
    splits = make_splits(TRAINING_CASES)
    for text in (json.dumps(splits[:5]), json.dumps({"train": [], "val": []}), "[1", "[1, 2]"):
        shutil.rmtree(folder, ignore_errors=True)
        older.write_text(text)
        assert main([str(source), "-d", "7"]) == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"Error: {older} has other splits")
        assert nothing_in(raw)
    for split in splits:
        split["train"].reverse()
    older.write_text(json.dumps([*splits, splits[0]]))
    assert main([str(source), "-d", "7"]) == 0


@pytest.mark.slow
def test_nnunet_accepts_the_result(source: Path, raw: Path, tmp_path: Path) -> None:
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        _maybe_copy_splits_file,
    )
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    for seed, case in enumerate(TRAINING_CASES):
        write_nrrd(source, case, volume(seed), outline(seed))
    folder = convert(source, 501).folder
    verify_dataset_integrity(str(folder), num_processes=1)
    for _ in range(2):
        _maybe_copy_splits_file(str(folder / "splits_final.json"), str(tmp_path / "splits.json"))


# Splits


def test_the_lists_of_the_paper() -> None:
    assert (len(set(TRAINING_CASES)), len(set(TEST_CASES))) == (80, 20)
    assert not set(TRAINING_CASES) & set(TEST_CASES)
    assert set(VALIDATION_CASES) | set(SAME_SCAN) <= set(TRAINING_CASES)
    for cases in (TRAINING_CASES, VALIDATION_CASES, TEST_CASES):
        assert list(cases) == sorted(cases)


def test_splits() -> None:
    splits = make_splits(TRAINING_CASES)
    everything = sorted(f"LA_{case}" for case in TRAINING_CASES)
    assert len(splits) == 6
    for split in splits:
        assert sorted(split["train"] + split["val"]) == everything
        assert {f"LA_{case}" in split["val"] for case in SAME_SCAN} in ({True}, {False})
    assert splits[0]["val"] == [
        "LA_23X6SY44VT9KFHR7S7OC",
        "LA_AT5CRO5JUDBWD4RUPXSQ",
        "LA_CB5P5W7X310NIIVU7UZV",
        "LA_CLXFYOBQDCVXQ9P7YC07",
    ]
    assert sorted(case for split in splits[1:] for case in split["val"]) == everything
    assert {len(split["val"]) for split in splits[1:]} == {16}


def test_the_cross_validation_is_nnunet_s_over_distinct_scans() -> None:
    from sklearn.model_selection import KFold

    distinct = sorted(set(TRAINING_CASES) - {SAME_SCAN[1]})
    folds = KFold(5, shuffle=True, random_state=12345).split(distinct)
    for split, (_, held_out) in zip(make_splits(TRAINING_CASES)[1:], folds, strict=True):
        assert set(split["val"]) - {f"LA_{SAME_SCAN[1]}"} == {f"LA_{distinct[i]}" for i in held_out}


def test_a_missing_scan_changes_nothing_for_the_others() -> None:
    gone = {f"LA_{VALIDATION_CASES[0]}", f"LA_{SAME_SCAN[0]}"}
    there = [case for case in TRAINING_CASES if f"LA_{case}" not in gone]
    for full, fewer in zip(make_splits(TRAINING_CASES), make_splits(there), strict=True):
        for part in ("train", "val"):
            assert fewer[part] == [case for case in full[part] if case not in gone]


def test_no_splits_with_an_empty_part() -> None:
    assert make_splits(VALIDATION_CASES) == []
    assert make_splits([case for case in TRAINING_CASES if case not in VALIDATION_CASES]) == []


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ((OTHER,), "79 of the paper's 80 training scans and 0 of its 20 test scans are there"),
        (VALIDATION_CASES, "no splits_final.json, nnU-Net draws its own"),
    ],
)
def test_fewer_scans_than_the_paper_s_are_one_warning(
    left_out: tuple[str, ...],
    expected: str,
    source: Path,
    raw: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for case in TRAINING_CASES:
        if case not in left_out:
            write_h5(source, case, volume(), outline())
    assert main([str(source), "-d", "501"]) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("Warning: ")
    assert expected in line
    written = raw / "Dataset501_LA" / "splits_final.json"
    assert written.exists() == (len(left_out) == 1)
    if written.exists():
        assert f"LA_{OTHER}" not in written.read_text()


def test_cases_in_no_list_are_named_and_left_out(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_nrrd(source, TRAIN, volume(), outline())
    (source / "Testing Set" / "SOMEOTHERCASE").mkdir(parents=True)
    (source / "Testing Set" / "SOMEOTHERCASE" / "lgemri.nrrd").write_text("not even looked at")
    assert main([str(source), "-d", "501"]) == 0
    assert "Skipped 1 cases that are in none of the paper's lists: SOMEOTHERCASE" in (
        capfd.readouterr().out
    )
    assert [path.name for path in (raw / "Dataset501_LA" / "imagesTr").iterdir()] == [
        f"LA_{TRAIN}_0000.nii.gz"
    ]


# What is refused


def refused(source: Path, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr of a command that must fail."""
    assert main([str(source), "-d", "501"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    return err.removeprefix("Error: ").splitlines()


def cut(path: Path, keep: Callable[[int], int]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: keep(len(content))])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # the checksum itself
    path.write_bytes(content)


def cut_before_compressing(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-10]))


def replace_h5(path: Path, **arrays: object) -> None:
    with h5py.File(path, "a") as file:
        for key, array in arrays.items():
            del file[key]
            if array is not None:
                file[key] = array


def with_nan() -> np.ndarray:
    image = volume().astype(np.float32)
    image[1, 2, 1] = np.nan
    image[0, 0, 0] = np.inf
    return image


def two_components() -> np.ndarray:
    return np.zeros((2, 5, 4, 3), np.uint8)


BAD_NRRD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "spacing": (
        "lgemri.nrrd",
        lambda path: write(path, volume(), spacing=0.8),
        "the spacing is (0.8, 0.8, 0.8), expected 1.0 or 0.625",
    ),
    "mask values": (
        "laendo.nrrd",
        lambda path: write(path, outline() + np.uint8(254), spacing=1.0),
        "the mask has the values 254, 255, expected 0 and 255",
    ),
    "mask already 0 and 1": (
        "laendo.nrrd",
        lambda path: write(path, outline(), spacing=1.0),
        "the mask has the values 0, 1, expected 0 and 255",
    ),
    "many mask values": (
        "laendo.nrrd",
        lambda path: write(path, np.arange(60, dtype=np.uint8).reshape(5, 4, 3), spacing=1.0),
        "the mask has the values 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..., expected 0 and 255",
    ),
    "empty mask": (
        "laendo.nrrd",
        lambda path: write(path, np.zeros((5, 4, 3), np.uint8), spacing=1.0),
        "the mask has the values 0, expected 0 and 255",
    ),
    "other shape": (
        "laendo.nrrd",
        lambda path: write(path, outline(shape=(5, 4, 2)) * np.uint8(255), spacing=1.0),
        "the mask's shape is (5, 4, 2), the image's (5, 4, 3)",
    ),
    "other origin": (
        "laendo.nrrd",
        lambda path: write(path, outline() * np.uint8(255), origin=(0.0, 0.01, 0.0)),
        "the mask's origin is (0.0, 0.01, 0.0), the image's (0.0, 0.0, 0.0)",
    ),
    "other direction": (
        "laendo.nrrd",
        lambda path: write(path, outline() * np.uint8(255), direction=FLIPPED),
        f"the mask's direction is {FLIPPED}, the image's {IDENTITY}",
    ),
    "cut short": ("lgemri.nrrd", lambda path: cut(path, lambda n: n - 30), "cannot be read ("),
    "empty file": ("laendo.nrrd", lambda path: cut(path, lambda n: 0), "cannot be read ("),
    "text": ("lgemri.nrrd", lambda path: path.write_text("404 not found"), "cannot be read ("),
    "slice": (
        "lgemri.nrrd",
        lambda path: sitk.WriteImage(sitk.GetImageFromArray(volume()[0]), path),
        "expected a 3D volume of real numbers, found 2D, 8-bit unsigned integer",
    ),
    "colours": (
        "lgemri.nrrd",
        lambda path: sitk.WriteImage(
            sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True), path
        ),
        "expected a 3D volume of real numbers, found 3D, vector of 8-bit unsigned integer",
    ),
    "complex": (
        "lgemri.nrrd",
        lambda path: write(path, volume().astype(np.complex64), spacing=1.0),
        "expected a 3D volume of real numbers, found 3D, complex of 32-bit float",
    ),
}
BAD_H5: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no label": (
        "mri_norm2.h5",
        lambda path: replace_h5(path, label=None),
        "no 'label' in it, only ['image']",
    ),
    "no image": (
        "mri_norm2.h5",
        lambda path: replace_h5(path, image=None),
        "no 'image' in it, only ['label']",
    ),
    "cut short": (
        "mri_norm2.h5",
        lambda path: cut(path, lambda n: n // 2),
        "cannot be read (",
    ),
    "text": ("mri_norm2.h5", lambda path: path.write_text("404 not found"), "cannot be read ("),
    "label values": (
        "mri_norm2.h5",
        lambda path: replace_h5(path, label=outline() * np.uint8(255)),
        "the mask has the values 0.0, 255.0, expected 0 and 1",
    ),
    "strings": (
        "mri_norm2.h5",
        lambda path: replace_h5(path, image=np.full((5, 4, 3), b"7")),
        "expected 'image' to be a 3D volume of real numbers, found 3D, |S1",
    ),
    "one number": (
        "mri_norm2.h5",
        lambda path: replace_h5(path, label=1),
        "expected 'label' to be a 3D volume of real numbers, found 0D, int64",
    ),
    "other shape": (
        "mri_norm2.h5",
        lambda path: replace_h5(path, label=outline(shape=(4, 5, 3))),
        "the mask's shape is (4, 5, 3), the image's (5, 4, 3)",
    ),
    "not finite": (
        "mri_norm2.h5",
        lambda path: replace_h5(path, image=with_nan()),
        "2 voxels of the image are NaN or infinite",
    ),
}
IMAGE, MASK = f"LA_{OTHER}_0000.nii.gz", f"LA_{OTHER}.nii.gz"
BAD_NIFTI: dict[str, tuple[str, Callable[[Path], object], str]] = {
    # ITK itself reads the first two without a word.
    "cut in the middle": (IMAGE, lambda path: cut(path, lambda n: n // 2), "cannot be read ("),
    "cut at the end": (MASK, lambda path: cut(path, lambda n: n - 1), "cannot be read ("),
    "cut, then compressed": (IMAGE, cut_before_compressing, "cannot be read (cut short before"),
    "damaged": (IMAGE, flip_a_byte, "cannot be read (CRC check failed"),
    "empty file": (IMAGE, lambda path: cut(path, lambda n: 0), "cannot be read ("),
    "text": (MASK, lambda path: path.write_text("404 not found"), "cannot be read ("),
    "spacing": (
        IMAGE,
        lambda path: write(path, volume(), spacing=1.0),
        "the spacing is (1.0, 1.0, 1.0), expected 0.625",
    ),
    "mask values": (
        MASK,
        lambda path: write(path, outline() * np.float32(0.5)),
        "the mask has the values 0.0, 0.5, expected 0 and 1",
    ),
}


@pytest.mark.parametrize(
    ("layout", "spoil"),
    [
        pytest.param(layout, spoil, id=f"{layout}: {name}")
        for layout, cases in (("nrrd", BAD_NRRD), ("h5", BAD_H5), ("nifti", BAD_NIFTI))
        for name, spoil in cases.items()
    ],
)
def test_a_bad_file_is_one_line_and_nothing_is_written(
    layout: str,
    spoil: tuple[str, Callable[[Path], object], str],
    source: Path,
    raw: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for seed, case in enumerate((TRAIN, OTHER, TEST)):
        LAYOUTS[layout](source, case, volume(seed), outline(seed))
    name, damage, expected = spoil
    (path,) = (path for path in source.rglob(name) if OTHER in str(path))
    damage(path)
    (line,) = refused(source, capfd)
    assert line.startswith(f"{path}: ")
    assert expected in line
    assert nothing_in(raw)


@pytest.mark.parametrize("layout", ["nrrd", "nifti"])
@pytest.mark.parametrize("part", ["image", "mask"])
def test_a_missing_file(
    layout: str, part: str, source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for case in (TRAIN, OTHER):
        LAYOUTS[layout](source, case, volume(), outline())
    names = {"image": ("lgemri.nrrd", IMAGE), "mask": ("laendo.nrrd", MASK)}
    for path in source.rglob("*"):
        if path.name in names[part] and OTHER in str(path):
            path.unlink()
    (line,) = refused(source, capfd)
    assert OTHER in line
    assert line.endswith(f"the {part} of this case is missing")
    assert nothing_in(raw)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_files_for_one_case(
    layout: str, source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for part in ("one", "two"):
        LAYOUTS[layout](source / part, TRAIN, volume(), outline())
    lines = refused(source, capfd)
    assert len(lines) == (1 if layout == "h5" else 2)  # files that are there twice
    for line in lines:
        assert line.startswith(f"{TRAIN}: more than one file: {source / 'one'}")
        assert str(source / "two") in line
    assert nothing_in(raw)


def test_all_problems_are_listed(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for case in (TRAIN, OTHER, TEST):
        write_nrrd(source, case, volume(), outline())
    folder = source / "download" / "Training Set"
    write(folder / TRAIN / "lgemri.nrrd", with_nan(), spacing=0.8)
    write(folder / TRAIN / "laendo.nrrd", outline(), spacing=1.0)
    (folder / OTHER / "laendo.nrrd").unlink()
    cut(folder / TEST / "lgemri.nrrd", lambda n: n - 30)
    lines = refused(source, capfd)
    assert len(lines) == 4
    for path in (
        folder / TRAIN / "lgemri.nrrd",
        folder / TRAIN / "laendo.nrrd",
        folder / OTHER / "lgemri.nrrd",
        folder / TEST / "lgemri.nrrd",
    ):
        assert sum(line.startswith(f"{path}: ") for line in lines) == 1
    assert nothing_in(raw)


def test_nothing_to_convert(source: Path, raw: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(source, capfd)
    assert line == f"{source}: no such folder"
    source.mkdir()
    (line,) = refused(source, capfd)
    for expected in ("lgemri.nrrd", "mri_norm2.h5", "imagesTr", "atriaseg2018", "terms of use"):
        assert expected in line
    write_nrrd(source, TEST, volume(), outline())
    (line,) = refused(source, capfd)
    assert line == f"{source}: none of the paper's 80 training scans found"
    write_h5(source, TRAIN, volume(), outline())
    (line,) = refused(source, capfd)
    assert "the challenge's NRRD (1 scans), pre-processed HDF5 (1 scans)" in line
    assert nothing_in(raw)


@pytest.mark.parametrize("value", [None, ""])
def test_nnunet_raw_not_set(
    value: str | None,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv("nnUNet_raw", value)
    write_nrrd(source, TRAIN, volume(), outline())
    (line,) = refused(source, capfd)
    assert line.startswith("nnUNet_raw: expected nnU-Net's folder")


def test_the_target_is_never_overwritten(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_nrrd(source, TRAIN, volume(), outline())
    (raw / "Dataset501_LA").mkdir(parents=True)
    (raw / "Dataset501_LA" / "mine.txt").write_text("kept")
    (line,) = refused(source, capfd)
    assert "exists: --overwrite replaces it, or choose another number with -d" in line
    assert [path.name for path in raw.rglob("*")] == ["Dataset501_LA", "mine.txt"]


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_another_data_set_of_this_number(
    variable: str,
    source: Path,
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_nrrd(source, TRAIN, volume(), outline())
    monkeypatch.setenv(variable, str(tmp_path / "there"))
    other = tmp_path / "there" / "Dataset501_Atrium"
    other.mkdir(parents=True)
    (line,) = refused(source, capfd)
    assert line.startswith(f"{other} has the same number")
    assert nothing_in(raw)


def test_an_interrupted_run_leaves_nothing(
    source: Path,
    raw: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_nrrd(source, TRAIN, volume(), outline())
    real = raw_folder._write

    def interrupt(image: sitk.Image, path: Path) -> None:
        real(image, path)
        assert path.exists()
        if "labels" in str(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(raw_folder, "_write", interrupt)
    assert main([str(source), "-d", "501"]) == 130
    assert capfd.readouterr().err == "Interrupted\n"
    assert nothing_in(raw)


def test_a_full_disk_is_noticed(source: Path, raw: Path, capfd: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource", reason="limits a file's size the Unix way")
    write_nrrd(source, TRAIN, volume(shape=(40, 40, 40)), outline(shape=(40, 40, 40)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        (line,) = refused(source, capfd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert line.startswith(f"{raw}/Dataset501_")
    assert line.endswith(".nii.gz: could not be written whole; is the disk full?")
    assert nothing_in(raw)


def test_the_library_raises_one_exception(source: Path, raw: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        convert(source, 501)


# Real scans


def need(*folders: str) -> None:
    for folder in folders:
        if not (DATA / folder).is_dir():
            pytest.skip(f"the data are not here: {DATA / folder}")


def link(source: Path, *cases: str) -> None:
    """A NIfTI layout with some of the real scans."""
    for case in cases:
        part = "Tr" if case in TRAINING_CASES else "Ts"
        for name in (f"images{part}/LA_{case}_0000.nii.gz", f"labels{part}/LA_{case}.nii.gz"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(DATA / "la" / name, source / name)


def test_real_scans_agree_between_layouts(source: Path, raw: Path) -> None:
    need("la", "la_h5")
    train, test = "06SR5RBREL16DQ6M8LWS", "UPT6DX9IQY9JAZ7HJKA7"
    link(source, train, test)
    from_nifti = convert(source, 501).folder
    from_h5 = convert(DATA / "la_h5", 502).folder
    for part, case in (("Tr", train), ("Ts", test)):
        mask = f"labels{part}/LA_{case}.nii.gz"
        np.testing.assert_array_equal(voxels(from_h5 / mask), voxels(from_nifti / mask))
        # The pre-processed intensities are normalised: a line through the grey values.
        image = f"images{part}/LA_{case}_0000.nii.gz"
        grey, normalised = voxels(from_nifti / image), voxels(from_h5 / image)
        step, offset = np.polyfit(grey.ravel(), normalised.ravel(), 1)
        np.testing.assert_allclose(normalised, grey * step + offset, atol=1e-4)
        for name in (mask, image):
            one, other = (sitk.ReadImage(folder / name) for folder in (from_nifti, from_h5))
            assert one.GetSpacing() == other.GetSpacing() == (0.625, 0.625, 0.625)
            assert one.GetOrigin() == other.GetOrigin()
            assert one.GetDirection() == other.GetDirection()


def test_the_scan_with_two_names(source: Path, raw: Path) -> None:
    need("la")
    link(source, *SAME_SCAN)
    folder = convert(source, 501).folder
    masks, images = [], []
    for case in SAME_SCAN:  # cropped differently, so compare what lies in the masks' boxes
        mask = voxels(folder / "labelsTr" / f"LA_{case}.nii.gz")
        box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(mask))
        masks.append(mask[box])
        images.append(voxels(folder / "imagesTr" / f"LA_{case}_0000.nii.gz")[box].astype(float))
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_allclose(images[0], images[1], atol=3)  # of 255


def test_real_scans(source: Path, raw: Path) -> None:
    need("la")
    names = [
        name
        for part, cases in (("Tr", TRAINING_CASES[::10]), ("Ts", TEST_CASES[::10]))
        for case in cases
        for name in (f"images{part}/LA_{case}_0000.nii.gz", f"labels{part}/LA_{case}.nii.gz")
    ]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).symlink_to(DATA / "la" / name)
    done = convert(source, 501)
    assert (done.n_training, done.n_test, done.has_splits) == (8, 2, False)
    for name in names:
        before, after = sitk.ReadImage(DATA / "la" / name), sitk.ReadImage(done.folder / name)
        assert sitk.Hash(before) == sitk.Hash(after)
        assert after.GetPixelID() == sitk.sitkUInt8
        for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(before, get)() == getattr(after, get)()


# The challenge's own test scans, and what both converters share


def write_challenge(source: Path) -> None:
    for seed, case in enumerate((*TRAINING_CASES, *TEST_CASES)):
        write_nrrd(source, case, volume(seed), outline(seed))
    for seed, case in enumerate(("NEWCASE1", "NEWCASE2")):
        folder = source / "download" / "Testing Set" / case
        write(folder / "lgemri.nrrd", volume(500 + seed), spacing=1.0)
        write(folder / "laendo.nrrd", outline(500 + seed) * np.uint8(255), spacing=1.0)


def test_the_challenge_s_own_test_scans(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_challenge(source)
    assert main([str(source), "-d", "501", "--challenge-test"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "100 training scans, 2 test scans" in out
    folder = raw / "Dataset501_LA"
    tests = sorted(path.name for path in (folder / "labelsTs").iterdir())
    assert tests == ["LA_NEWCASE1.nii.gz", "LA_NEWCASE2.nii.gz"]
    splits = json.loads((folder / "splits_final.json").read_text())
    assert splits[0] == make_splits(TRAINING_CASES)[0]  # the paper's, without its test scans
    everything = sorted(f"LA_{case}" for case in (*TRAINING_CASES, *TEST_CASES))
    for split in splits[1:]:
        assert sorted(split["train"] + split["val"]) == everything
        assert {f"LA_{case}" in split["val"] for case in SAME_SCAN} in ({True}, {False})
    assert sorted(case for split in splits[1:] for case in split["val"]) == everything


def test_without_a_testing_set_there_is_no_challenge_test(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_nrrd(source, TRAIN, volume(), outline())
    assert main([str(source), "-d", "501", "--challenge-test"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "expected scans in a folder 'Testing Set', found none (--challenge-test)" in line
    assert nothing_in(raw)


def test_a_dry_run_and_stray_files(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_nrrd(source, TRAIN, volume(), outline())
    folder = source / "download" / "Training Set" / TRAIN
    (folder / "desktop.ini").write_text("")
    assert main([str(source), "-d", "501", "--dry-run"]) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[0] == f"LA_{TRAIN} (Tr): {folder / 'lgemri.nrrd'}, {folder / 'laendo.nrrd'}"
    assert out[1] == f"Skipped 1 files that are no scans: {folder / 'desktop.ini'}"
    assert out[-1].startswith(f"Would write {raw / 'Dataset501_LA'}")
    assert nothing_in(raw)


def test_an_older_folder_is_replaced_when_asked(source: Path, raw: Path) -> None:
    write_nrrd(source, TRAIN, volume(), outline())
    assert main([str(source), "-d", "501"]) == 0
    (raw / "Dataset501_LA" / "old.txt").write_text("old")
    assert main([str(source), "-d", "501"]) == 1
    assert (raw / "Dataset501_LA" / "old.txt").exists()
    assert main([str(source), "-d", "501", "--overwrite"]) == 0
    assert not (raw / "Dataset501_LA" / "old.txt").exists()
    assert [path.name for path in raw.iterdir()] == ["Dataset501_LA"]
