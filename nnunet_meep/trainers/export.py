"""Export a trained model for people without this package: same weights, nnU-Net's own trainer.

A checkpoint names its trainer, and nnU-Net looks up that class before it predicts, only to build
the network. MEEP changes what a network learns, not its architecture: the trainer that
:class:`~nnunet_meep.trainers.mixin.MEEPMixin` was mixed into builds the same network. So a copy
that names that trainer gives the same predictions, voxel by voxel, in any installation of nnU-Net.
It is for prediction only: further training would use nnU-Net's own loss.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from tqdm import tqdm

from nnunet_meep.atomic import creating_folder, remove_left_over
from nnunet_meep.errors import InputError
from nnunet_meep.json_file import read_json
from nnunet_meep.trainers.checkpoints import read_checkpoint
from nnunet_meep.trainers.names import TrainerNameError, parse
from nnunet_meep.trainers.progress import KEYS

# The files that nnUNetv2_export_model_to_zip takes beside the checkpoints, except debug.json, which
# names the machine and its GPU. Pickles are copied as they are and never opened.
_OF_A_FOLD = ("progress.png", "network_architecture.pdf", "validation/summary.json")
_OF_THE_MODEL = (
    *("plans.json", "dataset.json", "dataset_fingerprint.json"),
    *(
        f"crossval_results_folds_*/{name}"
        for name in ("summary.json", "postprocessing.json", "postprocessing.pkl")
    ),
)
_EXPECTED = (
    "expected the folder of a trained model, $nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION"
    " with plans.json, dataset.json and fold_X/checkpoint_*.pth"
)


@dataclass(frozen=True)
class Export:
    """What was written: all that a prediction command has to name."""

    trainer: str
    dataset: str
    plans: str
    configuration: str
    n_checkpoints: int
    checkpoint: str  # the one to predict with
    folds: list[str]  # those that have this checkpoint


def export_model(model_folder: Path, out: Path) -> Export:
    """Copy a trained model so that its checkpoints name nnU-Net's own trainer.

    All folds are copied with all their checkpoints. Two entries of these change: ``trainer_name``,
    and ``logging``, which loses what this package logs, because nnU-Net expects a value of each
    entry for every epoch. Weights and all else are the same to the last bit.

    Args:
        model_folder: ``TRAINER__PLANS__CONFIGURATION`` in nnU-Net's results.
        out: must not exist; appears only once it is complete.

    Raises:
        InputError: ``model_folder`` is not a model; its trainer is nnU-Net's own already, or builds
            a network of its own; a checkpoint cannot be read or holds something else; ``out``
            exists, or is inside of ``model_folder``.
    """
    names = _check(model_folder)
    folds = [f for f in model_folder.glob("fold_*") if re.fullmatch("fold_([0-9]+|all)", f.name)]
    checkpoints = sorted(file for fold in folds for file in fold.glob("checkpoint_*.pth"))
    if not checkpoints:
        raise InputError(f"{model_folder}: {_EXPECTED}, got no checkpoint")
    remove_left_over(out.parent)
    if out.exists():
        raise InputError(f"{out} exists: remove it or choose another folder")
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(model_folder)):
        raise InputError(
            f"{out}: expected a folder outside of the model {model_folder}, which stays as it is"
        )

    others = [file for pattern in _OF_THE_MODEL for file in model_folder.glob(pattern)]
    others += [fold / name for fold in folds for name in _OF_A_FOLD if (fold / name).is_file()]
    trainers = set()
    with creating_folder(out) as temporary:
        for file in others:
            shutil.copyfile(file, _below(temporary, file.relative_to(model_folder)))
        # disable=None shows the progress bar only on a terminal.
        for file in tqdm(checkpoints, unit="checkpoint", disable=None):
            checkpoint = read_checkpoint(file)
            trainer = nnunets_trainer(checkpoint["trainer_name"])
            trainers.add(trainer)
            if len(trainers) > 1:  # nnU-Net takes the first fold's trainer for all folds
                raise InputError(
                    f"{file}: expected one trainer for all checkpoints of a model, got some based "
                    f"on {' and some on '.join(sorted(trainers))}"
                )
            checkpoint["trainer_name"] = trainer
            for key in KEYS:
                checkpoint["logging"].pop(key, None)
            # Python opens the file: torch's own error for a full disk does not say so.
            with _below(temporary, file.relative_to(model_folder)).open("wb") as copy:
                torch.save(checkpoint, copy)

    # The final one if training has ended; nnU-Net uses the same checkpoint name for all folds.
    chosen = min({f.name for f in checkpoints}, key=lambda n: (n != "checkpoint_final.pth", n))
    return Export(
        trainer=trainer,
        dataset=names["dataset_name"],
        plans=names["plans_name"],
        configuration=checkpoint["init_args"]["configuration"],
        n_checkpoints=len(checkpoints),
        checkpoint=chosen,
        folds=[f.parent.name.removeprefix("fold_") for f in checkpoints if f.name == chosen],
    )


def _below(folder: Path, path: Path) -> Path:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    return folder / path


def _check(model_folder: Path) -> dict[str, str]:
    """The names in its plans; if it is not a model, raise and suggest a folder nearby that is."""
    if not model_folder.is_dir():
        what = "a file" if model_folder.exists() else "nothing"
        raise InputError(f"{model_folder}: {_EXPECTED}, got {what}")
    missing = [n for n in ("plans.json", "dataset.json") if not (model_folder / n).is_file()]
    if missing:
        above = Path(os.path.abspath(model_folder)).parent  # of a fold
        plans = [above / "plans.json", *sorted(model_folder.glob("*/plans.json"))]  # of a data set
        models = [str(file.parent) for file in plans if file.is_file()]
        hint = f"; is it {' or '.join(models)}?" if models else ""
        raise InputError(f"{model_folder}: {_EXPECTED}, got no {' and no '.join(missing)}{hint}")
    _read_json(model_folder / "dataset.json", "labels")
    return _read_json(model_folder / "plans.json", "dataset_name", "plans_name")


def _read_json(path: Path, *keys: str) -> dict[str, Any]:
    try:
        content = read_json(path)
        return {key: content[key] for key in keys}
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: not a file of nnU-Net, or cut short ({error!r})") from error


@functools.cache
def nnunets_trainer(name: str) -> str:
    """The trainer of nnU-Net's own that builds the same network as the trainer ``name``.

    Raises:
        InputError: there is none, or ``name`` itself is nnU-Net's own.
    """
    if _in_the_grammar(name):
        return str(nnUNetTrainer.__name__)
    trainer = _find(name)
    network = trainer.build_network_architecture
    bases: list[str] = [
        base.__name__
        for base in trainer.__mro__
        if base.__module__.startswith("nnunetv2.")
        and getattr(base, "build_network_architecture", None) is network
    ]
    if not bases:
        raise InputError(
            f"{name}: its build_network_architecture is its own, and nnU-Net has no trainer that "
            "builds the same network: who predicts needs the file with this class"
        )
    if bases[0] == name:
        raise InputError(
            f"{name} is a trainer of nnU-Net's own: there is nothing to export, its models predict "
            "without nnunet-meep as they are"
        )
    return bases[0]


def _in_the_grammar(name: str) -> bool:
    try:
        return parse(name) is not None
    except TrainerNameError:  # a user's own trainer may be called nnUNetTrainerDA5_MEEP
        return False


def _find(name: str) -> Any:
    """The class that nnU-Net finds, in its own folders and those of ``nnUNet_extTrainer``."""
    try:
        # The search imports one trainer after another and prints their names; some give warnings.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return recursive_find_trainer_class_by_name(name)
    # Our own extension exits at a wrong name; the user's files, also imported, can raise anything.
    except SystemExit:
        raise InputError(
            f"{name}: nnU-Net does not find this trainer, whose class says what it is based on; is "
            "the folder with its file in nnUNet_extTrainer?"
        ) from None
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}: nnU-Net does not find this trainer, whose class says what it is based on; is "
            f"the folder with its file in nnUNet_extTrainer? ({reason})"
        ) from error
