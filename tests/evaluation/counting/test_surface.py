import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt, gaussian_filter

from nnunet_meep.evaluation.counting.surface import METRICS, surface_metrics

SAME = {**dict.fromkeys(METRICS, 0.0), "nsd": 1.0}


def box(shape, *slices):
    mask = np.zeros(shape, dtype=bool)
    mask[slices] = True
    return mask


def test_two_voxels_apart_by_hand() -> None:
    a, b = box((5, 6, 7), 1, 1, 1), box((5, 6, 7), 1, 4, 5)
    distance = np.hypot(3 * 2.0, 4 * 0.5)
    assert surface_metrics(a, b, (3.0, 2.0, 0.5), 2) == pytest.approx(
        {"hd": distance, "hd95": distance, "assd": distance, "nsd": 0}
    )


def test_shifted_box_by_hand() -> None:
    a = box((12, 12, 12), slice(2, 6), slice(2, 6), slice(2, 6))
    b = np.roll(a, 3, axis=2)
    assert surface_metrics(a, b, (1.0, 1.0, 2.0), 2)["hd"] == 6.0


def test_identical_masks_have_no_distance() -> None:
    a = box((6, 6, 6), slice(1, 4), slice(2, 5), slice(0, 6))
    assert surface_metrics(a, a, (1.0, 2.0, 3.0), 0) == SAME


@pytest.mark.parametrize("empty", ["reference", "prediction", "both"])
def test_an_empty_mask_has_no_distance(empty) -> None:
    full, none = box((4, 4, 4), slice(1, 3)), np.zeros((4, 4, 4), dtype=bool)
    reference = full if empty == "prediction" else none
    prediction = full if empty == "reference" else none
    result = surface_metrics(reference, prediction, (1.0, 1.0, 1.0), 2)
    assert np.isnan([result["hd"], result["hd95"], result["assd"]]).all()
    assert np.isnan(result["nsd"]) if empty == "both" else result["nsd"] == 0


def test_inner_surfaces_count() -> None:
    solid = box((9, 9, 9), slice(1, 8), slice(1, 8), slice(1, 8))
    hollow = solid.copy()
    hollow[4, 4, 4] = False
    # The hole's surface is its 6 neighbours, 2 voxels from the outer surface of the solid.
    assert surface_metrics(solid, hollow, (1.0, 1.0, 1.0), 2)["hd"] == 2.0
    a, b = (sitk.GetImageFromArray(m.astype(np.uint8)) for m in (solid, hollow))
    between_whole_masks = sitk.HausdorffDistanceImageFilter()
    between_whole_masks.Execute(a, b)
    assert between_whole_masks.GetHausdorffDistance() == 1.0


def test_one_slice_is_two_dimensional() -> None:
    a, b = box((1, 9, 9), 0, slice(2, 7), slice(2, 7)), box((1, 9, 9), 0, slice(2, 7), slice(2, 8))
    assert surface_metrics(a, b, (999.0, 1.0, 1.0), 0.5) == surface_metrics(
        a[0], b[0], (1.0, 1.0), 0.5
    )
    # In 3D with one slice every voxel would be surface; in 2D the inside is not.
    hollow = a.copy()
    hollow[0, 3:6, 3:6] = False
    assert surface_metrics(a, hollow, (999.0, 1.0, 1.0), 2)["hd"] == 0.0


def test_single_voxel_image() -> None:
    one = np.ones((1, 1, 1), dtype=bool)
    assert surface_metrics(one, one, (1.0, 1.0, 1.0), 2) == SAME


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
    result = surface_metrics(*masks, spacing, 2)
    assert result["hd"] == pytest.approx(max(a_to_b.max(), b_to_a.max()))
    assert result["hd95"] == pytest.approx(
        max(np.percentile(a_to_b, 95), np.percentile(b_to_a, 95))
    )


def test_share_of_near_surface_voxels_by_hand() -> None:
    """A line of 5 voxels, shifted by 2 voxels of 1.5 mm: of each, one is 1.5 and one 3 mm away."""
    a, b = box((3, 3, 9), 1, 1, slice(0, 5)), box((3, 3, 9), 1, 1, slice(2, 7))
    shares = [surface_metrics(a, b, (1, 1, 1.5), mm)["nsd"] for mm in (0, 1.4, 1.5, 2.9, 3)]
    assert shares == [0.6, 0.6, 0.8, 0.8, 1.0]


def test_a_tolerance_is_met_in_spite_of_the_rounding_of_a_header() -> None:
    a, b = box((1, 1, 9), 0, 0, 1), box((1, 1, 9), 0, 0, 6)
    spacing_mm = (1.0, 1.0, float(np.float32(0.4)))
    assert 5 * spacing_mm[2] > 2
    assert surface_metrics(a, b, spacing_mm, 2)["nsd"] == 1.0


@pytest.mark.filterwarnings("ignore:monai:FutureWarning", "ignore:.* is all 0:UserWarning")
@pytest.mark.parametrize("empty", [(), (0,), (1,), (0, 1)])
def test_surface_dice_is_that_of_monai(empty) -> None:
    import torch

    compute_surface_dice = pytest.importorskip("monai.metrics").compute_surface_dice
    rng = np.random.default_rng(0)
    masks = [gaussian_filter(rng.normal(size=(14, 15, 16)), 2) > 0.02 for _ in range(2)]
    for i in empty:
        masks[i][:] = False
    spacing_mm = (2.0, 0.75, 1.25)
    theirs = [
        compute_surface_dice(
            *(torch.from_numpy(np.stack([~m, m])[None]).float() for m in masks[::-1]),
            class_thresholds=[tolerance],
            spacing=spacing_mm,
        ).item()
        for tolerance in (0.0, 1.3, 2.0)
    ]
    ours = [surface_metrics(*masks, spacing_mm, mm)["nsd"] for mm in (0.0, 1.3, 2.0)]
    assert ours == pytest.approx(theirs, abs=1e-6, nan_ok=True)
