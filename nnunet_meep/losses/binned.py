"""mL1-ACE, the calibration error itself as a term of the loss (Barfoot et al., MICCAI 2024).

A rival of MEEP. :mod:`nnunet_meep.losses.voxels` defines the input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_meep.losses.voxels import each_class, mean_over

#: As published.
N_BINS = 20
#: A soft bin is empty below this weight, as in the authors' code; a hard one without a voxel.
EMPTY = 0.01


def ml1_ace(
    logits: Tensor,
    target: Tensor,
    *,
    soft: bool = False,
    ignore_label: int | None = None,
    regions: bool = False,
) -> Tensor:
    r"""Marginal L1 average calibration error: of each image and class, then their mean.

    .. math:: \frac{1}{|B|} \sum_{b \in B}
        \left| \frac{\sum_i w_{ib} (p_i - y_i)}{\sum_i w_{ib}} \right|

    p is the probability of the class, y is 1 where it is the label and else 0, B are the bins of
    [0, 1] that are not empty, of :data:`N_BINS` of equal width. Background is a class as any other.

    - hard bins: w is 1 if p lies in (l, u] of the bin, the first one with 0. (The docstring in the
      authors' code says [l, u), but its call of ``bucketize`` gives (l, u], with which they
      trained.) The gradient flows through p alone;
    - soft bins (the journal version): p is shared linearly between the two nearest bin centres;
      beyond the first and the last centre that bin has it all. The gradient flows through w, too.

    A class that an image does not contain counts like any other, as in the code of the MICCAI
    paper; the later code of the journal version sets its error to 0. With regions, each region is a
    class with the sigmoid of its logit.

    Images that are ignored altogether are left out of the mean, which is over all ranks.

    Args:
        logits, target, ignore_label, regions: as in :func:`nnunet_meep.losses.meep_entropy`.
        soft: with soft bins.

    Returns:
        Scalar in [0, 1], at least float32; 0 if every voxel is ignored.

    Raises:
        ValueError: as :func:`nnunet_meep.losses.meep_entropy`.
    """
    log_p, y, valid = each_class(logits, target, ignore_label, regions)
    # One pair of image and class at a time, to need little memory.
    errors = [
        _error(*pair, soft=soft)
        for of_image in zip(log_p.exp(), y, valid, strict=True)
        for pair in zip(*(x.flatten(1) for x in of_image), strict=True)
    ]
    return mean_over(valid.flatten(2).any(2).flatten(), torch.stack(errors))


def _error(p: Tensor, y: Tensor, valid: Tensor, *, soft: bool) -> Tensor:
    r"""The error of one image and class; all arguments (n,), the last two bool.

    The sums over bins need float64, as a bin may have millions of voxels; their gradient does not.
    With the sign s_b, the weight n_b and the mean gap g_b of a bin, it is

    .. math:: d |g_b| = \frac{s_b}{n_b}
        \sum_i \left( w_{ib} d p_i + (p_i - y_i - g_b) d w_{ib} \right)

    which is that of the sum of ``share * weight * (gap - g_b)`` below, whose value is 0.
    """
    gap = torch.where(valid, p - y.to(p.dtype), 0)
    index, weight = (_soft_bins if soft else _hard_bins)(p)
    weight = weight * valid
    with torch.no_grad():
        n, total = _bin_sums(index, weight), _bin_sums(index, weight * gap)
        filled = n >= EMPTY
        n_filled = filled.sum().clamp(min=1)
        mean_gap = torch.where(filled, total / n, 0)
        value = (mean_gap.abs().sum() / n_filled).to(p.dtype)
        share = torch.where(filled, mean_gap.sign() / n / n_filled, 0).to(p.dtype)
        mean_gap = mean_gap.to(p.dtype)
    slope = (share[index] * weight * (gap - mean_gap[index])).sum()
    return value + (slope - slope.detach())


def _hard_bins(p: Tensor) -> tuple[Tensor, Tensor]:
    """The bin of each p, and its weight 1, both (1, n)."""
    edges = torch.linspace(0, 1, N_BINS + 1, dtype=p.dtype, device=p.device)[1:-1]
    return torch.bucketize(p.detach(), edges)[None], torch.ones_like(p)[None]


def _soft_bins(p: Tensor) -> tuple[Tensor, Tensor]:
    """The two bins of each p, and their weights, both (2, n)."""
    position = (p * N_BINS - 0.5).clamp(0, N_BINS - 1)  # in units of bins, from the first centre
    # Of a NaN, too, which stays in the weights.
    index = position.detach().long().clamp(0, N_BINS - 2)
    of_right = position - index
    return torch.stack((index, index + 1)), torch.stack((1 - of_right, of_right))


def _bin_sums(index: Tensor, values: Tensor) -> Tensor:
    """The sum of the values in each bin, (N_BINS,), in float64 where there is float64."""
    if values.device.type != "mps":
        values = values.double()
    return torch.bincount(index.flatten(), values.flatten(), minlength=N_BINS)
