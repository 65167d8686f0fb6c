"""Predicts with nnU-Net, averages folds as asked, and calibrates the result, in one step."""

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

from tqdm import tqdm

from nnunet_meep.atomic import move_files
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.report.triage_list import TRIAGE, write_triage
from nnunet_meep.evaluation.triage import triage
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.cases import ARGUMENTS, Dataset, case_names, read_dataset
from nnunet_meep.nnunet_files.identity import archive_identity
from nnunet_meep.nnunet_files.networks import Network, network_of
from nnunet_meep.nnunet_files.paths import itk_path
from nnunet_meep.nnunet_files.unfinished import remove_unfinished
from nnunet_meep.posthoc.apply import Applied, Record, begin, calibrate_into
from nnunet_meep.posthoc.average import MAPS, average_case
from nnunet_meep.posthoc.calibrator import Calibrator, read_calibrator


@dataclass(frozen=True)
class Prediction:
    """What to predict: the arguments of ``nnUNetv2_predict`` that are needed here, and two more.

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
        arguments: all arguments to pass on to nnU-Net, except -f, -o and --save_probabilities.
        average: what is averaged over several folds: ``logits``, as nnU-Net does, or
            ``probabilities``.
        disagreement: also map where the folds disagree, see :mod:`.disagreement`.
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
    average: str = "logits"
    disagreement: bool = False


def predict(
    asked: Prediction,
    calibrator_json: Path | None = None,
    *,
    any_network: bool = False,
    say: Callable[[str], None] | None = None,
    progress: bool = False,
) -> Applied:
    """Predict with ``nnUNetv2_predict``, calibrate the predictions, and list which to review first.

    nnU-Net averages the logits of several folds. For the average of their probabilities, and for
    their disagreement, it predicts with each fold on its own.

    nnU-Net writes to hidden folders in the output folder, which are deleted once all cases are
    done. An interrupted run leaves these folders, and ``--continue_prediction`` continues from
    them. Without this option, all cases are predicted again.

    Args:
        asked: what to predict.
        calibrator_json: written by ``meep-calib-fit``; applied to the average if there are several
            folds. None: the predictions stay as they are.
        any_network: also accept a calibrator for another network on the same data set; the
            differences are recorded. One for another data set is never accepted.
        say: gets the lines of :meth:`.Network.calibrator_notes`, and what the calibrator is applied
            to if that is an average, before anything is predicted.
        progress: show progress bars of averaging and calibration on stderr.

    Raises:
        InputError: a file, folder or argument cannot be used; raised before anything is predicted.
    """
    _check_folds(asked)
    calibrator = None if calibrator_json is None else read_calibrator(calibrator_json)
    model = _check_model(asked)
    dataset = read_dataset([model])
    network = _network(asked, model)
    differences: list[str] = []
    if calibrator is not None:
        calibrator.check_labels(dataset.labels, model / "dataset.json")
        differences = calibrator.check_network(network, model, any_network=any_network)
        if say is not None:
            for line in _notes(calibrator, network, asked.arguments):
                say(line)
    _check_images(asked, model, dataset.file_ending)
    _check_device(asked.device)
    staging = _Staging.of(asked)
    is_new = not asked.output.exists()
    # The same record for all parts (-part_id) of a prediction, as they share the output folder.
    uncalibrated = asked.output / ".uncalibrated"
    record = Record(uncalibrated, network, tuple(differences), asked.disagreement)
    begin(asked.output, calibrator_json, record)
    finished = staging.begin(asked, dataset.file_ending)
    try:
        for folder, folds in staging.runs.items():
            told = ["-f", *folds, "-o", str(folder), "--save_probabilities"]
            _nnunet([*asked.arguments, *told])
        _average(asked, staging, dataset, finished, progress)
    except BaseException:
        if not any(any(folder.glob("*.npz")) for folder in staging.folders):
            # nothing to continue from
            is_alone = asked.part[1] == 1  # else other parts (-part_id) use the output folder, too
            for folder in [asked.output] if is_new and is_alone else staging.folders:
                shutil.rmtree(folder, ignore_errors=True)
        raise
    if (staging.whole / MAPS).is_dir():
        _move(staging.whole / MAPS, asked.output / MAPS)
    if asked.part[1] > 1 and not any(staging.whole.glob("*.npz")):  # more parts than cases
        applied = Applied([])
    elif calibrator_json is None:
        applied = Applied(sorted(case_names(staging.whole, ".npz")))
        _move(staging.whole, asked.output)
    else:
        applied = calibrate_into(asked.output, calibrator_json, staging.whole, progress=progress)
    # Other parts of the prediction (-part_id) may be at work in the same folder.
    done = case_names(asked.output, ".npz") & case_names(asked.output, dataset.file_ending)
    if done:
        ranked = triage(asked.output, cases=sorted(done), progress=progress)
        write_triage(ranked, asked.output / TRIAGE)
    for folder in staging.folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            error.filename = str(folder)  # Python names the file alone
            raise
    return applied


@dataclass(frozen=True)
class _Staging:
    """The hidden folders in the output folder that nnU-Net writes to.

    Attributes:
        whole: of the predictions of all folds together.
        members: {fold: folder of its predictions}, if each predicts on its own.
        runs: {folder: the folds with which nnU-Net predicts into it}.
    """

    whole: Path
    members: dict[str, Path]
    runs: dict[Path, Sequence[str]]

    @classmethod
    def of(cls, asked: Prediction) -> _Staging:
        number, of = asked.part
        whole = asked.output / (".uncalibrated" if of == 1 else f".uncalibrated-{number}-of-{of}")
        averages_here = len(asked.folds) > 1 and asked.average == "probabilities"
        members: dict[str, Path] = {}
        if averages_here or asked.disagreement:
            members = {f: whole.with_name(f"{whole.name}-fold-{f}") for f in asked.folds}
        runs: dict[Path, Sequence[str]] = {folder: [fold] for fold, folder in members.items()}
        if not averages_here:
            runs[whole] = asked.folds
        return cls(whole, members, runs)

    @property
    def folders(self) -> list[Path]:
        return [self.whole, *self.members.values()]

    def begin(self, asked: Prediction, ending: str) -> set[str]:
        """Make the folders, or ready them to go on; return the names of the finished cases.

        Finished cases are put there, so that nnU-Net does not predict them again.
        """
        for folder in self.folders:
            if not asked.continue_prediction:
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(exist_ok=True)
        if not asked.continue_prediction:
            return set()
        for folder in self.folders:
            remove_unfinished(folder, ending)
        finished = case_names(asked.output, ".npz") & case_names(asked.output, ending)
        for name in finished:
            files = [f"{name}{suffix}" for suffix in (".npz", ending)]
            if not (self.whole / files[0]).exists():
                for file in files:
                    shutil.copyfile(asked.output / file, self.whole / file)
            for folder in self.members.values():
                for file in files:  # nnU-Net looks whether they are there, and nobody reads them
                    (folder / file).touch()
        return finished


def _average(
    asked: Prediction, staging: _Staging, dataset: Dataset, finished: set[str], progress: bool
) -> None:
    """Put together what each fold predicted on its own, if it did."""
    if not staging.members:
        return
    members = list(staging.members.values())
    averages_here = staging.whole not in staging.runs
    if averages_here:
        for name in ("dataset.json", "plans.json", ARGUMENTS):
            shutil.copyfile(members[0] / name, staging.whole / name)
    names = sorted(case_names(members[0], ".npz") - finished)
    for name in tqdm(names, desc="folds", unit="case", disable=not progress):
        average_case(
            name,
            members,
            dataset,
            staging.whole,
            average=averages_here,
            disagreement=asked.disagreement,
        )


def _move(folder: Path, target: Path) -> None:
    try:
        move_files(folder, target)
    except OSError as error:
        error.filename = error.filename or str(target)  # of fsync
        raise


def _nnunet(arguments: Sequence[str]) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point

    set_threads = torch.set_num_interop_threads

    def set_once(n: int) -> None:
        # PyTorch allows this once in a process, and nnU-Net does it whenever it uses a GPU.
        if torch.get_num_interop_threads() != n:
            set_threads(n)

    # The entry point of the command, so that it behaves exactly as on the command line.
    with (
        patch.object(sys, "argv", ["nnUNetv2_predict", *arguments]),
        patch.object(torch, "set_num_interop_threads", set_once),
    ):
        predict_entry_point()


def _check_folds(asked: Prediction) -> None:
    for fold in asked.folds:
        if list(asked.folds).count(fold) > 1:
            raise InputError(f"-f: expected each fold once, got {fold} more than once")
    if asked.disagreement and len(asked.folds) == 1:
        raise InputError(
            f"--disagreement: expected several folds to compare, got fold {asked.folds[0]} alone; "
            f"give their numbers (-f 0 1 2), or leave --disagreement out"
        )


#: Arguments of ``nnUNetv2_predict`` that make other probabilities than a validation has.
_OTHERWISE = ("--disable_tta", "-step_size")


def _notes(calibrator: Calibrator, network: Network, arguments: Sequence[str]) -> list[str]:
    lines = calibrator.network.calibrator_notes(network)
    if other := [flag for flag in _OTHERWISE if flag in arguments]:
        lines.append(
            f"nnU-Net validates, and calibrators are fitted, without {' and '.join(other)}; these "
            f"predictions may need another confidence"
        )
    if network.averaged:
        folds = ", ".join(network.folds)
        lines.append(
            f"the calibrator is applied to the average of the {network.average} of folds {folds}"
        )
    return lines


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
        average=asked.average if len(folds) > 1 else None,
        checkpoints={
            fold: (archive_identity(model / f"fold_{fold}" / asked.checkpoint),) for fold in folds
        },
    )


def _previous_stage(asked: Prediction, model: Path) -> str | None:
    """The configuration whose predictions a cascade needs; None if it is no cascade."""
    try:
        configurations = read_json(model / "plans.json")["configurations"]
        name = asked.model[3]
        while "previous_stage" not in configurations[name]:
            name = configurations[name]["inherits_from"]
        return str(configurations[name]["previous_stage"])
    except (ValueError, KeyError, TypeError):
        return None


def _check_images(asked: Prediction, model: Path, ending: str) -> None:
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
    if asked.previous_stage is None and (previous := _previous_stage(asked, model)):
        raise InputError(
            f"-c {asked.model[3]}: expected the predictions of {previous} for these images with "
            f"-prev_stage_predictions, as it is a cascade, got none"
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
