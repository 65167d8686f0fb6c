"""The input of every loss here, which voxels are misclassified, and means over voxels and ranks.

The input is that of nnU-Net's own losses:

- labels (``regions=False``): ``logits`` of shape (B, K, *spatial) and a label map ``target`` of
  shape (B, 1, *spatial) with values 0..K-1, or ``ignore_label``; any other value is an error;
- regions (``regions=True``): ``logits`` of shape (B, R, *spatial) and a one-hot ``target`` of
  shape (B, R, *spatial), or (B, R + 1, *spatial) with the ignore mask (1 = ignored) as its last
  channel if ``ignore_label`` is not None. Each (voxel, region) pair is a binary problem, K = 2.

The predicted class is that of the largest logit, the first one if several are equal (for regions:
inside if ``logit > 0``). A voxel is misclassified if that is not its label. Ignored voxels are left
out of all sums and counts.

The probabilities come from a log-softmax (or log-sigmoid) in at least float32, whatever the
autocast dtype, so the values and gradients are finite for every finite logit that float16 can hold.
A NaN among the logits gives NaN. Sums and counts run over
the whole batch and, if ``torch.distributed`` is initialised, over all ranks. Every rank must then
call the loss, even if it has no misclassified voxel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

#: {dtype of a label map: dtype to compare it in}. Torch compares 8-bit integers with a larger
#: number modulo 256, and cannot take the minimum of the wider unsigned integers.
_COMPARED_AS = {
    **dict.fromkeys((torch.bool, torch.uint8, torch.int8), torch.int16),
    **dict.fromkeys((torch.uint16, torch.uint32, torch.uint64), torch.int64),
}


class Voxels(NamedTuple):
    """One classification problem per voxel, or per pair of voxel and region.

    ``...`` stands for ``*spatial`` with labels and for ``R, *spatial`` with regions.

    Attributes:
        log_p: log-probabilities of the K classes, (B, K, ...), at least float32. With regions,
            class 0 is outside the region and class 1 inside.
        label: the correct class, (B, ...), int64; 0 where ignored.
        wrong: mask of misclassified voxels that are not ignored, (B, ...), bool.
        valid: mask of voxels that are not ignored, (B, ...), bool.
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
    logits = at_least_float32(logits)
    if regions:
        inside, valid = inside_and_valid(target, logits.shape[1], ignore_label)
        # The class axis (K = 2) comes before the region axis: each (voxel, region) pair is a binary
        # problem.
        log_p = torch.stack((F.logsigmoid(-logits), F.logsigmoid(logits)), 1)
        return Voxels(log_p, (inside & valid).long(), ((logits > 0) != inside) & valid, valid)

    label, valid = label_and_valid(target, ignore_label)
    # The same as argmax, which takes the first of equal logits, so that an earlier class wins a tie
    # against the label. Comparisons, because argmax over the class axis is slow on a CPU.
    of_label = logits.gather(1, label)
    classes = torch.arange(logits.shape[1], device=logits.device)
    earlier = classes.view(1, -1, *(1,) * (logits.ndim - 2)) < label
    wrong = ((logits > of_label) | ((logits == of_label) & earlier)).any(1)
    valid = valid[:, 0]
    return Voxels(F.log_softmax(logits, 1), label[:, 0], wrong & valid, valid)


def at_least_float32(logits: Tensor) -> Tensor:
    """``logits`` in float32, or in float64 if that is what they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def label_and_valid(target: Tensor, ignore_label: int | None) -> tuple[Tensor, Tensor]:
    """The labels of a label map, int64, 0 where ignored; and which are not ignored, bool.

    Both (B, 1, *spatial).
    """
    label = target.long()
    valid = torch.ones_like(label, dtype=torch.bool)
    if ignore_label is not None:
        valid = label != ignore_label
    return torch.where(valid, label, 0), valid


def inside_and_valid(
    target: Tensor, n_regions: int, ignore_label: int | None
) -> tuple[Tensor, Tensor]:
    """What is inside each of the one-hot regions, and what is not ignored, bool.

    Both (B, R, *spatial).
    """
    inside = target[:, :n_regions] > 0.5
    if ignore_label is None:
        return inside, torch.ones_like(inside)
    return inside, (target[:, n_regions:] <= 0.5).expand_as(inside)


def each_class(
    logits: Tensor, target: Tensor, ignore_label: int | None, regions: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Each class, or region, against everything else, with C the number of classes or regions.

    Returns:
        Log-probabilities, at least float32; what has the label or is inside the region, bool; what
        is not ignored, bool; all (B, C, *spatial).

    Raises:
        ValueError: ``logits`` and ``target`` do not fit together, see :func:`check_target`.
    """
    check_target(logits, target, ignore_label, regions)
    logits = at_least_float32(logits)
    n_channels = logits.shape[1]
    if regions:
        return F.logsigmoid(logits), *inside_and_valid(target, n_channels, ignore_label)
    label, valid = label_and_valid(target, ignore_label)
    classes = torch.arange(n_channels, device=logits.device)
    has_label = label == classes.view(1, -1, *(1,) * (logits.ndim - 2))
    return F.log_softmax(logits, 1), has_label, valid.expand_as(has_label)


