"""The probabilities where the evaluated segmentation has a class, however they were gathered."""

from __future__ import annotations

import numpy as np
import pytest
from predictions import LABELS, softmax_case
from test_evaluate import run

from nnunet_meep.evaluation.counting import class_counts, one_pass
from nnunet_meep.evaluation.counting.bins import FEW_VOXELS
from nnunet_meep.evaluation.counting.case_counts import CaseCounts
from nnunet_meep.evaluation.counting.reference import ARGMAX, FILE, PackedCodes, Reference
from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.evaluation.metrics.scores import expected_dice
from nnunet_meep.nnunet_files import probabilities as stream
from nnunet_meep.nnunet_files.cases import Case
from nnunet_meep.nnunet_files.labels import Labels

SHAPE = (5, 6, 7)
CLASSES = Labels((1, 2), ("a", "b"), (0, 1, 2), 3, ())
REGIONS = Labels(((1, 2), (2,)), ("whole", "core"), (0, 1, 2), 3, (1, 2))
IGNORED = 3


@pytest.fixture(params=[0, FEW_VOXELS], ids=["compiled", "numpy"])
def _loops(request, monkeypatch) -> None:
    """Parts that end anywhere; in compiled loops or in NumPy."""
    monkeypatch.setattr(stream, "PART", 41)
    monkeypatch.setattr(class_counts, "FEW_VOXELS", request.param)


@pytest.fixture
def finished(monkeypatch) -> list[CaseCounts]:
    """The counts of each case that is summed, as they are in the end."""
    found, original = [], one_pass.count_case

    def kept(*args):
        found.append(original(*args))
        return found[-1]

    monkeypatch.setattr(one_pass, "count_case", kept)
    return found


