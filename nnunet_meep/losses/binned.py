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

    .. math:: \frac{d |g_b|}{d p_i} = \frac{s_b}{n_b}
        \left( w_{ib} + (p_i - y_i - g_b) \frac{d w_{ib}}{d p_i} \right)

    so that a single number for each voxel is kept for the backward pass.
    """
    with torch.no_grad():
        gap = torch.where(valid, p - y.to(p.dtype), 0)
        index, weight, slope = (_soft_bins if soft else _hard_bins)(p)
        n, total = (_bin_sums(index, weight * x) for x in (valid, gap))
        filled = n >= EMPTY
        n_filled = filled.sum().clamp(min=1)
        mean_gap = torch.where(filled, total / n, 0)
        value = (mean_gap.abs().sum() / n_filled).to(p.dtype)
        share = torch.where(filled, mean_gap.sign() / n / n_filled, 0).to(p.dtype)
        change = weight + slope * (gap - mean_gap.to(p.dtype)[index])
        gradient = torch.where(valid, (share[index] * change).sum(0), 0)
    return value + (gradient * (p - p.detach())).sum()


def _hard_bins(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The bin of each p, its weight 1, and the derivative of that, each (1, n)."""
    edges = torch.linspace(0, 1, N_BINS + 1, dtype=p.dtype, device=p.device)[1:-1]
    one = torch.ones_like(p)[None]
    return torch.bucketize(p, edges)[None], one, torch.zeros_like(one)


def _soft_bins(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two bins of each p, their weights, and the derivatives of these by p, each (2, n)."""
    position = p * N_BINS - 0.5  # in units of bins, from the first centre
    between = (position > 0) & (position < N_BINS - 1)
    position = position.clamp(0, N_BINS - 1)
    index = position.long().clamp(0, N_BINS - 2)  # a NaN stays in the weights
    of_right, slope = position - index, N_BINS * between.to(p.dtype)
    return (
        torch.stack((index, index + 1)),
        torch.stack((1 - of_right, of_right)),
        torch.stack((-slope, slope)),
    )


def _bin_sums(index: Tensor, values: Tensor) -> Tensor:
    """The sum of the values in each bin, (N_BINS,), in float64 where there is float64."""
    if values.device.type != "mps":
        values = values.double()
    return torch.bincount(index.flatten(), values.flatten(), minlength=N_BINS)
