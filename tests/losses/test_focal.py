"""The focal loss against its equation, and against torch and torchvision where these have it."""

from __future__ import annotations

import meep_oracle
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunet_meep.losses import FocalLoss, focal_loss

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
KINDS = ("labels", "labels+ignore", "regions", "regions+ignore")

every_gamma = pytest.mark.parametrize("gamma", GAMMAS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def loss_options(kind, channels):
    """ignore_label and regions as nnU-Net would have them: the ignore label is the highest."""
    return {
        "ignore_label": channels if kind.endswith("ignore") else None,
        "regions": kind.startswith("regions"),
    }


def make_target(label, ignored, channels, kind):
    """A target with these labels (of each region), and ignored voxels where ``ignored``."""
    if not kind.endswith("ignore"):
        return label
    if kind.startswith("regions"):
        return np.concatenate([label, ignored], 1)
    return np.where(ignored, channels, label)


@st.composite
def batches(draw, kinds=KINDS, ignored=("some", "none", "all")):
    """(logits, target, options): all shapes and edge cases."""
    kind = draw(st.sampled_from(kinds))
    regions = kind.startswith("regions")
    channels = draw(st.integers(1, 4) if regions else st.integers(2, 7))
    spatial = draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    shape = (draw(st.integers(1, 3)), channels, *spatial)
    logits = draw(hnp.arrays(np.int64, shape, elements=st.integers(-7, 7))) / 2
    map_shape = shape if regions else (shape[0], 1, *spatial)
    labels = st.integers(0, 1 if regions else channels - 1)
    label = draw(hnp.arrays(np.int64, map_shape, elements=labels))
    amount = draw(st.sampled_from(ignored))
    mask_shape = (shape[0], 1, *spatial)
    mask = np.full(mask_shape, amount == "all")
    if amount == "some":
        mask = draw(hnp.arrays(np.bool_, mask_shape))
    return logits, make_target(label, mask, channels, kind), loss_options(kind, channels)


def random_batch(kind, shape=(2, 4, 5, 6), spread=3.0):
    """A batch of which a quarter is ignored if ``kind`` knows ignore."""
    random = np.random.default_rng(0)
    logits = random.normal(size=shape) * spread
    if kind.startswith("regions"):
        label = random.integers(0, 2, size=shape)
    else:
        label = random.integers(0, shape[1], size=(shape[0], 1, *shape[2:]))
    ignored = random.random((shape[0], 1, *shape[2:])) < 0.25
    return logits, make_target(label, ignored, shape[1], kind), loss_options(kind, shape[1])


def is_ignored(target, options):
    """The ignored voxels of a target, (B, 1, *spatial)."""
    return target[:, -1:] == (1 if options["regions"] else options["ignore_label"])


def value_and_gradient(gamma, logits, target, options, dtype=torch.float64):
    z = torch.tensor(logits, dtype=dtype, requires_grad=True)
    value = focal_loss(z, torch.tensor(target), gamma=gamma, **options)
    assert value.shape == ()
    value.backward()
    assert z.grad.dtype == dtype
    return value, z.grad.double().numpy()


@every_gamma
@given(batch=batches())
def test_value_and_gradient_are_those_of_the_equation_voxel_by_voxel(gamma, batch):
    logits, target, options = batch
    value, gradient = value_and_gradient(gamma, logits, target, options)
    expected_value, expected_gradient = meep_oracle.focal(logits, target, gamma, **options)
    assert value.item() == pytest.approx(expected_value, rel=1e-11, abs=1e-14)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-14)


@every_gamma
@every_kind
def test_gradient_agrees_with_finite_differences(gamma, kind):
    logits, target, options = random_batch(kind, shape=(2, 3, 2, 3))
    z, y = torch.tensor(logits, requires_grad=True), torch.tensor(target)
    assert torch.autograd.gradcheck(lambda z: focal_loss(z, y, gamma=gamma, **options), z)


@given(batches())
def test_the_loss_is_not_negative_and_falls_with_gamma(batch):
    logits, target, options = batch
    z, y = torch.tensor(logits), torch.tensor(target)
    values = [focal_loss(z, y, gamma=gamma, **options).item() for gamma in GAMMAS]
    assert values == sorted(values, reverse=True)
    assert values[-1] >= 0
    if values[0]:
        assert len(set(values)) == len(GAMMAS)


