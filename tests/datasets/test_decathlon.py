"""Tasks of the Medical Segmentation Decathlon: channels, labels, and what is refused."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.dataset_conversion.convert_MSD_dataset import split_4d_nifti

from nnunet_meep.cli.convert_msd import main

SHAPE = (5, 4, 3)
OBLIQUE = np.array(
    [[-0.8, 0.3, 0, 40], [0.3, 0.8, 0, -20], [0, 0, 2.5, 7.25], [0, 0, 0, 1]], dtype=float
)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, OBLIQUE), path)


def write_task(task: Path, cases: str, modalities: tuple[str, ...], **changes: Any) -> None:
    """A task as it is unpacked: with hidden files of macOS, and test scans without labels."""
    shape = SHAPE if len(modalities) == 1 else (*SHAPE, len(modalities))
    for seed, case in enumerate(cases):
        rng = np.random.default_rng(seed)
        write(task / "imagesTr" / f"{case}.nii.gz", rng.normal(size=shape).astype(np.float32))
        write(task / "labelsTr" / f"{case}.nii.gz", rng.integers(0, 3, SHAPE, dtype=np.uint8))
    write(task / "imagesTs" / "z.nii.gz", np.zeros(shape, np.float32))
    (task / "imagesTr" / "._a.nii.gz").write_text("left by macOS")
    files = [f"./{{}}/{case}.nii.gz" for case in cases]
    description = {
        "name": "A task",
        "modality": dict(enumerate(modalities)),
        "labels": {"0": "background", "1": "Inner", "2": "Outer"},
        "training": [{"image": f.format("imagesTr"), "label": f.format("labelsTr")} for f in files],
        "test": ["./imagesTs/z.nii.gz"],
    }
    (task / "dataset.json").write_text(json.dumps(description | changes))


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return tmp_path / "Task05_Prostate"


def test_modalities_become_channels_as_nnunet_splits_them(
    task: Path, raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_task(task, "abcd", ("T2", "CT"))
    assert main([str(task), "-d", "12", "--test", "1", "--validation", "1"]) == 0
    out, err = capfd.readouterr()
    folder = raw / "Dataset012_Prostate"
    assert err == ""
    assert out.splitlines()[:3] == [
        f"Skipped 1 files that are no scans: {task / 'imagesTr' / '._a.nii.gz'}",
        "Skipped 1 scans without labels, in imagesTs",
        f"Wrote {folder} from the Medical Segmentation Decathlon's Task05_Prostate: 3 training "
        "scans, 1 test scans, splits_final.json with fold 0 (1 validation scans)",
    ]
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "T2", "1": "CT"},
        "labels": {"background": 0, "Inner": 1, "Outer": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    splits = json.loads((folder / "splits_final.json").read_text())
    assert splits == [{"train": ["a", "b"], "val": ["c"]}]
    (tmp_path / "split").mkdir()
    for case in "abcd":
        part = "Ts" if case == "d" else "Tr"
        split_4d_nifti(str(task / "imagesTr" / f"{case}.nii.gz"), str(tmp_path / "split"))
        for name in (f"{case}_0000.nii.gz", f"{case}_0001.nii.gz"):
            ours = sitk.ReadImage(folder / f"images{part}" / name)
            theirs = sitk.ReadImage(tmp_path / "split" / name)
            assert sitk.Hash(ours) == sitk.Hash(theirs)
            for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection", "GetPixelID"):
                assert getattr(ours, get)() == getattr(theirs, get)()
        name = f"{case}.nii.gz"
        written, read = folder / f"labels{part}" / name, task / "labelsTr" / name
        assert filecmp.cmp(written, read, shallow=False)
    assert len(list(folder.rglob("*.nii.gz"))) == 3 * 4


def test_scans_with_one_modality_are_copied_and_missing_ones_said(
    task: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_task(task, "abc", ("MRI",))
    for folder in ("imagesTr", "labelsTr"):
        (task / folder / "b.nii.gz").unlink()
    assert main([str(task), "-d", "12"]) == 0
    assert capfd.readouterr().err == (
        "Warning: 1 of the 3 training scans in dataset.json are not there: b\n"
    )
    written = raw / "Dataset012_Prostate" / "imagesTr"
    assert [path.name for path in sorted(written.iterdir())] == ["a_0000.nii.gz", "c_0000.nii.gz"]
    for case in "ac":
        read = task / "imagesTr" / f"{case}.nii.gz"
        assert filecmp.cmp(written / f"{case}_0000.nii.gz", read, shallow=False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"modality": {"0": "T2"}}, "expected a 3D volume of real numbers, found 4D"),
        (
            {"modality": {"0": "T2", "1": "CT", "2": "PET"}},
            "expected a 4D volume with 3 channels of real numbers, found shape (5, 4, 3, 2)",
        ),
        ({"labels": {"0": "background", "1": "Inner"}}, "expected only the labels 0, 1, found 2"),
    ],
)
def test_scans_that_are_not_as_dataset_json_says(
    changes: dict[str, Any],
    expected: str,
    task: Path,
    raw: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_task(task, "a", ("T2", "CT"), **changes)
    assert main([str(task), "-d", "12"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"Error: {task}/")
    assert "a.nii.gz" in line
    assert expected in line
    assert not raw.exists() or not any(raw.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "expected this file of the task, found none"),
        ("{", 'expected JSON with "modality", "labels" and "training"'),
        ('{"modality": {"0": "T2"}}', "got KeyError('labels')"),
        ('{"modality": {"1": "T2"}, "labels": {}, "training": []}', "got KeyError(0)"),
        ('{"modality": {}, "labels": {}, "training": []}', 'at least one entry in "modality"'),
        ('{"modality": {"0": "T2"}, "labels": {}, "training": []}', "expected at least one label"),
        ('{"modality": ["T2"], "labels": {}, "training": []}', "got AttributeError("),
    ],
)
def test_a_description_that_is_none(
    text: str | None, expected: str, task: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_task(task, "a", ("T2",))
    path = task / "dataset.json"
    path.unlink() if text is None else path.write_text(text)
    assert main([str(task), "-d", "12"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"Error: {path}")
    assert expected in line


def test_a_folder_that_is_no_task(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path / "prostate", "a", ("T2",))
    (tmp_path / "Task01_Brain").mkdir()
    (tmp_path / "prostate" / "dataset.json").rename(tmp_path / "Task01_Brain" / "dataset.json")
    for name, expected in (
        (
            "prostate",
            "expected a task folder of the Medical Segmentation Decathlon, TaskNN_NAME, got "
            "prostate; for folders of other scans there is meep-convert-folder",
        ),
        ("Task01_Brain/imagesTr", "expected this folder of the task, found none"),
        ("Task02_Heart", "no such folder"),
    ):
        path = tmp_path / name
        source = path.parent if path.name == "imagesTr" else path
        assert main([str(source), "-d", "1"]) == 1
        assert capfd.readouterr().err.startswith(f"Error: {path}: {expected}")
