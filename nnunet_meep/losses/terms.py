"""The regularisation terms as the equations say them: logits and a target in, a scalar out.

Every term takes the input of nnU-Net's own losses:

- labels (``regions=False``): ``logits`` of shape (B, K, *spatial) and a label map ``target`` of
  shape (B, 1, *spatial) with values 0..K-1, or ``ignore_label``;
- regions (``regions=True``): ``logits`` of shape (B, R, *spatial) and a one-hot ``target`` of
  shape (B, R, *spatial), or (B, R + 1, *spatial) with the ignore mask (1 = ignored) as its last
  channel if ``ignore_label`` is not None. Each (voxel, region) pair is a binary problem, K = 2.

A voxel is misclassified if the first of its largest logits is not the label (for regions: if
``logit > 0`` is not the target). Ignored voxels are in no sum and in no count.

The probabilities come from a log-softmax (or log-sigmoid) in at least float32, whatever the
autocast dtype, so the values and gradients are finite for every logit that float16 can hold (and
up to 1e37 in bfloat16 and float32). Sums and counts run over the whole batch and, where
``torch.distributed`` is initialised, over all ranks: every rank has to call the term, also one
without a misclassified voxel.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def meep_entropy(
    logits: Tensor, target: Tensor, *, ignore_label: int | None = None, regions: bool = False
) -> Tensor:
    r"""Mean entropy of the misclassified voxels W (MEEP paper, Eq. 1).

    .. math:: H_w = -\frac{1}{|W|} \sum_{i \in W} \sum_k p_{ik} \log p_{ik}

    It is to be maximised: ``loss = segmentation_loss - lambda * meep_entropy(...)``.

    Args:
        logits: (B, K, *spatial), float16, bfloat16, float32 or float64.
        target: label map (B, 1, *spatial), or one-hot regions, see the module's docstring.
        ignore_label: the label whose voxels count nowhere; with ``regions`` any value but None
            says that the last channel of ``target`` is the ignore mask.
        regions: sigmoid outputs of nnU-Net's region-based training.

    Returns:
        Scalar in [0, log K] nats, at least float32; exactly 0 with a zero gradient if no voxel
        is misclassified.

    Raises:
        ValueError: the shapes of ``logits`` and ``target`` do not fit together.
    """
    log_p, wrong, _ = _voxels(logits, target, ignore_label, regions)
    return _mean_over(wrong, _entropy(log_p))


def meep_kl(
    logits: Tensor, target: Tensor, *, ignore_label: int | None = None, regions: bool = False
) -> Tensor:
    r"""Mean divergence KL(q || p) of the misclassified voxels W from uniform, q = 1/K.

    .. math:: D_w = -\log K - \frac{1}{|W|} \sum_{i \in W} \frac{1}{K} \sum_k \log p_{ik}

    The paper's Eq. 2 is the cross-entropy H(q, p) = D_w + log K, with the same gradient. It is
    to be minimised: ``loss = segmentation_loss + lambda * meep_kl(...)``. (The paper prints one
    sign for both of its terms; its text and its code push errors towards uniform, as here.)

    Args, Raises: as :func:`meep_entropy`.

    Returns:
        Scalar >= 0 in nats (to rounding), at least float32; 0 only at uniform probabilities, or
        exactly, with a zero gradient, if no voxel is misclassified.
    """
    log_p, wrong, _ = _voxels(logits, target, ignore_label, regions)
    n_classes = log_p.shape[1]
    return _mean_over(wrong, -math.log(n_classes) - log_p.mean(1))


def confidence_penalty(
    logits: Tensor, target: Tensor, *, ignore_label: int | None = None, regions: bool = False
) -> Tensor:
    r"""Mean entropy over all N valid voxels, right and wrong (Pereyra et al. 2017).

    .. math:: H_{all} = -\frac{1}{N} \sum_i \sum_k p_{ik} \log p_{ik}

    To be maximised: ``loss = segmentation_loss - lambda * confidence_penalty(...)``.

    Args, Returns, Raises: as :func:`meep_entropy`; 0 if every voxel is ignored.
    """
    log_p, _, valid = _voxels(logits, target, ignore_label, regions)
    return _mean_over(valid, _entropy(log_p))


def _voxels(
    logits: Tensor, target: Tensor, ignore_label: int | None, regions: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (B, K, ...) and the masks `misclassified` and `valid` (B, ...)."""
    _check_shapes(logits, target, ignore_label, regions)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if regions:
        n_regions = logits.shape[1]
        positive = target[:, :n_regions] > 0.5
        if ignore_label is None:
            valid = torch.ones_like(positive)
        else:
            valid = (target[:, n_regions:] <= 0.5).expand_as(positive)
        # K = 2 in front of the region axis: each (voxel, region) pair is a problem of its own.
        log_p = torch.stack((F.logsigmoid(-logits), F.logsigmoid(logits)), 1)
        return log_p, ((logits > 0) != positive) & valid, valid

    label = target.long()
    valid = torch.ones_like(label, dtype=torch.bool)
    if ignore_label is not None:
        valid = label != ignore_label
    label = torch.where(valid, label, 0)
    # argmax takes the first of equal logits, so an earlier class wins a tie against the label.
    # Said in comparisons because argmax over the class axis is slow on CPU.
    of_label = logits.gather(1, label)
    classes = torch.arange(logits.shape[1], device=logits.device)
    earlier = classes.view(1, -1, *(1,) * (logits.ndim - 2)) < label
    wrong = ((logits > of_label) | ((logits == of_label) & earlier)).any(1)
    valid = valid[:, 0]
    return F.log_softmax(logits, 1), wrong & valid, valid


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(1)


def _mean_over(mask: Tensor, values: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask``, over all ranks; 0 where the mask is empty."""
    total = _sum_over_ranks(torch.where(mask, values, 0).sum())
    count = _sum_over_ranks(mask.sum())
    return total / count.clamp(min=1)


def _sum_over_ranks(value: Tensor) -> Tensor:
    """Sum over the ranks of a distributed run, differentiable; the value itself without one."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    # Imported here because only distributed training needs nnU-Net in this room. DDP averages
    # gradients over ranks where AllGatherGrad sums them: together the global mean's gradient.
    from nnunetv2.utilities.ddp_allgather import AllGatherGrad

    return AllGatherGrad.apply(value[None]).sum()


def _check_shapes(logits: Tensor, target: Tensor, ignore_label: int | None, regions: bool) -> None:
    channels = logits.shape[1] + (ignore_label is not None) if regions else 1
    expected = (logits.shape[0], channels, *logits.shape[2:])
    if tuple(target.shape) != expected:
        kind = "one-hot regions" if regions else "label map"
        raise ValueError(
            f"target: expected a {kind} of shape {expected} for logits of shape "
            f"{tuple(logits.shape)}, got {tuple(target.shape)}"
        )
