"""The average of folds in files, against nnU-Net's own; the maps of their disagreement."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from too_sure import KINDS

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.cases import read_dataset
from nnunet_meep.posthoc.average import average_case
from nnunet_meep.posthoc.disagreement import Disagreement


@pytest.fixture(params=KINDS)
def members(request, make_validation):
    """Predictions of the same case by three folds."""
    return [make_validation(request.param, 1, f"fold_{i}", seed=i) for i in range(3)]


def read(folder) -> np.ndarray:
    return np.load(folder / "case_0.npz")["probabilities"]


def averaged(members, target, **what) -> None:
    folders = [member.pred for member in members]
    target.mkdir()
    average_case("case_0", folders, read_dataset(folders), target, **what)


@pytest.mark.parametrize("order", ["C", "F"])
def test_it_is_that_of_nnunets_ensemble(members, tmp_path, order, monkeypatch) -> None:
    for member in members:
        p = np.asarray(read(member.pred), order=order)
        np.savez_compressed(member.pred / "case_0.npz", probabilities=p)
        (member.pred / "case_0.pkl").write_bytes(member.pred.parent.name.encode())
    averaged(members, tmp_path / "ours")
    _, properties = SimpleITKIO().read_seg(str(members[0].pred / "case_0.nii.gz"))
    monkeypatch.setattr("nnunetv2.ensembling.ensemble.load_pickle", lambda path: properties)
    content = members[0].content
    merge_files(
        [str(member.pred / "case_0.npz") for member in members],
        str(tmp_path / "case_0"),
        ".nii.gz",
        SimpleITKIO(),
        LabelManager(content["labels"], content.get("regions_class_order")),
        save_probabilities=True,
    )
    assert read(tmp_path / "ours").dtype == np.float32
    assert np.array_equal(read(tmp_path / "ours"), read(tmp_path))
    labels = [sitk.ReadImage(f / "case_0.nii.gz") for f in (tmp_path / "ours", tmp_path)]
    assert np.array_equal(*map(sitk.GetArrayFromImage, labels))
    assert (tmp_path / "ours" / "case_0.pkl").read_bytes() == b"fold_0"  # copied, not opened
    assert len(list((tmp_path / "ours").iterdir())) == 3


def test_maps_lie_where_the_segmentation_does(members, tmp_path) -> None:
    for member in members:
        image = sitk.ReadImage(member.pred / "case_0.nii.gz")
        image.SetSpacing((0.5, 1.5, 3.0))
        image.SetOrigin((-7.0, 8.0, 9.0))
        image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
        sitk.WriteImage(image, member.pred / "case_0.nii.gz")
    averaged(members, tmp_path / "ours", average=False, disagreement=True)
    p = np.stack([read(member.pred) for member in members])
    expected = Disagreement(
        p[0, 0].size, is_region_based="regions_class_order" in members[0].content
    )
    for channel in range(p.shape[1]):
        expected.add(slice(None), p[:, channel].reshape(3, -1))
    for what in ("mutual_information", "std"):
        found = sitk.ReadImage(tmp_path / "ours" / "disagreement" / f"case_0_{what}.nii.gz")
        assert found.GetPixelID() == sitk.sitkFloat32
        for name in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
            assert getattr(found, name)() == pytest.approx(getattr(image, name)())
        values = sitk.GetArrayFromImage(found)
        assert values.max() > 0.1
        assert values == pytest.approx(getattr(expected, what).reshape(values.shape), abs=1e-7)
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["disagreement"]


def test_equal_folds_agree_and_average_to_themselves(make_validation, tmp_path) -> None:
    twice = [make_validation("three classes", 1, f"fold_{i}") for i in range(2)]
    averaged(twice, tmp_path / "ours", disagreement=True)
    assert np.array_equal(read(tmp_path / "ours"), read(twice[0].pred))
    for what in ("mutual_information", "std"):
        image = sitk.ReadImage(tmp_path / "ours" / "disagreement" / f"case_0_{what}.nii.gz")
        assert not sitk.GetArrayFromImage(image).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:, :5], r"got \(2, 5, 9, 10\)"),
        (lambda p: np.asfortranarray(p), "expected an array in C order as in"),
    ],
)
def test_folds_that_do_not_fit_together(make_validation, tmp_path, change, message) -> None:
    folds = [make_validation("two classes", 1, f"fold_{i}", seed=i) for i in range(2)]
    p = change(read(folds[1].pred))
    np.savez_compressed(folds[1].pred / "case_0.npz", probabilities=p)
    with pytest.raises(InputError, match=rf"^{folds[1].pred / 'case_0.npz'}: .*{message}"):
        averaged(folds, tmp_path / "ours", disagreement=True)
    assert not list((tmp_path / "ours").iterdir())
