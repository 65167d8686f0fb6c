"""The WMH challenge: both releases into one, splits by scanner, and what is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_meep.cli.convert_wmh import main
from nnunet_meep.datasets.wmh import PUBLISHED, TEST, VALIDATION, identifier, make_splits

DATA = Path(__file__).parents[3] / "shared" / "data"
SHAPE = (6, 5, 4)
SPACING = (0.96, 0.95, 3.0)
ORIGIN = (-80.5, 91.25, -30.0)
#: An oblique slab, as scanners make them.
ANGLE = 0.2
DIRECTION = (
    *(-np.cos(ANGLE), np.sin(ANGLE), 0.0),
    *(np.sin(ANGLE), np.cos(ANGLE), 0.0),
    *(0.0, 0.0, 1.0),
)
#: Where the release of each year has its scans.
RELEASES = {
    "2017": {"Utrecht": "Utrecht", "Singapore": "Singapore", "GE3T": "GE3T"},
    "current": {
        "Utrecht": "training/Utrecht",
        "Singapore": "training/Singapore",
        "GE3T": "training/Amsterdam/GE3T",
    },
}
ALL = [(site, number) for site, numbers in PUBLISHED.items() for number in numbers]


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def lesions(seed: int) -> np.ndarray:
    mask = np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.float32)
    mask[0, 0, :3] = 0, 1, 2
    return mask


def write(path: Path, array: np.ndarray, **geometry: tuple[float, ...]) -> None:
    """``array[i, j, k]`` becomes voxel (i, j, k) of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(geometry.get("spacing", SPACING))
    image.SetOrigin(geometry.get("origin", ORIGIN))
    image.SetDirection(geometry.get("direction", DIRECTION))
    sitk.WriteImage(image, path, useCompression=True)


