"""The regularisation terms, written as in the equations: from logits and target to a scalar.

:mod:`nnunet_meep.losses.voxels` defines ``logits``, ``target`` and which voxels are misclassified.
"""

from __future__ import annotations

import math

from torch import Tensor

from nnunet_meep.losses.voxels import entropy, mean_over, voxels


def meep_entropy(
    logits: Tensor, target: Tensor, *, ignore_label: int | None = None, regions: bool = False
) -> Tensor:
    r"""Mean entropy of the misclassified voxels W (MEEP paper, Eq. 1).

    .. math:: H_w = -\frac{1}{|W|} \sum_{i \in W} \sum_k p_{ik} \log(p_{ik})

    To be maximised: ``loss = segmentation_loss - lambda * meep_entropy(...)``.

    Args:
        logits: (B, K, *spatial), float16, bfloat16, float32 or float64.
        target: label map (B, 1, *spatial), or one-hot regions; see
            :mod:`nnunet_meep.losses.voxels`.
        ignore_label: voxels with this label are left out. With ``regions``, any value but None
            means that the last channel of ``target`` is the ignore mask.
        regions: True for nnU-Net's region-based training (one sigmoid per region).

    Returns:
        Scalar in [0, log K] nats, at least float32; exactly 0 with a zero gradient if no voxel
        is misclassified.

    Raises:
        ValueError: the shapes of ``logits`` and ``target`` do not fit together, or ``target``
            has a label that is neither a class nor the ignore label. (On a GPU such a label
            triggers a device-side assertion instead, so that the CPU need not wait for the GPU.)
    """
    log_p, _, wrong, _ = voxels(logits, target, ignore_label=ignore_label, regions=regions)
    return mean_over(wrong, entropy(log_p))


def meep_kl(
    logits: Tensor, target: Tensor, *, ignore_label: int | None = None, regions: bool = False
) -> Tensor:
    r"""Mean divergence KL(q || p) of the misclassified voxels W from uniform, q = 1/K.

    .. math:: D_w = -\log(K) - \frac{1}{|W|} \sum_{i \in W} \frac{1}{K} \sum_k \log(p_{ik})

    The paper's Eq. 2 is the cross-entropy H(q, p) = D_w + log K, which has the same gradient. To
    be minimised: ``loss = segmentation_loss + lambda * meep_kl(...)``. (The paper prints the same
    sign for both terms, but its text and its code push errors towards uniform, as we do here.)

    Args, Raises: as :func:`meep_entropy`.

    Returns:
        Scalar >= 0 in nats (up to rounding), at least float32; 0 only if all misclassified voxels
        have uniform probabilities. Exactly 0 with a zero gradient if no voxel is misclassified.
    """
    log_p, _, wrong, _ = voxels(logits, target, ignore_label=ignore_label, regions=regions)
    n_classes = log_p.shape[1]
    return mean_over(wrong, -math.log(n_classes) - log_p.mean(1))


def confidence_penalty(
    logits: Tensor, target: Tensor, *, ignore_label: int | None = None, regions: bool = False
) -> Tensor:
    r"""Mean entropy over all N valid voxels, correct or not (Pereyra et al. 2017).

    .. math:: H_{all} = -\frac{1}{N} \sum_i \sum_k p_{ik} \log(p_{ik})

    To be maximised: ``loss = segmentation_loss - lambda * confidence_penalty(...)``.

    Args, Returns, Raises: as :func:`meep_entropy`; 0 if every voxel is ignored.
    """
    log_p, _, _, valid = voxels(logits, target, ignore_label=ignore_label, regions=regions)
    return mean_over(valid, entropy(log_p))
