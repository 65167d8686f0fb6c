"""Fits to counts against fits on all voxels, and what must hold for every fit."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from nnunet_meep.evaluation.counting.class_counts import count_voxels
from nnunet_meep.posthoc.binary import (
    MAX_TEMPERATURE,
    NothingToLearn,
    WeightedVoxels,
    fit_binary,
)
from nnunet_meep.posthoc.maps import BinaryMap, Platt, Temperature, logit
from nnunet_meep.posthoc.scalings import SCALINGS, BinaryScaling, JointScaling, fit_scaling
from nnunet_meep.posthoc.values import ValueCounts

#: More voxels than cells are divided for: those of a real case.
MANY = 1 << 19
TABLE_1 = ("platt", "isotonic", "temperature")


def map_of(method: str, p: np.ndarray, y: np.ndarray) -> BinaryMap:
    """The map for voxels as ``meep-calib-fit`` counts them."""
    if method == "isotonic":
        counts = ValueCounts()
        for i in range(0, len(p), 1000):
            counts.add(p[i : i + 1000], y[i : i + 1000])
        return fit_binary(method, counts.voxels())
    return fit_binary(method, WeightedVoxels.from_cells(count_voxels(p, y, p > 0.5, 15).cells))


def voxels(kind: str, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, float32, and labels, as networks of several kinds have them."""
    rng = np.random.default_rng(seed)
    background = rng.random(n) < 0.95
    logits = np.where(background, -10, 5) + 4 * rng.normal(size=n)
    sharpness = {"overconfident": 1.5, "saturated": 2.5, "underconfident": 0.5}[kind]
    y = rng.random(n) < expit(logits - 0.5)
    return expit(sharpness * logits).astype(np.float32), y


def on_all_voxels(method: str, p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What scikit-learn (for temperature: scipy) makes of every single voxel."""
    p = p.astype(np.float64)
    if method == "isotonic":
        rank = np.unique(p, return_inverse=True)[1]  # p itself is taken as equal within 1e-15
        return IsotonicRegression().fit(rank, y).predict(rank)
    x = logit(p)
    if method == "platt":
        regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12)
        return regression.fit(x[:, None], y).predict_proba(x[:, None])[:, 1]
    margin = np.where(y, x, -x)
    found = minimize_scalar(
        lambda t: np.logaddexp(0, -margin / t).mean(), bounds=(0.01, 100), method="bounded"
    )
    return expit(x / found.x)


@pytest.mark.parametrize("kind", ["overconfident", "saturated", "underconfident"])
@pytest.mark.parametrize("method", TABLE_1)
@pytest.mark.parametrize("n", [3000, MANY])
def test_the_fit_to_counts_is_that_on_all_voxels(method, kind, n):
    p, y = voxels(kind, n)
    to_counts = map_of(method, p, y)(p.astype(np.float64))
    tolerance = 1e-12 if method == "isotonic" else 1e-4
    assert np.abs(to_counts - on_all_voxels(method, p, y)).mean() < tolerance


def test_the_network_that_was_made_too_sure_is_found_out():
    rng = np.random.default_rng(0)
    logits = 4 * rng.normal(size=MANY)
    y = rng.random(MANY) < expit(logits)
    p = expit(3 * logits)
    assert map_of("temperature", p, y).temperature == pytest.approx(3, rel=0.02)
    platt = map_of("platt", expit(3 * logits - 1), y)
    assert (platt.slope, platt.intercept) == pytest.approx((1 / 3, 1 / 3), abs=0.02)


numbers = st.integers(50, 400)
seeds = st.integers(0, 2**32 - 1)


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some voxels with errors of both kinds, so that every method has something to learn."""
    rng = np.random.default_rng(seed)
    p = expit(rng.normal(rng.normal(), 10 ** rng.uniform(-1, 1), n)).astype(np.float32)
    y = rng.random(n) < rng.random()
    p[:4], y[:4] = [0.1, 0.9, 0.1, 0.9], [True, False, False, True]
    return p, y


@given(numbers, seeds, st.sampled_from(TABLE_1))
def test_the_log_loss_of_the_fitting_set_never_gets_worse(n, seed, method):
    p, y = draw(n, seed)
    after = map_of(method, p, y)(p.astype(np.float64))
    # The cells are divided: p of one are the same to 5e-5 of their odds.
    assert reference.nll(after, y) <= reference.nll(p.astype(np.float64), y) + 1e-6


@given(numbers, seeds)
def test_isotonic_is_monotone_and_its_training_ece_is_zero(n, seed):
    p, y = draw(n, seed)
    fitted = map_of("isotonic", p, y)
    everywhere = fitted(np.linspace(0, 1, 1001))
    assert (np.diff(everywhere) >= 0).all()
    assert everywhere.min() >= 0
    assert everywhere.max() <= 1
    after = fitted(p.astype(np.float64))
    # Also with a bin for each value that it takes.
    assert reference.ece(after, y, 15) < 1e-3
    assert reference.ece(after, y, 1000) < 1e-3


@given(numbers, seeds, st.sampled_from(TABLE_1))
def test_a_second_fit_changes_nothing(n, seed, method):
    p, y = draw(n, seed)
    first = map_of(method, p, y)
    if method == "temperature":
        assume(first.temperature < 0.9 * MAX_TEMPERATURE)  # there it would like to go on
    once = first(p.astype(np.float64))
    again = map_of(method, once, y)
    np.testing.assert_allclose(again(once), once, atol=2e-3)
    if method == "platt" and np.ptp(logit(once)) > 0.5:
        assert (again.slope, again.intercept) == pytest.approx((1, 0), abs=0.02)


@pytest.mark.parametrize("method", [*TABLE_1, *SCALINGS])
def test_without_voxels_of_the_class_or_of_others_there_is_nothing_to_learn(method):
    p = np.array([0.1, 0.6, 0.9], np.float32)
    with pytest.raises(NothingToLearn, match="no voxels of it"):
        map_of(method, p, np.zeros(3, bool))
    with pytest.raises(NothingToLearn, match="no voxels but those of it"):
        map_of(method, p, np.ones(3, bool))


@pytest.mark.parametrize("method", [*TABLE_1, *SCALINGS])
def test_what_would_get_infinitely_steep_is_not_learnt(method):
    p = np.array([0.1, 0.2, 0.8, 0.9], np.float32)
    y = np.array([False, False, True, True])
    if method == "isotonic":  # a step is a function like others
        assert map_of(method, p, y)(np.array([0.2, 0.8])) == pytest.approx([0, 1])
        return
    reason = "make no error" if method == "temperature" else "separates the two without error"
    with pytest.raises(NothingToLearn, match=reason):
        map_of(method, p, y)


@pytest.mark.parametrize(
    ("p", "y"),
    [
        ([0.1, 0.2, 0.5, 0.5, 0.8, 0.9], [0, 0, 0, 1, 1, 1]),  # both on the border
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]),  # the class is where p is low
        ([0.9, 0.5, 0.5, 0.1], [0, 0, 1, 1]),
    ],
)
def test_neither_is_what_separates_the_two_but_for_the_border_or_the_other_way_round(p, y):
    with pytest.raises(NothingToLearn, match="separates the two without error"):
        map_of("platt", np.array(p, np.float32), np.array(y, bool))


