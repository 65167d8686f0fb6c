"""The figures of the WMH challenge: on paper, and as its script computes them with SimpleITK."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.spatial import cKDTree

from nnunet_meep.evaluation.counting.components import Numbered
from nnunet_meep.evaluation.counting.surface import surface_metrics
from nnunet_meep.evaluation.counting.wmh_challenge import challenge_figures, is_wmh_challenge
from nnunet_meep.nnunet_files.labels import Labels

SPACING_MM = (3.0, 1.0, 0.5)


def figures(predicted, reference, spacing_mm=SPACING_MM, surface=True):
    numbered = Numbered.of(predicted, reference)
    return challenge_figures(predicted, reference, numbered, spacing_mm, surface)


def box(shape, *slices):
    found = np.zeros(shape, bool)
    found[slices] = True
    return found


def test_one_large_component_finds_every_lesion_it_touches():
    reference = np.array([[[1, 0, 1, 0, 1, 0, 0, 0, 1]]], bool)
    predicted = np.array([[[1, 1, 1, 1, 1, 0, 1, 0, 0]]], bool)
    found = figures(predicted, reference, (1.0, 1.0, 1.0))
    # 3 of 4 lesions are touched, 1 of 2 components touches one: F1 = 2 * .75 * .5 / 1.25.
    assert found["wmh_recall"] == 0.75
    assert found["wmh_f1"] == pytest.approx(0.6)
    # 3 voxels shared, 6 and 4 in the masks.
    assert found["wmh_dsc"] == 0.6
    assert found["wmh_avd"] == 50.0
    # Beyond the image is inside: the edge of the prediction is x = 4 and 6, that of the reference
    # all four. From there it is 0 and 2 away; from the reference 4, 2, 0 and 2, of which 95 % lie
    # .85 of the way from 2 to 4.
    assert found["wmh_h95"] == pytest.approx(3.7)


def test_the_surface_is_that_of_each_slice():
    """A block of three slices: in 3D its first and last slice are surface, here only their rim."""
    reference = box((3, 7, 7), slice(None), slice(1, 6), slice(1, 6))
    predicted = reference.copy()
    predicted[:, 3, 3] = False  # a hole, whose edge is 8 voxels in each slice
    found = figures(predicted, reference)["wmh_h95"]
    # From the 16 voxels of the rim to itself; from 6 around the hole a column of 0.5 mm, from the
    # 2 above and below it a row of 1 mm.
    distances = [0.0] * 16 + [0.5] * 6 + [1.0] * 2
    assert found == pytest.approx(np.percentile(distances * 3, 95))
    assert surface_metrics(reference, predicted, SPACING_MM, 2)["hd95"] != found


def test_the_mask_goes_on_beyond_the_image():
    everything = np.ones((2, 4, 4), bool)
    assert math.isnan(figures(everything, everything)["wmh_h95"])  # no edge at all
    quarter = box((2, 4, 4), slice(None), slice(0, 2), slice(0, 2))
    half = box((2, 4, 4), slice(None), slice(0, 2), slice(0, 3))
    # The edges are column 1 and row 1, and column 2 and row 1: the corner (0, 0) is none.
    assert figures(half, quarter)["wmh_h95"] == pytest.approx(0.5)


def test_empty_masks():
    some, none = box((2, 3, 3), 0, 1, 1), np.zeros((2, 3, 3), bool)
    missed = figures(none, some)
    assert (missed["wmh_recall"], missed["wmh_f1"], missed["wmh_avd"]) == (0.0, 0.0, 100.0)
    assert missed["wmh_dsc"] == 0.0
    invented = figures(some, none)
    assert (invented["wmh_recall"], invented["wmh_f1"]) == (1.0, 0.0)
    assert math.isnan(invented["wmh_avd"])
    nothing = figures(none, none)
    assert (nothing["wmh_recall"], nothing["wmh_f1"]) == (1.0, 1.0)
    assert math.isnan(nothing["wmh_dsc"])
    assert math.isnan(nothing["wmh_avd"])
    assert all(math.isnan(found["wmh_h95"]) for found in (missed, invented, nothing))


def test_without_surfaces_there_is_no_h95():
    some = box((2, 3, 3), 0, 1, 1)
    assert list(figures(some, some, surface=False)) == [
        *("wmh_dsc", "wmh_avd", "wmh_recall", "wmh_f1"),
    ]


def as_its_script(result, test):
    """The figures of label maps (0, 1, 2) with SimpleITK, step by step as the challenge does."""
    outside = sitk.BinaryThreshold(test, 1.5, 2.5, 0, 1)
    result = sitk.Mask(sitk.BinaryThreshold(result, 0.5, 1.5, 1, 0), outside)
    test = sitk.BinaryThreshold(test, 0.5, 1.5, 1, 0)
    test, result = sitk.Cast(test, sitk.sitkUInt8), sitk.Cast(result, sitk.sitkUInt8)
    of_test, of_result = sitk.GetArrayFromImage(test), sitk.GetArrayFromImage(result)

    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(test, result)
    dsc = overlap.GetDiceCoefficient() if of_test.any() or of_result.any() else math.nan
    n_test, n_result = float(of_test.sum()), float(of_result.sum())
    avd = abs(n_test - n_result) / n_test * 100 if n_test else math.nan

    h95, points = math.nan, []
    for image in (test, result):
        edge = sitk.Subtract(image, sitk.BinaryErode(image, (1, 1, 0)))
        places = np.argwhere(sitk.GetArrayFromImage(edge))[:, ::-1].tolist()
        points.append([image.TransformIndexToPhysicalPoint(index) for index in places])
    if all(points):
        both = [cKDTree(points[0]).query(points[1])[0], cKDTree(points[1]).query(points[0])[0]]
        h95 = max(np.percentile(both[0], 95), np.percentile(both[1], 95))

    shares = []
    for mine, other in ((test, of_result), (result, of_test)):
        components = sitk.GetArrayFromImage(sitk.ConnectedComponent(mine, True))
        n = len(np.unique(components)) - (not components.all())
        hit = len(set(np.unique(components * other)) - {0})
        shares.append(hit / n if n else 1.0)
    recall, precision = shares
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"wmh_dsc": dsc, "wmh_h95": h95, "wmh_avd": avd, "wmh_recall": recall, "wmh_f1": f1}


@settings(deadline=None)
@given(st.data())
def test_as_the_challenge_computes_them(data):
    shape = data.draw(st.sampled_from([(1, 6, 7), (3, 5, 5), (4, 1, 6)]))
    maps = npst.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1, 1, 1, 2]))
    test = data.draw(maps)
    # Dense masks have an inner part; a network knows no other pathology.
    result = (data.draw(maps) > 0).astype(np.uint8)
    if data.draw(st.booleans()):
        result |= test > 0
    # The challenge's label maps are of floating numbers, which its thresholds need.
    images = [sitk.GetImageFromArray(labels.astype(np.float32)) for labels in (result, test)]
    for image in images:
        image.SetSpacing(SPACING_MM[::-1])
    expected = as_its_script(*images)
    assert figures((result == 1) & (test != 2), test == 1) == pytest.approx(expected, nan_ok=True)


def labels(names=("WMH",), classes=(1,), ignore=2):
    return Labels(classes, names, (0, *classes), ignore, ())


def test_only_labels_of_the_challenge_are_the_challenge():
    assert is_wmh_challenge(labels())
    assert not is_wmh_challenge(labels(names=("lesion",)))
    assert not is_wmh_challenge(labels(ignore=None))
    assert not is_wmh_challenge(labels(names=("WMH", "other"), classes=(1, 2), ignore=3))
