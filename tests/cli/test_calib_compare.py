"""``meep-calib-compare`` on results of ``meep-calib-eval``."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_meep.cli import calib_eval
from nnunet_meep.cli.calib_compare import main


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Three models of different sharpness on four cases, evaluated."""
    root = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    gt = root / "gt"
    gt.mkdir()
    logits = rng.normal(size=(4, 5, 6, 7))
    for i in range(4):
        reference = (rng.random((5, 6, 7)) < 1 / (1 + np.exp(-logits[i]))).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(reference), gt / f"c{i}.nii.gz")
    for name, sharpness in (("calibrated", 1), ("sharp", 5), ("other", 2)):
        pred = root / name
        pred.mkdir()
        for i in range(4):
            p = 1 / (1 + np.exp(-sharpness * logits[i]))
            np.savez_compressed(
                pred / f"c{i}.npz", probabilities=np.stack([1 - p, p]).astype(np.float32)
            )
        labels = {"labels": {"background": 0, "a_b": 1}, "file_ending": ".nii.gz"}
        (pred / "dataset.json").write_text(json.dumps(labels))
        (pred / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))
        assert calib_eval.main([str(gt), str(pred), "-np", "1"]) == 0
    return root


def compared(root, out, *models):
    named = [f"{m}={root / m}" for m in models]
    assert main([*named, "-o", str(out)]) == 0
    return json.loads((out / "comparison.json").read_text())


def test_all_outputs_say_the_same(evaluated, tmp_path, capsys) -> None:
    result = compared(evaluated, tmp_path, "sharp", "calibrated")
    printed = capsys.readouterr().out
    assert result["models"] == ["sharp", "calibrated"]
    ece = {m: result["summary"][m]["1"]["ece"]["mean"] for m in result["models"]}
    assert ece["calibrated"] < ece["sharp"]
    best = f"{1e3 * ece['calibrated']:.2f}"
    assert f"{best} (" in printed
    line = next(row for row in printed.splitlines() if row.startswith("calibrated"))
    assert line[line.index(best) :].split(")")[1][0] == "*"
    assert f"**{best} (" in (tmp_path / "comparison.md").read_text()
    tex = (tmp_path / "comparison.tex").read_text()
    assert f"\\textbf{{{best} (" in tex
    assert "errors \\%" in tex
    with (tmp_path / "comparison.csv").open() as file:
        rows = {(r["model"], r["class"], r["metric"]): r for r in csv.DictReader(file)}
    assert float(rows["calibrated", "1", "ece"]["mean"]) == ece["calibrated"]
    test = result["differences"]["calibrated"]["1"]["ece"]
    assert float(rows["calibrated", "1", "ece"]["difference"]) == test["mean"]
    assert float(rows["calibrated", "1", "ece"]["p_holm"]) == test["p_holm"]
    assert rows["sharp", "1", "ece"]["difference"] == ""
    assert test["mean"] == pytest.approx(ece["calibrated"] - ece["sharp"])
    assert "whole images, 4 cases" in printed
    for name in ("reliability", "volumes", "errors"):
        assert min(sitk.ReadImage(str(tmp_path / f"{name}.png")).GetSize()[:2]) > 400
        assert (tmp_path / f"{name}.svg").read_text().rstrip().endswith("</svg>")


def test_trainings_of_one_model(evaluated, tmp_path) -> None:
    both = f"both={evaluated / 'sharp'},{evaluated / 'other'}"
    assert main([f"one={evaluated / 'calibrated'}", both, "-o", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert result["summary"]["both"]["1"]["dice"]["training_std"] is not None
    assert result["summary"]["one"]["1"]["dice"]["training_std"] is None


def test_one_model_alone_is_a_table(evaluated, tmp_path, capsys) -> None:
    assert compared(evaluated, tmp_path, "sharp")["differences"] == {}
    assert "Differences" not in capsys.readouterr().out


def test_what_is_not_the_same_is_a_warning(evaluated, tmp_path, capsys) -> None:
    path = evaluated / "sharp" / "calibration" / "calibration.json"
    content = json.loads(path.read_text())
    content["settings"]["bins"] = 10
    content["cases"] = content["cases"][1:]
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed" / "calibration.json").write_text(json.dumps(content))
    args = [f"a={evaluated / 'calibrated'}", f"b={tmp_path / 'changed'}", "-o", str(tmp_path / "o")]
    assert main(args) == 0
    warnings = [x for x in capsys.readouterr().err.splitlines() if x.startswith("Warning: ")]
    assert len(warnings) == 2
    assert "1 of its 4 cases" in warnings[0]
    assert "bins" in warnings[1]
    assert "Warning: bins" in (tmp_path / "o" / "comparison.md").read_text()


def test_bad_input_is_one_line_and_leaves_the_old_result(evaluated, tmp_path, capsys) -> None:
    compared(evaluated, tmp_path / "out", "sharp", "other")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert main([f"a={evaluated / 'gt'}", "-o", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {evaluated / 'gt'}: expected calibration.json")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_an_output_that_is_a_file(evaluated, tmp_path, capsys) -> None:
    (tmp_path / "out").write_text("mine")
    assert main([f"a={evaluated / 'sharp'}", "-o", str(tmp_path / "out")]) == 1
    assert "got a file (-o)" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("model", ["folder", "=folder", "name=", "name=a,,b", " =a"])
def test_a_model_that_is_no_name_and_folder_is_wrong_usage(model, tmp_path) -> None:
    with pytest.raises(SystemExit) as error:
        main([model, "-o", str(tmp_path)])
    assert error.value.code == 2