def made_up(labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, codes of the reference, of nnU-Net's rule, and of another segmentation."""
    rng = np.random.default_rng(0)
    if labels.is_region_based:
        p = rng.random((2, *SHAPE))
        rule = np.where(p[1] > 0.5, 2, p[0] > 0.5).astype(np.uint8)
    else:
        p, _ = softmax_case(rng, SHAPE)
        rule = p.argmax(0).astype(np.uint8)
    codes = rng.integers(0, 4, SHAPE).astype(np.uint8)
    other = np.where(rng.random(SHAPE) < 0.3, rng.integers(0, 3, SHAPE), rule).astype(np.uint8)
    return p.astype(np.float32), codes, rule, other


@pytest.mark.usefixtures("_loops")
@pytest.mark.parametrize("labels", [CLASSES, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("evaluated", [FILE, ARGMAX])
def test_they_are_those_of_the_voxels(tmp_path, finished, labels, order, evaluated) -> None:
    p, codes, rule, other = made_up(labels)
    np.savez(tmp_path / "a.npz", probabilities=np.asarray(p, order=order))
    roi = Roi("boundary:1", margin_mm=1)
    inside = np.where(np.random.default_rng(1).random(SHAPE) < 0.5, codes, IGNORED)
    restricted = {roi.name: inside.astype(np.uint8)}
    case = Case("a", tmp_path / "a.nii.gz", tmp_path / "a.npz")
    for segmentation in (None, rule, other):
        packed = None if segmentation is None else PackedCodes.of(segmentation)
        reference = Reference(codes, restricted, (1, 1, 1), packed)
        rois = [Roi("image"), roi]
        sums = one_pass.sum_case(case, labels, reference, 15, rois, False, 2, evaluated)
        counts = finished[-1]
        taken = rule if segmentation is None or evaluated == ARGMAX else segmentation
        for i in range(2):
            where = np.isin(taken, labels.members(i))
            of_class = p[labels.channel(i)].astype(np.float64)
            mask, found = counts.predicted_mask(i), counts.predicted_p(i)
            np.testing.assert_array_equal(mask, where & (codes != IGNORED))
            np.testing.assert_array_equal(found, of_class[mask])
            for name, its_codes in (("image", codes), (roi.name, inside)):
                of_roi = sums.rois[name].channels[labels.channel(i)]
                overlap = of_class[where & (its_codes != IGNORED)].sum()
                assert of_roi.expected_overlap == pytest.approx(overlap, rel=1e-12)


@pytest.mark.usefixtures("_loops")
def test_what_leaves_the_interval_is_clipped(tmp_path, finished) -> None:
    p = np.zeros((3, *SHAPE), np.float32)
    p[0], p[1] = -1e-6, 1 + 1e-6
    np.savez(tmp_path / "a.npz", probabilities=p)
    ones = np.ones(SHAPE, np.uint8)
    reference = Reference(ones, {}, (1, 1, 1), PackedCodes.of(ones))
    case = Case("a", tmp_path / "a.nii.gz", tmp_path / "a.npz")
    sums = one_pass.sum_case(case, CLASSES, reference, 15, [Roi("image")], False, 2)
    assert sums.rois["image"].channels[1].expected_overlap == ones.size
    assert (finished[0].predicted_p(0) == 1).all()
    assert finished[0].predicted_p(1).size == 0


@pytest.mark.parametrize(
    ("p", "segmented", "expected"),
    [
        ([0.9, 0.6, 0.4, 0.1], [1, 1, 0, 0], 0.75),
        ([1.0, 1.0, 0.0, 0.0], [1, 1, 0, 0], 1.0),
        ([0.0, 0.0, 0.0, 0.0], [1, 1, 0, 0], 0.0),
        ([0.2, 0.2, 0.1, 0.0], [0, 0, 0, 0], 0.0),  # half a voxel is expected, none segmented
        ([0.2, 0.2, 0.05, 0.0], [0, 0, 0, 0], np.nan),
    ],
)
def test_expected_dice_by_hand(p, segmented, expected) -> None:
    p, segmented = np.array(p), np.array(segmented, bool)
    found = expected_dice(float(p[segmented].sum()), float(p.sum()), int(segmented.sum()))
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.usefixtures("unrendered")
def test_empty_ones_by_hand(make_folder, tmp_path) -> None:
    """Of class 1 nothing is segmented, of class 2 nothing is in the reference."""
    folder, shape = make_folder(LABELS), (1, 2, 2)
    p = np.zeros((3, *shape), np.float32)
    p[1].flat, p[2].flat = [0.1, 0.1, 0.1, 0.1], [0.0, 0.0, 0.75, 0.25]
    p[0] = 1 - p[1] - p[2]
    folder.add("a", p, np.array([1, 1, 0, 0], np.uint8).reshape(shape), spacing_mm=(1, 10, 100))
    folder.add("b", p, np.zeros(shape, np.uint8), spacing_mm=(1, 10, 100))
    result = run(folder, tmp_path)
    one, two = (result["cases"][0]["classes"][key] for key in "12")
    # 0.4 voxels of class 1 are expected, so that its expected Dice is undefined; a voxel has 1 ml.
    found = [one[m] for m in ("dice", "dice_expected", "precision", "recall", "nsd")]
    assert found == [0, None, None, 0, 0]
    assert [one["volume_error_ml"], one["volume_error_abs_ml"]] == [-2, 2]
    assert one["volume_expected_error_abs_ml"] == pytest.approx(1.6)
    found = [two[m] for m in ("dice", "dice_expected", "precision", "recall", "nsd")]
    assert found == [0, pytest.approx(2 * 0.75 / 2), 0, None, 0]
    assert two["dice_expected_error"] == pytest.approx(0.75)
    both = result["cases"][1]["classes"]["1"]
    assert [both["dice"], both["nsd"], both["dice_expected_error"]] == [None, None, None]
    # Over the voxels of both cases 0.8 are expected and none is segmented.
    assert result["classes"]["1"]["pooled"]["dice_expected"] == 0
    assert result["classes"]["2"]["pooled"]["dice_expected"] == pytest.approx(1.5 / 2)
