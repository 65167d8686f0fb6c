"""The terms against the equations: values, gradients, bounds, and what counts as an error."""

from __future__ import annotations

import math

import meep_oracle
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.distributions import Bernoulli, Categorical, kl_divergence

from nnunet_meep.losses import confidence_penalty, meep_entropy, meep_kl

TERMS = {"MEEP_KL": meep_kl, "MEEP_H": meep_entropy, "CP": confidence_penalty}
MEEP = ("MEEP_KL", "MEEP_H")
KINDS = ("labels", "labels+ignore", "regions", "regions+ignore")

every_term = pytest.mark.parametrize("name", TERMS)
meep_terms = pytest.mark.parametrize("name", MEEP)
every_kind = pytest.mark.parametrize("kind", KINDS)


def predicted(logits, regions):
    """The label map or the regions that the logits stand for."""
    return (logits > 0) if regions else logits.argmax(1)[:, None]


def term_options(kind, channels):
    """ignore_label and regions as nnU-Net would have them: the ignore label is the highest."""
    return {
        "ignore_label": channels if kind.endswith("ignore") else None,
        "regions": kind.startswith("regions"),
    }


def make_target(wrong, ignored, logits, kind, shift=None):
    """A target with errors exactly where ``wrong``, and ignored voxels where ``ignored``."""
    channels = logits.shape[1]
    regions = kind.startswith("regions")
    prediction = predicted(logits, regions)
    if regions:
        target = (prediction != wrong).astype(np.int64)
        return np.concatenate([target, ignored], 1) if kind.endswith("ignore") else target
    shift = 1 if shift is None else shift
    target = np.where(wrong, (prediction + shift) % channels, prediction)
    return np.where(ignored, channels, target) if kind.endswith("ignore") else target


@st.composite
def batches(draw, kinds=KINDS, errors=("some", "none", "all"), ignored=("some", "none", "all")):
    """(logits, target, options): all shapes and edge cases, with ties between logits."""
    kind = draw(st.sampled_from(kinds))
    regions = kind.startswith("regions")
    channels = draw(st.integers(1, 4) if regions else st.integers(2, 7))
    spatial = draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    shape = (draw(st.integers(1, 3)), channels, *spatial)
    # Halves from a short range: several equal logits in one voxel, also zeros, are common.
    logits = draw(hnp.arrays(np.int64, shape, elements=st.integers(-7, 7))) / 2
    map_shape = shape if regions else (shape[0], 1, *spatial)

    def mask(amount, shape):
        if amount != "some":
            return np.full(shape, amount == "all")
        return draw(hnp.arrays(np.bool_, shape))

    wrong = mask(draw(st.sampled_from(errors)), map_shape)
    ignored_mask = mask(draw(st.sampled_from(ignored)), (shape[0], 1, *spatial))
    shift = (
        1
        if regions
        else draw(hnp.arrays(np.int64, map_shape, elements=st.integers(1, channels - 1)))
    )
    target = make_target(wrong, ignored_mask, logits, kind, shift)
    return logits, target, term_options(kind, channels)