@pytest.mark.parametrize("kind", ["labels", "labels+ignore"])
def test_gamma_0_is_the_cross_entropy_of_torch(kind):
    logits, target, options = random_batch(kind)
    value, gradient = value_and_gradient(0.0, logits, target, options)
    z = torch.tensor(logits, requires_grad=True)
    expected = F.cross_entropy(z, torch.tensor(target)[:, 0], ignore_index=logits.shape[1])
    expected.backward()
    torch.testing.assert_close(value, expected)
    np.testing.assert_allclose(gradient, z.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["regions", "regions+ignore"])
def test_gamma_0_is_the_binary_cross_entropy_of_torch_over_pairs_of_voxel_and_region(kind):
    logits, target, options = random_batch(kind)
    value, gradient = value_and_gradient(0.0, logits, target, options)
    z = torch.tensor(logits, requires_grad=True)
    inside = torch.tensor(target[:, : logits.shape[1]]).double()
    valid = torch.ones_like(inside)
    if kind.endswith("ignore"):
        valid *= torch.tensor(~is_ignored(target, options))
    of_pair = F.binary_cross_entropy_with_logits(z, inside, weight=valid, reduction="sum")
    expected = of_pair / valid.sum()
    expected.backward()
    torch.testing.assert_close(value, expected)
    np.testing.assert_allclose(gradient, z.grad.numpy(), rtol=1e-12, atol=1e-15)


@every_gamma
def test_one_region_is_the_sigmoid_focal_loss_of_torchvision(gamma):
    ops = pytest.importorskip("torchvision.ops")
    logits, target, options = random_batch("regions", shape=(2, 1, 5, 6))
    value, gradient = value_and_gradient(gamma, logits, target, options)
    z = torch.tensor(logits, requires_grad=True)
    expected = ops.sigmoid_focal_loss(
        z, torch.tensor(target).double(), alpha=-1, gamma=gamma, reduction="mean"
    )
    expected.backward()
    torch.testing.assert_close(value, expected)
    np.testing.assert_allclose(gradient, z.grad.numpy(), rtol=1e-9, atol=1e-14)


@every_gamma
def test_one_region_is_two_classes_with_logits_0_and_z(gamma):
    logits, target, _ = random_batch("regions", shape=(2, 1, 5, 6))
    z, y = torch.tensor(logits), torch.tensor(target)
    as_labels = focal_loss(torch.cat([torch.zeros_like(z), z], 1), y, gamma=gamma)
    torch.testing.assert_close(focal_loss(z, y, gamma=gamma, regions=True), as_labels)


@every_gamma
@given(batch=batches(kinds=("labels+ignore", "regions+ignore"), ignored=("all",)))
def test_everything_ignored_gives_exactly_zero_with_a_zero_gradient(gamma, batch):
    value, gradient = value_and_gradient(gamma, *batch)
    assert value == 0.0
    assert not gradient.any()


@every_gamma
@pytest.mark.parametrize("kind", ["labels+ignore", "regions+ignore"])
def test_the_logits_of_ignored_voxels_do_not_matter(gamma, kind):
    logits, target, options = random_batch(kind)
    ignored = is_ignored(target, options)
    assert ignored.any()
    changed = np.where(ignored, -1e4 * logits, logits)
    value, gradient = value_and_gradient(gamma, logits, target, options)
    assert value_and_gradient(gamma, changed, target, options)[0] == value
    assert not gradient[np.broadcast_to(ignored, gradient.shape)].any()
    assert gradient.any()


@every_gamma
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "right", "wrong"), [("labels", (1e4, 0), (0, 1e4)), ("regions", (-1e4,), (1e4,))]
)
def test_a_perfectly_sure_right_voxel_has_a_gradient_of_0_and_leaves_that_of_others_alone(
    gamma, dtype, kind, right, wrong
):
    logits = np.stack([right, wrong], -1)[None, :, :, None]
    target = np.zeros((1, 1, 2, 1), dtype=np.int64)
    value, gradient = value_and_gradient(
        gamma, logits, target, loss_options(kind, len(right)), dtype
    )
    assert value.item() == pytest.approx(1e4 / 2, rel=5e-3)  # 1e4 is 9984 in bfloat16
    assert not gradient[:, :, 0].any()
    expected = [-0.5, 0.5] if kind == "labels" else [0.5]
    np.testing.assert_array_equal(gradient[0, :, 1, 0], expected)


