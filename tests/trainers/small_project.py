"""Small data sets in nnU-Net's raw and preprocessed format, and plans for networks in miniature.

Preprocessed with nnU-Net's own preprocessor, in this process.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

LABELS = {
    "labels": {"background": 0, "outer": 1, "inner": 2},
    "labels+ignore": {"background": 0, "outer": 1, "inner": 2, "ignore": 3},
    "regions": {"background": 0, "whole": [1, 2], "inner": [2]},
    "regions+ignore": {"background": 0, "whole": [1, 2], "inner": [2], "ignore": 3},
}
N_CASES = 6


def dataset_json(labels: dict, channels: int = 1, file_ending: str = ".nii.gz") -> dict:
    names = {str(i): f"MRI_{i}" for i in range(channels)}
    dataset = {
        "channel_names": names,
        "labels": labels,
        "numTraining": N_CASES,
        "file_ending": file_ending,
    }
    regions = [key for key, value in labels.items() if isinstance(value, list)]
    return (
        {**dataset, "regions_class_order": list(range(1, len(regions) + 1))} if regions else dataset
    )


def configuration(dimensions: int, patch: list[int], residual: bool = False, **changes) -> dict:
    """A configuration of ``nnUNetPlans.json`` with a network of three stages."""
    n_stages = 3
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    arguments = {
        "n_stages": n_stages,
        "features_per_stage": [4, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * n_stages,
        "strides": [[1] * dimensions] + [[2] * dimensions] * (n_stages - 1),
        ("n_blocks_per_stage" if residual else "n_conv_per_stage"): [1] * n_stages,
        "n_conv_per_stage_decoder": [1] * (n_stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    network = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "data_identifier": f"nnUNetPlans_{dimensions}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": [20.0] * dimensions,
        "spacing": [1.0] * dimensions,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
        **changes,
    }


def plans(dataset: str, reader: str, configurations: dict, plans_name: str = "nnUNetPlans") -> dict:
    return {
        "dataset_name": dataset,
        "plans_name": plans_name,
        "original_median_spacing_after_transp": [1.0] * 3,
        "original_median_shape_after_transp": [20] * 3,
        "image_reader_writer": reader,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}, "2": {}},
    }


def write_balls(raw: Path, labels: dict) -> dict:
    """Six volumes of 20 x 20 x 20 with a noisy ball (1) and its kernel (2), a border ignored."""
    random = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    grid = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"))
    for case in range(N_CASES):
        centre = random.uniform(7, 12, size=(3, 1, 1, 1))
        distance = np.sqrt(((grid - centre) ** 2).sum(0))
        seg = (distance < 6).astype(np.uint8) + (distance < 3)
        if "ignore" in labels:
            seg[:, :, :4] = 3
        image = (distance < 6) + (distance < 3) + random.normal(size=seg.shape)
        name = f"ball_{case}"
        sitk.WriteImage(
            sitk.GetImageFromArray(image.astype(np.float32)),
            raw / "imagesTr" / f"{name}_0000.nii.gz",
        )
        sitk.WriteImage(sitk.GetImageFromArray(seg), raw / "labelsTr" / f"{name}.nii.gz")
    dataset = dataset_json(labels)
    (raw / "dataset.json").write_text(json.dumps(dataset))
    return dataset


def preprocess(folder: Path, dataset: str, plans: dict, cases: list[str]) -> None:
    """Raw data of ``folder/raw/dataset`` into ``folder/preprocessed/dataset``, fold 0 in a split.

    Each data identifier of the plans once. All but the last case train; that one validates.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    raw, preprocessed = folder / "raw" / dataset, folder / "preprocessed" / dataset
    description = json.loads((raw / "dataset.json").read_text())
    preprocessed.mkdir(parents=True)
    (preprocessed / "dataset.json").write_text(json.dumps(description))
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    (preprocessed / "dataset_fingerprint.json").write_text("{}")
    (preprocessed / "splits_final.json").write_text(
        json.dumps([{"train": cases[:-1], "val": cases[-1:]}])
    )
    (preprocessed / "gt_segmentations").symlink_to(raw / "labelsTr")
    manager = PlansManager(copy.deepcopy(plans))
    done = set()
    ending = description["file_ending"]
    for name in plans["configurations"]:
        config = manager.get_configuration(name)
        if config.data_identifier in done:
            continue
        done.add(config.data_identifier)
        preprocessor = config.preprocessor_class(verbose=False)
        out = preprocessed / config.data_identifier
        out.mkdir()
        for case in cases:
            preprocessor.run_case_save(
                str(out / case),
                sorted(str(path) for path in (raw / "imagesTr").glob(f"{case}_????{ending}")),
                str(raw / "labelsTr" / f"{case}{ending}"),
                manager,
                config,
                description,
            )


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(source, target)
