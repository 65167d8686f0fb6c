"""Observe what the loss is called with in training and validation steps, and what it returns.

nnU-Net's steps are not ours to change, and other trainers have their own steps: forward hooks on
the loss see logits and targets, whoever calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nnunet_meep.losses import RegularizedLoss
from nnunet_meep.losses.regularized import LossParts
from nnunet_meep.trainers.loss_choice import made_losses
from nnunet_meep.trainers.monitor import TrainingMonitor, weighted_parts


class LossListener:
    """Passes on what the loss is called with to a monitor.

    Args:
        monitor: adds it up.

    Attributes:
        unforced: indices of the patches of a validation batch that are passed on; those centred on
            foreground do not represent whole images.
        parts: the parts of the loss for the last training batch, even if this batch stops the
            training; None before the first.
    """

    def __init__(self, monitor: TrainingMonitor) -> None:
        self._monitor = monitor
        self.unforced: list[int] = []
        self.parts: LossParts | None = None
        self._hooks: list[RemovableHandle] = []
        self._parts_of_resolutions: list[LossParts] = []
        self._is_training = False
        self._are_parts_known = True
        self._last: tuple[Tensor, Tensor, LossParts] | None = None

    def listen_to(self, loss: nn.Module) -> None:
        """Listen to this loss, and no longer to the previous one, which may be part of it.

        Args:
            loss: a trainer's loss, with or without nnU-Net's deep supervision around it.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        with_term = losses_with_term(loss)  # a trainer of the user may have wrapped it
        self._are_parts_known = len(with_term) < 2
        if len(with_term) == 1:
            note = self._parts_of_resolutions.append
            self._hooks.append(with_term[0].register_forward_hook(lambda m, *_: note(m.parts)))
        self._hooks.append(loss.register_forward_hook(self._on_loss, with_kwargs=True))

    @contextmanager
    def training_step(self) -> Iterator[None]:
        """Context of a training step; the monitor adds the batch at its end.

        By then the memory of the backward pass is free again.
        """
        self._is_training = True
        try:
            yield
            self._add_last()
        finally:
            self._is_training, self._last = False, None

    def leave_out(self) -> None:
        """Leave the batch of this training step out of the monitor's sums."""
        self._last = None

    def _on_loss(
        self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], loss: Tensor
    ) -> None:
        target = named.pop("target", None)
        logits, *others = [*arguments, *named.values()]
        target = others[0] if target is None else target
        if isinstance(logits, list | tuple):  # the full resolution comes first
            logits, target = logits[0], target[0]
        if self._is_training:
            self._add_last()  # if a step calls the loss several times, keep one batch at a time
            self.parts = self._parts(module, loss.detach())
            self._last = logits.detach(), target, self.parts
        else:
            # Immediately, because nnU-Net's validation step changes the target after the loss.
            self._monitor.add_validation(logits[self.unforced], target[self.unforced])
        self._parts_of_resolutions.clear()

    def _parts(self, module: nn.Module, loss: Tensor) -> LossParts:
        unknown = torch.full_like(loss, float("nan"))
        if not self._parts_of_resolutions:
            return LossParts(loss if self._are_parts_known else unknown, unknown)
        supervised = [m for m in module.modules() if isinstance(m, DeepSupervisionWrapper)]
        weights: Sequence[float] = supervised[0].weight_factors if supervised else (1.0,)
        used = [weight for weight in weights if weight]
        if len(used) != len(self._parts_of_resolutions):
            # A step or a loss of the user calls the loss as it likes.
            return LossParts(unknown, unknown)
        return weighted_parts(self._parts_of_resolutions, used)

    def _add_last(self) -> None:
        if self._last is not None:
            self._monitor.add_training(*self._last)
        self._last = None


def losses_with_term(loss: nn.Module) -> list[RegularizedLoss]:
    """The losses with the experiment's term inside a trainer's loss; not those of the user."""
    return [m for m in made_losses(loss) if isinstance(m, RegularizedLoss) and m.term]
