"""The focal loss, one of the segmentation losses of the MEEP paper's Table 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnunet_meep.losses.voxels import mean_over, voxels


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    ignore_label: int | None = None,
    regions: bool = False,
) -> Tensor:
    r"""Focal loss, the mean over all N valid voxels (Lin et al. 2017, without alpha).

    .. math:: \frac{1}{N} \sum_i -(1 - p_{i y_i})^\gamma \log(p_{i y_i})

    With regions, each pair of voxel and region is a binary problem, and the mean is over all pairs.
    ``gamma=0`` gives the cross-entropy.

    Args:
        logits, target, ignore_label, regions: as in :mod:`nnunet_meep.losses.voxels`.
        gamma: exponent, >= 0.

    Returns:
        Scalar >= 0, at least float32; 0 with a zero gradient if every voxel is ignored.

    Raises:
        ValueError: ``logits`` and ``target`` do not fit together (see ``meep_entropy``), or
            ``gamma`` is negative or NaN.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma: expected a number >= 0, got {gamma}")
    log_p, label, _, valid = voxels(logits, target, ignore_label=ignore_label, regions=regions)
    log_p_true = log_p.gather(1, label[:, None])[:, 0]
    # For gamma < 1, x**gamma has an infinite derivative at x = 1 - p = 0, so x is kept just above
    # 0. The value does not change: log p is 0 there.
    error = (-torch.expm1(log_p_true)).clamp(min=torch.finfo(log_p.dtype).tiny)
    return mean_over(valid, -(error**gamma) * log_p_true)


class FocalLoss(nn.Module):
    """:func:`focal_loss` as a module, called with ``(logits, target)`` like nnU-Net's losses."""

    def __init__(
        self, gamma: float = 2.0, *, ignore_label: int | None = None, regions: bool = False
    ) -> None:
        super().__init__()
        if not gamma >= 0:
            raise ValueError(f"gamma: expected a number >= 0, got {gamma}")
        self.gamma = gamma
        self.ignore_label = ignore_label
        self.regions = regions

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return focal_loss(
            logits,
            target,
            gamma=self.gamma,
            ignore_label=self.ignore_label,
            regions=self.regions,
        )

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, ignore_label={self.ignore_label}, regions={self.regions}"
