"""nnU-Net's readers: which are taken, and which paths they can be given."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from predictions import LABELS, PredictionFolder, softmax_case

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.report.maps import write_maps
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