def test_a_temperature_learns_of_errors_though_another_border_would_make_none():
    """It leaves p = 1/2 where it is, on whose wrong side a voxel of the class lies."""
    p, y = np.array([0.1, 0.2, 0.3, 0.9], np.float32), np.array([False, False, True, True])
    assert map_of("temperature", p, y).temperature > 0
    with pytest.raises(NothingToLearn, match="separates the two without error"):
        map_of("platt", p, y)


def test_temperatures_stay_in_their_range():
    p = np.array([0.1, 0.9, 0.1, 0.9], np.float32)
    wrong = np.array([True, False, True, False])
    found = map_of("temperature", p, wrong)
    assert isinstance(found, Temperature)
    assert found.temperature == pytest.approx(MAX_TEMPERATURE, rel=1e-3)


def test_a_platt_fit_may_turn_what_is_upside_down():
    p, y = voxels("overconfident", 3000)
    found = map_of("platt", 1 - p, y)
    assert isinstance(found, Platt)
    assert found.slope < 0


def test_a_weight_is_as_many_voxels():
    pytest.importorskip("fiducio")
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 200).astype(np.float32)
    y = rng.integers(0, 3, 200)
    weight = np.where(y == 0, 8, 1)
    many_p, many_y = np.repeat(p, weight, axis=0), np.repeat(y, weight)

    def loss(fitted: JointScaling) -> float:
        return -np.log(fitted(many_p.T.astype(np.float64))[many_y, np.arange(len(many_y))]).mean()

    for method in SCALINGS:
        weighted = fit_scaling(method, p, y, weight.astype(np.float64))
        repeated = fit_scaling(method, many_p, many_y, np.ones(len(many_y)))
        unweighted = fit_scaling(method, p, y, np.ones(len(y)))
        assert loss(weighted) == pytest.approx(loss(repeated), abs=1e-4)
        assert loss(weighted) < loss(unweighted) - 0.01


@pytest.mark.parametrize("method", SCALINGS)
def test_scalings_over_cells_are_those_on_all_voxels(method):
    pytest.importorskip("fiducio")
    p, y = voxels("overconfident", 20_000)
    over_cells = map_of(method, p, y)
    both = np.stack([1 - p, p], axis=1)
    on_voxels = BinaryScaling(fit_scaling(method, both, y.astype(np.intp), np.ones(len(p))))
    probe = p.astype(np.float64)
    assert np.abs(over_cells(probe) - on_voxels(probe)).mean() < 1e-3
    assert reference.nll(over_cells(probe), y) <= reference.nll(probe, y)


@settings(max_examples=10)
@given(seeds)
def test_the_argmax_scaling_keeps_the_larger_class(seed):
    pytest.importorskip("fiducio")
    p, y = draw(200, seed)
    after = map_of("class-conditional-argmax", p, y)(p.astype(np.float64))
    unsure = np.abs(after - 0.5) < 1e-6
    assert ((after > 0.5) == (p > 0.5))[~unsure].all()