@every_gamma
@pytest.mark.parametrize("logit", [4.0, 8.0, 12.0])
def test_a_nearly_sure_right_region_keeps_four_digits_in_float32(gamma, logit):
    logits, target = np.full((1, 1, 1, 1), logit), np.ones((1, 1, 1, 1))
    options = loss_options("regions", 1)
    value, gradient = value_and_gradient(gamma, logits, target, options, torch.float32)
    expected, expected_gradient = meep_oracle.focal(logits, target, gamma, **options)
    assert value.item() == pytest.approx(expected, rel=1e-4, abs=0)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4)


@every_gamma
@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_of_ten_thousand_give_finite_values_and_gradients(gamma, kind, dtype):
    logits, target, options = random_batch(kind)
    random = np.random.default_rng(1)
    logits = random.choice([-1e4, -30.0, 0.0, 30.0, 1e4], size=logits.shape)
    exact = torch.tensor(logits, dtype=dtype).double().numpy()
    value, gradient = value_and_gradient(gamma, logits, target, options, dtype)
    expected, expected_gradient = meep_oracle.focal(exact, target, gamma, **options)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    step = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 1e-5}[dtype]
    np.testing.assert_allclose(gradient, expected_gradient, rtol=step, atol=1e-7)


@every_gamma
@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_the_value_of_the_same_logits_in_float64(gamma, kind, dtype):
    logits, target, options = random_batch(kind)
    value, gradient = value_and_gradient(gamma, logits, target, options, dtype)
    exact = torch.tensor(logits, dtype=dtype).double().numpy()
    expected, expected_gradient = meep_oracle.focal(exact, target, gamma, **options)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5)
    step = {torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    np.testing.assert_allclose(gradient, expected_gradient, rtol=step, atol=1e-6)


@every_gamma
@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(gamma, kind, dtype):
    logits, target, options = random_batch(kind)
    expected = value_and_gradient(gamma, logits, target, options, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(gamma, logits, target, options, dtype)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected[0], rtol=1e-6, atol=0)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gamma", [-1e-9, -2.0, float("-inf"), float("nan")])
def test_a_gamma_that_is_negative_or_no_number_is_refused_with_its_value(gamma):
    z, y = torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match=f"gamma.* {gamma}$"):
        focal_loss(z, y, gamma=gamma)
    with pytest.raises(ValueError, match=f"gamma.* {gamma}$"):
        FocalLoss(gamma)


@pytest.mark.parametrize(
    ("kind", "target_shape"),
    [
        ("labels", (2, 4, 5)),
        ("labels", (2, 1, 1, 5)),
        ("regions", (2, 1, 4, 5)),
        ("regions+ignore", (2, 3, 4, 5)),
    ],
)
def test_a_target_that_does_not_fit_is_refused(kind, target_shape):
    with pytest.raises(ValueError, match="target"):
        focal_loss(torch.zeros(2, 3, 4, 5), torch.zeros(target_shape), **loss_options(kind, 3))


@every_gamma
@every_kind
def test_the_module_is_the_function(gamma, kind):
    logits, target, options = random_batch(kind)
    z, y = torch.tensor(logits), torch.tensor(target)
    module = FocalLoss(gamma, **options)
    assert torch.equal(module(z, y), focal_loss(z, y, gamma=gamma, **options))
    for name, value in {"gamma": gamma, **options}.items():
        assert f"{name}={value}" in repr(module)


def test_the_default_gamma_is_2():
    logits, target, _ = random_batch("labels")
    z, y = torch.tensor(logits), torch.tensor(target)
    expected, _ = meep_oracle.focal(logits, target, 2.0)
    assert focal_loss(z, y).item() == pytest.approx(expected)
    assert FocalLoss()(z, y).item() == pytest.approx(expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_gamma
@every_kind
def test_the_gpu_under_float16_autocast_gives_what_the_cpu_gives(gamma, kind):
    logits, target, options = random_batch(kind, shape=(2, 4, 16, 16, 16))
    results = []
    for device in ("cpu", "cuda"):
        z = torch.tensor(logits).half().to(device).requires_grad_()
        with torch.autocast(device, dtype=torch.float16, enabled=device == "cuda"):
            value = focal_loss(z, torch.tensor(target, device=device), gamma=gamma, **options)
        (value * 1024).backward()
        results.append((value.detach().cpu(), z.grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=2e-3, atol=1e-6)
