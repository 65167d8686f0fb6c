"""Other ways for a lambda to find itself, for the runs behind ``lambda_auto.md``.

Trainers of one's own, as anybody would write them: a file in a folder of ``nnUNet_extTrainer``.
Each changes one thing of ``_lambdaauto`` and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor
from torch.nn.functional import max_pool3d

from nnunet_meep.losses import RegularizedLoss, meep_kl
from nnunet_meep.losses.regularized import LossParts
from nnunet_meep.losses.voxels import voxels
from nnunet_meep.trainers import MEEPMixin, parse
from nnunet_meep.trainers.monitor import TrainingMonitor

DICE = parse("nnUNetTrainerDiceMEEP_KL_lambdaauto_50epochs_50iters")
DICE_CE = parse("nnUNetTrainerMEEP_KL_lambdaauto_50epochs_50iters")


class OtherSignal(TrainingMonitor, ABC):
    """Gives the control other sums than those of all voxels: the same fields, another r."""

    @abstractmethod
    def surprise(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Voxels, errors and expected errors, or what stands for them."""

    @torch.no_grad()
    def add_validation(self, logits: Tensor, target: Tensor) -> None:
        before = self._surprise.clone()
        super().add_validation(logits, target)
        if len(logits):
            self._surprise = before + torch.stack(self.surprise(logits, target))


class NearBoundary(OtherSignal):
    """E and A over voxels from which another label is at most three voxels away in each axis."""

    def surprise(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v = self._voxels(logits, target)
        label = v.label[:, None].float()
        highest, lowest = (sign * max_pool3d(sign * label, 7, 1, 3) for sign in (1, -1))
        near = (highest != lowest)[:, 0] & v.valid
        unsure = 1 - v.log_p.amax(1).double().exp()
        return near.sum().double(), (v.wrong & near).sum().double(), unsure[near].sum()


class ConfidenceOnErrors(OtherSignal):
    """Mean confidence on errors, against what it would be if the probabilities were right.

    A voxel with confidence c is then an error with probability 1 - c, so that errors have the mean
    confidence sum c (1 - c) / sum (1 - c), of each batch by itself. Confidences count from chance:
    (c - 1/K) / (1 - 1/K).
    """

    def surprise(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v = self._voxels(logits, target)
        n_classes = v.log_p.shape[1]
        confidence = v.log_p.amax(1).double().exp()
        above = (confidence - 1 / n_classes) / (1 - 1 / n_classes)
        unsure = (1 - confidence)[v.valid]
        expected = (unsure * above[v.valid]).sum() / unsure.sum().clamp(min=1e-12)
        n_wrong = v.wrong.sum()
        return v.valid.sum().double(), above[v.wrong].sum(), n_wrong * expected


class _OtherSignalTrainer(MEEPMixin, nnUNetTrainer):
    experiment = DICE
    kind: type[OtherSignal]

    def initialize(self) -> None:
        super().initialize()
        self.monitor = self.kind(
            self.monitor.n_classes,
            ignore_label=self.monitor.ignore_label,
            regions=self.monitor.regions,
            device=self.device,
        )


class nnUNetTrainerDiceMEEP_KL_lambdaauto_boundary_50epochs_50iters(_OtherSignalTrainer):
    kind = NearBoundary


class nnUNetTrainerMEEP_KL_lambdaauto_boundary_50epochs_50iters(_OtherSignalTrainer):
    experiment = DICE_CE
    kind = NearBoundary


class nnUNetTrainerDiceMEEP_KL_lambdaauto_confidence_50epochs_50iters(_OtherSignalTrainer):
    kind = ConfidenceOnErrors


class nnUNetTrainerMEEP_KL_lambdaauto_confidence_50epochs_50iters(_OtherSignalTrainer):
    experiment = DICE_CE
    kind = ConfidenceOnErrors


class SumOverVoxels(RegularizedLoss):
    """MEEP-KL divided by N instead of |W|: its weight on a voxel does not grow as errors get few.

    Times 100, so that lambda has about the size it has otherwise once 1 % are errors; in the first
    epochs, with 60 % of errors, it is 60 times as large, which holds the network back.
    """

    how = "the segmentation loss, and 100 times the term divided by all voxels beside it"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        labels = {"ignore_label": self.ignore_label, "regions": self.regions}
        own = RegularizedLoss(self.segmentation_loss, **labels)(logits, target)
        v = voxels(logits.detach(), target, **labels)
        share = v.wrong.sum() / v.valid.sum().clamp(min=1)
        value = 100 * share * meep_kl(logits, target, **labels)
        self.parts = LossParts(own.detach(), value.detach())
        return own + self.weight * value


class _SumOverVoxelsTrainer(MEEPMixin, nnUNetTrainer):
    experiment = DICE

    def _inner_loss(self, own_loss: Any) -> Any:
        loss = super()._inner_loss(own_loss)
        labels = {"ignore_label": loss.ignore_label, "regions": loss.regions}
        return SumOverVoxels(loss.segmentation_loss, loss.term, loss.weight, **labels)


class nnUNetTrainerDiceMEEP_KL_lambdaauto_overN_50epochs_50iters(_SumOverVoxelsTrainer):
    pass


class nnUNetTrainerMEEP_KL_lambdaauto_overN_50epochs_50iters(_SumOverVoxelsTrainer):
    experiment = DICE_CE
