"""The loss and the length of training that a trainer's name asks for, inside nnU-Net's trainer."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.special import log_softmax
from torch.nn import functional as F

from nnunet_meep import trainers

KINDS = ("labels", "labels+ignore", "regions", "regions+ignore")
#: Sizes of the outputs of the five-stage network of the plans, and nnU-Net's weights for them:
#: halved from one to the next, 0 for the last, sum 1.
SIZES = (16, 8, 4, 2)
WEIGHTS = (4 / 7, 2 / 7, 1 / 7, 0.0)
#: name: (segmentation loss, sign and term, lambda)
WITH_TERM = {
    "nnUNetTrainerMEEP_KL": ("DiceCE", +1, "MEEP_KL", 0.3),
    "nnUNetTrainerMEEP_H": ("DiceCE", -1, "MEEP_H", 0.3),
    "nnUNetTrainerMEEP_H_lambda0p75_5epochs": ("DiceCE", -1, "MEEP_H", 0.75),
    "nnUNetTrainerDiceMEEP_KL": ("Dice", +1, "MEEP_KL", 0.5),
    "nnUNetTrainerDiceMEEP_H": ("Dice", -1, "MEEP_H", 0.5),
    "nnUNetTrainerCEMEEP_KL": ("CE", +1, "MEEP_KL", 0.1),
    "nnUNetTrainerCEMEEP_H": ("CE", -1, "MEEP_H", 0.1),
    "nnUNetTrainerCEMEEP_KL_lambda2": ("CE", +1, "MEEP_KL", 2.0),
    "nnUNetTrainerCP": ("DiceCE", -1, "CP", 0.2),
    "nnUNetTrainerDiceCP": ("Dice", -1, "CP", 0.2),
    "nnUNetTrainerCECP_lambda0p5": ("CE", -1, "CP", 0.5),
    "nnUNetTrainerFocalMEEP_KL": ("Focal", +1, "MEEP_KL", 0.1),
    "nnUNetTrainerFocalMEEP_H": ("Focal", -1, "MEEP_H", 0.1),
    "nnUNetTrainerFocalCP": ("Focal", -1, "CP", 0.2),
}
DICE_CE = [
    "nnUNetTrainerDiceCE",
    "nnUNetTrainerDiceCE_5epochs_10iters",
    "nnUNetTrainerMEEP_KL_lambda0",
    "nnUNetTrainerMEEP_H_lambda0_5epochs",
    "nnUNetTrainerCP_lambda0_seed1_paper",
]
DICE = ["nnUNetTrainerDice", "nnUNetTrainerDiceMEEP_KL_lambda0", "nnUNetTrainerDiceMEEP_H_lambda0"]
CE = [
    "nnUNetTrainerCE",
    "nnUNetTrainerCECP_lambda0",
    "nnUNetTrainerCEMEEP_KL_lambda0",
    "nnUNetTrainerCEMEEP_H_lambda0",
]

every_kind = pytest.mark.parametrize("kind", KINDS)


def trainer_class(name):
    return getattr(trainers, name)


def make_scale(kind, size, dimensions=3, ignored=0.3, seed=0):
    """Logits of three channels and a target as nnU-Net's loader gives them."""
    generator = torch.Generator().manual_seed(seed + size)
    space = (size,) * dimensions
    logits = 2 * torch.randn(2, 3, *space, generator=generator)
    mask = torch.rand(2, 1, *space, generator=generator) < ignored
    if kind.startswith("regions"):
        target = torch.rand(2, 3, *space, generator=generator) < 0.4
        target = torch.cat([target, mask], 1) if kind.endswith("ignore") else target
    else:
        target = torch.randint(0, 3, (2, 1, *space), generator=generator)
        target = torch.where(mask, 3, target) if kind.endswith("ignore") else target
        target = target.to(torch.int16)
    return logits.requires_grad_(), target


def make_scales(kind, dimensions=3, **how):
    outputs, targets = zip(
        *(make_scale(kind, size, dimensions, **how) for size in SIZES), strict=True
    )
    return list(outputs), list(targets)


