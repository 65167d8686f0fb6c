import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt

from nnunet_meep.evaluation.counting.surface import surface_distances_mm


def box(shape, *slices):
    mask = np.zeros(shape, dtype=bool)
    mask[slices] = True
    return mask


def test_two_voxels_apart_by_hand() -> None:
    a, b = box((5, 6, 7), 1, 1, 1), box((5, 6, 7), 1, 4, 5)
    distance = np.hypot(3 * 2.0, 4 * 0.5)
    assert surface_distances_mm(a, b, (3.0, 2.0, 0.5)) == pytest.approx(
        {"hd": distance, "hd95": distance, "assd": distance}
    )


def test_shifted_box_by_hand() -> None:
    a = box((12, 12, 12), slice(2, 6), slice(2, 6), slice(2, 6))
    b = np.roll(a, 3, axis=2)
    assert surface_distances_mm(a, b, (1.0, 1.0, 2.0))["hd"] == 6.0


def test_identical_masks_have_no_distance() -> None:
    a = box((6, 6, 6), slice(1, 4), slice(2, 5), slice(0, 6))
    assert surface_distances_mm(a, a, (1.0, 2.0, 3.0)) == dict.fromkeys(("hd", "hd95", "assd"), 0.0)


@pytest.mark.parametrize("empty", ["reference", "prediction", "both"])
def test_an_empty_mask_has_no_distance(empty) -> None:
    full, none = box((4, 4, 4), slice(1, 3)), np.zeros((4, 4, 4), dtype=bool)
    reference = full if empty == "prediction" else none
    prediction = full if empty == "reference" else none
    result = surface_distances_mm(reference, prediction, (1.0, 1.0, 1.0))
    assert np.isnan(result["hd"])
    assert np.isnan(result["hd95"])


def test_inner_surfaces_count() -> None:
    solid = box((9, 9, 9), slice(1, 8), slice(1, 8), slice(1, 8))
    hollow = solid.copy()
    hollow[4, 4, 4] = False
    # The hole's surface is its 6 neighbours, 2 voxels from the outer surface of the solid.
    assert surface_distances_mm(solid, hollow, (1.0, 1.0, 1.0))["hd"] == 2.0
    a, b = (sitk.GetImageFromArray(m.astype(np.uint8)) for m in (solid, hollow))
    between_whole_masks = sitk.HausdorffDistanceImageFilter()
    between_whole_masks.Execute(a, b)
    assert between_whole_masks.GetHausdorffDistance() == 1.0


def test_one_slice_is_two_dimensional() -> None:
    a, b = box((1, 9, 9), 0, slice(2, 7), slice(2, 7)), box((1, 9, 9), 0, slice(2, 7), slice(2, 8))
    assert surface_distances_mm(a, b, (999.0, 1.0, 1.0)) == surface_distances_mm(
        a[0], b[0], (1.0, 1.0)
    )
    # In 3D with one slice every voxel would be surface; in 2D the inside is not.
    hollow = a.copy()
    hollow[0, 3:6, 3:6] = False
    assert surface_distances_mm(a, hollow, (999.0, 1.0, 1.0))["hd"] == 0.0


def test_single_voxel_image() -> None:
    one = np.ones((1, 1, 1), dtype=bool)
    assert surface_distances_mm(one, one, (1.0, 1.0, 1.0)) == dict.fromkeys(
        ("hd", "hd95", "assd"), 0.0
    )


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_distance_maps_of_the_whole_image(seed) -> None:
    rng = np.random.default_rng(seed)
    spacing = tuple(rng.uniform(0.5, 3, 3))
    masks = []
    for _ in range(2):
        centre = rng.uniform(5, 12, 3)
        grid = np.indices((18, 17, 16)).transpose(1, 2, 3, 0) - centre
        masks.append((grid**2).sum(-1) < rng.uniform(10, 30))
    surfaces = []
    for mask in masks:  # a voxel with a face neighbour outside, said with shifted copies
        padded = np.pad(mask, 1)
        inner = mask.copy()
        for axis in range(3):
            for step in (-1, 1):
                inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
        surfaces.append(mask & ~inner)
    a_to_b = distance_transform_edt(~surfaces[1], sampling=spacing)[surfaces[0]]
    b_to_a = distance_transform_edt(~surfaces[0], sampling=spacing)[surfaces[1]]
    result = surface_distances_mm(*masks, spacing)
    assert result["hd"] == pytest.approx(max(a_to_b.max(), b_to_a.max()))
    assert result["hd95"] == pytest.approx(
        max(np.percentile(a_to_b, 95), np.percentile(b_to_a, 95))
    )
