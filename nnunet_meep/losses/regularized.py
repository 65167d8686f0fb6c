"""A segmentation loss plus lambda times one of the regularisation terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from nnunet_meep.losses.binned import ml1_ace
from nnunet_meep.losses.smoothed import label_smoothing, mbls, nacl, svls
from nnunet_meep.losses.terms import confidence_penalty, meep_entropy, meep_kl
from nnunet_meep.losses.voxels import check_target

#: {term: (function, its sign in the loss)}. Entropy is maximised, everything else is minimised.
#: Of the MEEP terms and CP, all push towards uniform probabilities.
TERMS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "MEEP_KL": (meep_kl, +1),
    "MEEP_H": (meep_entropy, -1),
    "CP": (confidence_penalty, -1),
    "LS": (label_smoothing, +1),
    "SVLS": (svls, +1),
    "MbLS": (mbls, +1),
    "NACL": (nacl, +1),
    "mL1ACE": (ml1_ace, +1),
    "mL1ACEsoft": (partial(ml1_ace, soft=True), +1),
}


class LossParts(NamedTuple):
    """The parts of a loss value, detached from the graph.

    Attributes:
        segmentation: the segmentation loss, ().
        term: the term without its weight, ().
        errors: three numbers of this rank, (3,): how many voxels (with regions: pairs of voxel and
            region) are not ignored, how many of them are misclassified, and the summed entropy of
            the misclassified ones in nats. None if the loss does not compute them.
    """

    segmentation: Tensor
    term: Tensor
    errors: Tensor | None = None


class RegularizedLoss(nn.Module):
    r"""``segmentation_loss(logits, target) +- weight * term(logits, target)``.

    The global objective of the MEEP paper, with the sign that pushes towards uniform
    probabilities: minus for ``MEEP_H`` and ``CP``, plus for all others. ``LS`` and ``SVLS`` need a
    cross-entropy in the segmentation loss, see :mod:`nnunet_meep.losses.smoothed`. nnU-Net's
    ``DeepSupervisionWrapper`` wraps this loss, so the term is applied at each scale.

    Args:
        segmentation_loss: nnU-Net's loss, called with ``(logits, target)``. If every voxel is
            ignored it may return a plain Python 0, which is turned into a differentiable zero.
        term: a key of :data:`TERMS`, or None for the segmentation loss alone.
        weight: lambda of the paper, >= 0.
        ignore_label, regions: as in :mod:`nnunet_meep.losses.voxels`; for the term alone, as the
            segmentation loss has settings of its own.
        options: further arguments of the term's function by their names, such as ``margin``.

    Attributes:
        parts: the :class:`LossParts` of the last call; None before the first call, or without a
            term.
        how: a phrase for the training log that names the implementation.

    Raises:
        ValueError: an unknown term, a negative weight, or a weight without a term; in a call,
            ``logits`` and ``target`` that do not fit together, see ``meep_entropy``.

    Shape: ``logits`` and ``target`` as in :mod:`nnunet_meep.losses.voxels`; returns a scalar.
    """

    how = "the segmentation loss, and the term computed beside it"

    def __init__(
        self,
        segmentation_loss: nn.Module,
        term: str | None = None,
        weight: float = 0.0,
        *,
        ignore_label: int | None = None,
        regions: bool = False,
        options: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if term is not None and term not in TERMS:
            raise ValueError(f"term: expected one of {', '.join(TERMS)}, got {term!r}")
        if not weight >= 0 or (term is None and weight):
            raise ValueError(f"weight: expected a number >= 0 (0 without a term), got {weight}")
        self.segmentation_loss = segmentation_loss
        self.term = term
        self.weight = weight
        self.ignore_label = ignore_label
        self.regions = regions
        self.options = dict(options or {})
        self.parts: LossParts | None = None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        # Checked before the segmentation loss, whose own error would not name the wrong label.
        check_target(logits, target, self.ignore_label, self.regions)
        loss: Tensor | float = self.segmentation_loss(logits, target)
        if not isinstance(loss, Tensor):
            # nnU-Net's loss may be a Python 0 where every voxel is ignored, but backward() needs a
            # tensor connected to the network. A sum of no elements is 0 even if logits are inf.
            loss = logits.flatten()[:0].sum() + loss
        if self.term is None:
            return loss
        function, sign = TERMS[self.term]
        labels = {"ignore_label": self.ignore_label, "regions": self.regions}
        value = function(logits, target, **labels, **self.options)
        self.parts = LossParts(loss.detach(), value.detach())
        return loss + sign * self.weight * value

    def extra_repr(self) -> str:
        names = ("term", "weight", "ignore_label", "regions")
        values = {name: getattr(self, name) for name in names} | self.options
        return ", ".join(f"{name}={value}" for name, value in values.items())