def term_of(name, logits, target, kind):
    """Value and gradient of a term in numpy, float64; written apart from the package."""
    z = logits.detach().double().numpy()
    y = target.numpy().astype(int)
    ignores = kind.endswith("ignore")
    if kind.startswith("regions"):
        channels = z.shape[1]
        valid = np.broadcast_to(y[:, channels:] == 0 if ignores else True, z.shape)
        y = y[:, :channels]
        z = np.stack([np.zeros_like(z), z], -1)  # class 1: inside
    else:
        z = np.moveaxis(z, 1, -1)
        y = y[:, 0]
        valid = (y != 3) if ignores else np.ones(y.shape, bool)
    counted = (z.argmax(-1) != y) & valid
    assert 0 < counted.sum() < valid.sum()
    counted = valid if name == "CP" else counted
    log_p = log_softmax(z, -1)
    p = np.exp(log_p)
    n_classes = z.shape[-1]
    entropy = -(p * log_p).sum(-1)
    if name == "MEEP_KL":
        value = -np.log(n_classes) - log_p.mean(-1)
        gradient = p - 1 / n_classes
    else:
        value = entropy
        gradient = -p * (log_p + entropy[..., None])
    gradient = gradient * counted[..., None] / counted.sum()
    gradient = gradient[..., 1] if kind.startswith("regions") else np.moveaxis(gradient, -1, 1)
    return value[counted].mean(), torch.tensor(gradient)


def segmentation_part(part, compound, logits, target, kind):
    """Dice, CE or their sum from nnU-Net's own pieces."""
    if part == "DiceCE":
        return compound(logits, target)
    mask = None
    if kind == "labels+ignore":
        mask = target != 3
        known = torch.where(mask, target, 0)
    elif kind == "regions+ignore":
        mask = ~target[:, -1:]
        known = target[:, :-1]
    else:
        known = target
    if part == "Focal":
        return focal(logits, known, mask)
    dice = compound.dc(logits, known, loss_mask=mask)
    return dice if part == "Dice" else compound(logits, target) - dice


def focal(logits, target, mask, gamma=2):
    """Of the probability of the truth, from torch's own losses of each voxel."""
    if target.shape == logits.shape:
        losses = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    else:
        losses = F.cross_entropy(logits, target[:, 0].long(), reduction="none")[:, None]
    losses = (1 - (-losses).exp()) ** gamma * losses
    return losses.mean() if mask is None else losses[mask.expand_as(losses)].mean()


@every_kind
@pytest.mark.parametrize(("name", "meaning"), WITH_TERM.items())
def test_loss_is_nnunets_plus_or_minus_lambda_times_the_term_at_every_scale(
    build, name, meaning, kind
):
    part, sign, term, weight = meaning
    loss = build(trainer_class(name), kind)._build_loss()
    nnunet = build(nnUNetTrainer, kind)._build_loss()
    assert loss.weight_factors == nnunet.weight_factors == pytest.approx(WEIGHTS)
    outputs, targets = make_scales(kind)
    value = loss(outputs, targets)
    gradients = torch.autograd.grad(value, outputs[:3])
    references, _ = make_scales(kind)
    expected = 0.0
    for i, (scale_weight, logits, target) in enumerate(
        zip(WEIGHTS, references, targets, strict=True)
    ):
        if not scale_weight:
            continue
        segmentation = segmentation_part(part, nnunet.loss, logits, target, kind)
        term_value, term_gradient = term_of(term, logits, target, kind)
        expected += scale_weight * (segmentation.item() + sign * weight * term_value)
        expected_gradient = torch.autograd.grad(scale_weight * segmentation, logits)[0]
        expected_gradient = expected_gradient + scale_weight * sign * weight * term_gradient
        torch.testing.assert_close(
            gradients[i].double(), expected_gradient.double(), rtol=1e-4, atol=1e-8
        )
    assert value.item() == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("kind", ["labels+ignore", "regions+ignore"])