def random_batch(kind, shape=(2, 4, 5, 6), seed=0, spread=3.0):
    """A batch without ties, half of it wrong, a quarter ignored if ``kind`` knows ignore."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=shape) * spread
    map_shape = shape if kind.startswith("regions") else (shape[0], 1, *shape[2:])
    wrong = random.random(map_shape) < 0.5
    ignored = random.random((shape[0], 1, *shape[2:])) < 0.25
    return logits, make_target(wrong, ignored, logits, kind), term_options(kind, shape[1])


def value_and_gradient(name, logits, target, options, dtype=torch.float64):
    z = torch.tensor(logits, dtype=dtype, requires_grad=True)
    value = TERMS[name](z, torch.tensor(target), **options)
    assert value.shape == ()
    value.backward()
    return value.item(), z.grad.double().numpy()


@every_term
@given(batches())
def test_value_and_gradient_are_those_of_the_equation_voxel_by_voxel(name, batch):
    logits, target, options = batch
    value, gradient = value_and_gradient(name, logits, target, options)
    expected_value, expected_gradient = meep_oracle.term(name, logits, target, **options)
    assert value == pytest.approx(expected_value, rel=1e-12, abs=1e-13)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-11, atol=1e-14)
    # not only small: a voxel that is not counted gets nothing
    assert not gradient[~meep_oracle.counted_places(name, logits, target, **options)].any()


@every_term
@every_kind
def test_gradient_agrees_with_finite_differences(name, kind):
    logits, target, options = random_batch(kind, shape=(2, 3, 2, 3))
    z = torch.tensor(logits, requires_grad=True)
    assert meep_oracle.counted("MEEP_H", logits, target, **options)
    assert torch.autograd.gradcheck(lambda z: TERMS[name](z, torch.tensor(target), **options), z)


@given(batches())
def test_entropy_lies_between_0_and_log_k_and_divergence_is_not_negative(batch):
    logits, target, options = batch
    z, y = torch.tensor(logits), torch.tensor(target)
    log_k = math.log(2 if options["regions"] else z.shape[1])
    assert 0 <= meep_entropy(z, y, **options) <= log_k + 1e-12
    assert 0 <= confidence_penalty(z, y, **options) <= log_k + 1e-12
    assert meep_kl(z, y, **options) >= -1e-12


@given(batches(errors=("none",)))
def test_no_error_gives_exactly_zero_with_a_zero_gradient(batch):
    for name in MEEP:
        value, gradient = value_and_gradient(name, *batch)
        assert value == 0.0
        assert not gradient.any()


@every_term
@given(batch=batches(kinds=("labels+ignore", "regions+ignore"), ignored=("all",)))
def test_everything_ignored_gives_exactly_zero_with_a_zero_gradient(name, batch):
    value, gradient = value_and_gradient(name, *batch)
    assert value == 0.0
    assert not gradient.any()


@every_term
@pytest.mark.parametrize("kind", ["labels+ignore", "regions+ignore"])
def test_the_logits_of_ignored_voxels_do_not_matter(name, kind):
    logits, target, options = random_batch(kind)
    ignored = target[:, -1] == (options["ignore_label"] if kind.startswith("labels") else 1)
    assert ignored.any()
    changed = np.where(ignored[:, None], -1e4 * logits, logits)
    value, gradient = value_and_gradient(name, logits, target, options)
    assert value_and_gradient(name, changed, target, options)[0] == value
    assert not gradient[np.broadcast_to(ignored[:, None], gradient.shape)].any()
    assert gradient.any()


@pytest.mark.parametrize("n_classes", range(2, 8))
def test_uniform_errors_have_entropy_log_k_and_divergence_0_and_only_label_0_is_no_error(
    n_classes,
):
    z = torch.full((1, n_classes, 2, 2), 0.7, dtype=torch.float64)
    for label in range(n_classes):
        y = torch.full((1, 1, 2, 2), label)
        entropy = math.log(n_classes) if label else 0.0
        assert meep_entropy(z, y).item() == pytest.approx(entropy, abs=1e-12)
        assert meep_kl(z, y).item() == pytest.approx(0.0, abs=1e-12)


@meep_terms
@pytest.mark.parametrize(
    ("logits", "right"),
    [
        ((3, 3, 1), 0),
        ((3, 1, 3), 0),
        ((1, 3, 3), 1),
        ((1, 2, 3), 2),
        ((-1, -2, -1), 0),
        ((-4, 0, 0), 1),
    ],
)
def test_of_equal_logits_the_first_is_the_prediction(name, logits, right):
    z = torch.tensor(logits, dtype=torch.float64).view(1, 3, 1, 1)
    for label in range(3):
        value = TERMS[name](z, torch.full((1, 1, 1, 1), label))
        # none of these is uniform, so both terms are greater than 0 on an error
        assert (value > 1e-3) == (label != right)


def test_a_region_logit_of_zero_predicts_outside():
    z = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    assert meep_entropy(z, torch.zeros(1, 1, 1, 1), regions=True) == 0
    inside = meep_entropy(z, torch.ones(1, 1, 1, 1), regions=True)
    assert inside.item() == pytest.approx(math.log(2))


@meep_terms
def test_errors_are_counted_over_the_batch_and_not_per_sample(name):
    z = torch.zeros(2, 3, 2, 2, dtype=torch.float64)
    z[0, 0] = 2.0
    z[1, 0] = 6.0
    y = torch.zeros(2, 1, 2, 2, dtype=torch.long)
    y[0, 0, 0, 0] = 1  # one error of the first kind, three of the second
    y[1, 0, :, 0] = 2
    y[1, 0, 0, 1] = 1
    one = TERMS[name](z[:1], y[:1])
    other = TERMS[name](z[1:], y[1:])
    assert not torch.isclose(one, other)
    torch.testing.assert_close(TERMS[name](z, y), (one + 3 * other) / 4)


@meep_terms
@every_kind
def test_correct_voxels_change_neither_value_nor_gradient(name, kind):
    logits, target, options = random_batch(kind)
    regions = options["regions"]
    more = np.random.default_rng(1).normal(size=logits.shape)
    right = np.zeros(more.shape if regions else (more.shape[0], 1, *more.shape[2:]), dtype=bool)
    more_target = make_target(right, np.zeros_like(target[:, :1]), more, kind)
    value, gradient = value_and_gradient(name, logits, target, options)
    padded_value, padded_gradient = value_and_gradient(
        name, np.concatenate([logits, more]), np.concatenate([target, more_target]), options
    )
    assert padded_value == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(padded_gradient[: len(logits)], gradient, rtol=1e-13)
    assert not padded_gradient[len(logits) :].any()


@every_term
def test_a_constant_added_to_all_logits_of_a_voxel_changes_nothing(name):
    logits, target, options = random_batch("labels")
    shift = np.random.default_rng(1).integers(-50, 50, size=(2, 1, 5, 6)).astype(float)
    value, _ = value_and_gradient(name, logits, target, options)
    assert value_and_gradient(name, logits + shift, target, options)[0] == pytest.approx(value)


def test_terms_of_labels_are_those_of_torch_distributions():
    logits, target, _ = random_batch("labels", shape=(2, 5, 6, 7))
    z = torch.tensor(logits)
    wrong = z.argmax(1) != torch.tensor(target)[:, 0]
    of_voxel = Categorical(logits=z.movedim(1, -1))
    uniform = Categorical(logits=torch.zeros_like(of_voxel.logits))
    y = torch.tensor(target)
    divergence = kl_divergence(uniform, of_voxel)
    torch.testing.assert_close(meep_entropy(z, y), of_voxel.entropy()[wrong].mean())
    torch.testing.assert_close(meep_kl(z, y), divergence[wrong].mean())
    torch.testing.assert_close(confidence_penalty(z, y), of_voxel.entropy().mean())


def test_terms_of_regions_are_those_of_torch_distributions_over_pairs_of_voxel_and_region():
    logits, target, options = random_batch("regions+ignore", shape=(2, 3, 6, 7))
    z, y = torch.tensor(logits), torch.tensor(target)
    valid = (y[:, -1:] == 0).expand(z.shape)
    wrong = ((z > 0) != (y[:, :-1] == 1)) & valid
    of_pair = Bernoulli(logits=z)
    divergence = kl_divergence(Bernoulli(logits=torch.zeros_like(z)), of_pair)
    torch.testing.assert_close(meep_entropy(z, y, **options), of_pair.entropy()[wrong].mean())
    torch.testing.assert_close(meep_kl(z, y, **options), divergence[wrong].mean())
    torch.testing.assert_close(confidence_penalty(z, y, **options), of_pair.entropy()[valid].mean())


@every_term
def test_one_region_is_two_classes_with_logits_0_and_z(name):
    logits, target, _ = random_batch("regions", shape=(2, 1, 5, 6))
    z, y = torch.tensor(logits), torch.tensor(target)
    as_labels = TERMS[name](torch.cat([torch.zeros_like(z), z], 1), y)
    torch.testing.assert_close(TERMS[name](z, y, regions=True), as_labels)


@every_term
def test_if_all_is_wrong_the_confidence_penalty_is_the_entropy_of_the_errors(name):
    logits, _, _ = random_batch("labels")
    target = make_target(np.ones((2, 1, 5, 6), bool), False, logits, "labels")
    z, y = torch.tensor(logits), torch.tensor(target)
    torch.testing.assert_close(confidence_penalty(z, y), meep_entropy(z, y), rtol=1e-14, atol=0)


@every_term
@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_of_ten_thousand_give_finite_values_and_gradients(name, kind, dtype):
    random = np.random.default_rng(0)
    logits = random.choice([-1e4, -30.0, 0.0, 30.0, 1e4], size=(2, 3, 4, 5))
    wrong = random.random(logits.shape if "regions" in kind else (2, 1, 4, 5)) < 0.5
    target = make_target(wrong, random.random((2, 1, 4, 5)) < 0.3, logits, kind)
    z = torch.tensor(logits, dtype=dtype, requires_grad=True)
    options = term_options(kind, 3)
    value = TERMS[name](z, torch.tensor(target), **options)
    value.backward()
    assert value.dtype == torch.float32
    assert z.grad.dtype == dtype
    exact = z.detach().double().numpy()
    expected, gradient = meep_oracle.term(name, exact, target, **options)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(z.grad).all()
    step = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 1e-5}[dtype]
    np.testing.assert_allclose(z.grad.double().numpy(), gradient, rtol=step, atol=1e-7)


@every_term
@every_kind
def test_a_nan_gives_nan_wherever_it_is(name, kind):
    """Not a finite value with a gradient of NaN."""
    logits, target, options = random_batch(kind, shape=(1, 3, 2, 2))
    for where in np.ndindex(logits.shape):
        bad = logits.copy()
        bad[where] = np.nan
        value, _ = value_and_gradient(name, bad, target, options)
        assert math.isnan(value), where


@every_term
@every_kind
def test_minus_infinity_in_a_right_voxel_is_the_limit_of_low_logits(name, kind):
    logits, _, options = random_batch(kind)
    low = np.where(logits < np.sort(logits, axis=1)[:, -1:], -1e4, logits)
    if options["regions"]:
        low = np.where(logits < 0, -1e4, logits)
    wrong = np.zeros(low.shape if options["regions"] else (2, 1, 5, 6), bool)
    wrong[..., 0] = True
    low[..., 0] = logits[..., 0]
    target = make_target(wrong, np.zeros((2, 1, 5, 6), bool), low, kind)
    infinite = np.where(low == -1e4, -np.inf, low)
    value, gradient = value_and_gradient(name, infinite, target, options)
    expected, of_low = value_and_gradient(name, low, target, options)
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient, of_low, rtol=1e-12, atol=1e-15)


@every_term
@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_the_value_of_the_same_logits_in_float64(name, kind, dtype):
    logits, target, options = random_batch(kind, shape=(2, 4, 12, 12))
    z = torch.tensor(logits, dtype=dtype)
    exact = z.double().numpy()
    value = TERMS[name](z, torch.tensor(target), **options)
    assert value.dtype == torch.float32
    expected, _ = meep_oracle.term(name, exact, target, **options)
    assert value.item() == pytest.approx(expected, rel=2e-6)


@every_term
@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(name, kind, dtype):
    logits, target, options = random_batch(kind, shape=(2, 4, 12, 12))
    y = torch.tensor(target)
    results = []
    for enabled in (False, True):
        z = torch.tensor(logits, dtype=dtype, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            value = TERMS[name](z, y, **options)
        value.backward()
        results.append((value.detach(), z.grad))
    assert results[1][0].dtype == torch.float32
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-9)


@every_term
def test_a_quarter_of_a_million_voxels_in_float32_keep_five_digits(name):
    logits, target, _ = random_batch("labels", shape=(1, 3, 64, 64, 64))
    y = torch.tensor(target)
    exact = TERMS[name](torch.tensor(logits), y).item()
    assert TERMS[name](torch.tensor(logits).float(), y).item() == pytest.approx(exact, rel=1e-5)


@every_term
@every_kind
def test_the_type_of_the_target_does_not_matter(name, kind):
    logits, target, options = random_batch(kind)
    z = torch.tensor(logits)
    expected, _ = meep_oracle.term(name, logits, target, **options)
    dtypes = [torch.uint8, torch.int8, torch.int16, torch.int64, torch.float16, torch.float32]
    if options["regions"]:
        dtypes.append(torch.bool)
    for dtype in dtypes:
        value = TERMS[name](z, torch.tensor(target).to(dtype), **options)
        assert value.item() == pytest.approx(expected, rel=1e-12), dtype


@every_term
@every_kind
def test_the_layout_in_memory_does_not_matter(name, kind):
    logits, target, options = random_batch(kind)
    z, y = torch.tensor(logits), torch.tensor(target)
    strided = z.movedim(1, -1).contiguous().movedim(-1, 1)
    value = TERMS[name](strided, y.to(memory_format=torch.channels_last), **options)
    torch.testing.assert_close(value, TERMS[name](z, y, **options))


@every_term
@every_kind
def test_neither_logits_nor_target_are_changed(name, kind):
    logits, target, options = random_batch(kind)
    z, y = torch.tensor(logits), torch.tensor(target)
    TERMS[name](z, y, **options)
    assert torch.equal(z, torch.tensor(logits))
    assert torch.equal(y, torch.tensor(target))


@every_term
@pytest.mark.parametrize(
    ("kind", "target_shape"),
    [
        ("labels", (2, 4, 5)),  # no channel axis
        ("labels", (2, 3, 4, 5)),  # one-hot
        ("labels", (1, 1, 4, 5)),  # would broadcast over the batch
        ("labels", (2, 1, 1, 5)),  # would broadcast over space
        ("labels", (2, 1, 5, 4)),
        ("labels", (2, 1, 4, 5, 1)),
        ("labels+ignore", (2, 2, 4, 5)),
        ("regions", (2, 1, 4, 5)),
        ("regions", (2, 4, 4, 5)),  # an ignore mask that nobody announced
        ("regions+ignore", (2, 3, 4, 5)),  # the ignore mask is missing
        ("regions+ignore", (2, 5, 4, 5)),
        ("regions+ignore", (1, 4, 4, 5)),
    ],
)
def test_a_target_that_does_not_fit_is_refused_with_both_shapes(name, kind, target_shape):
    z = torch.zeros(2, 3, 4, 5)
    with pytest.raises(ValueError, match="target") as error:
        TERMS[name](z, torch.zeros(target_shape), **term_options(kind, 3))
    assert str(target_shape) in str(error.value)
    assert str(tuple(z.shape)) in str(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_term
@every_kind
def test_the_gpu_under_float16_autocast_gives_what_the_cpu_gives(name, kind):
    logits, target, options = random_batch(kind, shape=(2, 4, 16, 16, 16))
    results = []
    for device in ("cpu", "cuda"):
        z = torch.tensor(logits).half().to(device).requires_grad_()
        with torch.autocast(device, dtype=torch.float16, enabled=device == "cuda"):
            value = TERMS[name](z, torch.tensor(target, device=device), **options)
        (value * 1024).backward()
        results.append((value.detach().cpu(), z.grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=2e-3, atol=1e-6)
