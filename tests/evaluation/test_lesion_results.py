"""Lesions of predictions on disk: which are compared, what is written, and what is refused."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
from predictions import softmax_case

from nnunet_meep.cli import calib_compare
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.evaluate import evaluate
from nnunet_meep.evaluation.report.evaluation_report import write_evaluation_report
from nnunet_meep.evaluation.report.text import table
from nnunet_meep.evaluation.result_format import nan_to_none
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.evaluation.stored_results import read_evaluation

pytestmark = pytest.mark.usefixtures("unrendered")

SHAPE = (4, 6, 12)
SPACING_MM = (3.0, 1.0, 0.5)
WMH = {"background": 0, "WMH": 1, "ignore": 2}


def label_map(**boxes):
    """A label map: ``z_y_x=label`` for a block of 1 x 2 x 2 voxels from there on."""
    found = np.zeros(SHAPE, np.uint8)
    for place, label in boxes.items():
        z, y, x = map(int, place[1:].split("_"))
        found[z, y : y + 2, x : x + 2] = label
    return found


def softmax(segmentation, p=0.8, n_classes=2):
    """Probabilities with this argmax; the others share the rest."""
    found = np.full((n_classes, *segmentation.shape), (1 - p) / (n_classes - 1), np.float32)
    np.put_along_axis(found, segmentation[None].astype(int), np.float32(p), 0)
    return found


@pytest.fixture
def wmh(make_folder):
    """Two scans with the labels of the challenge."""
    folder = make_folder(WMH)
    reference = label_map(_0_0_0=1, _1_3_4=1, _3_0_8=2)
    predicted = label_map(_0_0_1=1, _2_3_8=1, _3_0_8=1)  # over the ignored voxels
    folder.add("a", softmax(predicted), reference, SPACING_MM)
    folder.add("b", softmax(label_map()), label_map(_0_0_0=1), SPACING_MM)
    return folder


def test_a_case_by_hand(wmh) -> None:
    evaluation = evaluate(wmh.gt, wmh.pred, lesions=0)
    of_a, of_b = (case.rois["image"].classes["1"] for case in evaluation.cases)
    # Of a block of 4 voxels 2 are shared, 2 of 6; one is false, one is missed, one is ignored.
    assert evaluation.lesions["a"]["1"].iou == [pytest.approx(2 / 6), 0.0]
    assert evaluation.lesions["a"]["1"].predicted.size == [6.0, 6.0]
    assert (of_a["lesions_pred"], of_a["lesions_true"]) == (2, 2)
    assert of_a["lesion_f1"] == of_a["lesion_precision"] == of_a["lesion_recall"] == 0.5
    assert (of_b["lesion_f1"], of_b["lesion_recall"]) == (0.0, 0.0)
    assert math.isnan(of_b["lesion_precision"])
    assert of_a["wmh_dsc"] == 2 * 2 / (8 + 8) == of_a["dice"]
    assert of_a["wmh_avd"] == 0.0
    assert of_a["wmh_recall"] == of_a["wmh_f1"] == 0.5
    assert (of_b["wmh_avd"], of_b["wmh_f1"]) == (100.0, 0.0)
    assert math.isnan(of_b["wmh_h95"])
    pooled = evaluation.to_dict()["lesions"]["classes"]["1"]["pooled"]
    assert (pooled["lesions_true"], pooled["n_scans"]) == (3, 2)
    assert pooled["lesion_f1"] == 2 / 5
    by_mean = pooled["confidence"]["mean_p"]
    assert by_mean["ece"] == pytest.approx(0.8 - 0.5)
    assert by_mean["froc"]["false_positives"] == [0.5]
    assert "at least 0.1; pooled over 2 cases" in table(evaluation)
    assert "WMH challenge DSC 0.125, WMH challenge H95 mm" in table(evaluation)


def test_small_ones_are_left_out_but_not_of_the_challenges_figures(wmh) -> None:
    every, large = (evaluate(wmh.gt, wmh.pred, lesions=size) for size in (6, 6.1))
    of_every, of_large = (e.cases[0].rois["image"].classes["1"] for e in (every, large))
    assert (of_every["lesions_pred"], of_every["lesions_true"]) == (2, 2)
    assert (of_large["lesions_pred"], of_large["lesions_true"]) == (0, 0)
    assert of_large["wmh_f1"] == of_every["wmh_f1"] == 0.5
    assert "lesions of at least 6.1 mm^3" in table(large)


def test_without_surfaces_there_is_no_surface_of_the_challenge(wmh) -> None:
    metrics = evaluate(wmh.gt, wmh.pred, lesions=0, surface=False).class_metrics
    assert "wmh_f1" in metrics
    assert "wmh_h95" not in metrics


def test_without_lesions_there_is_nothing_of_them(wmh) -> None:
    evaluation = evaluate(wmh.gt, wmh.pred)
    assert evaluation.lesions is None
    assert evaluation.to_dict()["lesions"] is None
    assert not [m for m in evaluation.class_metrics if m.startswith(("lesion", "wmh"))]
    assert "esions" not in table(evaluation)


def test_lesions_are_of_the_whole_image_whatever_the_region_of_interest(wmh) -> None:
    evaluation = evaluate(wmh.gt, wmh.pred, lesions=0, rois=["image", "boundary:1"])
    image, boundary = (evaluation.cases[0].rois[roi].classes["1"] for roi in evaluation.pooled)
    assert image["brier"] != boundary["brier"]
    assert image["lesion_f1"] == boundary["lesion_f1"]


def test_each_class_has_its_own(make_folder) -> None:
    folder = make_folder({"background": 0, "one": 1, "two": 2})
    predicted = label_map(_0_0_0=1, _0_0_2=2, _2_2_6=2)
    folder.add("a", softmax(predicted, n_classes=3), label_map(_0_0_0=2, _2_2_6=2), SPACING_MM)
    evaluation = evaluate(folder.gt, folder.pred, lesions=0)
    one, two = evaluation.lesions["a"].values()
    assert (one.predicted.match, one.reference.match) == ([None], [])
    assert (two.predicted.match, two.reference.match) == ([None, 1], [None, 1])
    assert two.predicted.centre[1] == [2, 2, 6]  # of (2.5, 6.5), rounded to even
    assert not [m for m in evaluation.class_metrics if m.startswith("wmh")]


def test_regions_have_the_probabilities_of_their_channel(make_folder) -> None:
    """Also where no file says what is segmented, and later regions overwrite earlier ones."""
    regions = {"background": 0, "whole": [1, 2], "core": [2]}
    folder = make_folder(regions, regions_class_order=[1, 2])
    p = np.full((2, *SHAPE), 0.1, np.float32)
    p[0, 1, :2, :4], p[1, 1, :2, 1:3] = 0.75, 0.6
    folder.add("a", p, label_map(_1_0_0=1, _1_0_2=2), SPACING_MM)
    (folder.pred / "a.nii.gz").unlink()
    found = evaluate(folder.gt, folder.pred, lesions=0).lesions["a"]
    assert list(found) == ["(1, 2)", "(2,)"]
    whole, core = found.values()
    assert (whole.mean_p, whole.iou) == ([0.75], [1.0])
    assert core.mean_p == pytest.approx([0.6])
    assert core.iou == [pytest.approx(1 / 3)]


def test_a_component_of_a_file_may_be_unsure(make_folder) -> None:
    """The segmentation is the file; with argmax it is not."""
    folder = make_folder({"background": 0, "lesion": 1})
    reference = label_map(_0_0_0=1)
    folder.add("a", softmax(label_map(), p=0.7), reference, SPACING_MM)
    image = sitk.GetImageFromArray(reference)
    image.SetSpacing(SPACING_MM[::-1])
    sitk.WriteImage(image, folder.pred / "a.nii.gz")
    of_file = evaluate(folder.gt, folder.pred, lesions=0).lesions["a"]["1"]
    assert (of_file.iou, of_file.mean_p) == ([1.0], pytest.approx([0.3]))
    of_argmax = evaluate(folder.gt, folder.pred, lesions=0, segmentation="argmax").lesions
    assert of_argmax["a"]["1"].iou == []


def test_the_order_of_the_file_does_not_matter(make_folder) -> None:
    folder = make_folder()
    p, reference = softmax_case(np.random.default_rng(0), (4, 5, 6))
    folder.add("a", p, reference)
    found = evaluate(folder.gt, folder.pred, lesions=0).lesions
    np.savez_compressed(folder.pred / "a.npz", probabilities=np.asfortranarray(p))
    assert evaluate(folder.gt, folder.pred, lesions=0).lesions == found
    p_2 = p[2][(p.argmax(0) == 2)]
    assert max(found["a"]["2"].max_p) == p_2.max()


def test_sizes_in_2d_are_areas(make_folder) -> None:
    folder = make_folder({"background": 0, "lesion": 1}, file_ending=".png")
    (folder.pred / "plans.json").write_text('{"image_reader_writer": "NaturalImage2DIO"}')
    reference = label_map(_0_0_0=1, _0_3_8=1)[0]
    predicted = label_map(_0_0_0=1, _0_2_4=1)[0]
    for where, labels in ((folder.gt, reference), (folder.pred, predicted)):
        sitk.WriteImage(sitk.GetImageFromArray(labels), where / "a.png")
    np.savez_compressed(folder.pred / "a.npz", probabilities=softmax(predicted[None]))
    lesions = evaluate(folder.gt, folder.pred, lesions=4).lesions["a"]["1"]
    assert lesions.predicted.size == [4.0, 4.0]
    assert lesions.predicted.match == [0, None]
    assert lesions.reference.centre == [[0, 0, 0], [0, 4, 8]]
    assert evaluate(folder.gt, folder.pred, lesions=4.5).lesions["a"]["1"].iou == []


def test_what_is_written_is_read_again_and_kept_sums_give_the_same(wmh, tmp_path) -> None:
    made = evaluate(wmh.gt, wmh.pred, lesions=0, keep=tmp_path / "cases")
    again = evaluate(wmh.gt, wmh.pred, lesions=0, keep=tmp_path / "cases")
    other = evaluate(wmh.gt, wmh.pred, lesions=5, keep=tmp_path / "cases")
    assert (again.n_kept, other.n_kept) == (2, 0)
    write_evaluation_report(made, tmp_path)
    written = json.loads((tmp_path / "calibration.json").read_text())
    del written["origin"]
    assert written == nan_to_none(read_evaluation(tmp_path).to_dict())
    assert written == nan_to_none(again.to_dict())
    # A later result without lesions does not leave their pictures behind.
    assert (tmp_path / "froc.png").is_file()
    write_evaluation_report(evaluate(wmh.gt, wmh.pred), tmp_path)
    assert sorted(path.suffix for path in tmp_path.glob("*.*")) == [
        *(".csv", ".json", ".png", ".svg")
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda of_a: of_a["predicted"]["match"].append(None),
        lambda of_a: of_a["predicted"]["match"].reverse(),
        lambda of_a: of_a["predicted"].update(match=[2, None]),
        lambda of_a: of_a["predicted"].update(match=[True, None]),
        lambda of_a: of_a["predicted"].update(size=[6.0, -1.0]),
        lambda of_a: of_a["reference"].update(centre=[[0, 0, 0]]),
        lambda of_a: of_a["reference"].update(centre=[[0, 0, 0], 3]),
        lambda of_a: of_a["reference"].pop("match"),
        lambda of_a: of_a.update(mean_p=[0.8, 1.5]),
        lambda of_a: of_a.update(mean_p=[0.8, "1"]),
        lambda of_a: of_a.update(iou=[0.5, None]),
        lambda of_a: of_a.update(more=[]),
    ],
)
def test_damaged_lesions_are_refused(wmh, damage) -> None:
    content = evaluate(wmh.gt, wmh.pred, lesions=0, surface=False).to_dict()
    whole = copy.deepcopy(content)
    again = Evaluation.from_dict(whole).to_dict()
    assert nan_to_none(again["lesions"]) == nan_to_none(content["lesions"])
    damage(content["lesions"]["classes"]["1"]["cases"]["a"])
    with pytest.raises(InputError, match=r"^expected .* one that is damaged: .*lesions"):
        Evaluation.from_dict(content)
    for entry in (None, {"classes": {}}, {"classes": {"1": {"cases": {}}}}):
        with pytest.raises(InputError, match=r"damaged: .*lesions"):
            Evaluation.from_dict({**whole, "lesions": entry})


@pytest.mark.parametrize("size", [-1, math.nan, math.inf])
def test_a_size_that_is_none_is_refused(wmh, size) -> None:
    with pytest.raises(InputError, match=r"^lesions: expected a size in mm\^3, at least 0, got"):
        evaluate(wmh.gt, wmh.pred, lesions=size)


def test_a_comparison_evaluates_again_what_has_no_lesions(wmh, tmp_path, capsys) -> None:
    write_evaluation_report(evaluate(wmh.gt, wmh.pred, surface=False), tmp_path / "m")
    arguments = [f"m={tmp_path / 'm'}", "-o", str(tmp_path / "out"), "-np", "1"]
    assert calib_compare.main([*arguments, "--lesions"]) == 0
    printed = capsys.readouterr()
    assert "lesions was None, not 0.0: evaluated again" in printed.err
    assert "1 WMH: figures of the WMH challenge" in printed.out
    assert (tmp_path / "out" / "froc.png").is_file()
    assert read_evaluation(tmp_path / "m").settings["lesions"] == 0.0
    # A later comparison without lesions does not leave their pictures behind.
    write_evaluation_report(evaluate(wmh.gt, wmh.pred, surface=False), tmp_path / "m")
    assert calib_compare.main(arguments) == 0
    assert "evaluated again" not in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("froc*"))
    with pytest.raises(SystemExit):
        calib_compare.main(["--lesions", *arguments])
    assert "expected nothing or a size in mm^3, after the folders" in capsys.readouterr().err
