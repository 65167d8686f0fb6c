"""The rivals of MEEP against their papers' equations, other people's code and numbers on paper."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import rivals_oracle as oracle
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from scipy.optimize import minimize

from nnunet_meep.losses import (
    DSCppLoss,
    RegularizedLoss,
    confidence_penalty,
    dscpp_loss,
    label_smoothing,
    mbls,
    ml1_ace,
    nacl,
    svls,
)

KINDS = ("labels", "labels+ignore", "regions", "regions+ignore")
#: name: (the loss, its oracle)
LOSSES = {
    "LS": (label_smoothing, oracle.label_smoothing),
    "SVLS": (svls, oracle.svls),
    "MbLS": (partial(mbls, margin=1.5), partial(oracle.mbls, margin=1.5)),
    "NACL": (nacl, oracle.nacl),
    "mL1ACE": (ml1_ace, oracle.ml1_ace),
    "mL1ACEsoft": (partial(ml1_ace, soft=True), partial(oracle.ml1_ace, soft=True)),
    "DSCpp": (dscpp_loss, oracle.dscpp),
    "DSCpp, batch": (
        partial(dscpp_loss, gamma=0.5, batch_dice=True, background=True),
        partial(oracle.dscpp, gamma=0.5, batch_dice=True, background=True),
    ),
}
SMOOTHED = ("LS", "SVLS")  # for labels alone
CASES = [
    (name, kind) for name in LOSSES for kind in KINDS if name not in SMOOTHED or "labels" in kind
]
#: The rivals whose lambda the control finds; SVLS has a test of its own.
MONOTONE = {
    "CP": confidence_penalty,
    "LS": label_smoothing,
    "MbLS": partial(mbls, margin=0.5),
    "NACL": nacl,
}
WEIGHTS = (0.0, 0.1, 0.2, 0.4)

WITH_IGNORED = [(name, kind) for name, kind in CASES if kind.endswith("ignore")]

every_case = pytest.mark.parametrize(("name", "kind"), CASES)
every_case_with_ignored = pytest.mark.parametrize(("name", "kind"), WITH_IGNORED)


def random_batch(kind, shape=(2, 3, 3, 4), spread=2.0):
    """Logits in float64, a target of which a third is ignored if ``kind`` says so, and options."""
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    channels, per_voxel = shape[1], (shape[0], 1, *shape[2:])
    ignored = torch.rand(per_voxel, generator=generator) < 1 / 3
    options = {"ignore_label": None, "regions": kind.startswith("regions")}
    if kind.startswith("regions"):
        target = torch.rand(shape, generator=generator) < 0.4
    else:
        target = torch.randint(0, channels, per_voxel, generator=generator)
    if kind.endswith("ignore"):
        options["ignore_label"] = channels
        with_mask = partial(torch.cat, (target, ignored), 1)
        target = with_mask() if options["regions"] else torch.where(ignored, channels, target)
    return logits, target, options


def value_and_gradient(function, logits, *arguments, **options):
    z = logits.clone().requires_grad_()
    value = function(z, *arguments, **options)
    value.backward()
    return value.detach(), z.grad


@every_case
@pytest.mark.parametrize("shape", [(2, 3, 3, 4), (1, 2, 2, 3, 3)])
def test_value_and_gradient_are_those_of_the_equation_voxel_by_voxel(name, kind, shape):
    logits, target, options = random_batch(kind, shape)
    of_ours, of_paper = LOSSES[name]
    value, gradient = value_and_gradient(of_ours, logits, target, **options)
    expected = value_and_gradient(lambda z: of_paper(oracle.Batch(z, target, **options)), logits)
    torch.testing.assert_close(value, expected[0], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-9, atol=1e-13)


# Other people's code


@given(
    seed=st.integers(0, 2**32),
    n_classes=st.integers(2, 6),
    a=st.floats(0, 1),
    ignores=st.booleans(),
)
def test_cross_entropy_with_label_smoothing_is_that_of_torch(seed, n_classes, a, ignores):
    generator = torch.Generator().manual_seed(seed)
    z = 5 * torch.randn((2, n_classes, 3, 3), generator=generator, dtype=torch.float64)
    y = torch.randint(0, n_classes, (2, 1, 3, 3), generator=generator)
    y[0, 0, 0, 0] = ignored = n_classes if ignores else 0

    def smoothed(z):
        plain = F.cross_entropy(z, y[:, 0], ignore_index=ignored if ignores else -100)
        return plain + a * label_smoothing(z, y, ignore_label=ignored if ignores else None)

    def of_torch(z):
        ignore_index = ignored if ignores else -100
        return F.cross_entropy(z, y[:, 0], label_smoothing=a, ignore_index=ignore_index)

    for ours, theirs in zip(
        value_and_gradient(smoothed, z), value_and_gradient(of_torch, z), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.slow  # to import MONAI
@pytest.mark.parametrize("space", [(5, 4), (4, 3, 5)])
def test_nacl_is_that_of_monai_but_for_the_border(space):
    """MONAI fills up with zeros: it gets one more layer, which repeats the border.

    The layer's own logits are its own targets, so that it adds nothing.
    """
    losses = pytest.importorskip("monai.losses")
    generator = torch.Generator().manual_seed(1)
    z = 2 * torch.randn((2, 3, *space), generator=generator)
    y = torch.randint(0, 3, (2, 1, *space), generator=generator)
    outer = torch.nn.functional.pad(y.float(), (1,) * 2 * len(space), mode="replicate")[:, 0].long()
    monai = losses.NACLLoss(classes=3, dim=len(space), alpha=1.0)
    logits = monai.get_constr_target(outer)
    logits[(..., *(slice(1, -1),) * len(space))] = z
    penalty = monai(logits, outer) - F.cross_entropy(logits, outer)
    torch.testing.assert_close(nacl(z, y), penalty * logits.numel() / z.numel())


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_dscpp_with_gamma_1_is_the_dice_of_nnunet(kind, batch_dice, background):
    logits, target, options = random_batch(kind, (2, 4, 5, 6))
    regions, ignore_label = options["regions"], options["ignore_label"]
    own = MemoryEfficientSoftDiceLoss(
        torch.sigmoid if regions else softmax_helper_dim1,
        batch_dice=batch_dice,
        do_bg=background or regions,
        smooth=1e-5,
        ddp=False,
    )
    mask, known = None, target
    if ignore_label is not None:
        mask = ~target[:, -1:] if regions else target != ignore_label
        known = target[:, :-1] if regions else torch.where(mask, target, 0)
    loss = DSCppLoss(1.0, batch_dice=batch_dice, background=background, **options)
    ours = value_and_gradient(loss, logits, target)
    theirs = value_and_gradient(partial(own, loss_mask=mask), logits, known)
    for one, other in zip(ours, theirs, strict=True):  # nnU-Net sums in float32
        torch.testing.assert_close(one, other, check_dtype=False, rtol=1e-5, atol=1e-8)


# Numbers on paper


def test_svls_gives_half_of_a_label_to_the_neighbours_by_their_distance():
    """Around one voxel of class 1, a side weighs e^-1/2, a corner e^-1, the centre as all eight."""
    y = torch.zeros((1, 1, 5, 5))
    y[0, 0, 2, 2] = 1
    _, gradient = value_and_gradient(svls, torch.zeros((1, 2, 5, 5), dtype=torch.float64), y)
    of_class_1 = y.double() - 25 * gradient[:, 1:]  # the derivative is (y - s) / N
    side, corner = 0.0778074, 0.0471926  # 0.6065307 / 7.7952808 and 0.3678794 / 7.7952808
    ring = torch.tensor([[corner, side, corner], [side, 0.5, side], [corner, side, corner]])
    expected = F.pad(ring.double(), (1, 1, 1, 1))[None, None]
    torch.testing.assert_close(of_class_1, expected, rtol=0, atol=1e-6)


def test_mbls_on_paper():
    """max = 12: 0 lies 12 below it and -3 lies 15; beyond 10 that is 2 and 5, a third of 7."""
    z = torch.tensor([12.0, 0.0, -3.0]).view(1, 3, 1, 1)
    assert mbls(z, torch.zeros(1, 1, 1, 1)).item() == pytest.approx(7 / 3)
    # Of a region, 0 and 12: 0 lies 2 beyond, half of 2; the second one is within the margin.
    regions = torch.tensor([-12.0, 7.0]).view(1, 2, 1, 1)
    assert mbls(regions, torch.zeros(1, 2, 1, 1), regions=True).item() == pytest.approx(0.5)


def test_nacl_on_paper():
    """One voxel of class 1 in the middle of 3 x 3: all nine have it as one of nine neighbours."""
    y = torch.zeros((1, 1, 3, 3))
    y[0, 0, 1, 1] = 1
    z = torch.zeros(1, 2, 3, 3)
    assert nacl(z, y).item() == pytest.approx((8 / 9 + 1 / 9) / 2)
    best = torch.tensor([8 / 9, 1 / 9]).view(1, 2, 1, 1).expand(z.shape)
    assert nacl(best, y).item() == pytest.approx(0, abs=1e-7)
    # As a region, 1/9 - 8/9.
    assert nacl(torch.full((1, 1, 3, 3), -7 / 9), y, regions=True).item() == pytest.approx(
        0, abs=1e-7
    )


def of_probabilities(p, y, **options):
    """ml1_ace of one region with these probabilities."""
    z = torch.logit(torch.tensor(p, dtype=torch.float64)).view(1, 1, 1, -1)
    return value_and_gradient(ml1_ace, z, torch.tensor(y).view(z.shape), regions=True, **options)


def test_ml1_ace_on_paper():
    """0.93 and 0.95 share the bin (0.9, 0.95], which has a rate of 1/2; 0.2 ends (0.15, 0.2]."""
    value, gradient = of_probabilities([0.93, 0.95, 0.2], [1, 0, 0])
    assert value.item() == pytest.approx(((0.94 - 0.5) + 0.2) / 2)
    # p' = p (1 - p); two bins, of which the first has two voxels.
    expected = [0.93 * 0.07 / 4, 0.95 * 0.05 / 4, 0.2 * 0.8 / 2]
    assert gradient.flatten().tolist() == pytest.approx(expected)


def test_ml1_ace_with_soft_bins_on_paper():
    """0.94 lies between the centres 0.925 and 0.975, with weights 0.7 and 0.3; 1 has the last."""
    value, _ = of_probabilities([0.94, 0.999], [0, 1], soft=True)
    gaps = [0.94, abs(0.3 * 0.94 - 0.001) / 1.3]
    assert value.item() == pytest.approx(sum(gaps) / 2)


def test_dscpp_on_paper():
    """0.8 inside and 0.4 outside: 1.6 over 1.6 + 0.2^2 + 0.4^2, eight ninths."""
    z = torch.logit(torch.tensor([0.8, 0.4])).view(1, 1, 1, 2)
    y = torch.tensor([1, 0]).view(z.shape)
    assert dscpp_loss(z, y, regions=True, smooth=0).item() == pytest.approx(-8 / 9)


# What all of them have to do


@every_case_with_ignored
def test_everything_ignored_gives_zero_with_a_zero_gradient(name, kind):
    logits, target, options = random_batch(kind)
    target[:, -1] = True if options["regions"] else options["ignore_label"]
    value, gradient = value_and_gradient(LOSSES[name][0], logits, target, **options)
    # Dice of nothing is smooth / smooth.
    assert value == (-1 if name.startswith("DSCpp") else 0)
    assert not gradient.any()


@every_case_with_ignored
def test_the_logits_of_ignored_voxels_do_not_matter(name, kind):
    logits, target, options = random_batch(kind)
    ignored = target[:, -1:] == (1 if options["regions"] else options["ignore_label"])
    value, gradient = value_and_gradient(LOSSES[name][0], logits, target, **options)
    changed = torch.where(ignored, -1e3 * logits, logits)
    assert LOSSES[name][0](changed, target, **options) == value
    assert not gradient[ignored.expand_as(gradient)].any()
    assert gradient.any()


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_finite_values_and_gradients_also_under_autocast(name, kind, dtype):
    """Logits of up to 6e4: in float16, their differences and sums would be infinite."""
    logits, target, options = random_batch(kind)
    logits = torch.where(logits > 2, 6e4, torch.where(logits < -2, -6e4, logits)).to(dtype)
    expected = value_and_gradient(LOSSES[name][0], logits.double(), target, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(LOSSES[name][0], logits, target, **options)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-2, atol=1e-5)


def test_bins_of_millions_of_voxels_are_added_up_exactly():
    """Adding 0.93 to a float32 of a million loses digits, as the error of a bin is a mean."""
    n = 2**21
    z = torch.full((1, 1, n, 1), math.log(0.93 / 0.07))
    y = (torch.arange(n) % 4 == 0).view(z.shape)
    p = torch.sigmoid(z[0, 0, 0, 0]).item()
    assert ml1_ace(z, y, regions=True).item() == pytest.approx(p - 0.25, rel=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_a_probability_that_is_no_number_gives_an_error_that_is_none(soft):
    z = torch.full((1, 2, 2, 2), math.nan)
    assert ml1_ace(z, torch.zeros(1, 1, 2, 2), soft=soft).isnan()


@pytest.mark.parametrize("name", MONOTONE)
def test_more_of_a_term_with_an_automatic_lambda_lowers_confidence(name):
    """Of ten voxels with the same logits, eight have label 0: without a term, p is 0.8."""
    labels = torch.tensor([[0, 0, 0, 1, 0], [0, 2, 0, 0, 0]]).view(1, 1, 2, 5)
    sign = -1 if name == "CP" else 1

    def confidence(weight):
        """The largest probability that minimises cross-entropy and term."""

        def loss(logits):
            z = torch.tensor([logits[0], logits[1], logits[1]]).view(1, 3, 1, 1).expand(1, 3, 2, 5)
            value = F.cross_entropy(z, labels[:, 0]) + sign * weight * MONOTONE[name](z, labels)
            return float(value)  # scipy 1.18 takes no tensors

        best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", tol=1e-9).x
        return 1 / (1 + 2 * math.exp(best[1] - best[0]))

    confidences = [confidence(weight) for weight in WEIGHTS]
    assert confidences[0] == pytest.approx(0.8, abs=1e-5)
    assert all(after < before - 1e-3 for before, after in itertools.pairwise(confidences))
    if name == "LS":
        expected = [0.8 * (1 - a) + a / 3 for a in WEIGHTS]
        assert confidences == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weight", [*WEIGHTS[1:], 1.0, 2.0])
def test_more_of_svls_lowers_the_confidence_that_fits_each_voxel(weight):
    """The cross-entropy and it are least where p is (1 - lambda) y + lambda s."""
    labels = torch.tensor([[0, 1], [2, 0]]).view(1, 1, 2, 2)
    y = F.one_hot(labels[0], 3).movedim(-1, 1).double()
    _, gradient = value_and_gradient(svls, torch.zeros_like(y), labels)
    s = y - 4 * gradient
    assert (s > 0).all()
    best = (1 - weight) * y + weight * s
    assert (best > -1e-15).all()  # up to the largest lambda that the grammar lets it have
    z = best.clamp(min=1e-300).log()
    _, of_both = value_and_gradient(
        lambda z: F.cross_entropy(z, labels[:, 0]) + weight * svls(z, labels), z
    )
    torch.testing.assert_close(of_both, torch.zeros_like(z), rtol=0, atol=1e-12)
    of_label = best.gather(1, labels)
    assert (of_label < 1).all()
    torch.testing.assert_close(of_label, 1 - weight * (1 - s.gather(1, labels)))


def test_more_of_the_calibration_error_may_raise_confidence():
    """Which is why its lambda cannot be found by the control."""
    z = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    _, gradient = value_and_gradient(ml1_ace, z, torch.zeros(1, 1, 1, 1))
    assert (z - gradient).softmax(1).amax() > z.softmax(1).amax()


# What is refused


@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothed_labels_are_no_regions(name):
    logits, target, options = random_batch("regions")
    with pytest.raises(ValueError, match=r"^regions: .* needs classes that exclude each other"):
        LOSSES[name][0](logits, target, **options)


@pytest.mark.parametrize("name", LOSSES)
def test_a_target_that_does_not_fit_is_refused(name):
    with pytest.raises(ValueError, match=r"^target: expected a label map of shape"):
        LOSSES[name][0](torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5))


@pytest.mark.parametrize("wrong", [-1e-9, math.nan])
def test_a_margin_or_a_gamma_that_is_negative_or_no_number_is_refused_with_its_value(wrong):
    z, y = torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match=f"^margin: .* {wrong}$"):
        mbls(z, y, margin=wrong)
    for call in (partial(dscpp_loss, z, y, gamma=wrong), partial(DSCppLoss, wrong)):
        with pytest.raises(ValueError, match=f"^gamma: .* {wrong}$"):
            call()


def test_the_regularised_loss_takes_the_options_of_its_term():
    logits, target, _ = random_batch("labels")
    loss = RegularizedLoss(DSCppLoss(), "MbLS", 0.1, options={"margin": 1.5})
    expected = dscpp_loss(logits, target) + 0.1 * mbls(logits, target, margin=1.5)
    torch.testing.assert_close(loss(logits, target), expected)
    assert "margin=1.5" in repr(loss)
    assert "gamma=2.0" in repr(loss)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_case
def test_the_gpu_under_float16_autocast_gives_what_the_cpu_gives(name, kind):
    logits, target, options = random_batch(kind, (2, 4, 6, 6, 6))
    results = []
    for device in ("cpu", "cuda"):
        z = logits.half().to(device).requires_grad_()
        with torch.autocast(device, dtype=torch.float16, enabled=device == "cuda"):
            value = LOSSES[name][0](z, target.to(device), **options)
        (value * 1024).backward()
        results.append((value.detach().cpu(), z.grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=2e-3, atol=1e-6)
