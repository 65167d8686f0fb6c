"""Digits that are easily lost in float32, infinite logits, and NaN, in every implementation."""

from __future__ import annotations

import math

import pytest
import torch
from test_closed_form import (
    batch,
    both,
    every_case,
    every_implementation,
    every_term,
    torch_and_triton,
    value_and_gradient,
)


def relative_errors(ours, plain, logits, target) -> torch.Tensor:
    """Of each number of the gradient, relative to autograd in float64."""
    _, gradient = value_and_gradient(ours, logits, target)
    _, exact = value_and_gradient(plain, logits.double(), target)
    return ((gradient - exact) / exact).abs()


@every_implementation
@pytest.mark.parametrize("term", ["MEEP_KL", "MEEP_H"])
def test_the_label_of_sixty_nearly_equal_classes_keeps_its_digits(implementation, term):
    """As minus the sum of the others, its gradient would have 59 times the error."""
    generator = torch.Generator().manual_seed(0)
    logits = 1e-3 * torch.randn(2, 60, 5, 6, generator=generator)
    target = torch.randint(0, 60, (2, 1, 5, 6), generator=generator)
    logits.scatter_(1, target, -0.05)
    ours, plain = both(
        implementation, term=term, n_classes=60, ignore=False, regions=False, weights=(0, 0)
    )
    assert relative_errors(ours, plain, logits, target).gather(1, target).max() < 1e-4


@every_implementation
@pytest.mark.parametrize(("n_classes", "regions"), [(2, False), (3, False), (2, True)])
@pytest.mark.parametrize("right", [False, True])
def test_dice_alone_keeps_its_digits_where_the_network_is_sure(
    implementation, n_classes, regions, right
):
    """1 - p has none left in float32 where p is nearly 1."""
    logits, target = batch(1, (2, 5, 6), n_classes, ignore=False, regions=regions)
    logits /= 3
    if regions:
        logits += torch.where(target == right, 12, -12)
    else:
        sure = target.long() if right else (target.long() + 1) % n_classes
        logits.scatter_add_(1, sure, torch.full_like(logits, 12))
    ours, plain = both(
        implementation,
        term=None,
        n_classes=n_classes,
        ignore=False,
        regions=regions,
        background=True,
        weights=(0, 1),
    )
    errors = relative_errors(ours, plain, logits, target)
    one_logit = regions or (n_classes == 2 and implementation == "torch")
    if not right and not one_logit:  # the wrong class's p is nearly 1, as in nnU-Net's own loss
        errors = errors.gather(1, target.long())
    assert errors.max() < 1e-5


@every_case
@every_term
@torch_and_triton
def test_a_logit_of_minus_infinity_is_the_limit_of_low_ones(
    implementation, term, n_classes, ignore, regions
):
    """Where the prediction is right: a wrong one has an infinite cross-entropy.

    (nnU-Net's own loss is NaN with it in regions.)
    """
    how = {"ignore": ignore, "regions": regions}
    low, target = batch(2, (2, 5, 6), n_classes, **how)
    if regions:
        low[:, :, 0] = torch.where(target[:, :n_classes, 0] > 0, 3.0, -1e4)
        target[:, n_classes:, 0] = False  # none of these is ignored
    else:
        target[:, :, 0] %= n_classes
        low[:, :, 0] = -1e4
        low[:, :, 0].scatter_(1, target[:, :, 0].long(), 3.0)
    infinite = torch.where(low == -1e4, -math.inf, low)
    ours, _ = both(implementation, term=term, n_classes=n_classes, background=True, **how)
    value, gradient = value_and_gradient(ours, infinite, target)
    expected, of_low = value_and_gradient(ours, low, target)
    assert expected.isfinite()
    torch.testing.assert_close((value, gradient), (expected, of_low))


@every_case
@torch_and_triton
@pytest.mark.parametrize("weights", [(1, 0), (0, 1)])
def test_a_nan_among_the_logits_gives_nan(implementation, weights, n_classes, ignore, regions):
    """Whether it is the label's or another one's."""
    how = {"ignore": ignore, "regions": regions}
    logits, target = batch(3, (1, 3, 2), n_classes, **how)
    if regions:
        target[:, n_classes:] = False
    else:
        target %= n_classes
    ours, _ = both(
        implementation, term="MEEP_KL", n_classes=n_classes, background=True, weights=weights, **how
    )
    assert value_and_gradient(ours, logits, target)[0].isfinite()
    for channel in range(n_classes):
        bad = logits.clone()
        bad[0, channel, 1, 1] = math.nan
        value, _ = value_and_gradient(ours, bad, target)
        assert value.isnan()
        assert ours.parts.term.isnan()
