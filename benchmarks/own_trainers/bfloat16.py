"""This package's trainers with the network in bfloat16 on a CPU (``..._bf16``).

nnU-Net computes in half precision on a GPU and in float32 on a CPU. On a CPU with AMX a training
takes half the time in bfloat16. The name is that of any trainer of this package, then ``_bf16``,
then the seed: ``nnUNetTrainerMEEP_H_lambda0p3_50epochs_50iters_bf16_seed1``.

As in nnU-Net on a GPU, the weights that are learnt stay in float32. The last layers, which make the
logits, compute in float32 too: bfloat16 has three digits, and would round a logit of 8 to 0.03.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_meep.trainers import MEEPMixin, parse

_NAME = re.compile(r"(nnUNetTrainer\w+)_bf16(_seed\d+)?")


class _InBfloat16(nnUNetTrainer):
    """Its network computes in bfloat16 on a CPU, in training and in prediction."""

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


def __getattr__(name: str) -> type[nnUNetTrainer]:
    """The trainer of this name, which nnU-Net asks for."""
    match = _NAME.fullmatch(name)
    experiment = match and parse(match[1] + (match[2] or ""))
    if not experiment:
        raise AttributeError(name)
    return type(name, (MEEPMixin, _InBfloat16), {"experiment": experiment})
