"""The trainers that nnU-Net finds by name; each is made when it is asked for.

``nnunet_meep.trainers.nnUNetTrainerMEEP_KL`` and every other name of the grammar in
:mod:`nnunet_meep.trainers.names` is an attribute of this module. Importing the module needs
neither torch nor nnU-Net; taking a trainer from it does.
"""

from __future__ import annotations

from nnunet_meep.trainers.names import TrainerNameError, parse

__all__ = ["TrainerNameError"]


def __getattr__(name: str) -> type:
    experiment = parse(name)
    if experiment is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nnunet_meep.trainers.trainer import make_trainer

    return make_trainer(experiment)
