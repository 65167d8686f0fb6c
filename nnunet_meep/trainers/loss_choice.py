"""Choose the loss that an experiment asks for, and the code that computes it.

This is the only place where that is decided. With a MEEP term or CP, the closed form is used if
possible: it covers nnU-Net's Dice + cross-entropy as its trainers configure it. Any other loss of a
trainer (other Dice losses, class weights, label smoothing, top-k, focal loss) is kept, and the term
is added to it; so is every other term. On an NVIDIA GPU the closed form runs in Triton kernels if
Triton is installed and works (it needs a C compiler), otherwise in plain torch.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import nn

from nnunet_meep.losses import DSCppLoss, FocalLoss, RegularizedLoss
from nnunet_meep.losses.compound import IN_CLOSED_FORM, ClosedFormLoss, DiceCE
from nnunet_meep.trainers.grammar import TERMS, Experiment

#: Attribute of the losses that :func:`choose_loss` has made; copies of them have it, too.
_MADE = "made_for_an_experiment"
#: Factors of weight_ce and weight_dice that keep only one part of nnU-Net's loss.
_PARTS = {"Dice": (0, 1), "CE": (1, 0)}


def made_losses(loss: nn.Module) -> list[nn.Module]:
    """The losses inside a trainer's loss that :func:`choose_loss` has made.

    Usually one. Others of the same classes may be the user's own.
    """
    return [module for module in loss.modules() if getattr(module, _MADE, False)]


def choose_loss(
    own_loss: nn.Module,
    experiment: Experiment,
    *,
    ignore_label: int | None,
    regions: bool,
    n_channels: int,
    device: torch.device,
) -> nn.Module:
    """The loss at one resolution that an experiment asks for.

    It is the trainer's own if nothing else is asked for; any other is among :func:`made_losses`.

    Args:
        own_loss: the trainer's own loss at one resolution; it is not changed.
        experiment: which segmentation loss and which term.
        ignore_label, regions: as for ``RegularizedLoss``.
        n_channels: number of channels of the logits.
        device: device of the logits.

    Raises:
        TypeError: a part of nnU-Net's Dice + cross-entropy is asked for, to keep or to replace it,
            but that is not the trainer's own loss.
    """
    labels: dict[str, Any] = {"ignore_label": ignore_label, "regions": regions}
    loss = _loss(own_loss, experiment, labels, n_channels, device)
    if loss is not own_loss:
        setattr(loss, _MADE, True)
    return loss


def _loss(
    own_loss: nn.Module,
    experiment: Experiment,
    labels: dict[str, Any],
    n_channels: int,
    device: torch.device,
) -> nn.Module:
    asked = experiment.segmentation_loss
    settings = settings_of(own_loss, **labels)
    if asked == "Focal":
        own_loss, settings = FocalLoss(experiment.gamma, **labels), None
    elif asked == "DSCpp":
        if settings is None:
            raise _other_loss(asked, own_loss)
        own_loss, settings = _dscpp(settings, experiment.gamma, labels), None
    elif asked in _PARTS:
        if not _is_dice_ce(own_loss):
            raise _other_loss(asked, own_loss)
        own_loss, settings = _one_part(own_loss, settings, *_PARTS[asked])
    term = experiment.active_term
    if term is not None:
        if TERMS[term].needs_cross_entropy and (settings is None or settings.weight_ce != 1):
            raise TypeError(
                f"{term} needs a trainer with nnU-Net's cross-entropy, of weight 1 and without "
                f"smoothing or class weights, beside its Dice, got {type(own_loss).__name__}"
            )
        return _with_term(own_loss, settings, experiment, term, n_channels, device, labels)
    # Without a term, nnU-Net's own object is used. But its CE alone returns a Python 0, which has
    # no backward(), for a batch in which every voxel is ignored.
    if asked == "CE" and labels["ignore_label"] is not None:
        return RegularizedLoss(own_loss, **labels)
    return own_loss


def _is_dice_ce(loss: nn.Module) -> bool:
    """Whether a loss is the sum of nnU-Net's Dice and cross-entropy; a subclass may add to it."""
    kinds = (DC_and_CE_loss, DC_and_BCE_loss)
    return isinstance(loss, kinds) and type(loss).forward in [kind.forward for kind in kinds]


def _other_loss(asked: str, own_loss: nn.Module) -> TypeError:
    return TypeError(
        f"{asked} needs a trainer with nnU-Net's Dice + CE loss, got {type(own_loss).__name__}; "
        "leave the segmentation loss out of the experiment to keep it"
    )


def _dscpp(settings: DiceCE, gamma: float, labels: dict[str, Any]) -> DSCppLoss:
    """DSC++ with the settings of nnU-Net's Dice."""
    return DSCppLoss(
        gamma,
        batch_dice=settings.batch_dice,
        background=settings.background,
        smooth=settings.smooth,
        **labels,
    )


def _one_part(
    own_loss: Any, settings: DiceCE | None, of_ce: int, of_dice: int
) -> tuple[nn.Module, DiceCE | None]:
    """nnU-Net's loss with only one of its parts; the trainer's own object is not changed."""
    part = copy(own_loss)
    part.weight_ce, part.weight_dice = of_ce * own_loss.weight_ce, of_dice * own_loss.weight_dice
    if settings is None:
        return part, None
    weight_ce, weight_dice = of_ce * settings.weight_ce, of_dice * settings.weight_dice
    return part, replace(settings, weight_ce=weight_ce, weight_dice=weight_dice)


def _with_term(
    own_loss: nn.Module,
    settings: DiceCE | None,
    experiment: Experiment,
    term: str,
    n_channels: int,
    device: torch.device,
    labels: dict[str, Any],
) -> RegularizedLoss:
    weight = experiment.weight
    # Apple's devices have no float64.
    if settings is None or term not in IN_CLOSED_FORM or device.type == "mps":
        options = {key: getattr(experiment, key) for key in TERMS[term].options}
        return RegularizedLoss(own_loss, term, weight, options=options, **labels)
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
    except Exception as error:  # no Triton, no compiler, an old GPU: Triton can raise anything
        closed_form.how += f"; no Triton: {type(error).__name__}: {str(error).strip()[:200]}"
        return closed_form
    return in_kernels


def _try_out(loss: RegularizedLoss, n_channels: int, device: torch.device) -> None:
    """Run forward and backward on a few voxels, as nnU-Net does. Compiles the kernels."""
    logits = torch.zeros((1, n_channels, 4, 4, 4), device=device, requires_grad=True)
    n_masks = n_channels + (loss.ignore_label is not None) if loss.regions else 1
    target = torch.zeros((1, n_masks, 4, 4, 4), device=device)
    loss(logits.half(), target).backward()
    loss.parts = None


def settings_of(own_loss: Any, *, ignore_label: int | None, regions: bool) -> DiceCE | None:
    """The settings of nnU-Net's loss; None if the closed form does not cover the loss."""
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
        plain = type(ce) in (RobustCrossEntropyLoss, nn.CrossEntropyLoss) and ce.weight is None
        plain = plain and not ce.label_smoothing and ce.reduction == "mean"
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
