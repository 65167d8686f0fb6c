"""``CASE.nii.gz`` beside ``CASE.npz``: is it the argmax, and of which of the two is Dice?"""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from predictions import softmax_case
from sklearn.metrics import f1_score
from test_evaluate import refused, run

from nnunet_meep.evaluation.counting.surface import surface_metrics

pytestmark = pytest.mark.usefixtures("unrendered")

SHAPE = (5, 6, 7)
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


def write(path, array) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8)), str(path))


def postprocessed(segmentation: np.ndarray, label: int = 2) -> np.ndarray:
    """Without one of its labels in a half of the image."""
    result = segmentation.copy()
    result[:3][result[:3] == label] = 0
    return result


@pytest.fixture
def folder(make_folder):
    """Two cases; the segmentation of b is not the argmax any more."""
    folder, rng = make_folder(), np.random.default_rng(0)
    folder.arrays = {}
    for case in "ab":
        p, reference = softmax_case(rng, SHAPE)
        folder.add(case, p, reference)
        folder.arrays[case] = p, reference, p.argmax(0)
    p, reference, argmax = folder.arrays["b"]
    folder.arrays["b"] = p, reference, postprocessed(argmax)
    write(folder.pred / "b.nii.gz", folder.arrays["b"][2])
    return folder


@pytest.mark.parametrize("order", ["C", "F"])
def test_dice_distances_and_volumes_are_of_the_file(folder, tmp_path, capsys, order) -> None:
    for case, (p, _, _) in folder.arrays.items():
        np.savez_compressed(folder.pred / f"{case}.npz", probabilities=np.asarray(p, order=order))
    result = run(folder, tmp_path)
    for case in result["cases"]:
        p, reference, segmentation = folder.arrays[case["case"]]
        assert case["n_not_argmax"] == (segmentation != p.argmax(0)).sum()
        for label in (1, 2):
            metrics = case["classes"][str(label)]
            y, predicted = reference == label, segmentation == label
            assert metrics["dice"] == pytest.approx(f1_score(y.ravel(), predicted.ravel()))
            assert metrics["volume_pred_ml"] == pytest.approx(predicted.sum() / 1000)
            expected = surface_metrics(y, predicted, (1, 1, 1), 2)
            assert {name: metrics[name] for name in expected} == expected
    n = result["cases"][1]["n_not_argmax"]
    assert n > 3
    assert (
        f"Note: in 1 of 2 cases the segmentation file is not the argmax of the probabilities "
        f"({n} voxels, {n} of them in b); Dice, distances and volumes are of the file "
        f"(meep-calib-eval --segmentation argmax takes the other)\n"
    ) in capsys.readouterr().out


def test_all_else_is_of_the_probabilities(folder, tmp_path) -> None:
    by_file = run(folder, tmp_path)
    by_argmax = run(folder, tmp_path, "--segmentation", "argmax")
    assert by_file["settings"]["segmentation"] == "file"
    assert by_argmax["settings"]["segmentation"] == "argmax"
    of_segmentation = {
        *{"dice", "precision", "recall", "hd", "hd95", "assd", "nsd"},
        *{"dice_expected", "dice_expected_error"},
        *{"volume_pred_ml", "volume_error_ml", "volume_error_abs_ml"},
    }
    for mine, other in zip(by_file["cases"], by_argmax["cases"], strict=True):
        assert mine["top_label"] == other["top_label"]
        for key, metrics in mine["classes"].items():
            differ = {m for m, value in metrics.items() if value != other["classes"][key][m]}
            assert differ <= of_segmentation
    for case in by_argmax["cases"]:
        p, reference, _ = folder.arrays[case["case"]]
        y, predicted = (reference == 2).ravel(), (p.argmax(0) == 2).ravel()
        assert case["classes"]["2"]["dice"] == pytest.approx(f1_score(y, predicted))


def test_in_parts_of_the_image(folder, tmp_path) -> None:
    """Padding, a margin, and a case whose padding the file does not respect."""
    p, reference, segmentation = folder.arrays["b"]
    p = p.copy()
    p[:, :, :2] = np.array([1, 0, 0]).reshape(3, 1, 1, 1)
    np.savez_compressed(folder.pred / "b.npz", probabilities=p)
    result = run(folder, tmp_path, "--roi", "crop", "boundary:1", "image")
    inside = np.zeros(SHAPE, bool)
    inside[:, 2:] = True
    dice = result["cases"][1]["classes"]["1"]["dice"]
    y, predicted = (reference == 1)[inside], (segmentation == 1)[inside]
    assert dice == pytest.approx(f1_score(y, predicted))
    of_image = result["by_roi"]["image"]["cases"][1]["classes"]["1"]
    assert of_image["dice"] == pytest.approx(
        f1_score((reference == 1).ravel(), (segmentation == 1).ravel())
    )
    assert of_image["volume_true_ml"] == pytest.approx((reference == 1).sum() / 1000)


