"""What every loss here reads from logits and a target, and what it does with the values of voxels.

The input is that of nnU-Net's own losses:

- labels (``regions=False``): ``logits`` of shape (B, K, *spatial) and a label map ``target`` of
  shape (B, 1, *spatial) with values 0..K-1, or ``ignore_label``; any other value is an error;
- regions (``regions=True``): ``logits`` of shape (B, R, *spatial) and a one-hot ``target`` of
  shape (B, R, *spatial), or (B, R + 1, *spatial) with the ignore mask (1 = ignored) as its last
  channel if ``ignore_label`` is not None. Each (voxel, region) pair is a binary problem, K = 2.

A voxel is misclassified if the first of its largest logits is not the label (for regions: if
``logit > 0`` is not the target). Ignored voxels are in no sum and in no count.

The probabilities come from a log-softmax (or log-sigmoid) in at least float32, whatever the
autocast dtype, so the values and gradients are finite for every logit that float16 can hold (and
up to 1e37 in bfloat16 and float32). Sums and counts run over the whole batch and, where
``torch.distributed`` is initialised, over all ranks: every rank has to call the loss, also one
without a misclassified voxel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

#: What labels are compared as: torch compares 8 bits with a larger number modulo 256, and has no
#: minimum of the other unsigned integers.
_COMPARED_AS = {
    **dict.fromkeys((torch.bool, torch.uint8, torch.int8), torch.int16),
    **dict.fromkeys((torch.uint16, torch.uint32, torch.uint64), torch.int64),
}


class Voxels(NamedTuple):
    """One classification problem per voxel, or per pair of voxel and region.

    ``...`` stands for ``*spatial`` with labels and for ``R, *spatial`` with regions.

    Attributes:
        log_p: log-probabilities of the K classes, (B, K, ...), at least float32. With regions
            class 0 is outside and class 1 inside.
        label: the right class, (B, ...), int64; 0 where it is ignored.
        wrong: misclassified and not ignored, (B, ...), bool.
        valid: not ignored, (B, ...), bool.
    """

    log_p: Tensor
    label: Tensor
    wrong: Tensor
    valid: Tensor


def voxels(
    logits: Tensor, target: Tensor, *, ignore_label: int | None = None, regions: bool = False
) -> Voxels:
    """The classification problems of a batch; see the module's docstring for the input.

    Raises:
        ValueError: ``logits`` and ``target`` do not fit together, see :func:`check_target`.
    """
    check_target(logits, target, ignore_label, regions)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if regions:
        n_regions = logits.shape[1]
        inside = target[:, :n_regions] > 0.5
        if ignore_label is None:
            valid = torch.ones_like(inside)
        else:
            valid = (target[:, n_regions:] <= 0.5).expand_as(inside)
        # K = 2 in front of the region axis: each (voxel, region) pair is a problem of its own.
        log_p = torch.stack((F.logsigmoid(-logits), F.logsigmoid(logits)), 1)
        return Voxels(log_p, (inside & valid).long(), ((logits > 0) != inside) & valid, valid)

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
    return Voxels(F.log_softmax(logits, 1), label[:, 0], wrong & valid, valid)


def entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats of the probabilities along axis 1, (B, K, ...) to (B, ...)."""
    return -(log_p.exp() * log_p).sum(1)


def mean_over(mask: Tensor, values: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask``, over all ranks; 0 where the mask is empty."""
    total = sum_over_ranks(torch.where(mask, values, 0).sum())
    count = sum_over_ranks(mask.sum())
    return total / count.clamp(min=1)


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum over the ranks of a distributed run, differentiable; the value itself without one."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    # Imported here because only distributed training needs nnU-Net in this room. DDP averages
    # gradients over ranks where AllGatherGrad sums them: together the global mean's gradient.
    from nnunetv2.utilities.ddp_allgather import AllGatherGrad

    return AllGatherGrad.apply(value[None]).sum((0, 1))


def check_target(logits: Tensor, target: Tensor, ignore_label: int | None, regions: bool) -> None:
    """Every loss here begins with this: :func:`check_shapes`, then :func:`check_labels`.

    Regions have no labels: what is above 0.5 in their target is inside, and no value is refused.

    Raises:
        ValueError: ``logits`` and ``target`` do not fit together.
    """
    check_shapes(logits, target, ignore_label, regions)
    if not regions:
        check_labels(target, logits.shape[1], ignore_label)


def check_shapes(logits: Tensor, target: Tensor, ignore_label: int | None, regions: bool) -> None:
    """Raises ValueError if ``logits`` and ``target`` do not fit together."""
    channels = logits.shape[1] + (ignore_label is not None) if regions else 1
    expected = (logits.shape[0], channels, *logits.shape[2:])
    if tuple(target.shape) != expected:
        kind = "one-hot regions" if regions else "label map"
        raise ValueError(
            f"target: expected a {kind} of shape {expected} for logits of shape "
            f"{tuple(logits.shape)}, got {tuple(target.shape)}"
        )


def check_labels(target: Tensor, n_classes: int, ignore_label: int | None) -> None:
    """Refuses a label that is neither one of the classes nor the ignore label.

    Exact for every dtype: a float target with NaN, an infinity or a fraction is refused as well.
    It reads the target once or twice and the logits never, which takes less than the loss varies
    from call to call. A GPU is not waited for: there the assertion fails when the GPU comes to it,
    as that of torch's own cross-entropy does, and the process cannot use the GPU any more.

    Args:
        target: label map of any shape, of integers, floats or bool.
        n_classes: K; the classes are 0..K-1.
        ignore_label: the label that may be there beside them.

    Raises:
        ValueError: there is another label; the message names one of them.
    """
    if not target.numel():
        return
    labels = target.to(_COMPARED_AS.get(target.dtype, target.dtype))
    largest = n_classes - 1
    if ignore_label == n_classes:  # nnU-Net's: the allowed labels are without a gap
        largest = n_classes
    elif ignore_label is not None:
        # Ignored voxels become background; in numbers this is faster than with truth values.
        kept = torch.ne(labels, ignore_label, out=torch.empty_like(labels))
        labels = kept.mul_(labels)
    numbers: list[Any] = [*torch.aminmax(labels)]
    if labels.is_floating_point():
        numbers.append(labels.frac().amax())
    if not target.is_cuda:  # operations on one number take longer to start than the minimum takes
        numbers = [x.item() for x in numbers]
    lowest, highest, *fraction = numbers
    fits = (lowest >= 0) & (highest <= largest)  # false for NaN, which is both of them
    if fraction:
        fits = fits & (fraction[0] == 0)
    if target.is_cuda:
        torch._assert_async(fits, _expected(n_classes, ignore_label))
    elif not fits:
        whole = labels.double() % 1 == 0
        outside = labels[~(whole & (labels >= 0) & (labels <= largest))]
        raise ValueError(f"{_expected(n_classes, ignore_label)}, got {outside[0].item()}")


def _expected(n_classes: int, ignore_label: int | None) -> str:
    ignored = "" if ignore_label is None else f" (or the ignore label {ignore_label})"
    return f"target: expected labels 0 to {n_classes - 1}{ignored}"
