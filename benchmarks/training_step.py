"""Whole training steps of nnU-Net's trainer and of ``nnUNetTrainerMEEP_KL`` in turn."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from loss_cases import synchronize
from tqdm import tqdm


def step_seconds(device: str, n_rounds: int, size: int | None = None) -> dict[str, float]:
    """Median seconds of a training step of each trainer; three classes, random images.

    On a GPU with nnU-Net's default network and a patch of 128 x 128 x 128, on a CPU with a small
    one; ``size`` is another edge of the patch.
    """
    own_size, features = (
        (128, [32, 64, 128, 256, 320, 320]) if device == "cuda" else (48, [8, 16, 32])
    )
    size = size or own_size
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 1, size, size, size), generator=generator).to(torch.int16)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(nnUNet_results=folder, nnUNet_preprocessed=folder)
        data = Path(folder, "Dataset999_Step", "nnUNetPlans_3d_fullres")
        data.mkdir(parents=True)
        (data / "case.b2nd").touch()  # nnU-Net infers the data format from the files
        # Not imported earlier, because nnU-Net reads these environment variables on import.
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        from nnunet_meep import trainers

        steps = {}
        for trainer_class in (nnUNetTrainer, trainers.nnUNetTrainerMEEP_KL):
            plans = step_plans(size, features)
            trainer = trainer_class(plans, "3d_fullres", 0, dataset, torch.device(device))
            trainer.initialize()
            trainer.network.train()
            if isinstance(trainer, trainers.MEEPMixin):
                trainer.monitor.start_training()
            n_scales = len(features) - 1  # nnU-Net has no output at the coarsest resolution
            steps[trainer_class.__name__] = trainer
        image = torch.randn(2, 1, size, size, size)
        targets = [target[..., :: 2**i, :: 2**i, :: 2**i] for i in range(n_scales)]
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in tqdm(range(n_rounds + 2), unit="training step", leave=False):
            for name, trainer in steps.items():
                synchronize(device)
                start = time.perf_counter()
                trainer.train_step({"data": image, "target": targets})
                synchronize(device)
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def step_plans(size: int, features: list[int]) -> dict[str, Any]:
    """nnU-Net's plans for isotropic images."""
    n = len(features)
    network = {
        "n_stages": n,
        "features_per_stage": features,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * n,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (n - 1),
        "n_conv_per_stage": [2] * n,
        "n_conv_per_stage_decoder": [2] * (n - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [size] * 3,
        "spacing": [1.0] * 3,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "Dataset999_Step",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration},
        "continue_training": False,
    }
