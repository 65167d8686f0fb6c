"""Whether a training may go on from a checkpoint: only if the same trainer wrote it.

Otherwise its results would stand under the name of a trainer that made only a part of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nnunet_meep.errors import InputError
from nnunet_meep.trainers.checkpoints import read_checkpoint
from nnunet_meep.trainers.grammar import Experiment
from nnunet_meep.trainers.names import TrainerNameError, parse


def refuse_other_trainer(path: Path, trainer: str) -> None:
    """Refuse a checkpoint that another trainer wrote.

    A checkpoint that cannot be read safely is not refused here: nnU-Net reads it next.

    Args:
        path: the checkpoint.
        trainer: name of the trainer that would go on from it.

    Raises:
        InputError: the names are of different trainers; see :func:`is_same_trainer`.
    """
    try:
        wrote = read_checkpoint(path, weights=False)["trainer_name"]
    except InputError:
        return
    if not is_same_trainer(wrote, trainer):
        raise InputError(
            f"{path}: expected a checkpoint of {trainer}, got one of {wrote}; go on with -tr "
            f"{wrote}, or begin a new training from these weights with -pretrained_weights"
        )


def is_same_trainer(one: str, other: str) -> bool:
    """Whether two names are of the same trainer.

    Equal names are, and two of our grammar that mean the same, such as with and without the
    default of an option. Another number of epochs is another trainer: the learning rate follows it.
    """
    mine, theirs = _experiment(one), _experiment(other)
    return one == other or (mine is not None and mine == theirs)


def _experiment(name: str) -> Experiment | None:
    """What a name means, the same for all names that mean it; None if it is not ours."""
    try:
        experiment = parse(name)
    except TrainerNameError:  # a user's own trainer may be called nnUNetTrainerDA5_MEEP
        return None
    if experiment is None:
        return None
    epochs, iterations = experiment.epochs or 1000, experiment.iterations or 250
    return replace(experiment, name="", epochs=epochs, iterations=iterations)
