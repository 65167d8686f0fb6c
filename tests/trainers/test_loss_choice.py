"""Which code computes a loss: decided in one place, and never silently another loss."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.training.loss.compound_losses import (
    DC_and_BCE_loss,
    DC_and_CE_loss,
    DC_and_topk_loss,
)
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import nn

from nnunet_meep.losses import FocalLoss, RegularizedLoss
from nnunet_meep.losses.compound import ClosedFormLoss, DiceCE
from nnunet_meep.trainers.loss_choice import choose_loss, settings_of
from nnunet_meep.trainers.names import parse

DICE = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": True}
CPU = torch.device("cpu")


def of_labels(dice=DICE, ce=None, ignore_label=None, weights=(1, 2), dice_class=None):
    dice_class = dice_class or MemoryEfficientSoftDiceLoss
    return DC_and_CE_loss(dict(dice), dict(ce or {}), *weights, ignore_label, dice_class)


def of_regions(dice=None, ce=None, ignore=False):
    dice = dice or {**DICE, "do_bg": True}
    return DC_and_BCE_loss(
        dict(ce or {}), dict(dice), 1, 2, ignore, dice_class=MemoryEfficientSoftDiceLoss
    )


def choose(
    own,
    *,
    term="MEEP_KL",
    part="DiceCE",
    ignore_label=None,
    regions=False,
    n_channels=3,
    device=CPU,
):
    experiment = parse(f"nnUNetTrainer{term}_lambda0p3" if term else f"nnUNetTrainer{part}")
    labels = {"ignore_label": ignore_label, "regions": regions}
    return choose_loss(own, experiment, **labels, n_channels=n_channels, device=device)


def test_settings_are_read_from_nnunets_own_loss():
    expected = DiceCE(1, 2, batch_dice=True, background=False, smooth=1e-5, ddp=True)
    assert settings_of(of_labels(), ignore_label=None, regions=False) == expected
    expected = DiceCE(1, 2, batch_dice=True, background=True, smooth=1e-5, ddp=True)
    assert settings_of(of_regions(), ignore_label=None, regions=True) == expected
    compiled = of_labels()
    compiled.dc = torch.compile(compiled.dc)
    assert settings_of(compiled, ignore_label=None, regions=False) is not None


@pytest.mark.parametrize(
    ("own", "how"),
    [
        (of_labels(ce={"label_smoothing": 0.1}), {}),
        (of_labels(ce={"weight": torch.ones(3)}), {}),
        (of_labels(dice_class=SoftDiceLoss), {}),
        (of_labels(ignore_label=3), {}),
        (of_labels(), {"ignore_label": 3}),
        (of_labels(), {"regions": True}),
        (of_regions(), {"regions": False}),
        (of_regions(dice=DICE), {"regions": True}),
        (of_regions(ignore=True), {"regions": True}),
        (of_regions(), {"regions": True, "ignore_label": 3}),
        (of_regions(ce={"pos_weight": torch.ones(3)}), {"regions": True}),
        (FocalLoss(2.0), {}),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "-".join(x),
)
def test_other_losses_are_composed_with_the_term(own, how):
    loss = choose(own, **how)
    assert type(loss) is RegularizedLoss
    assert loss.segmentation_loss is own


class Halved(RobustCrossEntropyLoss):
    def forward(self, input, target):
        return super().forward(input, target) / 2


class Unweighted(nn.Module):
    def forward(self, logits, target):
        return logits.mean()


@pytest.mark.parametrize("ce", [Halved(), Unweighted()])
def test_a_cross_entropy_of_ones_own_is_kept(ce):
    own = of_labels()
    own.ce = ce
    assert choose(own, term=None) is own
    loss = choose(own)
    assert type(loss) is RegularizedLoss
    assert loss.segmentation_loss is own
    with pytest.raises(TypeError, match="LS needs a trainer with nnU-Net's cross-entropy"):
        choose(own, term="LS")


@pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")
def test_nnunets_top_k_loss_is_composed_with_the_term():
    own = DC_and_topk_loss(dict(DICE), {"k": 10})
    assert type(choose(own)) is RegularizedLoss


def test_another_nonlinearity_is_composed_with_the_term():
    own = of_labels()
    own.dc.apply_nonlin = lambda x: softmax_helper_dim1(2 * x)
    assert type(choose(own)) is RegularizedLoss


@pytest.mark.parametrize("ignore", [False, True])
def test_nnunets_own_loss_is_computed_in_closed_form(ignore):
    label = 3 if ignore else None
    assert type(choose(of_labels(ignore_label=label), ignore_label=label)) is ClosedFormLoss
    own = of_regions(ignore=ignore)
    assert type(choose(own, ignore_label=label, regions=True)) is ClosedFormLoss


def test_without_a_term_nnunets_own_loss_computes():
    own = of_labels()
    assert choose(own, term=None) is own


def test_cross_entropy_alone_has_a_gradient_where_all_is_ignored():
    loss = choose(of_labels(ignore_label=3), term=None, part="CE", ignore_label=3)
    assert type(loss) is RegularizedLoss
    logits = torch.zeros((1, 3, 2, 2), requires_grad=True)
    loss(logits, torch.full((1, 1, 2, 2), 3.0)).backward()
    assert not logits.grad.any()


class WithMore(DC_and_CE_loss):
    def forward(self, net_output, target):
        return super().forward(net_output, target) + 100


class Renamed(DC_and_CE_loss):
    """As it is."""


@pytest.mark.parametrize("part", ["Dice", "CE"])
def test_one_part_is_taken_only_of_a_loss_that_has_no_more_parts(part):
    arguments = dict(DICE), {}, 1, 2, None, MemoryEfficientSoftDiceLoss
    with pytest.raises(TypeError, match=f"{part} needs a trainer .* got WithMore"):
        choose(WithMore(*arguments), term=None, part=part)
    assert choose(Renamed(*arguments), term=None, part=part).weight_ce == (part == "CE")


@pytest.mark.parametrize("term", [None, "MEEP_KL"])
@pytest.mark.parametrize("part", ["Dice", "CE"])
def test_one_part_alone_leaves_the_trainers_own_object_as_it_is(part, term):
    own = of_labels()
    loss = choose(own, term=term and f"{part}{term}", part=part)
    assert (own.weight_ce, own.weight_dice) == (1, 2)
    alone = loss.segmentation_loss if term else loss
    expected = (0, 2) if part == "Dice" else (1, 0)
    assert (alone.weight_ce, alone.weight_dice) == expected
    if term:
        assert (loss.settings.weight_ce, loss.settings.weight_dice) == expected


@pytest.mark.parametrize("part", ["CE", "DSCpp"])
def test_one_part_of_another_loss_is_refused(part):
    with pytest.raises(TypeError, match=f"{part} needs a trainer with nnU-Net's Dice \\+ CE loss"):
        choose(nn.CrossEntropyLoss(), term=None, part=part)


@pytest.mark.parametrize("term", ["LS", "NACL", "mL1ACEsoft"])
def test_a_rival_is_added_to_nnunets_own_loss(term):
    own = of_labels(weights=(1, 2))
    loss = choose(own, term=term)
    assert type(loss) is RegularizedLoss
    assert (loss.segmentation_loss, loss.term, loss.weight) == (own, term, 0.3)


def test_the_options_of_a_term_reach_it():
    experiment = parse("nnUNetTrainerDiceMbLS_margin2p5")
    labels = {"ignore_label": None, "regions": False}
    loss = choose_loss(of_labels(), experiment, **labels, n_channels=3, device=CPU)
    assert loss.options == {"margin": 2.5}
    assert loss.segmentation_loss.weight_ce == 0


@pytest.mark.parametrize("regions", [False, True])
def test_dscpp_has_the_settings_of_nnunets_dice(regions):
    own = of_regions() if regions else of_labels()
    loss = choose(own, term=None, part="DSCpp_gamma3", regions=regions)
    expected = {"batch_dice": True, "background": regions, "smooth": 1e-5, "regions": regions}
    assert loss.options == {"gamma": 3.0, "ignore_label": None, **expected}


@pytest.mark.parametrize(
    "own",
    [
        of_labels(ce={"label_smoothing": 0.1}),
        of_labels(ce={"weight": torch.ones(3)}),
        of_labels(weights=(2, 1)),
        FocalLoss(2.0),
    ],
)
def test_a_smoothed_target_needs_nnunets_plain_cross_entropy(own):
    with pytest.raises(
        TypeError, match="LS needs a trainer with nnU-Net's cross-entropy, of weight 1"
    ):
        choose(own, term="LS")


def test_apples_devices_have_no_float64():
    assert type(choose(of_labels(), device=torch.device("mps"))) is RegularizedLoss


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_where_triton_does_not_work_torch_computes_and_says_why():
    loss = choose(of_labels(), device=torch.device("cuda"))
    assert type(loss) is ClosedFormLoss
    assert loss.how.startswith(f"{ClosedFormLoss.how}; no Triton: ")
    assert "\n" not in loss.how


def test_more_classes_than_the_kernels_take_are_for_torch():
    pytest.importorskip("triton", reason="Triton comes with torch on Linux only")
    loss = choose(of_labels(), n_channels=129, device=torch.device("cuda"))
    assert type(loss) is ClosedFormLoss
    assert "129 channels, its kernels are for 128 at most" in loss.how


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("regions", [False, True])
def test_on_a_gpu_the_kernels_compute(regions):
    from nnunet_meep.losses.triton_loss import TritonLoss

    own = of_regions() if regions else of_labels()
    loss = choose(own, regions=regions, device=torch.device("cuda"))
    assert type(loss) is TritonLoss
    assert loss.parts is None
