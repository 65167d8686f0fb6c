"""A trainer on the CPU from a plans file and a dataset.json made here. No data is needed."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import small_project

#: dataset.json's labels for the four ways in which nnU-Net trains. Three output channels each.
LABELS = {
    "labels": {"background": 0, "left": 1, "right": 2},
    "labels+ignore": {"background": 0, "left": 1, "right": 2, "ignore": 3},
    "regions": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "middle": [3]},
    "regions+ignore": {
        "background": 0,
        "whole": [1, 2, 3],
        "core": [2, 3],
        "middle": [3],
        "ignore": 4,
    },
}
N_STAGES = 5  # four outputs under deep supervision


def make_dataset_json(kind: str) -> dict:
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": LABELS[kind],
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    return {**dataset, "regions_class_order": [1, 2, 3]} if "regions" in kind else dataset


def make_plans() -> dict:
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}

    def configuration(dimensions: int, batch_dice: bool) -> dict:
        return {
            "data_identifier": f"nnUNetPlans_{dimensions}d",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [16] * dimensions,
            "median_image_size_in_voxels": [16.0] * dimensions,
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
                "network_class_name": (
                    "dynamic_network_architectures.architectures.unet.PlainConvUNet"
                ),
                "arch_kwargs": {
                    "n_stages": N_STAGES,
                    "features_per_stage": [2] * N_STAGES,
                    "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                    "kernel_sizes": [[3] * dimensions] * N_STAGES,
                    "strides": [[1] * dimensions] + [[2] * dimensions] * (N_STAGES - 1),
                    "n_conv_per_stage": [1] * N_STAGES,
                    "n_conv_per_stage_decoder": [1] * (N_STAGES - 1),
                    "conv_bias": True,
                    "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
            "batch_dice": batch_dice,
        }

    return {
        "dataset_name": "Dataset999_Tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0] * 3,
        "original_median_shape_after_transp": [16] * 3,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "2d": configuration(2, batch_dice=True),
            "3d_fullres": configuration(3, batch_dice=False),
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
    }


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``build(trainer_class, kind)``: a trainer as ``nnUNetv2_train`` constructs it."""
    import torch

    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))

    def construct(trainer_class, kind: str = "labels", configuration: str = "3d_fullres"):
        plans = copy.deepcopy(make_plans())
        plans["continue_training"] = False
        return trainer_class(
            plans=plans,
            configuration=configuration,
            fold=0,
            dataset_json=make_dataset_json(kind),
            device=torch.device("cpu"),
        )

    return construct


@pytest.fixture(scope="session")
def prepared_balls(tmp_path_factory):
    """``prepared_balls(kind)``: a folder with the balls in nnU-Net's formats, made once."""

    @functools.cache
    def prepare(kind):
        folder = tmp_path_factory.mktemp(kind.replace("+", "_"))
        dataset = "Dataset901_Balls"
        cases = small_project.write_balls(folder / "raw" / dataset, small_project.LABELS[kind])
        plans = small_project.plans(dataset, "SimpleITKIO", small_project.CONFIGURATIONS)
        small_project.preprocess(folder, dataset, plans, cases)
        return folder, dataset, plans

    return prepare


@pytest.fixture
def balls(prepared_balls, tmp_path, monkeypatch, no_picture):
    """``balls(kind)``: a project of the balls with results of its own."""

    def open_project(kind="labels"):
        prepared, dataset, plans = prepared_balls(kind)
        folder = tmp_path / kind
        folder.mkdir()
        for name in ("raw", "preprocessed"):
            (folder / name).symlink_to(prepared / name)
        return small_project.Project(folder, dataset, plans, monkeypatch)

    return open_project


@pytest.fixture
def no_picture(monkeypatch):
    """No progress.png, which takes longer than a small training; returns what would draw it."""
    from nnunet_meep.trainers.progress import CalibrationLogger

    draw = CalibrationLogger.plot_progress_png
    monkeypatch.setattr(CalibrationLogger, "plot_progress_png", lambda *_: None)
    return draw
