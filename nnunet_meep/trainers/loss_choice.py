"""Which code computes a loss with a term: the closed form where it can, else the composition.

The only place where that is decided. The closed form is of nnU-Net's Dice + cross-entropy as its
trainers set it; whatever else a trainer brings (other Dice losses, class weights, label smoothing,
top-k, focal loss) is composed with the term as it is. On an NVIDIA GPU Triton kernels compute it,
where Triton is there and works (it needs a C compiler), and plain torch otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import nn

from nnunet_meep.losses import RegularizedLoss
from nnunet_meep.losses.compound import ClosedFormLoss, DiceCE


def with_term(
    own_loss: Any,
    term: str | None,
    weight: float,
    *,
    ignore_label: int | None,
    regions: bool,
    n_channels: int,
    device: torch.device,
) -> RegularizedLoss:
    """The loss of a trainer plus a term.

    Args:
        own_loss, term, weight, ignore_label, regions: as of ``RegularizedLoss``.
        n_channels: of the logits.
        device: where they will be.
    """
    settings = settings_of(own_loss, ignore_label=ignore_label, regions=regions)
    labels: dict[str, Any] = {"ignore_label": ignore_label, "regions": regions}
    # Without a term nnU-Net's own is kept to the last bit. Apple's devices have no float64.
    if settings is None or term is None or device.type == "mps":
        return RegularizedLoss(own_loss, term, weight, **labels)
    closed_form = ClosedFormLoss(own_loss, settings, term, weight, **labels)
    if device.type != "cuda":
        return closed_form
    try:
        from nnunet_meep.losses.kernels import MAX_CLASSES
        from nnunet_meep.losses.triton_loss import TritonLoss

        if n_channels > MAX_CLASSES:
            raise ValueError(f"{n_channels} channels, its kernels are for {MAX_CLASSES} at most")
        in_kernels = TritonLoss(own_loss, settings, term, weight, **labels)
        _try_out(in_kernels, n_channels, device)
    except Exception as error:  # no Triton, no compiler, an old GPU: whatever Triton raises then
        closed_form.how += f"; no Triton: {type(error).__name__}: {str(error).strip()[:200]}"
        return closed_form
    return in_kernels


def _try_out(loss: RegularizedLoss, n_channels: int, device: torch.device) -> None:
    """Forward and backward on a few voxels, as nnU-Net runs it. Compiles the kernels."""
    logits = torch.zeros((1, n_channels, 4, 4, 4), device=device, requires_grad=True)
    n_masks = n_channels + (loss.ignore_label is not None) if loss.regions else 1
    target = torch.zeros((1, n_masks, 4, 4, 4), device=device)
    loss(logits.half(), target).backward()
    loss.parts = None


def settings_of(own_loss: Any, *, ignore_label: int | None, regions: bool) -> DiceCE | None:
    """How nnU-Net's loss is set, or None if it is not one that the closed form is of."""
    ignores = ignore_label is not None
    if regions:
        if type(own_loss) is not DC_and_BCE_loss or own_loss.use_ignore_label != ignores:
            return None
        ce = own_loss.ce
        plain = type(ce) is nn.BCEWithLogitsLoss and ce.weight is None and ce.pos_weight is None
        plain = plain and ce.reduction == ("none" if ignores else "mean")
        activation = torch.sigmoid
    else:
        if type(own_loss) is not DC_and_CE_loss or own_loss.ignore_label != ignore_label:
            return None
        ce = own_loss.ce
        plain = ce.weight is None and not ce.label_smoothing and ce.reduction == "mean"
        plain = plain and ce.ignore_index == (ignore_label if ignores else -100)
        activation = softmax_helper_dim1
    dice = getattr(own_loss.dc, "_orig_mod", own_loss.dc)  # nnU-Net compiles it on a GPU
    if not plain or type(dice) is not MemoryEfficientSoftDiceLoss:
        return None
    if dice.apply_nonlin is not activation or (regions and not dice.do_bg):
        return None
    return DiceCE(
        weight_ce=own_loss.weight_ce,
        weight_dice=own_loss.weight_dice,
        batch_dice=dice.batch_dice,
        background=dice.do_bg,
        smooth=dice.smooth,
        ddp=dice.ddp,
    )
