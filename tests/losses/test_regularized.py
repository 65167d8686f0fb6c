"""The composition: sign, weight, and what happens where the segmentation loss has no tensor."""

from __future__ import annotations

import meep_oracle
import numpy as np
import pytest
import torch
from torch import nn

from nnunet_meep.losses import RegularizedLoss

#: The sign with which each term enters the loss: all of them push towards uniform.
SIGNS = {"MEEP_KL": +1, "MEEP_H": -1, "CP": -1}


class Nothing(nn.Module):
    """A segmentation loss of 0 with a graph."""

    def forward(self, logits, target):
        return 0 * logits.sum()


class SquaredLogits(nn.Module):
    def forward(self, logits, target):
        return (logits**2).mean()


class PythonZero(nn.Module):
    """What nnU-Net's cross-entropy returns where every voxel is ignored."""

    def forward(self, logits, target):
        return 0


def batch(regions=False, ignore=False):
    random = np.random.default_rng(3)
    logits = random.normal(size=(2, 3, 4, 5)) * 2
    target = random.integers(0, 2 if regions else 3, size=(2, 3 if regions else 1, 4, 5))
    ignored = random.random((2, 1, 4, 5)) < 0.3
    if ignore and regions:
        target = np.concatenate([target, ignored], 1)
    elif ignore:
        target = np.where(ignored, 3, target)
    return logits, target, {"regions": regions, "ignore_label": 3 if ignore else None}


