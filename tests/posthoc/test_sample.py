"""The weighted sample of voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_meep.evaluation.counting.roi import parse_roi
from nnunet_meep.nnunet_files.cases import Case, find_folders, pair_cases, read_dataset
from nnunet_meep.posthoc.sample import (
    MAX_VALUES,
    Sample,
    sample_case,
    shares,
    voxels_per_case,
)
from nnunet_meep.posthoc.voxels import FileVoxels


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 200))
def test_strata_get_equal_shares_and_what_small_ones_leave(sizes, total):
    got = shares(np.array(sizes), total)
    assert (got <= sizes).all()
    assert got.sum() == min(total, sum(sizes))
    # Nobody who got less than he has got less than anybody else, but for the rest of a division.
    limited = got < sizes
    if limited.any():
        assert got.max() - got[limited].min() <= 1


def test_the_sample_is_bounded():
    assert 3 * voxels_per_case(1, 3) <= MAX_VALUES
    assert 104 * voxels_per_case(20, 104) * 20 <= MAX_VALUES
    assert voxels_per_case(10**9, 3) == 1


def sampled(folder, n_voxels: int, roi: str = "image", number: int = 0) -> list[Sample]:
    folders = find_folders(folder.gt, [folder.pred])
    dataset = read_dataset(folders.predictions)
    where = parse_roi(roi)
    return [
        sample_case(FileVoxels(case, dataset, where), dataset.labels, where, n_voxels, number)
        for case in pair_cases(folders, dataset.file_ending).cases
    ]


def arrays(folder, case: Case | str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) and labels (N,) of a case."""
    import SimpleITK as sitk

    p = np.load(folder.pred / f"{case}.npz")["probabilities"]
    y = sitk.GetArrayFromImage(sitk.ReadImage(folder.gt / f"{case}.nii.gz"))
    return p.reshape(len(p), -1).T, y.ravel()


def test_all_voxels_are_taken_where_they_are_few(make_validation):
    folder = make_validation("three classes", n_cases=1)
    (sample,) = sampled(folder, 10_000)
    p, y = arrays(folder, "case_0")
    np.testing.assert_array_equal(sample.p, p)
    np.testing.assert_array_equal(sample.y, y)
    assert (sample.weight == 1).all()


def test_each_stratum_weighs_what_it_holds(make_validation):
    folder = make_validation("three classes", n_cases=1)
    p, y = arrays(folder, "case_0")
    (sample,) = sampled(folder, 60)
    assert len(sample.y) == 60
    assert len(np.unique(sample.p, axis=0)) == 60  # none twice
    rows = {row.tobytes(): label for row, label in zip(p, y, strict=True)}
    assert [rows[row.tobytes()] for row in sample.p] == sample.y.tolist()
    right, right_sampled = p.argmax(1) == y, sample.p.argmax(1) == sample.y
    for label in range(3):
        for is_right in (False, True):
            n = ((y == label) & (right == is_right)).sum()
            chosen = (sample.y == label) & (right_sampled == is_right)
            assert chosen.sum() in (min(10, n), 11)
            assert sample.weight[chosen].sum() == pytest.approx(n)


def test_no_stratum_is_lost_however_few_voxels_there_may_be(make_validation):
    """Errors are the small strata: without a voxel of each nothing would stand for them."""
    folder = make_validation("three classes", n_cases=1)
    p, y = arrays(folder, "case_0")
    (sample,) = sampled(folder, 2)
    strata = {(label, right) for label, right in zip(y, p.argmax(1) == y, strict=True)}
    assert len(sample.y) == len(strata) == 6
    assert sample.weight.sum() == pytest.approx(len(y))
    wrong = sample.p.argmax(1) != sample.y
    assert sample.weight[wrong].sum() == pytest.approx((p.argmax(1) != y).sum())


def test_the_choice_is_the_same_every_time_and_another_for_another_case(make_validation):
    folder = make_validation("three classes", n_cases=1)
    once, again, other = (sampled(folder, 60, number=n)[0] for n in (0, 0, 1))
    np.testing.assert_array_equal(once.p, again.p)
    assert (once.p != other.p).any()


def test_ignored_voxels_and_those_outside_of_the_roi_are_not_sampled(make_validation, tmp_path):
    folder = make_validation("three classes", n_cases=1, more_labels={"ignore": 3})
    rng = np.random.default_rng(3)
    p, y = arrays(folder, "case_0")
    y[:50] = 3
    shape = (6, 9, 10)
    p = p.T.reshape(3, *shape).copy()
    p[:, 4:], p[0, 4:] = 0, 1  # nnU-Net's padding
    folder.add("case_0", p, y.reshape(shape))
    assert len(sampled(folder, 10_000)[0].y) == y.size - 50
    inside_crop = (y.reshape(shape)[:4] != 3).sum()
    (crop,) = sampled(folder, 10_000, "crop")
    assert len(crop.y) == inside_crop
    mask = (rng.random(shape) < 0.3).astype(np.uint8)
    masks = type(folder)(tmp_path / "masks", {"background": 0, "in": 1})
    masks.add("case_0", np.zeros((2, *shape), np.float32), mask)
    (inside,) = sampled(folder, 10_000, f"mask:{masks.gt}")
    assert len(inside.y) == ((mask.ravel() == 1) & (y != 3)).sum()


def test_axes_in_fortran_order_are_the_same_voxels(make_validation):
    folder = make_validation("three classes", n_cases=1)
    (c_order,) = sampled(folder, 10_000)
    npz = folder.pred / "case_0.npz"
    p = np.load(npz)["probabilities"]
    np.savez_compressed(npz, probabilities=np.asfortranarray(p))
    (f_order,) = sampled(folder, 10_000)

    def rows(s: Sample) -> list:
        return sorted(zip(map(bytes, s.p), s.y.tolist(), strict=True))

    assert rows(c_order) == rows(f_order)