def test_two_dimensions_and_dice_over_the_batch_are_nnunets_as_well(build, kind):
    loss = build(trainers.nnUNetTrainerMEEP_KL, kind, "2d")._build_loss()
    nnunet = build(nnUNetTrainer, kind, "2d")._build_loss()
    assert nnunet.loss.dc.batch_dice
    outputs, targets = make_scales(kind, dimensions=2)
    terms = [
        weight * term_of("MEEP_KL", logits, target, kind)[0]
        for weight, logits, target in zip(WEIGHTS[:3], outputs, targets, strict=False)
    ]
    expected = nnunet(outputs, targets).item() + 0.3 * sum(terms)
    assert loss(outputs, targets).item() == pytest.approx(expected, rel=1e-6)


@every_kind
@pytest.mark.parametrize("name", DICE_CE)
def test_dice_ce_without_a_term_is_nnunets_own_object_and_value_to_the_last_bit(build, name, kind):
    loss = build(trainer_class(name), kind)._build_loss()
    nnunet = build(nnUNetTrainer, kind)._build_loss()
    assert type(loss) is DeepSupervisionWrapper
    assert type(loss.loss) is (DC_and_CE_loss if "labels" in kind else DC_and_BCE_loss)
    assert_same_to_the_last_bit(loss, nnunet, kind)


@every_kind
@pytest.mark.parametrize(
    ("name", "zero_weight"),
    [(name, "weight_ce") for name in DICE] + [(name, "weight_dice") for name in CE],
)
def test_dice_and_ce_are_nnunets_compound_with_the_other_weight_0(build, name, zero_weight, kind):
    loss = build(trainer_class(name), kind)._build_loss()
    nnunet = build(nnUNetTrainer, kind)._build_loss()
    setattr(nnunet.loss, zero_weight, 0)
    assert_same_to_the_last_bit(loss, nnunet, kind)


def assert_same_to_the_last_bit(loss, reference, kind):
    results = []
    for each in (loss, reference):
        outputs, targets = make_scales(kind)
        value = each(outputs, targets)
        results.append((value, *torch.autograd.grad(value, outputs[:3])))
    for ours, nnunets in zip(*results, strict=True):
        assert torch.equal(ours, nnunets)


@pytest.mark.parametrize("kind", ["labels", "labels+ignore"])
def test_ce_is_torchs_cross_entropy_over_the_voxels_that_are_not_ignored(build, kind):
    loss = build(trainers.nnUNetTrainerCE, kind)._build_loss()
    logits, target = make_scale(kind, 16)
    expected = F.cross_entropy(logits, target[:, 0].long(), ignore_index=3)
    torch.testing.assert_close(loss.loss(logits, target), expected)


@every_kind
@pytest.mark.parametrize("name", [*DICE_CE[:1], *DICE[:1], *CE, *WITH_TERM])
def test_without_deep_supervision_the_loss_is_that_of_the_full_resolution(build, name, kind):
    trainer = build(trainer_class(name), kind)
    scale_loss = trainer._build_loss().loss
    trainer.enable_deep_supervision = False
    loss = trainer._build_loss()
    assert not isinstance(loss, DeepSupervisionWrapper)
    logits, target = make_scale(kind, 8)
    assert torch.equal(loss(logits, target), scale_loss(logits, target))


@pytest.mark.parametrize("kind", ["labels+ignore", "regions+ignore"])
@pytest.mark.parametrize("name", ["nnUNetTrainerDiceCE", "nnUNetTrainerDice", *CE, *WITH_TERM])
def test_a_batch_that_is_ignored_altogether_has_a_backward_without_effect(build, name, kind):
    loss = build(trainer_class(name), kind)._build_loss()
    outputs, targets = make_scales(kind, ignored=2.0)
    value = loss(outputs, targets)
    value.backward()
    assert torch.isfinite(value)
    if name.startswith("nnUNetTrainerCE"):
        assert value == 0
    for logits in outputs[:3]:
        assert logits.grad is not None
        assert not logits.grad.any()


@pytest.mark.parametrize("name", ["nnUNetTrainerCE", "nnUNetTrainerCEMEEP_KL"])
def test_a_scale_that_is_ignored_altogether_leaves_the_others_alone(build, name):
    kind = "labels+ignore"
    loss = build(trainer_class(name), kind)._build_loss()
    outputs, targets = make_scales(kind)
    targets[2] = torch.full_like(targets[2], 3)
    expected = sum(WEIGHTS[i] * loss.loss(outputs[i], targets[i]).item() for i in range(2))
    assert loss(outputs, targets).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("term", ["MEEP_KL", "MEEP_H"])
