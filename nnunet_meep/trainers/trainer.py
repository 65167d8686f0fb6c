"""Build a trainer class from an experiment, for nnU-Net's commands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nnunet_meep.errors import InputError, described
from nnunet_meep.trainers.grammar import Experiment
from nnunet_meep.trainers.mixin import MEEPMixin

#: The methods that nnU-Net's commands call, and that may refuse.
_CALLED = ("__init__", "initialize", "load_checkpoint", "run_training")


@functools.cache
def make_trainer(experiment: Experiment) -> type[MEEPMixin]:
    """The trainer class of an experiment; nnU-Net names its results folder after the class.

    The same experiment gives the same class, so that ``isinstance`` and pickling by name work.
    nnU-Net's commands call this class directly: an experiment that cannot be trained ends them with
    one line and exit code 1.
    """
    weight = "found in training" if experiment.auto else f"{experiment.weight:g}"
    term = f" and {experiment.term} with lambda {weight}" if experiment.term else ""
    made: type[MEEPMixin] = type(
        experiment.name,
        (MEEPMixin,),
        {
            "__module__": "nnunet_meep.trainers",
            "__doc__": f"nnU-Net's trainer with {experiment.segmentation_loss}{term}.",
            "experiment": experiment,
        },
    )
    for name in _CALLED:
        setattr(made, name, _one_line(made, name))
    return made


def _one_line(made: type[MEEPMixin], name: str) -> Callable[..., Any]:
    """A method of a class that ends nnU-Net's commands with one line on an ``InputError``.

    Also if the system reports an error, such as that the disk is full. It calls the next class,
    which in a user's subclass may be another one than ``MEEPMixin``.
    """

    @functools.wraps(getattr(MEEPMixin, name))  # nnU-Net inspects the signature of __init__
    def calling(self: MEEPMixin, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(super(made, self), name)(*args, **kwargs)
        except InputError as error:
            raise SystemExit(f"Error: {error}") from None
        except OSError as error:
            raise SystemExit(f"Error: {described(error)}") from None

    return calling
