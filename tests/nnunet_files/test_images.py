"""nnU-Net's readers: which are taken, and which paths they can be given."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from predictions import LABELS, PredictionFolder, softmax_case

from nnunet_meep.cli import calib_apply, calib_eval, calib_fit, calib_triage
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.report.maps import write_maps
from nnunet_meep.nnunet_files import headers, images
from nnunet_meep.nnunet_files.headers import read_grid
from nnunet_meep.nnunet_files.images import read_image, read_label_map, write_label_map
from nnunet_meep.nnunet_files.predictions import Predictions


@pytest.fixture
def folder(tmp_path):
    folder = PredictionFolder(tmp_path / "a", LABELS)
    folder.add("case", *softmax_case(np.random.default_rng(0), (3, 4, 5)))
    return folder


@pytest.mark.parametrize("reader", ["os", "np", "BaseReaderWriter", "NoSuchIO", "a\nb"])
def test_a_name_that_is_no_readers_is_one_line(reader, folder) -> None:
    """nnU-Net finds whatever has that name in one of its modules."""
    (folder.pred / "plans.json").write_text(json.dumps({"image_reader_writer": reader}))
    opened = Predictions.open(folder.gt, [folder.pred])
    with pytest.raises(InputError, match=r"^[^\n]* readers for it, plans.json names [^\n]+$"):
        read_label_map(opened.paired.cases[0].reference, opened.dataset)


def test_the_reason_is_what_itk_says_and_not_where_in_its_source(tmp_path) -> None:
    (tmp_path / "a.nrrd").write_text("no image")
    with pytest.raises(RuntimeError) as error:
        sitk.ReadImage(tmp_path / "a.nrrd")
    assert images._first_line(str(error.value)).startswith("sitk::ERROR: ")
    assert images._first_line("\n other: \n more") == "other:"


def test_a_path_that_is_not_utf8_does_not_end_the_process(folder, tmp_path) -> None:
    """SimpleITK would abort it."""
    opened = Predictions.open(folder.gt, [folder.pred])
    (case,), dataset = opened.paired.cases, opened.dataset
    other = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(folder.gt, other)
    except OSError:
        pytest.skip("this file system has no such names")
    path = other / "case.nii.gz"
    labels = read_label_map(case.reference, dataset).labels
    before = path.read_bytes()
    for use in (
        lambda: read_label_map(path, dataset),
        lambda: read_image(path, dataset),
        lambda: read_grid(path, dataset.reader),
        lambda: write_label_map(labels, path, case.reference, dataset),
        lambda: write_maps(case, dataset, other),
    ):
        with pytest.raises(InputError, match=r"caf\\udce9.*: expected a path in UTF-8"):
            use()
    assert [p.name for p in other.iterdir()] == ["case.nii.gz"]
    assert path.read_bytes() == before


#: Commands that read the files of a case, by what they take it for.
READERS = {
    "evaluate": lambda folder: calib_eval.main([str(folder.gt), str(folder.pred), "-np", "1"]),
    "fit": lambda folder: calib_fit.main(
        ["platt", str(folder.gt), str(folder.pred), "-o", str(folder.pred.parent / "new.json")]
    ),
    "apply": lambda folder: calib_apply.main(
        [str(folder.pred.parent / "c.json"), str(folder.pred), "-o", str(folder.pred.parent / "o")]
    ),
    "triage": lambda folder: calib_triage.main([str(folder.pred)]),
}


@pytest.fixture
def calibrated(folder, unrendered):
    to = str(folder.pred.parent / "c.json")
    assert calib_fit.main(["platt", str(folder.gt), str(folder.pred), "-o", to]) == 0
    return folder


@pytest.mark.parametrize(
    ("role", "command"),
    [
        *((role, "evaluate") for role in ("reference", "segmentation")),
        *(("reference", "fit"), ("segmentation", "apply"), ("segmentation", "triage")),
    ],
)
def test_an_image_with_far_more_voxels_than_probabilities_is_not_read(
    role, command, calibrated, monkeypatch, capsys
) -> None:
    """A few megabytes can inflate to more than the memory holds."""
    path = (calibrated.gt if role == "reference" else calibrated.pred) / "case.nii.gz"
    sitk.WriteImage(sitk.Image([20, 30, 40], sitk.sitkUInt8), str(path))
    monkeypatch.setattr(headers, "MANY_VOXELS", 1000)
    read = images._read_by_itk

    def read_others(file):
        assert file != path
        return read(file)

    monkeypatch.setattr(images, "_read_by_itk", read_others)
    assert READERS[command](calibrated) == 1
    said = f"{path}: expected 60 voxels as in the probabilities, its header declares 20 x 30 x 40"
    assert said in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("name", ["case.npz", "case.nii.gz", "dataset.json"])
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (os.mkfifo, "a pipe or a device"),
        (lambda path: path.symlink_to(path), "a link that leads nowhere"),
        (lambda path: path.mkdir(), "a folder"),
    ],
)
def test_what_is_no_file_is_not_opened(make, found, name, command, calibrated, capsys) -> None:
    """To read from a pipe would wait for ever."""
    path = calibrated.pred / name
    path.unlink()
    make(path)
    assert READERS[command](calibrated) == 1
    assert f"Error: {path}: expected a file, found {found}\n" in capsys.readouterr().err
