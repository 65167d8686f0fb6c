"""nnU-Net's prediction and a calibrator in one go."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from nnunet_meep.atomic import replacing_file
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.cases import case_names, read_dataset
from nnunet_meep.posthoc.apply import CALIBRATOR_COPY, apply, check_output
from nnunet_meep.posthoc.calibrator import read_calibrator


@dataclass(frozen=True)
class Prediction:
    """What ``nnUNetv2_predict`` is asked for, as far as it matters here.

    Attributes:
        images: -i.
        output: -o.
        model: dataset, trainer, plans and configuration: -d, -tr, -p, -c.
        folds: -f.
        checkpoint: -chk.
        device: -device.
        goes_on: --continue_prediction.
        part: -part_id and -num_parts.
        arguments: all of them for nnU-Net, but for -o and --save_probabilities.
    """

    images: Path
    output: Path
    model: tuple[str, str, str, str]
    folds: Sequence[str]
    checkpoint: str
    device: str
    goes_on: bool
    part: tuple[int, int]
    arguments: Sequence[str]


def predict(asked: Prediction, calibrator_json: Path, *, progress: bool = False) -> list[str]:
    """Predict with ``nnUNetv2_predict`` and calibrate what it wrote.

    nnU-Net writes into a hidden folder in the output folder, which goes when all is calibrated; a
    run that was stopped leaves it, and ``--continue_prediction`` goes on from it.

    Args:
        asked: what nnU-Net is asked for.
        calibrator_json: what ``meep-calib-fit`` wrote.
        progress: show a progress bar of the calibration on stderr.

    Returns:
        The names of the cases.

    Raises:
        InputError: something cannot be used, said before anything is predicted.
    """
    calibrator = read_calibrator(calibrator_json)
    if not asked.images.is_dir():
        raise InputError(f"{asked.images}: expected a folder of images, found none (-i)")
    model = _check_model(asked)
    calibrator.check_labels(read_dataset([model]).labels, model / "dataset.json")
    _check_device(asked.device)
    check_output(asked.output, asked.images, calibrator_json)

    number, of = asked.part
    staging = asked.output / (".uncalibrated" if of == 1 else f".uncalibrated-{number}-of-{of}")
    staging.mkdir(parents=True, exist_ok=True)
    with replacing_file(asked.output / CALIBRATOR_COPY) as temporary:
        shutil.copyfile(calibrator_json, temporary)
    ending = read_dataset([model]).file_ending
    if asked.goes_on:
        _show_finished(asked.output, staging, ending)
    _nnunet([*asked.arguments, "-o", str(staging), "--save_probabilities"])
    names = apply(calibrator_json, staging, asked.output, progress=progress)
    shutil.rmtree(staging)
    return names


def _nnunet(arguments: Sequence[str]) -> None:
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point

    # The command itself, so that nothing it does is done in another way here.
    with patch.object(sys, "argv", ["nnUNetv2_predict", *arguments]):
        predict_entry_point()


def _check_model(asked: Prediction) -> Path:
    """The folder of the model, which has all that was asked for."""
    if not os.environ.get("nnUNet_results"):
        raise InputError("nnUNet_results is not set: the trained models are in it")
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    dataset, trainer, plans, configuration = asked.model
    try:
        model = Path(get_output_folder(dataset, trainer, plans, configuration))
    except RuntimeError as error:
        raise InputError(f"-d {dataset}: {str(error).splitlines()[0]}") from None
    for fold in asked.folds:
        checkpoint = model / f"fold_{fold}" / asked.checkpoint
        if not checkpoint.is_file():
            raise InputError(
                f"{checkpoint}: expected the checkpoint of a trained model (-d, -tr, -p, -c, -f, "
                f"-chk), found none"
            )
    return model


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("-device cuda: expected a GPU, found none; use -device cpu")


def _show_finished(output: Path, staging: Path, ending: str) -> None:
    """Let nnU-Net find the finished cases, so that it does not predict them again."""
    for name in case_names(output, ".npz") & case_names(output, ending):
        if not (staging / f"{name}.npz").exists():
            for suffix in (".npz", ending):
                # With its time, by which the calibration knows that this is no newer prediction.
                shutil.copy2(output / f"{name}{suffix}", staging / f"{name}{suffix}")
