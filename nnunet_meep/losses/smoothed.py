r"""Terms that smooth labels or limit logits: label smoothing, SVLS, MbLS and NACL.

They are rivals of MEEP, written as terms that are added to a segmentation loss with a weight
lambda. z are the logits of a voxel, p their softmax, y its one-hot label, K the number of classes.
:mod:`nnunet_meep.losses.voxels` defines the input.

**Smoothed targets.** Label smoothing and SVLS replace the target y of the cross-entropy by
(1 - lambda) y + lambda s. Both y and s sum to 1, so that the normalisation of the softmax cancels,
and the cross-entropy against the new target is that against y plus lambda times a term which is
linear in the logits:

.. math:: -\sum_k ((1 - \lambda) y_k + \lambda s_k) \log(p_k)
    = -\sum_k y_k \log(p_k) + \lambda \sum_k s_k (z_y - z_k)

These two need a cross-entropy that they are added to, with the same weight as lambda has, and
classes that exclude each other; overlapping regions are refused.

**Neighbours.** SVLS and NACL look at the 3^d neighbourhood of a voxel, in as many dimensions d as
the patch has. Beyond the border of a patch, its outermost voxels are repeated. Ignored voxels have
no label and do not count as neighbours: the weights of the others are scaled to sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_meep.losses.voxels import (
    at_least_float32,
    check_target,
    inside_and_valid,
    label_and_valid,
    mean_over,
)


def label_smoothing(
    logits: Tensor, target: Tensor, *, ignore_label: int | None = None, regions: bool = False
) -> Tensor:
    r"""What label smoothing adds to the cross-entropy, without its weight (Szegedy et al. 2016).

    .. math:: \frac{1}{N} \sum_i \sum_k \frac{1}{K} (z_{i y_i} - z_{ik})

    Over all N valid voxels; cross-entropy + a times this is torch's
    ``cross_entropy(label_smoothing=a)`` up to rounding. As a term of its own, because its weight
    can then change during a training, and is logged apart from the cross-entropy.

    Args:
        logits, target, ignore_label: as in :func:`nnunet_meep.losses.meep_entropy`.
        regions: has to be False.

    Returns:
        Scalar, at least float32; negative where labels have small logits; 0 if every voxel is
        ignored.

    Raises:
        ValueError: as :func:`nnunet_meep.losses.meep_entropy`, or ``regions`` is True.
    """
    _refuse_regions("label smoothing", regions)
    check_target(logits, target, ignore_label, regions)
    z = at_least_float32(logits)
    label, valid = label_and_valid(target, ignore_label)
    return mean_over(valid[:, 0], z.gather(1, label)[:, 0] - z.mean(1))


def svls(
    logits: Tensor, target: Tensor, *, ignore_label: int | None = None, regions: bool = False
) -> Tensor:
    r"""What spatially varying label smoothing adds to the cross-entropy (Islam & Glocker 2021).

    .. math:: \frac{1}{N} \sum_i \sum_k s_{ik} (z_{i y_i} - z_{ik})

    s are the one-hot labels, filtered by a 3^d Gaussian with sigma 1 whose centre weight is
    replaced by the sum of the others, then normalised: the centre has weight 1/2. Cross-entropy
    plus this is the cross-entropy against s. Equation and padding are those of the authors' code.

    Args, Returns, Raises: as :func:`label_smoothing`.
    """
    _refuse_regions("SVLS", regions)
    check_target(logits, target, ignore_label, regions)
    z = at_least_float32(logits)
    label, valid = label_and_valid(target, ignore_label)
    shares = _shares_of_classes(label, valid, z, _svls_filter)
    # Exactly 0 where all neighbours have one label, however large the logits are.
    return mean_over(valid[:, 0], (shares * (z.gather(1, label) - z)).sum(1))


def mbls(
    logits: Tensor,
    target: Tensor,
    *,
    margin: float = 10.0,
    ignore_label: int | None = None,
    regions: bool = False,
) -> Tensor:
    r"""How far logits lie below the largest one, beyond a margin m (MbLS, Liu et al. 2022).

    .. math:: \frac{1}{N K} \sum_i \sum_k \max(0, \max_j z_{ij} - z_{ik} - m)

    Over all N valid voxels. The paper writes the sum over classes, its code takes their mean, with
    which its weight of 0.1 was chosen; so does this function. With regions, each pair of voxel and
    region has the two logits 0 and z, which gives max(0, abs(z) - m) / 2.

    Args:
        logits, target, ignore_label, regions: as in :func:`nnunet_meep.losses.meep_entropy`. Of
            the labels, only whether they are ignored matters.
        margin: m, >= 0, in units of the logits.

    Returns:
        Scalar >= 0, at least float32; 0 if every voxel is ignored.

    Raises:
        ValueError: as :func:`nnunet_meep.losses.meep_entropy`, or ``margin`` is negative or NaN.
    """
    if not margin >= 0:
        raise ValueError(f"margin: expected a number >= 0, got {margin}")
    check_target(logits, target, ignore_label, regions)
    z = at_least_float32(logits)
    if regions:
        _, valid = inside_and_valid(target, z.shape[1], ignore_label)
        return mean_over(valid, F.relu(z.abs() - margin) / 2)
    _, valid = label_and_valid(target, ignore_label)
    return mean_over(valid[:, 0], F.relu(z.amax(1, keepdim=True) - z - margin).mean(1))


def nacl(
    logits: Tensor, target: Tensor, *, ignore_label: int | None = None, regions: bool = False
) -> Tensor:
    r"""Distance of the logits from the neighbours' label shares (NACL, Murugesan et al. 2023).

    .. math:: \frac{1}{N K} \sum_i \sum_k |\bar y_{ik} - z_{ik}|

    Over all N valid voxels; ybar is the share of each class in the 3^d neighbourhood, the voxel
    included. The logits themselves are compared, not probabilities. The paper writes the sum over
    classes; its code and MONAI's take the mean, as here. At the border of a patch, the authors'
    code counts what lies outside as background, and MONAI as no class, so that the shares sum to
    less than 1; here the outermost voxels are repeated, as in :func:`svls`.

    With regions, each pair of voxel and region has one logit instead of two. It is compared with
    the difference of the two shares, inside minus outside: abs(2 ybar - 1 - z). Exchanging inside
    and outside then changes nothing, as with two classes.

    Args, Raises: as :func:`nnunet_meep.losses.meep_entropy`.

    Returns:
        Scalar >= 0, at least float32; 0 if every voxel is ignored.
    """
    check_target(logits, target, ignore_label, regions)
    z = at_least_float32(logits)
    if regions:
        inside, valid = inside_and_valid(target, z.shape[1], ignore_label)
        share = _share(inside, valid, z.dtype, _box_filter)
        return mean_over(valid, (2 * share - 1 - z).abs())
    label, valid = label_and_valid(target, ignore_label)
    shares = _shares_of_classes(label, valid, z, _box_filter)
    return mean_over(valid[:, 0], (shares - z).abs().mean(1))


def _refuse_regions(name: str, regions: bool) -> None:
    if regions:
        raise ValueError(
            f"regions: {name} needs classes that exclude each other, because it spreads a label "
            "over them; got overlapping regions"
        )


_Filter = Callable[[Tensor], Tensor]


@torch.no_grad()
def _shares_of_classes(label: Tensor, valid: Tensor, like: Tensor, filtered: _Filter) -> Tensor:
    """:func:`_share` of each class; of the shape and dtype of the logits ``like``."""
    shares = torch.empty_like(like)
    for k in range(like.shape[1]):  # one by one, because a filter needs several copies
        shares[:, k : k + 1] = _share(label == k, valid, like.dtype, filtered)
    return shares


@torch.no_grad()
def _share(mask: Tensor, valid: Tensor, dtype: torch.dtype, filtered: _Filter) -> Tensor:
    """The weight of ``mask`` among the neighbours that are not ignored, in [0, 1].

    0 where all of them are ignored.
    """
    of_all = filtered(valid.to(dtype)).clamp_(min=torch.finfo(dtype).tiny)
    return filtered((mask & valid).to(dtype)) / of_all


def _box_filter(x: Tensor) -> Tensor:
    """The sum of 3^d voxels around each, up to a factor their mean."""
    return _sum_with_neighbours(x, 1.0)


def _svls_filter(x: Tensor) -> Tensor:
    """SVLS's filter up to a factor, which cancels in :func:`_share`."""
    side = math.exp(-0.5)  # a Gaussian with sigma 1, at a distance of 1
    gaussian = _sum_with_neighbours(x, side)  # its centre weight is 1
    others = (1 + 2 * side) ** (x.ndim - 2) - 1
    return gaussian.add_(x, alpha=others - 1)


def _sum_with_neighbours(x: Tensor, side: float) -> Tensor:
    """Along each spatial axis in turn, a voxel plus ``side`` times both neighbours.

    Not a convolution, which autocast would compute in half precision.

    Args:
        x: (B, C, *spatial); beyond its border, the outermost voxels are repeated.
    """
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        before = torch.cat((x.narrow(axis, 0, 1), x.narrow(axis, 0, n - 1)), axis)
        after = torch.cat((x.narrow(axis, 1, n - 1), x.narrow(axis, n - 1, 1)), axis)
        x = x.add(before.add_(after), alpha=side)
    return x
