"""``meep-calib-fit threshold`` and ``volume``: what people type, see and get."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from predictions import LABELS, PredictionFolder

from nnunet_meep.cli import calib_apply, calib_eval, calib_fit
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.notes import notes
from nnunet_meep.nnunet_files.networks import Network
from nnunet_meep.posthoc.calibrator import read_calibrator
from nnunet_meep.posthoc.segmentation import thresholded

pytestmark = pytest.mark.usefixtures("unrendered")


def fill(folder: PredictionFolder, seed: int, n: int, classes: int = 3) -> None:
    """Cases of a network that is too sure; the last two references lack the last class."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        logits = 2 * rng.normal(size=(classes, 6, 9, 10))
        p = np.exp(logits) / np.exp(logits).sum(axis=0)
        reference = (rng.random((6, 9, 10)) > p.cumsum(axis=0)).sum(axis=0)
        reference = reference.clip(0, classes - 1 - (i >= n - 2))
        sharp = p**3 / (p**3).sum(axis=0)
        folder.add(f"case_{seed}{i}", sharp.astype(np.float32), reference.astype(np.uint8))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Validation and test predictions."""
    monkeypatch.chdir(tmp_path)
    for part, seed, n in (("val", 0, 10), ("test", 1, 3)):
        fill(PredictionFolder(tmp_path / part, LABELS), seed, n)


VAL = ["val/gt", "val/pred"]


@pytest.mark.rendered
def test_one_file_calibrates_segments_and_measures(folders, capsys):
    assert calib_fit.main(["temperature", *VAL, "-o", "t.json"]) == 0
    assert (
        calib_fit.main(["threshold", "--fnr", "0.4", "--after", "t.json", *VAL, "-o", "f.json"])
        == 0
    )
    said = capsys.readouterr().out
    assert (
        "threshold after temperature, fitted on 10 cases, false-negative rate at most 40 %" in said
    )
    assert "The classes exclude each other: all have the same threshold" in said
    assert "40 % of the voxels of a class at most are to be missed" in said
    assert "not for each case" in said
    assert "Posterior: 2 references without it" in said
    assert "Note: the calibrator before was fitted to 10 of these cases, too" in said
    assert calib_fit.main(["volume", "--after", "f.json", *VAL, "-o", "v.json"]) == 0
    said = capsys.readouterr().out
    assert "volume after threshold after temperature, fitted on 10 cases, intervals of 90 %" in said
    assert "Note: 10 cases are few: half the width is the largest error among them" in said
    for picture in ("f.png", "v.png"):
        assert Path(picture).read_bytes()[:4] == b"\x89PNG"

    assert calib_apply.main(["v.json", "test/pred", "-o", "out"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"the calibration, with its thresholds, changed the label of [\d,]+ vox", said)
    assert f"volumes with their intervals: {Path('out/volumes.csv')}" in said
    calibrator = read_calibrator("v.json")
    p = calibrator(np.load("test/pred/case_10.npz")["probabilities"])
    np.testing.assert_array_equal(np.load("out/case_10.npz")["probabilities"], p)
    written = sitk.GetArrayFromImage(sitk.ReadImage("out/case_10.nii.gz"))
    np.testing.assert_array_equal(written, thresholded(p, calibrator.labels, calibrator.thresholds))

    assert calib_eval.main(["test/gt", "out", "-np", "1", "-o", "evaluated"]) == 0
    said = capsys.readouterr().out
    t = calibrator.thresholds.of_class["1"]
    assert f"as it follows the thresholds of the calibrator (Anterior {t:.3g}, Posterior" in said
    assert "Volume intervals (90 %), 1 Anterior: " in said
    entry = json.loads(Path("evaluated/calibration.json").read_text())["calibrators"][0]
    assert entry["method"] == "temperature, threshold, volume"
    assert entry["thresholds"] == dict(calibrator.thresholds.of_class)
    assert entry["volume"]["classes"]["1"]["n_cases"] == 3


def test_dice_of_the_segmentation_is_that_of_the_fit(tmp_path, monkeypatch, capsys):
    """With two classes: the table's numbers are those of an evaluation, which warns of them."""
    monkeypatch.chdir(tmp_path)
    fill(PredictionFolder(tmp_path / "val", {"background": 0, "LA": 1}), 0, 5, classes=2)
    assert calib_fit.main(["threshold", "--goal", "dice", *VAL, "-o", "d.json"]) == 0
    about = json.loads(Path("d.json").read_text())["fitted_on"]["classes"]["1"]
    assert about["dice_at_threshold"] > about["dice_at_half"]
    assert f"{about['dice_at_threshold']:.3f}" in capsys.readouterr().out
    assert calib_apply.main(["d.json", "val/pred", "-o", "out"]) == 0
    for folder, when in (("val/pred", "half"), ("out", "threshold")):
        evaluation = evaluate("val/gt", folder, surface=False)
        dice = [case.rois["image"].classes["1"]["dice"] for case in evaluation.cases]
        # Two references have none of it; their Dice is 0 and does not count for the choice.
        assert sum(dice) / about["n_cases"] == pytest.approx(about[f"dice_at_{when}"])
        assert about["n_cases"] == 3
    assert any("5 of 5 cases were used to fit the calibrator" in line for line in notes(evaluation))


