"""The trainers that nnU-Net finds by name; each class is created on first use.

``nnunet_meep.trainers.nnUNetTrainerMEEP_KL`` and every other name of the grammar in
:mod:`nnunet_meep.trainers.grammar` is an attribute of this module, and so is
:class:`~nnunet_meep.trainers.mixin.MEEPMixin`, for trainers of your own. Importing the module
needs neither torch nor nnU-Net; accessing one of these classes does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_meep.trainers.names import TrainerNameError, parse

if TYPE_CHECKING:
    from nnunet_meep.trainers.mixin import MEEPMixin

__all__ = ["MEEPMixin", "TrainerNameError", "parse"]


def __getattr__(name: str) -> type:
    if name == "MEEPMixin":
        from nnunet_meep.trainers.mixin import MEEPMixin

        return MEEPMixin
    return trainer_class(name)


def trainer_class(name: str) -> type:
    """The trainer class of that name.

    Raises:
        AttributeError: the name is not one of ours.
        TrainerNameError: the name is one of ours, but wrong.
    """
    experiment = parse(name)
    if experiment is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nnunet_meep.trainers.trainer import make_trainer

    return make_trainer(experiment)
