"""Predicts with nnU-Net and calibrates the result in one step."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.report.triage_list import TRIAGE, write_triage
from nnunet_meep.evaluation.triage import triage
from nnunet_meep.nnunet_files.cases import case_names, read_dataset
from nnunet_meep.nnunet_files.identity import archive_identity
from nnunet_meep.nnunet_files.networks import Network, network_of
from nnunet_meep.nnunet_files.paths import itk_path
from nnunet_meep.nnunet_files.unfinished import remove_unfinished
from nnunet_meep.posthoc.apply import Applied, Record, begin, calibrate_into
from nnunet_meep.posthoc.calibrator import read_calibrator


@dataclass(frozen=True)
class Prediction:
    """The arguments of ``nnUNetv2_predict`` that are needed here.

    Attributes:
        images: -i.
        output: -o.
        model: dataset, trainer, plans and configuration: -d, -tr, -p, -c.
        folds: -f.
        checkpoint: -chk.
        device: -device.
        continue_prediction: --continue_prediction.
        part: -part_id and -num_parts.
        previous_stage: -prev_stage_predictions.
        arguments: all arguments to pass on to nnU-Net, except -o and --save_probabilities.
    """

    images: Path
    output: Path
    model: tuple[str, str, str, str]
    folds: Sequence[str]
    checkpoint: str
    device: str
    continue_prediction: bool
    part: tuple[int, int]
    previous_stage: Path | None
    arguments: Sequence[str]


def predict(
    asked: Prediction,
    calibrator_json: Path,
    *,
    any_network: bool = False,
    say: Callable[[str], None] | None = None,
    progress: bool = False,
) -> Applied:
    """Predict with ``nnUNetv2_predict``, calibrate the predictions, and list which to review first.

    nnU-Net writes to a hidden folder in the output folder, which is deleted once all cases are
    calibrated. An interrupted run leaves this folder, and ``--continue_prediction`` continues from
    it. Without this option, all cases are predicted again.

    Args:
        asked: arguments for nnU-Net.
        calibrator_json: written by ``meep-calib-fit``.
        any_network: also accept a calibrator for another network on the same data set; the
            differences are recorded. One for another data set is never accepted.
        say: gets the lines of :meth:`.Network.calibrator_notes` before anything is predicted.
        progress: show a progress bar of the calibration on stderr.

    Raises:
        InputError: a file, folder or argument cannot be used; raised before anything is predicted.
    """
    calibrator = read_calibrator(calibrator_json)
    model = _check_model(asked)
    dataset = read_dataset([model])
    calibrator.check_labels(dataset.labels, model / "dataset.json")
    network = _network(asked, model)
    differences = calibrator.check_network(network, model, any_network=any_network)
    if say is not None:
        for line in calibrator.network.calibrator_notes(network):
            say(line)
    _check_images(asked, dataset.file_ending)
    _check_device(asked.device)
    number, of = asked.part
    staging = asked.output / (".uncalibrated" if of == 1 else f".uncalibrated-{number}-of-{of}")
    is_new = not asked.output.exists()
    # The same record for all parts (-part_id) of a prediction, as they share the output folder.
    record = Record(asked.output / ".uncalibrated", network, tuple(differences))
    begin(asked.output, calibrator_json, record)
    if not asked.continue_prediction:
        shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(exist_ok=True)
    if asked.continue_prediction:
        remove_unfinished(staging, dataset.file_ending)
        _show_finished(asked.output, staging, dataset.file_ending)
    try:
        _nnunet([*asked.arguments, "-o", str(staging), "--save_probabilities"])
    except BaseException:
        if not any(staging.glob("*.npz")):  # nothing to continue from
            shutil.rmtree(asked.output if is_new else staging, ignore_errors=True)
        raise
    applied = calibrate_into(asked.output, calibrator_json, staging, progress=progress)
    # Other parts of the prediction (-part_id) may be at work in the same folder.
    finished = case_names(asked.output, ".npz") & case_names(asked.output, dataset.file_ending)
    ranked = triage(asked.output, cases=sorted(finished), progress=progress)
    write_triage(ranked, asked.output / TRIAGE)
    try:
        shutil.rmtree(staging)
    except OSError as error:
        error.filename = str(staging)  # Python names the file alone
        raise
    return applied


def _nnunet(arguments: Sequence[str]) -> None:
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point

    # The entry point of the command, so that it behaves exactly as on the command line.
    with patch.object(sys, "argv", ["nnUNetv2_predict", *arguments]):
        predict_entry_point()


def _check_model(asked: Prediction) -> Path:
    """The folder of the model, after checking that it has everything that is needed."""
    if not os.environ.get("nnUNet_results"):
        raise InputError("nnUNet_results is not set: the trained models are in it")
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    dataset, trainer, plans, configuration = asked.model
    try:
        model = Path(get_output_folder(dataset, trainer, plans, configuration))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].split(" Here are")[0]  # a list of folders follows
        raise InputError(f"-d {dataset}: expected a data set, got: {reason}") from None
    for fold in asked.folds:
        checkpoint = model / f"fold_{fold}" / asked.checkpoint
        if not zipfile.is_zipfile(checkpoint):  # as torch saves it
            found = "something else" if checkpoint.exists() else "none"
            raise InputError(
                f"{checkpoint}: expected the checkpoint of a trained model (-d, -tr, -p, -c, -f, "
                f"-chk), found {found}"
            )
    for name in ("dataset.json", "plans.json"):
        if not (model / name).is_file():
            raise InputError(f"{model / name}: expected nnU-Net's {name} of the model, found none")
    return model


def _network(asked: Prediction, model: Path) -> Network:
    """The network that will predict."""
    folds = tuple(sorted(map(str, asked.folds)))
    _, trainer, plans, configuration = asked.model
    return Network(
        network_of([model]).dataset or model.parent.name,
        trainer,
        plans,
        configuration,
        folds=folds,
        averaged=len(folds) > 1,
        checkpoints={
            fold: (archive_identity(model / f"fold_{fold}" / asked.checkpoint),) for fold in folds
        },
    )


def _check_images(asked: Prediction, ending: str) -> None:
    if not asked.images.is_dir():
        raise InputError(f"{asked.images}: expected a folder of images, found none (-i)")
    itk_path(asked.images)
    names = case_names(asked.images, ending)
    if not names:
        raise InputError(f"{asked.images}: expected images CASE_0000{ending}, found none (-i)")
    if unnumbered := sorted(n for n in names if not re.search(r"_\d{4}$", n)):
        raise InputError(
            f"{asked.images / (unnumbered[0] + ending)}: expected the number of its channel at the "
            f"end of its name, as in CASE_0000{ending} (-i)"
        )
    if asked.previous_stage is not None and not asked.previous_stage.is_dir():
        raise InputError(
            f"{asked.previous_stage}: expected a folder of predictions, found none "
            f"(-prev_stage_predictions)"
        )
    if asked.previous_stage is not None:
        itk_path(asked.previous_stage)


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("-device cuda: expected a GPU, found none; use -device cpu")


def _show_finished(output: Path, staging: Path, ending: str) -> None:
    """Copy the calibrated cases to ``staging``, so that nnU-Net does not predict them again."""
    for name in case_names(output, ".npz") & case_names(output, ending):
        if not (staging / f"{name}.npz").exists():
            for suffix in (".npz", ending):
                shutil.copyfile(output / f"{name}{suffix}", staging / f"{name}{suffix}")
