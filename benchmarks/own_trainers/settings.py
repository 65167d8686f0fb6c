"""Two settings for any trainer of this package, anywhere in its name in front of the seed.

``_Adam1en3``, for cross-entropy alone: with SGD it comes to a Dice of 0.28 in the 2500 iterations
that all other trainings have, and to 0.59 in 5000. The optimiser is that of nnU-Net's own
``nnUNetTrainerAdam1en3`` (AdamW 0.001 with AMSGrad, polynomial decay).

``_bf16``: the network computes in bfloat16 on a CPU. nnU-Net computes in half precision on a GPU
and in float32 on a CPU; on a CPU with AMX a training takes half the time in bfloat16. As on a GPU,
the weights that are learnt stay in float32. The last layers, which make the logits, compute in
float32 too: bfloat16 has three digits, and would round a logit of 8 to 0.03.

For example ``nnUNetTrainerCEMEEP_H_lambdaauto_Adam1en3_50epochs_50iters_bf16_seed1``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import (
    nnUNetTrainerAdam1en3,
)
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_meep.trainers import MEEPMixin, parse


class _InBfloat16(nnUNetTrainer):
    """Its network computes in bfloat16 on a CPU, in training and in prediction."""

    # nnU-Net inspects this signature.
    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        network = nnUNetTrainer.build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
        network.forward = torch.autocast("cpu", torch.bfloat16)(network.forward)
        for layer in network.decoder.seg_layers:
            layer.forward = _in_float32(layer.forward)
        return network.to(memory_format=torch.channels_last_3d)


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def in_float32(features: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(features.float())

    return in_float32


_SETTINGS = {"bf16": _InBfloat16, "Adam1en3": nnUNetTrainerAdam1en3}


def __getattr__(name: str) -> type[nnUNetTrainer]:
    """The trainer of this name, which nnU-Net asks for."""
    parts = name.split("_")
    bases = [base for setting, base in _SETTINGS.items() if setting in parts]
    if not bases:
        raise AttributeError(name)
    experiment = parse("_".join(part for part in parts if part not in _SETTINGS))
    if experiment is None:
        raise AttributeError(name)
    return type(name, (MEEPMixin, *bases), {"experiment": experiment})