def test_of_rois(make_folder, tmp_path) -> None:
    folder = make_folder(REGIONS, regions_class_order=[1, 2])
    rng = np.random.default_rng(0)
    p = rng.random((2, *SHAPE)).astype(np.float32)
    reference = rng.integers(0, 3, SHAPE).astype(np.uint8)
    folder.add("a", p, reference)
    assert run(folder, tmp_path)["cases"][0]["n_not_argmax"] == 0
    other = postprocessed(folder.rule(p))
    write(folder.pred / "a.nii.gz", other)
    case = run(folder, tmp_path)["cases"][0]
    assert case["n_not_argmax"] == (other != folder.rule(p)).sum()
    for key, members in (("(1, 2)", (1, 2)), ("(2,)", (2,))):
        y, predicted = np.isin(reference, members), np.isin(other, members)
        assert case["classes"][key]["dice"] == pytest.approx(f1_score(y.ravel(), predicted.ravel()))
        errors = ((p[len(members) % 2] > 0.5) != y).mean()
        assert case["classes"][key]["error_rate"] == pytest.approx(errors)


def test_nothing_is_said_where_it_is_the_argmax(folder, tmp_path, capsys) -> None:
    write(folder.pred / "b.nii.gz", folder.arrays["b"][0].argmax(0))
    result = run(folder, tmp_path)
    assert [case["n_not_argmax"] for case in result["cases"]] == [0, 0]
    assert "Note" not in capsys.readouterr().out


def test_an_empty_one_is_not_segmented_and_said(folder, tmp_path, capsys) -> None:
    """A file that was never opened would have kept the Dice of the probabilities."""
    for case in "ab":
        write(folder.pred / f"{case}.nii.gz", np.zeros(SHAPE))
    result = run(folder, tmp_path)
    assert [case["classes"]["1"]["dice"] for case in result["cases"]] == [0, 0]
    printed = capsys.readouterr().out
    assert "in 2 of 2 cases the segmentation file is not the argmax" in printed
    assert "Not segmented: 1 Anterior" in printed


def test_one_that_is_not_there_is_the_argmax_and_said(folder, tmp_path, capsys) -> None:
    (folder.pred / "b.nii.gz").unlink()
    result = run(folder, tmp_path)
    assert [case["n_not_argmax"] for case in result["cases"]] == [0, None]
    p, reference, _ = folder.arrays["b"]
    dice = f1_score((reference == 1).ravel(), (p.argmax(0) == 1).ravel())
    assert result["cases"][1]["classes"]["1"]["dice"] == pytest.approx(dice)
    note = "Note: 1 case without a segmentation file, where Dice, distances and volumes are of the "
    assert f"{note}argmax: b\n" in capsys.readouterr().out


class TestRefused:
    def refused(self, folder, tmp_path, capsys) -> str:
        line = refused(capsys, folder.gt, folder.pred, "-o", tmp_path / "out", "-np", 1)
        assert str(folder.pred / "b.nii.gz") in line
        return line

    def test_of_another_shape(self, folder, tmp_path, capsys) -> None:
        write(folder.pred / "b.nii.gz", np.zeros((5, 6, 8)))
        assert "shape 7 x 6 x 5, got 8 x 6 x 5" in self.refused(folder, tmp_path, capsys)

    def test_of_other_labels(self, folder, tmp_path, capsys) -> None:
        write(folder.pred / "b.nii.gz", np.full(SHAPE, 3))
        assert "found also 3" in self.refused(folder, tmp_path, capsys)

    def test_of_the_ignore_label(self, make_folder, tmp_path, capsys) -> None:
        folder = make_folder({"background": 0, "Anterior": 1, "ignore": 2})
        p, reference = softmax_case(np.random.default_rng(0), SHAPE, 2)
        folder.add("b", p, reference)
        write(folder.pred / "b.nii.gz", np.full(SHAPE, 2))
        line = self.refused(folder, tmp_path, capsys)
        assert "found the ignore label 2, which no network predicts" in line

    def test_that_is_no_image(self, folder, tmp_path, capsys) -> None:
        (folder.pred / "b.nii.gz").write_bytes(b"none")
        assert "expected a segmentation, could not read" in self.refused(folder, tmp_path, capsys)
