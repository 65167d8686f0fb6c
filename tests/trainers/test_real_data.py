"""A few iterations on real scans, and on pictures, with nnU-Net's preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_project import (
    Project,
    assert_trained,
    configuration,
    dataset_json,
    load,
    plans,
    preprocess,
)

SCANS = Path(__file__).resolve().parents[3] / "shared" / "data"
NAMES = ["nnUNetTrainerMEEP_KL_1epochs_3iters", "nnUNetTrainerDiceMEEP_H_1epochs_3iters_fg0p9"]


def scans(name):
    folder = SCANS / name
    if not folder.is_dir():
        pytest.skip(f"needs real scans in {folder}")
    return folder


@pytest.fixture
def real(tmp_path, monkeypatch, no_picture):
    """``real(folder, cases, labels, channels, configurations)``: these scans, preprocessed."""

    def prepare(source, cases, labels, channels, configurations):
        dataset = "Dataset902_Real"
        raw = tmp_path / "raw" / dataset
        for folder in ("imagesTr", "labelsTr"):
            (raw / folder).mkdir(parents=True)
        for case in cases:
            for channel in range(channels):
                file = f"imagesTr/{case}_{channel:04}.nii.gz"
                (raw / file).symlink_to(source / file)
            (raw / f"labelsTr/{case}.nii.gz").symlink_to(source / f"labelsTr/{case}.nii.gz")
        (raw / "dataset.json").write_text(json.dumps(dataset_json(labels, channels)))
        made = plans(dataset, "SimpleITKIO", configurations)
        preprocess(tmp_path, dataset, made, cases)
        return Project(tmp_path, dataset, made, monkeypatch)

    return prepare


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "anterior": 1, "posterior": 2},
        {"background": 0, "hippocampus": [1, 2], "posterior": 2},
    ],
    ids=["labels", "regions"],
)
def test_hippocampus(real, labels):
    source = scans("hippocampus")
    cases = sorted(path.name[:-7] for path in (source / "labelsTr").glob("*.nii.gz"))[:4]
    if "hippocampus" in labels:
        labels = {**labels, "posterior": [2]}
    project = real(source, cases, labels, 1, {"3d_fullres": configuration(3, [32, 40, 32])})
    for name in NAMES:
        trainer = project.trainer(name)
        trainer.run_training()
        assert_trained(trainer)
        log = load(trainer, "checkpoint_final.pth")["logging"]
        assert len(log["ece_per_class_or_region"][0]) == 2
        assert 0 < log["misclassified"][0] < 1


@pytest.mark.parametrize("channels", [1, 2], ids=["FLAIR", "FLAIR and T1"])
def test_white_matter_lesions_with_other_pathology_ignored(real, channels):
    source = scans("wmh_flair")
    with_t1 = sorted(path.name[:-12] for path in (source / "imagesTr").glob("*_0001.nii.gz"))
    flair = sorted(path.name[:-12] for path in (source / "imagesTr").glob("*_0000.nii.gz"))
    assert (len(flair), len(with_t1)) == (12, 7)
    cases = (with_t1 if channels == 2 else flair)[:3]
    labels = {"background": 0, "lesion": 1, "ignore": 2}
    spacing = [6.5, 0.9, 0.9]
    config = configuration(
        3,
        [16, 64, 64],
        spacing=spacing,
        normalization_schemes=["ZScoreNormalization"] * channels,
        use_mask_for_norm=[False] * channels,
    )
    project = real(source, cases, labels, channels, {"3d_fullres": config})
    for name in NAMES:
        trainer = project.trainer(name)
        trainer.run_training()
        assert trainer.num_input_channels == channels
        assert_trained(trainer)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_in_two_dimensions(tmp_path, monkeypatch, no_picture, name):
    dataset = "Dataset903_Pictures"
    raw = tmp_path / "raw" / dataset
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    cases = [f"picture_{i}" for i in range(4)]
    rows, columns = np.indices((48, 40))
    for case in cases:
        centre = random.uniform(15, 25, 2)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 64
        colours = disc[..., None] * [90, 60, 30] + random.uniform(0, 120, (*disc.shape, 3))
        Image.fromarray(colours.astype(np.uint8)).save(raw / "imagesTr" / f"{case}_0000.png")
        Image.fromarray(disc.astype(np.uint8)).save(raw / "labelsTr" / f"{case}.png")
    description = dataset_json({"background": 0, "disc": 1}, channels=3, file_ending=".png")
    (raw / "dataset.json").write_text(json.dumps(description))
    config = configuration(
        2,
        [32, 32],
        normalization_schemes=["RGBTo01Normalization"] * 3,
        use_mask_for_norm=[False] * 3,
    )
    made = plans(dataset, "NaturalImage2DIO", {"2d": config})
    preprocess(tmp_path, dataset, made, cases)
    trainer = Project(tmp_path, dataset, made, monkeypatch).trainer(name, "2d")
    trainer.run_training()
    assert trainer.num_input_channels == 3
    assert_trained(trainer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# torch 2.11 uses it in its own code, which torch.compile imports.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("compiled", ["0", "1"], ids=["eager", "compiled"])
@pytest.mark.parametrize("kind", ["labels+ignore", "regions"])
def test_the_gpu_trains_with_autocast_and_compiled(balls, monkeypatch, kind, compiled):
    monkeypatch.setenv("nnUNet_compile", compiled)
    trainer = balls(kind).trainer("nnUNetTrainerMEEP_KL_1epochs_3iters", device="cuda")
    trainer.run_training()
    assert_trained(trainer)
    assert trainer.grad_scaler is not None
