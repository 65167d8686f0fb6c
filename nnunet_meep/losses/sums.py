"""The sums over voxels that Dice, cross-entropy and the terms are computed from, with gradients.

Cross-entropy, soft Dice, MEEP-KL, MEEP-H and the confidence penalty (CP) are all functions of a few
sums over the voxels. :class:`VoxelSums` computes these sums while reading logits and target once.
Its backward pass reads them once more and writes the gradient in closed form, so no other tensor as
large as the logits has to be stored. :mod:`nnunet_meep.losses.compound` then computes the loss from
the sums with ordinary torch operations, which also gather the sums of several ranks.

With logits z, p = softmax(z), y the label of a voxel and W the misclassified voxels, let a, b, e
and t be the incoming gradients of ``intersection``, ``predicted``, ``cross_entropy`` and ``term``.
The gradient with respect to z_k is the sum of

- Dice: ``p_k (a_k [k = y] + b_k - a_y p_y - sum_c b_c p_c)``,
- cross-entropy: ``e (p_k - [k = y])``,
- MEEP-KL, in W: ``t (p_k - 1 / K)``,
- MEEP-H in W, CP everywhere: ``-t p_k (log p_k + H)``, where H is the entropy of the voxel.

Two classes are reduced to one logit, ``d = z_1 - z_0``. With regions, each region has one logit
and is a binary problem of its own.

This is plain torch: :mod:`.blocks` goes through the voxels, :mod:`.binary` has the arithmetic of
two classes and of regions, :mod:`.multiclass` that of more classes. The input is described in
:mod:`nnunet_meep.losses.voxels`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnunet_meep.losses.binary import Binary
from nnunet_meep.losses.blocks import Problem
from nnunet_meep.losses.multiclass import Multiclass


class Sums(NamedTuple):
    """Sums over the valid (not ignored) voxels, in float64.

    C is the number of classes K, or of regions R. With two classes, :func:`voxel_sums` below
    returns C = 1, the sums of class 1 only.

    Attributes:
        intersection: for each class, the sum of its probability p over the voxels labelled with
            it, (B, C).
        predicted: for each class, the sum of p over all valid voxels, (B, C).
        labelled: number of voxels labelled with each class, (B, C).
        cross_entropy: sum of -log p of the label (with regions: over all regions, too), ().
        term: sum of the divergence or entropy over the misclassified voxels (CP: all voxels), ().
        n_valid: number of valid voxels, (B,); with regions a voxel still counts once.
        n_term: number of voxels (with regions: pairs of voxel and region) summed in ``term``, ().
    """

    intersection: Tensor
    predicted: Tensor
    labelled: Tensor
    cross_entropy: Tensor
    term: Tensor
    n_valid: Tensor
    n_term: Tensor


def voxel_sums(
    logits: Tensor,
    target: Tensor,
    *,
    term: str | None = None,
    ignore_label: int | None = None,
    regions: bool = False,
) -> Sums:
    """The sums of a batch, differentiable with respect to ``logits``.

    Args:
        logits, target, ignore_label, regions: as in :mod:`nnunet_meep.losses.voxels`. The caller
            has to check that they fit together.
        term: ``MEEP_KL``, ``MEEP_H``, ``CP`` or None: which term to sum.
    """
    return Sums(*VoxelSums.apply(logits, target, term, ignore_label, regions))


class VoxelSums(torch.autograd.Function):
    """Computes :class:`Sums`; the gradient is given in the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        term: str | None,
        ignore_label: int | None,
        regions: bool,
    ) -> tuple[Tensor, ...]:
        problem = _problem(logits, target, term, ignore_label, regions)
        with _without_autocast(logits):
            rows = problem.forward()
        ctx.save_for_backward(logits, target, *problem.kept)
        ctx.options = term, ignore_label, regions
        n_scalars = 4
        of_channels = torch.unflatten(rows[:, :-n_scalars], 1, (3, -1))
        intersection, predicted, labelled = of_channels.unbind(1)
        cross_entropy, of_term, n_valid, n_term = rows[:, -n_scalars:].unbind(1)
        sums = Sums(
            intersection,
            predicted,
            labelled,
            cross_entropy.sum(),
            of_term.sum(),
            n_valid,
            n_term.sum(),
        )
        ctx.mark_non_differentiable(sums.labelled, sums.n_valid, sums.n_term)
        return tuple(sums)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, *kept = ctx.saved_tensors
        given = Sums(*gradients)
        of_channels = torch.stack((given.intersection, given.predicted), 1)
        of_all = torch.stack((given.cross_entropy, given.term))
        problem = _problem(logits, target, *ctx.options)
        problem.kept = kept
        with _without_autocast(logits):
            return problem.backward(of_channels, of_all), None, None, None, None


def _problem(logits: Tensor, target: Tensor, *options: Any) -> Problem:
    _, _, regions = options
    binary = regions or logits.shape[1] == 2
    return (Binary if binary else Multiclass)(logits, target, *options)


def _without_autocast(logits: Tensor) -> torch.autocast:
    """Switch autocast off: it would compute matrix products in half precision."""
    return torch.autocast(logits.device.type, enabled=False)
