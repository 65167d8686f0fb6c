"""``meep-calib-triage``: cases by the Dice that the network expects, without references."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import SimpleITK as sitk
from predictions import softmax_case

import nnunet_meep as nm
from nnunet_meep.cli import calib_triage

SHAPE, SPACING_MM = (5, 6, 7), (3.0, 0.75, 1.25)
VOXEL_ML = 3 * 0.75 * 1.25 / 1000


def as_by_the_equation(p: np.ndarray, segmented: np.ndarray) -> dict[str, float]:
    """Expected Dice and volumes of a class, p (*shape) in float64."""
    expected = np.nan
    if segmented.any() or p.sum() >= 0.5:
        expected = 2 * p[segmented].sum() / (p.sum() + segmented.sum())
    return {
        "dice_expected": expected,
        "volume_expected_ml": VOXEL_ML * p.sum(),
        "volume_pred_ml": VOXEL_ML * segmented.sum(),
    }


@pytest.fixture
def folder(make_folder):
    """Three cases, of which c is the surest, and d without any class."""
    folder = make_folder()
    for i, case in enumerate("abc"):
        rng = np.random.default_rng(i)
        p, reference = softmax_case(rng, SHAPE)
        if case == "c":
            p = p**8 / (p**8).sum(0)
        folder.add(case, p.astype(np.float32), reference, spacing_mm=SPACING_MM)
    p = np.zeros((3, *SHAPE), np.float32)
    p[0] = 1
    folder.add("d", p, np.zeros(SHAPE, np.uint8), spacing_mm=SPACING_MM)
    for path in folder.gt.iterdir():
        path.unlink()
    return folder


def test_cases_are_ranked_by_the_lowest_expected_dice_of_a_class(folder) -> None:
    ranked = nm.triage(folder.pred)
    lowest = {}
    for case in ranked.cases:
        p = np.load(folder.pred / f"{case.case}.npz")["probabilities"].astype(np.float64)
        of_classes = {}
        for key, k in (("1", 1), ("2", 2)):
            of_classes[key] = as_by_the_equation(p[k], p.argmax(0) == k)
            assert case.classes[key] == pytest.approx(of_classes[key], rel=1e-9, nan_ok=True)
        lowest[case.case] = min(of_classes[key]["dice_expected"] for key in "12")
        assert case.dice_expected == pytest.approx(lowest[case.case], nan_ok=True)
        assert np.isnan(case.dice_expected) or case.classes[case.lowest]["dice_expected"] == (
            case.dice_expected
        )
    order = [case.case for case in ranked.cases]
    assert order == [*sorted("abc", key=lowest.get), "d"]
    assert order[2] == "c"


def test_where_one_class_is_never_segmented_the_other_decides(make_folder) -> None:
    folder = make_folder()
    for case, p_1 in (("a", 0.9), ("b", 0.6)):
        p = np.full((3, *SHAPE), 0.01, np.float32)  # the expected Dice of class 2 is 0
        p[1, 0] = p_1
        p[0] = 1 - p[1:].sum(axis=0)
        folder.add(case, p, np.zeros(SHAPE, np.uint8), spacing_mm=SPACING_MM)
    ranked = nm.triage(folder.pred).cases
    assert [(case.case, case.dice_expected) for case in ranked] == [("b", 0), ("a", 0)]


def test_the_same_as_an_evaluation_finds(folder, make_folder, tmp_path) -> None:
    """With a segmentation that is not the argmax any more."""
    other = np.zeros(SHAPE, np.uint8)
    other[1:, 2:] = 2
    image = sitk.GetImageFromArray(other)
    image.SetSpacing(SPACING_MM[::-1])
    sitk.WriteImage(image, folder.pred / "a.nii.gz")
    for case in "abcd":
        sitk.WriteImage(image, folder.gt / f"{case}.nii.gz")
    evaluated = {case.case: case for case in nm.evaluate(folder.gt, folder.pred).cases}
    for case in nm.triage(folder.pred, cases=["a", "b"]).cases:
        for key, metrics in case.classes.items():
            theirs = evaluated[case.case].rois["image"].classes[key]
            assert metrics == {name: theirs[name] for name in metrics}


def test_of_overlapping_regions(make_folder) -> None:
    folder = make_folder(
        {"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2]
    )
    p = np.random.default_rng(0).random((2, *SHAPE)).astype(np.float32)
    folder.add("a", p, np.zeros(SHAPE, np.uint8), spacing_mm=SPACING_MM)
    (case,) = nm.triage(folder.pred).cases
    segmentation = folder.rule(p)
    for i, (key, members) in enumerate((("(1, 2)", (1, 2)), ("(2,)", (2,)))):
        expected = as_by_the_equation(p[i].astype(np.float64), np.isin(segmentation, members))
        assert case.classes[key] == pytest.approx(expected, rel=1e-9)


def test_the_command_prints_and_writes_the_list(folder, tmp_path, capsys) -> None:
    path = tmp_path / "new" / "list.csv"
    assert calib_triage.main([str(folder.pred), "-o", str(path)]) == 0
    printed = capsys.readouterr().out
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ranked = nm.triage(folder.pred)
    assert [row["case"] for row in rows] == [case.case for case in ranked.cases]
    assert float(rows[0]["dice_expected"]) == ranked.cases[0].dice_expected
    assert float(rows[0]["volume_pred_ml 2"]) == ranked.cases[0].classes["2"]["volume_pred_ml"]
    assert rows[-1]["dice_expected"] == ""
    lines = [line.split() for line in printed.splitlines()]
    first = ranked.cases[0]
    name = ranked.classes[first.lowest]
    assert lines[2][:4] == [first.case, first.lowest, name, f"{first.dice_expected:.3f}"]
    assert lines[5][:4] == ["d", "1", "Anterior", "-"]
    assert printed.endswith(f"Written: {path}\n")
    assert ranked.to_dataframe()["case"].tolist() == [row["case"] for row in rows]


def test_plans_that_are_elsewhere(folder, tmp_path, capsys) -> None:
    """``nnUNetv2_ensemble`` writes no plans beside its averages."""
    expected = nm.triage(folder.pred)
    moved = (folder.pred / "plans.json").rename(tmp_path / "plans.json")
    assert calib_triage.main([str(folder.pred)]) == 1
    assert "give it with -pfile" in capsys.readouterr().err
    assert calib_triage.main([str(folder.pred), "-pfile", str(moved)]) == 0
    assert nm.triage(folder.pred, plans_json=moved) == expected


class TestRefused:
    def refused(self, capsys, *arguments: object) -> str:
        assert calib_triage.main([str(a) for a in arguments]) == 1
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith("Error: ")
        return line

    def test_no_folder(self, tmp_path, capsys) -> None:
        line = self.refused(capsys, tmp_path / "none")
        assert f"{tmp_path / 'none'}: expected a folder of predictions, found none" in line

    def test_a_segmentation_without_probabilities(self, folder, capsys) -> None:
        (folder.pred / "b.npz").unlink()
        assert "expected b.npz with the probabilities of b.nii.gz" in self.refused(
            capsys, folder.pred
        )

    def test_probabilities_without_a_segmentation(self, folder, capsys) -> None:
        (folder.pred / "b.nii.gz").unlink()
        assert f"{folder.pred / 'b.nii.gz'}: expected the segmentation of b.npz" in self.refused(
            capsys, folder.pred
        )

    def test_nothing_predicted(self, make_folder, capsys) -> None:
        assert "expected CASE.npz files with probabilities, found none" in self.refused(
            capsys, make_folder().pred
        )

    def test_what_are_no_probabilities(self, folder, capsys) -> None:
        p = np.full((3, *SHAPE), 0.5, np.float32)
        np.savez_compressed(folder.pred / "b.npz", probabilities=p)
        assert "expected probabilities that sum to 1" in self.refused(capsys, folder.pred)

    def test_a_folder_in_place_of_the_file(self, folder, tmp_path, capsys) -> None:
        line = self.refused(capsys, folder.pred, "-o", tmp_path)
        assert f"{tmp_path}: expected a file to write, found a folder (-o)" in line

    def test_to_write_over_anything_but_an_earlier_list(self, folder, tmp_path, capsys) -> None:
        path = folder.pred / "b.npz"
        before = path.read_bytes()
        line = self.refused(capsys, folder.pred, "-o", path)
        assert f"{path}: expected an earlier list to replace, found another file" in line
        assert path.read_bytes() == before
        path = tmp_path / "list.csv"
        path.touch()
        for _ in "empty", "an earlier list":
            assert calib_triage.main([str(folder.pred), "-o", str(path)]) == 0
        assert len(path.read_text().splitlines()) == 5
