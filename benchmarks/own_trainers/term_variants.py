"""Variants of the MEEP terms, each with the lambda that finds itself (plans/term_variants.toml).

Trainers of one's own, as anybody would write them: a file in a folder of ``nnUNet_extTrainer``.
Each changes the term and nothing else. Lambda starts as for ``MEEP_H`` (0.4) or ``MEEP_KL`` (0.15);
the variants are scaled so that this is about right.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from nnunet_meep.losses import RegularizedLoss, meep_entropy, meep_kl
from nnunet_meep.losses.regularized import LossParts
from nnunet_meep.losses.voxels import mean_over, sum_over_ranks, voxels
from nnunet_meep.trainers import MEEPMixin, parse

LENGTH = "_50epochs_50iters"
#: Without a seed, as the first training of every trainer here.
SEEDS = ("", "_seed1", "_seed2")


class Variant(RegularizedLoss, ABC):
    """The segmentation loss plus lambda times a value that is to be minimised."""

    how = "the segmentation loss, and a variant of the term computed beside it"

    @abstractmethod
    def value(self, logits: Tensor, target: Tensor, **labels: Any) -> Tensor:
        """The variant of the term, ()."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        labels = {"ignore_label": self.ignore_label, "regions": self.regions}
        own = RegularizedLoss(self.segmentation_loss, **labels)(logits, target)
        value = self.value(logits, target, **labels)
        self.parts = LossParts(own.detach(), value.detach())
        return own + self.weight * value


def share_of_errors(logits: Tensor, target: Tensor, **labels: Any) -> Tensor:
    """|W| / N, without a gradient."""
    with torch.no_grad():
        v = voxels(logits, target, **labels)
        n_wrong, n_valid = sum_over_ranks(v.wrong.sum()), sum_over_ranks(v.valid.sum())
        return n_wrong / n_valid.clamp(min=1)


class EntropyOverN(Variant):
    """MEEP-H divided by N instead of |W|, times 100: as large where 1 % of the voxels are wrong."""

    def value(self, logits: Tensor, target: Tensor, **labels: Any) -> Tensor:
        share = share_of_errors(logits, target, **labels)
        return -100 * share * meep_entropy(logits, target, **labels)


class DivergenceOverN(Variant):
    """MEEP-KL divided by N instead of |W|, times 100."""

    def value(self, logits: Tensor, target: Tensor, **labels: Any) -> Tensor:
        share = share_of_errors(logits, target, **labels)
        return 100 * share * meep_kl(logits, target, **labels)


class MeanOfBoth(Variant):
    """Half of each term, at a lambda of 0.4 each with half of its own first lambda."""

    def value(self, logits: Tensor, target: Tensor, **labels: Any) -> Tensor:
        divergence, entropy = (f(logits, target, **labels) for f in (meep_kl, meep_entropy))
        return (0.375 * divergence - entropy) / 2


class DivergenceAboveFloor(Variant):
    """MEEP-KL of the misclassified voxels whose label has a probability above 0.05."""

    def value(self, logits: Tensor, target: Tensor, **labels: Any) -> Tensor:
        v = voxels(logits, target, **labels)
        log_p_label = v.log_p.detach().gather(1, v.label[:, None])[:, 0]
        counted = v.wrong & (log_p_label > math.log(0.05))
        return mean_over(counted, -math.log(v.log_p.shape[1]) - v.log_p.mean(1))


class _WithVariant(MEEPMixin, nnUNetTrainer):
    experiment = parse(f"nnUNetTrainerMEEP_H_lambdaauto{LENGTH}")
    variant: type[Variant]

    def _inner_loss(self, own_loss: torch.nn.Module) -> torch.nn.Module:
        loss = super()._inner_loss(own_loss)
        labels = {"ignore_label": loss.ignore_label, "regions": loss.regions}
        return self.variant(loss.segmentation_loss, loss.term, loss.weight, **labels)


#: name between the term and the length: the variant, and the term whose first lambda it has.
VARIANTS = {
    "over_N": {"MEEP_H": EntropyOverN, "MEEP_KL": DivergenceOverN},
    "mean": {"MEEP_H": MeanOfBoth},
    "floor": {"MEEP_KL": DivergenceAboveFloor},
}

for _name, _of_term in VARIANTS.items():
    for _term, _variant in _of_term.items():
        for _seed in SEEDS:
            _trainer = f"nnUNetTrainer{_term}_lambdaauto_{_name}{LENGTH}{_seed}"
            _experiment = parse(f"nnUNetTrainer{_term}_lambdaauto{LENGTH}{_seed}")
            globals()[_trainer] = type(
                _trainer,
                (_WithVariant,),
                {"experiment": _experiment, "variant": _variant, "__module__": __name__},
            )