def entropy(log_p: Tensor) -> Tensor:
    """Entropy of the probabilities along axis 1 in nats; from (B, K, ...) to (B, ...)."""
    # 0 log 0 is 0, and not 0 * -inf.
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(1)


def mean_over(mask: Tensor, values: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` is True, over all ranks; 0 if it is True nowhere.

    NaN if one of ``values`` is NaN, wherever it is: its gradient would be NaN in any case.
    """
    total = sum_over_ranks(torch.where(mask | values.isnan(), values, 0).sum())
    count = sum_over_ranks(mask.sum())
    return total / count.clamp(min=1)


def sum_over_ranks(value: Tensor) -> Tensor:
    """Differentiable sum over all ranks; ``value`` itself if the training is not distributed."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    # Imported here because nothing else in this folder needs nnU-Net. AllGatherGrad sums the
    # gradients over ranks and DDP averages them, which together gives that of the global mean.
    from nnunetv2.utilities.ddp_allgather import AllGatherGrad

    of_ranks: Tensor = AllGatherGrad.apply(value[None])
    return of_ranks.sum((0, 1))


def check_target(logits: Tensor, target: Tensor, ignore_label: int | None, regions: bool) -> None:
    """:func:`check_shapes`, then :func:`check_labels`; every loss here calls this first.

    The target of regions has no labels: a value above 0.5 means inside, and any value is accepted.

    Raises:
        TypeError: they are lists, of several resolutions.
        ValueError: ``logits`` and ``target`` do not fit together.
    """
    if isinstance(logits, list | tuple):
        raise TypeError(
            "logits: expected a tensor, got a list; call the loss for each resolution, or wrap it "
            "in nnU-Net's DeepSupervisionWrapper"
        )
    check_shapes(logits, target, ignore_label, regions)
    if not regions:
        check_labels(target, logits.shape[1], ignore_label)


def check_shapes(logits: Tensor, target: Tensor, ignore_label: int | None, regions: bool) -> None:
    """Raise ValueError if ``logits`` and ``target`` do not fit together."""
    channels = logits.shape[1] + (ignore_label is not None) if regions else 1
    expected = (logits.shape[0], channels, *logits.shape[2:])
    if tuple(target.shape) != expected:
        kind = "one-hot regions" if regions else "label map"
        raise ValueError(
            f"target: expected a {kind} of shape {expected} for logits of shape "
            f"{tuple(logits.shape)}, got {tuple(target.shape)}"
        )


def check_labels(target: Tensor, n_classes: int, ignore_label: int | None) -> None:
    """Refuse a label that is neither one of the classes nor the ignore label.

    Exact for every dtype: a float target with NaN, an infinity or a fraction is refused, too. The
    check reads only the target, once or twice; its time is below the variation of the loss's own.
    On a GPU it does not wait for the result: as in torch's own cross-entropy, a device-side
    assertion fails later, after which the process can no longer use the GPU.

    Args:
        target: label map of any shape; integers, floats or bool.
        n_classes: K; the classes are 0..K-1.
        ignore_label: a label that is allowed besides the classes, or None.

    Raises:
        ValueError: ``target`` has another label; the message names one of them.
    """
    if not target.numel():
        return
    labels = target.to(_COMPARED_AS.get(target.dtype, target.dtype))
    largest = n_classes - 1
    if ignore_label == n_classes:  # always so in nnU-Net: all allowed labels are 0..K
        largest = n_classes
    elif ignore_label is not None:
        # Set ignored voxels to background. With numbers this is faster than with booleans.
        kept = torch.ne(labels, ignore_label, out=torch.empty_like(labels))
        labels = kept.mul_(labels)
    numbers: list[Any] = [*torch.aminmax(labels)]
    if labels.is_floating_point():
        numbers.append(labels.frac().amax())
    if not target.is_cuda:  # each torch operation on one number would outlast the minimum itself
        numbers = [x.item() for x in numbers]
    lowest, highest, *fraction = numbers
    fits = (lowest >= 0) & (highest <= largest)  # False with NaN: then lowest and highest are NaN
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
