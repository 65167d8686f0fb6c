"""``meep-calib-fit`` and ``meep-calib-apply``: what people type, see and get."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predictions import LABELS, PredictionFolder

from nnunet_meep.cli import calib_apply, calib_eval, calib_fit


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Validation and test predictions that are too sure."""
    monkeypatch.chdir(tmp_path)
    result = {}
    for part, seed in (("val", 0), ("test", 1)):
        folder = PredictionFolder(tmp_path / part, LABELS)
        rng = np.random.default_rng(seed)
        for i in range(3):
            logits = rng.normal(size=(3, 6, 9, 10))
            p = np.exp(logits) / np.exp(logits).sum(axis=0)
            reference = (rng.random((6, 9, 10)) > p.cumsum(axis=0)).sum(axis=0).clip(0, 2)
            sharp = p**4 / (p**4).sum(axis=0)
            folder.add(f"case_{i}", sharp.astype(np.float32), reference.astype(np.uint8))
        result[part] = folder
    return result


def test_fit_apply_and_evaluate(folders, capsys):
    assert calib_fit.main(["platt", "val/gt", "val/pred", "-o", "results/platt.json"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("platt, fitted on 3 cases, whole images, 1,620 voxels")
    row = next(line for line in out.splitlines() if line.startswith("1 Anterior"))
    assert "slope 0." in row
    before, after = (float(row.split()[i]) for i in (-4, -3))
    assert after < before
    assert "made to sum to 1" in out
    with Image.open("results/platt.png") as picture:
        assert picture.width > picture.height > 300
    assert "results/platt.json" in out
    assert "results/platt.png" in out

    assert calib_apply.main(["results/platt.json", "test/pred", "-o", "calibrated"]) == 0
    assert "3 cases calibrated, written into calibrated" in capsys.readouterr().out
    for folder in ("test/pred", "calibrated"):
        assert calib_eval.main(["test/gt", folder, "-o", f"eval/{folder}", "-np", "1"]) == 0
    ece = [
        json.loads(Path(f"eval/{f}/calibration.json").read_text())["top_label"]["pooled"]["ece"]
        for f in ("test/pred", "calibrated")
    ]
    assert ece[1] < 0.3 * ece[0]


def test_a_joint_map_says_what_it_was_fitted_to(folders, capsys, monkeypatch):
    fit = ["temperature", "val/gt", "val/pred", "-o", "t.json"]
    assert calib_fit.main(fit) == 0
    out = capsys.readouterr().out
    assert "T = " in out
    assert "all classes" in out
    assert "sample" not in out  # it was all of them
    monkeypatch.setattr("nnunet_meep.posthoc.sample.MAX_VALUES", 900)
    assert calib_fit.main(fit) == 0
    assert "Fitted to a weighted sample of 300 voxels." in capsys.readouterr().out


def test_a_model_folder_stands_for_its_folds(folders, monkeypatch, tmp_path):
    model = tmp_path / "results" / "Dataset007_X" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    validation = model / "fold_0" / "validation"
    validation.parent.mkdir(parents=True)
    folders["val"].pred.rename(validation)
    for name in ("dataset.json", "plans.json"):
        (validation / name).rename(model / name)
    preprocessed = tmp_path / "preprocessed" / "Dataset007_X"
    preprocessed.mkdir(parents=True)
    folders["val"].gt.rename(preprocessed / "gt_segmentations")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    assert calib_fit.main(["temperature", str(model), "-o", "c.json"]) == 0
    # Two folders up are the files that the calibrated folder gets.
    assert calib_apply.main(["c.json", str(validation), "-o", "calibrated"]) == 0
    for name in ("dataset.json", "plans.json"):
        assert Path("calibrated", name).read_bytes() == (model / name).read_bytes()


def test_an_older_calibrator_is_replaced_and_nothing_else(folders, capsys):
    fit = ["platt", "val/gt", "val/pred", "-o"]
    assert calib_fit.main([*fit, "c.json"]) == 0
    assert calib_fit.main([*fit, "c.json"]) == 0
    Path("mine.json").write_text('{"mine": 1}')
    Path("other.png").write_text("mine")
    capsys.readouterr()
    for target, message in (
        ("mine.json", "mine.json: expected a calibrator of meep-calib-fit"),
        (
            "other.json",
            "other.png: expected to write a picture there, found one without other.json",
        ),
        ("calibrator", "calibrator: expected the name of a .json file to write (-o)"),
        ("val", "val: expected the name of a .json file to write (-o)"),
    ):
        assert calib_fit.main([*fit, target]) == 1
        assert message in capsys.readouterr().err
    assert Path("mine.json").read_text() == '{"mine": 1}'
    assert Path("other.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["plat", "val/gt", "val/pred"],
            "method: is platt meant? expected one of platt, isotonic, temperature",
        ),
        (["platt", "val/pred"], "val/pred: expected the folder of reference segmentations before"),
        (["platt", "val/gt", "nowhere"], "nowhere: expected a folder of predictions, found none"),
        (["platt", "val/pred", "val/gt"], "the folder of references comes first"),
        (["platt", "val/gt", "val/pred", "--roi", "skull"], "skull: expected an ROI"),
        (["platt", "val/gt", "val/pred", "-djfile", "x.json"], "x.json: expected nnU-Net's"),
    ],
)
def test_wrong_arguments_are_one_clear_line(arguments, message, folders, capsys):
    assert calib_fit.main([*arguments, "-o", "c.json"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert not Path("c.json").exists()