def write_scan(folder: Path, seed: int = 0) -> None:
    """All that the challenge released of a scan."""
    for i, kind in enumerate(("pre", "orig")):
        for j, channel in enumerate(("FLAIR", "T1")):
            write(folder / kind / f"{channel}.nii.gz", volume(100 * seed + 10 * i + j))
        write(folder / kind / "3DT1.nii.gz", np.zeros((2, 2, 2), np.float32))
    (folder / "orig" / "reg_3DT1_to_FLAIR.txt").write_text("(Transform)")
    write(folder / "wmh.nii.gz", lesions(seed))


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All 60 scans as they were released in each year, and some of the current test scans."""
    roots = {}
    for release, folders in RELEASES.items():
        roots[release] = root = tmp_path_factory.mktemp(release)
        for seed, (site, number) in enumerate(ALL):
            write_scan(root / "download" / folders[site] / str(number), seed)
    for i, place in enumerate(
        (
            "Utrecht/1",
            "Amsterdam/GE3T/111",
            "Amsterdam/GE1T5/150",
            "Amsterdam/Philips_VU .PETMR_01./160",
        )
    ):
        write_scan(roots["current"] / "download" / "test" / place, 1000 + i)
    return roots


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path)).transpose(2, 1, 0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def nothing_in(raw: Path) -> bool:
    return not raw.exists() or not any(raw.iterdir())


# What is written


@pytest.mark.parametrize("release", RELEASES)
def test_a_complete_release(
    release: str, releases: dict[str, Path], raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(releases[release]), "-d", "502"]) == 0
    out, err = capfd.readouterr()
    folder = raw / "Dataset502_WMH"
    assert err == ""
    assert (
        f"Wrote {folder} from the challenge's pre scans: 45 training scans, 15 test scans, "
        "splits_final.json with folds 0 (like the paper's), 1 to 5 (cross-validation), 6 to 8 "
        "(leave one scanner out)"
    ) in out.splitlines()
    skipped = [line for line in out.splitlines() if line.startswith("Skipped")]
    assert len(skipped) == (release == "current")  # the test scans, with how to take them
    assert all("--challenge-test" in line for line in skipped)
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "FLAIR", "1": "T1"},
        "labels": {"background": 0, "WMH": 1, "ignore": 2},
        "numTraining": 45,
        "file_ending": ".nii.gz",
    }
    assert {part: len(names(folder / part)) for part in names(folder) if "." not in part} == {
        "imagesTr": 90,
        "imagesTs": 30,
        "labelsTr": 45,
        "labelsTs": 15,
    }
    tests = {identifier(site, n) for site, ns in TEST.items() for n in ns}
    for seed, (site, number) in enumerate(ALL):
        name = identifier(site, number)
        part = "Ts" if name in tests else "Tr"
        original = releases[release] / "download" / RELEASES[release][site] / str(number)
        pairs = [
            (folder / f"images{part}" / f"{name}_0000.nii.gz", original / "pre" / "FLAIR.nii.gz"),
            (folder / f"images{part}" / f"{name}_0001.nii.gz", original / "pre" / "T1.nii.gz"),
            (folder / f"labels{part}" / f"{name}.nii.gz", original / "wmh.nii.gz"),
        ]
        for i, (written, read) in enumerate(pairs):
            expected = lesions(seed).astype(np.uint8) if i == 2 else volume(100 * seed + i)
            assert voxels(written).dtype == expected.dtype
            np.testing.assert_array_equal(voxels(written), expected)
            after, before = sitk.ReadImage(written), sitk.ReadImage(read)
            for index in ((0, 0, 0), (5, 4, 3), (2, 0, 1)):
                point = before.TransformIndexToPhysicalPoint(index)
                assert after.TransformIndexToPhysicalPoint(index) == pytest.approx(point, abs=1e-4)
            first = sitk.ReadImage(pairs[0][0])
            for get in ("GetOrigin", "GetDirection", "GetSpacing"):
                assert getattr(after, get)() == getattr(first, get)()


def test_the_releases_own_test_scans(
    releases: dict[str, Path], raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(releases["current"]), "-d", "502", "--challenge-test"]) == 0
    out, err = capfd.readouterr()
    assert "60 training scans, 4 test scans" in out
    assert err.startswith("Warning: 60 of 60 training scans and 4 of 110 test scans are there")
    folder = raw / "Dataset502_WMH"
    assert names(folder / "labelsTs") == [
        "GE1T5_150.nii.gz",
        "GE3T_111.nii.gz",
        "Philips_VU_PETMR_01_160.nii.gz",
        "Utrecht_001.nii.gz",
    ]
    splits = json.loads((folder / "splits_final.json").read_text())
    assert splits == make_splits([identifier(*scan) for scan in ALL])
    assert [len(split["train"]) for split in splits] == [42, *[48] * 5, *[40] * 3]


def test_the_test_folder_itself_holds_no_scans_for_training(
    releases: dict[str, Path], raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(releases["current"] / "download" / "test"), "-d", "502"]) == 1
    assert "none of the 60 scans that were published for training found" in capfd.readouterr().err


def test_the_2017_release_has_no_test_scans(
    releases: dict[str, Path], raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(releases["2017"]), "-d", "502", "--challenge-test"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("found none (--challenge-test)")
    assert nothing_in(raw)


@pytest.mark.parametrize(
    ("flags", "channels", "seeds"),
    [
        (["--channels", "FLAIR"], ["FLAIR"], [0]),
        (["--channels", "T1"], ["T1"], [1]),
        (["--channels", "T1", "FLAIR"], ["T1", "FLAIR"], [1, 0]),
        (["--channels", "T1", "T1"], ["T1"], [1]),
        (["--orig"], ["FLAIR", "T1"], [10, 11]),
    ],
)
def test_which_images_become_channels(
    flags: list[str], channels: list[str], seeds: list[int], source: Path, raw: Path
) -> None:
    write_scan(source / "Utrecht" / "0")
    assert main([str(source), "-d", "502", *flags]) == 0
    folder = raw / "Dataset502_WMH"
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["channel_names"] == {str(i): name for i, name in enumerate(channels)}
    assert names(folder / "imagesTr") == [f"Utrecht_000_{i:04d}.nii.gz" for i in range(len(seeds))]
    for i, seed in enumerate(seeds):
        written = voxels(folder / "imagesTr" / f"Utrecht_000_{i:04d}.nii.gz")
        np.testing.assert_array_equal(written, volume(seed))


@pytest.mark.parametrize(
    ("choice", "becomes", "labels"),
    [
        ("ignore", 2, {"background": 0, "WMH": 1, "ignore": 2}),
        ("background", 0, {"background": 0, "WMH": 1}),
        ("lesion", 1, {"background": 0, "WMH": 1}),
    ],
)
def test_other_pathology(
    choice: str, becomes: int, labels: dict[str, int], source: Path, raw: Path
) -> None:
    write_scan(source / "Utrecht" / "0")
    assert main([str(source), "-d", "502", "--other-pathology", choice]) == 0
    folder = raw / "Dataset502_WMH"
    assert json.loads((folder / "dataset.json").read_text())["labels"] == labels
    expected = np.where(lesions(0) == 2, becomes, lesions(0))
    np.testing.assert_array_equal(voxels(folder / "labelsTr" / "Utrecht_000.nii.gz"), expected)


def test_a_mask_without_other_pathology_or_without_any_lesion(source: Path, raw: Path) -> None:
    for number, mask in ((0, lesions(0) == 1), (4, np.zeros(SHAPE, bool))):
        write_scan(source / "Utrecht" / str(number))
        write(source / "Utrecht" / str(number) / "wmh.nii.gz", mask.astype(np.uint8))
    assert main([str(source), "-d", "502"]) == 0
    folder = raw / "Dataset502_WMH" / "labelsTr"
    assert voxels(folder / "Utrecht_004.nii.gz").max() == 0


def test_headers_that_differ_by_rounding_become_those_of_the_first_channel(
    source: Path, raw: Path
) -> None:
    scan = source / "Utrecht" / "0"
    write_scan(scan)
    nearly = tuple(value + 5e-4 for value in ORIGIN)
    write(scan / "pre" / "T1.nii.gz", volume(1), origin=nearly)
    write(scan / "wmh.nii.gz", lesions(0), spacing=tuple(value + 5e-4 for value in SPACING))
    assert main([str(source), "-d", "502"]) == 0
    folder = raw / "Dataset502_WMH"
    first, *others = (
        sitk.ReadImage(folder / name)
        for name in (
            "imagesTr/Utrecht_000_0000.nii.gz",
            "imagesTr/Utrecht_000_0001.nii.gz",
            "labelsTr/Utrecht_000.nii.gz",
        )
    )
    for other in others:
        for get in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(other, get)() == getattr(first, get)()


def test_a_dry_run_says_what_it_found_and_writes_nothing(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_scan(source / "GE3T" / "100")
    write_scan(source / "GE3T" / "101")
    assert main([str(source), "-d", "502", "--dry-run"]) == 0
    out = capfd.readouterr().out.splitlines()
    scan = source / "GE3T" / "100"
    files = (scan / "pre" / "FLAIR.nii.gz", scan / "pre" / "T1.nii.gz", scan / "wmh.nii.gz")
    assert f"GE3T_100 (Tr): {', '.join(map(str, files))}" in out
    assert any(line.startswith("GE3T_101 (Ts): ") for line in out)
    assert out[-1].startswith(f"Would write {raw / 'Dataset502_WMH'}")
    assert nothing_in(raw)
    (scan / "wmh.nii.gz").unlink()
    assert main([str(source), "-d", "502", "--dry-run"]) == 1
    err = capfd.readouterr().err
    assert f"Problem: {scan / 'wmh.nii.gz'}: expected this file, found none" in err
    assert err.splitlines()[-1] == "Error: 1 problems, see above; nothing would be written"


def test_stray_files_are_noted_and_skipped(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_scan(source / "Utrecht" / "0")
    for place in ("desktop.ini", "Utrecht/desktop.ini", "Utrecht/0/pre/.DS_Store"):
        (source / place).write_text("")
    (source / "Utrecht" / "2").write_text("a file where a folder should be")
    (source / "Utrecht" / "notes" / "pre").mkdir(parents=True)
    assert main([str(source), "-d", "502"]) == 0
    (line,) = (x for x in capfd.readouterr().out.splitlines() if x.startswith("Skipped"))
    assert line.startswith("Skipped 4 files that are no scans: ")
    assert str(source / "Utrecht" / "desktop.ini") in line


def test_overwriting_is_asked_for(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_scan(source / "Utrecht" / "0")
    assert main([str(source), "-d", "502"]) == 0
    before = {p: p.read_bytes() for p in raw.rglob("*") if p.is_file()}
    write_scan(source / "Utrecht" / "4", 1)
    assert main([str(source), "-d", "502"]) == 1
    assert "--overwrite replaces it" in capfd.readouterr().err
    # A run that fails leaves the old one as it was.
    write(source / "Utrecht" / "4" / "wmh.nii.gz", lesions(1) + 1)
    assert main([str(source), "-d", "502", "--overwrite"]) == 1
    assert {p: p.read_bytes() for p in raw.rglob("*") if p.is_file()} == before
    write_scan(source / "Utrecht" / "4", 1)
    shutil.rmtree(source / "Utrecht" / "0")
    assert main([str(source), "-d", "502", "--overwrite"]) == 0
    assert names(raw) == ["Dataset502_WMH"]
    assert names(raw / "Dataset502_WMH" / "labelsTr") == ["Utrecht_004.nii.gz"]


def test_a_file_in_the_place_of_the_folder_is_left_alone(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_scan(source / "Utrecht" / "0")
    raw.mkdir()
    (raw / "Dataset502_WMH").write_text("mine")
    assert main([str(source), "-d", "502", "--overwrite"]) == 1
    expected = f"Error: {raw / 'Dataset502_WMH'}: expected a folder or nothing, found a file\n"
    assert capfd.readouterr().err == expected
    assert names(raw) == ["Dataset502_WMH"]
    assert (raw / "Dataset502_WMH").read_text() == "mine"


# Splits


def test_the_published_scans_and_their_parts() -> None:
    assert {site: len(set(numbers)) for site, numbers in PUBLISHED.items()} == dict.fromkeys(
        ("Utrecht", "Singapore", "GE3T"), 20
    )
    random = np.random.RandomState(2017)
    for site, numbers in PUBLISHED.items():
        drawn = random.permutation(numbers)
        assert sorted(drawn[:5]) == list(TEST[site])
        assert [drawn[5]] == list(VALIDATION[site])


def by_site(cases: list[str]) -> dict[str, int]:
    return {site: sum(case.startswith(site) for case in cases) for site in PUBLISHED}


def test_splits_of_the_paper_s_numbers() -> None:
    tests = {identifier(site, n) for site, ns in TEST.items() for n in ns}
    training = [identifier(*scan) for scan in ALL if identifier(*scan) not in tests]
    splits = make_splits(training)
    assert len(splits) == 9
    assert len(splits[0]["train"]) == 42
    assert by_site(splits[0]["val"]) == {"Utrecht": 1, "Singapore": 1, "GE3T": 1}
    for split in splits:
        assert sorted(split["train"] + split["val"]) == sorted(training)
    for split in splits[1:6]:
        assert by_site(split["val"]) == {"Utrecht": 3, "Singapore": 3, "GE3T": 3}
    held_out = [case for split in splits[1:6] for case in split["val"]]
    assert sorted(held_out) == sorted(training)
    for split, site in zip(splits[6:], PUBLISHED, strict=True):
        assert by_site(split["val"])[site] == 15
        assert by_site(split["train"])[site] == 0


def test_with_the_release_s_test_scans_fold_0_stays_and_the_others_have_all() -> None:
    everything = [identifier(*scan) for scan in ALL]
    tests = {identifier(site, n) for site, ns in TEST.items() for n in ns}
    splits = make_splits(everything)
    assert splits[0] == make_splits([case for case in everything if case not in tests])[0]
    for split in splits[1:]:
        assert sorted(split["train"] + split["val"]) == sorted(everything)
    assert all(by_site(split["val"])["GE3T"] == 4 for split in splits[1:6])


def test_a_missing_scan_changes_nothing_for_the_others() -> None:
    tests = {identifier(site, n) for site, ns in TEST.items() for n in ns}
    training = [identifier(*scan) for scan in ALL if identifier(*scan) not in tests]
    gone = {training[3], training[20]}
    fewer = make_splits([case for case in training if case not in gone])
    for full, part in zip(make_splits(training), fewer, strict=True):
        for key in ("train", "val"):
            assert part[key] == [case for case in full[key] if case not in gone]


def test_a_scanner_alone_has_no_splits() -> None:
    assert make_splits([identifier("Utrecht", n) for n in PUBLISHED["Utrecht"]]) == []


def test_fewer_scans_than_were_published_are_one_warning(
    releases: dict[str, Path], raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "fewer"
    shutil.copytree(releases["2017"], source)
    shutil.rmtree(source / "download" / "Utrecht" / "0")
    assert main([str(source), "-d", "502"]) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "Warning: 44 of 45 training scans and 15 of 15 test scans are there"
    splits = json.loads((raw / "Dataset502_WMH" / "splits_final.json").read_text())
    assert "Utrecht_000" not in str(splits)
    assert len(splits) == 9


def test_other_splits_of_an_older_planning_are_said_before(
    releases: dict[str, Path],
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    path = tmp_path / "preprocessed" / "Dataset502_WMH" / "splits_final.json"
    path.parent.mkdir(parents=True)
    path.write_text('[{"train": ["Utrecht_000"], "val": ["Utrecht_002"]}]')
    assert main([str(releases["2017"]), "-d", "502"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"Error: {path} has other splits, on which nnU-Net's planner would fail")
    assert nothing_in(raw)


# What is refused


def cut(path: Path, n: int) -> None:
    path.write_bytes(path.read_bytes()[:-n])


def cut_before_compressing(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-10]))


def with_nan(path: Path) -> None:
    array = volume(0)
    array[0, 0, 0] = np.nan
    write(path, array)


BAD = {
    "FLAIR missing": ("pre/FLAIR.nii.gz", Path.unlink, "expected this file, found none"),
    "T1 missing": ("pre/T1.nii.gz", Path.unlink, "expected this file, found none"),
    "mask missing": ("wmh.nii.gz", Path.unlink, "expected this file, found none"),
    "label 3": (
        "wmh.nii.gz",
        lambda path: write(path, lesions(0) + 1),
        "expected only the labels 0, 1, 2, found 3",
    ),
    "half a label": (
        "wmh.nii.gz",
        lambda path: write(path, lesions(0) / 2),
        "expected only the labels 0, 1, 2, found 0.5",
    ),
    "cut short": ("pre/FLAIR.nii.gz", lambda path: cut(path, 30), "cannot be read ("),
    "cut, then compressed": ("wmh.nii.gz", cut_before_compressing, "cannot be read (cut short"),
    "text": ("pre/T1.nii.gz", lambda path: path.write_text("404"), "cannot be read ("),
    "not finite": ("pre/T1.nii.gz", with_nan, "1 voxels of the image are NaN or infinite"),
    "T1 elsewhere": (
        "pre/T1.nii.gz",
        lambda path: write(path, volume(1), origin=(-80.5, 91.25, -29.9)),
        "the T1's origin is (-80.5, 91.25, -29.8999",
    ),
    "mask of other voxels": (
        "wmh.nii.gz",
        lambda path: write(path, lesions(0), spacing=(0.96, 0.95, 3.01)),
        "the mask's spacing is (0.95999",
    ),
    "mask turned": (
        "wmh.nii.gz",
        lambda path: write(path, lesions(0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)),
        "the mask's direction is (1.0, 0.0",
    ),
    "T1 of another shape": (
        "pre/T1.nii.gz",
        lambda path: write(path, volume(1)[:5]),
        "the T1's shape is (5, 5, 4), the FLAIR's (6, 5, 4)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_nothing_is_written(
    name: str, source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_scan(source / "Utrecht" / "0")
    write_scan(source / "Singapore" / "50")
    file, damage, expected = BAD[name]
    path = source / "Singapore" / "50" / file
    damage(path)
    assert main([str(source), "-d", "502"]) == 1
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith(f"Error: {path}: ")
    assert expected in line
    assert nothing_in(raw)


def test_all_problems_of_a_run_are_listed_together(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in (50, 51, 52):
        write_scan(source / "Singapore" / str(number))
    (source / "Singapore" / "50" / "pre" / "FLAIR.nii.gz").unlink()
    (source / "Singapore" / "50" / "wmh.nii.gz").unlink()
    cut(source / "Singapore" / "51" / "pre" / "T1.nii.gz", 20)
    write(source / "Singapore" / "52" / "wmh.nii.gz", lesions(0) + 1)
    assert main([str(source), "-d", "502"]) == 1
    lines = capfd.readouterr().err.removeprefix("Error: ").splitlines()
    assert [line.split(": ")[0].removeprefix(f"{source}/Singapore/") for line in lines] == [
        "50/pre/FLAIR.nii.gz",
        "50/wmh.nii.gz",
        "51/pre/T1.nii.gz",
        "52/wmh.nii.gz",
    ]


def test_the_same_scan_in_two_places(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for place in ("Utrecht/0", "training/Utrecht/0"):
        write_scan(source / place)
    assert main([str(source), "-d", "502"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("Error: Utrecht/0: more than one folder: ")


def test_what_a_mac_puts_into_archives_is_no_scan(source: Path, raw: Path) -> None:
    write_scan(source / "Utrecht" / "0")
    hidden = source / "__MACOSX" / "Utrecht" / "0" / "pre"
    hidden.mkdir(parents=True)
    (hidden / "._FLAIR.nii.gz").touch()
    assert main([str(source), "-d", "502"]) == 0


def test_nothing_to_convert_says_where_the_data_are(
    source: Path, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(source), "-d", "502"]) == 1
    assert capfd.readouterr().err == f"Error: {source}: no such folder\n"
    source.mkdir()
    assert main([str(source), "-d", "502"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    for words in ("https://doi.org/10.34894/AECRSD", "terms of use", "FLAIR.nii.gz", "wmh.nii.gz"):
        assert words in line


def test_a_full_disk_is_noticed(source: Path, raw: Path, capfd: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource", reason="limits a file's size the Unix way")
    write_scan(source / "Utrecht" / "0")
    big = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    for name in ("pre/FLAIR.nii.gz", "pre/T1.nii.gz"):
        write(source / "Utrecht" / "0" / name, big)
    write(source / "Utrecht" / "0" / "wmh.nii.gz", (big > 1).astype(np.uint8))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        assert main([str(source), "-d", "502"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    *_, line = capfd.readouterr().err.splitlines()  # ITK's own library may say something, too
    assert line.startswith(f"Error: {raw}/Dataset502_WMH/imagesTr/Utrecht_000_000")
    assert line.endswith(".nii.gz: could not be written whole; is the disk full?")
    assert nothing_in(raw)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["-d", "0"],
        ["-d", "502", "--channels", "T2"],
        ["-d", "502", "--channels"],
        ["-d", "502", "--other-pathology", "drop"],
    ],
)
def test_wrong_usage(flags: list[str], source: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(source), *flags])
    assert stopped.value.code == 2


# Real scans


def test_the_real_t1_scans(raw: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = DATA / "wmh_t1"
    if not source.is_dir():
        pytest.skip(f"the data are not here: {source}")
    assert main([str(source), "-d", "502"]) == 1  # their FLAIR is not there
    assert capfd.readouterr().err.count("FLAIR.nii.gz: expected this file, found none") == 3
    assert main([str(source), "-d", "502", "--channels", "T1"]) == 0
    folder = raw / "Dataset502_WMH"
    places = {"Utrecht_000": "Utrecht/0", "Singapore_050": "Singapore/50"}
    places["GE3T_100"] = "Amsterdam/GE3T/100"
    for name, place in places.items():
        for written, read in (
            (f"imagesTr/{name}_0000.nii.gz", "pre/T1.nii.gz"),
            (f"labelsTr/{name}.nii.gz", "wmh.nii.gz"),
        ):
            after = sitk.ReadImage(folder / written)
            before = sitk.ReadImage(source / "training" / place / read)
            np.testing.assert_array_equal(
                sitk.GetArrayViewFromImage(after), sitk.GetArrayViewFromImage(before)
            )
            for index in ((0, 0, 0), tuple(n - 1 for n in before.GetSize())):
                point = before.TransformIndexToPhysicalPoint(index)
                assert after.TransformIndexToPhysicalPoint(index) == pytest.approx(point, abs=0.05)
    assert not (folder / "imagesTs").exists()
