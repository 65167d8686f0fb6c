"""The losses that are compared, batches for them, and their times."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor

from nnunet_meep.losses import RegularizedLoss
from nnunet_meep.trainers import parse
from nnunet_meep.trainers.loss_choice import choose_loss

#: By device. nnU-Net compiles its Dice on a GPU; "eager" is without.
LOSSES = {
    "cpu": ("nnU-Net", "composed", "ours"),
    "cuda": ("nnU-Net, eager", "nnU-Net", "composed", "ours"),
}
#: Rivals of MEEP, as in the names of their trainers.
RIVALS = ("CP", "LS", "SVLS", "MbLS", "NACL", "mL1ACE", "mL1ACEsoft", "DSCpp")
DTYPES = {"cpu": ("float32",), "cuda": ("float16", "bfloat16")}


@dataclass(frozen=True)
class Case:
    """A batch of (2, K, size, size, size); on a GPU under autocast to ``dtype``."""

    n_classes: int
    device: str
    dtype: str
    size: int
    wrong: bool = False

    def batch(self) -> tuple[Tensor, Tensor]:
        """Logits, right or wrong in nearly all voxels, and a target of blocks of voxels."""
        size = self.size
        generator = torch.Generator().manual_seed(0)
        n_blocks = -(-size // 8)
        target = torch.randint(0, self.n_classes, (2, 1, *(n_blocks,) * 3), generator=generator)
        for axis in (2, 3, 4):
            target = target.repeat_interleave(8, axis).narrow(axis, 0, size)
        logits = torch.randn(2, self.n_classes, size, size, size, generator=generator)
        shift = -4.5 if self.wrong else 4.5
        logits.scatter_add_(1, target, torch.full(target.shape, shift))
        target = target.contiguous().to(self.device, torch.int16)
        return logits.to(self.device, getattr(torch, self.dtype)), target

    def loss(self, name: str) -> torch.nn.Module:
        """nnU-Net's Dice + CE with its trainer's settings, without or with MEEP-KL, or a rival."""
        dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
        own = DC_and_CE_loss(dice, {}, 1, 1, None, MemoryEfficientSoftDiceLoss)
        if self.device == "cuda" and "eager" not in name:
            own.dc = torch.compile(own.dc)
        if name.startswith("nnU-Net"):
            return own
        if name.startswith("composed"):
            return RegularizedLoss(own, "MEEP_KL", 0.3)
        asked = name if name in RIVALS else "MEEP_KL_lambda0p3"
        return choose_loss(
            own,
            parse(f"nnUNetTrainer{asked}"),
            ignore_label=None,
            regions=False,
            n_channels=self.n_classes,
            device=torch.device(self.device),
        )

    def once(self, loss: torch.nn.Module, logits: Tensor, target: Tensor) -> None:
        """Run forward and backward once."""
        with torch.autocast(self.device, getattr(torch, self.dtype), enabled=self.device == "cuda"):
            value = loss(logits, target)
        value.backward()
        logits.grad = None

    def seconds(self, names: tuple[str, ...], n_rounds: int) -> dict[str, list[float]]:
        """Seconds of each run of each loss; the losses run in turn."""
        logits, target = self.batch()
        logits.requires_grad_()
        losses = {name: self.loss(name) for name in names}
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(n_rounds + 1):  # the first one warms up
            for name, loss in losses.items():
                synchronize(self.device)
                start = time.perf_counter()
                self.once(loss, logits, target)
                synchronize(self.device)
                times[name].append(time.perf_counter() - start)
        return {name: values[1:] for name, values in times.items()}


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
