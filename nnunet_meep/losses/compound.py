"""nnU-Net's Dice + cross-entropy and a term, computed while reading the voxels once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_meep.losses.regularized import TERMS, LossParts, RegularizedLoss
from nnunet_meep.losses.sums import Sums, voxel_sums
from nnunet_meep.losses.voxels import check_target, sum_over_ranks

#: The terms that :mod:`.sums` sums.
IN_CLOSED_FORM = ("MEEP_KL", "MEEP_H", "CP")


@dataclass(frozen=True)
class DiceCE:
    """The settings of nnU-Net's ``DC_and_CE_loss`` or ``DC_and_BCE_loss``.

    Attributes:
        weight_ce, weight_dice: weights of the two losses.
        batch_dice: compute Dice over all samples together (and, with ``ddp``, over all ranks).
        background: include class 0 in Dice. Not used with regions, which have no background.
        smooth: added to the numerator and the denominator of Dice.
        ddp: the batch is spread over several ranks.
    """

    weight_ce: float
    weight_dice: float
    batch_dice: bool
    background: bool
    smooth: float
    ddp: bool


class ClosedFormLoss(RegularizedLoss):
    """:class:`RegularizedLoss` for Dice + cross-entropy, computed from :mod:`.sums`.

    The same values and gradients up to rounding, in less time and memory. Needs a device that
    supports float64.

    Args:
        segmentation_loss: nnU-Net's own loss; it is kept, but not called.
        settings: the settings of that loss.
        term: one of :data:`IN_CLOSED_FORM`, or None.
        weight, ignore_label, regions: as for :class:`RegularizedLoss`.

    Raises:
        ValueError: as :class:`RegularizedLoss`, or the term has no closed form.
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
        if term is not None and term not in IN_CLOSED_FORM:
            raise ValueError(f"term: expected one of {', '.join(IN_CLOSED_FORM)}, got {term!r}")
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
        """``LossParts.errors``; only MEEP-H has summed the entropy of the misclassified voxels."""
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
        # nnU-Net averages over pairs of voxel and region, but with an ignore mask it divides the
        # sum over regions by the number of voxels only.
        n = sums.n_valid.sum().clamp(min=1)
        return n * sums.predicted.shape[1] if self.regions and self.ignore_label is None else n

    def _dice_loss(self, sums: Sums) -> Tensor:
        settings = self.settings
        both = torch.stack((2 * sums.intersection, sums.predicted + sums.labelled))
        if not self.regions:
            if both.shape[2] == 1 and settings.background:
                # Add class 0, whose p and y are one minus those of class 1. Digits are lost where a
                # few voxels are all sure of class 1. (nnU-Net's own trainers leave out class 0.)
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
