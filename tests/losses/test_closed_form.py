"""The closed forms against the plain composition of nnU-Net's loss and a term.

There are three: in torch, in Triton kernels, and in kernels that leave the sums (as in DDP). On a
machine without a GPU Triton's interpreter runs the kernels (see ``conftest.py``).
"""

from __future__ import annotations

import importlib.util
import itertools
import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunet_meep.losses import RegularizedLoss, blocks
from nnunet_meep.losses.compound import ClosedFormLoss, DiceCE
from nnunet_meep.losses.sums import voxel_sums

TERMS = ("MEEP_KL", "MEEP_H", "CP")
IMPLEMENTATIONS: dict[str, type[ClosedFormLoss]] = {"torch": ClosedFormLoss}
if importlib.util.find_spec("triton"):
    from nnunet_meep.losses import kernels
    from nnunet_meep.losses.triton_loss import TritonLoss

    class TritonSumsLoss(ClosedFormLoss):
        """The kernels' sums, composed in torch."""

        voxel_sums = staticmethod(kernels.voxel_sums)

    IMPLEMENTATIONS |= {"triton": TritonLoss, "triton-sums": TritonSumsLoss}

every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
# The sums of the kernels are the same whoever composes them.
torch_and_triton = pytest.mark.parametrize(
    "implementation", [name for name in IMPLEMENTATIONS if name != "triton-sums"]
)


def both(
    implementation: str = "torch",
    *,
    term: str | None,
    weight: float = 0.3,
    n_classes: int,
    ignore: bool,
    regions: bool,
    batch_dice: bool = False,
    background: bool = False,
    weights: tuple[float, float] = (1, 1),
) -> tuple[ClosedFormLoss, RegularizedLoss]:
    """The closed form, and what it has to be."""
    ignore_label = None if not ignore else 9 if regions else n_classes
    dice = {"batch_dice": batch_dice, "do_bg": background, "smooth": 1e-5, "ddp": False}
    ce, weight_dice = weights
    if regions:
        own = DC_and_BCE_loss({}, dice, ce, weight_dice, ignore, MemoryEfficientSoftDiceLoss)
    else:
        own = DC_and_CE_loss(dice, {}, ce, weight_dice, ignore_label, MemoryEfficientSoftDiceLoss)
    how = DiceCE(ce, weight_dice, batch_dice, background, 1e-5, ddp=False)
    labels = {"ignore_label": ignore_label, "regions": regions}
    weight = weight if term else 0.0
    return (
        IMPLEMENTATIONS[implementation](own, how, term, weight, **labels),
        RegularizedLoss(own, term, weight, **labels),
    )


