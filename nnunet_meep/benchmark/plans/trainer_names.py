"""Trainer names in a plan: braces, seeds, and whether there is such a trainer."""

from __future__ import annotations

import difflib
import re

from nnunet_meep.trainers import names, nearest, others
from nnunet_meep.trainers.grammar import PREFIX, Experiment, base_name

_BRACES = re.compile(r"\{([^{}]*)\}")
_LAMBDA = re.compile(r"_lambda([0-9p]+)(?=_|$)")


class WrongTrainer(ValueError):
    """A trainer name in a plan that cannot be trained. One line, with the nearest right name."""


def expand(pattern: str) -> list[str]:
    """The trainers that a pattern stands for: ``MEEP_KL_lambda{0p1,0p3}`` for two of them.

    Raises:
        WrongTrainer: one of them does not exist.
    """
    match = _BRACES.search(pattern)
    if match:
        before, after = pattern[: match.start()], pattern[match.end() :]
        return [name for text in match[1].split(",") for name in expand(before + text + after)]
    _check(pattern)
    return [pattern]


def with_seeds(trainer: str, seeds: list[int]) -> tuple[str, dict[str, int | None], str]:
    """A trainer with each of the seeds.

    Args:
        trainer: one that exists.
        seeds: empty for a training without a seed.

    Returns:
        The name without a seed; the names to train, with their seeds; a note if the trainer takes
        no seed and is therefore trained once, or may end before its term begins, else "".

    Raises:
        WrongTrainer: the name has a seed already, and seeds are given; a seed is too large.
    """
    experiment = _experiment(trainer)
    if experiment is None:
        note = ""
        own = re.fullmatch(r"(.+)_seed(\d{1,9})", trainer)
        if own and not seeds:  # a user's trainers that only differ in the seed
            return own[1], {trainer: int(own[2])}, ""
        if seeds:
            note = (
                "takes no seed and is trained once: a seed is an option of this package's trainers"
            )
            if trainer == PREFIX:
                note += f"; {PREFIX}DiceCE is the same loss and takes seeds"
        return trainer, {trainer: None}, note
    without, seed = names.without_seed(trainer)
    note = names.too_short(experiment)
    if not seeds:
        return without, {trainer: seed}, note
    if seed is not None:
        raise WrongTrainer(f"{trainer}: expected a name without a seed beside seeds = {seeds}")
    try:
        return trainer, {names.with_seed(trainer, s): s for s in seeds}, note
    except names.TrainerNameError as error:
        raise WrongTrainer(str(error)) from None


def lambda_of(trainer: str) -> tuple[str, str] | None:
    """The name with ``lambda*`` in place of its lambda, and that lambda, as in ``0p3``.

    None if the name has no fixed lambda.
    """
    match = _LAMBDA.search(trainer)
    if match is None:
        return None
    return f"{trainer[: match.start()]}_lambda*{trainer[match.end() :]}", match[1]


def finds_lambda(trainer: str) -> bool:
    """Whether a trainer finds its lambda during the training."""
    experiment = _experiment(trainer)
    return experiment is not None and experiment.auto


def plain_name(trainer: str) -> str:
    """The trainer with the same segmentation loss and options, but without a term and its options.

    ``nnUNetTrainerDiceCE`` for ``nnUNetTrainer``, which is the same loss.
    """
    experiment = _experiment(trainer)
    if experiment is None:
        return f"{PREFIX}DiceCE" if trainer == PREFIX else trainer
    base = base_name(experiment.segmentation_loss, experiment.term)
    options = re.sub(r"_(lambda|margin)[^_]*", "", trainer.removeprefix(base))
    return base_name(experiment.segmentation_loss, None) + options


def n_epochs(trainer: str) -> int:
    """The number of epochs that a trainer's name stands for; nnU-Net's 1000 if it says none."""
    experiment = _experiment(trainer)
    if experiment is not None:
        return experiment.epochs or 1000
    match = re.search(r"_(\d+)epochs?(?=_|$)", trainer)
    return int(match[1]) if match else 1000


def n_iterations(trainer: str) -> int:
    """The number of training iterations that a trainer's name stands for."""
    experiment = _experiment(trainer)
    per_epoch = experiment.iterations if experiment is not None else None
    return n_epochs(trainer) * (per_epoch or 250)


def _experiment(trainer: str) -> Experiment | None:
    """What a trainer of this package stands for; None for others, also with a name like ours."""
    try:
        return names.parse(trainer)
    except names.TrainerNameError:
        return None


def _check(trainer: str) -> None:
    """Raise ``WrongTrainer`` if neither this package nor nnU-Net has such a trainer."""
    wrong = ""
    try:
        if names.parse(trainer) is not None or trainer in others.written_classes():
            return
    except names.TrainerNameError as error:
        wrong = str(error)
    if others.folder_with(trainer, others.external_folders()):
        return
    close = difflib.get_close_matches(trainer, others.written_classes(), 1)
    right = nearest.meant(trainer) or (f"the nearest right name is {close[0]}" if close else "")
    raise WrongTrainer(
        wrong
        or f"{trainer}: expected a trainer of nnU-Net, of this package or of a folder in "
        f"nnUNet_extTrainer, found none"
        + (f"; {right}" if right else "")
    )
