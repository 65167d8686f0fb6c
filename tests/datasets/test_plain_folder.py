"""A folder of scans with labels: files that are found, labels, and what is refused."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_meep.cli.convert_folder import main

DATA = Path(__file__).parents[3] / "shared" / "data"
SHAPE = (5, 4, 3)
OBLIQUE = np.array(
    [[-0.8, 0.3, 0, 40], [0.3, 0.8, 0, -20], [0, 0, 2.5, 7.25], [0, 0, 0, 1]], dtype=float
)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def mask(*values: float, dtype: type = np.uint8) -> np.ndarray:
    return np.resize(np.array(values, dtype), SHAPE)


def write(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def write_cases(source: Path, *cases: str, values: tuple[float, ...] = (0, 1, 2)) -> None:
    for seed, case in enumerate(cases):
        write(source / "images" / f"{case}.nii.gz", image(seed))
        write(source / "labels" / f"{case}.nii.gz", mask(*values))


def convert(source: Path, *flags: str) -> int:
    labels = [] if "--labels" in flags else ["--labels", "A=1,B=2"]
    return main([str(source), "-d", "7", "--name", "Mine", *labels, *flags])


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path)).transpose(2, 1, 0)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def nothing_in(raw: Path) -> bool:
    return not raw.exists() or not any(raw.iterdir())


# What is written


def test_a_case_without_a_label_is_no_further_channel(source, raw, capfd) -> None:
    for i in range(4):
        write(source / "imagesTr" / f"img_{i:04d}.nii.gz", image(i))
        if i != 2:
            write(source / "labelsTr" / f"img_{i:04d}.nii.gz", mask(0, 1, 2))
    assert convert(source) == 1
    assert "img_0002.nii.gz" in capfd.readouterr().err
    assert nothing_in(raw)


def test_scans_in_several_folders_and_with_either_name(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    places = {  # case: its image and its labels
        "a": ("imagesTs/a_0000.nii.gz", "labelsTs/a.nii.gz"),
        "b": ("imagesTr/b.nii.gz", "labelsTr/b.nii.gz"),
        "c_2019": ("imagesTr/c_2019.nii.gz", "labelsTr/c_2019.nii.gz"),
        "d": ("imagesTr/d_0000.nii.gz", "labelsTr/d.nii.gz"),
    }
    for seed, names in enumerate(places.values()):
        for name, array in zip(names, (image(seed), mask(0, 1, 2)), strict=True):
            write(source / name, array)
    write(source / "imagesTr" / "d_0001.nii.gz", image(9))
    (source / "labelsTr" / "._d.nii.gz").write_text("left by macOS")
    (source / "images.txt").write_text("no folder")
    assert convert(source, "--test", "1", "--validation", "1", "--channel", "CT") == 0
    out, err = capfd.readouterr()
    folder = raw / "Dataset007_Mine"
    assert err == ""
    assert out.splitlines()[:3] == [
        f"Skipped 1 files that are no scans: {source / 'labelsTr' / '._d.nii.gz'}",
        f"Skipped 1 files of further channels: {source / 'imagesTr' / 'd_0001.nii.gz'}",
        f"Wrote {folder} from {source}: 3 training scans, 1 test scans, splits_final.json with "
        "fold 0 (1 validation scans)",
    ]
    assert len(files(folder)) == 2 * 4 + 2
    for case, (image_file, mask_file) in places.items():
        part = "Ts" if case == "d" else "Tr"
        for written, read in (
            (f"images{part}/{case}_0000.nii.gz", image_file),
            (f"labels{part}/{case}.nii.gz", mask_file),
        ):
            assert filecmp.cmp(folder / written, source / read, shallow=False)
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "A": 1, "B": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    splits = json.loads((folder / "splits_final.json").read_text())
    assert splits == [{"train": ["a", "b"], "val": ["c_2019"]}]


def test_labels_are_numbered_without_gaps_and_the_ignored_ones_last(
    source: Path, raw: Path
) -> None:
    write(source / "images" / "a.nii.gz", image())
    write(source / "labels" / "a.nii.gz", mask(0, 3, 300, 2, 5, dtype=np.int16))
    assert convert(source, "--labels", "Big=300,Small=3", "--ignore", "2,5") == 0
    folder = raw / "Dataset007_Mine"
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "Small": 1, "Big": 2, "ignore": 3}
    assert not (folder / "splits_final.json").exists()
    written = folder / "labelsTr" / "a.nii.gz"
    assert voxels(written).dtype == np.uint8
    np.testing.assert_array_equal(voxels(written), mask(0, 1, 2, 3, 3))
    np.testing.assert_allclose(nibabel.load(written).affine, OBLIQUE, atol=1e-5)


def rounded(path: Path) -> None:
    affine = OBLIQUE.copy()
    affine[0, 3] += 5e-4
    write(path, mask(0, 1, 2, dtype=np.float32), affine)


def with_a_fourth_axis(path: Path) -> None:
    write(path, mask(0, 1, 2)[..., None])


@pytest.mark.parametrize("change", [rounded, with_a_fourth_axis])
def test_a_mask_that_nnunet_would_read_as_on_another_grid_is_written_on_the_image_s(
    change: Callable[[Path], None], source: Path, raw: Path
) -> None:
    write_cases(source, "a")
    change(source / "labels" / "a.nii.gz")
    assert convert(source) == 0
    folder = raw / "Dataset007_Mine"
    written = nibabel.load(folder / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(), mask(0, 1, 2))
    one, other = (
        sitk.ReadImage(folder / name) for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    )
    for get in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(one, get)() == pytest.approx(getattr(other, get)(), abs=1e-6)


def test_an_old_folder_stays_until_it_is_to_be_replaced(
    source: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_cases(source, "a", "b")
    assert convert(source) == 0
    assert convert(source) == 1
    assert "--overwrite replaces it" in capfd.readouterr().err
    monkeypatch.chdir(source.parent)
    (source.parent / "preprocessed" / "Dataset007_Mine").mkdir(parents=True)
    for where in ("", "preprocessed", str(source.parent / "preprocessed")):
        monkeypatch.setenv("nnUNet_preprocessed", where)
        assert convert(source, "--overwrite", "--cases", "1") == 0
        said = "is of other data, converted before; delete it" in capfd.readouterr().err
        assert said == bool(where)
    assert files(raw / "Dataset007_Mine" / "labelsTr") == {"a.nii.gz"}


def test_a_folder_of_images_without_labels_is_left_out(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_cases(source, "a", "b")
    write(source / "imagesTs" / "c.nii.gz", image(3))
    assert convert(source) == 0
    assert f"Left out {source / 'imagesTs'}: 1 images without labels" in capfd.readouterr().out
    assert files(raw / "Dataset007_Mine" / "labelsTr") == {"a.nii.gz", "b.nii.gz"}


@pytest.mark.parametrize("inside", ["", "original"])
def test_the_source_is_not_what_is_replaced(
    raw: Path, capfd: pytest.CaptureFixture[str], inside: str
) -> None:
    source = raw / "Dataset007_Mine" / inside
    write_cases(source, "a", "b")
    there = files(raw)
    assert convert(source, "--overwrite", "--cases", "1") == 1
    assert "expected a source outside of" in capfd.readouterr().err
    assert files(raw) == there


def test_the_source_may_not_link_to_what_is_replaced(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = raw / "Dataset007_Mine" / "original"
    write_cases(kept, "a", "b")
    source.mkdir()
    for folder in kept.iterdir():
        (source / folder.name).symlink_to(folder)
    there = files(raw)
    assert convert(source, "--overwrite", "--cases", "1") == 1
    assert "expected a source outside of" in capfd.readouterr().err
    assert files(raw) == there


# What is refused

IMAGE, LABELS = "images/b.nii.gz", "labels/b.nii.gz"
MOVED = OBLIQUE + np.array([[0, 0, 0, 0.1], *[[0.0] * 4] * 3])
#: {name: (what happens to the source, the file in the message, the rest of it)}
BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "unknown label": (
        lambda source: write(source / LABELS, mask(0, 1, 4, 9)),
        LABELS,
        "expected only the labels 0, 1, 2, found 4, 9",
    ),
    "half a label": (
        lambda source: write(source / LABELS, mask(0, 1.5, dtype=np.float32)),
        LABELS,
        "expected only the labels 0, 1, 2, found 1.5",
    ),
    "labels not finite": (  # which ITK reads as 0
        lambda source: write(source / LABELS, mask(0, 1, np.nan, dtype=np.float32)),
        LABELS,
        "20 voxels of the mask are NaN or infinite",
    ),
    "another place": (
        lambda source: write(source / LABELS, mask(0, 1), MOVED),
        LABELS,
        "the mask's origin is",
    ),
    "another shape": (
        lambda source: write(source / LABELS, mask(0, 1)[:4]),
        LABELS,
        "the mask's shape is (4, 4, 3), the image's (5, 4, 3)",
    ),
    "several channels": (
        lambda source: write(source / IMAGE, np.stack([image(1), image(2)], axis=-1)),
        IMAGE,
        "expected a 3D volume of real numbers, found 4D",
    ),
    "no label": (
        lambda source: (source / LABELS).unlink(),
        IMAGE,
        "the label of this case is missing",
    ),
    "no image": (
        lambda source: (source / IMAGE).unlink(),
        LABELS,
        "the image of this case is missing",
    ),
    "a link to nowhere": (
        lambda source: ((source / IMAGE).unlink(), (source / IMAGE).symlink_to("nowhere")),
        IMAGE,
        "cannot be read (",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_nothing_is_written(
    name: str, source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_cases(source, "a", "b")
    damage, file, expected = BAD[name]
    damage(source)
    assert convert(source) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"Error: {source / file}: {expected}")
    assert nothing_in(raw)


def test_a_label_that_many_files_have_is_one_line(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_cases(source, *"abcdef")
    for case in "bcdef":
        write(source / "labels" / f"{case}.nii.gz", mask(0, 1, 4))
    assert convert(source) == 1
    assert capfd.readouterr().err == (
        f"Error: {source / LABELS} and 4 other files: expected only the labels 0, 1, 2, found 4; "
        f"name them in --labels, or give them to --ignore\n"
    )
    assert nothing_in(raw)


def test_a_name_in_two_folders(source: Path, raw: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_cases(source, "a", "b")
    write(source / "imagesTs" / "b_0000.nii.gz", image())
    assert convert(source) == 1
    (line,) = capfd.readouterr().err.splitlines()
    one, other = source / "images" / "b.nii.gz", source / "imagesTs" / "b_0000.nii.gz"
    assert line == f"Error: b: more than one image: {one}, {other}"
    assert nothing_in(raw)


def test_too_few_cases_are_said_with_the_reason(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_cases(source, "a", "b")
    (source / LABELS).unlink()
    assert convert(source, "--test", "1") == 1
    lines = capfd.readouterr().err.removeprefix("Error: ").splitlines()
    assert lines == [
        f"{source / IMAGE}: the label of this case is missing",
        f"{source}: expected at least 2 cases with labels, 1 for testing (--test), 0 for "
        "validation (--validation) and one for training, found 1",
    ]


def test_nothing_to_convert(source: Path, raw: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert convert(source) == 1
    assert capfd.readouterr().err == f"Error: {source}: no such folder\n"
    (source / "images").mkdir(parents=True)
    assert convert(source) == 1
    assert f"Error: {source}: no scans here. Expected are images*" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--labels", "A=1,A=2"], "expected each name once, got A twice"),
        (["--labels", "A=1,B=1"], "expected each value once, got 1 twice"),
        (["--labels", "A=1", "--ignore", "1"], "expected each value once, got 1 twice"),
        (["--labels", "A=0"], "expected values from 1 (0 is background), got 0"),
        (["--labels", "A=1", "--ignore", "0"], "expected values from 1 (0 is background), got 0"),
        (["--labels", "ignore=2"], "expected another name than 'ignore', which nnU-Net uses"),
    ],
)
def test_labels_that_cannot_be(
    flags: list[str],
    expected: str,
    source: Path,
    raw: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_cases(source, "a")
    assert convert(source, *flags) == 1
    assert capfd.readouterr().err == f"Error: --labels, --ignore: {expected}\n"


@pytest.mark.parametrize(
    "flags",
    [
        ["--labels", "A"],
        ["--labels", "A=1,"],
        ["--labels", "A=-1"],
        ["--labels", "1=A"],
        ["--labels", "A=1", "--ignore", "two"],
        ["--labels", "A=1", "--test", "0"],
        ["--labels", "A=1", "--name", "a/b"],
    ],
)
def test_wrong_usage(flags: list[str], source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        convert(source, *flags)
    assert stopped.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"Error: argument {flags[-2]}: ")
    assert line.endswith("; see meep-convert-folder --help")


# Real scans, divided as the benchmarks divide them


def need(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"the data are not here: {DATA / name}")
    return DATA / name


def check_copies(folder: Path, real: Path, training: list[str], test: list[str]) -> None:
    """The folder has these cases, with the same bytes, and nothing else but two JSON files."""
    expected = {"dataset.json": None, "splits_final.json": None}
    for part, cases in (("Tr", training), ("Ts", test)):
        for case in cases:
            for kind, name in (("images", f"{case}_0000.nii.gz"), ("labels", f"{case}.nii.gz")):
                expected[f"{kind}{part}/{name}"] = real / f"{kind}Tr" / name
    assert files(folder) == set(expected)
    for name, original in expected.items():
        assert original is None or filecmp.cmp(folder / name, original, shallow=False)


HIPPOCAMPUS_TRAINING = """
    001 003 004 006 007 008 011 014 015 017 019 020 023 024 025 026 033 034 035 036 037 038 039
    040 041 042 044 045 046 048 049 050 051 052 053 056 057 058 060 064 065 067 068 070 074 075
    077 083 084 087 088 089 090 091 092 093 094 095 096 097 098 099 101 102 104 105 106 107 108
    109 114 123 124 125 126 127 130 132 133 135 136 138 141 142 143 144 145 146 148 149 150 152
    154 155 156 157 158 160 161 162 163 164 165 166 169 170 171 172 173 174 175 176 177 178 180
    181 184 185 188 189 190 193 194 195 197 199 203 204 205 207 210 212 215 216 217 219 220 221
    222 223
