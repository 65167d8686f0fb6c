"""The optimisation of the MEEP paper, for the option ``_paper``."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LRScheduler

from nnunet_meep.trainers.grammar import PAPER_DECAY, PAPER_DECAY_EVERY, PAPER_LEARNING_RATE


class StepDecay(LRScheduler):
    """Learning rate ``initial_lr * decay ** (epoch // every)``, in closed form.

    nnU-Net calls ``step(epoch)``, which is deprecated in torch's own schedulers. Like nnU-Net's
    ``PolyLRScheduler``, this one depends on the epoch alone, so a resumed training has the same
    rates.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, initial_lr: float, decay: float, every: int
    ) -> None:
        self.initial_lr = initial_lr
        self.decay = decay
        self.every = every
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Set the learning rate of an epoch (from 0); None: of the next epoch."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        lr = self.initial_lr * self.decay ** (self.last_epoch // self.every)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._last_lr = [lr for _ in self.optimizer.param_groups]


def paper_optimizer(network: torch.nn.Module) -> tuple[torch.optim.Adam, StepDecay]:
    """Adam without weight decay, learning rate 1e-4, x0.85 every 10 epochs."""
    optimizer = torch.optim.Adam(network.parameters(), lr=PAPER_LEARNING_RATE)
    scheduler = StepDecay(optimizer, PAPER_LEARNING_RATE, PAPER_DECAY, PAPER_DECAY_EVERY)
    return optimizer, scheduler
