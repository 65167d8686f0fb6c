"""DSC++, a Dice loss that punishes confident errors more (Yeung et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nnunet_meep.losses.voxels import each_class, sum_over_ranks


def dscpp_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    batch_dice: bool = False,
    background: bool = False,
    smooth: float = 1e-5,
    ignore_label: int | None = None,
    regions: bool = False,
) -> Tensor:
    r"""Minus the DSC++ of each image and class, averaged.

    .. math:: -\frac{2 \sum_i y_i p_i}{2 \sum_i y_i p_i + \sum_i (y_i (1 - p_i))^\gamma
        + \sum_i ((1 - y_i) p_i)^\gamma}

    p is the probability of the class, y is 1 where it is the label and else 0. With gamma 1 this
    is nnU-Net's Dice loss. In what surrounds the formula it follows nnU-Net rather than the
    authors' code, which takes the mean of 1 - DSC++ over all classes with the background, clips
    p and y to [1e-7, 1 - 1e-7] and has ``smooth`` 1e-7. With regions, each region is a class with
    the sigmoid of its logit.

    Args:
        logits, target, ignore_label, regions: as in :func:`nnunet_meep.losses.meep_entropy`.
        gamma: exponent, >= 0.
        batch_dice: compute it over all images, and all ranks, together.
        background: include class 0. Not used with regions, which have no background.
        smooth: added to the numerator and the denominator.

    Returns:
        Scalar in [-1, 0], at least float32.

    Raises:
        ValueError: as :func:`nnunet_meep.losses.meep_entropy`, or ``gamma`` is negative or NaN.
    """
    _refuse_exponent(gamma)
    log_p, y, valid = each_class(logits, target, ignore_label, regions)
    if not (background or regions):
        log_p, y, valid = log_p[:, 1:], y[:, 1:], valid[:, 1:]
    p = log_p.exp()
    # Just above 0, because for gamma < 1 the derivative of x**gamma is infinite at 0.
    wrong = torch.where(y, -torch.expm1(log_p), p).clamp(min=torch.finfo(p.dtype).tiny) ** gamma
    voxels = tuple(range(2, p.ndim))
    sums = torch.stack(
        (torch.where(y & valid, p, 0).sum(voxels), torch.where(valid, wrong, 0).sum(voxels))
    )
    if batch_dice:
        sums = sum_over_ranks(sums.sum(1))
    twice_right, wrong = 2 * sums[0], sums[1]
    return -((twice_right + smooth) / (twice_right + wrong + smooth).clamp_min(1e-8)).mean()


class DSCppLoss(nn.Module):
    """:func:`dscpp_loss` as a module, called with ``(logits, target)`` like nnU-Net's losses."""

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        batch_dice: bool = False,
        background: bool = False,
        smooth: float = 1e-5,
        ignore_label: int | None = None,
        regions: bool = False,
    ) -> None:
        super().__init__()
        _refuse_exponent(gamma)
        self.options: dict[str, Any] = {
            "gamma": gamma,
            "batch_dice": batch_dice,
            "background": background,
            "smooth": smooth,
            "ignore_label": ignore_label,
            "regions": regions,
        }

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return dscpp_loss(logits, target, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options.items())


def _refuse_exponent(gamma: float) -> None:
    if not gamma >= 0:  # NaN, too
        raise ValueError(f"gamma: expected a number >= 0, got {gamma}")