def batch(
    seed: int,
    shape: tuple[int, ...],
    n_classes: int,
    *,
    ignore: bool,
    regions: bool,
    ties: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and a target as nnU-Net gives them."""
    generator = torch.Generator().manual_seed(seed)
    n, *space = shape
    logits = 3 * torch.randn(n, n_classes, *space, generator=generator)
    if ties:
        logits = logits.round()
    mask = torch.rand(n, 1, *space, generator=generator) < 0.3
    if regions:
        target = torch.rand(n, n_classes, *space, generator=generator) < 0.4
        target = torch.cat([target, mask], 1) if ignore else target
    else:
        target = torch.randint(0, n_classes, (n, 1, *space), generator=generator)
        target = torch.where(mask, n_classes, target) if ignore else target
        target = target.to(torch.int16)
    return logits.to(dtype), target


def value_and_gradient(loss, logits: torch.Tensor, target: torch.Tensor):
    on_gpu = torch.cuda.is_available() and type(loss) is not ClosedFormLoss
    logits = logits.clone().to("cuda" if on_gpu else "cpu").requires_grad_()
    value = loss(logits, target.to(logits.device))
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach().cpu(), gradient.cpu()


def assert_same(loss, reference, logits, target) -> None:
    """To 1e-5 of the reference in float64; of gradients to 1e-5 of the largest one."""
    value, gradient = value_and_gradient(loss, logits, target)
    exact, exact_gradient = value_and_gradient(reference, logits.double(), target)
    assert gradient.dtype == logits.dtype
    assert abs(value.double() - exact) <= 1e-5 * max(1.0, abs(exact))
    scale = exact_gradient.abs().max()
    assert (gradient.double() - exact_gradient).abs().max() <= 1e-5 * scale + 1e-12


EXAMPLE = {
    **{"seed": 0, "shape": (2, 5, 6), "ignore": False, "regions": False},
    **{"batch_dice": False, "weights": (1, 1), "block": 1 << 17},
}


@every_implementation
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    shape=st.lists(st.integers(1, 7), min_size=3, max_size=4).map(tuple),
    n_classes=st.integers(2, 7),
    term=st.sampled_from([None, *TERMS]),
    ignore=st.booleans(),
    regions=st.booleans(),
    ties=st.booleans(),
    batch_dice=st.booleans(),
    background=st.booleans(),
    weights=st.sampled_from([(1, 1), (0, 1), (1, 0), (0.5, 2)]),
    block=st.sampled_from([1, 7, 1 << 17]),
)
# Ties of several classes, and Dice of both of two: whether they are drawn is chance.
@example(**EXAMPLE, n_classes=3, term="MEEP_KL", ties=True, background=False)
@example(**EXAMPLE, n_classes=2, term=None, ties=False, background=True)
# A Dice of 8.5e-4: a sum of 1 - q with q nearly 1.
@example(
    **{**EXAMPLE, "seed": 2621618, "shape": (3, 1, 1), "weights": (0, 1), "block": 1},
    **{"n_classes": 2, "term": None, "ties": False, "background": False},
)
def test_value_and_gradient_are_those_of_the_composition(
    implementation,
    seed,
    shape,
    n_classes,
    term,
    ignore,
    regions,
    ties,
    batch_dice,
    background,
    weights,
    block,
):
    # The sum of p of class 0 is the number of voxels less that of class 1. Where a few voxels are
    # all sure of class 1, hardly a digit of it is right.
    assume(math.prod(shape[1:]) >= 16 or n_classes > 2 or regions or not background)
    logits, target = batch(seed, shape, n_classes, ignore=ignore, regions=regions, ties=ties)
    if ignore and not regions and (target == n_classes).all():
        target[0, 0].view(-1)[0] = 0  # all ignored has a test of its own
    ours, plain = both(
        implementation,
        term=term,
        n_classes=n_classes,
        ignore=ignore,
        regions=regions,
        batch_dice=batch_dice,
        background=background or regions,
        weights=weights,
    )
    old = blocks.BLOCK
    blocks.BLOCK = block
    try:
        assert_same(ours, plain, logits, target)
    finally:
        blocks.BLOCK = old


CASES = list(itertools.product([2, 3], [False, True], [False, True]))
every_case = pytest.mark.parametrize(("n_classes", "ignore", "regions"), CASES)
every_term = pytest.mark.parametrize("term", TERMS)


@every_case
@every_term
def test_gradients_are_right_by_finite_differences(term, n_classes, ignore, regions):
    how = {"ignore": ignore, "regions": regions}
    logits, target = batch(1, (2, 3, 4), n_classes, **how, dtype=torch.float64)
    ours, _ = both(term=term, n_classes=n_classes, background=True, **how)
    assert torch.autograd.gradcheck(lambda z: ours(z, target), logits.requires_grad_())


@every_case
@every_term
@torch_and_triton
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_differs_by_its_own_rounding(
    implementation, dtype, term, n_classes, ignore, regions
):
    how = {"ignore": ignore, "regions": regions}
    logits, target = batch(2, (2, 5, 6, 7), n_classes, **how, dtype=dtype)
    ours, plain = both(implementation, term=term, n_classes=n_classes, background=True, **how)
    value, gradient = value_and_gradient(ours, logits, target)
    exact, exact_gradient = value_and_gradient(plain, logits.double(), target)
    assert value.dtype == torch.float32
    assert value == pytest.approx(float(exact), rel=1e-5)
    # Computed in float32 and rounded once.
    rounded = exact_gradient.float().to(dtype).double()
    smallest = torch.finfo(dtype).smallest_normal
    spacing = torch.finfo(dtype).eps * rounded.abs().clamp(min=smallest)
    spacing += 1e-6 * rounded.abs().max()
    assert ((gradient.double() - exact_gradient).abs() <= spacing).all()


@every_case
@every_term
@torch_and_triton
def test_without_an_error_there_is_no_term(implementation, term, n_classes, ignore, regions):
    how = {"ignore": ignore, "regions": regions}
    logits, target = batch(3, (2, 5, 6), n_classes, **how)
    if regions:
        right = torch.where(target[:, :n_classes], 4.0, -4.0)
    else:
        label = target.long() % n_classes
        right = torch.zeros_like(logits).scatter_(1, label, 5.0)
    ours, plain = both(implementation, term=term, n_classes=n_classes, background=True, **how)
    assert_same(ours, plain, right, target)
    if term != "CP":
        assert ours.parts.term == 0


@every_case
@every_term
@torch_and_triton
def test_a_batch_that_is_ignored_altogether_is_zero_with_a_graph(
    implementation, term, n_classes, ignore, regions
):
    if not ignore:
        return
    how = {"ignore": ignore, "regions": regions}
    logits, target = batch(4, (2, 5, 6), n_classes, **how)
    target[:, -1:] = True if regions else n_classes
    ours, _ = both(
        implementation, term=term, n_classes=n_classes, background=True, **how, weights=(1, 0)
    )
    value, gradient = value_and_gradient(ours, logits, target)
    assert value == 0
    assert not gradient.any()


@every_case
@every_term
@torch_and_triton
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_huge_logits_stay_finite(implementation, dtype, term, n_classes, ignore, regions):
    how = {"ignore": ignore, "regions": regions}
    logits, target = batch(5, (2, 5, 6), n_classes, **how)
    ours, plain = both(implementation, term=term, n_classes=n_classes, background=True, **how)
    logits = (1e4 * logits.sign()).to(dtype)
    value, gradient = value_and_gradient(ours, logits, target)
    exact, _ = value_and_gradient(plain, logits.double(), target)
    assert value == pytest.approx(float(exact), rel=1e-4)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("implementation", "regions"),
    [("torch", False), *((name, True) for name in IMPLEMENTATIONS)],
)
def test_the_small_loss_of_a_sure_voxel_keeps_its_digits(implementation, regions):
    """1 + exp(-20) is 1 in float32. (The kernels take two classes as any other number.)"""
    logits = torch.full((1, 1, 1, 1), 20.0)
    if not regions:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    target = torch.ones(1, 1, 1, 1, dtype=torch.bool if regions else torch.int16)
    how = {"n_classes": logits.shape[1], "ignore": False, "regions": regions}
    ours, _ = both(implementation, term=None, weights=(1, 0), background=True, **how)
    value, _ = value_and_gradient(ours, logits, target)
    assert float(value) == pytest.approx(math.log1p(math.exp(-20)), rel=1e-5, abs=0)


@every_implementation
def test_parts_are_those_of_the_composition(implementation):
    logits, target = batch(6, (2, 5, 6), 3, ignore=True, regions=False)
    ours, plain = both(implementation, term="MEEP_KL", n_classes=3, ignore=True, regions=False)
    for loss in (ours, plain):
        loss(logits, target)
    torch.testing.assert_close(ours.parts[:2], plain.parts[:2])
    assert not ours.parts.term.requires_grad


@every_implementation
def test_lambda_may_change_between_calls(implementation):
    logits, target = batch(7, (2, 5, 6), 3, ignore=False, regions=False)
    ours, plain = both(implementation, term="MEEP_KL", n_classes=3, ignore=False, regions=False)
    for weight in (0.0, 0.7):
        ours.weight = plain.weight = weight
        assert_same(ours, plain, logits, target)


def test_only_the_logits_and_a_few_bytes_a_voxel_are_kept():
    logits, target = batch(8, (1, 40, 40, 40), 16, ignore=False, regions=False)
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        voxel_sums(logits.requires_grad_(), target, term="MEEP_KL")
    inputs = {logits.data_ptr(), target.data_ptr()}
    own = sum(t.nbytes for t in kept if t.data_ptr() not in inputs)
    assert own <= 5 * 40**3


def test_shapes_that_do_not_fit_are_refused():
    ours, _ = both(term="MEEP_KL", n_classes=3, ignore=False, regions=False)
    with pytest.raises(ValueError, match="target: expected a label map of shape"):
        ours(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 5))
