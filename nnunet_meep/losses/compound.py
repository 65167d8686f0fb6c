"""nnU-Net's Dice + cross-entropy and a term, from one reading of the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_meep.losses.regularized import TERMS, LossParts, RegularizedLoss
from nnunet_meep.losses.sums import Sums, voxel_sums
from nnunet_meep.losses.voxels import check_target, sum_over_ranks


@dataclass(frozen=True)
class DiceCE:
    """How nnU-Net's ``DC_and_CE_loss`` or ``DC_and_BCE_loss`` is set.

    Attributes:
        weight_ce, weight_dice: of the two.
        batch_dice: Dice over all samples together (and, with ``ddp``, all ranks).
        background: is Dice taken of class 0, too? For regions there is none.
        smooth: added above and below.
        ddp: do several ranks make one batch?
    """

    weight_ce: float
    weight_dice: float
    batch_dice: bool
    background: bool
    smooth: float
    ddp: bool


class ClosedFormLoss(RegularizedLoss):
    """:class:`RegularizedLoss` of Dice + cross-entropy, computed by :mod:`.sums`.

    The same values and gradients to rounding in less time and memory. Needs a device with float64.

    Args:
        segmentation_loss: nnU-Net's own; it is kept, but not called.
        settings: what it computes.
        term, weight, ignore_label, regions: as for :class:`RegularizedLoss`.

    Raises:
        ValueError: as :class:`RegularizedLoss`.
    """

    how = "Dice, cross-entropy and term in closed form (torch)"
    voxel_sums = staticmethod(voxel_sums)

    def __init__(
        self,
        segmentation_loss: nn.Module,
        settings: DiceCE,
        term: str | None = None,
        weight: float = 0.0,
        **labels: Any,
    ) -> None:
        super().__init__(segmentation_loss, term, weight, **labels)
        self.settings = settings

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        check_target(logits, target, self.ignore_label, self.regions)
        return self._loss(logits, target)

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        sums = self.voxel_sums(
            logits,
            target,
            term=self.term,
            ignore_label=self.ignore_label,
            regions=self.regions,
        )
        kind = torch.promote_types(logits.dtype, torch.float32)
        segmentation = self._segmentation(sums)
        if self.term is None:
            return segmentation.to(kind)
        n_term = sum_over_ranks(sums.n_term).clamp(min=1)
        term = sum_over_ranks(sums.term) / n_term
        self.parts = LossParts(
            segmentation.detach().to(kind), term.detach().to(kind), self._errors(sums)
        )
        _, sign = TERMS[self.term]
        return (segmentation + sign * self.weight * term).to(kind)

    def _errors(self, sums: Sums) -> Tensor | None:
        """Of the terms, MEEP-H sums the entropy of the misclassified voxels."""
        if self.term != "MEEP_H":
            return None
        n_valid = sums.n_valid.sum()
        if self.regions:
            n_valid = n_valid * sums.predicted.shape[1]
        return torch.stack((n_valid, sums.n_term, sums.term)).detach()

    def _segmentation(self, sums: Sums) -> Tensor:
        settings = self.settings
        loss = settings.weight_ce * sums.cross_entropy / self._n_cross_entropy(sums)
        if settings.weight_dice:
            loss = loss + settings.weight_dice * self._dice_loss(sums)
        return loss

    def _n_cross_entropy(self, sums: Sums) -> Tensor:
        # With an ignore mask nnU-Net divides the sum over regions by the number of voxels.
        n = sums.n_valid.sum().clamp(min=1)
        return n * sums.predicted.shape[1] if self.regions and self.ignore_label is None else n

    def _dice_loss(self, sums: Sums) -> Tensor:
        settings = self.settings
        both = torch.stack((2 * sums.intersection, sums.predicted + sums.labelled))
        if not self.regions:
            if both.shape[2] == 1 and settings.background:
                # Of class 0, where p and y are one minus those of class 1.
                n = sums.n_valid[:, None]
                union = 2 * n - both[1]
                both = torch.cat((torch.stack((union - both[1] + both[0], union)), both), 2)
            elif both.shape[2] > 1 and not settings.background:
                both = both[:, :, 1:]
        if settings.batch_dice:
            both = both.sum(1)
            if settings.ddp:
                both = sum_over_ranks(both)
        return -((both[0] + settings.smooth) / (both[1] + settings.smooth).clamp_min(1e-8)).mean()
