"""Small data sets in nnU-Net's raw and preprocessed format, and plans for networks in miniature.

Preprocessed with nnU-Net's own preprocessor, in this process.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

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


def configuration(
    dimensions: int, patch: list[int], n_stages: int = 3, residual: bool = False, **changes
) -> dict:
    """A configuration of ``nnUNetPlans.json`` with a small network."""
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    arguments = {
        "n_stages": n_stages,
        "features_per_stage": [4] + [8] * (n_stages - 1),
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


#: Every kind of configuration that nnU-Net plans, for volumes of 20 x 20 x 20.
CONFIGURATIONS = {
    "2d": configuration(2, [16, 16]),
    "3d_fullres": configuration(3, [16, 16, 16]),
    "3d_lowres": configuration(
        3,
        [8, 8, 8],
        data_identifier="nnUNetPlans_3d_lowres",
        spacing=[2.0] * 3,
        next_stage="3d_cascade_fullres",
    ),
    "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    "resenc": configuration(3, [16, 16, 16], residual=True),
}


def plans(dataset: str, reader: str, configurations: dict) -> dict:
    return {
        "dataset_name": dataset,
        "plans_name": "nnUNetPlans",
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


def write_balls(raw: Path, labels: dict) -> list[str]:
    """Six volumes of 20 x 20 x 20 with a noisy ball (1) and its kernel (2); the case names.

    Where there is an ignore label (3) one border has it.
    """
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
    (raw / "dataset.json").write_text(json.dumps(dataset_json(labels)))
    return [f"ball_{case}" for case in range(N_CASES)]


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


class Project:
    """Preprocessed data, and results of its own.

    Args:
        folder: holds ``raw`` and ``preprocessed``; results go to ``results`` beside them.
        patch: for the environment variables of nnU-Net.
    """

    def __init__(self, folder: Path, dataset: str, plans: dict, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.dataset, self.plans, self.patch = folder, dataset, plans, patch
        patch.setenv("nnUNet_raw", str(folder / "raw"))
        patch.setenv("nnUNet_preprocessed", str(folder / "preprocessed"))
        patch.setenv("nnUNet_n_proc_DA", "0")  # batches made in this process

    def trainer(
        self,
        of,
        configuration="3d_fullres",
        fold=0,
        resume=False,
        results="results",
        device="cpu",
    ):
        """A trainer, of a class or of a name of ours, as ``nnUNetv2_train`` constructs it."""
        import torch

        from nnunet_meep import trainers

        self.patch.setenv("nnUNet_results", str(self.folder / results))
        if isinstance(of, str):
            of = getattr(trainers, of)
        plans = {**copy.deepcopy(self.plans), "continue_training": resume}
        preprocessed = self.folder / "preprocessed" / self.dataset
        dataset = json.loads((preprocessed / "dataset.json").read_text())
        return of(plans, configuration, fold, dataset, torch.device(device))


def assert_trained(trainer, n_epochs=1):
    """Finite losses, the log complete, a checkpoint that names the trainer."""
    checkpoint = load(trainer, "checkpoint_final.pth")
    assert checkpoint["trainer_name"] == type(trainer).__name__
    assert checkpoint["current_epoch"] == n_epochs
    from nnunet_meep.trainers.progress import KEYS

    log = checkpoint["logging"]
    assert set(KEYS) < set(log)
    assert {len(values) for values in log.values()} == {n_epochs}
    assert np.isfinite([log["train_losses"], log["val_losses"]]).all()
    regularised = trainer.experiment.term and trainer.experiment.weight
    for key in KEYS:
        if key != "term_value" or regularised:
            assert np.isfinite(np.asarray(log[key])).all(), key
    if regularised:
        sign = -1 if trainer.experiment.term in ("MEEP_H", "CP") else 1
        whole = np.add(
            log["segmentation_loss"],
            sign * trainer.experiment.weight * np.asarray(log["term_value"]),
        )
        np.testing.assert_allclose(whole, log["train_losses"], rtol=1e-5, atol=1e-6)
    else:
        assert np.isnan(log["term_value"]).all()
        np.testing.assert_allclose(log["segmentation_loss"], log["train_losses"], rtol=1e-5)


def load(trainer, name):
    """A checkpoint of a trainer. With nnU-Net's numpy numbers, so it needs pickle."""
    import torch

    return torch.load(Path(trainer.output_folder) / name, weights_only=False)


def weights(trainer):
    return {key: value.clone() for key, value in trainer.network.state_dict().items()}
