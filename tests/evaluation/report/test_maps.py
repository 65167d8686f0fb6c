"""Maps lie where the reference lies: checked at points in space, not by array axes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from predictions import softmax_case

from nnunet_meep.cli.calib_eval import main
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.report.maps import file_names, write_maps
from nnunet_meep.nnunet_files.cases import Case, find_folders, pair_cases, read_dataset

SHAPE = (4, 5, 6)
#: Axes turned and mirrored: x of the array runs along -z of the patient, and so on.
TURNED = (0, 0, 1, -1, 0, 0, 0, -1, 0)


def write_case(folder, reader, direction, order="C"):
    """A case whose probabilities are one number of its own in each voxel of the reference."""
    (folder.pred / "plans.json").write_text(json.dumps({"image_reader_writer": reader}))
    number = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    image = sitk.GetImageFromArray(number)
    image.SetSpacing((0.5, 1.0, 2.0))
    image.SetOrigin((10, -20, 30))
    image.SetDirection(direction)
    # The reader itself says into which axes it turns an image.
    path = folder.gt / "a.nii.gz"
    sitk.WriteImage(image, str(path))
    dataset = read_dataset([folder.pred])
    from nnunet_meep.nnunet_files.images import read_label_map

    seen = read_label_map(path, dataset).labels
    p1 = (seen + 1) / 200
    p = np.stack([1 - p1 - 0.1, p1, np.full_like(p1, 0.1)]).astype(np.float32)
    np.savez_compressed(folder.pred / "a.npz", probabilities=np.asarray(p, order=order))
    sitk.WriteImage(sitk.Cast(image * 0, sitk.sitkUInt8), str(path))
    (case,) = pair_cases(find_folders(folder.gt, [folder.pred]), ".nii.gz").cases
    return case, dataset, image


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), TURNED])
@pytest.mark.parametrize(
    "reader", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]
)
def test_each_voxel_is_where_it_is_in_the_reference(
    make_folder, tmp_path, reader, direction
) -> None:
    case, dataset, image = write_case(make_folder(), reader, direction)
    folder = write_maps(case, dataset, tmp_path / "maps")
    probability = sitk.ReadImage(str(folder / "probability_Anterior.nii.gz"))
    expected = (sitk.GetArrayFromImage(image) + 1) / 200
    assert np.array_equal(sitk.GetArrayFromImage(probability), expected.astype(np.float32))
    assert probability.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)
    assert probability.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-5)
    assert probability.GetSpacing() == pytest.approx(image.GetSpacing(), abs=1e-6)
    assert probability.GetPixelID() == sitk.sitkFloat32


@pytest.mark.parametrize("order", ["C", "F"])
def test_entropy_is_a_share_of_the_most_there_can_be(make_folder, tmp_path, order) -> None:
    case, dataset, image = write_case(make_folder(), "SimpleITKIO", TURNED, order)
    folder = write_maps(case, dataset, tmp_path / "maps")
    assert sorted(p.name for p in folder.iterdir()) == [
        "entropy.nii.gz",
        "probability_Anterior.nii.gz",
        "probability_Posterior.nii.gz",
    ]
    p1 = (sitk.GetArrayFromImage(image).astype(np.float64) + 1) / 200
    p = np.stack([0.9 - p1, p1, np.full_like(p1, 0.1)])
    entropy = -(p * np.log(p)).sum(axis=0) / np.log(3)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "entropy.nii.gz")))
    np.testing.assert_allclose(found, entropy, atol=1e-6)


def test_each_region_has_an_entropy_of_its_own(make_folder, tmp_path) -> None:
    labels = {"background": 0, "whole tumour": [1, 2], "core": 2}
    folder = make_folder(labels, regions_class_order=[1, 2])
    p = np.stack([np.full(SHAPE, 0.5), np.zeros(SHAPE)]).astype(np.float32)
    folder.add("a", p, np.zeros(SHAPE, np.uint8))
    dataset = read_dataset([folder.pred])
    maps = write_maps(Case("a", folder.gt / "a.nii.gz", folder.pred / "a.npz"), dataset, tmp_path)
    values = {
        path.name: np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).tolist()
        for path in maps.iterdir()
    }
    assert values == {
        "entropy_whole_tumour.nii.gz": [1.0],
        "entropy_core.nii.gz": [0.0],
        "probability_whole_tumour.nii.gz": [0.5],
        "probability_core.nii.gz": [0.0],
    }


def test_a_natural_image(make_folder, tmp_path) -> None:
    folder = make_folder(file_ending=".png")
    (folder.pred / "plans.json").write_text('{"image_reader_writer": "NaturalImage2DIO"}')
    p = np.random.default_rng(0).dirichlet(np.ones(3), (1, 7, 9)).astype(np.float32)
    np.savez_compressed(folder.pred / "a.npz", probabilities=np.moveaxis(p, -1, 0))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((7, 9), np.uint8)), str(folder.gt / "a.png"))
    dataset = read_dataset([folder.pred])
    maps = write_maps(Case("a", folder.gt / "a.png", folder.pred / "a.npz"), dataset, tmp_path)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(maps / "probability_Posterior.nii.gz")))
    assert np.array_equal(found, p[0, :, :, 2])


def test_a_damaged_file_leaves_no_half_written_maps(make_folder, tmp_path) -> None:
    case, dataset, _ = write_case(make_folder(), "SimpleITKIO", TURNED)
    content = bytearray(case.probabilities.read_bytes())
    content[len(content) // 2] ^= 0xFF
    case.probabilities.write_bytes(content)
    old = tmp_path / "maps" / "a" / "entropy.nii.gz"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    with pytest.raises(InputError, match=r"a\.npz"):
        write_maps(case, dataset, tmp_path / "maps")
    assert [p for p in (tmp_path / "maps").rglob("*") if p.is_file()] == [old]


def test_the_command_writes_them_on_demand(make_folder, tmp_path, capsys) -> None:
    folder = make_folder()
    folder.add("a", *softmax_case(np.random.default_rng(0), SHAPE))
    command = [str(folder.gt), str(folder.pred), "-o", str(tmp_path / "out"), "-np", "1"]
    assert main(command) == 0
    assert not (tmp_path / "out" / "maps").exists()
    assert main([*command, "--maps"]) == 0
    assert len(list((tmp_path / "out" / "maps" / "a").iterdir())) == 3
    assert str(tmp_path / "out" / "maps") in capsys.readouterr().out
    assert main([*command, "--maps"]) == 0  # in place of the old ones


NAMES = st.one_of(
    st.text("aB/ _.", min_size=1, max_size=3), st.text(min_size=1), st.just("ü" * 3000)
)


@given(st.lists(NAMES, min_size=1, max_size=8, unique=True))
def test_each_class_has_a_file_of_its_own_in_the_folder(names) -> None:
    files = file_names(names)
    assert len({file.casefold() for file in files}) == len(names)
    for file in files:
        assert "/" not in file
        assert len(f"probability_{file}.nii.gz".encode()) <= 255


def test_names_that_are_fine_stay_as_they_are() -> None:
    assert file_names(["Anterior", "left-ventricle 2"]) == ["Anterior", "left-ventricle_2"]
    assert file_names(["a/b", "A b", "c"]) == ["a_b@1", "A_b@2", "c"]
