"""Plan, train, resume and predict with nnU-Net's own commands on six small made-up volumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytestmark = pytest.mark.slow

TRAINER = "nnUNetTrainerMEEP_KL_lambda0p2_4epochs_2iters_seed1_fg0p9"
DATASET = "Dataset999_Tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six volumes with a noisy ball in nnU-Net's raw format."""
    folder = tmp_path_factory.mktemp("nnunet")
    raw = folder / "raw" / DATASET
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"))
    for case in range(6):
        centre = random.uniform(6, 9, size=(3, 1, 1, 1))
        ball = (((grid - centre) ** 2).sum(0) < 16).astype(np.uint8)
        image = sitk.GetImageFromArray((ball + random.normal(size=ball.shape)).astype(np.float32))
        sitk.WriteImage(image, raw / "imagesTr" / f"case_{case}_0000.nii.gz")
        sitk.WriteImage(sitk.GetImageFromArray(ball), raw / "labelsTr" / f"case_{case}.nii.gz")
        if case == 0:
            sitk.WriteImage(image, raw / "imagesTs" / "new_0000.nii.gz")
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    return folder


def environment(folder, training, **others):
    """nnU-Net's three folders, and less work for small machines; none of our own variables."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "NNUNET_"))}
    return {
        **clean,
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_n_proc_DA": "0" if training else "1",
        "nnUNet_def_n_proc": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **others,
    }


def command(name, *arguments):
    return [str(Path(sys.executable).with_name(name)), *arguments]


def run(folder, name, *arguments, **others):
    result = subprocess.run(
        command(name, *arguments),
        env=environment(folder, training=name == "nnUNetv2_train", **others),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


def plan(folder):
    single = ("-npfp", "1", "-np", "1")
    run(folder, "nnUNetv2_plan_and_preprocess", "-d", "999", "-c", "3d_fullres", *single)
    # A network that a CPU trains in no time.
    plans_file = folder / "preprocessed" / DATASET / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [4 for _ in architecture["features_per_stage"]]
    plans_file.write_text(json.dumps(plans))


def train_until_killed(folder, arguments, line):
    """Start a training and kill it as soon as it prints ``line``."""
    with subprocess.Popen(
        command("nnUNetv2_train", *arguments),
        env=environment(folder, training=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        seen = []
        for printed in process.stdout:
            seen.append(printed)
            if printed.rstrip().endswith(line):
                process.kill()
                return
    pytest.fail("the training ended by itself:\n" + "".join(seen)[-3000:])


def test_the_stock_commands_train_resume_predict_and_hand_over_with_nothing_exported(folder):
    plan(folder)
    arguments = ("999", "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu")
    results = folder / "results" / DATASET / f"{TRAINER}__nnUNetPlans__3d_fullres" / "fold_0"

    train_until_killed(folder, arguments, "Epoch 1")
    assert (results / "checkpoint_latest.pth").is_file()
    assert not (results / "checkpoint_final.pth").exists()

    resumed = run(folder, "nnUNetv2_train", *arguments, "--c")
    assert "Epoch 0" not in resumed
    assert "Epoch 3" in resumed
    assert "Epoch 4" not in resumed
    # nnU-Net's own, and with pickled numpy numbers in it
    checkpoint = torch.load(results / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == TRAINER
    assert checkpoint["current_epoch"] == 4
    losses = checkpoint["logging"]["train_losses"]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    debug = json.loads((results / "debug.json").read_text())
    assert debug["num_iterations_per_epoch"] == "2"
    assert debug["num_val_iterations_per_epoch"] == "5"
    assert "term=MEEP_KL" in debug["loss"]
    assert "weight=0.2" in debug["loss"]

    single = ("-device", "cpu", "--save_probabilities", "--disable_tta", "-npp", "0", "-nps", "0")
    images = str(folder / "raw" / DATASET / "imagesTs")
    ours = ("-d", "999", "-c", "3d_fullres", "-f", "0", "-tr", TRAINER)
    run(folder, "nnUNetv2_predict", "-i", images, "-o", str(folder / "predicted"), *ours, *single)
    with np.load(folder / "predicted" / "new.npz") as file:
        probabilities = file["probabilities"]
    assert probabilities.shape == (2, 16, 16, 16)
    np.testing.assert_allclose(probabilities.astype(float).sum(0), 1, atol=1e-2)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(folder / "predicted" / "new.nii.gz"))
    assert labels.shape == (16, 16, 16)

    # Where nobody has our trainers.
    out = folder / "elsewhere" / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    run(folder, "meep-export-model", str(results.parent), str(out))
    run(
        folder,
        "nnUNetv2_predict",
        *("-i", images, "-o", str(folder / "again"), "-d", DATASET, "-c", "3d_fullres", "-f", "0"),
        *single,
        NNUNET_MEEP_AUTOLOAD="0",
        nnUNet_results=str(folder / "elsewhere"),
    )
    with np.load(folder / "again" / "new.npz") as file:
        np.testing.assert_array_equal(file["probabilities"], probabilities)
