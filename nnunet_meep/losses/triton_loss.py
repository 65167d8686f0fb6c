"""Dice + cross-entropy and a term on an NVIDIA GPU. Importing this module needs Triton."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from nnunet_meep.losses import kernels
from nnunet_meep.losses.compound import ClosedFormLoss
from nnunet_meep.losses.regularized import LossParts


class TritonLoss(ClosedFormLoss):
    """:class:`ClosedFormLoss`, computed by the kernels of :mod:`.kernels`; the same arguments.

    In distributed training the kernels compute only the sums; torch gathers those of all ranks
    and computes the loss from them.
    """

    how = "Dice, cross-entropy and term in closed form (Triton kernels)"
    voxel_sums = staticmethod(kernels.voxel_sums)

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if dist.is_available() and dist.is_initialized():
            return super()._loss(logits, target)
        problem = kernels.Problem(self.term, self.ignore_label, self.regions)
        loss, segmentation, term = kernels.fused_loss(
            logits, target, self.settings, self.weight, problem
        )
        if self.term is not None:
            self.parts = LossParts(segmentation, term)
        return loss
