"""Names of models without what all of them have in common."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_meep.benchmark.plans.plan import THEN
from nnunet_meep.trainers.grammar import PREFIX


def short_names(models: Sequence[str]) -> dict[str, str]:
    """By the name of each model: ``MEEP_KL + temperature`` for a trainer with a long name.

    Left out are ``nnUNetTrainer``, and the options at the end that all trainers have in common,
    such as ``_50epochs_50iters``.
    """
    trainers = {model: model.split(THEN)[0] for model in models}
    options = {trainer: trainer.split("_") for trainer in trainers.values()}
    n_common = 0
    while all(len(parts) > n_common + 1 for parts in options.values()) and (
        len({parts[-n_common - 1] for parts in options.values()}) == 1
    ):
        n_common += 1
    n_common *= len(options) > 1
    short = {}
    for model, trainer in trainers.items():
        parts = options[trainer]
        name = "_".join(parts[: len(parts) - n_common]).removeprefix(PREFIX) or trainer
        short[model] = name + model.removeprefix(trainer)
    return short if len(set(short.values())) == len(short) else {model: model for model in models}