"""
HIPPOCAMPUS_VALIDATION = """
    224 225 226 227 228 229 230 231 232 233 234 235 236 238 242 243 244 245 248 249
"""
HIPPOCAMPUS_TEST = """
    250 251 252 253 257 259 260 261 263 264 265 268 269 274 276 277 279 280 282 286 287 288 289
    290 292 294 295 296 297 298 299 300 301 302 303 304 305 308 309 310
"""


def test_hippocampus(raw: Path) -> None:
    real = need("hippocampus")
    flags = "-d 4 --name Hippocampus --labels Anterior=1,Posterior=2 --channel MRI"
    flags += " --cases 200 --test 40 --validation 20"
    assert main([str(real), *flags.split()]) == 0
    folder = raw / "Dataset004_Hippocampus"
    training, validation, test = (
        [f"hippocampus_{number}" for number in numbers.split()]
        for numbers in (HIPPOCAMPUS_TRAINING, HIPPOCAMPUS_VALIDATION, HIPPOCAMPUS_TEST)
    )
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "numTraining": 160,
        "file_ending": ".nii.gz",
    }
    splits = json.loads((folder / "splits_final.json").read_text())
    assert splits == [{"train": training, "val": validation}]
    check_copies(folder, real, training + validation, test)


#: (training, validation, test) of each fold.
WMH_FOLDS = (
    ("104252 104670 105074 105755 106639 107130 110218", "101627 105465", "101228 104899 105911"),
    ("101228 104670 104899 105465 105911 107130 110218", "104252 105755", "101627 105074 106639"),
    ("101228 101627 105074 105755 105911 106639 110218", "104670 104899", "104252 105465 107130"),
    ("101627 104252 104899 105465 105911 106639 107130", "101228 105074", "104670 105755 110218"),
)


def test_wmh(raw: Path) -> None:
    real = need("wmh_flair")
    flags = "-d 503 --name WMHFLAIR --labels WMH=1 --ignore 2 --channel FLAIR"
    flags += " --folds 4 --validation 2"
    assert main([str(real), *flags.split()]) == 0
    folder = raw / "Dataset503_WMHFLAIR"
    folds = [[[f"MS3SEG_{n}" for n in part.split()] for part in fold] for fold in WMH_FOLDS]
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "WMH": 1, "ignore": 2},
        "numTraining": 12,
        "file_ending": ".nii.gz",
    }
    splits = json.loads((folder / "splits_final.json").read_text())
    assert splits == [{"train": train, "val": val} for train, val, _ in folds]
    cases = {case for part in folds[0] for case in part}
    for train, val, test in folds:
        assert cases - {*train, *val} == set(test)
    check_copies(folder, real, sorted(cases), [])
