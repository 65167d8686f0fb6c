"""Components and their matches: by hand, and against other implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from nnunet_meep.evaluation.counting.components import MATCH_IOU, Numbered, match_lesions


def mask(shape, *boxes):
    found = np.zeros(shape, bool)
    for box in boxes:
        found[box] = True
    return found


def row(text):
    """A mask (1, 1, n): x is inside."""
    return np.array([[[letter == "x" for letter in text]]])


def lesions_of(predicted, reference, p=None, voxel_size=1.0, least_size=0.0):
    p = np.full(predicted.shape, 0.75) if p is None else p
    numbered = Numbered.of(predicted, reference)
    return match_lesions(numbered, p[predicted], voxel_size, least_size)


def test_a_case_by_hand():
    #                x: 0123456789012
    reference = row("  xxxx  x xxxx ").repeat(2, axis=1)
    predicted = row("   xxxx    x  x").repeat(2, axis=1)
    p = np.zeros(predicted.shape)
    p[:, 0], p[:, 1] = 0.5, 0.75
    p[0, 1, 4] = 1.0
    found = lesions_of(predicted, reference, p, voxel_size=1.5)
    # 6 of 10 voxels are shared; 2 of 8; none, although the voxels touch.
    assert found.iou == [0.6, 0.25, 0.0]
    assert found.predicted.match == [0, 2, None]
    assert found.reference.match == [0, None, 1]
    assert found.predicted.size == [12.0, 3.0, 3.0]
    assert found.reference.size == [12.0, 3.0, 12.0]
    assert found.mean_p == [5.25 / 8, 0.625, 0.625]
    assert found.max_p == [1.0, 0.75, 0.75]
    assert found.predicted.centre == [[0, 0, 4], [0, 0, 11], [0, 0, 14]]


@pytest.mark.parametrize(
    ("shape", "corner"), [((4, 4, 4), (2, 2, 2)), ((1, 4, 4), (0, 2, 2)), ((4, 1, 4), (2, 0, 2))]
)
def test_voxels_that_share_a_corner_are_one_component(shape, corner):
    """26 neighbours in 3D, 8 in 2D, also at the border of the image."""
    next_to_it = tuple(max(i - 1, 0) for i in corner)
    at_the_border = tuple(n - 1 for n in shape)
    found = lesions_of(mask(shape, corner, next_to_it), mask(shape, corner, at_the_border))
    assert found.predicted.size == [2.0]
    assert found.reference.size == [2.0]
    assert found.iou == [1 / 3]


def test_only_as_many_matches_as_lesions():
    """One predicted component over two lesions finds the one that it covers better, and not more;
    of two components in one lesion only the larger one is right."""
    one, two = row("xxxxxxx  "), row("xxxx xx  ")
    assert lesions_of(one, two).reference.match == [0, None]
    assert lesions_of(two, one).predicted.match == [0, None]
    assert Numbered.of(one, two).detected() == (1.0, 1.0)


def test_the_larger_overlap_is_taken_first_although_fewer_matches_are_left():
    #                A   BBBB
    predicted = row("x xxxx  ")
    reference = row(" xxxxx xx")[..., :8]
    both = lesions_of(predicted, reference)
    assert both.predicted.match == [None, 0]
    assert both.iou == [0.0, 0.8]


@pytest.mark.parametrize(("n", "is_match"), [(10, True), (11, False)])
def test_a_match_has_at_least_the_least_overlap(n, is_match):
    assert MATCH_IOU == 0.1
    whole, voxel = np.ones((1, 1, n), bool), mask((1, 1, n), (0, 0, 0))
    assert lesions_of(voxel, whole).predicted.match == ([0] if is_match else [None])
    assert lesions_of(voxel, whole).iou == ([0.1] if is_match else [0.0])


def test_components_below_the_least_size_are_left_out_of_both():
    predicted, reference = row("xx xxx  xx"), row("xx xx xx  ")
    # Spacing as NIfTI stores it, in single precision: 3 * 0.1 is still 0.3 mm^3.
    found = lesions_of(predicted, reference, voxel_size=float(np.float32(0.1)), least_size=0.3)
    assert found.predicted.size == [pytest.approx(0.3)]
    assert found.reference.size == []
    assert found.predicted.match == [None]
    every = lesions_of(predicted, reference, voxel_size=0.1, least_size=0.2)
    assert every.predicted.match == [0, 1, None]
    assert every.reference.match == [0, 1, None]


@pytest.mark.parametrize("empty", ["predicted", "reference", "both"])
def test_an_empty_mask_has_no_components(empty):
    some, none = mask((3, 4, 5), (1, 2, 3)), np.zeros((3, 4, 5), bool)
    predicted = some if empty == "reference" else none
    reference = some if empty == "predicted" else none
    found = lesions_of(predicted, reference)
    n_predicted, n_reference = predicted.sum(), reference.sum()
    assert found.predicted.match == [None] * n_predicted
    assert found.reference.match == [None] * n_reference
    assert found.iou == [0.0] * n_predicted
    assert found.predicted.centre == [[1, 2, 3]] * n_predicted
    detected = Numbered.of(predicted, reference).detected()
    assert detected == (1.0 - n_reference, 1.0 - n_predicted)


def masks(shape):
    return npst.arrays(np.bool_, shape)


@settings(deadline=None)
@given(st.data())
def test_as_panoptica_matches(data):
    pytest.importorskip("panoptica", reason="the matching is compared with panoptica's")
    from panoptica import NaiveThresholdMatching, UnmatchedInstancePair
    from scipy.ndimage import label

    shape = data.draw(st.sampled_from([(1, 3, 9), (3, 4, 4), (2, 1, 12)]))
    predicted, reference = data.draw(masks(shape)), data.draw(masks(shape))
    predicted[0, 0, 0] = reference[-1, -1, -1] = True  # panoptica does not match empty masks
    found = lesions_of(predicted, reference)
    ours, theirs = label(predicted, np.ones((3, 3, 3)))[0], label(reference, np.ones((3, 3, 3)))[0]
    pair = UnmatchedInstancePair(ours.astype(np.uint16), theirs.astype(np.uint16))
    matched = NaiveThresholdMatching(matching_threshold=MATCH_IOU).match_instances(pair)
    new = matched.prediction_arr
    assert [None if match is None else match + 1 for match in found.predicted.match] == [
        int(new[ours == i].max()) if new[ours == i].max() <= theirs.max() else None
        for i in range(1, ours.max() + 1)
    ]


@settings(deadline=None)
@given(st.data())
def test_as_in_sets_of_voxels(data):
    """Components grown voxel by voxel, overlaps counted in sets, all pairs looked at."""
    shape = data.draw(st.sampled_from([(1, 3, 9), (3, 4, 4)]))
    predicted, reference = data.draw(masks(shape)), data.draw(masks(shape))
    p = np.random.default_rng(0).random(shape)
    least = data.draw(st.integers(0, 4))
    found = lesions_of(predicted, reference, p, 2.0, 2.0 * least)
    sides = []
    for side in (predicted, reference):
        sides.append([grown for grown in components_of(side) if len(grown) >= least])
    assert found.predicted.size == [2.0 * len(grown) for grown in sides[0]]
    assert found.mean_p == pytest.approx([np.mean([p[v] for v in grown]) for grown in sides[0]])
    assert found.max_p == [max(p[v] for v in grown) for grown in sides[0]]
    of_pair = {
        (i, j): len(a & b) / len(a | b)
        for i, a in enumerate(sides[0])
        for j, b in enumerate(sides[1])
        if len(a & b) / len(a | b) >= 0.1
    }
    pairs = {(i, j) for i, j in enumerate(found.predicted.match) if j is not None}
    assert pairs == {(i, j) for j, i in enumerate(found.reference.match) if i is not None}
    assert pairs <= set(of_pair)
    assert all(found.iou[i] == of_pair[i, j] for i, j in pairs)
    # Each pair that was not taken was in the way of one with at least its overlap.
    for i, j in set(of_pair) - pairs:
        assert any(of_pair[k, m] >= of_pair[i, j] for k, m in pairs if k == i or m == j)


def components_of(side):
    left, found = [tuple(map(int, v)) for v in np.argwhere(side)], []
    while left:
        grown, edge = set(), [left[0]]
        while edge:
            voxel = edge.pop()
            grown.add(voxel)
            edge += [
                v
                for v in left
                if v not in grown and max(abs(a - b) for a, b in zip(v, voxel, strict=True)) == 1
            ]
        found.append(grown)
        left = [v for v in left if v not in grown]
    return found
