"""Slices as layers of the page: what the images and the outlines show."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.path import Path as Polygon
from PIL import Image, ImageColor

from nnunet_meep.evaluation.report.case_layers import MOST_VOXELS, case_pictures, layers, outline
from nnunet_meep.evaluation.report.slice_figures import ERROR_COLORS
from nnunet_meep.evaluation.report.slices import CaseSlice, ModelSlice


def pixels(uri):
    kind, content = uri.split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def a_slice(shape=(6, 8), *, image=True, voxel_mm=(1.0, 1.0)):
    """Two models; the class is in the middle of the first and nowhere in the second."""
    rng = np.random.default_rng(0)
    reference = np.zeros(shape, bool)
    reference[2:4, 3:6] = True
    nowhere = np.zeros(shape, bool)
    models = tuple(
        ModelSlice(
            name,
            rng.random(shape).astype(np.float32),
            mask,
            mask != reference,
            rng.random(shape).astype(np.float32),
        )
        for name, mask in (("right", reference), ("nothing", nowhere))
    )
    grey = rng.random(shape) if image else None
    return CaseSlice(
        "a", "lesion", "axial slice 1 of 4", "axial", voxel_mm, grey, "MRI", reference, models
    )


def test_the_outline_of_a_voxel_is_a_diamond_around_its_centre() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    corners = {tuple(map(float, xy.split())) for xy in re.findall(r"[\d.]+ [\d.]+", outline(mask))}
    assert corners == {(2.5, 1.0), (3.0, 1.5), (2.5, 2.0), (2.0, 1.5)}
    assert outline(np.zeros((3, 3), bool)) == ""


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.booleans()))
def test_outlines_enclose_the_centres_of_the_mask_and_no_others(mask) -> None:
    y, x = np.indices(mask.shape) + 0.5
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    inside = np.zeros(mask.size, bool)
    for part in re.findall(r"M([^Z]+)Z", outline(mask)):
        points = [tuple(map(float, xy.split())) for xy in part.split("L")]
        inside ^= Polygon([*points, points[0]], closed=True).contains_points(centres)
    assert np.array_equal(inside.reshape(mask.shape), mask)


def test_the_images_have_the_numbers_of_the_slice_as_colours() -> None:
    cut = a_slice()
    found = layers(cut)
    assert (found["width"], found["height"]) == (8, 6)
    reference = pixels(found["reference"])
    assert np.array_equal(reference == 255, np.repeat(cut.reference[..., None], 3, axis=2))
    from matplotlib import colormaps

    right, nothing = found["models"]
    for name, values, colors in (
        ("probability", cut.models[0].probability, "viridis"),
        ("entropy", cut.models[0].entropy, "magma"),
    ):
        exact = colormaps[colors](values)[..., :3] * 255
        assert pixels(right[name]) == pytest.approx(exact, abs=6)  # 64 shades
    assert (pixels(right["errors"]) == 255).all()
    assert (pixels(nothing["errors"])[cut.reference] == (0x6A, 0x3D, 0x9A)).all()  # missed
    assert right["outline"] == found["outline"] != ""
    assert nothing["outline"] == ""


def test_they_are_cropped_to_the_class_and_15_mm_around_it() -> None:
    found = layers(a_slice((60, 80), voxel_mm=(3.0, 1.0)))
    # Rows 2 to 3 and 5 voxels on either side, as far as there are some; columns 3 to 5 and 15.
    assert (found["height"], found["width"]) == (2 + 2 + 5, 3 + 3 + 15)
    assert found["ratio"] == pytest.approx(21 / 27, abs=1e-4)


def test_a_large_slice_is_shown_with_every_second_voxel() -> None:
    cut = a_slice((6, 2 * MOST_VOXELS), image=False)
    cut.reference[:] = True
    found = layers(cut)
    assert pixels(found["models"][0]["probability"]).shape == (3, MOST_VOXELS, 3)
    assert found["width"] == 2 * MOST_VOXELS  # the coordinates of outlines stay those of voxels
    assert found["title"].endswith("every 2. voxel, but all errors")
    assert found["image"] is None


def test_no_error_and_no_lesion_is_lost_in_a_large_slice() -> None:
    """The worst of a block is shown: missed, wrongly there, another class mistaken, none."""
    cut = a_slice((6, 3 * MOST_VOXELS), image=False)
    cut.reference[:] = False
    segmented, wrong = np.zeros_like(cut.reference), np.zeros_like(cut.reference)
    model = replace(cut.models[0], segmented=segmented, wrong=wrong)
    cut = replace(cut, models=(model,))
    cut.reference[0, -1] = model.segmented[0, -1] = True  # right, so that all is shown
    cut.reference[1, 1] = model.wrong[1, 1] = True  # missed, in the first block
    model.wrong[2, 2] = True  # and there another class mistaken
    model.wrong[4, 4] = True  # another class mistaken
    model.wrong[5, 8] = model.segmented[5, 8] = True  # wrongly there
    found = layers(cut)
    kinds = {ImageColor.getrgb(color): kind for kind, color in enumerate(ERROR_COLORS)}
    errors = pixels(found["models"][0]["errors"])
    shown = [[kinds[tuple(map(int, rgb))] for rgb in row[:3]] for row in errors]
    assert shown == [[1, 0, 0], [0, 3, 2]]
    assert (pixels(found["reference"])[..., 0] > 0).sum() == 2


def test_the_bytes_of_a_case_are_about_those_of_its_planes() -> None:
    one, two = (case_pictures([a_slice()] * n) for n in (1, 2))
    assert two.n_bytes == pytest.approx(2 * one.n_bytes, rel=0.01)
    assert one.n_bytes > len(one.planes[0]["image"])
