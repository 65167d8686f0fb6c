import filecmp
import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_meep.datasets import synthetic


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "Dataset001_SyntheticLA"
    synthetic.make_dataset(folder)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_are_nnunet_raw_data_with_labelled_test_scans(dataset):
    assert names(dataset) == ["dataset.json", "imagesTr", "imagesTs", "labelsTr", "labelsTs"]
    train = [f"LA_train_{i:02d}" for i in range(1, 13)]
    test = [f"LA_test_{i:02d}" for i in range(1, 7)]
    assert names(dataset / "imagesTr") == [f"{case}_0000.nii.gz" for case in train]
    assert names(dataset / "labelsTr") == [f"{case}.nii.gz" for case in train]
    assert names(dataset / "imagesTs") == [f"{case}_0000.nii.gz" for case in test]
    assert names(dataset / "labelsTs") == [f"{case}.nii.gz" for case in test]
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["numTraining"] == 12
    assert description["labels"] == {"background": 0, "LA": 1}


def test_image_and_mask_share_shape_spacing_and_place(dataset):
    for part in ("Tr", "Ts"):
        for label in (dataset / f"labels{part}").iterdir():
            case = label.name.removesuffix(".nii.gz")
            mask = sitk.ReadImage(str(label))
            image = sitk.ReadImage(str(dataset / f"images{part}" / f"{case}_0000.nii.gz"))
            assert image.GetSize() == mask.GetSize() == synthetic.SHAPE[::-1]
            assert image.GetSpacing() == mask.GetSpacing() == (synthetic.SPACING_MM,) * 3
            assert image.GetOrigin() == mask.GetOrigin()
            assert image.GetDirection() == mask.GetDirection()
            assert set(np.unique(sitk.GetArrayFromImage(mask))) == {0, 1}


def test_nnunet_accepts_it(dataset, capfd):
    verify_dataset_integrity(str(dataset), num_processes=1)
    said = capfd.readouterr().out
    assert "verify_dataset_integrity Done" in said
    assert "Warning" not in said
    # and its reader gives z, y, x
    image, _ = SimpleITKIO().read_images([str(dataset / "imagesTs" / "LA_test_01_0000.nii.gz")])
    assert image.shape == (1, *synthetic.SHAPE)


def test_the_seed_decides(dataset, tmp_path):
    same, other = tmp_path / "same", tmp_path / "other"
    synthetic.make_dataset(same, n_training=1, n_test=1)
    synthetic.make_dataset(other, n_training=1, n_test=1, seed=1)
    # fewer scans, the same ones
    for name in ("imagesTr/LA_train_01_0000.nii.gz", "labelsTs/LA_test_01.nii.gz"):
        assert filecmp.cmp(dataset / name, same / name, shallow=False)
        assert not filecmp.cmp(dataset / name, other / name, shallow=False)


def test_no_two_scans_are_alike():
    masks = [
        synthetic.make_scan(np.random.default_rng([0, part, i]))[1]
        for part in (0, 1)
        for i in range(6)
    ]
    assert len({mask.tobytes() for mask in masks}) == len(masks)


def test_an_existing_folder_stays_as_it_is(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        synthetic.make_dataset(tmp_path)
    assert names(tmp_path) == ["mine"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [synthetic.SHAPE, (48, 48, 64)])
def test_the_task_is_neither_trivial_nor_impossible(seed, shape):
    image, mask = synthetic.make_scan(np.random.default_rng(seed), shape)
    assert image.shape == mask.shape == shape
    assert 0.01 < mask.mean() < 0.15
    # The atrium has a margin on all sides, or almost: it is in the picture as a whole.
    edges = [np.take(mask, i, axis) for axis in range(3) for i in (0, -1)]
    assert sum(int(edge.sum()) for edge in edges) < 0.02 * mask.sum()

    # Intensity says something, and not enough: the aorta is as bright, veins go on.
    best_dice = max(
        2 * (mask[image > threshold] == 1).sum() / ((image > threshold).sum() + mask.sum())
        for threshold in range(0, 500, 10)
    )
    assert 0.3 < best_dice < 0.9
    # The border itself is blurred, noisy and drawn a little off: even where it is known that this
    # is the atrium (a box around it), a threshold does not find it exactly.
    inside = np.argwhere(mask)
    box = tuple(slice(a, b + 1) for a, b in zip(inside.min(0), inside.max(0), strict=True))
    best_dice = max(
        2 * (mask[box][image[box] > t] == 1).sum() / ((image[box] > t).sum() + mask.sum())
        for t in range(0, 500, 10)
    )
    assert 0.6 < best_dice < 0.97