@pytest.mark.rendered
def test_a_class_that_no_reference_has_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = PredictionFolder(tmp_path / "val", LABELS)
    rng = np.random.default_rng(0)
    for i in range(9):
        y = rng.integers(0, 2, (4, 5, 6))
        p = 0.4 * np.eye(3)[y] + 0.6 * rng.dirichlet((1, 1, 1), y.shape)
        folder.add(f"case_{i}", np.moveaxis(p, -1, 0).astype(np.float32), y.astype(np.uint8))
    why = "no voxels of it in the references"
    assert calib_fit.main(["threshold", "--goal", "dice", *VAL, "-o", "d.json"]) == 0
    said = capsys.readouterr().out
    assert f"Posterior: its threshold stays at 1/2: {why}" in said
    assert re.search(r"2 Posterior +0\.5 +0 +- +- +- +-\n", said)
    assert calib_fit.main(["threshold", "--fnr", "0.5", *VAL, "-o", "f.json"]) == 0
    assert f"Posterior: the threshold of the others: {why}" in capsys.readouterr().out
    of_class = read_calibrator("f.json").thresholds.of_class
    assert of_class["1"] == of_class["2"]
    assert calib_fit.main(["volume", "--after", "d.json", *VAL, "-o", "v.json"]) == 0
    assert f"Posterior: no interval: {why}" in capsys.readouterr().out
    entry = json.loads(Path("v.json").read_text())["classes"]["2"]
    assert entry == {"half_width": None, "reason": why}
    assert read_calibrator("v.json").intervals.half_width["2"] is None


def test_regions_that_exclude_each_other_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    regions = {"background": 0, "both": [1, 2, 3], "left": [2], "right": [3]}
    folder = PredictionFolder(tmp_path / "val", regions, regions_class_order=[1, 2, 3])
    rng = np.random.default_rng(0)
    for i in range(4):
        y = rng.integers(0, 4, (4, 5, 6))
        members = ((1, 2, 3), (2,), (3,))
        p = np.stack([np.where(np.isin(y, m), 0.6, 0.2) for m in members])
        p += 0.39 * rng.random(p.shape)
        folder.add(f"case_{i}", p.astype(np.float32), y.astype(np.uint8))
    assert calib_fit.main(["threshold", "--fnr", "0.3", *VAL, "-o", "f.json"]) == 0
    said = capsys.readouterr().out
    assert "Note: right is not inside left: where both are above their thresholds" in said
    assert "A region also gets what is written as one inside it" in said


def test_a_bound_of_several_folds_is_said_to_be_approximate(folders, capsys):
    """Here the folder's record says that its cases were predicted by three folds."""
    folds = {"network": Network(folds=("0", "1", "2")).to_dict()}
    Path("val/pred/meep_predict_args.json").write_text(json.dumps(folds))
    note = "Note: these cases were predicted by the networks of 3 folds"
    for method, has_bound in (("--fnr=0.4", True), ("--goal=dice", False)):
        assert calib_fit.main(["threshold", method, *VAL, "-o", "f.json"]) == 0
        assert (note in capsys.readouterr().out) == has_bound
    assert calib_fit.main(["volume", *VAL, "-o", "v.json"]) == 0
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["volum"], "method: is volume meant? expected one of platt, "),
        (["threshold"], "threshold: expected --goal dice or --fnr RATE, got neither"),
        (["threshold", "--goal", "dice", "--fnr", "0.1"], "--fnr RATE, got both"),
        (["threshold", "--fnr", "10"], "fnr: expected a share above 0 and below 1, such as 0.9"),
        (["volume", "--coverage", "90"], "coverage: expected a share above 0 and below 1"),
        (["volume", "--fnr", "0.1"], "--fnr: expected with threshold alone, got it with volume"),
        (["platt", "--coverage", "0.9"], "--coverage: expected with volume alone, got it with pl"),
        (["platt", "--goal", "dice"], "--goal: expected with threshold alone, got it with platt"),
        (["platt", "--after", "t.json"], "--after: expected with threshold or volume, got it with"),
        (
            ["volume", "--after", "t.json"],
            "t.json: expected a calibrator of meep-calib-fit: No such file",
        ),
        (["volume", "--roi", "crop"], "--roi: expected none with volume, which is of whole images"),
        (["volume", "--coverage", "0.95"], "expected 19 cases at least for 95 %, got 10"),
        (
            ["threshold", "--fnr", "0.05"],
            "expected 19 cases at least that have the class, for a fal",
        ),
        (["volume", "--after", "v.json"], "v.json: expected a calibrator without volume to fit it"),
    ],
)
def test_wrong_arguments_are_one_clear_line(arguments, message, folders, capsys):
    if "v.json" in arguments:
        assert calib_fit.main(["volume", "--coverage", "0.5", *VAL, "-o", "v.json"]) == 0
        capsys.readouterr()
    method, *options = arguments
    assert calib_fit.main([method, *VAL, "-o", "c.json", *options]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert error.startswith("Error: ")
    assert not Path("c.json").exists()


def test_a_calibrator_of_other_labels_comes_before_none(folders, tmp_path, capsys):
    other = PredictionFolder(tmp_path / "other", {"background": 0, "LA": 1})
    fill(other, 0, 3, classes=2)
    assert calib_fit.main(["platt", str(other.gt), str(other.pred), "-o", "p.json"]) == 0
    assert calib_fit.main(["volume", "--after", "p.json", *VAL, "-o", "v.json"]) == 1
    assert "expected the labels that the calibrator was fitted for, 1 LA" in capsys.readouterr().err
