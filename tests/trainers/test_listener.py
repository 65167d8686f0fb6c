"""What is logged of a loss, whatever a trainer has put around it."""

from __future__ import annotations

import math

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn

from nnunet_meep.losses import RegularizedLoss, confidence_penalty, meep_kl
from nnunet_meep.trainers.listener import LossListener
from nnunet_meep.trainers.loss_choice import choose_loss
from nnunet_meep.trainers.monitor import TrainingMonitor
from nnunet_meep.trainers.names import parse


class Twice(nn.Module):
    """Calls several losses, and returns twice their sum."""

    def __init__(self, *losses: nn.Module) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, logits, target):
        return 2 * sum(loss(logits, target) for loss in self.losses)


def regularized() -> RegularizedLoss:
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    own = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    experiment = parse("nnUNetTrainerMEEP_KL_lambda0p3")
    labels = {"ignore_label": None, "regions": False}
    device = torch.device("cpu")
    loss = choose_loss(own, experiment, **labels, n_channels=3, device=device)
    assert isinstance(loss, RegularizedLoss)
    return loss


def logged(loss: nn.Module, n_resolutions: int) -> dict[str, float]:
    monitor = TrainingMonitor(2, ignore_label=None, regions=False, device=torch.device("cpu"))
    listener = LossListener(monitor)
    listener.listen_to(loss)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 3, 8, 8, 8, generator=generator) for _ in range(2)][:n_resolutions]
    target = [torch.randint(0, 3, (2, 1, 8, 8, 8), generator=generator).float() for _ in logits]
    with listener.training_step():
        loss(logits, target) if n_resolutions > 1 else loss(logits[0], target[0])
    return monitor.training_values()


@pytest.mark.parametrize("n_resolutions", [1, 2])
def test_the_parts_are_those_of_the_loss_inside(n_resolutions) -> None:
    def supervised(loss: nn.Module) -> nn.Module:
        return DeepSupervisionWrapper(loss, [0.75, 0.25]) if n_resolutions > 1 else loss

    plain = logged(supervised(regularized()), n_resolutions)
    for wrapped in (Twice(supervised(regularized())), supervised(Twice(regularized()))):
        found = logged(wrapped, n_resolutions)
        for key in ("segmentation_loss", "term_value"):
            assert found[key] == pytest.approx(plain[key])


def test_a_loss_may_be_called_with_names_and_may_contain_others_with_terms() -> None:
    """Of a term that the user added, nothing is told apart from the segmentation loss."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, 8, generator=generator)
    target = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=generator).float()
    loss = regularized()
    own = loss.segmentation_loss
    loss = choose_loss(
        RegularizedLoss(own, "CP", weight=0.2),
        parse("nnUNetTrainerMEEP_KL_lambda0p3"),
        **{"ignore_label": None, "regions": False, "n_channels": 3, "device": logits.device},
    )
    monitor = TrainingMonitor(2, ignore_label=None, regions=False, device=logits.device)
    listener = LossListener(monitor)
    listener.listen_to(loss)
    for given in ({"logits": logits, "target": target}, {"target": target, "logits": logits}):
        with listener.training_step():
            loss(**given)
        with listener.training_step():
            loss(logits, target=target)
    values = monitor.training_values()
    of_user = own(logits, target) - 0.2 * confidence_penalty(logits, target)
    assert values["segmentation_loss"] == pytest.approx(of_user.item(), rel=1e-5)
    assert values["term_value"] == pytest.approx(meep_kl(logits, target).item(), rel=1e-5)


class OwnSupervision(nn.Module):
    """A loss of each resolution, without nnU-Net's wrapper."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits, target):
        return sum(self.loss(x, y) for x, y in zip(logits, target, strict=True))


one = regularized()


@pytest.mark.parametrize(
    ("loss", "n_resolutions"),
    [
        (Twice(regularized(), regularized()), 1),
        (Twice(one, one), 1),
        (Twice(*[DeepSupervisionWrapper(one, [0.75, 0.25])] * 2), 2),
        (OwnSupervision(one), 2),
    ],
    ids=["two losses", "one, twice", "one, twice, supervised", "own supervision"],
)
def test_parts_of_several_calls_are_not_known(loss, n_resolutions) -> None:
    found = logged(loss, n_resolutions)
    assert all(math.isnan(found[key]) for key in ("segmentation_loss", "term_value"))
    assert 0 < found["misclassified"] < 1