@every_kind
def test_the_term_turns_a_step_on_a_wrong_confident_voxel_against_its_confidence(build, term, kind):
    logits, target = make_scale(kind, 4, ignored=0.0)
    confident = logits.detach().clone()
    target = torch.zeros_like(target)  # background; no region, nothing ignored
    confident[0, :, 0, 0, 0] = torch.tensor([-4.0, 6.0, -4.0])
    gradients = []
    for name in ("nnUNetTrainerDiceCE", f"nnUNetTrainer{term}"):
        loss = build(trainer_class(name), kind)._build_loss()
        z = confident.clone().requires_grad_()
        loss.loss(z, target).backward()
        gradients.append(z.grad[0, 1, 0, 0, 0])
    assert gradients[1] > gradients[0]


@pytest.mark.parametrize(
    ("options", "epochs", "save_every", "iterations", "validation_iterations"),
    [
        ("", 1000, 50, 250, 50),  # nnU-Net's own
        ("_1epochs", 1, 1, 250, 50),
        ("_50epochs", 50, 2, 250, 50),
        ("_1000epochs", 1000, 50, 250, 50),
        ("_1iters", 1000, 50, 1, 5),
        ("_30iters", 1000, 50, 30, 6),
        ("_100epochs_100iters", 100, 5, 100, 20),
    ],
)
@pytest.mark.parametrize("base", ["nnUNetTrainerMEEP_KL_lambda0p2", "nnUNetTrainerCE"])
def test_options_set_epochs_iterations_and_how_often_a_checkpoint_is_saved(
    build, base, options, epochs, save_every, iterations, validation_iterations
):
    trainer = build(trainer_class(base + options))
    assert trainer.num_epochs == epochs
    assert trainer.save_every == save_every
    assert trainer.num_iterations_per_epoch == iterations
    assert trainer.num_val_iterations_per_epoch == validation_iterations


@pytest.mark.parametrize("kind", ["labels", "regions+ignore"])
def test_everything_but_loss_and_length_is_nnunets(build, kind):
    ours = build(trainers.nnUNetTrainerDiceMEEP_H_lambda0p2_5epochs_10iters, kind)
    nnunets = build(nnUNetTrainer, kind)
    different = {
        key
        for key, value in vars(nnunets).items()
        if not key.startswith("_") and isinstance(value, (bool, int, float, str, type(None)))
        if getattr(ours, key) != value
    }
    assert different <= {
        "num_epochs",
        "save_every",
        "num_iterations_per_epoch",
        "num_val_iterations_per_epoch",
        "output_folder_base",
        "output_folder",
        "log_file",
    }
    overridden = {key for key in dir(nnUNetTrainer) if not key.startswith("__")} & {
        key for each in type(ours).__mro__[:-2] for key in vars(each)
    }
    assert overridden == {
        "_build_loss",
        "configure_optimizers",  # for _paper
        "do_split",  # for _lambdaauto: refuses what nnU-Net warns of
        "get_dataloaders",  # for _fg
        *("initialize", "on_train_epoch_start"),  # for _seed, and the monitor
        # What is logged:
        *("on_train_start", "train_step", "on_train_epoch_end", "on_validation_epoch_start"),
        *("on_validation_epoch_end", "on_epoch_end", "on_train_end"),
        "run_training",  # what cannot be trained is one line
        *("save_checkpoint", "load_checkpoint"),  # whole or not at all; from the same trainer
    }


@every_kind
@pytest.mark.parametrize("name", [*WITH_TERM, "nnUNetTrainerFocal_gamma3"])
def test_float16_logits_with_a_scaled_loss_give_the_gradient_of_float32(build, name, kind):
    loss = build(trainer_class(name), kind)._build_loss()
    scale = 2.0**10  # as nnU-Net's GradScaler, so that small gradients survive in float16
    gradients = []
    for dtype, factor in ((torch.float16, scale), (torch.float32, 1.0)):
        outputs, targets = make_scales(kind)
        outputs = [z.detach().half().to(dtype).requires_grad_() for z in outputs]
        (loss(outputs, targets) * factor).backward()
        gradients.append([z.grad.float() / factor for z in outputs[:3]])
    for half, single in zip(*gradients, strict=True):
        largest = single.abs().max().item()
        assert largest > 0
        torch.testing.assert_close(half, single, rtol=2e-2, atol=2e-3 * largest)


