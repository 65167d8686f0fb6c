"""A segmentation loss plus lambda times one of the terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from nnunet_meep.losses.terms import confidence_penalty, meep_entropy, meep_kl
from nnunet_meep.losses.voxels import check_target

#: term: (function, sign with which it enters a loss that is minimised). Entropy is maximised,
#: the divergence from uniform minimised: all of them push towards uniform probabilities.
TERMS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "MEEP_KL": (meep_kl, +1),
    "MEEP_H": (meep_entropy, -1),
    "CP": (confidence_penalty, -1),
}


class LossParts(NamedTuple):
    """What a loss was made of, detached.

    Attributes:
        segmentation: the segmentation loss, ().
        term: the term without its weight, ().
        errors: of this rank, (3,): voxels (with regions, pairs of voxel and region) that count, the
            misclassified ones, and the sum of their entropy in nats; None where the loss does not
            have them.
    """

    segmentation: Tensor
    term: Tensor
    errors: Tensor | None = None


class RegularizedLoss(nn.Module):
    r"""``segmentation_loss(logits, target) +- weight * term(logits, target)``.

    The global objective of the MEEP paper, with the sign that pushes towards uniform
    probabilities: plus for ``MEEP_KL``, minus for ``MEEP_H`` and ``CP``. It is what goes inside
    nnU-Net's ``DeepSupervisionWrapper``, so the term is applied at each scale.

    Args:
        segmentation_loss: nnU-Net's loss, called with ``(logits, target)``. Where every voxel is
            ignored nnU-Net's may return a plain Python 0: that becomes a zero with a graph.
        term: a key of :data:`TERMS`, or None for the segmentation loss alone.
        weight: lambda of the paper, >= 0.
        ignore_label, regions: as in :mod:`nnunet_meep.losses.voxels`.

    Attributes:
        parts: the :class:`LossParts` of the last call, None before it and without a term.

        how: which code computes it, in words for a log.

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
        self.parts: LossParts | None = None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        # Before the segmentation loss, whose own error would not name the label.
        check_target(logits, target, self.ignore_label, self.regions)
        loss = self.segmentation_loss(logits, target)
        if not isinstance(loss, Tensor):
            # nnU-Net's cross-entropy has nothing to say where all is ignored; backward() needs
            # a tensor that hangs on the network. The sum of no element is that, even for inf.
            loss = logits.flatten()[:0].sum() + loss
        if self.term is None:
            return loss
        function, sign = TERMS[self.term]
        value = function(logits, target, ignore_label=self.ignore_label, regions=self.regions)
        self.parts = LossParts(loss.detach(), value.detach())
        return loss + sign * self.weight * value

    def extra_repr(self) -> str:
        names = ("term", "weight", "ignore_label", "regions")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