@pytest.mark.parametrize("term", SIGNS)
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.1, 0.3, 2.5])
def test_loss_is_the_segmentation_loss_plus_or_minus_weight_times_the_term(
    term, regions, ignore, weight
):
    logits, target, options = batch(regions, ignore)
    z = torch.tensor(logits, requires_grad=True)
    loss = RegularizedLoss(SquaredLogits(), term, weight, **options)(z, torch.tensor(target))
    loss.backward()
    value, gradient = meep_oracle.term(term, logits, target, **options)
    sign = SIGNS[term]
    assert loss.item() == pytest.approx((logits**2).mean() + sign * weight * value, rel=1e-12)
    expected_gradient = 2 * logits / logits.size + sign * weight * gradient
    np.testing.assert_allclose(z.grad.numpy(), expected_gradient, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("term", SIGNS)
@pytest.mark.parametrize("label", [1, 2])
def test_a_gradient_step_on_a_wrong_confident_voxel_lowers_its_confidence(term, label):
    z = torch.tensor([4.0, 0.0, -1.0]).view(1, 3, 1, 1).requires_grad_()
    target = torch.full((1, 1, 1, 1), label)
    RegularizedLoss(Nothing(), term, 0.3)(z, target).backward()
    after = z.detach() - z.grad
    assert after.softmax(1).max() < z.softmax(1).max() - 1e-4


@pytest.mark.parametrize("term", SIGNS)
@pytest.mark.parametrize(("logit", "inside"), [(4.0, 0), (-4.0, 1)])
def test_a_gradient_step_on_a_wrong_confident_region_lowers_its_confidence(term, logit, inside):
    z = torch.full((1, 1, 1, 1), logit, requires_grad=True)
    target = torch.full((1, 1, 1, 1), inside)
    RegularizedLoss(Nothing(), term, 0.3, regions=True)(z, target).backward()
    after = z.detach() - z.grad
    assert abs(after.sigmoid() - 0.5) < abs(z.sigmoid() - 0.5) - 1e-4


@pytest.mark.parametrize("term", ["MEEP_KL", "MEEP_H"])
def test_a_right_confident_voxel_keeps_its_confidence(term):
    z = torch.tensor([4.0, 0.0, -1.0]).view(1, 3, 1, 1).requires_grad_()
    RegularizedLoss(Nothing(), term, 0.3)(z, torch.zeros(1, 1, 1, 1)).backward()
    assert not z.grad.any()


def test_without_a_term_it_is_the_segmentation_loss_to_the_last_bit():
    logits, target, _ = batch()
    z = torch.tensor(logits)
    loss = RegularizedLoss(SquaredLogits())(z, torch.tensor(target))
    assert torch.equal(loss, SquaredLogits()(z, None))


@pytest.mark.parametrize("term", [None, *SIGNS])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_python_zero_for_an_ignored_batch_becomes_a_zero_that_hangs_on_the_network(term, dtype):
    z = torch.randn(2, 3, 4, 5, dtype=dtype, requires_grad=True)
    loss = RegularizedLoss(PythonZero(), term, 0.3 if term else 0.0, ignore_label=3)
    value = loss(z, torch.full((2, 1, 4, 5), 3))
    value.backward()
    assert value == 0
    assert z.grad is not None
    assert not z.grad.any()


def test_the_zero_of_an_ignored_batch_is_no_nan_for_infinite_logits():
    z = torch.full((1, 3, 2, 2), torch.inf, requires_grad=True)
    value = RegularizedLoss(PythonZero(), ignore_label=3)(z, torch.full((1, 1, 2, 2), 3))
    value.backward()
    assert value == 0
    assert not z.grad.any()


@pytest.mark.parametrize("term", SIGNS)
def test_a_half_precision_segmentation_loss_does_not_lower_the_precision_of_the_term(term):
    logits, target, _ = batch()
    z = torch.tensor(logits).half().requires_grad_()
    loss = RegularizedLoss(Nothing(), term, 1.0)(z, torch.tensor(target))
    exact, _ = meep_oracle.term(term, z.detach().double().numpy(), target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(SIGNS[term] * exact, rel=1e-5)


@pytest.mark.parametrize("term", SIGNS)
@pytest.mark.parametrize("weight", [0.0, 0.3, 2.5])
def test_the_parts_of_a_call_are_detached_and_make_up_the_loss(term, weight):
    logits, target, options = batch(ignore=True)
    z = torch.tensor(logits, requires_grad=True)
    module = RegularizedLoss(SquaredLogits(), term, weight, **options)
    assert module.parts is None
    loss = module(z, torch.tensor(target))
    segmentation, value, errors = module.parts
    assert errors is None
    assert (module.parts.segmentation, module.parts.term) == (segmentation, value)
    assert not segmentation.requires_grad
    assert not value.requires_grad
    assert segmentation.item() == pytest.approx((logits**2).mean())
    assert value.item() == pytest.approx(meep_oracle.term(term, logits, target, **options)[0])
    torch.testing.assert_close(segmentation + SIGNS[term] * weight * value, loss.detach())


def test_the_parts_are_those_of_the_last_call():
    logits, target, _ = batch()
    module = RegularizedLoss(SquaredLogits(), "MEEP_KL", 0.3)
    for factor in (1, 2):
        module(torch.tensor(factor * logits), torch.tensor(target))
        exact, _ = meep_oracle.term("MEEP_KL", factor * logits, target)
        assert module.parts.segmentation.item() == pytest.approx(factor**2 * (logits**2).mean())
        assert module.parts.term.item() == pytest.approx(exact)


@pytest.mark.parametrize("segmentation_loss", [SquaredLogits(), PythonZero()])
def test_without_a_term_there_are_no_parts(segmentation_loss):
    module = RegularizedLoss(segmentation_loss)
    assert module.parts is None
    module(torch.randn(1, 3, 2, 2), torch.zeros(1, 1, 2, 2))
    assert module.parts is None


def test_the_parts_of_a_batch_that_is_ignored_are_zeros():
    module = RegularizedLoss(PythonZero(), "CP", 0.2, ignore_label=3)
    module(torch.randn(1, 3, 2, 2), torch.full((1, 1, 2, 2), 3))
    assert [part.item() for part in module.parts[:2]] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("term", "weight", "named"),
    [
        ("MEEP", 0.3, "MEEP"),
        ("meep_kl", 0.3, "meep_kl"),
        ("", 0.3, "term"),
        ("MEEP_KL", -0.1, "-0.1"),
        ("MEEP_H", float("nan"), "nan"),
        (None, 0.3, "0.3"),
    ],
)
def test_an_unknown_term_or_a_weight_that_is_none_is_refused_by_name(term, weight, named):
    with pytest.raises(ValueError, match=named):
        RegularizedLoss(Nothing(), term, weight)


def test_a_target_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="target"):
        RegularizedLoss(Nothing(), "MEEP_KL", 0.3)(torch.zeros(1, 3, 4, 5), torch.zeros(1, 4, 5))


def test_the_text_that_nnunet_logs_names_term_and_weight():
    text = repr(RegularizedLoss(Nothing(), "MEEP_KL", 0.25, ignore_label=3))
    for part in ("MEEP_KL", "0.25", "3", "Nothing"):
        assert part in text