def test_the_class_name_is_the_name_of_the_results_folder(build, tmp_path):
    name = "nnUNetTrainerMEEP_KL_lambda0p2_5epochs_10iters"
    trainer = build(trainer_class(name))
    assert type(trainer).__name__ == type(trainer).__qualname__ == name
    folder = tmp_path / "results" / "Dataset999_Tiny" / f"{name}__nnUNetPlans__3d_fullres"
    assert trainer.output_folder_base == str(folder)
    assert folder.is_dir()


def test_the_signature_is_the_one_that_nnunet_stores_in_checkpoints(build):
    trainer = build(trainers.nnUNetTrainerMEEP_KL)
    expected = ["plans", "configuration", "fold", "dataset_json", "device"]
    assert list(inspect.signature(type(trainer)).parameters) == expected
    assert list(trainer.my_init_kwargs) == expected
    rebuilt = type(trainer)(
        **{**trainer.my_init_kwargs, "plans": {**trainer.my_init_kwargs["plans"], **continued()}}
    )
    assert rebuilt.output_folder == trainer.output_folder


def continued():
    return {"continue_training": False}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CEMEEP_KL_lambda0p5", "CE and MEEP_KL with lambda 0.5."),
        ("Focal_gamma3", "Focal."),
    ],
)
def test_the_class_says_what_it_is(name, said):
    assert trainer_class(f"nnUNetTrainer{name}").__doc__ == f"nnU-Net's trainer with {said}"


def test_a_name_gives_the_same_class_each_time_and_pickles_by_name():
    first = trainers.nnUNetTrainerDiceMEEP_H_lambda0p25_3epochs
    assert trainers.nnUNetTrainerDiceMEEP_H_lambda0p25_3epochs is first
    assert pickle.loads(pickle.dumps(first)) is first
    assert copy.deepcopy(first) is first
    assert issubclass(first, nnUNetTrainer)
    assert trainers.nnUNetTrainerDiceMEEP_H_lambda0p25_2epochs is not first


@pytest.mark.parametrize("name", ["nnUNetTrainerMEEP_KL", "nnUNetTrainerCE"])
def test_deep_supervision_weights_under_ddp_are_nnunets(build, name):
    weights = []
    for each in (trainer_class(name), nnUNetTrainer):
        trainer = build(each, "labels+ignore")
        trainer.is_ddp = True
        weights.append(trainer._build_loss().weight_factors)
    assert weights[0] == weights[1]
    assert weights[0][-1] > 0


@pytest.mark.parametrize("name", ["nnUNetTrainerDiceCE", "nnUNetTrainerMEEP_KL"])
def test_the_dice_that_nnunet_compiles_stays_compiled(build, name, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    trainer = build(trainer_class(name))
    trainer._do_i_compile = lambda: True
    loss = trainer._build_loss()
    assert [module for module in loss.modules() if module in compiled] == compiled
    assert len(compiled) == 1


@pytest.mark.parametrize("kind", ["labels", "labels+ignore"])
def test_label_smoothing_is_that_of_torch_at_every_scale(build, kind):
    trainer = build(trainer_class("nnUNetTrainerCELS_lambda0p1"), kind)
    loss = trainer._build_loss()
    outputs, targets = make_scales(kind)
    value = loss(outputs, targets)
    value.backward()
    gradients = [z.grad.clone() for z in outputs[:3]]
    expected = sum(
        weight * F.cross_entropy(z, y[:, 0].long(), label_smoothing=0.1, ignore_index=3)
        for z, y, weight in zip(outputs, targets, WEIGHTS, strict=True)
    )
    for z in outputs:
        z.grad = None
    expected.backward()
    torch.testing.assert_close(value, expected)
    for z, gradient in zip(outputs, gradients, strict=False):
        torch.testing.assert_close(gradient, z.grad, rtol=1e-5, atol=1e-9)
