"""``meep-calib-eval`` as a process of its own: what people see when a file is bad."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_meep.cli import calib_eval


@pytest.fixture
def folders(tmp_path):
    """Three predictions, of which the first is cut short."""
    gt, pred = tmp_path / "gt", tmp_path / "pred"
    gt.mkdir()
    pred.mkdir()
    dataset = {"labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (pred / "dataset.json").write_text(json.dumps(dataset))
    (pred / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))
    for i in range(3):
        reference = np.zeros((4, 4, 4), np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(reference), gt / f"case_{i}.nii.gz")
        p = np.full((2, 4, 4, 4), 0.5, np.float32)
        np.savez_compressed(pred / f"case_{i}.npz", probabilities=p)
    broken = pred / "case_0.npz"
    broken.write_bytes(broken.read_bytes()[:100])
    return gt, pred


@pytest.mark.slow
def test_a_bad_file_is_one_line_with_several_processes_too(folders):
    gt, pred = folders
    command = Path(sys.executable).with_name("meep-calib-eval")
    for _ in range(3):  # what is left to the end of Python does not always fail
        result = subprocess.run(
            [command, gt, pred, "-np", "2"], capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 1
        errors = [line for line in result.stderr.splitlines() if "case/s" not in line]
        assert [line for line in errors if line.strip() and "?case" not in line] == errors[-1:]
        assert errors[-1].startswith(f"Error: {pred / 'case_0.npz'}: expected an npz file")
    # Only what was finished is kept, for the next try.
    assert {p.name for p in pred.glob("calibration/*")} <= {"cases"}


def test_a_file_in_place_of_the_predictions_is_not_taken_for_the_output(folders, capsys):
    gt, pred = folders
    assert calib_eval.main([str(gt), str(pred / "case_0.npz")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {pred / 'case_0.npz'}: expected a folder of predictions")
    assert not list(pred.glob("calibration"))


@pytest.mark.slow
def test_pictures_that_cannot_be_drawn_are_said_when_they_are_due(folders, tmp_path):
    """Where matplotlib has no folder that it may write to; it is loaded beside the counting."""
    gt, pred = folders
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise OSError('no writable folder')")
    command = [Path(sys.executable).with_name("meep-calib-eval"), gt, pred, "-np", "2"]
    for chosen, said in ((), "expected an npz file"), (("--cases", "case_1"), "no writable folder"):
        result = subprocess.run(
            [*command, *chosen],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1
        *others, last = result.stderr.splitlines()
        assert last.startswith("Error: ")
        assert said in last
        assert "no writable folder" not in "".join(others)
    assert {p.name for p in pred.glob("calibration/*")} == {"cases"}
