"""Folders on the command line of ``meep-calib-compare``: results, predictions, or neither."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from predictions import softmax_case

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation import report
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.trainings import open_training

REGIONS = ["image", "boundary:1"]


@pytest.fixture
def folder(make_folder):
    folder, rng = make_folder(), np.random.default_rng(0)
    for case in "ab":
        folder.add(case, *softmax_case(rng, (5, 6, 7)))
    return folder


@pytest.fixture
def evaluated(folder):
    """The same, evaluated into ``calibration`` in the folder of predictions."""
    evaluation = evaluate(folder.gt, folder.pred, regions=REGIONS, surface=False)
    report.write(evaluation, folder.pred / "calibration")
    return folder


def test_predictions_with_a_result(evaluated) -> None:
    training = open_training(evaluated.pred)
    path = evaluated.pred / "calibration" / "calibration.json"
    assert training.result == json.loads(path.read_text())
    assert training.predictions == (evaluated.pred,)
    assert training.warnings == ()


def test_a_result_says_where_its_predictions_are(evaluated) -> None:
    training = open_training(evaluated.pred / "calibration")
    assert training.predictions == (evaluated.pred,)


def test_predictions_that_moved_with_their_result(evaluated, tmp_path) -> None:
    evaluated.pred.rename(tmp_path / "elsewhere")
    assert open_training(tmp_path / "elsewhere").predictions == (tmp_path / "elsewhere",)


def test_one_of_its_regions(evaluated) -> None:
    whole, near = (open_training(evaluated.pred, region=region).result for region in REGIONS)
    assert near["settings"]["regions"] == ["boundary:1"]
    assert near["cases"] == whole["by_region"]["boundary:1"]["cases"]
    with pytest.raises(InputError, match=r"evaluate it again with --region crop"):
        open_training(evaluated.pred, region="crop")


@pytest.mark.slow
def test_predictions_without_a_result_are_evaluated_once(folder, capsys) -> None:
    first = open_training(folder.pred, gt_folder=folder.gt, region="boundary:1")
    assert "2/2" in capsys.readouterr().err  # the progress bar
    expected = evaluate(folder.gt, folder.pred, regions=["boundary:1"]).to_dict()
    of_a = first.result["cases"][0]["classes"]["1"]
    assert of_a["ece"] == expected["cases"][0]["classes"]["1"]["ece"]
    assert "hd" in of_a
    path = folder.pred / "calibration" / "calibration.json"
    written = path.stat().st_mtime_ns
    assert open_training(folder.pred, gt_folder=folder.gt).result == first.result
    assert path.stat().st_mtime_ns == written


def test_predictions_without_a_result_need_references(folder) -> None:
    with pytest.raises(InputError, match=r"evaluate it with meep-calib-eval, or give --gt$"):
        open_training(folder.pred)
    assert not (folder.pred / "calibration").exists()


def test_predictions_that_are_newer_than_their_result_are_said(evaluated) -> None:
    result = evaluated.pred / "calibration" / "calibration.json"
    later = result.stat().st_mtime + 10
    os.utime(evaluated.pred / "b.npz", (later, later))
    (line,) = open_training(evaluated.pred).warnings
    assert line.startswith(f"{result} is older than 1 of its 2 predictions")
    assert open_training(evaluated.pred / "calibration").warnings == (line,)


@pytest.mark.parametrize("name", ["nowhere", "gt"])
def test_neither_is_one_line(folder, name) -> None:
    path = folder.gt.parent / name
    with pytest.raises(InputError, match=rf"^{path}: expected .* found none$"):
        open_training(path)
