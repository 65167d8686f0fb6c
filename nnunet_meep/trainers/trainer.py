"""One trainer, built from what its name says."""

from __future__ import annotations

import functools

from nnunet_meep.trainers.mixin import MEEPMixin
from nnunet_meep.trainers.names import Experiment


@functools.cache
def make_trainer(experiment: Experiment) -> type[MEEPMixin]:
    """The trainer class of an experiment; its name is nnU-Net's results folder.

    The same class for the same experiment, so that ``isinstance`` and pickling by name work.
    """
    weight = "found in training" if experiment.auto else f"{experiment.weight:g}"
    term = f" and {experiment.term} with lambda {weight}" if experiment.term else ""
    return type(
        experiment.name,
        (MEEPMixin,),
        {
            "__module__": "nnunet_meep.trainers",
            "__doc__": f"nnU-Net's trainer with {experiment.segmentation_loss}{term}.",
            "experiment": experiment,
        },
    )
