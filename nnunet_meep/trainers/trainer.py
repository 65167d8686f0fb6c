"""One nnU-Net trainer, built from what its name says."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_meep.losses import RegularizedLoss
from nnunet_meep.trainers.names import Experiment


class MEEPTrainer(nnUNetTrainer):
    """nnU-Net's trainer with the loss and the length of an :class:`Experiment`.

    Everything else is nnU-Net's. Subclasses come from :func:`make_trainer`, which sets
    ``experiment``.
    """

    experiment: ClassVar[Experiment]

    # nnU-Net inspects this signature to store what rebuilds the trainer from a checkpoint.
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's own default)
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        experiment = self.experiment
        if experiment.epochs is not None:
            # nnU-Net's 1000 epochs leave 20 chances to resume from; so do shorter trainings.
            self.num_epochs = experiment.epochs
            self.save_every = max(1, experiment.epochs // 20)
        if experiment.iterations is not None:
            self.num_iterations_per_epoch = experiment.iterations
            self.num_val_iterations_per_epoch = experiment.validation_iterations

    def _build_loss(self) -> torch.nn.Module:
        loss = super()._build_loss()
        if isinstance(loss, DeepSupervisionWrapper):
            loss.loss = self._inner_loss(loss.loss)
            return loss
        return self._inner_loss(loss)

    def _inner_loss(self, nnunet_loss: DC_and_CE_loss | DC_and_BCE_loss) -> torch.nn.Module:
        """nnU-Net's compound of Dice and CE, cut to what is asked for, plus the term."""
        experiment = self.experiment
        if experiment.segmentation_loss == "Dice":
            nnunet_loss.weight_ce = 0
        elif experiment.segmentation_loss == "CE":
            nnunet_loss.weight_dice = 0
        term = experiment.term if experiment.weight else None
        # Without a term nnU-Net's own object stays. CE alone returns a Python 0 for a batch that
        # is ignored altogether, which has no backward().
        ce_with_ignore = (
            experiment.segmentation_loss == "CE" and self.label_manager.has_ignore_label
        )
        if term is None and not ce_with_ignore:
            return nnunet_loss
        return RegularizedLoss(
            nnunet_loss,
            term,
            experiment.weight if term else 0.0,
            ignore_label=self.label_manager.ignore_label,
            regions=self.label_manager.has_regions,
        )


@functools.cache
def make_trainer(experiment: Experiment) -> type[MEEPTrainer]:
    """The trainer class of an experiment; its name is nnU-Net's results folder.

    The same class for the same experiment, so that ``isinstance`` and pickling by name work.
    """
    term = f" and {experiment.term} with lambda {experiment.weight:g}" if experiment.term else ""
    return type(
        experiment.name,
        (MEEPTrainer,),
        {
            "__module__": "nnunet_meep.trainers",
            "__doc__": f"nnU-Net's trainer with {experiment.segmentation_loss}{term}.",
            "experiment": experiment,
        },
    )
